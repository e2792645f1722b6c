//! A radix tree from page indices to pages: the index of a page cache.
//!
//! ```text
//! height 0   Leaf [p0 p1 p2]                 up to 64 pages; the vector ends at the last page ever there
//! height 1   Inner [Leaf, -, Leaf, ...]      64 leaves: 16 MiB of file
//! ```
//!
//! Vectors grow by doubling up to 64 entries, so a file of a few pages costs a few words. All memory is
//! taken fallibly. No lock inside: [`super::Mapping`] holds one around it.

use alloc::vec::Vec;
use core::ops::Range;

/// log2 of the entries of a node.
const BITS: u32 = 6;
/// Entries of a node.
pub const FANOUT: usize = 1 << BITS;

/// The tree has no memory for another node; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoNode;

#[derive(Debug)]
enum Node<T> {
    Leaf(Vec<Option<T>>),
    Inner(Vec<Option<Node<T>>>),
}

/// The tree; see the file's head.
#[derive(Debug)]
pub struct Radix<T> {
    root: Option<Node<T>>,
    /// Levels of inner nodes above the leaves.
    height: u32,
    len: usize,
}

impl<T> Default for Radix<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The slot of `idx` in a node `level` levels above the leaves.
#[inline]
fn slot_of(idx: u64, level: u32) -> usize {
    (idx >> (level * BITS)) as usize % FANOUT
}

/// The entry `i` of a node, growing the node when it is too short.
fn entry<E>(node: &mut Vec<Option<E>>, i: usize) -> Result<&mut Option<E>, NoNode> {
    if i >= node.len() {
        let want = (i + 1).next_power_of_two().max(node.capacity()).min(FANOUT);
        if i == 0 {
            node.try_reserve_exact(1).map_err(|_| NoNode)?;
        } else {
            node.try_reserve_exact(want - node.len()).map_err(|_| NoNode)?;
        }
        node.resize_with(i + 1, || None);
    }
    node.get_mut(i).ok_or(NoNode)
}

/// The entries `range` of a node, which is not empty, growing the node when it is too short.
fn run<E>(node: &mut Vec<Option<E>>, range: Range<usize>) -> Result<&mut [Option<E>], NoNode> {
    entry(node, range.end.saturating_sub(1))?;
    node.get_mut(range).ok_or(NoNode)
}

