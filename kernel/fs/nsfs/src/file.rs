//! An open namespace, and what ioctl(2) tells of it (ioctl_nsfs(2)).

use alloc::sync::Arc;

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use hal::{UserAddr, user};
use limits::Resource;
use process::pid;
use security::{IdKind, NsKind, UserNs};
use vfs::{FdFlags, File, FileMode, FileOps, Inode, InodeOps, OpenRequest};

use crate::Namespace;
use crate::active::{InUse, Open, may_see_all};

/// Requests (include/uapi/linux/nsfs.h).
mod request {
    pub const GET_USERNS: u32 = 0xb701;
    pub const GET_PARENT: u32 = 0xb702;
    pub const GET_NSTYPE: u32 = 0xb703;
    pub const GET_OWNER_UID: u32 = 0xb704;
    pub const GET_MNTNS_ID: u32 = 0x8008_b705;
    pub const GET_PID_FROM_PIDNS: u32 = 0x8004_b706;
    pub const GET_TGID_FROM_PIDNS: u32 = 0x8004_b707;
    pub const GET_PID_IN_PIDNS: u32 = 0x8004_b708;
    pub const GET_TGID_IN_PIDNS: u32 = 0x8004_b709;
    pub const GET_ID: u32 = 0x8008_b70d;
    pub const MNT_GET_INFO: u32 = 0x8010_b70a;
    pub const MNT_GET_NEXT: u32 = 0x8010_b70b;
    pub const MNT_GET_PREV: u32 = 0x8010_b70c;
}

/// Size of `struct mnt_ns_info` in its first version.
const MNT_INFO_SIZE: u32 = 16;

/// The inode of a namespace.
pub(crate) struct NsInode(pub(crate) Open);

impl InodeOps for NsInode {
    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(NsFile(self.0.namespace().clone())))
    }
}

/// The operations of an open namespace.
pub struct NsFile(Namespace);

impl NsFile {
    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.0
    }
}

/// Opens `ns` for reading, as its link in /proc is opened.
pub fn open(ns: Namespace) -> Result<Arc<File>> {
    let ops: Arc<dyn FileOps> = Arc::new(NsFile(ns.clone()));
    File::new(ns.path(), ops, OpenFlags::empty(), &process::current().cred())
}

/// Opens `ns` as a new descriptor of the caller.
pub(crate) fn install(ns: Namespace) -> Result<usize> {
    let me = process::current();
    let limit = usize::try_from(me.group().rlimits().cur(Resource::Nofile)).unwrap_or(usize::MAX);
    let files = me.files().ok_or(Errno::EBADF)?;
    files.insert(open(ns)?, 0, limit, FdFlags::CLOEXEC).map(|fd| fd as usize)
}

/// `EPERM` unless the caller's user namespace is `ns` or above it: what is further out is not shown.
fn visible(ns: &UserNs) -> Result<Namespace> {
    let is_inside = process::current().with_cred(|cred| cred.user_ns.contains(ns));
    if is_inside { Ok(Namespace::User(ns.clone())) } else { Err(Errno::EPERM) }
}

impl Namespace {
    /// `NS_GET_USERNS`: who owns it.
    fn owner(&self) -> Result<Self> {
        match self {
            // The owner of a user namespace is its parent; the first has none.
            Self::User(ns) => visible(ns.parent().ok_or(Errno::EPERM)?),
            other => visible(other.id().owner()),
        }
    }

