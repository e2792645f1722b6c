//! Memory that devices read and write by themselves.
//!
//! A [`Buffer`] is adjacent frames, reached by loads and stores of one width that the compiler neither merges, splits nor
//! moves; what the device does meanwhile is like what another CPU does to atomics. On this architecture devices
//! see the caches, so no flushing is needed, and bus addresses are physical ones.
//!
//! # What hal cannot check
//!
//! Without an IOMMU a device that masters the bus reaches all memory, and where it writes is decided by what its
//! driver stores in its registers and rings. Drivers of such devices are therefore trusted in one point, D1, which
//! reviews of them check: *every address given to a device is that of a `Buffer` or a `Frame` that the driver
//! holds until the device is done with it*. What the device answers is not trusted.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PhysAddr};
use crate::arch;
use crate::frame::FrameRun;

/// Zeroed adjacent frames for a device.
#[derive(Debug)]
pub struct Buffer {
    run: FrameRun,
    len: usize,
}

/// Puts all earlier accesses to buffers before all later ones, stores before loads included.
pub fn barrier() {
    fence(Ordering::SeqCst);
}

macro_rules! accessors {
    ($read:ident, $write:ident, $int:ty, $atomic:ty) => {
        /// Reads at `offset`, a multiple of the width; later accesses come after it.
        #[track_caller]
        pub fn $read(&self, offset: usize) -> $int {
            let at = self.at(offset, size_of::<$int>()).cast::<$atomic>();
            // SAFETY: inside our frames, aligned, and only ever accessed through pointers; atomics allow the device
            // to change them meanwhile.
            unsafe { &*at }.load(Ordering::Acquire)
        }

        /// Writes at `offset`, a multiple of the width; earlier accesses come before it.
        #[track_caller]
        pub fn $write(&self, offset: usize, value: $int) {
            let at = self.at(offset, size_of::<$int>()).cast::<$atomic>();
            // SAFETY: as the read.
            unsafe { &*at }.store(value, Ordering::Release)
        }
    };
}

impl Buffer {
    /// At least `len` bytes, rounded up to `2^n` pages, aligned to that. `None`: no such run of frames.
    pub fn alloc(len: usize) -> Option<Buffer> {
        let pages = len.max(1).div_ceil(PAGE_SIZE).checked_next_power_of_two()?;
        let run = FrameRun::alloc(pages.trailing_zeros())?;
        for frame in run.frames() {
            frame.zero(0..PAGE_SIZE);
        }
        Some(Buffer { run, len: pages << PAGE_SHIFT })
    }

    /// Its address for the device.
    pub fn paddr(&self) -> PhysAddr {
        self.run.paddr()
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[track_caller]
    fn at(&self, offset: usize, width: usize) -> *mut u8 {
        let is_inside = offset.is_multiple_of(width) && offset < self.len && self.len - offset >= width;
        assert!(is_inside, "access outside of the buffer");
        // The frames are adjacent, and so are their bytes, on both machines.
        arch::mem::frame_ptr(self.run.paddr().pfn()).wrapping_add(offset)
    }

    accessors!(read_u16, write_u16, u16, AtomicU16);
    accessors!(read_u32, write_u32, u32, AtomicU32);
    accessors!(read_u64, write_u64, u64, AtomicU64);

    /// Reads a byte.
    #[track_caller]
    pub fn read_u8(&self, offset: usize) -> u8 {
        // SAFETY: inside our frames.
        unsafe { self.at(offset, 1).read_volatile() }
    }

    /// Copies bytes out; the device should not be writing them.
    pub fn read(&self, mut offset: usize, mut buf: &mut [u8]) {
        while !buf.is_empty() {
            let Some(frame) = self.run.frames().get(offset >> PAGE_SHIFT) else { return };
            let within = offset % PAGE_SIZE;
            let n = buf.len().min(PAGE_SIZE - within);
            let (now, rest) = buf.split_at_mut(n);
            frame.read(within, now);
            buf = rest;
            offset += n;
        }
    }

    /// Copies bytes in, as far as there is room; the device should not be reading them.
    pub fn write(&self, mut offset: usize, mut buf: &[u8]) {
        while !buf.is_empty() {
            let Some(frame) = self.run.frames().get(offset >> PAGE_SHIFT) else { return };
            let within = offset % PAGE_SIZE;
            let n = buf.len().min(PAGE_SIZE - within);
            let (now, rest) = buf.split_at(n);
            frame.write(within, now);
            buf = rest;
            offset += n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_zeroed_adjacent_memory() {
        let buffer = Buffer::alloc(5000).unwrap();
        assert_eq!(buffer.len(), 8192);
        assert_eq!((buffer.read_u64(0), buffer.read_u64(8184)), (0, 0));
        buffer.write_u32(4096, 0x0403_0201);
        assert_eq!((buffer.read_u16(4098), buffer.read_u8(4097)), (0x0403, 2));
        let mut bytes = [0; 4];
        buffer.write(4094, &[7, 8, 9, 10]);
        buffer.read(4094, &mut bytes);
        assert_eq!(bytes, [7, 8, 9, 10]);
    }

    #[test]
    #[should_panic(expected = "outside of the buffer")]
    fn beyond_the_end_is_refused() {
        Buffer::alloc(1).unwrap().read_u16(4096);
    }
}
