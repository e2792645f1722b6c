//! fallocate(2) with `COLLAPSE_RANGE` and `INSERT_RANGE`: a part of a file is taken out, or room made in it.
//!
//! Pages behind the place are written and dropped, then the extents move, some under each handle. A crash in between
//! leaves a sound file system and a file whose parts moved in part, as on Linux.

use alloc::sync::Arc;
use core::ops::Range;

use abi::{Errno, Result};
use ext4_image::extent::{self, Shift};
use hal::{PAGE_SHIFT, PAGE_SIZE};
use mm::mapping::Frozen;
use vfs::Inode;

use crate::file::mapping;
use crate::node::Node;

/// Extents that move under one handle; each may change a block of its own.
const BUDGET: usize = 24;
/// Tries to have no dirty page behind the place.
const TRIES: usize = 8;

impl Node {
    /// `EINVAL` unless `range` is of whole blocks.
    fn check_blocks(&self, range: &Range<u64>) -> Result<(u32, u32)> {
        let mask = (1 << self.fs.layout.block_bits) - 1;
        if (range.start | range.end) & mask != 0 {
            return Err(Errno::EINVAL);
        }
        let block = |at: u64| u32::try_from(at >> self.fs.layout.block_bits).map_err(|_| Errno::EFBIG);
        Ok((block(range.start)?, block(range.end - range.start)?))
    }

    /// Has the pages from byte `at` on written, dropped, and kept away while the result lives. `EBUSY`: others make them
    /// dirty all the time.
    fn clear_cache<'a>(&self, inode: &'a Inode, at: u64) -> Result<Frozen<'a>> {
        let mapping = mapping(inode)?;
        let start = at & !(PAGE_SIZE as u64 - 1);
        for _ in 0..TRIES {
            mapping.write_back(start..u64::MAX)?;
            let frozen = mapping.freeze();
            // A store through a mapping may come at any moment: it must not go with its page.
            if frozen.drop_unless_dirty(start..!(PAGE_SIZE as u64 - 1)) {
                self.release_range(start >> PAGE_SHIFT..u64::MAX);
                return Ok(frozen);
            }
        }
        Err(Errno::EBUSY)
    }

    /// Moves the extents from block `at` on.
    fn shift_extents(&self, at: u32, start: u64, how: Shift) -> Result<()> {
        let mut next = Some(start);
        while let Some(from) = next {
            next = self.fs.begin()?.run(|layout, txn| {
                let mut raw = self.load(layout, txn)?;
                let next = extent::shift(layout, txn, &mut raw, at, from, how, BUDGET);
                *self.last.lock() = None;
                self.data_changed(txn);
                next
            })?;
        }
        Ok(())
    }

    /// Takes the bytes `range` out of the file; what is behind follows. The inode's `sem` is held for writing.
    ///
    /// `EINVAL`: not whole blocks, or up to the end of the file.
    pub(crate) fn collapse(&self, inode: &Arc<Inode>, range: Range<u64>) -> Result<()> {
        let (first, count) = self.check_blocks(&range)?;
        if range.end >= inode.size() {
            return Err(Errno::EINVAL);
        }
        let frozen = self.clear_cache(inode, range.start)?;
        self.unmap(first, u64::from(first) + u64::from(count))?;
        let behind = first + count;
        self.shift_extents(behind, behind.into(), Shift::Down(count))?;
        frozen.truncate(inode.size() - (range.end - range.start));
        self.write_size(inode)
    }

    /// Makes room for the bytes `range`: what was there moves behind. The inode's `sem` is held for writing.
    ///
    /// `EINVAL`: not whole blocks, or behind the end. `EFBIG`: the file would be too long. `ENOSPC`.
    pub(crate) fn insert_range(&self, inode: &Arc<Inode>, range: Range<u64>) -> Result<()> {
        let len = range.end - range.start;
        let (first, count) = self.check_blocks(&range)?;
        let size = inode.size().checked_add(len).filter(|size| *size <= inode.sb().max_bytes());
        let size = size.ok_or(Errno::EFBIG)?;
        if range.start >= inode.size() {
            return Err(Errno::EINVAL);
        }
        let frozen = self.clear_cache(inode, range.start)?;
        self.fs.begin()?.run(|layout, txn| {
            let mut raw = self.load(layout, txn)?;
            let split = extent::split_at(layout, txn, &mut raw, first);
            *self.last.lock() = None;
            self.data_changed(txn);
            split
        })?;
        frozen.truncate(size);
        self.write_size(inode)?;
        self.shift_extents(first, 1 << 32, Shift::Up(count))
    }
}
