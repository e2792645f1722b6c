//! Reading, writing and seeking: what every read(2) and write(2) goes through.
//!
//! The VFS checks modes and ranges, locks the position, resolves `O_APPEND` and enforces size limits; the operations
//! move bytes. For inodes with a page cache it also holds `sem` for writing over [`FileOps::write`].
//!
//! Errors that come with a signal: `EPIPE` when [`sigpipe_due`] says so (SIGPIPE), `EFBIG` at a limit given by the
//! caller (SIGXFSZ). The caller sends it.
//!
//! Sources: read(2), write(2), lseek(2), POSIX.1-2024.
//!
//! [`FileOps::write`]: crate::file::FileOps::write

use alloc::sync::Arc;

use abi::fs::{OpenFlags, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_ISGID, S_ISUID};
use abi::{Errno, Result};
use bitflags::bitflags;
use hal::uio::{Dest, Src};
use hal::{PAGE_SHIFT, PAGE_SIZE};
use mm::Mapping;
use security::{Cap, Cred};

use crate::direct;
use crate::dontcache::Dropped;
use crate::file::{File, FileMode, RwKind, ShowPart, SyncMode, Whence};
use crate::inode::{Inode, InodeFlags, SetAttr};
use crate::mount::{Mount, MountFlags};
use crate::notify::{self, Event};
use crate::path::Path;
use crate::perm;
use crate::time;
use crate::xattr;

/// The most that one call moves (Linux: `MAX_RW_COUNT`).
pub const MAX_COUNT: usize = 0x7fff_f000;

/// Seconds after which relatime updates an access time anyhow (mount(8)).
const RELATIME_SECONDS: i64 = 24 * 60 * 60;

bitflags! {
    /// Flags of preadv2(2) and pwritev2(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct RwFlags: u32 {
        /// Poll for completion; without effect where nothing polls.
        const HIPRI = 1 << 0;
        /// As if the file had `O_DSYNC`.
        const DSYNC = 1 << 1;
        /// As if the file had `O_SYNC`.
        const SYNC = 1 << 2;
        /// Do not wait.
        const NOWAIT = 1 << 3;
        /// Write at the end.
        const APPEND = 1 << 4;
        /// Write at the position though the file has `O_APPEND`.
        const NOAPPEND = 1 << 5;
        /// All or nothing after a crash.
        const ATOMIC = 1 << 6;
        /// Leave no pages behind.
        const DONTCACHE = 1 << 7;
        /// No SIGPIPE.
        const NOSIGNAL = 1 << 8;
    }
}

impl RwFlags {
    /// Those of system calls without flags: what the open file says.
    fn of(file: &File) -> Self {
        if file.flags().contains(OpenFlags::APPEND) { Self::APPEND } else { Self::empty() }
    }

    /// Decodes the argument and joins it with what `file` says.
    ///
    /// `EOPNOTSUPP`: unknown, or not possible for this file: no device here writes more than a block all or nothing.
    /// `EINVAL`: to append and not to append. `EPERM`: not to append to a file that can only be appended to.
    pub fn decode(raw: u32, file: &File) -> Result<Self> {
        let asked = Self::from_bits(raw).ok_or(Errno::EOPNOTSUPP)?;
        if asked.contains(Self::APPEND | Self::NOAPPEND) {
            return Err(Errno::EINVAL);
        }
        let lacks = |flag, mode| asked.contains(flag) && !file.mode().contains(mode);
        if asked.contains(Self::ATOMIC)
            || lacks(Self::NOWAIT, FileMode::NOWAIT)
            || lacks(Self::DONTCACHE, FileMode::DONTCACHE)
        {
            return Err(Errno::EOPNOTSUPP);
        }
        if !asked.contains(Self::NOAPPEND) {
            return Ok(asked | Self::of(file));
        }
        if file.inode().flags().contains(InodeFlags::APPEND) { Err(Errno::EPERM) } else { Ok(asked) }
    }
}

/// read(2) and readv(2).
#[inline]
pub fn read(file: &File, dst: &mut Dest<'_>) -> Result<usize> {
    read_with(file, dst, RwFlags::empty())
}

