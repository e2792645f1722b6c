//! Extended attributes (xattr(7)): the path, link and descriptor forms of each call.

use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::{UserAddr, user};
use vfs::inode::XattrMode;
use vfs::xattr::{self, SIZE_MAX};
use vfs::{At, Path, WalkFlags, walk};

use crate::Cx;
use crate::caller::{self, Caller};

fn by_name(caller: &Caller, name: UserAddr, flags: WalkFlags) -> Result<Path> {
    walk(&caller.walk(), At::Cwd, &caller::path(name)?, flags)
}

fn by_fd(caller: &Caller, fd: i32) -> Result<Path> {
    Ok(caller.files.get(fd)?.path().clone())
}

fn attribute_name(addr: UserAddr) -> Result<Vec<u8>> {
    let name = caller::string(addr, xattr::NAME_MAX + 1, Errno::ERANGE)?;
    xattr::check_name(&name)?;
    Ok(name)
}

/// Copies out, or tells the length for a size of 0. `ERANGE`: it does not fit.
fn give(bytes: &[u8], buf: UserAddr, size: usize) -> Result<usize> {
    if size == 0 {
        return Ok(bytes.len());
    }
    if bytes.len() > size {
        return Err(Errno::ERANGE);
    }
    user::write_bytes(buf, bytes)?;
    Ok(bytes.len())
}

fn get(caller: &Caller, path: &Path, name: UserAddr, buf: UserAddr, size: usize) -> Result<usize> {
    let name = attribute_name(name)?;
    give(&xattr::get(path, &name, &caller.cred)?, buf, size)
}

fn set(
    caller: &Caller,
    path: &Path,
    name: UserAddr,
    buf: UserAddr,
    size: usize,
    flags: u32,
) -> Result<usize> {
    let mode = match flags {
        0 => XattrMode::Any,
        1 => XattrMode::Create,
        2 => XattrMode::Replace,
        _ => return Err(Errno::EINVAL),
    };
    let name = attribute_name(name)?;
    if size > SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    let mut value = Vec::new();
    value.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    value.resize(size, 0);
    user::read_bytes(buf, &mut value)?;
    xattr::set(path, &name, &value, mode, &caller.cred).map(|()| 0)
}

/// getxattr(2).
pub(crate) fn sys_getxattr(
    _cx: &mut Cx<'_>,
    path: UserAddr,
    name: UserAddr,
    buf: UserAddr,
    size: usize,
) -> Result<usize> {
    let caller = Caller::new()?;
    get(&caller, &by_name(&caller, path, WalkFlags::FOLLOW)?, name, buf, size)
}

/// lgetxattr(2).
pub(crate) fn sys_lgetxattr(
    _cx: &mut Cx<'_>,
    path: UserAddr,
    name: UserAddr,
    buf: UserAddr,
    size: usize,
) -> Result<usize> {
    let caller = Caller::new()?;
    get(&caller, &by_name(&caller, path, WalkFlags::empty())?, name, buf, size)
}

/// fgetxattr(2).
pub(crate) fn sys_fgetxattr(
    _cx: &mut Cx<'_>,
    fd: i32,
    name: UserAddr,
    buf: UserAddr,
    size: usize,
) -> Result<usize> {
    let caller = Caller::new()?;
    get(&caller, &by_fd(&caller, fd)?, name, buf, size)
}

/// setxattr(2).
pub(crate) fn sys_setxattr(
    _cx: &mut Cx<'_>,
    path: UserAddr,
    name: UserAddr,
    buf: UserAddr,
    size: usize,
    flags: u32,
) -> Result<usize> {
    let caller = Caller::new()?;
    set(&caller, &by_name(&caller, path, WalkFlags::FOLLOW)?, name, buf, size, flags)
}

/// lsetxattr(2).
pub(crate) fn sys_lsetxattr(
    _cx: &mut Cx<'_>,
    path: UserAddr,
    name: UserAddr,
    buf: UserAddr,
    size: usize,
    flags: u32,
) -> Result<usize> {
    let caller = Caller::new()?;
    set(&caller, &by_name(&caller, path, WalkFlags::empty())?, name, buf, size, flags)
}

/// fsetxattr(2).
pub(crate) fn sys_fsetxattr(
    _cx: &mut Cx<'_>,
    fd: i32,
    name: UserAddr,
    buf: UserAddr,
    size: usize,
    flags: u32,
) -> Result<usize> {
    let caller = Caller::new()?;
    set(&caller, &by_fd(&caller, fd)?, name, buf, size, flags)
}

/// listxattr(2).
pub(crate) fn sys_listxattr(_cx: &mut Cx<'_>, path: UserAddr, buf: UserAddr, size: usize) -> Result<usize> {
    let caller = Caller::new()?;
    give(&xattr::list(&by_name(&caller, path, WalkFlags::FOLLOW)?, &caller.cred)?, buf, size)
}

/// llistxattr(2).
pub(crate) fn sys_llistxattr(_cx: &mut Cx<'_>, path: UserAddr, buf: UserAddr, size: usize) -> Result<usize> {
    let caller = Caller::new()?;
    give(&xattr::list(&by_name(&caller, path, WalkFlags::empty())?, &caller.cred)?, buf, size)
}

/// flistxattr(2).
pub(crate) fn sys_flistxattr(_cx: &mut Cx<'_>, fd: i32, buf: UserAddr, size: usize) -> Result<usize> {
    let caller = Caller::new()?;
    give(&xattr::list(&by_fd(&caller, fd)?, &caller.cred)?, buf, size)
}

/// removexattr(2).
pub(crate) fn sys_removexattr(_cx: &mut Cx<'_>, path: UserAddr, name: UserAddr) -> Result<usize> {
    let caller = Caller::new()?;
    let path = by_name(&caller, path, WalkFlags::FOLLOW)?;
    xattr::remove(&path, &attribute_name(name)?, &caller.cred).map(|()| 0)
}

/// lremovexattr(2).
pub(crate) fn sys_lremovexattr(_cx: &mut Cx<'_>, path: UserAddr, name: UserAddr) -> Result<usize> {
    let caller = Caller::new()?;
    let path = by_name(&caller, path, WalkFlags::empty())?;
    xattr::remove(&path, &attribute_name(name)?, &caller.cred).map(|()| 0)
}

/// fremovexattr(2).
pub(crate) fn sys_fremovexattr(_cx: &mut Cx<'_>, fd: i32, name: UserAddr) -> Result<usize> {
    let caller = Caller::new()?;
    let path = by_fd(&caller, fd)?;
    xattr::remove(&path, &attribute_name(name)?, &caller.cred).map(|()| 0)
}
