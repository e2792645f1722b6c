//! From a virtio device to ports.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::cpu::CpuId;
use hal::sync::SpinLock;
use virtio::{Device, Features, Release, Transport};

use crate::file;
use crate::hub::{self, Hub, Lane};
use crate::message::Answer;
use crate::port::Port;

/// Name below /sys/bus/virtio/drivers.
const NAME: &str = "virtio_console";
/// Major number of /dev/vport*; Linux gives each device one of those that are free.
pub(crate) const MAJOR: u32 = 248;
/// Minor numbers of a device.
pub(crate) const MINORS: u32 = 64;
/// Ports of a device at most.
const MAX_PORTS: u32 = 31;
/// Descriptors of a queue at most.
const MAX_QUEUE_SIZE: u16 = 64;

// Feature bits.
const SIZE: u32 = 0;
const MULTIPORT: u32 = 1;
/// Where the configuration has the number of ports.
const NR_PORTS: usize = 4;

static DRIVER: virtio::PciDriver =
    virtio::PciDriver { name: "virtio-pci-console", virtio_name: NAME, kind: virtio::kind::CONSOLE, attach };

type Handler = Box<dyn Fn() + Send + Sync>;

static HUBS: SpinLock<Vec<Arc<Hub>>> = SpinLock::new("virtio.console.hubs", Vec::new());

/// Takes all consoles on the PCI bus. Call once at boot, when terminals can be added.
pub fn register() {
    if let Err(errno) =
        vfs::dev::register_chrdev(MAJOR, 0..1 << 20, "virtio-portsdev", Arc::new(file::Driver))
    {
        log::error!("virtio_console: {errno}");
    }
    pci::register(&DRIVER);
}

/// The port with this minor number.
pub(crate) fn find(minor: u32) -> Option<Arc<Port>> {
    let hub = HUBS.lock().iter().find(|hub| hub.index == minor / MINORS).cloned()?;
    hub.port(minor % MINORS)
}

/// Uses a virtio console; gives how it is let go. `ENODEV`, `ENOMEM`, `ENOSPC`: it cannot be.
pub fn attach(transport: Box<dyn Transport>) -> Result<Release> {
    // Interrupts hand their work over, and cannot start the first worker.
    sched::workqueue::init();
    let wanted = 1 << SIZE | 1 << MULTIPORT | (Features::INDIRECT | Features::EVENT_IDX).bits();
    let device = Arc::new(Device::new(transport, wanted)?);
    let is_multiport = device.has(MULTIPORT);
    let nr_ports = if is_multiport { device.config_u32(NR_PORTS).clamp(1, MAX_PORTS) } else { 1 };
    let hub = {
        let mut hubs = HUBS.lock();
        let is_free = |index: &u32| hubs.iter().all(|hub| hub.index != *index);
        let index = (0..u32::MAX).find(is_free).unwrap_or(u32::MAX);
        let hub = Hub::new(index, device.transport().parent(), nr_ports as usize, is_multiport);
        hubs.push(hub.clone());
        hub
    };
    let bus_index = virtio::BusIndex::take();
    let started = start(&device, &hub, nr_ports, &bus_index);
    let release: Release = Box::new(move || {
        HUBS.lock().retain(|known| !Arc::ptr_eq(known, &hub));
        device.reset();
        hub.give_up();
        device.let_go();
        drop(bus_index);
    });
    match started {
        Ok(()) => Ok(release),
        Err(errno) => {
            release();
            Err(errno)
        }
    }
}

/// Makes queue `idx`.
fn make_queue(device: &Arc<Device>, lane: &Lane, idx: u32, name: &str, handler: Handler) -> Result<()> {
    let name = alloc::format!("{name}.{idx}");
    let mut queue = device.queue(idx as u16, MAX_QUEUE_SIZE, &name, CpuId(0), handler)?;
    queue.enable_interrupt();
    *lane.lock() = Some(queue);
    Ok(())
}

/// Makes the queues of port `id`.
fn make_port_queues(device: &Arc<Device>, hub: &Arc<Hub>, id: u32, name: &str) -> Result<()> {
    let Some(lanes) = hub.lanes(id) else { return Ok(()) };
    // The queues for messages come behind those of the first port.
    let first = if id == 0 { 0 } else { 2 * id + 2 };
    let (input, output) = (hub.clone(), hub.clone());
    let received = move || {
        if let Some(port) = input.port(id) {
            port.received();
        }
    };
    let sent = move || {
        if let Some(port) = output.port(id) {
            port.sent();
        }
    };
    make_queue(device, &lanes.rx, first, name, Box::new(received))?;
    make_queue(device, &lanes.tx, first + 1, name, Box::new(sent))
}

fn start(device: &Arc<Device>, hub: &Arc<Hub>, nr_ports: u32, bus_index: &virtio::BusIndex) -> Result<()> {
    let name = alloc::format!("virtio{bus_index}");
    let config = hub.clone();
    let changed = Box::new(move || config.config_changed());
    device.transport().set_config_handler(&alloc::format!("{name}-config"), changed)?;
    (0..nr_ports).try_for_each(|id| make_port_queues(device, hub, id, &name))?;
    if let Some(lanes) = hub.message_lanes() {
        let (messages, output) = (hub.clone(), hub.clone());
        make_queue(device, &lanes.rx, 2, &name, Box::new(move || messages.messages_came()))?;
        let sent = move || {
            if let Some(lanes) = output.message_lanes() {
                while hub::take(&lanes.tx).is_some() {}
            }
        };
        make_queue(device, &lanes.tx, 3, &name, Box::new(sent))?;
    }
    device.start();
    log::info!("virtio_console {name}: {nr_ports} ports at {}", hub.parent);
    if let Some(lanes) = hub.message_lanes() {
        hub.fill(&lanes.rx)?;
        hub.tell(u32::MAX, Answer::DeviceReady, true);
        return Ok(());
    }
    hub.add_port(0)?;
    let port = hub.port(0).ok_or(Errno::ENODEV)?;
    port.host_opened(true);
    port.make_console()?;
    if device.has(SIZE) {
        let size = hub::read_size(device);
        port.resize(size.ws_col, size.ws_row);
    }
    Ok(())
}
