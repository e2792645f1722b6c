//! Joining small pages into huge ones.
//!
//! ```text
//!   look, `space` read   how many pages are missing, in swap, shared? Too many: no
//!   swapped ones         are read back, without a lock
//!   `space` write        the entries go out of the page table; from here on nobody reaches the pages, and whoever
//!                        tries waits for `space`
//!                        the contents are copied, and the huge page is put in their place
//! ```

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use hal::frame::{HUGE_FRAMES, HUGE_SIZE, HugeFrame};
use hal::paging::{Entry, PteFlags};
use hal::{PAGE_SIZE, PageRange};
use sched::Interruptible;

use super::settings::{BACKGROUND, Effort};
use super::shared::can_join;
use super::{alloc, huge_range};
use crate::counters::Counter;
use crate::fault::{Need, touched};
use crate::mapping::page_flags;
use crate::oom;
use crate::pin::is_pinned;
use crate::space::{Mm, Prefs, RssDelta};
use crate::swap;
use crate::vma::{Backing, VmFlags, Vma};

/// Huge pages made of small ones (`thp_collapse_alloc`).
pub static ALLOC: Counter = Counter::new();
/// Attempts that found no huge page (`thp_collapse_alloc_failed`).
pub static ALLOC_FAILED: Counter = Counter::new();
/// Times the background thread left an area alone that was too empty (`thp_scan_exceed_none_pte`).
pub static EXCEED_NONE: Counter = Counter::new();
/// The same for too many pages in swap (`thp_scan_exceed_swap_pte`).
pub static EXCEED_SWAP: Counter = Counter::new();
/// The same for too many shared pages (`thp_scan_exceed_share_pte`).
pub static EXCEED_SHARED: Counter = Counter::new();

const SIZE: u64 = HUGE_SIZE as u64;

/// How much may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Pages where nothing is, or zeroes.
    none: u64,
    /// Pages in swap.
    swap: u64,
    /// Pages that others have, too.
    shared: u64,
}

impl Limits {
    /// For who asks: anything goes, except for nothing at all.
    const ASKED: Limits = Limits { none: HUGE_FRAMES as u64 - 1, swap: u64::MAX, shared: u64::MAX };

    /// Whether so little is missing of shared memory; counts what it is too much of.
    pub(super) fn allow(self, none: u64, swap: u64) -> bool {
        if swap > self.swap {
            EXCEED_SWAP.add(1);
        } else if none > self.none {
            EXCEED_NONE.add(1);
        }
        swap <= self.swap && none <= self.none
    }

    /// Those of the background thread.
    pub(super) fn background() -> Limits {
        Limits {
            none: BACKGROUND.max_ptes_none.load(Ordering::Relaxed),
            swap: BACKGROUND.max_ptes_swap.load(Ordering::Relaxed),
            shared: BACKGROUND.max_ptes_shared.load(Ordering::Relaxed),
        }
    }
}

/// What became of one huge page's worth of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is one huge page now.
    Joined,
    /// It was.
    Already,
    /// It stays as it is.
    Left,
}

/// What a look at it found.
enum Found {
    /// Nothing to do.
    Done(Outcome),
    /// It can be joined, once the pages at these addresses are there.
    Joinable(Vec<u64>),
}

impl Mm {
    /// `MADV_COLLAPSE`: gives each huge page's worth of memory that lies in `range` as a whole one huge page. May sleep.
    ///
    /// `EINVAL`: memory that cannot have huge pages, or in which nothing is. `ENOMEM`: a hole, or no huge page to be had.
    /// `EAGAIN`: markers are in the way. `EINTR`: the thread is to die.
    pub(crate) fn collapse(&self, range: Range<u64>) -> Result<()> {
        let mut result = self.check_collapse(range.clone());
        if result == Err(Errno::EINVAL) {
            return result;
        }
        let (mut at, end) = (range.start.next_multiple_of(SIZE), range.end & !(SIZE - 1));
        // As far as possible: the last error counts. Only what is in use is visited, however long the range.
        while let Some(next) = self.next_to_collapse(at..end) {
            if sched::current().is_interrupted(Interruptible::Killable) {
                return Err(Errno::EINTR);
            }
            let shared = self.next_shared(next..next + SIZE).is_some();
            let done = match shared {
                true => self.collapse_shared(next, Effort::Wait).map(|()| Outcome::Joined),
                false => self.collapse_one(next, Limits::ASKED, Effort::Wait),
            };
            let one = match done {
                // Nothing but zeroes.
                Ok(Outcome::Left) => Err(Errno::EINVAL),
                other => other.map(|_| ()),
            };
            if one == Err(Errno::ENOMEM) {
                return one;
            }
            result = one.and(result).and(self.check_used(at, next));
            at = next + SIZE;
        }
        result.and(self.check_used(at, end))
    }

    /// The first huge page's worth of memory in `range` that is to be joined.
    fn next_to_collapse(&self, range: Range<u64>) -> Option<u64> {
        let (used, shared) = (self.next_collapsible(range.clone()), self.next_shared(range));
        used.into_iter().chain(shared).min()
    }

