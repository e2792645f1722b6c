//! The way to user mode: what pending signals do.
//!
//! [`exit_to_user`] runs at the base of the kernel stack, after a system call, fault or interrupt, while the thread's
//! work flags ask for it. Nothing below it holds a lock or a reference, so this is also where threads end.
//!
//! # Restart of system calls
//!
//! | result of the call | no handler runs | handler with `SA_RESTART` | other handler |
//! |---|---|---|---|
//! | `ERESTARTNOINTR` | again | again | again |
//! | `ERESTARTSYS` | again | again | `EINTR` |
//! | `ERESTARTNOHAND` | again | `EINTR` | `EINTR` |
//! | `ERESTART_RESTARTBLOCK` | restart_syscall(2) | `EINTR` | `EINTR` |
//!
//! Sources: signal(7) "Interruption of system calls and library functions by signal handlers".

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use abi::Errno;
use abi::signal::{SIG_DFL, SIG_IGN, SIGSTOP, SaFlags, SigAction, SigInfo, SigSet};
use hal::thread::Work;
use hal::trap::UserRegs;

use super::action::{Default, default_action};
use super::pending::Taken;
use super::{frame, send, stop};
use crate::task::{self, CurrentTask, TaskFlags};
use crate::timer;
use crate::{coredump, exit, hooks, membership, trace};

/// Bytes of the `syscall` instruction, which a restart runs again.
const SYSCALL_LEN: u64 = 2;
/// `orig_rax` of an entry that was no system call.
const NO_SYSCALL: u64 = u64::MAX;
/// Number of restart_syscall(2).
const SYS_RESTART_SYSCALL: u64 = 219;
/// A wait status whose process dumped core (wait(2)).
pub(crate) const CORE_DUMPED: i32 = 0x80;

/// Handles signals, stops and the end of the thread; call it until `Work::SIGNAL` is clear.
///
/// Does not return when the thread ends. The scheduler's flag is not looked at here.
pub fn exit_to_user(regs: &mut UserRegs) {
    let Some(task) = task::try_current() else { return };
    let work = task.hal().work();
    if work.contains(Work::NOTIFY) {
        task.hal().clear_work(Work::NOTIFY);
        timer::run_expired_cpu_timers(&task);
        crate::rseq::update(&task, regs);
    }
    if work.contains(Work::SIGNAL) {
        if let Some(probes) = hooks::probes() {
            probes.settle(&task, regs);
        }
        if task.has(TaskFlags::EXIT_REQUESTED) {
            let code = task.exit_code.load(Relaxed);
            exit::exit_thread(code, regs);
        }
        if task.has(TaskFlags::TASK_WORK) {
            run_task_work(&task);
        }
        if let Some(status) = handle_signal(&task, regs) {
            exit::exit_thread(status, regs);
        }
    }
}

/// Does what others left for the caller ([`Task::request_work`]), which may sleep: only a signal ends that.
///
/// [`Task::request_work`]: crate::Task::request_work
fn run_task_work(task: &CurrentTask) {
    task.clear_flags(TaskFlags::TASK_WORK);
    send::recalc(task);
    hooks::run_work(task);
}

/// As the way to user mode does it, for a call that waits for what the work brings; says whether a signal waits besides.
pub fn do_task_work() -> bool {
    let task = task::current();
    if task.has(TaskFlags::TASK_WORK) {
        run_task_work(&task);
        send::recalc(&task);
    }
    task.signal_pending()
}

/// Takes one signal and acts on it, or finishes an interrupted call when there is none. Gives the wait status with which the
/// thread is to end, if it is: apart from this, so that the end has the stack for itself.
#[inline(never)]
fn handle_signal(task: &CurrentTask, regs: &mut UserRegs) -> Option<i32> {
    match next_signal(task, regs) {
        Next::Handler(info, action) => {
            prepare_restart(regs, Some(&action));
            let steps = task.has(TaskFlags::TRACED) && trace::leave_step(task, regs);
            crate::rseq::update(task, regs);
            let is_entered = frame::enter_handler(task, &info, &action, regs);
            if steps && is_entered {
                trace::handler_entered(task, regs);
            }
            send::recalc(task);
        }
        Next::Nothing => {
            prepare_restart(regs, None);
            if task.has(TaskFlags::RESTORE_MASK) {
                task.clear_flags(TaskFlags::RESTORE_MASK);
                task.store_blocked(SigSet(task.saved_mask.load(Relaxed)));
            }
            send::recalc(task);
        }
        Next::Exit(status) => return Some(status),
    }
    None
}

