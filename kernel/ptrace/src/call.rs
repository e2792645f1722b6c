//! The system call that a tracee is in.
//!
//! ```text
//! byte 0 op  2 flags  4 arch  8 instruction pointer  16 stack pointer
//!     24 entry: nr, six arguments (80 bytes)     exit: result, is_error (33)
//!        seccomp: as entry, ret_data (84)
//! ```
//!
//! Source: ptrace(2) `PTRACE_GET_SYSCALL_INFO`; include/uapi/linux/ptrace.h of Linux 7.2.

use alloc::sync::Arc;

use abi::signal::SIGTRAP;
use abi::{Errno, Result};
use hal::trap::UserRegs;
use hal::{UserAddr, user};
use process::Task;
use process::trace::{self, Stop, event};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `AUDIT_ARCH_X86_64`.
const ARCH: u32 = 0xc000_003e;
const NONE: u8 = 0;
const ENTRY: u8 = 1;
const EXIT: u8 = 2;
const SECCOMP: u8 = 3;

/// `struct ptrace_syscall_info`, with the union as words.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Info {
    op: u8,
    reserved: u8,
    flags: u16,
    arch: u32,
    instruction_pointer: u64,
    stack_pointer: u64,
    words: [u64; 8],
}

const _: () = assert!(size_of::<Info>() == 88);

/// What kind of stop it is, from the point of view of system calls.
fn op(stop: &Stop) -> u8 {
    const SYSCALL: i32 = SIGTRAP as i32 | 0x80;
    const FILTER: i32 = SIGTRAP as i32 | event::SECCOMP << 8;
    match (stop.info.map_or(0, |info| info.code), stop.message) {
        (SYSCALL, 1) => ENTRY,
        (SYSCALL, 2) => EXIT,
        (FILTER, _) => SECCOMP,
        _ => NONE,
    }
}

/// The error in a result register, if it holds one.
fn error_of(rax: u64) -> Option<i64> {
    const MAX_ERRNO: i64 = 4095;
    let value = rax as i64;
    (-MAX_ERRNO..0).contains(&value).then_some(value)
}

fn arguments(regs: &UserRegs) -> [u64; 6] {
    [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9]
}

/// The structure and how many bytes of it count.
fn describe(stop: &Stop) -> (Info, usize) {
    let regs = &stop.regs;
    let mut info = Info {
        op: op(stop),
        arch: ARCH,
        instruction_pointer: regs.rip,
        stack_pointer: regs.rsp,
        ..Info::default()
    };
    let len = match info.op {
        ENTRY | SECCOMP => {
            info.words[0] = regs.orig_rax as i32 as i64 as u64;
            info.words[1..7].copy_from_slice(&arguments(regs));
            if info.op == SECCOMP {
                info.words[7] = stop.message & 0xffff_ffff;
                84
            } else {
                80
            }
        }
        EXIT => {
            info.words[0] = regs.rax;
            info.words[1] = u64::from(error_of(regs.rax).is_some());
            33
        }
        _ => 24,
    };
    (info, len)
}

/// `PTRACE_GET_SYSCALL_INFO`: at most `room` bytes to `data`; gives how many there are.
pub(crate) fn get(task: &Arc<Task>, room: u64, data: u64) -> Result<usize> {
    let (info, len) = trace::with_stop(task, |stop| Ok(describe(stop)))?;
    let part = usize::try_from(room).unwrap_or(usize::MAX).min(len);
    user::write_bytes(UserAddr(data), info.as_bytes().get(..part).unwrap_or_default())?;
    Ok(len)
}

/// `PTRACE_SET_SYSCALL_INFO`. `EINVAL`: too short, of another kind than the stop, or reserved fields are used.
/// `ERANGE`: a number that is no 32-bit one.
pub(crate) fn set(task: &Arc<Task>, len: u64, data: u64) -> Result<()> {
    if len < size_of::<Info>() as u64 {
        return Err(Errno::EINVAL);
    }
    let info: Info = user::read(UserAddr(data))?;
    if info.reserved != 0 || info.flags != 0 {
        return Err(Errno::EINVAL);
    }
    trace::with_stop(task, |stop| {
        if op(stop) != info.op {
            return Err(Errno::EINVAL);
        }
        match info.op {
            ENTRY => set_call(&mut stop.regs, &info.words),
            SECCOMP if info.words[7] >> 32 != 0 => Err(Errno::EINVAL),
            SECCOMP => set_call(&mut stop.regs, &info.words),
            EXIT => set_result(&mut stop.regs, &info.words),
            _ => Err(Errno::EINVAL),
        }
    })
}

fn set_call(regs: &mut UserRegs, words: &[u64; 8]) -> Result<()> {
    let nr = i32::try_from(words[0] as i64).map_err(|_| Errno::ERANGE)?;
    regs.orig_rax = i64::from(nr) as u64;
    if nr != -1 {
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] =
            [words[1], words[2], words[3], words[4], words[5], words[6]];
    }
    Ok(())
}

fn set_result(regs: &mut UserRegs, words: &[u64; 8]) -> Result<()> {
    let is_error = words[1] & 0xff != 0;
    if is_error {
        i32::try_from(words[0] as i64).map_err(|_| Errno::ERANGE)?;
    }
    regs.rax = words[0];
    Ok(())
}

/// `struct ptrace_rseq_configuration`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RseqConfiguration {
    pointer: u64,
    size: u32,
    signature: u32,
    flags: u32,
    pad: u32,
}

/// `PTRACE_GET_RSEQ_CONFIGURATION`: at most `room` bytes to `data`; gives the size.
pub(crate) fn rseq(task: &Arc<Task>, room: u64, data: u64) -> Result<usize> {
    let (pointer, size, signature) = process::rseq::registration(task);
    let answer = RseqConfiguration { pointer, size, signature, ..RseqConfiguration::default() };
    let bytes = answer.as_bytes();
    let part = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
    user::write_bytes(UserAddr(data), bytes.get(..part).unwrap_or_default())?;
    Ok(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_the_last_page_of_numbers() {
        assert_eq!(error_of(0), None);
        assert_eq!(error_of(-1_i64 as u64), Some(-1));
        assert_eq!(error_of(-4095_i64 as u64), Some(-4095));
        assert_eq!(error_of(-4096_i64 as u64), None);
    }

    #[test]
    fn a_call_can_be_replaced_and_cancelled() {
        let mut regs = UserRegs { orig_rax: 1, rdi: 9, ..UserRegs::default() };
        let cancel = [u64::MAX, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(set_call(&mut regs, &cancel), Ok(()));
        assert_eq!((regs.orig_rax, regs.rdi), (u64::MAX, 9));
        assert_eq!(set_call(&mut regs, &[39, 1, 2, 3, 4, 5, 6, 0]), Ok(()));
        assert_eq!((regs.orig_rax, arguments(&regs)), (39, [1, 2, 3, 4, 5, 6]));
        assert_eq!(set_call(&mut regs, &[1 << 40, 0, 0, 0, 0, 0, 0, 0]), Err(Errno::ERANGE));
    }
}
