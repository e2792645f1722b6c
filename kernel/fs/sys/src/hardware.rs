//! `devices/pci0000:00` with what is on the bus, the block devices wherever they hang, and the links to them.
//!
//! ```text
//! devices/pci0000:00/0000:00:02.0                         a PCI function
//! devices/pci0000:00/0000:00:02.0/virtio0                 what its driver made of it
//! devices/pci0000:00/0000:00:02.0/virtio0/block/vda       a disk, with `queue`
//! devices/pci0000:00/0000:00:02.0/virtio0/block/vda/vda1  a partition
//! devices/virtual/block/loop0                             a disk without hardware
//! ```
//!
//! The tree is made of the paths of all objects, each time it is asked for.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Result;
use block::BlockDevice;
use pci::Device;
use vfs::put;
use vfs::text::Text;

use crate::place::{Items, Place, attribute, group_trigger, link, subdir, trigger, value};
use crate::{queue, uevent};

/// An object with attributes.
enum Object {
    Pci(Arc<Device>),
    /// A device on a bus of its own; only its place in the tree is known.
    Child,
    Block(Arc<BlockDevice>),
    Queue(Arc<BlockDevice>),
    /// What a driver shows of a disk.
    Driver(Vec<(&'static str, String)>),
}

/// Where PCI functions are below `devices`.
pub(crate) fn pci_path(device: &Device) -> String {
    format!("pci0000:00/{}", device.address())
}

/// Where a block device is below `devices`.
pub(crate) fn block_path(device: &BlockDevice) -> String {
    let info = device.disk().info();
    let disk = format!("{}/block/{}", info.parent, info.name);
    if device.partition().is_some() { format!("{disk}/{}", device.name()) } else { disk }
}

fn objects() -> Vec<(String, Object)> {
    let mut objects: Vec<(String, Object)> =
        pci::devices().into_iter().map(|device| (pci_path(&device), Object::Pci(device))).collect();
    for device in block::all() {
        let path = block_path(&device);
        if device.partition().is_none() {
            let parent = &device.disk().info().parent;
            if parent != "virtual" {
                objects.push((parent.clone(), Object::Child));
            }
            objects.push((format!("{path}/queue"), Object::Queue(device.clone())));
            if let Some((name, attributes)) = device.disk().driver().attributes() {
                objects.push((format!("{path}/{name}"), Object::Driver(attributes)));
            }
        }
        objects.push((path, Object::Block(device)));
    }
    objects
}

/// What is in the directory `path` below `devices`.
pub(crate) fn items(path: &str) -> Items {
    let objects = objects();
    let mut items = Items::new();
    let mut names: Vec<&str> = Vec::new();
    for (at, _) in &objects {
        let below = if path.is_empty() { Some(at.as_str()) } else { below(at, path) };
        let Some(name) = below.and_then(|rest| rest.split('/').next()) else { continue };
        // `devices/virtual` has other classes, too, and is listed with them.
        let is_elsewhere = path.is_empty() && name == "virtual";
        if !is_elsewhere && !names.contains(&name) {
            names.push(name);
        }
    }
    let full = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}/{name}") };
    items.extend(names.iter().map(|name| subdir(name.to_string(), Place::Hardware(full(name)))));
    let up = "../".repeat(path.split('/').count() + 1);
    if let Some((_, object)) = objects.iter().find(|(at, _)| at == path) {
        items.extend(match object {
            Object::Pci(device) => pci_attributes(device, &up),
            Object::Child => Items::new(),
            Object::Block(device) => block_attributes(device, &up),
            Object::Queue(device) => queue::attributes(device),
            Object::Driver(attributes) => {
                attributes.iter().map(|(name, text)| value(name, text.clone())).collect()
            }
        });
    }
    items
}

/// The part of `at` below the directory `path`.
fn below<'a>(at: &'a str, path: &str) -> Option<&'a str> {
    at.strip_prefix(path)?.strip_prefix('/')
}

