//! Packet sockets (packet(7)) over loopback.

use crate::inetkit::{LO, bring_up, connect, control, get, name, pair, port, recv, send, send_to, set, udp_bound};
use crate::netlinkkit::own_net;
use crate::packetkit::{
    ALL, IP, OUTGOING, SOL, admit, another, bind_to, datagram, half, ll, next, option, packet_socket, raw, send_frame, sum, transport,
};
use crate::prelude::*;

tests!(
    "packet":
    creation, binding, sees_datagrams, sees_segments, refusals, what_is_seen, truncates, loops_back, wrong_sends, cooked,
    into_udp, into_tcp, memberships, lengths_of_options, stamps, link_down, without_rights, proc_file,
);

fn creation() {
    own_net();
    assert_eq!(sys!(SYS_socket, AF_PACKET, SOCK_STREAM, 0), Err(ESOCKTNOSUPPORT));
    assert_eq!(sys!(SYS_socket, AF_PACKET, SOCK_SEQPACKET, 0), Err(ESOCKTNOSUPPORT));
    let mut fds = [0i32; 2];
    assert_eq!(sys!(SYS_socketpair, AF_PACKET, SOCK_RAW, 0, &mut fds), Err(EOPNOTSUPP));
    let fd = another(ALL);
    assert_eq!(get(fd, SOL_SOCKET, SO_PROTOCOL), Ok(0));
    assert_eq!(get(fd, SOL_SOCKET, SO_DOMAIN), Ok(AF_PACKET));
    assert_eq!(get(fd, SOL_SOCKET, SO_TYPE), Ok(SOCK_RAW));
    assert_eq!(connect(fd, &ll(0, 1)), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_listen, fd, 1), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_shutdown, fd, 2), Err(EOPNOTSUPP));
    assert_eq!(set(fd, SOL, 99, 1), Err(ENOPROTOOPT));
    assert_eq!(option(fd, 99, 4), Err(ENOPROTOOPT));
}

fn binding() {
    own_net();
    let fd = another(0);
    assert_eq!(name(fd).len(), 12, "no interface, no address");
    assert_eq!(bind_to(fd, ALL, 77), Err(ENODEV));
    assert_eq!(sys!(SYS_bind, fd, &ll(ALL, 1)[..], 19), Err(EINVAL));
    let mut foreign = ll(ALL, 1);
    foreign[0] = AF_INET as u8;
    assert_eq!(sys!(SYS_bind, fd, &foreign[..], 20), Err(EINVAL));
    assert_eq!(bind_to(fd, ALL, 1), Ok(0));
    assert_eq!(get(fd, SOL_SOCKET, SO_ERROR), Ok(ENETDOWN), "the interface is off");
    assert_eq!(get(fd, SOL_SOCKET, SO_ERROR), Ok(0));
    bring_up(fd);
    let bound = name(fd);
    assert_eq!((bound.len(), half(&bound, 2), bound[4], bound[11]), (18, ALL, 1, 6));
    assert_eq!(u16::from_ne_bytes([bound[8], bound[9]]), 772);
    assert_eq!(bind_to(fd, 0, 0), Ok(0));
    assert_eq!(half(&name(fd), 2), ALL, "0 changes nothing");
}

fn sees_datagrams() {
    let fd = raw(ALL);
    let (a, b) = (udp_bound(), udp_bound());
    send_to(a, b"hello, packet", &name(b)).unwrap();
    for way in [OUTGOING, 0] {
        let (frame, from) = next(fd).unwrap();
        assert_eq!((frame.len(), half(&frame, 12)), (14 + 28 + 13, IP));
        assert_eq!(frame[..12], [0; 12]);
        assert_eq!((from.len(), half(&from, 2), from[4], from[10], from[11]), (20, IP, 1, way, 6));
        assert_eq!(u16::from_ne_bytes([from[8], from[9]]), 772);
        assert_eq!((sum(&frame[14..34], 0), frame[23]), (0, 17));
        assert_eq!((half(&frame, 34), half(&frame, 36), half(&frame, 38)), (port(a), port(b), 21));
        assert_eq!(&frame[42..], b"hello, packet");
    }
    assert!(next(fd).is_none());
}

fn sees_segments() {
    let fd = raw(ALL);
    let (client, server) = pair();
    send(client, b"some data", 0).unwrap();
    assert_eq!(recv(server, 20, 0).unwrap(), b"some data");
    let mut all = Vec::new();
    while let Some((frame, from)) = next(fd) {
        if from[10] == 0 {
            all.push(frame);
        }
    }
    let flags: Vec<u8> = all.iter().take(3).map(|frame| frame[14 + 20 + 13]).collect();
    assert_eq!(flags, [2, 0x12, 0x10], "the handshake");
    let syn = &all[0];
    assert_eq!((syn[46] >> 4, syn[54], syn[55]), (10, 2, 4), "options, the first of which is the size");
    assert!(all.iter().any(|frame| frame.ends_with(b"some data")));
    for frame in &all {
        assert_eq!((frame[23], sum(&frame[14..34], 0)), (6, 0));
    }
}

