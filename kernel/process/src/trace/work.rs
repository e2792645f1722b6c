//! What happens around system calls of a task that is watched: `hal::thread::Work::TRACE` leads here.
//!
//! ```text
//! entry: system-call dispatch ─▶ tracer's stop ─▶ seccomp ─▶ the call ─▶ exit: single step or tracer's stop
//! ```
//! Each may skip the call. Order as on Linux 7.2.

use core::sync::atomic::Ordering::SeqCst;

use bitflags::bitflags;
use hal::thread::Work;
use hal::trap::UserRegs;

use super::stop::{Side, step_done, syscall_stop};
use super::{Options, dispatch};
use crate::Task;
use crate::hooks;
use crate::task::{self, TaskFlags};

bitflags! {
    /// Reasons to look at each system call of a task.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SyscallWork: u32 {
        /// A tracer stops at each.
        const TRACE = 1;
        /// A tracer stops at each, and it is not made.
        const EMULATE = 2;
        /// A tracer steps: the call counts as one instruction.
        const STEP = 4;
        /// A seccomp mode is on.
        const SECCOMP = 8;
        /// Calls may be dispatched to user space (`PR_SET_SYSCALL_USER_DISPATCH`).
        const DISPATCH = 16;
    }
}

impl Task {
    /// The reasons to look at its system calls.
    pub fn syscall_work(&self) -> SyscallWork {
        SyscallWork::from_bits_retain(self.syscall_work.load(SeqCst))
    }

    /// Adds reasons to look at its system calls, from the next one on.
    pub fn start_syscall_work(&self, work: SyscallWork) {
        if work.is_empty() {
            return;
        }
        self.syscall_work.fetch_or(work.bits(), SeqCst);
        if let Some(thread) = self.thread.load() {
            thread.hal().set_work(Work::TRACE);
        }
    }

    /// Takes reasons away.
    pub fn stop_syscall_work(&self, work: SyscallWork) {
        let before = self.syscall_work.fetch_and(!work.bits(), SeqCst);
        if before == 0 || before & !work.bits() != 0 {
            return;
        }
        let Some(thread) = self.thread.load() else { return };
        thread.hal().clear_work(Work::TRACE);
        // Another reason may have come between the two: then its flag must not be lost.
        if self.syscall_work.load(SeqCst) != 0 {
            thread.hal().set_work(Work::TRACE);
        }
    }
}

/// What becomes of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enter {
    /// It is made; its number may have changed.
    Run,
    /// It is not made; the result register says what it returns.
    Skip,
}

/// Whether `task`'s tracer keeps seccomp from looking.
pub fn seccomp_suspended(task: &Task) -> bool {
    task.tracee().is_some_and(|tie| tie.options().contains(Options::SUSPEND_SECCOMP))
}

/// Before a system call of a watched task.
#[cold]
pub fn enter_syscall(regs: &mut UserRegs) -> Enter {
    let task = task::current();
    let work = task.syscall_work();
    if work.contains(SyscallWork::DISPATCH) && dispatch::to_user(&task, regs) {
        return Enter::Skip;
    }
    if work.intersects(SyscallWork::TRACE | SyscallWork::EMULATE) {
        syscall_stop(&task, regs, Side::Entry);
        if task.has(TaskFlags::KILLED) || work.contains(SyscallWork::EMULATE) {
            return Enter::Skip;
        }
    }
    // The tracer may have installed or changed what comes next.
    let is_filtered = task.syscall_work().contains(SyscallWork::SECCOMP) && !seccomp_suspended(&task);
    if is_filtered && hooks::seccomp(&task, regs) == Enter::Skip {
        return Enter::Skip;
    }
    if regs.orig_rax as i32 == -1 { Enter::Skip } else { Enter::Run }
}

/// After a system call of a watched task.
#[cold]
pub fn leave_syscall(regs: &mut UserRegs) {
    let task = task::current();
    // Of a dispatched call nobody knows whose it is: tracers do not see it.
    if dispatch::was_dispatched(&task) {
        return;
    }
    let work = task.syscall_work();
    if task.flags().intersects(TaskFlags::EXIT_REQUESTED | TaskFlags::KILLED) {
        return;
    }
    if work.contains(SyscallWork::STEP) {
        step_done(regs);
    } else if work.contains(SyscallWork::TRACE) {
        syscall_stop(&task, regs, Side::Exit);
    }
}
