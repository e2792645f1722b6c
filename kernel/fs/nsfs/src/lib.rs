#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod active;
mod file;
mod handle;
mod list;
mod setns;

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;

use abi::{Errno, Result};
use ns::{CgroupNs, IpcNs, NetNs, TimeNs, UtsNs};
use process::{PidNs, Task};
use security::{NsId, NsKind, UserNs};
use vfs::Path;
use vfs::mount::MountNs;

pub use active::mount_ns;
pub use file::{NsFile, open};
pub use handle::{by_handle, handle_of};
pub use list::{Listing, list};
pub use setns::{setns_file, setns_process};

/// Makes the ioctls of pidfds that open namespaces work. Call once at boot.
pub fn register() {
    process::hooks::register_namespaces(open_of);
}

/// `PIDFD_GET_*_NAMESPACE`, by its number (linux/pidfd.h).
fn open_of(task: &Task, number: u32) -> Result<usize> {
    let which = match number {
        2 => Which::Own(NsKind::Ipc),
        3 => Which::Own(NsKind::Mnt),
        5 => Which::Own(NsKind::Pid),
        6 => Which::ForChildren(NsKind::Pid),
        7 => Which::Own(NsKind::Time),
        8 => Which::ForChildren(NsKind::Time),
        9 => Which::Own(NsKind::User),
        10 => Which::Own(NsKind::Uts),
        1 => Which::Own(NsKind::Cgroup),
        4 => Which::Own(NsKind::Net),
        _ => return Err(Errno::ENOTTY),
    };
    file::install(Namespace::of(task, which)?)
}

/// A namespace of some kind.
#[derive(Clone)]
pub enum Namespace {
    /// Host names.
    Uts(Arc<UtsNs>),
    /// System V objects and message queues.
    Ipc(Arc<IpcNs>),
    /// Offsets of clocks.
    Time(Arc<TimeNs>),
    /// Process numbers.
    Pid(PidNs),
    /// Ids and capabilities.
    User(UserNs),
    /// Mounts.
    Mnt(Arc<MountNs>),
    /// The network.
    Net(Arc<NetNs>),
    /// The root of control groups.
    Cgroup(Arc<CgroupNs>),
}

/// Which namespace of a task is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that the task is in.
    Own(NsKind),
    /// The one that its children will be in: pid and time only.
    ForChildren(NsKind),
}

/// The namespace whose inode `inode` is.
pub fn namespace_of(inode: &vfs::Inode) -> Option<Namespace> {
    inode.ops_as::<file::NsInode>().map(|inode| inode.0.namespace().clone())
}

impl Namespace {
    /// A namespace of `task`. `ENOENT`: the task has ended, or there is no such kind.
    pub fn of(task: &Task, which: Which) -> Result<Self> {
        if task.has(process::TaskFlags::EXITING) {
            return Err(Errno::ENOENT);
        }
        let proxy = task.nsproxy().ok_or(Errno::ENOENT)?;
        Ok(match which {
            Which::Own(NsKind::Uts) => Self::Uts(proxy.uts.clone()),
            Which::Own(NsKind::Ipc) => Self::Ipc(proxy.ipc.clone()),
            Which::Own(NsKind::Time) => Self::Time(proxy.time.clone()),
            Which::Own(NsKind::Pid) => Self::Pid(task.group().pid_ns().clone()),
            Which::Own(NsKind::User) => Self::User(task.cred().user_ns.clone()),
            Which::Own(NsKind::Mnt) => Self::Mnt(task.fs().and_then(|fs| fs.ns()).ok_or(Errno::ENOENT)?),
            Which::Own(NsKind::Cgroup) => Self::Cgroup(proxy.cgroup.clone()),
            Which::Own(NsKind::Net) => Self::Net(proxy.net.clone()),
            Which::ForChildren(NsKind::Time) => Self::Time(proxy.time_for_children.clone()),
            Which::ForChildren(NsKind::Pid) => Self::Pid(proxy.pid_for_children.clone()),
            _ => return Err(Errno::ENOENT),
        })
    }

    /// Number and owner.
    pub fn id(&self) -> &NsId {
        match self {
            Self::Uts(ns) => ns.id(),
            Self::Ipc(ns) => ns.id(),
            Self::Time(ns) => ns.id(),
            Self::Pid(ns) => ns.id(),
            Self::User(ns) => ns.id(),
            Self::Mnt(ns) => ns.id(),
            Self::Net(ns) => ns.id(),
            Self::Cgroup(ns) => ns.id(),
        }
    }

    /// A path to it, as the links in /proc/PID/ns are followed.
    pub fn path(self) -> Path {
        let (ino, kind) = (self.id().ino(), self.id().kind());
        let name = format!("{}:[{ino}]", kind.name());
        vfs::anon::ns_path(ino, name.as_bytes(), Box::new(file::NsInode(active::Open::new(self))))
    }

    /// What the link says, also for kinds of which there is just one.
    pub fn link_text(task: &Task, which: Which) -> Result<alloc::vec::Vec<u8>> {
        let ns = Self::of(task, which)?;
        Ok(format!("{}:[{}]", ns.id().kind().name(), ns.id().ino()).into_bytes())
    }
}
