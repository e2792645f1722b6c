//! The vector and floating-point registers of user threads.
//!
//! The kernel is compiled without them, so a thread's values stay in the CPU while it is in the kernel. They are
//! saved when the thread is switched away from, and loaded not when it is switched to but on the way back to user
//! mode, if the CPU does not hold them any more ([`NEED_LOAD`] in the thread's work word sends it the slow way).
//!
//! ```text
//!              thread T runs                    T is off the CPU or in the kernel
//!   registers hold T's values  -- switch_out: XSAVE, NEED_LOAD -->  T's buffer holds them
//!            ^   ^------ switch_in: CPU still holds them, clear NEED_LOAD ------+
//!            +---------- load_current, before user mode: XRSTOR ----------------+
//! ```
//!
//! # Invariants
//!
//! - F1: while NEED_LOAD of a running user thread is clear, the CPU's registers are its own; while it is set, its
//!   buffer is up to date.
//! - F2: if a CPU's `fpu_owner` is T and T's `fpu_cpu` is that CPU, its registers equal T's buffer (or T runs there).
//!   Whoever changes a buffer in memory clears `fpu_cpu` and sets NEED_LOAD.
//! - F3: a buffer never holds what makes XRSTOR fault: header bits outside [`features`], a compacted format, reserved
//!   header bytes or MXCSR bits. [`restore_from_user`] filters what a signal frame brings.
//!
//! The buffer has the standard (not compacted) layout, which is the one of signal frames and ptrace. These show one
//! component more, at their end: PKRU, which the buffer leaves to [`pku`].
//!
//! Sources: Intel SDM vol. 1 ch. 13 (XSAVE), ch. 10.5 (FXSAVE); arch/x86/include/uapi/asm/sigcontext.h for the
//! layout of the software bytes.

use alloc::alloc::{Layout, alloc, dealloc};
use alloc::vec::Vec;
use core::arch::asm;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::cpu::Feature;
use super::cpulocal;
use super::instr::cpuid;
use super::ports::{self, NEED_PORTS};
use super::{pku, usercopy};
use crate::addr::UserAddr;
use crate::error::{Fault, NoMemory};
use crate::thread::Thread;

/// The work flag that says: load the registers before user mode. See `crate::thread::Work` for the others.
pub(super) const NEED_LOAD: u32 = 1 << 31;

/// `fpu_cpu` of a thread that no CPU's registers belong to.
pub(super) const NO_CPU: u32 = u32::MAX;

const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
/// The rights over protection keys: [`pku`] keeps them, but signal frames and ptrace show them as a component.
const PKRU: u64 = 1 << 9;
/// x87, SSE, AVX, and the three parts of AVX-512. AMX (17, 18) waits for its prctl.
const SUPPORTED: u64 = X87 | SSE | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 7;

const LEGACY_BYTES: usize = 512;
const HEADER_BYTES: usize = 64;
const FCW_INIT: u16 = 0x37f;
const MXCSR_INIT: u32 = 0x1f80;
const MXCSR_MASK_DEFAULT: u32 = 0xffbf;

// Offsets in the legacy area.
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
const ST0: usize = 32;
const XMM0: usize = 160;
const XMM_END: usize = 416;
const SOFTWARE: usize = 464;

const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;

static HAS_XSAVE: AtomicBool = AtomicBool::new(false);
static HAS_XSAVEOPT: AtomicBool = AtomicBool::new(false);
static FEATURES: AtomicU64 = AtomicU64::new(X87 | SSE);
static SIZE: AtomicUsize = AtomicUsize::new(LEGACY_BYTES);
/// Bytes of what user space sees, with PKRU; its end mark not counted.
static SHOWN_SIZE: AtomicUsize = AtomicUsize::new(LEGACY_BYTES);
/// Where PKRU lies there; 0 without protection keys.
static PKRU_AT: AtomicUsize = AtomicUsize::new(0);
static MXCSR_VALID: AtomicU32 = AtomicU32::new(MXCSR_MASK_DEFAULT);

/// The state components that a buffer holds, as XCR0 names them.
#[inline]
pub(super) fn features() -> u64 {
    FEATURES.load(Ordering::Relaxed)
}

/// The state components that user space sees: all in XCR0.
fn shown_features() -> u64 {
    features() | if pkru_at().is_some() { PKRU } else { 0 }
}

