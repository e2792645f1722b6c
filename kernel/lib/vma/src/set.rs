//! The chunked vector behind [`VmaSet`]: positions, lookup, iteration and the two primitive edits.

use alloc::vec::Vec;
use core::ops::Range;
use smallvec::SmallVec;

use crate::{Attr, Refused, Vma};

/// Most VMAs in one chunk.
pub const CHUNK: usize = 32;

/// Whole VMAs taken out by an edit, for the caller to drop when its locks are gone.
pub type Removed<A> = SmallVec<[Vma<A>; 1]>;

#[derive(Debug)]
pub(crate) struct Chunk<A> {
    /// Start of the first VMA: the key of the upper level.
    pub first: u64,
    /// Upper bound of the gaps below the VMAs of this chunk; made exact by a search that fails here.
    pub max_gap: u64,
    pub vmas: Vec<Vma<A>>,
}

/// Index of a VMA: `chunk` may be one past the last, then `idx` is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pos {
    pub chunk: usize,
    pub idx: usize,
}

/// The VMAs of an address space, see the crate's front page.
#[derive(Debug)]
pub struct VmaSet<A> {
    pub(crate) chunks: Vec<Chunk<A>>,
    len: usize,
    bytes: u64,
    /// Empty chunks taken by `reserve` and not needed yet.
    spares: Vec<Vec<Vma<A>>>,
}

