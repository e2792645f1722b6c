//! Sending and receiving of messages: datagram and seqpacket sockets.

use abi::{Errno, Result};
use alloc::sync::Arc;
use hal::uio::Dest;
use net_core::{MsgFlags, Outgoing, Patience, Received, SockType, Socket};
use vfs::WalkContext;

use crate::address;
use crate::packet::Packet;
use crate::rights::Rights;
use crate::socket::{READABLE, State, UnixSocket};

/// Part of the send buffer that a message may not use (Linux reserves it for its headers).
const RESERVED: usize = 32;

/// What became of a message.
enum Delivery {
    Done,
    /// The receiver has no room; here it is again.
    Full(Packet),
}

impl UnixSocket {
    pub(crate) fn send_datagram(
        &self,
        walk: Option<&WalkContext<'_>>,
        message: Outgoing<'_, '_>,
    ) -> Result<usize> {
        let Outgoing { data, name, rights, creds, flags, .. } = message;
        let peer = match name {
            Some(name) => {
                address::parse(name)?;
                None
            }
            None => Some(self.peer().ok_or(Errno::ENOTCONN)?),
        };
        if self.options().tells_senders() {
            self.autobind()?;
        }
        let len = data.remaining();
        if len > self.options().sndbuf().saturating_sub(RESERVED) {
            return Err(Errno::EMSGSIZE);
        }
        let patience = Patience::new(flags, self.options().send_timeout());
        self.wait_for_buffer(patience)?;
        let from = self.inner.lock().local.clone();
        let cred = creds.unwrap_or_else(net_core::identity);
        let mut packet = Packet::take(&self.out, data, len, cred, from)?;
        packet.rights = Rights::new(rights, net_core::identity().uid);
        let other = match (peer, name, walk) {
            (Some(peer), ..) => peer,
            (None, Some(name), Some(walk)) => address::find(walk, name, self)?,
            _ => return Err(Errno::ENOTCONN),
        };
        if self.options().passpidfd() || other.options().passpidfd() {
            packet.process = net_core::process();
        }
        loop {
            match self.deliver(&other, packet)? {
                Delivery::Done => {
                    other.wait.wake_events(READABLE);
                    return Ok(len);
                }
                Delivery::Full(again) => packet = again,
            }
            patience.wait(&other.room, || {
                let theirs = other.inner.lock();
                (theirs.state == State::Dead || theirs.shut.receive || !theirs.is_full()).then_some(())
            })?;
        }
    }

    /// Puts `packet` into the queue of `other`.
    ///
    /// `ECONNREFUSED`: it has ended. `EPIPE`: it receives no more. `EPERM`: it is connected to somebody else.
    fn deliver(&self, other: &Arc<UnixSocket>, packet: Packet) -> Result<Delivery> {
        let mut theirs = other.inner.lock();
        if theirs.state == State::Dead {
            drop(theirs);
            self.forget_peer(other);
            return Err(Errno::ECONNREFUSED);
        }
        let is_mine = self.is_peer_of(&theirs);
        let refusal = if theirs.shut.receive {
            Some(Errno::EPIPE)
        } else if theirs.peer.is_some() && !is_mine {
            Some(Errno::EPERM)
        } else {
            None
        };
        if let Some(errno) = refusal {
            // Unlocked before the packet goes, which may carry the last reference to something.
            drop(theirs);
            drop(packet);
            return Err(errno);
        }
        if !is_mine && theirs.is_full() {
            return Ok(Delivery::Full(packet));
        }
        theirs.queue.push_back(packet);
        Ok(Delivery::Done)
    }

    /// Ends the association with a datagram socket that is gone.
    fn forget_peer(&self, gone: &Arc<UnixSocket>) {
        let mut inner = self.inner.lock();
        let is_peer = self.kind == SockType::Datagram
            && inner.peer.as_ref().is_some_and(|peer| Arc::ptr_eq(peer, gone));
        let old = if is_peer {
            inner.state = State::Unconnected;
            inner.peer.take()
        } else {
            None
        };
        drop(inner);
        drop(old);
    }

    pub(crate) fn receive_datagram(&self, dst: &mut Dest<'_>, flags: MsgFlags) -> Result<Received> {
        if flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let is_seqpacket = self.kind == SockType::SeqPacket;
        if is_seqpacket && self.inner.lock().state != State::Connected {
            return Err(Errno::ENOTCONN);
        }
        let patience = Patience::new(flags, self.options().receive_timeout());
        let mut io = self.io.lock();
        loop {
            if let Some(received) = self.take_message(dst, flags) {
                return received;
            }
            let (error, is_over) = {
                let mut inner = self.inner.lock();
                (inner.error.take(), inner.shut.receive)
            };
            if let Some(error) = error {
                return Err(error);
            }
            if is_over {
                let is_nonblocking = flags.contains(MsgFlags::DONTWAIT) && !is_seqpacket;
                return if is_nonblocking { Err(Errno::EAGAIN) } else { Ok(Received::default()) };
            }
            drop(io);
            self.wait_for_data(patience, flags)?;
            io = self.io.lock();
        }
    }

    /// Receives the first message, if there is one. A fault loses it, as on Linux.
    fn take_message(&self, dst: &mut Dest<'_>, flags: MsgFlags) -> Option<Result<Received>> {
        let mut inner = self.inner.lock();
        let (idx, skip) = inner.first_for(self.kind, self.peek_off(flags))?;
        let first = inner.queue.get_mut(idx)?;
        let (data, cred, from) = (first.data.clone(), first.cred, first.from.clone());
        let process = first.process.clone();
        let (rights, gone) = if flags.contains(MsgFlags::PEEK) {
            first.was_seen = true;
            (first.rights.peek(), None)
        } else {
            (first.rights.take(), inner.queue.pop_front())
        };
        drop(inner);
        if gone.is_some() {
            self.room.wake_all();
        }
        let bytes = data.get(skip..).unwrap_or_default();
        let len = bytes.len().min(dst.remaining());
        if len > 0 && dst.put_bytes(&bytes[..len]).unwrap_or(0) < len {
            return Some(Err(Errno::EFAULT));
        }
        self.move_peek_off(flags, if flags.contains(MsgFlags::PEEK) { len } else { data.len() });
        let is_cut = len < bytes.len();
        Some(Ok(Received {
            len: if flags.contains(MsgFlags::TRUNC) { bytes.len() } else { len },
            flags: if is_cut { MsgFlags::TRUNC } else { MsgFlags::empty() },
            name: from.as_deref().unwrap_or_default().to_vec(),
            rights,
            creds: self.options().passcred().then_some(cred),
            process: process.filter(|_| self.options().passpidfd()),
            ..Received::default()
        }))
    }
}
