//! The page cache's side of a file: reading pages, promising blocks to dirty ones, writing them back.
//!
//! Write-back allocates: each run of pages without blocks gets adjacent blocks as far as there are. Data is on the
//! device before the transaction that makes it visible can commit, because the handle is held over the I/O.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::*;

use abi::{Errno, Result};
use ext4_image::block::Freed;
use ext4_image::extent::{self, Extent, Mapping as Found, RemoveOutcome};
use ext4_image::inode::{self as disk, flags};
use ext4_image::superblock::Incompat;
use ext4_image::{Blocks, Edit, Error, Layout, alloc_blocks, alloc_unpromised, dir, free_blocks, inline};
use hal::frame::Frame;
use hal::{PAGE_SHIFT, PAGE_SIZE};
use mm::PageSource;
use mm::mapping::Reading;

use crate::disk::{Started, Transfer};
use crate::error::errno;
use crate::fs::Handle;
use crate::node::Node;
use crate::state::{Txn, View};

/// Extents that write-back maps under one handle: each may change a bitmap, a descriptor and nodes of a tree.
const MAX_PIECES: usize = 6;

/// A run of blocks of the file and where it is on the device.
pub(crate) struct Piece {
    /// First block in the file.
    pub(crate) logical: u64,
    pub(crate) len: u64,
    pub(crate) physical: u64,
    /// Blocks of it become written by this.
    pub(crate) is_unwritten: bool,
    /// It was not there before.
    pub(crate) is_new: bool,
}

impl Node {
    pub(crate) fn has_inline_data(&self) -> bool {
        self.flags.load(Relaxed) & flags::INLINE_DATA != 0
    }

    /// As [`Fs::look`](crate::fs::Fs::look), at what is in blocks. `None`: the contents lie in the inode, where they may have gone
    /// a moment ago: write-back does that.
    pub(crate) fn look_at_blocks<R>(
        &self,
        f: impl FnOnce(&Layout, &View<'_>) -> ext4_image::Result<R>,
    ) -> Result<Option<R>> {
        self.fs.look(|layout, view| match f(layout, view) {
            Err(Error::Inline) => Ok(None),
            result => result.map(Some),
        })
    }

    /// What the file has at block `logical`, out of the memory of the last look if it is there.
    ///
    /// `Inline`: its contents lie in the inode.
    pub(crate) fn find(
        &self,
        layout: &Layout,
        blocks: &dyn Blocks,
        raw: &mut Option<disk::Inode>,
        logical: u32,
    ) -> ext4_image::Result<Found> {
        let last = *self.last.lock();
        if let Some(extent) = last
            && logical >= extent.logical
            && u64::from(logical) < extent.end()
        {
            let skipped = logical - extent.logical;
            let physical = extent.physical + u64::from(skipped);
            return Ok(Found::Extent(Extent { logical, len: extent.len - skipped, physical, ..extent }));
        }
        if raw.is_none() {
            *raw = Some(self.load(layout, blocks)?);
        }
        let Some(raw) = raw else { return Err(Error::Io) };
        let found = dir::map(layout, blocks, raw, logical)?;
        if let Found::Extent(extent) = found {
            *self.last.lock() = Some(extent);
        }
        Ok(found)
    }

    /// Where the blocks `from..to` are, holes and unwritten ones left out. `None`: the contents lie in the inode.
    pub(crate) fn written_pieces(&self, from: u64, to: u64) -> Result<Option<Vec<Piece>>> {
        self.look_at_blocks(|layout, view| {
            let mut pieces = Vec::new();
            let (mut at, mut raw) = (from, None);
            while at < to {
                let logical = u32::try_from(at).map_err(|_| Error::TooBig)?;
                match self.find(layout, view, &mut raw, logical)? {
                    Found::Hole(len) => at += u64::from(len),
                    Found::Extent(extent) => {
                        let len = u64::from(extent.len).min(to - at);
                        if !extent.is_unwritten {
                            pieces.try_reserve(1).map_err(|_| Error::NoMemory)?;
                            pieces.push(Piece {
                                logical: at,
                                len,
                                physical: extent.physical,
                                is_unwritten: false,
                                is_new: false,
                            });
                        }
                        at += len;
                    }
                }
            }
            Ok(pieces)
        })
    }

    /// Where the blocks before `to` are, unwritten ones included. `EINVAL`: there is a hole, or no block at all.
    pub(crate) fn pieces_before(&self, to: u64) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        let is_whole = self.look_at_blocks(|layout, view| {
            let (mut at, mut raw) = (0, None);
            while at < to {
                let logical = u32::try_from(at).map_err(|_| Error::TooBig)?;
                let Found::Extent(extent) = self.find(layout, view, &mut raw, logical)? else {
                    return Ok(false);
                };
                let len = u64::from(extent.len).min(to - at);
                let (physical, is_unwritten) = (extent.physical, extent.is_unwritten);
                pieces.try_reserve(1).map_err(|_| Error::NoMemory)?;
                pieces.push(Piece { logical: at, len, physical, is_unwritten, is_new: false });
                at += len;
            }
            Ok(true)
        })?;
        if is_whole == Some(true) && !pieces.is_empty() { Ok(pieces) } else { Err(Errno::EINVAL) }
    }