/// What to do on the way out.
enum Next {
    /// Run this handler.
    Handler(SigInfo, SigAction),
    /// No signal is left that does anything.
    Nothing,
    /// End the thread with this wait status.
    Exit(i32),
}

/// Takes signals until one needs a handler or ends the process.
#[inline]
fn next_signal(task: &CurrentTask, regs: &mut UserRegs) -> Next {
    let group = task.group();
    loop {
        let mut state = group.sig.lock();
        if task.has(TaskFlags::KILLED) || state.exit.is_some() {
            return Next::Exit(state.exit.unwrap_or(abi::signal::SIGKILL as i32));
        }
        if state.notify_parent != 0 {
            let why = core::mem::take(&mut state.notify_parent);
            drop(state);
            stop::notify_parent_stopped(group, why);
            continue;
        }
        if task.has(TaskFlags::STOP_PENDING) {
            drop(state);
            stop::participate(task);
            if !task.has(TaskFlags::TRAP_STOP) {
                continue;
            }
            state = group.sig.lock();
        }
        if task.flags().intersects(TaskFlags::TRAP_STOP | TaskFlags::TRAP_NOTIFY) {
            drop(state);
            trace::jobctl_trap(task, regs);
            continue;
        }
        if task.has(TaskFlags::FREEZE) {
            drop(state);
            membership::trap(task);
            continue;
        }
        if membership::is_frozen(task) {
            drop(state);
            membership::leave_frozen(task);
            continue;
        }
        let Some(taken) = take_locked(task, &mut state, task.blocked()) else { return Next::Nothing };
        drop(state);
        let info = rearm_timer(task, taken);
        let Some(info) = trace::signal_stop(task, regs, info) else { continue };
        let sig = info.signo as u32;
        let action = group.with_hand(|hand| hand.take_for_delivery(sig));
        match action.handler {
            SIG_IGN => continue,
            SIG_DFL => {}
            _ => return Next::Handler(info, action),
        }
        if let Some(status) = act_by_default(task, regs, info) {
            return Next::Exit(status);
        }
    }
}

/// The default action for the signal of `info`; gives the wait status when the process has to end.
fn act_by_default(task: &CurrentTask, regs: &UserRegs, info: SigInfo) -> Option<i32> {
    let sig = info.signo as u32;
    let group = task.group();
    let action = default_action(sig);
    if action == Default::Ignore || (group.is_unkillable.load(Relaxed) && !SigSet::UNBLOCKABLE.has(sig)) {
        return None;
    }
    if action == Default::Stop {
        if sig != SIGSTOP && group.pgrp().is_some_and(|pgrp| pgrp.is_orphaned()) {
            return None;
        }
        stop::begin(task, &mut group.sig.lock(), sig);
        stop::participate(task);
        return None;
    }
    Some(match action {
        Default::Core => coredump::end_with_dump(task, regs, info),
        _ => exit::begin_group_exit(task, sig as i32),
    })
}

/// Takes the next signal that `blocked` lets through, the thread's own before the shared ones.
pub(super) fn take_locked(
    task: &CurrentTask,
    state: &mut crate::group::GroupSig,
    blocked: SigSet,
) -> Option<Taken> {
    if !task.pending_set().minus(blocked).is_empty() {
        let mut own = task.pending.lock();
        if let Some(sig) = own.next(blocked) {
            let taken = own.take(sig);
            task.pending_set.store(own.set().0, SeqCst);
            return Some(taken);
        }
    }
    let sig = state.shared.next(blocked)?;
    let taken = state.shared.take(sig);
    task.group().shared_set.store(state.shared.set().0, SeqCst);
    Some(taken)
}

