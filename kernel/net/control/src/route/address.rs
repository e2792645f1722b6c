//! Addresses: `RTM_GETADDR`, `RTM_NEWADDR`, `RTM_DELADDR`.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;

use abi::socket::{AF_INET, AF_INET6};
use abi::{Errno, Result};
use net_inet::interface::{self, Address, LO_INDEX};
use net_netlink::message::{self, Attributes, Builder, Header};
use net_netlink::{Answer, Request};

use super::{NEW_ADDRESS, family_of, header_of_notice, is_of, put_ip, read_ip};

/// Bytes of `struct ifaddrmsg`.
const INFO_LEN: usize = 8;

/// `IFA_*`.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const LABEL: u16 = 3;
const CACHE_INFO: u16 = 6;
const FLAGS: u16 = 8;
const PROTO: u16 = 11;
/// It came with the interface (`IFAPROT_KERNEL_LO`).
const PROTO_LO: u8 = 1;
/// `IFA_F_*`.
const SECONDARY: u32 = 0x01;
const PERMANENT: u32 = 0x80;

/// The fixed part of a request.
struct Info<'a> {
    prefix: u8,
    flags: u8,
    scope: u8,
    index: u32,
    attributes: Attributes<'a>,
}

/// Reads it. `EINVAL`: it is too short.
fn parse(body: &[u8]) -> Result<Info<'_>> {
    let (&[_, prefix, flags, scope, a, b, c, d], rest) =
        body.split_first_chunk::<INFO_LEN>().ok_or(Errno::EINVAL)?;
    let index = u32::from_ne_bytes([a, b, c, d]);
    Ok(Info { prefix, flags, scope, index, attributes: message::attributes(rest) })
}

/// A message about an address.
fn describe(header: Header, address: &Address) -> Vec<u8> {
    let flags = PERMANENT | if address.is_secondary { SECONDARY } else { 0 };
    let mut out = Builder::new(header);
    out.put(&[family_of(address.ip) as u8, address.prefix, flags as u8, address.scope]);
    out.put(&LO_INDEX.to_ne_bytes());
    put_ip(&mut out, ADDRESS, address.ip);
    if address.ip.is_ipv4() {
        put_ip(&mut out, LOCAL, address.ip);
        out.text(LABEL, b"lo");
    }
    if address.is_own {
        out.byte(PROTO, PROTO_LO);
    }
    out.word(FLAGS, flags);
    // It is valid for ever, and its times are not kept.
    let life: Vec<u8> = [u32::MAX, u32::MAX, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    out.attribute(CACHE_INFO, &life);
    out.finish()
}

/// All addresses of `family`. For who wants to know, `EINVAL`: a filter that there is not; `ENODEV`: no such interface.
pub(super) fn dump(request: &Request<'_>, family: u16) -> Result<Answer> {
    let mut all = interface::addresses(request.net());
    if request.is_strict() {
        let info = parse(request.message.body)?;
        if (info.prefix, info.flags, info.scope) != (0, 0, 0) || info.attributes.clone().next().is_some() {
            return Err(Errno::EINVAL);
        }
        if info.index != 0 && info.index != LO_INDEX {
            return Err(Errno::ENODEV);
        }
    }
    let header = request.header(NEW_ADDRESS, message::MULTI);
    all.retain(|address| is_of(family, address.ip));
    // Those of version 4 come first.
    let (four, six): (Vec<_>, Vec<_>) = all.into_iter().partition(|address| address.ip.is_ipv4());
    Ok(Answer::Dump(Box::new(four.into_iter().chain(six).map(move |address| describe(header, &address)))))
}

/// The family's address in `attributes`: of version 4 in `IFA_LOCAL`, of version 6 in either. `EINVAL`: none.
fn ip_of(attributes: &Attributes<'_>, family: u16) -> Result<Option<IpAddr>> {
    let local = attributes.find(LOCAL);
    let found = if family == AF_INET6 { local.or_else(|| attributes.find(ADDRESS)) } else { local };
    found.map(|attribute| read_ip(family, attribute.data)).transpose()
}

fn check_family(family: u16) -> Result<()> {
    if [AF_INET, AF_INET6].contains(&family) { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

/// Gives `lo` an address.
///
/// `EINVAL`: a wrong request. `ENODEV`: another interface. `EEXIST`: it has it. `EOPNOTSUPP`: another family, one that does
/// not last, or one with another end.
pub(super) fn new(request: &Request<'_>, family: u16) -> Result<Answer> {
    check_family(family)?;
    let info = parse(request.message.body)?;
    let ip = ip_of(&info.attributes, family)?.ok_or(Errno::EINVAL)?;
    let address = Address::new(ip, info.prefix, info.scope)?;
    if info.index != LO_INDEX {
        return Err(Errno::ENODEV);
    }
    if let Some(other) = info.attributes.find(ADDRESS)
        && read_ip(family, other.data)? != ip
    {
        return Err(Errno::EOPNOTSUPP);
    }
    if let Some(life) = info.attributes.find(CACHE_INFO) {
        let &[preferred @ .., _, _, _, _] = life.data.first_chunk::<8>().ok_or(Errno::EINVAL)?;
        let valid = life.data.get(4..8).ok_or(Errno::EINVAL)?;
        if valid == [0; 4] {
            return Err(Errno::EINVAL);
        }
        if preferred != [u8::MAX; 4] || valid != [u8::MAX; 4] {
            return Err(Errno::EOPNOTSUPP);
        }
    }
    match interface::add_address(request.net(), address) {
        // There is nothing in it that could be replaced.
        Err(Errno::EEXIST)
            if request.message.header.flags & (message::REPLACE | message::EXCL) == message::REPLACE => {}
        result => result?,
    }
    Ok(Answer::Done)
}

/// Takes an address from `lo`. `EINVAL`: a wrong request. `ENODEV`: another interface. `EADDRNOTAVAIL`: it has no such.
pub(super) fn delete(request: &Request<'_>, family: u16) -> Result<Answer> {
    check_family(family)?;
    let info = parse(request.message.body)?;
    if info.index != LO_INDEX {
        return Err(Errno::ENODEV);
    }
    let named = info.attributes.find(ADDRESS).map(|attribute| read_ip(family, attribute.data)).transpose()?;
    if let Some(label) = info.attributes.find(LABEL)
        && label.as_str() != b"lo"
    {
        return Err(Errno::EADDRNOTAVAIL);
    }
    let local = ip_of(&info.attributes, family)?;
    if family == AF_INET6 && local.is_none() {
        return Err(Errno::EINVAL);
    }
    // `IFA_ADDRESS` of version 4 tells the network. Without a word about either, the first one is meant.
    let is_in_network = |one: &Address| match named {
        Some(named) if family == AF_INET => one.prefix == info.prefix && one.is_network_of(named),
        _ => family == AF_INET || one.prefix == info.prefix,
    };
    interface::remove_address(request.net(), |one| {
        is_of(family, one.ip) && local.is_none_or(|local| local == one.ip) && is_in_network(one)
    })?;
    Ok(Answer::Done)
}

/// What the group is told.
pub(super) fn notice(kind: u16, address: &Address) -> Vec<u8> {
    describe(header_of_notice(kind), address)
}
