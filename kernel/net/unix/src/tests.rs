//! Sockets without processes: pairs, borders, descriptors in flight, waiting.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use abi::fs::OpenFlags;
use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::uio::{Dest, Src};
use net_core::{Halves, MsgFlags, Outgoing, Received, Socket};
use sched::PollTable;
use security::Cred;
use vfs::File;

const STREAM: i32 = 1;
const DATAGRAM: i32 = 2;
const NOW: MsgFlags = MsgFlags::DONTWAIT;

fn send_with(socket: &Arc<dyn Socket>, data: &[u8], rights: Vec<Arc<File>>) -> Result<usize> {
    let mut src = Src::kernel(data);
    socket.send(
        None,
        Outgoing { data: &mut src, name: None, rights, creds: None, control: Vec::new(), flags: NOW },
    )
}

fn send(socket: &Arc<dyn Socket>, data: &[u8]) -> Result<usize> {
    send_with(socket, data, Vec::new())
}

fn receive(socket: &Arc<dyn Socket>, room: usize, flags: MsgFlags) -> Result<(Vec<u8>, Received)> {
    let mut buf = vec![0; room];
    let received = socket.receive(&mut Dest::kernel(&mut buf), flags)?;
    buf.truncate(received.len);
    Ok((buf, received))
}

fn text(socket: &Arc<dyn Socket>, room: usize, flags: MsgFlags) -> Result<Vec<u8>> {
    receive(socket, room, flags).map(|(data, _)| data)
}

fn poll(socket: &Arc<dyn Socket>) -> PollEvents {
    socket.poll(&mut PollTable::query())
}

fn open(socket: &Arc<dyn Socket>) -> Arc<File> {
    net_core::open(socket.clone(), OpenFlags::empty(), &Arc::new(Cred::root())).unwrap()
}

#[test]
fn streams_have_no_borders_and_peek_leaves_data() {
    let (a, b) = crate::pair(STREAM, 0).unwrap();
    send(&a, b"abc").unwrap();
    send(&a, b"def").unwrap();
    assert_eq!(text(&b, 4, MsgFlags::PEEK | NOW).unwrap(), b"abcd");
    assert_eq!(b.readable_bytes(), Ok(6));
    assert_eq!(text(&b, 4, NOW).unwrap(), b"abcd");
    assert_eq!(text(&b, 9, NOW).unwrap(), b"ef");
    assert_eq!(text(&b, 9, NOW), Err(Errno::EAGAIN));
}

#[test]
fn looks_begin_where_the_option_says() {
    const SO_PEEK_OFF: i32 = 42;
    let look = MsgFlags::PEEK | NOW;
    for kind in [STREAM, DATAGRAM] {
        let (a, b) = crate::pair(kind, 0).unwrap();
        assert_eq!(b.own_option(SO_PEEK_OFF), Ok(-1));
        b.set_own_option(SO_PEEK_OFF, 0).unwrap();
        send(&a, b"abc").unwrap();
        send(&a, b"def").unwrap();
        assert_eq!(text(&b, 2, look).unwrap(), b"ab");
        let rest = text(&b, 9, look).unwrap();
        assert_eq!(rest, if kind == STREAM { &b"cdef"[..] } else { b"c" });
        assert_eq!(b.own_option(SO_PEEK_OFF), Ok(2 + rest.len() as i32));
        b.set_own_option(SO_PEEK_OFF, 6).unwrap();
        assert_eq!(text(&b, 9, look), Err(Errno::EAGAIN));
        assert_eq!(text(&b, 3, NOW).unwrap(), b"abc");
        assert_eq!(b.own_option(SO_PEEK_OFF), Ok(3));
    }
}

#[test]
fn what_is_left_is_told_of_streams() {
    const SO_INQ: i32 = 84;
    let (a, b) = crate::pair(STREAM, 0).unwrap();
    b.set_own_option(SO_INQ, 1).unwrap();
    send(&a, b"abcdef").unwrap();
    let told = |received: &Received| received.control.first().map(|control| control.data.clone());
    let (_, received) = receive(&b, 2, NOW).unwrap();
    assert_eq!(told(&received), Some(4i32.to_ne_bytes().to_vec()));
    assert_eq!(b.set_own_option(SO_INQ, 2), Err(Errno::EINVAL));
    let (_, datagrams) = crate::pair(DATAGRAM, 0).unwrap();
    assert_eq!(datagrams.set_own_option(SO_INQ, 1), Err(Errno::ENOPROTOOPT));
}

#[test]
fn datagrams_keep_their_borders() {
    let (a, b) = crate::pair(DATAGRAM, 0).unwrap();
    for message in [&b"one"[..], b"", b"three"] {
        assert_eq!(send(&a, message), Ok(message.len()));
    }
    assert_eq!(text(&b, 9, NOW).unwrap(), b"one");
    assert_eq!(text(&b, 9, NOW).unwrap(), b"");
    let (data, received) = receive(&b, 2, NOW).unwrap();
    assert_eq!((data.as_slice(), received.flags), (&b"th"[..], MsgFlags::TRUNC));
}

