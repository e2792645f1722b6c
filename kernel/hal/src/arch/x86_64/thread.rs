//! The machine's part of a thread: kernel stack, context switch, user segment bases, the way to user mode.
//!
//! A thread that is off the CPU is one number, its stack pointer: the rest lies on its stack.
//!
//! ```text
//!   switched away                        new
//!   sp -> r15 r14 r13 r12 rbp rbx        sp -> 0 0 0 0 0 0
//!         return into switch()                 keel_thread_start
//!         ...                                  0   the end of backtraces
//! ```
//!
//! `switch` runs with interrupts off. It returns on another thread's stack: everything it needs after the exchange of
//! stack pointers travels in registers.
//!
//! # Invariants
//!
//! - A1: `sp`, `selectors` and the FPU buffer's slot are touched by the thread itself, by `switch` on the CPU that
//!   leaves or enters the thread, or before its first run (T2 and T3 of `crate::thread`).
//! - A2: while a user thread runs, its FS and GS bases and data selectors are in the CPU; `fs_base`, `gs_base` and
//!   `selectors` hold them only while it is switched away.

use alloc::vec::Vec;
use core::arch::{asm, naked_asm};
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::cpu::Feature;
use super::cpulocal::{self, OFFSET_KERNEL_SP};
use super::debug::DebugState;
pub(crate) use super::debug::{forbid_tsc, is_tsc_forbidden, set as set_breakpoints};
use super::entry::{FREE_FLAGS, USER_FLAGS};
use super::fpu::{self, Buffer};
use super::instr::{self, IA32_FS_BASE, IA32_KERNEL_GS_BASE};
pub(crate) use super::ports::{get as ports, set as set_ports, set_first as set_first_ports};
use super::stack::KernelStack;
use super::{exception, gdt, ldt, pku, unwind};
use crate::addr::UserAddr;
use crate::error::{Fault, NoMemory};
use crate::pkey::INITIAL;
use crate::ports::Ports;
use crate::segment::Selectors;
use crate::sync::IrqLock;
use crate::thread::{Breakpoints, Current, Fpu, Thread};
use crate::trap::UserRegs;

pub(crate) use super::fpu::fpu_frame_size;

/// Where the work word lies in a [`Thread`], for entry code.
pub(super) const OFFSET_WORK: usize = offset_of!(Thread, work);

/// The work flag that says: the thread may go on in other segments than the usual, which SYSRET does not know.
pub(super) const OTHER_SEGMENTS: u32 = 1 << 28;

static HAS_FSGSBASE: AtomicBool = AtomicBool::new(false);

/// Looks for FSGSBASE. The boot CPU calls it before the first thread.
pub(super) fn init() {
    HAS_FSGSBASE.store(Feature::FSGSBASE.present(), Ordering::Relaxed);
}

/// The machine's part of a thread.
pub(crate) struct ArchThread {
    sp: UnsafeCell<u64>,
    /// None for the thread that a CPU started with, whose stack is never freed.
    stack: Option<KernelStack>,
    fs_base: AtomicU64,
    gs_base: AtomicU64,
    selectors: UnsafeCell<Selectors>,
    /// Present in threads that have been to user mode or are about to go.
    fpu: UnsafeCell<Option<Buffer>>,
    /// The CPU whose registers may hold this thread's; see invariant F2 of `fpu`.
    pub(super) fpu_cpu: AtomicU32,
    /// Rights over protection keys while the thread is off the CPU; K1 of `pku`.
    pkru: AtomicU32,
    /// Breakpoints that others may change at any time.
    pub(super) debug: DebugState,
    /// Ports that its user code may use.
    pub(super) ports: IrqLock<Ports>,
    /// It panicked, and its stack is being unwound.
    pub(super) panicking: AtomicBool,
}

impl ArchThread {
    fn with(stack: Option<KernelStack>, fpu: Option<Buffer>) -> ArchThread {
        ArchThread {
            sp: UnsafeCell::new(0),
            stack,
            fs_base: AtomicU64::new(0),
            gs_base: AtomicU64::new(0),
            selectors: UnsafeCell::new([0; 4]),
            fpu: UnsafeCell::new(fpu),
            fpu_cpu: AtomicU32::new(fpu::NO_CPU),
            pkru: pku::initial(),
            debug: DebugState::new(),
            ports: IrqLock::new("hal.thread.ports", Ports::default()),
            panicking: AtomicBool::new(false),
        }
    }

