//! Frames that lie side by side.
//!
//! Usable in interrupt context; nothing here sleeps. The lock is `hal.frame.buddy`.

use core::num::NonZeroU32;
use core::sync::atomic::Ordering;

use super::{BUDDY, BUDDY_FREE, Frame, Machine, RESERVE, alloc_one, alloc_run, inject};
use crate::addr::PhysAddr;
use crate::arch;

/// The largest run that [`Frame::alloc_user_many`] takes at once.
const MANY_ORDER: u32 = 5;

/// `2^order` adjacent frames, for devices and large pages.
#[derive(Debug)]
pub struct FrameRun {
    frames: alloc::vec::Vec<Frame>,
}

impl FrameRun {
    /// `2^order` adjacent frames with arbitrary contents, aligned to their size.
    pub fn alloc(order: u32) -> Option<FrameRun> {
        if inject::fails() {
            return None;
        }
        let mut frames = alloc::vec::Vec::new();
        frames.try_reserve_exact(1usize.checked_shl(order)?).ok()?;
        let first = alloc_run(order)?;
        frames.extend((first..first + (1 << order)).filter_map(NonZeroU32::new).map(Frame::adopt));
        Some(FrameRun { frames })
    }

    /// Its frames.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The physical address of the first.
    pub fn paddr(&self) -> PhysAddr {
        self.frames[0].paddr()
    }
}

impl Frame {
    /// Hands up to `wanted` frames to `keep`, as [`alloc_user`](Self::alloc_user) has them, each with a reference of its own;
    /// how many. They ascend side by side in runs of up to 128 KiB as far as free memory lies so: a device then has one
    /// address for many pages. Nothing is moved or freed for that.
    pub fn alloc_user_many(wanted: usize, mut keep: impl FnMut(Frame)) -> usize {
        if inject::fails() {
            return 0;
        }
        let (mut got, mut order) = (0, MANY_ORDER);
        while got < wanted {
            order = order.min((wanted - got).ilog2());
            match alloc_user_run(order) {
                Some(first) => {
                    let run = first..first + (1 << order);
                    run.filter_map(NonZeroU32::new).map(Frame::adopt).for_each(&mut keep);
                    got += 1 << order;
                }
                None if order == 0 => break,
                None => order -= 1,
            }
        }
        got
    }
}

/// As [`alloc_run`] for memory that user space decides about: the kernel's reserve stays.
fn alloc_user_run(order: u32) -> Option<u32> {
    let reserve = RESERVE.load(Ordering::Relaxed);
    if order == 0 {
        return alloc_one(reserve);
    }
    arch::mem::ensure_ready();
    let mut buddy = BUDDY.lock();
    if buddy.nr_free() < reserve.saturating_add(1 << order) {
        return None;
    }
    let pfn = buddy.alloc(&Machine, order);
    BUDDY_FREE.store(buddy.nr_free(), Ordering::Relaxed);
    pfn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameUse, look};
    use std::collections::BTreeSet;
    use std::vec::Vec;

    #[test]
    fn many_frames_come_side_by_side_and_go_alone() {
        let mut frames = Vec::new();
        assert_eq!(Frame::alloc_user_many(77, |frame| frames.push(frame)), 77);
        assert!(frames.iter().all(|frame| frame.ref_count() == 1));
        let numbers: BTreeSet<u64> = frames.iter().map(Frame::pfn).collect();
        assert_eq!(numbers.len(), 77, "none comes twice");
        // Runs of 32, 32, 8, 4 and 1: there are such, though tests share one allocator.
        let joints = frames.windows(2).filter(|pair| pair[0].pfn() + 1 == pair[1].pfn()).count();
        assert!(joints >= 72, "{joints}");
        let kept = frames.swap_remove(5);
        drop(frames);
        assert_eq!((kept.ref_count(), look(kept.pfn()).unwrap().used_for), (1, FrameUse::Page));
        assert_eq!(Frame::alloc_user_many(0, drop), 0);
    }

    #[test]
    fn a_run_is_contiguous_and_aligned() {
        let run = FrameRun::alloc(3).unwrap();
        assert_eq!(run.frames().len(), 8);
        assert!(run.paddr().pfn().is_multiple_of(8));
        for (frame, at) in run.frames().iter().zip(0..) {
            assert_eq!(frame.pfn(), run.paddr().pfn() + at);
        }
    }
}
