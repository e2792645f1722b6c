//! Free frames that are taken out of the allocator by their place, so that nobody else gets them: to join a block of memory
//! that is in pieces, or to use a bad frame never again.
//!
//! Usable in interrupt context; nothing here sleeps. The lock is `hal.frame.buddy`.

use alloc::vec::Vec;
use core::mem::ManuallyDrop;
use core::num::NonZeroU32;
use core::sync::atomic::Ordering;

use super::{BUDDY, BUDDY_FREE, Frame, Machine, MetaMap, count_down, huge};
use crate::arch;

/// Takes the free frames of the block of `2^order` frames that begins at `first` out of the allocator, but for those that CPUs
/// have at hand ([`super::gather`]), and adds them to `taken`; how many. What `taken` has no room for stays.
///
/// Cost: a look at each frame, with the lock held.
pub fn take_free(first: u64, order: u32, taken: &mut Vec<Frame>) -> usize {
    arch::mem::ensure_ready();
    let Some(end) = 1_u64.checked_shl(order).and_then(|len| first.checked_add(len)) else { return 0 };
    let before = taken.len();
    let mut buddy = BUDDY.lock();
    let mut at = first.max(1);
    while at < end {
        let Some(pfn) = u32::try_from(at).ok().filter(|_| arch::mem::has_meta(at)) else { break };
        let run = buddy.run_at(&Machine, pfn).filter(|run| {
            let len = 1_u64 << run;
            at + len <= end && taken.capacity() - taken.len() >= len as usize
        });
        match run {
            Some(run) => {
                buddy.unlink(&Machine, pfn, run);
                taken.extend((pfn..pfn + (1 << run)).filter_map(NonZeroU32::new).map(Frame::adopt));
                at += 1 << run;
            }
            None => at += 1,
        }
    }
    BUDDY_FREE.store(buddy.nr_free(), Ordering::Relaxed);
    taken.len() - before
}

/// Takes frame `pfn` out of the allocator, if it is free there.
pub fn take_one_free(pfn: u64) -> Option<Frame> {
    arch::mem::ensure_ready();
    let number = NonZeroU32::new(u32::try_from(pfn).ok().filter(|_| arch::mem::has_meta(pfn))?)?;
    let mut buddy = BUDDY.lock();
    let is_taken = buddy.take(&Machine, number.get());
    BUDDY_FREE.store(buddy.nr_free(), Ordering::Relaxed);
    is_taken.then(|| Frame::adopt(number))
}

/// Drops `frames`; those that nobody else refers to go straight to where they join their neighbours, past what the CPU keeps at
/// hand.
pub fn free_together(frames: Vec<Frame>) {
    for frame in frames {
        let frame = ManuallyDrop::new(frame);
        let pfn = frame.pfn.get();
        if !count_down(&frame.meta().refs) {
            continue;
        }
        if Machine.meta(pfn).state.load(Ordering::Relaxed) != 0 {
            huge::gone(pfn);
            continue;
        }
        let mut buddy = BUDDY.lock();
        buddy.free(&Machine, pfn, 0);
        BUDDY_FREE.store(buddy.nr_free(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameUse, look};

    #[test]
    fn free_frames_of_a_block_are_nobody_elses() {
        let block = crate::frame::FrameRun::alloc(4).unwrap();
        let first = block.paddr().pfn();
        let kept = block.frames()[3].clone();
        let all: Vec<Frame> = block.frames().to_vec();
        drop(block);
        drop(kept.clone());
        let all: Vec<Frame> = all.into_iter().filter(|frame| frame.pfn() != kept.pfn()).collect();
        free_together(all);
        let mut taken = Vec::new();
        taken.try_reserve_exact(15).unwrap();
        let nr = take_free(first, 4, &mut taken);
        // Tests run side by side in one allocator: others may have been faster.
        assert!(nr <= 15 && taken.iter().all(|frame| frame.pfn() != kept.pfn() && frame.ref_count() == 1));
        assert!(taken.iter().all(|frame| look(frame.pfn()).unwrap().used_for == FrameUse::Page));
        free_together(taken);
        assert_eq!(kept.ref_count(), 1);
    }

    #[test]
    fn a_frame_in_use_is_not_free() {
        let frame = Frame::alloc().unwrap();
        assert!(take_one_free(frame.pfn()).is_none());
        assert!(take_one_free(u64::MAX).is_none() && take_one_free(0).is_none());
        let more = frame.clone();
        free_together(Vec::from([frame]));
        assert_eq!(more.ref_count(), 1);
    }
}
