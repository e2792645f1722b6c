//! Loop devices: files as disks (loop(4)).
//!
//! `/dev/loop-control` makes devices; a device is a disk of size 0 until `LOOP_CONFIGURE` or `LOOP_SET_FD` gives it a file.
//! A thread of its own per configured device takes requests from a queue and reads, writes or punches the file,
//! through the file's page cache; a flush is fdatasync(2) of the file.
//!
//! # Locks
//!
//! `loop.devices` (sleeps) > `loop.backing` (sleeps): the file and its settings. `loop.queue` (interrupts off): what
//! waits for the thread. None is held while the file is used.
//!
//! # What is missing
//!
//! Logical blocks other than 512 bytes, direct I/O to the file, transfers that encrypt. The parameter `max_loop`.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod control;
mod device;
mod info;

pub use control::init;
