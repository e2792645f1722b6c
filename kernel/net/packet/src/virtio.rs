//! `struct virtio_net_hdr`, which goes before packets with `PACKET_VNET_HDR`: what is left to do with one.
//!
//! Packets that are received have nothing left: their checksums are right and they are whole.

use abi::{Errno, Result};

/// The plain header, and the one with a number of buffers.
pub(crate) const LEN: usize = 10;
pub(crate) const LEN_MERGED: usize = 12;
/// The header of a packet with nothing left to do.
pub(crate) const BLANK: [u8; LEN_MERGED] = [0; LEN_MERGED];

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_*`, without the flag of ECN.
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What is to be done with a packet before it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offload {
    /// Where the checksummed part begins, and where in it the checksum is.
    checksum: Option<(usize, usize)>,
    /// It may be longer than a packet can be, and would be cut on a wire.
    pub(crate) is_large: bool,
}

impl Offload {
    /// Reads a header, of which packets have `len` bytes behind it. `EINVAL`: it makes no sense.
    pub(crate) fn parse(header: &[u8], len: usize) -> Result<Self> {
        let header: &[u8; LEN] = header.first_chunk().ok_or(Errno::EINVAL)?;
        let [flags, gso, h0, h1, s0, s1, c0, c1, o0, o1] = *header;
        let half = |a: u8, b: u8| usize::from(u16::from_le_bytes([a, b]));
        let (header_len, size, start, offset) = (half(h0, h1), half(s0, s1), half(c0, c1), half(o0, o1));
        let needs_checksum = flags & NEEDS_CHECKSUM != 0;
        let most = if needs_checksum { header_len.max(start + offset + 2) } else { header_len };
        if most > len {
            return Err(Errno::EINVAL);
        }
        let is_large = match gso & !GSO_ECN {
            GSO_NONE => false,
            GSO_TCPV4 | GSO_TCPV6 | GSO_UDP | GSO_UDP_L4 if size > 0 => true,
            _ => return Err(Errno::EINVAL),
        };
        Ok(Self { checksum: needs_checksum.then_some((start, offset)), is_large })
    }

    /// Does what is to be done with the bytes of a packet: the sum over the rest, in which the sender has put the part of
    /// its pseudo header. `EINVAL`: the place is not in the packet.
    pub(crate) fn apply(&self, bytes: &mut [u8]) -> Result<()> {
        let Some((start, offset)) = self.checksum else { return Ok(()) };
        let part = bytes.get_mut(start..).ok_or(Errno::EINVAL)?;
        let sum = part.chunks(2).fold(0u64, |sum, pair| {
            let low = pair.get(1).copied().unwrap_or(0);
            sum + u64::from(u16::from_be_bytes([pair[0], low]))
        });
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = ((folded & 0xffff) + (folded >> 16)) as u16;
        // 0 would mean that there is none.
        let sum = if folded == u16::MAX { u16::MAX } else { !folded };
        let place = part.get_mut(offset..offset + 2).ok_or(Errno::EINVAL)?;
        place.copy_from_slice(&sum.to_be_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_make_no_sense_are_refused() {
        let header =
            |flags, gso, size: u8, start: u8, offset: u8| [flags, gso, 0, 0, size, 0, start, 0, offset, 0];
        assert_eq!(Offload::parse(&header(0, 0, 0, 99, 99), 20), Ok(Offload::default()));
        assert!(Offload::parse(&header(1, 0, 0, 14, 4), 20).is_ok());
        assert_eq!(Offload::parse(&header(1, 0, 0, 14, 5), 20), Err(Errno::EINVAL));
        assert_eq!(Offload::parse(&header(0, 3, 0, 0, 0), 20), Err(Errno::EINVAL));
        assert_eq!(Offload::parse(&header(0, 2, 9, 0, 0), 20), Err(Errno::EINVAL));
        assert!(Offload::parse(&header(0, 3 | 0x80, 9, 0, 0), 20).unwrap().is_large);
        assert_eq!(Offload::parse(&[0; 9], 20), Err(Errno::EINVAL));
    }

    #[test]
    fn checksums_are_completed() {
        let offload = Offload { checksum: Some((2, 4)), is_large: false };
        let mut bytes = [9, 9, 0x12, 0x34, 0, 1, 0, 5, 7];
        offload.apply(&mut bytes).unwrap();
        // 0x1234 + 1 + 5 + 0x0700, complemented.
        assert_eq!(bytes[6..8], (!0x193a_u16).to_be_bytes());
        assert!(offload.apply(&mut bytes[..7]).is_err() && offload.apply(&mut bytes[..1]).is_err());
    }
}
