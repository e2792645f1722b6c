//! Inodes of a process's directory: owners, look-up, opening.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::fs::{S_IFDIR, S_IFLNK, S_IFREG, Statx};
use abi::{Errno, Result};
use mm::Mm;
use process::{Task, ThreadGroup};
use security::{Access, Cred};
use vfs::inode::{Link, SetAttr};
use vfs::listing::{DirFile, Each, Listing};
use vfs::text::{Content, Text, TextFile};
use vfs::{File, FileMode, FileOps, Inode, InodeFlags, InodeOps, OpenRequest, Path};

use super::{DirKind, Entry, Kind, Target, fd, map_files, task_dir};
use crate::dir::{DIR, Fresh};
use crate::super_ops::Options;

impl Entry {
    fn full_mode(&self) -> u32 {
        self.mode
            | match self.kind {
                Kind::Dir(_) => S_IFDIR,
                Kind::Link(_) | Kind::Ns(_) => S_IFLNK,
                _ => S_IFREG,
            }
    }
}

/// Owner of what shows `task`: its own, unless its privileges forbid others of the same user to look into it.
/// The plain directory itself always shows who runs.
pub(super) fn owner_of(task: &Task, mode: u32) -> (u32, u32) {
    if mode == DIR || task.group().dumpable() == 1 {
        task.with_cred(|cred| (cred.euid, cred.egid))
    } else {
        (0, 0)
    }
}

/// Makes an inode that belongs to the target.
pub(super) fn make(
    dir: &Inode,
    name: &[u8],
    mode: u32,
    task: &Task,
    flags: InodeFlags,
    ops: Box<dyn InodeOps>,
) -> Arc<Inode> {
    let mut new = Fresh::root_owned(dir, name, mode);
    new.owner = owner_of(task, mode);
    new.flags = flags;
    new.make(ops)
}

/// The directory of `target`, with the entries of `table`.
pub(crate) fn make_dir(
    dir: &Inode,
    name: &[u8],
    task: &Task,
    target: Target,
    table: &'static [Entry],
) -> Arc<Inode> {
    let flags = InodeFlags::VOLATILE | InodeFlags::OWN_PERMISSION;
    make(dir, name, DIR, task, flags, Box::new(PidDir { target, table }))
}

/// Whether the inode, if it shows a process or thread, shows one that is still there. Brings its owner up to date.
pub(crate) fn is_current(inode: &Arc<Inode>) -> bool {
    let target = match (inode.ops_as::<PidDir>(), inode.ops_as::<PidNode>()) {
        (Some(dir), _) => &dir.target,
        (_, Some(node)) => &node.target,
        _ => return true,
    };
    target.task().map(|task| refresh(inode, &task)).is_ok()
}

/// Whether the options of the instance with the root `dir` let the caller find `inode` there.
pub(crate) fn is_shown(dir: &Inode, inode: &Inode) -> bool {
    let Some(options) = Options::of(dir) else { return true };
    match inode.ops_as::<PidDir>() {
        Some(pid) => pid.target.task().is_ok_and(|task| options.shows(&task)),
        None => true,
    }
}

/// Brings the owner of `inode` up to date.
pub(super) fn refresh(inode: &Inode, task: &Task) {
    let (uid, gid) = owner_of(task, inode.mode());
    if (uid, gid) != (inode.uid(), inode.gid()) {
        let ctime = inode.times().ctime;
        inode.apply(&SetAttr { uid: Some(uid), gid: Some(gid), ctime, ..SetAttr::default() });
    }
}

/// Brings the owner in `stat` up to date. What is gone keeps the last one.
pub(super) fn refresh_stat(inode: &Inode, target: &Target, stat: &mut Statx) {
    if let Ok(task) = target.task() {
        refresh(inode, &task);
        (stat.stx_uid, stat.stx_gid) = (inode.uid(), inode.gid());
    }
}

/// Owner and mode follow the process; truncating is no error.
pub(super) fn set_attr(inode: &Inode, change: &SetAttr) -> Result<()> {
    if change.mode.is_some() || change.uid.is_some() || change.gid.is_some() {
        return Err(Errno::EPERM);
    }
    inode.apply(change);
    Ok(())
}

/// A directory with the entries of a table.
struct PidDir {
    target: Target,
    table: &'static [Entry],
}

impl InodeOps for PidDir {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let task = self.target.task().map_err(|_| Errno::ENOENT)?;
        let entry = self.table.iter().find(|entry| entry.name.as_bytes() == name).ok_or(Errno::ENOENT)?;
        Ok(Some(make_entry(dir, entry, &self.target, &task)))
    }

    fn revalidate(&self, _dir: &Arc<Inode>, _name: &[u8], inode: Option<&Arc<Inode>>) -> bool {
        let Ok(task) = self.target.task() else { return false };
        inode.is_some_and(|inode| {
            refresh(inode, &task);
            true
        })
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(DirFile(TableListing { target: self.target.clone(), table: self.table })))
    }

    fn get_attr(&self, inode: &Arc<Inode>, stat: &mut Statx) -> Result<()> {
        refresh_stat(inode, &self.target, stat);
        Ok(())
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        set_attr(inode, change)
    }

    /// As the mode says, where the instance's options let the caller in. `EPERM`: they do not.
    fn permission(&self, inode: &Inode, cred: &Cred, wanted: Access) -> Result<()> {
        let task = self.target.task()?;
        if Options::of(inode).is_some_and(|options| !options.lets_in(&task)) {
            return Err(Errno::EPERM);
        }
        security::inode_permission(cred, &inode.ids(), wanted)
    }
}

