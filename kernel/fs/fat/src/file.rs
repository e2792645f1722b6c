//! Regular files: their pages and their size.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::*;

use abi::{Errno, Result};
use block::{Bio, BioFlags};
use fat_image::free_chain;
use hal::frame::Frame;
use hal::sync::LazyLock;
use hal::uio::{Dest, Src};
use hal::{PAGE_SHIFT, PAGE_SIZE};
use mm::{Mapping, PageSource};
use sched::Interruptible;
use security::Cred;
use vfs::{File, FileOps, Inode, ShowPart, SyncMode};

use crate::node::{Node, node};

/// The operations have no state, so one object serves all open files.
pub(crate) static REGULAR: LazyLock<Arc<dyn FileOps>> = LazyLock::new(|| Arc::new(Regular));

struct Regular;

/// Clusters that a file gets at a time: other files have their turn in between.
const MAX_CLUSTERS: usize = 1024;
/// Zeroes that a growing file is filled with at a time.
const ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

fn mapping(inode: &Inode) -> Result<&Arc<Mapping>> {
    inode.mapping().ok_or(Errno::EINVAL)
}

impl FileOps for Regular {
    fn read(&self, file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        node(file.inode())?.fs.volume.check_there()?;
        mapping(file.inode())?.read(pos, dst)
    }

    fn write(&self, file: &File, src: &mut Src<'_>, pos: u64) -> Result<usize> {
        let inode = file.inode();
        let node = node(inode)?;
        node.fs.volume.check_there()?;
        if pos > inode.size() {
            node.grow(inode, pos)?;
        }
        let done = node.write_at(inode, pos, src)?;
        let is_sync = abi::fs::OpenFlags::SYNC | abi::fs::OpenFlags::DSYNC;
        if file.flags().intersects(is_sync) && done > 0 {
            inode.touch_mtime();
            node.sync(inode)?;
        }
        Ok(done)
    }

    fn share(&self, file: &File, pos: u64, len: usize, each: &mut ShowPart<'_>) -> Result<usize> {
        mapping(file.inode())?.share(pos, len, each)
    }

    fn fsync(&self, file: &File, _mode: SyncMode) -> Result<()> {
        node(file.inode())?.sync(file.inode())
    }

    fn fallocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        const KEEP_SIZE: u32 = 1;
        let inode = file.inode();
        let node = node(inode)?;
        node.fs.volume.check_there()?;
        let end = offset.saturating_add(len);
        match mode {
            // What is behind the end goes when the file is closed.
            KEEP_SIZE => node.reserve(end),
            0 if end > inode.size() => {
                node.grow(inode, end)?;
                node.write_record(inode)
            }
            0 => Ok(()),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn ioctl_by(
        &self,
        file: &Arc<File>,
        cmd: u32,
        arg: usize,
        cred: &dyn Fn() -> Arc<Cred>,
    ) -> Result<usize> {
        crate::ioctl::ioctl(file, cmd, arg, cred)
    }

    fn release(&self, file: &File) {
        if let Ok(node) = node(file.inode()) {
            node.closed();
        }
    }

    fn flush(&self, file: &File) -> Result<()> {
        let node = node(file.inode())?;
        let flushes = node.fs.options.lock().flushes;
        if flushes && file.flags().can_write() { node.sync(file.inode()) } else { Ok(()) }
    }
}

/// A part of a file that lies in one piece on the device.
struct Run {
    /// First byte in the file, and on the device.
    pos: u64,
    at: u64,
    len: u64,
}

impl Node {
    /// Writes pages and record, and has them durable.
    pub(crate) fn sync(&self, inode: &Arc<Inode>) -> Result<()> {
        let written = match inode.mapping() {
            Some(mapping) => mapping.write_back(0..u64::MAX),
            None => Ok(()),
        };
        written.and(self.write_record(inode)).and(self.fs.flush())
    }

    /// Sets the size. `ENOSPC`, `EFBIG`.
    pub(crate) fn set_size(&self, inode: &Arc<Inode>, size: u64) -> Result<()> {
        if size > inode.size() {
            self.opened();
            let grown = self.grow(inode, size);
            self.closed();
            grown?;
            return self.write_record(inode);
        }
        let frozen = mapping(inode)?.freeze();
        frozen.truncate(size);
        let keep = size.div_ceil(self.fs.layout.cluster_size.into()) as usize;
        self.fs.with(|meta| {
            self.with_chain(meta, |meta, list| {
                free_chain(&self.fs.layout, &self.fs.volume, &mut meta.table, list, keep)
            })?;
            self.store(inode)
        })
    }

