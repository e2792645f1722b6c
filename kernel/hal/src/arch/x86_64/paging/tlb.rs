//! Which page table each CPU uses, and making CPUs forget old translations.
//!
//! A CPU that runs a kernel thread keeps the last user table loaded (lazy): most often the same process runs next.
//! When an edit needs that CPU's TLB flushed, it switches to the kernel's own table instead, and is left alone from
//! then on.
//!
//! ```text
//! editing CPU                                CPU that activates the table
//!   write entries                              set bit in `active`        (B)
//!   read `active`            (A)               load CR3: sees the new entries, or (A) saw the bit and sends the IPI
//! ```
//!
//! # Invariants
//!
//! - T1: a CPU's CR3 holds the kernel's root, or the root of the table in its slot of [`LOADED`].
//! - T2: the table in a slot has the CPU's bit in its `active` mask while its root is in CR3.
//!
//! Source: Intel SDM vol. 3 ch. 5.10 (TLBs and paging-structure caches; INVLPG drops the latter whole).

use alloc::sync::Arc;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering, fence};

use super::table::PageTable;
use crate::addr::PAGE_SIZE;
use crate::arch::{cpu, instr, ldt, mem};
use crate::cpu::{CpuMask, MAX_CPUS};

/// More pages than this: dropping everything is cheaper than one by one.
const MAX_PAGES: u64 = 32;

/// What one CPU has loaded.
struct Loaded {
    /// Touched by its own CPU only, with interrupts off.
    table: UnsafeCell<Option<Arc<PageTable>>>,
    /// A kernel thread runs: nobody uses user addresses. Own CPU only.
    lazy: AtomicBool,
}

// SAFETY: `table` is touched by its own CPU only, with interrupts off.
unsafe impl Sync for Loaded {}

static LOADED: [Loaded; MAX_CPUS] =
    [const { Loaded { table: UnsafeCell::new(None), lazy: AtomicBool::new(true) } }; MAX_CPUS];

/// Makes `table` the one whose user addresses this CPU sees; `None`: none is needed (the old one may stay).
///
/// Called with interrupts off.
pub(crate) fn activate(table: Option<&Arc<PageTable>>) {
    let cpu = cpu::current_id();
    let loaded = &LOADED[cpu as usize];
    let Some(table) = table else {
        loaded.lazy.store(true, Ordering::Relaxed);
        return;
    };
    loaded.lazy.store(false, Ordering::Relaxed);
    // SAFETY: interrupts are off, and this is our own CPU's slot.
    let slot = unsafe { &mut *loaded.table.get() };
    if slot.as_ref().is_some_and(|old| Arc::ptr_eq(old, table)) {
        if table.active().load(Ordering::Relaxed) & 1 << cpu == 0 {
            // An edit found us lazy: the table is not in CR3 any more.
            load(table, cpu);
        }
        return;
    }
    load(table, cpu);
    table.holders().fetch_or(1 << cpu, Ordering::Relaxed);
    let old = slot.replace(table.clone());
    if let Some(old) = old {
        old.holders().fetch_and(!(1 << cpu), Ordering::Relaxed);
        // Release: our last use of the old table comes before an editor sees that we are gone.
        old.active().fetch_and(!(1 << cpu), Ordering::Release);
    }
}

/// Makes CPUs that keep `table` without need let go of it, and waits until they have. Does nothing in atomic
/// context: they let go when they run another process.
pub(super) fn evict(table: &PageTable) {
    if table.holders().load(Ordering::Relaxed) != 0 && !crate::preempt::is_atomic() {
        let holders = CpuMask(table.holders().load(Ordering::Relaxed));
        crate::ipi::call(holders, let_go, core::ptr::from_ref(table) as u64);
    }
}

/// Runs on each holder, with interrupts off.
fn let_go(table: u64) {
    let cpu = cpu::current_id();
    let loaded = &LOADED[cpu as usize];
    // SAFETY: interrupts are off, and this is our own CPU's slot.
    let slot = unsafe { &mut *loaded.table.get() };
    if !loaded.lazy.load(Ordering::Relaxed)
        || slot.as_ref().is_none_or(|held| Arc::as_ptr(held) as u64 != table)
    {
        return;
    }
    // SAFETY: 1. and 2. the kernel's own root is never freed.
    unsafe { instr::write_cr3(mem::kernel_root()) };
    ldt::unload();
    if let Some(held) = slot.take() {
        held.holders().fetch_and(!(1 << cpu), Ordering::Relaxed);
        held.active().fetch_and(!(1 << cpu), Ordering::Release);
        // Not the last reference: whoever evicts has one.
    }
}

