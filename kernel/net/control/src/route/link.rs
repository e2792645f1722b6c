//! Interfaces: `RTM_GETLINK`, `RTM_NEWLINK`, `RTM_SETLINK`, `RTM_DELLINK`.

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::{Errno, Result};
use net_inet::interface::{self, LO_INDEX, Link};
use net_netlink::message::{self, Attributes, Builder, Header};
use net_netlink::{Answer, Request};
use ns::NetNs;

use super::{NEW_LINK, header_of_notice};

/// Bytes of `struct ifinfomsg`.
const INFO_LEN: usize = 16;
const ARPHRD_LOOPBACK: u16 = 772;
const AF_BRIDGE: u16 = 7;
/// `IFF_*`.
const UP: u32 = 0x1;
const LOOPBACK: u32 = 0x8;
const RUNNING: u32 = 0x40;
const LOWER_UP: u32 = 0x1_0000;

/// `IFLA_*`.
const ADDRESS: u16 = 1;
const BROADCAST: u16 = 2;
const NAME: u16 = 3;
const MTU: u16 = 4;
const QDISC: u16 = 6;
const STATS: u16 = 7;
const TX_QUEUE_LEN: u16 = 13;
const MAP: u16 = 14;
const OPER_STATE: u16 = 16;
const LINK_MODE: u16 = 17;
const LINK_INFO: u16 = 18;
const STATS64: u16 = 23;
const EXT_MASK: u16 = 29;
const GROUP: u16 = 27;
const PROMISCUITY: u16 = 30;
const TX_QUEUES: u16 = 31;
const RX_QUEUES: u16 = 32;
const CARRIER: u16 = 33;
const CARRIER_CHANGES: u16 = 35;
const PROTO_DOWN: u16 = 39;
const MIN_MTU: u16 = 50;
const MAX_MTU: u16 = 51;
const ALT_NAME: u16 = 53;
const ALL_MULTICAST: u16 = 61;
/// `IF_OPER_*`: what the interface says of its state, where `lo` says nothing while it is on.
const STATE_UNKNOWN: u8 = 0;
const STATE_DOWN: u8 = 2;

/// Bytes of `struct rtnl_link_ifmap` with its padding.
const MAP_LEN: usize = 32;
/// Counters in `struct rtnl_link_stats` (32 bits each) and `rtnl_link_stats64` (64).
const COUNTERS: usize = 24;
const COUNTERS64: usize = 25;

/// The fixed part of a request.
struct Info<'a> {
    kind: u16,
    index: u32,
    flags: u32,
    change: u32,
    attributes: Attributes<'a>,
}

/// Reads it. `EINVAL`: it is too short.
fn parse(body: &[u8]) -> Result<Info<'_>> {
    let (head, rest) = body.split_first_chunk::<INFO_LEN>().ok_or(Errno::EINVAL)?;
    let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    Ok(Info {
        kind: u16::from_ne_bytes([head[2], head[3]]),
        index: word(4),
        flags: word(8),
        change: word(12),
        attributes: message::attributes(rest),
    })
}

