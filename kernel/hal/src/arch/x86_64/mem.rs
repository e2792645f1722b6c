//! Frames as the kernel sees them: contents through the direct map, metadata through its own area.

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU64, Ordering};

use super::boot::memory::BootMemory;
use super::layout::{DIRECT_MAP, FRAME_META};
use super::paging::kernel::{DirectTables, Mapper, Tables};
use super::paging::pte::{GLOBAL, NO_EXEC, WRITABLE};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE};
use crate::frame::{self, Frame, FrameMeta, MAX_ORDER};

const META_BYTES: u64 = size_of::<FrameMeta>() as u64;
/// Physical memory for whose metadata there must be room if any of it is managed.
const BLOCK: u64 = (PAGE_SIZE as u64) << MAX_ORDER;

/// Physical address of the kernel's own top table, for CPUs that run no user thread.
static KERNEL_ROOT: AtomicU64 = AtomicU64::new(0);

/// Where the bytes of frame `pfn` are: valid for managed frames.
#[inline]
pub(crate) fn frame_ptr(pfn: u64) -> *mut u8 {
    (DIRECT_MAP + (pfn << PAGE_SHIFT)) as *mut u8
}

/// The number of the frame that holds `ptr`, which came from [`frame_ptr`].
#[inline]
pub(crate) fn pfn_of(ptr: *const u8) -> u64 {
    (ptr as u64 - DIRECT_MAP) >> PAGE_SHIFT
}

/// The metadata of frame `pfn`, which is managed or lies in the same 4 MiB block as one that is.
#[inline]
pub(crate) fn meta(pfn: u64) -> &'static FrameMeta {
    // SAFETY: `init` maps zeroed metadata for all such frames before any of them is managed, for good; only frames
    // of the allocator ask here. All-zero bytes are a valid `FrameMeta`, which consists of atomics.
    unsafe { &*((FRAME_META + pfn * META_BYTES) as *const FrameMeta) }
}

/// Most ranges of memory of the memory map.
const MAX_RANGES: usize = 64;
/// The frames with metadata: the first of each range, and the one after its last.
static RANGES: [(AtomicU64, AtomicU64); MAX_RANGES] =
    [const { (AtomicU64::new(0), AtomicU64::new(0)) }; MAX_RANGES];

/// The number after the last frame's.
pub(crate) fn end_pfn() -> u64 {
    RANGES.iter().map(|(_, end)| end.load(Ordering::Relaxed)).max().unwrap_or(0)
}

/// Whether there is metadata of frame `pfn`.
pub(crate) fn has_meta(pfn: u64) -> bool {
    let holds = |(start, end): &(AtomicU64, AtomicU64)| {
        (start.load(Ordering::Relaxed)..end.load(Ordering::Relaxed)).contains(&pfn)
    };
    RANGES.iter().any(holds)
}

/// Does `ptr` point into a frame by its [`frame_ptr`] (and not into an area of [`alloc_pages`])?
#[inline]
pub(crate) fn is_frame(ptr: *const u8) -> bool {
    (ptr as u64) < super::layout::VMAP
}

pub(crate) use super::area::{alloc as alloc_pages, free as free_pages, trim as trim_pages};

/// Frames are there from the first request on: `init` ran long before.
#[inline]
pub(crate) fn ensure_ready() {}

/// End of the memory that the allocator may have; `mem=` may leave out some.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// The kernel's own top table.
pub(crate) fn kernel_root() -> u64 {
    KERNEL_ROOT.load(Ordering::Relaxed)
}

/// Table memory before the frame allocator runs.
struct EarlyTables<'a>(&'a mut BootMemory);

impl Tables for EarlyTables<'_> {
    fn alloc(&mut self) -> Option<u64> {
        let page = self.0.alloc(PAGE_SIZE as u64, PAGE_SIZE as u64, u64::MAX)?;
        // SAFETY: free memory, which the direct map covers.
        unsafe { core::ptr::write_bytes(frame_ptr(page >> PAGE_SHIFT), 0, PAGE_SIZE) };
        Some(page)
    }

    fn access(&self, paddr: u64) -> *mut [u64; 512] {
        DirectTables.access(paddr)
    }
}

