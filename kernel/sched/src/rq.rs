//! The run queue of one CPU: what can run there, and what does.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use crate::eevdf;
use crate::policy::{Attributes, Policy, turn_ns};
use crate::rt::{End, RtQueue};
use crate::thread::Thread;

/// How long a fair thread runs before a newcomer may preempt it.
const PROTECTED_NS: u64 = 700_000;

/// See the module's head. Guarded by the lock around it.
pub(crate) struct RunQueue {
    fair: eevdf::Queue<Arc<Thread>>,
    rt: RtQueue<Arc<Thread>>,
    /// `None` only before the CPU joined.
    pub(crate) current: Option<Arc<Thread>>,
    pub(crate) idle: Option<Arc<Thread>>,
    /// Since when the current thread was not charged.
    charged_ns: u64,
    /// Since when it runs.
    picked_ns: u64,
    /// A charge found its slice over, and it still runs.
    is_over: bool,
}

/// What a charge showed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slice {
    Left,
    Over,
}

/// How a thread enters the queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    New,
    Woken,
    Moved,
}

impl RunQueue {
    pub(crate) const fn new() -> RunQueue {
        RunQueue {
            fair: eevdf::Queue::new(),
            rt: RtQueue::new(),
            current: None,
            idle: None,
            charged_ns: 0,
            picked_ns: 0,
            is_over: false,
        }
    }

    /// Threads that want the CPU, the current one included.
    pub(crate) fn nr_running(&self) -> usize {
        let current_rt = match &self.current {
            Some(t) => !t.is_idle.load(Ordering::Relaxed) && t.attributes().policy.is_realtime(),
            None => false,
        };
        self.fair.len() + self.rt.len() + usize::from(current_rt)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.current.as_ref().is_none_or(|t| t.is_idle.load(Ordering::Relaxed))
    }

    /// Charges the current thread for the time since the last charge.
    pub(crate) fn charge(&mut self, now: u64) -> Slice {
        let delta = now.saturating_sub(self.charged_ns);
        self.charged_ns = now;
        let Some(current) = &self.current else { return Slice::Left };
        if current.is_idle.load(Ordering::Relaxed) {
            return Slice::Left;
        }
        let exec = current.exec_ns.load(Ordering::Relaxed);
        current.exec_ns.store(exec + delta, Ordering::Relaxed);
        self.is_over |= match current.attributes().policy {
            Policy::Fifo => false,
            Policy::RoundRobin => {
                let left = current.turn_left_ns.load(Ordering::Relaxed).saturating_sub(delta);
                let over = left == 0;
                current.turn_left_ns.store(if over { turn_ns() } else { left }, Ordering::Relaxed);
                over && !self.rt.is_empty()
            }
            _ => self.fair.account(delta),
        };
        if self.is_over { Slice::Over } else { Slice::Left }
    }

    /// Adds a thread; `true` if it should preempt the current one.
    pub(crate) fn enqueue(&mut self, thread: Arc<Thread>, arrival: Arrival, now: u64) -> bool {
        let attributes = thread.attributes();
        if attributes.policy.is_realtime() {
            let wins = self.rt_wins(attributes);
            self.rt.push(attributes.priority, thread, End::Back);
            return wins;
        }
        let (weight, slice_ns) = (attributes.weight(), u64::from(attributes.slice_ns));
        let entity = match arrival {
            Arrival::New => self.fair.place_new(weight, slice_ns),
            _ => self.fair.place(thread.lag.load(Ordering::Relaxed), weight, slice_ns),
        };
        self.fair.enqueue(entity, thread);
        let Some(current) = &self.current else { return true };
        if current.is_idle.load(Ordering::Relaxed) {
            return true;
        }
        match (current.attributes().policy, attributes.policy) {
            (Policy::Fifo | Policy::RoundRobin, _) => false,
            (Policy::Idle, new) => new != Policy::Idle,
            (_, Policy::Normal) => {
                now.saturating_sub(self.picked_ns) >= PROTECTED_NS && self.fair.preempts(&entity)
            }
            _ => false,
        }
    }

