//! Clock sources: the counters that can be the clock of everything, and which of them is.
//!
//! ```text
//! rating   source      read by        limits
//! 1        tsc         RDTSC          best, while its rate is constant and all CPUs agree
//! 2        kvm-clock   a page + TSC   the host corrects it: for machines that move
//! 3        hpet        MMIO           32 bits, wraps
//! 4        acpi_pm     port           24 bits, wraps after 4.7 s
//! ```
//!
//! Under KVM the TSC is the clock when it is invariant or the host calls it stable, as the vDSO can read only that; else
//! KVM's clock is. The TSC is compared with another source when a timer interrupt comes anyway, and between CPUs when one starts. When it
//! fails, the next source takes over where it stood: the clock neither jumps nor stops. A counter that wraps is read
//! often enough, as no timer is set for longer than a quarter of its range while it is the clock ([`max_idle_ns`]).
//!
//! # Invariants
//!
//! - `CURRENT` names an available source, whose counter was started and whose base is set.
//! - The page of KVM's clock is written by the host only, and read as atomics.
//!
//! Sources: IA-PC HPET 1.0a; ACPI 6.5 ch. 4.8.3.3 (PM timer); Intel SDM vol. 3 ch. 18.17 (TSC); Linux,
//! Documentation/virt/kvm/x86/{cpuid,msr}.rst (KVM's clock).

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use super::cpu::{self, Feature};
use super::instr::{self, cpuid, inl};
use super::paging::kernel;
use super::paging::pte::{self, GLOBAL, NO_CACHE, NO_EXEC, WRITE_THROUGH};
use super::{acpi, layout, time, vdso};
use crate::addr::PAGE_SIZE;
use crate::clock::{Extended, PvTime, Scale, is_skewed};
use crate::cpu::MAX_CPUS;
use crate::frame::Frame;
use crate::sync::IrqLock;

/// Rate of the PM timer, 3.579545 MHz.
const PM_TIMER_HZ: u64 = 3_579_545;
/// How often the TSC is compared, at most.
const WATCH_NS: u64 = 500_000_000;
/// So many comparisons in a row must fail: a machine that stood still for a moment disturbs one.
const STRIKES: u8 = 3;
/// Readings by each of two CPUs that are compared.
const RACE_ROUNDS: u32 = 1000;

/// A source, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Source {
    Tsc,
    KvmClock,
    Hpet,
    AcpiPm,
}

use Source::{AcpiPm, Hpet, KvmClock, Tsc};

const ALL: [Source; 4] = [Tsc, KvmClock, Hpet, AcpiPm];

impl Source {
    fn name(self) -> &'static str {
        ["tsc", "kvm-clock", "hpet", "acpi_pm"][self as usize]
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }

    fn is_available(self) -> bool {
        AVAILABLE.load(Ordering::Relaxed) & self.bit() != 0
    }
}

/// A counter other than the TSC.
struct Counter {
    mult: AtomicU32,
    shift: AtomicU32,
    mask: AtomicU64,
    /// Extended ticks when the clock was 0.
    base: AtomicU64,
    /// The scale as the clock has it: multiplier above, shift below.
    adjusted: AtomicU64,
    extended: Extended,
}

impl Counter {
    const fn new() -> Self {
        Self {
            mult: AtomicU32::new(0),
            shift: AtomicU32::new(0),
            mask: AtomicU64::new(0),
            base: AtomicU64::new(0),
            adjusted: AtomicU64::new(0),
            extended: Extended::new(),
        }
    }

    /// Its own scale.
    fn scale(&self) -> Scale {
        Scale { mult: self.mult.load(Ordering::Relaxed), shift: self.shift.load(Ordering::Relaxed) }
    }

    /// That of the clock.
    fn adjusted(&self) -> Scale {
        let scale = self.adjusted.load(Ordering::Relaxed);
        Scale { mult: (scale >> 32) as u32, shift: scale as u32 }
    }

