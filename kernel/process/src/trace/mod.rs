//! Tracing: what the rest of this crate does for ptrace(2). The requests themselves are in the crate `ptrace`.
//!
//! A [`Tracee`] is the tie between a traced task and the thread that traces it. The traced task stops at the base of its
//! kernel stack or around a system call, leaves its registers in a [`Stop`] and sleeps; the tracer reads and changes that
//! copy, which becomes the truth again when the task goes on. What lives in the CPU only (floating-point state) the
//! tracee fetches itself: the tracer hands it a [`Job`].
//!
//! ```text
//!            signal, event, system call, group stop
//!  runs ────────────────────────────────────────────▶ Stop{code, regs} ─▶ SIGCHLD and a wake-up for the tracer
//!   ▲                                                   │ wait4(2) takes `code` and leaves 0
//!   └── PTRACE_CONT and the like: `code` = signal, ◀────┘
//!       detach, death of the tracer, SIGKILL
//! ```
//!
//! # Locking
//!
//! Ties are made and cut under the family lock. `Tracee::state` is a leaf below `ThreadGroup::sig`, which also guards the
//! flags `TRACED` to `LISTENING`; both are held when a stop begins, so a kill is either seen by it or ends it.
//!
//! Sources: ptrace(2) with its chapters on attaching, stops and execve(2) under ptrace; order of events as on Linux 7.2.

pub mod dispatch;
mod stop;
mod work;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use abi::signal::{SIGKILL, SIGSTOP, SigInfo};
use abi::{Errno, Result};
use bitflags::bitflags;
use hal::sync::{IrqLock, SpinLock};
use hal::trap::UserRegs;
use sched::{Interruptible, WaitQueue};
use security::{Cap, Cred, ObserveIdentity};

use crate::family::{TreeGuard, lock_tree};
use crate::roster::Place;
use crate::signal::Target;
use crate::task::{self, CurrentTask, Notify, TaskFlags};
use crate::{Task, prctl, signal};

pub use stop::seccomp_stop;
pub(crate) use stop::{
    clone_event, exec_event, exit_event, fork_event, handler_entered, jobctl_trap, leave_step, signal_stop,
    tid_for_tracer, vfork_done_event,
};
pub use work::{Enter, SyscallWork, enter_syscall, leave_syscall, seccomp_suspended};

bitflags! {
    /// `PTRACE_O_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Options: u32 {
        /// Syscall-stops have bit 7 set.
        const TRACESYSGOOD = 1;
        /// fork(2) is an event, and the child is traced.
        const FORK = 1 << 1;
        /// vfork(2) likewise.
        const VFORK = 1 << 2;
        /// clone(2) likewise.
        const CLONE = 1 << 3;
        /// execve(2) is an event.
        const EXEC = 1 << 4;
        /// The end of a vfork is an event.
        const VFORKDONE = 1 << 5;
        /// The end of a thread is an event.
        const EXIT = 1 << 6;
        /// `SECCOMP_RET_TRACE` is an event.
        const SECCOMP = 1 << 7;
        /// The tracee dies with its tracer.
        const EXITKILL = 1 << 20;
        /// seccomp does not look while the tie lasts.
        const SUSPEND_SECCOMP = 1 << 21;
    }
}

/// `PTRACE_EVENT_*`.
pub mod event {
    /// fork(2).
    pub const FORK: i32 = 1;
    /// vfork(2).
    pub const VFORK: i32 = 2;
    /// clone(2).
    pub const CLONE: i32 = 3;
    /// execve(2).
    pub const EXEC: i32 = 4;
    /// The child of a vfork has given the memory back.
    pub const VFORK_DONE: i32 = 5;
    /// The thread is about to end.
    pub const EXIT: i32 = 6;
    /// A filter returned `SECCOMP_RET_TRACE`.
    pub const SECCOMP: i32 = 7;
    /// A group stop, or what `PTRACE_INTERRUPT` asked for.
    pub const STOP: i32 = 128;
}

/// How a tracer took hold of its tracee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// `PTRACE_TRACEME`, `PTRACE_ATTACH`.
    Attached,
    /// `PTRACE_SEIZE`.
    Seized,
}

