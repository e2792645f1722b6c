//! The program headers as a load plan.
//!
//! # Invariants of a parsed [`Image`]
//!
//! - I1: segments ascend by address and their pages do not overlap.
//! - I2: for each segment: `file_len <= mem_len`, `vaddr + mem_len <= limit`, `offset + file_len <= i64::MAX`, and
//!   `vaddr` and `offset` agree within a page.
//! - I3: `align` is a power of two of at least a page.

use alloc::vec::Vec;
use core::ops::Range;

use abi::{Errno, Result};

use crate::header::{PHDR_LEN, u32_at, u64_at};
use crate::{Header, Kind};

/// Bytes in a page.
pub(crate) const PAGE: u64 = 4096;
/// Longest interpreter path with its NUL.
const PATH_MAX: u64 = 4096;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_GNU_STACK: u32 = 0x6474_e551;

/// One `PT_LOAD` segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First byte in memory, before the load bias.
    pub vaddr: u64,
    /// Bytes in memory.
    pub mem_len: u64,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes that come from the file; the rest is zero.
    pub file_len: u64,
    /// Readable.
    pub read: bool,
    /// Writable.
    pub write: bool,
    /// Executable.
    pub exec: bool,
}

/// What `PT_GNU_STACK` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackFlags {
    /// No such header: the architecture's default.
    Default,
    /// An executable stack.
    Exec,
    /// No execution from the stack.
    NoExec,
}

/// A checked load plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Fixed or relocatable.
    pub kind: Kind,
    /// Entry point, before the load bias.
    pub entry: u64,
    /// Number of program headers (`AT_PHNUM`).
    pub phnum: u16,
    /// Where the program headers are in memory, before the load bias (`AT_PHDR`); 0 when no segment holds them.
    pub phdr_vaddr: u64,
    /// Where the interpreter's path lies in the file, with its NUL.
    pub interp: Option<Range<u64>>,
    /// Protection of the stack.
    pub stack: StackFlags,
    /// What to map.
    pub segments: Vec<Segment>,
    /// The strictest alignment of a segment.
    pub align: u64,
}

impl Image {
    /// Reads the program headers `phdrs`, found where `header` says. Addresses must end at or below `limit`.
    ///
    /// `ENOEXEC`: a truncated table or a bad interpreter. `EINVAL`: segments that cannot be mapped.
    /// `ENOMEM`: a segment beyond `limit`, or no memory for the plan.
    pub fn parse(header: &Header, phdrs: &[u8], limit: u64) -> Result<Self> {
        if phdrs.len() < usize::from(header.phnum) * PHDR_LEN {
            return Err(Errno::ENOEXEC);
        }
        let mut image = Self {
            kind: header.kind,
            entry: header.entry,
            phnum: header.phnum,
            phdr_vaddr: 0,
            interp: None,
            stack: StackFlags::Default,
            segments: Vec::new(),
            align: PAGE,
        };
        let mut own_phdr = None;
        for phdr in phdrs.chunks_exact(PHDR_LEN).take(usize::from(header.phnum)) {
            match u32_at(phdr, 0) {
                PT_LOAD => image.add_segment(phdr, limit)?,
                PT_INTERP if image.interp.is_none() => image.interp = Some(interp_range(phdr)?),
                PT_PHDR => own_phdr = Some(u64_at(phdr, 16)),
                PT_GNU_STACK if u32_at(phdr, 4) & 1 != 0 => image.stack = StackFlags::Exec,
                PT_GNU_STACK => image.stack = StackFlags::NoExec,
                _ => {}
            }
        }
        image.phdr_vaddr = own_phdr.or_else(|| image.vaddr_of(header.phdrs.start)).unwrap_or(0);
        Ok(image)
    }

    /// The pages from the first to the last segment, before the load bias.
    pub fn span(&self) -> Range<u64> {
        let start = self.segments.first().map_or(0, |segment| segment.vaddr & !(PAGE - 1));
        let end = self.segments.last().map_or(0, |segment| page_up(segment.vaddr + segment.mem_len));
        start..end
    }

    /// The address of file offset `offset`, when a segment maps it.
    fn vaddr_of(&self, offset: u64) -> Option<u64> {
        let holds =
            |segment: &&Segment| offset >= segment.offset && offset - segment.offset < segment.file_len;
        self.segments.iter().find(holds).map(|segment| offset - segment.offset + segment.vaddr)
    }

    /// Checks one `PT_LOAD` header and appends it.
    fn add_segment(&mut self, phdr: &[u8], limit: u64) -> Result<()> {
        let flags = u32_at(phdr, 4);
        let segment = Segment {
            offset: u64_at(phdr, 8),
            vaddr: u64_at(phdr, 16),
            file_len: u64_at(phdr, 32),
            mem_len: u64_at(phdr, 40),
            exec: flags & 1 != 0,
            write: flags & 2 != 0,
            read: flags & 4 != 0,
        };
        if segment.mem_len == 0 && segment.file_len == 0 {
            return Ok(());
        }
        let end = segment.vaddr.checked_add(segment.mem_len).ok_or(Errno::EINVAL)?;
        let file_end = segment.offset.checked_add(segment.file_len).ok_or(Errno::EINVAL)?;
        let previous_end = self.segments.last().map_or(0, |last| page_up(last.vaddr + last.mem_len));
        if segment.file_len > segment.mem_len
            || file_end > i64::MAX as u64
            || segment.vaddr % PAGE != segment.offset % PAGE
            || segment.vaddr & !(PAGE - 1) < previous_end
        {
            return Err(Errno::EINVAL);
        }
        if end > limit {
            return Err(Errno::ENOMEM);
        }
        let align = u64_at(phdr, 48);
        if align.is_power_of_two() && align <= limit {
            self.align = self.align.max(align);
        }
        self.segments.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.segments.push(segment);
        Ok(())
    }
}

/// The file range of a `PT_INTERP` header.
fn interp_range(phdr: &[u8]) -> Result<Range<u64>> {
    let (start, len) = (u64_at(phdr, 8), u64_at(phdr, 32));
    let end = start.checked_add(len).filter(|end| *end <= i64::MAX as u64).ok_or(Errno::ENOEXEC)?;
    if !(2..=PATH_MAX).contains(&len) {
        return Err(Errno::ENOEXEC);
    }
    Ok(start..end)
}

/// Rounds up to a page; only for addresses at or below the limit (I2), which leave room.
pub(crate) fn page_up(addr: u64) -> u64 {
    addr.saturating_add(PAGE - 1) & !(PAGE - 1)
}
