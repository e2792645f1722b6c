//! A thread that meets a probe: what is reported, and how it gets over the probed instruction.
//!
//! ```text
//! breakpoint ─▶ report ─▶ instruction done here ──────────────────────────────▶ goes on behind it
//!                  └────▶ copy in a slot, trap flag on ─▶ debug trap ─▶ tidy up ──▲
//!                                   └─ exception, signal: everything back to before the instruction
//! trampoline ─▶ report the returns ─▶ goes on where the function returns to
//! ```
//!
//! A signal that comes before the copy was carried out takes the thread back to the probe; when the thread comes there
//! again with the same stack, that is the same hit and is not reported twice.

use alloc::boxed::Box;
use alloc::sync::Arc;

use abi::signal::{SEGV_MAPERR, SIGILL, SIGSEGV, SigInfo};
use hal::sync::SpinLock;
use hal::thread;
use hal::trap::{Exception, UserRegs};
use hal::{UserAddr, user};
use mm::Mm;
use process::hooks::ProbeHooks;
use process::{CurrentTask, Task, signal};

use super::area::{Area, BREAKPOINT, Slot};
use super::insn::{How, Insn, Step, holds};
use super::returns::Returns;
use super::{Probe, registry};
use crate::context;

const RFLAGS_TF: u64 = 1 << 8;
/// DR6: a single step.
const DR6_STEP: u64 = 1 << 14;
/// DR6: watched addresses that were met.
const DR6_HITS: u64 = 0xf;
const DEBUG: u8 = 1;
const BREAKPOINT_TRAP: u8 = 3;
/// Bytes of a word on the stack.
const WORD: u64 = 8;

/// A copy that is being stepped.
struct Active {
    /// Where the instruction is in the program.
    at: u64,
    slot: Slot,
    insn: Arc<Insn>,
    step: Step,
    /// What was in the lent register.
    saved: u64,
    /// The program, or its tracer, had the trap flag on.
    had_trap_flag: bool,
}

/// What probes know of a thread. Only the thread itself changes it.
#[derive(Default)]
struct State {
    active: Option<Box<Active>>,
    returns: Returns,
    /// The address space that `returns` are about.
    mm: u64,
    /// A hit that was reported, but whose instruction was not carried out: its address and stack pointer.
    reported: Option<(u64, u64)>,
}

/// Where each thread that met a probe keeps its state.
static STATE: thread::Slot<SpinLock<State>> = thread::Slot::new();

/// Calls `f` with the state of the caller, which is made if there is none.
fn with_state<R>(task: &CurrentTask, f: impl FnOnce(&mut State) -> R) -> R {
    let thread = task.hal();
    if thread.slot(&STATE).is_none() {
        // The slot is empty, and only the thread itself fills it once it runs.
        let _filled = thread.arc().set_slot(&STATE, SpinLock::new("perf.uprobe.state", State::default()));
    }
    match thread.slot(&STATE) {
        Some(state) => f(&mut state.lock()),
        None => f(&mut State::default()),
    }
}

/// As [`with_state`] for a thread that may have none, which is left so.
fn with_known<R>(task: &CurrentTask, f: impl FnOnce(&mut State) -> R) -> Option<R> {
    task.hal().slot(&STATE).map(|state| f(&mut state.lock()))
}

/// A general register by its number in instructions.
fn register(regs: &mut UserRegs, number: u8) -> &mut u64 {
    match number {
        0 => &mut regs.rax,
        1 => &mut regs.rcx,
        2 => &mut regs.rdx,
        3 => &mut regs.rbx,
        4 => &mut regs.rsp,
        5 => &mut regs.rbp,
        6 => &mut regs.rsi,
        7 => &mut regs.rdi,
        8 => &mut regs.r8,
        9 => &mut regs.r9,
        10 => &mut regs.r10,
        11 => &mut regs.r11,
        12 => &mut regs.r12,
        13 => &mut regs.r13,
        14 => &mut regs.r14,
        _ => &mut regs.r15,
    }
}

/// Pushes a word. `false`: there is no stack; the signal for that is on its way.
fn push(regs: &mut UserRegs, word: u64) -> bool {
    let at = regs.rsp.wrapping_sub(WORD);
    if user::write(UserAddr(at), &word).is_err() {
        signal::force(SigInfo::fault(SIGSEGV, SEGV_MAPERR, at));
        return false;
    }
    regs.rsp = at;
    true
}

/// The hooks that `process` calls.
pub(super) struct Hooks;

