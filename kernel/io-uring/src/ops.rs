//! Requests about requests, and what each kind of request needs.

use alloc::sync::Arc;

use abi::io_uring::{
    CancelFlags, Cqe, CqeFlags, FILE_INDEX_ALLOC, MSG_RING_FLAGS, PollFlags, Sqe, SqeFlags, TimeoutFlags, op,
};
use abi::poll::PollEvents;
use abi::raw::io_uring::{
    IORING_MSG_RING_CQE_SKIP, IORING_MSG_RING_FLAGS_PASS, IORING_NOP_INJECT_RESULT, io_uring_msg_ring_flags,
};
use abi::{Errno, Result};
use hal::{UserAddr, user};
use vfs::File;

use crate::call::calls;
use crate::job::{Job, Op};
use crate::request;
use crate::ring::{Ring, ring_of};
use crate::rw::Rw;
use crate::timeout::{self, Timeout};
use crate::waiting::ALWAYS;

/// Whether there is this kind of request.
#[inline]
pub(crate) fn is_supported(opcode: u8) -> bool {
    matches!(opcode, op::NOP..=op::SOCKET | op::FTRUNCATE | op::BIND | op::LISTEN | op::PIPE)
}

/// Whether its descriptor is an open file.
#[inline]
pub(crate) fn needs_file(opcode: u8) -> bool {
    matches!(
        opcode,
        op::READV
            ..=op::RECVMSG
                | op::ACCEPT
                | op::CONNECT
                | op::FALLOCATE
                | op::READ
                | op::WRITE
                | op::FADVISE
                | op::SEND
                | op::RECV
                | op::SPLICE
                | op::TEE
                | op::SHUTDOWN
                | op::MSG_RING
                | op::FSETXATTR
                | op::FGETXATTR
                | op::FTRUNCATE
                | op::BIND
                | op::LISTEN
    ) && opcode != op::POLL_REMOVE
}

/// Whether it can have a buffer selected for it.
#[inline]
pub(crate) fn may_select(opcode: u8) -> bool {
    matches!(opcode, op::READ | op::READV | op::RECV | op::RECVMSG)
}

/// Reads what `sqe` asks for, from its fields and the memory that they name. Errors are the request's result.
pub(crate) fn prepare(ring: &Arc<Ring>, sqe: &Sqe) -> Result<Op> {
    Ok(match sqe.opcode {
        op::NOP => Op::Nop(nop(sqe)?),
        op::READV | op::WRITEV | op::READ_FIXED | op::WRITE_FIXED | op::READ | op::WRITE => {
            Op::Rw(Rw::prepare(sqe, &ring.fixed)?)
        }
        op::POLL_ADD => Op::Poll(Poll::prepare(sqe)?),
        op::POLL_REMOVE => Op::PollRemove(PollRemove::prepare(sqe)?),
        op::TIMEOUT => Op::Timeout(Timeout::prepare(sqe, false)?),
        op::LINK_TIMEOUT => Op::LinkTimeout(Timeout::prepare(sqe, true)?),
        op::TIMEOUT_REMOVE => Op::TimeoutRemove(TimeoutRemove::prepare(sqe)?),
        op::ASYNC_CANCEL => Op::Cancel(Cancel::prepare(sqe)?),
        op::FILES_UPDATE => Op::FilesUpdate(FilesUpdate::prepare(sqe)?),
        op::PROVIDE_BUFFERS | op::REMOVE_BUFFERS => Op::Provide(Provide::prepare(sqe)?),
        op::CLOSE => Op::Close(Close::prepare(sqe)?),
        op::MSG_RING => Op::MsgRing(MsgRing::prepare(sqe)?),
        _ => Op::Call(calls()?.prepare(sqe)?),
    })
}

/// Whether the result of `opcode` is a new file.
#[inline]
pub(crate) fn makes_file(opcode: u8) -> bool {
    matches!(opcode, op::OPENAT | op::OPENAT2 | op::ACCEPT | op::SOCKET)
}

