//! The index of a large directory: a tree of hash ranges above its blocks of entries.
//!
//! ```text
//!   block 0 (root)   ["."]["..", covers the rest][info][limit,count|block][hash|block][hash|block]...[checksum]
//!   inner node       [empty entry, covers all]        [limit,count|block][hash|block]...            [checksum]
//! ```
//!
//! The first pair has no hash, its place holds limit and count: it takes all hashes below the second's. The lowest
//! bit of a hash says that names with the same hash are at the end of the block before, too.
//!
//! Block numbers are the directory's own. Source: Documentation/filesystems/ext4/directory.rst (Linux 7.2).

use alloc::vec::Vec;

use crate::block::{Blocks, Edit, Seal};
use crate::dir::{self, Entry, FIRST_POS, Place};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::inode::{Inode, flags};
use crate::layout::Layout;
use crate::superblock::Incompat;
use crate::view;

const ROOT_AT: usize = 32;
const NODE_AT: usize = 8;
const INFO_AT: usize = 24;
const PAIR: usize = 8;
/// Pairs that the checksum takes.
const TAIL: usize = 8;
const BLOCK_MASK: u32 = 0x0fff_ffff;
/// Blocks with names of one hash that a listing gathers.
const MAX_SAME: usize = 64;

/// Where the pairs of an index block begin; `None` for a block of entries.
pub(crate) fn index_at(bytes: &[u8]) -> Option<usize> {
    let len = bytes.len();
    let first = usize::from(view::le16(bytes, 4));
    let at = if first == len && view::le32(bytes, 0) == 0 && bytes.get(6) == Some(&0) {
        NODE_AT
    } else if first == 12
        && usize::from(view::le16(bytes, 16)) == len - 12
        && view::le32(bytes, INFO_AT) == 0
        && bytes.get(INFO_AT + 5) == Some(&8)
    {
        ROOT_AT
    } else {
        return None;
    };
    let (limit, count) = limit_and_count(bytes, at);
    // A free block of entries looks like an inner node, but its limit is not this one.
    let room = (len - at) / PAIR;
    (count > 0 && count <= limit && (limit == room || limit + TAIL / PAIR == room)).then_some(at)
}

pub(crate) fn limit_and_count(bytes: &[u8], at: usize) -> (usize, usize) {
    (view::le16(bytes, at).into(), view::le16(bytes, at + 2).into())
}

fn hash_at(bytes: &[u8], at: usize, idx: usize) -> u32 {
    if idx == 0 { 0 } else { view::le32(bytes, at + idx * PAIR) }
}

fn block_at(bytes: &[u8], at: usize, idx: usize) -> u32 {
    view::le32(bytes, at + idx * PAIR + 4) & BLOCK_MASK
}

/// A step of the way down: an index block and the pair taken in it.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// Block on the device.
    block: u64,
    /// Where its pairs begin.
    at: usize,
    idx: usize,
    count: usize,
    limit: usize,
}

/// The way from the root to the block of entries that takes a hash.
struct Way {
    steps: Vec<Step>,
    /// The block of entries, in the directory.
    leaf: u32,
    /// The hash at which the next block of entries begins, as it stands in the index.
    next: Option<u32>,
}

fn max_levels(layout: &Layout) -> u8 {
    if layout.incompat.contains(Incompat::LARGEDIR) { 3 } else { 2 }
}

/// How the root hashes.
fn version(bytes: &[u8]) -> u8 {
    bytes.get(INFO_AT + 4).copied().unwrap_or(u8::MAX)
}

fn read_version(layout: &Layout, blocks: &dyn Blocks, dir: &Inode) -> Result<u8> {
    let root = dir::read(layout, blocks, dir, dir::block_at(layout, blocks, dir, 0)?)?;
    Ok(version(root.bytes()))
}

