//! The PC's partition table: four entries in the first sector, and a chain of further tables in an extended partition.

use alloc::format;
use alloc::vec::Vec;

use crate::{Entry, MAX_PARTITIONS, SECTOR, Source, u32_at};

const TABLE: usize = 446;
const ENTRY: usize = 16;
const SIGNATURE: usize = 510;
const DISK_ID: usize = 440;
/// Types of extended partitions: DOS, LBA, Linux.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// The one entry of a protective table.
const PROTECTIVE: u8 = 0xee;
/// First number of a logical partition.
const FIRST_LOGICAL: u32 = 5;
/// Tables followed in a chain; they may form a loop.
const MAX_CHAIN: usize = 128;

/// A slot of a table; positions in logical blocks.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    kind: u8,
    start: u32,
    len: u32,
}

impl Slot {
    fn is_extended(&self) -> bool {
        EXTENDED.contains(&self.kind) && self.len > 0
    }
}

/// The first sector.
pub(crate) struct Mbr {
    disk_id: u32,
    slots: [Slot; 4],
}

impl Mbr {
    /// `None`: the sector is no partition table (it may begin a file system).
    pub(crate) fn parse(sector: &[u8]) -> Option<Mbr> {
        Some(Mbr { disk_id: u32_at(sector, DISK_ID)?, slots: parse_slots(sector)? })
    }

    pub(crate) fn is_protective(&self) -> bool {
        self.slots.iter().any(|slot| slot.kind == PROTECTIVE)
    }
}

fn parse_slots(sector: &[u8]) -> Option<[Slot; 4]> {
    if sector.get(SIGNATURE..SIGNATURE + 2)? != [0x55, 0xaa] {
        return None;
    }
    let mut slots = [Slot::default(); 4];
    for (slot, entry) in slots.iter_mut().zip(sector.get(TABLE..)?.chunks_exact(ENTRY)) {
        if *entry.first()? & 0x7f != 0 {
            return None;
        }
        *slot = Slot { kind: *entry.get(4)?, start: u32_at(entry, 8)?, len: u32_at(entry, 12)? };
    }
    Some(slots)
}

/// The partitions of `mbr` and of the chain in its extended partition.
pub(crate) fn read<S: Source>(source: &mut S, mbr: &Mbr) -> Result<Vec<Entry>, S::Error> {
    let per_block = u64::from(source.block_size()) / SECTOR;
    let sectors = source.len() / SECTOR;
    let entry = |index: u32, start: u64, len: u64| {
        let (start, len) = (start.checked_mul(per_block)?, len.checked_mul(per_block)?);
        let end = start.checked_add(len)?;
        let uuid = format!("{:08x}-{index:02x}", mbr.disk_id);
        let is_inside = start > 0 && len > 0 && end <= sectors;
        is_inside.then(|| Entry { index, start, len, uuid, label: Default::default() })
    };
    let mut entries = Vec::new();
    for (slot, index) in mbr.slots.iter().zip(1..) {
        // An extended partition shows its first two sectors only: enough for a boot loader, too few for mkfs.
        let len = if slot.is_extended() { u64::from(slot.len).min(2) } else { slot.len.into() };
        entries.extend(entry(index, slot.start.into(), len));
    }
    let Some(extended) = mbr.slots.iter().find(|slot| slot.is_extended()) else { return Ok(entries) };
    let base = u64::from(extended.start);
    let mut table = base;
    let mut index = FIRST_LOGICAL;
    for _ in 0..MAX_CHAIN {
        let pos = table * u64::from(source.block_size());
        if table == 0 || pos.saturating_add(SECTOR) > source.len() || entries.len() >= MAX_PARTITIONS {
            break;
        }
        let mut sector = [0; SECTOR as usize];
        source.read(pos, &mut sector)?;
        let Some(slots) = parse_slots(&sector) else { break };
        for slot in slots.iter().filter(|slot| slot.len > 0 && !slot.is_extended()) {
            let start = table + u64::from(slot.start);
            if let Some(logical) =
                entry(index, start, slot.len.into()).filter(|_| entries.len() < MAX_PARTITIONS)
            {
                entries.push(logical);
                index += 1;
            }
        }
        match slots.iter().find(|slot| slot.is_extended()) {
            Some(next) => table = base + u64::from(next.start),
            None => break,
        }
    }
    Ok(entries)
}
