//! mount(2), umount2(2), pivot_root(2).
//!
//! Sources: mount(2), umount(2), pivot_root(2), mount_namespaces(7).

use alloc::sync::Arc;

use abi::{Errno, Result};
use sched::Mutex;
use security::{Cap, UserNs};

use crate::fs_context::WalkContext;
use crate::mount::{self, Mount, MountFlags, MountNs, Unbindable};
use crate::mount_fd::MovePlace;
use crate::path::Path;
use crate::propagation::{Inherit, Propagation, Removal, Spread};
use crate::superblock::{self, FileSystemType, MountRequest, SbFlags};
use crate::walk::{self, At, WalkFlags};

const MS_REMOUNT: u64 = 32;
const MS_BIND: u64 = 4096;
const MS_MOVE: u64 = 8192;
const MS_REC: u64 = 16384;
const MS_UNBINDABLE: u64 = 1 << 17;
const MS_PRIVATE: u64 = 1 << 18;
const MS_SLAVE: u64 = 1 << 19;
const MS_SHARED: u64 = 1 << 20;
const MS_RELATIME: u64 = 1 << 21;
const MS_STRICTATIME: u64 = 1 << 24;
const MS_NOATIME: u64 = 1024;
const MS_MAGIC: u64 = 0xc0ed_0000;
const MS_MAGIC_MASK: u64 = 0xffff_0000;

const MNT_FORCE: u32 = 1;
const MNT_DETACH: u32 = 2;
const MNT_EXPIRE: u32 = 4;
const UMOUNT_NOFOLLOW: u32 = 8;

/// The mount flags in the flags of mount(2).
fn mount_flags(flags: u64) -> MountFlags {
    let mut mount = MountFlags::from_bits_truncate(flags as u32);
    mount.remove(MountFlags::RELATIME | MountFlags::STRICTATIME);
    // relatime unless told otherwise, since Linux 2.6.30.
    if flags & MS_STRICTATIME != 0 {
        mount |= MountFlags::STRICTATIME;
    } else if flags & MS_NOATIME == 0 || flags & MS_RELATIME != 0 {
        mount |= MountFlags::RELATIME;
    }
    mount
}

fn sb_flags(flags: u64) -> SbFlags {
    SbFlags::from_bits_truncate(flags as u32)
}

/// mount(2).
///
/// `EPERM` without `CAP_SYS_ADMIN`; `ENODEV`: no such file system; others as mount(2) tells.
pub fn mount(
    ctx: &WalkContext<'_>,
    source: &[u8],
    target: &[u8],
    fs_type: &[u8],
    mut flags: u64,
    data: &[u8],
) -> Result<()> {
    if flags & MS_MAGIC_MASK == MS_MAGIC {
        flags &= !MS_MAGIC_MASK;
    }
    let target = walk::walk(ctx, At::Cwd, target, WalkFlags::FOLLOW)?;
    require_admin(ctx)?;
    let propagations = flags & (MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE);
    if flags & (MS_REMOUNT | MS_BIND) == MS_REMOUNT | MS_BIND {
        return remount_bind(ctx, &target, flags);
    }
    if flags & MS_REMOUNT != 0 {
        return remount(ctx, &target, flags, data);
    }
    if flags & MS_BIND != 0 {
        let source = walk::walk(ctx, At::Cwd, source, WalkFlags::FOLLOW)?;
        return bind(ctx, &source, &target, if flags & MS_REC != 0 { Depth::Tree } else { Depth::One });
    }
    if propagations != 0 {
        return change_propagation(ctx, &target, flags);
    }
    if flags & MS_MOVE != 0 {
        let source = walk::walk(ctx, At::Cwd, source, WalkFlags::FOLLOW)?;
        return move_mount(ctx, &source, &target);
    }
    let fs_type = superblock::fs_type(fs_type)?;
    check_mount_right(ctx, fs_type, &ctx.cred.user_ns)?;
    let request =
        MountRequest { source, data, files: &[], flags: sb_flags(flags), user_ns: &ctx.cred.user_ns, ctx };
    let root = fs_type.mount(&request)?;
    root.sb().set_owner(&ctx.cred.user_ns);
    let source = if source.is_empty() { b"none" } else { source };
    let new = Mount::new(&root, source, mount_flags(flags));
    attach_at(ctx, &new, &target)
}

