//! Many tests in one boot: a boot takes seconds, most tests far less.
//!
//! The guest prints a line for each test as it begins or ends, [`Batch::read`] understands them. When the
//! guest dies, the test that was running has failed with the end of the kernel's log, and the tests after it
//! get a fresh guest, so one crash costs one test. Tests with an unexpected verdict are tried again, together
//! in one fresh guest.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;

use super::tally::{TRIES, Tally, Verdict};
use crate::exec::{self, Limits, Outcome, Port};
use crate::guest::GuestArgs;

/// After so many dead guests the rest of a batch counts as failed.
const MOST_CRASHES: usize = 6;

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
    /// Forgets what it has read of a guest that is gone.
    fn reset(&mut self);
}

/// How long a batch may take.
#[derive(Clone, Copy)]
pub struct Patience {
    /// For all its tests together, in one guest.
    pub total: Duration,
    /// From one line of output to the next.
    pub idle: Duration,
}

/// Runs the tests `names` in guests, noting each under `group`/name.
pub fn run(
    tally: &Tally,
    group: &str,
    guest: &GuestArgs,
    names: Vec<String>,
    patience: Patience,
    batch: &mut dyn Batch,
) -> Result<()> {
    let wanted = names.into_iter().filter(|n| tally.wants(&format!("{group}/{n}")));
    let mut todo: Vec<(String, Option<Verdict>)> = wanted.map(|name| (name, None)).collect();
    for left in (0..TRIES).rev() {
        let mut again = Vec::new();
        let names = todo.iter().map(|(name, _)| name.clone()).collect();
        run_once(tally, guest, names, patience, batch, &mut |name, verdict| {
            let full = format!("{group}/{name}");
            let first = todo.iter().find(|(n, _)| n == name).and_then(|(_, first)| first.clone());
            let expected = tally.expects(&full, &verdict);
            if !expected && left > 0 {
                again.push((name.to_owned(), first.or(Some(verdict))));
                return;
            }
            if let Some(first) = first
                && expected
            {
                tally.note_flaky(&full, &first);
            }
            tally.note(&full, verdict);
        })?;
        todo = again;
        if todo.is_empty() {
            break;
        }
    }
    Ok(())
}

/// Runs each test once, in as many guests as that takes.
fn run_once(
    tally: &Tally,
    guest: &GuestArgs,
    names: Vec<String>,
    patience: Patience,
    batch: &mut dyn Batch,
    note: &mut dyn FnMut(&str, Verdict),
) -> Result<()> {
    let limits = Limits { total: patience.total, idle: Some(patience.idle) };
    let mut rest: VecDeque<String> = names.into();
    let mut crashes = 0;
    while !rest.is_empty() {
        if tally.is_out_of_time() {
            rest.drain(..).for_each(|name| note(&name, Verdict::Skipped));
            break;
        }
        if crashes == MOST_CRASHES {
            let why = "not run: too many guests died before it";
            rest.drain(..).for_each(|name| note(&name, Verdict::Failed(why.to_owned())));
            break;
        }
        let names: Vec<&str> = rest.iter().map(String::as_str).collect();
        let command = batch.command(&names);
        batch.reset();
        let mut lines = Lines::default();
        let mut noise = String::new();
        let report = exec::run(guest, &command, limits, &mut |port, bytes| {
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
                    note(&name, verdict);
                }
            }
        })?;
        let Some(next) = rest.pop_front() else { break };
        let why = match report.outcome {
            Outcome::Failed(reason) => reason,
            Outcome::Exited(status) => format!("the batch ended early with status {status}\n{noise}"),
        };
        note(&next, Verdict::Failed(why));
        crashes += 1;
    }
    Ok(())
}

/// Cuts a stream of bytes into lines.
#[derive(Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// The lines that `bytes` complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.0.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned());
        }
        lines
    }
}
