//! Mounts: file systems joined into one tree, and the namespaces that hold such trees.
//!
//! ```text
//!   MountNs.root -> nullfs --child--> Mount "/" --children--> (dentry "proc", Mount) (dentry "dev", Mount) ...
//!                                       ^                                                  |
//!                                       +------------- place: (parent, mountpoint) --------+
//! ```
//!
//! # Invariants
//!
//! - M1: `child.place` names (parent, dentry) if and only if `parent.children` holds (dentry, child).
//! - M2: a dentry's mount count is the number of places on it, in all namespaces.
//! - M3: mounts stack: a mount upon a mount point is attached to the root of the topmost mount there.
//! - M4: the bottom of a namespace that tasks live in is a mount of [`crate::nullfs`], and never leaves it.
//!
//! # Locks
//!
//! [`lock_trees`] is held over every change of the tree. Who ends the last reference to a namespace meanwhile leaves its
//! tree to whoever holds the lock, who takes it apart afterwards. Walks take no lock: they follow RCU pointers and compare
//! `dcache::Sequence`, which every change moves on. How mounts follow each other is in [`crate::propagation`].

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

use abi::{Errno, Result};
use bitflags::bitflags;
use hal::rcu::{self, ReadGuard};
use hal::sync::{ArcCell, RcuCell, SpinLock};
use sched::{Mutex, MutexGuard};
use security::{NsId, NsKind, UserNs};

use crate::dcache;
use crate::dentry::Dentry;
use crate::idmap::{IdView, Idmap};
use crate::moves;
use crate::notify::Marks;
use crate::nullfs;
use crate::path::Path;
use crate::places;
use crate::propagation::{Inherit, Role};
use crate::superblock::SuperBlock;

/// Serialises changes of mount trees.
static LOCK: Mutex<()> = Mutex::new("vfs.mounts", ());

/// Roots of trees whose namespace has ended, to be taken apart.
static ORPHANS: SpinLock<Vec<Arc<Mount>>> = SpinLock::new("vfs.orphans", Vec::new());

/// The right to change mount trees.
#[must_use]
pub(crate) struct TreeGuard(Option<MutexGuard<'static, ()>>);

/// Takes the lock over all mount trees. Sleeps.
pub(crate) fn lock_trees() -> TreeGuard {
    TreeGuard(Some(LOCK.lock()))
}

impl Drop for TreeGuard {
    fn drop(&mut self) {
        moves::tell();
        self.0 = None;
        dissolve_orphans();
    }
}

/// Takes apart what ended namespaces left, unless somebody has the lock: then they do it when they open it.
fn dissolve_orphans() {
    while !ORPHANS.lock().is_empty() {
        let Some(locked) = LOCK.try_lock() else { return };
        let orphans = core::mem::take(&mut *ORPHANS.lock());
        orphans.iter().for_each(dissolve);
        drop(locked);
    }
}

bitflags! {
    /// Flags of a mount, with the numbers of mount(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MountFlags: u32 {
        /// Nothing may be written through it.
        const RDONLY = 1;
        /// Set-user-ID bits have no effect.
        const NOSUID = 2;
        /// Device nodes cannot be opened.
        const NODEV = 4;
        /// Nothing may be executed.
        const NOEXEC = 8;
        /// Symbolic links are not followed.
        const NOSYMFOLLOW = 256;
        /// Access times are not kept.
        const NOATIME = 1024;
        /// Access times of directories are not kept.
        const NODIRATIME = 2048;
        /// Access times are kept when they are older than the data or than a day.
        const RELATIME = 1 << 21;
        /// Access times are kept exactly.
        const STRICTATIME = 1 << 24;
    }
}

bitflags! {
    /// What a less privileged namespace may not undo in a mount that it got from a more privileged one
    /// (mount_namespaces(7), "Restrictions on mount namespaces").
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    struct Locks: u32 {
        /// It cannot be unmounted or moved alone: something may be hidden below it.
        const PLACE = 1;
        /// How access times are kept.
        const ATIME = 2;
        /// `RDONLY`, which is set.
        const RDONLY = 4;
        /// `NOSUID`, which is set.
        const NOSUID = 8;
        /// `NODEV`, which is set.
        const NODEV = 16;
        /// `NOEXEC`, which is set.
        const NOEXEC = 32;
    }
}

