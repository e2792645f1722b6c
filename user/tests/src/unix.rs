//! Unix sockets: stream, datagram, seqpacket, descriptors, credentials.

use crate::prelude::*;

tests!(
    "unix":
    socket_errors, stream_pair, unread_data_at_close_is_a_reset, stream_connect_and_accept, connect_errors,
    bind_errors, autobind, listen_and_accept_errors, backlog_is_bounded, accept_blocks_and_wakes,
    closed_listener_refuses_and_resets, shutdown_halves, datagrams_keep_borders, datagram_send_to_a_name,
    datagram_queue_fills, seqpacket, scm_rights, scm_rights_across_processes, scm_rights_borders,
    scm_rights_in_flight_dies_with_the_socket, scm_rights_cycle_is_collected, peer_credentials,
    peer_pidfd,
    passed_credentials, socket_options, stream_backpressure, bulk_transfer, waitall_and_recvmmsg,
);

fn socket(kind: i32) -> i32 {
    sys!(SYS_socket, AF_UNIX, kind, 0).unwrap() as i32
}

/// The address of `name` with its length; a leading '@' is the abstract namespace.
fn address(name: &str) -> (sockaddr_un, usize) {
    let mut a: sockaddr_un = zero();
    a.sun_family = AF_UNIX as u16;
    let bytes: Vec<u8> = match name.strip_prefix('@') {
        Some(rest) => [0].into_iter().chain(rest.bytes()).collect(),
        None => path(name).as_bytes_with_nul().to_vec(),
    };
    for (to, from) in a.sun_path.iter_mut().zip(&bytes) {
        *to = *from as c_char;
    }
    (a, 2 + bytes.len())
}

fn bind(fd: i32, name: &str) -> Result<usize, Errno> {
    let (a, len) = address(name);
    sys!(SYS_bind, fd, &a, len)
}

fn connect(fd: i32, name: &str) -> Result<usize, Errno> {
    let (a, len) = address(name);
    sys!(SYS_connect, fd, &a, len)
}

fn accept(fd: i32) -> Result<i32, Errno> {
    sys!(SYS_accept4, fd, 0, 0, 0).map(|fd| fd as i32)
}

fn listener(kind: i32, name: &str) -> i32 {
    let fd = socket(kind);
    bind(fd, name).unwrap();
    sys!(SYS_listen, fd, 5).unwrap();
    fd
}

fn send(fd: i32, data: &[u8], flags: i32) -> Result<usize, Errno> {
    sys!(SYS_sendto, fd, data, data.len(), flags, 0, 0)
}

fn recv(fd: i32, len: usize, flags: i32) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0u8; len];
    let n = sys!(SYS_recvfrom, fd, &mut buf[..], len, flags, 0, 0)?;
    buf.truncate(n.min(len));
    Ok(buf)
}

fn socket_errors() {
    assert_eq!(sys!(SYS_socket, AF_UNIX, 99, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_socket, AF_UNIX, SOCK_RDM, 0), Err(ESOCKTNOSUPPORT));
    assert_eq!(sys!(SYS_socket, 999, SOCK_STREAM, 0), Err(EAFNOSUPPORT));
    assert_eq!(sys!(SYS_socket, AF_UNIX, SOCK_STREAM, 55), Err(EPROTONOSUPPORT));
    assert_eq!(sys!(SYS_socket, AF_UNIX, SOCK_STREAM | 0x100, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_bind, 1, 0, 0), Err(ENOTSOCK));
    assert_eq!(sys!(SYS_bind, 999, 0, 0), Err(EBADF));
    assert_eq!(sys!(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, 0), Err(EFAULT));
    let fd = sys!(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0).unwrap();
    assert_eq!(sys!(SYS_fcntl, fd, F_GETFD), Ok(1));
    assert_eq!(sys!(SYS_fcntl, fd, F_GETFL), Ok((O_RDWR | O_NONBLOCK) as usize));
}

