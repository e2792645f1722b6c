//! Writing dirty pages back, by age, by ratio and on demand; and giving clean pages back.
//!
//! A kernel thread ([`start`]) wakes every `vm.dirty_writeback_centisecs` and writes files whose oldest dirty page is
//! older than `vm.dirty_expire_centisecs`, or all of them while more than `vm.dirty_background_ratio` percent of
//! memory is dirty (or `vm.dirty_background_bytes`). Beyond `vm.dirty_ratio` (or `vm.dirty_bytes`) writers write their own pages before they go on.
//!
//! A page is marked clean before it is written, and taken out of shared mappings that may write, so a store that
//! comes later faults and makes it dirty again:
//!
//! ```text
//!   write-back                       store through a mapping
//!     DIRTY off
//!     unmap                            fault: DIRTY on, map writable
//!     write to the device              store
//! ```
//!
//! A write error makes the page clean all the same, is noted in the mapping ([`ErrSeq`](super::ErrSeq)), and is told
//! to every open file by its next fsync(2).
//!
//! Locks: `writing` of the mapping over the whole of it; `ALL` is a leaf.

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use abi::{Errno, Result};
use arrayvec::ArrayVec;
use hal::frame::Frame;
use hal::{PAGE_SHIFT, PAGE_SIZE};
use sched::{Interruptible, WaitQueue};

use super::known::Known;
use super::truncate::Private;
use super::{Mapping, Pages, Source, page_flags};
use crate::counters;
use crate::registry;

/// `vm.dirty_background_ratio`, in percent.
pub static BACKGROUND_RATIO: AtomicU32 = AtomicU32::new(10);
/// `vm.dirty_ratio`, in percent.
pub static RATIO: AtomicU32 = AtomicU32::new(20);
/// `vm.dirty_background_bytes`: counts instead of the ratio unless it is 0.
pub static BACKGROUND_BYTES: AtomicU64 = AtomicU64::new(0);
/// `vm.dirty_bytes`: counts instead of the ratio unless it is 0.
pub static BYTES: AtomicU64 = AtomicU64::new(0);
/// `vm.dirty_expire_centisecs`.
pub static EXPIRE_CENTISECS: AtomicU32 = AtomicU32::new(3000);
/// `vm.dirty_writeback_centisecs`; 0 stops periodic write-back.
pub static INTERVAL_CENTISECS: AtomicU32 = AtomicU32::new(500);

/// Most pages written at once.
const MAX_RUN: usize = 256;
const NS_PER_CENTISEC: u64 = 10_000_000;

/// All mappings with a file system behind.
static ALL: Known = Known::new("mm.writeback.all");
/// Dirty pages beyond which writers write; refreshed by the thread.
static LIMIT: AtomicU64 = AtomicU64::new(u64::MAX);
static KICKED: AtomicU32 = AtomicU32::new(0);
/// Memory is short.
static PRESSED: AtomicBool = AtomicBool::new(false);
static WAKE: WaitQueue = WaitQueue::new();

/// Makes `mapping` known to write-back and reclaim. Without memory for that it is written on demand only.
pub(super) fn register(mapping: &Arc<Mapping>) {
    ALL.add(mapping);
}

/// Calls `visit` for each mapping with a file system behind that lives.
pub(crate) fn for_each(visit: impl FnMut(&Arc<Mapping>)) {
    ALL.for_each(visit);
}

/// Pages that may be dirty: so many bytes, or without those so many percent of what is free or cached.
fn share(bytes: &AtomicU64, percent: &AtomicU32) -> u64 {
    match bytes.load(Ordering::Relaxed) {
        0 => share_of_memory(percent.load(Ordering::Relaxed)),
        bytes => bytes >> PAGE_SHIFT,
    }
}

fn share_of_memory(percent: u32) -> u64 {
    let files = counters::CACHED.get().saturating_sub(counters::SHMEM.get());
    let pages = hal::frame::stats().free as u64 + files;
    pages * u64::from(percent.min(100)) / 100
}

/// Starts the thread that writes back.
pub fn start() -> Result<()> {
    refresh_limit();
    sched::spawn("kflush", flusher).map(drop).map_err(|_| Errno::ENOMEM)
}

/// Has writers obey what was set; by itself that happens each time the thread wakes.
pub fn refresh_limit() {
    LIMIT.store(share(&BYTES, &RATIO).max(1), Ordering::Relaxed);
}

fn flusher() {
    loop {
        let interval = u64::from(INTERVAL_CENTISECS.load(Ordering::Relaxed));
        let wait_ns = if interval == 0 { 100 } else { interval } * NS_PER_CENTISEC;
        let kicked = || (KICKED.swap(0, Ordering::AcqRel) != 0).then_some(());
        let is_kicked =
            WAKE.wait_deadline(kicked, Some(hal::time::now_ns() + wait_ns), Interruptible::No).is_ok();
        refresh_limit();
        if interval > 0 || is_kicked {
            write_old();
        }
    }
}

