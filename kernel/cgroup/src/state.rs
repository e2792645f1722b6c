//! Populated and frozen, and how both travel up the tree.
//!
//! A group is populated while a task is in it or in a group below. It is frozen when it shall freeze, all tasks in it have
//! stopped, and all groups below it are frozen.
//!
//! # Locking
//!
//! `members` changes without a lock; whoever takes it from or to 0 compares under [`STATE`] afterwards, so the last to do so
//! sees the final value. All else changes under STATE.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use hal::sync::{IrqLock, IrqLockGuard};

use crate::tree::{Cgroup, EventFile};

static STATE: IrqLock<()> = IrqLock::new("cgroup.state", ());

/// Proof that the state of groups, and the places of tasks, are compared by nobody else.
pub struct Held {
    _held: IrqLockGuard<'static, ()>,
}

impl Held {
    /// Takes the lock. Interrupts are off while it is held.
    pub fn take() -> Self {
        Self { _held: STATE.lock() }
    }
}

/// What a group counts.
pub(crate) struct State {
    /// Tasks in it that have not ended. The root does not count.
    members: AtomicU32,
    is_populated: AtomicBool,
    populated_domains: AtomicU32,
    populated_threaded: AtomicU32,
    nr_children: AtomicU32,
    /// It shall freeze, by its own cgroup.freeze or that of a group above.
    pub(crate) freezes: AtomicBool,
    /// Its own cgroup.freeze.
    pub(crate) own_freeze: AtomicBool,
    is_frozen: AtomicBool,
    frozen_tasks: AtomicU32,
    frozen_children: AtomicU32,
    /// When it began to freeze, and how long it was frozen before, in nanoseconds.
    pub(crate) freeze_start_ns: AtomicU64,
    pub(crate) frozen_ns: AtomicU64,
}

impl State {
    /// Of a new group below `parent`: it freezes at once if that one does.
    pub(crate) fn below(parent: Option<&Cgroup>) -> Self {
        let freezes = parent.is_some_and(|parent| parent.freezes());
        Self {
            members: AtomicU32::new(0),
            is_populated: AtomicBool::new(false),
            populated_domains: AtomicU32::new(0),
            populated_threaded: AtomicU32::new(0),
            nr_children: AtomicU32::new(0),
            freezes: AtomicBool::new(freezes),
            own_freeze: AtomicBool::new(false),
            is_frozen: AtomicBool::new(freezes),
            frozen_tasks: AtomicU32::new(0),
            frozen_children: AtomicU32::new(0),
            freeze_start_ns: AtomicU64::new(if freezes { hal::time::now_ns() } else { 0 }),
            frozen_ns: AtomicU64::new(0),
        }
    }

    pub(crate) fn nr_populated_domains(&self) -> u32 {
        self.populated_domains.load(Relaxed)
    }
}

fn count(counter: &AtomicU32, comes: bool) {
    if comes {
        counter.fetch_add(1, Relaxed);
    } else {
        counter.fetch_sub(1, Relaxed);
    }
}

/// `child` is in the tree now.
pub(crate) fn child_added(parent: &Cgroup, child: &Cgroup) {
    let held = Held::take();
    parent.state.nr_children.fetch_add(1, Relaxed);
    if child.state.is_frozen.load(Relaxed) {
        parent.state.frozen_children.fetch_add(1, Relaxed);
    }
    parent.refresh(&held);
}

/// `child` was marked as removed, under the same `held`.
pub(crate) fn child_removed(parent: &Cgroup, child: &Cgroup, held: &Held) {
    parent.state.nr_children.fetch_sub(1, Relaxed);
    if child.state.is_frozen.load(Relaxed) {
        parent.state.frozen_children.fetch_sub(1, Relaxed);
    }
    parent.refresh(held);
}

impl Cgroup {
    /// Whether tasks are in it, those below not counted. Unknown of the root: false.
    pub(crate) fn has_tasks(&self) -> bool {
        self.state.members.load(SeqCst) > 0
    }

