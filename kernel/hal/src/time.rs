//! Clocks and the one-shot timer of each CPU.

use core::sync::atomic::{AtomicI64, Ordering};

use crate::arch;

/// Nanoseconds since boot; never goes back, the same on all CPUs (CLOCK_MONOTONIC).
#[inline]
pub fn now_ns() -> u64 {
    arch::time::now_ns()
}

/// How far the wall clock was set from what the hardware clock told, in nanoseconds.
static WALL_ADJUSTMENT_NS: AtomicI64 = AtomicI64::new(0);

/// Wall-clock time at `now_ns() == 0`, in nanoseconds since 1970 (UTC): as the hardware clock told at boot, or
/// as [`set_wall_ns`] made it.
pub fn wall_base_ns() -> i64 {
    arch::time::wall_base_ns().saturating_add(WALL_ADJUSTMENT_NS.load(Ordering::Relaxed))
}

/// Sets the wall clock to `wall_ns` nanoseconds since 1970 (UTC), for the vDSO's readers too.
pub fn set_wall_ns(wall_ns: i64) {
    let base = wall_ns.saturating_sub_unsigned(now_ns());
    WALL_ADJUSTMENT_NS.store(base.saturating_sub(arch::time::wall_base_ns()), Ordering::Relaxed);
    crate::vdso::update_clock(&crate::vdso::ClockData { realtime_offset_ns: base, ..Default::default() });
}

/// Programs the timer of this CPU to fire at `deadline_ns` (or at once if past); `u64::MAX` switches it off.
/// Interrupts or preemption must be off. A later call replaces an earlier one.
pub fn set_timer(deadline_ns: u64) {
    arch::time::set_timer(deadline_ns);
}

/// Busy-waits.
pub fn delay_ns(ns: u64) {
    let end = now_ns().saturating_add(ns);
    while now_ns() < end {
        crate::cpu::relax();
    }
}

/// How a counter that user space can read becomes nanoseconds: `ns = (counter - base) * mult >> shift`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockParams {
    /// The TSC may be read by user space for the time; else the vDSO makes system calls.
    pub user_readable: bool,
    /// The counter at `now_ns() == 0`.
    pub base: u64,
    /// Multiplier.
    pub mult: u32,
    /// Right shift of the product.
    pub shift: u32,
}

/// The parameters of [`now_ns`].
pub fn clock_params() -> ClockParams {
    arch::time::clock_params()
}

/// The names of the clock sources that this machine has, best first.
pub fn clock_sources() -> impl Iterator<Item = &'static str> {
    arch::time::clock_sources()
}

/// The name of the clock source that [`now_ns`] reads.
pub fn clock_source() -> &'static str {
    arch::time::clock_source()
}

/// Lets [`now_ns`] read the clock source `name`, or the best one when there is none of that name; the clock goes on from
/// where it is. The vDSO makes system calls unless it is the TSC.
pub fn choose_clock_source(name: &[u8]) {
    arch::time::choose_clock_source(name);
}
