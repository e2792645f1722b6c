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
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use abi::fs::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, Statx};
use abi::time::Timespec;
use abi::{Errno, Result};
use bitflags::bitflags;
use hal::sync::{Once, SeqLock, SpinLock};
use mm::Mapping;
use sched::RwSem;
use security::Cred;

use crate::dentry::Dentry;
use crate::dev::DirectAlign;
use crate::file::FileOps;
use crate::file_attr::FileAttr;
use crate::lock::FileLocks;
use crate::notify::Marks;
use crate::path::Path;
use crate::pipe::Pipe;
use crate::superblock::SuperBlock;
use crate::time;
use crate::xattr::Store;

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

/// What a new inode shall be.
#[derive(Clone, Copy, Debug)]
pub struct NewInode<'a> {
    /// Type and permissions, after umask and setgid rules.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of device nodes.
    pub rdev: u64,
    /// Target of a symbolic link.
    pub target: &'a [u8],
}

/// A change of attributes (Linux: `struct iattr`). Checked by the VFS before [`InodeOps::set_attr`] sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// New permission bits with the unchanged type.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<Timespec>,
    /// New modification time.
    pub mtime: Option<Timespec>,
    /// New change time; always set.
    pub ctime: Timespec,
}

/// Where a symbolic link leads.
pub enum Link {
    /// A path to walk.
    Target(Vec<u8>),
    /// An object itself: the links in /proc/PID/fd, `exe`, `cwd` and `root`.
    Magic(Path),
}

/// The two ends of a rename.
pub struct Rename<'a> {
    /// Directory that holds the old name.
    pub old_dir: &'a Arc<Inode>,
    /// Old name.
    pub old_name: &'a [u8],
    /// What the old name leads to.
    pub inode: &'a Arc<Inode>,
    /// Directory of the new name.
    pub new_dir: &'a Arc<Inode>,
    /// New name.
    pub new_name: &'a [u8],
    /// What the new name led to: replaced, or exchanged.
    pub target: Option<&'a Arc<Inode>>,
    /// How.
    pub kind: RenameKind,
}

/// What happens to the names in a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameKind {
    /// The new name replaces what was there.
    Move,
    /// Both names swap (`RENAME_EXCHANGE`).
    Exchange,
    /// As `Move`, leaving a whiteout device at the old name (`RENAME_WHITEOUT`).
    Whiteout,
}

/// How an extended attribute is to be set (setxattr(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Create or replace.
    Any,
    /// `XATTR_CREATE`: `EEXIST` if it is there.
    Create,
    /// `XATTR_REPLACE`: `ENODATA` if it is not.
    Replace,
    /// Both at once: `EEXIST` if it is there, `ENODATA` if it is not.
    Never,
}

impl XattrMode {
    /// Whether an attribute that is there, or is not, may be set so. `EEXIST`, `ENODATA`.
    pub fn check(self, exists: bool) -> Result<()> {
        match (self, exists) {
            (Self::Create | Self::Never, true) => Err(Errno::EEXIST),
            (Self::Replace | Self::Never, false) => Err(Errno::ENODATA),
            _ => Ok(()),
        }
    }
}

