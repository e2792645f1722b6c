//! All disks, by name and number.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::{Errno, Result};
use sched::Mutex;

use crate::device::BlockDevice;
use crate::disk::{Disk, Partition};

/// Major of partitions beyond a disk's minors (Linux: `BLOCK_EXT_MAJOR`).
const EXTENDED_MAJOR: u32 = 259;

struct Entry {
    whole: Arc<BlockDevice>,
    partitions: Vec<Arc<BlockDevice>>,
}

impl Entry {
    fn devices(&self) -> impl Iterator<Item = &Arc<BlockDevice>> {
        core::iter::once(&self.whole).chain(&self.partitions)
    }
}

type Watch = Box<dyn Fn(&Arc<BlockDevice>, Change) + Send + Sync>;

/// What happened to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It came.
    Added,
    /// It is about to go, and still works: what must reach it is written now.
    Leaving,
    /// It went.
    Removed,
}

static DISKS: Mutex<Vec<Entry>> = Mutex::new("block.disks", Vec::new());
static WATCHES: Mutex<Vec<Arc<Watch>>> = Mutex::new("block.watches", Vec::new());

fn tell(device: &Arc<BlockDevice>, change: Change) {
    let watches: Vec<_> = WATCHES.lock().clone();
    for watch in watches {
        watch(device, change);
    }
}

/// Calls `watch` for each device that is there, and then for each that comes or goes. May sleep.
pub fn on_change(watch: impl Fn(&Arc<BlockDevice>, Change) + Send + Sync + 'static) {
    let watch: Watch = Box::new(watch);
    for device in all() {
        watch(&device, Change::Added);
    }
    WATCHES.lock().push(Arc::new(watch));
}

/// A removed disk that somebody may still have open or mounted: its names and numbers are not given to others.
struct Removed {
    disk: Weak<Disk>,
    /// The disk's own number and those of its partitions.
    numbers: Vec<(u32, u32)>,
}

/// Taken after [`DISKS`].
static REMOVED: Mutex<Vec<Removed>> = Mutex::new("block.removed", Vec::new());

/// Forgets removed disks that nobody uses any more. No lock is held.
fn trim_removed() {
    let mut seen = Vec::new();
    REMOVED.lock().retain(|one| {
        let disk = one.disk.upgrade();
        let is_used = disk.as_ref().is_some_and(|disk| disk.nr_openers() > 0);
        seen.extend(disk);
        is_used
    });
    // The last of a disk may close files, and that other disks: not under the lock.
    drop(seen);
}

/// The numbers of removed disks that are in use.
fn removed_numbers() -> Vec<(u32, u32)> {
    REMOVED.lock().iter().flat_map(|one| one.numbers.iter().copied()).collect()
}

/// The smallest `n` for which no disk of `major` begins at minor `n * step`, nor one that is gone and still in use.
pub fn next_index(major: u32, step: u32) -> u32 {
    trim_removed();
    let disks = DISKS.lock();
    let removed = removed_numbers();
    let is_used = |n: u32| {
        let info = |entry: &Entry| (entry.whole.disk().info().major, entry.whole.disk().info().first_minor);
        let number = (major, n.saturating_mul(step));
        removed.contains(&number) || disks.iter().any(|entry| info(entry) == number)
    };
    (0..u32::MAX).find(|&n| !is_used(n)).unwrap_or(u32::MAX)
}

/// Tells that `device` came. When it is gone already, who watches was told so too early: it is told once more.
fn tell_added(device: &Arc<BlockDevice>) {
    tell(device, Change::Added);
    if !device.is_alive() {
        tell(device, Change::Removed);
    }
}

/// Makes a disk known; gives the device that is all of it. `EEXIST`: its name or number is taken.
pub fn add_disk(disk: &Arc<Disk>) -> Result<Arc<BlockDevice>> {
    let info = disk.info();
    let whole = BlockDevice::new(disk, None, (info.major, info.first_minor));
    {
        let mut disks = DISKS.lock();
        let is_taken =
            |other: &Arc<BlockDevice>| other.name() == info.name || other.number() == whole.number();
        if disks.iter().flat_map(Entry::devices).any(is_taken) {
            return Err(Errno::EEXIST);
        }
        disks.push(Entry { whole: whole.clone(), partitions: Vec::new() });
    }
    tell_added(&whole);
    Ok(whole)
}

