//! Extended attributes (xattr(7)): the path, link, descriptor and `*xattrat` forms of each call.
//!
//! Linux reads every argument before it looks at the file, and so do these: a bad name is told
//! even when the file is missing.

use alloc::vec::Vec;

use abi::fs::{AT_FDCWD, AtFlags, XattrArgs};
use abi::{Errno, Result};
use hal::{UserAddr, user};
use vfs::inode::XattrMode;
use vfs::xattr::{self, SIZE_MAX};
use vfs::{At, File, Path, WalkFlags, walk};

use crate::Cx;
use crate::caller::{self, Caller};
use crate::path::read_versioned;

/// How a call names its file.
enum Target {
    /// A path name.
    Name { dirfd: i32, name: Vec<u8>, flags: WalkFlags },
    /// An open file.
    Fd(i32),
    /// A file that was found already.
    Found(Path),
}

impl Target {
    fn name(addr: UserAddr, flags: WalkFlags) -> Result<Self> {
        Ok(Self::Name { dirfd: AT_FDCWD, name: caller::path(addr)?, flags })
    }

    /// The file of a `*xattrat` call. With `AT_EMPTY_PATH`, no name or an empty one means `dirfd` itself.
    fn at(dirfd: i32, addr: UserAddr, flags: AtFlags) -> Result<Self> {
        let may_be_empty = flags.contains(AtFlags::EMPTY_PATH);
        let name = if addr.0 == 0 && may_be_empty { Vec::new() } else { caller::path(addr)? };
        if name.is_empty() && may_be_empty && dirfd >= 0 {
            return Ok(Self::Fd(dirfd));
        }
        Ok(Self::Name { dirfd, name, flags: WalkFlags::from_at(flags) })
    }

    fn find(&self, caller: &Caller) -> Result<Path> {
        match self {
            Self::Name { dirfd, name, flags } => walk(&caller.walk(), At::from_raw(*dirfd), name, *flags),
            Self::Fd(fd) => Ok(caller.files.get(*fd)?.path().clone()),
            Self::Found(path) => Ok(path.clone()),
        }
    }
}

