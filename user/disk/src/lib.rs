//! What a file system must hold after a crash: promises, as a writer notes them and a check reads them. And trees
//! that one kernel writes and another reads ([`tree`]).
//!
//! A writer notes its promises in a *mark*: a block of [`MARK_LEN`] bytes, which it writes to a place outside of the
//! file system on the same disk. So the log of the disk's writes tells which promises had been made before each
//! of them. A mark is text, filled up with zeroes:
//!
//! ```text
//!   keel-mark WORKER STEP
//!   PATH STATE[|STATE...]        absent, or file:LENGTH:SEED, or prefix:LENGTH:SEED
//!   ...
//!   end
//! ```
//! A path has one of its states after a crash; of a path that is not listed nothing is known.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

mod random;
pub mod tree;
mod worker;

pub use random::Random;
pub use worker::Worker;

/// Bytes of a mark.
pub const MARK_LEN: usize = 4096;
/// The first word of a mark.
const MAGIC: &str = "keel-mark";

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Absent,
    /// A file of exactly these bytes of [`pattern`].
    File {
        /// Its length.
        len: u64,
        /// The pattern's seed.
        seed: u64,
    },
    /// A file that begins with these bytes of [`pattern`].
    Prefix {
        /// How many.
        len: u64,
        /// The pattern's seed.
        seed: u64,
    },
}

/// `len` bytes from `at` on of the endless pattern `seed`.
pub fn pattern(seed: u64, at: u64, len: usize) -> Vec<u8> {
    let byte = |pos: u64| {
        let word = random::mix(seed ^ (pos / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        word.to_le_bytes()[(pos % 8) as usize]
    };
    (at..at + len as u64).map(byte).collect()
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Absent => f.write_str("absent"),
            State::File { len, seed } => write!(f, "file:{len}:{seed}"),
            State::Prefix { len, seed } => write!(f, "prefix:{len}:{seed}"),
        }
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<State, String> {
        let bad = || format!("no state: {text}");
        let mut fields = text.split(':');
        let kind = fields.next().ok_or_else(bad)?;
        let mut number = || fields.next().and_then(|field| field.parse().ok()).ok_or_else(bad);
        match kind {
            "absent" => Ok(State::Absent),
            "file" => Ok(State::File { len: number()?, seed: number()? }),
            "prefix" => Ok(State::Prefix { len: number()?, seed: number()? }),
            _ => Err(bad()),
        }
    }
}

/// What one worker has promised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promises {
    /// Whose they are.
    pub worker: u32,
    /// After which of its steps.
    pub step: u64,
    /// Path, relative to the file system's root, and its possible states.
    pub paths: BTreeMap<String, Vec<State>>,
}

impl Promises {
    /// The mark that tells them. What does not fit is not promised.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!("{MAGIC} {} {}\n", self.worker, self.step);
        for (path, states) in &self.paths {
            let states: Vec<String> = states.iter().map(State::to_string).collect();
            let line = format!("{path} {}\n", states.join("|"));
            if text.len() + line.len() + 4 > MARK_LEN {
                break;
            }
            text.push_str(&line);
        }
        text.push_str("end\n");
        let mut bytes = text.into_bytes();
        bytes.resize(MARK_LEN, 0);
        bytes
    }

    /// Reads a mark.
    pub fn decode(bytes: &[u8]) -> Result<Promises, String> {
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        let text = str::from_utf8(text).map_err(|_| "a mark that is no text".to_owned())?;
        let body = text.strip_suffix("end\n").ok_or("a mark without an end")?;
        let mut lines = body.lines();
        let head: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
        let [MAGIC, worker, step] = head[..] else { return Err("no mark".to_owned()) };
        let mut promises = Promises {
            worker: worker.parse().map_err(|_| "no worker")?,
            step: step.parse().map_err(|_| "no step")?,
            paths: BTreeMap::new(),
        };
        for line in lines {
            let (path, states) = line.split_once(' ').ok_or("a path without states")?;
            let states = states.split('|').map(State::from_str).collect::<Result<_, _>>()?;
            promises.paths.insert(path.to_owned(), states);
        }
        Ok(promises)
    }

    /// Compares them with what is below `root`.
    pub fn check(&self, root: &Path) -> Result<(), String> {
        for (path, states) in &self.paths {
            let found = match fs::read(root.join(path)) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(format!("{path}: {error}")),
            };
            if !states.iter().any(|state| is_in(*state, found.as_deref())) {
                let states: Vec<String> = states.iter().map(State::to_string).collect();
                let found = found.map_or("nothing".to_owned(), |bytes| describe(&bytes));
                return Err(format!(
                    "worker {} promised after step {}: {path} is {}; there is {found}",
                    self.worker,
                    self.step,
                    states.join(" or ")
                ));
            }
        }
        Ok(())
    }
}

fn is_in(state: State, found: Option<&[u8]>) -> bool {
    match (state, found) {
        (State::Absent, found) => found.is_none(),
        (State::File { len, seed }, Some(found)) => {
            found.len() as u64 == len && pattern(seed, 0, found.len()) == found
        }
        (State::Prefix { len, seed }, Some(found)) => {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            found.get(..len).is_some_and(|begin| pattern(seed, 0, len) == begin)
        }
        (State::File { .. } | State::Prefix { .. }, None) => false,
    }
}

fn describe(bytes: &[u8]) -> String {
    let zeroes = bytes.iter().filter(|&&byte| byte == 0).count();
    format!("a file of {} bytes, {zeroes} of them 0", bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let mut promises = Promises { worker: 2, step: 77, paths: BTreeMap::new() };
        promises.paths.insert("w2/d0/f1".into(), vec![State::Absent, State::File { len: 9, seed: 5 }]);
        promises.paths.insert("w2/log".into(), vec![State::Prefix { len: 1 << 40, seed: 1 }]);
        let mark = promises.encode();
        assert_eq!(mark.len(), MARK_LEN);
        assert_eq!(Promises::decode(&mark), Ok(promises));
        assert!(Promises::decode(&[0; MARK_LEN]).is_err());
    }

    #[test]
    fn what_is_there_is_held_against_the_states() {
        let bytes = pattern(5, 0, 9);
        assert!(is_in(State::File { len: 9, seed: 5 }, Some(&bytes)));
        assert!(!is_in(State::File { len: 8, seed: 5 }, Some(&bytes)));
        assert!(is_in(State::Prefix { len: 4, seed: 5 }, Some(&bytes)));
        assert!(!is_in(State::Prefix { len: 10, seed: 5 }, Some(&bytes)));
        assert!(is_in(State::Absent, None) && !is_in(State::Absent, Some(&bytes)));
        assert_eq!(pattern(5, 3, 4), bytes[3..7]);
    }
}
