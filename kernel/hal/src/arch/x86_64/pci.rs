//! PCI configuration space: memory-mapped (ECAM) where ACPI's MCFG tells of it, else by ports.
//!
//! Source: PCI Express Base 5.0, ch. 7.2.2 (ECAM); PCI Local Bus 3.0, ch. 3.2.2.3.2 (configuration mechanism #1).

use super::paging::kernel;
use super::paging::pte::{GLOBAL, NO_CACHE, NO_EXEC, WRITABLE, WRITE_THROUGH};
use super::{acpi, instr};
use crate::pci::Address;
use crate::sync::{IrqLock, Once};

const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
/// Configuration space of a bus in ECAM.
const BUS_BYTES: u64 = 1 << 20;

/// Guards the pair of ports.
static PORTS: IrqLock<()> = IrqLock::new("hal.pci.ports", ());
/// Where each bus is mapped, once it was asked for; 0: it cannot be.
static BUSES: [Once<u64>; 256] = [const { Once::new() }; 256];

/// The highest bus that can be asked about.
pub(crate) fn last_bus() -> u8 {
    acpi::platform().ecam.map_or(255, |ecam| ecam.buses.1)
}

/// Where the register is mapped.
fn mapped(at: Address, offset: u16) -> Option<*mut u32> {
    let ecam = acpi::platform().ecam.filter(|ecam| (ecam.buses.0..=ecam.buses.1).contains(&at.bus))?;
    let base = *BUSES[usize::from(at.bus)].call_once(|| map_bus(ecam.base, at.bus).unwrap_or(0));
    let function = u64::from(at.device & 31) << 15 | u64::from(at.function & 7) << 12;
    (base != 0).then_some((base + function + u64::from(offset & 0xffc)) as *mut u32)
}

fn map_bus(base: u64, bus: u8) -> Option<u64> {
    let paddr = base.checked_add(u64::from(bus) * BUS_BYTES).filter(|paddr| *paddr < 1 << 52)?;
    let vaddr = kernel::reserve(BUS_BYTES, BUS_BYTES)?;
    let flags = WRITABLE | NO_EXEC | GLOBAL | NO_CACHE | WRITE_THROUGH;
    // SAFETY: 1. just reserved. 2. the firmware says that this is configuration space; `hal::pci` alone accesses it.
    unsafe { kernel::map(vaddr, paddr, BUS_BYTES, flags) }.ok()?;
    Some(vaddr)
}

fn port_address(at: Address, offset: u16) -> Option<u32> {
    let function =
        u32::from(at.bus) << 16 | u32::from(at.device & 31) << 11 | u32::from(at.function & 7) << 8;
    (offset < 0x100).then_some(1 << 31 | function | u32::from(offset & 0xfc))
}

/// Reads 32 bits at `offset`, a multiple of 4; all ones where there is nothing.
pub(crate) fn read(at: Address, offset: u16) -> u32 {
    if let Some(register) = mapped(at, offset) {
        // SAFETY: in a mapped bus, aligned; reading configuration space reaches no memory.
        return unsafe { register.read_volatile() };
    }
    let Some(address) = port_address(at, offset) else { return u32::MAX };
    let _lock = PORTS.lock();
    // SAFETY: the ports are this module's; as above.
    unsafe {
        instr::outl(CONFIG_ADDRESS, address);
        instr::inl(CONFIG_DATA)
    }
}

/// Writes 32 bits. `hal::pci` writes only what keeps the machine whole.
pub(crate) fn write(at: Address, offset: u16, value: u32) {
    if let Some(register) = mapped(at, offset) {
        // SAFETY: as `read`; the front decides what may be written.
        return unsafe { register.write_volatile(value) };
    }
    let Some(address) = port_address(at, offset) else { return };
    let _lock = PORTS.lock();
    // SAFETY: as above.
    unsafe {
        instr::outl(CONFIG_ADDRESS, address);
        instr::outl(CONFIG_DATA, value);
    }
}
