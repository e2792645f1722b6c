//! Priorities of I/O: ioprio_set(2), ioprio_get(2).

use alloc::sync::Arc;

use abi::{Errno, Result};
use process::{Task, ThreadGroup, ioprio, pid};
use security::{Cap, IdKind};

use crate::Cx;
use crate::caller;

/// `IOPRIO_WHO_*`: whom ioprio_set(2) means.
const WHO_PROCESS: u32 = 1;
const WHO_PGRP: u32 = 2;
const WHO_USER: u32 = 3;

/// Calls `visit` for each thread of the groups that `groups` gives.
fn each_thread(
    groups: impl Iterator<Item = Arc<ThreadGroup>>,
    visit: &mut dyn FnMut(&Task) -> Result<()>,
) -> Result<()> {
    for group in groups {
        group.threads().iter().try_for_each(|task| visit(task))?;
    }
    Ok(())
}

/// Calls `visit` for each thread that is meant. `EINVAL`: no such `which`.
fn each_target(
    which: u32,
    who: i32,
    user: impl FnOnce() -> Result<u32>,
    visit: &mut dyn FnMut(&Task) -> Result<()>,
) -> Result<()> {
    let me = process::current();
    match which {
        WHO_PROCESS if who == 0 => visit(&me),
        WHO_PROCESS => pid::find_task(who as u32).map_or(Ok(()), |task| visit(&task)),
        WHO_PGRP => {
            let pgid = if who == 0 { Some(me.group().pgid()) } else { pid::to_global(who as u32) };
            let members = pgid.and_then(pid::find_pgrp_global).map(|pgrp| pgrp.members()).unwrap_or_default();
            each_thread(members.into_iter(), visit)
        }
        WHO_USER => {
            let Ok(uid) = user() else { return Ok(()) };
            let is_theirs =
                |task: &Task| task.with_cred(|cred| cred.uid) == uid && pid::visible(task.tid()) != 0;
            each_thread(pid::processes(), &mut |task| if is_theirs(task) { visit(task) } else { Ok(()) })
        }
        _ => Err(Errno::EINVAL),
    }
}

/// Who may set the priority of `task`: who runs as its real user, or has `CAP_SYS_NICE`. `EPERM`.
fn may_set(task: &Task) -> Result<()> {
    let theirs = task.with_cred(|cred| cred.uid);
    let may = process::current()
        .with_cred(|cred| cred.euid == theirs || cred.uid == theirs || cred.capable(Cap::SYS_NICE));
    if may { Ok(()) } else { Err(Errno::EPERM) }
}

/// ioprio_set(2). `ESRCH`: nobody is meant.
pub(crate) fn sys_ioprio_set(_cx: &mut Cx<'_>, which: u32, who: i32, priority: u32) -> Result<usize> {
    let priority = process::current().with_cred(|cred| ioprio::check(priority, cred))?;
    let mut is_found = false;
    // LINUX: user 0 is root here, and not the caller as in ioprio_get(2).
    let user = || caller::global_id(IdKind::User, who as u32);
    each_target(which, who, user, &mut |task| {
        is_found = true;
        may_set(task)?;
        task.set_ioprio(priority);
        Ok(())
    })?;
    if is_found { Ok(0) } else { Err(Errno::ESRCH) }
}

/// ioprio_get(2): the highest priority of those meant; of one thread, what was set. `ESRCH`: nobody is meant.
pub(crate) fn sys_ioprio_get(_cx: &mut Cx<'_>, which: u32, who: i32) -> Result<usize> {
    let mut best = None;
    let user = || match who {
        0 => Ok(process::current().with_cred(|cred| cred.uid)),
        _ => caller::global_id(IdKind::User, who as u32),
    };
    each_target(which, who, user, &mut |task| {
        let found = if which == WHO_PROCESS { task.ioprio() } else { task.effective_ioprio() };
        best = Some(best.map_or(found, |best: u16| best.min(found)));
        Ok(())
    })?;
    best.map(usize::from).ok_or(Errno::ESRCH)
}
