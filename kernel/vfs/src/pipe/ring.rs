//! The bytes of a pipe: a ring on the heap that grows with its content, behind pages that splice(2) put in.
//!
//! Linux keeps a pipe's bytes in up to 16 slots of a page each (unless fcntl(2) `F_SETPIPE_SZ` says otherwise), and
//! programs see them: a write goes on in the last slot only if what exceeds whole pages fits there, and a pipe is full
//! until a slot is read to its end. The ring counts such slots, but a pipe that carries little costs little: it starts
//! with [`FIRST`] bytes and doubles when they are full. Pages of files are queued by reference as long as the ring is
//! empty; what comes after bytes is copied.
//!
//! ```text
//! slots   [ 100..4096 ][ 0..4096 ][ 0..50 ]      a write of 4146 bytes: 50 go on in the last slot, 4096 get a new one
//! store    ..bbbbbbbbbbbbbbbbbbbbbbbbbbbb..      the bytes of all slots, back to back
//! ```
//!
//! # Invariants
//!
//! - R1: `len - paged <= store.len() <= capacity`; `store.len()` is a power of two or 0.
//! - R2: the lengths of `slots`, none of them 0, add up to `len`; there are at most `capacity / PAGE_SIZE`.
//! - R3: the lengths of `pages`, none of them 0, add up to `paged`; they come before what is in `store`, and each has
//!   a slot of its own.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::uio::{Dest, Src};
use mm::PagePart;

/// Bytes of a ring when the first byte is written.
const FIRST: usize = 1024;

/// What a slot holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Bytes of a stream: a later write may go on in it.
    Stream,
    /// One write in packet mode (`O_DIRECT`, pipe(2)).
    Packet,
    /// A part of a page that was queued by reference.
    Page,
}

/// A page's worth of the pipe.
struct Slot {
    /// Bytes of it that were read.
    offset: u16,
    /// Bytes of it that were not.
    len: u16,
    kind: Kind,
}

/// How a piece of a write comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It is the first of its write.
    Start,
    /// Others of the same write went before.
    Continued,
    /// It is one packet.
    Packet,
}

/// See the module's front page.
pub(super) struct Ring {
    store: Vec<u8>,
    head: usize,
    /// All bytes, those in `pages` included.
    len: usize,
    capacity: usize,
    slots: VecDeque<Slot>,
    /// How many of `slots` are packets.
    nr_packets: usize,
    pages: VecDeque<PagePart>,
    /// Bytes in `pages`.
    paged: usize,
}

