//! Options of the levels `IPPROTO_IP` and `IPPROTO_IPV6` (ip(7), ipv6(7)).
//!
//! Most are numbers that are kept and given back; what a name does beyond that is with whoever asks for it.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, Ordering::Relaxed};

use abi::socket::{AF_INET, AF_INET6};
use abi::{Errno, Result};

use crate::sysctl;

/// `IPPROTO_IP`.
pub(crate) const LEVEL_IP: i32 = 0;
/// `IPPROTO_IPV6`.
pub(crate) const LEVEL_IPV6: i32 = 41;

struct Row {
    level: i32,
    name: i32,
    default: i32,
    min: i32,
    max: i32,
}

const fn row(level: i32, name: i32, default: i32, min: i32, max: i32) -> Row {
    Row { level, name, default, min, max }
}

/// A switch that is off.
const fn switch(level: i32, name: i32) -> Row {
    row(level, name, 0, 0, 1)
}

const IP_TOS: usize = 0;
const IP_TTL: usize = 1;
const IPV6_HOPS: usize = 2;
const V6_ONLY: usize = 3;
const IP_PKTINFO: usize = 4;
const IP_RECVTTL: usize = 5;
const IP_RECVTOS: usize = 6;
const IPV6_PKTINFO: usize = 7;
const IPV6_RECVHOPS: usize = 8;
const IPV6_RECVTCLASS: usize = 9;
const IPV6_TCLASS: usize = 10;
const IP_RECVERR: usize = 11;
const IPV6_RECVERR: usize = 12;
const IP_FREEBIND: usize = 13;
const IPV6_FREEBIND: usize = 14;

const ROWS: [Row; 26] = [
    row(LEVEL_IP, 1, 0, i32::MIN, i32::MAX),
    row(LEVEL_IP, 2, -1, -1, 255),
    row(LEVEL_IPV6, 16, -1, -1, 255),
    switch(LEVEL_IPV6, 26),
    switch(LEVEL_IP, 8),
    switch(LEVEL_IP, 12),
    switch(LEVEL_IP, 13),
    switch(LEVEL_IPV6, 49),
    switch(LEVEL_IPV6, 51),
    switch(LEVEL_IPV6, 66),
    row(LEVEL_IPV6, 67, -1, -1, 255),
    switch(LEVEL_IP, 11),
    switch(LEVEL_IPV6, 25),
    switch(LEVEL_IP, 15),
    switch(LEVEL_IPV6, 78),
    row(LEVEL_IP, 10, 1, 0, 5),
    row(LEVEL_IPV6, 23, 1, 0, 5),
    row(LEVEL_IP, 33, 1, -1, 255),
    row(LEVEL_IP, 34, 1, 0, 1),
    row(LEVEL_IPV6, 18, -1, -1, 255),
    row(LEVEL_IPV6, 19, 1, 0, 1),
    switch(LEVEL_IP, 24),
    switch(LEVEL_IPV6, 62),
    switch(LEVEL_IPV6, 70),
    row(LEVEL_IP, 21, 0, 0, 255),
    row(LEVEL_IPV6, 73, 0, 0, 255),
];

/// `IP_MTU` and `IPV6_MTU`, which only connected sockets know.
const IP_MTU: i32 = 14;
const IPV6_MTU: i32 = 24;

/// The options of one socket.
pub(crate) struct IpOptions {
    values: [AtomicI32; ROWS.len()],
}

/// An `int` from an option's value; `char` is enough where Linux takes one. `EINVAL`: too short.
pub(crate) fn int(value: &[u8]) -> Result<i32> {
    match (value.first_chunk(), value.first()) {
        (Some(raw), _) => Ok(i32::from_ne_bytes(*raw)),
        (None, Some(&byte)) => Ok(i32::from(byte)),
        _ => Err(Errno::EINVAL),
    }
}

/// Which row, if a socket of `family` has this option.
fn find(family: u16, level: i32, name: i32) -> Result<usize> {
    if level == LEVEL_IPV6 && family != AF_INET6 {
        return Err(Errno::ENOPROTOOPT);
    }
    ROWS.iter().position(|row| (row.level, row.name) == (level, name)).ok_or(Errno::ENOPROTOOPT)
}

impl IpOptions {
    pub(crate) fn new() -> Self {
        let options = Self { values: core::array::from_fn(|at| AtomicI32::new(ROWS[at].default)) };
        options.values[V6_ONLY].store(sysctl::BIND_V6_ONLY.load(Relaxed) as i32, Relaxed);
        options
    }

    fn get_at(&self, at: usize) -> i32 {
        self.values[at].load(Relaxed)
    }

    /// Takes over what an accepted socket inherits.
    pub(crate) fn inherit(&self, listener: &Self) {
        for (mine, theirs) in self.values.iter().zip(&listener.values) {
            mine.store(theirs.load(Relaxed), Relaxed);
        }
    }

