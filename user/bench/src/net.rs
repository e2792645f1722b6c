//! TCP and UDP over loopback.

use libc::*;

use crate::local::{Ends, close_all, round_trip, stream};
use crate::sys::Res;
use crate::{Op, Unit, repeat, sys};

const fn op(name: &'static str, rounds: u64, run: crate::Run) -> Op {
    Op { group: "net", name, unit: Unit::Ns, rounds, run }
}

const fn flow(name: &'static str, bytes: u64, rounds: u64, run: crate::Run) -> Op {
    Op { group: "net", name, unit: Unit::NsPerKib(bytes), rounds, run }
}

pub const OPS: &[Op] = &[
    op("tcp-round-trip", 500, |n| round_trip(n, tcp_pair)),
    op("udp-round-trip", 500, |n| round_trip(n, udp_pair)),
    op("tcp-connect-accept", 200, connect_accept),
    flow("tcp-128", 128, 1_000, |n| stream(n, 128, tcp_pair)),
    flow("tcp-4k", 4096, 500, |n| stream(n, 4096, tcp_pair)),
    flow("tcp-64k", 65536, 100, |n| stream(n, 65536, tcp_pair)),
    flow("udp-128", 128, 1_000, |n| datagrams(n, 128)),
    flow("udp-4k", 4096, 500, |n| datagrams(n, 4096)),
    flow("udp-32k", 32768, 100, |n| datagrams(n, 32768)),
];

/// A `sockaddr_in`: ip(7).
type Address = [u8; 16];

/// 127.0.0.1 with any port.
const LOOPBACK: Address = [AF_INET as u8, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];

/// A socket, after the loopback interface has been switched on.
fn socket(kind: i32) -> Res<i32> {
    let fd = sys!(SYS_socket, AF_INET, kind, 0)? as i32;
    // struct ifreq: the name in 16 bytes, then the flags; netdevice(7).
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    sys!(SYS_ioctl, fd, SIOCGIFFLAGS, &mut request)?;
    if i32::from(request[16]) & IFF_UP == 0 {
        request[16] |= IFF_UP as u8;
        sys!(SYS_ioctl, fd, SIOCSIFFLAGS, &mut request)?;
    }
    Ok(fd)
}

/// A socket bound to a free port, and its address.
fn bound(kind: i32) -> Res<(i32, Address)> {
    let fd = socket(kind)?;
    sys!(SYS_bind, fd, &LOOPBACK, 16)?;
    let (mut address, mut len) = (LOOPBACK, 16u32);
    sys!(SYS_getsockname, fd, &mut address, &mut len)?;
    Ok((fd, address))
}

fn tcp_pair() -> Res<Ends> {
    let (listener, address) = bound(SOCK_STREAM)?;
    sys!(SYS_listen, listener, 8)?;
    let client = socket(SOCK_STREAM)?;
    sys!(SYS_connect, client, &address, 16)?;
    let server = sys!(SYS_accept4, listener, 0, 0, 0)? as i32;
    for fd in [client, server] {
        sys!(SYS_setsockopt, fd, IPPROTO_TCP, TCP_NODELAY, &1i32, 4)?;
    }
    sys!(SYS_close, listener)?;
    Ok([client, client, server, server])
}

fn udp_pair() -> Res<Ends> {
    let ((a, to_a), (b, to_b)) = (bound(SOCK_DGRAM)?, bound(SOCK_DGRAM)?);
    sys!(SYS_connect, a, &to_b, 16)?;
    sys!(SYS_connect, b, &to_a, 16)?;
    Ok([a, a, b, b])
}

fn connect_accept(n: u64) -> Res<u64> {
    let (listener, address) = bound(SOCK_STREAM)?;
    sys!(SYS_listen, listener, 8)?;
    let r = repeat(n, || {
        let client = socket(SOCK_STREAM)?;
        sys!(SYS_connect, client, &address, 16)?;
        let server = sys!(SYS_accept4, listener, 0, 0, 0)?;
        sys!(SYS_close, client)?;
        sys!(SYS_close, server)
    });
    sys!(SYS_close, listener)?;
    r
}

/// Sends and receives one datagram after the other: a queue that overflows would drop some.
fn datagrams(n: u64, size: usize) -> Res<u64> {
    let ends = udp_pair()?;
    let mut buf = vec![7u8; size];
    let r = repeat(n, || {
        sys!(SYS_write, ends[1], &buf[..], size)?;
        sys!(SYS_read, ends[2], &mut buf[..], size)
    });
    close_all(ends)?;
    r
}
