//! mount_setattr(2).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};

use super::{AttrFlags, Held};
use crate::fs_context::WalkContext;
use crate::mount::{self, Mount, MountFlags};
use crate::mount_ops::{self, Depth};
use crate::path::Path;
use crate::propagation::Propagation;

/// A checked request of mount_setattr(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MountAttr {
    set: AttrFlags,
    clear: AttrFlags,
    propagation: Option<Propagation>,
}

impl MountAttr {
    /// Decodes `struct mount_attr`.
    ///
    /// `EINVAL`: unknown bits (identity-mapped mounts are not there), more than one propagation, access times changed
    /// without clearing the whole field.
    pub fn decode(set: u64, clear: u64, propagation: u64) -> Result<Self> {
        let set = AttrFlags::from_bits(set).ok_or(Errno::EINVAL)?;
        let clear = AttrFlags::from_bits(clear).ok_or(Errno::EINVAL)?;
        match clear & AttrFlags::ATIME {
            AttrFlags::ATIME => drop(set.atime()?),
            field if field.is_empty() && (set & AttrFlags::ATIME).is_empty() => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(Self { set, clear, propagation: mount_ops::propagation_of(propagation)? })
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
/// tree. `EBUSY`: one would become read-only while something is open for writing.
pub fn set_attr(ctx: &WalkContext<'_>, path: Path, depth: Depth, change: &MountAttr) -> Result<()> {
    mount_ops::require_admin(ctx)?;
    let own = mount_ops::ns_of(ctx)?;
    let target = Held::new(path);
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
    }
    set_flags_of_all(&members, change)?;
    if let Some(kind) = change.propagation {
        members.iter().for_each(|member| member.set_propagation(kind));
    }
    Ok(())
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
