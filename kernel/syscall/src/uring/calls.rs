//! The system calls of requests, but for those of messages.
//!
//! Each becomes a closure that holds its arguments. What they point to is read when the call is made: with the submission,
//! unless the request waits for others.
//!
//! LINUX: path names and the like of requests in a chain are read when the chain is submitted.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{OpenFlags, OpenHow};
use abi::io_uring::{FSYNC_DATASYNC, SPLICE_FD_IN_FIXED, Sqe, op};
use abi::{Errno, Result};
use hal::UserAddr;
use hal::trap::UserRegs;
use hal::uio::UserBuf;
use io_uring::{Call, CallContext, Calls, Outcome};
use vfs::open::How;
use vfs::{At, File, SyncMode, splice};

use super::messages;
use crate::caller::{self, Caller, rlimit};
use crate::file::after_write;
use crate::path::{self, read_versioned};
use crate::{Cx, fd, mem, poll, xattr};
use limits::Resource;

/// Who makes the calls.
pub(super) struct Table;

impl Calls for Table {
    fn prepare(&self, sqe: &Sqe) -> Result<Call> {
        check_fields(sqe)?;
        match sqe.opcode {
            op::SENDMSG | op::RECVMSG | op::SEND | op::RECV | op::ACCEPT | op::CONNECT => {
                messages::prepare(sqe)
            }
            op::SHUTDOWN | op::SOCKET | op::BIND | op::LISTEN => messages::prepare(sqe),
            op::OPENAT | op::OPENAT2 => open(sqe),
            op::FSYNC | op::SYNC_FILE_RANGE | op::FALLOCATE | op::FADVISE | op::FTRUNCATE => on_file(sqe),
            op::SPLICE | op::TEE => splice(sqe),
            _ => plain(*sqe),
        }
    }

    fn buffers(&self, addr: UserAddr, count: usize) -> Result<Vec<UserBuf>> {
        caller::iovec(addr, count)
    }

    fn wrote(&self, file: &File, result: Result<usize>) -> Result<usize> {
        after_write(file, result)
    }

    fn wall_ns(&self) -> u64 {
        crate::time::wall_ns()
    }
}

/// `EINVAL`: fields that mean nothing to the operation are not zero.
fn check_fields(sqe: &Sqe) -> Result<()> {
    let makes_file = matches!(sqe.opcode, op::OPENAT | op::OPENAT2 | op::ACCEPT | op::SOCKET);
    let uses_index = makes_file
        || matches!(
            sqe.opcode,
            op::SPLICE | op::TEE | op::LINKAT | op::RENAMEAT | op::PIPE | op::SEND | op::SENDMSG
        );
    let uses_priority = matches!(sqe.opcode, op::ACCEPT | op::SEND | op::SENDMSG | op::RECV | op::RECVMSG);
    let uses_group = matches!(sqe.opcode, op::RECV | op::RECVMSG);
    let is_odd = (!uses_index && sqe.file_index != 0)
        || (!uses_priority && sqe.ioprio != 0)
        || (!uses_group && sqe.buf_index != 0);
    if is_odd { Err(Errno::EINVAL) } else { Ok(()) }
}

