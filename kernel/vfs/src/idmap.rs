//! Idmapped mounts: owners of files as a mount shows them (mount_setattr(2), `MOUNT_ATTR_IDMAP`).
//!
//! ```text
//! a mount with the map "0 10000 100"            kept in the file system     seen through the mount
//!   stat(2), permission checks   shown ──▶        uid 0                       uid 10000
//!   open(2) that makes, chown(2) ◀── kept         uid 7                       uid 10007
//!                                                 uid 500                     nobody: shown as 65534
//!                                                 (none: EOVERFLOW)           uid 3
//! ```
//!
//! The map is that of a user namespace: a number that the file system keeps is taken for one of that namespace. Whoever
//! checks or shows an owner asks the [`IdView`] of the mount that the path goes through. An owner that the mount does
//! not show is [`NOBODY`], which no credentials have and over which no capability counts.
//!
//! Sources: mount_setattr(2), Documentation/filesystems/idmappings.rst (Linux 7.2).

use alloc::sync::Arc;

use abi::{Errno, Result};
use security::{Cred, IdKind, Ids, UserNs};

use crate::inode::Inode;
use crate::superblock::SuperBlock;

/// The id of an owner that has none here.
pub const NOBODY: u32 = u32::MAX;

/// How a mount shows owners.
#[derive(Debug)]
pub struct Idmap {
    /// Whose numbers the file system's are taken for.
    ns: UserNs,
    /// The one that the file system was mounted for: what it keeps are ids of the first namespace, which mean numbers
    /// of this one.
    fs: UserNs,
}

impl Idmap {
    /// The map of `ns` for mounts of `sb`. `EINVAL`: one of its maps was not written yet.
    pub(crate) fn new(ns: &UserNs, sb: &SuperBlock) -> Result<Arc<Self>> {
        if !ns.is_mapped(IdKind::User) || !ns.is_mapped(IdKind::Group) {
            return Err(Errno::EINVAL);
        }
        Ok(Arc::new(Self { ns: ns.clone(), fs: sb.owner().clone() }))
    }

    /// The same for mounts of `sb`.
    pub(crate) fn for_sb(self: &Arc<Self>, sb: &SuperBlock) -> Arc<Self> {
        if *sb.owner() == self.fs {
            return self.clone();
        }
        Arc::new(Self { ns: self.ns.clone(), fs: sb.owner().clone() })
    }

    /// The namespace whose maps it has.
    pub(crate) fn ns(&self) -> &UserNs {
        &self.ns
    }

    fn shown(&self, kind: IdKind, id: u32) -> u32 {
        let number = self.fs.from_global(kind, id);
        number.and_then(|number| self.ns.to_global(kind, number)).unwrap_or(NOBODY)
    }

    fn kept(&self, kind: IdKind, id: u32) -> Option<u32> {
        let number = self.ns.from_global(kind, id)?;
        self.fs.to_global(kind, number)
    }
}

/// Owners as seen through a mount: as they are unless the mount is idmapped.
#[derive(Clone, Debug, Default)]
pub struct IdView(Option<Arc<Idmap>>);

impl IdView {
    /// That of mounts without a map.
    pub const PLAIN: Self = Self(None);

    /// That of a mount with `map`.
    pub(crate) fn new(map: Option<Arc<Idmap>>) -> Self {
        Self(map)
    }

    /// The map, if there is one.
    pub(crate) fn map(&self) -> Option<&Arc<Idmap>> {
        self.0.as_ref()
    }

    /// What an id that the file system keeps is here; [`NOBODY`] when it is nothing.
    #[inline]
    pub fn shown(&self, kind: IdKind, id: u32) -> u32 {
        match &self.0 {
            None => id,
            Some(map) => map.shown(kind, id),
        }
    }

    /// What the file system keeps for an id seen here, if it can.
    #[inline]
    pub fn kept(&self, kind: IdKind, id: u32) -> Option<u32> {
        match &self.0 {
            None => Some(id),
            Some(map) => map.kept(kind, id),
        }
    }

