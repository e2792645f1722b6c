//! Mounts by descriptor: open_tree(2), move_mount(2), fsopen(2) and its kin, mount_setattr(2), statmount(2),
//! listmount(2).

use abi::fs::{AT_FDCWD, AtFlags, MntIdReq, OpenFlags, RawMountAttr};
use abi::{Errno, Result};
use hal::{UserAddr, user};
use nsfs::Namespace;
use security::UserNs;
use vfs::mount_fd::{
    self, ConfigCommand, ConfigValue, IdmapChange, ListOrder, MOUNT_ATTR_IDMAP, MountAttr, MovePlace,
    Replace, StatMask, View,
};
use vfs::mount_ops::Depth;
use vfs::{FdFlags, WalkContext};
use zerocopy::IntoBytes;

use crate::Cx;
use crate::caller::{self, Caller};
use crate::path::{lookup, read_versioned};

/// `AT_RECURSIVE`.
const RECURSIVE: u32 = 0x8000;
/// The longest name of a parameter or file system, with its NUL (fsconfig(2)).
const NAME_MAX: usize = 256;

fn cloexec(flags: u32, bit: u32) -> FdFlags {
    if flags & bit != 0 { FdFlags::CLOEXEC } else { FdFlags::empty() }
}

/// The `AT_*` part of `flags`; `own` are the call's other flags. `EINVAL`: unknown bits.
fn at_flags(flags: u32, own: u32) -> Result<AtFlags> {
    let known = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    crate::fd::at_flags(flags & !own, known)
}

fn depth(flags: u32) -> Depth {
    if flags & RECURSIVE != 0 { Depth::Tree } else { Depth::One }
}

/// `OPEN_TREE_CLONE`.
const TREE_CLONE: u32 = 1;
/// `OPEN_TREE_NAMESPACE`.
const TREE_NAMESPACE: u32 = 2;

/// The `AT_*` part of the flags of open_tree(2). `EINVAL`: unknown bits, or ones that do not go together.
fn tree_flags(flags: u32) -> Result<AtFlags> {
    let copies = flags & (TREE_CLONE | TREE_NAMESPACE);
    if copies == TREE_CLONE | TREE_NAMESPACE || (copies == 0 && flags & RECURSIVE != 0) {
        return Err(Errno::EINVAL);
    }
    at_flags(flags, TREE_CLONE | TREE_NAMESPACE | OpenFlags::CLOEXEC.bits() | RECURSIVE)
}

/// open_tree(2).
pub(crate) fn sys_open_tree(_cx: &mut Cx<'_>, dirfd: i32, name: UserAddr, flags: u32) -> Result<usize> {
    let caller = Caller::new()?;
    let at = tree_flags(flags)?;
    let path = lookup(&caller, dirfd, name, at)?;
    let file = if flags & TREE_NAMESPACE != 0 {
        let ns = mount_fd::clone_namespace(&caller.walk(), path, depth(flags))?;
        nsfs::open(Namespace::Mnt(ns))?
    } else if flags & TREE_CLONE != 0 {
        mount_fd::clone_tree(&caller.walk(), path, depth(flags))?
    } else {
        vfs::open::open_as_path(&path, &caller.cred)?
    };
    caller.install(file, cloexec(flags, OpenFlags::CLOEXEC.bits()))
}

