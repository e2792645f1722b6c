//! open(2), openat(2) and openat2(2).
//!
//! Sources: open(2), openat2(2), proc_sys_fs(5).

use alloc::sync::Arc;

use abi::fs::{OpenFlags, OpenHow, ResolveFlags, S_IFREG};
use abi::{Errno, Result};
use security::{Access, Cred};

use crate::acl;
use crate::dev::{self, DeviceKind};
use crate::file::{File, FileOps, NoOps};
use crate::fs_context::WalkContext;
use crate::inode::{DenyWrite, FileKind, Inode, InodeFlags, NewInode, OpenRequest};
use crate::lock::{LockKind, lease};
use crate::mount::MountFlags;
use crate::namespace;
use crate::notify::{self, Event};
use crate::path::Path;
use crate::perm;
use crate::pipe::{Blocking, PipeEnd};
use crate::walk::{self, At, Last, WalkFlags, Walker};

/// A checked request to open.
#[derive(Clone, Copy, Debug)]
pub struct How {
    flags: OpenFlags,
    mode: u32,
    resolve: ResolveFlags,
    wanted: Wanted,
}

/// What kinds of files an open is content with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// All.
    Any,
    /// Regular files (`OPENAT2_REGULAR`).
    Regular,
    /// Those that are to be executed.
    Program,
}

/// Flags that `O_PATH` leaves standing.
const PATH_FLAGS: OpenFlags = OpenFlags::PATH
    .union(OpenFlags::DIRECTORY)
    .union(OpenFlags::NOFOLLOW)
    .union(OpenFlags::CLOEXEC)
    .union(OpenFlags::EMPTYPATH);

impl How {
    /// The request of open(2) and openat(2): unknown flags are ignored.
    ///
    /// `EINVAL`: `O_TMPFILE` without write access, or `O_CREAT` with `O_DIRECTORY`.
    #[inline]
    pub fn new(flags: u32, mode: u32) -> Result<Self> {
        let mut flags = OpenFlags::from_bits_truncate(flags);
        let makes = flags.intersects(OpenFlags::CREAT | OpenFlags::TMPFILE_BIT);
        let mode = if makes { mode & 0o7777 } else { 0 };
        if flags.contains(OpenFlags::PATH) {
            flags &= PATH_FLAGS;
        }
        Self { flags, mode, resolve: ResolveFlags::empty(), wanted: Wanted::Any }.check()
    }

    /// The request of openat2(2): everything unknown or contradictory is `EINVAL`.
    pub fn from_openat2(how: &OpenHow) -> Result<Self> {
        /// `OPENAT2_REGULAR`.
        const REGULAR: u64 = 1 << 32;
        let wanted = if how.flags & REGULAR != 0 { Wanted::Regular } else { Wanted::Any };
        let bits = u32::try_from(how.flags & !REGULAR).map_err(|_| Errno::EINVAL)?;
        let flags = OpenFlags::from_bits(bits).ok_or(Errno::EINVAL)?;
        let resolve = ResolveFlags::from_bits(how.resolve).ok_or(Errno::EINVAL)?;
        let contradicts = OpenFlags::DIRECTORY | OpenFlags::PATH;
        if wanted == Wanted::Regular && flags.intersects(contradicts) {
            return Err(Errno::EINVAL);
        }
        if flags.contains(OpenFlags::PATH) && !PATH_FLAGS.contains(flags) {
            return Err(Errno::EINVAL);
        }
        let makes = flags.intersects(OpenFlags::CREAT | OpenFlags::TMPFILE_BIT);
        if how.mode & !0o7777 != 0 || (how.mode != 0 && !makes) {
            return Err(Errno::EINVAL);
        }
        if resolve.contains(ResolveFlags::BENEATH | ResolveFlags::IN_ROOT) {
            return Err(Errno::EINVAL);
        }
        let changes = OpenFlags::TRUNC | OpenFlags::CREAT | OpenFlags::TMPFILE_BIT;
        if resolve.contains(ResolveFlags::CACHED) && flags.intersects(changes) {
            return Err(Errno::EAGAIN);
        }
        Self { flags, mode: how.mode as u32, resolve, wanted }.check()
    }

