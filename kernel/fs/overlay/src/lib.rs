#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod claim;
mod copy_up;
mod dir;
mod file;
mod icache;
mod index;
mod inode;
mod layers;
mod marks;
mod mount;
mod names;
mod options;
mod rename;
mod work;

/// Makes "overlay" known to mount(2).
pub fn register() -> abi::Result<()> {
    vfs::register_fs(&mount::OVERLAY)
}
