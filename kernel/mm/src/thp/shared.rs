//! Huge pages of shared memory: tmpfs, memfds, System V segments, shared anonymous mappings.
//!
//! A page fault that finds nothing in 2 MiB of a file gives it a huge page, if the file is to have such ([`wanted_orders`]).
//! A shared mapping that covers 2 MiB of its file where the page cache has a huge page shows it by one entry, whatever the
//! settings say; private mappings show small ones. `MADV_COLLAPSE` makes a huge page of small ones in the page cache, and maps
//! that; other mappings of it find it with their next fault. The page cache's side is in [`crate::mapping::whole`].
//!
//! khugepaged does the same in the background. write(2) brings huge pages to files of a tmpfs that is to have them
//! ([`wanted_for_writes`]): where it fills 2 MiB, and in the holes of a file that reaches as far.
//!
//! LINUX: with `huge=always` a page that reaches beyond the file's end may be huge, too, and fallocate(2) makes such.
//!
//! Source: Documentation/admin-guide/mm/transhuge.rst.

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use hal::frame::{HUGE_FRAMES, HUGE_ORDER, HugeFrame};
use hal::paging::Entry;
use hal::{PAGE_SHIFT, PAGE_SIZE, PageRange};

use super::collapse::Limits;
use super::settings::{self, Effort};
use super::{HUGE, SIZE, huge_range};
use crate::fault::touched;
use crate::mapping::{Huge, Mapping, page_flags};
use crate::pin::is_pinned;
use crate::registry;
use crate::space::{Mm, RssDelta, Space};
use crate::vma::{VmFlags, Vma};
use crate::watch::{WP_MARKER, WatchModes};

/// Attempts to map what another thread maps in parts.
const TRIES: usize = 16;

/// The orders of the large pages that `vma`, which shows shared memory, gets where its file has nothing.
#[inline]
pub(crate) fn wanted_orders(vma: &Vma, mapping: &Mapping) -> u32 {
    let flags = vma.attr.flags;
    if flags.contains(VmFlags::NOHUGEPAGE) || vma.attr.watch.is_some() {
        return 0;
    }
    let advised = flags.contains(VmFlags::HUGEPAGE);
    match mapping.huge_policy() {
        None => 0,
        Some(Huge::Anonymous) => settings::shmem_orders(advised),
        Some(policy) => settings::tmpfs_orders(policy, advised),
    }
}

/// The 2 MiB around `addr` in the shared mapping `vma`, and the number of the page that they begin with, if a huge page of the
/// file fits there.
pub(crate) fn place(vma: &Vma, addr: u64) -> Option<(PageRange, u64)> {
    if vma.attr.is_private() {
        return None;
    }
    let range = huge_range(vma, addr)?;
    let first = vma.attr.offset_at(vma.start, range.start()) >> PAGE_SHIFT;
    first.is_multiple_of(HUGE_FRAMES as u64).then_some((range, first))
}

impl Mm {
    /// Maps the huge page of `mapping` around `addr` by one entry, if the page cache has one and nothing is mapped there.
    /// The caller holds `space`.
    pub(crate) fn map_whole(&self, vma: &Vma, addr: u64, mapping: &Mapping, is_write: bool) -> bool {
        let Some((range, first)) = place(vma, addr) else { return false };
        let mut cursor = self.page_table().cursor(range);
        if !cursor.is_huge_free(range.start()) {
            return false;
        }
        // Under the page table's lock: what leaves the file is taken out of here afterwards.
        let Some(whole) = mapping.whole(first) else { return false };
        let flags = touched(&vma.attr, vma.attr.flags.contains(VmFlags::WRITE), is_write);
        if cursor.map_huge(range.start(), whole, flags).is_err() {
            return false;
        }
        drop(cursor);
        self.has_shared_huge.store(true, Ordering::Relaxed);
        self.rss.apply(RssDelta { shmem: HUGE_FRAMES as i64, ..RssDelta::default() });
        true
    }

