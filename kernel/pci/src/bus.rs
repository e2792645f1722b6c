//! Enumeration, and the match of functions and drivers.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::pci::{self, Address};
use hal::sync::Once;
use sched::Mutex;

use crate::device::Device;

/// Makes functions work.
pub trait Driver: Sync {
    /// Its name below /sys/bus/pci/drivers.
    fn name(&self) -> &'static str;
    /// Is it for this function?
    fn matches(&self, device: &Device) -> bool;
    /// Takes the function into use; gives how to let go of it. On an error nobody has it.
    fn probe(&self, device: &Arc<Device>) -> Result<Release>;
}

/// Lets go of a function. Afterwards it touches no memory and sends no messages, and its registers are free to be claimed
/// again, whoever still has what the driver made of it. May sleep.
pub type Release = Box<dyn FnOnce() + Send>;

/// What happened to a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It came.
    Added,
    /// It went.
    Removed,
}

struct Bus {
    devices: Vec<Arc<Device>>,
    drivers: Vec<&'static dyn Driver>,
}

static BUS: Mutex<Bus> = Mutex::new("pci.bus", Bus { devices: Vec::new(), drivers: Vec::new() });

/// One removal or rescan at a time. Taken before [`BUS`].
static CHANGING: Mutex<()> = Mutex::new("pci.changing", ());

type Watch = Box<dyn Fn(&Arc<Device>, Change) + Send + Sync>;

static WATCH: Once<Watch> = Once::new();

/// Header offsets.
const VENDOR: u16 = 0;
const HEADER_TYPE: u16 = 0x0e;
const SECONDARY_BUS: u16 = 0x19;
const HEADER_MULTIFUNCTION: u8 = 0x80;
const HEADER_BRIDGE: u8 = 1;

/// Finds all functions. Call once at boot, before drivers register; gives how many there are.
pub fn scan() -> usize {
    let found = find_new();
    let count = found.len();
    BUS.lock().devices = found;
    count
}

/// The functions that are there and not known yet.
fn find_new() -> Vec<Arc<Device>> {
    let mut found = Vec::new();
    let mut visited = [false; 256];
    scan_bus(0, &mut visited, &mut found);
    let known: Vec<Address> = BUS.lock().devices.iter().map(|device| device.address()).collect();
    found.retain(|at| !known.contains(at));
    let devices: Vec<_> = found.into_iter().map(|at| Arc::new(Device::read(at))).collect();
    for device in &devices {
        log::info!("pci {device}");
    }
    devices
}

/// Finds functions that came or were removed before, and gives them to their drivers (/sys/bus/pci/rescan). May sleep.
pub fn rescan() {
    let _one = CHANGING.lock();
    for device in find_new() {
        let drivers = {
            let mut bus = BUS.lock();
            // In the order of a walk, as at boot.
            let at = bus.devices.partition_point(|known| known.address() < device.address());
            bus.devices.insert(at, device.clone());
            bus.drivers.clone()
        };
        tell(&device, Change::Added);
        for driver in drivers.into_iter().filter(|driver| driver.matches(&device)) {
            offer(driver, &device);
        }
    }
}

/// Takes `device`, and what is behind it if it is a bridge, from its driver and forgets it
/// (/sys/bus/pci/devices/ADDRESS/remove). May sleep.
///
/// `ENODEV`: somebody else was faster.
pub fn remove(device: &Arc<Device>) -> Result<()> {
    let _one = CHANGING.lock();
    let mut gone: Vec<Arc<Device>> =
        devices().into_iter().filter(|other| device.leads_to(other.address())).collect();
    gone.push(device.clone());
    let mut result = Err(Errno::ENODEV);
    for device in gone {
        if !BUS.lock().devices.iter().any(|known| Arc::ptr_eq(known, &device)) {
            continue;
        }
        device.release();
        BUS.lock().devices.retain(|known| !Arc::ptr_eq(known, &device));
        tell(&device, Change::Removed);
        log::info!("pci {}: removed", device.address());
        result = Ok(());
    }
    result
}

/// Calls `watch` for each function that comes or goes after boot. May sleep.
pub fn on_change(watch: impl Fn(&Arc<Device>, Change) + Send + Sync + 'static) {
    WATCH.call_once(|| Box::new(watch));
}

fn tell(device: &Arc<Device>, change: Change) {
    if let Some(watch) = WATCH.get() {
        watch(device, change);
    }
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
        offer(driver, device);
    }
}

fn offer(driver: &'static dyn Driver, device: &Arc<Device>) {
    if !device.bind(driver.name()) {
        return;
    }
    match driver.probe(device) {
        Ok(release) => device.keep(release),
        Err(errno) => {
            // Whatever it had switched on.
            device.disable();
            device.unbind();
            log::warn!("{}: {}: {errno}", driver.name(), device.address());
        }
    }
}
