//! Data under way, and who pays for it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use abi::poll::PollEvents;
use abi::socket::Ucred;
use abi::{Errno, Result};
use hal::uio::Src;
use net_core::{Options, Process};
use sched::WaitQueue;

use crate::address::Address;
use crate::rights::Rights;

/// What a packet costs beyond its data; about what a Linux `sk_buff` does, so that queues hold similar numbers.
const OVERHEAD: usize = 576;
/// Packets' data is counted in units of this.
const UNIT: usize = 512;

/// The sending side of a socket: options, bytes under way, and who waits for room.
pub(crate) struct Sender {
    pub(crate) options: Options,
    used: AtomicUsize,
    pub(crate) wait: WaitQueue,
}

impl Sender {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { options: Options::new(), used: AtomicUsize::new(0), wait: WaitQueue::new() })
    }

    /// Bytes under way, with what they cost beside.
    pub(crate) fn used(&self) -> usize {
        self.used.load(SeqCst)
    }

    /// Whether another packet may be sent: the last one may pass the limit.
    pub(crate) fn has_room(&self) -> bool {
        self.used() < self.options.sndbuf()
    }

    /// Whether poll calls it writable: there must be more room, so that senders do not wake for single packets.
    pub(crate) fn is_writable(&self) -> bool {
        self.used().saturating_mul(4) <= self.options.sndbuf()
    }
}

/// A packet's share of its sender's buffer.
struct Charge {
    sender: Arc<Sender>,
    size: usize,
}

impl Charge {
    fn new(sender: &Arc<Sender>, len: usize) -> Self {
        let size = (len + OVERHEAD).next_multiple_of(UNIT);
        sender.used.fetch_add(size, SeqCst);
        Self { sender: sender.clone(), size }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.sender.used.fetch_sub(self.size, SeqCst);
        if self.sender.is_writable() {
            self.sender.wait.wake_events((PollEvents::OUT | PollEvents::WRNORM | PollEvents::WRBAND).bits());
        }
    }
}

/// A piece of a stream or a message.
pub(crate) struct Packet {
    pub(crate) data: Arc<Vec<u8>>,
    /// Bytes of `data` that were received.
    pub(crate) offset: usize,
    pub(crate) rights: Rights,
    pub(crate) cred: Ucred,
    /// The sender, if either side asked for it.
    pub(crate) process: Option<Process>,
    /// Somebody has looked at it without taking it.
    pub(crate) was_seen: bool,
    /// The sender's name.
    pub(crate) from: Option<Address>,
    _charge: Charge,
}

impl Packet {
    /// Takes `len` bytes from `src`. `EFAULT`, `ENOMEM`. May sleep.
    pub(crate) fn take(
        sender: &Arc<Sender>,
        src: &mut Src<'_>,
        len: usize,
        cred: Ucred,
        from: Option<Address>,
    ) -> Result<Self> {
        let mut data = Vec::new();
        data.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        data.resize(len, 0);
        if len > 0 && src.take_bytes(&mut data)? < len {
            return Err(Errno::EFAULT);
        }
        let charge = Charge::new(sender, len);
        let (data, rights) = (Arc::new(data), Rights::default());
        let (process, was_seen) = (None, false);
        Ok(Self { data, offset: 0, rights, cred, process, was_seen, from, _charge: charge })
    }

    /// Bytes not received yet.
    pub(crate) fn left(&self) -> usize {
        self.data.len() - self.offset
    }
}