/// Goes down for `hash`.
fn walk(layout: &Layout, blocks: &dyn Blocks, dir: &Inode, hash: u32) -> Result<Way> {
    let mut steps = Vec::new();
    let mut logical = 0;
    let mut levels = 0;
    let mut next = None;
    loop {
        let block = dir::block_at(layout, blocks, dir, logical)?;
        let held = dir::read(layout, blocks, dir, block)?;
        let bytes = held.bytes();
        let is_root = steps.is_empty();
        let at = index_at(bytes).filter(|&at| (at == ROOT_AT) == is_root);
        let at = at.ok_or(Error::Corrupt("directory index"))?;
        if is_root {
            levels = bytes.get(INFO_AT + 6).copied().unwrap_or(u8::MAX);
            if levels >= max_levels(layout) {
                return Err(Error::Corrupt("levels of a directory index"));
            }
        }
        let (limit, count) = limit_and_count(bytes, at);
        let (mut low, mut high) = (1, count);
        while low < high {
            let mid = low.midpoint(high);
            if hash_at(bytes, at, mid) <= hash { low = mid + 1 } else { high = mid }
        }
        let idx = low - 1;
        if idx + 1 < count {
            next = Some(hash_at(bytes, at, idx + 1));
        }
        steps.push(Step { block, at, idx, count, limit });
        logical = block_at(bytes, at, idx);
        if logical == 0 || logical >= dir::nr_blocks(layout, dir) {
            return Err(Error::Corrupt("directory index leads nowhere"));
        }
        if steps.len() > usize::from(levels) {
            return Ok(Way { steps, leaf: logical, next });
        }
    }
}

