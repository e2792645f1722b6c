//! Requests that wait: for their file to become ready, or for a time.
//!
//! Whoever takes the request out of its [`Waiting`] ends it or puts it back: the task that it belongs to, a cancellation,
//! the end of the task or of the ring.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use abi::Errno;
use abi::io_uring::CqeFlags;
use abi::poll::PollEvents;
use hal::sync::{IrqLock, SpinLock};
use hal::time::now_ns;
use sched::{Observer, ObserverHandle, PollTable, Timer};
use smallvec::SmallVec;
use vfs::File;

use crate::context::Context;
use crate::job::{Attempt, Job, Op};
use crate::request::{self, Request};
use crate::ring::{Ring, is_ring};

/// Reported whether asked for or not.
pub(crate) const ALWAYS: PollEvents = PollEvents::ERR.union(PollEvents::HUP);

/// How long after an attempt comes the next one when the file does not tell for what it waits.
const RETRY_NS: u64 = 10_000_000;

/// What ends the wait.
pub(crate) enum Kind {
    /// The file has one of the events.
    File(Arc<File>),
    /// Time has passed.
    Time,
    /// The time of a request of a chain is over: `Weak` is what waits for that request.
    Limit(Weak<Waiting>),
    /// Nothing: it goes on as soon as its task looks.
    Nothing,
}

/// A request that waits.
pub(crate) struct Waiting {
    me: Weak<Waiting>,
    key: u64,
    ring: Arc<Ring>,
    context: Arc<Context>,
    life: u32,
    kind: Kind,
    /// `PollEvents` that the file is asked for.
    wanted: AtomicU32,
    request: SpinLock<Option<Box<Request>>>,
    handles: SpinLock<SmallVec<[ObserverHandle; 2]>>,
    timer: SpinLock<Option<Timer>>,
    /// It is in its task's list.
    is_queued: AtomicBool,
    next: IrqLock<Option<Arc<Waiting>>>,
}

