//! The thread that joins small pages into huge ones in the background.
//!
//! It walks the address spaces of the machine in rounds, looks at some pages ([`BACKGROUND`]), and sleeps. Where a round
//! finds no memory that could have huge pages, it sleeps until a page fault tells of some ([`note_candidate`]): an idle
//! machine has no timer for this.
//!
//! It holds no reference to an address space while it sleeps, so that one can end meanwhile.
//!
//! Source: Documentation/admin-guide/mm/transhuge.rst, "Khugepaged controls".

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use abi::{Errno, Result};
use hal::USER_END;
use hal::frame::{HUGE_FRAMES, HUGE_SIZE};
use sched::{Interruptible, WaitQueue};

use super::collapse::{Limits, Outcome, can_collapse};
use super::settings::{self, BACKGROUND, Effort};
use super::{HUGE, huge_range, shared};
use crate::counters::Counter;
use crate::registry;
use crate::space::Mm;
use crate::vma::Vma;

/// Huge pages that the thread made (`pages_collapsed`).
pub static COLLAPSED: Counter = Counter::new();
/// Rounds over all address spaces (`full_scans`).
pub static FULL_SCANS: Counter = Counter::new();

static WAKE: WaitQueue = WaitQueue::new();
/// Counts changes of settings, each of which ends a sleep.
static CHANGES: AtomicU64 = AtomicU64::new(0);
/// Whether a page fault put a small page where a huge one could be.
static HAS_CANDIDATE: AtomicBool = AtomicBool::new(false);

const NS_PER_MS: u64 = 1_000_000;

/// Ends the thread's sleep: a setting changed.
pub fn wake() {
    CHANGES.fetch_add(1, Relaxed);
    WAKE.wake_all();
}

/// Tells that there may be small pages to join; called once they are there.
#[inline]
pub(crate) fn note_candidate() {
    if !HAS_CANDIDATE.load(Relaxed) {
        HAS_CANDIDATE.store(true, Relaxed);
        WAKE.wake_all();
    }
}

/// Starts the thread. `ENOMEM`.
pub fn start() -> Result<()> {
    sched::spawn("khugepaged", thread).map(drop).map_err(|_| Errno::ENOMEM)
}

/// Where the thread is.
#[derive(Default)]
struct Place {
    /// Of the address space, in the registry.
    slot: usize,
    /// The address space that was in the slot.
    id: u64,
    /// Where to go on in it.
    addr: u64,
    /// Whether this round met memory that could have huge pages.
    has_work: bool,
}

fn thread() {
    let mut place = Place::default();
    loop {
        // Read first: a change during the pass ends the sleep after it.
        let changes = CHANGES.load(Relaxed);
        let has_changed = || CHANGES.load(Relaxed) != changes;
        let pause_ms = match pass(&mut place) {
            Pass::Idle => {
                WAKE.wait(|| (HAS_CANDIDATE.swap(false, Relaxed) || has_changed()).then_some(()));
                // What is new may still be filled: it is left in peace for a while.
                &BACKGROUND.scan_sleep_millisecs
            }
            Pass::Pause => &BACKGROUND.scan_sleep_millisecs,
            Pass::NoMemory => &BACKGROUND.alloc_sleep_millisecs,
        };
        let pause_ns = pause_ms.load(Relaxed).saturating_mul(NS_PER_MS);
        let until = hal::time::now_ns().saturating_add(pause_ns);
        // Ends when the time is over, too.
        let _ = WAKE.wait_deadline(|| has_changed().then_some(()), Some(until), Interruptible::No);
    }
}

/// Where there are small pages to join.
enum Candidate {
    /// In private memory.
    Private(u64),
    /// In shared memory.
    Shared(u64),
}

impl Candidate {
    fn addr(&self) -> u64 {
        match *self {
            Self::Private(addr) | Self::Shared(addr) => addr,
        }
    }
}

/// How a pass ended.
enum Pass {
    /// There is nothing to do anywhere.
    Idle,
    /// As many pages were looked at as one pass may.
    Pause,
    /// There is no huge page to be had.
    NoMemory,
}

