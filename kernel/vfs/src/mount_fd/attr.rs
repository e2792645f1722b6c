//! mount_setattr(2).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use security::{Cap, Cred, UserNs};

use super::{AttrFlags, Held};
use crate::fs_context::WalkContext;
use crate::idmap::Idmap;
use crate::mount::{self, Mount, MountFlags};
use crate::mount_ops::{self, Depth};
use crate::path::Path;
use crate::propagation::Propagation;

/// `MOUNT_ATTR_IDMAP`: the mount shows owners by the map of a user namespace. It is no flag of mounts, so not in
/// [`AttrFlags`].
pub const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// What happens to the way that mounts show owners.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum IdmapChange {
    /// Nothing.
    #[default]
    Keep,
    /// They show them as they are.
    Clear,
    /// They show them by the map of this namespace.
    Set(UserNs),
}

/// Whether a map may be replaced, of mounts that nobody else has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// It may.
    Yes,
    /// It may not.
    No,
}

/// A checked request of mount_setattr(2).
#[derive(Clone, Debug, PartialEq, Default)]
pub struct MountAttr {
    set: AttrFlags,
    clear: AttrFlags,
    propagation: Option<Propagation>,
    idmap: IdmapChange,
}

impl MountAttr {
    /// Decodes `struct mount_attr`.
    ///
    /// `EINVAL`: unknown bits, more than one propagation, access times changed without clearing the whole field.
    /// [`MOUNT_ATTR_IDMAP`] is for [`MountAttr::with_idmap`].
    pub fn decode(set: u64, clear: u64, propagation: u64) -> Result<Self> {
        let set = AttrFlags::from_bits(set & !MOUNT_ATTR_IDMAP).ok_or(Errno::EINVAL)?;
        let clear = AttrFlags::from_bits(clear & !MOUNT_ATTR_IDMAP).ok_or(Errno::EINVAL)?;
        match clear & AttrFlags::ATIME {
            AttrFlags::ATIME => drop(set.atime()?),
            field if field.is_empty() && (set & AttrFlags::ATIME).is_empty() => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(Self {
            set,
            clear,
            propagation: mount_ops::propagation_of(propagation)?,
            idmap: IdmapChange::Keep,
        })
    }

    /// The request that also makes `change` on behalf of `cred`.
    ///
    /// `EPERM`: the map of the first user namespace, or no `CAP_SYS_ADMIN` in that of the map.
    pub fn with_idmap(self, change: IdmapChange, cred: &Cred) -> Result<Self> {
        if let IdmapChange::Set(ns) = &change
            && (ns.is_initial() || !cred.ns_capable(ns, Cap::SYS_ADMIN))
        {
            return Err(Errno::EPERM);
        }
        Ok(Self { idmap: change, ..self })
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn apply(&self, old: MountFlags) -> MountFlags {
        let mut attr = AttrFlags::of_mount(old) - self.clear;
        attr |= self.set;
        attr.to_mount()
    }
}

/// mount_setattr(2): changes the mount whose root `path` is, or all below it too. All or nothing.
///
/// `EPERM` without `CAP_SYS_ADMIN`, or a flag is locked. `EINVAL`: no root of a mount, or not in the caller's namespace nor in a detached
/// tree. `EBUSY`: one would become read-only, or show other owners, while something is open for writing. What else keeps
/// a mount from showing other owners is at [`check_idmap`].
pub fn set_attr(
    ctx: &WalkContext<'_>,
    path: Path,
    depth: Depth,
    change: &MountAttr,
    replace: Replace,
) -> Result<()> {
    mount_ops::require_admin(ctx)?;
    let own = mount_ops::ns_of(ctx)?;
    let target = Held::new(path);
    let map = match &change.idmap {
        IdmapChange::Set(ns) => Some(Idmap::new(ns, target.path.mount.sb())?),
        IdmapChange::Keep | IdmapChange::Clear => None,
    };
    let _locked = mount::lock_trees();
    if !target.path.is_mount_root() || !target.is_usable(&own) {
        return Err(Errno::EINVAL);
    }
    let members = match depth {
        Depth::One => alloc::vec![target.path.mount.clone()],
        Depth::Tree => target.path.mount.subtree(),
    };
    for member in &members {
        member.check_locks(change.apply(member.flags()))?;
        check_idmap(member, &change.idmap, replace, ctx.cred)?;
    }
    set_flags_of_all(&members, change)?;
    set_idmap_of_all(&members, &change.idmap, map.as_ref());
    if let Some(kind) = change.propagation {
        members.iter().for_each(|member| member.set_propagation(kind));
    }
    Ok(())
}

/// Whether `change` may be made to the way that `mount` shows owners (Linux: `can_idmap_mount`). `LOCK` is held.
///
/// `EINVAL`: the file system was mounted for that very namespace or allows no maps, or the mount is in somebody's tree.
/// `EPERM`: it has a map, or no `CAP_SYS_ADMIN` in the namespace that the file system was mounted for. `EBUSY`:
/// something is open for writing.
fn check_idmap(mount: &Mount, change: &IdmapChange, replace: Replace, cred: &Cred) -> Result<()> {
    let owner = mount.sb().owner();
    match change {
        IdmapChange::Keep => return Ok(()),
        IdmapChange::Set(ns) if ns == owner => return Err(Errno::EINVAL),
        IdmapChange::Clear | IdmapChange::Set(_) => {}
    }
    if mount.is_idmapped() && replace == Replace::No {
        return Err(Errno::EPERM);
    }
    if !mount.sb().fs_type().allows_idmap() {
        return Err(Errno::EINVAL);
    }
    if !cred.ns_capable(owner, Cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    if !mount.ns().is_some_and(|ns| ns.is_detached()) {
        return Err(Errno::EINVAL);
    }
    if mount.has_writers() { Err(Errno::EBUSY) } else { Ok(()) }
}

/// `map` is that of the first of `members`; the others' file systems may have other owners.
fn set_idmap_of_all(members: &[Arc<Mount>], change: &IdmapChange, map: Option<&Arc<Idmap>>) {
    match change {
        IdmapChange::Keep => {}
        IdmapChange::Clear => members.iter().for_each(|mount| mount.set_idmap(None)),
        IdmapChange::Set(_) => {
            let Some(map) = map else { return };
            members.iter().for_each(|mount| mount.set_idmap(Some(map.for_sb(mount.sb()))));
        }
    }
}

fn set_flags_of_all(members: &[Arc<Mount>], change: &MountAttr) -> Result<()> {
    let mut old = Vec::new();
    for mount in members {
        let flags = mount.flags();
        if let Err(errno) = mount.set_flags(change.apply(flags)) {
            for (mount, flags) in members.iter().zip(old) {
                // Back to what was there a moment ago: more may be written than before, which cannot fail.
                let _ = mount.set_flags(flags);
            }
            return Err(errno);
        }
        old.push(flags);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_times_change_as_a_whole() {
        assert!(MountAttr::decode(0x10, 0x70, 0).is_ok());
        assert!(MountAttr::decode(0, 0x70, 0).is_ok());
        assert_eq!(MountAttr::decode(0x10, 0, 0), Err(Errno::EINVAL));
        assert_eq!(MountAttr::decode(0, 0x10, 0), Err(Errno::EINVAL));
        assert_eq!(MountAttr::decode(0x30, 0x70, 0), Err(Errno::EINVAL));
        assert!(MountAttr::decode(0, 0, 0).unwrap().is_empty());
    }

    #[test]
    fn set_wins_over_clear() {
        let change = MountAttr::decode(0x1, 0xf, 0).unwrap();
        let old = MountFlags::NOSUID | MountFlags::NOATIME;
        assert_eq!(change.apply(old), MountFlags::RDONLY | MountFlags::NOATIME);
    }
}