impl ProbeHooks for Hooks {
    fn exception(&self, task: &CurrentTask, exception: &mut Exception, regs: &mut UserRegs) -> bool {
        if exception.vector == BREAKPOINT_TRAP {
            return breakpoint(task, regs);
        }
        if exception.vector == DEBUG && exception.error_code & DR6_STEP != 0 {
            return stepped(task, exception, regs);
        }
        // It is the instruction's own: it happens where the program has it, and when it is tried again it is a new hit.
        if with_known(task, |state| undo(state, regs)).unwrap_or(false) {
            with_state(task, |state| state.reported = None);
        }
        false
    }

    fn settle(&self, task: &CurrentTask, regs: &mut UserRegs) {
        with_known(task, |state| undo(state, regs));
    }

    fn cloned(&self, task: &CurrentTask, child: &Task) {
        let Some(returns) = with_known(task, |state| state.returns.clone()) else { return };
        let (Some(own), Some(mm), Some(thread)) = (task.mm(), child.mm(), child.thread()) else { return };
        let is_thread = Arc::ptr_eq(task.group(), child.group());
        if returns.is_empty() || is_thread {
            return;
        }
        if own.id() != mm.id()
            && let Some(area) = Area::existing(&own)
        {
            // Without memory the child's functions return into nothing, and it ends; as without memory for its stack.
            let _ = Area::at(&mm, Some(area.addr()));
        }
        let state = State { returns, mm: mm.id(), ..State::default() };
        let _filled = thread.hal().set_slot(&STATE, SpinLock::new("perf.uprobe.state", state));
    }
}

/// Takes a step that was not carried out back. `false`: there is none.
fn undo(state: &mut State, regs: &mut UserRegs) -> bool {
    let Some(active) = state.active.take() else { return false };
    restore(&active, regs);
    if !active.had_trap_flag {
        regs.rflags &= !RFLAGS_TF;
    }
    regs.rip = active.at;
    state.reported = Some((active.at, regs.rsp));
    true
}

/// Gives the lent register back.
fn restore(active: &Active, regs: &mut UserRegs) {
    if let Some(number) = active.step.lent {
        *register(regs, number) = active.saved;
    }
}

/// A breakpoint instruction was met. `false`: it is the program's own.
fn breakpoint(task: &CurrentTask, regs: &mut UserRegs) -> bool {
    let at = regs.rip.wrapping_sub(1);
    let Some(mm) = task.mm().filter(|mm| mm.has_probes()) else { return false };
    if Area::existing(&mm).is_some_and(|area| area.addr() == at) {
        returned(task, &mm, regs);
        return true;
    }
    let probe = mm.code_at(at).and_then(|(mapping, offset)| registry::find(&mapping, offset));
    let Some((probe, insn)) = probe.and_then(|probe| probe.insn().map(|insn| (probe, insn))) else {
        // Of a probe that has just gone the instruction is there again; where nothing is any more, it faults. What only
        // the thread itself may read (memfd_secret(2)), or only others (a protection key), can have its own breakpoints.
        let byte = user::read::<u8>(UserAddr(at)).ok().or_else(|| mm.read_code(at).ok());
        let is_gone = byte != Some(BREAKPOINT);
        if is_gone {
            regs.rip = at;
        }
        return is_gone;
    };
    regs.rip = at;
    // Other probes that are met meanwhile, in a handler of the signal, leave it.
    let was_reported =
        with_state(task, |state| state.reported.take_if(|hit| *hit == (at, regs.rsp)).is_some());
    if !was_reported {
        context::probe_hit(task, probe.id(), false);
        if probe.awaits_returns() {
            await_return(task, &mm, &probe, regs);
        }
    }
    carry_out(task, &mm, &insn, regs);
    true
}

/// Makes the function that was just entered return to the trampoline.
fn await_return(task: &CurrentTask, mm: &Mm, probe: &Probe, regs: &UserRegs) {
    let Ok(area) = Area::of(mm) else { return };
    let Ok(to) = user::read::<u64>(UserAddr(regs.rsp)) else { return };
    let trampoline = area.trampoline().0;
    let is_awaited = with_state(task, |state| {
        if state.mm != mm.id() {
            (state.mm, state.returns) = (mm.id(), Returns::default());
        }
        state.returns.push(probe.id(), regs.rsp, to, trampoline)
    });
    if is_awaited && to != trampoline {
        // Should the stack have gone, the function returns where it always did; the entry goes with the next one.
        let _ = user::write(UserAddr(regs.rsp), &trampoline);
    }
}