    #[inline]
    fn check(self) -> Result<Self> {
        let flags = self.flags;
        if flags.contains(OpenFlags::TMPFILE_BIT) {
            let is_complete = flags.contains(OpenFlags::TMPFILE) && !flags.contains(OpenFlags::CREAT);
            if !is_complete || !flags.can_write() {
                return Err(Errno::EINVAL);
            }
        } else if flags.contains(OpenFlags::CREAT | OpenFlags::DIRECTORY) {
            return Err(Errno::EINVAL);
        }
        Ok(self)
    }

    /// The flags of open(2).
    #[inline]
    pub fn flags(&self) -> OpenFlags {
        self.flags
    }

    fn access(&self) -> Access {
        let mut access = Access::empty();
        let bits = self.flags.bits() & 3;
        // Access mode 3 checks both and gives neither (open(2)).
        access.set(Access::READ, bits != 1);
        access.set(Access::WRITE, bits != 0 || self.flags.contains(OpenFlags::TRUNC));
        access
    }

    fn walk_flags(&self) -> WalkFlags {
        let mut walk = WalkFlags::FOLLOW;
        let no_follow = self.flags.contains(OpenFlags::NOFOLLOW)
            || self.flags.contains(OpenFlags::CREAT | OpenFlags::EXCL);
        walk.set(WalkFlags::FOLLOW, !no_follow);
        walk.set(WalkFlags::DIRECTORY, self.flags.contains(OpenFlags::DIRECTORY));
        walk.set(WalkFlags::EMPTY_PATH, self.flags.contains(OpenFlags::EMPTYPATH));
        walk
    }
}

/// Opens `name`.
pub fn open(ctx: &WalkContext<'_>, at: At<'_>, name: &[u8], how: &How) -> Result<Arc<File>> {
    let flags = how.flags;
    if flags.contains(OpenFlags::PATH) {
        let path = walk::walk_with(ctx, at, name, how.walk_flags(), how.resolve)?;
        return File::new(path, Arc::new(NoOps), flags, ctx.cred);
    }
    if flags.contains(OpenFlags::TMPFILE_BIT) {
        return open_tmpfile(ctx, at, name, how);
    }
    if !flags.contains(OpenFlags::CREAT) {
        let path = walk::walk_with(ctx, at, name, how.walk_flags(), how.resolve)?;
        return open_path(&path, how, ctx.cred);
    }
    open_create(ctx, at, name, how)
}

/// Names what `path` is, as open(2) with `O_PATH` does.
pub fn open_as_path(path: &Path, cred: &Arc<Cred>) -> Result<Arc<File>> {
    File::new(path.clone(), Arc::new(NoOps), OpenFlags::PATH, cred)
}

/// Opens what `path` is, as open(2) without `O_CREAT` does after the walk.
pub fn open_path(path: &Path, how: &How, cred: &Arc<Cred>) -> Result<Arc<File>> {
    may_open(path, how, cred)?;
    finish(path, how, cred)
}

/// Opens what `path` is for someone who watches files: no permission is asked, and nobody is told of what is done with it.
pub fn open_untold(path: &Path, flags: OpenFlags, cred: &Arc<Cred>) -> Result<Arc<File>> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    let ops = open_ops(inode, &OpenRequest { flags, cred, path })?;
    File::new_untold(path.clone(), ops, flags, cred)
}

/// The checks between walk and open.
fn may_open(path: &Path, how: &How, cred: &Cred) -> Result<()> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    let access = how.access();
    let mount = path.mount.flags();
    if how.wanted == Wanted::Regular && !inode.is_regular() {
        return Err(Errno::EFTYPE);
    }
    match inode.kind() {
        FileKind::Symlink => return Err(Errno::ELOOP),
        FileKind::Directory if access.contains(Access::WRITE) => return Err(Errno::EISDIR),
        FileKind::Char | FileKind::Block if mount.contains(MountFlags::NODEV) => return Err(Errno::EACCES),
        _ => {}
    }
    let view = path.mount.id_view();
    perm::permission(&view, inode, cred, access)?;
    if inode.flags().contains(InodeFlags::APPEND) {
        let appends = how.flags.contains(OpenFlags::APPEND) && !how.flags.contains(OpenFlags::TRUNC);
        if access.contains(Access::WRITE) && !appends {
            return Err(Errno::EPERM);
        }
    }
    if how.flags.contains(OpenFlags::NOATIME) && !security::owner_or_capable(cred, view.uid(inode)) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// Makes the description and truncates.
