//! Physical page frames: owned, reference-counted 4 KiB pages and their metadata.
//!
//! Contents are only touched by copying: no reference into a frame ever exists, so sharing it with user
//! space is sound.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::addr::{PAGE_SHIFT, PAGE_SIZE, PhysAddr, UserAddr};
use crate::arch;
use crate::sync::IrqLock;

/// The metadata of one frame, at most 32 bytes. `flags`, `index` and `owner` are mm's to use.
#[derive(Debug, Default)]
#[repr(C)]
pub struct FrameMeta {
    refs: AtomicU32,
    maps: AtomicU32,
    /// mm's flags.
    pub flags: AtomicU32,
    order: AtomicU32,
    /// mm's position of the page in its owner.
    pub index: AtomicU64,
    /// mm's identification of the owner.
    pub owner: AtomicU64,
}

/// One owned reference to a physical page; `clone` takes another, the last drop frees the page.
#[derive(Debug)]
pub struct Frame {
    pfn: u64,
}

/// Numbers about physical memory, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameStats {
    /// Pages that the allocator manages.
    pub total: usize,
    /// Free pages.
    pub free: usize,
}

static FREE: IrqLock<alloc::vec::Vec<u64>> = IrqLock::new("hal.frame.free", alloc::vec::Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);
static NR_FREE: AtomicUsize = AtomicUsize::new(0);

impl Frame {
    /// A frame with arbitrary contents; `None` when there is none.
    pub fn alloc() -> Option<Frame> {
        let recycled = FREE.lock().pop();
        let pfn = match recycled {
            Some(pfn) => {
                NR_FREE.fetch_sub(1, Ordering::Relaxed);
                pfn
            }
            None => {
                let pfn = NEXT.fetch_add(1, Ordering::Relaxed);
                if pfn as usize >= arch::mem::nr_frames() {
                    NEXT.fetch_sub(1, Ordering::Relaxed);
                    return None;
                }
                pfn
            }
        };
        let frame = Frame { pfn };
        let meta = frame.meta();
        meta.refs.store(1, Ordering::Relaxed);
        meta.maps.store(0, Ordering::Relaxed);
        meta.flags.store(0, Ordering::Relaxed);
        meta.index.store(0, Ordering::Relaxed);
        meta.owner.store(0, Ordering::Relaxed);
        Some(frame)
    }

    /// A frame full of zeroes.
    pub fn alloc_zeroed() -> Option<Frame> {
        let frame = Frame::alloc()?;
        frame.zero(0..PAGE_SIZE);
        Some(frame)
    }

    /// Its physical address.
    pub fn paddr(&self) -> PhysAddr {
        PhysAddr(self.pfn << PAGE_SHIFT)
    }

    /// Its number.
    pub fn pfn(&self) -> u64 {
        self.pfn
    }

    /// How many references there are.
    pub fn ref_count(&self) -> u32 {
        self.meta().refs.load(Ordering::Acquire)
    }

    /// How many page-table entries show it (maintained by [`Frame::map_inc`] and [`Frame::map_dec`]).
    pub fn map_count(&self) -> u32 {
        self.meta().maps.load(Ordering::Acquire)
    }

    /// Counts one more mapping; returns the old count.
    pub fn map_inc(&self) -> u32 {
        self.meta().maps.fetch_add(1, Ordering::AcqRel)
    }

    /// Counts one mapping less; returns the old count.
    pub fn map_dec(&self) -> u32 {
        self.meta().maps.fetch_sub(1, Ordering::AcqRel)
    }

    /// Its metadata.
    pub fn meta(&self) -> &FrameMeta {
        arch::mem::meta(self.pfn)
    }

    fn ptr(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset <= PAGE_SIZE && len <= PAGE_SIZE - offset, "access outside of the frame");
        arch::mem::frame_ptr(self.pfn).wrapping_add(offset)
    }

    /// Copies bytes from `offset` on out of the frame.
    pub fn read(&self, offset: usize, buf: &mut [u8]) {
        let from = self.ptr(offset, buf.len());
        // SAFETY: inside the frame, which we hold a reference to; `buf` is no frame.
        unsafe { core::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) }
    }

    /// Copies bytes into the frame at `offset`.
    pub fn write(&self, offset: usize, buf: &[u8]) {
        let to = self.ptr(offset, buf.len());
        // SAFETY: as in `read`.
        unsafe { core::ptr::copy_nonoverlapping(buf.as_ptr(), to, buf.len()) }
    }

    /// Zeroes a range of its bytes.
    pub fn zero(&self, range: core::ops::Range<usize>) {
        let len = range.end.saturating_sub(range.start);
        let to = self.ptr(range.start, len);
        // SAFETY: as in `read`.
        unsafe { core::ptr::write_bytes(to, 0, len) }
    }

    /// Copies the whole of `from`.
    pub fn copy_from(&self, from: &Frame) {
        // SAFETY: two whole frames that we hold references to; `copy` allows them to be the same.
        unsafe { core::ptr::copy(from.ptr(0, PAGE_SIZE), self.ptr(0, PAGE_SIZE), PAGE_SIZE) }
    }

    /// Copies bytes of the frame to user memory; returns how many could be. May sleep.
    pub fn copy_to_user(&self, offset: usize, to: UserAddr, len: usize) -> usize {
        let mut done = 0;
        let mut chunk = [0u8; 512];
        while done < len {
            let n = chunk.len().min(len - done);
            self.read(offset + done, &mut chunk[..n]);
            let copied = crate::user::write_partial(to.add(done as u64), &chunk[..n]);
            done += copied;
            if copied < n {
                break;
            }
        }
        done
    }

    /// Copies bytes of user memory into the frame; returns how many could be. May sleep.
    pub fn copy_from_user(&self, offset: usize, from: UserAddr, len: usize) -> usize {
        let mut done = 0;
        let mut chunk = [0u8; 512];
        while done < len {
            let n = chunk.len().min(len - done);
            let copied = crate::user::read_partial(from.add(done as u64), &mut chunk[..n]);
            self.write(offset + done, &chunk[..copied]);
            done += copied;
            if copied < n {
                break;
            }
        }
        done
    }
}

impl Clone for Frame {
    fn clone(&self) -> Frame {
        self.meta().refs.fetch_add(1, Ordering::Relaxed);
        Frame { pfn: self.pfn }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if self.meta().refs.fetch_sub(1, Ordering::AcqRel) == 1 {
            NR_FREE.fetch_add(1, Ordering::Relaxed);
            FREE.lock().push(self.pfn);
        }
    }
}

/// `2^order` adjacent frames, for devices and large pages.
#[derive(Debug)]
pub struct FrameRun {
    frames: alloc::vec::Vec<Frame>,
}

impl FrameRun {
    /// `2^order` adjacent frames with arbitrary contents, aligned to their size.
    pub fn alloc(order: u32) -> Option<FrameRun> {
        (order == 0).then(Frame::alloc).flatten().map(|frame| FrameRun { frames: alloc::vec![frame] })
    }

    /// Its frames.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The physical address of the first.
    pub fn paddr(&self) -> PhysAddr {
        self.frames[0].paddr()
    }
}

/// Numbers about physical memory.
pub fn stats() -> FrameStats {
    let total = arch::mem::nr_frames();
    let fresh = total.saturating_sub(NEXT.load(Ordering::Relaxed) as usize);
    FrameStats { total, free: fresh + NR_FREE.load(Ordering::Relaxed) }
}
