//! UDP over loopback.

use nix::errno::Errno::EDESTADDRREQ;

use crate::inetkit::{ANY, LO, v4, v6, MAPPED, socket_of, udp, bind, connect, accept_with, name_by, name, port, udp_bound, send_to, recv, recv_from, set, error_of, control};
use crate::prelude::*;

tests!(
    "udp":
    round_trip, names, connected, refused, truncates, queue_is_bounded, errors,
    pktinfo, udp_v6, mmsg, error_queue,
);

fn round_trip() {
    let (a, b) = (udp_bound(), udp_bound());
    assert_eq!(send_to(a, b"ping", &name(b)), Ok(4));
    let (data, from) = recv_from(b);
    assert_eq!((data, &from), (b"ping".to_vec(), &name(a)));
    send_to(b, b"pong", &from).unwrap();
    send_to(b, b"", &from).unwrap();
    assert_eq!(recv(a, 100, 0).unwrap(), b"pong");
    assert_eq!(recv(a, 100, 0).unwrap(), b"", "an empty one is one");
    assert_eq!(recv(a, 100, MSG_DONTWAIT), Err(EAGAIN));
}

fn names() {
    let a = udp();
    assert_eq!(name(a), v4(ANY, 0));
    let b = udp_bound();
    send_to(a, b"x", &name(b)).unwrap();
    assert_ne!(port(a), 0, "sending binds");
    assert_eq!(recv_from(b).1, v4(LO, port(a)));
    assert_eq!(name(a), v4(ANY, port(a)));
    connect(a, &name(b)).unwrap();
    assert_eq!(name(a), v4(LO, port(a)));
    assert_eq!(name_by(SYS_getpeername, a), Ok(name(b)));
    connect(a, &[0; 16]).unwrap();
    assert_eq!(name_by(SYS_getpeername, a), Err(ENOTCONN));
}

fn connected() {
    let (a, b, other) = (udp_bound(), udp_bound(), udp_bound());
    connect(a, &name(b)).unwrap();
    write(a, b"to b").unwrap();
    assert_eq!(recv(b, 9, 0).unwrap(), b"to b");
    send_to(other, b"stray", &name(a)).unwrap();
    send_to(b, b"mine", &name(a)).unwrap();
    assert_eq!(recv(a, 9, 0).unwrap(), b"mine", "only from the peer");
    send_to(a, b"elsewhere", &name(other)).unwrap();
    assert_eq!(recv(other, 9, MSG_DONTWAIT).unwrap(), b"elsewhere");
}

fn refused() {
    let gone = udp_bound();
    let to = name(gone);
    close(gone);
    let a = udp();
    assert_eq!(send_to(a, b"x", &to), Ok(1));
    assert_eq!(error_of(a), 0, "not connected: nobody is told");
    connect(a, &to).unwrap();
    assert_eq!(write(a, b"x"), Ok(1));
    assert_ne!(poll1(a, POLLIN, 1000) & POLLERR, 0);
    assert_eq!(recv(a, 1, 0), Err(ECONNREFUSED));
    assert_eq!(recv(a, 1, MSG_DONTWAIT), Err(EAGAIN));
    write(a, b"x").unwrap();
    assert_ne!(poll1(a, POLLIN, 1000) & POLLERR, 0);
    assert_eq!(error_of(a), ECONNREFUSED as i32);
}

fn truncates() {
    let (a, b) = (udp_bound(), udp_bound());
    for _ in 0..3 {
        send_to(a, b"abcdef", &name(b)).unwrap();
    }
    assert_eq!(recv(b, 3, MSG_PEEK).unwrap(), b"abc");
    assert_eq!(recv(b, 3, 0).unwrap(), b"abc", "the rest is lost");
    let mut buf = [0u8; 2];
    assert_eq!(sys!(SYS_recvfrom, b, &mut buf, 2, MSG_TRUNC, 0, 0), Ok(6));
    let mut bytes = 0i32;
    sys!(SYS_ioctl, b, FIONREAD, &mut bytes).unwrap();
    assert_eq!(bytes, 6);
    let iov = iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: 2 };
    let mut m: msghdr = zero();
    (m.msg_iov, m.msg_iovlen) = ((&raw const iov).cast_mut(), 1);
    assert_eq!(sys!(SYS_recvmsg, b, &mut m, 0), Ok(2));
    assert_eq!(m.msg_flags, MSG_TRUNC);
}

fn queue_is_bounded() {
    let (a, b) = (udp_bound(), udp_bound());
    set(b, SOL_SOCKET, SO_RCVBUF, 5000).unwrap();
    let big = [9u8; 1000];
    for _ in 0..100 {
        assert_eq!(send_to(a, &big, &name(b)), Ok(1000), "loss is silent");
    }
    let mut got = 0;
    while recv(b, 1000, MSG_DONTWAIT).is_ok() {
        got += 1;
    }
    assert!((1..50).contains(&got), "{got}");
}

