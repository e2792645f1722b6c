//! Compaction: pages move together, so that free memory becomes blocks of 2 MiB.
//!
//! ```text
//!   before   |pp......|pppppppp|.p....p.|pppp.ppp|        p a page, . a free frame
//!   after    |........|pppppppp|........|pppppppp|        the blocks with the fewest pages are emptied into the rest
//! ```
//! A block that could not be emptied has a page that somebody holds, and is left alone for some passes: the next ones try others.
//!
//! One pass chooses a few blocks that hold nothing but pages that can move ([`crate::migrate`]), takes what is free of them out of
//! the allocator, so that no page comes back, walks all page tables and page caches once, and gives the blocks back whole. It is
//! bounded: the frames taken out, and those that copies need, are a small part of what is free.
//!
//! `/proc/sys/vm/compact_memory` compacts all that can be; a larger pool of huge pages takes a pass at a time before it throws
//! anything out of memory ([`crate::hugetlb`]), if free memory is in pieces rather than short (`vm.extfrag_threshold`).
//!
//! A thread does so before somebody needs a block ([`daemon`]).
//!
//! LINUX: blocks of any size are made.
//!
//! Sources: Documentation/admin-guide/sysctl/vm.rst (Linux 7.2).
//!
//! Lock: `mm.compact` (sleeps) around a pass; nothing of the caller's may be held.

pub mod daemon;

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result};
use hal::frame::{FrameUse, FrameView, HUGE_FRAMES, HUGE_ORDER};
use sched::Interruptible;

use crate::counters::Counter;
use crate::mapping::{page_flags, writeback};
use crate::migrate::{Blocks, Locked};
use crate::registry;
use crate::sync::Mutex;

/// `vm.compact_unevictable_allowed`: whether pages of locked memory move.
pub static UNEVICTABLE_ALLOWED: AtomicU32 = AtomicU32::new(1);
/// `vm.extfrag_threshold`: up to this index, of 1000, memory counts as short, not as in pieces.
pub static EXTFRAG_THRESHOLD: AtomicU32 = AtomicU32::new(500);

/// Pages that moved (`pgmigrate_success`).
pub static MOVED: Counter = Counter::new();
/// Frames taken out for a pass (`compact_isolated`).
pub static ISOLATED: Counter = Counter::new();
/// Passes for somebody who waited (`compact_stall`), and how many made a block or none (`compact_success`, `compact_fail`).
pub static STALLS: Counter = Counter::new();
#[expect(missing_docs, reason = "see `STALLS`")]
pub static SUCCESSES: Counter = Counter::new();
#[expect(missing_docs, reason = "see `STALLS`")]
pub static FAILURES: Counter = Counter::new();

static ONE: Mutex<Skips> = Mutex::new("mm.compact", Skips(Vec::new()));

/// Blocks of one pass.
const BLOCKS: usize = 16;

/// Passes that leave a block alone once one could not empty it.
const SKIPPED_PASSES: u8 = 8;
/// Passes in a row without a new block after which [`compact_all`] and the thread end.
const FRUITLESS: usize = 3;

/// Blocks that could not be emptied, sorted by number, and the passes for which they are left alone yet.
struct Skips(Vec<(u64, u8)>);

impl Skips {
    fn has(&self, number: u64) -> bool {
        self.0.binary_search_by_key(&number, |(known, _)| *known).is_ok()
    }

    /// Leaves a block alone from now on, if there is memory to note it.
    fn add(&mut self, number: u64) {
        match self.0.binary_search_by_key(&number, |(known, _)| *known) {
            Ok(at) => self.0[at].1 = SKIPPED_PASSES,
            Err(at) if self.0.try_reserve(1).is_ok() => self.0.insert(at, (number, SKIPPED_PASSES)),
            Err(_) => {}
        }
    }

    /// A pass more is over.
    fn age(&mut self) {
        self.0.retain_mut(|(_, passes)| {
            *passes -= 1;
            *passes > 0
        });
    }
}

/// What a pass did.
struct Outcome {
    /// How many more free blocks there are.
    made: usize,
    /// Blocks that it tried to empty.
    tried: usize,
}

/// A block that can be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// Pages in it.
    used: usize,
    number: u64,
}

/// What a block is good for: the pages that must leave it. `None`: one of them cannot, or it has no free frame, or no page.
fn pages_to_move(frames: impl Iterator<Item = Option<FrameView>>) -> Option<usize> {
    let (mut used, mut free) = (0, 0);
    for view in frames {
        let view = view?;
        match view.used_for {
            FrameUse::Free => free += 1,
            FrameUse::Page if can_move(&view) => used += 1,
            _ => return None,
        }
    }
    (used > 0 && free > 0).then_some(used)
}

