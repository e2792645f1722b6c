//! Transparent huge pages: anonymous and shared memory in pieces of 2 MiB. This page is about the former.
//!
//! The first write to a part of a VMA that could hold a whole huge page, and where nothing is mapped, gets one, if the
//! settings, the VMA and the process want it and there is such a frame. One entry maps it; fork shares that entry; what
//! edits a part (munmap, mprotect, copy-on-write, reclaim) splits it into small ones on the way (see `hal::paging`).
//!
//! ```text
//! write, nothing there         a new huge page of zeroes
//! write, shared since a fork   split, and one small page is copied
//! write, nobody else has any   the entry becomes writable
//! read, nothing there          the huge page of zeroes, which all share; a write puts a new huge page in its place
//! ```
//!
//! | file | what |
//! |---|---|
//! | `settings` | /sys/kernel/mm/transparent_hugepage |
//! | `collapse` | joining small pages: `MADV_COLLAPSE` |
//! | `khugepaged` | the same in the background |
//! | `shared` | huge pages of shared memory |
//! | `sizes` | runs of 4 to 256 pages at one page fault |
//!
//! LINUX: pages of files on disks are never joined, nor mapped by large entries.
//!
//! Source: Documentation/admin-guide/mm/transhuge.rst.

pub mod collapse;
pub mod khugepaged;
pub mod settings;
pub(crate) mod shared;
pub mod sizes;

use core::sync::atomic::Ordering;

use hal::frame::{HUGE_FRAMES, HUGE_ORDER, HUGE_SIZE, HugeFrame};
use hal::paging::{Cursor, Entry, PteFlags};
use hal::sync::Once;
use hal::{PAGE_SIZE, PageRange, UserAddr};

use crate::compact::daemon;
use crate::counters::Counter;
use crate::fault::touched;
use crate::mapping::page_flags;
use crate::reclaim;
use crate::space::{Mm, Prefs};
use crate::vma::{VmFlags, Vma};

use settings::Effort;

/// Faults that got a huge page (`thp_fault_alloc`).
pub static FAULT_ALLOC: Counter = Counter::new();
/// Faults that wanted one, and there was none (`thp_fault_fallback`).
pub static FAULT_FALLBACK: Counter = Counter::new();
/// Huge pages of zeroes made (`thp_zero_page_alloc`).
pub static ZERO_ALLOC: Counter = Counter::new();
/// Failed attempts to make one (`thp_zero_page_alloc_failed`).
pub static ZERO_FAILED: Counter = Counter::new();

/// Huge pages in a set of orders.
pub(crate) const HUGE: u32 = 1 << HUGE_ORDER;

const SIZE: u64 = HUGE_SIZE as u64;

/// The huge page around `addr`, if all of it lies in `vma`.
#[inline]
pub(crate) fn huge_range(vma: &Vma, addr: u64) -> Option<PageRange> {
    let start = addr & !(SIZE - 1);
    if start < vma.start || vma.end < SIZE || start > vma.end - SIZE {
        return None;
    }
    PageRange::new(start, start + SIZE)
}

static ZERO: Once<HugeFrame> = Once::new();

fn zero_page_if_any() -> Option<HugeFrame> {
    ZERO.get().cloned()
}

/// The huge page of zeroes, made when first wanted, and kept.
///
/// LINUX: it goes when nobody uses it and memory is short.
pub(crate) fn zero_page() -> Option<HugeFrame> {
    if let Some(zero) = zero_page_if_any() {
        return Some(zero);
    }
    let Some(new) = HugeFrame::alloc_user_zeroed(page_flags::ZERO) else {
        ZERO_FAILED.add(1);
        return None;
    };
    let zero = ZERO.call_once(|| {
        ZERO_ALLOC.add(1);
        new
    });
    Some(zero.clone())
}

/// Pages that entries for the huge page of zeroes show in all address spaces.
pub(crate) fn zero_pages_mapped() -> u64 {
    // Of the counts one is ours, one the copy's.
    let nr = zero_page_if_any().map_or(0, |zero| zero.whole_count().saturating_sub(2));
    u64::from(nr) * HUGE_FRAMES as u64
}

/// A huge page for private memory; with `effort` more is done when there is none at first. May sleep.
fn alloc(effort: Effort) -> Option<HugeFrame> {
    alloc_for(page_flags::ANON, effort)
}