fn stream_pair() {
    let (a, b) = socketpair(SOCK_STREAM);
    write(a, b"abc").unwrap();
    write(a, b"def").unwrap();
    assert_eq!(read_vec(b, 100).unwrap(), b"abcdef", "no record borders");
    write(b, b"back").unwrap();
    assert_eq!(recv(a, 2, MSG_PEEK).unwrap(), b"ba");
    assert_eq!(recv(a, 10, 0).unwrap(), b"back");
    assert_eq!(recv(a, 10, MSG_DONTWAIT), Err(EAGAIN));
    close(a);
    assert_eq!(read_vec(b, 10).unwrap(), b"");
    assert_eq!(send(b, b"x", MSG_NOSIGNAL), Err(EPIPE));
    assert_eq!(fate(|| ignore(write(b, b"x"))), Status::Signal(SIGPIPE));
}

fn unread_data_at_close_is_a_reset() {
    let (a, b) = socketpair(SOCK_STREAM);
    write(a, b"unread").unwrap();
    close(b);
    assert_eq!(read_vec(a, 1), Err(ECONNRESET));
    assert_eq!(read_vec(a, 1).unwrap(), b"");
}

fn stream_connect_and_accept() {
    let l = listener(SOCK_STREAM, "s");
    assert_eq!(stat_path(&path("s")).unwrap().st_mode & S_IFMT, S_IFSOCK);
    let c = socket(SOCK_STREAM);
    connect(c, "s").unwrap();
    assert_eq!(poll1(l, POLLIN, 0), POLLIN);
    let s = accept(l).unwrap();
    write(c, b"hello").unwrap();
    assert_eq!(read_vec(s, 10).unwrap(), b"hello");
    assert_eq!(connect(c, "s"), Err(EISCONN));
    let mut name: sockaddr_un = zero();
    let mut len = size_of::<sockaddr_un>() as u32;
    sys!(SYS_getpeername, c, &mut name, &mut len).unwrap();
    assert_eq!(len as usize, address("s").1);
    len = 110;
    sys!(SYS_getsockname, c, &mut name, &mut len).unwrap();
    assert_eq!(len, 2, "an unnamed socket");
}

fn connect_errors() {
    let c = socket(SOCK_STREAM);
    assert_eq!(connect(c, "none"), Err(ENOENT));
    file("plain", b"");
    assert_eq!(connect(c, "plain"), Err(ECONNREFUSED));
    bind(socket(SOCK_STREAM), "deaf").unwrap();
    assert_eq!(connect(c, "deaf"), Err(ECONNREFUSED), "bound but not listening");
    let _l = listener(SOCK_SEQPACKET, "seq");
    assert_eq!(connect(c, "seq"), Err(EPROTOTYPE));
    assert_eq!(connect(c, "@none"), Err(ECONNREFUSED));
    let (mut a, len) = address("seq");
    a.sun_family = 77;
    assert_eq!(sys!(SYS_connect, c, &a, len), Err(EINVAL));
    assert_eq!(sys!(SYS_connect, c, &a, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_connect, c, &a, 200), Err(EINVAL));
    assert_eq!(sys!(SYS_connect, c, BAD, len), Err(EFAULT));
}

fn bind_errors() {
    let a = socket(SOCK_STREAM);
    file("taken", b"");
    assert_eq!(bind(a, "taken"), Err(EADDRINUSE));
    assert_eq!(bind(a, "none/x"), Err(ENOENT));
    bind(a, "ok").unwrap();
    assert_eq!(bind(a, "again"), Err(EINVAL));
    let b = socket(SOCK_STREAM);
    bind(b, "@user-tests-name").unwrap();
    assert_eq!(bind(socket(SOCK_STREAM), "@user-tests-name"), Err(EADDRINUSE));
    close(b);
    assert_eq!(bind(socket(SOCK_STREAM), "@user-tests-name"), Ok(0), "the name goes with its socket");
}

fn autobind() {
    let a = socket(SOCK_DGRAM);
    let family = [AF_UNIX as u16];
    sys!(SYS_bind, a, &family, 2).unwrap();
    let mut name: sockaddr_un = zero();
    let mut len = 110u32;
    sys!(SYS_getsockname, a, &mut name, &mut len).unwrap();
    assert_eq!((len, name.sun_path[0]), (8, 0), "five digits in the abstract namespace");
}

