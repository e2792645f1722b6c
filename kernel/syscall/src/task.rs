//! Tasks: making, executing, ending and waiting for them; their ids, groups, limits and settings.

use alloc::vec::Vec;

use abi::fs::AtFlags;
use abi::process::{CloneArgs, CloneFlags, RLIM_INFINITY, Rlimit, Rusage, WaitOptions};
use abi::signal::{NSIG, SIGCHLD, SigInfo};
use abi::{Errno, Result};
use hal::{UserAddr, user};
use limits::Resource;
use process::exec::{ExecRequest, execve};
use process::membership::Into;
use process::wait::{self, Event, Who};
use process::{CloneRequest, exit, pgrp, pid, prctl};
use security::{Cap, IdKind, ObserveIdentity};
use vfs::At;

use crate::Cx;
use crate::caller;
use crate::path::read_versioned;

/// The signal in the low byte of the flags of clone(2).
const CSIGNAL: u64 = 0xff;

/// clone(2), with the argument order of x86-64.
pub(crate) fn sys_clone(
    cx: &mut Cx<'_>,
    flags: u64,
    stack: u64,
    parent_tid: UserAddr,
    child_tid: UserAddr,
    tls: u64,
) -> Result<usize> {
    let flags = flags & 0xffff_ffff;
    let request = CloneRequest {
        flags: CloneFlags::from_bits_truncate(flags & !CSIGNAL),
        exit_signal: (flags & CSIGNAL) as u32,
        stack,
        tls,
        pidfd: parent_tid,
        parent_tid,
        child_tid,
        set_tid: Vec::new(),
        into: None,
    };
    if request.flags.contains(CloneFlags::PIDFD | CloneFlags::PARENT_SETTID) {
        return Err(Errno::EINVAL);
    }
    process::clone(&request, cx.regs).map(|tid| tid as usize)
}

/// fork(2).
pub(crate) fn sys_fork(cx: &mut Cx<'_>) -> Result<usize> {
    let request = CloneRequest { exit_signal: SIGCHLD, ..CloneRequest::default() };
    process::clone(&request, cx.regs).map(|tid| tid as usize)
}

/// vfork(2).
pub(crate) fn sys_vfork(cx: &mut Cx<'_>) -> Result<usize> {
    let flags = CloneFlags::VM | CloneFlags::VFORK;
    let request = CloneRequest { flags, exit_signal: SIGCHLD, ..CloneRequest::default() };
    process::clone(&request, cx.regs).map(|tid| tid as usize)
}

/// clone3(2).
pub(crate) fn sys_clone3(cx: &mut Cx<'_>, args: UserAddr, size: usize) -> Result<usize> {
    /// The size of the first version.
    const SIZE_VER0: usize = 64;
    const MAX_LEVEL: u64 = process::pidns::MAX_LEVEL as u64;
    if size > hal::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < SIZE_VER0 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; size_of::<CloneArgs>()];
    read_versioned(args, size, &mut bytes)?;
    let args: CloneArgs = zerocopy::transmute!(bytes);
    let mut flags = CloneFlags::from_bits(args.flags).ok_or(Errno::EINVAL)?;
    flags.set(CloneFlags::NEWNS, flags.intersects(CloneFlags::NEWNS | CloneFlags::EMPTY_MNTNS));
    if args.set_tid_size > MAX_LEVEL || (args.set_tid == 0) != (args.set_tid_size == 0) {
        return Err(Errno::EINVAL);
    }
    if args.exit_signal > u64::from(NSIG) || flags.contains(CloneFlags::DETACHED) {
        return Err(Errno::EINVAL);
    }
    if args.exit_signal != 0 && flags.intersects(CloneFlags::THREAD | CloneFlags::PARENT) {
        return Err(Errno::EINVAL);
    }
    if (args.stack == 0) != (args.stack_size == 0) {
        return Err(Errno::EINVAL);
    }
    let into = if flags.contains(CloneFlags::INTO_CGROUP) {
        let fd = i32::try_from(args.cgroup).map_err(|_| Errno::EINVAL)?;
        let files = process::current().files().ok_or(Errno::EBADF)?;
        Some(Into(cgroup2::group_for_child(&*files.get_any(fd)?)?))
    } else {
        None
    };
    let mut set_tid = Vec::new();
    for index in 0..args.set_tid_size {
        let tid: i32 = user::read(UserAddr(args.set_tid.wrapping_add(4 * index)))?;
        set_tid.push(u32::try_from(tid).ok().filter(|&tid| tid > 0).ok_or(Errno::EINVAL)?);
    }
    let request = CloneRequest {
        flags,
        exit_signal: args.exit_signal as u32,
        stack: args.stack.checked_add(args.stack_size).ok_or(Errno::EINVAL)?,
        tls: args.tls,
        pidfd: UserAddr(args.pidfd),
        parent_tid: UserAddr(args.parent_tid),
        child_tid: UserAddr(args.child_tid),
        set_tid,
        into,
    };
    process::clone(&request, cx.regs).map(|tid| tid as usize)
}

