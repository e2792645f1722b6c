//! Extended attributes of sockets: names of `user.`, kept as long as the socket lives.

use alloc::vec::Vec;

use abi::{Errno, Result};
use vfs::inode::{Inode, InodeOps, XattrMode};
use vfs::xattr::Store;

/// The inode of a socket in sockfs.
pub(crate) struct SocketInode {
    xattrs: Store,
}

impl SocketInode {
    pub(crate) fn new() -> Self {
        Self { xattrs: Store::new() }
    }
}

/// `EOPNOTSUPP`: no name of `user.`.
fn check(name: &[u8]) -> Result<()> {
    if name.starts_with(b"user.") { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

impl InodeOps for SocketInode {
    fn get_xattr(&self, _inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        check(name)?;
        self.xattrs.get(name)
    }

    fn set_xattr(&self, _inode: &Inode, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        check(name)?;
        self.xattrs.set(name, value, mode)
    }

    fn remove_xattr(&self, _inode: &Inode, name: &[u8]) -> Result<()> {
        check(name)?;
        self.xattrs.remove(name)
    }

    fn list_xattr(&self, _inode: &Inode) -> Result<Vec<u8>> {
        self.xattrs.list()
    }
}
