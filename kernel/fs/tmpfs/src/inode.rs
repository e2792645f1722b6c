//! tmpfs inodes and the changes of directories.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use abi::fs::{S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, Statx};
use abi::{Errno, Result};
use hal::PAGE_SIZE;
use mm::Mapping;
use sched::Mutex;
use vfs::file_attr::{self, FileAttr, FsFlags};
use vfs::inode::{Rename, RenameKind, XattrMode};
use vfs::{FileOps, Inode, InodeInit, InodeOps, Link, NewInode, OpenRequest, SetAttr, SuperBlock};

use crate::dir::Table;
use crate::file;
use crate::memfd::Seals;
use crate::superblock::Account;

/// What each name adds to the size of a directory, as on Linux.
const ENTRY_SIZE: u64 = 20;

pub(crate) enum Node {
    Directory(Mutex<Table>),
    Symlink(Box<[u8]>),
    /// Regular files keep their data in the mapping; devices, FIFOs and sockets have none.
    Other,
}

type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// tmpfs' part of an inode.
pub(crate) struct TmpInode {
    account: Arc<Account>,
    pub(crate) node: Node,
    xattrs: Mutex<Xattrs>,
    /// Flags of ioctl_iflags(2).
    fs_flags: AtomicU32,
    /// [`Seals`] of a regular file.
    pub(crate) seals: AtomicU32,
}

/// Makes an inode without a name. `ENOSPC`: the limit of inodes.
pub fn new(sb: &Arc<SuperBlock>, account: &Arc<Account>, what: &NewInode<'_>) -> Result<Arc<Inode>> {
    let ino = account.take_ino()?;
    let (node, size) = match what.mode & S_IFMT {
        S_IFDIR => (Node::Directory(Mutex::new("tmpfs.dir", Table::new())), 2 * ENTRY_SIZE),
        S_IFLNK => (Node::Symlink(what.target.into()), what.target.len() as u64),
        _ => (Node::Other, 0),
    };
    let is_regular = what.mode & S_IFMT == S_IFREG;
    let mapping = is_regular.then(|| account.files.mapping());
    let ops = TmpInode {
        account: account.clone(),
        node,
        xattrs: Mutex::new("tmpfs.xattrs", Xattrs::new()),
        fs_flags: AtomicU32::new(0),
        seals: AtomicU32::new(Seals::SEAL.bits()),
    };
    let init =
        InodeInit { uid: what.uid, gid: what.gid, rdev: what.rdev, size, ..InodeInit::new(ino, what.mode) };
    Ok(Inode::new(sb, init, Box::new(ops), mapping))
}

impl Drop for TmpInode {
    fn drop(&mut self) {
        self.account.put_ino();
    }
}

/// The table of directory `inode`. `ENOTDIR`.
pub(crate) fn table(inode: &Inode) -> Result<&Mutex<Table>> {
    match inode.ops_as::<TmpInode>().map(|tmp| &tmp.node) {
        Some(Node::Directory(table)) => Ok(table),
        _ => Err(Errno::ENOTDIR),
    }
}

fn resized(dir: &Inode, table: &Table) {
    dir.set_size((table.len() as u64 + 2) * ENTRY_SIZE);
}

