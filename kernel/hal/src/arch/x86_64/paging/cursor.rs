//! Editing a user page table: [`Cursor`].
//!
//! The invariants U1 to U3 and the locking are in [`table`](super::table)'s header.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::leaf::{SPECIAL_SHIFT, count, encode, flags_of, has_frame, is_large, nr_entries, pfn, table_at};
use super::table::{Lookup, PageTable};
use super::{pte, tlb};
use crate::addr::{PAGE_SIZE, PageRange};
use crate::error::NoMemory;
use crate::frame::{Frame, HugeFrame};
use crate::paging::{Entry, PteFlags};
use crate::sync::SpinLockGuard;

/// Frames that a cursor keeps before it flushes in between.
const MAX_REMOVED: usize = 512;
/// Entries that are moved before the lock is given up for a moment.
const MOVE_STEPS: u64 = 2048;

/// What an entry owned.
#[expect(dead_code, reason = "kept to be dropped")]
pub(super) enum Removed {
    Frame(Frame),
    Huge(HugeFrame),
}

/// The right to edit a range of a page table.
pub struct Cursor<'a> {
    /// Taken out only to flush without the lock, at the end.
    guard: Option<SpinLockGuard<'a, ()>>,
    pub(super) table: &'a PageTable,
    range: PageRange,
    /// The level-1 table used last: start of the 2 MiB that it maps, physical address.
    leaf: (u64, u64),
    /// Frames taken out, kept until the flush (U3); the first needs no memory.
    removed_first: Option<Removed>,
    removed: Vec<Removed>,
    /// What to flush.
    flush_start: u64,
    flush_end: u64,
}

impl<'a> Cursor<'a> {
    /// A cursor over `range` of `table`, whose lock is held by `guard`.
    pub(super) fn new(table: &'a PageTable, guard: SpinLockGuard<'a, ()>, range: PageRange) -> Self {
        Cursor {
            guard: Some(guard),
            table,
            range,
            leaf: (u64::MAX, 0),
            removed_first: None,
            removed: Vec::new(),
            flush_start: u64::MAX,
            flush_end: 0,
        }
    }
    #[track_caller]
    fn check(&self, addr: u64) {
        assert!(
            self.range.contains(addr) && addr.is_multiple_of(PAGE_SIZE as u64),
            "address outside of the cursor"
        );
    }

    /// The range it may edit.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// What maps `addr`.
    #[inline]
    fn find(&mut self, addr: u64) -> Lookup {
        let base = addr & !(pte::span(2) - 1);
        if self.leaf.0 == base {
            return Lookup::Leaf(self.leaf.1);
        }
        // SAFETY: the cursor holds the lock.
        let found = unsafe { self.table.lookup(addr) };
        if let Lookup::Leaf(leaf) = found {
            self.leaf = (base, leaf);
        }
        found
    }

    /// The level-1 table for `addr`, made when missing.
    fn make_leaf(&mut self, addr: u64) -> Result<u64, NoMemory> {
        match self.find(addr) {
            Lookup::Leaf(leaf) => return Ok(leaf),
            Lookup::Large => return self.split(addr).ok_or(NoMemory),
            Lookup::Nothing => {}
        }
        // SAFETY: the cursor holds the lock.
        let made = unsafe { self.table.leaf_table(addr, true) }?.ok_or(NoMemory)?;
        self.leaf = (addr & !(pte::span(2) - 1), made);
        Ok(made)
    }

    /// The level-1 table for `addr`, if there is one; a huge frame there is split.
    #[inline]
    fn find_or_split(&mut self, addr: u64) -> Option<u64> {
        match self.find(addr) {
            Lookup::Leaf(leaf) => Some(leaf),
            Lookup::Large => self.split(addr),
            Lookup::Nothing => None,
        }
    }

    /// Is there a level-1 table for `addr`, as far as is known without a walk?
    #[inline]
    pub(super) fn knows_leaf(&self, addr: u64) -> bool {
        self.leaf.0 == addr & !(pte::span(2) - 1)
    }

    /// Forgets the level-1 table used last: tables changed.
    pub(super) fn forget_leaf(&mut self) {
        self.leaf = (u64::MAX, 0);
    }

