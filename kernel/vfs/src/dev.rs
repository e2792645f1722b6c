//! Device numbers and who answers for them.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{major, makedev, minor};
use abi::{Errno, Result};
use sched::Mutex;

use crate::file::FileOps;
use crate::inode::{Inode, OpenRequest};

/// Opens a device.
pub trait DeviceDriver: Send + Sync {
    /// Opens the device with number `rdev`. `ENXIO`: there is none.
    fn open(&self, rdev: u64, inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>>;

    /// What `O_DIRECT` asks for on the device with number `rdev`, if it has that.
    fn direct_align(&self, rdev: u64) -> Option<DirectAlign> {
        let _ = rdev;
        None
    }
}

/// What an access with `O_DIRECT` must be aligned to, in bytes (statx(2), `STATX_DIOALIGN`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectAlign {
    /// Addresses and lengths of memory.
    pub memory: u32,
    /// Positions and lengths in the file.
    pub offset: u32,
}

/// The two number spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Character devices.
    Char,
    /// Block devices.
    Block,
}

/// A named device that devtmpfs shows.
#[derive(Clone, Debug)]
pub struct Node {
    /// Path below /dev.
    pub name: Vec<u8>,
    /// Which number space.
    pub kind: DeviceKind,
    /// Number.
    pub rdev: u64,
    /// Permission bits.
    pub mode: u32,
    /// Group.
    pub gid: u32,
}

/// Shows registered devices: devtmpfs.
pub trait NodeSink: Send + Sync {
    /// A device came.
    fn add(&self, node: &Node) -> Result<()>;
    /// A device went.
    fn remove(&self, name: &[u8]);
}

struct Range {
    kind: DeviceKind,
    major: u32,
    minors: core::ops::Range<u32>,
    name: &'static str,
    driver: Arc<dyn DeviceDriver>,
}

struct Registry {
    ranges: Vec<Range>,
    nodes: Vec<Node>,
    /// What drivers let /sys show of devices: name, attribute, text.
    attributes: Vec<(Vec<u8>, &'static str, String)>,
    sink: Option<&'static dyn NodeSink>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(
    "vfs.devices",
    Registry { ranges: Vec::new(), nodes: Vec::new(), attributes: Vec::new(), sink: None },
);

fn register(
    kind: DeviceKind,
    major: u32,
    minors: core::ops::Range<u32>,
    name: &'static str,
    driver: Arc<dyn DeviceDriver>,
) -> Result<()> {
    let mut registry = REGISTRY.lock();
    let overlaps = |r: &Range| {
        r.kind == kind && r.major == major && r.minors.start < minors.end && minors.start < r.minors.end
    };
    if registry.ranges.iter().any(overlaps) {
        return Err(Errno::EBUSY);
    }
    registry.ranges.push(Range { kind, major, minors, name, driver });
    Ok(())
}

/// Makes `driver` answer for character devices `major`:`minors`. `name` is for /proc/devices. `EBUSY`: taken.
pub fn register_chrdev(
    major: u32,
    minors: core::ops::Range<u32>,
    name: &'static str,
    driver: Arc<dyn DeviceDriver>,
) -> Result<()> {
    register(DeviceKind::Char, major, minors, name, driver)
}

/// As [`register_chrdev`], for block devices.
pub fn register_blkdev(
    major: u32,
    minors: core::ops::Range<u32>,
    name: &'static str,
    driver: Arc<dyn DeviceDriver>,
) -> Result<()> {
    register(DeviceKind::Block, major, minors, name, driver)
}

/// Opens device `rdev`. `ENXIO`: nobody answers for it.
pub(crate) fn open(
    kind: DeviceKind,
    rdev: u64,
    inode: &Arc<Inode>,
    request: &OpenRequest<'_>,
) -> Result<Arc<dyn FileOps>> {
    driver(kind, rdev).ok_or(Errno::ENXIO)?.open(rdev, inode, request)
}

fn driver(kind: DeviceKind, rdev: u64) -> Option<Arc<dyn DeviceDriver>> {
    let is_it = |r: &&Range| r.kind == kind && r.major == major(rdev) && r.minors.contains(&minor(rdev));
    REGISTRY.lock().ranges.iter().find(is_it).map(|r| r.driver.clone())
}

/// What `O_DIRECT` asks for on block device `rdev`.
pub(crate) fn direct_align(rdev: u64) -> Option<DirectAlign> {
    driver(DeviceKind::Block, rdev)?.direct_align(rdev)
}

/// Announces a device under /dev.
pub fn add_node(name: &str, kind: DeviceKind, number: (u32, u32), mode: u32) -> Result<()> {
    let rdev = makedev(number.0, number.1);
    let node = Node { name: name.as_bytes().to_vec(), kind, rdev, mode, gid: 0 };
    let mut registry = REGISTRY.lock();
    registry.nodes.push(node.clone());
    let sink = registry.sink;
    drop(registry);
    sink.map_or(Ok(()), |sink| sink.add(&node))
}

/// Lets /sys show `text` as an attribute of the device `name`, until it goes.
pub fn set_attribute(name: &str, attribute: &'static str, text: String) {
    let mut registry = REGISTRY.lock();
    registry.attributes.retain(|(of, what, _)| of != name.as_bytes() || *what != attribute);
    registry.attributes.push((name.as_bytes().to_vec(), attribute, text));
}

/// The attributes of the device `name` and their texts.
pub fn attributes(name: &[u8]) -> Vec<(&'static str, String)> {
    let registry = REGISTRY.lock();
    let of_it = registry.attributes.iter().filter(|(of, ..)| of == name);
    of_it.map(|(_, attribute, text)| (*attribute, text.clone())).collect()
}

/// Takes a device's name away.
pub fn remove_node(name: &str) {
    let mut registry = REGISTRY.lock();
    registry.attributes.retain(|(of, ..)| of != name.as_bytes());
    registry.nodes.retain(|node| node.name != name.as_bytes());
    let sink = registry.sink;
    drop(registry);
    if let Some(sink) = sink {
        sink.remove(name.as_bytes());
    }
}

/// Sends all devices, those so far included, to `sink`.
pub fn set_sink(sink: &'static dyn NodeSink) -> Result<()> {
    let mut registry = REGISTRY.lock();
    registry.sink = Some(sink);
    let nodes = registry.nodes.clone();
    drop(registry);
    nodes.iter().try_for_each(|node| sink.add(node))
}

/// The devices that were announced, for /sys.
pub fn nodes() -> Vec<Node> {
    REGISTRY.lock().nodes.clone()
}

/// Names and majors, for /proc/devices: each once, ascending.
pub fn majors(kind: DeviceKind) -> Vec<(u32, &'static str)> {
    let registry = REGISTRY.lock();
    let mut list: Vec<_> =
        registry.ranges.iter().filter(|r| r.kind == kind).map(|r| (r.major, r.name)).collect();
    list.sort_unstable();
    list.dedup();
    list
}
