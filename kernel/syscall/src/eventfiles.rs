//! Files that turn events into readiness: eventfd(2), timerfd_create(2), signalfd(2), pidfd_open(2), inotify(7), fanotify(7).

use abi::fs::OpenFlags;
use abi::signal::{SigInfo, SigSet};
use abi::time::Itimerspec;
use abi::{Errno, Result};
use alloc::sync::Arc;
use events::eventfd::{self, Kind};
use events::fanotify::{self, Fanotify};
use events::inotify::{self, Inotify};
use events::pidfd;
use events::signalfd::{self, SignalFd};
use events::timerfd::{self, TimerFd};
use hal::{UserAddr, user};
use security::Access;
use vfs::{At, FdFlags, File, WalkFlags};

use crate::Cx;
use crate::caller::{self, Caller, file};

/// The flags that all these calls take: `O_NONBLOCK` and `O_CLOEXEC`. `EINVAL`: others.
fn common_flags(flags: u32) -> Result<OpenFlags> {
    let known = OpenFlags::NONBLOCK | OpenFlags::CLOEXEC;
    OpenFlags::from_bits(flags).filter(|flags| known.contains(*flags)).ok_or(Errno::EINVAL)
}

/// Installs what `make` makes.
fn install(flags: OpenFlags, make: impl FnOnce(&Caller) -> Result<Arc<File>>) -> Result<usize> {
    let caller = Caller::new()?;
    let file = make(&caller)?;
    caller.install(file, caller::cloexec(flags))
}

/// userfaultfd(2).
pub(crate) fn sys_userfaultfd(_cx: &mut Cx<'_>, flags: u32) -> Result<usize> {
    let caller = Caller::new()?;
    let file = userfaultfd::open(flags, &caller.cred)?;
    caller.install(file, caller::cloexec(OpenFlags::from_bits_truncate(flags)))
}

/// perf_event_open(2).
pub(crate) fn sys_perf_event_open(
    _cx: &mut Cx<'_>,
    attr: UserAddr,
    pid: i32,
    cpu: i32,
    group_fd: i32,
    flags: u64,
) -> Result<usize> {
    let caller = Caller::new()?;
    let file = perf::open(&caller.task, &perf::Request { attr, pid, cpu, group_fd, flags })?;
    let is_cloexec = flags & abi::perf::OpenFlags::FD_CLOEXEC.bits() != 0;
    caller.install(file, if is_cloexec { FdFlags::CLOEXEC } else { FdFlags::empty() })
}

/// eventfd2(2).
pub(crate) fn sys_eventfd2(_cx: &mut Cx<'_>, start: u32, flags: u32) -> Result<usize> {
    const SEMAPHORE: u32 = 1;
    let kind = if flags & SEMAPHORE != 0 { Kind::Semaphore } else { Kind::Counter };
    let flags = common_flags(flags & !SEMAPHORE)?;
    install(flags, |caller| eventfd::create(start, kind, flags, &caller.cred))
}

/// eventfd(2).
pub(crate) fn sys_eventfd(cx: &mut Cx<'_>, start: u32) -> Result<usize> {
    sys_eventfd2(cx, start, 0)
}

/// timerfd_create(2).
pub(crate) fn sys_timerfd_create(_cx: &mut Cx<'_>, clock: i32, flags: u32) -> Result<usize> {
    let flags = common_flags(flags)?;
    install(flags, |caller| timerfd::create(clock, flags, &caller.cred))
}

/// timerfd_settime(2).
pub(crate) fn sys_timerfd_settime(
    _cx: &mut Cx<'_>,
    fd: i32,
    flags: u32,
    new: UserAddr,
    old: UserAddr,
) -> Result<usize> {
    let new: Itimerspec = user::read(new)?;
    let file = file(fd)?;
    let before = file.ops_as::<TimerFd>().ok_or(Errno::EINVAL)?.set(flags, &new)?;
    if old.0 != 0 {
        user::write(old, &before)?;
    }
    Ok(0)
}

