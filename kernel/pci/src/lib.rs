#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod bus;
mod device;
mod msix;

pub use bus::{Change, Driver, Release, devices, on_change, register, remove, rescan, scan};
pub use device::{Capability, Device};
pub use hal::pci::{Address, Bar};
pub use msix::Msix;
