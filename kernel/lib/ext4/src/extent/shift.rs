//! Moving the extents behind a place in the file up or down: fallocate(2) with `INSERT_RANGE` and `COLLAPSE_RANGE`.
//!
//! ```text
//!   up by 2, from 4:     [0 len 4][4 len 2][9 len 1]  ->  [0 len 4][6 len 2][11 len 1]     the last one first
//!   down by 2, from 6:   [0 len 4][6 len 2][9 len 1]  ->  [0 len 4][4 len 2][7 len 1]      the first one first
//! ```
//! Entries stay in their nodes, as their order stays: so no block is needed, and nothing can fail but the device.

use super::edit::{edit_node, fix_keys, join_left, replace, skip};
use super::node::{self, Extent};
use super::tree::{self, END, Mapping, Step};
use crate::block::Edit;
use crate::error::{Error, Result};
use crate::inode::Inode;
use crate::layout::Layout;

/// Which way, and by how many blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// Towards the end: `at` is where the extents begin that move.
    Up(u32),
    /// Towards the start: there is a hole of this many blocks before `at`.
    Down(u32),
}

/// Has no extent reach over block `logical`: one that does becomes two. The inode is stored.
///
/// `NoSpace`: the tree needs another block, and there is none; nothing has changed.
pub fn split_at(layout: &Layout, edit: &mut dyn Edit, inode: &mut Inode, logical: u32) -> Result<()> {
    let (steps, found) = tree::path(layout, edit, inode, logical)?;
    let hit = entry(edit, inode, &steps, found)?;
    let Some(extent) = hit.filter(|hit| hit.logical < logical && hit.end() > logical.into()) else {
        return Ok(());
    };
    let left = Extent { len: logical - extent.logical, ..extent };
    let result = replace(layout, edit, inode, extent, &[left, skip(extent, left.len)]);
    inode.store(layout, edit)?;
    result
}

/// Moves extents that begin at or behind `at`, at most `budget` of them. Between these and block `next` of what it
/// gives more have to be moved: call again with `next`, which for [`Shift::Up`] is the end of what is left, and the
/// same `at`; `None`: done. `next` is 2^32 at first for [`Shift::Up`], and `at` for [`Shift::Down`]. The inode is stored.
///
/// `TooBig`: the file would be too long; nothing has changed by this call.
pub fn shift(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    at: u32,
    next: u64,
    how: Shift,
    budget: usize,
) -> Result<Option<u64>> {
    let mut next = Some(next);
    for _ in 0..budget {
        let Some(from) = next else { break };
        next = match how {
            Shift::Up(by) => shift_last(layout, edit, inode, at, from, by)?,
            Shift::Down(by) => shift_first(layout, edit, inode, from, by)?,
        };
    }
    inode.store(layout, edit)?;
    Ok(next)
}

/// The extent at the end of a way.
fn entry(edit: &dyn Edit, inode: &Inode, steps: &[Step], found: Option<usize>) -> Result<Option<Extent>> {
    let leaf = steps.last().ok_or(Error::Corrupt("extent tree"))?;
    let hit = found.map(|idx| tree::with_node(edit, inode, leaf, |bytes| Extent::decode(bytes, idx)));
    hit.transpose()?.transpose()
}

/// Gives the entry at the end of a way another first block.
fn set_logical(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    steps: &[Step],
    idx: usize,
    extent: Extent,
) -> Result<()> {
    let leaf = steps.last().ok_or(Error::Corrupt("extent tree"))?;
    edit_node(layout, edit, inode, leaf.block, |bytes| node::set_at(bytes, idx, &extent.encode()))?;
    if idx == 0 {
        fix_keys(layout, edit, inode, steps, extent.logical)?;
    }
    Ok(())
}

/// Moves the first extent at or behind `from` down.
fn shift_first(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    from: u64,
    by: u32,
) -> Result<Option<u64>> {
    let Ok(at) = u32::try_from(from) else { return Ok(None) };
    let len = match tree::lookup(layout, edit, inode, at)? {
        Mapping::Hole(len) => {
            let next = from + u64::from(len);
            return Ok((next < END - 1).then_some(next));
        }
        Mapping::Extent(extent) => extent.len,
    };
    let (steps, found) = tree::path(layout, edit, inode, at)?;
    let (Some(idx), Some(extent)) = (found, entry(edit, inode, &steps, found)?) else {
        return Err(Error::Corrupt("extent vanished"));
    };
    let logical =
        at.checked_sub(by).filter(|_| extent.logical == at).ok_or(Error::Corrupt("extent to shift"))?;
    let moved = Extent { logical, ..extent };
    set_logical(layout, edit, inode, &steps, idx, moved)?;
    join_left(layout, edit, inode, moved)?;
    Ok(Some(from + u64::from(len)))
}

/// Moves the last extent in `at..end` up; gives where it began.
fn shift_last(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    at: u32,
    end: u64,
    by: u32,
) -> Result<Option<u64>> {
    let Some(last) = end.checked_sub(1).filter(|last| *last >= at.into()) else { return Ok(None) };
    let (steps, found) = tree::path(layout, edit, inode, last.min(u32::MAX.into()) as u32)?;
    let Some(idx) = found else {
        // The leaf begins behind: go on with the one before, if there is one.
        for step in steps.iter().rev().skip(1) {
            if step.idx > 0 {
                let key = tree::with_node(edit, inode, step, |bytes| node::key(bytes, step.idx))?;
                return Ok(Some(u64::from(key).min(last)));
            }
        }
        return Ok(None);
    };
    let extent = entry(edit, inode, &steps, found)?.ok_or(Error::Corrupt("extent vanished"))?;
    if extent.end() <= at.into() {
        return Ok(None);
    }
    if extent.logical < at {
        return Err(Error::Corrupt("extent to shift"));
    }
    if extent.end() + u64::from(by) > u64::from(u32::MAX) {
        return Err(Error::TooBig);
    }
    let moved = Extent { logical: extent.logical + by, ..extent };
    set_logical(layout, edit, inode, &steps, idx, moved)?;
    Ok(Some(extent.logical.into()))
}
