//! Rings of blocks: packets that come, version 3.
//!
//! ```text
//!   0                 48, private part      data_at
//!   | head of a block | the process's own   | packet, padded to 8 | packet | ...
//! ```
//! A block becomes the process's when the next packet has no room in it, or when it has waited long enough with some. When
//! the next block is still the process's, the ring is frozen: packets are lost until that block is given back.

use alloc::sync::Arc;

use super::{Arrival, Memory, Put, STATUS_LOSING, STATUS_USER, Shape, Version};
use crate::fanout::Room;

/// Bytes of the head of a block.
const HEAD: usize = 48;
/// Where its fields are: version, place of the private part, status, number of packets, place of the first one, length,
/// number of the block, time of the first packet and of the last one.
const STATUS: usize = 8;
const SEQUENCE: usize = 24;
const FIRST_TIME: usize = 32;
const LAST_TIME: usize = 40;
/// Packets begin at multiples of this.
const PACKET_ALIGNMENT: usize = 8;
/// The block was given out because it had waited long enough (`TP_STATUS_BLK_TMO`).
const STATUS_TIMED_OUT: u32 = 1 << 5;
/// `TP_FT_REQ_FILL_RXHASH`.
const FEATURE_HASH: u32 = 1;
/// How long a block waits when nobody says.
const USUAL_PATIENCE_MS: u32 = 8;

/// Where the packets of a block begin behind `private` bytes of the process.
pub(super) fn data_at(private: usize) -> usize {
    HEAD + private.next_multiple_of(PACKET_ALIGNMENT)
}

/// The block that is being filled.
struct Open {
    nr_packets: u32,
    /// Where the next packet goes.
    next: usize,
    /// Where the last one is.
    last: usize,
    first_time: [u32; 2],
    last_time: [u32; 2],
    /// When it is to be given out; 0 until it has a packet.
    deadline_ns: u64,
    is_losing: bool,
}

pub(crate) struct Blocks {
    memory: Arc<Memory>,
    shape: Shape,
    reserve: usize,
    /// The block that is being filled, or is to be.
    at: usize,
    /// Number of the next block that is opened.
    sequence: u64,
    /// `None`: the block has not been given back.
    open: Option<Open>,
}