/// A probed function has returned to the trampoline.
fn returned(task: &CurrentTask, mm: &Mm, regs: &mut UserRegs) {
    let (mut seen, mut nr) = ([0; 64], 0);
    let to = with_known(task, |state| {
        if state.mm != mm.id() {
            return None;
        }
        state.returns.pop(regs.rsp, |probe| {
            if let Some(place) = seen.get_mut(nr) {
                *place = probe;
                nr += 1;
            }
        })
    });
    let Some(Some(to)) = to else {
        signal::force(SigInfo::kernel(SIGILL));
        return;
    };
    regs.rip = to;
    for probe in seen.iter().take(nr) {
        context::probe_hit(task, *probe, true);
    }
}

/// Carries out the instruction at rip, whose first byte is a breakpoint.
fn carry_out(task: &CurrentTask, mm: &Mm, insn: &Arc<Insn>, regs: &mut UserRegs) {
    let next = regs.rip.wrapping_add(insn.len as u64);
    match insn.how {
        How::Nop => regs.rip = next,
        How::Push(number) => {
            let word = *register(regs, number);
            if push(regs, word) {
                regs.rip = next;
            }
        }
        How::Jump(by) => regs.rip = next.wrapping_add_signed(by),
        How::JumpIf(condition, by) => {
            regs.rip = if holds(condition, regs.rflags) { next.wrapping_add_signed(by) } else { next };
        }
        How::Call(by) => {
            if push(regs, next) {
                regs.rip = next.wrapping_add_signed(by);
            }
        }
        How::Step(step) => begin_step(task, mm, insn, step, regs),
    }
    // The instruction that a tracer steps over is this one.
    if !matches!(insn.how, How::Step(_)) && regs.rflags & RFLAGS_TF != 0 {
        signal::force(SigInfo::fault(abi::signal::SIGTRAP, abi::signal::TRAP_TRACE, regs.rip));
    }
}

/// Lets the thread go on at a copy of the instruction, for one step.
fn begin_step(task: &CurrentTask, mm: &Mm, insn: &Arc<Insn>, step: Step, regs: &mut UserRegs) {
    let at = regs.rip;
    let slot = match Area::of(mm) {
        Ok(area) => area.take(),
        Err(_) => {
            signal::force_fatal(abi::signal::SIGKILL);
            return;
        }
    };
    let Some(slot) = slot else {
        // All are in use by other threads: the breakpoint is met again.
        with_state(task, |state| state.reported = Some((at, regs.rsp)));
        sched::yield_now();
        return;
    };
    slot.fill(&insn.copy);
    let had_trap_flag = regs.rflags & RFLAGS_TF != 0;
    let mut saved = 0;
    if let Some(number) = step.lent {
        let lent = register(regs, number);
        saved = core::mem::replace(lent, at.wrapping_add(insn.len as u64));
    }
    regs.rip = slot.addr();
    regs.rflags |= RFLAGS_TF;
    let active = Box::new(Active { at, slot, insn: insn.clone(), step, saved, had_trap_flag });
    with_state(task, |state| state.active = Some(active));
}

/// A single step ended. `false`: it was none of a probe's, or a tracer wants to know of what is left in `exception`, too.
fn stepped(task: &CurrentTask, exception: &mut Exception, regs: &mut UserRegs) -> bool {
    let is_hit = exception.error_code & DR6_HITS != 0;
    let taken = with_known(task, |state| {
        let active = state.active.as_ref()?;
        if is_hit && !active.had_trap_flag {
            exception.error_code &= !DR6_STEP;
        }
        if active.slot.addr() != regs.rip {
            return Some(state.active.take());
        }
        // A string instruction that is not through traps after each element.
        if is_hit {
            undo(state, regs);
        }
        Some(None)
    });
    let active = match taken.flatten() {
        Some(Some(active)) => active,
        Some(None) => return !is_hit,
        None => return false,
    };
    restore(&active, regs);
    let moved = active.at.wrapping_sub(active.slot.addr());
    if !active.step.jumps {
        regs.rip = regs.rip.wrapping_add(moved);
    }
    if active.step.pushes_rip {
        fix_pushed(regs, active.at.wrapping_add(active.insn.len as u64));
    }
    if !active.had_trap_flag && active.step.pushes_flags {
        let pushed: u64 = user::read(UserAddr(regs.rsp)).unwrap_or(regs.rflags);
        fix_pushed(regs, pushed & !RFLAGS_TF);
    }
    if !active.had_trap_flag && !active.step.loads_flags {
        regs.rflags &= !RFLAGS_TF;
    }
    !active.had_trap_flag && !is_hit
}

/// Replaces the word that the instruction has just pushed.
fn fix_pushed(regs: &UserRegs, word: u64) {
    if user::write(UserAddr(regs.rsp), &word).is_err() {
        // It was there a moment ago: another thread took the stack away.
        signal::force(SigInfo::fault(SIGSEGV, SEGV_MAPERR, regs.rsp));
    }
}
