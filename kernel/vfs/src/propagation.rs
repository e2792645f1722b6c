//! Mount propagation: which mounts see what is mounted and unmounted on others (mount_namespaces(7)).
//!
//! ```text
//!   PeerGroup 7  members  A, A' (shared:7)      a mount on A appears on A' and on S, as a copy
//!                slaves   S (master:7)          a mount on S appears nowhere else, unless S is shared too
//! ```
//!
//! A mount is a member of at most one group, and a slave of at most one; all members of a group have the same master.
//! [`Spread`] is what one attachment adds elsewhere: its copies are made first, then attached together with it.
//! [`Removal`] is what one unmount takes away.
//!
//! # Locks
//!
//! Everything here happens with `mount::LOCK` held, except the end of a mount that was never attached; the spinlocks
//! inside are held one at a time and for moments.
//!
//! Sources: mount_namespaces(7), mount(2); behaviour as observed on Linux 7.2 (kselftest `mount_setattr`,
//! `move_mount_set_group`, user/tests `mounts`).

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::*};

use abi::{Errno, Result};
use hal::sync::SpinLock;

use crate::dentry::Dentry;
use crate::mount::{self, Mount, MountNs};
use crate::path::Path;

/// What mount(2) and mount_setattr(2) can make of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// `MS_PRIVATE`.
    Private,
    /// `MS_SHARED`.
    Shared,
    /// `MS_SLAVE`.
    Slave,
    /// `MS_UNBINDABLE`.
    Unbindable,
}

/// Mounts that show the same mounts.
pub(crate) struct PeerGroup {
    id: u32,
    members: SpinLock<Vec<Weak<Mount>>>,
    slaves: SpinLock<Vec<Weak<Mount>>>,
}

static NEXT_GROUP: AtomicU32 = AtomicU32::new(1);

impl PeerGroup {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            id: NEXT_GROUP.fetch_add(1, Relaxed),
            members: SpinLock::new("vfs.peers", Vec::new()),
            slaves: SpinLock::new("vfs.slaves", Vec::new()),
        })
    }

    fn members(&self) -> Vec<Arc<Mount>> {
        self.members.lock().iter().filter_map(Weak::upgrade).collect()
    }

    fn slaves(&self) -> Vec<Arc<Mount>> {
        self.slaves.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

/// A mount's part in propagation.
#[derive(Clone, Default)]
pub(crate) struct Role {
    group: Option<Arc<PeerGroup>>,
    master: Option<Arc<PeerGroup>>,
    is_unbindable: bool,
}

/// What a copy of a mount takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inherit {
    /// The same group and master: what a bind mount does.
    Peer,
    /// Members of a group become its slaves: what appears on a slave, or in a less privileged namespace.
    Slave,
    /// As `Slave`, and the copy begins a group of its own.
    SlaveShared,
}

fn join(list: &SpinLock<Vec<Weak<Mount>>>, mount: &Arc<Mount>) {
    list.lock().push(Arc::downgrade(mount));
}

fn part(list: &SpinLock<Vec<Weak<Mount>>>, mount: *const Mount) -> bool {
    let mut list = list.lock();
    list.retain(|member| member.as_ptr() != mount);
    list.iter().all(|member| member.strong_count() == 0)
}

impl Mount {
    fn role(&self) -> Role {
        self.role.lock().clone()
    }

    /// Whether it is a member of a peer group.
    pub fn is_shared(&self) -> bool {
        self.role.lock().group.is_some()
    }

    /// Whether it may not be bound.
    pub fn is_unbindable(&self) -> bool {
        self.role.lock().is_unbindable
    }

    /// The id of its peer group.
    pub fn group(&self) -> Option<u32> {
        self.role.lock().group.as_ref().map(|group| group.id)
    }

    /// The id of the group whose slave it is.
    pub fn master(&self) -> Option<u32> {
        self.role.lock().master.as_ref().map(|group| group.id)
    }

    /// The nearest group above with a mount in `ns` that `root` reaches: `propagate_from` of mountinfo.
    pub fn dominating(&self, ns: &Arc<MountNs>, root: &Path) -> Option<u32> {
        let mut master = self.role().master;
        while let Some(group) = master {
            let members = group.members();
            let is_seen = |m: &Arc<Mount>| m.is_in(ns) && Path::root_of(m).spell(Some(root)).is_reachable;
            if members.iter().any(is_seen) {
                return Some(group.id);
            }
            master = members.first().and_then(|member| member.role().master);
        }
        None
    }

    /// Makes the copy `new` of this mount what `inherit` says.
    pub(crate) fn pass_role(&self, new: &Arc<Mount>, inherit: Inherit) {
        let mut role = self.role();
        if inherit != Inherit::Peer
            && let Some(group) = role.group.take()
        {
            role.master = Some(group);
        }
        if inherit == Inherit::SlaveShared {
            role.group = Some(PeerGroup::new());
        }
        new.enter(role);
    }

