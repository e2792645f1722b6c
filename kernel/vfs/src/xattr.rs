//! Extended attributes: the rules of the namespaces (xattr(7)).

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use sched::Mutex;
use security::{Access, Cap, Cred, IdKind};

use crate::acl;
use crate::idmap::IdView;
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
/// The name of a file's capabilities.
const CAPABILITY: &[u8] = b"security.capability";
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

/// `EPERM` for files whose attributes are frozen, or whose owner `view` does not show.
fn check_mutable(view: &IdView, inode: &Inode) -> Result<()> {
    let is_frozen = inode.flags().intersects(InodeFlags::IMMUTABLE | InodeFlags::APPEND);
    if is_frozen || view.hides_owner(inode) { Err(Errno::EPERM) } else { Ok(()) }
}

/// The rules of the name's namespace. `EOPNOTSUPP`: there is no such namespace.
fn check(view: &IdView, inode: &Inode, name: &[u8], cred: &Cred, how: Use) -> Result<()> {
    let refused = if how == Use::Write { Errno::EPERM } else { Errno::ENODATA };
    if how == Use::Write {
        check_mutable(view, inode)?;
    }
    if name.starts_with(b"security.") {
        let is_allowed = match how {
            Use::Read => true,
            Use::Write if name == CAPABILITY => {
                cred.inode_capable(view.uid(inode), view.gid(inode), Cap::SETFCAP)
            }
            Use::Write => cred.ns_capable(inode.sb().owner(), Cap::SYS_ADMIN),
        };
        return if is_allowed { Ok(()) } else { Err(Errno::EPERM) };
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
    if is_sticky && how == Use::Write && !security::owner_or_capable(cred, view.uid(inode)) {
        return Err(Errno::EPERM);
    }
    perm::permission(view, inode, cred, if how == Use::Write { Access::WRITE } else { Access::READ })
}

/// getxattr(2): the whole value. `ENODATA`: there is none.
pub fn get(path: &Path, name: &[u8], cred: &Cred) -> Result<Vec<u8>> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    let view = path.mount.id_view();
    if let Some(which) = acl::Which::from_name(name) {
        return acl::get(&view, inode, which, cred);
    }
    check(&view, inode, name, cred, Use::Read)?;
    let value = inode.ops().get_xattr(inode, name)?;
    if name == CAPABILITY {
        let show = |id| view.shown(IdKind::User, id);
        return security::shown_file_caps(&value, cred, inode.sb().owner(), show);
    }
    Ok(value)
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
    let view = path.mount.id_view();
    check(&view, inode, name, cred, Use::Write)?;
    let caps;
    let mut value = value;
    if name == CAPABILITY && !value.is_empty() {
        caps = stored_caps(&view, inode, value, cred)?;
        value = &caps;
    }
    let _exclusive = inode.sem.write();
    inode.set_flags(InodeFlags::empty(), InodeFlags::NO_CAPS);
    inode.ops().set_xattr(inode, name, value, mode)?;
    inode.touch_ctime();
    notify::path_event(path, Event::ATTRIB);
    Ok(())
}

/// Removes the capabilities of a file that is written to or gets another owner. `sem` is held for writing.
pub(crate) fn remove_caps(inode: &Inode) -> Result<()> {
    if inode.flags().contains(InodeFlags::NO_CAPS) || !inode.is_regular() {
        return Ok(());
    }
    if inode.ops().get_xattr(inode, CAPABILITY).is_ok() {
        inode.ops().remove_xattr(inode, CAPABILITY)?;
    }
    inode.set_flags(InodeFlags::NO_CAPS, InodeFlags::empty());
    Ok(())
}

/// The value of `name` for a file system on top that was mounted by `mounter`. Ids in lists are those of this machine that
/// the mount of `path` shows; the root of a file's capabilities is numbered as in the mounter's namespace. `ENODATA`: there is
/// none. `EOVERFLOW`: it has ids that the mount does not show, or that have no number there.
pub fn get_below(path: &Path, name: &[u8], mounter: &Cred) -> Result<Vec<u8>> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    let value = inode.ops().get_xattr(inode, name)?;
    let view = path.mount.id_view();
    if name == CAPABILITY {
        let show = |id| view.shown(IdKind::User, id);
        return security::shown_file_caps(&value, mounter, inode.sb().owner(), show);
    }
    if path.mount.is_idmapped() && acl::Which::from_name(name).is_some() {
        return acl::shown_value(&view, &value);
    }
    Ok(value)
}

/// Sets `name` for a file system on top, as [`get_below`] gives it; `sem` is held for writing. `EINVAL`: it has ids that cannot
/// be kept. `EPERM`: the mounter may not set it there.
pub fn set_below(path: &Path, name: &[u8], value: &[u8], mode: XattrMode, mounter: &Cred) -> Result<()> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    check_below(inode, name, mounter)?;
    let view = path.mount.id_view();
    let kept = match name {
        _ if value.is_empty() => None,
        CAPABILITY => Some(stored_caps(&view, inode, value, mounter)?),
        _ if view.map().is_some() && acl::Which::from_name(name).is_some() => {
            Some(acl::kept_value(&view, value)?)
        }
        _ => None,
    };
    inode.set_flags(InodeFlags::empty(), InodeFlags::NO_CAPS);
    inode.ops().set_xattr(inode, name, kept.as_deref().unwrap_or(value), mode)
}

/// Removes `name` for a file system on top that was mounted by `mounter`; `sem` is held for writing. `EPERM`: as for
/// [`set_below`].
pub fn remove_below(path: &Path, name: &[u8], mounter: &Cred) -> Result<()> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    check_below(inode, name, mounter)?;
    inode.ops().remove_xattr(inode, name)
}

/// Who mounts a file system on top in a user namespace gets no more rights over the one below than he has.
fn check_below(inode: &Inode, name: &[u8], mounter: &Cred) -> Result<()> {
    let is_guarded = name.starts_with(b"security.") && name != CAPABILITY;
    if is_guarded && !mounter.ns_capable(inode.sb().owner(), Cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// What the file system is to keep of the capabilities `value` of a file.
fn stored_caps(view: &IdView, inode: &Inode, value: &[u8], cred: &Cred) -> Result<Vec<u8>> {
    let keep = |id| view.kept(IdKind::User, id);
    let keep: Option<&dyn Fn(u32) -> Option<u32>> = if view.map().is_some() { Some(&keep) } else { None };
    security::stored_file_caps(value, cred, inode.sb().owner(), keep)
}

/// removexattr(2). `ENODATA`: there is none.
pub fn remove(path: &Path, name: &[u8], cred: &Cred) -> Result<()> {
    let _write = path.mount.want_write()?;
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    if let Some(which) = acl::Which::from_name(name) {
        return set_acl(path, inode, which, None, cred);
    }
    check(&path.mount.id_view(), inode, name, cred, Use::Write)?;
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
    let view = path.mount.id_view();
    check_mutable(&view, inode)?;
    acl::set(&view, inode, which, value, cred)?;
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
