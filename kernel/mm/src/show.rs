//! What /proc/PID/{maps,smaps,pagemap} and mincore(2) ask.

use alloc::vec::Vec;
use core::ops::{ControlFlow, Range};
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use bitflags::bitflags;
use hal::frame::{Frame, HUGE_SIZE};
use hal::paging::{Cursor, Entry, PteFlags};
use hal::{PAGE_SHIFT, PAGE_SIZE, PageRange, UserAddr};

use crate::fault::GUARD_MARKER;
use crate::hugetlb;
use crate::layout::Layout;
use crate::map::user_range;
use crate::mapping::page_flags;
use crate::mapping::whole::own_refs;
use crate::policy::Policy;
use crate::space::Mm;
use crate::vma::{Backing, FileId, VmFlags, Vma};
use crate::watch::{WP_MARKER, WatchModes};
use crate::{swap, thp};

/// A VMA as /proc/PID/maps shows it.
#[derive(Clone, Debug)]
pub struct VmaInfo {
    /// Addresses.
    pub range: Range<u64>,
    /// Rights and state.
    pub flags: VmFlags,
    /// Offset in the file in bytes.
    pub offset: u64,
    /// The file, zero for none.
    pub id: FileId,
    /// Path or name in brackets; empty for none.
    pub name: Vec<u8>,
    /// Protection key.
    pub pkey: u8,
    /// Whether it gets huge pages.
    pub huge_eligible: bool,
    /// The faults that user space makes good.
    pub watched: WatchModes,
    /// NUMA policy of its own.
    pub policy: Policy,
}

/// The pages of a VMA by kind, for smaps; in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in proc_pid_smaps(5)")]
pub struct PageStats {
    pub rss: u64,
    /// Proportional share, in bytes.
    pub pss_bytes: u64,
    pub shared_clean: u64,
    pub shared_dirty: u64,
    pub private_clean: u64,
    pub private_dirty: u64,
    pub referenced: u64,
    pub anonymous: u64,
    pub pss_anon: u64,
    pub pss_shmem: u64,
    pub pss_dirty: u64,
    pub anon_huge: u64,
    pub shmem_huge: u64,
    pub lazy: u64,
    /// Merged pages, those of zeroes included.
    pub ksm: u64,
    pub swap: u64,
    /// Proportional share of private pages in swap, in bytes.
    pub swap_pss_bytes: u64,
    pub shared_hugetlb: u64,
    pub private_hugetlb: u64,
    /// Huge pages of the pool that are private, and that were written; in huge pages.
    pub hugetlb_anon: u64,
    pub hugetlb_dirty: u64,
}

bitflags! {
    /// What /proc/PID/pagemap and its ioctl tell of one page, by their own names.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct PageState: u32 {
        /// In memory.
        const PRESENT = 1;
        /// Of a file or shared memory.
        const FILE = 2;
        /// Shown by one page table only.
        const EXCLUSIVE = 4;
        /// Written to since the last write of 4 to clear_refs.
        const SOFT_DIRTY = 8;
        /// A guard page (`MADV_GUARD_INSTALL`).
        const GUARD = 16;
        /// The page of zeroes.
        const ZERO = 32;
        /// In swap, or a marker; the number of the page is where.
        const SWAPPED = 64;
        /// Writes are watched (userfaultfd(2)).
        const WATCHED = 128;
        /// Writes can be watched so that they lift that silently (`UFFD_FEATURE_WP_ASYNC`).
        const CAN_WATCH = 256;
        /// Mapped by an entry for a whole huge page.
        const HUGE = 512;
        /// A huge page of the pool, or a place for one.
        const POOLED = 1024;
    }
}

/// One page of an address space: its state and where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageView {
    /// State.
    pub state: PageState,
    /// Page frame number, 0 for none; of several pages that of the first, the others follow it.
    pub pfn: u64,
}

/// What a write to /proc/PID/clear_refs clears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClearRefs {
    /// The accessed bits of all pages.
    All,
    /// Those of anonymous pages.
    Anonymous,
    /// Those of file pages.
    File,
    /// The soft-dirty bits.
    SoftDirty,
    /// The peak of the resident size.
    Peak,
}

