//! Packets as bytes: what a segment or a datagram looks like on a wire, and the way back.
//!
//! On `lo` nothing is made bytes unless somebody wants to see them (`tap`) or has sent them (`input`). The formats are those
//! of the crate etherparse; here is what this crate's types have to do with them.

use alloc::vec::Vec;

use core::sync::atomic::Ordering::Relaxed;

use etherparse::{
    EtherType, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv4Slice,
    Ipv6Header, Ipv6Slice, NetSlice, SlicedPacket, TcpHeader, TcpOptionElement, TcpOptionReadError,
    TcpOptionsIterator, TcpSlice, TransportSlice, UdpHeader, UdpSlice, icmpv4, icmpv6, ip_number,
};
use tcp::segment::{SegOptions, chain_len};
use tcp::seq::Seq;
use tcp::{Flags, Payload};

use crate::buffer::Chunk;
use crate::ip::{Endpoint, Ip};
use crate::sysctl;
use crate::tap::Flow;
use crate::tcp::conn::Segment;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// `ETH_P_IP`.
pub const ETH_P_IP: u16 = 0x0800;
/// `ETH_P_IPV6`.
pub const ETH_P_IPV6: u16 = 0x86dd;
/// Most bytes of a packet of version 4, and of one of version 6 after its header.
const MAX_PACKET: usize = 65535;
/// Headers of extensions that a packet of version 6 may have.
const MAX_EXTENSIONS: usize = 15;

/// Whom a packet is from and for, and what its header says besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) from: Endpoint,
    pub(crate) to: Endpoint,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
}

/// Both addresses as they are written, which are of one version.
enum Addresses {
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
}

impl Head {
    fn addresses(&self) -> Addresses {
        match (self.from.ip.as_v4(), self.to.ip.as_v4()) {
            (Some(from), Some(to)) => Addresses::V4(from.to_be_bytes(), to.to_be_bytes()),
            _ => Addresses::V6(self.from.ip.0.to_be_bytes(), self.to.ip.0.to_be_bytes()),
        }
    }

    /// The protocol that the Ethernet header names.
    pub(crate) fn protocol(&self) -> u16 {
        match self.addresses() {
            Addresses::V4(..) => ETH_P_IP,
            Addresses::V6(..) => ETH_P_IPV6,
        }
    }

    /// Bytes of the header of IP.
    fn ip_len(&self) -> usize {
        match self.addresses() {
            Addresses::V4(..) => Ipv4Header::MIN_LEN,
            Addresses::V6(..) => Ipv6Header::LEN,
        }
    }

    /// Writes the header of IP before `len` bytes of `protocol`. `None`: no packet has so many.
    fn write_ip(&self, out: &mut Vec<u8>, protocol: IpNumber, len: usize) -> Option<()> {
        match self.addresses() {
            Addresses::V4(from, to) => {
                let len = u16::try_from(len).ok()?;
                let mut header = Ipv4Header::new(len, self.ttl, protocol, from, to).ok()?;
                header.dscp = (self.tos >> 2).try_into().ok()?;
                header.ecn = (self.tos & 3).try_into().ok()?;
                header.header_checksum = header.calc_header_checksum();
                out.extend_from_slice(&header.to_bytes());
            }
            Addresses::V6(from, to) => {
                let header = Ipv6Header {
                    traffic_class: self.tos,
                    payload_length: u16::try_from(len).ok()?,
                    next_header: protocol,
                    hop_limit: self.ttl,
                    source: from,
                    destination: to,
                    ..Ipv6Header::default()
                };
                out.extend_from_slice(&header.to_bytes());
            }
        }
        Some(())
    }

