//! A process: the threads that share one process id.
//!
//! # Locking
//!
//! Order, outermost first:
//!
//! ```text
//! family::TREE               parents, children, zombies; process-group membership changes
//!   ThreadGroup::family
//!   ProcessGroup::members    (irq-safe) pgrp signals come from terminals
//!     ThreadGroup::sig       (irq-safe) signal state, the list of threads, group exit and stop
//!       Task::pending        (irq-safe)
//!       SigHand::actions     (irq-safe)
//! ```
//!
//! No two locks of one kind are held together.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::signal::SigSet;
use hal::sync::{ArcCell, IrqLock, SpinLock};
use limits::Rlimits;
use sched::WaitQueue;
use vfs::xattr::Store;

use crate::Task;
use crate::coredump::{Core, Record};
use crate::exec::Executable;
use crate::family::{ExitState, Family};
use crate::pgrp::ProcessGroup;
use crate::pid;
use crate::pidns::PidNs;
use crate::signal::{Pending, SigHand};
use crate::timer::{CpuArmed, Timers};
use crate::usage::Usage;

/// Signal state of a process, and the list of its threads.
pub(crate) struct GroupSig {
    /// Signals for any of the threads.
    pub(crate) shared: Pending,
    /// Threads that have not been released: the live ones, and the leader until it is reaped.
    pub(crate) threads: Vec<Arc<Task>>,
    /// The wait status with which all threads shall end.
    pub(crate) exit: Option<i32>,
    /// A thread is executing a program and waits for the others to end.
    pub(crate) exec: bool,
    /// The signal that began the present stop; 0 once a waiter has consumed it.
    pub(crate) stop_signal: u32,
    /// Threads that still have to stop.
    pub(crate) stop_count: u32,
    /// All threads are stopped.
    pub(crate) is_stopped: bool,
    /// It was continued, and nobody has waited for that yet.
    pub(crate) is_continued: bool,
    /// A stop or continuation that the parent shall be told of: `CLD_STOPPED` or `CLD_CONTINUED`, 0 for none.
    pub(crate) notify_parent: i32,
    /// A core dump is being made.
    pub(crate) core: Option<Arc<Core>>,
    /// Where the search for a thread to take a shared signal begins.
    pub(crate) next_target: usize,
}