    /// Whether tasks are in it or below.
    pub fn is_populated(&self) -> bool {
        self.state.is_populated.load(Relaxed)
    }

    /// Whether all tasks in it and below have stopped, as they shall.
    pub fn is_frozen(&self) -> bool {
        self.state.is_frozen.load(Relaxed)
    }

    /// Whether tasks in it shall freeze.
    #[inline]
    pub fn freezes(&self) -> bool {
        self.state.freezes.load(Relaxed)
    }

    /// Counts a task in. `false`: the group was removed, and nothing is counted. Not for the root.
    pub fn try_enter(&self) -> Option<()> {
        self.enter();
        if self.is_dead() {
            self.leave();
            return None;
        }
        Some(())
    }

    /// Counts a task in that its caller knows not to come too late.
    pub fn enter(&self) {
        if self.state.members.fetch_add(1, SeqCst) == 0 {
            // A frozen group stays so until the task runs, which it does not: it freezes first.
            self.refresh_with(Cgroup::refresh_populated, &Held::take());
        }
    }

    /// Counts a task out: it ended, or moved.
    pub fn leave(&self) {
        if self.state.members.fetch_sub(1, SeqCst) == 1 || self.freezes() {
            self.refresh(&Held::take());
        }
    }

    /// Counts a task in it as stopped, or not any more.
    pub fn count_frozen(&self, is_frozen: bool, held: &Held) {
        count(&self.state.frozen_tasks, is_frozen);
        if self.freezes() {
            self.refresh(held);
        }
    }

    /// A task moves from `from` to `to` (`None`: the root), where it was counted in already.
    pub fn moved(from: Option<&Self>, to: Option<&Self>, is_frozen: bool, held: &Held) {
        if let Some(to) = to {
            if is_frozen {
                count(&to.state.frozen_tasks, true);
            }
            to.refresh(held);
        }
        if let Some(from) = from {
            if is_frozen {
                count(&from.state.frozen_tasks, false);
            }
            from.state.members.fetch_sub(1, SeqCst);
            from.refresh(held);
        }
    }

    /// Compares what it is with what is in it, and so on upwards while something changes.
    pub(crate) fn refresh(&self, held: &Held) {
        self.refresh_with(|group| group.refresh_populated() | group.refresh_frozen(), held);
    }

    fn refresh_with(&self, refresh: impl Fn(&Self) -> bool, _held: &Held) {
        let mut at = Some(self);
        while let Some(group) = at.filter(|group| !group.is_root()) {
            if !refresh(group) {
                return;
            }
            group.tell(EventFile::Group);
            at = group.parent().map(|parent| &**parent);
        }
    }

    /// True: something changed.
    fn refresh_populated(&self) -> bool {
        let (state, above) = (&self.state, self.parent().map(|parent| &parent.state));
        let below = state.populated_domains.load(Relaxed) + state.populated_threaded.load(Relaxed);
        let is_populated = self.has_tasks() || below > 0;
        let was_populated = state.is_populated.swap(is_populated, Relaxed);
        if was_populated != is_populated
            && let Some(above) = above
        {
            let counter =
                if self.is_threaded() { &above.populated_threaded } else { &above.populated_domains };
            count(counter, is_populated);
        }
        was_populated != is_populated
    }