/// What a stopped tracee shall do in its own context.
pub type Job = Box<dyn FnOnce() + Send>;

/// Segments of data, which programs change and debuggers look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bases {
    /// The selectors of DS, ES, FS, GS.
    pub selectors: [u16; 4],
    /// FS base.
    pub fs: u64,
    /// GS base.
    pub gs: u64,
}

impl Bases {
    /// Those of the caller.
    pub(crate) fn current(thread: &hal::thread::Current) -> Self {
        Self { selectors: thread.selectors(), fs: thread.fs_base(), gs: thread.gs_base() }
    }
}

/// Debug registers as a tracer sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DebugRegs {
    /// DR0 to DR3.
    pub addr: [u64; 4],
    /// DR6, with 0 for nothing to report.
    pub status: u64,
    /// DR7.
    pub control: u64,
}

/// A stop of a tracee.
pub struct Stop {
    /// Its registers; the trap flag as the program itself has it.
    pub regs: UserRegs,
    /// Its segment bases.
    pub bases: Bases,
    /// What wait4(2) reports in the upper bits of the status, 0 once it has; then the signal to go on with.
    pub code: i32,
    /// `PTRACE_GETEVENTMSG`.
    pub message: u64,
    /// `PTRACE_GETSIGINFO`; `None` in a group stop.
    pub info: Option<SigInfo>,
    is_resumed: bool,
    job: Option<Job>,
}

/// What changes about a tracee.
#[derive(Default)]
struct State {
    stop: Option<Stop>,
    /// Go on by one instruction.
    steps: bool,
    /// The trap flag in the registers is the tracer's, not the program's.
    owns_trap_flag: bool,
}

/// The tie between a traced task and its tracer.
pub struct Tracee {
    tracer: Arc<Task>,
    tracer_cred: Arc<Cred>,
    hold: Hold,
    options: AtomicU32,
    state: IrqLock<State>,
    /// The tracee sleeps here while it is stopped.
    wake: WaitQueue,
    /// The tracer sleeps here until the tracee is stopped, has done a job, or is gone.
    changed: WaitQueue,
}

impl Tracee {
    /// The thread that traces.
    pub fn tracer(&self) -> &Arc<Task> {
        &self.tracer
    }

    /// How it took hold.
    pub fn hold(&self) -> Hold {
        self.hold
    }

    /// `PTRACE_O_*`.
    pub fn options(&self) -> Options {
        Options::from_bits_truncate(self.options.load(Relaxed))
    }

    /// Whether the tracer was allowed to trace privileged programs when it took hold.
    pub(crate) fn is_privileged(&self, tracee: &Task) -> bool {
        self.tracer_cred.ns_capable(&tracee.cred().user_ns, Cap::SYS_PTRACE)
    }
}

/// How a stopped tracee goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// `PTRACE_CONT`.
    Run,
    /// `PTRACE_SYSCALL`: to the next system call.
    ToSyscall,
    /// `PTRACE_SINGLESTEP`: by one instruction.
    Step,
    /// `PTRACE_SYSEMU`: to the next system call, which is not made.
    Emulate,
    /// `PTRACE_SYSEMU_SINGLESTEP`: both.
    EmulateStep,
}

impl Task {
    /// Its tie to the thread that traces it.
    pub fn tracee(&self) -> Option<Arc<Tracee>> {
        if self.has(TaskFlags::TRACED) { self.tracee.load() } else { None }
    }

    /// Its debug registers.
    pub fn debug_regs(&self) -> DebugRegs {
        *self.debug.lock()
    }

    /// Notes its debug registers; the caller has given the breakpoints to the machine.
    pub fn set_debug_regs(&self, regs: DebugRegs) {
        *self.debug.lock() = regs;
    }

    /// Thread id of who traces it; 0 for nobody.
    pub fn tracer_tid(&self) -> u32 {
        self.tracee().map_or(0, |tie| tie.tracer.tid())
    }
}

