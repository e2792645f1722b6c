//! The hash tables of waiters: one for all, and those that processes have of their own ([`crate::private`]).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use hal::rcu::{self, ReadGuard};
use hal::sync::{SpinLock, SpinLockGuard};
use mm::Mm;
use sched::WaitQueue;

use crate::key::{Key, Slot};
use crate::private::{self, Table};

/// Number of buckets of the table for all, a power of two.
pub(crate) const NR_BUCKETS: usize = 256;

/// A thread that waits on one word.
pub(crate) struct Waiter {
    pub queue: WaitQueue,
    /// Set by the waker after it took the waiter out of its bucket.
    pub woken: AtomicBool,
    /// [`Slot`] of its key, as a number; changes under the locks of both buckets.
    slot: AtomicUsize,
    /// When a thread waits on several words: the waiter whose queue it sleeps in.
    pub group: Option<Arc<Waiter>>,
}

impl Waiter {
    /// A waiter that will be listed where `slot` says.
    #[inline]
    pub fn new(slot: Slot, group: Option<Arc<Waiter>>) -> Arc<Self> {
        Arc::new(Self {
            queue: WaitQueue::new(),
            woken: AtomicBool::new(false),
            slot: AtomicUsize::new(slot.0),
            group,
        })
    }

    /// Where it is listed.
    pub fn slot(&self) -> Slot {
        Slot(self.slot.load(Ordering::Acquire))
    }

    /// It is about to be listed at `slot`. The locks of both buckets are held.
    pub fn set_slot(&self, slot: Slot) {
        self.slot.store(slot.0, Ordering::Release);
    }

    /// Whether a waker has taken it.
    pub fn is_woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }

    fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        self.queue.wake_all();
    }
}

/// An entry of a bucket.
pub(crate) struct Entry {
    pub key: Key,
    pub bitset: u32,
    pub waiter: Arc<Waiter>,
}

impl Entry {
    /// Lets the waiter go on; it was taken out of its bucket.
    pub fn wake(self) {
        self.waiter.wake();
        if let Some(group) = &self.waiter.group {
            group.wake();
        }
    }
}

/// The waiters whose keys have one hash.
pub(crate) struct Bucket {
    /// Threads that wait or are about to; at least the length of the list.
    nr: AtomicUsize,
    list: SpinLock<Vec<Entry>>,
}

pub(crate) type List<'a> = SpinLockGuard<'a, Vec<Entry>>;

/// The table for all: shared words, and private ones of processes without a table of their own.
pub(crate) static BUCKETS: [Bucket; NR_BUCKETS] = [const { Bucket::new() }; NR_BUCKETS];

/// The tables that an address space uses, for as long as a read guard lives.
pub(crate) struct Tables<'a> {
    mm: &'a Mm,
    own: Option<&'a Table>,
    guard: &'a ReadGuard,
}

impl<'a> Tables<'a> {
    /// The bucket of `slot`.
    pub fn bucket(&self, slot: Slot) -> &'a Bucket {
        match self.own {
            Some(table) if slot.is_private() => table.bucket(slot),
            _ => &BUCKETS[slot.hash() % NR_BUCKETS],
        }
    }

    /// Whether what is private is still listed in these tables: to be asked under a bucket's lock, or after it was found
    /// empty.
    pub fn is_current(&self) -> bool {
        let own = private::table(self.mm, self.guard).map(core::ptr::from_ref);
        own == self.own.map(core::ptr::from_ref)
    }
}

