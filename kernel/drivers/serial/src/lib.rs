//! The 16550 UART: the serial ports of a PC, by interrupt, as terminals ttyS0 to ttyS3.
//!
//! A port receives in its interrupt handler, which moves bytes from the chip's FIFO to the terminal's
//! input queue, and transmits from a ring: a writer fills the chip's 16-byte FIFO directly while the chip
//! is empty, and the transmit interrupt goes on from there, so a writer never waits for the line.
//!
//! # Locks
//!
//! `Port::tx` (interrupts off) guards the chip's transmit side and the ring. The receive side is touched by
//! the interrupt handler alone.
//!
//! Sources: the PC16550D data sheet; Linux's device numbers (4, 64 + n).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod ring;
mod uart;

pub use uart::{PORTS, Port, probe};
