//! The end of threads and processes.
//!
//! A thread ends at the base of its kernel stack ([`exit_thread`], called on the way to user mode), so nothing on the
//! stack is left undropped. The order is Linux's: memory, IPC, files, terminal, then the family is told.
//!
//! ```text
//! Alive ──last thread ends──▶ Zombie ──parent waits──▶ Dead
//!   └─────────last thread ends, parent ignores SIGCHLD──▶┘
//! ```
//!
//! Sources: exit_group(2), wait(2) "Notes", sigaction(2) `SA_NOCLDWAIT`, POSIX "Consequences of Process Termination".

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use abi::signal::{CLD_DUMPED, CLD_EXITED, CLD_KILLED, SIG_IGN, SIGCHLD, SaFlags, SigInfo, SigSet};
use hal::thread::Work;
use hal::trap::UserRegs;
use hal::{UserAddr, user};
use limits::UserResource;

use crate::family::{ExitState, TreeGuard, disown, lock_tree, pass_on_children};
use crate::signal::{self, CORE_DUMPED, Target};
use crate::task::{self, CurrentTask, TaskFlags};
use crate::{Task, ThreadGroup, acct, coredump, hooks, membership, nsproxy, pgrp, pid, pidns, timer, trace};

/// Threads that exist, the dead leaders that were not waited for included.
static NR_THREADS: AtomicU32 = AtomicU32::new(0);

/// How many threads exist.
pub fn nr_threads() -> u32 {
    NR_THREADS.load(Relaxed)
}

/// Counts a new thread.
#[inline]
pub(crate) fn count_thread() {
    NR_THREADS.fetch_add(1, Relaxed);
}

/// The wait status of exit(`code`).
fn exit_status(code: i32) -> i32 {
    (code & 0xff) << 8
}

/// exit(2): the calling thread ends when the system call returns.
pub fn request_exit(code: i32) {
    request(exit_status(code));
}

/// The calling thread ends as if by signal `sig`, without its process; on the way to user mode.
pub fn request_thread_end(sig: i32) {
    request(sig);
}

/// exit_group(2): all threads of the caller end.
pub fn request_group_exit(code: i32) {
    let status = begin_group_exit(&task::current(), exit_status(code));
    request(status);
}

/// Makes the way to user mode end the thread.
fn request(status: i32) {
    let task = task::current();
    task.exit_code.store(status, Relaxed);
    task.set_flags(TaskFlags::EXIT_REQUESTED);
    task.hal().set_work(Work::SIGNAL);
}

/// All threads of the caller end as if by signal `sig`; on the way to user mode.
pub(crate) fn request_group_end(sig: u32) {
    let status = begin_group_exit(&task::current(), sig as i32);
    request(status);
}

/// Makes all other threads of `task`, the caller, end. Gives the status with which the process ends: that of whoever
/// began it first.
pub(crate) fn begin_group_exit(task: &CurrentTask, status: i32) -> i32 {
    let mut state = task.group().sig.lock();
    if let Some(earlier) = state.exit {
        return earlier;
    }
    state.exit = Some(status);
    signal::kill_all_threads(&mut state, Some(&**task));
    status
}

/// Ends the calling thread with wait status `status`.
///
/// Call it at the base of the kernel stack only: nothing above is dropped.
pub(crate) fn exit_thread(status: i32, regs: &mut UserRegs) -> ! {
    let task = task::current();
    if task.has(TaskFlags::TRACED) {
        trace::exit_event(&task, regs, status);
    }
    end_current(status, Some(regs));
    sched::exit_thread()
}

/// The end of a thread whose kernel code panicked: what it shared is given up as at any other end.
///
/// `hal::trap::Upcalls::thread_exit` ends here, for threads of the kernel too.
pub fn thread_exit() -> ! {
    if let Some(task) = task::try_current()
        && !task.has(TaskFlags::EXITING)
    {
        let status = begin_group_exit(&task, abi::signal::SIGKILL as i32);
        end_current(status, None);
    }
    sched::exit_thread()
}

