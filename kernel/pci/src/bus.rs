//! Enumeration, and the match of functions and drivers.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Result;
use hal::pci::{self, Address};
use sched::Mutex;

use crate::device::Device;

/// Makes functions work.
pub trait Driver: Sync {
    /// Its name below /sys/bus/pci/drivers.
    fn name(&self) -> &'static str;
    /// Is it for this function?
    fn matches(&self, device: &Device) -> bool;
    /// Takes the function into use. On an error nobody has it.
    fn probe(&self, device: &Arc<Device>) -> Result<()>;
}

struct Bus {
    devices: Vec<Arc<Device>>,
    drivers: Vec<&'static dyn Driver>,
}

static BUS: Mutex<Bus> = Mutex::new("pci.bus", Bus { devices: Vec::new(), drivers: Vec::new() });

/// Header offsets.
const VENDOR: u16 = 0;
const HEADER_TYPE: u16 = 0x0e;
const SECONDARY_BUS: u16 = 0x19;
const HEADER_MULTIFUNCTION: u8 = 0x80;
const HEADER_BRIDGE: u8 = 1;

/// Finds all functions. Call once at boot, before drivers register; gives how many there are.
pub fn scan() -> usize {
    let mut found = Vec::new();
    let mut visited = [false; 256];
    scan_bus(0, &mut visited, &mut found);
    let devices: Vec<_> = found.into_iter().map(|at| Arc::new(Device::read(at))).collect();
    for device in &devices {
        log::info!("pci {device}");
    }
    let count = devices.len();
    BUS.lock().devices = devices;
    count
}

/// Adds the functions on `bus` and on those behind its bridges. `visited` ends loops that broken firmware makes.
fn scan_bus(bus: u8, visited: &mut [bool; 256], found: &mut Vec<Address>) {
    if bus > pci::last_bus() || core::mem::replace(&mut visited[usize::from(bus)], true) {
        return;
    }
    for device in 0..32 {
        for function in 0..8 {
            let at = Address { bus, device, function };
            if pci::read_u16(at, VENDOR) == u16::MAX {
                if function == 0 {
                    break;
                }
                continue;
            }
            found.push(at);
            let header = pci::read_u8(at, HEADER_TYPE);
            if header & 0x7f == HEADER_BRIDGE {
                scan_bus(pci::read_u8(at, SECONDARY_BUS), visited, found);
            }
            if function == 0 && header & HEADER_MULTIFUNCTION == 0 {
                break;
            }
        }
    }
}

/// All functions, in the order of the walk.
pub fn devices() -> Vec<Arc<Device>> {
    BUS.lock().devices.clone()
}

/// Offers `driver` all functions that it matches.
pub fn register(driver: &'static dyn Driver) {
    let devices = {
        let mut bus = BUS.lock();
        bus.drivers.push(driver);
        bus.devices.clone()
    };
    for device in devices.iter().filter(|device| driver.matches(device)) {
        if !device.bind(driver.name()) {
            continue;
        }
        if let Err(errno) = driver.probe(device) {
            device.unbind();
            log::warn!("{}: {}: {errno}", driver.name(), device.address());
        }
    }
}
