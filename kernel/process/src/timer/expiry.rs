//! What happens when a POSIX timer expires, and when its signal is taken, dropped or no longer ignored.
//!
//! Between the decision that a timer is due and its signal's way into the queue no lock is held, as signals are sent
//! under `ThreadGroup::sig`, which is taken before `timers`. An [`Expiry`] says which setting of the timer it belongs to:
//!
//! ```text
//! notify: state = Queued (timers)                      timer_settime(2), timer_delete(2), sigaction(2) elsewhere:
//! signal::send_timer (sig)                             disarm: seq + 1, state = Idle   (timers)
//!   settle: same seq, still Queued? (sig, timers)      ignored: state = Ignored        (sig, timers)
//!     no: drop it    yes: into the queue, with seq
//! signal_taken: same seq, still Queued? (timers)
//!     yes: go on, seq + 1
//! ```
//!
//! Timers on CPU time of another process are looked at by that process, whose `Timers::watchers` names them.
//!
//! Source: the rules for ignored signals and for the choice of the thread are those of Linux 7.2.

use alloc::sync::{Arc, Weak};

use abi::signal::{SigInfo, SigSet};
use abi::{Errno, Result};

use super::cpu_clock::{CpuClock, CpuTimes, Kind};
use super::posix::{Base, Notification, PosixTimer, State, with_timer};
use super::{arm_cpu, next_expiry, with};
use crate::signal::{self, Target};
use crate::task::CurrentTask;
use crate::{ThreadGroup, pid};

/// One expiry of one setting of a timer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expiry {
    pub(crate) id: u32,
    seq: u64,
}

/// A timer of another process on the CPU time of this one.
#[derive(Clone)]
pub(crate) struct Watcher {
    owner: Weak<ThreadGroup>,
    id: u32,
    kind: Kind,
    /// When it expires, in nanoseconds of its clock; [`DORMANT`] while that is for its owner to say.
    due_ns: u64,
}

/// It has expired and is not set again yet.
const DORMANT: u64 = u64::MAX;

impl Watcher {
    fn is_same(&self, other: &Self) -> bool {
        self.id == other.id && self.owner.ptr_eq(&other.owner)
    }
}

/// A signal on its way from a timer.
struct Shot {
    info: SigInfo,
    notification: Notification,
    expiry: Expiry,
}

impl PosixTimer {
    /// Claims the right to send the signal.
    fn shoot(&mut self) -> Shot {
        self.state = State::Queued;
        let expiry = Expiry { id: self.id, seq: self.seq };
        Shot { info: self.info(), notification: self.event.notification, expiry }
    }

    /// Sets the next expiry after `now_ns`, or disarms; gives the missed periods.
    fn advance(&mut self, now_ns: u64) -> u64 {
        self.state = State::Idle;
        self.seq += 1;
        if self.interval_ns == 0 || self.due_ns == 0 {
            self.due_ns = 0;
            return 0;
        }
        let (next, missed) = next_expiry(self.due_ns, self.interval_ns, now_ns);
        self.arm(next);
        missed
    }

    /// Its signal is ignored: it waits until that changes, or is over.
    fn ignore(&mut self) {
        self.state = if self.interval_ns == 0 { State::Idle } else { State::Ignored };
    }
}

/// Sends the signal of timer `id` if it is due at `now_ns` of its base. Usable in interrupts.
pub(super) fn notify(group: &Arc<ThreadGroup>, id: u32, now_ns: u64) {
    let due = with_timer(group, id, |timer| {
        let is_due = timer.due_ns != 0 && timer.due_ns <= now_ns;
        if !is_due || timer.state != State::Idle || !timer.expires() {
            return None;
        }
        if timer.interval_ns == 0 {
            timer.due_ns = 0;
        }
        Some(timer.shoot())
    });
    if let Ok(Some(shot)) = due {
        send(group, shot);
    }
}

/// Sends a timer's signal.
fn send(group: &Arc<ThreadGroup>, shot: Shot) {
    let Notification::Thread(tid) = shot.notification else {
        return signal::send_timer(Target::Group(group), shot.info, shot.expiry);
    };
    // With its thread gone, the timer waits for ever, as on Linux.
    if let Some(task) = pid::find_task_global(tid).filter(|task| Arc::ptr_eq(task.group(), group)) {
        signal::send_timer(Target::Thread(&task), shot.info, shot.expiry);
    }
}

/// Calls `f` with the timer of `expiry`, unless it was set or deleted since, or its signal dropped.
fn with_queued<R>(group: &ThreadGroup, expiry: Expiry, f: impl FnOnce(&mut PosixTimer) -> R) -> Option<R> {
    let mut timers = group.timers.lock();
    let timer = timers.as_mut()?.find(expiry.id)?;
    (timer.seq == expiry.seq && timer.state == State::Queued).then(|| f(timer))
}

/// Whether the signal of `expiry` may be sent: not if the timer was set or deleted since. The caller holds
/// `ThreadGroup::sig`.
pub(crate) fn settle(group: &ThreadGroup, expiry: Expiry) -> bool {
    with_queued(group, expiry, |_| ()).is_some()
}

/// The signal of `expiry` is ignored. The caller holds `ThreadGroup::sig`.
pub(crate) fn ignored(group: &ThreadGroup, expiry: Expiry) {
    with_queued(group, expiry, PosixTimer::ignore);
}

/// The pending signals of `which` were dropped; those of timers count as ignored. The caller holds `ThreadGroup::sig`.
pub(crate) fn signals_dropped(group: &ThreadGroup, which: SigSet) {
    let mut timers = group.timers.lock();
    let Some(timers) = timers.as_mut() else { return };
    let queued = timers.posix.iter_mut().filter(|timer| timer.state == State::Queued);
    for timer in queued.filter(|timer| which.has(timer.event.signo)) {
        timer.ignore();
    }
}

