//! A task: one thread of a process, with everything that is the thread's own.
//!
//! # Locking
//!
//! | field | who writes | who reads |
//! |---|---|---|
//! | `cred`, `user`, `files`, `thread` | the task itself (`thread` also its creator) | anyone, through RCU |
//! | `acting_cred` | the task itself | the task itself, through RCU |
//! | `mm`, `fs` | the task itself, under the field's lock | anyone, under the lock |
//! | `pending` | anyone, under [`ThreadGroup::sig`] and its own lock | the same |
//! | `pending_set` | as `pending`; a copy of its set | the task itself, without a lock |
//! | `tracee` | under the family lock and [`ThreadGroup::sig`] | anyone, through RCU |
//! | `flags` | under [`ThreadGroup::sig`], except `EXITING` and `FORKNOEXEC`, which the task sets itself, and `FREEZE` | anyone |
//! | `membership` | see [`crate::membership`] | anyone, through RCU |
//! | the other atomics | the task itself | anyone, as a hint for /proc |
//!
//! Order: `ThreadGroup::sig` before `Task::pending`; the other locks here are leaves.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use abi::Result;
use abi::signal::SigSet;
use bitflags::bitflags;
use hal::sync::{ArcCell, IrqLock, SeqLock, SpinLock};
use hal::thread::{self, Slot, Work};
use limits::UserCounts;
use mm::Mm;
use sched::Kill;
use security::Cred;
use vfs::fdtable::TableCell;
use vfs::xattr::Store;
use vfs::{FdTable, File, FsContext};

use crate::clone::VforkDone;
use crate::ioprio::IoContext;
use crate::membership::Membership;
use crate::nsproxy::NsProxy;
use crate::pid::PidRef;
use crate::roster::Roster;
use crate::signal::{AltStack, Pending};
use crate::trace::dispatch::Dispatch;
use crate::trace::{DebugRegs, Tracee};
use crate::{ThreadGroup, seccomp};

/// Where each hal thread keeps its task.
static TASK: Slot<Arc<Task>> = Slot::new();

bitflags! {
    /// State of a task that others look at.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TaskFlags: u32 {
        /// It must end: the process ends, or another thread executes a program.
        const KILLED = 1;
        /// It shall stop with its process.
        const STOP_PENDING = 2;
        /// It is stopped.
        const STOPPED = 4;
        /// It is on its way out and takes no signals.
        const EXITING = 8;
        /// It has ended; only its id and results remain.
        const DEAD = 16;
        /// It has not executed a program since it was made (for accounting and setpgid(2)).
        const FORKNOEXEC = 32;
        /// The end of the system call puts `saved_mask` back.
        const RESTORE_MASK = 64;
        /// exit(2) was called: the way to user mode ends the thread with `exit_code`.
        const EXIT_REQUESTED = 128;
        /// A robust list, a rseq area or the like is registered: exit has something to do.
        const PR_SET = 256;
        /// Another thread traces it.
        const TRACED = 512;
        /// ... which took hold by `PTRACE_SEIZE`.
        const SEIZED = 1024;
        /// It shall enter a traced stop.
        const TRAP_STOP = 2048;
        /// It shall tell its seizing tracer that a stop of its process began or ended.
        const TRAP_NOTIFY = 4096;
        /// It is in a traced stop.
        const TRACE_STOPPED = 8192;
        /// It is in a traced stop that the tracer left by `PTRACE_LISTEN`.
        const LISTENING = 1 << 14;
        /// Its pending stop counts among those that the process waits for.
        const STOP_COUNTED = 1 << 15;
        /// Another thread's seccomp filter took its way to new rights (`SECCOMP_FILTER_FLAG_TSYNC`).
        const NO_NEW_PRIVS = 1 << 16;
        /// A signal ends it that no tracer is asked about.
        const DOOMED = 1 << 17;
        /// Its control group shall freeze. Changed under `cgroup::Held`.
        const FREEZE = 1 << 18;
        /// Others left work for it, to be done on its way to user mode.
        const TASK_WORK = 1 << 19;
        /// It stands for a kernel thread.
        const KERNEL = 1 << 20;
    }
}