/// Are there block devices without hardware?
pub(crate) fn has_virtual_blocks() -> bool {
    block::disks().iter().any(|device| device.disk().info().parent == "virtual")
}

/// Links to block devices: all of them or whole disks, by name or by number. `up` leads to the root.
pub(crate) fn block_links(up: &str, whole: bool, name: impl Fn(&BlockDevice) -> String) -> Items {
    let devices = if whole { block::disks() } else { block::all() };
    devices.iter().map(|device| link(name(device), format!("{up}devices/{}", block_path(device)))).collect()
}

/// Links to PCI functions, for `bus/pci/devices`.
pub(crate) fn pci_links() -> Items {
    let link_to = |device: &Arc<Device>| {
        link(device.address().to_string(), format!("../../../devices/{}", pci_path(device)))
    };
    pci::devices().iter().map(link_to).collect()
}

fn hex(
    name: &'static str,
    number: u32,
    width: usize,
) -> (alloc::borrow::Cow<'static, str>, crate::place::Item) {
    value(name, format!("0x{number:0width$x}"))
}

#[inline(never)]
fn pci_attributes(device: &Arc<Device>, up: &str) -> Items {
    let resources = device.clone();
    let config = device.clone();
    let properties = device.clone();
    let removed = device.clone();
    Vec::from([
        hex("class", device.class, 6),
        hex("vendor", device.id.0.into(), 4),
        hex("device", device.id.1.into(), 4),
        hex("subsystem_vendor", device.subsystem.0.into(), 4),
        hex("subsystem_device", device.subsystem.1.into(), 4),
        hex("revision", device.revision.into(), 2),
        value("irq", format!("{}", device.irq)),
        value("enable", if device.driver().is_some() { "1" } else { "0" }),
        value("numa_node", "-1"),
        link("subsystem", format!("{up}bus/pci")),
        attribute("config", move |out| {
            out.push(&config.config());
            Ok(())
        }),
        attribute("resource", move |out| {
            for bar in resources.bars() {
                let (start, end, flags) = bar.map_or((0, 0, 0), |bar| {
                    let kind = if bar.is_memory { 0x0004_0200 } else { 0x0004_0101 };
                    let prefetch = if bar.is_prefetchable { 0x2008 } else { 0 };
                    let wide = if bar.is_64bit { 0x0010_0004 } else { 0 };
                    (bar.base, bar.base + (bar.len - 1), kind | prefetch | wide)
                });
                put!(out, "0x{start:016x} 0x{end:016x} 0x{flags:016x}\n");
            }
            Ok(())
        }),
        group_trigger("remove", move || pci::remove(&removed)),
        uevent::file(pci_path(device), "pci", move |out| pci_properties(&properties, out)),
    ])
}

/// What the events of a PCI function tell.
pub(crate) fn pci_properties(function: &Device, out: &mut Text) -> Result<()> {
    if let Some(driver) = function.driver() {
        put!(out, "DRIVER={driver}\n");
    }
    put!(out, "PCI_CLASS={:X}\nPCI_ID={:04X}:{:04X}\n", function.class, function.id.0, function.id.1);
    let (vendor, device) = function.subsystem;
    put!(out, "PCI_SUBSYS_ID={vendor:04X}:{device:04X}\nPCI_SLOT_NAME={}\n", function.address());
    Ok(())
}

/// `bus/pci/rescan`.
pub(crate) fn rescan() -> (alloc::borrow::Cow<'static, str>, crate::place::Item) {
    trigger("rescan", || {
        pci::rescan();
        Ok(())
    })
}