fn refusals() {
    let fd = raw(ALL);
    let (a, gone) = (udp_bound(), udp_bound());
    let to = name(gone);
    close(gone);
    send_to(a, &[5; 1000], &to).unwrap();
    let frames: Vec<_> = std::iter::from_fn(|| next(fd)).map(|(frame, _)| frame).collect();
    assert_eq!(frames.iter().map(|frame| frame[23]).collect::<Vec<_>>(), [17, 17, 1, 1]);
    let told = &frames[3];
    assert_eq!((told.len(), told[34], told[35]), (14 + 576, 3, 3));
    assert_eq!((sum(&told[14..34], 0), sum(&told[34..], 0)), (0, 0));
    assert_eq!((half(told, 62), half(told, 64)), (port(a), half(&to, 2)), "of the datagram that it quotes");
}

fn what_is_seen() {
    let everything = raw(ALL);
    let (ip, v6, nothing) = (another(IP), another(0x86dd), another(0));
    let (a, b) = (udp_bound(), udp_bound());
    send_to(a, b"x", &name(b)).unwrap();
    let count = |fd| std::iter::from_fn(|| next(fd)).count();
    assert_eq!([count(everything), count(ip), count(v6), count(nothing)], [2, 1, 0, 0]);
    bind_to(nothing, IP, 1).unwrap();
    set(everything, SOL, 23, 1).unwrap();
    send_to(a, b"x", &name(b)).unwrap();
    assert_eq!([count(everything), count(ip), count(nothing)], [1, 1, 1], "outgoing ones are ignored now");
    assert_eq!(poll1(ip, POLLIN, 0), 0);
    send_to(a, b"x", &name(b)).unwrap();
    assert_eq!(poll1(ip, POLLIN, 0), POLLIN);
}

fn truncates() {
    let fd = raw(IP);
    let (a, b) = (udp_bound(), udp_bound());
    for _ in 0..3 {
        send_to(a, &[7; 100], &name(b)).unwrap();
    }
    assert_eq!(recv(fd, 20, MSG_PEEK).unwrap().len(), 20);
    let mut bytes = 0i32;
    sys!(SYS_ioctl, fd, FIONREAD, &mut bytes).unwrap();
    assert_eq!(bytes, 142);
    let mut buf = [0u8; 10];
    assert_eq!(sys!(SYS_recvfrom, fd, &mut buf, 10, MSG_TRUNC, 0, 0), Ok(142));
    assert_eq!(recv(fd, 10, 0).unwrap().len(), 10, "the rest is lost");
    assert_eq!(recv(fd, 200, 0).unwrap().len(), 142);
    assert_eq!(recv(fd, 200, MSG_DONTWAIT), Err(EAGAIN));
    assert_eq!(recv(fd, 200, MSG_OOB | MSG_DONTWAIT), Err(EINVAL));
}

fn loops_back() {
    let fd = raw(ALL);
    let other = another(ALL);
    let mut frame = vec![0u8; 60];
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame[20] = 9;
    assert_eq!(send_frame(fd, &frame), Ok(60));
    let own: Vec<_> = std::iter::from_fn(|| next(fd)).collect();
    assert_eq!(own.iter().map(|(_, from)| from[10]).collect::<Vec<_>>(), [0], "not what it sent itself");
    assert_eq!((&own[0].0, half(&own[0].1, 2)), (&frame, 0x88b5));
    let theirs: Vec<_> = std::iter::from_fn(|| next(other)).collect();
    assert_eq!(theirs.iter().map(|(_, from)| from[10]).collect::<Vec<_>>(), [OUTGOING, 0]);
    assert_eq!(half(&theirs[0].1, 2), IP, "what the sender said");
    for (first, way) in [(0xff, 2), (0x01, 2), (0x02, 3)] {
        frame[..6].fill(if first == 0xff { 0xff } else { 0 });
        frame[0] = first;
        send_frame(fd, &frame).unwrap();
        assert_eq!(next(fd).unwrap().1[10], way);
    }
}

