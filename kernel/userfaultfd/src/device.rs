//! /dev/userfaultfd: who may open it may handle the faults of the kernel, too.

use alloc::sync::Arc;

use abi::{Errno, Result};
use vfs::dev::{DeviceDriver, DeviceKind, add_node, register_chrdev};
use vfs::{FdFlags, File, FileOps, Inode, OpenRequest};

/// Miscellaneous character devices.
const MISC_MAJOR: u32 = 10;
/// One of the numbers that are given out as devices come (Documentation/admin-guide/devices.txt).
const MINOR: u32 = 257;
/// `USERFAULTFD_IOC_NEW`.
const IOC_NEW: u32 = 0xaa00;

struct Device;

impl DeviceDriver for Device {
    fn open(&self, _rdev: u64, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(DeviceFile))
    }
}

struct DeviceFile;

impl FileOps for DeviceFile {
    fn ioctl(&self, _file: &Arc<File>, cmd: u32, arg: usize) -> Result<usize> {
        if cmd != IOC_NEW {
            return Err(Errno::EINVAL);
        }
        let flags = u32::try_from(arg).map_err(|_| Errno::EINVAL)?;
        let file = crate::open_allowed(flags, &process::current().cred())?;
        let cloexec = flags & abi::fs::OpenFlags::CLOEXEC.bits() != 0;
        install(file, if cloexec { FdFlags::CLOEXEC } else { FdFlags::empty() }).map(|fd| fd as usize)
    }
}

/// Installs `file` at the caller's lowest free descriptor. `EMFILE`, `ENOMEM`.
pub(crate) fn install(file: Arc<File>, flags: FdFlags) -> Result<i32> {
    let task = process::current();
    let files = task.files().ok_or(Errno::EMFILE)?;
    let limit = task.group().rlimits().cur(limits::Resource::Nofile);
    files.insert(file, 0, usize::try_from(limit).unwrap_or(usize::MAX), flags)
}

/// Makes /dev/userfaultfd. Call once at boot.
pub fn init() -> Result<()> {
    register_chrdev(MISC_MAJOR, MINOR..MINOR + 1, "misc", Arc::new(Device))?;
    add_node("userfaultfd", DeviceKind::Char, (MISC_MAJOR, MINOR), 0o600)
}