/// Where PKRU lies in what user space sees.
#[inline]
fn pkru_at() -> Option<usize> {
    Some(PKRU_AT.load(Ordering::Relaxed)).filter(|at| *at != 0)
}

fn shown_size() -> usize {
    SHOWN_SIZE.load(Ordering::Relaxed)
}

fn size() -> usize {
    SIZE.load(Ordering::Relaxed)
}

/// Switches state components on and others off.
///
/// # Safety
///
/// 1. The CPU has XSAVE, CR4.OSXSAVE is set, and XCR0 accepts `features`.
unsafe fn write_xcr0(features: u64) {
    // SAFETY: 1. The kernel itself uses none of these registers.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") features as u32, in("edx") (features >> 32) as u32, options(nomem, nostack))
    };
}

/// Switches the state components on, on this CPU; the first CPU also measures them.
///
/// CR4.OSFXSR, and CR4.OSXSAVE where there is XSAVE, are set already.
pub(super) fn init_cpu() {
    if Feature::XSAVE.present() {
        let leaf = cpuid(0xd, 0);
        let features = SUPPORTED & (u64::from(leaf.edx) << 32 | u64::from(leaf.eax));
        // SAFETY: XSAVE is there and CR4.OSXSAVE is set; CPUID says that XCR0 accepts these bits, x87 among them.
        unsafe { write_xcr0(features) };
        let is_first = !HAS_XSAVE.load(Ordering::Relaxed);
        if is_first {
            FEATURES.store(features, Ordering::Relaxed);
            SIZE.store(cpuid(0xd, 0).ebx as usize, Ordering::Relaxed);
            HAS_XSAVEOPT.store(cpuid(0xd, 1).eax & 1 != 0, Ordering::Relaxed);
        }
        if pku::is_supported() && leaf.eax & PKRU as u32 != 0 {
            // SAFETY: as above.
            unsafe { write_xcr0(features | PKRU) };
            PKRU_AT.store(cpuid(0xd, PKRU.trailing_zeros()).ebx as usize, Ordering::Relaxed);
        }
        if is_first {
            SHOWN_SIZE.store(cpuid(0xd, 0).ebx as usize, Ordering::Relaxed);
            HAS_XSAVE.store(true, Ordering::Relaxed);
        }
    }
    #[repr(align(16))]
    struct Area([u8; LEGACY_BYTES]);
    let mut area = Area([0; LEGACY_BYTES]);
    // SAFETY: FXSAVE64 writes 512 bytes, 16-byte aligned. FNINIT touches only the x87 unit.
    unsafe { asm!("fninit", "fxsave64 [{}]", in(reg) area.0.as_mut_ptr(), options(nostack)) };
    let mask = u32::from_le_bytes([area.0[28], area.0[29], area.0[30], area.0[31]]);
    MXCSR_VALID.store(if mask == 0 { MXCSR_MASK_DEFAULT } else { mask }, Ordering::Relaxed);
}

/// The memory that holds a thread's registers while the CPU does not.
pub(super) struct Buffer {
    /// [`size`] bytes, 64-byte aligned; the layout of XSAVE (standard format) or FXSAVE.
    area: NonNull<u8>,
}

// SAFETY: the buffer owns its memory; who may touch it when is F1.
unsafe impl Send for Buffer {}

fn layout() -> Option<Layout> {
    Layout::from_size_align(size(), 64).ok()
}

impl Buffer {
    /// Memory with arbitrary contents, which the caller must fill.
    fn alloc() -> Result<Buffer, NoMemory> {
        let layout = layout().ok_or(NoMemory)?;
        // SAFETY: the size is not 0.
        let area = NonNull::new(unsafe { alloc(layout) }).ok_or(NoMemory)?;
        Ok(Buffer { area })
    }

    /// The initial state.
    pub(super) fn new() -> Result<Buffer, NoMemory> {
        let buffer = Buffer::alloc()?;
        buffer.reset();
        Ok(buffer)
    }

    #[inline]
    fn bytes(&self) -> *mut u8 {
        self.area.as_ptr()
    }

    fn put<T>(&self, offset: usize, value: T) {
        debug_assert!(offset + size_of::<T>() <= size());
        // SAFETY: all callers' offsets lie in the legacy area or the header, which every buffer has; F1 makes the
        // memory theirs.
        unsafe { self.bytes().add(offset).cast::<T>().write_unaligned(value) }
    }

