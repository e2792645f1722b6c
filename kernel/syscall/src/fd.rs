//! Descriptors: duplication, flags, locks, ioctl (dup(2), fcntl(2), flock(2), ioctl(2), close(2), pipe(2)).

use abi::fs::{AtFlags, FOwnerEx, Flock, OpenFlags};
use abi::raw::general as raw;
use abi::{Errno, Result};
use hal::{UserAddr, user};
use limits::Resource;
use vfs::lock::{FlockOp, LockKind, RecordOwner};
use vfs::pipe::Blocking;
use vfs::{FdFlags, FdTable, File, fcntl};

use crate::Cx;
use crate::caller::{self, Caller, file, files, rlimit};

fn nofile() -> usize {
    usize::try_from(rlimit(Resource::Nofile)).unwrap_or(usize::MAX)
}

/// close(2).
pub(crate) fn sys_close(_cx: &mut Cx<'_>, fd: i32) -> Result<usize> {
    files()?.close(fd).map(|()| 0).map_err(|errno| match errno {
        // The descriptor is gone: the call must not run again.
        Errno::ERESTARTSYS | Errno::ERESTARTNOINTR | Errno::ERESTARTNOHAND | Errno::ERESTART_RESTARTBLOCK => {
            Errno::EINTR
        }
        other => other,
    })
}

/// close_range(2).
pub(crate) fn sys_close_range(_cx: &mut Cx<'_>, first: u32, last: u32, flags: u32) -> Result<usize> {
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    if flags & !(UNSHARE | CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL);
    }
    let task = process::current();
    let mut table = task.files().ok_or(Errno::EBADF)?;
    // Alone in its table it keeps that one, and with it the locks that the table holds.
    if flags & UNSHARE != 0 && table.is_shared() {
        table = if flags & CLOEXEC == 0 && last >= table.capacity() as u32 {
            table.fork_below(first as usize)?
        } else {
            table.fork()?
        };
        task.replace_files(Some(table.clone()));
    }
    if flags & CLOEXEC != 0 {
        table.cloexec_range(first, last);
    } else {
        table.close_range(first, last);
    }
    Ok(0)
}

/// dup(2).
pub(crate) fn sys_dup(_cx: &mut Cx<'_>, fd: i32) -> Result<usize> {
    let files = files()?;
    let file = files.get_any(fd)?;
    caller::install(&files, file, FdFlags::empty())
}

/// dup2(2).
pub(crate) fn sys_dup2(_cx: &mut Cx<'_>, old: i32, new: i32) -> Result<usize> {
    let files = files()?;
    if old == new {
        files.get_any(old)?;
        return Ok(new as usize);
    }
    dup_to(&files, old, new, FdFlags::empty())
}

/// dup3(2).
pub(crate) fn sys_dup3(_cx: &mut Cx<'_>, old: i32, new: i32, flags: u32) -> Result<usize> {
    if flags & !OpenFlags::CLOEXEC.bits() != 0 || old == new {
        return Err(Errno::EINVAL);
    }
    dup_to(&*files()?, old, new, caller::cloexec(OpenFlags::from_bits_truncate(flags)))
}

fn dup_to(files: &FdTable, old: i32, new: i32, flags: FdFlags) -> Result<usize> {
    let limit = nofile();
    if usize::try_from(new).map_or(true, |new| new >= limit) {
        return Err(Errno::EBADF);
    }
    let file = files.get_any(old)?;
    files.replace(new, file, limit, flags)?;
    Ok(new as usize)
}

/// pipe2(2).
pub(crate) fn sys_pipe2(_cx: &mut Cx<'_>, fds: UserAddr, flags: u32) -> Result<usize> {
    let known = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT;
    // O_NOTIFICATION_PIPE (O_EXCL): no watch queues here, as on a Linux built without them.
    if flags == OpenFlags::EXCL.bits() {
        return Err(Errno::ENOPKG);
    }
    let flags = OpenFlags::from_bits(flags).filter(|flags| known.contains(*flags)).ok_or(Errno::EINVAL)?;
    let caller = Caller::new()?;
    let (read, write) = vfs::pipe::create(flags, &caller.cred)?;
    let limit = nofile();
    let first = caller.files.reserve(0, limit, caller::cloexec(flags))?;
    let second = caller.files.reserve(0, limit, caller::cloexec(flags))?;
    user::write(fds, &[first.fd(), second.fd()])?;
    first.install(read);
    second.install(write);
    Ok(0)
}