/// A system call that was interrupted and goes on by restart_syscall(2).
pub type Restart = Box<dyn FnOnce() -> Result<usize> + Send>;

/// What a thread did last to get a fault signal; shown in signal frames.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FaultInfo {
    pub(crate) trap_nr: u64,
    pub(crate) error_code: u64,
    pub(crate) cr2: u64,
}

/// Numbers that a thread registered with the kernel for its own use.
#[derive(Debug, Default)]
pub(crate) struct UserRegistered {
    /// set_tid_address(2), `CLONE_CHILD_CLEARTID`.
    pub(crate) clear_child_tid: AtomicU64,
    /// set_robust_list(2).
    pub(crate) robust_list: AtomicU64,
    /// rseq(2): address, length and signature; address 0 when not registered.
    pub(crate) rseq: AtomicU64,
    pub(crate) rseq_len: AtomicU32,
    pub(crate) rseq_sig: AtomicU32,
    /// The CPU that the area's last fields are of.
    pub(crate) rseq_cpu: AtomicU32,
}

/// One thread of a process.
pub struct Task {
    tid: AtomicU32,
    /// The number in its own pid namespace.
    own_tid: AtomicU32,
    /// 0 until somebody asks.
    unique: AtomicU64,
    /// Extended attributes of its pidfds, while it is no leader.
    pub pidfd_xattrs: Store,
    group: Arc<ThreadGroup>,
    /// Keeps the tid taken.
    pid_ref: SpinLock<Option<PidRef>>,
    pub(crate) thread: ArcCell<sched::Thread>,

    cred: ArcCell<Cred>,
    /// What the task acts with in the place of `cred` ([`cred::run_as`](crate::cred::run_as)).
    acting_cred: ArcCell<Cred>,
    mm: SpinLock<Option<Arc<Mm>>>,
    files: TableCell,
    fs: SpinLock<Option<Arc<FsContext>>>,
    user: ArcCell<UserCounts>,
    nsproxy: ArcCell<NsProxy>,
    pub(crate) membership: Membership,

    pub(crate) pending: IrqLock<Pending>,
    pub(crate) pending_set: AtomicU64,
    blocked: AtomicU64,
    pub(crate) saved_mask: AtomicU64,
    /// Signals that sigtimedwait(2) waits for: blocked, but not to be dropped as ignored.
    pub(crate) waited_for: AtomicU64,
    flags: AtomicU32,
    pub(crate) alt_stack: SpinLock<AltStack>,
    pub(crate) restart: SpinLock<Option<Restart>>,
    pub(crate) fault: SpinLock<FaultInfo>,

    pub(crate) registered: UserRegistered,
    pub(crate) vfork_done: SpinLock<Option<Arc<VforkDone>>>,
    pub(crate) exit_code: AtomicI32,
    /// The signal of the last stop of its process that it had to take part in.
    pub(crate) stop_signal: AtomicU32,
    /// Its tie to its tracer; changed under the family lock and `ThreadGroup::sig`.
    pub(crate) tracee: ArcCell<Tracee>,
    /// The tasks that it traces.
    pub(crate) tracees: SpinLock<Roster<Task>>,
    /// Its debug registers as its tracer sees them.
    pub(crate) debug: SpinLock<DebugRegs>,
    /// Changed under `ThreadGroup::sig`.
    pub(crate) seccomp: ArcCell<seccomp::State>,
    pub(crate) dispatch: SpinLock<Dispatch>,
    /// Its present call became a signal.
    pub(crate) was_dispatched: AtomicBool,
    /// [`crate::trace::SyscallWork`].
    pub(crate) syscall_work: AtomicU32,
    comm: SeqLock<[u8; 16]>,
    /// `PR_SET_PDEATHSIG`.
    pub(crate) pdeath_signal: AtomicU32,
    /// `PR_SET_TIMERSLACK` in nanoseconds, and what 0 resets it to.
    pub(crate) timer_slack: AtomicU64,
    pub(crate) personality: AtomicU32,
    /// Who measures what it does; set under its own rules by [`Task::watch`].
    watcher: ArcCell<Watch>,
    /// None until an I/O priority was set.
    pub(crate) io_context: SpinLock<Option<IoContext>>,
    /// Memory policy (set_mempolicy(2)), as [`mm::Policy::bits`].
    mempolicy: AtomicU32,
    /// See [`crate::failing`].
    pub(crate) fail_nth: AtomicU32,
    pub(crate) min_flt: AtomicU64,
    pub(crate) maj_flt: AtomicU64,
}

