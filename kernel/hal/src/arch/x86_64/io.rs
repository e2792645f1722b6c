//! Device registers for drivers: ports, and windows of memory.

use alloc::vec::Vec;

use super::boot::memory::Kind;
use super::instr;
use super::paging::kernel;
use super::paging::pte::{GLOBAL, NO_CACHE, NO_EXEC, WRITABLE, WRITE_THROUGH};
use super::{acpi, boot};
use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::io::ClaimError;
use crate::sync::IrqLock;

/// Ports that could reach memory or belong to hal: first, last.
const FORBIDDEN: [(u16, u16); 8] = [
    (0x00, 0x0f),   // ISA DMA controller 1
    (0x20, 0x21),   // 8259
    (0x40, 0x43),   // PIT
    (0x70, 0x71),   // CMOS clock
    (0x80, 0x8f),   // DMA page registers
    (0xa0, 0xa1),   // 8259
    (0xc0, 0xdf),   // ISA DMA controller 2
    (0xcf8, 0xcff), // PCI configuration
];

/// May a driver have these ports?
pub(crate) fn ports_allowed(base: u16, len: u16) -> bool {
    let end = u32::from(base) + u32::from(len);
    len != 0
        && !FORBIDDEN
            .iter()
            .any(|&(first, last)| u32::from(base) <= u32::from(last) && u32::from(first) < end)
}

/// Reads a byte from a port that `ports_allowed` allowed.
pub(crate) fn in_u8(port: u16) -> u8 {
    // SAFETY: the front hands the port to the driver that claimed it; it reaches no memory (`FORBIDDEN`).
    unsafe { instr::inb(port) }
}

/// Writes a byte likewise.
pub(crate) fn out_u8(port: u16, value: u8) {
    // SAFETY: as `in_u8`.
    unsafe { instr::outb(port, value) }
}

/// Reads 16 bits likewise.
pub(crate) fn in_u16(port: u16) -> u16 {
    // SAFETY: as `in_u8`.
    unsafe { instr::inw(port) }
}

/// Writes 16 bits likewise.
pub(crate) fn out_u16(port: u16, value: u16) {
    // SAFETY: as `in_u8`.
    unsafe { instr::outw(port, value) }
}

/// Reads 32 bits likewise.
pub(crate) fn in_u32(port: u16) -> u32 {
    // SAFETY: as `in_u8`.
    unsafe { instr::inl(port) }
}

/// Writes 32 bits likewise.
pub(crate) fn out_u32(port: u16, value: u32) {
    // SAFETY: as `in_u8`.
    unsafe { instr::outl(port, value) }
}

/// A mapped window of device memory. It stays mapped for good: who claims the same memory later gets it again.
#[derive(Debug)]
pub(crate) struct Window {
    base: u64,
    mapped: Mapped,
}

/// Whole pages of device memory, and where they are mapped.
#[derive(Clone, Copy, Debug)]
struct Mapped {
    start: u64,
    end: u64,
    vaddr: u64,
}

/// What is mapped and claimed by nobody.
static UNUSED: IrqLock<Vec<Mapped>> = IrqLock::new("hal.io.unused", Vec::new());

impl Drop for Window {
    fn drop(&mut self) {
        let mut unused = UNUSED.lock();
        // Without memory for the note the addresses are lost, and nothing else.
        if unused.try_reserve(1).is_ok() {
            unused.push(self.mapped);
        }
    }
}

impl Window {
    /// Reads the 8-bit register at `offset`, which the front checked.
    pub(crate) fn read_u8(&self, offset: usize) -> u8 {
        // SAFETY: inside the window, which is mapped for good, and aligned.
        unsafe { ((self.base as usize + offset) as *const u8).read_volatile() }
    }

    /// Writes it.
    pub(crate) fn write_u8(&self, offset: usize, value: u8) {
        // SAFETY: as `read_u8`; the memory is a device's, not the kernel's (`map_device`).
        unsafe { ((self.base as usize + offset) as *mut u8).write_volatile(value) }
    }

    /// Reads the 16-bit register at `offset`, which the front checked.
    pub(crate) fn read_u16(&self, offset: usize) -> u16 {
        // SAFETY: inside the window, which is mapped for good, and aligned.
        unsafe { ((self.base as usize + offset) as *const u16).read_volatile() }
    }

    /// Writes it.
    pub(crate) fn write_u16(&self, offset: usize, value: u16) {
        // SAFETY: as `read_u16`; the memory is a device's, not the kernel's (`map_device`).
        unsafe { ((self.base as usize + offset) as *mut u16).write_volatile(value) }
    }

    /// Reads the 32-bit register at `offset`, which the front checked.
    pub(crate) fn read_u32(&self, offset: usize) -> u32 {
        // SAFETY: inside the window, which is mapped for good, and aligned.
        unsafe { ((self.base as usize + offset) as *const u32).read_volatile() }
    }

    /// Writes it.
    pub(crate) fn write_u32(&self, offset: usize, value: u32) {
        // SAFETY: as `read_u32`; the memory is a device's, not the kernel's (`map_device`).
        unsafe { ((self.base as usize + offset) as *mut u32).write_volatile(value) }
    }
}

/// Maps device memory, uncached.
pub(crate) fn map_device(phys: PhysAddr, len: usize) -> Result<Window, ClaimError> {
    let page = PAGE_SIZE as u64;
    let end = phys.0.checked_add(len as u64).filter(|end| *end < 1 << 52).ok_or(ClaimError::Forbidden)?;
    let (start, end) = (phys.0 & !(page - 1), end.next_multiple_of(page));
    let is_memory = boot::firmware_map()
        .iter()
        .any(|region| region.kind != Kind::Reserved && start < region.end && region.start < end);
    let platform = acpi::platform();
    let ours = platform.io_apics.iter().map(|io_apic| io_apic.address).chain([platform.local_apic]);
    // Configuration space is `hal::pci`'s: what is written there moves devices.
    let is_config = platform.ecam.is_some_and(|ecam| {
        let bus = |n: u8, more| ecam.base.saturating_add((u64::from(n) + more) << 20);
        start < bus(ecam.buses.1, 1) && bus(ecam.buses.0, 0) < end
    });
    if len == 0
        || is_memory
        || is_config
        || ours.chain(platform.hpet).any(|address| (start..end).contains(&address))
    {
        return Err(ClaimError::Forbidden);
    }
    let base_of = |mapped: &Mapped| mapped.vaddr + (phys.0 - start);
    {
        let mut unused = UNUSED.lock();
        if let Some(at) = unused.iter().position(|mapped| (mapped.start, mapped.end) == (start, end)) {
            let mapped = unused.swap_remove(at);
            return Ok(Window { base: base_of(&mapped), mapped });
        }
    }
    let vaddr = kernel::reserve(end - start + page, page).ok_or(ClaimError::NoMemory)?;
    let flags = WRITABLE | NO_EXEC | GLOBAL | NO_CACHE | WRITE_THROUGH;
    // SAFETY: 1. just reserved. 2. no memory and no controller of hal's, as checked above.
    unsafe { kernel::map(vaddr, start, end - start, flags) }.map_err(|_| ClaimError::NoMemory)?;
    let mapped = Mapped { start, end, vaddr };
    Ok(Window { base: base_of(&mapped), mapped })
}