impl<T> Radix<T> {
    /// An empty tree; takes no memory.
    pub const fn new() -> Self {
        Self { root: None, height: 0, len: 0 }
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `idx` is within reach of the present height.
    #[inline]
    fn reaches(&self, idx: u64) -> bool {
        let bits = (self.height + 1) * BITS;
        bits >= 64 || idx >> bits == 0
    }

    /// The item at `idx`.
    #[inline]
    pub fn get(&self, idx: u64) -> Option<&T> {
        self.run_from(idx).first()?.as_ref()
    }

    /// The entries from `idx` to the end of its leaf: one descent for up to 64 pages.
    ///
    /// Shorter than the rest of the leaf when nothing was ever stored behind; empty when there is no leaf.
    #[inline]
    pub fn run_from(&self, idx: u64) -> &[Option<T>] {
        if !self.reaches(idx) {
            return &[];
        }
        let mut node = self.root.as_ref();
        let mut level = self.height;
        loop {
            match node {
                None => return &[],
                Some(Node::Leaf(slots)) => return slots.get(slot_of(idx, 0)..).unwrap_or(&[]),
                Some(Node::Inner(children)) => {
                    node = children.get(slot_of(idx, level)).and_then(Option::as_ref);
                    level = level.saturating_sub(1);
                }
            }
        }
    }

    /// The item at `idx`, to be changed.
    pub fn get_mut(&mut self, idx: u64) -> Option<&mut T> {
        if !self.reaches(idx) {
            return None;
        }
        let (mut node, mut level) = (self.root.as_mut()?, self.height);
        loop {
            match node {
                Node::Leaf(slots) => return slots.get_mut(slot_of(idx, 0))?.as_mut(),
                Node::Inner(children) => {
                    node = children.get_mut(slot_of(idx, level))?.as_mut()?;
                    level = level.saturating_sub(1);
                }
            }
        }
    }

    /// Stores `item` at `idx` unless there is one already, which is then given back as `Ok(Some(item))`.
    pub fn insert(&mut self, idx: u64, item: T) -> Result<Option<T>, NoNode> {
        let slot = entry(self.leaf(idx)?, slot_of(idx, 0))?;
        if slot.is_some() {
            return Ok(Some(item));
        }
        *slot = Some(item);
        self.len += 1;
        Ok(None)
    }

    /// Stores `items` from `first` on, each unless there is one already: one descent for each leaf. What was not stored goes to
    /// `refuse`; without memory that is all from some item on. Gives how many were stored.
    pub fn insert_run<I>(&mut self, first: u64, items: I, mut refuse: impl FnMut(T)) -> usize
    where
        I: IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
    {
        let (mut items, mut idx, mut stored) = (items.into_iter(), first, 0);
        while items.len() > 0 {
            let from = slot_of(idx, 0);
            let nr = items.len().min(FANOUT - from);
            let Ok(slots) = self.leaf(idx).and_then(|leaf| run(leaf, from..from + nr)) else { break };
            for (slot, item) in slots.iter_mut().zip(&mut items) {
                if slot.is_none() {
                    *slot = Some(item);
                    stored += 1;
                } else {
                    refuse(item);
                }
            }
            idx += nr as u64;
        }
        items.for_each(refuse);
        self.len += stored;
        stored
    }

    /// The leaf that `idx` belongs to, made when it is missing.
    fn leaf(&mut self, idx: u64) -> Result<&mut Vec<Option<T>>, NoNode> {
        while !self.reaches(idx) {
            if let Some(old) = self.root.take() {
                let mut children = Vec::new();
                if children.try_reserve_exact(1).is_err() {
                    self.root = Some(old);
                    return Err(NoNode);
                }
                children.push(Some(old));
                self.root = Some(Node::Inner(children));
            }
            self.height += 1;
        }
        let mut level = self.height;
        let mut place = &mut self.root;
        loop {
            let node = place.get_or_insert_with(|| match level {
                0 => Node::Leaf(Vec::new()),
                _ => Node::Inner(Vec::new()),
            });
            match node {
                Node::Inner(children) => {
                    place = entry(children, slot_of(idx, level))?;
                    level -= 1;
                }
                Node::Leaf(slots) => return Ok(slots),
            }
        }
    }

    /// Takes out the item at `idx`.
    pub fn remove(&mut self, idx: u64) -> Option<T> {
        let mut taken = None;
        self.remove_range(idx..idx.saturating_add(1), 1, |_, item| taken = Some(item));
        taken
    }

    /// Takes out up to `max` items of `range`, lowest first, and frees nodes that become empty.
    ///
    /// Returns the index to go on from, or `None` when the range is done.
    pub fn remove_range(
        &mut self,
        range: Range<u64>,
        max: usize,
        mut out: impl FnMut(u64, T),
    ) -> Option<u64> {
        let root = self.root.as_mut()?;
        let mut sweep = Sweep { range, left: max, stopped: None, out: &mut out };
        let empty = sweep.node(root, self.height, 0);
        let (left, stopped) = (sweep.left, sweep.stopped);
        self.len -= max - left;
        if empty {
            self.root = None;
            self.height = 0;
        }
        stopped
    }

    /// Calls `visit` for the items of `range` in order until it returns `false`.
    pub fn for_each(&self, range: Range<u64>, mut visit: impl FnMut(u64, &T) -> bool) {
        if let Some(root) = &self.root {
            walk(root, self.height, 0, &range, &mut visit);
        }
    }
}

/// The part of a node's slots that may hold indices of `range`; the node begins at `base`.
fn slots_in(range: &Range<u64>, base: u64, level: u32, len: usize) -> Range<usize> {
    let width = 1u64 << (level * BITS);
    let first = range.start.saturating_sub(base) / width;
    let end = range.end.saturating_sub(base).div_ceil(width);
    let clip = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(len);
    clip(first)..clip(end).max(clip(first))
}

/// One removal of a range under way.
struct Sweep<'a, F> {
    range: Range<u64>,
    /// How many items may still go.
    left: usize,
    /// The first item of the range that had to stay.
    stopped: Option<u64>,
    out: &'a mut F,
}