    fn enter(self: &Arc<Self>, role: Role) {
        role.group.iter().for_each(|group| join(&group.members, self));
        role.master.iter().for_each(|group| join(&group.slaves, self));
        *self.role.lock() = role;
    }

    /// Ends its part in propagation. The slaves of a group that has no members any more follow the group's master.
    /// Gives the group that has others left, and the master.
    pub(crate) fn leave_groups(&self) -> Role {
        let mut role = core::mem::take(&mut *self.role.lock());
        if let Some(master) = &role.master {
            part(&master.slaves, self);
        }
        let is_last = role.group.as_ref().is_some_and(|group| part(&group.members, self));
        if is_last && let Some(group) = role.group.take() {
            let slaves = core::mem::take(&mut *group.slaves.lock());
            for slave in slaves.iter().filter_map(Weak::upgrade) {
                slave.role.lock().master = role.master.clone();
                role.master.iter().for_each(|master| join(&master.slaves, &slave));
            }
        }
        role
    }

    /// Makes it shared, slave, private or unbindable.
    pub(crate) fn set_propagation(self: &Arc<Self>, kind: Propagation) {
        if kind == Propagation::Shared {
            let mut role = self.role();
            role.is_unbindable = false;
            if role.group.is_some() {
                return;
            }
            let group = PeerGroup::new();
            join(&group.members, self);
            role.group = Some(group);
            *self.role.lock() = role;
            return;
        }
        let left = self.leave_groups();
        let master = if kind == Propagation::Slave { left.group.or(left.master) } else { None };
        self.enter(Role { group: None, master, is_unbindable: kind == Propagation::Unbindable });
    }

    /// Gives it the group and the master of `from` (`MOVE_MOUNT_SET_GROUP`). `EINVAL`: it has some already, or `from`
    /// has none.
    pub(crate) fn set_group_of(self: &Arc<Self>, from: &Mount) -> Result<()> {
        let (own, mut role) = (self.role(), from.role());
        if own.group.is_some() || own.master.is_some() || (role.group.is_none() && role.master.is_none()) {
            return Err(Errno::EINVAL);
        }
        role.is_unbindable = false;
        self.enter(role);
        Ok(())
    }

    /// Whether what is mounted at `at` on this mount would appear on the root of `other`.
    pub(crate) fn spreads_onto(self: &Arc<Self>, other: &Arc<Mount>, at: &Path) -> bool {
        Arc::ptr_eq(other.root(), &at.dentry) && self.receivers().iter().any(|m| Arc::ptr_eq(m, other))
    }

    /// The mounts on which appears what is mounted on this one, itself not among them.
    fn receivers(self: &Arc<Self>) -> Vec<Arc<Mount>> {
        let Some(group) = self.role().group else { return Vec::new() };
        let mut found = Vec::new();
        let mut groups = alloc::vec![group];
        let mut next = 0;
        while let Some(group) = groups.get(next).cloned() {
            next += 1;
            found.extend(group.members().into_iter().filter(|member| !Arc::ptr_eq(member, self)));
            for slave in group.slaves() {
                match slave.role().group {
                    None => found.push(slave),
                    Some(own) if groups.iter().any(|seen| Arc::ptr_eq(seen, &own)) => {}
                    Some(own) => groups.push(own),
                }
            }
        }
        found
    }
}

/// The most mounts of a namespace (`fs.mount-max`).
const MOUNT_MAX: usize = 100_000;

/// A copy of a tree and the place that it is for.
struct Addition {
    top: Arc<Mount>,
    at: Path,
    ns: Arc<MountNs>,
}

/// The copies of a tree that appear with it elsewhere, attached nowhere yet.
#[must_use]
pub(crate) struct Spread {
    additions: Vec<Addition>,
    /// Where the original goes.
    place: Path,
}

impl Spread {
    /// The copies of `tree`, which is to be mounted at `at`. All of `tree` becomes shared when `at` is.
    ///
    /// `ENOSPC`: a namespace would have too many mounts; nothing has changed then.
    pub(crate) fn prepare(tree: &Arc<Mount>, at: &Path, ns: &Arc<MountNs>) -> Result<Self> {
        let members = tree.subtree();
        let mut all = Self { additions: Vec::new(), place: at.clone() };
        let Some(group) = at.mount.role().group else {
            has_room(ns, members.len())?;
            return Ok(all);
        };
        let receivers = at.mount.receivers();
        has_room(ns, members.len().saturating_mul(receivers.len() + 1))?;
        for receiver in receivers.iter().filter_map(|receiver| receiver.ns()) {
            has_room(&receiver, members.len())?;
        }
        members.iter().filter(|m| !m.is_shared()).for_each(|m| m.set_propagation(Propagation::Shared));
        all.visit_all(group, tree);
        Ok(all)
    }

