//! What happens after entry code built a [`UserRegs`]: exceptions, interrupts, system calls, the way back out.
//!
//! ```text
//!              from user mode                         from the kernel
//! page fault   upcall page_fault, interrupts on       in a user copy: upcall (may sleep), else fix-up; else oops
//! exception    upcall user_exception                  fix-up if the instruction has one, else oops
//! #DB          the same with DR6, unless it is stale  ignored: a user copy met a watched address
//! interrupt    irq::interrupt                         the same on the CPU's interrupt stack; back on the thread's,
//!                                                     preemption if wanted and allowed
//! ```
//!
//! A page fault is passed on only from contexts that may sleep: a copy with preemption or interrupts off (the
//! `_nofault` variants) takes the fix-up at once.
//!
//! Source: Intel SDM vol. 3 ch. 6.15 (exceptions), 4.7 (page-fault error code).

use core::sync::atomic::Ordering;

use super::cpulocal::{self, HARDIRQ, NMI};
use super::debug::{NEED_DEBUG, NO_TSC};
use super::entry::{self, FREE_FLAGS, USER_FLAGS};
use super::fpu::{self, NEED_LOAD};
use super::gdt::{USER_CS, USER_DS};
use super::ports::{self, NEED_PORTS};
use super::thread::OTHER_SEGMENTS;
use super::{debug, instr, ldt, unwind, usercopy};
use crate::addr::{USER_END, UserAddr};
use crate::descriptor::{self, PRIVILEGE, Refusal, is_canonical};
use crate::preempt;
use crate::thread::{Thread, Work};
use crate::trap::{self, Access, Exception, UserRegs};

/// Vector numbers.
pub(super) mod vector {
    pub(in super::super) const DEBUG: u8 = 1;
    pub(in super::super) const NMI: u8 = 2;
    pub(in super::super) const DOUBLE_FAULT: u8 = 8;
    pub(in super::super) const GENERAL_PROTECTION: u8 = 13;
    pub(in super::super) const PAGE_FAULT: u8 = 14;
    pub(in super::super) const FIRST_INTERRUPT: u8 = 32;
}

const ERROR_WRITE: u64 = 1 << 1;
const ERROR_USER: u64 = 1 << 2;
const ERROR_FETCH: u64 = 1 << 4;
const ERROR_KEY: u64 = 1 << 5;
const RFLAGS_IF: u64 = 1 << 9;

/// Where a user thread goes whose `rip` is no address at all: it faults there, in user mode.
const NOWHERE: u64 = 0xffff_8000_0000_0000;

/// The error code and vector that a stub left in the slot of `orig_rax`, which then says "no system call".
#[inline]
fn take_cause(regs: &mut UserRegs) -> (u8, u64) {
    let cause = core::mem::replace(&mut regs.orig_rax, u64::MAX);
    ((cause >> 32) as u8, cause & 0xffff_ffff)
}

#[inline]
fn from_user(regs: &UserRegs) -> bool {
    regs.cs & 3 == 3
}

/// Interrupts and exceptions other than NMI, double fault and machine check. Interrupts are off.
pub(super) extern "C-unwind" fn trap(regs: &mut UserRegs) {
    let (vector, error_code) = take_cause(regs);
    if vector >= vector::FIRST_INTERRUPT {
        interrupt(vector, regs);
    } else if from_user(regs) {
        user_trap(vector, error_code, regs);
    } else {
        kernel_trap(vector, error_code, regs);
    }
}

fn interrupt(vector: u8, regs: &UserRegs) {
    cpulocal::preempt_add(HARDIRQ);
    if from_user(regs) {
        // The thread's stack is empty.
        super::irq::interrupt(vector, true);
    } else {
        // SAFETY: 1. gates mask interrupts. 2. handlers keep them so, hence none was interrupted.
        unsafe { entry::on_interrupt_stack(vector) };
    }
    cpulocal::preempt_add(-HARDIRQ);
    if !from_user(regs) && regs.rflags & RFLAGS_IF != 0 {
        preempt::preempt_interrupted();
    }
}

