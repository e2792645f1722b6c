//! A request that is kept: a [`Job`] that waits, or whose turn has not come, with whom it is for and what follows it.
//!
//! ```text
//! keep ──▶ start ──▶ begin ──Done──▶ finish ──▶ the next one of its chain
//!                     │  ▲
//!                   Wait │ its file is ready (`waiting`)
//!                     ▼  │
//!                    Waiting
//! ```
//! What ends at its first attempt, and has no part in an order, never becomes one.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::*;

use abi::Errno;
use abi::io_uring::{CqeFlags, SqeFlags};
use abi::poll::PollEvents;
use limits::events::IO_URING_REQUESTS;
use limits::{Charge, UserResource};

use crate::context::Context;
use crate::job::{Attempt, Job, Op, shown};
use crate::ring::Ring;
use crate::waiting::{Kind, Waiting};

/// What user space makes the kernel keep; each counts for the user of its ring.
pub(crate) struct Request {
    pub ring: Arc<Ring>,
    pub context: Arc<Context>,
    /// The life of the task that it was submitted in.
    pub life: u32,
    pub job: Job,
    /// What is to be done after it, in order.
    pub rest: VecDeque<Box<Request>>,
    /// What limits its time.
    pub limit: Option<Arc<Waiting>>,
    _charge: Charge,
}

impl Request {
    /// The right to keep one more of `ring`. `None`: its user has too many.
    pub fn charge(ring: &Ring) -> Option<Charge> {
        Charge::new(&ring.user, UserResource::IoUringRequests, IO_URING_REQUESTS.load(Relaxed))
    }

    /// Keeps `job`, which the task of `context` has given to `ring`.
    pub fn new(ring: &Arc<Ring>, context: &Arc<Context>, job: Job, charge: Charge) -> Box<Self> {
        Box::new(Self {
            ring: ring.clone(),
            context: context.clone(),
            life: context.life(),
            job,
            rest: VecDeque::new(),
            limit: None,
            _charge: charge,
        })
    }

    /// Ends it and all that was to follow, without doing anything.
    pub fn cancel(self: Box<Self>) {
        self.fail(Errno::ECANCELED);
    }

    /// As [`cancel`](Self::cancel), itself with `errno`.
    pub fn fail(mut self: Box<Self>, errno: Errno) {
        let mut rest = core::mem::take(&mut self.rest);
        let mut is_silent = end(self, shown(Err(errno)), CqeFlags::empty(), Tell::Yes);
        while let Some(request) = rest.pop_front() {
            let tell = if is_silent { Tell::No } else { Tell::Yes };
            is_silent |= end(request, canceled(), CqeFlags::empty(), tell);
        }
    }
}

/// Whether an end is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tell {
    Yes,
    No,
}

/// Does `request` and what follows it. May sleep.
///
/// What waited for it in the queue of its ring may be another task's, which shares the ring: that task does it, with its
/// own files, memory and rights.
pub(crate) fn start(request: Box<Request>) {
    let own = Context::current();
    let mut next = Some(request);
    while let Some(request) = next {
        let ring = request.ring.clone();
        next = if Arc::ptr_eq(&request.context, &own) {
            begin(request)
        } else {
            later(request);
            None
        };
        // One that waits for its file does not hold up those behind it.
        next = next.or_else(|| ring.next_drained());
    }
}

/// Lets the task of `request` do it when it looks next; cancels it if that task is gone. May sleep.
pub(crate) fn later(request: Box<Request>) {
    let waiting = match Waiting::new(request, Kind::Nothing) {
        Ok(waiting) => waiting,
        Err(request) => return request.fail(Errno::ENOMEM),
    };
    waiting.queue();
    // Who ended the task or the ring meanwhile may not have found it.
    if waiting.is_left()
        && let Some(request) = waiting.take()
    {
        request.cancel();
    }
}

/// What one that was cancelled ends with.
pub(crate) fn canceled() -> i64 {
    shown(Err(Errno::ECANCELED))
}

/// Ends `request` with `res` and does what follows it. May sleep.
pub(crate) fn finish(request: Box<Request>, res: i64, flags: CqeFlags) {
    if let Some(next) = end_and_next(request, res, flags) {
        start(next);
    }
}