    /// The first huge page's worth of memory in `range` that lies in one area and has something in it.
    pub(super) fn next_collapsible(&self, range: Range<u64>) -> Option<u64> {
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
        let fits = space.set.overlapping(range).all(|vma| can_collapse(vma) || can_join(vma));
        if fits && !disabled { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Joins the pages of the huge page at `at`, if no more than `limits` says is missing. May sleep.
    ///
    /// `EINVAL`: the memory cannot have huge pages. `ENOMEM`, `EAGAIN`: as for [`collapse`](Self::collapse).
    pub(super) fn collapse_one(&self, at: u64, limits: Limits, effort: Effort) -> Result<Outcome> {
        let swapped = match self.look(at, limits)? {
            Found::Done(outcome) => return Ok(outcome),
            Found::Joinable(swapped) => swapped,
        };
        for addr in swapped {
            self.fault_in(addr, Need::READ)?;
        }
        // Before the lock: it takes long.
        let Some(huge) = alloc(effort) else {
            ALLOC_FAILED.add(1);
            return Err(Errno::ENOMEM);
        };
        let outcome = self.join(at, huge)?;
        if outcome == Outcome::Joined {
            ALLOC.add(1);
        }
        Ok(outcome)
    }

    /// Looks whether the huge page at `at` can be joined.
    fn look(&self, at: u64, limits: Limits) -> Result<Found> {
        let space = self.space.read();
        let vma = space.set.at(at).filter(|vma| can_collapse(vma)).ok_or(Errno::EINVAL)?;
        let Some(range) = huge_range(vma, at) else { return Ok(Found::Done(Outcome::Left)) };
        let mut swapped = Vec::new();
        swapped.try_reserve_exact(HUGE_FRAMES).map_err(|_| Errno::ENOMEM)?;
        let (mut used, mut shared, mut next) = (0, 0, range.start());
        let mut cursor = self.page_table().cursor(range);
        if cursor.query_huge(at).is_some() && !is_zero_entry(&cursor.query(at)) {
            return Ok(Found::Done(Outcome::Already));
        }
        while let Some((addr, entry)) = cursor.next_mapped(next) {
            next = addr + PAGE_SIZE as u64;
            match entry {
                Entry::Special(value) if swap::is_swap(value) => swapped.push(addr),
                // Joined, they would count as written since the last write to clear_refs, which has split the huge page.
                Entry::Present { flags, .. } if flags.contains(PteFlags::SOFT) && limits != Limits::ASKED => {
                    return Ok(Found::Done(Outcome::Left));
                }
                // Who pinned it goes on with this very page.
                Entry::Present { ref frame, .. } if is_pinned(frame) => {
                    return Ok(Found::Done(Outcome::Left));
                }
                Entry::Present { ref frame, .. } if !is_zero_entry(&entry) => {
                    used += 1;
                    // Two references: the entry's and the one in `frame`.
                    shared += u64::from(frame.ref_count() > 2);
                }
                Entry::Present { .. } => {}
                _ => return Err(Errno::EAGAIN),
            }
        }
        let none = (HUGE_FRAMES as u64).saturating_sub(used + swapped.len() as u64);
        let exceeded = [
            (none > limits.none, &EXCEED_NONE),
            (swapped.len() as u64 > limits.swap, &EXCEED_SWAP),
            (shared > limits.shared, &EXCEED_SHARED),
        ];
        match exceeded.iter().find(|(exceeds, _)| *exceeds) {
            Some((_, counter)) => {
                counter.add(i64::from(limits != Limits::ASKED));
                Ok(Found::Done(Outcome::Left))
            }
            None => Ok(Found::Joinable(swapped)),
        }
    }

    /// Puts `huge` in the place of the small pages at `at`, with their contents.
    fn join(&self, at: u64, huge: HugeFrame) -> Result<Outcome> {
        let mut small = Vec::new();
        small.try_reserve_exact(HUGE_FRAMES).map_err(|_| Errno::ENOMEM)?;
        let space = self.space.write();
        let vma = space.set.at(at).filter(|vma| can_collapse(vma)).ok_or(Errno::EINVAL)?;
        let Some(range) = huge_range(vma, at) else { return Ok(Outcome::Left) };
        let mut cursor = self.page_table().cursor(range);
        if cursor.query_huge(at).is_some() && !is_zero_entry(&cursor.query(at)) {
            return Ok(Outcome::Already);
        }
        let mut next = range.start();
        while let Some((addr, entry)) = cursor.next_mapped(next) {
            next = addr + PAGE_SIZE as u64;
            // Pages may have gone to swap meanwhile.
            let Entry::Present { frame, flags } = entry else { return Err(Errno::EAGAIN) };
            if is_pinned(&frame) {
                return Ok(Outcome::Left);
            }
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
            return Ok(Outcome::Joined);
        }
        for (addr, frame, flags) in small {
            // The frame has one more reference meanwhile, but the entry's rights were right for it.
            oom::insist(|| self.page_table().cursor(range).map(addr, frame.clone(), flags));
        }
        Err(Errno::ENOMEM)
    }
}

/// Whether an entry shows zeroes that belong to nobody.
fn is_zero_entry(entry: &Entry) -> bool {
    matches!(entry, Entry::Present { frame, .. }
        if frame.meta().flags.load(Ordering::Relaxed) & page_flags::ZERO != 0)
}

/// Whether small pages of `vma` can be joined, whatever the setting.
pub(super) fn can_collapse(vma: &Vma) -> bool {
    let never = VmFlags::NOHUGEPAGE | VmFlags::GROWSDOWN | VmFlags::DROPPABLE;
    let anonymous = matches!(vma.attr.backing, Backing::Anonymous);
    anonymous && !vma.attr.flags.intersects(never) && vma.attr.watch.is_none()
}
