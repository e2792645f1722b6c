//! Files: open flags, modes, `stat` layouts, directory entries, locks (open(2), stat(2), fcntl(2)).

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::time::StatxTimestamp;

bitflags! {
    /// Flags of open(2) and of an open file description. The access mode is in the low two bits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct OpenFlags: u32 {
        const WRONLY = 0o1;
        const RDWR = 0o2;
        const CREAT = 0o100;
        const EXCL = 0o200;
        const NOCTTY = 0o400;
        const TRUNC = 0o1000;
        const APPEND = 0o2000;
        const NONBLOCK = 0o4000;
        const DSYNC = 0o10000;
        const ASYNC = 0o20000;
        const DIRECT = 0o40000;
        const LARGEFILE = 0o100000;
        const DIRECTORY = 0o200000;
        const NOFOLLOW = 0o400000;
        const NOATIME = 0o1000000;
        const CLOEXEC = 0o2000000;
        const SYNC_BIT = 0o4000000;
        const PATH = 0o10000000;
        const TMPFILE_BIT = 0o20000000;
        /// `O_EMPTYPATH`: an empty name means the start itself.
        const EMPTYPATH = 1 << 26;
        const SYNC = 0o4010000;
        const TMPFILE = 0o20200000;
    }
}

impl OpenFlags {
    /// Whether the access mode permits reading (`O_RDONLY` or `O_RDWR`).
    #[inline]
    pub const fn can_read(self) -> bool {
        self.bits() & 3 == 0 || self.bits() & 3 == 2
    }

    /// Whether the access mode permits writing (`O_WRONLY` or `O_RDWR`).
    #[inline]
    pub const fn can_write(self) -> bool {
        self.bits() & 3 == 1 || self.bits() & 3 == 2
    }
}

bitflags! {
    /// `AT_*` flags of the `*at` calls (openat(2), fstatat(2), linkat(2), ...).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct AtFlags: u32 {
        const SYMLINK_NOFOLLOW = 0x100;
        const REMOVEDIR_OR_EACCESS = 0x200;
        const SYMLINK_FOLLOW = 0x400;
        const NO_AUTOMOUNT = 0x800;
        const EMPTY_PATH = 0x1000;
        const STATX_FORCE_SYNC = 0x2000;
        const STATX_DONT_SYNC = 0x4000;
        const RECURSIVE = 0x8000;
        const EXECVE_CHECK = 0x1_0000;
    }
}

/// The directory file descriptor that means the current directory (openat(2)).
pub const AT_FDCWD: i32 = -100;

/// Longest path, with its final NUL (limits.h `PATH_MAX`).
pub const PATH_MAX: usize = 4096;
/// Longest file name (limits.h `NAME_MAX`).
pub const NAME_MAX: usize = 255;

/// The file-type bits of a mode (inode(7)).
pub const S_IFMT: u32 = 0o170000;
/// Socket.
pub const S_IFSOCK: u32 = 0o140000;
/// Symbolic link.
pub const S_IFLNK: u32 = 0o120000;
/// Regular file.
pub const S_IFREG: u32 = 0o100000;
/// Block device.
pub const S_IFBLK: u32 = 0o060000;
/// Directory.
pub const S_IFDIR: u32 = 0o040000;
/// Character device.
pub const S_IFCHR: u32 = 0o020000;
/// FIFO.
pub const S_IFIFO: u32 = 0o010000;
/// Set-user-ID bit.
pub const S_ISUID: u32 = 0o4000;
/// Set-group-ID bit.
pub const S_ISGID: u32 = 0o2000;
/// Sticky bit.
pub const S_ISVTX: u32 = 0o1000;

/// `struct stat` of stat(2).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Stat {
    pub st_dev: u64,
    pub st_ino: u64,
    pub st_nlink: u64,
    pub st_mode: u32,
    pub st_uid: u32,
    pub st_gid: u32,
    pub pad0: u32,
    pub st_rdev: u64,
    pub st_size: i64,
    pub st_blksize: i64,
    pub st_blocks: i64,
    pub st_atime: i64,
    pub st_atime_nsec: u64,
    pub st_mtime: i64,
    pub st_mtime_nsec: u64,
    pub st_ctime: i64,
    pub st_ctime_nsec: u64,
    pub unused: [i64; 3],
}

