//! Page tables of user address spaces, and the cursor that edits them.
//!
//! ```text
//! PageTable.root ─ level 4 ─ level 3 ─ level 2 ─ level 1 (page table) ─ frames
//!                  upper half: the kernel's entries, copied once, the same in every table
//! ```
//!
//! A leaf entry is one of (P = present bit, 0 elsewhere):
//!
//! ```text
//! P=1            frame, hardware flags, COW in bit 9, SOFT in bit 10, protection key in bits 59-62
//! P=0, bit 1=1   frame that no access may reach (PROT_NONE); the same flags, WRITE in bit 11
//! P=0, bit 1=0   0: nothing; else a special value, shifted left by 2
//! ```
//!
//! # Invariants
//!
//! - U1: the lower half belongs to this table: every table below it is a frame owned by the entry that leads to it,
//!   and every leaf with a frame owns one reference to it.
//! - U2: the metadata `index` of such a table counts its entries that are not 0; an empty table is freed.
//! - U3: what an edit takes out (frames and tables) is dropped only after the flush of its addresses on every CPU
//!   that uses the table.
//!
//! # Locking
//!
//! One `hal.page_table` spinlock a table. The cursor holds it; the CPU changes only the accessed and dirty bits
//! meanwhile, hence read-modify-write operations on present leaves. A flush at the end of an edit waits for other
//! CPUs without the lock; only replacing a present page waits with it, so that no CPU reads the old page after
//! another one wrote the new.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::pte::{self, ENTRIES};
use super::tlb;
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PageRange};
use crate::arch::mem;
use crate::error::NoMemory;
use crate::frame::Frame;
use crate::paging::{Entry, ForkMode, PteFlags};
use crate::sync::{SpinLock, SpinLockGuard};

/// P=0: holds a frame nevertheless.
const HIDDEN: u64 = 1 << 1;
/// Where WRITE is kept in a hidden entry.
const HIDDEN_WRITE: u64 = 1 << 11;
const COW: u64 = pte::SOFT_COW;
const SOFT: u64 = 1 << 10;
const PKEY_SHIFT: u32 = 59;
const PKEY_FLAG_SHIFT: u32 = 16;
/// A special value is shifted by this, so that bits 0 and 1 stay clear.
const SPECIAL_SHIFT: u32 = 2;
/// Frames that a cursor keeps before it flushes in between.
const MAX_REMOVED: usize = 512;

/// One table of any level. Entries are shared with the hardware.
struct Table([AtomicU64; ENTRIES]);

/// The table at `paddr`.
///
/// # Safety
///
/// 1. `paddr` is a table of a live [`PageTable`] that the caller holds locked (or alone), for as long as it uses
///    the result.
unsafe fn table_at<'a>(paddr: u64) -> &'a Table {
    // SAFETY: tables are managed frames, which the direct map covers; 1 keeps it allocated. All accesses are atomic.
    unsafe { &*mem::frame_ptr(paddr >> PAGE_SHIFT).cast::<Table>() }
}

fn encode(frame: u64, flags: PteFlags) -> u64 {
    let mut entry = frame << PAGE_SHIFT;
    let pairs = [
        (PteFlags::DIRTY, pte::DIRTY),
        (PteFlags::ACCESSED, pte::ACCESSED),
        (PteFlags::COW, COW),
        (PteFlags::SOFT, SOFT),
    ];
    for (flag, bit) in pairs {
        if flags.contains(flag) {
            entry |= bit;
        }
    }
    if !flags.contains(PteFlags::EXEC) {
        entry |= pte::NO_EXEC;
    }
    entry |= u64::from((flags & PteFlags::PKEY).bits() >> PKEY_FLAG_SHIFT) << PKEY_SHIFT;
    let write = flags.contains(PteFlags::WRITE);
    if flags.contains(PteFlags::NONE) {
        entry | HIDDEN | if write { HIDDEN_WRITE } else { 0 }
    } else {
        entry | pte::PRESENT | pte::USER | if write { pte::WRITABLE } else { 0 }
    }
}

