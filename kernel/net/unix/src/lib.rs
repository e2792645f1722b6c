//! Sockets of the family `AF_UNIX` (unix(7)).
//!
//! ```text
//!   socket A                                  socket B
//!   out: bytes under way, waiting senders     queue: packets, each charged to its sender
//!   peer -----------------------------------> peer ---> A
//! ```
//!
//! A sender puts packets into the receiver's queue; each is charged to the sender until it is received. A listening
//! socket's `embryos` are the far ends of connections that nobody has accepted yet; they work already.
//!
//! # Life
//!
//! A socket's file ends with [`UnixSocket::release`]: it becomes [`State::Dead`], lets go of its peer and empties its
//! queue, which breaks every cycle of references. The peer of a connection keeps its reference to the dead one, whose
//! name it can still ask for. Sockets that only sit in each other's queues are found by [`rights`].
//!
//! # Locks, outermost first
//!
//! ```text
//! UnixSocket::bind_lock       names
//!   UnixSocket::io            receivers, so that data stays in order while it is copied
//!     connect::LINK           whoever holds the `inner` of two sockets
//!       UnixSocket::inner
//!         rights::INFLIGHT, address tables
//! ```
//!
//! Nothing is dropped that could be a last reference, and nobody is woken, under `inner`.
//!
//! Sources: unix(7), cmsg(3), recv(2), send(2), connect(2), POSIX.1-2024.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
pub mod all;
mod connect;
mod datagram;
mod packet;
mod rights;
mod socket;
mod stream;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;

use abi::{Errno, Result};
use net_core::{SockType, Socket};
use ns::NetNs;

pub use rights::in_flight_of;
pub use socket::{State, UnixSocket};

/// `AF_UNIX` as the protocol argument of socket(2).
const PF_UNIX: i32 = 1;

/// The type that `SOCK_*` number `kind` means, for protocol `protocol`.
///
/// `EPROTONOSUPPORT`: a protocol other than 0 and `PF_UNIX`. `ESOCKTNOSUPPORT`: no such type here.
fn check(kind: i32, protocol: i32) -> Result<SockType> {
    if protocol != 0 && protocol != PF_UNIX {
        return Err(Errno::EPROTONOSUPPORT);
    }
    match kind {
        1 => Ok(SockType::Stream),
        // SOCK_RAW is the same as SOCK_DGRAM here.
        2 | 3 => Ok(SockType::Datagram),
        5 => Ok(SockType::SeqPacket),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

/// socket(2).
pub fn create(kind: i32, protocol: i32) -> Result<Arc<dyn Socket>> {
    Ok(UnixSocket::new(check(kind, protocol)?, NetNs::current()))
}

/// socketpair(2).
pub fn pair(kind: i32, protocol: i32) -> Result<(Arc<dyn Socket>, Arc<dyn Socket>)> {
    let kind = check(kind, protocol)?;
    let net = NetNs::current();
    let (a, b) = (UnixSocket::new(kind, net.clone()), UnixSocket::new(kind, net));
    a.join(&b);
    b.join(&a);
    Ok((a, b))
}
