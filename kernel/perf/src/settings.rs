//! What /proc/sys/kernel has about performance events, and who may measure what.

use core::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};

use abi::{Errno, Result};
use security::{Cap, Cred};

/// `perf_event_paranoid`: what who has no `CAP_PERFMON` may not measure. Above -1: what Linux allows there, above 0: CPUs,
/// above 1: the kernel, above 2: anything (Debian's kernels).
static PARANOID: AtomicI32 = AtomicI32::new(3);
/// `perf_event_max_sample_rate`: samples a second.
pub static MAX_SAMPLE_RATE: AtomicU32 = AtomicU32::new(100_000);

/// `perf_event_paranoid`.
pub fn paranoid() -> i32 {
    PARANOID.load(Relaxed)
}

/// Sets `perf_event_paranoid`.
pub fn set_paranoid(level: i32) {
    PARANOID.store(level, Relaxed);
}

/// Whether `cred` may measure everything, whatever the settings.
pub(crate) fn is_privileged(cred: &Cred) -> bool {
    cred.capable(Cap::PERFMON) || cred.capable(Cap::SYS_ADMIN)
}

/// `EACCES`: the setting is above `level`, and `cred` has no privilege.
pub(crate) fn require(cred: &Cred, level: i32) -> Result<()> {
    if paranoid() > level && !is_privileged(cred) { Err(Errno::EACCES) } else { Ok(()) }
}

/// Above which setting nothing may be measured without privilege.
pub(crate) const ANYTHING: i32 = 2;
/// ... the kernel may not.
pub(crate) const KERNEL: i32 = 1;
/// ... CPUs may not.
pub(crate) const CPUS: i32 = 0;
