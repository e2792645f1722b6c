//! Lists of sockets by netlink (sock_diag(7)), /proc/net/unix, and events of devices.

use crate::inetkit::{LO, listener, name as name_of, port, tcp, udp_bound};
use crate::netlinkkit::{
    Message, ask, attribute, bind, messages, own_net, recv, recv_control, request, result_of, send_to, socket, try_dump, try_dump_by,
    word,
};
use crate::prelude::*;

tests!(
    "sockdiag":
    unix_sockets, one_unix_socket, proc_net_unix, tcp_sockets, udp_sockets, one_tcp_socket, filters_as_programs, wrong_requests,
    namespaces_are_apart, event_by_file, event_wishes, event_by_message,
    senders_of_events, long_events, events_of_namespaces, one_flag_asks_for_all,
);

const BY_FAMILY: u16 = 20;
const DIAG: i32 = 4;
const UEVENT: i32 = 15;
const ALL_STATES: u32 = u32::MAX;
const ESTABLISHED: u8 = 1;
const CLOSED: u8 = 7;
const LISTENS: u8 = 10;

fn diag() -> i32 {
    socket(SOCK_RAW, DIAG).unwrap()
}

/// Asks for a list. Linux has a module for each kind of socket.
fn list(fd: i32, body: &[u8]) -> Vec<Message> {
    match try_dump(fd, BY_FAMILY, body) {
        Err(error) if error == Errno::ENOENT as i32 => skip("this kernel does not list such sockets"),
        all => all.unwrap(),
    }
}

fn ino(fd: i32) -> u32 {
    fstat(fd).st_ino as u32
}

/// A `unix_diag_req` that wants name, peer, waiting connections and queues.
fn unix_request(states: u32, ino: u32, cookie: u64) -> Vec<u8> {
    let mut body = vec![AF_UNIX as u8, 0, 0, 0];
    for n in [states, ino, 1 | 4 | 8 | 16] {
        body.extend(n.to_ne_bytes());
    }
    body.extend(cookie.to_ne_bytes());
    body
}

/// An `inet_diag_req_v2` between two ports of an address.
fn inet_request(family: i32, protocol: i32, states: u32, ports: [u16; 2], ip: u32) -> Vec<u8> {
    let mut body = vec![family as u8, protocol as u8, 0, 0];
    body.extend(states.to_ne_bytes());
    ports.iter().for_each(|port| body.extend(port.to_be_bytes()));
    for _ in 0..2 {
        body.extend(ip.to_be_bytes());
        body.extend([0; 12]);
    }
    body.extend([0; 4]);
    body.extend([0xff; 8]);
    assert_eq!(body.len(), 56);
    body
}

fn unix_by(all: &[Message], wanted: u32) -> Option<&Message> {
    all.iter().find(|one| word(&one.body, 4) == wanted)
}

fn unix_listener(name: &[u8]) -> i32 {
    let fd = sys!(SYS_socket, AF_UNIX, SOCK_STREAM, 0).unwrap() as i32;
    let mut a = vec![AF_UNIX as u8, 0];
    a.extend(name);
    sys!(SYS_bind, fd, &a[..], a.len()).unwrap();
    sys!(SYS_listen, fd, 9).unwrap();
    fd
}

fn unix_sockets() {
    own_net();
    let (fd, l) = (diag(), unix_listener(b"\0keel-diag"));
    let (a, b) = socketpair(SOCK_STREAM);
    let alone = sys!(SYS_socket, AF_UNIX, SOCK_DGRAM, 0).unwrap() as i32;
    write(a, b"12345").unwrap();
    let all = list(fd, &unix_request(ALL_STATES, 0, 0));
    let state = |fd: i32| unix_by(&all, ino(fd)).map(|one| (one.body[1], one.body[2]));
    assert_eq!(state(l), Some((SOCK_STREAM as u8, LISTENS)));
    assert_eq!(state(a), Some((SOCK_STREAM as u8, ESTABLISHED)));
    assert_eq!(state(alone), Some((SOCK_DGRAM as u8, CLOSED)));
    let of = |fd: i32, kind: u16| unix_by(&all, ino(fd)).unwrap().find(16, kind);
    assert_eq!(of(l, 0), Some(b"\0keel-diag".to_vec()));
    assert_eq!(of(a, 0), None);
    assert_eq!(of(a, 2), Some(ino(b).to_ne_bytes().to_vec()));
    assert_eq!(word(&of(b, 4).unwrap(), 0), 5, "bytes that can be received");
    assert_eq!(word(&of(l, 4).unwrap(), 4), 9, "the backlog");
    let listening = list(fd, &unix_request(1 << LISTENS, 0, 0));
    assert!(unix_by(&listening, ino(l)).is_some() && unix_by(&listening, ino(a)).is_none());
    let (gone_a, gone_b) = (ino(a), ino(b));
    close(a);
    close(b);
    let all = list(fd, &unix_request(ALL_STATES, 0, 0));
    assert!(unix_by(&all, gone_a).is_none() && unix_by(&all, gone_b).is_none());
}

