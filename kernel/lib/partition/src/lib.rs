//! Partition tables: GPT and MBR, as Linux reads them.
//!
//! [`read`] looks at a disk through [`Source`] and gives the partitions. A table is bytes that anyone may have
//! written: every field is checked, reads and results are bounded, and a table that is nonsense is none.
//!
//! # What it promises, whatever the bytes are
//!
//! - each partition begins inside the disk, is not empty, and ends inside the disk;
//! - there are at most [`MAX_PARTITIONS`], with distinct numbers from 1 on;
//! - at most [`MAX_TABLE`] bytes are read at once, and a bounded number of times.
//!
//! Sources: UEFI 2.10, ch. 5 (GPT, protective MBR); the MBR as Linux and fdisk(8) understand it.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod crc;
mod gpt;
mod mbr;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;

/// Most partitions of a disk (Linux: `DISK_MAX_PARTS`).
pub const MAX_PARTITIONS: usize = 255;
/// Longest array of GPT entries believed.
pub const MAX_TABLE: usize = 256 * 1024;
/// Unit of the results.
const SECTOR: u64 = 512;

/// A disk to look at.
pub trait Source {
    /// What reading fails with.
    type Error;
    /// Fills `buf` from byte `pos` on; both within the disk.
    fn read(&mut self, pos: u64, buf: &mut [u8]) -> Result<(), Self::Error>;
    /// Bytes of a logical block: a power of two from 512 to 65536.
    fn block_size(&self) -> u32;
    /// Size in bytes.
    fn len(&self) -> u64;
    /// Is there nothing?
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which kind of table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// GUID partition table.
    Gpt,
    /// The PC's.
    Mbr,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1.
    pub index: u32,
    /// First sector of 512 bytes.
    pub start: u64,
    /// Number of sectors of 512 bytes.
    pub len: u64,
    /// `PARTUUID`.
    pub uuid: String,
    /// `PARTLABEL`; empty when there is none.
    pub label: String,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Which kind.
    pub kind: Kind,
    /// The partitions, by number.
    pub entries: Vec<Entry>,
}

/// The table of a disk; `None` when it has none.
pub fn read<S: Source>(source: &mut S) -> Result<Option<Table>, S::Error> {
    let block = u64::from(source.block_size());
    if !block.is_power_of_two() || !(SECTOR..=65536).contains(&block) || source.len() < 2 * block {
        return Ok(None);
    }
    let mut sector = [0; SECTOR as usize];
    source.read(0, &mut sector)?;
    let Some(mbr) = mbr::Mbr::parse(&sector) else { return Ok(None) };
    if mbr.is_protective()
        && let Some(entries) = gpt::read(source)?
    {
        return Ok(Some(Table { kind: Kind::Gpt, entries }));
    }
    let entries = mbr::read(source, &mbr)?;
    Ok(Some(Table { kind: Kind::Mbr, entries }))
}

/// Bytes as an integer, little end first. `None` beyond the end.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