/// A file system's part of an inode.
///
/// Defaults are what Linux answers for an operation that a file system does not have. Directory changes are called
/// with `dir.sem` held for writing, `lookup` with it held for reading or writing; names are valid, at most 255
/// bytes, and the caller has checked that a new name is free and an old one exists.
pub trait InodeOps: Any + Send + Sync {
    /// Finds `name` in `dir`; `None` if it is not there.
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let _ = (dir, name);
        Err(Errno::ENOTDIR)
    }

    /// Makes the file, directory, link or device `new` as `name`.
    fn create(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        let _ = (dir, name, new);
        Err(Errno::EPERM)
    }

    /// Makes an unnamed regular file (`O_TMPFILE`); its link count is 0.
    fn tmpfile(&self, dir: &Arc<Inode>, new: &NewInode<'_>) -> Result<Arc<Inode>> {
        let _ = (dir, new);
        Err(Errno::EOPNOTSUPP)
    }

    /// Gives `inode` the further name `name`.
    fn link(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        let _ = (dir, name, inode);
        Err(Errno::EPERM)
    }

    /// Removes the name of something that is not a directory.
    fn unlink(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        let _ = (dir, name, inode);
        Err(Errno::EPERM)
    }

    /// Removes an empty directory. `ENOTEMPTY` if it is not.
    fn rmdir(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        let _ = (dir, name, inode);
        Err(Errno::EPERM)
    }

    /// Renames. `ENOTEMPTY`: the target is a directory with entries.
    fn rename(&self, rename: &Rename<'_>) -> Result<()> {
        let _ = rename;
        Err(Errno::EPERM)
    }

    /// Whether a cached entry still is what `lookup` would give; asked in [`InodeFlags::VOLATILE`] directories.
    fn revalidate(&self, dir: &Arc<Inode>, name: &[u8], inode: Option<&Arc<Inode>>) -> bool {
        let _ = (dir, name, inode);
        true
    }

    /// Where the symbolic link leads. `walker` is who follows or reads it (/proc/self needs to know).
    fn read_link(&self, inode: &Arc<Inode>) -> Result<Link> {
        let _ = inode;
        Err(Errno::EINVAL)
    }

    /// What `O_DIRECT` asks for on the file `inode`; `None`: reads and writes go through the page cache.
    fn direct_align(&self, inode: &Inode) -> Option<DirectAlign> {
        let _ = inode;
        None
    }

    /// What readlink(2) shows; magic links override it, as their name need not lead back to them.
    fn link_text(&self, inode: &Arc<Inode>) -> Result<Vec<u8>> {
        match self.read_link(inode)? {
            Link::Target(text) => Ok(text),
            Link::Magic(_) => Err(Errno::EINVAL),
        }
    }

    /// The target of a symbolic link that lies in memory, for the walk that takes no locks.
    fn link_in_memory(&self) -> Option<&[u8]> {
        None
    }

    /// Opens; gives the operations of the new open file description.
    ///
    /// Device nodes, FIFOs and sockets never get here: the VFS opens them itself.
    fn open(&self, inode: &Arc<Inode>, file: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        let _ = (inode, file);
        Err(Errno::ENXIO)
    }

    /// Changes attributes. The default stores them; file systems with a size override it.
    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        if change.size.is_some() {
            return Err(Errno::EINVAL);
        }
        inode.apply(change);
        Ok(())
    }

    /// Told after the VFS changed times by itself: a read or a write.
    fn times_changed(&self, inode: &Arc<Inode>) {
        let _ = inode;
    }

    /// Corrects `stat` beyond what the [`Inode`] knows, and may refresh the inode first.
    fn get_attr(&self, inode: &Arc<Inode>, stat: &mut Statx) -> Result<()> {
        let _ = (inode, stat);
        Ok(())
    }

    /// Decides an access when [`InodeFlags::OWN_PERMISSION`] is set.
    fn permission(&self, inode: &Inode, cred: &Cred, wanted: security::Access) -> Result<()> {
        security::inode_permission(cred, &inode.ids(), wanted)
    }

    /// Where extended attributes are kept, for files that live in memory only: what the four functions below then use.
    fn xattr_store(&self) -> Option<&Store> {
        None
    }

    /// The value of extended attribute `name`. `ENODATA` if there is none.
    fn get_xattr(&self, inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        let _ = inode;
        self.xattr_store().ok_or(Errno::EOPNOTSUPP)?.get(name)
    }

    /// Sets an extended attribute.
    fn set_xattr(&self, inode: &Inode, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        let _ = inode;
        self.xattr_store().ok_or(Errno::EOPNOTSUPP)?.set(name, value, mode)
    }

    /// Removes an extended attribute. `ENODATA` if there is none.
    fn remove_xattr(&self, inode: &Inode, name: &[u8]) -> Result<()> {
        let _ = inode;
        self.xattr_store().ok_or(Errno::EOPNOTSUPP)?.remove(name)
    }

    /// All names of extended attributes, each followed by a NUL.
    fn list_xattr(&self, inode: &Inode) -> Result<Vec<u8>> {
        let _ = inode;
        self.xattr_store().map_or_else(|| Ok(Vec::new()), Store::list)
    }

    /// Flags and project id (ioctl_iflags(2)). `ENOIOCTLCMD`: the file system keeps none.
    fn file_attr(&self, inode: &Inode) -> Result<FileAttr> {
        let _ = inode;
        Err(Errno::ENOIOCTLCMD)
    }

    /// Stores them, and what [`crate::file_attr::inode_flags`] tells in the inode. Called with `inode.sem` held for
    /// writing. `EOPNOTSUPP`: one that it does not keep.
    fn set_file_attr(&self, inode: &Inode, attr: &FileAttr) -> Result<()> {
        let _ = (inode, attr);
        Err(Errno::ENOIOCTLCMD)
    }
}