    /// At `ticks` it is at `ns`, and gains `extra` from now on.
    fn set(&self, ticks: u64, ns: u64, extra: i64) {
        let scale = self.scale().adjusted(extra);
        self.base.store(ticks.wrapping_sub(scale.ticks(ns)), Ordering::Relaxed);
        self.adjusted.store(u64::from(scale.mult) << 32 | u64::from(scale.shift), Ordering::Relaxed);
    }
}

/// By [`Source`]; the TSC's is unused.
static COUNTERS: [Counter; ALL.len()] = [const { Counter::new() }; ALL.len()];
static CURRENT: AtomicU8 = AtomicU8::new(Tsc as u8);
static AVAILABLE: AtomicU8 = AtomicU8::new(Tsc as u8 + 1);
/// What the clock gains on its source, in nanoseconds a second with 32 fractional bits. The lock makes those who change the
/// source or the rate take turns.
static CHANGE: IrqLock<i64> = IrqLock::new("hal.clocksource", 0);

/// Address of HPET's registers, 0 without it.
static HPET: AtomicU64 = AtomicU64::new(0);
/// The page that KVM writes, 0 without it.
static PV_PAGE: AtomicU64 = AtomicU64::new(0);

/// Whether the TSC is the clock.
#[inline]
pub(crate) fn is_tsc() -> bool {
    CURRENT.load(Ordering::Relaxed) == Tsc as u8
}

fn current() -> Source {
    // Pairs with the release in `switch_to`: the base is set.
    ALL[usize::from(CURRENT.load(Ordering::Acquire)) % ALL.len()]
}

/// The time by the current source, which is not the TSC.
#[cold]
pub(crate) fn now_ns() -> u64 {
    match current() {
        // It has become the clock again just now.
        Tsc => time::tsc_now_ns(),
        source => ns_of(source, ticks(source)),
    }
}

/// How long at most nobody may read the clock.
pub(crate) fn max_idle_ns() -> u64 {
    let counter = &COUNTERS[current() as usize];
    if is_tsc() { u64::MAX } else { counter.scale().ns(counter.mask.load(Ordering::Relaxed) / 4) }
}

fn ns_of(source: Source, ticks: u64) -> u64 {
    let counter = &COUNTERS[source as usize];
    counter.adjusted().ns(ticks.wrapping_sub(counter.base.load(Ordering::Relaxed)))
}

/// The counter of `source` now, not the TSC, as 64 bits.
fn ticks(source: Source) -> u64 {
    let counter = &COUNTERS[source as usize];
    counter.extended.extend(raw(source), counter.mask.load(Ordering::Relaxed))
}

/// What the hardware of `source` says.
fn raw(source: Source) -> u64 {
    const HPET_COUNTER: u64 = 0xf0;
    match source {
        Tsc => instr::rdtsc_ordered(),
        KvmClock => read_pv().map_or(0, |(time, tsc, _)| time.ns(tsc)),
        // SAFETY: the source is available, so `find_hpet` mapped the page for good; a 32-bit read is always whole.
        Hpet => unsafe {
            u64::from(((HPET.load(Ordering::Relaxed) + HPET_COUNTER) as *const u32).read_volatile())
        },
        // SAFETY: reading the PM timer has no side effect.
        AcpiPm => acpi::platform().pm_timer.map_or(0, |port| u64::from(unsafe { inl(port) })),
    }
}

/// A counter of known rate, to measure others by.
#[derive(Clone, Copy)]
pub(crate) struct Reference(Source);

impl Reference {
    /// The best that there is.
    pub(crate) fn find() -> Option<Reference> {
        ALL.into_iter().find(|source| *source != Tsc && source.is_available()).map(Reference)
    }

    /// The counter now.
    pub(crate) fn read(self) -> u64 {
        raw(self.0)
    }

