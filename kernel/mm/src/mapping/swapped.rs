//! Swap of shared memory: pages of tmpfs, memfds, System V segments and shared anonymous mappings.
//!
//! ```text
//!   Index::frames[i]: frame   ── swap_out ──>   Index::swapped[i]: area and slot   ── get_or_read ──>   a new frame
//! ```
//!
//! Each page is at most in one of the two trees, and one lock guards both. A page goes when the page cache is its only
//! holder: no page table shows it then, and its TLB entries are gone, as those are flushed before an entry's reference is
//! dropped (hal). Whoever holds a reference, such as a read(2) under way, keeps it in memory.
//!
//! What takes pages out of page tables first is [`crate::walk`]: for one address space (`MADV_PAGEOUT`), or for all when
//! memory is short. A page that is in swap stays charged to its [`Shmem`], and is no hole: whoever looks for one asks
//! [`Mapping::holds`].
//!
//! The slot of the device belongs to this entry alone: a page table never names it.
//!
//! # Locks
//!
//! page-table cursor > `Mapping::pages` > what [`crate::swap`] locks.

use alloc::sync::Arc;
use core::num::NonZeroU64;
use core::ops::Range;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use abi::{Errno, Result};
use arrayvec::ArrayVec;
use hal::frame::Frame;

use super::known::Known;
use super::whole::own_refs;
use super::{Mapping, Shmem, Source, page_flags};
use crate::counters::Counter;
use crate::swap::{self, Batch, Pinned};
use crate::{oom, reclaim};

/// Pages looked at under one hold of the lock.
const STEP: usize = 256;
/// Pages gathered on the stack under one hold of the lock.
const AT_ONCE: usize = 64;

/// All mappings whose pages may go to swap.
static SHARED: Known = Known::new("mm.shmem.all");
/// Pages of shared memory in swap.
static NR_SWAPPED: Counter = Counter::new();

/// Why the pages of a mapping stay in memory: bits of `Mapping::pinned`.
mod pinned {
    /// Reclaim does not know of it, so nothing could bring its pages back at swapoff(2).
    pub(super) const UNKNOWN: u8 = 1;
    /// `SHM_LOCK`.
    pub(super) const LOCKED: u8 = 2;
}

/// The first value of `Mapping::pinned`.
pub(super) const NOT_SWAPPED: u8 = pinned::UNKNOWN;

impl Mapping {
    /// As [`Mapping::new_shmem`], known to reclaim: its pages may go to swap.
    pub fn with_shmem(shmem: Arc<Shmem>) -> Arc<Self> {
        let may_swap = shmem.may_swap();
        let mapping = Arc::new(Self::new_shmem(shmem));
        if may_swap && SHARED.add(&mapping) {
            mapping.pinned.fetch_and(!pinned::UNKNOWN, AcqRel);
        }
        mapping
    }

    /// Keeps all pages in memory from now on (`SHM_LOCK`), or lets them go again. Those in swap come when they are used.
    pub fn set_locked(&self, is_locked: bool) {
        if is_locked {
            self.pinned.fetch_or(pinned::LOCKED, AcqRel);
        } else {
            self.pinned.fetch_and(!pinned::LOCKED, AcqRel);
        }
    }

    /// Whether pages may go to swap.
    #[inline]
    pub(crate) fn may_swap(&self) -> bool {
        self.pinned.load(Acquire) == 0
    }

    /// Whether page `idx` is in swap.
    #[inline]
    pub(crate) fn is_swapped(&self, idx: u64) -> bool {
        NR_SWAPPED.get() > 0 && self.pages.lock().swapped.get(idx).is_some()
    }

    /// Whether page `idx` is in memory or in swap: no hole, of files that live in memory.
    pub fn holds(&self, idx: u64) -> bool {
        if self.is_huge() {
            return self.get(idx).is_some();
        }
        // Under one hold: a page that comes back is in one of the two.
        let pages = self.pages.lock();
        pages.frames.get(idx).is_some() || pages.swapped.get(idx).is_some()
    }

    /// Number of pages in swap.
    pub fn nr_swapped(&self) -> u64 {
        self.pages.lock().swapped.len() as u64
    }

    /// Number of pages in swap among those of `range`.
    pub(crate) fn count_swapped(&self, range: Range<u64>) -> u64 {
        let mut nr = 0;
        self.for_each_swapped(range, |_| nr += 1);
        nr
    }

    /// Calls `visit` for the pages of `range` that are in swap. Cost: one step each; the lock is given up now and then.
    pub(crate) fn for_each_swapped(&self, range: Range<u64>, mut visit: impl FnMut(u64)) {
        let mut next = Some(range.start);
        while let Some(first) = next.take().filter(|_| NR_SWAPPED.get() > 0) {
            let mut found = ArrayVec::<u64, AT_ONCE>::new();
            self.pages.lock().swapped.for_each(first..range.end, |idx, _| {
                let is_room = !found.is_full();
                if is_room {
                    found.push(idx);
                } else {
                    next = Some(idx);
                }
                is_room
            });
            found.iter().copied().for_each(&mut visit);
        }
    }

    /// The first page at or after `from` that is in swap and whose entry is `wanted`. The lock is given up now and then.
    fn next_swapped(&self, from: u64, wanted: impl Fn(u64) -> bool) -> Option<u64> {
        let (mut found, mut next) = (None, Some(from));
        while let (Some(first), None) = (next.take(), found) {
            let mut left = STEP;
            self.pages.lock().swapped.for_each(first..u64::MAX, |idx, value| {
                if left == 0 {
                    next = Some(idx);
                    return false;
                }
                left -= 1;
                found = Some(idx).filter(|_| wanted(value.get()));
                found.is_none()
            });
        }
        found
    }