pub(crate) fn require_admin(ctx: &WalkContext<'_>) -> Result<()> {
    let ns = ns_of(ctx)?;
    if ctx.cred.ns_capable(ns.id().owner(), Cap::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
}

/// `EPERM` unless the caller may make a file system of `fs_type` for `user_ns`.
pub(crate) fn check_mount_right(
    ctx: &WalkContext<'_>,
    fs_type: &dyn FileSystemType,
    user_ns: &UserNs,
) -> Result<()> {
    let is_allowed = if fs_type.is_for_user_ns() {
        ctx.cred.ns_capable(user_ns, Cap::SYS_ADMIN)
    } else {
        ctx.cred.capable(Cap::SYS_ADMIN)
    };
    if is_allowed { Ok(()) } else { Err(Errno::EPERM) }
}

pub(crate) fn ns_of(ctx: &WalkContext<'_>) -> Result<Arc<MountNs>> {
    ctx.fs.ns().ok_or(Errno::EINVAL)
}

/// Whether `mount` is in the caller's tree.
fn is_ours(ns: &Arc<MountNs>, mount: &Arc<Mount>) -> bool {
    mount.is_in(ns)
}

/// Mounts `new` on `target`, on top of what is mounted there.
pub fn attach_at(ctx: &WalkContext<'_>, new: &Arc<Mount>, target: &Path) -> Result<()> {
    let ns = ns_of(ctx)?;
    let _locked = mount::lock_trees();
    let mut at = target.clone();
    walk::cross_mounts(&mut at);
    // The same file system directly upon itself; binds and moves may do that.
    if at.is_mount_root() && Arc::ptr_eq(&at.dentry, new.root()) {
        return Err(Errno::EBUSY);
    }
    attach_locked(&ns, new, &at)
}

fn attach_locked(ns: &Arc<MountNs>, new: &Arc<Mount>, target: &Path) -> Result<()> {
    let mut at = target.clone();
    walk::cross_mounts(&mut at);
    check_attach(ns, new, &at)?;
    let spread = Spread::prepare(new, &at, ns)?;
    mount::attach(new, &at, ns);
    spread.attach(ns);
    Ok(())
}

/// Whether `new` may be attached at `at`, the topmost mount there. `LOCK` is held.
fn check_attach(ns: &Arc<MountNs>, new: &Arc<Mount>, at: &Path) -> Result<()> {
    if !is_ours(ns, &at.mount) {
        return Err(Errno::EINVAL);
    }
    if at.dentry.is_deleted() {
        return Err(Errno::ENOENT);
    }
    let is_dir = |inode: Option<&Arc<crate::inode::Inode>>| inode.is_some_and(|inode| inode.is_dir());
    if is_dir(new.root().inode()) != is_dir(at.inode()) {
        return Err(Errno::ENOTDIR);
    }
    Ok(())
}

/// How much of a tree an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// One mount.
    One,
    /// All mounts below it too.
    Tree,
}

fn bind(ctx: &WalkContext<'_>, source: &Path, target: &Path, depth: Depth) -> Result<()> {
    let ns = ns_of(ctx)?;
    let _locked = mount::lock_trees();
    // The files of namespaces are on no mount that anybody sees, and still can be bound to keep the namespace.
    let is_ns_file = source.inode().is_some_and(|inode| crate::anon::NSFS.holds(inode));
    if !(is_ours(&ns, &source.mount) || is_ns_file) {
        return Err(Errno::EINVAL);
    }
    let top = copy_for_bind(source, depth, Inherit::Peer)?;
    let result = attach_locked(&ns, &top, target);
    if result.is_err() {
        mount::dissolve(&top);
    }
    result
}

