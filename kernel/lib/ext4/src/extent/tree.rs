//! Looking up in extent trees.

use alloc::vec::Vec;

pub use super::node::Extent;
use super::node::{self, Expect, Index};
use crate::block::{BlockRef, Blocks};
use crate::error::{Error, Result};
use crate::inode::Inode;
use crate::layout::Layout;

/// What a file has at some block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// Blocks on the device, from the asked one on.
    Extent(Extent),
    /// Nothing, for this many blocks (`u32::MAX` at most).
    Hole(u32),
}

/// The end of all files, in blocks.
pub(super) const END: u64 = 1 << 32;

/// One step of the way down: the node's block (`None` for the root) and the entry taken.
pub(super) struct Step {
    pub block: Option<u64>,
    pub idx: usize,
}

/// Reads the node in `block` and checks it.
pub(super) fn read_node(
    layout: &Layout,
    blocks: &dyn Blocks,
    block: u64,
    seed: u32,
    expect: Expect,
) -> Result<BlockRef> {
    let held = blocks.read(block)?;
    held.check(|bytes| {
        node::check_node(layout, bytes, expect)?;
        node::check_csum(layout, bytes, seed)
    })?;
    // A block that was checked as something else could still sit here: its depth bounds every walk.
    let header = node::header(held.bytes())?;
    if header.depth.get() != expect.depth || node::header(held.bytes())?.magic.get() != 0xf30a {
        return Err(Error::Corrupt("extent header"));
    }
    Ok(held)
}

/// What the root must be like.
pub(super) fn expect_root(map: &[u8]) -> Result<Expect> {
    Ok(Expect { depth: node::header(map)?.depth.get(), first: 0, end: END })
}

/// The bounds for the child that entry `idx` of a node leads to.
pub(super) fn expect_child(bytes: &[u8], idx: usize, expect: Expect) -> Expect {
    let end = if idx + 1 < node::nr_entries(bytes) { node::key(bytes, idx + 1).into() } else { expect.end };
    Expect { depth: expect.depth.saturating_sub(1), first: node::key(bytes, idx).into(), end }
}

/// The way from the root to the leaf for `logical`, and the leaf's block (`None`: the root is the leaf).
///
/// `idx` of the last step is the extent at or before `logical`, if there is one.
pub(super) fn path(
    layout: &Layout,
    blocks: &dyn Blocks,
    inode: &Inode,
    logical: u32,
) -> Result<(Vec<Step>, Option<usize>)> {
    let mut expect = expect_root(inode.map())?;
    node::check_node(layout, inode.map(), expect)?;
    let mut steps = Vec::new();
    let mut held: Option<(u64, BlockRef)> = None;
    loop {
        let bytes = held.as_ref().map_or(&inode.map()[..], |(_, block)| block.bytes());
        let found = node::search(bytes, logical);
        let block = held.as_ref().map(|(nr, _)| *nr);
        steps.try_reserve(1).map_err(|_| Error::NoMemory)?;
        if expect.depth == 0 {
            steps.push(Step { block, idx: found.unwrap_or(0) });
            return Ok((steps, found));
        }
        // Before the first key: the first child takes it.
        let idx = found.unwrap_or(0);
        steps.push(Step { block, idx });
        let child = Index::decode(bytes, idx)?.child;
        if !layout.is_file_range(child, 1) {
            return Err(Error::Corrupt("extent index leads out of the file system"));
        }
        let next = expect_child(bytes, idx, expect);
        let node = read_node(layout, blocks, child, inode.seed(layout), next)?;
        expect = next;
        held = Some((child, node));
    }
}

/// The bytes of a node on the way.
pub(super) fn with_node<R>(
    blocks: &dyn Blocks,
    inode: &Inode,
    step: &Step,
    f: impl FnOnce(&[u8]) -> R,
) -> Result<R> {
    match step.block {
        None => Ok(f(inode.map())),
        Some(block) => Ok(f(blocks.read(block)?.bytes())),
    }
}

/// What a leaf has at block `logical`, when entry `found` is the last at or before it: the extent, or the next one's
/// first block.
fn in_leaf(bytes: &[u8], found: Option<usize>, logical: u32) -> Result<(Option<Extent>, Option<u64>)> {
    let hit = found.map(|idx| Extent::decode(bytes, idx)).transpose()?;
    if let Some(extent) = hit.filter(|extent| u64::from(logical) < extent.end()) {
        let skipped = logical - extent.logical;
        let physical = extent.physical + u64::from(skipped);
        return Ok((Some(Extent { logical, len: extent.len - skipped, physical, ..extent }), None));
    }
    let after = found.map_or(0, |idx| idx + 1);
    Ok((None, (after < node::nr_entries(bytes)).then(|| u64::from(node::key(bytes, after)))))
}

/// A hole from `logical` to `end`.
fn hole(logical: u32, end: u64) -> Mapping {
    Mapping::Hole(end.saturating_sub(logical.into()).clamp(1, u32::MAX.into()) as u32)
}

/// What `inode`, which has extents, has at block `logical`.
pub fn lookup(layout: &Layout, blocks: &dyn Blocks, inode: &Inode, logical: u32) -> Result<Mapping> {
    let root = inode.map();
    let expect = expect_root(root)?;
    if expect.depth == 0 {
        // As most are.
        node::check_node(layout, root, expect)?;
        let (hit, next) = in_leaf(root, node::search(root, logical), logical)?;
        return Ok(hit.map_or_else(|| hole(logical, next.unwrap_or(END)), Mapping::Extent));
    }
    let (steps, found) = path(layout, blocks, inode, logical)?;
    let leaf = steps.last().ok_or(Error::Corrupt("extent tree"))?;
    let (hit, mut next) = with_node(blocks, inode, leaf, |bytes| in_leaf(bytes, found, logical))??;
    if let Some(extent) = hit {
        return Ok(Mapping::Extent(extent));
    }
    // The next key of the nearest ancestor that has one ends the hole.
    for step in steps.iter().rev().skip(1) {
        if next.is_some() {
            break;
        }
        next = with_node(blocks, inode, step, |bytes| {
            let idx = step.idx + 1;
            (idx < node::nr_entries(bytes)).then(|| u64::from(node::key(bytes, idx)))
        })?;
    }
    Ok(hole(logical, next.unwrap_or(END)))
}

/// How many blocks from `logical` on are alike.
pub(super) fn lookup_len(layout: &Layout, blocks: &dyn Blocks, inode: &Inode, logical: u32) -> Result<u32> {
    Ok(match lookup(layout, blocks, inode, logical)? {
        Mapping::Extent(extent) => extent.len,
        Mapping::Hole(len) => len,
    })
}