fn load(table: &PageTable, cpu: u32) {
    // (B) SeqCst, pairs with (A); the CR3 write serialises.
    table.active().fetch_or(1 << cpu, Ordering::SeqCst);
    // SAFETY: 1. the root maps the kernel's half like every other (`PageTable::new`). 2. the slot holds a reference
    // for as long as the root may be in CR3 (T1).
    unsafe { instr::write_cr3(table.root()) };
    ldt::switch(table.segments());
}

/// What to forget.
#[derive(Clone, Copy)]
struct Request {
    table: *const PageTable,
    start: u64,
    end: u64,
}

/// Makes every CPU that uses `table` forget its translations of `start..end`, and waits until they have.
///
/// Interrupts are on, or no other CPU uses the table.
pub(super) fn flush(table: &PageTable, start: u64, end: u64) {
    let pinned = crate::preempt::disable();
    // (A) The entries were written before; pairs with (B).
    fence(Ordering::SeqCst);
    let active = table.active().load(Ordering::SeqCst);
    let me = 1u64 << cpu::current_id();
    let request = Request { table, start, end };
    if active & me != 0 {
        forget(&request);
    }
    let others = CpuMask(active & !me);
    if !others.is_empty() {
        debug_assert!(crate::irq::enabled(), "waiting for another CPU with interrupts off");
        // `call` waits, so the request outlives its readers.
        crate::ipi::call(others, remote_flush, (&raw const request) as u64);
    }
    drop(pinned);
}

/// Runs on the other CPUs, with interrupts off.
fn remote_flush(request: u64) {
    // SAFETY: `flush` waits for us, so its request is alive; it is only read.
    let request = unsafe { &*(request as *const Request) };
    let cpu = cpu::current_id();
    let loaded = &LOADED[cpu as usize];
    // SAFETY: interrupts are off, and this is our own CPU's slot.
    let slot = unsafe { &*loaded.table.get() };
    let Some(table) = slot.as_ref().filter(|table| Arc::as_ptr(table) == request.table) else {
        return;
    };
    if loaded.lazy.load(Ordering::Relaxed) {
        // SAFETY: 1. and 2. the kernel's own root is never freed.
        unsafe { instr::write_cr3(mem::kernel_root()) };
        ldt::unload();
        table.active().fetch_and(!(1 << cpu), Ordering::SeqCst);
    } else {
        forget(request);
    }
}

/// Makes every CPU that uses `table` load its new local descriptor table, and waits until they have. Interrupts are on.
pub(super) fn reload_segments(table: &PageTable) {
    // (A) The new one was published before; pairs with (B).
    fence(Ordering::SeqCst);
    let users = CpuMask(table.active().load(Ordering::SeqCst));
    if !users.is_empty() {
        crate::ipi::call(users, load_segments, core::ptr::from_ref(table) as u64);
    }
}

/// Runs on each user, with interrupts off.
fn load_segments(table: u64) {
    let loaded = &LOADED[cpu::current_id() as usize];
    // SAFETY: interrupts are off, and this is our own CPU's slot.
    let slot = unsafe { &*loaded.table.get() };
    if let Some(table) = slot.as_ref().filter(|held| Arc::as_ptr(held) as u64 == table)
        && table.active().load(Ordering::Relaxed) & 1 << cpu::current_id() != 0
    {
        ldt::switch(table.segments());
    }
}

/// Drops this CPU's entries for the request's addresses.
fn forget(request: &Request) {
    if request.end - request.start > MAX_PAGES * PAGE_SIZE as u64 {
        // SAFETY: the same table again.
        unsafe { instr::write_cr3(instr::read_cr3()) };
        return;
    }
    for addr in (request.start..request.end).step_by(PAGE_SIZE) {
        instr::invlpg(addr);
    }
}

/// Makes every CPU forget everything, also what is global: after kernel addresses were unmapped.
///
/// Interrupts are on, or this is the only CPU that runs.
pub(crate) fn flush_kernel() {
    crate::ipi::call(crate::cpu::online(), forget_all, 0);
}

fn forget_all(_: u64) {
    const PGE: u64 = 1 << 7;
    let cr4 = instr::read_cr4();
    // SAFETY: PGE off and on again (or any write, without PGE: then CR3 does it) drops all entries and changes none.
    unsafe {
        if cr4 & PGE != 0 {
            instr::write_cr4(cr4 & !PGE);
            instr::write_cr4(cr4);
        } else {
            instr::write_cr3(instr::read_cr3());
        }
    }
}
