//! The ring of events that a context shares with its process.
//!
//! ```text
//! 0        32       64                     the pages of a memory file, mapped at the context's id
//! | header | event  | event  | ...
//!            head ^   tail ^               events from `head` up to `tail` were not taken yet; one place stays free
//! ```
//!
//! The process may write all of it. The kernel keeps its own `tail` and takes `head` modulo the number of places, so a
//! process that writes nonsense only loses its own events.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use abi::aio::{IoEvent, RING_MAGIC, RingHeader};
use abi::mman::{MapFlags, Prot};
use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::frame::Frame;
use mm::{Backing, FileId, MapRequest, Mappable, Mapping, Mm, Shmem, VmFlags};
use zerocopy::IntoBytes;

const HEADER: usize = size_of::<RingHeader>();
const EVENT: usize = size_of::<IoEvent>();

/// Pages of a ring with at least `places` places, and the places that they have. One page of spare places is never the
/// last event's.
pub(super) fn size_for(places: u32) -> (usize, u32) {
    // Two more, as Linux has them, so that who asks for N can have N in flight.
    let bytes = HEADER + EVENT * (places as usize + 2);
    let pages = bytes.div_ceil(PAGE_SIZE);
    (pages, ((pages * PAGE_SIZE - HEADER) / EVENT) as u32)
}

/// How many events wait between `head`, which may be nonsense, and `tail`, which is below `nr`.
pub(super) fn waiting(head: u32, tail: u32, nr: u32) -> u32 {
    let head = head % nr;
    if tail >= head { tail - head } else { tail + nr - head }
}

/// The ring as the process maps it.
struct RingFile {
    mapping: Arc<Mapping>,
    ino: u64,
}

/// Numbers of rings, for /proc/PID/maps.
static NEXT_INO: AtomicU64 = AtomicU64::new(1);

impl Mappable for RingFile {
    fn mapping(&self) -> Option<&Arc<Mapping>> {
        Some(&self.mapping)
    }

    fn name(&self) -> Vec<u8> {
        b"/[aio] (deleted)".to_vec()
    }

