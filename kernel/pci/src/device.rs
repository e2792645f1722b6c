//! One function: its identity, windows and capabilities.

use alloc::vec::Vec;

use hal::PhysAddr;
use hal::io::{ClaimError, Mmio};
use hal::pci::{self, Address, Bar, Enable};
use hal::sync::SpinLock;

use crate::bus::Release;

/// A PCI function.
#[derive(Debug)]
pub struct Device {
    address: Address,
    /// Vendor and device.
    pub id: (u16, u16),
    /// Subsystem's vendor and device.
    pub subsystem: (u16, u16),
    /// Base class, sub-class, interface.
    pub class: u32,
    /// Revision.
    pub revision: u8,
    /// The line that the firmware wrote down.
    pub irq: u8,
    bars: [Option<Bar>; 6],
    capabilities: Vec<Capability>,
    driver: SpinLock<Option<Binding>>,
}

/// Which driver has a function, and how it lets go of it, once it is set up.
struct Binding {
    name: &'static str,
    release: Option<Release>,
}

impl core::fmt::Debug for Binding {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name)
    }
}

/// A capability: what it is and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its kind.
    pub id: u8,
    /// Where in configuration space.
    pub offset: u8,
}

const STATUS: u16 = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const CLASS: u16 = 0x08;
const SUBSYSTEM: u16 = 0x2c;
const CAPABILITIES: u16 = 0x34;
const INTERRUPT_LINE: u16 = 0x3c;
const HEADER_TYPE: u16 = 0x0e;
/// More cannot be in 192 bytes of at least 4 each.
const MAX_CAPABILITIES: usize = 48;

impl Device {
    pub(crate) fn read(address: Address) -> Device {
        let class = pci::read_u32(address, CLASS);
        let has_subsystem = pci::read_u8(address, HEADER_TYPE) & 0x7f == 0;
        let subsystem = if has_subsystem { pci::read_u32(address, SUBSYSTEM) } else { 0 };
        let mut bars = [None; 6];
        let mut idx = 0;
        while idx < 6 {
            let bar = pci::bar(address, idx);
            bars[usize::from(idx)] = bar;
            idx += if bar.is_some_and(|bar| bar.is_64bit) { 2 } else { 1 };
        }
        Device {
            address,
            id: (pci::read_u16(address, 0), pci::read_u16(address, 2)),
            subsystem: (subsystem as u16, (subsystem >> 16) as u16),
            class: class >> 8,
            revision: class as u8,
            irq: pci::read_u8(address, INTERRUPT_LINE),
            bars,
            capabilities: read_capabilities(address),
            driver: SpinLock::new("pci.driver", None),
        }
    }

    /// Where it is.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Its base address registers.
    pub fn bars(&self) -> &[Option<Bar>; 6] {
        &self.bars
    }

    /// Its capabilities, in the order of the list.
    pub fn capabilities(&self) -> &[Capability] {
        &self.capabilities
    }

    /// The driver that has it.
    pub fn driver(&self) -> Option<&'static str> {
        self.driver.lock().as_ref().map(|binding| binding.name)
    }

    pub(crate) fn bind(&self, driver: &'static str) -> bool {
        let mut slot = self.driver.lock();
        if slot.is_some() {
            return false;
        }
        *slot = Some(Binding { name: driver, release: None });
        true
    }

    /// Notes how its driver lets go of it.
    pub(crate) fn keep(&self, release: Release) {
        if let Some(binding) = self.driver.lock().as_mut() {
            binding.release = Some(release);
        }
    }

    /// Takes it from its driver, if it has one. May sleep.
    pub(crate) fn release(&self) {
        let release = self.driver.lock().as_mut().and_then(|binding| binding.release.take());
        if let Some(release) = release {
            release();
            self.disable();
        }
        // What no driver had switched on stays as the firmware has it, bridges above all: nobody would switch it on again.
        self.unbind();
    }

    /// Is it a bridge behind which `other` is?
    pub(crate) fn leads_to(&self, other: Address) -> bool {
        const SECONDARY_BUS: u16 = 0x19;
        const SUBORDINATE_BUS: u16 = 0x1a;
        if pci::read_u8(self.address, HEADER_TYPE) & 0x7f != 1 || other == self.address {
            return false;
        }
        let first = pci::read_u8(self.address, SECONDARY_BUS);
        first != 0 && (first..=pci::read_u8(self.address, SUBORDINATE_BUS)).contains(&other.bus)
    }

    pub(crate) fn unbind(&self) {
        *self.driver.lock() = None;
    }

    /// Lets it answer at its addresses and master the bus; from here on the driver keeps rule D1 of `hal::dma`.
    pub fn enable(&self) {
        pci::enable(self.address, Enable::BusMaster);
    }

    /// Keeps it from mastering the bus: it touches no memory from here on.
    pub fn disable(&self) {
        pci::disable(self.address);
    }

    /// Maps `len` bytes at `offset` of base address register `idx` for the driver `name`.
    pub fn map_bar(&self, idx: u8, offset: u64, len: usize, name: &'static str) -> Result<Mmio, ClaimError> {
        let bar = self.bars.get(usize::from(idx)).copied().flatten().ok_or(ClaimError::Forbidden)?;
        let end = offset.checked_add(len as u64).ok_or(ClaimError::Forbidden)?;
        if !bar.is_memory || bar.base == 0 || end > bar.len {
            return Err(ClaimError::Forbidden);
        }
        let phys = bar.base.checked_add(offset).ok_or(ClaimError::Forbidden)?;
        Mmio::claim(PhysAddr(phys), len, name)
    }

    /// The first 256 bytes of its configuration space, as /sys shows them.
    pub fn config(&self) -> [u8; 256] {
        let mut bytes = [0; 256];
        for (at, word) in (0..).step_by(4).zip(bytes.chunks_exact_mut(4)) {
            word.copy_from_slice(&pci::read_u32(self.address, at).to_le_bytes());
        }
        bytes
    }
}

fn read_capabilities(address: Address) -> Vec<Capability> {
    let mut list = Vec::new();
    if pci::read_u16(address, STATUS) & STATUS_CAPABILITIES == 0 {
        return list;
    }
    let mut offset = pci::read_u8(address, CAPABILITIES) & !3;
    while offset >= 0x40 && list.len() < MAX_CAPABILITIES {
        let word = pci::read_u16(address, offset.into());
        list.push(Capability { id: word as u8, offset });
        offset = (word >> 8) as u8 & !3;
    }
    list
}

impl core::fmt::Display for Device {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: [{:04x}:{:04x}] class {:#08x}", self.address, self.id.0, self.id.1, self.class)
    }
}
