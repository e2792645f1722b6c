//! Segments that a process makes for itself (modify_ldt(2)), kept with its page table.
//!
//! A CPU that runs a thread of the process has them in its local descriptor table. A change makes a new table; the old
//! one is freed when no CPU uses it any more.

/// How many slots a table has at most.
pub const MAX_SEGMENTS: usize = 8192;

/// What a segment is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Data, from the base up to the limit.
    #[default]
    Data,
    /// Data that grows down: offsets above the limit are good.
    DataDown,
    /// Code.
    Code,
    /// Code that less privileged code could call; only ever described, never present.
    ConformingCode,
}

/// A segment of user code, of 32 bits. Its privilege is always the user's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Its first address.
    pub base: u32,
    /// Its last offset, in bytes or pages; 20 bits.
    pub limit: u32,
    /// What it is for.
    pub kind: Kind,
    /// Data may be written; code may be read, too.
    pub open: bool,
    /// `limit` counts pages.
    pub in_pages: bool,
    /// Without it the slot describes the segment, but no program can load it.
    pub present: bool,
    /// A bit for the program's own use.
    pub available: bool,
}

/// Selectors of data segments in a thread: DS, ES, FS, GS on x86.
pub type Selectors = [u16; 4];
