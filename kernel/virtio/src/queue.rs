//! A split virtqueue and the requests in it.
//!
//! A request takes a *slot*, named by its first descriptor. With indirect descriptors it is the only one, and the
//! rest are in the slot's own page, which is made at the slot's first use and kept; slots are reused last in, first
//! out, so a lightly used queue has few pages. The page's end holds what goes with the request: a header for the
//! device to read and a tail for it to write.
//!
//! ```text
//!   slot's page   descriptors × MAX_DESCRIPTORS │ header MAX_HEADER │ tail MAX_TAIL
//! ```
//!
//! # Invariants
//!
//! - Q1: a descriptor is either in the free list or belongs to the chain of one slot whose token is `Some`.
//! - Q2: `nr_free` is the length of the free list.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::dma::{self, Buffer};
use hal::{PAGE_SIZE, PhysAddr};

use crate::device::{Device, Features, QueueSetup};
use crate::ring::{self, DESCRIPTOR, Layout};

/// Bytes of a header at most.
pub const MAX_HEADER: usize = 192;
/// Bytes of a tail at most.
pub const MAX_TAIL: usize = 64;
/// Descriptors in a slot's page.
const MAX_DESCRIPTORS: usize = (PAGE_SIZE - MAX_HEADER - MAX_TAIL) / DESCRIPTOR;
/// Pieces of a request at most; header and tail are beside them.
pub const MAX_PIECES: usize = MAX_DESCRIPTORS - 2;
const HEADER_AT: usize = MAX_DESCRIPTORS * DESCRIPTOR;
const TAIL_AT: usize = HEADER_AT + MAX_HEADER;

/// A piece of memory that goes with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it is.
    pub paddr: PhysAddr,
    /// Its length in bytes.
    pub len: u32,
    /// Does the device write it (or read it)? Those that it writes come last.
    pub is_written: bool,
}

/// A request that the device is done with.
#[derive(Debug)]
pub struct Done<T> {
    /// What was given with it.
    pub token: T,
    /// How many bytes the device says it wrote. Not to be believed beyond what there is room for.
    pub written: u32,
    /// What it wrote into the tail.
    pub tail: [u8; MAX_TAIL],
}

/// A request whose descriptors are written; [`Queue::publish`] makes it available.
#[derive(Debug)]
#[must_use]
pub struct Prepared {
    head: u16,
}

struct Slot<T> {
    page: Option<Buffer>,
    token: Option<T>,
    tail: usize,
}

/// A virtqueue whose requests carry a `T`.
pub struct Queue<T> {
    memory: Buffer,
    layout: Layout,
    size: u16,
    features: Features,
    /// First free descriptor; the others follow by `next`, kept here because the device may write the table.
    free: u16,
    next: Vec<u16>,
    nr_free: u16,
    slots: Vec<Slot<T>>,
    /// What was made available, and up to where the device was told.
    available_idx: u16,
    told_idx: u16,
    used_idx: u16,
    is_broken: bool,
    /// Reset before the memory goes; `None` in tests.
    device: Option<Arc<Device>>,
    index: u16,
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        if let Some(device) = &self.device {
            device.reset();
        }
    }
}

impl<T> Queue<T> {
    pub(crate) fn new(size: u16, features: Features, device: Option<Arc<Device>>) -> Result<Queue<T>> {
        let layout = Layout::new(size);
        let memory = Buffer::alloc(layout.len()).ok_or(Errno::ENOMEM)?;
        let mut slots = Vec::new();
        slots.try_reserve_exact(size.into()).map_err(|_| Errno::ENOMEM)?;
        slots.extend((0..size).map(|_| Slot { page: None, token: None, tail: 0 }));
        let next = (1..=size).collect();
        Ok(Queue {
            memory,
            layout,
            size,
            features,
            free: 0,
            next,
            nr_free: size,
            slots,
            available_idx: 0,
            told_idx: 0,
            used_idx: 0,
            is_broken: false,
            device,
            index: 0,
        })
    }

    pub(crate) fn set_index(&mut self, index: u16) {
        self.index = index;
    }

    pub(crate) fn setup(&self) -> QueueSetup {
        let base = self.memory.paddr().0;
        QueueSetup {
            size: self.size,
            descriptors: PhysAddr(base),
            available: PhysAddr(base + self.layout.available() as u64),
            used: PhysAddr(base + self.layout.used() as u64),
        }
    }

    /// The device that it is a queue of.
    pub fn device(&self) -> Option<&Arc<Device>> {
        self.device.as_ref()
    }

