//! cgroup.freeze: the tasks of a subtree stop until it is let go.
//!
//! Source: Documentation/admin-guide/cgroup-v2.rst, "cgroup.freeze" and "cgroup.stat.local".

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::fence;

use abi::Result;

use crate::state::Held;
use crate::tree::{Cgroup, Hierarchy};

impl Cgroup {
    /// Its own cgroup.freeze.
    pub fn own_freeze(&self) -> bool {
        self.state.own_freeze.load(Relaxed)
    }

    /// Sets its cgroup.freeze. Gives the groups whose tasks must now stop or go on, those above before those below; once the
    /// caller has told the tasks it calls [`Cgroup::refresh_all`]. `ENOMEM`: nothing has changed.
    pub fn set_freeze(self: &Arc<Self>, freeze: bool, hierarchy: &Hierarchy) -> Result<Vec<Arc<Self>>> {
        let all = self.subtree(hierarchy)?;
        let mut changed = Vec::new();
        changed.try_reserve_exact(all.len()).map_err(|_| abi::Errno::ENOMEM)?;
        self.state.own_freeze.store(freeze, Relaxed);
        let now = hal::time::now_ns();
        for group in all {
            let above = group.parent().is_some_and(|parent| parent.freezes());
            let freezes = group.own_freeze() || above;
            if group.freezes() == freezes {
                continue;
            }
            let held = Held::take();
            let state = &group.state;
            if freezes {
                state.freeze_start_ns.store(now, Relaxed);
            } else {
                let start = state.freeze_start_ns.load(Relaxed);
                state.frozen_ns.fetch_add(now.saturating_sub(start), Relaxed);
            }
            state.freezes.store(freezes, Relaxed);
            if !freezes {
                group.refresh(&held);
            }
            drop(held);
            changed.push(group);
        }
        // The marks are set before the caller looks for tasks; who is born publishes itself first and looks for marks then.
        fence(SeqCst);
        Ok(changed)
    }

    /// Looks which of `groups`, in the order of [`Cgroup::set_freeze`], are frozen: those without running tasks are at once.
    pub fn refresh_all(groups: &[Arc<Self>]) {
        for group in groups.iter().rev() {
            group.refresh(&Held::take());
        }
    }

    /// For how many nanoseconds it had to be frozen until now.
    pub fn frozen_ns(&self) -> u64 {
        let _held = Held::take();
        let state = &self.state;
        let before = state.frozen_ns.load(Relaxed);
        if !self.freezes() {
            return before;
        }
        before + hal::time::now_ns().saturating_sub(state.freeze_start_ns.load(Relaxed))
    }
}
