//! The kernel's half of every page table: built once at boot, then changed only inside the vmap area.
//!
//! [`Mapper`] fills tables; where a table's memory comes from and at which address it can be written is a parameter,
//! because at boot neither the frame allocator nor the direct map exists yet.

use super::pte::{self, ENTRIES, PRESENT, WRITABLE};
use crate::addr::PAGE_SHIFT;
use crate::arch::{layout, mem};
use crate::error::NoMemory;
use crate::frame::Frame;
use crate::sync::IrqLock;

/// Source of zeroed tables, and the way to reach them.
pub(crate) trait Tables {
    /// A new, zeroed table's physical address.
    fn alloc(&mut self) -> Option<u64>;
    /// Where the table at `paddr` can be accessed. The result is valid for reads and writes of 4 KiB.
    fn access(&self, paddr: u64) -> *mut [u64; ENTRIES];
}

/// Fills the tables under one top-level table.
pub(crate) struct Mapper<'a, T: Tables> {
    root: u64,
    tables: &'a mut T,
    gib_pages: bool,
}

impl<'a, T: Tables> Mapper<'a, T> {
    /// A mapper below the top-level table at `root`.
    ///
    /// # Safety
    ///
    /// 1. `root` is a table that `tables` can access, and so is every table it leads to.
    /// 2. Nobody else writes the parts of those tables that this mapper is used on.
    /// 3. `gib_pages` only if the CPU has them.
    pub(crate) unsafe fn new(root: u64, tables: &'a mut T, gib_pages: bool) -> Self {
        Self { root, tables, gib_pages }
    }

    fn read(&self, table: u64, idx: usize) -> u64 {
        // SAFETY: `table` came from `root` downwards, which `new`'s conditions 1 and 2 cover; `idx` is below ENTRIES.
        // Volatile, because the CPU reads and writes it as well.
        unsafe { (&raw const (*self.tables.access(table))[idx]).read_volatile() }
    }

    fn write(&mut self, table: u64, idx: usize, value: u64) {
        // SAFETY: as `read`.
        unsafe { (&raw mut (*self.tables.access(table))[idx]).write_volatile(value) }
    }

    /// The table that `table[idx]` leads to, made when it is missing. `None`: no memory, or a large page is there.
    fn descend(&mut self, table: u64, idx: usize) -> Option<u64> {
        let entry = self.read(table, idx);
        if entry & PRESENT != 0 {
            return (entry & pte::LARGE == 0).then_some(entry & pte::ADDR);
        }
        let next = self.tables.alloc()?;
        self.write(table, idx, next | PRESENT | WRITABLE);
        Some(next)
    }

    /// Maps `len` bytes from `vaddr` to `paddr` with `flags`, by the largest pages that fit.
    ///
    /// All three are multiples of 4 KiB. `None` when a table cannot be had; what was mapped before stays.
    #[inline]
    pub(crate) fn map(&mut self, vaddr: u64, paddr: u64, len: u64, flags: u64) -> Option<()> {
        let mut done = 0;
        while done < len {
            let (virt, phys, left) = (vaddr + done, paddr + done, len - done);
            let level = self.leaf_level(virt | phys, left);
            let mut table = self.root;
            for upper in (level + 1..=4).rev() {
                table = self.descend(table, pte::index(virt, upper))?;
            }
            let large = if level > 1 { pte::LARGE } else { 0 };
            self.write(table, pte::index(virt, level), phys | flags | large | PRESENT);
            done += pte::span(level);
        }
        Some(())
    }

    fn leaf_level(&self, aligned: u64, left: u64) -> u32 {
        let fits = |level| aligned.is_multiple_of(pte::span(level)) && left >= pte::span(level);
        if self.gib_pages && fits(3) {
            3
        } else if fits(2) {
            2
        } else {
            1
        }
    }

    /// Makes the table below the top-level entry of `vaddr`, so that the entry never changes later.
    pub(crate) fn fill_top(&mut self, vaddr: u64) -> Option<()> {
        self.descend(self.root, pte::index(vaddr, 4)).map(drop)
    }
}