    /// Nanoseconds from one reading to a later one, at most [`Self::max_idle_ns`] apart.
    pub(crate) fn elapsed_ns(self, from: u64, to: u64) -> u64 {
        let counter = &COUNTERS[self.0 as usize];
        counter.scale().ns(to.wrapping_sub(from) & counter.mask.load(Ordering::Relaxed))
    }

    /// How far apart two readings may be.
    fn max_idle_ns(self) -> u64 {
        let counter = &COUNTERS[self.0 as usize];
        counter.scale().ns(counter.mask.load(Ordering::Relaxed) / 4)
    }
}

/// A word `name=value` of the command line.
fn has_word(word: &[u8]) -> bool {
    crate::boot::cmdline().split(|byte| *byte == b' ').any(|found| found == word)
}

/// Finds the sources other than the TSC: the boot CPU, once, with ACPI read.
pub(crate) fn init() {
    if !has_word(b"no-kvmclock")
        && let Some(page) = find_kvm_clock()
    {
        PV_PAGE.store(page, Ordering::Relaxed);
        init_cpu();
        add(KvmClock, Scale::NANOSECONDS, u64::MAX);
    }
    if !has_word(b"hpet=disable")
        && !has_word(b"nohpet")
        && let Some(femtoseconds) = acpi::platform().hpet.and_then(find_hpet)
    {
        add(Hpet, Scale::of_period(femtoseconds), u64::from(u32::MAX));
    }
    if acpi::platform().pm_timer.is_some() {
        add(AcpiPm, Scale::of_hz(PM_TIMER_HZ), 0xff_ffff);
    }
}

fn add(source: Source, scale: Scale, mask: u64) {
    let counter = &COUNTERS[source as usize];
    counter.mult.store(scale.mult, Ordering::Relaxed);
    counter.shift.store(scale.shift, Ordering::Relaxed);
    counter.mask.store(mask, Ordering::Relaxed);
    counter.extended.start(raw(source) & mask);
    AVAILABLE.fetch_or(source.bit(), Ordering::Relaxed);
}

/// Prepares this CPU's share: KVM's clock has a record for each.
pub(crate) fn init_cpu() {
    const SYSTEM_TIME: u32 = 0x4b56_4d01;
    const ENABLE: u64 = 1;
    let page = PV_PAGE.load(Ordering::Relaxed);
    let number = u64::from(cpu::current_id());
    if page != 0 && number < MAX_CPUS as u64 {
        // SAFETY: 1. `find_kvm_clock` was told that the register exists. 2. the host writes into the record of this CPU
        // only, in a frame that is never freed and that is read as atomics.
        unsafe { instr::wrmsr(SYSTEM_TIME, page + number * size_of::<PvRecord>() as u64 | ENABLE) };
    }
}

/// Chooses the source to begin with, with the TSC's rate known: the command line's, or the best that is sound.
pub(crate) fn choose() {
    if has_word(b"tsc=unstable") {
        give_up_tsc("by the command line");
    } else if Feature::INVARIANT_TSC.present() || has_word(b"tsc=reliable") || has_word(b"tsc=nowatchdog") {
        WATCHED.store(false, Ordering::Relaxed);
    } else if read_pv().is_some_and(|(.., is_stable)| !is_stable) {
        switch_to(KvmClock);
    }
    let asked = crate::boot::cmdline()
        .split(|byte| *byte == b' ')
        .filter_map(|word| word.strip_prefix(b"clocksource="))
        .last();
    if let Some(asked) = asked {
        choose_by_name(asked);
    }
}

/// Makes the source `name` the clock; the best one when there is none of that name.
pub(crate) fn choose_by_name(name: &[u8]) {
    let named = ALL.into_iter().find(|source| source.is_available() && source.name().as_bytes() == name);
    let best = ALL.into_iter().find(|source| source.is_available());
    if let Some(source) = named.or(best) {
        switch_to(source);
    }
}