/// `struct statx` of statx(2), 256 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Statx {
    pub stx_mask: u32,
    pub stx_blksize: u32,
    pub stx_attributes: u64,
    pub stx_nlink: u32,
    pub stx_uid: u32,
    pub stx_gid: u32,
    pub stx_mode: u16,
    pub spare0: u16,
    pub stx_ino: u64,
    pub stx_size: u64,
    pub stx_blocks: u64,
    pub stx_attributes_mask: u64,
    pub stx_atime: StatxTimestamp,
    pub stx_btime: StatxTimestamp,
    pub stx_ctime: StatxTimestamp,
    pub stx_mtime: StatxTimestamp,
    pub stx_rdev_major: u32,
    pub stx_rdev_minor: u32,
    pub stx_dev_major: u32,
    pub stx_dev_minor: u32,
    pub stx_mnt_id: u64,
    pub stx_dio_mem_align: u32,
    pub stx_dio_offset_align: u32,
    pub stx_subvol: u64,
    pub stx_atomic_write_unit_min: u32,
    pub stx_atomic_write_unit_max: u32,
    pub stx_atomic_write_segments_max: u32,
    pub stx_dio_read_offset_align: u32,
    pub stx_atomic_write_unit_max_opt: u32,
    pub spare2: u32,
    pub spare3: [u64; 8],
}

/// `struct statfs` of statfs(2).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Statfs {
    pub f_type: i64,
    pub f_bsize: i64,
    pub f_blocks: u64,
    pub f_bfree: u64,
    pub f_bavail: u64,
    pub f_files: u64,
    pub f_ffree: u64,
    pub f_fsid: [i32; 2],
    pub f_namelen: i64,
    pub f_frsize: i64,
    pub f_flags: i64,
    pub f_spare: [i64; 4],
}

/// `struct flock` of fcntl(2) `F_GETLK`, `F_SETLK` and their OFD forms.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Flock {
    pub l_type: i16,
    pub l_whence: i16,
    pub pad0: u32,
    pub l_start: i64,
    pub l_len: i64,
    pub l_pid: i32,
    pub pad1: u32,
}

/// `struct f_owner_ex` of fcntl(2) `F_SETOWN_EX`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FOwnerEx {
    pub kind: i32,
    pub pid: i32,
}

/// `struct statmount` without the strings behind it (include/uapi/linux/mount.h). Fields that name a string hold its
/// offset among them.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are those of statmount(2)")]
pub struct StatMount {
    pub size: u32,
    pub mnt_opts: u32,
    pub mask: u64,
    pub sb_dev_major: u32,
    pub sb_dev_minor: u32,
    pub sb_magic: u64,
    pub sb_flags: u32,
    pub fs_type: u32,
    pub mnt_id: u64,
    pub mnt_parent_id: u64,
    pub mnt_id_old: u32,
    pub mnt_parent_id_old: u32,
    pub mnt_attr: u64,
    pub mnt_propagation: u64,
    pub mnt_peer_group: u64,
    pub mnt_master: u64,
    pub propagate_from: u64,
    pub mnt_root: u32,
    pub mnt_point: u32,
    pub mnt_ns_id: u64,
    pub fs_subtype: u32,
    pub sb_source: u32,
    pub opt_num: u32,
    pub opt_array: u32,
    pub opt_sec_num: u32,
    pub opt_sec_array: u32,
    pub supported_mask: u64,
    pub mnt_uidmap_num: u32,
    pub mnt_uidmap: u32,
    pub mnt_gidmap_num: u32,
    pub mnt_gidmap: u32,
    pub spare: [u64; 43],
}

impl Default for StatMount {
    fn default() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }
}

const _: () = assert!(size_of::<StatMount>() == 512);

