//! The signal frame on the user stack, rt_sigreturn(2) and the alternate stack.
//!
//! ```text
//! high  interrupted stack ... rsp
//!       128 bytes red zone                    (not when the handler gets the alternate stack)
//!       XSAVE area, 64-byte aligned           <- uc_mcontext.fpstate
//!       siginfo_t   128 bytes                 <- rsi of the handler
//!       ucontext    304 bytes                 <- rdx of the handler
//! low   return address: the restorer          <- rsp of the handler, 8 below a multiple of 16
//! ```
//!
//! Everything that comes back through rt_sigreturn(2) is hostile: flags are masked here, segments and instruction pointers
//! that the machine would refuse become exceptions on the way out, in hal, and hal checks the floating-point state.
//!
//! A handler starts in 64-bit code with the stack segment that was interrupted, if that is any good. Code and stack segment
//! of a frame come back as they are; only the stack segment that 64-bit code without `UC_STRICT_RESTORE_SS` asks for is
//! replaced when it is bad, since programs older than that flag put anything there.
//!
//! Sources: System V ABI AMD64 supplement 3.2.2, sigaltstack(2), sigreturn(2), arch/x86/include/uapi/asm/ucontext.h.

use core::sync::atomic::Ordering::Relaxed;

use abi::signal::{
    SIGSEGV, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK, SaFlags, SigAction, SigContext, SigInfo, SigSet, StackT,
    Ucontext,
};
use abi::{Errno, Result};
use hal::trap::UserRegs;
use hal::{Fault, UserAddr, pkey, thread, user};

use super::{fault, send};
use crate::task::{self, CurrentTask, TaskFlags};

/// Bytes below the stack pointer that a function may use without moving it (AMD64 supplement, 3.2.2).
const RED_ZONE: u64 = 128;
/// Return address, ucontext and siginfo.
const FRAME_LEN: u64 = 8 + size_of::<Ucontext>() as u64 + size_of::<SigInfo>() as u64;
/// Where ucontext and siginfo lie in the frame.
const UCONTEXT_AT: u64 = 8;
const SIGINFO_AT: u64 = UCONTEXT_AT + size_of::<Ucontext>() as u64;
/// The smallest alternate stack that sigaltstack(2) takes (`MINSIGSTKSZ`).
const MIN_ALT_STACK: u64 = 2048;

/// `uc_flags`: the frame has an XSAVE area (`UC_FP_XSTATE`); `ss` is saved (`UC_SIGCONTEXT_SS`).
const UC_FLAGS: u64 = 1 | 2;
/// `uc_flags`: `ss` is restored as saved even if it is bad. In frames of 64-bit code.
const UC_STRICT_RESTORE_SS: u64 = 4;
/// The privilege in a selector: the user's.
const USER_RPL: u16 = 3;
/// User code and stack segments, as hal sets them up.
const USER_CS: u64 = 0x33;
const USER_SS: u64 = 0x2b;
/// RFLAGS that a signal frame may change: AC OF DF TF SF ZF AF PF CF RF.
const RESTORED_FLAGS: u64 =
    1 << 18 | 1 << 11 | 1 << 10 | 1 << 8 | 1 << 7 | 1 << 6 | 1 << 4 | 1 << 2 | 1 | 1 << 16;
/// RFLAGS cleared for a handler: DF, RF, TF.
const HANDLER_CLEARS: u64 = 1 << 10 | 1 << 16 | 1 << 8;

/// The alternate stack of a thread.
#[derive(Clone, Copy, Debug)]
pub struct AltStack {
    sp: u64,
    len: u64,
    flags: u32,
}

impl AltStack {
    /// None is set.
    pub(crate) const NONE: Self = Self { sp: 0, len: 0, flags: SS_DISABLE };

    /// Whether `sp` is on it. A stack that disarms itself is never in use: its handler runs as on any stack.
    fn contains(&self, sp: u64) -> bool {
        self.flags & SS_AUTODISARM == 0 && self.holds(sp)
    }

    /// Whether `sp` lies inside.
    fn holds(&self, sp: u64) -> bool {
        sp > self.sp && sp - self.sp <= self.len
    }

    /// What sigaltstack(2) reports with the stack pointer at `sp`.
    fn describe(&self, sp: u64) -> StackT {
        let state = match () {
            () if self.len == 0 => SS_DISABLE,
            () if self.contains(sp) => SS_ONSTACK,
            () => 0,
        };
        let ss_flags = state | self.flags & SS_AUTODISARM;
        StackT { ss_sp: self.sp, ss_flags, pad0: 0, ss_size: self.len }
    }

