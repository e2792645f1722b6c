#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod call;
mod memory;
mod regs;
mod regset;
mod siginfo;
mod user;

use alloc::sync::Arc;

use abi::signal::{NSIG, SIGKILL, SigInfo};
use abi::{Errno, Result};
use process::Task;
use process::signal::{Target, send_user};
use process::trace::{self, Hold, Options, Resume};
use security::Cap;

/// Request numbers (`linux/ptrace.h`, `asm/ptrace-abi.h`).
mod request {
    pub const TRACEME: i64 = 0;
    pub const PEEKTEXT: i64 = 1;
    pub const PEEKDATA: i64 = 2;
    pub const PEEKUSER: i64 = 3;
    pub const POKETEXT: i64 = 4;
    pub const POKEDATA: i64 = 5;
    pub const POKEUSER: i64 = 6;
    pub const CONT: i64 = 7;
    pub const KILL: i64 = 8;
    pub const SINGLESTEP: i64 = 9;
    pub const GETREGS: i64 = 12;
    pub const SETREGS: i64 = 13;
    pub const GETFPREGS: i64 = 14;
    pub const SETFPREGS: i64 = 15;
    pub const ATTACH: i64 = 16;
    pub const DETACH: i64 = 17;
    pub const OLDSETOPTIONS: i64 = 21;
    pub const SYSCALL: i64 = 24;
    pub const ARCH_PRCTL: i64 = 30;
    pub const SYSEMU: i64 = 31;
    pub const SYSEMU_SINGLESTEP: i64 = 32;
    pub const SETOPTIONS: i64 = 0x4200;
    pub const GETEVENTMSG: i64 = 0x4201;
    pub const GETSIGINFO: i64 = 0x4202;
    pub const SETSIGINFO: i64 = 0x4203;
    pub const GETREGSET: i64 = 0x4204;
    pub const SETREGSET: i64 = 0x4205;
    pub const SEIZE: i64 = 0x4206;
    pub const INTERRUPT: i64 = 0x4207;
    pub const LISTEN: i64 = 0x4208;
    pub const PEEKSIGINFO: i64 = 0x4209;
    pub const GETSIGMASK: i64 = 0x420a;
    pub const SETSIGMASK: i64 = 0x420b;
    pub const GET_SYSCALL_INFO: i64 = 0x420e;
    pub const GET_RSEQ_CONFIGURATION: i64 = 0x420f;
    pub const SET_SYSCALL_INFO: i64 = 0x4212;
}
use request as r;

/// ptrace(2).
///
/// `ESRCH`: no such task, or it is no stopped tracee of the caller. `EPERM`: the caller may not trace it. `EIO`: an
/// unknown request, a bad signal, or a place that does not exist. `EINVAL`, `EFAULT` as the request says.
pub fn ptrace(request: i64, pid: i64, addr: u64, data: u64) -> Result<usize> {
    if request == r::TRACEME {
        return trace::trace_me().map(|()| 0);
    }
    let task = find(pid)?;
    match request {
        r::ATTACH => trace::attach(&task, Hold::Attached, Options::empty())?,
        r::SEIZE => seize(&task, addr, data)?,
        r::KILL => kill(&task)?,
        r::INTERRUPT => trace::interrupt(&task)?,
        _ => {
            // Whatever else is asked for, it is asked of a stopped tracee.
            trace::with_stop(&task, |_| Ok(()))?;
            return of_stopped(&task, request, addr, data);
        }
    }
    Ok(0)
}

/// The task with id `pid`. `ESRCH`.
pub fn find(pid: i64) -> Result<Arc<Task>> {
    // As Linux, the number is cut to 32 bits.
    u32::try_from(pid as i32).ok().and_then(process::pid::find_task).ok_or(Errno::ESRCH)
}