/// Locks of flags that are set.
const FLAG_LOCKS: [(Locks, MountFlags); 4] = [
    (Locks::RDONLY, MountFlags::RDONLY),
    (Locks::NOSUID, MountFlags::NOSUID),
    (Locks::NODEV, MountFlags::NODEV),
    (Locks::NOEXEC, MountFlags::NOEXEC),
];

/// Flags that tell how access times are kept.
const ATIME_FLAGS: MountFlags = MountFlags::NOATIME.union(MountFlags::NODIRATIME).union(MountFlags::RELATIME);

/// Where a mount is attached.
pub(crate) struct MountPlace {
    pub(crate) parent: Arc<Mount>,
    pub(crate) dentry: Arc<Dentry>,
}

type Children = Vec<(Arc<Dentry>, Arc<Mount>)>;

/// A file system, or a part of one, in the tree.
pub struct Mount {
    id: u32,
    unique_id: u64,
    root: Arc<Dentry>,
    sb: Arc<SuperBlock>,
    source: Vec<u8>,
    flags: AtomicU32,
    /// Set with `LOCK` held, like `role`.
    locks: AtomicU32,
    pub(crate) role: SpinLock<Role>,
    is_internal: bool,
    /// How it shows owners. Set before anybody else can have the mount, with `LOCK` held.
    idmap: ArcCell<Idmap>,
    /// Whether there is something in `idmap`: for those who need only know that there is not.
    is_idmapped: AtomicBool,
    place: ArcCell<MountPlace>,
    children: RcuCell<Children>,
    /// Open descriptions and operations in progress that may write through it.
    writers: AtomicU32,
    ns: SpinLock<Weak<MountNs>>,
    marks: Marks,
}

static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// Unique mount ids begin here, so that they are not mistaken for the old ones (statx(2) `STATX_MNT_ID_UNIQUE`).
const UNIQUE_ID_BASE: u64 = 1 << 31;

impl Mount {
    /// A mount of `root` that is attached nowhere. `source` is what /proc/mounts shows first.
    pub fn new(root: &Arc<Dentry>, source: &[u8], flags: MountFlags) -> Arc<Self> {
        Self::alloc(root, source, flags, false)
    }

    /// The mount of a file system that no path leads to.
    pub(crate) fn new_internal(root: &Arc<Dentry>, flags: MountFlags) -> Arc<Self> {
        Self::alloc(root, b"none", flags, true)
    }

    /// A mount of what `path` shows that is in nobody's tree: what is mounted below stays invisible, and `flags` join
    /// those of the mount of `path`. It shows owners as that does.
    pub fn new_private(path: &Path, flags: MountFlags) -> Arc<Self> {
        let new = Self::alloc(&path.dentry, &path.mount.source, path.mount.flags() | flags, true);
        new.set_idmap(path.mount.id_view().map().cloned());
        new
    }

    /// Whether it shows other owners than the file system keeps.
    #[inline]
    pub fn is_idmapped(&self) -> bool {
        self.is_idmapped.load(Acquire)
    }

    /// How it shows owners.
    #[inline]
    pub fn id_view(&self) -> IdView {
        if self.is_idmapped() { IdView::new(self.idmap.load()) } else { IdView::PLAIN }
    }

    /// Replaces how it shows owners; nobody else may have the mount yet.
    pub(crate) fn set_idmap(&self, map: Option<Arc<Idmap>>) {
        let is_there = map.is_some();
        self.idmap.swap(map);
        self.is_idmapped.store(is_there, Release);
    }