    /// `EINVAL`: out of range. `ENOPROTOOPT`: no such option.
    pub(crate) fn set(&self, family: u16, level: i32, name: i32, value: &[u8]) -> Result<()> {
        let at = find(family, level, name)?;
        let value = int(value)?;
        let row = &ROWS[at];
        let value = match at {
            // The low bits are for congestion, which is not the user's.
            IP_TOS => value & 0xff,
            IP_TTL if !(value == -1 || (1..=255).contains(&value)) => return Err(Errno::EINVAL),
            _ if row.max == 1 && row.min == 0 => i32::from(value != 0),
            _ if !(row.min..=row.max).contains(&value) => return Err(Errno::EINVAL),
            _ => value,
        };
        self.values[at].store(value, Relaxed);
        Ok(())
    }

    /// `ENOPROTOOPT`: no such option. `EOPNOTSUPP`: no such level, for a socket of version 4. `ENOTCONN`: known only with a peer, of which `is_connected` tells.
    pub(crate) fn get(&self, family: u16, level: i32, name: i32, is_connected: bool) -> Result<Vec<u8>> {
        if (level, name) == (LEVEL_IP, IP_MTU) || (level, name) == (LEVEL_IPV6, IPV6_MTU) {
            return if is_connected { Ok(65536i32.to_ne_bytes().to_vec()) } else { Err(Errno::ENOTCONN) };
        }
        if family == AF_INET && level != LEVEL_IP {
            return Err(Errno::EOPNOTSUPP);
        }
        let at = find(family, level, name)?;
        let value = match (at, self.get_at(at)) {
            (IP_TTL | IPV6_HOPS, -1) => sysctl::TTL.load(Relaxed) as i32,
            (IPV6_TCLASS, -1) => 0,
            (_, value) => value,
        };
        Ok(value.to_ne_bytes().to_vec())
    }

    pub(crate) fn v6_only(&self) -> bool {
        self.get_at(V6_ONLY) != 0
    }

    pub(crate) fn free_bind(&self) -> bool {
        self.get_at(IP_FREEBIND) != 0 || self.get_at(IPV6_FREEBIND) != 0
    }

    /// Whether errors of packets are kept for the user.
    pub(crate) fn receives_errors(&self) -> bool {
        self.get_at(IP_RECVERR) != 0 || self.get_at(IPV6_RECVERR) != 0
    }

    /// Time to live and service type of packets, of version 4 or 6.
    pub(crate) fn ttl_and_tos(&self, is_v4: bool) -> (u8, u8) {
        let (ttl, tos) = if is_v4 { (IP_TTL, IP_TOS) } else { (IPV6_HOPS, IPV6_TCLASS) };
        let ttl = u8::try_from(self.get_at(ttl)).unwrap_or(sysctl::TTL.load(Relaxed) as u8);
        (ttl, u8::try_from(self.get_at(tos)).unwrap_or(0))
    }

    /// Which control data goes with a packet: its destination, its time to live, its service type.
    pub(crate) fn wanted(&self, is_v4: bool) -> [bool; 3] {
        let at = if is_v4 {
            [IP_PKTINFO, IP_RECVTTL, IP_RECVTOS]
        } else {
            [IPV6_PKTINFO, IPV6_RECVHOPS, IPV6_RECVTCLASS]
        };
        at.map(|at| self.get_at(at) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_stand_where_they_are_looked_for() {
        let at = |level, name| find(AF_INET6, level, name).unwrap();
        assert_eq!((at(LEVEL_IP, 1), at(LEVEL_IP, 2), at(LEVEL_IPV6, 26)), (IP_TOS, IP_TTL, V6_ONLY));
        assert_eq!(
            (at(LEVEL_IP, 8), at(LEVEL_IPV6, 49), at(LEVEL_IP, 11)),
            (IP_PKTINFO, IPV6_PKTINFO, IP_RECVERR)
        );
        assert_eq!((at(LEVEL_IP, 15), at(LEVEL_IPV6, 78)), (IP_FREEBIND, IPV6_FREEBIND));
        assert_eq!(find(AF_INET, LEVEL_IPV6, 26), Err(Errno::ENOPROTOOPT));
    }

    #[test]
    fn values_are_checked() {
        let options = IpOptions::new();
        let set = |name, value: i32| options.set(AF_INET, LEVEL_IP, name, &value.to_ne_bytes());
        assert_eq!(set(2, 0), Err(Errno::EINVAL));
        assert_eq!(set(2, 7), Ok(()));
        assert_eq!(options.ttl_and_tos(true).0, 7);
        assert_eq!(options.set(AF_INET, LEVEL_IP, 2, &[]), Err(Errno::EINVAL));
        assert_eq!(options.get(AF_INET, LEVEL_IP, 2, false), Ok(7i32.to_ne_bytes().to_vec()));
        assert_eq!(options.get(AF_INET, LEVEL_IP, IP_MTU, false), Err(Errno::ENOTCONN));
    }
}
