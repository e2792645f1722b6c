//! Receiving on a connection.

use abi::{Errno, Result};
use hal::uio::Dest;
use net_core::options::SO_OOBINLINE;
use net_core::{MsgFlags, Patience, Received};
use tcp::{Payload, State};

use super::conn::Inner;
use super::socket::TcpSocket;
use crate::buffer::Chunk;

/// What is next in the stream.
enum Next {
    /// Bytes, and how many of them there are before an urgent mark.
    Data(Chunk),
    /// Nothing now.
    Nothing,
    /// Nothing ever.
    End,
    Failed(Errno),
}

impl TcpSocket {
    pub(super) fn receive_stream(&self, dst: &mut Dest<'_>, flags: MsgFlags) -> Result<Received> {
        if flags.contains(MsgFlags::ERRQUEUE) {
            return Err(Errno::EAGAIN);
        }
        if flags.contains(MsgFlags::OOB) {
            return self.receive_urgent(dst, flags);
        }
        let patience = Patience::new(flags, self.conn.options.receive_timeout());
        let wanted = dst.remaining();
        let least = if flags.contains(MsgFlags::WAITALL) { wanted } else { self.conn.options.rcvlowat() };
        let least = least.min(wanted).max(1);
        let mut done = 0;
        let mut io = self.conn.io.lock();
        let result = loop {
            if done > 0 && done >= wanted {
                break Ok(());
            }
            match self.look(done, flags) {
                Next::Data(piece) => match self.take(&piece, dst, wanted - done, flags) {
                    Ok(0) => break Ok(()),
                    Ok(len) => done += len,
                    Err(error) => break Err(error),
                },
                Next::End => break Ok(()),
                _ if done >= least => break Ok(()),
                Next::Failed(error) => break Err(error),
                Next::Nothing => {
                    drop(io);
                    let skip = if flags.contains(MsgFlags::PEEK) { done } else { 0 };
                    let waited = patience.wait(&self.conn.wait, || {
                        (!matches!(self.peek(skip, flags), Next::Nothing)).then_some(())
                    });
                    io = self.conn.io.lock();
                    if let Err(error) = waited {
                        break Err(error);
                    }
                }
            }
        };
        drop(io);
        match result {
            Err(error) if done == 0 => Err(error),
            _ => Ok(Received { len: done, ..Received::default() }),
        }
    }

    /// What is next, `done` bytes into this call. Takes an error, if that is next.
    fn look(&self, done: usize, flags: MsgFlags) -> Next {
        let skip = if flags.contains(MsgFlags::PEEK) { done } else { 0 };
        let mut inner = self.conn.inner.lock();
        let next = self.next(&mut inner, skip, done > 0);
        if matches!(next, Next::Failed(_)) && done == 0 {
            inner.error = None;
        }
        next
    }

    fn peek(&self, skip: usize, _flags: MsgFlags) -> Next {
        self.next(&mut self.conn.inner.lock(), skip, false)
    }

    fn next(&self, inner: &mut Inner, skip: usize, has_some: bool) -> Next {
        if inner.backlog.is_some() {
            return Next::Failed(Errno::ENOTCONN);
        }
        if let Some(tcb) = &mut inner.tcb {
            let is_inline = self.conn.options.has(SO_OOBINLINE);
            let mark = tcb.urgent_offset().filter(|&at| at >= skip);
            match mark {
                // Reading stops before the mark once; then the byte is skipped, which is not in the stream.
                Some(at) if at == skip && has_some => return Next::End,
                Some(at) if at == skip && tcb.readable() > skip && !is_inline => {
                    if skip == 0 {
                        tcb.consume(1);
                    }
                    if let Some(piece) = tcb.peek(if skip == 0 { 0 } else { skip + 1 }) {
                        return Next::Data(piece);
                    }
                }
                _ => {
                    if let Some(mut piece) = tcb.peek(skip) {
                        if let Some(at) = mark.filter(|&at| at > skip) {
                            piece.truncate(at - skip);
                        }
                        return Next::Data(piece);
                    }
                }
            }
        }
        if let Some(error) = inner.error {
            return Next::Failed(error);
        }
        if inner.shut.receive || inner.tcb.as_ref().is_some_and(|tcb| tcb.is_receive_over()) {
            return if inner.was_connected || inner.tcb.is_some() {
                Next::End
            } else {
                Next::Failed(Errno::ENOTCONN)
            };
        }
        if inner.tcb.is_none() { Next::Failed(Errno::ENOTCONN) } else { Next::Nothing }
    }

    /// Copies from `piece`, or only drops it for `MSG_TRUNC`; gives how many bytes.
    fn take(&self, piece: &Chunk, dst: &mut Dest<'_>, most: usize, flags: MsgFlags) -> Result<usize> {
        let len = if flags.contains(MsgFlags::TRUNC) {
            let len = piece.len().min(most);
            dst.advance(len);
            len
        } else {
            piece.put(dst)?
        };
        if !flags.contains(MsgFlags::PEEK) {
            let mut inner = self.conn.inner.lock();
            if let Some(tcb) = &mut inner.tcb {
                tcb.consume(len);
                let answers = tcb.wants_output();
                drop(inner);
                if answers {
                    self.conn.with(|_| ());
                }
            }
        }
        Ok(len)
    }

    /// `EINVAL`: no out-of-band byte is there, or it is in the stream. `EAGAIN`: it is announced and has not come.
    fn receive_urgent(&self, dst: &mut Dest<'_>, flags: MsgFlags) -> Result<Received> {
        let byte = {
            let mut inner = self.conn.inner.lock();
            let Some(tcb) = &mut inner.tcb else { return Err(Errno::ENOTCONN) };
            if self.conn.options.has(SO_OOBINLINE) {
                return Err(Errno::EINVAL);
            }
            match tcb.urgent_byte() {
                Some(Some(byte)) => {
                    if !flags.contains(MsgFlags::PEEK) {
                        tcb.take_urgent();
                    }
                    byte
                }
                Some(None) if tcb.state() == State::Established && tcb.urgent_is_awaited() => {
                    return Err(Errno::EAGAIN);
                }
                _ => return Err(Errno::EINVAL),
            }
        };
        let len = dst.remaining().min(1);
        if len > 0 {
            dst.put_bytes(&[byte])?;
        }
        Ok(Received { len, flags: MsgFlags::OOB, ..Received::default() })
    }
}