    /// Fills `frames` from the inode. `false`: the contents have left it.
    fn read_inline(&self, first: u64, frames: &[Frame]) -> Result<bool> {
        let bytes = self.fs.look(|layout, view| {
            let raw = self.load(layout, view)?;
            raw.has_flags(flags::INLINE_DATA).then(|| inline::file(&raw)).transpose()
        })?;
        let Some(bytes) = bytes else { return Ok(false) };
        for (idx, frame) in (first..).zip(frames) {
            let start = usize::try_from(idx << PAGE_SHIFT).unwrap_or(usize::MAX);
            let rest = bytes.get(start..).unwrap_or_default();
            let part = rest.get(..rest.len().min(PAGE_SIZE)).unwrap_or_default();
            frame.write(0, part);
            frame.zero(part.len()..PAGE_SIZE);
        }
        Ok(true)
    }

    /// Moves the contents of a file that lies in its inode to a block, before they change.
    ///
    /// They are on the device before the inode leads to them, and both come with one transaction:
    ///
    /// ```text
    ///   take a block    write the contents there    [inode: map, size stays]    commit
    /// ```
    /// They stay there until the inode is loaded anew. May sleep. `ENOSPC`: nothing has changed.
    pub(crate) fn leave_inode(&self) -> Result<()> {
        if !self.fs.layout.incompat.contains(Incompat::INLINE_DATA) {
            return Ok(());
        }
        // Whoever comes second finds what the first has left, as each looks at the record under the file system's lock.
        if self.keeps_blocks.swap(true, SeqCst) && !self.has_inline_data() {
            return Ok(());
        }
        let handle = self.fs.begin()?;
        let taken = handle.run(|layout, txn| {
            let raw = self.load(layout, txn)?;
            if !raw.has_flags(flags::INLINE_DATA) {
                return Ok(None);
            }
            let bytes = inline::file(&raw)?;
            let is_promised = self.reserved.lock().has(0);
            let room = if is_promised { Room::Promised } else { Room::Free };
            let block = match bytes.is_empty() {
                true => None,
                false => Some(room.take(layout, txn, layout.inode_goal(self.ino), 1)?.0),
            };
            Ok(Some((bytes, block)))
        })?;
        // Somebody else was faster.
        let Some((bytes, block)) = taken else { return Ok(()) };
        let written = block.map_or(Ok(()), |block| self.write_block(block, &bytes));
        handle.run(|layout, txn| {
            let mut raw = self.load(layout, txn)?;
            let is_wanted = written.is_ok() && raw.has_flags(flags::INLINE_DATA);
            let left = match is_wanted {
                true => inline::leave_file(layout, txn, &mut raw, block),
                false => Ok(()),
            };
            if let Some(block) = block.filter(|_| !is_wanted) {
                free_blocks(layout, txn, block, 1, Freed::Data)?;
            }
            left?;
            self.flags.store(raw.flags(), Release);
            *self.last.lock() = None;
            self.data_changed(txn);
            Ok(())
        })?;
        written
    }

