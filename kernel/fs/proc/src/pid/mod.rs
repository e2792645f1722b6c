//! The directory of a process or thread.
//!
//! [`Target`] names whom an inode means without keeping it alive; [`Subject`] is what the functions of the tables get:
//! the task itself, for as long as one request takes.
//!
//! Who may look: text that tells about the address space or what the process does now needs the right to observe it
//! (`process::prctl::may_observe`), checked when it is opened ([`Kind::Memory`]) or read ([`Kind::Guarded`]).

mod accounts;
mod fd;
mod inode;
mod maps;
mod mem;
mod smaps;
mod stat;
mod status;
mod tables;
mod task_dir;
mod text;

use alloc::sync::{Arc, Weak};

use abi::{Errno, Result};
use mm::Mm;
use process::pid::find_task;
use process::{Task, ThreadGroup};
use security::ObserveIdentity;
use vfs::text::Text;
use vfs::{FileOps, Path};

pub(crate) use inode::{is_current, make_dir};
pub(crate) use tables::PROCESS_ENTRIES;

/// Whom an inode means.
#[derive(Clone)]
pub(crate) enum Target {
    /// The process with this id; shown through its leader.
    Process(u32, Weak<ThreadGroup>),
    /// One thread.
    Thread(u32, Weak<Task>),
}

impl Target {
    pub(crate) fn process(group: &Arc<ThreadGroup>) -> Self {
        Self::Process(group.pid(), Arc::downgrade(group))
    }

    pub(crate) fn thread(task: &Arc<Task>) -> Self {
        Self::Thread(task.tid(), Arc::downgrade(task))
    }

    /// The task, if it is still known by its number. `ESRCH`.
    pub(crate) fn task(&self) -> Result<Arc<Task>> {
        let task = match self {
            Self::Process(pid, group) => {
                find_task(*pid).filter(|task| Arc::as_ptr(task.group()) == group.as_ptr())
            }
            Self::Thread(tid, known) => find_task(*tid).filter(|task| Arc::as_ptr(task) == known.as_ptr()),
        };
        task.ok_or(Errno::ESRCH)
    }

    pub(crate) fn subject(&self) -> Result<Subject> {
        Ok(Subject { task: self.task()?, is_whole: matches!(self, Self::Process(..)) })
    }
}

/// Whom a request is about.
pub(crate) struct Subject {
    pub(crate) task: Arc<Task>,
    /// The whole process and not only this thread.
    pub(crate) is_whole: bool,
}

impl Subject {
    /// Whether the caller may look into it.
    pub(crate) fn may_observe(&self) -> bool {
        process::prctl::may_observe(&self.task, ObserveIdentity::File)
    }

    /// `EACCES` unless the caller may look into it.
    pub(crate) fn check_observer(&self) -> Result<()> {
        if self.may_observe() { Ok(()) } else { Err(Errno::EACCES) }
    }
}

/// A name in the directory of a process or thread.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) kind: Kind,
}

/// What is behind the name.
pub(crate) enum Kind {
    /// Text for whoever may open it.
    Text(fn(&Subject, &mut Text) -> Result<()>),
    /// Text for those who may look into the process; asked at each read.
    Guarded(fn(&Subject, &mut Text) -> Result<()>),
    /// Text about the address space that the process had when it was opened, by those who may look into it.
    Memory(fn(&Mm, &mut Text) -> Result<()>),
    /// Text that can be written.
    Tunable(fn(&Subject, &mut Text) -> Result<()>, fn(&Subject, &[u8]) -> Result<()>),
    /// A link to what a path leads to.
    Link(fn(&Task) -> Result<Path>),
    /// A link that only names something: a namespace.
    Name(&'static str, u32),
    /// A directory with its own rules.
    Dir(DirKind),
    /// A file that is no text.
    Special(fn(&Subject) -> Result<Arc<dyn FileOps>>),
}

/// The directories below.
#[derive(Clone, Copy)]
pub(crate) enum DirKind {
    /// Links to open files.
    Fd,
    /// Text about open files.
    FdInfo,
    /// Threads.
    Task,
    /// The network, as the process sees it.
    Net,
    /// A table.
    Table(&'static [Entry]),
}