#[test]
fn the_end_of_one_side_is_seen_by_the_other() {
    let (a, b) = crate::pair(STREAM, 0).unwrap();
    send(&a, b"unread").unwrap();
    b.release();
    assert!(poll(&a).contains(PollEvents::HUP | PollEvents::ERR | PollEvents::IN));
    assert_eq!(text(&a, 1, NOW), Err(Errno::ECONNRESET));
    assert_eq!(text(&a, 1, NOW).unwrap(), b"");
    assert_eq!(send(&a, b"x"), Err(Errno::EPIPE));
}

#[test]
fn halves_are_shut_on_both_sides() {
    let (a, b) = crate::pair(STREAM, 0).unwrap();
    a.shutdown(Halves { receive: false, send: true }).unwrap();
    assert_eq!(poll(&b) & (PollEvents::RDHUP | PollEvents::HUP), PollEvents::RDHUP);
    assert_eq!(send(&b, b"still"), Ok(5));
    b.shutdown(Halves::BOTH).unwrap();
    assert!(poll(&a).contains(PollEvents::HUP));
}

#[test]
fn a_full_buffer_is_not_writable_until_it_was_drained() {
    let (a, b) = crate::pair(STREAM, 0).unwrap();
    let mut sent = 0;
    while let Ok(len) = send(&a, &[7; 5000]) {
        sent += len;
    }
    assert!(sent > 10_000 && !poll(&a).contains(PollEvents::OUT));
    let mut got = 0;
    while let Ok(data) = text(&b, 100_000, NOW) {
        got += data.len();
    }
    assert_eq!(got, sent);
    assert!(poll(&a).contains(PollEvents::OUT) && a.unsent_bytes() == Ok(0));
}

#[test]
fn files_stop_a_receive_and_come_with_the_first_byte() {
    let (a, b) = crate::pair(STREAM, 0).unwrap();
    let (c, _d) = crate::pair(STREAM, 0).unwrap();
    send(&a, b"before").unwrap();
    send_with(&a, b"with", vec![open(&c)]).unwrap();
    send(&a, b"after").unwrap();
    let (data, received) = receive(&b, 100, NOW).unwrap();
    assert_eq!((data.as_slice(), received.rights.len()), (&b"beforewith"[..], 1));
    assert_eq!(text(&b, 100, NOW).unwrap(), b"after");
}

/// Whether the other end of `watched` is closed within a few seconds: with many sockets in messages, of other tests too,
/// a work queue collects them.
fn hangs_up(watched: &Arc<dyn Socket>) -> bool {
    (0..3000).any(|_| {
        let _ = sched::sleep_until(hal::time::now_ns() + 1_000_000, sched::Interruptible::No);
        poll(watched).contains(PollEvents::HUP)
    })
}

#[test]
fn a_cycle_in_flight_is_collected() {
    let (a, b) = crate::pair(STREAM, 0).unwrap();
    let (watched, other) = crate::pair(STREAM, 0).unwrap();
    let (file_a, file_b) = (open(&a), open(&b));
    send_with(&a, b"x", vec![file_b.clone(), open(&other)]).unwrap();
    send_with(&b, b"x", vec![file_a.clone()]).unwrap();
    assert!(!poll(&watched).contains(PollEvents::HUP));
    drop((file_a, file_b));
    let (x, _y) = crate::pair(STREAM, 0).unwrap();
    x.release();
    assert!(hangs_up(&watched), "what the cycle carried is closed");
}

#[test]
fn with_many_sockets_in_messages_a_cycle_is_collected_a_little_later() {
    let (holder, _reader) = crate::pair(DATAGRAM, 0).unwrap();
    let mut others = Vec::new();
    for _ in 0..100 {
        let (x, y) = crate::pair(STREAM, 0).unwrap();
        send_with(&holder, b"x", vec![open(&x)]).unwrap();
        others.push((x, y));
    }
    let (a, b) = crate::pair(STREAM, 0).unwrap();
    let (watched, other) = crate::pair(STREAM, 0).unwrap();
    let (file_a, file_b) = (open(&a), open(&b));
    send_with(&a, b"x", vec![file_b.clone(), open(&other)]).unwrap();
    send_with(&b, b"x", vec![file_a.clone()]).unwrap();
    drop((file_a, file_b));
    let (x, _y) = crate::pair(STREAM, 0).unwrap();
    x.release();
    assert!(hangs_up(&watched), "what the cycle carried is closed");
    assert!(others.iter().all(|(_, y)| !poll(y).contains(PollEvents::HUP)), "the others are alive");
}

#[test]
fn a_socket_in_a_live_queue_is_kept() {
    let (a, b) = crate::pair(STREAM, 0).unwrap();
    let (c, d) = crate::pair(STREAM, 0).unwrap();
    let _held = open(&b);
    send_with(&a, b"x", vec![open(&c)]).unwrap();
    let (x, _y) = crate::pair(STREAM, 0).unwrap();
    x.release();
    assert_eq!(send(&d, b"alive"), Ok(5));
    let (_, received) = receive(&b, 9, NOW).unwrap();
    assert_eq!(received.rights.len(), 1);
}
