//! Virtio over PCI, modern devices (VIRTIO 1.2, ch. 4.1).

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::cpu::CpuId;
use hal::io::Mmio;
use hal::irq::Msi;
use hal::sync::{IrqLock, Once, SpinLock};
use pci::Msix;

use crate::device::{Handler, QueueSetup, SharedHandler, Transport, no_interrupt};

/// The vendor of virtio functions.
pub const VENDOR: u16 = 0x1af4;
/// Functions of the modern kind: this + device type.
const MODERN: u16 = 0x1040;
/// Functions that are legacy, too, by their type.
const TRANSITIONAL: [(u16, u32); 6] =
    [(0x1000, 1), (0x1001, 2), (0x1002, 5), (0x1003, 3), (0x1005, 4), (0x1009, 9)];

const CAPABILITY_VENDOR: u8 = 0x09;
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;

// The common configuration.
const FEATURE_SELECT: usize = 0;
const FEATURE: usize = 4;
const GUEST_FEATURE_SELECT: usize = 8;
const GUEST_FEATURE: usize = 12;
const CONFIG_VECTOR: usize = 16;
const STATUS: usize = 20;
const GENERATION: usize = 21;
const QUEUE_SELECT: usize = 22;
const QUEUE_SIZE: usize = 24;
const QUEUE_VECTOR: usize = 26;
const QUEUE_ENABLE: usize = 28;
const QUEUE_NOTIFY_OFFSET: usize = 30;
const QUEUE_DESCRIPTORS: usize = 32;
const QUEUE_AVAILABLE: usize = 40;
const QUEUE_USED: usize = 48;
const COMMON_LEN: usize = 56;
/// No message for this queue.
const NO_VECTOR: u16 = 0xffff;
/// What the status of a device reads as that is not there any more.
const GONE: u8 = 0xff;
/// Queues whose place for notifications is remembered.
const MAX_QUEUES: usize = 130;

struct PciTransport {
    device: Arc<pci::Device>,
    kind: u32,
    common: Mmio,
    notify: Mmio,
    notify_multiplier: u32,
    config: Option<Mmio>,
    msix: Msix,
    /// The messages that are in use, by their place in the table; also guards selected registers.
    vectors: SpinLock<Vectors>,
    /// Where to write for each queue.
    notify_at: Vec<Once<usize>>,
}

/// A device need not have an entry of its table for each queue: the last one is for all queues that come late.
#[derive(Default)]
struct Vectors {
    own: Vec<Msi>,
    shared: Option<(u16, Arc<Handlers>)>,
}

/// What runs when the shared message comes.
struct Handlers(IrqLock<Vec<SharedHandler>>);

impl Handlers {
    fn run(&self) {
        // Handlers run without the lock: they may take others.
        let next = |at: usize| self.0.lock().get(at).cloned();
        (0..).map_while(next).for_each(|handler| handler());
    }
}

/// The device type of a virtio function. `None`: it is something else.
fn pci_kind(device: &pci::Device) -> Option<u32> {
    if device.id.0 != VENDOR {
        return None;
    }
    let transitional = TRANSITIONAL.iter().find(|(id, _)| *id == device.id.1).map(|(_, kind)| *kind);
    transitional
        .or_else(|| device.id.1.checked_sub(MODERN).filter(|kind| (1..64).contains(kind)).map(u32::from))
}

/// A driver of one kind of virtio device, for [`pci::register`].
pub struct PciDriver {
    /// Name below /sys/bus/pci/drivers.
    pub name: &'static str,
    /// Name below /sys/bus/virtio/drivers.
    pub virtio_name: &'static str,
    /// One of [`crate::kind`].
    pub kind: u32,
    /// Takes a device; its errors are those of [`pci::Driver::probe`].
    pub attach: fn(Box<dyn Transport>) -> Result<pci::Release>,
}