/// An interrupt that came while the kernel ran, on the CPU's interrupt stack.
pub(super) extern "C-unwind" fn kernel_interrupt(vector: u8) {
    super::irq::interrupt(vector, false);
}

#[inline]
fn access(error_code: u64) -> Access {
    Access {
        write: error_code & ERROR_WRITE != 0,
        exec: error_code & ERROR_FETCH != 0,
        user_mode: error_code & ERROR_USER != 0,
        by_key: error_code & ERROR_KEY != 0,
    }
}

fn user_trap(vector: u8, mut error_code: u64, regs: &mut UserRegs) {
    if vector == vector::DEBUG {
        // SAFETY: the thread that user code ran in is the current one, and alive.
        let thread: &Thread = unsafe { &*cpulocal::current_thread() };
        match debug::take_cause(thread, regs) {
            Some(cause) => error_code = cause,
            None => return,
        }
    }
    if vector == vector::GENERAL_PROTECTION {
        // SAFETY: as above.
        let thread: &Thread = unsafe { &*cpulocal::current_thread() };
        if debug::lift_tsc_ban(thread) {
            return;
        }
    }
    let cr2 = if vector == vector::PAGE_FAULT { instr::read_cr2() } else { 0 };
    // SAFETY: user code always runs with interrupts on.
    unsafe { instr::sti() };
    let Some(upcalls) = trap::upcalls() else { return };
    if vector == vector::PAGE_FAULT {
        // For user mode the callee has sent the signal, if one is due.
        let _sent = upcalls.page_fault(UserAddr(cr2), access(error_code), Some(regs));
    } else {
        upcalls.user_exception(Exception { vector, error_code, cr2 }, regs);
    }
}

fn kernel_trap(vector: u8, error_code: u64, regs: &mut UserRegs) {
    let cr2 = if vector == vector::PAGE_FAULT { instr::read_cr2() } else { 0 };
    let Some(fixup) = usercopy::fixup(regs.rip) else {
        unwind::die(vector, error_code, cr2, regs);
    };
    if vector == vector::PAGE_FAULT && handle_kernel_fault(cr2, error_code, regs) {
        return;
    }
    regs.rip = fixup;
}

/// Asks for the page that a user copy touched; true if the copy can go on.
fn handle_kernel_fault(cr2: u64, error_code: u64, regs: &UserRegs) -> bool {
    let may_sleep = regs.rflags & RFLAGS_IF != 0 && preempt::count() == 0;
    if cr2 >= USER_END || !may_sleep {
        return false;
    }
    let Some(upcalls) = trap::upcalls() else { return false };
    // SAFETY: the interrupted copy ran with interrupts on, and outside any handler: preemption was possible.
    unsafe { instr::sti() };
    let outcome = upcalls.page_fault(UserAddr(cr2), access(error_code), None);
    instr::cli();
    outcome.is_ok()
}

/// NMI, double fault, machine check and #DB from the kernel, each on its own stack; GS is right already.
pub(super) extern "C-unwind" fn ist_trap(regs: &mut UserRegs) {
    let (vector, error_code) = take_cause(regs);
    cpulocal::preempt_add(NMI);
    match vector {
        vector::NMI => super::irq::nmi(),
        vector::DEBUG => debug::in_kernel(regs),
        vector::DOUBLE_FAULT => unwind::die(vector, error_code, instr::read_cr2(), regs),
        _ => unwind::die(vector, error_code, 0, regs),
    }
    cpulocal::preempt_add(-NMI);
}

/// A system call; interrupts are on.
pub(super) extern "C-unwind" fn system_call(regs: &mut UserRegs) {
    if let Some(upcalls) = trap::upcalls() {
        upcalls.syscall(regs);
    }
}

/// Whether user mode goes on in its usual segments, the only ones that SYSRET knows.
#[inline]
pub(super) fn has_usual_segments(regs: &UserRegs) -> bool {
    regs.cs == u64::from(USER_CS) && regs.ss == u64::from(USER_DS)
}

