//! Page tables of user address spaces.
//!
//! ```text
//! PageTable.root ─ level 4 ─ level 3 ─ level 2 ─ level 1 (page table) ─ frames
//!                  upper half: the kernel's entries, copied once, the same in every table
//! ```
//!
//! What the leaves look like is in [`leaf`](super::leaf); the cursor that edits them in [`cursor`](super::cursor).
//!
//! # Invariants
//!
//! - U1: the lower half belongs to this table: every table below it is a frame owned by the entry that leads to it,
//!   and every leaf with a frame owns one reference to it.
//! - U2: the metadata `index` of such a table counts its entries that are not 0; an empty table is freed.
//! - U4: a level-2 entry with LARGE owns a reference to a huge frame instead of a table, and `deposits` lists one spare
//!   table for it, so that it can always be split.
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

use super::leaf::{
    COW, HIDDEN_WRITE, Table, count, has_frame, is_large, large_pfn, nr_entries, pfn, table_at,
};
use super::pte::{self, ENTRIES};
use super::{Cursor, tlb};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PageRange};
use crate::arch::{ldt, mem};
use crate::error::NoMemory;
use crate::frame::{Frame, HUGE_FRAMES, HugeFrame};
use crate::paging::ForkMode;
use crate::segment::{MAX_SEGMENTS, Segment};
use crate::sync::SpinLock;

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
    /// The first of the spare tables of U4 (its physical address, 0 for none); `index` of each leads to the next. Under
    /// the lock.
    deposits: AtomicU64,
    /// How many there are: one for each large entry.
    nr_deposits: AtomicUsize,
    /// Data segments of the process's own.
    segments: ldt::Slot,
}