impl pci::Driver for PciDriver {
    fn name(&self) -> &'static str {
        self.name
    }

    fn matches(&self, device: &pci::Device) -> bool {
        pci_kind(device) == Some(self.kind)
    }

    fn probe(&self, device: &Arc<pci::Device>) -> Result<pci::Release> {
        (self.attach)(probe(device, self.virtio_name)?)
    }
}

/// Where a structure of the device is: register, offset, length, and where its capability begins.
type Place = (u8, u64, usize, u8);

fn find(device: &pci::Device, kind: u8) -> Option<Place> {
    let at = device.address();
    let is_it = |cap: &&pci::Capability| {
        cap.id == CAPABILITY_VENDOR && hal::pci::read_u8(at, u16::from(cap.offset) + 3) == kind
    };
    let offset = device.capabilities().iter().find(is_it)?.offset;
    let read = |field: u16| hal::pci::read_u32(at, u16::from(offset) + field);
    Some((hal::pci::read_u8(at, u16::from(offset) + 4), read(8).into(), read(12) as usize, offset))
}

/// Makes a transport of a virtio function. `ENODEV`: it is legacy only, or has no MSI-X.
fn probe(device: &Arc<pci::Device>, name: &'static str) -> Result<Box<dyn Transport>> {
    let kind = pci_kind(device).ok_or(Errno::ENODEV)?;
    let map = |(bar, offset, len, _): Place, max: usize| {
        device.map_bar(bar, offset, len.min(max), name).map_err(|_| Errno::EBUSY)
    };
    let common = find(device, COMMON).filter(|place| place.2 >= COMMON_LEN).ok_or(Errno::ENODEV)?;
    let notify = find(device, NOTIFY).ok_or(Errno::ENODEV)?;
    device.enable();
    let notify_multiplier = hal::pci::read_u32(device.address(), u16::from(notify.3) + 16);
    let config = match find(device, DEVICE) {
        Some(place) => Some(map(place, 4096)?),
        None => None,
    };
    Ok(Box::new(PciTransport {
        common: map(common, COMMON_LEN)?,
        notify: map(notify, 1 << 20)?,
        notify_multiplier,
        config,
        msix: Msix::enable(device, name).ok_or(Errno::ENODEV)?,
        vectors: SpinLock::new("virtio.pci", Vectors::default()),
        notify_at: (0..MAX_QUEUES).map(|_| Once::new()).collect(),
        device: device.clone(),
        kind,
    }))
}

impl PciTransport {
    /// A message for `handler` on `cpu`: its number in the table. The last entry is shared by those for whom no other is
    /// left, and then runs on the CPU of the first of them.
    fn new_vector(&self, vectors: &mut Vectors, name: &str, cpu: CpuId, handler: Handler) -> Result<u16> {
        if let Some((vector, handlers)) = &vectors.shared {
            handlers.0.lock().push(Arc::from(handler));
            return Ok(*vector);
        }
        let vector = u16::try_from(vectors.own.len()).map_err(|_| Errno::ENOSPC)?;
        let is_last = vector + 1 >= self.msix.len();
        let handler: Handler = if is_last {
            let handlers = Arc::new(Handlers(IrqLock::new("virtio.pci.shared", Vec::new())));
            handlers.0.lock().push(Arc::from(handler));
            vectors.shared = Some((vector, handlers.clone()));
            Box::new(move || handlers.run())
        } else {
            handler
        };
        let msi = hal::irq::request_msi(name, cpu, handler).map_err(no_interrupt)?;
        self.msix.set(vector, msi.message());
        vectors.own.push(msi);
        Ok(vector)
    }

    fn write_u64(&self, offset: usize, value: u64) {
        self.common.write_u32(offset, value as u32);
        self.common.write_u32(offset + 4, (value >> 32) as u32);
    }
}

impl Transport for PciTransport {
    fn parent(&self) -> String {
        let at = self.device.address();
        alloc::format!("pci0000:{:02x}/{at}", 0)
    }

    fn kind(&self) -> u32 {
        self.kind
    }

