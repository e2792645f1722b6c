//! Hardware breakpoints and watchpoints: the debug registers of user threads. And the ban on the time-stamp counter
//! (`PR_SET_TSC`), which is kept in the same way: set on the way to user mode, lifted when it meets another thread.
//!
//! A thread with breakpoints has [`NEED_DEBUG`] in its work word for as long as it has them, so each way to user mode
//! loads them, with interrupts off, as the last thing. Nothing takes them out again when the thread leaves the CPU:
//!
//! ```text
//! #DB in user mode, thread has breakpoints       DR6 goes up, with the single-step bit
//! #DB in user mode, it has none: left behind     DR7 = 0, the thread goes on
//! #DB in a user copy of the kernel               DR7 = 0; the way to user mode loads it again where wanted
//! ```
//!
//! # Invariants
//!
//! - D1: only user addresses get into DR0 to DR3, only execution, write and read-or-write conditions into DR7.
//!
//! Source: Intel SDM vol. 3 ch. 18.2 (debug registers), 18.3 (debug exceptions).

use core::sync::atomic::{AtomicU64, Ordering};

use super::instr;
use crate::addr::USER_END;
use crate::error::Fault;
use crate::thread::{Breakpoints, Thread};
use crate::trap::UserRegs;

/// The work flag that says: load the debug registers before user mode.
pub(super) const NEED_DEBUG: u32 = 1 << 30;

/// The work flag that says: user code may not read the time-stamp counter.
pub(super) const NO_TSC: u32 = 1 << 29;
/// CR4: RDTSC outside the kernel raises #GP.
const CR4_TSD: u64 = 1 << 2;

/// DR6 with nothing to report.
const DR6_NOTHING: u64 = 0xffff_0ff0;
/// What DR6 can report here: the four breakpoints, access to a debug register, single step, task switch.
const DR6_CAUSES: u64 = 0xe00f;
const DR6_HITS: u64 = 0xf;
/// The bit of DR7 that is always 1.
const DR7_FIXED: u64 = 1 << 10;
const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_RF: u64 = 1 << 16;

/// The breakpoints of a thread.
pub(super) struct DebugState {
    addr: [AtomicU64; 4],
    /// DR7; 0 when there are none.
    control: AtomicU64,
}

impl DebugState {
    pub(super) const fn new() -> DebugState {
        DebugState { addr: [const { AtomicU64::new(0) }; 4], control: AtomicU64::new(0) }
    }
}

/// Kind and length of breakpoint `n` in `control`.
fn condition(control: u64, n: usize) -> (u64, u64) {
    let bits = control >> (16 + 4 * n);
    let len = match bits >> 2 & 3 {
        0 => 1,
        1 => 2,
        2 => 8,
        _ => 4,
    };
    (bits & 3, len)
}

/// The bits of DR7 for what `wanted` switches on. `Err`: a condition or address that D1 forbids.
fn checked(wanted: &Breakpoints) -> Result<u64, Fault> {
    let mut control = 0;
    for (n, &addr) in wanted.addr.iter().enumerate() {
        if wanted.control >> (2 * n) & 3 == 0 {
            continue;
        }
        let (kind, len) = condition(wanted.control, n);
        let is_possible = match kind {
            0 => len == 1,
            1 | 3 => true,
            _ => false, // input and output
        };
        if !is_possible || !addr.is_multiple_of(len) || addr > USER_END - len {
            return Err(Fault);
        }
        control |= 1 << (2 * n) | wanted.control & 0xf << (16 + 4 * n);
    }
    Ok(control)
}

/// Gives `thread` other breakpoints. They count from its next way to user mode.
pub(crate) fn set(thread: &Thread, wanted: &Breakpoints) -> Result<(), Fault> {
    let control = checked(wanted)?;
    let state = &thread.arch.debug;
    for (slot, &addr) in state.addr.iter().zip(&wanted.addr) {
        // D1 also for places that are not in use.
        slot.store(if addr < USER_END { addr } else { 0 }, Ordering::Relaxed);
    }
    state.control.store(control, Ordering::Relaxed);
    if control == 0 {
        thread.work_word().fetch_and(!NEED_DEBUG, Ordering::Release);
    } else {
        thread.work_word().fetch_or(NEED_DEBUG, Ordering::Release);
    }
    Ok(())
}

