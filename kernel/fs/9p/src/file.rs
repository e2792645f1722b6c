//! Open regular files.
//!
//! Without a cache each read and write is a call of its own; bytes then go through frames between the server and the
//! program. Mappings have pages in every mode: what they have dirty is written before a read, and what they have at all is
//! given up by a write past them.
//!
//! LINUX: there a mapping that is shared and may be written is `EINVAL` with `cache=none` and `cache=readahead`.

use alloc::sync::Arc;

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use hal::uio::{Dest, FramePart, Src};
use mm::{Backing, Mapping};
use sched::Interruptible;
use vfs::{File, FileOps, Inode, ShowPart, SyncMode};

use crate::channel::Part;
use crate::node::{Node, OpenFid};
use crate::pages;

/// An open file.
pub(crate) struct Regular {
    pub(crate) node: Arc<Node>,
    pub(crate) open: Arc<OpenFid>,
}

pub(crate) fn mapping(inode: &Inode) -> Result<&Arc<Mapping>> {
    inode.mapping().ok_or(Errno::EINVAL)
}

/// Tries to get the pages of a range out of the cache while others make them dirty.
const TRIES: usize = 4;
/// Bytes of one call past the cache at most.
const MAX_DIRECT: usize = 128 * 1024;

impl Regular {
    fn is_direct(&self, file: &File) -> bool {
        file.flags().contains(OpenFlags::DIRECT) || self.node.fs.options.is_direct
    }

    fn step(&self, left: usize) -> usize {
        left.min(MAX_DIRECT).min(self.node.fs.client.payload() as usize)
    }

    /// Reads past the cache.
    fn read_direct(&self, inode: &Inode, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        let mapping = mapping(inode)?;
        if mapping.nr_pages() > 0 {
            // Also waits for pages that are being written, which are not dirty any more.
            mapping.write_back(pos..pos.saturating_add(dst.remaining() as u64))?;
        }
        let mut done = 0;
        while dst.remaining() > 0 {
            let want = self.step(dst.remaining());
            let parts = pages::buffer(want)?;
            let count = match self.open.fid.read(pos + done as u64, &parts) {
                Err(errno) if done == 0 => return Err(errno),
                read => read.unwrap_or(0),
            };
            let mut left = count;
            for part in parts {
                let len = left.min(part.len);
                let put = match dst.put_frame(&part.frame, 0, len) {
                    Err(_) if done == 0 => return Err(Errno::EFAULT),
                    put => put.unwrap_or(0),
                };
                done += put;
                left -= len;
                if put < len {
                    return Ok(done);
                }
            }
            if count < want {
                break;
            }
        }
        Ok(done)
    }

    /// Writes past the cache. The inode's `sem` is held for writing.
    fn write_direct(&self, file: &File, inode: &Inode, src: &mut Src<'_>, pos: u64) -> Result<usize> {
        let mapping = mapping(inode)?;
        let mut done = 0;
        while src.remaining() > 0 {
            let mut parts = pages::buffer(self.step(src.remaining()))?;
            let mut len = 0;
            for part in &mut parts {
                let Ok(taken) = src.take_into_frame(&part.frame, 0, part.len) else { break };
                len += taken;
                let is_short = taken < part.len;
                part.len = taken;
                if is_short {
                    break;
                }
            }
            let kept = parts.iter().scan(0, |sum, part| {
                let begins = *sum;
                *sum += part.len;
                Some(begins)
            });
            let nr_kept = kept.take_while(|begins| *begins < len).count();
            parts.truncate(nr_kept);
            if len == 0 {
                return if done == 0 { Err(Errno::EFAULT) } else { Ok(done) };
            }
            let written = match self.write_parts(mapping, pos + done as u64, &parts, len) {
                Err(errno) if done == 0 => return Err(errno),
                written => written.unwrap_or(0),
            };
            done += written;
            if written < len {
                break;
            }
        }
        let is_durable = file.flags().intersects(OpenFlags::SYNC | OpenFlags::DSYNC);
        if is_durable && done > 0 {
            // The server may have opened it without these flags.
            self.open.fid.sync(!file.flags().contains(OpenFlags::SYNC))?;
        }
        Ok(done)
    }

