//! The kernel's heap: the global allocator of the crates above.
//!
//! ```text
//! up to 2 KiB   per-CPU magazine of the size class ── class's slabs ── frames
//! up to 4 MiB   a run of frames
//! more, or no such run is left because memory is fragmented: single frames, mapped one after another
//! ```
//!
//! Usable in interrupt context. Lock order: `hal.heap.class`, `hal.frame.buddy`. When frames run out, empty slabs go back first; then, where sleeping is allowed, the reclaim
//! hook of the floor above is asked; then the answer is null.

mod slab;

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::addr::{PAGE_SHIFT, PAGE_SIZE};
use crate::arch;
use crate::cells::CpuCells;
use crate::cpu::MAX_CPUS;
use crate::frame;
use crate::sync::{IrqLock, Once};

use slab::{Class, NR_CLASSES, SIZES};

static RECLAIM: Once<fn(usize) -> bool> = Once::new();
static FAILED: AtomicUsize = AtomicUsize::new(0);
/// Bytes in runs of frames handed out directly.
static LARGE: AtomicUsize = AtomicUsize::new(0);

/// Numbers about the heap, for /proc/meminfo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapStats {
    /// Bytes of frames that the heap holds.
    pub held: usize,
    /// Bytes that are allocated, or wait in a CPU's magazine.
    pub used: usize,
    /// Allocations that failed.
    pub failed: usize,
}

/// Registers what to do when memory runs short: free about `pages` pages, return whether any were freed.
/// Called only where sleeping is allowed. Once only.
pub fn set_reclaim(reclaim: fn(usize) -> bool) {
    RECLAIM.call_once(|| reclaim);
}

/// Runs the reclaim hook where that is allowed; `true` when a retry may succeed.
pub fn try_reclaim(pages: usize) -> bool {
    if crate::preempt::is_atomic() {
        return false;
    }
    RECLAIM.get().is_some_and(|reclaim| reclaim(pages))
}

/// Numbers about the heap.
pub fn stats() -> HeapStats {
    let large = LARGE.load(Ordering::Relaxed);
    let mut stats = HeapStats { held: large, used: large, failed: FAILED.load(Ordering::Relaxed) };
    for class in &CLASSES {
        let (held, used) = class.lock().usage();
        stats.held += held;
        stats.used += used;
    }
    stats
}

/// Free objects of one size on one CPU, linked through their first words.
#[derive(Clone, Copy)]
struct Magazine {
    head: *mut u8,
    count: u32,
}

/// All magazines of one CPU.
struct Magazines([Magazine; NR_CLASSES]);

// SAFETY: the objects in a magazine belong to it alone.
unsafe impl Send for Magazines {}

static CLASSES: [IrqLock<Class>; NR_CLASSES] = {
    let mut classes = [const { IrqLock::new("hal.heap.class", Class::new(0)) }; NR_CLASSES];
    let mut idx = 0;
    while idx < NR_CLASSES {
        classes[idx] = IrqLock::new("hal.heap.class", Class::new(idx));
        idx += 1;
    }
    classes
};
static MAGAZINES: CpuCells<Magazines> = CpuCells::new(
    [const { UnsafeCell::new(Magazines([Magazine { head: ptr::null_mut(), count: 0 }; NR_CLASSES])) };
        MAX_CPUS],
);

/// Most objects that a magazine of `class` holds; half of them move at once.
const fn magazine_max(class: usize) -> u32 {
    match SIZES[class] {
        0..=256 => 64,
        257..=1024 => 16,
        _ => 8,
    }
}

impl Magazine {
    fn push(&mut self, object: *mut u8) {
        // SAFETY: the object is free, at least 16 bytes and aligned to 16; it belongs to this magazine now.
        unsafe { object.cast::<*mut u8>().write(self.head) };
        self.head = object;
        self.count += 1;
    }

