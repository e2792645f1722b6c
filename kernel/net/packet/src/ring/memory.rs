//! The pages of a ring.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering, Ordering::SeqCst, fence};

use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::frame::Frame;
use mm::{Backing, FaultError, Mappable, Mapping};

/// Pages of all rings.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

/// Pages that all rings may have together: a quarter of memory.
///
/// LINUX: there is no such limit, and whoever may open packet sockets, in a user namespace of his own too, can have it all.
fn limit() -> usize {
    hal::frame::stats().total / 4
}

/// The pages of a ring, which are as if they lay side by side.
pub(crate) struct Memory {
    frames: Vec<Frame>,
    counted: usize,
}

impl Drop for Memory {
    fn drop(&mut self) {
        IN_USE.fetch_sub(self.counted, SeqCst);
    }
}

impl Memory {
    /// Pages for `len` bytes, all zero. `ENOMEM`: there are none, or rings have too many.
    pub(crate) fn new(len: usize) -> Result<Self> {
        let nr = len.div_ceil(PAGE_SIZE);
        // Counted before they are there, so that two at a time do not pass the limit.
        let mut memory = Self { frames: Vec::new(), counted: nr };
        if IN_USE.fetch_add(nr, SeqCst).saturating_add(nr) > limit() {
            return Err(Errno::ENOMEM);
        }
        memory.frames.try_reserve_exact(nr).map_err(|_| Errno::ENOMEM)?;
        for _ in 0..nr {
            memory.frames.push(Frame::alloc_zeroed().ok_or(Errno::ENOMEM)?);
        }
        Ok(memory)
    }

    fn len(&self) -> u64 {
        (self.frames.len() * PAGE_SIZE) as u64
    }

    /// Writes `bytes` from `at` on; what lies beyond the end is left out.
    pub(super) fn write(&self, mut at: usize, mut bytes: &[u8]) {
        while let (Some(frame), false) = (self.frames.get(at / PAGE_SIZE), bytes.is_empty()) {
            let step = (PAGE_SIZE - at % PAGE_SIZE).min(bytes.len());
            let (now, rest) = bytes.split_at(step);
            frame.write(at % PAGE_SIZE, now);
            (at, bytes) = (at + step, rest);
        }
    }

    /// Reads from `at` on; beyond the end are zeroes.
    pub(super) fn read(&self, mut at: usize, mut bytes: &mut [u8]) {
        while let (Some(frame), false) = (self.frames.get(at / PAGE_SIZE), bytes.is_empty()) {
            let step = (PAGE_SIZE - at % PAGE_SIZE).min(bytes.len());
            let (now, rest) = bytes.split_at_mut(step);
            frame.read(at % PAGE_SIZE, now);
            (at, bytes) = (at + step, rest);
        }
    }

    /// A status, before what belongs to it is read.
    pub(super) fn status(&self, at: usize) -> u32 {
        let value = self.word(at);
        fence(Ordering::SeqCst);
        value
    }

    /// Gives a status at a multiple of 4, after what belongs to it was written.
    pub(super) fn set_status(&self, at: usize, status: u32) {
        fence(Ordering::SeqCst);
        // Of a length that the compiler knows, so that it goes in one store and nobody sees a part of it.
        if let Some(frame) = self.frames.get(at / PAGE_SIZE).filter(|_| at.is_multiple_of(4)) {
            frame.write(at % PAGE_SIZE, &status.to_ne_bytes());
        }
    }

    /// The word at `at`, a multiple of 4.
    pub(super) fn word(&self, at: usize) -> u32 {
        let mut raw = [0; 4];
        if let Some(frame) = self.frames.get(at / PAGE_SIZE).filter(|_| at.is_multiple_of(4)) {
            frame.read(at % PAGE_SIZE, &mut raw);
        }
        u32::from_ne_bytes(raw)
    }
}

/// What a process maps; it stays as long as the mapping, whatever becomes of the socket.
struct RingMapping {
    parts: [Option<Arc<Memory>>; 2],
    /// How many mappings there are.
    mapped: Arc<AtomicU64>,
}

impl Mappable for RingMapping {
    fn mapping(&self) -> Option<&Arc<Mapping>> {
        None
    }

    fn name(&self) -> Vec<u8> {
        b"socket:[packet]".to_vec()
    }

    fn fault(&self, offset: u64, _write: bool) -> core::result::Result<Frame, FaultError> {
        let mut at = usize::try_from(offset / PAGE_SIZE as u64).map_err(|_| FaultError::Bus)?;
        for part in self.parts.iter().flatten() {
            match part.frames.get(at) {
                Some(frame) => return Ok(frame.clone()),
                None => at -= part.frames.len(),
            }
        }
        Err(FaultError::Bus)
    }

    fn vma_opened(&self) {
        self.mapped.fetch_add(1, SeqCst);
    }

    fn vma_closed(&self) {
        self.mapped.fetch_sub(1, SeqCst);
    }
}

/// See [`super::mmap`].
pub(super) fn map(
    parts: [Option<Arc<Memory>>; 2],
    mapped: &Arc<AtomicU64>,
    offset: u64,
    len: u64,
) -> Result<Backing> {
    let whole: u64 = parts.iter().flatten().map(|part| part.len()).sum();
    if offset != 0 || whole == 0 || len.next_multiple_of(PAGE_SIZE as u64) != whole {
        return Err(Errno::EINVAL);
    }
    Ok(Backing::file(Arc::new(RingMapping { parts, mapped: mapped.clone() })))
}
