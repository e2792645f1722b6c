//! The tree of groups.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};

use abi::fs::PATH_MAX;
use abi::{Errno, Result};
use hal::sync::{LazyLock, Once};
use sched::{Mutex, MutexGuard};

use crate::control::Controllers;
use crate::cputime::CpuTime;
use crate::pids::Pids;
use crate::state::{self, Held, State};

/// A file that tells of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventFile {
    /// cgroup.events.
    Group,
    /// pids.events.
    Pids,
    /// pids.events.local.
    PidsLocal,
}

/// What the file system keeps for a group.
pub trait Node: Any + Send + Sync {
    /// The content of `file` has changed. Called with spinning locks held: it must not sleep.
    fn changed(&self, file: EventFile);
}

/// A control group.
pub struct Cgroup {
    id: u64,
    name: Box<[u8]>,
    /// Taken out in `drop` only.
    parent: Option<Arc<Self>>,
    level: u32,
    children: Mutex<BTreeMap<Box<[u8]>, Arc<Self>>>,
    is_dead: AtomicBool,
    pub(crate) is_threaded: AtomicBool,
    pub(crate) nr_threaded_children: AtomicU32,
    pub(crate) subtree_control: AtomicU32,
    nr_descendants: AtomicU32,
    /// Removed ones below that something still refers to.
    nr_dying: AtomicU32,
    /// [`NO_LIMIT`] for none.
    max_depth: AtomicU32,
    max_descendants: AtomicU32,
    /// How often its tasks were killed together.
    kills: AtomicU32,
    pub(crate) state: State,
    pub(crate) pids: Pids,
    pub(crate) cpu_time: CpuTime,
    node: Once<Arc<dyn Node>>,
}

/// "max" of cgroup.max.depth and cgroup.max.descendants.
pub const NO_LIMIT: u32 = i32::MAX as u32;

/// A step up in a path.
const UP: &[u8] = b"/..";

/// How far below the root groups can be. Linux has no such limit; here a fork, an end and a move walk up to the root with
/// interrupts off, so the way has to be short, whoever makes groups.
const MAX_LEVEL: u32 = 512;

/// Ids of groups are so far apart, so that the numbers between can be those of their files.
pub const ID_STEP: u64 = 128;

static HIERARCHY: Mutex<()> = Mutex::new("cgroup.hierarchy", ());
static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static ROOT: LazyLock<Arc<Cgroup>> = LazyLock::new(|| Cgroup::with(Box::default(), None));

/// Proof that nobody else changes the tree, a controller or the place of a task.
pub struct Hierarchy {
    _held: MutexGuard<'static, ()>,
}

/// Takes the lock of the hierarchy. Sleeps.
pub fn lock() -> Hierarchy {
    Hierarchy { _held: HIERARCHY.lock() }
}

