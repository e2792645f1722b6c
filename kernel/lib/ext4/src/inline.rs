//! Contents that lie in the inode: the first 60 bytes in its block map, the rest in the attribute "system.data".
//!
//! ```text
//!   file        [60 bytes of data]                         "system.data": [more data]
//!   directory   [parent, 4 bytes][entries, 56 bytes]       "system.data": [more entries]
//! ```
//! The attribute is there even when it is empty: it tells that the rest of the inode is understood. A directory's entries may
//! outgrow the first part, then all that its attributes leave of the inode; then they move to a block for good. So does a file
//! that grows.
//!
//! Source: Documentation/filesystems/ext4/inlinedata.rst (Linux 7.2).

use alloc::vec::Vec;

use crate::block::{Edit, Seal};
use crate::dir::{append_block, insert_into, leaf};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::inode::{Inode, MAP_LEN, flags};
use crate::layout::Layout;
use crate::superblock::Incompat;
use crate::{dir, view, xattr};

/// Where entries begin in the block map of a directory.
const ENTRIES_AT: usize = 4;
/// The least that a directory's second part grows by: an entry with a short name.
const MIN_GROWTH: usize = 12;

/// The contents of a file that lies in its inode.
pub fn file(inode: &Inode) -> Result<Vec<u8>> {
    let mut bytes = Vec::from(inode.map());
    bytes.extend_from_slice(xattr::inline_data(inode)?.unwrap_or_default());
    let size = usize::try_from(inode.size()).unwrap_or(usize::MAX);
    if size > bytes.len() {
        return Err(Error::Corrupt("size of an inline file"));
    }
    bytes.truncate(size);
    Ok(bytes)
}

/// Puts `bytes`, all that the file `inode` has, into it; it has no blocks. The inode is stored, with their number for its size.
/// `false`: they do not fit, and nothing has changed.
pub fn put_file(layout: &Layout, edit: &mut dyn Edit, inode: &mut Inode, bytes: &[u8]) -> Result<bool> {
    let Some(room) = xattr::inline_room(inode)? else { return Ok(false) };
    if bytes.len() > MAP_LEN + room {
        return Ok(false);
    }
    let (first, rest) = bytes.split_at(bytes.len().min(MAP_LEN));
    xattr::set_inline(inode, Some(rest))?;
    inode.set_flags(inode.flags() & !flags::EXTENTS | flags::INLINE_DATA);
    let map = inode.map_mut();
    map.fill(0);
    view::put(map, 0, first);
    inode.set_size(bytes.len() as u64);
    inode.store(layout, edit)?;
    Ok(true)
}

/// Clears what the file `inode` has behind its size. It is not stored.
pub fn cut_file(inode: &mut Inode) -> Result<()> {
    let size = usize::try_from(inode.size()).unwrap_or(usize::MAX);
    if let Some(rest) = inode.map_mut().get_mut(size..) {
        rest.fill(0);
    }
    let part = xattr::inline_data(inode)?.unwrap_or_default();
    match part.get(..size.saturating_sub(MAP_LEN)) {
        Some(kept) if kept.len() < part.len() => {
            let kept = Vec::from(kept);
            xattr::set_inline(inode, Some(&kept))
        }
        _ => Ok(()),
    }
}

/// Makes `inode` one with a map of blocks, which is empty: its contents are lost. It is not stored.
fn leave(layout: &Layout, inode: &mut Inode) -> Result<()> {
    xattr::set_inline(inode, None)?;
    inode.set_flags(inode.flags() & !flags::INLINE_DATA);
    inode.map_mut().fill(0);
    if layout.incompat.contains(Incompat::EXTENTS) {
        inode.init_extents();
    }
    Ok(())
}

/// Has the file `inode` use `block`, which holds its contents, instead of the inode; `None` if it has no contents. The inode is
/// stored.
pub fn leave_file(layout: &Layout, edit: &mut dyn Edit, inode: &mut Inode, block: Option<u64>) -> Result<()> {
    leave(layout, inode)?;
    match block {
        Some(physical) => {
            let run = Extent { logical: 0, len: 1, physical, is_unwritten: false };
            dir::insert_run(layout, edit, inode, run)
        }
        None => inode.store(layout, edit),
    }
}

/// Makes the new directory `dir` an inline one in `parent`. The inode is stored. `false`: it has no room.
pub(crate) fn init_dir(layout: &Layout, edit: &mut dyn Edit, dir: &mut Inode, parent: u32) -> Result<bool> {
    if !layout.incompat.contains(Incompat::INLINE_DATA) || xattr::inline_room(dir)?.is_none() {
        return Ok(false);
    }
    xattr::set_inline(dir, Some(&[]))?;
    dir.set_flags(dir.flags() & !flags::EXTENTS | flags::INLINE_DATA);
    let map = dir.map_mut();
    map.fill(0);
    view::put(map, 0, &parent.to_le_bytes());
    leaf::init_part(map.get_mut(ENTRIES_AT..).unwrap_or_default());
    dir.set_size(MAP_LEN as u64);
    dir.store(layout, edit)?;
    Ok(true)
}

/// The directory that ".." of `dir` leads to.
pub fn parent(dir: &Inode) -> u32 {
    view::le32(dir.map(), 0)
}

