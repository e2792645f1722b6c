//! io_uring_enter(2): taking requests from the ring, and waiting for completions.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::*;

use abi::io_uring::{Cqe, CqeFlags, EnterFlags, SetupFlags, Sqe, SqeFlags, op};
use abi::{Errno, Result};
use sched::{Interruptible, WaitError};
use vfs::File;

use crate::context::Context;
use crate::job::{Attempt, Job, Op};
use crate::ops;
use crate::request::{self, Request};
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
/// completions wait. `EINTR`: a signal ended the caller before it had its turn. `ENOMEM`. `EAGAIN`: nothing can be kept now.
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

/// How taking an entry ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// It was in order.
    Good,
    /// It was refused: what follows is taken with `SUBMIT_ALL` only.
    Refused,
    /// It stays in the ring: there is no room to keep it.
    NoRoom,
}

/// Completions after which those who wait for some are woken, at the latest.
const MOST_UNTOLD: u32 = 32;
/// Entries after which it is looked whether the task shall end.
const TURN: u32 = 16;

impl Ring {
    /// Takes up to `max` entries and begins their requests; gives how many.
    ///
    /// `EINTR`: the task must end, and had no turn yet. `EAGAIN`: the first one cannot be kept now.
    ///
    /// A request of another process that shares the ring may keep it for itself as long as it likes, so the wait for it
    /// can be killed.
    fn take_requests(self: &Arc<Self>, context: &Arc<Context>, max: u32) -> Result<usize> {
        let mut state =
            self.submitting.lock_interruptible(Interruptible::Killable).map_err(|_| Errno::EINTR)?;
        let filled = self.memory.sq_tail().wrapping_sub(state.head);
        // A tail that is nonsense gives no more than there are places.
        let nr = filled.min(max).min(self.memory.shape().sq_entries);
        let submits_all = self.flags.contains(SetupFlags::SUBMIT_ALL);
        let task = process::current();
        let mut sqe = Sqe::default();
        let (mut done, mut result) = (0, Ok(()));
        while done < nr && !(done % TURN == 0 && task.fatal_signal_pending()) {
            let Some(place) = self.memory.sqe_place(state.head) else {
                state.head = state.head.wrapping_add(1);
                self.memory.count_dropped();
                break;
            };
            self.memory.read_sqe(place, &mut sqe);
            let taken = self.take_one(&mut state, context, &sqe);
            if taken == Taken::NoRoom {
                result = Err(Errno::EAGAIN);
                break;
            }
            state.head = state.head.wrapping_add(1);
            done += 1;
            if taken == Taken::Refused && !submits_all {
                break;
            }
        }
        self.end_chain(&mut state);
        self.tell(&mut state);
        self.sq_head.store(state.head, Relaxed);
        self.memory.set_sq_head(state.head);
        if done == 0 { result.map(|()| 0) } else { Ok(done as usize) }
    }

    /// Takes the entry `sqe`. What has no part in an order is tried on the spot, and kept only if it has to wait.
    #[inline]
    fn take_one(self: &Arc<Self>, state: &mut Submitting, context: &Arc<Context>, sqe: &Sqe) -> Taken {
        const ORDER: SqeFlags = SqeFlags::IO_LINK.union(SqeFlags::IO_HARDLINK).union(SqeFlags::IO_DRAIN);
        let flags = SqeFlags::from_bits_truncate(sqe.flags);
        let is_in_order = flags.intersects(ORDER) || !state.chain.is_empty() || self.has_drained();
        if sqe.opcode == op::NOP && sqe.personality == 0 && !is_in_order {
            return self.do_nothing(state, flags, sqe);
        }
        let mut job = Job::new(sqe);
        job.decode(self, sqe);
        if is_in_order {
            return self.take_in_order(state, context, job);
        }
        let taken = if job.is_refused() { Taken::Refused } else { Taken::Good };
        // Who waits for the completions so far does not wait for what may take long.
        if state.untold >= MOST_UNTOLD || !job.is_short() {
            self.tell(state);
        }
        match job.begin(self) {
            Attempt::Done(res, flags) => state.untold += u32::from(job.post_end(self, res, flags)),
            attempt => self.keep(context, job, attempt),
        }
        taken
    }

