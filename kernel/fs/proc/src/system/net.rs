//! /proc/net: interfaces and sockets of the reader's network namespace.

use crate::extra::{self, Extra};
use crate::node::{Entry, text};

const DEV_HEADLINE: &[u8] = b"\
Inter-|   Receive                                                |  Transmit\n \
face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";

const ROUTE_HEADLINE: &[u8] = b"\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT                                                       \n";

/// The entries.
pub(super) static ENTRIES: &[Entry] = &[
    text("dev", |out| {
        out.push(DEV_HEADLINE);
        net_inet::show::dev(out)
    }),
    text("if_inet6", net_inet::show::if_inet6),
    text("netlink", |out| extra::show(Extra::NetNetlink, out)),
    text("packet", |out| extra::show(Extra::NetPacket, out)),
    text("route", |out| {
        // The table of ways to other machines, of which there are none; those to oneself are not shown.
        out.push(ROUTE_HEADLINE);
        Ok(())
    }),
    text("sockstat", net_inet::show::sockstat),
    text("tcp", net_inet::show::tcp),
    text("tcp6", net_inet::show::tcp6),
    text("udp", net_inet::show::udp),
    text("udp6", net_inet::show::udp6),
    text("unix", |out| extra::show(Extra::NetUnix, out)),
];
