//! Tests that are known to fail: `user/tests/known-failures.toml`.
//!
//! ```toml
//! [[failure]]
//! name = "user/keel-*/mm::uses_userfaultfd"     # a full name, in which `*` stands for any characters
//! reason = "userfaultfd(2) is missing"
//! flaky = true        # may also pass; without it a pass is an error, so that the list stays true
//! skip = true         # not run at all, where a failure costs too much
//! ```

use std::fs;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::paths;

/// Where the list is, relative to the repository.
pub const PATH: &str = "user/tests/known-failures.toml";

/// The list.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    #[serde(default)]
    failure: Vec<Entry>,
}

/// One test or several that fail for one reason.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    name: String,
    /// What is missing.
    pub reason: String,
    /// May pass or fail.
    #[serde(default)]
    pub flaky: bool,
    /// Is not run.
    #[serde(default)]
    pub skip: bool,
}

impl Known {
    /// Reads the list; there may be none.
    pub fn read() -> Result<Known> {
        match fs::read_to_string(paths::repo().join(PATH)) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("{PATH} is not valid")),
            Err(_) => Ok(Known::default()),
        }
    }

    /// The entry of the test with this full name.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.failure.iter().find(|e| matches(&e.name, name))
    }
}

/// Whether `name` is what `pattern` describes.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).filter(|&at| rest.is_char_boundary(at)).any(|at| matches(tail, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_characters() {
        assert!(matches("user/keel-*/a::b", "user/keel-4cpu/a::b"));
        assert!(matches("user/*", "user/keel-4cpu/a::b"));
        assert!(!matches("user/keel-*/a::b", "user/keel-4cpu/a::bc"));
        assert!(!matches("user/keel-*/a::b", "user/linux-1cpu/a::b"));
        assert!(matches("a", "a"));
    }
}
