//! Bios: what file systems ask a block device for.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result};
use bitflags::bitflags;
use hal::frame::{Frame, FrameSpan};
use hal::sync::IrqLock;
use hal::{PAGE_SIZE, PhysAddr};
use smallvec::SmallVec;

use crate::outcome::FirstError;
use crate::{SECTOR_SHIFT, SECTOR_SIZE};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Fill the segments from the device.
    Read,
    /// Store the segments on the device.
    Write,
    /// Make everything that was completed before durable.
    Flush,
    /// The sectors' contents are no longer needed.
    Discard,
    /// Make the sectors read as zeroes.
    WriteZeroes,
}

impl Op {
    /// Does it carry data in segments?
    pub fn has_data(self) -> bool {
        matches!(self, Op::Read | Op::Write)
    }

    /// Does it change the device?
    pub fn is_write(self) -> bool {
        matches!(self, Op::Write | Op::Discard | Op::WriteZeroes)
    }
}

bitflags! {
    /// How to do it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct BioFlags: u32 {
        /// A write is durable when it completes.
        const FUA = 1;
        /// Flush before the write: what was completed before is durable before this is written.
        const PREFLUSH = 2;
        /// Someone waits for it.
        const SYNC = 4;
        /// Metadata of a file system; for statistics and tracing.
        const META = 8;
        /// Zeroes must keep their space allocated.
        const NO_UNMAP = 16;
        /// Not merged with others: it is a repetition after an error.
        const NO_MERGE = 32;
    }
}

/// A piece of memory: some bytes of frames that follow each other, which are one piece to a device.
#[derive(Clone, Debug)]
pub struct Segment {
    frames: FrameSpan,
    /// Where in the first of them the piece begins.
    offset: u32,
    len: u32,
}

impl Segment {
    /// The physical address of its first byte.
    pub fn paddr(&self) -> PhysAddr {
        PhysAddr(self.frames.paddr().0 + u64::from(self.offset))
    }

    /// Its length in bytes, a multiple of [`SECTOR_SIZE`].
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Has it no bytes? No segment of a bio is so.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies bytes out of it from its byte `at` on. Panics outside of its frames.
    pub fn read(&self, at: usize, buf: &mut [u8]) {
        self.frames.read(self.offset as usize + at, buf);
    }

    /// Copies bytes into it at its byte `at`. Panics outside of its frames.
    pub fn write(&self, at: usize, buf: &[u8]) {
        self.frames.write(self.offset as usize + at, buf);
    }

    /// Bytes that it may still grow by, as its end in its first frame fits into 32 bits.
    fn room(&self) -> u32 {
        (u32::MAX - self.offset).saturating_sub(self.len)
    }

    /// Makes it longer by `len` bytes at `offset` of `frame`, if these are the next ones; did it?
    fn grow(&mut self, frame: &Frame, offset: u32, len: u32) -> bool {
        let end = self.paddr().0 + u64::from(self.len);
        let is_next = end == frame.paddr().0 + u64::from(offset) && len <= self.room();
        // The end is in the last frame, or `frame` is the one behind.
        let grows = is_next && (offset > 0 || self.frames.extend(core::slice::from_ref(frame)) == 1);
        if grows {
            self.len += len;
        }
        grows
    }

    /// Makes it longer, which ends with its last frame, by as many of `frames` as follow; how many.
    fn grow_whole(&mut self, frames: &[Frame]) -> usize {
        let most = self.room() as usize / PAGE_SIZE;
        let nr = self.frames.extend(frames.get(..most).unwrap_or(frames));
        self.len += (nr * PAGE_SIZE) as u32;
        nr
    }

    /// `len` bytes of it from its byte `at` on.
    fn part(&self, at: u32, len: u32) -> Option<Segment> {
        let from = self.offset.checked_add(at)?;
        let frames = self.frames.part(from as usize, len as usize)?;
        Some(Segment { frames, offset: from % PAGE_SIZE as u32, len })
    }

    /// Whether memory at `offset` of a page does not go on, as pages see it, where this ends: not both are borders of pages.
    fn has_gap_before(&self, offset: u32) -> bool {
        !(self.offset + self.len).is_multiple_of(PAGE_SIZE as u32) || !offset.is_multiple_of(PAGE_SIZE as u32)
    }
}

/// The pieces of a bio.
pub type Segments = SmallVec<[Segment; 2]>;

/// What is called when a bio is finished.
pub type Done = Box<dyn FnOnce(Result<()>, &[Segment]) + Send>;

/// An operation on consecutive sectors; see the crate's front page for when and where it completes.
pub struct Bio {
    pub(crate) op: Op,
    pub(crate) flags: BioFlags,
    pub(crate) sector: u64,
    pub(crate) nr_sectors: u64,
    pub(crate) segments: Segments,
    /// Gaps between segments; see [`Limits::max_gaps`](crate::Limits::max_gaps).
    pub(crate) nr_gaps: usize,
    done: Option<Done>,
}

