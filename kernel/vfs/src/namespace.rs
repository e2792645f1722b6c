//! Changes of names: mkdir, mknod, symlink, link, unlink, rmdir, rename.
//!
//! Each takes the directory's `sem` for writing, looks both names up under it, checks, and then calls the file
//! system; the dentry cache follows at once, before the lock opens.
//!
//! # Lock order
//!
//! ```text
//! SuperBlock::rename                    only renames between directories
//!   Inode::sem of directories           ancestors first, then by address
//!     Inode::sem of what is linked, removed or replaced, by address
//!       dcache chain locks
//! ```
//!
//! Sources: mkdir(2), mknod(2), symlink(2), link(2), unlink(2), rmdir(2), rename(2).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{
    AtFlags, PATH_MAX, RenameFlags, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK,
};
use abi::{Errno, Result};
use hal::rcu;
use security::{Access, Cap, Cred};

use crate::acl;
use crate::dcache::{self, Hash, Sequence};
use crate::dentry::{Dentry, Name};
use crate::fs_context::{FsContext, WalkContext};
use crate::inode::{FileKind, Inode, InodeFlags, NewInode, Rename, RenameKind};
use crate::mount::Mount;
use crate::notify::{self, Event};
use crate::path::Path;
use crate::perm::{self, Removal};
use crate::places::OnVictim;
use crate::walk::{self, At, Last, WalkFlags, lookup_locked};

/// Makes an entry in `dir`, for `cred`. `EEXIST` goes before `EROFS` and `EACCES`, as on Linux.
pub fn create_in(dir: &Path, name: &[u8], mode: u32, rdev: u64, target: &[u8], cred: &Cred) -> Result<Path> {
    let write = dir.mount.want_write();
    let inode = dir.inode().ok_or(Errno::ENOENT)?;
    let _exclusive = inode.sem.write();
    let dentry = lookup_locked(&dir.dentry, name)?;
    if !dentry.is_negative() {
        return Err(Errno::EEXIST);
    }
    let _write = write?;
    let view = dir.mount.id_view();
    perm::may_make_entries(&view, inode, cred)?;
    let (mode, uid, gid) = perm::new_owner(&view, inode, cred, mode)?;
    let inherited = acl::inherit(inode, mode)?;
    let new = NewInode { mode: inherited.mode, uid, gid, rdev, target };
    let made = inode.ops().create(inode, name, &new)?;
    inode.touch_mtime();
    let given = inherited.give(&made);
    notify::entry_event(inode, name, &made, Event::CREATE);
    if made.is_dir() {
        made.show_through(&dir.dentry, &dentry);
    }
    dentry.set_inode(made);
    given?;
    Ok(Path { mount: dir.mount.clone(), dentry })
}

/// Whether an unnamed file may get a name later (open(2), `O_TMPFILE` without `O_EXCL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkable {
    /// It may.
    Yes,
    /// It may not.
    No,
}

/// A dentry for an `O_TMPFILE` inode: in `dir`, but not to be found.
pub fn unnamed_dentry(dir: &Arc<Dentry>, inode: Arc<Inode>, linkable: Linkable) -> Arc<Dentry> {
    if linkable == Linkable::Yes {
        inode.set_flags(InodeFlags::LINKABLE, InodeFlags::empty());
    }
    let name = alloc::format!("#{}", inode.ino());
    let dentry = Dentry::new(dir, name.as_bytes(), Hash::default(), Some(inode));
    dentry.set_deleted();
    dentry
}

/// The directory and the name of something to be made.
fn parent_for_create(ctx: &WalkContext<'_>, at: At<'_>, name: &[u8], slash: Slash) -> Result<(Path, Name)> {
    let parent = walk::walk_parent(ctx, at, name)?;
    match parent.last {
        Last::Name(last, has_slash) => {
            if has_slash && slash == Slash::Refused {
                // Something that is there is EEXIST even so.
                let there = walk::lookup_child(&parent.dir.dentry, &last)?;
                return Err(if there.is_negative() { Errno::ENOENT } else { Errno::EEXIST });
            }
            Ok((parent.dir, last))
        }
        _ => Err(Errno::EEXIST),
    }
}

/// Whether a name to be made may end in slashes: only a directory's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slash {
    Allowed,
    Refused,
}

/// The mode of something to be made in `dir`: the umask counts unless a default list does.
pub(crate) fn masked(dir: &Path, mode: u32, ctx: &WalkContext<'_>) -> Result<u32> {
    Ok(acl::masked(dir.inode().ok_or(Errno::ENOENT)?, mode, ctx.fs.umask()))
}