/// Someone who measures what a task does, in the crate of performance events.
pub trait TaskWatcher: Any + Send + Sync {
    /// `task`, the caller, has made `child`, which does not run yet.
    fn forked(&self, task: &Task, child: &Arc<Task>);

    /// `task`, the caller, executes a new program.
    fn executed(&self, task: &Task);

    /// `task`, the caller, ends. Nobody has been told yet.
    fn exits(&self, task: &Task);
}

/// A watcher, sized.
struct Watch(Arc<dyn TaskWatcher>);

/// What a new task gets.
pub(crate) struct TaskInit {
    pub(crate) pid_ref: PidRef,
    pub(crate) group: Arc<ThreadGroup>,
    pub(crate) cred: Arc<Cred>,
    pub(crate) user: Arc<UserCounts>,
    pub(crate) nsproxy: Arc<NsProxy>,
    pub(crate) mm: Option<Arc<Mm>>,
    pub(crate) files: Arc<FdTable>,
    pub(crate) fs: Arc<FsContext>,
    pub(crate) blocked: SigSet,
    pub(crate) comm: [u8; 16],
}

/// The timer slack of a normal thread (50 µs, prctl(2)).
pub(crate) const DEFAULT_TIMER_SLACK_NS: u64 = 50_000;

impl Task {
    /// Makes a task; it is not yet in any table.
    #[inline(never)]
    pub(crate) fn new(init: TaskInit) -> Arc<Self> {
        hal::in_place::arc(Self {
            tid: AtomicU32::new(init.pid_ref.number()),
            own_tid: AtomicU32::new(init.pid_ref.own_number()),
            unique: AtomicU64::new(0),
            pidfd_xattrs: Store::new(),
            group: init.group,
            pid_ref: SpinLock::new("process.pid_ref", Some(init.pid_ref)),
            thread: ArcCell::empty(),
            cred: ArcCell::new(init.cred),
            acting_cred: ArcCell::empty(),
            mm: SpinLock::new("process.mm", init.mm),
            files: TableCell::new(init.files),
            fs: SpinLock::new("process.fs", Some(init.fs)),
            user: ArcCell::new(init.user),
            nsproxy: ArcCell::new(init.nsproxy),
            membership: Membership::new(),
            pending: IrqLock::new("process.pending", Pending::new()),
            pending_set: AtomicU64::new(0),
            blocked: AtomicU64::new(init.blocked.0),
            saved_mask: AtomicU64::new(0),
            waited_for: AtomicU64::new(0),
            flags: AtomicU32::new(TaskFlags::FORKNOEXEC.bits()),
            alt_stack: SpinLock::new("process.alt_stack", AltStack::NONE),
            restart: SpinLock::new("process.restart", None),
            fault: SpinLock::new("process.fault", FaultInfo::default()),
            registered: UserRegistered::default(),
            vfork_done: SpinLock::new("process.vfork_done", None),
            exit_code: AtomicI32::new(0),
            stop_signal: AtomicU32::new(0),
            tracee: ArcCell::empty(),
            tracees: SpinLock::new("process.tracees", Roster::new()),
            debug: SpinLock::new("process.debug_regs", DebugRegs::default()),
            seccomp: ArcCell::empty(),
            dispatch: SpinLock::new("process.dispatch", Dispatch::default()),
            was_dispatched: AtomicBool::new(false),
            syscall_work: AtomicU32::new(0),
            comm: SeqLock::new("process.comm", init.comm),
            pdeath_signal: AtomicU32::new(0),
            timer_slack: AtomicU64::new(DEFAULT_TIMER_SLACK_NS),
            personality: AtomicU32::new(0),
            watcher: ArcCell::empty(),
            io_context: SpinLock::new("process.io_context", None),
            mempolicy: AtomicU32::new(0),
            fail_nth: AtomicU32::new(0),
            min_flt: AtomicU64::new(0),
            maj_flt: AtomicU64::new(0),
        })
    }

