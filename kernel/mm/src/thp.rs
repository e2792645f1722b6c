//! Transparent huge pages: anonymous memory in pieces of 2 MiB.
//!
//! The first write to a part of a VMA that could hold a whole huge page, and where nothing is mapped, gets one, if the
//! setting, the VMA and the process want it and there is such a frame. One entry maps it; fork shares that entry; what
//! edits a part (munmap, mprotect, copy-on-write, reclaim) splits it into small ones on the way (see `hal::paging`).
//!
//! ```text
//! write, nothing there         a new huge page of zeroes
//! write, shared since a fork   split, and one small page is copied
//! write, nobody else has any   the entry becomes writable
//! read, nothing there          the small page of zeroes: a later write to it makes a small page
//! ```
//!
//! `MADV_COLLAPSE` joins small pages into a huge one: they are taken out, so that whoever touches them waits for the
//! address space, copied, and the huge page is put in their place.
//!
//! LINUX: pages are not joined in the background (khugepaged), those of files never, and there is no huge page of zeroes.
//!
//! Source: Documentation/admin-guide/mm/transhuge.rst.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU8, Ordering};

use abi::{Errno, Result};
use hal::frame::{HUGE_FRAMES, HUGE_SIZE, HugeFrame};
use hal::paging::{Cursor, Entry, PteFlags};
use hal::{PAGE_SIZE, PageRange};
use sched::Interruptible;

use crate::counters::Counter;
use crate::fault::touched;
use crate::mapping::page_flags;
use crate::oom;
use crate::space::{Mm, Prefs, RssDelta};
use crate::vma::{Backing, VmFlags, Vma};

/// Faults that got a huge page (`thp_fault_alloc`).
pub static FAULT_ALLOC: Counter = Counter::new();
/// Faults that wanted one, and there was none (`thp_fault_fallback`).
pub static FAULT_FALLBACK: Counter = Counter::new();

const SIZE: u64 = HUGE_SIZE as u64;

/// Who gets huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Enabled {
    /// All anonymous memory that has room for them.
    Always = 0,
    /// Memory that asked for them (`MADV_HUGEPAGE`).
    Madvise = 1,
    /// Nobody.
    Never = 2,
}

/// An [`Enabled`], or [`UNSET`].
static ENABLED: AtomicU8 = AtomicU8::new(UNSET);
/// Nobody chose yet.
const UNSET: u8 = u8::MAX;
/// LINUX: machines with less memory, in pages (512 MiB), begin without huge pages.
const SMALL_MACHINE: usize = 512 << (20 - hal::PAGE_SHIFT);