/// Whether the caller may trace `task`. `EPERM`.
fn may_attach(task: &Task) -> Result<()> {
    let me = task::current();
    let is_own = Arc::ptr_eq(task.group(), me.group());
    if is_own || !prctl::may_observe(task, ObserveIdentity::Real) { Err(Errno::EPERM) } else { Ok(()) }
}

/// `PTRACE_TRACEME`: the caller's parent traces it. `EPERM`: it is traced already, or the parent has fewer rights.
pub fn trace_me() -> Result<()> {
    let me = task::current();
    let group = me.group();
    let parent = group.parent().ok_or(Errno::EPERM)?;
    let tracer = parent.threads().into_iter().find(|task| task.tid() == group.parent_tid.load(Relaxed));
    let tracer = tracer.filter(|task| !task.has(TaskFlags::EXITING)).or_else(|| parent.live_task());
    let tracer = tracer.ok_or(Errno::EPERM)?;
    let theirs = tracer.cred();
    let mine = me.cred();
    let is_peer = mine.user_ns == theirs.user_ns && mine.permitted.is_subset(theirs.permitted);
    if !is_peer && !theirs.ns_capable(&mine.user_ns, Cap::SYS_PTRACE) {
        return Err(Errno::EPERM);
    }
    let new = NewTie::prepare(&tracer, mine, Hold::Attached, Options::empty())?;
    let tree = lock_tree();
    if me.has(TaskFlags::TRACED) {
        return Err(Errno::EPERM);
    }
    if !tracer.has(TaskFlags::EXITING) {
        link(new, me.arc(), &tree);
    }
    Ok(())
}

/// `PTRACE_ATTACH` and `PTRACE_SEIZE`: the caller traces `task`.
///
/// `EPERM`: it may not, or somebody does, or the task has ended. `ERESTARTNOINTR`: a kill came first.
pub fn attach(task: &Arc<Task>, hold: Hold, options: Options) -> Result<()> {
    if task.has(TaskFlags::KERNEL) {
        return Err(Errno::EPERM);
    }
    may_attach(task)?;
    let me = task::current();
    let new = NewTie::prepare(me.arc(), me.cred(), hold, options)?;
    let must_wait = {
        let tree = lock_tree();
        if task.flags().intersects(TaskFlags::EXITING | TaskFlags::DEAD | TaskFlags::TRACED) {
            return Err(Errno::EPERM);
        }
        link(new, task, &tree);
        let _sig = task.group().sig.lock();
        let was_stopped = task.has(TaskFlags::STOPPED);
        if was_stopped {
            // From the group stop it goes straight into a traced stop; nobody shall see it run between.
            task.clear_flags(TaskFlags::STOPPED);
            task.set_flags(TaskFlags::TRAP_STOP);
            task.notify(Notify::Signal);
            task.group().stop_wait.wake_all();
        }
        was_stopped
    };
    if hold == Hold::Attached {
        signal::send_kernel(Target::Thread(task), SigInfo::kernel(SIGSTOP));
    }
    if must_wait && let Some(tie) = task.tracee() {
        let has_stopped = || {
            let is_there = tie.state.lock().stop.is_some();
            (is_there || !task.has(TaskFlags::TRAP_STOP) || task.has(TaskFlags::EXITING)).then_some(())
        };
        tie.changed
            .wait_deadline(has_stopped, None, Interruptible::Killable)
            .map_err(|_| Errno::ERESTARTNOINTR)?;
    }
    Ok(())
}

/// A tie that is about to be made, with the memory that this takes.
pub(crate) struct NewTie {
    tie: Arc<Tracee>,
    /// In the tracer's list.
    place: Place<Task>,
    /// The tie of the maker of a new task.
    maker: Option<Arc<Tracee>>,
}

impl NewTie {
    /// Gets the memory for a tie to `tracer`; call it without locks. `ENOMEM`.
    fn prepare(tracer: &Arc<Task>, tracer_cred: Arc<Cred>, hold: Hold, options: Options) -> Result<Self> {
        let tie = hal::in_place::arc(Tracee {
            tracer: tracer.clone(),
            tracer_cred,
            hold,
            options: AtomicU32::new(options.bits()),
            state: IrqLock::new("process.tracee", State::default()),
            wake: WaitQueue::new(),
            changed: WaitQueue::new(),
        });
        Ok(Self { tie, place: Place::new(), maker: None })
    }