    /// A thread that starts in `crate::thread::begin`.
    pub(crate) fn new() -> Result<ArchThread, NoMemory> {
        let stack = KernelStack::new()?;
        let sp = first_frame(&stack);
        let mut thread = ArchThread::with(Some(stack), None);
        *thread.sp.get_mut() = sp;
        Ok(thread)
    }

    /// Likewise, and it will go to user mode.
    pub(crate) fn new_user(fpu: Fpu) -> Result<ArchThread, NoMemory> {
        let mut thread = ArchThread::new()?;
        let current = crate::thread::current();
        let copied = match (fpu, current.arch.fpu()) {
            (Fpu::CopyCurrent, Some(buffer)) => {
                *thread.fs_base.get_mut() = read_fs_base();
                *thread.gs_base.get_mut() = read_user_gs_base();
                *thread.selectors.get_mut() = read_selectors();
                *thread.pkru.get_mut() = pku::rights();
                fpu::copy_of(&current, buffer)?
            }
            _ => Buffer::new()?,
        };
        *thread.fpu.get_mut() = Some(copied);
        Ok(thread)
    }

    /// The code that a CPU started with, as a thread.
    pub(crate) fn boot() -> ArchThread {
        ArchThread::with(None, None)
    }

    /// Lowest and highest address of the kernel stack; zeros for the boot thread.
    pub(crate) fn stack_bounds(&self) -> (usize, usize) {
        self.stack.as_ref().map_or((0, 0), |stack| (stack.bottom() as usize, stack.top() as usize))
    }

    /// The FS base of a thread that has not run.
    pub(crate) fn set_first_fs_base(&self, base: u64) {
        self.fs_base.store(base, Ordering::Relaxed);
    }

    #[inline]
    fn stack_top(&self) -> u64 {
        self.stack.as_ref().map_or(0, KernelStack::top)
    }

    /// The FPU buffer, if this is a user thread.
    #[inline]
    pub(super) fn fpu(&self) -> Option<&Buffer> {
        // SAFETY: A1: the slot is written only before the thread first enters user mode, by itself or its creator.
        unsafe { (*self.fpu.get()).as_ref() }
    }
}

/// Prepares the stack of a new thread; returns its stack pointer.
fn first_frame(stack: &KernelStack) -> u64 {
    const WORDS: usize = 8;
    let frame: [u64; WORDS] = [0, 0, 0, 0, 0, 0, keel_thread_start as *const () as u64, 0];
    // 16 bytes stay free: `keel_thread_start` runs with RSP at the last 0, 16-byte aligned.
    let sp = stack.top() - 16 - (WORDS as u64 - 1) * 8;
    // SAFETY: the top of a new stack, which nobody uses yet.
    unsafe { (sp as *mut [u64; WORDS]).write(frame) };
    sp
}

/// Saves the callee-saved registers and RSP in `*save`, continues at `next_sp`; returns `prev` over there.
///
/// # Safety
///
/// 1. `*save` is the saved stack pointer's place in the running thread.
/// 2. `next_sp` was saved by this function or made by [`first_frame`], and is used once.
#[unsafe(naked)]
unsafe extern "C-unwind" fn exchange_stacks(
    save: *mut u64,
    next_sp: u64,
    prev: *const Thread,
) -> *const Thread {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "mov rax, rdx",
        "ret",
    )
}

/// Where a new thread's first `exchange_stacks` returns to: RAX is the previous thread.
#[unsafe(naked)]
unsafe extern "C-unwind" fn keel_thread_start() -> ! {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_def_cfa rsp, 8",
        ".cfi_offset rip, -8",
        "mov rdi, rax",
        "xor ebp, ebp",
        "call {begin}",
        "ud2",
        ".cfi_endproc",
        begin = sym begin,
    )
}

/// `crate::thread::begin` with the calling convention of assembly.
///
/// # Safety
///
/// 1. As there.
unsafe extern "C-unwind" fn begin(prev: *const Thread) -> ! {
    // SAFETY: 1.
    unsafe { crate::thread::begin(prev) }
}

