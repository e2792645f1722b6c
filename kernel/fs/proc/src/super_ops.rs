//! The file system type, and its instances: one for the first pid namespace, others as they are mounted.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::S_IFDIR;
use abi::{Errno, Result};
use hal::sync::Once;
use process::PidNs;
use vfs::dentry::Dentry;
use vfs::superblock::{MAX_FILE_SIZE, SbFlags};
use vfs::{FileSystemType, Inode, InodeFlags, InodeInit, MountRequest, SuperBlock, SuperInit, SuperOps};

use crate::root::Root;

/// `PROC_SUPER_MAGIC` (statfs(2)).
const MAGIC: u64 = 0x9fa0;
/// Inode number of the root.
pub(crate) const ROOT_INO: u64 = 1;

struct Proc;

static TYPE: Proc = Proc;
static INSTANCE: Once<Arc<Dentry>> = Once::new();

impl FileSystemType for Proc {
    fn name(&self) -> &'static str {
        "proc"
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<Dentry>> {
        check_options(request.data)?;
        let ns = process::try_current().map_or(PidNs::INITIAL, |me| me.group().pid_ns().clone());
        if ns.is_initial() {
            return INSTANCE.get().cloned().ok_or(Errno::ENODEV);
        }
        Ok(make_root(ns))
    }
}

/// `EINVAL`: an option that is unknown, or that would hide what this file system cannot hide.
fn check_options(data: &[u8]) -> Result<()> {
    let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    for option in text.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("hidepid", "0" | "off")) => {}
            Some(("gid", gid)) if gid.parse::<u32>().is_ok() => {}
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok(())
}

struct Super;

impl SuperOps for Super {
    fn show_options(&self, _sb: &SuperBlock, _out: &mut Vec<u8>) {}

    fn remount(&self, _sb: &SuperBlock, data: &[u8]) -> Result<()> {
        check_options(data)
    }
}

/// An instance that shows the processes of `ns`.
fn make_root(ns: PidNs) -> Arc<Dentry> {
    let init = SuperInit {
        fs_type: &TYPE,
        dev: 0,
        magic: MAGIC,
        block_size: 1024,
        max_bytes: MAX_FILE_SIZE,
        flags: SbFlags::empty(),
    };
    let sb = SuperBlock::new(init, Box::new(Super));
    let mut root = InodeInit::new(ROOT_INO, S_IFDIR | 0o555);
    root.flags = InodeFlags::VOLATILE;
    Dentry::new_root(Inode::new(&sb, root, Box::new(Root(ns)), None))
}

pub(crate) fn register() -> Result<()> {
    INSTANCE.call_once(|| make_root(PidNs::INITIAL));
    vfs::register_fs(&TYPE)
}