    /// Writes the whole file, whose only page is `frame`, to its inode. `false`: it does not go there.
    ///
    /// The page has the promise of a block, should the file grow before it is written.
    fn write_inline(&self, size: u64, frame: &Frame) -> Result<bool> {
        let layout = &self.fs.layout;
        if !layout.incompat.contains(Incompat::INLINE_DATA) || size > layout.inode_size as u64 {
            return Ok(false);
        }
        self.put_inline(size, frame)
    }

    /// As [`write_inline`](Self::write_inline) for a file that may be small enough. Apart, as the bytes are on the stack.
    #[inline(never)]
    fn put_inline(&self, size: u64, frame: &Frame) -> Result<bool> {
        let mut bytes = [0; PAGE_SIZE / 4];
        let Some(bytes) = bytes.get_mut(..size as usize) else { return Ok(false) };
        // In this order: what is stored to the page from here on makes it dirty anew, with a promise of its own.
        let promised = self.reserved.lock().remove_idle(0..1);
        frame.read(0, bytes);
        let put = |layout: &Layout, txn: &mut Txn<'_>| {
            let mut raw = self.load(layout, txn)?;
            let can_be = raw.has_flags(flags::INLINE_DATA) || raw.sectors(layout) == 0;
            if !can_be || self.keeps_blocks.load(SeqCst) {
                return Ok(false);
            }
            if let Some(inode) = self.vfs.get().and_then(alloc::sync::Weak::upgrade) {
                self.put_attributes(&mut raw, &inode);
            }
            if !inline::put_file(layout, txn, &mut raw, bytes)? {
                return Ok(false);
            }
            self.flags.store(raw.flags(), Release);
            self.disk_size.store(size, Release);
            *self.last.lock() = None;
            self.data_changed(txn);
            Ok(true)
        };
        let is_in = self.fs.begin().and_then(|handle| handle.run(put));
        if is_in == Ok(true) || promised > 0 && !self.reserved.lock().add(0) {
            self.fs.unreserve(promised);
        }
        is_in
    }

    /// Writes `bytes` and zeroes behind them to `block`, which is not the file's yet.
    fn write_block(&self, block: u64, bytes: &[u8]) -> Result<()> {
        let bits = self.fs.layout.block_bits;
        let frame = mm::oom::alloc_zeroed()?;
        frame.write(0, bytes);
        let mut transfer = self.fs.disk.start_write();
        transfer.add(block << bits, &frame, 0, 1 << bits)?;
        transfer.wait()
    }

    /// Starts to read the pages from `first` on into `frames`, and zeroes what has no blocks; gives the size of the file, too.
    /// `None`: the contents lie in the inode.
    fn start_read(&self, first: u64, frames: &[Frame]) -> Result<Option<(Transfer<'_>, u64)>> {
        let bits = self.fs.layout.block_bits;
        let from = first << (PAGE_SHIFT - bits);
        let size = self.vfs.get().and_then(alloc::sync::Weak::upgrade).map_or(0, |inode| inode.size());
        let to = (from + frames.len() as u64 * self.fs.blocks_per_page()).min(size.div_ceil(1 << bits));
        let Some(pieces) = self.written_pieces(from, to)? else { return Ok(None) };
        // What no piece covers is zero.
        let mut covered = from << bits;
        let mut transfer = self.fs.disk.start_read();
        for piece in &pieces {
            zero(first, frames, covered, piece.logical << bits);
            covered = (piece.logical + piece.len) << bits;
            self.add_piece(&mut transfer, piece, first, frames)?;
        }
        zero(first, frames, covered, (first + frames.len() as u64) << PAGE_SHIFT);
        Ok(Some((transfer, size)))
    }

    /// Reads the pages from `first` on into `frames`, which need not become pages of the cache. May sleep.
    pub(crate) fn read_frames(&self, first: u64, frames: &[Frame]) -> Result<()> {
        // The contents go into the inode at most once, and leave it once: each look may find that they have just done so.
        loop {
            if self.has_inline_data() && self.read_inline(first, frames)? {
                return Ok(());
            }
            if self.journals_data() {
                if self.read_journaled(first, frames)? {
                    return Ok(());
                }
            } else if let Some((transfer, size)) = self.start_read(first, frames)? {
                transfer.wait()?;
                zero_behind(first, frames, size);
                return Ok(());
            }
        }
    }

    /// Adds the blocks of `piece` to a transfer of `frames`, the first of which is page `first`.
    fn add_piece(
        &self,
        transfer: &mut Transfer<'_>,
        piece: &Piece,
        first: u64,
        frames: &[Frame],
    ) -> Result<()> {
        let bits = self.fs.layout.block_bits;
        let bytes = piece.logical << bits..(piece.logical + piece.len) << bits;
        self.add_bytes(transfer, piece, bytes, first, frames)
    }

    /// As [`Node::add_piece`] for the bytes `bytes` of the file, whole sectors that lie in the piece.
    pub(crate) fn add_bytes(
        &self,
        transfer: &mut Transfer<'_>,
        piece: &Piece,
        bytes: core::ops::Range<u64>,
        first: u64,
        frames: &[Frame],
    ) -> Result<()> {
        let bits = self.fs.layout.block_bits;
        if bytes.is_empty() {
            return Ok(());
        }
        let pos = (piece.physical << bits) + (bytes.start - (piece.logical << bits));
        let nth = usize::try_from((bytes.start >> PAGE_SHIFT).wrapping_sub(first)).unwrap_or(usize::MAX);
        let frames = frames.get(nth..).ok_or(Errno::EIO)?;
        let offset = (bytes.start % PAGE_SIZE as u64) as usize;
        transfer.add_frames(pos, frames, offset, (bytes.end - bytes.start) as usize)
    }

    /// The mapping of the blocks from `at` on, allocated from `room` where there are none, up to a few pieces.
    ///
    /// An error comes with the first piece only: blocks that the file has got are to be written, or taken back.
    pub(crate) fn map_for_write(
        &self,
        layout: &Layout,
        txn: &mut Txn<'_>,
        mut at: u64,
        to: u64,
        room: Room,
    ) -> ext4_image::Result<Vec<Piece>> {
        let mut pieces: Vec<Piece> = Vec::new();
        pieces.try_reserve_exact(MAX_PIECES).map_err(|_| Error::NoMemory)?;
        let mut raw = None;
        while at < to && pieces.len() < MAX_PIECES {
            let goal = pieces.last().map(|before| before.physical + before.len);
            match self.map_piece(layout, txn, &mut raw, at..to, goal, room) {
                Ok(piece) => {
                    at += piece.len;
                    pieces.push(piece);
                }
                // What is mapped so far can be written; the rest has its own try.
                Err(_) if !pieces.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(pieces)
    }

    /// The blocks at the start of `range`, new ones near block `goal` of the device if there are none.
    fn map_piece(
        &self,
        layout: &Layout,
        txn: &mut Txn<'_>,
        raw: &mut Option<disk::Inode>,
        range: core::ops::Range<u64>,
        goal: Option<u64>,
        room: Room,
    ) -> ext4_image::Result<Piece> {
        let (at, left) = (range.start, range.end - range.start);
        let logical = u32::try_from(at).map_err(|_| Error::TooBig)?;
        match self.find(layout, txn, raw, logical)? {
            Found::Extent(extent) => Ok(Piece {
                logical: at,
                len: u64::from(extent.len).min(left),
                physical: extent.physical,
                is_unwritten: extent.is_unwritten,
                is_new: false,
            }),
            Found::Hole(len) => {
                let want = u64::from(len).min(left) as u32;
                // Nobody is to see what they held: neither a direct read before they are written, nor anybody when that fails.
                // A map of blocks cannot tell.
                let has_extents = raw.as_ref().is_some_and(|raw| raw.has_flags(flags::EXTENTS));
                let is_unwritten = has_extents && !self.journals_data();
                let state = if is_unwritten { State::Unwritten } else { State::Written };
                let (physical, len) = self.allocate(layout, txn, logical, want, goal, New { state, room })?;
                *raw = None;
                Ok(Piece { logical: at, len: len.into(), physical, is_unwritten, is_new: true })
            }
        }
    }

    /// Gives back what of `pieces` is new after it could not be written: what was in those blocks before must never show.
    pub(crate) fn take_back(&self, handle: &Handle<'_>, pieces: &[Piece]) -> Result<()> {
        for piece in pieces.iter().filter(|piece| piece.is_new) {
            let (from, to) = (piece.logical as u32, piece.logical + piece.len);
            let mut outcome = RemoveOutcome::More;
            while outcome == RemoveOutcome::More {
                outcome = handle.run(|layout, txn| {
                    let mut raw = self.load(layout, txn)?;
                    let outcome = dir::unmap(layout, txn, &mut raw, from, to, MAX_PIECES);
                    *self.last.lock() = None;
                    self.data_changed(txn);
                    outcome
                })?;
            }
        }
        Ok(())
    }

    /// Gives the file up to `want` adjacent blocks at block `logical`, where there is a hole.
    pub(crate) fn allocate(
        &self,
        layout: &Layout,
        txn: &mut Txn<'_>,
        logical: u32,
        want: u32,
        goal: Option<u64>,
        how: New,
    ) -> ext4_image::Result<(u64, u32)> {
        let mut raw = self.load(layout, txn)?;
        let goal = match goal {
            Some(goal) => goal,
            None => self.goal(layout, txn, &raw, logical)?,
        };
        let max = dir::room(layout, &raw, logical);
        let max = if how.state == State::Unwritten { max.min(extent::MAX_LEN - 1) } else { max };
        if max == 0 {
            return Err(Error::TooBig);
        }
        let (physical, len) = how.room.take(layout, txn, goal, want.min(max))?;
        let new = Extent { logical, len, physical, is_unwritten: how.state == State::Unwritten };
        if let Err(error) = dir::insert_run(layout, txn, &mut raw, new) {
            free_blocks(layout, txn, physical, len.into(), Freed::Data)?;
            return Err(error);
        }
        *self.last.lock() = None;
        self.data_changed(txn);
        Ok((physical, len))
    }

    /// Where a new block at `logical` should be: behind the block before it, or in the inode's group.
    fn goal(
        &self,
        layout: &Layout,
        txn: &dyn Edit,
        raw: &disk::Inode,
        logical: u32,
    ) -> ext4_image::Result<u64> {
        if let Some(before) = logical.checked_sub(1)
            && let Found::Extent(extent) = dir::map(layout, txn, raw, before)?
        {
            return Ok(extent.physical + 1);
        }
        Ok(layout.inode_goal(self.ino))
    }

    /// Writes blocks from `at` on as far as one handle carries; gives where to go on.
    fn write_some(&self, at: u64, to: u64, first: u64, frames: &[Frame]) -> Result<u64> {
        if self.journals_data() {
            return self.write_journaled(at, to, first, frames);
        }
        let handle = self.fs.begin()?;
        let pieces = handle.run(|layout, txn| self.map_for_write(layout, txn, at, to, Room::Promised))?;
        let end = pieces.last().map_or(at, |piece| piece.logical + piece.len);
        if end == at {
            return Err(Errno::ENOSPC);
        }
        let mut transfer = self.fs.disk.start_write();
        let added = pieces.iter().try_for_each(|piece| self.add_piece(&mut transfer, piece, first, frames));
        if let Err(errno) = transfer.wait().and(added) {
            self.take_back(&handle, &pieces)?;
            return Err(errno);
        }
        self.note_written(&handle, &pieces, end)?;
        self.release_written(at, end, to);
        Ok(end)
    }

    /// Writes pages from `first` on, to the inode or to blocks.
    fn put_pages(&self, first: u64, frames: &[Frame]) -> Result<()> {
        let bits = self.fs.layout.block_bits;
        // Kept until the size on the disk is told what was written.
        let inode = self.vfs.get().and_then(alloc::sync::Weak::upgrade);
        let size = inode.as_ref().map_or(0, |inode| inode.size());
        if let (0, [frame], false) = (first, frames, self.journals_data())
            && self.write_inline(size, frame)?
        {
            return Ok(());
        }
        let per_page = self.fs.blocks_per_page();
        let mut at = first * per_page;
        let to = (at + frames.len() as u64 * per_page).min(size.div_ceil(1 << bits));
        self.after_commit(|| self.leave_inode())?;
        while at < to {
            at = self.after_commit(|| self.write_some(at, to, first, frames))?;
        }
        Ok(())
    }

    /// Does `f`, and once more if there was no space: blocks that were freed a moment ago can be had after a commit.
    fn after_commit<R>(&self, f: impl Fn() -> Result<R>) -> Result<R> {
        match f() {
            Err(Errno::ENOSPC) => {
                self.fs.commit(self.fs.running())?;
                f()
            }
            result => result,
        }
    }

    /// Takes back the promises of pages that lie in blocks `from..end`, which were to reach `to`: a page of which more is to be
    /// written keeps its own, and so does one in which the file ends, if somebody has made it dirty again.
    pub(crate) fn release_written(&self, from: u64, end: u64, to: u64) {
        let per_page = self.fs.blocks_per_page();
        let whole = end / per_page;
        let mut reserved = self.reserved.lock();
        let mut gone = reserved.remove(from / per_page..whole);
        if end == to && !end.is_multiple_of(per_page) {
            gone += reserved.remove_idle(whole..whole + 1);
        }
        drop(reserved);
        self.fs.unreserve(gone);
    }

    /// Makes what was written visible: extents as written, and the size on disk.
    pub(crate) fn note_written(&self, handle: &Handle<'_>, pieces: &[Piece], end: u64) -> Result<()> {
        let Some(inode) = self.vfs.get().and_then(alloc::sync::Weak::upgrade) else { return Ok(()) };
        let size = inode.size().min(end << self.fs.layout.block_bits);
        let is_longer = size > self.disk_size.load(Acquire);
        if !is_longer && !pieces.iter().any(|piece| piece.is_unwritten) {
            return Ok(());
        }
        handle.run(|layout, txn| {
            let mut raw = self.load(layout, txn)?;
            // Those that follow each other at once: they may be one extent, which is not split then.
            let follow = |a: &Piece, b: &Piece| {
                (a.is_unwritten, b.is_unwritten) == (true, true) && a.logical + a.len == b.logical
            };
            for run in pieces.chunk_by(follow) {
                let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
                if first.is_unwritten {
                    let len = last.logical + last.len - first.logical;
                    *self.last.lock() = None;
                    extent::mark_written(layout, txn, &mut raw, first.logical as u32, len as u32)?;
                }
            }
            if is_longer {
                raw.set_size(size);
                self.disk_size.store(size, Release);
            }
            self.put_attributes(&mut raw, &inode);
            raw.store(layout, txn)?;
            self.data_changed(txn);
            Ok(())
        })
    }

    /// Takes back the promises of pages that lie in blocks `from..to` now.
    pub(crate) fn release_pages(&self, from: u64, to: u64) {
        let per_page = self.fs.blocks_per_page();
        let gone = self.reserved.lock().remove(from / per_page..to.div_ceil(per_page));
        self.fs.unreserve(gone);
    }

    /// Takes back the promises of pages `pages`, which are gone.
    pub(crate) fn release_range(&self, pages: core::ops::Range<u64>) {
        let gone = self.reserved.lock().remove(pages);
        self.fs.unreserve(gone);
    }

    /// As [`Node::release_range`] for pages that could not be written, or did not become dirty; not of those that somebody
    /// makes dirty meanwhile.
    fn release_idle(&self, pages: core::ops::Range<u64>) {
        let gone = self.reserved.lock().remove_idle(pages);
        self.fs.unreserve(gone);
    }

    /// Promises blocks to the dirty pages that blocks `blocks`, which are about to be freed, begin or end in the middle of: as
    /// long as they had all of theirs, they became dirty without a promise. It is kept by what is freed.
    pub(crate) fn promise_edges(
        &self,
        layout: &Layout,
        txn: &Txn<'_>,
        blocks: core::ops::Range<u64>,
    ) -> ext4_image::Result<()> {
        let per_page = self.fs.blocks_per_page();
        if per_page == 1 {
            return Ok(());
        }
        let Some(inode) = self.vfs.get().and_then(alloc::sync::Weak::upgrade) else { return Ok(()) };
        let Some(mapping) = inode.mapping() else { return Ok(()) };
        for edge in [blocks.start, blocks.end] {
            let idx = edge / per_page;
            let is_dirty = !edge.is_multiple_of(per_page) && mapping.count_pages(idx..idx + 1).dirty > 0;
            if is_dirty && self.maps_page(layout, txn, idx)? && self.reserved.lock().add(idx) {
                self.fs.reserve_freed(1);
            }
        }
        Ok(())
    }

    /// Whether a block map can hold the blocks of page `idx`.
    fn can_reach(&self, idx: u64) -> bool {
        let last = (idx + 1) * self.fs.blocks_per_page() - 1;
        self.flags.load(Relaxed) & flags::EXTENTS != 0
            || self.has_inline_data()
            || u32::try_from(last).is_ok_and(|last| ext4_image::indirect_room(&self.fs.layout, last) > 0)
    }

    /// Whether all blocks of page `idx` that the file reaches have a place.
    fn is_mapped(&self, idx: u64) -> Result<bool> {
        let is_mapped = self.look_at_blocks(|layout, view| self.maps_page(layout, view, idx))?;
        Ok(is_mapped == Some(true))
    }

    /// As [`Node::is_mapped`], to who has the metadata locked.
    fn maps_page(&self, layout: &Layout, blocks: &dyn Blocks, idx: u64) -> ext4_image::Result<bool> {
        let per_page = self.fs.blocks_per_page();
        let (mut at, end, mut raw) = (idx * per_page, (idx + 1) * per_page, None);
        while at < end {
            let logical = u32::try_from(at).map_err(|_| Error::TooBig)?;
            match self.find(layout, blocks, &mut raw, logical)? {
                Found::Hole(_) => return Ok(false),
                Found::Extent(extent) => at += u64::from(extent.len),
            }
        }
        Ok(true)
    }

    /// Has blocks promised to page `idx`, which is about to become dirty, unless it has all of its own.
    fn promise(&self, idx: u64) -> Result<()> {
        if idx > 0 {
            self.leave_inode()?;
        }
        if self.reserved.lock().count_on(idx) || self.is_mapped(idx)? {
            return Ok(());
        }
        self.fs.reserve(1)?;
        let mut reserved = self.reserved.lock();
        let is_new = reserved.add(idx) || !reserved.count_on(idx);
        drop(reserved);
        if !is_new {
            self.fs.unreserve(1);
        }
        Ok(())
    }
}

/// How new blocks are entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Written,
    Unwritten,
}