fn listen_and_accept_errors() {
    let s = socket(SOCK_STREAM);
    assert_eq!(sys!(SYS_listen, s, 1), Err(EINVAL), "no address yet");
    assert_eq!(accept(s), Err(EINVAL));
    let d = socket(SOCK_DGRAM);
    assert_eq!(sys!(SYS_listen, d, 1), Err(EOPNOTSUPP));
    assert_eq!(accept(d), Err(EOPNOTSUPP));
    let l = listener(SOCK_STREAM | SOCK_NONBLOCK, "s");
    assert_eq!(accept(l), Err(EAGAIN));
    assert_eq!(read_vec(l, 1), Err(EINVAL));
    assert_eq!(send(l, b"x", MSG_NOSIGNAL), Err(ENOTCONN));
    assert_eq!(read_vec(s, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_shutdown, s, SHUT_RD), Ok(0));
}

fn backlog_is_bounded() {
    let l = socket(SOCK_STREAM);
    bind(l, "s").unwrap();
    sys!(SYS_listen, l, 1).unwrap();
    let mut results = vec![];
    for _ in 0..4 {
        results.push(connect(socket(SOCK_STREAM | SOCK_NONBLOCK), "s"));
    }
    assert_eq!(results, [Ok(0), Ok(0), Err(EAGAIN), Err(EAGAIN)]);
}

fn accept_blocks_and_wakes() {
    let l = listener(SOCK_STREAM, "s");
    let c = child(|| {
        settle();
        let c = socket(SOCK_STREAM);
        connect(c, "s").unwrap();
        write(c, b"hi").unwrap();
        assert_eq!(read_vec(c, 5).unwrap(), b"yo");
    });
    let s = accept(l).unwrap();
    assert_eq!(read_vec(s, 5).unwrap(), b"hi");
    write(s, b"yo").unwrap();
    c.ok();
}

fn closed_listener_refuses_and_resets() {
    let l = listener(SOCK_STREAM, "s");
    let c = socket(SOCK_STREAM);
    connect(c, "s").unwrap();
    close(l);
    assert_eq!(read_vec(c, 1), Err(ECONNRESET));
    assert_eq!(connect(socket(SOCK_STREAM), "s"), Err(ECONNREFUSED));
}

fn shutdown_halves() {
    let (a, b) = socketpair(SOCK_STREAM);
    write(a, b"last").unwrap();
    sys!(SYS_shutdown, a, SHUT_WR).unwrap();
    assert_eq!(send(a, b"x", MSG_NOSIGNAL), Err(EPIPE));
    assert_eq!(read_vec(b, 9).unwrap(), b"last");
    assert_eq!(read_vec(b, 9).unwrap(), b"");
    assert_eq!(poll1(b, POLLIN | POLLRDHUP, 0), POLLIN | POLLRDHUP);
    write(b, b"still").unwrap();
    assert_eq!(read_vec(a, 9).unwrap(), b"still");
    assert_eq!(sys!(SYS_shutdown, a, 9), Err(EINVAL));
    sys!(SYS_shutdown, b, SHUT_RDWR).unwrap();
    assert_eq!(poll1(a, POLLIN, 0), POLLIN | POLLHUP);
}

fn datagrams_keep_borders() {
    let (a, b) = socketpair(SOCK_DGRAM);
    for m in [&b"one"[..], b"", b"three"] {
        assert_eq!(write(a, m), Ok(m.len()));
    }
    assert_eq!(recv(b, 100, 0).unwrap(), b"one");
    assert_eq!(recv(b, 100, 0).unwrap(), b"");
    assert_eq!(recv(b, 2, 0).unwrap(), b"th", "the rest is cut off");
    assert_eq!(recv(b, 2, MSG_DONTWAIT), Err(EAGAIN));
    write(a, b"four").unwrap();
    assert_eq!(sys!(SYS_recvfrom, b, &mut [0u8; 2], 2, MSG_TRUNC, 0, 0), Ok(4));
    assert_eq!(send(a, &vec![0; 1 << 20], MSG_DONTWAIT), Err(EMSGSIZE));
}

