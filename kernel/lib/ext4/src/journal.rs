//! The journal (JBD2): its blocks, what a transaction looks like in it, and recovery.
//!
//! ```text
//!   log   [superblock] ... [revokes][descriptor][data][data]...[descriptor][data]...[commit] [revokes]...
//!                          |<-------------------- transaction n -------------------------->| |<- n + 1
//! ```
//!
//! Descriptors list the home places of the data blocks behind them. Revokes name blocks that were freed: what
//! earlier transactions say about them must not be replayed. A transaction counts once its commit block is on disk.
//! A data block that begins like a block of the log has its first word replaced by zero ("escaped").
//!
//! Numbers are big-endian. Source: Documentation/filesystems/ext4/journal.rst (Linux 7.2).

mod record;
mod recover;

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use record::{Record, commit_block, records};
pub use recover::{Recovered, recover};

use crate::crc::crc32c;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::superblock::Incompat;
use crate::view;

pub(crate) const MAGIC: u32 = 0xc03b_3998;
pub(crate) const DESCRIPTOR: u32 = 1;
pub(crate) const COMMIT: u32 = 2;
const SUPER_V1: u32 = 3;
const SUPER_V2: u32 = 4;
pub(crate) const REVOKE: u32 = 5;

const FEATURE_REVOKE: u32 = 1;
const FEATURE_64BIT: u32 = 2;
const FEATURE_ASYNC_COMMIT: u32 = 4;
const FEATURE_CSUM_V2: u32 = 8;
const FEATURE_CSUM_V3: u32 = 16;
const CRC32C_TYPE: u8 = 4;
const CHECKSUM_AT: usize = 0xfc;
const SUPER_LEN: usize = 1024;

/// What every block of the log but data begins with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    pub magic: U32,
    pub kind: U32,
    pub sequence: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSuper {
    header: Header,
    block_size: U32,
    max_len: U32,
    first: U32,
    sequence: U32,
    start: U32,
    errno: U32,
    feature_compat: U32,
    feature_incompat: U32,
    feature_ro_compat: U32,
    uuid: [u8; 16],
    nr_users: U32,
    dyn_super: U32,
    max_transaction: U32,
    max_trans_data: U32,
    checksum_type: u8,
    padding: [u8; 3],
    nr_fc_blocks: U32,
    head: U32,
}

/// How blocks of the log are checksummed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Csum {
    None,
    V2,
    V3,
}

/// A journal's superblock, read and checked.
#[derive(Clone, Debug)]
pub struct Log {
    block_size: usize,
    /// First block of the log proper.
    first: u32,
    /// Behind its last.
    end: u32,
    /// Where the oldest transaction begins; 0 if the log is empty.
    start: u32,
    /// Number of the oldest transaction.
    sequence: u32,
    csum: Csum,
    is_64bit: bool,
    seed: u32,
    uuid: [u8; 16],
}

impl Log {
    /// Reads the superblock `bytes` of a journal of `nr_blocks` blocks.
    ///
    /// `Unsupported`: fast commits or other features. `Corrupt`.
    pub fn parse(bytes: &[u8], layout: &Layout, nr_blocks: u64) -> Result<Self> {
        let sb: &RawSuper = view::get(bytes, 0)?;
        let kind = sb.header.kind.get();
        if sb.header.magic.get() != MAGIC || !(kind == SUPER_V1 || kind == SUPER_V2) {
            return Err(Error::Corrupt("no journal superblock"));
        }
        if sb.block_size.get() as usize != layout.block_size {
            return Err(Error::Corrupt("block size of the journal"));
        }
        let incompat = if kind == SUPER_V2 { sb.feature_incompat.get() } else { 0 };
        let known = FEATURE_REVOKE | FEATURE_64BIT | FEATURE_ASYNC_COMMIT | FEATURE_CSUM_V2 | FEATURE_CSUM_V3;
        if incompat & !known != 0 || (kind == SUPER_V2 && sb.feature_ro_compat.get() != 0) {
            return Err(Error::Unsupported("journal feature"));
        }
        let csum = match (incompat & FEATURE_CSUM_V2 != 0, incompat & FEATURE_CSUM_V3 != 0) {
            (false, false) => Csum::None,
            (true, false) => Csum::V2,
            (false, true) => Csum::V3,
            (true, true) => return Err(Error::Corrupt("journal checksums")),
        };
        if csum != Csum::None && (sb.checksum_type != CRC32C_TYPE || super_csum(bytes)? != stored_csum(bytes))
        {
            return Err(Error::Corrupt("journal superblock checksum"));
        }
        let (first, end, start) = (sb.first.get(), sb.max_len.get(), sb.start.get());
        if first == 0 || u64::from(end) > nr_blocks || end.saturating_sub(first) < 64 {
            return Err(Error::Corrupt("size of the journal"));
        }
        if start != 0 && !(first..end).contains(&start) {
            return Err(Error::Corrupt("start of the journal"));
        }
        let uuid = sb.uuid;
        Ok(Self {
            block_size: layout.block_size,
            first,
            end,
            start,
            sequence: sb.sequence.get(),
            csum,
            is_64bit: incompat & FEATURE_64BIT != 0,
            seed: crc32c(!0, &uuid),
            uuid,
        })
    }