impl Enabled {
    /// All settings, in the order in which Linux lists them, and their names.
    pub const ALL: [(Enabled, &'static str); 3] =
        [(Self::Always, "always"), (Self::Madvise, "madvise"), (Self::Never, "never")];

    /// The setting.
    pub fn get() -> Self {
        match ENABLED.load(Ordering::Relaxed) {
            0 => Self::Always,
            1 => Self::Madvise,
            UNSET => {
                let first =
                    if hal::frame::stats().total < SMALL_MACHINE { Self::Never } else { Self::Always };
                // Whoever chose meanwhile is right.
                let _ = ENABLED.compare_exchange(UNSET, first as u8, Ordering::Relaxed, Ordering::Relaxed);
                first
            }
            _ => Self::Never,
        }
    }

    /// Changes the setting, for faults from now on.
    pub fn set(self) {
        ENABLED.store(self as u8, Ordering::Relaxed);
    }

    /// Changes the setting to the one called `name`. `EINVAL`: there is none.
    pub fn set_by_name(name: &str) -> Result<()> {
        let found = Self::ALL.iter().find(|(_, known)| *known == name).ok_or(Errno::EINVAL)?;
        found.0.set();
        Ok(())
    }
}

/// The huge page around `addr`, if all of it lies in `vma`.
#[inline]
pub(crate) fn huge_range(vma: &Vma, addr: u64) -> Option<PageRange> {
    let start = addr & !(SIZE - 1);
    if start < vma.start || vma.end < SIZE || start > vma.end - SIZE {
        return None;
    }
    PageRange::new(start, start + SIZE)
}

impl Mm {
    /// Whether the anonymous memory of `vma` gets huge pages where it has room.
    #[inline]
    pub(crate) fn wants_huge(&self, vma: &Vma) -> bool {
        let flags = vma.attr.flags;
        let never = VmFlags::NOHUGEPAGE | VmFlags::GROWSDOWN | VmFlags::DROPPABLE;
        if flags.intersects(never) || vma.attr.watch.is_some() {
            return false;
        }
        let (advised, prefs) = (flags.contains(VmFlags::HUGEPAGE), self.prefs());
        let setting = match Enabled::get() {
            Enabled::Always => true,
            Enabled::Madvise => advised,
            Enabled::Never => false,
        };
        let allowed =
            !prefs.contains(Prefs::NO_HUGE_PAGES) || (prefs.contains(Prefs::ADVISED_HUGE_PAGES) && advised);
        setting && allowed
    }

    /// Gives the write to `addr` in `vma`, which wants huge pages, one if there is one. The caller holds `space`.
    #[cold]
    pub(crate) fn fault_huge(&self, vma: &Vma, addr: u64) -> bool {
        let Some(range) = huge_range(vma, addr) else { return false };
        // Zeroed without the lock: it takes long.
        let Some(huge) = HugeFrame::alloc_user_zeroed(page_flags::ANON) else {
            FAULT_FALLBACK.add(1);
            return false;
        };
        let writable = vma.attr.flags.contains(VmFlags::WRITE);
        let mapped =
            self.page_table().cursor(range).map_huge(range.start(), huge, touched(&vma.attr, writable, true));
        // Otherwise another thread was faster.
        if mapped.is_ok() {
            FAULT_ALLOC.add(1);
            vma.attr.note_written();
            self.rss.anon.fetch_add(HUGE_FRAMES as i64, Ordering::Relaxed);
        }
        mapped.is_ok()
    }

    /// Pages in huge frames that one entry maps whole.
    pub(crate) fn huge_pages(&self) -> u64 {
        (self.page_table().nr_huge() * HUGE_FRAMES) as u64
    }
}

impl Mm {
    /// `MADV_COLLAPSE`: gives each huge page's worth of memory that lies in `range` as a whole one huge page. May sleep.
    ///
    /// `EINVAL`: memory that cannot have huge pages, or in which nothing is. `ENOMEM`: a hole, or no huge page to be had.
    /// `EAGAIN`: pages in swap or markers are in the way. `EINTR`: the thread is to die.
    pub(crate) fn collapse(&self, range: Range<u64>) -> Result<()> {
        let mut result = self.check_collapse(range.clone());
        if result == Err(Errno::EINVAL) {
            return result;
        }
        let (mut at, end) = (range.start.next_multiple_of(SIZE), range.end & !(SIZE - 1));
        // As far as possible: the last error counts. Only what is in use is visited, however long the range.
        while let Some(next) = self.next_collapsible(at..end) {
            if sched::current().is_interrupted(Interruptible::Killable) {
                return Err(Errno::EINTR);
            }
            let one = self.collapse_one(next);
            if one == Err(Errno::ENOMEM) {
                return one;
            }
            result = one.and(result).and(self.check_used(at, next));
            at = next + SIZE;
        }
        result.and(self.check_used(at, end))
    }

    /// The first huge page's worth of memory in `range` that lies in one area and has something in it.
    fn next_collapsible(&self, range: Range<u64>) -> Option<u64> {
        let space = self.space.read();
        let mut start = range.start;
        while start < range.end {
            let pages = PageRange::new(start, range.end)?;
            let (addr, _) = self.page_table().cursor(pages).next_mapped(start)?;
            let next = addr & !(SIZE - 1);
            if space.set.at(addr).is_some_and(|vma| huge_range(vma, next).is_some()) {
                return Some(next);
            }
            start = next + SIZE;
        }
        None
    }

    /// `EINVAL`: from `at` on, before `next`, there is a huge page's worth of memory in one area with nothing in it.
    fn check_used(&self, at: u64, next: u64) -> Result<()> {
        let is_whole = |vma| huge_range(vma, at).is_some();
        if at < next && self.space.read().set.at(at).is_some_and(is_whole) {
            Err(Errno::EINVAL)
        } else {
            Ok(())
        }
    }

    fn check_collapse(&self, range: Range<u64>) -> Result<()> {
        let space = self.space.read();
        if !space.set.covers(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        let prefs = self.prefs();
        let disabled = prefs.contains(Prefs::NO_HUGE_PAGES) && !prefs.contains(Prefs::ADVISED_HUGE_PAGES);
        let fits = space.set.overlapping(range).all(can_collapse);
        if fits && !disabled { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn collapse_one(&self, at: u64) -> Result<()> {
        // Before the lock: it takes long.
        let huge = HugeFrame::alloc_user_zeroed(page_flags::ANON).ok_or(Errno::ENOMEM)?;
        let mut small = Vec::new();
        small.try_reserve_exact(HUGE_FRAMES).map_err(|_| Errno::ENOMEM)?;
        let space = self.space.write();
        let vma = space.set.at(at).filter(|vma| can_collapse(vma)).ok_or(Errno::EINVAL)?;
        let Some(range) = huge_range(vma, at) else { return Ok(()) };
        let mut cursor = self.page_table().cursor(range);
        if cursor.query_huge(at).is_some() {
            return Ok(());
        }
        let mut next = range.start();
        while let Some((addr, entry)) = cursor.next_mapped(next) {
            next = addr + PAGE_SIZE as u64;
            let Entry::Present { frame, flags } = entry else { return Err(Errno::EAGAIN) };
            small.push((addr, frame, flags));
        }
        cursor.unmap_range(range, &mut |_, _| {});
        // Flushes: from here on nobody reaches the pages, and who tries waits for `space`.
        drop(cursor);
        let mut delta = RssDelta { anon: HUGE_FRAMES as i64, ..Default::default() };
        for (addr, frame, _) in &small {
            huge.frame(((addr - at) as usize) / PAGE_SIZE).copy_from(frame);
            delta.count(frame.meta().flags.load(Ordering::Relaxed), -1);
        }
        let flags = touched(&vma.attr, vma.attr.flags.contains(VmFlags::WRITE), true);
        let mapped = self.page_table().cursor(range).map_huge(at, huge, flags);
        if mapped.is_ok() {
            vma.attr.note_written();
            self.rss.apply(delta);
            return Ok(());
        }
        for (addr, frame, flags) in small {
            // The frame has one more reference meanwhile, but the entry's rights were right for it.
            while self.page_table().cursor(range).map(addr, frame.clone(), flags).is_err() {
                oom::relieve()?;
            }
        }
        Err(Errno::ENOMEM)
    }
}

/// Whether small pages of `vma` can be joined, whatever the setting.
fn can_collapse(vma: &Vma) -> bool {
    let never = VmFlags::NOHUGEPAGE | VmFlags::GROWSDOWN | VmFlags::DROPPABLE;
    let anonymous = matches!(vma.attr.backing, Backing::Anonymous);
    anonymous && !vma.attr.flags.intersects(never) && vma.attr.watch.is_none()
}

/// A fault at `addr`, which a large entry maps; `true` if the entry is right for it afterwards. `false`: the page must be
/// copied.
pub(crate) fn settle_huge(cursor: &mut Cursor<'_>, vma: &Vma, addr: u64, write: bool) -> bool {
    let Some(flags) = cursor.query_huge(addr) else { return false };
    let writable = flags.contains(PteFlags::WRITE);
    if write && !writable && !cursor.is_huge_exclusive(addr) {
        return false;
    }
    let kept = flags & (PteFlags::SOFT | PteFlags::WATCHED);
    let may_write = vma.attr.flags.contains(VmFlags::WRITE);
    let new = match write && !writable {
        true => touched(&vma.attr, may_write, true),
        false => touched(&vma.attr, writable, write) | kept,
    };
    cursor.protect_huge(addr, new)
}

/// Gives the large entry at `addr` the rights of `vma`'s `attr`, if one maps all from `addr` on and it ends by `end`;
/// where it ends.
pub(crate) fn protect_whole(
    cursor: &mut Cursor<'_>,
    addr: u64,
    end: u64,
    flags: impl FnOnce(bool) -> PteFlags,
) -> Option<u64> {
    if !addr.is_multiple_of(SIZE) || end - addr < SIZE || cursor.query_huge(addr).is_none() {
        return None;
    }
    let exclusive = cursor.is_huge_exclusive(addr);
    cursor.protect_huge(addr, flags(exclusive));
    Some(addr + SIZE)
}

/// Where the huge page that a large entry maps around `addr` ends; `None`: none does.
pub(crate) fn huge_end(cursor: &Cursor<'_>, addr: u64, entry: &Entry) -> Option<u64> {
    let Entry::Present { frame, .. } = entry else { return None };
    let is_huge = frame.is_in_huge() && cursor.query_huge(addr).is_some();
    is_huge.then_some((addr & !(SIZE - 1)) + SIZE)
}

/// The alignment that anonymous memory of `len` bytes gets where nobody asked for an address, so that it has room for
/// huge pages.
pub(crate) fn wanted_alignment(len: u64) -> Option<vma_set::Align> {
    (len.is_multiple_of(SIZE)).then_some(vma_set::Align { size: SIZE, offset: 0 })
}
