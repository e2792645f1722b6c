//! Rings of frames: packets that come, versions 1 and 2.
//!
//! ```text
//!   0                32           52, rounded up           network - link header
//!   | header, status | address    | reserve, padding       | packet, as much as fits
//! ```

use alloc::sync::Arc;

use super::{Arrival, Memory, Places, Put, Shape, Version};
use crate::fanout::Room;

/// The frame is the kernel's.
const KERNEL: u32 = 0;

pub(crate) struct Frames {
    memory: Arc<Memory>,
    shape: Shape,
    version: Version,
    reserve: usize,
    /// The next frame.
    head: usize,
}

impl Frames {
    pub(super) fn new(memory: Arc<Memory>, shape: Shape, version: Version, reserve: usize) -> Self {
        Self { memory, shape, version, reserve, head: 0 }
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Whether frame `at`, which may be beyond the end, is free.
    fn is_free(&self, at: usize) -> bool {
        let at = self.shape.frame_at(at % self.shape.nr_frames.max(1));
        self.memory.status(at) == KERNEL
    }

    pub(super) fn room(&self) -> Room {
        if self.is_free(self.head + self.shape.nr_frames / 4) {
            Room::Normal
        } else if self.is_free(self.head) {
            Room::Low
        } else {
            Room::None
        }
    }

    /// Whether the frame before the next one is to be read.
    pub(super) fn is_readable(&self) -> bool {
        !self.is_free(self.head + self.shape.nr_frames - 1)
    }

    pub(super) fn put(&mut self, arrival: &Arrival<'_>) -> Put {
        let places = arrival.places(self.version, self.reserve, self.shape.frame_size);
        // What is left before the packet may be more than a frame has.
        let fits = |places: &Places| places.link <= self.shape.frame_size && self.is_free(self.head);
        let Some(places) = places.filter(fits) else { return Put::default() };
        let at = self.shape.frame_at(self.head);
        self.head = (self.head + 1) % self.shape.nr_frames.max(1);
        let memory = &self.memory;
        if arrival.header > 0 && places.link >= arrival.header {
            memory.write(at + places.link - arrival.header, &crate::virtio::BLANK[..arrival.header]);
        }
        memory.write(at + places.link, arrival.bytes(&places));
        memory.write(at + self.version.header_len(), &arrival.view.sender().to_array());
        self.write_header(at, arrival, &places);
        memory.set_status(at, arrival.status());
        Put { is_stored: true, is_readable: true, ..Put::default() }
    }

    /// All of the header but the status.
    fn write_header(&self, at: usize, arrival: &Arrival<'_>, places: &Places) {
        let len = arrival.view.seen().len() as u32;
        let [seconds, ns] = arrival.time();
        // Version 1 has a status of 64 bits.
        let (skip, fraction) = if self.version == Version::V1 { (8, ns / 1000) } else { (4, ns) };
        let ends = places.link as u32 | (places.network as u32) << 16;
        let words = [len, places.len as u32, ends, seconds, fraction];
        let mut bytes = [0; 28];
        let zeroes = 32 - skip;
        for (to, from) in bytes.iter_mut().zip(words.into_iter().flat_map(u32::to_ne_bytes)) {
            *to = from;
        }
        // Behind the words: the tag of a virtual network, of which there is none, and padding.
        self.memory.write(at + skip, bytes.get(..zeroes).unwrap_or(&bytes));
        if self.version == Version::V1 {
            self.memory.write(at + 4, &[0; 4]);
        }
    }
}
