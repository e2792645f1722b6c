//! Options of unix sockets: where a look begins, what is left, who sent it. And what all sockets tell of their network.

use crate::prelude::*;

tests!(
    "unixopt":
    looks_move_on_in_streams, looks_move_on_in_messages, a_look_waits_for_what_comes_behind,
    receives_move_the_look_back, empty_messages_are_looked_at_once, bytes_left, bytes_left_are_told_of_streams,
    pidfd_of_the_sender, pidfd_of_one_that_has_ended, pidfds_need_room, streams_stop_at_another_sender,
    accepted_sockets_pass_pidfds, options_of_other_families, network_of_a_socket, network_needs_a_privilege,
);

const SO_PEEK_OFF: i32 = 42;
const SO_PASSPIDFD: i32 = 76;
const SO_INQ: i32 = 84;
const SCM_PIDFD: i32 = 4;
const SIOCGSKNS: u32 = 0x894c;

fn set(fd: i32, name: i32, value: i32) -> Result<usize, Errno> {
    sys!(SYS_setsockopt, fd, SOL_SOCKET, name, &value, 4)
}

fn get(fd: i32, name: i32) -> Result<i32, Errno> {
    let (mut value, mut len) = (-77i32, 4u32);
    sys!(SYS_getsockopt, fd, SOL_SOCKET, name, &mut value, &mut len).map(|_| value)
}

fn recv(fd: i32, len: usize, flags: i32) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0u8; len];
    let got = sys!(SYS_recvfrom, fd, buf.as_mut_ptr() as usize, len, flags, 0, 0)?;
    buf.truncate(got);
    Ok(buf)
}

#[track_caller]
fn look(fd: i32, len: usize, expected: &[u8], then: i32) {
    assert_eq!(recv(fd, len, MSG_PEEK | MSG_DONTWAIT), Ok(expected.to_vec()));
    assert_eq!(get(fd, SO_PEEK_OFF), Ok(then));
}

/// A pair whose second one looks from the first byte on.
fn pair(kind: i32) -> (i32, i32) {
    let (a, b) = socketpair(kind);
    assert_eq!(get(b, SO_PEEK_OFF), Ok(-1));
    set(b, SO_PEEK_OFF, 0).unwrap();
    (a, b)
}

fn looks_move_on_in_streams() {
    let (a, b) = pair(SOCK_STREAM);
    write(a, b"aaaa").unwrap();
    look(b, 2, b"aa", 2);
    write(a, b"bbbb").unwrap();
    look(b, 4, b"aabb", 6);
    look(b, 100, b"bb", 8);
    assert_eq!(recv(b, 10, MSG_PEEK | MSG_DONTWAIT), Err(EAGAIN));
    set(b, SO_PEEK_OFF, 3).unwrap();
    look(b, 2, b"ab", 5);
    set(b, SO_PEEK_OFF, -1).unwrap();
    look(b, 5, b"aaaab", -1);
    look(b, 5, b"aaaab", -1);
    assert_eq!(recv(b, 100, 0).unwrap(), b"aaaabbbb");
    close(a);
    set(b, SO_PEEK_OFF, 0).unwrap();
    assert_eq!(recv(b, 10, MSG_PEEK).unwrap(), b"");
}

fn looks_move_on_in_messages() {
    for kind in [SOCK_DGRAM, SOCK_SEQPACKET] {
        let (a, b) = pair(kind);
        write(a, b"aaaa").unwrap();
        look(b, 2, b"aa", 2);
        write(a, b"bbbb").unwrap();
        look(b, 100, b"aa", 4);
        assert_eq!(recv(b, 1, MSG_PEEK | MSG_TRUNC).unwrap().len(), 1);
        assert_eq!(get(b, SO_PEEK_OFF), Ok(5));
        look(b, 100, b"bbb", 8);
        assert_eq!(recv(b, 10, MSG_PEEK | MSG_DONTWAIT), Err(EAGAIN));
        set(b, SO_PEEK_OFF, 1).unwrap();
        let mut buf = [0u8; 2];
        assert_eq!(sys!(SYS_recvfrom, b, &mut buf, 2, MSG_PEEK | MSG_TRUNC, 0, 0), Ok(3), "all behind the offset");
        assert_eq!(get(b, SO_PEEK_OFF), Ok(3));
    }
}

