//! Sending and receiving on streams.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::socket::Ucred;
use abi::{Errno, Result};
use hal::uio::{Dest, Src};
use net_core::{MsgFlags, Outgoing, Patience, Process, Received, Socket};
use vfs::File;

use crate::address::Address;
use crate::packet::Packet;
use crate::rights::Rights;
use crate::socket::{READABLE, State, UnixSocket};

/// Most bytes in one packet of a stream.
const MAX_PACKET: usize = 32 << 10;

/// A look at a packet in the queue.
struct Look {
    data: Arc<Vec<u8>>,
    /// Its place in the queue.
    idx: usize,
    offset: usize,
    cred: Ucred,
    process: Option<Process>,
    from: Option<Address>,
    rights: Vec<Arc<File>>,
}

/// Why there is no packet to look at.
enum Nothing {
    Yet,
    Ever,
    Failed(Errno),
}

/// A receive in progress.
struct Receive {
    got: Received,
    first_cred: Option<Ucred>,
    first_process: Option<Process>,
    /// Packets that were looked at and left, or passed over (`MSG_PEEK`).
    peeked: usize,
}

/// Whether a receive looks for more.
#[derive(PartialEq, Eq)]
enum Next {
    More,
    Stop,
}

impl UnixSocket {
    pub(crate) fn send_stream(&self, message: Outgoing<'_, '_>) -> Result<usize> {
        let Outgoing { data, name, rights, creds, flags, .. } = message;
        let (peer, from) = {
            let inner = self.inner.lock();
            if name.is_some() {
                let is_connected = inner.state == State::Connected;
                return Err(if is_connected { Errno::EISCONN } else { Errno::EOPNOTSUPP });
            }
            let peer = inner.peer.clone().ok_or(Errno::ENOTCONN)?;
            if inner.shut.send {
                return Err(Errno::EPIPE);
            }
            (peer, inner.local.clone())
        };
        let cred = creds.unwrap_or_else(net_core::identity);
        let patience = Patience::new(flags, self.options().send_timeout());
        let mut rights = Some(rights);
        let mut sent = 0;
        while data.remaining() > 0 {
            match self.send_packet(&peer, data, &mut rights, (cred, from.clone()), patience) {
                Ok(len) => sent += len,
                Err(_) if sent > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// Waits for room and sends one packet; gives its length. The first one takes the files along.
    fn send_packet(
        &self,
        peer: &UnixSocket,
        data: &mut Src<'_>,
        rights: &mut Option<Vec<Arc<File>>>,
        (cred, from): (Ucred, Option<Address>),
        patience: Patience,
    ) -> Result<usize> {
        self.wait_for_buffer(patience)?;
        let limit = (self.options().sndbuf() / 2).saturating_sub(64).clamp(1, MAX_PACKET);
        let len = data.remaining().min(limit);
        let mut packet = Packet::take(&self.out, data, len, cred, from)?;
        packet.rights = Rights::new(rights.take().unwrap_or_default(), net_core::identity().uid);
        if self.options().passpidfd() || peer.options().passpidfd() {
            packet.process = net_core::process();
        }
        let mut theirs = peer.inner.lock();
        if theirs.state == State::Dead || theirs.shut.receive {
            drop(theirs);
            return Err(Errno::EPIPE);
        }
        theirs.queue.push_back(packet);
        drop(theirs);
        peer.wait.wake_events(READABLE);
        Ok(len)
    }

    /// Waits until another packet may be sent. `EPIPE`: never again.
    pub(crate) fn wait_for_buffer(&self, patience: Patience) -> Result<()> {
        patience.wait(&self.out.wait, || {
            if self.inner.lock().shut.send {
                return Some(Err(Errno::EPIPE));
            }
            self.out.has_room().then_some(Ok(()))
        })?
    }

    pub(crate) fn receive_stream(&self, dst: &mut Dest<'_>, flags: MsgFlags) -> Result<Received> {
        if self.inner.lock().state != State::Connected || flags.contains(MsgFlags::OOB) {
            return Err(Errno::EINVAL);
        }
        let patience = Patience::new(flags, self.options().receive_timeout());
        let target = if flags.contains(MsgFlags::WAITALL) { dst.remaining().max(1) } else { 1 };
        let got = Received::default();
        let mut receive = Receive { got, first_cred: None, first_process: None, peeked: 0 };
        let mut io = self.io.lock();
        loop {
            let error = match self.look(&receive, flags) {
                Ok(look) => match self.take(look, dst, flags, &mut receive) {
                    Ok(Next::More) if dst.remaining() > 0 => continue,
                    Ok(_) => break,
                    Err(error) => error,
                },
                Err(_) if receive.got.len >= target || receive.peeked > 0 => break,
                Err(Nothing::Ever) => break,
                Err(Nothing::Failed(error)) => error,
                Err(Nothing::Yet) => {
                    drop(io);
                    let waited = self.wait_for_data(patience, flags);
                    io = self.io.lock();
                    match waited {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                }
            };
            if receive.got.len > 0 {
                break;
            }
            return Err(error);
        }
        self.tell_left(&mut receive.got);
        drop(io);
        if self.options().passcred() {
            receive.got.creds = receive.first_cred;
        }
        if self.options().passpidfd() {
            receive.got.process = receive.first_process;
        }
        Ok(receive.got)
    }

    /// Waits until there is something to receive with `flags`, be it the end.
    pub(crate) fn wait_for_data(&self, patience: Patience, flags: MsgFlags) -> Result<()> {
        patience.wait(&self.wait, || {
            let inner = self.inner.lock();
            let has_data = inner.first_for(self.kind, self.peek_off(flags)).is_some();
            (has_data || inner.shut.receive || inner.error.is_some()).then_some(())
        })
    }

    fn look(&self, receive: &Receive, flags: MsgFlags) -> core::result::Result<Look, Nothing> {
        let mut inner = self.inner.lock();
        let is_first = receive.first_cred.is_none();
        let place = if is_first {
            inner.first_for(self.kind, self.peek_off(flags))
        } else {
            Some((receive.peeked, 0))
        };
        if let Some((packet, idx, skip)) =
            place.and_then(|(idx, skip)| inner.queue.get(idx).map(|packet| (packet, idx, skip)))
        {
            return Ok(Look {
                data: packet.data.clone(),
                idx,
                offset: packet.offset + skip,
                cred: packet.cred,
                process: packet.process.clone(),
                from: packet.from.clone(),
                rights: packet.rights.peek(),
            });
        }
        if let Some(error) = inner.error.take_if(|_| is_first) {
            return Err(Nothing::Failed(error));
        }
        Err(if inner.shut.receive { Nothing::Ever } else { Nothing::Yet })
    }

    /// Copies from the packet that was looked at, and takes what was copied out of the queue.
    fn take(&self, look: Look, dst: &mut Dest<'_>, flags: MsgFlags, receive: &mut Receive) -> Result<Next> {
        let is_first = receive.first_cred.is_none();
        let changes_sender =
            self.options().tells_senders() && receive.first_cred.is_some_and(|cred| cred != look.cred);
        if changes_sender {
            return Ok(Next::Stop);
        }
        let bytes = look.data.get(look.offset..).unwrap_or_default();
        let len = bytes.len().min(dst.remaining());
        let done = if len == 0 { 0 } else { dst.put_bytes(&bytes[..len])? };
        receive.got.len += done;
        receive.first_cred = Some(look.cred);
        self.move_peek_off(flags, done);
        if is_first {
            receive.first_process = look.process;
            receive.got.name = look.from.as_deref().unwrap_or_default().to_vec();
        }
        let has_rights = !look.rights.is_empty();
        let is_whole = look.offset + done == look.data.len();
        if flags.contains(MsgFlags::PEEK) {
            receive.got.rights = look.rights;
            receive.peeked = look.idx + 1;
        } else {
            // The files go with the first byte, as on Linux.
            let (rights, gone) = {
                let mut inner = self.inner.lock();
                let rights = inner.queue.front_mut().map(|packet| {
                    packet.offset += done;
                    packet.rights.take()
                });
                (rights, if is_whole { inner.queue.pop_front() } else { None })
            };
            receive.got.rights = rights.unwrap_or_default();
            drop(gone);
        }
        Ok(if has_rights || !is_whole || done < len { Next::Stop } else { Next::More })
    }
}