/// What [`PageTable::lookup`] finds.
#[derive(Clone, Copy)]
pub(super) enum Lookup {
    /// A level-1 table, at this physical address.
    Leaf(u64),
    /// A large entry.
    Large,
    /// Neither.
    Nothing,
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
            deposits: AtomicU64::new(0),
            nr_deposits: AtomicUsize::new(0),
            segments: ldt::Slot::new(),
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
        Cursor::new(self, self.lock.lock(), range)
    }

    /// The local descriptor table's place.
    pub(super) fn segments(&self) -> &ldt::Slot {
        &self.segments
    }

    /// Sets the segment in `slot`, `None` to clear it, on every CPU that runs the process. Waits for them: interrupts
    /// must be on.
    ///
    /// # Panics
    ///
    /// When `slot` is not below [`MAX_SEGMENTS`].
    pub fn set_segment(&self, slot: usize, segment: Option<&Segment>) -> Result<(), NoMemory> {
        assert!(slot < MAX_SEGMENTS, "there is no such segment");
        self.segments.set(slot, segment, || tlb::reload_segments(self))
    }

    /// The descriptors of all segments up to the last that was set, as the machine has them.
    pub fn segment_descriptors(&self) -> Result<Vec<u64>, NoMemory> {
        let mut all = Vec::new();
        self.segments.read(&mut all)?;
        Ok(all)
    }

    /// Gives this table, which is not in use yet, the segments of `parent` (fork).
    pub fn copy_segments(&self, parent: &PageTable) {
        self.segments.copy_from(&parent.segments);
    }

    /// Number of entries with a frame.
    pub fn resident(&self) -> usize {
        self.resident.load(Ordering::Relaxed)
    }

    /// Number of huge frames that one entry maps whole.
    pub fn nr_huge(&self) -> usize {
        self.nr_deposits.load(Ordering::Relaxed)
    }

    /// Keeps a spare table. The caller holds the lock (or the table alone).
    pub(super) fn deposit(&self, table: Frame) {
        table.meta().index.store(self.deposits.load(Ordering::Relaxed), Ordering::Relaxed);
        self.deposits.store(table.into_pfn() << PAGE_SHIFT, Ordering::Relaxed);
        self.nr_deposits.store(self.nr_huge() + 1, Ordering::Relaxed);
    }

    /// Takes a spare table back. The caller holds the lock (or the table alone).
    pub(super) fn withdraw(&self) -> Option<Frame> {
        let first = self.deposits.load(Ordering::Relaxed);
        if first == 0 {
            return None;
        }
        // SAFETY: it came from `into_pfn` in `deposit`, and is unlinked below.
        let table = unsafe { Frame::from_pfn(first >> PAGE_SHIFT) };
        self.deposits.store(table.meta().index.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        self.nr_deposits.store(self.nr_huge().saturating_sub(1), Ordering::Relaxed);
        Some(table)
    }

    pub(super) fn add_resident(&self, change: isize) {
        let now = self.resident.load(Ordering::Relaxed);
        self.resident.store(now.wrapping_add_signed(change), Ordering::Relaxed);
    }

    /// What maps `addr`.
    ///
    /// # Safety
    ///
    /// 1. The caller holds the lock (or the table alone).
    #[inline]
    pub(super) unsafe fn lookup(&self, addr: u64) -> Lookup {
        let mut table = self.root;
        for level in (2..=4).rev() {
            // SAFETY: `table` is the root or came from an entry of this table (U1); the lock by 1.
            let entry = unsafe { table_at(table).0[pte::index(addr, level)].load(Ordering::Relaxed) };
            if entry == 0 {
                return Lookup::Nothing;
            }
            if is_large(entry) {
                return Lookup::Large;
            }
            table = entry & pte::ADDR;
        }
        Lookup::Leaf(table)
    }

    /// The level-1 table for `addr`; made when missing if `make`.
    ///
    /// # Safety
    ///
    /// 1. The caller holds the lock (or the table alone).
    pub(super) unsafe fn leaf_table(&self, addr: u64, make: bool) -> Result<Option<u64>, NoMemory> {
        // SAFETY: 1.
        unsafe { self.table(addr, 1, make) }
    }

    /// The table of `level` for `addr`; made when missing if `make`.
    ///
    /// # Safety
    ///
    /// 1. The caller holds the lock (or the table alone).
    #[inline]
    pub(super) unsafe fn table(&self, addr: u64, level: u32, make: bool) -> Result<Option<u64>, NoMemory> {
        let mut table = self.root;
        for level in (level + 1..=4).rev() {
            // SAFETY: `table` is the root or came from an entry of this table (U1); the lock by 1.
            let slot = unsafe { &table_at(table).0[pte::index(addr, level)] };
            let entry = slot.load(Ordering::Relaxed);
            if is_large(entry) {
                // Callers that make tables have split it.
                return Ok(None);
            }
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

    /// Moves the entries of `from` to the same places of `to`, which is as long, apart from it, and maps nothing.
    ///
    /// Where both ends are aligned alike whole tables change hands, so the cost is that of the tables and not of the
    /// pages. On `NoMemory` a part was moved; the same call goes on with the rest.
    pub fn move_range(&self, from: PageRange, to: PageRange) -> Result<(), NoMemory> {
        assert!(from.len() == to.len() && from.intersect(&to).is_none(), "not a place to move to");
        let shift = to.start().wrapping_sub(from.start());
        let mut at = from.start();
        while at < from.end() {
            // A piece at a time: the lock is never held for long.
            at = self.cursor(from).relocate(at, shift)?;
        }
        Ok(())
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
            let mut parent_lock = self.cursor(range);
            if let Some((addr, _)) = parent_lock.large_at(start)
                && (addr < start || addr + pte::span(2) > range.end())
            {
                // Only a part of it is copied.
                parent_lock.split(start);
            }
            // SAFETY: the lock is held.
            let Some((addr, from)) = (unsafe { self.next_leaf(start, range.end()) }) else { break };
            if addr != start {
                // It may begin with a large entry that ends beyond the range.
                start = addr;
                continue;
            }
            let end = range.end().min((addr & !(pte::span(2) - 1)) + pte::span(2));
            let child_lock = loop {
                // Not `lock`: two tables of one class; the child has no other user who would keep it.
                if let Some(guard) = child.lock.try_lock() {
                    break guard;
                }
            };
            // SAFETY: both locks are held, and `slot` leads to what maps `addr`.
            let copied = unsafe {
                if is_large(from.load(Ordering::Relaxed)) {
                    copy_large(child, from, addr, mode)
                } else {
                    copy_leaves(child, from.load(Ordering::Relaxed) & pte::ADDR, addr, end, mode)
                }
            };
            match copied {
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

    /// The first level-2 entry that maps something at or after `addr`, and below `end`: where what it covers or the range
    /// begins (whichever is later), and the entry. It leads to a level-1 table or is large.
    ///
    /// # Safety
    ///
    /// 1. The caller holds the lock (or the table alone).
    pub(super) unsafe fn next_leaf(&self, mut addr: u64, end: u64) -> Option<(u64, &AtomicU64)> {
        'walk: while addr < end {
            let mut table = self.root;
            for level in (2..=4).rev() {
                // SAFETY: `table` is the root or came from an entry of this table (U1); the lock by 1.
                let slots = unsafe { &table_at(table).0 };
                let first = pte::index(addr, level);
                // What one entry of the level above covers starts here.
                let base = addr & !(pte::span(level + 1) - 1);
                let limit = match end - base {
                    left if left < pte::span(level + 1) => pte::index(end - 1, level) + 1,
                    _ if level == 4 => ENTRIES / 2,
                    _ => ENTRIES,
                };
                let found = (first..limit).find(|idx| slots[*idx].load(Ordering::Relaxed) != 0);
                let Some(idx) = found else {
                    addr = base + pte::span(level + 1);
                    continue 'walk;
                };
                if idx != first {
                    addr = base + idx as u64 * pte::span(level);
                }
                if level == 2 {
                    return (addr < end).then_some((addr, &slots[idx]));
                }
                table = slots[idx].load(Ordering::Relaxed) & pte::ADDR;
            }
        }
        None
    }
}

impl Drop for PageTable {
    fn drop(&mut self) {
        // Nobody can use the table any more: a CPU that had it loaded would hold a reference (T1 of `tlb`).
        // SAFETY: the tables are ours alone, and go with us.
        unsafe { free_below(self.root, 4, ENTRIES / 2) };
        while let Some(spare) = self.withdraw() {
            drop(spare);
        }
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
        if is_large(entry) && level == 2 {
            // SAFETY: U4: the entry owns one reference from `into_first`, and is never read again.
            drop(unsafe { HugeFrame::from_first(large_pfn(entry)) });
            continue;
        }
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

/// Copies the large entry in `slot` for `addr` to `child`; whether the parent's entry lost its write permission.
///
/// # Safety
///
/// 1. The locks of both page tables are held, and `slot` holds a large entry of the parent.
unsafe fn copy_large(
    child: &PageTable,
    slot: &AtomicU64,
    addr: u64,
    mode: ForkMode,
) -> Result<bool, NoMemory> {
    let spare = Frame::alloc().ok_or(NoMemory)?;
    // SAFETY: 1.
    let Some(target) = (unsafe { child.table(addr, 2, true) })? else { return Err(NoMemory) };
    let (mut entry, mut protected) = (slot.load(Ordering::Relaxed), false);
    if mode == ForkMode::Cow {
        (entry, protected) = share_for_write(slot, entry, protected);
    }
    // SAFETY: U4: the entry owns a reference, which is only looked at to make another one.
    let huge = core::mem::ManuallyDrop::new(unsafe { HugeFrame::from_first(large_pfn(entry)) });
    HugeFrame::clone(&huge).into_first();
    // SAFETY: 1.
    let old = unsafe { table_at(target).0[pte::index(addr, 2)].swap(entry, Ordering::Relaxed) };
    debug_assert!(old == 0, "fork into a range that is in use");
    count(target, 1);
    child.deposit(spare);
    child.add_resident(HUGE_FRAMES as isize);
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
