//! What a request asks for: its entry, decoded, and the attempts to do it.
//!
//! ```text
//! decode ──▶ begin ──Done──▶ a completion
//!              │
//!              ├─Wait─▶ its file shall be ready   ┐
//!              ├─Time─▶ its time shall come       ├ in a `Request`, which keeps it
//!              └─Again▶ others have a turn        ┘
//! ```
//! A job lies on the stack of who took its entry and borrows the ring; what ends at once, as most do, allocates nothing. The
//! attempt is made in the submitting task, which does not wait in it for others ([`sched::without_waiting`]); it may sleep
//! for a disk.
//!
//! LINUX: what cannot be polled and would wait (a FIFO being opened, splice(2)) goes to a worker thread; here its submitter
//! waits.

use alloc::sync::Arc;

use abi::io_uring::{
    ACCEPT_MULTISHOT, Cqe, CqeFlags, RECV_MULTISHOT, RECVSEND_POLL_FIRST, Sqe, SqeFlags, op,
};
use abi::poll::PollEvents;
use abi::{Errno, Result};
use limits::Resource;
use process::cred;
use sched::PollTable;
use security::Cred;
use vfs::fdtable::Reserved;
use vfs::rw::RwFlags;
use vfs::{FdFlags, File};

use crate::buffers::Selected;
use crate::call::{Call, CallContext, Outcome};
use crate::completion::buffer_flags;
use crate::ops::{self, Cancel, Close, FilesUpdate, MsgRing, Poll, PollRemove, Provide, TimeoutRemove};
use crate::ring::Ring;
use crate::rw::Rw;
use crate::timeout::Timeout;
use crate::waiting::ALWAYS;

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
    /// It waits for its time.
    Time,
    /// It goes on after others.
    Again,
}

impl Attempt {
    pub fn failed(errno: Errno) -> Self {
        Self::Done(shown(Err(errno)), CqeFlags::empty())
    }
}

