//! File handles: a file named by what its file system calls it, not by a path (name_to_handle_at(2),
//! open_by_handle_at(2)).
//!
//! A file system that can find a file again by its handle says so with [`crate::SuperOps::export`]. Of others a handle can
//! be had that only tells files apart (`AT_HANDLE_FID`).
//!
//! Sources: open_by_handle_at(2), include/linux/exportfs.h of Linux 7.2 for the numbers of the types.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use smallvec::SmallVec;

use crate::dentry::{Dentry, Name};
use crate::inode::Inode;
use crate::path::Path;
use crate::superblock::SuperBlock;
use crate::walk;

/// The most bytes of a handle (`MAX_HANDLE_SZ`).
pub const MAX_BYTES: usize = 128;

/// A handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    /// What the bytes are (`FILEID_*`).
    pub kind: i32,
    /// At most [`MAX_BYTES`].
    pub bytes: SmallVec<[u8; 24]>,
}

/// Types of handles (`enum fid_type`).
pub mod kind {
    /// Inode number of 32 bits, generation.
    pub const INO32_GEN: i32 = 1;
    /// The same, then both of the directory.
    pub const INO32_GEN_PARENT: i32 = 2;
    /// Inode number of 64 bits, generation; cannot be opened.
    pub const INO64_GEN: i32 = 0x81;
    /// A process.
    pub const PID: i32 = 0xfe;
    /// A namespace.
    pub const NSFS: i32 = 0xf1;
}

/// What a handle is to be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be opened.
    Open,
    /// To tell files apart (`AT_HANDLE_FID`).
    Identify,
    /// To be opened with a path that is known (`AT_HANDLE_CONNECTABLE`).
    OpenConnected,
}

/// Where a file was found.
pub enum Found {
    /// At these names below the root of the file system.
    Names(Vec<Name>),
    /// Somewhere; it is no directory.
    Somewhere(Arc<Inode>),
}

/// A file system whose files can be found by handle.
pub trait Export: Send + Sync {
    /// The handle of `inode`; `parent` is the directory that shall be told too.
    fn encode(&self, inode: &Inode, parent: Option<&Inode>) -> Handle;

    /// Finds the file again. `ESTALE`: there is none, or the handle is of another type. May sleep.
    fn decode(&self, root: &Arc<Inode>, kind: i32, bytes: &[u8]) -> Result<Found>;
}

impl Handle {
    /// One of 32-bit words.
    pub fn of_words(kind: i32, words: &[u32]) -> Self {
        Self { kind, bytes: words.iter().flat_map(|word| word.to_ne_bytes()).collect() }
    }

    /// The word at place `at` of `bytes`.
    pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
        bytes.get(at * 4..)?.first_chunk().map(|raw| u32::from_ne_bytes(*raw))
    }
}

/// A handle that tells `inode` apart, whether or not it can be opened by it.
pub fn identify(inode: &Inode) -> Handle {
    if let Some(export) = inode.sb().ops().export() {
        return export.encode(inode, None);
    }
    let ino = inode.ino();
    Handle::of_words(kind::INO64_GEN, &[ino as u32, (ino >> 32) as u32, inode.generation()])
}

/// The handle of what `path` is. `EOPNOTSUPP`: its file system finds no files by handle.
pub fn encode(path: &Path, purpose: Purpose) -> Result<Handle> {
    let inode = path.inode().ok_or(Errno::ENOENT)?;
    let Some(export) = inode.sb().ops().export() else {
        if purpose != Purpose::Identify {
            return Err(Errno::EOPNOTSUPP);
        }
        return Ok(identify(inode));
    };
    let dir = if purpose == Purpose::OpenConnected && !inode.is_dir() { path.dentry.parent() } else { None };
    Ok(export.encode(inode, dir.as_ref().and_then(|dir| dir.inode()).map(|dir| &**dir)))
}

fn root_of(dentry: &Arc<Dentry>) -> Arc<Dentry> {
    let mut at = dentry.clone();
    while let Some(up) = at.parent() {
        at = up;
    }
    at
}

/// The path, on the mount of `beside`, of what a handle names. `ESTALE`: there is nothing. May sleep.
pub fn decode(beside: &Path, kind: i32, bytes: &[u8]) -> Result<Path> {
    let sb: &Arc<SuperBlock> = beside.dentry.sb();
    let export = sb.ops().export().ok_or(Errno::ESTALE)?;
    let root = root_of(beside.mount.root());
    let root_inode = root.inode().ok_or(Errno::ESTALE)?;
    let dentry = match export.decode(root_inode, kind, bytes)? {
        Found::Names(names) => names
            .iter()
            .try_fold(root, |at, name| walk::lookup_child(&at, name))
            .map_err(|_| Errno::ESTALE)?,
        Found::Somewhere(inode) => Dentry::new_detached(b"/", inode),
    };
    if dentry.is_negative() {
        return Err(Errno::ESTALE);
    }
    Ok(Path { mount: beside.mount.clone(), dentry })
}
