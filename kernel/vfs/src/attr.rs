//! Attributes: stat, chmod, chown, utimes, truncate, access, statfs.
//!
//! Sources: stat(2), statx(2), chmod(2), chown(2), utimensat(2), truncate(2), access(2), statfs(2).

use alloc::borrow::Cow;
use alloc::sync::Arc;

use abi::fs::{AtFlags, S_ISGID, S_ISUID, Stat, Statfs, Statx, major, minor};
use abi::time::Timespec;
use abi::{Errno, Result};
use security::{Access, Cap, CapSet, Cred, IdKind};

use crate::anon;
use crate::dev;
use crate::file::{File, FileMode};
use crate::fs_context::WalkContext;
use crate::idmap::{IdView, NOBODY};
use crate::inode::{FileKind, Inode, InodeFlags, SetAttr};
use crate::lock::{LockKind, lease};
use crate::mount::{Mount, MountFlags};
use crate::notify::{self, Event};
use crate::path::Path;
use crate::perm;
use crate::pipe::Blocking;
use crate::rw;
use crate::time;
use crate::walk::{self, At, WalkFlags};
use crate::xattr;

/// `STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID` (statx(2)).
const STATX_MASK: u32 = 0x7ff | 0x800 | 0x1000;
/// `STATX_DIOALIGN`.
const STATX_DIOALIGN: u32 = 0x2000;
/// `STATX_MNT_ID_UNIQUE`.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
const STATX_ATTR_IMMUTABLE: u64 = 0x10;
const STATX_ATTR_APPEND: u64 = 0x20;
const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;

/// The attributes of what `path` names (statx(2)). `mask` is what the caller asks for.
pub fn statx(path: &Path, mask: u32) -> Result<Statx> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    let mut stat = basic_statx(inode);
    inode.ops().get_attr(inode, &mut stat)?;
    (stat.stx_uid, stat.stx_gid) = shown_owner(path, stat.stx_uid, stat.stx_gid);
    stat.stx_mnt_id = u64::from(path.mount.id());
    if mask & STATX_MNT_ID_UNIQUE != 0 {
        stat.stx_mnt_id = path.mount.unique_id();
        stat.stx_mask = stat.stx_mask & !0x1000 | STATX_MNT_ID_UNIQUE;
    }
    if mask & STATX_DIOALIGN != 0 {
        tell_direct_align(inode, &mut stat);
    }
    stat.stx_attributes_mask |= STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND | STATX_ATTR_MOUNT_ROOT;
    if path.is_mount_root() {
        stat.stx_attributes |= STATX_ATTR_MOUNT_ROOT;
    }
    Ok(stat)
}

/// Tells what `O_DIRECT` asks for: nothing for files that have no such thing.
fn tell_direct_align(inode: &Inode, stat: &mut Statx) {
    let align = match inode.kind() {
        FileKind::Regular => inode.ops().direct_align(inode),
        FileKind::Block => dev::direct_align(inode.rdev()),
        _ => None,
    };
    if let Some(align) = align {
        stat.stx_mask |= STATX_DIOALIGN;
        (stat.stx_dio_mem_align, stat.stx_dio_offset_align) = (align.memory, align.offset);
    }
}

#[inline]
fn basic_statx(inode: &Inode) -> Statx {
    let times = inode.times();
    let dev = inode.sb().dev();
    let flags = inode.flags();
    let mut attributes = 0;
    if flags.contains(InodeFlags::IMMUTABLE) {
        attributes |= STATX_ATTR_IMMUTABLE;
    }
    if flags.contains(InodeFlags::APPEND) {
        attributes |= STATX_ATTR_APPEND;
    }
    Statx {
        stx_mask: STATX_MASK,
        stx_blksize: inode.sb().block_size(),
        stx_attributes: attributes,
        stx_nlink: inode.nlink(),
        stx_uid: inode.uid(),
        stx_gid: inode.gid(),
        stx_mode: inode.mode() as u16,
        stx_ino: inode.ino(),
        stx_size: inode.size(),
        stx_atime: times.atime.into(),
        stx_btime: times.btime.into(),
        stx_ctime: times.ctime.into(),
        stx_mtime: times.mtime.into(),
        stx_rdev_major: major(inode.rdev()),
        stx_rdev_minor: minor(inode.rdev()),
        stx_dev_major: major(dev),
        stx_dev_minor: minor(dev),
        ..Statx::default()
    }
}