fn finish(path: &Path, how: &How, cred: &Arc<Cred>) -> Result<Arc<File>> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    let is_program = how.wanted == Wanted::Program;
    if is_program {
        notify::ask(path, Event::OPEN_EXEC_PERM)?;
    }
    notify::ask(path, Event::OPEN_PERM)?;
    let request = OpenRequest { flags: how.flags, cred, path };
    let truncates = how.flags.contains(OpenFlags::TRUNC) && inode.is_regular();
    let access = if truncates { Some(path.mount.want_write()?) } else { None };
    break_leases(inode, how.flags)?;
    let ops = open_ops(inode, &request)?;
    let file = File::new(path.clone(), ops, how.flags, cred)?;
    // A lease that came since then is not given to a file that this description has open, or is broken here.
    break_leases(inode, how.flags)?;
    if !inode.is_regular() {
        // Regular files are checked by `want_write` in `File::new`; of the rest only directories matter here.
        drop(access);
    } else if truncates {
        truncate_open(path, inode, cred)?;
        drop(access);
    }
    if how.flags.contains(OpenFlags::DIRECT) {
        file.ops().check_flags(&file, how.flags)?;
    }
    notify::path_event(path, if is_program { Event::OPEN | Event::OPEN_EXEC } else { Event::OPEN });
    Ok(file)
}

/// Has the leases on `inode` broken that an open with `flags` must not meet. `EAGAIN`: with `O_NONBLOCK`. `ERESTARTSYS`.
#[inline]
fn break_leases(inode: &Inode, flags: OpenFlags) -> Result<()> {
    let wanted =
        if flags.can_write() || flags.contains(OpenFlags::TRUNC) { LockKind::Write } else { LockKind::Read };
    let blocking = if flags.contains(OpenFlags::NONBLOCK) { Blocking::No } else { Blocking::Yes };
    lease::break_leases(inode, wanted, blocking)
}

fn truncate_open(path: &Path, inode: &Arc<Inode>, cred: &Cred) -> Result<()> {
    // Whoever opens without write access (O_RDONLY | O_TRUNC) still must not cut a running program.
    inode.get_write_access()?;
    let result = crate::attr::truncate_inode(&path.mount, inode, 0, cred);
    inode.put_write_access();
    result
}

fn open_ops(inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
    match inode.kind() {
        FileKind::Fifo => PipeEnd::open_fifo(inode, request.flags),
        FileKind::Char => dev::open(DeviceKind::Char, inode.rdev(), inode, request),
        FileKind::Block => dev::open(DeviceKind::Block, inode.rdev(), inode, request),
        FileKind::Socket => Err(Errno::ENXIO),
        _ => inode.ops().open(inode, request),
    }
}

/// open(2) with `O_CREAT`.
fn open_create(ctx: &WalkContext<'_>, at: At<'_>, name: &[u8], how: &How) -> Result<Arc<File>> {
    let is_exclusive = how.flags.contains(OpenFlags::EXCL);
    if !is_exclusive && let Some(file) = open_existing(ctx, at, name, how)? {
        return Ok(file);
    }
    let start = walk::Start::new(ctx, at, name, how.resolve)?;
    walk::check_name_for_create(name)?;
    let mut walker = Walker::new(ctx, start.path(), name, how.resolve)?;
    loop {
        let last = match walker.walk_to_last()? {
            Last::Name(last, false) => last,
            _ => return Err(Errno::EISDIR),
        };
        let child = match walker.child(&last) {
            Ok(child) if child.inode().is_some() => child,
            Ok(_) => match create_last(walker.path(), &last, how, ctx)? {
                Some(file) => return Ok(file),
                None => walker.child(&last)?, // somebody else was faster
            },
            Err(errno) => return Err(errno),
        };
        let Some(inode) = child.inode().cloned() else { return Err(Errno::ENOENT) };
        if is_exclusive {
            return Err(Errno::EEXIST);
        }
        if inode.is_symlink() && how.walk_flags().contains(WalkFlags::FOLLOW) {
            walker.follow(&child, &inode, true)?;
            continue;
        }
        return open_found(walker.path().inode(), &child, how, ctx.cred);
    }
}

