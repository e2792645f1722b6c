//! Asynchronous I/O: io_setup(2), io_submit(2), io_getevents(2), io_cancel(2), io_destroy(2).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::aio::{AioSigset, IoEvent, Iocb, IocbFlags, KIOCB_KEY, opcode};
use abi::poll::PollEvents;
use abi::time::Timespec;
use abi::{Errno, Result};
use events::aio::transfer::{self, Transfer};
use events::aio::{self, Context, Request};
use hal::uio::{Dest, Src, UserBuf};
use hal::{UserAddr, user};
use limits::Resource;
use process::ioprio;
use vfs::rw::{self, RwFlags};
use vfs::{File, FileMode, RwKind, SyncMode};
use zerocopy::IntoBytes;

use crate::Cx;
use crate::caller::{self, file, rlimit};
use crate::file::after_write;
use crate::poll::{call_mask, finish};

/// io_setup(2).
pub(crate) fn sys_io_setup(_cx: &mut Cx<'_>, nr: u32, place: UserAddr) -> Result<usize> {
    if user::read::<u64>(place)? != 0 {
        return Err(Errno::EINVAL);
    }
    let id = aio::setup(nr)?;
    if user::write(place, &id).is_err() {
        aio::destroy(id)?;
        return Err(Errno::EFAULT);
    }
    Ok(0)
}

/// io_destroy(2).
pub(crate) fn sys_io_destroy(_cx: &mut Cx<'_>, id: u64) -> Result<usize> {
    aio::destroy(id).map(|()| 0)
}

/// io_submit(2): gives the number of requests that were begun, or the error of the first one.
pub(crate) fn sys_io_submit(_cx: &mut Cx<'_>, id: u64, nr: i64, list: UserAddr) -> Result<usize> {
    let nr = usize::try_from(nr).map_err(|_| Errno::EINVAL)?;
    let context = aio::find(id)?;
    for done in 0..nr.min(context.max_batch()) {
        let at = UserAddr(list.0.wrapping_add((done * size_of::<u64>()) as u64));
        let submitted = match user::read::<u64>(at) {
            Ok(iocb) => submit(&context, UserAddr(iocb)),
            Err(_) => Err(Errno::EFAULT),
        };
        match submitted {
            Ok(()) => {}
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => return Ok(done),
        }
    }
    Ok(nr.min(context.max_batch()))
}

/// Begins the request at `at`. Its errors are io_submit's; those of what it does are in its event.
fn submit(context: &Arc<Context>, at: UserAddr) -> Result<()> {
    let iocb: Iocb = user::read(at)?;
    if iocb.aio_reserved2 != 0 || iocb.aio_nbytes > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    let mut request = context.begin(at.0, iocb.aio_data)?;
    let file = file(iocb.aio_fildes as i32)?;
    if IocbFlags::from_bits_truncate(iocb.aio_flags).contains(IocbFlags::RESFD) {
        request.notify(caller::file(iocb.aio_resfd as i32)?)?;
    }
    user::write(UserAddr(at.0.wrapping_add(core::mem::offset_of!(Iocb, aio_key) as u64)), &KIOCB_KEY)?;
    match iocb.aio_lio_opcode {
        opcode::PREAD | opcode::PREADV => read(request, &iocb, file),
        opcode::PWRITE | opcode::PWRITEV => write(request, &iocb, file),
        opcode::FSYNC => sync(request, &iocb, file, SyncMode::Full),
        opcode::FDSYNC => sync(request, &iocb, file, SyncMode::Data),
        opcode::POLL => poll(request, &iocb, file),
        _ => Err(Errno::EINVAL),
    }
}

/// The flags of a read or write, checked with its priority. `EINVAL`, `EPERM`, `EOPNOTSUPP`.
fn rw_flags(iocb: &Iocb, file: &File) -> Result<RwFlags> {
    if IocbFlags::from_bits_truncate(iocb.aio_flags).contains(IocbFlags::IOPRIO) {
        process::current().with_cred(|cred| ioprio::check(u32::from(iocb.aio_reqprio), cred))?;
    }
    RwFlags::decode(iocb.aio_rw_flags, file)
}

/// The buffers of a read or write. `EINVAL`: a position, a number or a length that cannot be. `EFAULT`, `ENOMEM`.
fn buffers(iocb: &Iocb, is_vector: bool) -> Result<Vec<UserBuf>> {
    let (addr, len) = (UserAddr(iocb.aio_buf), iocb.aio_nbytes as usize);
    let bufs = if is_vector {
        caller::iovec(addr, len)?
    } else {
        let len = len.min(rw::MAX_COUNT);
        crate::file::check_range(addr, len)?;
        let mut one = Vec::new();
        one.try_reserve_exact(1).map_err(|_| Errno::ENOMEM)?;
        one.push(UserBuf { addr, len });
        one
    };
    if iocb.aio_offset < 0 { Err(Errno::EINVAL) } else { Ok(bufs) }
}

/// Whether the position of a request means something to `file`.
fn has_positions(file: &File) -> bool {
    file.mode().intersects(FileMode::SEEK | FileMode::PREAD)
}

fn read(request: Request, iocb: &Iocb, file: Arc<File>) -> Result<()> {
    let flags = rw_flags(iocb, &file)?;
    file.require(FileMode::READ)?;
    if file.inode().is_dir() {
        return Err(Errno::EINVAL);
    }
    let bufs = buffers(iocb, iocb.aio_lio_opcode == opcode::PREADV)?;
    let len = total(&bufs);
    if transfer::is_worthwhile(&file, len) {
        return request.transfer(part(RwKind::Read, file, iocb, flags), bufs, len);
    }
    let mut dst = Dest::user_vec(bufs);
    let result = if has_positions(&file) {
        rw::pread_with(&file, &mut dst, iocb.aio_offset, flags)
    } else {
        rw::read_with(&file, &mut dst, flags)
    };
    request.finish(result);
    Ok(())
}

