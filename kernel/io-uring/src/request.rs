//! A request, from the copy of its entry to its completion.
//!
//! ```text
//! prepare ──▶ start ──▶ attempt ──Done──▶ finish ──▶ the next one of its chain
//!                          │  ▲
//!                        Wait │ its file is ready (`waiting`)
//!                          ▼  │
//!                         Waiting
//! ```
//! The attempt is made in the submitting task, which does not wait in it for others
//! ([`sched::without_waiting`]); it may sleep for a disk.
//!
//! LINUX: what cannot be polled and would wait (a FIFO being opened, splice(2)) goes to a worker thread; here its submitter
//! waits.

use alloc::collections::VecDeque;
use alloc::sync::Arc;

use abi::io_uring::{Cqe, CqeFlags, SqeFlags, op};
use abi::poll::PollEvents;
use abi::{Errno, Result};
use limits::Resource;
use process::cred;
use sched::PollTable;
use security::Cred;
use vfs::fdtable::Reserved;
use vfs::{FdFlags, File};

use crate::buffers::Selected;
use crate::call::{Call, CallContext, Outcome};
use crate::completion::buffer_flags;
use crate::context::Context;
use crate::ops::{Cancel, Close, FilesUpdate, MsgRing, Poll, PollRemove, Provide, TimeoutRemove};
use crate::ring::Ring;
use crate::rw::Rw;
use crate::timeout::Timeout;
use crate::waiting::{ALWAYS, Kind, Waiting};

/// Results that a request tells before others have their turn.
const ROUNDS: usize = 32;

/// What a request does.
pub(crate) enum Op {
    /// Nothing, with this result.
    Nop(i32),
    /// It was refused.
    Failed(Errno),
    Rw(Rw),
    Poll(Poll),
    PollRemove(PollRemove),
    Timeout(Timeout),
    LinkTimeout(Timeout),
    TimeoutRemove(TimeoutRemove),
    Cancel(Cancel),
    FilesUpdate(FilesUpdate),
    Provide(Provide),
    Close(Close),
    MsgRing(MsgRing),
    Call(Call),
}

/// How an attempt ended.
pub(crate) enum Attempt {
    /// With a result.
    Done(i64, CqeFlags),
    /// It waits for one of these events of its file.
    Wait(PollEvents),
    /// It goes on after others.
    Again,
}

/// A request.
pub(crate) struct Request {
    pub ring: Arc<Ring>,
    pub context: Arc<Context>,
    /// The life of the task that it was submitted in.
    pub life: u32,
    pub user_data: u64,
    pub opcode: u8,
    pub flags: SqeFlags,
    /// Its descriptor, or the place of its fixed file.
    pub fd: i32,
    pub op: Op,
    pub file: Option<Arc<File>>,
    /// Where its new file goes in the table of fixed files: 1 + the place; 0 for a descriptor.
    pub file_index: u32,
    /// Whose rights it has, if not those of the task at the time.
    pub cred: Option<Arc<Cred>>,
    /// The group that its buffer comes from.
    pub buf_group: u16,
    pub is_multishot: bool,
    /// `EAGAIN` is its result and no reason to wait.
    pub is_nowait: bool,
    /// It waits before its first attempt.
    pub polls_first: bool,
    pub was_tried: bool,
    /// What is to be done after it, in order.
    pub rest: VecDeque<Request>,
    /// What limits its time.
    pub limit: Option<Arc<Waiting>>,
}

/// Whether a call gave up because it would have had to wait.
fn would_wait(errno: Errno) -> bool {
    errno.is_internal() || matches!(errno, Errno::EINTR | Errno::EAGAIN | Errno::EINPROGRESS)
}

/// Whether a call ended because its task shall do something else.
fn is_broken_off(errno: Errno) -> bool {
    errno.is_internal() || errno == Errno::EINTR
}

/// A result as a completion shows it.
fn shown(result: Result<usize>) -> i64 {
    let seen = |errno: Errno| if errno.is_internal() { Errno::EINTR } else { errno };
    match result {
        Ok(value) => value as i64,
        Err(errno) => -i64::from(seen(errno).number()),
    }
}