/// open_tree_attr(2): open_tree(2), then mount_setattr(2) on the copy.
pub(crate) fn sys_open_tree_attr(
    cx: &mut Cx<'_>,
    dirfd: i32,
    name: UserAddr,
    flags: u32,
    attr: UserAddr,
    size: usize,
) -> Result<usize> {
    if attr.0 == 0 && size != 0 {
        return Err(Errno::EINVAL);
    }
    if size == 0 {
        return sys_open_tree(cx, dirfd, name, flags);
    }
    let at = tree_flags(flags)?;
    if flags & TREE_CLONE == 0 {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::new()?;
    let change = read_attr(&caller, attr, size, Replace::Yes)?;
    let path = lookup(&caller, dirfd, name, at)?;
    let file = mount_fd::clone_tree(&caller.walk(), path, depth(flags))?;
    mount_fd::set_attr(&caller.walk(), file.path().clone(), depth(flags), &change, Replace::Yes)?;
    caller.install(file, cloexec(flags, OpenFlags::CLOEXEC.bits()))
}

/// move_mount(2).
pub(crate) fn sys_move_mount(
    _cx: &mut Cx<'_>,
    from_fd: i32,
    from_name: UserAddr,
    to_fd: i32,
    to_name: UserAddr,
    flags: u32,
) -> Result<usize> {
    const SYMLINKS: u32 = 1;
    const AUTOMOUNTS: u32 = 2;
    const EMPTY_PATH: u32 = 4;
    const SET_GROUP: u32 = 0x100;
    const BENEATH: u32 = 0x200;
    let of_one = SYMLINKS | AUTOMOUNTS | EMPTY_PATH;
    let is_known = flags & !(of_one | of_one << 4 | BENEATH | SET_GROUP) == 0;
    if !is_known || flags & (BENEATH | SET_GROUP) == BENEATH | SET_GROUP {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::new()?;
    let find = |dirfd, name, flags: u32| {
        let mut at = AtFlags::empty();
        at.set(AtFlags::SYMLINK_NOFOLLOW, flags & SYMLINKS == 0);
        at.set(AtFlags::EMPTY_PATH, flags & EMPTY_PATH != 0);
        lookup(&caller, dirfd, name, at)
    };
    let to = find(to_fd, to_name, flags >> 4)?;
    let from = find(from_fd, from_name, flags)?;
    if flags & SET_GROUP != 0 {
        return mount_fd::set_group(&caller.walk(), from, to).map(|()| 0);
    }
    let place = if flags & BENEATH != 0 { MovePlace::Beneath } else { MovePlace::OnTop };
    mount_fd::move_mount(&caller.walk(), from, to, place).map(|()| 0)
}

/// Reads `struct mount_attr`. `EINVAL`: shorter than the first version, bad bits, no user namespace to map by, or the end of a
/// map that is not to be replaced. `EPERM`: a namespace that is not the caller's to map by. `EBADF`, `E2BIG`, `EFAULT`.
fn read_attr(caller: &Caller, addr: UserAddr, size: usize, replace: Replace) -> Result<MountAttr> {
    const KNOWN: usize = size_of::<RawMountAttr>();
    if size > hal::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < KNOWN {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; KNOWN];
    read_versioned(addr, size, &mut bytes)?;
    let raw: RawMountAttr = zerocopy::transmute!(bytes);
    let attr = MountAttr::decode(raw.attr_set, raw.attr_clr, raw.propagation)?;
    let (sets, clears) = (raw.attr_set & MOUNT_ATTR_IDMAP != 0, raw.attr_clr & MOUNT_ATTR_IDMAP != 0);
    if clears && replace == Replace::No {
        return Err(Errno::EINVAL);
    }
    let change = match (sets, clears) {
        (true, _) => IdmapChange::Set(user_ns(caller, raw.userns_fd)?),
        (false, true) => IdmapChange::Clear,
        (false, false) => IdmapChange::Keep,
    };
    attr.with_idmap(change, &caller.cred)
}

/// The user namespace of descriptor `fd`. `EINVAL`: it is something else, or no descriptor's number. `EBADF`: it is closed.
fn user_ns(caller: &Caller, fd: u64) -> Result<UserNs> {
    let fd = i32::try_from(fd).map_err(|_| Errno::EINVAL)?;
    let file = caller.files.get(fd)?;
    match file.ops_as::<nsfs::NsFile>().map(nsfs::NsFile::namespace) {
        Some(Namespace::User(ns)) => Ok(ns.clone()),
        _ => Err(Errno::EINVAL),
    }
}

/// mount_setattr(2).
pub(crate) fn sys_mount_setattr(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    name: UserAddr,
    flags: u32,
    attr: UserAddr,
    size: usize,
) -> Result<usize> {
    let at = at_flags(flags, RECURSIVE)?;
    let caller = Caller::new()?;
    let change = read_attr(&caller, attr, size, Replace::No)?;
    if change.is_empty() {
        return Ok(0);
    }
    let path = lookup(&caller, dirfd, name, at)?;
    mount_fd::set_attr(&caller.walk(), path, depth(flags), &change, Replace::No).map(|()| 0)
}

/// fsopen(2).
pub(crate) fn sys_fsopen(_cx: &mut Cx<'_>, name: UserAddr, flags: u32) -> Result<usize> {
    const CLOEXEC: u32 = 1;
    let caller = Caller::new()?;
    if flags & !CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let name = caller::string(name, hal::PAGE_SIZE, Errno::EINVAL)?;
    let file = mount_fd::fsopen(&caller.walk(), &name)?;
    caller.install(file, cloexec(flags, CLOEXEC))
}

/// fspick(2).
pub(crate) fn sys_fspick(_cx: &mut Cx<'_>, dirfd: i32, name: UserAddr, flags: u32) -> Result<usize> {
    const CLOEXEC: u32 = 1;
    const SYMLINK_NOFOLLOW: u32 = 2;
    const NO_AUTOMOUNT: u32 = 4;
    const EMPTY_PATH: u32 = 8;
    if flags & !(CLOEXEC | SYMLINK_NOFOLLOW | NO_AUTOMOUNT | EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::new()?;
    let mut at = AtFlags::empty();
    at.set(AtFlags::SYMLINK_NOFOLLOW, flags & SYMLINK_NOFOLLOW != 0);
    at.set(AtFlags::EMPTY_PATH, flags & EMPTY_PATH != 0);
    let path = lookup(&caller, dirfd, name, at)?;
    let file = mount_fd::fspick(&caller.walk(), &path)?;
    caller.install(file, cloexec(flags, CLOEXEC))
}

/// fsmount(2).
pub(crate) fn sys_fsmount(_cx: &mut Cx<'_>, fd: i32, flags: u32, attributes: u32) -> Result<usize> {
    const CLOEXEC: u32 = 1;
    const NAMESPACE: u32 = 2;
    if flags & !(CLOEXEC | NAMESPACE) != 0 {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::new()?;
    let file = caller.files.get(fd)?;
    let (ctx, attributes) = (caller.walk(), u64::from(attributes));
    let made = if flags & NAMESPACE != 0 {
        nsfs::open(Namespace::Mnt(mount_fd::fsmount_namespace(&ctx, &file, attributes)?))?
    } else {
        mount_fd::fsmount(&ctx, &file, attributes)?
    };
    caller.install(made, cloexec(flags, CLOEXEC))
}

/// fsconfig(2). Binary values and descriptors are parameters of no file system here: `EINVAL`.
pub(crate) fn sys_fsconfig(
    _cx: &mut Cx<'_>,
    fd: i32,
    cmd: u32,
    key: UserAddr,
    value: UserAddr,
    aux: i32,
) -> Result<usize> {
    if fd < 0 {
        return Err(Errno::EINVAL);
    }
    let command = read_command(cmd, key, value, aux)?;
    let caller = Caller::new()?;
    let file = caller.files.get(fd)?;
    mount_fd::fsconfig(&caller.walk(), &file, command).map(|()| 0)
}

fn read_command(cmd: u32, key: UserAddr, value: UserAddr, aux: i32) -> Result<ConfigCommand> {
    const SET_FLAG: u32 = 0;
    const SET_STRING: u32 = 1;
    const SET_BINARY: u32 = 2;
    const SET_PATH: u32 = 3;
    const SET_PATH_EMPTY: u32 = 4;
    const SET_FD: u32 = 5;
    const CMD_CREATE: u32 = 6;
    const CMD_RECONFIGURE: u32 = 7;
    const CMD_CREATE_EXCL: u32 = 8;
    let (has_key, has_value) = (key.0 != 0, value.0 != 0);
    let is_well_formed = match cmd {
        SET_FLAG => has_key && !has_value && aux == 0,
        SET_STRING => has_key && has_value && aux == 0,
        SET_BINARY => has_key && has_value && aux > 0 && aux <= 1024 * 1024,
        SET_PATH | SET_PATH_EMPTY => has_key && has_value && (aux == AT_FDCWD || aux >= 0),
        SET_FD => has_key && !has_value && aux >= 0,
        CMD_CREATE | CMD_RECONFIGURE | CMD_CREATE_EXCL => !has_key && !has_value && aux == 0,
        _ => return Err(Errno::EOPNOTSUPP),
    };
    if !is_well_formed {
        return Err(Errno::EINVAL);
    }
    let set = |value| Ok(ConfigCommand::Set(caller::string(key, NAME_MAX, Errno::EINVAL)?, value));
    match cmd {
        SET_FLAG => set(ConfigValue::Flag),
        SET_STRING => set(ConfigValue::Text(caller::string(value, NAME_MAX, Errno::EINVAL)?)),
        SET_PATH | SET_PATH_EMPTY => {
            let text = caller::path(value)?;
            // A file system is given the text; one relative to a descriptor has none that it could use.
            if aux != AT_FDCWD && text.first() != Some(&b'/') {
                return Err(Errno::EINVAL);
            }
            set(ConfigValue::Text(text))
        }
        SET_FD => set(ConfigValue::File(caller::file(aux)?)),
        CMD_CREATE => Ok(ConfigCommand::Create),
        CMD_CREATE_EXCL => Ok(ConfigCommand::CreateExclusive),
        CMD_RECONFIGURE => Ok(ConfigCommand::Reconfigure),
        _ => Err(Errno::EINVAL),
    }
}

/// Reads `struct mnt_id_req`. `EINVAL`: too short.
fn read_request(addr: UserAddr) -> Result<MntIdReq> {
    const FIRST: usize = 24;
    let size: u32 = user::read(addr)?;
    let size = size as usize;
    if size > hal::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < FIRST {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; size_of::<MntIdReq>()];
    read_versioned(addr, size, &mut bytes)?;
    Ok(zerocopy::transmute!(bytes))
}

/// The namespace that `request` is about: by number, by descriptor, or the caller's.
///
/// `EINVAL`: no mount's id, two namespaces, or a descriptor of something else. `ENOENT`, `EBADF`: there is none.
/// `EPERM`: the caller may not look into it.
fn view_of<'a>(caller: &Caller, ctx: &'a WalkContext<'a>, request: &MntIdReq) -> Result<View<'a>> {
    let (id, fd) = (request.mnt_ns_id, request.mnt_ns_fd);
    if request.mnt_id <= 1 << 31 || (id != 0 && fd != 0) {
        return Err(Errno::EINVAL);
    }
    if id == 0 && fd == 0 {
        return View::own(ctx);
    }
    if id != 0 && caller.fs.ns().is_some_and(|ns| ns.id().id() == id) {
        return View::own(ctx);
    }
    let ns = if id != 0 {
        nsfs::mount_ns(id)?
    } else {
        let file = caller.files.get(fd as i32)?;
        match file.ops_as::<nsfs::NsFile>().map(nsfs::NsFile::namespace) {
            Some(Namespace::Mnt(ns)) => ns.clone(),
            _ => return Err(Errno::EINVAL),
        }
    };
    View::of(ctx, ns)
}

/// statmount(2). `EOVERFLOW`: the strings do not fit.
pub(crate) fn sys_statmount(
    _cx: &mut Cx<'_>,
    request: UserAddr,
    buf: UserAddr,
    size: usize,
    flags: u32,
) -> Result<usize> {
    const BY_FD: u32 = 1;
    if flags & !BY_FD != 0 {
        return Err(Errno::EINVAL);
    }
    let request = read_request(request)?;
    let caller = Caller::new()?;
    let ctx = caller.walk();
    let wanted = StatMask::from_bits_retain(request.param);
    let (fixed, strings) = if flags & BY_FD != 0 {
        if request.mnt_id != 0 || request.mnt_ns_id != 0 {
            return Err(Errno::EINVAL);
        }
        let file = caller.files.get_any(request.mnt_ns_fd as i32)?;
        mount_fd::stat_mount_of(&ctx, &file, wanted)?
    } else {
        mount_fd::stat_mount(&view_of(&caller, &ctx, &request)?, request.mnt_id, wanted)?
    };
    let fixed = fixed.as_bytes();
    if !strings.is_empty() && fixed.len() + strings.len() > size {
        return Err(Errno::EOVERFLOW);
    }
    let fixed = fixed.get(..size.min(fixed.len())).unwrap_or(fixed);
    user::write_bytes(buf, fixed)?;
    user::write_bytes(UserAddr(buf.0.wrapping_add(fixed.len() as u64)), &strings)?;
    Ok(0)
}

/// listmount(2).
pub(crate) fn sys_listmount(
    _cx: &mut Cx<'_>,
    request: UserAddr,
    ids: UserAddr,
    max: usize,
    flags: u32,
) -> Result<usize> {
    const REVERSE: u32 = 1;
    /// The most that one call gives.
    const MAX: usize = 1_000_000;
    if flags & !REVERSE != 0 {
        return Err(Errno::EINVAL);
    }
    if max > MAX {
        return Err(Errno::EOVERFLOW);
    }
    let request = read_request(request)?;
    let last_is_valid = request.param == 0 || request.param > 1 << 31;
    if !last_is_valid {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::new()?;
    let ctx = caller.walk();
    // Linux: who may not look does not learn here that there is something, other than from statmount(2).
    let hide = |errno| if errno == Errno::EPERM { Errno::ENOENT } else { errno };
    let view = view_of(&caller, &ctx, &request).map_err(hide)?;
    let order = if flags & REVERSE != 0 { ListOrder::Reverse } else { ListOrder::Forward };
    let found = mount_fd::list_mounts(&view, request.mnt_id, request.param, max, order)?;
    user::write_bytes(ids, found.as_slice().as_bytes())?;
    Ok(found.len())
}
