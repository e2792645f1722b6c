//! Page tables of user address spaces.
//!
//! A [`PageTable`] maps user pages to frames; each present entry owns one reference to its frame. Edits go
//! through a [`Cursor`] over a range. Frames that a cursor takes out stay alive until it has flushed the
//! TLBs, so no CPU can reach a freed frame.
//!
//! A huge frame may be mapped by one large entry ([`Cursor::map_huge`]). Whoever edits a part of it finds 512 entries:
//! it is split on the way.

use crate::arch;
use crate::frame::{Frame, HugeFrame};

pub use arch::paging::{Cursor, PageTable};

bitflags::bitflags! {
    /// Attributes of a present entry. Every user page is readable unless `NONE`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct PteFlags: u32 {
        /// User code may write. Never together with `COW`.
        const WRITE = 1;
        /// User code may execute.
        const EXEC = 2;
        /// Was written to (set by the hardware).
        const DIRTY = 4;
        /// Was accessed (set by the hardware).
        const ACCESSED = 8;
        /// Shared by fork: a write must copy. Software flag.
        const COW = 16;
        /// PROT_NONE: present for the kernel's bookkeeping, every access faults.
        const NONE = 32;
        /// Software flag for mm.
        const SOFT = 64;
        /// Another one: writes are watched (userfaultfd(2)).
        const WATCHED = 128;
        /// The protection key (4 bits).
        const PKEY = 0xf << 16;
    }
}

/// What a page-table entry says.
#[derive(Clone, Debug)]
pub enum Entry {
    /// Nothing.
    None,
    /// A mapped frame.
    Present {
        /// The frame.
        frame: Frame,
        /// Its attributes.
        flags: PteFlags,
    },
    /// A huge frame in a single entry. Only [`Cursor::unmap_range`] shows it so; elsewhere each of its frames looks like
    /// an entry of its own.
    Huge(HugeFrame),
    /// A number that mm chose (swap slot, marker); not 0, below 2^58.
    Special(u64),
}

/// How [`PageTable::fork_range`] copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkMode {
    /// Writable entries become read-only and `COW` on both sides (private memory).
    Cow,
    /// Entries are copied as they are (shared memory).
    Share,
}