/// The place of `name`.
pub(crate) fn find(layout: &Layout, blocks: &dyn Blocks, dir: &Inode, name: &[u8]) -> Result<Option<Place>> {
    let hash = dir::hash_of(layout, read_version(layout, blocks, dir)?, name)?.major;
    let mut key = hash;
    for _ in 0..MAX_SAME {
        let way = walk(layout, blocks, dir, key)?;
        let block = dir::block_at(layout, blocks, dir, way.leaf)?;
        let held = dir::read(layout, blocks, dir, block)?;
        if index_at(held.bytes()).is_some() {
            return Err(Error::Corrupt("directory index leads to itself"));
        }
        if let Some((at, before)) = dir::find_in(layout, held.bytes(), name)? {
            return Ok(Some(Place { block, at, before }));
        }
        match way.next {
            Some(next) if next == hash | 1 && next > key => key = next,
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// The position behind all names (Linux: `EXT4_HTREE_EOF_64BIT`).
const END_POS: u64 = i64::MAX as u64;

/// The position of a hash in listings.
fn position(hash: Hash) -> u64 {
    (u64::from(hash.major >> 1) << 32 | u64::from(hash.minor)) + FIRST_POS
}

/// As [`dir::list`], in the order of hashes.
pub(crate) fn list(
    layout: &Layout,
    blocks: &dyn Blocks,
    dir: &Inode,
    pos: u64,
    emit: &mut dyn FnMut(&Entry<'_>, u64) -> bool,
) -> Result<u64> {
    if pos >= END_POS {
        return Ok(pos);
    }
    let is_indexed = dir.has_flags(flags::INDEX);
    let version = if is_indexed { read_version(layout, blocks, dir)? } else { layout.hash_version };
    let mut pos = pos;
    let mut key = ((pos - FIRST_POS) >> 32 << 1).min(u32::MAX.into()) as u32;
    loop {
        // Blocks that share a hash are sorted together.
        let mut held = Vec::new();
        let mut next = None;
        loop {
            let leaf = if is_indexed {
                let way = walk(layout, blocks, dir, key)?;
                next = way.next.filter(|&next| next > key);
                way.leaf
            } else {
                0
            };
            held.push(dir::read(layout, blocks, dir, dir::block_at(layout, blocks, dir, leaf)?)?);
            match next {
                Some(more) if more & 1 != 0 && held.len() < MAX_SAME => key = more,
                _ => break,
            }
        }
        let (mut found, mut order) = (Vec::new(), Vec::new());
        for block in &held {
            for entry in dir::entries(layout, block.bytes()) {
                let entry = entry?;
                if entry.ino == 0 || entry.name == b"." || entry.name == b".." {
                    continue;
                }
                let at = position(dir::hash_of(layout, version, entry.name)?);
                if at >= pos {
                    found.try_reserve(1).map_err(|_| Error::NoMemory)?;
                    order.try_reserve(1).map_err(|_| Error::NoMemory)?;
                    order.push((at, found.len() as u32));
                    found.push(entry);
                }
            }
        }
        // Not the entries themselves: a sort of slices has dozens of its items on the stack.
        order.sort_unstable();
        for (nth, &(at, idx)) in order.iter().enumerate() {
            let Some(entry) = found.get(idx as usize) else { continue };
            // Names with equal hashes have one position: the one behind the last of them.
            let is_last = order.get(nth + 1).is_none_or(|(after, _)| *after != at);
            let behind = if is_last { at + 1 } else { at };
            if !emit(entry, behind) {
                return Ok(pos);
            }
            pos = behind;
        }
        match next {
            Some(more) => key = more,
            None => return Ok(END_POS),
        }
    }
}

fn write<'a>(layout: &Layout, edit: &'a mut dyn Edit, dir: &Inode, block: u64) -> Result<&'a mut [u8]> {
    edit.write(block, Seal::Dir(dir.seed(layout)))
}

fn set_limit_and_count(bytes: &mut [u8], at: usize, limit: usize, count: usize) {
    view::put(bytes, at, &(limit as u16).to_le_bytes());
    view::put(bytes, at + 2, &(count as u16).to_le_bytes());
}

fn limit_for(layout: &Layout, at: usize) -> usize {
    (layout.block_size - at - if layout.has_csums() { TAIL } else { 0 }) / PAIR
}

/// Makes the one block of `dir` the root of an index above a new block with its entries.
pub(crate) fn make(layout: &Layout, edit: &mut dyn Edit, dir: &mut Inode) -> Result<()> {
    let block = dir::block_at(layout, edit, dir, 0)?;
    let held = dir::read(layout, edit, dir, block)?;
    let mut list = Vec::new();
    let mut parent = dir.ino();
    for entry in dir::entries(layout, held.bytes()) {
        let entry = entry?;
        match entry.name {
            b"." => {}
            b".." => parent = entry.ino,
            name if entry.ino != 0 => list.push((Vec::from(name), entry.ino, entry.kind)),
            _ => {}
        }
    }
    drop(held);
    let new = dir::append_block(layout, edit, dir)?;
    dir::pack(layout, write(layout, edit, dir, new)?, &list);
    let ino = dir.ino();
    let bytes = write(layout, edit, dir, block)?;
    bytes.fill(0);
    view::put(bytes, 0, &ino.to_le_bytes());
    view::put(bytes, 4, &[12, 0, 1, 2, b'.']);
    view::put(bytes, 12, &parent.to_le_bytes());
    view::put(bytes, 16, &((layout.block_size - 12) as u16).to_le_bytes());
    view::put(bytes, 18, &[2, 2, b'.', b'.']);
    let version = if layout.hash_version <= 2 { layout.hash_version } else { 1 };
    view::put(bytes, INFO_AT + 4, &[version, 8, 0, 0]);
    set_limit_and_count(bytes, ROOT_AT, limit_for(layout, ROOT_AT), 1);
    view::put(bytes, ROOT_AT + 4, &1u32.to_le_bytes());
    dir.set_flags(dir.flags() | flags::INDEX);
    dir.store(layout, edit)
}

/// Adds an entry to an indexed directory.
pub(crate) fn insert(
    layout: &Layout,
    edit: &mut dyn Edit,
    dir: &mut Inode,
    name: &[u8],
    ino: u32,
    kind: u8,
) -> Result<()> {
    let hash = dir::hash_of(layout, read_version(layout, edit, dir)?, name)?.major;
    // Each round makes room at one level; the leaf may have to be split twice for a long name.
    for _ in 0..16 {
        let way = walk(layout, edit, dir, hash)?;
        let block = dir::block_at(layout, edit, dir, way.leaf)?;
        drop(dir::read(layout, edit, dir, block)?);
        match dir::insert_into(layout, write(layout, edit, dir, block)?, name, ino, kind) {
            Err(Error::NoSpace) => {}
            done => return done,
        }
        let roomy = way.steps.iter().rposition(|step| step.count < step.limit);
        match roomy {
            Some(at) if at + 1 == way.steps.len() => split_leaf(layout, edit, dir, &way, block)?,
            Some(at) => split_node(layout, edit, dir, &way, at)?,
            None => deepen(layout, edit, dir, &way)?,
        }
    }
    Err(Error::NoSpace)
}

/// Puts the pair (`hash`, `logical`) behind the one taken in `step`, which has room.
fn insert_pair(
    layout: &Layout,
    edit: &mut dyn Edit,
    dir: &Inode,
    step: &Step,
    hash: u32,
    logical: u32,
) -> Result<()> {
    let bytes = write(layout, edit, dir, step.block)?;
    let (from, end) = (step.at + (step.idx + 1) * PAIR, step.at + step.count * PAIR);
    if end + PAIR > bytes.len() {
        return Err(Error::Corrupt("directory index"));
    }
    bytes.copy_within(from..end, from + PAIR);
    view::put(bytes, from, &hash.to_le_bytes());
    view::put(bytes, from + 4, &logical.to_le_bytes());
    set_limit_and_count(bytes, step.at, step.limit, step.count + 1);
    Ok(())
}

/// Moves the half of a block of entries with the larger hashes into a new block.
fn split_leaf(layout: &Layout, edit: &mut dyn Edit, dir: &mut Inode, way: &Way, block: u64) -> Result<()> {
    let version = read_version(layout, edit, dir)?;
    let held = dir::read(layout, edit, dir, block)?;
    let (mut found, mut order) = (Vec::new(), Vec::new());
    for entry in dir::entries(layout, held.bytes()) {
        let entry = entry?;
        if entry.ino != 0 {
            order.push((dir::hash_of(layout, version, entry.name)?.major, found.len() as u32));
            found.push((Vec::from(entry.name), entry.ino, entry.kind));
        }
    }
    drop(held);
    // As in `list`.
    order.sort_unstable();
    let sorted = order.iter().filter_map(|&(_, idx)| {
        let (name, ino, kind) = found.get_mut(idx as usize)?;
        Some((core::mem::take(name), *ino, *kind))
    });
    let lists = sorted.collect::<Vec<_>>();
    let half = layout.block_size / 2;
    let mut size = 0;
    let kept = lists.iter().position(|(name, ..)| {
        size += (8 + name.len()).next_multiple_of(4);
        size > half
    });
    let kept = kept.unwrap_or(lists.len() / 2).clamp(1, lists.len().saturating_sub(1).max(1));
    let (Some((hash, _)), Some((before, _))) = (order.get(kept), order.get(kept - 1)) else {
        return Err(Error::NoSpace);
    };
    let key = hash | u32::from(hash == before);
    let logical = dir::nr_blocks(layout, dir);
    let new = dir::append_block(layout, edit, dir)?;
    let (low, high) = lists.split_at(kept);
    dir::pack(layout, write(layout, edit, dir, new)?, high);
    dir::pack(layout, write(layout, edit, dir, block)?, low);
    let parent = way.steps.last().ok_or(Error::Corrupt("directory index"))?;
    insert_pair(layout, edit, dir, parent, key, logical)
}

/// A new inner node with the pairs `pairs`.
fn new_node(layout: &Layout, edit: &mut dyn Edit, dir: &mut Inode, pairs: &[u8]) -> Result<u32> {
    let logical = dir::nr_blocks(layout, dir);
    let block = dir::append_block(layout, edit, dir)?;
    let bytes = write(layout, edit, dir, block)?;
    bytes.fill(0);
    view::put(bytes, 4, &(layout.block_size as u16).to_le_bytes());
    view::put(bytes, NODE_AT, pairs);
    set_limit_and_count(bytes, NODE_AT, limit_for(layout, NODE_AT), pairs.len() / PAIR);
    Ok(logical)
}

/// Moves half of the pairs of the node below step `at` into a new node.
fn split_node(layout: &Layout, edit: &mut dyn Edit, dir: &mut Inode, way: &Way, at: usize) -> Result<()> {
    let (Some(parent), Some(child)) = (way.steps.get(at), way.steps.get(at + 1)) else {
        return Err(Error::Corrupt("directory index"));
    };
    let kept = child.count / 2;
    let held = edit.read(child.block)?;
    let from = child.at + kept * PAIR;
    let pairs = Vec::from(view::slice(held.bytes(), from, (child.count - kept) * PAIR)?);
    drop(held);
    let logical = new_node(layout, edit, dir, &pairs)?;
    let bytes = write(layout, edit, dir, child.block)?;
    set_limit_and_count(bytes, child.at, child.limit, kept);
    insert_pair(layout, edit, dir, parent, view::le32(&pairs, 0), logical)
}

/// Moves the pairs of the root into a new node below it. `NoSpace`: the index may have no more levels.
fn deepen(layout: &Layout, edit: &mut dyn Edit, dir: &mut Inode, way: &Way) -> Result<()> {
    let levels = way.steps.len() as u8;
    if levels >= max_levels(layout) {
        return Err(Error::NoSpace);
    }
    let root = way.steps.first().ok_or(Error::Corrupt("directory index"))?;
    let held = edit.read(root.block)?;
    let pairs = Vec::from(view::slice(held.bytes(), root.at, root.count * PAIR)?);
    drop(held);
    let logical = new_node(layout, edit, dir, &pairs)?;
    let bytes = write(layout, edit, dir, root.block)?;
    set_limit_and_count(bytes, root.at, root.limit, 1);
    view::put(bytes, root.at + 4, &logical.to_le_bytes());
    view::put(bytes, INFO_AT + 6, &[levels]);
    Ok(())
}
