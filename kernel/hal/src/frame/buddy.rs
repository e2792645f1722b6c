//! The buddy allocator: runs of `2^order` frames, split on demand and joined again when both halves are free.
//!
//! Policy only: it works on frame numbers and on the metadata that [`MetaMap`] finds for them, and never touches a
//! frame. The machine's instance is in the parent module; tests make their own.
//!
//! ```text
//! alloc(0) with one free run of order 2 at 8:     free(8, 0) afterwards:
//!   8 9 10 11   free[2] = 8                          8 joins 9 → order 1 at 8, joins 10 → order 2 at 8
//!   8           the caller's
//!     9         free[0] = 9
//!       10 11   free[1] = 10
//! ```
//!
//! # Invariants
//!
//! - B1: the first frame of a free run has [`FREE`] and the run's order in `state`; every other frame has 0 there.
//! - B2: that frame's `index` holds its neighbours in the list of its order (next in the high half, previous in the
//!   low half; 0 ends the list, so frame 0 is never managed).
//! - B3: no two free runs of one order below the highest are buddies of each other.

use core::sync::atomic::Ordering::Relaxed;

use super::FrameMeta;

/// Largest order: 4 MiB.
pub(crate) const MAX_ORDER: u32 = 10;
/// In `state`: this frame starts a free run.
const FREE: u32 = 1 << 31;

/// The order of the free run that a frame with this `state` begins, if it does.
pub(super) fn free_order(state: u32) -> Option<u32> {
    (state & FREE != 0).then_some(state & !FREE)
}

/// Finds the metadata of a frame. It must exist for each frame of a block of order [`MAX_ORDER`] that holds a
/// managed frame, because the buddy of a managed frame may be any of them.
pub(crate) trait MetaMap {
    /// The metadata of frame `pfn`.
    fn meta(&self, pfn: u32) -> &FrameMeta;
}

/// Free runs by order. See the module's head.
pub(crate) struct Buddy {
    heads: [u32; MAX_ORDER as usize + 1],
    /// Runs in each list.
    counts: [usize; MAX_ORDER as usize + 1],
    /// Frames in all lists.
    nr_free: usize,
}

impl Buddy {
    /// An allocator that owns nothing.
    pub(crate) const fn new() -> Buddy {
        Buddy { heads: [0; MAX_ORDER as usize + 1], counts: [0; MAX_ORDER as usize + 1], nr_free: 0 }
    }

    /// Frames in the free lists.
    pub(crate) fn nr_free(&self) -> usize {
        self.nr_free
    }

    /// Runs in the free lists, by order.
    pub(crate) fn counts(&self) -> [usize; MAX_ORDER as usize + 1] {
        self.counts
    }

    /// Takes the frames `start..end` in; they must be new. Costs one list insertion per largest aligned run.
    pub(crate) fn add_range(&mut self, map: &impl MetaMap, start: u32, end: u32) {
        let mut at = start.max(1);
        while at < end {
            let fits = (end - at).ilog2();
            let order = at.trailing_zeros().min(fits).min(MAX_ORDER);
            self.free(map, at, order);
            at += 1 << order;
        }
    }

    /// Takes a run of `2^order` frames out; its first frame.
    pub(crate) fn alloc(&mut self, map: &impl MetaMap, order: u32) -> Option<u32> {
        let mut from = (order..=MAX_ORDER).find(|order| self.heads[*order as usize] != 0)?;
        let pfn = self.heads[from as usize];
        self.unlink(map, pfn, from);
        while from > order {
            from -= 1;
            self.link(map, pfn + (1 << from), from);
        }
        Some(pfn)
    }

    /// Gives back the run of `2^order` frames at `pfn`, joined with free buddies.
    pub(crate) fn free(&mut self, map: &impl MetaMap, mut pfn: u32, mut order: u32) {
        while order < MAX_ORDER {
            let buddy = pfn ^ 1 << order;
            if map.meta(buddy).state.load(Relaxed) != FREE | order {
                break;
            }
            self.unlink(map, buddy, order);
            pfn = pfn.min(buddy);
            order += 1;
        }
        self.link(map, pfn, order);
    }

    /// The order of the free run that begins at `pfn`, if one does.
    pub(super) fn run_at(&self, map: &impl MetaMap, pfn: u32) -> Option<u32> {
        free_order(map.meta(pfn).state.load(Relaxed))
    }

    /// Takes frame `pfn` out of the free run that holds it; was there one?
    pub(super) fn take(&mut self, map: &impl MetaMap, pfn: u32) -> bool {
        let holds = |order: &u32| {
            let head = pfn >> order << order;
            head != 0 && self.run_at(map, head) == Some(*order)
        };
        let Some(mut order) = (0..=MAX_ORDER).find(holds) else { return false };
        let mut head = pfn >> order << order;
        self.unlink(map, head, order);
        while order > 0 {
            order -= 1;
            let middle = head + (1 << order);
            // The half without the frame stays free.
            let (with, without) = if pfn < middle { (head, middle) } else { (middle, head) };
            self.link(map, without, order);
            head = with;
        }
        true
    }

