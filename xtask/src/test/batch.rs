//! Many tests in one boot: a boot takes seconds, most tests far less.
//!
//! The guest prints a line for each test as it begins or ends, [`Batch::read`] understands them. When the
//! guest dies, the test that was running has failed with the end of the kernel's log, and the tests after it
//! get a fresh guest, so one crash costs one test.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;

use super::{Tally, Verdict};
use crate::exec::{self, Outcome, Port};
use crate::guest::GuestArgs;

/// After so many dead guests the rest of a batch counts as failed.
const MOST_CRASHES: usize = 8;

/// What a line of the guest means.
pub enum Event {
    /// The test with this name ended so.
    Ended(String, Verdict),
    /// Nothing of note.
    Nothing,
}

/// One kind of test.
pub trait Batch {
    /// The command that runs the tests `names` in this order.
    fn command(&self, names: &[&str]) -> String;
    /// Understands one line of its output.
    fn read(&mut self, line: &str) -> Event;
}

/// Runs the tests `names` in guests, noting each under `group`/name.
pub fn run(
    tally: &mut Tally,
    group: &str,
    guest: &GuestArgs,
    names: Vec<String>,
    timeout: Duration,
    batch: &mut dyn Batch,
) -> Result<()> {
    let mut rest: VecDeque<String> =
        names.into_iter().filter(|n| tally.wants(&format!("{group}/{n}"))).collect();
    let mut crashes = 0;
    while !rest.is_empty() {
        let names: Vec<&str> = rest.iter().map(String::as_str).collect();
        let command = batch.command(&names);
        let mut lines = Lines::default();
        let mut noise = String::new();
        let report = exec::run(guest, &command, timeout, &mut |port, bytes| {
            if port != Port::Stdout {
                if port == Port::Stderr {
                    noise.push_str(&String::from_utf8_lossy(bytes));
                }
                return;
            }
            for line in lines.feed(bytes) {
                if let Event::Ended(name, verdict) = batch.read(&line)
                    && let Some(at) = rest.iter().position(|n| *n == name)
                {
                    rest.remove(at);
                    tally.note(&format!("{group}/{name}"), verdict);
                }
            }
        })?;
        let Some(next) = rest.pop_front() else { break };
        let why = match report.outcome {
            Outcome::Failed(reason) => reason,
            Outcome::Exited(status) => format!("the batch ended early with status {status}\n{noise}"),
        };
        tally.note(&format!("{group}/{next}"), Verdict::Failed(why));
        crashes += 1;
        if crashes == MOST_CRASHES {
            for name in rest.drain(..) {
                tally.note(
                    &format!("{group}/{name}"),
                    Verdict::Failed("not run: too many guests died before it".to_owned()),
                );
            }
        }
    }
    Ok(())
}

/// Cuts a stream of bytes into lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.0.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned());
        }
        lines
    }
}