    /// Writes `src` to the pages, which have clusters then.
    fn write_at(&self, inode: &Inode, pos: u64, src: &mut Src<'_>) -> Result<usize> {
        // A dirty page is not asked for again, and may have lost the clusters behind the end when the file was closed.
        let page_end = (pos / PAGE_SIZE as u64 + 1) << PAGE_SHIFT;
        self.reserve(page_end.min(pos.saturating_add(src.remaining() as u64)))?;
        mapping(inode)?.write(pos, src)
    }

    /// Gives the file clusters for its bytes up to `end`, if need be when those of removed files are free. `EINTR`: the thread is
    /// to die; what it has got stays until the file is closed.
    fn reserve(&self, end: u64) -> Result<()> {
        if self.has_clusters_to(end) {
            return Ok(());
        }
        if self.extend_chain(end) == Err(Errno::ENOSPC) {
            self.fs.wait_for_evictions();
            self.extend_chain(end)?;
        }
        Ok(())
    }

    /// Frees the clusters behind the end that pages were given, unless somebody may be about to write to them.
    pub(crate) fn free_spare(&self, inode: &Inode) -> Result<()> {
        let fs = &self.fs;
        fs.with(|meta| {
            self.with_chain(meta, |meta, list| {
                self.has_spare.store(true, SeqCst);
                // Who opens it from now on waits for the lock before it sees its clusters.
                if self.nr_open.load(SeqCst) > 0 || !self.has_spare.swap(false, SeqCst) {
                    return Ok(());
                }
                let keep = inode.size().div_ceil(fs.layout.cluster_size.into()) as usize;
                free_chain(&fs.layout, &fs.volume, &mut meta.table, list, keep)
            })?;
            self.store(inode)
        })
    }

    /// Fills the file up to `size` with zeroes: there are no holes. `EFBIG`, `ENOSPC`; `EINTR`: the thread is to die.
    fn grow(&self, inode: &Arc<Inode>, size: u64) -> Result<()> {
        if size > inode.sb().max_bytes() {
            return Err(Errno::EFBIG);
        }
        let (mapping, old) = (mapping(inode)?, inode.size());
        let mut at = old;
        while at < size {
            if sched::current().is_interrupted(Interruptible::Killable) {
                mapping.truncate(old);
                return Err(Errno::EINTR);
            }
            let len = (size - at).min(PAGE_SIZE as u64 - at % PAGE_SIZE as u64) as usize;
            let zeroes = ZEROES.get(..len).unwrap_or_default();
            match self.write_at(inode, at, &mut Src::kernel(zeroes)) {
                Ok(done) if done > 0 => at += done as u64,
                failed => {
                    mapping.truncate(old);
                    return Err(failed.err().unwrap_or(Errno::EIO));
                }
            }
        }
        Ok(())
    }

    /// Where the bytes `from..to` are, as far as there are clusters.
    fn runs(&self, from: u64, to: u64) -> Result<Vec<Run>> {
        let layout = &self.fs.layout;
        self.fs.with(|meta| {
            self.with_chain(meta, |_, list| {
                let mut runs: Vec<Run> = Vec::new();
                let to = to.min(list.len() as u64 * u64::from(layout.cluster_size));
                let mut pos = from;
                while pos < to {
                    let (at, left) = layout.locate(list, pos)?;
                    let len = u64::from(left).min(to - pos);
                    match runs.last_mut().filter(|run| run.at + run.len == at) {
                        Some(run) => run.len += len,
                        None => {
                            runs.try_reserve(1).map_err(|_| fat_image::Error::NoMemory)?;
                            runs.push(Run { pos, at, len });
                        }
                    }
                    pos += len;
                }
                Ok(runs)
            })
        })
    }