    /// A frame with the headers of Ethernet and IP, zeroes for a header of `header_len` bytes of `protocol`, and the bytes
    /// from `start` to `end` of `data`. `None`: too long, or no memory.
    fn frame(
        &self,
        protocol: IpNumber,
        header_len: usize,
        data: &[Chunk],
        start: usize,
        end: usize,
    ) -> Option<Vec<u8>> {
        let len = header_len + (end - start);
        let mut out = Vec::new();
        out.try_reserve_exact(ETHERNET + self.ip_len() + len).ok()?;
        // `lo` has the address of zeroes.
        out.resize(ETHERNET - 2, 0);
        out.extend_from_slice(&self.protocol().to_be_bytes());
        self.write_ip(&mut out, protocol, len)?;
        let mut at = out.len() + header_len;
        out.resize(out.len() + len, 0);
        let mut skipped = 0;
        for piece in data {
            let (from, to) = (start.saturating_sub(skipped), end.saturating_sub(skipped).min(piece.len()));
            if from < to {
                at += piece.slice(from, to).read(out.get_mut(at..)?);
            }
            skipped += piece.len();
        }
        Some(out)
    }
}

/// The frame of a datagram. `None`: too long, or no memory.
pub(crate) fn udp_frame(head: &Head, data: &Chunk) -> Option<Vec<u8>> {
    let mut bytes = head.frame(ip_number::UDP, UdpHeader::LEN, core::slice::from_ref(data), 0, data.len())?;
    let (front, payload) = bytes.split_at_mut_checked(ETHERNET + head.ip_len() + UdpHeader::LEN)?;
    let mut header = UdpHeader {
        source_port: head.from.port,
        destination_port: head.to.port,
        length: u16::try_from(UdpHeader::LEN + payload.len()).ok()?,
        checksum: 0,
    };
    header.checksum = match head.addresses() {
        Addresses::V4(from, to) => header.calc_checksum_ipv4_raw(from, to, payload).ok()?,
        Addresses::V6(from, to) => header.calc_checksum_ipv6_raw(from, to, payload).ok()?,
    };
    front.get_mut(ETHERNET + head.ip_len()..)?.copy_from_slice(&header.to_bytes());
    Some(bytes)
}

/// The frame of the message of ICMP that nobody has the port of a datagram, which quotes the datagram: of version 4 as far
/// as 576 bytes go (RFC 1812, 4.3.2.3), of version 6 as far as the least MTU goes (RFC 4443, 3.1). `None`: no memory.
pub(crate) fn refusal_frame(head: &Head, data: &Chunk) -> Option<Vec<u8>> {
    const HEADER: usize = 8;
    let refused = udp_frame(head, data)?;
    let back = Head { from: head.to, to: head.from, ttl: sysctl::TTL.load(Relaxed) as u8, tos: 0xc0 };
    let most = match head.addresses() {
        Addresses::V4(..) => 576,
        Addresses::V6(..) => 1280,
    } - head.ip_len()
        - HEADER;
    let packet = refused.get(ETHERNET..)?;
    let quoted = packet.get(..most).unwrap_or(packet);
    let (protocol, header) = match back.addresses() {
        Addresses::V4(..) => {
            let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
            (ip_number::ICMP, Icmpv4Header::with_checksum(kind, quoted).to_bytes().into_iter().collect())
        }
        Addresses::V6(from, to) => {
            let kind = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
            let header = Icmpv6Header::with_checksum(kind, from, to, quoted).ok()?;
            (ip_number::IPV6_ICMP, header.to_bytes().into_iter().collect::<smallvec::SmallVec<[u8; 20]>>())
        }
    };
    let mut out = Vec::new();
    out.try_reserve_exact(ETHERNET + back.ip_len() + header.len() + quoted.len()).ok()?;
    out.resize(ETHERNET - 2, 0);
    out.extend_from_slice(&back.protocol().to_be_bytes());
    back.write_ip(&mut out, protocol, header.len() + quoted.len())?;
    out.extend_from_slice(&header);
    out.extend_from_slice(quoted);
    Some(out)
}

