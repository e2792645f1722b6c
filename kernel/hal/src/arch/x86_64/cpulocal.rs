//! What one CPU keeps for its entry code: [`CpuLocal`], at the base of the GS segment while in the kernel.
//!
//! Entry code addresses the first fields by fixed offsets (`offset_of!` hands them to the assembler); the rest of
//! hal reaches the area through the functions below, each one instruction. The descriptor tables and the stacks
//! for NMI, double fault and machine check lie in the same area, so that a CPU needs one allocation.
//!
//! # Invariants
//!
//! - P1: while a CPU runs kernel code outside the first and last instructions of entry code, its GS base is the
//!   address of its own `CpuLocal`, which is never freed.
//! - P2: only the owning CPU writes; others read `current` and `preempt_count` as a hint at most.
//! - P3: `current` is null before [`crate::thread`] adopts the boot context; afterwards it is a counted reference to
//!   the thread that runs on this CPU.

use core::alloc::Layout;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64};

use super::gdt::Descriptors;
use crate::preempt::NO_RESCHED;
use crate::thread::Thread;

/// Bit of the preemption count that one interrupt handler adds.
pub(super) const HARDIRQ: i32 = 1 << 16;
/// Bit of the preemption count that an NMI, double fault or machine check adds.
pub(super) const NMI: i32 = 1 << 20;

/// The per-CPU area of entry code. See the module's head.
#[repr(C, align(64))]
pub(crate) struct CpuLocal {
    /// The area's own address, so that one load gives a pointer.
    this: AtomicPtr<CpuLocal>,
    /// The running thread (P3).
    pub(super) current: AtomicPtr<Thread>,
    /// What SYSCALL entry loads into RSP: the top of the running thread's kernel stack.
    pub(super) kernel_sp: AtomicU64,
    /// Where SYSCALL entry keeps the user's RSP for two instructions.
    pub(super) user_sp: AtomicU64,
    /// Nesting of preemption guards in the low half; [`HARDIRQ`], [`NMI`] and [`NO_RESCHED`] above.
    pub(super) preempt_count: AtomicU32,
    /// This CPU's number.
    pub(super) id: u32,
    /// The top of the stack of interrupts that come while the kernel runs; 0: they stay on the thread's.
    pub(super) interrupt_sp: AtomicU64,
    /// The thread whose vector registers this CPU holds, or null; see `fpu`. Compared, never followed.
    pub(super) fpu_owner: AtomicPtr<Thread>,
    /// GDT, TSS and the interrupt stacks.
    pub(super) descriptors: UnsafeCell<Descriptors>,
}

// SAFETY: all shared fields are atomics; `descriptors` is written only by `gdt::load` before the CPU uses it and by
// the owning CPU afterwards (P2).
unsafe impl Sync for CpuLocal {}

pub(super) const OFFSET_CURRENT: usize = offset_of!(CpuLocal, current);
pub(super) const OFFSET_KERNEL_SP: usize = offset_of!(CpuLocal, kernel_sp);
pub(super) const OFFSET_USER_SP: usize = offset_of!(CpuLocal, user_sp);
pub(super) const OFFSET_INTERRUPT_SP: usize = offset_of!(CpuLocal, interrupt_sp);
pub(super) const OFFSET_PREEMPT_COUNT: usize = offset_of!(CpuLocal, preempt_count);
const OFFSET_ID: usize = offset_of!(CpuLocal, id);

impl CpuLocal {
    /// An area for CPU `id`, with preemption off until the CPU's start code ends with [`preempt_dec`].
    pub(crate) const fn new(id: u32) -> CpuLocal {
        CpuLocal {
            this: AtomicPtr::new(core::ptr::null_mut()),
            current: AtomicPtr::new(core::ptr::null_mut()),
            kernel_sp: AtomicU64::new(0),
            user_sp: AtomicU64::new(0),
            preempt_count: AtomicU32::new(1 | NO_RESCHED),
            id,
            interrupt_sp: AtomicU64::new(0),
            fpu_owner: AtomicPtr::new(core::ptr::null_mut()),
            descriptors: UnsafeCell::new(Descriptors::new()),
        }
    }

