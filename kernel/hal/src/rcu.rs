//! Read-copy-update: readers without locks, writers that wait until no reader can see the old version.
//!
//! A reader is a section with preemption off. A CPU that switches threads, returns to user mode or idles is
//! in no such section: it tells so by [`quiescent`]. A grace period is over once every CPU that was not idle
//! at its start has passed one such point.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::arch;
use crate::cpu;
use crate::preempt::{self, PreemptGuard};
use crate::sync::{GracePeriod, IrqLock};

/// Proof of being a reader: what was found through RCU pointers stays valid.
#[must_use]
pub struct ReadGuard {
    _pinned: PreemptGuard,
}

/// Begins a read-side section. Costs an increment; must not sleep inside.
#[inline]
pub fn read_lock() -> ReadGuard {
    ReadGuard { _pinned: preempt::disable() }
}

enum Callback {
    Call(Box<dyn FnOnce() + Send>),
    DropBox(#[expect(dead_code, reason = "only dropped")] Box<dyn Send>),
    DropArc(#[expect(dead_code, reason = "only dropped")] Arc<dyn Send + Sync>),
    DropWeak(#[expect(dead_code, reason = "only dropped")] Weak<dyn Send + Sync>),
}

struct Queues {
    /// Came after the current grace period began.
    next: Vec<Callback>,
    /// Wait for the current grace period.
    waiting: Vec<Callback>,
    /// Their grace period is over.
    done: Vec<Callback>,
    /// Is a grace period going on?
    active: bool,
}

static QUEUES: IrqLock<Queues> = IrqLock::new(
    "hal.rcu",
    Queues { next: Vec::new(), waiting: Vec::new(), done: Vec::new(), active: false },
);
/// Whom the current grace period waits for.
static PERIOD: GracePeriod = GracePeriod::new(AtomicU64::new(0), AtomicU64::new(0));
/// Is `done` not empty? Written under the lock.
static HAS_WORK: AtomicBool = AtomicBool::new(false);

fn enqueue(callback: Callback) {
    let mut queues = QUEUES.lock();
    queues.next.push(callback);
    if !queues.active {
        start(&mut queues);
    }
}

/// Starts a grace period for everything in `next`.
fn start(queues: &mut Queues) {
    if queues.next.is_empty() {
        queues.active = false;
        return;
    }
    let next = core::mem::take(&mut queues.next);
    queues.waiting.extend(next);
    queues.active = true;
    if PERIOD.start(cpu::online().0) {
        finish(queues);
    }
}

fn finish(queues: &mut Queues) {
    let waiting = core::mem::take(&mut queues.waiting);
    queues.done.extend(waiting);
    HAS_WORK.store(true, Ordering::Relaxed);
    start(queues);
}

/// Tells that this CPU is in no read section. Cheap when no grace period waits for it. Preemption must be off
/// by at most the caller's own guard.
#[inline]
pub fn quiescent() {
    let bit = 1u64 << arch::cpu::current_id();
    if PERIOD.waits_for(bit) {
        report(bit);
    }
}

#[cold]
fn report(bit: u64) {
    if PERIOD.report(bit) {
        let mut queues = QUEUES.lock();
        if queues.active && PERIOD.is_over() {
            finish(&mut queues);
        }
    }
}

/// This CPU goes idle: grace periods do not wait for it until [`idle_exit`].
pub fn idle_enter() {
    PERIOD.enter_idle(1u64 << arch::cpu::current_id());
    quiescent();
}

/// This CPU leaves idle.
pub fn idle_exit() {
    PERIOD.leave_idle(1u64 << arch::cpu::current_id());
}

/// An interrupt is about to be handled: its handler may read, so an idle CPU is no longer one. The machine's
/// interrupt entry calls it.
#[inline]
pub(crate) fn interrupt_enter() {
    if PERIOD.is_idle(1u64 << arch::cpu::current_id()) {
        idle_exit();
    }
}

/// CPUs that the current grace period still waits for; the scheduler may kick them.
pub fn holdouts() -> cpu::CpuMask {
    cpu::CpuMask(PERIOD.holdouts())
}

/// Are there callbacks ready for [`process`]? One load.
#[inline]
pub fn has_work() -> bool {
    HAS_WORK.load(Ordering::Relaxed)
}

/// Runs the callbacks whose grace period is over. Call it from thread context.
pub fn process() {
    let done = {
        let mut queues = QUEUES.lock();
        HAS_WORK.store(false, Ordering::Relaxed);
        core::mem::take(&mut queues.done)
    };
    for callback in done {
        if let Callback::Call(f) = callback {
            f();
        }
    }
}

/// Calls `f` in thread context after a grace period. Usable in atomic context.
pub fn call(f: Box<dyn FnOnce() + Send>) {
    enqueue(Callback::Call(f));
}

/// Drops `value` after a grace period, without another allocation.
pub fn defer_drop<T: Send + 'static>(value: Box<T>) {
    enqueue(Callback::DropBox(value));
}

/// Drops a reference after a grace period.
pub fn defer_drop_arc<T: Send + Sync + 'static>(value: Arc<T>) {
    enqueue(Callback::DropArc(value));
}

/// Drops a weak reference after a grace period.
pub fn defer_drop_weak<T: Send + Sync + 'static>(value: Weak<T>) {
    enqueue(Callback::DropWeak(value));
}
