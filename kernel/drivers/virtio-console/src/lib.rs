//! The virtio console (VIRTIO 1.2, ch. 5.3): terminals /dev/hvcN, and channels to the host /dev/vportNpM.
//!
//! A device has ports, each with a queue in each direction. With the feature "multiport" two more queues carry messages
//! about them: which there are, what they are called, whether the other side has them open. Without, port 0 is all there
//! is, and a terminal.
//!
//! ```text
//!   queues   0 1   port 0          rx ──interrupt──> Port::received ──> terminal, or kept for read(2)
//!            2 3   messages        rx ──interrupt──> pending ──worker──> Hub::handle
//!            4 5   port 1 ...      tx <── Line::write of the terminal, write(2)
//! ```
//!
//! What nobody has read stays in the frames of the receiving queue, so a host that sends too much has to wait. A port
//! that is no terminal and that nobody has open loses what comes, as on Linux.
//!
//! # Locks
//!
//! `virtio.console.handling` (sleeps) > `virtio.console.ports`. `virtio.console.queue`, `virtio.console.port` and
//! `virtio.console.pending` (interrupts off) are leaves, but for the queue.
//!
//! LINUX: no SIGIO at events of a port, no emergency write.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod console;
mod file;
mod hub;
mod message;
mod port;
mod probe;

pub use probe::{attach, register};
