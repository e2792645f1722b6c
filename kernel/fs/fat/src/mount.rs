//! Mounting and unmounting.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};

use abi::fs::Statfs;
use abi::{Errno, Result};
use block::{BlockDevice, Claim};
use fat_image::name::Spelling;
use fat_image::{BOOT_LEN, Error, Layout, Table};
use hal::sync::{Once, SpinLock};
use sched::{Interruptible, Mutex, WaitQueue};
use vfs::device_mounts::{DeviceMounts, Wanted};
use vfs::handle::Export;
use vfs::params::Param;
use vfs::superblock::SbFlags;
use vfs::{Dentry, FileSystemType, MountRequest, SuperBlock, SuperInit, SuperOps, register_fs};

use crate::cache::Cache;
use crate::fs::{Fs, Meta, errno};
use crate::node::ROOT_INO;
use crate::options::{self, Options};

/// `MSDOS_SUPER_MAGIC`.
const MAGIC: u64 = 0x4d44;
/// The largest file: its size has 32 bits.
const MAX_BYTES: u64 = u32::MAX as u64;
/// Bytes that a name may have: 255 units of UTF-16, each up to 6 bytes as Linux counts.
const NAME_LEN: i64 = 1530;
/// The same without long names: 8 and 3, the dot, and the byte behind.
const SHORT_NAME_LEN: i64 = 12;

struct FatType {
    name: &'static str,
    spelling: Spelling,
    params: &'static [Param],
}

/// With long names and without.
static TYPES: [FatType; 2] = [
    FatType { name: "vfat", spelling: Spelling::Mixed, params: options::PARAMS },
    FatType { name: "msdos", spelling: Spelling::Msdos, params: options::MSDOS_PARAMS },
];

/// Makes the file systems known.
pub fn register() -> Result<()> {
    TYPES.iter().try_for_each(|fs_type| register_fs(fs_type))
}

impl FileSystemType for FatType {
    fn name(&self) -> &'static str {
        self.name
    }

    fn needs_device(&self) -> bool {
        true
    }

    fn params(&self) -> &'static [Param] {
        self.params
    }

    fn allows_idmap(&self) -> bool {
        true
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<Dentry>> {
        let device = block::by_path(request.source)?;
        let (cred, umask) = (request.ctx.cred, request.ctx.fs.umask());
        let this = TYPES.iter().find(|known| known.name == self.name).ok_or(Errno::ENODEV)?;
        let options = Options::new(cred.uid, cred.gid, umask & 0o777, self.spelling).parse(request.data)?;
        let wanted = Wanted { rdev: device.rdev(), fs_type: this.name, flags: request.flags };
        MOUNTED.mount(
            wanted,
            || device.claim(this.name),
            |claim| {
                let root = open(this, &device, options, request.flags, Some(claim))?;
                start_flusher(&root)?;
                Ok(root)
            },
        )
    }
}

static MOUNTED: DeviceMounts = DeviceMounts::new("fat.mounted");

/// Seconds between flushes.
const FLUSH_SECONDS: u32 = 5;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// Starts the thread that flushes the metadata now and then; it ends with the file system.
fn start_flusher(root: &Dentry) -> Result<()> {
    let Some(ops) = root.sb().ops_as::<Super>() else { return Ok(()) };
    let fs = Arc::downgrade(&ops.0);
    let flush = move || {
        for second in 1u32.. {
            // Short sleeps, so that the thread ends soon after the file system.
            let _ = sched::sleep_until(hal::time::now_ns() + NS_PER_SECOND, Interruptible::No);
            let Some(fs) = fs.upgrade() else { return };
            if !second.is_multiple_of(FLUSH_SECONDS) {
                continue;
            }
            // No change of names is written in halves.
            let meta = fs.lock();
            let written = fs.volume.flush();
            drop(meta);
            if let Err(errno) = written {
                log::error!("FAT-fs ({}): write-back failed: {errno}", fs.device.name());
            }
        }
    };
    sched::spawn("fat-flush", flush).map(drop).map_err(|_| Errno::ENOMEM)
}

