//! The page cache's side of files: pages are read and written through an open file of the server, without a copy.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use hal::frame::Frame;
use hal::{PAGE_SHIFT, PAGE_SIZE};
use mm::mapping::{DEFAULT_AHEAD, PageSource};
use sched::Interruptible;

use crate::channel::Part;
use crate::client::push;
use crate::node::{Node, OpenFid};

/// Frames for `len` bytes.
pub(crate) fn buffer(len: usize) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut left = len;
    while left > 0 {
        let len = left.min(PAGE_SIZE);
        push(&mut parts, Part { frame: mm::oom::alloc()?, offset: 0, len })?;
        left -= len;
    }
    Ok(parts)
}

/// Copies the first bytes of `parts` to `to`.
pub(crate) fn copy_out(parts: &[Part], to: &mut [u8]) {
    for (part, to) in parts.iter().zip(to.chunks_mut(PAGE_SIZE)) {
        part.frame.read(part.offset, to);
    }
}

/// Copies `from` to the start of `parts`.
pub(crate) fn copy_in(parts: &[Part], from: &[u8]) {
    for (part, from) in parts.iter().zip(from.chunks(PAGE_SIZE)) {
        part.frame.write(part.offset, from);
    }
}

/// The `len` bytes at `at` of what `frames` hold in a row.
fn parts_of(frames: &[Frame], at: usize, len: usize) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let (mut at, end) = (at, at + len);
    while at < end {
        let (nth, offset) = (at >> PAGE_SHIFT, at % PAGE_SIZE);
        let len = (end - at).min(PAGE_SIZE - offset);
        let frame = frames.get(nth).ok_or(Errno::EIO)?.clone();
        push(&mut parts, Part { frame, offset, len })?;
        at += len;
    }
    Ok(parts)
}

impl Node {
    fn size(&self) -> u64 {
        self.vfs.get().and_then(Weak::upgrade).map_or(0, |inode| inode.size())
    }

    /// An open file that can be read; one is opened if need be.
    fn reader(&self) -> Result<Arc<OpenFid>> {
        match self.open_fid(|open| open.can_read) {
            Some(open) => Ok(open),
            None => self.open_again(OpenFlags::LARGEFILE.bits(), true, false, Interruptible::Killable),
        }
    }

    /// The same for writing; it is kept until the pages are clean.
    fn writer(&self) -> Result<Arc<OpenFid>> {
        if let Some(open) = self.writer.lock().clone() {
            return Ok(open);
        }
        let open = match self.open_fid(|open| open.can_write) {
            Some(open) => open,
            None => {
                let flags = OpenFlags::WRONLY | OpenFlags::LARGEFILE;
                self.open_again(flags.bits(), false, true, Interruptible::No)?
            }
        };
        let old = self.writer.lock().replace(open.clone());
        drop(old);
        Ok(open)
    }

    /// Writes the `len` bytes in `frames`, which are those of the file from `start` on. No signal ends it: their pages count as
    /// clean already, and who is killed is not the one who wrote them.
    fn write_run(&self, start: u64, frames: &[Frame], len: usize) -> Result<()> {
        let writer = self.writer()?;
        let mut done = 0;
        while done < len {
            let want = (len - done).min(self.fs.client.payload() as usize);
            let parts = parts_of(frames, done, want)?;
            done += writer.fid.write(start + done as u64, &parts, Interruptible::No)?;
        }
        Ok(())
    }
}

impl PageSource for Node {
    fn read_page(&self, idx: u64, frame: &Frame) -> Result<()> {
        self.read_pages(idx, core::slice::from_ref(frame))
    }

    fn max_ahead(&self) -> usize {
        // A request's worth, and what Linux reads ahead of small ones.
        (self.fs.client.payload() as usize / PAGE_SIZE).max(DEFAULT_AHEAD)
    }

    fn read_pages(&self, first: u64, frames: &[Frame]) -> Result<()> {
        let start = first << PAGE_SHIFT;
        let all = frames.len() << PAGE_SHIFT;
        let len = usize::try_from(self.size().saturating_sub(start)).unwrap_or(usize::MAX).min(all);
        let reader = self.reader()?;
        let mut done = 0;
        while done < len {
            let want = (len - done).min(self.fs.client.payload() as usize);
            match reader.fid.read(start + done as u64, &parts_of(frames, done, want)?)? {
                0 => break,
                count => done += count,
            }
        }
        for (nth, frame) in frames.iter().enumerate() {
            let base = nth << PAGE_SHIFT;
            frame.zero(done.clamp(base, base + PAGE_SIZE) - base..PAGE_SIZE);
        }
        Ok(())
    }

    fn write_page(&self, idx: u64, frame: &Frame) -> Result<()> {
        self.write_pages(idx, core::slice::from_ref(frame))
    }

    fn write_pages(&self, first: u64, frames: &[Frame]) -> Result<()> {
        let start = first << PAGE_SHIFT;
        let all = frames.len() << PAGE_SHIFT;
        let len = usize::try_from(self.size().saturating_sub(start)).unwrap_or(usize::MAX).min(all);
        let result = self.write_run(start, frames, len);
        self.changed();
        result
    }

    fn prepare_write(&self, _idx: u64) -> Result<()> {
        self.writer().map(drop)
    }
}