/// Forgets a disk and its partitions, after what is dirty was written; their users get `EIO` from now on. May sleep.
///
/// Afterwards the driver ends what is under way and gets nothing more.
pub fn remove_disk(disk: &Arc<Disk>) {
    trim_removed();
    let leaving = {
        let disks = DISKS.lock();
        let entry = disks.iter().find(|entry| Arc::ptr_eq(entry.whole.disk(), disk));
        entry.map_or_else(Vec::new, |entry| entry.devices().cloned().collect())
    };
    for device in &leaving {
        tell(device, Change::Leaving);
    }
    let entry = {
        let mut disks = DISKS.lock();
        let at = disks.iter().position(|entry| Arc::ptr_eq(entry.whole.disk(), disk));
        let entry = at.map(|at| disks.remove(at));
        if let Some(entry) = &entry {
            let numbers = entry.devices().map(|device| device.number()).collect();
            REMOVED.lock().push(Removed { disk: Arc::downgrade(disk), numbers });
        }
        entry
    };
    disk.kill();
    let Some(entry) = entry else { return };
    for device in entry.partitions.iter().chain([&entry.whole]) {
        device.set_gone();
        tell(device, Change::Removed);
    }
}

/// All devices: disks in the order in which they came, each followed by its partitions.
pub fn all() -> Vec<Arc<BlockDevice>> {
    DISKS.lock().iter().flat_map(Entry::devices).cloned().collect()
}

/// All whole disks.
pub fn disks() -> Vec<Arc<BlockDevice>> {
    DISKS.lock().iter().map(|entry| entry.whole.clone()).collect()
}

/// The device with this name below /dev.
pub fn by_name(name: &str) -> Option<Arc<BlockDevice>> {
    DISKS.lock().iter().flat_map(Entry::devices).find(|device| device.name() == name).cloned()
}

/// The device at `path`, as mount(2) names it. `ENOTBLK`: it is not below /dev. `ENOENT`.
pub fn by_path(path: &[u8]) -> Result<Arc<BlockDevice>> {
    let path = core::str::from_utf8(path).map_err(|_| Errno::ENOENT)?;
    by_name(path.strip_prefix("/dev/").ok_or(Errno::ENOTBLK)?).ok_or(Errno::ENOENT)
}

/// The device with this number (`st_rdev`).
pub fn by_number(rdev: u64) -> Option<Arc<BlockDevice>> {
    DISKS.lock().iter().flat_map(Entry::devices).find(|device| device.rdev() == rdev).cloned()
}

/// The device that is all of a disk.
pub(crate) fn whole_of(disk: &Arc<Disk>) -> Option<Arc<BlockDevice>> {
    DISKS.lock().iter().find(|entry| Arc::ptr_eq(entry.whole.disk(), disk)).map(|entry| entry.whole.clone())
}

/// The partitions of a disk.
pub fn partitions(disk: &Arc<Disk>) -> Vec<Arc<BlockDevice>> {
    let disks = DISKS.lock();
    let entry = disks.iter().find(|entry| Arc::ptr_eq(entry.whole.disk(), disk));
    entry.map_or_else(Vec::new, |entry| entry.partitions.clone())
}

/// Is a partition's disk, or one of a disk's partitions, claimed?
pub(crate) fn is_claimed_elsewhere(device: &Arc<BlockDevice>) -> bool {
    let disks = DISKS.lock();
    let Some(entry) = disks.iter().find(|entry| Arc::ptr_eq(entry.whole.disk(), device.disk())) else {
        return false;
    };
    match device.partition() {
        Some(_) => entry.whole.holder().is_some(),
        None => entry.partitions.iter().any(|part| part.holder().is_some()),
    }
}

/// The number of partition `index` of `disk`.
fn number_of(entries: &[Entry], disk: &Disk, index: u32) -> (u32, u32) {
    let info = disk.info();
    if index < info.minors {
        return (info.major, info.first_minor + index);
    }
    let removed = removed_numbers();
    let is_used = |minor: u32| {
        let number = (EXTENDED_MAJOR, minor);
        removed.contains(&number) || entries.iter().flat_map(Entry::devices).any(|dev| dev.number() == number)
    };
    let minor = (0..1 << 20).find(|&minor| !is_used(minor)).unwrap_or(1 << 20);
    (EXTENDED_MAJOR, minor)
}

