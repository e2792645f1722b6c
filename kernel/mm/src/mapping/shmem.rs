//! Memory that is its own home: tmpfs files, memfds, shared anonymous mappings.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use abi::{Errno, Result};

use super::Mapping;
use crate::commit;
use crate::vma::{FileId, Mappable};

/// When shared memory gets huge pages (tmpfs(5), `huge=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Huge {
    /// Never, unless `shmem_enabled` forces it.
    Never,
    /// Wherever one fits into the file.
    Always,
    /// The same: none reaches beyond a file's end here.
    WithinSize,
    /// In mappings that ask for it (`MADV_HUGEPAGE`).
    Advise,
    /// As `shmem_enabled` says (memfds).
    Internal,
    /// As `shmem_enabled` and `hugepages-SIZEkB/shmem_enabled` say (shared anonymous memory).
    Anonymous,
}

impl Huge {
    const ALL: [Self; 6] =
        [Self::Never, Self::Always, Self::WithinSize, Self::Advise, Self::Internal, Self::Anonymous];
}

/// The account that pages of such files are charged to: one for each tmpfs instance, one for the kernel's own.
#[derive(Debug)]
pub struct Shmem {
    used: AtomicU64,
    max: AtomicU64,
    huge: AtomicU8,
    may_swap: bool,
}

impl Shmem {
    /// An account with room for `max` pages; `u64::MAX` for no limit.
    #[inline]
    pub const fn new(max: u64) -> Self {
        Self {
            used: AtomicU64::new(0),
            max: AtomicU64::new(max),
            huge: AtomicU8::new(Huge::Never as u8),
            may_swap: true,
        }
    }

    /// The account of one shared anonymous mapping, without a limit.
    pub const fn anonymous() -> Self {
        Self::new(u64::MAX).with_huge(Huge::Anonymous)
    }

    /// The same with pages that never go to swap (tmpfs' `noswap`).
    pub const fn without_swap(self) -> Self {
        Self { may_swap: false, ..self }
    }

    pub(super) fn may_swap(&self) -> bool {
        self.may_swap
    }

    /// The same with huge pages by `policy`.
    pub const fn with_huge(self, policy: Huge) -> Self {
        Self { huge: AtomicU8::new(policy as u8), ..self }
    }

    /// When pages are to be huge ones.
    pub fn huge(&self) -> Huge {
        let now = self.huge.load(Ordering::Relaxed);
        Huge::ALL.into_iter().find(|policy| *policy as u8 == now).unwrap_or(Huge::Never)
    }

    /// Changes that, for pages that come from now on (remount).
    pub fn set_huge(&self, policy: Huge) {
        self.huge.store(policy as u8, Ordering::Relaxed);
    }

    /// Pages in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The limit in pages, `u64::MAX` for none.
    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// Changes the limit (remount). `EINVAL`: more is in use.
    pub fn set_max(&self, max: u64) -> Result<()> {
        if self.used() > max {
            return Err(Errno::EINVAL);
        }
        self.max.store(max, Ordering::Relaxed);
        Ok(())
    }

    /// Charges `nr` pages. `ENOSPC`: over the limit.
    pub fn charge(&self, nr: u64) -> Result<()> {
        let old = self.used.fetch_add(nr, Ordering::Relaxed);
        if old.saturating_add(nr) > self.max() {
            self.uncharge(nr);
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    /// Gives back `nr` pages.
    pub fn uncharge(&self, nr: u64) {
        self.used.fetch_sub(nr, Ordering::Relaxed);
    }
}

/// A shared anonymous mapping: memory that forked processes have in common.
pub struct ShmemObject {
    mapping: Arc<Mapping>,
    ino: u64,
    /// Pages charged to the commit limit.
    charged: u64,
}

/// Numbers of shared anonymous objects, for /proc/PID/maps.
static NEXT_INO: AtomicU64 = AtomicU64::new(1);

impl ShmemObject {
    /// A new object of `size` bytes whose pages nobody has been promised.
    pub fn new(size: u64) -> Self {
        let mapping = Mapping::with_shmem(Arc::new(Shmem::anonymous()));
        mapping.set_size(size);
        Self { mapping, ino: NEXT_INO.fetch_add(1, Ordering::Relaxed), charged: 0 }
    }

    /// As [`new`](Self::new), with all pages charged to the commit limit. `ENOMEM`: it is reached.
    pub fn new_charged(size: u64) -> Result<Self> {
        let pages = size.div_ceil(hal::PAGE_SIZE as u64);
        commit::charge(pages, 0)?;
        let mut object = Self::new(size);
        object.charged = pages;
        Ok(object)
    }
}

impl Drop for ShmemObject {
    fn drop(&mut self) {
        commit::uncharge(self.charged);
    }
}

impl Mappable for ShmemObject {
    fn mapping(&self) -> Option<&Arc<Mapping>> {
        Some(&self.mapping)
    }

    fn name(&self) -> Vec<u8> {
        b"/dev/zero (deleted)".to_vec()
    }

    fn id(&self) -> FileId {
        FileId { major: 0, minor: 1, ino: self.ino }
    }
}