/// As [`read()`], with the flags of preadv2(2) at the file's position.
pub fn read_with(file: &File, dst: &mut Dest<'_>, flags: RwFlags) -> Result<usize> {
    file.require(FileMode::READ)?;
    let locked = file.lock_pos();
    let pos = file.pos();
    let done = read_at(file, dst, pos, flags)?;
    if locked.is_some() {
        file.set_pos(pos + done as u64);
    }
    Ok(done)
}

/// pread64(2) and preadv(2). `ESPIPE`: a stream. `EINVAL`: `pos` is negative.
#[inline]
pub fn pread(file: &File, dst: &mut Dest<'_>, pos: i64) -> Result<usize> {
    pread_with(file, dst, pos, RwFlags::empty())
}

/// As [`pread`], with the flags of preadv2(2).
pub fn pread_with(file: &File, dst: &mut Dest<'_>, pos: i64, flags: RwFlags) -> Result<usize> {
    let pos = u64::try_from(pos).map_err(|_| Errno::EINVAL)?;
    file.require(FileMode::READ)?;
    require_positions(file)?;
    read_at(file, dst, pos, flags)
}

fn require_positions(file: &File) -> Result<()> {
    if file.mode().intersects(FileMode::SEEK | FileMode::PREAD) { Ok(()) } else { Err(Errno::ESPIPE) }
}

#[inline]
fn read_at(file: &File, dst: &mut Dest<'_>, pos: u64, flags: RwFlags) -> Result<usize> {
    if file.inode().is_dir() {
        return Err(Errno::EISDIR);
    }
    notify::ask_of_file(file, Event::ACCESS_PERM)?;
    limit_count(dst.remaining(), |max| dst.truncate(max));
    let done = if flags.intersects(RwFlags::NOWAIT | RwFlags::DONTCACHE) {
        read_special(file, dst, pos, flags)?
    } else if file.flags().contains(OpenFlags::DIRECT) {
        read_direct(file, dst, pos)?
    } else {
        file.ops().read(file, dst, pos)?
    };
    accessed(file, done);
    Ok(done)
}

/// A read past the page cache, where the file has such.
#[cold]
fn read_direct(file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
    let memory = dst.memory();
    let perform = |memory| direct::perform(file, RwKind::Read, pos, memory, RwFlags::empty(), u64::MAX);
    match memory.and_then(perform) {
        Some(done) => done.inspect(|&done| dst.advance(done)),
        None => file.ops().read(file, dst, pos),
    }
}

/// A read that must not wait, or that leaves the page cache as it was.
#[cold]
fn read_special(file: &File, dst: &mut Dest<'_>, pos: u64, flags: RwFlags) -> Result<usize> {
    if flags.contains(RwFlags::NOWAIT) && dst.remaining() > 0 {
        dst.truncate(file.ops().nowait(file, RwKind::Read, pos, dst.remaining())?);
    }
    let drops = flags.contains(RwFlags::DONTCACHE);
    let dropped = drops.then(|| Dropped::new(file, pos, dst.remaining()));
    let done = file.ops().read(file, dst, pos)?;
    if let Some(dropped) = dropped {
        dropped.drop_clean(file);
    }
    Ok(done)
}

/// How many of the `len` bytes at `pos` are cached or behind the end. `EAGAIN`: not the first of them.
pub fn cached_prefix(mapping: &Mapping, pos: u64, len: usize) -> Result<usize> {
    let end = pos.saturating_add(len as u64).min(mapping.size());
    let mut at = pos;
    while at < end {
        if mapping.get(at >> PAGE_SHIFT).is_none() {
            return if at == pos { Err(Errno::EAGAIN) } else { Ok((at - pos) as usize) };
        }
        at = (at | (PAGE_SIZE as u64 - 1)).saturating_add(1);
    }
    Ok(len)
}

/// Notes that `done` bytes were read.
#[inline]
pub(crate) fn accessed(file: &File, done: usize) {
    let inode = file.inode();
    if !inode.flags().contains(InodeFlags::ANONYMOUS) {
        if has_atime(inode) && !file.flags().contains(OpenFlags::NOATIME) {
            touch_atime(file.path());
        }
        if done > 0 {
            notify::file_event(file, Event::ACCESS);
        }
    }
}