/// The options as elements, in the order in which Linux writes them.
fn elements(options: &SegOptions) -> smallvec::SmallVec<[TcpOptionElement; 10]> {
    use TcpOptionElement as E;
    let mut all = smallvec::SmallVec::new();
    all.extend(options.mss.map(E::MaximumSegmentSize));
    match options.timestamps {
        Some((mine, theirs)) => {
            let pad = if options.sack_permitted { &[][..] } else { &[E::Noop, E::Noop] };
            all.extend(options.sack_permitted.then_some(E::SelectiveAcknowledgementPermitted));
            all.extend(pad.iter().cloned());
            all.push(E::Timestamp(mine, theirs));
        }
        None if options.sack_permitted => {
            all.extend([E::Noop, E::Noop, E::SelectiveAcknowledgementPermitted]);
        }
        None => {}
    }
    if let Some(scale) = options.window_scale {
        all.extend([E::Noop, E::WindowScale(scale)]);
    }
    let block = |at: usize| options.sack.get(at).map(|(start, end)| (start.0, end.0));
    if let Some(first) = block(0) {
        all.extend([E::Noop, E::Noop, E::SelectiveAcknowledgement(first, [block(1), block(2), block(3)])]);
    }
    all
}

fn tcp_header(head: &Head, segment: &Segment) -> TcpHeader {
    let flags = segment.flags;
    let mut header = TcpHeader::new(head.from.port, head.to.port, segment.seq.0, segment.window);
    header.acknowledgment_number = segment.ack.0;
    header.fin = flags.has(Flags::FIN);
    header.syn = flags.has(Flags::SYN);
    header.rst = flags.has(Flags::RST);
    header.psh = flags.has(Flags::PSH);
    header.ack = flags.has(Flags::ACK);
    header.urg = flags.has(Flags::URG);
    header.urgent_pointer = segment.urgent;
    // More than there is room for cannot be.
    let _ = header.set_options(&elements(&segment.options));
    header
}

/// The frames of a segment, of which there are two or more where it is longer than a packet can be: on `lo`, what one call
/// writes is not cut. Those for which there is no memory are left out.
pub(crate) fn tcp_frames(head: &Head, segment: &Segment, mut each: impl FnMut(Vec<u8>)) {
    let mut header = tcp_header(head, segment);
    let (is_last_fin, is_last_psh) = (header.fin, header.psh);
    let header_len = header.header_len();
    let most = MAX_PACKET - head.ip_len() - header_len;
    let len = chain_len(&segment.data);
    let mut start = 0;
    loop {
        let end = len.min(start + most);
        let is_last = end == len;
        header.sequence_number = (segment.seq + start as u32).0;
        (header.fin, header.psh) = (is_last_fin && is_last, is_last_psh && is_last);
        if start > 0 {
            // It counts from where the frame begins.
            header.urgent_pointer = usize::from(segment.urgent).saturating_sub(start) as u16;
            header.urg &= header.urgent_pointer > 0;
        }
        header.checksum = 0;
        let bytes = head.frame(ip_number::TCP, header_len, &segment.data, start, end);
        if let Some(bytes) = bytes.and_then(|bytes| with_tcp_header(head, &mut header, bytes)) {
            each(bytes);
        }
        if is_last {
            return;
        }
        start = end;
    }
}

/// Writes the header into the place that is left for it.
fn with_tcp_header(head: &Head, header: &mut TcpHeader, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let at = ETHERNET + head.ip_len();
    let (front, payload) = bytes.split_at_mut_checked(at + header.header_len())?;
    header.checksum = match head.addresses() {
        Addresses::V4(from, to) => header.calc_checksum_ipv4_raw(from, to, payload).ok()?,
        Addresses::V6(from, to) => header.calc_checksum_ipv6_raw(from, to, payload).ok()?,
    };
    front.get_mut(at..)?.copy_from_slice(&header.to_bytes());
    Some(bytes)
}

/// What a packet carries, with the bytes of its data.
pub(crate) enum Parsed<'a> {
    /// A segment without its data.
    Tcp(Head, Segment, &'a [u8]),
    /// A datagram.
    Udp(Head, &'a [u8]),
}

impl Parsed<'_> {
    pub(crate) fn head(&self) -> &Head {
        match self {
            Self::Tcp(head, ..) | Self::Udp(head, _) => head,
        }
    }
}

