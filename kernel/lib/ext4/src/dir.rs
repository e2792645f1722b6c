//! Directories: entries in blocks, with or without an index of hashes (`htree`).
//!
//! ```text
//!   block    [inode|rec_len|name_len|type|name..][..]...[free: inode 0]...[checksum, looks like an entry]
//! ```
//!
//! Records of a block follow each other without gaps; a removed one is added to the one before it. The position of a
//! listing is the hash of the next name where names are hashed, so that splitting a block does not move entries past
//! a reader; elsewhere it is a byte offset. Positions 0 and 1 are "." and "..".
//!
//! Source: Documentation/filesystems/ext4/directory.rst (Linux 7.2).

pub(crate) mod leaf;

pub use leaf::{Entry, kind_of_mode};
pub(crate) use leaf::{entries, find_in, insert_into, pack};

use crate::alloc_blocks::{alloc_unpromised, free_blocks};
use crate::block::{BlockRef, Blocks, Edit, Freed, Seal};
use crate::crc::crc32c;
use crate::error::{Error, Result};
use crate::extent::{self, Extent, Mapping};
use crate::hash;
use crate::htree;
use crate::inode::{Inode, flags};
use crate::layout::Layout;
use crate::superblock::Compat;
use crate::{indirect, inline, view};

/// The longest name.
pub const NAME_MAX: usize = 255;
/// Links that a directory may have before its count says 1, "many" (feature dir_nlink).
pub const LINK_MAX: u32 = 65000;
/// The first position behind "." and "..".
pub const FIRST_POS: u64 = 2;

/// Where an entry lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Block on the device.
    pub block: u64,
    /// Byte in it.
    pub at: usize,
    /// Where the entry before it in the block begins, if there is one.
    pub before: Option<usize>,
}

/// What `inode` has at its block `logical`.
///
/// `Inline`: its contents lie where the map of blocks would be.
pub fn map(layout: &Layout, blocks: &dyn Blocks, inode: &Inode, logical: u32) -> Result<Mapping> {
    if inode.has_flags(flags::INLINE_DATA) {
        return Err(Error::Inline);
    }
    if inode.has_flags(flags::EXTENTS) {
        extent::lookup(layout, blocks, inode, logical)
    } else {
        indirect::lookup(layout, blocks, inode, logical)
    }
}

/// Frees the file's blocks in `from..to`; `more` of it has to be done when [`extent::RemoveOutcome::More`] comes.
///
/// `Corrupt`: its contents lie in the inode, where the map of blocks would be.
pub fn unmap(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    from: u32,
    to: u64,
    budget: usize,
) -> Result<extent::RemoveOutcome> {
    if inode.has_flags(flags::INLINE_DATA) {
        return Err(Error::Corrupt("blocks of a file that lies in its inode"));
    }
    if inode.has_flags(flags::EXTENTS) {
        extent::remove(layout, edit, inode, from, to, budget)
    } else {
        indirect::remove(layout, edit, inode, from, to, budget)
    }
}

/// How many blocks at `logical` one [`insert_run`] can enter; 0 behind the end of the largest file.
pub fn room(layout: &Layout, inode: &Inode, logical: u32) -> u32 {
    if inode.has_flags(flags::EXTENTS) {
        extent::MAX_LEN.min(u32::MAX - logical)
    } else {
        indirect::room(layout, logical)
    }
}

/// Makes the blocks of `run`, no more than [`room`], the file's, where it has a hole. The inode is stored.
///
/// `NoSpace`: that needs another block, and there is none.
pub fn insert_run(layout: &Layout, edit: &mut dyn Edit, inode: &mut Inode, run: Extent) -> Result<()> {
    if inode.has_flags(flags::EXTENTS) {
        extent::insert(layout, edit, inode, run)
    } else {
        indirect::insert(layout, edit, inode, run)
    }
}

/// Blocks of directory `dir`.
pub(crate) fn nr_blocks(layout: &Layout, dir: &Inode) -> u32 {
    (dir.size() >> layout.block_bits).min(u32::MAX.into()) as u32
}

/// The device block behind block `logical` of a directory. `Corrupt`: a hole.
pub(crate) fn block_at(layout: &Layout, blocks: &dyn Blocks, dir: &Inode, logical: u32) -> Result<u64> {
    match map(layout, blocks, dir, logical)? {
        Mapping::Extent(extent) if !extent.is_unwritten => Ok(extent.physical),
        _ => Err(Error::Corrupt("hole in a directory")),
    }
}