/// timerfd_gettime(2).
pub(crate) fn sys_timerfd_gettime(_cx: &mut Cx<'_>, fd: i32, now: UserAddr) -> Result<usize> {
    let file = file(fd)?;
    user::write(now, &file.ops_as::<TimerFd>().ok_or(Errno::EINVAL)?.get())?;
    Ok(0)
}

/// signalfd4(2).
pub(crate) fn sys_signalfd4(
    _cx: &mut Cx<'_>,
    fd: i32,
    mask: UserAddr,
    size: usize,
    flags: u32,
) -> Result<usize> {
    if size != size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    let mask: SigSet = user::read(mask)?;
    let flags = common_flags(flags)?;
    if fd == -1 {
        return install(flags, |caller| signalfd::create(mask, flags, &caller.cred));
    }
    file(fd)?.ops_as::<SignalFd>().ok_or(Errno::EINVAL)?.set_mask(mask);
    Ok(fd as usize)
}

/// signalfd(2).
pub(crate) fn sys_signalfd(cx: &mut Cx<'_>, fd: i32, mask: UserAddr, size: usize) -> Result<usize> {
    sys_signalfd4(cx, fd, mask, size, 0)
}

/// What a descriptor, or one of the special values, stands for. `EBADF`: not a pidfd.
fn subject(fd: i32) -> Result<pidfd::Subject> {
    /// `PIDFD_SELF_THREAD`, `PIDFD_SELF_THREAD_GROUP`.
    const SELF_THREAD: i32 = -10000;
    const SELF_PROCESS: i32 = -10001;
    let me = process::current();
    match fd {
        SELF_THREAD => Ok(pidfd::Subject::of_thread(me.arc())),
        SELF_PROCESS => Ok(pidfd::Subject::Process(me.group().clone())),
        _ => pidfd::subject_of(&*file(fd)?).cloned().ok_or(Errno::EBADF),
    }
}

/// pidfd_open(2).
pub(crate) fn sys_pidfd_open(_cx: &mut Cx<'_>, pid: i32, flags: u32) -> Result<usize> {
    const THREAD: u32 = OpenFlags::EXCL.bits();
    if flags & !(THREAD | OpenFlags::NONBLOCK.bits()) != 0 {
        return Err(Errno::EINVAL);
    }
    let flags = OpenFlags::from_bits_truncate(flags) | OpenFlags::CLOEXEC;
    let subject = pidfd::find(pid, flags)?;
    install(flags, |caller| pidfd::create(subject, flags, &caller.cred))
}

/// pidfd_send_signal(2).
pub(crate) fn sys_pidfd_send_signal(
    _cx: &mut Cx<'_>,
    fd: i32,
    sig: i32,
    info: UserAddr,
    flags: u32,
) -> Result<usize> {
    // PIDFD_SIGNAL_THREAD, _THREAD_GROUP, _PROCESS_GROUP.
    let scope = match flags {
        0 => pidfd::Scope::Own,
        1 => pidfd::Scope::Thread,
        2 => pidfd::Scope::Process,
        4 => pidfd::Scope::ProcessGroup,
        _ => return Err(Errno::EINVAL),
    };
    let subject = match subject(fd) {
        // A directory of /proc stands for its process too, in this call alone.
        Err(Errno::EBADF) => {
            let found = process::hooks::process_of_dir(&*file(fd)?).ok_or(Errno::EBADF)?;
            pidfd::Subject::Process(found?)
        }
        other => other?,
    };
    let info = if info.0 == 0 { None } else { Some(user::read::<SigInfo>(info)?) };
    pidfd::send_signal(&subject, sig, info, scope).map(|()| 0)
}

/// pidfd_getfd(2).
pub(crate) fn sys_pidfd_getfd(_cx: &mut Cx<'_>, fd: i32, target: i32, flags: u32) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::new()?;
    let found = pidfd::get_file(&subject(fd)?, target, &caller.cred)?;
    caller.install(found, FdFlags::CLOEXEC)
}

