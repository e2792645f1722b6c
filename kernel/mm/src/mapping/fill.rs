//! Reading missing pages, and the ones behind them before they are asked for.
//!
//! A miss right behind the last read doubles the window; any other miss reads a few pages. From the second window on the next
//! one is on its way while the pages of this one are used, where the file system can do that; the device has it before it is
//! done with this one:
//!
//! ```text
//!   miss at page 8          read 8..24, begin 24..56
//!   miss at page 24         begin 56..120, wait for 24..56, put them in
//! ```
//! What is being read is not in the cache, and goes in only if none of its pages was written to the device since: what came
//! into the cache meanwhile, was changed, written back and dropped, would be undone by it (`Read`).
//!
//! The frames of a window lie side by side where free memory does, so that the device has few addresses for many pages.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};

use abi::{Errno, Result};
use hal::frame::Frame;
use hal::sync::SpinLock;
use hal::{PAGE_SHIFT, PAGE_SIZE};

use super::{Mapping, Pages, Reading, Source, page_flags};
use crate::oom;

/// Pages read at a miss that continues nothing, if the source takes as many.
const FIRST_AHEAD: u32 = 8;
/// Pages that readahead(2) reads at once at least.
const FORCED_AHEAD: usize = 32;

/// Where the last read ended. Guarded by `filling`; atomics, as there is no other way to change it there.
#[derive(Debug)]
pub(super) struct Ahead {
    next: AtomicU64,
    len: AtomicU32,
    /// Something is on its way.
    is_under_way: AtomicBool,
    /// Reclaim has met what is on its way.
    was_met: AtomicBool,
    /// What is being read. Taken below `pages`.
    reads: SpinLock<[Read; NR_READS]>,
}

/// Reads at a time: two windows on their way, and one that somebody waits for.
const NR_READS: usize = 3;
/// The place in [`Ahead::reads`] of what is waited for; the others are those of windows in turn.
const NOW: usize = 0;

/// Pages that are being read, or were.
///
/// ```text
///   fill                               write(2), write-back, reclaim
///     (A) note the pages
///     (B) find them missing
///         read from the device           (C) put a page in, change it
///                                        (D) note that it is written, write it
///                                        (E) take it out
///     (F) look whether one was written, put them in
/// ```
/// B, C, E and F hold `pages`. If F is to find the page missing, E is before F, so D is; if B did, C is after B, and D after A.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Read {
    pages: Range<u64>,
    /// One of them was written to the device since.
    is_stale: bool,
}

/// Pages that are being read ahead.
pub(super) struct UnderWay {
    first: u64,
    frames: Vec<Frame>,
    reading: Box<dyn Reading>,
    /// Its place in [`Ahead::reads`].
    place: usize,
}

impl UnderWay {
    fn has(&self, idx: u64) -> bool {
        idx.checked_sub(self.first).is_some_and(|nth| nth < self.frames.len() as u64)
    }
}

impl core::fmt::Debug for UnderWay {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "UnderWay({}+{})", self.first, self.frames.len())
    }
}

impl Ahead {
    pub(super) const fn new() -> Self {
        let reads = [const { Read { pages: 0..0, is_stale: false } }; NR_READS];
        Self {
            next: AtomicU64::new(0),
            len: AtomicU32::new(FIRST_AHEAD),
            is_under_way: AtomicBool::new(false),
            was_met: AtomicBool::new(false),
            reads: SpinLock::new("mm.mapping.reads", reads),
        }
    }

    /// `pages` are about to be looked for, and read when they are missing.
    fn note_read(&self, place: usize, pages: Range<u64>) {
        if let Some(read) = self.reads.lock().get_mut(place) {
            *read = Read { pages, is_stale: false };
        }
    }

    /// Only the first `nr` of the pages at `place` are read: the others do not matter.
    fn note_len(&self, place: usize, nr: usize) {
        if let Some(read) = self.reads.lock().get_mut(place) {
            read.pages.end = read.pages.start + nr as u64;
        }
    }

    /// `pages` are about to be written to the device.
    pub(super) fn note_write(&self, pages: Range<u64>) {
        for read in self.reads.lock().iter_mut() {
            read.is_stale |= pages.start < read.pages.end && read.pages.start < pages.end;
        }
    }

    /// A window could not be read, for one of its pages: the next begin small.
    fn note_failure(&self) {
        self.len.store(0, Relaxed);
    }

    /// Whether what was read may go into the cache, which is locked.
    fn is_fresh(&self, place: usize) -> bool {
        self.reads.lock().get(place).is_some_and(|read| !read.is_stale)
    }

    /// Forgets what is on its way.
    pub(super) fn forget(&self, under_way: &mut Option<UnderWay>) {
        *under_way = None;
        self.is_under_way.store(false, Relaxed);
    }

