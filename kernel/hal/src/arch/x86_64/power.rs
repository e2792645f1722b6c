//! Stopping the machine: power-off, restart, halt.
//!
//! Source: ACPI 6.5 ch. 4.8.3.2.1 (PM1 control), 4.8.3.6 (reset register); IBM PC AT keyboard controller.

use super::instr::{self, inb, outb, outw};
use super::{acpi, irq};

/// PM1 control: enter the sleep state of bits 10-12.
const SLEEP_ENABLE: u16 = 1 << 13;

/// Stops this CPU for good.
pub(crate) fn halt_forever() -> ! {
    instr::cli();
    loop {
        instr::hlt();
    }
}

/// Stops all CPUs for good.
pub(crate) fn halt() -> ! {
    irq::stop_others();
    halt_forever()
}

/// Switches the machine off by ACPI; halts when it cannot.
pub(crate) fn power_off() -> ! {
    let (pm1a, pm1b) = acpi::platform().pm1_control;
    // Read before the others stop: one of them may hold a lock on the way.
    let types = acpi::soft_off_types();
    instr::cli();
    irq::stop_others();
    if let (Some((type_a, type_b)), true) = (types, pm1a != 0) {
        // SAFETY: the ports are the power-management controller's, which no driver owns; this ends the machine.
        unsafe {
            outw(pm1a, SLEEP_ENABLE | u16::from(type_a & 7) << 10);
            if pm1b != 0 {
                outw(pm1b, SLEEP_ENABLE | u16::from(type_b & 7) << 10);
            }
        }
    }
    halt_forever()
}

/// Restarts the machine: the firmware's reset register, the keyboard controller, the chipset's reset port.
pub(crate) fn reboot() -> ! {
    const KEYBOARD: u16 = 0x64;
    const KEYBOARD_BUSY: u8 = 2;
    const KEYBOARD_RESET: u8 = 0xfe;
    const CHIPSET: u16 = 0xcf9;
    instr::cli();
    irq::stop_others();
    if let Some((register, value)) = acpi::platform().reset {
        // SAFETY: this ends the machine.
        unsafe { outb(register.port, value) };
        wait();
    }
    for _ in 0..100_000 {
        // SAFETY: reading the controller's status.
        if unsafe { inb(KEYBOARD) } & KEYBOARD_BUSY == 0 {
            break;
        }
    }
    // SAFETY: this ends the machine.
    unsafe { outb(KEYBOARD, KEYBOARD_RESET) };
    wait();
    // SAFETY: as above: hard reset, full cycle.
    unsafe { outb(CHIPSET, 0x0e) };
    wait();
    halt_forever()
}

/// Gives a reset time to happen.
fn wait() {
    for _ in 0..1_000_000 {
        instr::pause();
    }
}

/// Stops all CPUs with a last message.
pub(crate) fn stop(message: &str) -> ! {
    super::unwind::stop_machine(message)
}
