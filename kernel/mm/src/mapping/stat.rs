//! Numbers about the cached pages of a file, for cachestat(2).

use core::ops::Range;
use core::sync::atomic::Ordering;

use super::{Mapping, page_flags};

/// Pages by state, as cachestat(2) tells them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// In the cache.
    pub cached: u64,
    /// To be written.
    pub dirty: u64,
    /// Being written.
    pub writeback: u64,
    /// Gone to swap.
    pub evicted: u64,
}

impl Mapping {
    /// Counts the cached pages of `range`. Cost: one step per cached page; the lock is given up now and then.
    pub fn count_pages(&self, range: Range<u64>) -> PageCounts {
        const STEP: u64 = 512;
        let mut counts = PageCounts { evicted: self.count_swapped(range.clone()), ..PageCounts::default() };
        let mut next = range.start;
        loop {
            let (mut last, mut left) = (None, STEP);
            self.pages.lock().frames.for_each(next..range.end, |idx, frame| {
                let flags = frame.meta().flags.load(Ordering::Relaxed);
                counts.cached += 1;
                // LINUX: pages that live in memory only are always dirty: they have no clean copy.
                counts.dirty += u64::from(flags & (page_flags::DIRTY | page_flags::SHMEM) != 0);
                last = Some(idx);
                left -= 1;
                left > 0
            });
            match last.filter(|_| left == 0) {
                Some(idx) => next = idx + 1,
                None => return counts,
            }
        }
    }
}
