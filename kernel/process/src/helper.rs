//! Programs that the kernel itself starts, as root and as children of the first process, which need not wait for them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use abi::signal::SigSet;
use abi::{Errno, Result};
use hal::thread::{Fpu, Thread as HalThread};
use hal::trap::UserRegs;
use limits::{Rlimits, UserResource};
use mm::Mm;
use sched::Placement;
use security::Cred;
use vfs::{FdFlags, FdTable, File};

use crate::clone::max_threads;
use crate::family::{self, Family, adopt, lock_tree};
use crate::group::GroupInit;
use crate::pid::{self, PidRef};
use crate::signal::SigHand;
use crate::task::{self, TaskFlags, TaskInit};
use crate::{NsProxy, PidNs, Task, ThreadGroup, cred, exec, exit, pgrp};

/// The environment of such programs.
const ENVIRONMENT: [&[u8]; 2] = [b"HOME=/", b"PATH=/sbin:/bin:/usr/sbin:/usr/bin"];

/// Starts the program `args[0]` with `stdin` as its only descriptor. That it can be executed is not known yet: if it cannot,
/// it ends at once and closes its descriptor.
pub fn spawn(args: Vec<Vec<u8>>, stdin: Arc<File>) -> Result<()> {
    let init = family::init().ok_or(Errno::ESRCH)?;
    let first = init.live_task().ok_or(Errno::ESRCH)?;
    let home = init.pgrp().ok_or(Errno::ESRCH)?;
    let fs = first.fs().ok_or(Errno::ESRCH)?.fork();
    let files = FdTable::new()?;
    files.insert(stdin, 0, 1, FdFlags::empty())?;
    let pid_ref = PidRef::alloc(&PidNs::INITIAL, &[])?;
    let group = Arc::new(ThreadGroup::new(GroupInit {
        pid: pid_ref.number(),
        pid_ns: PidNs::INITIAL,
        own_pid: pid_ref.number(),
        hand: Arc::new(SigHand::new()),
        family: Family { parent: None, children: Vec::new() },
        ppid: init.pid(),
        exit_signal: 0,
        rlimits: Rlimits::for_init(u64::from(max_threads())),
        has_subreaper: false,
        dumpable: 1,
        oom_score_adj: 0,
    }));
    group.reaps_itself.store(true, Relaxed);
    // Its own end must not start the next one.
    group.rlimits().clamp(limits::Resource::Core, 1);
    let user = cred::user_of(0);
    user.charge(UserResource::Processes, 1);
    let task = Arc::new(Task::new(TaskInit {
        pid_ref,
        group: group.clone(),
        cred: Arc::new(Cred::root()),
        user,
        nsproxy: NsProxy::initial(),
        mm: Some(Mm::new()?),
        files,
        fs,
        blocked: SigSet::EMPTY,
        comm: *b"kernel-helper\0\0\0",
    }));
    let start = move || {
        let path = args.first().cloned().unwrap_or_default();
        let words: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let outcome = exec::exec_first(&path, &words, &ENVIRONMENT);
        drop((path, words));
        drop(args);
        match outcome {
            // The base of the stack is left for good, so nothing may be alive here but the registers.
            Ok(regs) => hal::thread::enter_user(&regs),
            Err(_) => exit::exit_thread(127 << 8, &mut UserRegs::default()),
        }
    };
    let thread = sched::new_user_thread("kernel-helper", UserRegs::default(), Fpu::Fresh, start)?;
    if let Some(mm) = task.mm() {
        HalThread::set_first_page_table(thread.hal(), Some(mm.page_table().clone()));
    }
    task::bind(thread.hal(), task.clone());
    drop(task.thread.swap(Some(thread.clone())));
    let tree = lock_tree();
    group.nr_live.store(1, Relaxed);
    group.sig.lock().threads.push(task.clone());
    adopt(init, &group, &tree);
    pgrp::join(&group, &home, &tree);
    pid::set_task(task.tid(), Some(task.clone()));
    exit::count_thread();
    drop(tree);
    task.clear_flags(TaskFlags::FORKNOEXEC);
    sched::start(&thread, Placement::Fork);
    Ok(())
}