/// Whether two sums are one number in ones' complement, in which there are two zeroes: who completes the sum of another writes
/// either.
fn is_same_sum(a: u16, b: u16) -> bool {
    a % u16::MAX == b % u16::MAX
}

/// Whether a packet of version 6 has few enough headers of extensions; what else may be wrong with them is left to others.
///
/// LINUX: there may be any number of them. Here each look at a packet goes through them all.
fn has_few_extensions(packet: &[u8]) -> bool {
    let Some(mut next) = packet.get(6).copied() else { return true };
    let mut at = Ipv6Header::LEN;
    for _ in 0..=MAX_EXTENSIONS {
        let Some(&[following, len]) = packet.get(at..).and_then(|rest| rest.first_chunk()) else {
            return true;
        };
        at += match IpNumber(next) {
            ip_number::IPV6_FRAG => 8,
            ip_number::AUTH => (usize::from(len) + 2) * 4,
            number if number.is_ipv6_ext_header_value() => (usize::from(len) + 1) * 8,
            _ => return true,
        };
        next = following;
    }
    false
}

/// Reads a packet of IP. `None`: it is broken, a fragment, or of a protocol that nobody here knows.
pub(crate) fn parse(protocol: u16, packet: &[u8]) -> Option<Parsed<'_>> {
    let none = |ip: Ip| Endpoint { ip, port: 0 };
    let (head, payload) = match protocol {
        ETH_P_IP => {
            let slice = Ipv4Slice::from_slice(packet).ok()?;
            let header = slice.header().to_header();
            if !is_same_sum(header.calc_header_checksum(), header.header_checksum) {
                return None;
            }
            let ip = |bytes: [u8; 4]| none(Ip::v4(u32::from_be_bytes(bytes)));
            let tos = header.dscp.value() << 2 | header.ecn.value();
            let (from, to) = (ip(header.source), ip(header.destination));
            (Head { from, to, ttl: header.time_to_live, tos }, slice.payload().clone())
        }
        ETH_P_IPV6 if has_few_extensions(packet) => {
            let slice = Ipv6Slice::from_slice(packet).ok()?;
            let header = slice.header().to_header();
            let ip = |bytes: [u8; 16]| none(Ip(u128::from_be_bytes(bytes)));
            let (from, to) = (ip(header.source), ip(header.destination));
            // Mapped addresses are for sockets and are not to be in packets.
            if from.ip.is_v4() || to.ip.is_v4() {
                return None;
            }
            let head = Head { from, to, ttl: header.hop_limit, tos: header.traffic_class };
            (head, slice.payload().clone())
        }
        _ => return None,
    };
    if payload.fragmented {
        return None;
    }
    match payload.ip_number {
        ip_number::TCP => parse_tcp(head, payload.payload),
        ip_number::UDP => parse_udp(head, payload.payload),
        _ => None,
    }
}

fn parse_udp(mut head: Head, bytes: &[u8]) -> Option<Parsed<'_>> {
    let slice = UdpSlice::from_slice(bytes).ok()?;
    let (header, payload) = (slice.to_header(), slice.payload());
    if header.length == 0 {
        return None;
    }
    let blank = UdpHeader { checksum: 0, ..header.clone() };
    let sum = match head.addresses() {
        // Version 4 may do without.
        Addresses::V4(..) if header.checksum == 0 => 0,
        Addresses::V4(from, to) => blank.calc_checksum_ipv4_raw(from, to, payload).ok()?,
        Addresses::V6(from, to) => blank.calc_checksum_ipv6_raw(from, to, payload).ok()?,
    };
    if sum != header.checksum {
        return None;
    }
    (head.from.port, head.to.port) = (header.source_port, header.destination_port);
    Some(Parsed::Udp(head, payload))
}

