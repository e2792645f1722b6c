//! Open directories.

use alloc::sync::Arc;

use abi::{Errno, Result};
use ext4_image::dir;
use hal::sync::LazyLock;
use vfs::readdir::emit_dots;
use vfs::{DirEmit, File, FileOps, SyncMode};

use crate::node::node;

/// The operations have no state, so one object serves all open directories.
pub(crate) static DIRECTORY: LazyLock<Arc<dyn FileOps>> = LazyLock::new(|| Arc::new(Directory));

struct Directory;

/// `d_type` for the kind that an entry tells.
fn dirent_type(kind: u8) -> u8 {
    // In the order of the format: unknown, file, directory, character and block device, FIFO, socket, link.
    [0, 8, 4, 2, 6, 1, 12, 10].get(usize::from(kind)).copied().unwrap_or(0)
}

impl FileOps for Directory {
    fn readdir(&self, file: &File, pos: &mut u64, emit: &mut dyn DirEmit) -> Result<()> {
        if !emit_dots(file, pos, emit) {
            return Ok(());
        }
        let node = node(file.inode())?;
        *pos = node.fs.look(|layout, view| {
            let raw = node.load(layout, view)?;
            dir::list(layout, view, &raw, *pos, &mut |entry, next| {
                // Names that are damaged are not shown.
                let is_sane = !entry.name.is_empty() && !entry.name.contains(&b'/');
                !is_sane || emit.emit(entry.name, entry.ino.into(), dirent_type(entry.kind), next)
            })
        })?;
        Ok(())
    }

    fn fsync(&self, file: &File, mode: SyncMode) -> Result<()> {
        node(file.inode())?.sync(file.inode(), mode)
    }

    fn seek(&self, file: &File, offset: i64, whence: vfs::Whence) -> Result<u64> {
        vfs::rw::seek_unsized(file, offset, whence)
    }

    fn read(&self, _file: &File, _dst: &mut hal::uio::Dest<'_>, _pos: u64) -> Result<usize> {
        Err(Errno::EISDIR)
    }
}
