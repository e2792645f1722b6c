//! Changing extent trees.
//!
//! Each change first makes sure of room for the entries that it will add ([`ensure_room`], which may fail for want
//! of space), and then does what cannot fail but for a device error: so a full disk leaves no tree half changed.
//!
//! ```text
//! ensure_room, leaf full:        parent [..][0]            parent [..][0][9]
//!                                leaf   [0][4][9][12]  ->  leaves [0][4]  [9][12]
//! ensure_room, all nodes full:   root   [0][4][9][12]  ->  root [0]  node [0][4][9][12]
//! ```

use alloc::vec::Vec;

use super::node::{self, ENTRY, Extent, Index};
use super::tree::{self, Step};
use super::{MAX_DEPTH, MAX_LEN};
use crate::alloc_blocks::{alloc_blocks, free_blocks};
use crate::block::{Edit, Freed, Seal};
use crate::error::{Error, Result};
use crate::inode::{Inode, flags};
use crate::layout::Layout;

/// Rounds of making room: one for each level is enough, and the root may grow.
const MAX_ROUNDS: u16 = 2 * (MAX_DEPTH + 2);

/// Whether [`remove`] has to be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveOutcome {
    /// Nothing is left in the range.
    Done,
    /// There is more.
    More,
}

/// Runs `f` on the bytes of a node, to change them.
pub(super) fn edit_node<R>(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    block: Option<u64>,
    f: impl FnOnce(&mut [u8]) -> R,
) -> Result<R> {
    match block {
        None => Ok(f(inode.map_mut())),
        Some(block) => Ok(f(edit.write(block, Seal::Extents(inode.seed(layout)))?)),
    }
}

pub(super) fn can_join(left: &Extent, right: &Extent) -> bool {
    let max = if left.is_unwritten { MAX_LEN - 1 } else { MAX_LEN };
    left.end() == u64::from(right.logical)
        && left.physical + u64::from(left.len) == right.physical
        && left.is_unwritten == right.is_unwritten
        && left.len + right.len <= max
}

/// Adds `extent` to the tree, where there is a hole. The inode is stored.
///
/// `NoSpace`: the tree needs another block and there is none; nothing has changed.
pub fn insert(layout: &Layout, edit: &mut dyn Edit, inode: &mut Inode, extent: Extent) -> Result<()> {
    let result = insert_entry(layout, edit, inode, extent);
    inode.add_blocks(layout, if result.is_ok() { extent.len.into() } else { 0 });
    inode.store(layout, edit)?;
    result
}

fn insert_entry(layout: &Layout, edit: &mut dyn Edit, inode: &mut Inode, extent: Extent) -> Result<()> {
    if extent.len == 0 || extent.end() > u64::from(u32::MAX) {
        return Err(Error::TooBig);
    }
    if join_neighbour(layout, edit, inode, extent)? {
        return Ok(());
    }
    ensure_room(layout, edit, inode, extent.logical, 1)?;
    let (steps, found) = tree::path(layout, edit, inode, extent.logical)?;
    let leaf = steps.last().ok_or(Error::Corrupt("extent tree"))?;
    let idx = found.map_or(0, |idx| idx + 1);
    edit_node(layout, edit, inode, leaf.block, |bytes| node::insert_at(bytes, idx, &extent.encode()))??;
    if idx == 0 {
        fix_keys(layout, edit, inode, &steps, extent.logical)?;
    }
    Ok(())
}

/// Lengthens a neighbour of `extent` by it, if one fits.
fn join_neighbour(layout: &Layout, edit: &mut dyn Edit, inode: &mut Inode, extent: Extent) -> Result<bool> {
    let (steps, found) = tree::path(layout, edit, inode, extent.logical)?;
    let leaf = steps.last().ok_or(Error::Corrupt("extent tree"))?;
    let after = found.map_or(0, |idx| idx + 1);
    let (left, right) = tree::with_node(edit, inode, leaf, |bytes| -> Result<_> {
        let left = found.map(|idx| Extent::decode(bytes, idx)).transpose()?;
        let right = (after < node::nr_entries(bytes)).then(|| Extent::decode(bytes, after)).transpose()?;
        Ok((left, right))
    })??;
    if left.is_some_and(|left| left.end() > extent.logical.into())
        || right.is_some_and(|right| extent.end() > right.logical.into())
    {
        return Err(Error::Corrupt("extent over an extent"));
    }
    if let (Some(left), Some(idx)) = (left.filter(|left| can_join(left, &extent)), found) {
        let mut joined = Extent { len: left.len + extent.len, ..left };
        let right = right.filter(|right| can_join(&joined, right));
        if let Some(right) = right {
            joined.len += right.len;
        }
        edit_node(layout, edit, inode, leaf.block, |bytes| {
            node::set_at(bytes, idx, &joined.encode());
            if right.is_some() { node::remove_at(bytes, after) } else { Ok(()) }
        })??;
        return Ok(true);
    }
    let Some(right) = right.filter(|right| can_join(&extent, right)) else { return Ok(false) };
    let joined = Extent { len: extent.len + right.len, ..extent };
    edit_node(layout, edit, inode, leaf.block, |bytes| node::set_at(bytes, after, &joined.encode()))?;
    if after == 0 {
        fix_keys(layout, edit, inode, &steps, extent.logical)?;
    }
    Ok(true)
}

