//! Open directories.

use abi::{Errno, Result};
use p9_wire::Entries;
use vfs::{DirEmit, File, FileOps, SyncMode, Whence};

use crate::client::errno;
use crate::fid::Fid;
use crate::node::ino_of;
use crate::pages;

/// Bytes of entries asked for at once.
const CHUNK: usize = 32 * 1024;
/// Answers in a row without one name that can be shown.
const MAX_EMPTY: usize = 16;

/// The server's open directory. Positions are the server's own.
pub(crate) struct Directory(pub(crate) Fid);

impl FileOps for Directory {
    fn readdir(&self, _file: &File, pos: &mut u64, emit: &mut dyn DirEmit) -> Result<()> {
        let mut bytes = alloc::vec::Vec::new();
        for _ in 0..MAX_EMPTY {
            let want = CHUNK.min(self.0.client().payload() as usize);
            let parts = pages::buffer(want)?;
            let count = self.0.read_dir(*pos, &parts)?;
            if count == 0 {
                return Ok(());
            }
            bytes.clear();
            bytes.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
            bytes.resize(count, 0);
            pages::copy_out(&parts, &mut bytes);
            let mut has_shown = false;
            for entry in Entries::new(&bytes) {
                let entry = entry.map_err(errno)?;
                // Names that nobody could open are not shown.
                if entry.is_sane() {
                    if !emit.emit(entry.name, ino_of(&entry.qid), entry.kind, entry.next) {
                        return Ok(());
                    }
                    has_shown = true;
                }
                *pos = entry.next;
            }
            if has_shown {
                return Ok(());
            }
        }
        Err(Errno::EIO)
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        vfs::rw::seek_unsized(file, offset, whence)
    }

    fn fsync(&self, _file: &File, mode: SyncMode) -> Result<()> {
        self.0.sync(mode == SyncMode::Data)
    }

    fn read(&self, _file: &File, _dst: &mut hal::uio::Dest<'_>, _pos: u64) -> Result<usize> {
        Err(Errno::EISDIR)
    }
}
