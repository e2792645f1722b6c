//! Mounts by descriptor: open_tree(2), move_mount(2), fsopen(2), fsconfig(2), fsmount(2), fspick(2),
//! mount_setattr(2), statmount(2), listmount(2).
//!
//! ```text
//!   fsopen --> context fd --fsconfig--> superblock --fsmount--> tree fd --move_mount--> in the tree of a process
//!                                                    open_tree(CLONE) ----^
//! ```
//!
//! A *detached tree* is a tree of mounts in a namespace of its own that nobody lives in. Its descriptor holds that
//! namespace; when the descriptor goes before the tree was attached somewhere, the tree is taken apart.
//!
//! # Locks
//!
//! [`crate::mount::lock_trees`] over every change. Namespaces of detached trees take it when they end, so references to
//! them are dropped after it ([`Held`]).
//!
//! Sources: the manual pages above, include/uapi/linux/mount.h.

mod attr;
mod context;
mod stat;

use alloc::sync::Arc;

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use bitflags::bitflags;
use security::Cap;

use crate::file::{File, FileMode, FileOps};
use crate::fs_context::WalkContext;
use crate::mount::{self, Mount, MountFlags, MountNs};
use crate::mount_ops::{self, Depth};
use crate::path::Path;
use crate::propagation::Inherit;
use crate::walk;
pub use attr::{IdmapChange, MOUNT_ATTR_IDMAP, MountAttr, Replace, set_attr};
pub use context::{ConfigCommand, ConfigValue, fsconfig, fsmount, fsmount_namespace, fsopen, fspick};
pub use stat::{LIST_ROOT, ListOrder, StatMask, View, list_mounts, stat_mount, stat_mount_of};

bitflags! {
    /// `MOUNT_ATTR_*` (include/uapi/linux/mount.h).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct AttrFlags: u64 {
        /// `MOUNT_ATTR_RDONLY`.
        const RDONLY = 0x01;
        /// `MOUNT_ATTR_NOSUID`.
        const NOSUID = 0x02;
        /// `MOUNT_ATTR_NODEV`.
        const NODEV = 0x04;
        /// `MOUNT_ATTR_NOEXEC`.
        const NOEXEC = 0x08;
        /// `MOUNT_ATTR_NOATIME`.
        const NOATIME = 0x10;
        /// `MOUNT_ATTR_STRICTATIME`.
        const STRICTATIME = 0x20;
        /// The bits of the field that tells how access times are kept; 0 in it is relatime.
        const ATIME = 0x70;
        /// `MOUNT_ATTR_NODIRATIME`.
        const NODIRATIME = 0x80;
        /// `MOUNT_ATTR_NOSYMFOLLOW`.
        const NOSYMFOLLOW = 0x0020_0000;
    }
}