/// execve(2).
pub(crate) fn sys_execve(cx: &mut Cx<'_>, path: UserAddr, argv: UserAddr, envp: UserAddr) -> Result<usize> {
    let path = caller::path(path)?;
    let request = ExecRequest { at: At::Cwd, path: &path, argv, envp, flags: AtFlags::empty() };
    execve(&request, cx.regs).map(|()| 0)
}

/// execveat(2).
pub(crate) fn sys_execveat(
    cx: &mut Cx<'_>,
    dirfd: i32,
    path: UserAddr,
    argv: UserAddr,
    envp: UserAddr,
    flags: u32,
) -> Result<usize> {
    let flags =
        crate::fd::at_flags(flags, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW | AtFlags::EXECVE_CHECK)?;
    let path = caller::path(path)?;
    let request = ExecRequest { at: At::from_raw(dirfd), path: &path, argv, envp, flags };
    execve(&request, cx.regs).map(|()| 0)
}

/// exit(2) of one thread; the end comes on the way out.
pub(crate) fn sys_exit(_cx: &mut Cx<'_>, code: i32) -> Result<usize> {
    exit::request_exit(code);
    Ok(0)
}

/// exit_group(2); the end comes on the way out.
pub(crate) fn sys_exit_group(_cx: &mut Cx<'_>, code: i32) -> Result<usize> {
    exit::request_group_exit(code);
    Ok(0)
}

/// wait4(2).
pub(crate) fn sys_wait4(
    _cx: &mut Cx<'_>,
    pid: i32,
    status: UserAddr,
    options: u32,
    rusage: UserAddr,
) -> Result<usize> {
    let known = WaitOptions::NOHANG
        | WaitOptions::UNTRACED
        | WaitOptions::CONTINUED
        | WaitOptions::NOTHREAD
        | WaitOptions::ALL
        | WaitOptions::CLONE;
    let options = WaitOptions::from_bits(options).filter(|o| known.contains(*o)).ok_or(Errno::EINVAL)?;
    let who = wait::who_of_wait4(pid)?;
    let Some(event) = wait::wait(&who, options | WaitOptions::EXITED)? else { return Ok(0) };
    if status.0 != 0 {
        user::write(status, &event.status)?;
    }
    if rusage.0 != 0 {
        user::write(rusage, &event.rusage)?;
    }
    Ok(event.pid as usize)
}

/// waitid(2).
pub(crate) fn sys_waitid(
    _cx: &mut Cx<'_>,
    kind: u32,
    id: i32,
    info: UserAddr,
    options: u32,
    rusage: UserAddr,
) -> Result<usize> {
    let known = WaitOptions::NOHANG
        | WaitOptions::NOWAIT
        | WaitOptions::EXITED
        | WaitOptions::STOPPED
        | WaitOptions::CONTINUED
        | WaitOptions::NOTHREAD
        | WaitOptions::ALL
        | WaitOptions::CLONE;
    let what = WaitOptions::EXITED | WaitOptions::STOPPED | WaitOptions::CONTINUED;
    let options = WaitOptions::from_bits(options)
        .filter(|o| known.contains(*o) && o.intersects(what))
        .ok_or(Errno::EINVAL)?;
    let who = match kind {
        0 => Who::Any,
        1 => wait::who_of_pid(u32::try_from(id).ok().filter(|&id| id > 0).ok_or(Errno::EINVAL)?),
        2 if id == 0 => Who::Pgid(process::current().group().pgid()),
        2 => wait::who_of_pgid(u32::try_from(id).map_err(|_| Errno::EINVAL)?),
        3 if id < 0 => return Err(Errno::EINVAL),
        3 => return wait_for_pidfd(&*crate::caller::file(id)?, options, info, rusage),
        _ => return Err(Errno::EINVAL),
    };
    let event = wait::wait(&who, options)?;
    write_wait_info(event, info, rusage)?;
    Ok(0)
}

