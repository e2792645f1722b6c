//! Page tables as ordered maps.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::addr::PageRange;
use crate::error::NoMemory;
use crate::frame::{Frame, HUGE_FRAMES, HUGE_SIZE, HugeFrame};
use crate::paging::{Entry, ForkMode, PteFlags};
use crate::segment::Segment;
use crate::sync::{SpinLock, SpinLockGuard};

type Map = BTreeMap<u64, Entry>;

/// The page table of one user address space.
#[derive(Debug)]
pub struct PageTable {
    entries: SpinLock<Map>,
}

impl PageTable {
    /// An empty table; `None` when memory ran out.
    pub fn new() -> Option<PageTable> {
        Some(PageTable { entries: SpinLock::new("hal.page_table", Map::new()) })
    }

    /// Locks the entries of `range` for edits. Atomic context until the cursor is dropped.
    pub fn cursor(&self, range: PageRange) -> Cursor<'_> {
        Cursor { map: self.entries.lock(), range, removed: Vec::new() }
    }

    /// Nothing keeps a table that nobody uses here.
    pub fn evict(&self) {}

    /// Number of present entries.
    pub fn resident(&self) -> usize {
        self.entries.lock().values().filter(|entry| matches!(entry, Entry::Present { .. })).count()
    }

    /// There is no machine that could have one: always an error.
    pub fn set_segment(&self, _slot: usize, _segment: Option<&Segment>) -> Result<(), NoMemory> {
        Err(NoMemory)
    }

    /// None.
    pub fn segment_descriptors(&self) -> Result<Vec<u64>, NoMemory> {
        Ok(Vec::new())
    }

    /// There are none to copy.
    pub fn copy_segments(&self, _parent: &PageTable) {}

    /// Number of huge frames that one entry maps whole: none here.
    pub fn nr_huge(&self) -> usize {
        0
    }

    /// Copies the entries of `range` to `child`, as fork does.
    pub fn fork_range(&self, child: &PageTable, range: PageRange, mode: ForkMode) -> Result<(), NoMemory> {
        let mut map = self.entries.lock();
        let copies: Vec<(u64, Entry)> = map
            .range_mut(range.start()..range.end())
            .map(|(&addr, entry)| {
                if let (ForkMode::Cow, Entry::Present { flags, .. }) = (mode, &mut *entry)
                    && flags.contains(PteFlags::WRITE)
                {
                    flags.remove(PteFlags::WRITE);
                    flags.insert(PteFlags::COW);
                }
                (addr, entry.clone())
            })
            .collect();
        drop(map);
        child.entries.lock().extend(copies);
        Ok(())
    }

    /// Moves the entries of `from` to the same places of `to`, which is as long, apart from it, and maps nothing.
    pub fn move_range(&self, from: PageRange, to: PageRange) -> Result<(), NoMemory> {
        assert!(from.len() == to.len() && from.intersect(&to).is_none(), "not a place to move to");
        let mut map = self.entries.lock();
        let mut moved = map.split_off(&from.start());
        let mut rest = moved.split_off(&from.end());
        map.append(&mut rest);
        map.extend(moved.into_iter().map(|(addr, entry)| (addr - from.start() + to.start(), entry)));
        Ok(())
    }

    /// The frame at `addr` if the access is allowed; sets the accessed and dirty flags as hardware does.
    pub(super) fn access(&self, addr: u64, write: bool) -> Option<Frame> {
        let mut map = self.entries.lock();
        match map.get_mut(&(addr & !0xfff)) {
            Some(Entry::Present { frame, flags }) => {
                if flags.contains(PteFlags::NONE) || write && !flags.contains(PteFlags::WRITE) {
                    return None;
                }
                flags.insert(PteFlags::ACCESSED);
                flags.set(PteFlags::DIRTY, write || flags.contains(PteFlags::DIRTY));
                Some(frame.clone())
            }
            _ => None,
        }
    }
}

/// The right to edit a range of a page table.
pub struct Cursor<'a> {
    map: SpinLockGuard<'a, Map>,
    range: PageRange,
    /// Kept until the flush.
    removed: Vec<Frame>,
}

