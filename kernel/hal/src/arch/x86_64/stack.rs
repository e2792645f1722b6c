//! Kernel stacks with a guard page: an overflow is a page fault (and, without a stack, a double fault), not a bug in
//! somebody's memory.
//!
//! Stacks lie in slots of the vmap area; the lowest page of a slot is never mapped. A slot and its frames are kept
//! for the next thread: first on the CPU that freed it, then in a common list. What exceeds that gives its frames
//! back, which needs a TLB flush on all CPUs: that waits until a thread is created where waiting is allowed.
//!
//! ```text
//! slot:  | guard | page 1 | … | page N |     top = end of the slot
//! freed → per-CPU cache (CACHED) → common list (COMMON) → dead list → frames, at the next `new`
//! ```

use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::paging::kernel;
use super::paging::pte::{GLOBAL, NO_EXEC, WRITABLE};
use super::paging::tlb;
use crate::addr::{PAGE_SHIFT, PAGE_SIZE};
use crate::cpu::MAX_CPUS;
use crate::error::NoMemory;
use crate::frame::Frame;
use crate::sync::IrqLock;

/// Pages of a stack. Rust without optimisation needs more than C.
const PAGES: usize = if cfg!(debug_assertions) { 7 } else { 5 };
/// Bytes of a slot; the first page is the guard.
const SLOT: u64 = 8 * PAGE_SIZE as u64;
/// Stacks that a CPU keeps.
const CACHED: usize = 4;
/// Stacks that all CPUs together keep beyond that.
const COMMON: usize = 16;

/// The ends of mapped, unused stacks.
static CACHES: [IrqLock<([u64; CACHED], usize)>; MAX_CPUS] =
    [const { IrqLock::new("hal.stack.cache", ([0; CACHED], 0)) }; MAX_CPUS];
static LISTS: IrqLock<Lists> =
    IrqLock::new("hal.stack.lists", Lists { mapped: Vec::new(), unmapped: Vec::new() });
/// Stacks in `Lists::mapped`, read without the lock.
static NR_MAPPED: AtomicUsize = AtomicUsize::new(0);

struct Lists {
    /// Ends of stacks that have their frames.
    mapped: Vec<u64>,
    /// Ends of slots without frames, no longer in any TLB.
    unmapped: Vec<u64>,
}

/// A kernel stack. Freed, for reuse, when dropped.
#[derive(Debug)]
pub(crate) struct KernelStack {
    top: u64,
}

impl KernelStack {
    /// A stack with arbitrary contents.
    pub(crate) fn new() -> Result<KernelStack, NoMemory> {
        if NR_MAPPED.load(Ordering::Relaxed) > 2 * COMMON && !crate::preempt::is_atomic() {
            give_back();
        }
        {
            let mut cache = CACHES[super::cpu::current_id() as usize].lock();
            if let Some(at) = cache.1.checked_sub(1) {
                cache.1 = at;
                return Ok(KernelStack { top: cache.0[at] });
            }
        }
        let slot = {
            let mut lists = LISTS.lock();
            if let Some(top) = lists.mapped.pop() {
                NR_MAPPED.store(lists.mapped.len(), Ordering::Relaxed);
                return Ok(KernelStack { top });
            }
            lists.unmapped.pop()
        };
        let top = match slot {
            Some(top) => top,
            None => kernel::reserve(SLOT, SLOT).ok_or(NoMemory)? + SLOT,
        };
        map_pages(top)?;
        Ok(KernelStack { top })
    }

    /// The address just above the stack.
    #[inline]
    pub(crate) fn top(&self) -> u64 {
        self.top
    }

    /// The lowest address of the stack.
    pub(crate) fn bottom(&self) -> u64 {
        self.top - (PAGES * PAGE_SIZE) as u64
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        {
            let mut cache = CACHES[super::cpu::current_id() as usize].lock();
            let count = cache.1;
            if count < CACHED {
                cache.0[count] = self.top;
                cache.1 = count + 1;
                return;
            }
        }
        let mut lists = LISTS.lock();
        if lists.mapped.try_reserve(1).is_ok() {
            lists.mapped.push(self.top);
            NR_MAPPED.store(lists.mapped.len(), Ordering::Relaxed);
        }
        // Else the stack is lost: memory is so short that not even one word could be had.
    }
}

/// Maps frames below `top`; all or nothing.
fn map_pages(top: u64) -> Result<(), NoMemory> {
    let mut result = Ok(());
    for page in 1..=PAGES as u64 {
        let vaddr = top - page * PAGE_SIZE as u64;
        let Some(frame) = Frame::alloc() else {
            result = Err(NoMemory);
            break;
        };
        let paddr = frame.into_pfn() << PAGE_SHIFT;
        // SAFETY: 1. the slot is ours. 2. the frame is ours alone.
        result = unsafe { kernel::map(vaddr, paddr, PAGE_SIZE as u64, WRITABLE | NO_EXEC | GLOBAL) };
        if result.is_err() {
            // SAFETY: the number came from `into_pfn` just above, and nothing maps the frame.
            drop(unsafe { Frame::from_pfn(paddr >> PAGE_SHIFT) });
            break;
        }
    }
    if result.is_err() {
        // Nobody has touched the pages, so no TLB holds them; a CPU may not load entries ahead of an access to
        // addresses that it only speculates about and use them later without checking: flush all the same.
        let frames = unmap_pages(top);
        tlb::flush_kernel();
        drop(frames);
        let mut lists = LISTS.lock();
        if lists.unmapped.try_reserve(1).is_ok() {
            lists.unmapped.push(top);
        }
    }
    result
}

fn unmap_pages(top: u64) -> [Option<Frame>; PAGES] {
    core::array::from_fn(|page| {
        let vaddr = top - (page as u64 + 1) * PAGE_SIZE as u64;
        // SAFETY: the slot is unused, and its pages are the caller's.
        let paddr = unsafe { kernel::unmap_page(vaddr) }?;
        // SAFETY: `map_pages` put the frame in by `into_pfn`, and the entry is gone now.
        Some(unsafe { Frame::from_pfn(paddr >> PAGE_SHIFT) })
    })
}

/// Takes the frames of stacks beyond [`COMMON`] back.
#[inline(never)]
fn give_back() {
    const AT_ONCE: usize = 32;
    let mut tops = [0; AT_ONCE];
    let mut count = 0;
    {
        let mut lists = LISTS.lock();
        if lists.unmapped.try_reserve(AT_ONCE).is_err() {
            return;
        }
        while count < AT_ONCE && lists.mapped.len() > COMMON {
            let Some(top) = lists.mapped.pop() else { break };
            tops[count] = top;
            count += 1;
        }
        NR_MAPPED.store(lists.mapped.len(), Ordering::Relaxed);
    }
    let frames: [Option<[Option<Frame>; PAGES]>; AT_ONCE] =
        core::array::from_fn(|at| (at < count).then(|| unmap_pages(tops[at])));
    tlb::flush_kernel();
    drop(frames);
    let mut lists = LISTS.lock();
    for &top in &tops[..count] {
        if lists.unmapped.try_reserve(1).is_ok() {
            lists.unmapped.push(top);
        }
    }
}
