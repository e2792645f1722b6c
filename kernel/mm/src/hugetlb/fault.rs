//! Page faults on huge pages.
//!
//! ```text
//! what is there          read                             write
//! nothing                shared: a new page of the file   likewise
//!                        private: a new page of its own   likewise
//! a page of the file     the page; private: read-only     shared: the page; private: a copy
//! a private page         (nothing to do)                  reused when nobody else has it, else a copy
//! ```

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::Errno;
use hal::PageRange;
use hal::frame::{HUGE_FRAMES, HugeFrame};
use hal::paging::{Cursor, Entry, PteFlags};

use super::pool::{self, Claim};
use super::{HugePages, SHIFT, SIZE};
use crate::fault::{FaultError, Need, Step, Wait, touched, wait_for_watcher};
use crate::mapping::{Mapping, page_flags};
use crate::pin::is_any_pinned;
use crate::registry;
use crate::space::{Mm, Space};
use crate::thp::huge_range;
use crate::vma::{VmFlags, Vma};
use crate::watch::{POISON_MARKER, WP_MARKER, WatchModes};

/// A fault on a huge page.
pub(super) struct Fault<'a> {
    pub vma: &'a Vma,
    need: Need,
    pub page: PageRange,
    /// The page's number in the file.
    pub idx: u64,
    pub mapping: &'a Arc<Mapping>,
    pub pages: &'a HugePages,
}

impl<'a> Fault<'a> {
    /// The fault of `need` at `addr`; `None`: `vma` has no huge page there.
    pub fn new(vma: &'a Vma, addr: u64, need: Need) -> Option<Self> {
        let mapping = vma.attr.backing.mapping()?;
        let page = huge_range(vma, addr)?;
        let idx = vma.attr.offset_at(vma.start, page.start()) >> SHIFT;
        Some(Self { vma, need, page, idx, mapping, pages: mapping.huge()? })
    }

    pub fn addr(&self) -> u64 {
        self.page.start()
    }

    /// Whether the file ends before the page.
    pub fn is_behind_end(&self) -> bool {
        self.idx >= self.mapping.size() >> SHIFT
    }

    pub fn is_shared(&self) -> bool {
        !self.vma.attr.is_private()
    }

    fn may_write(&self) -> bool {
        self.vma.attr.flags.contains(VmFlags::WRITE)
    }

    /// A page for the mapping's own use, with arbitrary contents. `Err`: none is left.
    pub fn obtain_private(&self) -> Result<HugeFrame, Errno> {
        let reserve = self.vma.attr.reserve.as_ref();
        let is_promised = reserve.is_some_and(|reserve| reserve.take(self.idx));
        let page = self.pages.obtain(if is_promised { Claim::Reserved } else { Claim::Free });
        match (page, reserve) {
            (Ok(page), _) => {
                page.meta().flags.fetch_or(page_flags::ANON, Ordering::Relaxed);
                Ok(page)
            }
            (Err(e), Some(reserve)) if is_promised => {
                // It is on its way back to the pool; the promise holds.
                reserve.restore(self.idx);
                Err(e)
            }
            (Err(e), _) => Err(e),
        }
    }

    /// Gives a private page back that could not be mapped, with its promise.
    fn give_back(&self, page: HugeFrame) {
        if let Some(reserve) = &self.vma.attr.reserve {
            pool::promise_returning();
            page.meta().owner.store(0, Ordering::Relaxed);
            reserve.restore(self.idx);
        }
        drop(page);
    }
}

/// What a fault finds when no page is left.
fn out_of_pages(e: Errno) -> Result<Step, FaultError> {
    match e {
        Errno::ENOMEM => Ok(Step::Wait(Wait::Memory)),
        _ => Err(FaultError::Bus),
    }
}