    /// Writes the `len` bytes of `parts` at `pos`, and gives up the pages that have older ones. What a mapping stores meanwhile
    /// waits, or comes to the server before.
    fn write_parts(&self, mapping: &Mapping, pos: u64, parts: &[Part], len: usize) -> Result<usize> {
        let page = hal::PAGE_SIZE as u64;
        let end = pos.saturating_add(len as u64);
        let pages = pos / page * page..end.next_multiple_of(page);
        for _ in 0..TRIES {
            if mapping.nr_pages() > 0 {
                mapping.write_back(pages.clone())?;
            }
            let frozen = mapping.freeze();
            if !frozen.drop_unless_dirty(pages.clone()) {
                continue;
            }
            let done = self.open.fid.write(pos, parts, Interruptible::Killable)?;
            if pos + done as u64 > mapping.size() {
                frozen.truncate(pos + done as u64);
            }
            self.node.changed();
            return Ok(done);
        }
        // Somebody stores to a mapping of these pages all the time: then they are written as such stores are.
        let mut done = 0;
        for part in parts {
            let part = [FramePart { frame: part.frame.clone(), offset: part.offset, len: part.len }];
            done += mapping.write(pos + done as u64, &mut Src::parts(&part))?;
        }
        self.node.changed();
        mapping.write_back(pages)?;
        Ok(done)
    }

    /// Has what waits written, and lets the open file go that it was kept for.
    fn write_back(&self, inode: &Inode) -> Result<()> {
        let mapping = mapping(inode)?;
        let written = mapping.write_back(0..u64::MAX);
        if mapping.nr_dirty() == 0 && mapping.nr_vmas() == 0 {
            let writer = self.node.writer.lock().take();
            drop(writer);
        }
        written
    }
}

impl FileOps for Regular {
    fn read(&self, file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        let inode = file.inode();
        if self.node.fs.options.cache.keeps_pages() && !self.is_direct(file) {
            return mapping(inode)?.read(pos, dst);
        }
        self.read_direct(inode, dst, pos)
    }

    fn write(&self, file: &File, src: &mut Src<'_>, pos: u64) -> Result<usize> {
        let inode = file.inode();
        if !self.node.fs.options.cache.keeps_writes() || self.is_direct(file) {
            return self.write_direct(file, inode, src, pos);
        }
        let mapping = mapping(inode)?;
        mapping.zero_gap(pos)?;
        let done = mapping.write(pos, src)?;
        self.node.changed();
        if file.flags().intersects(OpenFlags::SYNC | OpenFlags::DSYNC) && done > 0 {
            mapping.write_back(pos..pos + done as u64)?;
            self.open.fid.sync(!file.flags().contains(OpenFlags::SYNC))?;
        }
        Ok(done)
    }

    fn share(&self, file: &File, pos: u64, len: usize, each: &mut ShowPart<'_>) -> Result<usize> {
        if !self.node.fs.options.cache.keeps_pages() || self.is_direct(file) {
            return Ok(0);
        }
        mapping(file.inode())?.share(pos, len, each)
    }

    fn mmap(&self, file: &Arc<File>) -> Result<Backing> {
        let inode = file.inode();
        let mapping = mapping(inode)?;
        if !self.node.fs.options.cache.keeps_pages() && mapping.nr_vmas() == 0 {
            // Nobody has asked since the pages were read whether they are the server's still.
            mapping.drop_clean(0..u64::MAX);
        }
        Ok(Backing::file(file.clone()))
    }

    fn fsync(&self, file: &File, mode: SyncMode) -> Result<()> {
        self.write_back(file.inode())?;
        self.open.fid.sync(mode == SyncMode::Data)
    }

    fn flush(&self, file: &File) -> Result<()> {
        // Others see what was written once it is closed, by the flusher too.
        let is_dirty = |mapping: &Arc<Mapping>| mapping.nr_dirty() > 0 || self.open.can_write;
        if file.inode().mapping().is_some_and(is_dirty) {
            self.write_back(file.inode())?;
        }
        Ok(())
    }

    fn release(&self, file: &File) {
        let has_writer = self.node.writer.lock().is_some();
        if !self.open.can_write || !has_writer {
            return;
        }
        // The last mapping may have gone just now, with pages that it wrote to. Whoever drops it may hold locks.
        let (inode, last) =
            (file.inode().clone(), Regular { node: self.node.clone(), open: self.open.clone() });
        self.node.fs.later(move || {
            if let Err(errno) = last.write_back(&inode) {
                log::error!("9p: a file could not be written after it was closed: {errno}");
            }
        });
    }

    fn check_flags(&self, _file: &File, _flags: OpenFlags) -> Result<()> {
        Ok(())
    }
}
