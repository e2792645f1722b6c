//! The discipline of the wall clock: what a time daemon asks for (adjtimex(2)), as the rate of the clock second by second.
//!
//! [`Discipline`] is told when a second of the wall clock begins ([`Discipline::advance`]) and what the daemon wants
//! ([`Discipline::adjust`]). It answers with a [`Rate`], and now and then with a leap second. It knows no clock, so it is
//! tested on the host.
//!
//! ```text
//! rate of a second = tick and frequency                         as long as they are set
//!                  + what is left of the offset >> (2 + time constant)      phase-locked loop
//!                  + at most 500 us of what adjtime(3) asked for
//!
//! leap seconds      OK --STA_INS--> INS --midnight: one second back----> OOP --next second--> WAIT --flags off--> OK
//!                   OK --STA_DEL--> DEL --second before: one forward-----------------------> WAIT
//! ```
//!
//! While nothing of this is going on, seconds pass without anybody counting them: [`Discipline::is_busy`].
//!
//! # Invariants
//!
//! - N1: all fields are within the limits below, whatever was asked for, so no sum overflows.
//!
//! Sources: adjtimex(2), ntp_adjtime(3); D. Mills, "A kernel model for precision timekeeping" (RFC 1589) and RFC 5905;
//! figures as observed on Linux 7.2.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

/// Bits of `modes`.
pub mod adj {
    #![expect(missing_docs, reason = "Linux's names")]
    pub const OFFSET: u32 = 1;
    pub const FREQUENCY: u32 = 2;
    pub const MAXERROR: u32 = 4;
    pub const ESTERROR: u32 = 8;
    pub const STATUS: u32 = 0x10;
    pub const TIMECONST: u32 = 0x20;
    pub const TAI: u32 = 0x80;
    pub const MICRO: u32 = 0x1000;
    pub const NANO: u32 = 0x2000;
    pub const TICK: u32 = 0x4000;
}

/// Bits of the status.
pub mod sta {
    #![expect(missing_docs, reason = "Linux's names")]
    pub const PLL: u32 = 1;
    pub const FLL: u32 = 8;
    pub const INS: u32 = 0x10;
    pub const DEL: u32 = 0x20;
    pub const UNSYNC: u32 = 0x40;
    pub const FREQHOLD: u32 = 0x80;
    pub const CLOCKERR: u32 = 0x1000;
    pub const NANO: u32 = 0x2000;
    pub const MODE: u32 = 0x4000;
    /// Those that only the kernel sets.
    pub const READONLY: u32 = 0xff00;
}

const NS_PER_US: i64 = 1_000;
const US_PER_S: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// Ticks of a second, as user space counts them (`USER_HZ`).
const USER_HZ: i64 = 100;
/// Microseconds of a tick, unless a daemon wants others.
pub const TICK_US: i64 = 10_000;
/// The largest phase error that is corrected, in nanoseconds.
const MAX_PHASE_NS: i64 = 500_000_000;
/// The largest change of rate, in nanoseconds a second: 500 parts in a million.
const MAX_FREQ_NS: i64 = 500_000;
/// What the clock's error grows by in a second, in microseconds.
const DRIFT_US: i64 = MAX_FREQ_NS / NS_PER_US;
/// The largest error that is told, in microseconds.
const ERROR_LIMIT_US: i64 = (MAX_PHASE_NS / NS_PER_US) << 5;
/// The most of adjtime(3)'s correction in a second, in microseconds.
const MAX_ADJUST_US: i64 = 500;
/// The largest time constant, and the shift that belongs to the constant 0.
const MAX_CONSTANT: i64 = 10;
const PLL_SHIFT: i64 = 2;
const FLL_SHIFT: i64 = 2;
/// From and up to so many seconds between corrections the frequency-locked loop may work.
const MIN_FLL_S: i64 = 256;
const MAX_PLL_S: i64 = 2048;
/// The largest difference of TAI, in seconds.
const MAX_TAI_S: i64 = 100_000;
/// Fractional bits of rates and offsets in here.
const SHIFT: i64 = 32;
/// A frequency in user space's units (parts in a million with 16 fractional bits) is so much of ours.
const FREQ_UNIT: i64 = NS_PER_US << (SHIFT - 16);
/// The tolerance that is told, in user space's units.
pub const TOLERANCE: i64 = (MAX_FREQ_NS << SHIFT) / FREQ_UNIT;
/// Seconds that are looked at one by one when nobody called for long.
const CATCH_UP_S: i64 = 4096;