/// Flags with the same meaning on both sides.
const SIMPLE: [(AttrFlags, MountFlags); 6] = [
    (AttrFlags::RDONLY, MountFlags::RDONLY),
    (AttrFlags::NOSUID, MountFlags::NOSUID),
    (AttrFlags::NODEV, MountFlags::NODEV),
    (AttrFlags::NOEXEC, MountFlags::NOEXEC),
    (AttrFlags::NODIRATIME, MountFlags::NODIRATIME),
    (AttrFlags::NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
];

impl AttrFlags {
    /// The flags of a mount that has just these. `EINVAL`: unknown ones, or two ways to keep access times.
    pub fn decode(raw: u64) -> Result<MountFlags> {
        let attr = Self::from_bits(raw).ok_or(Errno::EINVAL)?;
        attr.atime()?;
        Ok(attr.to_mount())
    }

    /// The field of access times. `EINVAL`: not one of the three values.
    fn atime(self) -> Result<Self> {
        let field = self & Self::ATIME;
        if field.is_empty() || field == Self::NOATIME || field == Self::STRICTATIME {
            Ok(field)
        } else {
            Err(Errno::EINVAL)
        }
    }

    fn to_mount(self) -> MountFlags {
        let mut flags = match self & Self::ATIME {
            Self::NOATIME => MountFlags::NOATIME,
            Self::STRICTATIME => MountFlags::STRICTATIME,
            _ => MountFlags::RELATIME,
        };
        for (attr, flag) in SIMPLE {
            flags.set(flag, self.contains(attr));
        }
        flags
    }

    /// What statmount(2) shows of a mount's flags.
    pub fn of_mount(flags: MountFlags) -> Self {
        let mut attr = if flags.contains(MountFlags::NOATIME) {
            Self::NOATIME
        } else if flags.contains(MountFlags::RELATIME) {
            Self::empty()
        } else {
            Self::STRICTATIME
        };
        for (bit, flag) in SIMPLE {
            attr.set(bit, flags.contains(flag));
        }
        attr
    }
}

/// What the descriptor of a detached tree holds.
struct TreeFile {
    #[expect(dead_code, reason = "held for its drop, which takes a tree apart that is still detached")]
    ns: Arc<MountNs>,
}

impl FileOps for TreeFile {
    fn mode(&self) -> FileMode {
        FileMode::PATH
    }
}

/// The descriptor of the detached tree below `top`, to be used in the mount namespace number `origin`; 0: anywhere.
fn tree_file(ctx: &WalkContext<'_>, top: &Arc<Mount>, origin: u64) -> Result<Arc<File>> {
    let ns = MountNs::new_detached(top, &ctx.cred.user_ns, origin)?;
    File::new(Path::root_of(top), Arc::new(TreeFile { ns }), OpenFlags::PATH, ctx.cred)
}

/// A path with the namespace of its mount, which lives as long as this does: declare it before the lock is taken.
struct Held {
    path: Path,
    ns: Option<Arc<MountNs>>,
}

impl Held {
    fn new(path: Path) -> Self {
        let ns = path.mount.ns();
        Self { path, ns }
    }

    /// Whether it is in the caller's namespace or in a detached tree, or can be copied wherever it is. With `LOCK` held.
    fn is_usable(&self, own: &Arc<MountNs>) -> bool {
        match &self.ns {
            Some(ns) => self.path.mount.is_in(ns) && (Arc::ptr_eq(ns, own) || ns.is_detached_for(own)),
            None => mount_ops::is_clonable_anyway(&self.path),
        }
    }

    /// The detached tree whose top is this very mount.
    fn detached_top(&self) -> Option<&Arc<MountNs>> {
        let ns = self.ns.as_ref().filter(|ns| ns.is_detached())?;
        let is_top = ns.root().is_some_and(|root| Arc::ptr_eq(&root, &self.path.mount));
        (is_top && self.path.mount.is_in(ns)).then_some(ns)
    }
}

/// open_tree(2) with `OPEN_TREE_CLONE`: a detached copy of what `path` shows, alone or with all mounts below.
///
/// `EPERM` without `CAP_SYS_ADMIN`. `EINVAL`: not in the caller's namespace nor in a detached tree, or unbindable.
pub fn clone_tree(ctx: &WalkContext<'_>, path: Path, depth: Depth) -> Result<Arc<File>> {
    mount_ops::require_admin(ctx)?;
    let own = mount_ops::ns_of(ctx)?;
    let source = Held::new(path);
    let top = {
        let _locked = mount::lock_trees();
        if !source.is_usable(&own) {
            return Err(Errno::EINVAL);
        }
        mount_ops::copy_for_bind(&source.path, depth, Inherit::Peer)?
    };
    tree_file(ctx, &top, own.id().id())
}

/// open_tree(2) with `OPEN_TREE_NAMESPACE`: a namespace whose root is a copy of what `path` shows, alone or with all mounts
/// below. It belongs to the caller's user namespace.
///
/// `EPERM` without `CAP_SYS_ADMIN` in that. `EINVAL` as [`clone_tree`]. `ENOSPC`: too many namespaces.
pub fn clone_namespace(ctx: &WalkContext<'_>, path: Path, depth: Depth) -> Result<Arc<MountNs>> {
    require_own_admin(ctx)?;
    let own = mount_ops::ns_of(ctx)?;
    let source = Held::new(path);
    own.with_tree(&ctx.cred.user_ns, |inherit| {
        if !source.is_usable(&own) {
            return Err(Errno::EINVAL);
        }
        mount_ops::copy_for_bind(&source.path, depth, inherit)
    })
}

/// `EPERM` unless the caller administrates its own user namespace.
fn require_own_admin(ctx: &WalkContext<'_>) -> Result<()> {
    if ctx.cred.own_capable(Cap::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
}

/// Where move_mount(2) puts a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MovePlace {
    /// On top of what is mounted there.
    OnTop,
    /// Under the topmost mount there (`MOVE_MOUNT_BENEATH`).
    Beneath,
}

/// move_mount(2): moves the mount whose root `from` is, attached or detached, to `to`.
///
/// `EPERM` without `CAP_SYS_ADMIN`. `EINVAL`: `from` is no root of a mount, or one of them is in another namespace, or a
/// root that is part of no other mount, or one is a directory and the other is not. `ELOOP`: below itself. `ENOENT`, `EBUSY` as mount(2).
pub fn move_mount(ctx: &WalkContext<'_>, from: Path, to: Path, place: MovePlace) -> Result<()> {
    mount_ops::require_admin(ctx)?;
    let own = mount_ops::ns_of(ctx)?;
    let mut at = to;
    walk::cross_mounts(&mut at);
    let (from, to) = (Held::new(from), Held::new(at));
    // Dropped after the lock: the namespace that an attached tree leaves empty.
    let mut _emptied = None;
    let _locked = mount::lock_trees();
    if !from.path.is_mount_root() || !from.is_usable(&own) || !to.is_usable(&own) {
        return Err(Errno::EINVAL);
    }
    let target_ns = to.ns.as_ref().ok_or(Errno::EINVAL)?;
    mount_ops::check_move(&from.path, &to.path)?;
    if let Some(ns) = from.detached_top() {
        if Arc::ptr_eq(ns, target_ns) {
            return Err(Errno::EINVAL);
        }
        mount_ops::place(target_ns, &from.path.mount, &to.path, place)?;
        _emptied = ns.take_root();
        return Ok(());
    }
    // Only what is attached here moves within here; parts of a detached tree stay in it.
    if !from.path.mount.is_in(&own) || !to.path.mount.is_in(&own) {
        return Err(Errno::EINVAL);
    }
    mount_ops::check_detachable(&from.path.mount)?;
    mount_ops::place(target_ns, &from.path.mount, &to.path, place)
}

/// move_mount(2) with `MOVE_MOUNT_SET_GROUP`: the mount of `to` gets the peer group and the master of that of `from`.
///
/// `EPERM` without `CAP_SYS_ADMIN` over either. `EINVAL`: one is no root of an attached mount; they show different file
/// systems; `to` shows more than `from`, or what is hidden there; `to` is not private; `from` is.
pub fn set_group(ctx: &WalkContext<'_>, from: Path, to: Path) -> Result<()> {
    let (from, to) = (Held::new(from), Held::new(to));
    for side in [&from, &to] {
        let ns = side.ns.as_ref().ok_or(Errno::EINVAL)?;
        if !ctx.cred.ns_capable(ns.id().owner(), Cap::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
    }
    let _locked = mount::lock_trees();
    let (source, target) = (&from.path.mount, &to.path.mount);
    let are_roots = from.path.is_mount_root() && to.path.is_mount_root();
    if !are_roots
        || !Arc::ptr_eq(source.sb(), target.sb())
        || !target.root().is_below(source.root())
        || source.has_locked_children(target.root())
    {
        return Err(Errno::EINVAL);
    }
    target.set_group_of(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_and_flags_agree() {
        assert_eq!(AttrFlags::decode(0), Ok(MountFlags::RELATIME));
        assert_eq!(AttrFlags::decode(0x11), Ok(MountFlags::RDONLY | MountFlags::NOATIME));
        assert_eq!(AttrFlags::decode(0x30), Err(Errno::EINVAL));
        assert_eq!(AttrFlags::decode(0x40), Err(Errno::EINVAL));
        assert_eq!(AttrFlags::decode(1 << 40), Err(Errno::EINVAL));
        for raw in [0, 0x0f, 0x10, 0x20, 0x0020_0080] {
            assert_eq!(AttrFlags::of_mount(AttrFlags::decode(raw).unwrap()).bits(), raw);
        }
    }
}
