//! Frames that lie side by side.
//!
//! Usable in interrupt context; nothing here sleeps. The lock is `hal.frame.buddy`.

use core::mem::ManuallyDrop;
use core::num::NonZeroU32;
use core::sync::atomic::Ordering;

use super::{BUDDY, BUDDY_FREE, Frame, Machine, RESERVE, alloc_one, alloc_run, count_up, inject};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PhysAddr, UserAddr};
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
            match alloc_user_run(order).and_then(NonZeroU32::new) {
                Some(first) => {
                    (0..1 << order).for_each(|nth| keep(Frame::adopt(first.saturating_add(nth))));
                    got += 1 << order;
                }
                None if order == 0 => break,
                None => order -= 1,
            }
        }
        got
    }
}

/// Frames that follow each other, with a reference to each: many pages that have one address for a device.
///
/// # Invariants
///
/// - S1: it owns a reference (F1) to each of the `count` frames from `first` on, of which there is at least one.
#[derive(Debug, PartialEq, Eq)]
pub struct FrameSpan {
    first: NonZeroU32,
    count: u32,
}

impl From<Frame> for FrameSpan {
    #[inline]
    fn from(frame: Frame) -> FrameSpan {
        FrameSpan { first: ManuallyDrop::new(frame).pfn, count: 1 }
    }
}

impl FrameSpan {
    /// Number of frames.
    #[inline]
    pub fn nr_frames(&self) -> usize {
        self.count as usize
    }

    /// The physical address of the first.
    #[inline]
    pub fn paddr(&self) -> PhysAddr {
        PhysAddr(u64::from(self.first.get()) << PAGE_SHIFT)
    }

    /// Takes a reference to `frame` if that is the next one; did it?
    #[inline]
    pub fn add(&mut self, frame: &Frame) -> bool {
        let is_next = frame.pfn() == u64::from(self.first.get()) + u64::from(self.count);
        if is_next {
            count_up(&frame.meta().refs);
            self.count += 1;
        }
        is_next
    }

    /// Takes references to the first of `frames` as long as each is the next one; how many.
    #[inline]
    pub fn extend(&mut self, frames: &[Frame]) -> usize {
        let next = u64::from(self.first.get()) + u64::from(self.count);
        let follow = (next..).zip(frames).take_while(|(pfn, frame)| frame.pfn() == *pfn);
        let mut nr = 0;
        for (_, frame) in follow {
            count_up(&frame.meta().refs);
            nr += 1;
        }
        self.count += nr;
        nr as usize
    }

    /// References to the frames that have the bytes `offset..offset + len`; `None`: they are not all in it, or there is none.
    pub fn part(&self, offset: usize, len: usize) -> Option<FrameSpan> {
        let (start, end) = (offset / PAGE_SIZE, offset.checked_add(len)?.div_ceil(PAGE_SIZE));
        if start >= end || end > self.nr_frames() {
            return None;
        }
        let first = self.first.checked_add(start as u32)?;
        // S1: the references are not counted yet, so this value must not end.
        let part = ManuallyDrop::new(FrameSpan { first, count: (end - start) as u32 });
        Some((*part).clone())
    }

