//! Who sees the packets of `lo`, and packets that others make (packet(7)).
//!
//! ```text
//!   TCP, UDP ── typed segment ──────────────────────────▶ receiving socket
//!                     │ only while there are taps
//!                     ▼ wire: bytes
//!                   Frame ──▶ each tap, as one that goes and as one that comes
//!                     ▲
//!   transmit ─────────┴──▶ input: parsed, checked ─────▶ receiving socket
//! ```
//!
//! While there is no tap that wants packets of IP, one of them costs a relaxed load and a branch for it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use abi::{Errno, Result};
use hal::sync::SpinLock;
use ns::NetNs;

use crate::buffer::Chunk;
use crate::input;
use crate::stack::Stack;
use crate::tcp::conn::Segment;
use crate::wire::{self, ETHERNET, Head};

pub use crate::wire::{ETH_P_IP, ETH_P_IPV6};

/// `ETH_P_ALL`.
const ETH_P_ALL: u16 = 3;
/// `ETH_P_802_3` and `ETH_P_802_2`: frames that name no protocol.
const ETH_P_802_3: u16 = 1;
const ETH_P_802_2: u16 = 4;
/// The least number that is a protocol and not a length.
const LEAST_PROTOCOL: u16 = 0x600;

/// How a frame passes (`PACKET_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It comes, and is for this machine.
    Host = 0,
    /// It comes, and is for some.
    Multicast = 2,
    /// It comes, and is for somebody else.
    OtherHost = 3,
    /// It goes.
    Outgoing = 4,
}

/// What the headers of a packet tell about whom it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// A number that all packets between two ends have in common, in both directions.
    pub hash: u32,
    /// Where the data begins, behind all headers that are known.
    pub payload: u32,
}

/// A frame with its Ethernet header.
#[derive(Debug)]
pub struct Frame {
    /// All its bytes: at least an Ethernet header.
    pub bytes: Arc<Vec<u8>>,
    /// Its protocol (`ETH_P_*`).
    pub protocol: u16,
    /// When it went, in nanoseconds of the wall clock.
    pub time_ns: i64,
    /// Number of the socket that sent it, which does not see it go; 0 for none.
    pub sender: u64,
    /// Its mark (`SO_MARK`).
    pub mark: u32,
    /// What [`Frame::flow`] tells.
    pub known_flow: KnownFlow,
}

/// A [`Flow`] that is found out when somebody asks for it.
#[derive(Debug)]
pub struct KnownFlow(AtomicU64);

impl KnownFlow {
    /// No payload begins so far behind.
    const UNKNOWN: u64 = u64::MAX;

    fn get_or(&self, look: impl FnOnce() -> Flow) -> Flow {
        match self.0.load(Relaxed) {
            Self::UNKNOWN => {
                let flow = look();
                self.0.store(u64::from(flow.payload) << 32 | u64::from(flow.hash), Relaxed);
                flow
            }
            known => Flow { hash: known as u32, payload: (known >> 32) as u32 },
        }
    }
}

impl Default for KnownFlow {
    fn default() -> Self {
        Self(AtomicU64::new(Self::UNKNOWN))
    }
}

impl Frame {
    /// A frame of this moment. Fewer bytes than an Ethernet header has are filled up with zeroes.
    pub fn new(mut bytes: Vec<u8>, protocol: u16, sender: u64, mark: u32) -> Self {
        if bytes.len() < ETHERNET {
            bytes.resize(ETHERNET, 0);
        }
        let time_ns = crate::udp::wall_ns();
        Self { bytes: Arc::new(bytes), protocol, time_ns, sender, mark, known_flow: KnownFlow::default() }
    }

    /// The bytes behind the Ethernet header.
    pub fn network(&self) -> &[u8] {
        self.bytes.get(ETHERNET..).unwrap_or_default()
    }