/// Tries the quick way for a file that is there already; `None` if it is not.
fn open_existing(ctx: &WalkContext<'_>, at: At<'_>, name: &[u8], how: &How) -> Result<Option<Arc<File>>> {
    if name.last() == Some(&b'/') {
        return Ok(None);
    }
    match walk::walk_with(ctx, at, name, how.walk_flags(), how.resolve) {
        Ok(path) => {
            let dir = path.dentry.parent();
            open_found(dir.as_ref().and_then(|dir| dir.inode()), &path, how, ctx.cred).map(Some)
        }
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// `O_CREAT` found a file.
fn open_found(dir: Option<&Arc<Inode>>, path: &Path, how: &How, cred: &Arc<Cred>) -> Result<Arc<File>> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    if inode.is_dir() {
        return Err(Errno::EISDIR);
    }
    if let Some(dir) = dir {
        perm::may_create_in_sticky(&path.mount.id_view(), dir, inode, cred)?;
    }
    open_path(path, how, cred)
}

/// Makes the last component and opens it; `None` if it has come into being meanwhile.
fn create_last(dir: &Path, name: &[u8], how: &How, ctx: &WalkContext<'_>) -> Result<Option<Arc<File>>> {
    let mode = S_IFREG | namespace::masked(dir, how.mode & 0o7777, ctx)?;
    let made = namespace::create_in(dir, name, mode, 0, &[], ctx.cred);
    let path = match made {
        Ok(path) => path,
        Err(Errno::EEXIST) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    // The mode of a file just made does not restrict the one who made it, and there is nothing to truncate.
    let how = How { flags: how.flags - OpenFlags::TRUNC, ..*how };
    finish(&path, &how, ctx.cred).map(Some)
}

/// `O_TMPFILE`.
fn open_tmpfile(ctx: &WalkContext<'_>, at: At<'_>, name: &[u8], how: &How) -> Result<Arc<File>> {
    let flags = WalkFlags::FOLLOW | WalkFlags::DIRECTORY;
    let path = walk::walk_with(ctx, at, name, flags, how.resolve)?;
    let _write = path.mount.want_write()?;
    let dir = path.inode().ok_or(Errno::ENOENT)?;
    let view = path.mount.id_view();
    view.check_maker(dir.sb(), ctx.cred)?;
    perm::permission(&view, dir, ctx.cred, Access::WRITE | Access::EXEC)?;
    let mode = S_IFREG | namespace::masked(&path, how.mode & 0o7777, ctx)?;
    let (mode, uid, gid) = perm::new_owner(&view, dir, ctx.cred, mode)?;
    let inherited = acl::inherit(dir, mode)?;
    let new = NewInode { mode: inherited.mode, uid, gid, rdev: 0, target: &[] };
    let inode = dir.ops().tmpfile(dir, &new)?;
    inherited.give(&inode)?;
    let linkable =
        if how.flags.contains(OpenFlags::EXCL) { namespace::Linkable::No } else { namespace::Linkable::Yes };
    let dentry = namespace::unnamed_dentry(&path.dentry, inode, linkable);
    finish(&Path { mount: path.mount.clone(), dentry }, how, ctx.cred)
}

/// Opens a program for execve(2): a regular file that may be executed; nobody may write to it meanwhile.
///
/// `EACCES`: not that. `ETXTBSY`: open for writing.
pub fn open_exec(
    ctx: &WalkContext<'_>,
    at: At<'_>,
    name: &[u8],
    flags: WalkFlags,
) -> Result<(Arc<File>, DenyWrite)> {
    let path = walk::walk(ctx, at, name, flags)?;
    let inode = path.inode().ok_or(Errno::ENOENT)?.clone();
    match inode.kind() {
        FileKind::Symlink => return Err(Errno::ELOOP),
        FileKind::Regular => {}
        _ => return Err(Errno::EACCES),
    }
    if path.mount.flags().contains(MountFlags::NOEXEC) {
        return Err(Errno::EACCES);
    }
    perm::permission(&path.mount.id_view(), &inode, ctx.cred, Access::EXEC)?;
    let how =
        How { flags: OpenFlags::empty(), mode: 0, resolve: ResolveFlags::empty(), wanted: Wanted::Program };
    let file = finish(&path, &how, ctx.cred)?;
    let deny = inode.deny_write_access()?;
    Ok((file, deny))
}
