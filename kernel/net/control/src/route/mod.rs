//! `NETLINK_ROUTE` (rtnetlink(7)): which request is whose, and who may make it.

mod address;
mod link;
mod rule;
mod table;

use core::net::IpAddr;

use abi::socket::{AF_INET, AF_INET6, Ucred};
use abi::{Errno, Result};
use net_inet::interface::Change;
use net_netlink::message::{Builder, Header};
use net_netlink::{Answer, Protocol, Request};
use ns::NetNs;
use security::Cap;

/// `RTM_*`: types of messages.
pub(crate) const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
pub(crate) const NEW_ADDRESS: u16 = 20;
pub(crate) const DEL_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
pub(crate) const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const GET_NEIGHBOUR: u16 = 30;
const NEW_RULE: u16 = 32;
const GET_RULE: u16 = 34;
/// `RTM_BASE`: the types begin here, four for each kind of thing, of which the third asks.
const BASE: u16 = 16;
/// `RTM_MAX`.
const MAX: u16 = 123;
const GET: u16 = 2;

/// `RTNLGRP_*`: groups.
const GROUP_LINK: u32 = 1;
const GROUP_V4_ADDRESS: u32 = 5;
const GROUP_V6_ADDRESS: u32 = 9;
/// `RTNLGRP_MAX`.
const GROUPS: u32 = 39;

/// The protocol.
pub(crate) struct Route;

impl Protocol for Route {
    fn groups(&self) -> u32 {
        GROUPS
    }

    fn anyone_listens(&self) -> bool {
        true
    }

    /// `EPERM`: to change something is not for everybody. `EOPNOTSUPP`: no such request.
    fn request(&self, request: &Request<'_>) -> Result<Answer> {
        let kind = request.message.header.kind;
        if kind > MAX {
            return Err(Errno::EOPNOTSUPP);
        }
        let Some(&family) = request.message.body.first() else { return Ok(Answer::Done) };
        let only_asks = (kind - BASE) % 4 == GET;
        if !only_asks && !request.capable(request.net().id().owner(), Cap::NET_ADMIN) {
            return Err(Errno::EPERM);
        }
        let family = u16::from(family);
        let is_dump = request.is_dump() && only_asks;
        if is_dump && [GET_LINK, GET_ADDRESS, GET_ROUTE, GET_NEIGHBOUR, GET_RULE].contains(&kind) {
            request.check_dump()?;
        }
        match (kind, is_dump) {
            (GET_LINK, true) => Ok(or_none(link::dump(request, family))),
            (GET_LINK, false) => link::get(request),
            (NEW_LINK, _) => link::new(request),
            (SET_LINK, _) => link::set(request),
            (DEL_LINK, _) => link::delete(request),
            (GET_ADDRESS, true) => Ok(or_none(address::dump(request, family))),
            (NEW_ADDRESS, _) => address::new(request, family),
            (DEL_ADDRESS, _) => address::delete(request, family),
            (GET_ROUTE, true) => Ok(or_none(table::dump(request, family))),
            (GET_ROUTE, false) => table::get(request, family),
            // Nobody is beside this machine on `lo`.
            (GET_NEIGHBOUR, true) => Ok(Answer::Dump(alloc::boxed::Box::new(core::iter::empty()))),
            (GET_RULE, true) => Ok(or_none(rule::dump(request, family))),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

/// Who asked for a list with a wrong filter gets an empty one, whose end says so.
fn or_none(list: Result<Answer>) -> Answer {
    list.unwrap_or_else(Answer::NoDump)
}

/// Tells the groups of a change.
pub(crate) fn announce(net: &NetNs, change: Change) {
    let (group, message) = match change {
        Change::Link(is_switched) => (GROUP_LINK, link::notice(net, is_switched)),
        Change::Added(address) => (address_group(address.ip), address::notice(NEW_ADDRESS, &address)),
        Change::Removed(address) => (address_group(address.ip), address::notice(DEL_ADDRESS, &address)),
    };
    let id = net.id().id();
    net_netlink::announce(net_netlink::ROUTE, group, message, Ucred::default(), |net| net.id().id() == id);
}

fn address_group(ip: IpAddr) -> u32 {
    if ip.is_ipv4() { GROUP_V4_ADDRESS } else { GROUP_V6_ADDRESS }
}

/// The family of an address.
pub(crate) fn family_of(ip: IpAddr) -> u16 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// Whether a request about `family` is about `ip`: about all families unless it is one of the two.
pub(crate) fn is_of(family: u16, ip: IpAddr) -> bool {
    ![AF_INET, AF_INET6].contains(&family) || family == family_of(ip)
}

/// Appends an address as an attribute.
pub(crate) fn put_ip(out: &mut Builder, kind: u16, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => out.attribute(kind, &ip.octets()),
        IpAddr::V6(ip) => out.attribute(kind, &ip.octets()),
    };
}

/// Reads an address of `family`. `EINVAL`: it is not as long as one.
pub(crate) fn read_ip(family: u16, data: &[u8]) -> Result<IpAddr> {
    if family == AF_INET {
        let octets: [u8; 4] = data.try_into().map_err(|_| Errno::EINVAL)?;
        Ok(IpAddr::from(octets))
    } else {
        let octets: [u8; 16] = data.try_into().map_err(|_| Errno::EINVAL)?;
        Ok(IpAddr::from(octets))
    }
}

/// The header of a message to a group.
pub(crate) fn header_of_notice(kind: u16) -> Header {
    Header { len: 0, kind, flags: 0, seq: 0, port: 0 }
}