/// As [`alloc()`] for pages with `flags`.
fn alloc_for(flags: u32, effort: Effort) -> Option<HugeFrame> {
    let huge = HugeFrame::alloc_user_zeroed(flags);
    if huge.is_some() {
        return huge;
    }
    daemon::note_shortage();
    if effort == Effort::None {
        return None;
    }
    reclaim::request();
    if effort == Effort::Wait && reclaim::is_started() && reclaim::wait_for_memory() {
        return HugeFrame::alloc_user_zeroed(flags);
    }
    None
}

impl Mm {
    /// The orders of the large pages that the anonymous memory of `vma` gets where it has room.
    #[inline]
    pub(crate) fn wanted_orders(&self, vma: &Vma) -> u32 {
        let orders = settings::orders();
        if orders == 0 { 0 } else { self.allowed_orders(vma, orders) }
    }

    #[inline]
    fn allowed_orders(&self, vma: &Vma, orders: u32) -> u32 {
        let flags = vma.attr.flags;
        let never = VmFlags::NOHUGEPAGE | VmFlags::GROWSDOWN | VmFlags::DROPPABLE;
        if flags.intersects(never) || vma.attr.watch.is_some() {
            return 0;
        }
        let (advised, prefs) = (flags.contains(VmFlags::HUGEPAGE), self.prefs());
        let allowed =
            !prefs.contains(Prefs::NO_HUGE_PAGES) || (prefs.contains(Prefs::ADVISED_HUGE_PAGES) && advised);
        let wanted = if advised { orders >> 16 } else { orders & 0xffff };
        if allowed { wanted } else { 0 }
    }

    /// Whether the anonymous memory of `vma` gets huge pages where it has room.
    #[inline]
    pub(crate) fn wants_huge(&self, vma: &Vma) -> bool {
        self.wanted_orders(vma) & HUGE != 0
    }

    /// Gives the write to `addr` in `vma`, which wants huge pages, one if there is one. The caller holds `space`.
    #[cold]
    pub(crate) fn fault_huge(&self, vma: &Vma, addr: u64) -> bool {
        let Some(range) = huge_range(vma, addr) else { return false };
        let advised = vma.attr.flags.contains(VmFlags::HUGEPAGE);
        // Zeroed without the lock: it takes long. Who waits for memory holds `space`, so only the rest of this fault may.
        let effort = if settings::effort(advised) == Effort::None { Effort::None } else { Effort::Defer };
        let stats = settings::stats(HUGE_ORDER);
        let Some(huge) = alloc(effort) else {
            FAULT_FALLBACK.add(1);
            stats.inspect(|stats| stats.fault_fallback.add(1));
            return false;
        };
        let writable = vma.attr.flags.contains(VmFlags::WRITE);
        let mapped =
            self.page_table().cursor(range).map_huge(range.start(), huge, touched(&vma.attr, writable, true));
        // Otherwise another thread was faster.
        if mapped.is_ok() {
            FAULT_ALLOC.add(1);
            stats.inspect(|stats| stats.fault_alloc.add(1));
            vma.attr.note_written();
            self.rss.anon.fetch_add(HUGE_FRAMES as i64, Ordering::Relaxed);
        }
        mapped.is_ok()
    }

    /// Shows the read of `addr` in `vma`, which wants huge pages, the huge page of zeroes. The caller holds `space`.
    #[cold]
    pub(crate) fn fault_huge_zero(&self, vma: &Vma, addr: u64) -> bool {
        let Some(range) = huge_range(vma, addr) else { return false };
        if !settings::USE_ZERO_PAGE.load(Ordering::Relaxed) {
            return false;
        }
        let Some(zero) = zero_page() else { return false };
        let mut flags = touched(&vma.attr, false, false);
        flags.set(PteFlags::SOFT, vma.attr.flags.contains(VmFlags::SOFTCLEAN));
        self.page_table().cursor(range).map_huge(range.start(), zero, flags).is_ok()
    }

