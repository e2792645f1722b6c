//! What the merging thread remembers of the pages that it looked at.
//!
//! Of each page that is, in the order of addresses, the checksum that it had when it was looked at last: a page that changes
//! often is not worth merging. This is bookkeeping only; the thread's state, which holds it, has the lock.

use alloc::vec::Vec;

/// What the thread remembers of a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Address, in pages.
    pub page: u64,
    /// Half of the checksum.
    pub sum: u32,
    /// Times that it was looked at.
    age: u8,
    /// Rounds for which it is left out from now on.
    skips: u8,
    /// Whether it was merged when it was looked at last.
    pub is_merged: bool,
}

impl Seen {
    /// A page that was not looked at yet.
    pub fn new(page: u64) -> Self {
        Self { page, sum: 0, age: 0, skips: 0, is_merged: false }
    }

    /// Whether the page is left out in this round: the longer it was looked at in vain, the more often.
    pub fn is_left_out(&mut self) -> bool {
        let age = self.age;
        self.age = age.saturating_add(1);
        if age < 3 {
            return false;
        }
        if self.skips > 0 {
            self.skips -= 1;
            return true;
        }
        self.skips = match age {
            3 => 1,
            4 | 5 => 2,
            6..=8 => 4,
            _ => 8,
        };
        false
    }
}

/// What the thread remembers of an address space.
pub(super) struct Known {
    pub id: u64,
    /// Of the last round; from `next` on not looked at in this one.
    old: Vec<Seen>,
    next: usize,
    /// Of this round.
    new: Vec<Seen>,
    /// The round in which it was met last.
    pub round: u64,
    /// Pages of those that are remembered that are merged.
    pub merged: u64,
}

impl Known {
    pub fn new(id: u64, round: u64) -> Self {
        Self { id, old: Vec::new(), next: 0, new: Vec::new(), round, merged: 0 }
    }

    /// Pages that are remembered.
    pub fn len(&self) -> u64 {
        (self.new.len() + self.rest().len()) as u64
    }

    /// Those of the last round that were not looked at in this one.
    fn rest(&self) -> &[Seen] {
        self.old.get(self.next..).unwrap_or(&[])
    }

    /// Remembers the next page of this round; not without memory.
    pub fn put(&mut self, seen: Seen) {
        if self.new.try_reserve(1).is_ok() {
            self.merged += u64::from(seen.is_merged);
            self.new.push(seen);
        }
    }

    /// What is known of the page, and forgets those before it.
    pub fn take(&mut self, page: u64) -> Option<Seen> {
        while let Some(&seen) = self.old.get(self.next).filter(|seen| seen.page <= page) {
            self.next += 1;
            self.merged -= u64::from(seen.is_merged);
            if seen.page == page {
                return Some(seen);
            }
        }
        None
    }

    /// Ends the round for it: what was not met is forgotten.
    pub fn finish(&mut self) {
        self.merged -= self.rest().iter().filter(|seen| seen.is_merged).count() as u64;
        self.old = core::mem::take(&mut self.new);
        self.next = 0;
    }

    /// Notes that the page was merged, being the one that another was found to be equal to.
    pub fn note_merged(&mut self, page: u64) {
        let merged = &mut self.merged;
        let lists = [self.new.as_mut_slice(), self.old.get_mut(self.next..).unwrap_or(&mut [])];
        for list in lists {
            if let Ok(at) = list.binary_search_by_key(&page, |seen| seen.page)
                && let Some(seen) = list.get_mut(at)
            {
                *merged += u64::from(!seen.is_merged);
                seen.is_merged = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_looked_at_in_vain_is_left_out_more_and_more() {
        let mut seen = Seen::new(1);
        let left_out: Vec<bool> = (0..16).map(|_| seen.is_left_out()).collect();
        let looked_at: Vec<usize> = (0..16).filter(|at| !left_out[*at]).collect();
        assert_eq!(looked_at, [0, 1, 2, 3, 5, 8, 13]);
    }

    #[test]
    fn what_is_known_of_a_page_is_found_in_order() {
        let seen = |page| Seen { sum: page as u32, ..Seen::new(page) };
        let mut known = Known::new(1, 0);
        [3, 5, 9].map(seen).into_iter().for_each(|seen| known.put(seen));
        known.finish();
        assert!(known.take(2).is_none());
        assert_eq!(known.take(5).map(|seen| seen.sum), Some(5));
        assert_eq!(known.len(), 1);
        known.note_merged(9);
        known.note_merged(9);
        assert_eq!(known.merged, 1);
        assert!(known.take(9).is_some_and(|seen| seen.is_merged));
        assert!(known.take(10).is_none());
        assert_eq!((known.len(), known.merged), (0, 0));
        known.put(Seen { is_merged: true, ..seen(4) });
        known.finish();
        assert_eq!((known.len(), known.merged), (1, 1));
        known.finish();
        assert_eq!((known.len(), known.merged), (0, 0), "not met again");
    }
}