impl Mm {
    /// One attempt to make an access to a huge page of `vma` possible; the caller holds `space`. Sleeps.
    #[cold]
    pub(crate) fn fault_hugetlb(&self, vma: &Vma, addr: u64, need: Need) -> Result<Step, FaultError> {
        let fault = Fault::new(vma, addr, need).ok_or(FaultError::Bus)?;
        let (pages, idx) = (fault.pages, fault.idx);
        let _steady = pages.steady.read();
        let _alone = pages.lock_page(idx);
        let mut cursor = self.page_table().cursor(fault.page);
        if let Some((huge, flags)) = cursor.huge_frame(fault.addr()) {
            return self.fault_huge_present(cursor, &fault, addr, huge, flags);
        }
        let mut mark = PteFlags::empty();
        match cursor.query(fault.addr()) {
            Entry::Special(POISON_MARKER) => return Err(FaultError::Poison),
            Entry::Special(WP_MARKER) if !need.write => mark = PteFlags::WATCHED,
            Entry::Special(WP_MARKER) if vma.attr.tells_writes() => {
                return Ok(wait_for_watcher(vma, addr, need, WatchModes::WP));
            }
            _ => {}
        }
        drop(cursor);
        if fault.is_behind_end() {
            return Err(FaultError::Bus);
        }
        let cached = pages.get(idx);
        let watched = if cached.is_some() { WatchModes::MINOR } else { WatchModes::MISSING };
        if vma.attr.watched().contains(watched) {
            return Ok(wait_for_watcher(vma, addr, need, watched));
        }
        match cached {
            Some(page) if need.write && !fault.is_shared() => self.map_copy(&fault, &page),
            Some(page) => self.map_new(&fault, page, fault.is_shared(), mark),
            None if fault.is_shared() => match pages.get_or_make(idx, HugeFrame::zero) {
                Ok(page) => self.map_new(&fault, page, true, mark),
                Err(e) => out_of_pages(e),
            },
            None => match fault.obtain_private() {
                Ok(page) => {
                    page.zero();
                    self.map_new(&fault, page, true, mark)
                }
                Err(e) => out_of_pages(e),
            },
        }
    }

    /// Maps `page` where nothing is; it may be written if the VMA may, and `is_ours`.
    pub(super) fn map_new(
        &self,
        fault: &Fault<'_>,
        page: HugeFrame,
        is_ours: bool,
        mark: PteFlags,
    ) -> Result<Step, FaultError> {
        let attr = &fault.vma.attr;
        let is_private = page.meta().flags.load(Ordering::Relaxed) & page_flags::ANON != 0;
        let writable = is_ours && fault.may_write() && !mark.contains(PteFlags::WATCHED);
        let mut cursor = self.page_table().cursor(fault.page);
        // Markers make way.
        cursor.unmap_range(fault.page, &mut |_, _| {});
        match cursor.map_huge(fault.addr(), page, touched(attr, writable, fault.need.write) | mark) {
            Ok(()) => {
                drop(cursor);
                if is_private {
                    attr.note_written();
                }
                self.rss.hugetlb.fetch_add(HUGE_FRAMES as i64, Ordering::Relaxed);
                Ok(Step::Done)
            }
            Err(page) => {
                drop(cursor);
                if is_private {
                    fault.give_back(page);
                }
                Ok(Step::Wait(Wait::Memory))
            }
        }
    }

    /// Gives a private mapping its own copy of a page of the file, where nothing is mapped.
    fn map_copy(&self, fault: &Fault<'_>, source: &HugeFrame) -> Result<Step, FaultError> {
        match fault.obtain_private() {
            Ok(page) => {
                page.copy_from(source);
                self.map_new(fault, page, true, PteFlags::empty())
            }
            Err(e) => out_of_pages(e),
        }
    }

