//! Which control group a task is in: at its birth, when it moves, when it ends; and freezing.
//!
//! A task in the root has no reference to a group, and costs nothing. One that ended keeps its group, for /proc and for the
//! count of ids that it uses until it is reaped, but is no member any more.
//!
//! # Races
//!
//! - A new task takes the group that its parent had when the call began and is counted there before it exists, so the group
//!   cannot go meanwhile. A thread whose process has moved follows it when it becomes visible ([`Birth::follow`]).
//! - Who freezes or kills a group marks the group first and then looks for its tasks; a new task looks for marks once it can
//!   be found ([`Birth::settle`]), with a fence between on both sides. One of both sees the other.
//!
//! # Locking
//!
//! `Task::cgroup` is changed under `ThreadGroup::sig` and `cgroup::Held`, by holders of `cgroup::Hierarchy`; `Task::is_frozen`
//! under `cgroup::Held`.
//!
//! Source: Documentation/admin-guide/cgroup-v2.rst of Linux 7.2.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicU64, fence};

use abi::signal::{SI_USER, SIGKILL, SigInfo};
use abi::{Errno, Result};
use cgroup::{Cgroup, Held, Hierarchy, Times};
use hal::sync::ArcCell;
use sched::Interruptible;

use crate::signal::{self, Target};
use crate::task::{CurrentTask, Notify, TaskFlags};
use crate::{Task, ThreadGroup, pid};

/// A task's place among control groups.
pub(crate) struct Membership {
    /// `None`: the root.
    group: ArcCell<Cgroup>,
    /// Counted as stopped: in the freezer, by a signal, by a tracer, or waiting for a vfork child.
    is_frozen: AtomicBool,
    /// CPU time that was used elsewhere, before it came here.
    user_ns_before: AtomicU64,
    system_ns_before: AtomicU64,
}

impl Membership {
    #[inline]
    pub(crate) const fn new() -> Self {
        Self {
            group: ArcCell::empty(),
            is_frozen: AtomicBool::new(false),
            user_ns_before: AtomicU64::new(0),
            system_ns_before: AtomicU64::new(0),
        }
    }

    fn before(&self) -> Times {
        let (user_ns, system_ns) = (self.user_ns_before.load(Relaxed), self.system_ns_before.load(Relaxed));
        Times { user_ns, system_ns, nice_ns: 0 }
    }
}

/// A control group that a task is to be born into (`CLONE_INTO_CGROUP`).
#[derive(Clone)]
pub struct Into(pub Arc<Cgroup>);

impl core::fmt::Debug for Into {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Into({})", self.0.id())
    }
}

/// A task that is being made, counted in its control group; dropped before it is kept, it is counted out again.
pub(crate) struct Birth {
    group: Option<Arc<Cgroup>>,
    kills: u32,
}

impl Birth {
    /// Counts a child of `me`. `EAGAIN`: the group has too many tasks. `ENODEV`, `EBUSY`, `EOPNOTSUPP`: `into` cannot take it.
    pub(crate) fn begin(me: &CurrentTask, into: Option<&Into>, is_thread: bool) -> Result<Self> {
        if let Some(Into(group)) = into {
            let hierarchy = cgroup::lock();
            if group.is_dead() {
                return Err(Errno::ENODEV);
            }
            vet(&me.cgroup(), group, is_thread)?;
            let birth = Self::in_group(group)?;
            drop(hierarchy);
            return birth.ok_or(Errno::ENODEV);
        }
        loop {
            let Some(group) = me.membership.group.load() else { return Ok(Self { group: None, kills: 0 }) };
            if let Some(birth) = Self::in_group(&group)? {
                return Ok(birth);
            }
        }
    }

    /// `None`: the group was removed.
    fn in_group(group: &Arc<Cgroup>) -> Result<Option<Self>> {
        if group.is_root() {
            return Ok(Some(Self { group: None, kills: 0 }));
        }
        if group.try_enter().is_none() {
            return Ok(None);
        }
        let kills = group.kills();
        if let Err(error) = group.try_charge_pid() {
            group.leave();
            return Err(error);
        }
        Ok(Some(Self { group: Some(group.clone()), kills }))
    }

