//! The kernel threads that there are, for the floor that shows them as processes.
//!
//! [`spawn`](crate::spawn) enters a thread before it runs, and the thread strikes itself out when its function returns or
//! panics. Whoever shows them sleeps in [`wait_for_change`] between two looks.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use hal::sync::IrqLock;

use crate::thread::{self, Interruptible, Thread};
use crate::wait::WaitQueue;

static ALL: IrqLock<Vec<Arc<Thread>>> = IrqLock::new("sched.roster", Vec::new());
/// Counts changes of `ALL`.
static CHANGES: AtomicU64 = AtomicU64::new(0);
static CHANGED: WaitQueue = WaitQueue::new();

/// Enters `thread`. Without memory for that it runs unseen.
pub(crate) fn enter(thread: &Arc<Thread>) {
    {
        let mut all = ALL.lock();
        if all.try_reserve(1).is_err() {
            return;
        }
        all.push(thread.clone());
    }
    tell();
}

fn tell() {
    CHANGES.fetch_add(1, Ordering::SeqCst);
    CHANGED.wake_all();
}

/// Strikes the current thread out when it is dropped.
pub(crate) struct Leaving;

impl Drop for Leaving {
    fn drop(&mut self) {
        let me = thread::current();
        let gone = {
            let mut all = ALL.lock();
            let place = all.iter().position(|thread| Arc::ptr_eq(thread, me.shared()));
            place.map(|place| all.swap_remove(place))
        };
        if gone.is_some() {
            tell();
        }
    }
}

/// The kernel threads that run now, in no order.
pub fn kernel_threads() -> Vec<Arc<Thread>> {
    let mut copy = Vec::new();
    loop {
        // Copied under the lock, so room is made before: again if a thread came meanwhile.
        let all = ALL.lock();
        if copy.capacity() >= all.len() {
            copy.extend(all.iter().cloned());
            return copy;
        }
        let wanted = all.len();
        drop(all);
        copy.reserve(wanted);
    }
}

/// The number of changes until now.
pub fn changes() -> u64 {
    CHANGES.load(Ordering::SeqCst)
}

/// Sleeps until the number of changes is another than `seen`.
pub fn wait_for_change(seen: u64) {
    let has_changed = || (changes() != seen).then_some(());
    if CHANGED.wait_deadline(has_changed, None, Interruptible::Yes).is_err() {
        // Nobody signals who shows them.
        thread::current().clear_signal();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_there_while_it_runs() {
        let (go, done) = (Arc::new(crate::Completion::new()), Arc::new(crate::Completion::new()));
        let (wait, tell) = (go.clone(), done.clone());
        let thread = crate::spawn("seen", move || {
            tell.complete();
            wait.wait();
        })
        .unwrap();
        done.wait();
        let is_there = || kernel_threads().iter().any(|other| Arc::ptr_eq(other, &thread));
        assert!(is_there());
        go.complete();
        loop {
            let seen = changes();
            if !is_there() {
                break;
            }
            wait_for_change(seen);
        }
    }
}
