//! What the floors above do for a process: each registers an object or a function once at boot.
//!
//! Nothing here holds a lock. A hook that is not registered does nothing.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed, Ordering::SeqCst};

use abi::{Errno, Result};
use hal::UserAddr;
use hal::sync::Once;
use hal::trap::{Exception, UserRegs};
use mm::Mm;
use vfs::File;

use crate::task::CurrentTask;
use crate::trace::Enter;
use crate::{Task, ThreadGroup};

/// The futex crate's part in the end of a thread.
pub trait FutexHooks: Sync {
    /// Walks the robust list at `head` and wakes the waiters of each futex that `task`, the caller, still owns.
    fn exit_robust_list(&self, task: &Task, head: UserAddr);

    /// Gives up the PI locks that `task`, the caller, still has.
    fn exit_pi(&self, task: &Task);

    /// `mm` is about to get one more thread beside the `nr_threads` of its process. `ENOMEM`.
    fn new_thread(&self, mm: &Mm, nr_threads: usize) -> Result<()>;

    /// Wakes one waiter of the futex at `addr` of the caller's address space.
    fn wake(&self, addr: UserAddr);
}

/// Told when a task of the caller's thread ends, before its files and memory go (System V semaphore undo).
pub trait ExitHook: Sync {
    /// `task` is the caller and exits, or leaves what it shares with its creator (`CLONE_SYSVSEM`).
    fn task_exit(&self, task: &Task);

    /// `parent` has made `child`, which shares its semaphore adjustments (`CLONE_SYSVSEM`).
    fn task_clone(&self, parent: &Task, child: &Task) {
        let _ = (parent, child);
    }
}

/// What others leave for a task to do (io_uring).
pub trait TaskWork: Sync {
    /// Does it; `task` is the caller, and no lock is held.
    fn run(&self, task: &CurrentTask);

    /// `task`, the caller, ends or executes a program: it gives up what it began, while its files and memory are there.
    fn leave(&self, task: &CurrentTask);
}

/// seccomp's part in a system call of `task`, the caller.
pub trait SeccompHooks: Sync {
    /// Decides about the call that `regs` ask for.
    fn enter(&self, task: &CurrentTask, regs: &mut UserRegs) -> Enter;
}

/// What happens to a process when the pidfd that came with it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnClose {
    /// Nothing.
    Nothing,
    /// It is killed (`CLONE_PIDFD_AUTOKILL`).
    Kill,
}

/// Makes a file for a pidfd (`CLONE_PIDFD`).
pub type PidfdFactory = fn(&Arc<Task>, OnClose) -> Result<Arc<File>>;

/// Opens a namespace of a task as a descriptor of the caller; the number is that of the pidfd's ioctl.
pub type NamespaceOpener = fn(&Task, u32) -> Result<usize>;

static FUTEX: Once<&'static dyn FutexHooks> = Once::new();
static IPC: Once<&'static dyn ExitHook> = Once::new();
static WORK: Once<&'static dyn TaskWork> = Once::new();
static PIDFD: Once<PidfdFactory> = Once::new();
static SECCOMP: Once<&'static dyn SeccompHooks> = Once::new();

/// Registers the futex crate.
pub fn register_futex(hooks: &'static dyn FutexHooks) {
    FUTEX.call_once(|| hooks);
}

/// Registers what runs when a task ends.
pub fn register_exit(hook: &'static dyn ExitHook) {
    IPC.call_once(|| hook);
}

/// Registers who leaves work for tasks.
pub fn register_work(hook: &'static dyn TaskWork) {
    WORK.call_once(|| hook);
}

/// Does what was left for `task`, the caller.
pub(crate) fn run_work(task: &CurrentTask) {
    if let Some(hook) = WORK.get() {
        hook.run(task);
    }
}

/// Tells that `task`, the caller, ends or executes a program.
pub(crate) fn leave_work(task: &CurrentTask) {
    if let Some(hook) = WORK.get() {
        hook.leave(task);
    }
}

/// Registers the maker of pidfds.
pub fn register_pidfd(factory: PidfdFactory) {
    PIDFD.call_once(|| factory);
}

/// Registers seccomp.
pub fn register_seccomp(hooks: &'static dyn SeccompHooks) {
    SECCOMP.call_once(|| hooks);
}

