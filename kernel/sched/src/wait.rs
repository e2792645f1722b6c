//! Wait queues: threads sleep until a condition holds, observers are told.
//!
//! ```text
//!   waiter                                     waker
//!   condition? no                              make the condition true
//!   enter the queue, bit d = 1                 lock queue, take entry out, bit d = 0, wake thread
//!   condition? no   (may sleep itself)
//!   state = asleep; bit d still 1? schedule()
//! ```
//! The bit, not the condition, is checked after the sleep state is set, so conditions may take sleeping
//! locks and even wait: such an inner wait uses the next bit.
//!
//! Most wake-ups find nobody, and take no lock then: [`WaiterCount`] says how that is told.
//!
//! Locks: a queue's lock, then run-queue locks. Nothing is allocated for up to two waiters.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hal::sync::{IrqLock, Once, WaiterCount};
use smallvec::SmallVec;

use crate::core_sched::{self, wake_states};
use crate::thread::{self, ASLEEP, Current, Interrupted, Interruptible, Thread};
use crate::timer::Alarm;

/// Deepest nesting of waits inside conditions.
const MAX_DEPTH: u32 = 64;

/// Why a wait with a deadline failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitError {
    /// A signal came first.
    Interrupted,
    /// The deadline passed first.
    TimedOut,
}

impl From<WaitError> for abi::Errno {
    #[inline]
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Interrupted => abi::Errno::ERESTARTSYS,
            WaitError::TimedOut => abi::Errno::ETIMEDOUT,
        }
    }
}

impl From<Interrupted> for WaitError {
    #[inline]
    fn from(_: Interrupted) -> Self {
        WaitError::Interrupted
    }
}

/// How a waiter shares wake-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Every wake-up wakes it.
    All,
    /// [`WaitQueue::wake_one`] wakes only one such waiter.
    Exclusive,
}

struct Entry {
    thread: Arc<Thread>,
    bit: u64,
    share: Share,
}

/// Told about events of a queue: poll, select and epoll are observers.
pub trait Observer: Send + Sync {
    /// Something happened: `events` are poll bits, or all ones when the waker did not say.
    ///
    /// Called with interrupts off under the queue's lock: must not sleep, nor add or drop observers.
    fn notify(&self, events: u32);
}

type ObserverList = IrqLock<Vec<(u64, Arc<dyn Observer>)>>;

/// A place where threads wait for something to happen.
pub struct WaitQueue {
    waiters: IrqLock<SmallVec<[Entry; 2]>>,
    /// The length of `waiters`, written under its lock.
    nr_waiters: WaiterCount,
    observers: Once<Arc<ObserverList>>,
}

static NEXT_OBSERVER: AtomicU64 = AtomicU64::new(0);

/// An observer's place in a queue; dropping it takes it out, and no notification comes afterwards.
pub struct ObserverHandle {
    list: Arc<ObserverList>,
    id: u64,
}

impl Drop for ObserverHandle {
    fn drop(&mut self) {
        let mut list = self.list.lock();
        // From the newest on: who observes for a moment, and who gives up many at once, is there.
        let gone = list.iter().rposition(|(id, _)| *id == self.id).map(|at| list.swap_remove(at));
        drop(list);
        drop(gone); // outside: it may be the last reference
    }
}

impl WaitQueue {
    /// An empty queue.
    #[inline]
    pub const fn new() -> WaitQueue {
        WaitQueue {
            waiters: IrqLock::new("sched.wait", SmallVec::new_const()),
            nr_waiters: WaiterCount::new(AtomicU32::new(0)),
            observers: Once::new(),
        }
    }

    /// Waits until `cond` gives a value; no signal ends the wait.
    pub fn wait<T>(&self, cond: impl FnMut() -> Option<T>) -> T {
        match self.wait_as(cond, None, Interruptible::No, Share::All) {
            Ok(value) => value,
            Err(_) => unreachable!("an uninterruptible wait without deadline has no other end"),
        }
    }

    /// Waits until `cond` gives a value or a signal is pending.
    pub fn wait_interruptible<T>(&self, cond: impl FnMut() -> Option<T>) -> Result<T, Interrupted> {
        self.wait_as(cond, None, Interruptible::Yes, Share::All).map_err(|_| Interrupted)
    }

    /// Waits until `cond` gives a value, a signal as `kind` says is pending, or the monotonic clock reaches
    /// `deadline_ns`. The condition wins over the others.
    pub fn wait_deadline<T>(
        &self,
        cond: impl FnMut() -> Option<T>,
        deadline_ns: Option<u64>,
        kind: Interruptible,
    ) -> Result<T, WaitError> {
        self.wait_as(cond, deadline_ns, kind, Share::All)
    }

    /// As [`WaitQueue::wait_deadline`]; [`WaitQueue::wake_one`] wakes only one exclusive waiter.
    pub fn wait_exclusive<T>(
        &self,
        cond: impl FnMut() -> Option<T>,
        deadline_ns: Option<u64>,
        kind: Interruptible,
    ) -> Result<T, WaitError> {
        self.wait_as(cond, deadline_ns, kind, Share::Exclusive)
    }

