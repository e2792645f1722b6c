//! What netlink tells of the network, and changes in it: interfaces, addresses, routes, services (rtnetlink(7)).

use nix::errno::Errno::{EADDRNOTAVAIL, ENETUNREACH};

use crate::inetkit::{bring_up, v4};
use crate::netlinkkit::{
    Message, ask, attribute, bind, dump, half, messages, own_net, recv, request, result_of, set, socket, try_dump,
    try_dump_by, word,
};
use crate::prelude::*;

tests!(
    "rtnetlink":
    links, link_errors, switching_lo, size_of_packets, addresses, new_addresses, secondary_addresses, address_errors,
    addresses_of_a_network_go, addresses_of_nobody,
    networks_of_lo_are_here, routes, rules, way_to_an_address, changes_are_announced, only_the_privileged_change,
    privileges_of_the_opener, strict_checks, one_dump_at_a_time, one_flag_asks_for_all, services_by_name,
);

const LINK: usize = 16;
const ADDRESS: usize = 8;
const ROUTE: usize = 12;

fn route() -> i32 {
    let fd = socket(SOCK_RAW, NETLINK_ROUTE).unwrap();
    bind(fd, 0, 0).unwrap();
    fd
}

/// A socket in a network of its own where `lo` is on.
fn own_route() -> i32 {
    own_net();
    let fd = route();
    assert_eq!(result_of(fd, RTM_NEWLINK, 0, &link(1, IFF_UP as u32, IFF_UP as u32, &[])), 0);
    fd
}

/// A request about an interface.
fn link(index: u32, flags: u32, change: u32, rest: &[u8]) -> Vec<u8> {
    let mut body = vec![AF_UNSPEC as u8, 0, 0, 0];
    for n in [index, flags, change] {
        body.extend(n.to_ne_bytes());
    }
    body.extend(rest);
    body
}

/// A request about an address of `lo`.
fn address(family: i32, ip: &[u8], prefix: u8) -> Vec<u8> {
    let mut body = vec![family as u8, prefix, 0, 0, 1, 0, 0, 0];
    body.extend(attribute(IFA_LOCAL, ip));
    body.extend(attribute(IFA_ADDRESS, ip));
    body
}

fn name(message: &Message) -> Option<Vec<u8>> {
    message.find(LINK, IFLA_IFNAME)
}

fn lo_of(all: &[Message]) -> &Message {
    all.iter().find(|message| name(message) == Some(b"lo\0".to_vec())).expect("lo")
}

/// The addresses of `lo`: family, bits of the network, and bytes.
fn all_addresses(fd: i32, family: i32) -> Vec<(i32, u8, Vec<u8>)> {
    let all = dump(fd, RTM_GETADDR, &[family as u8, 0, 0, 0, 0, 0, 0, 0]);
    all.iter()
        .filter(|message| word(&message.body, 4) == 1)
        .map(|message| (i32::from(message.body[0]), message.body[1], message.find(ADDRESS, IFA_ADDRESS).unwrap()))
        .collect()
}

fn links() {
    own_net();
    let fd = route();
    for body in [&link(0, 0, 0, &[])[..], &[0]] {
        let all = dump(fd, RTM_GETLINK, body);
        let lo = lo_of(&all);
        assert_eq!((lo.kind, half(&lo.body, 2), word(&lo.body, 4)), (RTM_NEWLINK, ARPHRD_LOOPBACK, 1));
        assert_eq!(word(&lo.body, 8), IFF_LOOPBACK as u32);
        assert_eq!(word(&lo.find(LINK, IFLA_MTU).unwrap(), 0), 65536);
        assert_eq!(lo.find(LINK, IFLA_ADDRESS), Some(vec![0; 6]));
        assert_eq!((lo.find(LINK, IFLA_OPERSTATE), lo.find(LINK, IFLA_QDISC)), (Some(vec![2]), Some(b"noop\0".to_vec())));
        assert!(lo.find(LINK, IFLA_STATS64).unwrap().len() >= 24 * 8);
    }
    let by_name = attribute(IFLA_IFNAME, b"lo\0");
    for body in [link(1, 0, 0, &[]), link(0, 0, 0, &by_name)] {
        ask(fd, RTM_GETLINK, 0, &body);
        let reply = messages(&recv(fd, 8192, 0).unwrap());
        assert_eq!((reply.len(), reply[0].kind, reply[0].flags), (1, RTM_NEWLINK, 0));
        assert_eq!(name(&reply[0]), Some(b"lo\0".to_vec()));
    }
}