    /// A page is mapped: another thread was faster, or a write meets a read-only entry.
    fn fault_huge_present(
        &self,
        mut cursor: Cursor<'_>,
        fault: &Fault<'_>,
        at: u64,
        huge: HugeFrame,
        flags: PteFlags,
    ) -> Result<Step, FaultError> {
        let (attr, addr, need) = (&fault.vma.attr, fault.addr(), fault.need);
        if !need.write || flags.contains(PteFlags::WRITE) {
            let kept = flags & (PteFlags::SOFT | PteFlags::WATCHED);
            cursor.protect_huge(addr, touched(attr, flags.contains(PteFlags::WRITE), need.write) | kept);
            return Ok(Step::Done);
        }
        if flags.contains(PteFlags::WATCHED) && attr.tells_writes() {
            return Ok(wait_for_watcher(fault.vma, at, need, WatchModes::WP));
        }
        let is_private = huge.meta().flags.load(Ordering::Relaxed) & page_flags::ANON != 0;
        let is_pinned = self.has_pinned.load(Ordering::Relaxed) && is_any_pinned(|part| huge.frame(part));
        // Our own reference would hide that nobody else has one.
        drop(huge);
        if fault.is_shared() || (is_private && (is_pinned || cursor.is_huge_exclusive(addr))) {
            cursor.protect_huge(addr, touched(attr, fault.may_write(), true));
            return Ok(Step::Done);
        }
        let Some((source, _)) = cursor.huge_frame(addr) else { return Ok(Step::Done) };
        drop(cursor);
        let copy = match fault.obtain_private() {
            Ok(copy) => copy,
            // Who was promised the page gets it: from those that share it since a fork.
            Err(_) if attr.reserve.is_some() && is_private => {
                return Ok(Step::Wait(Wait::Steal(fault.mapping.clone(), fault.idx)));
            }
            Err(e) => return out_of_pages(e),
        };
        copy.copy_from(&source);
        let mut cursor = self.page_table().cursor(fault.page);
        // A truncation may have taken it meanwhile.
        let is_same = cursor.huge_frame(addr).is_some_and(|(now, _)| now == source);
        let refused = if is_same {
            cursor.replace_huge(addr, copy, touched(attr, fault.may_write(), true)).err()
        } else {
            Some(copy)
        };
        drop(cursor);
        match refused {
            Some(copy) => fault.give_back(copy),
            None => attr.note_written(),
        }
        Ok(Step::Done)
    }

    /// Takes huge page `idx` of `mapping` out of private mappings that were not promised it; was there one?
    fn give_up_private(&self, mapping: &Arc<Mapping>, idx: u64) -> bool {
        let space = self.space.read();
        let mut found = false;
        for vma in space.set.iter() {
            let shows = vma.attr.backing.mapping().is_some_and(|own| Arc::ptr_eq(own, mapping));
            let first = vma.attr.offset >> SHIFT;
            if !shows || !vma.attr.is_private() || vma.attr.reserve.is_some() || idx < first {
                continue;
            }
            let at = vma.start.saturating_add((idx - first).saturating_mul(SIZE));
            let Some(page) = huge_range(vma, at).filter(|page| page.start() == at) else { continue };
            found |= self.page_table().cursor(page).query_huge(at).is_some();
            self.clear_pages(page.start()..page.end());
        }
        found
    }
}

/// Gives `child`, whose `space` the caller holds, pages of its own in `range` where it shares pinned ones; gives whether it did.
///
/// `ENOMEM`: no page of the pool is left.
pub(crate) fn copy_pinned(child: &Mm, space: &Space, range: Range<u64>) -> Result<bool, Errno> {
    let Some(vma) = space.set.at(range.start) else { return Ok(false) };
    let (mut at, mut is_any) = (range.start, false);
    while let Some(fault) = Fault::new(vma, at, Need::WRITE) {
        at = fault.page.end();
        let found = child.page_table().cursor(fault.page).huge_frame(fault.addr());
        let Some((shared, _)) = found else { continue };
        if !is_any_pinned(|part| shared.frame(part)) {
            continue;
        }
        is_any = true;
        let copy = fault.obtain_private().map_err(|_| Errno::ENOMEM)?;
        copy.copy_from(&shared);
        let flags = touched(&vma.attr, fault.may_write(), true);
        let refused = child.page_table().cursor(fault.page).replace_huge(fault.addr(), copy, flags).err();
        if let Some(copy) = refused {
            fault.give_back(copy);
            return Err(Errno::ENOMEM);
        }
    }
    Ok(is_any)
}

/// Takes huge page `idx` of `mapping` away from all private mappings that were not promised it, for `mm`, which was.
/// Sleeps; the caller holds no lock. `Bus`: nobody had it.
pub(crate) fn steal(mm: &Mm, mapping: &Arc<Mapping>, idx: u64) -> Result<(), FaultError> {
    let mut found = false;
    registry::for_each(|other| {
        if other.id() != mm.id() {
            found |= other.give_up_private(mapping, idx);
        }
    });
    if found { Ok(()) } else { Err(FaultError::Bus) }
}
