//! Routes: `RTM_GETROUTE`. There are those that follow from the addresses of `lo`, as long as it is on.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;

use abi::socket::{AF_INET, AF_INET6};
use abi::{Errno, Result};
use net_inet::interface::{self, Address, LO_INDEX, SCOPE_HOST};
use net_netlink::message::{self, Builder, Header};
use net_netlink::{Answer, Request};

use super::{NEW_ROUTE, family_of, is_of, put_ip, read_ip};

/// Bytes of `struct rtmsg`.
const INFO_LEN: usize = 12;

/// `RTA_*`.
const DESTINATION: u16 = 1;
const FROM: u16 = 2;
const INTERFACE: u16 = 4;
const PRIORITY: u16 = 6;
const SOURCE: u16 = 7;
const CACHE_INFO: u16 = 12;
const TABLE: u16 = 15;
const PREFERENCE: u16 = 20;
const UID: u16 = 25;
/// `RT_TABLE_*`: the routes to others, and those to this machine.
const MAIN: u8 = 254;
const LOCAL_TABLE: u8 = 255;
/// `RTN_*`: kinds of routes.
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;
const BROADCAST: u8 = 3;
/// The kernel made it (`RTPROT_KERNEL`).
const BY_KERNEL: u8 = 2;
const SCOPE_WORLD: u8 = 0;
const SCOPE_LINK: u8 = 253;
/// It is an answer and in no table (`RTM_F_CLONED`), and about this machine (`RTCF_LOCAL`).
const CLONED: u32 = 0x200;
const TO_HERE: u32 = 0x8000_0000;
/// Bytes of `struct rta_cacheinfo`.
const CACHE_LEN: usize = 32;

/// A route on `lo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    to: IpAddr,
    prefix: u8,
    table: u8,
    kind: u8,
    scope: u8,
    source: Option<IpAddr>,
    priority: Option<u32>,
}

/// The routes that `address` brings.
fn entries(address: &Address) -> Vec<Entry> {
    let mut all = Vec::new();
    if address.ip.is_ipv6() {
        let entry = |to, prefix, table, kind, priority| Entry {
            to,
            prefix,
            table,
            kind,
            scope: SCOPE_WORLD,
            source: None,
            priority: Some(priority),
        };
        // The address that came with `lo` brings no network.
        if !address.is_own {
            all.push(entry(address.first(), address.prefix, MAIN, UNICAST, 256));
        }
        all.push(entry(address.ip, 128, LOCAL_TABLE, LOCAL, 0));
        return all;
    }
    let entry = |to, prefix, kind, scope| Entry {
        to,
        prefix,
        table: LOCAL_TABLE,
        kind,
        scope,
        source: Some(address.ip),
        priority: None,
    };
    if address.prefix < 32 && !address.is_secondary {
        all.push(entry(address.first(), address.prefix, LOCAL, SCOPE_HOST));
    }
    all.push(entry(address.ip, 32, LOCAL, SCOPE_HOST));
    if address.prefix < 31 && !address.is_secondary {
        all.push(entry(address.last(), 32, BROADCAST, SCOPE_LINK));
    }
    all
}

fn describe(header: Header, entry: &Entry) -> Vec<u8> {
    let mut out = Builder::new(header);
    let family = family_of(entry.to) as u8;
    out.put(&[family, entry.prefix, 0, 0, entry.table, BY_KERNEL, entry.scope, entry.kind]).put(&[0; 4]);
    out.word(TABLE, u32::from(entry.table));
    if entry.prefix > 0 {
        put_ip(&mut out, DESTINATION, entry.to);
    }
    if let Some(source) = entry.source {
        put_ip(&mut out, SOURCE, source);
    }
    if let Some(priority) = entry.priority {
        out.word(PRIORITY, priority);
    }
    out.word(INTERFACE, LO_INDEX);
    if entry.to.is_ipv6() {
        out.attribute(CACHE_INFO, &[0; CACHE_LEN]).byte(PREFERENCE, 0);
    }
    out.finish()
}

/// What a request for all routes wants of them.
#[derive(Default)]
struct Filter {
    table: u32,
    protocol: u8,
    kind: u8,
    interface: u32,
}

