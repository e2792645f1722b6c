//! /proc/PID/map_files: a link for each mapping of a file, named by its addresses (proc_pid_map_files(5)).

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{ControlFlow, Range};

use abi::fs::{S_IFDIR, S_IFLNK, Statx};
use abi::{Errno, Result};
use process::Task;
use security::{Access, Cap, Cred};
use vfs::inode::{Link, SetAttr};
use vfs::listing::{DirFile, Each, Listing};
use vfs::{File, FileMode, FileOps, Inode, InodeFlags, InodeOps, OpenRequest, Path};

use super::Target;
use super::inode::{make, refresh, refresh_stat, set_attr, spell_for_caller};

pub(super) fn make_dir(dir: &Inode, name: &[u8], target: &Target, task: &Task) -> Arc<Inode> {
    let flags = InodeFlags::VOLATILE | InodeFlags::OWN_PERMISSION;
    make(dir, name, S_IFDIR | 0o500, task, flags, Box::new(MapFiles { target: target.clone() }))
}

/// A mapping of a file.
struct Mapped {
    range: Range<u64>,
    path: Path,
    /// Of the link: what the file was opened for.
    mode: u32,
}

/// The mappings of files that end above `from`, until `each` breaks.
fn for_each_mapped(task: &Task, from: u64, mut each: impl FnMut(Mapped) -> ControlFlow<()>) {
    let Some(mm) = task.mm() else { return };
    mm.for_each_raw(from, |vma| {
        let object = vma.attr.shown().and_then(|(object, _)| object.as_any());
        let Some(file) = object.and_then(|any| any.downcast_ref::<File>()) else {
            return ControlFlow::Continue(());
        };
        let read = if file.mode().contains(FileMode::READ) { 0o400 } else { 0 };
        let write = if file.mode().contains(FileMode::WRITE) { 0o200 } else { 0 };
        let mode = S_IFLNK | read | write;
        each(Mapped { range: vma.start..vma.end, path: file.path().clone(), mode })
    });
}

/// The mapping of a file with exactly these addresses. `ENOENT`: there is none.
fn find(task: &Task, range: &Range<u64>) -> Result<Mapped> {
    let mut found = None;
    for_each_mapped(task, range.start, |mapped| {
        found = (mapped.range == *range).then_some(mapped);
        ControlFlow::Break(())
    });
    found.ok_or(Errno::ENOENT)
}

/// Two addresses in lower-case digits without zeroes before them.
fn parse(name: &[u8]) -> Option<Range<u64>> {
    let (start, end) = core::str::from_utf8(name).ok()?.split_once('-')?;
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let range = number(start)?..number(end)?;
    (spell(&range).as_bytes() == name).then_some(range)
}

fn spell(range: &Range<u64>) -> alloc::string::String {
    format!("{:x}-{:x}", range.start, range.end)
}

struct MapFiles {
    target: Target,
}

impl InodeOps for MapFiles {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let subject = self.target.subject().map_err(|_| Errno::ENOENT)?;
        subject.check_observer()?;
        let range = parse(name).ok_or(Errno::ENOENT)?;
        let mapped = find(&subject.task, &range)?;
        let ops = Box::new(MapFile { target: self.target.clone(), range });
        Ok(Some(make(dir, name, mapped.mode, &subject.task, InodeFlags::empty(), ops)))
    }

    fn revalidate(&self, _dir: &Arc<Inode>, name: &[u8], inode: Option<&Arc<Inode>>) -> bool {
        let (Some(inode), Some(range), Ok(task)) = (inode, parse(name), self.target.task()) else {
            return false;
        };
        refresh(inode, &task);
        find(&task, &range).is_ok_and(|mapped| mapped.mode == inode.mode())
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(DirFile(Mappings(self.target.clone()))))
    }

    fn get_attr(&self, inode: &Arc<Inode>, stat: &mut Statx) -> Result<()> {
        refresh_stat(inode, &self.target, stat);
        Ok(())
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        set_attr(inode, change)
    }

    fn permission(&self, inode: &Inode, cred: &Cred, wanted: Access) -> Result<()> {
        security::inode_permission(cred, &inode.ids(), wanted)
    }
}

struct Mappings(Target);

impl Listing for Mappings {
    fn list(&self, from: u64, each: &mut Each<'_>) -> Result<()> {
        let subject = self.0.subject().map_err(|_| Errno::ENOENT)?;
        subject.check_observer()?;
        // Addresses are positions; the names are collected, as `each` may touch user memory.
        let mut ranges = Vec::new();
        for_each_mapped(&subject.task, from, |mapped| {
            let has_room = ranges.try_reserve(1).is_ok();
            if has_room {
                ranges.push(mapped.range);
            }
            if has_room { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        for range in ranges {
            if !each(spell(&range).as_bytes(), S_IFLNK, range.end) {
                break;
            }
        }
        Ok(())
    }
}

/// The link of one mapping.
struct MapFile {
    target: Target,
    range: Range<u64>,
}

impl MapFile {
    fn path(&self) -> Result<Path> {
        let subject = self.target.subject().map_err(|_| Errno::ENOENT)?;
        subject.check_observer()?;
        Ok(find(&subject.task, &self.range)?.path)
    }
}

impl InodeOps for MapFile {
    /// `EPERM`: following it leads around the permissions of the folders above, and the caller has no power to do that.
    fn read_link(&self, _inode: &Arc<Inode>) -> Result<Link> {
        let me = process::try_current().ok_or(Errno::EPERM)?;
        if !me.with_cred(|cred| cred.capable(Cap::SYS_ADMIN) || cred.capable(Cap::CHECKPOINT_RESTORE)) {
            return Err(Errno::EPERM);
        }
        self.path().map(Link::Magic)
    }

    fn link_text(&self, _inode: &Arc<Inode>) -> Result<Vec<u8>> {
        self.path().map(|path| spell_for_caller(&path))
    }

    fn get_attr(&self, inode: &Arc<Inode>, stat: &mut Statx) -> Result<()> {
        refresh_stat(inode, &self.target, stat);
        stat.stx_size = 64;
        Ok(())
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        set_attr(inode, change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        assert_eq!(parse(b"400000-401000"), Some(0x40_0000..0x40_1000));
        for bad in [&b"0400000-401000"[..], b"400000", b"-", b"400000-40100G", b"ABC000-ABD000"] {
            assert_eq!(parse(bad), None);
        }
    }
}