    fn get<T: Copy>(&self, offset: usize) -> T {
        debug_assert!(offset + size_of::<T>() <= size());
        // SAFETY: as `put`; callers read integers only.
        unsafe { self.bytes().add(offset).cast::<T>().read_unaligned() }
    }

    fn zero(&self, from: usize, to: usize) {
        debug_assert!(from <= to && to <= size());
        // SAFETY: callers stay inside the buffer.
        unsafe { self.bytes().add(from).write_bytes(0, to - from) }
    }

    /// Puts the initial state into the buffer.
    fn reset(&self) {
        self.zero(0, size());
        self.put(0, FCW_INIT);
        self.put(MXCSR, MXCSR_INIT);
        self.put(MXCSR_MASK, MXCSR_VALID.load(Ordering::Relaxed));
    }

    fn xstate_bv(&self) -> u64 {
        if HAS_XSAVE.load(Ordering::Relaxed) { self.get(LEGACY_BYTES) } else { X87 | SSE }
    }

    /// Writes out the initial values of components whose header bit is clear. XSAVEOPT leaves their memory alone, but
    /// readers of a signal frame look at the memory.
    fn spell_out(&self) {
        let present = self.xstate_bv();
        if present & X87 == 0 {
            self.zero(0, MXCSR);
            self.put(0, FCW_INIT);
            self.zero(ST0, XMM0);
        }
        if present & SSE == 0 {
            self.zero(XMM0, XMM_END);
        }
        for component in 2..63 {
            if features() & !present & 1 << component != 0 {
                let leaf = cpuid(0xd, component);
                self.zero(leaf.ebx as usize, (leaf.ebx + leaf.eax) as usize);
            }
        }
    }

    /// Makes whatever is in the buffer acceptable to XRSTOR (F3), keeping only `wanted` components.
    fn sanitise(&self, wanted: u64) {
        let mxcsr: u32 = self.get(MXCSR);
        self.put(MXCSR, mxcsr & MXCSR_VALID.load(Ordering::Relaxed));
        self.put(MXCSR_MASK, MXCSR_VALID.load(Ordering::Relaxed));
        if HAS_XSAVE.load(Ordering::Relaxed) {
            let present: u64 = self.get(LEGACY_BYTES);
            self.zero(LEGACY_BYTES + 8, LEGACY_BYTES + HEADER_BYTES);
            self.put(LEGACY_BYTES, present & wanted & features());
        }
    }

    /// Copies this CPU's registers into the buffer.
    ///
    /// # Safety
    ///
    /// 1. Interrupts are off, and by F1 the registers belong to the buffer's thread.
    unsafe fn save(&self) {
        let (low, high) = (features() as u32, (features() >> 32) as u32);
        let area = self.bytes();
        // SAFETY: the buffer has the size and alignment that the instruction needs for these components; 1 makes it
        // ours. XSAVEOPT may leave out what has not changed since the XRSTOR from this same buffer (F2).
        unsafe {
            if HAS_XSAVEOPT.load(Ordering::Relaxed) {
                asm!("xsaveopt64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack, preserves_flags));
            } else if HAS_XSAVE.load(Ordering::Relaxed) {
                asm!("xsave64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack, preserves_flags));
            } else {
                asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags));
            }
        }
    }

    /// Loads the buffer into this CPU's registers.
    ///
    /// # Safety
    ///
    /// 1. Interrupts are off, and the registers hold nothing that is not saved elsewhere.
    unsafe fn load(&self) {
        let (low, high) = (features() as u32, (features() >> 32) as u32);
        let area = self.bytes();
        // SAFETY: size and alignment are right, the contents do not fault (F3), and 1 allows to overwrite.
        unsafe {
            if HAS_XSAVE.load(Ordering::Relaxed) {
                asm!("xrstor64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack, preserves_flags));
            } else {
                asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags));
            }
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(layout) = layout() {
            // SAFETY: allocated in `alloc` with this layout: the size is fixed before the first buffer.
            unsafe { dealloc(self.area.as_ptr(), layout) }
        }
    }
}

/// Is the buffer, not the CPU, the truth? Also for a thread that has not been to user mode yet.
#[inline]
fn needs_load(thread: &Thread) -> bool {
    thread.work_word().load(Ordering::Relaxed) & NEED_LOAD != 0
        || thread.arch.fpu_cpu.load(Ordering::Relaxed) == NO_CPU
}