    fn alloc(root: &Arc<Dentry>, source: &[u8], flags: MountFlags, is_internal: bool) -> Arc<Self> {
        let id = NEXT_ID.fetch_add(1, Relaxed);
        root.sb().mount_added();
        Arc::new(Self {
            id,
            unique_id: UNIQUE_ID_BASE + u64::from(id),
            root: root.clone(),
            sb: root.sb().clone(),
            source: source.to_vec(),
            flags: AtomicU32::new(flags.bits()),
            locks: AtomicU32::new(0),
            role: SpinLock::new("vfs.mount.role", Role::default()),
            is_internal,
            idmap: ArcCell::empty(),
            is_idmapped: AtomicBool::new(false),
            place: ArcCell::empty(),
            children: RcuCell::empty(),
            writers: AtomicU32::new(0),
            ns: SpinLock::new("vfs.mount.ns", Weak::new()),
            marks: Marks::new(),
        })
    }

    /// A mount of `root` (in this mount's file system) with the same properties, attached nowhere.
    pub(crate) fn copy(&self, root: &Arc<Dentry>, inherit: Inherit) -> Arc<Self> {
        let new = Self::alloc(root, &self.source, self.flags(), false);
        new.locks.store(self.locks.load(Relaxed), Relaxed);
        new.set_idmap(self.id_view().map().cloned());
        self.pass_role(&new, inherit);
        new
    }

    /// Whether it cannot be unmounted or moved alone.
    pub(crate) fn is_locked(&self) -> bool {
        self.locks.load(Relaxed) & Locks::PLACE.bits() != 0
    }

    /// Binds it to its place.
    pub(crate) fn lock_place(&self) {
        self.locks.fetch_or(Locks::PLACE.bits(), Relaxed);
    }

    /// Frees its place: it becomes the top of a tree of its own.
    pub(crate) fn unlock_place(&self) {
        self.locks.fetch_and(!Locks::PLACE.bits(), Relaxed);
    }

    /// Whether something is mounted below `dentry` that cannot be unmounted alone.
    pub(crate) fn has_locked_children(&self, dentry: &Arc<Dentry>) -> bool {
        self.copy_children().iter().any(|(at, child)| child.is_locked() && at.is_below(dentry))
    }

    /// Whether its flags may become `flags`. `EPERM`: one of them is locked.
    pub(crate) fn check_locks(&self, flags: MountFlags) -> Result<()> {
        let locks = Locks::from_bits_truncate(self.locks.load(Relaxed));
        let is_undone = |(lock, flag): &(Locks, MountFlags)| locks.contains(*lock) && !flags.contains(*flag);
        let changes_atime = (self.flags() ^ flags).intersects(ATIME_FLAGS);
        if FLAG_LOCKS.iter().any(is_undone) || (locks.contains(Locks::ATIME) && changes_atime) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// The id of mountinfo.
    #[inline]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The id that is never used again.
    pub fn unique_id(&self) -> u64 {
        self.unique_id
    }

    /// Its root, not necessarily that of the file system.
    #[inline]
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }

    /// The file system.
    #[inline]
    pub fn sb(&self) -> &Arc<SuperBlock> {
        &self.sb
    }