/// `struct mount_attr` of mount_setattr(2), its first version.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RawMountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub attr_set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub attr_clr: u64,
    /// `MS_SHARED` and its kind, or 0.
    pub propagation: u64,
    /// Descriptor of a user namespace, for identity-mapped mounts.
    pub userns_fd: u64,
}

/// `struct mnt_id_req` of statmount(2) and listmount(2).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MntIdReq {
    /// Size of the structure in bytes.
    pub size: u32,
    /// Descriptor of a mount namespace, or 0; with `STATMOUNT_BY_FD` one on the mount.
    pub mnt_ns_fd: u32,
    /// Unique id of a mount.
    pub mnt_id: u64,
    /// `STATMOUNT_*`, or the id to go on after.
    pub param: u64,
    /// Id of a mount namespace, or 0 for the caller's.
    pub mnt_ns_id: u64,
}

/// `struct xattr_args`, its first version (include/uapi/linux/xattr.h).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct XattrArgs {
    /// Address of the value.
    pub value: u64,
    /// Size of the value in bytes.
    pub size: u32,
    /// `XATTR_CREATE`, `XATTR_REPLACE`.
    pub flags: u32,
}

/// `struct fsxattr` (include/uapi/linux/fs.h).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FsXattr {
    /// `FS_XFLAG_*`.
    pub xflags: u32,
    /// Extent size hint, in bytes.
    pub extsize: u32,
    /// Number of extents.
    pub nextents: u32,
    /// Project id.
    pub projid: u32,
    /// Extent size hint of copies on write, in bytes.
    pub cowextsize: u32,
    /// Zero.
    pub pad: [u8; 8],
}

/// `struct file_attr`, its first version (include/uapi/linux/fs.h).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RawFileAttr {
    /// `FS_XFLAG_*`.
    pub xflags: u64,
    /// Extent size hint, in bytes.
    pub extsize: u32,
    /// Number of extents.
    pub nextents: u32,
    /// Project id.
    pub projid: u32,
    /// Extent size hint of copies on write, in bytes.
    pub cowextsize: u32,
}

/// `struct open_how` of openat2(2).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OpenHow {
    pub flags: u64,
    pub mode: u64,
    pub resolve: u64,
}

bitflags! {
    /// `RESOLVE_*` flags of openat2(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct ResolveFlags: u64 {
        const NO_XDEV = 0x01;
        const NO_MAGICLINKS = 0x02;
        const NO_SYMLINKS = 0x04;
        const BENEATH = 0x08;
        const IN_ROOT = 0x10;
        const CACHED = 0x20;
    }

    /// `RENAME_*` flags of renameat2(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct RenameFlags: u32 {
        const NOREPLACE = 1;
        const EXCHANGE = 2;
        const WHITEOUT = 4;
    }
}

/// The fixed head of `struct linux_dirent64` (getdents64(2)); the NUL-terminated name follows at byte 19.
pub const DIRENT64_NAME_OFFSET: usize = 19;

/// Packs a device number as `st_rdev` shows it (makedev(3)).
#[inline]
pub const fn makedev(major: u32, minor: u32) -> u64 {
    let (major, minor) = (major as u64, minor as u64);
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12) | ((major & !0xfff) << 32)
}

/// The major number in a device number (major(3)).
#[inline]
pub const fn major(dev: u64) -> u32 {
    (((dev >> 8) & 0xfff) | ((dev >> 32) & !0xfff)) as u32
}

/// The minor number in a device number (minor(3)).
#[inline]
pub const fn minor(dev: u64) -> u32 {
    ((dev & 0xff) | ((dev >> 12) & !0xff)) as u32
}

const _: () = assert!(size_of::<Stat>() == 144 && size_of::<Statx>() == 256 && size_of::<Statfs>() == 120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_packing() {
        for (maj, min) in [(1, 3), (4, 64), (0xfff, 0xff), (0x1234, 0x56789)] {
            assert_eq!((major(makedev(maj, min)), minor(makedev(maj, min))), (maj, min));
        }
        assert_eq!(makedev(8, 1), 0x801);
    }
}
