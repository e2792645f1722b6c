//! The lock of an address space, and the page faults that do without it.
//!
//! Faults of many threads would meet in one word, the semaphore's, and an edit of one mapping would stop the faults on
//! all others. So an address space that several threads use keeps a few *parts*: copies of VMAs, each cut to the 2 MiB
//! around a fault and with a lock of its own (Linux: per-VMA locks). A fault that finds its address in a part takes that
//! lock for reading and nothing else. Who edits a mapping empties the parts that show it.
//!
//! ```text
//!    2 MiB of addresses   |                |                |
//!    VMAs                 |   AAAAAAAAAAAAAAAAAAAAAAAAA     |
//!    parts                |   [ A, part 1 ]|[   A, part 2  ]|      the third was not asked for yet
//!
//!    fault                            edit of A
//!    part: read                       space: write
//!      finds A, maps a page           part: write  (waits for the fault), empties it
//!    part: done                       changes the VMA and its pages
//!    another fault: the part is       space: done
//!      empty, space: read (waits)
//! ```
//!
//! # Rules
//!
//! - S1: a part that is full shows a VMA as the set has it: where it lies, its rights, its object and offset. It is filled
//!   by who holds the set for reading, and emptied by who holds it for writing, before a VMA there or a page of its that
//!   faults could make anew is changed. A VMA that only grows into its neighbourhood, by an edit or a merge, stays shown.
//! - S2: what a fault reaches through a part is inside of the part: the copy's borders are the part's, so nothing is mapped
//!   beyond what the lock covers.
//! - S3: a copy is never the last to hold its object (by S1), and is not counted as a mapping of it.
//! - S4: the first write to a VMA goes the slow way: only there its history is noted where the set finds it.
//!
//! A fault may go on in a part while the set is held for *reading*, as it may beside other readers. [`SpaceLock::write`]
//! empties all parts; who knows what he edits takes [`SpaceLock::edit`] and names it by [`SpaceLock::stop_faults`].
//!
//! An address space of one thread has no parts, and pays a look at a null pointer.
//!
//! Lock order: the semaphore, then a part; a fault takes no semaphore below a part.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use hal::sync::Once;
use vma_set::Attr;

use crate::space::Space;
use crate::sync::{RwSem, RwSemReadGuard, RwSemWriteGuard};
use crate::vma::{History, VmFlags, Vma};

/// Bytes of addresses that a part shows at most: what one page of the page table maps, and a huge page takes.
const SIZE: u64 = hal::frame::HUGE_SIZE as u64;
/// Parts of an address space.
const NR: usize = 32;

/// A copy of a part of a VMA.
#[repr(align(64))]
struct Part {
    /// What the copy covers, so that who looks for it finds out without the lock; `start` is `end` when there is none.
    /// Written under the lock; a hint for faults, exact for who holds the set for writing.
    start: AtomicU64,
    end: AtomicU64,
    vma: RwSem<Option<Vma>>,
}

impl Part {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self { start: zero(), end: zero(), vma: RwSem::new("mm.part", None) }
    }

    #[inline]
    fn span(&self) -> Range<u64> {
        self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed)
    }

    fn set(&self, guard: &mut Option<Vma>, vma: Option<Vma>) -> Option<Vma> {
        let (start, end) = vma.as_ref().map_or((0, 0), |vma| (vma.start, vma.end));
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        core::mem::replace(guard, vma)
    }
}

/// The parts of an address space, [`NR`]: each address has one place.
pub(crate) struct Parts(Vec<Part>);

/// The number of the part where `addr` is looked for. Neighbours have different ones.
#[inline]
fn index(addr: u64) -> usize {
    let at = addr / SIZE;
    (at ^ (at / NR as u64)) as usize % NR
}

/// Whether faults on `vma` may be handled in a part: those that wait for others' leave, or hold promises, may not.
fn is_plain(vma: &Vma) -> bool {
    !vma.attr.flags.contains(VmFlags::HUGETLB)
        && vma.attr.watch.is_none()
        && (vma.attr.backing.object().is_none() || vma.attr.backing.mapping().is_some())
}

impl Parts {
    /// Empty ones; `None` without memory.
    fn new() -> Option<Self> {
        let mut parts = Vec::new();
        parts.try_reserve_exact(NR).ok()?;
        parts.extend((0..NR).map(|_| Part::new()));
        Some(Self(parts))
    }

    /// Runs `fault` on the copy of the VMA around `addr`, which it holds for reading; `None` when there is none.
    #[inline]
    pub fn with<R>(&self, addr: u64, fault: impl FnOnce(&Vma) -> R) -> Option<R> {
        let part = self.0.get(index(addr))?;
        if !part.span().contains(&addr) {
            return None;
        }
        let vma = part.vma.try_read()?;
        // It may have changed before the lock was had.
        let vma = vma.as_ref().filter(|vma| vma.contains(addr))?;
        Some(fault(vma))
    }