    /// The protocol that its header names.
    pub fn named_protocol(&self) -> u16 {
        let half = |at: usize| self.bytes.get(at..).and_then(|rest| rest.first_chunk().copied());
        let named = half(12).map_or(0, u16::from_be_bytes);
        if named >= LEAST_PROTOCOL {
            named
        } else if half(ETHERNET) == Some([0xff; 2]) {
            ETH_P_802_3
        } else {
            ETH_P_802_2
        }
    }

    /// What a look at its headers tells, which is taken once.
    pub fn flow(&self) -> Flow {
        self.known_flow.get_or(|| wire::flow(self.protocol, self.network()))
    }

    /// How it comes in on `lo`, whose address is all zeroes, and so is the one that is for all.
    fn arrival(&self) -> Way {
        match self.bytes.first_chunk::<6>() {
            Some([0, 0, 0, 0, 0, 0]) => Way::Host,
            Some([first, ..]) if first & 1 != 0 => Way::Multicast,
            _ => Way::OtherHost,
        }
    }
}

/// Sees frames.
pub trait Tap: Send + Sync {
    /// `frame` passes. Must not sleep: preemption may be off, though no lock is held.
    fn see(&self, frame: &Arc<Frame>, way: Way);

    /// The protocol (`ETH_P_*`) of the frames that it wants; 3 for all. Whoever changes it says so by [`changed`].
    fn protocol(&self) -> u16;

    /// `lo` was switched off.
    fn link_down(&self);
}

type All = Arc<Vec<Arc<dyn Tap>>>;

/// The taps of a namespace.
pub(crate) struct Taps {
    /// How many want packets of IP; changes with `all` locked.
    count: AtomicUsize,
    /// Replaced as a whole, so that nobody holds the lock while taps look.
    all: SpinLock<All>,
}

impl Taps {
    pub(crate) fn new() -> Self {
        Self { count: AtomicUsize::new(0), all: SpinLock::new("inet.taps", Arc::default()) }
    }

    /// Whether there are any that want packets of IP.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.count.load(Relaxed) != 0
    }

    fn all(&self) -> All {
        self.all.lock().clone()
    }

    /// `ENOBUFS`: no memory.
    fn change(&self, change: impl Fn(&mut Vec<Arc<dyn Tap>>)) -> Result<()> {
        loop {
            let old = self.all();
            let mut new = Vec::new();
            new.try_reserve_exact(old.len() + 1).map_err(|_| Errno::ENOBUFS)?;
            new.extend(old.iter().cloned());
            change(&mut new);
            let new = Arc::new(new);
            let mut all = self.all.lock();
            if Arc::ptr_eq(&all, &old) {
                let gone = core::mem::replace(&mut *all, new);
                self.count_of(&all);
                drop(all);
                drop(gone);
                return Ok(());
            }
        }
    }

    fn add(&self, tap: &Arc<dyn Tap>) -> Result<()> {
        self.change(|all| all.push(tap.clone()))
    }

    /// Needs no memory unless somebody goes through the taps meanwhile.
    fn remove(&self, tap: &Arc<dyn Tap>) {
        let is_it = |other: &Arc<dyn Tap>| core::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(tap));
        loop {
            {
                let mut all = self.all.lock();
                if let Some(list) = Arc::get_mut(&mut all) {
                    let gone = list.iter().position(is_it).map(|at| list.remove(at));
                    self.count_of(&all);
                    drop(all);
                    drop(gone);
                    return;
                }
            }
            if self.change(|all| all.retain(|other| !is_it(other))).is_ok() {
                return;
            }
            sched::yield_now();
        }
    }

    /// Counts those of `all`, which is locked, anew.
    fn count_of(&self, all: &All) {
        let wants = |tap: &&Arc<dyn Tap>| matches!(tap.protocol(), ETH_P_ALL | ETH_P_IP | ETH_P_IPV6);
        self.count.store(all.iter().filter(wants).count(), Relaxed);
    }

    fn pass(&self, frame: &Arc<Frame>, way: Way) {
        self.all().iter().for_each(|tap| tap.see(frame, way));
    }

    /// Tells that the interface is off.
    pub(crate) fn link_down(&self) {
        self.all().iter().for_each(|tap| tap.link_down());
    }
}

