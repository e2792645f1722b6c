//! Internet sockets over loopback: TCP and UDP, versions 4 and 6.

use nix::errno::Errno::{
    EADDRNOTAVAIL, EALREADY, ECONNABORTED, EDESTADDRREQ, EINPROGRESS, ENETUNREACH,
};

use crate::prelude::*;

tests!(
    "inet":
    socket_errors, tcp_round_trip, tcp_connect_errors, tcp_names, tcp_states_of_poll, tcp_nonblocking_connect,
    tcp_accept_errors, tcp_backlog_drops, tcp_shutdown_halves, tcp_end_of_stream, tcp_reset_on_unread_data,
    tcp_linger_resets, tcp_closed_listener_resets, tcp_bulk, tcp_bulk_nonblocking, tcp_many_small_writes,
    tcp_peek_and_waitall, tcp_trunc_discards, tcp_timeouts, tcp_send_buffer_fills, tcp_two_way, tcp_urgent_byte,
    tcp_urgent_inline, tcp_cork, tcp_info, tcp_options, tcp_self_connect, tcp_reuse_of_ports, tcp_port_of_a_group,
    tcp_epoll_edges, tcp_sendfile_and_splice, tcp_disconnect, tcp_concurrent_clients, sock_options,
    bind_errors, bind_conflicts, privileged_ports, ephemeral_ports, dual_stack, v6_only,
    udp_round_trip, udp_names, udp_connected, udp_refused, udp_truncates, udp_queue_is_bounded, udp_errors,
    udp_pktinfo, udp_v6, udp_mmsg, udp_error_queue, interface_requests, loopback_starts_down,
    namespaces_are_apart, proc_net,
);

const ANY: u32 = 0;
const LO: u32 = 0x7f00_0001;

/// A `sockaddr_in`.
fn v4(ip: u32, port: u16) -> Vec<u8> {
    let mut a = vec![AF_INET as u8, 0];
    a.extend(port.to_be_bytes());
    a.extend(ip.to_be_bytes());
    a.resize(16, 0);
    a
}

/// A `sockaddr_in6`.
fn v6(ip: u128, port: u16) -> Vec<u8> {
    let mut a = vec![AF_INET6 as u8, 0];
    a.extend(port.to_be_bytes());
    a.extend([0; 4]);
    a.extend(ip.to_be_bytes());
    a.resize(28, 0);
    a
}

const MAPPED: u128 = 0xffff << 32;

fn socket_of(family: i32, kind: i32) -> i32 {
    let fd = sys!(SYS_socket, family, kind, 0).unwrap() as i32;
    bring_up(fd);
    fd
}

/// Switches `lo` on; netdevice(7).
fn bring_up(fd: i32) {
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    sys!(SYS_ioctl, fd, SIOCGIFFLAGS, &mut request).unwrap();
    if i32::from(request[16]) & IFF_UP == 0 {
        request[16] |= IFF_UP as u8;
        sys!(SYS_ioctl, fd, SIOCSIFFLAGS, &mut request).unwrap();
    }
}

fn tcp() -> i32 {
    socket_of(AF_INET, SOCK_STREAM)
}

fn udp() -> i32 {
    socket_of(AF_INET, SOCK_DGRAM)
}

fn bind(fd: i32, to: &[u8]) -> Result<usize, Errno> {
    sys!(SYS_bind, fd, to, to.len())
}

fn connect(fd: i32, to: &[u8]) -> Result<usize, Errno> {
    sys!(SYS_connect, fd, to, to.len())
}

fn accept_with(fd: i32, flags: i32) -> Result<i32, Errno> {
    sys!(SYS_accept4, fd, 0, 0, flags).map(|fd| fd as i32)
}

fn accept(fd: i32) -> i32 {
    accept_with(fd, 0).unwrap()
}

fn name_by(call: c_long, fd: i32) -> Result<Vec<u8>, Errno> {
    let (mut name, mut len) = ([0u8; 128], 128u32);
    sys!(call, fd, &mut name, &mut len)?;
    Ok(name[..len as usize].to_vec())
}