/// Saves the registers of `prev`, which is about to leave this CPU, and closes its ports there. Interrupts are off.
#[inline]
pub(super) fn switch_out(prev: &Thread, buffer: &Buffer) {
    // One look at the word for both: the usual thread has neither flag.
    let word = prev.work_word().load(Ordering::Relaxed);
    if word & (NEED_LOAD | NEED_PORTS) != 0 {
        ports::leave(word);
    }
    if word & NEED_LOAD != 0 || prev.arch.fpu_cpu.load(Ordering::Relaxed) == NO_CPU {
        return;
    }
    // SAFETY: the caller has switched interrupts off; NEED_LOAD is clear, so the registers are `prev`'s (F1).
    unsafe { buffer.save() };
    claim(prev);
    prev.work_word().fetch_or(NEED_LOAD, Ordering::Relaxed);
}

/// Spares `next` the load if this CPU still holds its registers. Interrupts are off.
#[inline]
pub(super) fn switch_in(next: &Thread) {
    let cpu = cpulocal::this();
    let owner = cpu.fpu_owner.load(Ordering::Relaxed).cast_const();
    if core::ptr::eq(owner, next) && next.arch.fpu_cpu.load(Ordering::Relaxed) == cpu.id {
        next.work_word().fetch_and(!NEED_LOAD, Ordering::Relaxed);
    }
}

/// Notes that this CPU's registers are `thread`'s.
#[inline]
fn claim(thread: &Thread) {
    let cpu = cpulocal::this();
    cpu.fpu_owner.store(core::ptr::from_ref(thread).cast_mut(), Ordering::Relaxed);
    thread.arch.fpu_cpu.store(cpu.id, Ordering::Relaxed);
}

/// Loads the current thread's registers before it goes to user mode. Interrupts are off.
#[inline]
pub(super) fn load_current(thread: &Thread, buffer: &Buffer) {
    // SAFETY: interrupts are off. NEED_LOAD is set, so the registers belong to no thread that runs, and what they
    // hold was saved when its thread was switched away from.
    unsafe { buffer.load() };
    claim(thread);
    thread.work_word().fetch_and(!NEED_LOAD, Ordering::Relaxed);
}

/// Brings the current thread's buffer up to date; its registers stay valid.
fn sync(thread: &Thread, buffer: &Buffer) {
    let _off = crate::irq::disable();
    if !needs_load(thread) {
        // SAFETY: interrupts are off, and F1 as in `switch_out`.
        unsafe { buffer.save() };
    }
}

/// Makes the buffer the truth (F2): it is about to be changed in memory.
fn disown(thread: &Thread) {
    let _off = crate::irq::disable();
    thread.work_word().fetch_or(NEED_LOAD, Ordering::Relaxed);
    thread.arch.fpu_cpu.store(NO_CPU, Ordering::Relaxed);
}

/// A copy of the current thread's registers (fork).
pub(super) fn copy_of(thread: &Thread, buffer: &Buffer) -> Result<Buffer, NoMemory> {
    let copy = Buffer::alloc()?;
    sync(thread, buffer);
    // SAFETY: two different buffers of `size` bytes; only this thread changes its own.
    unsafe { core::ptr::copy_nonoverlapping(buffer.bytes(), copy.bytes(), size()) };
    Ok(copy)
}

/// The current thread's registers, laid out as in a signal frame but for its end mark.
pub(super) fn snapshot(thread: &Thread, buffer: &Buffer) -> Result<Vec<u8>, NoMemory> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(shown_size()).map_err(|_| NoMemory)?;
    bytes.resize(shown_size(), 0);
    sync(thread, buffer);
    buffer.spell_out();
    // SAFETY: `bytes` has at least the `size` bytes of the buffer. A save by preemption meanwhile writes the same values
    // again: this thread, their owner, is here.
    unsafe { core::ptr::copy_nonoverlapping(buffer.bytes(), bytes.as_mut_ptr(), size()) };
    if let Some(software) = bytes.get_mut(SOFTWARE..LEGACY_BYTES) {
        software.fill(0);
        if HAS_XSAVE.load(Ordering::Relaxed) {
            software[..8].copy_from_slice(&shown_features().to_le_bytes());
        }
    }
    if let Some(at) = pkru_at() {
        bytes[LEGACY_BYTES..][..8].copy_from_slice(&(buffer.xstate_bv() | PKRU).to_le_bytes());
        bytes[at..][..4].copy_from_slice(&pku::rights().to_le_bytes());
    }
    Ok(bytes)
}

