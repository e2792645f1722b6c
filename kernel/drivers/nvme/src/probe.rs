//! From a PCI function to disks.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use block::{Disk, DiskInfo, Limits};
use hal::cpu::CpuId;
use hal::irq::Msi;
use hal::sync::IrqLock;
use pci::{Msix, Release};

use crate::controller::{Capabilities, Controller, DOORBELLS};
use crate::driver::{Drive, Shared};
use crate::identify::{self, Namespace};
use crate::plan::LIST_ENTRIES;
use crate::queue::Queue;

/// Name below /sys/bus/pci/drivers.
const NAME: &str = "nvme";
/// Class: mass storage, non-volatile memory, NVMe.
const CLASS: u32 = 0x01_08_02;
/// The major of disks with numbers of their own (Linux: `BLOCK_EXT_MAJOR`).
const MAJOR: u32 = 259;
/// Minors of a disk: itself and 15 partitions.
const MINORS: u32 = 16;
/// Commands of a queue at most.
const MAX_DEPTH: u16 = 128;
/// Namespaces that are looked at.
const MAX_NAMESPACES: usize = 64;

struct PciDriver;

static DRIVER: PciDriver = PciDriver;

/// Numbers of controllers that are in use, a bit each.
static NUMBERS: IrqLock<u64> = IrqLock::new("nvme.numbers", 0);

/// The number of a controller, `n` in `nvme<n>`: its own as long as somebody has one of its disks.
pub(crate) struct Number(pub(crate) u32);

impl Number {
    /// The smallest that is free. `ENOSPC`.
    fn take() -> Result<Number> {
        let mut used = NUMBERS.lock();
        let free = used.trailing_ones();
        *used |= 1u64.checked_shl(free).ok_or(Errno::ENOSPC)?;
        Ok(Number(free))
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        *NUMBERS.lock() &= !(1 << self.0);
    }
}

/// What a controller needs that nobody but its driver has.
struct Hardware {
    controller: Arc<Controller>,
    shared: Arc<Shared>,
    /// Which interrupt is which message.
    msix: Msix,
    messages: Vec<Msi>,
}

impl Hardware {
    /// Makes the controller know the queues, each with a message to the CPU that mostly submits to it. Sleeps.
    fn make_queues(&mut self) -> Result<()> {
        for (hw, queue) in self.shared.queues.iter().enumerate() {
            let (id, target) = (hw as u16 + 1, self.shared.clone());
            let handler = Box::new(move || target.complete(hw));
            let name = alloc::format!("{}q{id}", self.shared.name);
            let msi = hal::irq::request_msi(&name, CpuId(hw as u32), handler).map_err(|_| Errno::ENOSPC)?;
            let is_set = self.msix.set(id, msi.message());
            self.messages.push(msi);
            if !is_set {
                return Err(Errno::ENOSPC);
            }
            self.controller.create_queues(id, queue, id)?;
            queue.lock().connect(&self.controller, id);
        }
        Ok(())
    }

    /// Lets go of the controller: afterwards its registers are free, whoever has its disks open. Sleeps.
    fn release(self, device: &pci::Device) {
        self.shared.disks.remove_all();
        self.shared.settle();
        // A controller may take it ill to be stopped with commands under way (QEMU's does).
        let nr_made = self.messages.len() as u16;
        if let Err(errno) = (1..=nr_made).try_for_each(|id| self.controller.delete_queues(id)) {
            log::warn!("nvme {}: the controller keeps its queues: {errno}", self.shared.name);
        }
        self.controller.shut_down();
        if self.controller.stop().is_err() {
            log::error!("nvme {}: the controller does not stop", self.shared.name);
        }
        // Whether it stopped or not: the queues' memory goes.
        device.disable();
        self.shared.disconnect();
        while Arc::strong_count(&self.controller) > 1 {
            let _ = sched::sleep_until(hal::time::now_ns() + 100_000, sched::Interruptible::No);
        }
        // Messages are off before they are anybody else's.
        drop(self.msix);
        drop(self.messages);
    }
}

impl pci::Driver for PciDriver {
    fn name(&self) -> &'static str {
        NAME
    }

    fn matches(&self, device: &pci::Device) -> bool {
        device.class == CLASS
    }

    fn probe(&self, device: &Arc<pci::Device>) -> Result<Release> {
        let hardware = start(device, Number::take()?)?;
        let shared = hardware.shared.clone();
        let parent = alloc::format!("pci0000:00/{}/nvme/{}", device.address(), shared.name);
        match hardware.controller.identify(identify::ACTIVE_NAMESPACES, 0) {
            Ok(list) => {
                let ids = list.chunks_exact(4).filter_map(|id| id.try_into().ok().map(u32::from_le_bytes));
                for nsid in ids.take_while(|nsid| *nsid != 0).take(MAX_NAMESPACES) {
                    if let Err(errno) = add_namespace(&hardware, nsid, &parent) {
                        log::warn!("nvme {}: namespace {nsid} cannot be used: {errno}", shared.name);
                    }
                }
            }
            Err(errno) => log::warn!("nvme {}: no list of namespaces: {errno}", shared.name),
        }
        let device = device.clone();
        Ok(Box::new(move || hardware.release(&device)))
    }
}

