//! File systems: their types, and the mounted instances (superblocks).

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU32, Ordering::*};

use abi::fs::Statfs;
use abi::{Errno, Result};
use bitflags::bitflags;
use hal::sync::Once;
use sched::Mutex;
use security::{Cap, Cred, UserNs};

use crate::dcache;
use crate::dentry::Dentry;
use crate::file::File;
use crate::fs_context::WalkContext;
use crate::handle::Export;
use crate::inode::Inode;
use crate::notify::Marks;
use crate::params::Param;

bitflags! {
    /// Flags of a superblock, with the numbers of mount(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct SbFlags: u32 {
        /// Nothing may be written.
        const RDONLY = 1;
        /// Every write goes through to the medium.
        const SYNCHRONOUS = 16;
        /// Times are kept in memory for long.
        const LAZYTIME = 1 << 25;
    }
}

/// What a file system is asked to mount.
pub struct MountRequest<'a> {
    /// The first argument of mount(2): a device, or just a word.
    pub source: &'a [u8],
    /// Options of the file system, separated by commas.
    pub data: &'a [u8],
    /// Options that are open files (fsconfig(2)), with their names.
    pub files: &'a [(Vec<u8>, Arc<File>)],
    /// Flags of the superblock.
    pub flags: SbFlags,
    /// The user namespace that it is for: the caller's, or that of who began a context that others complete.
    pub user_ns: &'a UserNs,
    /// Who mounts, and how names in `data` are found.
    pub ctx: &'a WalkContext<'a>,
}

/// A kind of file system.
pub trait FileSystemType: Send + Sync {
    /// Its name in mount(2) and /proc/filesystems.
    fn name(&self) -> &'static str;

    /// Whether it lives on a block device.
    fn needs_device(&self) -> bool {
        false
    }

    /// Whether it has something to write out, which sync(2) asks for and umount(2) waits for.
    fn writes_back(&self) -> bool {
        self.needs_device()
    }

    /// Whether it shows other file systems, so that its locks are taken before theirs.
    fn is_stacked(&self) -> bool {
        false
    }

    /// Whether root of any user namespace may mount it.
    fn is_for_user_ns(&self) -> bool {
        false
    }

    /// Whether it has one instance, which is the machine's whoever mounts it: only who has rights over the machine changes
    /// its options.
    fn is_global(&self) -> bool {
        false
    }

    /// Whether its mounts can show other owners than it keeps (`MOUNT_ATTR_IDMAP`).
    fn allows_idmap(&self) -> bool {
        false
    }

    /// Its parameters: the options of mount(2), and what fsconfig(2) may set.
    fn params(&self) -> &'static [Param] {
        &[]
    }

    /// Whether option `key` is a file, which fsconfig(2) gives by descriptor or by path. Such options are for new
    /// superblocks only.
    fn takes_file(&self, key: &[u8]) -> bool {
        let _ = key;
        false
    }

    /// Whether `file` can be such an option. Errors as `mount` gives them.
    fn check_file(&self, key: &[u8], file: &File, ctx: &WalkContext<'_>) -> Result<()> {
        let _ = (key, file, ctx);
        Err(Errno::EINVAL)
    }

    /// Mounts; gives the root. File systems with one instance give the same root each time.
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<Dentry>>;
}

/// A file system's part of a superblock.
pub trait SuperOps: Any + Send + Sync {
    /// statfs(2); type, block size, name length and flags are filled in by the VFS if they are 0.
    fn statfs(&self, sb: &SuperBlock) -> Result<Statfs> {
        let _ = sb;
        Ok(Statfs::default())
    }

    /// Appends options as /proc/mounts shows them, each with a leading comma.
    fn show_options(&self, sb: &SuperBlock, out: &mut Vec<u8>) {
        let _ = (sb, out);
    }

    /// The path of a mount's root in /proc/PID/mountinfo, where it is not that of names in the file system. An error is that of
    /// the reader.
    fn show_root(&self, root: &Arc<Inode>) -> Result<Option<Vec<u8>>> {
        let _ = root;
        Ok(None)
    }

    /// Changes options (`MS_REMOUNT`). `EINVAL`: an unknown or impossible option.
    fn remount(&self, sb: &SuperBlock, data: &[u8]) -> Result<()> {
        let _ = (sb, data);
        Ok(())
    }

    /// Becomes read-only or writable (`MS_REMOUNT`), before the flags change. `EROFS`: it cannot be written to.
    fn set_readonly(&self, sb: &SuperBlock, readonly: bool) -> Result<()> {
        let _ = (sb, readonly);
        Ok(())
    }

    /// The UUID of the file system; zeroes where it has none.
    fn uuid(&self) -> [u8; 16] {
        [0; 16]
    }

    /// How its files are found by handle; `None`: they are not.
    fn export(&self) -> Option<&dyn Export> {
        None
    }

    /// The last mount of it is gone; open files may keep it. Must not sleep.
    fn unmounted(&self) {}

