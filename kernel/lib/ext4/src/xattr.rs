//! Extended attributes: in the room behind an inode's fields, and in one further block.
//!
//! ```text
//!   inode  [128 bytes][extra fields][magic][entry][entry][0]....[value][value]   offsets from the first entry
//!   block  [header, 32 bytes]              [entry][entry][0]....[value][value]   offsets from the block
//! ```
//!
//! A block may be shared by several inodes; it is copied when one of them changes.
//!
//! Source: Documentation/filesystems/ext4/attributes.rst (Linux 7.2).

use alloc::vec::Vec;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::alloc_blocks::{alloc_unpromised, free_blocks};
use crate::block::{BlockRef, Blocks, Edit, Freed, Seal};
use crate::crc::crc32c;
use crate::error::{Error, Result};
use crate::inode::Inode;
use crate::layout::Layout;
use crate::view;

const MAGIC: u32 = 0xea02_0000;
const BLOCK_HEADER: usize = 32;
const CHECKSUM_AT: usize = 16;
const ENTRY: usize = 16;

/// `e_name_index`: the prefixes of names.
pub mod index {
    /// "user."
    pub const USER: u8 = 1;
    /// "system.posix_acl_access"
    pub const ACL_ACCESS: u8 = 2;
    /// "system.posix_acl_default"
    pub const ACL_DEFAULT: u8 = 3;
    /// "trusted."
    pub const TRUSTED: u8 = 4;
    /// "security."
    pub const SECURITY: u8 = 6;
    /// "system."
    pub const SYSTEM: u8 = 7;
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    name_len: u8,
    name_index: u8,
    value_at: U16,
    value_inum: U32,
    value_size: U32,
    hash: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    magic: U32,
    refcount: U32,
    blocks: U32,
    hash: U32,
    checksum: U32,
    reserved: [U32; 3],
}

/// An attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attribute {
    index: u8,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Attribute {
    fn inline_data(value: &[u8]) -> Self {
        Self { index: index::SYSTEM, name: b"data".into(), value: value.into() }
    }

    fn is_inline_data(&self) -> bool {
        self.index == index::SYSTEM && self.name == b"data"
    }
}

/// Prefixes of names and their numbers, longer ones first.
const PREFIXES: &[(u8, &[u8])] = &[
    (index::ACL_ACCESS, b"system.posix_acl_access"),
    (index::ACL_DEFAULT, b"system.posix_acl_default"),
    (index::USER, b"user."),
    (index::TRUSTED, b"trusted."),
    (index::SECURITY, b"security."),
    (index::SYSTEM, b"system."),
];

/// The number of a full name's prefix and the rest of the name. `None`: no such prefix.
pub fn split_name(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|&(index, prefix)| Some((index, name.strip_prefix(prefix)?)))
}

/// The prefix with number `index`. `None`: unknown.
pub fn prefix(index: u8) -> Option<&'static [u8]> {
    PREFIXES.iter().find(|(known, _)| *known == index).map(|(_, prefix)| *prefix)
}

/// The entries of `bytes` from `at` on, whose values are counted from `base`.
fn entries(bytes: &[u8], at: usize, base: usize) -> impl Iterator<Item = Result<(u8, &[u8], &[u8])>> {
    let mut at = at;
    core::iter::from_fn(move || {
        if at + 4 > bytes.len() || view::le32(bytes, at) == 0 {
            return None;
        }
        let entry = decode(bytes, at, base);
        at = match &entry {
            Ok((_, name, _)) => at + (ENTRY + name.len()).next_multiple_of(4),
            Err(_) => bytes.len(),
        };
        Some(entry)
    })
}

fn decode(bytes: &[u8], at: usize, base: usize) -> Result<(u8, &[u8], &[u8])> {
    let raw: &RawEntry = view::get(bytes, at)?;
    if raw.value_inum.get() != 0 {
        return Err(Error::Corrupt("attribute in an inode of its own"));
    }
    let name = view::slice(bytes, at + ENTRY, raw.name_len.into())?;
    let size = usize::try_from(raw.value_size.get()).unwrap_or(usize::MAX);
    let value = match size {
        0 => &[],
        _ => view::slice(bytes, base + usize::from(raw.value_at.get()), size)?,
    };
    Ok((raw.name_index, name, value))
}

