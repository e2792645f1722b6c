//! Words for tests of netlink sockets: addresses, messages, and what comes back.

use crate::prelude::*;

/// A `sockaddr_nl`.
pub fn nl(port: u32, groups: u32) -> Vec<u8> {
    let mut a = vec![AF_NETLINK as u8, 0, 0, 0];
    a.extend(port.to_ne_bytes());
    a.extend(groups.to_ne_bytes());
    a
}

pub fn socket(kind: i32, protocol: i32) -> Result<i32, Errno> {
    sys!(SYS_socket, AF_NETLINK, kind, protocol).map(|fd| fd as i32)
}

pub fn user() -> i32 {
    socket(SOCK_RAW, NETLINK_USERSOCK).unwrap()
}

pub fn bind(fd: i32, port: u32, groups: u32) -> Result<usize, Errno> {
    let a = nl(port, groups);
    sys!(SYS_bind, fd, &a[..], a.len())
}

/// Port and groups that `call` (getsockname or getpeername) tells.
pub fn name_by(call: c_long, fd: i32) -> (u32, u32) {
    let (mut a, mut len) = ([0u8; 32], 32u32);
    sys!(call, fd, &mut a, &mut len).unwrap();
    assert_eq!((len, u16::from_ne_bytes([a[0], a[1]])), (12, AF_NETLINK as u16));
    (word(&a, 4), word(&a, 8))
}

pub fn port(fd: i32) -> u32 {
    name_by(SYS_getsockname, fd).0
}

pub fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap())
}

pub fn send_to(fd: i32, data: &[u8], port: u32, groups: u32, flags: i32) -> Result<usize, Errno> {
    let a = nl(port, groups);
    sys!(SYS_sendto, fd, data, data.len(), flags, &a[..], a.len())
}

/// What is received, with the sender's port and groups.
pub fn recv_from(fd: i32, len: usize, flags: i32) -> Result<(Vec<u8>, u32, u32), Errno> {
    let (mut buf, mut a, mut alen) = (vec![0u8; len], [0u8; 32], 32u32);
    let n = sys!(SYS_recvfrom, fd, &mut buf[..], len, flags, &mut a, &mut alen)?;
    assert_eq!(alen, 12);
    buf.truncate(n.min(len));
    Ok((buf, word(&a, 4), word(&a, 8)))
}

pub fn recv(fd: i32, len: usize, flags: i32) -> Result<Vec<u8>, Errno> {
    recv_from(fd, len, flags).map(|(bytes, ..)| bytes)
}

/// Level, type and first word of a control message.
pub type Control = (i32, i32, i32);

/// Receives a short message: its length, and its control messages.
pub fn recv_control(fd: i32) -> Result<(usize, Vec<Control>), Errno> {
    let (mut data, mut control) = ([0u8; 256], [0u64; 16]);
    let mut iov = iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    let mut header: msghdr = zero();
    header.msg_iov = &mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = 128;
    let len = sys!(SYS_recvmsg, fd, &mut header, 0)?;
    let bytes: Vec<u8> =
        control.iter().flat_map(|word| word.to_ne_bytes()).take(header.msg_controllen).collect();
    let (mut found, mut at) = (Vec::new(), 0);
    while at + 16 <= bytes.len() {
        let len = u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let word =
            |offset: usize| i32::from_ne_bytes(bytes[at + offset..at + offset + 4].try_into().unwrap());
        found.push((word(8), word(12), word(16)));
        at += len.next_multiple_of(8);
    }
    Ok((len, found))
}

pub fn set(fd: i32, name: i32, value: i32) -> Result<usize, Errno> {
    sys!(SYS_setsockopt, fd, SOL_NETLINK, name, &value, 4)
}

pub fn get(fd: i32, name: i32) -> Result<i32, Errno> {
    let (mut value, mut len) = (0i32, 4u32);
    sys!(SYS_getsockopt, fd, SOL_NETLINK, name, &mut value, &mut len)?;
    assert_eq!(len, 4);
    Ok(value)
}

