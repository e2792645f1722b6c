//! The controller of task numbers: a fork that would make a group, or one above it, have more tasks than it may fails.
//!
//! The numbers are kept in all groups but the root, whether the controller is on or not: then turning it on costs nothing.
//! What was set is forgotten when it is turned on or off.
//!
//! Source: Documentation/admin-guide/cgroup-v2.rst, "PID".

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use abi::{Errno, Result};

use crate::control::{Controllers, Options};
use crate::tree::{Cgroup, EventFile};

/// "max" of pids.max.
pub const NO_LIMIT: u64 = u64::MAX;
/// The largest number that pids.max takes: as many ids as there are.
pub const MOST: u64 = 4 << 20;

/// What a group counts and allows. The root does neither.
pub(crate) struct Pids {
    current: AtomicU64,
    peak: AtomicU64,
    max: AtomicU64,
    /// Forks refused because of a limit here or below.
    refused: AtomicU64,
    /// Those because of the limit here.
    refused_here: AtomicU64,
    /// Forks that failed in this group, whoever refused them.
    failed: AtomicU64,
}

/// What pids.events and pids.events.local tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// It and all below.
    Subtree,
    /// It alone.
    Local,
}

impl Pids {
    pub(crate) const fn new() -> Self {
        Self {
            current: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            max: AtomicU64::new(NO_LIMIT),
            refused: AtomicU64::new(0),
            refused_here: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Forgets everything but who is there.
    pub(crate) fn reset(&self) {
        self.max.store(NO_LIMIT, Relaxed);
        self.peak.store(self.current.load(Relaxed), Relaxed);
        for counter in [&self.refused, &self.refused_here, &self.failed] {
            counter.store(0, Relaxed);
        }
    }
}

impl Cgroup {
    /// It and the groups above it, without the root.
    fn charged(&self) -> impl Iterator<Item = &Self> {
        core::iter::successors(Some(self), |&group| group.parent().map(|parent| &**parent))
            .take_while(|group| !group.is_root())
    }

    /// Counts a new task. `EAGAIN`: too many; nothing is counted.
    pub fn try_charge_pid(&self) -> Result<()> {
        for group in self.charged() {
            let pids = &group.pids;
            let now = pids.current.fetch_add(1, Relaxed) + 1;
            if now > pids.max.load(Relaxed) {
                let charged = self.charged().take_while(|other| !core::ptr::eq(*other, group));
                charged.chain([group]).for_each(|group| {
                    group.pids.current.fetch_sub(1, Relaxed);
                });
                self.note_refusal(group);
                return Err(Errno::EAGAIN);
            }
            pids.peak.fetch_max(now, Relaxed);
        }
        Ok(())
    }

    /// Counts a task that is there already: it moved in.
    pub fn charge_pid(&self) {
        for group in self.charged() {
            let now = group.pids.current.fetch_add(1, Relaxed) + 1;
            group.pids.peak.fetch_max(now, Relaxed);
        }
    }

    /// A task is gone for good, or moved out.
    pub fn uncharge_pid(&self) {
        self.charged().for_each(|group| {
            group.pids.current.fetch_sub(1, Relaxed);
        });
    }

    /// A fork here was refused by the limit of `by`.
    fn note_refusal(&self, by: &Self) {
        let has_controller = |group: &&Self| group.controllers().contains(Controllers::PIDS);
        if let Some(here) = self.charged().find(has_controller) {
            here.pids.failed.fetch_add(1, Relaxed);
            if Options::current().contains(Options::PIDS_LOCALEVENTS) {
                here.tell(EventFile::PidsLocal);
                return;
            }
        }
        by.pids.refused_here.fetch_add(1, Relaxed);
        by.tell(EventFile::PidsLocal);
        for group in by.charged() {
            group.pids.refused.fetch_add(1, Relaxed);
            group.tell(EventFile::Pids);
        }
    }

    /// pids.current.
    pub fn nr_pids(&self) -> u64 {
        self.pids.current.load(Relaxed)
    }

    /// pids.peak.
    pub fn peak_pids(&self) -> u64 {
        self.pids.peak.load(Relaxed)
    }

    /// pids.max; [`NO_LIMIT`].
    pub fn max_pids(&self) -> u64 {
        self.pids.max.load(Relaxed)
    }

    /// Sets pids.max. Tasks that are there stay.
    pub fn set_max_pids(&self, max: u64) {
        self.pids.max.store(max, Relaxed);
    }

    /// How often the limit made a fork fail.
    pub fn refused_pids(&self, scope: Scope) -> u64 {
        let pids = &self.pids;
        let counter = match scope {
            _ if Options::current().contains(Options::PIDS_LOCALEVENTS) => &pids.failed,
            Scope::Subtree => &pids.refused,
            Scope::Local => &pids.refused_here,
        };
        counter.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_any_group_above_counts() {
        let _alone = crate::testing::alone();
        let held = crate::lock();
        let none = Controllers::empty();
        let root = Cgroup::root();
        let a = root.create(b"pids-a", &held).unwrap();
        let b = a.create(b"b", &held).unwrap();
        root.set_subtree_control(Controllers::PIDS, none, &held).unwrap();
        a.set_subtree_control(Controllers::PIDS, none, &held).unwrap();
        a.set_max_pids(2);
        b.try_charge_pid().unwrap();
        a.try_charge_pid().unwrap();
        assert_eq!(b.try_charge_pid(), Err(Errno::EAGAIN));
        assert_eq!((a.nr_pids(), b.nr_pids(), b.peak_pids(), a.peak_pids()), (2, 1, 2, 2));
        let told = |scope| (a.refused_pids(scope), b.refused_pids(scope));
        assert_eq!((told(Scope::Subtree), told(Scope::Local)), ((1, 0), (1, 0)));
        b.charge_pid();
        assert_eq!((a.nr_pids(), b.nr_pids(), root.nr_pids()), (3, 2, 0));
        b.set_max_pids(1);
        a.set_max_pids(NO_LIMIT);
        assert_eq!(b.try_charge_pid(), Err(Errno::EAGAIN));
        assert_eq!((told(Scope::Subtree), told(Scope::Local)), ((2, 1), (1, 1)));
        a.set_subtree_control(none, Controllers::PIDS, &held).unwrap();
        assert_eq!((b.max_pids(), b.refused_pids(Scope::Local)), (NO_LIMIT, 0));
        for group in [&a, &b, &b] {
            group.uncharge_pid();
        }
        assert_eq!((a.nr_pids(), b.nr_pids()), (0, 0));
    }
}
