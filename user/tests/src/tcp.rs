//! TCP over loopback.

use nix::errno::Errno::{EALREADY, ECONNABORTED, EINPROGRESS};

use crate::inetkit::{ANY, LO, v4, tcp, bind, connect, accept_with, accept, name_by, name, port, listen, listener, pair, send, recv, set, get, error_of, nonblocking, deaf, pattern};
use crate::prelude::*;

tests!(
    "tcp":
    round_trip, connect_errors, names, states_of_poll, nonblocking_connect, accept_errors,
    backlog_drops, shutdown_halves, end_of_stream, reset_on_unread_data, linger_resets,
    closed_listener_resets, bulk, bulk_nonblocking, many_small_writes, peek_and_waitall,
    trunc_discards, timeouts, send_buffer_fills, two_way, urgent_byte, urgent_inline,
    cork, info, options, self_connect, reuse_of_ports, port_of_a_group, epoll_edges,
    sendfile_and_splice, disconnect, concurrent_clients,
);

fn round_trip() {
    let (c, s) = pair();
    write(c, b"hello").unwrap();
    assert_eq!(read_vec(s, 100).unwrap(), b"hello");
    write(s, b"back").unwrap();
    write(s, b"again").unwrap();
    assert_eq!(recv(c, 9, MSG_WAITALL).unwrap(), b"backagain");
    assert_eq!(recv(c, 10, MSG_DONTWAIT), Err(EAGAIN));
    let mut bytes = 9i32;
    sys!(SYS_ioctl, c, FIONREAD, &mut bytes).unwrap();
    assert_eq!(bytes, 0);
    write(s, b"abc").unwrap();
    sys!(SYS_ioctl, c, FIONREAD, &mut bytes).unwrap();
    assert_eq!(bytes, 3);
}

