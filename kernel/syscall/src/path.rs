//! Calls that take path names: open, stat, links, directories, attributes, working directory.

use alloc::vec::Vec;

use abi::fs::{AT_FDCWD, AtFlags, OpenFlags, OpenHow, RawFileAttr, RenameFlags, Stat};
use abi::time::{Timespec, Timeval};
use abi::{Errno, Result};
use hal::{UserAddr, user};
use limits::Resource;
use security::{Access, Cap, IdKind};
use vfs::attr::{self, AccessIds, NewTime};
use vfs::file_attr;
use vfs::open::How;
use vfs::{At, Path, WalkFlags, namespace, walk};

use crate::Cx;
use crate::caller::{self, Caller, rlimit};
use crate::fd::at_flags;

/// What `*stat` calls know of `AT_*`.
const STAT_FLAGS: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT).union(AtFlags::EMPTY_PATH);

fn open_with(dirfd: i32, name: UserAddr, how: How) -> Result<usize> {
    let caller = Caller::new()?;
    let name = caller::path(name)?;
    let limit = usize::try_from(caller.task.group().rlimits().cur(Resource::Nofile)).unwrap_or(usize::MAX);
    let reserved = caller.files.reserve(0, limit, caller::cloexec(how.flags()))?;
    let file = vfs::open::open(&caller.walk(), At::from_raw(dirfd), &name, &how)?;
    Ok(reserved.install(file) as usize)
}

/// openat(2).
pub(crate) fn sys_openat(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    name: UserAddr,
    flags: u32,
    mode: u32,
) -> Result<usize> {
    open_with(dirfd, name, How::new(flags, mode)?)
}

/// open(2).
pub(crate) fn sys_open(cx: &mut Cx<'_>, name: UserAddr, flags: u32, mode: u32) -> Result<usize> {
    sys_openat(cx, AT_FDCWD, name, flags, mode)
}

/// creat(2).
pub(crate) fn sys_creat(cx: &mut Cx<'_>, name: UserAddr, mode: u32) -> Result<usize> {
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC;
    sys_openat(cx, AT_FDCWD, name, flags.bits(), mode)
}

/// Reads a structure that grows with versions: `known` bytes of it, of which the user has `size`.
///
/// `E2BIG`: bytes beyond the known ones are not zero. `EFAULT`.
pub(crate) fn read_versioned(addr: UserAddr, size: usize, out: &mut [u8]) -> Result<()> {
    let known = out.len();
    user::read_bytes(addr, &mut out[..size.min(known)])?;
    let mut at = known;
    while at < size {
        let mut rest = [0; 64];
        let now = rest.len().min(size - at);
        user::read_bytes(UserAddr(addr.0.wrapping_add(at as u64)), &mut rest[..now])?;
        if rest[..now].iter().any(|&byte| byte != 0) {
            return Err(Errno::E2BIG);
        }
        at += now;
    }
    Ok(())
}

/// openat2(2).
pub(crate) fn sys_openat2(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    name: UserAddr,
    how: UserAddr,
    size: usize,
) -> Result<usize> {
    const SIZE: usize = size_of::<OpenHow>();
    if size < SIZE {
        return Err(Errno::EINVAL);
    }
    if size > hal::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    let mut bytes = [0; SIZE];
    read_versioned(how, size, &mut bytes)?;
    let how: OpenHow = zerocopy::transmute!(bytes);
    open_with(dirfd, name, How::from_openat2(&how)?)
}

/// newfstatat(2).
pub(crate) fn sys_newfstatat(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    name: UserAddr,
    buf: UserAddr,
    flags: u32,
) -> Result<usize> {
    let flags = at_flags(flags, STAT_FLAGS)?;
    let caller = Caller::new()?;
    let path = lookup(&caller, dirfd, name, flags)?;
    user::write(buf, &shown_stat(attr::stat(&path)?))?;
    Ok(0)
}