/// By how much a second of the clock is longer than one of the hardware: nanoseconds, with 32 fractional bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate(pub i64);

/// What the clock says about itself; the numbers are adjtimex(2)'s results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Nothing special.
    Ok = 0,
    /// A second will be inserted at the end of the day.
    Insert = 1,
    /// One will be left out.
    Delete = 2,
    /// The inserted second is going on.
    InProgress = 3,
    /// It is over, and the status still asks for one.
    Wait = 4,
}

/// A leap second to be done now, in seconds of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leap {
    /// The clock goes back by a second.
    Back,
    /// The clock goes forward by a second.
    Forward,
}

/// What a daemon sends, each field used if its bit in `modes` is set. Units as in adjtimex(2).
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the fields of struct timex")]
pub struct Request {
    pub modes: u32,
    pub offset: i64,
    pub freq: i64,
    pub maxerror: i64,
    pub esterror: i64,
    pub status: u32,
    pub constant: i64,
    pub tick: i64,
}

/// The discipline of one clock.
#[derive(Clone, Debug)]
pub struct Discipline {
    status: u32,
    state: State,
    constant: i64,
    maxerror_us: i64,
    esterror_us: i64,
    tai_s: i64,
    tick_us: i64,
    /// Nanoseconds a second, with 32 fractional bits.
    freq: i64,
    /// Nanoseconds that are left, with 32 fractional bits.
    offset: i64,
    /// When an offset was given last, in seconds of the wall clock.
    reference_s: i64,
    /// Microseconds left of what adjtime(3) asked for.
    adjust_us: i64,
    /// The part of the rate that holds for this second only.
    extra: i64,
    /// The second that the next leap begins in.
    leap_s: Option<i64>,
    /// The last second that was counted.
    second: i64,
}

impl Default for Discipline {
    fn default() -> Self {
        Self::new()
    }
}

/// `value >> by`, rounded towards zero.
fn shift_towards_zero(value: i64, by: i64) -> i64 {
    if value < 0 { -(-value >> by) } else { value >> by }
}

impl Discipline {
    /// That of a clock nobody has looked after.
    pub const fn new() -> Self {
        Self {
            status: sta::UNSYNC,
            state: State::Ok,
            constant: 2,
            maxerror_us: ERROR_LIMIT_US,
            esterror_us: ERROR_LIMIT_US,
            tai_s: 0,
            tick_us: TICK_US,
            freq: 0,
            offset: 0,
            reference_s: 0,
            adjust_us: 0,
            extra: 0,
            leap_s: None,
            second: 0,
        }
    }

    /// The clock was set, and stands in second `now_s`: what was being corrected is forgotten.
    pub fn clock_was_set(&mut self, now_s: i64) {
        self.adjust_us = 0;
        self.offset = 0;
        self.extra = 0;
        self.status |= sta::UNSYNC;
        self.maxerror_us = ERROR_LIMIT_US;
        self.esterror_us = ERROR_LIMIT_US;
        self.leap_s = None;
        self.second = now_s;
    }

    /// The rate from now on, until the next second begins or the next change.
    pub fn rate(&self) -> Rate {
        let tick = (self.tick_us - TICK_US) * NS_PER_US * USER_HZ;
        Rate((tick << SHIFT) + self.freq + self.extra)
    }

    /// Whether the next second needs to be told of: something changes then.
    pub fn is_busy(&self) -> bool {
        self.extra != 0
            || self.adjust_us != 0
            || self.chunk() != 0
            || self.leap_s.is_some()
            || self.state != State::Ok
            || self.status & (sta::INS | sta::DEL) != 0
    }

    /// The part of the offset that one second corrects.
    fn chunk(&self) -> i64 {
        shift_towards_zero(self.offset, PLL_SHIFT + self.constant)
    }

    /// The wall clock stands in second `now_s`: goes through those that have begun since the last call. Gives a leap second
    /// that is due; the caller moves the clock and goes on from the new second by [`Discipline::leapt`].
    pub fn advance(&mut self, now_s: i64) -> Option<Leap> {
        if now_s < self.second {
            // The clock was put back without a word.
            self.second = now_s;
        }
        let mut looked_at = 0;
        while self.second < now_s {
            if !self.is_busy() || looked_at == CATCH_UP_S {
                let passed = now_s - self.second;
                self.second = now_s;
                self.drift(passed);
                break;
            }
            self.second += 1;
            looked_at += 1;
            self.drift(1);
            let leap = self.step_leap();
            self.step_rate();
            if leap.is_some() {
                return leap;
            }
        }
        None
    }

