#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod dir;
mod extra;
mod node;
mod pid;
mod root;
mod super_ops;
mod sysctl;
mod system;

use abi::Result;

pub use extra::{Extra, provide};

/// Makes "proc" known to mount(2). Call once at boot.
pub fn register() -> Result<()> {
    process::hooks::register_proc_dirs(pid::process_of_dir);
    super_ops::register()
}
