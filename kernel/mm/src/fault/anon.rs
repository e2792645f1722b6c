//! Faults on private memory, and writes that meet a read-only entry.

use core::sync::atomic::Ordering;

use hal::PageRange;
use hal::frame::Frame;
use hal::paging::{Cursor, Entry, PteFlags};

use super::{Attempt, FaultError, Need, Step, Wait, copy_of, done_or_no_memory, touched, zero_frame};
use crate::mapping::page_flags;
use crate::pin::is_pinned;
use crate::space::{Mm, RssDelta};
use crate::swap::{self, Pinned};
use crate::thp::{self, khugepaged};
use crate::vma::{VmFlags, Vma};
use crate::watch::{POISON_MARKER, WP_MARKER, WatchModes};

impl Mm {
    #[inline]
    pub(super) fn fault_anonymous(
        &self,
        vma: &Vma,
        page: PageRange,
        need: Need,
    ) -> Result<Attempt, FaultError> {
        let mut cursor = self.page_table().cursor(page);
        let addr = page.start();
        let mut mark = PteFlags::empty();
        match cursor.query(addr) {
            Entry::None => {}
            Entry::Special(WP_MARKER) if !need.write => mark = PteFlags::WATCHED,
            Entry::Special(WP_MARKER) if vma.attr.tells_writes() => {
                return Ok(Attempt::Watched(WatchModes::WP));
            }
            Entry::Special(WP_MARKER) => {}
            present => return self.fault_present(&mut cursor, vma, addr, present, need),
        }
        if vma.attr.watch.is_some() && vma.attr.watched().contains(WatchModes::MISSING) {
            return Ok(Attempt::Watched(WatchModes::MISSING));
        }
        let orders = self.wanted_orders(vma);
        if orders != 0 && mark.is_empty() {
            let has_room = orders & thp::HUGE != 0 && thp::huge_range(vma, addr).is_some();
            let is_free = has_room && cursor.is_huge_free(addr);
            if is_free || (need.write && orders & !thp::HUGE != 0) {
                drop(cursor);
                if self.fault_large(vma, addr, need, if is_free { orders } else { orders & !thp::HUGE }) {
                    return Ok(Attempt::Done);
                }
                cursor = self.page_table().cursor(page);
                match cursor.query(addr) {
                    Entry::None | Entry::Special(WP_MARKER) => {}
                    present => return self.fault_present(&mut cursor, vma, addr, present, need),
                }
            }
            if has_room {
                khugepaged::note_candidate();
            }
        }
        if !need.write {
            if vma.attr.flags.contains(VmFlags::SOFTCLEAN) {
                mark |= PteFlags::SOFT;
            }
            let Some(zero) = zero_frame() else { return Ok(Attempt::NoMemory) };
            return Ok(done_or_no_memory(cursor.map(addr, zero, touched(&vma.attr, false, false) | mark)));
        }
        let Some(frame) = Frame::alloc_user_zeroed() else { return Ok(Attempt::NoMemory) };
        frame.meta().flags.store(page_flags::ANON, Ordering::Relaxed);
        let writable = vma.attr.flags.contains(VmFlags::WRITE);
        if cursor.map(addr, frame, touched(&vma.attr, writable, true)).is_err() {
            return Ok(Attempt::NoMemory);
        }
        drop(cursor);
        vma.attr.note_written();
        self.rss.anon.fetch_add(1, Ordering::Relaxed);
        Ok(Attempt::Done)
    }

    /// Gives an access where nothing is mapped a large page of one of `orders`, if there is one.
    fn fault_large(&self, vma: &Vma, addr: u64, need: Need, orders: u32) -> bool {
        if orders & thp::HUGE != 0 {
            let done = if need.write { self.fault_huge(vma, addr) } else { self.fault_huge_zero(vma, addr) };
            if done {
                return true;
            }
        }
        need.write && orders & !thp::HUGE != 0 && self.fault_run(vma, addr, orders)
    }

    /// Puts a huge page, or else a small one, in the place of the huge page of zeroes.
    #[cold]
    pub(super) fn write_huge_zero(&self, vma: &Vma, page: PageRange, need: Need) -> Result<Step, FaultError> {
        self.drop_huge_zero(vma, page.start());
        let attempt = match self.fault_anonymous(vma, page, need)? {
            // Another thread read it meanwhile.
            Attempt::HugeZero => self.copy_small(&mut self.page_table().cursor(page), vma, page.start())?,
            other => other,
        };
        // What it may want besides memory, the next attempt finds.
        Ok(if matches!(attempt, Attempt::NoMemory) { Step::Wait(Wait::Memory) } else { Step::Done })
    }

