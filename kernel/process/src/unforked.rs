//! Processes that no process forks: the first one, and the programs that the kernel starts itself.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use abi::Result;
use abi::signal::SigSet;
use hal::thread::{Fpu, Thread as HalThread};
use hal::trap::UserRegs;
use limits::{Rlimits, UserResource};
use mm::Mm;
use sched::Placement;
use security::Cred;
use vfs::{FdTable, FsContext};

use crate::clone::max_threads;
use crate::family::{Family, TreeGuard, lock_tree};
use crate::group::GroupInit;
use crate::pid::{self, PidRef};
use crate::signal::SigHand;
use crate::task::{self, TaskFlags, TaskInit};
use crate::{NsProxy, PidNs, Task, ThreadGroup, cred, exit};

/// What such a process begins with; all else is root's, as at boot.
pub(crate) struct Plan {
    /// Name of its kernel thread.
    pub name: &'static str,
    /// Its command name until it executes a program.
    pub comm: [u8; 16],
    pub ppid: u32,
    /// Signal to the parent at the end; 0 for none.
    pub exit_signal: u32,
    pub fs: Arc<FsContext>,
    pub files: Arc<FdTable>,
}

/// A process that nobody can see yet.
pub(crate) struct Unforked {
    name: &'static str,
    task: Arc<Task>,
}

impl Unforked {
    /// Builds a process without a program. `ENOMEM`, `EAGAIN`: no pid is left.
    pub(crate) fn new(plan: Plan) -> Result<Self> {
        let pid_ref = PidRef::alloc(&PidNs::INITIAL, &[])?;
        let mm = Some(Mm::new()?);
        let group = ThreadGroup::new(GroupInit {
            pid: pid_ref.number(),
            pid_ns: PidNs::INITIAL,
            own_pid: pid_ref.number(),
            hand: Arc::new(SigHand::new()?),
            family: Family::new(),
            ppid: plan.ppid,
            exit_signal: plan.exit_signal,
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
            mm,
            files: plan.files,
            fs: plan.fs,
            blocked: SigSet::EMPTY,
            comm: plan.comm,
        });
        Ok(Self { name: plan.name, task })
    }

    pub(crate) fn group(&self) -> &Arc<ThreadGroup> {
        self.task.group()
    }

    /// Makes the process visible, in the place that `join` gives it, and runs it: `start` in the kernel, which gives the
    /// registers of a program (by [`crate::exec::exec_first`]) or does not return. `ENOMEM`.
    pub(crate) fn start(
        self,
        start: impl FnOnce() -> UserRegs + Send + 'static,
        join: impl FnOnce(&Arc<ThreadGroup>, &TreeGuard),
    ) -> Result<()> {
        let task = self.task;
        // The base of the stack is left for good, so nothing may be alive here but the registers.
        let first = move || {
            let regs = start();
            hal::thread::enter_user(&regs)
        };
        let thread = sched::new_user_thread(self.name, UserRegs::default(), Fpu::Fresh, first)?;
        if let Some(mm) = task.mm() {
            HalThread::set_first_page_table(thread.hal(), Some(mm.page_table().clone()));
        }
        if let Some(user) = task.user() {
            user.charge(UserResource::Processes, 1);
        }
        task::bind(thread.hal(), task.clone());
        drop(task.thread.swap(Some(thread.clone())));
        let tree = lock_tree();
        let group = task.group();
        group.nr_live.store(1, Relaxed);
        group.sig.lock().threads.push(task.clone());
        join(group, &tree);
        pid::set_task(task.tid(), Some(task.clone()));
        exit::count_thread();
        drop(tree);
        task.clear_flags(TaskFlags::FORKNOEXEC);
        sched::start(&thread, Placement::Fork);
        Ok(())
    }
}