/// Whether it goes on when its file is ready, if that can tell; others wait in the call.
fn waits_by_poll(opcode: u8) -> bool {
    matches!(
        opcode,
        op::READV
            | op::WRITEV
            | op::READ_FIXED
            | op::WRITE_FIXED
            | op::READ
            | op::WRITE
            | op::SENDMSG
            | op::RECVMSG
            | op::SEND
            | op::RECV
            | op::ACCEPT
            | op::CONNECT
    )
}

/// What the file is asked for when `opcode` would wait.
fn direction(opcode: u8) -> PollEvents {
    match opcode {
        op::WRITE | op::WRITEV | op::WRITE_FIXED | op::SEND | op::SENDMSG | op::CONNECT => {
            PollEvents::OUT | PollEvents::WRNORM
        }
        _ => PollEvents::IN | PollEvents::RDNORM,
    }
}

impl Request {
    /// Finds its file. `EBADF`: it has none.
    fn find_file(&mut self) -> Result<()> {
        let is_refused = matches!(self.op, Op::Failed(_));
        if is_refused || self.file.is_some() || !crate::ops::needs_file(self.opcode) {
            return Ok(());
        }
        let file = if self.flags.contains(SqeFlags::FIXED_FILE) {
            self.ring.fixed.file(self.fd)?
        } else {
            process::current().file(self.fd)?
        };
        if file.mode().contains(vfs::FileMode::PATH) {
            return Err(Errno::EBADF);
        }
        self.file = Some(file);
        Ok(())
    }

    /// Tries to do it, with its rights. May sleep, but not for others.
    pub fn attempt(&mut self) -> Attempt {
        match self.cred.clone() {
            Some(cred) => cred::run_as(cred, || self.attempt_as_self()),
            None => self.attempt_as_self(),
        }
    }

    fn attempt_as_self(&mut self) -> Attempt {
        if core::mem::take(&mut self.polls_first) {
            return Attempt::Wait(direction(self.opcode));
        }
        for _ in 0..ROUNDS {
            let (res, flags) = match self.attempt_once() {
                Attempt::Done(res, flags) => (res, flags),
                other => return other,
            };
            let is_end = if self.opcode == op::ACCEPT { res < 0 } else { res <= 0 };
            if !self.is_multishot || is_end {
                return Attempt::Done(res, flags);
            }
            if !self.tell_more(res, flags) {
                return Attempt::Done(res, flags);
            }
            // A buffer is taken only when there is something for it.
            if !self.is_ready() {
                return Attempt::Wait(direction(self.opcode));
            }
        }
        Attempt::Again
    }

    /// Whether its file has what it waits for.
    pub fn is_ready(&self) -> bool {
        let wanted = direction(self.opcode) | ALWAYS;
        self.file.as_ref().is_some_and(|file| file.poll(&mut PollTable::query()).intersects(wanted))
    }

    fn attempt_once(&mut self) -> Attempt {
        if let Op::Nop(res) = self.op {
            return Attempt::Done(i64::from(res), CqeFlags::empty());
        }
        let mut selected = None;
        if self.flags.contains(SqeFlags::BUFFER_SELECT) && takes_buffer(&self.op) {
            match self.ring.groups.select(self.buf_group) {
                Ok(found) => selected = Some(found),
                Err(errno) => return Attempt::Done(shown(Err(errno)), CqeFlags::empty()),
            }
        }
        let polls =
            waits_by_poll(self.opcode) && self.file.as_ref().is_some_and(|file| file.ops().can_poll(file));
        let tries = polls || (self.file.is_none() && matches!(self.op, Op::Call(_)));
        let result = if tries {
            sched::without_waiting(|| self.perform(selected.as_ref()))
        } else {
            self.perform(selected.as_ref())
        };
        self.was_tried = true;
        if let Err(errno) = result {
            if let Some(selected) = selected {
                self.ring.groups.give_back(self.buf_group, selected);
            }
            if polls && would_wait(errno) && !(self.is_nowait && errno == Errno::EAGAIN) {
                return Attempt::Wait(direction(self.opcode));
            }
            let mut errno = errno;
            if tries && !polls && is_broken_off(errno) {
                match self.perform(None) {
                    Ok(value) => return Attempt::Done(shown(Ok(value)), CqeFlags::empty()),
                    Err(again) => errno = again,
                }
            }
            // Another request that became ready woke it, and no signal: it waits on after that. A close is never repeated.
            let may_go_on = matches!(self.op, Op::Call(_) | Op::Rw(_));
            if may_go_on && is_broken_off(errno) && process::current().work_pending() {
                return Attempt::Again;
            }
            return Attempt::Done(shown(Err(errno)), CqeFlags::empty());
        }
        let flags = selected.map_or(CqeFlags::empty(), |selected| buffer_flags(selected.id));
        Attempt::Done(shown(result), flags)
    }

