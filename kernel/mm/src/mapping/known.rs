//! Lists of the page caches of a kind, for those who walk all of them.
//!
//! A list holds weak references, so a page cache that goes tells nobody. Dead ones are thrown out when the list would grow.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use hal::sync::SpinLock;

use super::Mapping;

/// A list, and the place at which a round trip of [`turn`](Self::turn) goes on. Its lock is a leaf.
pub(super) struct Known {
    list: SpinLock<Vec<Weak<Mapping>>>,
    hand: AtomicUsize,
}

impl Known {
    /// An empty list, whose lock is called `name`.
    pub const fn new(name: &'static str) -> Self {
        Self { list: SpinLock::new(name, Vec::new()), hand: AtomicUsize::new(0) }
    }

    /// Adds `mapping`; `false`: there is no memory for that.
    pub fn add(&self, mapping: &Arc<Mapping>) -> bool {
        let mut list = self.list.lock();
        if list.len() == list.capacity() {
            list.retain(|known| known.strong_count() > 0);
            // So much that the next round of this is worth its time.
            let room = list.len() / 2 + 1;
            if list.try_reserve(room).is_err() {
                return false;
            }
        }
        list.push(Arc::downgrade(mapping));
        true
    }

    /// Calls `visit` for each that lives.
    pub fn for_each(&self, mut visit: impl FnMut(&Arc<Mapping>)) {
        let mut at = 0;
        loop {
            let mapping = match self.list.lock().get(at) {
                None => return,
                Some(known) => known.upgrade(),
            };
            if let Some(mapping) = mapping {
                visit(&mapping);
            }
            at += 1;
        }
    }

    /// Has `free` free up to `wanted` pages of one after the other, from where the last call ended on, each twice at most;
    /// how many it freed. One that freed all that was wanted is the first of the next call.
    pub fn turn(&self, wanted: usize, mut free: impl FnMut(&Arc<Mapping>, usize) -> usize) -> usize {
        let (mut freed, mut left) = (0, 2 * self.list.lock().len());
        while freed < wanted && left > 0 {
            left -= 1;
            let at = self.hand.load(Relaxed);
            let known = self.list.lock().get(at).map(Weak::upgrade);
            let Some(known) = known else {
                self.hand.store(0, Relaxed);
                continue;
            };
            if let Some(mapping) = known {
                freed += free(&mapping, wanted - freed);
            }
            if freed < wanted {
                self.hand.store(at + 1, Relaxed);
            }
        }
        freed
    }
}
