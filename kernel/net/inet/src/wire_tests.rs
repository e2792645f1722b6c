use hal::uio::Src;
use proptest::prelude::*;
use tcp::segment::Chain;

use super::*;

fn head(from: Ip, to: Ip) -> Head {
    Head { from: Endpoint { ip: from, port: 4000 }, to: Endpoint { ip: to, port: 80 }, ttl: 64, tos: 0x12 }
}

const PAIRS: [(Ip, Ip); 2] =
    [(Ip::LOOPBACK_V4, Ip::v4(0x7f00_0002)), (Ip::LOOPBACK_V6, Ip(0xfd00 << 112 | 7))];

fn chunk(data: &[u8]) -> Chunk {
    Chunk::take(&mut Src::kernel(data), data.len()).unwrap()
}

fn packet(frame: &[u8]) -> (u16, &[u8]) {
    (u16::from_be_bytes([frame[12], frame[13]]), &frame[ETHERNET..])
}

#[test]
fn datagrams_survive_the_wire() {
    for (from, to) in PAIRS {
        for len in [0, 1, 3000, 65_000] {
            let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let frame = udp_frame(&head(from, to), &chunk(&data)).unwrap();
            let (protocol, bytes) = packet(&frame);
            let Some(Parsed::Udp(found, payload)) = parse(protocol, bytes) else { panic!("{len}") };
            assert_eq!((found, payload), (head(from, to), &data[..]));
        }
    }
}

fn full_segment(data: &[u8]) -> Segment {
    let mut segment = Segment::bare(Seq(u32::MAX - 3), Seq(7), Flags(0x3f));
    (segment.window, segment.urgent) = (1234, 2);
    segment.options.timestamps = Some((1, 2));
    segment.options.sack = [(Seq(1), Seq(2)), (Seq(3), Seq(4)), (Seq(5), Seq(6))].into_iter().collect();
    segment.data = data.chunks(1000).map(chunk).collect::<Chain<_>>();
    segment
}

#[test]
fn segments_survive_the_wire() {
    for (from, to) in PAIRS {
        let data: Vec<u8> = (0..5000u32).map(|i| (i / 7) as u8).collect();
        let sent = full_segment(&data);
        let mut frames = Vec::new();
        tcp_frames(&head(from, to), &sent, |frame| frames.push(frame));
        assert_eq!(frames.len(), 1);
        let (protocol, bytes) = packet(&frames[0]);
        let Some(Parsed::Tcp(found, segment, payload)) = parse(protocol, bytes) else { panic!() };
        assert_eq!((found, payload), (head(from, to), &data[..]));
        assert_eq!((segment.seq, segment.ack, segment.flags), (sent.seq, sent.ack, sent.flags));
        assert_eq!((segment.window, segment.urgent), (1234, 2));
        assert_eq!(segment.options.timestamps, Some((1, 2)));
        assert_eq!(segment.options.sack, sent.options.sack);
    }
}

#[test]
fn options_of_a_handshake_survive_the_wire() {
    let mut sent = Segment::bare(Seq(1), Seq(0), Flags::SYN);
    sent.options.mss = Some(65495);
    sent.options.window_scale = Some(7);
    for (sack, timestamps) in [(true, Some((5, 6))), (true, None), (false, Some((5, 6)))] {
        (sent.options.sack_permitted, sent.options.timestamps) = (sack, timestamps);
        tcp_frames(&head(PAIRS[0].0, PAIRS[0].1), &sent, |frame| {
            let (protocol, bytes) = packet(&frame);
            let Some(Parsed::Tcp(_, segment, _)) = parse(protocol, bytes) else { panic!() };
            let options = segment.options;
            assert_eq!((options.mss, options.window_scale), (Some(65495), Some(7)));
            assert_eq!((options.sack_permitted, options.timestamps), (sack, timestamps));
        });
    }
}

#[test]
fn what_is_longer_than_a_packet_goes_as_several() {
    let data = [7u8; 65536];
    let mut sent = full_segment(&data);
    sent.options = SegOptions::default();
    let mut seen = Vec::new();
    tcp_frames(&head(PAIRS[0].0, PAIRS[0].1), &sent, |frame| {
        let (protocol, bytes) = packet(&frame);
        let Some(Parsed::Tcp(_, segment, payload)) = parse(protocol, bytes) else { panic!() };
        seen.push((segment.seq, segment.flags.has(Flags::FIN), payload.len()));
    });
    assert_eq!(seen, [(Seq(u32::MAX - 3), false, 65495), (Seq(65491), true, 41)]);
}

#[test]
fn a_wrong_checksum_is_found() {
    for (from, to) in PAIRS {
        let mut frames = Vec::from([udp_frame(&head(from, to), &chunk(b"hello")).unwrap()]);
        tcp_frames(&head(from, to), &full_segment(b"hello"), |frame| frames.push(frame));
        for mut frame in frames {
            *frame.last_mut().unwrap() ^= 1;
            let (protocol, bytes) = packet(&frame);
            assert!(parse(protocol, bytes).is_none());
        }
    }
}

#[test]
fn refusals_quote_the_datagram() {
    for (from, to) in PAIRS {
        let frame = refusal_frame(&head(from, to), &chunk(&[7; 3000])).unwrap();
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let quoted = match &sliced.transport {
            Some(TransportSlice::Icmpv4(icmp)) => icmp.payload(),
            Some(TransportSlice::Icmpv6(icmp)) => {
                let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!() };
                assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
                icmp.payload()
            }
            other => panic!("{other:?}"),
        };
        let (len, most) =
            if from.is_v4() { (frame.len(), ETHERNET + 576) } else { (frame.len(), ETHERNET + 1280) };
        assert_eq!(len, most);
        assert_eq!(
            quoted[..8],
            udp_frame(&head(from, to), &chunk(&[7; 3000])).unwrap()[ETHERNET..ETHERNET + 8]
        );
    }
}

