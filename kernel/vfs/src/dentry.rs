//! Dentries: names in directories, as the kernel remembers them.
//!
//! A [`Dentry`] ties a (parent, name) pair to an inode, or to the knowledge that there is none (a negative entry).
//! Open files, working directories and mounts hold dentries, so a path can be told even after renames.
//!
//! ```text
//!             set_inode (create)
//!   negative --------------------> positive
//!      |                              |
//!      | evicted                      | evicted, or name removed or replaced
//!      v                              v
//!   unhashed                       unhashed: lives on while someone holds it
//! ```
//!
//! # Invariants
//!
//! - D1: a dentry is positive once and for all: after an unlink it is unhashed and never becomes negative.
//! - D2: a hashed dentry is the only hashed one for its (parent, name).
//! - D3: a dentry holds its parent; the root of a file system is its own parent (it holds none).
//!
//! # Locks
//!
//! Place (parent and name) and hashing change with the `sem` of the parent inodes held for writing and inside
//! `dcache::Rename`. Readers use RCU: [`Dentry::place`] gives parent and name that belong together.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::*};

use hal::rcu::ReadGuard;
use hal::sync::{Once, RcuCell};
use smallvec::SmallVec;

use crate::dcache::Hash;
use crate::inode::Inode;
use crate::superblock::SuperBlock;

/// A file name: at most 255 bytes, no `/` and no NUL.
pub type Name = SmallVec<[u8; 24]>;

/// Where a dentry is.
pub(crate) struct Place {
    /// `None` for the root of a file system.
    pub(crate) parent: Option<Arc<Dentry>>,
    pub(crate) name: Name,
    pub(crate) hash: Hash,
}

/// Not in the hash table.
const UNHASHED: u32 = 1 << 0;
/// Used since the last sweep of the evictor.
const REFERENCED: u32 = 1 << 1;
/// The name no longer exists: paths through it end in " (deleted)".
const DELETED: u32 = 1 << 2;
/// Counts mounts on this dentry, from this bit on.
const MOUNT_ONE: u32 = 1 << 8;

/// A name in a directory; see the module's front page.
pub struct Dentry {
    first: Place,
    /// The place after a rename.
    moved: RcuCell<Place>,
    inode: Once<Arc<Inode>>,
    sb: Arc<SuperBlock>,
    state: AtomicU32,
}

impl Dentry {
    /// The root of a file system.
    pub fn new_root(inode: Arc<Inode>) -> Arc<Self> {
        let sb = inode.sb().clone();
        Self::alloc(None, Name::from_slice(b"/"), Hash::default(), Some(inode), sb)
    }

    /// A dentry outside of any directory, as anonymous objects have; `name` is what /proc/PID/fd shows.
    pub fn new_detached(name: &[u8], inode: Arc<Inode>) -> Arc<Self> {
        let sb = inode.sb().clone();
        Self::alloc(None, Name::from_slice(name), Hash::default(), Some(inode), sb)
    }

    /// A dentry that is not hashed yet.
    pub(crate) fn new(parent: &Arc<Dentry>, name: &[u8], hash: Hash, inode: Option<Arc<Inode>>) -> Arc<Self> {
        Self::alloc(Some(parent.clone()), Name::from_slice(name), hash, inode, parent.sb.clone())
    }

    fn alloc(
        parent: Option<Arc<Dentry>>,
        name: Name,
        hash: Hash,
        inode: Option<Arc<Inode>>,
        sb: Arc<SuperBlock>,
    ) -> Arc<Self> {
        let cell = Once::new();
        if let Some(inode) = inode {
            cell.call_once(|| inode);
        }
        Arc::new(Self {
            first: Place { parent, name, hash },
            moved: RcuCell::empty(),
            inode: cell,
            sb,
            state: AtomicU32::new(UNHASHED),
        })
    }

    /// The inode; `None` for a negative entry.
    #[inline]
    pub fn inode(&self) -> Option<&Arc<Inode>> {
        self.inode.get()
    }

    /// Makes a negative entry positive; the parent's `sem` is held for writing.
    pub(crate) fn set_inode(&self, inode: Arc<Inode>) {
        self.inode.call_once(|| inode);
    }

    /// Whether there is no such file.
    pub fn is_negative(&self) -> bool {
        self.inode().is_none()
    }

    /// The file system it belongs to.
    #[inline]
    pub fn sb(&self) -> &Arc<SuperBlock> {
        &self.sb
    }

    /// Parent and name, as they belong together.
    #[inline]
    pub(crate) fn place<'g>(&'g self, guard: &'g ReadGuard) -> &'g Place {
        self.moved.get(guard).unwrap_or(&self.first)
    }

