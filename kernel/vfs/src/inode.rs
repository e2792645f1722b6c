//! Inodes: what a file is, whatever its names.
//!
//! The [`Inode`] holds the attributes that every file system has, readable without a lock, and the file system's own
//! part behind [`InodeOps`]. A file system makes inodes with [`Inode::new`] and hands them out from
//! [`InodeOps::lookup`] and [`InodeOps::create`]; the VFS checks permissions, limits and name rules before it calls.
//!
//! # Locks
//!
//! `Inode::sem` (Linux: `i_rwsem`) is held for writing by the VFS around every change of a directory's entries and
//! around writes, truncation and attribute changes of files; for reading around lookups and directory listings. The
//! order among inodes is: ancestors before descendants, then by address (see `namespace`).
//! Attributes are single atomics: readers see each value whole, not a consistent set, as on Linux. Times are a
//! sequence lock.
//!
//! Sources: inode(7), Documentation/filesystems/locking.rst (Linux 7.2).

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::fs::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use abi::time::Timespec;
use bitflags::bitflags;
use hal::sync::{Once, SeqLock, SpinLock};
use mm::Mapping;
use sched::RwSem;

use crate::dentry::Dentry;
use crate::lock::FileLocks;
use crate::notify::Marks;
use crate::pipe::Pipe;
use crate::superblock::SuperBlock;
use crate::time;

mod access;
mod ops;

pub use access::{DenyWrite, SwapUse};
pub use ops::{InodeOps, Link, NewInode, OpenRequest, Rename, RenameKind, SetAttr, XattrMode};

/// The kind of a file: the type bits of its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Socket.
    Socket,
    /// Symbolic link.
    Symlink,
    /// Regular file.
    Regular,
    /// Block device.
    Block,
    /// Directory.
    Directory,
    /// Character device.
    Char,
    /// FIFO.
    Fifo,
    /// None of these: anonymous inodes.
    Other,
}

impl FileKind {
    /// The kind that a mode's type bits name.
    #[inline]
    pub const fn from_mode(mode: u32) -> Self {
        match mode & S_IFMT {
            abi::fs::S_IFSOCK => Self::Socket,
            S_IFLNK => Self::Symlink,
            S_IFREG => Self::Regular,
            abi::fs::S_IFBLK => Self::Block,
            S_IFDIR => Self::Directory,
            abi::fs::S_IFCHR => Self::Char,
            abi::fs::S_IFIFO => Self::Fifo,
            _ => Self::Other,
        }
    }

    /// `d_type` of getdents64(2).
    #[inline]
    pub const fn dirent_type(self) -> u8 {
        match self {
            Self::Socket => 12,
            Self::Symlink => 10,
            Self::Regular => 8,
            Self::Block => 6,
            Self::Directory => 4,
            Self::Char => 2,
            Self::Fifo => 1,
            Self::Other => 0,
        }
    }
}

/// The time stamps of an inode.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Last access.
    pub atime: Timespec,
    /// Last change of the data.
    pub mtime: Timespec,
    /// Last change of the inode.
    pub ctime: Timespec,
    /// Creation.
    pub btime: Timespec,
}

bitflags! {
    /// Properties of an inode that steer the VFS.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct InodeFlags: u32 {
        /// Access times are not kept.
        const NOATIME = 1 << 0;
        /// No permission or attribute may change and no data be written (`STATX_ATTR_IMMUTABLE`).
        const IMMUTABLE = 1 << 1;
        /// Data may only be appended (`STATX_ATTR_APPEND`).
        const APPEND = 1 << 2;
        /// [`InodeOps::permission`] decides instead of the mode bits; the fast walk leaves such directories alone.
        const OWN_PERMISSION = 1 << 3;
        /// Names in this directory may change by themselves: cached entries are asked for again
        /// ([`InodeOps::revalidate`]). For /proc.
        const VOLATILE = 1 << 4;
        /// Kernel-internal: pipes, sockets and anonymous inodes; no write access to count, no times to keep.
        const ANONYMOUS = 1 << 5;
        /// A directory that was removed: nothing can be made in it any more.
        const DEAD = 1 << 6;
        /// Made by `O_TMPFILE` without `O_EXCL`: linkat(2) may give it its first name.
        const LINKABLE = 1 << 7;
        /// It has an access list (`acl`), which permission checks ask.
        const ACL = 1 << 8;
        /// A directory with a default list, which new entries inherit.
        const DEFAULT_ACL = 1 << 9;
        /// Swap goes there ([`SwapUse`]): the file keeps its blocks, its bytes and its names.
        const SWAPFILE = 1 << 10;
        /// Known to have no capabilities (`security.capability`), so that writes need not ask. Set and cleared under `sem`.
        const NO_CAPS = 1 << 11;
        /// A directory that an overlay writes to: no other one is to.
        const CLAIMED = 1 << 12;
    }
}