/// `frame` with `nr` headers of destination options, each of which is only padding.
fn with_extensions(frame: &[u8], nr: u8) -> Vec<u8> {
    let mut packet = frame[ETHERNET..].to_vec();
    let last = packet[6];
    let all = (1..=nr).flat_map(|at| [if at == nr { last } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
    packet.splice(Ipv6Header::LEN..Ipv6Header::LEN, all);
    packet[6] = 60;
    let len = (packet.len() - Ipv6Header::LEN) as u16;
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    packet
}

#[test]
fn headers_of_extensions_are_few() {
    let (from, to) = PAIRS[1];
    let frame = udp_frame(&head(from, to), &chunk(&[7; 30])).unwrap();
    let plain = flow(ETH_P_IPV6, &frame[ETHERNET..]);
    for nr in [1, 15] {
        let packet = with_extensions(&frame, nr);
        assert!(parse(ETH_P_IPV6, &packet).is_some(), "{nr}");
        let found = flow(ETH_P_IPV6, &packet);
        assert_eq!((found.hash, found.payload), (plain.hash, plain.payload + u32::from(nr) * 8));
    }
    let packet = with_extensions(&frame, 16);
    assert!(parse(ETH_P_IPV6, &packet).is_none());
    assert_eq!(flow(ETH_P_IPV6, &packet), Flow::default());
}

#[test]
fn urgent_data_counts_from_each_frame() {
    let urgent = |at: u16| {
        let mut segment = full_segment(&[7; 70_000]);
        segment.urgent = at;
        let mut found = Vec::new();
        tcp_frames(&head(PAIRS[0].0, PAIRS[0].1), &segment, |frame| {
            let (protocol, bytes) = packet(&frame);
            let Some(Parsed::Tcp(_, part, data)) = parse(protocol, bytes) else { panic!() };
            found.push((part.flags.has(Flags::URG), part.urgent, data.len()));
        });
        found
    };
    let (first, second) = (urgent(2)[0].2, urgent(2)[1].2);
    assert_eq!(urgent(2), [(true, 2, first), (false, 0, second)]);
    let behind = u16::MAX - first as u16;
    assert_eq!(urgent(u16::MAX), [(true, u16::MAX, first), (true, behind, second)]);
}

#[test]
fn sums_have_two_zeroes() {
    for (from, to) in PAIRS {
        // Some payload of two bytes makes the sum 0.
        let with = |data: [u8; 2]| {
            let mut frames = Vec::new();
            tcp_frames(&head(from, to), &full_segment(&data), |frame| frames.push(frame));
            frames.remove(0)
        };
        let at = ETHERNET + head(from, to).ip_len() + 16;
        let sum = |frame: &[u8]| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let mut frame = with(sum(&with([0, 0])).to_be_bytes());
        assert_eq!(sum(&frame), 0);
        let (protocol, bytes) = packet(&frame);
        assert!(parse(protocol, bytes).is_some());
        frame[at..at + 2].fill(0xff);
        let (protocol, bytes) = packet(&frame);
        assert!(parse(protocol, bytes).is_some());
        frame[at + 1] = 1;
        let (protocol, bytes) = packet(&frame);
        assert!(parse(protocol, bytes).is_none());
    }
}

#[test]
fn unknown_options_are_passed_over_and_broken_ones_end_the_list() {
    let options = read_options(&[34, 4, 1, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], false);
    assert_eq!(options.timestamps, Some((1, 2)));
    for broken in [&[34, 0, 0, 0][..], &[34, 1, 0, 0], &[34, 200, 0, 0], &[34], &[8, 10, 0], &[8, 3, 1, 1]] {
        assert_eq!(read_options(broken, true).timestamps, None);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..200), first in 0..2usize, is_v4 in any::<bool>(),
    ) {
        let mut bytes = bytes;
        // Mostly of the version that they are taken for.
        if let Some(byte) = bytes.first_mut().filter(|_| first == 0) {
            *byte = if is_v4 { 0x45 } else { 0x60 };
        }
        let _ = parse(if is_v4 { ETH_P_IP } else { ETH_P_IPV6 }, &bytes);
        let _ = parse_tcp(head(PAIRS[0].0, PAIRS[0].1), &bytes);
        let _ = parse_udp(head(PAIRS[1].0, PAIRS[1].1), &bytes);
        let _ = read_options(&bytes, true);
    }

    #[test]
    fn damaged_frames_are_read_without_harm(
        at in 0..100usize, flip in any::<u8>(), cut in 0..140usize, is_tcp in any::<bool>(), pair in 0..2usize,
    ) {
        let head = head(PAIRS[pair].0, PAIRS[pair].1);
        let mut frames = Vec::from([udp_frame(&head, &chunk(&[1; 50])).unwrap()]);
        if is_tcp {
            tcp_frames(&head, &full_segment(&[1; 50]), |frame| frames.push(frame));
        }
        for mut frame in frames {
            if let Some(byte) = frame.get_mut(at) {
                *byte ^= flip;
            }
            let protocol = head.protocol();
            let _ = parse(protocol, frame.get(ETHERNET..cut).unwrap_or_default());
            let _ = parse(protocol, &frame[ETHERNET..]);
        }
    }
}
