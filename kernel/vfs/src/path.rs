//! Paths: a place in the tree of mounts, and how to spell it.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hal::rcu::ReadGuard;
use smallvec::SmallVec;

use crate::dentry::{self, Dentry, Name};
use crate::inode::Inode;
use crate::mount::Mount;

/// A dentry as seen through a mount.
#[derive(Clone, Debug)]
pub struct Path {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The dentry, of the mount's file system and at or below the mount's root.
    pub dentry: Arc<Dentry>,
}

/// A path spelled out.
pub struct Spelled {
    /// The text, beginning with '/'.
    pub text: Vec<u8>,
    /// Whether the walk up ended at the asked-for root, and not at the root of some other tree.
    pub is_reachable: bool,
}

impl Path {
    /// The path of `dentry` in `mount`.
    pub fn new(mount: &Arc<Mount>, dentry: &Arc<Dentry>) -> Self {
        Self { mount: mount.clone(), dentry: dentry.clone() }
    }

    /// The root of `mount`.
    #[inline]
    pub fn root_of(mount: &Arc<Mount>) -> Self {
        Self::new(mount, mount.root())
    }

    /// The inode; `None` for a negative entry.
    pub fn inode(&self) -> Option<&Arc<Inode>> {
        self.dentry.inode()
    }

    /// Whether both are the same dentry in the same mount.
    pub fn is_same(&self, other: &Path) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }

    /// Whether this is the root of its mount.
    pub fn is_mount_root(&self) -> bool {
        Arc::ptr_eq(&self.dentry, self.mount.root())
    }

    /// Spells the path as seen from `root`. Removed names get no mark; see [`Path::display`].
    pub fn spell(&self, root: Option<&Path>) -> Spelled {
        let mut names = SmallVec::<[Name; 8]>::new();
        let mut at = self.clone();
        let is_reachable = loop {
            if root.is_some_and(|root| root.is_same(&at)) {
                break true;
            }
            if at.is_mount_root() {
                match at.mount.mountpoint() {
                    Some(up) => at = up,
                    None => break root.is_none(),
                }
                continue;
            }
            match at.dentry.parent_and_name() {
                (Some(parent), name) => {
                    names.push(name);
                    at.dentry = parent;
                }
                (None, _) => break false,
            }
        };
        Spelled { text: dentry::join(&names), is_reachable }
    }

    /// Spells the path as seen from `root` into the empty `text`, which has room for `max` bytes: allocates nothing.
    /// `None`: it does not fit, is too deep, or does not lie below `root`. The caller asks the sequence of the name space
    /// whether it was true.
    pub(crate) fn spell_within(
        &self,
        root: &Path,
        guard: &ReadGuard,
        text: &mut Vec<u8>,
        max: usize,
    ) -> Option<()> {
        /// The deepest path that is tried.
        const DEPTH: usize = 16;
        let mut names: [&[u8]; DEPTH] = [&[]; DEPTH];
        let (mut nr_names, mut len) = (0, 0);
        let (mut mount, mut dentry) = (&self.mount, &self.dentry);
        while !(Arc::ptr_eq(dentry, &root.dentry) && Arc::ptr_eq(mount, &root.mount)) {
            if Arc::ptr_eq(dentry, mount.root()) {
                let place = mount.place(guard)?;
                (mount, dentry) = (&place.parent, &place.dentry);
                continue;
            }
            let place = dentry.place(guard);
            *names.get_mut(nr_names)? = &place.name;
            nr_names += 1;
            len += place.name.len() + 1;
            dentry = place.parent.as_ref()?;
        }
        if len > max {
            return None;
        }
        if nr_names == 0 {
            text.push(b'/');
        }
        for name in names[..nr_names].iter().rev() {
            text.push(b'/');
            text.extend_from_slice(name);
        }
        Some(())
    }

    /// The path as the links in /proc/PID/fd and the lines of /proc/PID/maps show it: with " (deleted)" when the
    /// name is gone. Anonymous objects show their own name.
    pub fn display(&self, root: Option<&Path>) -> Vec<u8> {
        if self.mount.is_internal() {
            return self.dentry.name().to_vec();
        }
        let mut text = self.spell(root).text;
        if self.dentry.is_deleted() {
            text.extend_from_slice(b" (deleted)");
        }
        text
    }
}
