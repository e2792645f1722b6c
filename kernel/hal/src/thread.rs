//! Kernel threads: a stack, a saved context, and typed slots in which the floors above keep their part.
//!
//! ```text
//!   new ──switch_to──▶ running ──switch_to(other)──▶ saved ──switch_to──▶ running ... ──▶ dropped
//!                      on_cpu=1                       on_cpu=0 once its registers are saved
//! ```
//!
//! # Invariants
//!
//! - T1: the current thread of a CPU is kept alive by a reference that the CPU owns.
//! - T2: `on_cpu` is set from before a thread's context is loaded until after it is saved, so no two CPUs
//!   run on one stack: [`switch_to`] waits for the flag of the next thread.
//! - T3: `page_table` and `start` are touched by the thread itself while it runs, or before it first runs.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering};

use crate::addr::UserAddr;
use crate::arch;
use crate::error::{Fault, NoMemory};
use crate::paging::PageTable;
use crate::ports::Ports;
use crate::segment::Selectors;
use crate::trap::{self, UserRegs};

bitflags::bitflags! {
    /// Reasons to take the slow way out to user mode (Linux: the TIF flags).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Work: u32 {
        /// The scheduler wants the CPU.
        const RESCHED = 1;
        /// A signal may be pending, or the thread must die.
        const SIGNAL = 2;
        /// System calls are traced.
        const TRACE = 4;
        /// Callbacks wait to be run by the thread itself.
        const NOTIFY = 8;
    }
}

const MAX_SLOTS: usize = 8;
static NEXT_SLOT: AtomicUsize = AtomicUsize::new(0);
/// The place of slots that no thread has filled: one more than there are to be had, and always empty.
const UNASSIGNED: usize = MAX_SLOTS;

/// The name of a typed place in each thread; make it a `static`.
pub struct Slot<T: 'static> {
    /// At most [`UNASSIGNED`].
    index: AtomicUsize,
    holds: PhantomData<fn(T) -> T>,
}

impl<T: Send + Sync> Slot<T> {
    /// A new name.
    #[expect(clippy::new_without_default, reason = "a second slot by accident would never match the first")]
    pub const fn new() -> Self {
        Slot { index: AtomicUsize::new(UNASSIGNED), holds: PhantomData }
    }

    fn assign(&self) -> usize {
        let index = self.index.load(Ordering::Relaxed);
        if index != UNASSIGNED {
            return index;
        }
        let fresh = NEXT_SLOT.fetch_add(1, Ordering::Relaxed);
        assert!(fresh < MAX_SLOTS, "more thread slots than hal has room for");
        match self.index.compare_exchange(UNASSIGNED, fresh, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => fresh,
            Err(other) => other,
        }
    }
}

struct SlotPlace {
    /// Null, or a `Box<T>` of the slot's type, never changed again.
    value: AtomicPtr<()>,
    drop: AtomicPtr<()>,
}

impl SlotPlace {
    #[expect(clippy::declare_interior_mutable_const, reason = "only copied, to fill arrays")]
    const EMPTY: SlotPlace =
        SlotPlace { value: AtomicPtr::new(ptr::null_mut()), drop: AtomicPtr::new(ptr::null_mut()) };
}

/// Never switched to yet.
const NEW: u8 = 0;
const STARTED: u8 = 1;
/// Never to be switched to (again).
const DEAD: u8 = 2;

type Entry = Box<dyn FnOnce() + Send>;

/// What a new thread does first.
enum Start {
    Kernel(Entry),
    User(Box<UserRegs>, Entry),
    Taken,
}

/// Which floating-point state a new user thread begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fpu {
    /// A copy of the current thread's (fork, clone).
    CopyCurrent,
    /// The initial state.
    Fresh,
}

/// Up to four places at which user code stops with a debug exception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breakpoints {
    /// Where.
    pub addr: [u64; 4],
    /// Which of them are on, and their kinds and lengths: the bits of DR7 on x86.
    pub control: u64,
}

/// A thread of execution in the kernel, and of a user program if it is one's.
#[repr(C)]
pub struct Thread {
    pub(crate) work: AtomicU32,
    on_cpu: AtomicBool,
    /// [`NEW`], [`STARTED`] or [`DEAD`].
    life: AtomicU8,
    pub(crate) arch: arch::thread::ArchThread,
    page_table: UnsafeCell<Option<Arc<PageTable>>>,
    start: UnsafeCell<Start>,
    slots: [SlotPlace; MAX_SLOTS + 1],
    /// The locks it holds, for the lock checker.
    #[cfg(debug_assertions)]
    pub(crate) held: crate::sync::lockdep::Held,
}