/// Whose room new blocks take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Their own: it was promised to the pages ([`Fs::reserve`](crate::fs::Fs::reserve)).
    Promised,
    /// What nobody was promised.
    Free,
}

/// What new blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct New {
    pub(crate) state: State,
    pub(crate) room: Room,
}

impl Room {
    fn take(self, layout: &Layout, txn: &mut Txn<'_>, goal: u64, max: u32) -> ext4_image::Result<(u64, u32)> {
        match self {
            Self::Promised => alloc_blocks(layout, txn, goal, max),
            Self::Free => alloc_unpromised(layout, txn, goal, max),
        }
    }
}

impl PageSource for Node {
    fn read_page(&self, idx: u64, frame: &Frame) -> Result<()> {
        self.read_pages(idx, core::slice::from_ref(frame))
    }

    fn read_pages(&self, first: u64, frames: &[Frame]) -> Result<()> {
        self.flights.note_coming();
        self.read_frames(first, frames)
    }

    fn can_begin(&self) -> bool {
        !self.has_inline_data() && !self.journals_data()
    }

    fn begin_read(&self, first: u64, frames: &[Frame]) -> Result<Option<Box<dyn Reading>>> {
        if self.has_inline_data() || self.journals_data() {
            return Ok(None);
        }
        self.flights.note_coming();
        let Some((transfer, size)) = self.start_read(first, frames)? else { return Ok(None) };
        // The transfer keeps the frames; only those that reach behind the end of the file are looked at again.
        let nr_full = usize::try_from((size >> PAGE_SHIFT).saturating_sub(first)).unwrap_or(usize::MAX);
        let last = frames.get(nr_full..).unwrap_or_default();
        let mut kept = Vec::new();
        kept.try_reserve_exact(last.len()).map_err(|_| Errno::ENOMEM)?;
        kept.extend_from_slice(last);
        let first = first.saturating_add(nr_full as u64);
        Ok(Some(Box::new(Ahead { started: transfer.begin(), first, frames: kept, size })))
    }