/// Does what the current thread's work word asks for before user mode; whether the way there must be IRET, because of
/// other segments. Interrupts are off at entry and at the end.
///
/// The flags of tracing, of breakpoints, of ports and of the ban on the time-stamp counter stay set for as long as these
/// last: the first is for system-call entry, the others set the CPU up at the end.
pub(super) extern "C-unwind" fn exit_work(regs: &mut UserRegs) -> bool {
    // SAFETY: a thread that is about to enter user mode is the current one, and alive.
    let thread: &Thread = unsafe { &*cpulocal::current_thread() };
    loop {
        let word = thread.work_word().load(Ordering::Relaxed);
        let work = word & !(Work::TRACE.bits() | NEED_DEBUG | NO_TSC | NEED_PORTS | OTHER_SEGMENTS);
        if work == 0 {
            if word & (NEED_DEBUG | NO_TSC) != 0 {
                debug::enter(thread, word);
            }
            if word & NEED_PORTS != 0 {
                ports::enter(thread);
            }
            let by_iret = !has_usual_segments(regs);
            if word & OTHER_SEGMENTS != 0 && !by_iret {
                thread.work_word().fetch_and(!OTHER_SEGMENTS, Ordering::Relaxed);
            }
            return by_iret;
        }
        if work & !NEED_LOAD != 0 {
            // SAFETY: this is a thread's own context on its way to user mode, where interrupts are on.
            unsafe { instr::sti() };
            match trap::upcalls() {
                Some(upcalls) => upcalls.exit_to_user(regs),
                None => thread.clear_work(Work::all()),
            }
            instr::cli();
        } else if let Some(buffer) = thread.arch.fpu() {
            // Last, with interrupts off until user mode: nothing can take the registers away again.
            fpu::load_current(thread, buffer);
        } else {
            thread.work_word().fetch_and(!NEED_LOAD, Ordering::Relaxed);
        }
    }
}

/// Makes `regs` fit for IRET to user mode (E1 of `entry`), after the thread's work is done. Ends with interrupts off.
pub(super) extern "C-unwind" fn leave(regs: &mut UserRegs) {
    instr::cli();
    let _known = exit_work(regs);
    while !is_fit(regs) {
        if !report_refusal(regs) {
            return;
        }
    }
}

/// Takes from the flags what no program may have; whether IRET can go there.
#[inline]
fn is_fit(regs: &mut UserRegs) -> bool {
    // TF and RF may be set by a debugger or a signal frame, NT by the program: IRET restores them, and every entry
    // clears them for the kernel.
    const TF_NT_RF: u64 = 1 << 8 | 1 << 14 | 1 << 16;
    regs.rflags = regs.rflags & (FREE_FLAGS | TF_NT_RF) | USER_FLAGS;
    if has_usual_segments(regs) { is_canonical(regs.rip) } else { check_return(regs).is_ok() }
}

/// What IRET would do with `regs`, whose selectors get the user's privilege. Interrupts are off.
#[cold]
fn check_return(regs: &mut UserRegs) -> Result<(), Refusal> {
    let selector = |value: u64| value as u16 | PRIVILEGE;
    let (cs, ss) = (selector(regs.cs), selector(regs.ss));
    (regs.cs, regs.ss) = (cs.into(), ss.into());
    descriptor::check_return(cs, ss, regs.rip, ldt::descriptor)
}

/// IRET would fault in the kernel: raises what the program would see if the jump had been its own, and does the thread's
/// work again. False when nobody is there to hear it: the thread goes nowhere then.
#[cold]
fn report_refusal(regs: &mut UserRegs) -> bool {
    let refusal = check_return(regs).err().unwrap_or(Refusal::GENERAL);
    let Some(upcalls) = trap::upcalls() else {
        (regs.rip, regs.cs, regs.ss) = (NOWHERE, USER_CS.into(), USER_DS.into());
        return false;
    };
    // SAFETY: as in `exit_work`.
    unsafe { instr::sti() };
    let Refusal { vector, error_code } = refusal;
    upcalls.user_exception(Exception { vector, error_code, cr2: 0 }, regs);
    instr::cli();
    let _known = exit_work(regs);
    true
}
