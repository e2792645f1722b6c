//! Timers of a process: setitimer(2), alarm(2), POSIX timers, `RLIMIT_CPU`.
//!
//! Timers on real time are `sched::Timer`s and expire in the timer interrupt. Timers on CPU time are looked at by the tick
//! ([`tick`], in the interrupt, which only compares flags) and run on the way to user mode ([`run_expired_cpu_timers`]).
//!
//! # Locking
//!
//! `ThreadGroup::timers` is irq-safe and a leaf but for the scheduler's timer queues. It is taken under `ThreadGroup::sig`,
//! so signals are sent after it was released.
//!
//! A periodic timer never fires sooner than [`MIN_PERIOD_NS`] after now, so that no program can keep a CPU in the interrupt.

mod cpu_clock;
mod expiry;
mod itimer;
mod posix;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

use abi::signal::{SIGKILL, SIGXCPU, SigInfo};
use abi::time::NSEC_PER_SEC;
use hal::sync::IrqLockGuard;
use hal::thread::Work;
use limits::{RLIM_INFINITY, Resource};

use crate::ThreadGroup;
use crate::signal::{self, Target};
use crate::task::{self, CurrentTask};

pub use cpu_clock::{ClockUse, CpuClock};
pub(crate) use expiry::{Expiry, ignored, settle, signal_taken, signal_unignored, signals_dropped};
pub(crate) use itimer::{CpuItimer, RealItimer};
pub use itimer::{Which, alarm, getitimer, setitimer};
use posix::PosixTimer;
pub use posix::{
    Notification, TimerEvent, TimerInfo, clock_was_set, restores_ids, set_restore_ids, timer_create,
    timer_delete, timer_getoverrun, timer_gettime, timer_list, timer_settime,
};

/// The shortest time from now to the next expiry of a periodic timer.
pub(crate) const MIN_PERIOD_NS: u64 = 50_000;

/// All timers of one process.
#[derive(Default)]
pub(crate) struct Timers {
    pub(crate) real: Option<RealItimer>,
    pub(crate) virt: CpuItimer,
    pub(crate) prof: CpuItimer,
    /// By id.
    #[expect(clippy::vec_box, reason = "they are moved when one is deleted, with interrupts off")]
    posix: Vec<Box<PosixTimer>>,
    /// The id that comes next.
    next_id: u32,
    /// timer_create(2) takes the id from the caller.
    restores_ids: bool,
    /// Timers of other processes on the CPU time of this one.
    watchers: Vec<expiry::Watcher>,
    /// The CPU time in seconds at which `SIGXCPU` comes next, 0 before the first.
    xcpu_at_s: u64,
}

/// Whether the process has timers on CPU time; the tick looks at nothing else.
pub(crate) struct CpuArmed(AtomicBool);

impl CpuArmed {
    pub(crate) const fn new() -> Self {
        Self(AtomicBool::new(false))
    }
}

/// The timers of `group`, made on first use.
pub(crate) fn lock(group: &ThreadGroup) -> IrqLockGuard<'_, Option<Box<Timers>>> {
    let guard = group.timers.lock();
    if guard.is_some() {
        return guard;
    }
    drop(guard);
    // Made outside of the lock; the loser of a race drops its own.
    let mut fresh = Some(Box::<Timers>::default());
    let mut guard = group.timers.lock();
    if guard.is_none() {
        *guard = fresh.take();
    }
    guard
}

/// Calls `f` with the timers of `group`.
pub(crate) fn with<R>(group: &ThreadGroup, f: impl FnOnce(&mut Timers) -> R) -> R {
    let mut guard = lock(group);
    f(guard.get_or_insert_default())
}

/// The next expiry of a periodic timer that was due at `due_ns`, and how many periods were missed.
pub(crate) fn next_expiry(due_ns: u64, interval_ns: u64, now_ns: u64) -> (u64, u64) {
    let missed = now_ns.saturating_sub(due_ns) / interval_ns.max(1);
    let next = due_ns.saturating_add(interval_ns.saturating_mul(missed + 1));
    (next.max(now_ns.saturating_add(MIN_PERIOD_NS)), missed)
}