fn a_look_waits_for_what_comes_behind() {
    for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] {
        let (a, b) = pair(kind);
        write(a, b"old").unwrap();
        look(b, 10, b"old", 3);
        let kid = child(|| {
            settle();
            write(a, b"new").unwrap();
        });
        assert_eq!(recv(b, 10, MSG_PEEK).unwrap(), b"new");
        kid.ok();
        look_again(b);
    }
}

fn look_again(fd: i32) {
    assert_eq!(get(fd, SO_PEEK_OFF), Ok(6));
    assert_eq!(recv(fd, 10, MSG_PEEK | MSG_DONTWAIT), Err(EAGAIN));
}

fn receives_move_the_look_back() {
    let (a, b) = pair(SOCK_STREAM);
    write(a, b"abcdef").unwrap();
    look(b, 4, b"abcd", 4);
    assert_eq!(recv(b, 3, 0).unwrap(), b"abc");
    assert_eq!(get(b, SO_PEEK_OFF), Ok(1));
    look(b, 9, b"ef", 3);
    assert_eq!(recv(b, 9, 0).unwrap(), b"def");
    assert_eq!(get(b, SO_PEEK_OFF), Ok(0));
    let (a, b) = pair(SOCK_DGRAM);
    write(a, b"one").unwrap();
    write(a, b"three").unwrap();
    look(b, 9, b"one", 3);
    look(b, 2, b"th", 5);
    assert_eq!(recv(b, 1, 0).unwrap(), b"o", "the whole message is gone");
    assert_eq!(get(b, SO_PEEK_OFF), Ok(2));
    look(b, 9, b"ree", 5);
}

fn empty_messages_are_looked_at_once() {
    let (a, b) = pair(SOCK_DGRAM);
    write(a, b"").unwrap();
    write(a, b"x").unwrap();
    look(b, 9, b"", 0);
    look(b, 9, b"x", 1);
    assert_eq!(recv(b, 9, 0).unwrap(), b"");
    assert_eq!(recv(b, 9, 0).unwrap(), b"x");
    assert_eq!(get(b, SO_PEEK_OFF), Ok(0));
}

struct Got {
    data: Vec<u8>,
    flags: i32,
    /// Level, type and data of each control message.
    control: Vec<(i32, i32, Vec<u8>)>,
}

impl Got {
    fn int(&self, kind: i32) -> Option<i32> {
        let found = self.control.iter().find(|(level, at, _)| (*level, *at) == (SOL_SOCKET, kind))?;
        Some(i32::from_ne_bytes(found.2[..4].try_into().unwrap()))
    }
}

fn recvmsg(fd: i32, len: usize, room: usize, flags: i32) -> Result<Got, Errno> {
    let mut data = vec![0u8; len];
    let mut control = [0u64; 32];
    let iov = [data.as_mut_ptr() as usize, len];
    let mut msg = [0usize, 0, iov.as_ptr() as usize, 1, control.as_mut_ptr() as usize, room, 0];
    let got = sys!(SYS_recvmsg, fd, &mut msg, flags)?;
    data.truncate(got);
    let bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let (mut found, mut at) = (Vec::new(), 0);
    while at + 16 <= msg[5] {
        let len = u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let int = |at: usize| i32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        found.push((int(at + 8), int(at + 12), bytes[at + 16..at + len].to_vec()));
        at += len.next_multiple_of(8);
    }
    Ok(Got { data, flags: msg[6] as i32, control: found })
}