fn link_errors() {
    own_net();
    let fd = route();
    let none = attribute(IFLA_IFNAME, b"keel77\0");
    for (kind, body, error) in [
        (RTM_GETLINK, link(0, 0, 0, &[]), EINVAL),
        (RTM_GETLINK, link(7777, 0, 0, &[]), ENODEV),
        (RTM_GETLINK, link(0, 0, 0, &none), ENODEV),
        (RTM_SETLINK, link(0, 0, 0, &[]), EINVAL),
        (RTM_SETLINK, link(7777, 1, 1, &[]), ENODEV),
        (RTM_NEWLINK, link(0, 0, 0, &none), ENODEV),
        (RTM_DELLINK, link(0, 0, 0, &none), ENODEV),
        (RTM_DELLINK, link(1, 0, 0, &[]), EOPNOTSUPP),
        (RTM_GETLINK, vec![0; 8], EINVAL),
    ] {
        assert_eq!(result_of(fd, kind, 0, &body), error as i32, "{kind} {body:?}");
    }
    assert_eq!(result_of(fd, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link(1, 0, 0, &[])), EEXIST as i32);
    assert_eq!(result_of(fd, RTM_NEWLINK, 0, &link(0, 0, 0, &[])), ENODEV as i32, "so ip(8) asks what there is");
    assert_eq!(dump(fd, RTM_GETLINK, &[7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).len(), 0, "ports of bridges");
    assert_eq!(result_of(fd, 124, 0, &[0]), EOPNOTSUPP as i32);
}

fn switching_lo() {
    own_net();
    let fd = route();
    let flags = || word(&lo_of(&dump(fd, RTM_GETLINK, &link(0, 0, 0, &[]))).body, 8);
    let state = || {
        let all = dump(fd, RTM_GETLINK, &link(0, 0, 0, &[]));
        (lo_of(&all).find(LINK, IFLA_OPERSTATE).unwrap(), lo_of(&all).find(LINK, IFLA_QDISC).unwrap())
    };
    let up = (IFF_UP | IFF_LOOPBACK | IFF_RUNNING) as u32 | 0x1_0000;
    assert_eq!(all_addresses(fd, AF_UNSPEC), []);
    assert_eq!(result_of(fd, RTM_SETLINK, 0, &link(1, IFF_UP as u32, IFF_UP as u32, &[])), 0);
    assert_eq!(flags(), up);
    assert_eq!(state(), (vec![0], b"noqueue\0".to_vec()));
    let here = (AF_INET, 8, vec![127, 0, 0, 1]);
    let mut one = vec![0; 15];
    one.push(1);
    assert_eq!(all_addresses(fd, AF_UNSPEC), [here.clone(), (AF_INET6, 128, one)]);
    assert_eq!(result_of(fd, RTM_NEWLINK, 0, &link(1, 0, 0, &[])), 0, "nothing is changed");
    assert_eq!(flags(), up);
    assert_eq!(result_of(fd, RTM_NEWLINK, 0, &link(1, 0, IFF_UP as u32, &[])), 0);
    assert_eq!(flags(), IFF_LOOPBACK as u32);
    assert_eq!(state(), (vec![2], b"noqueue\0".to_vec()));
    assert_eq!(all_addresses(fd, AF_UNSPEC), [here], "that of version 6 goes");
}

fn size_of_packets() {
    let fd = own_route();
    let mtu = |n: u32| link(1, 0, 0, &attribute(IFLA_MTU, &n.to_ne_bytes()));
    assert_eq!(result_of(fd, RTM_SETLINK, 0, &mtu(9000)), 0);
    let all = dump(fd, RTM_GETLINK, &[0]);
    assert_eq!(word(&lo_of(&all).find(LINK, IFLA_MTU).unwrap(), 0), 9000);
}

fn addresses() {
    let fd = own_route();
    let all = dump(fd, RTM_GETADDR, &[AF_INET as u8, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(all.len(), 1);
    let (one, local) = (&all[0], vec![127, 0, 0, 1]);
    assert_eq!((one.kind, &one.body[..4]), (RTM_NEWADDR, &[AF_INET as u8, 8, 0x80, 254][..]));
    assert_eq!(one.find(ADDRESS, IFA_ADDRESS), Some(local.clone()));
    assert_eq!(one.find(ADDRESS, IFA_LOCAL), Some(local));
    assert_eq!(one.find(ADDRESS, IFA_LABEL), Some(b"lo\0".to_vec()));
    assert_eq!(one.find(ADDRESS, IFA_CACHEINFO).map(|info| info[..8].to_vec()), Some(vec![0xff; 8]));
    assert_eq!(all_addresses(fd, AF_INET6).len(), 1);
    // A request without more than the family will do.
    assert_eq!(dump(fd, RTM_GETADDR, &[AF_INET6 as u8]).len(), 1);
}

fn new_addresses() {
    let fd = own_route();
    let make = NLM_F_CREATE | NLM_F_EXCL;
    let new = address(AF_INET, &[10, 7, 7, 1], 24);
    assert_eq!(result_of(fd, RTM_NEWADDR, make, &new), 0);
    assert_eq!(result_of(fd, RTM_NEWADDR, make, &new), EEXIST as i32);
    assert_eq!(result_of(fd, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &new), 0);
    let mut six = vec![0xfd];
    six.resize(16, 1);
    let wide = address(AF_INET6, &six, 64);
    assert_eq!(result_of(fd, RTM_NEWADDR, make, &wide), 0);
    assert_eq!(result_of(fd, RTM_NEWADDR, make, &wide), EEXIST as i32);
    assert!(all_addresses(fd, AF_INET).contains(&(AF_INET, 24, vec![10, 7, 7, 1])));
    assert!(all_addresses(fd, AF_INET6).contains(&(AF_INET6, 64, six.clone())));
    for body in [&new, &wide] {
        assert_eq!(result_of(fd, RTM_DELADDR, 0, body), 0);
        assert_eq!(result_of(fd, RTM_DELADDR, 0, body), EADDRNOTAVAIL as i32);
    }
    assert_eq!((all_addresses(fd, AF_INET).len(), all_addresses(fd, AF_INET6).len()), (1, 1));
}

fn secondary_addresses() {
    let fd = own_route();
    for last in [1, 2] {
        assert_eq!(result_of(fd, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &address(AF_INET, &[10, 8, 8, last], 24)), 0);
    }
    let all = dump(fd, RTM_GETADDR, &[AF_INET as u8, 0, 0, 0, 0, 0, 0, 0]);
    let flags: Vec<_> = all
        .iter()
        .filter(|one| one.body[1] == 24)
        .map(|one| (one.find(ADDRESS, IFA_LOCAL).unwrap()[3], one.body[2] & 1))
        .collect();
    assert_eq!(flags, [(1, 0), (2, 1)]);
    assert_eq!(result_of(fd, RTM_DELADDR, 0, &address(AF_INET, &[10, 8, 8, 1], 24)), 0);
    assert_eq!(all_addresses(fd, AF_INET).len(), 1, "both are gone");
}

fn address_errors() {
    let fd = own_route();
    let mut nowhere = address(AF_INET, &[10, 9, 9, 1], 24);
    nowhere[4..8].copy_from_slice(&7777u32.to_ne_bytes());
    assert_eq!(result_of(fd, RTM_NEWADDR, NLM_F_CREATE, &nowhere), ENODEV as i32);
    assert_eq!(result_of(fd, RTM_DELADDR, 0, &nowhere), ENODEV as i32);
    assert_eq!(result_of(fd, RTM_NEWADDR, NLM_F_CREATE, &address(AF_INET, &[10, 9, 9, 1], 33)), EINVAL as i32);
    assert_eq!(result_of(fd, RTM_NEWADDR, NLM_F_CREATE, &[AF_INET as u8, 24, 0, 0, 1, 0, 0, 0]), EINVAL as i32);
    assert_eq!(result_of(fd, RTM_NEWADDR, NLM_F_CREATE, &[AF_INET as u8, 24, 0, 0]), EINVAL as i32);
}

fn addresses_of_a_network_go() {
    let fd = own_route();
    assert_eq!(result_of(fd, RTM_NEWADDR, NLM_F_CREATE, &address(AF_INET, &[10, 6, 6, 1], 24)), 0);
    let of_network = |ip: [u8; 4], prefix: u8| {
        let mut body = vec![AF_INET as u8, prefix, 0, 0, 1, 0, 0, 0];
        body.extend(attribute(IFA_ADDRESS, &ip));
        body
    };
    for (ip, prefix) in [([10, 6, 7, 1], 24), ([10, 6, 6, 1], 25)] {
        assert_eq!(result_of(fd, RTM_DELADDR, 0, &of_network(ip, prefix)), EADDRNOTAVAIL as i32);
    }
    assert_eq!(result_of(fd, RTM_DELADDR, 0, &of_network([10, 6, 6, 77], 24)), 0, "another one of its network");
    assert_eq!(all_addresses(fd, AF_INET).len(), 1);
}

fn addresses_of_nobody() {
    let fd = own_route();
    let mut multicast = [0; 16];
    multicast[..2].copy_from_slice(&[0xff, 2]);
    for ip in [[0; 16], multicast] {
        let body = address(AF_INET6, &ip, 64);
        assert_eq!(result_of(fd, RTM_NEWADDR, NLM_F_CREATE, &body), EADDRNOTAVAIL as i32);
    }
    assert_eq!(result_of(fd, RTM_NEWADDR, NLM_F_CREATE, &address(AF_INET, &[0; 4], 8)), 0, "but nothing comes of it");
    assert_eq!(all_addresses(fd, AF_UNSPEC).len(), 2);
}

fn networks_of_lo_are_here() {
    let fd = own_route();
    let tcp = || sys!(SYS_socket, AF_INET, SOCK_STREAM, 0).unwrap() as i32;
    let to = v4(0x0a07_0705, 9);
    let connect = |fd: i32| sys!(SYS_connect, fd, &to[..], to.len());
    assert_eq!(connect(tcp()), Err(ENETUNREACH));
    assert_eq!(sys!(SYS_bind, tcp(), &to[..], to.len()), Err(EADDRNOTAVAIL));
    assert_eq!(result_of(fd, RTM_NEWADDR, NLM_F_CREATE, &address(AF_INET, &[10, 7, 7, 1], 24)), 0);
    assert_eq!(connect(tcp()), Err(ECONNREFUSED), "the whole network is here");
    let (l, c) = (tcp(), tcp());
    sys!(SYS_bind, l, &to[..], to.len()).unwrap();
    sys!(SYS_listen, l, 1).unwrap();
    connect(c).unwrap();
    let (mut from, mut len) = ([0u8; 16], 16u32);
    sys!(SYS_getsockname, c, &mut from, &mut len).unwrap();
    assert_eq!(from[4..8], [10, 7, 7, 1], "packets come from the address");
}

fn routes() {
    own_net();
    let fd = route();
    let shown = |family: i32| {
        let mut all: Vec<_> = dump(fd, RTM_GETROUTE, &[family as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .iter()
            .filter(|one| one.find(ROUTE, RTA_OIF).is_some_and(|index| word(&index, 0) == 1))
            .map(|one| (one.body[4], one.body[7], one.body[1], one.find(ROUTE, RTA_DST).unwrap()))
            .collect();
        all.sort();
        all
    };
    assert_eq!(shown(AF_INET), []);
    bring_up(sys!(SYS_socket, AF_INET, SOCK_DGRAM, 0).unwrap() as i32);
    let local = RT_TABLE_LOCAL;
    assert_eq!(
        shown(AF_INET),
        [
            (local, RTN_LOCAL, 8, vec![127, 0, 0, 0]),
            (local, RTN_LOCAL, 32, vec![127, 0, 0, 1]),
            (local, RTN_BROADCAST, 32, vec![127, 255, 255, 255]),
        ]
    );
    let mut one = vec![0; 15];
    one.push(1);
    assert!(shown(AF_INET6).contains(&(local, RTN_LOCAL, 128, one)));
    assert!(shown(AF_INET6).iter().all(|(table, ..)| *table == local), "{:?}", shown(AF_INET6));
}

fn rules() {
    own_net();
    let fd = route();
    let shown = |family: i32| -> Vec<(u8, u8, u32)> {
        let all = dump(fd, RTM_GETRULE, &[family as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let place = |one: &Message| one.find(ROUTE, 6).map_or(0, |place| word(&place, 0));
        all.iter().map(|one| (one.body[4], one.body[7], place(one))).collect()
    };
    let all = [(255, 1, 0), (254, 1, 32766), (253, 1, 32767)];
    assert_eq!(shown(AF_INET), all);
    assert_eq!(shown(AF_INET6), all[..2]);
}

fn way_to_an_address() {
    let fd = own_route();
    let body = |ip: &[u8]| {
        let mut body = vec![AF_INET as u8, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        body.extend(attribute(RTA_DST, ip));
        body
    };
    ask(fd, RTM_GETROUTE, 0, &body(&[127, 1, 2, 3]));
    let reply = messages(&recv(fd, 8192, 0).unwrap()).remove(0);
    assert_eq!((reply.kind, reply.body[7]), (RTM_NEWROUTE, RTN_LOCAL));
    assert_eq!(reply.find(ROUTE, RTA_DST), Some(vec![127, 1, 2, 3]));
    assert_eq!(reply.find(ROUTE, RTA_PREFSRC), Some(vec![127, 0, 0, 1]));
    assert_eq!(result_of(fd, RTM_GETROUTE, 0, &body(&[10, 1, 2, 3])), ENETUNREACH as i32);
}

fn changes_are_announced() {
    own_net();
    let (fd, ear) = (route(), socket(SOCK_RAW, NETLINK_ROUTE).unwrap());
    bind(ear, 0, (RTMGRP_LINK | RTMGRP_IPV4_IFADDR) as u32).unwrap();
    let heard = || {
        let mut all = Vec::new();
        while let Ok(datagram) = recv(ear, 8192, MSG_DONTWAIT) {
            all.extend(messages(&datagram));
        }
        all
    };
    let bring_up_lo = || bring_up(sys!(SYS_socket, AF_INET, SOCK_DGRAM, 0).unwrap() as i32);
    assert!(heard().is_empty());
    bring_up_lo();
    let all = heard();
    let find = |kind: u16| all.iter().find(|message| message.kind == kind).unwrap_or_else(|| panic!("{kind}"));
    assert_eq!(find(RTM_NEWADDR).find(ADDRESS, IFA_LOCAL), Some(vec![127, 0, 0, 1]));
    assert!(word(&find(RTM_NEWLINK).body, 8) & IFF_UP as u32 != 0);
    let kinds = || heard().iter().map(|message| message.kind).collect::<Vec<_>>();
    let one = address(AF_INET, &[10, 1, 1, 1], 32);
    assert_eq!(result_of(fd, RTM_NEWADDR, NLM_F_CREATE, &one), 0);
    assert_eq!(kinds(), [RTM_NEWADDR]);
    assert_eq!(result_of(fd, RTM_DELADDR, 0, &one), 0);
    assert_eq!(kinds(), [RTM_DELADDR]);
    // Other namespaces hear nothing of it.
    aside(|| {
        own_net();
        bring_up(sys!(SYS_socket, AF_INET, SOCK_DGRAM, 0).unwrap() as i32);
    });
    assert_eq!(kinds(), []);
}

fn only_the_privileged_change() {
    own_net();
    aside(|| {
        drop_root();
        let fd = route();
        assert_eq!(result_of(fd, RTM_NEWLINK, 0, &link(1, 1, 1, &[])), EPERM as i32);
        assert_eq!(result_of(fd, RTM_NEWADDR, NLM_F_CREATE, &address(AF_INET, &[10, 1, 1, 1], 32)), EPERM as i32);
        assert_eq!(result_of(fd, RTM_NEWROUTE, NLM_F_CREATE, &[AF_INET as u8; 12]), EPERM as i32);
        assert!(!dump(fd, RTM_GETLINK, &[0]).is_empty(), "to ask is for all");
    });
}

fn privileges_of_the_opener() {
    own_net();
    // Made by root, used by another: only who says where the message goes uses its own rights.
    let fd = route();
    aside(|| {
        drop_root();
        assert_eq!(result_of(fd, RTM_NEWLINK, 0, &link(1, 1, 1, &[])), EPERM as i32);
    });
    aside(|| {
        let child_fd = {
            drop_root();
            route()
        };
        assert_eq!(result_of(child_fd, RTM_NEWLINK, 0, &link(1, 1, 1, &[])), EPERM as i32);
    });
    let bytes = request(RTM_NEWLINK, NLM_F_ACK, 3, &link(1, 1, 1, &[]));
    write(fd, &bytes).unwrap();
    assert_eq!(messages(&recv(fd, 8192, 0).unwrap())[0].error(), 0);
}

fn strict_checks() {
    let fd = own_route();
    const STRICT: i32 = 12;
    let odd = link(1, 0, 0, &[]);
    assert!(!dump(fd, RTM_GETLINK, &odd).is_empty(), "an index does not matter");
    set(fd, STRICT, 1).unwrap();
    let refused = |kind: u16, body: &[u8]| try_dump(fd, kind, body).err();
    assert_eq!(refused(RTM_GETLINK, &odd), Some(EINVAL as i32));
    assert_eq!(refused(RTM_GETLINK, &[0]), Some(EINVAL as i32));
    assert_eq!(refused(RTM_GETADDR, &[AF_INET as u8, 9, 0, 0, 0, 0, 0, 0]), Some(EINVAL as i32));
    assert_eq!(dump(fd, RTM_GETADDR, &[AF_INET as u8, 0, 0, 0, 1, 0, 0, 0]).len(), 1);
    let mut of_table = vec![AF_INET as u8, 0, 0, 0, RT_TABLE_LOCAL, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(dump(fd, RTM_GETROUTE, &of_table).len(), 3);
    of_table[7] = RTN_BROADCAST;
    assert_eq!(dump(fd, RTM_GETROUTE, &of_table).len(), 1);
}

fn one_dump_at_a_time() {
    let fd = own_route();
    // Many addresses do not fit into one datagram.
    for n in 0..200 {
        assert_eq!(result_of(fd, RTM_NEWADDR, NLM_F_CREATE, &address(AF_INET, &[10, 3, n, 1], 32)), 0);
    }
    // A socket that has received nothing yet gets as much as fits into a page.
    let fd = route();
    ask(fd, RTM_GETADDR, NLM_F_DUMP, &[AF_INET as u8, 0, 0, 0, 0, 0, 0, 0]);
    ask(fd, RTM_GETADDR, NLM_F_DUMP, &[AF_INET as u8, 0, 0, 0, 0, 0, 0, 0]);
    let (mut count, mut datagrams, mut busy) = (0, 0, false);
    'all: loop {
        datagrams += 1;
        for message in messages(&recv(fd, 4096, 0).unwrap()) {
            match i32::from(message.kind) {
                NLMSG_DONE => break 'all,
                NLMSG_ERROR => busy = message.error() == EBUSY as i32,
                _ => count += 1,
            }
        }
    }
    assert_eq!((count, busy), (201, true));
    assert!(datagrams > 3, "{datagrams}");
    assert_eq!(all_addresses(fd, AF_INET).len(), 201, "and another one after it");
}

fn one_flag_asks_for_all() {
    let fd = own_route();
    for flag in [NLM_F_ROOT, NLM_F_MATCH] {
        let all = try_dump_by(fd, RTM_GETLINK, flag, &link(0, 0, 0, &[])).unwrap();
        assert!(name(lo_of(&all)).is_some());
        assert!(!try_dump_by(fd, RTM_GETADDR, flag, &[0; 8]).unwrap().is_empty());
    }
    let generic = socket(SOCK_RAW, NETLINK_GENERIC).unwrap();
    bind(generic, 0, 0).unwrap();
    assert_eq!(try_dump_by(generic, 16, NLM_F_ROOT, &[3, 1, 0, 0]).err(), Some(EINVAL as i32), "here both are needed");
}

fn services_by_name() {
    const CONTROLLER: u16 = 16;
    let fd = socket(SOCK_RAW, NETLINK_GENERIC).unwrap();
    bind(fd, 0, 0).unwrap();
    let mut body = vec![3, 1, 0, 0];
    let all = dump(fd, CONTROLLER, &body);
    assert!(all.iter().any(|one| one.find(4, 2) == Some(b"nlctrl\0".to_vec())));
    body.extend(attribute(2, b"nlctrl\0"));
    ask(fd, CONTROLLER, 0, &body);
    let reply = messages(&recv(fd, 8192, 0).unwrap()).remove(0);
    assert_eq!((reply.kind, reply.body[0], half(&reply.find(4, 1).unwrap(), 0)), (CONTROLLER, 1, CONTROLLER));
    let mut none = vec![3, 1, 0, 0];
    none.extend(attribute(2, b"keel-none\0"));
    assert_eq!(result_of(fd, CONTROLLER, 0, &none), ENOENT as i32);
    assert_eq!(result_of(fd, CONTROLLER, 0, &[3, 1, 0, 0]), EINVAL as i32);
    assert_eq!(result_of(fd, 0x7f0, 0, &[3, 1, 0, 0]), ENOENT as i32);
}
