//! timerfd_create(2): timers as files.
//!
//! A timer interrupt only marks the timer as expired. A periodic one is started again, and the periods since then are
//! counted, when someone reads or asks for the time left: an unread timer costs one interrupt, however short its
//! period.
//!
//! # Locks
//!
//! `WALL` (the timers on the wall clock) is outside of a timer's `timer`, which is outside of its `state`.
//!
//! Sources: timerfd_create(2).

use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::fs::OpenFlags;
use abi::poll::PollEvents;
use abi::time::{Itimerspec, Timespec, clock};
use abi::{Errno, Result};
use hal::sync::IrqLock;
use hal::time::now_ns;
use hal::uio::Dest;
use sched::{Interruptible, Mutex, PollTable, Timer, WaitQueue};
use security::{Cap, Cred};
use vfs::{File, FileMode, FileOps, Whence};

use crate::seek_nowhere;

/// `TFD_TIMER_ABSTIME`.
const ABSTIME: u32 = 1;
/// `TFD_TIMER_CANCEL_ON_SET`: a read fails with `ECANCELED` after the wall clock was set.
const CANCEL_ON_SET: u32 = 2;

#[derive(Debug, Default)]
struct State {
    /// Expirations that nobody has read.
    ticks: u64,
    /// The interrupt came and the timer was not started again.
    is_expired: bool,
    /// When it expires or expired (since boot); `None`: disarmed.
    due_ns: Option<u64>,
    /// 0: only once.
    interval_ns: u64,
    settime_flags: u32,
    /// The wall clock was set, and this is a timer that is cancelled by that.
    is_cancelled: bool,
}

impl State {
    /// Counts the periods that went by since the interrupt; gives when the timer must be started for.
    fn catch_up(&mut self, now_ns: u64) -> Option<u64> {
        if !self.is_expired || self.interval_ns == 0 {
            return None;
        }
        let due = self.due_ns?;
        let missed = now_ns.saturating_sub(due) / self.interval_ns;
        let next = due.saturating_add(self.interval_ns.saturating_mul(missed + 1));
        self.ticks = self.ticks.saturating_add(missed);
        self.is_expired = false;
        self.due_ns = Some(next);
        Some(next)
    }

    fn remaining(&self, now_ns: u64) -> Itimerspec {
        let left = match self.due_ns {
            Some(due) if !self.is_expired => due.saturating_sub(now_ns).max(1),
            _ => 0,
        };
        Itimerspec { it_interval: Timespec::from_ns(self.interval_ns), it_value: Timespec::from_ns(left) }
    }
}

/// What the interrupt reaches.
struct Shared {
    state: IrqLock<State>,
    wait: WaitQueue,
}

impl Shared {
    fn expire(&self) {
        {
            let mut state = self.state.lock();
            // Set again on another CPU meanwhile?
            if state.is_expired || state.due_ns.is_none_or(|due| due > now_ns()) {
                return;
            }
            state.is_expired = true;
            state.ticks = state.ticks.saturating_add(1);
        }
        self.wait.wake_events((PollEvents::IN | PollEvents::RDNORM).bits());
    }
}

/// The operations of a timerfd.
pub struct TimerFd {
    shared: Arc<Shared>,
    timer: Mutex<Timer>,
    clock: i32,
}

/// The open timers on the wall clock.
static WALL: Mutex<Vec<Weak<TimerFd>>> = Mutex::new("events.timerfd.wall", Vec::new());

/// The wall clock was set forward by `moved_ns`: timers that wait for a time of it follow, or are cancelled.
pub fn clock_was_set(moved_ns: i64) {
    for timer in WALL.lock().iter().filter_map(Weak::upgrade) {
        timer.clock_was_set(moved_ns);
    }
}

impl TimerFd {
    /// The expirations not read so far, if there are any; starts a periodic timer again.
    /// `ECANCELED`: the wall clock was set.
    fn take(&self) -> Option<Result<u64>> {
        let timer = self.timer.lock();
        let mut state = self.shared.state.lock();
        if core::mem::take(&mut state.is_cancelled) {
            state.ticks = 0;
            return Some(Err(Errno::ECANCELED));
        }
        if state.ticks == 0 {
            return None;
        }
        let next = state.catch_up(now_ns());
        let ticks = core::mem::take(&mut state.ticks);
        drop(state);
        if let Some(next) = next {
            timer.start(next);
        }
        Some(Ok(ticks))
    }

    fn is_on_wall(&self) -> bool {
        matches!(self.clock, clock::REALTIME | clock::REALTIME_ALARM)
    }

    fn clock_was_set(&self, moved_ns: i64) {
        let timer = self.timer.lock();
        let mut state = self.shared.state.lock();
        if state.settime_flags & ABSTIME == 0 {
            return;
        }
        state.is_cancelled = state.settime_flags & CANCEL_ON_SET != 0;
        let is_cancelled = state.is_cancelled;
        let due = state.due_ns.map(|due| due.saturating_add_signed(moved_ns.saturating_neg()));
        state.due_ns = due;
        let restarts = due.filter(|_| !state.is_expired);
        drop(state);
        if let Some(due) = restarts {
            timer.cancel();
            timer.start(due);
        }
        if is_cancelled {
            self.shared.wait.wake_events((PollEvents::IN | PollEvents::RDNORM).bits());
        }
    }

