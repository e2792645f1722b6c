//! What poll, select and epoll share: asking a file for its events and being told of new ones.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use smallvec::SmallVec;

use crate::core_sched;
use crate::thread::{self, Interruptible, Thread};
use crate::timer::Alarm;
use crate::wait::{Observer, ObserverHandle, WaitError, WaitQueue};

/// Handed to a file's `poll`: the file registers the queues whose wake-ups change its events.
pub struct PollTable {
    observer: Option<Arc<dyn Observer>>,
    handles: SmallVec<[ObserverHandle; 2]>,
}

impl PollTable {
    /// Only asks for the events of the moment.
    pub fn query() -> PollTable {
        PollTable { observer: None, handles: SmallVec::new() }
    }

    /// Registers `observer` with every queue that a file names.
    pub fn watch(observer: Arc<dyn Observer>) -> PollTable {
        PollTable { observer: Some(observer), handles: SmallVec::new() }
    }

    /// Called by files, before they compute their events: wake-ups of `queue` concern them.
    pub fn register(&mut self, queue: &WaitQueue) {
        if let Some(observer) = &self.observer {
            self.handles.push(queue.add_observer(observer.clone()));
        }
    }

    /// Does it only ask?
    pub fn is_query(&self) -> bool {
        self.observer.is_none()
    }

    /// Stops registering: files asked from now on are only asked.
    pub fn stop_watching(&mut self) {
        self.observer = None;
    }

    /// What was registered so far; dropping the handles ends it.
    pub fn into_handles(self) -> SmallVec<[ObserverHandle; 2]> {
        self.handles
    }
}

/// Wakes the polling thread.
struct Waker {
    thread: Arc<Thread>,
    told: AtomicBool,
}

impl Observer for Waker {
    fn notify(&self, _events: u32) {
        self.told.store(true, Ordering::SeqCst);
        core_sched::wake(&self.thread);
    }
}

/// One poll(2) or select(2) of the current thread.
///
/// Ask all files with [`Poller::table`]; while none is ready, [`Poller::wait`] and ask again.
pub struct Poller {
    waker: Arc<Waker>,
    table: PollTable,
}

impl Poller {
    /// A poller for the current thread. Allocates; so first ask once with [`PollTable::query`].
    #[expect(clippy::new_without_default, reason = "it belongs to the current thread")]
    pub fn new() -> Poller {
        let waker = Arc::new(Waker { thread: thread::current().arc(), told: AtomicBool::new(false) });
        Poller { table: PollTable::watch(waker.clone()), waker }
    }

    /// The table to ask files with. It registers in the first round only.
    #[inline]
    pub fn table(&mut self) -> &mut PollTable {
        &mut self.table
    }

    /// Sleeps until a registered queue was woken since the last wait, a signal or the deadline.
    pub fn wait(&mut self, deadline_ns: Option<u64>, kind: Interruptible) -> Result<(), WaitError> {
        self.table.stop_watching();
        let current = thread::current();
        let _alarm = deadline_ns.filter(|&ns| ns != u64::MAX).map(Alarm::set);
        loop {
            core_sched::set_sleep_state(&current, kind.state());
            let ended = if self.waker.told.swap(false, Ordering::SeqCst) {
                Some(Ok(()))
            } else if current.is_interrupted(kind) {
                Some(Err(WaitError::Interrupted))
            } else if deadline_ns.is_some_and(|ns| hal::time::now_ns() >= ns) {
                Some(Err(WaitError::TimedOut))
            } else {
                None
            };
            if let Some(result) = ended {
                core_sched::set_running(&current);
                return result;
            }
            core_sched::schedule();
        }
    }
}