impl VmaInfo {
    fn new(vma: &Vma, layout: &Layout) -> Self {
        let shown = vma.attr.shown();
        let object = shown.map(|(object, _)| object);
        let name = match (object, &vma.attr.name) {
            (Some(_), Some(given)) => given_name(b"[anon_shmem:", given),
            (Some(object), None) => object.name(),
            (None, Some(given)) if special_name(vma, layout).is_empty() => given_name(b"[anon:", given),
            (None, _) => special_name(vma, layout).to_vec(),
        };
        Self {
            range: vma.start..vma.end,
            flags: vma.attr.flags,
            offset: shown.map_or(0, |(_, offset)| offset),
            id: object.map(|o| o.id()).unwrap_or_default(),
            name,
            pkey: vma.attr.pkey,
            huge_eligible: false,
            watched: vma.attr.watched(),
            policy: vma.attr.policy,
        }
    }
}

/// The name that the process gave, in its brackets; cut short without memory for it.
fn given_name(prefix: &[u8], given: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    if name.try_reserve_exact(prefix.len() + given.len() + 1).is_ok() {
        name.extend_from_slice(prefix);
        name.extend_from_slice(given);
        name.push(b']');
    }
    name
}

/// `[heap]` and `[stack]`.
fn special_name(vma: &Vma, layout: &Layout) -> &'static [u8] {
    if vma.start < layout.brk && vma.end > layout.start_brk {
        b"[heap]"
    } else if vma.contains(layout.start_stack) {
        b"[stack]"
    } else {
        b""
    }
}

impl Mm {
    /// Calls `visit` for each VMA that ends above `from`, in order, until it breaks.
    ///
    /// Holds `space` for reading: `visit` must not touch user memory of any process.
    pub fn for_each_vma(&self, from: u64, mut visit: impl FnMut(&VmaInfo) -> ControlFlow<()>) {
        let space = self.space.read();
        for vma in space.set.overlapping(from..u64::MAX) {
            let mut info = VmaInfo::new(vma, &space.layout);
            let has_room =
                crate::thp::huge_range(vma, vma.start.next_multiple_of(HUGE_SIZE as u64)).is_some();
            let private = matches!(vma.attr.backing, Backing::Anonymous);
            info.huge_eligible = has_room && if private { self.wants_huge(vma) } else { wants_shared(vma) };
            if visit(&info).is_break() {
                return;
            }
        }
    }

    /// Calls `visit` with range, flags and object of each VMA; cheaper than [`for_each_vma`](Self::for_each_vma).
    pub fn for_each_raw(&self, from: u64, mut visit: impl FnMut(&Vma) -> ControlFlow<()>) {
        let space = self.space.read();
        for vma in space.set.overlapping(from..u64::MAX) {
            if visit(vma).is_break() {
                return;
            }
        }
    }

