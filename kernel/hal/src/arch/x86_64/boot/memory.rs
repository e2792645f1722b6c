//! Which physical memory there is, and who gets it before the frame allocator runs.
//!
//! [`MemoryMap`] is the firmware's list. [`BootMemory`] is what is left of the usable entries after the image, the
//! initramfs and the first megabyte are taken out; it hands out pages from the front of a range and at last gives
//! every range that is left to the frame allocator. Memory is only counted here, never touched.
//!
//! # Invariants
//!
//! - M1: the ranges of a `BootMemory` are page-aligned, non-empty, disjoint, and hold only usable memory.

use crate::addr::PAGE_SIZE;

/// What the firmware says a region is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Ordinary memory.
    Usable,
    /// Firmware, devices, or unknown.
    Reserved,
    /// ACPI tables: free once nobody reads them any more.
    AcpiTables,
    /// Memory that the firmware uses while running.
    AcpiNvs,
}

/// One region of physical memory.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// What it is.
    pub kind: Kind,
}

const MAX_REGIONS: usize = 64;

/// The firmware's memory map, in its own order. Entries beyond the 64th are dropped.
#[derive(Clone, Copy)]
pub struct MemoryMap {
    regions: [Region; MAX_REGIONS],
    count: usize,
}

impl MemoryMap {
    /// An empty map.
    pub(crate) const fn new() -> Self {
        Self { regions: [Region { start: 0, end: 0, kind: Kind::Reserved }; MAX_REGIONS], count: 0 }
    }

    /// Adds a region; empty ones are skipped.
    pub(crate) fn push(&mut self, region: Region) {
        if region.start < region.end && self.count < MAX_REGIONS {
            self.regions[self.count] = region;
            self.count += 1;
        }
    }

    /// Makes `start..end`, into which the loader put something, usable where a reserved region follows the usable one
    /// that it begins in; gives the end of what was usable before.
    ///
    /// A firmware that met many disks reserves more of the last megabyte than the loader thought that it would.
    pub(crate) fn extend(&mut self, start: u64, end: u64) -> u64 {
        let regions = &mut self.regions[..self.count];
        let holds = |region: &Region| region.start <= start && start < region.end;
        let Some(usable) = regions.iter().position(|r| r.kind == Kind::Usable && holds(r)) else {
            return end;
        };
        let before = regions[usable].end;
        let follows = |r: &Region| r.kind == Kind::Reserved && r.start == before && end <= r.end;
        match regions.iter().position(follows) {
            Some(reserved) if before < end => {
                (regions[usable].end, regions[reserved].start) = (end, end);
                before
            }
            _ => end,
        }
    }

    /// The regions.
    pub fn iter(&self) -> impl Iterator<Item = &Region> {
        self.regions[..self.count].iter()
    }
}

/// A physical page range, first byte and end.
pub(crate) type Span = (u64, u64);

/// Usable memory that nobody has yet.
pub(crate) struct BootMemory {
    spans: [Span; MAX_REGIONS],
    count: usize,
}

impl BootMemory {
    /// Everything usable in `map` below `limit` (the `mem=` parameter), rounded inwards to whole pages.
    pub(crate) fn new(map: &MemoryMap, limit: u64) -> Self {
        let mut free = Self { spans: [(0, 0); MAX_REGIONS], count: 0 };
        for region in map.iter().filter(|region| region.kind == Kind::Usable) {
            let start = region.start.next_multiple_of(PAGE_SIZE as u64);
            free.push((start, region.end.min(limit) & !(PAGE_SIZE as u64 - 1)));
        }
        for region in map.iter().filter(|region| region.kind != Kind::Usable) {
            free.reserve(region.start, region.end);
        }
        free
    }

    fn push(&mut self, span: Span) {
        if span.0 < span.1 && self.count < MAX_REGIONS {
            self.spans[self.count] = span;
            self.count += 1;
        }
    }

    /// The free spans.
    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans[..self.count]
    }

    /// Takes out all pages that `start..end` touches.
    pub(crate) fn reserve(&mut self, start: u64, end: u64) {
        let (start, end) = (
            start & !(PAGE_SIZE as u64 - 1),
            end.saturating_add(PAGE_SIZE as u64 - 1) & !(PAGE_SIZE as u64 - 1),
        );
        let mut at = 0;
        while at < self.count {
            let (low, high) = self.spans[at];
            if start >= high || end <= low {
                at += 1;
                continue;
            }
            self.count -= 1;
            self.spans[at] = self.spans[self.count];
            self.push((low, start.min(high)));
            self.push((end.max(low), high));
        }
    }

    /// Takes `bytes` (whole pages) aligned to `align` that end at or below `limit`, from the largest span there.
    pub(crate) fn alloc(&mut self, bytes: u64, align: u64, limit: u64) -> Option<u64> {
        let fit = |span: &Span| {
            let start = span.0.next_multiple_of(align);
            let end = start.checked_add(bytes)?;
            (end <= span.1.min(limit)).then_some(start)
        };
        let best = self
            .spans()
            .iter()
            .filter(|span| fit(span).is_some())
            .max_by_key(|span| span.1.min(limit) - span.0)?;
        let start = fit(best)?;
        self.reserve(start, start + bytes);
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(regions: &[(u64, u64, Kind)]) -> MemoryMap {
        let mut map = MemoryMap::new();
        for &(start, end, kind) in regions {
            map.push(Region { start, end, kind });
        }
        map
    }

    #[test]
    fn what_the_loader_used_of_reserved_memory_is_memory() {
        let regions = [(0, 0x8000, Kind::Usable), (0x8000, 0x20000, Kind::Reserved)];
        let mut one = map(&regions);
        assert_eq!(one.extend(0x6000, 0xa000), 0x8000);
        assert_eq!(
            one.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>(),
            [(0, 0xa000), (0xa000, 0x20000)]
        );
        assert_eq!(map(&regions).extend(0x6000, 0x7000), 0x7000);
        assert_eq!(map(&regions).extend(0x6000, 0x21000), 0x21000);
        assert_eq!(map(&regions).extend(0x9000, 0xa000), 0xa000);
    }

    #[test]
    fn reserving_the_middle_leaves_both_ends() {
        let mut free = BootMemory::new(&map(&[(0, 0x10000, Kind::Usable)]), u64::MAX);
        free.reserve(0x4800, 0x5001);
        let mut spans = free.spans().to_vec();
        spans.sort();
        assert_eq!(spans, [(0, 0x4000), (0x6000, 0x10000)]);
    }

    #[test]
    fn alloc_aligns_and_keeps_below_the_limit() {
        let mut free = BootMemory::new(&map(&[(0x1000, 0x100000, Kind::Usable)]), u64::MAX);
        assert_eq!(free.alloc(0x2000, 0x10000, u64::MAX), Some(0x10000));
        assert_eq!(free.alloc(0x200000, 0x1000, u64::MAX), None);
        assert!(free.alloc(0x1000, 0x1000, 0x3000).is_some_and(|start| start < 0x3000));
    }

    #[test]
    fn reserved_entries_win_over_usable_ones_that_overlap_them() {
        let free =
            BootMemory::new(&map(&[(0, 0x10000, Kind::Usable), (0x8000, 0x20000, Kind::Reserved)]), u64::MAX);
        assert_eq!(free.spans(), [(0, 0x8000)]);
    }
}
