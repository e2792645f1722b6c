//! POSIX timers: timer_create(2) and its family.
//!
//! ```text
//! disarmed ─settime▶ armed ─expires▶ signal queued ─signal taken▶ armed again (interval), overruns counted
//!                      ▲                                             │
//!                      └───────── ignored or SIGEV_NONE ◀────────────┘
//! ```
//!
//! A timer has at most one signal queued; expiries meanwhile are overruns (timer_getoverrun(2)).
//!
//! Sources: timer_create(2), timer_settime(2), timer_getoverrun(2).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::signal::{SI_TIMER, SIGALRM, SigInfo};
use abi::time::{Itimerspec, TIMER_ABSTIME, Timespec, clock};
use abi::{Errno, Result};
use limits::Resource;
use sched::Timer;
use security::Cap;

use super::{Timers, arm_cpu, next_expiry, with};
use crate::signal::{self, SentTimer, Target};
use crate::{ThreadGroup, pid, task};

/// Most timers of one process, whatever the limit on queued signals.
const MAX_TIMERS: usize = 1 << 16;
/// Highest overrun count that is reported (`DELAYTIMER_MAX`).
const MAX_OVERRUN: u64 = i32::MAX as u64;

/// What happens when a timer expires (`sigev_notify`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification {
    /// Nothing.
    None,
    /// A signal to the process.
    Signal,
    /// A signal to this thread of the process.
    Thread(u32),
}

/// `struct sigevent`.
#[derive(Clone, Copy, Debug)]
pub struct TimerEvent {
    /// Whom to tell.
    pub notification: Notification,
    /// With which signal.
    pub signo: u32,
    /// `sigev_value`; `None` without a sigevent, where it is the timer's id.
    pub value: Option<u64>,
}

impl Default for TimerEvent {
    fn default() -> Self {
        Self { notification: Notification::Signal, signo: SIGALRM, value: None }
    }
}

/// The time that a timer measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    /// Monotonic time (boot time too: the machine does not sleep).
    Monotonic,
    /// Wall-clock time.
    Realtime,
    /// CPU time of the process.
    ProcessCpu,
    /// CPU time of the thread.
    ThreadCpu(u32),
}

/// One timer.
pub(crate) struct PosixTimer {
    clock_id: i32,
    base: Base,
    /// Set to a time of the wall clock: it moves when that is set.
    is_wall: bool,
    event: TimerEvent,
    timer: Option<Timer>,
    /// Expiry in monotonic or CPU time; 0 when disarmed.
    due_ns: u64,
    interval_ns: u64,
    /// Its signal is queued; it goes on when that is taken.
    is_queued: bool,
    overrun: u64,
    /// What timer_getoverrun(2) tells: overruns of the signal taken last.
    last_overrun: u64,
}

impl Drop for PosixTimer {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            timer.cancel();
        }
    }
}

impl PosixTimer {
    /// Whether it is armed and on CPU time.
    pub(crate) fn is_on_cpu_time(&self) -> bool {
        self.due_ns != 0 && matches!(self.base, Base::ProcessCpu | Base::ThreadCpu(_))
    }

    /// Time on its base, in the numbers that `due_ns` uses.
    fn now(&self, group: &ThreadGroup) -> u64 {
        match self.base {
            Base::Monotonic | Base::Realtime => hal::time::now_ns(),
            Base::ProcessCpu => group.cpu_ns(),
            Base::ThreadCpu(tid) => pid::find_task_global(tid).map_or(0, |task| {
                let used = task.usage();
                used.utime_ns + used.stime_ns
            }),
        }
    }

    /// What user space sees.
    fn show(&self, now_ns: u64) -> Itimerspec {
        let mut due_ns = self.due_ns;
        if due_ns != 0 && due_ns <= now_ns && self.interval_ns != 0 {
            due_ns = next_expiry(due_ns, self.interval_ns, now_ns).0;
        }
        let is_over = due_ns <= now_ns && self.event.notification == Notification::None;
        let left_ns = if due_ns == 0 || is_over { 0 } else { due_ns.saturating_sub(now_ns).max(1) };
        Itimerspec { it_interval: Timespec::from_ns(self.interval_ns), it_value: Timespec::from_ns(left_ns) }
    }