/// `stat` with the owners as the caller's user namespace shows them.
fn shown_stat(mut stat: Stat) -> Stat {
    process::current().with_cred(|cred| {
        stat.st_uid = cred.user_ns.show(IdKind::User, stat.st_uid);
        stat.st_gid = cred.user_ns.show(IdKind::Group, stat.st_gid);
    });
    stat
}

/// What `name` leads to; with `AT_EMPTY_PATH` a null pointer is an empty name.
pub(crate) fn lookup(caller: &Caller, dirfd: i32, name: UserAddr, flags: AtFlags) -> Result<Path> {
    let is_null = name.0 == 0 && flags.contains(AtFlags::EMPTY_PATH);
    let name = if is_null { Vec::new() } else { caller::path(name)? };
    if name.is_empty() && flags.contains(AtFlags::EMPTY_PATH) && dirfd != AT_FDCWD {
        return Ok(caller.files.get_any(dirfd)?.path().clone());
    }
    walk(&caller.walk(), At::from_raw(dirfd), &name, WalkFlags::from_at(flags))
}

/// stat(2).
pub(crate) fn sys_stat(cx: &mut Cx<'_>, name: UserAddr, buf: UserAddr) -> Result<usize> {
    sys_newfstatat(cx, AT_FDCWD, name, buf, 0)
}

/// lstat(2).
pub(crate) fn sys_lstat(cx: &mut Cx<'_>, name: UserAddr, buf: UserAddr) -> Result<usize> {
    sys_newfstatat(cx, AT_FDCWD, name, buf, AtFlags::SYMLINK_NOFOLLOW.bits())
}

/// fstat(2).
pub(crate) fn sys_fstat(_cx: &mut Cx<'_>, fd: i32, buf: UserAddr) -> Result<usize> {
    let file = caller::files()?.get_any(fd)?;
    user::write(buf, &shown_stat(attr::stat(file.path())?))?;
    Ok(0)
}

