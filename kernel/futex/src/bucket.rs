//! The hash table of waiters.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use hal::sync::{SpinLock, SpinLockGuard};
use sched::WaitQueue;

use crate::key::Key;

/// Number of buckets, a power of two.
const NR_BUCKETS: usize = 256;

/// A thread that waits on one word.
pub(crate) struct Waiter {
    pub queue: WaitQueue,
    /// Set by the waker after it took the waiter out of its bucket.
    pub woken: AtomicBool,
    /// Index of the bucket that lists it; changes under the locks of both buckets.
    pub bucket: AtomicUsize,
    /// When a thread waits on several words: the waiter whose queue it sleeps in.
    pub group: Option<Arc<Waiter>>,
}

impl Waiter {
    /// A waiter that will be listed in the bucket `index`.
    #[inline]
    pub fn new(index: usize, group: Option<Arc<Waiter>>) -> Arc<Self> {
        Arc::new(Self {
            queue: WaitQueue::new(),
            woken: AtomicBool::new(false),
            bucket: AtomicUsize::new(index),
            group,
        })
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

static BUCKETS: [Bucket; NR_BUCKETS] =
    [const { Bucket { nr: AtomicUsize::new(0), list: SpinLock::new("futex.bucket", Vec::new()) } };
        NR_BUCKETS];

/// The index of the bucket of `key`.
pub(crate) fn index(key: &Key) -> usize {
    key.hash() % NR_BUCKETS
}

/// The bucket with an index that [`index`] gave.
pub(crate) fn at(index: usize) -> &'static Bucket {
    &BUCKETS[index % NR_BUCKETS]
}

impl Bucket {
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
        self.nr.load(Ordering::Relaxed) == 0
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

/// Whether somebody waits on the word of `key`.
pub(crate) fn has_waiter(key: &Key) -> bool {
    let bucket = at(index(key));
    !bucket.is_empty() && bucket.lock().iter().any(|entry| entry.key == *key)
}

/// Takes `waiter` out of the bucket it is in; `false` when a waker has done so already.
pub(crate) fn unqueue(waiter: &Arc<Waiter>) -> bool {
    loop {
        let index = waiter.bucket.load(Ordering::Acquire);
        let bucket = at(index);
        let mut list = bucket.lock();
        if waiter.bucket.load(Ordering::Acquire) != index {
            // Requeued meanwhile.
            continue;
        }
        let Some(place) = list.iter().position(|e| Arc::ptr_eq(&e.waiter, waiter)) else { return false };
        let entry = list.remove(place);
        bucket.leave(1);
        drop(list);
        drop(entry);
        return true;
    }
}

/// The two locks of a requeue, taken in the order of their index.
pub(crate) struct Pair<'a> {
    pub first: List<'a>,
    /// `None`: the same bucket.
    pub second: Option<List<'a>>,
}

/// Locks the buckets `a` and `b`.
pub(crate) fn lock_pair(a: usize, b: usize) -> Pair<'static> {
    if a == b {
        return Pair { first: at(a).lock(), second: None };
    }
    if a < b {
        let first = at(a).lock();
        return Pair { first, second: Some(at(b).lock()) };
    }
    let second = at(b).lock();
    Pair { first: at(a).lock(), second: Some(second) }
}