/// Whether a page looks as if it could move.
fn can_move(view: &FrameView) -> bool {
    let kinds =
        page_flags::ANON | page_flags::FILE | page_flags::SHMEM | page_flags::KSM | page_flags::OFFLINE;
    match view.flags & kinds {
        // One entry shows it, and nobody has pinned it.
        page_flags::ANON => view.refs == 1 && view.flags >> 16 == 0,
        page_flags::FILE => true,
        _ => false,
    }
}

/// Chooses of `candidates` those with the fewest pages, so that no more than `most_free` frames are taken out of use, and no more
/// than `most_used` pages must find a place elsewhere. Sorted by number.
fn choose(candidates: Vec<Candidate>, most_free: usize, most_used: usize) -> Vec<Candidate> {
    // A heap sorts without recursion: there may be many, and little of the stack.
    let mut candidates = BinaryHeap::from(candidates).into_sorted_vec();
    let (mut free, mut used) = (0, 0);
    candidates.retain(|block| {
        free += HUGE_FRAMES - block.used.min(HUGE_FRAMES);
        used += block.used;
        free <= most_free && used <= most_used
    });
    candidates.truncate(BLOCKS);
    candidates.sort_unstable_by_key(|block| block.number);
    candidates
}

/// The blocks of one pass. `ENOMEM`: no memory for the lists.
fn survey(skips: &Skips) -> Result<Vec<Candidate>> {
    let mut candidates = Vec::new();
    for number in (0..hal::frame::end_pfn() >> HUGE_ORDER).filter(|number| !skips.has(*number)) {
        let first = number << HUGE_ORDER;
        let frames = (first..first + HUGE_FRAMES as u64).map(hal::frame::look);
        if let Some(used) = pages_to_move(frames) {
            candidates.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            candidates.push(Candidate { used, number });
        }
    }
    let spare = hal::frame::nr_above_reserve();
    Ok(choose(candidates, spare / 2, spare / 4))
}

/// How many blocks are free as a whole.
fn nr_free_blocks() -> usize {
    let order = HUGE_ORDER as usize;
    hal::frame::free_runs().iter().enumerate().skip(order).map(|(at, nr)| nr << (at - order)).sum()
}

/// One pass. Of the blocks that were emptied those count that copies did not go into. Sleeps; the caller holds no lock of an
/// address space or a file.
fn pass(skips: &mut Skips) -> Result<Outcome> {
    // What CPUs have at hand would look like the kernel's.
    hal::frame::gather();
    let before = nr_free_blocks();
    let chosen = survey(skips)?;
    if chosen.is_empty() {
        return Ok(Outcome { made: 0, tried: 0 });
    }
    let mut blocks = Blocks { numbers: Vec::new(), order: HUGE_ORDER, free: Vec::new() };
    blocks.numbers.try_reserve_exact(chosen.len()).map_err(|_| Errno::ENOMEM)?;
    blocks.free.try_reserve_exact(chosen.len() * HUGE_FRAMES).map_err(|_| Errno::ENOMEM)?;
    for block in &chosen {
        let isolated = hal::frame::take_free(block.number << HUGE_ORDER, HUGE_ORDER, &mut blocks.free);
        ISOLATED.add(isolated as i64);
        blocks.numbers.push(block.number);
    }
    let locked = match UNEVICTABLE_ALLOWED.load(Ordering::Relaxed) {
        0 => Locked::Stays,
        _ => Locked::Moves,
    };
    let mut moved = 0;
    registry::for_each_owned(|mm| {
        moved += mm.leave_blocks(&mut blocks, locked);
        registry::let_go(mm);
    });
    writeback::for_each(|mapping| moved += mapping.leave_blocks(&mut blocks));
    MOVED.add(moved as i64);
    hal::frame::free_together(blocks.free);
    // What CPUs took at hand for the copies, and did not use, would break blocks.
    hal::frame::gather();
    for block in &chosen {
        let first = block.number << HUGE_ORDER;
        let mut frames = (first..first + HUGE_FRAMES as u64).map(hal::frame::look);
        if frames.any(|view| view.is_none_or(|view| view.used_for != FrameUse::Free)) {
            skips.add(block.number);
        }
    }
    Ok(Outcome { made: nr_free_blocks().saturating_sub(before), tried: chosen.len() })
}

/// Compacts all of memory (`vm.compact_memory`). Sleeps. `EINTR`: a signal ended it early; what was done stays.
pub fn compact_all() -> Result<()> {
    // Who asks for all of it has every block tried.
    ONE.lock().0.clear();
    let mut fruitless = 0;
    while fruitless < FRUITLESS {
        let done = pass(&mut ONE.lock())?;
        if done.tried == 0 {
            break;
        }
        fruitless = if done.made > 0 { 0 } else { fruitless + 1 };
        if sched::current().is_interrupted(Interruptible::Yes) {
            return Err(Errno::EINTR);
        }
    }
    Ok(())
}

