//! The block map of ext2 and ext3: 12 block numbers, then tables of numbers, tables of tables, and once more.
//!
//! A table belongs to the file as its blocks do. One that became empty is freed; one that a full disk left empty stays.
//!
//! Source: Documentation/filesystems/ext4/blockmap.rst (Linux 7.2).

use crate::alloc_blocks::{alloc_blocks, free_blocks};
use crate::block::{Blocks, Edit, Freed, Seal};
use crate::error::{Error, Result};
use crate::extent::{Extent, Mapping, RemoveOutcome, freed_as};
use crate::inode::Inode;
use crate::layout::Layout;
use crate::view;

const DIRECT: u64 = 12;
const LEVELS: u32 = 3;

/// Block numbers in a table.
fn per_table(layout: &Layout) -> u64 {
    layout.block_size as u64 / 4
}

/// What `inode`, which has no extents, has at block `logical`.
pub(crate) fn lookup(layout: &Layout, blocks: &dyn Blocks, inode: &Inode, logical: u32) -> Result<Mapping> {
    let per = per_table(layout);
    let mut at = u64::from(logical);
    if at < DIRECT {
        return run(layout, inode.map(), at, DIRECT, logical);
    }
    at -= DIRECT;
    for level in 1..=LEVELS {
        let span = per.pow(level);
        if at < span {
            let slot = DIRECT as usize + level as usize - 1;
            let mut table = u64::from(view::le32(inode.map(), slot * 4));
            for below in (0..level).rev() {
                if table == 0 {
                    let hole = per.pow(below + 1) - at % per.pow(below + 1);
                    return Ok(Mapping::Hole(hole.min(u32::MAX.into()) as u32));
                }
                let bytes = read(layout, blocks, table)?;
                let idx = at / per.pow(below) % per;
                if below == 0 {
                    return run(layout, bytes.bytes(), idx, per, logical);
                }
                table = view::le32(bytes.bytes(), idx as usize * 4).into();
            }
        }
        at = at.saturating_sub(span);
    }
    Ok(Mapping::Hole(u32::MAX - logical))
}

fn read(layout: &Layout, blocks: &dyn Blocks, block: u64) -> Result<crate::block::BlockRef> {
    if !layout.is_file_range(block, 1) {
        return Err(Error::Corrupt("block map leads out of the file system"));
    }
    blocks.read(block)
}

/// The run of adjacent blocks, or of holes, from entry `idx` of a table with `count` entries on.
fn run(layout: &Layout, table: &[u8], idx: u64, count: u64, logical: u32) -> Result<Mapping> {
    let entry = |idx: u64| u64::from(view::le32(table, idx as usize * 4));
    let first = entry(idx);
    let mut len = 1;
    if first == 0 {
        while idx + len < count && entry(idx + len) == 0 {
            len += 1;
        }
        return Ok(Mapping::Hole(len as u32));
    }
    while idx + len < count && entry(idx + len) == first + len {
        len += 1;
    }
    if !layout.is_file_range(first, len) {
        return Err(Error::Corrupt("block map leads out of the file system"));
    }
    Ok(Mapping::Extent(Extent { logical, len: len as u32, physical: first, is_unwritten: false }))
}

/// Blocks of the largest file.
pub fn max_blocks(layout: &Layout) -> u64 {
    let per = per_table(layout);
    // Sectors are counted in 32 bits.
    let counted = (u64::from(u32::MAX) * 512) >> layout.block_bits;
    (DIRECT + (1..=LEVELS).map(|level| per.pow(level)).sum::<u64>()).min(counted)
}

/// How many blocks from `logical` on have their numbers in the same table; 0 behind the end of the largest file.
pub fn room(layout: &Layout, logical: u32) -> u32 {
    let (per, at) = (per_table(layout), u64::from(logical));
    let Some(at) = at.checked_sub(DIRECT) else { return (DIRECT - at) as u32 };
    let all = (1..=LEVELS).map(|level| per.pow(level)).sum::<u64>();
    if at < all { (per - at % per) as u32 } else { 0 }
}

/// Enters the blocks of `extent`, where there is a hole, into tables, which it makes. The inode is stored.
///
/// `TooBig`: no file reaches so far, or the blocks have numbers in more than one table. `NoSpace`: no block for a table,
/// or a block whose number has more than 32 bits; tables that were made stay.
pub(crate) fn insert(layout: &Layout, edit: &mut dyn Edit, inode: &mut Inode, extent: Extent) -> Result<()> {
    if extent.len == 0 || extent.len > room(layout, extent.logical) {
        return Err(Error::TooBig);
    }
    let result = enter(layout, edit, inode, extent);
    inode.add_blocks(layout, if result.is_ok() { extent.len.into() } else { 0 });
    inode.store(layout, edit)?;
    result
}

