//! May this caller do that? The checks around every operation on names and inodes.
//!
//! Sources: path_resolution(7), inode(7), unlink(2), rename(2), proc_sys_fs(5) for the `protected_*` switches.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use abi::fs::{S_IFDIR, S_ISGID, S_ISVTX};
use abi::{Errno, Result};
use security::{Access, Cap, Cred};

use crate::dentry::Dentry;
use crate::idmap::{IdView, NOBODY};
use crate::inode::{FileKind, Inode, InodeFlags};
use crate::path::Path;

/// /proc/sys/fs/protected_symlinks.
pub static PROTECTED_SYMLINKS: AtomicU32 = AtomicU32::new(1);
/// /proc/sys/fs/protected_hardlinks.
pub static PROTECTED_HARDLINKS: AtomicU32 = AtomicU32::new(1);
/// /proc/sys/fs/protected_fifos.
pub static PROTECTED_FIFOS: AtomicU32 = AtomicU32::new(1);
/// /proc/sys/fs/protected_regular.
pub static PROTECTED_REGULAR: AtomicU32 = AtomicU32::new(2);

/// Checks an access to `inode` through a mount with `view`. `EACCES`; `EROFS`: the file system is read-only; `EPERM`:
/// immutable.
pub fn permission(view: &IdView, inode: &Inode, cred: &Cred, wanted: Access) -> Result<()> {
    if wanted.contains(Access::WRITE) {
        let is_plain = matches!(inode.kind(), FileKind::Regular | FileKind::Directory | FileKind::Symlink);
        if is_plain && inode.sb().is_readonly() {
            return Err(Errno::EROFS);
        }
        if inode.flags().contains(InodeFlags::IMMUTABLE) {
            return Err(Errno::EPERM);
        }
        if view.hides_owner(inode) {
            return Err(Errno::EACCES);
        }
    }
    if inode.flags().contains(InodeFlags::OWN_PERMISSION) {
        return inode.ops().permission(inode, cred, wanted);
    }
    if inode.flags().contains(InodeFlags::ACL) {
        return crate::acl::permission(view, inode, cred, wanted);
    }
    security::inode_permission(cred, &view.ids(inode), wanted)
}

/// Checks that entries may be made in `dir`. `ENOENT`: it was removed itself. `EOVERFLOW`: the file system cannot keep
/// `cred` for an owner.
pub(crate) fn may_make_entries(view: &IdView, dir: &Inode, cred: &Cred) -> Result<()> {
    if dir.flags().contains(InodeFlags::DEAD) {
        return Err(Errno::ENOENT);
    }
    view.check_maker(dir.sb(), cred)?;
    permission(view, dir, cred, Access::WRITE | Access::EXEC)
}

/// What is to be removed: a directory or anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    Directory,
    Other,
}

/// Checks that the entry `victim` may be removed from `dir` (unlink(2), rmdir(2), rename(2)).
pub(crate) fn may_delete(
    view: &IdView,
    dir: &Inode,
    victim: &Dentry,
    cred: &Cred,
    removal: Removal,
) -> Result<()> {
    let inode = victim.inode().ok_or(Errno::ENOENT)?;
    if view.hides_owner(inode) {
        return Err(Errno::EOVERFLOW);
    }
    permission(view, dir, cred, Access::WRITE | Access::EXEC)?;
    if dir.flags().contains(InodeFlags::APPEND) {
        return Err(Errno::EPERM);
    }
    if !security::may_delete_sticky(cred, &view.ids(dir), view.uid(inode))
        || inode.flags().intersects(InodeFlags::APPEND | InodeFlags::IMMUTABLE | InodeFlags::SWAPFILE)
    {
        return Err(Errno::EPERM);
    }
    match (removal, inode.is_dir()) {
        (Removal::Directory, false) => return Err(Errno::ENOTDIR),
        (Removal::Other, true) => return Err(Errno::EISDIR),
        _ => {}
    }
    if dir.flags().contains(InodeFlags::DEAD) {
        return Err(Errno::ENOENT);
    }
    Ok(())
}

fn is_sticky_for_all(dir: &Inode) -> bool {
    dir.mode() & (S_ISVTX | 0o002) == S_ISVTX | 0o002
}