    /// Where the oldest transaction begins; 0 if the log is empty.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// The number of the oldest transaction, or of the next one if the log is empty.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// The first block of the log proper.
    pub fn first(&self) -> u32 {
        self.first
    }

    /// Blocks of the log proper.
    pub fn len(&self) -> u32 {
        self.end - self.first
    }

    /// Whether there are no blocks: never, a checked log has at least 64.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The block behind `block`, around the end.
    pub fn next(&self, block: u32) -> u32 {
        if block + 1 >= self.end { self.first } else { block + 1 }
    }

    /// Switches on what this file system's journal should have; only while the log is empty.
    pub fn set_features(&mut self, bytes: &mut [u8], layout: &Layout) -> Result<()> {
        let sb: &mut RawSuper = view::get_mut(bytes, 0)?;
        if sb.header.kind.get() != SUPER_V2 {
            return Ok(());
        }
        let mut incompat = sb.feature_incompat.get() | FEATURE_REVOKE;
        if layout.incompat.contains(Incompat::BITS64) {
            incompat |= FEATURE_64BIT;
        }
        incompat &= !FEATURE_ASYNC_COMMIT;
        if layout.has_csums() {
            incompat = incompat & !FEATURE_CSUM_V2 | FEATURE_CSUM_V3;
            sb.checksum_type = CRC32C_TYPE;
            // The older checksum of commit blocks is not made beside it.
            sb.feature_compat.set(sb.feature_compat.get() & !1);
        }
        sb.feature_incompat.set(incompat);
        self.is_64bit = incompat & FEATURE_64BIT != 0;
        self.csum = match (incompat & FEATURE_CSUM_V2 != 0, incompat & FEATURE_CSUM_V3 != 0) {
            (_, true) => Csum::V3,
            (true, _) => Csum::V2,
            _ => Csum::None,
        };
        Ok(())
    }

    /// Writes into the superblock `bytes` where the oldest transaction is (`start` 0: nowhere).
    pub fn set_tail(&mut self, bytes: &mut [u8], sequence: u32, start: u32) -> Result<()> {
        (self.start, self.sequence) = (start, sequence);
        let sb: &mut RawSuper = view::get_mut(bytes, 0)?;
        sb.sequence.set(sequence);
        sb.start.set(start);
        sb.errno.set(0);
        if self.csum != Csum::None {
            let csum = super_csum(bytes)?;
            view::put(bytes, CHECKSUM_AT, &csum.to_be_bytes());
        }
        Ok(())
    }

    /// Bytes of a tag of a descriptor.
    pub(crate) fn tag_len(&self) -> usize {
        match self.csum {
            Csum::V3 => 16,
            csum => 8 + if self.is_64bit { 4 } else { 0 } + if csum == Csum::V2 { 2 } else { 0 },
        }
    }

    /// Bytes at the end of descriptors and revokes that hold their checksum.
    pub(crate) fn tail_len(&self) -> usize {
        if self.csum == Csum::None { 0 } else { 4 }
    }

    /// The checksum of a descriptor or revoke block.
    pub(crate) fn tail_csum(&self, bytes: &[u8]) -> u32 {
        let covered = bytes.get(..bytes.len().saturating_sub(4)).unwrap_or_default();
        crc32c(crc32c(self.seed, covered), &[0; 4])
    }

    /// The checksum of a data block as it is in the log.
    pub(crate) fn data_csum(&self, sequence: u32, bytes: &[u8]) -> u32 {
        crc32c(crc32c(self.seed, &sequence.to_be_bytes()), bytes)
    }
}

fn stored_csum(bytes: &[u8]) -> u32 {
    be32(bytes, CHECKSUM_AT)
}

fn super_csum(bytes: &[u8]) -> Result<u32> {
    let crc = crc32c(!0, view::slice(bytes, 0, CHECKSUM_AT)?);
    let crc = crc32c(crc, &[0; 4]);
    Ok(crc32c(crc, view::slice(bytes, CHECKSUM_AT + 4, SUPER_LEN - CHECKSUM_AT - 4)?))
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    view::get::<U32>(bytes, at).map_or(0, |word| word.get())
}

pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    view::get::<U64>(bytes, at).map_or(0, |word| word.get())
}
