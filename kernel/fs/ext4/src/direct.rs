//! `O_DIRECT`: bytes go between the device and the caller without staying in the page cache.
//!
//! ```text
//!   read    write back what is dirty in the range    read blocks into frames    copy out
//!   write   copy in    write back and drop the pages of the range, keep them away    write blocks    let them come
//!   ... of bytes that have blocks: copy in    write back and drop the pages    write blocks    drop the pages once more
//! ```
//! Files whose data lies in the inode or goes through the journal have no such way: they use the cache, as on Linux.
//! Here a thread waits for the device, and bytes go through frames of the kernel's. What can do without both is begun in [`flight`].
//!
//! [`flight`]: crate::flight
//!
//! # Locks
//!
//! The inode's `sem` is held: for reading by a read, and by a write to bytes that have blocks, so that no block changes its owner
//! meanwhile. Pages that come in while such a write is under way, with what was there before, go when it is done; what a mapping
//! stores to them meanwhile is kept or not, as on Linux. No user memory is
//! touched while the cache is frozen, as it may be a mapping of the file itself.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering::Acquire;

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use ext4_image::extent::Mapping as Found;
use ext4_image::inode::flags;
use hal::frame::Frame;
use hal::uio::{Dest, Src};
use hal::{PAGE_SHIFT, PAGE_SIZE};
use vfs::{File, Inode, RwKind};

use crate::file::mapping;
use crate::fs::Handle;
use crate::node::Node;
use crate::pages::{Piece, Room};

/// The most that is moved at a time.
const CHUNK: u64 = 1 << 20;
/// Tries to get the pages of a range out of the cache while others make them dirty.
const TRIES: usize = 4;

/// Whether `file` is to be read and written past the cache.
pub(crate) fn is_direct(file: &File, node: &Node) -> bool {
    file.flags().contains(OpenFlags::DIRECT) && node.can_direct()
}

/// What new frames hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    /// Zeroes.
    Zeroes,
    /// Anything: all of it that is used gets written.
    Anything,
}

/// Frames for the pages that `range` (bytes) touches. `ENOMEM`.
fn frames(range: &Range<u64>, fill: Fill) -> Result<Vec<Frame>> {
    let count = range.end.div_ceil(PAGE_SIZE as u64) - (range.start >> PAGE_SHIFT);
    let mut frames = Vec::new();
    frames.try_reserve_exact(count as usize).map_err(|_| Errno::ENOMEM)?;
    for _ in 0..count {
        let frame = if fill == Fill::Zeroes { Frame::alloc_zeroed() } else { Frame::alloc() };
        frames.push(frame.ok_or(Errno::ENOMEM)?);
    }
    Ok(frames)
}

/// Each of `frames`, the first of which has the first byte of `range`, with the offset and the length of what it has.
fn parts(frames: &[Frame], range: Range<u64>) -> impl Iterator<Item = (&Frame, usize, usize)> {
    let mut at = range.start;
    frames.iter().map(move |frame| {
        let offset = (at % PAGE_SIZE as u64) as usize;
        let len = (range.end - at).min((PAGE_SIZE - offset) as u64) as usize;
        at += len as u64;
        (frame, offset, len)
    })
}

/// The whole pages that `range` touches.
fn whole_pages(range: &Range<u64>) -> Range<u64> {
    range.start & !(PAGE_SIZE as u64 - 1)..range.end.next_multiple_of(PAGE_SIZE as u64)
}

/// Reads at `pos`. `EINVAL`: not aligned as the device wants it. May sleep.
pub(crate) fn read(node: &Node, inode: &Arc<Inode>, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
    let _shared = inode.sem.read();
    let size = inode.size();
    if pos >= size || dst.remaining() == 0 {
        return Ok(0);
    }
    node.fs.disk.device().check_direct(pos, dst.remaining(), dst.alignment())?;
    let end = pos.saturating_add(dst.remaining() as u64).min(size);
    let mapping = mapping(inode)?;
    mapping.write_back(pos..end)?;
    let mut at = pos;
    while at < end {
        let range = at..end.min(at + CHUNK);
        let copied = read_chunk(node, mapping, dst, range.clone());
        match copied {
            Ok(n) if at + n as u64 == range.end => at = range.end,
            Ok(n) => return Ok((at - pos) as usize + n),
            Err(errno) if at == pos => return Err(errno),
            Err(_) => break,
        }
    }
    Ok((at - pos) as usize)
}

