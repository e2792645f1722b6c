//! Reading and writing through descriptors (read(2), write(2), lseek(2), sendfile(2), splice(2), ...).

use alloc::vec::Vec;

use abi::signal::{SIGPIPE, SIGXFSZ, SigInfo};
use abi::{Errno, Result};
use hal::uio::{Dest, Src, UserBuf};
use hal::{UserAddr, user};
use limits::Resource;
use process::signal::{Target, send_kernel};
use vfs::pipe::Blocking;
use vfs::readdir::{self, Layout};
use vfs::rw::RwFlags;
use vfs::{File, FileMode, SyncMode, Whence, rw, splice};

use crate::Cx;
use crate::caller::{self, file, rlimit};

/// Fails with `EFAULT` unless `count` bytes from `buf` lie in user space, whether they are touched or not.
#[inline]
pub(crate) fn check_range(buf: UserAddr, count: usize) -> Result<()> {
    match buf.0.checked_add(count as u64) {
        Some(end) if end <= hal::USER_END => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// read(2).
pub(crate) fn sys_read(_cx: &mut Cx<'_>, fd: i32, buf: UserAddr, count: usize) -> Result<usize> {
    let file = file(fd)?;
    file.require(FileMode::READ)?;
    check_range(buf, count)?;
    rw::read(&file, &mut Dest::user(buf, count))
}

/// Sends the signal that a failed write or growth brings: SIGPIPE or SIGXFSZ.
#[inline]
pub(crate) fn after_write(file: &File, result: Result<usize>) -> Result<usize> {
    result.inspect_err(|&errno| write_failed(file, errno))
}

#[cold]
fn write_failed(file: &File, errno: Errno) {
    let task = process::current();
    if rw::sigpipe_due(file, &Err(errno)) {
        send_kernel(Target::Thread(task.arc()), SigInfo::user(SIGPIPE, 0, task.own_pid() as i32, 0));
    } else if errno == Errno::EFBIG && rlimit(Resource::Fsize) != u64::MAX {
        send_kernel(Target::Thread(task.arc()), SigInfo::kernel(SIGXFSZ));
    }
}

/// How large a write may make `file`: the caller's `RLIMIT_FSIZE` where there is a size.
#[inline]
fn fsize(file: &File) -> u64 {
    if file.mode().contains(FileMode::CACHED) { rlimit(Resource::Fsize) } else { u64::MAX }
}

/// write(2).
pub(crate) fn sys_write(_cx: &mut Cx<'_>, fd: i32, buf: UserAddr, count: usize) -> Result<usize> {
    let file = file(fd)?;
    file.require(FileMode::WRITE)?;
    check_range(buf, count)?;
    let result = rw::write(&file, &mut Src::user(buf, count), fsize(&file));
    after_write(&file, result)
}

/// readv(2).
pub(crate) fn sys_readv(_cx: &mut Cx<'_>, fd: i32, iov: UserAddr, count: usize) -> Result<usize> {
    let file = file(fd)?;
    rw::read(&file, &mut Dest::user_vec(caller::iovec(iov, count)?))
}

/// writev(2).
pub(crate) fn sys_writev(_cx: &mut Cx<'_>, fd: i32, iov: UserAddr, count: usize) -> Result<usize> {
    let file = file(fd)?;
    let mut src = Src::user_vec(caller::iovec(iov, count)?);
    let result = rw::write(&file, &mut src, fsize(&file));
    after_write(&file, result)
}

/// pread64(2).
pub(crate) fn sys_pread64(_cx: &mut Cx<'_>, fd: i32, buf: UserAddr, count: usize, pos: i64) -> Result<usize> {
    if pos < 0 {
        return Err(Errno::EINVAL);
    }
    rw::pread(&*file(fd)?, &mut Dest::user(buf, count), pos)
}

/// pwrite64(2).
pub(crate) fn sys_pwrite64(
    _cx: &mut Cx<'_>,
    fd: i32,
    buf: UserAddr,
    count: usize,
    pos: i64,
) -> Result<usize> {
    if pos < 0 {
        return Err(Errno::EINVAL);
    }
    let file = file(fd)?;
    let result = rw::pwrite(&file, &mut Src::user(buf, count), pos, rlimit(Resource::Fsize));
    after_write(&file, result)
}

/// preadv(2): the position comes in two registers, of which the first holds all of it.
pub(crate) fn sys_preadv(_cx: &mut Cx<'_>, fd: i32, iov: UserAddr, count: usize, pos: i64) -> Result<usize> {
    let file = file(fd)?;
    rw::pread(&file, &mut Dest::user_vec(caller::iovec(iov, count)?), pos)
}

/// pwritev(2).
pub(crate) fn sys_pwritev(_cx: &mut Cx<'_>, fd: i32, iov: UserAddr, count: usize, pos: i64) -> Result<usize> {
    let file = file(fd)?;
    let mut src = Src::user_vec(caller::iovec(iov, count)?);
    let result = rw::pwrite(&file, &mut src, pos, rlimit(Resource::Fsize));
    after_write(&file, result)
}

/// preadv2(2). A position of -1 is the file's own.
pub(crate) fn sys_preadv2(
    _cx: &mut Cx<'_>,
    fd: i32,
    iov: UserAddr,
    count: usize,
    pos: i64,
    _pos_high: u64,
    flags: u32,
) -> Result<usize> {
    let file = file(fd)?;
    let mut dst = Dest::user_vec(caller::iovec(iov, count)?);
    if dst.remaining() == 0 {
        file.require(FileMode::READ)?;
        return Ok(0);
    }
    let flags = RwFlags::decode(flags, &file)?;
    if pos == -1 {
        rw::read_with(&file, &mut dst, flags)
    } else {
        rw::pread_with(&file, &mut dst, pos, flags)
    }
}

/// pwritev2(2). A position of -1 is the file's own.
pub(crate) fn sys_pwritev2(
    _cx: &mut Cx<'_>,
    fd: i32,
    iov: UserAddr,
    count: usize,
    pos: i64,
    _pos_high: u64,
    flags: u32,
) -> Result<usize> {
    let file = file(fd)?;
    let mut src = Src::user_vec(caller::iovec(iov, count)?);
    let flags = RwFlags::decode(flags, &file)?;
    let fsize = rlimit(Resource::Fsize);
    let result = if pos == -1 {
        rw::write_with(&file, &mut src, fsize, flags)
    } else {
        rw::pwrite_with(&file, &mut src, pos, fsize, flags)
    };
    if flags.contains(RwFlags::NOSIGNAL) && result == Err(Errno::EPIPE) {
        return result;
    }
    after_write(&file, result)
}

/// lseek(2).
pub(crate) fn sys_lseek(_cx: &mut Cx<'_>, fd: i32, offset: i64, whence: u32) -> Result<usize> {
    let file = file(fd)?;
    rw::lseek(&file, offset, Whence::from_raw(whence)?).map(|pos| pos as usize)
}

/// An offset argument: a place in user memory that holds it, or null.
fn read_offset(addr: UserAddr) -> Result<Option<i64>> {
    if addr.0 == 0 { Ok(None) } else { Ok(Some(user::read(addr)?)) }
}

fn write_offset(addr: UserAddr, offset: Option<i64>) -> Result<()> {
    match offset {
        Some(offset) => Ok(user::write(addr, &offset)?),
        None => Ok(()),
    }
}

/// sendfile(2).
pub(crate) fn sys_sendfile(
    _cx: &mut Cx<'_>,
    out_fd: i32,
    in_fd: i32,
    offset: UserAddr,
    count: usize,
) -> Result<usize> {
    let mut pos = read_offset(offset)?;
    let (input, output) = (file(in_fd)?, file(out_fd)?);
    let mut from = splice::End { file: &input, offset: pos.as_mut() };
    let result = splice::sendfile(&output, &mut from, count, rlimit(Resource::Fsize));
    write_offset(offset, pos)?;
    after_write(&output, result)
}

/// copy_file_range(2).
pub(crate) fn sys_copy_file_range(
    _cx: &mut Cx<'_>,
    in_fd: i32,
    in_offset: UserAddr,
    out_fd: i32,
    out_offset: UserAddr,
    count: usize,
    flags: u32,
) -> Result<usize> {
    let (mut in_pos, mut out_pos) = (read_offset(in_offset)?, read_offset(out_offset)?);
    let (input, output) = (file(in_fd)?, file(out_fd)?);
    let mut from = splice::End { file: &input, offset: in_pos.as_mut() };
    let mut to = splice::End { file: &output, offset: out_pos.as_mut() };
    let done = splice::copy_file_range(&mut from, &mut to, count, flags, rlimit(Resource::Fsize))?;
    write_offset(in_offset, in_pos)?;
    write_offset(out_offset, out_pos)?;
    Ok(done)
}

/// splice(2).
pub(crate) fn sys_splice(
    _cx: &mut Cx<'_>,
    in_fd: i32,
    in_offset: UserAddr,
    out_fd: i32,
    out_offset: UserAddr,
    count: usize,
    flags: u32,
) -> Result<usize> {
    if count == 0 {
        return Ok(0);
    }
    let (mut in_pos, mut out_pos) = (read_offset(in_offset)?, read_offset(out_offset)?);
    let (input, output) = (file(in_fd)?, file(out_fd)?);
    let mut from = splice::End { file: &input, offset: in_pos.as_mut() };
    let mut to = splice::End { file: &output, offset: out_pos.as_mut() };
    let result = splice::splice(&mut from, &mut to, count, flags, rlimit(Resource::Fsize));
    let done = after_write(&output, result)?;
    write_offset(in_offset, in_pos)?;
    write_offset(out_offset, out_pos)?;
    Ok(done)
}

/// tee(2).
pub(crate) fn sys_tee(_cx: &mut Cx<'_>, in_fd: i32, out_fd: i32, count: usize, flags: u32) -> Result<usize> {
    let (input, output) = (file(in_fd)?, file(out_fd)?);
    let result = splice::tee(&input, &output, count, flags);
    after_write(&output, result)
}

/// The first `len` bytes of `bufs`.
fn first_bytes(mut bufs: Vec<UserBuf>, len: usize) -> Vec<UserBuf> {
    let mut left = len;
    for buf in &mut bufs {
        buf.len = buf.len.min(left);
        left -= buf.len;
    }
    bufs
}

/// vmsplice(2): the bytes are copied, so the pages stay the caller's own.
pub(crate) fn sys_vmsplice(
    _cx: &mut Cx<'_>,
    fd: i32,
    iov: UserAddr,
    count: usize,
    flags: u32,
) -> Result<usize> {
    /// `SPLICE_F_MOVE`, `NONBLOCK`, `MORE` and `GIFT`.
    const KNOWN: u32 = 15;
    const SPLICE_F_NONBLOCK: u32 = 2;
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let file = file(fd)?;
    let end = file.ops_as::<vfs::pipe::PipeEnd>().ok_or(Errno::EBADF)?;
    let bufs = caller::iovec(iov, count)?;
    if file.mode().contains(FileMode::WRITE) {
        // LINUX: the pages go into the pipe, and secret memory gives none.
        let mm = process::current().mm().ok_or(Errno::EFAULT)?;
        if bufs.iter().any(|buf| mm.has_secret(buf.addr.0..buf.addr.0.saturating_add(buf.len as u64))) {
            return Err(Errno::EFAULT);
        }
        let blocking = Blocking::from_flags(vfs::fcntl::status_flags(&file));
        let now = if flags & SPLICE_F_NONBLOCK == 0 { blocking } else { Blocking::No };
        // As much as there is room for, like other ways into a pipe.
        let room = end.pipe().wait_for_room(now);
        let result =
            room.and_then(|room| rw::write(&file, &mut Src::user_vec(first_bytes(bufs, room)), u64::MAX));
        after_write(&file, result)
    } else {
        rw::read(&file, &mut Dest::user_vec(bufs))
    }
}

/// fsync(2).
pub(crate) fn sys_fsync(_cx: &mut Cx<'_>, fd: i32) -> Result<usize> {
    vfs::fcntl::fsync(&*file(fd)?, SyncMode::Full).map(|()| 0)
}

/// fdatasync(2).
pub(crate) fn sys_fdatasync(_cx: &mut Cx<'_>, fd: i32) -> Result<usize> {
    vfs::fcntl::fsync(&*file(fd)?, SyncMode::Data).map(|()| 0)
}

/// Flags of sync_file_range(2): wait before, write, wait after.
const SYNC_FILE_RANGE_ALL: u32 = 7;

/// sync_file_range(2).
pub(crate) fn sys_sync_file_range(
    _cx: &mut Cx<'_>,
    fd: i32,
    offset: i64,
    len: i64,
    flags: u32,
) -> Result<usize> {
    let file = file(fd)?;
    if flags & !SYNC_FILE_RANGE_ALL != 0 || offset < 0 || len < 0 || offset.checked_add(len).is_none() {
        return Err(Errno::EINVAL);
    }
    let end = if len == 0 { u64::MAX } else { (offset + len) as u64 };
    file.ops().sync_range(&file, offset as u64..end).map(|()| 0)
}

/// fallocate(2).
pub(crate) fn sys_fallocate(_cx: &mut Cx<'_>, fd: i32, mode: u32, offset: i64, len: i64) -> Result<usize> {
    let file = file(fd)?;
    let result = vfs::attr::fallocate(&file, mode, offset, len, rlimit(Resource::Fsize)).map(|()| 0);
    after_write(&file, result)
}

/// ftruncate(2).
pub(crate) fn sys_ftruncate(_cx: &mut Cx<'_>, fd: i32, size: i64) -> Result<usize> {
    let file = file(fd)?;
    let result = vfs::attr::ftruncate(&file, size, rlimit(Resource::Fsize)).map(|()| 0);
    after_write(&file, result)
}

/// getdents64(2).
pub(crate) fn sys_getdents64(_cx: &mut Cx<'_>, fd: i32, buf: UserAddr, count: u32) -> Result<usize> {
    let file = file(fd)?;
    readdir::getdents(&file, &mut Dest::user(buf, count as usize), Layout::Dirent64)
}

/// getdents(2), the older form.
pub(crate) fn sys_getdents(_cx: &mut Cx<'_>, fd: i32, buf: UserAddr, count: u32) -> Result<usize> {
    let file = file(fd)?;
    readdir::getdents(&file, &mut Dest::user(buf, count as usize), Layout::Dirent)
}

/// Advice numbers of posix_fadvise(2).
const POSIX_FADV_WILLNEED: i32 = 3;
const POSIX_FADV_DONTNEED: i32 = 4;
const POSIX_FADV_NOREUSE: i32 = 5;

/// fadvise64(2): memory-backed files have nothing to be advised about.
pub(crate) fn sys_fadvise64(_cx: &mut Cx<'_>, fd: i32, offset: i64, len: i64, advice: i32) -> Result<usize> {
    advise(&*file(fd)?, offset, len, advice)
}

/// As fadvise64(2) on `file`.
pub(crate) fn advise(file: &File, offset: i64, len: i64, advice: i32) -> Result<usize> {
    if file.ops_as::<vfs::pipe::PipeEnd>().is_some() {
        return Err(Errno::ESPIPE);
    }
    if len < 0 || !(0..=POSIX_FADV_NOREUSE).contains(&advice) {
        return Err(Errno::EINVAL);
    }
    if let Some(mapping) = file.mapping() {
        let start = u64::try_from(offset).unwrap_or(0);
        let end = if len == 0 { u64::MAX } else { start.saturating_add(len as u64) };
        // Advice: an error is no reason to fail.
        match advice {
            POSIX_FADV_WILLNEED => drop(mapping.read_ahead(start..end)),
            POSIX_FADV_DONTNEED => {
                let _ = mapping.write_back(start..end);
                mapping.drop_clean(start..end);
            }
            _ => {}
        }
    }
    Ok(0)
}

/// readahead(2).
pub(crate) fn sys_readahead(_cx: &mut Cx<'_>, fd: i32, offset: i64, count: usize) -> Result<usize> {
    let file = file(fd)?;
    file.require(FileMode::READ)?;
    let Some(mapping) = file.mapping() else { return Err(Errno::EINVAL) };
    let start = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    // Advice: an error is no reason to fail.
    let _ = mapping.read_ahead(start..start.saturating_add(count as u64));
    Ok(0)
}
