//! Work of one mount, done one after the other by one worker, so that a server without answers holds no more than one.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;

use hal::sync::SpinLock;

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Work>,
    has_worker: bool,
}

/// See the module's front page.
pub(crate) struct Serial(SpinLock<Queue>);

impl Serial {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(SpinLock::new("p9.serial", Queue::default())))
    }

    /// Runs `work` soon, where it may sleep. Sleeps not.
    pub(crate) fn queue(self: &Arc<Self>, work: Work) {
        let mut queue = self.0.lock();
        if queue.waiting.try_reserve(1).is_err() {
            drop(queue);
            return sched::workqueue::queue(work);
        }
        queue.waiting.push_back(work);
        let needs_worker = !core::mem::replace(&mut queue.has_worker, true);
        drop(queue);
        if needs_worker {
            let this = self.clone();
            sched::workqueue::queue(Box::new(move || this.run()));
        }
    }

    fn run(&self) {
        while let Some(work) = self.next() {
            work();
        }
    }

    fn next(&self) -> Option<Work> {
        let mut queue = self.0.lock();
        let next = queue.waiting.pop_front();
        queue.has_worker = next.is_some();
        next
    }
}