    /// The siginfo of an expiry.
    fn info(&self, id: u32) -> SigInfo {
        let mut info = SigInfo::new(self.event.signo, SI_TIMER);
        info.fields[0] = u64::from(id) | self.overrun.min(MAX_OVERRUN) << 32;
        info.fields[1] = self.event.value.unwrap_or(u64::from(id));
        info
    }
}

/// The base of clock `id`. `EINVAL`: no such clock. `EOPNOTSUPP`: one without timers. `EPERM`: an alarm clock without
/// `CAP_WAKE_ALARM`.
fn base_of(id: i32) -> Result<Base> {
    match id {
        clock::MONOTONIC | clock::BOOTTIME => Ok(Base::Monotonic),
        clock::REALTIME | clock::TAI => Ok(Base::Realtime),
        // The machine does not sleep, so these have nothing to wake it from.
        clock::REALTIME_ALARM | clock::BOOTTIME_ALARM => {
            if !task::current().with_cred(|cred| cred.capable(Cap::WAKE_ALARM)) {
                return Err(Errno::EPERM);
            }
            Ok(if id == clock::REALTIME_ALARM { Base::Realtime } else { Base::Monotonic })
        }
        clock::PROCESS_CPUTIME_ID => Ok(Base::ProcessCpu),
        clock::THREAD_CPUTIME_ID => Ok(Base::ThreadCpu(task::current().tid())),
        clock::MONOTONIC_RAW | clock::REALTIME_COARSE | clock::MONOTONIC_COARSE => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}

/// Calls `f` with the timer `id` of the caller's process. `EINVAL`: there is none.
fn with_timer<R>(group: &ThreadGroup, id: i32, f: impl FnOnce(&mut PosixTimer) -> R) -> Result<R> {
    let idx = usize::try_from(id).map_err(|_| Errno::EINVAL)?;
    with(group, |timers| timers.posix.get_mut(idx).and_then(Option::as_mut).map(f)).ok_or(Errno::EINVAL)
}

/// timer_create(2): gives the new timer's id. `EINVAL`: bad clock, signal or thread. `EAGAIN`: too many timers.
pub fn timer_create(clock_id: i32, event: TimerEvent) -> Result<i32> {
    let base = base_of(clock_id)?;
    let task = task::current();
    let group = task.group();
    if event.notification != Notification::None && !(1..=abi::signal::NSIG).contains(&event.signo) {
        return Err(Errno::EINVAL);
    }
    let mut event = event;
    if let Notification::Thread(tid) = event.notification {
        let thread = pid::find_task(tid).filter(|thread| Arc::ptr_eq(thread.group(), group));
        event.notification = Notification::Thread(thread.ok_or(Errno::EINVAL)?.tid());
    }
    let timer = PosixTimer {
        clock_id,
        base,
        is_wall: false,
        event,
        timer: None,
        due_ns: 0,
        interval_ns: 0,
        is_queued: false,
        overrun: 0,
        last_overrun: 0,
    };
    let limit =
        usize::try_from(group.rlimits().cur(Resource::Sigpending)).unwrap_or(usize::MAX).min(MAX_TIMERS);
    let idx = with(group, |timers| insert(timers, timer, limit)).ok_or(Errno::EAGAIN)?;
    if matches!(base, Base::Monotonic | Base::Realtime) {
        let weak = Arc::downgrade(group);
        let action = move || {
            if let Some(group) = weak.upgrade() {
                expire(&group, idx as u32);
            }
        };
        let machine = Timer::new(Arc::new(action));
        with_timer(group, idx as i32, |timer| timer.timer = Some(machine))?;
    }
    Ok(idx as i32)
}

/// Puts `timer` at the first free place.
fn insert(timers: &mut Timers, timer: PosixTimer, limit: usize) -> Option<usize> {
    let from = timers.first_free;
    if let Some(place) = timers.posix.iter().skip(from).position(Option::is_none) {
        let idx = from + place;
        *timers.posix.get_mut(idx)? = Some(timer);
        timers.first_free = idx + 1;
        return Some(idx);
    }
    timers.first_free = timers.posix.len();
    if timers.posix.len() >= limit || timers.posix.try_reserve(1).is_err() {
        return None;
    }
    timers.posix.push(Some(timer));
    timers.first_free = timers.posix.len();
    Some(timers.posix.len() - 1)
}

/// timer_settime(2); gives the old setting. `EINVAL`: no such timer, or a time that is none.
pub fn timer_settime(id: i32, flags: u32, new: &Itimerspec) -> Result<Itimerspec> {
    let (value_ns, interval_ns) = (new.it_value.to_ns()?, new.it_interval.to_ns()?);
    let task = task::current();
    let group = task.group();
    let (clock_now, old) = now_and_setting(group, id)?;
    let is_absolute = flags & TIMER_ABSTIME != 0;
    let is_cpu = with_timer(group, id, |timer| {
        timer.interval_ns = interval_ns;
        timer.is_wall = is_absolute && timer.base == Base::Realtime;
        timer.is_queued = false;
        timer.overrun = 0;
        let offset_ns = if timer.base == Base::Realtime { hal::time::wall_base_ns() } else { 0 };
        timer.due_ns = match (value_ns, is_absolute) {
            (0, _) => 0,
            (_, true) => {
                let due_ns = value_ns.saturating_sub(u64::try_from(offset_ns).unwrap_or(0));
                crate::nsproxy::clock_outside(timer.clock_id, due_ns).max(1)
            }
            (_, false) => clock_now.saturating_add(value_ns),
        };
        if let Some(machine) = &timer.timer {
            machine.cancel();
            if timer.due_ns != 0 {
                machine.start(timer.due_ns);
            }
        }
        timer.is_on_cpu_time()
    })?;
    let signo = with_timer(group, id, |timer| timer.event.signo)?;
    signal::flush_timer(group, signo, id as u32);
    if is_cpu {
        arm_cpu(group);
    }
    Ok(old)
}

/// The time on the timer's base, and its setting.
fn now_and_setting(group: &ThreadGroup, id: i32) -> Result<(u64, Itimerspec)> {
    // Its base never changes, so the time may be read without the lock that CPU clocks cannot be read under.
    let probe = with_timer(group, id, |timer| timer.copy())?;
    let now = probe.now(group);
    let setting = with_timer(group, id, |timer| timer.show(now))?;
    Ok((now, setting))
}

impl PosixTimer {
    /// Its numbers, without the machine's timer.
    fn copy(&self) -> Self {
        Self {
            clock_id: self.clock_id,
            base: self.base,
            is_wall: self.is_wall,
            event: self.event,
            timer: None,
            due_ns: self.due_ns,
            interval_ns: self.interval_ns,
            is_queued: self.is_queued,
            overrun: self.overrun,
            last_overrun: self.last_overrun,
        }
    }
}

/// timer_gettime(2).
pub fn timer_gettime(id: i32) -> Result<Itimerspec> {
    Ok(now_and_setting(task::current().group(), id)?.1)
}

/// timer_getoverrun(2).
pub fn timer_getoverrun(id: i32) -> Result<i32> {
    with_timer(task::current().group(), id, |timer| timer.last_overrun.min(MAX_OVERRUN) as i32)
}

/// timer_delete(2).
pub fn timer_delete(id: i32) -> Result<()> {
    let task = task::current();
    let group = task.group();
    let idx = usize::try_from(id).map_err(|_| Errno::EINVAL)?;
    let taken = with(group, |timers| {
        let gone = timers.posix.get_mut(idx).and_then(Option::take)?;
        timers.first_free = timers.first_free.min(idx);
        Some(gone)
    });
    let gone = taken.ok_or(Errno::EINVAL)?;
    signal::flush_timer(group, gone.event.signo, id as u32);
    Ok(())
}

/// The wall clock was set forward by `moved_ns`: timers that wait for a time of it follow.
pub fn clock_was_set(moved_ns: i64) {
    for group in pid::processes() {
        let mut timers = group.timers.lock();
        let Some(timers) = timers.as_mut() else { continue };
        for timer in timers.posix.iter_mut().flatten().filter(|timer| timer.is_wall && timer.due_ns != 0) {
            timer.due_ns = timer.due_ns.saturating_add_signed(moved_ns.saturating_neg()).max(1);
            if let Some(machine) = timer.timer.as_ref().filter(|_| !timer.is_queued) {
                machine.cancel();
                machine.start(timer.due_ns);
            }
        }
    }
}

/// A timer as /proc/PID/timers shows it.
#[derive(Clone, Copy, Debug)]
pub struct TimerInfo {
    /// Its id.
    pub id: i32,
    /// Its clock.
    pub clock_id: i32,
    /// What it does.
    pub event: TimerEvent,
}

/// All POSIX timers of `group`.
pub fn timer_list(group: &ThreadGroup) -> Vec<TimerInfo> {
    with(group, |timers| {
        let numbered = (0..).zip(timers.posix.iter());
        numbered
            .filter_map(|(id, timer)| {
                timer.as_ref().map(|timer| TimerInfo { id, clock_id: timer.clock_id, event: timer.event })
            })
            .collect()
    })
}

/// Timer `id` expires on real time; in the timer interrupt.
fn expire(group: &Arc<ThreadGroup>, id: u32) {
    let now = hal::time::now_ns();
    notify(group, id, now);
}

/// Sends the signal of timer `id`, which is due at `now_ns` of its base, and sets the next expiry where nobody waits for
/// the signal to be taken.
fn notify(group: &Arc<ThreadGroup>, id: u32, now_ns: u64) {
    let due = with_timer(group, id as i32, |timer| {
        if timer.due_ns == 0 || timer.due_ns > now_ns || timer.is_queued {
            return None;
        }
        if timer.event.notification == Notification::None {
            advance(timer, now_ns);
            return None;
        }
        timer.is_queued = true;
        Some((timer.info(id), timer.event.notification))
    });
    let Ok(Some((info, notification))) = due else { return };
    let sent = match notification {
        Notification::Thread(tid) => match pid::find_task_global(tid) {
            Some(task) => signal::send_timer(Target::Thread(&task), info, id),
            None => SentTimer::Ignored,
        },
        _ => signal::send_timer(Target::Group(group), info, id),
    };
    if sent != SentTimer::Queued {
        // Nobody will take it, so the timer goes on by itself. A timer deleted meanwhile is gone.
        let _ = with_timer(group, id as i32, |timer| {
            timer.is_queued = false;
            advance(timer, now_ns);
        });
    }
}

/// Sets the next expiry of a periodic timer, or disarms; gives the missed periods.
fn advance(timer: &mut PosixTimer, now_ns: u64) -> u64 {
    if timer.interval_ns == 0 {
        timer.due_ns = 0;
        return 0;
    }
    let (next, missed) = next_expiry(timer.due_ns, timer.interval_ns, now_ns);
    timer.due_ns = next;
    if let Some(machine) = &timer.timer {
        machine.start(next);
    }
    missed
}

/// The signal of timer `id` is being taken: the timer goes on, and the siginfo gets its overrun count.
pub(crate) fn signal_taken(group: &Arc<ThreadGroup>, id: u32, mut info: SigInfo) -> SigInfo {
    let Ok((now, _)) = now_and_setting(group, id as i32) else { return info };
    let overrun = with_timer(group, id as i32, |timer| {
        if !timer.is_queued {
            return timer.overrun;
        }
        timer.is_queued = false;
        timer.last_overrun = advance(timer, now);
        timer.last_overrun
    });
    if let Ok(overrun) = overrun {
        info.fields[0] = u64::from(id) | overrun.min(MAX_OVERRUN) << 32;
    }
    info
}

/// CPU times for [`expire_cpu`].
pub(super) struct CpuClocks {
    pub(super) process_ns: u64,
    pub(super) tid: u32,
    pub(super) thread_ns: u64,
}

/// Expires timers on CPU time: those of the process and those of the calling thread.
pub(super) fn expire_cpu(group: &Arc<ThreadGroup>, clocks: &CpuClocks) {
    let nr = with(group, |timers| timers.posix.len());
    for id in 0..nr {
        let base = with_timer(group, id as i32, |timer| timer.base);
        match base {
            Ok(Base::ProcessCpu) => notify(group, id as u32, clocks.process_ns),
            Ok(Base::ThreadCpu(tid)) if tid == clocks.tid => notify(group, id as u32, clocks.thread_ns),
            _ => {}
        }
    }
}