/// A file, directory, link, device, FIFO, socket or anonymous object.
pub struct Inode {
    ino: u64,
    sb: Arc<SuperBlock>,
    mode: AtomicU32,
    uid: AtomicU32,
    gid: AtomicU32,
    nlink: AtomicU32,
    flags: AtomicU32,
    size: AtomicU64,
    rdev: u64,
    times: SeqLock<Times>,
    generation: u32,
    ops: Box<dyn InodeOps>,
    mapping: Option<Arc<Mapping>>,
    /// Serialises changes; see the module's front page.
    pub sem: RwSem<()>,
    /// Open descriptions that may write if positive; what forbids writing (a running program) if negative.
    writers: AtomicI32,
    /// Open descriptions that can only read, of a regular file.
    readers: AtomicU32,
    locks: Once<Box<FileLocks>>,
    fifo: Once<Arc<Pipe>>,
    marks: Marks,
    /// Of a directory: the dentry that it is shown through.
    shown: SpinLock<Weak<Dentry>>,
}

/// What [`Inode::new`] needs to know beside the operations.
pub struct InodeInit {
    /// Inode number, not 0.
    pub ino: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Link count.
    pub nlink: u32,
    /// Size in bytes.
    pub size: u64,
    /// Device number of device nodes.
    pub rdev: u64,
    /// All four times.
    pub times: Times,
    /// Properties.
    pub flags: InodeFlags,
}

impl InodeInit {
    /// Root's inode of `mode` with number `ino`, made now; change what differs.
    pub fn new(ino: u64, mode: u32) -> Self {
        let now = time::now();
        Self {
            ino,
            mode,
            uid: 0,
            gid: 0,
            nlink: if mode & S_IFMT == S_IFDIR { 2 } else { 1 },
            size: 0,
            rdev: 0,
            times: Times { atime: now, mtime: now, ctime: now, btime: now },
            flags: InodeFlags::empty(),
        }
    }
}