fn errors() {
    let a = udp();
    assert_eq!(write(a, b"x"), Err(EDESTADDRREQ));
    assert_eq!(send_to(a, &[0; 65508], &v4(LO, 9)), Err(EMSGSIZE));
    assert_eq!(send_to(a, b"x", &v4(LO, 0)), Err(EINVAL));
    assert_eq!(sys!(SYS_listen, a, 1), Err(EOPNOTSUPP));
    assert_eq!(accept_with(a, 0), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_shutdown, a, SHUT_WR), Err(ENOTCONN));
    assert_eq!(poll1(a, POLLIN | POLLOUT, 0), POLLOUT);
}

fn pktinfo() {
    let (a, b) = (udp(), udp());
    bind(b, &v4(ANY, 0)).unwrap();
    set(b, IPPROTO_IP, IP_PKTINFO, 1).unwrap();
    send_to(a, b"x", &v4(LO + 8, port(b))).unwrap();
    let (level, kind, data) = control(b);
    assert_eq!((level, kind), (IPPROTO_IP, IP_PKTINFO));
    assert_eq!(data[..4], 1u32.to_ne_bytes(), "the index of lo");
    assert_eq!(data[8..12], (LO + 8).to_be_bytes());
    set(b, IPPROTO_IP, IP_PKTINFO, 0).unwrap();
    set(b, IPPROTO_IP, IP_RECVTTL, 1).unwrap();
    set(a, IPPROTO_IP, IP_TTL, 33).unwrap();
    send_to(a, b"x", &v4(LO, port(b))).unwrap();
    assert_eq!(control(b), (IPPROTO_IP, IP_TTL, 33i32.to_ne_bytes().to_vec()));
}

fn udp_v6() {
    let (a, b) = (socket_of(AF_INET6, SOCK_DGRAM), socket_of(AF_INET6, SOCK_DGRAM));
    bind(b, &v6(0, 0)).unwrap();
    send_to(a, b"six", &v6(1, port(b))).unwrap();
    let (data, from) = recv_from(b);
    assert_eq!((data, from), (b"six".to_vec(), v6(1, port(a))));
    let four = udp_bound();
    send_to(four, b"four", &v4(LO, port(b))).unwrap();
    assert_eq!(recv_from(b).1, v6(MAPPED | u128::from(LO), port(four)));
}

fn mmsg() {
    let (a, b) = (udp_bound(), udp_bound());
    connect(a, &name(b)).unwrap();
    let texts = [b"one".to_vec(), b"two2".to_vec()];
    let iovs: Vec<iovec> =
        texts.iter().map(|t| iovec { iov_base: t.as_ptr().cast_mut().cast(), iov_len: t.len() }).collect();
    let mut words = [0u64; 16];
    for (at, iov) in iovs.iter().enumerate() {
        words[at * 8 + 2] = std::ptr::from_ref(iov) as u64;
        words[at * 8 + 3] = 1;
    }
    assert_eq!(sys!(SYS_sendmmsg, a, &mut words, 2, 0), Ok(2));
    assert_eq!((words[7] as u32, words[15] as u32), (3, 4));
    assert_eq!(recv(b, 9, 0).unwrap(), b"one");
    assert_eq!(recv(b, 9, 0).unwrap(), b"two2");
}

fn error_queue() {
    let gone = udp_bound();
    let to = name(gone);
    close(gone);
    let a = udp();
    set(a, IPPROTO_IP, IP_RECVERR, 1).unwrap();
    send_to(a, b"lost", &to).unwrap();
    assert_ne!(poll1(a, POLLIN, 1000) & POLLERR, 0);
    let (mut buf, mut ctl, mut from) = ([0u8; 64], [0u64; 32], [0u8; 16]);
    let iov = iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: 64 };
    let mut m: msghdr = zero();
    (m.msg_iov, m.msg_iovlen) = ((&raw const iov).cast_mut(), 1);
    (m.msg_control, m.msg_controllen) = (ctl.as_mut_ptr().cast(), 256);
    (m.msg_name, m.msg_namelen) = (from.as_mut_ptr().cast(), 16);
    assert_eq!(sys!(SYS_recvmsg, a, &mut m, MSG_ERRQUEUE), Ok(4));
    assert_eq!(&buf[..4], b"lost");
    assert_eq!(from[..], to[..], "where it should have gone");
    assert_eq!(ctl[2] as u32, ECONNREFUSED as u32);
    assert_eq!((ctl[2] >> 32) as u32, 0x0003_0302, "ICMP: port unreachable");
    assert_ne!(m.msg_flags & MSG_ERRQUEUE, 0);
    m.msg_controllen = 256;
    assert_eq!(sys!(SYS_recvmsg, a, &mut m, MSG_ERRQUEUE), Err(EAGAIN));
}
