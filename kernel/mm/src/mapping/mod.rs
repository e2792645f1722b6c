//! The page cache of one file.
//!
//! A [`Mapping`] holds the cached pages of a file by page index, the file's size, and how many VMAs show
//! it. A [`Source`] says where missing pages come from: tmpfs-like memory that is its own home ([`Shmem`]), or
//! a file system ([`PageSource`]).
//!
//! # Invariants
//!
//! - M1: no page at or beyond the end of the file stays cached after a truncation; bytes of the last page
//!   beyond the end read as zero when the file grows.
//! - M2: a page that was taken out of `pages` is unmapped everywhere before the operation that took it
//!   out returns: page faults map only what they find in `pages` while they hold the page-table lock, and
//!   the taking operation clears the page tables afterwards.
//!
//! ```text
//! truncate                                 page fault
//!   size = new                               cursor lock
//!   (A) take pages out                       (C) find page in `pages`
//!   (B) cursor lock, clear entry, unlock     (D) set entry; unlock
//! ```
//! If C sees the page, C is before A, and B waits for the cursor and clears what D has set.
//!
//! # Locks
//!
//! `writing` (sleeps, around write-back) > `filling` (sleeps, around reads) > page-table cursor > `pages` > `reads` (of
//! read-ahead). None is held while user memory is copied. Truncation holds both of the first, so no I/O on a page that goes is
//! under way.

mod errseq;
mod fill;
mod huge;
mod io;
mod known;
pub mod radix;
mod shmem;
mod shrink;
mod stat;
pub(crate) mod swapped;
pub(crate) mod truncate;
pub(crate) mod whole;
pub mod writeback;

pub use errseq::ErrSeq;
pub use io::PagePart;
pub use shmem::{Huge, Shmem, ShmemObject};
pub(crate) use shrink::note_use;
pub use stat::PageCounts;
pub use truncate::Frozen;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::num::NonZeroU64;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use abi::{Errno, Result};
use hal::PAGE_SHIFT;
use hal::frame::{Frame, HUGE_FRAMES, HugeFrame};
use hal::sync::SpinLock;

use crate::counters;
use crate::hugetlb::HugePages;
use crate::oom;
use crate::sync::Mutex;
use radix::Radix;

/// Flags of a frame, kept in its metadata ([`hal::frame::FrameMeta`]).
pub mod page_flags {
    /// Private memory of address spaces.
    pub const ANON: u32 = 1;
    /// Cached from a file system.
    pub const FILE: u32 = 2;
    /// Memory of a [`super::Shmem`] source.
    pub const SHMEM: u32 = 4;
    /// Differs from what the file system holds.
    pub const DIRTY: u32 = 8;
    /// The one page of zeroes.
    pub const ZERO: u32 = 16;
    /// Used since it was read or since reclaim last looked.
    pub const USED: u32 = 32;
    /// Used again after that.
    pub const ACTIVE: u32 = 64;
    /// May go without a trace while it is clean (`MADV_FREE`).
    pub const LAZY: u32 = 128;
    /// Shared memory that fallocate(2) made, and nobody touched since.
    pub const UNTOUCHED: u32 = 256;
    /// A part of a huge page of the pool ([`crate::hugetlb`]). Counts in no RSS; the first frame has `ANON`, too, when the
    /// page is private to address spaces.
    pub const HUGETLB: u32 = 512;
    /// Merged ([`crate::ksm`]): with `ANON`, a page that never changes and to which merging holds a reference; with `ZERO`,
    /// the page of zeroes of merged memory.
    pub const KSM: u32 = 1024;
    /// Withdrawn ([`crate::offline`]): nobody gets this page again.
    pub const OFFLINE: u32 = 2048;
}

/// Pages that are being read.
pub trait Reading: Send {
    /// Waits until the frames hold them. An error: what they hold means nothing. Sleeps.
    fn wait(self: Box<Self>) -> Result<()>;
}

/// Pages read at once unless the source says otherwise: 128 KiB.
pub const DEFAULT_AHEAD: usize = 32;

/// A file system's side of the page cache.
pub trait PageSource: Send + Sync {
    /// Fills `frame` (whose contents are arbitrary) with page `idx` of the file. May sleep.
    fn read_page(&self, idx: u64, frame: &Frame) -> Result<()>;

    /// Fills `frames` with the pages from `first` on, all of which begin before the end of the file. May sleep.
    fn read_pages(&self, first: u64, frames: &[Frame]) -> Result<()> {
        (first..).zip(frames).try_for_each(|(idx, frame)| self.read_page(idx, frame))
    }