    /// Gets the memory for the tie of a child that `me` is about to make; `None` if nobody traces `me`.
    pub(crate) fn for_child(me: &CurrentTask) -> Result<Option<Self>> {
        let Some(maker) = me.tracee() else { return Ok(None) };
        let new = Self::prepare(&maker.tracer, maker.tracer_cred.clone(), maker.hold, maker.options())?;
        Ok(Some(Self { maker: Some(maker), ..new }))
    }
}

/// Ties `task` to a tracer.
fn link(new: NewTie, task: &Arc<Task>, _tree: &TreeGuard) {
    let NewTie { tie, place, .. } = new;
    let (tracer, hold) = (tie.tracer.clone(), tie.hold);
    tracer.tracees.lock().add(place, task.clone());
    tracer.group().nr_tracees.fetch_add(1, Relaxed);
    if task.is_leader() {
        task.group().leader_tracer.store(tracer.pid(), Relaxed);
    }
    let _sig = task.group().sig.lock();
    drop(task.tracee.swap(Some(tie)));
    task.set_flags(match hold {
        Hold::Attached => TaskFlags::TRACED,
        Hold::Seized => TaskFlags::TRACED | TaskFlags::SEIZED,
    });
}

/// Cuts the tie of `task`; it goes on by itself, or joins the stop of its process. The result must be dropped without
/// locks.
pub(crate) fn unlink(task: &Arc<Task>, _tree: &TreeGuard) -> Option<Arc<Tracee>> {
    let tie = {
        let state = task.group().sig.lock();
        let tie = task.tracee.swap(None)?;
        let all = TaskFlags::TRACED
            | TaskFlags::SEIZED
            | TaskFlags::TRAP_STOP
            | TaskFlags::TRAP_NOTIFY
            | TaskFlags::LISTENING
            | TaskFlags::TRACE_STOPPED;
        task.clear_flags(all);
        if !task.has(TaskFlags::EXITING) && (state.is_stopped || state.stop_count > 0) {
            task.set_flags(TaskFlags::STOP_PENDING);
            if task.stop_signal.load(Relaxed) == 0 {
                task.stop_signal.store(SIGSTOP, Relaxed);
            }
        }
        let mut inner = tie.state.lock();
        inner.steps = false;
        if let Some(stop) = &mut inner.stop {
            stop.is_resumed = true;
        }
        drop(inner);
        tie
    };
    task.stop_syscall_work(SyscallWork::TRACE | SyscallWork::EMULATE | SyscallWork::STEP);
    // The caller has a reference to the task, too.
    drop(tie.tracer.tracees.lock().remove(task));
    tie.tracer.group().nr_tracees.fetch_sub(1, Relaxed);
    if task.is_leader() {
        task.group().leader_tracer.store(0, Relaxed);
    }
    tie.wake.wake_all();
    tie.changed.wake_all();
    task.notify(Notify::Signal);
    Some(tie)
}

/// Ties the new `child` to the tracer of its maker, if `CLONE_PTRACE` or an option asks for it. It will stop before its
/// first instruction.
///
/// A tracer that came after the `offer` was prepared did not ask.
pub(crate) fn inherit(me: &CurrentTask, offer: &mut Option<NewTie>, child: &Arc<Task>, tree: &TreeGuard) {
    let Some(tie) = me.tracee() else { return };
    let is_same = |new: &mut NewTie| new.maker.as_ref().is_some_and(|maker| Arc::ptr_eq(maker, &tie));
    // What is not taken is dropped by the caller, without locks.
    let Some(new) = offer.take_if(is_same) else { return };
    new.tie.options.store(tie.options().bits(), Relaxed);
    link(new, child, tree);
    if tie.hold == Hold::Seized {
        child.set_flags(TaskFlags::TRAP_STOP);
    } else {
        let mut pending = child.pending.lock();
        pending.raise(SIGSTOP);
        child.pending_set.store(pending.set().0, core::sync::atomic::Ordering::SeqCst);
    }
    child.notify(Notify::Signal);
}