/// The attributes in the inode itself.
fn in_inode(inode: &Inode) -> impl Iterator<Item = Result<(u8, &[u8], &[u8])>> {
    let tail = if view::le32(inode.tail(), 0) == MAGIC { inode.tail() } else { &[] };
    entries(tail, 4, 4)
}

/// The value of "system.data": the second part of inline contents.
pub(crate) fn inline_data(inode: &Inode) -> Result<Option<&[u8]>> {
    for entry in in_inode(inode) {
        let (index, name, value) = entry?;
        if index == index::SYSTEM && name == b"data" {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// How long the value of "system.data" can be beside the other attributes in the inode. `None`: there is no room even for an
/// empty one.
pub(crate) fn inline_room(inode: &Inode) -> Result<Option<usize>> {
    let mut list = collect(in_inode(inode))?;
    list.retain(|attribute| !attribute.is_inline_data());
    list.push(Attribute::inline_data(&[]));
    Ok(inode.tail().len().saturating_sub(4).checked_sub(size(&list)))
}

/// Sets (`Some`) or removes (`None`) "system.data". The inode is not stored. `NoSpace`: it does not fit.
pub(crate) fn set_inline(inode: &mut Inode, value: Option<&[u8]>) -> Result<()> {
    let mut list = collect(in_inode(inode))?;
    let at = list.iter().position(Attribute::is_inline_data).unwrap_or(0);
    list.retain(|attribute| !attribute.is_inline_data());
    if let Some(value) = value {
        list.insert(at.min(list.len()), Attribute::inline_data(value));
        if size(&list) > inode.tail().len().saturating_sub(4) {
            return Err(Error::NoSpace);
        }
    }
    store_inner(inode, &list);
    Ok(())
}

fn csum(bytes: &[u8], seed: u32, block: u64) -> Result<u32> {
    let crc = crc32c(seed, &block.to_le_bytes());
    let crc = crc32c(crc, view::slice(bytes, 0, CHECKSUM_AT)?);
    let crc = crc32c(crc, &[0; 4]);
    Ok(crc32c(crc, bytes.get(CHECKSUM_AT + 4..).unwrap_or_default()))
}

/// Makes the checksum of a block of attributes.
pub(crate) fn seal(bytes: &mut [u8], seed: u32, block: u64) -> Result<()> {
    let crc = csum(bytes, seed, block)?;
    view::put(bytes, CHECKSUM_AT, &crc.to_le_bytes());
    Ok(())
}

/// The inode's block of attributes, checked.
fn read_block(layout: &Layout, blocks: &dyn Blocks, inode: &Inode) -> Result<Option<BlockRef>> {
    let nr = inode.xattr_block();
    if nr == 0 {
        return Ok(None);
    }
    if !layout.is_file_range(nr, 1) {
        return Err(Error::Corrupt("attribute block beyond the file system"));
    }
    let held = blocks.read(nr)?;
    held.check(|bytes| {
        let Some(seed) = layout.csum_seed else { return Ok(()) };
        if csum(bytes, seed, nr)? == view::le32(bytes, CHECKSUM_AT) {
            Ok(())
        } else {
            Err(Error::Corrupt("attribute block checksum"))
        }
    })?;
    let header: &Header = view::get(held.bytes(), 0)?;
    if header.magic.get() != MAGIC || header.blocks.get() != 1 || header.refcount.get() == 0 {
        return Err(Error::Corrupt("attribute block"));
    }
    Ok(Some(held))
}

/// Calls `visit` with prefix number, rest of the name, and value of each attribute until it gives something.
fn for_each<R>(
    layout: &Layout,
    blocks: &dyn Blocks,
    inode: &Inode,
    mut visit: impl FnMut(u8, &[u8], &[u8]) -> Option<R>,
) -> Result<Option<R>> {
    for entry in in_inode(inode) {
        let (index, name, value) = entry?;
        if let Some(found) = visit(index, name, value) {
            return Ok(Some(found));
        }
    }
    let Some(block) = read_block(layout, blocks, inode)? else { return Ok(None) };
    for entry in entries(block.bytes(), BLOCK_HEADER, 0) {
        let (index, name, value) = entry?;
        if let Some(found) = visit(index, name, value) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The value of the attribute `name` with prefix `index`.
pub fn get(
    layout: &Layout,
    blocks: &dyn Blocks,
    inode: &Inode,
    index: u8,
    name: &[u8],
) -> Result<Option<Vec<u8>>> {
    for_each(layout, blocks, inode, |i, n, value| (i == index && n == name).then(|| Vec::from(value)))
}

/// Calls `visit` with prefix and rest of the name of each attribute that has a known prefix.
pub fn list(
    layout: &Layout,
    blocks: &dyn Blocks,
    inode: &Inode,
    visit: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<()> {
    for_each(layout, blocks, inode, |i, name, _| {
        let is_inline = i == index::SYSTEM && name == b"data";
        if let Some(prefix) = prefix(i).filter(|_| !is_inline) {
            visit(prefix, name);
        }
        None::<()>
    })
    .map(drop)
}

fn collect<'a>(entries: impl Iterator<Item = Result<(u8, &'a [u8], &'a [u8])>>) -> Result<Vec<Attribute>> {
    entries
        .map(|entry| {
            entry.map(|(index, name, value)| Attribute { index, name: name.into(), value: value.into() })
        })
        .collect()
}

/// Bytes that the attributes take, with the end mark.
fn size(list: &[Attribute]) -> usize {
    let one = |a: &Attribute| (ENTRY + a.name.len()).next_multiple_of(4) + a.value.len().next_multiple_of(4);
    list.iter().map(one).sum::<usize>() + 4
}

/// Sets (`Some`) or removes (`None`) the attribute `name` with prefix `index`. The inode is stored.
///
/// `TooBig`: there is no room left for attributes. `NoSpace`: no block. `NotFound`: nothing to remove.
pub fn set(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    index: u8,
    name: &[u8],
    value: Option<&[u8]>,
) -> Result<()> {
    let mut inner = collect(in_inode(inode))?;
    let block = read_block(layout, edit, inode)?;
    let mut outer = match &block {
        Some(block) => collect(entries(block.bytes(), BLOCK_HEADER, 0))?,
        None => Vec::new(),
    };
    let is_it = |a: &Attribute| a.index == index && a.name == name;
    let was_there = inner.iter().chain(&outer).any(is_it);
    let was_outer = outer.iter().any(is_it);
    inner.retain(|a| !is_it(a));
    outer.retain(|a| !is_it(a));
    let mut is_outer_changed = was_outer;
    match value {
        None if !was_there => return Err(Error::NotFound),
        None => {}
        Some(value) => {
            let new = Attribute { index, name: name.into(), value: value.into() };
            let room_inner = inode.tail().len().saturating_sub(4);
            inner.push(new);
            if size(&inner) > room_inner {
                outer.extend(inner.pop());
                is_outer_changed = true;
                if size(&outer) > layout.block_size - BLOCK_HEADER {
                    return Err(Error::TooBig);
                }
            }
        }
    }
    if is_outer_changed {
        store_block(layout, edit, inode, block, &outer)?;
    }
    store_inner(inode, &inner);
    inode.store(layout, edit)
}

fn store_inner(inode: &mut Inode, list: &[Attribute]) {
    let tail = inode.tail_mut();
    tail.fill(0);
    if !list.is_empty() {
        view::put(tail, 0, &MAGIC.to_le_bytes());
        lay_out(tail, 4, 4, list.iter());
    }
}

/// Writes entries from `at` on and their values from the end on; gives the entries' hashes.
fn lay_out<'a>(
    bytes: &mut [u8],
    mut at: usize,
    base: usize,
    list: impl Iterator<Item = &'a Attribute>,
) -> Vec<u32> {
    let mut end = bytes.len() / 4 * 4;
    let mut hashes = Vec::new();
    for attribute in list {
        let hash = entry_hash(attribute);
        hashes.push(hash);
        let len = attribute.value.len();
        end -= len.next_multiple_of(4).min(end);
        let raw = RawEntry {
            name_len: attribute.name.len() as u8,
            name_index: attribute.index,
            value_at: (if len == 0 { 0 } else { end - base } as u16).into(),
            value_inum: 0.into(),
            value_size: (len as u32).into(),
            hash: hash.into(),
        };
        view::put(bytes, at, raw.as_bytes());
        view::put(bytes, at + ENTRY, &attribute.name);
        view::put(bytes, end, &attribute.value);
        at += (ENTRY + attribute.name.len()).next_multiple_of(4);
    }
    hashes
}

fn entry_hash(attribute: &Attribute) -> u32 {
    let name = attribute.name.iter().fold(0u32, |hash, &byte| hash.rotate_left(5) ^ u32::from(byte));
    attribute.value.chunks(4).fold(name, |hash, chunk| {
        let mut word = [0; 4];
        view::put(&mut word, 0, chunk);
        hash.rotate_left(16) ^ u32::from_le_bytes(word)
    })
}

/// Makes `list` the contents of the inode's attribute block: in place, in a new one, or none at all.
fn store_block(
    layout: &Layout,
    edit: &mut dyn Edit,
    inode: &mut Inode,
    old: Option<BlockRef>,
    list: &[Attribute],
) -> Result<()> {
    let old_nr = inode.xattr_block();
    let refs = old.as_ref().map_or(0, |block| view::le32(block.bytes(), 4));
    drop(old);
    if list.is_empty() {
        return release_block(layout, edit, inode);
    }
    let nr = if refs == 1 {
        old_nr
    } else {
        let goal = layout.group_start((inode.ino() - 1) / layout.inodes_per_group);
        let (new, _) = alloc_unpromised(layout, edit, goal, 1)?;
        edit.create(new, Seal::Xattr(new))?;
        if refs > 1 {
            release_block(layout, edit, inode)?;
        }
        inode.set_xattr_block(new);
        inode.add_blocks(layout, 1);
        new
    };
    // Not the attributes themselves: to sort what is large takes room on the stack.
    let mut list: Vec<&Attribute> = list.iter().collect();
    list.sort_unstable_by(|a, b| (a.index, a.name.len(), &a.name).cmp(&(b.index, b.name.len(), &b.name)));
    let bytes = edit.write(nr, Seal::Xattr(nr))?;
    bytes.fill(0);
    let hashes = lay_out(bytes, BLOCK_HEADER, 0, list.into_iter());
    let is_hashed = hashes.iter().all(|&hash| hash != 0);
    let hash = if is_hashed { hashes.iter().fold(0u32, |all, &one| all.rotate_left(16) ^ one) } else { 0 };
    let header: &mut Header = view::get_mut(bytes, 0)?;
    header.magic.set(MAGIC);
    header.refcount.set(1);
    header.blocks.set(1);
    header.hash.set(hash);
    Ok(())
}

/// Gives up the inode's share of its attribute block. The inode is not stored.
pub fn release_block(layout: &Layout, edit: &mut dyn Edit, inode: &mut Inode) -> Result<()> {
    let nr = inode.xattr_block();
    let Some(block) = read_block(layout, edit, inode)? else { return Ok(()) };
    let refs = view::le32(block.bytes(), 4);
    drop(block);
    inode.set_xattr_block(0);
    inode.add_blocks(layout, -1);
    if refs > 1 {
        view::get_mut::<Header>(edit.write(nr, Seal::Xattr(nr))?, 0)?.refcount.set(refs - 1);
        return Ok(());
    }
    free_blocks(layout, edit, nr, 1, Freed::Metadata)
}
