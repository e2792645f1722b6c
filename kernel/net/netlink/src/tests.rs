//! Tests of sockets among themselves, in a hosted machine.

use std::sync::Arc;

use abi::Errno;
use abi::socket::Ucred;
use hal::uio::{Dest, Src};
use net_core::{MsgFlags, Outgoing, Place, SockType, Socket};
use netlink_message::{self as message, Builder, Header};
use ns::NetNs;
use security::Cred;

use crate::kernel::{Answer, Protocol, Request};
use crate::socket::NetlinkSocket;
use crate::{USERSOCK, kernel, table};

/// A protocol number that nothing else in these tests uses.
const ECHO: u8 = 31;

/// Replies with the request's body; type 0x20 is refused, 0x30 gives a dump of as many messages as the body has bytes.
struct Echo;

impl Protocol for Echo {
    fn groups(&self) -> u32 {
        40
    }

    fn anyone_listens(&self) -> bool {
        true
    }

    fn request(&self, request: &Request<'_>) -> abi::Result<Answer> {
        match request.message.header.kind {
            0x20 => Err(Errno::EOPNOTSUPP),
            0x30 => {
                let (header, count) = (request.header(0x31, message::MULTI), request.message.body.len());
                Ok(Answer::Dump(Box::new(
                    (0..count).map(move |_| Builder::new(header).put(&[9; 60]).finish()),
                )))
            }
            kind => {
                request.reply(request.builder(kind, 0).put(request.message.body).finish());
                Ok(Answer::Done)
            }
        }
    }
}

fn socket(protocol: u8) -> Arc<NetlinkSocket> {
    static ONE: Echo = Echo;
    kernel::register(ECHO, &ONE);
    NetlinkSocket::new(SockType::Raw, protocol, NetNs::initial().clone(), Arc::new(Cred::root()))
}

fn send(socket: &NetlinkSocket, bytes: &[u8]) -> abi::Result<usize> {
    let mut data = Src::kernel(bytes);
    let outgoing = Outgoing {
        data: &mut data,
        name: None,
        rights: Vec::new(),
        creds: None,
        control: Vec::new(),
        flags: MsgFlags::DONTWAIT,
    };
    socket.send(None, outgoing)
}

fn receive(socket: &NetlinkSocket, len: usize, flags: MsgFlags) -> abi::Result<Vec<u8>> {
    let mut buf = vec![0; len];
    let received = socket.receive(&mut Dest::kernel(&mut buf), flags | MsgFlags::DONTWAIT)?;
    buf.truncate(received.len);
    Ok(buf)
}

fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    Builder::new(Header { len: 0, kind, flags: flags | message::REQUEST, seq: 5, port: 0 }).put(body).finish()
}

#[test]
fn the_kernel_replies_and_acknowledges() {
    let s = socket(ECHO);
    let bytes = request(0x40, message::ACK, b"body");
    assert_eq!(send(&s, &bytes), Ok(bytes.len()));
    let reply = receive(&s, 100, MsgFlags::empty()).unwrap();
    let reply = message::messages(&reply).next().unwrap();
    assert_eq!(
        (reply.header.kind, reply.header.seq, reply.header.port, reply.body),
        (0x40, 5, s.port(), &b"body"[..])
    );
    let ack = receive(&s, 100, MsgFlags::empty()).unwrap();
    assert_eq!((ack.len(), ack[4], ack[16..20].to_vec()), (36, 2, vec![0; 4]));
    s.release();
}

#[test]
fn a_refused_request_comes_back_whole_unless_capped() {
    let s = socket(ECHO);
    for (caps, len) in [(0u32, 16 + 4 + 16 + 4), (1, 36)] {
        s.set_option(270, 10, &caps.to_ne_bytes(), &Cred::root()).unwrap();
        send(&s, &request(0x20, 0, b"body")).unwrap();
        let error = receive(&s, 100, MsgFlags::empty()).unwrap();
        let code = i32::from_ne_bytes([error[16], error[17], error[18], error[19]]);
        assert_eq!((error.len(), code), (len, -95));
    }
    s.release();
}

