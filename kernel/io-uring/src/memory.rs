//! The memory that a ring shares with its process.
//!
//! ```text
//! mapped at OFF_SQ_RING and at OFF_CQ_RING                         mapped at OFF_SQES
//! | header (64 bytes) | completions | array of request numbers |    | requests |
//!   SQ: head, tail, mask, entries, flags, dropped
//!   CQ: head, tail, mask, entries, overflow, flags
//! ```
//! The process may write all of it at any time. The kernel reads a field once, keeps its own copy of what it moves (the
//! head of submissions, the tail of completions), and masks every index.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::{Ordering, fence};

use abi::io_uring::{CqOffsets, Cqe, OFF_CQ_RING, OFF_MMAP_MASK, OFF_SQ_RING, OFF_SQES, SqOffsets, Sqe};
use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::frame::Frame;
use mm::{Backing, FaultError, Mappable, Mapping};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What lies before the completions.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    sq_head: u32,
    sq_tail: u32,
    cq_head: u32,
    cq_tail: u32,
    sq_mask: u32,
    cq_mask: u32,
    sq_entries: u32,
    cq_entries: u32,
    sq_dropped: u32,
    sq_flags: u32,
    cq_flags: u32,
    cq_overflow: u32,
    pad: [u32; 4],
}

const HEADER: usize = size_of::<Header>();
const _: () = assert!(HEADER == 64);

/// Sizes of a ring. The entries are powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub sq_entries: u32,
    pub cq_entries: u32,
    /// Bytes of a request and of a completion.
    pub sqe_size: usize,
    pub cqe_size: usize,
    /// Requests are taken by the numbers in an array, not in their own order.
    pub has_array: bool,
}

impl Shape {
    fn array_at(&self) -> usize {
        HEADER + self.cq_entries as usize * self.cqe_size
    }

    fn ring_bytes(&self) -> usize {
        self.array_at() + if self.has_array { self.sq_entries as usize * size_of::<u32>() } else { 0 }
    }

    /// Pages of the rings and of the requests.
    pub fn pages(&self) -> (usize, usize) {
        let sqes = self.sq_entries as usize * self.sqe_size;
        (self.ring_bytes().div_ceil(PAGE_SIZE), sqes.div_ceil(PAGE_SIZE))
    }

    pub fn sq_offsets(&self) -> SqOffsets {
        SqOffsets {
            head: offset_of!(Header, sq_head) as u32,
            tail: offset_of!(Header, sq_tail) as u32,
            ring_mask: offset_of!(Header, sq_mask) as u32,
            ring_entries: offset_of!(Header, sq_entries) as u32,
            flags: offset_of!(Header, sq_flags) as u32,
            dropped: offset_of!(Header, sq_dropped) as u32,
            array: if self.has_array { self.array_at() as u32 } else { 0 },
            ..SqOffsets::default()
        }
    }

    pub fn cq_offsets(&self) -> CqOffsets {
        CqOffsets {
            head: offset_of!(Header, cq_head) as u32,
            tail: offset_of!(Header, cq_tail) as u32,
            ring_mask: offset_of!(Header, cq_mask) as u32,
            ring_entries: offset_of!(Header, cq_entries) as u32,
            overflow: offset_of!(Header, cq_overflow) as u32,
            cqes: HEADER as u32,
            flags: offset_of!(Header, cq_flags) as u32,
            ..CqOffsets::default()
        }
    }
}

/// The pages of a ring.
pub(crate) struct Memory {
    rings: Vec<Frame>,
    sqes: Vec<Frame>,
    shape: Shape,
}

fn zeroed(nr: usize) -> Result<Vec<Frame>> {
    let mut frames = Vec::new();
    frames.try_reserve_exact(nr).map_err(|_| Errno::ENOMEM)?;
    for _ in 0..nr {
        frames.push(Frame::alloc_zeroed().ok_or(Errno::ENOMEM)?);
    }
    Ok(frames)
}

