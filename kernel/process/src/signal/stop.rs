//! Stopping and continuing processes (job control).
//!
//! ```text
//! SIGSTOP taken by one thread ─▶ all threads STOP_PENDING, stop_count = n
//!    each thread on its way to user mode: STOPPED, stop_count -= 1, sleeps in stop_wait
//!    the last one: is_stopped, parent told (CLD_STOPPED)
//! SIGCONT sent ─▶ flags cleared, sleepers woken; the first to run tells the parent (CLD_CONTINUED)
//! SIGKILL sent ─▶ KILLED wakes the sleepers too
//! ```
//!
//! Sources: signal(7), wait(2) `WUNTRACED` and `WCONTINUED`; order of events as on Linux 7.2.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use abi::signal::{CLD_CONTINUED, CLD_STOPPED, SIG_IGN, SIGCHLD, SIGCONT, SaFlags, SigInfo};
use sched::Interruptible;

use super::send::{self, Target};
use crate::group::GroupSig;
use crate::task::{CurrentTask, Notify, TaskFlags};
use crate::{Task, ThreadGroup, membership, trace};

/// Undoes a stop, finished or not; `SIGCONT` was sent.
pub(super) fn continue_group(group: &ThreadGroup, state: &mut GroupSig) {
    if state.is_stopped {
        state.notify_parent = CLD_CONTINUED;
        state.is_continued = true;
    } else if state.stop_count > 0 {
        // The stop was on its way: the parent learns of the stop, as if both had happened.
        state.notify_parent = CLD_STOPPED;
    }
    state.is_stopped = false;
    state.stop_count = 0;
    state.stop_signal = 0;
    for task in &state.threads {
        let had_to_stop = task.flags().intersects(TaskFlags::STOP_PENDING | TaskFlags::STOPPED);
        task.clear_flags(TaskFlags::STOP_PENDING | TaskFlags::STOP_COUNTED | TaskFlags::STOPPED);
        if task.has(TaskFlags::SEIZED) {
            trace::trap_notify(task);
        } else if had_to_stop || state.notify_parent != 0 {
            // Each looks again; the first to do so tells the parent.
            task.notify(Notify::Signal);
        }
    }
    group.stop_wait.wake_all();
}

/// Begins a stop of all threads by `sig`, unless the caller `me` has to take part in one already.
pub(super) fn begin(me: &Task, state: &mut GroupSig, sig: u32) {
    if me.has(TaskFlags::STOP_PENDING) || state.stop_count > 0 || state.exit.is_some() || state.exec {
        return;
    }
    if !state.is_stopped {
        state.stop_signal = sig;
    }
    state.is_continued = false;
    for task in &state.threads {
        if task.flags().intersects(TaskFlags::EXITING | TaskFlags::DEAD | TaskFlags::STOPPED) {
            continue;
        }
        task.set_flags(TaskFlags::STOP_PENDING | TaskFlags::STOP_COUNTED);
        task.stop_signal.store(sig, Relaxed);
        state.stop_count += 1;
        if task.has(TaskFlags::SEIZED) && !core::ptr::eq(&**task, me) {
            trace::trap_notify(task);
        } else {
            task.notify(Notify::Signal);
        }
    }
}

/// Counts `task` as stopped; true when it was the last, so that the process is stopped now.
pub(crate) fn take_part(task: &Task, state: &mut GroupSig) -> bool {
    let counts = task.has(TaskFlags::STOP_COUNTED);
    task.clear_flags(TaskFlags::STOP_PENDING | TaskFlags::STOP_COUNTED);
    counts && leave_count(state)
}

/// Takes part in the stop that is pending for `task`, the caller. Returns after SIGCONT or a kill; a traced task gets
/// its flag for the traced stop instead.
pub(super) fn participate(task: &CurrentTask) {
    let group = task.group();
    let is_last = {
        let mut state = group.sig.lock();
        if !task.has(TaskFlags::STOP_PENDING) || task.has(TaskFlags::KILLED) {
            return;
        }
        if task.has(TaskFlags::TRACED) {
            task.set_flags(TaskFlags::TRAP_STOP);
            return;
        }
        task.set_flags(TaskFlags::STOPPED);
        take_part(task, &mut state)
    };
    if is_last {
        notify_parent_stopped(group, CLD_STOPPED);
    }
    let is_over = || (!task.has(TaskFlags::STOPPED) || task.has(TaskFlags::KILLED)).then_some(());
    // The caller looks whether it goes on or freezes, and is counted as stopped until then.
    membership::enter_frozen(task);
    // An error means a kill, which `is_over` sees as well; the caller looks for it.
    let _ = group.stop_wait.wait_deadline(is_over, None, Interruptible::Killable);
    task.clear_flags(TaskFlags::STOPPED);
}

/// One thread less has to stop; true when it was the last, so that the process is stopped now.
pub(crate) fn leave_count(state: &mut GroupSig) -> bool {
    if state.stop_count == 0 {
        return false;
    }
    state.stop_count -= 1;
    if state.stop_count == 0 {
        state.is_stopped = true;
        return true;
    }
    false
}

/// Tells the parent of a stop or continuation: `SIGCHLD` unless it does not want it, and a wake-up for waiters.
pub(crate) fn notify_parent_stopped(group: &Arc<ThreadGroup>, why: i32) {
    let Some(parent) = group.parent() else { return };
    let action = parent.with_hand(|hand| hand.get(SIGCHLD));
    if action.handler != SIG_IGN && action.flags & SaFlags::NOCLDSTOP.bits() == 0 {
        let status = if why == CLD_CONTINUED { SIGCONT as i32 } else { group.sig.lock().stop_signal as i32 };
        let uid = group.live_task().map_or(0, |task| task.with_cred(|cred| cred.uid));
        let uid = send::uid_seen_by(&parent, uid);
        let pid = crate::pid::number_in(group.pid(), parent.pid_ns());
        let (utime, stime) = group.cpu_ticks();
        let info = SigInfo::child(why, pid as i32, uid, status, utime, stime);
        send::send_kernel(Target::Group(&parent), info);
    }
    parent.child_wait.wake_all();
}