    /// Its number.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Is no request under way?
    pub fn is_idle(&self) -> bool {
        self.nr_free == self.size
    }

    /// Did the device break the rules?
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    fn is_indirect(&self) -> bool {
        self.features.contains(Features::INDIRECT)
    }

    /// Most pieces that a request can have.
    pub fn max_pieces(&self) -> usize {
        if self.is_indirect() { MAX_PIECES } else { MAX_PIECES.min(usize::from(self.size).saturating_sub(2)) }
    }

    /// Makes a request available: `header` for the device to read, then `pieces`, then `tail` bytes for it to write.
    /// Adjacent pieces are joined. Gives `token` back when there is no room now (or no memory for the slot).
    ///
    /// The memory of `pieces` is kept by `token`.
    pub fn add(
        &mut self,
        header: &[u8],
        pieces: impl Iterator<Item = Piece> + Clone,
        tail: usize,
        token: T,
    ) -> core::result::Result<(), T> {
        match self.prepare(header, pieces, tail) {
            Some(prepared) => {
                self.publish(prepared, token);
                Ok(())
            }
            None => Err(token),
        }
    }

    /// The first half of [`Queue::add`], for pieces that the token itself lends. `None`: no room.
    pub fn prepare(
        &mut self,
        header: &[u8],
        pieces: impl Iterator<Item = Piece> + Clone,
        tail: usize,
    ) -> Option<Prepared> {
        let head = self.free;
        if self.nr_free == 0 || self.is_broken || header.len() > MAX_HEADER || tail > MAX_TAIL {
            return None;
        }
        let page = self.slot_page(head)?;
        let at = |offset: usize, len: usize, is_written| {
            let piece = Piece { paddr: PhysAddr(page.0 + offset as u64), len: len as u32, is_written };
            Some(piece).filter(|_| len > 0)
        };
        let chain = Joined {
            pieces: at(HEADER_AT, header.len(), false)
                .into_iter()
                .chain(pieces)
                .chain(at(TAIL_AT, tail, true)),
            held: None,
        };
        let len = chain.clone().count();
        let needs = if self.is_indirect() { 1 } else { len };
        if len == 0 || len > MAX_DESCRIPTORS || needs > usize::from(self.nr_free) {
            return None;
        }
        let slot = &mut self.slots[usize::from(head)];
        if let Some(page) = &slot.page {
            page.write(HEADER_AT, header);
            page.write(TAIL_AT, &[0xff; MAX_TAIL][..tail]);
        }
        slot.tail = tail;
        if self.is_indirect() {
            self.write_indirect(head, page, chain, len);
        } else {
            self.write_direct(head, chain, len);
        }
        Some(Prepared { head })
    }

    /// The second half: makes the request available.
    pub fn publish(&mut self, prepared: Prepared, token: T) {
        let head = prepared.head;
        self.slots[usize::from(head)].token = Some(token);
        let entry = self.layout.available_entry(self.available_idx);
        self.memory.write_u16(entry, head);
        self.available_idx = self.available_idx.wrapping_add(1);
        // The store comes after the entry and the descriptors (`Buffer` releases).
        self.memory.write_u16(self.layout.available() + 2, self.available_idx);
    }

    /// The page of slot `head`, made when it is missing.
    fn slot_page(&mut self, head: u16) -> Option<PhysAddr> {
        let slot = self.slots.get_mut(usize::from(head))?;
        if slot.page.is_none() {
            slot.page = Some(Buffer::alloc(PAGE_SIZE)?);
        }
        slot.page.as_ref().map(Buffer::paddr)
    }

    fn write_indirect(&mut self, head: u16, page: PhysAddr, chain: impl Iterator<Item = Piece>, len: usize) {
        if let Some(table) = &self.slots[usize::from(head)].page {
            for (idx, piece) in chain.enumerate() {
                write_descriptor(table, idx, &piece, flags_of(&piece, idx + 1 < len), idx as u16 + 1);
            }
        }
        let table = Piece { paddr: page, len: (len * DESCRIPTOR) as u32, is_written: false };
        write_descriptor(&self.memory, head.into(), &table, ring::INDIRECT, 0);
        self.free = core::mem::replace(&mut self.next[usize::from(head)], self.size);
        self.nr_free -= 1;
    }