/// Owner and group as the mount of `path` shows them.
#[inline]
fn shown_owner(path: &Path, uid: u32, gid: u32) -> (u32, u32) {
    if !path.mount.is_idmapped() {
        return (uid, gid);
    }
    let view = path.mount.id_view();
    (view.shown(IdKind::User, uid), view.shown(IdKind::Group, gid))
}

/// The attributes of what `path` names (stat(2)).
pub fn stat(path: &Path) -> Result<Stat> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    let mut x = basic_statx(inode);
    inode.ops().get_attr(inode, &mut x)?;
    let (st_uid, st_gid) = shown_owner(path, x.stx_uid, x.stx_gid);
    Ok(Stat {
        st_dev: inode.sb().dev(),
        st_ino: x.stx_ino,
        st_nlink: u64::from(x.stx_nlink),
        st_mode: u32::from(x.stx_mode),
        st_uid,
        st_gid,
        st_rdev: inode.rdev(),
        st_size: x.stx_size as i64,
        st_blksize: i64::from(x.stx_blksize),
        st_blocks: x.stx_blocks as i64,
        st_atime: x.stx_atime.tv_sec,
        st_atime_nsec: u64::from(x.stx_atime.tv_nsec),
        st_mtime: x.stx_mtime.tv_sec,
        st_mtime_nsec: u64::from(x.stx_mtime.tv_nsec),
        st_ctime: x.stx_ctime.tv_sec,
        st_ctime_nsec: u64::from(x.stx_ctime.tv_nsec),
        ..Stat::default()
    })
}

/// newfstatat(2).
pub fn fstatat(ctx: &WalkContext<'_>, at: At<'_>, name: &[u8], flags: AtFlags) -> Result<Stat> {
    stat(&walk::walk(ctx, at, name, WalkFlags::from_at(flags))?)
}

/// statfs(2), with the mount's flags.
pub fn statfs(path: &Path) -> Result<Statfs> {
    const ST_VALID: i64 = 0x20;
    let mut stat = path.dentry.sb().statfs()?;
    let flags = path.mount.flags();
    let pairs = [
        (MountFlags::RDONLY, 1),
        (MountFlags::NOSUID, 2),
        (MountFlags::NODEV, 4),
        (MountFlags::NOEXEC, 8),
        (MountFlags::NOATIME, 1024),
        (MountFlags::NODIRATIME, 2048),
        (MountFlags::RELATIME, 4096),
        (MountFlags::NOSYMFOLLOW, 8192),
    ];
    stat.f_flags =
        pairs.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, st)| st).sum::<i64>() | ST_VALID;
    if path.mount.is_readonly() {
        stat.f_flags |= 1;
    }
    Ok(stat)
}

/// Applies a change of attributes that was checked; `sem` is held.
fn apply(inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
    inode.ops().set_attr(inode, change)
}

/// `EPERM` for files whose attributes are frozen.
fn check_mutable(inode: &Inode) -> Result<()> {
    if inode.flags().intersects(InodeFlags::IMMUTABLE | InodeFlags::APPEND) {
        Err(Errno::EPERM)
    } else {
        Ok(())
    }
}

/// `EOVERFLOW` where the owner of `inode` is not to be seen: a change might write it back wrongly.
fn check_owner_shown(view: &IdView, inode: &Inode) -> Result<()> {
    if view.hides_owner(inode) { Err(Errno::EOVERFLOW) } else { Ok(()) }
}

/// Changes the permissions of what `path` names (chmod(2), fchmod(2), fchmodat2(2)).
///
/// `EPERM`: not the owner's or a privileged call. `EOPNOTSUPP`: a symbolic link, or an anonymous object.
pub fn chmod(path: &Path, mode: u32, cred: &Cred) -> Result<()> {
    let _write = path.mount.want_write()?;
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    let _exclusive = inode.sem.write();
    check_mutable(inode)?;
    if inode.is_symlink() || anon::has_fixed_attributes(inode) {
        return Err(Errno::EOPNOTSUPP);
    }
    let view = path.mount.id_view();
    check_owner_shown(&view, inode)?;
    if !security::owner_or_capable(cred, view.uid(inode)) {
        return Err(Errno::EPERM);
    }
    let mut mode = inode.mode() & !0o7777 | mode & 0o7777;
    if !perm::in_group_or_capable(&view, inode, cred) {
        mode &= !S_ISGID;
    }
    apply(inode, &SetAttr { mode: Some(mode), ctime: time::now(), ..SetAttr::default() })?;
    crate::acl::chmod(inode, mode)?;
    notify::path_event(path, Event::ATTRIB);
    Ok(())
}