    /// Something is mapped already: another thread was faster, or a write meets a read-only entry.
    pub(super) fn fault_present(
        &self,
        cursor: &mut Cursor<'_>,
        vma: &Vma,
        addr: u64,
        entry: Entry,
        need: Need,
    ) -> Result<Attempt, FaultError> {
        let (frame, flags) = match entry {
            Entry::Present { frame, flags } => (frame, flags),
            Entry::Special(value) if swap::is_swap(value) => {
                return Ok(Attempt::Swapped(Pinned::new(value)));
            }
            Entry::Special(POISON_MARKER) => return Err(FaultError::Poison),
            // LINUX: a guard page is told as if nothing were mapped.
            Entry::Special(_) => return Err(FaultError::SegvMaperr),
            Entry::None | Entry::Huge(_) => return Ok(Attempt::NotCached),
        };
        if frame.is_in_huge() && !flags.contains(PteFlags::WATCHED) && cursor.query_huge(addr).is_some() {
            if !vma.attr.is_private() {
                // Shared memory: all may write who may write at all.
                let writable = vma.attr.flags.contains(VmFlags::WRITE);
                let kept = if need.write { PteFlags::empty() } else { flags & PteFlags::SOFT };
                let is_clean = kept.is_empty() && (need.write || flags.contains(PteFlags::WRITE));
                cursor.protect_huge(addr, touched(&vma.attr, writable && is_clean, need.write) | kept);
                return Ok(Attempt::Done);
            }
            let is_zero = frame.meta().flags.load(Ordering::Relaxed) & page_flags::ZERO != 0;
            if is_zero && need.write && self.wants_huge(vma) {
                return Ok(Attempt::HugeZero);
            }
            // Our own reference would hide that nobody else has one.
            drop(frame);
            if thp::settle_huge(cursor, vma, addr, need.write) {
                return Ok(Attempt::Done);
            }
            // The copy below splits the entry.
            return self.copy_small(cursor, vma, addr);
        }
        if !need.write || flags.contains(PteFlags::WRITE) {
            // A stale translation at worst; the access is tried again with this entry.
            let again = touched(&vma.attr, flags.contains(PteFlags::WRITE), need.write);
            cursor.protect(addr, again | flags & (PteFlags::SOFT | PteFlags::WATCHED));
            return Ok(Attempt::Done);
        }
        if flags.contains(PteFlags::WATCHED) && vma.attr.tells_writes() {
            return Ok(Attempt::Watched(WatchModes::WP));
        }
        let kind = frame.meta().flags.load(Ordering::Relaxed);
        let writable = vma.attr.flags.contains(VmFlags::WRITE);
        if !vma.attr.is_private() {
            let notify = vma.attr.backing.mapping().is_some_and(|m| m.wants_write_notify());
            if notify && kind & page_flags::DIRTY == 0 {
                return Ok(Attempt::WantsNotify(frame));
            }
            cursor.protect(addr, touched(&vma.attr, true, true));
            return Ok(Attempt::Done);
        }
        // Two references: the entry's and the one in `frame`.
        if kind & page_flags::ANON != 0 && (frame.ref_count() == 2 || is_pinned(&frame)) {
            cursor.protect(addr, touched(&vma.attr, writable, true));
            return Ok(Attempt::Done);
        }
        let copy = if kind & page_flags::ZERO != 0 { Frame::alloc_user_zeroed() } else { copy_of(&frame) };
        let Some(copy) = copy else { return Ok(Attempt::NoMemory) };
        copy.meta().flags.store(page_flags::ANON, Ordering::Relaxed);
        if cursor.map(addr, copy, touched(&vma.attr, writable, true)).is_err() {
            return Ok(Attempt::NoMemory);
        }
        vma.attr.note_written();
        let mut delta = RssDelta { anon: 1, ..Default::default() };
        delta.count(kind, -1);
        self.rss.apply(delta);
        Ok(Attempt::Done)
    }

    /// Gives a write to a part of a shared huge page a copy of that part.
    fn copy_small(&self, cursor: &mut Cursor<'_>, vma: &Vma, addr: u64) -> Result<Attempt, FaultError> {
        if cursor.query_huge(addr).is_none() {
            // Another thread was faster: the access is tried again.
            return Ok(Attempt::Done);
        }
        let Entry::Present { frame, .. } = cursor.query(addr) else { return Ok(Attempt::NotCached) };
        let is_zero = frame.meta().flags.load(Ordering::Relaxed) & page_flags::ZERO != 0;
        if is_pinned(&frame) {
            // Only ours, whoever has the parts around it.
            let writable = vma.attr.flags.contains(VmFlags::WRITE);
            cursor.protect(addr, touched(&vma.attr, writable, true));
            return Ok(Attempt::Done);
        }
        let copy = if is_zero { Frame::alloc_user_zeroed() } else { copy_of(&frame) };
        let Some(copy) = copy else { return Ok(Attempt::NoMemory) };
        copy.meta().flags.store(page_flags::ANON, Ordering::Relaxed);
        let writable = vma.attr.flags.contains(VmFlags::WRITE);
        if cursor.map(addr, copy, touched(&vma.attr, writable, true)).is_err() {
            return Ok(Attempt::NoMemory);
        }
        if is_zero {
            vma.attr.note_written();
            self.rss.anon.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Attempt::Done)
    }
}