/// mkdirat(2).
pub fn mkdirat(ctx: &WalkContext<'_>, at: At<'_>, name: &[u8], mode: u32) -> Result<()> {
    let (dir, last) = parent_for_create(ctx, at, name, Slash::Allowed)?;
    let mode = S_IFDIR | masked(&dir, mode & 0o1777, ctx)?;
    create_in(&dir, &last, mode, 0, &[], ctx.cred).map(drop)
}

/// mknodat(2). `EPERM`: a device without `CAP_MKNOD`, or a directory. `EINVAL`: no such type.
pub fn mknodat(ctx: &WalkContext<'_>, at: At<'_>, name: &[u8], mode: u32, rdev: u64) -> Result<()> {
    let kind = match mode & S_IFMT {
        0 => S_IFREG,
        kind @ (S_IFREG | S_IFIFO | S_IFSOCK | S_IFCHR | S_IFBLK) => kind,
        S_IFDIR => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    };
    let is_device = kind == S_IFCHR || kind == S_IFBLK;
    let (dir, last) = parent_for_create(ctx, at, name, Slash::Refused)?;
    let is_whiteout = kind == S_IFCHR && rdev == 0;
    if is_device && !is_whiteout && !ctx.cred.capable(Cap::MKNOD) {
        // Who may not write the directory is told that first.
        let inode = dir.inode().ok_or(Errno::ENOENT)?;
        perm::permission(&dir.mount.id_view(), inode, ctx.cred, Access::WRITE | Access::EXEC)?;
        return Err(Errno::EPERM);
    }
    let mode = kind | masked(&dir, mode & 0o7777, ctx)?;
    create_in(&dir, &last, mode, if is_device { rdev } else { 0 }, &[], ctx.cred).map(drop)
}

/// Makes a socket node for bind(2) and gives its path. `EADDRINUSE`: the name is taken.
pub fn make_socket(ctx: &WalkContext<'_>, name: &[u8], mode: u32) -> Result<Path> {
    let result = parent_for_create(ctx, At::Cwd, name, Slash::Refused).and_then(|(dir, last)| {
        create_in(&dir, &last, S_IFSOCK | masked(&dir, mode & 0o7777, ctx)?, 0, &[], ctx.cred)
    });
    result.map_err(|errno| if errno == Errno::EEXIST { Errno::EADDRINUSE } else { errno })
}

/// symlinkat(2). `ENOENT`: an empty target.
pub fn symlinkat(ctx: &WalkContext<'_>, target: &[u8], at: At<'_>, name: &[u8]) -> Result<()> {
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    if target.len() >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let (dir, last) = parent_for_create(ctx, at, name, Slash::Refused)?;
    create_in(&dir, &last, S_IFLNK | 0o777, 0, target, ctx.cred).map(drop)
}

