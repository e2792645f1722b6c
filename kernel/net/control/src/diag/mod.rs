//! `NETLINK_SOCK_DIAG` (sock_diag(7)): the sockets of the network namespace, as ss(8) lists them.

mod filter;
mod inet;
mod unix;

use abi::socket::{AF_INET, AF_INET6, AF_UNIX};
use abi::{Errno, Result};
use net_netlink::{Answer, Protocol, Request};

/// Type of all requests (`SOCK_DIAG_BY_FAMILY`), and of the replies.
const BY_FAMILY: u16 = 20;
/// `AF_MAX`.
const NR_FAMILIES: u16 = 46;
/// A cookie that says nothing (`INET_DIAG_NOCOOKIE`), twice.
const NO_COOKIE: u64 = u64::MAX;

/// The protocol.
pub(crate) struct SockDiag;

impl Protocol for SockDiag {
    fn groups(&self) -> u32 {
        4
    }

    fn anyone_listens(&self) -> bool {
        true
    }

    /// `EINVAL`: a wrong request. `ENOENT`: a family without sockets here. `EOPNOTSUPP`: to end a socket.
    fn request(&self, request: &Request<'_>) -> Result<Answer> {
        const DESTROY: u16 = 21;
        let kind = request.message.header.kind;
        if kind != BY_FAMILY && kind != DESTROY {
            return Err(Errno::EINVAL);
        }
        let &[family, _] = request.message.body.first_chunk().ok_or(Errno::EINVAL)?;
        let family = u16::from(family);
        match family {
            _ if family >= NR_FAMILIES => Err(Errno::EINVAL),
            AF_UNIX | AF_INET | AF_INET6 if kind == DESTROY => Err(Errno::EOPNOTSUPP),
            AF_UNIX => unix::request(request),
            AF_INET | AF_INET6 => inet::request(request, family),
            _ => Err(Errno::ENOENT),
        }
    }
}

/// A 32-bit number of a request.
fn word(body: &[u8], at: usize) -> u32 {
    body.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u32::from_ne_bytes(*raw))
}

/// A cookie as requests and replies have it: two words, the low one first.
fn cookie(body: &[u8], at: usize) -> u64 {
    u64::from(word(body, at + 4)) << 32 | u64::from(word(body, at))
}