impl Filter {
    /// `EINVAL`: too short, or a filter that there is not.
    fn of(request: &Request<'_>) -> Result<Self> {
        if !request.is_strict() {
            return Ok(Self::default());
        }
        let (&[_, dst, src, tos, table, protocol, scope, kind, ..], rest) =
            request.message.body.split_first_chunk::<INFO_LEN>().ok_or(Errno::EINVAL)?;
        if (dst, src, tos, scope) != (0, 0, 0, 0) {
            return Err(Errno::EINVAL);
        }
        let mut filter = Self { table: u32::from(table), protocol, kind, interface: 0 };
        for attribute in message::attributes(rest) {
            let value = attribute.as_u32().ok_or(Errno::EINVAL);
            match attribute.kind {
                TABLE => filter.table = value?,
                INTERFACE => filter.interface = value?,
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(filter)
    }

    fn takes(&self, entry: &Entry) -> bool {
        let by = |wanted: u32, is: u32| wanted == 0 || wanted == is;
        by(self.table, u32::from(entry.table))
            && by(u32::from(self.protocol), u32::from(BY_KERNEL))
            && by(u32::from(self.kind), u32::from(entry.kind))
            && by(self.interface, LO_INDEX)
    }
}

/// All routes of `family`. `EINVAL`: a wrong filter, for who wants to know.
pub(super) fn dump(request: &Request<'_>, family: u16) -> Result<Answer> {
    let filter = Filter::of(request)?;
    let net = request.net();
    let addresses = if interface::link(net).is_up { interface::addresses(net) } else { Vec::new() };
    let mut all = BTreeMap::new();
    for entry in addresses.iter().filter(|address| is_of(family, address.ip)).flat_map(entries) {
        if filter.takes(&entry) {
            // The first of equal ones stays.
            let key = (entry.to.is_ipv6(), entry.table, entry.to, entry.prefix, entry.kind);
            all.entry(key).or_insert(entry);
        }
    }
    let header = request.header(NEW_ROUTE, message::MULTI);
    Ok(Answer::Dump(Box::new(all.into_values().map(move |entry| describe(header, &entry)))))
}

/// The way to one address. `EINVAL`: a wrong question. `ENETUNREACH`: there is none.
pub(super) fn get(request: &Request<'_>, family: u16) -> Result<Answer> {
    let (_, rest) = request.message.body.split_first_chunk::<INFO_LEN>().ok_or(Errno::EINVAL)?;
    if ![AF_INET, AF_INET6].contains(&family) {
        return Err(Errno::EOPNOTSUPP);
    }
    let to = message::attributes(rest).find(DESTINATION).ok_or(Errno::ENETUNREACH)?;
    let to = read_ip(family, to.data)?;
    let source = interface::source_for(request.net(), to)?;
    let bits = if to.is_ipv4() { 32 } else { 128 };
    let flags = if to.is_ipv4() { CLONED | TO_HERE } else { 0 };
    let mut out = request.builder(NEW_ROUTE, 0);
    let protocol = if to.is_ipv4() { 0 } else { BY_KERNEL };
    // Without rules of others, both tables of version 4 are one.
    let (from_bits, table) = if to.is_ipv4() { (0, MAIN) } else { (bits, LOCAL_TABLE) };
    out.put(&[family as u8, bits, from_bits, 0, table, protocol, SCOPE_WORLD, LOCAL])
        .put(&flags.to_ne_bytes());
    out.word(TABLE, u32::from(table));
    put_ip(&mut out, DESTINATION, to);
    if to.is_ipv6() {
        put_ip(&mut out, FROM, IpAddr::from([0u8; 16]));
    }
    out.word(INTERFACE, LO_INDEX);
    put_ip(&mut out, SOURCE, source);
    if to.is_ipv6() {
        out.word(PRIORITY, 0).byte(PREFERENCE, 0);
    } else {
        out.word(UID, 0);
    }
    out.attribute(CACHE_INFO, &[0; CACHE_LEN]);
    request.reply(out.finish());
    Ok(Answer::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_brings_the_routes_that_linux_shows() {
        let address = Address::new("127.0.0.1".parse().unwrap(), 8, SCOPE_HOST).unwrap();
        let found: Vec<_> =
            entries(&address).iter().map(|e| (e.to.to_string(), e.prefix, e.kind, e.scope)).collect();
        let expected = [
            ("127.0.0.0", 8, LOCAL, 254),
            ("127.0.0.1", 32, LOCAL, 254),
            ("127.255.255.255", 32, BROADCAST, 253),
        ];
        assert_eq!(found, expected.map(|(to, prefix, kind, scope)| (to.to_string(), prefix, kind, scope)));
        let v6 = Address::new("::1".parse().unwrap(), 128, 0).unwrap();
        let kinds =
            |address: &Address| entries(address).iter().map(|e| (e.table, e.priority)).collect::<Vec<_>>();
        assert_eq!(kinds(&v6), [(254, Some(256)), (255, Some(0))]);
        assert_eq!(kinds(&Address { is_own: true, ..v6 }), [(255, Some(0))]);
    }
}