/// Runs `next` on this CPU; returns when somebody switches back, with the thread that did.
///
/// # Safety
///
/// 1. Interrupts are off, `prev` is the current thread, and both stay alive until they are switched away from.
/// 2. `next` is off the CPU with a saved or first context, and nobody else switches to it.
#[inline]
pub(crate) unsafe fn switch(prev: *const Thread, next: *const Thread) -> *const Thread {
    // SAFETY: 1: both are alive.
    let (from, to) = unsafe { (&*prev, &*next) };
    let cpu = cpulocal::this();
    if let Some(buffer) = from.arch.fpu() {
        fpu::switch_out(from, buffer);
        pku::switch_out(&from.arch.pkru);
        leave_user_segments(&from.arch);
    }
    cpu.current.store(next.cast_mut(), Ordering::Relaxed);
    // SAFETY: interrupts are off (1); the stack belongs to `next`, which stays alive while it is current.
    unsafe { gdt::set_kernel_stack(cpu, to.arch.stack_top()) };
    gdt::keep_kernel_ss();
    if to.arch.fpu().is_some() {
        fpu::switch_in(to);
        pku::switch_in(&to.arch.pkru);
        enter_user_segments(&to.arch);
    }
    // SAFETY: A1: `next` is ours to enter (2), `prev` to leave.
    unsafe { exchange_stacks(from.arch.sp.get(), *to.arch.sp.get(), prev) }
}

#[inline]
fn read_selectors() -> Selectors {
    let (ds, es, fs, gs): (u16, u16, u16, u16);
    // SAFETY: reading segment registers has no effect.
    unsafe {
        asm!("mov {:x}, ds", "mov {:x}, es", "mov {:x}, fs", "mov {:x}, gs", out(reg) ds, out(reg) es, out(reg) fs,
             out(reg) gs, options(nomem, nostack, preserves_flags));
    }
    [ds, es, fs, gs]
}

/// Loads data selectors of user code, null for those that are no good any more; this also changes the FS and user GS
/// bases. Interrupts are off.
#[cold]
#[inline]
fn write_selectors(wanted: Selectors) {
    let [ds, es, fs, gs] = ldt::loadable(wanted);
    // SAFETY: none of them faults (L3 of `ldt`). 64-bit mode does not use DS and ES; GS is loaded while the user's base
    // is in place, so the kernel's is not touched. Interrupts are off.
    unsafe {
        asm!("mov ds, {:x}", "mov es, {:x}", "mov fs, {:x}", "swapgs", "mov gs, {:x}", "swapgs", in(reg) ds,
             in(reg) es, in(reg) fs, in(reg) gs, options(nostack, preserves_flags));
    }
}