/// Makes a call of a function of the file.
pub(super) fn with_file(
    mut call: impl FnMut(&Arc<File>, &CallContext<'_>) -> Result<usize> + Send + 'static,
) -> Call {
    Box::new(move |cx| call(cx.file.ok_or(Errno::EBADF)?, cx).map(Outcome::Value))
}

/// openat(2) and openat2(2) into a descriptor or a fixed file.
fn open(sqe: &Sqe) -> Result<Call> {
    let (dirfd, is_fixed) = (sqe.fd, sqe.file_index != 0);
    let how = if sqe.opcode == op::OPENAT {
        How::new(sqe.op_flags, sqe.len)?
    } else {
        const SIZE: usize = size_of::<OpenHow>();
        let size = sqe.len as usize;
        if size < SIZE {
            return Err(Errno::EINVAL);
        }
        if size > hal::PAGE_SIZE {
            return Err(Errno::E2BIG);
        }
        let mut bytes = [0; SIZE];
        read_versioned(UserAddr(sqe.off), size, &mut bytes)?;
        How::from_openat2(&zerocopy::transmute!(bytes))?
    };
    // A fixed file is no descriptor that could be closed.
    if is_fixed && how.flags().contains(OpenFlags::CLOEXEC) {
        return Err(Errno::EINVAL);
    }
    let name = caller::path(UserAddr(sqe.addr))?;
    Ok(Box::new(move |_| {
        let caller = Caller::new()?;
        let file = vfs::open::open(&caller.walk(), At::from_raw(dirfd), &name, &how)?;
        Ok(Outcome::File(file, caller::cloexec(how.flags())))
    }))
}

/// Calls on the file of the request.
fn on_file(sqe: &Sqe) -> Result<Call> {
    let sqe = *sqe;
    Ok(match sqe.opcode {
        op::FSYNC if sqe.op_flags & !FSYNC_DATASYNC != 0 || sqe.addr != 0 => return Err(Errno::EINVAL),
        op::FSYNC => {
            let mode = if sqe.op_flags & FSYNC_DATASYNC != 0 { SyncMode::Data } else { SyncMode::Full };
            with_file(move |file, _| vfs::fcntl::fsync(file, mode).map(|()| 0))
        }
        op::SYNC_FILE_RANGE => {
            const ALL: u32 = 7;
            let end = sqe.off.checked_add(u64::from(sqe.len)).filter(|end| *end <= i64::MAX as u64);
            if sqe.op_flags & !ALL != 0 || end.is_none() {
                return Err(Errno::EINVAL);
            }
            let end = if sqe.len == 0 { u64::MAX } else { end.unwrap_or(u64::MAX) };
            with_file(move |file, _| file.ops().sync_range(file, sqe.off..end).map(|()| 0))
        }
        op::FALLOCATE => with_file(move |file, _| {
            let (offset, len) = (sqe.off as i64, sqe.addr as i64);
            let fsize = rlimit(Resource::Fsize);
            after_write(file, vfs::attr::fallocate(file, sqe.len, offset, len, fsize).map(|()| 0))
        }),
        op::FADVISE => {
            let len = if sqe.len == 0 { sqe.addr as i64 } else { i64::from(sqe.len) };
            with_file(move |file, _| crate::file::advise(file, sqe.off as i64, len, sqe.op_flags as i32))
        }
        _ => with_file(move |file, _| {
            let fsize = rlimit(Resource::Fsize);
            after_write(file, vfs::attr::ftruncate(file, sqe.off as i64, fsize).map(|()| 0))
        }),
    })
}

/// splice(2) and tee(2): positions are in the request, -1 for none.
///
/// LINUX: the input can be a fixed file; here that is `EBADF`.
fn splice(sqe: &Sqe) -> Result<Call> {
    let sqe = *sqe;
    if sqe.op_flags & SPLICE_FD_IN_FIXED != 0 {
        return Err(Errno::EBADF);
    }
    let is_tee = sqe.opcode == op::TEE;
    if is_tee && (sqe.off != 0 || sqe.addr != 0) {
        return Err(Errno::EINVAL);
    }
    Ok(with_file(move |output, _| {
        if sqe.len == 0 {
            return Ok(0);
        }
        let input = caller::file(sqe.file_index as i32)?;
        let (count, flags) = (sqe.len as usize, sqe.op_flags);
        let result = if is_tee {
            splice::tee(&input, output, count, flags)
        } else {
            let place = |pos: u64| (pos != u64::MAX).then_some(pos as i64);
            let (mut from, mut to) = (place(sqe.addr), place(sqe.off));
            let mut from = splice::End { file: &input, offset: from.as_mut() };
            let mut to = splice::End { file: output, offset: to.as_mut() };
            splice::splice(&mut from, &mut to, count, flags, rlimit(Resource::Fsize))
        };
        after_write(output, result)
    }))
}

/// Calls that are made as by the system call.
fn plain(sqe: Sqe) -> Result<Call> {
    let is_odd = match sqe.opcode {
        op::MKDIRAT => sqe.off != 0 || sqe.op_flags != 0,
        op::UNLINKAT => sqe.off != 0 || sqe.len != 0,
        op::SYMLINKAT => sqe.len != 0 || sqe.op_flags != 0,
        op::EPOLL_CTL => sqe.op_flags != 0,
        op::PIPE => sqe.fd != 0 || sqe.off != 0 || sqe.addr3 != 0 || sqe.file_index != 0,
        _ => false,
    };
    if is_odd {
        return Err(Errno::EINVAL);
    }
    Ok(Box::new(move |cx| {
        let mut regs = UserRegs::default();
        run_plain(&sqe, &mut Cx { regs: &mut regs, keeps_result: false }, cx).map(Outcome::Value)
    }))
}

fn run_plain(sqe: &Sqe, cx: &mut Cx<'_>, call: &CallContext<'_>) -> Result<usize> {
    let (addr, other, third) = (UserAddr(sqe.addr), UserAddr(sqe.off), UserAddr(sqe.addr3));
    match sqe.opcode {
        op::STATX => path::sys_statx(cx, sqe.fd, addr, sqe.op_flags, sqe.len, other),
        op::MADVISE => {
            let len = if sqe.off != 0 { sqe.off } else { u64::from(sqe.len) };
            mem::sys_madvise(cx, sqe.addr, len, sqe.op_flags)
        }
        op::EPOLL_CTL => poll::sys_epoll_ctl(cx, sqe.fd, sqe.len as i32, sqe.off as i32, addr),
        op::RENAMEAT => path::sys_renameat2(cx, sqe.fd, addr, sqe.len as i32, other, sqe.op_flags),
        op::UNLINKAT => path::sys_unlinkat(cx, sqe.fd, addr, sqe.op_flags),
        op::MKDIRAT => path::sys_mkdirat(cx, sqe.fd, addr, sqe.len),
        op::SYMLINKAT => path::sys_symlinkat(cx, addr, sqe.fd, other),
        op::LINKAT => path::sys_linkat(cx, sqe.fd, addr, sqe.len as i32, other, sqe.op_flags),
        op::PIPE => fd::sys_pipe2(cx, addr, sqe.op_flags),
        op::FSETXATTR | op::FGETXATTR => {
            let file = call.file.ok_or(Errno::EBADF)?;
            let how =
                if sqe.opcode == op::FSETXATTR { xattr::Use::Set(sqe.op_flags) } else { xattr::Use::Get };
            xattr::on_file(file, how, addr, other, sqe.len as usize)
        }
        op::SETXATTR => xattr::sys_setxattr(cx, third, addr, other, sqe.len as usize, sqe.op_flags),
        op::GETXATTR => xattr::sys_getxattr(cx, third, addr, other, sqe.len as usize),
        _ => Err(Errno::EINVAL),
    }
}
