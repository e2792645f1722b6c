//! What handlers need to know about the calling task, and how they read their arguments from its memory.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::PATH_MAX;
use abi::socket::{IOV_MAX, Iovec};
use abi::{Errno, Result};
use hal::uio::UserBuf;
use hal::{CStrError, UserAddr, user};
use limits::Resource;
use process::CurrentTask;
use security::{Cred, IdKind};
use vfs::{FdFlags, FdTable, File, FileMode, FsContext, WalkContext};

/// The caller with what interprets its path names and descriptors.
pub(crate) struct Caller {
    pub task: CurrentTask,
    pub fs: Arc<FsContext>,
    pub files: Arc<FdTable>,
    pub cred: Arc<Cred>,
}

impl Caller {
    /// The current task. `ESRCH`: it is exiting and has given up its files.
    pub fn new() -> Result<Self> {
        let task = process::current();
        let fs = task.fs().ok_or(Errno::ESRCH)?;
        let files = task.files().ok_or(Errno::ESRCH)?;
        let cred = task.cred();
        Ok(Self { task, fs, files, cred })
    }

    /// How the caller's path names are walked.
    pub fn walk(&self) -> WalkContext<'_> {
        WalkContext { fs: &self.fs, files: &self.files, cred: &self.cred }
    }

    /// Installs `file` at the lowest free descriptor. `EMFILE`, `ENOMEM`.
    pub fn install(&self, file: Arc<File>, flags: FdFlags) -> Result<usize> {
        self.files.insert(file, 0, nofile(), flags).map(|fd| fd as usize)
    }
}

/// Installs `file` at the lowest free descriptor of `files`. `EMFILE`, `ENOMEM`.
pub(crate) fn install(files: &FdTable, file: Arc<File>, flags: FdFlags) -> Result<usize> {
    let limit = usize::try_from(rlimit(Resource::Nofile)).unwrap_or(usize::MAX);
    files.insert(file, 0, limit, flags).map(|fd| fd as usize)
}

/// The caller's descriptor table.
#[inline]
pub(crate) fn files() -> Result<Arc<FdTable>> {
    process::current().files().ok_or(Errno::EBADF)
}

/// The caller's open file `fd`. `EBADF`.
#[inline]
pub(crate) fn file(fd: i32) -> Result<Arc<File>> {
    let file = process::current().file(fd)?;
    if file.mode().contains(FileMode::PATH) { Err(Errno::EBADF) } else { Ok(file) }
}

/// The id of the first user namespace that the caller means by `number`; `u32::MAX` ("leave it") stays. `EINVAL`: it has
/// none.
pub(crate) fn global_id(kind: IdKind, number: u32) -> Result<u32> {
    if number == u32::MAX {
        return Ok(number);
    }
    process::current().with_cred(|cred| cred.user_ns.to_global(kind, number)).ok_or(Errno::EINVAL)
}

/// The number that the caller sees for `id` of the first user namespace.
pub(crate) fn shown_id(kind: IdKind, id: u32) -> u32 {
    process::current().with_cred(|cred| cred.user_ns.show(kind, id))
}

/// The caller's soft limit on `resource`.
#[inline]
pub(crate) fn rlimit(resource: Resource) -> u64 {
    process::current().group().rlimits().cur(resource)
}

/// One past the highest descriptor that the caller may have.
pub(crate) fn nofile() -> usize {
    usize::try_from(rlimit(Resource::Nofile)).unwrap_or(usize::MAX)
}

/// Reads a path name. `EFAULT`; `ENAMETOOLONG`: no NUL within `PATH_MAX` bytes.
pub(crate) fn path(addr: UserAddr) -> Result<Vec<u8>> {
    string(addr, PATH_MAX, Errno::ENAMETOOLONG)
}

/// Reads a NUL-terminated string of at most `max` bytes with its NUL; `too_long` is the error of a longer one.
pub(crate) fn string(addr: UserAddr, max: usize, too_long: Errno) -> Result<Vec<u8>> {
    user::read_cstr(addr, max).map_err(|error| match error {
        CStrError::Fault => Errno::EFAULT,
        CStrError::TooLong => too_long,
        CStrError::NoMemory => Errno::ENOMEM,
    })
}

/// Reads an I/O vector. `EINVAL`: too many elements or a negative length. `EFAULT`, `ENOMEM`.
pub(crate) fn iovec(addr: UserAddr, count: usize) -> Result<Vec<UserBuf>> {
    if count > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let mut bufs = Vec::new();
    bufs.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    let mut total = 0usize;
    for index in 0..count as u64 {
        let entry: Iovec = user::read(UserAddr(addr.0.wrapping_add(index * size_of::<Iovec>() as u64)))?;
        let len = usize::try_from(entry.iov_len).ok().filter(|&len| len <= isize::MAX as usize);
        let len = len.ok_or(Errno::EINVAL)?.min(vfs::rw::MAX_COUNT - total);
        total += len;
        bufs.push(UserBuf { addr: UserAddr(entry.iov_base), len });
    }
    Ok(bufs)
}

/// The descriptor flags that `O_CLOEXEC` among `flags` asks for.
pub(crate) fn cloexec(flags: abi::fs::OpenFlags) -> FdFlags {
    if flags.contains(abi::fs::OpenFlags::CLOEXEC) { FdFlags::CLOEXEC } else { FdFlags::empty() }
}
