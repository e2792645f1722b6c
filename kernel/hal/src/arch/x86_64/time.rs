//! Clocks: the time-stamp counter as the clock of everything unless [`clocksource`] had to choose another, one timer a CPU,
//! the battery-backed clock at boot.
//!
//! The TSC's rate comes from CPUID or KVM's clock where they say so, else it is measured against a clock of known rate:
//! HPET, ACPI PM timer, or the old PIT. The local APIC's timer is measured in the same window, unless TSC-deadline mode
//! makes that superfluous.
//!
//! ```text
//! now = (TSC - base) * mult >> shift        128-bit product, so it never overflows
//! ```
//!
//! When a time daemon wants another rate, `mult` and `base` change together so that the clock goes on from where it is
//! ([`set_rate`]). Readers look at [`CHANGES`] before and after, and try again when it moved. `RATE` stays what was measured.
//!
//! Sources: Intel SDM vol. 2 (CPUID 15H), vol. 3 ch. 18.17 (TSC), 11.5.4 (APIC timer); Intel 8254; Motorola MC146818
//! data sheet. CPUID 4000_0010H: VMware and KVM timing leaf.

use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

use super::apic;
use super::clocksource::{self, Reference};
use super::cpu::{self, Feature};
use super::instr::{self, cpuid, inb, outb};
use crate::clock::Scale;
use crate::cpu::MAX_CPUS;
use crate::time::ClockParams;

const NS_PER_S: u64 = 1_000_000_000;
/// How long the TSC is measured: the boot's largest single wait.
const MEASURE_NS: u64 = 4_000_000;
/// Rate of the PIT.
const PIT_HZ: u64 = 1_193_182;
/// A deadline this close counts as reached: programming the timer would take longer.
const SLACK_NS: u64 = 200;

/// Odd while the three below, or those of another source, change.
static CHANGES: AtomicU32 = AtomicU32::new(0);
/// The TSC when the clock was 0; as if before its own 0, when the rate grew.
static BASE: AtomicU64 = AtomicU64::new(0);
static MULT: AtomicU32 = AtomicU32::new(0);
static SHIFT: AtomicU32 = AtomicU32::new(0);
/// The TSC's own scale: multiplier above, shift below.
static RATE: AtomicU64 = AtomicU64::new(0);
static TSC_HZ: AtomicU64 = AtomicU64::new(0);
static WALL_BASE: AtomicI64 = AtomicI64::new(0);

/// APIC timer ticks per nanosecond, as a fraction of 2^32; 0 in TSC-deadline mode.
static APIC_MULT: AtomicU64 = AtomicU64::new(0);
static TSC_DEADLINE: AtomicBool = AtomicBool::new(false);
/// What each CPU's timer is set for; `u64::MAX` is off. Its own CPU only.
static DEADLINES: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(u64::MAX) }; MAX_CPUS];

/// Nanoseconds since boot; 0 before [`init`].
#[inline]
pub(crate) fn now_ns() -> u64 {
    let before = CHANGES.load(Ordering::Acquire);
    let now = read_now();
    if is_unchanged(before) { now } else { steady(read_now) }
}

/// The clock as it stands, changing or not.
#[inline]
fn read_now() -> u64 {
    if clocksource::is_tsc() { tsc_now_ns() } else { clocksource::now_ns() }
}

/// Whether what was read since [`CHANGES`] was `before` is of one clock.
#[inline]
fn is_unchanged(before: u32) -> bool {
    // Keeps the loads before it before the next one.
    fence(Ordering::Acquire);
    before & 1 == 0 && CHANGES.load(Ordering::Relaxed) == before
}

/// What `read` gives while nothing changes. Whoever interrupted the change (NMI) cannot wait for its end, and takes what
/// there is.
#[cold]
fn steady<T>(read: impl Fn() -> T) -> T {
    const PATIENCE: u32 = 10_000;
    for _ in 0..PATIENCE {
        let before = CHANGES.load(Ordering::Acquire);
        let value = read();
        if is_unchanged(before) {
            return value;
        }
        instr::pause();
    }
    read()
}

/// Makes readers of the clock wait while `change` runs. Interrupts are off, and changes take turns (`clocksource::CHANGE`).
pub(crate) fn change_clock(change: impl FnOnce()) {
    let before = CHANGES.load(Ordering::Relaxed);
    CHANGES.store(before | 1, Ordering::Relaxed);
    // Keeps the change behind the odd number; pairs with the loads around a reading. Others see the number before the
    // counter is read for the change.
    fence(Ordering::SeqCst);
    change();
    CHANGES.store((before | 1).wrapping_add(1), Ordering::Release);
}

