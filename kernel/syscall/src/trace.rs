//! Calls that look into other processes, and those that restrict or redirect system calls.

use abi::signal::{SIGILL, SigInfo};
use abi::{Errno, Result};
use hal::{UserAddr, user};
use process::signal;
use process::trace::dispatch::{self, Dispatch};
use seccomp::{FilterFlags, action};

use crate::Cx;

const PTRACE_SECCOMP_GET_FILTER: i64 = 0x420c;
const PTRACE_SECCOMP_GET_METADATA: i64 = 0x420d;
const PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG: i64 = 0x4210;
const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: i64 = 0x4211;

/// ptrace(2).
pub(crate) fn sys_ptrace(_cx: &mut Cx<'_>, request: i64, pid: i64, addr: u64, data: u64) -> Result<usize> {
    let stopped = || {
        let task = ptrace::find(pid)?;
        process::trace::with_stop(&task, |_| Ok(()))?;
        Ok::<_, Errno>(task)
    };
    match request {
        PTRACE_SECCOMP_GET_METADATA => seccomp::get_metadata(&*stopped()?, addr, UserAddr(data)),
        PTRACE_SECCOMP_GET_FILTER => seccomp::get_filter(&*stopped()?, addr, UserAddr(data)),
        PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG | PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG => {
            let task = stopped()?;
            // `struct ptrace_sud_config`: mode, selector, offset, length.
            if addr != 32 {
                return Err(Errno::EINVAL);
            }
            if request == PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG {
                let now = dispatch::of(&task);
                user::write(UserAddr(data), &[now.mode, now.selector, now.offset, now.len])?;
            } else {
                let [mode, selector, offset, len]: [u64; 4] = user::read(UserAddr(data))?;
                dispatch::set_of(&task, Dispatch { mode, offset, len, selector })?;
            }
            Ok(0)
        }
        _ => ptrace::ptrace(request, pid, addr, data),
    }
}

/// seccomp(2). `EINVAL`: an unknown operation or flag. `EOPNOTSUPP`: no such action.
pub(crate) fn sys_seccomp(_cx: &mut Cx<'_>, op: u32, flags: u32, args: UserAddr) -> Result<usize> {
    const SET_MODE_STRICT: u32 = 0;
    const SET_MODE_FILTER: u32 = 1;
    const GET_ACTION_AVAIL: u32 = 2;
    const GET_NOTIF_SIZES: u32 = 3;
    match op {
        SET_MODE_STRICT if flags == 0 && args.0 == 0 => seccomp::set_strict().map(|()| 0),
        SET_MODE_FILTER => {
            let flags = FilterFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
            seccomp::set_filter(flags, args)
        }
        GET_ACTION_AVAIL if flags == 0 => {
            let wanted: u32 = user::read(args)?;
            if action::exists(wanted) { Ok(0) } else { Err(Errno::EOPNOTSUPP) }
        }
        GET_NOTIF_SIZES if flags == 0 => {
            user::write(args, &seccomp::NOTIF_SIZES)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// prctl(2) `PR_SET_SECCOMP`. `EINVAL`: an unknown mode.
pub(crate) fn set_seccomp(mode: u64, program: u64) -> Result<usize> {
    match mode {
        1 => seccomp::set_strict().map(|()| 0),
        2 => seccomp::set_filter(FilterFlags::empty(), UserAddr(program)),
        _ => Err(Errno::EINVAL),
    }
}

/// prctl(2) `PR_GET_SECCOMP`.
pub(crate) fn seccomp_mode() -> usize {
    process::current().seccomp().map_or(0, |state| state.mode as usize)
}

/// prctl(2) `PR_SET_SYSCALL_USER_DISPATCH`.
pub(crate) fn set_dispatch(mode: u64, offset: u64, len: u64, selector: u64) -> Result<usize> {
    dispatch::set_own(Dispatch { mode, offset, len, selector }).map(|()| 0)
}

/// uretprobe(2), for a trampoline that this kernel does not use: a call from elsewhere is an illegal instruction.
pub(crate) fn sys_uretprobe(_cx: &mut Cx<'_>) -> Result<usize> {
    signal::force(SigInfo::kernel(SIGILL));
    Err(Errno::EPERM)
}

/// uprobe(2), likewise. `EPROTO`: not called from a trampoline.
pub(crate) fn sys_uprobe(_cx: &mut Cx<'_>) -> Result<usize> {
    Err(Errno::EPROTO)
}