fn read_chunk(node: &Node, mapping: &mm::Mapping, dst: &mut Dest<'_>, range: Range<u64>) -> Result<usize> {
    let frames = frames(&range, Fill::Anything)?;
    // A map of blocks does not tell of new ones that nothing is written to yet, as extents do: write-back has to be over.
    let frozen = (node.flags.load(Acquire) & flags::EXTENTS == 0).then(|| mapping.freeze());
    node.read_frames(range.start >> PAGE_SHIFT, &frames)?;
    drop(frozen);
    let mut done = 0;
    for (frame, offset, len) in parts(&frames, range) {
        match dst.put_frame(frame, offset, len) {
            Ok(n) if n == len => done += n,
            Ok(n) => return Ok(done + n),
            Err(_) if done > 0 => break,
            Err(fault) => return Err(fault.into()),
        }
    }
    Ok(done)
}

/// Writes at `pos`; the inode's `sem` is held for writing. `EINVAL`: not aligned as the device wants it. May sleep.
pub(crate) fn write(node: &Node, inode: &Arc<Inode>, src: &mut Src<'_>, pos: u64) -> Result<usize> {
    node.fs.disk.device().check_direct(pos, src.remaining(), src.alignment())?;
    // Pages that wait may be about to go into the inode.
    node.fs.with_space(|| node.leave_inode())?;
    let old = inode.size();
    if pos > old {
        // Bytes of the last page that are on their way must be there before it is written back.
        node.flights.settle_writes();
        // What a mapping stored behind the end in the last page must not show.
        let mapping = mapping(inode)?;
        mapping.zero_gap(pos)?;
        mapping.write_back(whole_pages(&(old..old + 1)))?;
    }
    let (mut at, mut has_waited) = (pos, false);
    while src.remaining() > 0 {
        let left = src.remaining();
        let range = at..at + (left as u64).min(CHUNK);
        let end = range.end;
        let errno = match write_chunk(node, inode, src, range) {
            Ok(n) => {
                at += n as u64;
                continue;
            }
            Err(errno) => errno,
        };
        // Some of its blocks may be there by now, behind the end.
        if end > inode.size() {
            let _frozen = mapping(inode)?.freeze();
            if let Err(failed) = node.cut(inode) {
                if at > pos {
                    break;
                }
                return Err(failed);
            }
        }
        if errno == Errno::ENOSPC && !has_waited && node.fs.regain_all().is_ok() {
            has_waited = true;
            src.revert(left - src.remaining());
        } else if at == pos {
            return Err(errno);
        } else {
            break;
        }
    }
    Ok((at - pos) as usize)
}

/// Writes at `pos` bytes that have blocks; the inode's `sem` is held for reading. `None`: not all of them have, or a mapping
/// stores to them. Errors as [`write()`].
pub(crate) fn overwrite(
    node: &Node,
    inode: &Arc<Inode>,
    src: &mut Src<'_>,
    pos: u64,
) -> Result<Option<usize>> {
    let len = src.remaining() as u64;
    node.fs.disk.device().check_direct(pos, src.remaining(), src.alignment())?;
    // Writing has stopped: no handle would tell, as none is needed.
    if node.fs.is_aborted.load(Acquire) {
        return Ok(None);
    }
    let range = pos..pos + len;
    if len > CHUNK || range.end > inode.size() || !node.is_written(range.clone())? {
        return Ok(None);
    }
    let mapping = mapping(inode)?;
    if !has_dropped(mapping, &range)? {
        return Ok(None);
    }
    let bits = node.fs.layout.block_bits;
    let (from, to) = (range.start >> bits, range.end.div_ceil(1 << bits));
    let pieces = node.written_pieces(from, to)?.unwrap_or_default();
    // Write-back that was under way, and is over now, may have had to give its new blocks back.
    if pieces.iter().map(|piece| piece.len).sum::<u64>() < to - from {
        return Ok(None);
    }
    let frames = frames(&range, Fill::Anything)?;
    for (frame, offset, len) in parts(&frames, range.clone()) {
        if src.take_into_frame(frame, offset, len)? < len {
            // Part of a block cannot be written.
            return Err(Errno::EFAULT);
        }
    }
    let mut transfer = node.fs.disk.start_write();
    let added = pieces.iter().try_for_each(|piece| {
        let bytes = piece.bytes(bits);
        let bytes = bytes.start.max(range.start)..bytes.end.min(range.end);
        node.add_bytes(&mut transfer, piece, bytes, range.start >> PAGE_SHIFT, &frames)
    });
    let written = transfer.wait().and(added);
    // The bytes are written, whatever becomes of pages that others have stored to meanwhile.
    let _ = has_dropped(mapping, &range);
    written.map(|()| Some(len as usize))
}