impl Cursor<'_> {
    #[track_caller]
    fn check(&self, addr: u64) {
        assert!(self.range.contains(addr) && addr & 0xfff == 0, "address outside of the cursor");
    }

    fn put(&mut self, addr: u64, entry: Entry) {
        self.check(addr);
        let old = match entry {
            Entry::None => self.map.remove(&addr),
            entry => self.map.insert(addr, entry),
        };
        if let Some(Entry::Present { frame, .. }) = old {
            self.removed.push(frame);
        }
    }

    /// The range it may edit.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// The entry at `addr`.
    pub fn query(&mut self, addr: u64) -> Entry {
        self.check(addr);
        self.map.get(&addr).cloned().unwrap_or(Entry::None)
    }

    /// Maps `frame` at `addr`, instead of what was there.
    pub fn map(&mut self, addr: u64, frame: Frame, flags: PteFlags) -> Result<(), NoMemory> {
        self.put(addr, Entry::Present { frame, flags });
        Ok(())
    }

    /// Maps all of `huge`; there are only small entries here.
    pub fn map_huge(&mut self, addr: u64, huge: HugeFrame, flags: PteFlags) -> Result<(), HugeFrame> {
        self.check(addr);
        if !self.is_huge_free(addr) {
            return Err(huge);
        }
        let first = huge.into_frames();
        for i in 0..HUGE_FRAMES as u32 {
            // SAFETY: `into_frames` left one reference for each.
            let frame = unsafe { Frame::from_pfn(u64::from(first + i)) };
            self.put(addr + u64::from(i) * 4096, Entry::Present { frame, flags });
        }
        Ok(())
    }

    /// Maps `huge` instead of such an entry, which there is not.
    pub fn replace_huge(&mut self, _addr: u64, huge: HugeFrame, _flags: PteFlags) -> Result<(), HugeFrame> {
        Err(huge)
    }

    /// Is nothing mapped in the huge page that holds `addr`?
    pub fn is_huge_free(&self, addr: u64) -> bool {
        let base = addr & !(HUGE_SIZE as u64 - 1);
        self.map.range(base..base + HUGE_SIZE as u64).next().is_none()
    }

    /// Whether one entry maps the huge page that holds `addr`: never.
    pub fn query_huge(&self, _addr: u64) -> Option<PteFlags> {
        None
    }

    /// The huge frame of such an entry, which there is not.
    pub fn huge_frame(&self, _addr: u64) -> Option<(HugeFrame, PteFlags)> {
        None
    }

    /// Likewise, and nobody else has a reference to any part of it.
    pub fn is_huge_exclusive(&self, _addr: u64) -> bool {
        false
    }

    /// Changes the flags of such an entry, which there is not.
    pub fn protect_huge(&mut self, _addr: u64, _new: PteFlags) -> bool {
        false
    }

    /// Takes the entry at `addr` out; `None` when there is none.
    pub fn unmap(&mut self, addr: u64) -> Option<Entry> {
        let old = self.query(addr);
        self.put(addr, Entry::None);
        (!matches!(old, Entry::None)).then_some(old)
    }

    /// Takes all entries of `range` out and shows each to `each` first.
    pub fn unmap_range(&mut self, range: PageRange, each: &mut dyn FnMut(u64, &Entry)) {
        let addrs: Vec<u64> = self.map.range(range.start()..range.end()).map(|(&addr, _)| addr).collect();
        for addr in addrs {
            let entry = self.query(addr);
            each(addr, &entry);
            self.put(addr, Entry::None);
        }
    }

    /// Changes the flags of a present entry (accessed and dirty are kept); `false` when there is none.
    pub fn protect(&mut self, addr: u64, new: PteFlags) -> bool {
        self.check(addr);
        match self.map.get_mut(&addr) {
            Some(Entry::Present { flags, .. }) => {
                let hardware = PteFlags::ACCESSED | PteFlags::DIRTY;
                *flags = (new - hardware) | (*flags & hardware) | (new & hardware);
                true
            }
            _ => false,
        }
    }

    /// Stores a number (not 0) instead of a frame.
    pub fn set_special(&mut self, addr: u64, value: u64) -> Result<(), NoMemory> {
        self.put(addr, Entry::Special(value));
        Ok(())
    }

    /// The first entry at or after `from` within the range.
    pub fn next_mapped(&mut self, from: u64) -> Option<(u64, Entry)> {
        let from = from.max(self.range.start());
        if from >= self.range.end() {
            return None;
        }
        self.map.range(from..self.range.end()).next().map(|(&addr, entry)| (addr, entry.clone()))
    }

    /// Clears a flag of a present entry and tells whether it was set.
    fn take(&mut self, addr: u64, flag: PteFlags) -> bool {
        self.check(addr);
        match self.map.get_mut(&addr) {
            Some(Entry::Present { flags, .. }) => {
                let was = flags.contains(flag);
                flags.remove(flag);
                was
            }
            _ => false,
        }
    }

    /// Clears the accessed flag; was it set?
    pub fn take_accessed(&mut self, addr: u64) -> bool {
        self.take(addr, PteFlags::ACCESSED)
    }

    /// Clears the dirty flag; was it set?
    pub fn take_dirty(&mut self, addr: u64) -> bool {
        self.take(addr, PteFlags::DIRTY)
    }

    /// Makes all CPUs forget old translations, then drops the frames that were taken out.
    pub fn flush(&mut self) {
        self.removed.clear();
    }

    /// Makes all CPUs forget what they know of the page at `addr`; here nobody remembers anything.
    pub fn flush_page(&mut self, addr: u64) {
        self.check(addr);
        self.flush();
    }
}

/// Nothing to load: user copies ask the current thread for its table.
pub fn activate(_table: Option<&Arc<PageTable>>) {}
