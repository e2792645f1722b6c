//! setns(2): entering namespaces of others.

use alloc::sync::Arc;

use abi::process::CloneFlags;
use abi::{Errno, Result};
use process::{CurrentTask, NsProxy, Task, cred};
use security::{Cap, Cred, NsKind};

use crate::{Namespace, Which};

/// All kinds that setns(2) can name.
const KNOWN: CloneFlags = CloneFlags::NEWUTS
    .union(CloneFlags::NEWIPC)
    .union(CloneFlags::NEWUSER)
    .union(CloneFlags::NEWPID)
    .union(CloneFlags::NEWTIME)
    .union(CloneFlags::NEWNS)
    .union(CloneFlags::NEWNET)
    .union(CloneFlags::NEWCGROUP);

/// setns(2) with a file of this crate; `wanted` 0 takes any kind. `EINVAL`: it is of another kind.
pub fn setns_file(ns: &Namespace, wanted: u32) -> Result<()> {
    if wanted != 0 && wanted != ns.id().kind().clone_flag() {
        return Err(Errno::EINVAL);
    }
    enter(core::slice::from_ref(ns))
}

/// setns(2) with a pidfd of `target`: enters the namespaces that `wanted` names. `EINVAL`: none, or unknown ones.
/// `EPERM`: the caller may not look into it.
pub fn setns_process(target: &Arc<Task>, wanted: u32) -> Result<()> {
    let flags = CloneFlags::from_bits(u64::from(wanted)).ok_or(Errno::EINVAL)?;
    if flags.is_empty() || !KNOWN.contains(flags) {
        return Err(Errno::EINVAL);
    }
    if !process::prctl::may_observe(target, security::ObserveIdentity::Real) {
        return Err(Errno::EPERM);
    }
    // The user namespace first: its capabilities count for the others.
    let order = [
        NsKind::User,
        NsKind::Mnt,
        NsKind::Uts,
        NsKind::Ipc,
        NsKind::Pid,
        NsKind::Time,
        NsKind::Cgroup,
        NsKind::Net,
    ];
    let mut list = alloc::vec::Vec::new();
    for kind in order.into_iter().filter(|kind| wanted & kind.clone_flag() != 0) {
        list.push(Namespace::of(target, Which::Own(kind)).map_err(|_| Errno::ESRCH)?);
    }
    enter(&list)
}

/// Checks the rights to all of `list`, then enters them.
fn enter(list: &[Namespace]) -> Result<()> {
    let me = process::current();
    let mut cred = Cred::clone(&*me.cred());
    let is_new_cred = list.iter().any(|ns| matches!(ns, Namespace::User(_)));
    let mut proxy = NsProxy::clone(&*me.nsproxy().ok_or(Errno::ESRCH)?);
    for ns in list {
        if let Namespace::User(user_ns) = ns {
            check_user(&me, &cred, user_ns)?;
            cred = cred.with_user_ns(user_ns.clone());
        } else {
            check(&me, &cred, ns)?;
        }
        match ns {
            Namespace::Uts(ns) => proxy.uts = ns.clone(),
            Namespace::Ipc(ns) => proxy.ipc = ns.clone(),
            Namespace::Pid(ns) => proxy.pid_for_children = ns.clone(),
            Namespace::Time(ns) => {
                ns.freeze();
                proxy.time = ns.clone();
                proxy.time_for_children = ns.clone();
            }
            Namespace::Net(ns) => proxy.net = ns.clone(),
            Namespace::Cgroup(ns) => proxy.cgroup = ns.clone(),
            Namespace::User(_) | Namespace::Mnt(_) => {}
        }
    }
    commit(&me, list, proxy, is_new_cred.then_some(cred))
}

fn commit(me: &CurrentTask, list: &[Namespace], proxy: NsProxy, cred: Option<Cred>) -> Result<()> {
    for ns in list {
        match ns {
            Namespace::Mnt(ns) => me.fs().ok_or(Errno::ESRCH)?.enter_ns(ns)?,
            Namespace::Time(_) => process::exec::show_clock_of(me, &proxy)?,
            Namespace::Ipc(_) => process::nsproxy::leave_semaphores(me),
            _ => {}
        }
    }
    process::nsproxy::enter(me, proxy);
    match cred {
        Some(cred) => cred::change(|_| Ok(cred)),
        None => Ok(()),
    }
}

/// Linux: `userns_install`. `EINVAL`: the caller is in it, or has threads or shares its directories. `EPERM`: no right.
fn check_user(me: &CurrentTask, cred: &Cred, ns: &security::UserNs) -> Result<()> {
    let shares_fs = me.fs().is_some_and(|fs| Arc::strong_count(&fs) > 2);
    if *ns == cred.user_ns || me.group().nr_threads() > 1 || shares_fs {
        return Err(Errno::EINVAL);
    }
    if cred.ns_capable(ns, Cap::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
}

/// The rights for the other kinds: `CAP_SYS_ADMIN` over the namespace and in the caller's own.
fn check(me: &CurrentTask, cred: &Cred, ns: &Namespace) -> Result<()> {
    if !cred.ns_capable(ns.id().owner(), Cap::SYS_ADMIN) || !cred.own_capable(Cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    match ns {
        Namespace::Mnt(_) if !cred.own_capable(Cap::SYS_CHROOT) => Err(Errno::EPERM),
        Namespace::Mnt(_) if me.fs().is_some_and(|fs| Arc::strong_count(&fs) > 2) => Err(Errno::EINVAL),
        // Only into ones below: numbers of those above would not be there.
        Namespace::Pid(ns) if !me.group().pid_ns().contains(ns) => Err(Errno::EINVAL),
        Namespace::Time(_) if me.group().nr_threads() > 1 => Err(Errno::EUSERS),
        _ => Ok(()),
    }
}