    /// The stack that sigaltstack(2) is asked to set. `EINVAL`: unknown flags. `ENOMEM`: too small.
    fn from_user(new: &StackT) -> Result<Self> {
        let mode = new.ss_flags & !SS_AUTODISARM;
        if mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0 {
            return Err(Errno::EINVAL);
        }
        if mode == SS_DISABLE {
            return Ok(Self { sp: 0, len: 0, flags: new.ss_flags });
        }
        if new.ss_size < MIN_ALT_STACK {
            return Err(Errno::ENOMEM);
        }
        Ok(Self { sp: new.ss_sp, len: new.ss_size, flags: new.ss_flags })
    }
}

/// `AT_MINSIGSTKSZ`: the largest frame that the kernel writes.
pub fn min_stack_size() -> u64 {
    // Two alignments (64 for the XSAVE area, 16 for the frame) and the red zone may be lost.
    FRAME_LEN + thread::fpu_frame_size() as u64 + 64 + 16
}

/// sigaltstack(2). `sp` is the caller's stack pointer. `EPERM`: it runs on the present alternate stack.
pub(super) fn change_alt_stack(sp: u64, new: Option<&StackT>) -> Result<StackT> {
    let task = task::current();
    let mut stack = task.alt_stack.lock();
    let old = stack.describe(sp);
    if let Some(new) = new {
        if stack.contains(sp) {
            return Err(Errno::EPERM);
        }
        *stack = AltStack::from_user(new)?;
    }
    Ok(old)
}

/// Makes `regs` run the handler of `action` for `info`; a stack that cannot hold the frame is a `SIGSEGV`, and false.
pub(super) fn enter_handler(
    task: &CurrentTask,
    info: &SigInfo,
    action: &SigAction,
    regs: &mut UserRegs,
) -> bool {
    let sig = info.signo as u32;
    let mask = if task.has(TaskFlags::RESTORE_MASK) {
        SigSet(task.saved_mask.load(Relaxed))
    } else {
        task.blocked()
    };
    // The handler's stack may have any protection key, so none stands in the way of the frame, which keeps the rights.
    let rights = pkey::rights();
    pkey::set_rights(0);
    let pushed = push_frame(task, info, action, mask, rights, regs);
    pkey::set_rights(if pushed.is_ok() { pkey::INITIAL } else { rights });
    if pushed.is_err() {
        let also_deadly = sig == SIGSEGV;
        if also_deadly {
            fault::force_fatal(SIGSEGV);
        } else {
            fault::force(SigInfo::kernel(SIGSEGV));
        }
        return false;
    }
    task.clear_flags(TaskFlags::RESTORE_MASK);
    let own = if action.flags & SaFlags::NODEFER.bits() == 0 { SigSet::of(sig) } else { SigSet::EMPTY };
    let added = action.mask.union(own).minus(task.blocked());
    task.store_blocked(task.blocked().union(added));
    send::retarget(task, added);
    let mut stack = task.alt_stack.lock();
    if stack.flags & SS_AUTODISARM != 0 {
        *stack = AltStack::NONE;
    }
    true
}

/// Chooses the place of a frame of `fpu_len` bytes of floating-point state: gives the places of both parts.
fn place(alt: &AltStack, action: &SigAction, sp: u64, fpu_len: u64) -> Result<(u64, u64), Fault> {
    let mut top = sp.wrapping_sub(RED_ZONE);
    let was_on_alt = alt.contains(sp);
    let mut on_alt = was_on_alt;
    if action.flags & SaFlags::ONSTACK.bits() != 0 && !was_on_alt && alt.len != 0 {
        top = alt.sp.wrapping_add(alt.len);
        on_alt = true;
    }
    let fpu = top.wrapping_sub(fpu_len) & !63;
    let frame = (fpu.wrapping_sub(FRAME_LEN) & !15).wrapping_sub(8);
    // Beyond the end of the alternate stack lies memory that is not for frames.
    if on_alt && !alt.holds(frame) {
        return Err(Fault);
    }
    Ok((frame, fpu))
}

