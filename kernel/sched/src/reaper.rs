//! The kernel thread that drops what others must not: dead threads, and what waited for a grace period.
//!
//! Dropping them runs destructors of the floors above, which may take sleeping locks. A thread that happens to
//! switch could hold just those; this one holds none.
//!
//! Dead threads are collected, [`BATCH`] at a time or until a CPU is idle, so that an exit costs little.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hal::sync::IrqLock;
use hal::{preempt, rcu};

use crate::thread;
use crate::wait::WaitQueue;

/// Dead threads that are worth a switch.
const BATCH: usize = 8;

static DEAD: IrqLock<Vec<Arc<hal::thread::Thread>>> = IrqLock::new("sched.dead", Vec::new());
static NR_DEAD: AtomicUsize = AtomicUsize::new(0);
static WORK: WaitQueue = WaitQueue::new();
/// Woken, and has not looked yet.
static CALLED: AtomicBool = AtomicBool::new(false);
static STARTED: AtomicBool = AtomicBool::new(false);

/// Takes over a thread that has switched away for the last time. Atomic context.
pub(crate) fn bury(thread: Arc<hal::thread::Thread>) {
    let count = {
        let mut dead = DEAD.lock();
        dead.push(thread);
        NR_DEAD.store(dead.len(), Ordering::Relaxed);
        dead.len()
    };
    if count >= BATCH {
        wake();
    }
}

/// Are there dead threads?
pub(crate) fn has_dead() -> bool {
    NR_DEAD.load(Ordering::Relaxed) != 0
}

/// Calls the reaper; `false` if there is none yet, or it was called before and has not come.
pub(crate) fn wake() -> bool {
    if !STARTED.load(Ordering::Relaxed) || CALLED.swap(true, Ordering::SeqCst) {
        return false;
    }
    WORK.wake_all();
    true
}

/// Starts the reaper at the first chance.
#[inline]
pub(crate) fn start_if_needed() {
    if !STARTED.load(Ordering::Relaxed) {
        start();
    }
}

#[cold]
fn start() {
    if !preempt::is_atomic()
        && !STARTED.swap(true, Ordering::Relaxed)
        && thread::spawn("kreaper", reap_for_ever).is_err()
    {
        STARTED.store(false, Ordering::Relaxed);
    }
}

fn reap_for_ever() {
    loop {
        WORK.wait(|| CALLED.swap(false, Ordering::SeqCst).then_some(()));
        let dead = {
            let mut dead = DEAD.lock();
            NR_DEAD.store(0, Ordering::Relaxed);
            core::mem::take(&mut *dead)
        };
        for thread in dead {
            hal::thread::reap(thread);
        }
        rcu::process();
    }
}