/// Everything but the last switch.
fn end_current(status: i32, regs: Option<&UserRegs>) {
    let task = task::current();
    hooks::leave_work(&task);
    leave_signals(&task, regs);
    membership::leave_frozen_always(&task);
    task.exit_code.store(status, Relaxed);
    let is_last = task.group().nr_live.fetch_sub(1, AcqRel) == 1;
    if is_last {
        // Without exit_group(2) the process ends with what its last thread said (Linux since 5.19).
        let status = *task.group().sig.lock().exit.get_or_insert(status);
        if task.group().is_init() {
            hal::power::stop(&alloc::format!("Attempted to kill init! exitcode={status:#010x}"));
        }
        timer::cancel_all(task.group());
    }
    let account = if is_last { acct::look(&task) } else { None };
    release_mm(&task);
    if let Some(ending) = account {
        acct::note(&task, &ending);
    }
    hooks::task_exit(&task);
    task.replace_files(None);
    drop(task.replace_fs(None));
    nsproxy::leave(&task);
    if is_last {
        pgrp::session_leader_exit(&task);
        if task.group().is_ns_init() {
            pidns::zap(&task);
        }
    }
    let filters = task.seccomp.swap(None);
    drop(filters);
    if let Some(watcher) = task.watcher() {
        watcher.exits(&task);
    }
    finish(task.arc());
}

/// Takes no signals from now on, and passes on what others could take. Tells `regs` to a core dump that waits for them.
fn leave_signals(task: &CurrentTask, regs: Option<&UserRegs>) {
    let (is_stopped_now, core) = {
        let mut state = task.group().sig.lock();
        task.set_flags(TaskFlags::EXITING);
        let ends_stop = task.has(TaskFlags::STOP_PENDING) && signal::take_part_in_stop(task, &mut state);
        (ends_stop, state.core.clone())
    };
    signal::retarget(task, SigSet(u64::MAX));
    if is_stopped_now {
        signal::notify_parent_stopped(task.group(), abi::signal::CLD_STOPPED);
    }
    if let Some(core) = core {
        coredump::take_part(task, &core, regs);
    }
}

/// Leaves the address space: the end of a thread, or its move to a new program.
///
/// Tells user space what it asked to be told (robust futexes, `clear_child_tid`) and lets a vfork parent go on.
pub(crate) fn leave_mm(task: &CurrentTask) {
    let robust = task.registered.robust_list.swap(0, Relaxed);
    if robust != 0
        && let Some(futex) = hooks::futex()
    {
        futex.exit_robust_list(task, UserAddr(robust));
    }
    if let Some(futex) = hooks::futex() {
        futex.exit_pi(task);
    }
    let clear = task.registered.clear_child_tid.swap(0, Relaxed);
    // Only other threads or a vfork parent could look at it.
    if clear != 0 && task.mm().is_some_and(|mm| Arc::strong_count(&mm) > 2) {
        let addr = UserAddr(clear);
        // A bad address was the program's choice; nobody is left to tell.
        if user::write(addr, &0_u32).is_ok()
            && let Some(futex) = hooks::futex()
        {
            futex.wake(addr);
        }
    }
    crate::rseq::forget(task);
    if let Some(done) = task.vfork_done.lock().take() {
        done.complete();
    }
}

/// Gives up the address space at the end of a thread.
#[inline]
fn release_mm(task: &CurrentTask) {
    leave_mm(task);
    let Some(mm) = task.replace_mm(None) else { return };
    if task.group().nr_threads() == 0 {
        let peak = mm.hiwater_rss();
        let mut usage = task.group().usage.lock();
        usage.dead.max_rss = usage.dead.max_rss.max(peak);
        drop(usage);
        // Whoever waits for the process may write to its program next.
        let exe = task.group().exe.lock().take();
        drop(exe);
    }
    task.hal().set_page_table(None);
    drop(mm);
}