/// The new leader of a process keeps its own tracer (execve(2) by another thread).
pub(crate) fn leader_changed(task: &Task) {
    let tracer = task.tracee().map_or(0, |tie| tie.tracer.pid());
    task.group().leader_tracer.store(tracer, Relaxed);
}

/// A tracee of the ending thread `tracer`, for its tie to be cut; it is killed if `PTRACE_O_EXITKILL` is on.
pub(crate) fn tracee_at_exit(tracer: &Task) -> Option<Arc<Task>> {
    let task = tracer.tracees.lock().last().cloned()?;
    if task.tracee().is_some_and(|tie| tie.options().contains(Options::EXITKILL)) {
        signal::send_kernel(Target::Group(task.group()), SigInfo::kernel(SIGKILL));
    }
    Some(task)
}

/// `PTRACE_DETACH`: cuts the tie of the stopped tracee `task`, which goes on with signal `sig`, if any.
pub fn detach(task: &Arc<Task>, sig: i32) -> Result<()> {
    with_stop(task, |stop| {
        stop.code = sig;
        Ok(())
    })?;
    let tie = unlink(task, &lock_tree());
    drop(tie);
    Ok(())
}

/// Calls `f` with the present stop of `task`, a tracee of the caller.
///
/// `ESRCH`: it is no tracee of the caller, or is not stopped.
pub fn with_stop<R>(task: &Arc<Task>, f: impl FnOnce(&mut Stop) -> Result<R>) -> Result<R> {
    let tie = tie_of_caller(task)?;
    if task.has(TaskFlags::LISTENING) {
        return Err(Errno::ESRCH);
    }
    let mut state = tie.state.lock();
    let is_killed = task.has(TaskFlags::KILLED) && !task.has(TaskFlags::EXITING);
    let stop = state.stop.as_mut().filter(|stop| !stop.is_resumed && !is_killed);
    f(stop.ok_or(Errno::ESRCH)?)
}

/// The registers of `task` if it is in a traced stop, for /proc.
pub fn stopped_regs(task: &Task) -> Option<UserRegs> {
    let tie = task.tracee()?;
    let state = tie.state.lock();
    state.stop.as_ref().map(|stop| stop.regs)
}

/// The tie of `task` to the caller. `ESRCH`: the caller does not trace it.
pub fn tie_of_caller(task: &Task) -> Result<Arc<Tracee>> {
    let tie = task.tracee().ok_or(Errno::ESRCH)?;
    if Arc::ptr_eq(&tie.tracer, task::current().arc()) { Ok(tie) } else { Err(Errno::ESRCH) }
}

/// Has `work` done by the stopped tracee `task` and gives its result. `ESRCH`: it is not stopped, or was killed.
pub fn run_in<T: Send + 'static>(
    task: &Arc<Task>,
    work: impl FnOnce(&CurrentTask) -> T + Send + 'static,
) -> Result<T> {
    let tie = tie_of_caller(task)?;
    let answer = Arc::new(SpinLock::new("process.trace_job", None));
    let place = answer.clone();
    let job: Job = Box::new(move || {
        let result = work(&task::current());
        *place.lock() = Some(result);
    });
    with_stop(task, |stop| {
        stop.job = Some(job);
        Ok(())
    })?;
    tie.wake.wake_all();
    let look = || {
        if let Some(result) = answer.lock().take() {
            return Some(Ok(result));
        }
        let is_gone = tie.state.lock().stop.is_none();
        is_gone.then_some(Err(Errno::ESRCH))
    };
    tie.changed.wait_deadline(look, None, Interruptible::Killable).map_err(|_| Errno::EINTR)?
}