fn one_unix_socket() {
    own_net();
    let (fd, l) = (diag(), unix_listener(b"\0keel-diag"));
    assert!(!list(fd, &unix_request(ALL_STATES, 0, 0)).is_empty());
    ask(fd, BY_FAMILY, 0, &unix_request(ALL_STATES, ino(l), u64::MAX));
    let reply = messages(&recv(fd, 8192, 0).unwrap()).remove(0);
    assert_eq!((reply.kind, reply.body[2], word(&reply.body, 4)), (BY_FAMILY, LISTENS, ino(l)));
    let cookie = u64::from(word(&reply.body, 12)) << 32 | u64::from(word(&reply.body, 8));
    let mut own = 0u64;
    sys!(SYS_getsockopt, l, SOL_SOCKET, 57, &mut own, &mut 8u32).unwrap();
    assert_eq!(cookie, own, "that of SO_COOKIE");
    assert_eq!(result_of(fd, BY_FAMILY, 0, &unix_request(ALL_STATES, ino(l), cookie + 1)), ESTALE);
    assert_eq!(result_of(fd, BY_FAMILY, 0, &unix_request(ALL_STATES, u32::MAX, u64::MAX)), Errno::ENOENT as i32);
    assert_eq!(result_of(fd, BY_FAMILY, 0, &unix_request(ALL_STATES, 0, u64::MAX)), EINVAL as i32);
}

fn proc_net_unix() {
    own_net();
    let l = unix_listener(b"\0keel-proc");
    let (a, _b) = socketpair(SOCK_SEQPACKET);
    let text = slurp("/proc/self/net/unix");
    assert!(text.starts_with("Num       RefCount Protocol Flags    Type St Inode Path\n"));
    let row = |fd: i32| {
        let wanted = ino(fd).to_string();
        let rows = text.lines().map(|line| line.split_whitespace().map(str::to_string).collect::<Vec<_>>());
        rows.into_iter().find(|row| row.get(6) == Some(&wanted)).expect("a row")
    };
    assert_eq!(row(l)[3..6], ["00010000", "0001", "01"]);
    assert_eq!(row(l)[7], "@keel-proc");
    assert_eq!(row(a)[3..6], ["00000000", "0005", "03"]);
}

/// An operation of a filter (`struct inet_diag_bc_op`).
fn operation(code: u8, yes: u8, no: u16) -> Vec<u8> {
    let mut op = vec![code, yes];
    op.extend(no.to_ne_bytes());
    op
}

fn filters_as_programs() {
    const LOCAL_AT_LEAST: u8 = 2;
    const LOCAL_AT_MOST: u8 = 3;
    own_net();
    let fd = diag();
    let (a, b) = (udp_bound(), udp_bound());
    let plain = inet_request(AF_INET, IPPROTO_UDP, ALL_STATES, [0; 2], 0);
    assert_eq!(list(fd, &plain).len(), 2);
    let filtered = |program: &[u8]| {
        let body = [plain.clone(), attribute(1, program)].concat();
        try_dump(fd, BY_FAMILY, &body).map(|all| all.iter().map(|one| one.body[4..6].to_vec()).collect::<Vec<_>>())
    };
    let only = |port: u16| {
        let compare = |code: u8, no: u16| [operation(code, 8, no), operation(0, 0, port)].concat();
        [compare(LOCAL_AT_LEAST, 20), compare(LOCAL_AT_MOST, 12)].concat()
    };
    for one in [a, b] {
        assert_eq!(filtered(&only(port(one))), Ok(vec![port(one).to_be_bytes().to_vec()]));
    }
    assert_eq!(filtered(&[]).map(|all| all.len()), Ok(2));
    for wrong in [operation(77, 4, 8), operation(1, 4, 0), operation(1, 4, 16), vec![0; 3]] {
        assert_eq!(filtered(&wrong), Err(EINVAL as i32), "{wrong:?}");
    }
}

fn by_port(all: &[Message], local: u16, remote: u16) -> Option<&Message> {
    all.iter().find(|one| one.body[4..6] == local.to_be_bytes() && one.body[6..8] == remote.to_be_bytes())
}

