//! Controllers: which there are, and which a group offers its children.
//!
//! Sources: Documentation/admin-guide/cgroup-v2.rst, "Controlling Controllers".

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use abi::{Errno, Result};
use bitflags::bitflags;

use crate::tree::{Cgroup, Hierarchy};

bitflags! {
    /// A set of controllers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Controllers: u32 {
        /// The number of tasks.
        const PIDS = 1;
    }

    /// Options of the whole hierarchy (mount options of cgroup2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Options: u32 {
        /// Namespaces are borders of delegation.
        const NSDELEGATE = 1;
        /// Migrations shall be fast; they always are.
        const FAVORDYNMODS = 2;
        /// memory.events tells of the group alone.
        const MEMORY_LOCALEVENTS = 4;
        /// memory.low and memory.min protect whole subtrees.
        const MEMORY_RECURSIVEPROT = 8;
        /// Huge pages count as memory of a group.
        const MEMORY_HUGETLB_ACCOUNTING = 16;
        /// pids.events tells of the group alone.
        const PIDS_LOCALEVENTS = 32;
    }
}

/// Names of controllers in the order in which Linux lists them.
const NAMES: [(Controllers, &str); 1] = [(Controllers::PIDS, "pids")];

/// Controllers that may be on in threaded groups.
pub(crate) const THREADED: Controllers = Controllers::PIDS;

static OPTIONS: AtomicU32 = AtomicU32::new(0);
static WAS_MOUNTED: AtomicBool = AtomicBool::new(false);

/// The hierarchy is mounted: from now on /proc tells of it.
pub fn note_mount() {
    WAS_MOUNTED.store(true, Relaxed);
}

/// Whether the hierarchy was ever mounted.
pub fn was_mounted() -> bool {
    WAS_MOUNTED.load(Relaxed)
}

impl Options {
    /// Those in force.
    #[inline]
    pub fn current() -> Self {
        Self::from_bits_retain(OPTIONS.load(Relaxed))
    }

    /// Puts these in force.
    pub fn enforce(self) {
        OPTIONS.store(self.bits(), Relaxed);
    }
}

impl Controllers {
    /// The controller called `name`.
    pub fn named(name: &[u8]) -> Option<Self> {
        NAMES.iter().find(|(_, known)| known.as_bytes() == name).map(|(one, _)| *one)
    }

    /// Each of the set with its name, in Linux's order.
    pub fn each(self) -> impl Iterator<Item = (Self, &'static str)> {
        NAMES.into_iter().filter(move |(one, _)| self.contains(*one))
    }
}

impl Cgroup {
    /// The controllers that are on in it (cgroup.controllers).
    pub fn controllers(&self) -> Controllers {
        let Some(parent) = self.parent() else { return Controllers::all() };
        let offered = parent.subtree_control();
        if self.is_threaded() { offered & THREADED } else { offered }
    }

    /// The controllers that it offers its children (cgroup.subtree_control).
    #[inline]
    pub fn subtree_control(&self) -> Controllers {
        Controllers::from_bits_retain(self.subtree_control.load(Relaxed))
    }

    /// Turns controllers for its children on and off.
    ///
    /// `ENOENT`: one to be turned on is not on here. `EBUSY`: a child needs one that is to be turned off; tasks are in the
    /// group. `EOPNOTSUPP`: the group is threaded, or in an invalid place.
    pub fn set_subtree_control(&self, on: Controllers, off: Controllers, held: &Hierarchy) -> Result<()> {
        let now = self.subtree_control();
        if !self.controllers().contains(on - now) {
            return Err(Errno::ENOENT);
        }
        let (on, off) = (on - now, off & now);
        if !off.is_empty() && self.any_child(|child| child.subtree_control().intersects(off)) {
            return Err(Errno::EBUSY);
        }
        self.vet_controllers(on)?;
        if on.is_empty() && off.is_empty() {
            return Ok(());
        }
        let changed = on | off;
        if changed.contains(Controllers::PIDS) {
            // A controller that comes or goes forgets what was set.
            self.each_child(held, |child| child.pids.reset());
        }
        self.subtree_control.store(((now | on) - off).bits(), Relaxed);
        Ok(())
    }
}