    /// Page `idx`, read from swap if it is there; `None` for one that neither memory nor swap has. May sleep.
    ///
    /// `ENOMEM`: no memory. `EIO` and others: the device's.
    pub fn get_or_read(&self, idx: u64) -> Result<Option<Frame>> {
        loop {
            let page = {
                let pages = self.pages.lock();
                match (pages.frames.get(idx), pages.swapped.get(idx)) {
                    (Some(frame), _) => return Ok(Some(frame.clone())),
                    (None, Some(value)) => Pinned::new(value.get()),
                    (None, None) => {
                        drop(pages);
                        // Huge pages are none of these.
                        return Ok(self.get(idx));
                    }
                }
            };
            let (frame, _) = page.read(swap::Near::Slots)?;
            match self.put_back(idx, &page, frame) {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(Errno::ENOMEM) => oom::relieve()?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts what was read for page `idx` into the cache, if it still is what swap has.
    fn put_back(&self, idx: u64, page: &Pinned, frame: Frame) -> Result<Option<Frame>> {
        let meta = frame.meta();
        meta.flags.store(page_flags::SHMEM, Relaxed);
        meta.index.store(idx, Relaxed);
        let mut pages = self.pages.lock();
        if pages.swapped.get(idx).is_none_or(|value| value.get() != page.value()) {
            return Ok(None);
        }
        pages.frames.insert(idx, frame.clone()).map_err(|_| Errno::ENOMEM)?;
        pages.swapped.remove(idx);
        drop(pages);
        NR_SWAPPED.add(-1);
        self.count_cached(1);
        swap::put(page.value());
        Ok(Some(frame))
    }

    /// Hands page `idx` to `batch` if nobody but the cache holds it; whether it did. A swap entry takes its place.
    pub(crate) fn swap_out(&self, idx: u64, batch: &mut Batch) -> bool {
        let mut pages = self.pages.lock();
        let is_idle = pages.frames.get(idx).is_some_and(|frame| frame.ref_count() == own_refs(frame));
        if !is_idle || !pages.split_idle(idx) {
            return false;
        }
        // No reference can be taken without the lock.
        let Some(frame) = pages.frames.get(idx).filter(|frame| frame.ref_count() == 1).cloned() else {
            return false;
        };
        let Some(value) = batch.add(&frame).and_then(NonZeroU64::new) else { return false };
        if pages.swapped.insert(idx, value).is_err() {
            drop(pages);
            // The batch writes it for nobody.
            swap::put(value.get());
            return false;
        }
        let gone = pages.frames.remove(idx);
        // Under the lock: whoever does not find the page in memory knows that it may be in swap.
        NR_SWAPPED.add(1);
        drop(pages);
        drop(gone);
        self.count_cached(-1);
        true
    }

    /// Swaps up to `wanted` pages out that were not used lately and that nobody refers to; how many were written. Sleeps.
    fn swap_idle(&self, wanted: usize) -> usize {
        let (mut batch, mut freed, mut next) = (Batch::default(), 0, Some(0));
        while let Some(first) = next.filter(|_| freed < wanted && self.may_swap() && swap::has_room()) {
            let mut idle = ArrayVec::<u64, { swap::BATCH }>::new();
            let mut left = STEP;
            next = None;
            self.pages.lock().frames.for_each(first..u64::MAX, |idx, frame| {
                if left == 0 || idle.is_full() {
                    next = Some(idx);
                    return false;
                }
                left -= 1;
                let flags = &frame.meta().flags;
                if flags.load(Acquire) & page_flags::ACTIVE != 0 {
                    flags.fetch_and(!page_flags::ACTIVE, Relaxed);
                } else if frame.ref_count() == own_refs(frame) {
                    idle.push(idx);
                }
                true
            });
            reclaim::SCANNED.add((STEP - left) as i64);
            idle.iter().for_each(|idx| {
                self.swap_out(*idx, &mut batch);
            });
            freed += batch.write();
            reclaim::tell_progress();
        }
        freed
    }
}

/// Gives back entries that were taken out of a mapping.
pub(super) fn forget(entries: impl IntoIterator<Item = u64>) {
    for value in entries {
        NR_SWAPPED.add(-1);
        swap::put(value);
    }
}

/// Swaps up to `wanted` pages of shared memory out; how many were written. Sleeps. For reclaim's thread.
pub(crate) fn shrink(wanted: usize) -> usize {
    if !swap::has_room() {
        return 0;
    }
    SHARED.turn(wanted, |mapping, wanted| mapping.swap_idle(wanted))
}

/// Reads all pages of shared memory back whose entries are `wanted` (swapoff(2)). Sleeps.
///
/// `ENOMEM`: no memory. `EINTR`: a signal came. `EIO` and others: the device's.
pub(crate) fn take_back(wanted: impl Fn(u64) -> bool) -> Result<()> {
    let mut result = Ok(());
    SHARED.for_each(|mapping| {
        let mut next = 0;
        while let Some(idx) = mapping.next_swapped(next, &wanted).filter(|_| result.is_ok()) {
            next = idx.saturating_add(1);
            result = match sched::current().is_interrupted(sched::Interruptible::Yes) {
                true => Err(Errno::EINTR),
                false => mapping.get_or_read(idx).map(drop),
            };
        }
    });
    result
}

/// Gives the entries of a mapping that goes back.
pub(super) fn release(mapping: &mut Mapping) {
    let swapped = &mapping.pages.get_mut().swapped;
    let nr = swapped.len();
    if nr > 0 {
        swapped.for_each(0..u64::MAX, |_, value| {
            swap::put(value.get());
            true
        });
        NR_SWAPPED.add(-(nr as i64));
        if let Source::Shmem(shmem) = &mapping.source {
            shmem.uncharge(nr as u64);
        }
    }
}
