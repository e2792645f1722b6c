//! Rings of packets that go.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use net_inet::interface;
use sched::Interruptible;

use super::{ADDRESS, Memory, Shape, Version};
use crate::send::{ETHERNET, Target};
use crate::socket::PacketSocket;
use crate::virtio::{self, Offload};

/// The frame is free; it is to be sent; it is being sent; it cannot be (`TP_STATUS_*`).
const AVAILABLE: u32 = 0;
const SEND_REQUEST: u32 = 1;
const SENDING: u32 = 2;
const WRONG_FORMAT: u32 = 4;

pub(crate) struct TxRing {
    memory: Arc<Memory>,
    shape: Shape,
    version: Version,
    /// The next frame that is looked at.
    head: usize,
}

/// A frame that is to be sent.
struct Wanted {
    memory: Arc<Memory>,
    at: usize,
    status_at: usize,
    shape: Shape,
    version: Version,
}

impl TxRing {
    pub(super) fn new(memory: Arc<Memory>, shape: Shape, version: Version) -> Self {
        Self { memory, shape, version, head: 0 }
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn status_at(&self) -> usize {
        self.shape.frame_at(self.head) + status_offset(self.version)
    }

    /// The next frame, if it is to be sent. It stays the next one until [`TxRing::advance`].
    fn next(&self) -> Option<Wanted> {
        let (at, status_at) = (self.shape.frame_at(self.head), self.status_at());
        if self.memory.status(status_at) != SEND_REQUEST {
            return None;
        }
        self.memory.set_status(status_at, SENDING);
        Some(Wanted { memory: self.memory.clone(), at, status_at, shape: self.shape, version: self.version })
    }

    /// Goes on to the frame behind it.
    fn advance(&mut self) {
        self.head = (self.head + 1) % self.shape.nr_frames.max(1);
    }
}

/// Where the status of a frame is.
fn status_offset(version: Version) -> usize {
    if version == Version::V3 { 20 } else { 0 }
}

impl Wanted {
    fn finish(&self, status: u32) {
        self.memory.set_status(self.status_at, status);
    }

    /// Where the packet is in the frame, and how long it is.
    ///
    /// `EINVAL`: the place is not in the frame, or the frame names another one that follows. `EMSGSIZE`: too long.
    fn part(&self, socket: &PacketSocket) -> Result<(usize, usize)> {
        let word = |at: usize| self.memory.word(self.at + at);
        let (len_at, ends_at) = match self.version {
            Version::V1 => (8, 16),
            Version::V2 => (4, 12),
            Version::V3 => (16, 24),
        };
        if self.version == Version::V3 && word(0) != 0 {
            return Err(Errno::EINVAL);
        }
        let len = word(len_at) as usize;
        let least = self.version.whole_header() - ADDRESS;
        let most = self.shape.frame_size.checked_sub(least).ok_or(Errno::EINVAL)?;
        if len > most {
            return Err(Errno::EMSGSIZE);
        }
        let mut at = least;
        if socket.settings.has_offsets() {
            let [link, network] = [word(ends_at) & 0xffff, word(ends_at) >> 16];
            let is_raw = socket.kind == net_core::SockType::Raw;
            at = if is_raw { link } else { network } as usize;
            if at < least || at > self.shape.frame_size - len {
                return Err(Errno::EINVAL);
            }
        }
        Ok((at, len))
    }

    /// The packet, with what goes before it, and how many bytes the process has given.
    fn packet(&self, socket: &PacketSocket, target: &Target) -> Result<(Vec<u8>, usize)> {
        let (mut at, given) = self.part(socket)?;
        let header = socket.settings.virtio_header();
        let len = given.checked_sub(header).ok_or(Errno::EINVAL)?;
        let mut offload = Offload::default();
        if header > 0 {
            let mut raw = [0; virtio::LEN_MERGED];
            self.memory.read(self.at + at, &mut raw);
            offload = Offload::parse(&raw, len)?;
            at += header;
        }
        socket.check_len(target, len, offload.is_large)?;
        let mut bytes = socket.begin(target, len)?;
        let own = bytes.len();
        bytes.resize(own + len, 0);
        let packet = bytes.get_mut(own..).unwrap_or_default();
        self.memory.read(self.at + at, packet);
        offload.apply(packet)?;
        bytes.resize(bytes.len().max(ETHERNET), 0);
        Ok((bytes, given))
    }
}

impl PacketSocket {
    /// Sends all packets of the ring that are to be sent; gives their bytes. What is in the message itself does not count.
    ///
    /// It takes each frame of the ring once at most. A packet that is wrong ends it, `EINVAL` or `EMSGSIZE`, and keeps its place, unless `PACKET_LOSS` passes it over.
    pub(crate) fn send_ring(&self, name: Option<&[u8]>) -> Result<usize> {
        let _sending = self.sending.lock();
        let target = self.target(name)?;
        let nr_frames = self.tx.lock().as_ref().map_or(0, |ring| ring.shape.nr_frames);
        let mut sent = 0;
        // The process may ask for a frame again as soon as it was sent: that is for another call.
        for _ in 0..nr_frames {
            let Some(wanted) = self.tx.lock().as_ref().and_then(TxRing::next) else { break };
            match self.send_wanted(&wanted, &target) {
                Ok(len) => {
                    wanted.finish(AVAILABLE);
                    sent += len;
                }
                Err(error @ (Errno::ENOBUFS | Errno::ENETDOWN | Errno::EINTR)) => {
                    wanted.finish(SEND_REQUEST);
                    return if sent > 0 { Ok(sent) } else { Err(error) };
                }
                Err(_) if self.settings.loses() => wanted.finish(AVAILABLE),
                Err(error) => {
                    wanted.finish(WRONG_FORMAT);
                    return Err(error);
                }
            }
            if let Some(ring) = self.tx.lock().as_mut() {
                ring.advance();
            }
        }
        Ok(sent)
    }

    /// Sends one frame; gives how many bytes the process has given. `ENETDOWN`: the interface is off by now. `EINTR`: the
    /// process is killed. Else as for `Wanted::packet`.
    fn send_wanted(&self, wanted: &Wanted, target: &Target) -> Result<usize> {
        if sched::current().is_interrupted(Interruptible::Killable) {
            return Err(Errno::EINTR);
        }
        if !interface::link(&self.net).is_up {
            return Err(Errno::ENETDOWN);
        }
        let (bytes, given) = wanted.packet(self, target)?;
        self.transmit(target, bytes);
        Ok(given)
    }
}
