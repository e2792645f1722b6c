//! Large pages smaller than a huge one: a page fault on private memory fills an aligned run of adjacent frames at once.
//!
//! The pages stay pages, each with an entry, a count and flags of its own; what they have in common is that one fault
//! brought them. So nothing else needs to know of them. Which sizes, see [`settings`].
//!
//! Shared memory is filled the same way; of 2 MiB it gets huge pages ([`shared`](super::shared)).

use core::ops::Range;
use core::sync::atomic::Ordering;

use hal::frame::{FrameRun, HUGE_ORDER};
use hal::paging::{Cursor, Entry};
use hal::{PAGE_SIZE, PageRange};

use super::settings;
use crate::compact::daemon;
use crate::counters::Counter;
use crate::fault::touched;
use crate::mapping::{Mapping, page_flags};
use crate::space::Mm;
use crate::vma::{VmFlags, Vma};

/// Huge pages of shared memory (`thp_file_alloc`).
pub static FILE_ALLOC: Counter = Counter::new();
/// Wanted ones, of which there were none (`thp_file_fallback`).
pub static FILE_FALLBACK: Counter = Counter::new();

/// Fills a run of the largest of `orders` around page `idx` of the shared memory `mapping`, where nothing is and which
/// does not end before it; the numbers of its pages. `None`: there is none.
#[cold]
pub(crate) fn fill_shmem(mapping: &Mapping, idx: u64, orders: u32) -> Option<Range<u64>> {
    let is_huge = |order| order == HUGE_ORDER;
    for order in (settings::FIRST_SHMEM_ORDER..=HUGE_ORDER).rev().filter(|order| orders >> order & 1 != 0) {
        let first = idx >> order << order;
        let Some(end) = first.checked_add(1 << order) else { continue };
        let mut is_empty = mapping.has_page(end - 1) && mapping.count_swapped(first..end) == 0;
        mapping.visit_run(first, if is_empty { end } else { first }, |_, _| is_empty = false);
        if !is_empty {
            continue;
        }
        let stats = settings::stats(order);
        if is_huge(order) {
            let is_filled = super::shared::fill_whole(mapping, idx);
            count_huge(is_filled);
            if is_filled {
                return Some(first..end);
            }
            continue;
        }
        if let Some(run) = zeroed_run(order) {
            // Who is faster with one of them, wins; where no room is left, the others stay.
            for (at, frame) in (first..end).zip(run.frames()) {
                if mapping.insert_within(at, frame.clone()).is_err() {
                    break;
                }
            }
            stats.inspect(|stats| stats.shmem_alloc.add(1));
            return mapping.get(idx).map(|_| first..end);
        }
        stats.inspect(|stats| stats.shmem_fallback.add(1));
    }
    None
}

/// Counts a huge page that a file was to get, and got or not.
pub(crate) fn count_huge(is_made: bool) {
    let stats = settings::stats(HUGE_ORDER);
    match is_made {
        true => {
            stats.inspect(|stats| stats.shmem_alloc.add(1));
            FILE_ALLOC.add(1);
        }
        false => {
            stats.inspect(|stats| stats.shmem_fallback.add(1));
            FILE_FALLBACK.add(1);
            daemon::note_shortage();
        }
    }
}

/// `2^order` adjacent frames of zeroes beyond the kernel's reserve.
fn zeroed_run(order: u32) -> Option<FrameRun> {
    if hal::frame::nr_above_reserve() < 2 << order {
        return None;
    }
    let run = FrameRun::alloc(order)?;
    run.frames().iter().for_each(|frame| frame.zero(0..PAGE_SIZE));
    Some(run)
}

/// The aligned run of `2^order` pages around `addr`, if all of it lies in `vma`.
fn run_around(vma: &Vma, addr: u64, order: u32) -> Option<PageRange> {
    let size = (PAGE_SIZE as u64) << order;
    let start = addr & !(size - 1);
    let end = start.checked_add(size)?;
    if start < vma.start || end > vma.end { None } else { PageRange::new(start, end) }
}

fn is_empty(cursor: &mut Cursor<'_>, run: PageRange) -> bool {
    run.pages().all(|at| matches!(cursor.query(at), Entry::None))
}

impl Mm {
    /// Gives the write to `addr` in the private memory `vma` a run of pages of the largest of `orders` that has room.
    /// `false`: there is none; a single page will do. The caller holds `space`.
    #[cold]
    pub(crate) fn fault_run(&self, vma: &Vma, addr: u64, orders: u32) -> bool {
        for order in (settings::FIRST_ORDER..HUGE_ORDER).rev().filter(|order| orders >> order & 1 != 0) {
            let Some(run) = run_around(vma, addr, order) else { continue };
            if !is_empty(&mut self.page_table().cursor(run), run) {
                continue;
            }
            let stats = settings::stats(order);
            if self.fill_run(vma, run, order, addr) {
                stats.inspect(|stats| stats.fault_alloc.add(1));
                return true;
            }
            stats.inspect(|stats| stats.fault_fallback.add(1));
        }
        false
    }

    /// Fills `run`; whether something is mapped at `addr` now.
    fn fill_run(&self, vma: &Vma, run: PageRange, order: u32, addr: u64) -> bool {
        // Zeroed without the lock: it takes long.
        let Some(frames) = zeroed_run(order) else { return false };
        for frame in frames.frames() {
            frame.meta().flags.store(page_flags::ANON, Ordering::Relaxed);
        }
        let flags = touched(&vma.attr, vma.attr.flags.contains(VmFlags::WRITE), true);
        let mut cursor = self.page_table().cursor(run);
        if !is_empty(&mut cursor, run) {
            // Another thread was faster, here or beside.
            return !matches!(cursor.query(addr), Entry::None);
        }
        let mut mapped = 0;
        for (at, frame) in run.pages().zip(frames.frames()) {
            // Where memory for a table is missing, the others find it missing, too.
            if cursor.map(at, frame.clone(), flags).is_err() {
                break;
            }
            mapped += 1;
        }
        let done = !matches!(cursor.query(addr), Entry::None);
        drop(cursor);
        if mapped > 0 {
            vma.attr.note_written();
            self.rss.anon.fetch_add(mapped, Ordering::Relaxed);
        }
        done
    }
}