impl TmpInode {
    /// `EOPNOTSUPP`: the instance has no extended attributes.
    fn check_xattrs(&self) -> Result<()> {
        if self.account.files.has_xattrs() { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
    }

    fn insert(&self, dir: &Arc<Inode>, name: &[u8], inode: Arc<Inode>) -> Result<()> {
        let mut table = table(dir)?.lock();
        table.insert(name, inode)?;
        resized(dir, &table);
        Ok(())
    }

    fn remove(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Arc<Inode>> {
        let mut table = table(dir)?.lock();
        let inode = table.remove(name).ok_or(Errno::ENOENT)?;
        resized(dir, &table);
        Ok(inode)
    }

    fn move_name(&self, rename: &Rename<'_>) -> Result<()> {
        let is_dir = rename.inode.is_dir();
        if let Some(target) = rename.target {
            check_replaceable(target)?;
            table(rename.new_dir)?.lock().replace(rename.new_name, rename.inode.clone());
            target.add_nlink(if is_dir { -2 } else { -1 });
        } else {
            self.insert(rename.new_dir, rename.new_name, rename.inode.clone())?;
        }
        if rename.kind == RenameKind::Whiteout {
            let what = NewInode { mode: S_IFCHR, uid: 0, gid: 0, rdev: 0, target: &[] };
            let whiteout = new(rename.old_dir.sb(), &self.account, &what)?;
            table(rename.old_dir)?.lock().replace(rename.old_name, whiteout);
        } else {
            self.remove(rename.old_dir, rename.old_name)?;
        }
        if is_dir {
            rename.old_dir.add_nlink(-1);
            if rename.target.is_none() {
                rename.new_dir.add_nlink(1);
            }
        }
        Ok(())
    }

    fn exchange(&self, rename: &Rename<'_>) -> Result<()> {
        let target = rename.target.ok_or(Errno::ENOENT)?;
        table(rename.old_dir)?.lock().replace(rename.old_name, target.clone());
        table(rename.new_dir)?.lock().replace(rename.new_name, rename.inode.clone());
        match (rename.inode.is_dir(), target.is_dir()) {
            (true, false) => {
                rename.old_dir.add_nlink(-1);
                rename.new_dir.add_nlink(1);
            }
            (false, true) => {
                rename.old_dir.add_nlink(1);
                rename.new_dir.add_nlink(-1);
            }
            _ => {}
        }
        Ok(())
    }
}

/// `ENOTEMPTY` for a directory with entries.
fn check_replaceable(inode: &Inode) -> Result<()> {
    if inode.is_dir() && table(inode)?.lock().len() > 0 { Err(Errno::ENOTEMPTY) } else { Ok(()) }
}

impl InodeOps for TmpInode {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        Ok(table(dir)?.lock().get(name).cloned())
    }

    fn create(&self, dir: &Arc<Inode>, name: &[u8], what: &NewInode<'_>) -> Result<Arc<Inode>> {
        let inode = new(dir.sb(), &self.account, what)?;
        self.insert(dir, name, inode.clone())?;
        if inode.is_dir() {
            dir.add_nlink(1);
        }
        Ok(inode)
    }

    fn tmpfile(&self, dir: &Arc<Inode>, what: &NewInode<'_>) -> Result<Arc<Inode>> {
        let inode = new(dir.sb(), &self.account, what)?;
        inode.set_nlink(0);
        Ok(inode)
    }

    fn link(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        self.insert(dir, name, inode.clone())?;
        inode.add_nlink(1);
        Ok(())
    }

    fn unlink(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        self.remove(dir, name)?;
        inode.add_nlink(-1);
        Ok(())
    }

    fn rmdir(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        check_replaceable(inode)?;
        self.remove(dir, name)?;
        inode.set_nlink(0);
        dir.add_nlink(-1);
        Ok(())
    }

    fn rename(&self, rename: &Rename<'_>) -> Result<()> {
        match rename.kind {
            RenameKind::Exchange => self.exchange(rename),
            RenameKind::Move | RenameKind::Whiteout => self.move_name(rename),
        }
    }

    fn read_link(&self, _inode: &Arc<Inode>) -> Result<Link> {
        match &self.node {
            Node::Symlink(target) => Ok(Link::Target(target.to_vec())),
            _ => Err(Errno::EINVAL),
        }
    }

    fn link_in_memory(&self) -> Option<&[u8]> {
        match &self.node {
            Node::Symlink(target) => Some(target),
            _ => None,
        }
    }

    fn open(&self, inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(if inode.is_dir() { file::DIRECTORY.clone() } else { self.account.files.operations() })
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        if let Some(size) = change.size {
            let mapping = inode.mapping().ok_or(Errno::EINVAL)?;
            self.account.files.check_size(size)?;
            Seals::check_resize(self.seals.load(Relaxed), mapping.size(), size)?;
            mapping.truncate(size);
        }
        if let Some(mode) = change.mode {
            Seals::check_mode(self.seals.load(Relaxed), inode.mode(), mode)?;
        }
        inode.apply(change);
        Ok(())
    }

    fn get_attr(&self, inode: &Arc<Inode>, stat: &mut Statx) -> Result<()> {
        const SECTOR: u64 = 512;
        let nr_pages = inode.mapping().map_or(0, |mapping| mapping.nr_pages() + mapping.nr_swapped());
        stat.stx_blocks = nr_pages * (PAGE_SIZE as u64 / SECTOR);
        Ok(())
    }

    fn get_xattr(&self, _inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        self.check_xattrs()?;
        self.xattrs.lock().get(name).map(|value| value.to_vec()).ok_or(Errno::ENODATA)
    }

    fn set_xattr(&self, inode: &Inode, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.check_xattrs()?;
        let mut xattrs = self.xattrs.lock();
        mode.check(xattrs.contains_key(name))?;
        let used: usize = xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if used + name.len() + value.len() > XATTR_MAX {
            return Err(Errno::ENOSPC);
        }
        xattrs.insert(name.into(), value.into());
        vfs::acl::note(inode, name, true);
        Ok(())
    }

    fn remove_xattr(&self, inode: &Inode, name: &[u8]) -> Result<()> {
        self.check_xattrs()?;
        self.xattrs.lock().remove(name).ok_or(Errno::ENODATA)?;
        vfs::acl::note(inode, name, false);
        Ok(())
    }

    fn list_xattr(&self, _inode: &Inode) -> Result<Vec<u8>> {
        let xattrs = self.xattrs.lock();
        let mut names = Vec::new();
        for name in xattrs.keys() {
            names.extend_from_slice(name);
            names.push(0);
        }
        Ok(names)
    }

    fn file_attr(&self, _inode: &Inode) -> Result<FileAttr> {
        Ok(FileAttr::of_flags(FsFlags::from_bits_retain(self.fs_flags.load(Relaxed))))
    }

    fn set_file_attr(&self, inode: &Inode, attr: &FileAttr) -> Result<()> {
        if attr.needs_extended() || !FS_FLAGS.contains(attr.flags) {
            return Err(Errno::EOPNOTSUPP);
        }
        self.fs_flags.store(attr.flags.bits(), Relaxed);
        inode.set_flags(file_attr::inode_flags(attr.flags), file_attr::cleared_inode_flags(attr.flags));
        Ok(())
    }
}

/// The flags of ioctl_iflags(2) that tmpfs keeps.
const FS_FLAGS: FsFlags =
    FsFlags::IMMUTABLE.union(FsFlags::APPEND).union(FsFlags::NODUMP).union(FsFlags::NOATIME);

/// Bytes of extended attributes that an inode may hold.
const XATTR_MAX: usize = 128 * 1024;

/// The seals and the mapping of a file that may be sealed.
pub(crate) fn sealed(inode: &Inode) -> Option<(&AtomicU32, &Arc<Mapping>)> {
    let tmp = inode.ops_as::<TmpInode>()?;
    Some((&tmp.seals, inode.mapping()?))
}