    /// Whether [`PageSource::begin_read`] is worth a try.
    fn can_begin(&self) -> bool {
        false
    }

    /// Begins what [`PageSource::read_pages`] does, and goes on with it while the caller does something else; `None`: it cannot.
    /// Nobody may ever wait for it: the frames are kept until it is done. May sleep.
    fn begin_read(&self, first: u64, frames: &[Frame]) -> Result<Option<Box<dyn Reading>>> {
        let _ = (first, frames);
        Ok(None)
    }

    /// Most pages that are worth being read at once.
    fn max_ahead(&self) -> usize {
        DEFAULT_AHEAD
    }

    /// Writes page `idx` back. May sleep.
    fn write_page(&self, idx: u64, frame: &Frame) -> Result<()>;

    /// Writes the pages from `first` on back, and has them on the device when it returns. May sleep.
    fn write_pages(&self, first: u64, frames: &[Frame]) -> Result<()> {
        // Each is tried, whatever becomes of the others.
        let mut result = Ok(());
        for (idx, frame) in (first..).zip(frames) {
            result = result.and(self.write_page(idx, frame));
        }
        result
    }

    /// A page became dirty, and is counted. May sleep.
    fn became_dirty(&self) {}

    /// Called before page `idx` is first written through a mapping or write(2): reserve space for it.
    ///
    /// More than one thread may be about to write to it, each of which calls this.
    fn prepare_write(&self, idx: u64) -> Result<()> {
        let _ = idx;
        Ok(())
    }

    /// What [`PageSource::prepare_write`] was called for comes to nothing: page `idx` is not dirty, or gone. Others may be about
    /// to make it dirty. A spinlock is held.
    fn forget_write(&self, idx: u64) {
        let _ = idx;
    }
}

/// Where missing pages come from.
pub enum Source {
    /// Memory that lives in the cache only: holes read as zeroes, pages are charged.
    Shmem(Arc<Shmem>),
    /// A file system.
    Pages(Box<Pages>),
    /// Huge pages, which it holds instead of [`Mapping`].
    Huge(Box<HugePages>),
}

/// State of a mapping with a file system behind.
pub struct Pages {
    source: Arc<dyn PageSource>,
    /// One reader at a time fills missing pages. What it has begun to read ahead.
    filling: Mutex<Option<fill::UnderWay>>,
    /// One thread at a time writes pages back.
    writing: Mutex<()>,
    nr_dirty: AtomicU64,
    /// When the first of the dirty pages became so, in nanoseconds since boot; 0 if there is none.
    dirty_since: AtomicU64,
    ahead: fill::Ahead,
    /// The page at which reclaim goes on.
    hand: AtomicU64,
    error: ErrSeq,
}

/// The pages of a mapping by their index, each in one of the first two trees.
struct Index {
    /// In memory.
    frames: Radix<Frame>,
    /// In swap, with their entries ([`swapped`]).
    swapped: Radix<NonZeroU64>,
    /// Huge pages of shared memory by their number, besides their parts in `frames` ([`whole`]).
    wholes: Radix<HugeFrame>,
}

impl Index {
    const fn new() -> Self {
        Self { frames: Radix::new(), swapped: Radix::new(), wholes: Radix::new() }
    }
}

/// The page cache of one file; see the module's front page.
pub struct Mapping {
    pages: SpinLock<Index>,
    /// Length of the file in bytes.
    size: AtomicU64,
    source: Source,
    /// VMAs that show the file.
    nr_vmas: AtomicU32,
    /// Shared VMAs that may be written; negative while such are denied (memfd seals).
    nr_writable: AtomicI32,
    /// Whether new ones of these are denied (`F_SEAL_FUTURE_WRITE`).
    is_closed: AtomicBool,
    /// Why its pages do not go to swap; 0: they may.
    pinned: AtomicU8,
}

impl Mapping {
    /// The cache of an empty file whose pages live in memory, charged to `shmem`, and stay there.
    #[inline]
    pub fn new_shmem(shmem: Arc<Shmem>) -> Self {
        Self::new(Source::Shmem(shmem), 0)
    }