/// As a read at `pos` that takes references to pages, through [`FileOps::share`]; 0: the bytes have to be read.
///
/// [`FileOps::share`]: crate::file::FileOps::share
pub(crate) fn share_at(file: &File, pos: u64, len: usize, each: &mut ShowPart<'_>) -> Result<usize> {
    notify::ask_of_file(file, Event::ACCESS_PERM)?;
    let done = file.ops().share(file, pos, len, each)?;
    if done > 0 {
        accessed(file, done);
    }
    Ok(done)
}

#[inline]
fn limit_count(remaining: usize, truncate: impl FnOnce(usize)) {
    if remaining > MAX_COUNT {
        truncate(MAX_COUNT);
    }
}

/// write(2) and writev(2). `fsize`: the caller's `RLIMIT_FSIZE`. `EFBIG`: at the limit.
pub fn write(file: &File, src: &mut Src<'_>, fsize: u64) -> Result<usize> {
    write_with(file, src, fsize, RwFlags::of(file))
}

/// As [`write()`], with the flags of pwritev2(2) at the file's position.
pub fn write_with(file: &File, src: &mut Src<'_>, fsize: u64, flags: RwFlags) -> Result<usize> {
    file.require(FileMode::WRITE)?;
    let locked = file.lock_pos();
    let mut pos = file.pos();
    let done = write_at(file, src, &mut pos, fsize, flags)?;
    if locked.is_some() {
        file.set_pos(pos);
    }
    Ok(done)
}

/// pwrite64(2) and pwritev(2). `O_APPEND` files are appended to all the same, as on Linux.
pub fn pwrite(file: &File, src: &mut Src<'_>, pos: i64, fsize: u64) -> Result<usize> {
    pwrite_with(file, src, pos, fsize, RwFlags::of(file))
}

/// As [`pwrite`], with the flags of pwritev2(2).
pub fn pwrite_with(file: &File, src: &mut Src<'_>, pos: i64, fsize: u64, flags: RwFlags) -> Result<usize> {
    let mut pos = u64::try_from(pos).map_err(|_| Errno::EINVAL)?;
    file.require(FileMode::WRITE)?;
    require_positions(file)?;
    write_at(file, src, &mut pos, fsize, flags)
}

/// Writes at `*pos`, or at the end, and moves `*pos` behind what was written.
#[inline]
fn write_at(file: &File, src: &mut Src<'_>, pos: &mut u64, fsize: u64, flags: RwFlags) -> Result<usize> {
    limit_count(src.remaining(), |max| src.truncate(max));
    let inode = file.inode();
    let drops = flags.contains(RwFlags::DONTCACHE);
    let dropped = drops.then(|| Dropped::new(file, *pos, src.remaining()));
    let done = if file.mode().contains(FileMode::CACHED) {
        let is_direct = file.flags().contains(OpenFlags::DIRECT) && !flags.contains(RwFlags::APPEND);
        match if is_direct { overwrite(file, src, *pos, fsize, flags)? } else { None } {
            Some(done) => done,
            None => {
                let _exclusive = inode.sem.write();
                write_cached(file, src, pos, fsize, flags)?
            }
        }
    } else {
        if flags.contains(RwFlags::NOWAIT) && src.remaining() > 0 {
            src.truncate(file.ops().nowait(file, RwKind::Write, *pos, src.remaining())?);
        }
        file.ops().write(file, src, *pos)?
    };
    if let Some(dropped) = dropped {
        dropped.write_and_drop(file);
    }
    *pos = pos.saturating_add(done as u64);
    if done > 0 && !inode.flags().contains(InodeFlags::ANONYMOUS) {
        notify::file_event(file, Event::MODIFY);
        if flags.intersects(RwFlags::SYNC | RwFlags::DSYNC) {
            let mode = if flags.contains(RwFlags::SYNC) { SyncMode::Full } else { SyncMode::Data };
            file.ops().fsync(file, mode)?;
        }
    }
    Ok(done)
}