/// Whether `inode` has an owner in `view`, which `dir` has too.
fn has_owner_of(view: &IdView, dir: &Inode, inode: &Inode) -> bool {
    let owner = view.uid(inode);
    owner != NOBODY && owner == view.uid(dir)
}

/// protected_symlinks: in a sticky directory that all may write to, only one's own links and the directory owner's
/// are followed.
pub(crate) fn may_follow_link(view: &IdView, dir: &Inode, link: &Inode, cred: &Cred) -> Result<()> {
    let is_protected = PROTECTED_SYMLINKS.load(Relaxed) != 0 && is_sticky_for_all(dir);
    if is_protected && cred.fsuid != view.uid(link) && !has_owner_of(view, dir, link) {
        return Err(Errno::EACCES);
    }
    Ok(())
}

/// protected_hardlinks: one may link to what one owns or could write to anyway.
pub(crate) fn may_link(view: &IdView, inode: &Inode, cred: &Cred) -> Result<()> {
    if view.hides_owner(inode) {
        return Err(Errno::EOVERFLOW);
    }
    if PROTECTED_HARDLINKS.load(Relaxed) == 0 || security::owner_or_capable(cred, view.uid(inode)) {
        return Ok(());
    }
    let mode = inode.mode();
    let is_setgid_program = mode & (S_ISGID | 0o010) == S_ISGID | 0o010;
    let is_safe = inode.is_regular()
        && mode & abi::fs::S_ISUID == 0
        && !is_setgid_program
        && permission(view, inode, cred, Access::READ | Access::WRITE).is_ok();
    if is_safe { Ok(()) } else { Err(Errno::EPERM) }
}

/// protected_fifos and protected_regular: `O_CREAT` of what is already there in a sticky directory.
pub(crate) fn may_create_in_sticky(view: &IdView, dir: &Inode, inode: &Inode, cred: &Cred) -> Result<()> {
    let level = match inode.kind() {
        FileKind::Fifo => PROTECTED_FIFOS.load(Relaxed),
        FileKind::Regular => PROTECTED_REGULAR.load(Relaxed),
        _ => 0,
    };
    let mode = dir.mode();
    if level == 0 || mode & S_ISVTX == 0 || has_owner_of(view, dir, inode) || view.uid(inode) == cred.fsuid {
        return Ok(());
    }
    if mode & 0o002 != 0 || (level >= 2 && mode & 0o020 != 0) { Err(Errno::EACCES) } else { Ok(()) }
}

/// Whether `cred` may leave the set-group-ID bit on `inode`: it is in its group, or privileged.
pub(crate) fn in_group_or_capable(view: &IdView, inode: &Inode, cred: &Cred) -> bool {
    let ids = view.ids(inode);
    cred.in_group(ids.gid) || cred.inode_capable(ids.uid, ids.gid, Cap::FSETID)
}

/// The mode, owner and group of a new inode in `dir`, as the file system keeps them (Linux: `inode_init_owner`).
/// `EOVERFLOW`: it cannot.
pub(crate) fn new_owner(view: &IdView, dir: &Inode, cred: &Cred, mut mode: u32) -> Result<(u32, u32, u32)> {
    let uid = view.keep_uid(cred.fsuid)?;
    let gid;
    if dir.mode() & S_ISGID == 0 {
        gid = view.keep_gid(cred.fsgid)?;
    } else {
        gid = dir.gid();
        if mode & abi::fs::S_IFMT == S_IFDIR {
            mode |= S_ISGID;
        } else if mode & (S_ISGID | 0o010) == S_ISGID | 0o010 && !in_group_or_capable(view, dir, cred) {
            mode &= !S_ISGID;
        }
    }
    Ok((mode, uid, gid))
}

/// Checks a write to the file at `path` by whoever holds it open: mount and file system are writable.
pub(crate) fn path_permission(path: &Path, cred: &Cred, wanted: Access) -> Result<()> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    let is_plain = matches!(inode.kind(), FileKind::Regular | FileKind::Directory | FileKind::Symlink);
    if wanted.contains(Access::WRITE) && is_plain && path.mount.is_readonly() {
        return Err(Errno::EROFS);
    }
    permission(&path.mount.id_view(), inode, cred, wanted)
}
