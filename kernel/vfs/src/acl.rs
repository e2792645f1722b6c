//! Access-control lists of inodes (acl(5)): kept as the extended attributes `system.posix_acl_access` and
//! `system.posix_acl_default`, with the mode telling what it can.
//!
//! A file system that keeps the two attributes has lists. It tells which inodes have them by [`InodeFlags::ACL`] and
//! [`InodeFlags::DEFAULT_ACL`], so that others are never asked.
//!
//! LINUX: a new file's list is set after the file is made, not in one transaction with it. Its mode, which is the most
//! that the list gives, is right from the first moment; a power failure in between leaves the file without its list.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{S_IFDIR, S_IFLNK, S_IFMT, S_ISGID};
use abi::{Errno, Result};
use security::{Access, Acl, AclExtent, Cred, IdKind, Whose};

use crate::idmap::IdView;
use crate::inode::{Inode, InodeFlags, SetAttr, XattrMode};
use crate::perm;
use crate::time;

/// Which of the two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Who may do what with the inode.
    Access,
    /// What files made in the folder get.
    Default,
}

impl Which {
    /// The list that an attribute's name means.
    pub fn from_name(name: &[u8]) -> Option<Which> {
        [Which::Access, Which::Default].into_iter().find(|which| which.name() == name)
    }

    fn name(self) -> &'static [u8] {
        match self {
            Which::Access => b"system.posix_acl_access",
            Which::Default => b"system.posix_acl_default",
        }
    }

    fn flag(self) -> InodeFlags {
        match self {
            Which::Access => InodeFlags::ACL,
            Which::Default => InodeFlags::DEFAULT_ACL,
        }
    }
}

fn kind(whose: Whose) -> IdKind {
    match whose {
        Whose::User => IdKind::User,
        Whose::Group => IdKind::Group,
    }
}

/// Notes that the attribute `name` of `inode` was set or removed. File systems that keep lists tell it, so that
/// changes by a file system on top are seen, too.
pub fn note(inode: &Inode, name: &[u8], is_there: bool) {
    let Some(which) = Which::from_name(name) else { return };
    let (set, clear) =
        if is_there { (which.flag(), InodeFlags::empty()) } else { (InodeFlags::empty(), which.flag()) };
    inode.set_flags(set, clear);
}