/// Reads a block of `dir` and checks its checksum.
pub(crate) fn read(layout: &Layout, blocks: &dyn Blocks, dir: &Inode, block: u64) -> Result<BlockRef> {
    let held = blocks.read(block)?;
    let seed = dir.seed(layout);
    held.check(|bytes| if layout.has_csums() { check_csum(bytes, seed) } else { Ok(()) })?;
    Ok(held)
}

/// Where the checksum of a directory block is, and how much it covers.
fn csum_place(bytes: &[u8]) -> Result<(usize, usize)> {
    match htree::index_at(bytes) {
        Some(at) => {
            let (limit, count) = htree::limit_and_count(bytes, at);
            Ok((at + limit * 8 + 4, at + count * 8))
        }
        None => {
            let at = bytes.len().checked_sub(4).ok_or(Error::Corrupt("directory block"))?;
            Ok((at, bytes.len() - leaf::TAIL))
        }
    }
}

fn csum(bytes: &[u8], seed: u32) -> Result<(usize, u32)> {
    let (at, covered) = csum_place(bytes)?;
    let mut crc = crc32c(seed, view::slice(bytes, 0, covered)?);
    if htree::index_at(bytes).is_some() {
        // The tail's reserved word, and the checksum itself as zero.
        crc = crc32c(crc32c(crc, view::slice(bytes, at - 4, 4)?), &[0; 4]);
    }
    Ok((at, crc))
}

fn check_csum(bytes: &[u8], seed: u32) -> Result<()> {
    let (at, crc) = csum(bytes, seed)?;
    let is_tail = htree::index_at(bytes).is_some() || leaf::has_tail(bytes);
    if is_tail && view::slice(bytes, at, 4)? == crc.to_le_bytes() {
        Ok(())
    } else {
        Err(Error::Corrupt("directory checksum"))
    }
}

/// Makes the checksum of a directory block.
pub(crate) fn seal(bytes: &mut [u8], seed: u32) -> Result<()> {
    let (at, crc) = csum(bytes, seed)?;
    view::put(bytes, at, &crc.to_le_bytes());
    Ok(())
}

/// Calls `visit` with each block of entries of `dir`, holes skipped, and its place, until it gives something.
pub(crate) fn for_each_block<R>(
    layout: &Layout,
    blocks: &dyn Blocks,
    dir: &Inode,
    first: u32,
    mut visit: impl FnMut(u32, u64, &[u8]) -> Result<Option<R>>,
) -> Result<Option<R>> {
    let end = nr_blocks(layout, dir);
    let mut logical = first;
    while logical < end {
        match map(layout, blocks, dir, logical)? {
            Mapping::Hole(len) => logical = logical.saturating_add(len),
            Mapping::Extent(extent) if extent.is_unwritten => logical = logical.saturating_add(extent.len),
            Mapping::Extent(extent) => {
                for at in 0..extent.len.min(end - logical) {
                    let block = extent.physical + u64::from(at);
                    let held = read(layout, blocks, dir, block)?;
                    if htree::index_at(held.bytes()).is_some() && dir.has_flags(flags::INDEX) {
                        continue;
                    }
                    if let Some(found) = visit(logical + at, block, held.bytes())? {
                        return Ok(Some(found));
                    }
                }
                logical = logical.saturating_add(extent.len);
            }
        }
    }
    Ok(None)
}

/// Finds `name` in `dir`: the inode's number and its kind as the entry tells it.
///
/// `Corrupt`: the entry leads nowhere.
pub fn lookup(layout: &Layout, blocks: &dyn Blocks, dir: &Inode, name: &[u8]) -> Result<Option<(u32, u8)>> {
    let found = if dir.has_flags(flags::INLINE_DATA) {
        let mut found = None;
        for part in inline::parts(dir)? {
            for entry in leaf::entries_in(part, part.len()) {
                let entry = entry?;
                if entry.name == name && entry.ino != 0 {
                    found = Some((entry.ino, entry.kind));
                }
            }
        }
        found
    } else {
        match find(layout, blocks, dir, name)? {
            Some(place) => {
                let held = blocks.read(place.block)?;
                let entry = leaf::decode(held.bytes(), place.at, held.bytes().len())?;
                Some((entry.ino, entry.kind))
            }
            None => None,
        }
    };
    match found {
        Some((ino, _))
            if !layout.is_ino(ino) || (ino < layout.first_ino && ino != crate::inode::ROOT_INO) =>
        {
            Err(Error::Corrupt("directory entry leads to a bad inode"))
        }
        found => Ok(found),
    }
}

