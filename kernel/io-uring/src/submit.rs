//! io_uring_enter(2): taking requests from the ring, and waiting for completions.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::*;

use abi::io_uring::{EnterFlags, SetupFlags, Sqe, SqeFlags};
use abi::{Errno, Result};
use sched::{Interruptible, WaitError};
use vfs::File;

use crate::context::Context;
use crate::ops;
use crate::request::{self, Op, Request};
use crate::ring::{Ring, Submitting, ring_of};

/// What io_uring_enter(2) is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Enter {
    /// Requests to take at most.
    pub to_submit: u32,
    /// Completions to wait for.
    pub min_complete: u32,
    /// `IORING_ENTER_*`.
    pub flags: EnterFlags,
    /// When the wait ends.
    pub deadline_ns: Option<u64>,
}

/// The ring `fd` of the caller, or its registered ring number `fd`. `EBADF`, `EINVAL`.
pub fn file(fd: i32, is_registered: bool) -> Result<Arc<File>> {
    if is_registered {
        return Context::current().registered(u32::try_from(fd).map_err(|_| Errno::EINVAL)?);
    }
    process::current().file(fd)
}

/// Takes requests; gives how many. May sleep.
///
/// `EOPNOTSUPP`: `file` is no ring. `EBADFD`: it is disabled. `EEXIST`: another task submits to it. `EBUSY`: too many
/// completions wait. `EINTR`: a signal ended the caller before it had its turn. `ENOMEM`.
pub fn submit(file: &File, enter: &Enter) -> Result<usize> {
    let ring = ring_of(file)?;
    if ring.is_disabled() {
        return Err(Errno::EBADFD);
    }
    if enter.to_submit == 0 {
        return Ok(0);
    }
    ring.check_issuer()?;
    let context = Context::current();
    context.note(ring)?;
    if ring.cq.is_swamped() {
        ring.cq.flush();
        if ring.cq.is_swamped() {
            return Err(Errno::EBUSY);
        }
    }
    let done = ring.take_requests(&context, enter.to_submit)?;
    // What was ready as soon as it was waited for.
    context.run_ready();
    Ok(done)
}

/// Waits for `enter.min_complete` completions. May sleep.
///
/// `EINTR`: a signal came first. `ETIME`: the time is over, and none came. `EEXIST`: what they come of is another task's to
/// do (`IORING_SETUP_DEFER_TASKRUN`).
pub fn wait(file: &File, enter: &Enter) -> Result<()> {
    let ring = ring_of(file)?;
    if ring.flags.contains(SetupFlags::DEFER_TASKRUN) {
        ring.check_issuer()?;
    }
    let context = Context::current();
    let min = enter.min_complete.min(ring.memory.shape().cq_entries);
    loop {
        context.run_ready();
        let is_interrupted = process::signal::do_task_work();
        ring.cq.flush();
        if ring.cq.ready() >= min {
            return Ok(());
        }
        if is_interrupted {
            // By a signal, or once more by work?
            if process::current().work_pending() {
                continue;
            }
            return if ring.cq.ready() > 0 { Ok(()) } else { Err(Errno::EINTR) };
        }
        context.watch(true);
        let is_ready = || (ring.cq.ready() >= min || context.has_ready()).then_some(());
        let waited = ring.wait.wait_deadline(is_ready, enter.deadline_ns, Interruptible::Yes);
        context.watch(false);
        if waited == Err(WaitError::TimedOut) {
            context.run_ready();
            ring.cq.flush();
            return if ring.cq.ready() > 0 { Ok(()) } else { Err(Errno::ETIME) };
        }
    }
}

impl Ring {
    /// Takes up to `max` requests and begins them; gives how many. `EINTR`: the task must end, and had no turn yet.
    ///
    /// A request of another process that shares the ring may keep it for itself as long as it likes, so the wait for it
    /// can be killed.
    fn take_requests(self: &Arc<Self>, context: &Arc<Context>, max: u32) -> Result<usize> {
        let mut state =
            self.submitting.lock_interruptible(Interruptible::Killable).map_err(|_| Errno::EINTR)?;
        let filled = self.memory.sq_tail().wrapping_sub(state.head);
        // A tail that is nonsense gives no more than there are places.
        let nr = filled.min(max).min(self.memory.shape().sq_entries);
        let mut done = 0;
        while done < nr && !process::current().fatal_signal_pending() {
            let place = self.memory.sqe_place(state.head);
            state.head = state.head.wrapping_add(1);
            let Some(place) = place else {
                self.memory.count_dropped();
                break;
            };
            done += 1;
            let sqe = self.memory.sqe(place);
            let goes_on = self.take_one(&mut state, context, &sqe);
            if !goes_on && !self.flags.contains(SetupFlags::SUBMIT_ALL) {
                break;
            }
        }
        self.end_chain(&mut state);
        self.sq_head.store(state.head, Relaxed);
        self.memory.set_sq_head(state.head);
        Ok(done as usize)
    }

