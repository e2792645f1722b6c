//! The fair queue of one CPU: earliest eligible virtual deadline first.
//!
//! Each thread has a virtual runtime that advances at `1024 / weight` of real time while it runs. The
//! weighted average `V` of all is where an ideal machine would have each of them; `V - v` is a thread's lag,
//! the service it is owed. A thread with lag >= 0 is *eligible*. Among the eligible, the one whose virtual
//! deadline (`v` at the start of its slice plus the slice's virtual length) is earliest runs.
//!
//! ```text
//!        A owed service      B had too much
//!   ─────vA───────V──────────vB───────▶ virtual time       A and C may run; C has the earlier deadline
//!          vC──┤dC      ├dA
//! ```
//!
//! Waiting threads lie in a tree by deadline that knows the smallest `v` of each part ([`tree`]), so that choosing
//! one takes logarithmic time.
//!
//! A pure type: it knows no CPU, lock or clock, so it is tested on the host.
//!
//! # Invariants (`check_invariants`)
//!
//! - E1: `sum_w` and `sum_wv` are the sums of `w` and `w * (v - base)` over all entities, the current one too.
//! - E2: some entity is eligible whenever there is one (the one with the smallest `v` is).
//!
//! Sources: Stoica and Abdel-Wahab, "Earliest Eligible Virtual Deadline First" (1995); sched-eevdf.rst of
//! the kernel documentation for the handling of lag across sleeps.

mod tree;

use crate::policy::NICE_0_WEIGHT;
use tree::Tree;

/// A thread's part in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entity {
    vruntime: u64,
    deadline: u64,
    /// Virtual length of a slice.
    slice: u64,
    weight: u32,
}

impl Entity {
    /// Its share of the CPU relative to others.
    pub fn weight(&self) -> u32 {
        self.weight
    }
}

/// The most virtual time that a sleeper keeps as credit or debt, in slices.
const LAG_LIMIT_SLICES: u64 = 2;

/// `real` nanoseconds as virtual time of a thread with `weight`.
fn virtual_ns(real: u64, weight: u32) -> u64 {
    if weight == NICE_0_WEIGHT {
        return real;
    }
    (u128::from(real) * u128::from(NICE_0_WEIGHT) / u128::from(weight.max(1))) as u64
}

/// The runnable fair threads of one CPU; `T` identifies one.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: Tree<T>,
    current: Option<Entity>,
    /// Sums are relative to this point of virtual time, so that they stay small.
    base: u64,
    sum_w: i64,
    sum_wv: i128,
}

impl<T> Queue<T> {
    /// An empty queue.
    pub const fn new() -> Queue<T> {
        Queue { waiting: Tree::new(), current: None, base: 0, sum_w: 0, sum_wv: 0 }
    }