    fn id(&self) -> FileId {
        FileId { major: 0, minor: 1, ino: self.ino }
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

/// The ring as the kernel sees it.
pub(super) struct Ring {
    mapping: Arc<Mapping>,
    /// All pages of the mapping, so that events can be written in any context.
    frames: Vec<Frame>,
    nr: u32,
}

impl Ring {
    /// A ring with at least `places` places. `ENOMEM`. May sleep.
    pub fn new(places: u32) -> Result<Self> {
        let (pages, nr) = size_for(places);
        let mapping = Arc::new(Mapping::new_shmem(Arc::new(Shmem::new(u64::MAX))));
        mapping.set_size((pages * PAGE_SIZE) as u64);
        let mut frames = Vec::new();
        frames.try_reserve_exact(pages).map_err(|_| Errno::ENOMEM)?;
        for idx in 0..pages as u64 {
            frames.push(mapping.get_or_fill(idx).map_err(|_| Errno::ENOMEM)?);
        }
        let ring = Self { mapping, frames, nr };
        let header = RingHeader {
            nr,
            magic: RING_MAGIC,
            compat_features: 1,
            header_length: HEADER as u32,
            ..RingHeader::default()
        };
        ring.put(0, header.as_bytes());
        Ok(ring)
    }

    /// Maps it into `mm` and gives the address. `ENOMEM`. May sleep.
    pub fn map(&self, mm: &Mm) -> Result<u64> {
        let file = RingFile { mapping: self.mapping.clone(), ino: NEXT_INO.fetch_add(1, Ordering::Relaxed) };
        let request = MapRequest {
            flags: MapFlags::SHARED,
            backing: Backing::file(Arc::new(file)),
            extra: VmFlags::DONTEXPAND,
            ..MapRequest::anonymous(self.len(), Prot::READ | Prot::WRITE)
        };
        mm.map(request).map_err(|_| Errno::ENOMEM)
    }

    /// Whether `object` is a mapping of this ring.
    pub fn is_mapped_by(&self, object: &dyn Any) -> bool {
        object.downcast_ref::<RingFile>().is_some_and(|file| Arc::ptr_eq(&file.mapping, &self.mapping))
    }

    /// Bytes of all pages.
    pub fn len(&self) -> u64 {
        (self.frames.len() * PAGE_SIZE) as u64
    }

    /// Places for events; one of them stays free.
    pub fn nr(&self) -> u32 {
        self.nr
    }

    /// The number of the context in its process.
    pub fn set_id(&self, id: u32) {
        self.put(offset_of!(RingHeader, id), &id.to_ne_bytes());
    }

    /// The first event that was not taken, as the process has it.
    pub fn head(&self) -> u32 {
        let mut bytes = [0; 4];
        self.get(offset_of!(RingHeader, head), &mut bytes);
        u32::from_ne_bytes(bytes) % self.nr
    }

    /// Says that all events before `head` were taken.
    pub fn set_head(&self, head: u32) {
        // The places may be written again from here on: pairs with the fence in `publish`, through `head`.
        fence(Ordering::SeqCst);
        self.put(offset_of!(RingHeader, head), &head.to_ne_bytes());
    }

    /// Writes `event` to place `at` and gives the tail that follows; [`publish`](Self::publish) shows it.
    pub fn store(&self, at: u32, event: &IoEvent) -> u32 {
        self.put(self.place(at), event.as_bytes());
        let next = at + 1;
        if next >= self.nr { 0 } else { next }
    }

    /// Shows all events before `tail`.
    pub fn publish(&self, tail: u32) {
        // The event before the tail, for a process that reads both without a system call.
        fence(Ordering::SeqCst);
        self.put(offset_of!(RingHeader, tail), &tail.to_ne_bytes());
    }

    /// The event at place `at`.
    pub fn load(&self, at: u32) -> IoEvent {
        let mut event = IoEvent::default();
        self.get(self.place(at), event.as_mut_bytes());
        event
    }

    fn place(&self, at: u32) -> usize {
        HEADER + EVENT * (at % self.nr) as usize
    }

    /// Neither the header nor an event crosses a page: both are 32 bytes at a multiple of 32.
    fn put(&self, offset: usize, bytes: &[u8]) {
        if let Some(frame) = self.frames.get(offset / PAGE_SIZE) {
            frame.write(offset % PAGE_SIZE, bytes);
        }
    }

    fn get(&self, offset: usize, bytes: &mut [u8]) {
        if let Some(frame) = self.frames.get(offset / PAGE_SIZE) {
            frame.read(offset % PAGE_SIZE, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_fills_its_pages() {
        assert_eq!(size_for(1), (1, 127));
        assert_eq!(size_for(125), (1, 127));
        assert_eq!(size_for(126), (2, 255));
        assert_eq!(size_for(20_000).0, 157);
    }

    #[test]
    fn events_wait_from_head_to_tail_around_the_end() {
        assert_eq!(waiting(0, 0, 127), 0);
        assert_eq!(waiting(3, 10, 127), 7);
        assert_eq!(waiting(120, 5, 127), 12);
        assert_eq!(waiting(u32::MAX, 0, 127), waiting(u32::MAX % 127, 0, 127));
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let ring = Ring::new(200).unwrap();
        assert_eq!((ring.nr(), ring.len()), (255, 8192));
        let event = |n: u64| IoEvent { data: n, obj: !n, res: -5, res2: 0 };
        let mut tail = 0;
        for n in 0..255 {
            tail = ring.store(tail, &event(n));
        }
        assert_eq!(tail, 0);
        for n in 0..255 {
            assert_eq!(ring.load(n), event(u64::from(n)));
        }
        ring.set_head(1000);
        assert_eq!(ring.head(), 1000 % 255);
    }
}
