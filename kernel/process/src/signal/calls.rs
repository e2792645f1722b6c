//! Masks, actions and waiting for signals: what the system calls of this family do.
//!
//! Sources: sigaction(2), sigprocmask(2), sigpending(2), sigsuspend(2), sigwaitinfo(2), sigaltstack(2), signalfd(2).

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use abi::signal::{NSIG, SIG_DFL, SIG_IGN, SigAction, SigInfo, SigSet, StackT};
use abi::{Errno, Result};
use sched::{Interruptible, WaitError};

use super::action::{Default, default_action};
use super::{deliver, frame, send};
use crate::task::{self, CurrentTask, Restart, TaskFlags};
use crate::{Task, timer};

/// How rt_sigprocmask(2) changes the mask.
const SIG_BLOCK: i32 = 0;
const SIG_UNBLOCK: i32 = 1;
const SIG_SETMASK: i32 = 2;

/// rt_sigprocmask(2): changes the mask by `how` and gives the old one. `EINVAL`: an unknown `how`.
pub fn sigmask(how: i32, set: Option<SigSet>) -> Result<SigSet> {
    let task = task::current();
    let old = task.blocked();
    let Some(set) = set else { return Ok(old) };
    let new = match how {
        SIG_BLOCK => old.union(set),
        SIG_UNBLOCK => old.minus(set),
        SIG_SETMASK => set,
        _ => return Err(Errno::EINVAL),
    };
    let new = new.minus(SigSet::UNBLOCKABLE);
    if new != old {
        frame::set_blocked(&task, new);
    }
    Ok(old)
}

/// rt_sigaction(2): sets the action of `sig` and gives the old one. `EINVAL`: no such signal, or not to be caught.
pub fn sigaction(sig: i32, new: Option<SigAction>) -> Result<SigAction> {
    let sig = u32::try_from(sig).ok().filter(|sig| (1..=NSIG).contains(sig)).ok_or(Errno::EINVAL)?;
    let task = task::current();
    let group = task.group();
    let Some(new) = new else { return Ok(group.with_hand(|hand| hand.get(sig))) };
    if SigSet::UNBLOCKABLE.has(sig) {
        return Err(Errno::EINVAL);
    }
    let is_ignored =
        |handler| handler == SIG_IGN || (handler == SIG_DFL && default_action(sig) == Default::Ignore);
    let mut state = group.sig.lock();
    let old = group.with_hand(|hand| hand.set(sig, new));
    if is_ignored(new.handler) {
        // POSIX: what is pending is dropped, blocked or not.
        send::flush_everywhere(group, &mut state, SigSet::of(sig));
    } else if old.handler == SIG_IGN {
        drop(state);
        timer::signal_unignored(group, sig);
    }
    Ok(old)
}

/// rt_sigpending(2): the signals that are pending and blocked.
pub fn sigpending() -> SigSet {
    let task = task::current();
    task.pending_set().union(task.group().shared_set()).intersection(task.blocked())
}

/// Replaces the mask until the present system call has been interrupted: ppoll(2), pselect(2), epoll_pwait(2),
/// sigsuspend(2).
///
/// The old mask comes back when a signal was handled, or by [`CallMask::restore`] when the call ends otherwise.
pub fn set_mask_for_call(mask: SigSet) -> CallMask {
    let task = task::current();
    task.saved_mask.store(task.blocked().0, Relaxed);
    task.set_flags(TaskFlags::RESTORE_MASK);
    frame::set_blocked(&task, mask);
    CallMask(())
}

/// A mask that holds for one system call.
#[must_use]
pub struct CallMask(());

impl CallMask {
    /// Ends the call with `result`: an interrupted one leaves the mask to the signal's delivery, any other gets the old
    /// mask back now.
    pub fn finish<T>(self, result: Result<T>) -> Result<T> {
        let is_interrupted = matches!(
            result,
            Err(Errno::EINTR | Errno::ERESTARTSYS | Errno::ERESTARTNOHAND | Errno::ERESTART_RESTARTBLOCK)
        );
        if !is_interrupted {
            self.restore();
        }
        result
    }

    /// Puts the old mask back now.
    pub fn restore(self) {
        let task = task::current();
        task.clear_flags(TaskFlags::RESTORE_MASK);
        frame::set_blocked(&task, SigSet(task.saved_mask.load(Relaxed)));
    }
}

/// rt_sigsuspend(2): sleeps with `mask` until a signal was handled; always an error, as it never succeeds.
pub fn sigsuspend(mask: SigSet) -> Errno {
    // Not restored here: the handler's frame or the way out does that.
    let CallMask(()) = set_mask_for_call(mask);
    pause_until_signal();
    Errno::ERESTARTNOHAND
}

