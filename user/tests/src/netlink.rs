//! Netlink sockets among themselves: ports, groups, queues, options (netlink(7)); the notices of mq_notify(2).

use nix::errno::Errno::ENOBUFS;

use crate::netlinkkit::{
    bind, get, name_by, nl, own_net, port, recv, recv_control, recv_from, request, send_to, set, socket, user, messages,
};
use crate::prelude::*;

tests!(
    "netlink":
    arguments_of_socket, ports, binding_errors, connect_and_peer, messages_between_sockets, groups, membership_options,
    groups_beyond_32, switches, full_queues_block, lost_messages_are_told, credentials_and_group_info, truncation,
    permissions, namespaces_are_apart, requests_are_acknowledged, proc_net_netlink, attributes_of_the_file,
    mq_notify_by_thread, mq_notify_thread_errors,
);

fn arguments_of_socket() {
    for kind in [SOCK_RAW, SOCK_DGRAM] {
        let fd = socket(kind | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE).unwrap();
        for (name, value) in [(SO_DOMAIN, AF_NETLINK), (SO_TYPE, kind), (SO_PROTOCOL, NETLINK_ROUTE)] {
            let (mut found, mut len) = (0i32, 4u32);
            sys!(SYS_getsockopt, fd, SOL_SOCKET, name, &mut found, &mut len).unwrap();
            assert_eq!(found, value);
        }
        assert_eq!(recv(fd, 10, 0), Err(EAGAIN));
        close(fd);
    }
    for kind in [SOCK_STREAM, SOCK_SEQPACKET, SOCK_RDM] {
        assert_eq!(socket(kind, NETLINK_ROUTE), Err(ESOCKTNOSUPPORT));
    }
    for protocol in [-1, 32, 1000] {
        assert_eq!(socket(SOCK_RAW, protocol), Err(EPROTONOSUPPORT));
    }
    let mut fds = [0i32; 2];
    assert_eq!(sys!(SYS_socketpair, AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK, &mut fds), Err(EOPNOTSUPP));
    let fd = user();
    assert_eq!(sys!(SYS_listen, fd, 1), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_accept4, fd, 0, 0, 0), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_shutdown, fd, SHUT_RDWR), Err(EOPNOTSUPP));
    let mut n = 0i32;
    assert_eq!(sys!(SYS_ioctl, fd, FIONREAD, &mut n), Err(ENOTTY));
}

fn ports() {
    own_net();
    let (a, b, c) = (user(), user(), user());
    assert_eq!(name_by(SYS_getsockname, a), (0, 0));
    bind(a, 0, 0).unwrap();
    assert_eq!(port(a), getpid() as u32, "the first one has the process id");
    bind(b, 0, 0).unwrap();
    assert!((port(b) as i32) < -4096, "{}", port(b) as i32);
    bind(c, 12345, 0).unwrap();
    assert_eq!(port(c), 12345);
    // Another protocol has ports of its own.
    let other = socket(SOCK_RAW, NETLINK_ROUTE).unwrap();
    bind(other, 12345, 0).unwrap();
    close(c);
    let again = user();
    bind(again, 12345, 0).unwrap();
    // A first message binds too.
    let sender = user();
    send_to(sender, b"hello", 12345, 0, 0).unwrap();
    assert_ne!(port(sender), 0);
    assert_eq!(recv_from(again, 10, 0), Ok((b"hello".to_vec(), port(sender), 0)));
}

fn binding_errors() {
    own_net();
    let (a, b) = (user(), user());
    bind(a, 4711, 0).unwrap();
    assert_eq!(bind(b, 4711, 0), Err(EADDRINUSE));
    assert_eq!(bind(a, 4712, 0), Err(EINVAL), "it has another port");
    bind(a, 4711, 0).unwrap();
    assert_eq!(bind(a, 0, 0), Err(EINVAL));
    let short = nl(1, 0);
    assert_eq!(sys!(SYS_bind, b, &short[..], 11), Err(EINVAL));
    let mut wrong = nl(1, 0);
    wrong[0] = AF_INET as u8;
    assert_eq!(sys!(SYS_bind, b, &wrong[..], 12), Err(EINVAL));
}

