//! Reading and writing the device: metadata blocks by copying, pages in place.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use abi::{Errno, Result};
use block::{Bio, BioFlags, BlockDevice, FirstError, Plug};
use ext4_image::{Block, BlockRef};
use hal::PAGE_SIZE;
use hal::frame::Frame;
use sched::Completion;

const SECTOR_BITS: u32 = 9;

/// Blocks of a file system on a device.
pub(crate) struct Disk {
    device: Arc<BlockDevice>,
    block_bits: u32,
}

/// Waits for several bios; the first error is kept.
struct Pending {
    left: AtomicUsize,
    error: FirstError,
    done: Completion,
}

impl Pending {
    fn finish(&self, result: Result<()>) {
        self.error.note(result);
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.complete();
        }
    }

    /// The first error, once it is done.
    fn outcome(&self) -> Result<()> {
        self.error.outcome()
    }
}

/// A transfer of several pieces under way: add pieces, then [`Transfer::wait`].
///
/// One that is dropped, since a piece could not be added, waits too for what is on its way: its frames may be written to, or
/// their pages written again, as soon as the caller has its error.
pub(crate) struct Transfer<'a> {
    disk: &'a Disk,
    pending: Arc<Pending>,
    plug: Plug,
    current: Option<(Bio, u64)>,
    is_write: bool,
    flags: BioFlags,
    has_waited: bool,
}

impl Transfer<'_> {
    /// Adds `len` bytes of `frame` from `offset` on, which are on the device at byte `pos`.
    pub(crate) fn add(&mut self, pos: u64, frame: &Frame, offset: usize, len: usize) -> Result<()> {
        self.add_frames(pos, core::slice::from_ref(frame), offset, len)
    }

    /// Adds `len` bytes of `frames` from byte `offset` of the first on, which are on the device at byte `pos`.
    pub(crate) fn add_frames(&mut self, pos: u64, frames: &[Frame], offset: usize, len: usize) -> Result<()> {
        let continues = self.current.as_ref().is_some_and(|(_, end)| *end == pos);
        if !continues {
            self.submit();
            let sector = pos >> SECTOR_BITS;
            let bio = if self.is_write { Bio::write(sector) } else { Bio::read(sector) };
            self.current = Some((bio.with_flags(self.flags), pos));
        }
        let Some((bio, end)) = &mut self.current else { return Err(Errno::EIO) };
        bio.add_frames(frames, offset, len)?;
        *end = pos + len as u64;
        Ok(())
    }

    fn submit(&mut self) {
        let Some((bio, _)) = self.current.take() else { return };
        if bio.nr_sectors() == 0 {
            return;
        }
        self.pending.left.fetch_add(1, Ordering::AcqRel);
        let pending = self.pending.clone();
        self.plug.submit(&self.disk.device, bio.on_done(move |result, _| pending.finish(result)));
    }

    /// Waits for all pieces. The first error.
    pub(crate) fn wait(mut self) -> Result<()> {
        self.submit();
        self.settle();
        self.pending.outcome()
    }

    /// Goes on with it while the caller does something else.
    pub(crate) fn begin(mut self) -> Started {
        self.submit();
        self.plug.flush();
        self.pending.finish(Ok(()));
        self.has_waited = true;
        Started(self.pending.clone())
    }

    /// Waits for what was submitted, the first time.
    fn settle(&mut self) {
        if !core::mem::replace(&mut self.has_waited, true) {
            self.plug.flush();
            self.pending.finish(Ok(()));
            self.pending.done.wait();
        }
    }
}

/// A transfer under way, whose frames are kept until it is done.
pub(crate) struct Started(Arc<Pending>);

impl Started {
    /// Waits for it. The first error.
    pub(crate) fn wait(&self) -> Result<()> {
        self.0.done.wait();
        self.0.outcome()
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Disk {
    pub(crate) fn new(device: Arc<BlockDevice>, block_bits: u32) -> Self {
        Self { device, block_bits }
    }

    pub(crate) fn device(&self) -> &Arc<BlockDevice> {
        &self.device
    }

    fn start(&self, is_write: bool, flags: BioFlags) -> Transfer<'_> {
        // The starter holds one count, so that the last bio cannot finish before `wait`.
        let pending =
            Pending { left: AtomicUsize::new(1), error: FirstError::new(), done: Completion::new() };
        let (pending, plug) = (Arc::new(pending), Plug::new());
        Transfer { disk: self, pending, plug, current: None, is_write, flags, has_waited: false }
    }

    pub(crate) fn start_read(&self) -> Transfer<'_> {
        self.start(false, BioFlags::SYNC)
    }

    pub(crate) fn start_write(&self) -> Transfer<'_> {
        self.start(true, BioFlags::SYNC)
    }

    /// Reads metadata block `nr`.
    pub(crate) fn read_block(&self, nr: u64) -> Result<Block> {
        let len = 1usize << self.block_bits;
        let frame = mm::oom::alloc()?;
        let mut transfer = self.start(false, BioFlags::SYNC | BioFlags::META);
        transfer.add(nr << self.block_bits, &frame, 0, len)?;
        transfer.wait()?;
        let mut block = Block::zeroed(len).map_err(|_| Errno::ENOMEM)?;
        frame.read(0, block.bytes_mut());
        Ok(block)
    }

    /// Writes metadata blocks, which ascend, and waits.
    pub(crate) fn write_blocks(&self, blocks: &[(u64, BlockRef)], flags: BioFlags) -> Result<()> {
        let len = 1usize << self.block_bits;
        for chunk in blocks.chunks(512) {
            let mut transfer = self.start(true, BioFlags::SYNC | BioFlags::META | flags);
            let mut page: Option<(Frame, usize)> = None;
            for (nr, block) in chunk {
                let (frame, at) = match page.take().filter(|(_, at)| at + len <= PAGE_SIZE) {
                    Some(page) => page,
                    None => (mm::oom::alloc()?, 0),
                };
                frame.write(at, block.bytes());
                transfer.add(nr << self.block_bits, &frame, at, len)?;
                page = Some((frame, at + len));
            }
            transfer.wait()?;
        }
        Ok(())
    }

    /// Makes everything written durable.
    pub(crate) fn flush(&self) -> Result<()> {
        self.device.flush()
    }

    /// Reads bytes anywhere.
    pub(crate) fn read_bytes(&self, pos: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(len, 0);
        self.device.read_bytes(pos, &mut bytes)?;
        Ok(bytes)
    }
}
