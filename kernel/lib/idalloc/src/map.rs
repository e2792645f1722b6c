//! A bitmap of ids in use, searched for the lowest free one.
//!
//! ```text
//! full   [ 1 . . . ]             one bit per word: nothing free in it
//! words  [ 1111 | 11.1 | .... ]  one bit per id; the vector grows as ids are taken
//!                   ^ alloc_from(0, ..) takes this one
//! ```
//!
//! # Invariants
//!
//! - M1: bit `w` of `full` is set exactly when `words[w]` is all ones.
//! - M2: `full` has a bit for each word of `words`, and no set bit beyond them.
//! - M3: `used` is the number of set bits in `words`.

use alloc::vec::Vec;

/// Ids per word.
const BITS: u32 = u64::BITS;

/// Why no id was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoId {
    /// Every id of the range is taken.
    Full,
    /// The bitmap could not grow.
    NoMemory,
}

/// The set of ids in use.
#[derive(Debug, Default)]
pub struct IdMap {
    words: Vec<u64>,
    full: Vec<u64>,
    used: usize,
}

impl IdMap {
    /// An empty set; allocates nothing.
    pub const fn new() -> Self {
        Self { words: Vec::new(), full: Vec::new(), used: 0 }
    }

    /// How many ids are in use.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether no id is in use.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Whether `id` is in use.
    #[inline]
    pub fn contains(&self, id: u32) -> bool {
        self.words.get((id / BITS) as usize).is_some_and(|word| word >> (id % BITS) & 1 != 0)
    }

    /// Takes the lowest free id in `min..end`.
    #[inline]
    pub fn alloc_from(&mut self, min: u32, end: u32) -> Result<u32, NoId> {
        let id = self.first_free(min, end).ok_or(NoId::Full)?;
        self.insert(id)?;
        Ok(id)
    }

    /// The lowest free id in `min..end`, not taken.
    #[inline]
    pub fn first_free(&self, min: u32, end: u32) -> Option<u32> {
        if min >= end {
            return None;
        }
        let first = (min / BITS) as usize;
        let Some(word) = self.words.get(first) else { return Some(min) };
        // Ids below `min` count as taken in the first word.
        let free = !word & (u64::MAX << (min % BITS));
        let id = if free != 0 {
            first as u32 * BITS + free.trailing_zeros()
        } else {
            let word_idx = self.first_word_with_room(first + 1);
            let base = u32::try_from(word_idx).ok()?.checked_mul(BITS)?;
            base + self.words.get(word_idx).map_or(0, |word| (!word).trailing_zeros())
        };
        (id < end).then_some(id)
    }

    /// The first word from `from` on that has a free id; possibly the one after the last.
    fn first_word_with_room(&self, from: usize) -> usize {
        let mut word_idx = from;
        while let Some(summary) = self.full.get(word_idx / BITS as usize) {
            let room = !summary & (u64::MAX << (word_idx % BITS as usize));
            let base = word_idx / BITS as usize * BITS as usize;
            if room != 0 {
                return base + room.trailing_zeros() as usize;
            }
            word_idx = base + BITS as usize;
        }
        word_idx
    }

    /// Marks `id` as used; true when it was free.
    pub fn insert(&mut self, id: u32) -> Result<bool, NoId> {
        let word_idx = (id / BITS) as usize;
        if word_idx >= self.words.len() {
            self.grow(word_idx + 1)?;
        }
        let (Some(word), Some(summary)) =
            (self.words.get_mut(word_idx), self.full.get_mut(word_idx / BITS as usize))
        else {
            return Err(NoId::NoMemory);
        };
        let bit = 1 << (id % BITS);
        if *word & bit != 0 {
            return Ok(false);
        }
        *word |= bit;
        if *word == u64::MAX {
            *summary |= 1 << (word_idx % BITS as usize);
        }
        self.used += 1;
        Ok(true)
    }

    /// Marks `id` as free; true when it was used.
    pub fn remove(&mut self, id: u32) -> bool {
        let word_idx = (id / BITS) as usize;
        let (Some(word), Some(summary)) =
            (self.words.get_mut(word_idx), self.full.get_mut(word_idx / BITS as usize))
        else {
            return false;
        };
        let bit = 1 << (id % BITS);
        if *word & bit == 0 {
            return false;
        }
        *word &= !bit;
        *summary &= !(1 << (word_idx % BITS as usize));
        self.used -= 1;
        true
    }

