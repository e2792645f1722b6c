//! Instances of hugetlbfs.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Result;
use abi::fs::{S_IFDIR, Statfs};
use mm::hugetlb::{self, SIZE, Subpool};
use tmpfs::Account;
use vfs::dentry::Dentry;
use vfs::params::Param;
use vfs::superblock::SbFlags;
use vfs::{FileSystemType, MountRequest, NewInode, SuperBlock, SuperInit, SuperOps};

use crate::file::HugeFiles;
use crate::options::{self, Options};

/// `HUGETLBFS_MAGIC` (statfs(2)).
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// The type "hugetlbfs".
pub(crate) static HUGETLBFS: HugetlbfsType = HugetlbfsType;

pub(crate) struct HugetlbfsType;

impl FileSystemType for HugetlbfsType {
    fn name(&self) -> &'static str {
        "hugetlbfs"
    }

    fn params(&self) -> &'static [Param] {
        options::PARAMS
    }

    fn allows_idmap(&self) -> bool {
        true
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<Dentry>> {
        instance(Options::parse(request.data)?, request.flags)
    }
}

/// hugetlbfs' part of a superblock.
pub(crate) struct Hugetlbfs {
    pub(crate) account: Arc<Account>,
    share: Option<Arc<Subpool>>,
    options: Options,
}

impl SuperOps for Hugetlbfs {
    fn statfs(&self, _sb: &SuperBlock) -> Result<Statfs> {
        let mut stat = Statfs::default();
        // LINUX: only a mount with a share of its own tells numbers.
        if let Some(share) = &self.share {
            let max = share.max();
            stat.f_blocks = max.unwrap_or(u64::MAX);
            stat.f_bfree = max.map_or(u64::MAX, |max| max.saturating_sub(share.used()));
            stat.f_bavail = stat.f_bfree;
            let (max, used) = self.account.inodes();
            if max != 0 {
                stat.f_files = max;
                stat.f_ffree = max.saturating_sub(used);
            }
        }
        Ok(stat)
    }

    fn show_options(&self, _sb: &SuperBlock, out: &mut Vec<u8>) {
        let share = self.share.as_ref();
        options::show(&self.options, share.and_then(|s| s.max()), share.map_or(0, |s| s.min()), out);
    }
}

/// Makes an instance; gives its root. `ENOMEM`: the pool cannot promise `min_size`.
pub(crate) fn instance(options: Options, flags: SbFlags) -> Result<Arc<Dentry>> {
    let nr = hugetlb::stats().nr;
    let min = options.min_size.map_or(0, |size| size.pages(nr));
    let max = options.size.map(|size| size.pages(nr));
    if max.is_some_and(|max| min > max) {
        return Err(abi::Errno::EINVAL);
    }
    let has_share = options.size.is_some() || options.min_size.is_some();
    let share = if has_share { Some(Subpool::new(max, min)?) } else { None };
    let account = Account::new(Arc::new(HugeFiles { share: share.clone() }), options.max_inodes.unwrap_or(0));
    let ops = Hugetlbfs { account: account.clone(), share, options };
    let init =
        SuperInit { block_size: SIZE as u32, flags, ..SuperInit::in_memory(&HUGETLBFS, HUGETLBFS_MAGIC) };
    let sb = SuperBlock::new(init, Box::new(ops));
    let (uid, gid) = (options.uid.unwrap_or(0), options.gid.unwrap_or(0));
    let mode = S_IFDIR | options.mode.unwrap_or(0o755);
    let root = tmpfs::new_inode(&sb, &account, &NewInode { mode, uid, gid, rdev: 0, target: &[] })?;
    Ok(Dentry::new_root(root))
}