    /// What was mounted, as /proc/mounts shows it.
    #[inline]
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// Flags.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags.load(Relaxed))
    }

    /// Who watches what is done through it.
    #[inline]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Whether no path leads here: pipes, sockets, anonymous inodes.
    pub fn is_internal(&self) -> bool {
        self.is_internal
    }

    /// Whether nothing may be written through it.
    #[inline]
    pub fn is_readonly(&self) -> bool {
        self.flags().contains(MountFlags::RDONLY) || self.sb.is_readonly()
    }

    /// Begins a write through this mount. `EROFS`.
    pub fn want_write(self: &Arc<Self>) -> Result<WriteAccess> {
        self.writers.fetch_add(1, SeqCst);
        // Pairs with `set_flags`: either this sees the flag or the remount sees the count.
        let access = WriteAccess(self.clone());
        if self.is_readonly() { Err(Errno::EROFS) } else { Ok(access) }
    }

    /// Replaces the flags. `EBUSY`: it would become read-only while something is open for writing.
    pub(crate) fn set_flags(&self, flags: MountFlags) -> Result<()> {
        let old = self.flags.swap(flags.bits(), SeqCst);
        let becomes_readonly = flags.contains(MountFlags::RDONLY) && old & MountFlags::RDONLY.bits() == 0;
        if becomes_readonly && self.writers.load(SeqCst) > 0 {
            self.flags.store(old, SeqCst);
            return Err(Errno::EBUSY);
        }
        Ok(())
    }

    /// Whether something is open for writing through it.
    pub(crate) fn has_writers(&self) -> bool {
        self.writers.load(SeqCst) > 0
    }

    /// The path that it covers; `None` for the root of a tree.
    pub fn mountpoint(&self) -> Option<Path> {
        let guard = rcu::read_lock();
        let place = self.place.get(&guard)?;
        Some(Path::new(&place.parent, &place.dentry))
    }

    /// As [`Mount::mountpoint`], for walks.
    #[inline]
    pub(crate) fn place<'g>(&'g self, guard: &'g ReadGuard) -> Option<&'g MountPlace> {
        self.place.get(guard)
    }

    /// What is mounted on `dentry` in this mount.
    #[inline]
    pub(crate) fn child<'g>(&'g self, guard: &'g ReadGuard, dentry: &Arc<Dentry>) -> Option<&'g Arc<Mount>> {
        let children = self.children.get(guard)?;
        children.iter().find(|(at, _)| Arc::ptr_eq(at, dentry)).map(|(_, mount)| mount)
    }

    /// What is mounted on `dentry` in this mount. With `LOCK` held.
    pub(crate) fn child_at(&self, dentry: &Arc<Dentry>) -> Option<Arc<Mount>> {
        let guard = rcu::read_lock();
        self.child(&guard, dentry).cloned()
    }

    /// The mounts on this one, in order of their making.
    pub fn children(&self) -> Vec<Arc<Mount>> {
        let guard = rcu::read_lock();
        self.children
            .get(&guard)
            .map_or(Vec::new(), |list| list.iter().map(|(_, mount)| mount.clone()).collect())
    }

    fn copy_children(&self) -> Children {
        let guard = rcu::read_lock();
        self.children.get(&guard).cloned().unwrap_or_default()
    }

    /// The namespace whose tree it is in.
    pub fn ns(&self) -> Option<Arc<MountNs>> {
        self.ns.lock().upgrade()
    }

    /// It belongs to the tree of `ns` from now on; to none with a dead reference.
    fn set_ns(&self, ns: Weak<MountNs>) {
        let new = ns.upgrade();
        if let Some(new) = &new {
            new.mounts.fetch_add(1, Relaxed);
        }
        let old = core::mem::replace(&mut *self.ns.lock(), ns).upgrade();
        if let Some(old) = &old {
            old.mounts.fetch_sub(1, Relaxed);
        }
        moves::note(self.unique_id, old, new);
    }

    /// Whether it is in the tree of `ns`.
    pub(crate) fn is_in(&self, ns: &Arc<MountNs>) -> bool {
        core::ptr::eq(self.ns.lock().as_ptr(), Arc::as_ptr(ns))
    }

    /// This mount and all mounts below it, parents first. With `LOCK` held.
    pub fn subtree(self: &Arc<Self>) -> Vec<Arc<Mount>> {
        let mut found = alloc::vec![self.clone()];
        let mut next = 0;
        while let Some(mount) = found.get(next) {
            let children = mount.children();
            next += 1;
            // Depth first keeps the order of /proc/mounts close to that of mounting.
            found.splice(next..next, children);
        }
        found
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.leave_groups();
        self.set_ns(Weak::new());
        self.sb.mount_removed();
    }
}

impl core::fmt::Debug for Mount {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Mount({} {})", self.id, self.sb.fs_type().name())
    }
}

/// A write through a mount in progress, or a description open for writing.
pub struct WriteAccess(Arc<Mount>);

impl Drop for WriteAccess {
    fn drop(&mut self) {
        self.0.writers.fetch_sub(1, Release);
    }
}

