//! Terminals: the line discipline, terminal devices, job control and pseudo-terminals.
//!
//! [`ldisc`] edits lines and processes output, without any device. [`tty`] joins it to a [`mod@line`] (a serial
//! port, the master of a [`pty`]) and to readers and writers. [`job`] ties a terminal to a session. [`mod@file`]
//! is what a program has open, [`device`] how it opens it.
//!
//! Sources: tty(4), pty(7), termios(3), ioctl_tty(2), credentials(7).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod device;
pub mod file;
pub mod flags;
pub mod job;
pub mod ldisc;
pub mod line;
pub mod pty;
pub mod tty;

pub use tty::{Tty, Wait};