/// A request about a stopped tracee.
fn of_stopped(task: &Arc<Task>, request: i64, addr: u64, data: u64) -> Result<usize> {
    match request {
        r::PEEKTEXT | r::PEEKDATA => memory::peek(task, addr, data)?,
        r::POKETEXT | r::POKEDATA => memory::poke(task, addr, data)?,
        r::PEEKUSER => user::peek(task, addr, data)?,
        r::POKEUSER => user::poke(task, addr, data)?,
        r::CONT => go_on(task, Resume::Run, data)?,
        r::SYSCALL => go_on(task, Resume::ToSyscall, data)?,
        r::SINGLESTEP => go_on(task, Resume::Step, data)?,
        r::SYSEMU => go_on(task, Resume::Emulate, data)?,
        r::SYSEMU_SINGLESTEP => go_on(task, Resume::EmulateStep, data)?,
        r::DETACH => trace::detach(task, signal(data)?)?,
        r::LISTEN => trace::listen(task)?,
        r::OLDSETOPTIONS | r::SETOPTIONS => trace::set_options(task, options(data)?)?,
        r::GETREGS => regset::get_regs(task, data)?,
        r::SETREGS => regset::set_regs(task, data)?,
        r::GETFPREGS => regset::get_fpregs(task, data)?,
        r::SETFPREGS => regset::set_fpregs(task, data)?,
        r::GETREGSET => regset::get_regset(task, addr, data)?,
        r::SETREGSET => regset::set_regset(task, addr, data)?,
        r::ARCH_PRCTL => regset::arch_prctl(task, data, addr)?,
        r::GETEVENTMSG => siginfo::get_event_message(task, data)?,
        r::GETSIGINFO => siginfo::get(task, data)?,
        r::SETSIGINFO => siginfo::set(task, data)?,
        r::PEEKSIGINFO => return siginfo::peek(task, addr, data),
        r::GETSIGMASK => siginfo::get_mask(task, addr, data)?,
        r::SETSIGMASK => siginfo::set_mask(task, addr, data)?,
        r::GET_SYSCALL_INFO => return call::get(task, addr, data),
        r::SET_SYSCALL_INFO => call::set(task, addr, data)?,
        r::GET_RSEQ_CONFIGURATION => return call::rseq(task, addr, data),
        _ => return Err(Errno::EIO),
    }
    Ok(0)
}

/// `PTRACE_SEIZE`.
fn seize(task: &Arc<Task>, addr: u64, data: u64) -> Result<()> {
    let options =
        Options::from_bits(data as u32).filter(|_| data <= u64::from(u32::MAX)).ok_or(Errno::EIO)?;
    if addr != 0 {
        return Err(Errno::EIO);
    }
    check_options(options)?;
    trace::attach(task, Hold::Seized, options)
}

/// `PTRACE_KILL`.
fn kill(task: &Arc<Task>) -> Result<()> {
    trace::tie_of_caller(task)?;
    // Whether it was there to be killed does not matter.
    let _sent = send_user(Target::Thread(task), SigInfo::new(SIGKILL, 0));
    Ok(())
}

/// A signal to go on with, 0 for none. `EIO`: no signal.
fn signal(data: u64) -> Result<i32> {
    i32::try_from(data).ok().filter(|sig| *sig <= NSIG as i32).ok_or(Errno::EIO)
}

fn go_on(task: &Arc<Task>, how: Resume, data: u64) -> Result<()> {
    trace::resume(task, how, signal(data)?)
}

/// `PTRACE_O_*`. `EINVAL`: unknown ones. `EPERM`: seccomp cannot be suspended without rights.
fn options(data: u64) -> Result<Options> {
    let options = u32::try_from(data).ok().and_then(Options::from_bits).ok_or(Errno::EINVAL)?;
    check_options(options)?;
    Ok(options)
}

fn check_options(options: Options) -> Result<()> {
    let me = process::current();
    let may_suspend = || {
        me.with_cred(|cred| cred.capable(Cap::SYS_ADMIN))
            && me.seccomp().is_none()
            && !trace::seccomp_suspended(&me)
    };
    if options.contains(Options::SUSPEND_SECCOMP) && !may_suspend() { Err(Errno::EPERM) } else { Ok(()) }
}
