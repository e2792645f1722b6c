//! Ids in a circle: each new one is the next free after the last, so that an id is reused as late as possible.

use crate::{IdMap, NoId};

/// Hands out ids of `1..end`, going round.
///
/// After the first wrap, ids below `reserved` are skipped (Linux: `RESERVED_PIDS`), so that the early
/// system processes keep small numbers to themselves.
#[derive(Debug)]
pub struct Cyclic {
    used: IdMap,
    next: u32,
    reserved: u32,
}

impl Cyclic {
    /// Starts at 1; later rounds start at `reserved`.
    pub const fn new(reserved: u32) -> Self {
        Self { used: IdMap::new(), next: 1, reserved }
    }

    /// Takes the next free id below `end`.
    pub fn alloc(&mut self, end: u32) -> Result<u32, NoId> {
        let start = if self.next >= end { self.reserved.min(end) } else { self.next };
        let round_start = if self.next > self.reserved { self.reserved } else { 1 };
        let id = self
            .used
            .first_free(start.max(1), end)
            .or_else(|| self.used.first_free(round_start, start))
            .ok_or(NoId::Full)?;
        self.used.insert(id)?;
        self.next = id.saturating_add(1);
        Ok(id)
    }

    /// Takes exactly `id`; true when it was free. The circle goes on where it was.
    pub fn take(&mut self, id: u32) -> Result<bool, NoId> {
        self.used.insert(id)
    }

    /// Gives `id` back.
    pub fn free(&mut self, id: u32) {
        self.used.remove(id);
    }

    /// The last id handed out (/proc/loadavg's last field), or 0.
    #[inline]
    pub fn last(&self) -> u32 {
        self.next - 1
    }

    /// How many ids are in use.
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether no id is in use.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    /// The lowest used id from `from` on.
    pub fn next_used(&self, from: u32) -> Option<u32> {
        self.used.next_used(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_not_reused_before_a_full_round() {
        let mut pids = Cyclic::new(3);
        assert_eq!((1..6).map(|_| pids.alloc(6).unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(pids.alloc(6), Err(NoId::Full));
        pids.free(1);
        assert_eq!(pids.alloc(6), Err(NoId::Full), "1 is reserved after the wrap");
        pids.free(4);
        pids.free(3);
        assert_eq!(pids.alloc(6), Ok(3));
        pids.free(3);
        assert_eq!(pids.alloc(6), Ok(4), "3 was just given back");
        assert_eq!(pids.alloc(6), Ok(3));
    }

    #[test]
    fn a_chosen_id_leaves_the_circle_alone() {
        let mut pids = Cyclic::new(300);
        assert_eq!(pids.take(2), Ok(true));
        assert_eq!(pids.take(2), Ok(false));
        assert_eq!(pids.alloc(100), Ok(1));
        assert_eq!(pids.alloc(100), Ok(3));
        assert_eq!(pids.last(), 3);
    }

    #[test]
    fn a_lowered_limit_wraps_at_once() {
        let mut pids = Cyclic::new(2);
        (0..50).for_each(|_| assert!(pids.alloc(1000).is_ok()));
        pids.free(7);
        assert_eq!(pids.alloc(20), Ok(7));
        assert_eq!(pids.alloc(20), Err(NoId::Full));
    }
}