/// `sig` is ignored no longer: timers that expired meanwhile send it now.
pub(crate) fn signal_unignored(group: &Arc<ThreadGroup>, sig: u32) {
    let mut from = 0;
    while let Some(shot) = next_ignored(group, from, sig) {
        let id = shot.expiry.id;
        send(group, shot);
        from = id + 1;
    }
}

/// Claims the next timer from id `from` on whose signal `sig` was ignored.
fn next_ignored(group: &ThreadGroup, from: u32, sig: u32) -> Option<Shot> {
    let mut timers = group.timers.lock();
    let is_wanted = |timer: &PosixTimer| timer.state == State::Ignored && timer.event.signo == sig;
    Some(timers.as_mut()?.find_from(from, is_wanted)?.shoot())
}

/// The signal of `expiry` was taken: the timer goes on, and the siginfo gets its overrun count.
pub(crate) fn signal_taken(group: &Arc<ThreadGroup>, expiry: Expiry, mut info: SigInfo) -> SigInfo {
    let id = expiry.id;
    let Ok(base) = with_timer(group, id, |timer| timer.base.clone()) else { return info };
    let now = base.now().unwrap_or(0);
    // A timer set or deleted meanwhile leaves the siginfo as it is: its next signal is another one.
    let due_ns = with_queued(group, expiry, |timer| {
        timer.last_overrun = timer.advance(now);
        timer.set_overrun(&mut info);
        timer.due_ns
    });
    if let (Base::Cpu(clock), Some(due_ns @ 1..)) = (&base, due_ns) {
        // It is known there already, so that no memory is needed.
        let _ = watch(group, id, clock, due_ns);
    }
    info
}

/// The processes that must look at timer `id` of `group`, due at `due_ns` of `clock`, will. `EAGAIN`: no memory.
pub(super) fn watch(group: &Arc<ThreadGroup>, id: u32, clock: &CpuClock, due_ns: u64) -> Result<()> {
    let Some(other) = clock.process_other_than(group) else {
        arm_cpu(group);
        return Ok(());
    };
    let new = Watcher { owner: Arc::downgrade(group), id, kind: clock.kind(), due_ns };
    with(&other, |timers| -> Result<()> {
        if let Some(known) = timers.watchers.iter_mut().find(|watcher| watcher.is_same(&new)) {
            known.due_ns = due_ns;
            return Ok(());
        }
        timers.watchers.try_reserve(1).map_err(|_| Errno::EAGAIN)?;
        timers.watchers.push(new.clone());
        Ok(())
    })?;
    arm_cpu(&other);
    // Deleted meanwhile by another thread, which found no watcher to take away.
    with_timer(group, id, |_| ()).inspect_err(|_| remove_watcher(&other, |watcher| watcher.is_same(&new)))
}

/// Nobody looks any more at `timer` of `group`, which is gone.
pub(super) fn unwatch(group: &Arc<ThreadGroup>, timer: &PosixTimer) {
    let Base::Cpu(clock) = &timer.base else { return };
    if let Some(other) = clock.process_other_than(group) {
        let gone = Watcher { owner: Arc::downgrade(group), id: timer.id, kind: clock.kind(), due_ns: 0 };
        remove_watcher(&other, |watcher| watcher.is_same(&gone));
    }
}

/// Takes the watcher of `group` that is meant away.
fn remove_watcher(group: &ThreadGroup, is_meant: impl Fn(&Watcher) -> bool) {
    let removed = with(group, |timers| {
        let place = timers.watchers.iter().position(is_meant)?;
        Some(timers.watchers.swap_remove(place))
    });
    drop(removed);
}

/// Expires timers on CPU time: those on the time of the caller's process or thread.
pub(super) fn expire_cpu(task: &CurrentTask, times: &CpuTimes) {
    let group = task.group();
    let mut from = 0;
    while let Some((id, now)) = next_due(task, from, times) {
        notify(group, id, now);
        from = id + 1;
    }
    // Whoever is not due costs a comparison.
    while let Some(watcher) = with(group, |timers| {
        let is_due = |watcher: &&mut Watcher| watcher.due_ns <= watcher.kind.of(times.process);
        let due = timers.watchers.iter_mut().find(is_due)?;
        due.due_ns = DORMANT;
        Some(due.clone())
    }) {
        expire_watcher(group, &watcher, times);
    }
}

/// The next timer from id `from` on that is due by the caller's CPU times, and the time on its clock.
fn next_due(task: &CurrentTask, from: u32, times: &CpuTimes) -> Option<(u32, u64)> {
    let group = task.group();
    let time_of = |timer: &PosixTimer| match &timer.base {
        Base::Cpu(clock) if timer.due_ns != 0 && timer.state == State::Idle && timer.expires() => {
            clock.among(group, task.arc(), times).filter(|now| timer.due_ns <= *now)
        }
        _ => None,
    };
    with(group, |timers| {
        let timer = timers.find_from(from, |timer| time_of(timer).is_some())?;
        Some((timer.id, time_of(timer)?))
    })
}

/// Expires a timer of another process on the CPU time of `group`, the caller's.
fn expire_watcher(group: &ThreadGroup, watcher: &Watcher, times: &CpuTimes) {
    let is_set = watcher.owner.upgrade().is_some_and(|owner| {
        notify(&owner, watcher.id, watcher.kind.of(times.process));
        with_timer(&owner, watcher.id, |timer| timer.due_ns != 0).unwrap_or(false)
    });
    if !is_set {
        // Unless its owner has set it meanwhile.
        remove_watcher(group, |other| other.is_same(watcher) && other.due_ns == DORMANT);
    }
}