    fn perform(&mut self, selected: Option<&Selected>) -> Result<usize> {
        let buffer = selected.map(Selected::buffer);
        match &mut self.op {
            Op::Failed(errno) => Err(*errno),
            Op::Rw(rw) => rw.perform(self.file.as_ref().ok_or(Errno::EBADF)?, buffer),
            Op::Call(call) => {
                let context = CallContext { file: self.file.as_ref(), buffer, is_retry: self.was_tried };
                // Before the call: without a descriptor no connection is taken and no file is made.
                let needs_fd = self.file_index == 0 && crate::ops::makes_file(self.opcode);
                let reserved = if needs_fd { Some(reserve_fd()?) } else { None };
                match (call(&context)?, reserved) {
                    (Outcome::Value(value), _) => Ok(value),
                    (Outcome::File(file, flags), Some(reserved)) => {
                        Ok(reserved.install_with(file, flags) as usize)
                    }
                    (Outcome::File(file, _), None) => self.ring.fixed.install(file, self.file_index),
                }
            }
            Op::PollRemove(remove) => remove.perform(&self.ring),
            Op::TimeoutRemove(remove) => remove.perform(&self.ring),
            Op::Cancel(cancel) => cancel.perform(&self.ring),
            Op::FilesUpdate(update) => update.perform(&self.ring),
            Op::Provide(provide) => provide.perform(&self.ring),
            Op::Close(close) => close.perform(&self.ring),
            Op::MsgRing(msg) => msg.perform(self.file.as_ref().ok_or(Errno::EBADF)?),
            // Those that wait are begun elsewhere, and nothing is done before.
            Op::Nop(_) | Op::Poll(_) | Op::Timeout(_) | Op::LinkTimeout(_) => Err(Errno::EINVAL),
        }
    }

    /// Tells a result that is not the last one. `false`: there is no place for it, so the request shall end.
    pub fn tell_more(&self, res: i64, flags: CqeFlags) -> bool {
        let flags = flags | CqeFlags::MORE;
        let cqe = Cqe { user_data: self.user_data, res: res as i32, flags: flags.bits() };
        let told = self.ring.cq.try_post(cqe);
        if told {
            self.ring.told();
        }
        told
    }

    /// Ends it and all that was to follow, without doing anything.
    pub fn cancel(mut self) {
        let mut rest = core::mem::take(&mut self.rest);
        let res = -i64::from(Errno::ECANCELED.number());
        let mut is_silent = end(self, res, CqeFlags::empty(), Tell::Yes);
        while let Some(request) = rest.pop_front() {
            is_silent |= end(request, res, CqeFlags::empty(), if is_silent { Tell::No } else { Tell::Yes });
        }
    }
}

/// A descriptor for a file to come. `EMFILE`, `ENOMEM`.
fn reserve_fd() -> Result<Reserved> {
    let task = process::current();
    let limit = task.group().rlimits().cur(Resource::Nofile);
    let files = task.files().ok_or(Errno::EBADF)?;
    files.reserve(0, usize::try_from(limit).unwrap_or(usize::MAX), FdFlags::empty())
}