/// What disks and partitions share.
#[inline(never)]
fn block_attributes(device: &Arc<BlockDevice>, up: &str) -> Items {
    let (major, minor) = device.number();
    let (size, ro, stat, inflight, properties) =
        (device.clone(), device.clone(), device.clone(), device.clone(), device.clone());
    let mut items = Vec::from([
        value("alignment_offset", "0"),
        value("discard_alignment", "0"),
        value("dev", format!("{major}:{minor}")),
        subdir("holders", Place::Empty),
        link("subsystem", format!("{up}class/block")),
        attribute("size", move |out| {
            put!(out, "{}\n", size.nr_sectors());
            Ok(())
        }),
        attribute("ro", move |out| {
            put!(out, "{}\n", u8::from(ro.is_read_only()));
            Ok(())
        }),
        attribute("stat", move |out| blockdev::show_stat(&stat, out)),
        attribute("inflight", move |out| {
            let [reads, writes] = inflight.stats().in_flight;
            put!(out, "{reads:8} {writes:8}\n");
            Ok(())
        }),
        uevent::file(block_path(device), "block", move |out| block_properties(&properties, out)),
    ]);
    match device.partition() {
        Some(part) => items.extend([
            value("partition", format!("{}", part.index)),
            value("start", format!("{}", part.start)),
        ]),
        None => items.extend(disk_attributes(device)),
    }
    items
}

/// What the events of a block device tell.
pub(crate) fn block_properties(device: &BlockDevice, out: &mut Text) -> Result<()> {
    let (major, minor) = device.number();
    let kind = if device.partition().is_some() { "partition" } else { "disk" };
    put!(out, "MAJOR={major}\nMINOR={minor}\nDEVNAME={}\nDEVTYPE={kind}\n", device.name());
    put!(out, "DISKSEQ={}\n", device.disk().sequence());
    if let Some(part) = device.partition() {
        put!(out, "PARTN={}\n", part.index);
        if let Some(label) = &part.label {
            put!(out, "PARTNAME={label}\n");
        }
        if let Some(uuid) = &part.uuid {
            put!(out, "PARTUUID={uuid}\n");
        }
    }
    Ok(())
}

/// What whole disks have.
fn disk_attributes(device: &Arc<BlockDevice>) -> Items {
    let info = device.disk().info();
    let mut items = Vec::from([
        value("capability", "0"),
        value("diskseq", format!("{}", device.disk().sequence())),
        value("events", ""),
        value("events_async", ""),
        value("events_poll_msecs", "-1"),
        value("ext_range", if info.minors > 1 { "256" } else { "1" }),
        value("hidden", "0"),
        value("range", format!("{}", info.minors)),
        value("removable", "0"),
        subdir("slaves", Place::Empty),
    ]);
    if let Some((_, name)) = info.parent.rsplit_once('/') {
        items.push(link("device", format!("../../../{name}")));
    }
    if let Some(serial) = device.disk().driver().serial() {
        items.push(value("serial", serial));
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Item;

    #[test]
    fn a_disk_is_found_by_all_its_names() {
        let (_memory, device) = block::MemDisk::new(1 << 20, block::Limits::default()).unwrap();
        let whole = block::add_disk(device.disk()).unwrap();
        let name = whole.name().to_string();
        let part = block::Partition { index: 1, start: 8, len: 16, ..Default::default() };
        block::set_partitions(whole.disk(), &[part]).unwrap();
        let names =
            |path: &str| items(path).into_iter().map(|(name, _)| name.into_owned()).collect::<Vec<_>>();
        assert!(names("virtual/block").contains(&name));
        let disk = names(&format!("virtual/block/{name}"));
        for wanted in ["size", "queue", "dev", "holders", "slaves", &format!("{name}p1")] {
            assert!(disk.iter().any(|name| name == wanted), "{wanted}");
        }
        assert!(names(&format!("virtual/block/{name}/{name}p1")).contains(&"start".to_string()));
        assert!(names(&format!("virtual/block/{name}/queue")).contains(&"logical_block_size".to_string()));
        let links = block_links("../", true, |device| device.name().to_string());
        let link = links.into_iter().find(|(link, _)| *link == name).map(|(_, item)| item);
        assert!(matches!(link, Some(Item::Link(to)) if to == format!("../devices/virtual/block/{name}")));
        block::remove_disk(whole.disk());
    }
}
