//! Regular files of hugetlbfs.

use alloc::sync::Arc;

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use hal::sync::LazyLock;
use hal::uio::Dest;
use mm::Mapping;
use mm::hugetlb::{SIZE, Subpool};
use tmpfs::{Files, Seals};
use vfs::{File, FileOps, SyncMode};

/// The files of an instance.
pub(crate) struct HugeFiles {
    pub(crate) share: Option<Arc<Subpool>>,
}

impl Files for HugeFiles {
    fn mapping(&self) -> Arc<Mapping> {
        Arc::new(Mapping::new_huge(self.share.clone()))
    }

    fn operations(&self) -> Arc<dyn FileOps> {
        REGULAR.clone()
    }

    fn check_size(&self, size: u64) -> Result<()> {
        if size.is_multiple_of(SIZE) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn has_xattrs(&self) -> bool {
        false
    }
}

/// The operations have no state, so one object serves all open files.
static REGULAR: LazyLock<Arc<dyn FileOps>> = LazyLock::new(|| Arc::new(Regular));

/// `FALLOC_FL_KEEP_SIZE`.
const KEEP_SIZE: u32 = 1;
/// `FALLOC_FL_PUNCH_HOLE`.
const PUNCH_HOLE: u32 = 2;

/// Has no `write`, as on Linux: what is in such a file is stored through mappings.
struct Regular;

impl FileOps for Regular {
    fn read(&self, file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        file.inode().mapping().ok_or(Errno::EINVAL)?.read(pos, dst)
    }

    fn fsync(&self, _file: &File, _mode: SyncMode) -> Result<()> {
        Ok(())
    }

    fn fallocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        let mapping = file.inode().mapping().ok_or(Errno::EINVAL)?;
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        match mode {
            m if m == PUNCH_HOLE | KEEP_SIZE => {
                Seals::check_contents(file)?;
                mapping.punch(offset..end);
                Ok(())
            }
            0 | KEEP_SIZE => {
                // LINUX: the seal against growth counts even when the size is kept.
                Seals::check_growth(file, end)?;
                mapping.allocate_huge(offset..end)?;
                if mode == 0 && end > mapping.size() {
                    mapping.set_size(end);
                }
                Ok(())
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn check_flags(&self, _file: &File, flags: OpenFlags) -> Result<()> {
        if flags.contains(OpenFlags::DIRECT) { Err(Errno::EINVAL) } else { Ok(()) }
    }

    fn seals(&self, file: &File, add: Option<u32>) -> Result<u32> {
        Seals::get_or_add(file, add)
    }
}
