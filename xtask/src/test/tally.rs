//! What became of each test, held against the list of known failures.
//!
//! ```text
//!                 passes                       fails
//!   not listed    passed                       failed, after retries
//!   listed        failed: the list is stale    known
//!   listed flaky  passed                       known
//! ```
//! A test whose verdict is not the expected one gets more tries ([`TRIES`]) by whoever runs it: under
//! emulation on a busy machine a deadline may pass that no fault made it pass. It is then reported as flaky.

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::known::{self, Known};

/// How often a test is run before a failure counts.
pub const TRIES: usize = 3;

/// How one test ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// As it should.
    Passed,
    /// It cannot run here.
    Skipped,
    /// What went wrong, in any number of lines.
    Failed(String),
}

impl Verdict {
    /// That of a test that fails with an error.
    pub fn of(result: anyhow::Result<()>) -> Verdict {
        match result {
            Ok(()) => Verdict::Passed,
            Err(error) => Verdict::Failed(format!("{error:#}")),
        }
    }
}

/// Counts of verdicts.
#[derive(Default)]
struct Counts {
    passed: usize,
    skipped: usize,
    known: usize,
    flaky: Vec<String>,
    notes: Vec<String>,
    failures: Vec<(String, String)>,
}

/// Collects verdicts, prints each as it comes, and knows which tests are wanted. Threads share it.
pub struct Tally {
    filter: String,
    known: Known,
    deadline: Option<Instant>,
    counts: Mutex<Counts>,
}

impl Tally {
    /// A tally for tests whose name contains `filter`; after `limit` nothing new begins.
    pub fn new(filter: &str, known: Known, limit: Option<Duration>) -> Tally {
        let deadline = limit.map(|limit| Instant::now() + limit);
        Tally { filter: filter.to_owned(), known, deadline, counts: Mutex::default() }
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the filter chooses the test.
    pub fn selects(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }

    /// Whether the test is to run. One that the list of known failures excludes is noted as skipped.
    pub fn wants(&self, name: &str) -> bool {
        if !self.selects(name) {
            return false;
        }
        match self.known.find(name) {
            Some(entry) if entry.skip => {
                self.skip(name, &entry.reason);
                false
            }
            _ => true,
        }
    }

    /// Whether some test whose name begins with `group` may be wanted.
    pub fn may_want(&self, group: &str) -> bool {
        self.filter.is_empty()
            || group.contains(&self.filter)
            || !super::names_a_group(&self.filter)
            || self.filter.starts_with(group)
    }

    /// Whether the time for all tests has passed.
    pub fn is_out_of_time(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Whether `verdict` is what the list of known failures says of the test.
    pub fn expects(&self, name: &str, verdict: &Verdict) -> bool {
        match (self.known.find(name), verdict) {
            (None, Verdict::Failed(_)) => false,
            (Some(entry), Verdict::Passed) => entry.flaky,
            _ => true,
        }
    }

    /// Notes how `name` ended.
    pub fn note(&self, name: &str, verdict: Verdict) {
        let known = self.known.find(name);
        let mut counts = self.counts();
        match (known, verdict) {
            (Some(entry), Verdict::Passed) if !entry.flaky => {
                println!("FAIL  {name}: it passes");
                let why = format!("it passes, but {} lists it: {}", known::PATH, entry.reason);
                counts.failures.push((name.to_owned(), why));
            }
            (_, Verdict::Passed) => {
                counts.passed += 1;
                println!("ok    {name}");
            }
            (_, Verdict::Skipped) => {
                counts.skipped += 1;
                println!("skip  {name}");
            }
            (Some(entry), Verdict::Failed(_)) => {
                counts.known += 1;
                println!("known {name}: {}", entry.reason);
            }
            (None, Verdict::Failed(why)) => {
                println!("FAIL  {name}: {}", why.lines().next().unwrap_or_default());
                counts.failures.push((name.to_owned(), why));
            }
        }
    }

    /// Notes a test or a group of tests that is not run, and why.
    pub fn skip(&self, name: &str, reason: &str) {
        println!("skip  {name}: {reason}");
        self.counts().skipped += 1;
    }

    /// Notes a group that could not run for a reason that the last lines are to repeat.
    pub fn skip_group(&self, name: &str, reason: &str) {
        self.skip(name, reason);
        self.counts().notes.push(format!("not run: {name}: {reason}"));
    }

    /// Notes that `name` ended as expected after it had not.
    pub fn note_flaky(&self, name: &str, first: &Verdict) {
        let why = match first {
            Verdict::Failed(why) => why.lines().find(|l| !l.trim().is_empty()).unwrap_or_default().to_owned(),
            _ => "it passed at first".to_owned(),
        };
        println!("flaky {name}: {why}");
        self.counts().flaky.push(format!("{name}: {why}"));
    }

    /// Prints the report, which ends in one line of numbers; the result fails when a test did.
    pub fn finish(&self) -> ExitCode {
        let counts = self.counts();
        for (name, why) in &counts.failures {
            println!("\n---- {name} ----\n{}", why.trim_end());
        }
        print_list("flaky (passed when tried again)", counts.flaky.iter());
        print_list("failed", counts.failures.iter().map(|(name, _)| name));
        print_list("not everything was run", counts.notes.iter());
        if counts.known > 0 {
            println!("\n{} tests failed as {} says; they count as skipped", counts.known, known::PATH);
        }
        let skipped = counts.skipped + counts.known;
        let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
        println!("\n{} passed, {} failed{skipped}", counts.passed, counts.failures.len());
        if counts.failures.is_empty() && counts.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn print_list<'a>(title: &str, lines: impl Iterator<Item = &'a String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        println!("\n{title}:");
        lines.for_each(|line| println!("  {line}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(list: &str) -> Tally {
        Tally::new("", toml::from_str(list).unwrap(), None)
    }

    #[test]
    fn a_listed_failure_is_expected_and_a_listed_pass_is_not() {
        let tally = tally("[[failure]]\nname = 'a'\nreason = 'r'\n");
        let failed = Verdict::Failed(String::new());
        assert!(tally.expects("a", &failed) && !tally.expects("a", &Verdict::Passed));
        assert!(!tally.expects("b", &failed) && tally.expects("b", &Verdict::Passed));
        tally.note("a", failed);
        tally.note("b", Verdict::Passed);
        assert_eq!(tally.finish(), ExitCode::SUCCESS);
        tally.note("a", Verdict::Passed);
        assert_eq!(tally.finish(), ExitCode::FAILURE);
    }

    #[test]
    fn flaky_entries_may_do_both() {
        let tally = tally("[[failure]]\nname = 'a'\nreason = 'r'\nflaky = true\n");
        assert!(tally.expects("a", &Verdict::Failed(String::new())) && tally.expects("a", &Verdict::Passed));
    }
}
