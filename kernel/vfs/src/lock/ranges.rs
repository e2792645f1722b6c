//! The record locks on one file: a pure set of byte ranges with owners.
//!
//! # Invariants
//!
//! - L1: the ranges of one owner do not overlap, and two that touch differ in kind.
//! - L2: ranges of different owners overlap only if both are [`LockKind::Read`].
//!
//! Sources: fcntl(2) "Advisory record locking", POSIX.1-2024 fcntl().

use alloc::vec::Vec;

use abi::{Errno, Result};

/// Whom a lock belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockOwner {
    /// A process, by its file table: traditional POSIX locks.
    Table(u64),
    /// An open file description: `F_OFD_*` and flock(2) locks.
    File(u64),
}

/// Shared or exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Shared: any number may hold it.
    Read,
    /// Exclusive.
    Write,
}

/// The last byte that can be locked; a lock "to the end of the file" ends here.
pub const LAST: u64 = i64::MAX as u64;

/// A locked range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLock {
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive.
    pub last: u64,
    /// Shared or exclusive.
    pub kind: LockKind,
    /// Who holds it.
    pub owner: LockOwner,
    /// Process id to report; -1 for open file description locks.
    pub pid: i32,
}

impl RangeLock {
    fn overlaps(&self, other: &RangeLock) -> bool {
        self.start <= other.last && other.start <= self.last
    }

    fn conflicts(&self, other: &RangeLock) -> bool {
        self.owner != other.owner
            && self.overlaps(other)
            && (self.kind == LockKind::Write || other.kind == LockKind::Write)
    }
}

/// See the module's front page. Ordered by start.
#[derive(Default)]
pub(super) struct RangeSet(Vec<RangeLock>);

impl RangeSet {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &RangeLock> {
        self.0.iter()
    }

    /// The first lock in the way of `wanted`.
    pub(super) fn conflict(&self, wanted: &RangeLock) -> Option<&RangeLock> {
        self.0.iter().find(|lock| lock.conflicts(wanted))
    }

    /// Gives `lock.owner` exactly `lock` in its range; the caller has checked that nothing conflicts.
    ///
    /// `ENOLCK`: no memory; nothing has changed.
    pub(super) fn set(&mut self, mut lock: RangeLock) -> Result<()> {
        self.0.try_reserve(2).map_err(|_| Errno::ENOLCK)?;
        self.cut(&lock);
        // Touching ranges of one kind become one: at most one on either side.
        let (start, last) = (lock.start, lock.last);
        self.0.retain(|held| {
            let is_alike = held.owner == lock.owner && held.kind == lock.kind;
            if is_alike && held.last.checked_add(1) == Some(start) {
                lock.start = held.start;
                return false;
            }
            if is_alike && last.checked_add(1) == Some(held.start) {
                lock.last = held.last;
                return false;
            }
            true
        });
        self.insert(lock);
        Ok(())
    }

    /// Frees `range` of what its owner holds in it; gives whether there was anything.
    ///
    /// `ENOLCK`: no memory for the two halves of a split; nothing has changed.
    pub(super) fn clear(&mut self, range: &RangeLock) -> Result<bool> {
        self.0.try_reserve(1).map_err(|_| Errno::ENOLCK)?;
        Ok(self.cut(range))
    }

    /// Drops all locks of `owner`; gives whether there were any.
    pub(super) fn clear_owner(&mut self, owner: LockOwner) -> bool {
        let before = self.0.len();
        self.0.retain(|lock| lock.owner != owner);
        self.0.len() != before
    }

    /// Adds a lock in its place. There is room for it.
    fn insert(&mut self, lock: RangeLock) {
        let at = self.0.partition_point(|held| held.start < lock.start);
        self.0.insert(at, lock);
    }