/// Whether a buffer of a group serves this operation.
fn takes_buffer(op: &Op) -> bool {
    matches!(op, Op::Rw(_) | Op::Call(_))
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
pub(crate) fn start(request: Request) {
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
pub(crate) fn later(request: Request) {
    let waiting = Waiting::new(request, Kind::Nothing);
    waiting.queue();
    // Who ended the task or the ring meanwhile may not have found it.
    if waiting.is_left()
        && let Some(request) = waiting.take()
    {
        request.cancel();
    }
}

/// Ends `request` with `res` and does what follows it. May sleep.
pub(crate) fn finish(request: Request, res: i64, flags: CqeFlags) {
    if let Some(next) = end_and_next(request, res, flags) {
        start(next);
    }
}

/// As [`finish`] for who is amid another request: what follows is done when its task looks next, so requests that end
/// each other do not nest.
pub(crate) fn finish_later(request: Request, res: i64, flags: CqeFlags) {
    if let Some(next) = end_and_next(request, res, flags) {
        later(next);
    }
}

/// Begins `request`; gives what is to be begun next.
fn begin(mut request: Request) -> Option<Request> {
    if let Err(errno) = request.find_file() {
        return end_and_next(request, shown(Err(errno)), CqeFlags::empty());
    }
    match &request.op {
        Op::Poll(poll) => {
            let wanted = poll.events;
            wait_for_file(request, wanted);
            return None;
        }
        Op::Timeout(_) => {
            crate::timeout::begin(request);
            return None;
        }
        _ => {}
    }
    match request.attempt() {
        Attempt::Done(res, flags) => end_and_next(request, res, flags),
        Attempt::Wait(events) => {
            wait_for_file(request, events);
            None
        }
        Attempt::Again => {
            later(request);
            None
        }
    }
}

/// Lets `request` wait for its file, within the time that the next of its chain gives it.
fn wait_for_file(mut request: Request, events: PollEvents) {
    let Some(file) = request.file.clone() else { return request.cancel() };
    if request.cred.is_none() {
        request.cred = Some(process::current().cred());
    }
    let limit = take_limit(&mut request);
    let waiting = Waiting::new(request, Kind::File(file));
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
fn take_limit(request: &mut Request) -> Option<Request> {
    let is_limit = matches!(request.rest.front()?.op, Op::LinkTimeout(_));
    if is_limit { request.rest.pop_front() } else { None }
}

/// Ends `request`; gives the next one of its chain, or one that waited for all before it.
fn end_and_next(mut request: Request, res: i64, flags: CqeFlags) -> Option<Request> {
    let ring = request.ring.clone();
    let is_hard = request.flags.contains(SqeFlags::IO_HARDLINK);
    let failed = res < 0 || is_short(&request, res);
    let failed = failed && !(res == -i64::from(Errno::ETIME.number()) && is_success_timeout(&request));
    let mut rest = core::mem::take(&mut request.rest);
    let is_silent = end(request, res, flags, Tell::Yes);
    let tell = if is_silent { Tell::No } else { Tell::Yes };
    let canceled = -i64::from(Errno::ECANCELED.number());
    // A limit whose request is over has nothing to limit.
    while rest.front().is_some_and(|next| matches!(next.op, Op::LinkTimeout(_))) {
        if let Some(limit) = rest.pop_front() {
            end(limit, canceled, CqeFlags::empty(), tell);
        }
    }
    if failed && !is_hard {
        while let Some(next) = rest.pop_front() {
            end(next, canceled, CqeFlags::empty(), tell);
        }
    }
    if let Some(mut next) = rest.pop_front() {
        next.rest = rest;
        return Some(next);
    }
    ring.next_drained()
}

/// Whether a read or write did less than it was asked for: that breaks a chain, too.
fn is_short(request: &Request, res: i64) -> bool {
    matches!(&request.op, Op::Rw(rw) if rw.is_short(res))
}

fn is_success_timeout(request: &Request) -> bool {
    matches!(&request.op, Op::Timeout(timeout) if timeout.is_success)
}

/// Ends one request; says whether those that follow it end without a word (`IOSQE_CQE_SKIP_SUCCESS`).
fn end(mut request: Request, res: i64, flags: CqeFlags, tell: Tell) -> bool {
    let ring = request.ring.clone();
    if let Some(limit) = request.limit.take()
        && let Some(limit) = limit.take()
    {
        end(limit, -i64::from(Errno::ECANCELED.number()), CqeFlags::empty(), tell);
    }
    let skips = request.flags.contains(SqeFlags::CQE_SKIP_SUCCESS);
    if tell == Tell::Yes && !(skips && res >= 0) {
        let cqe = Cqe { user_data: request.user_data, res: res as i32, flags: flags.bits() };
        ring.cq.post(cqe, [0; 2]);
        ring.told();
    }
    drop(request);
    ring.ended();
    skips && res < 0
}
