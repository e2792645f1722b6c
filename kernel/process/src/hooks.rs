//! What the floors above do for a process: each registers an object or a function once at boot.
//!
//! Nothing here holds a lock. A hook that is not registered does nothing.

use alloc::sync::Arc;

use abi::{Errno, Result};
use hal::UserAddr;
use hal::sync::Once;
use vfs::File;

use crate::{Task, ThreadGroup};

/// The futex crate's part in the end of a thread.
pub trait FutexHooks: Sync {
    /// Walks the robust list at `head` and wakes the waiters of each futex that `task`, the caller, still owns.
    fn exit_robust_list(&self, task: &Task, head: UserAddr);

    /// Wakes one waiter of the futex at `addr` of the caller's address space.
    fn wake(&self, addr: UserAddr);
}

/// Told when a task of the caller's thread ends, before its files and memory go (System V semaphore undo).
pub trait ExitHook: Sync {
    /// `task` is the caller and exits, or leaves what it shares with its creator (`CLONE_SYSVSEM`).
    fn task_exit(&self, task: &Task);

    /// `parent` makes `child`, which shares its semaphore adjustments if `shares`.
    fn task_clone(&self, parent: &Task, child: &Task, shares: bool) {
        let _ = (parent, child, shares);
    }
}

/// Makes a file for a pidfd (`CLONE_PIDFD`).
pub type PidfdFactory = fn(&Arc<ThreadGroup>) -> Result<Arc<File>>;

static FUTEX: Once<&'static dyn FutexHooks> = Once::new();
static IPC: Once<&'static dyn ExitHook> = Once::new();
static PIDFD: Once<PidfdFactory> = Once::new();

/// Registers the futex crate.
pub fn register_futex(hooks: &'static dyn FutexHooks) {
    FUTEX.call_once(|| hooks);
}

/// Registers what runs when a task ends.
pub fn register_exit(hook: &'static dyn ExitHook) {
    IPC.call_once(|| hook);
}

/// Registers the maker of pidfds.
pub fn register_pidfd(factory: PidfdFactory) {
    PIDFD.call_once(|| factory);
}

pub(crate) fn futex() -> Option<&'static dyn FutexHooks> {
    FUTEX.get().copied()
}

pub(crate) fn task_exit(task: &Task) {
    if let Some(hook) = IPC.get() {
        hook.task_exit(task);
    }
}

/// Tells of unshare(2) and setns(2) that the caller leaves its semaphores.
pub(crate) fn leave_ipc(task: &Task) {
    task_exit(task);
}

pub(crate) fn task_clone(parent: &Task, child: &Task, shares: bool) {
    if let Some(hook) = IPC.get() {
        hook.task_clone(parent, child, shares);
    }
}

/// Makes a pidfd file for `group`. `EINVAL`: no factory is registered.
pub(crate) fn make_pidfd(group: &Arc<ThreadGroup>) -> Result<Arc<File>> {
    PIDFD.get().map_or(Err(Errno::EINVAL), |factory| factory(group))
}
