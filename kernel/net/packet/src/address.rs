//! `struct sockaddr_ll` (packet(7)).

use alloc::vec::Vec;

use abi::socket::AF_PACKET;
use abi::{Errno, Result};

/// Bytes of `struct sockaddr_ll`.
pub(crate) const LEN: usize = 20;
/// Bytes before its hardware address.
const HEAD: usize = 12;
/// `ARPHRD_LOOPBACK`.
pub(crate) const LOOPBACK: u16 = 772;
/// Bytes of a hardware address of Ethernet.
pub(crate) const HARDWARE: usize = 6;

/// An address of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Address {
    /// Its protocol (`ETH_P_*`).
    pub(crate) protocol: u16,
    /// Number of its interface.
    pub(crate) interface: i32,
    /// Kind of the interface.
    pub(crate) hardware: u16,
    /// `PACKET_*`.
    pub(crate) way: u8,
    /// Bytes of the address that count.
    pub(crate) len: u8,
    pub(crate) bytes: [u8; 8],
}

impl Address {
    /// All fields, with zeroes up to the whole length.
    pub(crate) fn to_array(self) -> [u8; LEN] {
        let mut out = [0; LEN];
        let parts: [&[u8]; 7] = [
            &AF_PACKET.to_ne_bytes(),
            &self.protocol.to_be_bytes(),
            &self.interface.to_ne_bytes(),
            &self.hardware.to_ne_bytes(),
            &[self.way],
            &[self.len],
            &self.bytes,
        ];
        for (to, from) in out.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        out
    }

    /// As getsockname(2) gives it: no more bytes than the address has.
    pub(crate) fn to_short(self) -> Vec<u8> {
        let len = HEAD + usize::from(self.len).min(8);
        self.to_array().into_iter().take(len).collect()
    }

    /// Reads one. `EINVAL`: too short.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let all: &[u8; LEN] = bytes.first_chunk().ok_or(Errno::EINVAL)?;
        let [_, _, p0, p1, i0, i1, i2, i3, h0, h1, way, len, rest @ ..] = *all;
        Ok(Self {
            protocol: u16::from_be_bytes([p0, p1]),
            interface: i32::from_ne_bytes([i0, i1, i2, i3]),
            hardware: u16::from_ne_bytes([h0, h1]),
            way,
            len,
            bytes: rest,
        })
    }

    /// Reads one for bind(2). `EINVAL`: too short, or of another family.
    pub(crate) fn parse_for_bind(bytes: &[u8]) -> Result<Self> {
        let address = Self::parse(bytes)?;
        if bytes.first_chunk() == Some(&AF_PACKET.to_ne_bytes()) { Ok(address) } else { Err(Errno::EINVAL) }
    }

    /// Reads the receiver of a message. `EINVAL`: too short for itself, or the hardware address is shorter than `needed`.
    pub(crate) fn parse_receiver(bytes: &[u8], needed: usize) -> Result<Self> {
        let address = Self::parse(bytes)?;
        if bytes.len() < HEAD + usize::from(address.len) || bytes.len() < HEAD + needed {
            return Err(Errno::EINVAL);
        }
        Ok(address)
    }

    /// The hardware address, of the length that Ethernet has.
    pub(crate) fn ethernet(&self) -> [u8; HARDWARE] {
        let [a, b, c, d, e, f, ..] = self.bytes;
        [a, b, c, d, e, f]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        let address = Address {
            protocol: 0x800,
            interface: 1,
            hardware: LOOPBACK,
            way: 4,
            len: 6,
            bytes: [1, 2, 3, 4, 5, 6, 0, 0],
        };
        let bytes = address.to_array();
        assert_eq!(Address::parse_for_bind(&bytes), Ok(address));
        assert_eq!((&bytes[..4], bytes[11]), (&[17, 0, 8, 0][..], 6));
        assert_eq!(address.to_short().len(), 18);
        assert_eq!(address.ethernet(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn short_and_foreign_addresses_are_refused() {
        let mut bytes = Address::default().to_array();
        assert_eq!(Address::parse(&bytes[..19]), Err(Errno::EINVAL));
        bytes[11] = 9;
        assert_eq!(Address::parse_receiver(&bytes, 0), Err(Errno::EINVAL));
        bytes[0] = 2;
        assert_eq!(Address::parse_for_bind(&bytes), Err(Errno::EINVAL));
        assert!(Address::parse(&bytes).is_ok());
    }
}
