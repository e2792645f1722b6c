//! Operations that wait: for code that wants one thing done before it goes on.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::frame::Frame;
use sched::WaitQueue;

use crate::bio::{Bio, BioFlags};
use crate::device::BlockDevice;
use crate::{SECTOR_SHIFT, SECTOR_SIZE};

/// Where a waiter finds the result. It is told in interrupt context, so no lock that threads spin on may be in it.
struct Wait {
    queue: WaitQueue,
    /// [`PENDING`], 0 for success, or an error number.
    result: AtomicU32,
}

const PENDING: u32 = u32::MAX;

/// Sectors written at once where zeroes must be written as data.
const ZERO_CHUNK: u64 = 1024;

impl BlockDevice {
    /// Starts `bio` and waits for it; its own `done` is not called. Sleeps, not interruptible.
    pub fn submit_and_wait(self: &Arc<Self>, bio: Bio) -> Result<()> {
        hal::sync::might_sleep();
        let wait = Arc::new(Wait { queue: WaitQueue::new(), result: AtomicU32::new(PENDING) });
        let signal = wait.clone();
        let bio = bio.with_flags(BioFlags::SYNC).on_done(move |result, _| {
            let error = result.err().map_or(0, |errno| errno.number().unsigned_abs());
            // SeqCst: before the look at who waits (`WaitQueue::wake`).
            signal.result.store(error, Ordering::SeqCst);
            signal.queue.wake_all();
        });
        self.submit(bio);
        let done = || Some(wait.result.load(Ordering::SeqCst)).filter(|result| *result != PENDING);
        match wait.queue.wait(done) {
            0 => Ok(()),
            raw => Err(Errno::new(raw as i32).unwrap_or(Errno::EIO)),
        }
    }

    /// Fills whole frames from `sector` on. Errors as [`BlockDevice::submit`].
    pub fn read(self: &Arc<Self>, sector: u64, frames: &[Frame]) -> Result<()> {
        self.submit_and_wait(with_frames(Bio::read(sector), frames)?)
    }

    /// Writes whole frames from `sector` on. Errors as [`BlockDevice::submit`].
    pub fn write(self: &Arc<Self>, sector: u64, frames: &[Frame]) -> Result<()> {
        self.submit_and_wait(with_frames(Bio::write(sector), frames)?)
    }

    /// Makes what was written durable.
    pub fn flush(self: &Arc<Self>) -> Result<()> {
        self.submit_and_wait(Bio::flush())
    }

    /// Tells that sectors are not needed. `EOPNOTSUPP`: the device cannot.
    pub fn discard(self: &Arc<Self>, sector: u64, nr_sectors: u64) -> Result<()> {
        self.submit_and_wait(Bio::discard(sector, nr_sectors))
    }

    /// Makes sectors read as zeroes, by writing them where the device knows no shorter way.
    pub fn write_zeroes(self: &Arc<Self>, sector: u64, nr_sectors: u64, flags: BioFlags) -> Result<()> {
        match self.submit_and_wait(Bio::zeroes(sector, nr_sectors).with_flags(flags)) {
            Err(Errno::EOPNOTSUPP) => {}
            result => return result,
        }
        let zero = Frame::alloc_zeroed().ok_or(Errno::ENOMEM)?;
        let end = sector.checked_add(nr_sectors).ok_or(Errno::EINVAL)?;
        let mut at = sector;
        while at < end {
            let chunk_end = end.min(at + ZERO_CHUNK);
            let mut bio = Bio::write(at);
            while at < chunk_end {
                let n = (chunk_end - at).min((PAGE_SIZE / SECTOR_SIZE) as u64);
                bio.add(zero.clone(), 0, (n as usize) << SECTOR_SHIFT)?;
                at += n;
            }
            self.submit_and_wait(bio)?;
        }
        Ok(())
    }

    /// Copies bytes from byte `pos` on, at any alignment. Slow: reads into frames of its own. `EIO`: beyond the end.
    pub fn read_bytes(self: &Arc<Self>, pos: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = pos.checked_add(done as u64).ok_or(Errno::EIO)?;
            let window = self.window(at, buf.len() - done)?;
            let mut bio = Bio::read(window.sector);
            bio.add(window.frame.clone(), 0, window.bytes)?;
            self.submit_and_wait(bio)?;
            window.frame.read(window.skip, &mut buf[done..done + window.len]);
            done += window.len;
        }
        Ok(())
    }

    /// Writes bytes at byte `pos`, at any alignment; blocks that are covered in part are read first. Nothing keeps
    /// others from writing the same block meanwhile.
    pub fn write_bytes(self: &Arc<Self>, pos: u64, buf: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = pos.checked_add(done as u64).ok_or(Errno::EIO)?;
            let window = self.window(at, buf.len() - done)?;
            if window.len < window.bytes {
                let mut bio = Bio::read(window.sector);
                bio.add(window.frame.clone(), 0, window.bytes)?;
                self.submit_and_wait(bio)?;
            }
            window.frame.write(window.skip, &buf[done..done + window.len]);
            let mut bio = Bio::write(window.sector);
            bio.add(window.frame.clone(), 0, window.bytes)?;
            self.submit_and_wait(bio)?;
            done += window.len;
        }
        Ok(())
    }

    /// The logical blocks, at most a frame of them, that hold bytes from `at` on.
    fn window(&self, at: u64, want: usize) -> Result<Window> {
        let block = u64::from(self.logical_block_size()).clamp(SECTOR_SIZE as u64, PAGE_SIZE as u64);
        let begin = at / block * block;
        let skip = (at - begin) as usize;
        let len = want.min(PAGE_SIZE - skip);
        let bytes = (skip + len).next_multiple_of(block as usize);
        let frame = Frame::alloc_zeroed().ok_or(Errno::ENOMEM)?;
        Ok(Window { frame, sector: begin >> SECTOR_SHIFT, skip, len, bytes })
    }
}

/// A piece of a transfer at any alignment.
struct Window {
    frame: Frame,
    sector: u64,
    /// Bytes before the wanted ones, the wanted ones, and all.
    skip: usize,
    len: usize,
    bytes: usize,
}

fn with_frames(mut bio: Bio, frames: &[Frame]) -> Result<Bio> {
    for frame in frames {
        if let Err(errno) = bio.add(frame.clone(), 0, PAGE_SIZE) {
            bio.complete(Err(errno));
            return Err(errno);
        }
    }
    Ok(bio)
}

/// Frames for `len` bytes, in whole pages.
pub(crate) fn alloc_frames(len: u64) -> Result<Vec<Frame>> {
    let count = usize::try_from(len.div_ceil(PAGE_SIZE as u64)).map_err(|_| Errno::ENOMEM)?;
    let mut frames = Vec::new();
    frames.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    for _ in 0..count {
        frames.push(Frame::alloc_zeroed().ok_or(Errno::ENOMEM)?);
    }
    Ok(frames)
}
