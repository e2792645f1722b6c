//! Linux's user-space ABI for x86-64: numbers, flags, structure layouts and error numbers.
//!
//! Constants that need no type of their own come from `linux-raw-sys` and are reached through
//! [`raw`]. What the kernel passes around has a type here: [`Errno`], flag sets, and structures whose
//! bytes cross the user boundary (all `zerocopy`, so that they are copied without `unsafe` and hold
//! no padding that could leak kernel memory).
//!
//! Sources: the man pages named at each item, and the headers that `linux-raw-sys` is made from.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod aio;
pub mod errno;
pub mod fs;
pub mod io_uring;
pub mod mman;
pub mod perf;
pub mod poll;
pub mod process;
pub mod signal;
pub mod socket;
pub mod system;
pub mod termios;
pub mod time;

pub use errno::{Errno, Result};
pub use linux_raw_sys as raw;