/// The process whose directory `file` is; `None` for other files. `ESRCH`: it was reaped.
pub(crate) fn process_of_dir(file: &File) -> Option<Result<Arc<ThreadGroup>>> {
    if file.mode().contains(FileMode::PATH) {
        return None;
    }
    let dir = file.inode().ops_as::<PidDir>()?;
    if core::ptr::eq(dir.table, super::PROCESS_ENTRIES) { dir.target.whole_process() } else { None }
}

fn make_entry(dir: &Inode, entry: &'static Entry, target: &Target, task: &Task) -> Arc<Inode> {
    let (name, mode) = (entry.name.as_bytes(), entry.full_mode());
    match entry.kind {
        Kind::Dir(DirKind::Table(table)) => make(
            dir,
            name,
            mode,
            task,
            InodeFlags::VOLATILE,
            Box::new(PidDir { target: target.clone(), table }),
        ),
        Kind::Dir(DirKind::Net) => crate::node::make(dir, &crate::system::NET),
        Kind::Dir(DirKind::Fd) => fd::make_dir(dir, name, target, task, fd::Show::Links),
        Kind::Dir(DirKind::FdInfo) => fd::make_dir(dir, name, target, task, fd::Show::Info),
        Kind::Dir(DirKind::MapFiles) => map_files::make_dir(dir, name, target, task),
        Kind::Dir(DirKind::Task) => task_dir::make_dir(dir, name, target, task),
        _ => {
            let ops = Box::new(PidNode { target: target.clone(), entry });
            make(dir, name, mode, task, InodeFlags::empty(), ops)
        }
    }
}

struct TableListing {
    target: Target,
    table: &'static [Entry],
}

impl Listing for TableListing {
    fn list(&self, from: u64, each: &mut Each<'_>) -> Result<()> {
        self.target.task().map_err(|_| Errno::ENOENT)?;
        let start = usize::try_from(from).unwrap_or(usize::MAX);
        for (at, entry) in self.table.iter().enumerate().skip(start) {
            if !each(entry.name.as_bytes(), entry.full_mode(), at as u64 + 1) {
                break;
            }
        }
        Ok(())
    }
}

/// A file or link of a table.
struct PidNode {
    target: Target,
    entry: &'static Entry,
}

impl PidNode {
    /// Where a link leads, for those who may look into the process.
    fn path(&self) -> Result<Path> {
        let subject = self.target.subject().map_err(|_| Errno::ENOENT)?;
        match self.entry.kind {
            Kind::Link(path) => {
                subject.check_observer()?;
                path(&subject.task)
            }
            Kind::Ns(which) => {
                subject.check_observer()?;
                nsfs::Namespace::of(&subject.task, which).map(nsfs::Namespace::path)
            }
            _ => Err(Errno::EACCES),
        }
    }
}

/// `path` as the caller sees it.
pub(super) fn spell_for_caller(path: &Path) -> Vec<u8> {
    let root = process::try_current().and_then(|me| me.fs()).map(|fs| fs.root());
    path.display(root.as_ref())
}

impl InodeOps for PidNode {
    fn read_link(&self, _inode: &Arc<Inode>) -> Result<Link> {
        self.path().map(Link::Magic)
    }

    fn link_text(&self, _inode: &Arc<Inode>) -> Result<Vec<u8>> {
        self.path().map(|path| spell_for_caller(&path))
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        match self.entry.kind {
            Kind::Memory(show) => {
                let subject = self.target.subject()?;
                subject.check_observer()?;
                let mm = subject.task.mm().map_or_else(Weak::new, |mm| Arc::downgrade(&mm));
                Ok(TextFile::of_lines(MemoryText { show, mm }))
            }
            Kind::Special(open) => open(&self.target.subject()?),
            _ => Ok(TextFile::open(PidText { target: self.target.clone(), entry: self.entry })),
        }
    }

    fn get_attr(&self, inode: &Arc<Inode>, stat: &mut Statx) -> Result<()> {
        refresh_stat(inode, &self.target, stat);
        Ok(())
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        set_attr(inode, change)
    }
}

/// Text made of the task.
struct PidText {
    target: Target,
    entry: &'static Entry,
}

impl Content for PidText {
    fn show(&self, out: &mut Text) -> Result<()> {
        let subject = self.target.subject()?;
        match self.entry.kind {
            Kind::Text(show) | Kind::Tunable(show, _) => show(&subject, out),
            Kind::Guarded(show) => {
                subject.check_observer()?;
                show(&subject, out)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn store(&self, bytes: &[u8]) -> Result<()> {
        match self.entry.kind {
            Kind::Tunable(_, store) => store(&self.target.subject()?, bytes),
            _ => Err(Errno::EIO),
        }
    }
}

/// Text made of an address space; empty once that is gone.
struct MemoryText {
    show: fn(&Mm, &mut Text) -> Result<()>,
    mm: Weak<Mm>,
}

impl Content for MemoryText {
    fn show(&self, out: &mut Text) -> Result<()> {
        match self.mm.upgrade() {
            Some(mm) => (self.show)(&mm, out),
            None => Ok(()),
        }
    }
}
