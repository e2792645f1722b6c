//! The vDSO's frames and its clock data; the code is in [`image`].
//!
//! # Invariants
//!
//! - The data page is written only here. Its clock data change as a sequence: odd, new values, even.

mod image;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use self::image::{Data, RAW, READABLE};
use crate::addr::PAGE_SIZE;
use crate::frame::Frame;
use crate::sync::{IrqLock, Once};
use crate::time::ClockParams;
use crate::vdso::ClockData;

/// Bit 0 in `Data::mode`: the counter is a clock.
const MODE_TSC: u32 = 1;

struct Pages {
    data: Frame,
    /// Data without clocks.
    clockless: Frame,
    code: Vec<Frame>,
}

static PAGES: Once<Option<Pages>> = Once::new();
/// The data last published. Its lock makes writers take turns.
static CLOCK: IrqLock<ClockData> = IrqLock::new(
    "hal.vdso.clock",
    ClockData { realtime_offset_ns: 0, boottime_offset_ns: 0, tai_offset_s: 0 },
);

/// What [`set_random_generation`] got last.
static GENERATION: AtomicU64 = AtomicU64::new(0);

fn build() -> Option<Pages> {
    let (data, clockless) = (Frame::alloc_zeroed()?, Frame::alloc_zeroed()?);
    for frame in [&data, &clockless] {
        data_of(frame).generation.store(GENERATION.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    publish(&data, &ClockData { realtime_offset_ns: crate::time::wall_base_ns(), ..ClockData::default() });
    let mut code = Vec::new();
    for page in image::bytes().chunks(PAGE_SIZE) {
        let frame = Frame::alloc_zeroed()?;
        frame.write(0, page);
        code.push(frame);
    }
    Some(Pages { data, clockless, code })
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

/// The frame of the data without clocks.
pub(crate) fn clockless_frames() -> Vec<Frame> {
    pages().map_or(Vec::new(), |pages| alloc::vec![pages.clockless.clone()])
}

/// The image has no symbol that the kernel needs: signal handlers bring their own way back (SA_RESTORER).
pub(crate) fn symbol(_symbol: &str) -> Option<u64> {
    None
}

/// Publishes new offsets.
pub(crate) fn update_clock(clock: &ClockData) {
    let mut current = CLOCK.lock();
    *current = *clock;
    if let Some(pages) = pages() {
        publish(&pages.data, clock);
    }
}

/// Publishes how the clock is read now: its source has changed. Usable in interrupt context.
pub(crate) fn refresh() {
    let current = CLOCK.lock();
    if let Some(Some(pages)) = PAGES.get() {
        publish(&pages.data, &current);
    }
}

/// Runs `change`, which changes how the clock is read, and publishes that, while nobody gets a time: neither the kernel's
/// readers nor the vDSO's, or one would go on with the old clock and be ahead of the other. Usable in interrupt context.
pub(crate) fn change_clock(change: impl FnOnce()) {
    let current = CLOCK.lock();
    let data = PAGES.get().and_then(Option::as_ref).map(|pages| data_of(&pages.data));
    if let Some(data) = data {
        begin(data);
    }
    super::time::change_clock(|| {
        change();
        if let Some(data) = data {
            fill(data, &current, &super::time::params_in_change());
        }
    });
    if let Some(data) = data {
        end(data);
    }
}

/// Publishes the generation of the kernel's random numbers. Usable in interrupt context.
pub(crate) fn set_random_generation(generation: u64) {
    GENERATION.store(generation, Ordering::Relaxed);
    if let Some(Some(pages)) = PAGES.get() {
        for frame in [&pages.data, &pages.clockless] {
            data_of(frame).generation.store(generation, Ordering::Release);
        }
    }
}

/// The data page in `frame`.
fn data_of(frame: &Frame) -> &Data {
    // SAFETY: the frame is never freed (a static holds it, or soon will), is a page of zeros or of `Data`, and has only
    // atomics: user space reads it at the same time, nobody but this module writes.
    unsafe { &*super::layout::direct(frame.paddr()).cast::<Data>() }
}

/// Writes the clock's part of the data page. The caller holds the lock of [`CLOCK`], or nobody else knows the page yet.
fn publish(frame: &Frame, clock: &ClockData) {
    let params = super::time::clock_params();
    let data = data_of(frame);
    begin(data);
    fill(data, clock, &params);
    end(data);
}

/// Keeps readers of the page waiting until [`end`]. For both the caller is as that of [`publish`].
fn begin(data: &Data) {
    let sequence = data.sequence.load(Ordering::Relaxed);
    data.sequence.store(sequence | 1, Ordering::Relaxed);
    // Keeps the values behind the odd number; pairs with the order of loads in the image. (On x86 for the compiler.)
    fence(Ordering::Release);
}

fn end(data: &Data) {
    let sequence = data.sequence.load(Ordering::Relaxed);
    // Release: the values come before the even number.
    data.sequence.store((sequence | 1).wrapping_add(1), Ordering::Release);
}

/// Writes the values, between [`begin`] and [`end`].
fn fill(data: &Data, clock: &ClockData, params: &ClockParams) {
    data.mode.store(if params.user_readable { MODE_TSC } else { 0 }, Ordering::Relaxed);
    data.tsc_base.store(params.base, Ordering::Relaxed);
    data.multiplier.store(u64::from(params.mult), Ordering::Relaxed);
    data.shift.store(params.shift, Ordering::Relaxed);
    let readable = if crate::time::is_rate_adjusted() { READABLE & !RAW } else { READABLE };
    data.readable.store(readable, Ordering::Relaxed);
    let realtime = clock.realtime_offset_ns;
    let tai = realtime.wrapping_add(clock.tai_offset_s.wrapping_mul(1_000_000_000));
    for (id, offset) in [(0, realtime), (5, realtime), (7, clock.boottime_offset_ns), (11, tai)] {
        data.offsets_ns[id].store(offset, Ordering::Relaxed);
    }
}
