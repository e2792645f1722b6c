//! The namespaces of a task (namespaces(7)), and how clone(2), unshare(2) and setns(2) change them.
//!
//! What other structures hold is not here: the mount namespace is in `vfs::FsContext`, the user namespace in the
//! credentials, the pid namespace a task itself is in belongs to its number.
//!
//! # Locking
//!
//! A [`NsProxy`] never changes; a task's reference to it is replaced by the task itself and read through RCU.

use alloc::sync::Arc;

use abi::process::CloneFlags;
use abi::{Errno, Result};
use ns::time::Clock;
use ns::{CgroupNs, IpcNs, NetNs, TimeNs, UtsNs};
use security::{Cap, Cred, UserNs};
use vfs::FsContext;

use crate::pidns::PidNs;
use crate::task::{self, CurrentTask};
use crate::{Task, cred, hooks};

/// Namespaces of one or more tasks.
#[derive(Clone)]
pub struct NsProxy {
    /// Host names.
    pub uts: Arc<UtsNs>,
    /// System V objects and message queues.
    pub ipc: Arc<IpcNs>,
    /// Offsets of clocks.
    pub time: Arc<TimeNs>,
    /// Those that children, and the next program, will have.
    pub time_for_children: Arc<TimeNs>,
    /// Where children get their numbers.
    pub pid_for_children: PidNs,
    /// The network.
    pub net: Arc<NetNs>,
    /// The root of control groups.
    pub cgroup: Arc<CgroupNs>,
    /// All are the first of their kind: nothing ends when a task gives it up.
    pub(crate) is_first: bool,
}

/// The flags of namespaces that a proxy holds.
const IN_PROXY: CloneFlags = CloneFlags::NEWUTS
    .union(CloneFlags::NEWIPC)
    .union(CloneFlags::NEWPID)
    .union(CloneFlags::NEWTIME)
    .union(CloneFlags::NEWNET)
    .union(CloneFlags::NEWCGROUP);
/// All that need rights.
const NEW: CloneFlags = IN_PROXY.union(CloneFlags::NEWNS);

impl NsProxy {
    /// The first of each.
    pub(crate) fn initial() -> Arc<Self> {
        Arc::new(Self {
            uts: UtsNs::initial().clone(),
            ipc: IpcNs::initial().clone(),
            time: TimeNs::initial().clone(),
            time_for_children: TimeNs::initial().clone(),
            pid_for_children: PidNs::INITIAL,
            net: NetNs::initial().clone(),
            cgroup: CgroupNs::initial().clone(),
            is_first: true,
        })
    }

    /// A copy with new namespaces of `me`, the caller, for `flags`, owned by `owner`.
    fn with_new(&self, me: &Task, flags: CloneFlags, owner: &UserNs) -> Result<Self> {
        let mut new = Self { is_first: false, ..self.clone() };
        if flags.contains(CloneFlags::NEWUTS) {
            new.uts = self.uts.copy(owner)?;
        }
        if flags.contains(CloneFlags::NEWIPC) {
            new.ipc = IpcNs::new(owner)?;
        }
        if flags.contains(CloneFlags::NEWPID) {
            new.pid_for_children = PidNs::new_below(&self.pid_for_children, owner)?;
        }
        if flags.contains(CloneFlags::NEWNET) {
            new.net = NetNs::new(owner)?;
        }
        if flags.contains(CloneFlags::NEWCGROUP) {
            new.cgroup = CgroupNs::new(owner, me.cgroup())?;
        }
        if flags.contains(CloneFlags::NEWTIME) {
            new.time_for_children = self.time.copy(owner)?;
        }
        Ok(new)
    }
}

/// The end of `task`: namespaces that nobody else is in go now, not when it is reaped.
pub(crate) fn leave(task: &Task) {
    let is_first = {
        let guard = hal::rcu::read_lock();
        task.nsproxy_ref(&guard).is_none_or(|proxy| proxy.is_first)
    };
    if !is_first {
        task.replace_nsproxy(None);
    }
}

/// Gives up the caller's semaphore adjustments: it leaves its IPC namespace.
pub fn leave_semaphores(me: &CurrentTask) {
    hooks::leave_ipc(me);
}

