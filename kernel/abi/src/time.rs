//! Time: `timespec` and friends, clock numbers (clock_gettime(2), timer_settime(2)).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Errno, Result};

/// Nanoseconds in a second.
pub const NSEC_PER_SEC: u64 = 1_000_000_000;

/// `struct timespec` (timespec(3type)).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Timespec {
    /// Seconds.
    pub tv_sec: i64,
    /// Nanoseconds, 0 to 999,999,999 when valid.
    pub tv_nsec: i64,
}

impl Timespec {
    /// Makes a time from nanoseconds since the clock's zero.
    #[inline]
    pub const fn from_ns(ns: u64) -> Self {
        Self { tv_sec: (ns / NSEC_PER_SEC) as i64, tv_nsec: (ns % NSEC_PER_SEC) as i64 }
    }

    /// The time in nanoseconds, saturated at `u64::MAX`.
    ///
    /// `EINVAL`: the seconds are negative, or the nanoseconds not below 10^9.
    pub fn to_ns(self) -> Result<u64> {
        if self.tv_sec < 0 || !(0..NSEC_PER_SEC as i64).contains(&self.tv_nsec) {
            return Err(Errno::EINVAL);
        }
        Ok((self.tv_sec as u64).saturating_mul(NSEC_PER_SEC).saturating_add(self.tv_nsec as u64))
    }
}

/// `struct timeval` (timeval(3type)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timeval {
    /// Seconds.
    pub tv_sec: i64,
    /// Microseconds, 0 to 999,999 when valid.
    pub tv_usec: i64,
}

impl Timeval {
    /// Makes a time from nanoseconds, cut to microseconds.
    #[inline]
    pub const fn from_ns(ns: u64) -> Self {
        Self { tv_sec: (ns / NSEC_PER_SEC) as i64, tv_usec: (ns % NSEC_PER_SEC / 1000) as i64 }
    }

    /// The time in nanoseconds, saturated at `u64::MAX`.
    ///
    /// `EINVAL`: the seconds are negative, or the microseconds not below 10^6.
    pub fn to_ns(self) -> Result<u64> {
        if self.tv_sec < 0 || !(0..1_000_000).contains(&self.tv_usec) {
            return Err(Errno::EINVAL);
        }
        Ok((self.tv_sec as u64).saturating_mul(NSEC_PER_SEC).saturating_add(self.tv_usec as u64 * 1000))
    }
}

/// `struct itimerspec` (timer_settime(2), timerfd_settime(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Itimerspec {
    /// Period; zero for a single expiry.
    pub it_interval: Timespec,
    /// First expiry; zero disarms.
    pub it_value: Timespec,
}

/// `struct itimerval` (setitimer(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Itimerval {
    /// Period; zero for a single expiry.
    pub it_interval: Timeval,
    /// First expiry; zero disarms.
    pub it_value: Timeval,
}

/// `struct statx_timestamp` (statx(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatxTimestamp {
    /// Seconds since the Epoch.
    pub tv_sec: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub tv_nsec: u32,
    /// Always zero.
    pub reserved: i32,
}

impl From<Timespec> for StatxTimestamp {
    #[inline]
    fn from(t: Timespec) -> Self {
        Self { tv_sec: t.tv_sec, tv_nsec: t.tv_nsec as u32, reserved: 0 }
    }
}

/// Clock numbers of clock_gettime(2).
pub mod clock {
    pub const REALTIME: i32 = 0;
    pub const MONOTONIC: i32 = 1;
    pub const PROCESS_CPUTIME_ID: i32 = 2;
    pub const THREAD_CPUTIME_ID: i32 = 3;
    pub const MONOTONIC_RAW: i32 = 4;
    pub const REALTIME_COARSE: i32 = 5;
    pub const MONOTONIC_COARSE: i32 = 6;
    pub const BOOTTIME: i32 = 7;
    pub const REALTIME_ALARM: i32 = 8;
    pub const BOOTTIME_ALARM: i32 = 9;
    pub const TAI: i32 = 11;
}

/// `TIMER_ABSTIME` of clock_nanosleep(2) and timer_settime(2).
pub const TIMER_ABSTIME: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timespec_refuses_what_linux_refuses() {
        assert_eq!(Timespec { tv_sec: -1, tv_nsec: 0 }.to_ns(), Err(Errno::EINVAL));
        assert_eq!(Timespec { tv_sec: 0, tv_nsec: 1_000_000_000 }.to_ns(), Err(Errno::EINVAL));
        assert_eq!(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }.to_ns(), Ok(u64::MAX));
        assert_eq!(Timespec::from_ns(1_500_000_000), Timespec { tv_sec: 1, tv_nsec: 500_000_000 });
    }
}