fn connect_errors() {
    let (_d, to) = deaf();
    let c = tcp();
    assert_eq!(connect(c, &to), Err(ECONNREFUSED));
    assert_eq!(error_of(c), 0, "connect has told it");
    assert_eq!(connect(c, &to[..8]), Err(EINVAL));
    assert_eq!(connect(c, &[77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(EAFNOSUPPORT));
    let l = listener();
    assert_eq!(connect(c, &name(l)), Ok(0), "a refused socket may try again");
    assert_eq!(connect(c, &name(l)), Err(EISCONN));
    assert_eq!(connect(l, &to), Err(EISCONN));
    assert_eq!(sys!(SYS_listen, c, 1), Err(EINVAL));
}

fn names() {
    let l = tcp();
    assert_eq!(name(l), v4(ANY, 0));
    bind(l, &v4(ANY, 0)).unwrap();
    let p = port(l);
    assert_ne!(p, 0);
    listen(l, 1);
    let c = tcp();
    assert_eq!(name_by(SYS_getpeername, c), Err(ENOTCONN));
    connect(c, &v4(LO, p)).unwrap();
    let s = accept(l);
    assert_eq!(name_by(SYS_getpeername, c), Ok(v4(LO, p)));
    assert_eq!(name(s), v4(LO, p));
    assert_eq!(name_by(SYS_getpeername, s), Ok(name(c)));
    assert_eq!(name_by(SYS_getpeername, l), Err(ENOTCONN));
    let (mut short, mut len) = ([0u8; 16], 4u32);
    sys!(SYS_getsockname, l, &mut short, &mut len).unwrap();
    assert_eq!((len, &short[..4]), (16, &name(l)[..4]));
    let c = tcp();
    connect(c, &v4(ANY, p)).unwrap();
    assert_eq!(name_by(SYS_getpeername, c), Ok(v4(LO, p)), "0.0.0.0 is oneself");
}

fn states_of_poll() {
    let all = POLLIN | POLLOUT | POLLRDHUP | POLLPRI;
    let fresh = tcp();
    assert_eq!(poll1(fresh, all, 0), POLLOUT | POLLHUP);
    let l = listener();
    assert_eq!(poll1(l, all, 0), 0);
    let c = tcp();
    connect(c, &name(l)).unwrap();
    assert_eq!(poll1(l, all, 1000), POLLIN);
    let s = accept(l);
    assert_eq!(poll1(c, all, 0), POLLOUT);
    write(s, b"x").unwrap();
    assert_eq!(poll1(c, POLLIN, 1000), POLLIN);
    sys!(SYS_shutdown, s, SHUT_WR).unwrap();
    assert_eq!(poll1(c, POLLRDHUP, 1000), POLLRDHUP);
    assert_eq!(poll1(c, all, 0), POLLIN | POLLOUT | POLLRDHUP);
    sys!(SYS_shutdown, c, SHUT_WR).unwrap();
    assert_eq!(poll1(c, 0, 1000), POLLHUP);
}

fn nonblocking_connect() {
    let l = listener();
    let c = tcp();
    nonblocking(c);
    assert_eq!(connect(c, &name(l)), Err(EINPROGRESS), "also where the other end answers at once");
    assert_eq!(poll1(c, POLLOUT, 1000), POLLOUT);
    assert_eq!(error_of(c), 0);
    assert_eq!(connect(c, &name(l)), Ok(0), "the handshake's end is told once");
    assert_eq!(connect(c, &name(l)), Err(EISCONN));
    let (_d, to) = deaf();
    let c = tcp();
    nonblocking(c);
    assert_eq!(connect(c, &to), Err(EINPROGRESS));
    assert_ne!(poll1(c, POLLOUT, 1000) & POLLERR, 0);
    assert_eq!(error_of(c), ECONNREFUSED as i32);
    assert_eq!(error_of(c), 0, "an error is told once");
    assert!(matches!(connect(c, &to), Err(ECONNABORTED | ECONNREFUSED | EINPROGRESS | EALREADY)));
}

fn accept_errors() {
    let s = tcp();
    assert_eq!(accept_with(s, 0), Err(EINVAL));
    let l = listener();
    nonblocking(l);
    assert_eq!(accept_with(l, 0), Err(EAGAIN));
    assert_eq!(recv(l, 1, 0), Err(ENOTCONN));
    assert_eq!(send(l, b"x", 0), Err(EPIPE));
    assert_eq!(recv(s, 1, 0), Err(ENOTCONN));
    assert_eq!(send(s, b"x", 0), Err(EPIPE));
    assert_eq!(sys!(SYS_shutdown, s, SHUT_RDWR), Err(ENOTCONN));
    let c = tcp();
    connect(c, &name(l)).unwrap();
    let fd = accept_with(l, SOCK_NONBLOCK | SOCK_CLOEXEC).unwrap();
    assert_eq!(sys!(SYS_fcntl, fd, F_GETFL), Ok((O_RDWR | O_NONBLOCK) as usize));
    assert_eq!(get(l, SOL_SOCKET, SO_ACCEPTCONN), Ok(1));
    assert_eq!(get(fd, SOL_SOCKET, SO_ACCEPTCONN), Ok(0));
}

/// Linux lets one more in than the backlog says, and then is deaf to more.
fn backlog_drops() {
    let l = tcp();
    bind(l, &v4(LO, 0)).unwrap();
    listen(l, 1);
    let (mut clients, mut done) = (vec![], vec![]);
    for _ in 0..4 {
        let c = tcp();
        nonblocking(c);
        let r = connect(c, &name(l));
        assert!(matches!(r, Err(EINPROGRESS) | Ok(0)));
        done.push(poll1(c, POLLOUT, 100) & POLLOUT != 0);
        clients.push(c);
    }
    assert_eq!(done, [true, true, false, false]);
    accept(l);
    accept(l);
    assert_eq!(poll1(clients[2], POLLOUT, 15_000), POLLOUT, "it asks again");
}

fn shutdown_halves() {
    let (c, s) = pair();
    sys!(SYS_shutdown, c, SHUT_WR).unwrap();
    assert_eq!(send(c, b"x", 0), Err(EPIPE));
    assert_eq!(read_vec(s, 1).unwrap(), b"");
    write(s, b"still").unwrap();
    assert_eq!(recv(c, 5, MSG_WAITALL).unwrap(), b"still");
    let (c, s) = pair();
    sys!(SYS_shutdown, c, SHUT_RD).unwrap();
    assert_eq!(read_vec(c, 1).unwrap(), b"");
    assert_eq!(write(s, b"goes nowhere").unwrap(), 12);
    assert_eq!(sys!(SYS_shutdown, c, 7), Err(EINVAL));
    assert_eq!(fate(|| {
        sys!(SYS_shutdown, s, SHUT_WR).unwrap();
        ignore(write(s, b"x"));
    }), Status::Signal(SIGPIPE));
}

fn end_of_stream() {
    let (c, s) = pair();
    write(c, b"last words").unwrap();
    close(c);
    assert_eq!(read_vec(s, 100).unwrap(), b"last words");
    assert_eq!(read_vec(s, 100).unwrap(), b"");
    assert_eq!(read_vec(s, 100).unwrap(), b"");
    assert_eq!(send(s, b"too late", 0), Ok(8), "the first is answered by a reset");
    assert_ne!(poll1(s, POLLIN, 1000) & POLLERR, 0);
    assert_eq!(send(s, b"x", 0), Err(EPIPE));
}

fn reset_on_unread_data() {
    let (c, s) = pair();
    write(c, b"unread").unwrap();
    assert_eq!(poll1(s, POLLIN, 1000), POLLIN);
    close(s);
    assert_eq!(poll1(c, POLLIN | POLLRDHUP, 1000), POLLIN | POLLRDHUP | POLLHUP | POLLERR);
    assert_eq!(recv(c, 1, 0), Err(ECONNRESET));
    assert_eq!(recv(c, 1, 0).unwrap(), b"");
    assert_eq!(send(c, b"x", 0), Err(EPIPE));
}

fn linger_resets() {
    let (c, s) = pair();
    sys!(SYS_setsockopt, c, SOL_SOCKET, SO_LINGER, &[1i32, 0], 8).unwrap();
    close(c);
    assert_eq!(recv(s, 1, 0), Err(ECONNRESET));
    let (c, s) = pair();
    sys!(SYS_setsockopt, c, SOL_SOCKET, SO_LINGER, &[1i32, 5], 8).unwrap();
    write(c, b"taken").unwrap();
    close(c);
    assert_eq!(recv(s, 9, 0).unwrap(), b"taken");
}

fn closed_listener_resets() {
    let l = listener();
    let to = name(l);
    let c = tcp();
    connect(c, &to).unwrap();
    close(l);
    assert_eq!(recv(c, 1, 0), Err(ECONNRESET));
    assert_eq!(connect(tcp(), &to), Err(ECONNREFUSED));
}

fn bulk() {
    let (c, s) = pair();
    let data = pattern(3 << 20);
    let sender = child(|| {
        close(s);
        let data = pattern(3 << 20);
        let mut at = 0;
        while at < data.len() {
            at += write(c, &data[at..(at + 100_000).min(data.len())]).unwrap();
        }
    });
    close(c);
    let mut got = vec![];
    loop {
        let part = read_vec(s, 70_000).unwrap();
        if part.is_empty() {
            break;
        }
        got.extend(part);
    }
    sender.ok();
    assert!(got == data);
}

fn bulk_nonblocking() {
    let (c, s) = pair();
    nonblocking(c);
    nonblocking(s);
    let data = pattern(8 << 20);
    let (mut at, mut got) = (0, 0);
    while got < data.len() {
        if at < data.len() {
            match write(c, &data[at..(at + 200_000).min(data.len())]) {
                Ok(n) => at += n,
                Err(e) => assert_eq!(e, EAGAIN),
            }
        }
        match read_vec(s, 30_000) {
            Ok(part) => {
                assert!(part[..] == data[got..got + part.len()], "at {got}");
                got += part.len();
            }
            Err(e) => {
                assert_eq!(e, EAGAIN);
                assert_ne!(poll1(s, POLLIN, 5000), 0, "stuck at {got} of {at}");
            }
        }
    }
}

fn many_small_writes() {
    for no_delay in [0, 1] {
        let (c, s) = pair();
        set(c, IPPROTO_TCP, TCP_NODELAY, no_delay).unwrap();
        for i in 0..3000u32 {
            write(c, &i.to_ne_bytes()).unwrap();
        }
        for i in 0..3000u32 {
            assert_eq!(recv(s, 4, MSG_WAITALL).unwrap(), i.to_ne_bytes());
        }
    }
}

fn peek_and_waitall() {
    let (c, s) = pair();
    write(c, b"abcdef").unwrap();
    assert_eq!(recv(s, 3, MSG_PEEK).unwrap(), b"abc");
    assert_eq!(recv(s, 6, MSG_PEEK | MSG_WAITALL).unwrap(), b"abcdef");
    assert_eq!(recv(s, 6, 0).unwrap(), b"abcdef");
    let writer = child(|| {
        write(c, b"12").unwrap();
        settle();
        write(c, b"345").unwrap();
    });
    assert_eq!(recv(s, 5, MSG_WAITALL).unwrap(), b"12345");
    writer.ok();
    write(c, b"end").unwrap();
    sys!(SYS_shutdown, c, SHUT_WR).unwrap();
    assert_eq!(recv(s, 50, MSG_WAITALL).unwrap(), b"end", "an end stops it");
}

fn trunc_discards() {
    let (c, s) = pair();
    write(c, b"abcdef").unwrap();
    assert_eq!(sys!(SYS_recvfrom, s, 0, 4, MSG_TRUNC, 0, 0), Ok(4));
    assert_eq!(recv(s, 10, 0).unwrap(), b"ef");
}

fn timeouts() {
    let (c, _s) = pair();
    let time = timeval { tv_sec: 0, tv_usec: 50_000 };
    sys!(SYS_setsockopt, c, SOL_SOCKET, SO_RCVTIMEO, &time, 16).unwrap();
    let (took, r) = timed(|| recv(c, 1, 0));
    assert_eq!(r, Err(EAGAIN));
    assert!(took >= 45);
    let l = listener();
    sys!(SYS_setsockopt, l, SOL_SOCKET, SO_RCVTIMEO, &time, 16).unwrap();
    assert_eq!(accept_with(l, 0), Err(EAGAIN));
}

fn send_buffer_fills() {
    let (c, s) = pair();
    nonblocking(c);
    let data = vec![5u8; 1 << 16];
    let mut total = 0;
    loop {
        match write(c, &data) {
            Ok(n) => total += n,
            Err(e) => {
                assert_eq!(e, EAGAIN);
                break;
            }
        }
        assert!(total < 64 << 20, "nobody reads");
    }
    assert_eq!(poll1(c, POLLOUT, 0), 0);
    let mut waiting = 0i32;
    sys!(SYS_ioctl, c, TIOCOUTQ, &mut waiting).unwrap();
    assert!(waiting > 0);
    let mut got = 0;
    while got < total {
        got += read_vec(s, 1 << 20).unwrap().len();
    }
    assert_eq!(poll1(c, POLLOUT, 5000), POLLOUT);
}

fn two_way() {
    let (c, s) = pair();
    let echo = child(|| {
        close(c);
        loop {
            let part = read_vec(s, 5000).unwrap();
            if part.is_empty() {
                break;
            }
            let mut at = 0;
            while at < part.len() {
                at += write(s, &part[at..]).unwrap();
            }
        }
    });
    close(s);
    for len in [1, 10, 1000, 4096, 30_000] {
        let data = pattern(len);
        write(c, &data).unwrap();
        assert!(recv(c, len, MSG_WAITALL).unwrap() == data);
    }
    close(c);
    echo.ok();
}

fn urgent_byte() {
    let (c, s) = pair();
    assert_eq!(recv(s, 1, MSG_OOB), Err(EINVAL));
    assert_eq!(send(c, b"ab!", MSG_OOB), Ok(3));
    send(c, b"cd", 0).unwrap();
    assert_eq!(poll1(s, POLLPRI, 1000), POLLPRI);
    assert_eq!(recv(s, 9, 0).unwrap(), b"ab", "reading stops at the mark");
    let mut at = 0i32;
    sys!(SYS_ioctl, s, 0x8905, &mut at).unwrap();
    assert_eq!(at, 1);
    assert_eq!(recv(s, 1, MSG_OOB).unwrap(), b"!");
    assert_eq!(recv(s, 1, MSG_OOB), Err(EINVAL), "it is read once");
    assert_eq!(recv(s, 2, MSG_WAITALL).unwrap(), b"cd");
}

fn urgent_inline() {
    let (c, s) = pair();
    set(s, SOL_SOCKET, SO_OOBINLINE, 1).unwrap();
    send(c, b"x!", MSG_OOB).unwrap();
    assert_eq!(recv(s, 2, MSG_WAITALL).unwrap(), b"x", "reading stops at the mark");
    assert_eq!(recv(s, 1, MSG_OOB), Err(EINVAL));
    assert_eq!(recv(s, 2, 0).unwrap(), b"!");
}

fn cork() {
    let (c, s) = pair();
    set(c, IPPROTO_TCP, TCP_CORK, 1).unwrap();
    write(c, b"one").unwrap();
    write(c, b"two").unwrap();
    set(c, IPPROTO_TCP, TCP_CORK, 0).unwrap();
    assert_eq!(poll1(s, POLLIN, 1000), POLLIN);
    assert_eq!(recv(s, 10, 0).unwrap(), b"onetwo");
    send(c, b"more", MSG_MORE).unwrap();
    send(c, b"done", 0).unwrap();
    assert_eq!(recv(s, 8, MSG_WAITALL).unwrap(), b"moredone");
}

fn info() {
    let (c, s) = pair();
    let mut info = [0u8; 256];
    let mut len = 256u32;
    sys!(SYS_getsockopt, c, IPPROTO_TCP, TCP_INFO, &mut info, &mut len).unwrap();
    assert!(len >= 104);
    assert_eq!(info[0], 1, "established");
    assert_ne!(info[5] & 7, 0, "timestamps, SACK, scaling");
    sys!(SYS_shutdown, s, SHUT_WR).unwrap();
    assert_eq!(poll1(c, POLLRDHUP, 1000), POLLRDHUP);
    sys!(SYS_getsockopt, c, IPPROTO_TCP, TCP_INFO, &mut info, &mut len).unwrap();
    assert_eq!(info[0], 8, "close wait");
    let l = listener();
    len = 1;
    sys!(SYS_getsockopt, l, IPPROTO_TCP, TCP_INFO, &mut info, &mut len).unwrap();
    assert_eq!((info[0], len), (10, 1), "listen");
}

fn options() {
    let fd = tcp();
    for (name, value) in [
        (TCP_NODELAY, 1),
        (TCP_CORK, 1),
        (TCP_KEEPIDLE, 77),
        (TCP_KEEPINTVL, 11),
        (TCP_KEEPCNT, 5),
        (TCP_SYNCNT, 3),
        (TCP_USER_TIMEOUT, 12345),
        (TCP_LINGER2, 30),
    ] {
        assert_eq!(set(fd, IPPROTO_TCP, name, value), Ok(0), "{name}");
        assert_eq!(get(fd, IPPROTO_TCP, name), Ok(value), "{name}");
    }
    for (name, value) in [(TCP_KEEPIDLE, 0), (TCP_KEEPCNT, 128), (TCP_USER_TIMEOUT, -1), (TCP_SYNCNT, 0)] {
        assert_eq!(set(fd, IPPROTO_TCP, name, value), Err(EINVAL), "{name}");
    }
    assert_eq!(set(fd, IPPROTO_TCP, 12345, 1), Err(ENOPROTOOPT));
    assert_eq!(set(fd, 200, 1, 1), Err(ENOPROTOOPT));
    assert_eq!(set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1), Err(ENOPROTOOPT));
    assert_eq!(sys!(SYS_setsockopt, fd, IPPROTO_TCP, TCP_NODELAY, &1i32, 3), Err(EINVAL));
    let reno = *b"reno";
    sys!(SYS_setsockopt, fd, IPPROTO_TCP, TCP_CONGESTION, &reno, 4).unwrap();
    let (mut name, mut len) = ([0u8; 16], 16u32);
    sys!(SYS_getsockopt, fd, IPPROTO_TCP, TCP_CONGESTION, &mut name, &mut len).unwrap();
    assert_eq!(&name[..5], b"reno\0");
    assert_eq!(sys!(SYS_setsockopt, fd, IPPROTO_TCP, TCP_CONGESTION, b"none", 4), Err(ENOENT));
    assert_eq!(set(fd, IPPROTO_IP, IP_TTL, 0), Err(EINVAL));
    assert_eq!(set(fd, IPPROTO_IP, IP_TTL, 9), Ok(0));
    assert_eq!(get(fd, IPPROTO_IP, IP_TTL), Ok(9));
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1).unwrap();
    assert_eq!(get(fd, SOL_SOCKET, SO_KEEPALIVE), Ok(1));
    let l = listener();
    set(l, IPPROTO_TCP, TCP_KEEPIDLE, 99).unwrap();
    let c = tcp();
    connect(c, &name_by(SYS_getsockname, l).unwrap()).unwrap();
    assert_eq!(get(accept(l), IPPROTO_TCP, TCP_KEEPIDLE), Ok(99), "inherited");
}