/// The list of `inode` as `view` shows it; as the file system keeps it, if that is plain. `None`: none, or an empty one.
fn load(view: &IdView, inode: &Inode, which: Which) -> Result<Option<Acl>> {
    if !inode.flags().contains(which.flag()) {
        return Ok(None);
    }
    match inode.ops().get_xattr(inode, which.name()) {
        Ok(value) => Acl::parse(&value, |whose, id| Some(view.shown(kind(whose), id))),
        Err(Errno::ENODATA) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The attribute's value `kept` as `view` shows it, with ids of this machine.
pub(crate) fn shown_value(view: &IdView, kept: &[u8]) -> Result<Vec<u8>> {
    let acl = Acl::parse(kept, |whose, id| Some(view.shown(kind(whose), id)))?;
    Ok(acl.map_or_else(Vec::new, |acl| acl.encode(|_, id| id)))
}

/// What the file system is to keep for the attribute's value `shown`. `EINVAL`: it cannot keep an id.
pub(crate) fn kept_value(view: &IdView, shown: &[u8]) -> Result<Vec<u8>> {
    let acl = Acl::parse(shown, |whose, id| view.kept(kind(whose), id))?;
    Ok(acl.map_or_else(Vec::new, |acl| acl.encode(|_, id| id)))
}

/// Keeps `acl`, or no list.
fn store(inode: &Inode, which: Which, acl: Option<&Acl>) -> Result<()> {
    match acl {
        Some(acl) => {
            inode.ops().set_xattr(inode, which.name(), &acl.encode(|_, id| id), XattrMode::Any)?;
        }
        None => match inode.ops().remove_xattr(inode, which.name()) {
            Ok(()) | Err(Errno::ENODATA) => {}
            Err(errno) => return Err(errno),
        },
    }
    // For file systems that keep the attribute in another one's inode.
    note(inode, which.name(), acl.is_some());
    Ok(())
}

/// The check of an access to an inode with [`InodeFlags::ACL`]. `EACCES`; or the list cannot be read.
pub(crate) fn permission(view: &IdView, inode: &Inode, cred: &Cred, wanted: Access) -> Result<()> {
    let ids = view.ids(inode);
    match load(view, inode, Which::Access)? {
        Some(acl) => security::acl_permission(cred, &ids, &acl, wanted),
        None => security::inode_permission(cred, &ids, wanted),
    }
}

/// The attribute's value, with ids as `cred`'s user namespace numbers them. `ENODATA`: there is no list.
pub(crate) fn get(view: &IdView, inode: &Inode, which: Which, cred: &Cred) -> Result<Vec<u8>> {
    if inode.is_symlink() {
        return Err(Errno::EOPNOTSUPP);
    }
    if !inode.flags().contains(which.flag()) {
        // A file system without attributes says so.
        return inode.ops().get_xattr(inode, which.name());
    }
    let acl = load(view, inode, which)?.ok_or(Errno::ENODATA)?;
    Ok(acl.encode(|whose, id| cred.user_ns.from_global(kind(whose), id).unwrap_or(u32::MAX)))
}

/// Sets or removes a list; `inode.sem` is held for writing.
///
/// `EOPNOTSUPP`: a symbolic link, or a file system without lists. `EACCES`: a default list for what is no folder.
/// `EPERM`: not the owner's or a privileged call. `EINVAL`: no list, or one with ids that the file system cannot keep.
pub(crate) fn set(
    view: &IdView,
    inode: &Arc<Inode>,
    which: Which,
    value: Option<&[u8]>,
    cred: &Cred,
) -> Result<()> {
    let map = |whose, id| view.kept(kind(whose), cred.user_ns.to_global(kind(whose), id)?);
    let acl = match value {
        Some(value) if !value.is_empty() => Acl::parse(value, map)?,
        _ => None,
    };
    if inode.is_symlink() {
        return Err(Errno::EOPNOTSUPP);
    }
    // Asked for what is not there, a file system without attributes says that it has none.
    if let Err(errno @ Errno::EOPNOTSUPP) = inode.ops().get_xattr(inode, which.name()) {
        return Err(errno);
    }
    if which == Which::Default && !inode.is_dir() {
        return if acl.is_some() { Err(Errno::EACCES) } else { Ok(()) };
    }
    if !security::owner_or_capable(cred, view.uid(inode)) {
        return Err(Errno::EPERM);
    }
    let Some(acl) = acl else { return store(inode, which, None) };
    if which == Which::Default {
        return store(inode, which, Some(&acl));
    }
    let (bits, extent) = acl.mode();
    let mut mode = inode.mode() & !0o777 | bits;
    if !perm::in_group_or_capable(view, inode, cred) {
        mode &= !S_ISGID;
    }
    store(inode, which, (extent == AclExtent::List).then_some(&acl))?;
    inode.ops().set_attr(inode, &SetAttr { mode: Some(mode), ctime: time::now(), ..SetAttr::default() })
}

/// Makes the access list follow a new mode; `inode.sem` is held for writing.
pub(crate) fn chmod(inode: &Inode, mode: u32) -> Result<()> {
    let Some(mut acl) = load(&IdView::PLAIN, inode, Which::Access)? else { return Ok(()) };
    acl.chmod(mode);
    store(inode, Which::Access, Some(&acl))
}

/// The mode of something to be made in `dir`: less the umask, unless the folder's default list decides instead.
pub(crate) fn masked(dir: &Inode, mode: u32, umask: u32) -> u32 {
    if dir.flags().contains(InodeFlags::DEFAULT_ACL) { mode } else { mode & !umask }
}

/// What a new inode gets from its folder.
pub(crate) struct Inherited {
    /// Its mode.
    pub(crate) mode: u32,
    access: Option<Acl>,
    default: Option<Acl>,
}

/// What something of `mode` inherits that is to be made in `dir`.
pub(crate) fn inherit(dir: &Inode, mode: u32) -> Result<Inherited> {
    let mut inherited = Inherited { mode, access: None, default: None };
    if mode & S_IFMT == S_IFLNK {
        return Ok(inherited);
    }
    let Some(default) = load(&IdView::PLAIN, dir, Which::Default)? else { return Ok(inherited) };
    let mut access = default.clone();
    inherited.mode = access.inherit(mode);
    inherited.access = (access.mode().1 == AclExtent::List).then_some(access);
    inherited.default = (mode & S_IFMT == S_IFDIR).then_some(default);
    Ok(inherited)
}

impl Inherited {
    /// Gives the lists to the new inode.
    pub(crate) fn give(&self, inode: &Inode) -> Result<()> {
        if let Some(access) = &self.access {
            store(inode, Which::Access, Some(access))?;
        }
        if let Some(default) = &self.default {
            store(inode, Which::Default, Some(default))?;
        }
        Ok(())
    }
}
