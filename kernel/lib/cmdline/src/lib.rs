//! The kernel command line: `name` and `name=value` words, and what comes after `--`.
//!
//! Words are separated by white space; double quotes keep it inside a value. `-` and `_` are the same in
//! names. Words that the kernel does not know go to the first process: `name=value` into its environment,
//! others into its arguments, as everything after ` -- ` does.
//!
//! Source: Documentation/admin-guide/kernel-parameters.rst (Linux 7.2).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

/// One word of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param<'a> {
    /// The whole word, without quotes around it.
    pub word: &'a str,
    /// What is before the first `=`, or the whole word.
    pub name: &'a str,
    /// What is after the first `=`, without quotes around it.
    pub value: Option<&'a str>,
}

impl<'a> Param<'a> {
    fn new(word: &'a str) -> Self {
        let word = unquote(word);
        match word.split_once('=') {
            Some((name, value)) => Self { word, name, value: Some(unquote(value)) },
            None => Self { word, name: word, value: None },
        }
    }

    /// Whether the name is `name`, with `-` and `_` the same.
    pub fn is(&self, name: &str) -> bool {
        self.name.len() == name.len()
            && self
                .name
                .bytes()
                .zip(name.bytes())
                .all(|(a, b)| a == b || (a == b'-' || a == b'_') && (b == b'-' || b == b'_'))
    }
}

fn unquote(text: &str) -> &str {
    text.strip_prefix('"').map_or(text, |rest| rest.strip_suffix('"').unwrap_or(rest))
}

/// The words of `line` up to ` -- `.
pub fn params(line: &str) -> impl Iterator<Item = Param<'_>> {
    words(line).take_while(|word| *word != "--").map(Param::new)
}

/// The words of `line` after ` -- `: arguments of the first process.
pub fn init_args(line: &str) -> impl Iterator<Item = &str> {
    words(line).skip_while(|word| *word != "--").skip(1).map(unquote)
}

/// The value of the last `name=value` for `name`; `Some("")` when it stands there without a value.
pub fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    params(line).filter(|param| param.is(name)).last().map(|param| param.value.unwrap_or(""))
}

/// Reads a size: a decimal or `0x` number with an optional suffix `K`, `M`, `G` or `T` (powers of 1024).
pub fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => (text.get(..text.len() - 1)?, 10),
        b'M' => (text.get(..text.len() - 1)?, 20),
        b'G' => (text.get(..text.len() - 1)?, 30),
        b'T' => (text.get(..text.len() - 1)?, 40),
        _ => (text, 0),
    };
    let number = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    number.checked_mul(1 << shift)
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    core::iter::from_fn(move || {
        rest = rest.trim_start();
        if rest.is_empty() {
            return None;
        }
        let mut in_quotes = false;
        let end = rest
            .find(|c: char| {
                in_quotes ^= c == '"';
                c.is_ascii_whitespace() && !in_quotes
            })
            .unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        rest = tail;
        Some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_values_and_quotes() {
        let line = "  quiet console=ttyS0,115200 name=\"a b\" \"x=y z\" -- one \"two three\"";
        let all: Vec<_> = params(line).map(|p| (p.name, p.value)).collect();
        assert_eq!(
            all,
            [("quiet", None), ("console", Some("ttyS0,115200")), ("name", Some("a b")), ("x", Some("y z"))]
        );
        assert_eq!(init_args(line).collect::<Vec<_>>(), ["one", "two three"]);
    }

    #[test]
    fn the_last_value_counts_and_dashes_are_underscores() {
        assert_eq!(value("panic=1 panic=2", "panic"), Some("2"));
        assert_eq!(value("log-level=3", "log_level"), Some("3"));
        assert_eq!(value("quiet", "quiet"), Some(""));
        assert_eq!(value("quiet", "panic"), None);
    }

    #[test]
    fn sizes_have_suffixes_and_do_not_overflow() {
        assert_eq!(size("512M"), Some(512 << 20));
        assert_eq!(size("0x10k"), Some(16 << 10));
        assert_eq!(size("99999999999T"), None);
        assert_eq!(size(""), None);
        assert_eq!(size("M"), None);
    }

    #[test]
    fn random_lines_fall_into_words_of_their_own() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as usize
        };
        let pieces = [
            "a", "mem", "=", "\"", " ", "\t", "--", "-", "_", "0x", "17", "K", "T", "\u{e9}", "\u{2003}",
            "\0",
        ];
        for _ in 0..100_000 {
            let line: String = (0..random() % 24).map(|_| pieces[random() % pieces.len()]).collect();
            for param in params(&line) {
                assert!(line.contains(param.word) && param.word.starts_with(param.name), "{line:?}");
                assert!(param.value.is_none_or(|value| param.word.contains(value)), "{line:?}");
                let _ = size(param.value.unwrap_or(param.name));
                assert!(value(&line, param.name).is_some(), "{line:?}");
            }
            assert!(init_args(&line).all(|word| line.contains(word)), "{line:?}");
        }
    }
}
