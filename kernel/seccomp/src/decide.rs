//! What happens at a system call of a task with seccomp.

use abi::Errno;
use abi::signal::{SIGKILL, SIGSYS, SigInfo};
use cbpf::Data;
use hal::trap::UserRegs;
use process::seccomp::Mode;
use process::trace::{self, Enter};
use process::{CurrentTask, TaskFlags, exit, signal};

use crate::filter::Filter;
use crate::install::chain_of;
use crate::{ARCH, action, notify};

/// `si_code` of a `SIGSYS` from a filter.
const SYS_SECCOMP: i32 = 1;
const MAX_ERRNO: u32 = 4095;
/// read(2), write(2), exit(2), rt_sigreturn(2).
const STRICT: [u64; 4] = [0, 1, 60, 15];

/// uretprobe(2), uprobe(2): what only code that the kernel put into a program has a use for is not filtered.
const OF_PROBES: [u64; 2] = [335, 336];

/// The hook.
pub(crate) struct Seccomp;

impl process::hooks::SeccompHooks for Seccomp {
    fn enter(&self, task: &CurrentTask, regs: &mut UserRegs) -> Enter {
        let Some(state) = task.seccomp() else { return Enter::Run };
        if state.mode == Mode::Strict {
            return strict(task, regs);
        }
        if OF_PROBES.contains(&regs.orig_rax) {
            return Enter::Run;
        }
        match chain_of(&state) {
            Some(top) => filtered(task, regs, &top, Asked::First),
            None => Enter::Run,
        }
    }
}

fn strict(task: &CurrentTask, regs: &mut UserRegs) -> Enter {
    if STRICT.contains(&regs.orig_rax) {
        return Enter::Run;
    }
    report(task, regs, action::KILL_THREAD, SIGKILL);
    exit::request_thread_end(SIGKILL as i32);
    Enter::Skip
}

/// Whether a tracer has answered for this call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    First,
    AfterTracer,
}

fn data_of(regs: &UserRegs) -> Data {
    Data {
        nr: regs.orig_rax as u32,
        arch: ARCH,
        instruction_pointer: regs.rip,
        args: [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9],
    }
}

fn fail(regs: &mut UserRegs, errno: u32) -> Enter {
    regs.rax = (-i64::from(errno.min(MAX_ERRNO))) as u64;
    Enter::Skip
}

/// Puts the registers back as they were before the instruction, but for its length.
fn roll_back(regs: &mut UserRegs) {
    regs.rax = regs.orig_rax;
}

fn filtered(task: &CurrentTask, regs: &mut UserRegs, top: &Filter, asked: Asked) -> Enter {
    let data = data_of(regs);
    let (answer, filter) = top.decide(&data);
    let low = answer & !action::MASK;
    match answer & action::MASK {
        action::ALLOW => return Enter::Run,
        action::LOG => {
            report(task, regs, action::LOG, 0);
            return Enter::Run;
        }
        action::ERRNO => return fail(regs, low),
        action::TRAP => {
            roll_back(regs);
            signal::force(sigsys(&data, low as i32));
        }
        action::TRACE => return ask_tracer(task, regs, top, low as u16, asked),
        action::USER_NOTIF => return notify::ask(task, regs, filter, &data),
        severe => kill(task, regs, &data, low as i32, severe),
    }
    if filter.logs {
        report(task, regs, answer & action::MASK, 0);
    }
    Enter::Skip
}

/// The `siginfo` of a call that a filter did not let through.
fn sigsys(data: &Data, errno: i32) -> SigInfo {
    let mut info = SigInfo::fault(SIGSYS, SYS_SECCOMP, data.instruction_pointer);
    info.errno = errno;
    info.fields[1] = u64::from(data.nr) | u64::from(data.arch) << 32;
    info
}

fn ask_tracer(task: &CurrentTask, regs: &mut UserRegs, top: &Filter, data: u16, asked: Asked) -> Enter {
    if asked == Asked::AfterTracer {
        return Enter::Run;
    }
    if !trace::seccomp_stop(task, regs, data) {
        return fail(regs, (Errno::ENOSYS.to_return() as i32).unsigned_abs());
    }
    if task.has(TaskFlags::KILLED) || regs.orig_rax as i32 == -1 {
        return Enter::Skip;
    }
    // The tracer may have made another call of it, which the filters have not seen.
    filtered(task, regs, top, Asked::AfterTracer)
}

/// Ends the process, or one thread of several.
fn kill(task: &CurrentTask, regs: &mut UserRegs, data: &Data, errno: i32, action: u32) {
    report(task, regs, action, SIGSYS);
    if action != action::KILL_THREAD || task.group().nr_threads() == 1 {
        roll_back(regs);
        signal::force_deadly(sigsys(data, errno));
    } else {
        exit::request_thread_end(SIGSYS as i32);
    }
}

/// Tells the log.
fn report(task: &CurrentTask, regs: &UserRegs, action: u32, sig: u32) {
    log::info!(
        "seccomp: pid={} sig={sig} arch={ARCH:x} syscall={} ip={:#x} code={action:#x}",
        task.tid(),
        regs.orig_rax as i64,
        regs.rip
    );
}
