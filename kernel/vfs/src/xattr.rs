//! Extended attributes: the rules of the namespaces (xattr(7)).

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use sched::Mutex;
use security::{Access, Cap, Cred};

use crate::acl;
use crate::inode::{FileKind, Inode, InodeFlags, XattrMode};
use crate::notify::{self, Event};
use crate::path::Path;
use crate::perm;

/// The longest name (xattr(7)).
pub const NAME_MAX: usize = 255;
/// The longest value (xattr(7)).
pub const SIZE_MAX: usize = 65536;
/// The name of the protocol of a socket.
pub const SOCKET_PROTOCOL: &[u8] = b"system.sockprotoname";
/// The longest list of names.
pub const LIST_MAX: usize = 65536;

/// What is done with an attribute.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Write,
}

/// Checks the name. `ERANGE`: empty or too long.
#[inline]
pub fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > NAME_MAX { Err(Errno::ERANGE) } else { Ok(()) }
}

/// The rules of the name's namespace. `EOPNOTSUPP`: there is no such namespace.
fn check(inode: &Inode, name: &[u8], cred: &Cred, how: Use) -> Result<()> {
    let refused = if how == Use::Write { Errno::EPERM } else { Errno::ENODATA };
    if how == Use::Write && inode.flags().intersects(InodeFlags::IMMUTABLE | InodeFlags::APPEND) {
        return Err(Errno::EPERM);
    }
    if name.starts_with(b"security.") {
        let needed = if name == b"security.capability" { Cap::SETFCAP } else { Cap::SYS_ADMIN };
        return if how == Use::Read || cred.capable(needed) { Ok(()) } else { Err(Errno::EPERM) };
    }
    if name.starts_with(b"trusted.") {
        return if cred.capable(Cap::SYS_ADMIN) { Ok(()) } else { Err(refused) };
    }
    if name == SOCKET_PROTOCOL && how == Use::Read && crate::anon::SOCKET.holds(inode) {
        return Ok(());
    }
    if !name.starts_with(b"user.") {
        return Err(Errno::EOPNOTSUPP);
    }
    if name.len() == b"user.".len() {
        return Err(Errno::EINVAL);
    }
    if !matches!(inode.kind(), FileKind::Regular | FileKind::Directory | FileKind::Socket) {
        return Err(refused);
    }
    let is_sticky = inode.is_dir() && inode.mode() & abi::fs::S_ISVTX != 0;
    if is_sticky && how == Use::Write && !security::owner_or_capable(cred, inode.uid()) {
        return Err(Errno::EPERM);
    }
    perm::permission(inode, cred, if how == Use::Write { Access::WRITE } else { Access::READ })
}

/// getxattr(2): the whole value. `ENODATA`: there is none.
pub fn get(path: &Path, name: &[u8], cred: &Cred) -> Result<Vec<u8>> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    if let Some(which) = acl::Which::from_name(name) {
        return acl::get(inode, which, cred);
    }
    check(inode, name, cred, Use::Read)?;
    inode.ops().get_xattr(inode, name)
}

/// setxattr(2). `E2BIG`: the value is too long.
pub fn set(path: &Path, name: &[u8], value: &[u8], mode: XattrMode, cred: &Cred) -> Result<()> {
    if value.len() > SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    let _write = path.mount.want_write()?;
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    if let Some(which) = acl::Which::from_name(name) {
        return set_acl(path, inode, which, Some(value), cred);
    }
    check(inode, name, cred, Use::Write)?;
    let _exclusive = inode.sem.write();
    inode.ops().set_xattr(inode, name, value, mode)?;
    inode.touch_ctime();
    notify::path_event(path, Event::ATTRIB);
    Ok(())
}

/// removexattr(2). `ENODATA`: there is none.
pub fn remove(path: &Path, name: &[u8], cred: &Cred) -> Result<()> {
    let _write = path.mount.want_write()?;
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    if let Some(which) = acl::Which::from_name(name) {
        return set_acl(path, inode, which, None, cred);
    }
    check(inode, name, cred, Use::Write)?;
    let _exclusive = inode.sem.write();
    inode.ops().remove_xattr(inode, name)?;
    inode.touch_ctime();
    notify::path_event(path, Event::ATTRIB);
    Ok(())
}