    fn write_direct(&mut self, head: u16, chain: impl Iterator<Item = Piece>, len: usize) {
        let mut at = head;
        for (idx, piece) in chain.enumerate() {
            let next = self.next[usize::from(at)];
            write_descriptor(&self.memory, at.into(), &piece, flags_of(&piece, idx + 1 < len), next);
            self.nr_free -= 1;
            self.free = next;
            if idx + 1 == len {
                // The chain's end, so that it can be given back.
                self.next[usize::from(at)] = self.size;
            }
            at = next;
        }
    }

    /// Must the device be told about what was added since it was told last? If so, notify it.
    pub fn should_notify(&mut self) -> bool {
        let (old, new) = (self.told_idx, self.available_idx);
        if old == new {
            return false;
        }
        self.told_idx = new;
        // (A) Our index comes before their wish; pairs with the device's order of wish and index.
        dma::barrier();
        if self.features.contains(Features::EVENT_IDX) {
            ring::passed(self.memory.read_u16(self.layout.avail_event()), new, old)
        } else {
            self.memory.read_u16(self.layout.used()) & ring::NO_NOTIFY == 0
        }
    }

    /// Takes a request that the device is done with.
    pub fn pop(&mut self) -> Option<Done<T>> {
        if self.is_broken || self.memory.read_u16(self.layout.used() + 2) == self.used_idx {
            return None;
        }
        let entry = self.layout.used_entry(self.used_idx);
        let (id, written) = (self.memory.read_u32(entry), self.memory.read_u32(entry + 4));
        self.used_idx = self.used_idx.wrapping_add(1);
        let token = self.slots.get_mut(id as usize).and_then(|slot| slot.token.take());
        let Some(token) = token else {
            // A slot that is not under way: nothing that it says can be believed.
            self.is_broken = true;
            return None;
        };
        let head = id as u16;
        let slot = &self.slots[usize::from(head)];
        let mut tail = [0; MAX_TAIL];
        if let (Some(page), true) = (&slot.page, slot.tail > 0) {
            page.read(TAIL_AT, &mut tail[..slot.tail]);
        }
        self.give_back(head);
        Some(Done { token, written, tail })
    }

    fn give_back(&mut self, head: u16) {
        let mut last = head;
        self.nr_free += 1;
        while self.next[usize::from(last)] != self.size {
            last = self.next[usize::from(last)];
            self.nr_free += 1;
        }
        self.next[usize::from(last)] = self.free;
        self.free = head;
    }

    /// Asks for an interrupt at the next used entry. `true`: there is one already.
    pub fn enable_interrupt(&mut self) -> bool {
        if self.features.contains(Features::EVENT_IDX) {
            self.memory.write_u16(self.layout.used_event(), self.used_idx);
        } else {
            self.memory.write_u16(self.layout.available(), 0);
        }
        // (B) Our wish comes before their index.
        dma::barrier();
        !self.is_broken && self.memory.read_u16(self.layout.used() + 2) != self.used_idx
    }

    /// Asks for no interrupts for now.
    pub fn disable_interrupt(&mut self) {
        if !self.features.contains(Features::EVENT_IDX) {
            self.memory.write_u16(self.layout.available(), ring::NO_INTERRUPT);
        }
    }

    /// The tokens of requests that are under way.
    pub fn tokens(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.token.as_ref())
    }

    /// Takes the requests that are under way out, after the device was reset.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.is_broken = true;
        self.slots.iter_mut().filter_map(|slot| slot.token.take())
    }
}

/// Pieces with adjacent ones joined.
#[derive(Clone)]
struct Joined<I> {
    pieces: I,
    held: Option<Piece>,
}

impl<I: Iterator<Item = Piece>> Iterator for Joined<I> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let mut piece = self.held.take().or_else(|| self.pieces.next())?;
        for next in self.pieces.by_ref() {
            let is_adjacent = piece.is_written == next.is_written
                && piece.paddr.0 + u64::from(piece.len) == next.paddr.0
                && piece.len.checked_add(next.len).is_some();
            if !is_adjacent {
                self.held = Some(next);
                break;
            }
            piece.len += next.len;
        }
        Some(piece)
    }
}

fn flags_of(piece: &Piece, has_next: bool) -> u16 {
    let next = if has_next { ring::NEXT } else { 0 };
    next | if piece.is_written { ring::WRITE } else { 0 }
}

fn write_descriptor(table: &Buffer, idx: usize, piece: &Piece, flags: u16, next: u16) {
    let at = idx * DESCRIPTOR;
    table.write_u64(at, piece.paddr.0);
    table.write_u64(at + 8, u64::from(piece.len) | u64::from(flags) << 32 | u64::from(next) << 48);
}

#[cfg(test)]
mod tests;