/// waitid(2) with `P_PIDFD`. `EBADF`: no pidfd. `EAGAIN`: it is non-blocking and nothing has happened.
fn wait_for_pidfd(file: &vfs::File, options: WaitOptions, info: UserAddr, rusage: UserAddr) -> Result<usize> {
    let group = events::pidfd::group_of(file).ok_or(Errno::EBADF)?;
    let is_nonblocking = file.is_nonblocking() && !options.contains(WaitOptions::NOHANG);
    let options = if is_nonblocking { options | WaitOptions::NOHANG } else { options };
    let event = wait::wait(&Who::Process(group.clone()), options)?;
    if event.is_none() && is_nonblocking {
        return Err(Errno::EAGAIN);
    }
    write_wait_info(event, info, rusage)?;
    Ok(0)
}

fn write_wait_info(event: Option<Event>, info: UserAddr, rusage: UserAddr) -> Result<()> {
    if let Some(event) = &event
        && rusage.0 != 0
    {
        user::write(rusage, &event.rusage)?;
    }
    if info.0 != 0 {
        let told = match &event {
            Some(e) => SigInfo::child(e.code, e.pid as i32, e.uid, e.si_status(), 0, 0),
            None => SigInfo { signo: 0, ..SigInfo::new(0, 0) },
        };
        // Linux fills in the fields of SIGCHLD only: 32 bytes.
        user::write(info, &told.signo)?;
        user::write(UserAddr(info.0.wrapping_add(4)), &0i32)?;
        user::write(UserAddr(info.0.wrapping_add(8)), &told.code)?;
        user::write(UserAddr(info.0.wrapping_add(16)), &told.fields[0])?;
        user::write(UserAddr(info.0.wrapping_add(24)), &(told.fields[1] as u32))?;
    }
    Ok(())
}

/// getpid(2).
pub(crate) fn sys_getpid(_cx: &mut Cx<'_>) -> Result<usize> {
    Ok(process::current().own_pid() as usize)
}

/// gettid(2).
pub(crate) fn sys_gettid(_cx: &mut Cx<'_>) -> Result<usize> {
    Ok(process::current().own_tid() as usize)
}

/// getppid(2).
pub(crate) fn sys_getppid(_cx: &mut Cx<'_>) -> Result<usize> {
    Ok(process::current().group().own_ppid() as usize)
}

/// getpgrp(2).
pub(crate) fn sys_getpgrp(_cx: &mut Cx<'_>) -> Result<usize> {
    Ok(pid::visible(process::current().group().pgid()) as usize)
}

/// getpgid(2).
pub(crate) fn sys_getpgid(_cx: &mut Cx<'_>, pid: i32) -> Result<usize> {
    pgrp::getpgid(pid).map(|id| id as usize)
}

/// getsid(2).
pub(crate) fn sys_getsid(_cx: &mut Cx<'_>, pid: i32) -> Result<usize> {
    pgrp::getsid(pid).map(|id| id as usize)
}

/// setpgid(2).
pub(crate) fn sys_setpgid(_cx: &mut Cx<'_>, pid: i32, pgid: i32) -> Result<usize> {
    pgrp::setpgid(pid, pgid).map(|()| 0)
}

/// setsid(2).
pub(crate) fn sys_setsid(_cx: &mut Cx<'_>) -> Result<usize> {
    pgrp::setsid().map(|id| id as usize)
}

/// set_tid_address(2).
pub(crate) fn sys_set_tid_address(_cx: &mut Cx<'_>, addr: UserAddr) -> Result<usize> {
    Ok(prctl::set_tid_address(addr) as usize)
}

/// set_robust_list(2).
pub(crate) fn sys_set_robust_list(_cx: &mut Cx<'_>, head: UserAddr, len: usize) -> Result<usize> {
    prctl::set_robust_list(head, len).map(|()| 0)
}

/// get_robust_list(2).
pub(crate) fn sys_get_robust_list(
    _cx: &mut Cx<'_>,
    pid: i32,
    head: UserAddr,
    len: UserAddr,
) -> Result<usize> {
    let (list, size) = prctl::robust_list(pid)?;
    user::write(len, &size)?;
    user::write(head, &list.0)?;
    Ok(0)
}

/// personality(2).
pub(crate) fn sys_personality(_cx: &mut Cx<'_>, persona: u32) -> Result<usize> {
    Ok(prctl::personality(persona) as usize)
}

