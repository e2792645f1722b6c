//! Process groups and sessions (setpgid(2), setsid(2), credentials(7)).
//!
//! A process group lives while it has members, a session while it has process groups. Members move from group to group
//! under the family lock; `members` itself is an irq-safe lock, since terminals signal groups from interrupts.
//!
//! The terminal is a trait object: the tty crate, one floor up, implements [`ControllingTty`] and is told when a
//! session leader ends.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::Ordering::Relaxed;

use abi::signal::{SIGCONT, SIGHUP, SigInfo};
use abi::{Errno, Result};
use hal::sync::{IrqLock, SpinLock};

use crate::family::{TreeGuard, lock_tree};
use crate::pid::{self, PidRef};
use crate::signal::{self, Target};
use crate::task::{self, TaskFlags};
use crate::{Task, ThreadGroup};

/// What a session asks of its controlling terminal.
pub trait ControllingTty: Any + Send + Sync {
    /// Device number, for /proc/PID/stat.
    fn device(&self) -> u64;

    /// The id of the foreground process group, 0 for none.
    fn foreground_pgid(&self) -> u32;

    /// The leader of `session` has ended: hang up, and signal the foreground process group. May sleep.
    fn session_leader_exit(&self, session: &Arc<Session>);
}

/// A session.
pub struct Session {
    id: PidRef,
    tty: SpinLock<Option<Arc<dyn ControllingTty>>>,
}

impl Session {
    /// Its id: the process id of its leader.
    #[inline]
    pub fn id(&self) -> u32 {
        self.id.number()
    }

    /// Its controlling terminal.
    pub fn tty(&self) -> Option<Arc<dyn ControllingTty>> {
        self.tty.lock().clone()
    }

    /// Sets the controlling terminal (`TIOCSCTTY`, open(2) by a leader). `EPERM`: it has one.
    pub fn set_tty(&self, tty: Arc<dyn ControllingTty>) -> Result<()> {
        let mut place = self.tty.lock();
        if place.is_some() {
            return Err(Errno::EPERM);
        }
        *place = Some(tty);
        Ok(())
    }

    /// Takes the controlling terminal away (`TIOCNOTTY` by the leader, hangup).
    pub fn clear_tty(&self) -> Option<Arc<dyn ControllingTty>> {
        self.tty.lock().take()
    }
}

/// A process group.
pub struct ProcessGroup {
    id: PidRef,
    session: Arc<Session>,
    members: IrqLock<Vec<Arc<ThreadGroup>>>,
}

impl ProcessGroup {
    fn new(id: PidRef, session: Arc<Session>) -> Arc<Self> {
        Arc::new(Self { id, session, members: IrqLock::new("process.pgrp", Vec::new()) })
    }

    /// Its id.
    #[inline]
    pub fn id(&self) -> u32 {
        self.id.number()
    }

    /// The session it belongs to.
    #[inline]
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Its members.
    pub fn members(&self) -> Vec<Arc<ThreadGroup>> {
        let mut members = Vec::new();
        loop {
            let guard = self.members.lock();
            if members.capacity() >= guard.len() {
                members.extend(guard.iter().cloned());
                return members;
            }
            let wanted = guard.len();
            drop(guard);
            members.reserve(wanted);
        }
    }

    /// Sends `info` to every member on behalf of the kernel. Usable in interrupts.
    pub fn signal(&self, info: SigInfo) {
        for member in self.members.lock().iter() {
            signal::send_kernel(Target::Group(member), info);
        }
    }

    /// Whether no member has a parent in another group of the same session, `ignored` left out: nobody could
    /// continue the group when it stops.
    fn is_orphaned_without(&self, ignored: Option<&Arc<ThreadGroup>>) -> bool {
        self.members().iter().all(|member| {
            if ignored.is_some_and(|ignored| Arc::ptr_eq(ignored, member)) || member.is_zombie() {
                return true;
            }
            let Some(parent) = member.parent() else { return true };
            parent.is_init()
                || parent.is_ns_init()
                || parent.pgid() == self.id()
                || parent.sid() != self.session.id()
        })
    }

    /// Whether the group is orphaned: terminals do not stop its members (POSIX, "orphaned process group").
    pub fn is_orphaned(&self) -> bool {
        self.is_orphaned_without(None)
    }

    /// Whether some member is stopped.
    fn has_stopped_member(&self) -> bool {
        self.members.lock().iter().any(|member| member.is_stopped())
    }
}

/// Puts `group` into `pgrp`, out of its present one.
fn move_to(group: &Arc<ThreadGroup>, pgrp: &Arc<ProcessGroup>, tree: &TreeGuard) {
    leave(group, tree);
    join(group, pgrp, tree);
}

/// Makes `group`, which is in no process group, a member of `pgrp`.
pub(crate) fn join(group: &Arc<ThreadGroup>, pgrp: &Arc<ProcessGroup>, _tree: &TreeGuard) {
    let mut members = pgrp.members.lock();
    group.pgrp_idx.store(members.len() as u32, Relaxed);
    members.push(group.clone());
    drop(members);
    drop(group.pgrp.swap(Some(pgrp.clone())));
}

/// Takes `group` out of its process group; the last member's leave ends the group.
pub(crate) fn leave(group: &Arc<ThreadGroup>, _tree: &TreeGuard) {
    let Some(pgrp) = group.pgrp.swap(None) else { return };
    let mut members = pgrp.members.lock();
    let idx = group.pgrp_idx.load(Relaxed) as usize;
    let gone = (idx < members.len()).then(|| members.swap_remove(idx));
    if let Some(moved) = members.get(idx) {
        moved.pgrp_idx.store(idx as u32, Relaxed);
    }
    let is_empty = members.is_empty();
    drop(members);
    drop(gone);
    if is_empty {
        pid::set_pgrp(pgrp.id(), None);
    }
}

