//! Words for tests of packet sockets: addresses, frames, filters.

use crate::inetkit::{bring_up, recv};
use crate::netlinkkit::own_net;
use crate::prelude::*;

pub const ALL: u16 = 3;
pub const IP: u16 = 0x800;
pub const OUTGOING: u8 = 4;
pub const SOL: i32 = 263;
pub const RX_RING: i32 = 5;
pub const STATISTICS: i32 = 6;
pub const AUXDATA: i32 = 8;
pub const VERSION: i32 = 10;
pub const HDRLEN: i32 = 11;
pub const TX_RING: i32 = 13;
pub const VNET_HDR: i32 = 15;
pub const FANOUT: i32 = 18;

pub fn packet_socket(kind: i32, protocol: u16) -> Result<i32, Errno> {
    sys!(SYS_socket, AF_PACKET, kind, i32::from(protocol.to_be())).map(|fd| fd as i32)
}

/// In a network of its own, with `lo` on.
pub fn raw(protocol: u16) -> i32 {
    own_net();
    let fd = packet_socket(SOCK_RAW, protocol).unwrap();
    bring_up(fd);
    drain(fd);
    fd
}

pub fn another(protocol: u16) -> i32 {
    packet_socket(SOCK_RAW, protocol).unwrap()
}

pub fn drain(fd: i32) {
    while recv(fd, 100, MSG_DONTWAIT).is_ok() {}
}

/// A `sockaddr_ll`.
pub fn ll(protocol: u16, interface: i32) -> Vec<u8> {
    let mut a = vec![AF_PACKET as u8, 0];
    a.extend(protocol.to_be_bytes());
    a.extend(interface.to_ne_bytes());
    a.extend([0, 0, 0, 6]);
    a.extend([0; 8]);
    a
}

pub fn bind_to(fd: i32, protocol: u16, interface: i32) -> Result<usize, Errno> {
    let a = ll(protocol, interface);
    sys!(SYS_bind, fd, &a[..], a.len())
}

/// A frame with its address, or nothing.
pub fn next(fd: i32) -> Option<(Vec<u8>, Vec<u8>)> {
    let (mut buf, mut a, mut len) = (vec![0u8; 70_000], [0u8; 64], 64u32);
    let n = sys!(SYS_recvfrom, fd, &mut buf[..], buf.len(), MSG_DONTWAIT, &mut a, &mut len).ok()?;
    buf.truncate(n);
    Some((buf, a[..len as usize].to_vec()))
}

pub fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The sum of the Internet over `bytes`, in which a right checksum gives 0.
pub fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum: u32 = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A frame of UDP.
pub fn datagram(from: (u32, u16), to: (u32, u16), data: &[u8]) -> Vec<u8> {
    transport(from.0, to.0, 17, &{
        let mut udp = Vec::new();
        udp.extend(from.1.to_be_bytes());
        udp.extend(to.1.to_be_bytes());
        udp.extend((8 + data.len() as u16).to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(data);
        udp
    })
}

pub fn transport(from: u32, to: u32, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend(IP.to_be_bytes());
    let mut ip = vec![0x45, 0];
    ip.extend((20 + payload.len() as u16).to_be_bytes());
    ip.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    ip.extend(from.to_be_bytes());
    ip.extend(to.to_be_bytes());
    let checksum = sum(&ip, 0);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(ip);
    frame.extend(payload);
    frame
}

pub fn send_frame(fd: i32, frame: &[u8]) -> Result<usize, Errno> {
    let to = ll(IP, 1);
    sys!(SYS_sendto, fd, frame, frame.len(), 0, &to[..], to.len())
}

pub fn attach(fd: i32, program: &[(u16, u8, u8, u32)]) -> Result<usize, Errno> {
    let mut bytes = Vec::new();
    for (code, jt, jf, k) in program {
        bytes.extend(code.to_ne_bytes());
        bytes.extend([*jt, *jf]);
        bytes.extend(k.to_ne_bytes());
    }
    let prog = [program.len() as u64, bytes.as_ptr() as u64];
    sys!(SYS_setsockopt, fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, 16)
}

pub fn option(fd: i32, name: i32, room: u32) -> Result<Vec<u8>, Errno> {
    let (mut value, mut len) = ([0u8; 64], room);
    sys!(SYS_getsockopt, fd, SOL, name, &mut value, &mut len)?;
    Ok(value[..len as usize].to_vec())
}

/// Lets packets in that are from this machine and of 127.0.0.0/8.
pub fn admit() {
    for switch in ["accept_local", "route_localnet"] {
        if write_file(&format!("/proc/sys/net/ipv4/conf/lo/{switch}"), "1").is_err() {
            skip("the switches of net.ipv4.conf cannot be set");
        }
    }
}
