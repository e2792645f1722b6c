//! What is to be measured: which operations there are, and how each is counted.
//!
//! ```text
//!                 1 CPU                                    several CPUs
//!   default       all rows by icount, bulk ones by time,   group scale by time, or the rows that were named
//!                 those on a disk by time only
//!   --icount      all rows by icount                       -
//!   --time        all rows by time                         all rows by time
//! ```
//! While a guest waits for its disk, `-icount` lets its clock run on as far as the next timer: how often, depends on
//! this machine. So what is on a disk is counted only when nothing else is asked for.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::report::Clock;
use super::{BenchArgs, fio, programs};
use crate::{ui, userland};

/// The group whose rows are about several CPUs.
const SCALE: &str = "scale/";
/// The group whose rows count instructions since the machine's reset, and nothing else.
const START: &str = "start/";
/// The group whose rows need a disk.
const EXT4: &str = "ext4/";
/// Runs of each kernel when time is measured.
const RUNS_BY_TIME: u32 = 3;

/// Who measures an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The program `user/bench`, on the tiny root.
    Operations,
    /// The same with a disk that holds an empty ext4.
    Disk,
    /// A whole program of `user/bench/programs.toml`, on a root of Debian packages.
    Programs,
    /// fio, on the same root with a disk as [`Source::Disk`] has.
    Fio,
}

impl Source {
    /// Whether the guest has a disk for it.
    pub fn needs_disk(self) -> bool {
        matches!(self, Source::Disk | Source::Fio)
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// `group/operation`.
    pub name: String,
    /// Unit of its values.
    pub unit: String,
    /// Mostly clears or copies memory.
    pub bulk: bool,
    /// Who measures it.
    pub source: Source,
}

/// Operations that are measured together, in one guest of each kernel after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Number of CPUs.
    pub smp: u32,
    /// What is counted.
    pub clock: Clock,
    /// How often each kernel is measured.
    pub runs: u32,
    /// Who measures.
    pub source: Source,
    /// What.
    pub operations: Vec<Operation>,
}

/// All operations: of `user/bench`, then whole programs and fio.
pub fn operations() -> Result<Vec<Operation>> {
    let program = userland::program("user-bench")?;
    let list = ui::capture(Command::new(program).arg("--list")).context("user-bench cannot list its rows")?;
    let mut all: Vec<Operation> = list.lines().filter_map(operation).collect();
    all.extend(programs::operations()?);
    all.extend(fio::operations());
    Ok(all)
}

/// A line of the list: `group/name unit [bulk]`.
fn operation(line: &str) -> Option<Operation> {
    let mut words = line.split_whitespace();
    let name = words.next()?.to_owned();
    Some(Operation {
        source: if name.starts_with(EXT4) { Source::Disk } else { Source::Operations },
        name,
        unit: words.next()?.to_owned(),
        bulk: words.any(|word| word == "bulk"),
    })
}

/// The parts of a run.
pub fn parts(args: &BenchArgs, all: &[Operation]) -> Result<Vec<Part>> {
    let named = |operation: &Operation| {
        args.names.is_empty() || args.names.iter().any(|name| operation.name.starts_with(name.as_str()))
    };
    let chosen: Vec<Operation> = all.iter().filter(|o| named(o)).cloned().collect();
    if chosen.is_empty() {
        bail!("no operation's name begins with {}", args.names.join(" or "));
    }
    if args.icount && args.smp.iter().any(|smp| *smp != 1) {
        bail!("--icount counts the instructions of one CPU: leave --smp at 1");
    }
    let is_several = args.smp.iter().any(|smp| *smp > 1);
    let mut parts = Vec::new();
    for &smp in &args.smp {
        let by_count = smp == 1 && !args.time;
        if by_count {
            let repeats = |operation: &Operation| args.icount || !operation.source.needs_disk();
            add(&mut parts, (smp, Clock::Icount, args.runs.unwrap_or(1)), &chosen, repeats);
        }
        if args.icount {
            continue;
        }
        let runs = args.runs.unwrap_or(RUNS_BY_TIME);
        add(&mut parts, (smp, Clock::Time, runs), &chosen, |operation| {
            let scales = operation.name.starts_with(SCALE);
            !operation.name.starts_with(START)
                && match smp {
                    1 => {
                        let is_slow = operation.bulk || operation.source.needs_disk();
                        args.time || is_slow || (scales && is_several)
                    }
                    _ => args.time || scales || !args.names.is_empty(),
                }
        });
    }
    Ok(parts)
}

fn add(
    parts: &mut Vec<Part>,
    (smp, clock, runs): (u32, Clock, u32),
    chosen: &[Operation],
    wanted: impl Fn(&Operation) -> bool,
) {
    for source in [Source::Operations, Source::Disk, Source::Programs, Source::Fio] {
        let operations: Vec<Operation> =
            chosen.iter().filter(|o| o.source == source && wanted(o)).cloned().collect();
        if !operations.is_empty() {
            parts.push(Part { smp, clock, runs, source, operations });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(args: &[&str]) -> Vec<String> {
        let all: Vec<Operation> = ["a/x ns", "a/copy ns bulk", "scale/f ns", "ext4/w ns"]
            .iter()
            .filter_map(|l| operation(l))
            .collect();
        let parts = parts(&super::super::tests::parse(args), &all).unwrap();
        let text = |part: &Part| {
            let rows: Vec<&str> = part.operations.iter().map(|o| o.name.as_str()).collect();
            format!("{} {:?} {}: {}", part.smp, part.clock, part.runs, rows.join(" "))
        };
        parts.iter().map(text).collect()
    }

    #[test]
    fn instructions_are_the_default_and_bulk_rows_are_timed_too() {
        assert_eq!(names(&[]), ["1 Icount 1: a/x a/copy scale/f", "1 Time 3: a/copy", "1 Time 3: ext4/w"]);
        assert_eq!(names(&["--icount"]), ["1 Icount 1: a/x a/copy scale/f", "1 Icount 1: ext4/w"]);
        assert_eq!(names(&["--time", "--runs", "2"]), ["1 Time 2: a/x a/copy scale/f", "1 Time 2: ext4/w"]);
    }

    #[test]
    fn several_cpus_are_for_the_group_scale_unless_named() {
        assert_eq!(
            names(&["--smp", "1,2", "scale", "a/x"]),
            ["1 Icount 1: a/x scale/f", "1 Time 3: scale/f", "2 Time 3: a/x scale/f"]
        );
        assert_eq!(names(&["--smp", "4"]), ["4 Time 3: scale/f"]);
    }
}
