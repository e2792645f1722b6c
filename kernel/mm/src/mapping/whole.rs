//! Huge pages of shared memory, on the side of the page cache.
//!
//! A huge page is 512 pages of the cache, each with an entry of its own in `Index::frames`. What makes it one that page tables
//! can map by a single entry is a reference to the whole in `Index::wholes`:
//!
//! ```text
//!   wholes[n]: HugeFrame      while all of 512 n .. 512 n + 511 are in `frames` and are its parts
//!   frames[512 n + i]: its part i
//! ```
//!
//! What takes a part out (truncation, a hole, swap) drops the reference to the whole under the same hold of the lock. So a page fault that finds the whole finds all parts (M2 of [`super`]); its parts go on as small pages, and
//! the entries of page tables split when a part is taken out of them.
//!
//! A part counts one reference more than another page: that of the whole.

use core::ops::Range;
use core::sync::atomic::Ordering::{Acquire, Relaxed};

use abi::{Errno, Result};
use arrayvec::ArrayVec;
use hal::frame::{Frame, HUGE_FRAMES, HUGE_ORDER, HugeFrame};

use super::truncate::Private;
use super::{Index, Mapping, Source, page_flags};
use crate::counters::Counter;
use crate::registry;

/// Huge pages of shared memory (`ShmemHugePages`).
pub(crate) static NR_WHOLE: Counter = Counter::new();

/// Pages of a huge one.
const PAGES: u64 = HUGE_FRAMES as u64;
/// Attempts to find a page that nobody uses.
const TRIES: usize = 16;

/// References to a cached page that are not those of page tables and other users.
#[inline]
pub(crate) fn own_refs(frame: &Frame) -> u32 {
    1 + u32::from(frame.is_in_huge())
}

impl Index {
    /// Forgets that page `idx` is a part of a huge one; `false`: page tables show the whole.
    pub(super) fn split_idle(&mut self, idx: u64) -> bool {
        match self.wholes.get(idx >> HUGE_ORDER) {
            Some(whole) if whole.whole_count() > 1 => false,
            Some(_) => {
                self.split(idx);
                true
            }
            None => true,
        }
    }

    fn split(&mut self, idx: u64) {
        if self.wholes.remove(idx >> HUGE_ORDER).is_some() {
            NR_WHOLE.add(-1);
        }
    }

    /// Takes out the wholes that have a part in `range`, of which at most a few dozen pages were there.
    pub(super) fn take_wholes(&mut self, range: &Range<u64>) -> ArrayVec<HugeFrame, 2> {
        let mut taken = ArrayVec::new();
        // Of a whole all pages were there: more than two would have had more parts.
        let numbers = range.start >> HUGE_ORDER..range.end.div_ceil(PAGES);
        self.wholes.remove_range(numbers, taken.capacity(), |_, whole| taken.push(whole));
        NR_WHOLE.add(-(taken.len() as i64));
        taken
    }

    /// Whether the pages from `first` on are the parts of `huge`.
    fn holds_parts(&self, first: u64, huge: &HugeFrame) -> bool {
        (0..PAGES).all(|i| self.frames.get(first + i).is_some_and(|frame| frame.pfn() == huge.pfn() + i))
    }
}

impl Mapping {
    /// The huge page from page `first` on, a multiple of 512.
    #[inline]
    pub(crate) fn whole(&self, first: u64) -> Option<HugeFrame> {
        if NR_WHOLE.get() == 0 {
            return None;
        }
        self.pages.lock().wholes.get(first >> HUGE_ORDER).cloned()
    }

    /// As [`with_page`](Self::with_page) for a page that is no part of a huge one: if it was, that is split first. A huge page
    /// that page tables show stays: the answer by default.
    pub(crate) fn with_small_page<R: Default>(&self, idx: u64, edit: impl FnOnce(&mut Frame) -> R) -> R {
        let mut pages = self.pages.lock();
        let slot = if pages.split_idle(idx) { pages.frames.get_mut(idx) } else { None };
        slot.map(edit).unwrap_or_default()
    }

    /// Whether one of the 512 pages from `first` on is a hole.
    pub(crate) fn has_hole_in_whole(&self, first: u64) -> bool {
        let pages = self.pages.lock();
        (first..first + PAGES).any(|idx| pages.frames.get(idx).is_none() && pages.swapped.get(idx).is_none())
    }

    /// Puts the parts of `huge`, which are zeroes, in as the pages from `first` on, if all of these are holes within the
    /// file. `EEXIST`: they are not. `ENOSPC`: the limit is reached. `ENOMEM`: no memory for the index.
    pub(crate) fn insert_whole(&self, first: u64, huge: HugeFrame) -> Result<()> {
        self.insert_whole_if(first, huge, || self.has_page(first + PAGES - 1))
    }

