//! PCI configuration space: read as one likes, changed only in ways that keep the machine whole.
//!
//! Base address registers and message tables decide where a device is and where it writes, so no raw write is
//! offered: a driver switches decoding, bus mastering and MSI-X, and asks for the size of a register.
//!
//! Source: PCI Local Bus Specification 3.0, ch. 6.

use crate::arch;
use crate::sync::IrqLock;

/// Device functions by geography; segment 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Bus.
    pub bus: u8,
    /// Device on it, 0 to 31.
    pub device: u8,
    /// Function of it, 0 to 7.
    pub function: u8,
}

impl core::fmt::Display for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "0000:{:02x}:{:02x}.{}", self.bus, self.device, self.function)
    }
}

/// What a function may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enable {
    /// Answer at its base addresses.
    Decode,
    /// Answer, and read and write memory on its own. The driver answers for the addresses it tells the device: see
    /// [`crate::dma`].
    BusMaster,
}

/// A base address register's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Is it in memory (or in I/O ports)?
    pub is_memory: bool,
    /// May reads be merged and cached?
    pub is_prefetchable: bool,
    /// Does it use the next register, too?
    pub is_64bit: bool,
    /// Where it is; 0 when the firmware gave it no place.
    pub base: u64,
    /// Its length in bytes, a power of two.
    pub len: u64,
}

const COMMAND: u16 = 0x04;
const COMMAND_IO: u16 = 1;
const COMMAND_MEMORY: u16 = 2;
const COMMAND_MASTER: u16 = 4;
const COMMAND_NO_INTX: u16 = 1 << 10;
const HEADER_TYPE: u16 = 0x0e;
const BAR0: u16 = 0x10;
const CAPABILITY_MSIX: u8 = 0x11;
const MSIX_CONTROL: u16 = 2;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;

/// Serialises changes, each of which is more than one access.
static CHANGE: IrqLock<()> = IrqLock::new("hal.pci.change", ());

/// The highest bus number that can be asked about.
pub fn last_bus() -> u8 {
    arch::pci::last_bus()
}

/// Reads 32 bits at `offset`, which is rounded down to a multiple of 4. All ones where there is nothing.
pub fn read_u32(at: Address, offset: u16) -> u32 {
    if at.device > 31 || at.function > 7 || offset > 0xfff {
        return u32::MAX;
    }
    arch::pci::read(at, offset & !3)
}

/// Reads 16 bits at `offset`, rounded down to a multiple of 2.
pub fn read_u16(at: Address, offset: u16) -> u16 {
    (read_u32(at, offset) >> ((offset & 2) * 8)) as u16
}

/// Reads 8 bits.
pub fn read_u8(at: Address, offset: u16) -> u8 {
    (read_u32(at, offset) >> ((offset & 3) * 8)) as u8
}

/// Writes 16 bits beside which nothing reacts to being written as it was.
fn write_u16(at: Address, offset: u16, value: u16, keep_mask: u32) {
    let shift = (offset & 2) * 8;
    let old = arch::pci::read(at, offset & !3) & keep_mask & !(0xffff << shift);
    arch::pci::write(at, offset & !3, old | u32::from(value) << shift);
}

/// Lets the function answer, or act too, and keeps it from using its interrupt line.
pub fn enable(at: Address, what: Enable) {
    let _lock = CHANGE.lock();
    if read_u16(at, 0) == u16::MAX {
        return;
    }
    let master = if what == Enable::BusMaster { COMMAND_MASTER } else { 0 };
    let command = read_u16(at, COMMAND) | COMMAND_IO | COMMAND_MEMORY | COMMAND_NO_INTX | master;
    // The status register beside it clears what is written as one.
    write_u16(at, COMMAND, command, 0);
}

/// Switches message-signalled interrupts on; `capability` is where its MSI-X capability begins.
pub fn enable_msix(at: Address, capability: u8) -> bool {
    let _lock = CHANGE.lock();
    let offset = u16::from(capability & !3);
    if offset < 0x40 || read_u8(at, offset) != CAPABILITY_MSIX {
        return false;
    }
    let control = read_u16(at, offset + MSIX_CONTROL);
    write_u16(at, offset + MSIX_CONTROL, (control | MSIX_ENABLE) & !MSIX_MASK_ALL, u32::MAX);
    true
}

/// Keeps the function from reading and writing memory and from sending messages: nobody drives it any more.
pub fn disable(at: Address) {
    let _lock = CHANGE.lock();
    if read_u16(at, 0) == u16::MAX {
        return;
    }
    let command = read_u16(at, COMMAND) & !COMMAND_MASTER;
    write_u16(at, COMMAND, command, 0);
}

/// Switches message-signalled interrupts off; `capability` is where its MSI-X capability begins.
pub fn disable_msix(at: Address, capability: u8) {
    let _lock = CHANGE.lock();
    let offset = u16::from(capability & !3);
    if offset >= 0x40 && read_u8(at, offset) == CAPABILITY_MSIX {
        let control = read_u16(at, offset + MSIX_CONTROL);
        write_u16(at, offset + MSIX_CONTROL, control & !MSIX_ENABLE, u32::MAX);
    }
}

/// Base address register `idx` (0 to 5), by the dance of writing ones; the function does not answer meanwhile.
///
/// For functions that no driver uses yet. `None`: there is none, or it is the upper half of another.
pub fn bar(at: Address, idx: u8) -> Option<Bar> {
    let nr_bars = match read_u8(at, HEADER_TYPE) & 0x7f {
        0 => 6,
        1 => 2,
        _ => 0,
    };
    if idx >= nr_bars {
        return None;
    }
    let _lock = CHANGE.lock();
    let command = read_u16(at, COMMAND);
    write_u16(at, COMMAND, command & !(COMMAND_IO | COMMAND_MEMORY), 0);
    let found = probe(at, BAR0 + 4 * u16::from(idx), idx + 1 < nr_bars);
    write_u16(at, COMMAND, command, 0);
    found
}

fn probe(at: Address, offset: u16, has_next: bool) -> Option<Bar> {
    let size = |offset: u16| {
        let old = arch::pci::read(at, offset);
        arch::pci::write(at, offset, u32::MAX);
        let ones = arch::pci::read(at, offset);
        arch::pci::write(at, offset, old);
        (old, ones)
    };
    let (low, mut mask) = size(offset);
    let is_memory = mask & 1 == 0;
    let is_64bit = is_memory && mask >> 1 & 3 == 2 && has_next;
    mask &= if is_memory { !0xf } else { !3 };
    let (high, high_mask) = if is_64bit { size(offset + 4) } else { (0, u32::MAX) };
    let mut mask = u64::from(high_mask) << 32 | u64::from(mask);
    if !is_memory {
        mask |= 0xffff_0000;
    }
    let len = (!mask).wrapping_add(1);
    if mask == u64::MAX << 32 || len == 0 || !len.is_power_of_two() {
        return None;
    }
    let flags = if is_memory { 0xf } else { 3 };
    let base = u64::from(high) << 32 | u64::from(low & !flags);
    Some(Bar { is_memory, is_prefetchable: is_memory && low & 8 != 0, is_64bit, base, len })
}
