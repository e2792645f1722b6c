//! Open directories.

use alloc::sync::Arc;

use abi::{Errno, Result};
use fat_image::dir::Dir;
use hal::sync::LazyLock;
use security::Cred;
use vfs::{DirEmit, File, FileOps, SyncMode, Whence};

use crate::node::node;

/// The operations have no state, so one object serves all open directories.
pub(crate) static DIRECTORY: LazyLock<Arc<dyn FileOps>> = LazyLock::new(|| Arc::new(Directory));

struct Directory;

/// Positions before the first record: "." and "..".
pub(crate) const DOTS: u64 = 2;

impl FileOps for Directory {
    fn readdir(&self, file: &File, pos: &mut u64, emit: &mut dyn DirEmit) -> Result<()> {
        if !vfs::readdir::emit_dots(file, pos, emit) {
            return Ok(());
        }
        let node = node(file.inode())?;
        let fs = &node.fs;
        *pos = (*pos).max(DOTS);
        let from = u32::try_from(*pos - DOTS).unwrap_or(u32::MAX);
        fs.with(|meta| {
            node.with_chain(meta, |_, chain| {
                let dir = Dir { layout: &fs.layout, volume: &fs.volume, chain };
                let mut failed = None;
                dir.for_each(from, |entry| {
                    let at = match dir.place(entry.at) {
                        Ok(at) => at,
                        Err(error) => {
                            failed = Some(error);
                            return Some(());
                        }
                    };
                    // Names that are damaged are not shown.
                    let is_sane = !entry.name.contains('/') && !entry.name.contains('\0');
                    let kind = if entry.record.is_dir() { 4 } else { 8 };
                    let next = DOTS + u64::from(entry.at) + 32;
                    if is_sane && !emit.emit(entry.name.as_bytes(), fs.shown_ino(at), kind, next) {
                        return Some(());
                    }
                    *pos = next;
                    None
                })?;
                failed.map_or(Ok(()), Err)
            })
        })
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        vfs::rw::seek_unsized(file, offset, whence)
    }

    fn fsync(&self, file: &File, _mode: SyncMode) -> Result<()> {
        node(file.inode())?.sync(file.inode())
    }

    fn ioctl_by(
        &self,
        file: &Arc<File>,
        cmd: u32,
        arg: usize,
        cred: &dyn Fn() -> Arc<Cred>,
    ) -> Result<usize> {
        crate::ioctl::ioctl(file, cmd, arg, cred)
    }

    fn read(&self, _file: &File, _dst: &mut hal::uio::Dest<'_>, _pos: u64) -> Result<usize> {
        Err(Errno::EISDIR)
    }
}