/// Marks the thread as dead, and the process when it was the last one.
///
/// A thread that is traced stays, like a leader, until its tracer has waited for it; so does the process.
fn finish(task: &Arc<Task>) {
    let group = task.group().clone();
    group.note_dead(task);
    let mut garbage = Garbage::default();
    let tree = lock_tree();
    let is_final = {
        let state = group.sig.lock();
        task.set_flags(TaskFlags::DEAD);
        membership::leave(task);
        state.threads.iter().all(|other| other.has(TaskFlags::DEAD))
    };
    drop(task.thread.swap(None));
    while let Some(tracee) = trace::tracee_at_exit(task) {
        lose_tracer(&tracee, &tree, &mut garbage);
    }
    if is_final {
        give_up_children(&group, &tree, &mut garbage);
    }
    if !task.is_leader() && (!task.has(TaskFlags::TRACED) || tell_tracer(task) == Reap::Now) {
        release_thread(task, &tree, &mut garbage);
    }
    if is_final {
        end_group_if_alone(&group, &tree, &mut garbage);
    }
    drop(tree);
    group.exit_wait.wake_all();
    drop(garbage);
}

/// The tracer of `task` ends: the task goes on without, or is passed to its parent when it has ended.
fn lose_tracer(task: &Arc<Task>, tree: &TreeGuard, garbage: &mut Garbage) {
    garbage.2.extend(trace::unlink(task, tree));
    garbage.1.push(task.clone());
    if !task.has(TaskFlags::DEAD) {
        return;
    }
    let group = task.group();
    if !task.is_leader() {
        release_thread(task, tree, garbage);
        end_group_if_alone(group, tree, garbage);
    } else if group.exit_state() == ExitState::Zombie {
        pass_to_parent(group, tree, garbage);
    }
}

/// The tracer has waited for the zombie leader of `group`: now the parent can. The result must be dropped without locks.
#[must_use]
pub(crate) fn reap_for_tracer(group: &Arc<ThreadGroup>, leader: &Arc<Task>, tree: &TreeGuard) -> Garbage {
    let mut garbage = Garbage::default();
    garbage.2.extend(trace::unlink(leader, tree));
    pass_to_parent(group, tree, &mut garbage);
    garbage
}

/// The tracer has waited for the dead thread `task`. The result must be dropped without locks.
#[must_use]
pub(crate) fn reap_thread(task: &Arc<Task>, tree: &TreeGuard) -> Garbage {
    let mut garbage = Garbage::default();
    release_thread(task, tree, &mut garbage);
    end_group_if_alone(task.group(), tree, &mut garbage);
    garbage
}

/// Takes a dead thread that is no leader out of its process and the tables.
fn release_thread(task: &Arc<Task>, tree: &TreeGuard, garbage: &mut Garbage) {
    garbage.2.extend(trace::unlink(task, tree));
    task.group().sig.lock().threads.retain(|other| !Arc::ptr_eq(other, task));
    release_task(task, garbage);
}

/// The process becomes a zombie once its leader is dead and alone.
fn end_group_if_alone(group: &Arc<ThreadGroup>, tree: &TreeGuard, garbage: &mut Garbage) {
    let is_alone = {
        let state = group.sig.lock();
        state.threads.len() == 1 && state.threads.iter().all(|task| task.has(TaskFlags::DEAD))
    };
    if is_alone && group.exit_state() == ExitState::Alive {
        end_group(group, tree, garbage);
    }
}

/// References that must be dropped without locks.
#[derive(Default)]
pub(crate) struct Garbage(Vec<Arc<ThreadGroup>>, Vec<Arc<Task>>, Vec<Arc<trace::Tracee>>);

/// Takes a dead task out of the tables.
pub(crate) fn release_task(task: &Arc<Task>, garbage: &mut Garbage) {
    pid::set_task(task.tid(), None);
    drop(task.release_tid());
    membership::release(task);
    if let Some(user) = task.user() {
        user.uncharge(UserResource::Processes, 1);
    }
    NR_THREADS.fetch_sub(1, Relaxed);
    garbage.1.push(task.clone());
}

