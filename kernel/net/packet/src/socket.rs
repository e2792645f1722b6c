//! The socket itself, and the frames that it sees.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::sync::SpinLock;
use net_core::{Options, SockType, filter};
use net_inet::interface::{self, LO_INDEX};
use net_inet::tap::{self, Frame, Tap, Way};
use ns::NetNs;
use sched::{Mutex, Timer, WaitQueue};
use security::Cred;

use crate::address::Address;
use crate::fanout::Group;
use crate::options::{Member, Settings};
use crate::ring::{self, Arrival, Put, RxRing, TxRing};
use crate::view::View;

/// `ETH_P_ALL`: every protocol.
pub(crate) const ETH_P_ALL: u16 = 3;
/// What a packet costs beyond its bytes; about what a Linux `sk_buff` does.
const OVERHEAD: usize = 256;
/// Bytes are counted in units of this.
const UNIT: usize = 512;
/// A packet came.
pub(crate) const READABLE: u32 = PollEvents::IN.union(PollEvents::RDNORM).bits();

/// A packet that waits to be received.
#[derive(Clone)]
pub(crate) struct Packet {
    pub(crate) frame: Arc<Frame>,
    pub(crate) way: Way,
    /// Bytes that the filter wants.
    pub(crate) len: usize,
}

impl Packet {
    fn cost(&self) -> usize {
        self.frame.bytes.len().next_multiple_of(UNIT) + OVERHEAD
    }
}

/// What happened since somebody asked (`struct tpacket_stats_v3`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) packets: u32,
    pub(crate) drops: u32,
    /// How often a ring of blocks had to wait for its reader.
    pub(crate) freezes: u32,
}

/// What the lock guards.
#[derive(Default)]
pub(crate) struct Inner {
    /// Protocol that it sees; 0: none.
    pub(crate) protocol: u16,
    /// Number of its interface; 0: all.
    pub(crate) interface: u32,
    pub(crate) queue: VecDeque<Packet>,
    pub(crate) charged: usize,
    pub(crate) error: Option<Errno>,
    pub(crate) counts: Counts,
    pub(crate) members: Vec<Member>,
    /// When the packet came that was received last; 0: none was.
    pub(crate) last_ns: i64,
}

/// How the socket hears of frames.
#[derive(Default)]
pub(crate) struct Hook {
    /// It is a tap of its own.
    is_tap: bool,
    /// It hears of them by its group.
    pub(crate) group: Option<Arc<Group>>,
    is_dead: bool,
}

/// A socket of the family `AF_PACKET`.
pub(crate) struct PacketSocket {
    me: Weak<PacketSocket>,
    /// A number that no other one has or had; not 0.
    pub(crate) id: u64,
    pub(crate) kind: SockType,
    pub(crate) net: Arc<NetNs>,
    pub(crate) uid: u32,
    pub(crate) ino: AtomicU64,
    pub(crate) options: Options,
    pub(crate) settings: Settings,
    pub(crate) filter: filter::Slot,
    pub(crate) inner: SpinLock<Inner>,
    pub(crate) hook: Mutex<Hook>,
    pub(crate) rx: SpinLock<Option<RxRing>>,
    pub(crate) tx: SpinLock<Option<TxRing>>,
    /// Held by who sends the frames of the ring, so that they go one by one and the ring stays.
    pub(crate) sending: Mutex<()>,
    /// How many mappings of its rings there are.
    pub(crate) mapped: Arc<AtomicU64>,
    /// Closes blocks of a ring that wait too long to be full.
    pub(crate) timer: Timer,
    pub(crate) wait: WaitQueue,
}

