#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod file;
mod options;
mod superblock;

use alloc::sync::Arc;

use abi::{Errno, Result};
use hal::sync::LazyLock;
use security::Cred;
use vfs::File;
use vfs::dentry::Dentry;

use crate::options::Options;
use crate::superblock::Hugetlbfs;

/// Makes "hugetlbfs" known to mount(2).
pub fn register() -> Result<()> {
    vfs::register_fs(&superblock::HUGETLBFS)
}

/// The instance of files without a name.
static HOME: LazyLock<Result<Arc<Dentry>>> =
    LazyLock::new(|| superblock::instance(Options::default(), vfs::superblock::SbFlags::empty()));

/// Where flags of memfd_create(2), mmap(2) and shmget(2) name the size of pages: its binary logarithm, 0 for the usual.
const SIZE_SHIFT: u32 = 26;
const SIZE_MASK: u32 = 0x3f;

/// Whether `flags` of memfd_create(2), mmap(2) or shmget(2) name a size of huge pages that there is.
pub fn has_size(flags: u32) -> bool {
    [0, mm::hugetlb::SHIFT].contains(&(flags >> SIZE_SHIFT & SIZE_MASK))
}

/// `MFD_HUGETLB`.
pub const MFD_HUGETLB: u32 = 4;

/// memfd_create(2) with [`MFD_HUGETLB`]; the caller handles `MFD_CLOEXEC`.
///
/// `ENODEV`: no pages of that size. `EINVAL`: as for small pages.
pub fn create_memfd(name: &[u8], flags: u32, cred: &Arc<Cred>) -> Result<Arc<File>> {
    let plain = flags & !(MFD_HUGETLB | SIZE_MASK << SIZE_SHIFT);
    let home = HOME.as_ref().map_err(|errno| *errno)?;
    let account = &home.sb().ops_as::<Hugetlbfs>().ok_or(Errno::ENODEV)?.account;
    // What else is wrong comes first.
    let file = tmpfs::memfd_on(home, account, name, plain, cred)?;
    if has_size(flags) { Ok(file) } else { Err(Errno::ENODEV) }
}