/// The result of a request to do nothing. `EINVAL`: flags. With `IORING_NOP_INJECT_RESULT` the result is the caller's.
#[inline]
pub(crate) fn nop(sqe: &Sqe) -> Result<i32> {
    if sqe.op_flags & !IORING_NOP_INJECT_RESULT != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(if sqe.op_flags & IORING_NOP_INJECT_RESULT != 0 { sqe.len as i32 } else { 0 })
}

/// A wait for events of a file.
pub(crate) struct Poll {
    pub events: PollEvents,
    pub is_multishot: bool,
}

/// What may be asked for.
fn poll_events(raw: u32) -> PollEvents {
    let flags = PollEvents::EXCLUSIVE | PollEvents::WAKEUP | PollEvents::ONESHOT | PollEvents::ET;
    (PollEvents::from_bits_truncate(raw) - flags) | ALWAYS
}

impl Poll {
    fn prepare(sqe: &Sqe) -> Result<Self> {
        if sqe.buf_index != 0 || sqe.off != 0 || sqe.addr != 0 {
            return Err(Errno::EINVAL);
        }
        let flags = PollFlags::from_bits(sqe.len).ok_or(Errno::EINVAL)?;
        if !PollFlags::ADD_MULTI.contains(flags) {
            return Err(Errno::EINVAL);
        }
        let is_multishot = flags.contains(PollFlags::ADD_MULTI);
        if is_multishot && SqeFlags::from_bits_truncate(sqe.flags).contains(SqeFlags::CQE_SKIP_SUCCESS) {
            return Err(Errno::EINVAL);
        }
        Ok(Self { events: poll_events(sqe.op_flags), is_multishot })
    }
}

/// The end or a change of a poll request.
pub(crate) struct PollRemove {
    user_data: u64,
    events: Option<(PollEvents, bool)>,
    new_user_data: Option<u64>,
}

impl PollRemove {
    fn prepare(sqe: &Sqe) -> Result<Self> {
        if sqe.buf_index != 0 || sqe.file_index != 0 {
            return Err(Errno::EINVAL);
        }
        let flags = PollFlags::from_bits(sqe.len).ok_or(Errno::EINVAL)?;
        if flags.contains(PollFlags::ADD_LEVEL) {
            return Err(Errno::EINVAL);
        }
        let updates = flags.intersects(PollFlags::UPDATE_EVENTS | PollFlags::UPDATE_USER_DATA);
        if (!updates && !flags.is_empty())
            || (!flags.contains(PollFlags::UPDATE_EVENTS) && sqe.op_flags != 0)
            || (!flags.contains(PollFlags::UPDATE_USER_DATA) && sqe.off != 0)
        {
            return Err(Errno::EINVAL);
        }
        let is_multishot = flags.contains(PollFlags::ADD_MULTI);
        Ok(Self {
            user_data: sqe.addr,
            events: flags
                .contains(PollFlags::UPDATE_EVENTS)
                .then(|| (poll_events(sqe.op_flags), is_multishot)),
            new_user_data: flags.contains(PollFlags::UPDATE_USER_DATA).then_some(sqe.off),
        })
    }

    /// `ENOENT`: there is no such request. May sleep.
    pub fn perform(&self, ring: &Arc<Ring>) -> Result<usize> {
        let found = ring
            .find(|job| job.user_data == self.user_data && matches!(job.op, Op::Poll(_)))
            .ok_or(Errno::ENOENT)?;
        if self.events.is_none() && self.new_user_data.is_none() {
            let request = found.take().ok_or(Errno::EALREADY)?;
            request::finish_later(request, request::canceled(), CqeFlags::empty());
            return Ok(0);
        }
        let events = found.edit(|request| {
            if let Some(user_data) = self.new_user_data {
                request.job.user_data = user_data;
            }
            if let (Op::Poll(poll), Some((events, is_multishot))) = (&mut request.job.op, self.events) {
                (poll.events, poll.is_multishot) = (events, is_multishot);
                Some(events)
            } else {
                None
            }
        });
        if let Some(events) = events.ok_or(Errno::EALREADY)? {
            found.observe(events);
        }
        Ok(0)
    }
}