    /// The entry for `addr` in the level-1 table at `leaf`.
    fn slot(&self, leaf: u64, addr: u64) -> &AtomicU64 {
        // SAFETY: `leaf` came from `find` or `make_leaf`, and the cursor holds the lock for its lifetime.
        unsafe { &table_at(leaf).0[pte::index(addr, 1)] }
    }

    fn decode(entry: u64) -> Entry {
        if entry == 0 {
            return Entry::None;
        }
        if !has_frame(entry) {
            return Entry::Special(entry >> SPECIAL_SHIFT);
        }
        // SAFETY: U1: the entry owns a reference, which is only looked at to make another one.
        let frame = core::mem::ManuallyDrop::new(unsafe { Frame::from_pfn(pfn(entry)) });
        Entry::Present { frame: Frame::clone(&frame), flags: flags_of(entry) }
    }

    /// The entry at `addr`.
    pub fn query(&mut self, addr: u64) -> Entry {
        self.check(addr);
        match self.find(addr) {
            Lookup::Leaf(leaf) => Self::decode(self.slot(leaf, addr).load(Ordering::Relaxed)),
            Lookup::Large => self.large_entry(addr).unwrap_or(Entry::None),
            Lookup::Nothing => Entry::None,
        }
    }

    /// Notes that `addr` must be flushed.
    pub(super) fn need_flush(&mut self, addr: u64) {
        self.flush_start = self.flush_start.min(addr);
        self.flush_end = self.flush_end.max(addr + PAGE_SIZE as u64);
    }

    /// Keeps what an entry owned until the flush.
    pub(super) fn keep(&mut self, frame: Removed) {
        if self.removed_first.is_none() {
            self.removed_first = Some(frame);
            return;
        }
        if self.removed.len() >= MAX_REMOVED || self.removed.try_reserve(1).is_err() {
            self.flush_locked();
        }
        if self.removed.len() < self.removed.capacity() {
            self.removed.push(frame);
        } else {
            // Not even one word of memory: this one waits in the place that the flush made free.
            self.removed_first = Some(frame);
        }
    }

    /// Keeps the frame of a removed leaf, and has its address flushed.
    fn keep_leaf(&mut self, addr: u64, old: u64) {
        if has_frame(old) {
            self.table.add_resident(-1);
            if old & pte::PRESENT != 0 {
                self.need_flush(addr);
            }
            // SAFETY: U1: the entry owned one reference from `into_pfn`, and is overwritten.
            let frame = unsafe { Frame::from_pfn(pfn(old)) };
            self.keep(Removed::Frame(frame));
        }
    }

    /// Stores a new leaf (not 0) instead of what was there.
    fn replace(&mut self, addr: u64, leaf: u64, new: u64) {
        let slot = self.slot(leaf, addr);
        let old = slot.load(Ordering::Relaxed);
        if old == 0 {
            // Release: the page's contents come before the entry.
            slot.store(new, Ordering::Release);
            count(leaf, 1);
            return;
        }
        let old = slot.swap(0, Ordering::AcqRel);
        if old & pte::PRESENT != 0 {
            // No CPU may read the old page once another one can write the new one.
            tlb::flush(self.table, addr, addr + PAGE_SIZE as u64);
        }
        self.slot(leaf, addr).store(new, Ordering::Release);
        if has_frame(old) {
            self.table.add_resident(-1);
            // SAFETY: U1, as in `keep_leaf`.
            let frame = unsafe { Frame::from_pfn(pfn(old)) };
            // A present one is out of every TLB already, a hidden one was never in any.
            drop(frame);
        }
    }

    /// Maps `frame` at `addr`, instead of what was there.
    pub fn map(&mut self, addr: u64, frame: Frame, flags: PteFlags) -> Result<(), NoMemory> {
        self.check(addr);
        let leaf = self.make_leaf(addr)?;
        self.replace(addr, leaf, encode(frame.into_pfn(), flags));
        self.table.add_resident(1);
        Ok(())
    }

