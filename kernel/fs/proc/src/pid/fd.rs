//! /proc/PID/fd and /proc/PID/fdinfo.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{S_IFDIR, S_IFLNK, S_IFREG, Statx};
use abi::{Errno, Result};
use process::Task;
use security::{Access, Cred};
use vfs::inode::{Link, SetAttr};
use vfs::listing::{DirFile, Each, Listing};
use vfs::text::{Content, Text, TextFile};
use vfs::{FdFlags, File, FileMode, FileOps, Inode, InodeFlags, InodeOps, OpenRequest, put};

use super::inode::{make, refresh, refresh_stat, set_attr, spell_for_caller};
use super::{Subject, Target};

/// Which of the two directories.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// Links to the open files.
    Links,
    /// Text about them.
    Info,
}

pub(super) fn make_dir(dir: &Inode, name: &[u8], target: &Target, task: &Task, show: Show) -> Arc<Inode> {
    let mode = S_IFDIR | if show == Show::Links { 0o500 } else { 0o555 };
    let flags = InodeFlags::VOLATILE | InodeFlags::OWN_PERMISSION;
    make(dir, name, mode, task, flags, Box::new(FdDir { target: target.clone(), show }))
}

/// The file behind descriptor `fd`. `ENOENT`: there is none.
fn file_of(task: &Task, fd: i32) -> Result<Arc<File>> {
    let files = task.files().ok_or(Errno::ENOENT)?;
    files.get_any(fd).map_err(|_| Errno::ENOENT)
}

fn parse_fd(name: &[u8]) -> Option<i32> {
    let is_plain = name == b"0" || (name.iter().all(u8::is_ascii_digit) && name.first() != Some(&b'0'));
    core::str::from_utf8(name).ok().filter(|_| is_plain)?.parse().ok()
}

/// The mode of a link: what the descriptor can do.
fn link_mode(file: &File) -> u32 {
    let read = if file.mode().contains(FileMode::READ) { 0o500 } else { 0 };
    let write = if file.mode().contains(FileMode::WRITE) { 0o300 } else { 0 };
    S_IFLNK | read | write
}

struct FdDir {
    target: Target,
    show: Show,
}

impl InodeOps for FdDir {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let task = self.target.task().map_err(|_| Errno::ENOENT)?;
        let fd = parse_fd(name).ok_or(Errno::ENOENT)?;
        let file = file_of(&task, fd)?;
        let ops = Box::new(FdNode { target: self.target.clone(), fd });
        let mode = if self.show == Show::Links { link_mode(&file) } else { S_IFREG | 0o444 };
        Ok(Some(make(dir, name, mode, &task, InodeFlags::empty(), ops)))
    }

    fn revalidate(&self, _dir: &Arc<Inode>, name: &[u8], inode: Option<&Arc<Inode>>) -> bool {
        let (Some(inode), Some(fd), Ok(task)) = (inode, parse_fd(name), self.target.task()) else {
            return false;
        };
        let Ok(file) = file_of(&task, fd) else { return false };
        refresh(inode, &task);
        self.show == Show::Info || inode.mode() == link_mode(&file)
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(DirFile(Descriptors(self.target.clone(), self.show))))
    }

    fn get_attr(&self, inode: &Arc<Inode>, stat: &mut Statx) -> Result<()> {
        refresh_stat(inode, &self.target, stat);
        if let Some(files) = self.target.task().ok().and_then(|task| task.files()) {
            stat.stx_size = files.fds().len() as u64;
        }
        Ok(())
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        set_attr(inode, change)
    }

    /// As the mode says; a process may always look into its own.
    fn permission(&self, inode: &Inode, cred: &Cred, wanted: Access) -> Result<()> {
        security::inode_permission(cred, &inode.ids(), wanted).or_else(|errno| {
            let (Some(me), Ok(task)) = (process::try_current(), self.target.task()) else {
                return Err(errno);
            };
            if Arc::ptr_eq(me.group(), task.group()) { Ok(()) } else { Err(errno) }
        })
    }
}

struct Descriptors(Target, Show);

impl Listing for Descriptors {
    fn list(&self, from: u64, each: &mut Each<'_>) -> Result<()> {
        let task = self.0.task().map_err(|_| Errno::ENOENT)?;
        let Some(files) = task.files() else { return Ok(()) };
        let mode = if self.1 == Show::Links { S_IFLNK } else { S_IFREG };
        for fd in files.fds() {
            let at = u64::try_from(fd).unwrap_or(0);
            if at >= from && !each(format!("{fd}").as_bytes(), mode, at + 1) {
                break;
            }
        }
        Ok(())
    }
}

/// A descriptor: a link in one directory, text in the other.
struct FdNode {
    target: Target,
    fd: i32,
}

impl FdNode {
    fn file(&self) -> Result<Arc<File>> {
        let subject = self.target.subject().map_err(|_| Errno::ENOENT)?;
        subject.check_observer()?;
        file_of(&subject.task, self.fd)
    }
}

impl InodeOps for FdNode {
    fn read_link(&self, _inode: &Arc<Inode>) -> Result<Link> {
        Ok(Link::Magic(self.file()?.path().clone()))
    }

    fn link_text(&self, _inode: &Arc<Inode>) -> Result<Vec<u8>> {
        Ok(spell_for_caller(self.file()?.path()))
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        self.target.subject()?.check_observer()?;
        Ok(TextFile::open(FdInfo { target: self.target.clone(), fd: self.fd }))
    }

    fn get_attr(&self, inode: &Arc<Inode>, stat: &mut Statx) -> Result<()> {
        refresh_stat(inode, &self.target, stat);
        Ok(())
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        set_attr(inode, change)
    }
}

struct FdInfo {
    target: Target,
    fd: i32,
}

impl Content for FdInfo {
    fn show(&self, out: &mut Text) -> Result<()> {
        let subject: Subject = self.target.subject()?;
        let files = subject.task.files().ok_or(Errno::ENOENT)?;
        let file = files.get_any(self.fd).map_err(|_| Errno::ENOENT)?;
        let cloexec = files.fd_flags(self.fd).is_ok_and(|flags| flags.contains(FdFlags::CLOEXEC));
        const O_CLOEXEC: u32 = 0o2000000;
        let flags = vfs::fcntl::status_flags(&file).bits() | if cloexec { O_CLOEXEC } else { 0 };
        put!(out, "pos:\t{}\nflags:\t0{flags:o}\n", file.pos());
        put!(out, "mnt_id:\t{}\nino:\t{}\n", file.path().mount.id(), file.inode().ino());
        let mut more = Vec::new();
        file.ops().show_fdinfo(&file, &mut more);
        out.push(&more);
        Ok(())
    }
}
