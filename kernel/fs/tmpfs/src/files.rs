//! What regular files of an instance are made of: its directories serve other file systems in memory, too (hugetlbfs).

use alloc::sync::Arc;

use abi::Result;
use mm::{Mapping, Shmem};
use vfs::FileOps;

use crate::file;

/// The regular files of an instance.
pub trait Files: Send + Sync {
    /// The page cache of a new file, which is empty.
    fn mapping(&self) -> Arc<Mapping>;

    /// What open files do.
    fn operations(&self) -> Arc<dyn FileOps>;

    /// Whether a file may have `size` bytes. `EINVAL`: no.
    fn check_size(&self, size: u64) -> Result<()>;

    /// Whether there are extended attributes.
    fn has_xattrs(&self) -> bool;
}

/// Files of small pages, charged to an account.
pub(crate) struct Small(pub(crate) Arc<Shmem>);

impl Files for Small {
    fn mapping(&self) -> Arc<Mapping> {
        Mapping::with_shmem(self.0.clone())
    }

    fn operations(&self) -> Arc<dyn FileOps> {
        file::REGULAR.clone()
    }

    fn check_size(&self, _size: u64) -> Result<()> {
        Ok(())
    }

    fn has_xattrs(&self) -> bool {
        true
    }
}
