//! Kernel threads as processes, for those who list what runs.
//!
//! kthreadd, the process with number 2, is the kernel thread that gives each other kernel thread an entry among the
//! processes, and takes it away when the thread ends. Such a process has no address space and no files, is root's, ignores
//! every signal and cannot be traced. The thread does not know of it: [`crate::try_current`] finds no task there.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use abi::Result;
use abi::signal::SigSet;
use limits::{Rlimits, UserResource};
use sched::{Thread, roster};
use security::Cred;
use vfs::{FdTable, FsContext};

use crate::clone::max_threads;
use crate::family::{ExitState, Family, adopt, disown, lock_tree};
use crate::group::GroupInit;
use crate::pid::{self, PidRef};
use crate::signal::SigHand;
use crate::task::{TaskFlags, TaskInit};
use crate::{NsProxy, PidNs, Task, ThreadGroup, cred, exit};

/// What all of them share.
struct Common {
    files: Arc<FdTable>,
    fs: Arc<FsContext>,
}

/// Makes kthreadd, with the next number, and starts it. `ENOMEM`, `EAGAIN`: no pid is left.
pub(crate) fn start(fs: Arc<FsContext>) -> Result<()> {
    const NAME: &str = "kthreadd";
    let common = Common { files: FdTable::new()?, fs };
    let own = new_task(NAME, 0, &common)?;
    let run = move || {
        publish(&own, sched::current().shared(), None);
        follow(own.group(), &common);
    };
    sched::spawn(NAME, run).map(drop).map_err(|_| abi::Errno::ENOMEM)
}

/// Keeps the processes in step with the kernel threads.
fn follow(kthreadd: &Arc<ThreadGroup>, common: &Common) {
    let mut shown: Vec<(Arc<Thread>, Arc<Task>)> = Vec::new();
    let me = sched::current().shared().clone();
    loop {
        let seen = roster::changes();
        let mut threads = roster::kernel_threads();
        threads.retain(|thread| !Arc::ptr_eq(thread, &me));
        shown.retain(|(thread, task)| {
            let lives = threads.iter().any(|other| Arc::ptr_eq(other, thread));
            if !lives {
                withdraw(task);
            }
            lives
        });
        // In the order of their making, so that numbers tell it.
        threads.sort_unstable_by_key(|thread| thread.id());
        for thread in threads {
            if shown.iter().any(|(known, _)| Arc::ptr_eq(known, &thread)) {
                continue;
            }
            // Without a number or memory it stays unseen.
            if let Ok(task) = new_task(&thread.name(), kthreadd.pid(), common) {
                publish(&task, &thread, Some(kthreadd));
                shown.push((thread, task));
            }
        }
        roster::wait_for_change(seen);
    }
}

/// A process that nobody can see yet, for a kernel thread called `name`.
fn new_task(name: &str, ppid: u32, common: &Common) -> Result<Arc<Task>> {
    let pid_ref = PidRef::alloc(&PidNs::INITIAL, &[])?;
    let mut comm = [0; 16];
    for (byte, from) in comm.iter_mut().take(15).zip(name.bytes()) {
        *byte = from;
    }
    let group = ThreadGroup::new(GroupInit {
        pid: pid_ref.number(),
        pid_ns: PidNs::INITIAL,
        own_pid: pid_ref.number(),
        hand: Arc::new(SigHand::ignoring()?),
        family: Family::new(),
        ppid,
        exit_signal: 0,
        rlimits: Rlimits::for_init(u64::from(max_threads())),
        has_subreaper: false,
        dumpable: 1,
        oom_score_adj: 0,
    });
    let task = Task::new(TaskInit {
        pid_ref,
        group,
        cred: Arc::new(Cred::root()),
        user: cred::user_of(0),
        nsproxy: NsProxy::initial(),
        mm: None,
        files: common.files.clone(),
        fs: common.fs.clone(),
        blocked: SigSet::EMPTY,
        comm,
    });
    task.set_flags(TaskFlags::KERNEL);
    Ok(task)
}

/// Makes `task` visible as the process of `thread`, a child of `parent`.
fn publish(task: &Arc<Task>, thread: &Arc<Thread>, parent: Option<&Arc<ThreadGroup>>) {
    if let Some(user) = task.user() {
        user.charge(UserResource::Processes, 1);
    }
    drop(task.thread.swap(Some(thread.clone())));
    let group = task.group();
    let tree = lock_tree();
    group.nr_live.store(1, Relaxed);
    group.sig.lock().threads.push(task.clone());
    if let Some(parent) = parent {
        adopt(parent, group, &tree);
    }
    pid::set_task(task.tid(), Some(task.clone()));
    exit::count_thread();
}

/// The thread of `task` has ended: the process is gone at once, as nobody waits for it.
fn withdraw(task: &Arc<Task>) {
    let group = task.group();
    let mut garbage = exit::Garbage::default();
    let parent = {
        let tree = lock_tree();
        task.set_flags(TaskFlags::EXITING | TaskFlags::DEAD);
        group.nr_live.store(0, Relaxed);
        group.set_exit_state(ExitState::Dead, &tree);
        exit::release_task(task, &mut garbage);
        disown(group, &tree)
    };
    // Each holds the other.
    let threads = core::mem::take(&mut group.sig.lock().threads);
    drop((threads, task.thread.swap(None), parent, garbage));
    group.exit_wait.wake_all();
}
