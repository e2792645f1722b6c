//! Writing transactions: from changed and freed blocks to blocks of the log.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use zerocopy::IntoBytes;

use super::{COMMIT, Csum, DESCRIPTOR, Header, Log, MAGIC, REVOKE};
use crate::block::{Block, BlockRef};
use crate::crc::crc32c;
use crate::error::{Error, Result};
use crate::view;

pub(super) const ESCAPED: u32 = 1;
pub(super) const SAME_UUID: u32 = 2;
pub(super) const LAST: u32 = 8;
pub(super) const HEADER_LEN: usize = 12;
pub(super) const UUID_LEN: usize = 16;
/// Where a revoke block's list begins; before it is its end.
pub(super) const REVOKES_AT: usize = 16;

/// A block to be written to the log.
pub type Record = BlockRef;

impl Log {
    fn new_block(&self, kind: u32, sequence: u32) -> Result<Box<[u8]>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(self.block_size).map_err(|_| Error::NoMemory)?;
        bytes.resize(self.block_size, 0);
        let header = Header { magic: MAGIC.into(), kind: kind.into(), sequence: sequence.into() };
        view::put(&mut bytes, 0, header.as_bytes());
        Ok(bytes.into_boxed_slice())
    }

    fn finish(&self, mut bytes: Box<[u8]>) -> Record {
        if self.csum != Csum::None {
            let (csum, at) = (self.tail_csum(&bytes), bytes.len() - 4);
            view::put(&mut bytes, at, &csum.to_be_bytes());
        }
        Arc::new(Block::new(bytes))
    }

    /// Bytes of a block number in a revoke block.
    pub(super) fn revoke_len(&self) -> usize {
        if self.is_64bit { 8 } else { 4 }
    }

    /// How many blocks of the log a transaction takes at most, its commit block included.
    pub fn nr_records(&self, nr_blocks: usize, nr_revokes: usize) -> usize {
        let per_descriptor = (self.block_size - HEADER_LEN - UUID_LEN - self.tail_len()) / self.tag_len();
        let per_revoke = (self.block_size - REVOKES_AT - self.tail_len()) / self.revoke_len();
        nr_blocks + nr_blocks.div_ceil(per_descriptor) + nr_revokes.div_ceil(per_revoke) + 1
    }

    fn put_tag(&self, bytes: &mut [u8], at: usize, home: u64, flags: u32, csum: u32) {
        view::put(bytes, at, &(home as u32).to_be_bytes());
        if self.csum == Csum::V3 {
            view::put(bytes, at + 4, &flags.to_be_bytes());
            view::put(bytes, at + 8, &((home >> 32) as u32).to_be_bytes());
            view::put(bytes, at + 12, &csum.to_be_bytes());
            return;
        }
        view::put(bytes, at + 4, &(csum as u16).to_be_bytes());
        view::put(bytes, at + 6, &(flags as u16).to_be_bytes());
        if self.is_64bit {
            view::put(bytes, at + 8, &((home >> 32) as u32).to_be_bytes());
        }
    }
}

/// All blocks of transaction `sequence` but its commit block, in the order of the log.
pub fn records(
    log: &Log,
    sequence: u32,
    changed: &[(u64, BlockRef)],
    revoked: &[u64],
) -> Result<Vec<Record>> {
    let mut list: Vec<Record> = Vec::new();
    list.try_reserve(log.nr_records(changed.len(), revoked.len())).map_err(|_| Error::NoMemory)?;
    let room = (log.block_size - REVOKES_AT - log.tail_len()) / log.revoke_len();
    for chunk in revoked.chunks(room) {
        let mut bytes = log.new_block(REVOKE, sequence)?;
        let mut at = REVOKES_AT;
        for &home in chunk {
            match log.is_64bit {
                true => view::put(&mut bytes, at, &home.to_be_bytes()),
                false => view::put(&mut bytes, at, &(home as u32).to_be_bytes()),
            }
            at += log.revoke_len();
        }
        view::put(&mut bytes, HEADER_LEN, &(at as u32).to_be_bytes());
        list.push(log.finish(bytes));
    }
    let room = (log.block_size - HEADER_LEN - UUID_LEN - log.tail_len()) / log.tag_len();
    for chunk in changed.chunks(room) {
        let mut bytes = log.new_block(DESCRIPTOR, sequence)?;
        let mut at = HEADER_LEN;
        let mut data = Vec::new();
        for (nth, (home, block)) in chunk.iter().enumerate() {
            let (block, is_escaped) = escape(block)?;
            let mut flags = if is_escaped { ESCAPED } else { 0 };
            flags |= if nth > 0 { SAME_UUID } else { 0 };
            flags |= if nth + 1 == chunk.len() { LAST } else { 0 };
            let csum = if log.csum == Csum::None { 0 } else { log.data_csum(sequence, block.bytes()) };
            log.put_tag(&mut bytes, at, *home, flags, csum);
            at += log.tag_len();
            if nth == 0 {
                view::put(&mut bytes, at, &log.uuid);
                at += UUID_LEN;
            }
            data.push(block);
        }
        list.push(log.finish(bytes));
        list.append(&mut data);
    }
    Ok(list)
}

/// The block as it goes into the log.
fn escape(block: &BlockRef) -> Result<(Record, bool)> {
    if super::be32(block.bytes(), 0) != MAGIC {
        return Ok((block.clone(), false));
    }
    let mut copy = Block::zeroed(block.bytes().len())?;
    copy.bytes_mut().copy_from_slice(block.bytes());
    view::put(copy.bytes_mut(), 0, &[0; 4]);
    Ok((Arc::new(copy), true))
}

/// The commit block of transaction `sequence`, at `seconds` since 1970.
pub fn commit_block(log: &Log, sequence: u32, seconds: u64, nanoseconds: u32) -> Result<Record> {
    let mut bytes = log.new_block(COMMIT, sequence)?;
    view::put(&mut bytes, 0x30, &seconds.to_be_bytes());
    view::put(&mut bytes, 0x38, &nanoseconds.to_be_bytes());
    if log.csum != Csum::None {
        let csum = crc32c(log.seed, &bytes);
        view::put(&mut bytes, 0x10, &csum.to_be_bytes());
    }
    Ok(Arc::new(Block::new(bytes)))
}
