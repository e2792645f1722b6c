//! What a notification reaches: the items of one epoll set and its list of those that may be ready.
//!
//! A notification comes with interrupts off under a wait queue's lock. It allocates nothing: the list always has room
//! for every item, and an item is in it at most once.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

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
    data: AtomicU64,
    pub(super) handles: SpinLock<SmallVec<[ObserverHandle; 2]>>,
    /// A [`Place`]; looked at and changed under the list's lock only.
    place: AtomicU8,
    me: Weak<Item>,
    ready: Arc<Ready>,
    _charge: Charge,
}

/// Where an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
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
            data: AtomicU64::new(data),
            handles: SpinLock::new("events.epoll.handles", SmallVec::new()),
            place: AtomicU8::new(Place::Idle as u8),
            me: me.clone(),
            ready: ready.clone(),
            _charge: charge,
        })
    }

    pub(super) fn events(&self) -> PollEvents {
        PollEvents::from_bits_retain(self.events.load(Relaxed))
    }

    pub(super) fn data(&self) -> u64 {
        self.data.load(Relaxed)
    }

    pub(super) fn modify(&self, events: PollEvents, data: u64) {
        self.data.store(data, Relaxed);
        self.events.store(events.bits(), Relaxed);
    }

    /// Whether it is at `place`; the list is locked.
    #[inline]
    fn is_at(&self, place: Place) -> bool {
        self.place.load(Relaxed) == place as u8
    }

    /// Notes where it is; the list is locked.
    #[inline]
    fn put_at(&self, place: Place) {
        self.place.store(place as u8, Relaxed);
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
    /// The length of `list`, for looks without the lock. Those who wait look after they have queued, and the wait queue
    /// orders that against the wake-up after an item was listed.
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
        if !item.is_at(Place::Idle) {
            return false;
        }
        let Some(item) = item.me.upgrade() else { return false };
        item.put_at(Place::Listed);
        list.push_back(item);
        self.count.store(list.len(), Release);
        true
    }

    /// Lists an item that was just taken at the end again.
    pub(super) fn relist(&self, item: Arc<Item>) {
        let mut list = self.list.lock();
        if item.is_at(Place::Idle) {
            item.put_at(Place::Listed);
            list.push_back(item);
            self.count.store(list.len(), Release);
        } else {
            // Perhaps the last reference.
            drop(list);
        }
    }

    /// Puts an item back that was just taken and not used up.
    pub(super) fn unpop(&self, item: &Arc<Item>) {
        let mut list = self.list.lock();
        if item.is_at(Place::Idle) {
            item.put_at(Place::Listed);
            list.push_front(item.clone());
            self.count.store(list.len(), Release);
        }
    }

    /// Takes the first item.
    pub(super) fn pop(&self) -> Option<Arc<Item>> {
        let mut list = self.list.lock();
        let item = list.pop_front()?;
        self.count.store(list.len(), Release);
        if item.is_at(Place::Listed) {
            item.put_at(Place::Idle);
        }
        Some(item)
    }

    /// Takes `item` out for good.
    fn remove(&self, item: &Item) {
        let mut list = self.list.lock();
        let was_listed = item.is_at(Place::Listed);
        item.put_at(Place::Gone);
        let listed = if was_listed {
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