    /// The lowest used id from `from` on.
    pub fn next_used(&self, from: u32) -> Option<u32> {
        let first = (from / BITS) as usize;
        let mut mask = u64::MAX << (from % BITS);
        for (word_idx, word) in self.words.iter().enumerate().skip(first) {
            let used = word & mask;
            if used != 0 {
                return Some(word_idx as u32 * BITS + used.trailing_zeros());
            }
            mask = u64::MAX;
        }
        None
    }

    /// All used ids in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut from = Some(0);
        core::iter::from_fn(move || {
            let id = self.next_used(from?)?;
            from = id.checked_add(1);
            Some(id)
        })
    }

    /// A copy, or `NoMemory`.
    pub fn try_clone(&self) -> Result<Self, NoId> {
        let mut words = Vec::new();
        let mut full = Vec::new();
        words.try_reserve_exact(self.words.len()).map_err(|_| NoId::NoMemory)?;
        full.try_reserve_exact(self.full.len()).map_err(|_| NoId::NoMemory)?;
        words.extend_from_slice(&self.words);
        full.extend_from_slice(&self.full);
        Ok(Self { words, full, used: self.used })
    }

    /// Makes room for at least `nr_words` words, doubling so that growing stays cheap.
    fn grow(&mut self, nr_words: usize) -> Result<(), NoId> {
        let nr_words = nr_words.max(self.words.len().saturating_mul(2)).max(1);
        let nr_summaries = nr_words.div_ceil(BITS as usize);
        self.words.try_reserve_exact(nr_words - self.words.len()).map_err(|_| NoId::NoMemory)?;
        self.full
            .try_reserve_exact(nr_summaries.saturating_sub(self.full.len()))
            .map_err(|_| NoId::NoMemory)?;
        self.words.resize(nr_words, 0);
        self.full.resize(nr_summaries, 0);
        Ok(())
    }

    /// Asserts M1 to M3.
    #[cfg(test)]
    fn check_invariants(&self) {
        assert_eq!(self.full.len(), self.words.len().div_ceil(BITS as usize));
        assert_eq!(self.used, self.words.iter().map(|word| word.count_ones() as usize).sum());
        for (idx, word) in self.words.iter().enumerate() {
            let summary = self.full[idx / 64] >> (idx % 64) & 1 != 0;
            assert_eq!(summary, *word == u64::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_lowest_free_id_comes_first() {
        let mut map = IdMap::new();
        assert_eq!(map.alloc_from(0, 3), Ok(0));
        assert_eq!(map.alloc_from(0, 3), Ok(1));
        assert_eq!(map.alloc_from(2, 3), Ok(2));
        assert_eq!(map.alloc_from(0, 3), Err(NoId::Full));
        assert!(map.remove(1) && !map.remove(1));
        assert_eq!(map.alloc_from(0, 3), Ok(1));
        assert_eq!(map.alloc_from(100, 101), Ok(100));
        assert_eq!(map.alloc_from(7, 7), Err(NoId::Full));
    }

    #[test]
    fn a_full_map_of_many_words_is_searched_by_summary() {
        let mut map = IdMap::new();
        for id in 0..20_000 {
            assert_eq!(map.alloc_from(0, u32::MAX), Ok(id));
        }
        map.check_invariants();
        assert!(map.remove(12_345));
        assert_eq!(map.alloc_from(3, u32::MAX), Ok(12_345));
        assert_eq!(map.iter().count(), 20_000);
    }

    #[test]
    fn random_edits_agree_with_a_set() {
        let mut map = IdMap::new();
        let mut model = BTreeSet::new();
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..50_000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let id = (seed >> 8) as u32 % 700;
            match seed % 3 {
                0 => assert_eq!(map.remove(id), model.remove(&id)),
                1 => assert_eq!(map.insert(id), Ok(model.insert(id))),
                _ => {
                    let want = (id..700).find(|id| !model.contains(id));
                    assert_eq!(map.alloc_from(id, 700).ok(), want);
                    model.extend(want);
                }
            }
            assert_eq!(map.next_used(id), model.range(id..).next().copied());
        }
        map.check_invariants();
        assert!(map.iter().eq(model.iter().copied()));
        assert!(map.try_clone().unwrap().iter().eq(model));
    }
}
