//! Walks over page tables for reclaim and madvise(2): which pages were used, and which entries can go.

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use hal::frame::Frame;
use hal::paging::{Cursor, Entry, PteFlags};
use hal::{PAGE_SHIFT, PAGE_SIZE, PageRange, USER_END};

use crate::mapping::whole::own_refs;
use crate::mapping::{Mapping, page_flags};
use crate::space::{Mm, RssDelta};
use crate::swap::{self, Batch};
use crate::vma::{Backing, VmFlags, Vma};
use crate::watch::WP_MARKER;
use crate::{mapping, reclaim, registry, thp};

/// Entries looked at under one hold of the locks.
const STEP: usize = 128;

/// What a walk is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Note what was used, take out what was not.
    Age,
    /// Make pages look unused (`MADV_COLD`).
    Cold,
    /// Take out what can be (`MADV_PAGEOUT`).
    Out,
}

/// What a walk does when the address space is being changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// It ends.
    Try,
    /// It waits.
    Wait,
}

/// Ages the pages of all address spaces; how many went. An address space that is being changed is left out.
pub(crate) fn age_all() -> usize {
    let mut freed = 0;
    registry::for_each_owned(|mm| {
        freed += mm.age_range(0..USER_END, Aim::Age, Lock::Try);
        // Whoever waits for memory may hold locks that its end takes.
        registry::let_go(mm);
    });
    freed
}

/// An entry that may go.
struct Place<'a> {
    vma: &'a Vma,
    addr: u64,
    flags: PteFlags,
    aim: Aim,
}

/// What one step of a walk did.
#[derive(Default)]
struct Done {
    /// Whether pages may go to swap.
    swaps: bool,
    /// Pages of the VMA's file that are out of the page table, and may go to swap.
    shared: ArrayVec<u64, { swap::BATCH }>,
    delta: RssDelta,
    freed: usize,
}

impl Mm {
    /// Ages the pages of `range`; how many private ones went. Sleeps while pages are written to swap.
    pub(crate) fn age_range(&self, range: Range<u64>, aim: Aim, lock: Lock) -> usize {
        let (mut batch, mut freed, mut next) = (Batch::default(), 0, Some(range.start));
        while let Some(at) = next {
            let mut done = Done { swaps: aim != Aim::Age || reclaim::may_swap(), ..Done::default() };
            next = self.age_step(at..range.end, aim, lock, &mut batch, &mut done);
            freed += done.freed;
            self.rss.note_peak();
            self.rss.apply(done.delta);
            if batch.is_full() {
                freed += batch.write();
                reclaim::tell_progress();
            }
        }
        freed + batch.write()
    }

