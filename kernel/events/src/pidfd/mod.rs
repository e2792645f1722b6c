//! pidfd_open(2): a process or thread as a file, readable once it has ended.
//!
//! Two pidfds of one process have the same inode number, which no other process ever has (pidfs).
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
use hal::{UserAddr, user};
use process::hooks::OnClose;
use process::signal::{self, Target};
use process::{ExitState, Task, TaskFlags, ThreadGroup, hooks, pid};
use sched::PollTable;
use security::{Accessor, Cred, IdKind, ObserveIdentity};
use vfs::{File, FileMode, FileOps, InodeOps};

/// What a pidfd stands for.
#[derive(Clone)]
pub enum Subject {
    /// A process.
    Process(Arc<ThreadGroup>),
    /// One thread (`PIDFD_THREAD`).
    Thread(Arc<Task>),
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

/// An inode of pidfs has no operations of its own.
struct PidInode;
impl InodeOps for PidInode {}

impl Subject {
    /// The process.
    pub fn group(&self) -> &Arc<ThreadGroup> {
        match self {
            Self::Process(group) => group,
            Self::Thread(task) => task.group(),
        }
    }

    fn id(&self) -> u32 {
        match self {
            Self::Process(group) => group.pid(),
            Self::Thread(task) => task.tid(),
        }
    }

    fn ino(&self) -> u64 {
        match self {
            Self::Thread(task) if !task.is_leader() => task.unique_id(),
            other => other.group().unique_id(),
        }
    }

    /// Whether it has ended, reaped or not.
    fn has_ended(&self) -> bool {
        match self {
            Self::Process(group) => group.is_zombie(),
            Self::Thread(task) => task.has(TaskFlags::DEAD),
        }
    }

    /// Whether nobody can name it any more.
    fn is_gone(&self) -> bool {
        match self {
            Self::Process(group) => group.exit_state() == ExitState::Dead,
            Self::Thread(task) if task.is_leader() => task.group().exit_state() == ExitState::Dead,
            Self::Thread(task) => task.has(TaskFlags::DEAD),
        }
    }