/// Shows the frames of `lo` in `net` to `tap` from now on. `ENOBUFS`: no memory.
pub fn add(net: &NetNs, tap: &Arc<dyn Tap>) -> Result<()> {
    Stack::of(net).taps.add(tap)
}

/// Shows them to `tap` no more; what is under way it may still see.
pub fn remove(net: &NetNs, tap: &Arc<dyn Tap>) {
    Stack::of(net).taps.remove(tap);
}

/// The protocol of a tap has changed.
pub fn changed(net: &NetNs) {
    let stack = Stack::of(net);
    let all = stack.taps.all.lock();
    stack.taps.count_of(&all);
}

/// Sends `frame` over `lo`, which is on: taps see it, and then who it is for gets it. Does not sleep.
pub fn transmit(net: &NetNs, frame: Frame) {
    let stack = Stack::of(net);
    let pinned = hal::preempt::disable();
    stack.lo.count(frame.bytes.len());
    let going = Arc::new(frame);
    stack.taps.pass(&going, Way::Outgoing);
    let (protocol, way) = (going.named_protocol(), going.arrival());
    let coming = if protocol == going.protocol {
        going
    } else {
        // The bytes are shared.
        Arc::new(Frame { bytes: going.bytes.clone(), protocol, known_flow: KnownFlow::default(), ..*going })
    };
    stack.taps.pass(&coming, way);
    drop(pinned);
    if way != Way::OtherHost {
        input::receive(&stack, coming.protocol, coming.network());
    }
}

fn show(stack: &Stack, protocol: u16, bytes: Vec<u8>) {
    let frame = Arc::new(Frame::new(bytes, protocol, 0, 0));
    stack.taps.pass(&frame, Way::Outgoing);
    stack.taps.pass(&frame, Way::Host);
}

/// Shows a segment to the taps. Does not sleep.
#[cold]
#[inline(never)]
pub(crate) fn segment(stack: &Stack, head: &Head, segment: &Segment) {
    wire::tcp_frames(head, segment, |bytes| show(stack, head.protocol(), bytes));
}

/// Shows the taps that a datagram found nobody. Does not sleep.
#[cold]
pub(crate) fn refusal(stack: &Stack, head: &Head, data: &Chunk) {
    if let Some(bytes) = wire::refusal_frame(head, data) {
        show(stack, head.protocol(), bytes);
    }
}

/// Shows a datagram to the taps. Does not sleep.
#[cold]
#[inline(never)]
pub(crate) fn datagram(stack: &Stack, head: &Head, data: &Chunk) {
    if let Some(bytes) = wire::udp_frame(head, data) {
        show(stack, head.protocol(), bytes);
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU16;

    use super::*;

    struct Wants(AtomicU16);

    impl Tap for Wants {
        fn see(&self, _frame: &Arc<Frame>, _way: Way) {}
        fn protocol(&self) -> u16 {
            self.0.load(Relaxed)
        }
        fn link_down(&self) {}
    }

    #[test]
    fn only_taps_that_want_packets_of_ip_cost_them_anything() {
        let taps = Taps::new();
        let tap = Arc::new(Wants(AtomicU16::new(0x806)));
        let shown: Arc<dyn Tap> = tap.clone();
        taps.add(&shown).unwrap();
        assert!(!taps.any());
        for (protocol, wants) in [(ETH_P_ALL, true), (0x88cc, false), (ETH_P_IP, true), (ETH_P_IPV6, true)] {
            tap.0.store(protocol, Relaxed);
            taps.count_of(&taps.all());
            assert_eq!(taps.any(), wants, "{protocol:#x}");
        }
        // While somebody goes through them, and while nobody does.
        taps.add(&shown).unwrap();
        let held = taps.all();
        taps.remove(&shown);
        assert_eq!((held.len(), taps.all().len()), (2, 0));
        drop(held);
        taps.add(&shown).unwrap();
        taps.remove(&shown);
        assert!(!taps.any() && taps.all().is_empty());
    }
}