/// What a request asks for, and how far it is.
pub(crate) struct Job {
    pub op: Op,
    pub user_data: u64,
    pub file: Option<Arc<File>>,
    /// Whose rights it has, if not those of the task at the time.
    pub cred: Option<Arc<Cred>>,
    /// Its descriptor, or the place of its fixed file.
    fd: i32,
    /// Where its new file goes in the table of fixed files: 1 + the place; 0 for a descriptor.
    file_index: u32,
    /// The group that its buffer comes from.
    buf_group: u16,
    pub opcode: u8,
    pub flags: SqeFlags,
    is_multishot: bool,
    /// `EAGAIN` is its result and no reason to wait.
    is_nowait: bool,
    /// It waits before its first attempt.
    polls_first: bool,
    was_tried: bool,
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
pub(crate) fn shown(result: Result<usize>) -> i64 {
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

impl Job {
    /// A job of the kind and with the marks of `sqe`, which has nothing to do before it is [decoded](Self::decode).
    #[inline]
    pub fn new(sqe: &Sqe) -> Self {
        Self {
            op: Op::Nop(0),
            user_data: sqe.user_data,
            file: None,
            cred: None,
            fd: sqe.fd,
            file_index: if ops::makes_file(sqe.opcode) { sqe.file_index } else { 0 },
            buf_group: sqe.buf_index,
            opcode: sqe.opcode,
            flags: SqeFlags::from_bits_truncate(sqe.flags),
            is_multishot: false,
            is_nowait: false,
            polls_first: false,
            was_tried: false,
        }
    }

    /// Sets what `sqe` asks for. What is wrong with it becomes its operation.
    #[inline]
    pub fn decode(&mut self, ring: &Arc<Ring>, sqe: &Sqe) {
        match self.prepare(ring, sqe) {
            Ok(op) => self.op = op,
            Err(errno) => self.op = Op::Failed(errno),
        }
    }

    /// `EINVAL`, `EOPNOTSUPP`, `EACCES`, and the errors of the operation.
    #[inline]
    fn prepare(&mut self, ring: &Arc<Ring>, sqe: &Sqe) -> Result<Op> {
        ring.check_entry(sqe)?;
        if sqe.personality != 0 {
            self.cred = Some(ring.personality(sqe.personality)?);
        }
        let op = ops::prepare(ring, sqe)?;
        self.take_options(sqe);
        Ok(op)
    }

    /// Takes over what `sqe` says besides its operation.
    fn take_options(&mut self, sqe: &Sqe) {
        /// `MSG_DONTWAIT`.
        const DONTWAIT: u32 = 0x40;
        match sqe.opcode {
            op::ACCEPT => self.is_multishot = sqe.ioprio & ACCEPT_MULTISHOT != 0,
            op::RECV | op::RECVMSG | op::SEND | op::SENDMSG => {
                self.is_multishot =
                    matches!(sqe.opcode, op::RECV | op::RECVMSG) && sqe.ioprio & RECV_MULTISHOT != 0;
                self.polls_first = sqe.ioprio & RECVSEND_POLL_FIRST != 0;
                self.is_nowait = sqe.op_flags & DONTWAIT != 0;
            }
            op::READV | op::WRITEV | op::READ | op::WRITE | op::READ_FIXED | op::WRITE_FIXED => {
                self.is_nowait = sqe.op_flags & RwFlags::NOWAIT.bits() != 0;
            }
            _ => {}
        }
    }

    /// Whether it was refused before it began.
    #[inline]
    pub fn is_refused(&self) -> bool {
        matches!(self.op, Op::Failed(_))
    }

    /// Whether it ends without waiting for anybody; a read or write may still sleep for a disk.
    #[inline]
    pub fn is_short(&self) -> bool {
        matches!(self.op, Op::Nop(_) | Op::Failed(_) | Op::Rw(_))
    }

    /// Begins it: finds its file and tries. May sleep, but not for others.
    #[inline]
    pub fn begin(&mut self, ring: &Arc<Ring>) -> Attempt {
        match self.op {
            Op::Nop(res) => return Attempt::Done(i64::from(res), CqeFlags::empty()),
            Op::Failed(errno) => return Attempt::failed(errno),
            _ => {}
        }
        if let Err(errno) = self.find_file(ring) {
            return Attempt::failed(errno);
        }
        match &self.op {
            Op::Poll(poll) => Attempt::Wait(poll.events),
            Op::Timeout(_) => Attempt::Time,
            _ => self.attempt(ring),
        }
    }

    /// Finds its file. `EBADF`: it has none.
    fn find_file(&mut self, ring: &Ring) -> Result<()> {
        if self.file.is_some() || !ops::needs_file(self.opcode) {
            return Ok(());
        }
        let file = if self.flags.contains(SqeFlags::FIXED_FILE) {
            ring.fixed.file(self.fd)?
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
    pub fn attempt(&mut self, ring: &Arc<Ring>) -> Attempt {
        match self.cred.clone() {
            Some(cred) => cred::run_as(cred, || self.attempt_as_self(ring)),
            None => self.attempt_as_self(ring),
        }
    }

    fn attempt_as_self(&mut self, ring: &Arc<Ring>) -> Attempt {
        if core::mem::take(&mut self.polls_first) {
            return Attempt::Wait(direction(self.opcode));
        }
        for _ in 0..ROUNDS {
            let (res, flags) = match self.attempt_once(ring) {
                Attempt::Done(res, flags) => (res, flags),
                other => return other,
            };
            let is_end = if self.opcode == op::ACCEPT { res < 0 } else { res <= 0 };
            if !self.is_multishot || is_end {
                return Attempt::Done(res, flags);
            }
            if !self.tell_more(ring, res, flags) {
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

    fn attempt_once(&mut self, ring: &Arc<Ring>) -> Attempt {
        let mut selected = None;
        if self.flags.contains(SqeFlags::BUFFER_SELECT) && takes_buffer(&self.op) {
            match ring.groups.select(self.buf_group) {
                Ok(found) => selected = Some(found),
                Err(errno) => return Attempt::failed(errno),
            }
        }
        let polls =
            waits_by_poll(self.opcode) && self.file.as_ref().is_some_and(|file| file.ops().can_poll(file));
        let tries = polls || (self.file.is_none() && matches!(self.op, Op::Call(_)));
        let result = if tries {
            sched::without_waiting(|| self.perform(ring, selected.as_ref()))
        } else {
            self.perform(ring, selected.as_ref())
        };
        self.was_tried = true;
        if let Err(errno) = result {
            if let Some(selected) = selected {
                ring.groups.give_back(self.buf_group, selected);
            }
            if polls && would_wait(errno) && !(self.is_nowait && errno == Errno::EAGAIN) {
                return Attempt::Wait(direction(self.opcode));
            }
            let mut errno = errno;
            if tries && !polls && is_broken_off(errno) {
                match self.perform(ring, None) {
                    Ok(value) => return Attempt::Done(shown(Ok(value)), CqeFlags::empty()),
                    Err(again) => errno = again,
                }
            }
            // Another request that became ready woke it, and no signal: it waits on after that. A close is never repeated.
            let may_go_on = matches!(self.op, Op::Call(_) | Op::Rw(_));
            if may_go_on && is_broken_off(errno) && process::current().work_pending() {
                return Attempt::Again;
            }
            return Attempt::failed(errno);
        }
        let flags = selected.map_or(CqeFlags::empty(), |selected| buffer_flags(selected.id));
        Attempt::Done(shown(result), flags)
    }

    fn perform(&mut self, ring: &Arc<Ring>, selected: Option<&Selected>) -> Result<usize> {
        let buffer = selected.map(Selected::buffer);
        match &mut self.op {
            Op::Failed(errno) => Err(*errno),
            Op::Rw(rw) => rw.perform(self.file.as_ref().ok_or(Errno::EBADF)?, buffer),
            Op::Call(call) => {
                let context = CallContext { file: self.file.as_ref(), buffer, is_retry: self.was_tried };
                // Before the call: without a descriptor no connection is taken and no file is made.
                let needs_fd = self.file_index == 0 && ops::makes_file(self.opcode);
                let reserved = if needs_fd { Some(reserve_fd()?) } else { None };
                match (call(&context)?, reserved) {
                    (Outcome::Value(value), _) => Ok(value),
                    (Outcome::File(file, flags), Some(reserved)) => {
                        Ok(reserved.install_with(file, flags) as usize)
                    }
                    (Outcome::File(file, _), None) => ring.fixed.install(file, self.file_index),
                }
            }
            Op::PollRemove(remove) => remove.perform(ring),
            Op::TimeoutRemove(remove) => remove.perform(ring),
            Op::Cancel(cancel) => cancel.perform(ring),
            Op::FilesUpdate(update) => update.perform(ring),
            Op::Provide(provide) => provide.perform(ring),
            Op::Close(close) => close.perform(ring),
            Op::MsgRing(msg) => msg.perform(self.file.as_ref().ok_or(Errno::EBADF)?),
            // Those that wait are begun elsewhere, and nothing is done before.
            Op::Nop(_) | Op::Poll(_) | Op::Timeout(_) | Op::LinkTimeout(_) => Err(Errno::EINVAL),
        }
    }

    /// Tells a result that is not the last one. `false`: there is no place for it, so the request shall end.
    pub fn tell_more(&self, ring: &Ring, res: i64, flags: CqeFlags) -> bool {
        let told = ring.cq.try_post(self.completion(res, flags | CqeFlags::MORE));
        if told {
            ring.told();
        }
        told
    }

    /// As [`Ring::post_end`] for this one.
    #[inline]
    pub fn post_end(&self, ring: &Ring, res: i64, flags: CqeFlags) -> bool {
        ring.post_end(self.flags, self.completion(res, flags))
    }

    #[inline]
    fn completion(&self, res: i64, flags: CqeFlags) -> Cqe {
        Cqe { user_data: self.user_data, res: res as i32, flags: flags.bits() }
    }

    /// Whether a chain breaks when it ends with `res`: by a failure, or a read or write of less than was asked for.
    pub fn breaks_chain(&self, res: i64) -> bool {
        match &self.op {
            Op::Timeout(timeout) if timeout.is_success => res < 0 && res != -i64::from(Errno::ETIME.number()),
            Op::Rw(rw) => res < 0 || rw.is_short(res),
            _ => res < 0,
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
