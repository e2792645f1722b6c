//! Large entries: level-2 entries that map a huge frame. Their part of [`Cursor`].
//!
//! Splitting replaces a large entry by a table of 512 small ones for the same frames, with the same rights. It cannot fail,
//! because each large entry has a spare table (U4 of [`table`](super::table)).
//!
//! ```text
//! level 2: P LARGE frame 512        level 2: P table ── level 1: P 512, P 513, ... P 1023
//! ```
//!
//! In between, the entry is empty and every CPU's TLB is flushed: no CPU may hold a large and a small translation of one
//! address (Intel SDM vol. 3 ch. 5.10.2.3). What a thread touches meanwhile faults, and waits for the lock.

use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicU64, Ordering};

use super::cursor::{Cursor, Removed};
use super::leaf::{count, encode, flags_of, is_large, large_pfn, table_at};
use super::{pte, tlb};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE};
use crate::frame::{Frame, HUGE_FRAMES, HugeFrame};
use crate::paging::{Entry, PteFlags};

const SPAN: u64 = pte::span(2);

const fn base_of(addr: u64) -> u64 {
    addr & !(SPAN - 1)
}

impl Cursor<'_> {
    /// The level-2 entry for `addr`, if there is a table with it.
    fn level2_slot(&self, addr: u64) -> Option<&AtomicU64> {
        // SAFETY: the cursor holds the lock.
        let table = unsafe { self.table.table(addr, 2, false) }.ok().flatten()?;
        // SAFETY: U1; the cursor holds the lock for its lifetime.
        Some(unsafe { &table_at(table).0[pte::index(addr, 2)] })
    }

    /// The large entry for `addr`, if there is one.
    pub(super) fn large_slot(&self, addr: u64) -> Option<&AtomicU64> {
        self.level2_slot(addr).filter(|slot| is_large(slot.load(Ordering::Relaxed)))
    }

    /// The large entry for `addr`: where what it maps begins, and the entry.
    pub(super) fn large_at(&self, addr: u64) -> Option<(u64, u64)> {
        self.large_slot(addr).map(|slot| (base_of(addr), slot.load(Ordering::Relaxed)))
    }

    /// The huge frame of a large entry, to be looked at.
    fn peek(entry: u64) -> ManuallyDrop<HugeFrame> {
        // SAFETY: U4: the entry owns a reference, which is not dropped with this value.
        ManuallyDrop::new(unsafe { HugeFrame::from_first(large_pfn(entry)) })
    }

    /// What a large entry looks like at `addr`.
    pub(super) fn large_entry(&self, addr: u64) -> Option<Entry> {
        let (base, entry) = self.large_at(addr)?;
        let frame = Self::peek(entry).frame(((addr - base) >> PAGE_SHIFT) as usize);
        Some(Entry::Present { frame, flags: flags_of(entry) })
    }

    /// Replaces the large entry for `addr` by a table of small ones, and gives that; `None`: there is no large entry.
    pub(super) fn split(&mut self, addr: u64) -> Option<u64> {
        let (base, _) = self.large_at(addr)?;
        let spare = self.table.withdraw()?;
        // The hardware may have set its bits since: what is taken out counts.
        let old = self.large_slot(addr)?.swap(0, Ordering::AcqRel);
        tlb::flush(self.table, base, base + SPAN);
        // SAFETY: U4: the entry owned the reference, and is 0 now.
        let first = u64::from(unsafe { HugeFrame::from_first(large_pfn(old)) }.into_frames());
        let (flags, table) = (flags_of(old), spare.into_pfn() << PAGE_SHIFT);
        // SAFETY: the spare is ours alone until it is entered below.
        for (slot, pfn) in unsafe { table_at(table) }.0.iter().zip(first..) {
            // U1: each takes over the reference that `into_frames` left to it.
            slot.store(encode(pfn, flags), Ordering::Relaxed);
        }
        count(table, HUGE_FRAMES as i64);
        // Release: the hardware sees a filled table.
        self.level2_slot(addr)?.store(table | pte::PRESENT | pte::WRITABLE | pte::USER, Ordering::Release);
        self.forget_leaf();
        Some(table)
    }

    /// Takes out the large entry for `addr`, and shows it to `each` first.
    pub(super) fn unmap_large(&mut self, addr: u64, each: &mut dyn FnMut(u64, &Entry)) {
        let base = base_of(addr);
        let Some(slot) = self.large_slot(addr) else { return };
        let old = slot.swap(0, Ordering::AcqRel);
        // SAFETY: U4: the entry owned one reference, and is 0 now.
        let huge = unsafe { HugeFrame::from_first(large_pfn(old)) };
        let shown = Entry::Huge(huge.clone());
        each(base, &shown);
        drop(shown);
        if old & pte::PRESENT != 0 {
            self.need_flush(base);
            self.need_flush(base + SPAN - PAGE_SIZE as u64);
        }
        self.table.add_resident(-(HUGE_FRAMES as isize));
        self.keep(Removed::Huge(huge));
        drop(self.table.withdraw());
        self.leave_level2(addr);
    }

    /// Counts the entry for `addr` out of its level-2 table; frees that, and the tables above, when empty.
    fn leave_level2(&mut self, addr: u64) {
        // SAFETY: the cursor holds the lock.
        let table = unsafe { self.table.table(addr, 2, false) }.ok().flatten();
        if table.is_some_and(|table| count(table, -1) == 0) {
            self.drop_tables(addr, 3);
        }
    }

    /// Maps all of `huge` by one entry; `addr` begins what it covers. Gives `huge` back when something is mapped there
    /// already, or memory ran out.
    pub fn map_huge(&mut self, addr: u64, huge: HugeFrame, flags: PteFlags) -> Result<(), HugeFrame> {
        let end = addr.checked_add(SPAN).unwrap_or(0);
        let inside = addr >= self.range().start() && end <= self.range().end() && end > addr;
        assert!(inside && addr == base_of(addr), "huge page outside of the cursor");
        let Some(spare) = Frame::alloc() else { return Err(huge) };
        // SAFETY: the cursor holds the lock.
        let Ok(Some(table)) = (unsafe { self.table.table(addr, 2, true) }) else { return Err(huge) };
        // SAFETY: U1; the cursor holds the lock.
        let slot = unsafe { &table_at(table).0[pte::index(addr, 2)] };
        if slot.load(Ordering::Relaxed) != 0 {
            return Err(huge);
        }
        let entry = encode(u64::from(huge.into_first()), flags) | pte::LARGE;
        // Release: the page's contents come before the entry.
        slot.store(entry, Ordering::Release);
        count(table, 1);
        self.table.deposit(spare);
        self.table.add_resident(HUGE_FRAMES as isize);
        Ok(())
    }

    /// Maps `huge` instead of what one entry maps at the huge page that holds `addr`; needs no memory. Gives it back when
    /// there is no such entry.
    pub fn replace_huge(&mut self, addr: u64, huge: HugeFrame, flags: PteFlags) -> Result<(), HugeFrame> {
        let base = base_of(addr);
        let Some(slot) = self.large_slot(addr) else { return Err(huge) };
        let old = slot.swap(0, Ordering::AcqRel);
        if old & pte::PRESENT != 0 {
            // No CPU may read the old page once another one can write the new one.
            tlb::flush(self.table, base, base + SPAN);
        }
        let entry = encode(u64::from(huge.into_first()), flags) | pte::LARGE;
        if let Some(slot) = self.level2_slot(addr) {
            slot.store(entry, Ordering::Release);
        }
        // SAFETY: U4: the entry owned one reference, and leads to another frame now.
        self.keep(Removed::Huge(unsafe { HugeFrame::from_first(large_pfn(old)) }));
        Ok(())
    }

    /// Is nothing mapped in the huge page that holds `addr`?
    pub fn is_huge_free(&self, addr: u64) -> bool {
        !self.knows_leaf(addr) && self.level2_slot(addr).is_none_or(|slot| slot.load(Ordering::Relaxed) == 0)
    }

    /// Whether one entry maps the huge page that holds `addr`; if so, its flags.
    pub fn query_huge(&self, addr: u64) -> Option<PteFlags> {
        self.large_at(addr).map(|(_, entry)| flags_of(entry))
    }

    /// The huge frame that one entry maps at the huge page that holds `addr`, with the entry's flags.
    pub fn huge_frame(&self, addr: u64) -> Option<(HugeFrame, PteFlags)> {
        let (_, entry) = self.large_at(addr)?;
        Some((HugeFrame::clone(&Self::peek(entry)), flags_of(entry)))
    }

    /// Whether one entry maps the huge page that holds `addr`, and nobody else has a reference to any part of it.
    pub fn is_huge_exclusive(&self, addr: u64) -> bool {
        self.large_at(addr).is_some_and(|(_, entry)| Self::peek(entry).is_exclusive())
    }

    /// Changes the flags of the single entry that maps the huge page that holds `addr` (accessed and dirty are kept);
    /// `false` when there is none.
    pub fn protect_huge(&mut self, addr: u64, new: PteFlags) -> bool {
        let Some(slot) = self.large_slot(addr) else { return false };
        let hardware = PteFlags::ACCESSED | PteFlags::DIRTY;
        let mut old = slot.load(Ordering::Relaxed);
        loop {
            let flags = new | (flags_of(old) & hardware);
            let entry = encode(u64::from(large_pfn(old)), flags) | pte::LARGE;
            match slot.compare_exchange_weak(old, entry, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        if old & pte::PRESENT != 0 {
            self.need_flush(base_of(addr));
        }
        true
    }
}