/// Whether a block of 2 MiB is missing because free memory is in pieces, rather than because there is little: the fragmentation
/// index, of 1000, which is near 0 for want of memory, is above `vm.extfrag_threshold`.
pub(crate) fn is_fragmented() -> bool {
    let runs = hal::frame::free_runs();
    fragmentation(&runs).is_some_and(|index| index > u64::from(EXTFRAG_THRESHOLD.load(Ordering::Relaxed)))
}

/// The index: `None`, if there is a block, or nothing is free at all.
fn fragmentation(runs: &[usize]) -> Option<u64> {
    let frames: u64 = runs.iter().zip(0..).map(|(nr, order)| (*nr as u64) << order).sum();
    let nr: u64 = runs.iter().map(|nr| *nr as u64).sum();
    let suitable = runs.iter().skip(HUGE_ORDER as usize).any(|nr| *nr > 0);
    if nr == 0 || suitable {
        return None;
    }
    Some(1000_u64.saturating_sub((1000 + frames * 1000 / HUGE_FRAMES as u64) / nr))
}

/// Makes a few blocks whole for somebody who needs one; how many. Sleeps, as [`compact_all`].
pub(crate) fn make_blocks() -> usize {
    STALLS.add(1);
    let made = {
        let mut skips = ONE.lock();
        skips.age();
        pass(&mut skips).map_or(0, |done| done.made)
    };
    (if made > 0 { &SUCCESSES } else { &FAILURES }).add(1);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(used_for: FrameUse, refs: u32, flags: u32) -> Option<FrameView> {
        Some(FrameView { used_for, refs, flags })
    }

    #[test]
    fn a_block_with_what_cannot_move_stays() {
        let free = view(FrameUse::Free, 0, 0);
        let page = view(FrameUse::Page, 1, page_flags::ANON);
        let file = view(FrameUse::Page, 3, page_flags::FILE | page_flags::DIRTY);
        assert_eq!(pages_to_move([free, page, file, free].into_iter()), Some(2));
        assert_eq!(pages_to_move([free, free].into_iter()), None, "it is empty");
        assert_eq!(pages_to_move([page, page].into_iter()), None, "it is full");
        for other in [
            view(FrameUse::Kernel, 0, 0),
            view(FrameUse::Page, 1, 0),
            view(FrameUse::Page, 2, page_flags::ANON),
            view(FrameUse::Page, 1, page_flags::ANON | 1 << 16),
            view(FrameUse::Page, 2, page_flags::ANON | page_flags::KSM),
            view(FrameUse::Page, 1, page_flags::SHMEM),
            view(FrameUse::HugeHead, 1, page_flags::ANON),
            None,
        ] {
            assert_eq!(pages_to_move([free, page, other].into_iter()), None, "{other:?}");
        }
    }

    #[test]
    fn a_block_that_stayed_is_left_alone_for_some_passes() {
        let mut skips = Skips(Vec::new());
        for number in [7, 3, 9, 7] {
            skips.add(number);
        }
        assert_eq!([3, 7, 9, 8].map(|number| skips.has(number)), [true, true, true, false]);
        skips.age();
        skips.add(9);
        (1..SKIPPED_PASSES).for_each(|_| skips.age());
        assert_eq!([3, 7, 9].map(|number| skips.has(number)), [false, false, true]);
        skips.age();
        assert!(skips.0.is_empty());
    }

    #[test]
    fn the_emptiest_blocks_are_chosen_within_bounds() {
        let block = |number, used| Candidate { used, number };
        let all = Vec::from([block(9, 100), block(3, 2), block(5, 400), block(7, 2)]);
        assert_eq!(
            choose(all.clone(), 10_000, 10_000),
            [block(3, 2), block(5, 400), block(7, 2), block(9, 100)]
        );
        assert_eq!(choose(all.clone(), 1100, 10_000), [block(3, 2), block(7, 2)]);
        assert_eq!(choose(all.clone(), 10_000, 103), [block(3, 2), block(7, 2)]);
        assert_eq!(choose(all, 100, 100), []);
        let many = (0..100).map(|number| block(number, 1)).collect();
        assert_eq!(choose(many, usize::MAX, usize::MAX).len(), BLOCKS);
    }

    #[test]
    fn the_index_tells_pieces_from_want() {
        let mut runs = [0; 11];
        assert_eq!(fragmentation(&runs), None);
        runs[0] = 10;
        assert_eq!(fragmentation(&runs), Some(899), "ten single frames");
        runs[8] = 1;
        runs[0] = 0;
        assert_eq!(fragmentation(&runs), Some(0), "half a block, and no more");
        runs[0] = 5120;
        assert!(fragmentation(&runs).unwrap() > 990, "ten blocks' worth in single frames");
        runs[9] = 1;
        assert_eq!(fragmentation(&runs), None);
    }
}