/// What seccomp makes of the system call of `task`.
pub(crate) fn seccomp(task: &CurrentTask, regs: &mut UserRegs) -> Enter {
    SECCOMP.get().map_or(Enter::Run, |hooks| hooks.enter(task, regs))
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

pub(crate) fn task_clone(parent: &Task, child: &Task) {
    if let Some(hook) = IPC.get() {
        hook.task_clone(parent, child);
    }
}

/// Makes a pidfd file for `task`. `EINVAL`: no factory is registered.
pub(crate) fn make_pidfd(task: &Arc<Task>, on_close: OnClose) -> Result<Arc<File>> {
    PIDFD.get().map_or(Err(Errno::EINVAL), |factory| factory(task, on_close))
}

/// Tells which process a directory of /proc shows; `None` for other files. `ESRCH`: it was reaped.
pub type ProcDirReader = fn(&File) -> Option<Result<Arc<ThreadGroup>>>;

static PROC_DIRS: Once<ProcDirReader> = Once::new();

/// Registers who knows the directories of /proc.
pub fn register_proc_dirs(reader: ProcDirReader) {
    PROC_DIRS.call_once(|| reader);
}

/// The process whose directory in /proc `file` is; `None` for other files. `ESRCH`: it was reaped.
pub fn process_of_dir(file: &File) -> Option<Result<Arc<ThreadGroup>>> {
    PROC_DIRS.get().and_then(|reader| reader(file))
}

static NAMESPACES: Once<NamespaceOpener> = Once::new();

/// Registers who opens namespaces.
pub fn register_namespaces(opener: NamespaceOpener) {
    NAMESPACES.call_once(|| opener);
}

/// Opens a namespace of `task`. `ENOTTY`: nobody can.
pub fn open_namespace(task: &Task, number: u32) -> Result<usize> {
    NAMESPACES.get().map_or(Err(Errno::ENOTTY), |opener| opener(task, number))
}

/// Told of page faults that were made good, while [`FAULT_WATCHERS`] is not 0: the task, the address, the kind, and the
/// registers when it was user code that faulted.
pub type FaultWatch = fn(&CurrentTask, UserAddr, mm::FaultKind, Option<&UserRegs>);

static FAULTS: Once<FaultWatch> = Once::new();

/// How many there are who want to be told of page faults.
pub static FAULT_WATCHERS: AtomicU32 = AtomicU32::new(0);

/// Registers who watches page faults.
pub fn register_fault_watch(watch: FaultWatch) {
    FAULTS.call_once(|| watch);
}

/// Whether anyone wants to be told of page faults.
#[inline]
pub(crate) fn faults_are_watched() -> bool {
    FAULT_WATCHERS.load(Relaxed) != 0
}

/// Tells of a page fault.
#[cold]
pub(crate) fn fault(task: &CurrentTask, addr: UserAddr, kind: mm::FaultKind, regs: Option<&UserRegs>) {
    if let Some(watch) = FAULTS.get() {
        watch(task, addr, kind, regs);
    }
}

/// What probes in programs (uprobes) need to be asked about a thread, which is always the caller.
pub trait ProbeHooks: Sync {
    /// User code of `task` raised `exception`. `true`: it was a probe's, and the thread goes on with `regs`. Else
    /// `exception` is left with what the program is to know of, and `regs` tell where it happened in the program.
    fn exception(&self, task: &CurrentTask, exception: &mut Exception, regs: &mut UserRegs) -> bool;

    /// `task` is about to take a signal, or to stop: `regs` must be those that the program itself would have.
    fn settle(&self, task: &CurrentTask, regs: &mut UserRegs);

    /// `task` has made `child`, which does not run yet.
    fn cloned(&self, task: &CurrentTask, child: &Task);
}

static PROBES: Once<&'static dyn ProbeHooks> = Once::new();
static PROBES_ARE_USED: AtomicBool = AtomicBool::new(false);

/// Registers who knows the probes, at the first one; before, nobody is asked.
pub fn register_probes(hooks: &'static dyn ProbeHooks) {
    PROBES.call_once(|| hooks);
    PROBES_ARE_USED.store(true, SeqCst);
}

/// Who knows the probes, if there ever was one.
#[inline]
pub(crate) fn probes() -> Option<&'static dyn ProbeHooks> {
    if PROBES_ARE_USED.load(Relaxed) { PROBES.get().copied() } else { None }
}
