#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod cache;
mod direct;
mod dirops;
mod disk;
mod error;
mod export;
mod file;
mod flight;
mod fs;
mod gate;
mod icache;
mod journal;
mod journaled;
mod mount;
mod names;
mod node;
mod options;
mod pages;
mod promises;
mod ranges;
mod shift;
mod space;
mod state;
mod superops;
mod swap;
#[cfg(test)]
mod tests;
mod xattrs;

pub use mount::register;
