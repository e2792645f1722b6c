#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod cache;
mod dirs;
mod export;
mod file;
mod fs;
mod ioctl;
mod mount;
mod names;
mod node;
mod options;
#[cfg(test)]
mod tests;

pub use mount::register;
