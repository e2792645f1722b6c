//! Searches for free address ranges.
//!
//! ```text
//! low            prev.end     gap      next.start - guard(next)      high
//!  |----AAAAAAAAAA|.......................|~~~~~BBBBB|.................|
//!                  bottom up ->       <- top down
//! ```

use core::ops::Range;

use crate::Attr;
use crate::set::{Pos, VmaSet};

/// Wanted alignment of a free range: `start % size == offset`.
#[derive(Clone, Copy, Debug)]
pub struct Align {
    /// A power of two, at least the page size.
    pub size: u64,
    /// Below `size`, a multiple of the page size.
    pub offset: u64,
}

impl Align {
    /// Page alignment only.
    pub const PAGE: Align = Align { size: 4096, offset: 0 };

    /// The highest aligned address that is at most `addr`.
    #[inline]
    fn down(self, addr: u64) -> Option<u64> {
        addr.checked_sub(addr.wrapping_sub(self.offset) & (self.size - 1))
    }

    /// The lowest aligned address that is at least `addr`.
    #[inline]
    fn up(self, addr: u64) -> Option<u64> {
        addr.checked_add(self.offset.wrapping_sub(addr) & (self.size - 1))
    }
}

impl<A: Attr> VmaSet<A> {
    /// Whether no VMA shares a byte with `range`.
    pub fn is_free(&self, range: Range<u64>) -> bool {
        self.find(range.start).is_none_or(|v| v.start >= range.end)
    }

    /// Whether `range` is free and stays out of the guard of the VMA above it.
    pub fn fits(&self, range: Range<u64>) -> bool {
        self.find(range.start).is_none_or(|v| v.start.saturating_sub(v.attr.guard()) >= range.end)
    }

    /// The highest aligned start of a free range of `len` bytes inside `within`.
    ///
    /// Cost: one step per VMA whose chunk may have a fitting gap, beginning at the top.
    pub fn find_top_down(&mut self, within: Range<u64>, len: u64, align: Align) -> Option<u64> {
        let mut pos = self.locate(within.end.saturating_sub(1));
        // The gap below `pos` may reach over `within.end`; so may the VMA itself.
        let top = |v: Option<&crate::Vma<A>>| {
            v.map_or(within.end, |v| v.start.saturating_sub(v.attr.guard()).min(within.end))
        };
        let mut hi = top(self.get(pos));
        loop {
            let below = self.end_below(pos);
            let lo = below.max(within.start);
            let highest = hi.checked_sub(len).and_then(|top| align.down(top));
            if let Some(start) = highest.filter(|&s| s >= lo) {
                return Some(start);
            }
            if below <= within.start {
                return None;
            }
            pos = self.prev_pos(pos)?;
            // Enter a chunk from above: is there any hope inside?
            while self.chunks.get(pos.chunk).is_some_and(|c| pos.idx + 1 == c.vmas.len() && c.max_gap < len) {
                if self.chunks[pos.chunk].first <= within.start {
                    return None;
                }
                pos = self.prev_pos(Pos { idx: 0, ..pos })?;
            }
            hi = top(self.get(pos));
            if pos.idx == 0 {
                self.tighten(pos.chunk);
            }
        }
    }

    /// The lowest aligned start of a free range of `len` bytes inside `within`.
    pub fn find_bottom_up(&mut self, within: Range<u64>, len: u64, align: Align) -> Option<u64> {
        let mut pos = self.locate(within.start);
        loop {
            let lo = self.end_below(pos).max(within.start);
            let hi =
                self.get(pos).map_or(within.end, |v| v.start.saturating_sub(v.attr.guard()).min(within.end));
            if lo >= within.end {
                return None;
            }
            let fits = |start: &u64| start.checked_add(len).is_some_and(|end| end <= hi);
            if let Some(start) = align.up(lo).filter(fits) {
                return Some(start);
            }
            self.get(pos)?;
            pos = self.next_pos(pos);
            while pos.idx == 0 && self.chunks.get(pos.chunk).is_some_and(|c| c.max_gap < len) {
                pos = Pos { chunk: pos.chunk + 1, idx: 0 };
            }
        }
    }

    /// Makes the bound of a chunk exact, after a search went through it in vain.
    fn tighten(&mut self, chunk: usize) {
        let mut below = self.end_below(Pos { chunk, idx: 0 });
        let c = &mut self.chunks[chunk];
        c.max_gap = 0;
        for v in &c.vmas {
            c.max_gap = c.max_gap.max(v.start - below);
            below = v.end;
        }
    }
}
