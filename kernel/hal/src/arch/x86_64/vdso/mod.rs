//! The vDSO's frames and its clock data; the code is in [`image`].
//!
//! # Invariants
//!
//! - The data page is written only here, under [`PAGES`], as a sequence: odd, new values, even.

mod image;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicI64, Ordering, fence};

use self::image::Data;
use crate::addr::PAGE_SIZE;
use crate::frame::Frame;
use crate::sync::{IrqLock, Once};
use crate::vdso::ClockData;

/// Bit 0 in `Data::mode`: the counter is a clock.
const MODE_TSC: u32 = 1;

/// How nanoseconds since boot follow from the time-stamp counter: `(tsc - base) * multiplier >> shift`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TscClock {
    pub(crate) base: u64,
    pub(crate) multiplier: u64,
    pub(crate) shift: u32,
}

struct Pages {
    data: Frame,
    code: Vec<Frame>,
}

static PAGES: Once<Option<Pages>> = Once::new();
static CLOCK: IrqLock<(Option<TscClock>, ClockData)> = IrqLock::new(
    "hal.vdso.clock",
    (None, ClockData { realtime_offset_ns: 0, boottime_offset_ns: 0, tai_offset_s: 0 }),
);

fn build() -> Option<Pages> {
    let data = Frame::alloc_zeroed()?;
    let mut code = Vec::new();
    for page in image::bytes().chunks(PAGE_SIZE) {
        let frame = Frame::alloc_zeroed()?;
        frame.write(0, page);
        code.push(frame);
    }
    Some(Pages { data, code })
}

fn pages() -> Option<&'static Pages> {
    PAGES.call_once(build);
    PAGES.get()?.as_ref()
}

/// The frames of the code.
pub(crate) fn code_frames() -> Vec<Frame> {
    pages().map_or(Vec::new(), |pages| pages.code.clone())
}

/// The frame of the clock data.
pub(crate) fn data_frames() -> Vec<Frame> {
    pages().map_or(Vec::new(), |pages| alloc::vec![pages.data.clone()])
}

/// The image has no symbol that the kernel needs: signal handlers bring their own way back (SA_RESTORER).
pub(crate) fn symbol(_symbol: &str) -> Option<u64> {
    None
}

/// Publishes new offsets.
pub(crate) fn update_clock(clock: &ClockData) {
    let mut state = CLOCK.lock();
    state.1 = *clock;
    publish(state.0, clock);
}

/// Says how to read the counter; `None` when it is no clock.
pub(crate) fn set_tsc(tsc: Option<TscClock>) {
    let mut state = CLOCK.lock();
    state.0 = tsc;
    let clock = state.1;
    publish(tsc, &clock);
}

/// Writes the data page. The caller holds the lock of [`CLOCK`].
fn publish(tsc: Option<TscClock>, clock: &ClockData) {
    let Some(pages) = pages() else { return };
    // SAFETY: the frame is never freed (a static holds it), is a page of zeros or of `Data`, and has only atomics:
    // user space reads it at the same time, nobody else writes.
    let data = unsafe { &*super::layout::direct(pages.data.paddr()).cast::<Data>() };
    let sequence = data.sequence.load(Ordering::Relaxed);
    data.sequence.store(sequence | 1, Ordering::Relaxed);
    // Keeps the values behind the odd number; pairs with the order of loads in the image. (On x86 for the compiler.)
    fence(Ordering::Release);
    data.mode.store(if tsc.is_some() { MODE_TSC } else { 0 }, Ordering::Relaxed);
    if let Some(tsc) = tsc {
        data.tsc_base.store(tsc.base, Ordering::Relaxed);
        data.multiplier.store(tsc.multiplier, Ordering::Relaxed);
        data.shift.store(tsc.shift, Ordering::Relaxed);
    }
    let put = |clock: usize, value: i64| {
        if let Some(slot) = data.offsets_ns.get(clock) {
            AtomicI64::store(slot, value, Ordering::Relaxed);
        }
    };
    let realtime = clock.realtime_offset_ns;
    put(0, realtime);
    put(5, realtime);
    put(7, clock.boottime_offset_ns);
    put(11, realtime.wrapping_add(clock.tai_offset_s.wrapping_mul(1_000_000_000)));
    // Release: the values come before the even number.
    data.sequence.store((sequence | 1).wrapping_add(1), Ordering::Release);
}
