//! Clocks and the one-shot timer of each CPU.

use core::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::arch;
use crate::clock::Scale;
use crate::sync::{IrqLock, SeqLock};

/// Nanoseconds since boot; never goes back, the same on all CPUs (CLOCK_MONOTONIC). Its rate can be changed: [`set_rate`].
#[inline]
pub fn now_ns() -> u64 {
    arch::time::now_ns()
}

/// Where the clock was when its rate changed last, and what one second of it is of the hardware since then.
#[derive(Clone, Copy)]
struct Turn {
    now_ns: u64,
    raw_ns: u64,
    raw: Scale,
    adjusted: Scale,
}

impl Turn {
    /// The hardware's time when the clock is at `now_ns`.
    fn raw_at(&self, now_ns: u64) -> u64 {
        let passed = now_ns.saturating_sub(self.now_ns);
        self.raw_ns.saturating_add(self.raw.unadjusted(self.adjusted, passed))
    }
}

static TURN: SeqLock<Turn> = SeqLock::new(
    "hal.time.turn",
    Turn { now_ns: 0, raw_ns: 0, raw: Scale::NANOSECONDS, adjusted: Scale::NANOSECONDS },
);
static IS_ADJUSTED: AtomicBool = AtomicBool::new(false);
/// What [`set_rate`] got last.
static EXTRA: AtomicI64 = AtomicI64::new(0);

/// Nanoseconds since boot at the hardware's own rate (CLOCK_MONOTONIC_RAW). Not in interrupt context.
pub fn raw_ns() -> u64 {
    let now = now_ns();
    if is_rate_adjusted() { TURN.read().raw_at(now) } else { now }
}

/// Makes [`now_ns`], and with it the wall clock, gain `extra` nanoseconds a second on the hardware, with 32 fractional
/// bits; at most an eighth. It goes on from where it is, for the vDSO's readers too. Callers take turns. Not in interrupt
/// context.
pub fn set_rate(extra: i64) {
    if EXTRA.swap(extra, Ordering::Relaxed) == extra {
        return;
    }
    IS_ADJUSTED.store(true, Ordering::Release);
    TURN.write(|turn| {
        let (raw, adjusted) = arch::time::set_rate(extra);
        let now_ns = now_ns();
        *turn = Turn { now_ns, raw_ns: turn.raw_at(now_ns), raw, adjusted };
    });
}

/// Whether the rate was ever changed.
pub(crate) fn is_rate_adjusted() -> bool {
    IS_ADJUSTED.load(Ordering::Acquire)
}

/// CLOCK_TAI minus the wall clock, in seconds.
static TAI_OFFSET_S: AtomicI64 = AtomicI64::new(0);

/// CLOCK_TAI minus the wall clock, in seconds.
pub fn tai_offset_s() -> i64 {
    TAI_OFFSET_S.load(Ordering::Relaxed)
}

/// Sets that, for the vDSO's readers too.
pub fn set_tai_offset_s(seconds: i64) {
    if TAI_OFFSET_S.swap(seconds, Ordering::Relaxed) != seconds {
        publish();
    }
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
    publish();
}

/// Moves the wall clock by `by_ns` nanoseconds, for the vDSO's readers too.
pub fn step_wall_ns(by_ns: i64) {
    let step = |adjustment: i64| Some(adjustment.saturating_add(by_ns));
    let _stepped = WALL_ADJUSTMENT_NS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
    publish();
}

/// Held by whoever gathers and publishes how the clocks differ, or what is older could be published last.
static PUBLISHING: IrqLock<()> = IrqLock::new("hal.time.publish", ());

/// Tells the vDSO how the clocks differ.
fn publish() {
    let _publishing = PUBLISHING.lock();
    crate::vdso::update_clock(&crate::vdso::ClockData {
        realtime_offset_ns: wall_base_ns(),
        boottime_offset_ns: 0,
        tai_offset_s: tai_offset_s(),
    });
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
