//! The clock that stamps inodes.

use abi::time::{NSEC_PER_SEC, Timespec};

/// Wall-clock time now.
pub fn now() -> Timespec {
    let ns = hal::time::wall_base_ns().saturating_add_unsigned(hal::time::now_ns());
    Timespec { tv_sec: ns.div_euclid(NSEC_PER_SEC as i64), tv_nsec: ns.rem_euclid(NSEC_PER_SEC as i64) }
}