fn bytes_left() {
    let (a, b) = socketpair(SOCK_STREAM);
    set(b, SO_INQ, 1).unwrap();
    write(a, b"12345").unwrap();
    write(a, b"678").unwrap();
    let got = recvmsg(b, 2, 128, MSG_PEEK).unwrap();
    assert_eq!((got.data.as_slice(), got.int(SO_INQ)), (&b"12"[..], Some(8)));
    let got = recvmsg(b, 4, 128, 0).unwrap();
    assert_eq!((got.int(SO_INQ), got.control.len()), (Some(4), 1));
    let got = recvmsg(b, 2, 4, 0).unwrap();
    assert_eq!((got.int(SO_INQ), got.flags & MSG_CTRUNC), (None, MSG_CTRUNC));
    assert_eq!(recv(b, 1, 0).unwrap(), b"7");
    assert_eq!(recvmsg(b, 10, 128, 0).unwrap().int(SO_INQ), Some(0));
    set(b, SO_INQ, 0).unwrap();
    write(a, b"1").unwrap();
    assert_eq!(recvmsg(b, 10, 128, 0).unwrap().int(SO_INQ), None);
}

fn bytes_left_are_told_of_streams() {
    let (a, _b) = socketpair(SOCK_STREAM);
    assert_eq!(set(a, SO_INQ, 2), Err(EINVAL));
    assert_eq!(set(a, SO_INQ, -1), Err(EINVAL));
    assert_eq!(get(a, SO_INQ), Err(ENOPROTOOPT), "it can only be set");
    for kind in [SOCK_DGRAM, SOCK_SEQPACKET] {
        assert_eq!(set(socketpair(kind).0, SO_INQ, 1), Err(ENOPROTOOPT));
    }
}

/// The number of the process that `pidfd` stands for, which is closed.
fn pid_of(pidfd: i32) -> i32 {
    assert_eq!(sys!(SYS_fcntl, pidfd, F_GETFD), Ok(FD_CLOEXEC as usize));
    let info = slurp(&format!("/proc/self/fdinfo/{pidfd}"));
    close(pidfd);
    let line = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    line.expect("a pidfd").trim().parse().unwrap()
}

fn pidfd_of_the_sender() {
    for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] {
        let (a, b) = socketpair(kind);
        assert_eq!(get(b, SO_PASSPIDFD), Ok(0));
        set(b, SO_PASSPIDFD, 7).unwrap();
        assert_eq!(get(b, SO_PASSPIDFD), Ok(1));
        let (ended, end) = pipe();
        let kid = child(|| {
            close(end);
            write(a, b"hello").unwrap();
            read_vec(ended, 1).unwrap();
        });
        let got = recvmsg(b, 10, 128, 0).unwrap();
        assert_eq!((got.data.as_slice(), got.flags & MSG_CTRUNC, got.control.len()), (&b"hello"[..], 0, 1));
        assert_eq!(pid_of(got.int(SCM_PIDFD).unwrap()), kid.0);
        close(end);
        kid.ok();
    }
}

fn pidfd_of_one_that_has_ended() {
    let (a, b) = socketpair(SOCK_DGRAM);
    set(b, SO_PASSPIDFD, 1).unwrap();
    set(b, SO_PASSCRED, 1).unwrap();
    let kid = child(|| {
        write(a, b"x").unwrap();
    });
    kid.ok();
    let got = recvmsg(b, 10, 128, 0).unwrap();
    assert_eq!(got.control.len(), 2);
    assert_eq!(got.int(SCM_CREDENTIALS), Some(kid.0));
    assert_eq!(pid_of(got.int(SCM_PIDFD).unwrap()), -1, "it was waited for");
}

fn pidfds_need_room() {
    let (a, b) = socketpair(SOCK_DGRAM);
    set(b, SO_PASSPIDFD, 1).unwrap();
    for room in [0, 16, 19] {
        write(a, b"x").unwrap();
        let got = recvmsg(b, 10, room, 0).unwrap();
        assert_eq!((got.int(SCM_PIDFD), got.flags & MSG_CTRUNC), (None, MSG_CTRUNC), "{room}");
    }
    write(a, b"x").unwrap();
    let got = recvmsg(b, 10, 20, 0).unwrap();
    assert_eq!(pid_of(got.int(SCM_PIDFD).unwrap()), getpid());
}