fn enter(layout: &Layout, edit: &mut dyn Edit, inode: &mut Inode, extent: Extent) -> Result<()> {
    let (per, mut at) = (per_table(layout), u64::from(extent.logical));
    if at < DIRECT {
        return put_run(inode.map_mut(), at as usize, extent);
    }
    at -= DIRECT;
    let mut level = 1;
    while at >= per.pow(level) {
        at -= per.pow(level);
        level += 1;
    }
    let slot = DIRECT as usize + level as usize - 1;
    let mut table = u64::from(view::le32(inode.map(), slot * 4));
    if table == 0 {
        table = new_table(layout, edit, inode, extent.physical)?;
        view::put(inode.map_mut(), slot * 4, &(table as u32).to_le_bytes());
    }
    for below in (1..level).rev() {
        let idx = (at / per.pow(below) % per) as usize;
        let mut next = u64::from(view::le32(read(layout, edit, table)?.bytes(), idx * 4));
        if next == 0 {
            next = new_table(layout, edit, inode, extent.physical)?;
            view::put(edit.write(table, Seal::None)?, idx * 4, &(next as u32).to_le_bytes());
        }
        table = next;
    }
    drop(read(layout, edit, table)?);
    put_run(edit.write(table, Seal::None)?, (at % per) as usize, extent)
}

/// A table without entries.
fn new_table(layout: &Layout, edit: &mut dyn Edit, inode: &mut Inode, goal: u64) -> Result<u64> {
    let (block, _) = alloc_blocks(layout, edit, goal, 1)?;
    if u32::try_from(block).is_err() {
        free_blocks(layout, edit, block, 1, Freed::Data)?;
        return Err(Error::NoSpace);
    }
    edit.create(block, Seal::None)?;
    inode.add_blocks(layout, 1);
    Ok(block)
}

/// Enters the numbers of the blocks of `extent` from entry `idx` of a table on.
fn put_run(table: &mut [u8], idx: usize, extent: Extent) -> Result<()> {
    let end = extent.physical + u64::from(extent.len);
    if end > u64::from(u32::MAX) {
        return Err(Error::NoSpace);
    }
    let entries = idx..idx + extent.len as usize;
    if entries.clone().any(|idx| view::le32(table, idx * 4) != 0) {
        return Err(Error::Corrupt("block over a block"));
    }
    for (idx, block) in entries.zip(extent.physical..end) {
        view::put(table, idx * 4, &(block as u32).to_le_bytes());
    }
    Ok(())
}

/// Frees the file's blocks in `from..to`, about `budget` of them. The inode is stored.
pub(crate) fn remove(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    from: u32,
    to: u64,
    mut budget: usize,
) -> Result<RemoveOutcome> {
    let per = per_table(layout);
    let what = freed_as(layout, inode);
    let mut is_done = true;
    for slot in (0..DIRECT as usize + LEVELS as usize).rev() {
        let level = (slot as u32 + 1).saturating_sub(DIRECT as u32);
        let base = match level {
            0 => slot as u64,
            _ => DIRECT + (1..level).map(|below| per.pow(below)).sum::<u64>(),
        };
        let end = base + per.pow(level);
        let block = u64::from(view::le32(inode.map(), slot * 4));
        if block == 0 || end <= from.into() || base >= to {
            continue;
        }
        let mut walk = Walk { layout, from: from.into(), to, what, budget, freed: 0 };
        let is_empty = walk.free(edit, block, level, base)?;
        budget = walk.budget;
        inode.add_blocks(layout, -(walk.freed as i64));
        if is_empty {
            view::put(inode.map_mut(), slot * 4, &[0; 4]);
        }
        if budget == 0 {
            is_done = false;
            break;
        }
    }
    inode.store(layout, edit)?;
    Ok(if is_done { RemoveOutcome::Done } else { RemoveOutcome::More })
}

struct Walk<'a> {
    layout: &'a Layout,
    from: u64,
    to: u64,
    what: Freed,
    budget: usize,
    freed: u64,
}

impl Walk<'_> {
    /// Frees what lies in `from..to` of the tree of `level` at `block`; tells whether nothing is left of it.
    fn free(&mut self, edit: &mut dyn Edit, block: u64, level: u32, base: u64) -> Result<bool> {
        let per = per_table(self.layout);
        if level > 0 {
            let span = per.pow(level - 1);
            let table = read(self.layout, edit, block)?;
            for idx in (0..per).rev() {
                let start = base + idx * span;
                let child = u64::from(view::le32(table.bytes(), idx as usize * 4));
                if child == 0 || start + span <= self.from || start >= self.to {
                    continue;
                }
                if self.budget == 0 || !self.free(edit, child, level - 1, start)? {
                    if self.budget == 0 {
                        return Ok(false);
                    }
                    continue;
                }
                view::put(edit.write(block, Seal::None)?, idx as usize * 4, &[0; 4]);
            }
            let left = edit.read(block)?;
            if left.bytes().iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
        }
        let what = if level > 0 { Freed::Metadata } else { self.what };
        free_blocks(self.layout, edit, block, 1, what)?;
        self.freed += 1;
        self.budget = self.budget.saturating_sub(1);
        Ok(true)
    }
}