    /// `NS_GET_PARENT`. `EINVAL`: a kind without parents. `EPERM`: it is out of sight.
    fn parent(&self) -> Result<Self> {
        match self {
            Self::User(_) => self.owner(),
            Self::Pid(ns) => {
                let parent = ns.parent().ok_or(Errno::EPERM)?;
                if process::current().group().pid_ns().contains(parent) {
                    Ok(Self::Pid(parent.clone()))
                } else {
                    Err(Errno::EPERM)
                }
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

/// Translates process numbers between the caller's pid namespace and `ns`.
fn translate(ns: &Namespace, cmd: u32, number: usize) -> Result<usize> {
    let Namespace::Pid(ns) = ns else { return Err(Errno::EINVAL) };
    let number = u32::try_from(number).map_err(|_| Errno::ESRCH)?;
    let is_from = matches!(cmd, request::GET_PID_FROM_PIDNS | request::GET_TGID_FROM_PIDNS);
    let wants_group = matches!(cmd, request::GET_TGID_FROM_PIDNS | request::GET_TGID_IN_PIDNS);
    let global = if is_from { pid::to_global_in(number, ns) } else { pid::to_global(number) };
    let task = global.and_then(pid::find_task_global).ok_or(Errno::ESRCH)?;
    let found = if wants_group { task.pid() } else { task.tid() };
    let answer = if is_from { pid::visible(found) } else { pid::number_in(found, ns) };
    if answer == 0 { Err(Errno::ESRCH) } else { Ok(answer as usize) }
}

/// Writes `struct mnt_ns_info`. `EINVAL`: no mount namespace. `EFAULT`.
fn write_info(ns: &Namespace, out: UserAddr) -> Result<()> {
    let Namespace::Mnt(mounts) = ns else { return Err(Errno::EINVAL) };
    let info = [MNT_INFO_SIZE, mounts.nr_mounts() as u32];
    user::write(out, &info)?;
    user::write(UserAddr(out.0.wrapping_add(8)), &ns.id().id())?;
    Ok(())
}

/// Which way [`neighbour`] looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Next,
    Previous,
}

/// The mount namespace in use with the next higher or lower number. `EINVAL`: `ns` is of another kind. `EPERM`: the caller
/// does not administrate the machine. `ENOENT`: there is none.
fn neighbour(ns: &Namespace, order: Order) -> Result<Namespace> {
    let Namespace::Mnt(_) = ns else { return Err(Errno::EINVAL) };
    if !may_see_all() {
        return Err(Errno::EPERM);
    }
    let all = InUse::collect();
    let is_mnt = |ns: &&Namespace| ns.id().kind() == NsKind::Mnt;
    let found = match order {
        Order::Next => all.after(ns.id().id()).find(is_mnt),
        Order::Previous => all.before(ns.id().id()).rfind(is_mnt),
    };
    found.cloned().ok_or(Errno::ENOENT)
}

impl FileOps for NsFile {
    fn mode(&self) -> FileMode {
        FileMode::STREAM
    }

    fn ioctl(&self, _file: &Arc<File>, cmd: u32, arg: usize) -> Result<usize> {
        let ns = &self.0;
        let out = UserAddr(arg as u64);
        match cmd {
            request::GET_USERNS => install(ns.owner()?),
            request::GET_PARENT => install(ns.parent()?),
            request::GET_NSTYPE => Ok(ns.id().kind().clone_flag() as usize),
            request::GET_OWNER_UID => {
                let Namespace::User(user_ns) = ns else { return Err(Errno::EINVAL) };
                let uid =
                    process::current().with_cred(|cred| cred.user_ns.show(IdKind::User, user_ns.owner()));
                user::write(out, &uid)?;
                Ok(0)
            }
            request::GET_MNTNS_ID if ns.id().kind() != NsKind::Mnt => Err(Errno::EINVAL),
            request::GET_MNTNS_ID | request::GET_ID => {
                user::write(out, &ns.id().id())?;
                Ok(0)
            }
            request::MNT_GET_INFO => write_info(ns, out).map(|()| 0),
            request::MNT_GET_NEXT | request::MNT_GET_PREV => {
                let order = if cmd == request::MNT_GET_NEXT { Order::Next } else { Order::Previous };
                let found = neighbour(ns, order)?;
                write_info(&found, out)?;
                install(found)
            }
            request::GET_PID_FROM_PIDNS
            | request::GET_TGID_FROM_PIDNS
            | request::GET_PID_IN_PIDNS
            | request::GET_TGID_IN_PIDNS => translate(ns, cmd, arg),
            _ => Err(Errno::ENOTTY),
        }
    }
}
