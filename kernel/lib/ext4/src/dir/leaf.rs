//! One block of directory entries.

use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::view;

/// Length of an entry before its name.
const HEADER: usize = 8;
/// Length of the entry-like tail with the checksum.
pub(super) const TAIL: usize = 12;
/// The tail's kind of file.
const TAIL_KIND: u8 = 0xde;

/// An entry; a free one has `ino` 0.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Where it begins in its block.
    pub(crate) at: usize,
    /// Its length with the room behind the name.
    pub(crate) len: usize,
    /// The inode's number.
    pub ino: u32,
    /// The kind of file, 0 for unknown.
    pub kind: u8,
    /// The name.
    pub name: &'a [u8],
}

/// The kind of file that entries tell, for a mode.
pub const fn kind_of_mode(mode: u32) -> u8 {
    match mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o140_000 => 6,
        0o120_000 => 7,
        _ => 0,
    }
}

pub(super) fn is_dots(name: &[u8]) -> bool {
    name == b"." || name == b".."
}

/// Bytes at the end of a block that hold no entries.
pub(super) fn tail_len(layout: &Layout) -> usize {
    if layout.has_csums() { TAIL } else { 0 }
}

/// Bytes that an entry with a name of `len` bytes takes.
pub(crate) const fn needed(len: usize) -> usize {
    (HEADER + len).next_multiple_of(4)
}

/// The entry at `at` of a block whose entries end at `end`.
pub(super) fn decode(bytes: &[u8], at: usize, end: usize) -> Result<Entry<'_>> {
    let len = usize::from(view::le16(bytes, at + 4));
    let name_len = usize::from(bytes.get(at + 6).copied().unwrap_or(0));
    if len < needed(name_len.max(1)) || !len.is_multiple_of(4) || at.checked_add(len).is_none_or(|e| e > end)
    {
        return Err(Error::Corrupt("directory entry"));
    }
    Ok(Entry {
        at,
        len,
        ino: view::le32(bytes, at),
        kind: bytes.get(at + 7).copied().unwrap_or(0),
        name: view::slice(bytes, at + HEADER, name_len)?,
    })
}

/// All entries of `bytes[..end]`, free ones included; ends with the first error.
pub(crate) fn entries_in(bytes: &[u8], end: usize) -> impl Iterator<Item = Result<Entry<'_>>> {
    let mut at = 0;
    core::iter::from_fn(move || {
        if at + HEADER > end {
            return None;
        }
        let entry = decode(bytes, at, end);
        at = entry.as_ref().map_or(end, |entry| entry.at + entry.len);
        Some(entry)
    })
}

/// All entries of a block, free ones included.
pub(crate) fn entries<'a>(layout: &Layout, bytes: &'a [u8]) -> impl Iterator<Item = Result<Entry<'a>>> {
    entries_in(bytes, bytes.len().saturating_sub(tail_len(layout)))
}

/// Where the entry `name` begins, and where the one before it does.
pub(crate) fn find_in(layout: &Layout, bytes: &[u8], name: &[u8]) -> Result<Option<(usize, Option<usize>)>> {
    place_in(bytes, bytes.len().saturating_sub(tail_len(layout)), name)
}

/// As [`find_in`] of `bytes[..end]`.
pub(crate) fn place_in(bytes: &[u8], end: usize, name: &[u8]) -> Result<Option<(usize, Option<usize>)>> {
    let mut before = None;
    for entry in entries_in(bytes, end) {
        let entry = entry?;
        if entry.name == name && entry.ino != 0 {
            return Ok(Some((entry.at, before)));
        }
        before = Some(entry.at);
    }
    Ok(None)
}

/// Whether the block ends in a tail.
pub(super) fn has_tail(bytes: &[u8]) -> bool {
    bytes.len().checked_sub(TAIL).is_some_and(|at| {
        view::le32(bytes, at) == 0
            && view::le16(bytes, at + 4) == TAIL as u16
            && bytes.get(at + 6) == Some(&0)
            && bytes.get(at + 7) == Some(&TAIL_KIND)
    })
}

fn put_entry(bytes: &mut [u8], at: usize, len: usize, name: &[u8], ino: u32, kind: u8) {
    view::put(bytes, at, &ino.to_le_bytes());
    view::put(bytes, at + 4, &(len as u16).to_le_bytes());
    view::put(bytes, at + 6, &[name.len() as u8, kind]);
    view::put(bytes, at + HEADER, name);
}