/// Writes the frame, which tells `rights` over protection keys, and points `regs` at the handler.
fn push_frame(
    task: &CurrentTask,
    info: &SigInfo,
    action: &SigAction,
    mask: SigSet,
    rights: u32,
    regs: &mut UserRegs,
) -> Result<(), Fault> {
    if action.flags & SaFlags::RESTORER.bits() == 0 {
        return Err(Fault);
    }
    let alt = *task.alt_stack.lock();
    let (frame, fpu) = place(&alt, action, regs.rsp, thread::fpu_frame_size() as u64)?;
    task.hal().save_fpu(UserAddr(fpu), rights)?;
    let at = |offset| UserAddr(frame.wrapping_add(offset));
    let strict = if regs.cs == USER_CS { UC_STRICT_RESTORE_SS } else { 0 };
    let context = Ucontext {
        uc_flags: UC_FLAGS | strict,
        uc_link: 0,
        uc_stack: StackT { ss_sp: alt.sp, ss_flags: alt.flags, pad0: 0, ss_size: alt.len },
        uc_mcontext: save_registers(task, regs, mask, fpu),
        uc_sigmask: mask,
    };
    user::write(at(0), &action.restorer)?;
    user::write(at(UCONTEXT_AT), &context)?;
    if action.flags & SaFlags::SIGINFO.bits() != 0 {
        user::write(at(SIGINFO_AT), info)?;
    }
    regs.rdi = info.signo as u64;
    regs.rsi = at(SIGINFO_AT).0;
    regs.rdx = at(UCONTEXT_AT).0;
    regs.rax = 0;
    regs.rip = action.handler;
    regs.rsp = frame;
    regs.cs = USER_CS;
    keep_good_stack_segment(task, regs);
    regs.rflags &= !HANDLER_CLEARS;
    Ok(())
}

/// Puts the usual stack segment in the place of one that user code cannot have.
#[inline]
fn keep_good_stack_segment(task: &CurrentTask, regs: &mut UserRegs) {
    if regs.ss != USER_SS && !task.hal().is_stack_segment(regs.ss as u16) {
        regs.ss = USER_SS;
    }
}

/// The registers as a signal frame shows them.
fn save_registers(task: &CurrentTask, regs: &UserRegs, mask: SigSet, fpstate: u64) -> SigContext {
    let fault = *task.fault.lock();
    SigContext {
        r8: regs.r8,
        r9: regs.r9,
        r10: regs.r10,
        r11: regs.r11,
        r12: regs.r12,
        r13: regs.r13,
        r14: regs.r14,
        r15: regs.r15,
        rdi: regs.rdi,
        rsi: regs.rsi,
        rbp: regs.rbp,
        rbx: regs.rbx,
        rdx: regs.rdx,
        rax: regs.rax,
        rcx: regs.rcx,
        rsp: regs.rsp,
        rip: regs.rip,
        eflags: regs.rflags,
        cs: regs.cs as u16,
        gs: 0,
        fs: 0,
        ss: regs.ss as u16,
        err: fault.error_code,
        trapno: fault.trap_nr,
        oldmask: mask.0,
        cr2: fault.cr2,
        fpstate,
        reserved: [0; 8],
    }
}

/// Takes registers from a signal frame.
fn load_registers(from: &SigContext, regs: &mut UserRegs) {
    *regs = UserRegs {
        r15: from.r15,
        r14: from.r14,
        r13: from.r13,
        r12: from.r12,
        rbp: from.rbp,
        rbx: from.rbx,
        r11: from.r11,
        r10: from.r10,
        r9: from.r9,
        r8: from.r8,
        rax: from.rax,
        rcx: from.rcx,
        rdx: from.rdx,
        rsi: from.rsi,
        rdi: from.rdi,
        // The frame is not that of a call any more, so nothing restarts.
        orig_rax: u64::MAX,
        rip: from.rip,
        cs: (from.cs | USER_RPL).into(),
        rflags: regs.rflags & !RESTORED_FLAGS | from.eflags & RESTORED_FLAGS,
        rsp: from.rsp,
        ss: (from.ss | USER_RPL).into(),
    };
}

/// rt_sigreturn(2): goes back to what the handler interrupted. A frame that cannot be read is a `SIGSEGV`.
///
/// All of `regs` is replaced, `rax` too; the caller must not store a result there.
pub fn sigreturn(regs: &mut UserRegs) {
    // As in `enter_handler`: the frame may lie in pages that the handler took its own access to.
    let rights = pkey::rights();
    pkey::set_rights(0);
    if restore_frame(regs).is_err() {
        pkey::set_rights(rights);
        fault::force(SigInfo::kernel(SIGSEGV));
    }
}