/// Sets or removes an access-control list: flags as `XATTR_CREATE` mean nothing to it.
fn set_acl(
    path: &Path,
    inode: &Arc<Inode>,
    which: acl::Which,
    value: Option<&[u8]>,
    cred: &Cred,
) -> Result<()> {
    let _exclusive = inode.sem.write();
    if inode.flags().intersects(InodeFlags::IMMUTABLE | InodeFlags::APPEND) {
        return Err(Errno::EPERM);
    }
    acl::set(inode, which, value, cred)?;
    inode.touch_ctime();
    notify::path_event(path, Event::ATTRIB);
    Ok(())
}

/// listxattr(2): all names that `cred` may see, each with a final NUL.
pub fn list(path: &Path, cred: &Cred) -> Result<Vec<u8>> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    let all = inode.ops().list_xattr(inode)?;
    if cred.capable(Cap::SYS_ADMIN) {
        return Ok(all);
    }
    let visible = all.split_inclusive(|&byte| byte == 0).filter(|name| !name.starts_with(b"trusted."));
    Ok(visible.flatten().copied().collect())
}

/// Attributes of one [`Store`].
const STORE_MAX_NR: usize = 128;
/// Bytes of all values of one [`Store`].
const STORE_MAX_SIZE: usize = 128 << 10;

type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// Attributes of something that lives in memory only: a socket, or a process as a file.
///
/// Its lock sleeps; nothing nests in it.
pub struct Store {
    /// `None` until the first is set: hardly anything has one.
    all: Mutex<Option<Box<Attributes>>>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

fn copy(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).map_err(|_| Errno::ENOMEM)?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

impl Store {
    /// An empty one.
    pub const fn new() -> Self {
        Self { all: Mutex::new("vfs.xattr_store", None) }
    }

    /// The value of `name`. `ENODATA`: there is none.
    pub fn get(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.all
            .lock()
            .as_ref()
            .and_then(|all| all.get(name))
            .map_or(Err(Errno::ENODATA), |value| copy(value))
    }

    /// Sets `name`. `EEXIST`, `ENODATA` as `mode` wants. `ENOSPC`: too many, or too much.
    pub fn set(&self, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        let mut all = self.all.lock();
        let all = all.get_or_insert_default();
        let old = all.get(name).map(Vec::len);
        mode.check(old.is_some())?;
        let used: usize = all.values().map(Vec::len).sum();
        let has_number = old.is_some() || all.len() < STORE_MAX_NR;
        if !has_number || used - old.unwrap_or(0) + value.len() > STORE_MAX_SIZE {
            return Err(Errno::ENOSPC);
        }
        all.insert(copy(name)?, copy(value)?);
        Ok(())
    }

    /// Removes `name`. `ENODATA`: there is none.
    pub fn remove(&self, name: &[u8]) -> Result<()> {
        self.all.lock().as_mut().and_then(|all| all.remove(name)).map(drop).ok_or(Errno::ENODATA)
    }

    /// All names, each followed by a NUL.
    pub fn list(&self) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        for name in self.all.lock().iter().flat_map(|all| all.keys()) {
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
        let store = Store::new();
        let set = |name: &[u8], value: &[u8], mode| store.set(name, value, mode);
        for number in 0..STORE_MAX_NR {
            set(alloc::format!("user.{number}").as_bytes(), b"v", XattrMode::Any).unwrap();
        }
        assert_eq!(set(b"user.more", b"", XattrMode::Any), Err(Errno::ENOSPC));
        let large = alloc::vec![0; STORE_MAX_SIZE - (STORE_MAX_NR - 1)];
        assert_eq!(set(b"user.0", &large, XattrMode::Any), Ok(()));
        assert_eq!(set(b"user.1", b"two", XattrMode::Any), Err(Errno::ENOSPC));
        assert_eq!(set(b"user.1", b"", XattrMode::Create), Err(Errno::EEXIST));
        assert_eq!(store.remove(b"user.1"), Ok(()));
        assert_eq!(store.get(b"user.1"), Err(Errno::ENODATA));
    }
}