impl Blocks {
    pub(super) fn new(memory: Arc<Memory>, shape: Shape, reserve: usize) -> Self {
        let mut ring = Self { memory, shape, reserve, at: 0, sequence: 1, open: None };
        ring.try_open();
        ring
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn place(&self, block: usize) -> usize {
        block % self.shape.nr_blocks.max(1) * self.shape.block_size
    }

    fn is_users(&self, block: usize) -> bool {
        self.memory.status(self.place(block) + STATUS) & STATUS_USER != 0
    }

    /// Whether the block before the open one is to be read.
    pub(super) fn is_readable(&self) -> bool {
        self.is_users(self.at + self.shape.nr_blocks - 1)
    }

    pub(super) fn room(&self) -> Room {
        if !self.is_users(self.at + self.shape.nr_blocks / 4) && self.open.is_some() {
            Room::Normal
        } else if !self.is_users(self.at) {
            Room::Low
        } else {
            Room::None
        }
    }

    /// Begins with the block whose turn it is, unless the process has it.
    fn try_open(&mut self) {
        if self.open.is_some() || self.is_users(self.at) {
            return;
        }
        let next = data_at(self.shape.private);
        let place = self.place(self.at);
        let words = [Version::V3 as u32, HEAD as u32, 0, 0, next as u32, next as u32];
        let mut head = [0; SEQUENCE + 8];
        let sequence = self.sequence.to_ne_bytes();
        for (to, from) in head.iter_mut().zip(words.into_iter().flat_map(u32::to_ne_bytes).chain(sequence)) {
            *to = from;
        }
        self.memory.write(place, &head);
        self.sequence += 1;
        self.open = Some(Open {
            nr_packets: 0,
            next,
            last: 0,
            first_time: [0; 2],
            last_time: [0; 2],
            deadline_ns: 0,
            is_losing: false,
        });
    }

    /// Gives the open block out, and goes on to the next one. Whether the ring is frozen now.
    fn close(&mut self, why: u32) -> bool {
        let Some(open) = self.open.take() else { return false };
        let place = self.place(self.at);
        // The last packet says that none follows.
        if open.nr_packets > 0 {
            self.memory.write(open.last, &[0; 4]);
        }
        let times = |time: [u32; 2]| u64::from(time[0]) | u64::from(time[1]) << 32;
        self.memory.write(place + FIRST_TIME, &times(open.first_time).to_ne_bytes());
        self.memory.write(place + LAST_TIME, &times(open.last_time).to_ne_bytes());
        let losing = if open.is_losing { STATUS_LOSING } else { 0 };
        self.memory.set_status(place + STATUS, STATUS_USER | why | losing);
        self.at = (self.at + 1) % self.shape.nr_blocks.max(1);
        self.try_open();
        self.open.is_none()
    }

    /// Most bytes of a packet with what goes before it.
    fn most(&self) -> usize {
        self.shape.block_size.saturating_sub(data_at(self.shape.private) + PACKET_ALIGNMENT)
    }

    pub(super) fn put(&mut self, arrival: &Arrival<'_>, now_ns: u64) -> Put {
        let mut put = Put::default();
        self.try_open();
        let most = self.most();
        // What is left before the packet may be more than a block has.
        let places = arrival.places(Version::V3, self.reserve, most).filter(|places| places.link <= most);
        let Some(places) = places else { return put };
        let len = (places.link + places.len).next_multiple_of(PACKET_ALIGNMENT);
        let has_room =
            |ring: &Self| ring.open.as_ref().is_some_and(|open| open.next + len < ring.shape.block_size);
        if self.open.is_some() && !has_room(self) {
            put.is_readable = true;
            put.froze = self.close(0);
        }
        if !has_room(self) {
            return put;
        }
        let patience_ms =
            if self.shape.patience_ms == 0 { USUAL_PATIENCE_MS } else { self.shape.patience_ms };
        let place = self.place(self.at);
        let Some(open) = &mut self.open else { return put };
        let at = place + open.next;
        if open.nr_packets == 0 {
            open.first_time = arrival.time();
            open.deadline_ns = now_ns.saturating_add(u64::from(patience_ms) * 1_000_000);
            put.deadline_ns = Some(open.deadline_ns);
        }
        open.last_time = arrival.time();
        open.is_losing |= arrival.is_losing;
        open.last = at;
        open.next += len;
        open.nr_packets += 1;
        let counts = [open.nr_packets, data_at(self.shape.private) as u32, open.next as u32];
        write_packet(&self.memory, at, arrival, &places, len, self.shape.features & FEATURE_HASH != 0);
        for (nr, count) in counts.into_iter().enumerate() {
            self.memory.write(place + STATUS + 4 + nr * 4, &count.to_ne_bytes());
        }
        put.is_stored = true;
        put
    }

    /// Gives the open block out if it has waited long enough.
    pub(super) fn expire(&mut self, now_ns: u64) -> Put {
        let mut put = Put::default();
        let deadline_ns = self.open.as_ref().map_or(0, |open| open.deadline_ns);
        if deadline_ns == 0 {
            return put;
        }
        if now_ns < deadline_ns {
            put.deadline_ns = Some(deadline_ns);
            return put;
        }
        put.is_readable = true;
        put.froze = self.close(STATUS_TIMED_OUT);
        put
    }
}

/// Writes a packet of `len` bytes, with its header, to `at`.
fn write_packet(
    memory: &Memory,
    at: usize,
    arrival: &Arrival<'_>,
    places: &super::Places,
    len: usize,
    hashes: bool,
) {
    let [seconds, ns] = arrival.time();
    let ends = places.link as u32 | (places.network as u32) << 16;
    let hash = if hashes { arrival.view.frame.flow().hash } else { 0 };
    let whole = arrival.view.seen().len() as u32;
    let words = [len as u32, seconds, ns, places.len as u32, whole, arrival.status(), ends, hash];
    let mut header = [0; Version::V3.header_len()];
    for (to, from) in header.iter_mut().zip(words.into_iter().flat_map(u32::to_ne_bytes)) {
        *to = from;
    }
    memory.write(at, &header);
    memory.write(at + header.len(), &arrival.view.sender().to_array());
    if arrival.header > 0 && places.link >= arrival.header {
        memory.write(at + places.link - arrival.header, &crate::virtio::BLANK[..arrival.header]);
    }
    memory.write(at + places.link, arrival.bytes(places));
}
