//! Huge frames: 512 adjacent frames that one page-table entry can map.
//!
//! The frames stay frames, each with its own count, so that whoever looks at one of them needs to know nothing of this. What
//! a huge frame adds is a count of its own, in `maps` of the first frame: that many large entries map the whole. While it
//! is not 0, each of the frames has one reference for all of these together, and [`IN_HUGE`] in its `state`.
//!
//! ```text
//!                          whole   each frame   Frame::ref_count()
//! new                        1         1         1
//! fork: two tables map it    2         1         2   (the count of the whole makes up for it)
//! one of them splits         1         2         2   512 small entries there, a large one here
//! the other splits, too      0         2         2   the reference for the whole went to its small entries
//! ```
//!
//! So splitting the last large entry costs no count at all: its small entries take over the references that are there.
//!
//! # Huge frames of a pool
//!
//! A huge frame with [`POOLED`] never goes back to the allocator: once nobody refers to it or to any part of it, it goes as a
//! whole to the keeper of the pool ([`set_keeper`]), who may give it to the allocator ([`HugeFrame::leave_pool`]). While
//! parts outlive the whole, `maps` counts those that are gone.
//!
//! # Invariants
//!
//! - H1: a `HugeFrame` is one of `maps` of its first frame, whose number is a multiple of 512.
//! - H2: while a frame has [`IN_HUGE`], it counts one reference for the whole, and `maps` is not 0.
//! - H3: of a huge frame with [`POOLED`] and without [`IN_HUGE`], `maps` counts the frames without a reference.

use core::num::NonZeroU32;
use core::sync::atomic::Ordering;

use super::{
    Frame, FrameMeta, Machine, MetaMap, alloc_run, count_down, count_up, free_one, free_run, inject,
    nr_above_reserve,
};
use crate::addr::PAGE_SIZE;
use crate::arch;
use crate::sync::Once;

/// Binary logarithm of the number of frames in a huge one.
pub const HUGE_ORDER: u32 = 9;
/// Frames in a huge one.
pub const HUGE_FRAMES: usize = 1 << HUGE_ORDER;
/// Bytes of a huge frame.
pub const HUGE_SIZE: usize = HUGE_FRAMES * PAGE_SIZE;

/// In `state` of a frame: it is a part of a huge frame. The buddy has 0 there, or its top bit set.
pub(super) const IN_HUGE: u32 = 1;
/// In `state`: it belongs to a pool.
const POOLED: u32 = 2;

/// Who takes what comes back to the pool; called in any context, under any lock of this crate's users.
static KEEPER: Once<fn(HugeFrame)> = Once::new();

/// Sets who takes huge frames of the pool that nobody refers to any more; only the first call counts. The keeper must not
/// sleep, and is called with any lock held that a frame may be dropped under.
pub fn set_keeper(keeper: fn(HugeFrame)) {
    KEEPER.call_once(|| keeper);
}

/// Is `state` that of a part of a huge frame?
#[inline]
pub(super) fn is_part(state: u32) -> bool {
    state & !POOLED == IN_HUGE
}

/// The last reference to frame `pfn` is gone: to the allocator, or to the rest of its huge frame.
#[inline]
pub(super) fn gone(pfn: u32) {
    if meta(pfn).state.load(Ordering::Relaxed) == POOLED { part_gone(pfn) } else { free_one(pfn) }
}

/// One more frame of a huge one of the pool has no reference (H3); the last makes it whole again.
#[cold]
fn part_gone(pfn: u32) {
    let first = pfn & !(HUGE_FRAMES as u32 - 1);
    // AcqRel: what holders of other parts did comes before the next owner of the whole.
    if meta(first).maps.fetch_add(1, Ordering::AcqRel) + 1 == HUGE_FRAMES as u32 {
        join(first);
    }
}

/// Makes a whole of the frames from `first` on, to which nobody refers, and gives it to the keeper.
fn join(first: u32) {
    for pfn in first..first + HUGE_FRAMES as u32 {
        meta(pfn).refs.store(1, Ordering::Relaxed);
        meta(pfn).state.store(IN_HUGE | POOLED, Ordering::Relaxed);
    }
    meta(first).maps.store(1, Ordering::Release);
    let Some(number) = NonZeroU32::new(first) else { return };
    let whole = HugeFrame { first: number };
    match KEEPER.get() {
        Some(keeper) => keeper(whole),
        None => drop(whole.leave_pool()),
    }
}

/// One owned reference to a huge frame; `clone` takes another, the last drop frees what nobody else refers to.
#[derive(Debug, PartialEq, Eq)]
pub struct HugeFrame {
    first: NonZeroU32,
}

fn meta(pfn: u32) -> &'static FrameMeta {
    arch::mem::meta(u64::from(pfn))
}

