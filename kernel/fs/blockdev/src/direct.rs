//! `O_DIRECT`: bytes go between the device and the caller without staying in the cache.
//!
//! LINUX: they go through frames of the kernel's, as user memory is not pinned for the device.

use alloc::vec::Vec;

use abi::{Errno, Result};
use block::{Bio, SECTOR_SHIFT};
use hal::PAGE_SIZE;
use hal::frame::Frame;
use hal::uio::{Dest, Src};

use crate::file::BlockFile;

/// Frames of a piece: 1 MiB.
const MAX_FRAMES: usize = 256;

/// Frames for `len` bytes, which are at most [`MAX_FRAMES`] pages.
fn frames(len: usize) -> Result<Vec<Frame>> {
    let count = len.div_ceil(PAGE_SIZE);
    let mut frames = Vec::new();
    frames.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    for _ in 0..count {
        frames.push(Frame::alloc().ok_or(Errno::ENOMEM)?);
    }
    Ok(frames)
}

/// `frames` with how many of `len` bytes are in each.
fn parts(frames: &[Frame], len: usize) -> impl Iterator<Item = (&Frame, usize)> {
    frames.iter().enumerate().map(move |(idx, frame)| (frame, (len - idx * PAGE_SIZE).min(PAGE_SIZE)))
}

fn fill(mut bio: Bio, frames: &[Frame], len: usize) -> Result<Bio> {
    for (frame, part) in parts(frames, len) {
        bio.add(frame.clone(), 0, part)?;
    }
    Ok(bio)
}

/// Reads at `pos`; the range is inside the device.
pub(crate) fn read(file: &BlockFile, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
    file.device().check_direct(pos, dst.remaining(), dst.alignment())?;
    file.mapping().write_back(pos..pos.saturating_add(dst.remaining() as u64))?;
    let mut done = 0;
    while dst.remaining() > 0 {
        let len = dst.remaining().min(MAX_FRAMES * PAGE_SIZE);
        match read_piece(file, dst, pos + done as u64, len) {
            Ok(n) if n == len => done += n,
            Ok(n) => return Ok(done + n),
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(done)
}

fn read_piece(file: &BlockFile, dst: &mut Dest<'_>, pos: u64, len: usize) -> Result<usize> {
    let frames = frames(len)?;
    file.device().submit_and_wait(fill(Bio::read(pos >> SECTOR_SHIFT), &frames, len)?)?;
    let mut done = 0;
    for (frame, part) in parts(&frames, len) {
        match dst.put_frame(frame, 0, part) {
            Ok(n) if n == part => done += n,
            Ok(n) => return Ok(done + n),
            Err(_) if done > 0 => break,
            Err(fault) => return Err(fault.into()),
        }
    }
    Ok(done)
}

/// Writes at `pos`; the range is inside the device.
pub(crate) fn write(file: &BlockFile, src: &mut Src<'_>, pos: u64) -> Result<usize> {
    let total = src.remaining();
    file.device().check_direct(pos, total, src.alignment())?;
    let end = pos.saturating_add(total as u64);
    file.drop_cached(pos, end)?;
    let mut done = 0;
    while src.remaining() > 0 {
        let len = src.remaining().min(MAX_FRAMES * PAGE_SIZE);
        match write_piece(file, src, pos + done as u64, len) {
            Ok(n) => done += n,
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    // What a racing read has brought into the cache meanwhile is old.
    file.drop_cached(pos, end)?;
    Ok(done)
}

fn write_piece(file: &BlockFile, src: &mut Src<'_>, pos: u64, len: usize) -> Result<usize> {
    let frames = frames(len)?;
    for (frame, part) in parts(&frames, len) {
        if src.take_into_frame(frame, 0, part)? < part {
            // Half a block cannot be written.
            return Err(Errno::EFAULT);
        }
    }
    file.device().submit_and_wait(fill(Bio::write(pos >> SECTOR_SHIFT), &frames, len)?)?;
    Ok(len)
}
