//! Directories of file systems that store nothing: inode numbers that follow from names, and reading by a callback.

use abi::Result;

use crate::file::{DirEmit, File, FileOps, Whence};
use crate::inode::FileKind;
use crate::readdir::emit_dots;
use crate::rw;

/// The inode number of `name` in the directory with number `parent`: the same each time (FNV-1a). Never 0 or 1.
pub fn ino_of(parent: u64, name: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let mix = |state: u64, byte: &u8| (state ^ u64::from(*byte)).wrapping_mul(PRIME);
    let hash = name.iter().fold(parent.to_le_bytes().iter().fold(OFFSET, mix), mix);
    // 48 bits are enough to be unique and still look like a number in `ls -i`.
    (hash >> 16).max(2)
}

/// Takes one entry: name, mode with the type bits, and the position behind it (from 0). `false`: no more, please.
pub type Each<'a> = dyn FnMut(&[u8], u32, u64) -> bool + 'a;

/// A directory that can list itself.
pub trait Listing: Send + Sync + 'static {
    /// Calls `each` for the entries from position `from` on, until it answers `false`.
    fn list(&self, from: u64, each: &mut Each<'_>) -> Result<()>;
}

/// An open directory. The numbers of its entries are those of [`ino_of`].
pub struct DirFile<L>(pub L);

/// Positions 0 and 1 are "." and "..".
const DOTS: u64 = 2;

impl<L: Listing> FileOps for DirFile<L> {
    fn readdir(&self, file: &File, pos: &mut u64, emit: &mut dyn DirEmit) -> Result<()> {
        if !emit_dots(file, pos, emit) {
            return Ok(());
        }
        let parent = file.inode().ino();
        self.0.list(*pos - DOTS, &mut |name, mode, next| {
            let next = next.saturating_add(DOTS);
            let kind = FileKind::from_mode(mode).dirent_type();
            let fits = emit.emit(name, ino_of(parent, name), kind, next);
            if fits {
                *pos = next;
            }
            fits
        })
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        rw::seek_unsized(file, offset, whence)
    }
}