    /// Shows the part of `vma` around `addr`, if nobody is at that part now. `_space`: the set that `vma` is in.
    pub fn fill(&self, vma: &Vma, addr: u64, _space: &Space) {
        if !is_plain(vma) {
            return;
        }
        let Some(part) = self.0.get(index(addr)) else { return };
        let Some(mut guard) = part.vma.try_write() else { return };
        let around = addr & !(SIZE - 1);
        let clip = vma.clip(&(around..around.saturating_add(SIZE)));
        let mut attr = vma.attr.uncounted();
        attr.advance(clip.start - vma.start);
        let old = part.set(&mut guard, Some(Vma { start: clip.start, end: clip.end, attr }));
        drop(guard);
        drop(old);
    }

    /// Empties the parts that show an address of `range`; `enter` takes a part's lock, and so waits for its faults.
    fn empty<'a>(
        &'a self,
        range: &Range<u64>,
        mut enter: impl FnMut(&'a RwSem<Option<Vma>>) -> RwSemWriteGuard<'a, Option<Vma>>,
    ) {
        if range.start >= range.end {
            return;
        }
        let (first, last) = (range.start / SIZE, (range.end - 1) / SIZE);
        let is_small = last - first < NR as u64;
        let count = if is_small { (last - first + 1) as usize } else { NR };
        for i in 0..count {
            let at = if is_small { index((first + i as u64) * SIZE) } else { i };
            let Some(part) = self.0.get(at) else { continue };
            let span = part.span();
            if span.start < range.end && range.start < span.end {
                let mut guard = enter(&part.vma);
                let gone = part.set(&mut guard, None);
                drop(guard);
                drop(gone);
            }
        }
    }
}

/// What guards an address space: a semaphore, and the parts beside it.
pub(crate) struct SpaceLock {
    /// First, so that they go first (S3).
    parts: Once<Parts>,
    sem: RwSem<Space>,
}

impl SpaceLock {
    /// A lock around `space`, without parts.
    pub fn new(space: Space) -> Self {
        Self { parts: Once::new(), sem: RwSem::new("mm.space", space) }
    }

    /// Lets faults do without the semaphore from now on: several threads use the address space. Without memory they
    /// go on with it. Sleeps.
    pub fn expect_threads(&self) {
        if self.parts.get().is_none()
            && let Some(parts) = Parts::new()
        {
            // One at a time: nobody spins for another who was preempted.
            let _one = self.sem.write();
            self.parts.call_once(|| parts);
        }
    }

    /// The parts, if there are any.
    #[inline]
    pub fn parts(&self) -> Option<&Parts> {
        self.parts.get()
    }

    /// To look. Sleeps while somebody edits.
    #[inline]
    #[track_caller]
    pub fn read(&self) -> RwSemReadGuard<'_, Space> {
        self.sem.read()
    }

    /// To look, if nobody edits or waits for it.
    pub fn try_read(&self) -> Option<RwSemReadGuard<'_, Space>> {
        self.sem.try_read()
    }

    /// To edit anything: there are no faults meanwhile. Sleeps.
    #[track_caller]
    pub fn write(&self) -> RwSemWriteGuard<'_, Space> {
        let mut space = self.sem.write();
        self.stop_faults(&mut space, &(0..hal::USER_END));
        space
    }

    /// To edit what [`stop_faults`](Self::stop_faults) is told of, and what faults do not look at. Sleeps.
    #[inline]
    #[track_caller]
    pub fn edit(&self) -> RwSemWriteGuard<'_, Space> {
        self.sem.write()
    }

    /// Waits for the faults in `range` to end; those that come wait until the set is unlocked. Sleeps.
    ///
    /// To be called before a VMA that overlaps `range`, or a page there that a fault could make, is changed (S1). `_space`
    /// proves that the set is held for writing.
    #[inline]
    pub fn stop_faults(&self, _space: &mut Space, range: &Range<u64>) {
        if let Some(parts) = self.parts() {
            parts.empty(range, RwSem::write);
        }
    }

    /// The address space, when nobody else has it.
    pub fn get_mut(&mut self) -> &mut Space {
        self.sem.get_mut()
    }
}

/// Whether a write to `vma` can be handled in a part (S4).
#[inline]
pub(crate) fn may_write_alone(vma: &Vma) -> bool {
    vma.attr.history() != History::Fresh || !vma.attr.is_private()
}

#[cfg(test)]
mod tests;
