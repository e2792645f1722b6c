#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod bio;
mod cache;
mod device;
mod disk;
pub mod elevator;
mod flush;
mod mem;
mod outcome;
mod plug;
mod registry;
mod request;
mod scan;
mod stats;
mod sync;
#[cfg(test)]
mod tests;

pub use bio::{Bio, BioFlags, Done, Op, Segment, Segments};
pub use device::{BlockDevice, Claim};
pub use disk::{Caller, Disk, DiskInfo, Driver, Limits, Partition};
pub use mem::{Fault, MemDisk};
pub use outcome::FirstError;
pub use plug::Plug;
pub use registry::{
    Change, add_disk, add_partition, all, by_name, by_number, by_path, disks, next_index, on_change,
    partitions, remove_disk, remove_partition, resize_partition, set_partitions,
};
pub use request::Request;
pub use scan::scan_partitions;
pub use stats::{Direction, GroupSnapshot, Snapshot};

/// Bytes of a sector, the unit of all positions in this crate.
pub const SECTOR_SIZE: usize = 512;
/// log2 of [`SECTOR_SIZE`].
pub const SECTOR_SHIFT: u32 = 9;
