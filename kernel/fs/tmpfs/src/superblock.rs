//! Instances of tmpfs.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abi::fs::{S_IFDIR, Statfs};
use abi::{Errno, Result};
use mm::{Huge, Shmem};
use sched::Mutex;
use security::Cap;
use vfs::dentry::Dentry;
use vfs::handle::Export;
use vfs::params::Param;
use vfs::superblock::SbFlags;
use vfs::{FileSystemType, MountRequest, SuperBlock, SuperInit, SuperOps};

use crate::files::{Files, Small};
use crate::inode;
use crate::options::{self, Options};

/// `TMPFS_MAGIC` (statfs(2)).
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// `RAMFS_MAGIC`.
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// The type "tmpfs".
pub static TMPFS: TmpfsType = TmpfsType { name: "tmpfs", magic: TMPFS_MAGIC, is_limited: true };
/// The type "ramfs": without limits.
pub(crate) static RAMFS: TmpfsType = TmpfsType { name: "ramfs", magic: RAMFS_MAGIC, is_limited: false };
/// The root file system of the first process.
static ROOTFS: TmpfsType = TmpfsType { name: "rootfs", magic: TMPFS_MAGIC, is_limited: false };
/// The home of memory files (memfd_create(2)).
static MEMFD: TmpfsType = TmpfsType { name: "tmpfs", magic: TMPFS_MAGIC, is_limited: false };
/// What devtmpfs is made of.
static DEVTMPFS: TmpfsType = TmpfsType { name: "devtmpfs", magic: TMPFS_MAGIC, is_limited: false };

/// A file system type made of tmpfs.
pub struct TmpfsType {
    name: &'static str,
    magic: u64,
    is_limited: bool,
}

impl TmpfsType {
    /// Whether the files' pages go to swap: those of ramfs do not.
    fn may_swap(&self) -> bool {
        self.magic == TMPFS_MAGIC
    }
}

impl FileSystemType for TmpfsType {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_for_user_ns(&self) -> bool {
        true
    }

    fn params(&self) -> &'static [Param] {
        options::PARAMS
    }

    fn allows_idmap(&self) -> bool {
        self.name == TMPFS.name
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<Dentry>> {
        let options = Options::parse(request.data)?;
        // Memory that cannot go is the whole machine's loss.
        let may_pin = request.user_ns.is_initial() && request.ctx.cred.capable(Cap::SYS_ADMIN);
        if options.no_swap && !may_pin {
            return Err(Errno::EINVAL);
        }
        let this = [&TMPFS, &RAMFS].into_iter().find(|known| known.name == self.name).ok_or(Errno::ENODEV)?;
        instance(this, options, request.flags)
    }
}

/// The files of an instance, and how many there may be.
pub struct Account {
    pub(crate) files: Arc<dyn Files>,
    nr_inodes: AtomicU64,
    /// 0 for no limit.
    max_inodes: AtomicU64,
    next_ino: AtomicU64,
}

impl Account {
    /// An instance without any inode, of at most `max_inodes` (0: any number).
    pub fn new(files: Arc<dyn Files>, max_inodes: u64) -> Arc<Self> {
        Arc::new(Self {
            files,
            nr_inodes: AtomicU64::new(0),
            max_inodes: AtomicU64::new(max_inodes),
            next_ino: AtomicU64::new(1),
        })
    }

    /// How many inodes there may be and are; the first is 0 for any number.
    pub fn inodes(&self) -> (u64, u64) {
        (self.max_inodes.load(Relaxed), self.nr_inodes.load(Relaxed))
    }

    /// Takes an inode number. `ENOSPC`: the limit of inodes is reached.
    pub(crate) fn take_ino(&self) -> Result<u64> {
        let max = self.max_inodes.load(Relaxed);
        let used = self.nr_inodes.fetch_add(1, Relaxed);
        if max != 0 && used >= max {
            self.nr_inodes.fetch_sub(1, Relaxed);
            return Err(Errno::ENOSPC);
        }
        Ok(self.next_ino.fetch_add(1, Relaxed))
    }

    /// Gives back an inode.
    pub(crate) fn put_ino(&self) {
        self.nr_inodes.fetch_sub(1, Relaxed);
    }
}