/// Founds the session and process group of the first process: number 0, as on Linux, so that setsid(2) works for it.
pub(crate) fn found_first(group: &Arc<ThreadGroup>, tree: &TreeGuard) {
    found(group, PidRef::zero(), PidRef::zero(), tree);
}

/// Makes `group` the leader of a new session and process group.
fn found(group: &Arc<ThreadGroup>, sid: PidRef, pgid: PidRef, tree: &TreeGuard) {
    let session = Arc::new(Session { id: sid, tty: SpinLock::new("process.session_tty", None) });
    let pgrp = ProcessGroup::new(pgid, session);
    move_to(group, &pgrp, tree);
    pid::set_pgrp(pgrp.id(), Some(pgrp));
}

/// setsid(2). `EPERM`: the caller leads a process group.
pub fn setsid() -> Result<u32> {
    let task = task::current();
    let group = task.group();
    let tree = lock_tree();
    if group.sid() == group.pid() || pid::find_pgrp_global(group.pid()).is_some() {
        return Err(Errno::EPERM);
    }
    let id = group.leader().and_then(|leader| leader.share_tid()).ok_or(Errno::EPERM)?;
    found(group, id.clone(), id, &tree);
    Ok(group.own_pid())
}

/// setpgid(2), with the errors that it lists.
pub fn setpgid(pid: i32, pgid: i32) -> Result<()> {
    let task = task::current();
    let me = task.group();
    if pgid < 0 {
        return Err(Errno::EINVAL);
    }
    let named = |number: i32| u32::try_from(number).ok().and_then(pid::to_global);
    let pid = if pid == 0 { me.pid() } else { named(pid).ok_or(Errno::ESRCH)? };
    // A group that the caller cannot name is one that is not there.
    let pgid = if pgid == 0 { pid } else { named(pgid).unwrap_or(u32::MAX) };
    let tree = lock_tree();
    let target = pid::find_task_global(pid).ok_or(Errno::ESRCH)?;
    let group = target.group().clone();
    if group.pid() != pid {
        return Err(Errno::EINVAL);
    }
    if group.parent().is_some_and(|parent| Arc::ptr_eq(&parent, me)) {
        if group.sid() != me.sid() {
            return Err(Errno::EPERM);
        }
        if group.did_exec.load(Relaxed) {
            return Err(Errno::EACCES);
        }
    } else if !Arc::ptr_eq(&group, me) {
        return Err(Errno::ESRCH);
    }
    if group.sid() == pid {
        return Err(Errno::EPERM);
    }
    if group.pgid() == pgid {
        return Ok(());
    }
    let pgrp = match pid::find_pgrp_global(pgid) {
        Some(pgrp) if pgrp.session().id() == me.sid() => pgrp,
        None if pgid == pid => {
            let old = group.pgrp().ok_or(Errno::ESRCH)?;
            let id = target.share_tid().ok_or(Errno::ESRCH)?;
            let pgrp = ProcessGroup::new(id, old.session().clone());
            pid::set_pgrp(pgid, Some(pgrp.clone()));
            pgrp
        }
        _ => return Err(Errno::EPERM),
    };
    move_to(&group, &pgrp, &tree);
    Ok(())
}

/// The process that `pid` names to getpgid(2) and getsid(2): 0 is the caller.
fn named(pid: i32) -> Result<Arc<ThreadGroup>> {
    if pid == 0 {
        return Ok(task::current().group().clone());
    }
    let tid = u32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    pid::find_task(tid).map(|task| task.group().clone()).ok_or(Errno::ESRCH)
}

/// getpgid(2).
pub fn getpgid(pid: i32) -> Result<u32> {
    Ok(pid::visible(named(pid)?.pgid()))
}

/// getsid(2).
pub fn getsid(pid: i32) -> Result<u32> {
    Ok(pid::visible(named(pid)?.sid()))
}

/// Whether `task`'s process leads its session.
pub fn is_session_leader(task: &Task) -> bool {
    task.group().sid() == task.pid()
}

/// Signals the process group of `group` if the end of its tie to `parent` leaves it orphaned with stopped members.
///
/// `ignored` is `group` itself when it is what ends.
pub(crate) fn signal_if_orphaned(
    group: &Arc<ThreadGroup>,
    parent: &Arc<ThreadGroup>,
    ignored: Option<&Arc<ThreadGroup>>,
    _tree: &TreeGuard,
) {
    let Some(pgrp) = group.pgrp() else { return };
    if parent.pgid() == pgrp.id() || parent.sid() != pgrp.session().id() {
        return;
    }
    if pgrp.has_stopped_member() && pgrp.is_orphaned_without(ignored) {
        pgrp.signal(SigInfo::kernel(SIGHUP));
        pgrp.signal(SigInfo::kernel(SIGCONT));
    }
}

/// The last thread of a session leader ends: the terminal is told and given up.
pub(crate) fn session_leader_exit(task: &Task) {
    if !is_session_leader(task) {
        return;
    }
    let Some(pgrp) = task.group().pgrp() else { return };
    let session = pgrp.session();
    if let Some(tty) = session.clear_tty() {
        tty.session_leader_exit(session);
    }
}

/// Whether the task has not executed a program since fork.
pub fn is_fresh(task: &Task) -> bool {
    task.has(TaskFlags::FORKNOEXEC)
}
