//! MSI-X: a table in the device's memory says which message each of its interrupts is.
//!
//! Source: PCI Local Bus Specification 3.0, ch. 6.8.2.

use hal::io::Mmio;
use hal::irq::MsiMessage;
use hal::pci::{self, Address};

use crate::device::Device;

const CAPABILITY: u8 = 0x11;
const ENTRY_BYTES: usize = 16;
const ENTRY_MASKED: u32 = 1;

/// The message table of a function. Messages are off after it was dropped.
#[derive(Debug)]
pub struct Msix {
    table: Mmio,
    len: u16,
    address: Address,
    capability: u8,
}

impl Drop for Msix {
    fn drop(&mut self) {
        pci::disable_msix(self.address, self.capability);
    }
}

impl Msix {
    /// Maps the table of `device`, masks all its entries and switches messages on. `None`: it has none.
    pub fn enable(device: &Device, name: &'static str) -> Option<Msix> {
        let capability = device.capabilities().iter().find(|cap| cap.id == CAPABILITY)?.offset;
        let at = device.address();
        let len = (pci::read_u16(at, u16::from(capability) + 2) & 0x7ff) + 1;
        let place = pci::read_u32(at, u16::from(capability) + 4);
        let bytes = usize::from(len) * ENTRY_BYTES;
        let table = device.map_bar((place & 7) as u8, u64::from(place & !7), bytes, name).ok()?;
        let msix = Msix { table, len, address: at, capability };
        for idx in 0..usize::from(len) {
            msix.table.write_u32(idx * ENTRY_BYTES + 12, ENTRY_MASKED);
        }
        pci::enable_msix(at, capability).then_some(msix)
    }

    /// Number of entries.
    pub fn len(&self) -> u16 {
        self.len
    }

    /// Never: a table has at least one entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lets interrupt `idx` of the device be `message`. `false`: there is no such entry.
    pub fn set(&self, idx: u16, message: MsiMessage) -> bool {
        if idx >= self.len {
            return false;
        }
        let base = usize::from(idx) * ENTRY_BYTES;
        self.table.write_u32(base + 12, ENTRY_MASKED);
        self.table.write_u32(base, message.address as u32);
        self.table.write_u32(base + 4, (message.address >> 32) as u32);
        self.table.write_u32(base + 8, message.data);
        self.table.write_u32(base + 12, 0);
        true
    }
}