    /// Forgets what is on its way if it has pages of `range`: how many that were.
    pub(super) fn forget_in(&self, range: &Range<u64>, under_way: &mut Option<UnderWay>) -> usize {
        let Some(UnderWay { first, frames, .. }) = under_way else { return 0 };
        let nr = frames.len();
        if *first >= range.end || *first + nr as u64 <= range.start {
            return 0;
        }
        self.forget(under_way);
        nr
    }

    /// How many pages to read at a miss of `idx`, at least one and at most `max`.
    fn window(&self, idx: u64, max: usize) -> usize {
        let len = if idx == self.next.load(Relaxed) && idx != 0 {
            self.len.load(Relaxed).saturating_mul(2)
        } else {
            FIRST_AHEAD
        };
        let len = len.min(u32::try_from(max).unwrap_or(u32::MAX)).max(1);
        self.len.store(len, Relaxed);
        len as usize
    }
}

impl Mapping {
    /// Page `idx` of a file system's file. May sleep.
    pub(super) fn fill(&self, pages: &Pages, idx: u64) -> Result<Frame> {
        let mut filling = pages.filling.lock();
        if let Some(frame) = self.get(idx) {
            return Ok(frame);
        }
        if let Some(under_way) = filling.take() {
            pages.ahead.is_under_way.store(false, Relaxed);
            // If it is not among them, others are read elsewhere now: nobody waits.
            if under_way.has(idx) {
                // readahead(2) may have read pages before its end since.
                pages.ahead.next.fetch_max(under_way.first + under_way.frames.len() as u64, Relaxed);
                self.begin_next(pages, &mut filling, NOW + 1 + under_way.place % (NR_READS - 1));
                if let Some(frame) = self.put_in(pages, under_way, idx)? {
                    return Ok(frame);
                }
            }
        }
        let end = self.size().div_ceil(PAGE_SIZE as u64);
        if idx >= end {
            let frame = oom::alloc_zeroed()?;
            return self.insert(idx, frame);
        }
        let window = pages.ahead.window(idx, pages.source.max_ahead());
        let wanted = window.min(usize::try_from(end - idx).unwrap_or(usize::MAX));
        let frame = self.read_run(pages, idx, wanted)?;
        if wanted > FIRST_AHEAD as usize && pages.ahead.len.load(Relaxed) > FIRST_AHEAD {
            self.begin_next(pages, &mut filling, NOW + 1);
        }
        Ok(frame)
    }

    /// Waits for pages that are being read ahead, and puts them in; gives page `idx` if it came.
    fn put_in(&self, pages: &Pages, under_way: UnderWay, idx: u64) -> Result<Option<Frame>> {
        let UnderWay { first, frames, reading, place } = under_way;
        match reading.wait() {
            Ok(()) => self.insert_read(pages, place, first, frames, idx),
            Err(_) => {
                pages.ahead.note_failure();
                Ok(None)
            }
        }
    }

    /// Puts in what was read, from page `first` on, if none of these pages was written meanwhile; gives page `idx` if it is
    /// there then. `ENOMEM`.
    fn insert_read(
        &self,
        pages: &Pages,
        place: usize,
        first: u64,
        frames: Vec<Frame>,
        idx: u64,
    ) -> Result<Option<Frame>> {
        for (at, frame) in (first..).zip(&frames) {
            let meta = frame.meta();
            meta.flags.store(page_flags::FILE, Relaxed);
            meta.index.store(at, Relaxed);
        }
        let mut index = self.pages.lock();
        let is_fresh = pages.ahead.is_fresh(place);
        let inserted = if is_fresh { index.frames.insert_run(first, frames, drop) } else { 0 };
        let found = index.frames.get(idx).cloned();
        drop(index);
        self.count_cached(inserted as i64);
        if is_fresh && found.is_none() { Err(Errno::ENOMEM) } else { Ok(found) }
    }

    /// How many of the `wanted` pages from `first` on are missing, up to the first that is not.
    fn nr_missing(&self, first: u64, wanted: usize) -> usize {
        let mut end = first.saturating_add(wanted as u64);
        self.pages.lock().frames.for_each(first..end, |idx, _| {
            end = idx;
            false
        });
        (end - first) as usize
    }

    /// Begins to read the window behind the last one, if none is on its way; `filling` is held. Without memory to spare, or a
    /// device that can, nothing.
    fn begin_next(&self, pages: &Pages, filling: &mut Option<UnderWay>, place: usize) {
        if filling.is_some() || !pages.source.can_begin() {
            return;
        }
        let first = pages.ahead.next.load(Relaxed);
        let end = self.size().div_ceil(PAGE_SIZE as u64);
        let window = pages.ahead.window(first, pages.source.max_ahead());
        let wanted = (window as u64).min(end.saturating_sub(first));
        if wanted == 0 {
            return;
        }
        pages.ahead.note_read(place, first..first + wanted);
        let wanted = self.nr_missing(first, wanted as usize);
        let mut frames = Vec::new();
        if frames.try_reserve_exact(wanted).is_err() {
            return;
        }
        Frame::alloc_user_many(wanted, |frame| frames.push(frame));
        if frames.is_empty() {
            return;
        }
        pages.ahead.note_len(place, frames.len());
        if let Ok(Some(reading)) = pages.source.begin_read(first, &frames) {
            pages.ahead.next.store(first + frames.len() as u64, Relaxed);
            pages.ahead.was_met.store(false, Relaxed);
            pages.ahead.is_under_way.store(true, Relaxed);
            *filling = Some(UnderWay { first, frames, reading, place });
        }
    }

