//! `IOCB_CMD_POLL`: a request that ends when its file is ready.
//!
//! ```text
//! waker, in any context              worker thread
//!   notify: events may have come
//!   is_queued false -> true           takes the whole list, and of each
//!   into the list, and the first        is_queued = false
//!   one calls the worker ---------->    ask the file; ready: take `request`, complete it
//! ```
//! However many wait for one file, its waker allocates for the call of the worker alone.
//!
//! Whoever takes `request` ends the wait: the submitting thread, the worker, io_cancel(2) or the end of the context.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::sync::{IrqLock, SpinLock};
use sched::{Mutex, Observer, ObserverHandle, PollTable};
use smallvec::SmallVec;
use vfs::File;

use super::Request;
use crate::poll::ALWAYS;

/// Those of all contexts whose file may be ready, linked by `next`. Under the locks of any waker; a leaf.
static QUEUED: IrqLock<Option<Arc<Poll>>> = IrqLock::new("events.aio.queued", None);

/// Asks the files of all that are queued.
fn look_at_queued() {
    let mut next = QUEUED.lock().take();
    while let Some(poll) = next {
        // Out of the list before it may come into it again.
        next = poll.next.lock().take();
        poll.look_again();
    }
}

/// The poll requests of a context that have no event yet.
pub(super) struct Polls {
    waiting: Mutex<BTreeMap<u64, Arc<Poll>>>,
    next_key: AtomicU64,
}

impl Polls {
    pub fn new() -> Self {
        Self { waiting: Mutex::new("events.aio.polls", BTreeMap::new()), next_key: AtomicU64::new(0) }
    }

    /// Ends all of them without an event of their file.
    pub fn cancel_all(&self) {
        let all = core::mem::take(&mut *self.waiting.lock());
        for poll in all.values() {
            poll.end(PollEvents::empty());
        }
    }

    /// Ends the one whose request is at `obj`; says whether there was one.
    pub fn cancel(&self, obj: u64) -> bool {
        let found = self.waiting.lock().values().find(|poll| poll.obj == obj).cloned();
        found.is_some_and(|poll| poll.end(PollEvents::empty()))
    }
}

/// A request that waits for its file.
struct Poll {
    me: Weak<Poll>,
    file: Arc<File>,
    wanted: PollEvents,
    obj: u64,
    key: u64,
    request: SpinLock<Option<Request>>,
    handles: SpinLock<SmallVec<[ObserverHandle; 2]>>,
    is_queued: AtomicBool,
    /// The next one in [`QUEUED`].
    next: IrqLock<Option<Arc<Poll>>>,
}

impl Request {
    /// Waits for one of the events `wanted`, an error or the end of `file`, without holding up the caller.
    ///
    /// `EINVAL`: `file` is not ready and will not tell when it is, or the context ended. May sleep.
    pub fn poll(self, file: Arc<File>, wanted: PollEvents) -> Result<()> {
        let context = self.context.clone();
        let key = context.polls.next_key.fetch_add(1, Relaxed);
        let poll = Arc::new_cyclic(|me| Poll {
            me: me.clone(),
            file,
            wanted: wanted | ALWAYS,
            obj: self.obj,
            key,
            request: SpinLock::new("events.aio.poll", Some(self)),
            handles: SpinLock::new("events.aio.handles", SmallVec::new()),
            is_queued: AtomicBool::new(false),
            next: IrqLock::new("events.aio.next", None),
        });
        {
            let mut waiting = context.polls.waiting.lock();
            // Looked at under the lock that the end takes after it set this.
            if context.is_dead() {
                return Err(Errno::EINVAL);
            }
            waiting.insert(key, poll.clone());
        }
        let mut table = PollTable::watch(poll.clone());
        let events = poll.file.poll(&mut table) & poll.wanted;
        let handles = table.into_handles();
        let is_told = !handles.is_empty();
        *poll.handles.lock() = handles;
        if !events.is_empty() {
            poll.end(events);
        } else if !is_told && let Some(request) = poll.take() {
            drop(request);
            return Err(Errno::EINVAL);
        }
        // It may have ended on another CPU before it had the handles.
        if poll.request.lock().is_none() {
            poll.forget();
        }
        Ok(())
    }
}

impl Poll {
    /// Takes the request out of it and out of its context: it ends by what the caller does.
    fn take(&self) -> Option<Request> {
        let request = self.request.lock().take()?;
        self.forget();
        let entry = request.context.polls.waiting.lock().remove(&self.key);
        drop(entry);
        Some(request)
    }

    /// Stops observing the file.
    fn forget(&self) {
        let handles = core::mem::take(&mut *self.handles.lock());
        drop(handles); // outside: it takes the queues' locks
    }

    /// Ends it with `events`; says whether it was not over already.
    fn end(&self, events: PollEvents) -> bool {
        self.take().map(|request| request.complete(i64::from(events.bits()))).is_some()
    }

    /// Asks the file whether it is ready now.
    fn look_again(&self) {
        self.is_queued.store(false, SeqCst);
        let events = self.file.poll(&mut PollTable::query()) & self.wanted;
        if !events.is_empty() {
            self.end(events);
        }
    }
}

impl Observer for Poll {
    fn notify(&self, events: u32) {
        if events & self.wanted.bits() == 0 || self.is_queued.swap(true, SeqCst) {
            return;
        }
        let Some(me) = self.me.upgrade() else { return };
        let was_empty = {
            let mut first = QUEUED.lock();
            let old = first.take();
            let was_empty = old.is_none();
            *self.next.lock() = old;
            *first = Some(me);
            was_empty
        };
        if was_empty {
            sched::workqueue::queue(Box::new(look_at_queued));
        }
    }
}
