//! GUID partition tables (UEFI 2.10, ch. 5.3).

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::crc::crc32;
use crate::{Entry, MAX_PARTITIONS, MAX_TABLE, SECTOR, Source, u32_at, u64_at};

const SIGNATURE: &[u8; 8] = b"EFI PART";
const MIN_HEADER: usize = 92;
const MIN_ENTRY: usize = 128;

/// What of a header matters here.
struct Header {
    entries_lba: u64,
    nr_entries: usize,
    entry_size: usize,
    entries_crc: u32,
}

/// The partitions by the first table that is whole: the one at the start, else the one at the end.
pub(crate) fn read<S: Source>(source: &mut S) -> Result<Option<Vec<Entry>>, S::Error> {
    let block = u64::from(source.block_size());
    let last_lba = source.len() / block - 1;
    for lba in [1, last_lba] {
        if let Some(entries) = read_at(source, lba, last_lba)? {
            return Ok(Some(entries));
        }
    }
    Ok(None)
}

fn read_at<S: Source>(source: &mut S, lba: u64, last_lba: u64) -> Result<Option<Vec<Entry>>, S::Error> {
    let block = u64::from(source.block_size());
    let mut bytes = vec![0; block as usize];
    source.read(lba * block, &mut bytes)?;
    let Some(header) = parse_header(&bytes, lba) else { return Ok(None) };
    let Some(len) = header.nr_entries.checked_mul(header.entry_size).filter(|len| *len <= MAX_TABLE) else {
        return Ok(None);
    };
    let pos = header.entries_lba.checked_mul(block);
    let end = pos.and_then(|pos| pos.checked_add(len as u64)).filter(|end| *end <= source.len());
    let (Some(pos), Some(_)) = (pos, end) else { return Ok(None) };
    let mut table = vec![0; len];
    source.read(pos, &mut table)?;
    if crc32(&table) != header.entries_crc {
        return Ok(None);
    }
    let per_block = block / SECTOR;
    let entries = table.chunks_exact(header.entry_size).take(MAX_PARTITIONS).zip(1..);
    Ok(Some(entries.filter_map(|(entry, index)| parse_entry(entry, index, last_lba, per_block)).collect()))
}

fn parse_header(block: &[u8], lba: u64) -> Option<Header> {
    if !block.starts_with(SIGNATURE) {
        return None;
    }
    let size = u32_at(block, 12)? as usize;
    if !(MIN_HEADER..=block.len()).contains(&size) {
        return None;
    }
    let mut header = block.get(..size)?.to_vec();
    let crc = u32_at(&header, 16)?;
    header.get_mut(16..20)?.fill(0);
    if crc32(&header) != crc || u64_at(&header, 24)? != lba {
        return None;
    }
    let entry_size = u32_at(&header, 84)? as usize;
    if entry_size < MIN_ENTRY || !entry_size.is_power_of_two() {
        return None;
    }
    Some(Header {
        entries_lba: u64_at(&header, 72)?,
        nr_entries: u32_at(&header, 80)? as usize,
        entry_size,
        entries_crc: u32_at(&header, 88)?,
    })
}

fn parse_entry(entry: &[u8], index: u32, last_lba: u64, per_block: u64) -> Option<Entry> {
    if entry.get(..16)?.iter().all(|byte| *byte == 0) {
        return None;
    }
    let (first, last) = (u64_at(entry, 32)?, u64_at(entry, 40)?);
    if first == 0 || first > last || last > last_lba {
        return None;
    }
    Some(Entry {
        index,
        start: first.checked_mul(per_block)?,
        len: (last - first + 1).checked_mul(per_block)?,
        uuid: guid(entry.get(16..32)?)?,
        label: label(entry.get(56..128)?),
    })
}

/// A GUID as text: three little-endian fields, then bytes.
fn guid(bytes: &[u8]) -> Option<String> {
    let (a, rest) = (u32_at(bytes, 0)?, u64_at(bytes, 8)?.to_be());
    let (b, c) = (u32_at(bytes, 4)? as u16, (u32_at(bytes, 4)? >> 16) as u16);
    Some(format!("{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", rest >> 48, rest & 0xffff_ffff_ffff))
}

/// A name in UTF-16, to its first NUL. Control characters would confuse who prints it: they become `!`, as on Linux.
fn label(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let chars = char::decode_utf16(units.take_while(|unit| *unit != 0));
    chars.map(|c| c.ok().filter(|c| !c.is_control()).unwrap_or('!')).collect()
}
