//! pidfd_open(2): a process or thread as a file, readable once it has ended.
//!
//! Two pidfds of one process have the same inode number, which no other process ever has (pidfs). A pidfd can be opened
//! again by its link in /proc, from a mount, and by a file handle ([`by_handle`]).
//!
//! Sources: pidfd_open(2), pidfd_send_signal(2), pidfd_getfd(2), include/uapi/linux/pidfd.h (Linux 7.2).

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::OpenFlags;
use abi::poll::PollEvents;
use abi::signal::SigInfo;
use abi::{Errno, Result};
use process::hooks::OnClose;
use process::signal::{self, Target};
use process::{ExitState, Task, TaskFlags, ThreadGroup, pid};
use sched::PollTable;
use security::{Accessor, Cred, ObserveIdentity};
use vfs::{File, FileMode, FileOps, Path};

mod info;
mod inode;

pub use inode::{by_handle, handle_of};

/// What a pidfd stands for.
#[derive(Clone)]
pub enum Subject {
    /// A process.
    Process(Arc<ThreadGroup>),
    /// The leader of a process, whichever thread that is (`PIDFD_THREAD`).
    Leader(Arc<ThreadGroup>),
    /// Another thread with the id it has (`PIDFD_THREAD`); by execve(2) it can become the leader, and that id ends.
    Thread(Arc<Task>, u32),
}

/// Which part of a process a signal is for (`PIDFD_SIGNAL_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What the pidfd stands for.
    Own,
    /// The thread.
    Thread,
    /// The process.
    Process,
    /// The process group that the process leads.
    ProcessGroup,
}

/// The operations of a pidfd.
pub struct PidFd(Subject, OnClose);

impl Subject {
    /// `task` as one thread.
    pub fn of_thread(task: &Arc<Task>) -> Self {
        if task.is_leader() {
            Self::Leader(task.group().clone())
        } else {
            Self::Thread(task.clone(), task.tid())
        }
    }

    /// The process.
    pub fn group(&self) -> &Arc<ThreadGroup> {
        match self {
            Self::Process(group) | Self::Leader(group) => group,
            Self::Thread(task, _) => task.group(),
        }
    }

    /// Its number in the first pid namespace.
    fn id(&self) -> u32 {
        match self {
            Self::Process(group) | Self::Leader(group) => group.pid(),
            Self::Thread(_, tid) => *tid,
        }
    }

    fn ino(&self) -> u64 {
        match self {
            Self::Process(group) | Self::Leader(group) => group.unique_id(),
            Self::Thread(task, _) => task.unique_id(),
        }
    }

    /// Whether it has ended, reaped or not. A leader has not ended before the other threads: one of them may still take
    /// its place.
    fn has_ended(&self) -> bool {
        match self {
            Self::Process(group) | Self::Leader(group) => group.is_zombie(),
            Self::Thread(..) => self.is_gone(),
        }
    }

    /// Whether nobody can name it any more.
    fn is_gone(&self) -> bool {
        match self {
            Self::Process(group) | Self::Leader(group) => group.exit_state() == ExitState::Dead,
            Self::Thread(task, tid) => task.has(TaskFlags::DEAD) || task.tid() != *tid,
        }
    }

    /// The wait status of one that is gone.
    fn exit_code(&self) -> i32 {
        match self {
            Self::Process(group) | Self::Leader(group) => group.exit_status(),
            Self::Thread(task, tid) if task.tid() != *tid => 0,
            Self::Thread(task, _) => task.exit_code(),
        }
    }

    /// A task that shows its credentials and descriptors.
    fn task(&self) -> Option<Arc<Task>> {
        match self {
            Self::Process(group) | Self::Leader(group) => group.live_task(),
            Self::Thread(task, _) => Some(task.clone()),
        }
    }
}

impl FileOps for PidFd {
    fn mode(&self) -> FileMode {
        FileMode::STREAM
    }

    fn can_poll(&self, _file: &File) -> bool {
        true
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        table.register(&self.0.group().exit_wait);
        if self.0.is_gone() {
            PollEvents::IN | PollEvents::RDNORM | PollEvents::HUP
        } else if self.0.has_ended() {
            PollEvents::IN | PollEvents::RDNORM
        } else {
            PollEvents::empty()
        }
    }

    fn release(&self, _file: &File) {
        if self.1 == OnClose::Kill && !self.0.has_ended() {
            let info = SigInfo::new(abi::signal::SIGKILL, abi::signal::SI_KERNEL);
            signal::send_kernel(Target::Group(self.0.group()), info);
        }
    }

    fn ioctl(&self, _file: &Arc<File>, cmd: u32, arg: usize) -> Result<usize> {
        info::ioctl(&self.0, cmd, arg)
    }

