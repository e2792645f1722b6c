//! Which namespaces are in use: a task is in them, a file of this crate stands for them (open, or bound somewhere), or
//! they own one that is in use. Others may still exist, kept by something that only remembers them, but nobody can name
//! those any more.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use abi::{Errno, Result};
use hal::sync::SpinLock;
use ns::{CgroupNs, IpcNs, NetNs, TimeNs, UtsNs};
use process::{PidNs, Task, pid};
use security::{NsKind, UserNs};
use vfs::mount::MountNs;

use crate::{Namespace, Which};

/// Namespaces with files, by number, and how many files. A leaf lock.
static OPEN: SpinLock<BTreeMap<u64, (usize, Namespace)>> = SpinLock::new("nsfs.open", BTreeMap::new());

/// A file that stands for a namespace.
pub(crate) struct Open(Namespace);

impl Open {
    pub(crate) fn new(ns: Namespace) -> Self {
        OPEN.lock().entry(ns.id().id()).or_insert_with(|| (0, ns.clone())).0 += 1;
        Self(ns)
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let id = self.0.id().id();
        let mut open = OPEN.lock();
        let Some((nr_files, _)) = open.get_mut(&id) else { return };
        *nr_files -= 1;
        let gone = if *nr_files == 0 { open.remove(&id) } else { None };
        drop(open);
        drop(gone);
    }
}

/// All namespaces in use, by number.
#[derive(Default)]
pub(crate) struct InUse(BTreeMap<u64, Namespace>);

/// All that a task is in; of a zombie that is its user namespace alone.
fn of_task(task: &Task) -> impl Iterator<Item = Namespace> {
    let user = Namespace::User(task.cred().user_ns.clone());
    let own = NsKind::ALL.into_iter().map(Which::Own);
    let later = [NsKind::Pid, NsKind::Time].into_iter().map(Which::ForChildren);
    own.chain(later).filter_map(|which| Namespace::of(task, which).ok()).chain([user])
}

/// The first of each kind but mounts, which a task is always in.
fn initial() -> [Namespace; 7] {
    [
        Namespace::Ipc(IpcNs::initial().clone()),
        Namespace::Uts(UtsNs::initial().clone()),
        Namespace::User(UserNs::INITIAL),
        Namespace::Pid(PidNs::INITIAL),
        Namespace::Cgroup(CgroupNs::initial().clone()),
        Namespace::Time(TimeNs::initial().clone()),
        Namespace::Net(NetNs::initial().clone()),
    ]
}

impl InUse {
    /// Looks at all tasks.
    pub(crate) fn collect() -> Self {
        let mut all = Self::default();
        initial().into_iter().for_each(|ns| all.add(ns));
        for group in pid::processes() {
            let threads = group.threads();
            threads.iter().flat_map(|task: &Arc<Task>| of_task(task)).for_each(|ns| all.add(ns));
        }
        let mut after = 0;
        loop {
            // One at a time: what is dropped here must not be dropped under the lock.
            let next = OPEN.lock().range(after..).next().map(|(id, (_, ns))| (*id, ns.clone()));
            let Some((id, ns)) = next else { return all };
            all.add(ns);
            after = id.saturating_add(1);
        }
    }

    /// Adds `ns`, who owns it, and so on upwards.
    fn add(&mut self, ns: Namespace) {
        let mut next = Some(ns);
        while let Some(ns) = next {
            let owner = ns.owner_ns();
            if self.0.insert(ns.id().id(), ns).is_some() {
                return;
            }
            next = owner.map(Namespace::User);
        }
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Namespace> {
        self.0.get(&id)
    }

    /// Those with numbers below `before`, ascending.
    pub(crate) fn before(&self, before: u64) -> impl DoubleEndedIterator<Item = &Namespace> {
        self.0.range(..before).map(|(_, ns)| ns)
    }

    /// Those with numbers above `after`, ascending.
    pub(crate) fn after(&self, after: u64) -> impl Iterator<Item = &Namespace> {
        self.0.range(after..).filter(move |(id, _)| **id != after).map(|(_, ns)| ns)
    }
}

impl Namespace {
    /// The user namespace that it belongs to; `None` for the first user namespace.
    pub(crate) fn owner_ns(&self) -> Option<UserNs> {
        match self {
            Self::User(ns) => ns.parent().cloned(),
            other => Some(other.id().owner().clone()),
        }
    }

    /// Whether the caller is in it.
    pub(crate) fn holds_caller(&self) -> bool {
        let kind = self.id().kind();
        let own = Self::of(&process::current(), Which::Own(kind));
        own.is_ok_and(|own| own.id().id() == self.id().id())
    }
}

/// The mount namespace in use with number `id`. `ENOENT`: there is none.
pub fn mount_ns(id: u64) -> Result<Arc<MountNs>> {
    match InUse::collect().get(id) {
        Some(Namespace::Mnt(ns)) => Ok(ns.clone()),
        _ => Err(Errno::ENOENT),
    }
}

/// Whether the caller may know of all namespaces: it administrates the machine, from the first pid namespace.
pub(crate) fn may_see_all() -> bool {
    let me = process::current();
    me.group().pid_ns().is_initial()
        && me.with_cred(|cred| cred.ns_capable(&UserNs::INITIAL, security::Cap::SYS_ADMIN))
}