    /// The cache of a file of `size` bytes in a file system.
    pub fn new_source(source: Arc<dyn PageSource>, size: u64) -> Self {
        let pages = Pages {
            source,
            filling: Mutex::new("mm.mapping.filling", None),
            writing: Mutex::new("mm.mapping.writing", ()),
            nr_dirty: AtomicU64::new(0),
            dirty_since: AtomicU64::new(0),
            ahead: fill::Ahead::new(),
            hand: AtomicU64::new(0),
            error: ErrSeq::new(),
        };
        Self::new(Source::Pages(Box::new(pages)), size)
    }

    /// As [`Mapping::new_source`], known to write-back and reclaim.
    pub fn with_source(source: Arc<dyn PageSource>, size: u64) -> Arc<Self> {
        let mapping = Arc::new(Self::new_source(source, size));
        writeback::register(&mapping);
        mapping
    }

    /// The errors of write-back; `None` for files that live in memory.
    pub fn error(&self) -> Option<&ErrSeq> {
        match &self.source {
            Source::Pages(pages) => Some(&pages.error),
            Source::Shmem(_) | Source::Huge(_) => None,
        }
    }

    /// Number of pages that differ from what the file system holds.
    pub fn nr_dirty(&self) -> u64 {
        match &self.source {
            Source::Pages(pages) => pages.nr_dirty.load(Ordering::Relaxed),
            Source::Shmem(_) | Source::Huge(_) => 0,
        }
    }

    fn new(source: Source, size: u64) -> Self {
        Self {
            pages: SpinLock::new("mm.mapping.pages", Index::new()),
            size: AtomicU64::new(size),
            source,
            nr_vmas: AtomicU32::new(0),
            nr_writable: AtomicI32::new(0),
            is_closed: AtomicBool::new(false),
            pinned: AtomicU8::new(swapped::NOT_SWAPPED),
        }
    }

    /// Length of the file in bytes.
    #[inline]
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Number of cached pages, without those in swap ([`nr_swapped`](Self::nr_swapped)).
    pub fn nr_pages(&self) -> u64 {
        if let Source::Huge(pages) = &self.source {
            return pages.nr_pages() * HUGE_FRAMES as u64;
        }
        self.pages.lock().frames.len() as u64
    }

    /// Whether the pages have no other home than memory.
    #[inline]
    pub fn is_shmem(&self) -> bool {
        matches!(self.source, Source::Shmem(_))
    }

    /// When shared memory gets huge pages; `None` for other files.
    pub(crate) fn huge_policy(&self) -> Option<Huge> {
        match &self.source {
            Source::Shmem(shmem) => Some(shmem.huge()),
            _ => None,
        }
    }

    /// Number of VMAs that show the file.
    pub fn nr_vmas(&self) -> u32 {
        self.nr_vmas.load(Ordering::Acquire)
    }