    /// Reads or writes runs from or to `frames`, the first of which is page `first`.
    fn transfer(&self, runs: &[Run], first: u64, frames: &[Frame], is_write: bool) -> Result<()> {
        for run in runs {
            let sector = run.at >> block::SECTOR_SHIFT;
            let mut bio =
                if is_write { Bio::write(sector) } else { Bio::read(sector) }.with_flags(BioFlags::SYNC);
            let (mut pos, end) = (run.pos, run.pos + run.len);
            while pos < end {
                let offset = (pos % PAGE_SIZE as u64) as usize;
                let len = (end - pos).min((PAGE_SIZE - offset) as u64) as usize;
                let nth = usize::try_from((pos >> PAGE_SHIFT).wrapping_sub(first)).unwrap_or(usize::MAX);
                bio.add(frames.get(nth).ok_or(Errno::EIO)?.clone(), offset, len)?;
                pos += len as u64;
            }
            self.fs.device.submit_and_wait(bio)?;
        }
        Ok(())
    }

    /// Gives the file clusters for its bytes up to `end`.
    fn extend_chain(&self, end: u64) -> Result<()> {
        let fs = &self.fs;
        let size = u64::from(fs.layout.cluster_size);
        loop {
            let is_done = fs.with(|meta| {
                self.with_chain(meta, |meta, list| {
                    for _ in 0..MAX_CLUSTERS {
                        if (list.len() as u64) * size >= end {
                            return Ok(true);
                        }
                        self.has_spare.store(true, SeqCst);
                        meta.table.append(&fs.layout, &fs.volume, list)?;
                    }
                    Ok(false)
                })
            })?;
            if is_done {
                return Ok(());
            }
            if sched::current().is_interrupted(Interruptible::Killable) {
                return Err(Errno::EINTR);
            }
        }
    }

    fn size(&self) -> u64 {
        self.vfs.get().and_then(Weak::upgrade).map_or(0, |inode| inode.size())
    }
}

impl PageSource for Node {
    fn read_page(&self, idx: u64, frame: &Frame) -> Result<()> {
        self.read_pages(idx, core::slice::from_ref(frame))
    }

    fn read_pages(&self, first: u64, frames: &[Frame]) -> Result<()> {
        let sector = u64::from(self.fs.layout.sector_size);
        let (from, end) = (first << PAGE_SHIFT, (first + frames.len() as u64) << PAGE_SHIFT);
        let size = self.size();
        let runs = self.runs(from, end.min(size.next_multiple_of(sector)))?;
        self.transfer(&runs, first, frames, false)?;
        let covered = runs.last().map_or(from, |run| run.pos + run.len).min(size.max(from));
        for (idx, frame) in (first..).zip(frames) {
            let base = idx << PAGE_SHIFT;
            let start = covered.clamp(base, base + PAGE_SIZE as u64) - base;
            frame.zero(start as usize..PAGE_SIZE);
        }
        Ok(())
    }

    fn max_ahead(&self) -> usize {
        // Whoever needs one of them waits for all.
        self.fs.device.disk().read_ahead_pages().min(4 * mm::mapping::DEFAULT_AHEAD)
    }

    fn write_page(&self, idx: u64, frame: &Frame) -> Result<()> {
        self.write_pages(idx, core::slice::from_ref(frame))
    }

    fn write_pages(&self, first: u64, frames: &[Frame]) -> Result<()> {
        let sector = u64::from(self.fs.layout.sector_size);
        let (from, end) = (first << PAGE_SHIFT, (first + frames.len() as u64) << PAGE_SHIFT);
        let size = self.size();
        self.extend_chain(size)?;
        let to = end.min(size.next_multiple_of(sector));
        let runs = self.runs(from, to)?;
        let covered: u64 = runs.iter().map(|run| run.len).sum();
        self.transfer(&runs, first, frames, true)?;
        if from + covered < to {
            return Err(Errno::EIO);
        }
        match self.vfs.get().and_then(Weak::upgrade) {
            Some(inode) => self.write_record(&inode),
            None => Ok(()),
        }
    }

    fn prepare_write(&self, idx: u64) -> Result<()> {
        self.fs.volume.check_there()?;
        let size = u64::from(self.fs.layout.cluster_size);
        let max = self.vfs.get().and_then(Weak::upgrade).map_or(0, |inode| inode.sb().max_bytes());
        let end = ((idx + 1) << PAGE_SHIFT).min(max.next_multiple_of(size));
        self.reserve(end)?;
        self.pages_dirty();
        Ok(())
    }
}
