//! Rings of packet sockets, and groups of them (packet(7)).

use crate::inetkit::{bring_up, name, pair, recv, send, send_to, set, udp_bound};
use crate::netlinkkit::own_net;
use crate::packetkit::{
    ALL, FANOUT, HDRLEN, IP, RX_RING, SOL, STATISTICS, TX_RING, VERSION, VNET_HDR, another, bind_to, half, next, option, raw,
};
use crate::prelude::*;
use crate::sys::poke32;

tests!(
    "packetring":
    rings, ring_of_blocks, ring_to_send, ring_to_send_keeps_what_waits, large_frames_of_a_ring, ring_shapes, fanout,
    comings_and_goings,
);

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn make_ring(fd: i32, side: i32, version: i32, shape: &[u32]) -> Result<usize, Errno> {
    set(fd, SOL, VERSION, version).unwrap();
    let shape = words(shape);
    sys!(SYS_setsockopt, fd, SOL, side, &shape[..], shape.len())?;
    let len = u32::from_ne_bytes(shape[..4].try_into().unwrap())
        * u32::from_ne_bytes(shape[4..8].try_into().unwrap());
    crate::kit::map(len as usize, PROT_READ | PROT_WRITE, MAP_SHARED, fd)
}

fn word_at(at: usize) -> u32 {
    u32::from_ne_bytes(bytes_at(at, 4).try_into().unwrap())
}

fn rings() {
    for (version, len_at, mac_at) in [(0, 8, 16), (1, 4, 12)] {
        let fd = raw(IP);
        let ring = make_ring(fd, RX_RING, version, &[4096, 2, 1024, 8]).unwrap();
        let (a, b) = (udp_bound(), udp_bound());
        assert_eq!(poll1(fd, POLLIN, 0), 0);
        for nr in 0..10u8 {
            send_to(a, &[nr; 100], &name(b)).unwrap();
        }
        assert_eq!(poll1(fd, POLLIN, 0), POLLIN);
        for nr in 0..8 {
            let frame = ring + nr * 1024;
            assert_eq!((word_at(frame) & 1, word_at(frame + len_at), word_at(frame + len_at + 4)), (1, 142, 142));
            let mac = (word_at(frame + mac_at) & 0xffff) as usize;
            let bytes = bytes_at(frame + mac, 142);
            assert_eq!((half(bytes, 12), bytes[42]), (IP, nr as u8));
            let address = bytes_at(frame + 32, 20);
            assert_eq!((address[0], address[4], address[10]), (AF_PACKET as u8, 1, 0));
        }
        let counts = option(fd, STATISTICS, 8).unwrap();
        assert_eq!(counts, words(&[10, 2]), "the ring was full");
        assert_eq!(recv(fd, 10, MSG_DONTWAIT), Err(EAGAIN), "all are in the ring");
        assert_eq!(set(fd, SOL, VERSION, 1), Err(EBUSY));
        let none = words(&[0; 4]);
        assert_eq!(sys!(SYS_setsockopt, fd, SOL, RX_RING, &none[..], 16), Err(EBUSY), "it is mapped");
        sys!(SYS_munmap, ring, 8192).unwrap();
        assert_eq!(sys!(SYS_setsockopt, fd, SOL, RX_RING, &none[..], 16), Ok(0));
        send_to(a, b"x", &name(b)).unwrap();
        assert!(next(fd).is_some(), "without a ring as before");
    }
}

fn ring_of_blocks() {
    let fd = raw(IP);
    let ring = make_ring(fd, RX_RING, 2, &[8192, 2, 2048, 8, 20, 0, 1]).unwrap();
    let (a, b) = (udp_bound(), udp_bound());
    for nr in 0..3u8 {
        send_to(a, &[nr; 100], &name(b)).unwrap();
    }
    assert_eq!(poll1(fd, POLLIN, 5000), POLLIN, "the block has waited long enough");
    assert_eq!([word_at(ring), word_at(ring + 12), word_at(ring + 24)], [2, 3, 1]);
    assert_eq!(word_at(ring + 8) & 0x21, 0x21, "and says so");
    let mut at = ring + word_at(ring + 16) as usize;
    for nr in 0..3u8 {
        assert_eq!([word_at(at + 12), word_at(at + 16)], [142, 142]);
        let mac = (word_at(at + 24) & 0xffff) as usize;
        assert_eq!(bytes_at(at + mac, 142)[42], nr);
        let next = word_at(at) as usize;
        assert_eq!(next == 0, nr == 2);
        at += next;
    }
    poke32(ring + 8, 0);
    for nr in 0..20u8 {
        send_to(a, &[nr; 1400], &name(b)).unwrap();
    }
    assert_ne!(word_at(ring + 8192 + 8) & 1, 0, "full");
    let counts = option(fd, STATISTICS, 12).unwrap();
    let word = |at: usize| u32::from_ne_bytes(counts[at..at + 4].try_into().unwrap());
    assert_eq!((counts.len(), word(0)), (12, 23));
    assert!(word(4) > 0 && word(8) > 0, "packets were lost");
}

