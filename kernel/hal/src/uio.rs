//! Where data flows: a list of user buffers or a kernel slice, filled ([`Dest`]) or drained ([`Src`]) from
//! the front (Linux: `iov_iter`). File code copies through these and does not know who asked.

use alloc::vec::Vec;

use crate::addr::UserAddr;
use crate::error::Fault;
use crate::frame::{Frame, FrameSpan};
use crate::user;

/// One user buffer: address and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserBuf {
    /// Where it begins.
    pub addr: UserAddr,
    /// Its length in bytes.
    pub len: usize,
}

/// A position in a list of user buffers.
struct UserCursor {
    /// The rest of the current buffer.
    front: UserBuf,
    /// Bytes done of the current buffer.
    done: usize,
    /// What is left in all buffers, or less.
    remaining: usize,
    /// The buffers, of which number `idx` is the current one; none when there is only that one.
    bufs: Vec<UserBuf>,
    idx: usize,
}

impl UserCursor {
    #[inline]
    fn one(front: UserBuf) -> UserCursor {
        UserCursor { front, done: 0, remaining: front.len, bufs: Vec::new(), idx: 0 }
    }

    fn many(bufs: Vec<UserBuf>) -> UserCursor {
        let remaining = bufs.iter().fold(0usize, |sum, buf| sum.saturating_add(buf.len));
        let front = bufs.first().copied().unwrap_or(UserBuf { addr: UserAddr(0), len: 0 });
        UserCursor { front, done: 0, remaining, bufs, idx: 0 }
    }

    /// Moves on to the next buffer that is not empty. `false`: there is none.
    #[cold]
    fn next_buffer(&mut self) -> bool {
        while self.front.len == 0 {
            let Some(next) = self.bufs.get(self.idx + 1) else { return false };
            (self.front, self.done) = (*next, 0);
            self.idx += 1;
        }
        true
    }

    /// Moves on by `n` bytes of the current buffer.
    #[inline]
    fn step(&mut self, n: usize) {
        self.front = UserBuf { addr: self.front.addr.add(n as u64), len: self.front.len - n };
        self.done += n;
        self.remaining -= n;
    }

    fn advance(&mut self, mut n: usize) {
        n = n.min(self.remaining);
        while n > 0 && (self.front.len > 0 || self.next_buffer()) {
            let step = n.min(self.front.len);
            self.step(step);
            n -= step;
        }
    }

    fn revert(&mut self, mut n: usize) {
        while n > 0 {
            if self.done == 0 {
                let Some(before) = self.idx.checked_sub(1) else { return };
                let Some(buf) = self.bufs.get(before) else { return };
                self.idx = before;
                self.done = buf.len;
                self.front = UserBuf { addr: buf.addr.add(buf.len as u64), len: 0 };
                continue;
            }
            let step = n.min(self.done);
            self.front = UserBuf {
                addr: UserAddr(self.front.addr.0.wrapping_sub(step as u64)),
                len: self.front.len + step,
            };
            self.done -= step;
            self.remaining += step;
            n -= step;
        }
    }

    /// All addresses and lengths of what is left, or-ed: aligned as the least aligned of them.
    fn alignment(&self) -> u64 {
        let rest = self.bufs.get(self.idx + 1..).unwrap_or_default();
        let (mut bits, mut left) = (0, self.remaining);
        for buf in core::iter::once(&self.front).chain(rest) {
            let len = buf.len.min(left);
            if len > 0 {
                bits |= buf.addr.0 | len as u64;
            }
            left -= len;
        }
        bits
    }

    /// What is left; `None`: no memory for the list.
    fn rest(&self) -> Option<Vec<UserBuf>> {
        let behind = self.bufs.get(self.idx + 1..).unwrap_or_default();
        let mut rest = Vec::new();
        rest.try_reserve_exact(1 + behind.len()).ok()?;
        let mut left = self.remaining;
        for buf in core::iter::once(&self.front).chain(behind) {
            let len = buf.len.min(left);
            if len > 0 {
                rest.push(UserBuf { len, ..*buf });
            }
            left -= len;
        }
        Some(rest)
    }