    /// The device goes: nothing is to be read or written any more.
    fn shutdown(&self, sb: &SuperBlock) {
        let _ = sb;
    }

    /// Writes out everything that is dirty.
    fn sync(&self, sb: &SuperBlock) -> Result<()> {
        let _ = sb;
        Ok(())
    }
}

/// A mounted file system.
pub struct SuperBlock {
    fs_type: &'static dyn FileSystemType,
    dev: u64,
    magic: u64,
    block_size: u32,
    max_bytes: u64,
    flags: AtomicU32,
    ops: Box<dyn SuperOps>,
    /// Held over renames between directories, so that the tree does not change while ancestors are compared.
    pub(crate) rename: Mutex<()>,
    /// How many mounts show it.
    mounts: AtomicU32,
    marks: Marks,
    /// For whom it was made; nobody but the machine when that was never said.
    owner: Once<UserNs>,
}

/// What [`SuperBlock::new`] needs to know.
pub struct SuperInit {
    /// The file system's type.
    pub fs_type: &'static dyn FileSystemType,
    /// Device number; 0 takes a free anonymous one.
    pub dev: u64,
    /// Magic number of statfs(2).
    pub magic: u64,
    /// Preferred size of I/O.
    pub block_size: u32,
    /// The largest size of a file.
    pub max_bytes: u64,
    /// Flags.
    pub flags: SbFlags,
}

impl SuperInit {
    /// For a file system without a device: any offset, pages of 4 KiB, no flags.
    pub const fn in_memory(fs_type: &'static dyn FileSystemType, magic: u64) -> Self {
        let (block_size, flags) = (hal::PAGE_SIZE as u32, SbFlags::empty());
        Self { fs_type, dev: 0, magic, block_size, max_bytes: MAX_FILE_SIZE, flags }
    }
}

/// The largest file that an offset can name.
pub const MAX_FILE_SIZE: u64 = i64::MAX as u64;

static NEXT_ANON_DEV: AtomicU32 = AtomicU32::new(1);

/// A device number (0:n) that no other file system has.
pub fn new_anon_dev() -> u64 {
    abi::fs::makedev(0, NEXT_ANON_DEV.fetch_add(1, Relaxed))
}

impl SuperBlock {
    /// Makes a superblock.
    pub fn new(init: SuperInit, ops: Box<dyn SuperOps>) -> Arc<Self> {
        let rename_class = if init.fs_type.is_stacked() { "vfs.sb.stacked_rename" } else { "vfs.sb.rename" };
        let sb = Arc::new(Self {
            fs_type: init.fs_type,
            dev: if init.dev == 0 { new_anon_dev() } else { init.dev },
            magic: init.magic,
            block_size: init.block_size,
            max_bytes: init.max_bytes,
            flags: AtomicU32::new(init.flags.bits()),
            ops,
            rename: Mutex::new(rename_class, ()),
            mounts: AtomicU32::new(0),
            marks: Marks::new(),
            owner: Once::new(),
        });
        if sb.fs_type.is_global() {
            sb.set_owner(&UserNs::INITIAL);
        }
        if sb.fs_type.writes_back() {
            let mut all = WRITING_BACK.lock();
            all.retain(|known| known.strong_count() > 0);
            all.push(Arc::downgrade(&sb));
        }
        sb
    }