    /// Removes the owner's part of `range`. Needs room for one more element.
    fn cut(&mut self, range: &RangeLock) -> bool {
        let mut found = false;
        // What is left behind the range; an owner's locks do not overlap, so at most one ends there.
        let mut rest = None;
        self.0.retain_mut(|lock| {
            if lock.owner != range.owner || !lock.overlaps(range) {
                return true;
            }
            found = true;
            if lock.last > range.last {
                rest = Some(RangeLock { start: range.last + 1, ..*lock });
            }
            let has_front = lock.start < range.start;
            if has_front {
                lock.last = range.start - 1;
            }
            has_front
        });
        if let Some(rest) = rest {
            self.insert(rest);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn lock(owner: u64, start: u64, last: u64, kind: LockKind) -> RangeLock {
        RangeLock { start, last, kind, owner: LockOwner::Table(owner), pid: owner as i32 }
    }

    // A letter a byte: r and w are shared and exclusive locks of owner 1.
    fn picture(set: &RangeSet, owner: u64) -> String {
        (0..10)
            .map(|at| {
                let held = set
                    .iter()
                    .find(|l| l.owner == LockOwner::Table(owner) && (l.start..=l.last).contains(&at));
                held.map_or('.', |l| if l.kind == LockKind::Read { 'r' } else { 'w' })
            })
            .collect()
    }

    #[test]
    fn a_lock_in_the_middle_splits_and_equal_neighbours_join() {
        let mut set = RangeSet::new();
        set.set(lock(1, 0, 9, LockKind::Read)).unwrap();
        set.set(lock(1, 3, 5, LockKind::Write)).unwrap();
        assert_eq!(picture(&set, 1), "rrrwwwrrrr");
        assert_eq!(set.iter().count(), 3);
        set.set(lock(1, 3, 5, LockKind::Read)).unwrap();
        assert_eq!(set.iter().count(), 1);
        set.clear(&lock(1, 4, 4, LockKind::Read)).unwrap();
        assert_eq!(picture(&set, 1), "rrrr.rrrrr");
    }

    #[test]
    fn readers_share_and_writers_do_not() {
        let mut set = RangeSet::new();
        set.set(lock(1, 0, 4, LockKind::Read)).unwrap();
        assert!(set.conflict(&lock(2, 4, 9, LockKind::Read)).is_none());
        assert!(set.conflict(&lock(2, 4, 9, LockKind::Write)).is_some());
        assert!(set.conflict(&lock(2, 5, 9, LockKind::Write)).is_none());
        assert!(set.conflict(&lock(1, 0, 9, LockKind::Write)).is_none());
    }

    #[test]
    fn random_edits_agree_with_one_byte_each() {
        let mut set = RangeSet::new();
        let mut model = [[None; 10]; 3];
        let mut seed = 3u32;
        let mut random = |below: u32| {
            seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            (seed >> 16) % below
        };
        for _ in 0..20_000 {
            let owner = random(3) as usize;
            let (a, b) = (random(10) as usize, random(10) as usize);
            let (start, last) = (a.min(b), a.max(b));
            let kind = [LockKind::Read, LockKind::Write][random(2) as usize];
            let wanted = lock(owner as u64, start as u64, last as u64, kind);
            if random(3) == 0 {
                set.clear(&wanted).unwrap();
                model[owner][start..=last].fill(None);
            } else {
                let free = (0..3).filter(|&other| other != owner).all(|other| {
                    model[other][start..=last]
                        .iter()
                        .flatten()
                        .all(|&held| held == 'r' && kind == LockKind::Read)
                });
                assert_eq!(set.conflict(&wanted).is_none(), free);
                if free {
                    set.set(wanted).unwrap();
                    model[owner][start..=last].fill(Some(if kind == LockKind::Read { 'r' } else { 'w' }));
                }
            }
            for (owner, bytes) in model.iter().enumerate() {
                let want: String = bytes.iter().map(|held| held.unwrap_or('.')).collect();
                assert_eq!(picture(&set, owner as u64), want);
            }
        }
    }

    #[test]
    fn thousands_of_locks_keep_their_order() {
        let mut set = RangeSet::new();
        for i in 0..5000u64 {
            let at = i * 7919 % 5000;
            set.set(lock(at % 3, 2 * at, 2 * at, LockKind::Write)).unwrap();
        }
        assert!(set.0.is_sorted_by_key(|lock| lock.start));
        assert_eq!(set.0.len(), 5000);
        set.set(lock(1, 0, u64::MAX, LockKind::Read)).unwrap();
        assert!(set.0.is_sorted_by_key(|lock| lock.start));
        assert_eq!(set.iter().filter(|held| held.owner == LockOwner::Table(1)).count(), 1);
    }
}