/// How many references the frame `pfn`, a part of a huge one, has beyond its own count.
pub(super) fn extra_refs(pfn: u32) -> u32 {
    let first = pfn & !(HUGE_FRAMES as u32 - 1);
    meta(first).maps.load(Ordering::Acquire).saturating_sub(1)
}

impl HugeFrame {
    /// A huge frame full of zeroes whose frames have `flags`, if there is one beyond the kernel's reserve. Costs the time to
    /// zero it, outside of any lock.
    pub fn alloc_user_zeroed(flags: u32) -> Option<HugeFrame> {
        if inject::fails() || nr_above_reserve() < 2 * HUGE_FRAMES {
            return None;
        }
        let huge = Self::adopt(NonZeroU32::new(alloc_run(HUGE_ORDER)?)?, flags, IN_HUGE);
        huge.zero();
        Some(huge)
    }

    /// A huge frame of the pool, with arbitrary contents; its frames have `flags`. `None`: there are no 512 adjacent frames
    /// beyond the kernel's reserve.
    pub fn alloc_pooled(flags: u32) -> Option<HugeFrame> {
        if nr_above_reserve() < HUGE_FRAMES {
            return None;
        }
        Some(Self::adopt(NonZeroU32::new(alloc_run(HUGE_ORDER)?)?, flags, IN_HUGE | POOLED))
    }

    /// The first reference to a run fresh from the allocator.
    fn adopt(first: NonZeroU32, flags: u32, state: u32) -> HugeFrame {
        for pfn in first.get()..first.get() + HUGE_FRAMES as u32 {
            let Some(number) = NonZeroU32::new(pfn) else { continue };
            let frame = core::mem::ManuallyDrop::new(Frame::adopt(number));
            frame.meta().flags.store(flags, Ordering::Relaxed);
            frame.meta().state.store(state, Ordering::Relaxed);
        }
        // Release: whoever finds the frames finds this.
        meta(first.get()).maps.store(1, Ordering::Release);
        HugeFrame { first }
    }

    /// Takes it out of the pool: the last reference gives it to the allocator.
    pub fn leave_pool(self) -> HugeFrame {
        for pfn in self.first.get()..self.first.get() + HUGE_FRAMES as u32 {
            meta(pfn).state.fetch_and(!POOLED, Ordering::Relaxed);
        }
        self
    }

    /// The metadata of its first frame, which is mm's to use for the whole.
    pub fn meta(&self) -> &FrameMeta {
        meta(self.first.get())
    }

    /// The number of its first frame.
    pub fn pfn(&self) -> u64 {
        u64::from(self.first.get())
    }

    /// References to the whole.
    pub fn ref_count(&self) -> u32 {
        self.meta().maps.load(Ordering::Acquire)
    }

    /// Zeroes all of it. Takes long.
    pub fn zero(&self) {
        let start = arch::mem::frame_ptr(self.pfn());
        // SAFETY: H2: the frames live, and frames that follow each other do so at `frame_ptr`, too.
        unsafe { core::ptr::write_bytes(start, 0, HUGE_SIZE) }
    }

    /// Copies all of `from`. Takes long.
    pub fn copy_from(&self, from: &HugeFrame) {
        let (start, from) = (arch::mem::frame_ptr(self.pfn()), arch::mem::frame_ptr(from.pfn()));
        // SAFETY: as in `zero`; `copy` allows the two to be the same.
        unsafe { core::ptr::copy(from, start, HUGE_SIZE) }
    }

    /// Its `idx`th frame, with a reference of its own.
    pub fn frame(&self, idx: usize) -> Frame {
        let pfn = self.first.get() + (idx % HUGE_FRAMES) as u32;
        // H2: the frame is alive.
        count_up(&meta(pfn).refs);
        Frame { pfn: NonZeroU32::new(pfn).unwrap_or(self.first) }
    }

    /// Whether this is the only reference to all that it holds.
    pub fn is_exclusive(&self) -> bool {
        let first = self.first.get();
        meta(first).maps.load(Ordering::Acquire) == 1
            && (first..first + HUGE_FRAMES as u32).all(|pfn| meta(pfn).refs.load(Ordering::Acquire) == 1)
    }

    /// How many references to the whole there are, this one included.
    pub fn whole_count(&self) -> u32 {
        meta(self.first.get()).maps.load(Ordering::Relaxed)
    }

    /// Gives the reference up for references to each of its frames, to be taken by [`Frame::from_pfn`].
    pub(crate) fn into_frames(self) -> u32 {
        let first = self.into_first();
        let frames = first..first + HUGE_FRAMES as u32;
        if meta(first).maps.load(Ordering::Acquire) == 1 {
            // The last one: the references of the whole become those of the parts. Nobody can clone it meanwhile.
            meta(first).maps.store(0, Ordering::Release);
            frames.for_each(|pfn| {
                meta(pfn).state.fetch_and(!IN_HUGE, Ordering::Release);
            });
            return first;
        }
        frames.for_each(|pfn| {
            count_up(&meta(pfn).refs);
        });
        // SAFETY: `into_first` gave this reference up, and nothing else was made from it.
        drop(unsafe { HugeFrame::from_first(first) });
        first
    }