#[inline]
fn read_fs_base() -> u64 {
    if HAS_FSGSBASE.load(Ordering::Relaxed) {
        let base;
        // SAFETY: FSGSBASE is there and CR4 allows it.
        unsafe { asm!("rdfsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) };
        base
    } else {
        // SAFETY: every x86-64 CPU has this register.
        unsafe { instr::rdmsr(IA32_FS_BASE) }
    }
}

#[inline]
fn write_fs_base(base: u64) {
    if HAS_FSGSBASE.load(Ordering::Relaxed) {
        // SAFETY: FSGSBASE is there; the kernel uses no memory through FS. Bases come from a CPU or were checked to
        // be below USER_END: canonical.
        unsafe { asm!("wrfsbase {}", in(reg) base, options(nostack, preserves_flags)) };
    } else {
        // SAFETY: every x86-64 CPU has this register; otherwise as above.
        unsafe { instr::wrmsr(IA32_FS_BASE, base) }
    }
}

#[inline]
fn read_user_gs_base() -> u64 {
    // SAFETY: every x86-64 CPU has this register, which holds the user's base while the kernel runs.
    unsafe { instr::rdmsr(IA32_KERNEL_GS_BASE) }
}

#[inline]
fn write_user_gs_base(base: u64) {
    // SAFETY: as for reading; the base is canonical as in `write_fs_base`, and means nothing to the kernel.
    unsafe { instr::wrmsr(IA32_KERNEL_GS_BASE, base) }
}

/// As [`read_user_gs_base`], faster, for code that runs with interrupts off.
#[inline]
fn leave_user_gs_base() -> u64 {
    if !HAS_FSGSBASE.load(Ordering::Relaxed) {
        return read_user_gs_base();
    }
    let base;
    // SAFETY: FSGSBASE is there. Interrupts are off, and nothing between the two SWAPGS uses GS: an NMI brings its own
    // base.
    unsafe { asm!("swapgs", "rdgsbase {}", "swapgs", out(reg) base, options(nostack, preserves_flags)) };
    base
}

/// As [`write_user_gs_base`], faster, for code that runs with interrupts off.
#[inline]
fn enter_user_gs_base(base: u64) {
    if HAS_FSGSBASE.load(Ordering::Relaxed) {
        // SAFETY: as in `leave_user_gs_base`; the base is canonical as in `write_fs_base`.
        unsafe { asm!("swapgs", "wrgsbase {}", "swapgs", in(reg) base, options(nostack, preserves_flags)) };
    } else if base != read_user_gs_base() {
        write_user_gs_base(base);
    }
}

/// Saves the segment state of a thread that leaves this CPU (A2).
#[inline]
fn leave_user_segments(from: &ArchThread) {
    from.fs_base.store(read_fs_base(), Ordering::Relaxed);
    from.gs_base.store(leave_user_gs_base(), Ordering::Relaxed);
    // SAFETY: A1: the thread is being switched away from, here.
    unsafe { *from.selectors.get() = read_selectors() };
}

/// Loads the segment state of a thread that enters this CPU (A2).
#[inline]
fn enter_user_segments(to: &ArchThread) {
    // SAFETY: A1: the thread is being switched to, here.
    let selectors = unsafe { *to.selectors.get() };
    if selectors != read_selectors() {
        write_selectors(selectors);
    }
    write_fs_base(to.fs_base.load(Ordering::Relaxed));
    enter_user_gs_base(to.gs_base.load(Ordering::Relaxed));
}

/// The FS base of the current thread.
pub(crate) fn fs_base(_current: &Current) -> u64 {
    read_fs_base()
}

/// Sets the FS base of the current thread to a user address; a selector goes.
pub(crate) fn set_fs_base(current: &Current, base: u64) {
    let [ds, es, fs, gs] = read_selectors();
    if fs != 0 {
        set_segments(current, [ds, es, 0, gs], base, read_user_gs_base());
    } else {
        write_fs_base(base);
    }
}

/// The GS base of the current thread.
pub(crate) fn gs_base(_current: &Current) -> u64 {
    read_user_gs_base()
}

/// Sets the GS base of the current thread to a user address; a selector goes.
#[inline]
pub(crate) fn set_gs_base(current: &Current, base: u64) {
    let [ds, es, fs, gs] = read_selectors();
    if gs != 0 {
        set_segments(current, [ds, es, fs, 0], read_fs_base(), base);
    } else {
        write_user_gs_base(base);
    }
}

/// Selectors of the current thread's data segments.
pub(crate) fn selectors(_current: &Current) -> Selectors {
    read_selectors()
}

/// Sets them, and the bases of FS and GS to user addresses.
pub(crate) fn set_segments(_current: &Current, selectors: Selectors, fs_base: u64, gs_base: u64) {
    let _off = crate::irq::disable();
    write_selectors(selectors);
    write_fs_base(fs_base);
    write_user_gs_base(gs_base);
}

/// Takes note of the segments in `regs`, with which the current thread will go on.
#[inline]
pub(crate) fn note_segments(current: &Current, regs: &UserRegs) {
    if !exception::has_usual_segments(regs) {
        current.work_word().fetch_or(OTHER_SEGMENTS, Ordering::Relaxed);
    }
}

/// Whether user code of the current thread may have `selector` in SS.
#[cold]
pub(crate) fn is_stack_segment(_current: &Current, selector: u16) -> bool {
    let _off = crate::irq::disable();
    ldt::descriptor(selector).is_stack()
}

/// Gives the current thread the user state of a new program.
pub(crate) fn reset_user_state(current: &Current) {
    if let Some(buffer) = current.arch.fpu() {
        fpu::reset(current, buffer);
    }
    // None is always accepted.
    let _none = set_breakpoints(current, &Breakpoints::default());
    pku::set_rights(INITIAL);
    let _off = crate::irq::disable();
    write_selectors([0; 4]);
    write_fs_base(0);
    write_user_gs_base(0);
}

/// The current thread's FPU state, as a signal frame has it.
pub(crate) fn fpu_bytes(current: &Current) -> Result<Vec<u8>, NoMemory> {
    fpu::snapshot(current, current.arch.fpu().ok_or(NoMemory)?)
}

/// Sets the current thread's FPU state.
pub(crate) fn set_fpu_bytes(current: &Current, bytes: &[u8]) -> Result<(), Fault> {
    fpu::replace(current, current.arch.fpu().ok_or(Fault)?, bytes)
}

/// Writes the current thread's FPU state to a signal frame.
#[inline]
pub(crate) fn save_fpu(current: &Current, to: UserAddr, rights: u32) -> Result<(), Fault> {
    fpu::save_to_user(current, current.arch.fpu().ok_or(Fault)?, to, rights)
}

/// Reads the current thread's FPU state from a signal frame.
#[inline]
pub(crate) fn restore_fpu(current: &Current, from: UserAddr) -> Result<(), Fault> {
    fpu::restore_from_user(current, current.arch.fpu().ok_or(Fault)?, from)
}

/// Calls `f`; `Err` if it panicked (the report is printed already).
pub(crate) fn catch(f: impl FnOnce()) -> Result<(), ()> {
    unwind::catch(f)
}

/// Ends a thread when no floor above can: the machine stops.
pub(crate) fn exit_without_upcalls() -> ! {
    panic!("a thread ended before the scheduler was there")
}

/// Makes sure that the current thread can have user registers.
fn become_user(current: &Current) -> Result<(), NoMemory> {
    if current.arch.fpu().is_some() {
        return Ok(());
    }
    let buffer = Buffer::new()?;
    let _off = crate::irq::disable();
    // SAFETY: A1: this is the thread itself, and with interrupts off no switch looks at the slot. There was no buffer
    // before, so nobody holds a reference to one.
    unsafe { *current.arch.fpu.get() = Some(buffer) };
    pku::set_rights(INITIAL);
    write_selectors([0; 4]);
    write_fs_base(0);
    write_user_gs_base(0);
    Ok(())
}

/// Goes to user mode with `regs` on an empty kernel stack.
pub(crate) fn enter_user(regs: &UserRegs) -> ! {
    let current = crate::thread::current();
    if become_user(&current).is_err() {
        log::error!("no memory for the registers of a user thread");
        crate::thread::exit()
    }
    if !current.arch.has_been_to_user() {
        current.work_word().fetch_or(fpu::NEED_LOAD, Ordering::Relaxed);
    }
    instr::cli();
    // SAFETY: interrupts are off, the stack is the current thread's own, and nothing on it is used again.
    unsafe { keel_enter_user(regs) }
}

impl ArchThread {
    fn has_been_to_user(&self) -> bool {
        self.fpu_cpu.load(Ordering::Relaxed) != fpu::NO_CPU
    }

    /// The top of the kernel stack, where each entry from user mode puts the registers: those of SYSCALL, and of a thread's
    /// first way out, 8 bytes lower than those of traps ([`gdt::set_kernel_stack`]).
    pub(crate) fn peek_user_regs(&self) -> Option<UserRegs> {
        const WORDS: usize = size_of::<UserRegs>() / 8;
        /// With TF, NT and RF.
        const ALL_FLAGS: u64 = FREE_FLAGS | USER_FLAGS | 1 << 8 | 1 << 14 | 1 << 16;
        if !self.has_been_to_user() {
            return None;
        }
        let frame = self.stack.as_ref()?.top() - size_of::<UserRegs>() as u64 - 8;
        let mut words = [0u64; WORDS + 1];
        for (word, at) in words.iter_mut().zip((frame..).step_by(8)) {
            // SAFETY: the stack lives as long as `self`, and its top is aligned. The thread may write there meanwhile, on
            // another CPU, which a load in assembly does not mind: it gives the old word or the new one.
            unsafe {
                asm!("mov {}, [{}]", out(reg) *word, in(reg) at, options(nostack, preserves_flags, readonly));
            }
        }
        let [of_call @ .., _] = words;
        let [_, of_trap @ ..] = words;
        let regs: UserRegs = zerocopy::transmute!(of_trap);
        // Of a call, the flags are there, which are no selector of the kernel's; a process's own may look like them, but
        // then the stack pointer stands where the flags of a trap would be, and seldom looks like those.
        let is_known = [gdt::USER_CS, gdt::USER32_CS].contains(&(regs.cs as u16)) && regs.cs >> 16 == 0;
        let is_own = regs.cs & 7 == 7 && regs.cs >> 16 == 0 && regs.rflags & !ALL_FLAGS == 0;
        Some(if is_known || is_own && regs.rflags & USER_FLAGS == USER_FLAGS {
            regs
        } else {
            zerocopy::transmute!(of_call)
        })
    }
}

/// Moves `regs` to the top of the kernel stack and leaves for user mode.
///
/// # Safety
///
/// 1. Interrupts are off, and nothing on the kernel stack is needed any more.
#[unsafe(naked)]
unsafe extern "C-unwind" fn keel_enter_user(regs: *const UserRegs) -> ! {
    naked_asm!(
        // From the last word down: the source may overlap the top of the stack from below.
        "mov rdx, gs:[{kernel_sp}]",
        "lea rsi, [rdi + {size} - 8]",
        "lea rdi, [rdx - 8]",
        "mov ecx, {size} / 8",
        "std",
        "rep movsq",
        "cld",
        "lea rsp, [rdx - {size}]",
        "jmp keel_iret_to_user",
        kernel_sp = const OFFSET_KERNEL_SP,
        size = const size_of::<UserRegs>(),
    )
}
