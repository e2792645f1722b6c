//! Pages by their contents: the stable ones, and those seen in this round.
//!
//! Both are tables by a keyed checksum of 64 bits, so that nobody can make pages that meet in one place; equal checksums
//! are followed by a comparison of all bytes. A stable page is shown by at most `max_page_sharing` entries (forks may go
//! beyond): then another one with the same contents is made. Those with room are in a table of their own, so that a
//! search meets no full ones.

use hal::PAGE_SIZE;
use hal::frame::Frame;
use hashbrown::HashTable;

use abi::{Errno, Result};
use alloc::vec::Vec;

use super::Chains;

/// Bytes looked at at once.
const CHUNK: usize = 512;

/// The checksum of a page. `key`: random, the same since boot.
pub(super) fn checksum(frame: &Frame, key: u64) -> u64 {
    // Other than the key: the halves of a pair must not be alike.
    let mut sum = key.wrapping_add(0xa076_1d64_78bd_642f);
    let mut chunk = [0; CHUNK];
    for offset in (0..PAGE_SIZE).step_by(CHUNK) {
        frame.read(offset, &mut chunk);
        for pair in chunk.chunks_exact(16) {
            let (a, b) = pair.split_at(8);
            sum = fold(word(a) ^ key, word(b) ^ sum).wrapping_add(0x9e37_79b9_7f4a_7c15);
        }
    }
    fold(sum ^ key, 0xd6e8_feb8_6659_fd93)
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// Mixes two numbers: both halves of their product.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// Whether two pages have the same contents now.
pub(super) fn is_same(a: &Frame, b: &Frame) -> bool {
    let (mut x, mut y) = ([0; CHUNK], [0; CHUNK]);
    (0..PAGE_SIZE).step_by(CHUNK).all(|offset| {
        a.read(offset, &mut x);
        b.read(offset, &mut y);
        x == y
    })
}

struct Node {
    sum: u64,
    frame: Frame,
}

impl Node {
    /// Entries that show it: all references but the tree's.
    fn mappings(&self) -> u64 {
        u64::from(self.frame.ref_count().saturating_sub(1))
    }
}

fn sum_of(node: &Node) -> u64 {
    node.sum
}

/// Sums over the stable pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Stable pages that somebody shows.
    pub shared: u64,
    /// Entries that show them, less one for each.
    pub sharing: u64,
}

/// The stable pages.
pub(super) struct Stable {
    open: HashTable<Node>,
    full: HashTable<Node>,
}

impl Stable {
    pub(super) const fn new() -> Self {
        Self { open: HashTable::new(), full: HashTable::new() }
    }

    /// A stable page with the contents of `page` that fewer than `max` entries show.
    pub(super) fn find(&mut self, sum: u64, page: &Frame, max: u64) -> Option<Frame> {
        loop {
            let is_wanted = |node: &Node| node.sum == sum && is_same(&node.frame, page);
            let found = self.open.find(sum, is_wanted)?;
            if found.mappings() < max {
                return Some(found.frame.clone());
            }
            let pfn = found.frame.pfn();
            self.full.try_reserve(1, sum_of).ok()?;
            let entry = self.open.find_entry(sum, |node| node.frame.pfn() == pfn).ok()?;
            self.full.insert_unique(sum, entry.remove().0, sum_of);
        }
    }

    /// Has room for one more page; `ENOMEM`.
    pub(super) fn reserve(&mut self) -> Result<()> {
        self.open.try_reserve(1, sum_of).map_err(|_| Errno::ENOMEM)
    }

    /// Takes a page in, for which there is room.
    pub(super) fn insert(&mut self, sum: u64, frame: Frame) {
        self.open.insert_unique(sum, Node { sum, frame }, sum_of);
    }

    /// Drops the pages that nobody shows; how many. Full ones that are so no more can be found again.
    pub(super) fn prune(&mut self, max: u64) -> usize {
        let before = self.open.len() + self.full.len();
        self.open.retain(|node| node.mappings() > 0);
        self.full.retain(|node| node.mappings() > 0);
        let after = self.open.len() + self.full.len();
        let has_room = |node: &Node| node.mappings() < max;
        let nr = self.full.iter().filter(|node| has_room(node)).count();
        if nr > 0 && self.open.try_reserve(nr, sum_of).is_ok() {
            for node in self.full.extract_if(|node| has_room(node)) {
                self.open.insert_unique(node.sum, node, sum_of);
            }
        }
        before - after
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.full.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = &Node> {
        self.open.iter().chain(&self.full)
    }

    /// Cost: a step for each page.
    pub(super) fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for node in self.iter() {
            let mappings = node.mappings();
            sums.shared += u64::from(mappings > 0);
            sums.sharing += mappings.saturating_sub(1);
        }
        sums
    }