/// getrusage(2).
pub(crate) fn sys_getrusage(_cx: &mut Cx<'_>, who: i32, usage: UserAddr) -> Result<usize> {
    const RUSAGE_SELF: i32 = 0;
    const RUSAGE_CHILDREN: i32 = -1;
    const RUSAGE_THREAD: i32 = 1;
    let task = process::current();
    let sum = match who {
        RUSAGE_SELF => task.group().usage(),
        RUSAGE_CHILDREN => task.group().children_usage(),
        RUSAGE_THREAD => task.usage(),
        _ => return Err(Errno::EINVAL),
    };
    let answer: Rusage = sum.to_rusage();
    user::write(usage, &answer)?;
    Ok(0)
}

/// times(2): the ticks since boot.
pub(crate) fn sys_times(_cx: &mut Cx<'_>, buf: UserAddr) -> Result<usize> {
    if buf.0 != 0 {
        let task = process::current();
        let (own, children) = (task.group().cpu_times(), task.group().children_usage());
        let ticks =
            [own.utime_ns, own.stime_ns, children.utime_ns, children.stime_ns].map(process::usage::ticks);
        user::write(buf, &ticks)?;
    }
    Ok(process::usage::ticks(hal::time::now_ns()) as usize)
}

/// getrlimit(2).
pub(crate) fn sys_getrlimit(_cx: &mut Cx<'_>, resource: u32, out: UserAddr) -> Result<usize> {
    let resource = Resource::from_number(resource)?;
    user::write(out, &process::current().group().rlimits().get(resource))?;
    Ok(0)
}

/// setrlimit(2).
pub(crate) fn sys_setrlimit(cx: &mut Cx<'_>, resource: u32, new: UserAddr) -> Result<usize> {
    sys_prlimit64(cx, 0, resource, new, UserAddr(0))
}

/// prlimit64(2).
pub(crate) fn sys_prlimit64(
    _cx: &mut Cx<'_>,
    pid: i32,
    resource: u32,
    new: UserAddr,
    old: UserAddr,
) -> Result<usize> {
    let resource = Resource::from_number(resource)?;
    let new: Option<Rlimit> = if new.0 == 0 { None } else { Some(user::read(new)?) };
    let me = process::current();
    let target = if pid == 0 {
        me.arc().clone()
    } else {
        let task = u32::try_from(pid).ok().and_then(pid::find_task).ok_or(Errno::ESRCH)?;
        may_change_limits(&me, &task)?;
        task
    };
    let limits = target.group().rlimits();
    let before = limits.get(resource);
    if let Some(new) = new {
        let may_raise = me.with_cred(|cred| security::capable(cred, Cap::SYS_RESOURCE));
        limits.set(resource, new, may_raise)?;
        pass_on_limits(&target);
    }
    if old.0 != 0 {
        user::write(old, &before)?;
    }
    Ok(0)
}

