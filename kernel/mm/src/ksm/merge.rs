//! What merging does to one address space: find pages, put another page in their place, undo that.

use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use hal::frame::Frame;
use hal::paging::{Cursor, Entry, PteFlags};
use hal::{PAGE_SIZE, PageRange, USER_END, UserAddr};
use sched::Interruptible;

use super::tree;
use crate::mapping::page_flags;
use crate::oom;
use crate::space::{Mm, RssDelta, Space};
use crate::vma::{Backing, VmFlags, Vma};

/// Entries looked at under one hold of the locks.
const STEP: usize = 256;

/// Where a search for pages led.
pub(super) enum Next {
    /// To this page.
    Page(u64, Frame),
    /// To none yet; go on here.
    More(u64),
    /// To the end of the address space.
    End,
}

fn kind_of(frame: &Frame) -> u32 {
    frame.meta().flags.load(Ordering::Relaxed)
}

/// Whether a page is a stable one, or the page of zeroes that merging put in place.
pub(super) fn is_merged(frame: &Frame) -> bool {
    kind_of(frame) & page_flags::KSM != 0
}

/// Whether a page can be looked at: private, and not about to go.
fn is_candidate(frame: &Frame) -> bool {
    kind_of(frame) & (page_flags::ANON | page_flags::HUGETLB | page_flags::LAZY) == page_flags::ANON
}

/// Memory at `addr` that takes part.
fn part_at(space: &Space, addr: u64) -> Option<(&Vma, PageRange)> {
    let vma = space.set.at(addr).filter(|vma| vma.attr.flags.contains(VmFlags::MERGEABLE))?;
    Some((vma, PageRange::page_of(UserAddr(addr))?))
}

fn has_no_file(vma: &Vma) -> bool {
    matches!(vma.attr.backing, Backing::Anonymous)
}

/// Forbids writes to the page at `addr`, and gives it with the flags of its entry, if this page table is its only holder.
///
/// From here on it cannot change as long as the cursor is held: who wrote before is done, and who comes now waits.
fn freeze(cursor: &mut Cursor<'_>, addr: u64) -> Option<(Frame, PteFlags)> {
    let Entry::Present { frame, flags } = cursor.query(addr) else { return None };
    // Two references: the entry's and the one in `frame`.
    if !is_candidate(&frame) || is_merged(&frame) || frame.ref_count() != 2 {
        return None;
    }
    let flags = (flags - PteFlags::WRITE) | PteFlags::COW;
    if !cursor.protect(addr, flags) {
        return None;
    }
    // Even if the entry forbade writes already: who made it so may not have flushed yet.
    cursor.flush_page(addr);
    (frame.ref_count() == 2).then_some((frame, flags))
}

impl Mm {
    /// The first page from `from` on that takes part.
    pub(super) fn next_mergeable(&self, from: u64) -> Next {
        let space = self.space.read();
        for vma in space.set.overlapping(from..USER_END) {
            if !vma.attr.flags.contains(VmFlags::MERGEABLE) {
                continue;
            }
            let part = vma.clip(&(from..USER_END));
            let Some(range) = PageRange::new(part.start, part.end) else { continue };
            let mut cursor = self.page_table().cursor(range);
            let mut at = range.start();
            for _ in 0..STEP {
                let Some((addr, entry)) = cursor.next_mapped(at) else { break };
                at = addr + PAGE_SIZE as u64;
                if let Entry::Present { frame, .. } = entry
                    && is_candidate(&frame)
                {
                    return Next::Page(addr, frame);
                }
            }
            if cursor.next_mapped(at).is_some() {
                return Next::More(at);
            }
        }
        Next::End
    }

    /// Whether the page of zeroes may take the place of the page at `addr`. Not in a mapping of a file: what is not `ANON`
    /// there is the file's, which a fork leaves out and a hole in the file takes away.
    pub(super) fn may_show_zeroes(&self, addr: u64) -> bool {
        part_at(&self.space.read(), addr).is_some_and(|(vma, _)| has_no_file(vma))
    }

