//! nullfs: the empty, immutable directory at the bottom of every tree of mounts.
//!
//! Nothing can be made in it, and it is never unmounted; what programs see as the root is mounted upon it. So even the root that the initramfs fills can be exchanged (pivot_root(2), `MOVE_MOUNT_BENEATH`), and
//! a mount namespace can begin with nothing at all (`UNSHARE_EMPTY_MNTNS`).
//!
//! Sources: kselftest `filesystems/empty_mntns`; behaviour as observed on Linux 7.2 (user/tests `mountns`).

use alloc::boxed::Box;
use alloc::sync::Arc;

use abi::fs::S_IFDIR;
use abi::{Errno, Result};
use hal::sync::LazyLock;

use crate::dentry::Dentry;
use crate::file::FileOps;
use crate::inode::{Inode, InodeFlags, InodeInit, InodeOps, OpenRequest, SetAttr};
use crate::listing::{DirFile, Each, Listing};
use crate::mount::{Mount, MountFlags};
use crate::superblock::{FileSystemType, MountRequest, SuperBlock, SuperInit, SuperOps};

/// `NULL_FS_MAGIC` (include/uapi/linux/magic.h).
const MAGIC: u64 = 0x4e55_4c4c;

/// The type, which mount(2) does not know.
struct NullType;

impl FileSystemType for NullType {
    fn name(&self) -> &'static str {
        "nullfs"
    }

    fn mount(&self, _request: &MountRequest<'_>) -> Result<Arc<Dentry>> {
        Err(Errno::EINVAL)
    }
}

struct NullSuper;
impl SuperOps for NullSuper {}

/// The directory.
struct Nothing;

impl InodeOps for Nothing {
    /// `ENOENT`, also for a name that is to be made.
    fn lookup(&self, _dir: &Arc<Inode>, _name: &[u8]) -> Result<Option<Arc<Inode>>> {
        Err(Errno::ENOENT)
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(DirFile(Self)))
    }

    fn set_attr(&self, _inode: &Arc<Inode>, _change: &SetAttr) -> Result<()> {
        Err(Errno::EPERM)
    }
}

impl Listing for Nothing {
    fn list(&self, _from: u64, _each: &mut Each<'_>) -> Result<()> {
        Ok(())
    }
}

/// The root of the one instance.
static ROOT: LazyLock<Arc<Dentry>> = LazyLock::new(|| {
    let init = SuperInit::in_memory(&NullType, MAGIC);
    let sb = SuperBlock::new(init, Box::new(NullSuper));
    let init = InodeInit { flags: InodeFlags::IMMUTABLE, ..InodeInit::new(1, S_IFDIR | 0o555) };
    Dentry::new_root(Inode::new(&sb, init, Box::new(Nothing), None))
});

/// A mount of it, attached nowhere: the bottom of a tree.
pub(crate) fn new_mount() -> Arc<Mount> {
    Mount::new(&ROOT, b"nullfs", MountFlags::RELATIME)
}