fn datagram_send_to_a_name() {
    let server = socket(SOCK_DGRAM);
    bind(server, "server").unwrap();
    let client = socket(SOCK_DGRAM);
    bind(client, "client").unwrap();
    let (to, len) = address("server");
    assert_eq!(sys!(SYS_sendto, client, b"hi".as_slice(), 2, 0, &to, len), Ok(2));
    let mut from: sockaddr_un = zero();
    let mut from_len = 110u32;
    let mut buf = [0u8; 9];
    assert_eq!(sys!(SYS_recvfrom, server, &mut buf, 9, 0, &mut from, &mut from_len), Ok(2));
    assert_eq!(
        (from_len as usize, from.sun_path == address("client").0.sun_path),
        (address("client").1, true)
    );
    assert_eq!(send(client, b"x", 0), Err(ENOTCONN));
    connect(client, "server").unwrap();
    assert_eq!(send(client, b"x", 0), Ok(1));
    close(server);
    assert_eq!(send(client, b"x", 0), Err(ECONNREFUSED));
}

fn datagram_queue_fills() {
    let (a, _b) = socketpair(SOCK_DGRAM | SOCK_NONBLOCK);
    let mut sent = 0;
    while send(a, b"x", 0).is_ok() {
        sent += 1;
        assert!(sent < 100_000);
    }
    assert_eq!(send(a, b"x", 0), Err(EAGAIN));
    assert_eq!(poll1(a, POLLOUT, 0), 0);
}

fn seqpacket() {
    let l = listener(SOCK_SEQPACKET, "s");
    let c = socket(SOCK_SEQPACKET);
    connect(c, "s").unwrap();
    let s = accept(l).unwrap();
    write(c, b"one").unwrap();
    write(c, b"two").unwrap();
    assert_eq!(recv(s, 100, 0).unwrap(), b"one");
    assert_eq!(recv(s, 1, 0).unwrap(), b"t");
    close(c);
    assert_eq!(recv(s, 100, 0).unwrap(), b"", "end of file");
}

/// sendmsg(2) with descriptors.
fn send_fds(fd: i32, data: &[u8], fds: &[i32]) -> Result<usize, Errno> {
    let mut control = vec![16 + 4 * fds.len(), SOL_SOCKET as usize | (SCM_RIGHTS as usize) << 32];
    control.extend(fds.chunks(2).map(|p| p[0] as u32 as usize | (*p.get(1).unwrap_or(&0) as usize) << 32));
    let iov = [data.as_ptr() as usize, data.len()];
    let msg = [0usize, 0, iov.as_ptr() as usize, 1, control.as_ptr() as usize, control.len() * 8, 0];
    sys!(SYS_sendmsg, fd, &msg, 0)
}

/// recvmsg(2): data, descriptors, flags.
fn recv_fds(fd: i32, room: usize, flags: i32) -> Result<(Vec<u8>, Vec<i32>, i32), Errno> {
    let (mut data, mut control) = (vec![0u8; 100], vec![0u64; 64]);
    let iov = [data.as_mut_ptr() as usize, 100];
    let mut msg = [0usize, 0, iov.as_ptr() as usize, 1, control.as_mut_ptr() as usize, room, 0];
    let n = sys!(SYS_recvmsg, fd, &mut msg, flags)?;
    data.truncate(n);
    let mut fds = vec![];
    if msg[5] >= 16 && control[1] == SOL_SOCKET as u64 | (SCM_RIGHTS as u64) << 32 {
        let count = (control[0] as usize - 16) / 4;
        fds = (0..count).map(|i| (control[2 + i / 2] >> (32 * (i % 2))) as i32).collect();
    }
    Ok((data, fds, msg[6] as i32))
}

fn scm_rights() {
    let (a, b) = socketpair(SOCK_STREAM);
    let (r, w) = pipe();
    send_fds(a, b"take", &[r, w]).unwrap();
    close(r);
    close(w);
    let (data, fds, flags) = recv_fds(b, 512, MSG_CMSG_CLOEXEC).unwrap();
    assert_eq!((data.as_slice(), fds.len()), (&b"take"[..], 2));
    assert_eq!(flags & MSG_CTRUNC, 0);
    assert_eq!(sys!(SYS_fcntl, fds[0], F_GETFD), Ok(1));
    write(fds[1], b"through").unwrap();
    assert_eq!(read_vec(fds[0], 10).unwrap(), b"through");
}

