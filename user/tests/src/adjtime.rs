//! adjtimex(2) and clock_adjtime(2): a time daemon's ways to lead the clock. Each test puts everything back.

use crate::prelude::*;

tests!(
    "adjtime":
    frequency_is_told_as_it_was_set, a_tick_changes_the_rate_of_all_clocks_but_the_raw, clocks_go_on_where_they_are,
    adjtime_tells_what_is_left, an_offset_needs_the_loop, status_and_estimates_are_kept, tai_is_an_offset,
);

const ADJTIME: u32 = 0x8000;
const SS_READ: u32 = 0xa001;

/// Puts back what these tests change.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        let mut timex: timex = zero();
        timex.modes = ADJ_FREQUENCY | ADJ_TICK | ADJ_STATUS | ADJ_MICRO | ADJ_TIMECONST;
        timex.tick = 10_000;
        timex.status = STA_UNSYNC;
        sys!(SYS_adjtimex, &mut timex).unwrap();
        timex.modes = ADJ_TAI;
        timex.constant = 0;
        sys!(SYS_adjtimex, &mut timex).unwrap();
        timex.modes = ADJTIME | ADJ_OFFSET;
        timex.offset = 0;
        sys!(SYS_adjtimex, &mut timex).unwrap();
    }
}

/// Asks with what `set` fills in.
fn adjust(modes: u32, set: impl FnOnce(&mut timex)) -> timex {
    let mut timex: timex = zero();
    timex.modes = modes;
    set(&mut timex);
    sys!(SYS_clock_adjtime, CLOCK_REALTIME, &mut timex).unwrap();
    timex
}

fn ask() -> timex {
    adjust(0, |_| {})
}

