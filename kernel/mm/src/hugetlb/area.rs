//! What system calls do to VMAs of huge pages: mapping them, giving pages back, rights, and what is shown of them.

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use hal::frame::HUGE_FRAMES;
use hal::paging::{Cursor, Entry, PteFlags};
use hal::{PAGE_SHIFT, PAGE_SIZE, PageRange};

use super::{Reserve, SHIFT, SIZE, pool};
use crate::fault::pte_flags;
use crate::mapping::page_flags;
use crate::show::{PageState, PageStats, PageView, view_of};
use crate::space::Mm;
use crate::vma::{Backing, VmFlags, Vma, VmaAttr};
use crate::watch::WP_MARKER;

/// Whether `backing` has huge pages of the pool.
pub(crate) fn is_huge(backing: &Backing) -> bool {
    backing.mapping().is_some_and(|mapping| mapping.is_huge())
}

/// Where the page of `vma` that holds `addr` ends.
#[inline]
pub(crate) fn end_of_page(vma: &Vma, addr: u64) -> u64 {
    let size = if vma.attr.flags.contains(VmFlags::HUGETLB) { SIZE } else { PAGE_SIZE as u64 };
    (addr & !(size - 1)).saturating_add(size)
}

/// The numbers in the file of the huge pages of `part`, which lies in `vma`.
fn indices(vma: &Vma, part: &Range<u64>) -> Range<u64> {
    let idx = |addr| vma.attr.offset_at(vma.start, addr) >> SHIFT;
    idx(part.start)..idx(part.end)
}

impl VmaAttr {
    /// Makes the promises of a new mapping of `len` bytes, and lets the file reach to its end. Sleeps.
    ///
    /// `ENOMEM`: there are not so many pages.
    pub(crate) fn promise_huge(&mut self, len: u64) -> Result<()> {
        let Some(mapping) = self.backing.mapping().cloned() else { return Ok(()) };
        let Some(pages) = mapping.huge() else { return Ok(()) };
        let end = self.offset.saturating_add(len);
        let range = self.offset >> SHIFT..end >> SHIFT;
        match (self.flags.contains(VmFlags::NORESERVE), self.is_private()) {
            (true, _) => {}
            (false, true) => self.reserve = Some(Reserve::new(range, pages.share())?),
            (false, false) => pages.reserve(range)?,
        }
        if self.flags.contains(VmFlags::WRITE) && mapping.size() < end {
            mapping.set_size(end);
        }
        Ok(())
    }
}

/// Gives up what the part of `vma` in `range`, which is being unmapped, was promised.
pub(crate) fn unpromise(vma: &Vma, range: &Range<u64>) {
    if let Some(reserve) = &vma.attr.reserve {
        reserve.release(indices(vma, &vma.clip(range)));
    }
}

impl Mm {
    /// Drops the pages of `range`, which begins and ends at huge pages of `vma`. Pages of its own keep their promise, if
    /// it had one. Sleeps.
    pub(crate) fn zap_huge(&self, vma: &Vma, range: Range<u64>) {
        let Some(pages) = vma.attr.backing.mapping().and_then(|mapping| mapping.huge()) else { return };
        let _steady = pages.steady.write();
        if let Some(reserve) = &vma.attr.reserve {
            let can_keep = super::stats().surplus == 0;
            for at in range.clone().step_by(SIZE as usize) {
                self.keep_promise(reserve, vma, at, can_keep);
            }
        }
        if vma.attr.watch.is_none() {
            return self.clear_pages(range);
        }
        for at in range.step_by(SIZE as usize) {
            self.zap_watched(at);
        }
    }

    /// Drops the huge page at `at`; that its writes are watched is remembered.
    fn zap_watched(&self, at: u64) {
        let Some(page) = PageRange::new(at, at + SIZE) else { return };
        let is_watched = {
            let mut cursor = self.page_table().cursor(page);
            match cursor.query_huge(at) {
                Some(flags) => flags.contains(PteFlags::WATCHED),
                None => matches!(cursor.query(at), Entry::Special(WP_MARKER)),
            }
        };
        self.clear_pages(at..at + SIZE);
        if is_watched {
            // Without memory for it the mark is lost, as the page is.
            let _ = self.page_table().cursor(page).set_special(at, WP_MARKER);
        }
    }

    /// Has the private page at `at`, which is about to go, promised again.
    fn keep_promise(&self, reserve: &Arc<Reserve>, vma: &Vma, at: u64, can_keep: bool) {
        let Some(page) = PageRange::new(at, at + SIZE) else { return };
        let cursor = self.page_table().cursor(page);
        let Some((huge, _)) = cursor.huge_frame(at) else { return };
        let is_private = huge.meta().flags.load(Ordering::Relaxed) & page_flags::ANON != 0;
        drop(huge);
        // A page that somebody else holds does not come back now.
        if is_private
            && can_keep
            && cursor.is_huge_exclusive(at)
            && let Some((huge, _)) = cursor.huge_frame(at)
        {
            pool::promise_returning();
            // Its place in the share goes to the promise.
            huge.meta().owner.store(0, Ordering::Relaxed);
            drop(cursor);
            reserve.restore(vma.attr.offset_at(vma.start, at) >> SHIFT);
        }
    }