// SAFETY: `page_table` and `start` are only touched as invariant T3 says; `ArchThread` is touched by the
// machine's code for the thread itself, or while it is not on a CPU (T2); everything else is atomic.
unsafe impl Send for Thread {}
// SAFETY: as above.
unsafe impl Sync for Thread {}

impl Thread {
    fn with(arch: arch::thread::ArchThread, start: Start, on_cpu: bool) -> Thread {
        Thread {
            work: AtomicU32::new(0),
            on_cpu: AtomicBool::new(on_cpu),
            life: AtomicU8::new(if on_cpu { STARTED } else { NEW }),
            arch,
            page_table: UnsafeCell::new(None),
            start: UnsafeCell::new(start),
            slots: [SlotPlace::EMPTY; MAX_SLOTS + 1],
            #[cfg(debug_assertions)]
            held: crate::sync::lockdep::Held::new(),
        }
    }

    /// Makes a kernel thread that runs `entry` once it is switched to.
    pub fn new(entry: Box<dyn FnOnce() + Send>) -> Result<Arc<Thread>, NoMemory> {
        Ok(Arc::new(Thread::with(arch::thread::ArchThread::new()?, Start::Kernel(entry), false)))
    }

    /// Makes a thread that runs `first` and then enters user mode with `regs`.
    ///
    /// FS and GS base are copied from the current thread with [`Fpu::CopyCurrent`], else 0.
    pub fn new_user(
        regs: UserRegs,
        fpu: Fpu,
        first: Box<dyn FnOnce() + Send>,
    ) -> Result<Arc<Thread>, NoMemory> {
        let arch = arch::thread::ArchThread::new_user(fpu)?;
        Ok(Arc::new(Thread::with(arch, Start::User(Box::new(regs), first), false)))
    }

    /// The thread that a CPU finds itself running at boot.
    pub(crate) fn boot() -> Arc<Thread> {
        Arc::new(Thread::with(arch::thread::ArchThread::boot(), Start::Taken, true))
    }

    /// Fills `slot`; returns the value back if it was filled before.
    pub fn set_slot<T: Send + Sync>(&self, slot: &'static Slot<T>, value: T) -> Result<(), T> {
        fn drop_box<T>(value: *mut ()) {
            // SAFETY: called once, by `Thread::drop`, with the pointer made in `set_slot::<T>`.
            drop(unsafe { Box::from_raw(value.cast::<T>()) });
        }
        let place = &self.slots[slot.assign()];
        let new = Box::into_raw(Box::new(value));
        match place.value.compare_exchange(ptr::null_mut(), new.cast(), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => {
                let drop: fn(*mut ()) = drop_box::<T>;
                place.drop.store(drop as *mut (), Ordering::Release);
                Ok(())
            }
            // SAFETY: `new` was made above and not published.
            Err(_) => Err(*unsafe { Box::from_raw(new) }),
        }
    }

    /// Did its last switch happen, so that [`reap`] may be called?
    pub fn is_dead(&self) -> bool {
        self.life.load(Ordering::Acquire) == DEAD && !self.is_on_cpu()
    }