#[test]
fn a_dump_goes_on_as_its_reader_does() {
    let s = socket(ECHO);
    send(&s, &request(0x30, message::DUMP, &[0; 1000])).unwrap();
    send(&s, &request(0x30, message::DUMP, &[0; 1])).unwrap();
    let (mut count, mut busy) = (0, false);
    'all: loop {
        let batch = receive(&s, 8192, MsgFlags::empty()).unwrap();
        for m in message::messages(&batch) {
            match m.header.kind {
                message::DONE => break 'all,
                message::ERROR => busy = i32::from_ne_bytes(*m.body.first_chunk().unwrap()) == -16,
                _ => count += 1,
            }
        }
    }
    assert_eq!((count, busy), (1000, true), "one dump at a time");
    assert_eq!(receive(&s, 10, MsgFlags::empty()), Err(Errno::EAGAIN));
    s.release();
}

#[test]
fn ports_are_found_until_their_socket_ends() {
    let (a, b) = (socket(USERSOCK), socket(USERSOCK));
    assert_eq!(table::bind(&a, Some(777), 0), Ok(777));
    assert_eq!(table::bind(&b, Some(777), 0), Err(Errno::EADDRINUSE));
    let other = table::bind(&b, None, 777).unwrap();
    assert!((other as i32) < -4096);
    assert!(Arc::ptr_eq(&table::find(USERSOCK, NetNs::initial(), 777).unwrap(), &a));
    a.release();
    assert!(table::find(USERSOCK, NetNs::initial(), 777).is_none());
    assert_eq!(send(&b, b"nobody"), Err(Errno::ECONNREFUSED));
    b.release();
}

#[test]
fn a_full_queue_loses_messages_and_says_so() {
    let s = socket(ECHO);
    table::bind(&s, None, 5).unwrap();
    s.set_groups(|_| 1 << 39);
    let data = vec![1; 10_000];
    for _ in 0..100 {
        kernel::announce(ECHO, 40, data.clone(), Ucred::default(), |_| true);
    }
    assert_eq!(receive(&s, 10, MsgFlags::empty()), Err(Errno::ENOBUFS));
    let mut count = 0;
    while receive(&s, 20_000, MsgFlags::empty()).is_ok() {
        count += 1;
    }
    assert!(count > 0 && count < 100);
    kernel::announce(ECHO, 40, data, Ucred::default(), |_| true);
    assert_eq!(receive(&s, 20_000, MsgFlags::PEEK).map(|d| d.len()), Ok(10_000));
    assert_eq!(
        receive(&s, 10, MsgFlags::TRUNC).map(|d| d.len()),
        Ok(10),
        "a whole length does not fit the buffer"
    );
    s.release();
    assert!(!kernel::has_listeners(ECHO, 40));
}

#[test]
fn a_loss_is_got_over_by_who_hears_of_it() {
    let s = socket(ECHO);
    table::bind(&s, None, 6).unwrap();
    s.set_groups(|_| 1);
    let most = s.options().rcvbuf();
    s.reserve(most).unwrap();
    kernel::announce(ECHO, 1, vec![1; 100], Ucred::default(), |_| true);
    assert_eq!(
        receive(&s, 10, MsgFlags::empty()),
        Err(Errno::ENOBUFS),
        "what is promised has taken the room"
    );
    s.use_reserve(most, None);
    kernel::announce(ECHO, 1, vec![1; 100], Ucred::default(), |_| true);
    assert_eq!(receive(&s, 200, MsgFlags::empty()).map(|d| d.len()), Ok(100));
    s.release();
}

#[test]
fn who_ends_is_in_no_group_and_joins_none() {
    let s = socket(ECHO);
    s.set_groups(|_| 1 << 6);
    assert!(kernel::has_listeners(ECHO, 7));
    s.release();
    s.set_groups(|_| 1 << 6);
    assert!(table::listeners(ECHO, 7).is_empty());
}

#[test]
fn groups_beyond_those_of_the_protocol_are_refused() {
    let s = socket(ECHO);
    let place = Place { room: 8, asked: &|| Ok(0) };
    assert_eq!(s.get_option(270, 9, &place).unwrap(), [], "no groups are known yet");
    for (group, result) in [(0u32, Err(Errno::EINVAL)), (41, Err(Errno::EINVAL)), (40, Ok(())), (1, Ok(()))] {
        assert_eq!(s.set_option(270, 1, &group.to_ne_bytes(), &Cred::root()), result, "{group}");
    }
    assert_eq!(s.get_option(270, 9, &place).unwrap(), [1, 0, 0, 0, 0x80, 0, 0, 0]);
    s.set_option(270, 2, &40u32.to_ne_bytes(), &Cred::root()).unwrap();
    assert!(s.is_in(1) && !s.is_in(40));
    s.release();
}
