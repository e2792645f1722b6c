//! From a virtio device to a disk.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;

use abi::{Errno, Result};
use block::{Disk, DiskInfo, Limits};
use hal::cpu::CpuId;
use virtio::{BusIndex, Device, Features, MAX_PIECES, Release, Transport};

use crate::driver::VirtioBlk;

/// Name below /sys/bus/virtio/drivers.
const NAME: &str = "virtio_blk";
/// The major that Linux's dynamic numbers give this driver first.
const MAJOR: u32 = 254;
/// Minors of a disk: itself and 15 partitions.
const MINORS: u32 = 16;
/// Descriptors of a queue at most.
const MAX_QUEUE_SIZE: u16 = 256;
/// Largest request in sectors: 4 MiB, as on Linux.
const MAX_SECTORS: u32 = 8192;

// Feature bits.
const SEG_MAX: u32 = 2;
const READ_ONLY: u32 = 5;
const BLK_SIZE: u32 = 6;
const FLUSH: u32 = 9;
const TOPOLOGY: u32 = 10;
const CONFIG_WCE: u32 = 11;
const MULTI_QUEUE: u32 = 12;
const DISCARD: u32 = 13;
const WRITE_ZEROES: u32 = 14;
const WANTED: [u32; 9] =
    [SEG_MAX, READ_ONLY, BLK_SIZE, FLUSH, TOPOLOGY, CONFIG_WCE, MULTI_QUEUE, DISCARD, WRITE_ZEROES];

// Offsets in the configuration.
const CAPACITY: usize = 0;
const CONFIG_SEG_MAX: usize = 12;
const CONFIG_BLK_SIZE: usize = 20;
const PHYSICAL_EXPONENT: usize = 24;
const MIN_IO: usize = 26;
const OPT_IO: usize = 28;
const WRITEBACK: usize = 32;
const NR_QUEUES: usize = 34;
const MAX_DISCARD_SECTORS: usize = 36;
const DISCARD_ALIGNMENT: usize = 44;
const MAX_WRITE_ZEROES_SECTORS: usize = 48;
const WRITE_ZEROES_MAY_UNMAP: usize = 56;

static DRIVER: virtio::PciDriver =
    virtio::PciDriver { name: "virtio-pci-blk", virtio_name: NAME, kind: virtio::kind::BLOCK, attach };

/// Takes all block devices on the PCI bus. Call once at boot.
pub fn register() {
    pci::register(&DRIVER);
}

/// `n` as the letters behind `vd`: a to z, aa, ab, ...
fn letters(n: u32) -> String {
    let mut name = String::new();
    let mut rest = u64::from(n) + 1;
    while rest > 0 {
        rest -= 1;
        name.insert(0, char::from(b'a' + (rest % 26) as u8));
        rest /= 26;
    }
    name
}

fn limits(device: &Device) -> Limits {
    let block = if device.has(BLK_SIZE) { device.config_u32(CONFIG_BLK_SIZE) } else { 512 };
    // A nonsensical size would break every access.
    let block = if block.is_power_of_two() && (512..=4096).contains(&block) { block } else { 512 };
    let mut limits = Limits {
        logical_block_size: block,
        physical_block_size: block,
        io_min: block,
        max_sectors: MAX_SECTORS,
        max_segments: MAX_PIECES as u16,
        // Nobody knows what is behind it.
        is_rotational: true,
        ..Limits::default()
    };
    if device.has(SEG_MAX) {
        let max = device.config_u32(CONFIG_SEG_MAX).clamp(1, MAX_PIECES as u32);
        limits.max_segments = max as u16;
    } else {
        limits.max_segments = 1;
    }
    if device.has(TOPOLOGY) {
        let exponent = u32::from(device.config_u8(PHYSICAL_EXPONENT)).min(7);
        limits.physical_block_size = block << exponent;
        limits.io_min = u32::from(device.config_u16(MIN_IO)).max(1).saturating_mul(block);
        limits.io_opt = device.config_u32(OPT_IO).saturating_mul(block);
    }
    if device.has(DISCARD) {
        limits.max_discard_sectors = device.config_u32(MAX_DISCARD_SECTORS);
        limits.discard_granularity = device.config_u32(DISCARD_ALIGNMENT).saturating_mul(512).max(block);
    }
    if device.has(WRITE_ZEROES) {
        limits.max_write_zeroes_sectors = device.config_u32(MAX_WRITE_ZEROES_SECTORS);
    }
    limits.has_volatile_cache =
        if device.has(CONFIG_WCE) { device.config_u8(WRITEBACK) != 0 } else { device.has(FLUSH) };
    limits
}