/// A clock by the system call, in nanoseconds.
fn clock(id: i32) -> i64 {
    let mut now: timespec = zero();
    sys!(SYS_clock_gettime, id, &mut now).unwrap();
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn frequency_is_told_as_it_was_set() {
    let _restore = Restore;
    for freq in [100 << 16, -(250 << 16), 0x1234, 0] {
        let told = adjust(ADJ_FREQUENCY, |t| t.freq = freq).freq;
        assert!(told.abs_diff(freq) <= 1, "{told} for {freq}");
        assert_eq!(ask().freq, told);
    }
    assert_eq!(adjust(ADJ_FREQUENCY, |t| t.freq = 10_000 << 16).freq, 500 << 16, "the tolerance");
    assert_eq!(ask().tolerance, 500 << 16);
    assert_eq!(adjust(ADJ_TICK | ADJ_FREQUENCY, |t| t.tick = 9_900).tick, 9_900);
    for tick in [8_999, 11_001] {
        let mut timex: timex = zero();
        timex.modes = ADJ_TICK;
        timex.tick = tick;
        assert_eq!(sys!(SYS_adjtimex, &mut timex), Err(EINVAL));
    }
}

/// A reading of `id` with one of the raw clock before and after it, close together if the machine lets it.
fn beside_raw(id: i32) -> (i64, i64, i64) {
    (0..100)
        .map(|_| (clock(CLOCK_MONOTONIC_RAW), clock(id), clock(CLOCK_MONOTONIC_RAW)))
        .min_by_key(|(before, _, after)| after - before)
        .unwrap()
}

fn a_tick_changes_the_rate_of_all_clocks_but_the_raw() {
    let _restore = Restore;
    for (tick, low, high) in [(10_500, 1.04, 1.06), (9_500, 0.94, 0.96), (10_000, 0.99, 1.01)] {
        adjust(ADJ_TICK | ADJ_FREQUENCY, |t| t.tick = tick);
        // Linux begins with its next tick.
        nap(50);
        for id in [CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME] {
            let first = beside_raw(id);
            nap(200);
            let last = beside_raw(id);
            let gone = (last.1 - first.1) as f64;
            // However long the readings took, the raw clock's share lies between these.
            let (least, most) = ((last.0 - first.2) as f64, (last.2 - first.0) as f64);
            assert!(gone / most <= high && gone / least >= low, "{tick} {id}: {gone} of {least} to {most}");
        }
    }
}

fn clocks_go_on_where_they_are() {
    let _restore = Restore;
    for id in [CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME] {
        let mut last = 0;
        for round in 0..200 {
            if round % 10 == 0 {
                adjust(ADJ_FREQUENCY | ADJ_TICK, |t| {
                    t.freq = if round % 20 == 0 { 500 << 16 } else { -(500 << 16) };
                    t.tick = if round % 20 == 0 { 11_000 } else { 9_000 };
                });
            }
            let now = if round % 2 == 0 { clock(id) } else { sys::vdso_clock(id) };
            assert!(now >= last, "clock {id}: {now} after {last}");
            last = now;
        }
    }
}

fn adjtime_tells_what_is_left() {
    let _restore = Restore;
    assert_eq!(adjust(ADJTIME | ADJ_OFFSET, |t| t.offset = -400_000).offset, 0);
    let left = adjust(SS_READ, |_| {}).offset;
    assert!((-400_000..-300_000).contains(&left), "{left}");
    let left = adjust(ADJTIME | ADJ_OFFSET, |t| t.offset = 0).offset;
    assert!((-400_000..-300_000).contains(&left), "{left}");
    assert_eq!(adjust(SS_READ, |_| {}).offset, 0);
    let mut timex: timex = zero();
    timex.modes = ADJTIME;
    assert_eq!(sys!(SYS_adjtimex, &mut timex), Err(EINVAL));
}

fn an_offset_needs_the_loop() {
    let _restore = Restore;
    assert_eq!(adjust(ADJ_OFFSET | ADJ_NANO, |t| t.offset = 1_000_000).offset, 0);
    let timex = adjust(ADJ_STATUS | ADJ_TIMECONST, |t| {
        t.status = STA_PLL | STA_FREQHOLD;
        t.constant = 10;
    });
    assert_eq!((timex.status & (STA_PLL | STA_FREQHOLD | STA_NANO), timex.constant), (0x2081, 10));
    // A four-thousandth of it goes in a second.
    let left = adjust(ADJ_OFFSET, |t| t.offset = 300_000_000).offset;
    assert!((200_000_000..=300_000_000).contains(&left), "{left}");
    let left = adjust(ADJ_MICRO, |_| {}).offset;
    assert!((200_000..=300_000).contains(&left), "{left}");
    let limited = adjust(ADJ_OFFSET, |t| t.offset = 9_000_000).offset;
    assert!((400_000..=500_000).contains(&limited), "{limited}");
    // Setting the clock forgets it.
    let mut now: timespec = zero();
    sys!(SYS_clock_gettime, CLOCK_REALTIME, &mut now).unwrap();
    sys!(SYS_clock_settime, CLOCK_REALTIME, &now).unwrap();
    let timex = ask();
    assert_eq!((timex.offset, timex.status & STA_UNSYNC, timex.maxerror >= 16_000_000), (0, STA_UNSYNC, true));
}

fn status_and_estimates_are_kept() {
    let _restore = Restore;
    let timex = adjust(ADJ_STATUS | ADJ_MAXERROR | ADJ_ESTERROR, |t| {
        t.status = 0xffff & !(STA_INS | STA_DEL);
        t.maxerror = 1000;
        t.esterror = i64::MAX;
    });
    // Those that only the kernel sets are not for the caller.
    assert_eq!(timex.status & 0xff00 & !STA_NANO, 0);
    assert_eq!(timex.status & 0xff, 0xff & !(STA_INS | STA_DEL));
    assert!(timex.maxerror < 100_000 && timex.esterror == 16_000_000);
    let mut synchronised = adjust(ADJ_STATUS, |t| t.status = STA_PLL);
    synchronised.modes = 0;
    assert_eq!(sys!(SYS_adjtimex, &mut synchronised), Ok(0), "TIME_OK");
    adjust(ADJ_STATUS, |t| t.status = STA_UNSYNC);
    assert_eq!(sys!(SYS_adjtimex, &mut synchronised), Ok(5), "TIME_ERROR");
}

fn tai_is_an_offset() {
    let _restore = Restore;
    assert_eq!(adjust(ADJ_TAI, |t| t.constant = 37).tai, 37);
    for read in [clock, sys::vdso_clock] {
        let (before, tai, after) = (clock(CLOCK_REALTIME), read(CLOCK_TAI), clock(CLOCK_REALTIME));
        assert!((before..=after).contains(&(tai - 37_000_000_000)));
    }
    assert_eq!(adjust(ADJ_TAI, |t| t.constant = -1).tai, 37, "no such offset");
    // A time that has come already.
    let now = clock(CLOCK_TAI) / 1_000_000_000;
    let (took, ()) = timed(|| {
        let until = timespec { tv_sec: now - 5, tv_nsec: 0 };
        sys!(SYS_clock_nanosleep, CLOCK_TAI, TIMER_ABSTIME, &until, 0).unwrap();
    });
    assert!(took < 20_000);
    assert_eq!(adjust(ADJ_TAI, |t| t.constant = 0).tai, 0);
}
