//! Rings of packets that a process shares with the kernel (packet(7), Documentation/networking/packet_mmap.rst of Linux).
//!
//! ```text
//!   block | frame | frame | frame |  block | frame | ...      versions 1 and 2, and all that are sent
//!   block | head, packet, packet, ... |  block | ...          version 3: packets as long as they are
//! ```
//! A status in each frame, or block, says whose turn it is. The process may write all of the memory at any time: the kernel
//! keeps its own place in the ring and its own account of a block, and what it reads of a frame to send it reads once.
//!
//! Locks: `PacketSocket::rx` and `tx`, which spin, guard one ring each. Who sends a ring holds `PacketSocket::sending`.

mod blocks;
mod frames;
mod memory;
mod transmit;

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::Ordering::SeqCst;

use abi::{Errno, Result};
use mm::Backing;
use sched::Timer;

use crate::fanout::Room;
use crate::socket::PacketSocket;
use crate::view::View;

pub(crate) use memory::Memory;
pub(crate) use transmit::TxRing;

/// The frame or block is the process's (`TP_STATUS_USER`).
pub(crate) const STATUS_USER: u32 = 1;
/// Packets were lost before this one (`TP_STATUS_LOSING`).
const STATUS_LOSING: u32 = 4;
/// Frames and packets begin at multiples of this (`TPACKET_ALIGNMENT`).
const ALIGNMENT: usize = 16;
/// Bytes of the address behind the header of a packet.
const ADDRESS: usize = crate::address::LEN;

/// Which ring of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Receive,
    Send,
}

/// `TPACKET_V*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1 = 0,
    V2 = 1,
    V3 = 2,
}

impl Version {
    pub(crate) fn from_raw(raw: u32) -> Option<Self> {
        [Self::V1, Self::V2, Self::V3].into_iter().find(|version| *version as u32 == raw)
    }

    /// Bytes of the header of a packet.
    pub(crate) const fn header_len(self) -> usize {
        match self {
            Self::V1 | Self::V2 => 32,
            Self::V3 => 48,
        }
    }

    /// Bytes of it with the address behind it.
    const fn whole_header(self) -> usize {
        self.header_len() + ADDRESS
    }
}

/// The shape of a ring (`struct tpacket_req3`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    block_size: usize,
    nr_blocks: usize,
    frame_size: usize,
    nr_frames: usize,
    /// Milliseconds that a block may wait for more.
    patience_ms: u32,
    /// Bytes of a block that are the process's own.
    private: usize,
    features: u32,
}

impl Shape {
    /// Reads one. `EINVAL`: too short.
    fn parse(value: &[u8], version: Version) -> Result<Self> {
        let nr = if version == Version::V3 { 7 } else { 4 };
        let mut words = [0u32; 7];
        let (raw, _) = value.as_chunks::<4>();
        for (at, word) in words.iter_mut().enumerate().take(nr) {
            *word = raw.get(at).map(|raw| u32::from_ne_bytes(*raw)).ok_or(Errno::EINVAL)?;
        }
        let [block_size, nr_blocks, frame_size, nr_frames, patience_ms, private, features] = words;
        Ok(Self {
            block_size: block_size as usize,
            nr_blocks: nr_blocks as usize,
            frame_size: frame_size as usize,
            nr_frames: nr_frames as usize,
            patience_ms,
            private: private as usize,
            features,
        })
    }

    /// `EINVAL`: the parts do not go together.
    fn check(&self, version: Version, side: Side, reserve: usize) -> Result<()> {
        let least = version.whole_header() + reserve;
        let is_private_bad = version == Version::V3
            && (side == Side::Receive && blocks::data_at(self.private) + least > self.block_size
                || side == Side::Send && (self.private, self.patience_ms, self.features) != (0, 0, 0));
        let total = self.block_size.checked_mul(self.nr_blocks).filter(|&total| total <= u32::MAX as usize);
        let is_bad = self.block_size == 0
            || self.block_size > i32::MAX as usize
            || !self.block_size.is_multiple_of(hal::PAGE_SIZE)
            || is_private_bad
            || self.frame_size < least
            || !self.frame_size.is_multiple_of(ALIGNMENT)
            || self.frame_size > self.block_size
            || total.is_none()
            || self.frames_per_block().checked_mul(self.nr_blocks) != Some(self.nr_frames);
        if is_bad { Err(Errno::EINVAL) } else { Ok(()) }
    }

    fn frames_per_block(&self) -> usize {
        self.block_size.checked_div(self.frame_size).unwrap_or(0)
    }

    /// Where frame `at` begins.
    fn frame_at(&self, at: usize) -> usize {
        let per_block = self.frames_per_block().max(1);
        at / per_block * self.block_size + at % per_block * self.frame_size
    }
}

/// A packet that comes into a ring.
pub(crate) struct Arrival<'a> {
    pub(crate) view: View<'a>,
    /// Bytes that the filter wants.
    pub(crate) len: usize,
    /// Others were lost before.
    pub(crate) is_losing: bool,
    /// Bytes of the header of `PACKET_VNET_HDR`.
    pub(crate) header: usize,
    /// What the status says about the time.
    pub(crate) stamp_status: u32,
}

/// Where the parts of a packet go in a frame, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    link: usize,
    network: usize,
    len: usize,
}

