//! Work to be done later in thread context, by a few kernel threads.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Deref;
use core::sync::atomic::{AtomicUsize, Ordering};

use hal::sync::IrqLock;

use crate::thread;
use crate::wait::WaitQueue;

type Work = Box<dyn FnOnce() + Send>;

/// Most worker threads. More than one, since work may sleep.
const MAX_WORKERS: usize = 8;

static QUEUE: IrqLock<VecDeque<Work>> = IrqLock::new("sched.workqueue", VecDeque::new());
static ARRIVED: WaitQueue = WaitQueue::new();
static WORKERS: AtomicUsize = AtomicUsize::new(0);
static IDLE_WORKERS: AtomicUsize = AtomicUsize::new(0);

/// Runs `work` soon on a worker thread. Usable in atomic context once a worker exists (see [`init`]).
pub fn queue(work: Box<dyn FnOnce() + Send>) {
    QUEUE.lock().push_back(work);
    ARRIVED.wake(u32::MAX, 1);
    init_if_needed();
}

fn init_if_needed() {
    if WORKERS.load(Ordering::Relaxed) == 0 && !hal::preempt::is_atomic() {
        init();
    }
}

/// Starts the first worker, unless there is one.
pub fn init() {
    if WORKERS.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        add_worker();
    }
}

/// Starts a worker that is counted already.
fn add_worker() {
    if thread::spawn("kworker", worker).is_err() {
        // Without memory for another one, those there do the work.
        WORKERS.fetch_sub(1, Ordering::Relaxed);
    }
}

fn worker() {
    loop {
        IDLE_WORKERS.fetch_add(1, Ordering::SeqCst);
        let (work, more) = match ARRIVED.wait_exclusive(take, None, thread::Interruptible::Yes) {
            Ok(taken) => taken,
            // Nobody signals a worker.
            Err(_) => {
                thread::current().clear_signal();
                IDLE_WORKERS.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
        };
        let idle = IDLE_WORKERS.fetch_sub(1, Ordering::SeqCst) - 1;
        if more && idle == 0 && WORKERS.load(Ordering::Relaxed) < MAX_WORKERS {
            WORKERS.fetch_add(1, Ordering::Relaxed);
            add_worker();
        }
        work();
    }
}

fn take() -> Option<(Work, bool)> {
    // A function without state needs no memory in its box.
    let parked = || (!PARKED.lock().is_empty()).then(|| (Box::new(drop_parked) as Work, true));
    let mut queue = QUEUE.lock();
    let Some(work) = queue.pop_front() else {
        drop(queue);
        return parked();
    };
    Some((work, !queue.is_empty()))
}

/// A reference that may be given up in any context: a worker drops the value where that must not happen at once.
///
/// That is in interrupts, under locks that spin, and in threads of the kernel: one that completes I/O would wait for itself if
/// the value's end does I/O.
pub struct Late<T: Send + Sync + 'static>(Option<Arc<T>>);

impl<T: Send + Sync> From<Arc<T>> for Late<T> {
    fn from(value: Arc<T>) -> Self {
        Self(Some(value))
    }
}

impl<T: Send + Sync> Deref for Late<T> {
    type Target = Arc<T>;

    #[inline]
    fn deref(&self) -> &Arc<T> {
        match &self.0 {
            Some(value) => value,
            None => unreachable!("only a dropped one is empty"),
        }
    }
}

impl<T: Send + Sync> Drop for Late<T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(last) = self.0.take().and_then(Arc::into_inner) {
            drop_late(last);
        }
    }
}

/// Values that a worker drops.
static PARKED: IrqLock<Vec<Box<dyn Send>>> = IrqLock::new("sched.parked", Vec::new());

#[cold]
fn drop_late<T: Send + Sync + 'static>(last: T) {
    if hal::preempt::is_atomic() || !thread::current().is_user.load(Ordering::Relaxed) {
        // Without memory it is lost; an interrupt cannot wait for any.
        match place(last) {
            Ok(last) => park(last),
            Err(last) => core::mem::forget(last),
        }
    }
}

/// `value` in memory of its own, if there is any.
fn place<T>(value: T) -> Result<Box<[T; 1]>, T> {
    let mut place = Vec::new();
    if place.try_reserve_exact(1).is_err() {
        return Err(value);
    }
    place.push(value);
    Box::try_from(place).map_err(|_| unreachable!("there is one value"))
}

fn park(value: Box<dyn Send>) {
    let mut parked = PARKED.lock();
    if parked.try_reserve(1).is_err() {
        drop(parked);
        return core::mem::forget(value);
    }
    parked.push(value);
    drop(parked);
    ARRIVED.wake(u32::MAX, 1);
    init_if_needed();
}

fn drop_parked() {
    let all = core::mem::take(&mut *PARKED.lock());
    drop(all);
}

/// Waits until all readers of before have finished (Linux: `synchronize_rcu`). Sleeps.
pub fn synchronize_rcu() {
    let done = alloc::sync::Arc::new(crate::locks::Completion::new());
    let signal = done.clone();
    hal::rcu::call(Box::new(move || signal.complete()));
    done.wait();
}

/// How long [`await_rcu`] waits.
const GRACE_NS: u64 = 200_000_000;

/// As [`synchronize_rcu`], but gives up after 0.2 s: for those who only want to see soon what readers let go. Sleeps.
pub fn await_rcu() {
    let done = alloc::sync::Arc::new(crate::locks::Completion::new());
    let signal = done.clone();
    hal::rcu::call(Box::new(move || signal.complete()));
    let deadline = hal::time::now_ns() + GRACE_NS;
    // Who reads for longer only has what it holds come back later.
    let _ = done.wait_deadline(Some(deadline), crate::Interruptible::No);
}
