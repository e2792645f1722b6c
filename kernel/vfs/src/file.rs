//! Open file descriptions.
//!
//! A [`File`] is what open(2) makes: position, status flags, credentials, and the operations ([`FileOps`]) of what
//! was opened. Descriptors, mappings and messages in flight hold it; with the last of them it is released.
//!
//! # Locks
//!
//! `pos_lock` is held over operations that use and move the position, outermost of all VFS locks (POSIX.1-2024,
//! 2.9.7). Flags and position are atomics.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

use abi::fs::OpenFlags;
use abi::poll::PollEvents;
use abi::{Errno, Result};
use bitflags::bitflags;
use hal::sync::SpinLock;
use hal::uio::{Dest, Src};
use mm::{Backing, FileId, Mappable, Mapping, PagePart};
use sched::{Mutex, MutexGuard, PollTable};
use security::Cred;

use crate::dentry::Name;
use crate::direct::{self, Direct};
use crate::inode::{FileKind, Inode, InodeFlags};
use crate::lock;
use crate::mount::WriteAccess;
use crate::notify::{self, Event};
use crate::path::Path;
use crate::sigio::Owner;

bitflags! {
    /// What a description can do, fixed when it is opened.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FileMode: u32 {
        /// Open for reading.
        const READ = 1;
        /// Open for writing.
        const WRITE = 2;
        /// Has a position, and read and write at given ones work.
        const SEEK = 4;
        /// Bytes in sequence: no position to lock, move or give.
        const STREAM = 8;
        /// Only names the file (`O_PATH`).
        const PATH = 16;
        /// Reads and writes at given positions work, but the position cannot be moved freely.
        const PREAD = 32;
        /// Has a page cache ([`File::mapping`]).
        const CACHED = 64;
        /// Can tell what goes without waiting ([`FileOps::nowait`]).
        const NOWAIT = 128;
        /// Reads and writes can leave the page cache as it was (`RWF_DONTCACHE`).
        const DONTCACHE = 256;
        /// Nobody who watches is told of what is done with it ([`crate::open::open_untold`]).
        const UNTOLD = 512;
        /// Reads and writes past the page cache can go on by themselves ([`FileOps::begin_direct`]).
        const FLIES = 1024;
    }
}

/// How lseek(2) counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// From the start.
    Set,
    /// From the position.
    Cur,
    /// From the end.
    End,
    /// The next data at or after.
    Data,
    /// The next hole at or after.
    Hole,
}

impl Whence {
    /// The `whence` argument of lseek(2). `EINVAL`.
    #[inline]
    pub fn from_raw(raw: u32) -> Result<Self> {
        [Self::Set, Self::Cur, Self::End, Self::Data, Self::Hole]
            .get(raw as usize)
            .copied()
            .ok_or(Errno::EINVAL)
    }
}

/// Whether bytes come or go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RwKind {
    /// From the file.
    Read,
    /// To the file.
    Write,
}

/// How much of a file fsync(2) and fdatasync(2) write out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// Data and all metadata.
    Full,
    /// Data and what is needed to read it.
    Data,
}

/// Receives directory entries.
pub trait DirEmit {
    /// Takes an entry; `next` is the position behind it. `false`: it did not fit, stop.
    fn emit(&mut self, name: &[u8], ino: u64, d_type: u8, next: u64) -> bool;
}

/// Takes a part of a page, or says `false`.
pub type ShowPart<'a> = dyn FnMut(PagePart) -> bool + 'a;

/// What an open file does. Defaults are what Linux answers for an operation that an object does not have.
///
/// The VFS has checked the access mode and the arguments' ranges.
pub trait FileOps: Any + Send + Sync {
    /// What to add to the access mode; [`FileMode::SEEK`] for things with positions.
    fn mode(&self) -> FileMode {
        FileMode::SEEK
    }