/// Tells that `group` has (or may have) timers on CPU time.
pub(crate) fn arm_cpu(group: &ThreadGroup) {
    group.cpu_armed.0.store(true, Relaxed);
}

/// The tick: asks the current thread to look at its CPU timers if there are any. Call it in the timer interrupt.
pub fn tick() {
    let Some(task) = task::try_current() else { return };
    if has_cpu_timers(task.group()) {
        task.hal().set_work(Work::NOTIFY);
    }
}

/// Whether anything depends on the CPU time of `group`.
fn has_cpu_timers(group: &ThreadGroup) -> bool {
    group.cpu_armed.0.load(Relaxed) || group.rlimits().cur(Resource::Cpu) != RLIM_INFINITY
}

/// Runs the timers on CPU time of the caller's process that have expired.
pub(crate) fn run_expired_cpu_timers(task: &CurrentTask) {
    let group = task.group();
    if !has_cpu_timers(group) {
        return;
    }
    let times = group.cpu_times();
    let total_ns = times.utime_ns + times.stime_ns;
    let clocks = cpu_clock::CpuTimes { process: times.into(), thread: task.usage().into() };
    let mut due = Vec::new();
    with(group, |timers| {
        due.extend(timers.virt.expire(times.utime_ns).then(|| SigInfo::kernel(abi::signal::SIGVTALRM)));
        due.extend(timers.prof.expire(total_ns).then(|| SigInfo::kernel(abi::signal::SIGPROF)));
        due.extend(cpu_limit_signal(group, timers, total_ns / NSEC_PER_SEC));
        let is_armed = timers.virt.is_armed()
            || timers.prof.is_armed()
            || !timers.watchers.is_empty()
            || timers.posix.iter().any(|timer| timer.is_on_cpu_time());
        // Under the lock: whoever arms a timer does so under it, and says so afterwards.
        group.cpu_armed.0.store(is_armed, Relaxed);
    });
    for info in due {
        signal::send_kernel(Target::Group(group), info);
    }
    expiry::expire_cpu(task, &clocks);
}

/// `RLIMIT_CPU`: `SIGXCPU` each second from the soft limit on, `SIGKILL` at the hard one.
fn cpu_limit_signal(group: &ThreadGroup, timers: &mut Timers, used_s: u64) -> Option<SigInfo> {
    let limit = group.rlimits().get(Resource::Cpu);
    if used_s >= limit.rlim_max {
        return Some(SigInfo::kernel(SIGKILL));
    }
    if used_s < limit.rlim_cur || used_s < timers.xcpu_at_s {
        return None;
    }
    timers.xcpu_at_s = used_s + 1;
    Some(SigInfo::kernel(SIGXCPU))
}

/// The process ends: all timers go.
pub(crate) fn cancel_all(group: &Arc<ThreadGroup>) {
    let timers = group.timers.lock().take();
    // Dropped without the lock: each timer is cancelled by its `Drop`.
    if let Some(timers) = timers {
        timers.posix.iter().for_each(|timer| expiry::unwatch(group, timer));
    }
}

/// execve(2): POSIX timers are deleted, interval timers stay.
pub(crate) fn exec(group: &Arc<ThreadGroup>) {
    let gone = match group.timers.lock().as_mut() {
        Some(timers) => {
            timers.restores_ids = false;
            core::mem::take(&mut timers.posix)
        }
        None => return,
    };
    gone.iter().for_each(|timer| expiry::unwatch(group, timer));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_periods_are_counted_and_skipped() {
        assert_eq!(next_expiry(1_000_000, 1_000_000, 1_000_000), (2_000_000, 0));
        assert_eq!(next_expiry(1_000_000, 1_000_000, 4_500_000), (5_000_000, 3));
        let (next, missed) = next_expiry(0, 1, 1_000_000);
        assert_eq!((next, missed), (1_000_000 + MIN_PERIOD_NS, 1_000_000));
        assert_eq!(next_expiry(0, u64::MAX, 5).0, u64::MAX);
    }
}