/// [`now_ns`] by the TSC.
#[inline]
pub(crate) fn tsc_now_ns() -> u64 {
    tsc_scale().ns(instr::rdtsc().wrapping_sub(BASE.load(Ordering::Relaxed)))
}

/// How many ticks of the TSC are how many nanoseconds of the clock.
#[inline]
fn tsc_scale() -> Scale {
    Scale { mult: MULT.load(Ordering::Relaxed), shift: SHIFT.load(Ordering::Relaxed) }
}

/// The same without what a time daemon wants.
fn tsc_rate() -> Scale {
    let rate = RATE.load(Ordering::Relaxed);
    Scale { mult: (rate >> 32) as u32, shift: rate as u32 }
}

/// The nanoseconds of `ticks` of the TSC at its own rate.
#[inline]
pub(crate) fn tsc_ns(ticks: u64) -> u64 {
    tsc_rate().ns(ticks)
}

/// The TSC's value at `ns`.
fn tsc_at(ns: u64) -> u64 {
    if clocksource::is_tsc() {
        let base = i128::from(BASE.load(Ordering::Relaxed) as i64);
        return (base + i128::from(tsc_scale().ticks(ns))).clamp(0, u64::MAX.into()) as u64;
    }
    instr::rdtsc().saturating_add(tsc_rate().ticks(ns.saturating_sub(now_ns())))
}

/// The TSC, when it was `tsc`, is at `ns` and gains `extra` from now on. Within [`change_clock`], or while it is not the
/// clock.
pub(crate) fn set_tsc(tsc: u64, ns: u64, extra: i64) {
    let scale = tsc_rate().adjusted(extra);
    BASE.store(tsc.wrapping_sub(scale.ticks(ns)), Ordering::Relaxed);
    MULT.store(scale.mult, Ordering::Relaxed);
    SHIFT.store(scale.shift, Ordering::Relaxed);
}

/// From `tsc` on, the clock that it is gains `extra`. Gives the TSC's scale and the clock's. Within [`change_clock`].
pub(crate) fn turn_tsc(tsc: u64, extra: i64) -> (Scale, Scale) {
    let now = tsc_scale().ns(tsc.wrapping_sub(BASE.load(Ordering::Relaxed)));
    set_tsc(tsc, now, extra);
    (tsc_rate(), tsc_scale())
}

/// Wall-clock time when [`now_ns`] was 0.
pub(crate) fn wall_base_ns() -> i64 {
    WALL_BASE.load(Ordering::Relaxed)
}

/// The TSC's rate in kHz.
pub(crate) fn tsc_khz() -> u64 {
    TSC_HZ.load(Ordering::Relaxed) / 1000
}

/// What the vDSO needs to compute [`now_ns`].
pub(crate) fn clock_params() -> ClockParams {
    steady(params_in_change)
}

/// The same as it stands; for the end of a [`change_clock`].
pub(crate) fn params_in_change() -> ClockParams {
    ClockParams {
        user_readable: clocksource::is_tsc(),
        base: BASE.load(Ordering::Relaxed),
        mult: MULT.load(Ordering::Relaxed),
        shift: SHIFT.load(Ordering::Relaxed),
    }
}

pub(crate) use super::clocksource::{
    available as clock_sources, choose_by_name as choose_clock_source, current_name as clock_source, set_rate,
};

/// Lets this CPU's timer fire at `deadline_ns`; `u64::MAX` stops it.
pub(crate) fn set_timer(deadline_ns: u64) {
    let slot = &DEADLINES[cpu::current_id() as usize];
    slot.store(deadline_ns, Ordering::Relaxed);
    program(deadline_ns);
}

/// Programs this CPU's timer again: the clock's source has changed, and must be read often enough from now on. Interrupts
/// are off.
pub(crate) fn reprogram() {
    program(DEADLINES[cpu::current_id() as usize].load(Ordering::Relaxed));
}