fn tcp_sockets() {
    own_net();
    let (fd, l, c) = (diag(), listener(), tcp());
    let to = name_of(l);
    sys!(SYS_connect, c, &to[..], to.len()).unwrap();
    let all = list(fd, &inet_request(AF_INET, IPPROTO_TCP, ALL_STATES, [0, 0], 0));
    let listening = by_port(&all, port(l), 0).unwrap();
    assert_eq!((listening.body[0], listening.body[1]), (AF_INET as u8, LISTENS));
    assert_eq!(word(&listening.body, 56), 1, "connections that wait");
    assert_eq!(word(&listening.body, 68), ino(l));
    let connected = by_port(&all, port(c), port(l)).unwrap();
    assert_eq!((connected.body[1], &connected.body[8..12]), (ESTABLISHED, &LO.to_be_bytes()[..]));
    assert_eq!(word(&connected.body, 68), ino(c));
    let some = list(fd, &inet_request(AF_INET, IPPROTO_TCP, 1 << LISTENS, [0, 0], 0));
    assert!(by_port(&some, port(l), 0).is_some() && by_port(&some, port(c), port(l)).is_none());
    let six = list(fd, &inet_request(AF_INET6, IPPROTO_TCP, ALL_STATES, [0, 0], 0));
    assert!(by_port(&six, port(l), 0).is_none());
    // With tcp_info.
    let mut body = inet_request(AF_INET, IPPROTO_TCP, ALL_STATES, [0, 0], 0);
    body[2] = 1 << 1;
    let all = list(fd, &body);
    assert_eq!(by_port(&all, port(c), port(l)).unwrap().find(72, 2).unwrap()[0], ESTABLISHED);
}

fn udp_sockets() {
    own_net();
    let (fd, a) = (diag(), udp_bound());
    let all = list(fd, &inet_request(AF_INET, IPPROTO_UDP, ALL_STATES, [0, 0], 0));
    let one = by_port(&all, port(a), 0).unwrap();
    assert_eq!((one.body[1], word(&one.body, 68)), (CLOSED, ino(a)));
}

fn one_tcp_socket() {
    own_net();
    let (fd, l, c) = (diag(), listener(), tcp());
    let to = name_of(l);
    sys!(SYS_connect, c, &to[..], to.len()).unwrap();
    assert!(!list(fd, &inet_request(AF_INET, IPPROTO_TCP, ALL_STATES, [0, 0], 0)).is_empty());
    ask(fd, BY_FAMILY, 0, &inet_request(AF_INET, IPPROTO_TCP, ALL_STATES, [port(c), port(l)], LO));
    let reply = messages(&recv(fd, 8192, 0).unwrap()).remove(0);
    assert_eq!((reply.kind, reply.body[1], word(&reply.body, 68)), (BY_FAMILY, ESTABLISHED, ino(c)));
    let none = inet_request(AF_INET, IPPROTO_TCP, ALL_STATES, [port(c), 1], LO);
    assert_eq!(result_of(fd, BY_FAMILY, 0, &none), Errno::ENOENT as i32);
}

fn wrong_requests() {
    let fd = diag();
    assert_eq!(result_of(fd, BY_FAMILY, 0, &[]), EINVAL as i32);
    assert_eq!(result_of(fd, BY_FAMILY, 0, &[200, 0]), EINVAL as i32);
    ignore(list(fd, &unix_request(ALL_STATES, 0, 0)));
    assert_eq!(result_of(fd, BY_FAMILY, 0, &[AF_UNIX as u8, 0]), EINVAL as i32);
    assert_eq!(result_of(fd, 0x50, 0, &[AF_UNIX as u8, 0]), EINVAL as i32);
    let odd = inet_request(AF_INET, 250, ALL_STATES, [0, 0], 0);
    assert_eq!(result_of(fd, BY_FAMILY, 0, &odd), Errno::ENOENT as i32);
}

fn namespaces_are_apart() {
    own_net();
    let l = unix_listener(b"\0keel-apart");
    let wanted = ino(l);
    assert!(unix_by(&list(diag(), &unix_request(ALL_STATES, 0, 0)), wanted).is_some());
    aside(|| {
        own_net();
        let all = list(diag(), &unix_request(ALL_STATES, 0, 0));
        assert!(unix_by(&all, wanted).is_none());
    });
}

fn ear() -> i32 {
    let fd = socket(SOCK_RAW, UEVENT).unwrap();
    bind(fd, 0, 1).unwrap();
    fd
}

const FULL: &str = "/sys/devices/virtual/mem/full/uevent";

/// The next event that has `mark` in it, if it is there by now.
fn heard(fd: i32, mark: &str) -> Option<Vec<String>> {
    while let Ok(bytes) = recv(fd, 8192, MSG_DONTWAIT) {
        let lines: Vec<_> =
            bytes.split(|byte| *byte == 0).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        if lines.iter().any(|line| line.contains(mark)) {
            return Some(lines);
        }
    }
    None
}

