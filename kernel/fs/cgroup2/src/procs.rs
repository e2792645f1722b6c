//! cgroup.procs and cgroup.threads: who is in a group, and moving tasks to it.

use alloc::sync::Arc;

use abi::{Errno, Result};
use cgroup::{Cgroup, Options};
use ns::CgroupNs;
use process::{Task, membership, pid};
use security::Cred;
use vfs::put;
use vfs::text::Text;

use crate::file::Opened;
use crate::part;
use crate::write::number32;

/// `EOPNOTSUPP`: the group is threaded, and processes are not in it as a whole.
pub(crate) fn show_processes(group: &Arc<Cgroup>, out: &mut Text) -> Result<()> {
    if group.is_threaded() {
        return Err(Errno::EOPNOTSUPP);
    }
    put_numbers(&membership::processes_in(group)?, out);
    Ok(())
}

pub(crate) fn show_threads(group: &Arc<Cgroup>, out: &mut Text) -> Result<()> {
    put_numbers(&membership::threads_in(group)?, out);
    Ok(())
}

/// Numbers as the reader knows them; 0 for what it cannot see.
fn put_numbers(all: &[u32], out: &mut Text) {
    for number in all {
        put!(out, "{}\n", pid::visible(*number));
    }
}

/// Whether who has `cred` and `ns` may move tasks from `from` to `to`.
///
/// `EACCES`: the cgroup.procs of the group above both cannot be written. `ENOENT`: one is out of the namespace, and namespaces
/// are borders.
pub(crate) fn check_rights(from: &Arc<Cgroup>, to: &Arc<Cgroup>, cred: &Cred, ns: &CgroupNs) -> Result<()> {
    part::may_write_procs(&from.common_ancestor(to), cred)?;
    let root = ns.root();
    let is_inside = from.is_within(root) && to.is_within(root);
    if Options::current().contains(Options::NSDELEGATE) && !is_inside { Err(Errno::ENOENT) } else { Ok(()) }
}

/// The task that a written number means; 0 is the writer. `EINVAL`: no number. `ESRCH`.
fn task_of(bytes: &[u8]) -> Result<Arc<Task>> {
    let number = number32(bytes).ok().and_then(|number| u32::try_from(number).ok()).ok_or(Errno::EINVAL)?;
    match number {
        0 => Ok(process::current().arc().clone()),
        _ => pid::find_task(number).ok_or(Errno::ESRCH),
    }
}

/// `ENODEV`: the group was removed.
fn vet(opened: &Opened, task: &Task, is_thread: bool) -> Result<()> {
    let (from, to) = (task.cgroup(), &opened.group);
    if to.is_dead() {
        return Err(Errno::ENODEV);
    }
    check_rights(&from, to, &opened.cred, &opened.ns)?;
    membership::vet(&from, to, is_thread)
}

/// Moves the whole process of the thread that is written.
pub(crate) fn move_process(opened: &Opened, bytes: &[u8]) -> Result<()> {
    let held = cgroup::lock();
    let task = task_of(bytes)?;
    let leader = task.group().leader().unwrap_or_else(|| task.clone());
    vet(opened, &leader, false)?;
    membership::move_process(task.group(), &opened.group, &held);
    Ok(())
}

/// Moves the thread that is written.
pub(crate) fn move_thread(opened: &Opened, bytes: &[u8]) -> Result<()> {
    let held = cgroup::lock();
    let task = task_of(bytes)?;
    vet(opened, &task, true)?;
    membership::move_thread(&task, &opened.group, &held);
    Ok(())
}