/// fchmodat2(2).
pub fn fchmodat(ctx: &WalkContext<'_>, at: At<'_>, name: &[u8], mode: u32, flags: AtFlags) -> Result<()> {
    chmod(&walk::walk(ctx, at, name, WalkFlags::from_at(flags))?, mode, ctx.cred)
}

/// Changes the owner of what `path` names; `u32::MAX` keeps an id. Clears set-ID bits and capabilities (chown(2)).
pub fn chown(path: &Path, uid: u32, gid: u32, cred: &Cred) -> Result<()> {
    let _write = path.mount.want_write()?;
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    let _exclusive = inode.sem.write();
    check_mutable(inode)?;
    if anon::has_fixed_attributes(inode) {
        return Err(Errno::EOPNOTSUPP);
    }
    let change =
        Owner { uid: Some(uid).filter(|&id| id != NOBODY), gid: Some(gid).filter(|&id| id != NOBODY) };
    let view = path.mount.id_view();
    let (kept_uid, kept_gid) = change.kept(&view, inode)?;
    if !change.is_allowed(&view, inode, cred) {
        return Err(Errno::EPERM);
    }
    let mut mode = inode.mode();
    if !inode.is_dir() {
        mode &= !S_ISUID;
        if mode & 0o010 != 0 || !perm::in_group_or_capable(&view, inode, cred) {
            mode &= !S_ISGID;
        }
    }
    xattr::remove_caps(inode)?;
    let mode = Some(mode).filter(|&mode| mode != inode.mode());
    let ctime = time::now();
    apply(inode, &SetAttr { mode, uid: kept_uid, gid: kept_gid, ctime, ..SetAttr::default() })?;
    notify::path_event(path, Event::ATTRIB);
    Ok(())
}

/// What chown(2) asks for; `None` keeps an id.
struct Owner {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Owner {
    /// What the file system is to keep. `EOVERFLOW`: it cannot, or what stays is not to be seen.
    fn kept(&self, view: &IdView, inode: &Inode) -> Result<(Option<u32>, Option<u32>)> {
        let owner = inode.sb().owner();
        let is_known = |kind, id| owner.from_global(kind, id).is_some();
        let uid = self.uid.map(|uid| view.keep_uid(uid)).transpose()?;
        let gid = self.gid.map(|gid| view.keep_gid(gid)).transpose()?;
        let is_kept = uid.is_none_or(|uid| is_known(IdKind::User, uid))
            && gid.is_none_or(|gid| is_known(IdKind::Group, gid));
        let hides = uid.is_none() && view.uid(inode) == NOBODY || gid.is_none() && view.gid(inode) == NOBODY;
        if is_kept && !hides { Ok((uid, gid)) } else { Err(Errno::EOVERFLOW) }
    }

    /// Whether `cred` may do it.
    fn is_allowed(&self, view: &IdView, inode: &Inode, cred: &Cred) -> bool {
        let old = view.ids(inode);
        let is_owner = cred.fsuid == old.uid;
        let is_capable = |is_shown: bool| {
            cred.inode_capable(old.uid, old.gid, Cap::CHOWN)
                || !is_shown && cred.ns_capable(inode.sb().owner(), Cap::CHOWN)
        };
        let may_uid = self.uid.is_none_or(|uid| is_owner && uid == old.uid || is_capable(old.uid != NOBODY));
        may_uid
            && self.gid.is_none_or(|gid| {
                is_owner && (gid == old.gid || cred.in_group(gid)) || is_capable(old.gid != NOBODY)
            })
    }
}

/// fchownat(2).
pub fn fchownat(
    ctx: &WalkContext<'_>,
    at: At<'_>,
    name: &[u8],
    uid: u32,
    gid: u32,
    flags: AtFlags,
) -> Result<()> {
    chown(&walk::walk(ctx, at, name, WalkFlags::from_at(flags))?, uid, gid, ctx.cred)
}

/// A time for utimensat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTime {
    /// `UTIME_NOW`.
    Now,
    /// `UTIME_OMIT`.
    Keep,
    /// This.
    Set(Timespec),
}