/// Corrects the keys above a leaf whose first entry now begins at `logical`.
pub(super) fn fix_keys(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    steps: &[Step],
    logical: u32,
) -> Result<()> {
    for step in steps.iter().rev().skip(1) {
        edit_node(layout, edit, inode, step.block, |bytes| node::set_key(bytes, step.idx, logical))?;
        if step.idx != 0 {
            break;
        }
    }
    Ok(())
}

/// Splits nodes and deepens the tree until the leaf for `logical` has room for `need` entries.
fn ensure_room(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    logical: u32,
    need: usize,
) -> Result<()> {
    for _ in 0..MAX_ROUNDS {
        let (steps, found) = tree::path(layout, edit, inode, logical)?;
        let leaf = steps.last().ok_or(Error::Corrupt("extent tree"))?;
        let (count, max) = tree::with_node(edit, inode, leaf, |bytes| {
            (node::nr_entries(bytes), node::header(bytes).map_or(0, |header| header.max.get().into()))
        })?;
        if count + need <= max {
            return Ok(());
        }
        // The deepest ancestor with room takes the second half of its child.
        let mut roomy = None;
        for (at, step) in steps.iter().enumerate().rev().skip(1) {
            if tree::with_node(edit, inode, step, node::has_room)? {
                roomy = Some(at);
                break;
            }
        }
        match roomy {
            Some(at) => {
                let is_append = found.is_some_and(|idx| idx + 1 == count);
                split(layout, edit, inode, &steps, at, is_append)?;
            }
            None => deepen(layout, edit, inode)?,
        }
    }
    Err(Error::Corrupt("extent tree cannot grow"))
}

/// A block for a node of the tree.
fn new_node(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    depth: u16,
    entries: &[u8],
) -> Result<u64> {
    let goal = Index::decode(inode.map(), 0).map_or(0, |first| first.child);
    let (block, _) = alloc_blocks(layout, edit, goal, 1)?;
    let bytes = edit.create(block, Seal::Extents(inode.seed(layout)))?;
    node::init(bytes, depth);
    crate::view::put(bytes, ENTRY, entries);
    node::set_entries(bytes, entries.len() / ENTRY)?;
    inode.add_blocks(layout, 1);
    Ok(block)
}

/// Moves the second part of the child of step `at` into a new node.
fn split(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    steps: &[Step],
    at: usize,
    is_append: bool,
) -> Result<()> {
    let (Some(parent), Some(child)) = (steps.get(at), steps.get(at + 1)) else {
        return Err(Error::Corrupt("extent tree"));
    };
    let (moved, kept, depth) = tree::with_node(edit, inode, child, |bytes| -> Result<_> {
        let count = node::nr_entries(bytes);
        let kept = if is_append { count - 1 } else { count / 2 }.max(1);
        let from = ENTRY + kept * ENTRY;
        let moved = crate::view::slice(bytes, from, (count - kept) * ENTRY)?;
        Ok((Vec::from(moved), kept, node::header(bytes)?.depth.get()))
    })??;
    if moved.is_empty() {
        return Err(Error::Corrupt("extent node too small to split"));
    }
    let new = new_node(layout, edit, inode, depth, &moved)?;
    edit_node(layout, edit, inode, child.block, |bytes| node::set_entries(bytes, kept))??;
    let index = Index { logical: crate::view::le32(&moved, 0), child: new };
    edit_node(layout, edit, inode, parent.block, |bytes| {
        node::insert_at(bytes, parent.idx + 1, &index.encode())
    })?
}

/// Moves the root's entries into a new node, to which the root then leads.
fn deepen(layout: &Layout, edit: &mut dyn Edit, inode: &mut Inode) -> Result<()> {
    let depth = node::header(inode.map())?.depth.get();
    if depth >= MAX_DEPTH {
        return Err(Error::TooBig);
    }
    let count = node::nr_entries(inode.map());
    let entries = Vec::from(crate::view::slice(inode.map(), ENTRY, count * ENTRY)?);
    let logical = node::key(inode.map(), 0);
    let child = new_node(layout, edit, inode, depth, &entries)?;
    let map = inode.map_mut();
    map.fill(0);
    node::init(map, depth + 1);
    node::insert_at(map, 0, &Index { logical, child }.encode())
}