    /// Takes the huge page of zeroes out that one entry maps around `addr`, for a write to find nothing there.
    pub(crate) fn drop_huge_zero(&self, vma: &Vma, addr: u64) {
        let Some(range) = huge_range(vma, addr) else { return };
        let mut cursor = self.page_table().cursor(range);
        if let Entry::Present { frame, .. } = cursor.query(addr)
            && frame.meta().flags.load(Ordering::Relaxed) & page_flags::ZERO != 0
            && cursor.query_huge(addr).is_some()
        {
            cursor.unmap_range(range, &mut |_, _| {});
        }
    }

    /// Splits a large entry that maps pages on both sides of `addr`.
    pub(crate) fn split_huge(&self, addr: u64) {
        let Some(page) = PageRange::page_of(UserAddr(addr)).filter(|_| !addr.is_multiple_of(SIZE)) else {
            return;
        };
        let mut cursor = self.page_table().cursor(page);
        if let Some(flags) = cursor.query_huge(addr) {
            // An edit of a part splits it.
            cursor.protect(page.start(), flags);
        }
    }

    /// Pages in huge frames that one entry maps whole; `shared`: those of shared memory, which are left out.
    pub(crate) fn huge_pages(&self, shared: u64) -> u64 {
        let all = (self.page_table().nr_huge() * HUGE_FRAMES) as u64;
        // Those of the pool are not transparent.
        let pooled = u64::try_from(self.rss.hugetlb.load(Ordering::Relaxed)).unwrap_or(0);
        all.saturating_sub(pooled + shared)
    }
}

/// A fault at `addr`, which a large entry maps; `true` if the entry is right for it afterwards. `false`: the page must be
/// copied.
pub(crate) fn settle_huge(cursor: &mut Cursor<'_>, vma: &Vma, addr: u64, write: bool) -> bool {
    let Some(flags) = cursor.query_huge(addr) else { return false };
    let writable = flags.contains(PteFlags::WRITE);
    if write && !writable && !cursor.is_huge_exclusive(addr) {
        return false;
    }
    let kept = flags & (PteFlags::SOFT | PteFlags::WATCHED);
    let may_write = vma.attr.flags.contains(VmFlags::WRITE);
    let new = match write && !writable {
        true => touched(&vma.attr, may_write, true),
        false => touched(&vma.attr, writable, write) | kept,
    };
    cursor.protect_huge(addr, new)
}

/// Gives the large entry at `addr` the rights of `vma`'s `attr`, if one maps all from `addr` on and it ends by `end`;
/// where it ends.
pub(crate) fn protect_whole(
    cursor: &mut Cursor<'_>,
    addr: u64,
    end: u64,
    flags: impl FnOnce(bool) -> PteFlags,
) -> Option<u64> {
    if !addr.is_multiple_of(SIZE) || end - addr < SIZE || cursor.query_huge(addr).is_none() {
        return None;
    }
    let exclusive = cursor.is_huge_exclusive(addr);
    cursor.protect_huge(addr, flags(exclusive));
    Some(addr + SIZE)
}

/// Where the huge page that a large entry maps around `addr` ends; `None`: none does.
pub(crate) fn huge_end(cursor: &Cursor<'_>, addr: u64, entry: &Entry) -> Option<u64> {
    let Entry::Present { frame, .. } = entry else { return None };
    let is_huge = frame.is_in_huge() && cursor.query_huge(addr).is_some();
    is_huge.then_some((addr & !(SIZE - 1)) + SIZE)
}

/// The alignment that anonymous memory of `len` bytes gets where nobody asked for an address, so that it has room for
/// huge pages.
#[inline]
pub(crate) fn wanted_alignment(len: u64) -> Option<vma_set::Align> {
    (len.is_multiple_of(SIZE)).then_some(vma_set::Align { size: SIZE, offset: 0 })
}

/// The same for shared anonymous memory: that of the largest run that it may have.
pub(crate) fn wanted_shmem_alignment(len: u64) -> Option<vma_set::Align> {
    let fits = |order: &u32| (PAGE_SIZE as u64) << order <= len;
    let orders = settings::shmem_orders(false) | settings::shmem_orders(true);
    let order = (settings::FIRST_SHMEM_ORDER..=HUGE_ORDER)
        .rev()
        .find(|order| orders >> order & 1 != 0 && fits(order));
    match order {
        Some(order) => Some(vma_set::Align { size: (PAGE_SIZE as u64) << order, offset: 0 }),
        None => wanted_alignment(len),
    }
}
