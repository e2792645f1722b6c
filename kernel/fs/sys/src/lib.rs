#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod cpu;
mod devices;
mod events;
mod hardware;
mod hugepages;
mod inode;
mod kernel;
mod ksm;
mod place;
mod queue;
mod thp;
mod topology;
mod uevent;

use alloc::boxed::Box;
use alloc::sync::Arc;

use abi::fs::S_IFDIR;
use abi::{Errno, Result};
use hal::sync::Once;
pub use uevent::start_events;
use vfs::dentry::Dentry;
use vfs::{FileSystemType, Inode, InodeInit, MountRequest, SuperBlock, SuperInit, SuperOps};

/// `SYSFS_MAGIC` (statfs(2)).
const MAGIC: u64 = 0x6265_6572;
const ROOT_INO: u64 = 1;

struct Sysfs;

static TYPE: Sysfs = Sysfs;
static INSTANCE: Once<Arc<Dentry>> = Once::new();

impl FileSystemType for Sysfs {
    fn name(&self) -> &'static str {
        "sysfs"
    }

    fn is_for_user_ns(&self) -> bool {
        true
    }

    fn is_global(&self) -> bool {
        true
    }

    fn mount(&self, _request: &MountRequest<'_>) -> Result<Arc<Dentry>> {
        INSTANCE.get().cloned().ok_or(Errno::ENODEV)
    }
}

struct Super;

impl SuperOps for Super {}

/// Makes "sysfs" known to mount(2). Call once at boot.
pub fn register() -> Result<()> {
    let init = SuperInit::in_memory(&TYPE, MAGIC);
    let sb = SuperBlock::new(init, Box::new(Super));
    let root = InodeInit::new(ROOT_INO, S_IFDIR | 0o555);
    let root = Inode::new(&sb, root, Box::new(inode::Dir(place::Place::Root)), None);
    INSTANCE.call_once(|| Dentry::new_root(root));
    vfs::register_fs(&TYPE)
}
