//! The block allocator: runs of blocks near a goal, out of the bitmaps.
//!
//! A search begins at the goal: the blocks right behind it if they are free, so that growing files stay in one
//! piece; then the longest run of the goal's group, up to what is wanted; then the other groups in turn. A group
//! whose free count cannot satisfy the wish is passed over while others might. Blocks that were freed by a
//! transaction that is not on disk yet are left alone ([`Edit::first_held`]).

use crate::block::{Edit, Freed, Seal};
use crate::error::{Error, Result};
use crate::group::{self, Bitmap, Group};
use crate::layout::Layout;
use crate::superblock::RawSuper;
use crate::view;

/// Runs that are compared in one group before the longest is taken.
const CANDIDATES: usize = 32;

/// Free blocks, as the superblock counts them.
pub fn nr_free_blocks(layout: &Layout, edit: &dyn crate::block::Blocks) -> Result<u64> {
    let (block, at) = layout.super_place();
    let held = edit.read(block)?;
    Ok(view::get::<RawSuper>(held.bytes(), at)?.free_blocks())
}

/// As [`alloc_blocks`], for what nobody was promised: leaves so many blocks free as others were ([`Edit::promised`]).
pub fn alloc_unpromised(layout: &Layout, edit: &mut dyn Edit, goal: u64, max: u32) -> Result<(u64, u32)> {
    let room = nr_free_blocks(layout, edit)?.saturating_sub(edit.promised());
    if room == 0 {
        return Err(Error::NoSpace);
    }
    alloc_blocks(layout, edit, goal, max.min(u32::try_from(room).unwrap_or(u32::MAX)))
}

/// Allocates at least one and at most `max` adjacent blocks near `goal`; gives the first and how many.
///
/// `NoSpace`: there is none (or none that may be used before the running transaction is on disk).
pub fn alloc_blocks(layout: &Layout, edit: &mut dyn Edit, goal: u64, max: u32) -> Result<(u64, u32)> {
    let max = max.clamp(1, layout.blocks_per_group);
    let goal = if layout.is_file_range(goal, 1) { goal } else { layout.first_data_block };
    let (home, bit) = layout.group_of(goal);
    // First pass: groups with room for all of it. Second: any block.
    for wanted in [max, 1] {
        for step in 0..=layout.nr_groups {
            // The home group comes twice: from the goal on, and at the end as a whole.
            let nr = home.checked_add(step).map_or(0, |nr| nr % layout.nr_groups);
            let from = if step == 0 { bit } else { 0 };
            let free = Group::read(layout, edit, nr)?.free_blocks();
            if free < wanted.min(layout.group_len(nr) / 2).max(1) {
                continue;
            }
            if let Some((first, count)) = find_run(layout, edit, nr, from, max, step == 0)? {
                take(layout, edit, nr, first, count)?;
                return Ok((layout.group_start(nr) + u64::from(first), count));
            }
        }
        if max == 1 {
            break;
        }
    }
    Err(Error::NoSpace)
}

/// The run to take in group `nr` at or behind bit `from`; `exact` prefers one that begins right there.
fn find_run(
    layout: &Layout,
    edit: &dyn Edit,
    nr: u32,
    from: u32,
    max: u32,
    exact: bool,
) -> Result<Option<(u32, u32)>> {
    let bitmap = Bitmap::Blocks.read(layout, edit, nr)?;
    let bytes = bitmap.bytes();
    let (start, len) = (layout.group_start(nr), layout.group_len(nr));
    let mut best: Option<(u32, u32)> = None;
    let mut at = from;
    let mut candidates = 0;
    while candidates < CANDIDATES
        && let Some(first) = group::next_clear(bytes, at, len)
    {
        let end = group::next_set(bytes, first, first.saturating_add(max).min(len));
        at = end;
        // Asked up to the end of the group, so that a long run that is held is passed over in one step.
        let end = match edit.first_held(start + u64::from(first), start + u64::from(len)) {
            Some((held, held_end)) if held < start + u64::from(end) => {
                at = ((held_end - start) as u32).max(first + 1);
                (held - start) as u32
            }
            _ => end,
        };
        if first >= end || !layout.is_file_range(start + u64::from(first), u64::from(end - first)) {
            continue;
        }
        candidates += 1;
        let count = end - first;
        if count >= max || (exact && first == from) {
            return Ok(Some((first, count)));
        }
        if best.is_none_or(|(_, most)| count > most) {
            best = Some((first, count));
        }
    }
    Ok(best)
}

fn take(layout: &Layout, edit: &mut dyn Edit, nr: u32, first: u32, count: u32) -> Result<()> {
    group::set_bits(Bitmap::Blocks.write(layout, edit, nr)?, first, count);
    Group::update(layout, edit, nr, |group| {
        group.set_free_blocks(group.free_blocks().saturating_sub(count));
    })?;
    count_free(layout, edit, -i64::from(count))
}

fn count_free(layout: &Layout, edit: &mut dyn Edit, delta: i64) -> Result<()> {
    let (block, at) = layout.super_place();
    let sb: &mut RawSuper = view::get_mut(edit.write(block, Seal::Super)?, at)?;
    sb.set_free_blocks(sb.free_blocks().saturating_add_signed(delta));
    Ok(())
}

/// Frees `count` blocks from `start` on.
///
/// `Corrupt`: they are no file's blocks, or free already.
pub fn free_blocks(layout: &Layout, edit: &mut dyn Edit, start: u64, count: u64, what: Freed) -> Result<()> {
    if !layout.is_file_range(start, count) {
        return Err(Error::Corrupt("freed blocks are not a file's"));
    }
    let (mut at, end) = (start, start + count);
    while at < end {
        let (nr, first) = layout.group_of(at);
        let here = u64::from(layout.group_len(nr) - first).min(end - at) as u32;
        let bytes = Bitmap::Blocks.write(layout, edit, nr)?;
        if group::next_clear(bytes, first, first + here).is_some() {
            return Err(Error::Corrupt("block is free already"));
        }
        for bit in first..first + here {
            if let Some(byte) = bytes.get_mut(bit as usize / 8) {
                *byte &= !(1 << (bit % 8));
            }
        }
        Group::update(layout, edit, nr, |group| {
            group.set_free_blocks(group.free_blocks().saturating_add(here));
        })?;
        count_free(layout, edit, here.into())?;
        edit.freed(at, here.into(), what);
        at += u64::from(here);
    }
    Ok(())
}
