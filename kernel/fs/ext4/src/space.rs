//! Promises of blocks to dirty pages (delayed allocation), and what statfs(2) tells.

use core::sync::atomic::Ordering::*;

use abi::fs::Statfs;
use abi::{Errno, Result};
use ext4_image::superblock::Incompat;
use ext4_image::{Blocks, Layout, nr_free_blocks, nr_free_inodes};

use crate::fs::Fs;
use crate::superops::Pages;

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

    /// Free blocks that are not for whoever was promised none: those of dirty pages and of trees.
    pub(crate) fn promised(&self) -> u64 {
        self.reserved.load(Acquire).saturating_add(self.pool())
    }

    /// Promises `pages` pages. `ENOSPC`: there is no room for them.
    pub(crate) fn reserve(&self, pages: u64) -> Result<()> {
        let blocks = pages * self.blocks_per_page();
        // All of it with the metadata locked: who takes blocks, or frees some that are promised at once, does so before or
        // after.
        let is_kept = self.look(|layout, view| {
            let free = nr_free_blocks(layout, view)?;
            let old = self.reserved.fetch_add(blocks, AcqRel);
            let is_kept = old.saturating_add(blocks).saturating_add(self.pool()) <= free;
            if !is_kept {
                self.reserved.fetch_sub(blocks, AcqRel);
            }
            Ok(is_kept)
        })?;
        if is_kept { Ok(()) } else { Err(Errno::ENOSPC) }
    }

    /// Promises `pages` pages what is being freed of them. The metadata is locked for the change.
    pub(crate) fn reserve_freed(&self, pages: u64) {
        self.reserved.fetch_add(pages * self.blocks_per_page(), AcqRel);
    }

    /// Does `f`, and once more if there was no space: what frees files may still be under way, and promises may be for more
    /// than is needed. `f` changes nothing when it fails. Sleeps; nothing of the running transaction is held, and no lock of
    /// a page cache.
    pub(crate) fn with_space<R>(&self, mut f: impl FnMut() -> Result<R>) -> Result<R> {
        match f() {
            Err(Errno::ENOSPC) => {
                self.regain_all()?;
                f()
            }
            result => result,
        }
    }

    /// Has all the space that nobody needs any more, for another try. As [`Fs::with_space`].
    pub(crate) fn regain_all(&self) -> Result<()> {
        self.finish_evictions();
        self.regain()
    }

    /// As [`Fs::regain_all`], without what only files without users have.
    pub(crate) fn regain(&self) -> Result<()> {
        if self.promises_too_much() && self.reserved.load(Acquire) > 0 {
            // An error is the business of those whose data that is.
            let _ = self.write_inodes(Pages::Write);
        }
        // Blocks that were freed can be had when that is on disk.
        if self.state.read().holds_freed() {
            self.commit(self.running())?;
        }
        Ok(())
    }

    /// Whether a page's promise may be for more blocks than the page needs in the end.
    fn promises_too_much(&self) -> bool {
        self.blocks_per_page() > 1 || self.layout.incompat.contains(Incompat::INLINE_DATA)
    }

    /// Takes back a promise of `pages` pages.
    pub(crate) fn unreserve(&self, pages: u64) {
        self.reserved.fetch_sub(pages * self.blocks_per_page(), AcqRel);
    }

    /// Blocks that a caller without privilege may still take (`CAP_SYS_RESOURCE`). Asked by writes and fallocate(2).
    ///
    /// LINUX: names of such callers may take the last blocks.
    pub(crate) fn available(&self) -> Result<u64> {
        self.look(|layout, view| self.available_in(layout, view))
    }

    /// As [`Fs::available`], to who has the metadata locked.
    pub(crate) fn available_in(&self, layout: &Layout, blocks: &dyn Blocks) -> ext4_image::Result<u64> {
        let free = nr_free_blocks(layout, blocks)?;
        Ok(free.saturating_sub(self.promised()).saturating_sub(layout.reserved_blocks))
    }

    /// Blocks that the privileged may still take for data.
    pub(crate) fn available_to_root(&self) -> Result<u64> {
        let free = self.look(|layout, view| nr_free_blocks(layout, view))?;
        Ok(free.saturating_sub(self.promised()))
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
