//! NVMe disks: /dev/nvme0n1 and its like (NVM Express Base Specification 2.0, NVM Command Set Specification 1.0).
//!
//! ```text
//!   block::Request -> plan: one command, or several where pages do not join up
//!                       -> submission queue of this CPU -- doorbell --> controller
//!   block::Request <- the last of its commands <- completion queue <- MSI-X interrupt of the queue
//! ```
//!
//! A controller is found on the PCI bus, reset, asked what it is and which namespaces it has; each of them becomes a
//! disk. There is a pair of queues for each CPU, as far as the controller and its interrupts go. Memory is named to
//! the controller page by page (PRP lists); a request whose pieces have gaps inside of pages becomes several commands.
//!
//! Commands that fail without "do not retry" are sent again a few times. A watchdog looks for completions whose
//! interrupt was lost; when the controller has been silent for 30 s or has vanished from the bus, it is switched off
//! and everything under way ends with `EIO`.
//!
//! # Locks
//!
//! `nvme.queue` (interrupts off): one pair of queues. Nothing is called under it but the queue and `nvme.parts`, the
//! request of several commands. `nvme.disks` (interrupts off): the disks of a controller; a leaf.
//!
//! # What is missing
//!
//! Controllers of fabrics, formats with metadata, power states, the character device with its ioctls.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod command;
mod controller;
mod disks;
mod driver;
mod identify;
mod plan;
mod probe;
mod queue;

pub use probe::register;
