//! The huge pages of one file, and the promises to its shared mappings.
//!
//! ```text
//! slot        none          Reserved                     Page
//!             a hole        promised at mmap(2)          in memory, for as long as the file has it
//!               ── mmap ──▶    ── fault, fallocate ──▶
//!             ◀──────────────────── truncate, punch ────────────
//! ```
//!
//! # Locks, outermost first
//!
//! ```text
//! Mm::space
//!   HugePages::steady    sleeps: faults read it; who takes pages out of page tables or of the file holds it for writing,
//!                        so that a fault meets the page either there or back in the pool
//!     PAGE_LOCKS         sleeps: one fault at a time makes a page, or two would need two promises
//!       page-table cursor
//!         HugePages::slots
//! ```
//!
//! A truncation lets go of `steady` before it unmaps (which takes the `space` of others): a fault in between finds
//! that the file ends before it.

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use arrayvec::ArrayVec;
use hal::frame::HugeFrame;
use hal::sync::SpinLock;
use sched::MutexGuard;

use super::offline::is_held_once;
use super::pool::{self, Claim};
use super::subpool::{self, Subpool};
use crate::mapping::radix::Radix;
use crate::sync::{Mutex, RwSem};

/// Pages taken out under one hold of the lock.
const CHUNK: usize = 64;
const NR_LOCKS: usize = 32;

static PAGE_LOCKS: [Mutex<()>; NR_LOCKS] = [const { Mutex::new("mm.hugetlb.page", ()) }; NR_LOCKS];

#[derive(Debug)]
enum Slot {
    Reserved,
    Page(HugeFrame),
}

#[derive(Debug)]
struct Slots {
    tree: Radix<Slot>,
    nr_pages: u64,
}

/// See the file's head.
pub struct HugePages {
    slots: SpinLock<Slots>,
    pub(super) steady: RwSem<()>,
    share: Option<Arc<Subpool>>,
}

impl HugePages {
    /// No pages yet; they are taken from `share`, or from the pool.
    pub(crate) fn new(share: Option<Arc<Subpool>>) -> Self {
        let slots = Slots { tree: Radix::new(), nr_pages: 0 };
        Self {
            slots: SpinLock::new("mm.hugetlb.slots", slots),
            steady: RwSem::new("mm.hugetlb.steady", ()),
            share,
        }
    }

    /// The share that the file's pages are taken from.
    pub(super) fn share(&self) -> Option<&Arc<Subpool>> {
        self.share.as_ref()
    }

    /// Huge pages in memory.
    pub fn nr_pages(&self) -> u64 {
        self.slots.lock().nr_pages
    }

    /// Huge page `idx`, if it is in memory.
    pub(crate) fn get(&self, idx: u64) -> Option<HugeFrame> {
        match self.slots.lock().tree.get(idx)? {
            Slot::Page(page) => Some(page.clone()),
            Slot::Reserved => None,
        }
    }

    /// The first huge page in memory at or after `idx`.
    pub(crate) fn next_page(&self, idx: u64) -> Option<u64> {
        let mut found = None;
        self.slots.lock().tree.for_each(idx..u64::MAX, |at, slot| {
            found = matches!(slot, Slot::Page(_)).then_some(at);
            found.is_none()
        });
        found
    }

    /// Keeps others from making page `idx`.
    pub(super) fn lock_page(&self, idx: u64) -> MutexGuard<'static, ()> {
        let name = (core::ptr::from_ref(self) as usize as u64 >> 6).wrapping_add(idx);
        let at = (name.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % NR_LOCKS;
        PAGE_LOCKS[at].lock()
    }

    /// Promises the pages of `range` to shared mappings, where there are none yet. Sleeps.
    ///
    /// `ENOMEM`: there are not so many.
    pub(super) fn reserve(&self, range: Range<u64>) -> Result<()> {
        let mut known = 0;
        self.slots.lock().tree.for_each(range.clone(), |_, _| {
            known += 1;
            true
        });
        let wanted = (range.end - range.start).saturating_sub(known);
        subpool::charge(self.share(), wanted)?;
        let (mut left, mut result) = (wanted, Ok(()));
        for idx in range {
            if left == 0 {
                break;
            }
            match self.slots.lock().tree.insert(idx, Slot::Reserved) {
                Ok(None) => left -= 1,
                Ok(Some(_)) => {}
                Err(_) => {
                    result = Err(Errno::ENOMEM);
                    break;
                }
            }
        }
        // Others were faster, or memory ran out: what was promised stays so until the file is cut.
        subpool::uncharge(self.share(), left);
        result
    }