    /// timerfd_gettime(2).
    pub fn get(&self) -> Itimerspec {
        let timer = self.timer.lock();
        let mut state = self.shared.state.lock();
        let now = now_ns();
        let next = state.catch_up(now);
        let left = state.remaining(now);
        drop(state);
        if let Some(next) = next {
            timer.start(next);
        }
        left
    }

    /// timerfd_settime(2); gives the old setting. `EINVAL`: unknown flags or an invalid time.
    pub fn set(&self, flags: u32, new: &Itimerspec) -> Result<Itimerspec> {
        if flags & !(ABSTIME | CANCEL_ON_SET) != 0 {
            return Err(Errno::EINVAL);
        }
        let value = new.it_value.to_ns()?;
        let interval_ns = new.it_interval.to_ns()?;
        let timer = self.timer.lock();
        let now = now_ns();
        let due = if value == 0 {
            None
        } else if flags & ABSTIME == 0 {
            Some(now.saturating_add(value))
        } else if self.is_on_wall() {
            Some(u64::try_from(value as i128 - i128::from(hal::time::wall_base_ns())).unwrap_or(0))
        } else {
            Some(process::nsproxy::clock_outside(self.clock, value))
        };
        timer.cancel();
        let old = {
            let mut state = self.shared.state.lock();
            let _ = state.catch_up(now);
            let old = state.remaining(now);
            *state = State { due_ns: due, interval_ns, settime_flags: flags, ..State::default() };
            old
        };
        if let Some(due) = due {
            timer.start(due);
        }
        Ok(old)
    }
}

impl FileOps for TimerFd {
    fn mode(&self) -> FileMode {
        FileMode::STREAM | FileMode::SEEK
    }

    fn seek(&self, file: &File, _offset: i64, _whence: Whence) -> Result<u64> {
        seek_nowhere(file)
    }

    fn read(&self, file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        if dst.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let ticks = match self.take() {
            Some(taken) => taken?,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => self.shared.wait.wait_deadline(|| self.take(), None, Interruptible::Yes)??,
        };
        if dst.put_bytes(&ticks.to_ne_bytes())? < 8 {
            return Err(Errno::EFAULT);
        }
        Ok(8)
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        table.register(&self.shared.wait);
        let is_readable = {
            let state = self.shared.state.lock();
            state.ticks > 0 || state.is_cancelled
        };
        if is_readable { PollEvents::IN | PollEvents::RDNORM } else { PollEvents::empty() }
    }

    fn show_fdinfo(&self, _file: &File, out: &mut Vec<u8>) {
        let left = self.get();
        let (ticks, flags) = {
            let state = self.shared.state.lock();
            (state.ticks, state.settime_flags)
        };
        let text = format!(
            "clockid: {}\nticks: {ticks}\nsettime flags: 0{flags:o}\nit_value: ({}, {})\nit_interval: ({}, {})\n",
            self.clock,
            left.it_value.tv_sec,
            left.it_value.tv_nsec,
            left.it_interval.tv_sec,
            left.it_interval.tv_nsec,
        );
        out.extend_from_slice(text.as_bytes());
    }
}

/// Makes a disarmed timer on `clock`. `EINVAL`: no such clock. `EPERM`: an alarm clock without `CAP_WAKE_ALARM`.
pub fn create(clock: i32, flags: OpenFlags, cred: &Arc<Cred>) -> Result<Arc<File>> {
    match clock {
        clock::REALTIME | clock::MONOTONIC | clock::BOOTTIME => {}
        clock::REALTIME_ALARM | clock::BOOTTIME_ALARM => {
            if !cred.capable(Cap::WAKE_ALARM) {
                return Err(Errno::EPERM);
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    let shared =
        Arc::new(Shared { state: IrqLock::new("events.timerfd", State::default()), wait: WaitQueue::new() });
    let action = shared.clone();
    let timer = Timer::new(Arc::new(move || action.expire()));
    let ops = Arc::new(TimerFd { shared, timer: Mutex::new("events.timerfd.timer", timer), clock });
    if ops.is_on_wall() {
        let mut wall = WALL.lock();
        wall.retain(|timer| timer.strong_count() > 0);
        wall.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        wall.push(Arc::downgrade(&ops));
    }
    vfs::anon::file("[timerfd]", ops, OpenFlags::RDWR | flags & OpenFlags::NONBLOCK, cred)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expired(interval_ns: u64) -> State {
        State { ticks: 1, is_expired: true, due_ns: Some(1000), interval_ns, ..State::default() }
    }

    #[test]
    fn missed_periods_are_counted_when_looked_at() {
        let mut state = expired(100);
        assert_eq!(state.catch_up(1350), Some(1400));
        assert_eq!((state.ticks, state.is_expired), (4, false));
        assert_eq!(state.catch_up(1360), None);
        assert_eq!(state.remaining(1360).it_value.tv_nsec, 40);
    }

    #[test]
    fn a_single_expiry_stays_expired() {
        let mut state = expired(0);
        assert_eq!(state.catch_up(5000), None);
        assert_eq!((state.ticks, state.remaining(5000)), (1, Itimerspec::default()));
    }
}