/// What [`InodeOps::open`] is told.
pub struct OpenRequest<'a> {
    /// The flags of open(2).
    pub flags: abi::fs::OpenFlags,
    /// Who opens.
    pub cred: &'a Arc<Cred>,
    /// The name by which it is opened.
    pub path: &'a Path,
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

    /// Counts one more open description that may write. `ETXTBSY`: it is being executed.
    pub fn get_write_access(&self) -> Result<()> {
        self.writers
            .fetch_update(Relaxed, Relaxed, |n| (n >= 0).then(|| n + 1))
            .map(|_| ())
            .map_err(|_| Errno::ETXTBSY)
    }

    /// Undoes [`Inode::get_write_access`].
    pub fn put_write_access(&self) {
        self.writers.fetch_sub(1, Relaxed);
    }

    /// Forbids writing while the result lives: a program runs from it. `ETXTBSY`: someone may write.
    pub fn deny_write_access(self: &Arc<Self>) -> Result<DenyWrite> {
        self.writers
            .fetch_update(Relaxed, Relaxed, |n| (n <= 0).then(|| n - 1))
            .map(|_| DenyWrite(self.clone()))
            .map_err(|_| Errno::ETXTBSY)
    }

    /// Counts one more open description that can only read.
    pub(crate) fn add_reader(&self) {
        self.readers.fetch_add(1, SeqCst);
    }

    /// Undoes [`Inode::add_reader`].
    pub(crate) fn remove_reader(&self) {
        self.readers.fetch_sub(1, Relaxed);
    }

    /// How many open descriptions can only read, of a regular file.
    pub fn nr_readers(&self) -> u32 {
        self.readers.load(SeqCst)
    }

    /// How many open descriptions may write.
    pub fn nr_writers(&self) -> u32 {
        u32::try_from(self.writers.load(Relaxed)).unwrap_or(0)
    }
}

impl core::fmt::Debug for Inode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Inode({}:{} {:o})", self.sb.fs_type().name(), self.ino, self.mode())
    }
}

/// Keeps an inode as it is while it lives, since swap goes to its blocks: writes, cuts and fallocate(2) get `ETXTBSY`, and
/// its names stay (`EPERM`).
pub struct SwapUse(Arc<Inode>);

impl SwapUse {
    /// Waits for writes that have begun. `EINVAL`: not a regular file. `EBUSY`: swap goes there.
    pub fn begin(inode: &Arc<Inode>) -> Result<SwapUse> {
        if !inode.is_regular() {
            return Err(Errno::EINVAL);
        }
        let _exclusive = inode.sem.write();
        let old = inode.flags.fetch_or(InodeFlags::SWAPFILE.bits(), Relaxed);
        if InodeFlags::from_bits_retain(old).contains(InodeFlags::SWAPFILE) {
            return Err(Errno::EBUSY);
        }
        Ok(SwapUse(inode.clone()))
    }
}

impl Drop for SwapUse {
    fn drop(&mut self) {
        self.0.set_flags(InodeFlags::empty(), InodeFlags::SWAPFILE);
    }
}

/// Forbids writing to an inode while it lives.
pub struct DenyWrite(Arc<Inode>);

impl Drop for DenyWrite {
    fn drop(&mut self) {
        self.0.writers.fetch_add(1, Relaxed);
    }
}

impl Clone for DenyWrite {
    fn clone(&self) -> Self {
        // One denial exists, so the count is negative and another is always granted.
        self.0.writers.fetch_sub(1, Relaxed);
        Self(self.0.clone())
    }
}
