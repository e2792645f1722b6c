//! The record of a disk's writes that QEMU's driver blklogwrites makes, in the format of Linux's dm-log-writes
//! (Documentation/admin-guide/device-mapper/log-writes.rst; the layout is that of drivers/md/dm-log-writes.c).
//!
//! ```text
//!   sector 0   magic u64, version u64, number of entries u64, size of a sector u32
//!   entry      sector u64, number of sectors u64, flags u64, length of data u64; padded to a sector
//!              the sectors' data, unless they were discarded
//!   ...
//! ```
//! All numbers are little-endian; `sector` counts 512 bytes, the record's own padding its sectors.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLAG_FLUSH: u64 = 1;
const FLAG_FUA: u64 = 2;
const FLAG_DISCARD: u64 = 4;
/// The unit of places on the disk.
const SECTOR: u64 = 512;

/// What the device completed.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes were written; until the next flush they may be lost.
    Write {
        /// Their place on the disk.
        at: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// All that was written before is durable.
    Flush,
}

/// Reads a record.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    parse(&fs::read(path).with_context(|| format!("cannot read {}", path.display()))?)
}

fn number(bytes: &[u8], at: usize) -> Result<u64> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk()).context("the record is cut short")?;
    Ok(u64::from_le_bytes(*field))
}

fn parse(record: &[u8]) -> Result<Vec<Event>> {
    ensure!(number(record, 0)? == MAGIC && number(record, 8)? == VERSION, "no record of writes");
    let sector = (number(record, 24)? & u64::from(u32::MAX)) as usize;
    ensure!(sector.is_power_of_two() && (512..=65536).contains(&sector), "sectors of {sector} bytes");
    let mut events = Vec::new();
    let mut at = sector;
    while at < record.len() {
        let field = |nr: usize| number(record, at + 8 * nr);
        let (place, nr_sectors, flags) = (field(0)? * SECTOR, field(1)?, field(2)?);
        let len = usize::try_from(nr_sectors)?.checked_mul(SECTOR as usize).context("a huge entry")?;
        at += sector;
        // A flush that comes with data is before it (REQ_PREFLUSH).
        if flags & FLAG_FLUSH != 0 {
            events.push(Event::Flush);
        }
        if flags & FLAG_DISCARD != 0 {
            bail!("a discard: its effect is not defined, so the test does without");
        }
        if len > 0 {
            let bytes = record.get(at..at + len).context("the record is cut short")?.to_vec();
            events.push(Event::Write { at: place, bytes });
            at += len.next_multiple_of(sector);
        }
        ensure!(flags & FLAG_FUA == 0 || len == 0, "a forced write: virtio-blk has none");
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: [u64; 4], data: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        bytes.resize(512, 0);
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn entries_are_read_in_order() {
        let mut record = entry([MAGIC, 1, 3, 512], &[]);
        record.extend(entry([8, 2, 0, 0], &[7; 1024]));
        record.extend(entry([0, 0, FLAG_FLUSH, 0], &[]));
        record.extend(entry([1, 1, 0, 0], &[9; 512]));
        let events = parse(&record).unwrap();
        assert_eq!(events[0], Event::Write { at: 4096, bytes: vec![7; 1024] });
        assert_eq!(events[1], Event::Flush);
        assert_eq!(events[2], Event::Write { at: 512, bytes: vec![9; 512] });
        record.truncate(record.len() - 1);
        assert!(parse(&record).is_err());
    }
}
