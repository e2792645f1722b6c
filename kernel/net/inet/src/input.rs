//! Packets that came as bytes: checked, and given to the socket that they are for.
//!
//! Whoever may open packet sockets sends what he likes, so nothing in a packet is believed. Those that Linux takes for
//! martians are dropped as there: of version 4, from or to 127.0.0.0/8 unless route_localnet is set, and from an address of
//! this machine unless accept_local is.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use hal::uio::Src;

use crate::buffer::Chunk;
use crate::ip::Ip;
use crate::stack::Stack;
use crate::sysctl;
use crate::tcp::conn;
use crate::udp;
use crate::wire::{self, Head, Parsed};

/// Whether a switch of net.ipv4.conf is on, for all interfaces or for `lo`.
fn is_on(switch: &sysctl::Switch) -> bool {
    let [all, lo, _] = switch;
    all.load(Relaxed) != 0 || lo.load(Relaxed) != 0
}

/// Whether a packet between these addresses may come in by `lo`.
fn is_plausible(stack: &Stack, from: Ip, to: Ip) -> bool {
    if from.is_multicast() || from.is_broadcast() || to.is_any() || to.is_multicast() || !stack.is_local(to) {
        return false;
    }
    let is_loopback = |ip: Ip| ip.as_v4().is_some_and(|bits| bits >> 24 == 127);
    if !to.is_v4() {
        return true;
    }
    if is_loopback(from) || is_loopback(to) {
        return is_on(&sysctl::ROUTE_LOCALNET) && (is_on(&sysctl::ACCEPT_LOCAL) || !stack.is_local(from));
    }
    !from.is_any() && (is_on(&sysctl::ACCEPT_LOCAL) || !stack.is_local(from))
}

/// Takes in a packet without its Ethernet header. What is broken or for nobody is dropped. Does not sleep.
pub(crate) fn receive(stack: &Arc<Stack>, protocol: u16, packet: &[u8]) {
    let Some(parsed) = wire::parse(protocol, packet) else { return };
    let &Head { from, to, ttl, tos } = parsed.head();
    if !is_plausible(stack, from.ip, to.ip) {
        return;
    }
    match parsed {
        Parsed::Udp(_, data) => {
            if let Some(data) = chunk(data) {
                // Nobody is told where there is no receiver: the sender is no socket of UDP.
                let _ = udp::arrive(stack, from, to, ttl, tos, data);
            }
        }
        Parsed::Tcp(_, mut segment, data) => {
            // Nobody elsewhere could be answered.
            if !stack.is_local(from.ip) || from.port == 0 || to.port == 0 {
                return;
            }
            if !data.is_empty() {
                let Some(data) = chunk(data) else { return };
                segment.data.push(data);
            }
            conn::arrive(stack, from, to, segment);
        }
    }
}

fn chunk(bytes: &[u8]) -> Option<Chunk> {
    Chunk::take(&mut Src::kernel(bytes), bytes.len()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Ip {
        Ip::of_std(text.parse().unwrap())
    }

    #[test]
    fn martians_are_dropped() {
        let stack = Stack::for_test(&[("127.0.0.1", 8), ("::1", 128), ("10.1.0.1", 24)]);
        let is_in = |from: &str, to: &str| is_plausible(&stack, ip(from), ip(to));
        assert!(is_in("9.9.9.9", "10.1.0.1") && is_in("::1", "::1") && is_in("::2", "::1"));
        for (from, to) in [
            ("127.0.0.1", "127.0.0.1"),
            ("9.9.9.9", "127.0.0.1"),
            ("10.1.0.2", "10.1.0.1"),
            ("9.9.9.9", "8.8.8.8"),
            ("224.0.0.1", "10.1.0.1"),
            ("0.0.0.0", "10.1.0.1"),
            ("9.9.9.9", "255.255.255.255"),
            ("::1", "ff02::1"),
            ("::1", "::2"),
        ] {
            assert!(!is_in(from, to), "{from} {to}");
        }
    }
}
