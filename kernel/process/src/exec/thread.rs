//! execve(2) by a process of several threads: all others end, and the caller becomes the leader.
//!
//! ```text
//! caller                                   other threads
//! exec = true, KILLED to all others  ─────▶ end on their way to user mode
//! sleeps in exit_wait                ◀───── each wakes it
//! if not the leader: takes the dead leader's tid; the process keeps its id
//! ```

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use abi::{Errno, Result};
use sched::Interruptible;

use crate::family::lock_tree;
use crate::task::{CurrentTask, TaskFlags};
use crate::{Task, exit, pid, signal, trace};

/// Ends all other threads of the caller's process. `EAGAIN`: the process ends, or another thread does the same.
pub(super) fn become_only_thread(me: &CurrentTask) -> Result<()> {
    let group = me.group();
    if group.nr_live.load(Relaxed) == 1 && me.is_leader() {
        return Ok(());
    }
    {
        let mut state = group.sig.lock();
        if state.exit.is_some() || state.exec || me.has(TaskFlags::KILLED) {
            return Err(Errno::EAGAIN);
        }
        state.exec = true;
        signal::kill_all_threads(&mut state, Some(&**me));
    }
    let others_are_dead = || {
        let state = group.sig.lock();
        // A traced thread stays until its tracer has waited for it; the dead leader is taken over.
        let is_out_of_way =
            |task: &Arc<Task>| Arc::ptr_eq(task, me.arc()) || (task.is_leader() && task.has(TaskFlags::DEAD));
        state.threads.iter().all(is_out_of_way).then_some(())
    };
    let waited = group.exit_wait.wait_deadline(others_are_dead, None, Interruptible::Killable);
    if waited.is_ok() && !me.is_leader() {
        take_over(me);
    }
    group.sig.lock().exec = false;
    waited.map_err(|_| Errno::EAGAIN)
}

/// Takes the place of the dead leader.
fn take_over(me: &CurrentTask) {
    let group = me.group();
    let tree = lock_tree();
    let leader = {
        let mut state = group.sig.lock();
        let leader_idx = state.threads.iter().position(|task| task.tid() == group.pid());
        leader_idx.map(|idx| state.threads.remove(idx))
    };
    if let Some(leader) = &leader
        && let Some(pid_ref) = leader.release_tid()
    {
        let tie = trace::unlink(leader, &tree);
        pid::set_task(me.tid(), None);
        me.take_tid(pid_ref);
        pid::set_task(me.tid(), Some(me.arc().clone()));
        trace::leader_changed(me);
        exit::forget_leader(leader);
        drop(tree);
        drop(tie);
    } else {
        drop(tree);
    }
    drop(leader);
}
