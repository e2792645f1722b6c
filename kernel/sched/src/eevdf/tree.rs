//! The waiting entities of a fair queue, in the order of their deadlines, in logarithmic time.
//!
//! A treap (a search tree by deadline, a heap by random priority) in which every node also knows the smallest
//! virtual runtime below it. Whoever is eligible has a virtual runtime at or below the average, so the search for
//! the earliest deadline among the eligible follows one path:
//!
//! ```text
//!             d=20 v=9 (min 1)           average 4: is anyone to the left eligible (min 3)? then go there,
//!            /                \          else is this one (v=9)? else go right
//!     d=12 v=3 (min 3)    d=31 v=1
//!            \                           12 is: it is the earliest
//!         d=15 v=8
//! ```
//!
//! Nodes lie in an arena: taking one out frees its place for the next, so a queue that does not grow allocates
//! nothing.
//!
//! # Invariants (`check_invariants`)
//!
//! - T1: in order, (deadline, number of arrival) ascends; deadlines compare as points of wrapping virtual time.
//! - T2: no node has a higher priority than its parent.
//! - T3: `min` is the smallest virtual runtime in a node's subtree.
//! - T4: every place of the arena is in the tree or free, not both.

use alloc::vec::Vec;

use super::Entity;

/// The index of no node.
const NIL: u32 = u32::MAX;

#[derive(Debug)]
struct Node<T> {
    entity: Entity,
    /// `None`: the place is free.
    id: Option<T>,
    /// Who came first among equal deadlines.
    arrival: u64,
    priority: u32,
    left: u32,
    right: u32,
    min: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Tree<T> {
    nodes: Vec<Node<T>>,
    /// Head of the list of free places, linked by `left`.
    free: u32,
    root: u32,
    len: usize,
    arrivals: u64,
    seed: u32,
}

/// The earlier of two points of virtual time.
fn earlier(a: u64, b: u64) -> u64 {
    if (a.wrapping_sub(b) as i64) < 0 { a } else { b }
}

impl<T> Tree<T> {
    pub(super) const fn new() -> Tree<T> {
        Tree { nodes: Vec::new(), free: NIL, root: NIL, len: 0, arrivals: 0, seed: 0x9e37_79b9 }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Entity, &T)> {
        self.nodes.iter().filter_map(|node| node.id.as_ref().map(|id| (&node.entity, id)))
    }

    #[inline]
    fn node(&self, at: u32) -> &Node<T> {
        &self.nodes[at as usize]
    }

    #[inline]
    fn node_mut(&mut self, at: u32) -> &mut Node<T> {
        &mut self.nodes[at as usize]
    }

    /// Is node `a` before node `b`?
    fn is_before(&self, a: u32, b: u32) -> bool {
        let (a, b) = (self.node(a), self.node(b));
        match a.entity.deadline.wrapping_sub(b.entity.deadline) as i64 {
            0 => a.arrival < b.arrival,
            difference => difference < 0,
        }
    }

    /// Computes `min` of a node from its children's.
    fn update(&mut self, at: u32) {
        let node = self.node(at);
        let mut min = node.entity.vruntime;
        for child in [node.left, node.right] {
            if child != NIL {
                min = earlier(min, self.node(child).min);
            }
        }
        self.node_mut(at).min = min;
    }

    /// Adds an entity.
    pub(super) fn insert(&mut self, entity: Entity, id: T) {
        // Xorshift: priorities need to be unrelated to deadlines, no more.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 17;
        self.seed ^= self.seed << 5;
        let (arrival, priority) = (self.arrivals, self.seed);
        self.arrivals += 1;
        let new =
            Node { entity, id: Some(id), arrival, priority, left: NIL, right: NIL, min: entity.vruntime };
        let at = match self.free {
            NIL => {
                self.nodes.push(new);
                (self.nodes.len() - 1) as u32
            }
            place => {
                self.free = self.node(place).left;
                *self.node_mut(place) = new;
                place
            }
        };
        self.root = self.insert_below(self.root, at);
        self.len += 1;
    }

