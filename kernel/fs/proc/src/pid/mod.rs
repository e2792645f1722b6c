//! The directory of a process or thread.
//!
//! [`Target`] names whom an inode means without keeping it alive; [`Subject`] is what the functions of the tables get:
//! the task itself, for as long as one request takes.
//!
//! Who may look: text that tells about the address space or what the process does now needs the right to observe it
//! (`process::prctl::may_observe`), checked when it is opened ([`Kind::Memory`]) or read ([`Kind::Guarded`]).

mod accounts;
mod fd;
mod idmap;
mod inode;
mod map_files;
mod maps;
mod mem;
mod pagemap;
mod smaps;
mod stat;
mod status;
mod tables;
mod task_dir;
mod text;

use alloc::sync::{Arc, Weak};

use abi::{Errno, Result};
use mm::Mm;
use process::pid::{find_task_global, number_in};
use process::{PidNs, Task, ThreadGroup};
use security::{ObserveIdentity, UserNs};
use vfs::text::Text;
use vfs::{FileOps, Path};

pub(crate) use inode::{is_current, is_shown, make_dir, process_of_dir};
pub(crate) use tables::PROCESS_ENTRIES;

/// Whom an inode means, and whose numbers it shows.
#[derive(Clone)]
pub(crate) struct Target {
    /// The pid namespace of the mount.
    pub(crate) ns: PidNs,
    whom: Whom,
}

/// Numbers are those of the first pid namespace.
#[derive(Clone)]
enum Whom {
    /// The process with this id; shown through its leader.
    Process(u32, Weak<ThreadGroup>),
    /// One thread.
    Thread(u32, Weak<Task>),
}

impl Target {
    pub(crate) fn process(group: &Arc<ThreadGroup>, ns: &PidNs) -> Self {
        Self { ns: ns.clone(), whom: Whom::Process(group.pid(), Arc::downgrade(group)) }
    }

    pub(crate) fn thread(task: &Arc<Task>, ns: &PidNs) -> Self {
        Self { ns: ns.clone(), whom: Whom::Thread(task.tid(), Arc::downgrade(task)) }
    }

    /// The task, if it is still known by its number. `ESRCH`.
    pub(crate) fn task(&self) -> Result<Arc<Task>> {
        let task = match &self.whom {
            Whom::Process(pid, group) => {
                find_task_global(*pid).filter(|task| Arc::as_ptr(task.group()) == group.as_ptr())
            }
            Whom::Thread(tid, known) => {
                find_task_global(*tid).filter(|task| Arc::as_ptr(task) == known.as_ptr())
            }
        };
        task.ok_or(Errno::ESRCH)
    }

    /// The process, if the directory of a whole process means it; `None` for that of a thread.
    fn whole_process(&self) -> Option<Result<Arc<ThreadGroup>>> {
        let is_whole = matches!(self.whom, Whom::Process(..));
        is_whole.then(|| self.task().map(|task| task.group().clone()))
    }

    pub(crate) fn subject(&self) -> Result<Subject> {
        let is_whole = matches!(self.whom, Whom::Process(..));
        Ok(Subject { task: self.task()?, is_whole, ns: self.ns.clone() })
    }
}

/// Whom a request is about.
pub(crate) struct Subject {
    pub(crate) task: Arc<Task>,
    /// The whole process and not only this thread.
    pub(crate) is_whole: bool,
    /// Whose process numbers are shown.
    pub(crate) ns: PidNs,
}

impl Subject {
    /// The number to show for `global`; 0 where the mount's pid namespace has none.
    pub(crate) fn number(&self, global: u32) -> u32 {
        number_in(global, &self.ns)
    }

    /// The user namespace of the reader, whose ids are shown.
    pub(crate) fn reader_ns(&self) -> UserNs {
        process::try_current().map_or(UserNs::INITIAL, |me| me.cred().user_ns.clone())
    }

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
    /// A link to a namespace.
    Ns(nsfs::Which),
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
    /// Links to mapped files.
    MapFiles,
    /// Threads.
    Task,
    /// The network, as the process sees it.
    Net,
    /// A table.
    Table(&'static [Entry]),
}
