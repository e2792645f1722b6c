//! Files that swap goes to.
//!
//! Where the blocks are is looked up once, at swapon(2); then pages go to and from them past the page cache, the journal
//! and all locks of the file system, since reclaim must not wait for any of these. The blocks stay where they are
//! for as long as that lasts ([`SwapUse`]).
//!
//! Source: swapon(2), "Notes": a file with holes cannot be used.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::PAGE_SHIFT;
use hal::frame::Frame;
use mm::swap::SwapDevice;
use vfs::inode::SwapUse;
use vfs::{Inode, SyncMode};

use crate::disk::Transfer;
use crate::fs::Fs;
use crate::node::node;
use crate::pages::Piece;

/// See the file's head.
pub(crate) struct SwapFile {
    fs: Arc<Fs>,
    /// In the order of the file, without a gap.
    pieces: Vec<Piece>,
    nr_pages: u64,
    _use: SwapUse,
}

impl SwapFile {
    /// Has the file's blocks on the device and keeps them there. May sleep.
    ///
    /// `EINVAL`: not a regular file, or one with holes. `EBUSY`: swap goes there. `EIO` and others: the device's.
    pub(crate) fn new(inode: &Arc<Inode>) -> Result<Self> {
        let in_use = SwapUse::begin(inode)?;
        let node = node(inode)?;
        inode.mapping().ok_or(Errno::EINVAL)?.write_back(0..u64::MAX)?;
        node.sync(inode, SyncMode::Full)?;
        {
            // What is in the journal would go over what is swapped there.
            let _exclusive = inode.sem.write();
            node.flights.settle();
            node.leave_journal(inode)?;
        }
        let nr_pages = inode.size() >> PAGE_SHIFT;
        let pieces = node.pieces_before(nr_pages * node.fs.blocks_per_page())?;
        Ok(Self { fs: node.fs.clone(), pieces, nr_pages, _use: in_use })
    }

    /// Adds the blocks of page `slot`.
    fn add(&self, transfer: &mut Transfer<'_>, slot: u64, frame: &Frame) -> Result<()> {
        let (bits, per_page) = (self.fs.layout.block_bits, self.fs.blocks_per_page());
        for nth in 0..per_page {
            let block = slot * per_page + nth;
            let at = self.pieces.partition_point(|piece| piece.logical + piece.len <= block);
            let piece = self.pieces.get(at).ok_or(Errno::EIO)?;
            let pos = (piece.physical + (block - piece.logical)) << bits;
            transfer.add(pos, frame, (nth as usize) << bits, 1 << bits)?;
        }
        Ok(())
    }
}

impl SwapDevice for SwapFile {
    fn nr_pages(&self) -> u64 {
        self.nr_pages
    }

    fn read(&self, slot: u64, frame: &Frame) -> Result<()> {
        let mut transfer = self.fs.disk.start_read();
        let added = self.add(&mut transfer, slot, frame);
        // What was begun ends first, in any case: the caller uses the frames again.
        added.and(transfer.wait())
    }

    fn read_many(&self, pages: &[(u64, Frame)]) -> Result<()> {
        let mut transfer = self.fs.disk.start_read();
        let added = pages.iter().try_for_each(|(slot, frame)| self.add(&mut transfer, *slot, frame));
        added.and(transfer.wait())
    }

    fn write(&self, pages: &[(u64, Frame)]) -> Result<()> {
        let mut transfer = self.fs.disk.start_write();
        let added = pages.iter().try_for_each(|(slot, frame)| self.add(&mut transfer, *slot, frame));
        added.and(transfer.wait())
    }

    fn is_partition(&self) -> bool {
        false
    }
}