/// Writes what is old, or everything while too much is dirty.
fn write_old() {
    let pressed = PRESSED.swap(false, Ordering::Relaxed);
    let background = if pressed { 0 } else { share(&BACKGROUND_BYTES, &BACKGROUND_RATIO) };
    let expire = u64::from(EXPIRE_CENTISECS.load(Ordering::Relaxed)) * NS_PER_CENTISEC;
    ALL.for_each(|mapping| {
        let Source::Pages(pages) = &mapping.source else { return };
        let since = pages.dirty_since.load(Ordering::Relaxed);
        let is_old = since != 0 && hal::time::now_ns().saturating_sub(since) >= expire;
        if since != 0 && (is_old || counters::DIRTY.get() > background) {
            // The error is kept for fsync(2).
            let _ = mapping.write_back(0..u64::MAX);
        }
    });
}

/// Drops up to `wanted` clean pages that were not used lately; how many went. The next call goes on where this one
/// ended; each page is looked at twice at most.
pub(crate) fn shrink(wanted: usize) -> usize {
    ALL.turn(wanted, |mapping, wanted| mapping.shrink(wanted))
}

/// Has the thread write all that is dirty.
pub(crate) fn write_all() {
    PRESSED.store(true, Ordering::Relaxed);
    kick();
}

/// Drops all clean pages (`vm.drop_caches`).
pub fn drop_caches() {
    ALL.for_each(|mapping| {
        mapping.drop_clean(0..u64::MAX);
    });
}

fn kick() {
    KICKED.store(1, Ordering::Release);
    WAKE.wake_all();
}

impl Mapping {
    /// Lets a writer pay for dirty pages when there are too many.
    #[inline]
    pub(crate) fn throttle(&self) {
        if counters::DIRTY.get() > LIMIT.load(Ordering::Relaxed) {
            self.throttle_slow();
        }
    }

    #[cold]
    fn throttle_slow(&self) {
        kick();
        let _ = self.write_back(0..u64::MAX);
    }

    /// Writes the dirty pages of `range` (bytes) back to the file system and waits for those that others write.
    ///
    /// May sleep. The first error of these writes; it is noted for the open files, too.
    pub fn write_back(&self, range: Range<u64>) -> Result<()> {
        let Source::Pages(pages) = &self.source else { return Ok(()) };
        let end = range.end.div_ceil(PAGE_SIZE as u64);
        let mut next = range.start >> PAGE_SHIFT;
        let mut result = Ok(());
        let _writing = pages.writing.lock();
        if next == 0 && end >= self.size().div_ceil(PAGE_SIZE as u64) {
            pages.dirty_since.store(0, Ordering::Relaxed);
        }
        let mut frames = ArrayVec::new();
        while let Some(first) = self.take_dirty(pages, next..end, &mut frames) {
            next = first + frames.len() as u64;
            if self.nr_writable.load(Ordering::Acquire) > 0 {
                registry::unmap_everywhere(self, first..next, Private::Keep);
            }
            // Before the device has newer bytes than what is being read.
            pages.ahead.note_write(first..next);
            if let Err(errno) = pages.source.write_pages(first, &frames) {
                pages.error.set(errno);
                result = result.and(Err(errno));
            }
            frames.clear();
        }
        if pages.nr_dirty.load(Ordering::Relaxed) > 0 && pages.dirty_since.load(Ordering::Relaxed) == 0 {
            pages.dirty_since.store(hal::time::now_ns().max(1), Ordering::Relaxed);
        }
        result
    }

    /// Calls `f` if no page is dirty and none is just being written; with `wait` after those that are. `f` must not sleep.
    pub fn if_clean(&self, wait: bool, f: impl FnOnce()) {
        let Source::Pages(pages) = &self.source else { return f() };
        let writing = if wait { Some(pages.writing.lock()) } else { pages.writing.try_lock() };
        if writing.is_some() && pages.nr_dirty.load(Ordering::SeqCst) == 0 {
            f();
        }
    }

    /// The number of the first page of the first run of dirty pages of `range`; `frames`, empty before, gets the run, marked
    /// clean.
    fn take_dirty(
        &self,
        pages: &Pages,
        range: Range<u64>,
        frames: &mut ArrayVec<Frame, MAX_RUN>,
    ) -> Option<u64> {
        if pages.nr_dirty.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut first = 0;
        self.pages.lock().frames.for_each(range, |idx, frame| {
            let is_dirty = frame.meta().flags.load(Ordering::Acquire) & page_flags::DIRTY != 0;
            if frames.is_empty() {
                if is_dirty {
                    first = idx;
                    frames.push(frame.clone());
                }
                return true;
            }
            let goes_on = is_dirty && idx == first + frames.len() as u64 && !frames.is_full();
            if goes_on {
                frames.push(frame.clone());
            }
            goes_on
        });
        for frame in frames.iter() {
            frame.meta().flags.fetch_and(!page_flags::DIRTY, Ordering::AcqRel);
        }
        pages.nr_dirty.fetch_sub(frames.len() as u64, Ordering::Relaxed);
        counters::DIRTY.add(-(frames.len() as i64));
        (!frames.is_empty()).then_some(first)
    }
}