/// How large a request may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Most {
    pub(crate) sectors: u64,
    pub(crate) segments: usize,
    pub(crate) gaps: usize,
}

impl Bio {
    fn new(op: Op, sector: u64, nr_sectors: u64) -> Bio {
        Bio {
            op,
            flags: BioFlags::empty(),
            sector,
            nr_sectors,
            segments: SmallVec::new(),
            nr_gaps: 0,
            done: None,
        }
    }

    /// A read from `sector` on; [`Bio::add`] says where to.
    pub fn read(sector: u64) -> Bio {
        Bio::new(Op::Read, sector, 0)
    }

    /// A write from `sector` on; [`Bio::add`] says what.
    pub fn write(sector: u64) -> Bio {
        Bio::new(Op::Write, sector, 0)
    }

    /// A flush of the device's write cache.
    pub fn flush() -> Bio {
        Bio::new(Op::Flush, 0, 0)
    }

    /// Tells that `nr_sectors` from `sector` on are not needed. `EOPNOTSUPP` at completion: the device cannot.
    pub fn discard(sector: u64, nr_sectors: u64) -> Bio {
        Bio::new(Op::Discard, sector, nr_sectors)
    }

    /// Zeroes `nr_sectors` from `sector` on. `EOPNOTSUPP` at completion: the device cannot; see
    /// [`BlockDevice::write_zeroes`](crate::BlockDevice::write_zeroes) for a way that always works.
    pub fn zeroes(sector: u64, nr_sectors: u64) -> Bio {
        Bio::new(Op::WriteZeroes, sector, nr_sectors)
    }

    /// Adds flags.
    pub fn with_flags(mut self, flags: BioFlags) -> Bio {
        self.flags |= flags;
        self
    }

    /// Calls `done` with the result and the segments when the bio is finished: must not sleep, may submit.
    pub fn on_done(mut self, done: impl FnOnce(Result<()>, &[Segment]) + Send + 'static) -> Bio {
        self.done = Some(Box::new(done));
        self
    }

    /// Appends `len` bytes of `frame` from `offset` on.
    ///
    /// `EINVAL`: not whole sectors, outside of the frame, or the operation has no data. `ENOMEM`.
    pub fn add(&mut self, frame: Frame, offset: usize, len: usize) -> Result<()> {
        let in_frame = offset <= PAGE_SIZE && len <= PAGE_SIZE - offset;
        if !in_frame || len == 0 || !len.is_multiple_of(SECTOR_SIZE) || !self.op.has_data() {
            return Err(Errno::EINVAL);
        }
        self.push(&frame, offset as u32, len as u32)
    }

    /// Appends `len` bytes of `frames`, from byte `offset` of the first on.
    ///
    /// `EINVAL`: as [`Bio::add`], or they have fewer. `ENOMEM`. Some may be appended then.
    pub fn add_frames(&mut self, frames: &[Frame], offset: usize, len: usize) -> Result<()> {
        let room = (frames.len() * PAGE_SIZE).saturating_sub(offset);
        let has_all = offset < PAGE_SIZE && (1..=room).contains(&len);
        let is_whole = (offset | len).is_multiple_of(SECTOR_SIZE);
        if !has_all || !is_whole || !self.op.has_data() {
            return Err(Errno::EINVAL);
        }
        let (mut rest, mut offset, mut left) = (frames, offset, len);
        while left > 0
            && let [frame, behind @ ..] = rest
        {
            let len = left.min(PAGE_SIZE - offset);
            self.push(frame, offset as u32, len as u32)?;
            (left, offset) = (left - len, 0);
            let whole = behind.get(..left / PAGE_SIZE).unwrap_or_default();
            let nr = self.segments.last_mut().map_or(0, |last| last.grow_whole(whole));
            self.nr_sectors += (nr * PAGE_SIZE / SECTOR_SIZE) as u64;
            (left, rest) = (left - nr * PAGE_SIZE, behind.get(nr..).unwrap_or_default());
        }
        Ok(())
    }

    /// Appends bytes of `frame`, to the last segment if they follow it.
    #[inline]
    fn push(&mut self, frame: &Frame, offset: u32, len: u32) -> Result<()> {
        if !self.segments.last_mut().is_some_and(|last| last.grow(frame, offset, len)) {
            self.segments.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            self.put(Segment { frames: FrameSpan::from(frame.clone()), offset, len });
        } else {
            self.nr_sectors += u64::from(len >> SECTOR_SHIFT);
        }
        Ok(())
    }

