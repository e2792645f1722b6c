//! The work directory: things are made there, complete, and then moved to their place by one rename.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use abi::fs::{OpenFlags, RenameFlags, S_IFCHR};
use abi::{Errno, Result};
use vfs::open::{self, How};
use vfs::{DirEmit, Path, namespace};

use crate::layers::{Overlay, Upper};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A name that nothing in the work directory has.
pub(crate) fn temporary_name() -> String {
    format!("#{:x}", NEXT.fetch_add(1, Relaxed))
}

/// How deep a tree that is removed may be: what overlays leave is a directory of whiteouts at most.
const MAX_DEPTH: usize = 2;

/// A name and its type in a layer's directory.
pub(crate) struct RawEntry {
    pub(crate) name: Vec<u8>,
    pub(crate) ino: u64,
    pub(crate) d_type: u8,
}

struct Gather {
    entries: Vec<RawEntry>,
    is_out_of_memory: bool,
}

impl DirEmit for Gather {
    fn emit(&mut self, name: &[u8], ino: u64, d_type: u8, _next: u64) -> bool {
        if name == b"." || name == b".." {
            return true;
        }
        let mut copy = Vec::new();
        if self.entries.try_reserve(1).is_err() || copy.try_reserve_exact(name.len()).is_err() {
            self.is_out_of_memory = true;
            return false;
        }
        copy.extend_from_slice(name);
        self.entries.push(RawEntry { name: copy, ino, d_type });
        true
    }
}

impl Overlay {
    /// All entries of `dir` in a layer but "." and "..". `ENOMEM`.
    pub(crate) fn read_dir(&self, dir: &Path) -> Result<Vec<RawEntry>> {
        let how = How::new(OpenFlags::DIRECTORY.bits(), 0)?;
        let file = open::open_path(dir, &how, &self.cred)?;
        let mut gather = Gather { entries: Vec::new(), is_out_of_memory: false };
        let mut pos = 0;
        loop {
            let before = pos;
            let _shared = file.inode().sem.read();
            file.ops().readdir(&file, &mut pos, &mut gather)?;
            if gather.is_out_of_memory {
                return Err(Errno::ENOMEM);
            }
            if pos == before {
                return Ok(gather.entries);
            }
        }
    }

    /// The upper layer. `EROFS`: there is none.
    pub(crate) fn writable(&self) -> Result<&Upper> {
        self.upper.as_ref().ok_or(Errno::EROFS)
    }

    /// Makes a whiteout in the work directory; gives its name.
    fn make_whiteout(&self) -> Result<String> {
        let name = temporary_name();
        namespace::create_in(&self.writable()?.work, name.as_bytes(), S_IFCHR, 0, &[], &self.cred)?;
        Ok(name)
    }

    /// Puts a whiteout at `name` in `dir` of the upper layer, in place of what is there.
    pub(crate) fn put_whiteout(&self, dir: &Path, name: &[u8]) -> Result<()> {
        let work = &self.writable()?.work;
        let old = vfs::walk::lookup_child(&dir.dentry, name)?;
        let is_dir = old.inode().is_some_and(|inode| inode.is_dir());
        let whiteout = self.make_whiteout()?;
        let flags = if is_dir { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
        let moved = namespace::rename_in((work, whiteout.as_bytes()), (dir, name), flags, &self.cred);
        if moved.is_err() || is_dir {
            self.discard(whiteout.as_bytes());
        }
        moved
    }

    /// Removes `name`, with all that is in it, from the work directory. What fails stays: the next mount removes it.
    pub(crate) fn discard(&self, name: &[u8]) {
        if let Ok(upper) = self.writable()
            && let Err(errno) = self.remove_tree(&upper.work, name, 0)
        {
            log::warn!("overlay: the work directory keeps a file: {errno}");
        }
    }

    /// Removes what is left in the work directory.
    pub(crate) fn clean_work(&self) -> Result<()> {
        self.remove_children(&self.writable()?.work, 0)
    }

    /// Removes all that is in `dir` of the upper layer: the whiteouts of a directory that shows nothing.
    pub(crate) fn remove_children(&self, dir: &Path, depth: usize) -> Result<()> {
        self.read_dir(dir)?.iter().try_for_each(|entry| self.remove_tree(dir, &entry.name, depth))
    }

    pub(crate) fn remove_tree(&self, dir: &Path, name: &[u8], depth: usize) -> Result<()> {
        let dentry = vfs::walk::lookup_child(&dir.dentry, name)?;
        let Some(inode) = dentry.inode() else { return Ok(()) };
        if !inode.is_dir() {
            return namespace::unlink_in(dir, name, &self.cred);
        }
        if depth >= MAX_DEPTH {
            return Err(Errno::ENOTEMPTY);
        }
        let path = Path { mount: dir.mount.clone(), dentry: dentry.clone() };
        self.remove_children(&path, depth + 1)?;
        namespace::rmdir_in(dir, name, &self.cred)
    }
}