    /// Takes an entry that asks for nothing but its completion.
    #[inline]
    fn do_nothing(&self, state: &mut Submitting, flags: SqeFlags, sqe: &Sqe) -> Taken {
        if state.untold >= MOST_UNTOLD {
            self.tell(state);
        }
        let result = self.check_entry(sqe).and_then(|()| ops::nop(sqe));
        let (taken, res) = match result {
            Ok(res) => (Taken::Good, res),
            Err(errno) => (Taken::Refused, -errno.number()),
        };
        let cqe = Cqe { user_data: sqe.user_data, res, flags: 0 };
        state.untold += u32::from(self.post_end(flags, cqe));
        taken
    }

    /// Wakes who waits for completions, if some came.
    fn tell(&self, state: &mut Submitting) {
        if core::mem::take(&mut state.untold) > 0 {
            self.told();
        }
    }

    /// Keeps `job`, which has to wait as its first `attempt` says. It ends with `ENOMEM` if that cannot be.
    #[inline(never)]
    fn keep(self: &Arc<Self>, context: &Arc<Context>, job: Job, attempt: Attempt) {
        let Some(charge) = Request::charge(self) else {
            if job.post_end(self, -i64::from(Errno::ENOMEM.number()), CqeFlags::empty()) {
                self.told();
            }
            return;
        };
        self.nr_open.fetch_add(1, SeqCst);
        request::wait(Request::new(self, context, job, charge), attempt);
    }

    /// Takes `job`, which is of a chain, or waits for those before it.
    #[inline(never)]
    fn take_in_order(self: &Arc<Self>, state: &mut Submitting, context: &Arc<Context>, job: Job) -> Taken {
        let taken = if job.is_refused() { Taken::Refused } else { Taken::Good };
        self.tell(state);
        if state.chain.try_reserve(1).is_err() {
            return Taken::NoRoom;
        }
        let Some(charge) = Request::charge(self) else { return Taken::NoRoom };
        let links = job.flags.intersects(SqeFlags::IO_LINK | SqeFlags::IO_HARDLINK);
        self.nr_open.fetch_add(1, SeqCst);
        let request = Request::new(self, context, job, charge);
        if !links && state.chain.is_empty() {
            self.go(request);
            return taken;
        }
        state.chain.push_back(request);
        if !links {
            self.end_chain(state);
        }
        taken
    }

    /// Begins the chain that was put together, or ends it when one of it was refused.
    fn end_chain(&self, state: &mut Submitting) {
        let mut chain = core::mem::take(&mut state.chain);
        if let Some(bad) = chain.iter().position(|request| request.job.is_refused()) {
            for (at, mut request) in chain.into_iter().enumerate() {
                if at != bad {
                    request.job.op = Op::Failed(Errno::ECANCELED);
                }
                let errno = if let Op::Failed(errno) = request.job.op { errno } else { Errno::ECANCELED };
                request::finish(request, -i64::from(errno.number()), CqeFlags::empty());
            }
            return;
        }
        let Some(mut head) = chain.pop_front() else { return };
        // One of a chain that waits for all before makes the whole chain wait.
        if chain.iter().any(|request| request.job.flags.contains(SqeFlags::IO_DRAIN)) {
            head.job.flags |= SqeFlags::IO_DRAIN;
        }
        head.rest = chain;
        self.go(head);
    }

    /// Begins `request` with its chain, unless it has to wait for those before.
    fn go(&self, request: Box<Request>) {
        let nr = 1 + request.rest.len() as u32;
        let is_drain = request.job.flags.contains(SqeFlags::IO_DRAIN);
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
                request.fail(Errno::ENOMEM);
            }
        }
    }
}