/// A process.
pub struct ThreadGroup {
    pid: u32,
    /// The pid namespace it is in, and its number there.
    pid_ns: PidNs,
    own_pid: u32,
    /// 0 until somebody asks.
    unique: AtomicU64,
    /// Extended attributes of its pidfds.
    pub pidfd_xattrs: Store,
    /// How it was dumped, as [`crate::coredump::Record`] packs it; 0 until then.
    pub(crate) core_record: AtomicU64,
    /// Its parent's pid, for getppid(2) without a lock.
    pub(crate) ppid: AtomicU32,
    /// The same in its own namespace; 0 for a parent outside.
    pub(crate) own_ppid: AtomicU32,
    /// The tid of the parent's thread that made it.
    pub(crate) parent_tid: AtomicU32,
    /// Process id of who traces its leader; 0 for nobody. Changed under the family lock.
    pub(crate) leader_tracer: AtomicU32,
    /// Tasks that its threads trace.
    pub(crate) nr_tracees: AtomicU32,
    pub(crate) sig: IrqLock<GroupSig>,
    /// A copy of the set of `GroupSig::shared`, read by the threads without the lock.
    pub(crate) shared_set: AtomicU64,
    hand: ArcCell<SigHand>,
    pub(crate) family: SpinLock<Family>,
    pub(crate) pgrp: ArcCell<ProcessGroup>,
    /// Its place in `ProcessGroup::members`; guarded by that lock.
    pub(crate) pgrp_idx: AtomicU32,
    /// The signal that tells the parent of its end; 0 for none.
    pub(crate) exit_signal: AtomicU32,
    /// How many programs it has executed.
    pub(crate) exec_id: AtomicU32,
    /// `exec_id` of the parent when the parent made it: a program that its parent executes later gets SIGCHLD only.
    pub(crate) parent_exec_id: AtomicU32,
    pub(crate) exit_state: AtomicU8,
    /// Threads that have not begun to end.
    pub(crate) nr_live: AtomicU32,
    /// Woken when a child changes state.
    pub child_wait: WaitQueue,
    /// Woken when a thread ends: execve(2) waits for the others; and when the process ends: pidfds wait for that.
    pub exit_wait: WaitQueue,
    /// Stopped threads sleep here.
    pub(crate) stop_wait: WaitQueue,
    /// Woken when a signal becomes pending, for signalfd.
    pub signal_wait: WaitQueue,
    rlimits: Rlimits,
    pub(crate) usage: SpinLock<Usage>,
    /// The executed file, kept from being written.
    pub(crate) exe: SpinLock<Option<Arc<Executable>>>,
    pub(crate) timers: IrqLock<Option<Box<Timers>>>,
    pub(crate) cpu_armed: CpuArmed,
    /// Fatal signals without a handler do not touch it: the first process.
    pub(crate) is_unkillable: AtomicBool,
    pub(crate) is_subreaper: AtomicBool,
    pub(crate) has_subreaper: AtomicBool,
    /// The init of a pid namespace that ends: children are reaped as they come.
    pub(crate) reaps_all: AtomicBool,
    /// It has executed a program since fork; setpgid(2) by the parent comes too late then.
    pub(crate) did_exec: AtomicBool,
    /// `PR_GET_DUMPABLE`.
    pub(crate) dumpable: AtomicU8,
    oom_score_adj: AtomicI32,
    /// /proc/PID/coredump_filter.
    coredump_filter: AtomicU32,
    /// Nobody waits for it: the kernel started it, or its maker said so (`CLONE_AUTOREAP`).
    pub(crate) reaps_itself: AtomicBool,
    /// Start in nanoseconds since boot.
    pub(crate) start_ns: u64,
}

/// Anonymous memory, ELF headers and private huge pages (core(5)).
const DEFAULT_COREDUMP_FILTER: u32 = 0x33;

/// What a new process gets.
pub(crate) struct GroupInit {
    pub(crate) pid: u32,
    pub(crate) pid_ns: PidNs,
    /// Its number in `pid_ns`.
    pub(crate) own_pid: u32,
    pub(crate) hand: Arc<SigHand>,
    pub(crate) family: Family,
    pub(crate) ppid: u32,
    pub(crate) exit_signal: u32,
    pub(crate) rlimits: Rlimits,
    pub(crate) has_subreaper: bool,
    pub(crate) dumpable: u8,
    pub(crate) oom_score_adj: i32,
}

impl ThreadGroup {
    /// Makes a process without threads.
    #[inline(never)]
    pub(crate) fn new(init: GroupInit) -> Arc<Self> {
        hal::in_place::arc(Self::build(init))
    }

