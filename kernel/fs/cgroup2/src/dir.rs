//! The directory of a group.

use alloc::sync::Arc;

use abi::fs::{S_IFDIR, S_IFMT, S_IFREG};
use abi::{Errno, Result};
use cgroup::Cgroup;
use vfs::inode::FileKind;
use vfs::readdir::emit_dots;
use vfs::rw::seek_unsized;
use vfs::xattr::Store;
use vfs::{DirEmit, File, FileOps, Inode, InodeOps, NewInode, OpenRequest, Whence};

use crate::file::FileNode;
use crate::part::{self, Part};
use crate::table::{self, Entry};

/// The operations of its inode.
pub(crate) struct Dir {
    group: Arc<Cgroup>,
    xattrs: Store,
}

impl Dir {
    pub(crate) fn new(group: &Arc<Cgroup>) -> Self {
        Self { group: group.clone(), xattrs: Store::new() }
    }

    pub(crate) fn group(&self) -> &Arc<Cgroup> {
        &self.group
    }
}

impl InodeOps for Dir {
    fn lookup(&self, _dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let entry = table::named(name);
        // Who turns a controller on makes its files, and owns them: nobody else does so meanwhile.
        let _held = entry.is_some_and(Entry::is_of_controller).then(cgroup::lock);
        if let Some(entry) = entry.filter(|entry| entry.is_in(&self.group)) {
            return Part::of(&self.group).file(entry).map(Some);
        }
        let child = self.group.child(name);
        Ok(child.and_then(|child| Part::of(&child).dir()))
    }

    /// What came again under its name is another, with an owner and rights of its own.
    fn revalidate(&self, _dir: &Arc<Inode>, name: &[u8], inode: Option<&Arc<Inode>>) -> bool {
        let entry = table::named(name).filter(|entry| entry.is_in(&self.group));
        let Some(inode) = inode else { return entry.is_none() && self.group.child(name).is_none() };
        if let Some(file) = inode.ops_as::<FileNode>() {
            return entry.is_some() && !file.is_gone();
        }
        let child = self.group.child(name);
        child.is_some_and(|child| inode.ops_as::<Self>().is_some_and(|dir| Arc::ptr_eq(dir.group(), &child)))
    }

    fn create(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        match new.mode & S_IFMT {
            S_IFDIR => {}
            S_IFREG => return Err(Errno::EACCES),
            _ => return Err(Errno::EPERM),
        }
        // The name would break the lines of /proc/PID/cgroup.
        if name.contains(&b'\n') {
            return Err(Errno::EINVAL);
        }
        if table::named(name).is_some() {
            return Err(Errno::EEXIST);
        }
        let held = cgroup::lock();
        let group = self.group.create(name, &held)?;
        let inode = part::make_dir(dir.sb(), &group, new);
        dir.add_nlink(1);
        Ok(inode)
    }

    fn rmdir(&self, dir: &Arc<Inode>, _name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        let group = inode.ops_as::<Self>().ok_or(Errno::ENOTDIR)?.group();
        let held = cgroup::lock();
        group.remove(&held)?;
        drop(held);
        Part::of(group).forget_all();
        inode.set_nlink(0);
        dir.add_nlink(-1);
        Ok(())
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(OpenDir(self.group.clone())))
    }

    fn xattr_store(&self) -> Option<&Store> {
        Some(&self.xattrs)
    }
}

/// An open directory. Positions: 0 and 1 are the dots, then the files, then groups by their ids, so that one that is removed
/// does not move the others.
struct OpenDir(Arc<Cgroup>);

/// Position of the first file.
const FILES: u64 = 2;

impl FileOps for OpenDir {
    fn readdir(&self, file: &File, pos: &mut u64, emit: &mut dyn DirEmit) -> Result<()> {
        if !emit_dots(file, pos, emit) {
            return Ok(());
        }
        let groups = FILES + table::nr();
        while *pos < groups {
            if let Some(entry) = table::at(*pos - FILES).filter(|entry| entry.is_in(&self.0)) {
                let ino = self.0.id() + 1 + entry.index();
                if !emit.emit(entry.name.as_bytes(), ino, FileKind::Regular.dirent_type(), *pos + 1) {
                    return Ok(());
                }
            }
            *pos += 1;
        }
        let mut children = self.0.children()?;
        children.sort_unstable_by_key(|child| child.id());
        let from = *pos;
        for child in children.iter().skip_while(|child| groups + child.id() < from) {
            let next = groups + child.id() + 1;
            if !emit.emit(child.name(), child.id(), FileKind::Directory.dirent_type(), next) {
                return Ok(());
            }
            *pos = next;
        }
        Ok(())
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        seek_unsized(file, offset, whence)
    }
}
