//! What a file system does with its inodes: [`InodeOps`], and what it is told.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use abi::fs::Statx;
use abi::time::Timespec;
use abi::{Errno, Result};
use security::Cred;

use super::Inode;
use crate::dev::DirectAlign;
use crate::file::FileOps;
use crate::file_attr::FileAttr;
use crate::path::Path;
use crate::xattr::Store;

/// What a new inode shall be.
#[derive(Clone, Copy, Debug)]
pub struct NewInode<'a> {
    /// Type and permissions, after umask and setgid rules.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of device nodes.
    pub rdev: u64,
    /// Target of a symbolic link.
    pub target: &'a [u8],
}

/// A change of attributes (Linux: `struct iattr`). Checked by the VFS before [`InodeOps::set_attr`] sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// New permission bits with the unchanged type.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<Timespec>,
    /// New modification time.
    pub mtime: Option<Timespec>,
    /// New change time; always set.
    pub ctime: Timespec,
}

/// Where a symbolic link leads.
pub enum Link {
    /// A path to walk.
    Target(Vec<u8>),
    /// An object itself: the links in /proc/PID/fd, `exe`, `cwd` and `root`.
    Magic(Path),
}

/// The two ends of a rename.
pub struct Rename<'a> {
    /// Directory that holds the old name.
    pub old_dir: &'a Arc<Inode>,
    /// Old name.
    pub old_name: &'a [u8],
    /// What the old name leads to.
    pub inode: &'a Arc<Inode>,
    /// Directory of the new name.
    pub new_dir: &'a Arc<Inode>,
    /// New name.
    pub new_name: &'a [u8],
    /// What the new name led to: replaced, or exchanged.
    pub target: Option<&'a Arc<Inode>>,
    /// How.
    pub kind: RenameKind,
}

/// What happens to the names in a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameKind {
    /// The new name replaces what was there.
    Move,
    /// Both names swap (`RENAME_EXCHANGE`).
    Exchange,
    /// As `Move`, leaving a whiteout device at the old name (`RENAME_WHITEOUT`).
    Whiteout,
}

/// How an extended attribute is to be set (setxattr(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Create or replace.
    Any,
    /// `XATTR_CREATE`: `EEXIST` if it is there.
    Create,
    /// `XATTR_REPLACE`: `ENODATA` if it is not.
    Replace,
    /// Both at once: `EEXIST` if it is there, `ENODATA` if it is not.
    Never,
}

impl XattrMode {
    /// Whether an attribute that is there, or is not, may be set so. `EEXIST`, `ENODATA`.
    pub fn check(self, exists: bool) -> Result<()> {
        match (self, exists) {
            (Self::Create | Self::Never, true) => Err(Errno::EEXIST),
            (Self::Replace | Self::Never, false) => Err(Errno::ENODATA),
            _ => Ok(()),
        }
    }
}