    /// Thread id in the first pid namespace: what the kernel knows it by.
    #[inline]
    pub fn tid(&self) -> u32 {
        self.tid.load(Relaxed)
    }

    /// Thread id in its own pid namespace: what it knows itself by.
    #[inline]
    pub fn own_tid(&self) -> u32 {
        self.own_tid.load(Relaxed)
    }

    /// Process id in its own pid namespace.
    #[inline]
    pub fn own_pid(&self) -> u32 {
        self.group.own_pid()
    }

    /// A number that no other process or thread had or will have (the inode of its pidfd).
    pub fn unique_id(&self) -> u64 {
        crate::pid::unique_id(&self.unique)
    }

    /// [`Task::unique_id`], if somebody has asked for it.
    pub fn known_unique_id(&self) -> Option<u64> {
        Some(self.unique.load(Relaxed)).filter(|number| *number != 0)
    }

    /// Its namespaces; `None` once it exits.
    pub fn nsproxy(&self) -> Option<Arc<NsProxy>> {
        self.nsproxy.load()
    }

    /// Its namespaces, without counting a reference.
    pub(crate) fn nsproxy_ref<'a>(&'a self, guard: &'a hal::rcu::ReadGuard) -> Option<&'a NsProxy> {
        self.nsproxy.get(guard)
    }

    /// Replaces its namespaces; only the task itself calls this.
    pub(crate) fn replace_nsproxy(&self, proxy: Option<Arc<NsProxy>>) {
        drop(self.nsproxy.swap(proxy));
    }

    /// Process id in the first pid namespace.
    #[inline]
    pub fn pid(&self) -> u32 {
        self.group.pid()
    }

    /// The process it belongs to.
    #[inline]
    pub fn group(&self) -> &Arc<ThreadGroup> {
        &self.group
    }

    /// Whether its tid is the process id.
    pub fn is_leader(&self) -> bool {
        self.tid() == self.pid()
    }

    /// Who measures what it does (perf_event_open(2)).
    pub fn watcher(&self) -> Option<Arc<dyn TaskWatcher>> {
        self.watcher.load().map(|watch| watch.0.clone())
    }

    /// Lets `watcher` measure it from now on. Callers see to it that there is one watcher at a time.
    pub fn watch(&self, watcher: Arc<dyn TaskWatcher>) {
        drop(self.watcher.swap(Some(Arc::new(Watch(watcher)))));
    }

    /// Its schedulable thread; `None` once it has ended.
    pub fn thread(&self) -> Option<Arc<sched::Thread>> {
        self.thread.load()
    }

    /// Its credentials, as others see them; what it acts with itself is [`CurrentTask::cred`].
    pub fn cred(&self) -> Arc<Cred> {
        match self.cred.load() {
            Some(cred) => cred,
            // The cell is filled by `new` and never emptied; nobody has fewer rights than this.
            None => Arc::new(nobody()),
        }
    }

    /// Calls `f` with its [credentials](Self::cred), without counting a reference; `f` must not sleep.
    pub fn with_cred<R>(&self, f: impl FnOnce(&Cred) -> R) -> R {
        let guard = hal::rcu::read_lock();
        match self.cred.get(&guard) {
            Some(cred) => f(cred),
            None => f(&nobody()),
        }
    }

    /// Publishes new credentials; only the task itself calls this.
    pub(crate) fn replace_cred(&self, cred: Arc<Cred>) {
        drop(self.cred.swap(Some(cred)));
    }

    /// The account of its real user id.
    pub(crate) fn user(&self) -> Option<Arc<UserCounts>> {
        self.user.load()
    }

    /// Moves it to another account.
    pub(crate) fn replace_user(&self, user: Arc<UserCounts>) {
        drop(self.user.swap(Some(user)));
    }

