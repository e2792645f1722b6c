#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod device;
mod mmio;
mod pci_transport;
mod queue;
mod ring;

pub use device::{BusIndex, Device, Features, QueueSetup, Transport, kind};
pub use mmio::probe as probe_mmio;
pub use pci::Release;
pub use pci_transport::{PciDriver, VENDOR};
pub use queue::{Done, MAX_HEADER, MAX_PIECES, MAX_TAIL, Piece, Prepared, Queue};
