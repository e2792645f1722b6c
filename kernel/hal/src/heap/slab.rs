//! Size-class slabs: objects of one size cut from a frame.
//!
//! A slab is one frame, so that an object's address gives the slab, and that no small allocation ever fails because
//! memory is fragmented. What is known about a slab is in the metadata of its frame; nothing is written into the
//! slab itself except the links of freed objects. A new slab is cut from the front as needed.
//!
//! ```text
//! slab of class 3 (64 bytes):   | used | free | used | free | not cut yet ...        |
//!                                         └─ next: ──────┘ (offset+1 of the next free object, 0 ends)
//! ```
//!
//! # Invariants
//!
//! - S1: `in_use` + free objects + objects not cut yet = objects of a slab.
//! - S2: a slab is in its class's list exactly if it has an object to give.
//! - S3: every free object's first word is the offset + 1 of the next free one, inside the slab, or 0.
//!
//! # Locking
//!
//! One [`Class`] per size, each under its `hal.heap.class` lock, which nests outside `hal.frame.*`.

use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;

use crate::addr::PAGE_SIZE;
use crate::arch;
use crate::frame::{self, FrameMeta};

/// Object sizes. Sizes that are no powers of two waste less; their objects are aligned to 16 only.
pub(super) const SIZES: [u16; 15] =
    [16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096];
/// Largest object that a slab holds.
pub(super) const MAX_SIZE: usize = 2048;
/// Number of classes in use: the last size marks the end only.
pub(super) const NR_CLASSES: usize = SIZES.len() - 1;
/// Empty slabs that a class keeps for the next burst.
const KEEP_EMPTY: u32 = 2;

/// The class of a request, if slabs serve it.
#[inline]
pub(super) fn class_of(size: usize, align: usize) -> Option<usize> {
    // Above 16, only powers of two are aligned to their size.
    let size = if align <= 16 { size } else { size.max(align).next_power_of_two() };
    if size > MAX_SIZE {
        return None;
    }
    Some(usize::from(CLASS_BY_UNIT[size.div_ceil(16)]))
}

/// Class by size in units of 16 bytes, rounded up.
static CLASS_BY_UNIT: [u8; MAX_SIZE / 16 + 1] = {
    let mut table = [0; MAX_SIZE / 16 + 1];
    let mut unit = 0;
    while unit < table.len() {
        let mut class = 0;
        while (SIZES[class] as usize) < unit * 16 {
            class += 1;
        }
        table[unit] = class as u8;
        unit += 1;
    }
    table
};

/// The slabs of one size. See the module's head.
pub(super) struct Class {
    class: usize,
    /// Frame of the first slab with something to give; 0 ends the list.
    partial: u32,
    /// Slabs in the list that have no object in use.
    nr_empty: u32,
    /// Slabs in all.
    nr_slabs: usize,
    /// Objects handed out.
    nr_used: usize,
}

impl Class {
    pub(super) const fn new(class: usize) -> Class {
        Class { class, partial: 0, nr_empty: 0, nr_slabs: 0, nr_used: 0 }
    }

    fn size(&self) -> usize {
        usize::from(SIZES[self.class])
    }

    fn capacity(&self) -> u32 {
        (PAGE_SIZE / self.size()) as u32
    }

    /// Bytes of frames held, and bytes of objects handed out.
    pub(super) fn usage(&self) -> (usize, usize) {
        (self.nr_slabs * PAGE_SIZE, self.nr_used * self.size())
    }

    /// Takes an object out. `None`: no frames left.
    pub(super) fn alloc(&mut self) -> Option<NonNull<u8>> {
        let pfn = match self.partial {
            0 => self.grow()?,
            pfn => pfn,
        };
        let slab = Slab::of(pfn);
        let base = arch::mem::frame_ptr(u64::from(pfn));
        let offset = match slab.free_head() {
            0 => {
                let cut = slab.cut();
                slab.set_cut(cut + 1);
                cut as usize * self.size()
            }
            head => {
                let offset = head as usize - 1;
                // SAFETY: S3: a free object of a slab that this class owns; nobody else uses it.
                slab.set_free_head(unsafe { base.add(offset).cast::<u32>().read() });
                offset
            }
        };
        if slab.in_use() == 0 {
            self.nr_empty -= 1;
        }
        slab.set_in_use(slab.in_use() + 1);
        if slab.free_head() == 0 && slab.cut() == self.capacity() {
            self.unlink(pfn);
        }
        self.nr_used += 1;
        NonNull::new(base.wrapping_add(offset))
    }

    /// Puts an object back.
    ///
    /// # Safety
    ///
    /// 1. `object` came from [`Class::alloc`] of this class and is not used any more.
    pub(super) unsafe fn free(&mut self, object: NonNull<u8>) {
        let pfn = arch::mem::pfn_of(object.as_ptr()) as u32;
        let offset = object.as_ptr() as usize - arch::mem::frame_ptr(u64::from(pfn)) as usize;
        let slab = Slab::of(pfn);
        let was_full = slab.free_head() == 0 && slab.cut() == self.capacity();
        // SAFETY: by 1 the object is ours again, at least 16 bytes long and aligned to 16.
        unsafe { object.as_ptr().cast::<u32>().write(slab.free_head()) };
        slab.set_free_head(offset as u32 + 1);
        slab.set_in_use(slab.in_use() - 1);
        self.nr_used -= 1;
        if was_full {
            self.link(pfn);
        }
        if slab.in_use() == 0 {
            self.nr_empty += 1;
            if self.nr_empty > KEEP_EMPTY {
                self.shrink(pfn);
            }
        }
    }