fn self_connect() {
    let fd = tcp();
    bind(fd, &v4(LO, 0)).unwrap();
    connect(fd, &name(fd)).unwrap();
    assert_eq!(name_by(SYS_getpeername, fd), Ok(name(fd)));
    write(fd, b"echo").unwrap();
    assert_eq!(read_vec(fd, 9).unwrap(), b"echo");
}

/// A server that starts again while old connections of its port wait.
fn reuse_of_ports() {
    let l = listener();
    let to = name(l);
    let c = tcp();
    connect(c, &to).unwrap();
    let s = accept(l);
    close(l);
    close(s);
    assert_eq!(read_vec(c, 1).unwrap(), b"");
    close(c);
    assert_eq!(bind(tcp(), &to), Err(EADDRINUSE));
    // Sockets share with those of before only if those were willing.
    let l = tcp();
    set(l, SOL_SOCKET, SO_REUSEADDR, 1).unwrap();
    bind(l, &v4(LO, 0)).unwrap();
    listen(l, 5);
    let to = name(l);
    let c = tcp();
    connect(c, &to).unwrap();
    close(accept(l));
    assert_eq!(read_vec(c, 1).unwrap(), b"");
    close(c);
    let again = tcp();
    set(again, SOL_SOCKET, SO_REUSEADDR, 1).unwrap();
    assert_eq!(bind(again, &to), Err(EADDRINUSE), "a listener shares with none");
    close(l);
    assert_eq!(bind(again, &to), Ok(0));
    listen(again, 5);
    assert_eq!(connect(tcp(), &to), Ok(0));
}