fn flags_of(entry: u64) -> PteFlags {
    let mut flags = PteFlags::empty();
    flags.set(PteFlags::DIRTY, entry & pte::DIRTY != 0);
    flags.set(PteFlags::ACCESSED, entry & pte::ACCESSED != 0);
    flags.set(PteFlags::COW, entry & COW != 0);
    flags.set(PteFlags::SOFT, entry & SOFT != 0);
    flags.set(PteFlags::EXEC, entry & pte::NO_EXEC == 0);
    let key = (entry >> PKEY_SHIFT) as u32 & 0xf;
    flags |= PteFlags::from_bits_retain(key << PKEY_FLAG_SHIFT);
    let present = entry & pte::PRESENT != 0;
    flags.set(PteFlags::NONE, !present);
    flags.set(PteFlags::WRITE, entry & if present { pte::WRITABLE } else { HIDDEN_WRITE } != 0);
    flags
}

/// Does the leaf own a frame?
#[inline]
fn has_frame(entry: u64) -> bool {
    entry & (pte::PRESENT | HIDDEN) != 0
}

fn pfn(entry: u64) -> u64 {
    (entry & pte::ADDR) >> PAGE_SHIFT
}

/// The page table of one user address space.
#[derive(Debug)]
pub struct PageTable {
    root: u64,
    lock: SpinLock<()>,
    /// CPUs that have the root in CR3; see `tlb`.
    active: AtomicU64,
    /// CPUs that hold a reference to this table because they use it or used it last.
    holders: AtomicU64,
    /// Leaves with a frame. Written under the lock.
    resident: AtomicUsize,
}

impl PageTable {
    /// An empty table; `None` when memory ran out.
    pub fn new() -> Option<PageTable> {
        const HALF: usize = PAGE_SIZE / 2;
        let frame = Frame::alloc()?;
        frame.zero(0..HALF);
        let root = frame.into_pfn() << PAGE_SHIFT;
        let (new, kernel) =
            (mem::frame_ptr(root >> PAGE_SHIFT), mem::frame_ptr(mem::kernel_root() >> PAGE_SHIFT));
        // SAFETY: the frame is ours alone; the kernel's root lives for ever and its upper half does not change.
        unsafe { core::ptr::copy_nonoverlapping(kernel.add(HALF), new.add(HALF), HALF) };
        Some(PageTable {
            root,
            lock: SpinLock::new("hal.page_table", ()),
            active: AtomicU64::new(0),
            holders: AtomicU64::new(0),
            resident: AtomicUsize::new(0),
        })
    }

    /// Physical address of the top table.
    pub(super) fn root(&self) -> u64 {
        self.root
    }

    /// The CPUs that have the root loaded.
    pub(super) fn active(&self) -> &AtomicU64 {
        &self.active
    }

    /// The CPUs that hold a reference.
    pub(super) fn holders(&self) -> &AtomicU64 {
        &self.holders
    }

    /// Makes idle CPUs that keep the table loaded, in case its process runs there again, let go of it: its process
    /// has ended. Otherwise they would keep its memory. Does nothing in atomic context.
    pub fn evict(&self) {
        tlb::evict(self);
    }

