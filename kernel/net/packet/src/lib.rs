#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
mod calls;
mod fanout;
mod options;
mod receive;
mod ring;
mod send;
pub mod show;
mod socket;
mod view;
mod virtio;

use alloc::sync::Arc;

use abi::{Errno, Result};
use net_core::{SockType, Socket};
use ns::NetNs;
use security::{Cap, Cred};

use crate::socket::PacketSocket;

/// Checks the arguments of socket(2), in the order in which Linux does.
///
/// `EPERM`: `cred` has no CAP_NET_RAW in the network namespace's user namespace. `ESOCKTNOSUPPORT`: no such type.
pub fn check(kind: i32, cred: &Cred) -> Result<()> {
    type_of(kind, &NetNs::current(), cred).map(drop)
}

fn type_of(kind: i32, net: &NetNs, cred: &Cred) -> Result<SockType> {
    if !cred.ns_capable(net.id().owner(), Cap::NET_RAW) {
        return Err(Errno::EPERM);
    }
    match kind {
        2 => Ok(SockType::Datagram),
        3 => Ok(SockType::Raw),
        // LINUX: SOCK_PACKET, which has been obsolete since version 2.2, is there.
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

/// socket(2) of `AF_PACKET`; the protocol is in network order. `ENOBUFS`; else as for [`check`].
pub fn create(kind: i32, protocol: i32, cred: &Cred) -> Result<Arc<dyn Socket>> {
    let net = NetNs::current();
    let kind = type_of(kind, &net, cred)?;
    // Timers hand their work over in interrupts, which cannot start the first worker.
    sched::workqueue::init();
    Ok(PacketSocket::create(kind, u16::from_be(protocol as u16), net, cred)?)
}
