//! Promises of blocks to dirty pages (delayed allocation), and what statfs(2) tells.

use core::sync::atomic::Ordering::*;

use abi::fs::Statfs;
use abi::{Errno, Result};
use ext4_image::{nr_free_blocks, nr_free_inodes};

use crate::fs::Fs;

/// Blocks kept for the trees of files, at most; a fiftieth of small file systems.
const MAX_POOL: u64 = 4096;

impl Fs {
    /// Blocks in a page.
    pub(crate) fn blocks_per_page(&self) -> u64 {
        hal::PAGE_SIZE as u64 >> self.layout.block_bits
    }

    /// Blocks that data leaves for the trees of files.
    fn pool(&self) -> u64 {
        (self.layout.blocks_count / 50).min(MAX_POOL)
    }

    /// Promises `pages` pages. `ENOSPC`: there is no room for them.
    pub(crate) fn reserve(&self, pages: u64) -> Result<()> {
        let pool = self.pool();
        let free = self.look(|layout, view| nr_free_blocks(layout, view))?;
        let blocks = pages * self.blocks_per_page();
        let old = self.reserved.fetch_add(blocks, AcqRel);
        if old.saturating_add(blocks).saturating_add(pool) > free {
            self.reserved.fetch_sub(blocks, AcqRel);
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    /// Does `f`, and once more if there was no space but what frees files was still under way. `f` changes nothing when it
    /// fails. Sleeps; nothing of the running transaction is held.
    pub(crate) fn with_space<R>(&self, mut f: impl FnMut() -> Result<R>) -> Result<R> {
        match f() {
            Err(Errno::ENOSPC) => {
                self.finish_evictions();
                // Blocks that were freed can be had when that is on disk.
                self.commit(self.running())?;
                f()
            }
            result => result,
        }
    }

    /// Takes back a promise of `pages` pages.
    pub(crate) fn unreserve(&self, pages: u64) {
        self.reserved.fetch_sub(pages * self.blocks_per_page(), AcqRel);
    }

    /// Blocks that a caller without privilege may still take (`CAP_SYS_RESOURCE`). Asked by writes and fallocate(2).
    ///
    /// LINUX: names of such callers may take the last blocks.
    pub(crate) fn available(&self) -> Result<u64> {
        Ok(self.available_to_root()?.saturating_sub(self.layout.reserved_blocks))
    }

    /// Blocks that the privileged may still take for data.
    pub(crate) fn available_to_root(&self) -> Result<u64> {
        let free = self.look(|layout, view| nr_free_blocks(layout, view))?;
        Ok(free.saturating_sub(self.reserved.load(Acquire)).saturating_sub(self.pool()))
    }

    pub(crate) fn statfs(&self) -> Result<Statfs> {
        let (free, free_inodes) =
            self.look(|layout, view| Ok((nr_free_blocks(layout, view)?, nr_free_inodes(layout, view)?)))?;
        let free = free.saturating_sub(self.reserved.load(Acquire));
        Ok(Statfs {
            f_bsize: self.layout.block_size as i64,
            f_frsize: self.layout.block_size as i64,
            f_blocks: self.layout.blocks_count.saturating_sub(self.layout.overhead),
            f_bfree: free,
            f_bavail: free.saturating_sub(self.pool()).saturating_sub(self.layout.reserved_blocks),
            f_files: self.layout.inodes_count.into(),
            f_ffree: free_inodes.into(),
            ..Statfs::default()
        })
    }
}