/// Whether open_tree(2) can copy `path` although nobody sees its mount: files of namespaces and of processes.
pub(crate) fn is_clonable_anyway(path: &Path) -> bool {
    let is_on = |kind: &&crate::anon::Kind| path.inode().is_some_and(|inode| kind.holds(inode));
    [crate::anon::NSFS, crate::anon::PIDFS].iter().any(is_on)
}

/// A copy of what `source` shows, attached nowhere. `EINVAL`: it is unbindable, or shows what a mount that cannot be
/// unmounted hides. The copy is what `inherit` says of the original. `LOCK` is held.
pub(crate) fn copy_for_bind(source: &Path, depth: Depth, inherit: Inherit) -> Result<Arc<Mount>> {
    let mount = &source.mount;
    if mount.is_unbindable() || (depth == Depth::One && mount.has_locked_children(&source.dentry)) {
        return Err(Errno::EINVAL);
    }
    let top = match depth {
        Depth::One => mount.copy(&source.dentry, inherit),
        Depth::Tree => {
            let pairs = mount::copy_tree(mount, &source.dentry, inherit, Unbindable::LeftOut);
            pairs.into_iter().next().map(|(_, top)| top).ok_or(Errno::EINVAL)?
        }
    };
    // It is the top of a tree of its own: nothing is hidden below it.
    top.unlock_place();
    Ok(top)
}

fn move_mount(ctx: &WalkContext<'_>, source: &Path, target: &Path) -> Result<()> {
    let ns = ns_of(ctx)?;
    let _locked = mount::lock_trees();
    let mut at = target.clone();
    walk::cross_mounts(&mut at);
    let mount = &source.mount;
    if !source.is_mount_root()
        || mount.mountpoint().is_none()
        || !is_ours(&ns, mount)
        || !is_ours(&ns, &at.mount)
    {
        return Err(Errno::EINVAL);
    }
    check_detachable(mount)?;
    check_move(source, &at)?;
    place(&ns, mount, &at, MovePlace::OnTop)
}

