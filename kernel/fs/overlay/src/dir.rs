//! Listings: the entries of all layers, each name once.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hashbrown::HashSet;
use sched::Mutex;
use vfs::readdir::emit_dots;
use vfs::{DirEmit, File, FileOps, Path, SyncMode, Whence, fcntl, open};

use crate::inode::{OverlayInode, overlay};
use crate::layers::{Found, Overlay};
use crate::work::RawEntry;

/// `DT_CHR`: perhaps a whiteout.
const DT_CHR: u8 = 2;
/// Positions 0 and 1 are "." and "..".
const FIRST: u64 = 2;

/// Entries of one directory, and the names that are decided.
struct Merged {
    entries: Vec<RawEntry>,
    seen: HashSet<Vec<u8>>,
}

impl Overlay {
    /// Adds what `dir` of a layer shows under names that no layer above decided.
    fn merge(&self, merged: &mut Merged, dir: &Path) -> Result<()> {
        let dev = dir.dentry.sb().dev();
        for mut entry in self.read_dir(dir)? {
            if merged.seen.contains(&entry.name) {
                continue;
            }
            merged.seen.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            merged.entries.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            merged.seen.insert(entry.name.clone());
            let is_whiteout =
                entry.d_type == DT_CHR && matches!(self.child(dir, &entry.name)?, Found::Whiteout);
            if !is_whiteout {
                entry.ino = self.ino_from(dev, entry.ino);
                merged.entries.push(entry);
            }
        }
        Ok(())
    }

    /// The entries that `this` shows. `ENOMEM`.
    fn list(&self, this: &OverlayInode) -> Result<Vec<RawEntry>> {
        let mut merged = Merged { entries: Vec::new(), seen: HashSet::new() };
        let lowers = this.lowers.iter().map(|lower| &lower.path);
        this.upper().into_iter().chain(lowers).try_for_each(|dir| self.merge(&mut merged, dir))?;
        Ok(merged.entries)
    }

    /// Whether directory `this` shows nothing.
    pub(crate) fn is_empty(&self, this: &OverlayInode) -> Result<bool> {
        Ok(self.list(this)?.is_empty())
    }
}

/// An open directory. Its listing is made when it is read from the start, and stays until it is read from there again.
pub(crate) struct Directory {
    entries: Mutex<Vec<RawEntry>>,
}

impl Directory {
    pub(crate) fn new() -> Self {
        Self { entries: Mutex::new("overlay.listing", Vec::new()) }
    }
}

impl FileOps for Directory {
    fn readdir(&self, file: &File, pos: &mut u64, emit: &mut dyn DirEmit) -> Result<()> {
        if !emit_dots(file, pos, emit) {
            return Ok(());
        }
        let this = overlay(file.inode())?;
        let mut entries = self.entries.lock();
        if *pos == FIRST || entries.is_empty() {
            *entries = this.fs.list(this)?;
        }
        let start = usize::try_from(*pos - FIRST).unwrap_or(usize::MAX);
        for entry in entries.iter().skip(start) {
            if !emit.emit(&entry.name, entry.ino, entry.d_type, *pos + 1) {
                break;
            }
            *pos += 1;
        }
        Ok(())
    }

    fn fsync(&self, file: &File, mode: SyncMode) -> Result<()> {
        let this = overlay(file.inode())?;
        let Some(upper) = this.upper().filter(|_| !this.fs.options.volatile) else { return Ok(()) };
        let how = open::How::new(abi::fs::OpenFlags::DIRECTORY.bits(), 0)?;
        let real: Arc<File> = open::open_path(upper, &how, &this.fs.cred)?;
        fcntl::fsync(&real, mode)
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        vfs::rw::seek_unsized(file, offset, whence)
    }
}