    fn rt_wins(&self, new: Attributes) -> bool {
        let Some(current) = &self.current else { return true };
        let attributes = current.attributes();
        current.is_idle.load(Ordering::Relaxed)
            || !attributes.policy.is_realtime()
            || attributes.priority < new.priority
    }

    /// Takes the current thread off the CPU because it sleeps or ends.
    pub(crate) fn take_current(&mut self) -> Option<Arc<Thread>> {
        let current = self.current.take()?;
        if !current.is_idle.load(Ordering::Relaxed) && !current.attributes().policy.is_realtime() {
            current.lag.store(self.fair.remove_current(), Ordering::Relaxed);
        }
        Some(current)
    }

    /// Puts the current thread back among the waiting.
    pub(crate) fn put_current(&mut self, end: End) {
        let Some(current) = self.current.take() else { return };
        if current.is_idle.load(Ordering::Relaxed) {
            return;
        }
        let attributes = current.attributes();
        if attributes.policy.is_realtime() {
            self.rt.push(attributes.priority, current, end);
        } else {
            self.fair.put_current(current);
        }
    }

    /// Makes the best waiting thread the current one; the idle thread when there is none.
    pub(crate) fn pick(&mut self, now: u64) {
        let next = match self.rt.pop() {
            Some(thread) => Some(thread),
            None => self.fair.pick(),
        };
        self.current = next.or_else(|| self.idle.clone());
        self.is_over = false;
        self.charged_ns = now;
        self.picked_ns = now;
    }

    /// Makes `thread`, which runs already, the current one of a CPU that joins.
    pub(crate) fn join(&mut self, thread: Arc<Thread>, now: u64) {
        if !thread.is_idle.load(Ordering::Relaxed) {
            let attributes = thread.attributes();
            let entity = self.fair.place(0, attributes.weight(), u64::from(attributes.slice_ns));
            self.fair.enqueue_current(entity);
        }
        self.current = Some(thread);
        self.charged_ns = now;
        self.picked_ns = now;
    }

    /// sched_yield(2): others of the same standing go first.
    pub(crate) fn yield_current(&mut self) {
        self.fair.yield_current();
    }

    /// Takes a waiting thread out.
    pub(crate) fn remove(&mut self, thread: &Arc<Thread>) -> Option<Arc<Thread>> {
        if let Some(found) = self.rt.remove(|t| Arc::ptr_eq(t, thread)) {
            return Some(found);
        }
        let (lag, found) = self.fair.remove(|t| Arc::ptr_eq(t, thread))?;
        found.lag.store(lag, Ordering::Relaxed);
        Some(found)
    }

    /// Is `thread` waiting here or current?
    pub(crate) fn is_current(&self, thread: &Arc<Thread>) -> bool {
        self.current.as_ref().is_some_and(|t| Arc::ptr_eq(t, thread))
    }

    /// Removes a waiting thread that may run on `cpu`.
    pub(crate) fn steal_for(&mut self, cpu: hal::cpu::CpuId) -> Option<Arc<Thread>> {
        let fits = |t: &&Arc<Thread>| t.affinity().contains(cpu);
        let victim = self.rt.iter().find(fits).or_else(|| self.fair.waiting().find(fits))?.clone();
        self.remove(&victim)
    }

    /// Changes attributes of the current thread with `change`, keeping the queues right.
    pub(crate) fn change_current(&mut self, change: impl FnOnce()) {
        let Some(current) = self.take_current() else { return change() };
        change();
        if !current.is_idle.load(Ordering::Relaxed) && !current.attributes().policy.is_realtime() {
            let attributes = current.attributes();
            let entity = self.fair.place(0, attributes.weight(), u64::from(attributes.slice_ns));
            self.fair.enqueue_current(entity);
        }
        self.current = Some(current);
    }
}