impl Ring {
    pub(super) const fn new(capacity: usize) -> Self {
        Self {
            store: Vec::new(),
            head: 0,
            len: 0,
            capacity,
            slots: VecDeque::new(),
            nr_packets: 0,
            pages: VecDeque::new(),
            paged: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many bytes the free slots hold. What goes on in the last slot may fit beyond that.
    pub(super) fn free(&self) -> usize {
        self.capacity.saturating_sub(self.slots.len() * PAGE_SIZE)
    }

    /// Changes the capacity, a power of two of pages. `EBUSY`: the slots in use are more.
    pub(super) fn set_capacity(&mut self, capacity: usize) -> Result<()> {
        if self.slots.len() > capacity / PAGE_SIZE {
            return Err(Errno::EBUSY);
        }
        if self.store.len() > capacity {
            self.resize(capacity)?;
        }
        self.capacity = capacity;
        Ok(())
    }

    /// Moves the content into a store of `size` bytes.
    fn resize(&mut self, size: usize) -> Result<()> {
        let mut store = Vec::new();
        store.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
        let (first, second) = self.used();
        store.extend_from_slice(first);
        store.extend_from_slice(second);
        store.resize(size, 0);
        (self.store, self.head) = (store, 0);
        Ok(())
    }

    /// Bytes in `store`.
    fn stored(&self) -> usize {
        self.len - self.paged
    }

    fn used(&self) -> (&[u8], &[u8]) {
        let end = self.head + self.stored();
        if end <= self.store.len() {
            (&self.store[self.head..end], &[])
        } else {
            (&self.store[self.head..], &self.store[..end - self.store.len()])
        }
    }

    /// Grows towards room for `more` bytes. Without memory for that, less room remains; none is an error.
    fn make_room(&mut self, more: usize) -> Result<()> {
        let need = self.stored().saturating_add(more).min(self.capacity);
        if need <= self.store.len() {
            return Ok(());
        }
        let size = need.next_power_of_two().max(FIRST).min(self.capacity);
        match self.resize(size) {
            Err(_) if self.store.len() > self.stored() => Ok(()),
            result => result,
        }
    }

    /// How many of `len` bytes, the start of a write, go on in the last slot: what exceeds whole pages, if it fits.
    fn mergeable(&self, len: usize) -> usize {
        let odd = len % PAGE_SIZE;
        match self.slots.back() {
            Some(Slot { offset, len, kind: Kind::Stream })
                if usize::from(*offset) + usize::from(*len) + odd <= PAGE_SIZE =>
            {
                odd
            }
            _ => 0,
        }
    }

    /// Copies in as much of `src` as fits, a packet's worth at most in packet mode; gives the number of bytes.
    ///
    /// `EFAULT` if not one byte could be read.
    pub(super) fn write(&mut self, src: &mut Src<'_>, mode: Mode) -> Result<usize> {
        let (merged, max) = match mode {
            Mode::Start => (self.mergeable(src.remaining()), usize::MAX),
            Mode::Continued => (0, usize::MAX),
            Mode::Packet => (0, PAGE_SIZE),
        };
        let want = src.remaining().min(max).min(merged + self.free());
        if want == 0 {
            return Ok(0);
        }
        self.make_room(want)?;
        self.slots.try_reserve(want.div_ceil(PAGE_SIZE)).map_err(|_| Errno::ENOMEM)?;
        let size = self.store.len();
        let want = want.min(size - self.stored());
        let start = (self.head + self.stored()) & (size - 1);
        let first = want.min(size - start);
        let mut done = src.take_bytes(&mut self.store[start..start + first])?;
        if done == first && first < want {
            // The first part is in; a fault in the second only shortens the write.
            done += src.take_bytes(&mut self.store[..want - first]).unwrap_or(0);
        }
        self.record(done, merged, if mode == Mode::Packet { Kind::Packet } else { Kind::Stream });
        Ok(done)
    }

    /// Queues parts of pages by reference, as many as there are free slots; gives the number of bytes.
    /// 0 when what is queued already wants them to be copied.
    pub(super) fn put_pages(&mut self, parts: impl IntoIterator<Item = PagePart>) -> Result<usize> {
        if self.stored() > 0 {
            return Ok(0);
        }
        let mut done = 0;
        for part in parts {
            if part.len == 0 || self.free() == 0 {
                break;
            }
            if self.pages.try_reserve(1).is_err() || self.slots.try_reserve(1).is_err() {
                return if done > 0 { Ok(done) } else { Err(Errno::ENOMEM) };
            }
            done += part.len;
            self.len += part.len;
            self.paged += part.len;
            self.slots.push_back(Slot { offset: 0, len: part.len as u16, kind: Kind::Page });
            self.pages.push_back(part);
        }
        Ok(done)
    }

    /// Notes `done` written bytes, of which up to `merged` belong to the last slot. The caller has reserved slots.
    fn record(&mut self, done: usize, merged: usize, kind: Kind) {
        self.len += done;
        let merged = merged.min(done);
        if let Some(last) = self.slots.back_mut().filter(|_| merged > 0) {
            last.len += merged as u16;
        }
        let mut left = done - merged;
        while left > 0 {
            let len = left.min(PAGE_SIZE);
            self.slots.push_back(Slot { offset: 0, len: len as u16, kind });
            self.nr_packets += usize::from(kind == Kind::Packet);
            left -= len;
        }
    }

    /// How many bytes one read may take, and whether they are a packet, whose rest is lost.
    fn readable(&self) -> (usize, bool) {
        if self.nr_packets == 0 {
            return (self.len, false);
        }
        match self.slots.front() {
            Some(front) if front.kind == Kind::Packet => (usize::from(front.len), true),
            _ => {
                let stream = self.slots.iter().take_while(|slot| slot.kind != Kind::Packet);
                (stream.map(|slot| usize::from(slot.len)).sum(), false)
            }
        }
    }

    /// Copies bytes out to `dst` and drops them; at most one packet, whose rest is lost.
    ///
    /// `EFAULT` if not one byte could be written; nothing is lost then.
    pub(super) fn read(&mut self, dst: &mut Dest<'_>) -> Result<usize> {
        let (limit, is_packet) = self.readable();
        let want = dst.remaining().min(limit);
        if want == 0 {
            return Ok(0);
        }
        let done = self.copy_out(dst, want)?;
        self.drop_front(if is_packet { limit } else { done });
        Ok(done)
    }

    /// Copies up to `max` bytes of the front out without dropping them.
    #[inline]
    pub(super) fn peek(&self, out: &mut [u8]) -> usize {
        let want = self.len.min(out.len());
        self.copy_out(&mut Dest::kernel(out), want).unwrap_or(0)
    }

    /// Copies the first `want` bytes, or as many as there are, to `dst`. An error only if not one could be written.
    fn copy_out(&self, dst: &mut Dest<'_>, want: usize) -> Result<usize> {
        let mut done = 0;
        for part in &self.pages {
            let len = part.len.min(want - done);
            match dst.put_frame(&part.frame, part.offset, len) {
                Ok(copied) if copied == len => done += copied,
                Ok(copied) => return Ok(done + copied),
                Err(_) if done > 0 => return Ok(done),
                Err(fault) => return Err(fault.into()),
            }
            if done == want {
                return Ok(done);
            }
        }
        let (first, second) = self.used();
        for piece in [first, second] {
            let len = piece.len().min(want - done);
            if len == 0 {
                continue;
            }
            match dst.put_bytes(&piece[..len]) {
                Ok(copied) if copied == len => done += copied,
                Ok(copied) => return Ok(done + copied),
                Err(_) if done > 0 => return Ok(done),
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(done)
    }

    /// Drops up to `count` bytes of queued pages; how many there were.
    fn drop_pages(&mut self, count: usize) -> usize {
        let wanted = count.min(self.paged);
        let mut left = wanted;
        while let Some(front) = self.pages.front_mut().filter(|_| left > 0) {
            let step = front.len.min(left);
            front.offset += step;
            front.len -= step;
            left -= step;
            if front.len == 0 {
                self.pages.pop_front();
            }
        }
        self.paged -= wanted;
        wanted
    }

    /// Drops `count` (at most `len`) bytes of the front.
    pub(super) fn drop_front(&mut self, count: usize) {
        let from_store = if self.paged > 0 { count - self.drop_pages(count) } else { count };
        self.len -= count;
        self.head = if self.stored() == 0 { 0 } else { (self.head + from_store) & (self.store.len() - 1) };
        let mut left = count;
        while let Some(front) = self.slots.front_mut().filter(|_| left > 0) {
            let step = usize::from(front.len).min(left);
            front.offset += step as u16;
            front.len -= step as u16;
            left -= step;
            if front.len == 0 {
                self.nr_packets -= usize::from(front.kind == Kind::Packet);
                self.slots.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn put(ring: &mut Ring, bytes: &[u8], is_packet: bool) -> usize {
        let mode = if is_packet { Mode::Packet } else { Mode::Start };
        ring.write(&mut Src::kernel(bytes), mode).unwrap()
    }

    fn get(ring: &mut Ring, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        let done = ring.read(&mut Dest::kernel(&mut out)).unwrap();
        out.truncate(done);
        out
    }

    #[test]
    fn bytes_come_out_in_order_whatever_the_pieces() {
        let mut ring = Ring::new(16 * PAGE_SIZE);
        let mut model = VecDeque::new();
        let mut seed = 7u32;
        let mut next = 0u8;
        for _ in 0..5000 {
            seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            let len = (seed >> 16) as usize % 3000;
            if seed & 0x8000 == 0 {
                let bytes: Vec<u8> = (0..len).map(|i| next.wrapping_add(i as u8)).collect();
                let done = put(&mut ring, &bytes, false);
                let slots = ring.slots.len();
                assert!(done == len || slots == 16, "{done} of {len} with {slots} slots");
                model.extend(&bytes[..done]);
                next = next.wrapping_add(done as u8);
            } else {
                let out = get(&mut ring, len);
                let want: Vec<u8> = model.drain(..len.min(model.len())).collect();
                assert_eq!(out, want);
            }
            assert_eq!(ring.len(), model.len());
        }
    }

    #[test]
    fn a_packet_is_read_alone_and_its_rest_is_lost() {
        let mut ring = Ring::new(65536);
        put(&mut ring, b"stream", false);
        put(&mut ring, b"packet one", true);
        put(&mut ring, b"packet two", true);
        put(&mut ring, b"more", false);
        assert_eq!(get(&mut ring, 100), b"stream");
        assert_eq!(get(&mut ring, 6), b"packet");
        assert_eq!(get(&mut ring, 100), b"packet two");
        assert_eq!(get(&mut ring, 2), b"mo");
        assert_eq!(get(&mut ring, 100), b"re");
        assert_eq!(ring.len(), 0);
    }

    #[test]
    fn pages_are_queued_before_bytes_and_never_behind_them() {
        let mut ring = Ring::new(65536);
        let frame = hal::frame::Frame::alloc_zeroed().unwrap();
        frame.write(0, &[7; PAGE_SIZE]);
        let part = |offset, len| PagePart { frame: frame.clone(), offset, len };
        assert_eq!(ring.put_pages([part(0, 4096), part(10, 20)]), Ok(4116));
        assert_eq!(put(&mut ring, b"bytes", false), 5);
        assert_eq!(ring.put_pages([part(0, 1)]), Ok(0));
        assert_eq!(ring.slots.len(), 3);
        assert_eq!(ring.len(), 4121);
        let mut seen = [0; 4121];
        assert_eq!(ring.peek(&mut seen), 4121);
        assert_eq!((&seen[4100..4116], &seen[4116..]), (&[7; 16][..], &b"bytes"[..]));
        assert_eq!(get(&mut ring, 4100), vec![7; 4100]);
        assert_eq!(get(&mut ring, 4100), seen[4100..]);
        assert_eq!((ring.len(), frame.ref_count()), (0, 1));
        assert_eq!(ring.put_pages((0..20).map(|_| part(0, 4095))), Ok(16 * 4095));
        assert_eq!(ring.free(), 0);
    }

    #[test]
    fn packets_use_up_slots() {
        let mut ring = Ring::new(16 * PAGE_SIZE);
        for _ in 0..16 {
            assert_eq!(put(&mut ring, b"x", true), 1);
        }
        assert_eq!(put(&mut ring, b"x", true), 0);
    }

    #[test]
    fn a_full_pipe_stays_full_until_a_slot_is_read() {
        let mut ring = Ring::new(16 * PAGE_SIZE);
        for _ in 0..16 {
            assert_eq!(put(&mut ring, &[1; PAGE_SIZE], false), PAGE_SIZE);
        }
        assert_eq!((put(&mut ring, b"x", false), ring.free()), (0, 0));
        get(&mut ring, PAGE_SIZE - 1);
        assert_eq!((put(&mut ring, b"x", false), ring.free()), (0, 0));
        get(&mut ring, 1);
        assert_eq!((put(&mut ring, b"x", false), ring.free()), (1, 0));
        assert_eq!(put(&mut ring, b"yz", false), 2, "the last slot has room");
    }

    #[test]
    fn a_write_goes_on_in_the_last_slot_if_its_odd_part_fits() {
        let mut ring = Ring::new(16 * PAGE_SIZE);
        put(&mut ring, &[1; 100], false);
        put(&mut ring, &[2; PAGE_SIZE + 50], false);
        assert_eq!(ring.slots.iter().map(|slot| slot.len).collect::<Vec<_>>(), [150, 4096]);
        put(&mut ring, &[3; 10], false);
        get(&mut ring, 150);
        put(&mut ring, &[4; 4087], false);
        assert_eq!(ring.slots.iter().map(|slot| slot.len).collect::<Vec<_>>(), [4096, 10, 4087]);
        assert_eq!(ring.write(&mut Src::kernel(&[5; 3]), Mode::Continued), Ok(3));
        assert_eq!((ring.slots.len(), ring.len()), (4, 4096 + 10 + 4087 + 3));
    }

    #[test]
    fn capacity_changes_keep_the_content() {
        let mut ring = Ring::new(65536);
        put(&mut ring, &[1; 5000], false);
        assert_eq!(ring.set_capacity(4096), Err(Errno::EBUSY));
        get(&mut ring, 4096);
        ring.set_capacity(4096).unwrap();
        assert_eq!(ring.free(), 0);
        assert_eq!(get(&mut ring, 5000), vec![1; 904]);
    }
}