    fn features(&self) -> u64 {
        self.common.write_u32(FEATURE_SELECT, 0);
        let low = self.common.read_u32(FEATURE);
        self.common.write_u32(FEATURE_SELECT, 1);
        u64::from(self.common.read_u32(FEATURE)) << 32 | u64::from(low)
    }

    fn set_features(&self, features: u64) {
        for half in 0..2 {
            self.common.write_u32(GUEST_FEATURE_SELECT, half);
            self.common.write_u32(GUEST_FEATURE, (features >> (32 * half)) as u32);
        }
    }

    fn status(&self) -> u8 {
        self.common.read_u8(STATUS)
    }

    fn set_status(&self, status: u8) {
        self.common.write_u8(STATUS, status);
        if status == 0 {
            // The device answers 0 when it has reset; a dead one must not hang us.
            let deadline_ns = hal::time::now_ns() + 1_000_000_000;
            while !matches!(self.status(), 0 | GONE) {
                if hal::time::now_ns() > deadline_ns {
                    log::error!("virtio {}: the device does not reset", self.device.address());
                    self.device.disable();
                    break;
                }
                hal::cpu::relax();
            }
        }
    }

    fn config(&self, offset: usize, width: usize) -> u32 {
        let Some(config) = &self.config else { return 0 };
        if offset.checked_add(width).is_none_or(|end| end > config.len()) {
            return 0;
        }
        match width {
            1 => config.read_u8(offset).into(),
            2 => config.read_u16(offset).into(),
            _ => config.read_u32(offset),
        }
    }

    fn set_config_u8(&self, offset: usize, value: u8) {
        if let Some(config) = self.config.as_ref().filter(|config| offset < config.len()) {
            config.write_u8(offset, value);
        }
    }

    fn generation(&self) -> u32 {
        self.common.read_u8(GENERATION).into()
    }

    fn max_queue_size(&self, idx: u16) -> u16 {
        let _lock = self.vectors.lock();
        self.common.write_u16(QUEUE_SELECT, idx);
        self.common.read_u16(QUEUE_SIZE)
    }

    fn set_queue(&self, idx: u16, setup: QueueSetup) -> Result<()> {
        let _lock = self.vectors.lock();
        self.common.write_u16(QUEUE_SELECT, idx);
        self.common.write_u16(QUEUE_SIZE, setup.size);
        self.write_u64(QUEUE_DESCRIPTORS, setup.descriptors.0);
        self.write_u64(QUEUE_AVAILABLE, setup.available.0);
        self.write_u64(QUEUE_USED, setup.used.0);
        let offset = u32::from(self.common.read_u16(QUEUE_NOTIFY_OFFSET)) as usize;
        let at = offset * self.notify_multiplier as usize;
        if !at.is_multiple_of(2) || at.checked_add(2).is_none_or(|end| end > self.notify.len()) {
            return Err(Errno::ENODEV);
        }
        self.notify_at.get(usize::from(idx)).ok_or(Errno::ENOSPC)?.call_once(|| at);
        self.common.write_u16(QUEUE_ENABLE, 1);
        Ok(())
    }

    fn set_queue_handler(&self, idx: u16, name: &str, cpu: CpuId, handler: Handler) -> Result<()> {
        let mut vectors = self.vectors.lock();
        let vector = self.new_vector(&mut vectors, name, cpu, handler)?;
        self.common.write_u16(QUEUE_SELECT, idx);
        self.common.write_u16(QUEUE_VECTOR, vector);
        if self.common.read_u16(QUEUE_VECTOR) == NO_VECTOR { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    fn set_config_handler(&self, name: &str, handler: Handler) -> Result<()> {
        let mut vectors = self.vectors.lock();
        let vector = self.new_vector(&mut vectors, name, CpuId(0), handler)?;
        self.common.write_u16(CONFIG_VECTOR, vector);
        if self.common.read_u16(CONFIG_VECTOR) == NO_VECTOR { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    fn notify(&self, idx: u16) {
        if let Some(at) = self.notify_at.get(usize::from(idx)).and_then(Once::get) {
            self.notify.write_u16(*at, idx);
        }
    }
}