    /// A task that shows its credentials and descriptors.
    fn task(&self) -> Option<Arc<Task>> {
        match self {
            Self::Process(group) => group.live_task(),
            Self::Thread(task) => Some(task.clone()),
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
        ioctl(&self.0, cmd, arg)
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
    let path = vfs::anon::pid_path(pidfd.0.ino(), Box::new(PidInode));
    File::new(path, Arc::new(pidfd), flags, cred)
}

/// The pidfd of `CLONE_PIDFD`.
pub(crate) fn for_clone(task: &Arc<Task>, on_close: OnClose) -> Result<Arc<File>> {
    let is_thread = !task.is_leader();
    let subject =
        if is_thread { Subject::Thread(task.clone()) } else { Subject::Process(task.group().clone()) };
    open(PidFd(subject, on_close), OpenFlags::empty(), &process::current().cred())
}

/// What pidfd_open(2) means. `EINVAL`: no positive id. `ESRCH`: no such process. `ENOENT`: a thread's id, and a process
/// is asked for.
pub fn find(pid: i32, flags: OpenFlags) -> Result<Subject> {
    let number = u32::try_from(pid).ok().filter(|&number| number > 0).ok_or(Errno::EINVAL)?;
    let task = pid::find_task(number).ok_or(Errno::ESRCH)?;
    if flags.contains(OpenFlags::EXCL) {
        return if task.has(TaskFlags::DEAD) { Err(Errno::ESRCH) } else { Ok(Subject::Thread(task)) };
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
        (Scope::Own, Subject::Thread(task)) => signal::send_checked(Target::Thread(task), sig, info),
        (Scope::Thread, _) => {
            let task = match subject {
                Subject::Thread(task) => task.clone(),
                Subject::Process(group) => group.leader().ok_or(Errno::ESRCH)?,
            };
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

/// Type byte of a pidfd's ioctls, and the number of `PIDFD_GET_INFO`; below it are those that open namespaces.
const IOCTL_TYPE: u32 = 0xff;
const GET_INFO: u32 = 11;

fn ioctl(subject: &Subject, cmd: u32, arg: usize) -> Result<usize> {
    let (kind, number, size) = (cmd >> 8 & 0xff, cmd & 0xff, (cmd >> 16 & 0x3fff) as usize);
    if kind != IOCTL_TYPE {
        return Err(Errno::ENOTTY);
    }
    match number {
        GET_INFO if cmd >> 30 == 3 => get_info(subject, UserAddr(arg as u64), size),
        1..GET_INFO if cmd >> 16 == 0 => {
            if arg != 0 {
                return Err(Errno::EINVAL);
            }
            let task = subject.task().filter(|_| !subject.has_ended()).ok_or(Errno::ESRCH)?;
            if !process::prctl::may_observe(&task, ObserveIdentity::Real) {
                return Err(Errno::EPERM);
            }
            hooks::open_namespace(&task, number)
        }
        _ => Err(Errno::ENOTTY),
    }
}

/// Bits of `pidfd_info::mask`.
mod info {
    pub const PID: u64 = 1;
    pub const CREDS: u64 = 2;
    pub const EXIT: u64 = 8;
    pub const SUPPORTED: u64 = 32;
    /// What is known here.
    pub const ALL: u64 = PID | CREDS | EXIT | SUPPORTED;
}

/// Words of `struct pidfd_info` in its first version: the mask, the control group's id, ten ids, and the exit code.
const INFO_WORDS: usize = 16;
/// Where the fourth version says which bits are known.
const SUPPORTED_AT: u64 = 80;

/// `PIDFD_GET_INFO`. `ENOTTY`: a structure smaller than its first version. `ESRCH`: it is gone, and its exit code was not
/// asked for.
fn get_info(subject: &Subject, out: UserAddr, size: usize) -> Result<usize> {
    if size < INFO_WORDS * 4 {
        return Err(Errno::ENOTTY);
    }
    let asked: u64 = user::read(out)?;
    let mut words = [0u32; INFO_WORDS];
    let mut mask = 0;
    if subject.is_gone() {
        if asked & info::EXIT == 0 {
            return Err(Errno::ESRCH);
        }
        mask |= info::EXIT;
        words[15] = match subject {
            Subject::Process(group) => group.exit_status(),
            Subject::Thread(task) => task.exit_code(),
        } as u32;
    } else {
        let task = subject.task().ok_or(Errno::ESRCH)?;
        let tid = match subject {
            Subject::Process(group) => group.pid(),
            Subject::Thread(task) => task.tid(),
        };
        let seen = pid::visible(tid);
        if seen == 0 {
            return Err(Errno::ESRCH);
        }
        mask |= info::PID | info::CREDS;
        let (cred, reader) = (task.cred(), process::current().cred());
        words[4] = seen;
        words[5] = pid::visible(task.pid());
        words[6] = pid::visible(task.group().ppid());
        let user = |id| reader.user_ns.show(IdKind::User, id);
        let group = |id| reader.user_ns.show(IdKind::Group, id);
        let ids = [
            user(cred.uid),
            group(cred.gid),
            user(cred.euid),
            group(cred.egid),
            user(cred.suid),
            group(cred.sgid),
            user(cred.fsuid),
        ];
        words[7..14].copy_from_slice(&ids);
        words[14] = group(cred.fsgid);
    }
    let tells_supported = asked & info::SUPPORTED != 0 && size >= SUPPORTED_AT as usize + 8;
    if tells_supported {
        mask |= info::SUPPORTED;
    }
    words[0] = mask as u32;
    words[1] = (mask >> 32) as u32;
    user::write(out, &words)?;
    // A newer program's structure is longer: what is not known here is zero.
    let zero = [0u8; 64];
    let rest = (size - INFO_WORDS * 4).min(zero.len());
    user::write(UserAddr(out.0.wrapping_add(INFO_WORDS as u64 * 4)), &zero[..rest])?;
    if tells_supported {
        user::write(UserAddr(out.0.wrapping_add(SUPPORTED_AT)), &info::ALL)?;
    }
    Ok(0)
}
