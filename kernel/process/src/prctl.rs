//! The parts of prctl(2) that belong to tasks, and what other calls set on a task.
//!
//! Decoding of the call is the system-call layer's; each option has a function here.
//!
//! Sources: prctl(2) and the pages of its options.

use core::sync::atomic::Ordering::Relaxed;

use abi::signal::NSIG;
use abi::{Errno, Result};
use hal::UserAddr;
use security::{Accessor, ObserveIdentity};

use crate::task::{self, DEFAULT_TIMER_SLACK_NS};
use crate::{Task, cred};

/// `PR_SET_PDEATHSIG`. `EINVAL`: no signal, and not 0.
pub fn set_pdeathsig(sig: u64) -> Result<()> {
    let sig = u32::try_from(sig).ok().filter(|sig| *sig <= NSIG).ok_or(Errno::EINVAL)?;
    task::current().pdeath_signal.store(sig, Relaxed);
    Ok(())
}

/// `PR_GET_PDEATHSIG`.
pub fn pdeathsig() -> u32 {
    task::current().pdeath_signal.load(Relaxed)
}

/// `PR_SET_DUMPABLE`. `EINVAL`: neither 0 nor 1.
pub fn set_dumpable(value: u64) -> Result<()> {
    let value = u8::try_from(value).ok().filter(|value| *value <= 1).ok_or(Errno::EINVAL)?;
    task::current().group().dumpable.store(value, Relaxed);
    Ok(())
}

/// `PR_SET_CHILD_SUBREAPER`.
pub fn set_subreaper(on: bool) {
    let task = task::current();
    let group = task.group();
    group.is_subreaper.store(on, Relaxed);
    if !on {
        return;
    }
    // Descendants that exist already must look for it too; new ones inherit the mark.
    let mut todo = group.children();
    while let Some(child) = todo.pop() {
        if !child.has_subreaper.swap(true, Relaxed) {
            todo.extend(child.children());
        }
    }
}

/// `PR_GET_CHILD_SUBREAPER`.
pub fn is_subreaper() -> bool {
    task::current().group().is_subreaper.load(Relaxed)
}

/// `PR_SET_NO_NEW_PRIVS`; cannot be taken back.
pub fn set_no_new_privs() -> Result<()> {
    cred::change(|cred| {
        let mut new = cred.clone();
        new.no_new_privs = true;
        Ok(new)
    })
}

/// `PR_SET_TIMERSLACK`: 0 means the default.
pub fn set_timer_slack(ns: u64) {
    let ns = if ns == 0 { DEFAULT_TIMER_SLACK_NS } else { ns };
    task::current().timer_slack.store(ns, Relaxed);
}

/// `PR_GET_TIMERSLACK`.
pub fn timer_slack() -> u64 {
    task::current().timer_slack.load(Relaxed)
}

/// personality(2): sets the persona unless it is the query value, and gives the old one.
pub fn personality(new: u32) -> u32 {
    let task = task::current();
    if new == u32::MAX { task.personality.load(Relaxed) } else { task.personality.swap(new, Relaxed) }
}

/// set_tid_address(2); gives the caller's tid.
pub fn set_tid_address(addr: UserAddr) -> u32 {
    let task = task::current();
    task.registered.clear_child_tid.store(addr.0, Relaxed);
    task.own_tid()
}

/// Size of `struct robust_list_head`.
const ROBUST_HEAD_LEN: usize = 24;

/// set_robust_list(2). `EINVAL`: another size than the kernel's.
pub fn set_robust_list(head: UserAddr, len: usize) -> Result<()> {
    if len != ROBUST_HEAD_LEN {
        return Err(Errno::EINVAL);
    }
    task::current().registered.robust_list.store(head.0, Relaxed);
    Ok(())
}

/// get_robust_list(2): address and size of the list of thread `tid`, 0 for the caller. `ESRCH`, `EPERM`.
pub fn robust_list(tid: i32) -> Result<(UserAddr, usize)> {
    let me = task::current();
    let head = |task: &Task| (UserAddr(task.registered.robust_list.load(Relaxed)), ROBUST_HEAD_LEN);
    if tid == 0 {
        return Ok(head(&me));
    }
    let task = u32::try_from(tid).ok().and_then(crate::pid::find_task).ok_or(Errno::ESRCH)?;
    if may_observe(&task, ObserveIdentity::Real) { Ok(head(&task)) } else { Err(Errno::EPERM) }
}

/// Whether the caller may look into `target` (Linux: ptrace_may_access).
pub fn may_observe(target: &Task, identity: ObserveIdentity) -> bool {
    let me = task::current();
    if alloc::sync::Arc::ptr_eq(me.group(), target.group()) {
        return true;
    }
    let theirs = target.cred();
    let is_dumpable = target.group().dumpable() == 1;
    me.with_cred(|cred| security::may_observe(Accessor { cred, identity }, &theirs, is_dumpable))
}
