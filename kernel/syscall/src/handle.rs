//! Files by handle: name_to_handle_at(2), open_by_handle_at(2); and listns(2), whose numbers make handles.

use abi::fs::{AT_FDCWD, AtFlags, OpenFlags};
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use events::pidfd;
use hal::{UserAddr, user};
use security::Cap;
use vfs::handle::{self, Handle, MAX_BYTES, Purpose, kind};
use vfs::open::How;
use vfs::{File, Path, anon};

use crate::Cx;
use crate::caller::{self, Caller};
use crate::path::{lookup, read_versioned};

/// Bytes of `struct file_handle` before those of the handle: their number, and the type.
const HEADER: u64 = 8;
/// `AT_HANDLE_MNT_ID_UNIQUE`, `AT_HANDLE_CONNECTABLE`, `AT_HANDLE_FID`.
const MNT_ID_UNIQUE: u32 = 0x1;
const CONNECTABLE: u32 = 0x2;
const FID: u32 = 0x200;
/// Set in the type of a handle: it is connectable, or of a directory (`FILEID_IS_*`).
const IS_CONNECTABLE: i32 = 0x10000;
const IS_DIR: i32 = 0x20000;
/// Descriptors that stand for the file systems of processes and of namespaces.
const FD_PIDFS_ROOT: i32 = -10002;
const FD_NSFS_ROOT: i32 = -10003;

/// The handle of what `path` is.
fn handle_of(path: &Path, purpose: Purpose) -> Result<Handle> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    if let Some(ino) = pidfd::handle_of(inode) {
        return Ok(Handle::of_words(kind::PID, &[ino as u32, (ino >> 32) as u32]));
    }
    if let Some(bytes) = nsfs::handle_of(inode) {
        return Ok(Handle { kind: kind::NSFS, bytes: bytes.as_slice().into() });
    }
    handle::encode(path, purpose)
}