    /// Inserts node `new` into the subtree at `top`; gives the subtree's new top. Recursion is as deep as the tree,
    /// about twice the logarithm of its size.
    fn insert_below(&mut self, top: u32, new: u32) -> u32 {
        if top == NIL {
            return new;
        }
        if self.node(new).priority > self.node(top).priority {
            let (left, right) = self.split(top, new);
            let node = self.node_mut(new);
            (node.left, node.right) = (left, right);
            self.update(new);
            return new;
        }
        if self.is_before(new, top) {
            let left = self.insert_below(self.node(top).left, new);
            self.node_mut(top).left = left;
        } else {
            let right = self.insert_below(self.node(top).right, new);
            self.node_mut(top).right = right;
        }
        let min = earlier(self.node(top).min, self.node(new).entity.vruntime);
        self.node_mut(top).min = min;
        top
    }

    /// Divides the subtree at `top` into what is before node `pivot` and what is after it.
    fn split(&mut self, top: u32, pivot: u32) -> (u32, u32) {
        if top == NIL {
            return (NIL, NIL);
        }
        let parts = if self.is_before(top, pivot) {
            let (left, right) = self.split(self.node(top).right, pivot);
            self.node_mut(top).right = left;
            (top, right)
        } else {
            let (left, right) = self.split(self.node(top).left, pivot);
            self.node_mut(top).left = right;
            (left, top)
        };
        self.update(top);
        parts
    }

    /// Joins two subtrees, all of `a` being before all of `b`.
    fn merge(&mut self, a: u32, b: u32) -> u32 {
        if a == NIL || b == NIL {
            return if a == NIL { b } else { a };
        }
        let top = if self.node(a).priority >= self.node(b).priority {
            let right = self.merge(self.node(a).right, b);
            self.node_mut(a).right = right;
            a
        } else {
            let left = self.merge(a, self.node(b).left);
            self.node_mut(b).left = left;
            b
        };
        self.update(top);
        top
    }

    /// Takes the entity with the earliest deadline among those whose virtual runtime is `eligible`, which must be
    /// true of every runtime before one that it is true of.
    pub(super) fn take_earliest(&mut self, eligible: impl Fn(u64) -> bool) -> Option<(Entity, T)> {
        let mut at = self.root;
        while at != NIL {
            let node = self.node(at);
            if node.left != NIL && eligible(self.node(node.left).min) {
                at = node.left;
            } else if eligible(node.entity.vruntime) {
                break;
            } else {
                at = node.right;
            }
        }
        if at == NIL { None } else { self.take(at) }
    }

    /// Takes the first entity that `is_it`: a search through all.
    pub(super) fn take_if(&mut self, is_it: impl Fn(&T) -> bool) -> Option<(Entity, T)> {
        let at = self.nodes.iter().position(|node| node.id.as_ref().is_some_and(&is_it))?;
        self.take(at as u32)
    }

    /// Takes node `at` out.
    fn take(&mut self, at: u32) -> Option<(Entity, T)> {
        self.root = self.erase_below(self.root, at);
        self.len -= 1;
        let free = self.free;
        self.free = at;
        let node = self.node_mut(at);
        node.left = free;
        Some((node.entity, node.id.take()?))
    }

    /// Takes node `victim` out of the subtree at `top`; gives the subtree's new top.
    fn erase_below(&mut self, top: u32, victim: u32) -> u32 {
        if top == victim {
            let (left, right) = (self.node(top).left, self.node(top).right);
            return self.merge(left, right);
        }
        if self.is_before(victim, top) {
            let left = self.erase_below(self.node(top).left, victim);
            self.node_mut(top).left = left;
        } else {
            let right = self.erase_below(self.node(top).right, victim);
            self.node_mut(top).right = right;
        }
        self.update(top);
        top
    }