    /// Reads at `pos` (which streams ignore); gives the number of bytes, 0 at the end.
    fn read(&self, file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        let _ = (file, dst, pos);
        Err(Errno::EINVAL)
    }

    /// Writes at `pos`; gives the number of bytes. `O_APPEND` was resolved unless [`FileOps::appends`].
    fn write(&self, file: &File, src: &mut Src<'_>, pos: u64) -> Result<usize> {
        let _ = (file, src, pos);
        Err(Errno::EINVAL)
    }

    /// How many of the `len` bytes at `pos` can be read or written without waiting, for `RWF_NOWAIT`; asked only of
    /// files with [`FileMode::NOWAIT`]. What others do meanwhile may make it wait all the same.
    ///
    /// `EAGAIN`: none. `EOPNOTSUPP`: that cannot be told of this access.
    fn nowait(&self, file: &File, access: RwKind, pos: u64, len: usize) -> Result<usize> {
        let _ = (file, access, pos, len);
        Err(Errno::EOPNOTSUPP)
    }

    /// The device that swap goes to when this file is swapped to. `EINVAL`: it cannot be. `EBUSY`: it is.
    fn swap_device(&self, file: &File) -> Result<Arc<dyn mm::swap::SwapDevice>> {
        let _ = file;
        Err(Errno::EINVAL)
    }

    /// Registers with the wait queues of the object and tells what is ready.
    fn poll(&self, file: &File, table: &mut PollTable) -> PollEvents {
        let _ = (file, table);
        PollEvents::IN | PollEvents::OUT | PollEvents::RDNORM | PollEvents::WRNORM
    }

    /// Whether poll has a meaning: regular files and directories are always ready (epoll_ctl(2), `EPERM`).
    fn can_poll(&self, file: &File) -> bool {
        !file.inode().is_regular() && !file.inode().is_dir()
    }

    /// What [`FileOps::poll`] would tell without registering, if that needs no lock that sleeps. It is asked with
    /// spinlocks held.
    fn ready(&self, file: &File) -> Option<PollEvents> {
        let _ = file;
        None
    }

    /// Shows `each` the pages with the `len` bytes from `pos` on, and where in each page they are, until it says
    /// `false`; gives the number of bytes shown. 0 where there is nothing to share: then the bytes can only be read.
    fn share(&self, file: &File, pos: u64, len: usize, each: &mut ShowPart<'_>) -> Result<usize> {
        let _ = (file, pos, len, each);
        Ok(0)
    }

    /// A write past the page cache of bytes that the file has already: beside others of its kind, as the inode's `sem` is held for
    /// reading only. `None`: it has to be done as any other, with nothing taken from `src`. May sleep.
    fn overwrite(&self, file: &File, src: &mut Src<'_>, pos: u64) -> Result<Option<usize>> {
        let _ = (file, src, pos);
        Ok(None)
    }

    /// Begins a read or write past the page cache that ends by itself, with [`DirectJob::done`]; a write is one of bytes that the
    /// file has already. Given back: it cannot, and has to be done by [`FileOps::read`] or [`FileOps::write`]. The inode's `sem`
    /// is held for reading, but not for as long as the transfer takes. May sleep, but not for the transfer.
    ///
    /// [`DirectJob::done`]: crate::DirectJob::done
    fn begin_direct(&self, file: &File, direct: Direct) -> direct::Begun {
        let _ = file;
        Err(direct)
    }

    /// A request of ioctl(2) that the VFS does not know.
    fn ioctl(&self, file: &Arc<File>, cmd: u32, arg: usize) -> Result<usize> {
        let _ = (file, cmd, arg);
        Err(Errno::ENOTTY)
    }

    /// As [`FileOps::ioctl`], for files that ask who calls: `cred` tells, who may be another than who opened it.
    fn ioctl_by(
        &self,
        file: &Arc<File>,
        cmd: u32,
        arg: usize,
        cred: &dyn Fn() -> Arc<Cred>,
    ) -> Result<usize> {
        let _ = cred;
        self.ioctl(file, cmd, arg)
    }