    /// Gives up what is being read ahead: whoever read the file has closed it. Does not sleep.
    pub fn stop_ahead(&self) {
        self.drop_ahead(0..u64::MAX);
    }

    /// Gives up what is being read ahead if it has pages of `range`, and nobody fills pages just now: how many pages that
    /// were. Does not sleep.
    pub(super) fn drop_ahead(&self, range: Range<u64>) -> usize {
        let Source::Pages(pages) = &self.source else { return 0 };
        if !pages.ahead.is_under_way.load(Relaxed) {
            return 0;
        }
        let Some(mut filling) = pages.filling.try_lock() else { return 0 };
        pages.ahead.forget_in(&range, &mut filling)
    }

    /// As [`drop_ahead`](Self::drop_ahead) for reclaim: only when it meets the same pages again, so that a file that is being
    /// read keeps its own.
    pub(super) fn age_ahead(&self, pages: &Pages) -> usize {
        if pages.ahead.was_met.swap(true, Relaxed) { self.drop_ahead(0..u64::MAX) } else { 0 }
    }

    /// Reads the missing pages from `first` on, at most `wanted`; `filling` is held. Gives the first.
    fn read_run(&self, pages: &Pages, first: u64, mut wanted: usize) -> Result<Frame> {
        loop {
            wanted = wanted.max(1);
            pages.ahead.note_read(NOW, first..first + wanted as u64);
            // Reading ahead takes no memory from anyone.
            let mut missing = self.nr_missing(first, wanted).max(1);
            let mut frames = Vec::new();
            if frames.try_reserve_exact(missing).is_err() {
                missing = 1;
                frames.try_reserve_exact(1).map_err(|_| Errno::ENOMEM)?;
            }
            Frame::alloc_user_many(missing, |frame| frames.push(frame));
            if frames.is_empty() {
                frames.push(oom::alloc()?);
                // That may have made room for others.
                Frame::alloc_user_many((missing - 1).min(FIRST_AHEAD as usize), |frame| frames.push(frame));
            }
            pages.ahead.note_len(NOW, frames.len());
            if pages.source.read_pages(first, &frames).is_err() {
                // Pages ahead may be what failed.
                frames.truncate(1);
                pages.ahead.note_failure();
                pages.source.read_pages(first, &frames)?;
            }
            pages.ahead.next.store(first + frames.len() as u64, Relaxed);
            if let Some(frame) = self.insert_read(pages, NOW, first, frames, first)? {
                return Ok(frame);
            }
            // It came, was written and went meanwhile, or one of its neighbours did.
            wanted = 1;
        }
    }

    /// Reads the missing pages of `range` (bytes) of a file system's file (readahead(2)). May sleep.
    pub fn read_ahead(&self, range: core::ops::Range<u64>) -> Result<()> {
        let Source::Pages(pages) = &self.source else { return Ok(()) };
        let end = range.end.min(self.size()).div_ceil(PAGE_SIZE as u64);
        let mut idx = range.start >> PAGE_SHIFT;
        while idx < end {
            let cached =
                self.pages.lock().frames.run_from(idx).iter().take_while(|page| page.is_some()).count();
            if cached > 0 {
                idx += cached as u64;
                continue;
            }
            let _filling = pages.filling.lock();
            // The file may be shorter by now.
            let end = end.min(self.size().div_ceil(PAGE_SIZE as u64));
            let wanted = usize::try_from(end.saturating_sub(idx)).unwrap_or(usize::MAX);
            let wanted = wanted.min(pages.source.max_ahead().max(FORCED_AHEAD));
            if self.get(idx).is_none() && idx < end {
                self.read_run(pages, idx, wanted)?;
            }
            idx += 1;
        }
        Ok(())
    }

    /// Puts `frame` in as page `idx` of a file system's file, unless there is one: then `false`.
    pub(super) fn insert_new(&self, idx: u64, frame: &Frame) -> Result<bool> {
        let meta = frame.meta();
        meta.flags.store(page_flags::FILE, Relaxed);
        meta.index.store(idx, Relaxed);
        match self.pages.lock().frames.insert(idx, frame.clone()) {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(false),
            Err(_) => return Err(Errno::ENOMEM),
        }
        self.count_cached(1);
        Ok(true)
    }
}