fn program(deadline_ns: u64) {
    let deadline_ns = match clocksource::max_idle_ns() {
        u64::MAX => deadline_ns,
        max_idle => deadline_ns.min(now_ns().saturating_add(max_idle)),
    };
    if TSC_DEADLINE.load(Ordering::Relaxed) {
        let tsc = if deadline_ns == u64::MAX { 0 } else { tsc_at(deadline_ns).max(1) };
        // SAFETY: `init` found the mode.
        unsafe { apic::set_deadline(tsc) };
        return;
    }
    if deadline_ns == u64::MAX {
        apic::set_count(0);
        return;
    }
    let delta = deadline_ns.saturating_sub(now_ns());
    let ticks = (u128::from(delta) * u128::from(APIC_MULT.load(Ordering::Relaxed))) >> 32;
    // A deadline beyond the counter's range fires early, and `timer_interrupt` sets it again.
    apic::set_count(u32::try_from(ticks).unwrap_or(u32::MAX).max(1));
}

/// This CPU's timer fired.
pub(crate) fn timer_interrupt() {
    let slot = &DEADLINES[cpu::current_id() as usize];
    let deadline = slot.load(Ordering::Relaxed);
    let now = now_ns();
    clocksource::watch(now);
    if now.saturating_add(SLACK_NS) < deadline {
        program(deadline);
        return;
    }
    slot.store(u64::MAX, Ordering::Relaxed);
    if let Some(upcalls) = crate::trap::upcalls() {
        upcalls.timer_interrupt();
    }
}

/// Prepares this CPU's timer and clock.
pub(crate) fn init_cpu() {
    clocksource::init_cpu();
    apic::init_timer(TSC_DEADLINE.load(Ordering::Relaxed));
}

/// Starts the clocks: the boot CPU, once, with its APIC on and ACPI read.
pub(crate) fn init() {
    clocksource::init();
    let deadline = Feature::TSC_DEADLINE.present();
    let known = tsc_hz_from_cpuid().or_else(clocksource::tsc_hz_from_kvm);
    let hz = match known {
        Some(hz) if deadline => hz,
        _ => {
            let (measured, apic_hz) = measure();
            APIC_MULT.store(((u128::from(apic_hz) << 32) / u128::from(NS_PER_S)) as u64, Ordering::Relaxed);
            known.unwrap_or(measured)
        }
    };
    start_clock(hz);
    TSC_DEADLINE.store(deadline, Ordering::Relaxed);
    let wall = read_rtc().unwrap_or(0) * NS_PER_S as i64;
    WALL_BASE.store(wall - now_ns() as i64, Ordering::Relaxed);
    init_cpu();
    clocksource::choose();
}

/// Makes [`now_ns`] count from now on at `hz` ticks a second.
fn start_clock(hz: u64) {
    let scale = Scale::of_hz(hz);
    TSC_HZ.store(hz, Ordering::Relaxed);
    RATE.store(u64::from(scale.mult) << 32 | u64::from(scale.shift), Ordering::Relaxed);
    BASE.store(instr::rdtsc(), Ordering::Relaxed);
    MULT.store(scale.mult, Ordering::Relaxed);
    SHIFT.store(scale.shift, Ordering::Relaxed);
}

/// The TSC's rate as the CPU or the hypervisor states it.
fn tsc_hz_from_cpuid() -> Option<u64> {
    const TIMING: u32 = 0x4000_0010;
    const TSC_CRYSTAL: u32 = 0x15;
    if Feature::HYPERVISOR.present() {
        let max = cpuid(0x4000_0000, 0).eax;
        if (TIMING..TIMING + 0x100).contains(&max) {
            let khz = u64::from(cpuid(TIMING, 0).eax);
            return (khz != 0).then_some(khz * 1000);
        }
    }
    if cpuid(0, 0).eax < TSC_CRYSTAL {
        return None;
    }
    let leaf = cpuid(TSC_CRYSTAL, 0);
    let hz = u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax.max(1));
    (hz != 0 && leaf.eax != 0).then_some(hz)
}

/// What the TSC is measured by.
enum Ruler {
    Source(Reference),
    /// Channel 2, counting down once from 65535.
    Pit,
}

impl Ruler {
    fn find() -> Ruler {
        Reference::find().map_or_else(
            || {
                start_pit();
                Ruler::Pit
            },
            Ruler::Source,
        )
    }

    fn read(&self) -> u64 {
        match self {
            Ruler::Source(reference) => reference.read(),
            // SAFETY: latching and reading channel 2 disturbs nobody: nothing else uses it.
            Ruler::Pit => unsafe {
                outb(0x43, 0x80);
                let low = inb(0x42);
                0xffff - u64::from(u16::from_le_bytes([low, inb(0x42)]))
            },
        }
    }

