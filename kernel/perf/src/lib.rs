#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod attr;
mod context;
pub mod counts;
mod event;
mod file;
mod open;
pub mod settings;
pub mod sources;
mod uprobe;

pub use open::{Request, open};

/// Registers with the crates below. Call once at boot.
pub fn register() {
    process::hooks::register_fault_watch(context::fault);
}