    /// Moves at most `len` bytes with `copy(user buffer, bytes already done)`, which returns how many it did.
    #[inline]
    fn transfer(
        &mut self,
        len: usize,
        mut copy: impl FnMut(UserBuf, usize) -> usize,
    ) -> Result<usize, Fault> {
        let len = len.min(self.remaining);
        let mut total = 0;
        while total < len && (self.front.len > 0 || self.next_buffer()) {
            let piece = UserBuf { addr: self.front.addr, len: self.front.len.min(len - total) };
            let n = copy(piece, total).min(piece.len);
            self.step(n);
            total += n;
            if n < piece.len {
                return if total == 0 { Err(Fault) } else { Ok(total) };
            }
        }
        Ok(total)
    }
}

/// Memory that is not the kernel's own: what is left of a [`Dest`] or a [`Src`].
#[derive(Debug)]
pub enum Memory {
    /// Of the current address space.
    User(Vec<UserBuf>),
    /// Wherever it is mapped.
    Parts(Vec<FramePart>),
}

enum DestKind<'a> {
    User(UserCursor),
    Kernel { buf: &'a mut [u8], pos: usize },
    Parts(PartsCursor<'a>),
}

/// Where data goes to: the buffers of a read(2), a kernel slice or frames.
pub struct Dest<'a>(DestKind<'a>);