    /// Copies bytes from `offset` on out of the frames.
    pub fn read(&self, offset: usize, buf: &mut [u8]) {
        let from = self.ptr(offset, buf.len());
        // SAFETY: inside of frames that we hold references to (S1), and that follow each other at `frame_ptr`, too. `buf` is no
        // frame.
        unsafe { core::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) }
    }

    /// Copies bytes into the frames at `offset`.
    pub fn write(&self, offset: usize, buf: &[u8]) {
        let to = self.ptr(offset, buf.len());
        // SAFETY: as in `read`.
        unsafe { core::ptr::copy_nonoverlapping(buf.as_ptr(), to, buf.len()) }
    }

    /// Copies `len` bytes from `offset` on to `to_offset` of `to`, which may be one of the frames.
    pub(crate) fn copy_to(&self, offset: usize, to: &Frame, to_offset: usize, len: usize) {
        // SAFETY: as in `read`, and inside of `to`, which the caller holds a reference to; `copy` allows them to overlap.
        unsafe { core::ptr::copy(self.ptr(offset, len), to.ptr(to_offset, len), len) }
    }

    /// Copies bytes of the frames to user memory; returns how many could be. May sleep.
    pub fn copy_to_user(&self, offset: usize, to: UserAddr, len: usize) -> usize {
        let from = self.ptr(offset, len);
        if !to.range_ok(len) {
            return 0;
        }
        crate::sync::might_sleep();
        // SAFETY: as in `read`.
        unsafe { arch::user::copy_out_raw(to.0, from, len) }
    }

    fn ptr(&self, offset: usize, len: usize) -> *mut u8 {
        let size = self.nr_frames() * PAGE_SIZE;
        assert!(offset <= size && len <= size - offset, "access outside of the frames");
        arch::mem::frame_ptr(u64::from(self.first.get())).wrapping_add(offset)
    }

    /// Its frames; the references stay its own.
    fn frames(&self) -> impl Iterator<Item = ManuallyDrop<Frame>> {
        let numbers = self.first.get()..self.first.get() + self.count;
        numbers.filter_map(NonZeroU32::new).map(|pfn| ManuallyDrop::new(Frame { pfn }))
    }
}

impl Clone for FrameSpan {
    fn clone(&self) -> FrameSpan {
        // S1 of `self` keeps them alive until they are counted.
        self.frames().for_each(|frame| count_up(&frame.meta().refs));
        FrameSpan { first: self.first, count: self.count }
    }
}

impl Drop for FrameSpan {
    #[inline]
    fn drop(&mut self) {
        // S1: their references end here.
        self.frames().for_each(|frame| drop(ManuallyDrop::into_inner(frame)));
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
    fn a_span_owns_a_reference_to_each_frame() {
        let run = FrameRun::alloc(3).unwrap();
        let counts = || run.frames().iter().map(Frame::ref_count).collect::<Vec<_>>();
        let mut span = FrameSpan::from(run.frames()[2].clone());
        assert_eq!([1, 2, 4].map(|at| span.extend(&run.frames()[at..])), [0; 3], "not the next one");
        assert!(!span.add(&run.frames()[4]) && span.add(&run.frames()[3]) && !span.add(&run.frames()[3]));
        assert_eq!(span.extend(&run.frames()[4..5]), 1);
        let apart = [run.frames()[5].clone(), run.frames()[7].clone()];
        assert_eq!(span.clone().extend(&apart), 1);
        drop(apart);
        assert_eq!((span.nr_frames(), span.paddr()), (3, run.frames()[2].paddr()));
        assert_eq!(counts(), [1, 1, 2, 2, 2, 1, 1, 1]);
        span.write(PAGE_SIZE - 2, b"abcd");
        let mut bytes = [0; 2];
        run.frames()[3].read(0, &mut bytes);
        assert_eq!(&bytes, b"cd");
        let part = span.part(PAGE_SIZE, PAGE_SIZE + 1).unwrap();
        assert_eq!((part.nr_frames(), part.paddr()), (2, run.frames()[3].paddr()));
        part.read(0, &mut bytes);
        assert_eq!(&bytes, b"cd");
        assert_eq!(counts(), [1, 1, 2, 3, 3, 1, 1, 1]);
        assert!(span.part(0, 0).is_none() && span.part(1, 3 * PAGE_SIZE).is_none());
        drop((span, part));
        assert_eq!(counts(), [1; 8]);
    }

    #[test]
    #[should_panic = "outside of the frames"]
    fn a_span_ends_with_its_last_frame() {
        FrameSpan::from(Frame::alloc().unwrap()).write(PAGE_SIZE - 1, b"ab");
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