/// Calls `attempt` with the tables that `mm` uses, again when it gives `None` since others are used meanwhile.
///
/// `attempt` must not sleep. Between its calls this sleeps while waiters are brought from one table to another.
pub(crate) fn with_tables<R>(mm: &Mm, mut attempt: impl FnMut(&Tables<'_>) -> Option<R>) -> R {
    loop {
        let guard = rcu::read_lock();
        let own = private::table(mm, &guard);
        if !private::is_changing(mm)
            && let Some(result) = attempt(&Tables { mm, own, guard: &guard })
        {
            return result;
        }
        drop(guard);
        private::wait_for_change(mm);
    }
}

impl Bucket {
    /// A bucket without waiters.
    pub const fn new() -> Self {
        Self { nr: AtomicUsize::new(0), list: SpinLock::new("futex.bucket", Vec::new()) }
    }

    /// Announces a waiter (A of the crate's front page).
    pub fn enter(&self) {
        self.nr.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes `n` announcements back: of waiters that were taken out, or that do not wait after all.
    pub fn leave(&self, n: usize) {
        self.nr.fetch_sub(n, Ordering::Release);
    }

    /// Moves `n` announcements to `to`. Both locks are held.
    pub fn hand_over(&self, n: usize, to: &Bucket) {
        to.nr.fetch_add(n, Ordering::SeqCst);
        self.leave(n);
    }

    /// Whether nobody waits (B and D of the crate's front page).
    #[inline]
    pub fn is_empty(&self) -> bool {
        fence(Ordering::SeqCst);
        // Acquire pairs with the release in `leave`: who finds it empty sees that other tables are used.
        self.nr.load(Ordering::Acquire) == 0
    }

    /// Whether nobody waited at some moment after what the caller did before its last fence.
    pub fn looks_empty(&self) -> bool {
        self.nr.load(Ordering::Acquire) == 0
    }

    /// Locks the list.
    pub fn lock(&self) -> List<'_> {
        self.list.lock()
    }

    /// Takes out and wakes at most `max` waiters of `key` whose bitset meets `bitset`. Returns how many.
    pub fn wake_matching(&self, list: &mut Vec<Entry>, key: &Key, bitset: u32, max: usize) -> usize {
        let mut woken = 0;
        let mut at = 0;
        while woken < max
            && let Some(entry) = list.get(at)
        {
            if entry.bitset & bitset != 0 && entry.key == *key {
                list.remove(at).wake();
                woken += 1;
            } else {
                at += 1;
            }
        }
        self.leave(woken);
        woken
    }
}

/// Whether somebody of `mm` waits on the word of `key`.
pub(crate) fn has_waiter(mm: &Mm, key: &Key) -> bool {
    with_tables(mm, |tables| {
        let bucket = tables.bucket(key.slot());
        let found = !bucket.is_empty() && bucket.lock().iter().any(|entry| entry.key == *key);
        tables.is_current().then_some(found)
    })
}

/// Takes `waiter`, of the address space `mm`, out of the bucket it is in; `false` when a waker has done so already.
pub(crate) fn unqueue(mm: &Mm, waiter: &Arc<Waiter>) -> bool {
    let entry = with_tables(mm, |tables| {
        loop {
            let slot = waiter.slot();
            let bucket = tables.bucket(slot);
            let mut list = bucket.lock();
            if !tables.is_current() {
                return None;
            }
            if waiter.slot() != slot {
                // Requeued meanwhile.
                continue;
            }
            let Some(place) = list.iter().position(|e| Arc::ptr_eq(&e.waiter, waiter)) else {
                return Some(None);
            };
            bucket.leave(1);
            return Some(Some(list.remove(place)));
        }
    });
    entry.is_some()
}

/// The two locks of a requeue, taken in the order of their addresses.
pub(crate) struct Pair<'a> {
    pub first: List<'a>,
    /// `None`: the same bucket.
    pub second: Option<List<'a>>,
}

/// Locks the buckets `a` and `b`.
pub(crate) fn lock_pair<'a>(a: &'a Bucket, b: &'a Bucket) -> Pair<'a> {
    let (at_a, at_b) = (core::ptr::from_ref(a), core::ptr::from_ref(b));
    if at_a == at_b {
        return Pair { first: a.lock(), second: None };
    }
    if at_a < at_b {
        let first = a.lock();
        return Pair { first, second: Some(b.lock()) };
    }
    let second = b.lock();
    Pair { first: a.lock(), second: Some(second) }
}
