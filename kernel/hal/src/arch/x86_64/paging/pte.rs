//! Page-table entries as the CPU reads them (Intel SDM vol. 3 ch. 5.5, tables 5-15 to 5-20).

/// Entries in a table of any level.
pub(crate) const ENTRIES: usize = 512;

/// The entry is valid.
pub(crate) const PRESENT: u64 = 1 << 0;
/// Writes are allowed.
pub(crate) const WRITABLE: u64 = 1 << 1;
/// User mode may use it.
pub(crate) const USER: u64 = 1 << 2;
/// Write-through.
pub(crate) const WRITE_THROUGH: u64 = 1 << 3;
/// Not cached: device memory.
pub(crate) const NO_CACHE: u64 = 1 << 4;
/// The CPU used the entry.
pub(crate) const ACCESSED: u64 = 1 << 5;
/// The CPU wrote through the entry.
pub(crate) const DIRTY: u64 = 1 << 6;
/// A 2 MiB or 1 GiB page rather than a table.
pub(crate) const LARGE: u64 = 1 << 7;
/// Survives a CR3 write.
pub(crate) const GLOBAL: u64 = 1 << 8;
/// Software: copied on write.
pub(crate) const SOFT_COW: u64 = 1 << 9;
/// No instruction fetch.
pub(crate) const NO_EXEC: u64 = 1 << 63;
/// The physical address in an entry.
pub(crate) const ADDR: u64 = 0x000f_ffff_ffff_f000;

/// Index into the table of `level` (1 = page table, 4 = top) for `addr`.
#[inline]
pub(crate) const fn index(addr: u64, level: u32) -> usize {
    (addr >> (12 + 9 * (level - 1))) as usize & (ENTRIES - 1)
}

/// Bytes that one entry of a `level` table covers.
#[inline]
pub(crate) const fn span(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}
