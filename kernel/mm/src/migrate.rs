//! Moving pages: what is in one goes to another frame while programs go on, and the old frame is left to the caller.
//!
//! ```text
//! one address space shows it     under its page-table lock: writes forbidden, copied, the entry replaced
//! several do, since a fork       all entries made read-only; copied; each entry replaced. Our reference keeps a write fault
//!                                from taking the page as its own meanwhile: it copies
//! the page cache has it          all entries taken out; under the lock of the cache: copied, replaced. Faults find the new page
//! ```
//! A page that somebody else refers to (a pin, a system call under way, swap, write-back) stays: its count is higher than what
//! the entries and the cache explain. Pages that were merged ([`crate::ksm`]) or whose writes are watched stay, too.
//!
//! There is no reverse map: to find the entries of a page all page tables are walked. So many pages are moved in one walk
//! ([`Mm::leave_blocks`]) where that is possible.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use hal::frame::Frame;
use hal::paging::{Cursor, Entry, PteFlags};
use hal::{PAGE_SIZE, PageRange, USER_END};

use crate::mapping::{Mapping, page_flags};
use crate::space::{Mm, RssDelta};
use crate::vma::{VmFlags, Vma};
use crate::{oom, registry};

/// Entries looked at under one hold of the locks.
const STEP: usize = 256;
/// Attempts to find a page of a file that no fault has just mapped again.
const ATTEMPTS: usize = 8;

/// The flags of a page that go along with its contents.
const KEPT: u32 = page_flags::ANON
    | page_flags::FILE
    | page_flags::SHMEM
    | page_flags::DIRTY
    | page_flags::USED
    | page_flags::ACTIVE
    | page_flags::LAZY
    | page_flags::UNTOUCHED;

pub(crate) fn kind_of(frame: &Frame) -> u32 {
    frame.meta().flags.load(Ordering::Acquire)
}

/// Makes `new` what `old` is. Nobody may write to `old` meanwhile.
fn become_twin(new: &Frame, old: &Frame) {
    new.copy_from(old);
    let (to, from) = (new.meta(), old.meta());
    to.flags.store(kind_of(old) & KEPT, Ordering::Relaxed);
    to.index.store(from.index.load(Ordering::Relaxed), Ordering::Relaxed);
    to.owner.store(from.owner.load(Ordering::Relaxed), Ordering::Release);
}

/// Whether `frame` is private memory that can move.
pub(crate) fn is_private(frame: &Frame) -> bool {
    let others = page_flags::KSM | page_flags::HUGETLB | page_flags::ZERO;
    kind_of(frame) & (page_flags::ANON | others) == page_flags::ANON
}

/// Whether the entries of `vma` can change their pages.
fn is_movable(vma: &Vma) -> bool {
    !vma.attr.flags.intersects(VmFlags::PFNMAP | VmFlags::IO | VmFlags::HUGETLB)
}

/// Which mappings of locked memory (mlock(2)) are left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locked {
    /// None.
    Moves,
    /// All.
    Stays,
}

/// Blocks of frames that are to become free, and the frames that already are, which nobody else gets.
pub(crate) struct Blocks {
    /// Numbers of the blocks, sorted.
    pub numbers: Vec<u64>,
    /// Binary logarithm of the frames in one.
    pub order: u32,
    /// What is free of them. Has room for all their frames.
    pub free: Vec<Frame>,
}

impl Blocks {
    fn has(&self, frame: &Frame) -> bool {
        self.numbers.binary_search(&(frame.pfn() >> self.order)).is_ok()
    }

    /// Keeps a frame that was left, from its last user or not.
    fn keep(&mut self, frame: Frame) {
        debug_assert!(self.free.len() < self.free.capacity(), "more frames than the blocks have");
        if self.free.len() < self.free.capacity() {
            self.free.push(frame);
        }
    }
}

/// Puts a copy in the place of the private page at `addr`, if this entry is its only holder; the old one.
fn move_alone(cursor: &mut Cursor<'_>, addr: u64) -> Option<Frame> {
    let Entry::Present { frame: old, flags } = cursor.query(addr) else { return None };
    // Two references: the entry's and ours.
    if !is_private(&old) || old.is_in_huge() || old.ref_count() != 2 {
        return None;
    }
    let new = Frame::alloc_user()?;
    let frozen = (flags - PteFlags::WRITE) | PteFlags::COW;
    if !cursor.protect(addr, frozen) {
        return None;
    }
    // Even if the entry forbade writes already: who made it so may not have flushed yet.
    cursor.flush_page(addr);
    if old.ref_count() != 2 {
        return None;
    }
    // Nobody writes from here on: who tries waits for the cursor. Who did before has left the dirty flag.
    let Entry::Present { flags: now, .. } = cursor.query(addr) else { return None };
    become_twin(&new, &old);
    cursor.map(addr, new, flags | (now & PteFlags::DIRTY)).is_ok().then_some(old)
}