/// Whether `mount` may leave its place. `EINVAL`: it cannot be moved alone, or its parent is shared: the copies
/// elsewhere could not follow. `LOCK` is held.
pub(crate) fn check_detachable(mount: &Arc<Mount>) -> Result<()> {
    let is_free = !mount.is_locked() && mount.mountpoint().is_some_and(|at| !at.mount.is_shared());
    if is_free { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Whether the mount of `source` may move to `at`. `EINVAL`: one is a directory and the other is not, or something
/// unbindable would become shared. `ELOOP`: below itself. `LOCK` is held.
pub(crate) fn check_move(source: &Path, at: &Path) -> Result<()> {
    if at.mount.is_shared() && source.mount.subtree().iter().any(|mount| mount.is_unbindable()) {
        return Err(Errno::EINVAL);
    }
    if source.inode().is_some_and(|inode| inode.is_dir()) != at.inode().is_some_and(|inode| inode.is_dir()) {
        return Err(Errno::EINVAL);
    }
    let mut above = Some(at.mount.clone());
    while let Some(here) = above {
        if Arc::ptr_eq(&here, &source.mount) {
            return Err(Errno::ELOOP);
        }
        above = here.mountpoint().map(|up| up.mount);
    }
    Ok(())
}

/// Moves `new`, attached or not, to `at` in `ns`, the topmost mount there. Nothing has changed when it fails. `LOCK` is
/// held.
pub(crate) fn place(ns: &Arc<MountNs>, new: &Arc<Mount>, at: &Path, place: MovePlace) -> Result<()> {
    check_attach(ns, new, at)?;
    if place == MovePlace::OnTop {
        let spread = Spread::prepare(new, at, ns)?;
        mount::detach(new);
        mount::attach(new, at, ns);
        spread.attach(ns);
        return Ok(());
    }
    let under = at.mount.mountpoint().filter(|_| at.is_mount_root()).ok_or(Errno::EINVAL)?;
    if Arc::ptr_eq(&under.mount, new) {
        return Err(Errno::ELOOP);
    }
    // What comes with it elsewhere must not land on the mounts that this is about.
    if under.mount.spreads_onto(&at.mount, &under) || under.mount.spreads_onto(new, &under) {
        return Err(Errno::EINVAL);
    }
    let spread = Spread::prepare(new, &under, ns)?;
    mount::detach(new);
    mount::attach_beneath(new, &at.mount, &under, ns);
    spread.attach(ns);
    Ok(())
}

/// The mount whose root `path` is. `EINVAL`: it is no root of a mount.
fn mount_at(path: &Path) -> Result<&Arc<Mount>> {
    if path.is_mount_root() { Ok(&path.mount) } else { Err(Errno::EINVAL) }
}

/// As [`mount_at`], in the caller's tree: a path may lead to a mount of another namespace. `LOCK` is held.
fn own_mount_at<'a>(ctx: &WalkContext<'_>, path: &'a Path) -> Result<&'a Arc<Mount>> {
    let ns = ns_of(ctx)?;
    mount_at(path).and_then(|mount| if is_ours(&ns, mount) { Ok(mount) } else { Err(Errno::EINVAL) })
}

/// The flags that a remount asks for: access times stay as they are unless something is said about them.
fn remount_flags(mount: &Mount, flags: u64) -> MountFlags {
    const MS_NODIRATIME: u64 = 2048;
    let kept = MountFlags::NOATIME | MountFlags::NODIRATIME | MountFlags::RELATIME | MountFlags::STRICTATIME;
    let mut new = mount_flags(flags);
    if flags & (MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME) == 0 {
        new = (new - kept) | (mount.flags() & kept);
    }
    new
}

fn remount_bind(ctx: &WalkContext<'_>, target: &Path, flags: u64) -> Result<()> {
    let _locked = mount::lock_trees();
    let mount = own_mount_at(ctx, target)?;
    let flags = remount_flags(mount, flags);
    mount.check_locks(flags)?;
    mount.set_flags(flags)
}

fn remount(ctx: &WalkContext<'_>, target: &Path, flags: u64, data: &[u8]) -> Result<()> {
    let _locked = mount::lock_trees();
    let mount = own_mount_at(ctx, target)?;
    let sb = mount.sb();
    sb.check_admin(ctx.cred)?;
    let new_flags = remount_flags(mount, flags);
    mount.check_locks(new_flags)?;
    let becomes_readonly = sb_flags(flags).contains(SbFlags::RDONLY) && !sb.is_readonly();
    if becomes_readonly && mount.has_writers() {
        return Err(Errno::EBUSY);
    }
    sb.ops().remount(sb, data)?;
    let is_readonly = sb_flags(flags).contains(SbFlags::RDONLY);
    if is_readonly != sb.is_readonly() {
        sb.ops().set_readonly(sb, is_readonly)?;
    }
    mount.set_flags(new_flags)?;
    sb.set_flags(sb_flags(flags));
    Ok(())
}

/// The propagation that bits of mount(2) name; `None` for none. `EINVAL`: several, or other bits.
pub(crate) fn propagation_of(bits: u64) -> Result<Option<Propagation>> {
    Ok(Some(match bits {
        0 => return Ok(None),
        MS_SHARED => Propagation::Shared,
        MS_PRIVATE => Propagation::Private,
        MS_SLAVE => Propagation::Slave,
        MS_UNBINDABLE => Propagation::Unbindable,
        _ => return Err(Errno::EINVAL),
    }))
}

/// The bits of mount(2) for how `mount` propagates.
pub(crate) fn propagation_bits(mount: &Mount) -> u64 {
    let bits = [
        (mount.is_shared(), MS_SHARED),
        (mount.master().is_some(), MS_SLAVE),
        (mount.is_unbindable(), MS_UNBINDABLE),
    ];
    let set = bits.iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, bit)| all | bit);
    if set == 0 { MS_PRIVATE } else { set }
}