    #[inline(never)]
    fn build(init: GroupInit) -> Self {
        Self {
            pid: init.pid,
            own_ppid: AtomicU32::new(pid::number_in(init.ppid, &init.pid_ns)),
            pid_ns: init.pid_ns,
            own_pid: init.own_pid,
            unique: AtomicU64::new(0),
            pidfd_xattrs: Store::new(),
            core_record: AtomicU64::new(0),
            ppid: AtomicU32::new(init.ppid),
            parent_tid: AtomicU32::new(0),
            leader_tracer: AtomicU32::new(0),
            nr_tracees: AtomicU32::new(0),
            sig: IrqLock::new(
                "process.sig",
                GroupSig {
                    shared: Pending::new(),
                    threads: Vec::new(),
                    exit: None,
                    exec: false,
                    stop_signal: 0,
                    stop_count: 0,
                    is_stopped: false,
                    is_continued: false,
                    notify_parent: 0,
                    core: None,
                    next_target: 0,
                },
            ),
            shared_set: AtomicU64::new(0),
            hand: ArcCell::new(init.hand),
            family: SpinLock::new("process.family", init.family),
            pgrp: ArcCell::empty(),
            pgrp_idx: AtomicU32::new(0),
            exit_signal: AtomicU32::new(init.exit_signal),
            exec_id: AtomicU32::new(0),
            parent_exec_id: AtomicU32::new(0),
            exit_state: AtomicU8::new(ExitState::Alive as u8),
            nr_live: AtomicU32::new(0),
            child_wait: WaitQueue::new(),
            exit_wait: WaitQueue::new(),
            stop_wait: WaitQueue::new(),
            signal_wait: WaitQueue::new(),
            rlimits: init.rlimits,
            usage: SpinLock::new("process.usage", Usage::default()),
            exe: SpinLock::new("process.exe", None),
            timers: IrqLock::new("process.timers", None),
            cpu_armed: CpuArmed::new(),
            is_unkillable: AtomicBool::new(false),
            is_subreaper: AtomicBool::new(false),
            has_subreaper: AtomicBool::new(init.has_subreaper),
            reaps_all: AtomicBool::new(false),
            did_exec: AtomicBool::new(false),
            dumpable: AtomicU8::new(init.dumpable),
            oom_score_adj: AtomicI32::new(init.oom_score_adj),
            coredump_filter: AtomicU32::new(DEFAULT_COREDUMP_FILTER),
            reaps_itself: AtomicBool::new(false),
            start_ns: hal::time::now_ns(),
        }
    }

    /// Process id in the first pid namespace: what the kernel knows it by.
    #[inline]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Process id in its own pid namespace: what it knows itself by.
    #[inline]
    pub fn own_pid(&self) -> u32 {
        self.own_pid
    }

    /// A number that no other process or thread had or will have (the inode of its pidfd).
    pub fn unique_id(&self) -> u64 {
        pid::unique_id(&self.unique)
    }

    /// [`ThreadGroup::unique_id`], if somebody has asked for it.
    pub fn known_unique_id(&self) -> Option<u64> {
        Some(self.unique.load(Relaxed)).filter(|number| *number != 0)
    }

    /// If a core dump was made: how.
    pub fn core_record(&self) -> Option<Record> {
        Record::unpack(self.core_record.load(Relaxed))
    }

    /// The pid namespace that it is in.
    #[inline]
    pub fn pid_ns(&self) -> &PidNs {
        &self.pid_ns
    }

    /// Whether it is the init of a pid namespace below the first.
    pub fn is_ns_init(&self) -> bool {
        self.own_pid == 1 && !self.pid_ns.is_initial()
    }

    /// The parent's process id in its own pid namespace; 0 for one outside.
    #[inline]
    pub fn own_ppid(&self) -> u32 {
        self.own_ppid.load(Relaxed)
    }

    /// The parent's process id in the first pid namespace; 0 for the first process.
    #[inline]
    pub fn ppid(&self) -> u32 {
        self.ppid.load(Relaxed)
    }

    /// Its resource limits.
    #[inline]
    pub fn rlimits(&self) -> &Rlimits {
        &self.rlimits
    }

    /// Its signal actions, for who keeps or shares them: how many have them decides whether a process shares its own
    /// (execve(2), unshare(2)). Who only looks calls [`Self::with_hand`].
    pub(crate) fn hand(&self) -> Arc<SigHand> {
        // Filled by `new` and never emptied.
        self.hand.load().unwrap_or_else(|| Arc::new(SigHand::fixed()))
    }

    /// Calls `f` with its signal actions, without counting a reference; `f` must not sleep.
    #[inline]
    pub fn with_hand<R>(&self, f: impl FnOnce(&SigHand) -> R) -> R {
        let guard = hal::rcu::read_lock();
        match self.hand.get(&guard) {
            Some(hand) => f(hand),
            None => f(&SigHand::fixed()),
        }
    }

    /// Gives the process signal actions of its own (execve(2)).
    pub(crate) fn replace_hand(&self, hand: Arc<SigHand>) {
        drop(self.hand.swap(Some(hand)));
    }