    fn pop(&mut self) -> Option<NonNull<u8>> {
        let object = NonNull::new(self.head)?;
        // SAFETY: `push` wrote the link, and nobody else touches a free object.
        self.head = unsafe { object.as_ptr().cast::<*mut u8>().read() };
        self.count -= 1;
        Some(object)
    }

    /// Takes objects from the slabs: one for the caller, the others to keep.
    #[cold]
    fn refill(&mut self, class: usize) -> Option<NonNull<u8>> {
        let mut slabs = CLASSES[class].lock();
        let first = slabs.alloc()?;
        for _ in 1..magazine_max(class) / 2 {
            let Some(object) = slabs.alloc() else { break };
            self.push(object.as_ptr());
        }
        Some(first)
    }

    /// Gives half of the objects to the slabs.
    #[cold]
    fn spill(&mut self, class: usize) {
        let mut slabs = CLASSES[class].lock();
        for _ in 0..magazine_max(class) / 2 {
            let Some(object) = self.pop() else { break };
            // SAFETY: objects of this class's magazines came from its slabs, and are free.
            unsafe { slabs.free(object) };
        }
    }
}

fn alloc_small(class: usize) -> Option<NonNull<u8>> {
    // SAFETY: nothing below uses the heap.
    unsafe {
        MAGAZINES.with(|magazines| {
            let magazine = magazines.0.get_mut(class)?;
            magazine.pop().or_else(|| magazine.refill(class))
        })
    }
}

fn free_small(class: usize, object: *mut u8) {
    // SAFETY: nothing below uses the heap.
    unsafe {
        MAGAZINES.with(|magazines| {
            let Some(magazine) = magazines.0.get_mut(class) else { return };
            magazine.push(object);
            if magazine.count >= magazine_max(class) {
                magazine.spill(class);
            }
        });
    }
}

/// log2 of the frames that a large request takes.
fn large_order(layout: &Layout) -> Option<u32> {
    let bytes = layout.size().max(layout.align()).checked_next_power_of_two()?.max(PAGE_SIZE);
    let order = bytes.trailing_zeros() - PAGE_SHIFT;
    (order <= frame::MAX_ORDER).then_some(order)
}

fn alloc_large(layout: &Layout) -> Option<NonNull<u8>> {
    if let Some(order) = large_order(layout)
        && let Some(pfn) = frame::alloc_run(order)
    {
        LARGE.fetch_add(PAGE_SIZE << order, Ordering::Relaxed);
        return NonNull::new(arch::mem::frame_ptr(u64::from(pfn)));
    }
    if layout.align() > PAGE_SIZE {
        return None;
    }
    let pages = layout.size().div_ceil(PAGE_SIZE);
    let area = arch::mem::alloc_pages(pages)?;
    LARGE.fetch_add(pages * PAGE_SIZE, Ordering::Relaxed);
    Some(area)
}

/// Takes back what [`alloc_large`] gave.
///
/// # Safety
///
/// 1. `object` came from `alloc_large` for this layout and is not used any more.
#[inline]
unsafe fn free_large(object: *mut u8, layout: &Layout) {
    if arch::mem::is_frame(object) {
        let order = large_order(layout).unwrap_or(0);
        LARGE.fetch_sub(PAGE_SIZE << order, Ordering::Relaxed);
        // SAFETY: by 1 it is the run of this order that starts here.
        unsafe { frame::free_run(arch::mem::pfn_of(object) as u32, order) };
    } else {
        let pages = layout.size().div_ceil(PAGE_SIZE);
        LARGE.fetch_sub(pages * PAGE_SIZE, Ordering::Relaxed);
        // SAFETY: by 1 it is an area of this many pages.
        unsafe { arch::mem::free_pages(object, pages) };
    }
}

/// Does a large object have room for the new layout without waste?
fn same_large(object: *mut u8, old: &Layout, new: &Layout) -> bool {
    if arch::mem::is_frame(object) {
        large_order(old) == large_order(new)
    } else {
        old.size().div_ceil(PAGE_SIZE) == new.size().div_ceil(PAGE_SIZE)
    }
}

