//! Words for tests of Internet sockets: addresses, sockets of `lo`, and what is sent through them.

use crate::prelude::*;

pub const ANY: u32 = 0;

pub const LO: u32 = 0x7f00_0001;

/// A `sockaddr_in`.
pub fn v4(ip: u32, port: u16) -> Vec<u8> {
    let mut a = vec![AF_INET as u8, 0];
    a.extend(port.to_be_bytes());
    a.extend(ip.to_be_bytes());
    a.resize(16, 0);
    a
}

/// A `sockaddr_in6`.
pub fn v6(ip: u128, port: u16) -> Vec<u8> {
    let mut a = vec![AF_INET6 as u8, 0];
    a.extend(port.to_be_bytes());
    a.extend([0; 4]);
    a.extend(ip.to_be_bytes());
    a.resize(28, 0);
    a
}

pub const MAPPED: u128 = 0xffff << 32;

pub fn socket_of(family: i32, kind: i32) -> i32 {
    let fd = sys!(SYS_socket, family, kind, 0).unwrap() as i32;
    bring_up(fd);
    fd
}

/// Switches `lo` on; netdevice(7).
pub fn bring_up(fd: i32) {
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    sys!(SYS_ioctl, fd, SIOCGIFFLAGS, &mut request).unwrap();
    if i32::from(request[16]) & IFF_UP == 0 {
        request[16] |= IFF_UP as u8;
        sys!(SYS_ioctl, fd, SIOCSIFFLAGS, &mut request).unwrap();
    }
}

pub fn tcp() -> i32 {
    socket_of(AF_INET, SOCK_STREAM)
}

pub fn udp() -> i32 {
    socket_of(AF_INET, SOCK_DGRAM)
}

pub fn bind(fd: i32, to: &[u8]) -> Result<usize, Errno> {
    sys!(SYS_bind, fd, to, to.len())
}

pub fn connect(fd: i32, to: &[u8]) -> Result<usize, Errno> {
    sys!(SYS_connect, fd, to, to.len())
}

pub fn accept_with(fd: i32, flags: i32) -> Result<i32, Errno> {
    sys!(SYS_accept4, fd, 0, 0, flags).map(|fd| fd as i32)
}

pub fn accept(fd: i32) -> i32 {
    accept_with(fd, 0).unwrap()
}

pub fn name_by(call: c_long, fd: i32) -> Result<Vec<u8>, Errno> {
    let (mut name, mut len) = ([0u8; 128], 128u32);
    sys!(call, fd, &mut name, &mut len)?;
    Ok(name[..len as usize].to_vec())
}

pub fn name(fd: i32) -> Vec<u8> {
    name_by(SYS_getsockname, fd).unwrap()
}

pub fn port(fd: i32) -> u16 {
    let name = name(fd);
    u16::from_be_bytes([name[2], name[3]])
}

pub fn listen(fd: i32, backlog: i32) {
    sys!(SYS_listen, fd, backlog).unwrap();
}

/// A listener on a free port of 127.0.0.1.
pub fn listener() -> i32 {
    let fd = tcp();
    bind(fd, &v4(LO, 0)).unwrap();
    listen(fd, 16);
    fd
}

/// A connection: client and server.
pub fn pair() -> (i32, i32) {
    let l = listener();
    let c = tcp();
    connect(c, &name(l)).unwrap();
    let s = accept(l);
    close(l);
    (c, s)
}

pub fn udp_bound() -> i32 {
    let fd = udp();
    bind(fd, &v4(LO, 0)).unwrap();
    fd
}

pub fn send(fd: i32, data: &[u8], flags: i32) -> Result<usize, Errno> {
    sys!(SYS_sendto, fd, data, data.len(), flags | MSG_NOSIGNAL, 0, 0)
}

pub fn send_to(fd: i32, data: &[u8], to: &[u8]) -> Result<usize, Errno> {
    sys!(SYS_sendto, fd, data, data.len(), 0, to, to.len())
}

pub fn recv(fd: i32, len: usize, flags: i32) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0u8; len];
    let n = sys!(SYS_recvfrom, fd, &mut buf[..], len, flags, 0, 0)?;
    buf.truncate(n.min(len));
    Ok(buf)
}

pub fn recv_from(fd: i32) -> (Vec<u8>, Vec<u8>) {
    let (mut buf, mut name, mut len) = ([0u8; 2000], [0u8; 128], 128u32);
    let n = sys!(SYS_recvfrom, fd, &mut buf, 2000, 0, &mut name, &mut len).unwrap();
    (buf[..n].to_vec(), name[..len as usize].to_vec())
}

pub fn set(fd: i32, level: i32, name: i32, value: i32) -> Result<usize, Errno> {
    sys!(SYS_setsockopt, fd, level, name, &value, 4)
}

pub fn get(fd: i32, level: i32, name: i32) -> Result<i32, Errno> {
    let (mut value, mut len) = (0i32, 4u32);
    sys!(SYS_getsockopt, fd, level, name, &mut value, &mut len)?;
    Ok(value)
}

pub fn error_of(fd: i32) -> i32 {
    get(fd, SOL_SOCKET, SO_ERROR).unwrap()
}

pub fn nonblocking(fd: i32) {
    sys!(SYS_fcntl, fd, F_SETFL, O_NONBLOCK).unwrap();
}

/// A port on which nobody listens, and nobody else will for a while.
pub fn deaf() -> (i32, Vec<u8>) {
    let fd = tcp();
    bind(fd, &v4(LO, 0)).unwrap();
    (fd, name(fd))
}

pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 253) as u8).collect()
}

/// Receives with control data; gives level, type and data of the first.
pub fn control(fd: i32) -> (i32, i32, Vec<u8>) {
    let (mut buf, mut ctl) = ([0u8; 64], [0u64; 32]);
    let iov = iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: 64 };
    let mut m: msghdr = zero();
    (m.msg_iov, m.msg_iovlen) = ((&raw const iov).cast_mut(), 1);
    (m.msg_control, m.msg_controllen) = (ctl.as_mut_ptr().cast(), 256);
    sys!(SYS_recvmsg, fd, &mut m, 0).unwrap();
    assert!(m.msg_controllen >= 16, "no control data");
    let bytes: Vec<u8> = ctl.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let kind = ctl[1].to_ne_bytes();
    let int = |b: &[u8]| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
    (int(&kind), int(&kind[4..]), bytes[16..ctl[0] as usize].to_vec())
}
