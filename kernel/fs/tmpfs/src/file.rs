//! Open files and directories of tmpfs.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use hal::sync::LazyLock;
use hal::uio::{Dest, Src};
use vfs::readdir::emit_dots;
use vfs::{DirEmit, File, FileOps, ShowPart, SyncMode};

use crate::inode::{sealed, table};
use crate::memfd::Seals;

/// The operations have no state, so one object serves all open files.
pub(crate) static REGULAR: LazyLock<Arc<dyn FileOps>> = LazyLock::new(|| Arc::new(Regular));
/// As [`REGULAR`], for directories.
pub(crate) static DIRECTORY: LazyLock<Arc<dyn FileOps>> = LazyLock::new(|| Arc::new(Directory));

struct Regular;

/// `FALLOC_FL_KEEP_SIZE`.
const KEEP_SIZE: u32 = 1;
/// `FALLOC_FL_PUNCH_HOLE`.
const PUNCH_HOLE: u32 = 2;

impl FileOps for Regular {
    fn read(&self, file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        file.inode().mapping().ok_or(Errno::EINVAL)?.read(pos, dst)
    }

    fn write(&self, file: &File, src: &mut Src<'_>, pos: u64) -> Result<usize> {
        let (seals, mapping) = sealed(file.inode()).ok_or(Errno::EINVAL)?;
        Seals::check_write(seals.load(Relaxed), mapping.size(), pos, src)?;
        mapping.write(pos, src)
    }

    fn share(&self, file: &File, pos: u64, len: usize, each: &mut ShowPart<'_>) -> Result<usize> {
        file.inode().mapping().ok_or(Errno::EINVAL)?.share(pos, len, each)
    }

    fn fsync(&self, _file: &File, _mode: SyncMode) -> Result<()> {
        Ok(())
    }

    fn fallocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        let (seals, mapping) = sealed(file.inode()).ok_or(Errno::EINVAL)?;
        let seals = seals.load(Relaxed);
        let end = offset + len;
        match mode {
            m if m == PUNCH_HOLE | KEEP_SIZE => {
                Seals::check_punch(seals)?;
                mapping.punch(offset..end);
                Ok(())
            }
            0 | KEEP_SIZE => {
                let size = mapping.size();
                if mode == 0 && end > size {
                    Seals::check_resize(seals, size, end)?;
                }
                mapping.allocate(offset..end)?;
                if mode == 0 && end > size {
                    mapping.set_size(end);
                }
                Ok(())
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn check_flags(&self, _file: &File, _flags: OpenFlags) -> Result<()> {
        Ok(())
    }

    fn seals(&self, file: &File, add: Option<u32>) -> Result<u32> {
        Seals::get_or_add(file, add)
    }
}

struct Directory;

impl FileOps for Directory {
    fn readdir(&self, file: &File, pos: &mut u64, emit: &mut dyn DirEmit) -> Result<()> {
        if !emit_dots(file, pos, emit) {
            return Ok(());
        }
        let table = table(file.inode())?.lock();
        for (entry, inode) in table.starting_at(*pos) {
            let next = entry.cookie + 1;
            if !emit.emit(&entry.name, inode.ino(), inode.kind().dirent_type(), next) {
                break;
            }
            *pos = next;
        }
        Ok(())
    }

    fn fsync(&self, _file: &File, _mode: SyncMode) -> Result<()> {
        Ok(())
    }

    fn seek(&self, file: &File, offset: i64, whence: vfs::Whence) -> Result<u64> {
        vfs::rw::seek_unsized(file, offset, whence)
    }
}