/// Has no pages of `range` cached. `false`: a mapping stores to them.
pub(crate) fn has_dropped(mapping: &Arc<mm::Mapping>, range: &Range<u64>) -> Result<bool> {
    let pages = whole_pages(range);
    let idx = pages.start >> PAGE_SHIFT..pages.end >> PAGE_SHIFT;
    if mapping.nr_pages() > 0 && mapping.count_pages(idx).dirty > 0 {
        mapping.write_back(pages.clone())?;
    }
    // Also waits for pages that are just being read, and forgets what of them is being read ahead.
    Ok(mapping.freeze_for(pages.clone()).drop_unless_dirty(pages))
}

fn write_chunk(node: &Node, inode: &Arc<Inode>, src: &mut Src<'_>, range: Range<u64>) -> Result<usize> {
    let frames = frames(&range, Fill::Zeroes)?;
    for (frame, offset, len) in parts(&frames, range.clone()) {
        if src.take_into_frame(frame, offset, len)? < len {
            // Part of a block cannot be written.
            return Err(Errno::EFAULT);
        }
    }
    let mapping = mapping(inode)?;
    let pages = whole_pages(&range);
    for _ in 0..TRIES {
        mapping.write_back(pages.clone())?;
        let frozen = mapping.freeze();
        if frozen.drop_unless_dirty(pages.clone()) {
            node.write_range(inode, &range, &frames, || {
                if range.end > inode.size() {
                    frozen.truncate(range.end);
                }
            })?;
            return Ok((range.end - range.start) as usize);
        }
    }
    // Somebody stores to a mapping of these pages all the time: then they are written as such stores are.
    node.flights.settle_writes();
    let mut done = 0;
    for (frame, offset, len) in parts(&frames, range.clone()) {
        let part = [hal::uio::FramePart { frame: frame.clone(), offset, len }];
        done += mapping.write(range.start + done as u64, &mut Src::parts(&part))?;
    }
    mapping.write_back(pages)?;
    Ok(done)
}

impl Node {
    /// Whether its data is in blocks, which need no journal.
    pub(crate) fn can_direct(&self) -> bool {
        !self.has_inline_data() && !self.journals_data()
    }