/// As [`finish`] for who is amid another request: what follows is done when its task looks next, so requests that end
/// each other do not nest.
pub(crate) fn finish_later(request: Box<Request>, res: i64, flags: CqeFlags) {
    if let Some(next) = end_and_next(request, res, flags) {
        later(next);
    }
}

/// Begins `request`; gives what is to be begun next.
fn begin(mut request: Box<Request>) -> Option<Box<Request>> {
    match request.job.begin(&request.ring) {
        Attempt::Done(res, flags) => end_and_next(request, res, flags),
        attempt => {
            wait(request, attempt);
            None
        }
    }
}

/// Lets `request` wait for what its `attempt` says.
pub(crate) fn wait(request: Box<Request>, attempt: Attempt) {
    match attempt {
        Attempt::Done(res, flags) => finish(request, res, flags),
        Attempt::Wait(events) => wait_for_file(request, events),
        Attempt::Time => crate::timeout::begin(request),
        Attempt::Again => later(request),
    }
}

/// Lets `request` wait for its file, within the time that the next of its chain gives it.
fn wait_for_file(mut request: Box<Request>, events: PollEvents) {
    let Some(file) = request.job.file.clone() else { return request.cancel() };
    if request.job.cred.is_none() {
        request.job.cred = Some(process::current().cred());
    }
    let limit = take_limit(&mut request);
    let waiting = match Waiting::new(request, Kind::File(file)) {
        Ok(waiting) => waiting,
        Err(mut request) => {
            if let Some(limit) = limit {
                request.rest.push_front(limit); // into the place that it had
            }
            return request.fail(Errno::ENOMEM);
        }
    };
    if let Some(limit) = limit {
        crate::timeout::limit(limit, &waiting);
    }
    waiting.observe(events);
    if waiting.ring().is_dead()
        && let Some(request) = waiting.take()
    {
        request.cancel();
    }
}

/// Takes the limit of its time out of the chain of `request`.
fn take_limit(request: &mut Request) -> Option<Box<Request>> {
    let is_limit = matches!(request.rest.front()?.job.op, Op::LinkTimeout(_));
    if is_limit { request.rest.pop_front() } else { None }
}

/// Ends `request`; gives the next one of its chain, or one that waited for all before it.
fn end_and_next(mut request: Box<Request>, res: i64, flags: CqeFlags) -> Option<Box<Request>> {
    let ring = request.ring.clone();
    let is_hard = request.job.flags.contains(SqeFlags::IO_HARDLINK);
    let failed = request.job.breaks_chain(res);
    let mut rest = core::mem::take(&mut request.rest);
    let is_silent = end(request, res, flags, Tell::Yes);
    let tell = if is_silent { Tell::No } else { Tell::Yes };
    // A limit whose request is over has nothing to limit.
    while rest.front().is_some_and(|next| matches!(next.job.op, Op::LinkTimeout(_))) {
        if let Some(limit) = rest.pop_front() {
            end(limit, canceled(), CqeFlags::empty(), tell);
        }
    }
    if failed && !is_hard {
        while let Some(next) = rest.pop_front() {
            end(next, canceled(), CqeFlags::empty(), tell);
        }
    }
    if let Some(mut next) = rest.pop_front() {
        next.rest = rest;
        return Some(next);
    }
    ring.next_drained()
}

/// Ends one request; says whether those that follow it end without a word (`IOSQE_CQE_SKIP_SUCCESS`).
fn end(mut request: Box<Request>, res: i64, flags: CqeFlags, tell: Tell) -> bool {
    let ring = request.ring.clone();
    if let Some(limit) = request.limit.take()
        && let Some(limit) = limit.take()
    {
        end(limit, canceled(), CqeFlags::empty(), tell);
    }
    if tell == Tell::Yes && request.job.post_end(&ring, res, flags) {
        ring.told();
    }
    let is_silent = res < 0 && request.job.flags.contains(SqeFlags::CQE_SKIP_SUCCESS);
    drop(request);
    ring.ended();
    is_silent
}
