//! Addresses, and socket addresses as user space writes them (ip(7), ipv6(7)).

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::socket::{AF_INET, AF_INET6};
use abi::{Errno, Result};

/// An address of either version. One of version 4 is kept as its mapped form, `::ffff:a.b.c.d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ip(pub(crate) u128);

/// What the mapped form begins with.
const MAPPED: u128 = 0xffff << 32;
/// The family that ends an association.
pub(crate) const AF_UNSPEC: u16 = 0;
/// Sizes of `struct sockaddr_in` and `struct sockaddr_in6`.
pub(crate) const V4_LEN: usize = 16;
const V6_LEN: usize = 28;
/// `struct sockaddr_in6` without its last field.
const V6_SHORT_LEN: usize = 24;

impl Ip {
    /// `::`.
    pub(crate) const ANY: Ip = Ip(0);
    /// `0.0.0.0`.
    pub(crate) const ANY_V4: Ip = Ip(MAPPED);
    /// `::1`.
    pub(crate) const LOOPBACK_V6: Ip = Ip(1);
    /// `127.0.0.1`.
    pub(crate) const LOOPBACK_V4: Ip = Ip(MAPPED | 0x7f00_0001);

    pub(crate) const fn v4(bits: u32) -> Ip {
        Ip(MAPPED | bits as u128)
    }

    /// Its 32 bits, if it is of version 4.
    #[inline]
    pub(crate) fn as_v4(self) -> Option<u32> {
        (self.0 >> 32 == 0xffff).then_some(self.0 as u32)
    }

    #[inline]
    pub(crate) fn is_v4(self) -> bool {
        self.0 >> 32 == 0xffff
    }

    /// Whether it stands for all addresses of its version.
    #[inline]
    pub(crate) fn is_any(self) -> bool {
        self == Self::ANY || self == Self::ANY_V4
    }

    pub(crate) fn is_multicast(self) -> bool {
        self.as_v4().map_or(self.0 >> 120 == 0xff, |bits| bits >> 28 == 0xe)
    }

    pub(crate) fn is_broadcast(self) -> bool {
        self == Self::v4(u32::MAX)
    }

    /// As the standard library has it.
    pub(crate) fn to_std(self) -> IpAddr {
        match self.as_v4() {
            Some(bits) => IpAddr::V4(Ipv4Addr::from_bits(bits)),
            None => IpAddr::V6(Ipv6Addr::from_bits(self.0)),
        }
    }

    /// That of the standard library.
    pub(crate) fn of_std(ip: IpAddr) -> Ip {
        match ip {
            IpAddr::V4(ip) => Ip::v4(ip.to_bits()),
            IpAddr::V6(ip) => Ip(ip.to_bits()),
        }
    }

    /// The loopback address of its version.
    pub(crate) fn loopback_like(self) -> Ip {
        if self.is_v4() { Self::LOOPBACK_V4 } else { Self::LOOPBACK_V6 }
    }
}

impl core::fmt::Display for Ip {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.as_v4() {
            Some(bits) => Ipv4Addr::from(bits).fmt(f),
            None => Ipv6Addr::from(self.0).fmt(f),
        }
    }
}

impl core::fmt::Debug for Ip {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// Address and port (or protocol).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    pub(crate) ip: Ip,
    pub(crate) port: u16,
}

impl Endpoint {
    pub(crate) const NONE: Endpoint = Endpoint { ip: Ip::ANY, port: 0 };

    /// As a socket address of `family`.
    pub(crate) fn to_bytes(self, family: u16) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(V6_LEN);
        bytes.extend_from_slice(&family.to_ne_bytes());
        bytes.extend_from_slice(&self.port.to_be_bytes());
        if family == AF_INET {
            bytes.extend_from_slice(&(self.ip.0 as u32).to_be_bytes());
            bytes.resize(V4_LEN, 0);
        } else {
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&self.ip.0.to_be_bytes());
            bytes.resize(V6_LEN, 0);
        }
        bytes
    }
}

fn family_of(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|raw| u16::from_ne_bytes(*raw))
}

/// Whether the address only says that there is none any more.
pub(crate) fn is_unspecified(bytes: &[u8]) -> bool {
    family_of(bytes) == Some(AF_UNSPEC)
}

/// How strict an address is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// For bind(2): `AF_UNSPEC` with the address of all is one of version 4.
    Bind,
    /// For connect(2) and send(2).
    Reach,
}

/// Reads a socket address for a socket of `family`. `EINVAL`: too short. `EAFNOSUPPORT`: of another family.
pub(crate) fn parse(bytes: &[u8], family: u16, usage: Use) -> Result<Endpoint> {
    let given = family_of(bytes).ok_or(Errno::EINVAL)?;
    let port = |bytes: &[u8]| u16::from_be_bytes([bytes[2], bytes[3]]);
    let v4 = |bytes: &[u8]| {
        let bits = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        Endpoint { ip: Ip::v4(bits), port: port(bytes) }
    };
    if family == AF_INET {
        if bytes.len() < V4_LEN {
            return Err(Errno::EINVAL);
        }
        let end = v4(bytes);
        return match given {
            AF_INET => Ok(end),
            AF_UNSPEC if usage == Use::Bind && end.ip.is_any() => Ok(end),
            _ => Err(Errno::EAFNOSUPPORT),
        };
    }
    match given {
        AF_INET6 if bytes.len() >= V6_SHORT_LEN => {
            let raw: [u8; 16] = bytes[8..24].try_into().map_err(|_| Errno::EINVAL)?;
            Ok(Endpoint { ip: Ip(u128::from_be_bytes(raw)), port: port(bytes) })
        }
        AF_INET6 => Err(Errno::EINVAL),
        AF_INET if usage == Use::Reach && bytes.len() >= V4_LEN => Ok(v4(bytes)),
        _ if bytes.len() < V6_SHORT_LEN => Err(Errno::EINVAL),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for (ip, family) in
            [(Ip::LOOPBACK_V4, AF_INET), (Ip::LOOPBACK_V6, AF_INET6), (Ip::LOOPBACK_V4, AF_INET6)]
        {
            let end = Endpoint { ip, port: 8080 };
            assert_eq!(parse(&end.to_bytes(family), family, Use::Reach), Ok(end));
        }
        assert_eq!(parse(&[2, 0, 0], AF_INET, Use::Reach), Err(Errno::EINVAL));
        assert_eq!(parse(&[10, 0, 0, 0], AF_INET6, Use::Reach), Err(Errno::EINVAL));
        assert_eq!(parse(&[1; 28], AF_INET6, Use::Bind), Err(Errno::EAFNOSUPPORT));
    }

    #[test]
    fn kinds_of_addresses() {
        assert!(Ip::ANY.is_any() && Ip::ANY_V4.is_any() && Ip::ANY_V4.is_v4() && !Ip::ANY.is_v4());
        assert!(Ip::v4(0xe000_0001).is_multicast() && Ip(0xff02 << 112).is_multicast());
        assert!(!Ip::LOOPBACK_V4.is_multicast() && !Ip::LOOPBACK_V6.is_multicast());
    }
}
