//! All sockets there are, for who lists them (sock_diag(7)).

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use abi::socket::AF_INET;
use hal::time::now_ns;
use net_core::Halves;
use ns::NetNs;

use crate::ip::Endpoint;
use crate::stack::Stack;
use crate::tcp::conn::Conn;
use crate::tcp::table::Connections;
use crate::tcp::{info, state_number};
use crate::udp::{Receivers, UdpConn};

/// A socket.
pub enum Found {
    /// A connection or listener of TCP.
    Tcp(TcpFound),
    /// A socket of UDP.
    Udp(UdpFound),
}

/// A connection or listener of TCP.
pub struct TcpFound(Arc<Conn>);

/// A socket of UDP.
pub struct UdpFound(Arc<UdpConn>);

/// An end of a connection, as messages have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// The address; one of version 4 is in the first four bytes.
    pub ip: [u8; 16],
    /// The port.
    pub port: u16,
}

/// What a socket is, at the moment.
#[derive(Clone, Debug)]
pub struct Description {
    /// Address family.
    pub family: u16,
    /// State, in the numbers of TCP.
    pub state: u8,
    /// Its end.
    pub local: Side,
    /// The other one.
    pub remote: Side,
    /// 1: it will send again.
    pub timer: u8,
    /// How often it has sent again.
    pub retries: u8,
    /// When it will, in milliseconds from now.
    pub expires_ms: u32,
    /// Bytes that can be received; of a listener, connections that wait.
    pub receivable: u32,
    /// Bytes that are not acknowledged; of a listener, connections that may wait.
    pub unsent: u32,
    /// Whose it is.
    pub uid: u32,
    /// Number of its inode.
    pub ino: u64,
    /// The halves that are closed.
    pub shut: Halves,
    /// It takes nothing of version 4.
    pub v6_only: bool,
    /// A number that no other socket has or had.
    pub cookie: u64,
}

/// Sockets; a part of a table is looked at as the iterator goes on, so that it never holds all.
pub type Sockets = Box<dyn Iterator<Item = Found> + Send>;

/// The TCP sockets of `net` that listen or have a connection.
pub fn tcp_sockets(net: &NetNs) -> Sockets {
    let stack = Stack::of(net);
    let parts = (0..Connections::PARTS).flat_map(move |at| stack.connections.part(at));
    Box::new(parts.map(|conn| Found::Tcp(TcpFound(conn))))
}

/// The UDP sockets of `net` that have a port.
pub fn udp_sockets(net: &NetNs) -> Sockets {
    let stack = Stack::of(net);
    let parts = (0..Receivers::PARTS).flat_map(move |at| stack.receivers.part(at));
    Box::new(parts.map(|conn| Found::Udp(UdpFound(conn))))
}

fn side(family: u16, end: Endpoint) -> Side {
    let mut ip = [0; 16];
    if family == AF_INET {
        ip[..4].copy_from_slice(&(end.ip.0 as u32).to_be_bytes());
    } else {
        ip = end.ip.0.to_be_bytes();
    }
    Side { ip, port: end.port }
}

impl Found {
    /// Whether it is of `family` and has these ports, of which 0 stands for any. Much cheaper than its description.
    pub fn is_at(&self, family: u16, local: u16, remote: u16) -> bool {
        let of = match self {
            Found::Tcp(TcpFound(conn)) => conn.family,
            Found::Udp(UdpFound(conn)) => conn.family,
        };
        if of != family {
            return false;
        }
        let (own, other) = match self {
            Found::Tcp(TcpFound(conn)) => {
                let inner = conn.inner.lock();
                (inner.local.port, inner.remote.port)
            }
            Found::Udp(UdpFound(conn)) => {
                let (own, other, _) = conn.show();
                (own.port, other.map_or(0, |other| other.port))
            }
        };
        (local == 0 || local == own) && (remote == 0 || remote == other)
    }

    /// What it is, at the moment.
    pub fn describe(&self) -> Description {
        match self {
            Found::Tcp(TcpFound(conn)) => describe_tcp(conn),
            Found::Udp(UdpFound(conn)) => describe_udp(conn),
        }
    }

    /// `struct tcp_info` of a TCP socket.
    pub fn tcp_info(&self) -> Option<Vec<u8>> {
        match self {
            Found::Tcp(TcpFound(conn)) => Some(info(&conn.inner.lock())),
            Found::Udp(_) => None,
        }
    }
}

fn describe_tcp(conn: &Conn) -> Description {
    let inner = conn.inner.lock();
    let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (unsent, receivable) = match (&inner.backlog, &inner.tcb) {
        (Some(backlog), _) => (clamp(backlog.limit), clamp(backlog.ready.len())),
        (None, Some(tcb)) => (clamp(tcb.unacknowledged()), clamp(tcb.readable())),
        _ => (0, 0),
    };
    let numbers = inner.tcb.as_ref().map(|tcb| tcb.info());
    let (retries, resend) = numbers.map_or((0, None), |numbers| (numbers.retries, numbers.resend_ns));
    Description {
        family: conn.family,
        state: state_number(&inner),
        local: side(conn.family, inner.local),
        remote: side(conn.family, inner.remote),
        timer: u8::from(resend.is_some()),
        retries: u8::try_from(retries).unwrap_or(u8::MAX),
        expires_ms: resend.map_or(0, |at| (at.saturating_sub(now_ns()) / 1_000_000) as u32),
        receivable,
        unsent,
        uid: conn.uid,
        // Who has closed it has no inode any more.
        ino: if inner.is_closed { 0 } else { conn.ino.load(Relaxed) },
        shut: inner.shut,
        v6_only: conn.ip.v6_only(),
        cookie: conn.options.cookie(),
    }
}

fn describe_udp(conn: &UdpConn) -> Description {
    let (local, remote, waiting) = conn.show();
    Description {
        family: conn.family,
        // As for TCP: established or closed.
        state: if remote.is_some() { 1 } else { 7 },
        local: side(conn.family, local),
        remote: side(conn.family, remote.unwrap_or(Endpoint { ip: crate::any_of(conn.family), port: 0 })),
        timer: 0,
        retries: 0,
        expires_ms: 0,
        receivable: u32::try_from(waiting).unwrap_or(u32::MAX),
        unsent: 0,
        uid: conn.uid,
        ino: conn.ino.load(Relaxed),
        shut: Halves::NONE,
        v6_only: conn.is_v6_only(),
        cookie: conn.cookie(),
    }
}