/// Whether the interface that a request names is there. `EINVAL`: it names none, or a wrong one.
fn is_there(info: &Info<'_>) -> Result<bool> {
    if (info.index as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let name = info.attributes.find(NAME).or_else(|| info.attributes.find(ALT_NAME));
    match (info.index, name) {
        (0, None) => Err(Errno::EINVAL),
        (0, Some(name)) => Ok(name.as_str() == b"lo"),
        (index, _) => Ok(index == LO_INDEX),
    }
}

fn flags_of(link: &Link) -> u32 {
    LOOPBACK | if link.is_up { UP | RUNNING | LOWER_UP } else { 0 }
}

/// The counters of packets, bytes, and what there never is on `lo`.
fn counters<const N: usize>(link: &Link) -> [u64; N] {
    let mut all = [0; N];
    let own = [link.packets, link.packets, link.bytes, link.bytes];
    all.iter_mut().zip(own).for_each(|(place, value)| *place = value);
    all
}

/// A message about `lo`; `change` are the flags that have changed.
fn describe(header: Header, link: &Link, change: u32) -> Vec<u8> {
    let state = if link.is_up { STATE_UNKNOWN } else { STATE_DOWN };
    let mut out = Builder::new(header);
    out.put(&[0; 2]).put(&ARPHRD_LOOPBACK.to_ne_bytes()).put(&LO_INDEX.to_ne_bytes());
    out.put(&flags_of(link).to_ne_bytes()).put(&change.to_ne_bytes());
    out.text(NAME, b"lo").word(TX_QUEUE_LEN, 1000).byte(OPER_STATE, state).byte(LINK_MODE, 0);
    out.word(MTU, link.mtu)
        .word(MIN_MTU, 0)
        .word(MAX_MTU, 0)
        .word(GROUP, 0)
        .word(PROMISCUITY, 0)
        .word(ALL_MULTICAST, 0);
    out.word(TX_QUEUES, 1).word(RX_QUEUES, 1).byte(CARRIER, 1).word(CARRIER_CHANGES, 0).byte(PROTO_DOWN, 0);
    out.text(QDISC, if link.was_up { b"noqueue" } else { b"noop" });
    out.attribute(MAP, &[0; MAP_LEN]).attribute(ADDRESS, &[0; 6]).attribute(BROADCAST, &[0; 6]);
    let wide = counters::<COUNTERS64>(link).iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<_>>();
    let narrow =
        counters::<COUNTERS>(link).iter().flat_map(|n| (*n as u32).to_ne_bytes()).collect::<Vec<_>>();
    out.attribute(STATS64, &wide).attribute(STATS, &narrow);
    out.finish()
}

/// All interfaces, or those of `family`. `EINVAL`: a filter that there is not, for who wants to know.
pub(super) fn dump(request: &Request<'_>, family: u16) -> Result<Answer> {
    if request.is_strict() {
        let info = parse(request.message.body)?;
        if (info.kind, info.index, info.flags, info.change) != (0, 0, 0, 0) {
            return Err(Errno::EINVAL);
        }
        const MASTER: u16 = 10;
        let known = [EXT_MASK, MASTER, LINK_INFO];
        if info.attributes.clone().any(|attribute| !known.contains(&attribute.kind)) {
            return Err(Errno::EINVAL);
        }
    }
    if family == AF_BRIDGE {
        // The ports of bridges, of which there are none.
        return Ok(Answer::Dump(Box::new(core::iter::empty())));
    }
    let header = request.header(NEW_LINK, message::MULTI);
    // What belongs to another interface, or is of a kind, is none of those that there are.
    let is_filtered = parse(request.message.body).is_ok_and(|info| {
        let wants_master =
            info.attributes.find(10).and_then(|master| master.as_u32()).is_some_and(|index| index != 0);
        wants_master || info.attributes.find(LINK_INFO).is_some()
    });
    let found = (!is_filtered).then(|| describe(header, &interface::link(request.net()), 0));
    Ok(Answer::Dump(Box::new(found.into_iter())))
}

/// One interface. `EINVAL`: a wrong question. `ENODEV`: it is not there.
pub(super) fn get(request: &Request<'_>) -> Result<Answer> {
    if !is_there(&parse(request.message.body)?)? {
        return Err(Errno::ENODEV);
    }
    request.reply(describe(request.header(NEW_LINK, 0), &interface::link(request.net()), 0));
    Ok(Answer::Done)
}

/// Changes an interface that is there. `ENODEV`: it is not; `EOPNOTSUPP`: nor can it be made, or changed so. `EEXIST`.
pub(super) fn new(request: &Request<'_>) -> Result<Answer> {
    let info = parse(request.message.body)?;
    let flags = request.message.header.flags;
    // Who wants a new one need not name it; and who wants none is not told of that, but that there is none.
    let names_one =
        info.index != 0 || [NAME, ALT_NAME].iter().any(|kind| info.attributes.find(*kind).is_some());
    let is_there = if names_one { is_there(&info)? } else { false };
    match (is_there, flags & message::CREATE != 0) {
        (true, _) if flags & message::EXCL != 0 => Err(Errno::EEXIST),
        (true, _) if flags & message::REPLACE != 0 => Err(Errno::EOPNOTSUPP),
        (true, _) => change(request.net(), &info),
        (false, true) => Err(Errno::EOPNOTSUPP),
        (false, false) => Err(Errno::ENODEV),
    }
}

/// Changes an interface. `EINVAL`: a wrong request. `ENODEV`: it is not there. `EOPNOTSUPP`: not so.
pub(super) fn set(request: &Request<'_>) -> Result<Answer> {
    let info = parse(request.message.body)?;
    if is_there(&info)? { change(request.net(), &info) } else { Err(Errno::ENODEV) }
}

/// Nobody has made `lo`, and nobody can take it away: `EOPNOTSUPP`. `EINVAL`, `ENODEV`.
pub(super) fn delete(request: &Request<'_>) -> Result<Answer> {
    let is_there = is_there(&parse(request.message.body)?)?;
    Err(if is_there { Errno::EOPNOTSUPP } else { Errno::ENODEV })
}

fn change(net: &NetNs, info: &Info<'_>) -> Result<Answer> {
    let mut mtu = None;
    for attribute in info.attributes.clone() {
        match attribute.kind {
            NAME if attribute.as_str() == b"lo" => {}
            MTU => mtu = Some(attribute.as_u32().ok_or(Errno::EINVAL)?),
            EXT_MASK => {}
            _ => return Err(Errno::EOPNOTSUPP),
        }
    }
    if let Some(mtu) = mtu {
        interface::set_mtu(net, mtu)?;
    }
    if info.flags != 0 || info.change != 0 {
        // Without a word about what is meant, all flags are.
        let meant = if info.change != 0 { info.change } else { u32::MAX };
        if meant & UP != 0 {
            interface::set_up(net, info.flags & UP != 0);
        }
    }
    Ok(Answer::Done)
}

/// What the group is told.
pub(super) fn notice(net: &NetNs, is_switched: bool) -> Vec<u8> {
    let change = if is_switched { UP | RUNNING | LOWER_UP } else { 0 };
    describe(header_of_notice(NEW_LINK), &interface::link(net), change)
}
