//! Extended attributes of sockets: names of `user.`, kept as long as the socket lives, and the protocol's name.

use alloc::vec::Vec;

use abi::{Errno, Result};
use vfs::inode::{Inode, InodeOps, XattrMode};
use vfs::xattr::{self, Store};

/// The inode of a socket in sockfs.
pub(crate) struct SocketInode {
    protocol: &'static str,
    xattrs: Store,
}

impl SocketInode {
    pub(crate) fn new(protocol: &'static str) -> Self {
        Self { protocol, xattrs: Store::new() }
    }
}

/// `EOPNOTSUPP`: no name of `user.`.
fn check(name: &[u8]) -> Result<()> {
    if name.starts_with(b"user.") { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

impl InodeOps for SocketInode {
    /// The protocol's name comes with its NUL.
    fn get_xattr(&self, _inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        if name == xattr::SOCKET_PROTOCOL {
            return Ok([self.protocol.as_bytes(), b"\0"].concat());
        }
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
        let mut names = self.xattrs.list()?;
        names.extend_from_slice(xattr::SOCKET_PROTOCOL);
        names.push(0);
        Ok(names)
    }
}