/// Whether clone(2) or unshare(2) with `flags` makes namespaces.
pub(crate) fn makes_namespaces(flags: CloneFlags) -> bool {
    flags.intersects(NEW.union(CloneFlags::NEWUSER))
}

/// `EPERM` unless `cred` may make the namespaces of `flags`.
pub(crate) fn check_rights(cred: &Cred, flags: CloneFlags) -> Result<()> {
    if flags.intersects(NEW) && !cred.own_capable(Cap::SYS_ADMIN) { Err(Errno::EPERM) } else { Ok(()) }
}

/// The proxy of a child that `me` makes with `flags`, owned by the user namespace of `cred`, the child's credentials.
///
/// A child that shares the address space keeps the clocks of its parent: the vDSO cannot show two times.
pub(crate) fn for_child(me: &CurrentTask, flags: CloneFlags, cred: &Cred) -> Result<Arc<NsProxy>> {
    let old = me.nsproxy().ok_or(Errno::ESRCH)?;
    let enters_time = !flags.contains(CloneFlags::VM) && !Arc::ptr_eq(&old.time, &old.time_for_children);
    if !flags.intersects(IN_PROXY) && !enters_time {
        return Ok(old);
    }
    let mut new = old.with_new(me, flags, &cred.user_ns)?;
    if !flags.contains(CloneFlags::VM) && !Arc::ptr_eq(&new.time, &new.time_for_children) {
        new.time = new.time_for_children.clone();
        new.time.freeze();
    }
    Ok(Arc::new(new))
}

/// execve(2): the new program has the clocks that were meant for children. True when that is a change.
pub(crate) fn enter_time_ns(me: &CurrentTask) -> bool {
    let Some(old) = me.nsproxy() else { return false };
    if Arc::ptr_eq(&old.time, &old.time_for_children) {
        return false;
    }
    let mut new = NsProxy { is_first: false, ..NsProxy::clone(&old) };
    new.time = new.time_for_children.clone();
    new.time.freeze();
    me.replace_nsproxy(Some(Arc::new(new)));
    true
}

/// Gives `fs` the mount namespace that `flags` ask for, owned by `owner`: a copy or an empty one. `ENOSPC`: too many.
pub(crate) fn enter_mount_ns(fs: &FsContext, flags: CloneFlags, owner: &UserNs) -> Result<()> {
    match flags {
        flags if flags.contains(CloneFlags::EMPTY_MNTNS) => fs.enter_empty_ns(owner),
        flags if flags.contains(CloneFlags::NEWNS) => fs.unshare_ns(owner),
        _ => Ok(()),
    }
}

/// unshare(2) of namespaces and of what threads share. `EINVAL`: unknown flags, kinds that are missing, or what other
/// threads would have to take part in. `EPERM`: no right. `ENOSPC`: too many namespaces.
pub fn unshare(flags: CloneFlags) -> Result<()> {
    let task = task::current();
    let mut flags = flags;
    if flags.contains(CloneFlags::NEWUSER) {
        flags |= CloneFlags::THREAD | CloneFlags::FS;
    }
    if flags.contains(CloneFlags::VM) {
        flags |= CloneFlags::SIGHAND;
    }
    if flags.contains(CloneFlags::SIGHAND) {
        flags |= CloneFlags::THREAD;
    }
    if flags.contains(CloneFlags::EMPTY_MNTNS) {
        flags |= CloneFlags::NEWNS;
    }
    if flags.contains(CloneFlags::NEWNS) {
        flags |= CloneFlags::FS;
    }
    if flags.contains(CloneFlags::NEWIPC) {
        flags |= CloneFlags::SYSVSEM;
    }
    check_unshare(&task, flags)?;
    let cred = if flags.contains(CloneFlags::NEWUSER) { Some(in_new_user_ns(&task.cred())?) } else { None };
    let effective = cred.clone().unwrap_or_else(|| task.cred());
    check_rights(&effective, flags)?;
    let proxy = if flags.intersects(IN_PROXY) {
        let old = task.nsproxy().ok_or(Errno::ESRCH)?;
        Some(Arc::new(old.with_new(&task, flags, &effective.user_ns)?))
    } else {
        None
    };
    let files = match task.files() {
        Some(files) if flags.contains(CloneFlags::FILES) && files.is_shared() => Some(files.fork()?),
        _ => None,
    };
    if flags.contains(CloneFlags::FS)
        && let Some(fs) = task.fs()
    {
        let own = fs.fork();
        enter_mount_ns(&own, flags, &effective.user_ns)?;
        drop(task.replace_fs(Some(own)));
    }
    if let Some(files) = files {
        task.replace_files(Some(files));
    }
    if flags.contains(CloneFlags::SYSVSEM) {
        hooks::leave_ipc(&task);
    }
    if let Some(proxy) = proxy {
        task.replace_nsproxy(Some(proxy));
    }
    if let Some(cred) = cred {
        cred::change(|_| Ok(Cred::clone(&cred)))?;
    }
    Ok(())
}