/// linkat(2).
pub fn linkat(
    ctx: &WalkContext<'_>,
    old: (At<'_>, &[u8]),
    new: (At<'_>, &[u8]),
    flags: AtFlags,
) -> Result<()> {
    if !(AtFlags::SYMLINK_FOLLOW | AtFlags::EMPTY_PATH).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let mut walk_flags = WalkFlags::empty();
    walk_flags.set(WalkFlags::FOLLOW, flags.contains(AtFlags::SYMLINK_FOLLOW));
    walk_flags.set(WalkFlags::EMPTY_PATH, flags.contains(AtFlags::EMPTY_PATH));
    if flags.contains(AtFlags::EMPTY_PATH) && !may_link_descriptor(ctx, old.0) {
        return Err(Errno::ENOENT);
    }
    let old = walk::walk(ctx, old.0, old.1, walk_flags)?;
    let (dir, name) = parent_for_create(ctx, new.0, new.1, Slash::Refused)?;
    link_in(&old, &dir, &name, ctx.cred)
}

/// `AT_EMPTY_PATH` needs a capability, or the very credentials that opened the file (Linux since 6.10).
fn may_link_descriptor(ctx: &WalkContext<'_>, at: At<'_>) -> bool {
    let is_own = match at {
        At::Fd(fd) => ctx.files.get_any(fd).is_ok_and(|file| Arc::ptr_eq(file.cred(), ctx.cred)),
        _ => false,
    };
    is_own || ctx.cred.own_capable(Cap::DAC_READ_SEARCH)
}

/// Gives what `old` names the further name `name` in `dir`, for `cred`.
pub fn link_in(old: &Path, dir: &Path, name: &[u8], cred: &Cred) -> Result<()> {
    let write = dir.mount.want_write();
    let dir_inode = dir.inode().ok_or(Errno::ENOENT)?;
    let inode = old.inode().ok_or(Errno::ENOENT)?;
    let _exclusive = dir_inode.sem.write();
    let dentry = lookup_locked(&dir.dentry, name)?;
    if !dentry.is_negative() {
        return Err(Errno::EEXIST);
    }
    let _write = write?;
    if !Arc::ptr_eq(&old.mount, &dir.mount) {
        return Err(Errno::EXDEV);
    }
    let view = dir.mount.id_view();
    perm::may_link(&view, inode, cred)?;
    perm::may_make_entries(&view, dir_inode, cred)?;
    if !Arc::ptr_eq(inode.sb(), dir_inode.sb()) {
        return Err(Errno::EXDEV);
    }
    if inode.is_dir() || inode.flags().intersects(InodeFlags::APPEND | InodeFlags::IMMUTABLE) {
        return Err(Errno::EPERM);
    }
    let _subject = inode.sem.write();
    if inode.nlink() == 0 && !inode.flags().contains(InodeFlags::LINKABLE) {
        return Err(Errno::ENOENT);
    }
    dir_inode.ops().link(dir_inode, name, inode)?;
    inode.set_flags(InodeFlags::empty(), InodeFlags::LINKABLE);
    inode.touch_ctime();
    dir_inode.touch_mtime();
    dentry.set_inode(inode.clone());
    notify::inode_event(inode, Event::ATTRIB);
    notify::entry_event(dir_inode, name, inode, Event::CREATE);
    Ok(())
}

/// unlinkat(2) without `AT_REMOVEDIR`, and unlink(2).
pub fn unlinkat(ctx: &WalkContext<'_>, at: At<'_>, name: &[u8]) -> Result<()> {
    let parent = walk::walk_parent(ctx, at, name)?;
    let Last::Name(last, has_slash) = parent.last else { return Err(Errno::EISDIR) };
    if has_slash {
        let victim = walk::lookup_child(&parent.dir.dentry, &last)?;
        let inode = victim.inode().ok_or(Errno::ENOENT)?;
        return Err(if inode.is_dir() { Errno::EISDIR } else { Errno::ENOTDIR });
    }
    unlink_in(&parent.dir, &last, ctx.cred)
}

/// Removes an entry of `dir` that is no directory, for `cred`.
pub fn unlink_in(dir: &Path, name: &[u8], cred: &Cred) -> Result<()> {
    let mut on_victim = OnVictim::default();
    let _write = dir.mount.want_write()?;
    let dir_inode = dir.inode().ok_or(Errno::ENOENT)?;
    let _exclusive = dir_inode.sem.write();
    let victim = lookup_locked(&dir.dentry, name)?;
    let inode = victim.inode().ok_or(Errno::ENOENT)?;
    perm::may_delete(&dir.mount.id_view(), dir_inode, &victim, cred, Removal::Other)?;
    let _subject = inode.sem.write();
    on_victim.look(&victim, &dir.mount)?;
    dir_inode.ops().unlink(dir_inode, name, inode)?;
    dcache::remove_deleted(&victim);
    on_victim.removed();
    inode.touch_ctime();
    removed(dir_inode, name, inode);
    Ok(())
}

/// What follows every removal of a name.
fn removed(dir: &Inode, name: &[u8], inode: &Inode) {
    dir.touch_mtime();
    if !inode.is_dir() {
        // The number of names is an attribute.
        notify::inode_event(inode, Event::ATTRIB);
    }
    notify::entry_event(dir, name, inode, Event::DELETE);
    if inode.nlink() == 0 || inode.is_dir() {
        notify::inode_event(inode, Event::DELETE_SELF);
    }
}

/// unlinkat(2) with `AT_REMOVEDIR`, and rmdir(2).
pub fn rmdirat(ctx: &WalkContext<'_>, at: At<'_>, name: &[u8]) -> Result<()> {
    let parent = walk::walk_parent(ctx, at, name)?;
    let last = match parent.last {
        Last::Name(last, _) => last,
        Last::Dot => return Err(Errno::EINVAL),
        Last::DotDot => return Err(Errno::ENOTEMPTY),
        Last::Root => return Err(Errno::EBUSY),
    };
    rmdir_in(&parent.dir, &last, ctx.cred)
}

/// Removes the empty directory `name` from `dir`, for `cred`.
pub fn rmdir_in(dir: &Path, name: &[u8], cred: &Cred) -> Result<()> {
    let mut on_victim = OnVictim::default();
    let _write = dir.mount.want_write()?;
    let dir_inode = dir.inode().ok_or(Errno::ENOENT)?;
    let _exclusive = dir_inode.sem.write();
    let victim = lookup_locked(&dir.dentry, name)?;
    let inode = victim.inode().ok_or(Errno::ENOENT)?;
    perm::may_delete(&dir.mount.id_view(), dir_inode, &victim, cred, Removal::Directory)?;
    let _subject = inode.sem.write();
    on_victim.look(&victim, &dir.mount)?;
    dir_inode.ops().rmdir(dir_inode, name, inode)?;
    inode.set_flags(InodeFlags::DEAD, InodeFlags::empty());
    dcache::remove_deleted(&victim);
    on_victim.removed();
    removed(dir_inode, name, inode);
    Ok(())
}

/// renameat2(2).
pub fn renameat2(
    ctx: &WalkContext<'_>,
    old: (At<'_>, &[u8]),
    new: (At<'_>, &[u8]),
    flags: RenameFlags,
) -> Result<()> {
    let is_exchange = flags.contains(RenameFlags::EXCHANGE);
    if is_exchange && flags.intersects(RenameFlags::NOREPLACE | RenameFlags::WHITEOUT) {
        return Err(Errno::EINVAL);
    }
    if flags.contains(RenameFlags::WHITEOUT) && !ctx.cred.capable(Cap::MKNOD) {
        return Err(Errno::EPERM);
    }
    let from = walk::walk_parent(ctx, old.0, old.1)?;
    let to = walk::walk_parent(ctx, new.0, new.1)?;
    if !Arc::ptr_eq(&from.dir.mount, &to.dir.mount) {
        return Err(Errno::EXDEV);
    }
    let Last::Name(old_name, old_slash) = from.last else { return Err(Errno::EBUSY) };
    let Last::Name(new_name, new_slash) = to.last else {
        return Err(if flags.contains(RenameFlags::NOREPLACE) { Errno::EEXIST } else { Errno::EBUSY });
    };
    let mut on_victims = (OnVictim::default(), OnVictim::default());
    let _write = from.dir.mount.want_write()?;
    let sb = from.dir.dentry.sb().clone();
    let _tree = (!Arc::ptr_eq(&from.dir.dentry, &to.dir.dentry)).then(|| sb.rename.lock());
    let (mount, from, to) = (&from.dir.mount, &from.dir.dentry, &to.dir.dentry);
    Step { mount, from, old_name, old_slash, to, new_name, new_slash, flags }.run(ctx.cred, &mut on_victims)
}

/// Renames between two directories of one mount, for `cred`; `flags` are as renameat2(2) checks them.
pub fn rename_in(old: (&Path, &[u8]), new: (&Path, &[u8]), flags: RenameFlags, cred: &Cred) -> Result<()> {
    if !Arc::ptr_eq(&old.0.mount, &new.0.mount) {
        return Err(Errno::EXDEV);
    }
    let mut on_victims = (OnVictim::default(), OnVictim::default());
    let _write = old.0.mount.want_write()?;
    let (mount, from, to) = (&old.0.mount, &old.0.dentry, &new.0.dentry);
    let _tree = (!Arc::ptr_eq(from, to)).then(|| from.sb().rename.lock());
    let (old_name, new_name) = (Name::from_slice(old.1), Name::from_slice(new.1));
    Step { mount, from, old_name, old_slash: false, to, new_name, new_slash: false, flags }
        .run(cred, &mut on_victims)
}

/// A rename with both directories found.
struct Step<'a> {
    mount: &'a Arc<Mount>,
    from: &'a Arc<Dentry>,
    old_name: Name,
    old_slash: bool,
    to: &'a Arc<Dentry>,
    new_name: Name,
    new_slash: bool,
    flags: RenameFlags,
}

impl Step<'_> {
    fn has(&self, flag: RenameFlags) -> bool {
        self.flags.contains(flag)
    }

    /// Whether it is between two directories; two dentries may be one directory.
    fn is_across(&self) -> bool {
        match (self.from.inode(), self.to.inode()) {
            (Some(from), Some(to)) => !Arc::ptr_eq(from, to),
            _ => !Arc::ptr_eq(self.from, self.to),
        }
    }

    /// What is mounted on the old and the new name goes to `on_victims`, to be dropped after all locks.
    fn run(&self, cred: &Cred, on_victims: &mut (OnVictim, OnVictim)) -> Result<()> {
        let from = self.from.inode().ok_or(Errno::ENOENT)?;
        let to = self.to.inode().ok_or(Errno::ENOENT)?;
        let to_first = self.is_across() && order_before(self.to, to, self.from, from);
        let (first, second) = if to_first { (to, from) } else { (from, to) };
        let _first = first.sem.write();
        let _second = self.is_across().then(|| second.sem.write());
        let old = lookup_locked(self.from, &self.old_name)?;
        let new = lookup_locked(self.to, &self.new_name)?;
        let inode = old.inode().ok_or(Errno::ENOENT)?;
        if self.check(&old, &new, cred)? == Plan::Nothing {
            return Ok(());
        }
        on_victims.0.look(&old, self.mount)?;
        on_victims.1.look(&new, self.mount)?;
        let target = new.inode();
        let subject = (!inode.is_dir()).then_some(inode);
        let (a, b) = match (subject, target) {
            (Some(s), Some(t)) if Arc::as_ptr(t) < Arc::as_ptr(s) => (Some(t), Some(s)),
            pair => pair,
        };
        let _a = a.map(|inode| inode.sem.write());
        let _b = b.map(|inode| inode.sem.write());
        let kind = match self.flags {
            flags if flags.contains(RenameFlags::EXCHANGE) => RenameKind::Exchange,
            flags if flags.contains(RenameFlags::WHITEOUT) => RenameKind::Whiteout,
            _ => RenameKind::Move,
        };
        from.ops().rename(&Rename {
            old_dir: from,
            old_name: &self.old_name,
            inode,
            new_dir: to,
            new_name: &self.new_name,
            target,
            kind,
        })?;
        self.commit(&old, &new, kind);
        if kind != RenameKind::Exchange {
            on_victims.1.removed();
        }
        Ok(())
    }

    /// All checks; changes nothing.
    fn check(&self, old: &Arc<Dentry>, new: &Arc<Dentry>, cred: &Cred) -> Result<Plan> {
        let from = self.from.inode().ok_or(Errno::ENOENT)?;
        let to = self.to.inode().ok_or(Errno::ENOENT)?;
        let inode = old.inode().ok_or(Errno::ENOENT)?;
        let is_exchange = self.has(RenameFlags::EXCHANGE);
        if self.has(RenameFlags::NOREPLACE) && !new.is_negative() {
            return Err(Errno::EEXIST);
        }
        if is_exchange {
            let target = new.inode().ok_or(Errno::ENOENT)?;
            if self.new_slash && !target.is_dir() {
                return Err(Errno::ENOTDIR);
            }
        }
        if !inode.is_dir() && (self.old_slash || (self.new_slash && !is_exchange)) {
            return Err(Errno::ENOTDIR);
        }
        if self.is_across() && self.to.is_below_inode(inode) {
            return Err(Errno::EINVAL);
        }
        if self.is_across() && new.inode().is_some_and(|target| self.from.is_below_inode(target)) {
            return Err(if is_exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if new.inode().is_some_and(|target| Arc::ptr_eq(target, inode)) {
            return Ok(Plan::Nothing);
        }
        let removal = |is_dir: bool| if is_dir { Removal::Directory } else { Removal::Other };
        let view = self.mount.id_view();
        perm::may_delete(&view, from, old, cred, removal(inode.is_dir()))?;
        match new.inode() {
            None => perm::may_make_entries(&view, to, cred)?,
            Some(target) if is_exchange => {
                perm::may_delete(&view, to, new, cred, removal(target.is_dir()))?;
            }
            Some(_) => perm::may_delete(&view, to, new, cred, removal(inode.is_dir()))?,
        }
        if self.is_across() {
            // ".." changes in a directory that moves.
            let moves = [Some(inode), new.inode().filter(|_| is_exchange)];
            for dir in moves.into_iter().flatten().filter(|inode| inode.is_dir()) {
                perm::permission(&view, dir, cred, Access::WRITE)?;
            }
        }
        Ok(Plan::Rename)
    }

    /// The dentry cache, times and events follow what the file system did.
    fn commit(&self, old: &Arc<Dentry>, new: &Arc<Dentry>, kind: RenameKind) {
        let (Some(from), Some(to), Some(inode)) = (self.from.inode(), self.to.inode(), old.inode()) else {
            return;
        };
        let target = new.inode();
        match (kind, target) {
            (RenameKind::Exchange, _) => dcache::exchange(old, new),
            (_, Some(replaced)) => {
                if replaced.is_dir() {
                    replaced.set_flags(InodeFlags::DEAD, InodeFlags::empty());
                }
                replaced.touch_ctime();
                dcache::remove_deleted(new);
                dcache::rename(old, self.to, &self.new_name);
            }
            (_, None) => {
                dcache::remove(new);
                dcache::rename(old, self.to, &self.new_name);
            }
        }
        inode.touch_ctime();
        from.touch_mtime();
        to.touch_mtime();
        notify::rename_event((from, &self.old_name), (to, &self.new_name), inode);
        if let (RenameKind::Exchange, Some(target)) = (kind, target) {
            target.touch_ctime();
            notify::rename_event((to, &self.new_name), (from, &self.old_name), target);
        } else if let Some(target) = target {
            notify::inode_event(target, Event::ATTRIB);
            if target.nlink() == 0 || target.is_dir() {
                notify::inode_event(target, Event::DELETE_SELF);
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Plan {
    Rename,
    /// Both names lead to one inode already: rename(2) does nothing.
    Nothing,
}

/// Whether directory `a` is locked before directory `b`.
fn order_before(a: &Arc<Dentry>, a_inode: &Arc<Inode>, b: &Arc<Dentry>, b_inode: &Arc<Inode>) -> bool {
    if b.is_below_inode(a_inode) {
        return true;
    }
    !a.is_below_inode(b_inode) && Arc::as_ptr(a_inode) < Arc::as_ptr(b_inode)
}

/// readlinkat(2): the text of a link. `EINVAL`: not a link. `ENOENT`: empty name and not a link.
pub fn readlinkat(ctx: &WalkContext<'_>, at: At<'_>, name: &[u8]) -> Result<alloc::vec::Vec<u8>> {
    let path = walk::walk(ctx, at, name, WalkFlags::EMPTY_PATH)?;
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    if inode.kind() != FileKind::Symlink {
        return Err(if name.is_empty() { Errno::ENOENT } else { Errno::EINVAL });
    }
    crate::rw::touch_atime(&path);
    if let Some(target) = inode.ops().link_in_memory() {
        return Ok(target.to_vec());
    }
    inode.ops().link_text(inode)
}

/// chdir(2) and fchdir(2): checks that `path` can be a working directory, then makes it that.
pub fn chdir(ctx: &WalkContext<'_>, path: Path) -> Result<()> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    if !inode.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    perm::permission(&path.mount.id_view(), inode, ctx.cred, Access::EXEC)?;
    ctx.fs.set_cwd(path);
    Ok(())
}

/// chroot(2). `EPERM` without `CAP_SYS_CHROOT`.
pub fn chroot(ctx: &WalkContext<'_>, path: Path) -> Result<()> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    if !inode.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    perm::permission(&path.mount.id_view(), inode, ctx.cred, Access::EXEC)?;
    if !ctx.cred.own_capable(Cap::SYS_CHROOT) {
        return Err(Errno::EPERM);
    }
    ctx.fs.set_root(path);
    Ok(())
}

/// getcwd(2), without the final NUL. `ENOENT`: the directory was removed.
pub fn getcwd(fs: &FsContext) -> Result<Vec<u8>> {
    if let Some(text) = getcwd_quickly(fs) {
        return Ok(text);
    }
    let cwd = fs.cwd();
    if cwd.dentry.is_deleted() {
        return Err(Errno::ENOENT);
    }
    let spelled = cwd.spell(Some(&fs.root()));
    if spelled.is_reachable {
        return Ok(spelled.text);
    }
    let mut text = b"(unreachable)".to_vec();
    text.extend_from_slice(&spelled.text);
    Ok(text)
}

/// The working directory as seen from the root, if that can be told from memory alone, without a reference counted.
fn getcwd_quickly(fs: &FsContext) -> Option<Vec<u8>> {
    /// The longest text that is tried, with its NUL.
    const ROOM: usize = 256;
    let mut text = Vec::new();
    text.try_reserve_exact(ROOM).ok()?;
    let sequence = Sequence::begin()?;
    let guard = rcu::read_lock();
    let paths = fs.paths(&guard);
    let is_spelled = !paths.cwd.dentry.is_deleted()
        && paths.cwd.spell_within(&paths.root, &guard, &mut text, ROOM - 1).is_some();
    (is_spelled && sequence.is_same()).then_some(text)
}
