//! The tracee's side: the stops.
//!
//! Sources: ptrace(2) "Stopped states", "Signal-delivery-stop", "Group-stop", "PTRACE_EVENT stops", "Syscall-stops".

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use abi::process::CloneFlags;
use abi::signal::{
    CLD_STOPPED, CLD_TRAPPED, SI_USER, SIG_IGN, SIGCHLD, SIGKILL, SIGTRAP, SaFlags, SigInfo, TRAP_BRKPT,
};
use hal::UserAddr;
use hal::trap::UserRegs;
use sched::Interruptible;
use security::IdKind;

use super::{Bases, Hold, Options, Stop, Tracee, event};
use crate::clone::CloneRequest;
use crate::signal::{self, Target};
use crate::task::{CurrentTask, TaskFlags};
use crate::{Task, membership, pid};

const TRAP_FLAG: u64 = 1 << 8;

/// A stop to be made.
struct Report {
    code: i32,
    /// `CLD_TRAPPED` or `CLD_STOPPED`.
    why: i32,
    message: u64,
    info: Option<SigInfo>,
}

/// Stops until the tracer lets the caller go on. Gives the signal to go on with and the signal's details.
///
/// Returns at once, with what was to be reported, when nobody traces or the task must end.
fn stop(task: &CurrentTask, regs: &mut UserRegs, report: Report) -> (i32, Option<SigInfo>) {
    let Some(tie) = task.tracee() else { return (report.code, report.info) };
    let why = report.why;
    let is_exit = report.code >> 8 == event::EXIT;
    let code = report.code;
    let before = Bases::current(task.hal());
    let Some(ends_group_stop) = begin(task, &tie, regs, &report, before, is_exit) else {
        return (report.code, report.info);
    };
    tie.changed.wake_all();
    tell_tracer(task, &tie, why, code);
    if ends_group_stop && is_reparented(task, &tie) {
        signal::notify_parent_stopped(task.group(), CLD_STOPPED);
    }
    membership::enter_frozen(task);
    sleep(&tie, if is_exit { Interruptible::No } else { Interruptible::Killable });
    membership::leave_frozen_always(task);
    let ended = end(task, &tie, regs, before);
    tie.changed.wake_all();
    signal::recalc(task);
    match ended {
        Some(stop) => (stop.code, stop.info),
        None => (code, None),
    }
}

/// Publishes the stop. Gives whether it completed the stop of the whole process, or `None` if there is no stop.
fn begin(
    task: &CurrentTask,
    tie: &Arc<Tracee>,
    regs: &mut UserRegs,
    report: &Report,
    bases: Bases,
    is_exit: bool,
) -> Option<bool> {
    let mut sig = task.group().sig.lock();
    let is_tied = task.tracee.load().is_some_and(|now| Arc::ptr_eq(&now, tie));
    if !is_tied || (task.has(TaskFlags::KILLED) && !is_exit) {
        return None;
    }
    let mut state = tie.state.lock();
    if core::mem::take(&mut state.owns_trap_flag) {
        regs.rflags &= !TRAP_FLAG;
    }
    let is_event_stop = report.info.is_some() && report.code >> 8 == event::STOP;
    state.stop = Some(Stop {
        regs: *regs,
        bases,
        code: report.code,
        message: report.message,
        info: report.info,
        is_resumed: false,
        job: None,
    });
    task.set_flags(TaskFlags::TRACE_STOPPED);
    let mut ends_group_stop = false;
    if report.why == CLD_STOPPED && task.has(TaskFlags::STOP_PENDING) {
        ends_group_stop = signal::take_part_in_stop(task, &mut sig);
    }
    task.clear_flags(TaskFlags::TRAP_STOP);
    if is_event_stop {
        task.clear_flags(TaskFlags::TRAP_NOTIFY);
    }
    Some(ends_group_stop)
}

/// Sleeps until the tracer, a kill or the cut of the tie ends the stop; does the tracer's jobs meanwhile.
fn sleep(tie: &Tracee, kind: Interruptible) {
    let next = || {
        let mut state = tie.state.lock();
        match &mut state.stop {
            Some(stop) if !stop.is_resumed => stop.job.take().map(Some),
            _ => Some(None),
        }
    };
    while let Ok(Some(job)) = tie.wake.wait_deadline(next, None, kind) {
        job();
        tie.changed.wake_all();
    }
}

/// Takes the registers back and sets the trap flag for a single step.
fn end(task: &CurrentTask, tie: &Tracee, regs: &mut UserRegs, before: Bases) -> Option<Stop> {
    let stop = {
        let _sig = task.group().sig.lock();
        let mut state = tie.state.lock();
        let stop = state.stop.take();
        task.clear_flags(TaskFlags::TRACE_STOPPED | TaskFlags::LISTENING);
        if let Some(stop) = &stop {
            *regs = stop.regs;
            task.hal().note_segments(regs);
        }
        if state.steps && regs.rflags & TRAP_FLAG == 0 {
            state.owns_trap_flag = true;
            regs.rflags |= TRAP_FLAG;
        }
        stop
    }?;
    if stop.bases != before {
        let (fs, gs) = (UserAddr(stop.bases.fs), UserAddr(stop.bases.gs));
        // The tracer's requests checked the addresses.
        let _checked = task.hal().set_segments(stop.bases.selectors, fs, gs);
    }
    Some(stop)
}