fn parse_tcp(mut head: Head, bytes: &[u8]) -> Option<Parsed<'_>> {
    let slice = TcpSlice::from_slice(bytes).ok()?;
    let sum = match head.addresses() {
        Addresses::V4(from, to) => slice.calc_checksum_ipv4(from, to).ok()?,
        Addresses::V6(from, to) => slice.calc_checksum_ipv6(from, to).ok()?,
    };
    if !is_same_sum(sum, slice.checksum()) {
        return None;
    }
    (head.from.port, head.to.port) = (slice.source_port(), slice.destination_port());
    let bits = [
        (slice.fin(), Flags::FIN),
        (slice.syn(), Flags::SYN),
        (slice.rst(), Flags::RST),
        (slice.psh(), Flags::PSH),
        (slice.ack(), Flags::ACK),
        (slice.urg(), Flags::URG),
    ];
    let flags = bits.iter().filter(|(is_set, _)| *is_set).fold(Flags(0), |all, (_, flag)| all.with(*flag));
    let mut segment = Segment::bare(Seq(slice.sequence_number()), Seq(slice.acknowledgment_number()), flags);
    segment.window = slice.window_size();
    segment.urgent = slice.urgent_pointer();
    segment.options = read_options(slice.options(), flags.has(Flags::SYN));
    Some(Parsed::Tcp(head, segment, slice.payload()))
}

/// Looks at the headers of a packet, whether they are right or not; what is not understood counts for nothing.
pub(crate) fn flow(protocol: u16, packet: &[u8]) -> Flow {
    if protocol == ETH_P_IPV6 && !has_few_extensions(packet) {
        return Flow::default();
    }
    let Ok(sliced) = SlicedPacket::from_ether_type(EtherType(protocol), packet) else {
        return Flow::default();
    };
    let (ends, ip_payload) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            (
                (Ip::of_std(header.source_addr().into()), Ip::of_std(header.destination_addr().into())),
                ip.payload(),
            )
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            (
                (Ip::of_std(header.source_addr().into()), Ip::of_std(header.destination_addr().into())),
                ip.payload(),
            )
        }
        _ => return Flow::default(),
    };
    let (ports, data) = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => ((tcp.source_port(), tcp.destination_port()), tcp.payload()),
        Some(TransportSlice::Udp(udp)) => ((udp.source_port(), udp.destination_port()), udp.payload()),
        _ => ((0, 0), ip_payload.payload),
    };
    // Both ends count alike.
    let fold = |ip: Ip| (ip.0 >> 64) as u64 ^ ip.0 as u64;
    let end = |ip: Ip, port: u16| (fold(ip) ^ u64::from(port) << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = end(ends.0, ports.0) ^ end(ends.1, ports.1) ^ u64::from(ip_payload.ip_number.0);
    let hash = (hash.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32;
    let payload = (data.as_ptr().addr() - packet.as_ptr().addr()) as u32;
    Flow { hash, payload }
}

/// Reads the options up to the first broken one; unknown ones are passed over. Some count in a SYN only.
fn read_options(mut bytes: &[u8], is_syn: bool) -> SegOptions {
    use TcpOptionElement as E;
    let mut options = SegOptions::default();
    loop {
        let mut iterator = TcpOptionsIterator::from_slice(bytes);
        let Some(next) = iterator.next() else { return options };
        match next {
            Ok(E::MaximumSegmentSize(mss)) if is_syn => options.mss = Some(mss),
            // RFC 7323, 2.3: more is taken for 14.
            Ok(E::WindowScale(scale)) if is_syn => options.window_scale = Some(scale.min(14)),
            Ok(E::SelectiveAcknowledgementPermitted) => options.sack_permitted = is_syn,
            Ok(E::Timestamp(mine, theirs)) => options.timestamps = Some((mine, theirs)),
            Ok(E::SelectiveAcknowledgement(first, more)) => {
                let blocks = core::iter::once(first).chain(more.into_iter().flatten());
                options.sack = blocks.map(|(start, end)| (Seq(start), Seq(end))).collect();
            }
            Ok(_) => {}
            Err(TcpOptionReadError::UnknownId(_)) => {
                // Kind, and a length that counts both.
                let len = bytes.get(1).map_or(0, |&len| usize::from(len));
                match bytes.get(len..) {
                    Some(rest) if len >= 2 => bytes = rest,
                    _ => return options,
                }
                continue;
            }
            Err(_) => return options,
        }
        bytes = iterator.rest();
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
