//! The virtio entropy source (VIRTIO 1.2, ch. 5.4): stirs what the host gives into the kernel's random numbers.
//!
//! One buffer goes to the device at boot; when it comes back it is mixed in and, the first times, sent again, so that
//! the pool has several portions. The host's bytes are mixed, never believed: a bad host makes nothing worse.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::Result;
use hal::cpu::CpuId;
use hal::frame::Frame;
use hal::sync::IrqLock;
use virtio::{Device, Features, Piece, Queue, Release, Transport};

/// Name below /sys/bus/virtio/drivers.
const NAME: &str = "virtio_rng";
/// Bytes asked for at once.
const PORTION: usize = 64;
/// Portions asked for.
const PORTIONS: u32 = 4;

struct Source {
    queue: IrqLock<Option<Queue<Frame>>>,
    left: AtomicU32,
}

static DRIVER: virtio::PciDriver =
    virtio::PciDriver { name: "virtio-pci-rng", virtio_name: NAME, kind: virtio::kind::RNG, attach };

/// Takes all entropy sources on the PCI bus. Call once at boot.
pub fn register() {
    pci::register(&DRIVER);
}

/// Uses a virtio entropy source; gives how it is let go. `ENODEV`, `ENOMEM`, `ENOSPC`: it cannot be.
pub fn attach(transport: Box<dyn Transport>) -> Result<Release> {
    let device = Arc::new(Device::new(transport, Features::EVENT_IDX.bits())?);
    let source = Arc::new(Source { queue: IrqLock::new("virtio.rng", None), left: AtomicU32::new(PORTIONS) });
    let target = source.clone();
    let bus_index = virtio::BusIndex::take();
    let name = alloc::format!("virtio{bus_index}-input");
    let mut queue = device.queue(0, 8, &name, CpuId(0), Box::new(move || target.received()))?;
    queue.enable_interrupt();
    *source.queue.lock() = Some(queue);
    device.start();
    log::info!("virtio_rng: a source of entropy");
    if let Some(frame) = Frame::alloc_zeroed() {
        source.ask(frame);
    }
    Ok(Box::new(move || {
        device.reset();
        let queue = source.queue.lock().take();
        drop(queue);
        device.let_go();
        drop(bus_index);
    }))
}

impl Source {
    fn ask(&self, frame: Frame) {
        let device = {
            let mut queue = self.queue.lock();
            let Some(queue) = queue.as_mut() else { return };
            let piece = Piece { paddr: frame.paddr(), len: PORTION as u32, is_written: true };
            if queue.add(&[], core::iter::once(piece), 0, frame).is_err() || !queue.should_notify() {
                return;
            }
            queue.device().cloned()
        };
        if let Some(device) = device {
            device.notify(0);
        }
    }

    fn received(&self) {
        loop {
            let done = {
                let mut queue = self.queue.lock();
                let Some(queue) = queue.as_mut() else { return };
                match queue.pop() {
                    Some(done) => done,
                    None if queue.enable_interrupt() => continue,
                    None => return,
                }
            };
            let mut bytes = [0; PORTION];
            let len = (done.written as usize).min(PORTION);
            done.token.read(0, &mut bytes[..len]);
            random::stir(&bytes[..len]);
            if self.left.fetch_sub(1, Ordering::Relaxed) > 1 {
                self.ask(done.token);
            }
        }
    }
}