fn scm_rights_across_processes() {
    let (a, b) = socketpair(SOCK_DGRAM);
    child(|| {
        let fd = new_file("f");
        write(fd, b"from the child").unwrap();
        send_fds(a, b"x", &[fd]).unwrap();
    })
    .ok();
    let (_, fds, _) = recv_fds(b, 512, 0).unwrap();
    assert_eq!(pread(fds[0], 100, 0).unwrap(), b"from the child");
    assert_eq!(seek(fds[0], 0, SEEK_CUR), Ok(14), "the same open file");
}

fn scm_rights_borders() {
    let (a, b) = socketpair(SOCK_STREAM);
    let (r, w) = pipe();
    write(a, b"before").unwrap();
    send_fds(a, b"with", &[r]).unwrap();
    write(a, b"after").unwrap();
    let (data, fds, _) = recv_fds(b, 512, 0).unwrap();
    assert_eq!((data.as_slice(), fds.len()), (&b"beforewith"[..], 1), "a read stops behind descriptors");
    assert_eq!(recv_fds(b, 512, 0).unwrap().0, b"after");
    send_fds(a, b"two", &[r, w]).unwrap();
    let (_, fds, flags) = recv_fds(b, 20, 0).unwrap();
    assert_eq!((fds.len(), flags & MSG_CTRUNC), (1, MSG_CTRUNC));
    send_fds(a, b"none", &[w]).unwrap();
    assert_eq!(recv_fds(b, 0, 0).unwrap().2 & MSG_CTRUNC, MSG_CTRUNC);
    assert_eq!(send_fds(a, b"x", &[999]), Err(EBADF));
    assert_eq!(send_fds(a, b"x", &[r; 254]), Err(EINVAL));
    assert_eq!(send_fds(a, b"x", &[r; 253]), Ok(1));
}

fn scm_rights_in_flight_dies_with_the_socket() {
    let (a, b) = socketpair(SOCK_STREAM);
    let (r, w) = pipe();
    send_fds(a, b"x", &[w]).unwrap();
    close(w);
    assert_eq!(poll1(r, POLLIN, 0), 0);
    close(a);
    close(b);
    assert_eq!(poll1(r, POLLIN, 2000), POLLHUP);
}

fn scm_rights_cycle_is_collected() {
    // A socket that carries itself: only a collector can free it.
    let (r, w) = pipe();
    aside(|| {
        let (a, b) = socketpair(SOCK_STREAM);
        send_fds(a, b"x", &[b, w]).unwrap();
        send_fds(b, b"x", &[a]).unwrap();
    });
    close(w);
    let (x, y) = socketpair(SOCK_STREAM); // closing a socket starts the collector
    close(x);
    close(y);
    assert_eq!(poll1(r, POLLIN, 10_000), POLLHUP);
}

fn peer_credentials() {
    let (a, _b) = socketpair(SOCK_STREAM);
    let mut cred: ucred = zero();
    let mut len = 12u32;
    sys!(SYS_getsockopt, a, SOL_SOCKET, SO_PEERCRED, &mut cred, &mut len).unwrap();
    assert_eq!((cred.pid, cred.uid, cred.gid), (getpid(), 0, 0));
}

fn peer_pidfd() {
    const SO_PEERPIDFD: i32 = 77;
    let mut len = 4u32;
    let mut get = |fd: i32| {
        let mut pidfd = -1i32;
        sys!(SYS_getsockopt, fd, SOL_SOCKET, SO_PEERPIDFD, &mut pidfd, &mut len).map(|_| pidfd)
    };
    assert_eq!(get(socket(SOCK_STREAM)), Err(ENODATA));
    let listening = listener(SOCK_STREAM, "sock");
    let c = child(|| {
        connect(socket(SOCK_STREAM), "sock").unwrap();
        nap(60_000);
    });
    let pidfd = get(accept(listening).unwrap()).unwrap();
    assert_eq!(sys!(SYS_fcntl, pidfd, F_GETFD), Ok(FD_CLOEXEC as usize));
    sys!(SYS_pidfd_send_signal, pidfd, SIGKILL, 0, 0).unwrap();
    assert_eq!(c.wait(), Status::Signal(SIGKILL));
}