    /// True: something changed.
    fn refresh_frozen(&self) -> bool {
        let (state, above) = (&self.state, self.parent().map(|parent| &parent.state));
        let is_frozen = state.freezes.load(Relaxed)
            && state.frozen_tasks.load(Relaxed) == state.members.load(SeqCst)
            && state.frozen_children.load(Relaxed) == state.nr_children.load(Relaxed);
        let was_frozen = state.is_frozen.swap(is_frozen, Relaxed);
        if was_frozen != is_frozen
            && let Some(above) = above
            && !self.is_dead()
        {
            count(&above.frozen_children, is_frozen);
        }
        was_frozen != is_frozen
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;

    use super::*;

    fn tree() -> [Arc<Cgroup>; 3] {
        let held = crate::lock();
        let a =
            Cgroup::root().create(format!("{:?}", std::thread::current().id()).as_bytes(), &held).unwrap();
        let b = a.create(b"b", &held).unwrap();
        let c = b.create(b"c", &held).unwrap();
        [a, b, c]
    }

    #[test]
    fn a_task_populates_all_above() {
        let _alone = crate::testing::alone();
        let [a, b, c] = tree();
        c.try_enter().unwrap();
        assert!(a.is_populated() && b.is_populated() && c.is_populated());
        a.enter();
        c.leave();
        assert!(a.is_populated() && !b.is_populated() && !c.is_populated());
        a.leave();
        assert!(!a.is_populated());
    }

    #[test]
    fn a_group_is_frozen_when_all_below_are() {
        let _alone = crate::testing::alone();
        let [a, b, c] = tree();
        let hierarchy = crate::lock();
        c.enter();
        let changed = a.set_freeze(true, &hierarchy).unwrap();
        assert_eq!(changed.len(), 3);
        Cgroup::refresh_all(&changed);
        assert!(!a.is_frozen() && !c.is_frozen());
        c.count_frozen(true, &Held::take());
        assert!(a.is_frozen() && b.is_frozen() && c.is_frozen());
        let new = b.create(b"new", &hierarchy).unwrap();
        assert!(new.is_frozen() && a.is_frozen());
        new.try_enter().unwrap();
        assert!(new.is_frozen() && new.is_populated(), "who is born there freezes before it runs");
        new.leave();
        b.set_freeze(true, &hierarchy).unwrap();
        let changed = a.set_freeze(false, &hierarchy).unwrap();
        assert_eq!(changed.len(), 1);
        assert!(!a.is_frozen() && b.is_frozen() && c.is_frozen());
        // A fork on its way: a member that is not compared yet.
        new.state.members.fetch_add(1, SeqCst);
        assert_eq!(new.remove(&hierarchy), Err(abi::Errno::EBUSY));
        new.refresh(&Held::take());
        assert!(!new.is_frozen() && !b.is_frozen(), "what could not be removed counts on");
        new.leave();
        assert!(new.is_frozen() && b.is_frozen());
        new.remove(&hierarchy).unwrap();
        assert!(b.is_frozen());
        b.set_freeze(false, &hierarchy).unwrap();
        assert!(!b.is_frozen() && !c.is_frozen());
        c.count_frozen(false, &Held::take());
        c.leave();
    }

    #[test]
    fn a_group_that_somebody_enters_stays_a_domain() {
        let _alone = crate::testing::alone();
        let [_, b, c] = tree();
        let hierarchy = crate::lock();
        // A fork on its way: a member that is not compared yet.
        c.state.members.fetch_add(1, SeqCst);
        assert!(!c.is_populated());
        assert_eq!(c.make_threaded(&hierarchy), Err(abi::Errno::EOPNOTSUPP));
        c.refresh(&Held::take());
        assert_eq!(b.state.nr_populated_domains(), 1);
        c.leave();
        assert_eq!(b.state.nr_populated_domains(), 0);
        c.make_threaded(&hierarchy).unwrap();
        c.enter();
        assert!(b.is_populated() && b.state.nr_populated_domains() == 0);
        c.leave();
        assert!(!b.is_populated());
    }

    #[test]
    fn a_removed_group_takes_nobody() {
        let _alone = crate::testing::alone();
        let [a, b, c] = tree();
        let hierarchy = crate::lock();
        c.enter();
        assert_eq!(c.remove(&hierarchy), Err(abi::Errno::EBUSY));
        c.leave();
        c.remove(&hierarchy).unwrap();
        assert!(c.try_enter().is_none() && !b.is_populated() && !a.is_populated());
    }
}