    /// `MADV_COLLAPSE` of the 2 MiB of shared memory at `at`. Sleeps.
    ///
    /// `EINVAL`: nothing is there, the file ends before, or somebody wants to know of missing pages. `EAGAIN`: somebody uses a
    /// page of it, or markers are in the way. `ENOMEM`, `ENOSPC`.
    pub(super) fn collapse_shared(&self, at: u64, effort: Effort) -> Result<()> {
        for _ in 0..TRIES {
            let (mapping, first) = {
                let space = self.space.read();
                let (vma, mapping) = joinable(&space, at).ok_or(Errno::EINVAL)?;
                let (range, first) = place(vma, at).ok_or(Errno::EINVAL)?;
                if self.has_marker(range) {
                    return Err(Errno::EAGAIN);
                }
                (mapping.clone(), first)
            };
            if mapping.whole(first).is_none() {
                let pages = first..first + HUGE_FRAMES as u64;
                if mapping.has_hole_in_whole(first) && registry::tells_missing(&mapping, &pages) {
                    return Err(Errno::EINVAL);
                }
                let huge = super::alloc_for(page_flags::SHMEM, effort).ok_or(Errno::ENOMEM)?;
                mapping.join(first, huge)?;
            }
            if self.show_whole(at, &mapping)? {
                return Ok(());
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Whether a page of `range` is marked as a guard, or as one whose contents are lost.
    fn has_marker(&self, range: PageRange) -> bool {
        let mut cursor = self.page_table().cursor(range);
        let mut at = range.start();
        while let Some((addr, entry)) = cursor.next_mapped(at) {
            if matches!(entry, Entry::Special(value) if value != WP_MARKER) {
                return true;
            }
            at = addr + PAGE_SIZE as u64;
        }
        false
    }

    /// Puts one entry in the place of small ones at `at`; whether it did. `EAGAIN`: markers are in the way.
    fn show_whole(&self, at: u64, mapping: &Arc<Mapping>) -> Result<bool> {
        // For writing: who looks for a page meanwhile waits.
        let space = self.space.write();
        let Some((vma, _)) = joinable(&space, at).filter(|(_, now)| Arc::ptr_eq(now, mapping)) else {
            return Ok(false);
        };
        let Some((range, _)) = place(vma, at) else { return Ok(false) };
        if self.page_table().cursor(range).query_huge(at).is_some() {
            return Ok(true);
        }
        if self.has_marker(range) {
            return Err(Errno::EAGAIN);
        }
        self.clear_pages(range.start()..range.end());
        Ok(self.map_whole(vma, at, mapping, false))
    }

    /// The first place in `range` where shared memory could have a huge page.
    pub(super) fn next_shared(&self, range: Range<u64>) -> Option<u64> {
        let space = self.space.read();
        space.set.overlapping(range.clone()).find_map(|vma| {
            let at = vma.start.max(range.start).next_multiple_of(SIZE);
            (at < range.end && joinable(&space, at).is_some()).then_some(at)
        })
    }

    /// Pages of shared memory that large entries map.
    pub(crate) fn shared_huge_pages(&self) -> u64 {
        if !self.has_shared_huge.load(Ordering::Relaxed) {
            return 0;
        }
        let space = self.space.read();
        let mut nr = 0;
        for vma in space.set.iter().filter(|vma| vma.attr.backing.mapping().is_some_and(|m| m.is_shmem())) {
            let mut from = vma.start;
            // Only what is mapped is looked at, however long the area.
            while let Some(pages) = PageRange::new(from, vma.end).filter(|_| from < vma.end) {
                let Some((addr, _)) = self.page_table().cursor(pages).next_mapped(from) else { break };
                let at = addr & !(SIZE - 1);
                let is_whole = |(range, _)| self.page_table().cursor(range).query_huge(at).is_some();
                nr += if place(vma, at).is_some_and(is_whole) { HUGE_FRAMES as u64 } else { 0 };
                from = at + SIZE;
            }
        }
        nr
    }
}

/// The area at `at` and its shared memory, if small pages there can be joined, whatever the settings but "deny" say.
fn joinable(space: &Space, at: u64) -> Option<(&Vma, &Arc<Mapping>)> {
    let vma = space.set.at(at)?;
    let mapping = vma.attr.backing.mapping().filter(|mapping| mapping.is_shmem())?;
    let fits = can_join(vma) && place(vma, at).is_some_and(|(range, _)| range.start() == at);
    fits.then_some((vma, mapping))
}

/// Whether small pages of the shared mapping `vma` can be joined.
pub(super) fn can_join(vma: &Vma) -> bool {
    let is_shmem = vma.attr.backing.mapping().is_some_and(|mapping| mapping.is_shmem());
    let may = !vma.attr.flags.contains(VmFlags::NOHUGEPAGE) && !vma.attr.watched().contains(WatchModes::WP);
    is_shmem && !vma.attr.is_private() && may && !settings::is_shmem_denied()
}

/// Whether the background thread joins small pages of `vma`, which shows shared memory.
#[inline]
pub(super) fn wants_joined(vma: &Vma) -> bool {
    let wants = |mapping: &Arc<Mapping>| can_join(vma) && wanted_orders(vma, mapping) & HUGE != 0;
    vma.attr.backing.mapping().is_some_and(wants)
}

/// The first place from `at` on in `vma` where a huge page of its file fits and the file has something.
pub(super) fn next_used(vma: &Vma, at: u64) -> Option<(PageRange, &Arc<Mapping>)> {
    let mapping = vma.attr.backing.mapping()?;
    let (_, first) = place(vma, at)?;
    let used = mapping.next_page(first)?;
    // The places lie alike in the file and in memory.
    let ahead = (used - first) >> HUGE_ORDER;
    let (range, _) = place(vma, at.checked_add(ahead.checked_mul(SIZE)?)?)?;
    Some((range, mapping))
}

/// Whether the background thread is to make a huge page of what the file has at `at`, or to show the one that is there.
pub(super) fn is_joinable(vma: &Vma, at: u64, mapping: &Mapping, limits: Limits) -> bool {
    let Some((_, first)) = place(vma, at) else { return false };
    let end = first + HUGE_FRAMES as u64;
    let (mut cached, swapped) = (0, mapping.count_swapped(first..end));
    // A page that a device uses stays where it is.
    let mut can_move = true;
    mapping.visit_run(first, end, |_, frame| {
        cached += 1;
        can_move &= !is_pinned(frame);
    });
    let holes = (end - first).saturating_sub(cached + swapped);
    can_move && mapping.has_page(end - 1) && mapping.has_room(holes) && limits.allow(holes, swapped)
}

/// Whether write(2) makes huge pages of `mapping`.
#[inline]
pub(crate) fn wanted_for_writes(mapping: &Mapping) -> bool {
    mapping.huge_policy().is_some_and(|policy| settings::tmpfs_orders(policy, false) & HUGE != 0)
}

/// Gives the file the huge page around page `idx`, if there is nothing; whether it did.
pub(super) fn fill_whole(mapping: &Mapping, idx: u64) -> bool {
    let first = idx >> HUGE_ORDER << HUGE_ORDER;
    HugeFrame::alloc_user_zeroed(page_flags::SHMEM)
        .is_some_and(|huge| mapping.insert_whole(first, huge).is_ok())
}