    /// An area for CPU `id` from the heap, for good. `None`: memory ran out.
    pub(crate) fn allocate(id: u32) -> Option<&'static CpuLocal> {
        let layout = Layout::new::<CpuLocal>();
        // SAFETY: the size is not 0.
        let area = NonNull::new(unsafe { alloc::alloc::alloc(layout) })?.cast::<CpuLocal>();
        // SAFETY: fresh memory of the right size and alignment, never freed.
        unsafe {
            area.write(CpuLocal::new(id));
            Some(area.as_ref())
        }
    }

    /// Writes the self-pointer and gives the area's address for the GS base.
    pub(super) fn address(&'static self) -> u64 {
        let this = core::ptr::from_ref(self).cast_mut();
        self.this.store(this, core::sync::atomic::Ordering::Relaxed);
        this as u64
    }
}

/// This CPU's area.
///
/// The caller may be moved to another CPU right after, unless preemption is off: then it holds another CPU's area,
/// which is harmless for memory (P1) but not what was asked for.
#[inline]
pub(crate) fn this() -> &'static CpuLocal {
    let this: *const CpuLocal;
    // SAFETY: P1: GS holds this CPU's area, whose first word is its address. The load touches nothing else.
    unsafe { asm!("mov {}, gs:[0]", out(reg) this, options(pure, readonly, nostack, preserves_flags)) };
    // SAFETY: P1: the area is never freed, and all its shared fields are atomics.
    unsafe { &*this }
}

/// This CPU's number.
#[inline]
pub(crate) fn current_id() -> u32 {
    let id: u32;
    // SAFETY: P1, as in `this`.
    unsafe {
        asm!("mov {:e}, gs:[{}]", out(reg) id, const OFFSET_ID, options(readonly, nostack, preserves_flags));
    }
    id
}

/// The running thread, null before the first one was adopted.
#[inline]
pub(crate) fn current_thread() -> *const Thread {
    let thread: *const Thread;
    // SAFETY: P1, as in `this`. One instruction: the answer is right even if the thread migrates meanwhile, since
    // `current` of whichever CPU runs this code is the thread that runs this code. It is the same all over the life
    // of that thread, hence `pure`.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) thread, const OFFSET_CURRENT,
             options(pure, readonly, nostack, preserves_flags));
    }
    thread
}

/// Forbids preemption once more.
#[inline]
pub(crate) fn preempt_inc() {
    // SAFETY: P1. A single instruction: no interrupt can come between the load and the store. Not `nomem`: memory
    // accesses must stay inside the section that it opens.
    unsafe { asm!("inc dword ptr gs:[{}]", const OFFSET_PREEMPT_COUNT, options(nostack)) }
}

/// Takes one level back; true if the word is 0 now: preemption is possible and wanted.
#[inline]
pub(crate) fn preempt_dec() -> bool {
    // SAFETY: as `preempt_inc`. The jump leaves nothing behind: the block is an ordinary way out of this function.
    unsafe {
        asm!("dec dword ptr gs:[{}]", "jz {}", const OFFSET_PREEMPT_COUNT, label { return true }, options(nostack));
    }
    false
}

/// Adds `n`, one of [`HARDIRQ`] and [`NMI`], to the word, or takes it back when negative.
#[inline]
pub(super) fn preempt_add(n: i32) {
    // SAFETY: as `preempt_inc`.
    unsafe { asm!("add dword ptr gs:[{}], {:e}", const OFFSET_PREEMPT_COUNT, in(reg) n, options(nostack)) }
}

/// This CPU's preemption word.
#[inline]
pub(crate) fn preempt_load() -> u32 {
    let word: u32;
    // SAFETY: P1, as in `this`.
    unsafe {
        asm!("mov {:e}, gs:[{}]", out(reg) word, const OFFSET_PREEMPT_COUNT,
             options(readonly, nostack, preserves_flags));
    }
    word
}

/// Notes in the word whether this CPU should reschedule.
#[inline]
pub(crate) fn preempt_fold_resched(wanted: bool) {
    if wanted {
        // SAFETY: as `preempt_inc`.
        unsafe {
            asm!("and dword ptr gs:[{}], {}", const OFFSET_PREEMPT_COUNT, const !(NO_RESCHED as i32), options(nostack))
        }
    } else {
        // SAFETY: as `preempt_inc`.
        unsafe {
            asm!("or dword ptr gs:[{}], {}", const OFFSET_PREEMPT_COUNT, const NO_RESCHED as i32, options(nostack))
        }
    }
}

/// Is this an interrupt, NMI, double-fault or machine-check handler?
#[inline]
pub(crate) fn in_interrupt() -> bool {
    preempt_load() & !NO_RESCHED >= HARDIRQ as u32
}
