//! Edits of ranges: insert, remove, modify, with splits and merges.

use core::ops::Range;

use crate::count::{CountRule, fits};
use crate::set::{Pos, Removed, VmaSet};
use crate::{Attr, Refused, Vma};

/// A removal that has been checked and cannot fail any more.
#[derive(Debug)]
#[must_use = "nothing is removed before the plan is committed"]
pub struct RemovePlan<A> {
    range: Range<u64>,
    /// With room for what goes away.
    removed: Removed<A>,
}

impl<A: Attr> VmaSet<A> {
    /// Adds a VMA over the free `range`, merging it with its neighbours where attributes allow.
    ///
    /// The count limit is the caller's affair ([`CountRule::Map`]). `Memory`: nothing changed.
    pub fn insert(&mut self, range: Range<u64>, attr: A) -> Result<(), Refused> {
        self.insert_apart(range, attr, u64::MAX)
    }

    /// As [`insert`](Self::insert), but does not merge with the VMA that contains `apart`.
    pub fn insert_apart(&mut self, range: Range<u64>, attr: A, apart: u64) -> Result<(), Refused> {
        debug_assert!(self.is_free(range.clone()), "insert over a VMA");
        let pos = self.locate(range.start);
        let other = |pos: Pos| self.get(pos).is_some_and(|v| !v.contains(apart));
        let prev = self.prev_pos(pos).filter(|&p| other(p) && self.joins_below(p, range.start, &attr));
        let next = other(pos) && self.joins_above(&range, &attr, pos);
        match (prev, next) {
            (Some(prev), true) => {
                let end = self.get(pos).map_or(range.end, |v| v.end);
                self.attr_mut(prev).absorb(&attr);
                self.absorb_out(pos, self.next_pos(pos), prev);
                self.set_end(prev, end);
            }
            (Some(prev), false) => {
                self.attr_mut(prev).absorb(&attr);
                self.set_end(prev, range.end);
            }
            (None, true) => {
                self.set_start(pos, range.start);
                self.replace(pos, attr);
            }
            (None, false) => {
                self.reserve(range.clone(), range.clone())?;
                self.insert_before(pos, Vma { start: range.start, end: range.end, attr });
            }
        }
        Ok(())
    }

    /// `Cut`: the VMA around `at` cannot be cut there.
    fn check_cut(&self, at: u64) -> Result<(), Refused> {
        let fits = self.at(at).is_none_or(|v| v.start == at || v.attr.can_cut(at - v.start));
        if fits { Ok(()) } else { Err(Refused::Cut) }
    }

    /// Asks whether [`remove`](Self::remove) of `range` would pass the count limit or cut where it cannot, without
    /// changing anything.
    pub fn check_remove(&self, range: Range<u64>, limit: usize) -> Result<(), Refused> {
        self.check_cut(range.start)?;
        self.check_cut(range.end)?;
        let cuts = self.at(range.start).is_some_and(|v| v.start < range.start && v.end > range.end);
        if cuts && !fits(CountRule::CutMiddle, self.len(), limit) { Err(Refused::Count) } else { Ok(()) }
    }

    /// Checks the limit and takes the memory for [`commit_remove`](Self::commit_remove) of `range`.
    pub fn plan_remove(&mut self, range: Range<u64>, limit: usize) -> Result<RemovePlan<A>, Refused> {
        self.check_remove(range.clone(), limit)?;
        let mut removed = Removed::new();
        let pos = self.locate(range.start);
        if self.get(pos).is_some_and(|v| v.start < range.start && v.end > range.end) {
            self.reserve(range.clone(), range.clone())?;
        } else {
            let whole = self.count_whole(pos, &range);
            if whole > removed.inline_size() {
                removed.try_reserve_exact(whole).map_err(|_| Refused::Memory)?;
            }
        }
        Ok(RemovePlan { range, removed })
    }