/// Sleeps until a signal is pending.
fn pause_until_signal() {
    while !task::current().signal_pending() {
        // Being interrupted is what this waits for.
        let _ = sched::sleep_until(u64::MAX, Interruptible::Yes);
    }
}

/// pause(2): sleeps until a signal was handled.
pub fn pause() -> Errno {
    pause_until_signal();
    Errno::ERESTARTNOHAND
}

/// Remembers how the present call goes on after a stop, and gives the error that makes it do so.
pub fn restart_with(goes_on: Restart) -> Errno {
    let old = task::current().restart.lock().replace(goes_on);
    drop(old);
    Errno::ERESTART_RESTARTBLOCK
}

/// restart_syscall(2): goes on with the call that a stop interrupted. `EINTR`: there is none.
pub fn restart_syscall() -> Result<usize> {
    let goes_on = task::current().restart.lock().take();
    goes_on.map_or(Err(Errno::EINTR), |goes_on| goes_on())
}

/// Takes a pending signal of `wanted`, for signalfd(2) and sigtimedwait(2).
pub fn dequeue(wanted: SigSet) -> Option<SigInfo> {
    let task = task::current();
    let blocked = SigSet(!wanted.minus(SigSet::UNBLOCKABLE).0);
    let info = take(&task, blocked)?;
    send::recalc(&task);
    Some(info)
}

/// Takes a signal not in `blocked`.
fn take(task: &CurrentTask, blocked: SigSet) -> Option<SigInfo> {
    let taken = deliver::take_locked(task, &mut task.group().sig.lock(), blocked)?;
    Some(deliver::rearm_timer(task, taken))
}

/// Whether a signal of `wanted` is pending for the caller (signalfd's poll).
pub fn signals_pending(wanted: SigSet) -> bool {
    let task = task::current();
    !task.pending_set().union(task.group().shared_set()).intersection(wanted).is_empty()
}

/// rt_sigtimedwait(2): takes a signal of `wanted`, waiting until `deadline_ns` (since boot), for ever without one.
///
/// `EAGAIN`: the time is over. `EINTR`: another signal has to be handled.
pub fn sigtimedwait(wanted: SigSet, deadline_ns: Option<u64>) -> Result<SigInfo> {
    let task = task::current();
    let wanted = wanted.minus(SigSet::UNBLOCKABLE);
    let blocked = SigSet(!wanted.0);
    if let Some(info) = take(&task, blocked) {
        return Ok(info);
    }
    // Unblocked while asleep, so that senders choose and wake this thread; but not dropped as ignored, and not fatal.
    let mask = task.blocked();
    task.waited_for.store(wanted.0, SeqCst);
    task.store_blocked(mask.minus(wanted));
    send::recalc(&task);
    let slept = task.group().signal_wait.wait_deadline(
        || signals_pending(wanted).then_some(()),
        deadline_ns,
        Interruptible::Yes,
    );
    task.store_blocked(mask);
    task.waited_for.store(0, SeqCst);
    let taken = take(&task, blocked);
    send::recalc(&task);
    match (taken, slept) {
        (Some(info), _) => Ok(info),
        (None, Err(WaitError::TimedOut)) => Err(Errno::EAGAIN),
        (None, _) => Err(Errno::EINTR),
    }
}

/// The pending signal at place `at` of the queue of `task`, or of its process. It stays pending.
pub fn peek_pending(task: &Task, is_shared: bool, at: usize) -> Option<SigInfo> {
    let state = task.group().sig.lock();
    if is_shared { state.shared.entry(at) } else { task.pending.lock().entry(at) }
}

/// The mask of the stopped tracee `task`, as it will be after the present call.
pub fn mask_of(task: &Task) -> SigSet {
    if task.has(TaskFlags::RESTORE_MASK) { SigSet(task.saved_mask.load(Relaxed)) } else { task.blocked() }
}

/// Sets the mask of the stopped tracee `task`, which looks at its signals when it goes on.
pub fn set_mask_of(task: &Task, mask: SigSet) {
    let _state = task.group().sig.lock();
    task.store_blocked(mask);
    task.clear_flags(TaskFlags::RESTORE_MASK);
}

/// sigaltstack(2). `sp` is the caller's stack pointer.
pub fn sigaltstack(sp: u64, new: Option<&StackT>) -> Result<StackT> {
    frame::change_alt_stack(sp, new)
}
