//! Data that goes through the journal: of all files (`data=journal`), or of those with the flag `+j` (chattr(1)) when the
//! mount option `nodelalloc` is given, without which Linux ignores the flag.
//!
//! Such a page is written by copying it into blocks of the running transaction, as metadata is: with one fsync(2) it and
//! what leads to it are in the journal. It is read through the same blocks, since its home may still have the old bytes.
//! A block that is given up is revoked, so that a replay does not write over what is there then.

use core::sync::atomic::Ordering::*;

use abi::{Errno, Result};
use ext4_image::extent::Mapping as Found;
use ext4_image::inode::flags;
use ext4_image::{Blocks, Edit, Error, Seal};
use hal::frame::Frame;
use hal::{PAGE_SHIFT, PAGE_SIZE};
use vfs::Inode;

use crate::file::mapping;
use crate::node::Node;
use crate::pages::{Room, zero};

/// Blocks of data that one handle carries, beside what mapping them changes.
const MAX_BLOCKS: u64 = 24;

impl Node {
    /// Whether its data goes through the journal.
    pub(crate) fn journals_data(&self) -> bool {
        let layout = &self.fs.layout;
        let is_asked = || layout.heeds_journal_flag && self.flags.load(Relaxed) & flags::JOURNAL_DATA != 0;
        layout.journal_ino != 0 && (layout.journals_data || is_asked())
    }

    /// As [`Node::write_some`], into the running transaction.
    pub(crate) fn write_journaled(&self, at: u64, to: u64, first: u64, frames: &[Frame]) -> Result<u64> {
        let bits = self.fs.layout.block_bits;
        let limit = to.min(at + MAX_BLOCKS);
        let handle = self.fs.begin()?;
        let pieces = handle.run(|layout, txn| {
            let pieces = self.map_for_write(layout, txn, at, limit, Room::Promised)?;
            for piece in &pieces {
                for nth in 0..piece.len {
                    let pos = (piece.logical + nth) << bits;
                    let idx = usize::try_from((pos >> PAGE_SHIFT).wrapping_sub(first)).unwrap_or(usize::MAX);
                    let frame = frames.get(idx).ok_or(Error::Io)?;
                    let bytes = txn.create(piece.physical + nth, Seal::None)?;
                    frame.read((pos % PAGE_SIZE as u64) as usize, bytes);
                }
            }
            Ok(pieces)
        })?;
        let end = pieces.last().map_or(at, |piece| piece.logical + piece.len);
        if end == at {
            return Err(Errno::ENOSPC);
        }
        self.note_written(&handle, &pieces, end)?;
        handle.run(|_, txn| {
            self.data_changed(txn);
            Ok(())
        })?;
        self.release_written(at, end, to);
        Ok(end)
    }

    /// Fills `frames` with the pages from `first` on. `false`: the contents lie in the inode.
    pub(crate) fn read_journaled(&self, first: u64, frames: &[Frame]) -> Result<bool> {
        let bits = self.fs.layout.block_bits;
        let size = self.vfs.get().and_then(alloc::sync::Weak::upgrade).map_or(0, |inode| inode.size());
        for (idx, frame) in (first..).zip(frames) {
            frame.zero(0..PAGE_SIZE);
            let from = idx << (PAGE_SHIFT - bits);
            let to = ((idx + 1) << (PAGE_SHIFT - bits)).min(size.div_ceil(1 << bits));
            let Some(pieces) = self.written_pieces(from, to)? else { return Ok(false) };
            for piece in pieces {
                for nth in 0..piece.len {
                    let block = self.fs.look(|_, view| view.read(piece.physical + nth))?;
                    let offset = ((piece.logical + nth) << bits) % PAGE_SIZE as u64;
                    frame.write(offset as usize, block.bytes());
                }
            }
        }
        zero(first, frames, size.max(first << PAGE_SHIFT), (first + frames.len() as u64) << PAGE_SHIFT);
        Ok(true)
    }

    /// Has all that the journal knows of the file's data home, and no copy of it in memory, before that goes another way.
    /// The inode's `sem` is held for writing.
    pub(crate) fn leave_journal(&self, inode: &Inode) -> Result<()> {
        mapping(inode)?.write_back(0..u64::MAX)?;
        self.fs.commit_and_checkpoint()?;
        let end = inode.size().div_ceil(1 << self.fs.layout.block_bits);
        let mut at = 0;
        while at < end {
            let logical = u32::try_from(at).map_err(|_| Errno::EFBIG)?;
            let found = self.look_at_blocks(|layout, view| self.find(layout, view, &mut None, logical))?;
            // `None`: it lies in its inode, which is metadata.
            let Some(found) = found else { return Ok(()) };
            at += match found {
                Found::Hole(len) => u64::from(len),
                Found::Extent(extent) => {
                    for nr in extent.physical..extent.physical + u64::from(extent.len) {
                        self.fs.cache.remove(nr);
                    }
                    u64::from(extent.len)
                }
            };
        }
        Ok(())
    }
}