    /// Puts `target`, which never changes, in the place of the page at `addr`, if that has the same contents and nobody
    /// else has it, and the page of zeroes may be there. `false`: it is as it was.
    pub(super) fn merge_page(&self, addr: u64, target: &Frame) -> bool {
        let space = self.space.read();
        let Some((vma, page)) = part_at(&space, addr) else { return false };
        if kind_of(target) & page_flags::ZERO != 0 && !has_no_file(vma) {
            return false;
        }
        let mut cursor = self.page_table().cursor(page);
        let Some((frame, flags)) = freeze(&mut cursor, addr) else { return false };
        if !tree::is_same(&frame, target) {
            return false;
        }
        let mut delta = RssDelta::default();
        delta.count(kind_of(&frame), -1);
        delta.count(kind_of(target), 1);
        drop(frame);
        if cursor.map(addr, target.clone(), flags).is_err() {
            return false;
        }
        drop(cursor);
        self.rss.apply(delta);
        true
    }

    /// Makes the page at `addr` stable, if it has the contents of `like` and nobody else has it; gives it for the tree.
    pub(super) fn make_stable(&self, addr: u64, like: &Frame) -> Option<Frame> {
        let space = self.space.read();
        let (_, page) = part_at(&space, addr)?;
        let mut cursor = self.page_table().cursor(page);
        let (frame, _) = freeze(&mut cursor, addr)?;
        if !tree::is_same(&frame, like) {
            return None;
        }
        frame.meta().flags.fetch_or(page_flags::KSM, Ordering::Relaxed);
        Some(frame)
    }

    /// Gives each merged page of `range` a copy of its own; how many there were. May sleep.
    ///
    /// `ENOMEM`: no memory for all of them. `EINTR`: the thread is to die.
    pub(crate) fn unmerge(&self, range: Range<u64>) -> Result<usize> {
        let (mut at, mut found) = (range.start, 0);
        while let Some(addr) = self.next_merged(at..range.end) {
            if sched::current().is_interrupted(Interruptible::Killable) {
                return Err(Errno::EINTR);
            }
            let copy = oom::alloc()?;
            self.unmerge_page(addr, copy);
            found += 1;
            at = addr + PAGE_SIZE as u64;
        }
        Ok(found)
    }

    /// The first merged page of `range`.
    fn next_merged(&self, range: Range<u64>) -> Option<u64> {
        let mut found = None;
        self.for_each_merged(range, |addr, _| {
            found = Some(addr);
            false
        });
        found
    }

    /// Calls `visit` for each merged page of `range`, with the page table locked, until it says `false`. The page table is
    /// free for others after each [`STEP`] entries.
    fn for_each_merged(&self, range: Range<u64>, mut visit: impl FnMut(u64, &Frame) -> bool) {
        let space = self.space.read();
        for vma in space.set.overlapping(range.clone()) {
            // What cannot take part has no such pages.
            if !super::can_merge(vma.attr.flags) {
                continue;
            }
            let part = vma.clip(&range);
            let Some(pages) = PageRange::new(part.start, part.end) else { continue };
            let mut at = pages.start();
            while at < pages.end() {
                let mut cursor = self.page_table().cursor(pages);
                for _ in 0..STEP {
                    let Some((addr, entry)) = cursor.next_mapped(at) else {
                        at = pages.end();
                        break;
                    };
                    at = addr + PAGE_SIZE as u64;
                    if let Entry::Present { frame, .. } = &entry
                        && is_merged(frame)
                        && !visit(addr, frame)
                    {
                        return;
                    }
                }
            }
        }
    }

    /// Pages of zeroes that merging put in place.
    pub(super) fn count_merged_zeroes(&self) -> u64 {
        let mut nr = 0;
        self.for_each_merged(0..USER_END, |_, frame| {
            nr += u64::from(kind_of(frame) & page_flags::ZERO != 0);
            true
        });
        nr
    }

    /// Puts `copy` in the place of the merged page at `addr`, if one still is there.
    fn unmerge_page(&self, addr: u64, copy: Frame) {
        let space = self.space.read();
        let (Some(vma), Some(page)) = (space.set.at(addr), PageRange::page_of(UserAddr(addr))) else {
            return;
        };
        let mut cursor = self.page_table().cursor(page);
        let Entry::Present { frame, flags } = cursor.query(addr) else { return };
        if !is_merged(&frame) {
            return;
        }
        copy.copy_from(&frame);
        copy.meta().flags.store(page_flags::ANON, Ordering::Relaxed);
        let mut delta = RssDelta { anon: 1, ..RssDelta::default() };
        delta.count(kind_of(&frame), -1);
        // Cannot fail: the entry's table is there. The first write finds that nobody else has the page.
        if cursor.map(addr, copy, flags).is_err() {
            return;
        }
        drop(cursor);
        vma.attr.note_written();
        self.rss.apply(delta);
    }
}
