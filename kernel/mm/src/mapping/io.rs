//! read(2) and write(2) on the page cache: bytes go straight between frames and the caller's buffers.

use abi::{Errno, Result};
use arrayvec::ArrayVec;
use hal::frame::{Frame, FrameSpan, HUGE_FRAMES, HUGE_ORDER, HUGE_SIZE, HugeFrame};
use hal::uio::{Dest, Src};
use hal::{PAGE_SHIFT, PAGE_SIZE};

use super::{Mapping, Source, note_use, page_flags};
use crate::oom;
use crate::thp::shared::wanted_for_writes;
use crate::thp::sizes::{count_huge, fill_shmem};
use core::sync::atomic::Ordering;

/// Bytes within a page of a file.
pub use hal::uio::FramePart as PagePart;

/// Pages that are looked up at once.
const BATCH: usize = 32;
/// Pieces of memory that they may lie in.
const NR_SPANS: usize = 8;

/// The offset of `pos` in its page.
fn in_page(pos: u64) -> usize {
    (pos % PAGE_SIZE as u64) as usize
}

/// Copies up to `len` bytes of `spans` from byte `offset` of the first on; how many, and whether `dest` took all.
///
/// `EFAULT`: it took none.
fn put_spans(spans: &[FrameSpan], offset: usize, len: usize, dest: &mut Dest<'_>) -> Result<(usize, bool)> {
    let (mut offset, mut done) = (offset, 0);
    for span in spans {
        let part = (len - done).min(span.nr_frames() * PAGE_SIZE - offset);
        match dest.put_span(span, offset, part) {
            Ok(n) if n == part => done += n,
            Ok(n) => return Ok((done + n, false)),
            Err(_) if done > 0 => return Ok((done, false)),
            Err(_) => return Err(Errno::EFAULT),
        }
        offset = 0;
    }
    Ok((done, true))
}