/// Has ".." of `dir` lead to `parent`. The inode is stored.
pub(crate) fn set_parent(layout: &Layout, edit: &mut dyn Edit, dir: &mut Inode, parent: u32) -> Result<()> {
    view::put(dir.map_mut(), 0, &parent.to_le_bytes());
    dir.store(layout, edit)
}

/// The two parts of the entries of `dir`.
pub(crate) fn parts(dir: &Inode) -> Result<[&[u8]; 2]> {
    let first = dir.map().get(ENTRIES_AT..).unwrap_or_default();
    Ok([first, xattr::inline_data(dir)?.unwrap_or_default()])
}

/// Runs `change` on each part of the entries until it gives something; the inode is stored then.
fn change_parts<R>(
    layout: &Layout,
    edit: &mut dyn Edit,
    dir: &mut Inode,
    mut change: impl FnMut(&mut [u8]) -> Result<Option<R>>,
) -> Result<Option<R>> {
    let part = dir.map_mut().get_mut(ENTRIES_AT..).unwrap_or_default();
    if let Some(done) = change(part)? {
        dir.store(layout, edit)?;
        return Ok(Some(done));
    }
    let mut part = Vec::from(xattr::inline_data(dir)?.unwrap_or_default());
    let Some(done) = change(&mut part)? else { return Ok(None) };
    xattr::set_inline(dir, Some(&part))?;
    dir.store(layout, edit)?;
    Ok(Some(done))
}

/// Adds an entry to `dir`, growing it as far as its inode has room. The inode is stored. `false`: it has none.
pub(crate) fn add(
    layout: &Layout,
    edit: &mut dyn Edit,
    dir: &mut Inode,
    name: &[u8],
    ino: u32,
    kind: u8,
) -> Result<bool> {
    let added = change_parts(layout, edit, dir, |part| {
        let Some(room) = leaf::room_in(part, part.len(), name)? else { return Ok(None) };
        leaf::insert_at(part, &room, name, ino, kind);
        Ok(Some(()))
    })?;
    if added.is_some() {
        return Ok(true);
    }
    let mut part = Vec::from(xattr::inline_data(dir)?.unwrap_or_default());
    let room = xattr::inline_room(dir)?.unwrap_or(0) / 4 * 4;
    let old = part.len();
    if room < old + MIN_GROWTH || !old.is_multiple_of(4) {
        return Ok(false);
    }
    part.resize(room, 0);
    leaf::init_part(part.get_mut(old..).unwrap_or_default());
    let Some(place) = leaf::room_in(&part, room, name)? else { return Ok(false) };
    leaf::insert_at(&mut part, &place, name, ino, kind);
    xattr::set_inline(dir, Some(&part))?;
    dir.set_size((MAP_LEN + room) as u64);
    dir.store(layout, edit)?;
    Ok(true)
}

/// Removes an entry. The inode is stored. `NotFound`.
pub(crate) fn remove(layout: &Layout, edit: &mut dyn Edit, dir: &mut Inode, name: &[u8]) -> Result<()> {
    let removed = change_parts(layout, edit, dir, |part| {
        let Some((at, before)) = leaf::place_in(part, part.len(), name)? else { return Ok(None) };
        leaf::remove_at(part, at, before).map(Some)
    })?;
    removed.ok_or(Error::NotFound)
}

/// Makes an entry lead to `ino`. The inode is stored. `NotFound`.
pub(crate) fn set(
    layout: &Layout,
    edit: &mut dyn Edit,
    dir: &mut Inode,
    name: &[u8],
    ino: u32,
    kind: u8,
) -> Result<()> {
    let found = change_parts(layout, edit, dir, |part| {
        let Some((at, _)) = leaf::place_in(part, part.len(), name)? else { return Ok(None) };
        leaf::set_at(part, at, ino, kind);
        Ok(Some(()))
    })?;
    found.ok_or(Error::NotFound)
}

/// Moves the entries of `dir` to a block. The inode is stored. `NoSpace`: nothing has changed.
pub(crate) fn leave_dir(layout: &Layout, edit: &mut dyn Edit, dir: &mut Inode) -> Result<()> {
    let mut list: Vec<(Vec<u8>, u32, u8)> = Vec::new();
    for part in parts(dir)? {
        for entry in leaf::entries_in(part, part.len()) {
            let entry = entry?;
            if entry.ino != 0 {
                list.try_reserve(1).map_err(|_| Error::NoMemory)?;
                list.push((entry.name.into(), entry.ino, entry.kind));
            }
        }
    }
    let before = dir.clone();
    let parent = parent(dir);
    leave(layout, dir)?;
    dir.set_size(0);
    let block = match append_block(layout, edit, dir) {
        Ok(block) => block,
        Err(error) => {
            *dir = before;
            dir.store(layout, edit)?;
            return Err(error);
        }
    };
    let (seed, ino) = (dir.seed(layout), dir.ino());
    let bytes = edit.write(block, Seal::Dir(seed))?;
    leaf::init_dots(layout, bytes, ino, parent);
    for (name, ino, kind) in &list {
        insert_into(layout, bytes, name, *ino, *kind)?;
    }
    Ok(())
}
