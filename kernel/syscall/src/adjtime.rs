//! adjtimex(2): what a time daemon tells and asks about the wall clock.
//!
//! The rules are in the crate `ntp`. Here they get their seconds and move the clock: its rate through hal, which has the
//! vDSO follow, and leap seconds like any other setting of the clock. While something is being corrected a timer fires at
//! each second of the wall clock; otherwise nothing runs.
//!
//! # Locks
//!
//! `STATE` sleeps; that of setting the wall clock (`crate::time`) nests in it.
//!
//! Sources: adjtimex(2), ntp_adjtime(3).

use alloc::boxed::Box;
use alloc::sync::Arc;

use abi::time::NSEC_PER_SEC;
use abi::{Errno, Result};
use hal::sync::Once;
use ntp::{Discipline, Request, TICK_US, TOLERANCE, adj, sta};
use sched::{Mutex, Timer};
use security::Cap;

use crate::time::{offset_wall, step_wall, wall_ns};

/// `struct timex` in words of 64 bits; the places that are used follow.
pub(crate) type Timex = [u64; 26];

const MODES: usize = 0;
const OFFSET: usize = 1;
const FREQ: usize = 2;
const MAXERROR: usize = 3;
const ESTERROR: usize = 4;
const STATUS: usize = 5;
const CONSTANT: usize = 6;
const PRECISION: usize = 7;
const TOLERANCE_AT: usize = 8;
const TIME_SEC: usize = 9;
const TIME_USEC: usize = 10;
const TICK: usize = 11;
const TAI: usize = 20;

/// Steps the clock.
const SETOFFSET: u32 = 0x100;
/// The old adjtime(3): alone with `OFFSET`, and with `READONLY` to ask.
const ADJTIME: u32 = 0x8000;
const READONLY: u32 = 0x2000;
/// A frequency beyond this overflows Linux's arithmetic and is refused.
const FREQ_LIMIT: i64 = i64::MAX / (1000 << 16);

static STATE: Mutex<Discipline> = Mutex::new("syscall.adjtime", Discipline::new());
/// Fires when the next second of the wall clock begins, while something is being corrected.
static NEXT_SECOND: Once<Timer> = Once::new();

