//! Recovery: finds the last transaction that was committed and replays all that were.
//!
//! Three passes over the log, as it is written by others: find the end, collect revokes, replay. Each pass reads at
//! most as many blocks as the log has.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::record::{ESCAPED, HEADER_LEN, LAST, REVOKES_AT, SAME_UUID, UUID_LEN};
use super::{COMMIT, Csum, DESCRIPTOR, Header, Log, MAGIC, REVOKE, be32, be64};
use crate::crc::crc32c;
use crate::error::{Error, Result};
use crate::view;

/// What recovery did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The number for the next transaction.
    pub next_sequence: u32,
    /// Transactions that were replayed.
    pub nr_transactions: u32,
    /// Blocks that were written home.
    pub nr_blocks: u32,
}

/// Reads a block of the log.
type ReadLog<'a> = &'a mut dyn FnMut(u32, &mut [u8]) -> Result<()>;
/// Writes a block home.
type WriteHome<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<()>;

struct Tag {
    home: u64,
    is_escaped: bool,
    csum: u32,
}

impl Log {
    fn tags(&self, bytes: &[u8]) -> Vec<Tag> {
        let mut tags = Vec::new();
        let end = bytes.len() - self.tail_len();
        let mut at = HEADER_LEN;
        while at + self.tag_len() <= end {
            let low = u64::from(be32(bytes, at));
            let (flags, csum, high_at) = if self.csum == Csum::V3 {
                (be32(bytes, at + 4), be32(bytes, at + 12), Some(at + 8))
            } else {
                let both = be32(bytes, at + 4);
                (both & 0xffff, both >> 16, self.is_64bit.then_some(at + 8))
            };
            let high = high_at.filter(|_| self.is_64bit).map_or(0, |at| u64::from(be32(bytes, at)) << 32);
            tags.push(Tag { home: low | high, is_escaped: flags & ESCAPED != 0, csum });
            at += self.tag_len() + if flags & SAME_UUID == 0 { UUID_LEN } else { 0 };
            if flags & LAST != 0 {
                break;
            }
        }
        tags
    }

    fn is_tail_right(&self, bytes: &[u8]) -> bool {
        self.csum == Csum::None || self.tail_csum(bytes) == be32(bytes, bytes.len() - 4)
    }

    fn is_commit_right(&self, bytes: &[u8]) -> bool {
        if self.csum == Csum::None {
            return true;
        }
        let parts = (bytes.get(..0x10), bytes.get(0x14..));
        let (Some(before), Some(after)) = parts else { return false };
        let crc = crc32c(crc32c(crc32c(self.seed, before), &[0; 4]), after);
        crc == be32(bytes, 0x10)
    }

    fn is_data_right(&self, sequence: u32, tag: &Tag, bytes: &[u8]) -> bool {
        match self.csum {
            Csum::None => true,
            Csum::V2 => self.data_csum(sequence, bytes) & 0xffff == tag.csum,
            Csum::V3 => self.data_csum(sequence, bytes) == tag.csum,
        }
    }

    fn revokes(&self, bytes: &[u8]) -> Vec<u64> {
        let end = (be32(bytes, HEADER_LEN) as usize).min(bytes.len() - self.tail_len());
        let len = self.revoke_len();
        let count = end.saturating_sub(REVOKES_AT) / len;
        let one = |nth: usize| {
            let at = REVOKES_AT + nth * len;
            if self.is_64bit { be64(bytes, at) } else { be32(bytes, at).into() }
        };
        (0..count).map(one).collect()
    }
}

/// A block of the log that is no data.
enum Found {
    /// Data blocks follow, the first at the given block of the log.
    Descriptor(Vec<Tag>, u32),
    Revokes(Vec<u64>),
    Commit,
}

/// Walks the log from its start, calling `visit` with each block's transaction, while `sequence` is before `end`.
/// Gives the number of the first transaction that is not complete.
fn walk(
    log: &Log,
    read: ReadLog<'_>,
    end: Option<u32>,
    visit: &mut dyn FnMut(u32, Found, ReadLog<'_>) -> Result<()>,
) -> Result<u32> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(log.block_size).map_err(|_| Error::NoMemory)?;
    bytes.resize(log.block_size, 0);
    let (mut at, mut sequence, mut steps) = (log.start, log.sequence, 0);
    while end != Some(sequence) && steps < log.len() {
        read(at, &mut bytes)?;
        let header: &Header = view::get(&bytes, 0)?;
        if header.magic.get() != MAGIC || header.sequence.get() != sequence {
            break;
        }
        (at, steps) = (log.next(at), steps + 1);
        match header.kind.get() {
            DESCRIPTOR if log.is_tail_right(&bytes) => {
                let (tags, first) = (log.tags(&bytes), at);
                for _ in &tags {
                    (at, steps) = (log.next(at), steps + 1);
                }
                if steps > log.len() {
                    break;
                }
                visit(sequence, Found::Descriptor(tags, first), read)?;
            }
            REVOKE if log.is_tail_right(&bytes) => {
                visit(sequence, Found::Revokes(log.revokes(&bytes)), read)?
            }
            COMMIT if log.is_commit_right(&bytes) => {
                visit(sequence, Found::Commit, read)?;
                sequence = sequence.wrapping_add(1);
            }
            // A torn block: the transaction was not committed.
            _ => break,
        }
    }
    Ok(sequence)
}

/// Replays the log. `read` reads its blocks, `write` writes blocks home and refuses those that are out of range.
///
/// `Corrupt`: a block of a committed transaction has a wrong checksum; what could be replayed was.
pub fn recover(log: &Log, read: ReadLog<'_>, write: WriteHome<'_>) -> Result<Recovered> {
    if log.start == 0 {
        return Ok(Recovered { next_sequence: log.sequence, nr_transactions: 0, nr_blocks: 0 });
    }
    let end = walk(log, read, None, &mut |_, _, _| Ok(()))?;
    let mut revoked: BTreeMap<u64, u32> = BTreeMap::new();
    walk(log, read, Some(end), &mut |sequence, found, _| {
        if let Found::Revokes(list) = found {
            revoked.extend(list.into_iter().map(|home| (home, sequence)));
        }
        Ok(())
    })?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(log.block_size).map_err(|_| Error::NoMemory)?;
    bytes.resize(log.block_size, 0);
    let (mut nr_blocks, mut is_damaged) = (0, false);
    walk(log, read, Some(end), &mut |sequence, found, read| {
        let Found::Descriptor(tags, mut at) = found else { return Ok(()) };
        for tag in tags {
            let place = at;
            at = log.next(at);
            // Sequence numbers wrap: compare by distance.
            let is_revoked =
                revoked.get(&tag.home).is_some_and(|&until| until.wrapping_sub(sequence) as i32 >= 0);
            if is_revoked {
                continue;
            }
            read(place, &mut bytes)?;
            if !log.is_data_right(sequence, &tag, &bytes) {
                is_damaged = true;
                continue;
            }
            if tag.is_escaped {
                view::put(&mut bytes, 0, &MAGIC.to_be_bytes());
            }
            write(tag.home, &bytes)?;
            nr_blocks += 1;
        }
        Ok(())
    })?;
    if is_damaged {
        return Err(Error::Corrupt("block in the journal"));
    }
    let nr_transactions = end.wrapping_sub(log.sequence);
    Ok(Recovered { next_sequence: end, nr_transactions, nr_blocks })
}
