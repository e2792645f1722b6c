//! Domains and threaded groups.
//!
//! ```text
//!   domain ──▶ the usual: whole processes, any controller for its children
//!   domain threaded ──▶ the root of a threaded subtree: its resources are shared by the threads below
//!   threaded ──▶ in such a subtree: single threads, controllers that can tell threads apart
//!   domain invalid ──▶ a domain in such a subtree: it can host nothing until it is threaded too
//! ```
//! The root of all is both: it may have tasks, controllers, domains and threaded groups below it.
//!
//! Source: Documentation/admin-guide/cgroup-v2.rst, "Threads" and "No Internal Process Constraint".

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use abi::{Errno, Result};

use crate::control::{Controllers, THREADED};
use crate::state::Held;
use crate::tree::{Cgroup, Hierarchy};

/// What a group is (cgroup.type).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A domain.
    Domain,
    /// A domain with threaded groups below.
    DomainThreaded,
    /// A domain where none can be.
    DomainInvalid,
    /// Part of a threaded subtree.
    Threaded,
}

impl Kind {
    /// As cgroup.type spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::DomainThreaded => "domain threaded",
            Self::DomainInvalid => "domain invalid",
            Self::Threaded => "threaded",
        }
    }
}

impl Cgroup {
    /// Whether it is part of a threaded subtree, and not its root.
    #[inline]
    pub fn is_threaded(&self) -> bool {
        self.is_threaded.load(Relaxed)
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        if self.is_threaded() {
            Kind::Threaded
        } else if !self.is_valid_domain() {
            Kind::DomainInvalid
        } else if self.is_thread_root() {
            Kind::DomainThreaded
        } else {
            Kind::Domain
        }
    }

    /// The domain that it shares resources with: itself, or the root of its threaded subtree.
    pub fn domain(self: &Arc<Self>) -> Arc<Self> {
        let mut at = self;
        while let Some(parent) = at.parent().filter(|_| at.is_threaded()) {
            at = parent;
        }
        at.clone()
    }

    /// Whether a threaded subtree hangs on it.
    fn is_thread_root(&self) -> bool {
        !self.is_threaded()
            && (self.nr_threaded_children.load(Relaxed) > 0
                || (self.has_tasks() && self.subtree_control().intersects(THREADED)))
    }

    /// Whether a threaded subtree may hang on it.
    fn can_be_thread_root(&self) -> bool {
        if self.is_root() {
            return true;
        }
        !self.is_threaded()
            && self.state.nr_populated_domains() == 0
            && (self.subtree_control() - THREADED).is_empty()
    }

    /// Whether it is a domain and nothing above makes that impossible.
    fn is_valid_domain(&self) -> bool {
        if self.is_threaded() {
            return false;
        }
        let mut at = self.parent();
        while let Some(above) = at {
            if !above.is_root() && (above.is_threaded() || above.is_thread_root()) {
                return false;
            }
            at = above.parent();
        }
        true
    }

    /// Whether processes may come into it. `EOPNOTSUPP`: its domain is invalid. `EBUSY`: its children compete for
    /// resources, so there can be no tasks beside them.
    pub fn vet_destination(self: &Arc<Self>) -> Result<()> {
        if !self.domain().is_valid_domain() {
            return Err(Errno::EOPNOTSUPP);
        }
        let mixes = self.can_be_thread_root() || self.is_threaded();
        if mixes || self.subtree_control().is_empty() { Ok(()) } else { Err(Errno::EBUSY) }
    }

    /// Whether its children may get the controllers `on`; the errors are those of [`Cgroup::set_subtree_control`].
    pub(crate) fn vet_controllers(&self, on: Controllers) -> Result<()> {
        if on.is_empty() || self.is_root() {
            return Ok(());
        }
        let mut domain = self;
        while let Some(parent) = domain.parent().filter(|_| domain.is_threaded()) {
            domain = parent;
        }
        if !domain.is_valid_domain() {
            return Err(Errno::EOPNOTSUPP);
        }
        if (on - THREADED).is_empty() {
            if self.can_be_thread_root() || self.is_threaded() {
                return Ok(());
            }
        } else if self.is_thread_root() || self.is_threaded() {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.has_tasks() { Err(Errno::EBUSY) } else { Ok(()) }
    }

    /// Makes it part of its parent's threaded subtree. `EOPNOTSUPP`: tasks or domain controllers are in it, or the parent can
    /// have none. The root cannot be asked.
    pub fn make_threaded(&self, _hierarchy: &Hierarchy) -> Result<()> {
        if self.is_threaded() {
            return Ok(());
        }
        let parent = self.parent().ok_or(Errno::EOPNOTSUPP)?;
        if !(self.subtree_control() - THREADED).is_empty() {
            return Err(Errno::EOPNOTSUPP);
        }
        let domain = parent.domain();
        if !domain.is_valid_domain() || !domain.can_be_thread_root() {
            return Err(Errno::EOPNOTSUPP);
        }
        // The parent counts populated domains and threaded groups apart, so it changes while it counts for neither. Who enters
        // is a member first and takes the lock then: this sees the member, or that sees the new kind.
        let held = Held::take();
        if self.is_populated() || self.has_tasks() {
            return Err(Errno::EOPNOTSUPP);
        }
        self.is_threaded.store(true, Relaxed);
        drop(held);
        parent.nr_threaded_children.fetch_add(1, Relaxed);
        Ok(())
    }
}
