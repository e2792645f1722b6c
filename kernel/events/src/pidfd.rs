//! pidfd_open(2): a process as a file, readable once it has ended.
//!
//! Sources: pidfd_open(2), pidfd_send_signal(2), pidfd_getfd(2).

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::OpenFlags;
use abi::poll::PollEvents;
use abi::signal::SigInfo;
use abi::{Errno, Result};
use process::{ExitState, ThreadGroup, pid, signal};
use sched::PollTable;
use security::{Accessor, Cred, ObserveIdentity};
use vfs::{File, FileMode, FileOps};

/// The operations of a pidfd.
pub struct PidFd {
    group: Arc<ThreadGroup>,
}

impl FileOps for PidFd {
    fn mode(&self) -> FileMode {
        FileMode::STREAM
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        table.register(&self.group.exit_wait);
        match self.group.exit_state() {
            ExitState::Alive => PollEvents::empty(),
            ExitState::Dead => PollEvents::IN | PollEvents::RDNORM | PollEvents::HUP,
            _ => PollEvents::IN | PollEvents::RDNORM,
        }
    }

    fn show_fdinfo(&self, _file: &File, out: &mut Vec<u8>) {
        let is_gone = self.group.exit_state() == ExitState::Dead;
        let pid = if is_gone { -1 } else { i64::from(pid::visible(self.group.pid())) };
        out.extend_from_slice(format!("Pid:\t{pid}\nNSpid:\t{pid}").as_bytes());
        if pid > 0 {
            let ns = process::current().group().pid_ns().clone();
            for number in pid::numbers_from(self.group.pid(), &ns).into_iter().skip(1) {
                out.extend_from_slice(format!("\t{number}").as_bytes());
            }
        }
        out.push(b'\n');
    }
}

/// The process behind a pidfd; `None` for other files.
pub fn group_of(file: &File) -> Option<&Arc<ThreadGroup>> {
    file.ops_as::<PidFd>().map(|pidfd| &pidfd.group)
}

/// Makes a pidfd for `group`; of `flags`, `O_NONBLOCK` counts.
pub fn create(group: Arc<ThreadGroup>, flags: OpenFlags, cred: &Arc<Cred>) -> Result<Arc<File>> {
    let flags = OpenFlags::RDWR | flags & OpenFlags::NONBLOCK;
    vfs::anon::file("[pidfd]", Arc::new(PidFd { group }), flags, cred)
}

/// The pidfd of `CLONE_PIDFD`.
pub(crate) fn for_clone(group: &Arc<ThreadGroup>) -> Result<Arc<File>> {
    create(group.clone(), OpenFlags::empty(), &process::current().cred())
}

/// The process that pidfd_open(2) means. `EINVAL`: no positive id. `ESRCH`: no such process. `ENOENT`: a thread's id.
pub fn find(pid: i32) -> Result<Arc<ThreadGroup>> {
    let number = u32::try_from(pid).ok().filter(|&number| number > 0).ok_or(Errno::EINVAL)?;
    let task = pid::find_task(number).ok_or(Errno::ESRCH)?;
    if task.is_leader() { Ok(task.group().clone()) } else { Err(Errno::ENOENT) }
}

/// pidfd_send_signal(2) with the default or a given `siginfo`.
///
/// `ESRCH`: the process is gone. `EPERM`: no right, or a `siginfo` that only the kernel may send. `EINVAL`: no signal.
pub fn send_signal(group: &Arc<ThreadGroup>, sig: i32, info: Option<SigInfo>) -> Result<()> {
    let pid = group.pid();
    let is_there = pid::find_process(pid).is_some_and(|found| Arc::ptr_eq(&found, group));
    if !is_there || group.exit_state() == ExitState::Dead {
        return Err(Errno::ESRCH);
    }
    match info {
        None => signal::kill(pid as i32, sig),
        Some(info) if info.signo != sig => Err(Errno::EINVAL),
        Some(info) => signal::sigqueue(pid as i32, None, sig, info),
    }
}

/// pidfd_getfd(2): the open file behind descriptor `fd` of the process.
///
/// `ESRCH`: it has ended. `EPERM`: the caller may not trace it. `EBADF`: it has no such descriptor.
pub fn get_file(group: &ThreadGroup, fd: i32, cred: &Cred) -> Result<Arc<File>> {
    let task = group.live_task().filter(|_| !group.is_zombie()).ok_or(Errno::ESRCH)?;
    let is_dumpable = group.dumpable() == 1;
    let accessor = Accessor { cred, identity: ObserveIdentity::Real };
    if !security::may_observe(accessor, &task.cred(), is_dumpable) {
        return Err(Errno::EPERM);
    }
    task.files().ok_or(Errno::ESRCH)?.get_any(fd)
}