    /// Contents with more than one page; none without memory to count them. Cost: a sort.
    pub(super) fn chains(&self) -> Chains {
        let (mut keys, mut found) = (Vec::new(), Chains::default());
        if keys.try_reserve_exact(self.open.len() + self.full.len()).is_ok() {
            keys.extend(self.iter().map(|node| node.sum));
            keys.sort_unstable();
            for chain in keys.chunk_by(|a, b| a == b).filter(|chain| chain.len() > 1) {
                found.chains += 1;
                found.dups += chain.len() as u64;
            }
        }
        found
    }
}

/// Where a page was seen in this round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The slot of its address space in the registry, and its id.
    pub slot: usize,
    pub id: u64,
    pub addr: u64,
}

/// The pages seen in this round, which are alone so far.
pub(super) struct Unstable(HashTable<(u64, Place)>);

impl Unstable {
    pub(super) const fn new() -> Self {
        Self(HashTable::new())
    }

    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn get(&self, sum: u64) -> Option<Place> {
        self.0.find(sum, |(known, _)| *known == sum).map(|(_, place)| *place)
    }

    /// Remembers a page, in the place of another one with this checksum. Without memory it does not.
    pub(super) fn put(&mut self, sum: u64, place: Place) {
        if let Some(known) = self.0.find_mut(sum, |(known, _)| *known == sum) {
            known.1 = place;
        } else if self.0.try_reserve(1, |(sum, _)| *sum).is_ok() {
            self.0.insert_unique(sum, (sum, place), |(sum, _)| *sum);
        }
    }

    pub(super) fn remove(&mut self, sum: u64) {
        if let Ok(entry) = self.0.find_entry(sum, |(known, _)| *known == sum) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(byte: u8) -> Frame {
        let frame = Frame::alloc_zeroed().unwrap();
        frame.write(PAGE_SIZE - 1, &[byte]);
        frame
    }

    #[test]
    fn a_checksum_sees_every_byte_and_depends_on_the_key() {
        const KEY: u64 = 0x8ebc_6af0_9c88_c6e3;
        let _alone = crate::tests::alone();
        let (a, b) = (page(1), page(1));
        assert_eq!(checksum(&a, KEY), checksum(&b, KEY));
        assert_ne!(checksum(&a, KEY), checksum(&a, KEY + 2));
        let mut known = std::collections::HashSet::from([checksum(&a, KEY)]);
        for at in 0..PAGE_SIZE - 1 {
            b.write(at, &[0x80]);
            assert!(known.insert(checksum(&b, KEY)), "byte {at}");
            assert!(!is_same(&a, &b));
            b.write(at, &[0]);
        }
        assert!(is_same(&a, &b));
    }

    #[test]
    fn a_full_page_is_found_no_more_until_it_has_room() {
        let _alone = crate::tests::alone();
        let mut stable = Stable::new();
        let (first, like) = (page(1), page(1));
        stable.reserve().unwrap();
        stable.insert(5, first.clone());
        let second = stable.find(5, &like, 2).unwrap();
        assert_eq!(second.pfn(), first.pfn());
        assert!(stable.find(5, &like, 2).is_none() && stable.find(5, &like, 3).is_none(), "it is full");
        assert!(stable.find(6, &like, 9).is_none());
        stable.reserve().unwrap();
        let other = page(1);
        stable.insert(5, other.clone());
        assert_eq!(stable.sums(), Sums { shared: 2, sharing: 1 });
        assert_eq!(stable.chains(), Chains { chains: 1, dups: 2 });
        drop(second);
        assert_eq!(stable.prune(2), 0);
        drop(other);
        assert_eq!(stable.prune(2), 1);
        assert_eq!(stable.find(5, &like, 2).map(|found| found.pfn()), Some(first.pfn()));
        drop(first);
        assert_eq!((stable.prune(2), stable.is_empty()), (1, true));
    }

    #[test]
    fn a_round_remembers_one_page_of_a_kind() {
        let mut unstable = Unstable::new();
        let place = |addr| Place { slot: 1, id: 2, addr };
        unstable.put(9, place(1));
        unstable.put(9, place(2));
        unstable.put(8, place(3));
        assert_eq!((unstable.get(9), unstable.len()), (Some(place(2)), 2));
        unstable.remove(9);
        assert_eq!((unstable.get(9), unstable.get(8)), (None, Some(place(3))));
        unstable.clear();
        assert_eq!(unstable.len(), 0);
    }
}
