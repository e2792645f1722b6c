//! Hardware randomness.

use crate::arch;

/// 64 bits from the CPU's random-number generator (RDSEED, else RDRAND), if it has one that delivers.
pub fn hardware_seed() -> Option<u64> {
    arch::rng::hardware_seed()
}

/// A counter with unpredictable low bits (the TSC): little entropy, but always there.
#[inline]
pub fn timing_sample() -> u64 {
    arch::rng::timing_sample()
}