/// statx(2).
pub(crate) fn sys_statx(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    name: UserAddr,
    flags: u32,
    mask: u32,
    buf: UserAddr,
) -> Result<usize> {
    let sync = AtFlags::STATX_FORCE_SYNC | AtFlags::STATX_DONT_SYNC;
    if mask & 0x8000_0000 != 0 {
        return Err(Errno::EINVAL);
    }
    let flags = at_flags(flags, STAT_FLAGS | sync)?;
    if flags.contains(sync) {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::new()?;
    let path = lookup(&caller, dirfd, name, flags)?;
    let mut stat = attr::statx(&path, mask)?;
    stat.stx_uid = caller::shown_id(IdKind::User, stat.stx_uid);
    stat.stx_gid = caller::shown_id(IdKind::Group, stat.stx_gid);
    user::write(buf, &stat)?;
    Ok(0)
}

/// statfs(2).
pub(crate) fn sys_statfs(_cx: &mut Cx<'_>, name: UserAddr, buf: UserAddr) -> Result<usize> {
    let caller = Caller::new()?;
    let path = walk(&caller.walk(), At::Cwd, &caller::path(name)?, WalkFlags::FOLLOW)?;
    user::write(buf, &attr::statfs(&path)?)?;
    Ok(0)
}

/// fstatfs(2).
pub(crate) fn sys_fstatfs(_cx: &mut Cx<'_>, fd: i32, buf: UserAddr) -> Result<usize> {
    let file = caller::files()?.get_any(fd)?;
    user::write(buf, &attr::statfs(file.path())?)?;
    Ok(0)
}

/// The file of file_getattr(2) or file_setattr(2), after the checks of their other arguments.
///
/// `EINVAL`: unknown flags, or a structure shorter than its first version. `E2BIG`: longer than a page.
fn attr_target(caller: &Caller, dirfd: i32, name: UserAddr, size: usize, flags: u32) -> Result<Path> {
    let flags = at_flags(flags, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH)?;
    if size > hal::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < size_of::<RawFileAttr>() {
        return Err(Errno::EINVAL);
    }
    lookup(caller, dirfd, name, flags)
}

/// What the file system's refusal is for these calls.
fn no_attributes(errno: Errno) -> Errno {
    if errno == Errno::ENOIOCTLCMD { Errno::EOPNOTSUPP } else { errno }
}

/// file_getattr(2).
pub(crate) fn sys_file_getattr(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    name: UserAddr,
    attr: UserAddr,
    size: usize,
    flags: u32,
) -> Result<usize> {
    let caller = Caller::new()?;
    let path = attr_target(&caller, dirfd, name, size, flags)?;
    let found = file_attr::get(&path).map_err(no_attributes)?;
    user::write(attr, &file_attr::to_raw(&found))?;
    // What a later version of the structure has and this kernel does not is zero.
    user::zero(
        UserAddr(attr.0.wrapping_add(size_of::<RawFileAttr>() as u64)),
        size - size_of::<RawFileAttr>(),
    )?;
    Ok(0)
}

/// file_setattr(2). `EINVAL`: unknown flags in the structure.
pub(crate) fn sys_file_setattr(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    name: UserAddr,
    attr: UserAddr,
    size: usize,
    flags: u32,
) -> Result<usize> {
    let caller = Caller::new()?;
    let path = attr_target(&caller, dirfd, name, size, flags)?;
    let mut bytes = [0; size_of::<RawFileAttr>()];
    read_versioned(attr, size, &mut bytes)?;
    let raw: RawFileAttr = zerocopy::transmute!(bytes);
    if !file_attr::is_known(&raw) {
        return Err(Errno::EINVAL);
    }
    file_attr::set(&path, &caller.cred, |attr| file_attr::apply(&raw, attr)).map_err(no_attributes)?;
    Ok(0)
}

/// mkdirat(2).
pub(crate) fn sys_mkdirat(_cx: &mut Cx<'_>, dirfd: i32, name: UserAddr, mode: u32) -> Result<usize> {
    let caller = Caller::new()?;
    namespace::mkdirat(&caller.walk(), At::from_raw(dirfd), &caller::path(name)?, mode).map(|()| 0)
}

/// mkdir(2).
pub(crate) fn sys_mkdir(cx: &mut Cx<'_>, name: UserAddr, mode: u32) -> Result<usize> {
    sys_mkdirat(cx, AT_FDCWD, name, mode)
}

/// mknodat(2).
pub(crate) fn sys_mknodat(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    name: UserAddr,
    mode: u32,
    dev: u32,
) -> Result<usize> {
    let caller = Caller::new()?;
    let dev = u64::from(dev);
    namespace::mknodat(&caller.walk(), At::from_raw(dirfd), &caller::path(name)?, mode, dev).map(|()| 0)
}

/// mknod(2).
pub(crate) fn sys_mknod(cx: &mut Cx<'_>, name: UserAddr, mode: u32, dev: u32) -> Result<usize> {
    sys_mknodat(cx, AT_FDCWD, name, mode, dev)
}

/// symlinkat(2).
pub(crate) fn sys_symlinkat(_cx: &mut Cx<'_>, target: UserAddr, dirfd: i32, name: UserAddr) -> Result<usize> {
    let caller = Caller::new()?;
    let target = caller::path(target)?;
    namespace::symlinkat(&caller.walk(), &target, At::from_raw(dirfd), &caller::path(name)?).map(|()| 0)
}

/// symlink(2).
pub(crate) fn sys_symlink(cx: &mut Cx<'_>, target: UserAddr, name: UserAddr) -> Result<usize> {
    sys_symlinkat(cx, target, AT_FDCWD, name)
}

/// linkat(2).
pub(crate) fn sys_linkat(
    _cx: &mut Cx<'_>,
    old_fd: i32,
    old: UserAddr,
    new_fd: i32,
    new: UserAddr,
    flags: u32,
) -> Result<usize> {
    let flags = at_flags(flags, AtFlags::SYMLINK_FOLLOW | AtFlags::EMPTY_PATH)?;
    let caller = Caller::new()?;
    let (old, new) = (caller::path(old)?, caller::path(new)?);
    let (from, to) = ((At::from_raw(old_fd), &old[..]), (At::from_raw(new_fd), &new[..]));
    namespace::linkat(&caller.walk(), from, to, flags).map(|()| 0)
}

/// link(2).
pub(crate) fn sys_link(cx: &mut Cx<'_>, old: UserAddr, new: UserAddr) -> Result<usize> {
    sys_linkat(cx, AT_FDCWD, old, AT_FDCWD, new, 0)
}

/// unlinkat(2).
pub(crate) fn sys_unlinkat(_cx: &mut Cx<'_>, dirfd: i32, name: UserAddr, flags: u32) -> Result<usize> {
    let flags = at_flags(flags, AtFlags::REMOVEDIR_OR_EACCESS)?;
    let caller = Caller::new()?;
    let name = caller::path(name)?;
    if flags.is_empty() {
        namespace::unlinkat(&caller.walk(), At::from_raw(dirfd), &name)?;
    } else {
        namespace::rmdirat(&caller.walk(), At::from_raw(dirfd), &name)?;
    }
    Ok(0)
}

/// unlink(2).
pub(crate) fn sys_unlink(cx: &mut Cx<'_>, name: UserAddr) -> Result<usize> {
    sys_unlinkat(cx, AT_FDCWD, name, 0)
}

/// rmdir(2).
pub(crate) fn sys_rmdir(cx: &mut Cx<'_>, name: UserAddr) -> Result<usize> {
    sys_unlinkat(cx, AT_FDCWD, name, AtFlags::REMOVEDIR_OR_EACCESS.bits())
}

/// renameat2(2).
pub(crate) fn sys_renameat2(
    _cx: &mut Cx<'_>,
    old_fd: i32,
    old: UserAddr,
    new_fd: i32,
    new: UserAddr,
    flags: u32,
) -> Result<usize> {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let caller = Caller::new()?;
    let (old, new) = (caller::path(old)?, caller::path(new)?);
    let (from, to) = ((At::from_raw(old_fd), &old[..]), (At::from_raw(new_fd), &new[..]));
    namespace::renameat2(&caller.walk(), from, to, flags).map(|()| 0)
}

/// renameat(2).
pub(crate) fn sys_renameat(
    cx: &mut Cx<'_>,
    old_fd: i32,
    old: UserAddr,
    new_fd: i32,
    new: UserAddr,
) -> Result<usize> {
    sys_renameat2(cx, old_fd, old, new_fd, new, 0)
}

/// rename(2).
pub(crate) fn sys_rename(cx: &mut Cx<'_>, old: UserAddr, new: UserAddr) -> Result<usize> {
    sys_renameat2(cx, AT_FDCWD, old, AT_FDCWD, new, 0)
}

/// readlinkat(2).
pub(crate) fn sys_readlinkat(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    name: UserAddr,
    buf: UserAddr,
    size: i32,
) -> Result<usize> {
    let size = usize::try_from(size).ok().filter(|&size| size > 0).ok_or(Errno::EINVAL)?;
    let caller = Caller::new()?;
    let text = namespace::readlinkat(&caller.walk(), At::from_raw(dirfd), &caller::path(name)?)?;
    let len = text.len().min(size);
    user::write_bytes(buf, &text[..len])?;
    Ok(len)
}

/// readlink(2).
pub(crate) fn sys_readlink(cx: &mut Cx<'_>, name: UserAddr, buf: UserAddr, size: i32) -> Result<usize> {
    sys_readlinkat(cx, AT_FDCWD, name, buf, size)
}

/// fchmodat2(2).
pub(crate) fn sys_fchmodat2(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    name: UserAddr,
    mode: u32,
    flags: u32,
) -> Result<usize> {
    let flags = at_flags(flags, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH)?;
    let caller = Caller::new()?;
    attr::fchmodat(&caller.walk(), At::from_raw(dirfd), &caller::path(name)?, mode, flags).map(|()| 0)
}

/// fchmodat(2).
pub(crate) fn sys_fchmodat(cx: &mut Cx<'_>, dirfd: i32, name: UserAddr, mode: u32) -> Result<usize> {
    sys_fchmodat2(cx, dirfd, name, mode, 0)
}

/// chmod(2).
pub(crate) fn sys_chmod(cx: &mut Cx<'_>, name: UserAddr, mode: u32) -> Result<usize> {
    sys_fchmodat2(cx, AT_FDCWD, name, mode, 0)
}

/// fchmod(2).
pub(crate) fn sys_fchmod(_cx: &mut Cx<'_>, fd: i32, mode: u32) -> Result<usize> {
    let file = caller::file(fd)?;
    attr::chmod(file.path(), mode, &process::current().cred()).map(|()| 0)
}

/// fchownat(2).
pub(crate) fn sys_fchownat(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    name: UserAddr,
    uid: u32,
    gid: u32,
    flags: u32,
) -> Result<usize> {
    let flags = at_flags(flags, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH)?;
    let (uid, gid) = (caller::global_id(IdKind::User, uid)?, caller::global_id(IdKind::Group, gid)?);
    let caller = Caller::new()?;
    attr::fchownat(&caller.walk(), At::from_raw(dirfd), &caller::path(name)?, uid, gid, flags).map(|()| 0)
}

/// chown(2).
pub(crate) fn sys_chown(cx: &mut Cx<'_>, name: UserAddr, uid: u32, gid: u32) -> Result<usize> {
    sys_fchownat(cx, AT_FDCWD, name, uid, gid, 0)
}

/// lchown(2).
pub(crate) fn sys_lchown(cx: &mut Cx<'_>, name: UserAddr, uid: u32, gid: u32) -> Result<usize> {
    sys_fchownat(cx, AT_FDCWD, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW.bits())
}

/// fchown(2).
pub(crate) fn sys_fchown(_cx: &mut Cx<'_>, fd: i32, uid: u32, gid: u32) -> Result<usize> {
    let file = caller::file(fd)?;
    let (uid, gid) = (caller::global_id(IdKind::User, uid)?, caller::global_id(IdKind::Group, gid)?);
    attr::chown(file.path(), uid, gid, &process::current().cred()).map(|()| 0)
}

/// Changes times; a null `name` means the descriptor itself.
fn set_times(dirfd: i32, name: UserAddr, times: [NewTime; 2], flags: AtFlags) -> Result<usize> {
    let caller = Caller::new()?;
    let path = if name.0 == 0 && dirfd != AT_FDCWD {
        caller.files.get(dirfd)?.path().clone()
    } else {
        let name = caller::path(name)?;
        walk(&caller.walk(), At::from_raw(dirfd), &name, WalkFlags::from_at(flags))?
    };
    attr::utimens(&path, times[0], times[1], &caller.cred).map(|()| 0)
}

/// utimensat(2).
pub(crate) fn sys_utimensat(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    name: UserAddr,
    times: UserAddr,
    flags: u32,
) -> Result<usize> {
    let times = if times.0 == 0 {
        [NewTime::Now; 2]
    } else {
        let given: [Timespec; 2] = [user::read(times)?, user::read(UserAddr(times.0.wrapping_add(16)))?];
        [NewTime::from_timespec(given[0])?, NewTime::from_timespec(given[1])?]
    };
    if times == [NewTime::Keep; 2] {
        return Ok(0);
    }
    let flags = at_flags(flags, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH)?;
    if name.0 == 0 && !flags.is_empty() {
        return Err(Errno::EINVAL);
    }
    set_times(dirfd, name, times, flags)
}

fn read_timevals(times: UserAddr) -> Result<[NewTime; 2]> {
    if times.0 == 0 {
        return Ok([NewTime::Now; 2]);
    }
    let given: [Timeval; 2] = [user::read(times)?, user::read(UserAddr(times.0.wrapping_add(16)))?];
    let mut out = [NewTime::Now; 2];
    for (new, old) in out.iter_mut().zip(given) {
        if !(0..1_000_000).contains(&old.tv_usec) {
            return Err(Errno::EINVAL);
        }
        *new = NewTime::Set(Timespec { tv_sec: old.tv_sec, tv_nsec: old.tv_usec * 1000 });
    }
    Ok(out)
}

/// futimesat(2).
pub(crate) fn sys_futimesat(_cx: &mut Cx<'_>, dirfd: i32, name: UserAddr, times: UserAddr) -> Result<usize> {
    set_times(dirfd, name, read_timevals(times)?, AtFlags::empty())
}

/// utimes(2).
pub(crate) fn sys_utimes(cx: &mut Cx<'_>, name: UserAddr, times: UserAddr) -> Result<usize> {
    sys_futimesat(cx, AT_FDCWD, name, times)
}

/// utime(2).
pub(crate) fn sys_utime(_cx: &mut Cx<'_>, name: UserAddr, times: UserAddr) -> Result<usize> {
    let times = if times.0 == 0 {
        [NewTime::Now; 2]
    } else {
        let seconds: [i64; 2] = [user::read(times)?, user::read(UserAddr(times.0.wrapping_add(8)))?];
        seconds.map(|tv_sec| NewTime::Set(Timespec { tv_sec, tv_nsec: 0 }))
    };
    set_times(AT_FDCWD, name, times, AtFlags::empty())
}

/// truncate(2).
pub(crate) fn sys_truncate(_cx: &mut Cx<'_>, name: UserAddr, size: i64) -> Result<usize> {
    if size < 0 {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::new()?;
    let path = walk(&caller.walk(), At::Cwd, &caller::path(name)?, WalkFlags::FOLLOW)?;
    attr::truncate(&path, size, rlimit(Resource::Fsize), &caller.cred).map(|()| 0)
}

/// faccessat2(2).
pub(crate) fn sys_faccessat2(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    name: UserAddr,
    mode: u32,
    flags: u32,
) -> Result<usize> {
    if mode & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    let known = AtFlags::REMOVEDIR_OR_EACCESS | AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let flags = at_flags(flags, known)?;
    let is_effective = flags.contains(AtFlags::REMOVEDIR_OR_EACCESS);
    let ids = if is_effective { AccessIds::Effective } else { AccessIds::Real };
    let mut wanted = Access::empty();
    wanted.set(Access::READ, mode & 4 != 0);
    wanted.set(Access::WRITE, mode & 2 != 0);
    wanted.set(Access::EXEC, mode & 1 != 0);
    let caller = Caller::new()?;
    let name = caller::path(name)?;
    attr::faccessat(&caller.walk(), At::from_raw(dirfd), &name, wanted, flags, ids).map(|()| 0)
}

/// faccessat(2).
pub(crate) fn sys_faccessat(cx: &mut Cx<'_>, dirfd: i32, name: UserAddr, mode: u32) -> Result<usize> {
    sys_faccessat2(cx, dirfd, name, mode, 0)
}

/// access(2).
pub(crate) fn sys_access(cx: &mut Cx<'_>, name: UserAddr, mode: u32) -> Result<usize> {
    sys_faccessat2(cx, AT_FDCWD, name, mode, 0)
}

/// chdir(2).
pub(crate) fn sys_chdir(_cx: &mut Cx<'_>, name: UserAddr) -> Result<usize> {
    let caller = Caller::new()?;
    let flags = WalkFlags::FOLLOW | WalkFlags::DIRECTORY;
    let path = walk(&caller.walk(), At::Cwd, &caller::path(name)?, flags)?;
    namespace::chdir(&caller.walk(), path).map(|()| 0)
}

/// fchdir(2).
pub(crate) fn sys_fchdir(_cx: &mut Cx<'_>, fd: i32) -> Result<usize> {
    let caller = Caller::new()?;
    let path = caller.files.get_any(fd)?.path().clone();
    namespace::chdir(&caller.walk(), path).map(|()| 0)
}

/// chroot(2).
pub(crate) fn sys_chroot(_cx: &mut Cx<'_>, name: UserAddr) -> Result<usize> {
    let caller = Caller::new()?;
    let flags = WalkFlags::FOLLOW | WalkFlags::DIRECTORY;
    let path = walk(&caller.walk(), At::Cwd, &caller::path(name)?, flags)?;
    namespace::chroot(&caller.walk(), path).map(|()| 0)
}

/// getcwd(2): returns the length with its NUL.
pub(crate) fn sys_getcwd(_cx: &mut Cx<'_>, buf: UserAddr, size: usize) -> Result<usize> {
    let mut text = namespace::getcwd(&*process::current().fs().ok_or(Errno::ESRCH)?)?;
    text.push(0);
    if text.len() > abi::fs::PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    if text.len() > size {
        return Err(Errno::ERANGE);
    }
    user::write_bytes(buf, &text)?;
    Ok(text.len())
}

/// umask(2).
pub(crate) fn sys_umask(_cx: &mut Cx<'_>, mask: u32) -> Result<usize> {
    Ok(Caller::new()?.fs.set_umask(mask & 0o777) as usize)
}

/// mount(2).
pub(crate) fn sys_mount(
    _cx: &mut Cx<'_>,
    source: UserAddr,
    target: UserAddr,
    fs_type: UserAddr,
    flags: u64,
    data: UserAddr,
) -> Result<usize> {
    let caller = Caller::new()?;
    let optional = |addr: UserAddr| if addr.0 == 0 { Ok(Vec::new()) } else { caller::path(addr) };
    let (fs_type, source) = (optional(fs_type)?, optional(source)?);
    let data = if data.0 == 0 { Vec::new() } else { caller::string(data, hal::PAGE_SIZE, Errno::EINVAL)? };
    let target = caller::path(target)?;
    vfs::mount_ops::mount(&caller.walk(), &source, &target, &fs_type, flags, &data).map(|()| 0)
}

/// umount2(2).
pub(crate) fn sys_umount2(_cx: &mut Cx<'_>, name: UserAddr, flags: u32) -> Result<usize> {
    let caller = Caller::new()?;
    vfs::mount_ops::umount(&caller.walk(), &caller::path(name)?, flags).map(|()| 0)
}

/// pivot_root(2).
pub(crate) fn sys_pivot_root(_cx: &mut Cx<'_>, new_root: UserAddr, put_old: UserAddr) -> Result<usize> {
    let caller = Caller::new()?;
    let (new_root, put_old) = (caller::path(new_root)?, caller::path(put_old)?);
    vfs::mount_ops::pivot_root(&caller.walk(), &new_root, &put_old).map(|()| 0)
}

/// sync(2).
pub(crate) fn sys_sync(_cx: &mut Cx<'_>) -> Result<usize> {
    vfs::superblock::sync_all();
    Ok(0)
}

/// syncfs(2).
pub(crate) fn sys_syncfs(_cx: &mut Cx<'_>, fd: i32) -> Result<usize> {
    let file = caller::file(fd)?;
    let sb = file.inode().sb();
    sb.ops().sync(sb).map(|()| 0)
}

/// vhangup(2). `EPERM`: no `CAP_SYS_TTY_CONFIG`.
pub(crate) fn sys_vhangup(_cx: &mut Cx<'_>) -> Result<usize> {
    crate::require(Cap::SYS_TTY_CONFIG)?;
    let tty = process::current().group().pgrp().and_then(|pgrp| pgrp.session().tty());
    if let Some(tty) = tty {
        let any: alloc::sync::Arc<dyn core::any::Any + Send + Sync> = tty;
        if let Ok(tty) = any.downcast::<tty::Tty>() {
            tty.hang_up_session();
        }
    }
    Ok(0)
}