/// Whether the tracer is another process than the parent.
fn is_reparented(task: &CurrentTask, tie: &Tracee) -> bool {
    task.group().parent().is_none_or(|parent| !Arc::ptr_eq(&parent, tie.tracer.group()))
}

/// `SIGCHLD` for the tracer unless it does not want it, and a wake-up for its wait4(2).
fn tell_tracer(task: &CurrentTask, tie: &Tracee, why: i32, code: i32) {
    let tracer = tie.tracer.group();
    let action = tracer.with_hand(|hand| hand.get(SIGCHLD));
    if action.handler != SIG_IGN && action.flags & SaFlags::NOCLDSTOP.bits() == 0 {
        let uid = signal::uid_seen_by(tracer, task.with_cred(|cred| cred.uid));
        let (utime, stime) = task.group().cpu_ticks();
        let info =
            SigInfo::child(why, seen_by_tracer(tie, task.tid()) as i32, uid, code & 0x7f, utime, stime);
        signal::send_kernel(Target::Group(tracer), info);
    }
    tracer.child_wait.wake_all();
}

/// The number that the tracer's pid namespace has for `global`.
fn seen_by_tracer(tie: &Tracee, global: u32) -> u32 {
    pid::number_in(global, tie.tracer.group().pid_ns())
}

/// The real user id of `other` as the caller's user namespace shows it.
fn uid_shown(task: &CurrentTask, other: &Task) -> u32 {
    let uid = other.with_cred(|cred| cred.uid);
    task.with_cred(|cred| cred.user_ns.show(IdKind::User, uid))
}

/// Reports `code` with a `siginfo` of its own (Linux: ptrace_notify). Gives the signal to go on with.
fn notify(task: &CurrentTask, regs: &mut UserRegs, signo: i32, code: i32, why: i32, message: u64) -> i32 {
    let info = SigInfo::user(signo as u32, code, task.own_tid() as i32, uid_shown(task, task));
    stop(task, regs, Report { code, why, message, info: Some(info) }).0
}

/// Reports `event` with `message`.
fn report_event(task: &CurrentTask, regs: &mut UserRegs, event: i32, message: u64) {
    notify(task, regs, SIGTRAP as i32, event << 8 | SIGTRAP as i32, CLD_TRAPPED, message);
}

/// Whether the tracer asked for an event.
fn wants(task: &CurrentTask, option: Options) -> bool {
    task.tracee().is_some_and(|tie| tie.options().contains(option))
}

/// Signal-delivery-stop: shows `info` to the tracer. `None`: the signal shall not be delivered.
pub(crate) fn signal_stop(task: &CurrentTask, regs: &mut UserRegs, info: SigInfo) -> Option<SigInfo> {
    let signo = info.signo;
    if !task.has(TaskFlags::TRACED) || task.has(TaskFlags::DOOMED) || signo == SIGKILL as i32 {
        return Some(info);
    }
    let tracer = task.tracee().map(|tie| tie.tracer.clone());
    let report = Report { code: signo, why: CLD_TRAPPED, message: 0, info: Some(info) };
    let (code, info) = stop(task, regs, report);
    if code == 0 {
        return None;
    }
    let mut info = info.unwrap_or_else(|| SigInfo::new(code as u32, SI_USER));
    if code != info.signo {
        let (pid, uid) = tracer.map_or((0, 0), |t| (pid::visible(t.tid()) as i32, uid_shown(task, &t)));
        info = SigInfo::user(code as u32, SI_USER, pid, uid);
    }
    if task.blocked().has(code as u32) || task.has(TaskFlags::KILLED) {
        signal::send_kernel(Target::Thread(task.arc()), info);
        return None;
    }
    Some(info)
}

/// The stop for `TRAP_STOP` and `TRAP_NOTIFY`: part of a group stop, or what a seizing tracer asked for.
pub(crate) fn jobctl_trap(task: &CurrentTask, regs: &mut UserRegs) {
    let Some(tie) = task.tracee() else {
        task.clear_flags(TaskFlags::TRAP_STOP | TaskFlags::TRAP_NOTIFY);
        return;
    };
    let stop_signal = task.stop_signal.load(Relaxed).max(1) as i32;
    if tie.hold == Hold::Attached {
        let report = Report { code: stop_signal, why: CLD_STOPPED, message: 0, info: None };
        stop(task, regs, report);
        return;
    }
    let in_group_stop = {
        let sig = task.group().sig.lock();
        sig.is_stopped || sig.stop_count > 0
    };
    let signo = if in_group_stop { stop_signal } else { SIGTRAP as i32 };
    notify(task, regs, signo, event::STOP << 8 | signo, CLD_STOPPED, 0);
}