    /// Takes the request `sqe`; says whether it was in order.
    fn take_one(self: &Arc<Self>, state: &mut Submitting, context: &Arc<Context>, sqe: &Sqe) -> bool {
        let request = self.make(context, sqe);
        let is_good = !matches!(request.op, Op::Failed(_));
        self.nr_open.fetch_add(1, SeqCst);
        let links = request.flags.intersects(SqeFlags::IO_LINK | SqeFlags::IO_HARDLINK);
        if !links && state.chain.is_empty() {
            self.go(request);
            return is_good;
        }
        // Without memory for a chain its requests go one by one; they were to be in order, and are.
        if state.chain.try_reserve(1).is_err() {
            self.end_chain(state);
            self.go(request);
            return is_good;
        }
        state.chain.push(request);
        if !links {
            self.end_chain(state);
        }
        is_good
    }

    /// Begins the chain that was put together, or ends it when one of it was refused.
    fn end_chain(&self, state: &mut Submitting) {
        if state.chain.is_empty() {
            return;
        }
        let mut chain = core::mem::take(&mut state.chain);
        if let Some(bad) = chain.iter().position(|request| matches!(request.op, Op::Failed(_))) {
            for (at, mut request) in chain.into_iter().enumerate() {
                if at != bad {
                    request.op = Op::Failed(Errno::ECANCELED);
                }
                let errno = if let Op::Failed(errno) = request.op { errno } else { Errno::ECANCELED };
                request::finish(request, -i64::from(errno.number()), abi::io_uring::CqeFlags::empty());
            }
            return;
        }
        let rest = VecDeque::from(chain.split_off(1));
        if let Some(mut head) = chain.pop() {
            // One of a chain that waits for all before makes the whole chain wait.
            if rest.iter().any(|request| request.flags.contains(SqeFlags::IO_DRAIN)) {
                head.flags |= SqeFlags::IO_DRAIN;
            }
            head.rest = rest;
            self.go(head);
        }
    }

    /// Begins `request` with its chain, unless it has to wait for those before.
    fn go(&self, request: Request) {
        let nr = 1 + request.rest.len() as u32;
        let is_drain = request.flags.contains(SqeFlags::IO_DRAIN);
        let waits = self.has_drained() || (is_drain && self.nr_open.load(SeqCst) > nr);
        if !waits {
            return request::start(request);
        }
        self.nr_open.fetch_sub(nr, SeqCst);
        match self.drain(request) {
            // The last of those before may have ended meanwhile.
            None => {
                if let Some(next) = self.next_drained() {
                    request::start(next);
                }
            }
            Some(request) => {
                self.nr_open.fetch_add(nr, SeqCst);
                request.cancel();
            }
        }
    }

    /// Makes a request of `sqe`. What is wrong with it becomes its operation.
    fn make(self: &Arc<Self>, context: &Arc<Context>, sqe: &Sqe) -> Request {
        let mut request = Request {
            ring: self.clone(),
            context: context.clone(),
            life: context.life(),
            user_data: sqe.user_data,
            opcode: sqe.opcode,
            flags: SqeFlags::from_bits_truncate(sqe.flags),
            fd: sqe.fd,
            op: Op::Nop(0),
            file: None,
            file_index: 0,
            cred: None,
            buf_group: sqe.buf_index,
            is_multishot: false,
            is_nowait: false,
            polls_first: false,
            was_tried: false,
            rest: VecDeque::new(),
            limit: None,
        };
        match self.check(sqe).and_then(|()| self.prepare(&mut request, sqe)) {
            Ok(()) => ops::apply(&mut request, sqe),
            Err(errno) => request.op = Op::Failed(errno),
        }
        request
    }

    /// The checks that all kinds share. `EINVAL`, `EOPNOTSUPP`, `EACCES`.
    fn check(&self, sqe: &Sqe) -> Result<()> {
        let flags = SqeFlags::from_bits(sqe.flags).ok_or(Errno::EINVAL)?;
        if !ops::is_supported(sqe.opcode) {
            return Err(Errno::EINVAL);
        }
        if flags.contains(SqeFlags::BUFFER_SELECT) && !ops::may_select(sqe.opcode) {
            return Err(Errno::EOPNOTSUPP);
        }
        self.restrictions.lock().check_request(sqe.opcode, flags)
    }

    fn prepare(self: &Arc<Self>, request: &mut Request, sqe: &Sqe) -> Result<()> {
        if sqe.personality != 0 {
            let cred = self.personalities.lock().get(&sqe.personality).cloned();
            request.cred = Some(cred.ok_or(Errno::EINVAL)?);
        }
        request.op = ops::prepare(self, sqe)?;
        Ok(())
    }
}