/// Makes a disk of a virtio block device; gives how it is let go.
///
/// `ENODEV`, `ENOMEM`, `ENOSPC`: it cannot be used; it is reset then.
pub fn attach(transport: Box<dyn Transport>) -> Result<Release> {
    let wanted = WANTED.iter().fold(0, |bits, bit| bits | 1u64 << bit);
    let wanted = wanted | (Features::INDIRECT | Features::EVENT_IDX).bits();
    let device = Arc::new(Device::new(transport, wanted)?);
    let offered = if device.has(MULTI_QUEUE) { device.config_u16(NR_QUEUES).max(1) } else { 1 };
    let nr_queues = usize::from(offered).min(hal::cpu::nr_cpus().max(1));
    let may_unmap = device.has(WRITE_ZEROES) && device.config_u8(WRITE_ZEROES_MAY_UNMAP) != 0;
    let driver = VirtioBlk::new(nr_queues, may_unmap);
    let bus_index = BusIndex::take();
    let made = start(&device, &driver, &bus_index);
    let disk = made.as_ref().ok().cloned();
    let release: Release = Box::new(move || {
        if let Some(disk) = disk {
            block::remove_disk(&disk);
        }
        device.reset();
        driver.give_up();
        device.let_go();
        drop(bus_index);
    });
    match made {
        Ok(_) => Ok(release),
        Err(errno) => {
            release();
            Err(errno)
        }
    }
}

/// Starts the device and makes the disk known.
fn start(device: &Arc<Device>, driver: &Arc<VirtioBlk>, bus_index: &BusIndex) -> Result<Arc<Disk>> {
    let mut limits = limits(device);
    let index = block::next_index(MAJOR, MINORS);
    set_up_queues(device, driver, bus_index, &mut limits)?;
    device.start();
    let name = alloc::format!("vd{}", letters(index));
    let nr_queues = driver.queues.len();
    let info = DiskInfo {
        name: name.clone(),
        major: MAJOR,
        first_minor: index.checked_mul(MINORS).ok_or(Errno::ENOSPC)?,
        minors: MINORS,
        parent: alloc::format!("{}/virtio{bus_index}", device.transport().parent()),
        capacity: device.config_u64(CAPACITY).min(u64::MAX >> 10),
        is_read_only: device.has(READ_ONLY),
        nr_queues,
        limits,
    };
    let disk = Disk::new(info, driver.clone());
    driver.disk.call_once(|| Arc::downgrade(&disk));
    if let Ok(serial) = driver.read_serial() {
        driver.serial.call_once(|| serial);
    }
    log::info!(
        "virtio_blk virtio{bus_index}: [{name}] {} {}-byte logical blocks, {nr_queues} queues",
        disk.capacity() / u64::from(limits.logical_block_size / 512),
        limits.logical_block_size
    );
    let whole = block::add_disk(&disk)?;
    if let Err(errno) = block::scan_partitions(&whole) {
        log::warn!("{name}: partition table: {errno}");
    }
    Ok(disk)
}

fn set_up_queues(
    device: &Arc<Device>,
    driver: &Arc<VirtioBlk>,
    bus_index: &BusIndex,
    limits: &mut Limits,
) -> Result<()> {
    let online = hal::cpu::nr_cpus().max(1);
    let config = driver.clone();
    let changed = move || {
        if let Some(disk) = config.disk.get().and_then(alloc::sync::Weak::upgrade)
            && let Some(device) = config.device()
            && disk.is_alive()
        {
            disk.set_capacity(device.config_u64(CAPACITY).min(u64::MAX >> 10));
        }
    };
    device.transport().set_config_handler(&alloc::format!("virtio{bus_index}-config"), Box::new(changed))?;
    for (hw, slot) in driver.queues.iter().enumerate() {
        let target = driver.clone();
        let handler = Box::new(move || target.complete(hw));
        let name = alloc::format!("virtio{bus_index}-req.{hw}");
        let cpu = CpuId((hw % online) as u32);
        let mut queue = device.queue(hw as u16, MAX_QUEUE_SIZE, &name, cpu, handler)?;
        limits.max_segments = limits.max_segments.min(queue.max_pieces().max(1) as u16);
        queue.enable_interrupt();
        *slot.lock() = Some(queue);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_like_columns_of_a_table() {
        let names = [(0, "a"), (25, "z"), (26, "aa"), (27, "ab"), (701, "zz"), (702, "aaa")];
        for (n, name) in names {
            assert_eq!(letters(n), name);
        }
    }
}