/// A message of netlink.
#[derive(Clone, Debug)]
pub struct Message {
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    pub port: u32,
    pub body: Vec<u8>,
}

/// A request with `body`.
pub fn request(kind: u16, flags: i32, seq: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(((NLM_F_REQUEST | flags) as u16).to_ne_bytes());
    bytes.extend(seq.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute.
pub fn attribute(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + data.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The messages in a datagram.
pub fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut all = Vec::new();
    while bytes.len() >= 16 {
        let len = word(bytes, 0) as usize;
        let body = bytes[16..len].to_vec();
        all.push(Message {
            kind: half(bytes, 4),
            flags: half(bytes, 6),
            seq: word(bytes, 8),
            port: word(bytes, 12),
            body,
        });
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
    }
    all
}

impl Message {
    /// The attributes behind a fixed part of `fixed` bytes.
    pub fn attributes(&self, fixed: usize) -> Vec<(u16, Vec<u8>)> {
        attributes(&self.body[fixed..])
    }

    /// The data of attribute `kind`.
    pub fn find(&self, fixed: usize, kind: u16) -> Option<Vec<u8>> {
        self.attributes(fixed).into_iter().find(|(found, _)| *found == kind).map(|(_, data)| data)
    }

    /// The error in it, as a positive number; 0 is an acknowledgement.
    pub fn error(&self) -> i32 {
        assert_eq!(i32::from(self.kind), NLMSG_ERROR);
        -(word(&self.body, 0) as i32)
    }
}

pub fn attributes(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut all = Vec::new();
    while bytes.len() >= 4 {
        let len = usize::from(half(bytes, 0));
        all.push((half(bytes, 2) & 0x3fff, bytes[4..len].to_vec()));
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
    }
    all
}

/// Sends a request to the kernel.
pub fn ask(fd: i32, kind: u16, flags: i32, body: &[u8]) {
    let bytes = request(kind, flags, 77, body);
    assert_eq!(send_to(fd, &bytes, 0, 0, 0), Ok(bytes.len()));
}

/// Sends a request and gives the error that comes back (0: done).
pub fn result_of(fd: i32, kind: u16, flags: i32, body: &[u8]) -> i32 {
    ask(fd, kind, flags | NLM_F_ACK, body);
    loop {
        for message in messages(&recv(fd, 32768, 0).unwrap()) {
            assert_eq!(message.seq, 77);
            if i32::from(message.kind) == NLMSG_ERROR {
                return message.error();
            }
        }
    }
}

/// Asks for all there is, and gives what comes before the end, or the error.
pub fn try_dump(fd: i32, kind: u16, body: &[u8]) -> Result<Vec<Message>, i32> {
    try_dump_by(fd, kind, NLM_F_DUMP, body)
}

/// The same, with the flags that ask so.
pub fn try_dump_by(fd: i32, kind: u16, flags: i32, body: &[u8]) -> Result<Vec<Message>, i32> {
    ask(fd, kind, flags, body);
    let mut all = Vec::new();
    loop {
        for message in messages(&recv(fd, 32768, 0).unwrap()) {
            assert_eq!((message.seq, message.port), (77, port(fd)));
            match i32::from(message.kind) {
                NLMSG_DONE if word(&message.body, 0) == 0 => return Ok(all),
                NLMSG_DONE => return Err(-(word(&message.body, 0) as i32)),
                NLMSG_ERROR => return Err(message.error()),
                _ => {
                    assert!(i32::from(message.flags) & NLM_F_MULTI != 0);
                    all.push(message);
                }
            }
        }
    }
}

/// Asks for all there is, and gives what comes before the end.
pub fn dump(fd: i32, kind: u16, body: &[u8]) -> Vec<Message> {
    try_dump(fd, kind, body).unwrap()
}

/// A network namespace of the caller's own.
pub fn own_net() {
    sys!(SYS_unshare, CLONE_NEWNET).unwrap();
}