    fn max_ahead(&self) -> usize {
        let max = self.fs.disk.device().disk().read_ahead_pages();
        // Who cannot begin to read waits for all of it.
        if self.journals_data() { max.min(mm::mapping::DEFAULT_AHEAD) } else { max }
    }

    fn write_page(&self, idx: u64, frame: &Frame) -> Result<()> {
        self.write_pages(idx, core::slice::from_ref(frame))
    }

    fn write_pages(&self, first: u64, frames: &[Frame]) -> Result<()> {
        // Who calls has marked the pages clean: nothing redeems their promises any more.
        self.put_pages(first, frames).inspect_err(|_| self.release_idle(first..first + frames.len() as u64))
    }

    fn became_dirty(&self) {
        self.pages_dirty();
    }

    fn prepare_write(&self, idx: u64) -> Result<()> {
        self.flights.note_coming();
        self.fs.check_writing()?;
        if u32::try_from((idx + 1) * self.fs.blocks_per_page()).is_err() || !self.can_reach(idx) {
            return Err(errno(Error::TooBig));
        }
        match self.promise(idx) {
            // Nobody who comes here has a lock of a page cache. He may be in the middle of a store to user memory, though, and
            // have locks that the end of other files waits for.
            Err(Errno::ENOSPC) => {
                self.fs.regain()?;
                self.promise(idx)?;
            }
            result => result?,
        }
        self.pages_dirty();
        Ok(())
    }