/// Forbids user code of `thread` the time-stamp counter, or allows it again.
pub(crate) fn forbid_tsc(thread: &Thread, on: bool) {
    if on {
        thread.work_word().fetch_or(NO_TSC, Ordering::Release);
    } else {
        thread.work_word().fetch_and(!NO_TSC, Ordering::Release);
    }
}

/// Whether it is forbidden.
pub(crate) fn is_tsc_forbidden(thread: &Thread) -> bool {
    thread.work_word().load(Ordering::Relaxed) & NO_TSC != 0
}

/// Sets this CPU up for `thread`, whose work word is `word` and which is about to enter user mode. Interrupts are off.
#[cold]
pub(super) fn enter(thread: &Thread, word: u32) {
    if word & NEED_DEBUG != 0 {
        load(thread);
    }
    let cr4 = instr::read_cr4();
    if word & NO_TSC != 0 && cr4 & CR4_TSD == 0 {
        // SAFETY: only adds a bit that every CPU has and that says nothing about memory.
        unsafe { instr::write_cr4(cr4 | CR4_TSD) };
    }
}

/// Whether #GP of `thread` came of a ban on the time-stamp counter that was another thread's: it is lifted, and the
/// instruction runs again. Interrupts are off.
pub(super) fn lift_tsc_ban(thread: &Thread) -> bool {
    let cr4 = instr::read_cr4();
    if cr4 & CR4_TSD == 0 || is_tsc_forbidden(thread) {
        return false;
    }
    // SAFETY: as in `enter`.
    unsafe { instr::write_cr4(cr4 & !CR4_TSD) };
    true
}

/// Loads the breakpoints of `thread`.
fn load(thread: &Thread) {
    let state = &thread.arch.debug;
    let addr = [0, 1, 2, 3].map(|n: usize| state.addr[n].load(Ordering::Relaxed));
    let control = state.control.load(Ordering::Relaxed) | DR7_FIXED;
    // SAFETY: D1: `set` let only user addresses and harmless conditions in. Torn pairs of address and control keep it.
    unsafe {
        instr::write_dr7(DR7_FIXED);
        instr::write_breakpoints(addr);
        instr::write_dr7(control);
    }
}

/// Forgets this CPU's breakpoints.
fn unload() {
    // SAFETY: no breakpoint is on.
    unsafe { instr::write_dr7(DR7_FIXED) };
}

/// Why user code of `thread` got #DB, as the bits of DR6; `None` when it was for a thread that ran here before.
/// Interrupts are off.
pub(super) fn take_cause(thread: &Thread, regs: &mut UserRegs) -> Option<u64> {
    let raw = instr::read_dr6() ^ DR6_NOTHING;
    instr::write_dr6(DR6_NOTHING);
    let mut cause = raw & DR6_CAUSES;
    let control = thread.arch.debug.control.load(Ordering::Relaxed);
    if control == 0 && cause & DR6_HITS != 0 {
        unload();
        cause &= !DR6_HITS;
        if cause == 0 {
            return None;
        }
    }
    for n in 0..4 {
        if cause >> n & 1 != 0 && condition(control, n).0 == 0 {
            // Going on must not stop at the same instruction again.
            regs.rflags |= RFLAGS_RF;
        }
    }
    Some(cause)
}

/// #DB in the kernel: a user copy touched a watched address, or `mov ss` put it off until here.
pub(super) fn in_kernel(regs: &mut UserRegs) {
    instr::write_dr6(DR6_NOTHING);
    unload();
    regs.rflags &= !RFLAGS_TF;
}
