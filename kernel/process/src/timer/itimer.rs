//! Interval timers: setitimer(2), getitimer(2), alarm(2).
//!
//! Sources: setitimer(2); `ITIMER_REAL` and alarm(2) are one timer.

use alloc::sync::Arc;

use abi::signal::{SIGALRM, SigInfo};
use abi::time::{Itimerval, NSEC_PER_SEC, Timeval};
use abi::{Errno, Result};
use sched::Timer;

use super::{arm_cpu, next_expiry, with};
use crate::ThreadGroup;
use crate::signal::{self, Target};
use crate::task;

/// Which interval timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Real time, `SIGALRM`.
    Real,
    /// CPU time in user mode, `SIGVTALRM`.
    Virtual,
    /// All CPU time, `SIGPROF`.
    Prof,
}

impl Which {
    /// The timer with this number. `EINVAL`: there is none.
    #[inline]
    pub fn from_number(number: i32) -> Result<Self> {
        match number {
            0 => Ok(Self::Real),
            1 => Ok(Self::Virtual),
            2 => Ok(Self::Prof),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// `ITIMER_REAL`.
pub(crate) struct RealItimer {
    timer: Timer,
    due_ns: u64,
    interval_ns: u64,
}

impl Drop for RealItimer {
    fn drop(&mut self) {
        self.timer.cancel();
    }
}

/// An interval timer on CPU time; `due_ns` 0 when it is off.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CpuItimer {
    due_ns: u64,
    interval_ns: u64,
}

impl CpuItimer {
    pub(crate) fn is_armed(&self) -> bool {
        self.due_ns != 0
    }

    /// Whether it expires at CPU time `now_ns`; sets the next expiry.
    pub(crate) fn expire(&mut self, now_ns: u64) -> bool {
        if self.due_ns == 0 || now_ns < self.due_ns {
            return false;
        }
        self.due_ns =
            if self.interval_ns == 0 { 0 } else { next_expiry(self.due_ns, self.interval_ns, now_ns).0 };
        true
    }
}

/// What is left of a timer, as user space sees it: never 0 while it is armed.
fn show(due_ns: u64, interval_ns: u64, now_ns: u64) -> Itimerval {
    let left_ns = if due_ns == 0 { 0 } else { due_ns.saturating_sub(now_ns).max(1000) };
    Itimerval { it_interval: Timeval::from_ns(interval_ns), it_value: Timeval::from_ns(left_ns) }
}

/// The CPU time that counts for `which`.
fn cpu_now(group: &ThreadGroup, which: Which) -> u64 {
    let times = group.cpu_times();
    if which == Which::Virtual { times.utime_ns } else { times.utime_ns + times.stime_ns }
}

/// getitimer(2).
pub fn getitimer(which: Which) -> Itimerval {
    let task = task::current();
    let group = task.group();
    if which == Which::Real {
        let now = hal::time::now_ns();
        return with(group, |timers| match &timers.real {
            Some(real) => show(real.due_ns, real.interval_ns, now),
            None => Itimerval::default(),
        });
    }
    let now = cpu_now(group, which);
    let timer = with(group, |timers| if which == Which::Virtual { timers.virt } else { timers.prof });
    show(timer.due_ns, timer.interval_ns, now)
}

/// setitimer(2); gives the old setting. `EINVAL`: a time that is none.
pub fn setitimer(which: Which, new: &Itimerval) -> Result<Itimerval> {
    let (value_ns, interval_ns) = (new.it_value.to_ns()?, new.it_interval.to_ns()?);
    let old = getitimer(which);
    let task = task::current();
    let group = task.group();
    if which == Which::Real {
        set_real(group, value_ns, interval_ns);
        return Ok(old);
    }
    let now = cpu_now(group, which);
    let due_ns = if value_ns == 0 { 0 } else { now.saturating_add(value_ns) };
    with(group, |timers| {
        let timer = if which == Which::Virtual { &mut timers.virt } else { &mut timers.prof };
        *timer = CpuItimer { due_ns, interval_ns };
    });
    arm_cpu(group);
    Ok(old)
}

/// alarm(2): gives the whole seconds that were left, rounded as Linux does (never 0 for a running timer).
pub fn alarm(seconds: u32) -> u32 {
    let task = task::current();
    let left = getitimer(Which::Real).it_value;
    set_real(task.group(), u64::from(seconds) * NSEC_PER_SEC, 0);
    let rounded = left.tv_sec + i64::from(left.tv_usec >= 500_000 || (left.tv_sec == 0 && left.tv_usec > 0));
    u32::try_from(rounded).unwrap_or(u32::MAX)
}

/// Arms `ITIMER_REAL`, or disarms it with a `value_ns` of 0.
fn set_real(group: &Arc<ThreadGroup>, value_ns: u64, interval_ns: u64) {
    let new = (value_ns != 0).then(|| {
        let weak = Arc::downgrade(group);
        let action = move || {
            if let Some(group) = weak.upgrade() {
                expire_real(&group);
            }
        };
        let due_ns = hal::time::now_ns().saturating_add(value_ns);
        RealItimer { timer: Timer::new(Arc::new(action)), due_ns, interval_ns }
    });
    let old = with(group, |timers| {
        let old = core::mem::replace(&mut timers.real, new);
        if let Some(real) = &timers.real {
            real.timer.start(real.due_ns);
        }
        old
    });
    drop(old);
}

/// `ITIMER_REAL` expires; in the timer interrupt.
fn expire_real(group: &Arc<ThreadGroup>) {
    let now = hal::time::now_ns();
    let is_due = match group.timers.lock().as_mut().and_then(|timers| timers.real.as_mut()) {
        // A new setting may have replaced the one that fired.
        Some(real) if real.due_ns != 0 && real.due_ns <= now => {
            real.due_ns = 0;
            if real.interval_ns != 0 {
                real.due_ns = next_expiry(now, real.interval_ns, now).0;
                real.timer.start(real.due_ns);
            }
            true
        }
        _ => false,
    };
    if is_due {
        signal::send_kernel(Target::Group(group), SigInfo::kernel(SIGALRM));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_timers_expire_once_or_again() {
        let mut once = CpuItimer { due_ns: 100, interval_ns: 0 };
        assert!(!once.expire(99) && once.expire(100) && !once.expire(1000));
        let mut again = CpuItimer { due_ns: 1_000_000, interval_ns: 1_000_000 };
        assert!(again.expire(1_500_000) && !again.expire(1_600_000) && again.expire(2_000_000));
        assert!(again.is_armed() && !once.is_armed());
    }

    #[test]
    fn a_running_timer_never_shows_zero() {
        assert_eq!(show(100, 0, 5_000).it_value, Timeval { tv_sec: 0, tv_usec: 1 });
        assert_eq!(show(0, 0, 5_000).it_value, Timeval::default());
    }
}