    /// Its process group; `None` for one that has been reaped.
    pub fn pgrp(&self) -> Option<Arc<ProcessGroup>> {
        self.pgrp.load()
    }

    /// The id of its process group, 0 once it has been reaped.
    pub fn pgid(&self) -> u32 {
        let guard = hal::rcu::read_lock();
        self.pgrp.get(&guard).map_or(0, ProcessGroup::id)
    }

    /// The id of its session, 0 once it has been reaped.
    pub fn sid(&self) -> u32 {
        let guard = hal::rcu::read_lock();
        self.pgrp.get(&guard).map_or(0, |pgrp| pgrp.session().id())
    }

    /// The tasks that have not been released, the leader first if it is among them.
    pub fn threads(&self) -> Vec<Arc<Task>> {
        // Copied under the lock, so room for the copy is made before: again if a thread came meanwhile.
        let mut threads = Vec::new();
        loop {
            let sig = self.sig.lock();
            if threads.capacity() >= sig.threads.len() {
                threads.extend(sig.threads.iter().cloned());
                return threads;
            }
            let wanted = sig.threads.len();
            drop(sig);
            threads.reserve(wanted);
        }
    }

    /// The leader: the task whose tid is the process id.
    pub fn leader(&self) -> Option<Arc<Task>> {
        self.sig.lock().threads.iter().find(|task| task.tid() == self.pid).cloned()
    }

    /// Some task that has not ended, preferably the leader; its mm, files and credentials stand for the process.
    pub fn live_task(&self) -> Option<Arc<Task>> {
        let sig = self.sig.lock();
        let is_live = |task: &&Arc<Task>| !task.has(crate::TaskFlags::EXITING);
        sig.threads.iter().find(is_live).or_else(|| sig.threads.first()).cloned()
    }

    /// How many threads have not begun to end.
    pub fn nr_threads(&self) -> u32 {
        self.nr_live.load(Relaxed)
    }

    /// Where it is in its life.
    pub fn exit_state(&self) -> ExitState {
        ExitState::from_number(self.exit_state.load(Relaxed))
    }

    /// Whether all threads have ended.
    pub fn is_zombie(&self) -> bool {
        self.exit_state() != ExitState::Alive
    }

    /// Whether it was killed as a whole and its threads are on their way out.
    pub fn is_being_killed(&self) -> bool {
        self.sig.lock().exit.is_some()
    }

    /// The signals pending for the process as a whole.
    pub fn shared_set(&self) -> SigSet {
        SigSet(self.shared_set.load(core::sync::atomic::Ordering::SeqCst))
    }

    /// Whether all threads are stopped.
    pub fn is_stopped(&self) -> bool {
        self.sig.lock().is_stopped
    }

    /// Start in nanoseconds since boot.
    #[inline]
    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// The file that it executes (/proc/PID/exe).
    pub fn exe(&self) -> Option<Arc<vfs::File>> {
        self.exe.lock().as_ref().map(|exe| exe.file().clone())
    }

    /// /proc/PID/oom_score_adj.
    pub fn oom_score_adj(&self) -> i32 {
        self.oom_score_adj.load(Relaxed)
    }

    /// Sets /proc/PID/oom_score_adj; the caller has checked range and rights.
    pub fn set_oom_score_adj(&self, adj: i32) {
        self.oom_score_adj.store(adj, Relaxed);
    }

    /// /proc/PID/coredump_filter: which kinds of mappings are in a core dump (core(5)).
    pub fn coredump_filter(&self) -> u32 {
        self.coredump_filter.load(Relaxed)
    }

    /// Sets /proc/PID/coredump_filter.
    pub fn set_coredump_filter(&self, filter: u32) {
        self.coredump_filter.store(filter, Relaxed);
    }

    /// `PR_GET_DUMPABLE`: 1 when others of the same user may look into the process.
    pub fn dumpable(&self) -> u8 {
        self.dumpable.load(Relaxed)
    }
}
