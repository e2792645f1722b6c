//! Host time, or a clock that a test moves by hand.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::clock::Scale;
use crate::time::ClockParams;

pub(super) static TEST_CLOCK: AtomicBool = AtomicBool::new(false);
pub(super) static TEST_NOW_NS: AtomicU64 = AtomicU64::new(0);

fn start() -> &'static (Instant, i64) {
    static START: OnceLock<(Instant, i64)> = OnceLock::new();
    START.get_or_init(|| {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
        (Instant::now(), wall)
    })
}

pub fn now_ns() -> u64 {
    if TEST_CLOCK.load(Ordering::Relaxed) {
        return TEST_NOW_NS.load(Ordering::Acquire);
    }
    start().0.elapsed().as_nanos() as u64
}

pub fn wall_base_ns() -> i64 {
    start().1
}

pub fn set_timer(deadline_ns: u64) {
    let cpu = super::cpu::current_id() as usize;
    super::cpu::CPUS[cpu].timer_ns.store(deadline_ns, Ordering::SeqCst);
}

pub fn clock_params() -> ClockParams {
    ClockParams { user_readable: false, base: 0, mult: 1, shift: 0 }
}

/// The clock is the host's: it keeps its rate.
pub fn set_rate(_extra: i64) -> (Scale, Scale) {
    (Scale::NANOSECONDS, Scale::NANOSECONDS)
}

pub fn clock_sources() -> impl Iterator<Item = &'static str> {
    core::iter::once(clock_source())
}

pub fn clock_source() -> &'static str {
    "host"
}

pub fn choose_clock_source(_name: &[u8]) {}