    /// Appends a segment.
    fn put(&mut self, segment: Segment) {
        self.nr_gaps += usize::from(self.has_gap_before(segment.offset));
        self.nr_sectors += u64::from(segment.len >> SECTOR_SHIFT);
        self.segments.push(segment);
    }

    /// Whether a segment that begins at `offset` of a page would leave a gap behind the last.
    fn has_gap_before(&self, offset: u32) -> bool {
        self.segments.last().is_some_and(|last| last.has_gap_before(offset))
    }

    /// Gaps that it would add to what ends with `before`.
    pub(crate) fn nr_gaps_after(&self, before: &Bio) -> usize {
        let border = self.segments.first().is_some_and(|first| before.has_gap_before(first.offset));
        self.nr_gaps + usize::from(border)
    }

    /// Whether it can be a request.
    pub(crate) fn fits(&self, most: Most) -> bool {
        self.nr_sectors <= most.sectors && self.segments.len() <= most.segments && self.nr_gaps <= most.gaps
    }

    /// The operation.
    pub fn op(&self) -> Op {
        self.op
    }

    /// The first sector; after submission counted from the start of the disk.
    pub fn sector(&self) -> u64 {
        self.sector
    }

    /// How many sectors.
    pub fn nr_sectors(&self) -> u64 {
        self.nr_sectors
    }

    /// The sector behind the last; saturates.
    pub fn end_sector(&self) -> u64 {
        self.sector.saturating_add(self.nr_sectors)
    }

    /// Where the data is.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Finishes it.
    pub(crate) fn complete(mut self, result: Result<()>) {
        self.finish(result);
    }

    fn finish(&mut self, result: Result<()>) {
        if let Some(done) = self.done.take() {
            done(result, &self.segments);
        }
    }

    /// Puts `wrap` around `done`.
    pub(crate) fn wrap_done(
        &mut self,
        wrap: impl FnOnce(Result<()>, Option<Done>, &[Segment]) + Send + 'static,
    ) {
        let inner = self.done.take();
        self.done = Some(Box::new(move |result, segments| wrap(result, inner, segments)));
    }

    /// Cuts it into pieces that fit; it completes with the last of them, with the first error.
    pub(crate) fn split(self, most: Most) -> SmallVec<[Bio; 4]> {
        let mut pieces = SmallVec::new();
        let (op, flags) = (self.op, self.flags);
        let mut sector = self.sector;
        if op.has_data() {
            let mut piece = Bio::new(op, sector, 0).with_flags(flags);
            for segment in &self.segments {
                let mut at = 0;
                let mut left = u64::from(segment.len >> SECTOR_SHIFT);
                while left > 0 {
                    let is_full = piece.nr_sectors >= most.sectors
                        || piece.segments.len() >= most.segments
                        || piece.nr_gaps >= most.gaps
                            && piece.has_gap_before(segment.offset.wrapping_add(at));
                    if is_full {
                        sector += piece.nr_sectors;
                        pieces
                            .push(core::mem::replace(&mut piece, Bio::new(op, sector, 0).with_flags(flags)));
                    }
                    let n = left.min(most.sectors - piece.nr_sectors);
                    let len = (n as u32) << SECTOR_SHIFT;
                    if let Some(part) = segment.part(at, len) {
                        piece.put(part);
                    }
                    at += len;
                    left -= n;
                }
            }
            pieces.push(piece);
        } else {
            let mut left = self.nr_sectors;
            while left > 0 {
                let n = left.min(most.sectors);
                pieces.push(Bio::new(op, sector, n).with_flags(flags));
                sector += n;
                left -= n;
            }
        }
        Split::join(self, &mut pieces);
        pieces
    }
}

impl Drop for Bio {
    fn drop(&mut self) {
        self.finish(Err(Errno::EIO));
    }
}

impl core::fmt::Debug for Bio {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Bio({:?} {}+{} {:?})", self.op, self.sector, self.nr_sectors, self.flags)
    }
}

/// A bio that waits for its pieces.
struct Split {
    whole: IrqLock<Option<Bio>>,
    left: AtomicU32,
    error: FirstError,
}

impl Split {
    fn join(whole: Bio, pieces: &mut [Bio]) {
        let split = Arc::new(Split {
            whole: IrqLock::new("block.split", Some(whole)),
            left: AtomicU32::new(pieces.len() as u32),
            error: FirstError::new(),
        });
        for piece in pieces {
            let split = split.clone();
            piece.done = Some(Box::new(move |result, _| split.finished(result)));
        }
    }

    fn finished(&self, result: Result<()>) {
        self.error.note(result);
        // AcqRel: the last one sees the others' errors.
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(whole) = self.whole.lock().take()
        {
            whole.complete(self.error.outcome());
        }
    }
}
