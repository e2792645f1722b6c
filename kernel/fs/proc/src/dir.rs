//! Making inodes.

use alloc::boxed::Box;
use alloc::sync::Arc;

use abi::fs::{S_IFDIR, S_IFLNK, S_IFMT};
use vfs::listing::ino_of;
use vfs::{Inode, InodeFlags, InodeInit, InodeOps};

/// What a new inode is.
pub(crate) struct Fresh<'a> {
    pub(crate) dir: &'a Inode,
    pub(crate) name: &'a [u8],
    /// Type and permissions.
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) flags: InodeFlags,
}

impl<'a> Fresh<'a> {
    /// Root's, without flags.
    pub(crate) fn root_owned(dir: &'a Inode, name: &'a [u8], mode: u32) -> Self {
        Self { dir, name, mode, owner: (0, 0), flags: InodeFlags::empty() }
    }

    /// Makes it.
    pub(crate) fn make(self, ops: Box<dyn InodeOps>) -> Arc<Inode> {
        let mut init = InodeInit::new(ino_of(self.dir.ino(), self.name), self.mode);
        (init.uid, init.gid) = self.owner;
        init.flags = self.flags;
        if self.mode & S_IFMT == S_IFLNK {
            /// What Linux shows as the size of links in /proc.
            const LINK_SIZE: u64 = 64;
            init.size = LINK_SIZE;
        }
        Inode::new(self.dir.sb(), init, ops, None)
    }
}

/// Mode of an ordinary directory.
pub(crate) const DIR: u32 = S_IFDIR | 0o555;
/// Mode of an ordinary symbolic link.
pub(crate) const LINK: u32 = S_IFLNK | 0o777;