/// The event that the tracer wants to see of a clone, if any.
pub(crate) fn fork_event(task: &CurrentTask, request: &CloneRequest) -> Option<i32> {
    if !task.has(TaskFlags::TRACED) || request.flags.contains(CloneFlags::UNTRACED) {
        return None;
    }
    let (event, option) = match request {
        _ if request.flags.contains(CloneFlags::VFORK) => (event::VFORK, Options::VFORK),
        _ if request.exit_signal != SIGCHLD => (event::CLONE, Options::CLONE),
        _ => (event::FORK, Options::FORK),
    };
    wants(task, option).then_some(event)
}

/// Reports the end of a vfork.
pub(crate) fn vfork_done_event(task: &CurrentTask, regs: &mut UserRegs, tid: u32) {
    if wants(task, Options::VFORKDONE) {
        report_task(task, regs, event::VFORK_DONE, tid);
    }
}

/// Reports a new task.
pub(crate) fn clone_event(task: &CurrentTask, regs: &mut UserRegs, event: i32, tid: u32) {
    report_task(task, regs, event, tid);
}

/// Reports `event` about the task `tid`, by its number in the tracer's pid namespace.
fn report_task(task: &CurrentTask, regs: &mut UserRegs, event: i32, tid: u32) {
    let tid = task.tracee().map_or(0, |tie| seen_by_tracer(&tie, tid));
    report_event(task, regs, event, u64::from(tid));
}

/// The caller's tid as its tracer sees it; 0 for no tracer.
pub(crate) fn tid_for_tracer(task: &CurrentTask) -> u32 {
    task.tracee().map_or(0, |tie| seen_by_tracer(&tie, task.tid()))
}

/// Reports a new program; an attached tracer without the option gets `SIGTRAP`. `old_tid`: by
/// [`tid_for_tracer`] before it began.
pub(crate) fn exec_event(task: &CurrentTask, regs: &mut UserRegs, old_tid: u32) {
    let Some(tie) = task.tracee() else { return };
    if tie.options().contains(Options::EXEC) {
        report_event(task, regs, event::EXEC, u64::from(old_tid));
    } else if tie.hold == Hold::Attached {
        let info = SigInfo::user(SIGTRAP, SI_USER, task.own_pid() as i32, uid_shown(task, task));
        signal::send_kernel(Target::Thread(task.arc()), info);
    }
}

/// Reports that the thread is about to end with `status`.
pub(crate) fn exit_event(task: &CurrentTask, regs: &mut UserRegs, status: i32) {
    if wants(task, Options::EXIT) {
        report_event(task, regs, event::EXIT, status as u32 as u64);
    }
}

/// Which side of a system call a stop is on; the value of `PTRACE_GETEVENTMSG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Side {
    /// Before it.
    Entry = 1,
    /// After it.
    Exit = 2,
}

/// Syscall-stop.
pub(super) fn syscall_stop(task: &CurrentTask, regs: &mut UserRegs, side: Side) {
    if !task.has(TaskFlags::TRACED) {
        return;
    }
    let mark = if wants(task, Options::TRACESYSGOOD) { 0x80 } else { 0 };
    let sig = notify(task, regs, SIGTRAP as i32, SIGTRAP as i32 | mark, CLD_TRAPPED, side as u64);
    if sig > 0 && task.has(TaskFlags::TRACED) {
        // The tracer goes on with a signal: it is sent, and will be reported like any other.
        let info = SigInfo::new(sig as u32, SI_USER);
        signal::send_kernel(Target::Thread(task.arc()), info);
    }
}

/// Reports a seccomp filter's `SECCOMP_RET_TRACE`; false: the tracer did not ask for it.
pub fn seccomp_stop(task: &CurrentTask, regs: &mut UserRegs, data: u16) -> bool {
    if !wants(task, Options::SECCOMP) {
        return false;
    }
    report_event(task, regs, event::SECCOMP, u64::from(data));
    true
}

/// Takes the tracer's trap flag out of the registers before they go into a signal frame. Gives whether it stepped.
pub(crate) fn leave_step(task: &CurrentTask, regs: &mut UserRegs) -> bool {
    let Some(tie) = task.tracee() else { return false };
    let mut state = tie.state.lock();
    if core::mem::take(&mut state.owns_trap_flag) {
        regs.rflags &= !TRAP_FLAG;
    }
    state.steps
}

/// A single step entered a signal handler: it ends before the first instruction.
pub(crate) fn handler_entered(task: &CurrentTask, regs: &mut UserRegs) {
    notify(task, regs, SIGTRAP as i32, SIGTRAP as i32, CLD_TRAPPED, 0);
}

/// A single step over a system call has ended.
pub(super) fn step_done(regs: &UserRegs) {
    signal::force(SigInfo::fault(SIGTRAP, TRAP_BRKPT, regs.rip));
}