/// The end or a change of a timeout.
pub(crate) struct TimeoutRemove {
    user_data: u64,
    update: Option<(u64, TimeoutFlags)>,
}

impl TimeoutRemove {
    fn prepare(sqe: &Sqe) -> Result<Self> {
        let flags = TimeoutFlags::from_bits(sqe.op_flags).ok_or(Errno::EINVAL)?;
        if sqe.buf_index != 0 || sqe.len != 0 || sqe.file_index != 0 {
            return Err(Errno::EINVAL);
        }
        let update = if flags.intersects(TimeoutFlags::UPDATE | TimeoutFlags::LINK_UPDATE) {
            let known = TimeoutFlags::UPDATE
                | TimeoutFlags::LINK_UPDATE
                | TimeoutFlags::ABS
                | TimeoutFlags::BOOTTIME
                | TimeoutFlags::REALTIME;
            if !known.contains(flags) {
                return Err(Errno::EINVAL);
            }
            Some((timeout::read_ns(sqe.off)?, flags))
        } else if flags.is_empty() {
            None
        } else {
            return Err(Errno::EINVAL);
        };
        Ok(Self { user_data: sqe.addr, update })
    }

    pub fn perform(&self, ring: &Arc<Ring>) -> Result<usize> {
        match self.update {
            None => timeout::remove(ring, self.user_data)?,
            Some((ns, flags)) => timeout::update(ring, self.user_data, ns, flags)?,
        }
        Ok(0)
    }
}

/// Which requests are to be cancelled.
pub(crate) struct Cancel {
    pub flags: CancelFlags,
    pub user_data: u64,
    pub fd: i32,
    pub opcode: u8,
}

impl Cancel {
    fn prepare(sqe: &Sqe) -> Result<Self> {
        if sqe.off != 0 || sqe.file_index != 0 {
            return Err(Errno::EINVAL);
        }
        let flags = CancelFlags::from_bits(sqe.op_flags).ok_or(Errno::EINVAL)?;
        let cancel = Self { flags, user_data: sqe.addr, fd: sqe.fd, opcode: sqe.len as u8 };
        if flags.contains(CancelFlags::ANY) && flags.intersects(CancelFlags::FD | CancelFlags::OP) {
            return Err(Errno::EINVAL);
        }
        Ok(cancel)
    }

    /// The file whose requests are meant, if these are. `EBADF`.
    pub fn file(&self, ring: &Ring) -> Result<Option<Arc<File>>> {
        if !self.flags.contains(CancelFlags::FD) {
            return Ok(None);
        }
        let is_fixed = self.flags.contains(CancelFlags::FD_FIXED);
        let file = if is_fixed { ring.fixed.file(self.fd)? } else { process::current().file(self.fd)? };
        Ok(Some(file))
    }

    /// Whether `job` is meant; `file` is what [`file`](Self::file) gave.
    pub fn fits(&self, job: &Job, file: Option<&Arc<File>>) -> bool {
        let flags = self.flags;
        if flags.contains(CancelFlags::ANY) {
            return true;
        }
        let by_data =
            flags.contains(CancelFlags::USERDATA) || !flags.intersects(CancelFlags::FD | CancelFlags::OP);
        if by_data && job.user_data != self.user_data {
            return false;
        }
        if flags.contains(CancelFlags::OP) && job.opcode != self.opcode {
            return false;
        }
        match file {
            Some(file) => job.file.as_ref().is_some_and(|own| Arc::ptr_eq(own, file)),
            None => true,
        }
    }