    /// Locks the entries of `range` for edits. Atomic context until the cursor is dropped.
    ///
    /// Interrupts must be on, because the cursor may have to wait for other CPUs.
    pub fn cursor(&self, range: PageRange) -> Cursor<'_> {
        Cursor {
            guard: Some(self.lock.lock()),
            table: self,
            range,
            leaf: (u64::MAX, 0),
            removed_first: None,
            removed: Vec::new(),
            flush_start: u64::MAX,
            flush_end: 0,
        }
    }

    /// Number of entries with a frame.
    pub fn resident(&self) -> usize {
        self.resident.load(Ordering::Relaxed)
    }

    fn add_resident(&self, change: isize) {
        let now = self.resident.load(Ordering::Relaxed);
        self.resident.store(now.wrapping_add_signed(change), Ordering::Relaxed);
    }

    /// The level-1 table for `addr`; made when missing if `make`.
    ///
    /// # Safety
    ///
    /// 1. The caller holds the lock (or the table alone).
    unsafe fn leaf_table(&self, addr: u64, make: bool) -> Result<Option<u64>, NoMemory> {
        let mut table = self.root;
        for level in (2..=4).rev() {
            // SAFETY: `table` is the root or came from an entry of this table (U1); the lock by 1.
            let slot = unsafe { &table_at(table).0[pte::index(addr, level)] };
            let entry = slot.load(Ordering::Relaxed);
            if entry != 0 {
                table = entry & pte::ADDR;
                continue;
            }
            if !make {
                return Ok(None);
            }
            let new = Frame::alloc_zeroed().ok_or(NoMemory)?.into_pfn() << PAGE_SHIFT;
            // Release: the hardware sees a zeroed table.
            slot.store(new | pte::PRESENT | pte::WRITABLE | pte::USER, Ordering::Release);
            count(table, 1);
            table = new;
        }
        Ok(Some(table))
    }

    /// Copies the entries of `range` to `child`, as fork does. `child` is not in use yet.
    ///
    /// Each frame gets one more reference. On `NoMemory` the child holds a part of the range.
    pub fn fork_range(&self, child: &PageTable, range: PageRange, mode: ForkMode) -> Result<(), NoMemory> {
        let mut start = range.start();
        let mut protected = false;
        let mut result = Ok(());
        while result.is_ok() {
            // One level-1 table at a time: the lock is never held for long.
            let parent_lock = self.lock.lock();
            // SAFETY: the lock is held.
            let Some((addr, from)) = (unsafe { self.next_leaf(start, range.end()) }) else { break };
            let end = range.end().min((addr & !(pte::span(2) - 1)) + pte::span(2));
            let child_lock = loop {
                // Not `lock`: two tables of one class; the child has no other user who would keep it.
                if let Some(guard) = child.lock.try_lock() {
                    break guard;
                }
            };
            // SAFETY: both locks are held.
            match unsafe { copy_leaves(child, from, addr, end, mode) } {
                Ok(changed) => protected |= changed,
                Err(error) => result = Err(error),
            }
            drop(child_lock);
            drop(parent_lock);
            start = end;
        }
        if protected {
            tlb::flush(self, range.start(), range.end());
        }
        result
    }

    /// The first level-1 table that maps something at or after `addr`, and below `end`: where it or the range begins
    /// (whichever is later), and the table.
    ///
    /// # Safety
    ///
    /// 1. The caller holds the lock (or the table alone).
    unsafe fn next_leaf(&self, mut addr: u64, end: u64) -> Option<(u64, u64)> {
        'walk: while addr < end {
            let mut table = self.root;
            for level in (2..=4).rev() {
                // SAFETY: `table` is the root or came from an entry of this table (U1); the lock by 1.
                let slots = unsafe { &table_at(table).0 };
                let first = pte::index(addr, level);
                let limit = if level == 4 { ENTRIES / 2 } else { ENTRIES };
                // What one entry of the level above covers starts here.
                let base = addr & !(pte::span(level + 1) - 1);
                let found = (first..limit).find(|idx| slots[*idx].load(Ordering::Relaxed) != 0);
                let Some(idx) = found else {
                    addr = base + pte::span(level + 1);
                    continue 'walk;
                };
                if idx != first {
                    addr = base + idx as u64 * pte::span(level);
                }
                table = slots[idx].load(Ordering::Relaxed) & pte::ADDR;
            }
            return (addr < end).then_some((addr, table));
        }
        None
    }
}

impl Drop for PageTable {
    fn drop(&mut self) {
        // Nobody can use the table any more: a CPU that had it loaded would hold a reference (T1 of `tlb`).
        // SAFETY: the tables are ours alone, and go with us.
        unsafe { free_below(self.root, 4, ENTRIES / 2) };
        // SAFETY: the root came from `into_pfn` in `new`.
        drop(unsafe { Frame::from_pfn(self.root >> PAGE_SHIFT) });
    }
}

