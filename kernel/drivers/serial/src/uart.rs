//! One 16550 chip: registers, interrupt handler, and its face to the terminal.

use alloc::boxed::Box;
use alloc::sync::Arc;

use hal::io::Ports;
use hal::irq::{self, IrqLine};
use hal::sync::{IrqLock, Once};
use tty::line::{Line, Receiver};

use crate::ring::Ring;

/// Where a PC has its serial ports: base of the register range and ISA interrupt.
pub const PORTS: [(u16, u8); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

/// Registers by offset, and bits of them (PC16550D data sheet, table II).
mod reg {
    pub const DATA: u16 = 0;
    pub const INTERRUPT_ENABLE: u16 = 1;
    pub const INTERRUPT_ID: u16 = 2;
    pub const FIFO_CONTROL: u16 = 2;
    pub const LINE_CONTROL: u16 = 3;
    pub const MODEM_CONTROL: u16 = 4;
    pub const LINE_STATUS: u16 = 5;
    pub const MODEM_STATUS: u16 = 6;
    pub const SCRATCH: u16 = 7;

    pub const IER_RECEIVE: u8 = 1;
    pub const IER_TRANSMIT: u8 = 2;
    pub const IER_LINE: u8 = 4;
    pub const IIR_NONE: u8 = 1;
    pub const FCR_ENABLE_AND_CLEAR: u8 = 0x07;
    pub const FCR_TRIGGER_8: u8 = 0x80;
    pub const LCR_8N1: u8 = 3;
    pub const LCR_DIVISOR: u8 = 0x80;
    /// DTR, RTS, and OUT2, which lets the interrupt through on a PC.
    pub const MCR_ON: u8 = 0x0b;
    pub const LSR_DATA: u8 = 1;
    pub const LSR_TRANSMIT_EMPTY: u8 = 0x20;
    pub const LSR_IDLE: u8 = 0x40;
}

/// Bytes that the chip's transmit FIFO holds.
const FIFO_SIZE: usize = 16;
/// Most bytes taken in one interrupt, so that a babbling line cannot hold a CPU.
const RECEIVE_BUDGET: usize = 256;

struct Transmit {
    ring: Ring,
    /// The transmit interrupt is on: the handler empties the ring.
    is_active: bool,
}

/// A serial port.
pub struct Port {
    registers: Ports,
    tx: IrqLock<Transmit>,
    receiver: Once<Arc<dyn Receiver>>,
    irq: u8,
}

/// Claims and sets up serial port `index` (0 to 3), 115,200 bit/s, 8N1, with interrupts.
///
/// `None`: there is no such port, its registers are in use, or no chip answers. Sleeps not; allocates.
pub fn probe(index: usize) -> Option<Arc<Port>> {
    let (base, irq) = *PORTS.get(index)?;
    let registers = Ports::claim(base, 8, "serial").ok()?;
    for pattern in [0x5a, 0xa5] {
        registers.write_u8(reg::SCRATCH, pattern);
        if registers.read_u8(reg::SCRATCH) != pattern {
            return None;
        }
    }
    registers.write_u8(reg::INTERRUPT_ENABLE, 0);
    registers.write_u8(reg::LINE_CONTROL, reg::LCR_DIVISOR);
    registers.write_u8(reg::DATA, 1);
    registers.write_u8(reg::INTERRUPT_ENABLE, 0);
    registers.write_u8(reg::LINE_CONTROL, reg::LCR_8N1);
    registers.write_u8(reg::FIFO_CONTROL, reg::FCR_ENABLE_AND_CLEAR | reg::FCR_TRIGGER_8);
    registers.write_u8(reg::MODEM_CONTROL, reg::MCR_ON);
    let tx = IrqLock::new("serial.tx", Transmit { ring: Ring::new(), is_active: false });
    Some(Arc::new(Port { registers, tx, receiver: Once::new(), irq }))
}

impl Port {
    /// Starts reception: bytes go to `receiver`, from interrupt context.
    ///
    /// `Err`: the interrupt line cannot be had; the port then only transmits.
    pub fn start(self: &Arc<Self>, receiver: Arc<dyn Receiver>) -> Result<(), irq::RequestError> {
        self.receiver.call_once(|| receiver);
        let port = self.clone();
        irq::request(IrqLine::Isa(self.irq), "serial", Box::new(move || port.interrupt()))?;
        let _tx = self.tx.lock();
        self.registers.write_u8(reg::INTERRUPT_ENABLE, reg::IER_RECEIVE | reg::IER_LINE);
        Ok(())
    }

    fn interrupt(&self) {
        // Two ports share a line: each looks whether it asked.
        let mut received = 0;
        while self.registers.read_u8(reg::INTERRUPT_ID) & reg::IIR_NONE == 0 && received < RECEIVE_BUDGET {
            received += self.receive();
            self.registers.read_u8(reg::MODEM_STATUS);
            let sent = {
                let mut tx = self.tx.lock();
                self.fill_fifo(&mut tx)
            };
            if sent && let Some(receiver) = self.receiver.get() {
                receiver.output_drained();
            }
        }
    }

    /// Moves what the chip received to the terminal and returns how much that was.
    fn receive(&self) -> usize {
        let mut bytes = [0; 64];
        let mut count = 0;
        while count < bytes.len() && self.registers.read_u8(reg::LINE_STATUS) & reg::LSR_DATA != 0 {
            bytes[count] = self.registers.read_u8(reg::DATA);
            count += 1;
        }
        if count > 0
            && let Some(receiver) = self.receiver.get()
        {
            receiver.receive(&bytes[..count]);
        }
        count
    }

    /// Gives the chip what it can take. Returns whether room was made in the ring.
    fn fill_fifo(&self, tx: &mut Transmit) -> bool {
        let mut sent = false;
        // An emulated chip is empty again at once: go on while it is, within a bound.
        for _ in 0..crate::ring::SIZE / FIFO_SIZE {
            if tx.ring.len() == 0 || self.registers.read_u8(reg::LINE_STATUS) & reg::LSR_TRANSMIT_EMPTY == 0 {
                break;
            }
            for byte in core::iter::from_fn(|| tx.ring.pop()).take(FIFO_SIZE) {
                self.registers.write_u8(reg::DATA, byte);
            }
            sent = true;
        }
        let wanted = tx.ring.len() > 0;
        if wanted != tx.is_active {
            tx.is_active = wanted;
            let transmit = if wanted { reg::IER_TRANSMIT } else { 0 };
            self.registers.write_u8(reg::INTERRUPT_ENABLE, reg::IER_RECEIVE | reg::IER_LINE | transmit);
        }
        sent
    }
}

impl Line for Port {
    fn write(&self, bytes: &[u8]) -> usize {
        let mut tx = self.tx.lock();
        let taken = tx.ring.push(bytes);
        if !tx.is_active {
            self.fill_fifo(&mut tx);
        }
        taken
    }

    fn write_room(&self) -> usize {
        self.tx.lock().ring.room()
    }

    fn pending_output(&self) -> usize {
        let tx = self.tx.lock();
        let in_chip = self.registers.read_u8(reg::LINE_STATUS) & reg::LSR_IDLE == 0;
        tx.ring.len() + usize::from(in_chip)
    }

    fn flush_output(&self) {
        self.tx.lock().ring.clear();
    }
}