    fn show_fdinfo(&self, _file: &File, out: &mut Vec<u8>) {
        let pid = if self.0.is_gone() { -1 } else { i64::from(pid::visible(self.0.id())) };
        out.extend_from_slice(format!("Pid:\t{pid}\nNSpid:\t{pid}").as_bytes());
        if pid > 0 {
            let ns = process::current().group().pid_ns().clone();
            for number in pid::numbers_from(self.0.id(), &ns).into_iter().skip(1) {
                out.extend_from_slice(format!("\t{number}").as_bytes());
            }
        }
        out.push(b'\n');
    }
}

/// What `file`, a pidfd, stands for; `None` for other files.
pub fn subject_of(file: &File) -> Option<&Subject> {
    file.ops_as::<PidFd>().map(|pidfd| &pidfd.0)
}

/// The process behind a pidfd; `None` for other files.
pub fn group_of(file: &File) -> Option<&Arc<ThreadGroup>> {
    subject_of(file).map(Subject::group)
}

/// Makes a pidfd; of `flags`, `O_NONBLOCK` counts, and `O_EXCL` says that it is one of a thread.
pub fn create(subject: Subject, flags: OpenFlags, cred: &Arc<Cred>) -> Result<Arc<File>> {
    open(PidFd(subject, OnClose::Nothing), flags, cred)
}

fn open(pidfd: PidFd, flags: OpenFlags, cred: &Arc<Cred>) -> Result<Arc<File>> {
    let flags = OpenFlags::RDWR | flags & (OpenFlags::NONBLOCK | OpenFlags::EXCL);
    let path = path_of(&pidfd.0);
    let file = File::new(path, Arc::new(pidfd), flags, cred)?;
    // Opening drops it from the flags, and F_GETFL tells it of a thread's.
    file.update_flags(OpenFlags::EXCL, flags);
    Ok(file)
}

/// Where it is in pidfs.
fn path_of(subject: &Subject) -> Path {
    vfs::anon::pid_path(subject.ino(), Box::new(inode::PidInode(subject.clone())))
}

/// The pidfd of `CLONE_PIDFD`.
pub(crate) fn for_clone(task: &Arc<Task>, on_close: OnClose) -> Result<Arc<File>> {
    let subject =
        if task.is_leader() { Subject::Process(task.group().clone()) } else { Subject::of_thread(task) };
    open(PidFd(subject, on_close), OpenFlags::empty(), &process::current().cred())
}

/// What pidfd_open(2) means. `EINVAL`: no positive id. `ESRCH`: no such process. `ENOENT`: a thread's id, and a process
/// is asked for.
pub fn find(pid: i32, flags: OpenFlags) -> Result<Subject> {
    let number = u32::try_from(pid).ok().filter(|&number| number > 0).ok_or(Errno::EINVAL)?;
    let task = pid::find_task(number).ok_or(Errno::ESRCH)?;
    if flags.contains(OpenFlags::EXCL) {
        let subject = Subject::of_thread(&task);
        return if subject.is_gone() { Err(Errno::ESRCH) } else { Ok(subject) };
    }
    if task.is_leader() { Ok(Subject::Process(task.group().clone())) } else { Err(Errno::ENOENT) }
}

/// pidfd_send_signal(2) with the default or a given `siginfo`.
///
/// `ESRCH`: it is gone. `EPERM`: no right, or a `siginfo` that only the kernel may send. `EINVAL`: no signal.
pub fn send_signal(subject: &Subject, sig: i32, info: Option<SigInfo>, scope: Scope) -> Result<()> {
    if info.is_some_and(|info| info.signo != sig) {
        return Err(Errno::EINVAL);
    }
    if subject.is_gone() {
        return Err(Errno::ESRCH);
    }
    match (scope, subject) {
        (Scope::ProcessGroup, _) => {
            let pgrp = pid::find_pgrp_global(subject.id()).ok_or(Errno::ESRCH)?;
            signal::send_checked_pgrp(&pgrp, sig, info)
        }
        (Scope::Own | Scope::Thread, Subject::Thread(task, _)) => {
            signal::send_checked(Target::Thread(task), sig, info)
        }
        (Scope::Thread, _) | (Scope::Own, Subject::Leader(_)) => {
            let task = subject.group().leader().ok_or(Errno::ESRCH)?;
            signal::send_checked(Target::Thread(&task), sig, info)
        }
        _ => signal::send_checked(Target::Group(subject.group()), sig, info),
    }
}

/// pidfd_getfd(2): the open file behind descriptor `fd` of the process.
///
/// `ESRCH`: it has ended. `EPERM`: the caller may not trace it. `EBADF`: it has no such descriptor.
pub fn get_file(subject: &Subject, fd: i32, cred: &Cred) -> Result<Arc<File>> {
    let task = subject.task().filter(|_| !subject.has_ended()).ok_or(Errno::ESRCH)?;
    let is_dumpable = task.group().dumpable() == 1;
    let accessor = Accessor { cred, identity: ObserveIdentity::Real };
    if !security::may_observe(accessor, &task.cred(), is_dumpable) {
        return Err(Errno::EPERM);
    }
    task.files().ok_or(Errno::ESRCH)?.get_any(fd)
}
