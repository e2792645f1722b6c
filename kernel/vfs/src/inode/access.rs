//! Who reads, writes and runs an inode, and who forbids it.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use abi::{Errno, Result};

use super::{Inode, InodeFlags};

impl Inode {
    /// Counts one more open description that may write. `ETXTBSY`: it is being executed.
    pub fn get_write_access(&self) -> Result<()> {
        self.writers
            .fetch_update(Relaxed, Relaxed, |n| (n >= 0).then(|| n + 1))
            .map(|_| ())
            .map_err(|_| Errno::ETXTBSY)
    }

    /// Undoes [`Inode::get_write_access`].
    pub fn put_write_access(&self) {
        self.writers.fetch_sub(1, Relaxed);
    }

    /// Forbids writing while the result lives: a program runs from it. `ETXTBSY`: someone may write.
    pub fn deny_write_access(self: &Arc<Self>) -> Result<DenyWrite> {
        self.writers
            .fetch_update(Relaxed, Relaxed, |n| (n <= 0).then(|| n - 1))
            .map(|_| DenyWrite(self.clone()))
            .map_err(|_| Errno::ETXTBSY)
    }

    /// Counts one more open description that can only read.
    pub(crate) fn add_reader(&self) {
        self.readers.fetch_add(1, SeqCst);
    }

    /// Undoes [`Inode::add_reader`].
    pub(crate) fn remove_reader(&self) {
        self.readers.fetch_sub(1, Relaxed);
    }

    /// How many open descriptions can only read, of a regular file.
    pub fn nr_readers(&self) -> u32 {
        self.readers.load(SeqCst)
    }

    /// How many open descriptions may write.
    pub fn nr_writers(&self) -> u32 {
        u32::try_from(self.writers.load(Relaxed)).unwrap_or(0)
    }
}

/// Keeps an inode as it is while it lives, since swap goes to its blocks: writes, cuts and fallocate(2) get `ETXTBSY`, and
/// its names stay (`EPERM`).
pub struct SwapUse(Arc<Inode>);

impl SwapUse {
    /// Waits for writes that have begun, but for those that end by themselves ([`direct`](crate::direct)): the file system does,
    /// before it gives the blocks. `EINVAL`: not a regular file. `EBUSY`: swap goes there.
    pub fn begin(inode: &Arc<Inode>) -> Result<SwapUse> {
        if !inode.is_regular() {
            return Err(Errno::EINVAL);
        }
        let _exclusive = inode.sem.write();
        let old = inode.flags.fetch_or(InodeFlags::SWAPFILE.bits(), Relaxed);
        if InodeFlags::from_bits_retain(old).contains(InodeFlags::SWAPFILE) {
            return Err(Errno::EBUSY);
        }
        Ok(SwapUse(inode.clone()))
    }
}

impl Drop for SwapUse {
    fn drop(&mut self) {
        self.0.set_flags(InodeFlags::empty(), InodeFlags::SWAPFILE);
    }
}

/// Forbids writing to an inode while it lives.
pub struct DenyWrite(Arc<Inode>);

impl Drop for DenyWrite {
    fn drop(&mut self) {
        self.0.writers.fetch_add(1, Relaxed);
    }
}

impl Clone for DenyWrite {
    fn clone(&self) -> Self {
        // One denial exists, so the count is negative and another is always granted.
        self.0.writers.fetch_sub(1, Relaxed);
        Self(self.0.clone())
    }
}