/// Makes `bytes` a block with one free entry.
pub(crate) fn init(layout: &Layout, bytes: &mut [u8]) {
    bytes.fill(0);
    let end = bytes.len() - tail_len(layout);
    put_entry(bytes, 0, end, &[], 0, 0);
    if layout.has_csums() {
        put_entry(bytes, end, TAIL, &[], 0, TAIL_KIND);
    }
}

/// Makes `bytes` one free entry: a part of a directory that lies in its inode.
pub(crate) fn init_part(bytes: &mut [u8]) {
    let len = bytes.len();
    bytes.fill(0);
    put_entry(bytes, 0, len, &[], 0, 0);
}

/// Makes `bytes` the first block of directory `ino`.
pub(crate) fn init_dots(layout: &Layout, bytes: &mut [u8], ino: u32, parent: u32) {
    init(layout, bytes);
    let end = bytes.len() - tail_len(layout);
    put_entry(bytes, 0, needed(1), b".", ino, 2);
    put_entry(bytes, needed(1), end - needed(1), b"..", parent, 2);
}

/// An entry with room behind or in it.
pub(crate) struct Room {
    at: usize,
    len: usize,
    /// Bytes that it keeps.
    used: usize,
}

/// The entry that has room for `name`.
pub(super) fn roomy_entry(layout: &Layout, bytes: &[u8], name: &[u8]) -> Result<Option<Room>> {
    room_in(bytes, bytes.len().saturating_sub(tail_len(layout)), name)
}

/// As [`roomy_entry`] of `bytes[..end]`.
pub(crate) fn room_in(bytes: &[u8], end: usize, name: &[u8]) -> Result<Option<Room>> {
    let wanted = needed(name.len());
    for entry in entries_in(bytes, end) {
        let entry = entry?;
        let used = if entry.ino == 0 { 0 } else { needed(entry.name.len()) };
        if entry.len >= used + wanted {
            return Ok(Some(Room { at: entry.at, len: entry.len, used }));
        }
    }
    Ok(None)
}

/// Adds an entry to a block. `NoSpace`: no room.
pub(crate) fn insert_into(layout: &Layout, bytes: &mut [u8], name: &[u8], ino: u32, kind: u8) -> Result<()> {
    let room = roomy_entry(layout, bytes, name)?.ok_or(Error::NoSpace)?;
    insert_at(bytes, &room, name, ino, kind);
    Ok(())
}

/// Adds an entry to a block where there is `room` for it.
pub(crate) fn insert_at(bytes: &mut [u8], room: &Room, name: &[u8], ino: u32, kind: u8) {
    let &Room { at, len, used } = room;
    if used > 0 {
        view::put(bytes, at + 4, &(used as u16).to_le_bytes());
    }
    put_entry(bytes, at + used, len - used, name, ino, kind);
}

/// Removes the entry at `at`; the one at `before` takes its room.
pub(crate) fn remove_at(bytes: &mut [u8], at: usize, before: Option<usize>) -> Result<()> {
    let len = decode(bytes, at, bytes.len())?.len;
    let Some(before) = before else {
        if let Some(gone) = bytes.get_mut(at + HEADER..at + len) {
            gone.fill(0);
        }
        put_entry(bytes, at, len, &[], 0, 0);
        return Ok(());
    };
    let before_len = decode(bytes, before, bytes.len())?.len;
    if before + before_len != at {
        return Err(Error::Corrupt("directory entry moved"));
    }
    if let Some(gone) = bytes.get_mut(at..at + len) {
        gone.fill(0);
    }
    view::put(bytes, before + 4, &((before_len + len) as u16).to_le_bytes());
    Ok(())
}

pub(crate) fn set_at(bytes: &mut [u8], at: usize, ino: u32, kind: u8) {
    view::put(bytes, at, &ino.to_le_bytes());
    view::put(bytes, at + 7, &[kind]);
}

/// Makes `bytes` a block with exactly `list`, which fits.
pub(crate) fn pack(layout: &Layout, bytes: &mut [u8], list: &[(Vec<u8>, u32, u8)]) {
    init(layout, bytes);
    let end = bytes.len() - tail_len(layout);
    let mut at = 0;
    for (nth, (name, ino, kind)) in list.iter().enumerate() {
        let len = if nth + 1 == list.len() { end.saturating_sub(at) } else { needed(name.len()) };
        put_entry(bytes, at, len, name, *ino, *kind);
        at += len;
    }
}
