//! Power failures in short: `cargo xtask crash` with few points, on each number of CPUs.

use anyhow::Result;

use super::Platform;
use super::tally::{Tally, Verdict};
use crate::crash::{self, CrashArgs};

/// Runs it on `platform`; Keel mounts a sample.
pub fn run(tally: &Tally, platform: &Platform) -> Result<()> {
    let name = format!("disk/{platform}/what was promised is there after a power failure");
    if !tally.wants(&name) {
        return Ok(());
    }
    let args = CrashArgs {
        kernel: platform.kernel.to_owned(),
        smp: platform.smp,
        debug: platform.debug,
        points: 40,
        sample: 5,
        workers: 3,
        steps: 60,
        seed: u64::from(platform.smp),
        block_size: if platform.smp == 2 { 1024 } else { 4096 },
    };
    let verdict = match crash::examine(&args, &["keel"]) {
        Ok(summary) if summary.failures.is_empty() && summary.nr_promises > 0 => Verdict::Passed,
        Ok(summary) => Verdict::Failed(summary.failures.join("\n")),
        Err(error) => Verdict::Failed(format!("{error:#}")),
    };
    tally.note(&name, verdict);
    Ok(())
}
