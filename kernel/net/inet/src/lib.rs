#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod buffer;
pub mod diag;
mod input;
pub mod interface;
mod ioctl;
mod ip;
mod level;
mod ports;
pub mod show;
mod stack;
pub mod sysctl;
pub mod tap;
mod tcp;
mod udp;
mod wire;

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use abi::socket::AF_INET;
use abi::{Errno, Result};
use net_core::Socket;
use ns::NetNs;
use security::{Cap, Cred};

use crate::ip::{Endpoint, Ip};
use crate::level::IpOptions;
use crate::stack::Stack;

/// Which sockets there are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
}

const SOCK_STREAM: i32 = 1;
const SOCK_DGRAM: i32 = 2;
/// One past the highest protocol number.
const NR_PROTOCOLS: i32 = 263;

fn kind_of(kind: i32, protocol: i32) -> Result<Kind> {
    if !(0..NR_PROTOCOLS).contains(&protocol) {
        return Err(Errno::EINVAL);
    }
    match (kind, protocol) {
        (SOCK_STREAM, 0 | tcp::IPPROTO_TCP) => Ok(Kind::Tcp),
        (SOCK_DGRAM, 0 | udp::IPPROTO_UDP) => Ok(Kind::Udp),
        (SOCK_STREAM | SOCK_DGRAM, _) => Err(Errno::EPROTONOSUPPORT),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

/// Checks the arguments of socket(2) for `AF_INET` and `AF_INET6`.
///
/// `EINVAL`: the protocol is out of range. `EPROTONOSUPPORT`: not with this type. `ESOCKTNOSUPPORT`: no such type here.
pub fn check(_family: u16, kind: i32, protocol: i32) -> Result<()> {
    kind_of(kind, protocol).map(|_| ())
}

/// socket(2) for `AF_INET` and `AF_INET6`; errors as for [`check`].
pub fn create(family: u16, kind: i32, protocol: i32, cred: &Cred) -> Result<Arc<dyn Socket>> {
    let kind = kind_of(kind, protocol)?;
    // Timers hand their work over in interrupts, which cannot start the first worker.
    sched::workqueue::init();
    let net = NetNs::current();
    Ok(match kind {
        Kind::Tcp => tcp::TcpSocket::create(net, family, cred),
        Kind::Udp => udp::UdpSocket::create(net, family, cred),
    })
}

/// The address of all of a family.
fn any_of(family: u16) -> Ip {
    if family == AF_INET { Ip::ANY_V4 } else { Ip::ANY }
}

/// Whether a socket may be bound to `at`.
///
/// `EACCES`: the port is for the privileged. `EADDRNOTAVAIL`: no address of this machine. `EINVAL`: an address of version
/// 4 for a socket that wants none.
fn check_bind(net: &NetNs, stack: &Stack, options: &IpOptions, at: Endpoint, cred: &Cred) -> Result<()> {
    if at.ip.is_v4() && at.ip != Ip::ANY_V4 && options.v6_only() {
        return Err(Errno::EINVAL);
    }
    if !options.free_bind() {
        stack.check_own(at.ip)?;
    }
    let is_low = at.port != 0 && u32::from(at.port) < sysctl::UNPRIVILEGED_PORT.load(Relaxed);
    if is_low && !cred.ns_capable(net.id().owner(), Cap::NET_BIND_SERVICE) {
        return Err(Errno::EACCES);
    }
    Ok(())
}
