#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod dir;
mod export;
mod file;
mod files;
mod inode;
mod memfd;
mod options;
mod superblock;

pub use files::Files;
pub use inode::new as new_inode;
pub use memfd::{Seals, create_memfd, create_secret, memfd_flags, memfd_on};
pub use options::PARAMS;
pub use superblock::{Account, Instance, TMPFS, Tmpfs, TmpfsType, new_instance};

/// Makes "tmpfs", "ramfs" and "rootfs" known to mount(2).
pub fn register() -> abi::Result<()> {
    vfs::register_fs(&superblock::TMPFS)?;
    vfs::register_fs(&superblock::RAMFS)
}
