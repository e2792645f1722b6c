//! The early console: the first serial port, written by polling.
//!
//! It works from the first Rust instruction until the machine stops, takes no lock that a panic could find held,
//! and never waits for ever: a port that stays busy (or does not exist) loses bytes. The real driver
//! (`drivers/serial`) takes the port over for input and buffered output; panics still print here.
//!
//! Source: National Semiconductor PC16550D data sheet (register numbers).

use core::fmt;

use super::instr::{inb, outb};

/// I/O base of the first serial port on a PC.
const COM1: u16 = 0x3f8;
/// Transmit holding register (write).
const THR: u16 = COM1;
/// Interrupt enable register; divisor latch high when DLAB is set.
const IER: u16 = COM1 + 1;
/// FIFO control register (write).
const FCR: u16 = COM1 + 2;
/// Line control register.
const LCR: u16 = COM1 + 3;
/// Modem control register.
const MCR: u16 = COM1 + 4;
/// Line status register.
const LSR: u16 = COM1 + 5;
/// LSR: the holding register (or FIFO) is empty.
const LSR_THRE: u8 = 0x20;
/// Status reads before a busy port loses a byte: more than a byte time at 115200 baud.
const MAX_POLLS: u32 = 100_000;

/// Sets the port to 115200 baud, 8 bits, no parity, with FIFOs, interrupts off.
pub(crate) fn init() {
    for (port, value) in
        [(IER, 0x00), (LCR, 0x80), (THR, 0x01), (IER, 0x00), (LCR, 0x03), (FCR, 0x07), (MCR, 0x03)]
    {
        // SAFETY: the ports are the UART's, which does no DMA; this module owns it until a driver claims it.
        unsafe { outb(port, value) }
    }
}

/// Writes `bytes`, with a carriage return before each newline.
pub(crate) fn write_bytes(bytes: &[u8]) {
    for &byte in bytes {
        if byte == b'\n' {
            write_byte(b'\r');
        }
        write_byte(byte);
    }
}

fn write_byte(byte: u8) {
    for _ in 0..MAX_POLLS {
        // SAFETY: reading LSR only clears error bits that nobody waits for.
        if unsafe { inb(LSR) } & LSR_THRE != 0 {
            break;
        }
    }
    // SAFETY: as in `init`.
    unsafe { outb(THR, byte) }
}

/// The early console as a formatting target.
pub(crate) struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write_bytes(text.as_bytes());
        Ok(())
    }
}