/// Lets the stopped tracee `task` go on with signal `sig`, 0 for none.
pub fn resume(task: &Arc<Task>, how: Resume, sig: i32) -> Result<()> {
    let tie = tie_of_caller(task)?;
    let (traces, emulates, steps) = match how {
        Resume::Run => (false, false, false),
        Resume::ToSyscall => (true, false, false),
        Resume::Step => (false, false, true),
        Resume::Emulate => (false, true, false),
        Resume::EmulateStep => (false, true, true),
    };
    with_stop(task, |_| Ok(()))?;
    let mut wanted = SyscallWork::empty();
    wanted.set(SyscallWork::TRACE, traces);
    wanted.set(SyscallWork::EMULATE, emulates);
    wanted.set(SyscallWork::STEP, steps);
    task.stop_syscall_work((SyscallWork::TRACE | SyscallWork::EMULATE | SyscallWork::STEP) - wanted);
    task.start_syscall_work(wanted);
    {
        let _sig = task.group().sig.lock();
        let mut state = tie.state.lock();
        let Some(stop) = state.stop.as_mut().filter(|stop| !stop.is_resumed) else {
            return Err(Errno::ESRCH);
        };
        stop.code = sig;
        stop.is_resumed = true;
        state.steps = steps;
        task.clear_flags(TaskFlags::TRACE_STOPPED);
    }
    tie.wake.wake_all();
    Ok(())
}

/// `PTRACE_SETOPTIONS`.
pub fn set_options(task: &Arc<Task>, options: Options) -> Result<()> {
    let tie = tie_of_caller(task)?;
    tie.options.store(options.bits(), Relaxed);
    Ok(())
}

/// `PTRACE_INTERRUPT`: a seized tracee stops, whatever it does. `EIO`: it is not seized.
pub fn interrupt(task: &Arc<Task>) -> Result<()> {
    let tie = tie_of_caller(task)?;
    if tie.hold != Hold::Seized {
        return Err(Errno::EIO);
    }
    let _sig = task.group().sig.lock();
    if !task.flags().intersects(TaskFlags::EXITING | TaskFlags::DEAD | TaskFlags::KILLED) {
        task.set_flags(TaskFlags::TRAP_STOP);
        end_listening(task, &tie);
        task.notify(Notify::Signal);
    }
    Ok(())
}

/// `PTRACE_LISTEN`: a seized tracee in a group stop stays stopped, but reports what ends the stop.
///
/// `EIO`: it is not seized or in another kind of stop.
pub fn listen(task: &Arc<Task>) -> Result<()> {
    let tie = tie_of_caller(task)?;
    with_stop(task, |stop| {
        let is_group = stop.info.is_some_and(|info| info.code >> 8 == event::STOP);
        if is_group && tie.hold == Hold::Seized { Ok(()) } else { Err(Errno::EIO) }
    })?;
    let _sig = task.group().sig.lock();
    task.set_flags(TaskFlags::LISTENING);
    if task.has(TaskFlags::TRAP_NOTIFY) {
        end_listening(task, &tie);
        task.notify(Notify::Signal);
    }
    Ok(())
}

/// A listening tracee has something to report: it leaves its stop and enters the next one. `sig` is held.
fn end_listening(task: &Task, tie: &Tracee) {
    if !task.has(TaskFlags::LISTENING) {
        return;
    }
    if let Some(stop) = &mut tie.state.lock().stop {
        stop.is_resumed = true;
    }
    tie.wake.wake_all();
}

/// Tells a seized tracee that the stop of its process began or ended. `sig` is held.
pub(crate) fn trap_notify(task: &Task) {
    let Some(tie) = task.tracee() else { return };
    task.set_flags(TaskFlags::TRAP_NOTIFY);
    end_listening(task, &tie);
    task.notify(Notify::Signal);
}

/// The stop of `task` that wait4(2) has not seen: its code. Forgets it when `take`.
pub(crate) fn unreported_stop(task: &Task, take: bool) -> Option<i32> {
    let tie = task.tracee()?;
    if task.has(TaskFlags::LISTENING) {
        return None;
    }
    let mut state = tie.state.lock();
    let is_killed = task.has(TaskFlags::KILLED) && !task.has(TaskFlags::EXITING);
    let stop = state.stop.as_mut().filter(|stop| !stop.is_resumed && stop.code != 0 && !is_killed)?;
    Some(if take { core::mem::take(&mut stop.code) } else { stop.code })
}