    pub(crate) fn vma_opened(&self) {
        self.nr_vmas.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn vma_closed(&self) {
        self.nr_vmas.fetch_sub(1, Ordering::AcqRel);
    }

    /// Counts a shared mapping that may be written. `EPERM`: such mappings are denied.
    pub(crate) fn allow_writable(&self) -> Result<()> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Errno::EPERM);
        }
        self.nr_writable
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n >= 0).then(|| n.saturating_add(1)))
            .map(drop)
            .map_err(|_| Errno::EPERM)
    }

    pub(crate) fn dup_writable(&self) {
        self.nr_writable.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn drop_writable(&self) {
        self.nr_writable.fetch_sub(1, Ordering::AcqRel);
    }

    /// Denies new writable shared mappings from now on; those there are stay (`F_SEAL_FUTURE_WRITE`).
    pub fn deny_new_writable(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    /// Denies writable shared mappings from now on (`F_SEAL_WRITE`). `EBUSY`: there is one.
    pub fn deny_writable(&self) -> Result<()> {
        self.nr_writable
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n <= 0).then(|| n.saturating_sub(1)))
            .map(drop)
            .map_err(|_| Errno::EBUSY)
    }

    /// The cached page `idx`; one in swap is none ([`get_or_read`](Self::get_or_read)).
    #[inline]
    pub fn get(&self, idx: u64) -> Option<Frame> {
        if let Source::Huge(pages) = &self.source {
            return huge::part(pages, idx);
        }
        self.pages.lock().frames.get(idx).cloned()
    }

    /// The first page at or after `from` in memory or in swap (`SEEK_DATA` of files that live in memory).
    pub fn next_page(&self, from: u64) -> Option<u64> {
        if let Source::Huge(pages) = &self.source {
            return huge::next_page(pages, from);
        }
        let (mut cached, mut swapped) = (None, None);
        // Under one hold: a page that comes back from swap is in one of the two.
        let pages = self.pages.lock();
        pages.frames.for_each(from..u64::MAX, |idx, _| {
            cached = Some(idx);
            false
        });
        pages.swapped.for_each(from..u64::MAX, |idx, _| {
            swapped = Some(idx);
            false
        });
        cached.into_iter().chain(swapped).min()
    }

    /// Calls `visit` for the cached pages from `first` up to `end` within one leaf of the tree, under the lock.
    ///
    /// For fault-around: `visit` sets page-table entries and must not sleep.
    pub(crate) fn visit_run(&self, first: u64, end: u64, mut visit: impl FnMut(u64, &Frame)) {
        let pages = self.pages.lock();
        let mut idx = first;
        while idx < end {
            let leaf_end = (idx | (radix::FANOUT as u64 - 1)).saturating_add(1).min(end);
            for (i, slot) in (idx..leaf_end).zip(pages.frames.run_from(idx)) {
                if let Some(frame) = slot {
                    visit(i, frame);
                }
            }
            idx = leaf_end;
        }
    }

    /// Shows `edit` the place of page `idx` under the lock, where a copy may be put; what it answers. A page that is not
    /// cached: the answer by default.
    pub(crate) fn with_page<R: Default>(&self, idx: u64, edit: impl FnOnce(&mut Frame) -> R) -> R {
        self.pages.lock().frames.get_mut(idx).map(edit).unwrap_or_default()
    }

    /// Shows `visit` up to `most` cached pages of `range` under the lock, until it says `false`; where to go on, if not at the
    /// end of the range.
    pub(crate) fn visit_pages(
        &self,
        range: Range<u64>,
        most: usize,
        mut visit: impl FnMut(u64, &Frame) -> bool,
    ) -> Option<u64> {
        let (mut left, mut next) = (most, None);
        self.pages.lock().frames.for_each(range, |idx, frame| {
            if left == 0 {
                next = Some(idx);
                return false;
            }
            left -= 1;
            visit(idx, frame)
        });
        next
    }

    /// Page `idx`, made or read when it is missing. May sleep.
    ///
    /// `ENOMEM`: no memory. `ENOSPC`: the source has no room. `EIO` and others: the file system's.
    pub fn get_or_fill(&self, idx: u64) -> Result<Frame> {
        if let Some(frame) = self.get(idx) {
            return Ok(frame);
        }
        match &self.source {
            Source::Shmem(_) => loop {
                if let Some(frame) = self.get_or_read(idx)? {
                    return Ok(frame);
                }
                match self.insert(idx, oom::alloc_zeroed()?) {
                    // It came and went meanwhile.
                    Err(Errno::EAGAIN) => {}
                    done => return done,
                }
            },
            Source::Pages(pages) => self.fill(pages, idx),
            Source::Huge(pages) => huge::get_or_make(pages, idx),
        }
    }

    /// Notes that a page of shared memory is used.
    #[inline]
    pub(crate) fn note_touched(frame: &Frame) {
        let flags = &frame.meta().flags;
        if flags.load(Ordering::Relaxed) & page_flags::UNTOUCHED != 0 {
            flags.fetch_and(!page_flags::UNTOUCHED, Ordering::Relaxed);
        }
    }

    /// Puts `frame` in as page `idx` unless there is one, and gives the page that is there then.
    ///
    /// Charges a shmem source. `ENOSPC`: its limit is reached. `EAGAIN`: the page is in swap, or came and went.
    pub fn insert(&self, idx: u64, frame: Frame) -> Result<Frame> {
        self.insert_if(idx, frame, || true)
    }

    /// As [`insert`](Self::insert), but only within the file: behind its end `EAGAIN`.
    pub(crate) fn insert_within(&self, idx: u64, frame: Frame) -> Result<Frame> {
        // Under the lock: a truncation sets the size first, and takes the page out afterwards.
        self.insert_if(idx, frame, || self.has_page(idx))
    }

    fn insert_if(&self, idx: u64, frame: Frame, may: impl FnOnce() -> bool) -> Result<Frame> {
        let kind = match &self.source {
            Source::Shmem(shmem) => {
                shmem.charge(1)?;
                page_flags::SHMEM
            }
            Source::Pages(_) => page_flags::FILE,
            // Its pages are never put in one by one.
            Source::Huge(_) => return Err(Errno::EINVAL),
        };
        let meta = frame.meta();
        meta.flags.store(kind, Ordering::Relaxed);
        meta.index.store(idx, Ordering::Relaxed);
        let kept = frame.clone();
        let inserted = {
            let mut pages = self.pages.lock();
            match pages.swapped.get(idx) {
                None if may() => pages.frames.insert(idx, kept),
                _ => Ok(Some(kept)),
            }
        };
        match inserted {
            Ok(None) => {
                self.count_cached(1);
                Ok(frame)
            }
            refused => {
                meta.flags.store(0, Ordering::Relaxed);
                self.uncharge(1);
                match refused {
                    Ok(_) => self.get(idx).ok_or(Errno::EAGAIN),
                    Err(_) => Err(Errno::ENOMEM),
                }
            }
        }
    }

    /// Whether the source has room for `nr` pages more just now.
    pub(crate) fn has_room(&self, nr: u64) -> bool {
        match &self.source {
            Source::Shmem(shmem) => shmem.used().saturating_add(nr) <= shmem.max(),
            Source::Pages(_) | Source::Huge(_) => true,
        }
    }

    fn uncharge(&self, nr: u64) {
        if let Source::Shmem(shmem) = &self.source {
            shmem.uncharge(nr);
        }
    }

    /// Adds to the machine-wide number of cached pages.
    fn count_cached(&self, nr: i64) {
        counters::CACHED.add(nr);
        if self.is_shmem() {
            counters::SHMEM.add(nr);
        }
    }

    /// Whether page `idx` is cached, and not only promised by fallocate(2).
    pub(crate) fn is_in_core(&self, idx: u64) -> bool {
        let flags = |frame: &Frame| frame.meta().flags.load(Ordering::Relaxed);
        self.pages.lock().frames.get(idx).is_some_and(|frame| flags(frame) & page_flags::UNTOUCHED == 0)
    }

    /// Notes that page `idx` will differ from what the file system holds. May sleep.
    pub fn mark_dirty(&self, idx: u64, frame: &Frame) -> Result<()> {
        if let Source::Pages(pages) = &self.source
            && frame.meta().flags.load(Ordering::Acquire) & page_flags::DIRTY == 0
        {
            pages.source.prepare_write(idx)?;
            Self::note_dirty(pages, frame);
        }
        Ok(())
    }

    /// Counts `frame` as dirty, which its source is prepared for.
    fn note_dirty(pages: &Pages, frame: &Frame) {
        let old = frame.meta().flags.fetch_or(page_flags::DIRTY, Ordering::AcqRel);
        if old & page_flags::DIRTY == 0 {
            counters::DIRTY.add(1);
            if pages.nr_dirty.fetch_add(1, Ordering::SeqCst) == 0 {
                pages.dirty_since.store(hal::time::now_ns().max(1), Ordering::Relaxed);
            }
            pages.source.became_dirty();
        }
    }

    /// Tells the source that nobody makes page `idx` dirty after all, unless somebody else has.
    #[cold]
    fn forget_write(&self, pages: &Pages, idx: u64) {
        // Under the lock: who puts in a page, and prepares to write to it, comes before and is seen, or afterwards.
        let cached = self.pages.lock();
        let flags = cached.frames.get(idx).map_or(0, |frame| frame.meta().flags.load(Ordering::Acquire));
        if flags & page_flags::DIRTY == 0 {
            pages.source.forget_write(idx);
        }
    }

    /// Whether a page must ask before it becomes writable in a shared mapping.
    #[inline]
    pub(crate) fn wants_write_notify(&self) -> bool {
        matches!(self.source, Source::Pages(_))
    }

    /// Whether page `idx` begins before the end of the file.
    #[inline]
    pub(crate) fn has_page(&self, idx: u64) -> bool {
        idx.checked_shl(PAGE_SHIFT).is_some_and(|at| at < self.size())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        swapped::release(self);
        let pages = self.pages.get_mut();
        let (nr, nr_whole) = (pages.frames.len() as u64, pages.wholes.len());
        whole::NR_WHOLE.add(-(nr_whole as i64));
        self.uncharge(nr);
        self.count_cached(-(nr as i64));
        if let Source::Pages(pages) = &self.source {
            counters::DIRTY.add(-(pages.nr_dirty.load(Ordering::Relaxed) as i64));
        }
    }
}

impl core::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Mapping {{ size: {}, pages: {} }}", self.size(), self.nr_pages())
    }
}