    fn is_reserved(&self, idx: u64) -> bool {
        matches!(self.slots.lock().tree.get(idx), Some(Slot::Reserved))
    }

    /// A page for this file, with arbitrary contents. Sleeps when the pool must grow. `ENOSPC`: none is left.
    pub(super) fn obtain(&self, claim: Claim) -> Result<HugeFrame> {
        let (mut taken, id) = (claim, self.share().map_or(0, |share| share.id()));
        if let (Claim::Free, Some(share)) = (claim, self.share()) {
            // What the share has for sure was promised to it.
            let needed = share.get(1).ok_or(Errno::ENOSPC)?;
            taken = if needed == 0 { Claim::Reserved } else { Claim::Free };
        }
        let page = pool::take(taken).inspect_err(|_| {
            if let (Claim::Free, Some(share)) = (claim, self.share()) {
                let back = share.put(1);
                if taken == Claim::Reserved {
                    pool::release(back);
                }
            }
        })?;
        page.meta().owner.store(id, Ordering::Relaxed);
        Ok(page)
    }

    /// Page `idx` of the file, which `fill` fills when it is missing; its lock is held. Sleeps.
    ///
    /// `ENOSPC`: no page is left. `ENOMEM`: no memory for the tree.
    pub(super) fn get_or_make(&self, idx: u64, fill: impl FnOnce(&HugeFrame)) -> Result<HugeFrame> {
        if let Some(page) = self.get(idx) {
            return Ok(page);
        }
        let is_reserved = self.is_reserved(idx);
        let page = self.obtain(if is_reserved { Claim::Reserved } else { Claim::Free })?;
        fill(&page);
        self.enter(idx, &page)?;
        Ok(page)
    }

    /// Puts `page` in as page `idx`, where there is none; its lock is held. `ENOMEM`.
    pub(super) fn enter(&self, idx: u64, page: &HugeFrame) -> Result<()> {
        let mut slots = self.slots.lock();
        match slots.tree.get_mut(idx) {
            Some(slot) => *slot = Slot::Page(page.clone()),
            None => {
                slots.tree.insert(idx, Slot::Page(page.clone())).map_err(|_| Errno::ENOMEM)?;
            }
        }
        slots.nr_pages += 1;
        Ok(())
    }

    /// Puts `new` in the place of `old`, page `idx`, if nobody but the file and the caller has that; the caller holds `steady` for
    /// writing.
    pub(super) fn replace(&self, idx: u64, old: &HugeFrame, new: &HugeFrame) -> bool {
        let mut slots = self.slots.lock();
        let Some(Slot::Page(page)) = slots.tree.get_mut(idx) else { return false };
        let is_same = *page == *old && is_held_once(old);
        if is_same {
            *page = new.clone();
        }
        is_same
    }

    /// As `get_or_make` from outside of a fault (fallocate(2)). Sleeps.
    pub(crate) fn allocate(&self, idx: u64) -> Result<()> {
        let _steady = self.steady.read();
        let _alone = self.lock_page(idx);
        self.get_or_make(idx, HugeFrame::zero).map(drop)
    }

    /// Takes the pages and promises of `range` out of the file. Sleeps.
    pub(crate) fn remove(&self, range: Range<u64>) {
        let _steady = self.steady.write();
        self.take_out(range);
    }

    fn take_out(&self, range: Range<u64>) {
        let mut next = Some(range.start);
        while let Some(first) = next {
            let mut pages = ArrayVec::<HugeFrame, CHUNK>::new();
            let mut reserved = 0;
            {
                let mut slots = self.slots.lock();
                next = slots.tree.remove_range(first..range.end, CHUNK, |_, slot| match slot {
                    Slot::Page(page) => pages.push(page),
                    Slot::Reserved => reserved += 1,
                });
                slots.nr_pages -= pages.len() as u64;
            }
            subpool::uncharge(self.share(), reserved);
        }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // Nobody else is here: no lock to wait for.
        self.take_out(0..u64::MAX);
    }
}

impl core::fmt::Debug for HugePages {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "HugePages {{ pages: {} }}", self.nr_pages())
    }
}
