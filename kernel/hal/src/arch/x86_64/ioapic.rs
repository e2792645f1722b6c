//! The I/O APICs, and the old interrupt controllers that they replace.
//!
//! Every input is masked until a driver asks for its line; then it goes to the boot CPU with a vector of its own.
//!
//! Source: Intel 82093AA data sheet (registers); Intel SDM vol. 3 ch. 11.11 (message formats).

use alloc::vec::Vec;

use super::acpi::{self, Override};
use super::instr::outb;
use super::paging::kernel;
use super::paging::pte::{GLOBAL, NO_CACHE, NO_EXEC, WRITABLE, WRITE_THROUGH};
use super::{apic, irq};
use crate::addr::PAGE_SIZE;
use crate::irq::{IrqLine, RequestError};
use crate::sync::SpinLock;

const VERSION: u32 = 0x01;
const REDIRECTION: u32 = 0x10;
const ACTIVE_LOW: u32 = 1 << 13;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;

/// Data ports of the two 8259 controllers: writing all ones masks their lines.
const PIC_DATA: [u16; 2] = [0x21, 0xa1];

struct Controller {
    /// Where its registers are mapped.
    base: u64,
    gsi_base: u32,
    inputs: u32,
}

impl Controller {
    /// Reads a register by way of the index register.
    fn read(&self, register: u32) -> u32 {
        // SAFETY: `init` mapped the page for good; the list's lock serialises index and data.
        unsafe {
            (self.base as *mut u32).write_volatile(register);
            ((self.base + 0x10) as *const u32).read_volatile()
        }
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: as `read`; an entry only tells which vector of which CPU an input raises.
        unsafe {
            (self.base as *mut u32).write_volatile(register);
            ((self.base + 0x10) as *mut u32).write_volatile(value);
        }
    }

    fn set_entry(&self, input: u32, low: u32, high: u32) {
        let register = REDIRECTION + 2 * input;
        // Masked while the halves do not match.
        self.write(register, MASKED);
        self.write(register + 1, high);
        self.write(register, low);
    }
}

static CONTROLLERS: SpinLock<Vec<Controller>> = SpinLock::new("hal.ioapic", Vec::new());

/// Masks everything, at the old controllers too.
pub(crate) fn init() {
    for port in PIC_DATA {
        // SAFETY: masking lines; nobody else owns the controllers.
        unsafe { outb(port, 0xff) };
    }
    let mut controllers = CONTROLLERS.lock();
    for found in &acpi::platform().io_apics {
        let Some(controller) = map(found.address, found.gsi_base) else {
            log::error!("I/O APIC at {:#x} cannot be mapped", found.address);
            continue;
        };
        for input in 0..controller.inputs {
            controller.set_entry(input, MASKED, 0);
        }
        controllers.push(controller);
    }
}

fn map(address: u64, gsi_base: u32) -> Option<Controller> {
    let offset = address & (PAGE_SIZE as u64 - 1);
    let vaddr = kernel::reserve(PAGE_SIZE as u64, PAGE_SIZE as u64)?;
    let flags = WRITABLE | NO_EXEC | GLOBAL | NO_CACHE | WRITE_THROUGH;
    // SAFETY: 1. just reserved. 2. the controller's registers, used by this module only.
    unsafe { kernel::map(vaddr, address - offset, PAGE_SIZE as u64, flags) }.ok()?;
    let mut controller = Controller { base: vaddr + offset, gsi_base, inputs: 0 };
    controller.inputs = (controller.read(VERSION) >> 16 & 0xff) + 1;
    Some(controller)
}

/// Sends `line` to the boot CPU as a new vector.
#[inline]
pub(crate) fn route(line: IrqLine) -> Result<(), RequestError> {
    let found = match line {
        // ISA: rising edge, unless the firmware says otherwise.
        IrqLine::Isa(isa) => acpi::platform()
            .overrides
            .iter()
            .find(|entry| entry.isa == isa)
            .copied()
            .unwrap_or(Override { isa, gsi: u32::from(isa), active_low: false, level: false }),
        // PCI: low level.
        IrqLine::Gsi(gsi) => Override { isa: 0, gsi, active_low: true, level: true },
    };
    let controllers = CONTROLLERS.lock();
    let controller = controllers
        .iter()
        .find(|controller| {
            (controller.gsi_base..controller.gsi_base + controller.inputs).contains(&found.gsi)
        })
        .ok_or(RequestError::NoSuchLine)?;
    let vector = irq::assign_vector(line).ok_or(RequestError::NoSpace)?;
    let polarity = if found.active_low { ACTIVE_LOW } else { 0 };
    let trigger = if found.level { LEVEL } else { 0 };
    let low = u32::from(vector) | polarity | trigger;
    controller.set_entry(found.gsi - controller.gsi_base, low, apic::id_of(0) << 24);
    Ok(())
}