fn port_of_a_group() {
    let a = tcp();
    set(a, SOL_SOCKET, SO_REUSEPORT, 1).unwrap();
    bind(a, &v4(LO, 0)).unwrap();
    listen(a, 64);
    let b = tcp();
    assert_eq!(bind(b, &name(a)), Err(EADDRINUSE));
    set(b, SOL_SOCKET, SO_REUSEPORT, 1).unwrap();
    bind(b, &name(a)).unwrap();
    listen(b, 64);
    for _ in 0..32 {
        connect(tcp(), &name(a)).unwrap();
    }
    let mut counts = [0, 0];
    for (at, fd) in [a, b].into_iter().enumerate() {
        nonblocking(fd);
        while accept_with(fd, 0).is_ok() {
            counts[at] += 1;
        }
    }
    assert_eq!(counts[0] + counts[1], 32);
}

fn epoll_edges() {
    let (c, s) = pair();
    let ep = sys!(SYS_epoll_create1, 0).unwrap() as i32;
    let mut event = epoll_event { events: (EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP) as u32, u64: 1 };
    sys!(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, s, &mut event).unwrap();
    let wait = |timeout: i32| {
        let mut out = [zero::<epoll_event>(); 2];
        let n = sys!(SYS_epoll_wait, ep, &mut out, 2, timeout).unwrap();
        if n == 0 { 0 } else { out[0].events }
    };
    assert_eq!(wait(1000), EPOLLOUT as u32);
    assert_eq!(wait(0), 0, "no edge without news");
    write(c, b"1").unwrap();
    assert_eq!(wait(1000), (EPOLLIN | EPOLLOUT) as u32);
    assert_eq!(wait(0), 0);
    write(c, b"2").unwrap();
    assert_ne!(wait(1000) & EPOLLIN as u32, 0, "each arrival is an edge");
    close(c);
    assert_ne!(wait(1000) & EPOLLRDHUP as u32, 0);
}

