//! What a run found, on one kernel or both, and how the two differ.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::guest::{Ending, is_warning};
use super::ktap::Mark;

/// The name of a program's own exit status among its lines.
pub const EXIT: &str = "exit";

/// The name of the kernel's log among a program's lines: a warning in it fails.
pub const LOG: &str = "kernel log";

/// One program on both kernels.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Program {
    /// On Linux, when it was run there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linux: Option<Ending>,
    /// On Keel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keel: Option<Ending>,
}

/// A run: its programs by full name, and what could not be built.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Results {
    /// Version of the self-tests.
    #[serde(default)]
    pub tests: String,
    /// CPUs of the guests.
    #[serde(default)]
    pub smp: u32,
    /// Whether every suite was run in full.
    #[serde(default)]
    pub is_whole: bool,
    /// By `suite/dir/program`.
    pub programs: BTreeMap<String, Program>,
    /// What this machine could not build, by the same name, with the reason.
    #[serde(default)]
    pub missing: BTreeMap<String, String>,
}

/// One line that Linux passes and Keel does not, or the other way round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The line, [`EXIT`] for the program's status.
    pub line: String,
    /// On Linux.
    pub linux: Mark,
    /// On Keel.
    pub keel: Mark,
}

/// Counts of one program or one directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines in all, on Linux.
    pub all: usize,
    /// That pass on Linux.
    pub linux: usize,
    /// Of those, that pass on Keel.
    pub keel: usize,
    /// That pass on Keel alone.
    pub only_keel: usize,
}

impl Program {
    /// Where Keel falls short of Linux. Nothing when one of them was not run.
    ///
    /// The exit status counts where no line tells more.
    pub fn differences(&self) -> Vec<Difference> {
        let (Some(linux), Some(keel)) = (&self.linux, &self.keel) else { return Vec::new() };
        let mut found: Vec<Difference> = lines(linux)
            .filter(|(_, mark)| **mark == Mark::Pass)
            .filter_map(|(line, &mark)| {
                let on_keel = keel.lines.get(line).copied().unwrap_or(Mark::Missing);
                (on_keel != Mark::Pass).then(|| Difference { line: line.clone(), linux: mark, keel: on_keel })
            })
            .collect();
        let (on_linux, on_keel) = (linux.mark.unwrap_or(Mark::Missing), keel.mark.unwrap_or(Mark::Missing));
        let died = matches!(on_keel, Mark::Crash) && on_linux != Mark::Crash;
        if died || (found.is_empty() && on_linux == Mark::Pass && on_keel != Mark::Pass) {
            found.push(Difference { line: EXIT.to_owned(), linux: on_linux, keel: on_keel });
        }
        let warns = |ending: &Ending| ending.kernel.iter().any(|line| is_warning(line));
        if !warns(linux) && warns(keel) && on_keel != Mark::Crash {
            found.push(Difference { line: LOG.to_owned(), linux: Mark::Pass, keel: Mark::Fail });
        }
        found
    }

    /// The counts of this program; one without lines counts by its exit status.
    pub fn counts(&self) -> Counts {
        let (Some(linux), Some(keel)) = (&self.linux, &self.keel) else { return Counts::default() };
        let passes = |ending: &Ending, line: &str| ending.lines.get(line) == Some(&Mark::Pass);
        let names: BTreeSet<&String> = linux.lines.keys().chain(keel.lines.keys()).collect();
        if names.is_empty() {
            let (l, k) = (linux.mark == Some(Mark::Pass), keel.mark == Some(Mark::Pass));
            return Counts { all: 1, linux: l.into(), keel: (l && k).into(), only_keel: (!l && k).into() };
        }
        let mut counts = Counts { all: names.len(), ..Counts::default() };
        for name in names {
            match (passes(linux, name), passes(keel, name)) {
                (true, on_keel) => {
                    counts.linux += 1;
                    counts.keel += usize::from(on_keel);
                }
                (false, true) => counts.only_keel += 1,
                _ => {}
            }
        }
        counts
    }
}

/// A program's lines.
fn lines(ending: &Ending) -> impl Iterator<Item = (&String, &Mark)> {
    ending.lines.iter()
}

impl Counts {
    /// Adds another's.
    pub fn add(&mut self, other: Counts) {
        self.all += other.all;
        self.linux += other.linux;
        self.keel += other.keel;
        self.only_keel += other.only_keel;
    }
}

impl Results {
    /// Counts by directory, in order, and the number of differences, of programs that ran on both.
    pub fn directories(&self) -> BTreeMap<String, (Counts, usize)> {
        let mut directories: BTreeMap<String, (Counts, usize)> = BTreeMap::new();
        for (name, program) in self.programs.iter().filter(|(_, p)| p.linux.is_some() && p.keel.is_some()) {
            let (dir, _) = name.rsplit_once('/').unwrap_or((name, ""));
            let (counts, differences) = directories.entry(dir.to_owned()).or_default();
            counts.add(program.counts());
            *differences += program.differences().len();
        }
        directories
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(mark: Mark, lines: &[(&str, Mark)]) -> Option<Ending> {
        let lines = lines.iter().map(|(n, m)| ((*n).to_owned(), *m)).collect();
        Some(Ending { mark: Some(mark), lines, ..Ending::default() })
    }

    #[test]
    fn a_line_that_only_linux_passes_is_a_difference() {
        let program = Program {
            linux: ending(Mark::Fail, &[("a", Mark::Pass), ("b", Mark::Fail), ("c", Mark::Pass)]),
            keel: ending(Mark::Fail, &[("a", Mark::Fail), ("b", Mark::Pass)]),
        };
        let lines: Vec<_> = program.differences().into_iter().map(|d| (d.line, d.keel)).collect();
        assert_eq!(lines, [("a".to_owned(), Mark::Fail), ("c".to_owned(), Mark::Missing)]);
        assert_eq!(program.counts(), Counts { all: 3, linux: 2, keel: 0, only_keel: 1 });
    }

    #[test]
    fn the_exit_status_counts_where_there_are_no_lines() {
        let program = Program { linux: ending(Mark::Pass, &[]), keel: ending(Mark::Fail, &[]) };
        assert_eq!(program.differences().len(), 1);
        assert_eq!(program.counts(), Counts { all: 1, linux: 1, keel: 0, only_keel: 0 });
    }
}
