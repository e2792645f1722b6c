//! The parts of fcntl(2) and ioctl(2) that are the same for all files.

use alloc::sync::Arc;

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use hal::UserAddr;
use security::Cred;

use crate::fdtable::{FdFlags, FdTable};
use crate::file::{File, FileMode};
use crate::file_attr;
use crate::inode::{FileKind, InodeFlags};
use crate::pipe::PipeEnd;
use crate::splice;

/// `FIONCLEX`.
const FIONCLEX: u32 = 0x5450;
/// `FIOCLEX`.
const FIOCLEX: u32 = 0x5451;
/// `FIONBIO`.
const FIONBIO: u32 = 0x5421;
/// `FIOASYNC`.
const FIOASYNC: u32 = 0x5452;
/// `FIONREAD`.
const FIONREAD: u32 = 0x541b;
/// `FIOQSIZE`.
const FIOQSIZE: u32 = 0x5460;
/// `FICLONE`, `FICLONERANGE`; the second takes a structure that begins with the descriptor as an i64.
const FICLONE: u32 = 0x4004_9409;
const FICLONERANGE: u32 = 0x4020_940d;
/// `FIGETBSZ`.
const FIGETBSZ: u32 = 2;

/// ioctl(2). What is common is done here, the rest by the file. `ENOTTY`: unknown to both. May sleep.
pub fn ioctl(files: &FdTable, fd: i32, cmd: u32, arg: usize, cred: impl Fn() -> Arc<Cred>) -> Result<usize> {
    let file = files.get(fd)?;
    let user = UserAddr(arg as u64);
    match cmd {
        FIOCLEX => files.set_fd_flags(fd, FdFlags::CLOEXEC)?,
        FIONCLEX => files.set_fd_flags(fd, FdFlags::empty())?,
        FIONBIO => toggle(&file, OpenFlags::NONBLOCK, user)?,
        FIOASYNC => toggle(&file, OpenFlags::ASYNC, user)?,
        FICLONE => splice::clone_file(&*files.get(arg as i32)?, &file)?,
        FICLONERANGE => {
            let from: i64 = hal::user::read(user)?;
            splice::clone_file(&*files.get(from as i32)?, &file)?;
        }
        FIONREAD => return fionread(&file, cmd, arg),
        FIGETBSZ if file.inode().is_regular() || file.inode().is_dir() => {
            hal::user::write(user, &(file.inode().sb().block_size() as i32))?;
        }
        FIOQSIZE => match file.inode().kind() {
            FileKind::Regular | FileKind::Directory | FileKind::Symlink => {
                hal::user::write(user, &(file.inode().size() as i64))?;
            }
            _ => return Err(Errno::ENOTTY),
        },
        file_attr::GETFLAGS | file_attr::SETFLAGS | file_attr::FSGETXATTR | file_attr::FSSETXATTR => {
            match file_attr::ioctl(file.path(), &cred(), cmd, user) {
                // A file may know the number as one of its own.
                Err(Errno::ENOIOCTLCMD) => {
                    return file.ops().ioctl_by(&file, cmd, arg, &cred).map_err(hide_internal);
                }
                done => done?,
            }
        }
        _ => return file.ops().ioctl_by(&file, cmd, arg, &cred).map_err(hide_internal),
    }
    Ok(0)
}

fn hide_internal(errno: Errno) -> Errno {
    if errno == Errno::ENOIOCTLCMD { Errno::ENOTTY } else { errno }
}

fn toggle(file: &File, flag: OpenFlags, user: UserAddr) -> Result<()> {
    let on: i32 = hal::user::read(user)?;
    file.update_flags(flag, if on != 0 { flag } else { OpenFlags::empty() });
    Ok(())
}

fn fionread(file: &Arc<File>, cmd: u32, arg: usize) -> Result<usize> {
    let count = if file.inode().is_regular() {
        file.inode().size().wrapping_sub(file.pos()) as i32
    } else {
        match file.ops().readable_bytes(file) {
            Ok(count) => count as i32,
            Err(Errno::ENOTTY) => return file.ops().ioctl(file, cmd, arg).map_err(hide_internal),
            Err(errno) => return Err(errno),
        }
    };
    hal::user::write(UserAddr(arg as u64), &count)?;
    Ok(0)
}

/// fcntl(2) `F_SETPIPE_SZ`; gives the new capacity. `EBADF`: not a pipe.
pub fn set_pipe_size(file: &File, size: usize, cred: &Cred) -> Result<usize> {
    let end = file.ops_as::<PipeEnd>().ok_or(Errno::EBADF)?;
    end.pipe().set_capacity(size, cred)
}

/// fcntl(2) `F_GETPIPE_SZ`. `EBADF`: not a pipe.
pub fn pipe_size(file: &File) -> Result<usize> {
    Ok(file.ops_as::<PipeEnd>().ok_or(Errno::EBADF)?.pipe().capacity())
}

/// fcntl(2) `F_GETFL`.
pub fn status_flags(file: &File) -> OpenFlags {
    let flags = file.flags();
    // User space of 64 bits sees O_LARGEFILE wherever the kernel opened a file for it.
    let is_opened =
        !file.mode().contains(FileMode::PATH) && !file.inode().flags().contains(InodeFlags::ANONYMOUS);
    if is_opened { flags | OpenFlags::LARGEFILE } else { flags }
}

/// fcntl(2) `F_DUPFD` and `F_DUPFD_CLOEXEC`: `EINVAL` if `min` is not below `limit`.
pub fn dupfd(files: &FdTable, fd: i32, min: i32, limit: usize, flags: FdFlags) -> Result<i32> {
    let file = files.get_any(fd)?;
    let min = usize::try_from(min).ok().filter(|&min| min < limit).ok_or(Errno::EINVAL)?;
    files.insert(file, min, limit, flags)
}

/// fsync(2) and fdatasync(2).
pub fn fsync(file: &File, mode: crate::file::SyncMode) -> Result<()> {
    file.require(FileMode::empty())?;
    let result = file.ops().fsync(file, mode);
    // Told now, so not again by the next call, whichever way it comes.
    let noted = file.check_write_error();
    result.and(noted)
}