    /// As [`insert_whole`](Self::insert_whole) with what has been written to the pages, also behind the file's end: the caller
    /// holds the inode's lock, and makes the file reach as far.
    pub(super) fn append_whole(&self, first: u64, huge: HugeFrame) -> Result<()> {
        self.insert_whole_if(first, huge, || true)
    }

    fn insert_whole_if(&self, first: u64, huge: HugeFrame, may: impl FnOnce() -> bool) -> Result<()> {
        let Source::Shmem(shmem) = &self.source else { return Err(Errno::EINVAL) };
        shmem.charge(PAGES)?;
        let result = self.enter_whole(first, huge, may);
        match result {
            Ok(()) => self.count_cached(PAGES as i64),
            Err(_) => self.uncharge(PAGES),
        }
        result
    }

    fn enter_whole(&self, first: u64, huge: HugeFrame, may: impl FnOnce() -> bool) -> Result<()> {
        let mut pages = self.pages.lock();
        let mut is_empty = may();
        pages.frames.for_each(first..first + PAGES, |_, _| {
            is_empty = false;
            false
        });
        pages.swapped.for_each(first..first + PAGES, |_, _| {
            is_empty = false;
            false
        });
        if !is_empty {
            return Err(Errno::EEXIST);
        }
        for i in 0..PAGES {
            let frame = huge.frame(i as usize);
            frame.meta().index.store(first + i, Relaxed);
            if pages.frames.insert(first + i, frame).is_err() {
                (0..i).for_each(|done| drop(pages.frames.remove(first + done)));
                return Err(Errno::ENOMEM);
            }
        }
        if pages.wholes.insert(first >> HUGE_ORDER, huge).is_err() {
            (0..PAGES).for_each(|done| drop(pages.frames.remove(first + done)));
            return Err(Errno::ENOMEM);
        }
        NR_WHOLE.add(1);
        Ok(())
    }

    /// Has the parts of `huge`, which are zeroes, take the place of the pages from `first` on, with their contents; holes
    /// become pages. Sleeps; holds no lock for longer than the copy of one page.
    ///
    /// `EINVAL`: the file ends before, or there are only holes. `EAGAIN`: somebody uses a page. `ENOSPC`: the limit is
    /// reached. `ENOMEM` and others: as of [`get_or_read`](Self::get_or_read). The pages that were done by then stay done.
    pub(crate) fn join(&self, first: u64, huge: HugeFrame) -> Result<()> {
        let end = first + PAGES;
        if !self.has_page(end - 1) || self.next_page(first).is_none_or(|idx| idx >= end) {
            return Err(Errno::EINVAL);
        }
        // Those who have them mapped find the new ones.
        registry::unmap_everywhere(self, first..end, Private::Keep);
        for idx in first..end {
            self.replace(idx, &huge.frame((idx - first) as usize))?;
        }
        let mut pages = self.pages.lock();
        if !self.has_page(end - 1) || !pages.holds_parts(first, &huge) {
            return Err(Errno::EAGAIN);
        }
        pages.wholes.insert(first >> HUGE_ORDER, huge).map_err(|_| Errno::ENOMEM)?;
        NR_WHOLE.add(1);
        Ok(())
    }

    /// Puts `part` in the place of page `idx`.
    fn replace(&self, idx: u64, part: &Frame) -> Result<()> {
        for _ in 0..TRIES {
            if self.get_or_read(idx)?.is_none() {
                match self.insert_within(idx, part.clone()) {
                    Err(Errno::EAGAIN) => continue,
                    Err(error) => return Err(error),
                    Ok(now) if now.pfn() == part.pfn() => return Ok(()),
                    Ok(_) => {}
                }
            }
            if self.replace_idle(idx, part) {
                return Ok(());
            }
            registry::unmap_everywhere(self, idx..idx + 1, Private::Keep);
            sched::yield_now();
        }
        Err(Errno::EAGAIN)
    }

    /// As [`replace`](Self::replace) for a page that is there, unless somebody refers to it: then `false`.
    fn replace_idle(&self, idx: u64, part: &Frame) -> bool {
        let mut pages = self.pages.lock();
        // No reference can be taken without the lock, so nobody changes the page.
        let Some(old) = pages.frames.get_mut(idx).filter(|frame| frame.ref_count() == 1) else {
            return false;
        };
        part.copy_from(old);
        let kept = page_flags::USED | page_flags::ACTIVE;
        let flags = page_flags::SHMEM | old.meta().flags.load(Acquire) & kept;
        part.meta().flags.store(flags, Relaxed);
        part.meta().index.store(idx, Relaxed);
        let gone = core::mem::replace(old, part.clone());
        drop(pages);
        drop(gone);
        true
    }
}