/// Reads the frame back.
fn restore_frame(regs: &mut UserRegs) -> Result<(), Fault> {
    let task = task::current();
    // The handler's return popped the restorer's address.
    let context: Ucontext = user::read(UserAddr(regs.rsp))?;
    set_blocked(&task, context.uc_sigmask);
    load_registers(&context.uc_mcontext, regs);
    if context.uc_flags & UC_STRICT_RESTORE_SS == 0 && regs.cs == USER_CS {
        keep_good_stack_segment(&task, regs);
    }
    task.hal().note_segments(regs);
    if context.uc_mcontext.fpstate != 0 {
        task.hal().restore_fpu(UserAddr(context.uc_mcontext.fpstate))?;
    } else {
        pkey::set_rights(pkey::INITIAL);
    }
    // Errors are ignored, as on Linux: the frame may hold what sigaltstack(2) would not take.
    let sp = regs.rsp;
    let mut stack = task.alt_stack.lock();
    if !stack.contains(sp)
        && let Ok(new) = AltStack::from_user(&context.uc_stack)
    {
        *stack = new;
    }
    Ok(())
}

/// Changes the caller's mask and sees to signals that it opens or closes.
pub(super) fn set_blocked(task: &CurrentTask, mask: SigSet) {
    let added = mask.minus(task.blocked());
    task.store_blocked(mask);
    if !added.is_empty() {
        send::retarget(task, added);
    }
    send::recalc(task);
}

#[cfg(test)]
mod tests {
    use super::*;

    const STACK: AltStack = AltStack { sp: 0x10000, len: 0x4000, flags: 0 };

    fn action(flags: SaFlags) -> SigAction {
        SigAction { flags: flags.bits(), ..SigAction::default() }
    }

    #[test]
    fn the_frame_respects_red_zone_and_alignment() {
        for sp in 0x7fff_0000..0x7fff_0100 {
            let (frame, fpu) = place(&AltStack::NONE, &action(SaFlags::ONSTACK), sp, 832).unwrap();
            assert_eq!(fpu % 64, 0);
            assert_eq!(frame % 16, 8);
            assert!(fpu + 832 <= sp - RED_ZONE && frame + FRAME_LEN <= fpu);
        }
    }

    #[test]
    fn the_alternate_stack_is_used_once_and_not_overrun() {
        let want = action(SaFlags::ONSTACK);
        let (frame, _) = place(&STACK, &want, 0x7fff_0000, 832).unwrap();
        assert!(STACK.contains(frame));
        let (nested, _) = place(&STACK, &want, frame, 832).unwrap();
        assert!(nested < frame - 832, "a nested handler continues below");
        assert!(place(&STACK, &want, 0x10100, 832).is_err());
        let (normal, _) = place(&STACK, &action(SaFlags::empty()), 0x7fff_0000, 832).unwrap();
        assert!(!STACK.contains(normal));
    }

    #[test]
    fn sigaltstack_reports_its_state() {
        assert_eq!(AltStack::NONE.describe(5).ss_flags, SS_DISABLE);
        assert_eq!(STACK.describe(0x10008).ss_flags, SS_ONSTACK);
        assert_eq!(STACK.describe(0x10000).ss_flags, 0);
        let disarming = AltStack { flags: SS_AUTODISARM, ..STACK };
        assert_eq!(disarming.describe(0x10008).ss_flags, SS_AUTODISARM);
        let small = StackT { ss_sp: 0, ss_flags: 0, pad0: 0, ss_size: 2047 };
        assert_eq!(AltStack::from_user(&small).unwrap_err(), Errno::ENOMEM);
        let odd = StackT { ss_flags: 8, ..small };
        assert_eq!(AltStack::from_user(&odd).unwrap_err(), Errno::EINVAL);
    }

    #[test]
    fn sigreturn_keeps_privileged_flags_and_privilege() {
        let mut regs = UserRegs { rflags: 0x202, ..UserRegs::default() };
        let hostile =
            SigContext { eflags: u64::MAX, cs: 0x10, ss: 0, rip: u64::MAX, ..SigContext::default() };
        load_registers(&hostile, &mut regs);
        assert_eq!(
            (regs.cs, regs.ss),
            (0x13, 3),
            "the user's privilege, which hal holds against what they lead to"
        );
        assert_eq!(regs.rflags & !RESTORED_FLAGS, 0x202);
        assert_eq!(regs.orig_rax, u64::MAX);
    }
}