/// Takes all NVMe controllers on the PCI bus. Call once at boot.
pub fn register() {
    pci::register(&DRIVER);
}

/// Starts the controller `device` and makes its queues.
fn start(device: &Arc<pci::Device>, number: Number) -> Result<Hardware> {
    device.enable();
    let nr_cpus = hal::cpu::nr_cpus().clamp(1, 64) as u16;
    let registers = {
        let map = |len: usize| device.map_bar(0, 0, len, NAME).map_err(|_| Errno::EBUSY);
        let stride = Capabilities::read(&map(DOORBELLS)?)?.stride();
        map(DOORBELLS + 2 * (usize::from(nr_cpus) + 1) * stride)?
    };
    let controller = Arc::new(Controller::start(registers)?);
    let msix = Msix::enable(device, NAME).ok_or(Errno::ENODEV)?;
    let about = identify::Controller::parse(&*controller.identify(identify::CONTROLLER, 0)?);
    let nr_queues = controller.set_nr_queues(nr_cpus)?.min(msix.len().saturating_sub(1)).max(1);
    let depth = controller.max_depth.min(MAX_DEPTH);
    let mut queues = Vec::new();
    for _ in 0..nr_queues {
        queues.push(IrqLock::new("nvme.queue", Queue::new(depth)?));
    }
    let shared = Shared::new(controller.clone(), about, number, queues);
    let mut hardware = Hardware { controller, shared, msix, messages: Vec::new() };
    if let Err(errno) = hardware.make_queues() {
        hardware.release(device);
        return Err(errno);
    }
    let shared = &hardware.shared;
    log::info!(
        "nvme {}: {} {}, {nr_queues} queues of {depth}",
        shared.name,
        shared.about.model,
        shared.about.firmware
    );
    Ok(hardware)
}

fn limits(shared: &Shared, namespace: Namespace) -> Limits {
    let about = &shared.about;
    let block = namespace.block_size;
    let sectors_of_block = block / 512;
    let max_pages = about.max_pages.min(LIST_ENTRIES as u32);
    let capacity = shared.queues.iter().map(|queue| queue.lock().capacity()).min().unwrap_or(0);
    Limits {
        logical_block_size: block,
        // Entries of lists of places count in units of 4 bytes (NVM Express 1.4, 4.3).
        dma_alignment: 4,
        physical_block_size: block,
        io_min: block,
        // One page less, as the first may begin inside.
        max_sectors: (max_pages.max(2) - 1) * (hal::PAGE_SIZE as u32 / 512),
        max_segments: max_pages.max(2) as u16 - 1,
        // Each makes one command more; a request has not to wait until it has the queue to itself.
        max_gaps: (capacity / 2) as u16,
        max_discard_sectors: if about.has_discard { u32::MAX / block * sectors_of_block } else { 0 },
        discard_granularity: if about.has_discard { block } else { 0 },
        max_write_zeroes_sectors: if about.has_write_zeroes { (1 << 16) * sectors_of_block } else { 0 },
        has_volatile_cache: about.has_volatile_cache,
        has_fua: about.has_volatile_cache,
        ..Limits::default()
    }
}

fn add_namespace(hardware: &Hardware, nsid: u32, parent: &str) -> Result<()> {
    let shared = &hardware.shared;
    let answer = hardware.controller.identify(identify::NAMESPACE, nsid)?;
    let namespace = Namespace::parse(&answer).ok_or(Errno::EINVAL)?;
    let sector_shift = namespace.block_size.trailing_zeros() - 9;
    let drive = Arc::new(Drive { shared: shared.clone(), nsid, sector_shift });
    let name: String = alloc::format!("{}n{nsid}", shared.name);
    let info = DiskInfo {
        name: name.clone(),
        major: MAJOR,
        first_minor: block::next_index(MAJOR, MINORS).checked_mul(MINORS).ok_or(Errno::ENOSPC)?,
        minors: MINORS,
        parent: parent.into(),
        capacity: namespace.nr_blocks << sector_shift,
        is_read_only: false,
        nr_queues: shared.queues.len(),
        limits: limits(shared, namespace),
    };
    let disk = Disk::new(info, drive);
    shared.disks.add(&disk);
    let whole = block::add_disk(&disk)?;
    log::info!("nvme {name}: {} {}-byte blocks", namespace.nr_blocks, namespace.block_size);
    if let Err(errno) = block::scan_partitions(&whole) {
        log::warn!("{name}: partition table: {errno}");
    }
    Ok(())
}