/// The names of the sources that can be chosen, best first.
pub(crate) fn available() -> impl Iterator<Item = &'static str> {
    ALL.into_iter().filter(|source| source.is_available()).map(Source::name)
}

/// The name of the clock's source.
pub(crate) fn current_name() -> &'static str {
    current().name()
}

fn switch_to(source: Source) {
    let extra = CHANGE.lock();
    let old = current();
    if source == old {
        return;
    }
    // The new counter first: time that passes meanwhile puts the clock a little forward, never back.
    if source == Tsc {
        let tsc = instr::rdtsc_ordered();
        time::set_tsc(tsc, crate::time::now_ns(), *extra);
    } else {
        let counter = &COUNTERS[source as usize];
        // It may have wrapped while nobody read it.
        counter.extended.start(raw(source) & counter.mask.load(Ordering::Relaxed));
        counter.set(ticks(source), crate::time::now_ns(), *extra);
    }
    CURRENT.store(source as u8, Ordering::Release);
    vdso::refresh();
    time::reprogram();
    log::info!("clocksource: {} follows {}", source.name(), old.name());
}

/// Makes the clock gain `extra` nanoseconds a second, with 32 fractional bits, on what its source counts; from where it is.
/// Gives the source's scale and the clock's. Usable in interrupt context.
pub(crate) fn set_rate(extra: i64) -> (Scale, Scale) {
    let mut current_extra = CHANGE.lock();
    *current_extra = extra;
    let source = current();
    let mut scales = (Scale::NANOSECONDS, Scale::NANOSECONDS);
    vdso::change_clock(|| {
        if source == Tsc {
            let tsc = instr::rdtsc_ordered();
            scales = time::turn_tsc(tsc, extra);
        } else {
            let counter = &COUNTERS[source as usize];
            let now = ticks(source);
            counter.set(now, ns_of(source, now), extra);
            scales = (counter.scale(), counter.adjusted());
        }
    });
    time::reprogram();
    scales
}

/// The TSC is no clock any more.
fn give_up_tsc(reason: &str) {
    if AVAILABLE.load(Ordering::Relaxed) == Tsc.bit() {
        log::warn!("clocksource: tsc is unstable {reason}, and there is no other");
        WATCHED.store(false, Ordering::Relaxed);
        return;
    }
    if AVAILABLE.fetch_and(!Tsc.bit(), Ordering::Relaxed) & Tsc.bit() == 0 {
        return;
    }
    log::warn!("clocksource: tsc is unstable {reason}");
    if is_tsc()
        && let Some(best) = ALL.into_iter().find(|source| source.is_available())
    {
        switch_to(best);
    }
}

/// Whether the TSC is compared with another source while it runs.
static WATCHED: AtomicBool = AtomicBool::new(true);

/// The last comparison. Each is by whoever has `busy`.
struct Watch {
    busy: AtomicBool,
    next_ns: AtomicU64,
    tsc: AtomicU64,
    reference: AtomicU64,
    strikes: AtomicU8,
}

static WATCH: Watch = Watch {
    busy: AtomicBool::new(false),
    next_ns: AtomicU64::new(0),
    tsc: AtomicU64::new(0),
    reference: AtomicU64::new(0),
    strikes: AtomicU8::new(0),
};

/// Compares the TSC with another source now and then; `now_ns` is the clock. In a timer interrupt.
#[inline]
pub(crate) fn watch(now_ns: u64) {
    if now_ns >= WATCH.next_ns.load(Ordering::Relaxed) && WATCHED.load(Ordering::Relaxed) && is_tsc() {
        compare(now_ns);
    }
}