impl Arrival<'_> {
    /// The places in a frame of `room` bytes; `None`: they cannot be told in 16 bits.
    fn places(&self, version: Version, reserve: usize, room: usize) -> Option<Places> {
        let link_len = self.view.network_at();
        let head = version.whole_header().next_multiple_of(ALIGNMENT);
        let network = if link_len == 0 {
            head + 16 + reserve
        } else {
            (version.whole_header() + link_len.max(16)).next_multiple_of(ALIGNMENT) + reserve + self.header
        };
        if network > usize::from(u16::MAX) {
            return None;
        }
        let link = network - link_len;
        Some(Places { link, network, len: self.len.min(room.saturating_sub(link)) })
    }

    /// The bytes that are kept of it.
    fn bytes(&self, places: &Places) -> &[u8] {
        self.view.seen().get(..places.len).unwrap_or_default()
    }

    /// Seconds and nanoseconds of its time.
    fn time(&self) -> [u32; 2] {
        let ns = self.view.frame.time_ns;
        [(ns / 1_000_000_000) as u32, (ns % 1_000_000_000) as u32]
    }

    fn status(&self) -> u32 {
        STATUS_USER | self.stamp_status | if self.is_losing { STATUS_LOSING } else { 0 }
    }
}

/// What came of a packet, or of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Put {
    /// It is in the ring.
    pub(crate) is_stored: bool,
    /// There is something new to read.
    pub(crate) is_readable: bool,
    /// The ring has begun to wait for its reader.
    pub(crate) froze: bool,
    /// When the open block is to be looked at.
    pub(crate) deadline_ns: Option<u64>,
}

/// A ring of packets that come.
pub(crate) enum RxRing {
    Frames(frames::Frames),
    Blocks(blocks::Blocks),
}

impl RxRing {
    fn memory(&self) -> &Arc<Memory> {
        match self {
            Self::Frames(frames) => frames.memory(),
            Self::Blocks(blocks) => blocks.memory(),
        }
    }

    /// Puts a packet in. Does not sleep.
    pub(crate) fn put(&mut self, arrival: &Arrival<'_>) -> Put {
        match self {
            Self::Frames(frames) => frames.put(arrival),
            Self::Blocks(blocks) => blocks.put(arrival, hal::time::now_ns()),
        }
    }

    /// Whether the process has something to read.
    pub(crate) fn is_readable(&self) -> bool {
        match self {
            Self::Frames(frames) => frames.is_readable(),
            Self::Blocks(blocks) => blocks.is_readable(),
        }
    }

    /// How much room there is.
    pub(crate) fn room(&self) -> Room {
        match self {
            Self::Frames(frames) => frames.room(),
            Self::Blocks(blocks) => blocks.room(),
        }
    }
}

/// The timer that closes blocks of a socket.
pub(crate) fn timer(socket: Weak<PacketSocket>) -> Timer {
    // In the interrupt: the work is for a thread.
    Timer::new(Arc::new(move || {
        let socket = socket.clone();
        sched::workqueue::queue(Box::new(move || {
            let Some(socket) = socket.upgrade() else { return };
            let put = match socket.rx.lock().as_mut() {
                Some(RxRing::Blocks(blocks)) => blocks.expire(hal::time::now_ns()),
                _ => return,
            };
            socket.ring_changed(&put);
        }));
    }))
}

/// `PACKET_RX_RING` and `PACKET_TX_RING`: makes a ring, or with no blocks takes it away. May sleep.
///
/// `EINVAL`: a shape that cannot be. `EBUSY`: it is mapped, or there is one. `ENOMEM`.
pub(crate) fn set(socket: &PacketSocket, side: Side, value: &[u8]) -> Result<()> {
    let version = socket.settings.version();
    let shape = Shape::parse(value, version)?;
    // Nobody maps, binds or closes meanwhile, or sends what is in a ring that goes.
    let _hook = socket.hook.lock();
    let _sending = (side == Side::Send).then(|| socket.sending.lock());
    if socket.mapped.load(SeqCst) != 0 {
        return Err(Errno::EBUSY);
    }
    if shape.nr_blocks == 0 {
        if shape.nr_frames != 0 {
            return Err(Errno::EINVAL);
        }
        // Many pages may go: not under a lock that spins.
        let gone = match side {
            Side::Receive => (socket.rx.lock().take(), None),
            Side::Send => (None, socket.tx.lock().take()),
        };
        drop(gone);
        return Ok(());
    }
    let is_there = match side {
        Side::Receive => socket.rx.lock().is_some(),
        Side::Send => socket.tx.lock().is_some(),
    };
    if is_there {
        return Err(Errno::EBUSY);
    }
    let reserve = socket.settings.reserve();
    shape.check(version, side, reserve)?;
    let memory = Arc::new(Memory::new(shape.block_size * shape.nr_blocks)?);
    match side {
        Side::Send => *socket.tx.lock() = Some(TxRing::new(memory, shape, version)),
        Side::Receive => {
            let ring = match version {
                Version::V3 => RxRing::Blocks(blocks::Blocks::new(memory, shape, reserve)),
                _ => RxRing::Frames(frames::Frames::new(memory, shape, version, reserve)),
            };
            *socket.rx.lock() = Some(ring);
            socket.purge();
        }
    }
    Ok(())
}

/// mmap(2): the ring of packets that come, and behind it the one of those that go.
///
/// `EINVAL`: not from the beginning, not both as a whole, or there is none.
pub(crate) fn mmap(socket: &PacketSocket, offset: u64, len: u64) -> Result<Backing> {
    let _hook = socket.hook.lock();
    let rx = socket.rx.lock().as_ref().map(|ring| ring.memory().clone());
    let tx = socket.tx.lock().as_ref().map(|ring| ring.memory().clone());
    memory::map([rx, tx], &socket.mapped, offset, len)
}

#[cfg(test)]
mod tests;
