//! A virtio device as drivers see it, whatever it hangs on.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::Arc;

use abi::{Errno, Result};
use bitflags::bitflags;
use hal::PhysAddr;
use hal::cpu::CpuId;
use hal::irq::RequestError;
use hal::sync::SpinLock;

use crate::queue::Queue;

/// Device types (VIRTIO 1.2, ch. 5).
pub mod kind {
    /// Network card.
    pub const NET: u32 = 1;
    /// Block device.
    pub const BLOCK: u32 = 2;
    /// Console.
    pub const CONSOLE: u32 = 3;
    /// Entropy source.
    pub const RNG: u32 = 4;
    /// 9P transport.
    pub const P9: u32 = 9;
}

bitflags! {
    /// Features that all devices share (VIRTIO 1.2, ch. 6); bits 0 to 23 are the device type's.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// Descriptors may name tables of descriptors.
        const INDIRECT = 1 << 28;
        /// Each side tells from which entry on it wants to be told.
        const EVENT_IDX = 1 << 29;
        /// Not a legacy device.
        const VERSION_1 = 1 << 32;
        /// The rest is for the driver.
        const _ = !0;
    }
}

bitflags! {
    /// How far the set-up came (VIRTIO 1.2, ch. 2.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Status: u8 {
        /// The device was seen.
        const ACKNOWLEDGE = 1;
        /// There is a driver for it.
        const DRIVER = 2;
        /// The driver works.
        const DRIVER_OK = 4;
        /// The features are agreed on.
        const FEATURES_OK = 8;
        /// The device is in trouble and wants a reset.
        const NEEDS_RESET = 64;
        /// The driver gave up.
        const FAILED = 128;
    }
}

/// Where a queue is.
#[derive(Clone, Copy, Debug)]
pub struct QueueSetup {
    /// Number of descriptors, a power of two.
    pub size: u16,
    /// The descriptor table.
    pub descriptors: PhysAddr,
    /// What the driver makes available.
    pub available: PhysAddr,
    /// What the device used.
    pub used: PhysAddr,
}

/// What a device hangs on.
pub trait Transport: Send + Sync {
    /// What /sys calls the parent, such as `pci0000:00/0000:00:02.0`.
    fn parent(&self) -> String;
    /// The device type.
    fn kind(&self) -> u32;
    /// The features that the device offers.
    fn features(&self) -> u64;
    /// The features that the driver takes.
    fn set_features(&self, features: u64);
    /// The status.
    fn status(&self) -> u8;
    /// Sets the status; 0 resets, and the call returns when that is done.
    fn set_status(&self, status: u8);
    /// Reads 1, 2 or 4 bytes of the device's configuration.
    fn config(&self, offset: usize, width: usize) -> u32;
    /// Writes a byte of it.
    fn set_config_u8(&self, offset: usize, value: u8);
    /// Changes when the configuration did.
    fn generation(&self) -> u32;
    /// Most descriptors that queue `idx` can have; 0: there is no such queue.
    fn max_queue_size(&self, idx: u16) -> u16;
    /// Switches queue `idx` on, with interrupts to `handler` on `cpu`.
    fn set_queue(&self, idx: u16, setup: QueueSetup) -> Result<()>;
    /// Lets `handler` run when queue `idx` has something; before [`Transport::set_queue`].
    fn set_queue_handler(&self, idx: u16, name: &str, cpu: CpuId, handler: Handler) -> Result<()>;
    /// Lets `handler` run when the configuration changes.
    fn set_config_handler(&self, name: &str, handler: Handler) -> Result<()>;
    /// Tells the device that queue `idx` has something.
    fn notify(&self, idx: u16);
}

/// What runs at an interrupt, with interrupts off.
pub type Handler = Box<dyn Fn() + Send + Sync>;

/// A virtio device.
pub struct Device {
    transport: Box<dyn Transport>,
    features: u64,
}

impl Drop for Device {
    /// From here on the device touches no memory.
    fn drop(&mut self) {
        self.reset();
    }
}

impl Device {
    /// Resets the device and agrees on features: those in `wanted` that it has, and always `VERSION_1`.
    ///
    /// `ENODEV`: it is a legacy device, does not take the choice, or does not reset.
    pub fn new(transport: Box<dyn Transport>, wanted: u64) -> Result<Device> {
        transport.set_status(0);
        if transport.status() != 0 {
            return Err(Errno::ENODEV);
        }
        let mut status = Status::ACKNOWLEDGE | Status::DRIVER;
        transport.set_status(status.bits());
        let required = Features::VERSION_1.bits();
        let features = transport.features() & (wanted | required);
        let device = Device { transport, features };
        if features & required == 0 {
            return Err(Errno::ENODEV);
        }
        device.transport.set_features(features);
        status |= Status::FEATURES_OK;
        device.transport.set_status(status.bits());
        if device.transport.status() & Status::FEATURES_OK.bits() == 0 {
            return Err(Errno::ENODEV);
        }
        Ok(device)
    }