fn change_propagation(ctx: &WalkContext<'_>, target: &Path, flags: u64) -> Result<()> {
    const MS_SILENT: u64 = 0x8000;
    let kind = propagation_of(flags & !MS_REC & !MS_SILENT)?.ok_or(Errno::EINVAL)?;
    let _locked = mount::lock_trees();
    let mount = mount_at(target)?;
    // Of another namespace it may be, whose administrator the caller is.
    let ns = mount.ns().ok_or(Errno::EINVAL)?;
    if !ctx.cred.ns_capable(ns.id().owner(), Cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    if flags & MS_REC == 0 {
        mount.set_propagation(kind);
    } else {
        mount.subtree().iter().for_each(|member| member.set_propagation(kind));
    }
    Ok(())
}

/// `EINVAL`: `mount` is not in the caller's tree, sits nowhere, or is bound to its place.
fn check_removable(ns: &Arc<MountNs>, mount: &Arc<Mount>) -> Result<()> {
    let may_go = is_ours(ns, mount) && mount.mountpoint().is_some() && !mount.is_locked();
    if may_go { Ok(()) } else { Err(Errno::EINVAL) }
}

/// umount2(2).
///
/// The caller's own root is not unmounted without `MNT_DETACH`: its file system becomes read-only instead.
///
/// `EINVAL`: not a mount point, or bound to its place. `EBUSY`: in use. `EAGAIN`: `MNT_EXPIRE`, which is not kept.
pub fn umount(ctx: &WalkContext<'_>, name: &[u8], flags: u32) -> Result<()> {
    if flags & !(MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & MNT_EXPIRE != 0 && flags & (MNT_FORCE | MNT_DETACH) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut walk_flags = WalkFlags::FOLLOW;
    walk_flags.set(WalkFlags::FOLLOW, flags & UMOUNT_NOFOLLOW == 0);
    let mut path = walk::walk(ctx, At::Cwd, name, walk_flags)?;
    // A walk that ends where it began has not seen what is mounted there.
    walk::cross_mounts(&mut path);
    require_admin(ctx)?;
    let ns = ns_of(ctx)?;
    let mount = mount_at(&path)?.clone();
    drop(path);
    check_removable(&ns, &mount)?;
    // What goes with it is given up after the lock.
    let _gone;
    if flags & MNT_DETACH != 0 {
        let _locked = mount::lock_trees();
        // Once more: a mount that came beneath another one meanwhile has taken over its lock.
        check_removable(&ns, &mount)?;
        let removal = Removal::of(&mount.subtree());
        mount::dissolve(&mount);
        _gone = removal.detach();
        return Ok(());
    }
    if flags & MNT_EXPIRE != 0 {
        return Err(Errno::EAGAIN);
    }
    if Arc::ptr_eq(&mount, &ctx.fs.root().mount) {
        return make_readonly(ctx, &mount);
    }
    // References that wait for a grace period are no users, and what they free may wait for the next one.
    for attempt in 0..=GRACE_PERIODS {
        {
            let _locked = mount::lock_trees();
            check_removable(&ns, &mount)?;
            let removal = Removal::of(core::slice::from_ref(&mount));
            if !is_busy(&mount) && !removal.mounts().iter().any(is_used) {
                mount::detach(&mount);
                mount.leave_groups();
                _gone = removal.detach();
                break;
            }
            if attempt == GRACE_PERIODS || !mount.children().is_empty() {
                return Err(Errno::EBUSY);
            }
        }
        sched::workqueue::await_rcu();
    }
    let sb = mount.sb().clone();
    let _ = sb.ops().sync(&sb);
    drop(mount);
    sb.release();
    Ok(())
}

/// Makes the file system of `mount` read-only. `EPERM` without `CAP_SYS_ADMIN` over the machine. `EBUSY`: something is open
/// for writing.
fn make_readonly(ctx: &WalkContext<'_>, mount: &Arc<Mount>) -> Result<()> {
    mount.sb().check_admin(ctx.cred)?;
    let _locked = mount::lock_trees();
    let sb = mount.sb();
    if sb.is_readonly() {
        return Ok(());
    }
    if mount.has_writers() {
        return Err(Errno::EBUSY);
    }
    sb.ops().set_readonly(sb, true)?;
    sb.set_flags(sb.flags() | SbFlags::RDONLY);
    Ok(())
}

/// How many grace periods of RCU umount(2) waits for references.
const GRACE_PERIODS: u32 = 3;

/// Whether something is mounted on `mount`, or somebody but the tree and the caller holds it.
fn is_busy(mount: &Arc<Mount>) -> bool {
    !mount.children().is_empty() || is_used(mount)
}

/// Whether somebody but the tree and the caller holds `mount`, on which nothing is mounted.
fn is_used(mount: &Arc<Mount>) -> bool {
    const OURS: usize = 2;
    mount.children().is_empty() && Arc::strong_count(mount) > OURS
}

/// Contexts that pivot_root(2) has to move: all tasks'. The floor above registers how to visit them.
static VISIT_CONTEXTS: Mutex<Option<VisitContexts>> = Mutex::new("vfs.pivot", None);

/// Calls its argument for the file-system context of every task.
pub type VisitContexts = fn(&mut dyn FnMut(&crate::fs_context::FsContext));

/// Tells how to visit the contexts of all tasks.
pub fn set_visit_contexts(visit: VisitContexts) {
    *VISIT_CONTEXTS.lock() = Some(visit);
}

/// pivot_root(2).
///
/// `EPERM`; `ENOTDIR`; `EBUSY`: one of them is the current root's mount; `EINVAL`: not mounts, or not below, or mounts
/// would have to propagate.
pub fn pivot_root(ctx: &WalkContext<'_>, new_root: &[u8], put_old: &[u8]) -> Result<()> {
    require_admin(ctx)?;
    let flags = WalkFlags::FOLLOW | WalkFlags::DIRECTORY;
    let new = walk::walk(ctx, At::Cwd, new_root, flags)?;
    let old = walk::walk(ctx, At::Cwd, put_old, flags)?;
    let root = ctx.fs.root();
    let ns = ns_of(ctx)?;
    {
        let _locked = mount::lock_trees();
        if Arc::ptr_eq(&new.mount, &root.mount) || Arc::ptr_eq(&old.mount, &root.mount) {
            return Err(Errno::EBUSY);
        }
        let are_mounts = new.is_mount_root() && root.is_mount_root();
        let top = root.mount.mountpoint();
        if !are_mounts || new.mount.mountpoint().is_none() || top.is_none() {
            return Err(Errno::EINVAL);
        }
        if !is_ours(&ns, &new.mount) || !is_ours(&ns, &old.mount) || !is_reachable(&old, &new) {
            return Err(Errno::EINVAL);
        }
        let top = top.ok_or(Errno::EINVAL)?;
        let new_parent = new.mount.mountpoint().ok_or(Errno::EINVAL)?;
        let is_shared = [&old.mount, &new_parent.mount, &top.mount].iter().any(|mount| mount.is_shared());
        if is_shared || new.mount.is_locked() {
            return Err(Errno::EINVAL);
        }
        if root.mount.is_locked() {
            new.mount.lock_place();
            root.mount.unlock_place();
        }
        drop(new_parent);
        mount::detach(&new.mount);
        mount::detach(&root.mount);
        mount::attach(&root.mount, &old, &ns);
        mount::attach(&new.mount, &top, &ns);
    }
    let visit = *VISIT_CONTEXTS.lock();
    match visit {
        Some(visit) => visit(&mut |fs| fs.replace(&root, &new)),
        None => ctx.fs.replace(&root, &new),
    }
    Ok(())
}

/// Whether `path` is at or below `root`.
fn is_reachable(path: &Path, root: &Path) -> bool {
    path.spell(Some(root)).is_reachable
}