    /// Its memory policy.
    pub fn mempolicy(&self) -> mm::Policy {
        mm::Policy::from_bits(self.mempolicy.load(Relaxed))
    }

    /// Sets its memory policy.
    pub fn set_mempolicy(&self, policy: mm::Policy) {
        self.mempolicy.store(policy.bits(), Relaxed);
    }

    /// Its address space; `None` once it exits.
    pub fn mm(&self) -> Option<Arc<Mm>> {
        self.mm.lock().clone()
    }

    /// Replaces its address space and gives the old one, to be dropped without locks.
    pub(crate) fn replace_mm(&self, mm: Option<Arc<Mm>>) -> Option<Arc<Mm>> {
        core::mem::replace(&mut *self.mm.lock(), mm)
    }

    /// Its descriptors; `None` once it exits.
    #[inline]
    pub fn files(&self) -> Option<Arc<FdTable>> {
        self.files.table()
    }

    /// Its open file `fd`, whatever that can do: as [`FdTable::get_any`] without counting a use of the table.
    #[inline]
    pub fn file(&self, fd: i32) -> Result<Arc<File>> {
        self.files.file(fd)
    }

    /// Replaces its descriptors. If nobody else uses the old ones, they are closed; may sleep. Only the task itself
    /// calls this.
    pub fn replace_files(&self, files: Option<Arc<FdTable>>) {
        self.files.replace(files);
    }

    /// Its root, working directory and umask; `None` once it exits.
    pub fn fs(&self) -> Option<Arc<FsContext>> {
        self.fs.lock().clone()
    }

    /// Replaces root, working directory and umask (unshare(2), exit).
    pub fn replace_fs(&self, fs: Option<Arc<FsContext>>) -> Option<Arc<FsContext>> {
        core::mem::replace(&mut *self.fs.lock(), fs)
    }

    /// The blocked signals.
    #[inline]
    pub fn blocked(&self) -> SigSet {
        SigSet(self.blocked.load(SeqCst))
    }

    /// Stores the mask; the caller looks for newly deliverable signals.
    pub(crate) fn store_blocked(&self, mask: SigSet) {
        // SeqCst pairs with the senders' read: either the sender sees the new mask, or we see its signal.
        self.blocked.store(mask.minus(SigSet::UNBLOCKABLE).0, SeqCst);
    }

    /// The signals pending for this thread alone.
    pub fn pending_set(&self) -> SigSet {
        SigSet(self.pending_set.load(SeqCst))
    }

    /// Its flags.
    pub fn flags(&self) -> TaskFlags {
        TaskFlags::from_bits_retain(self.flags.load(SeqCst))
    }

    /// Whether it has all of `flags`.
    pub fn has(&self, flags: TaskFlags) -> bool {
        self.flags().contains(flags)
    }

    pub(crate) fn set_flags(&self, flags: TaskFlags) {
        self.flags.fetch_or(flags.bits(), SeqCst);
    }

    #[inline]
    pub(crate) fn clear_flags(&self, flags: TaskFlags) {
        self.flags.fetch_and(!flags.bits(), SeqCst);
    }

    /// Its name (comm), up to the first NUL at most 15 bytes.
    pub fn comm(&self) -> [u8; 16] {
        self.comm.read()
    }

    /// Sets its name; cut to 15 bytes.
    pub fn set_comm(&self, name: &[u8]) {
        let mut comm = [0; 16];
        for (to, from) in comm.iter_mut().take(15).zip(name.iter().take_while(|byte| **byte != 0)) {
            *to = *from;
        }
        self.comm.write(|old| *old = comm);
    }

    /// Sets work flags of its thread, and makes it see them soon if it runs user code elsewhere.
    pub(crate) fn notify(&self, kind: Notify) {
        if let Some(thread) = self.thread.load() {
            thread.notify_signal(match kind {
                Notify::Signal => Kill::No,
                Notify::Kill => Kill::Yes,
            });
        }
    }

    /// Makes it run [`crate::hooks::TaskWork::run`] soon, on its way to user mode; a sleep that a signal would end, ends.
    ///
    /// Usable in any context.
    pub fn request_work(&self) {
        self.set_flags(TaskFlags::TASK_WORK);
        self.notify(Notify::Signal);
    }