    /// Was bit `bit` agreed on?
    pub fn has(&self, bit: u32) -> bool {
        self.features >> bit & 1 != 0
    }

    /// All features that were agreed on.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// What it hangs on.
    pub fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    /// Makes queue `idx` with at most `max_size` descriptors; `handler` runs on `cpu` when it has something.
    ///
    /// `ENOENT`: the device has no such queue. `ENOMEM`, `ENOSPC`: memory or interrupts ran out.
    pub fn queue<T>(
        self: &Arc<Self>,
        idx: u16,
        max_size: u16,
        name: &str,
        cpu: CpuId,
        handler: Handler,
    ) -> Result<Queue<T>> {
        let size = self.transport.max_queue_size(idx).min(max_size);
        // A split ring's size is a power of two.
        let size =
            if size.is_power_of_two() { size } else { size.checked_next_power_of_two().unwrap_or(0) / 2 };
        if size == 0 {
            return Err(Errno::ENOENT);
        }
        let features = Features::from_bits_retain(self.features);
        let mut queue = Queue::new(size, features, Some(self.clone()))?;
        queue.set_index(idx);
        self.transport.set_queue_handler(idx, name, cpu, handler)?;
        self.transport.set_queue(idx, queue.setup())?;
        Ok(queue)
    }

    /// The driver is ready: the device may work.
    pub fn start(&self) {
        let status = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK | Status::DRIVER_OK;
        self.transport.set_status(status.bits());
    }

    /// Stops the device: it touches no memory any more.
    pub fn reset(&self) {
        self.transport.set_status(0);
    }

    /// Stops the device for good and waits until nobody else has it, interrupt handlers included: its registers and
    /// interrupts are free afterwards. The caller has taken its queues. Sleeps.
    pub fn let_go(self: Arc<Self>) {
        self.reset();
        while Arc::strong_count(&self) > 1 {
            let _ = sched::sleep_until(hal::time::now_ns() + 100_000, sched::Interruptible::No);
        }
    }

    /// Does the device want a reset?
    pub fn is_broken(&self) -> bool {
        self.transport.status() & Status::NEEDS_RESET.bits() != 0
    }

    /// Tells the device that queue `idx` has something.
    #[inline]
    pub fn notify(&self, idx: u16) {
        self.transport.notify(idx);
    }

    /// Reads a byte of the configuration.
    pub fn config_u8(&self, offset: usize) -> u8 {
        self.transport.config(offset, 1) as u8
    }

    /// Reads 16 bits of it.
    pub fn config_u16(&self, offset: usize) -> u16 {
        self.transport.config(offset, 2) as u16
    }

    /// Reads 32 bits of it.
    pub fn config_u32(&self, offset: usize) -> u32 {
        self.transport.config(offset, 4)
    }

    /// Reads 64 bits of it, in one state of the configuration.
    pub fn config_u64(&self, offset: usize) -> u64 {
        let mut value = 0;
        for _ in 0..16 {
            let before = self.transport.generation();
            value = u64::from(self.config_u32(offset)) | u64::from(self.config_u32(offset + 4)) << 32;
            if self.transport.generation() == before {
                break;
            }
        }
        value
    }
}

/// The number of a device that has a driver, `n` in its name `virtio<n>`; others may have it when this is dropped.
#[derive(Debug)]
pub struct BusIndex(u32);

/// Numbers that are in use.
static INDICES: SpinLock<BTreeSet<u32>> = SpinLock::new("virtio.indices", BTreeSet::new());

impl BusIndex {
    /// The smallest that is free.
    pub fn take() -> BusIndex {
        let mut used = INDICES.lock();
        // They ascend: the first that is not at its own place has a free one before it.
        let is_at_place = |&(at, index): &(u32, &u32)| at == *index;
        let free = (0..).zip(used.iter()).take_while(is_at_place).count() as u32;
        used.insert(free);
        BusIndex(free)
    }
}

impl Drop for BusIndex {
    fn drop(&mut self) {
        INDICES.lock().remove(&self.0);
    }
}

impl core::fmt::Display for BusIndex {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.0)
    }
}

pub(crate) fn no_interrupt(error: RequestError) -> Errno {
    match error {
        RequestError::NoSuchLine => Errno::ENODEV,
        RequestError::NoSpace => Errno::ENOSPC,
    }
}

/// A handler that several queues' owners share.
pub(crate) type SharedHandler = Arc<dyn Fn() + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_again() {
        let mut all: Vec<BusIndex> = (0..4).map(|_| BusIndex::take()).collect();
        assert_eq!(all.iter().map(|index| index.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
        drop(all.remove(1));
        let (again, next) = (BusIndex::take(), BusIndex::take());
        assert_eq!((again.0, next.0), (1, 4));
    }
}
