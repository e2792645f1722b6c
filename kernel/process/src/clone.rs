//! Making tasks: fork(2), vfork(2), clone(2), clone3(2), and the first process.
//!
//! A new task is built completely while nobody can see it; what can fail happens before. It then becomes visible in one
//! step under the family lock (a process) or the signal lock of its process (a thread), where a signal or an exit that
//! came meanwhile still stops it.
//!
//! Sources: clone(2) with its list of errors, vfork(2).

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU32};

use abi::process::CloneFlags;
use abi::signal::{NSIG, SIGCHLD};
use abi::{Errno, Result};
use hal::thread::{Fpu, Thread as HalThread};
use hal::trap::UserRegs;
use hal::{UserAddr, user};
use limits::{Resource, UserCounts, UserResource};
use sched::{Interruptible, Placement, WaitQueue};
use security::{Cap, Cred};
use vfs::{FdFlags, FdTable, FsContext};

use crate::family::{self, Family, adopt, lock_tree};
use crate::group::GroupInit;
use crate::hooks::OnClose;
use crate::membership::{self, Birth, Into};
use crate::pid::{self, PidRef};
use crate::signal::{AltStack, Clear};
use crate::task::{self, CurrentTask, TaskFlags, TaskInit};
use crate::trace::NewTie;
use crate::unforked::{Plan, Unforked};
use crate::{PidNs, Task, ThreadGroup, exec, exit, hooks, kthread, nsproxy, pgrp, trace};

/// What clone3(2) is asked for.
#[derive(Clone, Debug, Default)]
pub struct CloneRequest {
    /// `CLONE_*`, without the signal in the low byte of clone(2).
    pub flags: CloneFlags,
    /// Signal to the parent at the end; 0 for none.
    pub exit_signal: u32,
    /// The child's stack pointer; 0 to keep the parent's.
    pub stack: u64,
    /// `CLONE_SETTLS`: its FS base.
    pub tls: u64,
    /// `CLONE_PIDFD`: where the descriptor goes.
    pub pidfd: UserAddr,
    /// `CLONE_PARENT_SETTID`: where the parent finds the tid.
    pub parent_tid: UserAddr,
    /// `CLONE_CHILD_SETTID`, `CLONE_CHILD_CLEARTID`: where the child finds its tid.
    pub child_tid: UserAddr,
    /// The wanted tids (clone3(2) `set_tid`): in the child's own pid namespace first, then in those above.
    pub set_tid: Vec<u32>,
    /// `CLONE_INTO_CGROUP`: the control group, which the caller may use.
    pub into: Option<Into>,
}

/// Tells a vfork parent that its child has left the shared address space.
pub(crate) struct VforkDone {
    is_done: AtomicBool,
    queue: WaitQueue,
}

impl VforkDone {
    fn new() -> Arc<Self> {
        Arc::new(Self { is_done: AtomicBool::new(false), queue: WaitQueue::new() })
    }

    /// The child has executed a program or ended.
    pub(crate) fn complete(&self) {
        // Release pairs with the acquire below: the parent sees what the child wrote.
        self.is_done.store(true, Release);
        self.queue.wake_all();
    }

    /// Waits for the child; a kill ends the wait.
    fn wait(&self) {
        let is_done = || self.is_done.load(Acquire).then_some(());
        // Interrupted means that the parent dies: nothing to do for it.
        let _ = self.queue.wait_deadline(is_done, None, Interruptible::Killable);
    }
}

