//! Who is whose parent.
//!
//! # Invariants
//!
//! - F1: a process is in the `children` of exactly the process that its `parent` names, until it is reaped.
//! - F2: every living process but the first has a living parent: a process that ends passes its children on
//!   before it becomes a zombie.
//!
//! # Locking
//!
//! [`TREE`] (Linux: `tasklist_lock` held for writing) makes changes of several processes one step: a child is passed on,
//! becomes a zombie or is reaped either before or after its parent looks. The data itself is under
//! `ThreadGroup::family`, of which never two are held.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use hal::sync::{Once, SpinLock, SpinLockGuard};

use crate::roster::{Place, Roster};
use crate::{ThreadGroup, pid};

/// Makes changes of the family tree one step; see the module's front page.
static TREE: SpinLock<()> = SpinLock::new("process.tree", ());
/// The first process, which adopts orphans.
static INIT: Once<Arc<ThreadGroup>> = Once::new();

/// Proof that [`TREE`] is held.
pub(crate) type TreeGuard = SpinLockGuard<'static, ()>;

/// Takes [`TREE`].
pub(crate) fn lock_tree() -> TreeGuard {
    TREE.lock()
}

/// Parent and children of a process.
pub(crate) struct Family {
    /// `None` for the first process, and after reaping.
    pub(crate) parent: Option<Arc<ThreadGroup>>,
    /// Those alive and those not yet waited for, oldest first.
    pub(crate) children: Roster<ThreadGroup>,
    /// Its own place among the children of a parent, until it has one.
    place: Place<ThreadGroup>,
}

impl Family {
    /// Of a process that is being made.
    pub(crate) fn new() -> Self {
        Self { parent: None, children: Roster::new(), place: Place::new() }
    }
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitState {
    /// Some thread has not ended.
    Alive = 0,
    /// All threads have ended; the parent can wait for it.
    Zombie = 1,
    /// Reaped.
    Dead = 2,
}

impl ExitState {
    pub(crate) fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Alive,
            1 => Self::Zombie,
            _ => Self::Dead,
        }
    }
}

/// The first process, once it exists.
pub fn init() -> Option<&'static Arc<ThreadGroup>> {
    INIT.get()
}

/// Records the first process.
pub(crate) fn set_init(group: &Arc<ThreadGroup>) {
    INIT.call_once(|| group.clone());
}

impl ThreadGroup {
    /// Its parent; `None` for the first process, and for one that has been reaped.
    pub fn parent(&self) -> Option<Arc<ThreadGroup>> {
        self.family.lock().parent.clone()
    }

    /// Its children, for /proc/PID/task/TID/children.
    pub fn children(&self) -> Vec<Arc<ThreadGroup>> {
        let mut all = Vec::new();
        loop {
            let wanted = self.family.lock().children.len();
            all.reserve(wanted);
            let family = self.family.lock();
            if family.children.len() <= all.capacity() {
                all.extend(family.children.iter().cloned());
                return all;
            }
        }
    }

    /// Whether this is the first process.
    pub fn is_init(&self) -> bool {
        self.pid() == 1
    }

    /// Where it is in its life; changed under [`TREE`] only.
    pub(crate) fn set_exit_state(&self, state: ExitState, _tree: &TreeGuard) {
        self.exit_state.store(state as u8, Relaxed);
    }
}

/// Makes the new process `child` a child of `parent`.
pub(crate) fn adopt(parent: &Arc<ThreadGroup>, child: &Arc<ThreadGroup>, tree: &TreeGuard) {
    let place = child.family.lock().place.take();
    set_parent(parent, child, tree);
    parent.family.lock().children.add(place, child.clone());
}

/// Makes `child` name `parent` as its parent.
fn set_parent(parent: &Arc<ThreadGroup>, child: &Arc<ThreadGroup>, _tree: &TreeGuard) {
    child.family.lock().parent = Some(parent.clone());
    child.ppid.store(parent.pid(), Relaxed);
    child.own_ppid.store(pid::number_in(parent.pid(), child.pid_ns()), Relaxed);
}

/// Takes `child` from its parent for good. The result must be dropped without locks.
#[must_use]
pub(crate) fn disown(child: &Arc<ThreadGroup>, _tree: &TreeGuard) -> Option<Arc<ThreadGroup>> {
    let parent = child.family.lock().parent.take()?;
    let place = parent.family.lock().children.remove(child);
    // The caller has a reference, too.
    drop(place);
    Some(parent)
}

/// Who adopts the children of `dying`: the nearest subreaper among its ancestors in its pid namespace, else that
/// namespace's init.
fn reaper_of(dying: &Arc<ThreadGroup>) -> Option<Arc<ThreadGroup>> {
    if dying.has_subreaper.load(Relaxed) {
        let mut ancestor = dying.parent();
        while let Some(group) = ancestor.filter(|group| group.pid_ns() == dying.pid_ns()) {
            if group.is_subreaper.load(Relaxed) && !group.is_zombie() {
                return Some(group);
            }
            ancestor = group.parent();
        }
    }
    let own_init = dying.pid_ns().init().filter(|init| !Arc::ptr_eq(init, dying) && !init.is_zombie());
    own_init.or_else(|| INIT.get().cloned())
}

/// Passes the children of `dying` on, and calls `each` with the new parent and each child once it is there: to tell the
/// parent of zombies and to look after orphaned process groups.
pub(crate) fn pass_on_children(
    dying: &Arc<ThreadGroup>,
    tree: &TreeGuard,
    mut each: impl FnMut(&Arc<ThreadGroup>, &Arc<ThreadGroup>),
) {
    let mut children = core::mem::replace(&mut dying.family.lock().children, Roster::new());
    if children.is_empty() {
        return;
    }
    let Some(reaper) = reaper_of(dying) else { return };
    while let Some((place, child)) = children.take_first() {
        set_parent(&reaper, &child, tree);
        reaper.family.lock().children.add(place, child.clone());
        each(&reaper, &child);
    }
}
