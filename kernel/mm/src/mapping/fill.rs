//! Reading missing pages, and the ones behind them before they are asked for.
//!
//! A miss right behind the last read doubles the window; any other miss reads a few pages. From the second window on the next
//! one is on its way while the pages of this one are used, where the file system can do that:
//!
//! ```text
//!   miss at page 8          read 8..24, begin 24..56
//!   miss at page 24         wait for 24..56, put them in, begin 56..120
//! ```
//! What is on its way is not in the cache, and goes in only if nothing was written to the device since: what came into the
//! cache meanwhile, was changed, written back and dropped, would be undone by it.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};

use abi::{Errno, Result};
use arrayvec::ArrayVec;
use hal::frame::Frame;
use hal::{PAGE_SHIFT, PAGE_SIZE};

use super::{Mapping, Pages, Reading, Source, page_flags};
use crate::oom;

/// Most pages read at once.
const MAX_AHEAD: usize = 128;
/// Pages read at a miss that continues nothing.
const FIRST_AHEAD: u32 = 8;

/// Where the last read ended. Guarded by `filling`; atomics, as there is no other way to change it there.
#[derive(Debug)]
pub(super) struct Ahead {
    next: AtomicU64,
    len: AtomicU32,
    /// Something is on its way.
    is_under_way: AtomicBool,
    /// Reclaim has met what is on its way.
    was_met: AtomicBool,
    /// Times that pages were written to the device.
    nr_writes: AtomicU64,
}

/// Pages that are being read ahead.
pub(super) struct UnderWay {
    first: u64,
    frames: Vec<Frame>,
    reading: Box<dyn Reading>,
    /// [`Ahead::nr_writes`] before its pages were found missing.
    nr_writes: u64,
}

impl core::fmt::Debug for UnderWay {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "UnderWay({}+{})", self.first, self.frames.len())
    }
}

impl Ahead {
    pub(super) const fn new() -> Self {
        Self {
            next: AtomicU64::new(0),
            len: AtomicU32::new(FIRST_AHEAD),
            is_under_way: AtomicBool::new(false),
            was_met: AtomicBool::new(false),
            nr_writes: AtomicU64::new(0),
        }
    }

    /// Pages are about to be written to the device.
    pub(super) fn note_write(&self) {
        self.nr_writes.fetch_add(1, SeqCst);
    }

    /// Forgets what is on its way.
    pub(super) fn forget(&self, under_way: &mut Option<UnderWay>) {
        *under_way = None;
        self.is_under_way.store(false, Relaxed);
    }