    /// Counts the pages shown in `range`, which lies in one VMA.
    pub fn collect_page_stats(&self, range: Range<u64>) -> PageStats {
        let mut stats = PageStats { swap: self.count_swapped_behind(&range), ..PageStats::default() };
        let Some(range) = PageRange::new(range.start, range.end) else { return stats };
        let mut cursor = self.page_table().cursor(range);
        let mut at = range.start();
        while let Some((addr, entry)) = cursor.next_mapped(at) {
            at = addr + PAGE_SIZE as u64;
            let Entry::Present { frame, flags } = entry else {
                if let Entry::Special(value) = entry
                    && swap::is_swap(value)
                {
                    stats.swap += 1;
                    stats.swap_pss_bytes += PAGE_SIZE as u64 / swap::nr_users(value);
                }
                continue;
            };
            let kind = frame.meta().flags.load(Ordering::Relaxed);
            if kind & page_flags::HUGETLB != 0 {
                drop(cursor);
                return self.collect_huge_stats(range.start()..range.end());
            }
            let anon = kind & page_flags::ANON != 0;
            stats.ksm += u64::from(kind & page_flags::KSM != 0);
            if kind & (page_flags::ANON | page_flags::FILE | page_flags::SHMEM) == 0 {
                continue;
            }
            let is_huge = frame.is_in_huge() && cursor.query_huge(addr).is_some();
            stats.anon_huge += u64::from(is_huge && anon);
            stats.shmem_huge += u64::from(is_huge && kind & page_flags::SHMEM != 0);
            let holders = holders(&frame, kind);
            stats.rss += 1;
            let share = PAGE_SIZE as u64 / u64::from(holders);
            stats.pss_bytes += share;
            stats.pss_anon += if anon { share } else { 0 };
            stats.pss_shmem += if kind & page_flags::SHMEM != 0 { share } else { 0 };
            stats.anonymous += u64::from(anon);
            stats.lazy += u64::from(kind & page_flags::LAZY != 0 && !flags.contains(PteFlags::DIRTY));
            stats.referenced += u64::from(flags.contains(PteFlags::ACCESSED));
            // LINUX: what has no other home than memory is dirty.
            let dirty = anon
                || flags.contains(PteFlags::DIRTY)
                || kind & (page_flags::SHMEM | page_flags::DIRTY) != 0;
            stats.pss_dirty += if dirty { share } else { 0 };
            *match (holders > 1, dirty) {
                (true, true) => &mut stats.shared_dirty,
                (true, false) => &mut stats.shared_clean,
                (false, true) => &mut stats.private_dirty,
                (false, false) => &mut stats.private_clean,
            } += 1;
        }
        stats
    }

    /// Pages of shared memory that `range`, which lies in one VMA, would show but that are in swap.
    ///
    /// LINUX: of a private mapping that may be written, those count that it has no entry for.
    fn count_swapped_behind(&self, range: &Range<u64>) -> u64 {
        let space = self.space.read();
        let Some(vma) = space.set.at(range.start) else { return 0 };
        let Some(mapping) = vma.attr.backing.mapping().filter(|mapping| mapping.is_shmem()) else { return 0 };
        let part = vma.clip(range);
        let first = vma.attr.offset_at(vma.start, part.start) >> PAGE_SHIFT;
        let behind = first..first + ((part.end - part.start) >> PAGE_SHIFT);
        if !vma.attr.is_private() || !vma.attr.flags.contains(VmFlags::WRITE) {
            return mapping.count_swapped(behind);
        }
        let mut nr = 0;
        mapping.for_each_swapped(behind, |idx| {
            let page = PageRange::page_of(UserAddr(part.start + ((idx - first) << PAGE_SHIFT)));
            let is_empty =
                |page: PageRange| matches!(self.page_table().cursor(page).query(page.start()), Entry::None);
            nr += u64::from(page.is_some_and(is_empty));
        });
        nr
    }