fn sendfile_and_splice() {
    let (c, s) = pair();
    let data = pattern(50_000);
    let f = open(&file("data", &data), O_RDONLY).unwrap();
    let sent = sys!(SYS_sendfile, c, f, 0, 50_000).unwrap();
    assert_eq!(sent, 50_000);
    assert!(recv(s, 50_000, MSG_WAITALL).unwrap() == data);
    let (r, w) = pipe();
    write(c, b"through a pipe").unwrap();
    assert_eq!(poll1(s, POLLIN, 1000), POLLIN);
    assert_eq!(sys!(SYS_splice, s, 0, w, 0, 100, 0), Ok(14));
    assert_eq!(sys!(SYS_splice, r, 0, s, 0, 100, 0), Ok(14));
    assert_eq!(recv(c, 100, 0).unwrap(), b"through a pipe");
}

fn disconnect() {
    let l = listener();
    let c = tcp();
    connect(c, &name(l)).unwrap();
    let s = accept(l);
    assert_eq!(connect(c, &[0; 16]), Ok(0));
    assert_eq!(name_by(SYS_getpeername, c), Err(ENOTCONN));
    assert_eq!(recv(s, 1, 0), Err(ECONNRESET));
    assert_eq!(connect(c, &name(l)), Ok(0));
    let s = accept(l);
    // With all that fits on its way.
    nonblocking(c);
    while write(c, &[7; 16 << 10]).is_ok() {}
    assert_eq!(connect(c, &[0; 16]), Ok(0));
    let end = loop {
        match recv(s, 1 << 20, 0) {
            Ok(bytes) => assert!(!bytes.is_empty() && bytes.iter().all(|byte| *byte == 7)),
            Err(e) => break e,
        }
    };
    assert_eq!(end, ECONNRESET);
}

fn concurrent_clients() {
    let l = listener();
    listen(l, 128);
    let to = name(l);
    let clients: Vec<_> = (0..4u8)
        .map(|id| {
            let to = to.clone();
            child(move || {
                for round in 0..25u8 {
                    let c = tcp();
                    connect(c, &to).unwrap();
                    write(c, &[id, round]).unwrap();
                    assert_eq!(recv(c, 2, MSG_WAITALL).unwrap(), [round, id]);
                    close(c);
                }
            })
        })
        .collect();
    for _ in 0..100 {
        let s = accept(l);
        let got = recv(s, 2, MSG_WAITALL).unwrap();
        write(s, &[got[1], got[0]]).unwrap();
        close(s);
    }
    for client in clients {
        client.ok();
    }
}
