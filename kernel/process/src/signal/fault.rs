//! Exceptions of user code as signals.
//!
//! A signal that the thread itself caused must not wait: if it is blocked or ignored, the action becomes the default and
//! the process ends.
//!
//! Sources: sigaction(2) "The si_code field"; vectors from Intel SDM vol. 3, table 6-1.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use abi::signal::{
    BUS_ADRALN, BUS_ADRERR, FPE_FLTDIV, FPE_FLTINV, FPE_FLTOVF, FPE_FLTRES, FPE_FLTUND, FPE_INTDIV,
    ILL_ILLOPN, SEGV_ACCERR, SEGV_MAPERR, SI_KERNEL, SIG_DFL, SIG_IGN, SIGBUS, SIGFPE, SIGILL, SIGKILL,
    SIGSEGV, SIGTRAP, SigInfo, SigSet, TRAP_BRKPT, TRAP_HWBKPT, TRAP_TRACE,
};
use hal::trap::{Access, Exception, UserRegs};
use hal::{UserAddr, user};
use mm::{FaultError, FaultKind};

use super::send;
use crate::hooks;
use crate::task::{self, CurrentTask, FaultInfo, TaskFlags};

/// Sends `info` to the caller so that it cannot be blocked or ignored.
pub fn force(info: SigInfo) {
    force_with(info, Handler::IfCaught);
}

/// Ends the caller by `sig`, whatever its handler.
pub fn force_fatal(sig: u32) {
    force_with(SigInfo::kernel(sig), Handler::Never);
}

/// Ends the caller by the signal of `info`, whatever its handler and its tracer.
pub fn force_deadly(info: SigInfo) {
    task::current().set_flags(TaskFlags::DOOMED);
    force_with(info, Handler::Never);
}

/// Whether a forced signal may run a handler.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Handler {
    /// If there is one and the signal is not blocked.
    IfCaught,
    /// The process ends.
    Never,
}

fn force_with(info: SigInfo, handler: Handler) {
    let task = task::current();
    let group = task.group();
    let sig = info.signo as u32;
    let state = group.sig.lock();
    let is_blocked = task.blocked().has(sig);
    group.with_hand(|hand| {
        let action = hand.get(sig);
        if is_blocked || action.handler == SIG_IGN || handler == Handler::Never {
            hand.set_default(sig);
            task.store_blocked(task.blocked().minus(SigSet::of(sig)));
        }
        if hand.get(sig).handler == SIG_DFL {
            group.is_unkillable.store(false, Relaxed);
        }
    });
    // No wake-up: the caller runs, and other threads end when it takes a fatal signal.
    let mut own = task.pending.lock();
    if !own.is_duplicate(sig) && !own.push(info, None) {
        own.raise(sig);
    }
    task.pending_set.store(own.set().0, SeqCst);
    drop(own);
    drop(state);
    send::recalc(&task);
}

/// Records what a signal frame tells about a fault.
#[inline]
fn note(task: &CurrentTask, trap_nr: u8, error_code: u64, cr2: u64) {
    *task.fault.lock() = FaultInfo { trap_nr: trap_nr.into(), error_code, cr2 };
}

/// A page fault on a user address, in user code or in a user copy of the kernel: `hal::trap::Upcalls::page_fault`.
///
/// `Err`: the access cannot be made good; user code gets the signal for it.
#[expect(
    clippy::result_unit_err,
    reason = "the upcall's signature: a copy that cannot go on has one outcome"
)]
pub fn page_fault(addr: UserAddr, access: Access, regs: Option<&mut UserRegs>) -> Result<(), ()> {
    let task = task::try_current().ok_or(())?;
    let mm = task.mm().ok_or(())?;
    let error = match mm.handle_fault(addr, access) {
        Ok(kind) => {
            let counter = if kind == FaultKind::Minor { &task.min_flt } else { &task.maj_flt };
            counter.store(counter.load(Relaxed) + 1, Relaxed);
            if hooks::faults_are_watched() {
                hooks::fault(&task, addr, kind, regs.as_deref());
            }
            return Ok(());
        }
        Err(error) => error,
    };
    if regs.is_some() {
        signal_bad_access(&task, addr, access, error);
    }
    Err(())
}