/// The place of the entry `name`.
pub(crate) fn find(layout: &Layout, blocks: &dyn Blocks, dir: &Inode, name: &[u8]) -> Result<Option<Place>> {
    if leaf::is_dots(name) {
        return find_dots(layout, blocks, dir, name);
    }
    if dir.has_flags(flags::INDEX) && layout.compat.contains(Compat::DIR_INDEX) {
        match htree::find(layout, blocks, dir, name) {
            // A broken index hides no names, as long as its blocks are sound.
            Err(Error::Corrupt(_)) => {}
            found => return found,
        }
    }
    for_each_block(layout, blocks, dir, 0, |_, block, bytes| {
        Ok(leaf::find_in(layout, bytes, name)?.map(|(at, before)| Place { block, at, before }))
    })
}

/// The place of "." or "..": the first two entries, where the root of an index has them, too.
fn find_dots(layout: &Layout, blocks: &dyn Blocks, dir: &Inode, name: &[u8]) -> Result<Option<Place>> {
    let block = block_at(layout, blocks, dir, 0)?;
    let held = read(layout, blocks, dir, block)?;
    let mut before = None;
    for entry in leaf::entries_in(held.bytes(), held.bytes().len()).take(2) {
        let entry = entry?;
        if entry.name == name && entry.ino != 0 {
            return Ok(Some(Place { block, at: entry.at, before }));
        }
        before = Some(entry.at);
    }
    Ok(None)
}

/// Whether `dir` has no entries but "." and "..".
pub fn is_empty(layout: &Layout, blocks: &dyn Blocks, dir: &Inode) -> Result<bool> {
    if dir.has_flags(flags::INLINE_DATA) {
        for part in inline::parts(dir)? {
            for entry in leaf::entries_in(part, part.len()) {
                if entry?.ino != 0 {
                    return Ok(false);
                }
            }
        }
        return Ok(true);
    }
    let found = for_each_block(layout, blocks, dir, 0, |_, _, bytes| {
        for entry in entries(layout, bytes) {
            let entry = entry?;
            if entry.ino != 0 && !leaf::is_dots(entry.name) {
                return Ok(Some(()));
            }
        }
        Ok(None)
    })?;
    Ok(found.is_none())
}