impl Mm {
    /// Takes the pages of this address space out of `blocks`: private ones move, those of the page cache are unmapped, so that
    /// the cache can move them. How many moved. May sleep.
    pub(crate) fn leave_blocks(&self, blocks: &mut Blocks, locked: Locked) -> usize {
        let (mut moved, mut next) = (0, Some(0));
        while let Some(at) = next {
            let mut delta = RssDelta::default();
            next = self.leave_step(at, blocks, locked, &mut moved, &mut delta);
            self.rss.apply(delta);
        }
        moved
    }

    /// Some entries from `from` on; where to go on.
    fn leave_step(
        &self,
        from: u64,
        blocks: &mut Blocks,
        locked: Locked,
        moved: &mut usize,
        delta: &mut RssDelta,
    ) -> Option<u64> {
        let space = self.space.read();
        for vma in space.set.overlapping(from..USER_END) {
            let is_locked = vma.attr.flags.contains(VmFlags::LOCKED);
            if !is_movable(vma) || (is_locked && locked == Locked::Stays) {
                continue;
            }
            let part = vma.clip(&(from..USER_END));
            let Some(range) = PageRange::new(part.start, part.end) else { continue };
            let may_unmap = !is_locked && vma.attr.watch.is_none();
            let mut cursor = self.page_table().cursor(range);
            let mut at = range.start();
            for _ in 0..STEP {
                let Some((addr, entry)) = cursor.next_mapped(at) else { break };
                at = addr + PAGE_SIZE as u64;
                let Entry::Present { frame, flags } = entry else { continue };
                if !blocks.has(&frame) {
                    continue;
                }
                let kind = kind_of(&frame);
                drop(frame);
                if kind & page_flags::ANON != 0 {
                    if let Some(old) = move_alone(&mut cursor, addr) {
                        blocks.keep(old);
                        *moved += 1;
                    }
                } else if kind & page_flags::FILE != 0 && may_unmap && !flags.contains(PteFlags::WATCHED) {
                    cursor.unmap(addr);
                    delta.count(kind, -1);
                }
            }
            if cursor.next_mapped(at).is_some() {
                return Some(at);
            }
        }
        None
    }