/// Looks at some pages.
fn pass(place: &mut Place) -> Pass {
    let mut budget = BACKGROUND.pages_to_scan.load(Relaxed);
    if (settings::orders() | settings::orders() >> 16) & HUGE == 0 && settings::is_shmem_denied() {
        return Pass::Idle;
    }
    while budget > 0 {
        let Some((slot, mm)) = registry::at_or_after(place.slot) else {
            FULL_SCANS.add(1);
            let was_idle = !core::mem::take(place).has_work;
            return if was_idle { Pass::Idle } else { Pass::Pause };
        };
        if (slot, mm.id()) != (place.slot, place.id) {
            (place.slot, place.id, place.addr) = (slot, mm.id(), 0);
        }
        let result = mm.join_some(place, &mut budget);
        match result {
            Ok(()) if place.addr >= USER_END => (place.slot, place.addr) = (slot + 1, 0),
            Ok(()) => {}
            Err(_) => return Pass::NoMemory,
        }
    }
    Pass::Pause
}

impl Mm {
    /// Looks at memory from `place` on, until the budget is used up or the address space ends. `ENOMEM`.
    fn join_some(self: &Arc<Self>, place: &mut Place, budget: &mut u64) -> Result<()> {
        let effort = if BACKGROUND.defrag.load(Relaxed) != 0 { Effort::Wait } else { Effort::None };
        while *budget > 0 {
            *budget -= 1;
            let Some(next) = self.next_candidate(place, budget) else {
                place.addr = USER_END;
                return Ok(());
            };
            place.addr = next.addr() + HUGE_SIZE as u64;
            *budget = budget.saturating_sub(HUGE_FRAMES as u64);
            let result = match next {
                Candidate::Private(addr) => self.collapse_one(addr, Limits::background(), effort),
                Candidate::Shared(addr) => self.collapse_shared(addr, effort).map(|()| Outcome::Joined),
            };
            match result {
                Ok(Outcome::Joined) => COLLAPSED.add(1),
                Err(Errno::ENOMEM) => return Err(Errno::ENOMEM),
                // The memory changed meanwhile.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// The first huge page's worth of memory from `place` on that wants to be a huge page and is none, but has something
    /// in it. Each area looked at costs one of `budget`.
    fn next_candidate(&self, place: &mut Place, budget: &mut u64) -> Option<Candidate> {
        let space = self.space.read();
        let from = place.addr.next_multiple_of(HUGE_SIZE as u64);
        space.set.overlapping(from..USER_END).find_map(|vma| {
            *budget = budget.saturating_sub(1);
            let at = from.max(vma.start.next_multiple_of(HUGE_SIZE as u64));
            if shared::wants_joined(vma) {
                self.next_small_shared(vma, at, place, budget).map(Candidate::Shared)
            } else if can_collapse(vma) && self.wants_huge(vma) {
                self.next_small_private(vma, at, place, budget).map(Candidate::Private)
            } else {
                None
            }
        })
    }

    /// As [`next_candidate`](Self::next_candidate) for private memory, in `vma` from `at` on. The caller holds `space`.
    fn next_small_private(&self, vma: &Vma, mut at: u64, place: &mut Place, budget: &mut u64) -> Option<u64> {
        while huge_range(vma, at).is_some() {
            place.has_work = true;
            let pages = hal::PageRange::new(at, vma.end)?;
            let cursor = &mut self.page_table().cursor(pages);
            let (addr, entry) = cursor.next_mapped(at)?;
            at = addr & !(HUGE_SIZE as u64 - 1);
            if super::huge_end(cursor, addr, &entry).is_none() {
                return huge_range(vma, at).map(|range| range.start());
            }
            at += HUGE_SIZE as u64;
            *budget = budget.saturating_sub(1);
        }
        None
    }

    /// The same for shared memory: what counts is what the file has.
    fn next_small_shared(&self, vma: &Vma, at: u64, place: &mut Place, budget: &mut u64) -> Option<u64> {
        let mut next = shared::next_used(vma, at);
        while let Some((range, mapping)) = next {
            place.has_work = true;
            let at = range.start();
            let is_shown = self.page_table().cursor(range).query_huge(at).is_some();
            if !is_shown && shared::is_joinable(vma, at, mapping, Limits::background()) {
                return Some(at);
            }
            *budget = budget.saturating_sub(1);
            next = shared::next_used(vma, range.end());
        }
        None
    }
}
