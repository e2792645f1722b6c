//! Where data flows: a list of user buffers or a kernel slice, filled ([`Dest`]) or drained ([`Src`]) from
//! the front (Linux: `iov_iter`). File code copies through these and does not know who asked.

use alloc::vec::Vec;

use crate::addr::UserAddr;
use crate::error::Fault;
use crate::frame::Frame;
use crate::user;

/// One user buffer: address and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserBuf {
    /// Where it begins.
    pub addr: UserAddr,
    /// Its length in bytes.
    pub len: usize,
}

enum Segments {
    One(UserBuf),
    Many(Vec<UserBuf>),
}

impl Segments {
    fn get(&self, idx: usize) -> Option<UserBuf> {
        match self {
            Segments::One(buf) => (idx == 0).then_some(*buf),
            Segments::Many(bufs) => bufs.get(idx).copied(),
        }
    }
}

/// A position in a list of user buffers.
struct UserCursor {
    segments: Segments,
    idx: usize,
    /// Bytes done of segment `idx`.
    done: usize,
    remaining: usize,
}

impl UserCursor {
    fn new(segments: Segments) -> UserCursor {
        let remaining = match &segments {
            Segments::One(buf) => buf.len,
            Segments::Many(bufs) => bufs.iter().fold(0usize, |sum, buf| sum.saturating_add(buf.len)),
        };
        UserCursor { segments, idx: 0, done: 0, remaining }
    }

    /// The rest of the current buffer, empty ones skipped.
    fn front(&mut self) -> Option<UserBuf> {
        loop {
            let buf = self.segments.get(self.idx)?;
            if self.done < buf.len {
                return Some(UserBuf { addr: buf.addr.add(self.done as u64), len: buf.len - self.done });
            }
            self.idx += 1;
            self.done = 0;
        }
    }

    fn advance(&mut self, mut n: usize) {
        n = n.min(self.remaining);
        while n > 0 {
            let Some(front) = self.front() else { return };
            let step = n.min(front.len);
            self.done += step;
            self.remaining -= step;
            n -= step;
        }
    }

    fn revert(&mut self, mut n: usize) {
        while n > 0 {
            if self.done == 0 {
                if self.idx == 0 {
                    return;
                }
                self.idx -= 1;
                self.done = self.segments.get(self.idx).map_or(0, |buf| buf.len);
                continue;
            }
            let step = n.min(self.done);
            self.done -= step;
            self.remaining += step;
            n -= step;
        }
    }

    /// Moves at most `len` bytes with `copy(user buffer, bytes already done)`, which returns how many it did.
    fn transfer(
        &mut self,
        len: usize,
        mut copy: impl FnMut(UserBuf, usize) -> usize,
    ) -> Result<usize, Fault> {
        let len = len.min(self.remaining);
        let mut total = 0;
        while total < len {
            let Some(mut front) = self.front() else { break };
            front.len = front.len.min(len - total);
            let n = copy(front, total);
            self.advance(n);
            total += n;
            if n < front.len {
                return if total == 0 { Err(Fault) } else { Ok(total) };
            }
        }
        Ok(total)
    }
}

enum DestKind<'a> {
    User(UserCursor),
    Kernel { buf: &'a mut [u8], pos: usize },
}

/// Where data goes to: the buffers of a read(2) or a kernel slice.
pub struct Dest<'a>(DestKind<'a>);

impl<'a> Dest<'a> {
    /// One user buffer.
    pub fn user(addr: UserAddr, len: usize) -> Dest<'static> {
        Dest(DestKind::User(UserCursor::new(Segments::One(UserBuf { addr, len }))))
    }

    /// Several user buffers, filled in order.
    pub fn user_vec(bufs: Vec<UserBuf>) -> Dest<'static> {
        Dest(DestKind::User(UserCursor::new(Segments::Many(bufs))))
    }

    /// A kernel buffer.
    #[inline]
    pub fn kernel(buf: &'a mut [u8]) -> Dest<'a> {
        Dest(DestKind::Kernel { buf, pos: 0 })
    }

    /// How much still fits.
    #[inline]
    pub fn remaining(&self) -> usize {
        match &self.0 {
            DestKind::User(cursor) => cursor.remaining,
            DestKind::Kernel { buf, pos } => buf.len() - pos,
        }
    }

    /// Is this user memory, so that a copy may fault and sleep?
    pub fn is_user(&self) -> bool {
        matches!(self.0, DestKind::User(_))
    }

    /// Appends `data` as far as it fits; returns how much. `Err` only when nothing could be copied.
    pub fn put_bytes(&mut self, data: &[u8]) -> Result<usize, Fault> {
        match &mut self.0 {
            DestKind::User(cursor) => cursor
                .transfer(data.len(), |to, done| user::write_partial(to.addr, &data[done..done + to.len])),
            DestKind::Kernel { buf, pos } => {
                let n = data.len().min(buf.len() - *pos);
                buf[*pos..*pos + n].copy_from_slice(&data[..n]);
                *pos += n;
                Ok(n)
            }
        }
    }

    /// Appends `len` bytes of `frame` from `offset`.
    pub fn put_frame(&mut self, frame: &Frame, offset: usize, len: usize) -> Result<usize, Fault> {
        match &mut self.0 {
            DestKind::User(cursor) => {
                cursor.transfer(len, |to, done| frame.copy_to_user(offset + done, to.addr, to.len))
            }
            DestKind::Kernel { buf, pos } => {
                let n = len.min(buf.len() - *pos);
                frame.read(offset, &mut buf[*pos..*pos + n]);
                *pos += n;
                Ok(n)
            }
        }
    }

    /// Appends `len` zero bytes.
    pub fn put_zero(&mut self, len: usize) -> Result<usize, Fault> {
        match &mut self.0 {
            DestKind::User(cursor) => cursor.transfer(len, |to, _| user::zero_partial(to.addr, to.len)),
            DestKind::Kernel { buf, pos } => {
                let n = len.min(buf.len() - *pos);
                buf[*pos..*pos + n].fill(0);
                *pos += n;
                Ok(n)
            }
        }
    }

    /// Skips `n` bytes.
    pub fn advance(&mut self, n: usize) {
        match &mut self.0 {
            DestKind::User(cursor) => cursor.advance(n),
            DestKind::Kernel { buf, pos } => *pos += n.min(buf.len() - *pos),
        }
    }

    /// Goes back `n` bytes.
    pub fn revert(&mut self, n: usize) {
        match &mut self.0 {
            DestKind::User(cursor) => cursor.revert(n),
            DestKind::Kernel { pos, .. } => *pos -= n.min(*pos),
        }
    }

    /// Cuts the room to at most `max` bytes from here.
    pub fn truncate(&mut self, max: usize) {
        match &mut self.0 {
            DestKind::User(cursor) => cursor.remaining = cursor.remaining.min(max),
            DestKind::Kernel { buf, pos } => {
                let end = pos.saturating_add(max).min(buf.len());
                *buf = &mut core::mem::take(buf)[..end];
            }
        }
    }
}