    /// A leap second was made: the clock stands in second `now_s`.
    pub fn leapt(&mut self, leap: Leap, now_s: i64) {
        self.tai_s += if leap == Leap::Back { 1 } else { -1 };
        self.second = now_s;
    }

    /// The error grows.
    fn drift(&mut self, seconds: i64) {
        self.maxerror_us = self.maxerror_us.saturating_add(seconds.saturating_mul(DRIFT_US));
        if self.maxerror_us > ERROR_LIMIT_US {
            self.maxerror_us = ERROR_LIMIT_US;
            self.status |= sta::UNSYNC;
        }
    }

    /// What this second corrects.
    fn step_rate(&mut self) {
        let chunk = self.chunk();
        self.offset -= chunk;
        let adjust_us = self.adjust_us.clamp(-MAX_ADJUST_US, MAX_ADJUST_US);
        self.adjust_us -= adjust_us;
        self.extra = chunk + ((adjust_us * NS_PER_US) << SHIFT);
    }

    /// The states of a leap second.
    fn step_leap(&mut self) -> Option<Leap> {
        let at = self.second;
        let is_due = self.leap_s == Some(at);
        match self.state {
            State::Ok if self.status & sta::INS != 0 => {
                self.state = State::Insert;
                self.leap_s = Some(at + SECONDS_PER_DAY - at.rem_euclid(SECONDS_PER_DAY));
            }
            State::Ok if self.status & sta::DEL != 0 => {
                self.state = State::Delete;
                self.leap_s = Some(at + SECONDS_PER_DAY - (at + 1).rem_euclid(SECONDS_PER_DAY));
            }
            State::Ok => {}
            State::Insert if self.status & sta::INS == 0 => self.end_leap(State::Ok),
            State::Insert if is_due => {
                self.state = State::InProgress;
                return Some(Leap::Back);
            }
            State::Delete if self.status & sta::DEL == 0 => self.end_leap(State::Ok),
            State::Delete if is_due => {
                self.end_leap(State::Wait);
                return Some(Leap::Forward);
            }
            State::Insert | State::Delete => {}
            State::InProgress => self.end_leap(State::Wait),
            State::Wait if self.status & (sta::INS | sta::DEL) == 0 => self.state = State::Ok,
            State::Wait => {}
        }
        None
    }

    fn end_leap(&mut self, state: State) {
        self.state = state;
        self.leap_s = None;
    }

    /// adjtime(3): corrects the clock by `us` microseconds; what was left of the last correction.
    pub fn replace_adjustment(&mut self, us: i64) -> i64 {
        core::mem::replace(&mut self.adjust_us, us)
    }

    /// Does what a daemon asks for in second `now_s`. Everything is taken, cut to what is possible; the caller has refused
    /// what Linux refuses.
    pub fn adjust(&mut self, request: &Request, now_s: i64) {
        let Request { modes, .. } = *request;
        if modes & adj::STATUS != 0 {
            self.set_status(request.status, now_s);
        }
        if modes & adj::NANO != 0 {
            self.status |= sta::NANO;
        }
        if modes & adj::MICRO != 0 {
            self.status &= !sta::NANO;
        }
        if modes & adj::FREQUENCY != 0 {
            let freq = i128::from(request.freq) * i128::from(FREQ_UNIT);
            self.freq = clamp_freq(freq);
        }
        if modes & adj::MAXERROR != 0 {
            self.maxerror_us = request.maxerror.clamp(0, ERROR_LIMIT_US);
        }
        if modes & adj::ESTERROR != 0 {
            self.esterror_us = request.esterror.clamp(0, ERROR_LIMIT_US);
        }
        if modes & adj::TIMECONST != 0 {
            let extra = if self.status & sta::NANO != 0 { 0 } else { 4 };
            self.constant = (request.constant.clamp(0, MAX_CONSTANT) + extra).min(MAX_CONSTANT);
        }
        if modes & adj::TAI != 0 && (0..=MAX_TAI_S).contains(&request.constant) {
            self.tai_s = request.constant;
        }
        if modes & adj::OFFSET != 0 {
            self.take_offset(request.offset, now_s);
        }
        if modes & adj::TICK != 0 {
            self.tick_us = request.tick.clamp(TICK_US * 9 / 10, TICK_US * 11 / 10);
        }
    }

