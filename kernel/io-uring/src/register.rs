//! io_uring_register(2): files, buffers, credentials, restrictions and the like that a ring keeps.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::io_uring::{
    BufReg, CancelFlags, OP_SUPPORTED, ProbeOp, Restriction, RsrcRegister, RsrcUpdate2, SqeFlags, SyncCancel,
    op, register as nr,
};
use abi::raw::io_uring::{
    IORING_REGISTER_FILES_SKIP as SKIP, IORING_RSRC_REGISTER_SPARSE as SPARSE,
    io_uring_register_restriction_op as Kind,
};
use abi::socket::Iovec;
use abi::{Errno, Result};
use events::eventfd::EventFd;
use hal::{UserAddr, user};
use vfs::{File, FileMode};
use zerocopy::{FromBytes, IntoBytes};

use crate::context::{Context, MAX_REGISTERED};
use crate::fixed::{FixedBuffer, MAX_BUFFERS, MAX_FILES};
use crate::ops::{self, Cancel};
use crate::request;
use crate::ring::{Ring, is_ring, ring_of};

/// What a ring may be asked for, once restricted (`IORING_REGISTER_RESTRICTIONS`).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Restrictions {
    /// Bits of operations, and of opcodes of io_uring_register(2).
    operations: u64,
    registers: u64,
    allowed: u8,
    required: u8,
}

impl Restrictions {
    /// `EACCES`: it is not among what is allowed.
    pub fn check_request(&self, opcode: u8, flags: SqeFlags) -> Result<()> {
        let is_allowed = opcode < 64 && self.operations & 1 << opcode != 0;
        let has_required = flags.bits() & self.required == self.required;
        let has_others = flags.bits() & !(self.allowed | self.required) != 0;
        if is_allowed && has_required && !has_others { Ok(()) } else { Err(Errno::EACCES) }
    }