    /// Number of entities, the current one included.
    pub fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.current.is_some())
    }

    /// Is nothing runnable?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The waiting ones, in no order.
    pub fn waiting(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter().map(|(_, id)| id)
    }

    fn key(&self, vruntime: u64) -> i64 {
        vruntime.wrapping_sub(self.base) as i64
    }

    fn add(&mut self, entity: &Entity) {
        self.sum_w += i64::from(entity.weight);
        self.sum_wv += i128::from(self.key(entity.vruntime)) * i128::from(entity.weight);
    }

    fn sub(&mut self, entity: &Entity) {
        self.sum_w -= i64::from(entity.weight);
        self.sum_wv -= i128::from(self.key(entity.vruntime)) * i128::from(entity.weight);
    }

    /// The average `V`; moves `base` there.
    fn average(&mut self) -> u64 {
        if self.sum_w > 0 && self.sum_wv != 0 {
            let w = self.sum_w;
            let delta = match i64::try_from(self.sum_wv) {
                Ok(small) => small.div_euclid(w),
                Err(_) => self.sum_wv.div_euclid(i128::from(w)) as i64,
            };
            self.base = self.base.wrapping_add(delta as u64);
            self.sum_wv -= i128::from(delta) * i128::from(w);
        }
        self.base
    }

    fn is_eligible(&self, entity: &Entity) -> bool {
        i128::from(self.key(entity.vruntime)) * i128::from(self.sum_w) <= self.sum_wv
    }

    /// The entity of a thread that becomes runnable with `lag` (virtual time owed to it) left from before.
    ///
    /// Its arrival moves the average towards it, which would shrink the lag; so it is placed further away.
    pub fn place(&mut self, lag: i64, weight: u32, slice_ns: u64) -> Entity {
        let average = self.average();
        let slice = virtual_ns(slice_ns, weight).max(1);
        let limit = (slice * LAG_LIMIT_SLICES) as i64;
        let mut lag = lag.clamp(-limit, limit);
        if lag != 0 && self.sum_w > 0 {
            // Fits: a lag is at most two slices of the lightest thread, 2^31 ns.
            lag = lag.saturating_mul(self.sum_w + i64::from(weight)) / self.sum_w;
        }
        let vruntime = average.wrapping_sub(lag as u64);
        Entity { vruntime, deadline: vruntime.wrapping_add(slice), slice, weight }
    }

    /// Halves the first deadline of a new thread, so that it starts soon without gaining time.
    pub fn place_new(&mut self, weight: u32, slice_ns: u64) -> Entity {
        let mut entity = self.place(0, weight, slice_ns);
        entity.deadline = entity.vruntime.wrapping_add(entity.slice / 2);
        entity
    }

    /// Adds a waiting thread.
    pub fn enqueue(&mut self, entity: Entity, id: T) {
        self.add(&entity);
        self.waiting.insert(entity, id);
    }

    /// Makes `entity` the current one, which runs already. There must be no current one.
    pub fn enqueue_current(&mut self, entity: Entity) {
        debug_assert!(self.current.is_none());
        self.add(&entity);
        self.current = Some(entity);
    }

    /// Charges the current thread for `real_ns`. Returns `true` when its slice is over: others should run.
    pub fn account(&mut self, real_ns: u64) -> bool {
        let Some(mut entity) = self.current else { return false };
        let delta = virtual_ns(real_ns, entity.weight);
        entity.vruntime = entity.vruntime.wrapping_add(delta);
        self.sum_wv += i128::from(delta) * i128::from(entity.weight);
        let over = entity.vruntime.wrapping_sub(entity.deadline) as i64 >= 0;
        if over {
            entity.deadline = entity.vruntime.wrapping_add(entity.slice);
        }
        self.current = Some(entity);
        over && !self.waiting.is_empty()
    }

    /// Makes the best waiting thread the current one. There must be no current one.
    pub fn pick(&mut self) -> Option<T> {
        debug_assert!(self.current.is_none());
        // Not a call of `is_eligible`: the tree is borrowed.
        let (base, sum_w, sum_wv) = (self.base, i128::from(self.sum_w), self.sum_wv);
        let eligible = |vruntime: u64| i128::from(vruntime.wrapping_sub(base) as i64) * sum_w <= sum_wv;
        let (entity, id) = match self.waiting.len() {
            1 => self.waiting.take_earliest(|_| true)?,
            _ => self.waiting.take_earliest(eligible)?,
        };
        self.current = Some(entity);
        Some(id)
    }

    /// Puts the current thread back among the waiting.
    pub fn put_current(&mut self, id: T) {
        if let Some(entity) = self.current.take() {
            self.waiting.insert(entity, id);
        }
    }

    /// Takes the current thread out; returns its lag, to be kept until it comes back.
    pub fn remove_current(&mut self) -> i64 {
        let Some(entity) = self.current.take() else { return 0 };
        self.leave(&entity)
    }

    /// Takes a waiting thread out; returns its lag with it.
    pub fn remove(&mut self, is_it: impl Fn(&T) -> bool) -> Option<(i64, T)> {
        let (entity, id) = self.waiting.take_if(is_it)?;
        Some((self.leave(&entity), id))
    }

    fn leave(&mut self, entity: &Entity) -> i64 {
        let average = self.average();
        let limit = (entity.slice * LAG_LIMIT_SLICES) as i64;
        self.sub(entity);
        if self.sum_w == 0 {
            // The next one to come starts where this one stopped: virtual time never goes back.
            self.base = entity.vruntime;
            self.sum_wv = 0;
            return 0;
        }
        (average.wrapping_sub(entity.vruntime) as i64).clamp(-limit, limit)
    }

    /// Lets the current thread forfeit the rest of its slice (sched_yield(2)), so that others become eligible.
    pub fn yield_current(&mut self) {
        let Some(mut entity) = self.current else { return };
        if !self.waiting.is_empty() && self.is_eligible(&entity) {
            let forfeit = entity.deadline.wrapping_sub(entity.vruntime);
            entity.vruntime = entity.deadline;
            entity.deadline = entity.deadline.wrapping_add(entity.slice);
            self.sum_wv += i128::from(forfeit) * i128::from(entity.weight);
            self.current = Some(entity);
        }
    }

    /// Should the newcomer `entity` run instead of the current thread?
    pub fn preempts(&self, entity: &Entity) -> bool {
        match &self.current {
            None => true,
            Some(current) => {
                (entity.deadline.wrapping_sub(current.deadline) as i64) < 0 && self.is_eligible(entity)
            }
        }
    }

    /// Checks E1 and E2.
    ///
    /// # Panics
    ///
    /// When one is broken.
    pub fn check_invariants(&self) {
        self.waiting.check_invariants();
        let all = || self.waiting.iter().map(|(e, _)| e).chain(&self.current);
        assert_eq!(self.sum_w, all().map(|e| i64::from(e.weight)).sum::<i64>(), "E1");
        let sum: i128 = all().map(|e| i128::from(self.key(e.vruntime)) * i128::from(e.weight)).sum();
        assert_eq!(self.sum_wv, sum, "E1");
        assert!(self.is_empty() || all().any(|e| self.is_eligible(e)), "E2");
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue::new()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use proptest::prelude::*;

    const SLICE: u64 = 3_000_000;

    #[derive(Clone, Debug)]
    enum Step {
        Wake { weight: u32, lag: i64 },
        Run(u64),
        Sleep,
        Preempt,
        Yield,
        Leave(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (3u32..90_000, -20_000_000i64..20_000_000).prop_map(|(weight, lag)| Step::Wake { weight, lag }),
            (0u64..10_000_000).prop_map(Step::Run),
            Just(Step::Sleep),
            Just(Step::Preempt),
            Just(Step::Yield),
            (0usize..20).prop_map(Step::Leave),
        ]
    }

    proptest! {
        #[test]
        fn any_history_keeps_the_invariants(steps in proptest::collection::vec(step(), 1..200)) {
            let mut queue = Queue::new();
            let mut current = None;
            for (id, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Wake { weight, lag } => {
                        let entity = queue.place(lag, weight, SLICE);
                        queue.enqueue(entity, id);
                    }
                    Step::Run(ns) => {
                        queue.account(ns);
                    }
                    Step::Sleep => {
                        queue.remove_current();
                        current = None;
                    }
                    Step::Preempt => {
                        if let Some(id) = current.take() {
                            queue.put_current(id);
                        }
                    }
                    Step::Yield => queue.yield_current(),
                    Step::Leave(nth) => {
                        let victim = queue.waiting().nth(nth).copied();
                        if let Some(victim) = victim {
                            prop_assert!(queue.remove(|&id| id == victim).is_some());
                        }
                    }
                }
                queue.check_invariants();
                if current.is_none() {
                    let waited = !queue.is_empty();
                    current = queue.pick();
                    prop_assert_eq!(current.is_some(), waited);
                }
                queue.check_invariants();
            }
        }
    }

    /// Runs threads of the given weights that never sleep; returns what each got of `total` ticks.
    fn share_out(weights: &[u32], ticks: u64) -> Vec<u64> {
        let mut queue = Queue::new();
        let mut got = vec![0; weights.len()];
        for (id, &weight) in weights.iter().enumerate() {
            let entity = queue.place_new(weight, SLICE);
            queue.enqueue(entity, id);
        }
        let mut current = queue.pick();
        for _ in 0..ticks {
            let Some(id) = current else { break };
            got[id] += 1;
            if queue.account(1_000_000) {
                queue.put_current(id);
                current = queue.pick();
            }
        }
        got
    }

    #[test]
    fn equal_threads_share_equally() {
        let got = share_out(&[1024; 4], 4000);
        assert!(got.iter().all(|ticks| ticks.abs_diff(1000) <= 6), "{got:?}");
    }

    #[test]
    fn time_follows_weight() {
        let got = share_out(&[1024, 2048, 1024], 8000);
        assert!(got[1].abs_diff(4000) < 50 && got[0].abs_diff(2000) < 50, "{got:?}");
    }

    #[test]
    fn who_yields_goes_last() {
        let mut queue = Queue::new();
        for id in 0..3 {
            let entity = queue.place(0, 1024, SLICE);
            queue.enqueue(entity, id);
        }
        let mut order = Vec::new();
        for _ in 0..6 {
            let Some(id) = queue.pick() else { break };
            order.push(id);
            queue.yield_current();
            queue.put_current(id);
        }
        let mut first: Vec<_> = order[..3].to_vec();
        first.sort_unstable();
        assert_eq!(first, [0, 1, 2], "{order:?}");
    }

    #[test]
    fn a_sleeper_does_not_hoard_credit() {
        let mut queue = Queue::new();
        let hog = queue.place(0, 1024, SLICE);
        queue.enqueue(hog, 'h');
        assert_eq!(queue.pick(), Some('h'));
        queue.account(1_000_000_000);
        let back = queue.place(i64::MAX, 1024, SLICE);
        assert!(queue.base.wrapping_sub(back.vruntime) <= 4 * LAG_LIMIT_SLICES * SLICE);
    }
}