    fn set_status(&mut self, status: u32, now_s: i64) {
        let (was_locked, is_locked) = (self.status & sta::PLL != 0, status & sta::PLL != 0);
        if was_locked && !is_locked {
            self.end_leap(State::Ok);
            self.status = sta::UNSYNC;
        }
        if is_locked && !was_locked {
            self.reference_s = now_s;
        }
        self.status = self.status & sta::READONLY | status & !sta::READONLY;
    }

    /// The clock is `offset` behind, in microseconds or nanoseconds: corrects it from the next second on, and the
    /// frequency as well.
    fn take_offset(&mut self, offset: i64, now_s: i64) {
        if self.status & sta::PLL == 0 {
            return;
        }
        let offset =
            if self.status & sta::NANO == 0 { offset.clamp(-US_PER_S, US_PER_S) * NS_PER_US } else { offset };
        let offset = offset.clamp(-MAX_PHASE_NS, MAX_PHASE_NS);
        let holds = self.status & sta::FREQHOLD != 0;
        let passed = if holds { 0 } else { now_s.saturating_sub(self.reference_s).max(0) };
        self.reference_s = now_s;
        let by_fll = self.fll(offset, passed);
        // The longer the loop's time constant, the longer an interval may count.
        let counted = passed.min(1 << (PLL_SHIFT + 1 + self.constant));
        let pll_shift = SHIFT - 2 * (PLL_SHIFT + 2 + self.constant);
        let product = i128::from(offset) * i128::from(counted);
        let by_pll = if pll_shift >= 0 { product << pll_shift } else { product >> -pll_shift };
        self.freq = clamp_freq(i128::from(by_fll) + by_pll + i128::from(self.freq));
        self.offset = offset << SHIFT;
    }

    /// What the frequency-locked loop adds to the frequency.
    fn fll(&mut self, offset: i64, passed: i64) -> i64 {
        self.status &= !sta::MODE;
        if passed < MIN_FLL_S || (self.status & sta::FLL == 0 && passed <= MAX_PLL_S) {
            return 0;
        }
        self.status |= sta::MODE;
        (offset << (SHIFT - FLL_SHIFT)) / passed
    }

    /// What adjtimex(2) returns as the state of the clock: [`State`], or 5 when it is not to be trusted.
    pub fn verdict(&self) -> u8 {
        const ERROR: u8 = 5;
        if self.status & (sta::UNSYNC | sta::CLOCKERR) != 0 { ERROR } else { self.state as u8 }
    }

    /// The offset that is left, in microseconds or nanoseconds as the status says.
    pub fn offset(&self) -> i64 {
        let ns = shift_towards_zero(self.offset, SHIFT);
        if self.status & sta::NANO != 0 { ns } else { ns / NS_PER_US }
    }

    /// The frequency in user space's units.
    pub fn freq(&self) -> i64 {
        // To the nearest, as a daemon wants to read what it wrote.
        (self.freq + self.freq.signum() * FREQ_UNIT / 2) / FREQ_UNIT
    }

    /// The status bits.
    pub fn status(&self) -> u32 {
        self.status
    }

    /// Maximum and estimated error, in microseconds.
    pub fn errors_us(&self) -> (i64, i64) {
        (self.maxerror_us, self.esterror_us)
    }

    /// The time constant of the loop.
    pub fn constant(&self) -> i64 {
        self.constant
    }

    /// Microseconds of a tick.
    pub fn tick_us(&self) -> i64 {
        self.tick_us
    }

    /// TAI minus UTC, in seconds.
    pub fn tai_s(&self) -> i64 {
        self.tai_s
    }

    /// What adjtime(3) has left, in microseconds.
    pub fn adjustment_us(&self) -> i64 {
        self.adjust_us
    }
}

fn clamp_freq(freq: i128) -> i64 {
    const LIMIT: i128 = (MAX_FREQ_NS as i128) << SHIFT;
    freq.clamp(-LIMIT, LIMIT) as i64
}

#[cfg(test)]
mod tests;
