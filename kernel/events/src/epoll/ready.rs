//! What a notification reaches: the items of one epoll set and its list of those that may be ready.
//!
//! A notification comes with interrupts off under a wait queue's lock. It allocates nothing: the list always has room
//! for every item, and an item is in it at most once.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};

use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::sync::{IrqLock, SpinLock};
use limits::Charge;
use sched::{Observer, ObserverHandle, WaitQueue};
use smallvec::SmallVec;
use vfs::File;

/// Bits of an item's mask that are no events.
pub(super) const PRIVATE: PollEvents =
    PollEvents::WAKEUP.union(PollEvents::ONESHOT).union(PollEvents::ET).union(PollEvents::EXCLUSIVE);

/// One descriptor in a set.
pub(super) struct Item {
    /// The open file description and the descriptor by which it was added.
    pub(super) key: (u64, i32),
    pub(super) file: Weak<File>,
    /// Events asked for, with the private bits.
    events: AtomicU32,
    /// The user's value.
    data: SpinLock<u64>,
    pub(super) handles: SpinLock<SmallVec<[ObserverHandle; 2]>>,
    /// Guarded by the list's lock.
    place: IrqLock<Place>,
    me: Weak<Item>,
    ready: Arc<Ready>,
    _charge: Charge,
}

/// Where an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Idle,
    Listed,
    /// Removed from the set: never to be listed again.
    Gone,
}

impl Item {
    pub(super) fn new(
        key: (u64, i32),
        file: &Arc<File>,
        events: PollEvents,
        data: u64,
        (ready, charge): (&Arc<Ready>, Charge),
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            key,
            file: Arc::downgrade(file),
            events: AtomicU32::new(events.bits()),
            data: SpinLock::new("events.epoll.data", data),
            handles: SpinLock::new("events.epoll.handles", SmallVec::new()),
            place: IrqLock::new("events.epoll.place", Place::Idle),
            me: me.clone(),
            ready: ready.clone(),
            _charge: charge,
        })
    }

    pub(super) fn events(&self) -> PollEvents {
        PollEvents::from_bits_retain(self.events.load(Relaxed))
    }

    pub(super) fn data(&self) -> u64 {
        *self.data.lock()
    }

    pub(super) fn modify(&self, events: PollEvents, data: u64) {
        *self.data.lock() = data;
        self.events.store(events.bits(), Relaxed);
    }

    /// Ends its reports until it is modified (`EPOLLONESHOT`).
    pub(super) fn disarm(&self) {
        self.events.fetch_and(PRIVATE.bits(), Relaxed);
    }

    /// Stops observing and leaves the list for good. Not under the lock of any wait queue.
    pub(super) fn detach(&self) {
        let handles = core::mem::take(&mut *self.handles.lock());
        drop(handles);
        self.ready.remove(self);
    }
}

impl Observer for Item {
    fn notify(&self, events: u32) {
        let wanted = self.events() - PRIVATE;
        if wanted.bits() & events == 0 {
            return;
        }
        self.ready.add(self);
    }
}

/// The items that may be ready, and those who wait for them.
pub(super) struct Ready {
    list: IrqLock<VecDeque<Arc<Item>>>,
    /// The length of `list`, for looks without the lock. Those who wait look after they have queued, and the lock of
    /// the wait queue orders that against the wake-up after an item was listed.
    count: AtomicUsize,
    /// Threads in epoll_wait(2).
    pub(super) wait: WaitQueue,
    /// Those who poll the set itself.
    pub(super) poll_wait: WaitQueue,
}

impl Ready {
    #[inline]
    pub(super) fn new() -> Self {
        Self {
            list: IrqLock::new("events.epoll.ready", VecDeque::new()),
            count: AtomicUsize::new(0),
            wait: WaitQueue::new(),
            poll_wait: WaitQueue::new(),
        }
    }

    /// Makes room for `count` items. `ENOMEM`.
    pub(super) fn reserve(&self, count: usize) -> Result<()> {
        if self.list.lock().capacity() >= count {
            return Ok(());
        }
        let mut bigger = VecDeque::new();
        bigger.try_reserve(count.next_power_of_two().max(8)).map_err(|_| Errno::ENOMEM)?;
        let mut list = self.list.lock();
        // Filled while interrupts are off, but into memory that is there.
        bigger.extend(list.drain(..));
        core::mem::swap(&mut *list, &mut bigger);
        drop(list);
        Ok(())
    }

    /// Lists `item` unless it is listed or gone, and wakes whoever waits.
    pub(super) fn add(&self, item: &Item) {
        if self.push(item) {
            self.wake();
        }
    }

    pub(super) fn wake(&self) {
        self.wait.wake(u32::MAX, 1);
        self.poll_wait.wake_events((PollEvents::IN | PollEvents::RDNORM).bits());
    }

    /// Lists `item` at the end; gives whether it was not listed before.
    pub(super) fn push(&self, item: &Item) -> bool {
        let mut list = self.list.lock();
        let mut place = item.place.lock();
        if *place != Place::Idle {
            return false;
        }
        let Some(item) = item.me.upgrade() else { return false };
        *place = Place::Listed;
        drop(place);
        list.push_back(item);
        self.count.store(list.len(), Release);
        true
    }

    /// Lists an item that was just taken at the end again.
    pub(super) fn relist(&self, item: Arc<Item>) {
        let mut list = self.list.lock();
        let mut place = item.place.lock();
        if *place == Place::Idle {
            *place = Place::Listed;
            drop(place);
            list.push_back(item);
            self.count.store(list.len(), Release);
        } else {
            drop(place);
            // Perhaps the last reference.
            drop(list);
        }
    }

    /// Puts an item back that was just taken and not used up.
    pub(super) fn unpop(&self, item: &Arc<Item>) {
        let mut list = self.list.lock();
        let mut place = item.place.lock();
        if *place == Place::Idle {
            *place = Place::Listed;
            list.push_front(item.clone());
            self.count.store(list.len(), Release);
        }
    }

    /// Takes the first item.
    pub(super) fn pop(&self) -> Option<Arc<Item>> {
        let mut list = self.list.lock();
        let item = list.pop_front()?;
        self.count.store(list.len(), Release);
        let mut place = item.place.lock();
        if *place == Place::Listed {
            *place = Place::Idle;
        }
        drop(place);
        Some(item)
    }

    /// Takes `item` out for good.
    fn remove(&self, item: &Item) {
        let mut list = self.list.lock();
        let was = core::mem::replace(&mut *item.place.lock(), Place::Gone);
        let listed = if was == Place::Listed {
            list.iter().position(|other| core::ptr::eq(&**other, item)).and_then(|at| list.remove(at))
        } else {
            None
        };
        self.count.store(list.len(), Release);
        drop(list);
        drop(listed);
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Acquire)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