    /// Gives the reference up for the number of its first frame, to be kept in a page table.
    pub(crate) fn into_first(self) -> u32 {
        let first = self.first.get();
        core::mem::forget(self);
        first
    }

    /// Takes a reference back.
    ///
    /// # Safety
    ///
    /// 1. `first` came from [`HugeFrame::into_first`], and this is the only value made from that reference.
    pub(crate) unsafe fn from_first(first: u32) -> HugeFrame {
        // SAFETY: 1: numbers of frames are not 0.
        HugeFrame { first: unsafe { NonZeroU32::new_unchecked(first) } }
    }
}

impl Clone for HugeFrame {
    fn clone(&self) -> HugeFrame {
        count_up(&meta(self.first.get()).maps);
        HugeFrame { first: self.first }
    }
}

impl Drop for HugeFrame {
    fn drop(&mut self) {
        let first = self.first.get();
        if count_down(&meta(first).maps) {
            release(first);
        }
    }
}

/// Drops the references for a whole that nothing maps any more.
fn release(first: u32) {
    let frames = first..first + HUGE_FRAMES as u32;
    let mut alone = true;
    let is_pooled = meta(first).state.load(Ordering::Relaxed) & POOLED != 0;
    for pfn in frames.clone() {
        let meta = Machine.meta(pfn);
        meta.state.fetch_and(!IN_HUGE, Ordering::Relaxed);
        alone &= meta.refs.load(Ordering::Acquire) == 1;
    }
    if alone && is_pooled {
        // As below.
        join(first);
        return;
    }
    if alone {
        // Nobody else has a reference to any frame, so nobody can make one.
        frames.for_each(|pfn| meta(pfn).refs.store(0, Ordering::Relaxed));
        // SAFETY: the frames are a run from `alloc_run`, aligned to its size, that nobody refers to.
        unsafe { free_run(first, HUGE_ORDER) };
        return;
    }
    for pfn in frames {
        // SAFETY: H2: the reference for the whole, which is given back only here.
        drop(unsafe { Frame::from_pfn(u64::from(pfn)) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn a_huge_frame_counts_for_all_its_frames() {
        let huge = HugeFrame::alloc_user_zeroed(4).unwrap();
        assert!(huge.is_exclusive());
        let part = huge.frame(7);
        assert_eq!((part.ref_count(), part.meta().flags.load(Ordering::Relaxed)), (2, 4));
        assert!(!huge.is_exclusive());
        let again = huge.clone();
        assert_eq!(part.ref_count(), 3);
        drop(again);
        drop(huge);
        assert_eq!(part.ref_count(), 1, "a part outlives the whole");
        let mut byte = [1];
        part.read(0, &mut byte);
        assert_eq!(byte, [0]);
    }

    #[test]
    fn a_pooled_one_comes_back_whole_with_its_last_part() {
        static BACK: std::sync::Mutex<Vec<u64>> = std::sync::Mutex::new(Vec::new());
        set_keeper(|huge| {
            BACK.lock().unwrap().push(huge.pfn());
            drop(huge.leave_pool());
        });
        let huge = HugeFrame::alloc_pooled(4).unwrap();
        let first = huge.pfn();
        drop(huge);
        assert_eq!(*BACK.lock().unwrap(), [first]);

        let huge = HugeFrame::alloc_pooled(4).unwrap();
        let (first, part) = (huge.pfn(), huge.frame(0));
        let other = huge.frame(77);
        drop(huge);
        assert_eq!((part.ref_count(), part.is_in_huge()), (1, false));
        drop(part);
        assert_eq!(BACK.lock().unwrap().len(), 1, "a part is still in use");
        drop(other);
        assert_eq!(BACK.lock().unwrap()[1..], [first]);
    }

    #[test]
    fn splitting_keeps_every_reference() {
        let ours = HugeFrame::alloc_user_zeroed(0).unwrap();
        let theirs = ours.clone();
        let first = ours.into_frames();
        // SAFETY: `into_frames` gave one reference to each.
        let parts: Vec<Frame> = (first..first + 512).map(|p| unsafe { Frame::from_pfn(p.into()) }).collect();
        assert!(parts.iter().all(|part| part.ref_count() == 2));
        let first = theirs.into_frames();
        // SAFETY: as above.
        let others: Vec<Frame> = (first..first + 512).map(|p| unsafe { Frame::from_pfn(p.into()) }).collect();
        assert!(parts.iter().all(|part| part.ref_count() == 2));
        drop(others);
        assert!(parts.iter().all(|part| part.ref_count() == 1));
    }
}
