//! Changes of a file's size and holes: pages go, and with them every mapping of them.

use core::num::NonZeroU64;
use core::ops::Range;
use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use hal::frame::Frame;
use hal::{PAGE_SHIFT, PAGE_SIZE};
use sched::MutexGuard;

use super::fill::UnderWay;
use super::{Mapping, Pages, Source, page_flags, swapped};
use crate::counters;
use crate::registry;

/// Pages taken out under one hold of the lock.
const CHUNK: usize = 64;
/// Pages looked at under one hold of the lock.
const SCAN: usize = 256;

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
        self.freeze().truncate(size);
    }

    fn truncate_frozen(&self, size: u64) {
        if let Source::Huge(pages) = &self.source {
            return self.truncate_huge(pages, size);
        }
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
        self.freeze_for(range.clone()).punch(range);
    }

    fn punch_frozen(&self, range: Range<u64>) {
        if let Source::Huge(pages) = &self.source {
            return self.punch_huge(pages, range);
        }
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

    /// Zeroes what a mapping may have stored behind the end of the file in its last page, before a write at `pos`
    /// behind the end shows it. The caller holds the inode's lock.
    pub fn zero_gap(&self, pos: u64) -> abi::Result<()> {
        let size = self.size();
        if pos <= size || in_page(size) == 0 {
            return Ok(());
        }
        let idx = size >> PAGE_SHIFT;
        let Some(frame) = self.get_or_read(idx)? else { return Ok(()) };
        frame.zero(in_page(size) as usize..PAGE_SIZE);
        self.mark_dirty(idx, &frame)
    }

    /// Zeroes bytes within one page, if there is one. May sleep.
    fn zero_part(&self, range: Range<u64>) {
        let len = range.end.saturating_sub(range.start) as usize;
        let from = in_page(range.start) as usize;
        // A page that swap has lost stays so: whoever reads it hears of that.
        if let Ok(Some(frame)) = self.get_or_read(range.start >> PAGE_SHIFT) {
            frame.zero(from..from.saturating_add(len).min(PAGE_SIZE));
        }
    }

    /// Waits for I/O on the file's pages, and keeps new from beginning while the result lives: a file system frees
    /// the blocks of a range under it. May sleep; not to be taken inside of a transaction.
    pub fn freeze(&self) -> Frozen<'_> {
        self.freeze_for(0..u64::MAX)
    }

    /// As [`Mapping::freeze`] for who does something to the bytes `range` alone: what is being read ahead elsewhere goes on.
    pub fn freeze_for(&self, range: Range<u64>) -> Frozen<'_> {
        let range = range.start >> PAGE_SHIFT..range.end.div_ceil(PAGE_SIZE as u64);
        let locks = match &self.source {
            Source::Pages(pages) => {
                let writing = pages.writing.lock();
                let mut filling = pages.filling.lock();
                pages.ahead.forget_in(&range, &mut filling);
                Some((writing, filling))
            }
            Source::Shmem(_) | Source::Huge(_) => None,
        };
        Frozen { mapping: self, _locks: locks }
    }

    /// Whether pages with bytes of `range` are cached, after those that are just being read. What of it is being read ahead is
    /// forgotten. May sleep.
    pub fn has_cached(&self, range: Range<u64>) -> bool {
        let range = range.start >> PAGE_SHIFT..range.end.div_ceil(PAGE_SIZE as u64);
        if let Source::Pages(pages) = &self.source {
            pages.ahead.forget_in(&range, &mut pages.filling.lock());
        }
        let mut is_any = false;
        self.pages.lock().frames.for_each(range, |_, _| {
            is_any = true;
            false
        });
        is_any
    }

    /// Drops clean pages of `range` (bytes) that nobody uses; gives how many went. What of it is being read ahead goes, too.
    pub fn drop_clean(&self, range: Range<u64>) -> usize {
        let Source::Pages(_) = &self.source else { return 0 };
        let end = range.end.div_ceil(PAGE_SIZE as u64);
        let (mut next, mut total) = (range.start >> PAGE_SHIFT, 0);
        self.drop_ahead(next..end);
        loop {
            let mut gone = ArrayVec::<_, CHUNK>::new();
            {
                let mut pages = self.pages.lock();
                let mut idle = ArrayVec::<_, CHUNK>::new();
                let mut seen = 0;
                let mut stopped = None;
                pages.frames.for_each(next..end, |idx, frame| {
                    if idle.is_full() || seen == SCAN {
                        stopped = Some(idx);
                        return false;
                    }
                    seen += 1;
                    // The cache holds the only reference, and none can be taken without its lock.
                    let is_dirty = frame.meta().flags.load(Ordering::Acquire) & page_flags::DIRTY != 0;
                    if !is_dirty && frame.ref_count() == 1 {
                        idle.push(idx);
                    }
                    true
                });
                gone.extend(idle.iter().filter_map(|idx| pages.frames.remove(*idx)));
                next = stopped.unwrap_or(end);
            }
            total += gone.len();
            self.count_cached(-(gone.len() as i64));
            if next >= end {
                return total;
            }
        }
    }

    /// The pages `range` but for dirty ones; `false`: one of these stays. Nobody writes back.
    ///
    /// ```text
    ///   here                                store through a mapping
    ///                                         find the page in `pages`
    ///   look at DIRTY, take the page out
    ///                                         DIRTY on, map writable, store
    ///   unmap, look at DIRTY once more
    /// ```
    fn drop_clean_frozen(&self, source: &Pages, range: Range<u64>) -> bool {
        let is_dirty = |frame: &Frame| frame.meta().flags.load(Ordering::Acquire) & page_flags::DIRTY != 0;
        let (mut next, mut is_clean) = (Some(range.start), true);
        while let Some(first) = next.take() {
            let mut taken = ArrayVec::<(u64, Frame), CHUNK>::new();
            let mut left = SCAN;
            let mut pages = self.pages.lock();
            pages.frames.for_each(first..range.end, |idx, frame| {
                if taken.is_full() || left == 0 {
                    next = Some(idx);
                    return false;
                }
                left -= 1;
                match is_dirty(frame) {
                    true => is_clean = false,
                    false => taken.push((idx, frame.clone())),
                }
                true
            });
            // Not the last references, so nothing is freed under the lock.
            taken.iter().for_each(|(idx, _)| drop(pages.frames.remove(*idx)));
            drop(pages);
            self.count_cached(-(taken.len() as i64));
            if !taken.is_empty() && self.nr_vmas() > 0 {
                registry::unmap_everywhere(self, first..next.unwrap_or(range.end), Private::Keep);
            }
            for (idx, frame) in taken.iter().filter(|(_, frame)| is_dirty(frame)) {
                is_clean = false;
                // The lock goes before the match: giving a promise back takes it again.
                let kept = self.pages.lock().frames.insert(*idx, frame.clone());
                match kept {
                    Ok(None) => self.count_cached(1),
                    // A whole page was written meanwhile; or there is no memory to keep it.
                    Ok(Some(_)) | Err(_) => {
                        Self::forget_dirty(source, frame);
                        self.forget_write(source, *idx);
                    }
                }
            }
        }
        is_clean
    }

    /// As [`mark_dirty`](Self::mark_dirty) for a store through a mapping, whose page may have left the file meanwhile: then it
    /// does not count. May sleep; no lock is held.
    ///
    /// ```text
    ///   A                      B, of another address space     drop_clean_frozen
    ///   DIRTY on                                                 take the page out, which is clean
    ///   is it cached? no       DIRTY: map writable, store
    ///                                                            unmap from both, see DIRTY, put it back
    ///   lock `filling`: is it cached?
    /// ```
    /// Whoever takes pages out holds that lock until no page table shows them: if the page is out then, nobody stored to it.
    pub(crate) fn mark_dirty_for_store(&self, idx: u64, frame: &Frame) -> abi::Result<()> {
        self.mark_dirty(idx, frame)?;
        let is_cached = || self.get(idx).is_some_and(|now| now.pfn() == frame.pfn());
        if let Source::Pages(pages) = &self.source
            && !is_cached()
        {
            let _filling = pages.filling.lock();
            if !is_cached() {
                Self::forget_dirty(pages, frame);
                self.forget_write(pages, idx);
            }
        }
        Ok(())
    }

    /// Counts `frame`, which is cached no more, as dirty no more; was it?
    fn forget_dirty(pages: &Pages, frame: &Frame) -> bool {
        let old = frame.meta().flags.fetch_and(!page_flags::DIRTY, Ordering::AcqRel);
        let was_dirty = old & page_flags::DIRTY != 0;
        if was_dirty {
            pages.nr_dirty.fetch_sub(1, Ordering::Relaxed);
            counters::DIRTY.add(-1);
        }
        was_dirty
    }

    /// Takes pages out of the cache and then out of all page tables (M2).
    fn drop_pages(&self, range: Range<u64>, private: Private) {
        let mut next = Some(range.start);
        while let Some(first) = next {
            next = self.drop_some(first..range.end);
        }
        if self.nr_vmas() > 0 {
            registry::unmap_everywhere(self, range, private);
        }
    }
}