/// pipe(2).
pub(crate) fn sys_pipe(cx: &mut Cx<'_>, fds: UserAddr) -> Result<usize> {
    sys_pipe2(cx, fds, 0)
}

/// ioctl(2).
pub(crate) fn sys_ioctl(_cx: &mut Cx<'_>, fd: i32, cmd: u32, arg: usize) -> Result<usize> {
    /// What a socket's namespace is; all families have it alike.
    const SIOCGSKNS: u32 = 0x894c;
    if cmd == SIOCGSKNS
        && let Some(opened) = crate::net::namespace_of(fd)
    {
        return opened;
    }
    fcntl::ioctl(&*files()?, fd, cmd, arg, || process::current().cred()).map_err(|errno| match errno {
        Errno::ENOIOCTLCMD => Errno::ENOTTY,
        other => other,
    })
}

/// flock(2).
pub(crate) fn sys_flock(_cx: &mut Cx<'_>, fd: i32, operation: u32) -> Result<usize> {
    const SH: u32 = 1;
    const EX: u32 = 2;
    const NB: u32 = 4;
    const UN: u32 = 8;
    let op = match operation & !NB {
        SH => FlockOp::Lock(LockKind::Read),
        EX => FlockOp::Lock(LockKind::Write),
        UN => FlockOp::Unlock,
        _ => return Err(Errno::EINVAL),
    };
    let blocking = if operation & NB != 0 { Blocking::No } else { Blocking::Yes };
    let file = file(fd)?;
    let pid = process::current().pid() as i32;
    file.inode().locks().flock(file.id(), op, blocking, pid).map(|()| 0)
}

/// fcntl(2).
pub(crate) fn sys_fcntl(_cx: &mut Cx<'_>, fd: i32, cmd: u32, arg: u64) -> Result<usize> {
    let files = files()?;
    match cmd {
        raw::F_DUPFD => {
            fcntl::dupfd(&files, fd, arg as i32, nofile(), FdFlags::empty()).map(|fd| fd as usize)
        }
        raw::F_DUPFD_CLOEXEC => {
            fcntl::dupfd(&files, fd, arg as i32, nofile(), FdFlags::CLOEXEC).map(|fd| fd as usize)
        }
        raw::F_GETFD => files.fd_flags(fd).map(|flags| flags.bits() as usize),
        raw::F_SETFD => {
            files.set_fd_flags(fd, FdFlags::from_bits_truncate(arg as u32 & raw::FD_CLOEXEC)).map(|()| 0)
        }
        raw::F_GETFL => Ok(fcntl::status_flags(&*files.get_any(fd)?).bits() as usize),
        raw::F_SETLEASE => {
            let kind = match arg as u32 {
                raw::F_RDLCK => Some(LockKind::Read),
                raw::F_WRLCK => Some(LockKind::Write),
                raw::F_UNLCK => None,
                _ => return files.get(fd).and(Err(Errno::EINVAL)),
            };
            vfs::lock::lease::set(&files.get(fd)?, fd, kind, &process::current().cred()).map(|()| 0)
        }
        raw::F_NOTIFY => {
            let file = files.get(fd)?;
            vfs::dnotify::request(&file, fd, files.id(), arg as u32, &process::current().cred()).map(|()| 0)
        }
        _ => fcntl_file(&files, fd, &*files.get(fd)?, cmd, arg),
    }
}

