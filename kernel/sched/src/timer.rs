//! High-resolution timers: per-CPU queues ordered by deadline, run by the timer interrupt.
//!
//! A timer lies in the queue of the CPU that started it; any CPU can cancel it. Lock order: a timer's
//! `place`, then a queue. The interrupt takes entries out under the queue's lock alone and calls them with
//! no lock held.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use hal::cpu::{self, CpuId};
use hal::sync::IrqLock;
use hal::{preempt, time};

use crate::core_sched::{self, CPUS};
use crate::thread::{self, Interrupted, Interruptible, Thread};

/// Deadline, then a number that keeps equal deadlines in order and apart.
type Key = (u64, u64);

enum Action {
    Timer(Arc<Inner>),
    Wake(Arc<Thread>),
}

/// The timers of one CPU.
pub(crate) struct Timers {
    queue: IrqLock<BTreeMap<Key, Action>>,
    /// The first deadline, `u64::MAX` when there is none.
    first_ns: AtomicU64,
    /// What the CPU's timer is set to.
    programmed_ns: AtomicU64,
}

static NEXT_KEY: AtomicU64 = AtomicU64::new(0);

impl Timers {
    pub(crate) const fn new() -> Timers {
        Timers {
            queue: IrqLock::new("sched.timers", BTreeMap::new()),
            first_ns: AtomicU64::new(u64::MAX),
            programmed_ns: AtomicU64::new(u64::MAX),
        }
    }

    pub(crate) fn first_ns(&self) -> u64 {
        self.first_ns.load(Ordering::Relaxed)
    }

    /// Sets this CPU's timer to `next_ns` unless it fires before anyway. Preemption must be off.
    pub(crate) fn program(&self, next_ns: u64) {
        let _off = hal::irq::disable();
        if next_ns < self.programmed_ns.load(Ordering::Relaxed) {
            self.programmed_ns.store(next_ns, Ordering::Relaxed);
            time::set_timer(next_ns);
        }
    }

    /// The CPU's timer is off, whatever was set before.
    pub(crate) fn forget_programmed(&self) {
        self.programmed_ns.store(u64::MAX, Ordering::Relaxed);
    }

    fn insert(&self, key: Key, action: Action) {
        let mut queue = self.queue.lock();
        queue.insert(key, action);
        self.update_first(&queue);
    }

    fn update_first(&self, queue: &BTreeMap<Key, Action>) {
        let first = queue.first_key_value().map_or(u64::MAX, |(key, _)| key.0);
        self.first_ns.store(first, Ordering::Relaxed);
    }

    fn remove(&self, key: Key) -> bool {
        let mut queue = self.queue.lock();
        let removed = queue.remove(&key);
        self.update_first(&queue);
        drop(queue); // the action may be the last reference to something
        removed.is_some()
    }

    /// Runs what is due; the CPU's timer has fired, so nothing is programmed now.
    pub(crate) fn expire(&self, now: u64) {
        self.programmed_ns.store(u64::MAX, Ordering::Relaxed);
        while self.first_ns() <= now {
            let due = {
                let mut queue = self.queue.lock();
                let due = match queue.first_entry() {
                    Some(first) if first.key().0 <= now => Some(first.remove_entry()),
                    _ => None,
                };
                self.update_first(&queue);
                due
            };
            match due {
                Some((key, Action::Timer(timer))) => timer.fire(key),
                Some((_, Action::Wake(thread))) => drop(core_sched::wake(&thread)),
                None => break,
            }
        }
    }
}

struct Inner {
    action: Arc<dyn Fn() + Send + Sync>,
    /// Where it is queued.
    place: IrqLock<Option<(CpuId, Key)>>,
}

impl Inner {
    fn fire(&self, key: Key) {
        {
            let mut place = self.place.lock();
            if !place.is_some_and(|(_, at)| at == key) {
                return; // cancelled or restarted meanwhile
            }
            *place = None;
        }
        (self.action)();
    }
}

/// A timer that calls a function once when its time comes. Dropping it cancels it.
pub struct Timer {
    inner: Arc<Inner>,
}

impl Timer {
    /// A timer that is not started. `action` runs in the timer interrupt: it must not sleep.
    pub fn new(action: Arc<dyn Fn() + Send + Sync>) -> Timer {
        Timer { inner: Arc::new(Inner { action, place: IrqLock::new("sched.timer", None) }) }
    }

    /// Starts it (again) for `deadline_ns` on the monotonic clock. Callable in its own action.
    pub fn start(&self, deadline_ns: u64) {
        let pinned = preempt::disable();
        let key = (deadline_ns, NEXT_KEY.fetch_add(1, Ordering::Relaxed));
        let mut place = self.inner.place.lock();
        if let Some((cpu, old)) = place.take() {
            CPUS.get_on(cpu).timers.remove(old);
        }
        let this = CPUS.get(&pinned);
        *place = Some((cpu::current_id(&pinned), key));
        this.timers.insert(key, Action::Timer(self.inner.clone()));
        drop(place);
        core_sched::program(this);
    }

    /// Stops it; `true` if it was going to fire. Its action may still be running on another CPU.
    pub fn cancel(&self) -> bool {
        let mut place = self.inner.place.lock();
        match place.take() {
            Some((cpu, key)) => CPUS.get_on(cpu).timers.remove(key),
            None => false,
        }
    }

    /// When it will fire, if started.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.inner.place.lock().map(|(_, key)| key.0)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl core::fmt::Debug for Timer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Timer({:?})", self.deadline_ns())
    }
}

/// Wakes the current thread at a deadline, unless dropped before.
pub(crate) struct Alarm {
    cpu: CpuId,
    key: Key,
}

impl Alarm {
    pub(crate) fn set(deadline_ns: u64) -> Alarm {
        let pinned = preempt::disable();
        let key = (deadline_ns, NEXT_KEY.fetch_add(1, Ordering::Relaxed));
        let this = CPUS.get(&pinned);
        this.timers.insert(key, Action::Wake(thread::current().arc()));
        core_sched::program(this);
        Alarm { cpu: cpu::current_id(&pinned), key }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        CPUS.get_on(self.cpu).timers.remove(self.key);
    }
}

/// Sleeps until `deadline_ns` on the monotonic clock; `Err` when a signal came first.
pub fn sleep_until(deadline_ns: u64, kind: Interruptible) -> Result<(), Interrupted> {
    let current = thread::current();
    if time::now_ns() >= deadline_ns {
        return Ok(());
    }
    let _alarm = Alarm::set(deadline_ns);
    loop {
        core_sched::set_sleep_state(&current, kind.state());
        let result = if time::now_ns() >= deadline_ns {
            Some(Ok(()))
        } else if current.is_interrupted(kind) {
            Some(Err(Interrupted))
        } else {
            None
        };
        if let Some(result) = result {
            core_sched::set_running(&current);
            return result;
        }
        core_sched::schedule();
    }
}