    /// How many pages to read at a miss of `idx`.
    fn window(&self, idx: u64) -> usize {
        let len = if idx == self.next.load(Relaxed) && idx != 0 {
            (self.len.load(Relaxed) * 2).min(MAX_AHEAD as u32)
        } else {
            FIRST_AHEAD
        };
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
            if let Some(frame) = self.put_in(pages, under_way, idx)? {
                self.begin_next(pages, &mut filling);
                return Ok(frame);
            }
        }
        let end = self.size().div_ceil(PAGE_SIZE as u64);
        if idx >= end {
            let frame = oom::alloc_zeroed()?;
            return self.insert(idx, frame);
        }
        let wanted = pages.ahead.window(idx).min(usize::try_from(end - idx).unwrap_or(usize::MAX));
        let goes_on = wanted > FIRST_AHEAD as usize;
        let frame = self.read_run(pages, idx, wanted)?;
        if goes_on {
            self.begin_next(pages, &mut filling);
        }
        Ok(frame)
    }

    /// Waits for pages that are being read ahead, and puts them in; gives page `idx` if it is one of them and came. Otherwise it
    /// does not wait: others are read elsewhere now.
    fn put_in(&self, pages: &Pages, under_way: UnderWay, idx: u64) -> Result<Option<Frame>> {
        let UnderWay { first, frames, reading, nr_writes } = under_way;
        let Some(nth) = idx.checked_sub(first).filter(|nth| *nth < frames.len() as u64) else {
            return Ok(None);
        };
        if reading.wait().is_err() || pages.ahead.nr_writes.load(SeqCst) != nr_writes {
            return Ok(None);
        }
        let mut found = None;
        for (at, frame) in (0..).zip(frames) {
            let kept = self.insert(first + at, frame);
            if at == nth {
                found = Some(kept?);
            }
        }
        Ok(found)
    }

    /// Begins to read the window behind the last one; `filling` is held. Without memory to spare, or a device that can, nothing.
    fn begin_next(&self, pages: &Pages, filling: &mut Option<UnderWay>) {
        let first = pages.ahead.next.load(Relaxed);
        let end = self.size().div_ceil(PAGE_SIZE as u64);
        let wanted = (pages.ahead.window(first) as u64).min(end.saturating_sub(first));
        // Before the look for what is missing: what comes into the cache after it and is written, counts.
        let nr_writes = pages.ahead.nr_writes.load(SeqCst);
        let mut frames = Vec::new();
        if frames.try_reserve_exact(wanted as usize).is_err() {
            return;
        }
        for idx in first..first + wanted {
            let is_missing = self.get(idx).is_none();
            let Some(frame) = is_missing.then(Frame::alloc_user).flatten() else { break };
            frames.push(frame);
        }
        if frames.is_empty() {
            return;
        }
        if let Ok(Some(reading)) = pages.source.begin_read(first, &frames) {
            pages.ahead.next.store(first + frames.len() as u64, Relaxed);
            pages.ahead.was_met.store(false, Relaxed);
            pages.ahead.is_under_way.store(true, Relaxed);
            *filling = Some(UnderWay { first, frames, reading, nr_writes });
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
        let Some(UnderWay { first, frames, .. }) = &*filling else { return 0 };
        let nr = frames.len();
        if *first >= range.end || first + nr as u64 <= range.start {
            return 0;
        }
        pages.ahead.forget(&mut filling);
        nr
    }

    /// As [`drop_ahead`](Self::drop_ahead) for reclaim: only when it meets the same pages again, so that a file that is being
    /// read keeps its own.
    pub(super) fn age_ahead(&self, pages: &Pages) -> usize {
        if pages.ahead.was_met.swap(true, Relaxed) { self.drop_ahead(0..u64::MAX) } else { 0 }
    }

    /// Reads the missing pages from `first` on, at most `wanted`; `filling` is held. Gives the first.
    fn read_run(&self, pages: &Pages, first: u64, wanted: usize) -> Result<Frame> {
        let mut frames = ArrayVec::<Frame, MAX_AHEAD>::new();
        frames.push(oom::alloc()?);
        for idx in (first..).take(wanted.min(MAX_AHEAD)).skip(1) {
            // Reading ahead takes no memory from anyone.
            let Some(frame) =
                Some(idx).filter(|&idx| self.get(idx).is_none()).and_then(|_| Frame::alloc_user())
            else {
                break;
            };
            frames.push(frame);
        }
        if pages.source.read_pages(first, &frames).is_err() {
            // Pages ahead may be what failed.
            frames.truncate(1);
            pages.source.read_pages(first, &frames)?;
        }
        pages.ahead.next.store(first + frames.len() as u64, Relaxed);
        let mut found = None;
        for (idx, frame) in (first..).zip(frames) {
            let kept = self.insert(idx, frame);
            if found.is_none() {
                found = Some(kept?);
            }
        }
        found.ok_or(Errno::EIO)
    }

    /// Reads the missing pages of `range` (bytes) of a file system's file (readahead(2)). May sleep.
    pub fn read_ahead(&self, range: core::ops::Range<u64>) -> Result<()> {
        let Source::Pages(pages) = &self.source else { return Ok(()) };
        let end = range.end.min(self.size()).div_ceil(PAGE_SIZE as u64);
        let mut idx = range.start >> PAGE_SHIFT;
        while idx < end {
            if self.get(idx).is_none() {
                let _filling = pages.filling.lock();
                let wanted = usize::try_from(end - idx).unwrap_or(usize::MAX);
                if self.get(idx).is_none() && idx < self.size().div_ceil(PAGE_SIZE as u64) {
                    self.read_run(pages, idx, wanted)?;
                }
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