/// Opens the file system on `device`; gives its root. `EINVAL`: it is none. `EACCES`: the device cannot be written.
fn open(
    this: &'static dyn FileSystemType,
    device: &Arc<BlockDevice>,
    options: Options,
    flags: SbFlags,
    claim: Option<Claim>,
) -> Result<Arc<Dentry>> {
    if device.is_read_only() && !flags.contains(SbFlags::RDONLY) {
        return Err(Errno::EACCES);
    }
    let volume = Cache::new(device);
    let refused = |error| match error {
        Error::Corrupt(what) | Error::Unsupported(what) => {
            log::error!("FAT-fs ({}): cannot mount: {what}", device.name());
            Errno::EINVAL
        }
        error => errno(error),
    };
    let mut layout = read_layout(device, &volume).map_err(refused)?;
    layout.spelling = options.spelling;
    if layout.sector_size < device.logical_block_size() {
        return Err(Errno::EINVAL);
    }
    let table = Table::open(&layout, &volume).map_err(refused)?;
    let was_dirty = layout.is_dirty(&volume).map_err(refused)?;
    if was_dirty {
        let name = device.name();
        log::warn!(
            "FAT-fs ({name}): Volume was not properly unmounted. Some data may be corrupt. Please run fsck."
        );
    }
    let block_size = layout.cluster_size;
    let fs = Arc::new(Fs {
        layout,
        device: device.clone(),
        volume,
        meta: Mutex::new("fat.meta", Meta { table }),
        known: SpinLock::new("fat.known", BTreeMap::new()),
        next_ino: AtomicU64::new(ROOT_INO + 1),
        generation: generation(),
        dirty: SpinLock::new("fat.dirty", BTreeMap::new()),
        nr_evictions: AtomicU32::new(0),
        evicted: WaitQueue::new(),
        options: Mutex::new("fat.options", options),
        sb: Once::new(),
        is_marked: AtomicBool::new(false),
        is_damaged: AtomicBool::new(was_dirty),
        _claim: claim,
    });
    let init = SuperInit {
        fs_type: this,
        dev: device.rdev(),
        magic: MAGIC,
        block_size,
        max_bytes: MAX_BYTES,
        flags,
    };
    let sb = SuperBlock::new(init, Box::new(Super(fs.clone())));
    fs.sb.call_once(|| Arc::downgrade(&sb));
    // Before the superblock was there nobody could shut it down (`vfs::superblock::device_left`).
    if !device.is_alive() {
        fs.shut_down();
        return Err(Errno::EIO);
    }
    let root = fs.root()?;
    if !flags.contains(SbFlags::RDONLY) {
        fs.mark(true)?;
    }
    Ok(Dentry::new_root(root))
}

/// A number that no other mount has, but by luck: the moment.
fn generation() -> u32 {
    let now = vfs::time::now();
    (now.tv_sec as u32).rotate_left(16) ^ now.tv_nsec as u32
}

/// What the boot sector says.
#[inline(never)]
fn read_layout(device: &BlockDevice, volume: &Cache) -> fat_image::Result<Layout> {
    let mut boot = [0; BOOT_LEN];
    fat_image::Volume::read(volume, 0, &mut boot)?;
    Layout::parse(&boot, device.len_bytes())
}

/// As [`open`] for tests, which claim nothing.
#[cfg(test)]
pub(crate) fn open_device(
    device: &Arc<BlockDevice>,
    options: Options,
    flags: SbFlags,
) -> Result<Arc<Dentry>> {
    open(&TYPES[0], device, options, flags, None)
}

/// FAT's part of a superblock.
pub(crate) struct Super(pub(crate) Arc<Fs>);

impl SuperOps for Super {
    fn statfs(&self, _sb: &SuperBlock) -> Result<Statfs> {
        let free = self.0.lock().table.nr_free();
        let (size, blocks) = (i64::from(self.0.layout.cluster_size), u64::from(self.0.layout.nr_clusters()));
        Ok(Statfs {
            f_bsize: size,
            f_frsize: size,
            f_blocks: blocks,
            f_bfree: free.into(),
            f_bavail: free.into(),
            f_namelen: if self.0.layout.spelling == Spelling::Msdos { SHORT_NAME_LEN } else { NAME_LEN },
            ..Statfs::default()
        })
    }

    fn show_options(&self, _sb: &SuperBlock, out: &mut Vec<u8>) {
        self.0.options.lock().show(out);
    }

    fn remount(&self, _sb: &SuperBlock, data: &[u8]) -> Result<()> {
        // What is given is checked, and nothing of it changes, as on Linux.
        self.0.options.lock().parse(data).map(drop)
    }

    fn set_readonly(&self, _sb: &SuperBlock, readonly: bool) -> Result<()> {
        if readonly {
            return self.0.close();
        }
        if self.0.device.is_read_only() { Err(Errno::EROFS) } else { self.0.mark(true) }
    }

    fn export(&self) -> Option<&dyn Export> {
        Some(self)
    }

    fn shutdown(&self, _sb: &SuperBlock) {
        self.0.shut_down();
    }

    fn sync(&self, sb: &SuperBlock) -> Result<()> {
        if self.0.volume.check_there().is_err() {
            self.0.forget_dirty();
            return Err(Errno::EIO);
        }
        if sb.is_readonly() {
            self.0.forget_dirty();
            return Ok(());
        }
        self.0.sync()
    }
}

impl Drop for Super {
    fn drop(&mut self) {
        let fs = self.0.clone();
        if fs.volume.check_there().is_err() {
            return;
        }
        let is_quiet = fs.dirty.lock().is_empty() && fs.nr_evictions.load(Acquire) == 0;
        if is_quiet && !fs.is_marked.load(Acquire) {
            return;
        }
        let finish = move || {
            if let Err(errno) = fs.close() {
                log::error!("FAT-fs ({}): the last write failed: {errno}", fs.device.name());
            }
        };
        // umount(2) has synced, and has the volume clean when it returns. Else whoever drops the last file may hold locks.
        if is_quiet {
            finish();
        } else {
            sched::workqueue::queue(Box::new(finish));
        }
    }
}