#[cold]
fn compare(now_ns: u64) {
    let Some(reference) = Reference::find() else { return };
    if WATCH.busy.swap(true, Ordering::Acquire) {
        return;
    }
    WATCH.next_ns.store(now_ns.saturating_add(WATCH_NS), Ordering::Relaxed);
    let (reading, tsc, around) = reading_with_tsc(|| reference.read());
    let last_reading = WATCH.reference.swap(reading, Ordering::Relaxed);
    let last_tsc = WATCH.tsc.swap(tsc, Ordering::Relaxed);
    let elapsed = time::tsc_ns(tsc.saturating_sub(last_tsc));
    let uncertain = time::tsc_ns(around);
    // Longer ago than the reference can tell, or read so slowly that it says nothing.
    if last_tsc == 0 || elapsed >= reference.max_idle_ns() || uncertain > WATCH_NS / 64 {
        WATCH.strikes.store(0, Ordering::Relaxed);
    } else if is_skewed(elapsed, reference.elapsed_ns(last_reading, reading), uncertain) {
        let strikes = WATCH.strikes.load(Ordering::Relaxed) + 1;
        WATCH.strikes.store(strikes % STRIKES, Ordering::Relaxed);
        if strikes == STRIKES {
            give_up_tsc("beside another clock");
        }
    } else {
        WATCH.strikes.store(0, Ordering::Relaxed);
    }
    WATCH.busy.store(false, Ordering::Release);
}

/// A reading, the TSC at the same moment, and how many ticks the reading took: the shortest of a few tries.
pub(crate) fn reading_with_tsc(read: impl Fn() -> u64) -> (u64, u64, u64) {
    let mut best = (0, 0, u64::MAX);
    for _ in 0..5 {
        let before = instr::rdtsc_ordered();
        let reading = read();
        let around = instr::rdtsc_ordered().saturating_sub(before);
        if around < best.2 {
            best = (reading, before + around / 2, around);
        }
    }
    best
}

/// Where two CPUs meet whose counters are compared: 0 nobody, 1 one waits, 2 both are there, 3 the one that came last is
/// done.
static MEETING: AtomicU32 = AtomicU32::new(0);
/// The greatest TSC seen, and who may look.
static RACE: (AtomicBool, AtomicU64) = (AtomicBool::new(false), AtomicU64::new(0));

/// Compares this CPU's TSC with that of the CPU that started it, which calls [`meet_new_cpu`] until this one runs.
pub(crate) fn meet_boot_cpu() {
    RACE.1.store(0, Ordering::Relaxed);
    MEETING.store(1, Ordering::Release);
    while MEETING.load(Ordering::Acquire) == 1 {
        instr::pause();
    }
    race();
    while MEETING.load(Ordering::Acquire) != 3 {
        instr::pause();
    }
    MEETING.store(0, Ordering::Release);
}

/// The other side of [`meet_boot_cpu`]: returns at once while nobody waits.
pub(crate) fn meet_new_cpu() {
    if MEETING.compare_exchange(1, 2, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        race();
        MEETING.store(3, Ordering::Release);
    }
}

/// Two CPUs read their counters in turns: neither may see less than the other saw before.
fn race() {
    let mut worst = 0;
    for _ in 0..RACE_ROUNDS {
        while RACE.0.swap(true, Ordering::Acquire) {
            instr::pause();
        }
        let now = instr::rdtsc_ordered();
        let before = RACE.1.swap(now, Ordering::Relaxed);
        RACE.0.store(false, Ordering::Release);
        worst = worst.max(before.saturating_sub(now));
    }
    if worst != 0 && !has_word(b"tsc=reliable") {
        log::warn!("clocksource: this CPU's TSC is {worst} ticks behind another's");
        give_up_tsc("between CPUs");
    }
}