    /// Writes the bytes `range`, which are in `frames` where pages have them, to blocks, new ones where there are none;
    /// `written` makes the file so long before the blocks become part of it.
    fn write_range(
        &self,
        inode: &Inode,
        range: &Range<u64>,
        frames: &[Frame],
        mut written: impl FnMut(),
    ) -> Result<()> {
        let bits = self.fs.layout.block_bits;
        let (mut at, to) = (range.start >> bits, range.end.div_ceil(1 << bits));
        let mut has_waited = false;
        while at < to {
            match self.write_blocks(inode, at, range, frames, &mut written) {
                Ok(next) => at = next,
                Err(Errno::ENOSPC) if !has_waited => {
                    has_waited = true;
                    self.fs.finish_evictions();
                    self.fs.commit(self.fs.running())?;
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Writes blocks from `at` on as far as one handle carries; gives where to go on.
    ///
    /// As long as more are to follow that make the file longer, it is on the list of orphans, as in [`Node::cut_some`]: the size
    /// is set with the last ones. [`Node::cut`] takes it off when they do not come.
    pub(crate) fn write_blocks(
        &self,
        inode: &Inode,
        at: u64,
        range: &Range<u64>,
        frames: &[Frame],
        written: &mut impl FnMut(),
    ) -> Result<u64> {
        let bits = self.fs.layout.block_bits;
        let to = range.end.div_ceil(1 << bits);
        let is_longer = range.end > inode.size();
        let end_of = |pieces: &[Piece]| pieces.last().map_or(at, |piece| piece.logical + piece.len);
        let handle = self.fs.begin()?;
        let pieces = handle.run(|layout, txn| {
            let pieces = self.map_for_write(layout, txn, at, to, Room::Free)?;
            if is_longer && end_of(&pieces) < to {
                let mut raw = self.load(layout, txn)?;
                txn.add_orphan(layout, &mut raw)?;
                self.changed(txn);
            }
            Ok(pieces)
        })?;
        let end = end_of(&pieces);
        if end == at {
            return Err(Errno::ENOSPC);
        }
        let first = range.start >> PAGE_SHIFT;
        let mut transfer = self.fs.disk.start_write();
        let added = pieces.iter().try_for_each(|piece| {
            let bytes = piece.bytes(bits);
            // The rest of a block that had no bytes is written as zeroes, which the frames hold there.
            let bytes =
                if piece.is_fresh() { bytes } else { bytes.start.max(range.start)..bytes.end.min(range.end) };
            self.add_bytes(&mut transfer, piece, bytes, first, frames)
        });
        if let Err(errno) = transfer.wait().and(added) {
            self.take_back(&handle, &pieces)?;
            return Err(errno);
        }
        if end == to {
            written();
        }
        self.note_written(&handle, &pieces, end)?;
        if is_longer && end == to {
            self.leave_orphans(&handle, inode)?;
        }
        self.release_pages(at, end);
        Ok(end)
    }

    /// Takes a file that has names off the list of orphans.
    fn leave_orphans(&self, handle: &Handle<'_>, inode: &Inode) -> Result<()> {
        handle.run(|layout, txn| {
            if inode.nlink() > 0 && txn.state.orphans.contains_key(&self.ino) {
                let mut raw = self.load(layout, txn)?;
                txn.remove_orphan(layout, &mut raw)?;
                self.changed(txn);
            }
            Ok(())
        })
    }

    /// Whether the blocks of all bytes of `range` are there and written.
    fn is_written(&self, range: Range<u64>) -> Result<bool> {
        let bits = self.fs.layout.block_bits;
        let (mut at, to, mut raw) = (range.start >> bits, range.end.div_ceil(1 << bits), None);
        let is_written = self.look_at_blocks(|layout, view| {
            while at < to {
                let logical = u32::try_from(at).map_err(|_| ext4_image::Error::TooBig)?;
                match self.find(layout, view, &mut raw, logical)? {
                    Found::Extent(extent) if !extent.is_unwritten => at += u64::from(extent.len),
                    _ => return Ok(false),
                }
            }
            Ok(true)
        })?;
        Ok(is_written == Some(true))
    }

    /// [`vfs::FileOps::nowait`] of a file: the bytes of an access past the cache that nothing stands in the way of, or
    /// those of a read that are cached.
    pub(crate) fn nowait(&self, file: &File, access: RwKind, pos: u64, len: usize) -> Result<usize> {
        let inode = file.inode();
        let mapping = mapping(inode)?;
        let range = pos..pos.saturating_add(len as u64);
        if !is_direct(file, self) {
            return match access {
                RwKind::Read => vfs::rw::cached_prefix(mapping, pos, len),
                RwKind::Write => Err(Errno::EOPNOTSUPP),
            };
        }
        let pages = whole_pages(&range);
        let counts = mapping.count_pages(pages.start >> PAGE_SHIFT..pages.end >> PAGE_SHIFT);
        let is_free = match access {
            RwKind::Read => counts.dirty == 0,
            RwKind::Write => counts.cached == 0 && range.end <= inode.size() && self.is_written(range)?,
        };
        if is_free { Ok(len) } else { Err(Errno::EAGAIN) }
    }
}

impl Piece {
    /// Its bytes in the file.
    fn bytes(&self, bits: u32) -> Range<u64> {
        self.logical << bits..(self.logical + self.len) << bits
    }

    /// Whether nothing was written to it yet.
    fn is_fresh(&self) -> bool {
        self.is_unwritten || self.is_new
    }
}
