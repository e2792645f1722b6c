//! Internet sockets of either kind: addresses, ports, options, interfaces, namespaces.

use nix::errno::Errno::{EADDRNOTAVAIL, ENETUNREACH};

use crate::inetkit::{ANY, LO, v4, v6, MAPPED, socket_of, bring_up, tcp, udp, bind, connect, accept_with, accept, name_by, name, port, listen, listener, udp_bound, set, get, nonblocking};
use crate::prelude::*;

tests!(
    "inet":
    socket_errors, sock_options, bind_errors, bind_conflicts, privileged_ports, ephemeral_ports, dual_stack, v6_only,
    interface_requests, interface_requests_of_all_families, loopback_starts_down, namespaces_are_apart, proc_net, names_of_protocols,
);

fn names_of_protocols() {
    for (family, kind, name) in [
        (AF_INET, SOCK_STREAM, "TCP"),
        (AF_INET, SOCK_DGRAM, "UDP"),
        (AF_INET6, SOCK_STREAM, "TCPv6"),
        (AF_INET6, SOCK_DGRAM, "UDPv6"),
        (AF_UNIX, SOCK_STREAM, "UNIX-STREAM"),
        (AF_UNIX, SOCK_SEQPACKET, "UNIX"),
        (AF_UNIX, SOCK_DGRAM, "UNIX"),
    ] {
        let fd = sys!(SYS_socket, family, kind, 0).unwrap();
        let mut buf = [0u8; 100];
        let attribute = c"system.sockprotoname";
        let len = sys!(SYS_fgetxattr, fd, attribute, &mut buf, 100).unwrap();
        assert_eq!(buf[..len], *format!("{name}\0").as_bytes());
        assert_eq!(sys!(SYS_fgetxattr, fd, attribute, &mut buf, len - 1), Err(ERANGE));
        assert_eq!(sys!(SYS_fsetxattr, fd, attribute, c"x", 1, 0), Err(EOPNOTSUPP));
        assert_eq!(sys!(SYS_fremovexattr, fd, attribute), Err(EOPNOTSUPP));
        sys!(SYS_fsetxattr, fd, c"user.a", c"x", 1, 0).unwrap();
        let len = sys!(SYS_flistxattr, fd, &mut buf, 100).unwrap();
        let mut names: Vec<_> = buf[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
        names.sort();
        assert_eq!(names, [&b"system.sockprotoname"[..], b"user.a"]);
        close(fd as i32);
    }
    assert_eq!(sys!(SYS_fgetxattr, new_file("f"), c"system.sockprotoname", 0, 0), Err(EOPNOTSUPP));
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

fn interface_requests_of_all_families() {
    let about = |fd: i32, cmd: c_ulong| {
        let mut r = [0u8; 40];
        r[..2].copy_from_slice(b"lo");
        sys!(SYS_ioctl, fd, cmd, &mut r).map(|_| i32::from_ne_bytes([r[16], r[17], r[18], r[19]]))
    };
    let socket = |family: i32, kind: i32| sys!(SYS_socket, family, kind, 0).unwrap() as i32;
    for (family, kind) in [
        (AF_UNIX, SOCK_STREAM),
        (AF_UNIX, SOCK_DGRAM),
        (AF_INET, SOCK_STREAM),
        (AF_INET6, SOCK_STREAM),
        (AF_INET6, SOCK_DGRAM),
        (AF_NETLINK, SOCK_RAW),
    ] {
        let fd = socket(family, kind);
        assert_eq!(about(fd, SIOCGIFINDEX), Ok(1), "{family}");
        assert_eq!(about(fd, SIOCGIFMTU), Ok(65536));
        let mut conf = [0u64; 2];
        assert_eq!(sys!(SYS_ioctl, fd, SIOCGIFCONF, &mut conf), Ok(0));
        assert_ne!(conf[0], 0);
        let address = about(fd, SIOCGIFADDR).map(|_| ());
        assert_eq!(address, if family == AF_INET { Ok(()) } else { Err(ENOTTY) }, "{family}");
        assert_eq!(about(fd, 0x1234), Err(ENOTTY));
        close(fd);
    }
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