/// A leader whose place another thread has taken is gone without a trace.
#[inline]
pub(crate) fn forget_leader(leader: &Task) {
    membership::release(leader);
    if let Some(user) = leader.user() {
        user.uncharge(UserResource::Processes, 1);
    }
    NR_THREADS.fetch_sub(1, Relaxed);
}

/// The process has no threads left: its children get a new parent.
fn give_up_children(group: &Arc<ThreadGroup>, tree: &TreeGuard, garbage: &mut Garbage) {
    pass_on_children(group, tree, |reaper, child| {
        send_parent_death(child);
        // The reaper did not choose another one, and may be the first process.
        child.exit_signal.store(SIGCHLD, Relaxed);
        let is_parents = child.leader_tracer.load(Relaxed) == 0;
        let is_zombie = child.exit_state() == ExitState::Zombie;
        if is_zombie && is_parents && notify_parent(child, reaper) == Reap::Now {
            garbage.merge(reap(child, tree));
            garbage.0.push(child.clone());
        }
        pgrp::signal_if_orphaned(child, group, None, tree);
    });
}

/// The process is a zombie: its parent is told, or first the tracer of its leader.
fn end_group(group: &Arc<ThreadGroup>, tree: &TreeGuard, garbage: &mut Garbage) {
    let Some(parent) = group.parent() else { return };
    pgrp::signal_if_orphaned(group, &parent, Some(group), tree);
    group.set_exit_state(ExitState::Zombie, tree);
    let tracer = group.leader_tracer.load(Relaxed);
    if tracer != 0 && tracer != parent.pid() {
        if let Some(leader) = group.leader()
            && tell_tracer(&leader) == Reap::Now
        {
            garbage.2.extend(trace::unlink(&leader, tree));
            pass_to_parent(group, tree, garbage);
        }
    } else {
        pass_to_parent(group, tree, garbage);
    }
    garbage.0.push(parent);
}

/// Tells the parent of the zombie `group`, which may not want to know.
fn pass_to_parent(group: &Arc<ThreadGroup>, tree: &TreeGuard, garbage: &mut Garbage) {
    let Some(parent) = group.parent() else { return };
    if notify_parent(group, &parent) == Reap::Now {
        parent.note_reaped(group);
        garbage.merge(reap(group, tree));
    }
    garbage.0.push(parent);
}

/// Tells the tracer of the end of `task`.
fn tell_tracer(task: &Arc<Task>) -> Reap {
    let Some(tie) = task.tracee() else { return Reap::Now };
    let tracer = tie.tracer().group();
    let action = tracer.with_hand(|hand| hand.get(SIGCHLD));
    let is_ignored = action.handler == SIG_IGN;
    if !is_ignored {
        let mut info = end_info(task.group(), tracer);
        if !task.is_leader() {
            let uid = signal::uid_seen_by(tracer, task.with_cred(|cred| cred.uid));
            let tid = pid::number_in(task.tid(), tracer.pid_ns());
            info = SigInfo::child(info.code, tid as i32, uid, info.fields[1] as i32, 0, 0);
        }
        signal::send_kernel(Target::Group(tracer), info);
    }
    tracer.child_wait.wake_all();
    let keeps = !is_ignored && action.flags & SaFlags::NOCLDWAIT.bits() == 0;
    if keeps { Reap::Later } else { Reap::Now }
}

impl Garbage {
    fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
        self.1.extend(other.1);
        self.2.extend(other.2);
    }
}

/// Sends the signals that `child`'s threads want when their parent dies (`PR_SET_PDEATHSIG`).
fn send_parent_death(child: &Arc<ThreadGroup>) {
    for task in child.threads() {
        let sig = task.pdeath_signal.load(Relaxed);
        if sig != 0 {
            signal::send_kernel(Target::Group(child), SigInfo::new(sig, abi::signal::SI_USER));
        }
    }
}