/// Makes a task as `request` says; `regs` are those of the caller's system call. Gives its tid.
///
/// The errors are those of clone(2); `ERESTARTNOINTR` when a signal has to be handled first.
pub fn clone(request: &CloneRequest, regs: &mut UserRegs) -> Result<u32> {
    let me = task::current();
    let flags = request.flags;
    check(&me, request)?;
    if me.signal_pending() {
        return Err(Errno::ERESTARTNOINTR);
    }
    let event = trace::fork_event(&me, request);
    let charge = ProcessCharge::new(&me)?;
    let mut birth = Birth::begin(&me, request.into.as_ref(), flags.contains(CloneFlags::THREAD))?;
    let child = build(&me, request)?;
    let thread = make_thread(&me, &child, request, regs)?;
    let pidfd = reserve_pidfd(&me, &child, request).inspect_err(|_| thread.clone().discard())?;
    let vfork = flags.contains(CloneFlags::VFORK).then(VforkDone::new);
    *child.vfork_done.lock() = vfork.clone();
    let is_traced = me.has(TaskFlags::TRACED) && (event.is_some() || flags.contains(CloneFlags::PTRACE));
    let tie = if is_traced { NewTie::for_child(&me) } else { Ok(None) };
    let tie = tie.inspect_err(|_| thread.clone().discard())?;
    publish(&me, &child, request, tie, &mut birth).inspect_err(|_| thread.clone().discard())?;
    charge.keep();
    birth.settle(&child);
    if flags.contains(CloneFlags::SYSVSEM) {
        hooks::task_clone(&me, &child);
    }
    if let Some(watcher) = me.watcher() {
        watcher.forked(&me, &child);
    }
    if let Some(probes) = hooks::probes() {
        probes.cloned(&me, &child);
    }
    if let Some((reserved, file)) = pidfd {
        reserved.install(file);
    }
    let tid = pid::visible(child.tid());
    if flags.contains(CloneFlags::PARENT_SETTID) {
        // The child exists already, so a bad address is no error any more (as on Linux).
        let _ = user::write(request.parent_tid, &tid);
    }
    let placement = if vfork.is_some() { Placement::Here } else { Placement::Fork };
    drop(child);
    sched::start(&thread, placement);
    drop(thread);
    if let Some(event) = event {
        trace::clone_event(&me, regs, event, tid);
    }
    if let Some(vfork) = vfork {
        membership::enter_frozen(&me);
        vfork.wait();
        membership::leave_frozen(&me);
        trace::vfork_done_event(&me, regs, tid);
    }
    Ok(tid)
}