    /// Makes sure that a thread that has never run never will; then it can be reaped. `false`: it has run.
    pub fn discard(&self) -> bool {
        self.life.compare_exchange(NEW, DEAD, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Drops the values in its slots.
    fn empty_slots(&self) {
        for place in &self.slots {
            let drop = place.drop.swap(ptr::null_mut(), Ordering::AcqRel);
            let value = place.value.swap(ptr::null_mut(), Ordering::AcqRel);
            if !value.is_null() && !drop.is_null() {
                // SAFETY: `drop` was stored by `set_slot` from exactly this function type.
                let drop: fn(*mut ()) = unsafe { core::mem::transmute(drop) };
                drop(value);
            }
        }
    }

    /// Sets work flags. For a thread that runs on another CPU, follow with [`crate::ipi::kick`].
    #[inline]
    pub fn set_work(&self, work: Work) {
        self.work.fetch_or(work.bits(), Ordering::SeqCst);
    }

    /// Clears work flags.
    #[inline]
    pub fn clear_work(&self, work: Work) {
        self.work.fetch_and(!work.bits(), Ordering::SeqCst);
    }

    /// The work flags.
    #[inline]
    pub fn work(&self) -> Work {
        Work::from_bits_truncate(self.work.load(Ordering::SeqCst))
    }

    /// The word of the work flags, in which the machine has bits of its own.
    #[cfg(target_os = "none")]
    #[inline]
    pub(crate) fn work_word(&self) -> &AtomicU32 {
        &self.work
    }

    /// Replaces its breakpoints, from its next way to user mode on. execve(2) drops them, new threads have none.
    ///
    /// `Err`: one that is on lies outside user memory, is not aligned to its length or of a kind that cannot be.
    pub fn set_breakpoints(&self, wanted: &Breakpoints) -> Result<(), Fault> {
        arch::thread::set_breakpoints(self, wanted)
    }

    /// Forbids its user code to read the time-stamp counter (`PR_SET_TSC`), from its next way to user mode on.
    pub fn forbid_tsc(&self, on: bool) {
        arch::thread::forbid_tsc(self, on);
    }

    /// Whether that is forbidden.
    pub fn is_tsc_forbidden(&self) -> bool {
        arch::thread::is_tsc_forbidden(self)
    }

    /// The ports that its user code may use.
    pub fn ports(&self) -> Ports {
        arch::thread::ports(self)
    }

    /// Is it running, or is its context still being saved?
    pub fn is_on_cpu(&self) -> bool {
        self.on_cpu.load(Ordering::Acquire)
    }

    /// The registers with which its user code came into the kernel last; `None` when it has not been there.
    ///
    /// Anybody may look: of a thread that runs they are old, or old and new ones mixed. Who wants them whole sees to it that
    /// the thread slept all the time.
    pub fn peek_user_regs(&self) -> Option<UserRegs> {
        self.arch.peek_user_regs()
    }

    /// The lowest and highest address of its kernel stack.
    pub fn stack_bounds(&self) -> (usize, usize) {
        self.arch.stack_bounds()
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.empty_slots();
    }
}

/// The thread that runs this code. Cannot be sent to another thread.
pub struct Current {
    thread: *const Thread,
}

/// The current thread.
///
/// Cheap: one load. The guard stays valid across preemption and migration, since the thread stays itself.
#[inline]
pub fn current() -> Current {
    Current { thread: arch::cpu::current_thread() }
}

impl Deref for Current {
    type Target = Thread;

    #[inline]
    fn deref(&self) -> &Thread {
        // SAFETY: the current thread is alive while it runs (T1), and a `Current` cannot leave it.
        unsafe { &*self.thread }
    }
}

impl Current {
    /// The value in `slot`, if it was set. Only the thread itself can look: so [`reap`] may empty the slots
    /// of a dead thread that others still refer to.
    #[inline]
    pub fn slot<T: Send + Sync>(&self, slot: &'static Slot<T>) -> Option<&T> {
        // SAFETY: an index is at most `UNASSIGNED`, the last place: `Slot` keeps it to itself.
        let place = unsafe { self.slots.get_unchecked(slot.index.load(Ordering::Relaxed)) };
        // Acquire pairs with the release in `set_slot`.
        let value = place.value.load(Ordering::Acquire).cast::<T>();
        // SAFETY: null or a `Box<T>`: an index belongs to one `Slot`, hence one type. It lives as long as
        // the thread.
        unsafe { value.as_ref() }
    }

    /// A reference that may be kept and sent.
    pub fn arc(&self) -> Arc<Thread> {
        // SAFETY: the pointer came from `Arc::into_raw` (in `switch_to` or `adopt`) and the CPU's own
        // reference (T1) keeps the count above 0.
        unsafe {
            Arc::increment_strong_count(self.thread);
            Arc::from_raw(self.thread)
        }
    }

    /// Changes the address space of the current thread (exec, exit) and loads it.
    pub fn set_page_table(&self, table: Option<Arc<PageTable>>) {
        let old = {
            let _off = crate::irq::disable();
            arch::paging::activate(table.as_ref());
            // SAFETY: T3: this is the thread itself, and interrupts are off, so no switch looks at it now.
            unsafe { core::mem::replace(&mut *self.page_table.get(), table) }
        };
        drop(old); // outside: the last reference frees page tables
    }

    /// The address space of the current thread.
    pub fn page_table(&self) -> Option<Arc<PageTable>> {
        // SAFETY: T3: only this thread itself changes it.
        unsafe { (*self.page_table.get()).clone() }
    }

    /// Calls `f` with the address space of the current thread, without taking a reference.
    #[inline]
    pub fn with_page_table<R>(&self, f: impl FnOnce(Option<&PageTable>) -> R) -> R {
        let table = self.page_table();
        f(table.as_deref())
    }

    /// Lets its user code use `ports`, and no others, from now on. exec keeps them.
    ///
    /// Only for who may do what it likes with the machine: see [`crate::ports`].
    pub fn set_ports(&self, ports: Ports) {
        arch::thread::set_ports(self, ports);
    }

    /// The user FS base (TLS pointer).
    pub fn fs_base(&self) -> u64 {
        arch::thread::fs_base(self)
    }

    /// Sets the user FS base. `Err`: not a user address.
    pub fn set_fs_base(&self, base: UserAddr) -> Result<(), Fault> {
        if base.0 >= crate::USER_END {
            return Err(Fault);
        }
        arch::thread::set_fs_base(self, base.0);
        Ok(())
    }

    /// The user GS base.
    #[inline]
    pub fn gs_base(&self) -> u64 {
        arch::thread::gs_base(self)
    }

    /// Sets the user GS base. `Err`: not a user address.
    #[inline]
    pub fn set_gs_base(&self, base: UserAddr) -> Result<(), Fault> {
        if base.0 >= crate::USER_END {
            return Err(Fault);
        }
        arch::thread::set_gs_base(self, base.0);
        Ok(())
    }

    /// The selectors of its data segments.
    pub fn selectors(&self) -> Selectors {
        arch::thread::selectors(self)
    }

    /// Sets the selectors of its data segments, null for those that it may not have, and the bases of FS and GS.
    /// `Err`: a base is not a user address.
    pub fn set_segments(&self, selectors: Selectors, fs: UserAddr, gs: UserAddr) -> Result<(), Fault> {
        if fs.0 >= crate::USER_END || gs.0 >= crate::USER_END {
            return Err(Fault);
        }
        arch::thread::set_segments(self, selectors, fs.0, gs.0);
        Ok(())
    }

    /// Takes note of the code and stack segments in `regs`, with which it will go on in user mode.
    #[inline]
    pub fn note_segments(&self, regs: &UserRegs) {
        arch::thread::note_segments(self, regs);
    }

    /// Whether `selector` is one that user code may have as its stack segment.
    pub fn is_stack_segment(&self, selector: u16) -> bool {
        arch::thread::is_stack_segment(self, selector)
    }

    /// Puts the floating-point state, FS and GS base back to their initial values (execve).
    pub fn reset_user_state(&self) {
        arch::thread::reset_user_state(self);
    }

    /// The floating-point state, in the layout of a signal frame without its end mark.
    pub fn fpu_bytes(&self) -> Result<Vec<u8>, NoMemory> {
        arch::thread::fpu_bytes(self)
    }

    /// Sets the floating-point state: all of it from what [`Current::fpu_bytes`] gives, or the part that every CPU
    /// has from its first 512 bytes. `Err`: another length, or bits that the CPU refuses.
    pub fn set_fpu_bytes(&self, bytes: &[u8]) -> Result<(), Fault> {
        arch::thread::set_fpu_bytes(self, bytes)
    }

    /// Writes the floating-point state to a signal frame at `to` (64-byte aligned), in the kernel's XSAVE
    /// format with its `fx_sw_bytes`. The frame tells `rights` over protection keys.
    pub fn save_fpu(&self, to: UserAddr, rights: u32) -> Result<(), Fault> {
        arch::thread::save_fpu(self, to, rights)
    }

    /// Loads the floating-point state and the rights over protection keys from a signal frame; `Err` when it is unreadable or malformed.
    pub fn restore_fpu(&self, from: UserAddr) -> Result<(), Fault> {
        arch::thread::restore_fpu(self, from)
    }
}

/// Bytes that [`Current::save_fpu`] writes.
pub fn fpu_frame_size() -> usize {
    arch::thread::fpu_frame_size()
}

impl Thread {
    /// Gives a new thread its address space before it first runs (clone).
    ///
    /// # Panics
    ///
    /// When the thread has run already.
    pub fn set_first_page_table(this: &Arc<Thread>, table: Option<Arc<PageTable>>) {
        // SAFETY: T3: `start` is only taken by the thread itself when it first runs; a caller that races
        // with that start breaks its own promise, which the flag check below catches for finished switches.
        let fresh = !this.is_on_cpu() && !matches!(unsafe { &*this.start.get() }, Start::Taken);
        assert!(fresh, "the thread runs already");
        // SAFETY: T3: it has not run yet.
        unsafe { *this.page_table.get() = table };
    }

    /// Sets the ports that the user code of a new thread may use, before it first runs.
    pub fn set_first_ports(this: &Arc<Thread>, ports: Ports) {
        arch::thread::set_first_ports(this, ports);
    }

    /// Sets the FS base a new user thread starts with (CLONE_SETTLS), before it first runs.
    pub fn set_first_fs_base(this: &Arc<Thread>, base: UserAddr) -> Result<(), Fault> {
        if base.0 >= crate::USER_END {
            return Err(Fault);
        }
        this.arch.set_first_fs_base(base.0);
        Ok(())
    }
}

/// Runs `next` on this CPU. Returns when another thread switches back to this one (perhaps on another CPU),
/// with the thread that did so.
///
/// Interrupts must be off and the preemption count must be 1. `next` must not be running, except that its
/// context may still be being saved on another CPU: that is waited for. Costs no lock.
#[inline]
pub fn switch_to(next: Arc<Thread>) -> Arc<Thread> {
    debug_assert!(!crate::irq::enabled() && crate::preempt::count() == 1);
    while next.on_cpu.load(Ordering::Acquire) {
        // Acquire pairs with the release in `finish_switch`: the saved context is complete.
        assert!(!ptr::eq(&*next, arch::cpu::current_thread()), "switch to oneself");
        crate::cpu::relax();
    }
    next.on_cpu.store(true, Ordering::Relaxed);
    if next.life.load(Ordering::Relaxed) != STARTED {
        let fresh = next.life.compare_exchange(NEW, STARTED, Ordering::AcqRel, Ordering::Relaxed);
        assert!(fresh.is_ok(), "switch to a dead thread");
    }
    // SAFETY: T3: `next` is not running and cannot start: we own its turn.
    arch::paging::activate(unsafe { (*next.page_table.get()).as_ref() });
    let prev = arch::cpu::current_thread();
    let next = Arc::into_raw(next);
    // SAFETY: both are alive: `prev` by T1, `next` by the reference just given to the CPU; interrupts are
    // off; `next` has a saved (or first) context that no other CPU uses (T2).
    let prev = unsafe { arch::thread::switch(prev, next) };
    // SAFETY: whoever switched here passed its own current thread, whose CPU reference becomes ours.
    unsafe { finish_switch(prev) }
}

/// Runs `next` on this CPU and never comes back: the current thread is dead. The thread that runs next finds
/// it as its predecessor and hands it to [`reap`].
pub fn switch_to_last(next: Arc<Thread>) -> ! {
    current().life.store(DEAD, Ordering::Release);
    drop(switch_to(next));
    unreachable!("a dead thread runs")
}

/// Takes a dead thread apart: drops the values in its slots, so that they may refer back to it.
///
/// # Panics
///
/// When the thread is not dead.
pub fn reap(thread: Arc<Thread>) {
    assert!(thread.is_dead(), "only dead threads can be reaped");
    thread.empty_slots();
}

/// Marks `prev` as saved and takes over the CPU's reference to it.
///
/// # Safety
///
/// 1. `prev` is the thread that this CPU ran before the switch, and its context is saved.
unsafe fn finish_switch(prev: *const Thread) -> Arc<Thread> {
    // SAFETY: 1: the CPU's reference (T1) is now ours.
    let prev = unsafe { Arc::from_raw(prev) };
    prev.on_cpu.store(false, Ordering::Release);
    prev
}

/// The first code of a new thread; the machine's trampoline calls it on the new stack, with interrupts off
/// and preemption count 1.
///
/// # Safety
///
/// 1. As for `finish_switch`.
pub(crate) unsafe fn begin(prev: *const Thread) -> ! {
    // SAFETY: the caller's 1.
    let prev = unsafe { finish_switch(prev) };
    if let Some(up) = trap::upcalls() {
        up.thread_started(prev);
    }
    let me = current();
    // SAFETY: T3: this is the thread itself.
    let start = unsafe { core::mem::replace(&mut *me.start.get(), Start::Taken) };
    arch::irq::enable();
    if arch::cpu::preempt_dec() {
        crate::preempt::check_resched();
    }
    match start {
        Start::Kernel(entry) => {
            if arch::thread::catch(entry).is_ok() {
                exit()
            }
        }
        Start::User(regs, first) => {
            if arch::thread::catch(first).is_ok() {
                let on_stack = *regs;
                drop(regs);
                enter_user(&on_stack)
            }
        }
        Start::Taken => {}
    }
    exit()
}

/// Ends the current thread through [`trap::Upcalls::thread_exit`].
pub fn exit() -> ! {
    match trap::upcalls() {
        Some(up) => up.thread_exit(),
        None => arch::thread::exit_without_upcalls(),
    }
}

/// Enters user mode with `regs` on an empty kernel stack; nothing on the current one is dropped.
pub fn enter_user(regs: &UserRegs) -> ! {
    arch::thread::enter_user(regs)
}

/// Makes the code that runs on this CPU a thread: boot and CPU start call it once per CPU.
pub(crate) fn adopt() -> *const Thread {
    Arc::into_raw(Thread::boot())
}