fn ring_to_send() {
    for (version, header, len_at, status_at) in [(0, 32, 8, 0), (1, 32, 4, 0), (2, 48, 16, 20)] {
        let other = raw(ALL);
        let fd = another(0);
        bind_to(fd, 0, 1).unwrap();
        let shape = [4096, 1, 2048, 2, 0, 0, 0];
        let ring = make_ring(fd, TX_RING, version, &shape[..if version == 2 { 7 } else { 4 }]).unwrap();
        assert_ne!(poll1(fd, POLLOUT, 0) & POLLOUT, 0);
        for nr in 0..2 {
            let at = ring + nr * 2048;
            let mut frame = [nr as u8 + 1; 60];
            frame[..12].fill(0);
            for (offset, byte) in frame.iter().enumerate() {
                poke(at + header + offset, *byte);
            }
            poke32(at + len_at, 60);
            poke32(at + status_at, 1);
        }
        assert_eq!(sys!(SYS_sendto, fd, 0, 0, 0, 0, 0), Ok(120));
        assert_eq!((word_at(ring + status_at), word_at(ring + 2048 + status_at)), (0, 0));
        let seen: Vec<u8> = std::iter::from_fn(|| next(other)).map(|(frame, _)| frame[30]).collect();
        assert_eq!(seen, [1, 1, 2, 2]);
        poke32(ring + len_at, 3000);
        poke32(ring + status_at, 1);
        assert_eq!(sys!(SYS_sendto, fd, 0, 0, 0, 0, 0), Err(EMSGSIZE));
        assert_eq!(word_at(ring + status_at), 4, "the frame is wrong");
        poke32(ring + len_at, 60);
        for nr in 0..2 {
            poke32(ring + nr * 2048 + status_at, 1);
        }
        assert_ne!(poll1(fd, POLLOUT, 0) & POLLOUT, 0, "there is room in the buffer of the socket");
        assert_eq!(sys!(SYS_sendto, fd, 0, 0, 0, 0, 0), Ok(120), "the wrong one kept its place");
    }
}

fn ring_to_send_keeps_what_waits() {
    let other = raw(IP);
    let (a, b) = (udp_bound(), udp_bound());
    send_to(a, b"x", &name(b)).unwrap();
    make_ring(other, TX_RING, 1, &[4096, 1, 2048, 2]).unwrap();
    assert!(next(other).is_some());
}

fn large_frames_of_a_ring() {
    let fd = raw(0);
    bind_to(fd, IP, 1).unwrap();
    set(fd, SOL, VNET_HDR, 1).unwrap();
    let ring = make_ring(fd, TX_RING, 1, &[1 << 17, 1, 1 << 17, 1]).unwrap();
    // To be cut into UDP of 1000 bytes each.
    for (at, byte) in [(32 + 1, 3), (32 + 4, 0xe8), (32 + 5, 3)] {
        poke(ring + at, byte);
    }
    poke32(ring + 4, 100_000);
    poke32(ring, 1);
    assert!(sys!(SYS_sendto, fd, 0, 0, 0, 0, 0).is_err(), "no packet has so many bytes");
}