/// Bytes of all buffers.
fn total(bufs: &[UserBuf]) -> usize {
    bufs.iter().fold(0, |sum, buf| sum.saturating_add(buf.len))
}

fn part(kind: RwKind, file: Arc<File>, iocb: &Iocb, flags: RwFlags) -> Transfer {
    Transfer { kind, file: file.into(), pos: iocb.aio_offset, flags, fsize: rlimit(Resource::Fsize) }
}

fn write(request: Request, iocb: &Iocb, file: Arc<File>) -> Result<()> {
    let flags = rw_flags(iocb, &file)?;
    file.require(FileMode::WRITE)?;
    let bufs = buffers(iocb, iocb.aio_lio_opcode == opcode::PWRITEV)?;
    let len = total(&bufs);
    if transfer::is_worthwhile(&file, len) {
        return request.transfer(part(RwKind::Write, file, iocb, flags), bufs, len);
    }
    let mut src = Src::user_vec(bufs);
    let fsize = rlimit(Resource::Fsize);
    let result = if has_positions(&file) {
        rw::pwrite_with(&file, &mut src, iocb.aio_offset, fsize, flags)
    } else {
        rw::write_with(&file, &mut src, fsize, flags)
    };
    let is_silent = flags.contains(RwFlags::NOSIGNAL) && result == Err(Errno::EPIPE);
    request.finish(if is_silent { result } else { after_write(&file, result) });
    Ok(())
}

fn sync(request: Request, iocb: &Iocb, file: Arc<File>, mode: SyncMode) -> Result<()> {
    if iocb.aio_buf != 0 || iocb.aio_offset != 0 || iocb.aio_nbytes != 0 || iocb.aio_rw_flags != 0 {
        return Err(Errno::EINVAL);
    }
    request.sync(file, mode)
}

fn poll(request: Request, iocb: &Iocb, file: Arc<File>) -> Result<()> {
    let events = u16::try_from(iocb.aio_buf).map_err(|_| Errno::EINVAL)?;
    if iocb.aio_offset != 0 || iocb.aio_nbytes != 0 || iocb.aio_rw_flags != 0 {
        return Err(Errno::EINVAL);
    }
    request.poll(file, PollEvents::from_bits_truncate(u32::from(events)))
}

/// io_cancel(2): the event of a cancelled request comes as any other.
pub(crate) fn sys_io_cancel(_cx: &mut Cx<'_>, id: u64, iocb: UserAddr, _result: UserAddr) -> Result<usize> {
    let key = UserAddr(iocb.0.wrapping_add(core::mem::offset_of!(Iocb, aio_key) as u64));
    if user::read::<u32>(key)? != KIOCB_KEY {
        return Err(Errno::EINVAL);
    }
    aio::find(id)?.cancel(iocb.0)?;
    Err(Errno::EINPROGRESS)
}

/// When a wait with the `timespec` at `timeout` ends; none without one. `EFAULT`.
///
/// As on Linux the time is not checked: one that is not positive is over.
fn deadline(timeout: UserAddr) -> Result<Option<u64>> {
    if timeout.0 == 0 {
        return Ok(None);
    }
    let Timespec { tv_sec, tv_nsec } = user::read(timeout)?;
    let ns = tv_sec.saturating_mul(1_000_000_000).saturating_add(tv_nsec);
    Ok(Some(
        u64::try_from(ns).ok().filter(|&ns| ns > 0).map_or(0, |ns| hal::time::now_ns().saturating_add(ns)),
    ))
}

fn wait(id: u64, min: i64, nr: i64, events: UserAddr, deadline: Option<u64>) -> Result<usize> {
    let context = aio::find(id)?;
    let max = usize::try_from(nr).map_err(|_| Errno::EINVAL)?;
    let min = usize::try_from(min).ok().filter(|&min| min <= max).ok_or(Errno::EINVAL)?;
    let mut at = events;
    let mut put = |events: &[IoEvent]| -> Result<()> {
        user::write_bytes(at, events.as_bytes())?;
        at = UserAddr(at.0.wrapping_add(size_of_val(events) as u64));
        Ok(())
    };
    let done = context.wait(min, max, deadline, &mut put)?;
    if done == 0 && process::current().signal_pending() { Err(Errno::EINTR) } else { Ok(done) }
}

/// io_getevents(2).
pub(crate) fn sys_io_getevents(
    _cx: &mut Cx<'_>,
    id: u64,
    min: i64,
    nr: i64,
    events: UserAddr,
    timeout: UserAddr,
) -> Result<usize> {
    wait(id, min, nr, events, deadline(timeout)?)
}

/// io_pgetevents(2).
pub(crate) fn sys_io_pgetevents(
    _cx: &mut Cx<'_>,
    id: u64,
    min: i64,
    nr: i64,
    events: UserAddr,
    timeout: UserAddr,
    mask: UserAddr,
) -> Result<usize> {
    let deadline = deadline(timeout)?;
    let set = if mask.0 == 0 { AioSigset::default() } else { user::read(mask)? };
    let mask = call_mask(UserAddr(set.sigmask), set.sigsetsize as usize)?;
    finish(
        mask,
        wait(id, min, nr, events, deadline).map_err(|errno| match errno {
            Errno::EINTR => Errno::ERESTARTNOHAND,
            other => other,
        }),
    )
}
