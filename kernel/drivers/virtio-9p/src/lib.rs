//! The virtio 9P transport (VIRTIO 1.2, device type 9): a queue on which messages of 9P travel, and the tag that mount(2)
//! knows it by.
//!
//! A call is one chain of descriptors: the request in the slot's header or in frames, then the frames of the reply. The
//! device answers in any order; completion takes answers out under the queue's lock and tells their owners without it.
//!
//! A device that breaks the rules, wants a reset or does not answer its registers any more is given up: it is reset, and all
//! calls fail with `EIO`.
//!
//! # Locks
//!
//! `virtio.9p.queue` (interrupts off): the virtqueue. Nothing is called under it but the queue.
//!
//! Source: VIRTIO 1.2; the configuration as QEMU's documentation of `virtio-9p` and Linux 7.2's header tell it.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::cpu::CpuId;
use hal::sync::IrqLock;
use p9fs::channel::{self, Call, Channel, Part, Refused};
use virtio::{Device, Features, Piece, Queue, Release, Transport};

/// Name below /sys/bus/virtio/drivers.
const NAME: &str = "9pnet_virtio";
/// There is a tag.
const MOUNT_TAG: u32 = 0;
// Offsets in the configuration.
const TAG_LEN: usize = 0;
const TAG: usize = 2;
/// Descriptors of the queue at most.
const MAX_QUEUE_SIZE: u16 = 128;
/// Pieces of a call that carry no full page of data: the request, the rest of the reply, and both ends of data.
const OTHER_PIECES: usize = 4;
/// A register of a device that is not there.
const ABSENT: u8 = 0xff;
const NEEDS_RESET: u8 = 64;
const DRIVER_OK: u8 = 4;

static DRIVER: virtio::PciDriver =
    virtio::PciDriver { name: "virtio-pci-9p", virtio_name: NAME, kind: virtio::kind::P9, attach };

/// Takes all 9P transports on the PCI bus. Call once at boot.
pub fn register() {
    pci::register(&DRIVER);
}

struct Virtio9p {
    tag: Vec<u8>,
    max_message: u32,
    queue: IrqLock<Option<Queue<Arc<Call>>>>,
}

/// Makes the servers behind a virtio 9P transport known; gives how it is let go. `ENODEV`, `EINVAL`, `ENOMEM`, `ENOSPC`: it cannot be used.
pub fn attach(transport: Box<dyn Transport>) -> Result<Release> {
    let wanted = 1 << MOUNT_TAG | (Features::INDIRECT | Features::EVENT_IDX).bits();
    let device = Arc::new(Device::new(transport, wanted)?);
    if !device.has(MOUNT_TAG) {
        return Err(Errno::EINVAL);
    }
    let tag: Vec<u8> =
        (0..usize::from(device.config_u16(TAG_LEN))).map(|at| device.config_u8(TAG + at)).collect();
    let bus_index = virtio::BusIndex::take();
    let target: Arc<hal::sync::Once<Arc<Virtio9p>>> = Arc::default();
    let own = target.clone();
    let handler = move || {
        if let Some(target) = own.get() {
            target.complete();
        }
    };
    let name = alloc::format!("virtio{bus_index}-requests");
    let mut queue = device.queue(0, MAX_QUEUE_SIZE, &name, CpuId(0), Box::new(handler))?;
    // A chain has the queue's length at most, whatever tables could hold.
    let pieces = queue.max_pieces().min(usize::from(queue.size())).saturating_sub(OTHER_PIECES);
    let max_message = u32::try_from(pieces * PAGE_SIZE).map_err(|_| Errno::EINVAL)?;
    queue.enable_interrupt();
    let shown = String::from_utf8_lossy(&tag).into_owned();
    let queue = IrqLock::new("virtio.9p.queue", Some(queue));
    let channel = Arc::new(Virtio9p { tag, max_message, queue });
    target.call_once(|| channel.clone());
    device.start();
    log::info!("9pnet_virtio virtio{bus_index}: mount tag {shown}");
    channel::add(channel.clone());
    Ok(Box::new(move || {
        let known: Arc<dyn Channel> = channel.clone();
        channel::remove(&known);
        device.reset();
        channel.give_up();
        let queue = channel.queue.lock().take();
        drop(queue);
        device.let_go();
        drop(bus_index);
    }))
}

/// Where the bytes of `call` are behind its head.
fn pieces(call: &Call) -> impl Iterator<Item = Piece> + Clone {
    let piece = |part: &Part, is_written| Piece {
        paddr: hal::PhysAddr(part.frame.paddr().0 + part.offset as u64),
        len: part.len as u32,
        is_written,
    };
    let out = call.out().iter().map(move |part| piece(part, false));
    out.chain(call.reply().iter().map(move |part| piece(part, true)))
}

impl Virtio9p {
    /// Ends the calls that the device is done with. Runs in its interrupt, and when somebody has waited long.
    fn complete(&self) {
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
            done.token.complete(done.written);
        }
    }

    /// The device, while it is there.
    fn device(&self) -> Option<Arc<Device>> {
        self.queue
            .lock()
            .as_ref()
            .filter(|queue| !queue.is_broken())
            .and_then(|queue| queue.device().cloned())
    }

    fn is_gone(&self) -> bool {
        let Some(device) = self.device() else { return true };
        let status = device.transport().status();
        status == ABSENT || status & NEEDS_RESET != 0 || status & DRIVER_OK == 0
    }

    /// The device was reset: from here on it touches no memory, so the frames of the calls can go.
    fn give_up(&self) {
        loop {
            let next = self.queue.lock().as_mut().and_then(|queue| queue.drain().next());
            let Some(call) = next else { return };
            call.fail();
        }
    }
}

impl Channel for Virtio9p {
    fn tag(&self) -> &[u8] {
        &self.tag
    }

    fn max_message(&self) -> u32 {
        self.max_message
    }

    fn submit(&self, call: &Arc<Call>) -> core::result::Result<(), Refused> {
        let mut guard = self.queue.lock();
        let Some(queue) = guard.as_mut().filter(|queue| !queue.is_broken()) else {
            return Err(Refused::Gone);
        };
        let Some(prepared) = queue.prepare(call.head(), pieces(call), 0) else {
            // Nothing under way: it will never fit.
            return Err(if queue.is_idle() { Refused::NoMemory } else { Refused::Full });
        };
        queue.publish(prepared, call.clone());
        let device = if queue.should_notify() { queue.device().cloned() } else { None };
        drop(guard);
        if let Some(device) = device {
            device.notify(0);
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        self.complete();
        if !self.is_gone() {
            return Ok(());
        }
        let device = self.queue.lock().as_ref().and_then(|queue| queue.device().cloned());
        if let Some(device) = device {
            device.reset();
        }
        self.give_up();
        Err(Errno::EIO)
    }
}
