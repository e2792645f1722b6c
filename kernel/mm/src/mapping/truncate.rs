//! Changes of a file's size and holes: pages go, and with them every mapping of them.

use core::ops::Range;
use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use hal::{PAGE_SHIFT, PAGE_SIZE};

use super::{Mapping, Source, page_flags};
use crate::counters;
use crate::registry;

/// Pages taken out under one hold of the lock.
const CHUNK: usize = 64;

impl Mapping {
    /// Sets the length in bytes without touching pages: for files that grow or are just made.
    pub fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// Sets the length; pages beyond are dropped and unmapped everywhere, private copies included.
    ///
    /// The caller holds the inode's lock. May sleep. Cost: the pages beyond, and when the file is mapped,
    /// one step per VMA of the machine.
    pub fn truncate(&self, size: u64) {
        let old = self.size.swap(size, Ordering::AcqRel);
        if size >= old {
            self.zero_part(old..(old | (PAGE_SIZE as u64 - 1)).saturating_add(1));
            return;
        }
        self.drop_pages(size.div_ceil(PAGE_SIZE as u64)..u64::MAX, Private::Unmap);
        let rest = size..(size | (PAGE_SIZE as u64 - 1)).saturating_add(1);
        if in_page(size) != 0 {
            self.zero_part(rest);
        }
    }

    /// Makes `range` (bytes) a hole: whole pages go, parts of pages become zero (fallocate, `MADV_REMOVE`).
    ///
    /// Private copies of mappers stay. The caller holds the inode's lock. May sleep.
    pub fn punch(&self, range: Range<u64>) {
        let (first, end) = (range.start.div_ceil(PAGE_SIZE as u64), range.end >> PAGE_SHIFT);
        if first > end {
            return self.zero_part(range);
        }
        if in_page(range.start) != 0 {
            self.zero_part(range.start..first << PAGE_SHIFT);
        }
        if in_page(range.end) != 0 {
            self.zero_part(end << PAGE_SHIFT..range.end);
        }
        self.drop_pages(first..end, Private::Keep);
    }

    /// Zeroes bytes within one page, if it is cached.
    fn zero_part(&self, range: Range<u64>) {
        let len = range.end.saturating_sub(range.start) as usize;
        let from = in_page(range.start) as usize;
        if let Some(frame) = self.get(range.start >> PAGE_SHIFT) {
            frame.zero(from..from.saturating_add(len).min(PAGE_SIZE));
        }
    }

    /// Takes pages out of the cache and then out of all page tables (M2).
    fn drop_pages(&self, range: Range<u64>, private: Private) {
        let mut next = Some(range.start);
        while let Some(first) = next {
            let mut taken = ArrayVec::<_, CHUNK>::new();
            next = self.pages.lock().remove_range(first..range.end, CHUNK, |_, frame| taken.push(frame));
            self.uncharge(taken.len() as u64);
            self.count_cached(-(taken.len() as i64));
            for frame in &taken {
                let old = frame.meta().flags.fetch_and(!page_flags::DIRTY, Ordering::AcqRel);
                if let (Source::Pages(pages), true) = (&self.source, old & page_flags::DIRTY != 0) {
                    pages.nr_dirty.fetch_sub(1, Ordering::Relaxed);
                    counters::DIRTY.add(-1);
                }
            }
        }
        if self.nr_vmas() > 0 {
            registry::unmap_everywhere(self, range, private);
        }
    }
}

/// What happens to private copies of pages that leave the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Private {
    /// They go, too: the file ends before them.
    Unmap,
    /// They stay: only the file got a hole.
    Keep,
}

fn in_page(pos: u64) -> u64 {
    pos % PAGE_SIZE as u64
}