fn wrong_sends() {
    let fd = raw(0);
    let send_as = |frame: &[u8], to: &[u8]| sys!(SYS_sendto, fd, frame, frame.len(), 0, to, to.len());
    assert_eq!(write(fd, &[0; 60]), Err(ENXIO), "not bound");
    assert_eq!(send_as(&[0; 60], &ll(IP, 9)), Err(ENXIO));
    assert_eq!(send_as(&[0; 60], &ll(IP, 1)[..19]), Err(EINVAL));
    let mut long = ll(IP, 1);
    long[11] = 9;
    assert_eq!(send_as(&[0; 60], &long), Err(EINVAL));
    assert_eq!(send_frame(fd, &[0; 13]), Err(EINVAL), "less than a header");
    assert_eq!(send_frame(fd, &[0; 14]), Ok(14));
    assert_eq!(send_frame(fd, &[0; 65536 + 15]), Err(EMSGSIZE));
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..20].copy_from_slice(&1500i32.to_ne_bytes());
    sys!(SYS_ioctl, fd, SIOCSIFMTU, &mut request).unwrap();
    assert_eq!(send_frame(fd, &[0; 1514]), Ok(1514));
    assert_eq!(send_frame(fd, &[0; 1515]), Err(EMSGSIZE));
    let mut tagged = vec![0; 1518];
    tagged[12..14].copy_from_slice(&[0x81, 0]);
    assert_eq!(send_frame(fd, &tagged), Err(EMSGSIZE), "only Ethernet has room for a tag");
    bind_to(fd, IP, 1).unwrap();
    assert_eq!(write(fd, &[0; 60]), Ok(60));
}

fn cooked() {
    let fd = raw(ALL);
    let cooked = packet_socket(SOCK_DGRAM, IP).unwrap();
    let to = ll(IP, 1);
    let data = [0x45, 1, 2, 3];
    assert_eq!(sys!(SYS_sendto, cooked, &data, 4, 0, &to[..], 17), Err(EINVAL));
    assert_eq!(sys!(SYS_sendto, cooked, &data, 4, 0, &to[..], 20), Ok(4));
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 1, 2, 3]);
    assert_eq!(next(fd).unwrap().0, frame);
    assert_eq!(next(cooked).unwrap().0, data, "without the header");
    let (a, b) = (udp_bound(), udp_bound());
    send_to(a, b"x", &name(b)).unwrap();
    let (packet, from) = next(cooked).unwrap();
    assert_eq!((packet.len(), packet[0], from[10], half(&from, 2)), (29, 0x45, 0, IP));
}

fn into_udp() {
    let fd = raw(0);
    let b = udp_bound();
    let frame = datagram((LO, 9), (LO, port(b)), b"by hand");
    for switch in ["accept_local", "route_localnet"] {
        let _ = write_file(&format!("/proc/sys/net/ipv4/conf/lo/{switch}"), "0");
    }
    send_frame(fd, &frame).unwrap();
    assert_eq!(recv(b, 20, MSG_DONTWAIT), Err(EAGAIN), "from a martian");
    admit();
    let mut bad = frame.clone();
    bad[24] ^= 1;
    send_frame(fd, &bad).unwrap();
    assert_eq!(recv(b, 20, MSG_DONTWAIT), Err(EAGAIN), "its checksum is wrong");
    bad = frame.clone();
    bad[0] = 2;
    send_frame(fd, &bad).unwrap();
    assert_eq!(recv(b, 20, MSG_DONTWAIT), Err(EAGAIN), "it is for another machine");
    send_frame(fd, &frame).unwrap();
    assert_eq!(recv(b, 20, MSG_DONTWAIT).unwrap(), b"by hand");
}

fn into_tcp() {
    let fd = raw(IP);
    admit();
    let listener = crate::inetkit::listener();
    let mut tcp = Vec::new();
    tcp.extend(4321u16.to_be_bytes());
    tcp.extend(port(listener).to_be_bytes());
    tcp.extend([0, 0, 0, 5, 0, 0, 0, 0, 0x50, 2, 0xff, 0, 0, 0, 0, 0]);
    let pseudo = (LO >> 16) * 2 + (LO & 0xffff) * 2 + 6 + tcp.len() as u32;
    let checksum = sum(&tcp, pseudo);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    send_frame(fd, &transport(LO, LO, 6, &tcp)).unwrap();
    let frames: Vec<_> = std::iter::from_fn(|| next(fd)).map(|(frame, _)| frame).collect();
    let answer = frames.iter().find(|frame| frame[47] == 0x12).expect("the handshake is answered");
    assert_eq!(answer[42..46], [0, 0, 0, 6]);
    assert!(frames.iter().any(|frame| frame[47] & 4 != 0), "and ended, as nobody waits for it");
}