/// Maps the metadata and gives all memory in `memory` to the frame allocator.
///
/// `None`: there is too little memory.
///
/// # Safety
///
/// 1. Called once, by the boot CPU, with the kernel's tables at `root` loaded and nobody else changing them.
/// 2. `memory` holds usable memory that nobody uses, all of it in the direct map.
pub(super) unsafe fn init(
    mut memory: BootMemory,
    root: u64,
    gib_pages: bool,
    ram: &[(u64, u64)],
) -> Option<()> {
    KERNEL_ROOT.store(root, Ordering::Relaxed);
    let mut mapped_to = 0;
    let mut sorted = [(0, 0); MAX_RANGES];
    let sorted = sorted.get_mut(..ram.len())?;
    sorted.copy_from_slice(ram);
    sorted.sort_unstable();
    let mut ranges = RANGES.iter();
    for &(start, end) in sorted.iter() {
        // Whole 4 MiB blocks, whose metadata is 32 KiB: whole pages again. What an earlier range mapped is skipped.
        let from = ((start / BLOCK * BLOCK) >> PAGE_SHIFT) * META_BYTES;
        let to = (end.next_multiple_of(BLOCK) >> PAGE_SHIFT) * META_BYTES;
        let mut at = from.max(mapped_to);
        while at < to {
            // 2 MiB at once where that wastes nothing.
            let large = 2 << 20;
            let whole = at.is_multiple_of(large) && to - at >= large;
            let mut len = if whole { large } else { (to - at).min(large - at % large) };
            let paddr = match memory.alloc(len, len.next_power_of_two().min(large), u64::MAX) {
                Some(paddr) => paddr,
                None => {
                    len = PAGE_SIZE as u64;
                    memory.alloc(len, len, u64::MAX)?
                }
            };
            // SAFETY: free memory, which the direct map covers.
            unsafe { core::ptr::write_bytes(frame_ptr(paddr >> PAGE_SHIFT), 0, len as usize) };
            let mut tables = EarlyTables(&mut memory);
            // SAFETY: 1. and 2. by our own condition 1. 3. as asked by the caller.
            let mut mapper = unsafe { Mapper::new(root, &mut tables, gib_pages) };
            mapper.map(FRAME_META + at, paddr, len, WRITABLE | NO_EXEC | GLOBAL)?;
            at += len;
        }
        mapped_to = mapped_to.max(to);
        if let Some((first, after)) = ranges.next() {
            first.store(start.div_ceil(PAGE_SIZE as u64), Ordering::Relaxed);
            after.store(end >> PAGE_SHIFT, Ordering::Relaxed);
        }
        LIMIT.fetch_max(end, Ordering::Relaxed);
    }
    for &(start, end) in memory.spans() {
        // SAFETY: 1. our condition 2. 2. mapped above, zeroed.
        unsafe { frame::add_range(start >> PAGE_SHIFT, end >> PAGE_SHIFT) };
    }
    Some(())
}

/// Gives whole pages that had an owner at boot (initramfs, ACPI tables) to the frame allocator.
///
/// # Safety
///
/// 1. `start..end` is usable memory of the memory map, page-aligned, and nobody uses it now or later.
pub(super) unsafe fn release(start: u64, end: u64) {
    let end = end.min(LIMIT.load(Ordering::Relaxed));
    // SAFETY: the caller's condition; `init` mapped the metadata of all usable memory below the limit.
    unsafe { frame::add_range(start >> PAGE_SHIFT, end >> PAGE_SHIFT) };
}

/// Makes the page at `start`, which had an owner at boot, a frame with its contents; `None` at or above the limit
/// of the memory that is managed.
///
/// # Safety
///
/// 1. As [`release`] for this page.
pub(super) unsafe fn claim(start: u64) -> Option<Frame> {
    if start >= LIMIT.load(Ordering::Relaxed) {
        return None;
    }
    let pfn = NonZeroU32::new(u32::try_from(start >> PAGE_SHIFT).ok()?)?;
    // SAFETY: the caller's condition; `init` mapped the metadata of all usable memory below the limit.
    Some(unsafe { frame::claim(pfn) })
}
