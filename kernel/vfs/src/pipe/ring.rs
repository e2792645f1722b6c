//! The bytes of a pipe: a ring on the heap that grows with its content, behind pages that splice(2) put in.
//!
//! Linux keeps a pipe's bytes in up to 16 pages. The ring gives the same capacity (16 pages unless fcntl(2)
//! `F_SETPIPE_SZ` says otherwise), but a pipe that carries little costs little: it starts with [`FIRST`] bytes and
//! doubles when they are full. Pages of files are queued by reference as long as the ring is empty; what comes after
//! bytes is copied. In packet mode (`O_DIRECT`, pipe(2)) the boundaries of writes are kept beside it.
//!
//! # Invariants
//!
//! - R1: `len - paged <= store.len() <= capacity`; `store.len()` is a power of two or 0.
//! - R2: if `packets` is not empty, its lengths add up to `len`.
//! - R3: the lengths of `pages`, none of them 0, add up to `paged`; they come before what is in `store`.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::uio::{Dest, Src};
use mm::PagePart;

/// Bytes of a ring when the first byte is written.
const FIRST: usize = 1024;

/// One write in packet mode, or any number of ordinary writes between two such.
struct Packet {
    len: usize,
    is_packet: bool,
}

/// See the module's front page.
pub(super) struct Ring {
    store: Vec<u8>,
    head: usize,
    /// All bytes, those in `pages` included.
    len: usize,
    capacity: usize,
    packets: VecDeque<Packet>,
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
            packets: VecDeque::new(),
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

    /// How many more bytes fit; in packet mode a free slot (of a page) is needed as well.
    pub(super) fn free(&self) -> usize {
        if self.packets.len() >= self.capacity / PAGE_SIZE { 0 } else { self.capacity - self.len }
    }

    /// Changes the capacity, a power of two of pages. `EBUSY`: the content does not fit.
    pub(super) fn set_capacity(&mut self, capacity: usize) -> Result<()> {
        if self.len > capacity || self.packets.len() > capacity / PAGE_SIZE {
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

    /// Copies in as much of `src`, at most `max` bytes, as fits; gives the number of bytes.
    ///
    /// `EFAULT` if not one byte could be read.
    pub(super) fn write(&mut self, src: &mut Src<'_>, max: usize, is_packet: bool) -> Result<usize> {
        let want = src.remaining().min(max).min(self.free());
        if want == 0 {
            return Ok(0);
        }
        self.make_room(want)?;
        if is_packet || !self.packets.is_empty() {
            self.packets.try_reserve(2).map_err(|_| Errno::ENOMEM)?;
        }
        let size = self.store.len();
        let want = want.min(size - self.stored());
        let start = (self.head + self.stored()) & (size - 1);
        let first = want.min(size - start);
        let mut done = src.take_bytes(&mut self.store[start..start + first])?;
        if done == first && first < want {
            // The first part is in; a fault in the second only shortens the write.
            done += src.take_bytes(&mut self.store[..want - first]).unwrap_or(0);
        }
        self.record(done, is_packet);
        self.len += done;
        Ok(done)
    }

    /// Queues parts of pages by reference, as many as fit and the last perhaps in part; gives the number of bytes.
    /// 0 when what is queued already wants them to be copied.
    pub(super) fn put_pages(&mut self, parts: impl IntoIterator<Item = PagePart>) -> Result<usize> {
        if self.stored() > 0 || !self.packets.is_empty() {
            return Ok(0);
        }
        let slots = self.capacity / PAGE_SIZE;
        let mut done = 0;
        for mut part in parts {
            part.len = part.len.min(self.free());
            if part.len == 0 || self.pages.len() >= slots {
                break;
            }
            if self.pages.try_reserve(1).is_err() {
                return if done > 0 { Ok(done) } else { Err(Errno::ENOMEM) };
            }
            done += part.len;
            self.len += part.len;
            self.paged += part.len;
            self.pages.push_back(part);
        }
        Ok(done)
    }

    /// Notes the boundaries of a write. The caller has reserved room for two more packets.
    fn record(&mut self, done: usize, is_packet: bool) {
        if !is_packet && self.packets.is_empty() {
            return;
        }
        if self.packets.is_empty() && self.len > 0 {
            self.packets.push_back(Packet { len: self.len, is_packet: false });
        }
        match self.packets.back_mut() {
            Some(last) if !is_packet && !last.is_packet => last.len += done,
            _ => self.packets.push_back(Packet { len: done, is_packet }),
        }
    }

    /// Copies bytes out to `dst` and drops them; at most one packet, whose rest is lost.
    ///
    /// `EFAULT` if not one byte could be written; nothing is lost then.
    pub(super) fn read(&mut self, dst: &mut Dest<'_>) -> Result<usize> {
        let (limit, is_packet) = self.packets.front().map_or((self.len, false), |p| (p.len, p.is_packet));
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
        while let Some(front) = self.packets.front_mut() {
            if front.len > left {
                front.len -= left;
                break;
            }
            left -= front.len;
            self.packets.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn put(ring: &mut Ring, bytes: &[u8], is_packet: bool) -> usize {
        ring.write(&mut Src::kernel(bytes), usize::MAX, is_packet).unwrap()
    }

    fn get(ring: &mut Ring, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        let done = ring.read(&mut Dest::kernel(&mut out)).unwrap();
        out.truncate(done);
        out
    }

    #[test]
    fn bytes_come_out_in_order_whatever_the_pieces() {
        let mut ring = Ring::new(4096);
        let mut model = VecDeque::new();
        let mut seed = 7u32;
        let mut next = 0u8;
        for _ in 0..5000 {
            seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            let len = (seed >> 16) as usize % 3000;
            if seed & 0x8000 == 0 {
                let bytes: Vec<u8> = (0..len).map(|i| next.wrapping_add(i as u8)).collect();
                let done = put(&mut ring, &bytes, false);
                assert_eq!(done, len.min(4096 - model.len()));
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
        assert_eq!(ring.len(), 4121);
        let mut seen = [0; 4121];
        assert_eq!(ring.peek(&mut seen), 4121);
        assert_eq!((&seen[4100..4116], &seen[4116..]), (&[7; 16][..], &b"bytes"[..]));
        assert_eq!(get(&mut ring, 4100), vec![7; 4100]);
        assert_eq!(get(&mut ring, 4100), seen[4100..]);
        assert_eq!((ring.len(), frame.ref_count()), (0, 1));
        assert_eq!(ring.put_pages((0..20).map(|_| part(0, 4095))), Ok(16 * 4095));
        assert_eq!(ring.free(), 16);
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
    fn capacity_changes_keep_the_content() {
        let mut ring = Ring::new(65536);
        put(&mut ring, &[1; 5000], false);
        assert_eq!(ring.set_capacity(4096), Err(Errno::EBUSY));
        get(&mut ring, 1000);
        ring.set_capacity(4096).unwrap();
        assert_eq!(ring.free(), 96);
        assert_eq!(get(&mut ring, 5000), vec![1; 4000]);
    }
}