impl Mapping {
    /// Copies bytes from `pos` on, up to the end of the file or of `dest`. Returns how many.
    ///
    /// May sleep. `EFAULT`: the first byte could not be stored. Others: the source's, at the first byte.
    pub fn read(&self, pos: u64, dest: &mut Dest<'_>) -> Result<usize> {
        let size = self.size();
        let mut done = 0;
        while pos + (done as u64) < size && dest.remaining() > 0 {
            let at = pos + done as u64;
            let want = usize::try_from(size - at).unwrap_or(usize::MAX).min(dest.remaining());
            let (idx, offset) = (at >> PAGE_SHIFT, in_page(at));
            // Once for a page that is read in small pieces.
            let used = |at, frame: &Frame| {
                if at != idx || offset == 0 {
                    note_use(frame)
                }
            };
            let spans = self.get_spans(idx, (at + want as u64).div_ceil(PAGE_SIZE as u64), used);
            let put = match spans.is_empty() {
                true => {
                    let len = want.min(PAGE_SIZE - offset);
                    self.read_missing(idx, offset, len, dest).map(|n| (n, n == len))
                }
                false => put_spans(&spans, offset, want, dest),
            };
            match put {
                Ok((n, true)) => done += n,
                Ok((n, false)) => return Ok(done + n),
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// The pages from `first` on that are cached without a gap, up to `end` or the end of a leaf of the tree; at most [`BATCH`].
    fn get_batch(&self, first: u64, end: u64) -> ArrayVec<Frame, BATCH> {
        if self.is_huge() {
            return self.get(first).into_iter().collect();
        }
        let wanted = usize::try_from(end - first).unwrap_or(BATCH).min(BATCH);
        let pages = self.pages.lock();
        pages.frames.run_from(first).iter().take(wanted).map_while(Option::clone).collect()
    }

    /// As [`get_batch`](Self::get_batch), where pages that lie side by side are one piece; shows each to `used`, under the lock.
    fn get_spans(
        &self,
        first: u64,
        end: u64,
        mut used: impl FnMut(u64, &Frame),
    ) -> ArrayVec<FrameSpan, NR_SPANS> {
        let mut spans = ArrayVec::<FrameSpan, NR_SPANS>::new();
        if self.is_huge() {
            spans.extend(self.get(first).map(FrameSpan::from));
            return spans;
        }
        let wanted = usize::try_from(end - first).unwrap_or(BATCH).min(BATCH);
        let pages = self.pages.lock();
        let slots = pages.frames.run_from(first);
        let slots = slots.get(..wanted).unwrap_or(slots);
        let mut run = (first..).zip(slots).map_while(|(idx, page)| Some((idx, page.as_ref()?)));
        let mut next = run.next();
        while let Some((idx, frame)) = next.filter(|_| !spans.is_full()) {
            used(idx, frame);
            let mut span = FrameSpan::from(frame.clone());
            next = run.find(|(idx, frame)| {
                let follows = span.add(frame);
                if follows {
                    used(*idx, frame);
                }
                !follows
            });
            spans.push(span);
        }
        spans
    }

    /// Shows `each` the pages of the `len` bytes from `pos` on, until it says `false`, the file ends or has a hole;
    /// gives the number of bytes shown. May sleep.
    pub fn share(&self, pos: u64, len: usize, each: &mut dyn FnMut(PagePart) -> bool) -> Result<usize> {
        let end = self.size().min(pos.saturating_add(len as u64));
        let mut at = pos;
        while at < end {
            let idx = at >> PAGE_SHIFT;
            let mut batch = self.get_batch(idx, end.div_ceil(PAGE_SIZE as u64));
            if batch.is_empty() {
                let Some(frame) = self.get_missing(idx)? else { break };
                batch.push(frame);
            }
            for frame in batch {
                let offset = in_page(at);
                let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(PAGE_SIZE - offset);
                at += len as u64;
                if !each(PagePart { frame, offset, len }) {
                    return Ok((at - pos) as usize);
                }
            }
        }
        Ok((at - pos) as usize)
    }

    /// Page `idx`, which was not cached a moment ago; `None`: a hole.
    fn get_missing(&self, idx: u64) -> Result<Option<Frame>> {
        match &self.source {
            Source::Shmem(_) => self.get_or_read(idx),
            Source::Huge(_) => Ok(None),
            Source::Pages(_) => self.get_or_fill(idx).map(Some),
        }
    }

    /// Copies `len` bytes at `offset` of page `idx`, which was not cached a moment ago.
    fn read_missing(&self, idx: u64, offset: usize, len: usize, dest: &mut Dest<'_>) -> Result<usize> {
        let copied = match self.get_missing(idx)? {
            Some(frame) => dest.put_frame(&frame, offset, len),
            None => dest.put_zero(len),
        };
        copied.map_err(|_| Errno::EFAULT)
    }

    /// Copies all of `src` into the file at `pos`, which grows when needed. Returns how many bytes.
    ///
    /// The caller holds the inode's lock, and has checked limits on the file's size. May sleep.
    /// `EFAULT`: the first byte could not be read. `ENOSPC`, `ENOMEM`, `EIO`: nothing could be written.
    pub fn write(&self, pos: u64, src: &mut Src<'_>) -> Result<usize> {
        let mut at = pos;
        let mut done = 0;
        let wants_huge = wanted_for_writes(self);
        while src.remaining() > 0 {
            if wants_huge && self.write_huge(at, done == 0, src) {
                done += HUGE_SIZE;
                at += HUGE_SIZE as u64;
                self.size.fetch_max(at, Ordering::AcqRel);
                continue;
            }
            let offset = in_page(at);
            let len = src.remaining().min(PAGE_SIZE - offset);
            match self.write_page(at >> PAGE_SHIFT, offset, len, src) {
                Ok(n) => {
                    done += n;
                    at += n as u64;
                    self.size.fetch_max(at, Ordering::AcqRel);
                    if n < len {
                        break;
                    }
                }
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        if !self.is_shmem() {
            self.throttle();
        }
        Ok(done)
    }

    /// Copies `len` bytes of `src` into page `idx` at `offset`. Returns how many came, at least one.
    fn write_page(&self, idx: u64, offset: usize, len: usize, src: &mut Src<'_>) -> Result<usize> {
        let cached = self.get(idx);
        if cached.is_none() && self.is_shmem() {
            match self.write_new(idx, offset, len, src) {
                // It is in swap, or was a moment ago: nothing was taken.
                Err(Errno::EAGAIN) => {}
                done => return done,
            }
        }
        let frame = match cached {
            Some(frame) => frame,
            None if len == PAGE_SIZE && !self.is_shmem() => match self.write_whole(idx, src)? {
                Some(n) => return Ok(n),
                None => self.get_or_fill(idx)?,
            },
            None => self.get_or_fill(idx)?,
        };
        Self::note_touched(&frame);
        self.mark_dirty(idx, &frame)?;
        let n = src.take_into_frame(&frame, offset, len).map_err(|_| Errno::EFAULT)?;
        // Write-back may have made it clean before the bytes came, or before the file reached to them.
        if n > 0 {
            self.grow(idx, offset + n);
        }
        self.mark_dirty(idx, &frame)?;
        if n == 0 { Err(Errno::EFAULT) } else { Ok(n) }
    }

    /// Makes a huge page of shared memory out of the bytes that are to be written at `at`, if they fill it and nothing is
    /// there; `false`: it did not. Where they do not fill it, but the file reaches as far, there may be one of zeroes
    /// afterwards. `is_first`: the write begins here.
    fn write_huge(&self, at: u64, is_first: bool, src: &mut Src<'_>) -> bool {
        let idx = at >> PAGE_SHIFT;
        let is_start = at.is_multiple_of(HUGE_SIZE as u64);
        if !is_start || src.remaining() < HUGE_SIZE {
            if (is_first || is_start) && !self.holds(idx) {
                fill_shmem(self, idx, 1 << HUGE_ORDER);
            }
            return false;
        }
        if self.next_page(idx).is_some_and(|used| used < idx + HUGE_FRAMES as u64) {
            return false;
        }
        let Some(huge) = HugeFrame::alloc_user_zeroed(page_flags::SHMEM) else {
            count_huge(false);
            return false;
        };
        let mut taken = 0;
        for part in 0..HUGE_FRAMES {
            let n = src.take_into_frame(&huge.frame(part), 0, PAGE_SIZE).unwrap_or(0);
            taken += n;
            if n < PAGE_SIZE {
                src.revert(taken);
                return false;
            }
        }
        if self.append_whole(idx, huge).is_err() {
            src.revert(taken);
            return false;
        }
        count_huge(true);
        true
    }

    /// Makes page `idx` of a file system's file out of `src` without reading it. `None`: the bytes could not all be
    /// had, or the page came meanwhile; nothing was taken.
    fn write_whole(&self, idx: u64, src: &mut Src<'_>) -> Result<Option<usize>> {
        let frame = oom::alloc()?;
        let n = src.take_into_frame(&frame, 0, PAGE_SIZE).map_err(|_| Errno::EFAULT)?;
        if n < PAGE_SIZE {
            src.revert(n);
            return Ok(None);
        }
        let Source::Pages(pages) = &self.source else { return Err(Errno::EIO) };
        pages.source.prepare_write(idx).inspect_err(|_| src.revert(n))?;
        match self.insert_new(idx, &frame) {
            Ok(true) => {}
            refused => {
                self.forget_write(pages, idx);
                src.revert(n);
                return refused.map(|_| None);
            }
        }
        self.grow(idx, PAGE_SIZE);
        Self::note_dirty(pages, &frame);
        Ok(Some(n))
    }

    /// Makes the file reach to byte `end` of page `idx` at least.
    fn grow(&self, idx: u64, end: usize) {
        self.size.fetch_max((idx << PAGE_SHIFT) + end as u64, Ordering::AcqRel);
    }

    /// As `write_page` for a page that is a hole: fill it first, show it afterwards, zero only the rest.
    fn write_new(&self, idx: u64, offset: usize, len: usize, src: &mut Src<'_>) -> Result<usize> {
        let frame = oom::alloc()?;
        let n = src.take_into_frame(&frame, offset, len).map_err(|_| Errno::EFAULT)?;
        if n == 0 {
            return Err(Errno::EFAULT);
        }
        frame.zero(0..offset);
        frame.zero(offset + n..PAGE_SIZE);
        let inserted = self.insert(idx, frame.clone()).inspect_err(|_| src.revert(n))?;
        if inserted.pfn() != frame.pfn() {
            // A page fault was faster: its page is the one that counts.
            let mut part = [0; 256];
            let mut from = offset;
            while from < offset + n {
                let step = part.len().min(offset + n - from);
                let part = part.get_mut(..step).unwrap_or_default();
                frame.read(from, part);
                inserted.write(from, part);
                from += step;
            }
        }
        Ok(n)
    }

    /// Makes all pages of `range` (bytes) present, as fallocate(2) does. The size does not change.
    pub fn allocate(&self, range: core::ops::Range<u64>) -> Result<()> {
        let end = range.end.div_ceil(PAGE_SIZE as u64);
        for idx in range.start >> PAGE_SHIFT..end {
            let is_new = self.is_shmem() && !self.holds(idx);
            let frame = self.get_or_fill(idx)?;
            if is_new {
                frame.meta().flags.fetch_or(page_flags::UNTOUCHED, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