/// Empty slabs and unused areas go back to the frames; true if there were any.
fn trim() -> bool {
    let mut freed = arch::mem::trim_pages();
    for class in &CLASSES {
        freed += class.lock().trim();
    }
    freed != 0
}

/// The allocator itself: the machine makes it the global one. All instances share the same state.
#[derive(Debug)]
pub struct SlabHeap;

impl SlabHeap {
    fn try_alloc(layout: &Layout) -> Option<NonNull<u8>> {
        match slab::class_of(layout.size(), layout.align()) {
            Some(class) => alloc_small(class),
            None => alloc_large(layout),
        }
    }

    #[cold]
    fn alloc_slow(layout: &Layout) -> *mut u8 {
        for _ in 0..3 {
            if !trim() && !try_reclaim(layout.size().div_ceil(PAGE_SIZE)) {
                break;
            }
            if let Some(object) = Self::try_alloc(layout) {
                return object.as_ptr();
            }
        }
        FAILED.fetch_add(1, Ordering::Relaxed);
        ptr::null_mut()
    }
}

// SAFETY: objects come from frames that belong to the heap, at least as large as asked (`class_of`, `large_order`)
// and aligned: slab objects of a power of two to their size, others to 16, runs to their size. None is handed out
// twice (S1 to S3 of `slab`, B1 to B3 of `frame::buddy`). Nothing here unwinds.
unsafe impl GlobalAlloc for SlabHeap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match Self::try_alloc(&layout) {
            Some(object) => object.as_ptr(),
            None => Self::alloc_slow(&layout),
        }
    }

    #[inline]
    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        match slab::class_of(layout.size(), layout.align()) {
            Some(class) => free_small(class, object),
            // SAFETY: the caller's contract: `alloc` gave this object for this layout.
            None => unsafe { free_large(object, &layout) },
        }
    }

    unsafe fn realloc(&self, object: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's contract: `new_size` with this alignment is a valid layout.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        let class = slab::class_of(layout.size(), layout.align());
        let same = class == slab::class_of(new_size, layout.align())
            && (class.is_some() || same_large(object, &layout, &new_layout));
        if same {
            return object;
        }
        // SAFETY: the caller's contract holds for the new layout.
        let new = unsafe { self.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: both are live and at least that long; they are different objects. Then the old one is freed as
            // the caller's contract allows.
            unsafe {
                ptr::copy_nonoverlapping(object, new, layout.size().min(new_size));
                self.dealloc(object, layout);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn random_requests_keep_their_bytes_and_come_back() {
        let heap = SlabHeap;
        let mut live: Vec<(*mut u8, Layout, u8)> = Vec::new();
        let mut seed = 7u64;
        for _ in 0..5_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let random = (seed >> 33) as usize;
            if live.len() < 200 && random & 1 == 0 {
                let layout = Layout::from_size_align(1 + random % 20_000, 1 << (random % 9)).unwrap();
                let tag = random as u8;
                // SAFETY: the size is not 0; the object is written only within its layout.
                unsafe {
                    let object = heap.alloc(layout);
                    assert!(!object.is_null() && object.addr().is_multiple_of(layout.align()));
                    object.write_bytes(tag, layout.size());
                    live.push((object, layout, tag));
                }
            } else if !live.is_empty() {
                let (object, layout, tag) = live.swap_remove(random % live.len());
                // SAFETY: the object is live with this layout.
                unsafe {
                    assert!(
                        std::slice::from_raw_parts(object, layout.size()).iter().all(|byte| *byte == tag)
                    );
                    heap.dealloc(object, layout);
                }
            }
        }
        for (object, layout, _) in live {
            // SAFETY: as above.
            unsafe { heap.dealloc(object, layout) };
        }
    }
}
