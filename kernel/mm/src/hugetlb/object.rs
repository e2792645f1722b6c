//! Files of huge pages that have no name in any file system: `MAP_HUGETLB` and `SHM_HUGETLB`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::Result;

use super::SHIFT;
use crate::mapping::Mapping;
use crate::vma::{FileId, Mappable};

/// Numbers of such objects, for /proc/PID/maps.
static NEXT_INO: AtomicU64 = AtomicU64::new(1);

/// An object of huge pages.
#[derive(Debug)]
pub struct HugeObject {
    mapping: Arc<Mapping>,
    ino: u64,
}

impl HugeObject {
    /// An object of `size` bytes, a multiple of the size of a huge page, without any page.
    pub fn new(size: u64) -> Self {
        let mapping = Mapping::new_huge(None);
        mapping.set_size(size);
        Self { mapping: Arc::new(mapping), ino: NEXT_INO.fetch_add(1, Ordering::Relaxed) }
    }

    /// As [`new`](Self::new), with all pages promised. Sleeps. `ENOMEM`: there are not so many.
    pub fn new_reserved(size: u64) -> Result<Self> {
        let object = Self::new(size);
        if let Some(pages) = object.mapping.huge() {
            pages.reserve(0..size >> SHIFT)?;
        }
        Ok(object)
    }
}

impl Mappable for HugeObject {
    fn mapping(&self) -> Option<&Arc<Mapping>> {
        Some(&self.mapping)
    }

    fn name(&self) -> Vec<u8> {
        b"/anon_hugepage (deleted)".to_vec()
    }

    fn id(&self) -> FileId {
        FileId { major: 0, minor: 2, ino: self.ino }
    }
}
