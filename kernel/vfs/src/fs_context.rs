//! A process's view of the file tree: root, working directory, umask, mount namespace (`CLONE_FS` shares it).

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::*};

use abi::Result;
use hal::rcu::{self, ReadGuard};
use hal::sync::{ArcCell, RcuCell, SpinLock};
use security::{Cred, UserNs};

use crate::fdtable::FdTable;
use crate::mount::{Mount, MountNs};
use crate::path::Path;

/// Root and working directory, replaced together.
#[derive(Clone)]
pub(crate) struct FsPaths {
    pub(crate) root: Path,
    pub(crate) cwd: Path,
}

/// Root, working directory, umask and mount namespace of one or more tasks.
///
/// Walks read the paths by RCU without taking references; `change` serialises writers.
pub struct FsContext {
    paths: RcuCell<FsPaths>,
    change: SpinLock<()>,
    umask: AtomicU32,
    ns: ArcCell<MountNs>,
}

/// The umask of the first process.
const DEFAULT_UMASK: u32 = 0o022;

impl FsContext {
    /// The context whose root and working directory are the root of `ns`.
    pub fn new(ns: &Arc<MountNs>, root: &Path) -> Arc<Self> {
        let paths = FsPaths { root: root.clone(), cwd: root.clone() };
        Arc::new(Self {
            paths: RcuCell::new(Box::new(paths)),
            change: SpinLock::new("vfs.fs", ()),
            umask: AtomicU32::new(DEFAULT_UMASK),
            ns: ArcCell::new(ns.clone()),
        })
    }

    /// A copy for a new process, or after `unshare(CLONE_FS)`.
    pub fn fork(&self) -> Arc<Self> {
        let paths = self.copy_paths();
        let ns = self.ns.load();
        Arc::new(Self {
            paths: RcuCell::new(Box::new(paths)),
            change: SpinLock::new("vfs.fs", ()),
            umask: AtomicU32::new(self.umask()),
            ns: ns.map_or_else(ArcCell::empty, ArcCell::new),
        })
    }

    #[inline]
    pub(crate) fn paths<'g>(&'g self, guard: &'g ReadGuard) -> &'g FsPaths {
        self.paths.get(guard).expect("an FsContext always has paths")
    }

    fn copy_paths(&self) -> FsPaths {
        let guard = rcu::read_lock();
        self.paths(&guard).clone()
    }

    /// The root directory.
    pub fn root(&self) -> Path {
        let guard = rcu::read_lock();
        self.paths(&guard).root.clone()
    }

    /// The working directory.
    pub fn cwd(&self) -> Path {
        let guard = rcu::read_lock();
        self.paths(&guard).cwd.clone()
    }

    fn update(&self, f: impl FnOnce(&mut FsPaths)) {
        let _serialised = self.change.lock();
        let mut paths = self.copy_paths();
        f(&mut paths);
        self.paths.set(Some(Box::new(paths)));
    }

    /// Sets the working directory; the caller has checked it.
    pub fn set_cwd(&self, path: Path) {
        self.update(|paths| paths.cwd = path);
    }

    /// Sets the root; the caller has checked it.
    pub fn set_root(&self, path: Path) {
        self.update(|paths| paths.root = path);
    }

    /// Moves root and cwd from `old` to `new` where they are `old` (pivot_root(2)).
    pub fn replace(&self, old: &Path, new: &Path) {
        let current = self.copy_paths();
        if current.root.is_same(old) || current.cwd.is_same(old) {
            self.update(|paths| {
                for path in [&mut paths.root, &mut paths.cwd] {
                    if path.is_same(old) {
                        *path = new.clone();
                    }
                }
            });
        }
    }

    /// File mode bits that new files do not get.
    pub fn umask(&self) -> u32 {
        self.umask.load(Relaxed)
    }

    /// Sets the umask; gives the old one.
    #[inline]
    pub fn set_umask(&self, umask: u32) -> u32 {
        self.umask.swap(umask & 0o777, Relaxed)
    }

    /// The mount namespace.
    pub fn ns(&self) -> Option<Arc<MountNs>> {
        self.ns.load()
    }

    /// Enters the mount namespace `ns` (setns(2)): root and working directory are its root.
    pub fn enter_ns(&self, ns: &Arc<MountNs>) -> Result<()> {
        let mut root = Path::root_of(&ns.root().ok_or(abi::Errno::EINVAL)?);
        crate::walk::cross_mounts(&mut root);
        self.update(|paths| *paths = FsPaths { root: root.clone(), cwd: root });
        self.ns.swap(Some(ns.clone()));
        Ok(())
    }

    /// Gives it a mount namespace of its own (`CLONE_NEWNS`), owned by `owner`; root and cwd move to the same places in
    /// the copy. `ENOSPC`: too many.
    pub fn unshare_ns(&self, owner: &UserNs) -> Result<()> {
        let ns = self.ns().ok_or(abi::Errno::EINVAL)?;
        let (new, pairs) = ns.copy(owner)?;
        let moved = |path: &Path| {
            let pair = pairs.iter().find(|(old, _)| Arc::ptr_eq(old, &path.mount));
            pair.map_or_else(
                || path.clone(),
                |(_, mount): &(Arc<Mount>, Arc<Mount>)| Path::new(mount, &path.dentry),
            )
        };
        self.update(|paths| *paths = FsPaths { root: moved(&paths.root), cwd: moved(&paths.cwd) });
        self.ns.swap(Some(new));
        Ok(())
    }

    /// Gives it a mount namespace with nothing in it (`CLONE_EMPTY_MNTNS`), owned by `owner`; root and cwd are its bottom.
    /// `ENOSPC`: too many.
    pub fn enter_empty_ns(&self, owner: &UserNs) -> Result<()> {
        let new = self.ns().ok_or(abi::Errno::EINVAL)?.empty_copy(owner)?;
        let root = Path::root_of(&new.root().ok_or(abi::Errno::EINVAL)?);
        self.update(|paths| *paths = FsPaths { root: root.clone(), cwd: root });
        self.ns.swap(Some(new));
        Ok(())
    }
}

/// Who walks: everything that a path name is interpreted by.
#[derive(Clone, Copy)]
pub struct WalkContext<'a> {
    /// Root, working directory, umask.
    pub fs: &'a FsContext,
    /// Descriptors that `*at` calls start from.
    pub files: &'a FdTable,
    /// Credentials.
    pub cred: &'a Arc<Cred>,
}
