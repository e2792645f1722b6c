//! Hardware random numbers.

use super::cpu::Feature;
use super::instr;

/// A 64-bit seed from RDSEED or RDRAND. `None`: the CPU has neither, or they failed.
pub(crate) fn hardware_seed() -> Option<u64> {
    let mut seed = None;
    if Feature::RDSEED.present() {
        // SAFETY: the feature was asked for.
        seed = unsafe { instr::rdseed() };
    }
    if seed.is_none() && Feature::RDRAND.present() {
        // SAFETY: the feature was asked for.
        seed = unsafe { instr::rdrand() };
    }
    seed
}

/// Something hard to guess before anything is set up: a hardware seed mixed with the clock.
pub(crate) fn boot_entropy() -> u64 {
    let clock = instr::rdtsc().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hardware_seed().unwrap_or(0) ^ clock.rotate_left(32)).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 16
}

/// The time-stamp counter.
pub(crate) fn timing_sample() -> u64 {
    instr::rdtsc()
}