    /// Shows `each` the entries that hold `frame`, under the lock of the page table.
    pub(crate) fn for_each_entry_of(
        &self,
        frame: &Frame,
        mut each: impl FnMut(&mut Cursor<'_>, u64, PteFlags, &Vma),
    ) {
        let space = self.space.read();
        for vma in space.set.iter().filter(|vma| is_movable(vma)) {
            let mut at = vma.start;
            while at < vma.end {
                let Some(range) = PageRange::new(at, vma.end) else { break };
                let mut cursor = self.page_table().cursor(range);
                for _ in 0..STEP {
                    let Some((addr, entry)) = cursor.next_mapped(at) else {
                        at = vma.end;
                        break;
                    };
                    at = addr + PAGE_SIZE as u64;
                    let Entry::Present { frame: found, flags } = entry else { continue };
                    if found.pfn() == frame.pfn() {
                        // It would count as a holder.
                        drop(found);
                        each(&mut cursor, addr, flags, vma);
                    }
                }
            }
        }
    }

    /// Forbids writes to `frame`, a private page, to which the caller has one reference; how many entries hold it, but for those
    /// of huge pages that cannot be split.
    ///
    /// `EBUSY`: somebody refers to a page that one entry shows for writing. That stays so: the next write would make a copy, which
    /// misses what a device reads into the page.
    fn freeze_entries(&self, frame: &Frame) -> Result<u32> {
        let (mut nr, mut result) = (0_u32, Ok(()));
        self.for_each_entry_of(frame, |cursor, addr, flags, _| {
            // Two references: the entry's and the caller's.
            if flags.contains(PteFlags::WRITE) && frame.ref_count() != 2 {
                result = Err(Errno::EBUSY);
            } else if cursor.protect(addr, (flags - PteFlags::WRITE) | PteFlags::COW) {
                cursor.flush_page(addr);
                nr = nr.saturating_add(1);
            }
        });
        result.map(|()| nr)
    }

    /// Puts `new` where `old` is.
    fn replace_entries(&self, old: &Frame, new: &Frame) {
        self.for_each_entry_of(old, |cursor, addr, flags, _| {
            // Cannot fail but for a huge entry that has to be split: that one keeps the old page, which is as good.
            let _ = cursor.map(addr, new.clone(), flags);
        });
    }

    /// Takes the entries of `frame`, a page of a file, out, but for those whose loss user space would see.
    pub(crate) fn unmap_entries(&self, frame: &Frame) {
        let mut delta = RssDelta::default();
        let kind = kind_of(frame);
        self.for_each_entry_of(frame, |cursor, addr, flags, vma| {
            if vma.attr.watch.is_none() && !flags.contains(PteFlags::WATCHED) {
                cursor.unmap(addr);
                delta.count(kind, -1);
            }
        });
        self.rss.apply(delta);
    }
}

/// Moves what is in `old`, a private page, to another frame in all address spaces. Sleeps; the caller holds no lock, and no
/// other reference than `old`.
///
/// `EBUSY`: somebody else refers to it, or it was merged. `ENOMEM`.
pub(crate) fn move_private(old: &Frame) -> Result<()> {
    if !is_private(old) {
        return Err(Errno::EBUSY);
    }
    let new = oom::alloc()?;
    let mut frozen = Ok(0_u32);
    registry::for_each_by_age(|mm| {
        if let Ok(nr) = frozen {
            frozen = mm.freeze_entries(old).map(|more| nr.saturating_add(more));
        }
    });
    let nr = frozen?;
    if nr == 0 || old.ref_count() > nr.saturating_add(1) {
        return Err(Errno::EBUSY);
    }
    become_twin(&new, old);
    registry::for_each_by_age(|mm| mm.replace_entries(old, &new));
    Ok(())
}

/// Moves page `idx` of `mapping`, which is in `old`, to another frame. Sleeps; the caller holds no lock, and no other reference
/// than `old`.
///
/// `EBUSY`: somebody else refers to it. `ENOMEM`.
pub(crate) fn move_cached(mapping: &Arc<Mapping>, idx: u64, old: &Frame) -> Result<()> {
    let new = oom::alloc()?;
    for _ in 0..ATTEMPTS {
        registry::for_each(|mm| mm.unmap_entries(old));
        if mapping.replace_page(idx, old, &new) {
            return Ok(());
        }
        // A fault was faster.
        sched::yield_now();
    }
    Err(Errno::EBUSY)
}

/// Pages that a cache has looked at under one hold of its lock.
const CACHE_STEP: usize = 256;

impl Mapping {
    /// Puts a copy of page `idx` into `new` and has it in the place of `old`, if nobody else than the cache and the caller
    /// refers to that.
    fn replace_page(&self, idx: u64, old: &Frame, new: &Frame) -> bool {
        self.with_small_page(idx, |slot| {
            if slot.pfn() != old.pfn() || slot.ref_count() != 2 {
                return false;
            }
            // Nobody else has it, and nobody can get it without the lock of the cache.
            become_twin(new, old);
            *slot = new.clone();
            true
        })
    }

    /// Moves the pages that only the cache has out of `blocks`; how many. LINUX: pages of memory files stay where no mapping
    /// leads to them.
    pub(crate) fn leave_blocks(&self, blocks: &mut Blocks) -> usize {
        let (mut moved, mut next) = (0, Some(0));
        while let Some(first) = next {
            let mut found: Option<u64> = None;
            next = self.visit_pages(first..u64::MAX, CACHE_STEP, |idx, frame| {
                if blocks.has(frame) && frame.ref_count() == 1 {
                    found = Some(idx);
                }
                found.is_none()
            });
            let Some(idx) = found else { continue };
            next = idx.checked_add(1);
            let Some(new) = Frame::alloc_user() else { return moved };
            let old = self.with_page(idx, |slot| {
                if !blocks.has(slot) || slot.ref_count() != 1 {
                    return None;
                }
                become_twin(&new, slot);
                Some(core::mem::replace(slot, new.clone()))
            });
            if let Some(old) = old {
                blocks.keep(old);
                moved += 1;
            }
        }
        moved
    }
}
