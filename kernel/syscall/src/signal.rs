//! Signals: actions, masks, sending and waiting (signal(7)).

use abi::signal::{SigAction, SigInfo, SigSet, StackT};
use abi::time::Timespec;
use abi::{Errno, Result};
use hal::{UserAddr, user};
use process::signal;

use crate::Cx;

/// Bytes of a signal set.
const SET_SIZE: usize = 8;

fn check_size(size: usize) -> Result<()> {
    if size == SET_SIZE { Ok(()) } else { Err(Errno::EINVAL) }
}

/// rt_sigaction(2).
pub(crate) fn sys_rt_sigaction(
    _cx: &mut Cx<'_>,
    sig: i32,
    new: UserAddr,
    old: UserAddr,
    size: usize,
) -> Result<usize> {
    check_size(size)?;
    let new = if new.0 == 0 { None } else { Some(user::read::<SigAction>(new)?) };
    let before = signal::sigaction(sig, new)?;
    if old.0 != 0 {
        user::write(old, &before)?;
    }
    Ok(0)
}

/// rt_sigprocmask(2).
pub(crate) fn sys_rt_sigprocmask(
    _cx: &mut Cx<'_>,
    how: i32,
    set: UserAddr,
    old: UserAddr,
    size: usize,
) -> Result<usize> {
    check_size(size)?;
    let set = if set.0 == 0 { None } else { Some(user::read::<SigSet>(set)?) };
    let before = signal::sigmask(how, set)?;
    if old.0 != 0 {
        user::write(old, &before)?;
    }
    Ok(0)
}

/// rt_sigpending(2).
pub(crate) fn sys_rt_sigpending(_cx: &mut Cx<'_>, set: UserAddr, size: usize) -> Result<usize> {
    if size > SET_SIZE {
        return Err(Errno::EINVAL);
    }
    user::write_bytes(set, &signal::sigpending().0.to_le_bytes()[..size])?;
    Ok(0)
}

/// rt_sigsuspend(2).
pub(crate) fn sys_rt_sigsuspend(_cx: &mut Cx<'_>, mask: UserAddr, size: usize) -> Result<usize> {
    check_size(size)?;
    let mask: SigSet = user::read(mask)?;
    Err(signal::sigsuspend(mask.minus(SigSet::UNBLOCKABLE)))
}

/// pause(2).
pub(crate) fn sys_pause(_cx: &mut Cx<'_>) -> Result<usize> {
    Err(signal::pause())
}

/// rt_sigtimedwait(2).
pub(crate) fn sys_rt_sigtimedwait(
    _cx: &mut Cx<'_>,
    set: UserAddr,
    info: UserAddr,
    timeout: UserAddr,
    size: usize,
) -> Result<usize> {
    check_size(size)?;
    let set: SigSet = user::read(set)?;
    let deadline = if timeout.0 == 0 {
        None
    } else {
        let timeout: Timespec = user::read(timeout)?;
        Some(hal::time::now_ns().saturating_add(timeout.to_ns()?))
    };
    let taken = signal::sigtimedwait(set, deadline)?;
    if info.0 != 0 {
        user::write(info, &taken)?;
    }
    Ok(taken.signo as usize)
}

/// rt_sigreturn(2): the registers come from the frame, the result register among them.
pub(crate) fn sys_rt_sigreturn(cx: &mut Cx<'_>) -> Result<usize> {
    signal::sigreturn(cx.regs);
    cx.keep_result();
    Ok(0)
}

/// sigaltstack(2).
pub(crate) fn sys_sigaltstack(cx: &mut Cx<'_>, new: UserAddr, old: UserAddr) -> Result<usize> {
    let new = if new.0 == 0 { None } else { Some(user::read::<StackT>(new)?) };
    let before = signal::sigaltstack(cx.regs.rsp, new.as_ref())?;
    if old.0 != 0 {
        user::write(old, &before)?;
    }
    Ok(0)
}

/// kill(2).
pub(crate) fn sys_kill(_cx: &mut Cx<'_>, pid: i32, sig: i32) -> Result<usize> {
    signal::kill(pid, sig).map(|()| 0)
}

/// tkill(2).
pub(crate) fn sys_tkill(_cx: &mut Cx<'_>, tid: i32, sig: i32) -> Result<usize> {
    signal::tkill(tid, sig).map(|()| 0)
}

/// tgkill(2).
pub(crate) fn sys_tgkill(_cx: &mut Cx<'_>, tgid: i32, tid: i32, sig: i32) -> Result<usize> {
    signal::tgkill(tgid, tid, sig).map(|()| 0)
}

/// rt_sigqueueinfo(2).
pub(crate) fn sys_rt_sigqueueinfo(_cx: &mut Cx<'_>, pid: i32, sig: i32, info: UserAddr) -> Result<usize> {
    signal::sigqueue(pid, None, sig, user::read::<SigInfo>(info)?).map(|()| 0)
}

/// rt_tgsigqueueinfo(2).
pub(crate) fn sys_rt_tgsigqueueinfo(
    _cx: &mut Cx<'_>,
    tgid: i32,
    tid: i32,
    sig: i32,
    info: UserAddr,
) -> Result<usize> {
    signal::sigqueue(tgid, Some(tid), sig, user::read::<SigInfo>(info)?).map(|()| 0)
}

/// restart_syscall(2): goes on with the call that a stop interrupted.
pub(crate) fn sys_restart_syscall(_cx: &mut Cx<'_>) -> Result<usize> {
    signal::restart_syscall()
}