impl Memory {
    /// The memory of an empty ring. `ENOMEM`.
    pub fn new(shape: Shape) -> Result<Self> {
        let (rings, sqes) = shape.pages();
        let memory = Self { rings: zeroed(rings)?, sqes: zeroed(sqes)?, shape };
        let header = Header {
            sq_mask: shape.sq_entries - 1,
            cq_mask: shape.cq_entries - 1,
            sq_entries: shape.sq_entries,
            cq_entries: shape.cq_entries,
            ..Header::default()
        };
        put(&memory.rings, 0, header.as_bytes());
        Ok(memory)
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// One past the last request that the process wants taken.
    pub fn sq_tail(&self) -> u32 {
        let tail = self.load(offset_of!(Header, sq_tail));
        // The requests were written before the tail.
        fence(Ordering::Acquire);
        tail
    }

    /// Says that requests before `head` may be written anew.
    pub fn set_sq_head(&self, head: u32) {
        fence(Ordering::Release);
        self.store(offset_of!(Header, sq_head), head);
    }

    /// The place of the request `at`. `None`: the array has no number of a place.
    #[inline]
    pub fn sqe_place(&self, at: u32) -> Option<u32> {
        let at = at & (self.shape.sq_entries - 1);
        if !self.shape.has_array {
            return Some(at);
        }
        let place = self.load(self.shape.array_at() + at as usize * size_of::<u32>());
        (place < self.shape.sq_entries).then_some(place)
    }

    /// Copies the request in `place`.
    #[inline]
    pub fn read_sqe(&self, place: u32, sqe: &mut Sqe) {
        get(&self.sqes, place as usize * self.shape.sqe_size, sqe.as_mut_bytes());
    }

    /// Counts a request that could not be found.
    pub fn count_dropped(&self) {
        let at = offset_of!(Header, sq_dropped);
        self.store(at, self.load(at).wrapping_add(1));
    }

    /// Shows the flags of the submission ring.
    pub fn set_sq_flags(&self, flags: u32) {
        self.store(offset_of!(Header, sq_flags), flags);
    }

    /// The flags of the completion ring, which the process sets.
    pub fn cq_flags(&self) -> u32 {
        self.load(offset_of!(Header, cq_flags))
    }

    /// The first completion that the process has not taken, as it says.
    #[inline]
    pub fn cq_head(&self) -> u32 {
        let head = self.load(offset_of!(Header, cq_head));
        // Places before it may be written only now.
        fence(Ordering::Acquire);
        head
    }

    /// Writes a completion to the place of `at`; the second half of a large one is zero.
    #[inline]
    pub fn put_cqe(&self, at: u32, cqe: &Cqe) {
        let offset = HEADER + (at & (self.shape.cq_entries - 1)) as usize * self.shape.cqe_size;
        put(&self.rings, offset, cqe.as_bytes());
        if self.shape.cqe_size > size_of::<Cqe>() {
            put(&self.rings, offset + size_of::<Cqe>(), &[0; size_of::<Cqe>()]);
        }
    }

    /// Shows all completions before `tail`.
    #[inline]
    pub fn set_cq_tail(&self, tail: u32) {
        fence(Ordering::Release);
        self.store(offset_of!(Header, cq_tail), tail);
    }

    /// Counts a completion that was lost.
    pub fn count_overflow(&self) {
        let at = offset_of!(Header, cq_overflow);
        self.store(at, self.load(at).wrapping_add(1));
    }

    #[inline]
    fn load(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        get(&self.rings, offset, &mut bytes);
        u32::from_ne_bytes(bytes)
    }

    #[inline]
    fn store(&self, offset: usize, value: u32) {
        put(&self.rings, offset, &value.to_ne_bytes());
    }

    /// The page at `offset` of a mapping.
    fn page(&self, offset: u64) -> Option<&Frame> {
        let idx = ((offset & !OFF_MMAP_MASK) / PAGE_SIZE as u64) as usize;
        self.area(offset)?.get(idx)
    }

    fn area(&self, offset: u64) -> Option<&[Frame]> {
        match offset & OFF_MMAP_MASK {
            OFF_SQ_RING | OFF_CQ_RING => Some(&self.rings),
            OFF_SQES => Some(&self.sqes),
            _ => None,
        }
    }
}

/// Nothing that is put or got crosses a page: all are of a size that divides their offset.
#[inline]
fn put(frames: &[Frame], offset: usize, bytes: &[u8]) {
    if let Some(frame) = frames.get(offset / PAGE_SIZE) {
        frame.write(offset % PAGE_SIZE, bytes);
    }
}

#[inline]
fn get(frames: &[Frame], offset: usize, bytes: &mut [u8]) {
    if let Some(frame) = frames.get(offset / PAGE_SIZE) {
        frame.read(offset % PAGE_SIZE, bytes);
    }
}

/// What a process maps of a ring; it stays as long as the mapping, whatever becomes of the ring.
pub(crate) struct RingMapping(pub Arc<Memory>);

impl Mappable for RingMapping {
    fn mapping(&self) -> Option<&Arc<Mapping>> {
        None
    }

    fn name(&self) -> Vec<u8> {
        b"anon_inode:[io_uring]".to_vec()
    }

    fn fault(&self, offset: u64, _write: bool) -> core::result::Result<Frame, FaultError> {
        self.0.page(offset).cloned().ok_or(FaultError::Bus)
    }
}

/// What mmap(2) at `offset` shows; what lies beyond its end is SIGBUS. `EINVAL`: nothing lies there.
pub(crate) fn backing(memory: &Arc<Memory>, offset: u64) -> Result<Backing> {
    memory.area(offset).ok_or(Errno::EINVAL)?;
    Ok(Backing::file(Arc::new(RingMapping(memory.clone()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape { sq_entries: 8, cq_entries: 512, sqe_size: 64, cqe_size: 16, has_array: true }
    }

    #[test]
    fn the_parts_of_a_ring_follow_each_other() {
        assert_eq!(shape().cq_offsets().cqes, 64);
        assert_eq!(shape().sq_offsets().array, 64 + 512 * 16);
        assert_eq!(shape().pages(), (3, 1));
    }

    #[test]
    fn numbers_beyond_the_requests_are_refused() {
        let memory = Memory::new(shape()).unwrap();
        assert_eq!(memory.sqe_place(3), Some(0));
        put(&memory.rings, shape().array_at() + 3 * 4, &8u32.to_ne_bytes());
        assert_eq!(memory.sqe_place(3 + 8 * 5), None);
        put(&memory.rings, shape().array_at() + 3 * 4, &7u32.to_ne_bytes());
        assert_eq!(memory.sqe_place(3), Some(7));
    }

    #[test]
    fn completions_wrap_around() {
        let memory = Memory::new(shape()).unwrap();
        let cqe = Cqe { user_data: 7, res: -5, flags: 0 };
        memory.put_cqe(512 + 300, &cqe);
        let mut found = Cqe::default();
        get(&memory.rings, 64 + 300 * 16, found.as_mut_bytes());
        assert_eq!(found, cqe);
    }

    #[test]
    fn only_the_three_areas_are_mapped() {
        let memory = Arc::new(Memory::new(shape()).unwrap());
        for offset in [OFF_SQ_RING, OFF_CQ_RING, OFF_SQES] {
            assert!(backing(&memory, offset).is_ok());
        }
        assert!(backing(&memory, 0x1800_0000).is_err());
        assert!(memory.page(OFF_CQ_RING + 2 * 4096).is_some());
        assert!(memory.page(OFF_CQ_RING + 3 * 4096).is_none());
    }
}