fn name(fd: i32) -> Vec<u8> {
    name_by(SYS_getsockname, fd).unwrap()
}

fn port(fd: i32) -> u16 {
    let name = name(fd);
    u16::from_be_bytes([name[2], name[3]])
}

fn listen(fd: i32, backlog: i32) {
    sys!(SYS_listen, fd, backlog).unwrap();
}

/// A listener on a free port of 127.0.0.1.
fn listener() -> i32 {
    let fd = tcp();
    bind(fd, &v4(LO, 0)).unwrap();
    listen(fd, 16);
    fd
}

/// A connection: client and server.
fn pair() -> (i32, i32) {
    let l = listener();
    let c = tcp();
    connect(c, &name(l)).unwrap();
    let s = accept(l);
    close(l);
    (c, s)
}

fn udp_bound() -> i32 {
    let fd = udp();
    bind(fd, &v4(LO, 0)).unwrap();
    fd
}

fn send(fd: i32, data: &[u8], flags: i32) -> Result<usize, Errno> {
    sys!(SYS_sendto, fd, data, data.len(), flags | MSG_NOSIGNAL, 0, 0)
}

fn send_to(fd: i32, data: &[u8], to: &[u8]) -> Result<usize, Errno> {
    sys!(SYS_sendto, fd, data, data.len(), 0, to, to.len())
}

fn recv(fd: i32, len: usize, flags: i32) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0u8; len];
    let n = sys!(SYS_recvfrom, fd, &mut buf[..], len, flags, 0, 0)?;
    buf.truncate(n.min(len));
    Ok(buf)
}

fn recv_from(fd: i32) -> (Vec<u8>, Vec<u8>) {
    let (mut buf, mut name, mut len) = ([0u8; 2000], [0u8; 128], 128u32);
    let n = sys!(SYS_recvfrom, fd, &mut buf, 2000, 0, &mut name, &mut len).unwrap();
    (buf[..n].to_vec(), name[..len as usize].to_vec())
}

fn set(fd: i32, level: i32, name: i32, value: i32) -> Result<usize, Errno> {
    sys!(SYS_setsockopt, fd, level, name, &value, 4)
}

fn get(fd: i32, level: i32, name: i32) -> Result<i32, Errno> {
    let (mut value, mut len) = (0i32, 4u32);
    sys!(SYS_getsockopt, fd, level, name, &mut value, &mut len)?;
    Ok(value)
}

fn error_of(fd: i32) -> i32 {
    get(fd, SOL_SOCKET, SO_ERROR).unwrap()
}

fn nonblocking(fd: i32) {
    sys!(SYS_fcntl, fd, F_SETFL, O_NONBLOCK).unwrap();
}

/// A port on which nobody listens, and nobody else will for a while.
fn deaf() -> (i32, Vec<u8>) {
    let fd = tcp();
    bind(fd, &v4(LO, 0)).unwrap();
    (fd, name(fd))
}

fn socket_errors() {
    assert_eq!(sys!(SYS_socket, AF_INET, SOCK_STREAM, 17), Err(EPROTONOSUPPORT));
    assert_eq!(sys!(SYS_socket, AF_INET, SOCK_DGRAM, 6), Err(EPROTONOSUPPORT));
    assert_eq!(sys!(SYS_socket, AF_INET, SOCK_STREAM, 9999), Err(EINVAL));
    assert_eq!(sys!(SYS_socket, AF_INET, SOCK_STREAM, -1), Err(EINVAL));
    assert_eq!(sys!(SYS_socket, AF_INET, SOCK_RDM, 0), Err(ESOCKTNOSUPPORT));
    assert_eq!(sys!(SYS_socket, AF_INET, 99, 0), Err(EINVAL));
    for (family, kind, protocol) in
        [(AF_INET, SOCK_STREAM, 6), (AF_INET6, SOCK_STREAM, 6), (AF_INET, SOCK_DGRAM, 17), (AF_INET6, SOCK_DGRAM, 17)]
    {
        let fd = sys!(SYS_socket, family, kind, 0).unwrap() as i32;
        assert_eq!(get(fd, SOL_SOCKET, SO_DOMAIN), Ok(family));
        assert_eq!(get(fd, SOL_SOCKET, SO_TYPE), Ok(kind));
        assert_eq!(get(fd, SOL_SOCKET, SO_PROTOCOL), Ok(protocol));
        close(fd);
    }
    let mut fds = [0i32; 2];
    assert_eq!(sys!(SYS_socketpair, AF_INET, SOCK_STREAM, 0, &mut fds), Err(EOPNOTSUPP));
}