    fn wait_as<T>(
        &self,
        mut cond: impl FnMut() -> Option<T>,
        deadline_ns: Option<u64>,
        kind: Interruptible,
        share: Share,
    ) -> Result<T, WaitError> {
        if let Some(value) = cond() {
            return Ok(value);
        }
        hal::sync::might_sleep();
        let current = thread::current();
        let _alarm = deadline_ns.filter(|&ns| ns != u64::MAX).map(Alarm::set);
        let place = Place::enter(self, &current, share);
        loop {
            place.queue_up();
            if let Some(value) = cond() {
                return Ok(value);
            }
            core_sched::set_sleep_state(&current, kind.state());
            let ended = if current.is_interrupted(kind) {
                Some(WaitError::Interrupted)
            } else if deadline_ns.is_some_and(|ns| hal::time::now_ns() >= ns) {
                Some(WaitError::TimedOut)
            } else {
                None
            };
            if ended.is_none() && place.is_waiting() {
                core_sched::schedule();
            }
            core_sched::set_running(&current);
            if let Some(error) = ended {
                // A wake-up that came for us must not be lost: look once more.
                return cond().ok_or(error);
            }
            if !place.is_waiting()
                && let Some(value) = cond()
            {
                return Ok(value); // the common case: woken once, without entering the queue again
            }
        }
    }

    /// Wakes all waiters and tells all observers.
    #[inline]
    pub fn wake_all(&self) {
        self.wake(u32::MAX, usize::MAX);
    }

    /// Wakes all shared waiters and one exclusive one, and tells all observers.
    #[inline]
    pub fn wake_one(&self) {
        self.wake(u32::MAX, 1);
    }

    /// As [`WaitQueue::wake_one`] with `n` exclusive waiters.
    pub fn wake_n(&self, n: usize) {
        self.wake(u32::MAX, n);
    }

    /// As [`WaitQueue::wake_all`], but observers learn which poll events came.
    pub fn wake_events(&self, events: u32) {
        self.wake(events, usize::MAX);
    }

    /// Wakes all shared and at most `exclusive` exclusive waiters, first come first served; tells observers
    /// about `events`. Returns the number of threads that were taken out. Usable in interrupt context. Takes no lock
    /// when there are neither.
    #[inline]
    pub fn wake(&self, events: u32, exclusive: usize) -> usize {
        // Observers follow the same rule: `add_observer` ends with a fence too.
        if !self.nr_waiters.is_any() && self.observers.get().is_none() {
            return 0;
        }
        self.wake_found(events, exclusive)
    }

    #[inline(never)]
    fn wake_found(&self, events: u32, exclusive: usize) -> usize {
        let woken = self.wake_threads(exclusive);
        if let Some(observers) = self.observers.get() {
            for (_, observer) in observers.lock().iter() {
                observer.notify(events);
            }
        }
        woken
    }

    fn wake_threads(&self, exclusive: usize) -> usize {
        let mut waiters = self.waiters.lock();
        if waiters.is_empty() {
            return 0;
        }
        let mut left = exclusive;
        let mut woken = 0;
        let mut at = 0;
        while at < waiters.len() {
            if waiters[at].share == Share::Exclusive {
                if left == 0 {
                    at += 1;
                    continue;
                }
                left -= 1;
            }
            let entry = waiters.remove(at);
            self.nr_waiters.set(waiters.len() as u32);
            entry.thread.wait_bits.fetch_and(!entry.bit, Ordering::SeqCst);
            wake_states(&entry.thread, ASLEEP);
            woken += 1;
        }
        woken
    }

    /// Does nobody wait or observe? A hint: it may change at once.
    pub fn is_unused(&self) -> bool {
        self.waiters.lock().is_empty() && self.observers.get().is_none_or(|list| list.lock().is_empty())
    }

    /// Adds an observer. Check the condition after adding it: what came before is not told.
    pub fn add_observer(&self, observer: Arc<dyn Observer>) -> ObserverHandle {
        let list = self.observers.call_once(|| Arc::new(IrqLock::new("sched.observers", Vec::new())));
        let id = NEXT_OBSERVER.fetch_add(1, Ordering::Relaxed);
        list.lock().push((id, observer));
        self.nr_waiters.entered(); // whoever does not see the list yet is seen by the look that follows
        ObserverHandle { list: list.clone(), id }
    }
}

impl Default for WaitQueue {
    fn default() -> Self {
        WaitQueue::new()
    }
}

impl core::fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "WaitQueue({} waiting)", self.waiters.lock().len())
    }
}

/// The current thread's wait at one depth; leaves the queue when dropped.
struct Place<'a> {
    queue: &'a WaitQueue,
    current: &'a Current,
    bit: u64,
    share: Share,
}

impl<'a> Place<'a> {
    fn enter(queue: &'a WaitQueue, current: &'a Current, share: Share) -> Place<'a> {
        let depth = current.wait_depth.load(Ordering::Relaxed);
        assert!(depth < MAX_DEPTH, "waits nested too deeply");
        current.wait_depth.store(depth + 1, Ordering::Relaxed);
        Place { queue, current, bit: 1 << depth, share }
    }

    fn is_waiting(&self) -> bool {
        self.current.wait_bits.load(Ordering::SeqCst) & self.bit != 0
    }

    /// Enters the queue unless there already.
    fn queue_up(&self) {
        if self.is_waiting() {
            return;
        }
        let mut waiters = self.queue.waiters.lock();
        self.current.wait_bits.fetch_or(self.bit, Ordering::SeqCst);
        waiters.push(Entry { thread: self.current.arc(), bit: self.bit, share: self.share });
        self.queue.nr_waiters.set(waiters.len() as u32);
        drop(waiters);
        self.queue.nr_waiters.entered();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.is_waiting() {
            let mut waiters = self.queue.waiters.lock();
            let mine = |e: &Entry| e.bit == self.bit && Arc::ptr_eq(&e.thread, self.current.shared());
            let entry = waiters.iter().position(mine).map(|at| waiters.remove(at));
            self.queue.nr_waiters.set(waiters.len() as u32);
            drop(waiters);
            drop(entry);
            self.current.wait_bits.fetch_and(!self.bit, Ordering::SeqCst);
        }
        self.current.wait_depth.store(self.current.wait_depth.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    }
}