impl Waiting {
    /// Makes `request` wait, among those of its ring; nothing wakes it yet. Without memory it comes back. May sleep.
    pub fn new(request: Box<Request>, kind: Kind) -> Result<Arc<Self>, Box<Request>> {
        let ring = request.ring.clone();
        let mut others = ring.waiting.lock();
        if others.reserve().is_err() {
            return Err(request);
        }
        let key = ring.next_key();
        let waiting = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            key,
            ring: ring.clone(),
            context: request.context.clone(),
            life: request.life,
            kind,
            wanted: AtomicU32::new(0),
            request: SpinLock::new("io_uring.request", Some(request)),
            handles: SpinLock::new("io_uring.handles", SmallVec::new()),
            timer: SpinLock::new("io_uring.timer", None),
            is_queued: AtomicBool::new(false),
            next: IrqLock::new("io_uring.next", None),
        });
        others.add(key, waiting.clone());
        Ok(waiting)
    }

    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    pub fn key(&self) -> u64 {
        self.key
    }

    pub fn is_of(&self, context: &Arc<Context>) -> bool {
        Arc::ptr_eq(&self.context, context)
    }

    /// The life of its task that it is of.
    pub fn life(&self) -> u32 {
        self.life
    }

    /// Whether nobody will look at it any more: its task's life or its ring is over.
    pub fn is_left(&self) -> bool {
        self.context.life() != self.life || self.ring.is_dead()
    }

    /// Whether `test` holds for what the request asks for; `false` when somebody has taken it.
    pub fn is(&self, test: impl FnOnce(&Job) -> bool) -> bool {
        self.request.lock().as_ref().is_some_and(|request| test(&request.job))
    }

    /// Changes the request in its place, if it is there.
    pub fn edit<T>(&self, change: impl FnOnce(&mut Request) -> T) -> Option<T> {
        self.request.lock().as_deref_mut().map(change)
    }

    /// Links it into a list before `next`, and gives what it was linked to.
    pub fn set_next(&self, next: Option<Arc<Waiting>>) -> Option<Arc<Waiting>> {
        core::mem::replace(&mut *self.next.lock(), next)
    }

    /// Gives it to its task, once until that looks. Usable in any context.
    pub fn queue(&self) {
        if !self.is_queued.swap(true, SeqCst)
            && let Some(me) = self.me.upgrade()
        {
            self.context.push(me);
        }
    }

    /// Observes the file for `wanted`; queued at once when that is there. May sleep.
    pub fn observe(self: &Arc<Self>, wanted: PollEvents) {
        let Kind::File(file) = &self.kind else { return };
        let wanted = wanted | ALWAYS;
        self.wanted.store(wanted.bits(), SeqCst);
        let mut table = PollTable::watch(self.clone());
        let events = file.poll(&mut table) & wanted;
        let handles = table.into_handles();
        let old = core::mem::replace(&mut *self.handles.lock(), handles);
        drop(old);
        // A change of what is wanted by another thread: the request may be over.
        if self.is(|_| true) {
            if !events.is_empty() {
                self.queue();
            }
        } else {
            self.detach();
        }
    }

    /// Starts its timer for `deadline_ns`.
    pub fn start_timer(self: &Arc<Self>, deadline_ns: u64) {
        let weak = Arc::downgrade(self);
        let timer = Timer::new(Arc::new(move || {
            if let Some(waiting) = weak.upgrade() {
                waiting.queue();
            }
        }));
        timer.start(deadline_ns);
        let old = self.timer.lock().replace(timer);
        drop(old);
    }

    /// Looks again after `ns`, by the timer that it has or gets.
    fn retry_after(self: &Arc<Self>, ns: u64) {
        let deadline_ns = now_ns().saturating_add(ns);
        let has_timer = {
            let timer = self.timer.lock();
            timer.as_ref().inspect(|timer| timer.start(deadline_ns)).is_some()
        };
        if !has_timer {
            self.start_timer(deadline_ns);
        }
    }

    /// Takes the request: the caller ends it.
    pub fn take(&self) -> Option<Box<Request>> {
        let request = self.request.lock().take()?;
        self.detach();
        Some(request)
    }

    /// Lets go of the file, the timer and the ring's list.
    fn detach(&self) {
        let gone = self.ring.waiting.lock().remove(self.key);
        drop(gone);
        let handles = core::mem::take(&mut *self.handles.lock());
        drop(handles); // outside: it takes the queues' locks
        let timer = self.timer.lock().take();
        drop(timer);
    }

    /// Goes on waiting with `request`, which [`look`](Self::look) had taken for a moment.
    fn put_back(&self, request: Box<Request>) {
        *self.request.lock() = Some(request);
        // Who ended the ring meanwhile did not find the request.
        if self.ring.is_dead()
            && let Some(request) = self.take()
        {
            request.cancel();
        }
    }

    /// Its task looks: what it waited for may be there. May sleep.
    pub fn look(self: &Arc<Self>) {
        self.is_queued.store(false, SeqCst);
        let Some(request) = self.request.lock().take() else { return };
        match &self.kind {
            Kind::File(file) => self.look_at_file(file, request),
            Kind::Nothing => {
                self.detach();
                request::start(request);
            }
            Kind::Time => self.time_is_over(request),
            Kind::Limit(target) => {
                self.detach();
                let late = target.upgrade().and_then(|target| target.take());
                let found = late.is_some();
                if let Some(mut late) = late {
                    late.limit = None;
                    request::finish(late, request::canceled(), CqeFlags::empty());
                }
                let errno = if found { Errno::ETIME } else { Errno::ENOENT };
                request::finish(request, -i64::from(errno.number()), CqeFlags::empty());
            }
        }
    }

    fn look_at_file(self: &Arc<Self>, file: &Arc<File>, mut request: Box<Request>) {
        if let Op::Poll(poll) = &request.job.op {
            let wanted = PollEvents::from_bits_retain(self.wanted.load(SeqCst));
            let events = file.poll(&mut PollTable::query()) & wanted;
            if events.is_empty() {
                return self.put_back(request);
            }
            // LINUX: news of a ring is for one time, since a ring that polls itself, or another that polls it, would have
            // news of its own news.
            let goes_on = poll.is_multishot && !is_ring(file);
            if goes_on && request.job.tell_more(&self.ring, i64::from(events.bits()), CqeFlags::empty()) {
                return self.put_back(request);
            }
            self.detach();
            return request::finish(request, i64::from(events.bits()), CqeFlags::empty());
        }
        match request.job.attempt(&self.ring) {
            Attempt::Wait(_) | Attempt::Time => {
                // It waits for something else than the file says: a connect to a full listener for room there.
                let is_untold = request.job.is_ready();
                self.put_back(request);
                if is_untold {
                    self.retry_after(RETRY_NS);
                }
            }
            Attempt::Again => {
                self.put_back(request);
                self.queue();
            }
            Attempt::Done(res, flags) => {
                self.detach();
                request::finish(request, res, flags);
            }
        }
    }

    fn time_is_over(&self, mut request: Box<Request>) {
        let Op::Timeout(timeout) = &mut request.job.op else { return self.put_back(request) };
        if timeout.is_over {
            self.detach();
            return request::finish(request, 0, CqeFlags::empty());
        }
        let res = -i64::from(Errno::ETIME.number());
        let next = timeout.next_round();
        if let Some(next) = next
            && request.job.tell_more(&self.ring, res, CqeFlags::empty())
        {
            self.put_back(request);
            if let Some(timer) = &*self.timer.lock() {
                timer.start(next);
            }
            return;
        }
        self.detach();
        request::finish(request, res, CqeFlags::empty());
    }
}

impl Observer for Waiting {
    fn notify(&self, events: u32) {
        if events & self.wanted.load(SeqCst) != 0 {
            self.queue();
        }
    }
}
