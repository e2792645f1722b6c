//! What packet sockets are told of packets, and which ones they get: filters, counts, PACKET_AUXDATA. Frames of hostile bytes.

use crate::inetkit::{get, name, pair, port, recv, send, send_to, set, udp_bound};
use crate::packetkit::{ALL, AUXDATA, IP, SOL, STATISTICS, attach, drain, half, next, option, raw, send_frame, sum};
use crate::prelude::*;

tests!(
    "packetfilter":
    filters, ancillary, counts, auxdata, hostile,
);

const HALF_OF_TYPE: (u16, u8, u8, u32) = (0x28, 0, 0, 12);

fn filters() {
    let fd = raw(ALL);
    let (a, b) = (udp_bound(), udp_bound());
    let sends = || {
        send_to(a, b"12345678", &name(b)).unwrap();
        std::iter::from_fn(|| next(fd)).map(|(frame, _)| frame.len()).collect::<Vec<_>>()
    };
    attach(fd, &[HALF_OF_TYPE, (0x15, 0, 1, 0x800), (6, 0, 0, 20), (6, 0, 0, 0)]).unwrap();
    assert_eq!(sends(), [20, 20], "no more than the filter wants");
    attach(fd, &[HALF_OF_TYPE, (0x15, 0, 1, 0x86dd), (6, 0, 0, 20), (6, 0, 0, 0)]).unwrap();
    assert_eq!(sends(), []);
    attach(fd, &[(0xb1, 0, 0, 14), (0x48, 0, 0, 16), (0x15, 0, 1, port(b).into()), (6, 0, 0, 99), (6, 0, 0, 0)]).unwrap();
    assert_eq!(sends(), [50, 50], "the port, behind a header of any length");
    assert_eq!(attach(fd, &[(0x28, 0, 0, 12)]), Err(EINVAL), "it does not return");
    let (mut program, mut len) = ([0u64; 8], 0u32);
    sys!(SYS_getsockopt, fd, SOL_SOCKET, SO_GET_FILTER, &mut program, &mut len).unwrap();
    assert_eq!(len, 5);
    sys!(SYS_getsockopt, fd, SOL_SOCKET, SO_GET_FILTER, &mut program, &mut len).unwrap();
    assert_eq!(program[0], 14 << 32 | 0xb1);
    set(fd, SOL_SOCKET, SO_DETACH_FILTER, 0).unwrap();
    assert_eq!(set(fd, SOL_SOCKET, SO_DETACH_FILTER, 0), Err(ENOENT));
    assert_eq!(sends(), [50, 50]);
    set(fd, SOL_SOCKET, SO_LOCK_FILTER, 1).unwrap();
    assert_eq!(attach(fd, &[(6, 0, 0, 1)]), Err(EPERM));
    assert_eq!(set(fd, SOL_SOCKET, SO_LOCK_FILTER, 0), Err(EPERM));
    assert_eq!(get(fd, SOL_SOCKET, SO_LOCK_FILTER), Ok(1));
}

fn ancillary() {
    let fd = raw(ALL);
    let (a, b) = (udp_bound(), udp_bound());
    let value = |number: i32| {
        // Returns what was loaded, plus 1: as many bytes come.
        attach(fd, &[(0x20, 0, 0, (-0x1000 + number) as u32), (4, 0, 0, 1), (0x16, 0, 0, 0)]).unwrap();
        send_to(a, &[0; 3000], &name(b)).unwrap();
        std::iter::from_fn(|| next(fd)).map(|(frame, _)| frame.len() as u32 - 1).collect::<Vec<_>>()
    };
    assert_eq!(value(0), [0x800, 0x800], "protocol");
    assert_eq!(value(4), [4, 0], "direction");
    assert_eq!(value(8), [1, 1], "interface");
    assert_eq!(value(28), [772, 772], "kind of the interface");
    assert_eq!(value(52), [42, 42], "where the data begins");
    assert_eq!(attach(fd, &[(0x20, 0, 0, (-0x1000 + 2) as u32), (6, 0, 0, 1)]), Err(EINVAL));
}

