#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod channel;
mod client;
mod dirs;
mod fid;
mod file;
mod mount;
mod names;
mod node;
mod options;
mod pages;
mod serial;
#[cfg(test)]
mod tests;
mod xattrs;

pub use mount::register;