/// A file system's part of an inode.
///
/// Defaults are what Linux answers for an operation that a file system does not have. Directory changes are called
/// with `dir.sem` held for writing, `lookup` with it held for reading or writing; names are valid, at most 255
/// bytes, and the caller has checked that a new name is free and an old one exists.
pub trait InodeOps: Any + Send + Sync {
    /// Finds `name` in `dir`; `None` if it is not there.
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let _ = (dir, name);
        Err(Errno::ENOTDIR)
    }

    /// Makes the file, directory, link or device `new` as `name`.
    fn create(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        let _ = (dir, name, new);
        Err(Errno::EPERM)
    }

    /// Makes an unnamed regular file (`O_TMPFILE`); its link count is 0.
    fn tmpfile(&self, dir: &Arc<Inode>, new: &NewInode<'_>) -> Result<Arc<Inode>> {
        let _ = (dir, new);
        Err(Errno::EOPNOTSUPP)
    }

    /// Gives `inode` the further name `name`.
    fn link(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        let _ = (dir, name, inode);
        Err(Errno::EPERM)
    }

    /// Removes the name of something that is not a directory.
    fn unlink(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        let _ = (dir, name, inode);
        Err(Errno::EPERM)
    }

    /// Removes an empty directory. `ENOTEMPTY` if it is not.
    fn rmdir(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        let _ = (dir, name, inode);
        Err(Errno::EPERM)
    }

    /// Renames. `ENOTEMPTY`: the target is a directory with entries.
    fn rename(&self, rename: &Rename<'_>) -> Result<()> {
        let _ = rename;
        Err(Errno::EPERM)
    }

    /// Whether a cached entry still is what `lookup` would give; asked in [`VOLATILE`](super::InodeFlags::VOLATILE) directories.
    fn revalidate(&self, dir: &Arc<Inode>, name: &[u8], inode: Option<&Arc<Inode>>) -> bool {
        let _ = (dir, name, inode);
        true
    }

    /// Where the symbolic link leads. `walker` is who follows or reads it (/proc/self needs to know).
    fn read_link(&self, inode: &Arc<Inode>) -> Result<Link> {
        let _ = inode;
        Err(Errno::EINVAL)
    }

    /// What `O_DIRECT` asks for on the file `inode`; `None`: reads and writes go through the page cache.
    fn direct_align(&self, inode: &Inode) -> Option<DirectAlign> {
        let _ = inode;
        None
    }

    /// What readlink(2) shows; magic links override it, as their name need not lead back to them.
    fn link_text(&self, inode: &Arc<Inode>) -> Result<Vec<u8>> {
        match self.read_link(inode)? {
            Link::Target(text) => Ok(text),
            Link::Magic(_) => Err(Errno::EINVAL),
        }
    }

    /// The target of a symbolic link that lies in memory, for the walk that takes no locks.
    fn link_in_memory(&self) -> Option<&[u8]> {
        None
    }

    /// Opens; gives the operations of the new open file description.
    ///
    /// Device nodes, FIFOs and sockets never get here: the VFS opens them itself.
    fn open(&self, inode: &Arc<Inode>, file: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        let _ = (inode, file);
        Err(Errno::ENXIO)
    }

    /// Changes attributes. The default stores them; file systems with a size override it.
    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        if change.size.is_some() {
            return Err(Errno::EINVAL);
        }
        inode.apply(change);
        Ok(())
    }

    /// Told after the VFS changed times by itself: a read or a write.
    fn times_changed(&self, inode: &Arc<Inode>) {
        let _ = inode;
    }

    /// Corrects `stat` beyond what the [`Inode`] knows, and may refresh the inode first.
    fn get_attr(&self, inode: &Arc<Inode>, stat: &mut Statx) -> Result<()> {
        let _ = (inode, stat);
        Ok(())
    }

    /// Decides an access when [`OWN_PERMISSION`](super::InodeFlags::OWN_PERMISSION) is set.
    fn permission(&self, inode: &Inode, cred: &Cred, wanted: security::Access) -> Result<()> {
        security::inode_permission(cred, &inode.ids(), wanted)
    }

    /// Where extended attributes are kept, for files that live in memory only: what the four functions below then use.
    fn xattr_store(&self) -> Option<&Store> {
        None
    }

    /// The value of extended attribute `name`. `ENODATA` if there is none.
    fn get_xattr(&self, inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        let _ = inode;
        self.xattr_store().ok_or(Errno::EOPNOTSUPP)?.get(name)
    }

    /// Sets an extended attribute.
    fn set_xattr(&self, inode: &Inode, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        let _ = inode;
        self.xattr_store().ok_or(Errno::EOPNOTSUPP)?.set(name, value, mode)
    }

    /// Removes an extended attribute. `ENODATA` if there is none.
    fn remove_xattr(&self, inode: &Inode, name: &[u8]) -> Result<()> {
        let _ = inode;
        self.xattr_store().ok_or(Errno::EOPNOTSUPP)?.remove(name)
    }

    /// All names of extended attributes, each followed by a NUL.
    fn list_xattr(&self, inode: &Inode) -> Result<Vec<u8>> {
        let _ = inode;
        self.xattr_store().map_or_else(|| Ok(Vec::new()), Store::list)
    }

    /// Flags and project id (ioctl_iflags(2)). `ENOIOCTLCMD`: the file system keeps none.
    fn file_attr(&self, inode: &Inode) -> Result<FileAttr> {
        let _ = inode;
        Err(Errno::ENOIOCTLCMD)
    }

    /// Stores them, and what [`crate::file_attr::inode_flags`] tells in the inode. Called with `inode.sem` held for
    /// writing. `EOPNOTSUPP`: one that it does not keep.
    fn set_file_attr(&self, inode: &Inode, attr: &FileAttr) -> Result<()> {
        let _ = (inode, attr);
        Err(Errno::ENOIOCTLCMD)
    }
}

/// What [`InodeOps::open`] is told.
pub struct OpenRequest<'a> {
    /// The flags of open(2).
    pub flags: abi::fs::OpenFlags,
    /// Who opens.
    pub cred: &'a Arc<Cred>,
    /// The name by which it is opened.
    pub path: &'a Path,
}