impl PacketSocket {
    /// A new one. `ENOBUFS`.
    pub(crate) fn create(kind: SockType, protocol: u16, net: Arc<NetNs>, cred: &Cred) -> Result<Arc<Self>> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let socket = Arc::new_cyclic(|me: &Weak<Self>| Self {
            me: me.clone(),
            id: NEXT.fetch_add(1, Relaxed),
            kind,
            net,
            uid: cred.fsuid,
            ino: AtomicU64::new(0),
            options: Options::new(),
            settings: Settings::default(),
            filter: filter::Slot::new(),
            inner: SpinLock::new("packet.socket", Inner { protocol, ..Inner::default() }),
            hook: Mutex::new("packet.hook", Hook::default()),
            rx: SpinLock::new("packet.rx", None),
            tx: SpinLock::new("packet.tx", None),
            sending: Mutex::new("packet.sending", ()),
            mapped: Arc::default(),
            timer: ring::timer(me.clone()),
            wait: WaitQueue::new(),
        });
        crate::show::enter(&socket)?;
        let hooked = socket.rehook(&mut socket.hook.lock());
        hooked.inspect_err(|_| crate::show::leave(&socket))?;
        Ok(socket)
    }

    pub(crate) fn weak(&self) -> Weak<Self> {
        self.me.clone()
    }

    /// Sees frames from now on, or no more, by what it is bound to. `ENOBUFS`: it is to see some, and there is no memory.
    pub(crate) fn rehook(&self, hook: &mut Hook) -> Result<()> {
        let wants = !hook.is_dead && hook.group.is_none() && self.inner.lock().protocol != 0;
        if wants == hook.is_tap {
            return Ok(());
        }
        let Some(me) = self.me.upgrade() else { return Ok(()) };
        let me: Arc<dyn Tap> = me;
        if wants {
            tap::add(&self.net, &me)?;
        } else {
            tap::remove(&self.net, &me);
        }
        hook.is_tap = wants;
        Ok(())
    }

    /// bind(2). `EINVAL`: it is in a group. `ENODEV`: no such interface. `ENOBUFS`. With a new one that is off, `ENETDOWN` comes later.
    pub(crate) fn bind_to(&self, address: Address) -> Result<()> {
        let mut hook = self.hook.lock();
        if hook.group.is_some() {
            return Err(Errno::EINVAL);
        }
        let interface = match u32::try_from(address.interface) {
            Ok(interface @ (0 | LO_INDEX)) => interface,
            _ => return Err(Errno::ENODEV),
        };
        let is_off = interface != 0 && !interface::link(&self.net).is_up;
        let is_down = {
            let mut inner = self.inner.lock();
            let old = (inner.interface, inner.protocol);
            inner.interface = interface;
            if address.protocol != 0 {
                inner.protocol = address.protocol;
            }
            let is_down = is_off && inner.protocol != 0 && old != (inner.interface, inner.protocol);
            if is_down {
                inner.error = Some(Errno::ENETDOWN);
            }
            is_down
        };
        self.rehook(&mut hook)?;
        tap::changed(&self.net);
        drop(hook);
        if is_down {
            self.wait.wake_events(PollEvents::ERR.bits());
        }
        Ok(())
    }

    /// Whether a frame is of its protocol and none that it does not want to see.
    fn wants(&self, frame: &Frame, way: Way) -> bool {
        let protocol = self.inner.lock().protocol;
        match way {
            Way::Outgoing => {
                protocol == ETH_P_ALL && frame.sender != self.id && !self.settings.ignores_outgoing()
            }
            _ => protocol == ETH_P_ALL || protocol == frame.protocol,
        }
    }

    /// Takes in a frame that it wants, as far as its filter lets it.
    pub(crate) fn take_in(&self, frame: &Arc<Frame>, way: Way) {
        let view = View::new(self.kind, frame, way);
        let wanted = self.filter.get_filter().map_or(u32::MAX, |filter| filter.run(&view));
        if wanted == 0 {
            return;
        }
        let len = view.seen().len().min(wanted as usize);
        let put = {
            let mut rx = self.rx.lock();
            rx.as_mut().map(|ring| ring.put(&self.arrival(view, len)))
        };
        let Some(put) = put else {
            return self.enqueue(Packet { frame: frame.clone(), way, len });
        };
        {
            let counts = &mut self.inner.lock().counts;
            counts.packets = counts.packets.wrapping_add(u32::from(put.is_stored));
            counts.drops = counts.drops.wrapping_add(u32::from(!put.is_stored));
            counts.freezes = counts.freezes.wrapping_add(u32::from(put.froze));
        }
        self.ring_changed(&put);
    }

    fn arrival<'a>(&self, view: View<'a>, len: usize) -> Arrival<'a> {
        Arrival {
            view,
            len,
            is_losing: self.inner.lock().counts.drops != 0,
            header: self.settings.virtio_header(),
            stamp_status: self.settings.stamp_status(),
        }
    }

    /// Tells readers of a change in the ring, and sets the timer.
    pub(crate) fn ring_changed(&self, put: &Put) {
        if put.is_readable {
            self.wait.wake_events(READABLE);
        }
        if let Some(deadline_ns) = put.deadline_ns {
            self.timer.start(deadline_ns);
        }
    }

    /// Appends to the queue; what has no room is lost.
    fn enqueue(&self, packet: Packet) {
        let mut inner = self.inner.lock();
        if inner.charged >= self.options.rcvbuf() || inner.queue.try_reserve(1).is_err() {
            inner.counts.drops = inner.counts.drops.wrapping_add(1);
            drop(inner);
            return;
        }
        inner.counts.packets = inner.counts.packets.wrapping_add(1);
        inner.charged += packet.cost();
        inner.queue.push_back(packet);
        drop(inner);
        self.wait.wake_events(READABLE);
    }

    /// Takes the first packet; with `peeks` it stays.
    pub(crate) fn first(&self, peeks: bool) -> Option<Result<Packet>> {
        let mut inner = self.inner.lock();
        if let Some(error) = inner.error.take() {
            return Some(Err(error));
        }
        let packet = if peeks { inner.queue.front().cloned() } else { inner.queue.pop_front() }?;
        if !peeks {
            inner.charged -= packet.cost().min(inner.charged);
        }
        inner.last_ns = packet.frame.time_ns;
        Some(Ok(packet))
    }

    /// Throws away what waits.
    pub(crate) fn purge(&self) {
        let gone = {
            let mut inner = self.inner.lock();
            inner.charged = 0;
            core::mem::take(&mut inner.queue)
        };
        drop(gone);
    }

    /// The file is closed.
    pub(crate) fn close(&self) {
        let group = {
            let mut hook = self.hook.lock();
            hook.is_dead = true;
            // It sees no more, which needs no memory.
            let _ = self.rehook(&mut hook);
            hook.group.take()
        };
        if let Some(group) = group {
            group.leave(self);
        }
        crate::show::leave(self);
        self.timer.cancel();
        let (rx, tx) = (self.rx.lock().take(), self.tx.lock().take());
        drop((rx, tx));
        self.purge();
        self.wait.wake_events(u32::MAX);
    }
}

impl Tap for PacketSocket {
    fn see(&self, frame: &Arc<Frame>, way: Way) {
        if self.wants(frame, way) {
            self.take_in(frame, way);
        }
    }

    fn protocol(&self) -> u16 {
        self.inner.lock().protocol
    }

    fn link_down(&self) {
        {
            let mut inner = self.inner.lock();
            if inner.interface != LO_INDEX {
                return;
            }
            inner.error = Some(Errno::ENETDOWN);
        }
        self.wait.wake_events(PollEvents::ERR.bits());
    }
}