    /// Checks T1 to T4.
    ///
    /// # Panics
    ///
    /// When one is broken.
    pub(super) fn check_invariants(&self) {
        let mut in_order = Vec::new();
        self.check_below(self.root, u32::MAX, &mut in_order);
        assert!(in_order.windows(2).all(|pair| self.is_before(pair[0], pair[1])), "T1");
        let mut nr_free = 0;
        let mut at = self.free;
        while at != NIL {
            assert!(self.node(at).id.is_none(), "T4");
            nr_free += 1;
            at = self.node(at).left;
        }
        assert_eq!((in_order.len(), in_order.len() + nr_free), (self.len, self.nodes.len()), "T4");
    }

    fn check_below(&self, at: u32, priority: u32, in_order: &mut Vec<u32>) {
        if at == NIL {
            return;
        }
        let node = self.node(at);
        assert!(node.priority <= priority, "T2");
        assert!(node.id.is_some(), "T4");
        self.check_below(node.left, node.priority, in_order);
        in_order.push(at);
        self.check_below(node.right, node.priority, in_order);
        let below = [node.left, node.right].into_iter().filter(|&child| child != NIL);
        let min = below.map(|child| self.node(child).min).fold(node.entity.vruntime, earlier);
        assert_eq!(node.min, min, "T3");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entity(vruntime: u64, deadline: u64) -> Entity {
        Entity { vruntime, deadline, slice: 1, weight: 1024 }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert { vruntime: i32, deadline: i32 },
        Earliest { average: i32 },
        Remove { nth: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (-100i32..100, -50i32..50).prop_map(|(vruntime, deadline)| Step::Insert { vruntime, deadline }),
            2 => (-120i32..120).prop_map(|average| Step::Earliest { average }),
            1 => (0usize..30).prop_map(|nth| Step::Remove { nth }),
        ]
    }

    proptest! {
        /// Against a list in order of arrival, around the point where virtual time wraps.
        #[test]
        fn it_takes_what_a_search_through_a_list_takes(steps in proptest::collection::vec(step(), 1..300)) {
            let mut tree = Tree::new();
            let mut list: Vec<(Entity, usize)> = Vec::new();
            for (id, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert { vruntime, deadline } => {
                        let new = entity(vruntime as i64 as u64, deadline as i64 as u64);
                        tree.insert(new, id);
                        list.push((new, id));
                    }
                    Step::Earliest { average } => {
                        let eligible = |vruntime: u64| vruntime as i64 <= i64::from(average);
                        let best = list
                            .iter()
                            .enumerate()
                            .filter(|(_, (e, _))| eligible(e.vruntime))
                            .min_by_key(|(i, (e, _))| (e.deadline as i64, *i))
                            .map(|(i, _)| i);
                        prop_assert_eq!(tree.take_earliest(eligible), best.map(|i| list.remove(i)));
                    }
                    Step::Remove { nth } => {
                        let victim = list.get(nth).map(|&(_, id)| id);
                        let taken = tree.take_if(|&id| Some(id) == victim);
                        prop_assert_eq!(taken, victim.map(|_| list.remove(nth)));
                    }
                }
                tree.check_invariants();
                prop_assert_eq!(tree.len(), list.len());
            }
        }
    }

    #[test]
    fn it_stays_flat_when_deadlines_ascend() {
        let mut tree = Tree::new();
        for id in 0..4096 {
            tree.insert(entity(id, id), id);
        }
        fn depth<T>(tree: &Tree<T>, at: u32) -> usize {
            if at == NIL {
                return 0;
            }
            1 + depth(tree, tree.node(at).left).max(depth(tree, tree.node(at).right))
        }
        assert!(depth(&tree, tree.root) < 40, "{}", depth(&tree, tree.root));
        for id in 0..4096 {
            assert_eq!(tree.take_earliest(|_| true).map(|(_, id)| id), Some(id));
        }
    }
}