/// Attaches `mount`, which is attached nowhere, at `under`, where `top` is: `top` moves on top of it. When `top` was bound
/// to its place `mount` is instead: what is below stays hidden. `LOCK` is held.
pub(crate) fn attach_beneath(mount: &Arc<Mount>, top: &Arc<Mount>, under: &Path, ns: &Arc<MountNs>) {
    if top.is_locked() {
        top.unlock_place();
        mount.lock_place();
    }
    detach(top);
    attach(mount, under, ns);
    attach(top, &Path::root_of(mount), ns);
    moves::forget(top);
}

/// Attaches `mount` at `at`, in `ns`. `LOCK` is held, and `at` is the topmost mount there.
pub(crate) fn attach(mount: &Arc<Mount>, at: &Path, ns: &Arc<MountNs>) {
    let mut children = at.mount.copy_children();
    children.push((at.dentry.clone(), mount.clone()));
    let place = Arc::new(MountPlace { parent: at.mount.clone(), dentry: at.dentry.clone() });
    let children = Box::new(children);
    places::add(&at.dentry, mount);
    dcache::change(|| {
        mount.place.swap(Some(place));
        at.mount.children.set(Some(children));
    });
    for member in mount.subtree() {
        member.set_ns(Arc::downgrade(ns));
    }
    ns.changed();
}

/// Takes `mount` out of the tree; what is mounted on it stays on it. `LOCK` is held.
pub(crate) fn detach(mount: &Arc<Mount>) {
    let Some(at) = mount.mountpoint() else { return };
    let mut children = at.mount.copy_children();
    children.retain(|(_, child)| !Arc::ptr_eq(child, mount));
    let children = (!children.is_empty()).then(|| Box::new(children));
    dcache::change(|| {
        mount.place.swap(None);
        at.mount.children.set(children);
    });
    places::remove(&at.dentry, mount);
    let ns = mount.ns();
    mount.set_ns(Weak::new());
    if let Some(ns) = ns {
        ns.changed();
    }
}

/// A tree of mounts that processes see (mount_namespaces(7)).
pub struct MountNs {
    id: NsId,
    root: ArcCell<Mount>,
    /// The tree of a descriptor, in which nobody lives (`mount_fd`).
    is_detached: bool,
    /// The number of the namespace that a detached tree was copied in; only there it may be used. 0: anywhere.
    origin: u64,
    /// Counts changes: poll(2) on /proc/mounts tells of them.
    event: AtomicU64,
    /// How many mounts belong to it.
    mounts: AtomicUsize,
    marks: Marks,
}

/// Mounts and their copies in another tree.
pub type Copies = Vec<(Arc<Mount>, Arc<Mount>)>;

impl MountNs {
    /// The first namespace: `root` upon nullfs.
    pub fn new(root: &Arc<Mount>) -> Arc<Self> {
        let _locked = lock_trees();
        let bottom = nullfs::new_mount();
        let ns = Self::with(NsId::initial(NsKind::Mnt), &bottom, None);
        attach(root, &Path::root_of(&bottom), &ns);
        ns
    }

    /// The namespace of a detached tree. It takes the tree apart when it ends. `ENOSPC`: too many namespaces.
    ///
    /// LINUX: does not count it among the namespaces of its owner.
    pub(crate) fn new_detached(root: &Arc<Mount>, owner: &UserNs, origin: u64) -> Result<Arc<Self>> {
        Ok(Self::with(NsId::new(NsKind::Mnt, owner)?, root, Some(origin)))
    }

    /// `detached` is the origin of a detached tree.
    fn with(id: NsId, root: &Arc<Mount>, detached: Option<u64>) -> Arc<Self> {
        let root_cell = ArcCell::new(root.clone());
        let (is_detached, origin) = (detached.is_some(), detached.unwrap_or(0));
        let ns = Arc::new(Self {
            id,
            root: root_cell,
            is_detached,
            origin,
            event: AtomicU64::new(0),
            mounts: AtomicUsize::new(0),
            marks: Marks::new(),
        });
        for mount in root.subtree() {
            mount.set_ns(Arc::downgrade(&ns));
        }
        ns
    }

