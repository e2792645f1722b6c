//! getdents64(2) and the older getdents(2).

use alloc::vec::Vec;

use abi::fs::DIRENT64_NAME_OFFSET;
use abi::{Errno, Result};
use hal::uio::Dest;

use crate::file::{DirEmit, File, FileMode};
use crate::inode::InodeFlags;
use crate::notify::{self, Event};
use crate::rw;

/// Entries are collected in a kernel buffer of at most this size, so no lock is held while user memory is written.
const BUFFER: usize = 32 * 1024;

/// The layout of records.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `struct linux_dirent64`: the type before the name.
    Dirent64,
    /// `struct linux_dirent`: the type in the last byte of the record.
    Dirent,
}

impl Layout {
    /// Where the name begins, and what follows it: its NUL, and for the older layout the type.
    fn frame(self) -> (usize, usize) {
        match self {
            Self::Dirent64 => (DIRENT64_NAME_OFFSET, 1),
            Self::Dirent => (DIRENT64_NAME_OFFSET - 1, 2),
        }
    }
}

/// Packs records of one layout.
struct Records {
    layout: Layout,
    bytes: Vec<u8>,
    room: usize,
    is_full: bool,
}

impl DirEmit for Records {
    fn emit(&mut self, name: &[u8], ino: u64, d_type: u8, next: u64) -> bool {
        let (before, after) = self.layout.frame();
        let len = (before + name.len() + after).next_multiple_of(8);
        if self.bytes.len() + len > self.room || self.bytes.try_reserve(len).is_err() {
            self.is_full = true;
            return false;
        }
        let end = self.bytes.len() + len;
        self.bytes.extend_from_slice(&ino.to_ne_bytes());
        self.bytes.extend_from_slice(&next.to_ne_bytes());
        self.bytes.extend_from_slice(&(len as u16).to_ne_bytes());
        if self.layout == Layout::Dirent64 {
            self.bytes.push(d_type);
        }
        self.bytes.extend_from_slice(name);
        self.bytes.resize(end, 0);
        if self.layout == Layout::Dirent
            && let Some(last) = self.bytes.last_mut()
        {
            *last = d_type;
        }
        true
    }
}

/// Fills `dst` with entries from the position on; gives the number of bytes, 0 at the end.
///
/// `ENOTDIR`: not a directory. `EINVAL`: the next entry does not fit. `ENOENT`: the directory was removed. `EFAULT`.
pub fn getdents(file: &File, dst: &mut Dest<'_>, layout: Layout) -> Result<usize> {
    file.require(FileMode::empty())?;
    let inode = file.inode();
    if !inode.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    notify::ask_of_file(file, Event::ACCESS_PERM)?;
    let _locked = file.lock_pos();
    let mut records =
        Records { layout, bytes: Vec::new(), room: dst.remaining().min(BUFFER), is_full: false };
    let mut pos = file.pos();
    {
        let _shared = inode.sem.read();
        if inode.flags().contains(InodeFlags::DEAD) {
            return Err(Errno::ENOENT);
        }
        file.ops().readdir(file, &mut pos, &mut records)?;
    }
    rw::touch_atime(file.path());
    notify::file_event(file, Event::ACCESS);
    if records.bytes.is_empty() {
        return if records.is_full { Err(Errno::EINVAL) } else { Ok(0) };
    }
    if dst.put_bytes(&records.bytes)? < records.bytes.len() {
        return Err(Errno::EFAULT);
    }
    file.set_pos(pos);
    Ok(records.bytes.len())
}

/// Emits "." and ".." for positions 0 and 1; `false` if there was no room. File systems with trees of their own
/// call it first and number their entries from 2.
pub fn emit_dots(file: &File, pos: &mut u64, emit: &mut dyn DirEmit) -> bool {
    let dir = &file.path().dentry;
    if *pos == 0 {
        if !emit.emit(b".", file.inode().ino(), 4, 1) {
            return false;
        }
        *pos = 1;
    }
    if *pos == 1 {
        let parent = dir.parent().and_then(|parent| parent.inode().map(|inode| inode.ino()));
        if !emit.emit(b"..", parent.unwrap_or(file.inode().ino()), 4, 2) {
            return false;
        }
        *pos = 2;
    }
    true
}