    /// The file system's type.
    #[inline]
    pub fn fs_type(&self) -> &'static dyn FileSystemType {
        self.fs_type
    }

    /// Device number, as `st_dev` shows it.
    #[inline]
    pub fn dev(&self) -> u64 {
        self.dev
    }

    /// Magic number.
    pub fn magic(&self) -> u64 {
        self.magic
    }

    /// Preferred size of I/O (`st_blksize`).
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// The largest size of a file.
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Flags.
    pub fn flags(&self) -> SbFlags {
        SbFlags::from_bits_retain(self.flags.load(Relaxed))
    }

    /// Replaces the flags.
    pub fn set_flags(&self, flags: SbFlags) {
        self.flags.store(flags.bits(), Relaxed);
    }

    /// Whether nothing may be written.
    pub fn is_readonly(&self) -> bool {
        self.flags().contains(SbFlags::RDONLY)
    }

    /// The file system's part.
    pub fn ops(&self) -> &dyn SuperOps {
        &*self.ops
    }

    /// The file system's part as the type that it is, if it is that.
    pub fn ops_as<T: SuperOps>(&self) -> Option<&T> {
        (&*self.ops as &dyn Any).downcast_ref()
    }

    /// statfs(2), complete.
    pub fn statfs(&self) -> Result<Statfs> {
        let mut stat = self.ops.statfs(self)?;
        let fill = |value: &mut i64, default: i64| *value = if *value == 0 { default } else { *value };
        fill(&mut stat.f_type, self.magic as i64);
        fill(&mut stat.f_bsize, i64::from(self.block_size));
        let bsize = stat.f_bsize;
        fill(&mut stat.f_frsize, bsize);
        fill(&mut stat.f_namelen, abi::fs::NAME_MAX as i64);
        stat.f_fsid = self.fsid();
        Ok(stat)
    }

    /// The number that statfs(2) and file handles in events tell it by.
    pub fn fsid(&self) -> [i32; 2] {
        [self.dev as i32, (self.dev >> 32) as i32]
    }

    /// Who watches it.
    #[inline]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Notes for whom it was made; what is mounted once more keeps its first owner.
    pub(crate) fn set_owner(&self, user_ns: &UserNs) {
        self.owner.call_once(|| user_ns.clone());
    }

    /// The user namespace that it was made for.
    #[inline]
    pub fn owner(&self) -> &UserNs {
        /// Of file systems that are the machine's.
        static INITIAL: UserNs = UserNs::INITIAL;
        self.owner.get().unwrap_or(&INITIAL)
    }

    /// `EPERM` unless `cred` may change its options: `CAP_SYS_ADMIN` in the user namespace that it was made for.
    pub(crate) fn check_admin(&self, cred: &Cred) -> Result<()> {
        if cred.ns_capable(self.owner(), Cap::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Whether a mount shows it.
    pub(crate) fn is_mounted(&self) -> bool {
        self.mounts.load(Acquire) > 0
    }

    pub(crate) fn mount_added(&self) {
        self.mounts.fetch_add(1, Relaxed);
    }

    pub(crate) fn mount_removed(self: &Arc<Self>) {
        if self.mounts.fetch_sub(1, AcqRel) == 1 {
            dcache::shrink_sb(self);
            self.ops().unmounted();
        }
    }

    /// After the last mount of a disk, or of a server: waits until nothing but open files keeps it, so that it is free when
    /// umount(2) returns.
    pub(crate) fn release(self: Arc<Self>) {
        if !self.fs_type.writes_back() {
            return;
        }
        // The mount itself may wait for a grace period.
        sched::workqueue::synchronize_rcu();
        if !self.is_mounted() {
            dcache::empty_sb(&self);
            // Files without names go with what the cache of names knew of them: the disk is to be without them, too.
            sched::workqueue::synchronize_rcu();
            let _ = self.ops().sync(&self);
        }
    }
}

/// File systems that have something to write out.
static WRITING_BACK: Mutex<Vec<Weak<SuperBlock>>> = Mutex::new("vfs.writing_back", Vec::new());

/// What lies below file systems and has something to write out: the page caches of devices.
static BELOW: hal::sync::Once<fn()> = hal::sync::Once::new();

/// Tells how to write out what lies below file systems. Once only.
pub fn set_sync_below(sync: fn()) {
    BELOW.call_once(|| sync);
}

/// The device `rdev` goes for good in a moment: what its file systems have dirty is written, and then they are shut down.
/// Sleeps.
pub fn device_leaves(rdev: u64) {
    let all: Vec<_> = WRITING_BACK.lock().iter().filter_map(Weak::upgrade).collect();
    for sb in all.iter().filter(|sb| sb.dev() == rdev) {
        let _ = sb.ops.sync(sb);
        sb.ops.shutdown(sb);
    }
}

/// The device `rdev` is gone: shuts down what was mounted from it after [`device_leaves`]. A file system that looks whether
/// its device is there after it has made its superblock, and finds it so, is seen here. Sleeps.
pub fn device_left(rdev: u64) {
    let all: Vec<_> = WRITING_BACK.lock().iter().filter_map(Weak::upgrade).collect();
    for sb in all.iter().filter(|sb| sb.dev() == rdev) {
        sb.ops.shutdown(sb);
    }
}

/// Writes out everything that is dirty in all file systems, and then what lies below them (sync(2)). Errors are told by
/// fsync(2). Sleeps.
pub fn sync_all() {
    let all: Vec<_> = WRITING_BACK.lock().iter().filter_map(Weak::upgrade).collect();
    for sb in all {
        let _ = sb.ops.sync(&sb);
    }
    if let Some(sync) = BELOW.get() {
        sync();
    }
}

static TYPES: Mutex<Vec<&'static dyn FileSystemType>> = Mutex::new("vfs.fs_types", Vec::new());

/// Makes a file system type known to mount(2). `EBUSY`: the name is taken.
pub fn register_fs(fs_type: &'static dyn FileSystemType) -> Result<()> {
    let mut types = TYPES.lock();
    if types.iter().any(|known| known.name() == fs_type.name()) {
        return Err(Errno::EBUSY);
    }
    types.push(fs_type);
    Ok(())
}

/// The file system type called `name`. `ENODEV`: there is none.
pub fn fs_type(name: &[u8]) -> Result<&'static dyn FileSystemType> {
    TYPES.lock().iter().copied().find(|known| known.name().as_bytes() == name).ok_or(Errno::ENODEV)
}

/// All file system types, for /proc/filesystems.
pub fn fs_types() -> Vec<&'static dyn FileSystemType> {
    TYPES.lock().clone()
}