impl Cgroup {
    fn with(name: Box<[u8]>, parent: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self {
            id: NEXT_ID.fetch_add(ID_STEP, Relaxed),
            name,
            level: parent.as_ref().map_or(0, |parent| parent.level.saturating_add(1)),
            children: Mutex::new("cgroup.children", BTreeMap::new()),
            is_dead: AtomicBool::new(false),
            is_threaded: AtomicBool::new(false),
            nr_threaded_children: AtomicU32::new(0),
            subtree_control: AtomicU32::new(0),
            nr_descendants: AtomicU32::new(0),
            nr_dying: AtomicU32::new(0),
            max_depth: AtomicU32::new(NO_LIMIT),
            max_descendants: AtomicU32::new(NO_LIMIT),
            kills: AtomicU32::new(0),
            state: State::below(parent.as_deref()),
            pids: Pids::new(),
            cpu_time: CpuTime::new(),
            node: Once::new(),
            parent,
        })
    }

    /// The root of the hierarchy.
    pub fn root() -> &'static Arc<Self> {
        &ROOT
    }

    /// A number that no other group had or will have; 1 for the root.
    #[inline]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its name in its parent; empty for the root.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The group that it is in.
    #[inline]
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// How far below the root it is.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Whether it is the root.
    #[inline]
    pub fn is_root(&self) -> bool {
        self.parent.is_none()
    }

    /// Whether it was removed.
    #[inline]
    pub fn is_dead(&self) -> bool {
        self.is_dead.load(SeqCst)
    }

    /// What the file system keeps for it; the first call makes that.
    pub fn node(&self, make: impl FnOnce() -> Arc<dyn Node>) -> &Arc<dyn Node> {
        self.node.call_once(make)
    }

    /// Tells the file system of a change.
    pub(crate) fn tell(&self, file: EventFile) {
        if let Some(node) = self.node.get() {
            node.changed(file);
        }
    }

    /// The child called `name`. Sleeps.
    pub fn child(&self, name: &[u8]) -> Option<Arc<Self>> {
        self.children.lock().get(name).cloned()
    }

    /// Its children by name. `ENOMEM`. Sleeps.
    pub fn children(&self) -> Result<Vec<Arc<Self>>> {
        let children = self.children.lock();
        let mut all = Vec::new();
        all.try_reserve_exact(children.len()).map_err(|_| Errno::ENOMEM)?;
        all.extend(children.values().cloned());
        Ok(all)
    }

    pub(crate) fn any_child(&self, f: impl FnMut(&Arc<Self>) -> bool) -> bool {
        self.children.lock().values().any(f)
    }

    pub(crate) fn each_child(&self, _held: &Hierarchy, f: impl FnMut(&Arc<Self>)) {
        self.children.lock().values().for_each(f);
    }

    /// It and all groups below, each before those below it. `ENOMEM`. Sleeps.
    pub fn subtree(self: &Arc<Self>, _held: &Hierarchy) -> Result<Vec<Arc<Self>>> {
        let mut all = Vec::from([self.clone()]);
        let mut at = 0;
        while let Some(group) = all.get(at).cloned() {
            let children = group.children.lock();
            all.try_reserve(children.len()).map_err(|_| Errno::ENOMEM)?;
            all.extend(children.values().cloned());
            at += 1;
        }
        Ok(all)
    }

    /// Whether it is `ancestor` or below it.
    pub fn is_within(&self, ancestor: &Self) -> bool {
        let mut at = self;
        while at.level > ancestor.level {
            let Some(parent) = at.parent.as_deref() else { return false };
            at = parent;
        }
        core::ptr::eq(at, ancestor)
    }

    /// The nearest group that both are within.
    pub fn common_ancestor(self: &Arc<Self>, other: &Self) -> Arc<Self> {
        let mut at = self;
        while !other.is_within(at) {
            let Some(parent) = &at.parent else { break };
            at = parent;
        }
        at.clone()
    }

    /// Its path as seen from `from`: "/" for that one itself, with "/.." for each step up. `ENAMETOOLONG`: it has `PATH_MAX`
    /// bytes, as /proc/PID/cgroup of Linux tells no longer ones. `ENOMEM`.
    pub fn path_from(self: &Arc<Self>, from: &Self) -> Result<Vec<u8>> {
        let common = self.common_ancestor(from);
        let nr_up = (from.level - common.level) as usize;
        let mut names = Vec::new();
        names.try_reserve_exact((self.level - common.level) as usize).map_err(|_| Errno::ENOMEM)?;
        let mut at = self;
        while at.level > common.level
            && let Some(parent) = &at.parent
        {
            names.push(&*at.name);
            at = parent;
        }
        let len = nr_up * UP.len() + names.iter().map(|name| 1 + name.len()).sum::<usize>();
        if len >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut path = Vec::new();
        path.try_reserve_exact(len.max(1)).map_err(|_| Errno::ENOMEM)?;
        (0..nr_up).for_each(|_| path.extend_from_slice(UP));
        for name in names.into_iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(path)
    }

    /// Makes a group `name` in it. `ENODEV`: it was removed. `EEXIST`. `EAGAIN`: it, or a group above, allows no more, or the new
    /// one would be too far from the root, as if the root's cgroup.max.depth said so.
    pub fn create(self: &Arc<Self>, name: &[u8], _held: &Hierarchy) -> Result<Arc<Self>> {
        if self.is_dead() {
            return Err(Errno::ENODEV);
        }
        if self.child(name).is_some() {
            return Err(Errno::EEXIST);
        }
        if self.level >= MAX_LEVEL {
            return Err(Errno::EAGAIN);
        }
        let mut depth = 0;
        let mut at = Some(self);
        while let Some(above) = at {
            let is_full = above.nr_descendants.load(Relaxed) >= above.max_descendants.load(Relaxed);
            if is_full || depth >= above.max_depth.load(Relaxed) {
                return Err(Errno::EAGAIN);
            }
            depth += 1;
            at = above.parent.as_ref();
        }
        let new = Self::with(name.into(), Some(self.clone()));
        self.children.lock().insert(name.into(), new.clone());
        state::child_added(self, &new);
        self.each_from_here(|above| above.nr_descendants.fetch_add(1, Relaxed));
        Ok(new)
    }

    /// Removes it. `EBUSY`: tasks or groups are in it. `ENODEV`: it was removed before, or is the root.
    pub fn remove(self: &Arc<Self>, _held: &Hierarchy) -> Result<()> {
        let parent = self.parent.as_ref().ok_or(Errno::ENODEV)?;
        if self.is_dead() {
            return Err(Errno::ENODEV);
        }
        if self.is_populated() || !self.children.lock().is_empty() {
            return Err(Errno::EBUSY);
        }
        {
            // The parent counts it as frozen until it is marked: it must not change between.
            let held = Held::take();
            // SeqCst here and in `try_enter`: either that sees the mark, or this sees who entered.
            self.is_dead.store(true, SeqCst);
            if self.has_tasks() {
                self.is_dead.store(false, SeqCst);
                return Err(Errno::EBUSY);
            }
            state::child_removed(parent, self, &held);
        }
        let gone = parent.children.lock().remove(&*self.name);
        if self.is_threaded() {
            parent.nr_threaded_children.fetch_sub(1, Relaxed);
        }
        parent.cpu_time.add(self.cpu_time.get());
        parent.each_from_here(|above| {
            above.nr_dying.fetch_add(1, Relaxed);
            above.nr_descendants.fetch_sub(1, Relaxed)
        });
        drop(gone);
        Ok(())
    }

    fn each_from_here<T>(&self, f: impl Fn(&Self) -> T) {
        let mut at = Some(self);
        while let Some(group) = at {
            f(group);
            at = group.parent.as_deref();
        }
    }

    /// How many groups are below it: those that live, and removed ones that something still refers to.
    pub fn nr_descendants(&self) -> (u32, u32) {
        (self.nr_descendants.load(Relaxed), self.nr_dying.load(Relaxed))
    }

    /// How many of it and the groups below it `controller` is on in. Sleeps.
    pub fn nr_with(self: &Arc<Self>, controller: Controllers, held: &Hierarchy) -> Result<usize> {
        Ok(self.subtree(held)?.iter().filter(|group| group.controllers().contains(controller)).count())
    }

    /// How deep groups may be nested in it; [`NO_LIMIT`].
    pub fn max_depth(&self) -> &AtomicU32 {
        &self.max_depth
    }

    /// How many groups may be below it; [`NO_LIMIT`].
    pub fn max_descendants(&self) -> &AtomicU32 {
        &self.max_descendants
    }

    /// How often the tasks in it were killed together: a task that was made meanwhile has to be killed too.
    #[inline]
    pub fn kills(&self) -> u32 {
        self.kills.load(SeqCst)
    }

    /// Counts a kill of the tasks in it and in all groups below. The tasks are killed afterwards, by the caller.
    pub fn note_kill(self: &Arc<Self>, held: &Hierarchy) -> Result<()> {
        for group in self.subtree(held)? {
            group.kills.fetch_add(1, SeqCst);
        }
        // As in `set_freeze`.
        fence(SeqCst);
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let mut next = self.parent.take();
        let mut nr_gone = u32::from(*self.is_dead.get_mut());
        // A loop, as the chain of parents that go with it may be long. Those that stay are told once, of all that went.
        while let Some(parent) = next {
            let last = Arc::try_unwrap(parent).or_else(|parent| {
                parent.each_from_here(|above| above.nr_dying.fetch_sub(nr_gone, Relaxed));
                nr_gone = 0;
                // Whoever else held it may have let go meanwhile.
                Arc::into_inner(parent).ok_or(())
            });
            let Ok(mut parent) = last else { return };
            nr_gone += u32::from(*parent.is_dead.get_mut());
            next = parent.parent.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(to: &Arc<Cgroup>, from: &Cgroup) -> String {
        String::from_utf8(to.path_from(from).unwrap()).unwrap()
    }

    #[test]
    fn paths_go_up_and_down() {
        let _alone = crate::testing::alone();
        let held = lock();
        let root = Cgroup::with(Box::default(), None);
        let a = root.create(b"a", &held).unwrap();
        let b = a.create(b"b", &held).unwrap();
        let c = root.create(b"c", &held).unwrap();
        assert_eq!(
            (path(&root, &root), path(&b, &root), path(&b, &b)),
            ("/".into(), "/a/b".into(), "/".into())
        );
        assert_eq!(
            (path(&b, &a), path(&a, &b), path(&c, &b)),
            ("/b".into(), "/..".into(), "/../../c".into())
        );
        assert!(Arc::ptr_eq(&b.common_ancestor(&c), &root) && Arc::ptr_eq(&a.common_ancestor(&b), &a));
        assert!(b.is_within(&a) && !a.is_within(&b) && !c.is_within(&a) && b.is_within(&root));
    }

    #[test]
    fn paths_are_shorter_than_a_page() {
        let _alone = crate::testing::alone();
        let held = lock();
        let root = Cgroup::with(Box::default(), None);
        let mut at = root.clone();
        // 15 names of 255 bytes and one of 254, each with its slash.
        for len in [255; 15].into_iter().chain([254]) {
            at = at.create(&vec![b'n'; len], &held).unwrap();
        }
        assert_eq!(at.path_from(&root).map(|path| path.len()), Ok(PATH_MAX - 1));
        let below = at.create(b"n", &held).unwrap();
        assert_eq!(below.path_from(&root), Err(Errno::ENAMETOOLONG));
        assert_eq!((path(&below, &at), path(&root, &at)), ("/n".into(), "/..".repeat(16)));
    }

    #[test]
    fn the_shape_of_the_tree_has_limits() {
        let _alone = crate::testing::alone();
        let held = lock();
        let root = Cgroup::with(Box::default(), None);
        let a = root.create(b"a", &held).unwrap();
        assert_eq!(root.create(b"a", &held).err(), Some(Errno::EEXIST));
        a.max_depth().store(1, Relaxed);
        let b = a.create(b"b", &held).unwrap();
        assert_eq!(b.create(b"c", &held).err(), Some(Errno::EAGAIN));
        root.max_descendants().store(2, Relaxed);
        assert_eq!(a.create(b"d", &held).err(), Some(Errno::EAGAIN));
        assert_eq!(a.remove(&held).err(), Some(Errno::EBUSY));
        b.remove(&held).unwrap();
        assert_eq!((root.nr_descendants(), a.nr_descendants()), ((1, 1), (0, 1)));
        assert_eq!(b.remove(&held).err(), Some(Errno::ENODEV));
        assert_eq!(b.create(b"x", &held).err(), Some(Errno::ENODEV));
        a.create(b"d", &held).unwrap().remove(&held).unwrap();
        drop(b);
        assert_eq!((root.nr_descendants(), a.nr_descendants()), ((1, 0), (0, 0)));
    }

    #[test]
    fn a_long_chain_of_removed_groups_goes_without_recursion() {
        let _alone = crate::testing::alone();
        let held = lock();
        let root = Cgroup::with(Box::default(), None);
        let mut chain = Vec::from([root.clone()]);
        for _ in 0..MAX_LEVEL {
            let next = chain.last().unwrap().create(b"n", &held).unwrap();
            chain.push(next);
        }
        assert_eq!(chain.last().unwrap().create(b"n", &held).err(), Some(Errno::EAGAIN));
        let stays = chain[10].clone();
        for group in chain.iter().skip(1).rev() {
            group.remove(&held).unwrap();
        }
        let last = chain.pop().unwrap();
        drop(chain);
        assert_eq!((root.nr_descendants(), stays.nr_descendants()), ((0, MAX_LEVEL), (0, MAX_LEVEL - 10)));
        drop(last);
        assert_eq!((root.nr_descendants(), stays.nr_descendants()), ((0, 10), (0, 0)));
        drop(stays);
        assert_eq!(root.nr_descendants(), (0, 0));
    }

    #[test]
    fn kinds_follow_threaded_children() {
        let _alone = crate::testing::alone();
        use crate::Kind;
        let held = lock();
        let root = Cgroup::with(Box::default(), None);
        let a = root.create(b"a", &held).unwrap();
        let b = a.create(b"b", &held).unwrap();
        let c = b.create(b"c", &held).unwrap();
        assert_eq!(a.kind(), Kind::Domain);
        b.make_threaded(&held).unwrap();
        assert_eq!(
            (a.kind(), b.kind(), c.kind()),
            (Kind::DomainThreaded, Kind::Threaded, Kind::DomainInvalid)
        );
        assert_eq!(c.vet_destination(), Err(Errno::EOPNOTSUPP));
        assert!(Arc::ptr_eq(&b.domain(), &a));
        c.make_threaded(&held).unwrap();
        assert_eq!(c.vet_destination(), Ok(()));
        assert!(Arc::ptr_eq(&c.domain(), &a));
        c.remove(&held).unwrap();
        b.remove(&held).unwrap();
        assert_eq!(a.kind(), Kind::Domain);
    }

    #[test]
    fn controllers_come_from_above_and_leave_from_below() {
        let _alone = crate::testing::alone();
        let (pids, none) = (Controllers::PIDS, Controllers::empty());
        let held = lock();
        let root = Cgroup::with(Box::default(), None);
        let a = root.create(b"a", &held).unwrap();
        let b = a.create(b"b", &held).unwrap();
        assert_eq!(a.set_subtree_control(pids, none, &held), Err(Errno::ENOENT));
        root.set_subtree_control(pids, none, &held).unwrap();
        a.set_subtree_control(pids, none, &held).unwrap();
        assert_eq!(root.set_subtree_control(none, pids, &held), Err(Errno::EBUSY));
        assert_eq!(b.controllers(), pids);
        b.try_enter().unwrap();
        assert_eq!(a.vet_destination(), Err(Errno::EBUSY));
        b.set_subtree_control(pids, none, &held).unwrap();
        assert_eq!(b.kind(), crate::Kind::DomainThreaded);
        b.leave();
    }
}
