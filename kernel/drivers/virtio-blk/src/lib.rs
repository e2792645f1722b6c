//! The virtio block device: /dev/vda and its like (VIRTIO 1.2, ch. 5.2).
//!
//! Each hardware queue has a message-signalled interrupt on the CPU that mostly submits to it. A request is a header
//! and a status byte in its slot of the virtqueue, and the frames of its bios between them. Completion takes
//! requests out in batches under the queue's lock and finishes them without it.
//!
//! A watchdog runs while requests are under way: it looks for completions whose interrupt was lost, and says once when
//! the device has been silent for long. A virtio request cannot be taken back, so it is waited for, as on Linux.
//!
//! # Locks
//!
//! `virtio.blk.queue` (interrupts off): one virtqueue. Nothing is called under it but the queue.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod driver;
mod probe;
mod request;

pub use probe::{attach, register};
