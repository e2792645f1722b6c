//! Finding devices and giving them to their drivers.

use abi::{Errno, Result};

use crate::params::Params;

/// Finds what is on the buses and on the command line. Disks have nodes in /dev afterwards.
pub(crate) fn find(params: &Params) -> Result<()> {
    blockdev::init()?;
    sysfs::start_events();
    procfs::provide(procfs::Extra::Partitions, blockdev::show_partitions);
    procfs::provide(procfs::Extra::DiskStats, blockdev::show_diskstats);
    loopdev::init()?;
    userfaultfd::init()?;
    let count = pci::scan();
    log::info!("pci: {count} functions");
    virtio_rng::register();
    virtio_blk::register();
    virtio_9p::register();
    virtio_console::register();
    nvme::register();
    for device in &params.virtio_mmio {
        if let Err(errno) = add_virtio_mmio(device) {
            log::warn!("virtio_mmio.device={device}: {errno}");
        }
    }
    Ok(())
}

/// A device given as `<size>@<base>:<irq>[:<id>]` (Documentation/admin-guide/kernel-parameters.txt).
fn add_virtio_mmio(text: &str) -> Result<()> {
    let (size, rest) = text.split_once('@').ok_or(Errno::EINVAL)?;
    let mut fields = rest.split(':');
    let base = fields.next().and_then(number).ok_or(Errno::EINVAL)?;
    let irq = fields.next().and_then(number).and_then(|irq| u32::try_from(irq).ok()).ok_or(Errno::EINVAL)?;
    let size = number(size).and_then(|size| usize::try_from(size).ok()).ok_or(Errno::EINVAL)?;
    let transport = virtio::probe_mmio(base, size, irq, "virtio-mmio")?;
    match transport.kind() {
        virtio::kind::BLOCK => virtio_blk::attach(transport),
        virtio::kind::CONSOLE => virtio_console::attach(transport),
        virtio::kind::RNG => virtio_rng::attach(transport),
        virtio::kind::P9 => virtio_9p::attach(transport),
        _ => Err(Errno::ENODEV),
    }
    // Such devices stay: nobody lets go of them.
    .map(drop)
}

/// A number, decimal or with `0x`, with K, M or G behind it (memparse() of Linux).
fn number(text: &str) -> Option<u64> {
    let (digits, shift) = match text.chars().next_back()? {
        'K' | 'k' => (&text[..text.len() - 1], 10),
        'M' | 'm' => (&text[..text.len() - 1], 20),
        'G' | 'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    value.checked_mul(1 << shift)
}