/// Checks what needs no state, in Linux's order. `EPERM`, `EINVAL`.
fn check(modes: u32, timex: &Timex) -> Result<()> {
    if modes & ADJTIME != 0 {
        if modes & adj::OFFSET == 0 {
            return Err(Errno::EINVAL);
        }
        if modes & READONLY == 0 {
            crate::require(Cap::SYS_TIME)?;
        }
    } else {
        if modes != 0 {
            crate::require(Cap::SYS_TIME)?;
        }
        let ticks = TICK_US as u64 * 9 / 10..=TICK_US as u64 * 11 / 10;
        if modes & adj::TICK != 0 && !ticks.contains(&timex[TICK]) {
            return Err(Errno::EINVAL);
        }
    }
    if modes & SETOFFSET != 0 {
        crate::require(Cap::SYS_TIME)?;
        let limit = if modes & adj::NANO != 0 { NSEC_PER_SEC } else { 1_000_000 };
        if timex[TIME_USEC] >= limit {
            return Err(Errno::EINVAL);
        }
    }
    let freq = timex[FREQ] as i64;
    if modes & adj::FREQUENCY != 0 && !(-FREQ_LIMIT..=FREQ_LIMIT).contains(&freq) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// The second that the wall clock stands in.
fn now_s() -> i64 {
    (wall_ns() / NSEC_PER_SEC) as i64
}

/// Goes through the seconds that have begun, with the leap second that one of them may bring, and lets the clock follow.
fn catch_up(state: &mut Discipline) {
    while let Some(leap) = state.advance(now_s()) {
        let second = NSEC_PER_SEC as i64;
        match leap {
            ntp::Leap::Back => {
                log::info!("Clock: inserting leap second 23:59:60 UTC");
                step_wall(-second);
            }
            ntp::Leap::Forward => {
                log::info!("Clock: deleting leap second 23:59:59 UTC");
                step_wall(second);
            }
        }
        state.leapt(leap, now_s());
    }
    follow(state);
}

/// Gives the clock the rate that holds, and has the next second told of if that changes anything.
fn follow(state: &Discipline) {
    hal::time::set_rate(state.rate().0);
    hal::time::set_tai_offset_s(state.tai_s());
    if !state.is_busy() {
        return;
    }
    NEXT_SECOND.call_once(|| {
        // Setting rates and clocks sleeps.
        Timer::new(Arc::new(|| sched::workqueue::queue(Box::new(|| catch_up(&mut STATE.lock())))))
    });
    if let Some(timer) = NEXT_SECOND.get() {
        let left_ns = NSEC_PER_SEC - wall_ns() % NSEC_PER_SEC;
        timer.start(hal::time::now_ns().saturating_add(left_ns));
    }
}

/// The wall clock was set by somebody: what was being corrected is forgotten.
pub(crate) fn clock_was_set() {
    let mut state = STATE.lock();
    state.clock_was_set(now_s());
    follow(&state);
}

/// Does what `timex` asks for, fills it in, and gives the state of the clock.
pub(crate) fn adjust(timex: &mut Timex) -> Result<usize> {
    let modes = timex[MODES] as u32;
    check(modes, timex)?;
    if modes & SETOFFSET != 0 {
        let unit = if modes & adj::NANO != 0 { 1 } else { 1000 };
        let by = i128::from(timex[TIME_SEC] as i64) * i128::from(NSEC_PER_SEC)
            + i128::from(timex[TIME_USEC] * unit);
        offset_wall(by)?;
    }
    let mut state = STATE.lock();
    catch_up(&mut state);
    let offset = if modes & ADJTIME != 0 {
        adjust_once(&mut state, modes, timex[OFFSET] as i64)
    } else {
        if modes != 0 {
            state.adjust(&request(modes, timex), now_s());
        }
        state.offset()
    };
    if modes != 0 {
        follow(&state);
    }
    fill(timex, &state, offset);
    Ok(state.verdict().into())
}

/// The old adjtime(3): gives what is left of the last correction.
fn adjust_once(state: &mut Discipline, modes: u32, us: i64) -> i64 {
    if modes & READONLY != 0 { state.adjustment_us() } else { state.replace_adjustment(us) }
}

fn request(modes: u32, timex: &Timex) -> Request {
    Request {
        modes,
        offset: timex[OFFSET] as i64,
        freq: timex[FREQ] as i64,
        maxerror: timex[MAXERROR] as i64,
        esterror: timex[ESTERROR] as i64,
        status: timex[STATUS] as u32,
        constant: timex[CONSTANT] as i64,
        tick: timex[TICK] as i64,
    }
}

/// Tells everything.
fn fill(timex: &mut Timex, state: &Discipline, offset: i64) {
    let now = wall_ns();
    let (maxerror, esterror) = state.errors_us();
    let unit = if state.status() & sta::NANO != 0 { 1 } else { 1000 };
    timex[OFFSET] = offset as u64;
    timex[FREQ] = state.freq() as u64;
    timex[MAXERROR] = maxerror as u64;
    timex[ESTERROR] = esterror as u64;
    timex[STATUS] = u64::from(state.status());
    timex[CONSTANT] = state.constant() as u64;
    timex[PRECISION] = 1;
    timex[TOLERANCE_AT] = TOLERANCE as u64;
    timex[TIME_SEC] = now / NSEC_PER_SEC;
    timex[TIME_USEC] = now % NSEC_PER_SEC / unit;
    timex[TICK] = state.tick_us() as u64;
    // No pulse-per-second source.
    timex[TICK + 1..TAI].fill(0);
    timex[TAI] = state.tai_s() as u64 & 0xffff_ffff;
}