    /// As [`IdView::kept`], of a user. `EOVERFLOW`: the file system cannot keep it.
    pub fn keep_uid(&self, uid: u32) -> Result<u32> {
        self.kept(IdKind::User, uid).filter(|uid| *uid != u32::MAX).ok_or(Errno::EOVERFLOW)
    }

    /// As [`IdView::kept`], of a group. `EOVERFLOW`: the file system cannot keep it.
    pub fn keep_gid(&self, gid: u32) -> Result<u32> {
        self.kept(IdKind::Group, gid).filter(|gid| *gid != u32::MAX).ok_or(Errno::EOVERFLOW)
    }

    /// The owner of `inode`.
    #[inline]
    pub fn uid(&self, inode: &Inode) -> u32 {
        self.shown(IdKind::User, inode.uid())
    }

    /// The group of `inode`.
    #[inline]
    pub fn gid(&self, inode: &Inode) -> u32 {
        self.shown(IdKind::Group, inode.gid())
    }

    /// Owner, group and mode of `inode` for a permission check.
    #[inline]
    pub fn ids(&self, inode: &Inode) -> Ids {
        Ids { uid: self.uid(inode), gid: self.gid(inode), mode: inode.mode() }
    }

    /// Whether the owner or the group of `inode` is nobody here: it is not to be changed, as that might write the owner
    /// back wrongly.
    #[inline]
    pub fn hides_owner(&self, inode: &Inode) -> bool {
        self.uid(inode) == NOBODY || self.gid(inode) == NOBODY
    }

    /// `EOVERFLOW` unless what `cred` makes in `sb` can have it for its owner.
    #[inline]
    pub(crate) fn check_maker(&self, sb: &SuperBlock, cred: &Cred) -> Result<()> {
        if self.0.is_none() && sb.owner().is_initial() { Ok(()) } else { self.check_mapped_maker(sb, cred) }
    }

    #[cold]
    fn check_mapped_maker(&self, sb: &SuperBlock, cred: &Cred) -> Result<()> {
        let is_kept =
            |kind, id| self.kept(kind, id).and_then(|id| sb.owner().from_global(kind, id)).is_some();
        let keeps_both = is_kept(IdKind::User, cred.fsuid) && is_kept(IdKind::Group, cred.fsgid);
        if keeps_both { Ok(()) } else { Err(Errno::EOVERFLOW) }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use security::Extent;

    use super::*;

    /// A view by the map "0 10000 100".
    fn view() -> IdView {
        let root = Cred::root();
        let ns = UserNs::new_below(&root).unwrap();
        for kind in [IdKind::User, IdKind::Group] {
            let line = Vec::from([Extent { first: 0, lower: 10000, count: 100 }]);
            ns.write_map(kind, line, &root, &root).unwrap();
        }
        IdView::new(Some(Arc::new(Idmap { ns, fs: UserNs::INITIAL })))
    }

    #[test]
    fn what_is_kept_is_shown_and_the_other_way_round() {
        let view = view();
        for id in [0, 1, 99] {
            assert_eq!(view.shown(IdKind::User, id), 10000 + id);
            assert_eq!(view.kept(IdKind::Group, 10000 + id), Some(id));
        }
        assert_eq!(view.shown(IdKind::User, 100), NOBODY);
        assert_eq!(view.keep_uid(0), Err(Errno::EOVERFLOW));
        assert_eq!(view.keep_gid(10100), Err(Errno::EOVERFLOW));
        assert_eq!(view.shown(IdKind::User, NOBODY), NOBODY);
    }

    #[test]
    fn without_a_map_ids_are_what_they_are() {
        assert_eq!(IdView::PLAIN.shown(IdKind::User, 5), 5);
        assert_eq!(IdView::PLAIN.kept(IdKind::Group, 5), Some(5));
    }
}
