//! Results out of a test's output: KTAP of any flavour.
//!
//! ```text
//!   ok 1 global.reads                        "global.reads" passes
//!   not ok 2 global.writes                   fails
//!   ok 3 # SKIP no such device               "3" is skipped
//!   ok 4 # XFAIL known not to work           "4" fails, though the program is content
//!   # ok 1 nested                            counts as well: runners put `# ` before the lines of a program
//! ```
//! A name that comes again gets a number. What differs from run to run (addresses, process ids) is replaced.
//!
//! Sources: Linux Documentation/dev-tools/ktap.rst.

use std::collections::BTreeMap;
use std::fmt;

use regex::Regex;
use serde::{Deserialize, Serialize};

/// How one line, or one whole program, ended.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// As it should.
    Pass,
    /// Not so; also an expected failure that came.
    Fail,
    /// It cannot run there.
    Skip,
    /// It did not end in time.
    Timeout,
    /// The guest died.
    Crash,
    /// It never came.
    Missing,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mark::Pass => "pass",
            Mark::Fail => "fail",
            Mark::Skip => "skip",
            Mark::Timeout => "timeout",
            Mark::Crash => "crash",
            Mark::Missing => "missing",
        })
    }
}

/// Reads the results of one program's output, in order.
pub struct Parser {
    line: Regex,
    changing: Regex,
}

impl Parser {
    /// A parser; it has no state.
    pub fn new() -> Parser {
        let regex = |text| Regex::new(text).unwrap_or_else(|e| unreachable!("{e}"));
        Parser {
            line: regex(r"^[#\s]*(not ok|ok)\s+(\d+)?\s*-?\s*(.*)$"),
            changing: regex(r"0x[0-9a-fA-F]+|\b\d{5,}\b|\b\d+\.\d+\b"),
        }
    }

    /// The marks by name.
    pub fn read(&self, output: &str) -> BTreeMap<String, Mark> {
        let mut marks = BTreeMap::new();
        for line in output.lines() {
            let Some(found) = self.line.captures(line.trim_end()) else { continue };
            let number = found.get(2).map_or("", |m| m.as_str());
            let text = found.get(3).map_or("", |m| m.as_str());
            // A sentence that begins with "ok" is no result.
            if number.is_empty() {
                continue;
            }
            let (name, directive) = match text.find('#') {
                Some(at) => (text[..at].trim(), text[at + 1..].trim_start()),
                None => (text.trim(), ""),
            };
            let is_directive = |word: &str| {
                directive.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
            };
            let mark = match &found[1] {
                _ if is_directive("skip") => Mark::Skip,
                "ok" if !is_directive("xfail") => Mark::Pass,
                _ => Mark::Fail,
            };
            let name = if name.is_empty() { number } else { name };
            let name = self.changing.replace_all(name, "N").into_owned();
            let mut unique = name.clone();
            let mut count = 1;
            while marks.contains_key(&unique) {
                count += 1;
                unique = format!("{name} ({count})");
            }
            marks.insert(unique, mark);
        }
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flavour_of_result_is_read() {
        let output = "TAP version 13\n1..4\n# RUN a\nok 1 global.reads\nnot ok 2 global.writes # errno 22\n\
                      ok 3 # SKIP no device\n# not ok 4 - at 0x7fff12\nokay then\nok this is no result\nok 5 global.reads\n\
                      ok 6 # XFAIL in hugetlb\nok 7 reads # XFAIL\n";
        let marks: Vec<_> = Parser::new().read(output).into_iter().collect();
        assert_eq!(
            marks,
            [
                ("3".to_owned(), Mark::Skip),
                ("6".to_owned(), Mark::Fail),
                ("at N".to_owned(), Mark::Fail),
                ("global.reads".to_owned(), Mark::Pass),
                ("global.reads (2)".to_owned(), Mark::Pass),
                ("global.writes".to_owned(), Mark::Fail),
                ("reads".to_owned(), Mark::Fail),
            ]
        );
    }
}