    /// Removes every byte of the planned range; holes are skipped. Gives the VMAs that went away as a whole.
    ///
    /// The set must not have changed since the plan was made.
    ///
    /// ```text
    /// cut    AAAAAA -> AA..AA      trim   AAAA.. -> AA....      whole  .AABB. -> ......
    /// ```
    pub fn commit_remove(&mut self, plan: RemovePlan<A>) -> Removed<A> {
        let RemovePlan { range, mut removed } = plan;
        let mut pos = self.locate(range.start);
        let Some(v) = self.get(pos).filter(|v| v.start < range.end) else { return removed };
        if v.start < range.start && v.end > range.end {
            self.cut_middle(pos, &range);
            return removed;
        }
        if v.start < range.start {
            self.set_end(pos, range.start);
            pos = self.next_pos(pos);
        }
        let mut to = pos;
        while self.get(to).is_some_and(|v| v.end <= range.end) {
            to = self.next_pos(to);
        }
        if to != pos {
            pos = self.take_out(pos, to, |v| removed.push(v));
        }
        if let Some(start) = self.get(pos).map(|v| v.start).filter(|&s| s < range.end) {
            self.attr_mut(pos).advance(range.end - start);
            self.set_start(pos, range.end);
        }
        removed
    }

    /// [`plan_remove`](Self::plan_remove) and [`commit_remove`](Self::commit_remove) in one step.
    pub fn remove(&mut self, range: Range<u64>, limit: usize) -> Result<Removed<A>, Refused> {
        let plan = self.plan_remove(range, limit)?;
        Ok(self.commit_remove(plan))
    }

    /// How many VMAs from `pos` on lie wholly inside `range`.
    fn count_whole(&self, mut pos: Pos, range: &Range<u64>) -> usize {
        let mut n = 0;
        while let Some(v) = self.get(pos) {
            if v.end > range.end {
                break;
            }
            n += usize::from(v.start >= range.start);
            pos = self.next_pos(pos);
        }
        n
    }

    /// Makes `AA..AA` of `AAAAAA`; memory was reserved.
    fn cut_middle(&mut self, pos: Pos, hole: &Range<u64>) {
        let Some(v) = self.get(pos) else { return };
        let (start, end) = (v.start, v.end);
        let mut attr = v.attr.clone();
        attr.advance(hole.end - start);
        self.set_end(pos, hole.start);
        let next = self.next_pos(pos);
        self.insert_before(next, Vma { start: hole.end, end, attr });
    }

    /// Cuts the VMA around `at` in two that touch there; does nothing at a border or in a hole.
    ///
    /// `Count`: the count has reached `limit` ([`CountRule::Split`]). `Memory`: no memory. `Cut`: not there. Nothing
    /// changed then.
    pub fn split(&mut self, at: u64, limit: usize) -> Result<(), Refused> {
        let pos = self.locate(at);
        if self.get(pos).is_none_or(|v| v.start >= at) {
            return Ok(());
        }
        self.check_cut(at)?;
        if !fits(CountRule::Split, self.len(), limit) {
            return Err(Refused::Count);
        }
        self.reserve(at..at, at..at)?;
        self.cut_middle(pos, &(at..at));
        Ok(())
    }

    /// Gives the attributes `attr` to `part` of the VMA that holds it, with the fewest splits.
    ///
    /// `part` must lie inside one VMA, and `attr` be right for an area that starts at `part.start` and
    /// differ from what is there. Merges are tried first and need no room; each remaining split is refused
    /// when the count has reached `limit` ([`CountRule::Split`]).
    ///
    /// ```text
    /// AAAABB -> ABBBBB   the border moves        AAAA -> AABB   +1        AAAA -> ABBA   +2
    /// ```
    ///
    /// As on Linux, a refused second split leaves the first in place: `A|AAA`, two VMAs that could be one.
    pub fn modify(&mut self, part: Range<u64>, attr: A, limit: usize) -> Result<(), Refused> {
        let pos = self.locate(part.start);
        let Some(v) = self.get(pos).filter(|v| v.start <= part.start && v.end >= part.end) else {
            debug_assert!(false, "modify outside a VMA");
            return Ok(());
        };
        let whole = v.start..v.end;
        let (at_start, at_end) = (whole.start == part.start, whole.end == part.end);
        let prev = self.prev_pos(pos).filter(|&p| at_start && self.joins_below(p, part.start, &attr));
        let next = at_end && self.joins_above(&part, &attr, self.next_pos(pos));
        if prev.is_some() || next {
            self.merge(pos, prev, next, part, whole, attr);
            return Ok(());
        }
        self.split(part.start, limit)?;
        self.split(part.end, limit)?;
        let pos = self.locate(part.start);
        *self.attr_mut(pos) = attr;
        Ok(())
    }

