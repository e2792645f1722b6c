//! Inode flags and project ids, as chattr(1) shows them: ioctl_iflags(2), file_getattr(2), file_setattr(2).
//!
//! Two interfaces name the same bits differently. [`FileAttr`] keeps the numbers of `FS_IOC_GETFLAGS` and converts.

use abi::fs::{FsXattr, RawFileAttr};
use abi::{Errno, Result};
use bitflags::bitflags;
use hal::{UserAddr, user};
use security::{Cap, Cred};

use crate::inode::InodeFlags;
use crate::path::Path;

bitflags! {
    /// Flags of `FS_IOC_GETFLAGS` (include/uapi/linux/fs.h); other bits are a file system's own.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct FsFlags: u32 {
        /// Writes are synchronous.
        const SYNC = 0x08;
        /// Nothing may change.
        const IMMUTABLE = 0x10;
        /// Data may only be appended.
        const APPEND = 0x20;
        /// dump(8) leaves it out.
        const NODUMP = 0x40;
        /// Access times are not kept.
        const NOATIME = 0x80;
        /// Data goes through the journal.
        const JOURNAL_DATA = 0x4000;
        /// New files get the project id of their directory.
        const PROJINHERIT = 0x2000_0000;
        const _ = !0;
    }
}

/// Pairs of `FS_*_FL` and `FS_XFLAG_*`.
const NAMES: [(FsFlags, u32); 6] = [
    (FsFlags::IMMUTABLE, 0x08),
    (FsFlags::APPEND, 0x10),
    (FsFlags::SYNC, 0x20),
    (FsFlags::NOATIME, 0x40),
    (FsFlags::NODUMP, 0x80),
    (FsFlags::PROJINHERIT, 0x200),
];

/// What a file system keeps beside the mode of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FileAttr {
    /// Flags.
    pub flags: FsFlags,
    /// `FS_XFLAG_*` that have no `FS_*_FL`.
    pub other_xflags: u32,
    /// Hint for the size of extents, in bytes.
    pub extent_size: u32,
    /// Number of extents; only reported.
    pub nr_extents: u32,
    /// Project id.
    pub project: u32,
    /// As `extent_size`, for copies on write.
    pub cow_extent_size: u32,
}

impl FileAttr {
    /// What is there when only flags are.
    pub fn of_flags(flags: FsFlags) -> Self {
        Self { flags, ..Self::default() }
    }

    /// Whether it asks for what only file systems with the larger interface have.
    pub fn needs_extended(&self) -> bool {
        self.other_xflags != 0 || self.extent_size != 0 || self.project != 0 || self.cow_extent_size != 0
    }

    /// `FS_XFLAG_*`.
    pub fn xflags(&self) -> u32 {
        let named = NAMES.iter().filter(|(flag, _)| self.flags.contains(*flag));
        named.fold(self.other_xflags, |bits, (_, xflag)| bits | xflag)
    }

    /// Sets flags by `FS_XFLAG_*`; flags without one stay.
    fn set_xflags(&mut self, xflags: u32) {
        self.other_xflags = xflags;
        for (flag, xflag) in NAMES {
            self.flags.set(flag, xflags & xflag != 0);
            self.other_xflags &= !xflag;
        }
    }
}

/// What the VFS itself heeds of `flags`, to be kept in [`crate::Inode::flags`].
pub fn inode_flags(flags: FsFlags) -> InodeFlags {
    let mut kept = InodeFlags::empty();
    kept.set(InodeFlags::IMMUTABLE, flags.contains(FsFlags::IMMUTABLE));
    kept.set(InodeFlags::APPEND, flags.contains(FsFlags::APPEND));
    kept.set(InodeFlags::NOATIME, flags.contains(FsFlags::NOATIME));
    kept
}

/// Those of [`inode_flags`] that are not in `flags`.
pub fn cleared_inode_flags(flags: FsFlags) -> InodeFlags {
    (InodeFlags::IMMUTABLE | InodeFlags::APPEND | InodeFlags::NOATIME) - inode_flags(flags)
}

/// Reads. `ENOIOCTLCMD`: the file system has none.
pub fn get(path: &Path) -> Result<FileAttr> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    inode.ops().file_attr(inode)
}

