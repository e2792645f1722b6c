//! adjtimex(2): what a time daemon tells and asks about the wall clock.
//!
//! The clock can be set by an offset, and the estimates and status bits that a daemon leaves for others are kept. Its
//! rate is fixed: who wants another one, or a slow correction, gets `EOPNOTSUPP`.
//!
//! # Locks
//!
//! `STATE` sleeps and nests in nothing.
//!
//! Sources: adjtimex(2), ntp_adjtime(3).

use abi::time::NSEC_PER_SEC;
use abi::{Errno, Result};
use sched::Mutex;
use security::Cap;

use crate::time::{set_wall, wall_ns};

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
const TOLERANCE: usize = 8;
const TIME_SEC: usize = 9;
const TIME_USEC: usize = 10;
const TICK: usize = 11;
const TAI: usize = 20;

/// Bits of `modes`.
mod adj {
    pub const OFFSET: u32 = 1;
    pub const FREQUENCY: u32 = 2;
    pub const MAXERROR: u32 = 4;
    pub const ESTERROR: u32 = 8;
    pub const STATUS: u32 = 0x10;
    pub const TIMECONST: u32 = 0x20;
    pub const TAI: u32 = 0x80;
    pub const SETOFFSET: u32 = 0x100;
    pub const MICRO: u32 = 0x1000;
    pub const NANO: u32 = 0x2000;
    pub const TICK: u32 = 0x4000;
    /// The old adjtime(3): alone with `OFFSET`, and with `READONLY` to ask.
    pub const ADJTIME: u32 = 0x8000;
    pub const READONLY: u32 = 0x2000;
}

/// Status bits.
mod sta {
    pub const UNSYNC: u32 = 0x40;
    pub const CLOCKERR: u32 = 0x1000;
    pub const NANO: u32 = 0x2000;
    /// Those that only the kernel sets.
    pub const READONLY: u32 = 0xff00;
}

/// Results: all is well; not synchronised.
const TIME_OK: usize = 0;
const TIME_ERROR: usize = 5;
/// The largest error that is told, in microseconds.
const LIMIT_US: u64 = 16_000_000;
/// The largest time constant.
const MAX_CONSTANT: u64 = 10;
/// The largest frequency offset, 500 parts in a million with 16 fractional bits.
const TOLERANCE_PPM: u64 = 500 << 16;
/// Microseconds of a tick of 100 Hz.
const TICK_US: u64 = 10_000;
/// A frequency beyond this overflows Linux's arithmetic and is refused.
const FREQ_LIMIT: i64 = i64::MAX / (1000 << 16);

/// What is kept.
struct State {
    maxerror_us: u64,
    esterror_us: u64,
    status: u32,
    constant: u64,
    tai: u32,
}

static STATE: Mutex<State> = Mutex::new(
    "syscall.adjtime",
    State { maxerror_us: LIMIT_US, esterror_us: LIMIT_US, status: sta::UNSYNC, constant: 2, tai: 0 },
);

/// Checks what needs no state, in Linux's order. `EPERM`, `EINVAL`.
fn check(modes: u32, timex: &Timex) -> Result<()> {
    if modes & adj::ADJTIME != 0 {
        if modes & adj::OFFSET == 0 {
            return Err(Errno::EINVAL);
        }
        if modes & adj::READONLY == 0 {
            crate::require(Cap::SYS_TIME)?;
        }
    } else {
        if modes != 0 {
            crate::require(Cap::SYS_TIME)?;
        }
        if modes & adj::TICK != 0 && !(TICK_US * 9 / 10..=TICK_US * 11 / 10).contains(&timex[TICK]) {
            return Err(Errno::EINVAL);
        }
    }
    if modes & adj::SETOFFSET != 0 {
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

/// Whether `modes` asks for a rate that the clock does not have.
fn changes_rate(modes: u32, timex: &Timex) -> bool {
    if modes & adj::ADJTIME != 0 {
        return modes & adj::READONLY == 0 && timex[OFFSET] != 0;
    }
    modes & adj::OFFSET != 0 && timex[OFFSET] != 0
        || modes & adj::FREQUENCY != 0 && timex[FREQ] != 0
        || modes & adj::TICK != 0 && timex[TICK] != TICK_US
}

/// Does what `timex` asks for, fills it in, and gives the state of the clock.
pub(crate) fn adjust(timex: &mut Timex) -> Result<usize> {
    let modes = timex[MODES] as u32;
    check(modes, timex)?;
    if changes_rate(modes, timex) {
        return Err(Errno::EOPNOTSUPP);
    }
    if modes & adj::SETOFFSET != 0 {
        let unit = if modes & adj::NANO != 0 { 1 } else { 1000 };
        let by = i128::from(timex[TIME_SEC] as i64) * i128::from(NSEC_PER_SEC)
            + i128::from(timex[TIME_USEC] * unit);
        set_wall(u64::try_from(i128::from(wall_ns()) + by).map_err(|_| Errno::EINVAL)?)?;
    }
    let mut state = STATE.lock();
    if modes & adj::ADJTIME == 0 {
        state.take(modes, timex);
    }
    let now = wall_ns();
    let sub = if state.status & sta::NANO != 0 { 1 } else { 1000 };
    let is_adjtime = modes & adj::ADJTIME != 0;
    timex[OFFSET] = 0;
    timex[FREQ] = 0;
    timex[MAXERROR] = state.maxerror_us;
    timex[ESTERROR] = state.esterror_us;
    timex[STATUS] = u64::from(state.status);
    timex[CONSTANT] = state.constant;
    timex[PRECISION] = 1;
    timex[TOLERANCE] = TOLERANCE_PPM;
    timex[TIME_SEC] = now / NSEC_PER_SEC;
    timex[TIME_USEC] = now % NSEC_PER_SEC / if is_adjtime { 1000 } else { sub };
    timex[TICK] = TICK_US;
    // No pulse-per-second source.
    timex[TICK + 1..TAI].fill(0);
    timex[TAI] = u64::from(state.tai);
    let is_bad = state.status & (sta::UNSYNC | sta::CLOCKERR) != 0;
    Ok(if is_bad { TIME_ERROR } else { TIME_OK })
}

impl State {
    /// Keeps what a daemon tells.
    fn take(&mut self, modes: u32, timex: &Timex) {
        if modes & adj::STATUS != 0 {
            self.status = self.status & sta::READONLY | timex[STATUS] as u32 & !sta::READONLY;
        }
        if modes & adj::NANO != 0 {
            self.status |= sta::NANO;
        }
        if modes & adj::MICRO != 0 {
            self.status &= !sta::NANO;
        }
        if modes & adj::MAXERROR != 0 {
            self.maxerror_us = (timex[MAXERROR] as i64).clamp(0, LIMIT_US as i64) as u64;
        }
        if modes & adj::ESTERROR != 0 {
            self.esterror_us = (timex[ESTERROR] as i64).clamp(0, LIMIT_US as i64) as u64;
        }
        if modes & adj::TIMECONST != 0 {
            let constant = (timex[CONSTANT] as i64).clamp(0, MAX_CONSTANT as i64) as u64;
            let extra = if self.status & sta::NANO != 0 { 0 } else { 4 };
            self.constant = (constant + extra).min(MAX_CONSTANT);
        }
        if modes & adj::TAI != 0
            && let Ok(offset) = u16::try_from(timex[CONSTANT])
        {
            self.tai = u32::from(offset);
        }
    }
}