/// Sends the signal for a page fault of user code that mm could not handle.
fn signal_bad_access(task: &CurrentTask, addr: UserAddr, access: Access, error: FaultError) {
    // Bits of the CPU's error code (Intel SDM vol. 3, 4.7): present, write, user, fetch, protection key.
    let present = u64::from(access.by_key || error == FaultError::SegvAccerr);
    let (fetch, by_key) = (u64::from(access.exec) << 4, u64::from(access.by_key) << 5);
    let error_code = present | u64::from(access.write) << 1 | 1 << 2 | fetch | by_key;
    note(task, 14, error_code, addr.0);
    let info = match error {
        FaultError::SegvMaperr => SigInfo::fault(SIGSEGV, SEGV_MAPERR, addr.0),
        FaultError::SegvAccerr => SigInfo::fault(SIGSEGV, SEGV_ACCERR, addr.0),
        FaultError::Key(key) => SigInfo::key_fault(addr.0, key),
        FaultError::Poison => SigInfo::poison(addr.0),
        FaultError::Interrupted => return,
        FaultError::Bus => SigInfo::fault(SIGBUS, BUS_ADRERR, addr.0),
        FaultError::Oom => SigInfo::kernel(SIGKILL),
    };
    if error == FaultError::Oom {
        send::send_kernel(send::Target::Group(&Arc::clone(task.group())), info);
    } else {
        force(info);
    }
}

/// With level 3 of iopl(2), old programs switch interrupts off and on again: for them it is as if nothing was there.
fn skip_interrupt_flag(task: &CurrentTask, regs: &mut UserRegs) -> bool {
    /// CLI and STI.
    const INSTRUCTIONS: [u8; 2] = [0xfa, 0xfb];
    let is_one = task.hal().ports().level == hal::ports::Ports::ALL
        && user::read::<u8>(UserAddr(regs.rip)).is_ok_and(|byte| INSTRUCTIONS.contains(&byte));
    if is_one {
        regs.rip = regs.rip.wrapping_add(1);
    }
    is_one
}

/// Another exception of user code: sends the signal.
pub fn user_exception(mut exception: Exception, regs: &mut UserRegs) {
    let task = task::current();
    if let Some(probes) = hooks::probes()
        && probes.exception(&task, &mut exception, regs)
    {
        return;
    }
    if exception.vector == GENERAL_PROTECTION && skip_interrupt_flag(&task, regs) {
        return;
    }
    let is_debug = exception.vector == DEBUG;
    note(&task, exception.vector, if is_debug { 0 } else { exception.error_code }, exception.cr2);
    let at = regs.rip;
    force(match exception.vector {
        0 => SigInfo::fault(SIGFPE, FPE_INTDIV, at),
        DEBUG => {
            task.debug.lock().status = exception.error_code;
            SigInfo::fault(SIGTRAP, debug_code(exception.error_code), at)
        }
        3 => SigInfo::kernel(SIGTRAP),
        4 | 5 => SigInfo::kernel(SIGSEGV),
        6 => SigInfo::fault(SIGILL, ILL_ILLOPN, at),
        16 | 19 => SigInfo::fault(SIGFPE, float_code(exception.error_code), at),
        17 => SigInfo::fault(SIGBUS, BUS_ADRALN, 0),
        10..=12 => SigInfo::fault(SIGBUS, SI_KERNEL, 0),
        _ => SigInfo::kernel(SIGSEGV),
    });
}

/// Vector of debug exceptions.
const DEBUG: u8 = 1;
const GENERAL_PROTECTION: u8 = 13;

/// The `si_code` of a debug exception with DR6 `status`.
fn debug_code(status: u64) -> i32 {
    const HITS: u64 = 0xf;
    const SINGLE_STEP: u64 = 1 << 14;
    match () {
        () if status & SINGLE_STEP != 0 => TRAP_TRACE,
        () if status & HITS != 0 => TRAP_HWBKPT,
        () => TRAP_BRKPT,
    }
}

/// The `si_code` of a floating-point exception; `status` has the unmasked exception bits of the x87 status word or MXCSR.
fn float_code(status: u64) -> i32 {
    match () {
        () if status & 1 != 0 => FPE_FLTINV,
        () if status & 4 != 0 => FPE_FLTDIV,
        () if status & 8 != 0 => FPE_FLTOVF,
        () if status & 0x12 != 0 => FPE_FLTUND,
        () if status & 0x20 != 0 => FPE_FLTRES,
        () => 0,
    }
}
