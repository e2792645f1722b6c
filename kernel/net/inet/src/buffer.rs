//! The bytes that travel: taken from a sender once, shared until the last reader is done.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use abi::{Errno, Result};
use hal::frame::Frame;
use hal::uio::{Dest, Src};
use smallvec::SmallVec;

/// Longest piece that is kept on the heap; longer ones are in frames of their own.
const SMALL: usize = 2048;
/// Bytes of a frame.
const FRAME: usize = 4096;

/// Bytes in all buffers.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

/// Bytes that all buffers may take together: an eighth of memory.
pub(crate) fn limit() -> usize {
    (hal::frame::stats().total / 8).max(256) * FRAME
}

/// Bytes in all buffers of the machine.
pub(crate) fn in_use() -> usize {
    IN_USE.load(Relaxed)
}

enum Store {
    Small(Vec<u8>),
    Frames(SmallVec<[Frame; 16]>),
}

struct Buffer {
    store: Store,
    len: usize,
}

impl Buffer {
    fn new(store: Store, len: usize) -> Arc<Self> {
        IN_USE.fetch_add(len, Relaxed);
        Arc::new(Self { store, len })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        IN_USE.fetch_sub(self.len, Relaxed);
    }
}

/// A part of a buffer.
#[derive(Clone)]
pub(crate) struct Chunk {
    buffer: Arc<Buffer>,
    start: usize,
    end: usize,
}

impl Chunk {
    /// Takes `len` bytes from `src`, fewer when the rest cannot be read. `EFAULT`: none can. `ENOBUFS`: no memory.
    pub(crate) fn take(src: &mut Src<'_>, len: usize) -> Result<Self> {
        if in_use().saturating_add(len) > limit() {
            return Err(Errno::ENOBUFS);
        }
        if len <= SMALL {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
            bytes.resize(len, 0);
            let done = if len > 0 { src.take_bytes(&mut bytes)? } else { 0 };
            return Ok(Self { buffer: Buffer::new(Store::Small(bytes), len), start: 0, end: done });
        }
        let mut frames = SmallVec::new();
        let mut done = 0;
        while done < len {
            let frame = Frame::alloc().ok_or(Errno::ENOBUFS)?;
            let step = (len - done).min(FRAME);
            let copied = match src.take_into_frame(&frame, 0, step) {
                Ok(copied) => copied,
                Err(_) if done > 0 => 0,
                Err(fault) => return Err(fault.into()),
            };
            frames.push(frame);
            done += copied;
            if copied < step {
                break;
            }
        }
        Ok(Self { buffer: Buffer::new(Store::Frames(frames), len), start: 0, end: done })
    }

    /// Copies as much as there is room for; gives how much. `EFAULT`: nothing could be copied.
    pub(crate) fn put(&self, dst: &mut Dest<'_>) -> Result<usize> {
        let len = (self.end - self.start).min(dst.remaining());
        let frames = match &self.buffer.store {
            Store::Small(bytes) => {
                return if len == 0 {
                    Ok(0)
                } else {
                    Ok(dst.put_bytes(&bytes[self.start..self.start + len])?)
                };
            }
            Store::Frames(frames) => frames,
        };
        let mut done = 0;
        while done < len {
            let at = self.start + done;
            let step = (FRAME - at % FRAME).min(len - done);
            let Some(frame) = frames.get(at / FRAME) else { break };
            match dst.put_frame(frame, at % FRAME, step) {
                Ok(copied) if copied == step => done += copied,
                Ok(copied) => return Ok(done + copied),
                Err(_) if done > 0 => return Ok(done),
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(done)
    }

    /// Copies to kernel memory, as much as fits.
    pub(crate) fn read(&self, to: &mut [u8]) -> usize {
        self.put(&mut Dest::kernel(to)).unwrap_or(0)
    }

    /// Keeps the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start.saturating_add(len));
    }
}

impl tcp::Payload for Chunk {
    #[inline]
    fn len(&self) -> usize {
        self.end - self.start
    }

    fn slice(&self, start: usize, end: usize) -> Self {
        let first = (self.start + start).min(self.end);
        Self { buffer: self.buffer.clone(), start: first, end: (self.start + end).min(self.end).max(first) }
    }

    fn concat(parts: &[Self], len: usize) -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).ok()?;
        bytes.resize(len, 0);
        let mut at = 0;
        for part in parts {
            at += part.read(bytes.get_mut(at..)?);
        }
        (at == len).then(|| Self { buffer: Buffer::new(Store::Small(bytes), len), start: 0, end: len })
    }

    fn byte(&self, at: usize) -> u8 {
        let mut byte = [0];
        self.slice(at, at + 1).read(&mut byte);
        byte[0]
    }
}

#[cfg(test)]
mod tests {
    use tcp::Payload;

    use super::*;

    #[test]
    fn pieces_keep_their_bytes() {
        let data: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        for len in [0, 1, 2048, 2049, 4096, 10_000] {
            let chunk = Chunk::take(&mut Src::kernel(&data), len).unwrap();
            assert_eq!(chunk.len(), len);
            if len > 10 {
                let part = chunk.slice(5, len - 2);
                let mut out = alloc::vec![0; len];
                assert_eq!(part.read(&mut out), len - 7);
                assert_eq!(out[..len - 7], data[5..len - 2]);
                assert_eq!(part.byte(3), data[8]);
                let joined = Chunk::concat(&[part.clone(), chunk.slice(0, 1)], len - 6).unwrap();
                assert_eq!(joined.byte(len - 7), data[0]);
            }
        }
    }
}
