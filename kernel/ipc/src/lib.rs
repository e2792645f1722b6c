#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod mq;
pub mod mqfs;
pub mod msg;
mod perm;
pub mod sem;
pub mod shm;
pub mod show;
mod state;
mod undo;

pub use perm::{IPC_CREAT, IPC_EXCL, IPC_NOWAIT, PermDs};
pub use state::{Ipc, ObjectKind, current};
pub use undo::{Hooks, undo_owner};

use abi::Result;

/// The exit hook, for `process::hooks::register_exit`.
pub static HOOKS: Hooks = Hooks;

/// Makes the "mqueue" file system known. Call once at boot.
pub fn register() -> Result<()> {
    process::hooks::register_exit(&HOOKS);
    mqfs::register()
}