    /// mincore(2): tells `out` for each page of the range in order whether it is in memory.
    ///
    /// `EINVAL`: not aligned. `ENOMEM`: outside of user space or a hole. `out` must not touch user memory:
    /// it is called with `space` held; use short ranges and a buffer.
    pub fn mincore(&self, addr: u64, len: u64, mut out: impl FnMut(bool)) -> Result<()> {
        if !addr.is_multiple_of(PAGE_SIZE as u64) {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(());
        }
        let range = user_range(addr, len).ok_or(Errno::ENOMEM)?;
        let space = self.space.read();
        if !space.set.covers(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        for vma in space.set.overlapping(range.clone()) {
            let part = vma.clip(&range);
            let Some(pages) = PageRange::new(part.start, part.end) else { continue };
            let mut cursor = self.page_table().cursor(pages);
            for at in pages.pages() {
                let present = matches!(cursor.query(at), Entry::Present { .. });
                let idx = vma.attr.offset_at(vma.start, at) >> PAGE_SHIFT;
                out(present || vma.attr.backing.mapping().is_some_and(|m| m.is_in_core(idx)));
            }
        }
        Ok(())
    }

    /// Shows `each` the pages of `range` that lie in VMAs, in order, until it breaks: mapped or marked ones one by
    /// one, huge ones of the pool as far as they lie in `range`, others as runs. Pages of a VMA that is soft-dirty as a
    /// whole are so, too.
    ///
    /// Holds `space` for reading and the page table: `each` must not sleep.
    pub fn for_each_page(
        &self,
        range: Range<u64>,
        mut each: impl FnMut(Range<u64>, PageView) -> ControlFlow<()>,
    ) {
        // Nothing is protected, so nothing can fail.
        let _ = self.scan_pages(range, |pages, view| (each(pages, view), None));
    }

    /// As [`for_each_page`](Self::for_each_page); where `each` gives a range besides, a part of what it was shown, writes
    /// to it are watched from then on ([`PageState::CAN_WATCH`] must be set). A huge page of the pool
    /// ([`PageState::POOLED`]) is watched as a whole whatever part is given.
    ///
    /// `ENOMEM`: no memory to note that; the last range given is not watched as a whole.
    pub fn scan_pages(
        &self,
        range: Range<u64>,
        mut each: impl FnMut(Range<u64>, PageView) -> (ControlFlow<()>, Option<Range<u64>>),
    ) -> Result<()> {
        let space = self.space.read();
        for vma in space.set.overlapping(range.clone()) {
            let Some(pages) = PageRange::new(vma.start.max(range.start), vma.end.min(range.end)) else {
                continue;
            };
            if vma.attr.flags.contains(VmFlags::PFNMAP) {
                continue;
            }
            let mut whole = PageState::empty();
            whole.set(PageState::SOFT_DIRTY, !vma.attr.flags.contains(VmFlags::SOFTCLEAN));
            let silent = WatchModes::WP | WatchModes::ASYNC;
            whole.set(PageState::CAN_WATCH, vma.attr.watched().contains(silent));
            let is_huge = vma.attr.flags.contains(VmFlags::HUGETLB);
            let Some(reach) = (if is_huge { hugetlb::whole_pages(&pages) } else { Some(pages) }) else {
                continue;
            };
            let mut cursor = self.page_table().cursor(reach);
            let mut at = pages.start();
            while at < pages.end() {
                let (shown, mut view) = if is_huge {
                    hugetlb::view(&mut cursor, at..pages.end())
                } else {
                    next_view(&mut cursor, at..pages.end())
                };
                view.state |= whole;
                at = shown.end;
                let (flow, watched) = each(shown, view);
                match watched {
                    Some(part) if is_huge => hugetlb::watch_writes(&mut cursor, part.start),
                    Some(part) => watch_writes(&mut cursor, part)?,
                    None => {}
                }
                if flow.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Carries out a write to /proc/PID/clear_refs. May sleep.
    pub fn clear_refs(&self, what: ClearRefs) {
        if what == ClearRefs::Peak {
            return self.rss.reset_peak();
        }
        let mut space = self.space.write();
        for vma in space.set.iter() {
            let file = matches!(vma.attr.backing, Backing::File(_));
            let wanted = match what {
                ClearRefs::Anonymous => !file,
                ClearRefs::File => file,
                _ => true,
            };
            let wanted = wanted && !vma.attr.flags.contains(VmFlags::HUGETLB);
            let Some(pages) = PageRange::new(vma.start, vma.end).filter(|_| wanted) else { continue };
            let mut cursor = self.page_table().cursor(pages);
            let mut at = pages.start();
            while let Some((addr, entry)) = cursor.next_mapped(at) {
                at = addr + PAGE_SIZE as u64;
                let Entry::Present { flags, .. } = entry else { continue };
                if what == ClearRefs::SoftDirty {
                    // Read-only, so that the next write is seen: `fault_present` makes it writable again.
                    cursor.protect(addr, (flags - PteFlags::WRITE) | PteFlags::SOFT);
                } else {
                    cursor.take_accessed(addr);
                }
            }
        }
        if what == ClearRefs::SoftDirty {
            space.set.for_each_mut(|_, attr| attr.flags |= VmFlags::SOFTCLEAN);
        }
    }

    /// The physical page number behind `addr` and its entry's flags, for /proc/PID/pagemap.
    pub fn query_page(&self, addr: u64) -> Option<(u64, PteFlags)> {
        let page = PageRange::page_of(UserAddr(addr))?;
        match self.page_table().cursor(page).query(page.start()) {
            Entry::Present { frame, flags } => Some((frame.pfn(), flags)),
            _ => None,
        }
    }
}

/// The first page of `range` that is mapped or marked, or the run without such ones that it begins with.
fn next_view(cursor: &mut Cursor<'_>, range: Range<u64>) -> (Range<u64>, PageView) {
    let at = range.start;
    match cursor.next_mapped(at) {
        Some((addr, entry)) if addr == at => {
            let mut view = view_of(&entry);
            view.state.set(PageState::HUGE, thp::huge_end(cursor, addr, &entry).is_some());
            (at..at + PAGE_SIZE as u64, view)
        }
        Some((addr, _)) => (at..addr, PageView::default()),
        None => (range, PageView::default()),
    }
}

/// Watches writes to the pages of `range`, also where there is none. `ENOMEM`.
fn watch_writes(cursor: &mut Cursor<'_>, range: Range<u64>) -> Result<()> {
    for addr in range.step_by(PAGE_SIZE) {
        match cursor.query(addr) {
            Entry::None => cursor.set_special(addr, WP_MARKER).map_err(|_| Errno::ENOMEM)?,
            Entry::Present { flags, .. } => {
                cursor.protect(addr, (flags - PteFlags::WRITE) | PteFlags::WATCHED);
            }
            Entry::Special(value) if swap::is_swap(value) => {
                cursor.set_special(addr, swap::with_mark(value, true)).map_err(|_| Errno::ENOMEM)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether `vma` shows shared memory that gets huge pages where it has room.
fn wants_shared(vma: &Vma) -> bool {
    vma.attr.backing.mapping().is_some_and(|m| thp::shared::wanted_orders(vma, m) & thp::HUGE != 0)
}

/// How many holders a mapped page has besides the page cache.
fn holders(frame: &Frame, kind: u32) -> u32 {
    // Without `frame` itself, and for file pages and merged ones without the cache's or the tree's own reference.
    let own = match kind & (page_flags::ANON | page_flags::KSM | page_flags::SHMEM) {
        page_flags::ANON => 1,
        page_flags::SHMEM => 1 + own_refs(frame),
        _ => 2,
    };
    frame.ref_count().saturating_sub(own).max(1)
}

pub(crate) fn view_of(entry: &Entry) -> PageView {
    let mut state = PageState::empty();
    match entry {
        Entry::Present { frame, flags } => {
            let kind = frame.meta().flags.load(Ordering::Relaxed);
            state |= PageState::PRESENT;
            state.set(PageState::FILE, kind & (page_flags::FILE | page_flags::SHMEM) != 0);
            state.set(PageState::ZERO, kind & page_flags::ZERO != 0);
            state.set(PageState::SOFT_DIRTY, !flags.contains(PteFlags::SOFT));
            state.set(PageState::WATCHED, flags.contains(PteFlags::WATCHED));
            let counted = kind & (page_flags::ANON | page_flags::FILE | page_flags::SHMEM) != 0;
            state.set(PageState::EXCLUSIVE, counted && holders(frame, kind) == 1);
            PageView { state, pfn: frame.pfn() }
        }
        Entry::Special(value) if swap::is_swap(*value) => {
            state.set(PageState::WATCHED, swap::is_watched(*value));
            PageView { state: state | PageState::SWAPPED, pfn: swap::place_of(*value) }
        }
        // LINUX: a marker looks like a page in swap.
        Entry::Special(GUARD_MARKER) => PageView { state: PageState::GUARD | PageState::SWAPPED, pfn: 0 },
        Entry::Special(WP_MARKER) => PageView { state: PageState::WATCHED | PageState::SWAPPED, pfn: 0 },
        _ => PageView::default(),
    }
}
