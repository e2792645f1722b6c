//! Files of huge pages as page caches: each small page that somebody asks for is a part of a huge one.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ops::Range;

use abi::{Errno, Result};
use hal::frame::{Frame, HUGE_FRAMES, HUGE_ORDER};
use hal::{PAGE_SHIFT, PAGE_SIZE};

use super::truncate::Private;
use super::{Mapping, Source};
use crate::hugetlb::{self, HugePages, Subpool};
use crate::registry;

/// Small page `idx` of `pages`.
pub(super) fn part(pages: &HugePages, idx: u64) -> Option<Frame> {
    Some(pages.get(idx >> HUGE_ORDER)?.frame(idx as usize % HUGE_FRAMES))
}

/// The first small page in memory at or after `from`.
pub(super) fn next_page(pages: &HugePages, from: u64) -> Option<u64> {
    pages.next_page(from >> HUGE_ORDER).map(|idx| (idx << HUGE_ORDER).max(from))
}

/// Small page `idx`, made when it is missing. Sleeps. `ENOSPC`, `ENOMEM`.
pub(super) fn get_or_make(pages: &HugePages, idx: u64) -> Result<Frame> {
    pages.allocate(idx >> HUGE_ORDER)?;
    part(pages, idx).ok_or(Errno::EAGAIN)
}

impl Mapping {
    /// The cache of an empty file of huge pages, which come from `share` or from the pool.
    pub fn new_huge(share: Option<Arc<Subpool>>) -> Self {
        Self::new(Source::Huge(Box::new(HugePages::new(share))), 0)
    }

    /// Its huge pages, if it is such a file.
    #[inline]
    pub fn huge(&self) -> Option<&HugePages> {
        match &self.source {
            Source::Huge(pages) => Some(pages),
            _ => None,
        }
    }

    /// Whether its pages are huge ones of the pool.
    #[inline]
    pub fn is_huge(&self) -> bool {
        self.huge().is_some()
    }

    /// Makes the huge pages of `range` (bytes) present (fallocate(2)). Sleeps. `ENOSPC`: none is left.
    pub fn allocate_huge(&self, range: Range<u64>) -> Result<()> {
        let pages = self.huge().ok_or(Errno::EINVAL)?;
        for idx in range.start >> hugetlb::SHIFT..range.end.div_ceil(hugetlb::SIZE) {
            if sched::current().is_interrupted(sched::Interruptible::Yes) {
                return Err(Errno::EINTR);
            }
            pages.allocate(idx)?;
        }
        Ok(())
    }

    /// `truncate_frozen` for huge pages; `size` is a multiple of theirs.
    pub(super) fn truncate_huge(&self, pages: &HugePages, size: u64) {
        self.set_size(size);
        self.drop_huge(pages, size.div_ceil(hugetlb::SIZE)..u64::MAX >> hugetlb::SHIFT, Private::Unmap);
    }

    /// `punch_frozen` for huge pages: those that lie in `range` as a whole go, of others a part becomes zero.
    pub(super) fn punch_huge(&self, pages: &HugePages, range: Range<u64>) {
        let (first, end) = (range.start.div_ceil(hugetlb::SIZE), range.end >> hugetlb::SHIFT);
        if first > end {
            return zero(pages, range);
        }
        zero(pages, range.start..first << hugetlb::SHIFT);
        zero(pages, end << hugetlb::SHIFT..range.end);
        self.drop_huge(pages, first..end, Private::Keep);
    }

    fn drop_huge(&self, pages: &HugePages, range: Range<u64>, private: Private) {
        pages.remove(range.clone());
        if self.nr_vmas() > 0 {
            let small = |idx: u64| idx << HUGE_ORDER;
            registry::unmap_everywhere(self, small(range.start)..small(range.end), private);
        }
    }
}

/// Zeroes what is in memory of `range`, which lies in one huge page.
fn zero(pages: &HugePages, range: Range<u64>) {
    let mut at = range.start;
    while at < range.end {
        let end = (at | (PAGE_SIZE as u64 - 1)).saturating_add(1).min(range.end);
        let Some(frame) = part(pages, at >> PAGE_SHIFT) else { return };
        let from = at as usize % PAGE_SIZE;
        frame.zero(from..from + (end - at) as usize);
        at = end;
    }
}
