//! Sending on a connection.

use abi::{Errno, Result};
use net_core::{MsgFlags, Outgoing, Patience};
use tcp::State;

use super::conn::Inner;
use super::socket::TcpSocket;
use crate::buffer::Chunk;

/// Most bytes that are taken from the sender at once.
const MAX_PIECE: usize = 64 << 10;

/// Whether data may be written now; `None`: wait.
fn may_write(inner: &mut Inner) -> Option<Result<()>> {
    if let Some(error) = inner.error.take() {
        return Some(Err(error));
    }
    let Some(tcb) = &inner.tcb else { return Some(Err(Errno::EPIPE)) };
    if matches!(tcb.state(), State::SynSent | State::SynReceived) {
        return None;
    }
    if !tcb.can_send() || inner.shut.send {
        return Some(Err(Errno::EPIPE));
    }
    tcb.has_room().then_some(Ok(()))
}

impl TcpSocket {
    pub(super) fn send_stream(&self, message: Outgoing<'_, '_>) -> Result<usize> {
        let Outgoing { data, flags, .. } = message;
        let patience = Patience::new(flags, self.conn.options.send_timeout());
        let mut sent = 0;
        loop {
            let result = patience.wait(&self.conn.wait, || may_write(&mut self.conn.inner.lock()));
            let result = result.and_then(|ready| ready);
            if data.remaining() == 0 {
                return result.map(|()| sent);
            }
            match result.and_then(|()| Chunk::take(data, data.remaining().min(MAX_PIECE))) {
                Ok(piece) => sent += self.send_piece(piece, data.remaining() == 0, flags),
                Err(error) => return self.ended(sent, error),
            }
            if data.remaining() == 0 {
                return Ok(sent);
            }
        }
    }

    /// What a call returns that stops at `error` after `sent` bytes.
    fn ended(&self, sent: usize, error: Errno) -> Result<usize> {
        if sent == 0 {
            return Err(error);
        }
        self.conn.with(|inner| inner.uncork());
        if !matches!(error, Errno::EAGAIN | Errno::EPIPE | Errno::EINTR | Errno::ERESTARTSYS | Errno::EFAULT)
        {
            // The next call tells.
            self.conn.inner.lock().error = Some(error);
        }
        Ok(sent)
    }

    /// Queues a piece; gives its length. What comes too late is thrown away, and the next call tells.
    fn send_piece(&self, piece: Chunk, is_last: bool, flags: MsgFlags) -> usize {
        let len = tcp::Payload::len(&piece);
        self.conn.with(|inner| {
            let Some(tcb) = &mut inner.tcb else { return };
            if !tcb.can_send() {
                return;
            }
            // What follows goes along, so nothing small goes alone before it.
            tcb.config.cork = inner.is_corked || flags.contains(MsgFlags::MORE) || !is_last;
            if is_last && flags.contains(MsgFlags::OOB) {
                tcb.send_urgent(piece);
            } else {
                tcb.send(piece);
            }
        });
        len
    }
}