/// inotify_init1(2).
pub(crate) fn sys_inotify_init1(_cx: &mut Cx<'_>, flags: u32) -> Result<usize> {
    let flags = common_flags(flags)?;
    install(flags, |caller| inotify::create(flags, &caller.cred))
}

/// inotify_init(2).
pub(crate) fn sys_inotify_init(cx: &mut Cx<'_>) -> Result<usize> {
    sys_inotify_init1(cx, 0)
}

/// inotify_add_watch(2).
pub(crate) fn sys_inotify_add_watch(_cx: &mut Cx<'_>, fd: i32, name: UserAddr, mask: u32) -> Result<usize> {
    inotify::check_mask(mask)?;
    let caller = Caller::new()?;
    let file = caller.files.get(fd)?;
    let both = inotify::IN_MASK_ADD | inotify::IN_MASK_CREATE;
    if mask & both == both {
        return Err(Errno::EINVAL);
    }
    let queue = file.ops_as::<Inotify>().ok_or(Errno::EINVAL)?;
    let mut how = WalkFlags::empty();
    how.set(WalkFlags::FOLLOW, mask & inotify::IN_DONT_FOLLOW == 0);
    how.set(WalkFlags::DIRECTORY, mask & inotify::IN_ONLYDIR != 0);
    let path = vfs::walk(&caller.walk(), At::Cwd, &caller::path(name)?, how)?;
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    vfs::perm::permission(&path.mount.id_view(), inode, &caller.cred, Access::READ)?;
    queue.add_watch(inode, mask).map(|wd| wd as usize)
}

/// inotify_rm_watch(2).
pub(crate) fn sys_inotify_rm_watch(_cx: &mut Cx<'_>, fd: i32, wd: i32) -> Result<usize> {
    let file = file(fd)?;
    let queue = file.ops_as::<Inotify>().ok_or(Errno::EINVAL)?;
    if queue.remove_watch(wd) { Ok(0) } else { Err(Errno::EINVAL) }
}

/// fanotify_init(2).
pub(crate) fn sys_fanotify_init(_cx: &mut Cx<'_>, flags: u32, event_flags: u32) -> Result<usize> {
    let caller = Caller::new()?;
    let (file, fd_flags) = fanotify::create(flags, event_flags, &caller.cred)?;
    caller.install(file, fd_flags)
}

/// fanotify_mark(2).
pub(crate) fn sys_fanotify_mark(
    _cx: &mut Cx<'_>,
    fd: i32,
    flags: u32,
    mask: u64,
    dirfd: i32,
    name: UserAddr,
) -> Result<usize> {
    let request = fanotify::Request::decode(flags, mask)?;
    let caller = Caller::new()?;
    let file = file(fd)?;
    let group = file.ops_as::<Fanotify>().ok_or(Errno::EINVAL)?;
    if request.is_flush() {
        group.flush(&request, &caller.cred)?;
        return Ok(0);
    }
    group.check(&request, &caller.cred)?;
    let path = if name.is_null() {
        let file = caller.files.get(dirfd)?;
        if request.only_dir && !file.inode().is_dir() {
            return Err(Errno::ENOTDIR);
        }
        file.path().clone()
    } else {
        let mut how = WalkFlags::empty();
        how.set(WalkFlags::FOLLOW, !request.dont_follow);
        how.set(WalkFlags::DIRECTORY, request.only_dir);
        vfs::walk(&caller.walk(), At::from_raw(dirfd), &caller::path(name)?, how)?
    };
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    vfs::perm::permission(&path.mount.id_view(), inode, &caller.cred, Access::READ)?;
    if request.is_of_mount_ns() {
        let Some(nsfs::Namespace::Mnt(ns)) = nsfs::namespace_of(inode) else { return Err(Errno::EINVAL) };
        group.mark(&request, fanotify::Subject::MountNs(&ns), &caller.cred)?;
    } else {
        group.mark(&request, fanotify::Subject::Path(&path), &caller.cred)?;
    }
    Ok(0)
}
