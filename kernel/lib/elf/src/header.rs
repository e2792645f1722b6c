//! The ELF header.

use core::ops::Range;

use abi::{Errno, Result};

/// Size of a 64-bit ELF header.
const HEADER_LEN: usize = 64;
/// Size of a 64-bit program header.
pub(crate) const PHDR_LEN: usize = 56;
/// Most bytes of program headers that Linux reads.
const MAX_PHDRS_LEN: usize = 65536;
/// `e_ident`: magic, 64-bit class, little-endian, version 1.
const MAGIC: [u8; 4] = *b"\x7fELF";
/// `e_machine` of x86-64.
const EM_X86_64: u16 = 62;

/// How an image chooses its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ET_EXEC`: at the addresses that it names.
    Fixed,
    /// `ET_DYN`: anywhere; addresses in the image are relative to a load bias.
    Relocatable,
}

/// What the header of a usable image says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Fixed or relocatable.
    pub kind: Kind,
    /// Entry point, before the load bias.
    pub entry: u64,
    /// Number of program headers.
    pub phnum: u16,
    /// Where the program headers lie in the file.
    pub phdrs: Range<u64>,
}

impl Header {
    /// How many bytes [`Header::parse`] wants to see.
    pub const LEN: usize = HEADER_LEN;

    /// Whether `bytes` start like any ELF file.
    pub fn has_magic(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// Reads the header at the start of `bytes`.
    ///
    /// `ENOEXEC`: too short, no ELF file, not for this machine, neither executable nor shared, or without usable
    /// program headers.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(Errno::ENOEXEC)?;
        if !Self::has_magic(header) || u16_at(header, 18) != EM_X86_64 {
            return Err(Errno::ENOEXEC);
        }
        let kind = match u16_at(header, 16) {
            2 => Kind::Fixed,
            3 => Kind::Relocatable,
            _ => return Err(Errno::ENOEXEC),
        };
        let phnum = u16_at(header, 56);
        let len = usize::from(phnum) * PHDR_LEN;
        if usize::from(u16_at(header, 54)) != PHDR_LEN || len == 0 || len > MAX_PHDRS_LEN {
            return Err(Errno::ENOEXEC);
        }
        let start = u64_at(header, 32);
        let end = start.checked_add(len as u64).filter(|end| *end <= i64::MAX as u64);
        let end = end.ok_or(Errno::ENOEXEC)?;
        Ok(Self { kind, entry: u64_at(header, 24), phnum, phdrs: start..end })
    }
}

/// The little-endian number at `offset`, 0 beyond the end.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word))
}

/// The little-endian number at `offset`, 0 beyond the end.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
}

/// The little-endian number at `offset`, 0 beyond the end.
fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u16::from_le_bytes(*word))
}