    /// Takes over `tid` from the leader (execve(2) by another thread) and gives the own one back.
    pub(crate) fn take_tid(&self, pid_ref: PidRef) {
        self.tid.store(pid_ref.number(), Relaxed);
        self.own_tid.store(pid_ref.own_number(), Relaxed);
        drop(self.pid_ref.lock().replace(pid_ref));
    }

    /// Gives up the right to its tid.
    pub(crate) fn release_tid(&self) -> Option<PidRef> {
        self.pid_ref.lock().take()
    }

    /// Another use of its tid, for a process group or session of that number.
    pub(crate) fn share_tid(&self) -> Option<PidRef> {
        self.pid_ref.lock().clone()
    }
}

/// How a task is told of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notify {
    /// It wakes if it sleeps interruptibly.
    Signal,
    /// It wakes from anything that a kill may end.
    Kill,
}

/// Credentials without any right.
fn nobody() -> Cred {
    const NOBODY: u32 = 65534;
    let root = Cred::root();
    root.setgid(NOBODY).and_then(|cred| cred.setuid(NOBODY)).unwrap_or(root)
}

/// The task that runs this code.
pub struct CurrentTask(thread::Current);

impl Deref for CurrentTask {
    type Target = Task;

    #[inline]
    fn deref(&self) -> &Task {
        self.arc()
    }
}

impl CurrentTask {
    /// Its counted reference, for those who keep it.
    #[inline]
    pub fn arc(&self) -> &Arc<Task> {
        match self.0.slot(&TASK) {
            Some(task) => task,
            None => unreachable!("a kernel thread has no task"),
        }
    }

    /// The credentials that it acts with: its own, or those that it has taken on for an operation.
    pub fn cred(&self) -> Arc<Cred> {
        self.acting_cred.load().unwrap_or_else(|| self.arc().cred())
    }

    /// Calls `f` with the credentials that it acts with, without counting a reference; `f` must not sleep.
    pub fn with_cred<R>(&self, f: impl FnOnce(&Cred) -> R) -> R {
        let guard = hal::rcu::read_lock();
        match self.acting_cred.get(&guard) {
            Some(cred) => f(cred),
            None => self.arc().with_cred(f),
        }
    }

    /// Acts with `cred` from now on, or with its own for `None`; gives what it acted with in their place.
    pub(crate) fn act_with(&self, cred: Option<Arc<Cred>>) -> Option<Arc<Cred>> {
        self.acting_cred.swap(cred)
    }

    /// The hal side of the thread: floating-point state, segment bases, page table.
    pub fn hal(&self) -> &thread::Current {
        &self.0
    }

    /// Whether a signal (or the task's end) waits to be handled: long work in the kernel should stop.
    #[inline]
    pub fn signal_pending(&self) -> bool {
        self.0.work().contains(Work::SIGNAL)
    }

    /// Whether others left it work that is not done yet; until then nothing it waits for interruptibly lets it sleep.
    pub fn work_pending(&self) -> bool {
        self.has(TaskFlags::TASK_WORK)
    }

    /// Whether the task must end.
    #[inline]
    pub fn fatal_signal_pending(&self) -> bool {
        self.has(TaskFlags::KILLED)
    }
}

/// The current task.
///
/// # Panics
///
/// In a kernel thread, which has none. System calls and what they call always have one.
#[inline]
#[track_caller]
pub fn current() -> CurrentTask {
    let current = CurrentTask(thread::current());
    debug_assert!(current.0.slot(&TASK).is_some(), "a kernel thread has no task");
    current
}

/// The current task, or `None` in a kernel thread.
#[inline]
pub fn try_current() -> Option<CurrentTask> {
    let current = thread::current();
    current.slot(&TASK)?;
    Some(CurrentTask(current))
}

/// Ties `task` to the hal thread that will run it.
pub(crate) fn bind(thread: &thread::Thread, task: Arc<Task>) {
    // A fresh thread's slot is empty, so this cannot fail.
    drop(thread.set_slot(&TASK, task));
}