/// The rights over protection keys in `bytes`, a whole snapshot; 0, their initial state, where its header has none.
fn rights_in(bytes: &[u8], at: usize) -> u32 {
    let word =
        |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes);
    if word(LEGACY_BYTES) & PKRU as u32 != 0 { word(at) } else { 0 }
}

/// Sets the current thread's registers: all from a whole snapshot, x87 and SSE from its first 512 bytes.
///
/// `Err`: another length, or MXCSR bits that the CPU does not have.
pub(super) fn replace(thread: &Thread, buffer: &Buffer, bytes: &[u8]) -> Result<(), Fault> {
    let is_whole = bytes.len() == shown_size();
    if !is_whole && bytes.len() != LEGACY_BYTES {
        return Err(Fault);
    }
    let mxcsr = u32::from_le_bytes([bytes[MXCSR], bytes[MXCSR + 1], bytes[MXCSR + 2], bytes[MXCSR + 3]]);
    if mxcsr & !MXCSR_VALID.load(Ordering::Relaxed) != 0 {
        return Err(Fault);
    }
    sync(thread, buffer);
    disown(thread);
    let present = buffer.xstate_bv();
    let len = bytes.len().min(size());
    // SAFETY: the buffer has `size` bytes, of which `len` are replaced. F2 lets us change it: it is disowned, and the
    // thread cannot reach user mode, hence XRSTOR, before `sanitise` below.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.bytes(), len) };
    if !is_whole {
        if HAS_XSAVE.load(Ordering::Relaxed) {
            buffer.put(LEGACY_BYTES, present | X87 | SSE);
        }
    }
    buffer.sanitise(features());
    if let Some(at) = pkru_at().filter(|_| is_whole) {
        pku::set_rights(rights_in(bytes, at));
    }
    Ok(())
}

/// Gives the current thread the initial state (execve).
pub(super) fn reset(thread: &Thread, buffer: &Buffer) {
    disown(thread);
    buffer.reset();
}

/// Bytes of the state in a signal frame.
pub(crate) fn fpu_frame_size() -> usize {
    if HAS_XSAVE.load(Ordering::Relaxed) { shown_size() + size_of_val(&MAGIC2) } else { LEGACY_BYTES }
}

fn write_user(to: u64, bytes: &[u8]) -> Result<(), Fault> {
    crate::user::write_bytes(UserAddr(to), bytes)
}

/// Writes the current thread's registers to its signal frame at `to`, as Linux lays it out, with `rights` as its PKRU.
pub(super) fn save_to_user(thread: &Thread, buffer: &Buffer, to: UserAddr, rights: u32) -> Result<(), Fault> {
    let end = to.0.checked_add(fpu_frame_size() as u64).ok_or(Fault)?;
    if end > crate::USER_END {
        return Err(Fault);
    }
    if !HAS_XSAVE.load(Ordering::Relaxed) {
        copy_to_user(thread, buffer, to)?;
        return write_user(to.0 + SOFTWARE as u64, &[0; LEGACY_BYTES - SOFTWARE]);
    }
    // What no XSAVE writes: the bytes of software, and a header whose reserved bytes are 0.
    let mut around = [0; LEGACY_BYTES - SOFTWARE + HEADER_BYTES];
    around[..4].copy_from_slice(&MAGIC1.to_le_bytes());
    around[4..8].copy_from_slice(&(fpu_frame_size() as u32).to_le_bytes());
    around[8..16].copy_from_slice(&shown_features().to_le_bytes());
    around[16..20].copy_from_slice(&(shown_size() as u32).to_le_bytes());
    write_user(to.0 + SOFTWARE as u64, &around)?;
    if !xsave_to_user(thread, to) {
        copy_to_user(thread, buffer, to)?;
        write_user(to.0 + SOFTWARE as u64, &around[..LEGACY_BYTES - SOFTWARE])?;
    }
    let header = to.0 + LEGACY_BYTES as u64;
    let mut present = crate::user::read::<u64>(UserAddr(header))? | X87 | SSE;
    if let Some(at) = pkru_at() {
        present |= PKRU;
        write_user(to.0 + at as u64, &u64::from(rights).to_le_bytes())?;
    }
    // Old programs edit the legacy area without knowing the header: it must count.
    write_user(header, &present.to_le_bytes())?;
    write_user(to.0 + shown_size() as u64, &MAGIC2.to_le_bytes())
}

