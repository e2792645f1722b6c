//! Reading missing pages, and the ones behind them before they are asked for.
//!
//! A miss right behind the last read doubles the window; any other miss reads a few pages.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::{Errno, Result};
use arrayvec::ArrayVec;
use hal::frame::Frame;
use hal::{PAGE_SHIFT, PAGE_SIZE};

use super::{Mapping, Pages, Source, page_flags};
use crate::oom;

/// Most pages read at once.
const MAX_AHEAD: usize = 64;
/// Pages read at a miss that continues nothing.
const FIRST_AHEAD: u32 = 8;

/// Where the last read ended. Guarded by `filling`; atomics, as there is no other way to change it there.
#[derive(Debug)]
pub(super) struct Ahead {
    next: AtomicU64,
    len: AtomicU32,
}

impl Ahead {
    pub(super) const fn new() -> Self {
        Self { next: AtomicU64::new(0), len: AtomicU32::new(FIRST_AHEAD) }
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
        let _filling = pages.filling.lock();
        if let Some(frame) = self.get(idx) {
            return Ok(frame);
        }
        let end = self.size().div_ceil(PAGE_SIZE as u64);
        if idx >= end {
            let frame = oom::alloc_zeroed()?;
            return self.insert(idx, frame);
        }
        let wanted = pages.ahead.window(idx).min(usize::try_from(end - idx).unwrap_or(usize::MAX));
        self.read_run(pages, idx, wanted)
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