/// Drops everything that the first `entries` entries of the table at `paddr` own.
///
/// # Safety
///
/// 1. The table belongs to a page table that is being dropped; nobody uses what is below it.
unsafe fn free_below(paddr: u64, level: u32, entries: usize) {
    // SAFETY: 1.
    let table = unsafe { table_at(paddr) };
    let mut left = nr_entries(paddr);
    for slot in table.0.iter().take(entries) {
        if left == 0 {
            break;
        }
        let entry = slot.load(Ordering::Relaxed);
        if entry == 0 {
            continue;
        }
        left -= 1;
        if level > 1 {
            // SAFETY: 1 holds for the tables below.
            unsafe { free_below(entry & pte::ADDR, level - 1, ENTRIES) };
        }
        if level > 1 || has_frame(entry) {
            // SAFETY: U1: the entry owns one reference from `into_pfn`, and is never read again.
            drop(unsafe { Frame::from_pfn(pfn(entry)) });
        }
    }
}

/// U2's count of the table at `paddr`.
fn nr_entries(paddr: u64) -> u64 {
    mem::meta(paddr >> PAGE_SHIFT).index.load(Ordering::Relaxed)
}

/// Changes U2's count of the table at `paddr`; the new value. Under the lock.
fn count(paddr: u64, change: i64) -> u64 {
    let index = &mem::meta(paddr >> PAGE_SHIFT).index;
    let now = index.load(Ordering::Relaxed).wrapping_add_signed(change);
    index.store(now, Ordering::Relaxed);
    now
}

/// Copies the leaves for `start..end` (within one level-1 table, `from`) to `child`; whether a parent's entry lost
/// its write permission.
///
/// # Safety
///
/// 1. The locks of both page tables are held, and `from` is a level-1 table of the parent.
unsafe fn copy_leaves(
    child: &PageTable,
    from: u64,
    start: u64,
    end: u64,
    mode: ForkMode,
) -> Result<bool, NoMemory> {
    // SAFETY: 1.
    let source = unsafe { table_at(from) };
    let first = pte::index(start, 1);
    let last = first + ((end - start) >> PAGE_SHIFT) as usize;
    let mut left = nr_entries(from);
    let mut target: Option<(u64, &Table)> = None;
    let (mut frames, mut entries, mut protected) = (0, 0, false);
    for idx in first..last.min(ENTRIES) {
        if left == 0 {
            break;
        }
        let slot = &source.0[idx];
        let mut entry = slot.load(Ordering::Relaxed);
        if entry == 0 {
            continue;
        }
        left -= 1;
        let (_, table) = match target {
            Some(found) => found,
            None => {
                // SAFETY: 1.
                let Some(paddr) = (unsafe { child.leaf_table(start, true) })? else { break };
                // SAFETY: 1.
                *target.insert((paddr, unsafe { table_at(paddr) }))
            }
        };
        if has_frame(entry) {
            if mode == ForkMode::Cow {
                (entry, protected) = share_for_write(slot, entry, protected);
            }
            // SAFETY: U1: the entry owns a reference, which is only looked at to make another one.
            let frame = core::mem::ManuallyDrop::new(unsafe { Frame::from_pfn(pfn(entry)) });
            Frame::clone(&frame).into_pfn();
            frames += 1;
        }
        let old = table.0[idx].swap(entry, Ordering::Relaxed);
        debug_assert!(old == 0, "fork into a range that is in use");
        entries += 1;
    }
    if let Some((paddr, _)) = target {
        count(paddr, entries);
    }
    child.add_resident(frames);
    Ok(protected)
}

/// Takes the write permission from the parent's leaf, and marks it copy-on-write; what the child gets.
fn share_for_write(slot: &AtomicU64, entry: u64, protected: bool) -> (u64, bool) {
    let write = if entry & pte::PRESENT != 0 { pte::WRITABLE } else { HIDDEN_WRITE };
    if entry & write == 0 {
        return (entry, protected);
    }
    // The hardware may set the dirty bit at the same time; `fetch_and` loses nothing.
    let old = slot.fetch_and(!write, Ordering::Relaxed);
    slot.fetch_or(COW, Ordering::Relaxed);
    (old & !write | COW, true)
}

/// The right to edit a range of a page table.
pub struct Cursor<'a> {
    /// Taken out only to flush without the lock, at the end.
    guard: Option<SpinLockGuard<'a, ()>>,
    table: &'a PageTable,
    range: PageRange,
    /// The level-1 table used last: start of the 2 MiB that it maps, physical address.
    leaf: (u64, u64),
    /// Frames taken out, kept until the flush (U3); the first needs no memory.
    removed_first: Option<Frame>,
    removed: Vec<Frame>,
    /// What to flush.
    flush_start: u64,
    flush_end: u64,
}

