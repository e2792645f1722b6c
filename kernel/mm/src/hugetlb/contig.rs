//! 512 adjacent frames where free memory is in pieces.
//!
//! What lies in the way is mostly the page cache, and pages of programs. Where enough is free, they are moved together
//! ([`crate::compact`]). Where it is not, or that makes no block, both are taken out by reclaim, oldest first, until the allocator
//! has joined what became free; dirty pages are written first. What only the kernel knows of (its heap, page tables, pins)
//! stays.

use hal::frame::HugeFrame;
use sched::Interruptible;

use crate::mapping::writeback;
use crate::{compact, counters, oom, walk};

/// Rounds that free nothing before it ends: one for each bit of a page's age.
const FRUITLESS: usize = 4;
/// Rounds for one huge page: more would cost more than it is worth.
const ROUNDS: usize = 64;
/// Pages that one round takes out of the page cache.
const BATCH: usize = 2048;
/// How long a round waits for write-back.
const WRITE_NS: u64 = 10_000_000;
/// Rounds that wait for write-back.
const PATIENCE: usize = 100;

/// A huge frame from `take`, after what CPUs have at hand was joined to the rest if need be. Waits for other CPUs.
pub(super) fn alloc(take: fn() -> Option<HugeFrame>) -> Option<HugeFrame> {
    take().or_else(|| {
        hal::frame::gather();
        take()
    })
}

/// A huge frame from `take`, after making room for it. Sleeps; the caller holds no lock of an address space or a file.
pub(super) fn make_room(take: fn() -> Option<HugeFrame>) -> Option<HugeFrame> {
    let (mut fruitless, mut waited) = (0, 0);
    if compact::is_fragmented() && compact::make_blocks() > 0 {
        hal::frame::gather();
        if let Some(page) = take() {
            return Some(page);
        }
    }
    for _ in 0..ROUNDS + PATIENCE {
        if fruitless == FRUITLESS || sched::current().is_interrupted(Interruptible::Yes) {
            break;
        }
        let freed = round();
        hal::frame::gather();
        if let Some(page) = take() {
            return Some(page);
        }
        if freed > 0 {
            fruitless = 0;
        } else if counters::DIRTY.get() > 0 && waited < PATIENCE {
            waited += 1;
            writeback::write_all();
            // Interrupted: the loop sees it.
            let until = hal::time::now_ns().saturating_add(WRITE_NS);
            let _ = sched::sleep_until(until, Interruptible::Yes);
        } else {
            fruitless += 1;
        }
    }
    None
}

/// One attempt; how many pages became free.
fn round() -> usize {
    let freed = writeback::shrink(BATCH);
    if freed > 0 { freed } else { walk::age_all() + writeback::shrink(BATCH) + oom::reclaim(BATCH) }
}
