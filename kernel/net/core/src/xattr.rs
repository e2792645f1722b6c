//! Extended attributes of sockets: names of `user.`, kept as long as the socket lives.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use abi::{Errno, Result};
use sched::Mutex;
use vfs::inode::{Inode, InodeOps, XattrMode};

/// Attributes of one socket.
const MAX_NR: usize = 128;
/// Bytes of all values of one socket.
const MAX_SIZE: usize = 128 << 10;

type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The inode of a socket in sockfs.
pub(crate) struct SocketInode {
    /// `None` until the first is set: hardly any socket has one.
    xattrs: Mutex<Option<Box<Xattrs>>>,
}

impl SocketInode {
    pub(crate) fn new() -> Self {
        Self { xattrs: Mutex::new("net.xattrs", None) }
    }
}

/// `EOPNOTSUPP`: no name of `user.`.
fn check(name: &[u8]) -> Result<()> {
    if name.starts_with(b"user.") { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

fn copy(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).map_err(|_| Errno::ENOMEM)?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

/// Sets `name`. `EEXIST`, `ENODATA` as `mode` wants. `ENOSPC`: too many, or too much.
fn set(xattrs: &mut Xattrs, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
    let old = xattrs.get(name).map(Vec::len);
    mode.check(old.is_some())?;
    let used: usize = xattrs.values().map(Vec::len).sum();
    let has_room =
        (old.is_some() || xattrs.len() < MAX_NR) && used - old.unwrap_or(0) + value.len() <= MAX_SIZE;
    if !has_room {
        return Err(Errno::ENOSPC);
    }
    xattrs.insert(copy(name)?, copy(value)?);
    Ok(())
}

impl InodeOps for SocketInode {
    fn get_xattr(&self, _inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        check(name)?;
        let xattrs = self.xattrs.lock();
        xattrs.as_ref().and_then(|all| all.get(name)).map_or(Err(Errno::ENODATA), |value| copy(value))
    }

    fn set_xattr(&self, _inode: &Inode, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        check(name)?;
        set(self.xattrs.lock().get_or_insert_default(), name, value, mode)
    }

    fn remove_xattr(&self, _inode: &Inode, name: &[u8]) -> Result<()> {
        check(name)?;
        self.xattrs.lock().as_mut().and_then(|all| all.remove(name)).map(drop).ok_or(Errno::ENODATA)
    }

    fn list_xattr(&self, _inode: &Inode) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        for name in self.xattrs.lock().iter().flat_map(|all| all.keys()) {
            names.extend_from_slice(name);
            names.push(0);
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_size_are_limited() {
        let mut xattrs = Xattrs::new();
        for number in 0..MAX_NR {
            set(&mut xattrs, alloc::format!("user.{number}").as_bytes(), b"v", XattrMode::Any).unwrap();
        }
        assert_eq!(set(&mut xattrs, b"user.more", b"", XattrMode::Any), Err(Errno::ENOSPC));
        let large = alloc::vec![0; MAX_SIZE - (MAX_NR - 1)];
        assert_eq!(set(&mut xattrs, b"user.0", &large, XattrMode::Any), Ok(()));
        assert_eq!(set(&mut xattrs, b"user.1", b"two", XattrMode::Any), Err(Errno::ENOSPC));
        assert_eq!(set(&mut xattrs, b"user.1", b"", XattrMode::Create), Err(Errno::EEXIST));
    }
}