/// Replaces the partitions of `disk`. Those that stay the same stay the same devices. `EBUSY`: one that would go is
/// in use. `ENODEV`: no such disk.
pub fn set_partitions(disk: &Arc<Disk>, parts: &[Partition]) -> Result<()> {
    trim_removed();
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    {
        let mut disks = DISKS.lock();
        let at = disks.iter().position(|e| Arc::ptr_eq(e.whole.disk(), disk)).ok_or(Errno::ENODEV)?;
        let stays = |device: &Arc<BlockDevice>| device.partition().is_some_and(|part| parts.contains(part));
        let old = core::mem::take(&mut disks[at].partitions);
        if old.iter().any(|device| !stays(device) && device.nr_openers() > 0) {
            disks[at].partitions = old;
            return Err(Errno::EBUSY);
        }
        let (mut kept, gone): (Vec<_>, Vec<_>) = old.into_iter().partition(stays);
        removed.extend(gone);
        disks[at].partitions = kept.clone();
        for part in parts {
            if kept.iter().any(|device| device.partition() == Some(part)) {
                continue;
            }
            let number = number_of(&disks, disk, part.index);
            let device = BlockDevice::new(disk, Some(part.clone()), number);
            kept.push(device.clone());
            disks[at].partitions.push(device.clone());
            added.push(device);
        }
        disks[at].partitions.sort_unstable_by_key(|device| device.partition().map_or(0, |part| part.index));
    }
    for device in &removed {
        device.set_gone();
        tell(device, Change::Removed);
    }
    added.iter().for_each(tell_added);
    Ok(())
}

/// Adds one partition (`BLKPG_ADD_PARTITION`). `EBUSY`: its number is taken or it overlaps another.
pub fn add_partition(disk: &Arc<Disk>, part: Partition) -> Result<()> {
    let mut parts = current(disk);
    let end = part.start.checked_add(part.len).filter(|end| *end <= disk.capacity()).ok_or(Errno::EINVAL)?;
    let clashes = |other: &Partition| {
        other.index == part.index || other.start < end && part.start < other.start.saturating_add(other.len)
    };
    if parts.iter().any(clashes) {
        return Err(Errno::EBUSY);
    }
    parts.push(part);
    set_partitions(disk, &parts)
}

/// Deletes one partition (`BLKPG_DEL_PARTITION`). `ENXIO`: there is none. `EBUSY`: in use.
pub fn remove_partition(disk: &Arc<Disk>, index: u32) -> Result<()> {
    let mut parts = current(disk);
    let before = parts.len();
    parts.retain(|part| part.index != index);
    if parts.len() == before {
        return Err(Errno::ENXIO);
    }
    set_partitions(disk, &parts)
}

/// Changes one partition's length (`BLKPG_RESIZE_PARTITION`), even in use. `ENXIO`: there is none with this start.
/// `EBUSY`: it would overlap another.
pub fn resize_partition(disk: &Arc<Disk>, part: &Partition) -> Result<()> {
    let devices = partitions(disk);
    let device = devices
        .iter()
        .find(|device| device.partition().is_some_and(|p| p.index == part.index && p.start == part.start))
        .ok_or(Errno::ENXIO)?;
    let end = part.start.checked_add(part.len).filter(|end| *end <= disk.capacity()).ok_or(Errno::EINVAL)?;
    let clashes = |other: &Arc<BlockDevice>| {
        !Arc::ptr_eq(other, device)
            && other.start() < end
            && part.start < other.start().saturating_add(other.nr_sectors())
    };
    if devices.iter().any(clashes) {
        return Err(Errno::EBUSY);
    }
    device.set_nr_sectors(part.len);
    Ok(())
}

fn current(disk: &Arc<Disk>) -> Vec<Partition> {
    let of = |device: &Arc<BlockDevice>| {
        let part = device.partition()?.clone();
        Some(part)
    };
    partitions(disk).iter().filter_map(of).collect()
}