    /// Gives how many were cancelled if all or any are meant, else 0. `ENOENT`: there is none. May sleep.
    pub fn perform(&self, ring: &Arc<Ring>) -> Result<usize> {
        let file = self.file(ring)?;
        let all = self.flags.intersects(CancelFlags::ALL | CancelFlags::ANY);
        let mut done = 0;
        // Those that come while others end are not meant.
        let mut limit = ring.next_key();
        loop {
            let found = ring.find_below(limit, |job| self.fits(job, file.as_ref()));
            let Some(waiting) = found else { break };
            limit = waiting.key();
            let Some(request) = waiting.take() else { continue };
            request::finish_later(request, request::canceled(), CqeFlags::empty());
            done += 1;
            if !all {
                return Ok(0);
            }
        }
        if all {
            return Ok(done);
        }
        if ring.cancel_drained(|job| self.fits(job, file.as_ref())) { Ok(0) } else { Err(Errno::ENOENT) }
    }
}

/// New files for the table.
pub(crate) struct FilesUpdate {
    fds: u64,
    nr: u32,
    offset: u32,
}

impl FilesUpdate {
    fn prepare(sqe: &Sqe) -> Result<Self> {
        let flags = SqeFlags::from_bits_truncate(sqe.flags);
        let is_odd = flags.intersects(SqeFlags::FIXED_FILE | SqeFlags::BUFFER_SELECT);
        if is_odd || sqe.op_flags != 0 || sqe.file_index != 0 || sqe.len == 0 {
            return Err(Errno::EINVAL);
        }
        Ok(Self { fds: sqe.addr, nr: sqe.len, offset: sqe.off as u32 })
    }

    pub fn perform(&self, ring: &Arc<Ring>) -> Result<usize> {
        if self.offset == FILE_INDEX_ALLOC {
            return self.install_all(ring);
        }
        crate::register::update_files(ring, self.offset, UserAddr(self.fds), self.nr)
    }