    /// Number and owner.
    pub fn id(&self) -> &NsId {
        &self.id
    }

    /// Who watches mounts come and go.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The mount at the bottom: nullfs, or the top of a detached tree.
    pub fn root(&self) -> Option<Arc<Mount>> {
        self.root.load()
    }

    /// Whether it is the namespace of a detached tree.
    pub(crate) fn is_detached(&self) -> bool {
        self.is_detached
    }

    /// Whether it is the namespace of a detached tree that somebody in `own` may use.
    pub(crate) fn is_detached_for(&self, own: &MountNs) -> bool {
        self.is_detached && (self.origin == 0 || self.origin == own.id.id())
    }

    /// Gives up the tree, which was attached elsewhere. To be dropped after `LOCK`.
    pub(crate) fn take_root(&self) -> Option<Arc<Mount>> {
        self.root.swap(None)
    }

    /// How many mounts belong to it.
    pub fn nr_mounts(&self) -> usize {
        self.mounts.load(Relaxed)
    }

    /// How often it has changed.
    pub fn event(&self) -> u64 {
        self.event.load(Acquire)
    }

    fn changed(&self) {
        self.event.fetch_add(1, Release);
    }

    /// All mounts, parents first.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        let _locked = lock_trees();
        self.root().map_or(Vec::new(), |root| root.subtree())
    }

    /// What tasks outside take for its root: the mount upon the bottom. `None`: there is nothing.
    pub fn first(&self) -> Option<Arc<Mount>> {
        let _locked = lock_trees();
        self.root()?.children().into_iter().next()
    }

    /// A namespace of `owner`'s with nothing but a bottom like this one's (`CLONE_EMPTY_MNTNS`). `ENOSPC`: too many.
    pub(crate) fn empty_copy(&self, owner: &UserNs) -> Result<Arc<Self>> {
        let id = NsId::new(NsKind::Mnt, owner)?;
        let _locked = lock_trees();
        Ok(Self::with(id, &self.copy_bottom(owner)?, None))
    }

    /// A namespace of `owner`'s with the unattached tree that `make` gives, told what copies take over, upon a bottom like
    /// this one's. `ENOSPC`: too many; and what `make` says.
    pub(crate) fn with_tree(
        &self,
        owner: &UserNs,
        make: impl FnOnce(Inherit) -> Result<Arc<Mount>>,
    ) -> Result<Arc<Self>> {
        let id = NsId::new(NsKind::Mnt, owner)?;
        let _locked = lock_trees();
        let bottom = self.copy_bottom(owner)?;
        let top = make(self.inherit(owner))?;
        let ns = Self::with(id, &bottom, None);
        attach(&top, &Path::root_of(&bottom), &ns);
        if self.hides_bottom() {
            top.lock_place();
        }
        if self.id.owner() != owner {
            lock_tree(&bottom);
        }
        Ok(ns)
    }

    fn inherit(&self, owner: &UserNs) -> Inherit {
        if self.id.owner() == owner { Inherit::Peer } else { Inherit::Slave }
    }

    /// A copy of the bottom alone, for a namespace of `owner`'s. `EINVAL`: it has no mounts any more.
    fn copy_bottom(&self, owner: &UserNs) -> Result<Arc<Mount>> {
        let old = self.root().ok_or(Errno::EINVAL)?;
        let new = old.copy(old.root(), self.inherit(owner));
        if self.id.owner() != owner {
            lock_tree(&new);
        }
        Ok(new)
    }

    /// Whether a mount in the stack upon the bottom cannot be unmounted: what is below is not to be seen.
    fn hides_bottom(&self) -> bool {
        let mut at = self.root();
        while let Some(upon) = at.and_then(|mount| mount.child_at(mount.root())) {
            if upon.is_locked() {
                return true;
            }
            at = Some(upon);
        }
        false
    }

    /// A copy of the tree (`CLONE_NEWNS`); also gives for each old mount its copy, to move root and cwd. `ENOSPC`: too
    /// many. `EINVAL`: it has no mounts any more.
    pub fn copy(&self, owner: &UserNs) -> Result<(Arc<Self>, Copies)> {
        let id = NsId::new(NsKind::Mnt, owner)?;
        let _locked = lock_trees();
        let root = self.root().ok_or(Errno::EINVAL)?;
        let pairs = copy_tree(&root, root.root(), self.inherit(owner), Unbindable::Copied);
        let (_, new_root) = pairs.first().ok_or(Errno::EINVAL)?;
        if self.id.owner() != owner {
            lock_tree(new_root);
        }
        let ns = Self::with(id, new_root, None);
        Ok((ns, pairs))
    }
}

