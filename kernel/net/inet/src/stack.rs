//! What a network namespace has: interfaces, ports, connections.
//!
//! There is one interface, `lo`, in each namespace. It is down at first, as on Linux; its addresses are in `interface`. What is sent over it is handed to the receiver at once, in the sender's context.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::{Errno, Result};
use ns::NetNs;

use crate::interface::Addresses;
use crate::ip::Ip;
use crate::ports::Ports;
use crate::tap::Taps;
use crate::tcp::table::Connections;
use crate::udp::Receivers;

/// Number of `lo`.
pub const LO_INDEX: u32 = 1;
/// Largest packet on `lo`.
pub const LO_MTU: u32 = 65536;

/// The loopback interface.
pub(crate) struct Loopback {
    is_up: AtomicBool,
    /// It was on at some time.
    was_up: AtomicBool,
    mtu: AtomicU32,
    pub(crate) packets: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

impl Loopback {
    #[inline]
    pub(crate) fn is_up(&self) -> bool {
        self.is_up.load(Relaxed)
    }

    /// Switches it, and gives what it was.
    pub(crate) fn set_up(&self, is_up: bool) -> bool {
        self.was_up.fetch_or(is_up, Relaxed);
        self.is_up.swap(is_up, Relaxed)
    }

    pub(crate) fn was_up(&self) -> bool {
        self.was_up.load(Relaxed)
    }

    pub(crate) fn mtu(&self) -> u32 {
        self.mtu.load(Relaxed)
    }

    pub(crate) fn set_mtu(&self, mtu: u32) {
        self.mtu.store(mtu, Relaxed);
    }

    /// Counts a packet, which is received as soon as it is sent.
    #[inline]
    pub(crate) fn count(&self, bytes: usize) {
        self.packets.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }
}

/// The network of one namespace.
pub(crate) struct Stack {
    pub(crate) lo: Loopback,
    pub(crate) addresses: Addresses,
    pub(crate) tcp_ports: Ports,
    pub(crate) udp_ports: Ports,
    pub(crate) connections: Connections,
    pub(crate) receivers: Receivers,
    pub(crate) taps: Taps,
}

impl Stack {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            lo: Loopback {
                is_up: AtomicBool::new(false),
                was_up: AtomicBool::new(false),
                mtu: AtomicU32::new(LO_MTU),
                packets: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
            },
            addresses: Addresses::new(),
            tcp_ports: Ports::new(),
            udp_ports: Ports::new(),
            connections: Connections::new(),
            receivers: Receivers::new(),
            taps: Taps::new(),
        })
    }

    /// One whose interface is on and has these addresses.
    #[cfg(test)]
    pub(crate) fn for_test(addresses: &[(&str, u8)]) -> Arc<Stack> {
        let stack = Self::new();
        stack.lo.set_up(true);
        for (ip, prefix) in addresses {
            stack.addresses.add_for_test(ip.parse().unwrap(), *prefix);
        }
        stack
    }

    /// That of `net`.
    pub(crate) fn of(net: &NetNs) -> Arc<Stack> {
        let state = net.state(|| Stack::new());
        match state.clone().downcast() {
            Ok(stack) => stack,
            // Nobody else gives namespaces a state.
            Err(_) => Stack::new(),
        }
    }

    /// The address that packets to `ip` come from unless told otherwise, if it is an address of this machine.
    #[inline]
    fn source_for(&self, ip: Ip) -> Option<Ip> {
        if self.lo.is_up() { self.addresses.source_for(ip) } else { None }
    }

    /// Whether `ip` is an address of this machine.
    pub(crate) fn is_local(&self, ip: Ip) -> bool {
        self.source_for(ip).is_some()
    }

    /// Checks that a socket may take `ip` as its own. `EADDRNOTAVAIL`.
    ///
    /// Any address of version 4 will do as long as there is no interface up, as on Linux.
    pub(crate) fn check_own(&self, ip: Ip) -> Result<()> {
        if ip.is_v4() && !self.lo.is_up() {
            return Ok(());
        }
        if ip.is_any() || ip.is_multicast() || ip.is_broadcast() || self.is_local(ip) {
            Ok(())
        } else {
            Err(Errno::EADDRNOTAVAIL)
        }
    }

    /// The address that packets to `to` come from, and where they really go: to oneself if `to` is the address of all.
    ///
    /// `ENETUNREACH`: there is no way. `from` is the socket's own address, if it has one.
    pub(crate) fn route(&self, from: Ip, to: Ip) -> Result<(Ip, Ip)> {
        let to = if to.is_any() { to.loopback_like() } else { to };
        let source = self.source_for(to).ok_or(Errno::ENETUNREACH)?;
        Ok((if from.is_any() { source } else { from }, to))
    }
}