    /// Stores a number (not 0, below 2^58) instead of a frame.
    pub fn set_special(&mut self, addr: u64, value: u64) -> Result<(), NoMemory> {
        self.check(addr);
        assert!(value != 0 && value < 1 << 58, "special value out of range");
        let leaf = self.make_leaf(addr)?;
        self.replace(addr, leaf, value << SPECIAL_SHIFT);
        Ok(())
    }

    /// Takes the entry at `addr` out; `None` when there is none.
    pub fn unmap(&mut self, addr: u64) -> Option<Entry> {
        self.check(addr);
        let leaf = self.find_or_split(addr)?;
        let slot = self.slot(leaf, addr);
        if slot.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let old = slot.swap(0, Ordering::AcqRel);
        let entry = Self::decode(old);
        self.keep_leaf(addr, old);
        self.shrink(addr, leaf, 1);
        Some(entry)
    }

    /// Takes all entries of `range` out and shows each to `each` first.
    pub fn unmap_range(&mut self, range: PageRange, each: &mut dyn FnMut(u64, &Entry)) {
        let Some(range) = self.range.intersect(&range) else { return };
        let mut addr = range.start();
        // SAFETY: the cursor holds the lock.
        while let Some((first, entry)) = unsafe { self.table.next_leaf(addr, range.end()) } {
            addr = first;
            let end = range.end().min((addr & !(pte::span(2) - 1)) + pte::span(2));
            let mut leaf = entry.load(Ordering::Relaxed) & pte::ADDR;
            if is_large(entry.load(Ordering::Relaxed)) {
                if end - addr == pte::span(2) {
                    self.unmap_large(addr, each);
                    addr = end;
                    continue;
                }
                let Some(split) = self.split(addr) else { break };
                leaf = split;
            }
            let mut taken = 0;
            let mut left = nr_entries(leaf);
            while addr < end && left > 0 {
                let slot = self.slot(leaf, addr);
                if slot.load(Ordering::Relaxed) != 0 {
                    left -= 1;
                    let old = slot.swap(0, Ordering::AcqRel);
                    each(addr, &Self::decode(old));
                    self.keep_leaf(addr, old);
                    taken += 1;
                }
                addr += PAGE_SIZE as u64;
            }
            if taken > 0 {
                self.shrink(end - PAGE_SIZE as u64, leaf, taken);
            }
            addr = end;
        }
    }

    /// Counts `taken` entries of the level-1 table at `leaf` out; frees it, and the tables above, when empty.
    fn shrink(&mut self, addr: u64, leaf: u64, taken: i64) {
        if count(leaf, -taken) == 0 {
            self.drop_tables(addr, 2);
        }
    }

    /// Frees the empty table that the entry of `first` level for `addr` leads to, and those above that become empty.
    pub(super) fn drop_tables(&mut self, addr: u64, first: u32) {
        self.leaf = (u64::MAX, 0);
        // The tables on the way down, level 4 first.
        let mut path = [self.table.root(); 4];
        for level in (first..=4).rev() {
            let above = path[4 - level as usize];
            // SAFETY: U1; the cursor holds the lock.
            let entry = unsafe { table_at(above).0[pte::index(addr, level)].load(Ordering::Relaxed) };
            path[5 - level as usize] = entry & pte::ADDR;
        }
        for level in first..=4 {
            let above = path[4 - level as usize];
            // SAFETY: U1; the cursor holds the lock.
            let entry = unsafe { table_at(above).0[pte::index(addr, level)].swap(0, Ordering::AcqRel) };
            // A CPU may hold the entry in a paging-structure cache: flushing any address drops that.
            self.need_flush(addr);
            // SAFETY: U1: the entry owned the table's frame, and is 0 now.
            let frame = unsafe { Frame::from_pfn(pfn(entry)) };
            self.keep(Removed::Frame(frame));
            if count(above, -1) > 0 {
                break;
            }
        }
    }