    /// Puts the files where there is room, and tells where.
    fn install_all(&self, ring: &Arc<Ring>) -> Result<usize> {
        let mut done = 0;
        for n in 0..self.nr.min(crate::fixed::MAX_FILES) {
            let at = UserAddr(self.fds.wrapping_add(u64::from(n) * 4));
            let one = || -> Result<()> {
                let fd: i32 = user::read(at)?;
                let file = crate::register::fixed_file(fd)?.ok_or(Errno::EBADF)?;
                let place = ring.fixed.install(file, u32::MAX)?;
                if user::write(at, &(place as i32)).is_err() {
                    let old = ring.fixed.replace_file(place as u32, None)?;
                    drop(old);
                    return Err(Errno::EFAULT);
                }
                Ok(())
            };
            match one() {
                Ok(()) => done += 1,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

/// Buffers for a group, or out of it.
pub(crate) struct Provide {
    addr: u64,
    len: u32,
    nr: u32,
    group: u16,
    first: u16,
    removes: bool,
}

impl Provide {
    fn prepare(sqe: &Sqe) -> Result<Self> {
        let removes = sqe.opcode == op::REMOVE_BUFFERS;
        let nr = u32::try_from(sqe.fd).ok().filter(|nr| (1..=65536).contains(nr)).ok_or(Errno::E2BIG)?;
        let common =
            Self { addr: sqe.addr, len: sqe.len, nr, group: sqe.buf_index, first: sqe.off as u16, removes };
        if sqe.op_flags != 0 || sqe.file_index != 0 {
            return Err(Errno::EINVAL);
        }
        if removes {
            let is_plain = sqe.addr == 0 && sqe.len == 0 && sqe.off == 0;
            return if is_plain { Ok(common) } else { Err(Errno::EINVAL) };
        }
        if sqe.len == 0 {
            return Err(Errno::EINVAL);
        }
        let bytes = u64::from(sqe.len).checked_mul(u64::from(nr)).ok_or(Errno::EOVERFLOW)?;
        let end = sqe.addr.checked_add(bytes).ok_or(Errno::EOVERFLOW)?;
        if end > hal::USER_END {
            return Err(Errno::EFAULT);
        }
        if sqe.off > 0xffff {
            return Err(Errno::E2BIG);
        }
        if sqe.off + u64::from(nr) > 65536 {
            return Err(Errno::EINVAL);
        }
        Ok(common)
    }

    pub fn perform(&self, ring: &Ring) -> Result<usize> {
        if self.removes {
            return ring.groups.remove(self.group, self.nr);
        }
        ring.groups.provide(self.group, self.addr, self.len, self.nr, self.first).map(|()| 0)
    }
}

/// The end of a descriptor or a fixed file.
pub(crate) struct Close {
    fd: i32,
    index: u32,
}

impl Close {
    fn prepare(sqe: &Sqe) -> Result<Self> {
        let is_odd = sqe.off != 0 || sqe.addr != 0 || sqe.len != 0 || sqe.op_flags != 0 || sqe.buf_index != 0;
        if is_odd || (sqe.file_index != 0 && sqe.fd != 0) {
            return Err(Errno::EINVAL);
        }
        if SqeFlags::from_bits_truncate(sqe.flags).contains(SqeFlags::FIXED_FILE) {
            return Err(Errno::EBADF);
        }
        Ok(Self { fd: sqe.fd, index: sqe.file_index })
    }

    pub fn perform(&self, ring: &Ring) -> Result<usize> {
        if let Some(at) = self.index.checked_sub(1) {
            let old = ring.fixed.replace_file(at, None)?;
            return old.map(|_| 0).ok_or(Errno::EBADF);
        }
        let files = process::current().files().ok_or(Errno::EBADF)?;
        if crate::ring::is_ring(&*files.get_any(self.fd)?) {
            return Err(Errno::EBADF);
        }
        files.close(self.fd).map(|()| 0)
    }
}

/// A completion for another ring.
pub(crate) struct MsgRing {
    user_data: u64,
    len: u32,
    flags: u32,
    cqe_flags: u32,
    command: u64,
    source: u64,
}

impl MsgRing {
    fn prepare(sqe: &Sqe) -> Result<Self> {
        if sqe.buf_index != 0 || sqe.personality != 0 || sqe.op_flags & !MSG_RING_FLAGS != 0 {
            return Err(Errno::EINVAL);
        }
        Ok(Self {
            user_data: sqe.off,
            len: sqe.len,
            flags: sqe.op_flags,
            cqe_flags: sqe.file_index,
            command: sqe.addr,
            source: sqe.addr3,
        })
    }

    /// `EBADFD`: the file is no ring, or a disabled one. `EINVAL`. `EOVERFLOW`: no place for the completion.
    pub fn perform(&self, file: &Arc<File>) -> Result<usize> {
        /// LINUX: `IORING_MSG_SEND_FD` sends a fixed file, and may skip the completion; here it is `EINVAL`.
        const DATA: u64 = io_uring_msg_ring_flags::IORING_MSG_DATA as u64;
        let target = ring_of(file).map_err(|_| Errno::EBADFD)?;
        if target.is_disabled() || target.is_dead() {
            return Err(Errno::EBADFD);
        }
        let passes = self.flags & IORING_MSG_RING_FLAGS_PASS != 0;
        if self.command != DATA
            || self.source != 0
            || self.flags & IORING_MSG_RING_CQE_SKIP != 0
            || (!passes && self.cqe_flags != 0)
        {
            return Err(Errno::EINVAL);
        }
        let flags = if passes { self.cqe_flags } else { 0 };
        let cqe = Cqe { user_data: self.user_data, res: self.len as i32, flags };
        if !target.cq.try_post(cqe) {
            return Err(Errno::EOVERFLOW);
        }
        target.told();
        Ok(0)
    }
}