/// The checks of a write to a file with a page cache; its `sem` is held.
fn write_cached(file: &File, src: &mut Src<'_>, pos: &mut u64, fsize: u64, flags: RwFlags) -> Result<usize> {
    let inode = file.inode();
    if inode.flags().contains(InodeFlags::SWAPFILE) {
        return Err(Errno::ETXTBSY);
    }
    if src.remaining() == 0 {
        return Ok(0);
    }
    if flags.contains(RwFlags::APPEND) {
        *pos = inode.size();
    }
    let limit = fsize.min(inode.sb().max_bytes());
    if *pos >= limit {
        return Err(Errno::EFBIG);
    }
    src.truncate(usize::try_from(limit - *pos).unwrap_or(usize::MAX));
    if flags.contains(RwFlags::NOWAIT) {
        src.truncate(file.ops().nowait(file, RwKind::Write, *pos, src.remaining())?);
    }
    remove_privileges(&file.path().mount, inode, file.cred())?;
    let done = file.ops().write(file, src, *pos)?;
    if done > 0 {
        inode.touch_mtime();
        inode.ops().times_changed(inode);
    }
    Ok(done)
}

/// A write past the cache that changes nothing but bytes that are there: such writes go on side by side. `None`: it is another.
#[cold]
fn overwrite(file: &File, src: &mut Src<'_>, pos: u64, fsize: u64, flags: RwFlags) -> Result<Option<usize>> {
    let inode = file.inode();
    let perform = |memory| direct::perform(file, RwKind::Write, pos, memory, flags, fsize);
    if let Some(done) = src.memory().and_then(perform) {
        return done.inspect(|&done| src.advance(done)).map(Some);
    }
    let _shared = inode.sem.read();
    if !is_plain_overwrite(inode, pos, src.remaining(), fsize) {
        return Ok(None);
    }
    if flags.contains(RwFlags::NOWAIT) {
        src.truncate(file.ops().nowait(file, RwKind::Write, pos, src.remaining())?);
    }
    let done = file.ops().overwrite(file, src, pos)?;
    if done.is_some_and(|done| done > 0) {
        inode.touch_mtime();
        inode.ops().times_changed(inode);
    }
    Ok(done)
}

/// Whether a write of `len` bytes at `pos` ends within the file and changes nothing beside them. The inode's `sem` is held.
pub(crate) fn is_plain_overwrite(inode: &Inode, pos: u64, len: usize, fsize: u64) -> bool {
    let end = pos.saturating_add(len as u64);
    let has_privileges =
        inode.mode() & (S_ISUID | S_ISGID) != 0 || !inode.flags().contains(InodeFlags::NO_CAPS);
    len > 0
        && end <= fsize.min(inode.size())
        && !has_privileges
        && !inode.flags().contains(InodeFlags::SWAPFILE)
}

/// Tells those who watch that `file` was written to.
pub(crate) fn wrote(file: &File) {
    if !file.inode().flags().contains(InodeFlags::ANONYMOUS) {
        notify::file_event(file, Event::MODIFY);
    }
}

/// Takes capabilities (capabilities(7)) and the set-ID bits (inode(7)) from a file that someone writes to through `mount`. Its
/// `sem` is held for writing.
pub(crate) fn remove_privileges(mount: &Mount, inode: &Arc<Inode>, cred: &Cred) -> Result<()> {
    xattr::remove_caps(inode)?;
    let mode = inode.mode();
    if mode & (S_ISUID | S_ISGID) == 0 || !inode.is_regular() || cred.capable(Cap::FSETID) {
        return Ok(());
    }
    let mut new = mode & !S_ISUID;
    let is_setgid = mode & S_ISGID != 0;
    if is_setgid && (mode & 0o010 != 0 || !perm::in_group_or_capable(&mount.id_view(), inode, cred)) {
        new &= !S_ISGID;
    }
    if new == mode {
        return Ok(());
    }
    inode.ops().set_attr(inode, &SetAttr { mode: Some(new), ctime: time::now(), ..SetAttr::default() })
}

/// Whether the caller of a write that gave `result` is to be sent SIGPIPE.
pub fn sigpipe_due(file: &File, result: &Result<usize>) -> bool {
    matches!(result, Err(Errno::EPIPE)) && file.ops().raises_sigpipe()
}

