//! /dev/loop-control.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use sched::Mutex;
use vfs::dev::{DeviceDriver, DeviceKind, add_node, register_chrdev};
use vfs::{File, FileOps, Inode, OpenRequest};

use crate::device::{LoopDevice, MAJOR};

/// Miscellaneous character devices.
const MISC_MAJOR: u32 = 10;
const LOOP_CONTROL_MINOR: u32 = 237;
const LOOP_CTL_ADD: u32 = 0x4c80;
const LOOP_CTL_REMOVE: u32 = 0x4c81;
const LOOP_CTL_GET_FREE: u32 = 0x4c82;
/// Devices that there can be: a minor number is 20 bits.
const MAX_DEVICES: u32 = 1 << 20;

static DEVICES: Mutex<Vec<Arc<LoopDevice>>> = Mutex::new("loop.devices", Vec::new());

struct Control;

impl DeviceDriver for Control {
    fn open(&self, rdev: u64, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        if abi::fs::minor(rdev) == LOOP_CONTROL_MINOR {
            Ok(Arc::new(ControlFile))
        } else {
            Err(Errno::ENODEV)
        }
    }
}

struct ControlFile;

impl FileOps for ControlFile {
    fn ioctl(&self, _file: &Arc<File>, cmd: u32, arg: usize) -> Result<usize> {
        match cmd {
            LOOP_CTL_ADD => add(u32::try_from(arg as i32).ok()),
            LOOP_CTL_REMOVE => remove(u32::try_from(arg as i32).map_err(|_| Errno::EINVAL)?),
            LOOP_CTL_GET_FREE => get_free(),
            _ => Err(Errno::ENOSYS),
        }
    }
}

/// The smallest number that no device has.
fn unused(devices: &[Arc<LoopDevice>]) -> u32 {
    let is_used = |number: u32| devices.iter().any(|device| device.number() == number);
    (0..MAX_DEVICES).find(|number| !is_used(*number)).unwrap_or(MAX_DEVICES)
}

/// Makes device `number`, or some. `EEXIST`: it is there.
fn add(number: Option<u32>) -> Result<usize> {
    let mut devices = DEVICES.lock();
    let number = number.unwrap_or_else(|| unused(&devices));
    if number >= MAX_DEVICES {
        return Err(Errno::EINVAL);
    }
    if devices.iter().any(|device| device.number() == number) {
        return Err(Errno::EEXIST);
    }
    devices.push(LoopDevice::add(number)?);
    Ok(number as usize)
}

/// Removes device `number`. `EBUSY`: it has a file or is open. `ENODEV`: there is none.
fn remove(number: u32) -> Result<usize> {
    let mut devices = DEVICES.lock();
    let at = devices.iter().position(|device| device.number() == number).ok_or(Errno::ENODEV)?;
    let disk = devices[at].disk().ok_or(Errno::ENODEV)?;
    if !devices[at].is_free() || disk.nr_openers() > 0 {
        return Err(Errno::EBUSY);
    }
    devices.remove(at);
    drop(devices);
    block::remove_disk(&disk);
    Ok(number as usize)
}

/// A device without a file, made when there is none.
fn get_free() -> Result<usize> {
    let free = DEVICES.lock().iter().filter(|device| device.is_free()).map(|device| device.number()).min();
    match free {
        Some(number) => Ok(number as usize),
        None => add(None),
    }
}

/// Makes /dev/loop-control. Call once at boot.
pub fn init() -> Result<()> {
    const _: () = assert!(MAJOR == 7);
    register_chrdev(MISC_MAJOR, LOOP_CONTROL_MINOR..LOOP_CONTROL_MINOR + 1, "misc", Arc::new(Control))?;
    add_node("loop-control", DeviceKind::Char, (MISC_MAJOR, LOOP_CONTROL_MINOR), 0o660)
}
