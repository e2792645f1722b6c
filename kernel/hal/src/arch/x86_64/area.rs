//! Large heap objects made of single frames, mapped one after another (Linux: vmalloc).
//!
//! Giving an area back needs a TLB flush on all CPUs, which cannot be waited for everywhere. So a freed area goes to a
//! list, linked through its own first page, and is taken apart at the next allocation that may wait.
//!
//! Address ranges come in powers of two, each followed by a page that is never mapped, and are used again.

use alloc::vec::Vec;
use core::ptr::NonNull;

use super::paging::pte::{GLOBAL, NO_EXEC, WRITABLE};
use super::paging::{kernel, tlb};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE};
use crate::error::NoMemory;
use crate::frame::Frame;
use crate::sync::IrqLock;

const PAGE: u64 = PAGE_SIZE as u64;
/// Largest area: 2^18 pages, 1 GiB.
const MAX_ORDER: usize = 18;

/// In the first page of a freed area.
struct Freed {
    next: *mut Freed,
    pages: usize,
}

struct Areas {
    /// Freed areas that are still mapped.
    freed: *mut Freed,
    /// Ranges without frames, by order.
    ranges: [Vec<u64>; MAX_ORDER + 1],
}

// SAFETY: the freed areas belong to the list alone.
unsafe impl Send for Areas {}

static AREAS: IrqLock<Areas> = IrqLock::new(
    "hal.area",
    Areas { freed: core::ptr::null_mut(), ranges: [const { Vec::new() }; MAX_ORDER + 1] },
);

fn order_of(pages: usize) -> Option<usize> {
    let order = pages.checked_next_power_of_two()?.trailing_zeros() as usize;
    (order <= MAX_ORDER).then_some(order)
}

/// An area of `pages` pages with arbitrary contents.
pub(crate) fn alloc(pages: usize) -> Option<NonNull<u8>> {
    trim();
    let order = order_of(pages)?;
    // More than there is: do not even start.
    if pages > crate::frame::stats().free {
        return None;
    }
    let known = AREAS.lock().ranges[order].pop();
    let start = match known {
        Some(start) => start,
        None => kernel::reserve(((1 << order) + 1) * PAGE, PAGE)?,
    };
    for page in 0..pages {
        if map_frame(start + page as u64 * PAGE).is_err() {
            take_apart(&[(start, page)]);
            return None;
        }
    }
    NonNull::new(start as *mut u8)
}

fn map_frame(vaddr: u64) -> Result<(), NoMemory> {
    let paddr = Frame::alloc().ok_or(NoMemory)?.into_pfn() << PAGE_SHIFT;
    // SAFETY: 1. the range is the caller's and not mapped. 2. the frame is ours alone.
    let mapped = unsafe { kernel::map(vaddr, paddr, PAGE, WRITABLE | NO_EXEC | GLOBAL) };
    if mapped.is_err() {
        // SAFETY: the number came from `into_pfn` just above, and nothing maps the frame.
        drop(unsafe { Frame::from_pfn(paddr >> PAGE_SHIFT) });
    }
    mapped
}

/// Puts an area on the list of freed ones.
///
/// # Safety
///
/// 1. `area` came from [`alloc`] for this number of pages, and nobody uses it any more.
pub(crate) unsafe fn free(area: *mut u8, pages: usize) {
    let mut areas = AREAS.lock();
    let freed = area.cast::<Freed>();
    // SAFETY: by 1 the area is ours, mapped, page-aligned and at least a page long.
    unsafe { freed.write(Freed { next: areas.freed, pages }) };
    areas.freed = freed;
}

/// Gives the frames of freed areas back, where waiting is allowed; how many.
pub(crate) fn trim() -> usize {
    const AT_ONCE: usize = 16;
    if crate::preempt::is_atomic() {
        return 0;
    }
    let mut total = 0;
    loop {
        let mut taken = [(0, 0); AT_ONCE];
        let mut count = 0;
        {
            let mut areas = AREAS.lock();
            while count < AT_ONCE && !areas.freed.is_null() {
                let at = areas.freed;
                // SAFETY: `free` wrote it; the area is still mapped, and the list's alone.
                let freed = unsafe { at.read() };
                areas.freed = freed.next;
                taken[count] = (at as u64, freed.pages);
                count += 1;
                total += freed.pages;
            }
        }
        if count == 0 {
            return total;
        }
        take_apart(&taken[..count]);
    }
}

/// Unmaps areas (start, pages) that nobody uses, and keeps their ranges.
fn take_apart(areas: &[(u64, usize)]) {
    let pages = |&(start, pages): &(u64, usize)| (0..pages as u64).map(move |page| start + page * PAGE);
    for vaddr in areas.iter().flat_map(pages) {
        // SAFETY: the area is ours, and nobody accesses it.
        unsafe { kernel::hide_page(vaddr) };
    }
    tlb::flush_kernel();
    for vaddr in areas.iter().flat_map(pages) {
        // SAFETY: as above. The entry held the number of a frame from `into_pfn`, and holds nothing now.
        unsafe {
            if let Some(paddr) = kernel::unmap_page(vaddr) {
                drop(Frame::from_pfn(paddr >> PAGE_SHIFT));
            }
        }
    }
    let mut all = AREAS.lock();
    for &(start, pages) in areas {
        if let Some(order) = order_of(pages.max(1))
            && all.ranges[order].try_reserve(1).is_ok()
        {
            all.ranges[order].push(start);
        }
    }
}
