//! System calls: decoding of arguments and the table; no logic of its own.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod adjtime;
mod aio;
pub mod arg;
mod caller;
mod control;
mod cred;
mod eventfiles;
mod fd;
mod file;
mod futex;
mod handle;
mod ioprio;
mod ipc;
mod mem;
mod missing;
mod mounts;
mod net;
mod numa;
mod path;
mod poll;
mod ports;
mod range;
mod scheduling;
mod segment;
mod signal;
mod swap;
mod system;
pub mod table;
mod task;
mod time;
mod trace;
mod uring;
mod xattr;

use abi::Errno;
pub use abi::Result;
use hal::thread::Work;
use hal::trap::UserRegs;
use process::trace::{Enter, enter_syscall, leave_syscall};

/// The context of one system call: the registers it came in with.
pub struct Cx<'a> {
    /// The caller's registers; only calls that replace them (clone, execve, rt_sigreturn) look.
    pub regs: &'a mut UserRegs,
    keeps_result: bool,
}

impl Cx<'_> {
    /// The raw argument in the `idx`th of the six registers.
    #[inline(always)]
    fn register(&self, idx: usize) -> u64 {
        let regs = &*self.regs;
        match idx {
            0 => regs.rdi,
            1 => regs.rsi,
            2 => regs.rdx,
            3 => regs.r10,
            4 => regs.r8,
            _ => regs.r9,
        }
    }

    /// Leaves the result register as the handler made it.
    pub(crate) fn keep_result(&mut self) {
        self.keeps_result = true;
    }
}

/// Runs the system call that `regs` asks for and leaves its result in the result register.
#[inline]
pub fn dispatch(regs: &mut UserRegs) {
    if hal::thread::current().work().contains(Work::TRACE) {
        dispatch_watched(regs);
    } else {
        run(regs);
    }
}

/// As [`dispatch`] for a task whose system calls are looked at.
#[cold]
#[inline(never)]
fn dispatch_watched(regs: &mut UserRegs) {
    if enter_syscall(regs) == Enter::Run {
        run(regs);
    }
    leave_syscall(regs);
}

/// Registers what lower floors ask of this crate. Once, at boot.
pub fn init() {
    uring::init();
}

/// Makes the call.
#[inline(always)]
fn run(regs: &mut UserRegs) {
    let nr = regs.orig_rax;
    let mut cx = Cx { regs, keeps_result: false };
    let result = match table::TABLE.get(nr as usize).and_then(|row| row.call) {
        Some(call) => call(&mut cx),
        None => missing::missing(nr),
    };
    if cx.keeps_result {
        return;
    }
    cx.regs.rax = match result {
        Ok(value) => value as u64,
        Err(errno) => errno.to_return() as u64,
    };
}

/// Fails with `EPERM` unless the caller has `cap`.
pub(crate) fn require(cap: security::Cap) -> Result<()> {
    if process::current().with_cred(|cred| security::capable(cred, cap)) { Ok(()) } else { Err(Errno::EPERM) }
}
