#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
mod dump;
mod kernel;
mod notice;
mod options;
mod queue;
pub mod show;
mod socket;
mod table;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;

use abi::{Errno, Result};
use net_core::{SockType, Socket};
use ns::NetNs;
use security::Cred;

pub use kernel::{Answer, Protocol, Request, announce, has_listeners, register};
pub use netlink_message as message;
pub use notice::Notice;
pub use socket::NetlinkSocket;

/// Interfaces, addresses, routes (rtnetlink(7)).
pub const ROUTE: u8 = 0;
/// For programs among themselves.
pub const USERSOCK: u8 = 2;
/// Questions about sockets (sock_diag(7)).
pub const SOCK_DIAG: u8 = 4;
/// Devices that come and go.
pub const KOBJECT_UEVENT: u8 = 15;
/// Services by name.
pub const GENERIC: u8 = 16;
/// One past the highest protocol (`MAX_LINKS`).
pub(crate) const NR_PROTOCOLS: usize = 32;

/// The type and protocol that the arguments of socket(2) mean.
///
/// `ESOCKTNOSUPPORT`: not a type of these sockets. `EPROTONOSUPPORT`: no such protocol.
fn check(kind: i32, protocol: i32) -> Result<(SockType, u8)> {
    let kind = match kind {
        2 => SockType::Datagram,
        3 => SockType::Raw,
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    let number = u8::try_from(protocol).map_err(|_| Errno::EPROTONOSUPPORT)?;
    if number == USERSOCK || kernel::protocol(number).is_some() {
        Ok((kind, number))
    } else {
        Err(Errno::EPROTONOSUPPORT)
    }
}

/// socket(2), opened by `cred`; errors as for socketpair(2) but for `EOPNOTSUPP`.
pub fn create(kind: i32, protocol: i32, cred: &Arc<Cred>) -> Result<Arc<dyn Socket>> {
    let (kind, protocol) = check(kind, protocol)?;
    Ok(NetlinkSocket::new(kind, protocol, NetNs::current(), cred.clone()))
}

/// socketpair(2), which these sockets do not know.
///
/// `ESOCKTNOSUPPORT`: not a type of these sockets. `EPROTONOSUPPORT`: no such protocol. `EOPNOTSUPP`: else.
pub fn refuse_pair(kind: i32, protocol: i32) -> Result<()> {
    check(kind, protocol)?;
    Err(Errno::EOPNOTSUPP)
}