/// Whether a mount of `sb` in the caller's namespace has something open for writing.
pub(crate) fn sb_has_writers(ctx: &crate::fs_context::WalkContext<'_>, sb: &Arc<SuperBlock>) -> bool {
    let mounts = ctx.fs.ns().map_or(Vec::new(), |ns| ns.mounts());
    mounts.iter().any(|mount| Arc::ptr_eq(mount.sb(), sb) && mount.has_writers())
}

/// What copies do with unbindable mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unbindable {
    /// They are copied as others: a namespace's copy.
    Copied,
    /// They and what is below them is left out: a bind mount.
    LeftOut,
}

/// Copies `top` and all below it, unattached. `LOCK` is held.
pub(crate) fn copy_all(top: &Arc<Mount>, inherit: Inherit) -> Arc<Mount> {
    let pairs = copy_tree(top, top.root(), inherit, Unbindable::LeftOut);
    pairs.into_iter().next().map_or_else(|| top.copy(top.root(), inherit), |(_, new)| new)
}

/// Locks a tree that a less privileged namespace gets: its places but the top's, and the flags that are set.
pub(crate) fn lock_tree(top: &Arc<Mount>) {
    for mount in top.subtree() {
        let mut locks = Locks::ATIME;
        locks.set(Locks::PLACE, !Arc::ptr_eq(&mount, top));
        FLAG_LOCKS.iter().for_each(|(lock, flag)| locks.set(*lock, mount.flags().contains(*flag)));
        mount.locks.fetch_or(locks.bits(), Relaxed);
    }
}

/// Copies the mounts below (`top`, `root`), unattached, as (old, new) pairs with the top first. `LOCK` is held.
pub(crate) fn copy_tree(
    top: &Arc<Mount>,
    root: &Arc<Dentry>,
    inherit: Inherit,
    unbindable: Unbindable,
) -> Copies {
    let mut pairs = alloc::vec![(top.clone(), top.copy(root, inherit))];
    for old in top.subtree().into_iter().skip(1) {
        let Some(at) = old.mountpoint() else { continue };
        if !at.dentry.is_below(at.mount.root()) || (Arc::ptr_eq(&at.mount, top) && !at.dentry.is_below(root))
        {
            continue;
        }
        let Some(parent) = pairs.iter().find(|(o, _)| Arc::ptr_eq(o, &at.mount)).map(|(_, n)| n.clone())
        else {
            continue;
        };
        if unbindable == Unbindable::LeftOut && old.is_unbindable() {
            continue;
        }
        let new = old.copy(old.root(), inherit);
        let mut children = parent.copy_children();
        children.push((at.dentry.clone(), new.clone()));
        places::add(&at.dentry, &new);
        new.place.swap(Some(Arc::new(MountPlace { parent: parent.clone(), dentry: at.dentry })));
        parent.children.set(Some(Box::new(children)));
        pairs.push((old, new));
    }
    pairs
}

/// Takes apart a tree that no namespace holds any more, so that nothing in it holds each other. `LOCK` is held.
pub(crate) fn dissolve(top: &Arc<Mount>) {
    let mut members = top.subtree();
    members.reverse();
    for mount in members {
        detach(&mount);
        mount.leave_groups();
    }
}

impl Drop for MountNs {
    fn drop(&mut self) {
        if let Some(root) = self.root.swap(None) {
            ORPHANS.lock().push(root);
            dissolve_orphans();
        }
    }
}
