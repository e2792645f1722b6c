//! Shares of the pool: what one mount of hugetlbfs may have at most (`size`), and has for sure (`min_size`).
//!
//! `used` counts the mount's pages and promises. While it is below `min`, the rest of `min` is promised to the mount by
//! the pool (`kept`); what comes within it needs no promise of its own.
//!
//! A page remembers its share in its metadata (`owner`), so that whoever drops it last need not know of it.
//!
//! Lock: `mm.hugetlb.subpool`, interrupts off; taken before the pool's, never with it.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::sync::IrqLock;

use super::pool;

/// A share; see the file's head.
#[derive(Debug)]
pub struct Subpool {
    id: u64,
    /// `u64::MAX` for no limit.
    max: u64,
    min: u64,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    kept: u64,
    min: u64,
    is_closed: bool,
}

impl State {
    /// Counts `n` more; how many of them the pool must promise.
    fn get(&mut self, n: u64, max: u64) -> Option<u64> {
        let used = self.used.checked_add(n).filter(|used| *used <= max)?;
        self.used = used;
        let covered = n.min(self.kept);
        self.kept -= covered;
        Some(n - covered)
    }

    /// Counts `n` fewer; how many promises go back to the pool.
    fn put(&mut self, n: u64) -> u64 {
        self.used = self.used.saturating_sub(n);
        let wanted = self.min.saturating_sub(self.used).saturating_sub(self.kept).min(n);
        self.kept += wanted;
        n - wanted
    }
}

/// The states, at one less than the id; `None`: free.
static STATES: IrqLock<Vec<Option<State>>> = IrqLock::new("mm.hugetlb.subpool", Vec::new());

/// Uses the state of share `id`.
fn with<R>(id: u64, then: impl FnOnce(&mut State) -> R) -> Option<R> {
    let at = usize::try_from(id).ok()?.checked_sub(1)?;
    STATES.lock().get_mut(at)?.as_mut().map(then)
}

/// Forgets the state of share `id` when it is closed and nothing of it is in use; how many promises go back.
fn reap(id: u64) -> u64 {
    let Some(at) = usize::try_from(id).ok().and_then(|id| id.checked_sub(1)) else { return 0 };
    let mut states = STATES.lock();
    let Some(place) = states.get_mut(at) else { return 0 };
    let gone = place.take_if(|state| state.is_closed && state.used == 0);
    gone.map_or(0, |state| state.kept)
}

/// A page of share `id` is gone. Whether the promise of it stays with the share. Any context.
pub(super) fn page_gone(id: u64) -> bool {
    let stays = with(id, |state| state.put(1) == 0).unwrap_or(false);
    // The promise of the page itself is made after this, hence not among these.
    let back = reap(id);
    if back > 0 {
        pool::release(back - u64::from(stays));
        return false;
    }
    stays
}

impl Subpool {
    /// A share of at most `max` huge pages, `min` of which are promised to it. Sleeps. `ENOMEM`: there are not so many.
    pub fn new(max: Option<u64>, min: u64) -> Result<Arc<Self>> {
        pool::reserve(min)?;
        let state = State { kept: min, min, ..State::default() };
        let id = {
            let mut states = STATES.lock();
            let free = states.iter().position(Option::is_none);
            if let Some(at) = free {
                states[at] = Some(state);
                Some(at)
            } else if states.try_reserve(1).is_ok() {
                states.push(Some(state));
                Some(states.len() - 1)
            } else {
                None
            }
        };
        let Some(at) = id else {
            pool::release(min);
            return Err(Errno::ENOMEM);
        };
        Ok(Arc::new(Self { id: at as u64 + 1, max: max.unwrap_or(u64::MAX), min }))
    }

    /// The number that stands for it in pages.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Its limit in huge pages; `None` without one.
    pub fn max(&self) -> Option<u64> {
        (self.max != u64::MAX).then_some(self.max)
    }

    /// Huge pages that it has for sure.
    pub fn min(&self) -> u64 {
        self.min
    }

    /// Pages and promises.
    pub fn used(&self) -> u64 {
        with(self.id, |state| state.used).unwrap_or(0)
    }

    /// Counts `n` more; how many of them the pool must promise. `None`: the limit is reached.
    pub(super) fn get(&self, n: u64) -> Option<u64> {
        with(self.id, |state| state.get(n, self.max)).flatten()
    }

    /// Counts `n` fewer; how many promises go back to the pool.
    pub(super) fn put(&self, n: u64) -> u64 {
        with(self.id, |state| state.put(n)).unwrap_or(0)
    }
}

impl Drop for Subpool {
    fn drop(&mut self) {
        with(self.id, |state| state.is_closed = true);
        pool::release(reap(self.id));
    }
}

/// Promises `n` pages out of `share`, or of the pool. Sleeps. `ENOMEM`: there are not so many.
pub(super) fn charge(share: Option<&Arc<Subpool>>, n: u64) -> Result<()> {
    let Some(share) = share else { return pool::reserve(n) };
    let needed = share.get(n).ok_or(Errno::ENOMEM)?;
    pool::reserve(needed).inspect_err(|_| {
        let back = share.put(n);
        // What the share covered itself it has again.
        pool::release(back.saturating_sub(needed));
    })
}

/// Takes back promises that [`charge`] made.
pub(super) fn uncharge(share: Option<&Arc<Subpool>>, n: u64) {
    pool::release(share.map_or(n, |share| share.put(n)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_needs_no_promise() {
        let mut state = State { kept: 2, min: 2, ..State::default() };
        assert_eq!(state.get(3, 4), Some(1));
        assert_eq!(state.get(2, 4), None);
        assert_eq!((state.used, state.kept), (3, 0));
        assert_eq!(state.put(1), 1, "still at the minimum");
        assert_eq!(state.put(2), 0);
        assert_eq!((state.used, state.kept), (0, 2));
    }
}