    /// Gives the entries of `range` the rights of `attr`.
    pub(crate) fn protect_huge_pages(&self, range: Range<u64>, attr: &VmaAttr) {
        let Some(range) = PageRange::new(range.start, range.end) else { return };
        let may_write = attr.flags.contains(VmFlags::WRITE);
        let mut cursor = self.page_table().cursor(range);
        let mut at = range.start();
        while let Some((addr, _)) = cursor.next_mapped(at) {
            let base = addr & !(SIZE - 1);
            at = base + SIZE;
            let Some((huge, flags)) = cursor.huge_frame(base) else { continue };
            let is_private = huge.meta().flags.load(Ordering::Relaxed) & page_flags::ANON != 0;
            drop(huge);
            let clean = flags & (PteFlags::SOFT | PteFlags::WATCHED);
            let is_ours = !attr.is_private() || (is_private && cursor.is_huge_exclusive(base));
            cursor.protect_huge(base, pte_flags(attr, may_write && clean.is_empty() && is_ours) | clean);
        }
    }

    /// Counts the huge pages shown in `range`, which lies in one VMA.
    pub(crate) fn collect_huge_stats(&self, range: Range<u64>) -> PageStats {
        let mut stats = PageStats::default();
        self.for_each_huge(range, |_, state| {
            let shared = !state.contains(PageState::EXCLUSIVE);
            *if shared { &mut stats.shared_hugetlb } else { &mut stats.private_hugetlb } +=
                HUGE_FRAMES as u64;
            stats.hugetlb_anon += u64::from(!state.contains(PageState::FILE));
            stats.hugetlb_dirty += u64::from(state.contains(PageState::SOFT_DIRTY));
        });
        stats
    }

    /// Calls `each` with the address and state of each huge page mapped in `range`; `SOFT_DIRTY` here: it was written.
    fn for_each_huge(&self, range: Range<u64>, mut each: impl FnMut(u64, PageState)) {
        let Some(range) = PageRange::new(range.start, range.end) else { return };
        let mut cursor = self.page_table().cursor(range);
        let mut at = range.start();
        while let Some((addr, _)) = cursor.next_mapped(at) {
            let base = addr & !(SIZE - 1);
            at = base + SIZE;
            if let Some((huge, flags)) = cursor.huge_frame(base) {
                let mut state = state_of(&huge);
                state.set(PageState::SOFT_DIRTY, flags.contains(PteFlags::DIRTY));
                each(base, state);
            }
        }
    }

    /// Whether a mapping in `range` is made of huge pages of the pool. Takes `space` for reading; may sleep.
    pub fn has_huge_pages(&self, range: Range<u64>) -> bool {
        self.space.read().set.overlapping(range).any(|vma| vma.attr.flags.contains(VmFlags::HUGETLB))
    }

    /// Huge pages in `range` of VMAs that have private ones, as small pages.
    pub(crate) fn count_huge(&self, range: Range<u64>) -> i64 {
        let mut nr = 0;
        self.for_each_huge(range, |_, _| nr += HUGE_FRAMES as i64);
        nr
    }

    /// The range that `MADV_DONTNEED` of `range` drops of huge pages: what begins in the middle of one is refused, the
    /// rest of the last one is left alone. `EINVAL`.
    pub(crate) fn whole_pages(range: &Range<u64>) -> Result<Range<u64>> {
        if range.start.is_multiple_of(SIZE) {
            Ok(range.start..(range.end & !(SIZE - 1)).max(range.start))
        } else {
            Err(Errno::EINVAL)
        }
    }
}

/// What pagemap tells of a huge page that one more entry than our reference maps.
pub(crate) fn state_of(huge: &hal::frame::HugeFrame) -> PageState {
    let is_private = huge.meta().flags.load(Ordering::Relaxed) & page_flags::ANON != 0;
    // Without ours, and without that of the file.
    let holders = huge.ref_count().saturating_sub(if is_private { 1 } else { 2 });
    let mut state = PageState::PRESENT | PageState::HUGE;
    state.set(PageState::FILE, !is_private);
    state.set(PageState::EXCLUSIVE, holders <= 1);
    state
}

/// The whole huge pages that `range` touches.
pub(crate) fn whole_pages(range: &PageRange) -> Option<PageRange> {
    PageRange::new(range.start() & !(SIZE - 1), range.end().checked_next_multiple_of(SIZE)?)
}

/// The part of `range`, which lies in a VMA of huge pages, that the first huge page makes up, and its state. `cursor` reaches
/// over whole huge pages ([`whole_pages`]).
pub(crate) fn view(cursor: &mut Cursor<'_>, range: Range<u64>) -> (Range<u64>, PageView) {
    let first = range.start & !(SIZE - 1);
    let part = range.start..range.end.min(first + SIZE);
    let mut view = match cursor.huge_frame(first) {
        Some((huge, flags)) => {
            let mut state = state_of(&huge);
            state.set(PageState::SOFT_DIRTY, !flags.contains(PteFlags::SOFT));
            state.set(PageState::WATCHED, flags.contains(PteFlags::WATCHED));
            PageView { state, pfn: huge.pfn() + ((range.start - first) >> PAGE_SHIFT) }
        }
        None => view_of(&cursor.query(first)),
    };
    view.state |= PageState::POOLED;
    (part, view)
}

/// Watches writes to the huge page that holds `addr`, if it is there. LINUX: those that are not there are not watched.
pub(crate) fn watch_writes(cursor: &mut Cursor<'_>, addr: u64) {
    let first = addr & !(SIZE - 1);
    if let Some(flags) = cursor.query_huge(first) {
        cursor.protect_huge(first, (flags - PteFlags::WRITE) | PteFlags::WATCHED);
    }
}

/// Whether `entry` was mapped huge out of the pool.
pub(crate) fn is_pooled(entry: &Entry) -> bool {
    let flags = match entry {
        Entry::Present { frame, .. } => frame.meta().flags.load(Ordering::Relaxed),
        Entry::Huge(huge) => huge.meta().flags.load(Ordering::Relaxed),
        _ => 0,
    };
    flags & page_flags::HUGETLB != 0
}