    /// Adds a slab to the front of the list.
    fn grow(&mut self) -> Option<u32> {
        let pfn = frame::alloc_run(0)?;
        Slab::of(pfn).reset();
        self.nr_slabs += 1;
        self.nr_empty += 1;
        self.link(pfn);
        Some(pfn)
    }

    /// Gives an empty slab's frames back.
    fn shrink(&mut self, pfn: u32) {
        self.unlink(pfn);
        self.nr_empty -= 1;
        self.nr_slabs -= 1;
        // SAFETY: the frame came from `alloc_run` in `grow`, and no object of it is in use.
        unsafe { frame::free_run(pfn, 0) };
    }

    /// Gives all empty slabs back; how many frames that were.
    pub(super) fn trim(&mut self) -> usize {
        let mut freed = 0;
        let mut pfn = self.partial;
        while pfn != 0 && self.nr_empty > 0 {
            let next = Slab::of(pfn).next();
            if Slab::of(pfn).in_use() == 0 {
                self.shrink(pfn);
                freed += 1;
            }
            pfn = next;
        }
        freed
    }

    fn link(&mut self, pfn: u32) {
        let next = core::mem::replace(&mut self.partial, pfn);
        Slab::of(pfn).set_links(next, 0);
        if next != 0 {
            let slab = Slab::of(next);
            slab.set_links(slab.next(), pfn);
        }
    }

    fn unlink(&mut self, pfn: u32) {
        let (next, prev) = (Slab::of(pfn).next(), Slab::of(pfn).prev());
        if next != 0 {
            let slab = Slab::of(next);
            slab.set_links(slab.next(), prev);
        }
        if prev != 0 {
            let slab = Slab::of(prev);
            slab.set_links(next, slab.prev());
        } else {
            self.partial = next;
        }
    }
}

/// What the metadata of a slab's frame says: `flags` = objects in use and cut, `index` = first free object,
/// `owner` = list links.
struct Slab<'a>(&'a FrameMeta);

impl Slab<'_> {
    fn of(pfn: u32) -> Slab<'static> {
        Slab(arch::mem::meta(u64::from(pfn)))
    }

    fn reset(&self) {
        self.0.flags.store(0, Relaxed);
        self.0.index.store(0, Relaxed);
    }

    fn in_use(&self) -> u32 {
        self.0.flags.load(Relaxed) & 0xffff
    }

    fn set_in_use(&self, count: u32) {
        self.0.flags.store(self.0.flags.load(Relaxed) & !0xffff | count, Relaxed);
    }

    fn cut(&self) -> u32 {
        self.0.flags.load(Relaxed) >> 16
    }

    fn set_cut(&self, count: u32) {
        self.0.flags.store(self.0.flags.load(Relaxed) & 0xffff | count << 16, Relaxed);
    }

    fn free_head(&self) -> u32 {
        self.0.index.load(Relaxed) as u32
    }

    fn set_free_head(&self, head: u32) {
        self.0.index.store(u64::from(head), Relaxed);
    }

    fn next(&self) -> u32 {
        (self.0.owner.load(Relaxed) >> 32) as u32
    }

    fn prev(&self) -> u32 {
        self.0.owner.load(Relaxed) as u32
    }

    fn set_links(&self, next: u32, prev: u32) {
        self.0.owner.store(u64::from(next) << 32 | u64::from(prev), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    #[test]
    fn classes_cover_their_sizes_and_alignments() {
        for size in 1..=MAX_SIZE {
            let class = class_of(size, 1).unwrap();
            assert!(usize::from(SIZES[class]) >= size && class < NR_CLASSES);
        }
        assert_eq!(SIZES[class_of(40, 64).unwrap()], 64);
        assert_eq!(SIZES[class_of(65, 32).unwrap()], 128);
        assert_eq!(class_of(1, 4096), None);
    }

    #[test]
    fn objects_are_distinct_and_slabs_go_back() {
        for class_idx in 0..NR_CLASSES {
            let mut class = Class::new(class_idx);
            let size = class.size();
            let objects: Vec<_> = (0..300).map(|_| class.alloc().unwrap()).collect();
            let starts: BTreeSet<_> = objects.iter().map(|object| object.as_ptr() as usize).collect();
            let starts: Vec<_> = starts.into_iter().collect();
            assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= size));
            assert_eq!(class.usage().1, 300 * size);
            for object in objects {
                // SAFETY: each came from `alloc` above.
                unsafe { class.free(object) };
            }
            class.trim();
            assert_eq!(class.usage(), (0, 0));
        }
    }
}