fn passed_credentials() {
    let (a, b) = socketpair(SOCK_DGRAM);
    sys!(SYS_setsockopt, b, SOL_SOCKET, SO_PASSCRED, &1i32, 4).unwrap();
    let c = child(|| {
        write(a, b"who").unwrap();
    });
    c.ok();
    let mut data = [0u8; 10];
    let mut control = [0u64; 8];
    let iov = [data.as_mut_ptr() as usize, 10];
    let mut msg = [0usize, 0, iov.as_ptr() as usize, 1, control.as_mut_ptr() as usize, 64, 0];
    sys!(SYS_recvmsg, b, &mut msg, 0).unwrap();
    let seen = crate::sys::bytes_at(control.as_ptr() as usize, 32);
    assert_eq!(seen[12..16], SCM_CREDENTIALS.to_ne_bytes());
    assert_eq!(seen[16..20], c.0.to_ne_bytes());
}

fn socket_options() {
    let (a, _b) = socketpair(SOCK_STREAM);
    let get = |option: i32| {
        let (mut v, mut len) = (0i32, 4u32);
        sys!(SYS_getsockopt, a, SOL_SOCKET, option, &mut v, &mut len).map(|_| v)
    };
    assert_eq!((get(SO_TYPE), get(SO_DOMAIN), get(SO_PROTOCOL)), (Ok(SOCK_STREAM), Ok(AF_UNIX), Ok(0)));
    assert_eq!((get(SO_ERROR), get(SO_ACCEPTCONN)), (Ok(0), Ok(0)));
    assert_eq!(get(9999), Err(ENOPROTOOPT));
    sys!(SYS_setsockopt, a, SOL_SOCKET, SO_SNDBUF, &10_000i32, 4).unwrap();
    assert_eq!(get(SO_SNDBUF), Ok(20_000));
    assert_eq!(sys!(SYS_setsockopt, a, SOL_SOCKET, SO_SNDBUF, &1i32, 3), Err(EINVAL));
    assert_eq!(sys!(SYS_setsockopt, a, SOL_SOCKET, SO_SNDBUF, 0, 4), Err(EFAULT));
    let tv = timeval { tv_sec: 0, tv_usec: 40_000 };
    sys!(SYS_setsockopt, a, SOL_SOCKET, SO_RCVTIMEO, &tv, 16).unwrap();
    let (took, r) = timed(|| read_vec(a, 1));
    assert_eq!(r, Err(EAGAIN));
    assert!(took >= 36);
}

fn stream_backpressure() {
    let (a, b) = socketpair(SOCK_STREAM | SOCK_NONBLOCK);
    let mut sent = 0;
    while let Ok(n) = write(a, &[7; 5000]) {
        sent += n;
    }
    assert!(sent > 10_000 && poll1(a, POLLOUT, 0) == 0);
    let mut got = 0;
    while let Ok(part) = read_vec(b, 100_000) {
        got += part.len();
    }
    assert_eq!(got, sent);
    assert_eq!(poll1(a, POLLOUT, 0), POLLOUT);
}

fn bulk_transfer() {
    let (a, b) = socketpair(SOCK_STREAM);
    let c = child(|| {
        let data: Vec<u8> = (0..500_000u32).map(|i| (i % 253) as u8).collect();
        let mut at = 0;
        while at < data.len() {
            at += write(a, &data[at..]).unwrap();
        }
    });
    close(a);
    let mut got = vec![];
    while let Some(part) = read_vec(b, 60_000).ok().filter(|p| !p.is_empty()) {
        got.extend(part);
    }
    assert_eq!(got.len(), 500_000);
    assert!(got.iter().enumerate().all(|(i, v)| *v == (i % 253) as u8));
    c.ok();
}

fn waitall_and_recvmmsg() {
    let (a, b) = socketpair(SOCK_STREAM);
    let c = child(|| {
        write(a, b"abc").unwrap();
        settle();
        write(a, b"def").unwrap();
    });
    assert_eq!(recv(b, 6, MSG_WAITALL).unwrap(), b"abcdef");
    c.ok();
    assert_eq!(sys!(SYS_sendmmsg, a, BAD, 1, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_sendmmsg, 999, 0, 1, 0), Err(EBADF));
}