/// lseek(2). `ESPIPE`: no position. `EINVAL`: out of range. `ENXIO`: no data or hole from there on.
pub fn lseek(file: &File, offset: i64, whence: Whence) -> Result<u64> {
    file.require(FileMode::empty())?;
    if !file.mode().contains(FileMode::SEEK) {
        return Err(Errno::ESPIPE);
    }
    let _locked = file.lock_pos();
    let pos = file.ops().seek(file, offset, whence)?;
    file.set_pos(pos);
    Ok(pos)
}

/// The seek of files whose size the inode knows.
pub fn generic_seek(file: &File, offset: i64, whence: Whence) -> Result<u64> {
    let base = match whence {
        Whence::Set => 0,
        Whence::Cur => file.pos() as i64,
        Whence::End => file.inode().size() as i64,
        Whence::Data | Whence::Hole => return seek_sparse(file.inode(), offset, whence),
    };
    let pos = base.checked_add(offset).ok_or(Errno::EOVERFLOW)?;
    let pos = u64::try_from(pos).map_err(|_| Errno::EINVAL)?;
    if pos > file.inode().sb().max_bytes() { Err(Errno::EINVAL) } else { Ok(pos) }
}

/// The seek of things that have positions but no size, such as devices: only set and move.
pub fn seek_unsized(file: &File, offset: i64, whence: Whence) -> Result<u64> {
    let base = match whence {
        Whence::Set => 0,
        Whence::Cur => file.pos() as i64,
        _ => return Err(Errno::EINVAL),
    };
    base.checked_add(offset).and_then(|pos| u64::try_from(pos).ok()).ok_or(Errno::EINVAL)
}

/// `SEEK_DATA` and `SEEK_HOLE`: cached pages are data, others holes, in files that live in memory.
fn seek_sparse(inode: &Inode, offset: i64, whence: Whence) -> Result<u64> {
    let size = inode.size();
    let pos = u64::try_from(offset).ok().filter(|&pos| pos < size).ok_or(Errno::ENXIO)?;
    let mapping = inode.mapping().filter(|mapping| mapping.is_shmem());
    let Some(mapping) = mapping else {
        return Ok(if whence == Whence::Data { pos } else { size });
    };
    let page = PAGE_SIZE as u64;
    let mut idx = pos / page;
    if whence == Whence::Data {
        let found = mapping.next_page(idx).ok_or(Errno::ENXIO)?;
        let start = (found * page).max(pos);
        return if start < size { Ok(start) } else { Err(Errno::ENXIO) };
    }
    while idx * page < size && mapping.holds(idx) {
        idx += 1;
    }
    Ok((idx * page).clamp(pos, size))
}

/// Whether reading `inode` moves its access time: not for devices and sockets.
#[inline]
fn has_atime(inode: &Inode) -> bool {
    matches!(inode.mode() & S_IFMT, S_IFREG | S_IFDIR | S_IFLNK | S_IFIFO)
}

/// Notes an access to the object at `path`, as the mount wants it (mount(8) relatime, noatime).
pub(crate) fn touch_atime(path: &Path) {
    let Some(inode) = path.inode() else { return };
    let flags = path.mount.flags();
    let is_dir = inode.is_dir();
    if flags.contains(MountFlags::NOATIME)
        || (is_dir && flags.contains(MountFlags::NODIRATIME))
        || inode.flags().intersects(InodeFlags::NOATIME | InodeFlags::ANONYMOUS)
    {
        return;
    }
    if !has_atime(inode) {
        return;
    }
    let times = inode.times();
    let is_fresh = times.atime > times.mtime && times.atime > times.ctime;
    let now = time::now();
    let is_recent = now.tv_sec.saturating_sub(times.atime.tv_sec) < RELATIME_SECONDS;
    if is_fresh && is_recent && !flags.contains(MountFlags::STRICTATIME) {
        return;
    }
    let hides_owner = path.mount.is_idmapped() && path.mount.id_view().hides_owner(inode);
    if !path.mount.is_readonly() && !hides_owner {
        inode.update_times(|times| times.atime = now);
        inode.ops().times_changed(inode);
    }
}
