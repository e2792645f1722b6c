//! The sorted set of VMAs of one address space, as pure bookkeeping.
//!
//! [`VmaSet`] finds the mapping at an address, finds free gaps and edits ranges (map, unmap, change of
//! attributes). It knows no page table, frame or file: what a VMA carries is the type parameter `A`, of
//! which the set only asks the questions of [`Attr`]. So it is tested on the host against a model with one
//! byte per page.
//!
//! ```text
//! remove(3..5)                              insert(4..6, attributes of A)
//!   before ..AAAAAA..                         before ..AA..AA..
//!   after  ..A..AAA..   one VMA becomes two   after  ..AAAAAA..   three become one
//! ```
//!
//! # Layout
//!
//! A two-level B-tree: a vector of chunks, each a sorted vector of at most [`CHUNK`] VMAs. A usual process
//! (20 to 40 VMAs) lives in one or two chunks, so a lookup is one binary search over cached lines. An edit moves at
//! most one chunk and, when a chunk fills, the vector of chunk heads. Every chunk keeps an upper bound of
//! the free gaps below its VMAs, so a gap search skips what cannot fit.
//!
//! # Invariants ([`VmaSet::check_invariants`] asserts them)
//!
//! - V1: every VMA is non-empty, and VMAs are sorted and do not overlap.
//! - V2: an edit merges what it adds or changes with its neighbours ([`Attr::merges`]). Two touching VMAs that
//!   could be one stay two only where a cut was made and the edit was then refused (as on Linux), or where
//!   the owner asked for it ([`VmaSet::split`], [`VmaSet::insert_apart`]).
//! - V3: `bytes` is the sum of all lengths and `len` the number of VMAs.
//! - V4: no chunk is empty or longer than [`CHUNK`], `first` is the start of its first VMA, and `max_gap`
//!   is at least as large as each gap below one of its VMAs.
//!
//! # Failing
//!
//! An edit checks limits and takes memory first; what follows cannot fail. So an error means that nothing changed,
//! but for one thing: a change in the middle of a VMA cuts twice, and a refused second cut leaves the first.
//!
//! # Locking
//!
//! None inside: the owner's lock guards the set (read to look up, write to edit).
//!
//! Sources: mmap(2), munmap(2), mprotect(2); merge rules as seen in /proc/PID/maps on Linux.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod count;
mod edit;
mod gap;
mod set;
#[cfg(test)]
mod tests;

pub use count::{CountRule, fits as count_fits};
pub use edit::RemovePlan;
pub use gap::Align;
pub use set::{CHUNK, Iter, Removed, VmaSet};

use core::ops::Range;

/// What the set asks of the attributes of a VMA.
pub trait Attr: Clone {
    /// Turns the attributes of a VMA into those of its part that begins `bytes` later (file offsets move on).
    fn advance(&mut self, bytes: u64);

    /// Whether a VMA of `len` bytes with these attributes and one that starts at its end with `next` may become one.
    fn merges(&self, len: u64, next: &Self) -> bool;

    /// Takes over what the attributes of a VMA say besides, when that VMA becomes part of this one.
    fn absorb(&mut self, gone: &Self) {
        let _ = gone;
    }

    /// Whether a VMA with these attributes can be cut in two `bytes` behind its start.
    fn can_cut(&self, bytes: u64) -> bool {
        let _ = bytes;
        true
    }

    /// Bytes that a gap search leaves free below the VMA (the stack guard gap); 0 for most.
    fn guard(&self) -> u64 {
        0
    }
}

/// One mapping: the addresses `start..end` with the same attributes.
#[derive(Clone, Debug)]
pub struct Vma<A> {
    /// First address.
    pub start: u64,
    /// First address behind the mapping.
    pub end: u64,
    /// What the owner of the set keeps with the mapping.
    pub attr: A,
}

impl<A> Vma<A> {
    /// The length in bytes.
    #[inline]
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether the mapping has no byte; never true for a VMA of a set (V1).
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Whether `addr` lies inside.
    #[inline]
    pub fn contains(&self, addr: u64) -> bool {
        self.start <= addr && addr < self.end
    }

    /// The part of `range` that lies inside the mapping (empty when they do not overlap).
    #[inline]
    pub fn clip(&self, range: &Range<u64>) -> Range<u64> {
        let start = self.start.max(range.start);
        start..self.end.min(range.end).max(start)
    }
}

/// Why an edit was refused; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The edit would pass the limit on the number of VMAs (`vm.max_map_count`).
    Count,
    /// No memory for another chunk.
    Memory,
    /// A VMA cannot be cut there ([`Attr::can_cut`]).
    Cut,
}