/// Maps and starts HPET; returns the femtoseconds of a tick.
fn find_hpet(address: u64) -> Option<u64> {
    const CONFIG: u64 = 0x10;
    const ENABLE: u32 = 1;
    /// 100 ns, the slowest that the specification allows.
    const MAX_PERIOD: u64 = 100_000_000;
    let vaddr = kernel::reserve(PAGE_SIZE as u64, PAGE_SIZE as u64)?;
    let flags = pte::WRITABLE | NO_EXEC | GLOBAL | NO_CACHE | WRITE_THROUGH;
    // SAFETY: 1. just reserved. 2. the HPET's registers, used by this module only.
    unsafe { kernel::map(vaddr, address & !(PAGE_SIZE as u64 - 1), PAGE_SIZE as u64, flags) }.ok()?;
    let base = vaddr + (address & (PAGE_SIZE as u64 - 1));
    // SAFETY: mapped above; the counter runs once the enable bit is set, which interrupts nobody.
    let period = unsafe {
        let config = (base + CONFIG) as *mut u32;
        config.write_volatile(config.read_volatile() | ENABLE);
        u64::from(((base + 4) as *const u32).read_volatile())
    };
    HPET.store(base, Ordering::Relaxed);
    (1..=MAX_PERIOD).contains(&period).then_some(period)
}

/// What KVM writes for a CPU, `struct pvclock_vcpu_time_info`; the size keeps two CPUs' apart.
#[repr(C, align(64))]
struct PvRecord {
    /// Odd while the host writes.
    version: AtomicU32,
    pad: AtomicU32,
    tsc: AtomicU64,
    system_ns: AtomicU64,
    mult: AtomicU32,
    /// Shift in the lowest byte, flags in the next.
    shift_and_flags: AtomicU32,
}

const _: () = assert!(size_of::<PvRecord>() * MAX_CPUS <= PAGE_SIZE);

/// The physical page of KVM's clock, if the hypervisor has one.
fn find_kvm_clock() -> Option<u64> {
    const CLOCKSOURCE2: u32 = 1 << 3;
    if !Feature::HYPERVISOR.present() {
        return None;
    }
    // "KVMKVMKVM", behind another hypervisor's leaves where KVM pretends to be that, too.
    let is_kvm = |leaf: &u32| {
        let found = cpuid(*leaf, 0);
        (found.ebx, found.ecx, found.edx) == (0x4b4d_564b, 0x564b_4d56, 0x4d)
    };
    let base = (0x4000_0000..0x4001_0000).step_by(0x100).find(is_kvm)?;
    if cpuid(base + 1, 0).eax & CLOCKSOURCE2 == 0 {
        return None;
    }
    let frame = Frame::alloc_zeroed()?;
    let page = frame.paddr().0;
    // The host writes to it for ever.
    core::mem::forget(frame);
    Some(page)
}

/// This CPU's record of KVM's clock, the TSC at the same moment, and whether the host calls the TSC stable.
fn read_pv() -> Option<(PvTime, u64, bool)> {
    let page = PV_PAGE.load(Ordering::Relaxed);
    if page == 0 {
        return None;
    }
    let records = layout::direct(crate::addr::PhysAddr(page)).cast::<PvRecord>();
    loop {
        let number = cpu::current_id();
        // SAFETY: there is a record for each CPU in the page, which is never freed and has only atomics.
        let record = unsafe { &*records.add(number as usize % MAX_CPUS) };
        let version = record.version.load(Ordering::Acquire);
        let time = PvTime {
            tsc: record.tsc.load(Ordering::Relaxed),
            system_ns: record.system_ns.load(Ordering::Relaxed),
            mult: record.mult.load(Ordering::Relaxed),
            shift: record.shift_and_flags.load(Ordering::Relaxed) as i8,
        };
        let is_stable = record.shift_and_flags.load(Ordering::Relaxed) & 1 << 8 != 0;
        let tsc = instr::rdtsc_ordered();
        fence(Ordering::Acquire);
        // The record must be whole, and of the CPU whose TSC was read.
        if version & 1 == 0
            && record.version.load(Ordering::Relaxed) == version
            && cpu::current_id() == number
        {
            return Some((time, tsc, is_stable));
        }
        instr::pause();
    }
}

/// The TSC's rate as KVM's clock tells it.
pub(crate) fn tsc_hz_from_kvm() -> Option<u64> {
    read_pv()?.0.tsc_hz()
}