    /// The page cache of what it shows where that belongs to another inode: the layer's, in an overlay.
    fn mapping(&self) -> Option<&Arc<Mapping>> {
        None
    }

    /// What mmap(2) is to map. The default maps the page cache.
    fn mmap(&self, file: &Arc<File>) -> Result<Backing> {
        if file.mapping().is_some() { Ok(Backing::file(file.clone())) } else { Err(Errno::ENODEV) }
    }

    /// As [`FileOps::mmap`] of the `len` bytes from `offset` on, for objects that show different things.
    fn mmap_at(&self, file: &Arc<File>, offset: u64, len: u64) -> Result<Backing> {
        let _ = (offset, len);
        self.mmap(file)
    }

    /// Emits entries from `*pos` on and moves it behind the last one taken. The inode's `sem` is held for reading.
    fn readdir(&self, file: &File, pos: &mut u64, emit: &mut dyn DirEmit) -> Result<()> {
        let _ = (file, pos, emit);
        Err(Errno::ENOTDIR)
    }

    /// Moves the position; the default knows sizes from the inode and data and holes from the page cache.
    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        crate::rw::generic_seek(file, offset, whence)
    }

    /// Writes out what is dirty.
    fn fsync(&self, file: &File, mode: SyncMode) -> Result<()> {
        let _ = (file, mode);
        Err(Errno::EINVAL)
    }

    /// Writes the dirty pages of the bytes `range` and waits for them (sync_file_range(2)); no metadata, no flush.
    ///
    /// `ESPIPE`: the file is neither on a disk nor in memory.
    fn sync_range(&self, file: &File, range: core::ops::Range<u64>) -> Result<()> {
        let inode = file.inode();
        match (file.mapping(), inode.kind()) {
            (Some(mapping), _) => mapping.write_back(range),
            (None, FileKind::Regular | FileKind::Directory | FileKind::Symlink) => Ok(()),
            (None, _) => Err(Errno::ESPIPE),
        }
    }

    /// fallocate(2) with mode flags `mode`.
    fn fallocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        let _ = (file, mode, offset, len);
        Err(Errno::EOPNOTSUPP)
    }

    /// Called at every close(2) of a descriptor; its error is close's.
    fn flush(&self, file: &File) -> Result<()> {
        let _ = file;
        Ok(())
    }

    /// Called when the description ends.
    fn release(&self, file: &File) {
        let _ = file;
    }

    /// Bytes that can be read at once (`FIONREAD`).
    fn readable_bytes(&self, file: &File) -> Result<usize> {
        let _ = file;
        Err(Errno::ENOTTY)
    }

    /// Whether a write that fails with `EPIPE` sends `SIGPIPE`.
    fn raises_sigpipe(&self) -> bool {
        false
    }

    /// Whether the operations themselves place `O_APPEND` writes.
    fn appends(&self) -> bool {
        false
    }

    /// Checks new status flags (`F_SETFL`). The default refuses `O_DIRECT`.
    fn check_flags(&self, file: &File, flags: OpenFlags) -> Result<()> {
        let _ = file;
        if flags.contains(OpenFlags::DIRECT) { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Seals (`F_ADD_SEALS` with `Some`, `F_GET_SEALS` with `None`).
    fn seals(&self, file: &File, add: Option<u32>) -> Result<u32> {
        let _ = (file, add);
        Err(Errno::EINVAL)
    }

    /// Appends lines for /proc/PID/fdinfo.
    fn show_fdinfo(&self, file: &File, out: &mut Vec<u8>) {
        let _ = (file, out);
    }
}

/// Operations of `O_PATH` descriptions: none.
pub(crate) struct NoOps;

impl FileOps for NoOps {
    fn mode(&self) -> FileMode {
        FileMode::PATH
    }
}

/// Someone who wants to know when an open file description ends: epoll keeps no file open, but forgets it then.
pub trait ReleaseWatch: Send + Sync {
    /// The description with this id ends. May sleep.
    fn released(&self, file_id: u64);
}

/// An open file description.
pub struct File {
    id: u64,
    path: Path,
    inode: Arc<Inode>,
    mode: FileMode,
    flags: AtomicU32,
    pos: AtomicU64,
    pos_lock: Mutex<()>,
    cred: Arc<Cred>,
    ops: Arc<dyn FileOps>,
    owner: SpinLock<Owner>,
    /// Set for descriptions that may write: keeps the mount from becoming read-only.
    write_access: Option<WriteAccess>,
    release_watches: SpinLock<Vec<Weak<dyn ReleaseWatch>>>,
    /// Errors of write-back that it was told ([`mm::mapping::ErrSeq`]).
    errors_seen: AtomicU32,
}

/// Flags of open(2) that are no status flags of the description.
const CREATION_FLAGS: OpenFlags = OpenFlags::CREAT
    .union(OpenFlags::EXCL)
    .union(OpenFlags::NOCTTY)
    .union(OpenFlags::TRUNC)
    .union(OpenFlags::CLOEXEC);

/// Flags that fcntl(2) `F_SETFL` can change.
pub const SETFL_FLAGS: OpenFlags = OpenFlags::APPEND
    .union(OpenFlags::NONBLOCK)
    .union(OpenFlags::ASYNC)
    .union(OpenFlags::DIRECT)
    .union(OpenFlags::NOATIME);

impl File {
    /// Opens `path`, which is positive, with operations `ops`. Permissions were checked.
    ///
    /// `ETXTBSY`, `EROFS`: a write access that cannot be had now.
    pub fn new(path: Path, ops: Arc<dyn FileOps>, flags: OpenFlags, cred: &Arc<Cred>) -> Result<Arc<Self>> {
        let inode = path.inode().ok_or(Errno::ENOENT)?;
        let mut write_access = None;
        if flags.can_write() && !flags.contains(OpenFlags::PATH) {
            let is_anonymous = inode.flags().contains(InodeFlags::ANONYMOUS);
            if !is_anonymous && inode.is_regular() {
                let access = path.mount.want_write()?;
                inode.get_write_access()?;
                write_access = Some(access);
            }
        }
        Self::with_access(path, ops, flags, cred, write_access)
    }

    /// As [`File::new`] for a file that the kernel makes without a name. It does not count as open for writing,
    /// whatever `flags` say: a memory file can be executed while its maker holds it open.
    pub(crate) fn new_uncounted(
        path: Path,
        ops: Arc<dyn FileOps>,
        flags: OpenFlags,
        cred: &Arc<Cred>,
    ) -> Result<Arc<Self>> {
        Self::with_access(path, ops, flags, cred, None)
    }

    /// As [`File::new`] for someone who watches files: nobody is told of what is done with it.
    pub(crate) fn new_untold(
        path: Path,
        ops: Arc<dyn FileOps>,
        flags: OpenFlags,
        cred: &Arc<Cred>,
    ) -> Result<Arc<Self>> {
        let mut file = Self::new(path, ops, flags, cred)?;
        if let Some(file) = Arc::get_mut(&mut file) {
            file.mode |= FileMode::UNTOLD;
        }
        Ok(file)
    }

    fn with_access(
        path: Path,
        ops: Arc<dyn FileOps>,
        flags: OpenFlags,
        cred: &Arc<Cred>,
        write_access: Option<WriteAccess>,
    ) -> Result<Arc<Self>> {
        let inode = path.inode().ok_or(Errno::ENOENT)?.clone();
        let mut mode = ops.mode();
        if !flags.contains(OpenFlags::PATH) {
            mode.set(FileMode::READ, flags.can_read());
            mode.set(FileMode::WRITE, flags.can_write());
        }
        if is_reader(&inode, mode) {
            inode.add_reader();
        }
        mode.set(FileMode::CACHED, inode.mapping().or_else(|| ops.mapping()).is_some());
        let errors_seen =
            inode.mapping().and_then(|mapping| mapping.error()).map_or(0, |error| error.sample());
        Ok(Arc::new(Self {
            errors_seen: AtomicU32::new(errors_seen),
            id: lock::new_owner_id(),
            path,
            inode,
            mode,
            flags: AtomicU32::new((flags - CREATION_FLAGS).bits()),
            pos: AtomicU64::new(0),
            pos_lock: Mutex::new("vfs.file.pos", ()),
            cred: cred.clone(),
            ops,
            owner: SpinLock::new("vfs.file.owner", Owner::default()),
            write_access,
            release_watches: SpinLock::new("vfs.file.release", Vec::new()),
        }))
    }

    /// A number that no other description ever has; the owner of its locks.
    #[inline]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The name by which it was opened.
    #[inline]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The inode.
    #[inline]
    pub fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }

    /// The page cache of what it shows.
    #[inline]
    pub fn mapping(&self) -> Option<&Arc<Mapping>> {
        self.inode.mapping().or_else(|| self.ops.mapping())
    }

    /// What it can do.
    #[inline]
    pub fn mode(&self) -> FileMode {
        self.mode
    }

    /// Access mode and status flags (`F_GETFL`).
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Relaxed))
    }

    /// Whether operations must not wait.
    pub fn is_nonblocking(&self) -> bool {
        self.flags().contains(OpenFlags::NONBLOCK)
    }

    /// Replaces the status flags that can change by those of `flags` (`F_SETFL`).
    ///
    /// `EPERM`: clearing `O_APPEND` of an append-only file, or `O_NOATIME` without owning it. `EINVAL`: `O_DIRECT`
    /// where that cannot be.
    pub fn set_flags(&self, flags: OpenFlags, cred: &Cred) -> Result<()> {
        let old = self.flags();
        let is_append_only = self.inode.flags().contains(InodeFlags::APPEND);
        if is_append_only && old.contains(OpenFlags::APPEND) && !flags.contains(OpenFlags::APPEND) {
            return Err(Errno::EPERM);
        }
        let wants_noatime = flags.contains(OpenFlags::NOATIME) && !old.contains(OpenFlags::NOATIME);
        if wants_noatime && !security::owner_or_capable(cred, self.path.mount.id_view().uid(&self.inode)) {
            return Err(Errno::EPERM);
        }
        self.ops.check_flags(self, flags)?;
        self.update_flags(SETFL_FLAGS, flags);
        Ok(())
    }

    /// Replaces the flags in `mask` by those of `flags`.
    pub fn update_flags(&self, mask: OpenFlags, flags: OpenFlags) {
        let new = |old: u32| Some(old & !mask.bits() | (flags & mask).bits());
        let _ = self.flags.fetch_update(Relaxed, Relaxed, new);
    }

    /// The position.
    pub fn pos(&self) -> u64 {
        self.pos.load(Relaxed)
    }

    /// Sets the position.
    pub fn set_pos(&self, pos: u64) {
        self.pos.store(pos, Relaxed);
    }

    /// Locks the position; streams have none.
    pub(crate) fn lock_pos(&self) -> Option<MutexGuard<'_, ()>> {
        (!self.mode.contains(FileMode::STREAM)).then(|| self.pos_lock.lock())
    }

    /// Who opened it.
    #[inline]
    pub fn cred(&self) -> &Arc<Cred> {
        &self.cred
    }

    /// The operations.
    #[inline]
    pub fn ops(&self) -> &Arc<dyn FileOps> {
        &self.ops
    }

    /// The operations as the type that they are, if they are that.
    pub fn ops_as<T: FileOps>(&self) -> Option<&T> {
        (&*self.ops as &dyn Any).downcast_ref()
    }

    /// Who gets SIGIO.
    pub fn owner(&self) -> Owner {
        *self.owner.lock()
    }

    /// Changes who gets SIGIO.
    pub fn update_owner(&self, f: impl FnOnce(&mut Owner)) {
        f(&mut self.owner.lock());
    }

    /// What is ready at the moment, if that can be told in atomic context.
    #[inline]
    pub fn ready(&self) -> Option<PollEvents> {
        self.ops.ready(self)
    }

    /// What is ready; registers with `table`.
    #[inline]
    pub fn poll(&self, table: &mut PollTable) -> PollEvents {
        self.ops.poll(self, table)
    }

    /// Fails with `EBADF` unless open for all of `needed` (and no `O_PATH`).
    #[inline]
    pub fn require(&self, needed: FileMode) -> Result<()> {
        if self.mode.contains(needed) && !self.mode.contains(FileMode::PATH) {
            Ok(())
        } else {
            Err(Errno::EBADF)
        }
    }

    /// The error of write-back that it was not told yet, once.
    pub fn check_write_error(&self) -> Result<()> {
        match self.inode.mapping().and_then(|mapping| mapping.error()) {
            Some(error) => error.check(&self.errors_seen),
            None => Ok(()),
        }
    }

    /// Tells `watch`, unless it is told already, when this description ends.
    pub fn watch_release(&self, watch: &Weak<dyn ReleaseWatch>) {
        let mut watches = self.release_watches.lock();
        if watches.iter().any(|known| known.ptr_eq(watch)) {
            return;
        }
        watches.retain(|known| known.strong_count() > 0);
        watches.push(watch.clone());
    }

    /// Whether it keeps a mount from becoming read-only.
    pub fn has_write_access(&self) -> bool {
        self.write_access.is_some()
    }

    /// The name in /proc/PID/fd.
    pub fn display_name(&self) -> Vec<u8> {
        self.path.display(None)
    }

    /// The last component of the name.
    pub fn name(&self) -> Name {
        self.path.dentry.name()
    }
}