fn ring_shapes() {
    let fd = raw(0);
    let mut len = 4u32;
    for (version, wanted) in [(0, Ok(32)), (1, Ok(32)), (2, Ok(48)), (3, Err(EINVAL))] {
        let mut value = version;
        let result = sys!(SYS_getsockopt, fd, SOL, HDRLEN, &mut value, &mut len);
        assert_eq!(result.map(|_| value), wanted);
    }
    assert_eq!(set(fd, SOL, VERSION, 3), Err(EINVAL));
    for bad in [[4096, 1, 1000, 4], [4096, 1, 32, 128], [4000, 1, 1000, 4], [4096, 2, 1024, 4], [4096, 1, 8192, 1]] {
        assert_eq!(make_ring(fd, RX_RING, 1, &bad), Err(EINVAL), "{bad:?}");
    }
    assert_eq!(make_ring(fd, RX_RING, 1, &[0, 0, 0, 4]), Err(EINVAL));
    assert_eq!(crate::kit::map(4096, PROT_READ, MAP_SHARED, fd), Err(EINVAL), "there is none");
    make_ring(fd, RX_RING, 1, &[4096, 1, 1024, 4]).unwrap();
    assert_eq!(crate::kit::map(8192, PROT_READ, MAP_SHARED, fd), Err(EINVAL));
}

fn fanout() {
    own_net();
    let open = |id: u32, kind: u32| {
        let fd = another(0);
        bring_up(fd);
        bind_to(fd, IP, 1).unwrap();
        set(fd, SOL, FANOUT, (id | kind << 16) as i32).map(|_| fd)
    };
    let unbound = another(0);
    assert_eq!(set(unbound, SOL, FANOUT, 1), Err(EINVAL));
    assert_eq!(option(unbound, FANOUT, 4).unwrap(), [0; 4]);
    let fds: Vec<i32> = (0..2).map(|_| open(7, 1).unwrap()).collect();
    assert_eq!(option(fds[0], FANOUT, 4).unwrap(), [7, 0, 1, 0]);
    assert_eq!(set(fds[0], SOL, FANOUT, 7 | 1 << 16), Err(Errno::EALREADY));
    assert_eq!(open(7, 2), Err(EINVAL), "another kind");
    assert_eq!(bind_to(fds[0], ALL, 1), Err(EINVAL), "it is in a group");
    let (a, b) = (udp_bound(), udp_bound());
    let spread = |fds: &[i32]| {
        for _ in 0..10 {
            send_to(a, b"x", &name(b)).unwrap();
        }
        fds.iter().map(|&fd| std::iter::from_fn(|| next(fd)).count()).collect::<Vec<_>>()
    };
    assert_eq!(spread(&fds), [5, 5], "in turn");
    close(fds[1]);
    assert_eq!(spread(&fds[..1]), [10]);
    close(fds[0]);
    let hashed: Vec<i32> = (0..3).map(|_| open(7, 0).unwrap()).collect();
    let mut found = spread(&hashed);
    found.sort_unstable();
    assert_eq!(found, [0, 0, 10], "a flow has one of them");
    let unique: Vec<Vec<u8>> =
        (0..2).map(|_| option(open(0, 0x2000).unwrap(), FANOUT, 4).unwrap()[..2].to_vec()).collect();
    assert!(unique[0] != unique[1] && !unique.contains(&vec![7, 0]), "{unique:?}");
}

/// Sockets, rings and groups that come and go while others send.
fn comings_and_goings() {
    own_net();
    bring_up(another(0));
    let senders: Vec<Child> = (0..2)
        .map(|_| {
            child(|| {
                let (a, b) = (udp_bound(), udp_bound());
                let (client, server) = pair();
                for round in 0..400 {
                    send_to(a, &[1; 600], &name(b)).unwrap();
                    assert_eq!(recv(b, 700, 0).unwrap().len(), 600);
                    assert_eq!(send(client, &[2; 3000], 0), Ok(3000), "{round}");
                    assert_eq!(recv(server, 3000, MSG_WAITALL).unwrap().len(), 3000);
                }
            })
        })
        .collect();
    let rings = child(|| {
        for version in (0..3).cycle().take(60) {
            let fd = another(ALL);
            let shape = [8192, 2, 2048, 8, 1, 0, 0];
            let ring = make_ring(fd, RX_RING, version, &shape[..if version == 2 { 7 } else { 4 }]).unwrap();
            poll1(fd, POLLIN, 2);
            if version % 2 == 0 {
                sys!(SYS_munmap, ring, 16384).unwrap();
            }
            close(fd);
        }
    });
    let groups = child(|| {
        for kind in (0..5).cycle().take(60) {
            let fds = [another(IP), another(IP), another(IP)];
            for fd in fds {
                set(fd, SOL, FANOUT, 9 | kind << 16).unwrap();
            }
            while recv(fds[0], 100, MSG_DONTWAIT).is_ok() {}
            fds.into_iter().for_each(close);
        }
    });
    senders.into_iter().chain([rings, groups]).for_each(Child::ok);
}