    /// Moves entries from `at` on by `shift`, for a while; up to where. See `PageTable::move_range`.
    pub(super) fn relocate(&mut self, mut at: u64, shift: u64) -> Result<u64, NoMemory> {
        let mut steps = 0;
        let mut result = Ok(());
        while steps < MOVE_STEPS && at < self.range.end() && result.is_ok() {
            // SAFETY: the cursor holds the lock.
            let Some((first, entry)) = (unsafe { self.table.next_leaf(at, self.range.end()) }) else {
                at = self.range.end();
                break;
            };
            let entry = entry.load(Ordering::Relaxed);
            match self.relocate_part(at, first, entry, shift) {
                Ok((end, done)) => (at, steps) = (end, steps + done),
                Err(error) => result = Err(error),
            }
        }
        // Under the lock: whoever takes a page out at its new place flushes that only.
        self.flush_tlb();
        result.map(|()| at)
    }

    /// Moves the largest table (or huge frame) that can go whole, or else what the level-2 entry `entry`, the first at or
    /// after `at`, leads to from `first` on. The end of what was moved, and the number of entries that were looked at.
    fn relocate_part(&mut self, at: u64, first: u64, entry: u64, shift: u64) -> Result<(u64, u64), NoMemory> {
        for level in [3, 2] {
            let (base, end) = (first & !(pte::span(level) - 1), (first | (pte::span(level) - 1)) + 1);
            let fits = base >= at && end <= self.range.end() && shift.is_multiple_of(pte::span(level));
            if fits && self.relocate_table(base, base.wrapping_add(shift), level)? {
                return Ok((end, 1));
            }
        }
        let leaf = match is_large(entry) {
            true => self.split(first).ok_or(NoMemory)?,
            false => entry & pte::ADDR,
        };
        self.relocate_leaves(first, leaf, shift)
    }

    /// Moves what the entry of `level` for `from` leads to; `false` when something is in its way at `to`.
    fn relocate_table(&mut self, from: u64, to: u64, level: u32) -> Result<bool, NoMemory> {
        // SAFETY: the cursor holds the lock.
        let Some(source) = (unsafe { self.table.table(from, level, false) })? else { return Ok(false) };
        // SAFETY: the cursor holds the lock.
        let Some(target) = (unsafe { self.table.table(to, level, true) })? else { return Ok(false) };
        // SAFETY: U1; the cursor holds the lock.
        let new = unsafe { &table_at(target).0[pte::index(to, level)] };
        if new.load(Ordering::Relaxed) != 0 {
            return Ok(false);
        }
        // SAFETY: U1; the cursor holds the lock.
        let old = unsafe { &table_at(source).0[pte::index(from, level)] };
        new.store(old.swap(0, Ordering::AcqRel), Ordering::Release);
        count(target, 1);
        self.leaf = (u64::MAX, 0);
        self.need_flush(from);
        self.need_flush(from + pte::span(level) - PAGE_SIZE as u64);
        if count(source, -1) == 0 {
            self.drop_tables(from, level + 1);
        }
        Ok(true)
    }

    /// Moves entries one by one, up to the end of a level-1 table here or there. As `relocate_part`.
    fn relocate_leaves(&mut self, first: u64, leaf: u64, shift: u64) -> Result<(u64, u64), NoMemory> {
        let room = |addr: u64| pte::span(2) - addr % pte::span(2);
        let to = first.wrapping_add(shift);
        let end = self.range.end().min(first + room(first).min(room(to)));
        let mut target = None;
        let (mut taken, mut left) = (0, nr_entries(leaf));
        for addr in (first..end).step_by(PAGE_SIZE) {
            if left == 0 {
                break;
            }
            if self.slot(leaf, addr).load(Ordering::Relaxed) == 0 {
                continue;
            }
            left -= 1;
            let into = match target {
                Some(into) => into,
                // SAFETY: the cursor holds the lock.
                None => *target.insert(unsafe { self.table.leaf_table(to, true) }?.ok_or(NoMemory)?),
            };
            let entry = self.slot(leaf, addr).swap(0, Ordering::AcqRel);
            if entry & pte::PRESENT != 0 {
                self.need_flush(addr);
            }
            self.replace(addr.wrapping_add(shift), into, entry);
            taken += 1;
        }
        if taken > 0 {
            self.shrink(first, leaf, taken);
        }
        Ok((end, (end - first) / PAGE_SIZE as u64))
    }