impl<A: Attr> Default for VmaSet<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Attr> VmaSet<A> {
    /// An empty set; takes no memory.
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), len: 0, bytes: 0, spares: Vec::new() }
    }

    /// Number of VMAs.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no VMA.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sum of the lengths of all VMAs in bytes.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The position of the first VMA that ends above `addr`.
    #[inline]
    pub(crate) fn locate(&self, addr: u64) -> Pos {
        let after = if self.chunks.len() <= 1 {
            self.chunks.len()
        } else {
            self.chunks.partition_point(|c| c.first <= addr)
        };
        if let Some(c) = after.checked_sub(1).and_then(|c| self.chunks.get(c)) {
            let idx = c.vmas.partition_point(|v| v.end <= addr);
            if idx < c.vmas.len() {
                return Pos { chunk: after - 1, idx };
            }
        }
        Pos { chunk: after, idx: 0 }
    }

    #[inline]
    pub(crate) fn get(&self, pos: Pos) -> Option<&Vma<A>> {
        self.chunks.get(pos.chunk)?.vmas.get(pos.idx)
    }

    pub(crate) fn next_pos(&self, pos: Pos) -> Pos {
        match self.chunks.get(pos.chunk) {
            Some(c) if pos.idx + 1 < c.vmas.len() => Pos { idx: pos.idx + 1, ..pos },
            _ => Pos { chunk: pos.chunk + 1, idx: 0 },
        }
    }

    #[inline]
    pub(crate) fn prev_pos(&self, pos: Pos) -> Option<Pos> {
        if pos.idx > 0 {
            return Some(Pos { idx: pos.idx - 1, ..pos });
        }
        let chunk = pos.chunk.checked_sub(1)?;
        Some(Pos { chunk, idx: self.chunks.get(chunk)?.vmas.len() - 1 })
    }

    /// End of the VMA below `pos`, or 0.
    #[inline]
    pub(crate) fn end_below(&self, pos: Pos) -> u64 {
        self.prev_pos(pos).and_then(|p| self.get(p)).map_or(0, |v| v.end)
    }

    /// The first VMA that ends above `addr` (it may start above `addr`, too).
    #[inline]
    pub fn find(&self, addr: u64) -> Option<&Vma<A>> {
        self.get(self.locate(addr))
    }

    /// The VMA that contains `addr`.
    #[inline]
    pub fn at(&self, addr: u64) -> Option<&Vma<A>> {
        self.find(addr).filter(|v| v.start <= addr)
    }

    /// The last VMA that ends at or below the one [`find`](Self::find) gives for `addr`.
    pub fn before(&self, addr: u64) -> Option<&Vma<A>> {
        self.get(self.prev_pos(self.locate(addr))?)
    }

    /// All VMAs in order.
    #[inline]
    pub fn iter(&self) -> Iter<'_, A> {
        self.overlapping(0..u64::MAX)
    }

    /// The VMAs that share a byte with `range`, in order.
    pub fn overlapping(&self, range: Range<u64>) -> Iter<'_, A> {
        Iter { pos: self.locate(range.start), end: range.end, set: self }
    }

    /// The highest VMA.
    pub fn last(&self) -> Option<&Vma<A>> {
        self.chunks.last()?.vmas.last()
    }

    /// Whether every byte of `range` is mapped.
    pub fn covers(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        for v in self.overlapping(range.clone()) {
            if v.start > at {
                return false;
            }
            at = v.end;
        }
        at >= range.end
    }

    /// Changes attributes in place for every VMA; nothing merges.
    ///
    /// Meant for edits of all VMAs at once (mlockall) and for flags that do not count for [`Attr::merges`].
    pub fn for_each_mut(&mut self, mut change: impl FnMut(Range<u64>, &mut A)) {
        for v in self.chunks.iter_mut().flat_map(|c| c.vmas.iter_mut()) {
            change(v.start..v.end, &mut v.attr);
        }
    }

    /// Appends a VMA behind all others, as fork does when it copies a set in order.
    ///
    /// Never merges. `Memory`: nothing changed.
    pub fn push(&mut self, vma: Vma<A>) -> Result<(), Refused> {
        debug_assert!(self.last().is_none_or(|l| l.end <= vma.start));
        self.reserve(vma.start..vma.end, vma.start..vma.end)?;
        let gap = vma.start - self.last().map_or(0, |l| l.end);
        let full = self.chunks.last().is_none_or(|c| c.vmas.len() == CHUNK);
        self.len += 1;
        self.bytes += vma.len();
        match self.chunks.last_mut() {
            Some(c) if !full => {
                c.max_gap = c.max_gap.max(gap);
                c.vmas.push(vma);
            }
            _ => {
                let mut vmas = self.spares.pop().unwrap_or_default();
                let first = vma.start;
                vmas.push(vma);
                self.chunks.push(Chunk { first, max_gap: gap, vmas });
            }
        }
        Ok(())
    }

    /// Takes memory so that two insertions at the ends of `a` and of `b` cannot fail.
    pub(crate) fn reserve(&mut self, a: Range<u64>, b: Range<u64>) -> Result<(), Refused> {
        let mut want = 0;
        for addr in [a.start, b.end] {
            let at = self.locate(addr).chunk.min(self.chunks.len().saturating_sub(1));
            // An insertion goes into this chunk or, at its front, into the one before.
            let room = [at, at.saturating_sub(1)]
                .iter()
                .all(|&c| self.chunks.get(c).is_some_and(|c| c.vmas.len() + 2 <= CHUNK));
            want += usize::from(!room);
        }
        if want <= self.spares.len() {
            return Ok(());
        }
        let no_memory = |_| Refused::Memory;
        self.chunks.try_reserve(want).map_err(no_memory)?;
        self.spares.try_reserve(want).map_err(no_memory)?;
        while self.spares.len() < want {
            let mut vmas = Vec::new();
            vmas.try_reserve_exact(CHUNK).map_err(no_memory)?;
            self.spares.push(vmas);
        }
        Ok(())
    }

    /// Inserts `vma` before `pos`; memory was reserved. Gives the position of the new VMA.
    pub(crate) fn insert_before(&mut self, mut pos: Pos, vma: Vma<A>) -> Pos {
        self.len += 1;
        self.bytes += vma.len();
        // Prefer the end of the chunk before over the front of the next one: no move of `first`.
        if pos.idx == 0 && pos.chunk > 0 {
            let chunk = pos.chunk - 1;
            pos = Pos { chunk, idx: self.chunks[chunk].vmas.len() };
        }
        if self.chunks.is_empty() {
            let vmas = self.spares.pop().unwrap_or_default();
            self.chunks.push(Chunk { first: vma.start, max_gap: 0, vmas });
        }
        if self.chunks[pos.chunk].vmas.len() >= CHUNK {
            pos = self.split_chunk(pos);
        }
        let gap = vma.start - self.end_below(pos);
        let c = &mut self.chunks[pos.chunk];
        if pos.idx == 0 {
            c.first = vma.start;
        }
        c.max_gap = c.max_gap.max(gap);
        c.vmas.insert(pos.idx, vma);
        pos
    }

    /// Moves the upper half of a full chunk into a spare one; `pos` still names the same place.
    fn split_chunk(&mut self, pos: Pos) -> Pos {
        let mut upper = self.spares.pop().unwrap_or_default();
        let c = &mut self.chunks[pos.chunk];
        // A place at an end gets a nearly empty chunk: ascending and descending runs then fill chunks.
        let at = if pos.idx == c.vmas.len() {
            CHUNK - 1
        } else if pos.idx == 0 {
            1
        } else {
            CHUNK / 2
        };
        upper.extend(c.vmas.drain(at..));
        let max_gap = c.max_gap;
        let first = upper.first().map_or(0, |v| v.start);
        self.chunks.insert(pos.chunk + 1, Chunk { first, max_gap, vmas: upper });
        if pos.idx > at { Pos { chunk: pos.chunk + 1, idx: pos.idx - at } } else { pos }
    }

    /// Takes out the VMAs from `from` up to and without `to`, giving them to `out`.
    ///
    /// Returns where the VMA that was at `to` is now.
    pub(crate) fn take_out(&mut self, from: Pos, to: Pos, mut out: impl FnMut(Vma<A>)) -> Pos {
        let mut kept_front = from.chunk;
        let mut taken = 0;
        let mut bytes = 0;
        for ci in from.chunk..=to.chunk.min(self.chunks.len().saturating_sub(1)) {
            let Some(c) = self.chunks.get_mut(ci) else { break };
            let lo = if ci == from.chunk { from.idx } else { 0 };
            let hi = if ci == to.chunk { to.idx } else { c.vmas.len() };
            for v in c.vmas.drain(lo..hi) {
                taken += 1;
                bytes += v.len();
                out(v);
            }
            if let Some(v) = c.vmas.first() {
                c.first = v.start;
                if ci == from.chunk {
                    kept_front += 1;
                }
            }
        }
        self.len -= taken;
        self.bytes -= bytes;
        let mut gone = 0;
        let (first, last) = (from.chunk, to.chunk);
        let mut ci = first;
        while ci <= last - gone && ci < self.chunks.len() {
            if self.chunks[ci].vmas.is_empty() {
                let empty = self.chunks.remove(ci);
                if self.spares.is_empty() && self.spares.capacity() > 0 {
                    self.spares.push(empty.vmas);
                }
                gone += 1;
            } else {
                ci += 1;
            }
        }
        let next = if from.chunk == to.chunk {
            if gone == 0 { from } else { Pos { chunk: from.chunk, idx: 0 } }
        } else {
            Pos { chunk: kept_front, idx: 0 }
        };
        let next = match self.chunks.get(next.chunk) {
            Some(c) if next.idx >= c.vmas.len() => Pos { chunk: next.chunk + 1, idx: 0 },
            _ => next,
        };
        self.widen_gap(next);
        next
    }

    /// Sets the end of the VMA at `pos`.
    pub(crate) fn set_end(&mut self, pos: Pos, end: u64) {
        let v = &mut self.chunks[pos.chunk].vmas[pos.idx];
        self.bytes -= v.len();
        v.end = end;
        self.bytes += v.len();
        self.widen_gap(self.next_pos(pos));
    }

    /// Sets the start of the VMA at `pos`; its attributes are the caller's affair.
    pub(crate) fn set_start(&mut self, pos: Pos, start: u64) {
        let c = &mut self.chunks[pos.chunk];
        let v = &mut c.vmas[pos.idx];
        self.bytes -= v.len();
        v.start = start;
        self.bytes += v.len();
        if pos.idx == 0 {
            c.first = start;
        }
        self.widen_gap(pos);
    }

    pub(crate) fn attr_mut(&mut self, pos: Pos) -> &mut A {
        &mut self.chunks[pos.chunk].vmas[pos.idx].attr
    }

    /// Keeps V4 after the gap below `pos` may have grown.
    fn widen_gap(&mut self, pos: Pos) {
        let Some(start) = self.get(pos).map(|v| v.start) else { return };
        let gap = start - self.end_below(pos);
        let c = &mut self.chunks[pos.chunk];
        c.max_gap = c.max_gap.max(gap);
    }

    /// Asserts V1, V3 and V4.
    ///
    /// # Panics
    ///
    /// When one of them does not hold. Cost: a walk over all VMAs.
    pub fn check_invariants(&self) {
        let (mut len, mut bytes) = (0, 0);
        let mut below: Option<&Vma<A>> = None;
        for c in &self.chunks {
            assert!(!c.vmas.is_empty() && c.vmas.len() <= CHUNK, "V4: chunk of {}", c.vmas.len());
            assert_eq!(c.first, c.vmas[0].start, "V4: first");
            for v in &c.vmas {
                assert!(v.start < v.end, "V1: empty");
                if let Some(b) = below {
                    assert!(b.end <= v.start, "V1: order");
                }
                assert!(c.max_gap >= v.start - below.map_or(0, |b| b.end), "V4: gap below {:#x}", v.start);
                len += 1;
                bytes += v.len();
                below = Some(v);
            }
        }
        assert_eq!((len, bytes), (self.len, self.bytes), "V3");
    }
}

/// Iterator over the VMAs of a set in address order.
#[derive(Debug)]
pub struct Iter<'a, A> {
    set: &'a VmaSet<A>,
    pos: Pos,
    end: u64,
}

impl<'a, A: Attr> Iterator for Iter<'a, A> {
    type Item = &'a Vma<A>;

    #[inline]
    fn next(&mut self) -> Option<&'a Vma<A>> {
        let v = self.set.get(self.pos)?;
        if v.start >= self.end {
            return None;
        }
        self.pos = self.set.next_pos(self.pos);
        Some(v)
    }
}