/// Calls `emit` with the entries of `dir` but "." and ".." from position `pos` on and the position behind each,
/// until it says `false`. Gives the position to go on from.
pub fn list(
    layout: &Layout,
    blocks: &dyn Blocks,
    dir: &Inode,
    pos: u64,
    emit: &mut dyn FnMut(&Entry<'_>, u64) -> bool,
) -> Result<u64> {
    let pos = pos.max(FIRST_POS);
    if dir.has_flags(flags::INLINE_DATA) {
        return list_inline(dir, pos, emit);
    }
    let is_hashed = layout.compat.contains(Compat::DIR_INDEX)
        && (dir.has_flags(flags::INDEX) || nr_blocks(layout, dir) == 1);
    if is_hashed {
        return htree::list(layout, blocks, dir, pos, emit);
    }
    let offset = pos - FIRST_POS;
    let mut next_pos = pos;
    let first = (offset >> layout.block_bits).min(u32::MAX.into()) as u32;
    for_each_block(layout, blocks, dir, first, |logical, _, bytes| {
        let base = u64::from(logical) << layout.block_bits;
        for entry in entries(layout, bytes) {
            let entry = entry?;
            let next = base + (entry.at + entry.len) as u64 + FIRST_POS;
            if entry.ino == 0 || base + (entry.at as u64) < offset || leaf::is_dots(entry.name) {
                continue;
            }
            if !emit(&entry, next) {
                return Ok(Some(()));
            }
            next_pos = next;
        }
        Ok(None)
    })?;
    Ok(next_pos)
}

fn list_inline(dir: &Inode, pos: u64, emit: &mut dyn FnMut(&Entry<'_>, u64) -> bool) -> Result<u64> {
    let mut base = FIRST_POS;
    let mut next_pos = pos;
    for part in inline::parts(dir)? {
        for entry in leaf::entries_in(part, part.len()) {
            let entry = entry?;
            let next = base + (entry.at + entry.len) as u64;
            if entry.ino == 0 || base + (entry.at as u64) < pos {
                continue;
            }
            if !emit(&entry, next) {
                return Ok(next_pos);
            }
            next_pos = next;
        }
        base += part.len() as u64;
    }
    Ok(next_pos)
}

/// Gives the new directory `dir` "." and "..", in its inode where the file system has such, or in its first block. The inode is
/// stored.
pub fn init(layout: &Layout, edit: &mut dyn Edit, dir: &mut Inode, parent: u32) -> Result<()> {
    if inline::init_dir(layout, edit, dir, parent)? {
        return Ok(());
    }
    let block = append_block(layout, edit, dir)?;
    let seed = dir.seed(layout);
    let ino = dir.ino();
    let bytes = edit.write(block, Seal::Dir(seed))?;
    leaf::init_dots(layout, bytes, ino, parent);
    Ok(())
}

/// Adds an empty block of entries at the end of `dir`; gives where it is. The inode is stored.
pub(crate) fn append_block(layout: &Layout, edit: &mut dyn Edit, dir: &mut Inode) -> Result<u64> {
    let logical = nr_blocks(layout, dir);
    let goal = match logical.checked_sub(1) {
        Some(last) => block_at(layout, edit, dir, last)? + 1,
        None => layout.group_start((dir.ino() - 1) / layout.inodes_per_group),
    };
    let (physical, _) = alloc_unpromised(layout, edit, goal, 1)?;
    let extent = Extent { logical, len: 1, physical, is_unwritten: false };
    if let Err(error) = insert_run(layout, edit, dir, extent) {
        free_blocks(layout, edit, physical, 1, Freed::Data)?;
        return Err(error);
    }
    dir.set_size(u64::from(logical + 1) << layout.block_bits);
    dir.store(layout, edit)?;
    leaf::init(layout, edit.create(physical, Seal::Dir(dir.seed(layout)))?);
    Ok(physical)
}

/// Adds the entry `name`, which is not there, to `dir`. The inode is stored.
///
/// `NoSpace`: no block for it, or an index that cannot grow.
pub fn add(
    layout: &Layout,
    edit: &mut dyn Edit,
    dir: &mut Inode,
    name: &[u8],
    ino: u32,
    kind: u8,
) -> Result<()> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Error::Corrupt("length of a name"));
    }
    if dir.has_flags(flags::INLINE_DATA) {
        if inline::add(layout, edit, dir, name, ino, kind)? {
            return Ok(());
        }
        inline::leave_dir(layout, edit, dir)?;
    }
    let has_index = layout.compat.contains(Compat::DIR_INDEX);
    if dir.has_flags(flags::INDEX) {
        if has_index {
            return htree::insert(layout, edit, dir, name, ino, kind);
        }
        dir.set_flags(dir.flags() & !flags::INDEX);
        dir.store(layout, edit)?;
    }
    let roomy = for_each_block(layout, edit, dir, 0, |_, block, bytes| {
        Ok(leaf::roomy_entry(layout, bytes, name)?.map(|room| (block, room)))
    })?;
    let seed = dir.seed(layout);
    if let Some((block, room)) = roomy {
        leaf::insert_at(edit.write(block, Seal::Dir(seed))?, &room, name, ino, kind);
        return Ok(());
    }
    if has_index && nr_blocks(layout, dir) == 1 {
        htree::make(layout, edit, dir)?;
        return htree::insert(layout, edit, dir, name, ino, kind);
    }
    let block = append_block(layout, edit, dir)?;
    insert_into(layout, edit.write(block, Seal::Dir(seed))?, name, ino, kind)
}

/// Removes the entry `name`. `NotFound`.
pub fn remove(layout: &Layout, edit: &mut dyn Edit, dir: &mut Inode, name: &[u8]) -> Result<()> {
    if dir.has_flags(flags::INLINE_DATA) {
        return inline::remove(layout, edit, dir, name);
    }
    let place = find(layout, edit, dir, name)?.ok_or(Error::NotFound)?;
    leaf::remove_at(edit.write(place.block, Seal::Dir(dir.seed(layout)))?, place.at, place.before)
}

/// Makes the entry `name` (".." included) lead to `ino`. `NotFound`.
pub fn set(
    layout: &Layout,
    edit: &mut dyn Edit,
    dir: &mut Inode,
    name: &[u8],
    ino: u32,
    kind: u8,
) -> Result<()> {
    if dir.has_flags(flags::INLINE_DATA) {
        return match name {
            b".." => inline::set_parent(layout, edit, dir, ino),
            _ => inline::set(layout, edit, dir, name, ino, kind),
        };
    }
    let place = find(layout, edit, dir, name)?.ok_or(Error::NotFound)?;
    leaf::set_at(edit.write(place.block, Seal::Dir(dir.seed(layout)))?, place.at, ino, kind);
    Ok(())
}

/// The hash of `name` by the rule of `version`.
pub(crate) fn hash_of(layout: &Layout, version: u8, name: &[u8]) -> Result<hash::Hash> {
    hash::hash(layout, version, name)
}
