//! `user/fuzz` in a guest of Keel: two minutes of random system calls from a fresh seed, which the verdict tells.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::Platform;
use super::tally::{Tally, Verdict};
use crate::exec::{self, Limits, Outcome, Port};
use crate::{paths, ui, userland};

/// Seconds of calls.
const SECONDS: u64 = 120;
/// Time for the guest, and without a word from it: starting, the calls, and the last processes' ends.
const LIMITS: Limits = Limits { total: Duration::from_secs(300), idle: None };

/// Runs the fuzzer on `platform`, if that is Keel with two CPUs: races need two, and once is enough.
pub fn run(tally: &Tally, platform: &Platform) -> Result<()> {
    let name = format!("fuzz/{platform}/two minutes of calls");
    if platform.smp != 2 || !tally.wants(&name) {
        return Ok(());
    }
    let program = userland::program("user-fuzz")?;
    let share = paths::logs()?.join(format!("fuzz-{}", std::process::id()));
    paths::make_dir(&share)?;
    fs::copy(&program, share.join("user-fuzz"))?;
    let mut guest = platform.guest("tiny", Some(1024));
    guest.programs = Some(share.clone());
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?.as_secs();
    ui::say(&format!("fuzz: seed {seed}"));
    let mut said = String::new();
    let command = format!("exec /share/user-fuzz --seed {seed} --seconds {SECONDS}");
    let report = exec::run(&guest, &command, LIMITS, &mut |port, bytes| {
        if port != Port::Console {
            said.push_str(&String::from_utf8_lossy(bytes));
        }
    });
    let _ = fs::remove_dir_all(share);
    let verdict = match report?.outcome {
        Outcome::Exited(0) => Verdict::Passed,
        Outcome::Exited(status) => Verdict::Failed(format!("status {status}\n{said}")),
        Outcome::Failed(why) => Verdict::Failed(format!("{said}\n{why}")),
    };
    tally.note(&name, verdict);
    Ok(())
}