    /// As [`modify`](Self::modify), but merges with nothing: `part` becomes a VMA of its own.
    pub fn modify_apart(&mut self, part: Range<u64>, attr: A, limit: usize) -> Result<(), Refused> {
        self.split(part.start, limit)?;
        self.split(part.end, limit)?;
        let pos = self.locate(part.start);
        if self.get(pos).is_some_and(|v| v.start == part.start && v.end == part.end) {
            *self.attr_mut(pos) = attr;
        }
        Ok(())
    }

    /// The half of [`modify`](Self::modify) that moves borders: `prev` takes `part`, or what follows it does.
    fn merge(
        &mut self,
        pos: Pos,
        prev: Option<Pos>,
        next: bool,
        part: Range<u64>,
        whole: Range<u64>,
        attr: A,
    ) {
        let next_pos = self.next_pos(pos);
        let is_whole = whole == part;
        match (prev, next) {
            (Some(prev), true) => {
                let end = self.get(next_pos).map_or(part.end, |v| v.end);
                self.absorb_out(pos, self.next_pos(next_pos), prev);
                self.attr_mut(prev).absorb(&attr);
                self.set_end(prev, end);
            }
            (Some(prev), false) if is_whole => {
                self.absorb_out(pos, next_pos, prev);
                self.attr_mut(prev).absorb(&attr);
                self.set_end(prev, part.end);
            }
            (Some(prev), false) => {
                self.attr_mut(pos).advance(part.end - whole.start);
                self.set_start(pos, part.end);
                self.attr_mut(prev).absorb(&attr);
                self.set_end(prev, part.end);
            }
            (None, _) if is_whole => {
                let pos = self.take_out(pos, next_pos, drop);
                self.set_start(pos, part.start);
                self.replace(pos, attr);
            }
            (None, _) => {
                self.set_end(pos, part.start);
                self.set_start(next_pos, part.start);
                self.replace(next_pos, attr);
            }
        }
    }

    /// Takes out the VMAs `from..to`, which follow `into` and become part of it.
    fn absorb_out(&mut self, from: Pos, to: Pos, into: Pos) {
        let mut gone = Removed::new();
        self.take_out(from, to, |v| gone.push(v));
        for v in gone {
            self.attr_mut(into).absorb(&v.attr);
        }
    }

    /// Gives the VMA at `pos` new attributes that take over from its old ones.
    fn replace(&mut self, pos: Pos, attr: A) {
        let old = core::mem::replace(self.attr_mut(pos), attr);
        self.attr_mut(pos).absorb(&old);
    }

    /// Whether the VMA at `pos` ends at `at` and merges with `attr` behind it.
    fn joins_below(&self, pos: Pos, at: u64, attr: &A) -> bool {
        self.get(pos).is_some_and(|v| v.end == at && v.attr.merges(v.len(), attr))
    }

    /// Whether the VMA at `pos` starts at the end of `range` and merges with `attr` in front of it.
    fn joins_above(&self, range: &Range<u64>, attr: &A, pos: Pos) -> bool {
        self.get(pos).is_some_and(|v| v.start == range.end && attr.merges(range.end - range.start, &v.attr))
    }
}