    /// A thread is about to become visible, with `ThreadGroup::sig` held: it is in its maker's group, wherever that went. One that
    /// is born into a group stays in the domain of its process: `EOPNOTSUPP`.
    pub(crate) fn follow(&mut self, me: &Task, into: Option<&Into>) -> Result<()> {
        if let Some(Into(group)) = into {
            let is_same = Arc::ptr_eq(&me.cgroup().domain(), &group.domain());
            return if is_same { Ok(()) } else { Err(Errno::EOPNOTSUPP) };
        }
        let now = me.membership.group.load();
        let is_same = match (&now, &self.group) {
            (Some(now), Some(then)) => Arc::ptr_eq(now, then),
            (None, None) => true,
            _ => false,
        };
        if is_same {
            return Ok(());
        }
        if let Some(new) = &now {
            new.enter();
            new.charge_pid();
        }
        let old = Self { kills: 0, group: core::mem::replace(&mut self.group, now) };
        drop(old);
        self.kills = self.group.as_ref().map_or(0, |group| group.kills());
        Ok(())
    }

    /// Gives the task its place, before anybody sees it.
    #[inline]
    pub(crate) fn place(&self, child: &Task) {
        if let Some(group) = &self.group {
            drop(child.membership.group.swap(Some(group.clone())));
        }
    }

    /// The task is visible: what happened to its group meanwhile happens to it. Call it without locks.
    #[inline]
    pub(crate) fn settle(mut self, child: &Arc<Task>) {
        if let Some(group) = self.group.take() {
            // The child was published before the marks are read; who marks has the pair of this fence.
            fence(SeqCst);
            if group.freezes() {
                child.sync_freeze();
            }
            if group.kills() != self.kills {
                kill(child.group());
            }
        }
    }
}

impl Drop for Birth {
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            group.uncharge_pid();
            group.leave();
        }
    }
}