impl Cursor<'_> {
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

    /// The level-1 table for `addr`, if there is one.
    fn find_leaf(&mut self, addr: u64) -> Option<u64> {
        let base = addr & !(pte::span(2) - 1);
        if self.leaf.0 != base {
            // SAFETY: the cursor holds the lock.
            let found = unsafe { self.table.leaf_table(addr, false) };
            self.leaf = (base, found.ok().flatten()?);
        }
        Some(self.leaf.1)
    }

    /// The level-1 table for `addr`, made when missing.
    fn make_leaf(&mut self, addr: u64) -> Result<u64, NoMemory> {
        if let Some(leaf) = self.find_leaf(addr) {
            return Ok(leaf);
        }
        // SAFETY: the cursor holds the lock.
        let made = unsafe { self.table.leaf_table(addr, true) }?.ok_or(NoMemory)?;
        self.leaf = (addr & !(pte::span(2) - 1), made);
        Ok(made)
    }

    /// The entry for `addr` in the level-1 table at `leaf`.
    fn slot(&self, leaf: u64, addr: u64) -> &AtomicU64 {
        // SAFETY: `leaf` came from `find_leaf` or `make_leaf`, and the cursor holds the lock for its lifetime.
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
        match self.find_leaf(addr) {
            Some(leaf) => Self::decode(self.slot(leaf, addr).load(Ordering::Relaxed)),
            None => Entry::None,
        }
    }

    /// Notes that `addr` must be flushed.
    fn need_flush(&mut self, addr: u64) {
        self.flush_start = self.flush_start.min(addr);
        self.flush_end = self.flush_end.max(addr + PAGE_SIZE as u64);
    }

    /// Keeps what an entry owned until the flush.
    fn keep(&mut self, frame: Frame) {
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
            self.keep(frame);
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
        let leaf = self.find_leaf(addr)?;
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
        while let Some((first, leaf)) = unsafe { self.table.next_leaf(addr, range.end()) } {
            addr = first;
            let end = range.end().min((addr & !(pte::span(2) - 1)) + pte::span(2));
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
        if count(leaf, -taken) > 0 {
            return;
        }
        self.leaf = (u64::MAX, 0);
        // The tables on the way down, level 4 first.
        let mut path = [self.table.root; 4];
        for level in (2..=4).rev() {
            let above = path[4 - level as usize];
            // SAFETY: U1; the cursor holds the lock.
            let entry = unsafe { table_at(above).0[pte::index(addr, level)].load(Ordering::Relaxed) };
            path[5 - level as usize] = entry & pte::ADDR;
        }
        for level in 2..=4u32 {
            let above = path[4 - level as usize];
            // SAFETY: U1; the cursor holds the lock.
            let entry = unsafe { table_at(above).0[pte::index(addr, level)].swap(0, Ordering::AcqRel) };
            // A CPU may hold the entry in a paging-structure cache: flushing any address drops that.
            self.need_flush(addr);
            // SAFETY: U1: the entry owned the table's frame, and is 0 now.
            let frame = unsafe { Frame::from_pfn(pfn(entry)) };
            self.keep(frame);
            if count(above, -1) > 0 {
                break;
            }
        }
    }

    /// Changes the flags of an entry with a frame (accessed and dirty are kept); `false` when there is none.
    pub fn protect(&mut self, addr: u64, new: PteFlags) -> bool {
        self.check(addr);
        let Some(leaf) = self.find_leaf(addr) else { return false };
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
        while let Some((first, leaf)) = unsafe { self.table.next_leaf(addr, self.range.end()) } {
            addr = first;
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
        let Some(leaf) = self.find_leaf(addr) else { return false };
        let slot = self.slot(leaf, addr);
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

    fn flush_tlb(&mut self) {
        if self.flush_start < self.flush_end {
            tlb::flush(self.table, self.flush_start, self.flush_end);
            (self.flush_start, self.flush_end) = (u64::MAX, 0);
        }
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