/// The credentials of `old` as the first of a new user namespace below its own. `EPERM`, `ENOSPC`.
#[inline(never)]
pub(crate) fn in_new_user_ns(old: &Cred) -> Result<Arc<Cred>> {
    Ok(Arc::new(old.with_user_ns(UserNs::new_below(old)?)))
}

/// Linux: `check_unshare_flags`, and the rule that only the first thread's user namespace can differ.
fn check_unshare(task: &CurrentTask, flags: CloneFlags) -> Result<()> {
    use CloneFlags as F;
    let known = NEW
        .union(F::NEWUSER)
        .union(F::EMPTY_MNTNS)
        .union(F::THREAD)
        .union(F::FS)
        .union(F::VM)
        .union(F::SIGHAND)
        .union(F::FILES)
        .union(F::SYSVSEM);
    if !known.contains(flags) {
        return Err(Errno::EINVAL);
    }
    let is_alone = task.group().nr_threads() <= 1;
    if flags.intersects(F::THREAD | F::SIGHAND | F::VM) && !is_alone {
        return Err(Errno::EINVAL);
    }
    // One reference in the cell, one here: more means that another process shares the actions.
    if flags.intersects(F::SIGHAND | F::VM) && Arc::strong_count(&task.group().hand()) > 2 {
        return Err(Errno::EINVAL);
    }
    if flags.contains(F::VM) && task.mm().is_some_and(|mm| Arc::strong_count(&mm) > 2) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// What clock `id` shows the caller when the machine's monotonic clock says `machine_ns`; other clocks have no offset.
pub fn clock_inside(id: i32, machine_ns: u64) -> u64 {
    let offset = Clock::of(id).map_or(0, |which| task::current().clock_offset_ns(which));
    machine_ns.saturating_add_signed(offset)
}

/// When the machine's monotonic clock says what the caller means by `ns` of clock `id`.
pub fn clock_outside(id: i32, ns: u64) -> u64 {
    let offset = Clock::of(id).map_or(0, |which| task::current().clock_offset_ns(which));
    ns.saturating_add_signed(offset.saturating_neg())
}

/// Puts the caller into the namespaces of `proxy` (setns(2)); who may has been checked.
pub fn enter(me: &CurrentTask, proxy: NsProxy) {
    me.replace_nsproxy(Some(Arc::new(NsProxy { is_first: false, ..proxy })));
}

impl Task {
    /// Its UTS namespace; that of the first process once it exits.
    pub fn uts(&self) -> Arc<UtsNs> {
        self.nsproxy().map_or_else(|| UtsNs::initial().clone(), |proxy| proxy.uts.clone())
    }

    /// Its network namespace; that of the first process once it exits.
    pub fn net(&self) -> Arc<NetNs> {
        self.nsproxy().map_or_else(|| NetNs::initial().clone(), |proxy| proxy.net.clone())
    }

    /// Its IPC namespace; `None` once it exits.
    pub fn ipc(&self) -> Option<Arc<IpcNs>> {
        self.nsproxy().map(|proxy| proxy.ipc.clone())
    }

    /// What its clock `which` shows more than the machine's.
    pub fn clock_offset_ns(&self, which: Clock) -> i64 {
        let guard = hal::rcu::read_lock();
        self.nsproxy_ref(&guard).map_or(0, |proxy| proxy.time.offset_ns(which))
    }
}