/// Refuses what cannot be combined (clone(2), "ERRORS").
fn check(me: &CurrentTask, request: &CloneRequest) -> Result<()> {
    use CloneFlags as F;
    let flags = request.flags;
    let has = |wanted: F| flags.contains(wanted);
    let bad = has(F::NEWNS | F::FS)
        || (has(F::THREAD) && !has(F::SIGHAND))
        || (has(F::SIGHAND) && !has(F::VM))
        || has(F::SIGHAND | F::CLEAR_SIGHAND)
        || (has(F::PARENT) && me.group().is_unkillable.load(Relaxed))
        || has(F::PIDFD | F::DETACHED)
        || has(F::NEWUSER | F::FS)
        || has(F::NEWIPC | F::SYSVSEM)
        || has(F::INTO_CGROUP) != request.into.is_some()
        || (has(F::AUTOREAP) && (request.exit_signal != 0 || flags.intersects(F::THREAD | F::PARENT)))
        || has(F::NNP | F::THREAD)
        || (has(F::PIDFD_AUTOKILL) && (!has(F::PIDFD | F::AUTOREAP) || has(F::THREAD)))
        || (has(F::THREAD) && !may_make_thread(me, flags))
        || request.exit_signal > NSIG;
    if bad {
        return Err(Errno::EINVAL);
    }
    // A child that can gain rights must not be killed at will by who has none over it.
    let is_privileged = || me.with_cred(|cred| cred.own_capable(Cap::SYS_ADMIN));
    if has(F::PIDFD_AUTOKILL) && !has(F::NNP) && !is_privileged() {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// Threads share user and pid namespace.
fn may_make_thread(me: &CurrentTask, flags: CloneFlags) -> bool {
    let guard = hal::rcu::read_lock();
    let has_own_children =
        me.nsproxy_ref(&guard).is_some_and(|proxy| proxy.pid_for_children == *me.group().pid_ns());
    has_own_children && !flags.intersects(CloneFlags::NEWUSER | CloneFlags::NEWPID)
}

/// Who may choose numbers in `ns` (clone3(2), `set_tid`). `EINVAL`: more of them than levels. `EPERM`: not all levels.
fn check_set_tid(cred: &Cred, ns: &PidNs, wanted: &[u32]) -> Result<()> {
    if wanted.len() > ns.level() as usize + 1 {
        return Err(Errno::EINVAL);
    }
    let mut at = Some(ns);
    for _ in wanted {
        let Some(level) = at else { break };
        let owner = level.id().owner();
        if !cred.ns_capable(owner, Cap::SYS_ADMIN) && !cred.ns_capable(owner, Cap::CHECKPOINT_RESTORE) {
            return Err(Errno::EPERM);
        }
        at = level.parent();
    }
    Ok(())
}

/// The credentials of the child: the caller's, or the first of a new user namespace.
fn child_cred(me: &CurrentTask, flags: CloneFlags) -> Result<Arc<Cred>> {
    let own = me.cred();
    if !nsproxy::makes_namespaces(flags) {
        return Ok(own);
    }
    let cred = if flags.contains(CloneFlags::NEWUSER) { nsproxy::in_new_user_ns(&own)? } else { own };
    nsproxy::check_rights(&cred, flags)?;
    Ok(cred)
}

/// One process charged to a user, given back unless kept.
struct ProcessCharge(Option<Arc<UserCounts>>);

impl ProcessCharge {
    /// `EAGAIN`: the user or the machine has too many.
    fn new(me: &CurrentTask) -> Result<Self> {
        if exit::nr_threads() >= max_threads() {
            return Err(Errno::EAGAIN);
        }
        let user = me.user().ok_or(Errno::EAGAIN)?;
        let limit = me.group().rlimits().cur(Resource::Nproc);
        let is_exempt = || {
            me.with_cred(|cred| {
                cred.uid == 0 || cred.capable(Cap::SYS_RESOURCE) || cred.capable(Cap::SYS_ADMIN)
            })
        };
        if !user.try_charge(UserResource::Processes, 1, limit) {
            if !is_exempt() {
                return Err(Errno::EAGAIN);
            }
            user.charge(UserResource::Processes, 1);
        }
        Ok(Self(Some(user)))
    }

    #[inline]
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for ProcessCharge {
    fn drop(&mut self) {
        if let Some(user) = &self.0 {
            user.uncharge(UserResource::Processes, 1);
        }
    }
}

/// `kernel.threads-max`; 0: what the memory allows.
static MAX_THREADS: AtomicU32 = AtomicU32::new(0);
/// What `kernel.threads-max` is at least by itself.
const MIN_THREADS: u32 = 20;

/// How many threads there can be.
pub fn max_threads() -> u32 {
    match MAX_THREADS.load(Relaxed) {
        0 => affordable_threads(),
        set => set,
    }
}

/// Sets how many threads there can be. `EINVAL`: none, or more than a futex can name.
pub fn set_max_threads(nr: u32) -> Result<()> {
    // LINUX: FUTEX_TID_MASK.
    if !(1..=0x3fff_ffff).contains(&nr) {
        return Err(Errno::EINVAL);
    }
    MAX_THREADS.store(nr.min(affordable_threads()), Relaxed);
    Ok(())
}

/// How many threads the memory allows: one eighth of it for their stacks and structures (Linux: fork_init).
fn affordable_threads() -> u32 {
    const BYTES_PER_THREAD: u64 = 8 * 16384;
    let total = hal::frame::stats().total as u64 * hal::PAGE_SIZE as u64;
    u32::try_from(total / BYTES_PER_THREAD).unwrap_or(u32::MAX).max(MIN_THREADS)
}

/// Makes the child's task, and its process unless it is a thread. Nothing is visible yet.
#[inline(never)]
fn build(me: &CurrentTask, request: &CloneRequest) -> Result<Arc<Task>> {
    let flags = request.flags;
    let mut cred = child_cred(me, flags)?;
    if flags.contains(CloneFlags::NNP) && !cred.no_new_privs {
        let mut new = (*cred).clone();
        new.no_new_privs = true;
        cred = Arc::new(new);
    }
    let proxy = nsproxy::for_child(me, flags, &cred)?;
    let pid_ns = &proxy.pid_for_children;
    if !request.set_tid.is_empty() {
        check_set_tid(&cred, pid_ns, &request.set_tid)?;
    }
    let pid_ref = PidRef::alloc(pid_ns, &request.set_tid)?;
    let files = me.files().ok_or(Errno::ESRCH)?;
    let files = if flags.contains(CloneFlags::FILES) { files } else { files.fork()? };
    let fs = me.fs().ok_or(Errno::ESRCH)?;
    let fs = if flags.contains(CloneFlags::FS) { fs } else { fs.fork() };
    nsproxy::enter_mount_ns(&fs, flags, &cred.user_ns)?;
    let mm = me.mm().ok_or(Errno::ESRCH)?;
    let mm = if flags.contains(CloneFlags::VM) { mm } else { mm.fork()? };
    if flags.contains(CloneFlags::VM) && !flags.contains(CloneFlags::VFORK) {
        mm.expect_threads();
    }
    if flags.contains(CloneFlags::VM | CloneFlags::THREAD)
        && let Some(futex) = hooks::futex()
    {
        futex.new_thread(&mm, me.group().nr_threads() as usize)?;
    }
    if !proxy.time.is_initial() && !flags.contains(CloneFlags::VM) {
        exec::hide_clock(&mm)?;
    }
    let group = if flags.contains(CloneFlags::THREAD) {
        me.group().clone()
    } else {
        build_group(me, request, &pid_ref)?
    };
    let child = Task::new(TaskInit {
        pid_ref,
        group,
        cred,
        nsproxy: proxy,
        user: me.user().ok_or(Errno::EAGAIN)?,
        mm: Some(mm),
        files,
        fs,
        blocked: me.blocked(),
        comm: me.comm(),
    });
    inherit(me, &child, request);
    Ok(child)
}

/// Makes the child's process. `ENOMEM`.
#[inline(never)]
fn build_group(me: &CurrentTask, request: &CloneRequest, pid_ref: &PidRef) -> Result<Arc<ThreadGroup>> {
    let parent = me.group();
    let hand = match request.flags {
        flags if flags.contains(CloneFlags::SIGHAND) => parent.hand(),
        flags if flags.contains(CloneFlags::CLEAR_SIGHAND) => Arc::new(parent.hand().fork(Clear::Handlers)?),
        _ => Arc::new(parent.hand().fork(Clear::Nothing)?),
    };
    let exit_signal = if request.flags.contains(CloneFlags::PARENT) {
        parent.exit_signal.load(Relaxed)
    } else {
        request.exit_signal
    };
    let group = ThreadGroup::new(GroupInit {
        pid: pid_ref.number(),
        pid_ns: pid_ref.ns(),
        own_pid: pid_ref.own_number(),
        hand,
        family: Family::new(),
        ppid: parent.pid(),
        exit_signal,
        rlimits: parent.rlimits().fork(),
        has_subreaper: parent.has_subreaper.load(Relaxed) || parent.is_subreaper.load(Relaxed),
        dumpable: parent.dumpable(),
        oom_score_adj: parent.oom_score_adj(),
    });
    let shares_parent = request.flags.contains(CloneFlags::PARENT);
    let maker = if shares_parent { parent.parent_tid.load(Relaxed) } else { me.tid() };
    group.parent_tid.store(maker, Relaxed);
    group.exec_id.store(parent.exec_id.load(Relaxed), Relaxed);
    let parents = if shares_parent { &parent.parent_exec_id } else { &parent.exec_id };
    group.parent_exec_id.store(parents.load(Relaxed), Relaxed);
    group.set_coredump_filter(parent.coredump_filter());
    *group.exe.lock() = parent.exe.lock().clone();
    group.reaps_itself.store(request.flags.contains(CloneFlags::AUTOREAP), Relaxed);
    if group.is_ns_init() {
        group.is_unkillable.store(true, Relaxed);
    }
    Ok(group)
}

/// Copies what a thread hands to its child.
#[inline]
fn inherit(me: &CurrentTask, child: &Task, request: &CloneRequest) {
    let flags = request.flags;
    child.timer_slack.store(me.timer_slack.load(Relaxed), Relaxed);
    child.personality.store(me.personality.load(Relaxed), Relaxed);
    child.set_mempolicy(me.mempolicy());
    if let Some(context) = me.io_context_for_child(flags.contains(CloneFlags::IO)) {
        *child.io_context.lock() = Some(context);
    }
    let shares_vm = flags.contains(CloneFlags::VM);
    if !shares_vm || flags.contains(CloneFlags::VFORK) {
        *child.alt_stack.lock() = *me.alt_stack.lock();
    } else {
        *child.alt_stack.lock() = AltStack::NONE;
    }
    if flags.contains(CloneFlags::CHILD_CLEARTID) {
        child.registered.clear_child_tid.store(request.child_tid.0, Relaxed);
    }
    if !shares_vm {
        let (from, to) = (&me.registered, &child.registered);
        to.rseq.store(from.rseq.load(Relaxed), Relaxed);
        to.rseq_len.store(from.rseq_len.load(Relaxed), Relaxed);
        to.rseq_sig.store(from.rseq_sig.load(Relaxed), Relaxed);
        to.rseq_cpu.store(crate::rseq::UNINITIALIZED, Relaxed);
    }
}

/// Makes the kernel thread that will run `child`.
fn make_thread(
    me: &CurrentTask,
    child: &Arc<Task>,
    request: &CloneRequest,
    regs: &UserRegs,
) -> Result<Arc<sched::Thread>> {
    let mut regs = *regs;
    regs.rax = 0;
    if request.stack != 0 {
        regs.rsp = request.stack;
    }
    let set_tid = request.flags.contains(CloneFlags::CHILD_SETTID).then_some(request.child_tid);
    let first = move || {
        if let Some(addr) = set_tid {
            // In the child's address space; a bad address is the program's loss (as on Linux).
            let _ = user::write(addr, &task::current().own_tid());
        }
    };
    let thread = sched::new_user_thread(&name_of(me), regs, Fpu::CopyCurrent, first)?;
    let setup = || -> Result<()> {
        if let Some(mm) = child.mm() {
            HalThread::set_first_page_table(thread.hal(), Some(mm.page_table().clone()));
        }
        if request.flags.contains(CloneFlags::SETTLS) {
            HalThread::set_first_fs_base(thread.hal(), UserAddr(request.tls)).map_err(|_| Errno::EPERM)?;
        }
        Ok(())
    };
    if let Err(error) = setup() {
        thread.discard();
        return Err(error);
    }
    if me.hal().is_tsc_forbidden() {
        thread.hal().forbid_tsc(true);
    }
    let ports = me.hal().ports();
    if ports.are_any() || ports.level != 0 {
        HalThread::set_first_ports(thread.hal(), ports);
    }
    task::bind(thread.hal(), child.clone());
    drop(child.thread.swap(Some(thread.clone())));
    if child.registered.rseq.load(Relaxed) != 0 {
        crate::rseq::watch(child);
    }
    Ok(thread)
}

/// The task's name for the scheduler.
pub(crate) fn name_of(task: &Task) -> String {
    let comm = task.comm();
    let len = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(comm.get(..len).unwrap_or_default()).into_owned()
}

/// The descriptor for `CLONE_PIDFD`, taken and told to the caller, to be installed later.
type PendingPidfd = Option<(vfs::fdtable::Reserved, Arc<vfs::File>)>;

/// Makes the pidfd and writes its number.
fn reserve_pidfd(me: &CurrentTask, child: &Arc<Task>, request: &CloneRequest) -> Result<PendingPidfd> {
    if !request.flags.contains(CloneFlags::PIDFD) {
        return Ok(None);
    }
    let limit = usize::try_from(me.group().rlimits().cur(Resource::Nofile)).unwrap_or(usize::MAX);
    let files = me.files().ok_or(Errno::ESRCH)?;
    let reserved = files.reserve(0, limit, FdFlags::CLOEXEC)?;
    let kills = request.flags.contains(CloneFlags::PIDFD_AUTOKILL);
    let file = hooks::make_pidfd(child, if kills { OnClose::Kill } else { OnClose::Nothing })?;
    user::write(request.pidfd, &reserved.fd())?;
    Ok(Some((reserved, file)))
}

/// Makes the child visible, unless something came that must be handled first.
fn publish(
    me: &CurrentTask,
    child: &Arc<Task>,
    request: &CloneRequest,
    mut tie: Option<NewTie>,
    birth: &mut Birth,
) -> Result<()> {
    let group = child.group();
    if request.flags.contains(CloneFlags::THREAD) {
        let tree = tie.is_some().then(lock_tree);
        let mut state = group.sig.lock();
        refuse_if_interrupted(me)?;
        state.threads.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        child.inherit_seccomp(me);
        birth.follow(me, request.into.as_ref())?;
        birth.place(child);
        group.nr_live.fetch_add(1, Relaxed);
        pid::set_task(child.tid(), Some(child.clone()));
        state.threads.push(child.clone());
        exit::count_thread();
        drop(state);
        if let Some(tree) = &tree {
            trace::inherit(me, &mut tie, child, tree);
        }
        return Ok(());
    }
    let parent = if request.flags.contains(CloneFlags::PARENT) { me.group().parent() } else { None };
    let parent = parent.unwrap_or_else(|| me.group().clone());
    let tree = lock_tree();
    refuse_if_interrupted(me)?;
    let home = me.group().pgrp().ok_or(Errno::ERESTARTNOINTR)?;
    if !group.is_ns_init() && !group.pid_ns().is_initial() && group.pid_ns().init().is_none() {
        // Who shall be its init is being made by another process, and is not there yet.
        return Err(Errno::EINVAL);
    }
    child.inherit_seccomp(me);
    birth.place(child);
    group.nr_live.store(1, Relaxed);
    group.sig.lock().threads.push(child.clone());
    adopt(&parent, group, &tree);
    if group.is_ns_init() {
        group.pid_ns().set_init(group);
    }
    pgrp::join(group, &home, &tree);
    pid::set_task(child.tid(), Some(child.clone()));
    exit::count_thread();
    if tie.is_some() {
        trace::inherit(me, &mut tie, child, &tree);
    }
    Ok(())
}

/// A signal or an exit that came while the child was built goes first, so that the child is not missed by it.
fn refuse_if_interrupted(me: &CurrentTask) -> Result<()> {
    if me.signal_pending() { Err(Errno::ERESTARTNOINTR) } else { Ok(()) }
}

/// Makes the first process: `start` runs in it, in the kernel, and then the program that it executes.
///
/// `start` gives the registers of a program (by [`crate::exec::exec_first`]); if it fails the machine stops, as on Linux.
pub fn spawn_init(
    fs: Arc<FsContext>,
    files: Arc<FdTable>,
    start: impl FnOnce() -> Result<UserRegs> + Send + 'static,
) -> Result<Arc<ThreadGroup>> {
    let (name, comm) = ("init", *b"init\0\0\0\0\0\0\0\0\0\0\0\0");
    let init = Unforked::new(Plan { name, comm, ppid: 0, exit_signal: SIGCHLD, fs: fs.clone(), files })?;
    // With the number after it.
    kthread::start(fs.fork())?;
    let group = init.group().clone();
    group.is_unkillable.store(true, Relaxed);
    let start = move || {
        start().unwrap_or_else(|error| {
            hal::power::stop(&alloc::format!(
                "No working init found ({error:?}). Try passing init= option to kernel."
            ))
        })
    };
    init.start(start, |group, tree| {
        pgrp::found_first(group, tree);
        family::set_init(group);
    })?;
    Ok(group)
}