    /// Moves it; the dcache has taken it out of the table.
    pub(crate) fn set_place(&self, place: Place) {
        self.moved.set(Some(alloc::boxed::Box::new(place)));
    }

    /// The directory it is in; `None` for the root of a file system.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        let guard = hal::rcu::read_lock();
        self.place(&guard).parent.clone()
    }

    /// Its name, copied.
    pub fn name(&self) -> Name {
        let guard = hal::rcu::read_lock();
        self.place(&guard).name.clone()
    }

    /// Whether it is the root of a file system (or detached).
    pub fn is_root(&self) -> bool {
        self.first.parent.is_none()
    }

    /// Whether it can be found by its name.
    pub fn is_hashed(&self) -> bool {
        self.state.load(Acquire) & UNHASHED == 0
    }

    pub(crate) fn set_hashed(&self) {
        self.state.fetch_and(!(UNHASHED | DELETED), SeqCst);
    }

    /// Notes that it left the table. SeqCst pairs with `dcache::pin`.
    pub(crate) fn set_unhashed(&self) {
        self.state.fetch_or(UNHASHED, SeqCst);
    }

    /// Notes that its name was removed.
    pub(crate) fn set_deleted(&self) {
        self.state.fetch_or(DELETED, Relaxed);
    }

    /// Whether its name was removed.
    pub fn is_deleted(&self) -> bool {
        self.state.load(Relaxed) & DELETED != 0
    }

    /// Notes a use, so that the evictor spares it once.
    #[inline]
    pub(crate) fn mark_referenced(&self) {
        if self.state.load(Relaxed) & REFERENCED == 0 {
            self.state.fetch_or(REFERENCED, Relaxed);
        }
    }

    pub(crate) fn take_referenced(&self) -> bool {
        self.state.fetch_and(!REFERENCED, Relaxed) & REFERENCED != 0
    }

    /// Whether anything may be mounted on it.
    #[inline]
    pub fn is_mountpoint(&self) -> bool {
        self.state.load(Acquire) >= MOUNT_ONE
    }

    pub(crate) fn add_mount(&self) {
        self.state.fetch_add(MOUNT_ONE, AcqRel);
    }

    pub(crate) fn remove_mount(&self) {
        self.state.fetch_sub(MOUNT_ONE, AcqRel);
    }

    /// Whether `self` is `ancestor` or below it.
    pub fn is_below(self: &Arc<Self>, ancestor: &Arc<Dentry>) -> bool {
        let guard = hal::rcu::read_lock();
        let mut at: &Arc<Dentry> = self;
        loop {
            if Arc::ptr_eq(at, ancestor) {
                return true;
            }
            match &at.place(&guard).parent {
                Some(parent) => at = parent,
                None => return false,
            }
        }
    }

    /// Whether `inode` is that of this dentry or of one above it: a file system may show one directory by several names.
    pub(crate) fn is_below_inode(self: &Arc<Self>, inode: &Arc<Inode>) -> bool {
        let guard = hal::rcu::read_lock();
        let mut at = Some(self);
        while let Some(dentry) = at {
            if dentry.inode().is_some_and(|own| Arc::ptr_eq(own, inode)) {
                return true;
            }
            at = dentry.place(&guard).parent.as_ref();
        }
        false
    }

    /// Parent and name as they belong together, copied.
    pub fn parent_and_name(&self) -> (Option<Arc<Dentry>>, Name) {
        let guard = hal::rcu::read_lock();
        let place = self.place(&guard);
        (place.parent.clone(), place.name.clone())
    }

    /// The path from the root of the file system, which is "/" itself.
    pub fn path_in_fs(self: &Arc<Self>) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = self.clone();
        while let (Some(parent), name) = at.parent_and_name() {
            names.push(name);
            at = parent;
        }
        join(&names)
    }
}

/// Builds a path of names that were collected from the last to the first; "/" if there are none.
pub(crate) fn join(names: &[Name]) -> Vec<u8> {
    // The length is known; one more for the NUL of getcwd(2).
    let len = names.iter().fold(2, |len, name| len + 1 + name.len());
    let mut path = Vec::with_capacity(len);
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    path
}

impl Drop for Dentry {
    /// A removed directory may be all that holds the removed directories above it, to any depth: they are let go of one
    /// after the other, not inside of each other.
    fn drop(&mut self) {
        let is_moved = self.moved.get(&hal::rcu::read_lock()).is_some();
        if is_moved {
            // Dropped by RCU, so not on this stack.
            self.moved.set(None);
        }
        let mut next = self.first.parent.take();
        while let Some(mut dentry) = next.and_then(Arc::into_inner) {
            next = dentry.first.parent.take();
        }
    }
}

impl core::fmt::Debug for Dentry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Dentry({})", alloc::string::String::from_utf8_lossy(&self.name()))
    }
}