/// Lets the CPU write the current thread's registers to its signal frame itself, below `USER_END` as the caller
/// checked. Not when it holds another's, nor when a page is missing.
fn xsave_to_user(thread: &Thread, to: UserAddr) -> bool {
    let _atomic = crate::preempt::disable();
    // SAFETY: 1. checked here and by the caller: the components end before the frame does. 2. the caller found XSAVE,
    // and `init_cpu` set XCR0 so. 3. preemption is off, and by F1 the registers are this thread's.
    to.0.is_multiple_of(64) && !needs_load(thread) && unsafe { usercopy::xsave(to.0, features()) }
}

/// Writes the current thread's registers to user memory by way of its buffer. The range was checked.
fn copy_to_user(thread: &Thread, buffer: &Buffer, to: UserAddr) -> Result<(), Fault> {
    sync(thread, buffer);
    buffer.spell_out();
    // SAFETY: 1. the caller checked. 2. the buffer has `size` bytes. While the copy sleeps, another save may write the
    // same values again: this thread, their owner, is here.
    let copied = unsafe { usercopy::copy_to(to.0, buffer.bytes(), size()) };
    if copied == size() { Ok(()) } else { Err(Fault) }
}

/// How many bytes of a signal frame to read, and which components count.
fn inspect_frame(from: u64) -> Result<(usize, u64), Fault> {
    if !HAS_XSAVE.load(Ordering::Relaxed) {
        return Ok((LEGACY_BYTES, X87 | SSE));
    }
    let mut software = [0u8; 20];
    crate::user::read_bytes(UserAddr(from + SOFTWARE as u64), &mut software)?;
    let word =
        |at: usize| u32::from_le_bytes([software[at], software[at + 1], software[at + 2], software[at + 3]]);
    let (magic1, extended, frame) = (word(0), word(4) as usize, word(16) as usize);
    let wanted = u64::from(word(8)) | u64::from(word(12)) << 32;
    let plausible = magic1 == MAGIC1
        && (LEGACY_BYTES + HEADER_BYTES..=shown_size()).contains(&frame)
        && frame <= extended
        && crate::user::read::<u32>(UserAddr(from + frame as u64))? == MAGIC2;
    Ok(if plausible { (frame, wanted) } else { (LEGACY_BYTES, X87 | SSE) })
}

/// The rights over protection keys in a signal frame of `len` bytes, of which the components `wanted` count.
fn rights_in_frame(from: u64, len: usize, wanted: u64) -> Result<u32, Fault> {
    match pkru_at() {
        Some(at) if wanted & PKRU != 0 && len >= at + 4 => {
            let present: u64 = crate::user::read(UserAddr(from + LEGACY_BYTES as u64))?;
            if present & PKRU != 0 { crate::user::read(UserAddr(from + at as u64)) } else { Ok(0) }
        }
        _ => Ok(0),
    }
}

/// Takes the current thread's registers from a signal frame. After a fault it has the initial state.
pub(super) fn restore_from_user(thread: &Thread, buffer: &Buffer, from: UserAddr) -> Result<(), Fault> {
    let end = from.0.checked_add(fpu_frame_size() as u64).ok_or(Fault)?;
    if end > crate::USER_END {
        return Err(Fault);
    }
    let (frame, wanted) = inspect_frame(from.0)?;
    let rights = rights_in_frame(from.0, frame, wanted)?;
    let len = frame.min(size());
    disown(thread);
    if len < size() {
        buffer.reset(); // what the frame does not have
    }
    // SAFETY: 1. checked above: `len` is at most the frame size. 2. the buffer has at least `len` bytes, and F2 lets
    // us change it; the thread cannot reach user mode, hence XRSTOR, before this function returns.
    let copied = unsafe { usercopy::copy_from(buffer.bytes(), from.0, len) };
    if copied != len {
        buffer.reset();
        return Err(Fault);
    }
    if len == LEGACY_BYTES && HAS_XSAVE.load(Ordering::Relaxed) {
        buffer.put(LEGACY_BYTES, X87 | SSE);
    }
    buffer.sanitise(wanted);
    pku::set_rights(rights);
    Ok(())
}