fn memberships() {
    let fd = raw(0);
    let member = |interface: i32, kind: u16, len: u16| {
        let mut m = interface.to_ne_bytes().to_vec();
        m.extend(kind.to_ne_bytes());
        m.extend(len.to_ne_bytes());
        m.extend([1; 8]);
        m
    };
    let change = |name: i32, m: &[u8]| sys!(SYS_setsockopt, fd, SOL, name, m, m.len());
    assert_eq!(change(1, &member(9, 1, 0)), Err(ENODEV));
    assert_eq!(change(1, &member(1, 0, 7)), Err(EINVAL));
    assert_eq!(change(1, &member(1, 1, 0)[..15]), Err(EINVAL));
    for _ in 0..2 {
        change(1, &member(1, 1, 0)).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(change(2, &member(1, 1, 0)), Ok(0), "also what is not there");
    }
}

fn lengths_of_options() {
    let fd = raw(IP);
    let set = |name: i32, len: usize| sys!(SYS_setsockopt, fd, SOL, name, &[0u32; 8], len);
    // COPY_THRESH, VERSION, RESERVE, LOSS, TIMESTAMP, TX_HAS_OFF, QDISC_BYPASS, IGNORE_OUTGOING want an int; others an int at least.
    for name in [7, 10, 12, 14, 17, 19, 20, 23] {
        assert_eq!([set(name, 3), set(name, 4), set(name, 8)], [Err(EINVAL), Ok(0), Err(EINVAL)], "{name}");
    }
    for name in [8, 9, 15] {
        assert_eq!([set(name, 3), set(name, 4), set(name, 8)], [Err(EINVAL), Ok(0), Ok(0)], "{name}");
    }
    assert_eq!([set(18, 3), set(18, 5), set(18, 12)], [Err(EINVAL); 3], "FANOUT: 4 or 8");
}

fn stamps() {
    let fd = raw(IP);
    let mut time = [0i64; 2];
    assert_eq!(sys!(SYS_ioctl, fd, 0x8906, &mut time), Err(ENOENT));
    let (a, b) = (udp_bound(), udp_bound());
    send_to(a, b"x", &name(b)).unwrap();
    recv(fd, 100, 0).unwrap();
    send_to(a, b"x", &name(b)).unwrap();
    recv(fd, 100, 0).unwrap();
    sys!(SYS_ioctl, fd, 0x8906, &mut time).unwrap();
    let mut now: timespec = zero();
    sys!(SYS_clock_gettime, CLOCK_REALTIME, &mut now).unwrap();
    assert!((0..10).contains(&(now.tv_sec - time[0])), "{time:?}");
    set(fd, SOL_SOCKET, 35, 1).unwrap();
    assert_eq!(get(fd, SOL_SOCKET, 35), Ok(1));
    send_to(a, b"x", &name(b)).unwrap();
    let (level, kind, data) = control(fd);
    assert_eq!((level, kind, data.len()), (SOL_SOCKET, 35, 16));
    let seconds = i64::from_ne_bytes(data[..8].try_into().unwrap());
    assert!((0..10).contains(&(seconds - now.tv_sec)), "{data:?}");
}

fn link_down() {
    let fd = raw(ALL);
    bind_to(fd, ALL, 1).unwrap();
    let free = another(ALL);
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    sys!(SYS_ioctl, fd, SIOCGIFFLAGS, &mut request).unwrap();
    request[16] &= !1;
    sys!(SYS_ioctl, fd, SIOCSIFFLAGS, &mut request).unwrap();
    assert_ne!(poll1(fd, POLLIN, 0) & POLLERR, 0);
    assert_eq!(recv(fd, 10, 0), Err(Errno::ENETDOWN));
    assert_eq!(recv(free, 10, MSG_DONTWAIT), Err(EAGAIN), "it is bound to none");
    assert_eq!(write(fd, &[0; 60]), Err(Errno::ENETDOWN));
    bring_up(fd);
    send_frame(free, &[0; 60]).unwrap();
    assert!(next(fd).is_some());
}

fn without_rights() {
    child(|| {
        drop_root();
        assert_eq!(packet_socket(SOCK_RAW, ALL), Err(EPERM));
        assert_eq!(sys!(SYS_socket, AF_PACKET, SOCK_STREAM, 0), Err(EPERM), "first of all");
    })
    .ok();
}

fn proc_file() {
    let fd = raw(ALL);
    bind_to(fd, ALL, 1).unwrap();
    let text = slurp("/proc/self/net/packet");
    let mut lines = text.lines();
    assert!(lines.next().unwrap().starts_with("sk "));
    let ino = fstat(fd).st_ino.to_string();
    let row: Vec<_> = lines.map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    let row = row.iter().find(|row| row.last() == Some(&&*ino)).expect("it is there");
    assert_eq!(row[2..6], ["3", "0003", "1", "1"]);
}