fn event_by_file() {
    let (fd, id) = (ear(), "11111111-2222-3333-4444-555555555555");
    let before: u64 = slurp("/sys/kernel/uevent_seqnum").trim().parse().unwrap();
    write_file(FULL, &format!("change {id} A=b\n")).unwrap();
    let lines = heard(fd, id).expect("an event");
    assert_eq!(
        lines[..6],
        [
            "change@/devices/virtual/mem/full",
            "ACTION=change",
            "DEVPATH=/devices/virtual/mem/full",
            "SUBSYSTEM=mem",
            &format!("SYNTH_UUID={id}"),
            "SYNTH_ARG_A=b",
        ]
    );
    for line in ["MAJOR=1", "MINOR=7", "DEVNAME=full"] {
        assert!(lines.iter().any(|found| found == line), "{lines:?}");
    }
    let number = lines.iter().find_map(|line| line.strip_prefix("SEQNUM=")).unwrap();
    assert!(number.parse::<u64>().unwrap() > before);
    assert!(slurp("/sys/kernel/uevent_seqnum").trim().parse::<u64>().unwrap() > before);
}

fn event_wishes() {
    for wrong in ["jump", "add x", "add 11111111-2222-3333-4444-55555555555", "addx"] {
        assert_eq!(write_file(FULL, wrong), Err(EINVAL), "{wrong}");
    }
    let fd = ear();
    write_file(FULL, "remove").unwrap();
    assert!(heard(fd, "remove@/devices/virtual/mem/full").is_some());
}

fn event_by_message() {
    own_net();
    let (fd, sender) = (ear(), socket(SOCK_RAW, UEVENT).unwrap());
    send_to(sender, &request(0x10, 0, 1, b"add@/keel\0X=1\0"), 0, 0, 0).unwrap();
    let lines = heard(fd, "add@/keel").expect("an event");
    assert_eq!(lines[..2], ["add@/keel", "X=1"]);
    assert!(lines.iter().any(|line| line.starts_with("SEQNUM=")));
    aside(|| {
        drop_root();
        let sender = socket(SOCK_RAW, UEVENT).unwrap();
        let bytes = request(0x10, 0, 1, b"add@/keel\0");
        send_to(sender, &bytes, 0, 0, 0).unwrap();
        assert_eq!(messages(&recv(sender, 1000, 0).unwrap())[0].error(), EPERM as i32);
    });
    assert!(heard(fd, "add@/keel").is_none());
}

fn senders_of_events() {
    own_net();
    let (fd, sender) = (ear(), socket(SOCK_RAW, UEVENT).unwrap());
    sys!(SYS_setsockopt, fd, SOL_SOCKET, SO_PASSCRED, &1i32, 4).unwrap();
    send_to(sender, &request(0x10, 0, 1, b"add@/keel\0"), 0, 0, 0).unwrap();
    let (_, control) = recv_control(fd).unwrap();
    assert_eq!(control, [(SOL_SOCKET, SCM_CREDENTIALS, getpid())], "not the kernel");
}

fn long_events() {
    own_net();
    let (fd, sender) = (ear(), socket(SOCK_RAW, UEVENT).unwrap());
    let event = |len: usize| [&b"add@/keel\0X="[..], &vec![b'x'; len]].concat();
    assert_eq!(result_of(sender, 0x10, 0, &event(2048 - 16 - 8 - 12)), EINVAL as i32);
    assert!(heard(fd, "add@/keel").is_none());
    assert_eq!(result_of(sender, 0x10, 0, &event(1900)), 0);
    assert!(heard(fd, "add@/keel").is_some());
}

fn one_flag_asks_for_all() {
    own_net();
    let (fd, l) = (diag(), unix_listener(b"\0keel-flag"));
    ignore(list(fd, &unix_request(ALL_STATES, 0, 0)));
    let all = try_dump_by(fd, BY_FAMILY, NLM_F_ROOT, &unix_request(ALL_STATES, 0, 0)).unwrap();
    assert!(unix_by(&all, ino(l)).is_some());
}

fn events_of_namespaces() {
    let mark = "22222222-2222-3333-4444-555555555555";
    aside(|| {
        own_net();
        let fd = ear();
        write_file(FULL, &format!("add {mark}")).unwrap();
        assert!(heard(fd, mark).is_some(), "all networks of the first user namespace hear it");
    });
    let (ready, told) = pipe();
    let (done, tell) = pipe();
    let other = child(|| {
        sys!(SYS_unshare, CLONE_NEWUSER | CLONE_NEWNET).unwrap();
        let fd = ear();
        write(told, b"r").unwrap();
        read_vec(done, 1).unwrap();
        assert!(heard(fd, mark).is_none(), "those of others do not");
    });
    read_vec(ready, 1).unwrap();
    write_file(FULL, &format!("add {mark}")).unwrap();
    write(tell, b"d").unwrap();
    other.ok();
}
