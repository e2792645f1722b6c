//! The vDSO: a small ELF library that hal maps into each process, and the page of clock data it reads.

use alloc::vec::Vec;

use crate::arch;
use crate::frame::Frame;

/// What the vDSO's clocks compute with. Times are nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockData {
    /// CLOCK_REALTIME minus CLOCK_MONOTONIC.
    pub realtime_offset_ns: i64,
    /// CLOCK_BOOTTIME minus CLOCK_MONOTONIC.
    pub boottime_offset_ns: i64,
    /// CLOCK_TAI minus CLOCK_REALTIME, in seconds.
    pub tai_offset_s: i64,
}

/// The frames of the vDSO's code, in order; map them readable and executable, `AT_SYSINFO_EHDR` at the first.
/// Empty when this machine has none.
pub fn code_frames() -> Vec<Frame> {
    arch::vdso::code_frames()
}

/// The frames of clock data, mapped readable directly below the code.
pub fn data_frames() -> Vec<Frame> {
    arch::vdso::data_frames()
}

/// The same with clocks that say nothing, so that the code makes system calls: for time namespaces.
pub fn clockless_frames() -> Vec<Frame> {
    arch::vdso::clockless_frames()
}

/// The offset of `symbol` in the image (for the signal trampoline), if it has it.
pub fn symbol(symbol: &str) -> Option<u64> {
    arch::vdso::symbol(symbol)
}

/// Publishes new clock data; readers see either the old or the new.
pub fn update_clock(data: &ClockData) {
    arch::vdso::update_clock(data);
}

/// Publishes the generation of the kernel's random numbers: what the vDSO's getrandom has in store from another one is
/// thrown away. 0: it makes system calls. Usable in interrupt context.
pub fn set_random_generation(generation: u64) {
    arch::vdso::set_random_generation(generation);
}