/// Changes by `edit`, which gets what is there. May sleep.
///
/// `EPERM`: not the owner, or a change of immutable or append-only without `CAP_LINUX_IMMUTABLE`, or of
/// journaled data without `CAP_SYS_RESOURCE`. `EROFS`.
/// `EOPNOTSUPP`: flags that the file system does not keep. `ENOIOCTLCMD`: it has none.
pub fn set(path: &Path, cred: &Cred, edit: impl FnOnce(&mut FileAttr)) -> Result<()> {
    let _write = path.mount.want_write()?;
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    if !security::owner_or_capable(cred, path.mount.id_view().uid(inode)) {
        return Err(Errno::EPERM);
    }
    let _exclusive = inode.sem.write();
    let old = inode.ops().file_attr(inode)?;
    let mut new = old;
    edit(&mut new);
    let guarded = FsFlags::IMMUTABLE | FsFlags::APPEND;
    if (old.flags ^ new.flags).intersects(guarded) && !cred.capable(Cap::LINUX_IMMUTABLE) {
        return Err(Errno::EPERM);
    }
    if (old.flags ^ new.flags).contains(FsFlags::JOURNAL_DATA) && !cred.capable(Cap::SYS_RESOURCE) {
        return Err(Errno::EPERM);
    }
    inode.ops().set_file_attr(inode, &new)?;
    inode.touch_ctime();
    Ok(())
}

/// All `FS_XFLAG_*` of Linux 7.2.
const KNOWN_XFLAGS: u64 = 0x8003_ffff;

/// As file_getattr(2) gives it.
pub fn to_raw(attr: &FileAttr) -> RawFileAttr {
    RawFileAttr {
        xflags: u64::from(attr.xflags()),
        extsize: attr.extent_size,
        nextents: attr.nr_extents,
        projid: attr.project,
        cowextsize: attr.cow_extent_size,
    }
}

/// Whether every flag is known.
pub fn is_known(raw: &RawFileAttr) -> bool {
    raw.xflags & !KNOWN_XFLAGS == 0
}

/// Puts the fields of `raw` that can be changed into `attr`.
pub fn apply(raw: &RawFileAttr, attr: &mut FileAttr) {
    attr.set_xflags(raw.xflags as u32);
    attr.extent_size = raw.extsize;
    attr.project = raw.projid;
    attr.cow_extent_size = raw.cowextsize;
}

/// `FS_IOC_GETFLAGS`.
pub(crate) const GETFLAGS: u32 = 0x8008_6601;
/// `FS_IOC_SETFLAGS`.
pub(crate) const SETFLAGS: u32 = 0x4008_6602;
/// `FS_IOC_FSGETXATTR`.
pub(crate) const FSGETXATTR: u32 = 0x801c_581f;
/// `FS_IOC_FSSETXATTR`.
pub(crate) const FSSETXATTR: u32 = 0x401c_5820;

/// The ioctls of this interface. `ENOIOCTLCMD`: the file system has none of it.
pub(crate) fn ioctl(path: &Path, cred: &Cred, cmd: u32, arg: UserAddr) -> Result<()> {
    match cmd {
        GETFLAGS => user::write(arg, &get(path)?.flags.bits())?,
        SETFLAGS => {
            let flags: u32 = user::read(arg)?;
            set(path, cred, |attr| attr.flags = FsFlags::from_bits_retain(flags))?;
        }
        FSGETXATTR => {
            let raw = to_raw(&get(path)?);
            let out = FsXattr {
                xflags: raw.xflags as u32,
                extsize: raw.extsize,
                nextents: raw.nextents,
                projid: raw.projid,
                cowextsize: raw.cowextsize,
                pad: [0; 8],
            };
            user::write(arg, &out)?;
        }
        _ => {
            let new: FsXattr = user::read(arg)?;
            let raw = RawFileAttr {
                xflags: u64::from(new.xflags),
                extsize: new.extsize,
                nextents: 0,
                projid: new.projid,
                cowextsize: new.cowextsize,
            };
            if !is_known(&raw) {
                return Err(Errno::EOPNOTSUPP);
            }
            set(path, cred, |attr| apply(&raw, attr))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_flags_agree() {
        let mut attr = FileAttr::of_flags(FsFlags::APPEND | FsFlags::NODUMP);
        assert_eq!(attr.xflags(), 0x90);
        attr.set_xflags(0x48);
        assert_eq!(attr, FileAttr::of_flags(FsFlags::IMMUTABLE | FsFlags::NOATIME));
        attr.set_xflags(0x1000);
        assert!(attr.needs_extended() && attr.flags.is_empty());
    }
}