impl NewTime {
    /// From the argument of utimensat(2). `EINVAL`: not a time.
    #[inline]
    pub fn from_timespec(time: Timespec) -> Result<Self> {
        const UTIME_NOW: i64 = (1 << 30) - 1;
        const UTIME_OMIT: i64 = (1 << 30) - 2;
        match time.tv_nsec {
            UTIME_NOW => Ok(Self::Now),
            UTIME_OMIT => Ok(Self::Keep),
            0..1_000_000_000 => Ok(Self::Set(time)),
            _ => Err(Errno::EINVAL),
        }
    }

    fn resolve(self, now: Timespec) -> Option<Timespec> {
        match self {
            Self::Now => Some(now),
            Self::Keep => None,
            Self::Set(time) => Some(time),
        }
    }
}

/// Changes the times of what `path` names (utimensat(2)).
///
/// `EACCES`: both now, and neither owner nor may write. `EPERM`: others, and not the owner.
pub fn utimens(path: &Path, atime: NewTime, mtime: NewTime, cred: &Cred) -> Result<()> {
    if atime == NewTime::Keep && mtime == NewTime::Keep {
        return Ok(());
    }
    let _write = path.mount.want_write()?;
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    let _exclusive = inode.sem.write();
    let is_now = atime == NewTime::Now && mtime == NewTime::Now;
    let flags = inode.flags();
    if flags.contains(InodeFlags::IMMUTABLE) || (flags.contains(InodeFlags::APPEND) && !is_now) {
        return Err(Errno::EPERM);
    }
    let view = path.mount.id_view();
    let is_owner = security::owner_or_capable(cred, view.uid(inode));
    if is_now && !is_owner {
        perm::permission(&view, inode, cred, Access::WRITE)?;
    }
    check_owner_shown(&view, inode)?;
    if !is_now && !is_owner {
        return Err(Errno::EPERM);
    }
    let now = time::now();
    let (atime, mtime) = (atime.resolve(now), mtime.resolve(now));
    apply(inode, &SetAttr { atime, mtime, ctime: now, ..SetAttr::default() })?;
    notify::path_event(path, Event::ATTRIB);
    Ok(())
}

/// Cuts or lengthens a regular file; the caller has checked everything. Takes `sem`.
pub(crate) fn truncate_inode(mount: &Mount, inode: &Arc<Inode>, size: u64, cred: &Cred) -> Result<()> {
    let _exclusive = inode.sem.write();
    rw::remove_privileges(mount, inode, cred)?;
    let now = time::now();
    apply(inode, &SetAttr { size: Some(size), mtime: Some(now), ctime: now, ..SetAttr::default() })
}

fn check_size(inode: &Inode, size: i64, fsize: u64) -> Result<u64> {
    let size = u64::try_from(size).map_err(|_| Errno::EINVAL)?;
    let is_growing = size > inode.size();
    if is_growing && (size > fsize || size > inode.sb().max_bytes()) { Err(Errno::EFBIG) } else { Ok(size) }
}

/// truncate(2). `fsize`: the caller's `RLIMIT_FSIZE`; `EFBIG` beyond it.
pub fn truncate(path: &Path, size: i64, fsize: u64, cred: &Cred) -> Result<()> {
    if size < 0 {
        return Err(Errno::EINVAL);
    }
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    match inode.kind() {
        FileKind::Directory => return Err(Errno::EISDIR),
        FileKind::Regular => {}
        _ => return Err(Errno::EINVAL),
    }
    let _write = path.mount.want_write()?;
    perm::path_permission(path, cred, Access::WRITE)?;
    if inode.flags().contains(InodeFlags::APPEND) {
        return Err(Errno::EPERM);
    }
    inode.get_write_access()?;
    let broken = lease::break_leases(inode, LockKind::Write, Blocking::Yes);
    let result = broken
        .and_then(|()| check_size(inode, size, fsize))
        .and_then(|size| truncate_inode(&path.mount, inode, size, cred));
    inode.put_write_access();
    result?;
    notify::path_event(path, Event::MODIFY);
    Ok(())
}