/// The flags of a `*xattrat` call. `EINVAL`: others than it knows.
fn at_flags(flags: u32) -> Result<AtFlags> {
    crate::fd::at_flags(flags, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH)
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

fn get(target: &Target, name: Vec<u8>, buf: UserAddr, size: usize) -> Result<usize> {
    let caller = Caller::new()?;
    give(&xattr::get(&target.find(&caller)?, &name, &caller.cred)?, buf, size)
}

fn list(target: &Target, buf: UserAddr, size: usize) -> Result<usize> {
    let caller = Caller::new()?;
    give(&xattr::list(&target.find(&caller)?, &caller.cred)?, buf, size)
}

fn remove(target: &Target, name: Vec<u8>) -> Result<usize> {
    let caller = Caller::new()?;
    xattr::remove(&target.find(&caller)?, &name, &caller.cred).map(|()| 0)
}

/// What is to be set.
struct Value {
    name: Vec<u8>,
    bytes: Vec<u8>,
    mode: XattrMode,
}

impl Value {
    /// `EINVAL`: unknown flags. `ERANGE`: the name. `E2BIG`: more than [`SIZE_MAX`]. `EFAULT`, `ENOMEM`.
    fn read(name: UserAddr, buf: UserAddr, size: usize, flags: u32) -> Result<Self> {
        let mode = match flags {
            0 => XattrMode::Any,
            1 => XattrMode::Create,
            2 => XattrMode::Replace,
            // What exists may not be created, what does not may not be replaced.
            3 => XattrMode::Never,
            _ => return Err(Errno::EINVAL),
        };
        let name = attribute_name(name)?;
        if size > SIZE_MAX {
            return Err(Errno::E2BIG);
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(size, 0);
        user::read_bytes(buf, &mut bytes)?;
        Ok(Self { name, bytes, mode })
    }

    fn set(&self, target: &Target) -> Result<usize> {
        let caller = Caller::new()?;
        let path = target.find(&caller)?;
        xattr::set(&path, &self.name, &self.bytes, self.mode, &caller.cred).map(|()| 0)
    }
}

/// How an attribute of an open file is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Get,
    /// With the flags of setxattr(2).
    Set(u32),
}

/// fgetxattr(2) or fsetxattr(2) on `file`.
pub(crate) fn on_file(file: &File, how: Use, name: UserAddr, buf: UserAddr, size: usize) -> Result<usize> {
    let target = Target::Found(file.path().clone());
    match how {
        Use::Get => get(&target, attribute_name(name)?, buf, size),
        Use::Set(flags) => Value::read(name, buf, size, flags)?.set(&target),
    }
}

/// getxattr(2).
pub(crate) fn sys_getxattr(
    _cx: &mut Cx<'_>,
    path: UserAddr,
    name: UserAddr,
    buf: UserAddr,
    size: usize,
) -> Result<usize> {
    let name = attribute_name(name)?;
    get(&Target::name(path, WalkFlags::FOLLOW)?, name, buf, size)
}

/// lgetxattr(2).
pub(crate) fn sys_lgetxattr(
    _cx: &mut Cx<'_>,
    path: UserAddr,
    name: UserAddr,
    buf: UserAddr,
    size: usize,
) -> Result<usize> {
    let name = attribute_name(name)?;
    get(&Target::name(path, WalkFlags::empty())?, name, buf, size)
}

/// fgetxattr(2).
pub(crate) fn sys_fgetxattr(
    _cx: &mut Cx<'_>,
    fd: i32,
    name: UserAddr,
    buf: UserAddr,
    size: usize,
) -> Result<usize> {
    get(&Target::Fd(fd), attribute_name(name)?, buf, size)
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
    let value = Value::read(name, buf, size, flags)?;
    value.set(&Target::name(path, WalkFlags::FOLLOW)?)
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
    let value = Value::read(name, buf, size, flags)?;
    value.set(&Target::name(path, WalkFlags::empty())?)
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
    Value::read(name, buf, size, flags)?.set(&Target::Fd(fd))
}

/// listxattr(2).
pub(crate) fn sys_listxattr(_cx: &mut Cx<'_>, path: UserAddr, buf: UserAddr, size: usize) -> Result<usize> {
    list(&Target::name(path, WalkFlags::FOLLOW)?, buf, size)
}

/// llistxattr(2).
pub(crate) fn sys_llistxattr(_cx: &mut Cx<'_>, path: UserAddr, buf: UserAddr, size: usize) -> Result<usize> {
    list(&Target::name(path, WalkFlags::empty())?, buf, size)
}

/// flistxattr(2).
pub(crate) fn sys_flistxattr(_cx: &mut Cx<'_>, fd: i32, buf: UserAddr, size: usize) -> Result<usize> {
    list(&Target::Fd(fd), buf, size)
}

/// removexattr(2).
pub(crate) fn sys_removexattr(_cx: &mut Cx<'_>, path: UserAddr, name: UserAddr) -> Result<usize> {
    let name = attribute_name(name)?;
    remove(&Target::name(path, WalkFlags::FOLLOW)?, name)
}

/// lremovexattr(2).
pub(crate) fn sys_lremovexattr(_cx: &mut Cx<'_>, path: UserAddr, name: UserAddr) -> Result<usize> {
    let name = attribute_name(name)?;
    remove(&Target::name(path, WalkFlags::empty())?, name)
}

/// fremovexattr(2).
pub(crate) fn sys_fremovexattr(_cx: &mut Cx<'_>, fd: i32, name: UserAddr) -> Result<usize> {
    remove(&Target::Fd(fd), attribute_name(name)?)
}

/// Reads the arguments of a `*xattrat` call. `EINVAL`: shorter than the first version. `E2BIG`: longer than a page,
/// or unknown fields are not zero.
fn read_args(addr: UserAddr, size: usize) -> Result<XattrArgs> {
    const KNOWN: usize = size_of::<XattrArgs>();
    if size < KNOWN {
        return Err(Errno::EINVAL);
    }
    if size > hal::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    let mut bytes = [0; KNOWN];
    read_versioned(addr, size, &mut bytes)?;
    Ok(zerocopy::transmute!(bytes))
}

/// setxattrat(2).
pub(crate) fn sys_setxattrat(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    path: UserAddr,
    flags: u32,
    name: UserAddr,
    args: UserAddr,
    args_size: usize,
) -> Result<usize> {
    let args = read_args(args, args_size)?;
    let flags = at_flags(flags)?;
    let value = Value::read(name, UserAddr(args.value), args.size as usize, args.flags)?;
    value.set(&Target::at(dirfd, path, flags)?)
}

/// getxattrat(2). `EINVAL` beyond getxattr(2): flags among the arguments.
pub(crate) fn sys_getxattrat(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    path: UserAddr,
    flags: u32,
    name: UserAddr,
    args: UserAddr,
    args_size: usize,
) -> Result<usize> {
    let args = read_args(args, args_size)?;
    if args.flags != 0 {
        return Err(Errno::EINVAL);
    }
    let flags = at_flags(flags)?;
    let name = attribute_name(name)?;
    get(&Target::at(dirfd, path, flags)?, name, UserAddr(args.value), args.size as usize)
}

/// listxattrat(2).
pub(crate) fn sys_listxattrat(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    path: UserAddr,
    flags: u32,
    buf: UserAddr,
    size: usize,
) -> Result<usize> {
    let flags = at_flags(flags)?;
    list(&Target::at(dirfd, path, flags)?, buf, size)
}

/// removexattrat(2).
pub(crate) fn sys_removexattrat(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    path: UserAddr,
    flags: u32,
    name: UserAddr,
) -> Result<usize> {
    let flags = at_flags(flags)?;
    let name = attribute_name(name)?;
    remove(&Target::at(dirfd, path, flags)?, name)
}
