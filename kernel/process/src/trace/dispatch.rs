//! System-call user dispatch: calls made outside a range of code become `SIGSYS`, if a byte in memory says so.
//!
//! Source: prctl(2) `PR_SET_SYSCALL_USER_DISPATCH`, Documentation/admin-guide/syscall-user-dispatch.rst.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use abi::signal::{SIGSEGV, SIGSYS, SigInfo};
use abi::{Errno, Result};
use hal::trap::UserRegs;
use hal::{USER_END, UserAddr, user};

use super::SyscallWork;
use crate::task::{self, CurrentTask};
use crate::{Task, signal};

/// What a thread asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dispatch {
    /// `PR_SYS_DISPATCH_OFF`, `PR_SYS_DISPATCH_EXCLUSIVE_ON`, `PR_SYS_DISPATCH_INCLUSIVE_ON`.
    pub mode: u64,
    /// Start of the range.
    pub offset: u64,
    /// Its length.
    pub len: u64,
    /// The byte that says whether calls are allowed; 0 for none.
    pub selector: u64,
}

const OFF: u64 = 0;
/// Calls from inside the range are always made.
const EXCLUSIVE_ON: u64 = 1;
/// Calls from outside the range are always made.
const INCLUSIVE_ON: u64 = 2;
const ALLOW: u8 = 0;
const BLOCK: u8 = 1;
/// `si_code` of the signal.
const SYS_USER_DISPATCH: i32 = 2;
/// `AUDIT_ARCH_X86_64`.
const ARCH: u64 = 0xc000_003e;

/// Sets how the calls of `task` are dispatched.
///
/// `EINVAL`: an unknown mode, or a range that does not go with it. `EFAULT`: the selector is no user address.
fn set(task: &Task, mut wanted: Dispatch) -> Result<()> {
    match wanted.mode {
        OFF if wanted.offset != 0 || wanted.len != 0 || wanted.selector != 0 => return Err(Errno::EINVAL),
        OFF => {}
        EXCLUSIVE_ON | INCLUSIVE_ON => {
            // Linux lets any exclusive range pass that begins at 0; one that wraps or is empty is none otherwise.
            let is_open = wanted.mode == EXCLUSIVE_ON && wanted.offset == 0;
            if !is_open && wanted.offset.wrapping_add(wanted.len) <= wanted.offset {
                return Err(Errno::EINVAL);
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    if wanted.mode != OFF && wanted.selector != 0 && wanted.selector >= USER_END {
        return Err(Errno::EFAULT);
    }
    if wanted.mode == INCLUSIVE_ON {
        // The same question turned around: the range that is exempt is what remains, modulo 2^64.
        wanted.offset = wanted.offset.wrapping_add(wanted.len);
        wanted.len = wanted.len.wrapping_neg();
        wanted.mode = EXCLUSIVE_ON;
    }
    *task.dispatch.lock() = wanted;
    if wanted.mode == OFF {
        task.stop_syscall_work(SyscallWork::DISPATCH);
    } else {
        task.start_syscall_work(SyscallWork::DISPATCH);
    }
    Ok(())
}

/// `PR_SET_SYSCALL_USER_DISPATCH` for the caller.
pub fn set_own(wanted: Dispatch) -> Result<()> {
    set(&task::current(), wanted)
}

/// `PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG` for a stopped tracee of the caller.
pub fn set_of(task: &Arc<Task>, wanted: Dispatch) -> Result<()> {
    super::with_stop(task, |_| Ok(()))?;
    set(task, wanted)
}

/// What `task` asked for. An inclusive range is told as the exclusive one that it became.
pub fn of(task: &Task) -> Dispatch {
    *task.dispatch.lock()
}

/// Turns it off at execve(2).
pub(crate) fn reset(task: &Task) {
    *task.dispatch.lock() = Dispatch::default();
    task.stop_syscall_work(SyscallWork::DISPATCH);
}

/// Whether the call of `task`, the caller, became a signal.
pub(super) fn to_user(task: &CurrentTask, regs: &mut UserRegs) -> bool {
    let wanted = *task.dispatch.lock();
    if regs.rip.wrapping_sub(wanted.offset) < wanted.len {
        return false;
    }
    if wanted.selector != 0 {
        match user::read::<u8>(UserAddr(wanted.selector)) {
            Ok(ALLOW) => return false,
            Ok(BLOCK) => {}
            Ok(_) => {
                signal::force_fatal(SIGSYS);
                return true;
            }
            Err(_) => {
                signal::force_fatal(SIGSEGV);
                return true;
            }
        }
    }
    task.was_dispatched.store(true, Relaxed);
    let (nr, at) = (regs.orig_rax, regs.rip);
    regs.rax = nr;
    let mut info = SigInfo::fault(SIGSYS, SYS_USER_DISPATCH, at);
    info.fields[1] = nr & 0xffff_ffff | ARCH << 32;
    signal::force(info);
    true
}

/// Whether the call that ends now was dispatched; asked once.
pub(super) fn was_dispatched(task: &CurrentTask) -> bool {
    task.was_dispatched.load(Relaxed) && task.was_dispatched.swap(false, Relaxed)
}