    fn forget_write(&self, idx: u64) {
        self.release_idle(idx..idx.saturating_add(1));
    }
}

/// Pages that are being read ahead.
struct Ahead {
    started: Started,
    /// Those from page `first` on, into which the end of the file falls.
    first: u64,
    frames: Vec<Frame>,
    /// Of the file when it began.
    size: u64,
}

impl Reading for Ahead {
    fn wait(self: Box<Self>) -> Result<()> {
        self.started.wait()?;
        zero_behind(self.first, &self.frames, self.size);
        Ok(())
    }
}

/// Blocks hold whole sectors: what is behind the end of the file may be anything.
fn zero_behind(first: u64, frames: &[Frame], size: u64) {
    zero(first, frames, size.max(first << PAGE_SHIFT), (first + frames.len() as u64) << PAGE_SHIFT);
}

/// Zeroes the bytes `from..to` of the file in `frames`, the first of which is page `first`.
pub(crate) fn zero(first: u64, frames: &[Frame], from: u64, to: u64) {
    if from >= to {
        return;
    }
    for (idx, frame) in (first..).zip(frames) {
        let base = idx << PAGE_SHIFT;
        let start = from.clamp(base, base + PAGE_SIZE as u64) - base;
        let end = to.clamp(base, base + PAGE_SIZE as u64) - base;
        if start < end {
            frame.zero(start as usize..end as usize);
        }
    }
}
