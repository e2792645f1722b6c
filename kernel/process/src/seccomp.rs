//! The seccomp state of tasks. What it means is the crate `seccomp`'s business; here it is kept, inherited and replaced.
//!
//! A state is replaced under `ThreadGroup::sig`, where new threads become visible too, so a change for all threads
//! misses none.

use alloc::sync::Arc;
use core::any::Any;

use abi::Errno;

use crate::task::{CurrentTask, TaskFlags};
use crate::trace::SyscallWork;
use crate::{Task, pid};

/// Which calls a task may make (the values of `PR_GET_SECCOMP`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Four calls.
    Strict = 1,
    /// Those that its filters allow.
    Filter = 2,
}

/// The state of a task that has given up system calls.
pub struct State {
    /// The mode.
    pub mode: Mode,
    /// How many filters it has.
    pub nr_filters: u32,
    /// The filters, which only the crate `seccomp` understands.
    pub chain: Option<Arc<dyn Any + Send + core::marker::Sync>>,
}

/// Whom a new state is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// The caller.
    Caller,
    /// All threads of the process.
    AllThreads,
}

/// Why a state was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The caller's state is not the one that the new one was made from: try again.
    Changed,
    /// A thread's state does not fit; its tid.
    Thread(u32),
    /// Something else.
    Other(Errno),
}

impl Task {
    /// Its seccomp state; `None` when it may make every call.
    pub fn seccomp(&self) -> Option<Arc<State>> {
        self.seccomp.load()
    }

    /// Whether it and its children can gain no rights by executing programs.
    pub fn no_new_privs(&self) -> bool {
        self.has(TaskFlags::NO_NEW_PRIVS) || self.with_cred(|cred| cred.no_new_privs)
    }

    /// Takes over the state of `parent`; both are of one process and its `sig` is held, or nobody knows the task yet.
    pub(crate) fn inherit_seccomp(&self, parent: &Task) {
        if parent.has(TaskFlags::NO_NEW_PRIVS) {
            self.set_flags(TaskFlags::NO_NEW_PRIVS);
        }
        if let Some(state) = parent.seccomp.load() {
            drop(self.seccomp.swap(Some(state)));
            self.start_syscall_work(SyscallWork::SECCOMP);
        }
    }
}

/// Gives `me`, the caller, or all its threads the state `new`, which was made from `from`.
///
/// Other threads must be without seccomp, or in filter mode with a state that `fits`.
pub fn install(
    me: &CurrentTask,
    new: Arc<State>,
    from: Option<&Arc<State>>,
    sync: Sync,
    fits: &dyn Fn(&State) -> bool,
) -> Result<(), Refused> {
    let sig = me.group().sig.lock();
    let is_same = match (me.seccomp.load(), from) {
        (None, None) => true,
        (Some(now), Some(from)) => Arc::ptr_eq(&now, from),
        _ => false,
    };
    if !is_same {
        return Err(Refused::Changed);
    }
    let is_other = |task: &&Arc<Task>| !Arc::ptr_eq(task, me.arc()) && !task.has(TaskFlags::EXITING);
    if sync == Sync::AllThreads {
        for task in sig.threads.iter().filter(is_other) {
            if task.seccomp.load().is_some_and(|state| state.mode == Mode::Strict || !fits(&state)) {
                return Err(Refused::Thread(pid::visible(task.tid())));
            }
        }
        let no_new_privs = me.no_new_privs();
        for task in sig.threads.iter().filter(is_other) {
            if no_new_privs {
                task.set_flags(TaskFlags::NO_NEW_PRIVS);
            }
            drop(task.seccomp.swap(Some(new.clone())));
            task.start_syscall_work(SyscallWork::SECCOMP);
        }
    }
    drop(me.seccomp.swap(Some(new)));
    me.start_syscall_work(SyscallWork::SECCOMP);
    Ok(())
}