    /// Ages some pages of `range`; where to go on.
    fn age_step(
        &self,
        range: Range<u64>,
        aim: Aim,
        lock: Lock,
        batch: &mut Batch,
        done: &mut Done,
    ) -> Option<u64> {
        let space = match lock {
            Lock::Try => self.space.try_read()?,
            Lock::Wait => self.space.read(),
        };
        for vma in space.set.overlapping(range.clone()) {
            let fixed = VmFlags::LOCKED | VmFlags::PFNMAP | VmFlags::IO | VmFlags::HUGETLB;
            if vma.attr.flags.intersects(fixed) || !has_pages_to_age(vma, aim) {
                continue;
            }
            let part = vma.clip(&range);
            let next = self.age_vma(vma, part, aim, batch, done);
            if let Some(mapping) = vma.attr.backing.mapping() {
                // The page table is unlocked and flushed: the pages may be the cache's alone by now.
                done.shared.drain(..).for_each(|idx| {
                    mapping.swap_out(idx, batch);
                });
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }

    /// Ages up to [`STEP`] pages of `range`, which is inside of `vma`; where to go on, if not at its end.
    fn age_vma(
        &self,
        vma: &Vma,
        range: Range<u64>,
        aim: Aim,
        batch: &mut Batch,
        done: &mut Done,
    ) -> Option<u64> {
        let range = PageRange::new(range.start, range.end)?;
        let mut cursor = self.page_table().cursor(range);
        let mut at = range.start();
        for _ in 0..STEP {
            let (addr, entry) = cursor.next_mapped(at)?;
            at = addr + PAGE_SIZE as u64;
            if aim == Aim::Age
                && let Some(end) = thp::huge_end(&cursor, addr, &entry)
                && cursor.take_accessed(addr)
            {
                // One bit for all: none of its pages is old.
                at = end;
                continue;
            }
            let Entry::Present { frame, flags } = entry else { continue };
            reclaim::SCANNED.add(1);
            let was_used = cursor.take_accessed(addr);
            let meta = &frame.meta().flags;
            let active = meta.load(Ordering::Relaxed) & page_flags::ACTIVE != 0;
            match aim {
                Aim::Cold => {
                    let _ = meta.fetch_and(!(page_flags::USED | page_flags::ACTIVE), Ordering::Relaxed);
                }
                Aim::Age if was_used => mapping::note_use(&frame),
                Aim::Age if active => {
                    let _ = meta.fetch_and(!page_flags::ACTIVE, Ordering::Relaxed);
                }
                _ => {
                    let place = Place { vma, addr, flags, aim };
                    self.take_out(&mut cursor, place, &frame, batch, done);
                }
            }
            if batch.room() <= done.shared.len() {
                break;
            }
        }
        Some(at)
    }

    /// Takes an entry out, if the page can be had again.
    fn take_out(
        &self,
        cursor: &mut Cursor<'_>,
        place: Place<'_>,
        frame: &Frame,
        batch: &mut Batch,
        done: &mut Done,
    ) {
        let (addr, vma) = (place.addr, place.vma);
        let is_watched = place.flags.contains(PteFlags::WATCHED);
        let kind = frame.meta().flags.load(Ordering::Relaxed);
        if kind & page_flags::FILE != 0
            || (kind & page_flags::SHMEM != 0 && done.swaps && may_go(&place, frame))
        {
            if is_watched {
                // Cannot fail: the entry's table is there.
                let _ = cursor.set_special(addr, WP_MARKER);
            } else {
                cursor.unmap(addr);
            }
            done.delta.count(kind, -1);
            if place.aim == Aim::Out && kind & page_flags::SHMEM != 0 {
                // There is room: the walk ends before it is used up.
                let _ = done.shared.try_push(vma.attr.offset_at(vma.start, addr) >> PAGE_SHIFT);
            }
            return;
        }
        // Two references: the entry's and the one in `frame`. Others may be about to use the contents.
        if kind & page_flags::ANON == 0 || frame.ref_count() != 2 {
            return;
        }
        if vma.attr.flags.contains(VmFlags::DROPPABLE) {
            cursor.unmap(addr);
            done.delta.anon -= 1;
            done.freed += 1;
            return;
        }
        if kind & page_flags::LAZY != 0 {
            if is_watched {
                // The mark would go with the page.
            } else if is_clean(cursor, addr) {
                cursor.unmap(addr);
                done.delta.anon -= 1;
                done.freed += 1;
            } else {
                frame.meta().flags.fetch_and(!page_flags::LAZY, Ordering::Relaxed);
            }
            return;
        }
        if !done.swaps || !swap::has_room() {
            return;
        }
        let Some(value) = batch.add(frame) else { return };
        self.has_swapped.store(true, Ordering::Relaxed);
        // Cannot fail: the entry's table is there.
        if cursor.set_special(addr, swap::with_mark(value, is_watched)).is_err() {
            swap::put(value);
            return;
        }
        done.delta.anon -= 1;
        done.delta.swap += 1;
    }
}

/// Whether the entry of a page of shared memory may go.
///
/// LINUX: `MADV_PAGEOUT` takes it out where there is no room in swap, too, but not when somebody else shows the page.
fn may_go(place: &Place<'_>, frame: &Frame) -> bool {
    let may_swap = place.vma.attr.backing.mapping().is_some_and(|mapping| mapping.may_swap());
    may_swap
        && match place.aim {
            Aim::Age => swap::has_room(),
            // Besides the page cache's there are the entry's, and ours.
            _ => frame.ref_count() == own_refs(frame) + 2,
        }
}

/// Whether the page at `addr` was not written since the entry was clean; from now on no write goes unseen.
fn is_clean(cursor: &mut Cursor<'_>, addr: u64) -> bool {
    if let Entry::Present { flags, .. } = cursor.query(addr) {
        // A write from now on faults, and finds that the page is its own.
        cursor.protect(addr, flags - PteFlags::WRITE);
        cursor.flush();
    }
    matches!(cursor.query(addr), Entry::Present { flags, .. } if !flags.contains(PteFlags::DIRTY))
}

/// Whether a walk finds anything to do in `vma`.
fn has_pages_to_age(vma: &Vma, aim: Aim) -> bool {
    match &vma.attr.backing {
        Backing::Anonymous => true,
        Backing::File(_) => {
            let can_go =
                |m: &Arc<Mapping>| !m.is_shmem() || (m.may_swap() && (aim != Aim::Age || swap::has_room()));
            vma.attr.backing.mapping().is_some_and(can_go) || vma.attr.flags.contains(VmFlags::COWED)
        }
    }
}
