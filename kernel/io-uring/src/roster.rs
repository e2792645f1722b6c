//! Requests that wait, in the order in which they came.
//!
//! ```text
//! add at the end        4  7  8  9 12
//! remove 8              4  7  .  9 12      a hole; when holes are more than half, all move together
//! ```
//! Entries are found by their numbers, which only grow, and are looked at from the newest to the oldest. What it takes grows
//! with what user space makes wait, so only [`reserve`](Roster::reserve) allocates, and it can fail.

use alloc::vec::Vec;

use abi::{Errno, Result};

/// So many holes are left alone, however few entries there are.
const FEW: usize = 16;

/// Entries with ascending numbers.
///
/// # Invariants
///
/// - R1: the numbers ascend, holes included.
/// - R2: `live` is the number of entries that are no holes.
pub(crate) struct Roster<T> {
    entries: Vec<(u64, Option<T>)>,
    live: usize,
}

impl<T> Roster<T> {
    pub const fn new() -> Self {
        Self { entries: Vec::new(), live: 0 }
    }

    /// Makes room for one more. `ENOMEM`.
    pub fn reserve(&mut self) -> Result<()> {
        self.entries.try_reserve(1).map_err(|_| Errno::ENOMEM)
    }

    /// Adds `entry` by the number `key`, which is higher than all before, into the room that was
    /// [reserved](Self::reserve).
    pub fn add(&mut self, key: u64, entry: T) {
        debug_assert!(self.entries.last().is_none_or(|(last, _)| *last < key));
        self.entries.push((key, Some(entry)));
        self.live += 1;
    }

    /// Takes the entry `key` out, if it is there. Its cost is that of a search, and now and then of a move of all.
    pub fn remove(&mut self, key: u64) -> Option<T> {
        let at = self.entries.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        let gone = self.entries.get_mut(at)?.1.take()?;
        self.live -= 1;
        if self.entries.len() > 2 * self.live + FEW {
            self.entries.retain(|(_, entry)| entry.is_some());
        }
        // To shrink it for fewer would need memory, which may not be there.
        if self.live == 0 && self.entries.capacity() > FEW {
            self.entries = Vec::new();
        }
        Some(gone)
    }

    /// Those whose numbers are below `limit`, the newest first.
    pub fn below(&self, limit: u64) -> impl Iterator<Item = &T> {
        let end = self.entries.partition_point(|(key, _)| *key < limit);
        self.entries.iter().take(end).rev().filter_map(|(_, entry)| entry.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    #[test]
    fn entries_are_found_from_the_newest_on() {
        let mut roster = Roster::new();
        for key in [4, 7, 8, 9, 12] {
            roster.reserve().unwrap();
            roster.add(key, key * 10);
        }
        assert_eq!(roster.remove(8), Some(80));
        assert_eq!(roster.remove(8), None);
        assert_eq!(roster.remove(5), None);
        assert_eq!(roster.below(12).copied().collect::<Vec<_>>(), [90, 70, 40]);
        assert_eq!(roster.below(u64::MAX).next(), Some(&120));
    }

    #[test]
    fn it_holds_what_a_map_holds() {
        let (mut roster, mut map) = (Roster::new(), BTreeMap::new());
        let mut seed = 1u64;
        for key in 0..20_000u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            roster.reserve().unwrap();
            roster.add(key, key);
            map.insert(key, key);
            // Twice on the average while it shrinks, else less than once.
            for n in 0..if key / 1000 % 2 == 0 { 1 } else { 3 } {
                let victim = (seed >> (20 + n)) % (key + 1);
                assert_eq!(roster.remove(victim), map.remove(&victim));
            }
            assert!(roster.live == map.len() && roster.entries.len() <= 2 * map.len() + FEW + 1);
        }
        let limit = 15_000;
        assert!(roster.below(limit).eq(map.range(..limit).rev().map(|(_, value)| value)));
    }
}
