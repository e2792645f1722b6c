//! `user/tests` in a guest: one static program with many tests, which prints KTAP.
//!
//! Sources: Linux Documentation/dev-tools/ktap.rst.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Platform;
use super::batch::{self, Batch, Event, Patience};
use super::tally::{Tally, Verdict};
use crate::{paths, ui, userland};

/// Time for a whole run of the program; each test has a limit of its own, which the idle one exceeds.
const PATIENCE: Patience = Patience { total: Duration::from_secs(900), idle: Duration::from_secs(100) };

/// Size of the scratch disk; `user/tests/src/block.rs` knows it.
const DISK_BYTES: u64 = 16 << 20;

/// Runs the program's tests on `platform`.
pub fn run(tally: &Tally, platform: &Platform) -> Result<()> {
    let program = userland::program("user-tests")?;
    let list = ui::capture(Command::new(&program).arg("list")).context("user-tests cannot list its tests")?;
    let names: Vec<String> = list.lines().map(str::to_owned).collect();
    let share = paths::logs()?.join(format!("share-{}-{platform}", std::process::id()));
    paths::make_dir(&share)?;
    fs::copy(&program, share.join("user-tests"))?;
    let mut guest = platform.guest("tiny", Some(1024));
    guest.programs = Some(share.clone());
    // Scratch disks for the tests of block devices; their files are sparse.
    let [disk, nvme] = ["disk", "nvme"].map(|kind| share.with_extension(kind));
    for file in [&disk, &nvme] {
        fs::File::create(file).and_then(|file| file.set_len(DISK_BYTES)).context("no scratch disk")?;
    }
    guest.disks = vec![disk.clone()];
    guest.nvme_disks = vec![nvme.clone()];
    let result =
        batch::run(tally, &format!("user/{platform}"), &guest, names, PATIENCE, &mut Ktap::default());
    let _ = fs::remove_dir_all(share);
    let _ = fs::remove_file(disk);
    let _ = fs::remove_file(nvme);
    result
}

/// Reads KTAP; lines before a result that begin with `#` are its diagnostics.
#[derive(Default)]
struct Ktap {
    notes: Vec<String>,
}

impl Batch for Ktap {
    fn command(&self, names: &[&str]) -> String {
        // Names are prefixes to the program; every name is given, for there may be crashed ones between.
        format!("exec /share/user-tests --ktap {}", names.join(" "))
    }

    fn read(&mut self, line: &str) -> Event {
        let (word, rest) = match (line.strip_prefix("not ok "), line.strip_prefix("ok ")) {
            (Some(rest), _) => ("not ok", rest),
            (_, Some(rest)) => ("ok", rest),
            _ => {
                self.notes.push(line.trim_start_matches('#').trim().to_owned());
                return Event::Nothing;
            }
        };
        let notes = std::mem::take(&mut self.notes);
        let Some(name) = rest.split_whitespace().nth(1) else { return Event::Nothing };
        let verdict = match word {
            "not ok" => Verdict::Failed(notes.join("\n")),
            _ if rest.contains("# SKIP") => Verdict::Skipped,
            _ => Verdict::Passed,
        };
        Event::Ended(name.to_owned(), verdict)
    }

    fn reset(&mut self) {
        self.notes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_carry_the_notes_before_them() {
        let mut ktap = Ktap::default();
        assert!(matches!(ktap.read("ok 1 fork::a"), Event::Ended(n, Verdict::Passed) if n == "fork::a"));
        assert!(matches!(ktap.read("# left != right"), Event::Nothing));
        assert!(
            matches!(ktap.read("not ok 2 fork::b"), Event::Ended(_, Verdict::Failed(w)) if w == "left != right")
        );
        assert!(matches!(ktap.read("ok 3 fork::c # SKIP"), Event::Ended(_, Verdict::Skipped)));
    }
}