impl Mapping {
    /// Takes some pages of `range` out of the cache, from its start on; where to go on.
    ///
    /// In one hold of the lock what is in memory goes, what is in swap, and what makes a huge page of it: a page that moves
    /// between the two meanwhile is met here or there.
    fn drop_some(&self, range: Range<u64>) -> Option<u64> {
        let mut taken = ArrayVec::<Frame, CHUNK>::new();
        let mut slots = ArrayVec::<u64, CHUNK>::new();
        let mut pages = self.pages.lock();
        let next = pages.frames.remove_range(range.clone(), CHUNK, |_, frame| taken.push(frame));
        let done = range.start..next.unwrap_or(range.end);
        let whole = pages.take_wholes(&done);
        let out = |_, value: NonZeroU64| slots.push(value.get());
        let next_slot = pages.swapped.remove_range(done, CHUNK, out);
        drop(pages);
        drop(whole);
        self.uncharge((taken.len() + slots.len()) as u64);
        self.count_cached(-(taken.len() as i64));
        if let Source::Pages(pages) = &self.source {
            for frame in &taken {
                Self::forget_dirty(pages, frame);
            }
        }
        swapped::forget(slots.drain(..));
        next_slot.or(next)
    }

    /// Takes page `idx` of a file system's file out, which is `frame` and has failed, if nobody else than the cache and the
    /// caller refers to it; whether it was dirty, of which fsync(2) then tells. `None`: it stays.
    pub(crate) fn forget_failed(&self, idx: u64, frame: &Frame) -> Option<bool> {
        let Source::Pages(source) = &self.source else { return None };
        let gone = {
            let mut pages = self.pages.lock();
            // Nobody can take a reference without the lock.
            pages.frames.get(idx).filter(|now| now.pfn() == frame.pfn() && now.ref_count() == 2)?;
            pages.frames.remove(idx)
        };
        drop(gone);
        self.count_cached(-1);
        let was_dirty = Self::forget_dirty(source, frame);
        if was_dirty {
            self.forget_write(source, idx);
            source.error.set(abi::Errno::EIO);
        }
        Some(was_dirty)
    }
}

/// A mapping without I/O ([`Mapping::freeze`]).
pub struct Frozen<'a> {
    mapping: &'a Mapping,
    _locks: Option<(MutexGuard<'a, ()>, MutexGuard<'a, Option<UnderWay>>)>,
}

impl Frozen<'_> {
    /// As [`Mapping::truncate`].
    pub fn truncate(&self, size: u64) {
        self.mapping.truncate_frozen(size);
    }

    /// As [`Mapping::punch`].
    pub fn punch(&self, range: Range<u64>) {
        self.mapping.punch_frozen(range);
    }

    /// Drops the pages that have bytes of `range`, but not what stores through a mapping made dirty; `false`: such a page
    /// stays. For files of a file system. May sleep.
    #[must_use]
    pub fn drop_unless_dirty(&self, range: Range<u64>) -> bool {
        let Source::Pages(pages) = &self.mapping.source else { return true };
        let end = range.end.div_ceil(PAGE_SIZE as u64);
        self.mapping.drop_clean_frozen(pages, range.start >> PAGE_SHIFT..end)
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
