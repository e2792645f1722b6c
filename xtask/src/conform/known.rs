//! The list of known differences: `conformance.toml`.
//!
//! ```toml
//! [[difference]]
//! test = "kselftest/ptrace/*"          # a program's full name, in which `*` stands for any characters
//! lines = ["get_syscall_info.*"]       # its lines; without them the whole program
//! reason = "ptrace(2) lacks PTRACE_GET_SYSCALL_INFO"
//! flaky = true                         # may also be no difference, e.g. where time decides
//! ```
//! An entry without a difference is an error too, so that the list stays true.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::results::Results;
use crate::paths;
use crate::test::known::matches;

/// Where the list is, relative to the repository.
pub const PATH: &str = "conformance.toml";
/// The reason that `--update` gives.
pub const UNEXPLAINED: &str = "not looked into yet";
/// A program with more differing lines than this is listed as a whole.
const MOST_LINES: usize = 40;
/// What the file begins with.
const HEAD: &str = "# Where Keel is known to differ from Linux 7.2, found by `cargo xtask conform`, refreshed by its --update.\n\
                    # xtask/src/conform/known.rs explains the format.\n";

/// The list.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    #[serde(default)]
    difference: Vec<Entry>,
}

/// One reason and what it explains.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    test: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lines: Vec<String>,
    reason: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    flaky: bool,
}

impl Entry {
    fn covers(&self, test: &str, line: &str) -> bool {
        matches(&self.test, test) && (self.lines.is_empty() || self.lines.iter().any(|l| matches(l, line)))
    }
}

/// How a run and the list disagree.
#[derive(Debug, Default)]
pub struct Verdict {
    /// `test: line (mark)` of differences that no entry covers, by test.
    pub new: BTreeMap<String, Vec<String>>,
    /// Entries, or lines of them, without a difference.
    pub stale: Vec<String>,
    /// Number of differences that entries cover.
    pub known: usize,
}

impl Known {
    /// Reads the list; there may be none.
    pub fn read() -> Result<Known> {
        match fs::read_to_string(paths::repo().join(PATH)) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("{PATH} is not valid")),
            Err(_) => Ok(Known::default()),
        }
    }

    /// Each entry's program and reason, in the order of the file.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.difference.iter().map(|entry| (entry.test.as_str(), entry.reason.as_str()))
    }

    /// Holds the list against a run. Only entries whose programs were all run can be stale.
    pub fn judge(&self, results: &Results) -> Verdict {
        let mut verdict = Verdict::default();
        let mut used: BTreeSet<(usize, usize)> = BTreeSet::new();
        for (test, program) in &results.programs {
            for difference in program.differences() {
                let mut covered = false;
                for (idx, entry) in self.difference.iter().enumerate() {
                    if entry.covers(test, &difference.line) {
                        covered = true;
                        used.insert((idx, usize::MAX));
                        let lines = entry.lines.iter().enumerate();
                        used.extend(
                            lines.filter(|(_, l)| matches(l, &difference.line)).map(|(n, _)| (idx, n)),
                        );
                    }
                }
                if covered {
                    verdict.known += 1;
                } else {
                    let text = format!(
                        "{}: {} on Linux, {} on Keel",
                        difference.line, difference.linux, difference.keel
                    );
                    verdict.new.entry(test.clone()).or_default().push(text);
                }
            }
        }
        for (idx, entry) in self.difference.iter().enumerate().filter(|(_, e)| !e.flaky) {
            if !Self::was_run(entry, results) {
                continue;
            }
            if !used.contains(&(idx, usize::MAX)) {
                verdict.stale.push(format!("{}: {}", entry.test, entry.reason));
                continue;
            }
            let unused = entry.lines.iter().enumerate().filter(|(n, _)| !used.contains(&(idx, *n)));
            verdict.stale.extend(unused.map(|(_, line)| format!("{}: {line}", entry.test)));
        }
        verdict
    }

    fn was_run(entry: &Entry, results: &Results) -> bool {
        // A pattern speaks of programs that a partial run may not have: only exact names are judged then.
        if entry.test.contains('*') && !results.is_whole {
            return false;
        }
        let mut found = results.programs.iter().filter(|(test, _)| matches(&entry.test, test)).peekable();
        found.peek().is_some() && found.all(|(_, p)| p.linux.is_some() && p.keel.is_some())
    }

    /// Adds what is new, drops what is stale, keeps reasons, and writes the file.
    pub fn update(mut self, results: &Results) -> Result<()> {
        let stale: BTreeSet<String> = self.judge(results).stale.into_iter().collect();
        for entry in &mut self.difference {
            let test = entry.test.clone();
            entry.lines.retain(|line| !stale.contains(&format!("{test}: {line}")));
        }
        self.difference.retain(|e| !stale.contains(&format!("{}: {}", e.test, e.reason)));
        let uncovered = |known: &Known, test: &str, line: &str| {
            !known.difference.iter().any(|entry| entry.covers(test, line))
        };
        for (test, program) in &results.programs {
            let all = program.differences();
            let mut lines: Vec<String> =
                all.iter().filter(|d| uncovered(&self, test, &d.line)).map(|d| d.line.clone()).collect();
            if lines.is_empty() {
                continue;
            }
            let passes = program.counts().keel > 0;
            if lines.len() > MOST_LINES || (lines.len() == all.len() && !passes) {
                lines.clear();
            }
            self.difference.push(Entry {
                test: test.clone(),
                lines,
                reason: UNEXPLAINED.to_owned(),
                flaky: false,
            });
        }
        self.difference.sort_by(|a, b| a.test.cmp(&b.test));
        let text = format!("{HEAD}\n{}", toml::to_string_pretty(&self)?);
        fs::write(paths::repo().join(PATH), text).with_context(|| format!("{PATH} cannot be written"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conform::guest::Ending;
    use crate::conform::ktap::Mark;
    use crate::conform::results::Program;

    fn results(keel: Mark) -> Results {
        let ending = |mark| Some(Ending { mark: Some(mark), ..Ending::default() });
        let mut results = Results { is_whole: true, ..Results::default() };
        let program = Program { linux: ending(Mark::Pass), keel: ending(keel) };
        results.programs.insert("k/d/p".to_owned(), program);
        results
    }

    #[test]
    fn a_difference_is_new_known_or_gone() {
        let known: Known = toml::from_str("[[difference]]\ntest = 'k/d/*'\nreason = 'r'\n").unwrap();
        assert_eq!(Known::default().judge(&results(Mark::Fail)).new.len(), 1);
        let verdict = known.judge(&results(Mark::Fail));
        assert!(verdict.new.is_empty() && verdict.stale.is_empty() && verdict.known == 1);
        assert_eq!(known.judge(&results(Mark::Pass)).stale, ["k/d/*: r"]);
    }
}