    fn link(&mut self, map: &impl MetaMap, pfn: u32, order: u32) {
        let head = &mut self.heads[order as usize];
        let next = core::mem::replace(head, pfn);
        let meta = map.meta(pfn);
        debug_assert!(meta.state.load(Relaxed) == 0, "frame {pfn:#x} freed twice");
        meta.state.store(FREE | order, Relaxed);
        meta.index.store(u64::from(next) << 32, Relaxed);
        if next != 0 {
            map.meta(next).index.store(u64::from(Self::next(map, next)) << 32 | u64::from(pfn), Relaxed);
        }
        self.nr_free += 1 << order;
        self.counts[order as usize] += 1;
    }

    /// Takes the free run of `2^order` frames that begins at `pfn` out.
    pub(super) fn unlink(&mut self, map: &impl MetaMap, pfn: u32, order: u32) {
        let (next, prev) = (Self::next(map, pfn), Self::prev(map, pfn));
        if next != 0 {
            map.meta(next).index.store(u64::from(Self::next(map, next)) << 32 | u64::from(prev), Relaxed);
        }
        if prev != 0 {
            map.meta(prev).index.store(u64::from(next) << 32 | u64::from(Self::prev(map, prev)), Relaxed);
        } else {
            self.heads[order as usize] = next;
        }
        map.meta(pfn).state.store(0, Relaxed);
        self.nr_free -= 1 << order;
        self.counts[order as usize] -= 1;
    }

    fn next(map: &impl MetaMap, pfn: u32) -> u32 {
        (map.meta(pfn).index.load(Relaxed) >> 32) as u32
    }

    fn prev(map: &impl MetaMap, pfn: u32) -> u32 {
        map.meta(pfn).index.load(Relaxed) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    struct Table(Vec<FrameMeta>);

    impl MetaMap for Table {
        fn meta(&self, pfn: u32) -> &FrameMeta {
            &self.0[pfn as usize]
        }
    }

    fn table(frames: usize) -> Table {
        Table((0..frames.next_multiple_of(1 << MAX_ORDER)).map(|_| FrameMeta::default()).collect())
    }

    #[test]
    fn a_range_with_odd_ends_is_taken_in_whole() {
        let table = table(5000);
        let mut buddy = Buddy::new();
        buddy.add_range(&table, 3, 4999);
        assert_eq!(buddy.nr_free(), 4996);
        let mut seen = Vec::new();
        while let Some(pfn) = buddy.alloc(&table, 0) {
            seen.push(pfn);
        }
        seen.sort_unstable();
        assert_eq!(seen, (3..4999).collect::<Vec<_>>());
    }

    #[test]
    fn freed_halves_join_to_the_run_they_came_from() {
        let table = table(1024);
        let mut buddy = Buddy::new();
        buddy.add_range(&table, 512, 1024);
        let all: Vec<_> = (0..512).map(|_| buddy.alloc(&table, 0).unwrap()).collect();
        assert_eq!(buddy.alloc(&table, 0), None);
        for pfn in all.iter().step_by(2).chain(all.iter().skip(1).step_by(2)) {
            buddy.free(&table, *pfn, 0);
        }
        assert_eq!(buddy.alloc(&table, 9), Some(512));
    }

    #[test]
    fn a_frame_can_be_taken_out_of_the_middle_of_a_run() {
        let table = table(1024);
        let mut buddy = Buddy::new();
        buddy.add_range(&table, 1, 1024);
        assert!(buddy.take(&table, 517) && !buddy.take(&table, 517));
        assert_eq!(buddy.nr_free(), 1022);
        assert_eq!(buddy.alloc(&table, 9), None, "neither block is whole");
        assert_eq!(buddy.run_at(&table, 516), Some(0));
        assert_eq!(buddy.run_at(&table, 518), Some(1));
        buddy.free(&table, 517, 0);
        assert_eq!(buddy.alloc(&table, 9), Some(512));
    }

    #[test]
    fn random_edits_never_hand_out_a_frame_twice() {
        let table = table(4096);
        let mut buddy = Buddy::new();
        buddy.add_range(&table, 1, 4096);
        let mut owned = std::vec![false; 4096];
        let mut runs: Vec<(u32, u32)> = Vec::new();
        let mut seed = 1u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let random = (seed >> 33) as usize;
            if random.is_multiple_of(2) || runs.is_empty() {
                let order = (random >> 1) as u32 % 6;
                let Some(pfn) = buddy.alloc(&table, order) else { continue };
                assert!(pfn.is_multiple_of(1 << order));
                for frame in pfn..pfn + (1 << order) {
                    assert!(!std::mem::replace(&mut owned[frame as usize], true));
                }
                runs.push((pfn, order));
            } else {
                let (pfn, order) = runs.swap_remove((random >> 1) % runs.len());
                owned[pfn as usize..(pfn + (1 << order)) as usize].fill(false);
                buddy.free(&table, pfn, order);
            }
            assert_eq!(buddy.nr_free(), owned.iter().skip(1).filter(|owned| !**owned).count());
        }
    }
}
