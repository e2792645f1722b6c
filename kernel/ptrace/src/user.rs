//! Words of `struct user`: the registers, and the debug registers.
//!
//! Source: arch/x86/include/asm/user_64.h, arch/x86/kernel/ptrace.c of Linux 7.2 for what reads as 0.

use alloc::sync::Arc;

use abi::{Errno, Result};
use hal::thread::Breakpoints;
use hal::{USER_END, UserAddr, user};
use process::Task;
use process::trace;

use crate::regs;

/// Size of `struct user`.
const LEN: u64 = 928;
/// Where the eight debug registers are in it.
const DEBUG_REGS: u64 = 848;
/// DR6 with nothing to report.
const DR6_NOTHING: u64 = 0xffff_0ff0;
/// Bits of DR7 that are not the tracer's: reserved ones, and general detect.
const DR7_RESERVED: u64 = 0xffff_ffff_0000_fc00;

/// The number of the debug register at `addr`, if there is one.
fn debug_register(addr: u64) -> Option<usize> {
    let idx = addr.checked_sub(DEBUG_REGS)? / 8;
    usize::try_from(idx).ok().filter(|idx| *idx < 8)
}

/// `EIO`: `addr` is no place of a word.
fn check(addr: u64) -> Result<()> {
    if addr.is_multiple_of(8) && addr < LEN { Ok(()) } else { Err(Errno::EIO) }
}

/// `PTRACE_PEEKUSER`.
pub(crate) fn peek(task: &Arc<Task>, addr: u64, data: u64) -> Result<()> {
    check(addr)?;
    let word = match debug_register(addr) {
        Some(idx) => {
            let regs = task.debug_regs();
            match idx {
                6 => regs.status ^ DR6_NOTHING,
                7 => regs.control,
                _ => regs.addr.get(idx).copied().unwrap_or(0),
            }
        }
        None => {
            let words = trace::with_stop(task, |stop| Ok(regs::all(stop)))?;
            words.get((addr / 8) as usize).copied().unwrap_or(0)
        }
    };
    Ok(user::write(UserAddr(data), &word)?)
}

/// `PTRACE_POKEUSER`.
pub(crate) fn poke(task: &Arc<Task>, addr: u64, data: u64) -> Result<()> {
    check(addr)?;
    match debug_register(addr) {
        Some(idx) => set_debug_register(task, idx, data),
        None => trace::with_stop(task, |stop| regs::set(stop, (addr / 8) as usize, data)),
    }
}

/// Sets debug register `idx`. `EIO`: there is none. `EINVAL`: an address or condition that is not allowed.
fn set_debug_register(task: &Task, idx: usize, value: u64) -> Result<()> {
    let mut new = task.debug_regs();
    match idx {
        0..4 => {
            if value >= USER_END {
                return Err(Errno::EINVAL);
            }
            new.addr[idx] = value;
        }
        6 => {
            new.status = value ^ DR6_NOTHING;
            task.set_debug_regs(new);
            return Ok(());
        }
        7 => new.control = value & !DR7_RESERVED,
        _ => return Err(Errno::EIO),
    }
    let thread = task.thread().ok_or(Errno::ESRCH)?;
    let wanted = Breakpoints { addr: new.addr, control: new.control };
    thread.hal().set_breakpoints(&wanted).map_err(|_| Errno::EINVAL)?;
    task.set_debug_regs(new);
    Ok(())
}