impl<F> Sweep<'_, F> {
    /// Empties the part of `range` in `node`. Returns whether the node is empty now.
    fn node<T>(&mut self, node: &mut Node<T>, level: u32, base: u64) -> bool
    where
        F: FnMut(u64, T),
    {
        let width = 1u64 << (level * BITS);
        match node {
            Node::Leaf(slots) => {
                for i in slots_in(&self.range, base, 0, slots.len()) {
                    let Some(slot) = slots.get_mut(i).filter(|s| s.is_some()) else { continue };
                    if self.left == 0 {
                        self.stopped = Some(base + i as u64);
                        return false;
                    }
                    if let Some(item) = slot.take() {
                        self.left -= 1;
                        (self.out)(base + i as u64, item);
                    }
                }
                slots.iter().all(Option::is_none)
            }
            Node::Inner(children) => {
                for i in slots_in(&self.range, base, level, children.len()) {
                    if let Some(place) = children.get_mut(i)
                        && let Some(child) = place
                        && self.node(child, level - 1, base + i as u64 * width)
                    {
                        *place = None;
                    }
                    if self.stopped.is_some() {
                        return false;
                    }
                }
                children.iter().all(Option::is_none)
            }
        }
    }
}

fn walk<T>(
    node: &Node<T>,
    level: u32,
    base: u64,
    range: &Range<u64>,
    visit: &mut impl FnMut(u64, &T) -> bool,
) -> bool {
    let width = 1u64 << (level * BITS);
    match node {
        Node::Leaf(slots) => slots_in(range, base, 0, slots.len())
            .all(|i| slots.get(i).and_then(Option::as_ref).is_none_or(|item| visit(base + i as u64, item))),
        Node::Inner(children) => slots_in(range, base, level, children.len()).all(|i| {
            children
                .get(i)
                .and_then(Option::as_ref)
                .is_none_or(|child| walk(child, level - 1, base + i as u64 * width, range, visit))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn small_files_take_one_short_leaf() {
        let mut tree = Radix::new();
        assert_eq!(tree.insert(0, 'a'), Ok(None));
        assert_eq!(tree.insert(0, 'b'), Ok(Some('b')));
        assert_eq!(tree.height, 0);
        assert_eq!(tree.run_from(0), &[Some('a')]);
        assert_eq!(tree.run_from(1), &[]);
        assert_eq!(tree.get_mut(0).copied(), Some('a'));
        assert!(tree.get_mut(1).is_none() && tree.get_mut(1 << 40).is_none());
        assert_eq!(tree.remove(0), Some('a'));
        assert!(tree.root.is_none());
    }

    #[test]
    fn random_edits_agree_with_a_map() {
        let mut seed = 0x1234_5678_9abcu64;
        let mut below = |n: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 9) % n
        };
        let mut tree = Radix::new();
        let mut model = BTreeMap::new();
        for step in 0..20_000u64 {
            let reach = [10, 100, 5000, 1 << 20, 1 << 52][below(5) as usize];
            let idx = below(reach);
            match below(8) {
                0..4 => {
                    let old = tree.insert(idx, step).unwrap();
                    assert_eq!(old.is_some(), model.contains_key(&idx));
                    model.entry(idx).or_insert(step);
                }
                4 => {
                    let items = idx..idx + below(100);
                    let fresh = items.clone().filter(|i| !model.contains_key(i)).count();
                    let mut refused = 0;
                    assert_eq!(
                        tree.insert_run(idx, items.clone().collect::<Vec<_>>(), |_| refused += 1),
                        fresh
                    );
                    assert_eq!(refused, items.clone().count() - fresh);
                    items.for_each(|i| {
                        model.entry(i).or_insert(i);
                    });
                }
                5 => assert_eq!(tree.remove(idx), model.remove(&idx)),
                6 => {
                    let range = idx..idx + below(reach);
                    let mut got = Vec::new();
                    let rest = tree.remove_range(range.clone(), 3, |i, v| got.push((i, v)));
                    let want: Vec<_> = model.range(range.clone()).take(3).map(|(&i, &v)| (i, v)).collect();
                    assert_eq!(got, want);
                    model.retain(|i, _| !want.iter().any(|(w, _)| w == i));
                    assert_eq!(rest, model.range(range).next().map(|(&i, _)| i));
                }
                _ => {
                    assert_eq!(tree.get(idx), model.get(&idx));
                    let mut got = Vec::new();
                    tree.for_each(idx..u64::MAX, |i, &v| {
                        got.push((i, v));
                        got.len() < 5
                    });
                    let want: Vec<_> = model.range(idx..).take(5).map(|(&i, &v)| (i, v)).collect();
                    assert_eq!(got, want);
                }
            }
            assert_eq!(tree.len(), model.len());
        }
    }
}
