//! What all directories here share: listing, and inodes whose numbers follow from their names.

use alloc::boxed::Box;
use alloc::sync::Arc;

use abi::Result;
use abi::fs::{S_IFDIR, S_IFLNK, S_IFMT};
use vfs::inode::FileKind;
use vfs::readdir::emit_dots;
use vfs::{DirEmit, File, FileOps, Inode, InodeFlags, InodeInit, InodeOps, SuperBlock, Whence};

/// The inode number of `name` in the directory with number `parent`: the same each time (FNV-1a).
pub(crate) fn ino_of(parent: u64, name: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let mix = |state: u64, byte: &u8| (state ^ u64::from(*byte)).wrapping_mul(PRIME);
    let hash = name.iter().fold(parent.to_le_bytes().iter().fold(OFFSET, mix), mix);
    // 48 bits are enough to be unique and still look like a number in `ls -i`; 0 and the root's 1 are taken.
    (hash >> 16).max(2)
}

/// What a new inode is.
pub(crate) struct New<'a> {
    pub(crate) dir: &'a Inode,
    pub(crate) name: &'a [u8],
    /// Type and permissions.
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) flags: InodeFlags,
}

impl<'a> New<'a> {
    /// Root's, without flags.
    pub(crate) fn new(dir: &'a Inode, name: &'a [u8], mode: u32) -> Self {
        Self { dir, name, mode, owner: (0, 0), flags: InodeFlags::empty() }
    }

    /// Makes it.
    pub(crate) fn make(self, ops: Box<dyn InodeOps>) -> Arc<Inode> {
        let mut init = InodeInit::new(ino_of(self.dir.ino(), self.name), self.mode);
        (init.uid, init.gid) = self.owner;
        init.flags = self.flags;
        if self.mode & S_IFMT == S_IFLNK {
            init.size = 64;
        }
        let sb: &Arc<SuperBlock> = self.dir.sb();
        Inode::new(sb, init, ops, None)
    }
}

/// One entry of a listing: name, mode with the type bits, and the position behind it (from 0).
pub(crate) type Each<'a> = dyn FnMut(&[u8], u32, u64) -> bool + 'a;

/// A directory that can list itself.
pub(crate) trait Listing: Send + Sync + 'static {
    /// Calls `each` for the entries from position `from` on, until it answers `false`.
    fn list(&self, from: u64, each: &mut Each<'_>) -> Result<()>;
}

/// An open directory.
pub(crate) struct DirFile<L>(pub(crate) L);

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
        vfs::rw::seek_unsized(file, offset, whence)
    }
}

/// Mode of an ordinary directory.
pub(crate) const DIR: u32 = S_IFDIR | 0o555;
/// Mode of an ordinary symbolic link.
pub(crate) const LINK: u32 = S_IFLNK | 0o777;