/// Restarts a periodic POSIX timer whose signal is being taken, and fills in its overrun count.
pub(super) fn rearm_timer(task: &CurrentTask, taken: Taken) -> SigInfo {
    match taken.expiry {
        Some(expiry) => timer::signal_taken(task.group(), expiry, taken.info),
        None => taken.info,
    }
}

/// Decides how an interrupted system call goes on; `action` is that of the handler about to run.
#[inline]
fn prepare_restart(regs: &mut UserRegs, action: Option<&SigAction>) {
    // A debugger writes -1 as 32 or 64 bits.
    if regs.orig_rax as u32 == NO_SYSCALL as u32 {
        return;
    }
    let Some(error) = internal_error(regs.rax) else { return };
    let restarts = action.is_some_and(|action| action.flags & SaFlags::RESTART.bits() != 0);
    let again = match error {
        Errno::ERESTARTNOINTR => true,
        Errno::ERESTARTSYS => action.is_none() || restarts,
        Errno::ERESTARTNOHAND => action.is_none(),
        Errno::ERESTART_RESTARTBLOCK if action.is_none() => {
            regs.rax = SYS_RESTART_SYSCALL;
            regs.rip = regs.rip.wrapping_sub(SYSCALL_LEN);
            regs.orig_rax = NO_SYSCALL;
            return;
        }
        _ => false,
    };
    if again {
        regs.rax = regs.orig_rax;
        regs.rip = regs.rip.wrapping_sub(SYSCALL_LEN);
    } else {
        regs.rax = Errno::EINTR.to_return() as u64;
    }
    // Done once: another handler on top of this one must not step back again.
    regs.orig_rax = NO_SYSCALL;
}

/// The restart code in a result register, if it holds one.
fn internal_error(rax: u64) -> Option<Errno> {
    let number = i32::try_from((rax as i64).checked_neg()?).ok()?;
    let error = Errno::new(number)?;
    let is_restart =
        [Errno::ERESTARTSYS, Errno::ERESTARTNOINTR, Errno::ERESTARTNOHAND, Errno::ERESTART_RESTARTBLOCK];
    is_restart.contains(&error).then_some(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interrupted(error: Errno) -> UserRegs {
        UserRegs { rax: error.to_return() as u64, orig_rax: 7, rip: 0x1002, ..UserRegs::default() }
    }

    #[track_caller]
    fn check(error: Errno, flags: Option<SaFlags>, rax: u64, rip: u64) {
        let action = flags.map(|flags| SigAction { flags: flags.bits(), ..SigAction::default() });
        let mut regs = interrupted(error);
        prepare_restart(&mut regs, action.as_ref());
        assert_eq!((regs.rax, regs.rip), (rax, rip), "{error:?} {flags:?}");
    }

    #[test]
    fn restarts_follow_the_table() {
        let eintr = Errno::EINTR.to_return() as u64;
        let (plain, restart) = (Some(SaFlags::empty()), Some(SaFlags::RESTART));
        for flags in [None, plain, restart] {
            check(Errno::ERESTARTNOINTR, flags, 7, 0x1000);
        }
        check(Errno::ERESTARTSYS, None, 7, 0x1000);
        check(Errno::ERESTARTSYS, restart, 7, 0x1000);
        check(Errno::ERESTARTSYS, plain, eintr, 0x1002);
        check(Errno::ERESTARTNOHAND, None, 7, 0x1000);
        check(Errno::ERESTARTNOHAND, restart, eintr, 0x1002);
        check(Errno::ERESTART_RESTARTBLOCK, None, SYS_RESTART_SYSCALL, 0x1000);
        check(Errno::ERESTART_RESTARTBLOCK, restart, eintr, 0x1002);
        check(Errno::EINTR, None, eintr, 0x1002);
    }

    #[test]
    fn an_interrupt_is_no_call_to_restart() {
        let mut regs = interrupted(Errno::ERESTARTSYS);
        regs.orig_rax = NO_SYSCALL;
        let before = regs;
        prepare_restart(&mut regs, None);
        assert_eq!(regs, before);
    }
}