    /// Nanoseconds from one reading to a later one.
    fn elapsed_ns(&self, from: u64, to: u64) -> u64 {
        match self {
            Ruler::Source(reference) => reference.elapsed_ns(from, to),
            Ruler::Pit => to.saturating_sub(from) * NS_PER_S / PIT_HZ,
        }
    }
}

fn start_pit() {
    // SAFETY: channel 2 drives the speaker only; its gate is opened, the speaker kept silent.
    unsafe {
        outb(0x61, inb(0x61) & !2 | 1);
        outb(0x43, 0xb0);
        outb(0x42, 0xff);
        outb(0x42, 0xff);
    }
}

/// Rates of the TSC and of the APIC timer, in Hz.
fn measure() -> (u64, u64) {
    let ruler = Ruler::find();
    apic::start_counting();
    let (first, tsc_first, _) = clocksource::reading_with_tsc(|| ruler.read());
    let apic_first = apic::counted();
    let mut polls = 0u64;
    loop {
        let elapsed = ruler.elapsed_ns(first, ruler.read());
        polls += 1;
        // A ruler that stands still must not stop the boot.
        if elapsed >= MEASURE_NS || (elapsed == 0 && polls > 1_000_000) {
            break;
        }
        for _ in 0..100 {
            instr::pause();
        }
    }
    let (last, tsc_last, _) = clocksource::reading_with_tsc(|| ruler.read());
    let apic_last = apic::counted();
    let elapsed = ruler.elapsed_ns(first, last).max(1);
    let rate = |ticks: u64| (u128::from(ticks) * u128::from(NS_PER_S) / u128::from(elapsed)) as u64;
    (rate(tsc_last - tsc_first), rate(u64::from(apic_last.wrapping_sub(apic_first))))
}

/// Seconds since 1970 by the battery-backed clock; `None` without one. [`now_ns`] runs already.
///
/// The clock is about to change for 2 ms at most, but an emulator whose host is busy says so until its own timer ran.
fn read_rtc() -> Option<i64> {
    const PATIENCE_NS: u64 = 2 * NS_PER_S;
    const NOBODY: u8 = 0xff;
    let end = now_ns().saturating_add(PATIENCE_NS);
    let mut previous = None;
    while cmos(STATUS_A) != NOBODY {
        let now = read_rtc_once();
        if now.is_some() && now == previous {
            return seconds(now?);
        }
        previous = now;
        if now_ns() >= end {
            return None;
        }
        instr::pause();
    }
    None
}

/// A register of the battery-backed clock.
const STATUS_A: u8 = 0x0a;

/// One reading (second, minute, hour, day, month, year), unless the clock is about to change.
fn read_rtc_once() -> Option<[u8; 6]> {
    const STATUS_B: u8 = 0x0b;
    const UPDATING: u8 = 0x80;
    const BINARY: u8 = 4;
    const HOURS_24: u8 = 2;
    const PM: u8 = 0x80;
    if cmos(STATUS_A) & UPDATING != 0 {
        return None;
    }
    let mut fields = [0x00, 0x02, 0x04, 0x07, 0x08, 0x09].map(cmos);
    let mode = cmos(STATUS_B);
    let afternoon = mode & HOURS_24 == 0 && fields[2] & PM != 0;
    fields[2] &= if mode & HOURS_24 == 0 { !PM } else { 0xff };
    if mode & BINARY == 0 {
        fields = fields.map(|bcd| (bcd & 0xf) + (bcd >> 4) * 10);
    }
    if mode & HOURS_24 == 0 {
        fields[2] = fields[2] % 12 + if afternoon { 12 } else { 0 };
    }
    Some(fields)
}

fn cmos(register: u8) -> u8 {
    // SAFETY: selecting and reading a clock register; the top bit (NMI mask) stays clear.
    unsafe {
        outb(0x70, register);
        inb(0x71)
    }
}

/// Days from 1970-01-01 by the civil calendar, counted from March so that the leap day comes last.
fn seconds([second, minute, hour, day, month, year]: [u8; 6]) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut year = 2000 + i64::from(year);
    let mut month = i64::from(month) - 3;
    if month < 0 {
        month += 12;
        year -= 1;
    }
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + i64::from(day)
        - 1
        - 719_468;
    Some(((days * 24 + i64::from(hour)) * 60 + i64::from(minute)) * 60 + i64::from(second))
}