/// tmpfs' part of a superblock.
pub struct Tmpfs {
    pub(crate) account: Arc<Account>,
    shmem: Arc<Shmem>,
    options: Mutex<Options>,
}

impl SuperOps for Tmpfs {
    fn export(&self) -> Option<&dyn Export> {
        Some(&crate::export::EXPORT)
    }

    fn statfs(&self, _sb: &SuperBlock) -> Result<Statfs> {
        let shmem = &self.shmem;
        let mut stat = Statfs::default();
        if shmem.max() != u64::MAX {
            stat.f_blocks = shmem.max();
            stat.f_bfree = shmem.max().saturating_sub(shmem.used());
            stat.f_bavail = stat.f_bfree;
        }
        let max = self.account.max_inodes.load(Relaxed);
        if max != 0 {
            stat.f_files = max;
            stat.f_ffree = max.saturating_sub(self.account.nr_inodes.load(Relaxed));
        }
        Ok(stat)
    }

    fn show_options(&self, _sb: &SuperBlock, out: &mut Vec<u8>) {
        options::show(&self.options.lock(), out);
    }

    fn remount(&self, _sb: &SuperBlock, data: &[u8]) -> Result<()> {
        let new = Options::parse(data)?;
        let mut options = self.options.lock();
        if new.no_swap != options.no_swap {
            return Err(Errno::EINVAL);
        }
        if let Some(huge) = new.huge {
            self.shmem.set_huge(huge);
            options.huge = Some(huge);
        }
        if let Some(max) = new.max_inodes {
            if max != 0 && max < self.account.nr_inodes.load(Relaxed) {
                return Err(Errno::EINVAL);
            }
            self.account.max_inodes.store(max, Relaxed);
            options.max_inodes = Some(max);
        }
        if let Some(pages) = new.max_pages {
            self.shmem.set_max(if pages == 0 { u64::MAX } else { pages })?;
            options.max_pages = Some(pages);
        }
        Ok(())
    }
}

/// Makes an instance of `this` type; gives its root.
fn instance(this: &'static TmpfsType, mut options: Options, flags: SbFlags) -> Result<Arc<Dentry>> {
    if this.is_limited {
        let half = (hal::frame::stats().total as u64 / 2).max(1);
        options.max_pages.get_or_insert(half);
        options.max_inodes.get_or_insert(half);
    }
    let max_pages = options.max_pages.filter(|&pages| pages != 0).unwrap_or(u64::MAX);
    let policy =
        if core::ptr::eq(this, &MEMFD) { Huge::Internal } else { options.huge.unwrap_or(Huge::Never) };
    let shmem = Shmem::new(max_pages).with_huge(policy);
    let shmem = Arc::new(if options.no_swap || !this.may_swap() { shmem.without_swap() } else { shmem });
    let account = Account::new(Arc::new(Small(shmem.clone())), options.max_inodes.unwrap_or(0));
    let mode = options.mode.unwrap_or(if this.is_limited { 0o1777 } else { 0o755 });
    let (uid, gid) = (options.uid.unwrap_or(0), options.gid.unwrap_or(0));
    let ops = Tmpfs { account: account.clone(), shmem, options: Mutex::new("tmpfs.options", options) };
    let init = SuperInit { flags, ..SuperInit::in_memory(this, this.magic) };
    let sb = SuperBlock::new(init, Box::new(ops));
    let root =
        inode::new(&sb, &account, &vfs::NewInode { mode: S_IFDIR | mode, uid, gid, rdev: 0, target: &[] })?;
    Ok(Dentry::new_root(root))
}

/// Which of the kernel's own instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instance {
    /// The root of the first process: "rootfs".
    Rootfs,
    /// "devtmpfs".
    Devtmpfs,
    /// The home of memfds.
    Memfd,
}

/// Makes an instance without limits for the kernel's own use; gives its root.
pub fn new_instance(which: Instance) -> Result<Arc<Dentry>> {
    let this = match which {
        Instance::Rootfs => &ROOTFS,
        Instance::Devtmpfs => &DEVTMPFS,
        Instance::Memfd => &MEMFD,
    };
    instance(this, Options::default(), SbFlags::empty())
}
