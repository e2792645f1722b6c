//! Sets of numbers as ranges.

use alloc::collections::BTreeMap;
use core::ops::Range;

/// Ranges that are not empty and do not touch each other, by their starts.
#[derive(Debug, Default)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(crate) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first part of `range` that is in the set.
    pub(crate) fn first_in(&self, range: Range<u64>) -> Option<Range<u64>> {
        if range.is_empty() {
            return None;
        }
        if let Some((_, &end)) = self.0.range(..=range.start).next_back()
            && end > range.start
        {
            return Some(range.start..end.min(range.end));
        }
        let (&start, &end) = self.0.range(range.clone()).next()?;
        Some(start..end.min(range.end))
    }

    /// Adds `range`; gives how many numbers are new.
    pub(crate) fn insert(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let new = range.end - range.start - self.remove(range.clone());
        let Range { mut start, mut end } = range;
        if let Some((&before, &touching)) = self.0.range(..start).next_back()
            && touching == start
        {
            self.0.remove(&before);
            start = before;
        }
        if let Some(after) = self.0.remove(&end) {
            end = after;
        }
        self.0.insert(start, end);
        new
    }

    /// Takes `range` out; gives how many numbers were in.
    pub(crate) fn remove(&mut self, range: Range<u64>) -> u64 {
        let mut gone = 0;
        while let Some(part) = self.first_in(range.clone()) {
            let Some((&start, &end)) = self.0.range(..=part.start).next_back() else { break };
            self.0.remove(&start);
            if start < part.start {
                self.0.insert(start, part.start);
            }
            if end > part.end {
                self.0.insert(part.end, end);
            }
            gone += part.end - part.start;
        }
        gone
    }

    /// All ranges, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|(&start, &end)| start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_agree_with_an_array() {
        let (mut ranges, mut model, mut state) = (Ranges::new(), [false; 64], 12345u64);
        for _ in 0..3000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (start, len) = ((state >> 33) % 64, (state >> 50) % 12);
            let range = start..(start + len).min(64);
            let is_insert = state >> 62 & 1 == 0;
            let changed = range.clone().filter(|&at| model[at as usize] != is_insert).count() as u64;
            for at in range.clone() {
                model[at as usize] = is_insert;
            }
            let done = if is_insert { ranges.insert(range) } else { ranges.remove(range) };
            assert_eq!(done, changed);
            for from in [0, 17, 40] {
                let first = (from..64).find(|&at| model[at as usize]);
                assert_eq!(ranges.first_in(from..64).map(|part| part.start), first);
            }
            let all: Vec<_> = ranges.iter().collect();
            assert!(all.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