fn streams_stop_at_another_sender() {
    let (a, b) = socketpair(SOCK_STREAM);
    set(b, SO_PASSPIDFD, 1).unwrap();
    let kid = child(|| {
        write(a, b"theirs").unwrap();
    });
    kid.ok();
    write(a, b"mine").unwrap();
    assert_eq!(recvmsg(b, 100, 128, 0).unwrap().data, b"theirs");
    let got = recvmsg(b, 100, 128, 0).unwrap();
    assert_eq!(got.data, b"mine");
    assert_eq!(pid_of(got.int(SCM_PIDFD).unwrap()), getpid());
}

/// A listening socket with a name that the kernel chose, and one that wants to connect, with the name.
fn listening() -> (i32, i32, [u8; 8]) {
    let socket = || sys!(SYS_socket, AF_UNIX, SOCK_STREAM, 0).unwrap() as i32;
    let (listener, mut name, mut len) = (socket(), [0u8; 8], 8u32);
    sys!(SYS_bind, listener, &1u16, 2).unwrap();
    sys!(SYS_listen, listener, 5).unwrap();
    sys!(SYS_getsockname, listener, &mut name, &mut len).unwrap();
    assert_eq!(len, 8);
    (listener, socket(), name)
}

fn accepted_sockets_pass_pidfds() {
    let accept = |listener: i32| sys!(SYS_accept4, listener, 0, 0, 0).unwrap() as i32;
    let (listener, client, name) = listening();
    set(listener, SO_PASSPIDFD, 1).unwrap();
    sys!(SYS_connect, client, &name, 8).unwrap();
    write(client, b"early").unwrap();
    let accepted = accept(listener);
    assert_eq!(get(accepted, SO_PASSPIDFD), Ok(1));
    let got = recvmsg(accepted, 10, 128, 0).unwrap();
    assert_eq!(pid_of(got.int(SCM_PIDFD).unwrap()), getpid());
    // What the listener learns later is not for those who are there already.
    let (listener, client, name) = listening();
    sys!(SYS_connect, client, &name, 8).unwrap();
    set(listener, SO_PASSPIDFD, 1).unwrap();
    assert_eq!(get(accept(listener), SO_PASSPIDFD), Ok(0));
}

fn options_of_other_families() {
    let tcp = sys!(SYS_socket, AF_INET, SOCK_STREAM, 0).unwrap() as i32;
    assert_eq!(set(tcp, SO_PASSPIDFD, 1), Err(EOPNOTSUPP));
    assert_eq!(get(tcp, SO_PASSPIDFD), Err(EOPNOTSUPP));
    assert_eq!(set(tcp, SO_INQ, 1), Err(ENOPROTOOPT));
}

fn network_of_a_socket() {
    let own = fstat(open(&cstr("/proc/self/ns/net"), O_RDONLY).unwrap()).st_ino;
    let network = |fd: i32| sys!(SYS_ioctl, fd, SIOCGSKNS, 0).map(|ns| fstat(ns as i32).st_ino);
    let sockets = [(AF_UNIX, SOCK_STREAM), (AF_INET, SOCK_STREAM), (AF_INET, SOCK_DGRAM), (AF_INET6, SOCK_DGRAM)];
    let sockets = sockets.map(|(family, kind)| sys!(SYS_socket, family, kind, 0).unwrap() as i32);
    assert_eq!(sockets.map(network), [Ok(own); 4]);
    let opened = sys!(SYS_ioctl, sockets[1], SIOCGSKNS, 0).unwrap() as i32;
    assert_eq!(sys!(SYS_fcntl, opened, F_GETFD), Ok(FD_CLOEXEC as usize));
    aside(|| {
        sys!(SYS_unshare, CLONE_NEWNET).unwrap();
        assert_eq!(network(sockets[0]), Ok(own));
        let new = sys!(SYS_socket, AF_INET, SOCK_DGRAM, 0).unwrap() as i32;
        assert_ne!(network(new), Ok(own));
    });
    assert_eq!(network(pipe().0), Err(ENOTTY));
    assert_eq!(network(-1), Err(EBADF));
}

fn network_needs_a_privilege() {
    let socket = sys!(SYS_socket, AF_INET, SOCK_DGRAM, 0).unwrap() as i32;
    aside(|| {
        drop_root();
        assert_eq!(sys!(SYS_ioctl, socket, SIOCGSKNS, 0), Err(EPERM));
    });
}
