//! Reads and writes.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::io_uring::{Sqe, SqeFlags, op};
use abi::{Errno, Result};
use hal::UserAddr;
use hal::uio::{Dest, Src, UserBuf};
use limits::Resource;
use process::ioprio;
use vfs::rw::{self, RwFlags};
use vfs::{File, FileMode};

use crate::call::calls;
use crate::fixed::{Fixed, FixedBuffer};

/// The position of a request that means the file's own (`IORING_FEAT_RW_CUR_POS`).
const OWN_POSITION: u64 = u64::MAX;

/// Where the bytes are.
enum Place {
    One(UserBuf),
    Many(Vec<UserBuf>),
    /// In a registered buffer, from this byte on.
    Fixed(Arc<FixedBuffer>, usize, usize),
    /// In a buffer to be selected, of which at most so many bytes; 0: all of it.
    Selected(usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
}

/// A read or write.
pub(crate) struct Rw {
    way: Way,
    place: Place,
    pos: u64,
    flags: u32,
    /// Bytes asked for.
    wanted: usize,
}

impl Rw {
    /// What `sqe` asks for. `EINVAL`, `EPERM`: a priority; `EFAULT`: no such buffer; those of a vector.
    pub fn prepare(sqe: &Sqe, fixed: &Fixed) -> Result<Self> {
        if sqe.ioprio != 0 {
            process::current().with_cred(|cred| ioprio::check(u32::from(sqe.ioprio), cred))?;
        }
        let way = match sqe.opcode {
            op::READ | op::READV | op::READ_FIXED => Way::Read,
            _ => Way::Write,
        };
        let selects = SqeFlags::from_bits_truncate(sqe.flags).contains(SqeFlags::BUFFER_SELECT);
        let len = (sqe.len as usize).min(rw::MAX_COUNT);
        let (place, wanted) = match sqe.opcode {
            op::READ_FIXED | op::WRITE_FIXED => {
                let buffer = fixed.buffer(sqe.buf_index)?;
                let offset = buffer.offset_of(sqe.addr, len)?;
                (Place::Fixed(buffer, offset, len), len)
            }
            op::READ if selects => (Place::Selected(len), len),
            op::READV | op::WRITEV if selects => return Err(Errno::EOPNOTSUPP),
            op::READV | op::WRITEV => {
                let bufs = calls()?.buffers(UserAddr(sqe.addr), sqe.len as usize)?;
                let wanted = bufs.iter().map(|buf| buf.len).sum();
                (Place::Many(bufs), wanted)
            }
            _ => {
                check_range(sqe.addr, len)?;
                (Place::One(UserBuf { addr: UserAddr(sqe.addr), len }), len)
            }
        };
        Ok(Self { way, place, pos: sqe.off, flags: sqe.op_flags, wanted })
    }

    /// Whether `res` is less than what was asked for.
    pub fn is_short(&self, res: i64) -> bool {
        usize::try_from(res).is_ok_and(|done| done < self.wanted)
    }

    /// Moves the bytes; `selected` is the buffer that was found for it.
    pub fn perform(&self, file: &Arc<File>, selected: Option<UserBuf>) -> Result<usize> {
        match &self.place {
            Place::One(buf) => self.with_bufs(file, |way| way.one(*buf)),
            Place::Many(bufs) => {
                let mut copy = Vec::new();
                copy.try_reserve_exact(bufs.len()).map_err(|_| Errno::ENOMEM)?;
                copy.extend_from_slice(bufs);
                self.with_bufs(file, |way| way.many(copy))
            }
            Place::Fixed(buffer, offset, len) => {
                let (parts, skip) = buffer.parts(*offset, *len);
                match self.way {
                    Way::Read => {
                        let mut dst = Dest::parts(parts);
                        dst.advance(skip);
                        dst.truncate(*len);
                        self.read(file, &mut dst)
                    }
                    Way::Write => {
                        let mut src = Src::parts(parts);
                        src.advance(skip);
                        src.truncate(*len);
                        self.write(file, &mut src)
                    }
                }
            }
            Place::Selected(len) => {
                let mut buf = selected.ok_or(Errno::ENOBUFS)?;
                if *len > 0 {
                    buf.len = buf.len.min(*len);
                }
                self.with_bufs(file, |way| way.one(buf))
            }
        }
    }

    fn with_bufs(&self, file: &Arc<File>, make: impl FnOnce(&Way) -> Ends) -> Result<usize> {
        match make(&self.way) {
            Ends::To(mut dst) => self.read(file, &mut dst),
            Ends::From(mut src) => self.write(file, &mut src),
        }
    }

    fn read(&self, file: &Arc<File>, dst: &mut Dest<'_>) -> Result<usize> {
        self.rw_flags(file)?;
        match self.position(file)? {
            Some(pos) => rw::pread(file, dst, pos),
            None => rw::read(file, dst),
        }
    }

    fn write(&self, file: &Arc<File>, src: &mut Src<'_>) -> Result<usize> {
        let flags = self.rw_flags(file)?;
        let fsize = process::current().group().rlimits().cur(Resource::Fsize);
        let result = match self.position(file)? {
            Some(pos) => rw::pwrite_with(file, src, pos, fsize, flags),
            None => rw::write_with(file, src, fsize, flags),
        };
        if flags.contains(RwFlags::NOSIGNAL) && result == Err(Errno::EPIPE) {
            return result;
        }
        calls()?.wrote(file, result)
    }

    fn rw_flags(&self, file: &File) -> Result<RwFlags> {
        RwFlags::decode(self.flags & !RwFlags::NOWAIT.bits(), file)
    }

    /// The position that is asked for; `None`: the file's own, or none at all. `EINVAL`: it is negative.
    fn position(&self, file: &File) -> Result<Option<i64>> {
        let has_positions = file.mode().intersects(FileMode::SEEK | FileMode::PREAD);
        if self.pos == OWN_POSITION || !has_positions || file.mode().contains(FileMode::STREAM) {
            return Ok(None);
        }
        i64::try_from(self.pos).map(Some).map_err(|_| Errno::EINVAL)
    }
}

/// A buffer with its direction.
enum Ends {
    To(Dest<'static>),
    From(Src<'static>),
}

impl Way {
    fn one(&self, buf: UserBuf) -> Ends {
        match self {
            Self::Read => Ends::To(Dest::user(buf.addr, buf.len)),
            Self::Write => Ends::From(Src::user(buf.addr, buf.len)),
        }
    }

    fn many(&self, bufs: Vec<UserBuf>) -> Ends {
        match self {
            Self::Read => Ends::To(Dest::user_vec(bufs)),
            Self::Write => Ends::From(Src::user_vec(bufs)),
        }
    }
}

/// `EFAULT` unless the bytes lie in user space, whether they are touched or not.
fn check_range(addr: u64, len: usize) -> Result<()> {
    match addr.checked_add(len as u64) {
        Some(end) if end <= hal::USER_END => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}
