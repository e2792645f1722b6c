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
use crate::{exit, pid, signal};

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
        let alone = state.threads.iter().all(|task| Arc::ptr_eq(task, me.arc()) || task.has(TaskFlags::DEAD));
        alone.then_some(())
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
        pid::set_task(me.tid(), None);
        me.take_tid(pid_ref);
        pid::set_task(me.tid(), Some(me.arc().clone()));
        exit::forget_leader(leader);
    }
    drop(tree);
    drop(leader);
}
