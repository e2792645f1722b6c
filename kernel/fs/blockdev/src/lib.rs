#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod direct;
mod file;
mod ioctl;
mod show;
mod swap;

use alloc::sync::Arc;

use abi::{Errno, Result};
use block::{BlockDevice, Change};
use vfs::dev::{DeviceDriver, DeviceKind, DirectAlign, add_node, register_blkdev, remove_node};
use vfs::{FileOps, Inode, OpenRequest};

pub use show::{show_diskstats, show_partitions, show_stat};

/// The majors that disks use, with their names in /proc/devices.
const MAJORS: [(u32, &str); 3] = [(7, "loop"), (254, "virtblk"), (259, "blkext")];
/// Minor numbers have 20 bits.
const MINORS: core::ops::Range<u32> = 0..1 << 20;
/// Linux's devtmpfs gives block devices to root alone; udev's rules open them to the group disk.
const MODE: u32 = 0o600;

struct Driver;

impl DeviceDriver for Driver {
    fn open(&self, rdev: u64, _inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        let device = block::by_number(rdev).filter(|device| device.is_alive()).ok_or(Errno::ENXIO)?;
        Ok(Arc::new(file::BlockFile::open(&device, request)?))
    }

    fn direct_align(&self, rdev: u64) -> Option<DirectAlign> {
        let limits = *block::by_number(rdev)?.limits();
        Some(DirectAlign { memory: limits.dma_alignment, offset: limits.logical_block_size })
    }
}

/// Registers the driver; each block device has a node in /dev from now on. Call once at boot.
pub fn init() -> Result<()> {
    for (major, name) in MAJORS {
        register_blkdev(major, MINORS, name, Arc::new(Driver))?;
    }
    vfs::superblock::set_sync_below(sync_devices);
    block::on_change(|device: &Arc<BlockDevice>, change| match change {
        Change::Added => {
            if let Err(errno) = add_node(device.name(), DeviceKind::Block, device.number(), MODE) {
                log::error!("/dev/{}: {errno}", device.name());
            }
        }
        Change::Leaving => {
            vfs::superblock::device_leaves(device.rdev());
            // What cannot be written is told by fsync(2), and lost.
            let _ = device.sync();
        }
        Change::Removed => {
            vfs::superblock::device_left(device.rdev());
            remove_node(device.name());
        }
    });
    Ok(())
}

/// Writes out the caches of all devices and flushes their disks. An error stays with the device's cache, for fsync(2).
fn sync_devices() {
    for device in block::all() {
        let _ = device.sync();
    }
}