/// Whether a description of `inode` counts as one that can only read it.
fn is_reader(inode: &Inode, mode: FileMode) -> bool {
    let access = FileMode::READ | FileMode::WRITE | FileMode::PATH;
    mode & access == FileMode::READ && inode.is_regular()
}

impl Drop for File {
    fn drop(&mut self) {
        if self.mode.contains(FileMode::PATH) {
            return;
        }
        if !self.inode.flags().contains(InodeFlags::ANONYMOUS) {
            let wrote = self.mode.contains(FileMode::WRITE);
            notify::file_event(self, if wrote { Event::CLOSE_WRITE } else { Event::CLOSE_NOWRITE });
        }
        for watch in self.release_watches.get_mut().drain(..) {
            if let Some(watch) = watch.upgrade() {
                watch.released(self.id);
            }
        }
        self.ops.release(self);
        if let Some(mapping) = self.inode.mapping() {
            mapping.stop_ahead();
        }
        if let Some(locks) = self.inode.locks_if_any() {
            locks.file_released(self.id);
        }
        if self.write_access.is_some() {
            self.inode.put_write_access();
        }
        if is_reader(&self.inode, self.mode) {
            self.inode.remove_reader();
        }
    }
}

impl core::fmt::Debug for File {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "File({:?} {:?})", self.path.dentry, self.mode)
    }
}

impl Mappable for File {
    fn mapping(&self) -> Option<&Arc<Mapping>> {
        File::mapping(self)
    }

    fn name(&self) -> Vec<u8> {
        self.display_name()
    }

    fn id(&self) -> FileId {
        let dev = self.inode.sb().dev();
        FileId { major: abi::fs::major(dev), minor: abi::fs::minor(dev), ino: self.inode.ino() }
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