/// What is to be done with a zombie.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reap {
    /// The parent ignores its children's ends.
    Now,
    /// It waits for the parent.
    Later,
}

/// Tells `parent` of the end of `group`.
fn notify_parent(group: &Arc<ThreadGroup>, parent: &Arc<ThreadGroup>) -> Reap {
    let is_same_program = group.parent_exec_id.load(Relaxed) == parent.exec_id.load(Relaxed);
    let exit_signal = if is_same_program { group.exit_signal.load(Relaxed) } else { SIGCHLD };
    let action = parent.with_hand(|hand| hand.get(SIGCHLD));
    let mut reap = Reap::Later;
    let mut wants_signal = exit_signal != 0;
    if parent.reaps_all.load(Relaxed) {
        reap = Reap::Now;
    }
    if group.reaps_itself.load(Relaxed) {
        parent.child_wait.wake_all();
        return Reap::Now;
    }
    if exit_signal == SIGCHLD {
        let ignores = action.handler == SIG_IGN;
        if ignores || action.flags & SaFlags::NOCLDWAIT.bits() != 0 {
            reap = Reap::Now;
            wants_signal = !ignores;
        }
    }
    if wants_signal {
        let mut info = end_info(group, parent);
        info.signo = exit_signal as i32;
        signal::send_kernel(Target::Group(parent), info);
    }
    parent.child_wait.wake_all();
    reap
}

/// The `siginfo` of a process's end.
fn end_info(group: &ThreadGroup, parent: &ThreadGroup) -> SigInfo {
    let status = group.exit_status();
    let (code, si_status) = match status & 0x7f {
        0 => (CLD_EXITED, status >> 8 & 0xff),
        sig if status & CORE_DUMPED != 0 => (CLD_DUMPED, sig),
        sig => (CLD_KILLED, sig),
    };
    let uid = group.leader().map_or(0, |task| task.with_cred(|cred| cred.uid));
    let uid = signal::uid_seen_by(parent, uid);
    let pid = pid::number_in(group.pid(), parent.pid_ns());
    let used = group.usage.lock().dead;
    let (utime, stime) = (crate::usage::ticks(used.utime_ns), crate::usage::ticks(used.stime_ns));
    SigInfo::child(code, pid as i32, uid, si_status, utime, stime)
}

impl ThreadGroup {
    /// The wait status with which the process ended.
    pub fn exit_status(&self) -> i32 {
        let state = self.sig.lock();
        state.exit.unwrap_or_else(|| {
            let leader = state.threads.iter().find(|task| task.tid() == self.pid());
            leader.map_or(0, |leader| leader.exit_code.load(Relaxed))
        })
    }
}

/// Reaps the children of `group` that have ended: the init of a pid namespace at its own end.
pub(crate) fn reap_zombies(group: &Arc<ThreadGroup>) {
    loop {
        let tree = lock_tree();
        let zombie = {
            let family = group.family.lock();
            family.children.iter().find(|child| child.exit_state() == ExitState::Zombie).cloned()
        };
        let Some(zombie) = zombie else { return };
        let garbage = reap(&zombie, &tree);
        drop(tree);
        drop(garbage);
    }
}

/// Takes the zombie `group` out of all tables. The result must be dropped without locks.
#[must_use]
pub(crate) fn reap(group: &Arc<ThreadGroup>, tree: &TreeGuard) -> Garbage {
    let mut garbage = Garbage::default();
    group.set_exit_state(ExitState::Dead, tree);
    pgrp::leave(group, tree);
    let threads = core::mem::take(&mut group.sig.lock().threads);
    for task in threads {
        garbage.2.extend(trace::unlink(&task, tree));
        release_task(&task, &mut garbage);
    }
    garbage.0.extend(disown(group, tree));
    garbage
}