fn tcp_round_trip() {
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

fn tcp_connect_errors() {
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

fn tcp_names() {
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

fn tcp_states_of_poll() {
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

fn tcp_nonblocking_connect() {
    let l = listener();
    let c = tcp();
    nonblocking(c);
    let first = connect(c, &name(l));
    assert!(matches!(first, Err(EINPROGRESS) | Ok(0)), "{first:?}");
    assert_eq!(poll1(c, POLLOUT, 1000), POLLOUT);
    assert_eq!(error_of(c), 0);
    let (_d, to) = deaf();
    let c = tcp();
    nonblocking(c);
    match connect(c, &to) {
        Err(EINPROGRESS) => {
            assert_ne!(poll1(c, POLLOUT, 1000) & POLLERR, 0);
            assert_eq!(error_of(c), ECONNREFUSED as i32);
        }
        other => assert_eq!(other, Err(ECONNREFUSED)),
    }
    assert_eq!(error_of(c), 0, "an error is told once");
    assert!(matches!(connect(c, &to), Err(ECONNABORTED | ECONNREFUSED | EINPROGRESS | EALREADY)));
}

fn tcp_accept_errors() {
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
fn tcp_backlog_drops() {
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

fn tcp_shutdown_halves() {
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

fn tcp_end_of_stream() {
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

fn tcp_reset_on_unread_data() {
    let (c, s) = pair();
    write(c, b"unread").unwrap();
    assert_eq!(poll1(s, POLLIN, 1000), POLLIN);
    close(s);
    assert_eq!(poll1(c, POLLIN | POLLRDHUP, 1000), POLLIN | POLLRDHUP | POLLHUP | POLLERR);
    assert_eq!(recv(c, 1, 0), Err(ECONNRESET));
    assert_eq!(recv(c, 1, 0).unwrap(), b"");
    assert_eq!(send(c, b"x", 0), Err(EPIPE));
}

fn tcp_linger_resets() {
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

fn tcp_closed_listener_resets() {
    let l = listener();
    let to = name(l);
    let c = tcp();
    connect(c, &to).unwrap();
    close(l);
    assert_eq!(recv(c, 1, 0), Err(ECONNRESET));
    assert_eq!(connect(tcp(), &to), Err(ECONNREFUSED));
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 253) as u8).collect()
}

fn tcp_bulk() {
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

fn tcp_bulk_nonblocking() {
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

fn tcp_many_small_writes() {
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

fn tcp_peek_and_waitall() {
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

fn tcp_trunc_discards() {
    let (c, s) = pair();
    write(c, b"abcdef").unwrap();
    assert_eq!(sys!(SYS_recvfrom, s, 0, 4, MSG_TRUNC, 0, 0), Ok(4));
    assert_eq!(recv(s, 10, 0).unwrap(), b"ef");
}

fn tcp_timeouts() {
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

fn tcp_send_buffer_fills() {
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

fn tcp_two_way() {
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

fn tcp_urgent_byte() {
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

fn tcp_urgent_inline() {
    let (c, s) = pair();
    set(s, SOL_SOCKET, SO_OOBINLINE, 1).unwrap();
    send(c, b"x!", MSG_OOB).unwrap();
    assert_eq!(recv(s, 2, MSG_WAITALL).unwrap(), b"x", "reading stops at the mark");
    assert_eq!(recv(s, 1, MSG_OOB), Err(EINVAL));
    assert_eq!(recv(s, 2, 0).unwrap(), b"!");
}

fn tcp_cork() {
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

fn tcp_info() {
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

fn tcp_options() {
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

fn tcp_self_connect() {
    let fd = tcp();
    bind(fd, &v4(LO, 0)).unwrap();
    connect(fd, &name(fd)).unwrap();
    assert_eq!(name_by(SYS_getpeername, fd), Ok(name(fd)));
    write(fd, b"echo").unwrap();
    assert_eq!(read_vec(fd, 9).unwrap(), b"echo");
}

/// A server that starts again while old connections of its port wait.
fn tcp_reuse_of_ports() {
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

fn tcp_port_of_a_group() {
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

fn tcp_epoll_edges() {
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

fn tcp_sendfile_and_splice() {
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

fn tcp_disconnect() {
    let l = listener();
    let c = tcp();
    connect(c, &name(l)).unwrap();
    let s = accept(l);
    assert_eq!(connect(c, &[0; 16]), Ok(0));
    assert_eq!(name_by(SYS_getpeername, c), Err(ENOTCONN));
    assert_eq!(recv(s, 1, 0), Err(ECONNRESET));
    assert_eq!(connect(c, &name(l)), Ok(0));
}

fn tcp_concurrent_clients() {
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

fn sock_options() {
    let fd = udp();
    assert_eq!(get(fd, SOL_SOCKET, SO_RCVBUF), Ok(212_992));
    set(fd, SOL_SOCKET, SO_RCVBUF, 10_000).unwrap();
    assert_eq!(get(fd, SOL_SOCKET, SO_RCVBUF), Ok(20_000));
    for name in [SO_REUSEADDR, SO_REUSEPORT, SO_BROADCAST, SO_KEEPALIVE, SO_OOBINLINE] {
        assert_eq!(get(fd, SOL_SOCKET, name), Ok(0));
        set(fd, SOL_SOCKET, name, 1).unwrap();
        assert_eq!(get(fd, SOL_SOCKET, name), Ok(1));
    }
    assert_eq!(get(fd, IPPROTO_TCP, TCP_NODELAY), Err(EOPNOTSUPP));
    assert_eq!(set(fd, IPPROTO_TCP, TCP_NODELAY, 1), Err(ENOPROTOOPT));
    assert_eq!(get(socket_of(AF_INET6, SOCK_DGRAM), IPPROTO_TCP, TCP_NODELAY), Err(ENOPROTOOPT));
    let t = tcp();
    assert_eq!(get(t, SOL_SOCKET, SO_RCVBUF), Ok(131_072));
    assert_eq!(get(t, SOL_SOCKET, SO_SNDBUF), Ok(16_384));
}

fn bind_errors() {
    let fd = tcp();
    assert_eq!(bind(fd, &v4(0x0808_0808, 0)), Err(EADDRNOTAVAIL));
    assert_eq!(bind(fd, &v4(LO, 0)[..8]), Err(EINVAL));
    assert_eq!(bind(fd, &v6(1, 0)), Err(EAFNOSUPPORT));
    bind(fd, &v4(LO, 0)).unwrap();
    assert_eq!(bind(fd, &v4(LO, 0)), Err(EINVAL));
    assert_eq!(connect(tcp(), &v4(0xe000_0001, 80)), Err(ENETUNREACH), "multicast");
}

fn bind_conflicts() {
    for kind in [SOCK_STREAM, SOCK_DGRAM] {
        let socket = || socket_of(AF_INET, kind);
        let a = socket();
        bind(a, &v4(LO, 0)).unwrap();
        let p = port(a);
        assert_eq!(bind(socket(), &v4(LO, p)), Err(EADDRINUSE));
        assert_eq!(bind(socket(), &v4(ANY, p)), Err(EADDRINUSE));
        assert_eq!(bind(socket(), &v4(LO + 1, p)), Ok(0), "another address");
        let six = socket_of(AF_INET6, kind);
        assert_eq!(bind(six, &v6(0, p)), Err(EADDRINUSE), "it would cover version 4");
        assert_eq!(bind(socket_of(AF_INET6, kind), &v6(1, p)), Ok(0));
        close(a);
        let b = socket();
        set(b, SOL_SOCKET, SO_REUSEADDR, 1).unwrap();
        assert_eq!(bind(b, &v4(LO, p)), Ok(0), "free again");
    }
}

fn privileged_ports() {
    aside(|| {
        drop_root();
        let fd = sys!(SYS_socket, AF_INET, SOCK_STREAM, 0).unwrap() as i32;
        assert_eq!(bind(fd, &v4(LO, 7)), Err(EACCES));
        assert_eq!(bind(fd, &v4(LO, 0)), Ok(0));
    });
}

fn ephemeral_ports() {
    let range = slurp("/proc/sys/net/ipv4/ip_local_port_range");
    let range: Vec<u16> = range.split_whitespace().map(|n| n.parse().unwrap()).collect();
    for _ in 0..20 {
        let fd = udp_bound();
        assert!((range[0]..=range[1]).contains(&port(fd)));
    }
}

fn dual_stack() {
    let l = socket_of(AF_INET6, SOCK_STREAM);
    bind(l, &v6(0, 0)).unwrap();
    listen(l, 5);
    let p = port(l);
    assert_eq!(name(l), v6(0, p));
    let c4 = tcp();
    connect(c4, &v4(LO, p)).unwrap();
    let s4 = accept(l);
    assert_eq!(name(s4), v6(MAPPED | u128::from(LO), p));
    assert_eq!(name_by(SYS_getpeername, s4), Ok(v6(MAPPED | u128::from(LO), port(c4))));
    let c6 = socket_of(AF_INET6, SOCK_STREAM);
    connect(c6, &v6(1, p)).unwrap();
    let s6 = accept(l);
    assert_eq!(name_by(SYS_getpeername, s6), Ok(v6(1, port(c6))));
    write(c6, b"six").unwrap();
    assert_eq!(read_vec(s6, 9).unwrap(), b"six");
    let mapped = socket_of(AF_INET6, SOCK_STREAM);
    connect(mapped, &v6(MAPPED | u128::from(LO), p)).unwrap();
    write(accept(l), b"four").unwrap();
    assert_eq!(read_vec(mapped, 9).unwrap(), b"four");
}

fn v6_only() {
    let l = socket_of(AF_INET6, SOCK_STREAM);
    set(l, IPPROTO_IPV6, IPV6_V6ONLY, 1).unwrap();
    assert_eq!(get(l, IPPROTO_IPV6, IPV6_V6ONLY), Ok(1));
    bind(l, &v6(0, 0)).unwrap();
    listen(l, 5);
    let p = port(l);
    assert_eq!(connect(tcp(), &v4(LO, p)), Err(ECONNREFUSED));
    assert_eq!(bind(tcp(), &v4(ANY, p)), Ok(0), "version 4 is free");
    assert_eq!(connect(socket_of(AF_INET6, SOCK_STREAM), &v6(1, p)), Ok(0));
    let c = socket_of(AF_INET6, SOCK_STREAM);
    set(c, IPPROTO_IPV6, IPV6_V6ONLY, 1).unwrap();
    assert_eq!(connect(c, &v6(MAPPED | u128::from(LO), p)), Err(ENETUNREACH));
}

fn udp_round_trip() {
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

fn udp_names() {
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

fn udp_connected() {
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

fn udp_refused() {
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

fn udp_truncates() {
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

fn udp_queue_is_bounded() {
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

fn udp_errors() {
    let a = udp();
    assert_eq!(write(a, b"x"), Err(EDESTADDRREQ));
    assert_eq!(send_to(a, &[0; 65508], &v4(LO, 9)), Err(EMSGSIZE));
    assert_eq!(send_to(a, b"x", &v4(LO, 0)), Err(EINVAL));
    assert_eq!(sys!(SYS_listen, a, 1), Err(EOPNOTSUPP));
    assert_eq!(accept_with(a, 0), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_shutdown, a, SHUT_WR), Err(ENOTCONN));
    assert_eq!(poll1(a, POLLIN | POLLOUT, 0), POLLOUT);
}

/// Receives with control data; gives level, type and data of the first.
fn control(fd: i32) -> (i32, i32, Vec<u8>) {
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

fn udp_pktinfo() {
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

fn udp_mmsg() {
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

fn udp_error_queue() {
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

fn interface_requests() {
    let fd = udp();
    let request = |cmd: c_ulong| {
        let mut r = [0u8; 40];
        r[..2].copy_from_slice(b"lo");
        sys!(SYS_ioctl, fd, cmd, &mut r).map(|_| r[16..32].to_vec())
    };
    assert_eq!(request(SIOCGIFINDEX).unwrap()[..4], 1i32.to_ne_bytes());
    assert_eq!(request(SIOCGIFMTU).unwrap()[..4], 65536i32.to_ne_bytes());
    assert_eq!(request(SIOCGIFADDR).unwrap()[..8], v4(LO, 0)[..8]);
    assert_eq!(request(SIOCGIFNETMASK).unwrap()[..8], v4(0xff00_0000, 0)[..8]);
    let flags = request(SIOCGIFFLAGS).unwrap();
    let flags = i32::from(u16::from_ne_bytes([flags[0], flags[1]]));
    assert_eq!(flags, IFF_UP | IFF_LOOPBACK | IFF_RUNNING);
    let mut other = [0u8; 40];
    other[..5].copy_from_slice(b"none0");
    assert_eq!(sys!(SYS_ioctl, fd, SIOCGIFFLAGS, &mut other), Err(ENODEV));
    assert_eq!(sys!(SYS_ioctl, fd, 0x1234, &mut other), Err(ENOTTY));
    aside(|| {
        drop_root();
        let mut r = [0u8; 40];
        r[..2].copy_from_slice(b"lo");
        assert_eq!(sys!(SYS_ioctl, fd, SIOCSIFFLAGS, &mut r), Err(EPERM));
    });
}

fn loopback_starts_down() {
    aside(|| {
        sys!(SYS_unshare, CLONE_NEWNET).unwrap();
        let fd = sys!(SYS_socket, AF_INET, SOCK_STREAM, 0).unwrap() as i32;
        assert_eq!(connect(fd, &v4(LO, 80)), Err(ENETUNREACH));
        bring_up(fd);
        assert_eq!(connect(fd, &v4(LO, 80)), Err(ECONNREFUSED));
        assert_eq!(bind(tcp(), &v4(LO, 80)), Ok(0));
    });
}

fn namespaces_are_apart() {
    let l = listener();
    let to = name(l);
    aside(|| {
        sys!(SYS_unshare, CLONE_NEWNET).unwrap();
        let c = tcp();
        assert_eq!(connect(c, &to), Err(ECONNREFUSED));
        let own = tcp();
        assert_eq!(bind(own, &to), Ok(0), "the port is free here");
        let inside = accept_soon(l, &to);
        assert_eq!(inside, Err(EAGAIN));
    });
}

/// What a listener of another namespace gets from a connection attempt here.
fn accept_soon(l: i32, to: &[u8]) -> Result<i32, Errno> {
    nonblocking(l);
    ignore(connect(tcp(), to));
    accept_with(l, 0)
}

fn proc_net() {
    let l = listener();
    let c = tcp();
    connect(c, &name(l)).unwrap();
    let table = slurp("/proc/net/tcp");
    assert!(table.lines().next().unwrap().contains("local_address"));
    let listening = format!(" 0100007F:{:04X} 00000000:0000 0A ", port(l));
    assert!(table.contains(&listening), "{table}");
    let standing = format!(" 0100007F:{:04X} 0100007F:{:04X} 01 ", port(c), port(l));
    assert!(table.contains(&standing), "{table}");
    let inode = format!(" {} ", fstat(l).st_ino);
    let row = table.lines().find(|row| row.contains(&listening)).unwrap();
    assert!(row.contains(&inode), "{row}");
    let u = udp_bound();
    assert!(slurp("/proc/net/udp").contains(&format!(" 0100007F:{:04X} 00000000:0000 07 ", port(u))));
    assert!(slurp("/proc/net/dev").contains("    lo:"));
    assert!(slurp("/proc/net/if_inet6").contains("00000000000000000000000000000001 01 80 10 80       lo"));
}