/// Whether tasks may move from `from` to `to`, rights apart. `EOPNOTSUPP`: `to` is in an invalid place, or a single thread
/// would leave the domain of its process. `EBUSY`: `to` may have no tasks.
pub fn vet(from: &Arc<Cgroup>, to: &Arc<Cgroup>, is_thread: bool) -> Result<()> {
    to.vet_destination()?;
    if is_thread && !Arc::ptr_eq(&from.domain(), &to.domain()) {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(())
}

impl Task {
    /// Its control group; after its end the last one.
    pub fn cgroup(&self) -> Arc<Cgroup> {
        self.membership.group.load().unwrap_or_else(|| Cgroup::root().clone())
    }

    /// Whether it is in `group`, or below.
    fn is_within(&self, group: &Cgroup) -> bool {
        let guard = hal::rcu::read_lock();
        match self.membership.group.get(&guard) {
            Some(own) => own.is_within(group),
            None => group.is_root(),
        }
    }

    /// Makes it freeze or go on, as its control group says now.
    fn sync_freeze(self: &Arc<Self>) {
        let held = Held::take();
        let guard = hal::rcu::read_lock();
        let freezes = self.membership.group.get(&guard).is_some_and(|group| group.freezes());
        if freezes == self.has(TaskFlags::FREEZE) {
            return;
        }
        if freezes {
            self.set_flags(TaskFlags::FREEZE);
        } else {
            self.clear_flags(TaskFlags::FREEZE);
        }
        drop((guard, held));
        self.notify(Notify::Signal);
    }

    /// CPU time that it used since it came to its group.
    pub fn cgroup_times(&self) -> Times {
        let used = self.usage();
        let used = Times { user_ns: used.utime_ns, system_ns: used.stime_ns, nice_ns: 0 };
        let mut times = used.since(self.membership.before());
        if self.thread().is_some_and(|thread| thread.attributes().nice > 0) {
            times.nice_ns = times.user_ns;
        }
        times
    }

    /// Moves it, with `ThreadGroup::sig` of its process held. Threads that end stay where they are.
    fn move_to(self: &Arc<Self>, to: &Arc<Cgroup>) {
        if self.flags().intersects(TaskFlags::EXITING | TaskFlags::DEAD) {
            return;
        }
        let own = &self.membership;
        let (from, to) = (own.group.load(), Some(to.clone()).filter(|to| !to.is_root()));
        match (&from, &to) {
            (Some(from), Some(to)) if Arc::ptr_eq(from, to) => return,
            (None, None) => return,
            _ => {}
        }
        if let Some(from) = &from {
            from.add_times(self.cgroup_times());
            from.uncharge_pid();
        }
        let used = self.usage();
        own.user_ns_before.store(used.utime_ns, Relaxed);
        own.system_ns_before.store(used.stime_ns, Relaxed);
        if let Some(to) = &to {
            to.enter();
            to.charge_pid();
        }
        {
            let held = Held::take();
            drop(own.group.swap(to.clone()));
            Cgroup::moved(from.as_deref(), to.as_deref(), own.is_frozen.load(Relaxed), &held);
        }
        self.sync_freeze();
    }
}

/// Moves all threads of `group` to `to`, where they may be.
pub fn move_process(group: &Arc<ThreadGroup>, to: &Arc<Cgroup>, _hierarchy: &Hierarchy) {
    let state = group.sig.lock();
    state.threads.iter().for_each(|task| task.move_to(to));
}

/// Moves one thread to `to`, where it may be.
pub fn move_thread(task: &Arc<Task>, to: &Arc<Cgroup>, _hierarchy: &Hierarchy) {
    let _state = task.group().sig.lock();
    task.move_to(to);
}

/// The end of `task`, with `ThreadGroup::sig` held: it is no member any more.
#[inline]
pub(crate) fn leave(task: &Task) {
    if let Some(group) = task.membership.group.load() {
        group.add_times(task.cgroup_times());
        group.leave();
    }
}

/// The id of `task` is given back.
#[inline]
pub(crate) fn release(task: &Task) {
    let guard = hal::rcu::read_lock();
    if let Some(group) = task.membership.group.get(&guard) {
        group.uncharge_pid();
    }
}

/// Calls `each` for all threads in `group` or below that have not ended. Not at one moment: threads may come and go.
pub fn each_thread_within(group: &Arc<Cgroup>, mut each: impl FnMut(&Arc<Task>)) {
    for process in pid::processes() {
        for task in process.threads() {
            if !task.has(TaskFlags::DEAD) && task.is_within(group) {
                each(&task);
            }
        }
    }
}

/// Adds `number` to `all`. `ENOMEM`.
fn push(all: &mut Vec<u32>, number: u32) -> Result<()> {
    all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    all.push(number);
    Ok(())
}

/// The threads in `group` that have not ended (cgroup.threads), by their numbers in the first pid namespace. `ENOMEM`.
pub fn threads_in(group: &Arc<Cgroup>) -> Result<Vec<u32>> {
    let (mut all, mut result) = (Vec::new(), Ok(()));
    each_thread_within(group, |task| {
        if result.is_ok() && Arc::ptr_eq(&task.cgroup(), group) {
            result = push(&mut all, task.tid());
        }
    });
    result.map(|()| all)
}

/// The processes of the domain `group` (cgroup.procs), by their numbers in the first pid namespace: where the leader is counts,
/// as long as a thread has not ended. `ENOMEM`.
pub fn processes_in(group: &Arc<Cgroup>) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    for process in pid::processes().filter(|process| process.is_alive_within(group)) {
        if process.leader().is_some_and(|leader| Arc::ptr_eq(&leader.cgroup().domain(), group)) {
            push(&mut all, process.pid())?;
        }
    }
    Ok(all)
}

impl ThreadGroup {
    /// Whether its leader is in `group` or below, and a thread has not ended. A leader that ended stays where it was.
    fn is_alive_within(&self, group: &Cgroup) -> bool {
        let state = self.sig.lock();
        state.threads.iter().any(|task| task.is_leader() && task.is_within(group))
            && state.threads.iter().any(|task| !task.has(TaskFlags::DEAD))
    }
}