fn fcntl_file(files: &FdTable, fd: i32, file: &File, cmd: u32, arg: u64) -> Result<usize> {
    let addr = UserAddr(arg);
    match cmd {
        raw::F_SETFL => {
            let flags = OpenFlags::from_bits_truncate(arg as u32);
            file.set_flags(flags, &process::current().cred())?;
        }
        raw::F_GETLK
        | raw::F_OFD_GETLK
        | raw::F_SETLK
        | raw::F_SETLKW
        | raw::F_OFD_SETLK
        | raw::F_OFD_SETLKW => record_lock(files, fd, file, cmd, addr)?,
        raw::F_GETOWN => {
            let owner = file.owner();
            let pid = i64::from(shown(owner.pid));
            return Ok(if owner.kind == 2 { -pid } else { pid } as usize);
        }
        raw::F_SETOWN => {
            let pid = arg as i32;
            let (kind, pid) = if pid < 0 { (2, pid.checked_neg().ok_or(Errno::EINVAL)?) } else { (1, pid) };
            set_owner(file, kind, pid)?;
        }
        raw::F_GETOWN_EX => {
            let owner = file.owner();
            user::write(addr, &FOwnerEx { kind: owner.kind, pid: shown(owner.pid) })?;
        }
        raw::F_SETOWN_EX => {
            let new: FOwnerEx = user::read(addr)?;
            if !(0..=2).contains(&new.kind) {
                return Err(Errno::EINVAL);
            }
            set_owner(file, new.kind, new.pid)?;
        }
        raw::F_GETSIG => return Ok(file.owner().signal as usize),
        raw::F_SETSIG => {
            let signal = i32::try_from(arg).ok().filter(|s| (0..=64).contains(s)).ok_or(Errno::EINVAL)?;
            file.update_owner(|owner| owner.signal = signal);
        }
        raw::F_SETPIPE_SZ => {
            return fcntl::set_pipe_size(file, arg as u32 as usize, &process::current().cred());
        }
        raw::F_GETPIPE_SZ => return fcntl::pipe_size(file),
        raw::F_ADD_SEALS => {
            file.ops().seals(file, Some(arg as u32))?;
        }
        raw::F_GET_SEALS => return file.ops().seals(file, None).map(|seals| seals as usize),
        raw::F_GETLEASE => {
            return Ok(match vfs::lock::lease::get(file) {
                Some(LockKind::Read) => raw::F_RDLCK,
                Some(LockKind::Write) => raw::F_WRLCK,
                None => raw::F_UNLCK,
            } as usize);
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// The number of process, thread or group `pid` as the caller sees it.
fn shown(pid: i32) -> i32 {
    u32::try_from(pid).ok().filter(|&pid| pid > 0).map_or(0, |pid| process::pid::visible(pid) as i32)
}

/// Makes `pid` the one that gets the signals of `file`; 0: nobody. `ESRCH`: there is none.
fn set_owner(file: &File, kind: i32, pid: i32) -> Result<()> {
    let number = u32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    let is_there = || {
        process::pid::find_task(number).is_some()
            || process::pid::find_process(number).is_some()
            || process::pid::find_pgrp(number).is_some()
    };
    let global = match number {
        0 => 0,
        _ => process::pid::to_global(number).filter(|_| is_there()).ok_or(Errno::ESRCH)?,
    };
    file.update_owner(|owner| owner.choose(kind, global as i32, &process::current().cred()));
    Ok(())
}

/// The commands for record locks. `EBADF`, too: another thread closed the descriptor meanwhile, which would have taken the
/// lock away.
fn record_lock(files: &FdTable, fd: i32, file: &File, cmd: u32, addr: UserAddr) -> Result<()> {
    let mut lock: Flock = user::read(addr)?;
    let is_ofd = matches!(cmd, raw::F_OFD_GETLK | raw::F_OFD_SETLK | raw::F_OFD_SETLKW);
    if is_ofd && lock.l_pid != 0 {
        return Err(Errno::EINVAL);
    }
    let owner = if is_ofd {
        RecordOwner::File
    } else {
        RecordOwner::Process { table: files.id(), pid: process::current().pid() as i32 }
    };
    match cmd {
        raw::F_GETLK | raw::F_OFD_GETLK => {
            vfs::lock::fcntl_getlk(file, owner, &mut lock)?;
            if let Some(pid) = u32::try_from(lock.l_pid).ok().filter(|&pid| pid > 0) {
                lock.l_pid = process::pid::visible(pid) as i32;
            }
            user::write(addr, &lock)?;
        }
        raw::F_SETLK | raw::F_OFD_SETLK => vfs::lock::fcntl_setlk(file, owner, &lock, Blocking::No)?,
        _ => vfs::lock::fcntl_setlk(file, owner, &lock, Blocking::Yes)?,
    }
    let is_set = matches!(cmd, raw::F_SETLK | raw::F_SETLKW) && lock.l_type != raw::F_UNLCK as i16;
    if is_set && !files.get_any(fd).is_ok_and(|now| core::ptr::eq(&*now, file)) {
        lock.l_type = raw::F_UNLCK as i16;
        let _ = vfs::lock::fcntl_setlk(file, owner, &lock, Blocking::No);
        return Err(Errno::EBADF);
    }
    Ok(())
}

/// The `AT_*` flags in `flags`, of which only `known` may be given. `EINVAL`.
pub(crate) fn at_flags(flags: u32, known: AtFlags) -> Result<AtFlags> {
    AtFlags::from_bits(flags).filter(|flags| known.contains(*flags)).ok_or(Errno::EINVAL)
}