    /// Copies of `tree` for the members of `group`, and for all that is below it.
    fn visit_all(&mut self, group: Arc<PeerGroup>, tree: &Arc<Mount>) {
        let mut seen = alloc::vec![group.clone()];
        let mut todo = alloc::vec![(group, tree.clone(), Inherit::Peer)];
        while let Some((group, mut source, mut inherit)) = todo.pop() {
            for member in group.members() {
                if let Some(copy) = self.add(&member, &source, inherit)
                    && inherit == Inherit::SlaveShared
                {
                    // The others are peers of the first.
                    (source, inherit) = (copy, Inherit::Peer);
                }
            }
            for slave in group.slaves() {
                match slave.role().group {
                    None => drop(self.add(&slave, &source, Inherit::Slave)),
                    Some(own) if seen.iter().any(|group| Arc::ptr_eq(group, &own)) => {}
                    Some(own) => {
                        seen.push(own.clone());
                        todo.push((own, source.clone(), Inherit::SlaveShared));
                    }
                }
            }
        }
    }

    /// A copy of `source` for `on`, unless the place is not below its root, is the very place of the original, or is in a
    /// detached tree.
    fn add(&mut self, on: &Arc<Mount>, source: &Arc<Mount>, inherit: Inherit) -> Option<Arc<Mount>> {
        let dentry = &self.place.dentry;
        if Arc::ptr_eq(on, &self.place.mount) || !is_below(dentry, on) {
            return None;
        }
        // Detached trees stay as they were copied.
        let ns = on.ns().filter(|ns| !ns.is_detached())?;
        let top = mount::copy_all(source, inherit);
        self.additions.push(Addition { top: top.clone(), at: Path::new(on, dentry), ns });
        Some(top)
    }

    /// Attaches the copies. What is mounted there already stays on top. `LOCK` is held.
    pub(crate) fn attach(self, from: &Arc<MountNs>) {
        for Addition { top, at, ns } in &self.additions {
            if ns.id().owner() != from.id().owner() {
                mount::lock_tree(top);
            }
            match at.mount.child_at(&at.dentry) {
                Some(there) => mount::attach_beneath(top, &there, at, ns),
                None => mount::attach(top, at, ns),
            }
        }
    }
}

fn is_below(dentry: &Arc<Dentry>, on: &Arc<Mount>) -> bool {
    Arc::ptr_eq(dentry.sb(), on.sb()) && dentry.is_below(on.root())
}

fn has_room(ns: &Arc<MountNs>, more: usize) -> Result<()> {
    if ns.nr_mounts().saturating_add(more) > MOUNT_MAX { Err(Errno::ENOSPC) } else { Ok(()) }
}

/// What an unmount takes away besides: the mounts that came with it elsewhere. `LOCK` is held.
///
/// Those on which something else is mounted stay, unless that covers just their root: then it moves down.
pub(crate) struct Removal(Vec<Arc<Mount>>);

impl Removal {
    /// What goes when all of `going` goes.
    pub(crate) fn of(going: &[Arc<Mount>]) -> Self {
        let is_among = |list: &[Arc<Mount>], mount: &Arc<Mount>| list.iter().any(|m| Arc::ptr_eq(m, mount));
        let mut also: Vec<Arc<Mount>> = Vec::new();
        for mount in going {
            let Some(at) = mount.mountpoint() else { continue };
            for receiver in at.mount.receivers() {
                if let Some(child) = receiver.child_at(&at.dentry)
                    && !is_among(going, &child)
                    && !is_among(&also, &child)
                {
                    also.push(child);
                }
            }
        }
        loop {
            let before = also.len();
            let stays = |mount: &Arc<Mount>, all: &[Arc<Mount>]| {
                let is_held = mount.children().iter().any(|child| {
                    let covers = child.mountpoint().is_some_and(|at| at.is_mount_root());
                    !covers && !is_among(all, child) && !is_among(going, child)
                });
                let parent_goes = mount.mountpoint().is_some_and(|at| is_among(all, &at.mount));
                is_held || (mount.is_locked() && !parent_goes)
            };
            let all = also.clone();
            also.retain(|mount| !stays(mount, &all));
            if also.len() == before {
                return Self(also);
            }
        }
    }

    /// The mounts.
    pub(crate) fn mounts(&self) -> &[Arc<Mount>] {
        &self.0
    }

    /// Unmounts them. Give the result up after `LOCK`.
    pub(crate) fn detach(self) -> Vec<Arc<Mount>> {
        for mount in &self.0 {
            let at = mount.mountpoint();
            let ns = mount.ns();
            let covering =
                mount.child_at(mount.root()).filter(|m| !self.0.iter().any(|gone| Arc::ptr_eq(gone, m)));
            mount::detach(mount);
            mount.leave_groups();
            if let (Some(at), Some(ns), Some(covering)) = (at, ns, covering) {
                mount::detach(&covering);
                mount::attach(&covering, &at, &ns);
            }
        }
        self.0
    }
}

impl core::fmt::Debug for PeerGroup {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PeerGroup({})", self.id)
    }
}