    /// Changes the flags of an entry with a frame (accessed and dirty are kept); `false` when there is none.
    pub fn protect(&mut self, addr: u64, new: PteFlags) -> bool {
        self.check(addr);
        let Some(leaf) = self.find_or_split(addr) else { return false };
        let slot = self.slot(leaf, addr);
        let mut old = slot.load(Ordering::Relaxed);
        let hardware = PteFlags::ACCESSED | PteFlags::DIRTY;
        loop {
            if !has_frame(old) {
                return false;
            }
            let flags = new | (flags_of(old) & hardware);
            match slot.compare_exchange_weak(
                old,
                encode(pfn(old), flags),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        let was = flags_of(old);
        let rights = PteFlags::WRITE | PteFlags::EXEC;
        // Rights that only grow need no flush: a CPU with the old entry faults, and finds the new one.
        let lost = !((was & rights) - new).is_empty() || new.contains(PteFlags::NONE);
        if old & pte::PRESENT != 0 && (lost || (was & PteFlags::PKEY) != (new & PteFlags::PKEY)) {
            self.need_flush(addr);
        }
        true
    }

    /// The first entry at or after `from` within the range.
    pub fn next_mapped(&mut self, from: u64) -> Option<(u64, Entry)> {
        let mut addr = from.max(self.range.start()) & !(PAGE_SIZE as u64 - 1);
        // SAFETY: the cursor holds the lock.
        while let Some((first, entry)) = unsafe { self.table.next_leaf(addr, self.range.end()) } {
            addr = first;
            if is_large(entry.load(Ordering::Relaxed)) {
                return self.large_entry(addr).map(|entry| (addr, entry));
            }
            let leaf = entry.load(Ordering::Relaxed) & pte::ADDR;
            let end = self.range.end().min((addr & !(pte::span(2) - 1)) + pte::span(2));
            while addr < end {
                let entry = self.slot(leaf, addr).load(Ordering::Relaxed);
                if entry != 0 {
                    return Some((addr, Self::decode(entry)));
                }
                addr += PAGE_SIZE as u64;
            }
        }
        None
    }

    /// Clears a bit of an entry with a frame and tells whether it was set.
    fn take(&mut self, addr: u64, bit: u64) -> bool {
        self.check(addr);
        let slot = match self.find(addr) {
            Lookup::Leaf(leaf) => self.slot(leaf, addr),
            // One bit for all of a huge frame.
            Lookup::Large => match self.large_slot(addr) {
                Some(slot) => slot,
                None => return false,
            },
            Lookup::Nothing => return false,
        };
        has_frame(slot.load(Ordering::Relaxed)) && slot.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    /// Clears the accessed flag; was it set? No flush: a use that is missed for a while only makes the page look
    /// older.
    pub fn take_accessed(&mut self, addr: u64) -> bool {
        self.take(addr, pte::ACCESSED)
    }

    /// Clears the dirty flag; was it set?
    pub fn take_dirty(&mut self, addr: u64) -> bool {
        let was = self.take(addr, pte::DIRTY);
        if was {
            // A CPU that holds the entry as dirty would not set the flag again.
            self.need_flush(addr);
        }
        was
    }

    pub(super) fn flush_tlb(&mut self) {
        if self.flush_start < self.flush_end {
            tlb::flush(self.table, self.flush_start, self.flush_end);
            (self.flush_start, self.flush_end) = (u64::MAX, 0);
        }
    }

    /// Makes all CPUs forget what they know of the page at `addr`, whatever its entry is now: a cursor that was here before
    /// may have taken rights away, and flush only after it gave the lock up.
    pub fn flush_page(&mut self, addr: u64) {
        self.check(addr);
        self.need_flush(addr);
        self.flush_locked();
    }

    fn flush_locked(&mut self) {
        self.flush_tlb();
        self.removed_first = None;
        self.removed.clear();
    }

    /// Makes all CPUs forget old translations, then drops the frames that were taken out.
    pub fn flush(&mut self) {
        self.flush_locked();
    }
}

impl Drop for Cursor<'_> {
    fn drop(&mut self) {
        // Unlock first: waiting for other CPUs and freeing need no lock.
        drop(self.guard.take());
        self.flush_tlb();
    }
}