impl Inode {
    /// Makes an inode of `sb`. `mapping` is the page cache of files that have one.
    pub fn new(
        sb: &Arc<SuperBlock>,
        init: InodeInit,
        ops: Box<dyn InodeOps>,
        mapping: Option<Arc<Mapping>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            ino: init.ino,
            sb: sb.clone(),
            mode: AtomicU32::new(init.mode),
            uid: AtomicU32::new(init.uid),
            gid: AtomicU32::new(init.gid),
            nlink: AtomicU32::new(init.nlink),
            flags: AtomicU32::new(init.flags.bits()),
            size: AtomicU64::new(init.size),
            rdev: init.rdev,
            times: SeqLock::new("vfs.inode.times", init.times),
            generation: 0,
            ops,
            mapping,
            sem: RwSem::new(
                if sb.fs_type().is_stacked() { "vfs.inode.stacked" } else { "vfs.inode.sem" },
                (),
            ),
            writers: AtomicI32::new(0),
            readers: AtomicU32::new(0),
            locks: Once::new(),
            fifo: Once::new(),
            marks: Marks::new(),
            shown: SpinLock::new("vfs.inode.shown", Weak::new()),
        })
    }

    /// The dentry of this directory in `parent`, if it has one; else `dentry` becomes that. `parent`'s `sem` is held.
    pub(crate) fn show_through(&self, parent: &Arc<Dentry>, dentry: &Arc<Dentry>) -> Option<Arc<Dentry>> {
        let mut shown = self.shown.lock();
        let there = shown.upgrade();
        let is_here = |there: &Arc<Dentry>| {
            let guard = hal::rcu::read_lock();
            let is_in = there.place(&guard).parent.as_ref().is_some_and(|other| Arc::ptr_eq(other, parent));
            is_in && !there.is_deleted()
        };
        // What is given up is let go of with the lock open.
        let (kept, old) = match there {
            Some(there) if is_here(&there) => (Some(there), None),
            other => {
                *shown = Arc::downgrade(dentry);
                (None, other)
            }
        };
        drop(shown);
        drop(old);
        kept
    }

    /// Inode number.
    #[inline]
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// The file system it belongs to.
    #[inline]
    pub fn sb(&self) -> &Arc<SuperBlock> {
        &self.sb
    }

    /// Type and permission bits.
    pub fn mode(&self) -> u32 {
        self.mode.load(Relaxed)
    }

    /// The kind of file.
    pub fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode())
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.mode() & S_IFMT == S_IFDIR
    }

    /// Whether it is a regular file.
    pub fn is_regular(&self) -> bool {
        self.mode() & S_IFMT == S_IFREG
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.mode() & S_IFMT == S_IFLNK
    }

    /// Owner.
    pub fn uid(&self) -> u32 {
        self.uid.load(Relaxed)
    }

    /// Group.
    pub fn gid(&self) -> u32 {
        self.gid.load(Relaxed)
    }

    /// Number of names.
    pub fn nlink(&self) -> u32 {
        self.nlink.load(Relaxed)
    }

    /// Sets the number of names; for file systems.
    pub fn set_nlink(&self, nlink: u32) {
        self.nlink.store(nlink, Relaxed);
    }

    /// Adds `delta` to the number of names, not below 0; for file systems, with `sem` held.
    pub fn add_nlink(&self, delta: i32) {
        self.nlink.store(self.nlink().saturating_add_signed(delta), Relaxed);
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        match &self.mapping {
            Some(mapping) => mapping.size(),
            None => self.size.load(Relaxed),
        }
    }

    /// Sets the size of what has no page cache; for file systems, with `sem` held. A [`Mapping`] keeps its own.
    pub fn set_size(&self, size: u64) {
        self.size.store(size, Relaxed);
    }

    /// Device number of a device node.
    pub fn rdev(&self) -> u64 {
        self.rdev
    }

    /// Generation number, for file handles.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Properties.
    pub fn flags(&self) -> InodeFlags {
        InodeFlags::from_bits_retain(self.flags.load(Relaxed))
    }

    /// Adds and removes properties.
    pub fn set_flags(&self, add: InodeFlags, remove: InodeFlags) {
        self.flags.fetch_or(add.bits(), Relaxed);
        self.flags.fetch_and(!remove.bits(), Relaxed);
    }

    /// The time stamps.
    pub fn times(&self) -> Times {
        self.times.read()
    }

    /// Changes the time stamps.
    pub fn update_times(&self, change: impl FnOnce(&mut Times)) {
        self.times.write(change);
    }

    /// Sets the modification and change times to now: after a change of the data.
    pub fn touch_mtime(&self) {
        let now = time::now();
        let times = self.times.read();
        // The clock is coarse, so most writes of a burst find nothing to do.
        if times.mtime != now || times.ctime != now {
            self.update_times(|t| (t.mtime, t.ctime) = (now, now));
        }
    }

    /// Sets the change time to now: after a change of the inode.
    pub fn touch_ctime(&self) {
        let now = time::now();
        self.update_times(|t| t.ctime = now);
    }

    /// Owner, group and mode for a permission check.
    pub fn ids(&self) -> security::Ids {
        security::Ids { uid: self.uid(), gid: self.gid(), mode: self.mode() }
    }

    /// The file system's part.
    pub fn ops(&self) -> &dyn InodeOps {
        &*self.ops
    }

    /// The file system's part as the type that it is, if it is that.
    pub fn ops_as<T: InodeOps>(&self) -> Option<&T> {
        (&*self.ops as &dyn Any).downcast_ref()
    }

    /// The page cache of its data.
    #[inline]
    pub fn mapping(&self) -> Option<&Arc<Mapping>> {
        self.mapping.as_ref()
    }

    /// Stores all of `change` but the size.
    pub fn apply(&self, change: &SetAttr) {
        if let Some(mode) = change.mode {
            self.mode.store(mode, Relaxed);
        }
        if let Some(uid) = change.uid {
            self.uid.store(uid, Relaxed);
        }
        if let Some(gid) = change.gid {
            self.gid.store(gid, Relaxed);
        }
        self.update_times(|t| {
            t.atime = change.atime.unwrap_or(t.atime);
            t.mtime = change.mtime.unwrap_or(t.mtime);
            t.ctime = change.ctime;
        });
    }

    /// The locks on this file; made at first use.
    pub fn locks(&self) -> &FileLocks {
        self.locks.call_once(|| Box::new(FileLocks::new()))
    }

    /// The locks on this file, if there ever were any.
    pub fn locks_if_any(&self) -> Option<&FileLocks> {
        self.locks.get().map(|locks| &**locks)
    }

    /// The pipe behind a FIFO; made at first use.
    pub(crate) fn fifo(&self) -> &Arc<Pipe> {
        self.fifo.call_once(Pipe::new_fifo)
    }

    /// Who watches this inode.
    #[inline]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }
}

impl core::fmt::Debug for Inode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Inode({}:{} {:o})", self.sb.fs_type().name(), self.ino, self.mode())
    }
}