/// Only the same user's processes, or `CAP_SYS_RESOURCE` (prlimit(2)).
fn may_change_limits(me: &process::CurrentTask, task: &process::Task) -> Result<()> {
    let (own, other) = (me.cred(), task.cred());
    let same_user = [other.uid, other.euid, other.suid].iter().all(|&uid| uid == own.uid);
    let same_group = [other.gid, other.egid, other.sgid].iter().all(|&gid| gid == own.gid);
    if same_user && same_group || own.ns_capable(&other.user_ns, Cap::SYS_RESOURCE) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// Tells the address space the limits that it obeys; they change with capabilities, too.
pub(crate) fn pass_on_limits(task: &process::Task) {
    let Some(mm) = task.mm() else { return };
    let limits = task.group().rlimits();
    let may_lock = task.with_cred(|cred| security::capable(cred, Cap::IPC_LOCK));
    mm.set_limits(mm::Limits {
        address_space: limits.cur(Resource::As),
        data: limits.cur(Resource::Data),
        stack: limits.cur(Resource::Stack),
        memlock: if may_lock { RLIM_INFINITY } else { limits.cur(Resource::Memlock) },
    });
}

/// unshare(2).
pub(crate) fn sys_unshare(_cx: &mut Cx<'_>, flags: u64) -> Result<usize> {
    /// `UNSHARE_EMPTY_MNTNS`, the number of a flag that means nothing here.
    const EMPTY_MNTNS: CloneFlags = CloneFlags::PARENT_SETTID;
    let flags = u32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    let mut flags = CloneFlags::from_bits(flags.into()).ok_or(Errno::EINVAL)?;
    flags.set(CloneFlags::EMPTY_MNTNS, flags.contains(EMPTY_MNTNS));
    flags.remove(EMPTY_MNTNS);
    process::nsproxy::unshare(flags).map(|()| 0)
}

/// setns(2). `EINVAL`: neither a namespace nor a pidfd.
pub(crate) fn sys_setns(_cx: &mut Cx<'_>, fd: i32, wanted: u32) -> Result<usize> {
    let file = caller::file(fd)?;
    if let Some(ns) = file.ops_as::<nsfs::NsFile>() {
        return nsfs::setns_file(ns.namespace(), wanted).map(|()| 0);
    }
    let group = events::pidfd::group_of(&file).ok_or(Errno::EINVAL)?;
    let task = group.live_task().filter(|_| !group.is_zombie()).ok_or(Errno::ESRCH)?;
    nsfs::setns_process(&task, wanted).map(|()| 0)
}

/// kcmp(2). No task has an I/O context; watched files of epoll are not compared: `EINVAL`.
pub(crate) fn sys_kcmp(
    _cx: &mut Cx<'_>,
    first: i32,
    second: i32,
    kind: u32,
    a: u64,
    b: u64,
) -> Result<usize> {
    let find = |pid: i32| u32::try_from(pid).ok().and_then(pid::find_task).ok_or(Errno::ESRCH);
    let (one, two) = (find(first)?, find(second)?);
    if !prctl::may_observe(&one, ObserveIdentity::Real) || !prctl::may_observe(&two, ObserveIdentity::Real) {
        return Err(Errno::EPERM);
    }
    let order = |x: usize, y: usize| match x.cmp(&y) {
        core::cmp::Ordering::Equal => 0,
        core::cmp::Ordering::Less => 1,
        core::cmp::Ordering::Greater => 2,
    };
    let actions = |task: &process::Task| task.group().with_hand(|hand| core::ptr::from_ref(hand).addr());
    let file = |task: &process::Task, fd: u64| {
        task.files().ok_or(Errno::EBADF)?.get_any(i32::try_from(fd).map_err(|_| Errno::EBADF)?)
    };
    Ok(match kind {
        0 => order(file(&one, a)?.id() as usize, file(&two, b)?.id() as usize),
        1 => order(address(&one.mm()), address(&two.mm())),
        2 => order(address(&one.files()), address(&two.files())),
        3 => order(address(&one.fs()), address(&two.fs())),
        4 => order(actions(&one), actions(&two)),
        5 => 0,
        6 => order(ipc::undo_owner(&one) as usize, ipc::undo_owner(&two) as usize),
        _ => return Err(Errno::EINVAL),
    })
}

fn address<T>(object: &Option<alloc::sync::Arc<T>>) -> usize {
    object.as_ref().map_or(0, |object| alloc::sync::Arc::as_ptr(object).addr())
}

/// getgroups(2).
pub(crate) fn sys_getgroups(_cx: &mut Cx<'_>, size: i32, list: UserAddr) -> Result<usize> {
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    let cred = process::current().cred();
    let groups = cred.groups();
    if size == 0 {
        return Ok(groups.len());
    }
    if groups.len() > size {
        return Err(Errno::EINVAL);
    }
    if cred.user_ns.is_initial() {
        user::write(list, groups)?;
    } else {
        let shown: Vec<u32> = groups.iter().map(|gid| cred.user_ns.show(IdKind::Group, *gid)).collect();
        user::write(list, &shown[..])?;
    }
    Ok(groups.len())
}

/// setgroups(2).
pub(crate) fn sys_setgroups(_cx: &mut Cx<'_>, size: usize, list: UserAddr) -> Result<usize> {
    /// Most groups of one process (Linux: `NGROUPS_MAX`).
    const NGROUPS_MAX: usize = 65536;
    let may =
        process::current().with_cred(|cred| cred.own_capable(Cap::SETGID) && cred.user_ns.may_setgroups());
    if !may {
        return Err(Errno::EPERM);
    }
    if size > NGROUPS_MAX {
        return Err(Errno::EINVAL);
    }
    let mut groups: Vec<u32> = user::read_vec(list, size).map_err(|error| match error {
        hal::CStrError::NoMemory => Errno::ENOMEM,
        _ => Errno::EFAULT,
    })?;
    for gid in &mut groups {
        *gid = caller::global_id(IdKind::Group, *gid)?;
    }
    process::cred::change(|cred| cred.set_groups(&mut groups)).map(|()| 0)
}