fn connect_and_peer() {
    own_net();
    let (a, b, c) = (user(), user(), user());
    for (fd, port) in [(a, 101), (b, 102), (c, 103)] {
        bind(fd, port, 0).unwrap();
    }
    let connect = |fd: i32, to: &[u8]| sys!(SYS_connect, fd, to, to.len());
    assert_eq!(name_by(SYS_getpeername, a), (0, 0), "the kernel");
    connect(a, &nl(102, 0)).unwrap();
    assert_eq!(name_by(SYS_getpeername, a), (102, 0));
    write(a, b"to b").unwrap();
    assert_eq!(recv(b, 10, 0), Ok(b"to b".to_vec()));
    assert_eq!(send_to(c, b"x", 101, 0, 0), Err(ECONNREFUSED), "it is connected to somebody else");
    assert_eq!(send_to(b, b"back", 101, 0, 0), Ok(4));
    connect(a, &[AF_UNSPEC as u8, 0]).unwrap();
    assert_eq!(name_by(SYS_getpeername, a), (0, 0));
    assert_eq!(send_to(c, b"x", 101, 0, 0), Ok(1));
    assert_eq!(connect(a, &nl(1, 0)[..11]), Err(EINVAL));
    assert_eq!(connect(a, &[AF_INET as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(EINVAL));
}

fn messages_between_sockets() {
    own_net();
    let (a, b) = (user(), user());
    bind(a, 201, 0).unwrap();
    bind(b, 202, 0).unwrap();
    assert_eq!(send_to(a, b"", 202, 0, 0), Err(ENODATA));
    assert_eq!(send_to(a, b"x", 999, 0, 0), Err(ECONNREFUSED));
    assert_eq!(write(a, b"x"), Err(ECONNREFUSED), "this protocol has no end in the kernel");
    assert_eq!(send_to(a, b"x", 202, 0, MSG_OOB), Err(EOPNOTSUPP));
    assert_eq!(recv(b, 1, MSG_OOB), Err(EOPNOTSUPP));
    assert_eq!(poll1(b, POLLIN | POLLOUT, 0), POLLOUT);
    for text in [&b"one"[..], b"two"] {
        send_to(a, text, 202, 0, 0).unwrap();
    }
    assert_eq!(poll1(b, POLLIN | POLLOUT, 0), POLLIN | POLLOUT);
    assert_eq!(recv_from(b, 10, MSG_PEEK), Ok((b"one".to_vec(), 201, 0)));
    assert_eq!(recv(b, 10, 0), Ok(b"one".to_vec()));
    assert_eq!(recv(b, 10, 0), Ok(b"two".to_vec()));
    assert_eq!(recv(b, 10, MSG_DONTWAIT), Err(EAGAIN));
    assert_eq!(send_to(a, b"self", 201, 0, 0), Ok(4));
    assert_eq!(recv(a, 10, 0), Ok(b"self".to_vec()));
    let mut sndbuf = 4096i32;
    sys!(SYS_setsockopt, a, SOL_SOCKET, SO_SNDBUF, &sndbuf, 4).unwrap();
    sys!(SYS_getsockopt, a, SOL_SOCKET, SO_SNDBUF, &mut sndbuf, &mut 4u32).unwrap();
    let room = sndbuf as usize - 32;
    assert_eq!(send_to(a, &vec![0; room + 1], 202, 0, 0), Err(EMSGSIZE));
    assert_eq!(send_to(a, &vec![0; room], 202, 0, 0), Ok(room));
}

fn groups() {
    own_net();
    let (a, b, c) = (user(), user(), user());
    bind(a, 0, 0).unwrap();
    bind(b, 301, 1 << 4 | 1).unwrap();
    bind(c, 302, 1 << 4).unwrap();
    assert_eq!(name_by(SYS_getsockname, b), (301, 1 << 4 | 1));
    // To a group alone: nobody has port 0, which is told though the group has got it.
    assert_eq!(send_to(a, b"all", 0, 1 << 4, 0), Err(ECONNREFUSED));
    for fd in [b, c] {
        assert_eq!(recv_from(fd, 10, MSG_DONTWAIT), Ok((b"all".to_vec(), port(a), 1 << 4)));
    }
    assert_eq!(send_to(a, b"one", 302, 1 << 4, 0), Ok(3));
    assert_eq!(recv(c, 10, MSG_DONTWAIT), Ok(b"one".to_vec()));
    assert_eq!(recv(c, 10, MSG_DONTWAIT), Err(EAGAIN), "once, though it is in the group and was named");
    assert_eq!(recv(b, 10, MSG_DONTWAIT), Ok(b"one".to_vec()));
    // The sender does not hear itself.
    bind(a, port(a), 1 << 4).unwrap();
    assert_eq!(send_to(a, b"x", 0, 1 << 4, 0), Err(ECONNREFUSED));
    assert_eq!(recv(a, 10, MSG_DONTWAIT), Err(EAGAIN));
    // bind(2) sets the mask anew.
    bind(c, 302, 0).unwrap();
    recv(c, 10, MSG_DONTWAIT).unwrap();
    assert_eq!(send_to(a, b"y", 0, 1 << 4, 0), Err(ECONNREFUSED));
    assert_eq!(recv(c, 10, MSG_DONTWAIT), Err(EAGAIN));
}

fn membership_options() {
    own_net();
    let (a, b) = (user(), user());
    bind(a, 0, 0).unwrap();
    let list = |fd: i32, room: u32| {
        let (mut words, mut len) = ([0u32; 4], room);
        sys!(SYS_getsockopt, fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, &mut words, &mut len).unwrap();
        (len, words[0])
    };
    assert_eq!(list(b, 16), (0, 0), "no groups before it has asked for one");
    set(b, NETLINK_ADD_MEMBERSHIP, 7).unwrap();
    set(b, NETLINK_ADD_MEMBERSHIP, 32).unwrap();
    assert_eq!(list(b, 16), (4, 1 << 6 | 1 << 31));
    assert_eq!(list(b, 0), (4, 0), "the whole length");
    assert_eq!(name_by(SYS_getsockname, b).1, 1 << 6 | 1 << 31);
    set(b, NETLINK_DROP_MEMBERSHIP, 32).unwrap();
    assert_eq!(list(b, 4), (4, 1 << 6));
    for group in [0, 33, -1] {
        assert_eq!(set(b, NETLINK_ADD_MEMBERSHIP, group), Err(EINVAL));
        assert_eq!(set(b, NETLINK_DROP_MEMBERSHIP, group), Err(EINVAL));
    }
    assert_eq!(send_to(a, b"early", 0, 1 << 6, 0), Err(ECONNREFUSED));
    assert_eq!(recv(b, 10, MSG_DONTWAIT), Err(EAGAIN), "without a port it hears nothing");
    set(b, NETLINK_NO_ENOBUFS, 0).unwrap();
    bind(b, 0, 1 << 6).unwrap();
    assert_eq!(send_to(a, b"seven", 0, 1 << 6, 0), Err(ECONNREFUSED));
    assert_eq!(recv_from(b, 10, MSG_DONTWAIT), Ok((b"seven".to_vec(), port(a), 1 << 6)));
}

fn groups_beyond_32() {
    let fd = socket(SOCK_RAW, NETLINK_ROUTE).unwrap();
    set(fd, NETLINK_ADD_MEMBERSHIP, 33).unwrap();
    let (mut words, mut len) = ([0u32; 4], 16u32);
    sys!(SYS_getsockopt, fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, &mut words, &mut len).unwrap();
    assert_eq!((len, words[1]), (8, 1));
    assert_eq!(name_by(SYS_getsockname, fd).1, 0);
    assert_eq!(set(fd, NETLINK_ADD_MEMBERSHIP, 64), Err(EINVAL));
}

fn switches() {
    let fd = user();
    for name in
        [NETLINK_PKTINFO, NETLINK_BROADCAST_ERROR, NETLINK_NO_ENOBUFS, NETLINK_CAP_ACK, NETLINK_EXT_ACK, 12]
    {
        assert_eq!(get(fd, name), Ok(0));
        set(fd, name, 5).unwrap();
        assert_eq!(get(fd, name), Ok(1));
        set(fd, name, 0).unwrap();
        assert_eq!(get(fd, name), Ok(0));
        let (mut value, mut len) = (0i32, 3u32);
        assert_eq!(sys!(SYS_getsockopt, fd, SOL_NETLINK, name, &mut value, &mut len), Err(EINVAL));
    }
    assert_eq!(set(fd, 99, 1), Err(ENOPROTOOPT));
    assert_eq!(get(fd, 99), Err(ENOPROTOOPT));
    assert_eq!(sys!(SYS_setsockopt, fd, SOL_IP, 1, &1i32, 4), Err(ENOPROTOOPT));
}

fn full_queues_block() {
    own_net();
    let (a, b) = (user(), user());
    bind(a, 401, 0).unwrap();
    bind(b, 402, 0).unwrap();
    let mut sent = 0u32;
    while send_to(a, &sent.to_ne_bytes().repeat(1000), 402, 0, MSG_DONTWAIT).is_ok() {
        sent += 1;
        assert!(sent < 10_000);
    }
    assert!(sent > 1);
    let last = [9; 4000];
    assert_eq!(send_to(a, &last, 402, 0, MSG_DONTWAIT), Err(EAGAIN));
    let sender = child(|| {
        send_to(a, &last, 402, 0, 0).unwrap();
    });
    wait_state(sender.0, "S");
    for n in 0..sent {
        assert_eq!(&recv(b, 8000, 0).unwrap()[..4], &n.to_ne_bytes());
    }
    assert_eq!(recv(b, 4, 0), Ok(vec![9; 4]));
    sender.ok();
    // A receiver that goes away wakes them too.
    while send_to(a, &[0; 4000], 402, 0, MSG_DONTWAIT).is_ok() {}
    let sender = child(|| {
        close(b);
        assert_eq!(send_to(a, &[0; 4000], 402, 0, 0), Err(ECONNREFUSED));
    });
    wait_state(sender.0, "S");
    close(b);
    sender.ok();
}

fn lost_messages_are_told() {
    own_net();
    let (a, b, c) = (user(), user(), user());
    bind(a, 0, 0).unwrap();
    for fd in [b, c] {
        bind(fd, 0, 1 << 9).unwrap();
    }
    set(c, NETLINK_NO_ENOBUFS, 1).unwrap();
    for _ in 0..2000 {
        ignore(send_to(a, &[1; 4000], 0, 1 << 9, 0));
    }
    assert_eq!(poll1(b, POLLIN, 0), POLLIN | POLLERR);
    assert_eq!(recv(b, 10, 0), Err(ENOBUFS));
    let mut count = 0;
    while recv(b, 10, MSG_DONTWAIT).is_ok() {
        count += 1;
    }
    assert!(count > 1 && count < 2000, "{count}");
    ignore(send_to(a, b"again", 0, 1 << 9, 0));
    assert_eq!(recv(b, 10, MSG_DONTWAIT), Ok(b"again".to_vec()));
    assert!(recv(c, 10, MSG_DONTWAIT).is_ok(), "this one does not want to know");
}

fn credentials_and_group_info() {
    own_net();
    let (a, b) = (user(), user());
    bind(a, 0, 0).unwrap();
    bind(b, 501, 1 << 2).unwrap();
    sys!(SYS_setsockopt, b, SOL_SOCKET, SO_PASSCRED, &1i32, 4).unwrap();
    set(b, NETLINK_PKTINFO, 1).unwrap();
    ignore(send_to(a, b"group", 0, 1 << 2, 0));
    let (len, mut found) = recv_control(b).unwrap();
    found.sort();
    assert_eq!(len, 5);
    assert_eq!(found, [(SOL_SOCKET, SCM_CREDENTIALS, getpid()), (SOL_NETLINK, NETLINK_PKTINFO, 3)]);
}

fn truncation() {
    own_net();
    let (a, b) = (user(), user());
    bind(a, 0, 0).unwrap();
    bind(b, 601, 0).unwrap();
    for _ in 0..2 {
        send_to(a, &[5; 100], 601, 0, 0).unwrap();
    }
    let mut data = [0u8; 10];
    assert_eq!(sys!(SYS_recvfrom, b, &mut data, 10, MSG_PEEK | MSG_TRUNC, 0, 0), Ok(100));
    assert_eq!(sys!(SYS_recvfrom, b, &mut data, 0, MSG_PEEK | MSG_TRUNC, 0, 0), Ok(100));
    let mut iov = iovec { iov_base: data.as_mut_ptr().cast(), iov_len: 10 };
    let mut header: msghdr = zero();
    header.msg_iov = &mut iov;
    header.msg_iovlen = 1;
    assert_eq!(sys!(SYS_recvmsg, b, &mut header, 0), Ok(10));
    assert_eq!(header.msg_flags, MSG_TRUNC);
    assert_eq!(sys!(SYS_recvfrom, b, 8, 10, 0, 0, 0), Err(EFAULT));
    assert_eq!(recv(b, 10, MSG_DONTWAIT), Err(EAGAIN), "a fault loses the message");
}

fn permissions() {
    own_net();
    aside(|| {
        drop_root();
        // Anyone may send to programs, and listen to the kernel's groups.
        let (a, b) = (user(), user());
        bind(a, 701, 0).unwrap();
        assert_eq!(bind(b, 702, 1), Err(EPERM));
        assert_eq!(set(b, NETLINK_ADD_MEMBERSHIP, 1), Err(EPERM));
        send_to(b, b"x", 701, 0, 0).unwrap();
        let route = socket(SOCK_RAW, NETLINK_ROUTE).unwrap();
        bind(route, 0, 1).unwrap();
        set(route, NETLINK_ADD_MEMBERSHIP, 5).unwrap();
        let other = socket(SOCK_RAW, NETLINK_ROUTE).unwrap();
        bind(other, 703, 0).unwrap();
        assert_eq!(send_to(route, &[0; 16], 703, 0, 0), Err(EPERM));
        assert_eq!(send_to(route, &[0; 16], 0, 1, 0), Err(EPERM));
        let to = nl(703, 0);
        assert_eq!(sys!(SYS_connect, route, &to[..], 12), Err(EPERM));
    });
}

fn namespaces_are_apart() {
    own_net();
    let (a, here) = (user(), user());
    bind(a, 801, 1 << 3).unwrap();
    bind(here, 0, 0).unwrap();
    aside(|| {
        own_net();
        let b = user();
        bind(b, 801, 0).unwrap();
        let c = user();
        assert_eq!(send_to(c, b"other", 801, 1 << 3, 0), Ok(5));
        assert_eq!(recv(b, 10, MSG_DONTWAIT), Ok(b"other".to_vec()));
        // A socket stays where it was made.
        assert_eq!(send_to(here, b"first", 801, 0, 0), Ok(5));
    });
    assert_eq!(recv(a, 10, MSG_DONTWAIT), Ok(b"first".to_vec()));
    assert_eq!(recv(a, 10, MSG_DONTWAIT), Err(EAGAIN));
}

fn requests_are_acknowledged() {
    let fd = socket(SOCK_RAW, NETLINK_ROUTE).unwrap();
    // A type below those of protocols, a wrong one, and no request: the order is kept.
    let mut bytes = request(NLMSG_NOOP as u16, NLM_F_ACK, 1, b"");
    bytes.extend(request(0x7f0, 0, 2, b"body"));
    let mut no_request = request(0x7f0, 0, 3, b"body");
    no_request[6] = 0;
    bytes.extend(&no_request);
    bytes.extend(request(NLMSG_NOOP as u16, NLM_F_ACK, 4, b"xyz"));
    assert_eq!(send_to(fd, &bytes, 0, 0, 0), Ok(bytes.len()));
    let mut replies = Vec::new();
    while let Ok((datagram, from, groups)) = recv_from(fd, 1000, MSG_DONTWAIT) {
        assert_eq!((from, groups), (0, 0));
        replies.extend(messages(&datagram));
    }
    let seen: Vec<_> = replies.iter().map(|m| (m.seq, m.error(), m.body.len(), m.port == port(fd))).collect();
    assert_eq!(seen, [(1, 0, 20, true), (2, EOPNOTSUPP as i32, 24, true), (4, 0, 20, true)]);
    set(fd, NETLINK_CAP_ACK, 1).unwrap();
    send_to(fd, &request(0x7f0, 0, 5, b"body"), 0, 0, 0).unwrap();
    let reply = messages(&recv(fd, 1000, 0).unwrap());
    assert_eq!((reply[0].body.len(), reply[0].flags), (20, 0x100));
    // What is cut off or too short is not looked at.
    for len in [1, 15, 17, 1000u32] {
        let mut wrong = request(NLMSG_NOOP as u16, NLM_F_ACK, 6, b"");
        wrong[..4].copy_from_slice(&len.to_ne_bytes());
        assert_eq!(send_to(fd, &wrong, 0, 0, 0), Ok(16));
    }
    assert_eq!(recv(fd, 100, MSG_DONTWAIT), Err(EAGAIN));
    assert_eq!(send_to(fd, b"short", 0, 0, 0), Ok(5));
}

fn proc_net_netlink() {
    own_net();
    let fd = user();
    bind(fd, 90210, 0x11).unwrap();
    let text = slurp("/proc/self/net/netlink");
    let mut lines = text.lines();
    assert_eq!(
        lines.next().unwrap(),
        "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode"
    );
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split_whitespace().collect()).collect();
    let ours = rows.iter().find(|row| row[2] == "90210").unwrap();
    assert_eq!((ours[1], ours[3], ours[4], ours[9]), ("2", "00000011", "0", &*fstat(fd).st_ino.to_string()));
    assert!(rows.iter().any(|row| row[1] == "0" && row[2] == "0"), "the kernel's end");
}

fn attributes_of_the_file() {
    let fd = user();
    let mut buf = [0u8; 100];
    let len = sys!(SYS_fgetxattr, fd, c"system.sockprotoname", &mut buf, 100).unwrap();
    assert_eq!(&buf[..len], b"NETLINK\0");
}

/// mq_notify(2) for a thread, whose library hands `socket` and `cookie` over.
fn notify_thread(queue: i32, socket: i32, cookie: &[u8; 32]) -> Result<usize, Errno> {
    let mut event = [0u64; 8];
    event[0] = cookie.as_ptr() as u64;
    event[1] = u64::from(socket as u32) | (SIGEV_THREAD as u64) << 32;
    sys!(SYS_mq_notify, queue, &event)
}

fn queue(name: &std::ffi::CStr) -> i32 {
    let attr = [0i64, 4, 16, 0, 0, 0, 0, 0];
    let fd = sys!(SYS_mq_open, name, O_CREAT | O_EXCL | O_RDWR, 0o600, &attr).unwrap();
    sys!(SYS_mq_unlink, name).unwrap();
    fd as i32
}

fn mq_notify_by_thread() {
    let (mq, fd) = (queue(c"keel-netlink"), socket(SOCK_RAW, NETLINK_ROUTE).unwrap());
    let mut cookie = [7u8; 32];
    let put = || sys!(SYS_mq_timedsend, mq, b"x", 1, 0, 0).unwrap();
    let take = || sys!(SYS_mq_timedreceive, mq, &mut [0u8; 16], 16, 0, 0).unwrap();
    notify_thread(mq, fd, &cookie).unwrap();
    assert!(String::from_utf8(pread(mq, 200, 0).unwrap()).unwrap().contains("NOTIFY:2 "));
    assert_eq!(notify_thread(mq, fd, &cookie), Err(EBUSY));
    assert_eq!(recv(fd, 100, MSG_DONTWAIT), Err(EAGAIN));
    put();
    cookie[31] = 1;
    assert_eq!(recv_from(fd, 100, MSG_DONTWAIT), Ok((cookie.to_vec(), 0, 0)), "a message came");
    put();
    assert_eq!(recv(fd, 100, MSG_DONTWAIT), Err(EAGAIN), "told once");
    take();
    take();
    notify_thread(mq, fd, &cookie).unwrap();
    sys!(SYS_mq_notify, mq, 0).unwrap();
    cookie[31] = 2;
    assert_eq!(recv(fd, 100, MSG_DONTWAIT), Ok(cookie.to_vec()), "the wish was taken back");
    notify_thread(mq, fd, &cookie).unwrap();
    close(mq);
    assert_eq!(recv(fd, 100, MSG_DONTWAIT), Ok(cookie.to_vec()), "the queue was closed");
}

fn mq_notify_thread_errors() {
    let (mq, fd) = (queue(c"keel-netlink-errors"), user());
    let cookie = [0u8; 32];
    assert_eq!(notify_thread(mq, 999, &cookie), Err(EBADF));
    assert_eq!(notify_thread(mq, new_file("f"), &cookie), Err(ENOTSOCK));
    let (unix, _) = socketpair(SOCK_STREAM);
    assert_eq!(notify_thread(mq, unix, &cookie), Err(EINVAL));
    assert_eq!(notify_thread(fd, fd, &cookie), Err(EBADF), "no queue");
    let event = [BAD as u64, u64::from(fd as u32) | (SIGEV_THREAD as u64) << 32, 0, 0, 0, 0, 0, 0];
    assert_eq!(sys!(SYS_mq_notify, mq, &event), Err(EFAULT));
    // What failed has left nothing in the socket's queue.
    assert_eq!(recv(fd, 100, MSG_DONTWAIT), Err(EAGAIN));
}