impl<'a> Dest<'a> {
    /// One user buffer.
    #[inline]
    pub fn user(addr: UserAddr, len: usize) -> Dest<'static> {
        Dest(DestKind::User(UserCursor::one(UserBuf { addr, len })))
    }

    /// Several user buffers, filled in order.
    pub fn user_vec(bufs: Vec<UserBuf>) -> Dest<'static> {
        Dest(DestKind::User(UserCursor::many(bufs)))
    }

    /// A kernel buffer.
    #[inline]
    pub fn kernel(buf: &'a mut [u8]) -> Dest<'a> {
        Dest(DestKind::Kernel { buf, pos: 0 })
    }

    /// Parts of frames, filled one after another.
    pub fn parts(parts: &'a [FramePart]) -> Dest<'a> {
        Dest(DestKind::Parts(PartsCursor::new(parts)))
    }

    /// How much still fits.
    #[inline]
    pub fn remaining(&self) -> usize {
        match &self.0 {
            DestKind::User(cursor) => cursor.remaining,
            DestKind::Kernel { buf, pos } => buf.len() - pos,
            DestKind::Parts(cursor) => cursor.total - cursor.done,
        }
    }

    /// All addresses and lengths of the user buffers that are left, or-ed; 0 for memory of the kernel.
    pub fn alignment(&self) -> u64 {
        match &self.0 {
            DestKind::User(cursor) => cursor.alignment(),
            DestKind::Kernel { .. } => 0,
            DestKind::Parts(cursor) => cursor.alignment(),
        }
    }

    /// Where the bytes go, if that is not memory of the kernel's. `None` without memory for the list, too.
    pub fn memory(&self) -> Option<Memory> {
        match &self.0 {
            DestKind::User(cursor) => cursor.rest().map(Memory::User),
            DestKind::Kernel { .. } => None,
            DestKind::Parts(cursor) => cursor.rest().map(Memory::Parts),
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
            DestKind::Parts(cursor) => {
                Ok(cursor.take(data.len(), |frame, at, n, done| frame.write(at, &data[done..done + n])))
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
            DestKind::Parts(cursor) => {
                Ok(cursor.take(len, |to, at, n, done| to.copy_part(at, frame, offset + done, n)))
            }
        }
    }

    /// As [`put_frame`](Self::put_frame) for bytes of frames that follow each other: they are copied at once.
    pub fn put_span(&mut self, span: &FrameSpan, offset: usize, len: usize) -> Result<usize, Fault> {
        match &mut self.0 {
            DestKind::User(cursor) => {
                cursor.transfer(len, |to, done| span.copy_to_user(offset + done, to.addr, to.len))
            }
            DestKind::Kernel { buf, pos } => {
                let n = len.min(buf.len() - *pos);
                span.read(offset, &mut buf[*pos..*pos + n]);
                *pos += n;
                Ok(n)
            }
            DestKind::Parts(cursor) => {
                Ok(cursor.take(len, |to, at, n, done| span.copy_to(offset + done, to, at, n)))
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
            DestKind::Parts(cursor) => Ok(cursor.take(len, |to, at, n, _| to.zero(at..at + n))),
        }
    }

    /// Skips `n` bytes.
    pub fn advance(&mut self, n: usize) {
        match &mut self.0 {
            DestKind::User(cursor) => cursor.advance(n),
            DestKind::Kernel { buf, pos } => *pos += n.min(buf.len() - *pos),
            DestKind::Parts(cursor) => cursor.seek(cursor.done.saturating_add(n)),
        }
    }

    /// Goes back `n` bytes.
    pub fn revert(&mut self, n: usize) {
        match &mut self.0 {
            DestKind::User(cursor) => cursor.revert(n),
            DestKind::Kernel { pos, .. } => *pos -= n.min(*pos),
            DestKind::Parts(cursor) => cursor.seek(cursor.done.saturating_sub(n)),
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
            DestKind::Parts(cursor) => cursor.total = cursor.total.min(cursor.done.saturating_add(max)),
        }
    }
}

/// Bytes within a frame.
#[derive(Clone, Debug)]
pub struct FramePart {
    /// The frame.
    pub frame: Frame,
    /// Where in it they begin.
    pub offset: usize,
    /// How many they are; they end within the frame.
    pub len: usize,
}

/// A place in the bytes of some parts.
struct PartsCursor<'a> {
    parts: &'a [FramePart],
    /// Bytes before this place, and in all.
    done: usize,
    total: usize,
    /// The part that the next byte lies in, and bytes before that part.
    at: usize,
    before: usize,
}

impl<'a> PartsCursor<'a> {
    fn new(parts: &'a [FramePart]) -> Self {
        let total = parts.iter().map(|part| part.len).sum();
        Self { parts, done: 0, total, at: 0, before: 0 }
    }

    fn alignment(&self) -> u64 {
        let rest = self.parts.get(self.at..).unwrap_or_default();
        rest.iter().fold(0, |bits, part| bits | (part.offset | part.len) as u64)
    }

    /// The frame, the offset and how many bytes lie there, of at most `len` next ones; `None` at the end.
    fn next(&mut self, len: usize) -> Option<(&Frame, usize, usize)> {
        let len = len.min(self.total - self.done);
        while len > 0 && self.done - self.before >= self.parts.get(self.at)?.len {
            self.before += self.parts.get(self.at)?.len;
            self.at += 1;
        }
        let part = self.parts.get(self.at).filter(|_| len > 0)?;
        let inside = self.done - self.before;
        let n = len.min(part.len - inside);
        self.done += n;
        Some((&part.frame, part.offset + inside, n))
    }

    /// What is left; `None`: no memory for the list.
    fn rest(&self) -> Option<Vec<FramePart>> {
        let ahead = self.parts.get(self.at..).unwrap_or_default();
        let mut rest = Vec::new();
        rest.try_reserve_exact(ahead.len()).ok()?;
        let (mut skip, mut left) = (self.done - self.before, self.total - self.done);
        for part in ahead {
            let len = part.len.saturating_sub(skip).min(left);
            if len > 0 {
                rest.push(FramePart { frame: part.frame.clone(), offset: part.offset + skip, len });
            }
            (skip, left) = (skip.saturating_sub(part.len), left - len);
        }
        Some(rest)
    }

    /// Shows the pieces of the next `len` bytes to `each`, with how many came before; how many there were.
    fn take(&mut self, len: usize, mut each: impl FnMut(&Frame, usize, usize, usize)) -> usize {
        let mut taken = 0;
        while let Some((frame, offset, n)) = self.next(len - taken) {
            each(frame, offset, n, taken);
            taken += n;
        }
        taken
    }

    /// Goes to the byte `done`.
    fn seek(&mut self, done: usize) {
        self.done = done.min(self.total);
        (self.at, self.before) = (0, 0);
    }
}

enum SrcKind<'a> {
    User(UserCursor),
    Kernel { buf: &'a [u8], pos: usize },
    Parts(PartsCursor<'a>),
}

/// Where data comes from: the buffers of a write(2), a kernel slice or frames.
pub struct Src<'a>(SrcKind<'a>);

impl<'a> Src<'a> {
    /// One user buffer.
    #[inline]
    pub fn user(addr: UserAddr, len: usize) -> Src<'static> {
        Src(SrcKind::User(UserCursor::one(UserBuf { addr, len })))
    }

    /// Several user buffers, drained in order.
    pub fn user_vec(bufs: Vec<UserBuf>) -> Src<'static> {
        Src(SrcKind::User(UserCursor::many(bufs)))
    }

    /// A kernel buffer.
    #[inline]
    pub fn kernel(buf: &'a [u8]) -> Src<'a> {
        Src(SrcKind::Kernel { buf, pos: 0 })
    }

    /// Parts of frames, one after another.
    pub fn parts(parts: &'a [FramePart]) -> Src<'a> {
        Src(SrcKind::Parts(PartsCursor::new(parts)))
    }

    /// How much is left.
    #[inline]
    pub fn remaining(&self) -> usize {
        match &self.0 {
            SrcKind::User(cursor) => cursor.remaining,
            SrcKind::Kernel { buf, pos } => buf.len() - pos,
            SrcKind::Parts(cursor) => cursor.total - cursor.done,
        }
    }

    /// Where the bytes come from, as [`Dest::memory`].
    pub fn memory(&self) -> Option<Memory> {
        match &self.0 {
            SrcKind::User(cursor) => cursor.rest().map(Memory::User),
            SrcKind::Kernel { .. } => None,
            SrcKind::Parts(cursor) => cursor.rest().map(Memory::Parts),
        }
    }

    /// Is this user memory, so that a copy may fault and sleep?
    pub fn is_user(&self) -> bool {
        matches!(self.0, SrcKind::User(_))
    }

    /// All addresses and lengths of the user buffers that are left, or-ed; 0 for memory of the kernel.
    pub fn alignment(&self) -> u64 {
        match &self.0 {
            SrcKind::User(cursor) => cursor.alignment(),
            SrcKind::Kernel { .. } => 0,
            SrcKind::Parts(cursor) => cursor.alignment(),
        }
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
            SrcKind::Parts(cursor) => {
                Ok(cursor
                    .take(buf.len(), |frame, offset, n, done| frame.read(offset, &mut buf[done..done + n])))
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
            SrcKind::Parts(cursor) => {
                Ok(cursor.take(len, |from, at, n, done| frame.copy_part(offset + done, from, at, n)))
            }
        }
    }

    /// Skips `n` bytes.
    pub fn advance(&mut self, n: usize) {
        match &mut self.0 {
            SrcKind::User(cursor) => cursor.advance(n),
            SrcKind::Kernel { buf, pos } => *pos += n.min(buf.len() - *pos),
            SrcKind::Parts(cursor) => cursor.seek(cursor.done.saturating_add(n)),
        }
    }

    /// Goes back `n` bytes.
    pub fn revert(&mut self, n: usize) {
        match &mut self.0 {
            SrcKind::User(cursor) => cursor.revert(n),
            SrcKind::Kernel { pos, .. } => *pos -= n.min(*pos),
            SrcKind::Parts(cursor) => cursor.seek(cursor.done.saturating_sub(n)),
        }
    }

    /// Cuts what is left to at most `max` bytes.
    pub fn truncate(&mut self, max: usize) {
        match &mut self.0 {
            SrcKind::User(cursor) => cursor.remaining = cursor.remaining.min(max),
            SrcKind::Kernel { buf, pos } => *buf = &buf[..pos.saturating_add(max).min(buf.len())],
            SrcKind::Parts(cursor) => cursor.total = cursor.total.min(cursor.done.saturating_add(max)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PAGE_SIZE;
    use std::vec;

    fn part(byte: u8, offset: usize, len: usize) -> FramePart {
        let frame = Frame::alloc_zeroed().unwrap();
        frame.write(offset, &vec![byte; len]);
        FramePart { frame, offset, len }
    }

    #[test]
    fn a_span_is_put_like_its_frames() {
        let run = crate::frame::FrameRun::alloc(1).unwrap();
        for (frame, byte) in run.frames().iter().zip(1..) {
            frame.write(0, &[byte; PAGE_SIZE]);
        }
        let mut span = FrameSpan::from(run.frames()[0].clone());
        assert!(span.add(&run.frames()[1]));
        let mut buf = [0; 6];
        assert_eq!(Dest::kernel(&mut buf).put_span(&span, PAGE_SIZE - 2, 4), Ok(4));
        assert_eq!(buf, [1, 1, 2, 2, 0, 0]);
        assert_eq!(Dest::kernel(&mut buf).put_span(&span, PAGE_SIZE - 1, 9), Ok(6), "no room");
        let parts = [part(0, 5, 3), part(0, 0, 2)];
        assert_eq!(Dest::parts(&parts).put_span(&span, PAGE_SIZE - 4, 9), Ok(5));
        let mut bytes = [0; 2];
        parts[1].frame.read(0, &mut bytes);
        assert_eq!(bytes, [1, 2]);
    }

    #[test]
    fn parts_are_read_in_order_and_gone_back_over() {
        let parts = [part(1, 10, 3), part(2, 4090, 6), part(3, 0, 4)];
        let mut src = Src::parts(&parts);
        assert_eq!(src.remaining(), 13);
        let mut buf = [0; 5];
        assert_eq!(src.take_bytes(&mut buf), Ok(5));
        assert_eq!(buf, [1, 1, 1, 2, 2]);
        src.revert(3);
        src.truncate(8);
        let Some(Memory::Parts(rest)) = src.memory() else { panic!("parts") };
        assert_eq!(Src::parts(&rest).remaining(), 8);
        assert_eq!(
            rest.iter().map(|part| (part.offset, part.len)).collect::<Vec<_>>(),
            [(12, 1), (4090, 6), (0, 1)]
        );
        let to = Frame::alloc_zeroed().unwrap();
        assert_eq!(src.take_into_frame(&to, 100, 100), Ok(8));
        let mut copy = [0; 9];
        to.read(100, &mut copy);
        assert_eq!(copy, [1, 2, 2, 2, 2, 2, 2, 3, 0]);
        assert_eq!((src.remaining(), src.take_bytes(&mut buf)), (0, Ok(0)));
        src.revert(1);
        src.advance(9);
        assert_eq!(src.remaining(), 0);
    }

    #[test]
    fn what_is_left_of_user_buffers_is_told() {
        let buf = |addr, len| UserBuf { addr: UserAddr(addr), len };
        let mut dst = Dest::user_vec(vec![buf(0x1000, 100), buf(0x2000, 0), buf(0x3000, 50)]);
        dst.advance(30);
        dst.truncate(90);
        let Some(Memory::User(rest)) = dst.memory() else { panic!("user memory") };
        assert_eq!(rest, [buf(0x101e, 70), buf(0x3000, 20)]);
        dst.advance(75);
        let Some(Memory::User(rest)) = dst.memory() else { panic!("user memory") };
        assert_eq!(rest, [buf(0x3005, 15)]);
        assert!(Dest::kernel(&mut [0; 8]).memory().is_none());
    }

    #[test]
    fn parts_are_filled_in_order() {
        let parts = [part(9, 10, 3), part(9, 4092, 4), part(9, 0, 4)];
        let mut dst = Dest::parts(&parts);
        assert_eq!(dst.put_bytes(&[1, 2, 3, 4, 5]), Ok(5));
        dst.revert(1);
        assert_eq!(dst.put_zero(2), Ok(2));
        let from = Frame::alloc_zeroed().unwrap();
        from.write(7, &[6, 7, 8, 9]);
        dst.truncate(3);
        assert_eq!((dst.remaining(), dst.put_frame(&from, 7, 100)), (3, Ok(3)));
        let mut found = [0; 11];
        assert_eq!(Src::parts(&parts).take_bytes(&mut found), Ok(11));
        assert_eq!(found, [1, 2, 3, 4, 0, 0, 6, 7, 8, 9, 9]);
    }
}