/// What the blocks of `inode` are: the journal may hold older contents of metadata, and of data that goes through it.
pub(crate) fn freed_as(layout: &Layout, inode: &Inode) -> Freed {
    let is_journaled = layout.journals_data || inode.has_flags(flags::JOURNAL_DATA);
    if inode.is_regular() && !is_journaled { Freed::Data } else { Freed::Metadata }
}

/// Frees what the file has in blocks `from..to`, at most `budget` extents of it, from the end. The inode is stored.
///
/// `NoSpace`: cutting a hole into an extent needs a block for the tree; nothing has changed.
pub fn remove(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    from: u32,
    to: u64,
    budget: usize,
) -> Result<RemoveOutcome> {
    let what = freed_as(layout, inode);
    let mut to = to;
    let mut result = Ok(RemoveOutcome::More);
    for _ in 0..budget {
        match remove_last(layout, edit, inode, from, to, what) {
            Ok(Some(next)) => to = next,
            Ok(None) => {
                result = Ok(RemoveOutcome::Done);
                break;
            }
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    inode.store(layout, edit)?;
    result
}

/// Removes the last extent, or a part of one, in `from..to`; gives the end of what is left to look at.
fn remove_last(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    from: u32,
    to: u64,
    what: Freed,
) -> Result<Option<u64>> {
    if to <= from.into() {
        return Ok(None);
    }
    let (steps, found) = tree::path(layout, edit, inode, (to - 1).min(u32::MAX.into()) as u32)?;
    let leaf = steps.last().ok_or(Error::Corrupt("extent tree"))?;
    let Some(idx) = found else {
        // The leaf begins behind: go on with the one before, if there is one.
        for step in steps.iter().rev().skip(1) {
            let key = tree::with_node(edit, inode, step, |bytes| node::key(bytes, step.idx))?;
            if step.idx > 0 {
                return Ok(Some(u64::from(key).min(to - 1)));
            }
        }
        return Ok(None);
    };
    let extent = tree::with_node(edit, inode, leaf, |bytes| Extent::decode(bytes, idx))??;
    if extent.end() <= from.into() {
        return Ok(None);
    }
    let (cut, end) = (extent.logical.max(from), extent.end().min(to));
    if cut > extent.logical && end < extent.end() {
        cut_middle(layout, edit, inode, extent, cut, end)?;
    } else if cut > extent.logical {
        let left = Extent { len: cut - extent.logical, ..extent };
        edit_node(layout, edit, inode, leaf.block, |bytes| node::set_at(bytes, idx, &left.encode()))?;
    } else if end < extent.end() {
        let skipped = (end - u64::from(extent.logical)) as u32;
        let right = skip(extent, skipped);
        edit_node(layout, edit, inode, leaf.block, |bytes| node::set_at(bytes, idx, &right.encode()))?;
        if idx == 0 {
            fix_keys(layout, edit, inode, &steps, right.logical)?;
        }
    } else {
        remove_entry(layout, edit, inode, &steps, idx)?;
    }
    let count = end - u64::from(cut);
    let start = extent.physical + u64::from(cut - extent.logical);
    inode.add_blocks(layout, -(count as i64));
    free_blocks(layout, edit, start, count, what)?;
    Ok(Some(cut.into()))
}

/// `extent` without its first `skipped` blocks.
pub(super) fn skip(extent: Extent, skipped: u32) -> Extent {
    Extent {
        logical: extent.logical + skipped,
        len: extent.len - skipped,
        physical: extent.physical + u64::from(skipped),
        ..extent
    }
}

/// Takes `cut..end` out of the middle of `extent`.
fn cut_middle(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    extent: Extent,
    cut: u32,
    end: u64,
) -> Result<()> {
    let left = Extent { len: cut - extent.logical, ..extent };
    let right = skip(extent, (end - u64::from(extent.logical)) as u32);
    replace(layout, edit, inode, extent, &[left, right])
}

/// Replaces `extent` by `pieces` (one to three), which cover parts of it in order.
pub(super) fn replace(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    extent: Extent,
    pieces: &[Extent],
) -> Result<()> {
    ensure_room(layout, edit, inode, extent.logical, pieces.len() - 1)?;
    let (steps, found) = tree::path(layout, edit, inode, extent.logical)?;
    let (Some(leaf), Some(idx)) = (steps.last(), found) else {
        return Err(Error::Corrupt("extent vanished"));
    };
    edit_node(layout, edit, inode, leaf.block, |bytes| -> Result<()> {
        for (nth, piece) in pieces.iter().enumerate() {
            match nth {
                0 => node::set_at(bytes, idx, &piece.encode()),
                _ => node::insert_at(bytes, idx + nth, &piece.encode())?,
            }
        }
        Ok(())
    })?
}

/// Removes entry `idx` of the leaf, and nodes that become empty by it.
fn remove_entry(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    steps: &[Step],
    mut idx: usize,
) -> Result<()> {
    for (level, step) in steps.iter().enumerate().rev() {
        let first = edit_node(layout, edit, inode, step.block, |bytes| -> Result<_> {
            node::remove_at(bytes, idx)?;
            Ok((node::nr_entries(bytes) > 0).then(|| node::key(bytes, 0)))
        })??;
        match (first, step.block) {
            (Some(first), _) => {
                if idx == 0 {
                    fix_keys(layout, edit, inode, steps.get(..=level).unwrap_or_default(), first)?;
                }
                return Ok(());
            }
            (None, None) => {
                super::init_root(inode.map_mut());
                return Ok(());
            }
            (None, Some(block)) => {
                free_blocks(layout, edit, block, 1, Freed::Metadata)?;
                inode.add_blocks(layout, -1);
            }
        }
        idx = match level.checked_sub(1).and_then(|above| steps.get(above)) {
            Some(parent) => parent.idx,
            None => return Ok(()),
        };
    }
    Ok(())
}

/// Marks blocks `logical..logical + len` as written where they are allocated. The inode is stored.
///
/// `NoSpace`: splitting an extent needs a block for the tree; what was done so far stays.
pub fn mark_written(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    logical: u32,
    len: u32,
) -> Result<()> {
    let end = u64::from(logical) + u64::from(len);
    let mut at = u64::from(logical);
    let mut result = Ok(());
    while at < end {
        match mark_one(layout, edit, inode, at as u32, end) {
            Ok(next) => at = next,
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    inode.store(layout, edit)?;
    result
}

/// Marks the part in `at..end` of the extent at `at`; gives where to go on.
fn mark_one(layout: &Layout, edit: &mut dyn Edit, inode: &mut Inode, at: u32, end: u64) -> Result<u64> {
    let (steps, found) = tree::path(layout, edit, inode, at)?;
    let leaf = steps.last().ok_or(Error::Corrupt("extent tree"))?;
    let hit = found.map(|idx| tree::with_node(edit, inode, leaf, |bytes| Extent::decode(bytes, idx)));
    let hit = hit.transpose()?.transpose()?.filter(|hit| hit.end() > at.into() && hit.is_unwritten);
    let right = tree::with_node(edit, inode, leaf, |bytes| {
        let after = found.map_or(0, |idx| idx + 1);
        (after < node::nr_entries(bytes)).then(|| Extent::decode(bytes, after)).transpose()
    })??;
    let Some(extent) = hit else {
        return match tree::lookup_len(layout, edit, inode, at)? {
            0 => Err(Error::Corrupt("extent lookup made no way")),
            len => Ok(u64::from(at) + u64::from(len)),
        };
    };
    let stop = extent.end().min(end);
    let before = Extent { len: at - extent.logical, ..extent };
    let middle =
        Extent { len: (stop - u64::from(at)) as u32, is_unwritten: false, ..skip(extent, before.len) };
    let after = skip(extent, before.len + middle.len);
    let mut pieces: Vec<Extent> = Vec::new();
    pieces.extend([before, middle, after].into_iter().filter(|piece| piece.len > 0));
    replace(layout, edit, inode, extent, &pieces)?;
    if before.len == 0 {
        join_left(layout, edit, inode, middle)?;
    }
    if let Some(right) = right.filter(|right| can_join(&middle, &Extent { len: 1, ..*right })) {
        join_left(layout, edit, inode, right)?;
    }
    Ok(stop)
}

/// Joins `extent`, which is in the tree, to the one before it in the same leaf, if they fit.
pub(super) fn join_left(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    extent: Extent,
) -> Result<()> {
    let (steps, found) = tree::path(layout, edit, inode, extent.logical)?;
    let (Some(leaf), Some(idx)) = (steps.last(), found) else { return Ok(()) };
    let Some(before) = idx.checked_sub(1) else { return Ok(()) };
    let left = tree::with_node(edit, inode, leaf, |bytes| Extent::decode(bytes, before))??;
    if !can_join(&left, &extent) {
        return Ok(());
    }
    let joined = Extent { len: left.len + extent.len, ..left };
    edit_node(layout, edit, inode, leaf.block, |bytes| {
        node::set_at(bytes, before, &joined.encode());
        node::remove_at(bytes, idx)
    })?
}