fn counts() {
    let fd = raw(IP);
    option(fd, STATISTICS, 8).unwrap();
    set(fd, SOL_SOCKET, SO_RCVBUF, 5000).unwrap();
    let (a, b) = (udp_bound(), udp_bound());
    for _ in 0..200 {
        send_to(a, &[1; 500], &name(b)).unwrap();
        recv(b, 600, 0).unwrap();
    }
    let received = std::iter::from_fn(|| next(fd)).count() as u32;
    let counts = option(fd, STATISTICS, 8).unwrap();
    let word = |at: usize| u32::from_ne_bytes(counts[at..at + 4].try_into().unwrap());
    assert_eq!((counts.len(), word(0)), (8, 200));
    assert_eq!(word(4), 200 - received);
    assert!(received > 0 && received < 100, "{received}");
    assert_eq!(option(fd, STATISTICS, 8).unwrap(), [0; 8], "asking clears them");
}

fn auxdata() {
    let fd = raw(IP);
    set(fd, SOL, AUXDATA, 1).unwrap();
    assert_eq!(option(fd, AUXDATA, 4).unwrap(), [1, 0, 0, 0]);
    attach(fd, &[(6, 0, 0, 30)]).unwrap();
    let (a, b) = (udp_bound(), udp_bound());
    send_to(a, b"1234567890", &name(b)).unwrap();
    let (mut data, mut control) = ([0u8; 100], [0u64; 16]);
    let mut iov = iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    let mut header: msghdr = zero();
    (header.msg_iov, header.msg_iovlen) = (&mut iov, 1);
    (header.msg_control, header.msg_controllen) = (control.as_mut_ptr().cast(), 128);
    assert_eq!(sys!(SYS_recvmsg, fd, &mut header, 0), Ok(30));
    let bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!([word(0), word(8), word(12)], [36, SOL as u32, AUXDATA as u32]);
    assert_eq!((word(16) & 1, word(20), word(24)), (1, 52, 30));
    assert_eq!(u16::from_ne_bytes([bytes[30], bytes[31]]), 14);
}

fn hostile() {
    let fd = raw(ALL);
    let _ = (write_file("/proc/sys/net/ipv4/conf/lo/accept_local", "1"), write_file("/proc/sys/net/ipv4/conf/lo/route_localnet", "1"));
    let (client, server) = pair();
    let mut dice = Random(5);
    let mut frames: Vec<Vec<u8>> = Vec::new();
    send(client, b"data", 0).unwrap();
    while let Some((frame, _)) = next(fd) {
        frames.push(frame);
    }
    for round in 0..3000u32 {
        let mut frame = frames[dice.below(frames.len())].clone();
        if round % 3 == 0 {
            let len = dice.below(frame.len() + 1).max(14);
            frame.truncate(len);
        }
        for _ in 0..dice.below(4) {
            let at = dice.below(frame.len());
            frame[at] = dice.below(256) as u8;
        }
        // Half of them with a right checksum.
        if round % 2 == 0 && frame.len() >= 54 && frame[23] == 6 {
            (frame[24], frame[25], frame[50], frame[51]) = (0, 0, 0, 0);
            let ip = sum(&frame[14..34], 0);
            frame[24..26].copy_from_slice(&ip.to_be_bytes());
            let pseudo: u32 = frame[26..34].chunks(2).map(|pair| u32::from(half(pair, 0))).sum();
            let tcp = sum(&frame[34..], pseudo + 6 + frame.len() as u32 - 34);
            frame[50..52].copy_from_slice(&tcp.to_be_bytes());
        }
        let _ = send_frame(fd, &frame);
        drain(fd);
    }
    close(client);
    close(server);
    let (a, b) = (udp_bound(), udp_bound());
    send_to(a, b"alive", &name(b)).unwrap();
    assert_eq!(recv(b, 9, 0).unwrap(), b"alive");
}
