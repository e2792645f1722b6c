//! swapon(2) and swapoff(2).

use alloc::boxed::Box;

use abi::fs::{AT_FDCWD, OpenFlags};
use abi::{Errno, Result};
use hal::UserAddr;
use security::Cap;
use vfs::At;
use vfs::open::How;

use crate::Cx;
use crate::caller::{self, Caller};

/// `SWAP_FLAG_PREFER`: the low bits are a priority.
const PREFER: u32 = 0x8000;
/// `SWAP_FLAG_PRIO_MASK`.
const PRIORITY: u32 = 0x7fff;
/// `SWAP_FLAG_DISCARD`, `DISCARD_ONCE` and `DISCARD_PAGES`: allowed where the device cannot, too.
const DISCARD: u32 = 0x7_0000;

/// swapon(2).
pub(crate) fn sys_swapon(_cx: &mut Cx<'_>, path: UserAddr, flags: u32) -> Result<usize> {
    if flags & !(PREFER | PRIORITY | DISCARD) != 0 {
        return Err(Errno::EINVAL);
    }
    crate::require(Cap::SYS_ADMIN)?;
    let caller = Caller::new()?;
    let name = caller::path(path)?;
    // Exclusive: nobody else swaps to it or mounts it.
    let how = How::new((OpenFlags::RDWR | OpenFlags::EXCL).bits(), 0)?;
    let file = vfs::open::open(&caller.walk(), At::from_raw(AT_FDCWD), &name, &how)?;
    let device = file.ops().swap_device(&file)?;
    let priority = (flags & PREFER != 0).then_some((flags & PRIORITY) as i32);
    let path = file.display_name();
    mm::swap::swap_on(device, path, priority, Box::new(file)).map(|()| 0)
}

/// swapoff(2).
pub(crate) fn sys_swapoff(_cx: &mut Cx<'_>, path: UserAddr) -> Result<usize> {
    crate::require(Cap::SYS_ADMIN)?;
    let caller = Caller::new()?;
    let name = caller::path(path)?;
    let how = How::new(OpenFlags::PATH.bits(), 0)?;
    let file = vfs::open::open(&caller.walk(), At::from_raw(AT_FDCWD), &name, &how)?;
    mm::swap::swap_off(&file.display_name()).map(|()| 0)
}