enum SrcKind<'a> {
    User(UserCursor),
    Kernel { buf: &'a [u8], pos: usize },
}

/// Where data comes from: the buffers of a write(2) or a kernel slice.
pub struct Src<'a>(SrcKind<'a>);

impl<'a> Src<'a> {
    /// One user buffer.
    pub fn user(addr: UserAddr, len: usize) -> Src<'static> {
        Src(SrcKind::User(UserCursor::new(Segments::One(UserBuf { addr, len }))))
    }

    /// Several user buffers, drained in order.
    pub fn user_vec(bufs: Vec<UserBuf>) -> Src<'static> {
        Src(SrcKind::User(UserCursor::new(Segments::Many(bufs))))
    }

    /// A kernel buffer.
    #[inline]
    pub fn kernel(buf: &'a [u8]) -> Src<'a> {
        Src(SrcKind::Kernel { buf, pos: 0 })
    }

    /// How much is left.
    pub fn remaining(&self) -> usize {
        match &self.0 {
            SrcKind::User(cursor) => cursor.remaining,
            SrcKind::Kernel { buf, pos } => buf.len() - pos,
        }
    }

    /// Is this user memory, so that a copy may fault and sleep?
    pub fn is_user(&self) -> bool {
        matches!(self.0, SrcKind::User(_))
    }

    /// Takes as many bytes as `buf` holds or are left; returns how many. `Err` only when none could be copied.
    pub fn take_bytes(&mut self, buf: &mut [u8]) -> Result<usize, Fault> {
        match &mut self.0 {
            SrcKind::User(cursor) => cursor.transfer(buf.len(), |from, done| {
                user::read_partial(from.addr, &mut buf[done..done + from.len])
            }),
            SrcKind::Kernel { buf: from, pos } => {
                let n = buf.len().min(from.len() - *pos);
                buf[..n].copy_from_slice(&from[*pos..*pos + n]);
                *pos += n;
                Ok(n)
            }
        }
    }

    /// Takes at most `len` bytes into `frame` at `offset`.
    pub fn take_into_frame(&mut self, frame: &Frame, offset: usize, len: usize) -> Result<usize, Fault> {
        match &mut self.0 {
            SrcKind::User(cursor) => {
                cursor.transfer(len, |from, done| frame.copy_from_user(offset + done, from.addr, from.len))
            }
            SrcKind::Kernel { buf, pos } => {
                let n = len.min(buf.len() - *pos);
                frame.write(offset, &buf[*pos..*pos + n]);
                *pos += n;
                Ok(n)
            }
        }
    }

    /// Skips `n` bytes.
    pub fn advance(&mut self, n: usize) {
        match &mut self.0 {
            SrcKind::User(cursor) => cursor.advance(n),
            SrcKind::Kernel { buf, pos } => *pos += n.min(buf.len() - *pos),
        }
    }

    /// Goes back `n` bytes.
    pub fn revert(&mut self, n: usize) {
        match &mut self.0 {
            SrcKind::User(cursor) => cursor.revert(n),
            SrcKind::Kernel { pos, .. } => *pos -= n.min(*pos),
        }
    }

    /// Cuts what is left to at most `max` bytes.
    pub fn truncate(&mut self, max: usize) {
        match &mut self.0 {
            SrcKind::User(cursor) => cursor.remaining = cursor.remaining.min(max),
            SrcKind::Kernel { buf, pos } => *buf = &buf[..pos.saturating_add(max).min(buf.len())],
        }
    }
}