/// name_to_handle_at(2). `EOPNOTSUPP`: the file system has no handles. `EOVERFLOW`: it does not fit; its size is told.
pub(crate) fn sys_name_to_handle_at(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    name: UserAddr,
    out: UserAddr,
    mount_id: UserAddr,
    flags: u32,
) -> Result<usize> {
    let own = flags & (MNT_ID_UNIQUE | CONNECTABLE | FID);
    let at = crate::fd::at_flags(flags & !own, AtFlags::SYMLINK_FOLLOW | AtFlags::EMPTY_PATH)?;
    let is_connectable = own & CONNECTABLE != 0;
    if is_connectable && (own & FID != 0 || at.contains(AtFlags::EMPTY_PATH)) {
        return Err(Errno::EINVAL);
    }
    let purpose = match own & (CONNECTABLE | FID) {
        0 => Purpose::Open,
        CONNECTABLE => Purpose::OpenConnected,
        _ => Purpose::Identify,
    };
    let caller = Caller::new()?;
    let follow =
        if at.contains(AtFlags::SYMLINK_FOLLOW) { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    let path = lookup(&caller, dirfd, name, at & AtFlags::EMPTY_PATH | follow)?;
    let room: u32 = user::read(out)?;
    if room as usize > MAX_BYTES {
        return Err(Errno::EINVAL);
    }
    let handle = handle_of(&path, purpose)?;
    let fits = handle.bytes.len() <= room as usize;
    if own & MNT_ID_UNIQUE != 0 {
        user::write(mount_id, &path.mount.unique_id())?;
    } else {
        user::write(mount_id, &path.mount.id())?;
    }
    let mut shown_kind = handle.kind;
    if is_connectable {
        shown_kind |=
            IS_CONNECTABLE | if path.inode().is_some_and(|inode| inode.is_dir()) { IS_DIR } else { 0 };
    }
    user::write(out, &[handle.bytes.len() as u32, shown_kind as u32])?;
    if !fits {
        return Err(Errno::EOVERFLOW);
    }
    user::write_bytes(UserAddr(out.0.wrapping_add(HEADER)), &handle.bytes)?;
    Ok(0)
}

/// What the handle is looked up beside.
enum Beside {
    Processes,
    Namespaces,
    Files(Path),
}

fn beside(caller: &Caller, dirfd: i32) -> Result<Beside> {
    let path = match dirfd {
        FD_PIDFS_ROOT => return Ok(Beside::Processes),
        FD_NSFS_ROOT => return Ok(Beside::Namespaces),
        AT_FDCWD => caller.fs.cwd(),
        fd => caller.files.get_any(fd)?.path().clone(),
    };
    let is_on = |kind: &anon::Kind| path.inode().is_some_and(|inode| kind.holds(inode));
    Ok(if is_on(anon::PIDFS) {
        Beside::Processes
    } else if is_on(anon::NSFS) {
        Beside::Namespaces
    } else {
        Beside::Files(path)
    })
}

fn read_handle(addr: UserAddr) -> Result<(i32, Vec<u8>)> {
    let [len, kind]: [u32; 2] = user::read(addr)?;
    let len = len as usize;
    // Bits above the type and what this call marks itself with are nobody's.
    let is_known = kind as i32 & !(0xffff | IS_CONNECTABLE | IS_DIR) == 0;
    if len == 0 || len > MAX_BYTES || !is_known {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; MAX_BYTES];
    user::read_bytes(UserAddr(addr.0.wrapping_add(HEADER)), &mut bytes[..len])?;
    Ok((kind as i32 & 0xffff, bytes[..len].to_vec()))
}

fn open(caller: &Caller, dirfd: i32, (kind, bytes): (i32, Vec<u8>), flags: u32) -> Result<Arc<File>> {
    let how = How::new(flags, 0)?;
    match beside(caller, dirfd)? {
        Beside::Processes => {
            let word = |at| Handle::word(&bytes, at).ok_or(Errno::ESTALE);
            let ino = u64::from(word(0)?) | u64::from(word(1)?) << 32;
            if kind != kind::PID {
                return Err(Errno::ESTALE);
            }
            pidfd::by_handle(ino, OpenFlags::from_bits(flags).ok_or(Errno::EINVAL)?, &caller.cred)
        }
        Beside::Namespaces if kind != kind::NSFS => Err(Errno::ESTALE),
        Beside::Namespaces if how.flags().contains(OpenFlags::DIRECTORY) => Err(Errno::ENOTDIR),
        Beside::Namespaces => nsfs::by_handle(&bytes, &how, &caller.cred),
        Beside::Files(_) if !caller.cred.capable(Cap::DAC_READ_SEARCH) => Err(Errno::EPERM),
        Beside::Files(beside) => {
            let path = handle::decode(&beside, kind, &bytes)?;
            let is_dir = path.inode().is_some_and(|inode| inode.is_dir());
            if how.flags().contains(OpenFlags::DIRECTORY) && !is_dir {
                return Err(Errno::ENOTDIR);
            }
            if how.flags().contains(OpenFlags::PATH) {
                return vfs::open::open_as_path(&path, &caller.cred);
            }
            vfs::open::open_path(&path, &how, &caller.cred)
        }
    }
}

/// open_by_handle_at(2). `EPERM`: no `CAP_DAC_READ_SEARCH`. `EINVAL`: no handle. `ESTALE`: it names nothing any more.
pub(crate) fn sys_open_by_handle_at(
    _cx: &mut Cx<'_>,
    dirfd: i32,
    addr: UserAddr,
    flags: u32,
) -> Result<usize> {
    let caller = Caller::new()?;
    let file = open(&caller, dirfd, read_handle(addr)?, flags)?;
    caller.install(file, caller::cloexec(OpenFlags::from_bits_truncate(flags)))
}

/// listns(2). `EINVAL`: flags, or a structure that is too short. `EOVERFLOW`: more than a million numbers.
pub(crate) fn sys_listns(
    _cx: &mut Cx<'_>,
    request: UserAddr,
    ids: UserAddr,
    max: usize,
    flags: u32,
) -> Result<usize> {
    /// Bytes of `struct ns_id_req` in its first version: size, spare, number, kinds, spare, owner.
    const SIZE: usize = 32;
    const MOST: usize = 1_000_000;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    if max > MOST {
        return Err(Errno::EOVERFLOW);
    }
    if !ids.range_ok(max * 8) {
        return Err(Errno::EFAULT);
    }
    let size = user::read::<u32>(request)? as usize;
    if size > hal::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < SIZE {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; SIZE];
    read_versioned(request, size, &mut bytes)?;
    let [first, after, kinds, owner]: [u64; 4] = zerocopy::transmute!(bytes);
    if first >> 32 != 0 {
        return Err(Errno::EINVAL);
    }
    let listing = nsfs::Listing { after, kinds: kinds as u32, owner };
    nsfs::list(&listing, ids, max)
}