/// Tables in frames of the allocator, reached through the direct map.
pub(crate) struct DirectTables;

impl Tables for DirectTables {
    fn alloc(&mut self) -> Option<u64> {
        Some(Frame::alloc_zeroed()?.into_pfn() << PAGE_SHIFT)
    }

    fn access(&self, paddr: u64) -> *mut [u64; ENTRIES] {
        mem::frame_ptr(paddr >> PAGE_SHIFT).cast()
    }
}

/// Guards the tables of the vmap area: they only grow, and single pages come and go.
static VMAP_LOCK: IrqLock<u64> = IrqLock::new("hal.vmap", layout::VMAP);

/// Takes `len` bytes (whole pages) of addresses. There is no way back: who needs addresses for a while keeps them for
/// reuse. Who wants a guard asks for a page more and leaves it unmapped.
#[inline]
pub(crate) fn reserve(len: u64, align: u64) -> Option<u64> {
    let mut next = VMAP_LOCK.lock();
    let start = next.next_multiple_of(align);
    let end = start.checked_add(len)?;
    if end > layout::VMAP_END {
        return None;
    }
    *next = end;
    Some(start)
}

/// Maps `len` bytes of physical memory at `vaddr` in the vmap area.
///
/// # Safety
///
/// 1. `vaddr..vaddr + len` came from [`reserve`], is not mapped, and is the caller's.
/// 2. Accesses through the new mapping with `flags` are sound: the memory is a device's, or the caller's own.
pub(crate) unsafe fn map(vaddr: u64, paddr: u64, len: u64, flags: u64) -> Result<(), NoMemory> {
    let _lock = VMAP_LOCK.lock();
    let mut tables = DirectTables;
    // SAFETY: 1. the kernel's tables are all in frames or early memory, which the direct map covers. 2. the lock.
    // 3. no 1 GiB pages asked for.
    let mut mapper = unsafe { Mapper::new(mem::kernel_root(), &mut tables, false) };
    mapper.map(vaddr, paddr, len, flags).ok_or(NoMemory)
}

/// Takes the 4 KiB page at `vaddr` out of the vmap area; the physical address it had. TLBs may still hold it.
///
/// # Safety
///
/// 1. The page is the caller's, and nobody accesses it any more.
pub(crate) unsafe fn unmap_page(vaddr: u64) -> Option<u64> {
    // SAFETY: 1 is the caller's.
    let entry = unsafe { edit_page(vaddr, |_| 0) }?;
    (entry != 0).then_some(entry & pte::ADDR)
}

/// As [`unmap_page`], but the entry goes on remembering the physical address, for a later `unmap_page`.
///
/// # Safety
///
/// 1. As [`unmap_page`].
pub(crate) unsafe fn hide_page(vaddr: u64) {
    // SAFETY: 1 is the caller's.
    unsafe { edit_page(vaddr, |entry| entry & !PRESENT) };
}

/// Changes the leaf entry for `vaddr`; the old one. `None`: there is no table for it.
///
/// # Safety
///
/// 1. The page is the caller's, and the new entry maps nothing new.
unsafe fn edit_page(vaddr: u64, edit: impl FnOnce(u64) -> u64) -> Option<u64> {
    let _lock = VMAP_LOCK.lock();
    let mut tables = DirectTables;
    // SAFETY: as in `map`.
    let mut mapper = unsafe { Mapper::new(mem::kernel_root(), &mut tables, false) };
    let mut table = mapper.root;
    for level in (2..=4).rev() {
        let entry = mapper.read(table, pte::index(vaddr, level));
        if entry & PRESENT == 0 || entry & pte::LARGE != 0 {
            return None;
        }
        table = entry & pte::ADDR;
    }
    let entry = mapper.read(table, pte::index(vaddr, 1));
    mapper.write(table, pte::index(vaddr, 1), edit(entry));
    Some(entry)
}