    fn check_register(&self, opcode: u32) -> Result<()> {
        if opcode < 64 && self.registers & 1 << opcode != 0 { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Reads `count` of them. `EINVAL`, `EFAULT`.
    fn read(addr: UserAddr, count: u32) -> Result<Self> {
        /// Most of them (Linux: `IORING_MAX_RESTRICTIONS`).
        const MAX: u32 = 256;
        const REGISTER_OP: u16 = Kind::IORING_RESTRICTION_REGISTER_OP as u16;
        const SQE_OP: u16 = Kind::IORING_RESTRICTION_SQE_OP as u16;
        const SQE_FLAGS_ALLOWED: u16 = Kind::IORING_RESTRICTION_SQE_FLAGS_ALLOWED as u16;
        const SQE_FLAGS_REQUIRED: u16 = Kind::IORING_RESTRICTION_SQE_FLAGS_REQUIRED as u16;
        if count > MAX {
            return Err(Errno::EINVAL);
        }
        let mut all = Self::default();
        for n in 0..count {
            let one: Restriction = read_nth(addr, n)?;
            match one.opcode {
                REGISTER_OP if one.arg < 64 => all.registers |= 1 << one.arg,
                SQE_OP if one.arg < 64 => all.operations |= 1 << one.arg,
                SQE_FLAGS_ALLOWED => all.allowed = one.arg,
                SQE_FLAGS_REQUIRED => all.required = one.arg,
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(all)
    }
}

/// The `n`th of the structures at `addr`. `EFAULT`.
fn read_nth<T: FromBytes + IntoBytes>(addr: UserAddr, n: u32) -> Result<T> {
    Ok(user::read(nth::<T>(addr, n))?)
}

fn nth<T>(addr: UserAddr, n: u32) -> UserAddr {
    UserAddr(addr.0.wrapping_add(u64::from(n) * size_of::<T>() as u64))
}

/// io_uring_register(2) on `file`; `arg` and `count` are as `opcode` has them. May sleep.
///
/// `EOPNOTSUPP`: `file` is no ring. The errors are those of io_uring_register(2).
pub fn register(file: &File, opcode: u32, arg: UserAddr, count: u32) -> Result<usize> {
    let ring = ring_of(file)?;
    ring.check_issuer()?;
    if !ring.is_disabled()
        && let Some(restrictions) = ring.restrictions.get()
    {
        restrictions.check_register(opcode)?;
    }
    let none = || if arg.0 == 0 && count == 0 { Ok(()) } else { Err(Errno::EINVAL) };
    let one = || if arg.0 != 0 && count == 1 { Ok(()) } else { Err(Errno::EINVAL) };
    match opcode {
        nr::BUFFERS if arg.0 == 0 => return Err(Errno::EFAULT),
        nr::BUFFERS => register_buffers(ring, arg, count)?,
        nr::UNREGISTER_BUFFERS => none().and_then(|()| ring.fixed.unregister_buffers())?,
        nr::FILES if arg.0 == 0 => return Err(Errno::EFAULT),
        nr::FILES => register_files(ring, arg, count)?,
        nr::UNREGISTER_FILES => none().and_then(|()| ring.fixed.unregister_files())?,
        nr::FILES_UPDATE => return update(ring, arg, count, What::Files),
        nr::EVENTFD | nr::EVENTFD_ASYNC => one().and_then(|()| set_eventfd(ring, arg))?,
        nr::UNREGISTER_EVENTFD => {
            none()?;
            ring.cq.set_eventfd(None).ok_or(Errno::ENXIO)?;
        }
        nr::PROBE => probe(arg, count)?,
        nr::PERSONALITY => return none().and_then(|()| add_personality(ring)),
        nr::UNREGISTER_PERSONALITY if arg.0 != 0 => return Err(Errno::EINVAL),
        nr::UNREGISTER_PERSONALITY => {
            let old = ring.personalities.lock().remove(&(count as u16));
            old.ok_or(Errno::EINVAL)?;
        }
        nr::RESTRICTIONS => restrict(ring, arg, count)?,
        nr::ENABLE_RINGS => none().and_then(|()| ring.enable())?,
        nr::FILES2 => register_2(ring, arg, count, What::Files)?,
        nr::BUFFERS2 => register_2(ring, arg, count, What::Buffers)?,
        nr::FILES_UPDATE2 => return update_2(ring, arg, count, What::Files),
        nr::BUFFERS_UPDATE => return update_2(ring, arg, count, What::Buffers),
        nr::RING_FDS => return register_rings(arg, count),
        nr::UNREGISTER_RING_FDS => return unregister_rings(arg, count),
        nr::PBUF_RING => one().and_then(|()| ring.groups.register(&user::read(arg)?))?,
        nr::UNREGISTER_PBUF_RING => {
            one()?;
            let reg: BufReg = user::read(arg)?;
            if reg.resv != [0; 3] || reg.flags != 0 {
                return Err(Errno::EINVAL);
            }
            ring.groups.unregister(reg.bgid)?;
        }
        nr::SYNC_CANCEL => return one().and_then(|()| sync_cancel(ring, arg)),
        nr::FILE_ALLOC_RANGE => {
            if arg.0 == 0 || count != 0 {
                return Err(Errno::EINVAL);
            }
            let [first, len, resv_low, resv_high]: [u32; 4] = user::read(arg)?;
            if resv_low != 0 || resv_high != 0 {
                return Err(Errno::EINVAL);
            }
            ring.fixed.set_range(first, len)?;
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// Which table is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Files,
    Buffers,
}

/// An empty table for `count` entries. `EINVAL`: none or more than `max`. `ENOMEM`.
fn table<T>(count: u32, max: u32) -> Result<Vec<T>> {
    if count == 0 {
        return Err(Errno::EINVAL);
    }
    if count > max {
        return Err(Errno::EMFILE);
    }
    let mut table = Vec::new();
    table.try_reserve_exact(count as usize).map_err(|_| Errno::ENOMEM)?;
    Ok(table)
}

/// The buffer of a vector's element; an empty element leaves a hole. `EFAULT`, `ENOMEM`.
fn buffer(iov: Iovec) -> Result<Option<Arc<FixedBuffer>>> {
    match (iov.iov_base, iov.iov_len) {
        (0, 0) => Ok(None),
        (0, _) => Err(Errno::EFAULT),
        (base, len) => FixedBuffer::new(base, len).map(Some),
    }
}

fn register_buffers(ring: &Ring, iovs: UserAddr, count: u32) -> Result<()> {
    if ring.fixed.nr_buffers().is_some() {
        return Err(Errno::EBUSY);
    }
    if count > MAX_BUFFERS {
        return Err(Errno::EINVAL);
    }
    let mut buffers = table(count, MAX_BUFFERS)?;
    for n in 0..count {
        buffers.push(if iovs.0 == 0 { None } else { buffer(read_nth(iovs, n)?)? });
    }
    ring.fixed.register_buffers(buffers)
}

/// The file behind `fd` of the caller for a table; -1 leaves a hole. `EBADF`: no file, one of `O_PATH`, or a
/// ring.
pub(crate) fn fixed_file(fd: i32) -> Result<Option<Arc<File>>> {
    if fd == -1 {
        return Ok(None);
    }
    let file = process::current().file(fd)?;
    if file.mode().contains(FileMode::PATH) || is_ring(&file) { Err(Errno::EBADF) } else { Ok(Some(file)) }
}

fn register_files(ring: &Ring, fds: UserAddr, count: u32) -> Result<()> {
    if ring.fixed.nr_files().is_some() {
        return Err(Errno::EBUSY);
    }
    let limit = process::current().group().rlimits().cur(limits::Resource::Nofile);
    if u64::from(count) > limit {
        return Err(Errno::EMFILE);
    }
    let mut files = table(count, MAX_FILES)?;
    for n in 0..count {
        files.push(if fds.0 == 0 { None } else { fixed_file(read_nth(fds, n)?)? });
    }
    ring.fixed.register_files(files)
}

/// `IORING_REGISTER_FILES2`, `IORING_REGISTER_BUFFERS2`: with tags, which must be zero, or an empty table.
///
/// LINUX: a tag makes a completion when the entry goes; here one is `EINVAL`.
fn register_2(ring: &Ring, arg: UserAddr, size: u32, what: What) -> Result<()> {
    if size as usize != size_of::<RsrcRegister>() {
        return Err(Errno::EINVAL);
    }
    let reg: RsrcRegister = user::read(arg)?;
    let is_sparse = reg.flags & SPARSE != 0;
    if reg.nr == 0 || reg.resv2 != 0 || reg.flags & !SPARSE != 0 || (is_sparse && reg.data != 0) {
        return Err(Errno::EINVAL);
    }
    if reg.tags != 0 {
        for n in 0..reg.nr.min(MAX_FILES) {
            if read_nth::<u64>(UserAddr(reg.tags), n)? != 0 {
                return Err(Errno::EINVAL);
            }
        }
    }
    if !is_sparse && reg.data == 0 {
        return Err(Errno::EFAULT);
    }
    match what {
        What::Files => register_files(ring, UserAddr(reg.data), reg.nr),
        What::Buffers => register_buffers(ring, UserAddr(reg.data), reg.nr),
    }
}

/// Puts the files of the descriptors at `fds` from place `offset` on; -2 leaves a place as it is. Gives how many were
/// looked at; an error behind the first is lost. `ENXIO`: no table. `EINVAL`: beyond its end.
pub(crate) fn update_files(ring: &Ring, offset: u32, fds: UserAddr, count: u32) -> Result<usize> {
    check_places(ring.fixed.nr_files(), offset, count)?;
    each(count, |n| {
        let fd: i32 = read_nth(fds, n)?;
        if fd != SKIP {
            let old = ring.fixed.replace_file(offset + n, fixed_file(fd)?)?;
            drop(old);
        }
        Ok(())
    })
}

/// As [`update_files`] for buffers.
fn update_buffers(ring: &Ring, offset: u32, iovs: UserAddr, count: u32) -> Result<usize> {
    check_places(ring.fixed.nr_buffers(), offset, count)?;
    each(count, |n| ring.fixed.replace_buffer(offset + n, buffer(read_nth(iovs, n)?)?))
}

fn check_places(len: Option<usize>, offset: u32, count: u32) -> Result<()> {
    let len = len.ok_or(Errno::ENXIO)?;
    let end = offset.checked_add(count).ok_or(Errno::EOVERFLOW)?;
    if end as usize > len { Err(Errno::EINVAL) } else { Ok(()) }
}

/// Does `one` for each number below `count`; gives for how many it worked.
fn each(count: u32, mut one: impl FnMut(u32) -> Result<()>) -> Result<usize> {
    for n in 0..count {
        match one(n) {
            Ok(()) => {}
            Err(errno) if n == 0 => return Err(errno),
            Err(_) => return Ok(n as usize),
        }
    }
    Ok(count as usize)
}

/// `struct io_uring_rsrc_update`.
fn update(ring: &Ring, arg: UserAddr, count: u32, what: What) -> Result<usize> {
    if count == 0 {
        return Err(Errno::EINVAL);
    }
    let [first, data]: [u64; 2] = user::read(arg)?;
    let (offset, resv) = (first as u32, first >> 32);
    if resv != 0 {
        return Err(Errno::EINVAL);
    }
    match what {
        What::Files => update_files(ring, offset, UserAddr(data), count),
        What::Buffers => update_buffers(ring, offset, UserAddr(data), count),
    }
}

/// `struct io_uring_rsrc_update2`; tags must be zero.
fn update_2(ring: &Ring, arg: UserAddr, size: u32, what: What) -> Result<usize> {
    if size as usize != size_of::<RsrcUpdate2>() {
        return Err(Errno::EINVAL);
    }
    let up: RsrcUpdate2 = user::read(arg)?;
    if up.nr == 0 || up.resv != 0 || up.resv2 != 0 || up.tags != 0 {
        return Err(Errno::EINVAL);
    }
    match what {
        What::Files => update_files(ring, up.offset, UserAddr(up.data), up.nr),
        What::Buffers => update_buffers(ring, up.offset, UserAddr(up.data), up.nr),
    }
}

/// `EBUSY`: there is one. `EBADF`, `EINVAL`: no eventfd.
fn set_eventfd(ring: &Ring, arg: UserAddr) -> Result<()> {
    let file = process::current().file(user::read(arg)?)?;
    file.ops_as::<EventFd>().ok_or(Errno::EINVAL)?;
    if let Some(old) = ring.cq.set_eventfd(Some(file)) {
        let new = ring.cq.set_eventfd(Some(old));
        drop(new);
        return Err(Errno::EBUSY);
    }
    Ok(())
}

/// `struct io_uring_probe` with room for `count` operations. `EINVAL`: it is not zero.
fn probe(arg: UserAddr, count: u32) -> Result<()> {
    if arg.0 == 0 || count > 256 {
        return Err(Errno::EINVAL);
    }
    let header: [u64; 2] = user::read(arg)?;
    if header != [0; 2] {
        return Err(Errno::EINVAL);
    }
    let ops = UserAddr(arg.0.wrapping_add(size_of_val(&header) as u64));
    for n in 0..count {
        if read_nth::<u64>(ops, n)? != 0 {
            return Err(Errno::EINVAL);
        }
    }
    let nr_ops = count.min(u32::from(op::LAST));
    let header = [op::LAST - 1, nr_ops as u8, 0, 0];
    user::write(arg, &header)?;
    for n in 0..nr_ops {
        let flags = if ops::is_supported(n as u8) { OP_SUPPORTED } else { 0 };
        user::write(nth::<ProbeOp>(ops, n), &ProbeOp { op: n as u8, flags, ..ProbeOp::default() })?;
    }
    Ok(())
}

/// Keeps the caller's credentials; gives their number. `ENOSPC`, `ENOMEM`.
fn add_personality(ring: &Ring) -> Result<usize> {
    let mut all = ring.personalities.lock();
    let free = (1..u16::MAX).find(|id| !all.contains_key(id)).ok_or(Errno::ENOSPC)?;
    all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    all.insert(free, process::current().cred());
    Ok(usize::from(free))
}

/// `EBADFD`: the ring is enabled. `EBUSY`: it is restricted.
fn restrict(ring: &Ring, arg: UserAddr, count: u32) -> Result<()> {
    if !ring.is_disabled() {
        return Err(Errno::EBADFD);
    }
    if arg.0 == 0 {
        return Err(Errno::EINVAL);
    }
    if ring.restrictions.get().is_some() {
        return Err(Errno::EBUSY);
    }
    let all = Restrictions::read(arg, count)?;
    ring.restrictions.call_once(|| all);
    Ok(())
}

/// Registers rings of the calling task: each `struct io_uring_rsrc_update` names a place and a descriptor.
fn register_rings(arg: UserAddr, count: u32) -> Result<usize> {
    if count == 0 || count as usize > MAX_REGISTERED {
        return Err(Errno::EINVAL);
    }
    let context = Context::current();
    each(count, |n| {
        let [place, fd]: [u64; 2] = read_nth(arg, n)?;
        if place >> 32 != 0 {
            return Err(Errno::EINVAL);
        }
        let file = process::current().file(fd as i32)?;
        ring_of(&file)?;
        let place = context.register(place as u32, file)?;
        if user::write(nth::<[u64; 2]>(arg, n), &place).is_err() {
            context.unregister(place)?;
            return Err(Errno::EFAULT);
        }
        Ok(())
    })
}

fn unregister_rings(arg: UserAddr, count: u32) -> Result<usize> {
    if count == 0 || count as usize > MAX_REGISTERED {
        return Err(Errno::EINVAL);
    }
    let context = Context::current();
    each(count, |n| {
        let [place, data]: [u64; 2] = read_nth(arg, n)?;
        if place >> 32 != 0 || data != 0 {
            return Err(Errno::EINVAL);
        }
        context.unregister(place as u32)
    })
}

/// Cancels requests of any task; they have ended when it returns. `ENOENT`: there is none.
fn sync_cancel(ring: &Arc<Ring>, arg: UserAddr) -> Result<usize> {
    let wanted: SyncCancel = user::read(arg)?;
    let flags = CancelFlags::from_bits(wanted.flags).ok_or(Errno::EINVAL)?;
    if wanted.pad != [0; 7] || wanted.pad2 != [0; 3] {
        return Err(Errno::EINVAL);
    }
    let cancel = Cancel { flags, user_data: wanted.addr, fd: wanted.fd, opcode: wanted.opcode };
    let file = cancel.file(ring)?;
    let all = flags.intersects(CancelFlags::ALL | CancelFlags::ANY);
    let (mut limit, mut done) = (ring.next_key(), 0);
    while let Some(waiting) = ring.find_below(limit, |job| cancel.fits(job, file.as_ref())) {
        limit = waiting.key();
        let Some(request) = waiting.take() else { continue };
        request::finish_later(request, request::canceled(), abi::io_uring::CqeFlags::empty());
        done += 1;
        if !all {
            return Ok(0);
        }
    }
    if done > 0 || all { Ok(done) } else { Err(Errno::ENOENT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_is_refused() {
        let some = Restrictions {
            operations: 1 << op::READ,
            registers: 1 << nr::PROBE,
            allowed: SqeFlags::IO_LINK.bits(),
            required: SqeFlags::FIXED_FILE.bits(),
        };
        assert!(some.check_request(op::READ, SqeFlags::FIXED_FILE | SqeFlags::IO_LINK).is_ok());
        assert_eq!(some.check_request(op::READ, SqeFlags::IO_LINK), Err(Errno::EACCES));
        assert_eq!(some.check_request(op::WRITE, SqeFlags::FIXED_FILE), Err(Errno::EACCES));
        let others = SqeFlags::FIXED_FILE | SqeFlags::ASYNC;
        assert_eq!(some.check_request(op::READ, others), Err(Errno::EACCES));
        assert!(some.check_register(nr::PROBE).is_ok());
        assert_eq!(some.check_register(nr::FILES), Err(Errno::EACCES));
    }
}