/// How often [`kill_all`] looks for processes. New ones have higher numbers than their makers and are met in the same look,
/// but where numbers begin anew, so more than a few are needed only by an init that lives and goes on to make others.
const LOOKS: u32 = 16;

/// Kills all processes in `group` or below, on behalf of the caller: an init is safe from whom it can see.
pub fn kill_all(group: &Arc<Cgroup>, hierarchy: &Hierarchy) -> Result<()> {
    group.note_kill(hierarchy)?;
    // Each once, as an init may not die of it. They stay referenced, so that no other takes an address.
    let mut told = BTreeMap::new();
    for _ in 0..LOOKS {
        // Who was made by one that was not killed yet is found by the next look; who is killed makes no more.
        let before = told.len();
        for process in pid::processes().filter(|process| process.is_alive_within(group)) {
            if told.insert(Arc::as_ptr(&process).addr(), process.clone()).is_none() {
                kill(&process);
            }
        }
        if told.len() == before {
            break;
        }
    }
    Ok(())
}

/// As kill(2) by the caller would, rights apart.
fn kill(group: &Arc<ThreadGroup>) {
    // It fails only where a signal has to be queued, which SIGKILL has not.
    let _ = signal::send_user(Target::Group(group), SigInfo::new(SIGKILL, SI_USER));
}

/// Sets cgroup.freeze of `group`. `ENOMEM`.
pub fn set_freeze(group: &Arc<Cgroup>, freeze: bool, hierarchy: &Hierarchy) -> Result<()> {
    let changed = group.set_freeze(freeze, hierarchy)?;
    if !changed.is_empty() {
        each_thread_within(group, Task::sync_freeze);
    }
    Cgroup::refresh_all(&changed);
    Ok(())
}

/// Counts the caller as stopped.
pub(crate) fn enter_frozen(task: &CurrentTask) {
    set_frozen(task, true);
}

fn set_frozen(task: &Task, is_frozen: bool) {
    let held = Held::take();
    if task.membership.is_frozen.swap(is_frozen, Relaxed) == is_frozen {
        return;
    }
    let guard = hal::rcu::read_lock();
    if let Some(group) = task.membership.group.get(&guard) {
        group.count_frozen(is_frozen, &held);
    }
}

/// The caller goes on, unless it is to be frozen: then it stays counted until it is ([`trap`]).
pub(crate) fn leave_frozen(task: &CurrentTask) {
    if !task.has(TaskFlags::FREEZE) {
        set_frozen(task, false);
    }
}

/// The caller goes on, if only to freeze a little later.
pub(crate) fn leave_frozen_always(task: &CurrentTask) {
    if is_frozen(task) {
        set_frozen(task, false);
    }
}

/// Whether the caller is counted as stopped.
#[inline]
pub(crate) fn is_frozen(task: &Task) -> bool {
    task.membership.is_frozen.load(Relaxed)
}

/// What ends a stay in the freezer, if only for a moment.
const INTERRUPTS: TaskFlags = TaskFlags::KILLED
    .union(TaskFlags::STOP_PENDING)
    .union(TaskFlags::EXIT_REQUESTED)
    .union(TaskFlags::TRAP_STOP)
    .union(TaskFlags::TRAP_NOTIFY);

/// The freezer: sleeps until the caller's group is let go. It returns early when a signal came, and shall be called again once
/// that was looked at.
pub(crate) fn trap(task: &CurrentTask) {
    enter_frozen(task);
    // What came until now was looked at, and waits; what comes from now on ends the sleep.
    sched::current().clear_signal();
    // What came between the look and here lost its wake-up: a kill, which later waits are to see too, and SIGCONT.
    if task.has(TaskFlags::KILLED) {
        task.arc().notify(Notify::Kill);
    }
    let has_to_tell = task.group().sig.lock().notify_parent != 0;
    let is_over = || {
        let goes_on = has_to_tell || !task.has(TaskFlags::FREEZE);
        (goes_on || task.flags().intersects(INTERRUPTS)).then_some(())
    };
    // An interruption makes the caller look again.
    let _ = task.group().stop_wait.wait_deadline(is_over, None, Interruptible::Yes);
    signal::recalc(task);
}