/// ftruncate(2). `EINVAL`: not a regular file open for writing.
pub fn ftruncate(file: &File, size: i64, fsize: u64) -> Result<()> {
    file.require(FileMode::empty())?;
    let inode = file.inode();
    if size < 0 || !inode.is_regular() || !file.mode().contains(FileMode::WRITE) {
        return Err(Errno::EINVAL);
    }
    if inode.flags().contains(InodeFlags::APPEND) {
        return Err(Errno::EPERM);
    }
    let size = check_size(inode, size, fsize)?;
    truncate_inode(&file.path().mount, inode, size, file.cred())?;
    notify::file_event(file, Event::MODIFY);
    Ok(())
}

/// fallocate(2). `fsize` as for [`truncate`].
pub fn fallocate(file: &File, mode: u32, offset: i64, len: i64, fsize: u64) -> Result<()> {
    const KEEP_SIZE: u32 = 1;
    file.require(FileMode::empty())?;
    if offset < 0 || len <= 0 {
        return Err(Errno::EINVAL);
    }
    file.require(FileMode::WRITE)?;
    let inode = file.inode();
    match inode.kind() {
        FileKind::Regular => {}
        FileKind::Fifo => return Err(Errno::ESPIPE),
        FileKind::Directory => return Err(Errno::EISDIR),
        _ => return Err(Errno::ENODEV),
    }
    let end = offset.checked_add(len).ok_or(Errno::EFBIG)? as u64;
    if end > inode.sb().max_bytes() || (mode & KEEP_SIZE == 0 && end > fsize && end > inode.size()) {
        return Err(Errno::EFBIG);
    }
    let _exclusive = inode.sem.write();
    let frozen = if mode & !KEEP_SIZE == 0 {
        InodeFlags::IMMUTABLE
    } else {
        InodeFlags::IMMUTABLE | InodeFlags::APPEND
    };
    if inode.flags().intersects(frozen) {
        return Err(Errno::EPERM);
    }
    rw::remove_privileges(&file.path().mount, inode, file.cred())?;
    file.ops().fallocate(file, mode, offset as u64, len as u64)?;
    inode.touch_mtime();
    notify::file_event(file, Event::MODIFY);
    Ok(())
}

/// Who asks in faccessat2(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessIds {
    /// The real ids, as access(2).
    Real,
    /// The effective ids (`AT_EACCESS`).
    Effective,
}

/// faccessat2(2); an empty `wanted` asks for existence.
pub fn faccessat(
    ctx: &WalkContext<'_>,
    at: At<'_>,
    name: &[u8],
    wanted: Access,
    flags: AtFlags,
    ids: AccessIds,
) -> Result<()> {
    let cred: Cow<'_, Cred> = match ids {
        AccessIds::Real if !acts_as_itself(ctx.cred) => Cow::Owned(real_cred(ctx.cred)),
        _ => Cow::Borrowed(&**ctx.cred),
    };
    let owned;
    let ctx = match &cred {
        Cow::Borrowed(_) => *ctx,
        Cow::Owned(cred) => {
            owned = Arc::new(cred.clone());
            WalkContext { cred: &owned, ..*ctx }
        }
    };
    let path = walk::walk(&ctx, at, name, WalkFlags::from_at(flags))?;
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    let is_noexec = path.mount.flags().contains(MountFlags::NOEXEC);
    if wanted.contains(Access::EXEC) && inode.is_regular() && is_noexec {
        return Err(Errno::EACCES);
    }
    perm::path_permission(&path, ctx.cred, wanted)
}

/// Whether real and file-system ids give the same rights, so that no second set is needed.
fn acts_as_itself(cred: &Cred) -> bool {
    let same = cred.fsuid == cred.uid && cred.fsgid == cred.gid;
    same && (cred.uid == 0 && cred.effective == cred.permitted
        || cred.uid != 0 && cred.effective == CapSet::EMPTY)
}

/// The credentials that access(2) checks with.
fn real_cred(cred: &Cred) -> Cred {
    let mut real = cred.clone();
    real.fsuid = cred.uid;
    real.fsgid = cred.gid;
    real.effective = if cred.uid == 0 { cred.permitted } else { CapSet::EMPTY };
    real
}
