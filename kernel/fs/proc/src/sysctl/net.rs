//! /proc/sys/net: the network (ip(7), tcp(7), socket(7)).

use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use abi::{Errno, Result};
use net_inet::sysctl::{self, MIN_RCVBUF, MIN_SNDBUF};
use vfs::put;

use crate::node::{Entry, Kind, dir, fixed};

const fn number(name: &'static str, value: &'static AtomicU32, range: RangeInclusive<u32>) -> Entry {
    Entry { name, kind: Kind::Number32(value, range) }
}

/// Takes the two ports of `net.ipv4.ip_local_port_range`. `EINVAL`: not two, out of range, or in the wrong order.
fn store_ports(bytes: &[u8]) -> Result<()> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let mut ports = text.split_ascii_whitespace().map(str::parse::<u16>);
    let mut next = || ports.next().and_then(core::result::Result::ok).ok_or(Errno::EINVAL);
    let (first, last) = (next()?, next()?);
    let is_low = u32::from(first) < sysctl::UNPRIVILEGED_PORT.load(Relaxed);
    if first == 0 || last < first || is_low {
        return Err(Errno::EINVAL);
    }
    sysctl::PORT_FIRST.store(u32::from(first), Relaxed);
    sysctl::PORT_LAST.store(u32::from(last), Relaxed);
    Ok(())
}

const PORT_RANGE: Entry = Entry {
    name: "ip_local_port_range",
    kind: Kind::Tunable(
        |out| {
            let (first, last) = sysctl::port_range();
            put!(out, "{first}\t{last}\n");
            Ok(())
        },
        store_ports,
    ),
};

/// A switch of an interface.
const fn switch(name: &'static str, value: &'static AtomicU32) -> Entry {
    number(name, value, 0..=i32::MAX as u32)
}

/// The folder of a kind of interface in net.ipv4.conf, which has part `at` of each switch.
const fn conf(at: usize) -> [Entry; 2] {
    [switch("accept_local", &sysctl::ACCEPT_LOCAL[at]), switch("route_localnet", &sysctl::ROUTE_LOCALNET[at])]
}

static CONF_ALL: [Entry; 2] = conf(0);
static CONF_LO: [Entry; 2] = conf(1);
static CONF_DEFAULT: [Entry; 2] = conf(2);
static CONF: [Entry; 3] = [dir("all", &CONF_ALL), dir("default", &CONF_DEFAULT), dir("lo", &CONF_LO)];

static IPV4: &[Entry] = &[
    dir("conf", &CONF),
    number("ip_default_ttl", &sysctl::TTL, 1..=255),
    fixed("ip_forward", "0"),
    PORT_RANGE,
    number("ip_unprivileged_port_start", &sysctl::UNPRIVILEGED_PORT, 0..=65535),
    fixed("tcp_available_congestion_control", "reno cubic"),
    fixed("tcp_congestion_control", "cubic"),
    number("tcp_fin_timeout", &sysctl::FIN_TIMEOUT, 1..=120),
    number("tcp_keepalive_intvl", &sysctl::KEEPALIVE_INTERVAL, 1..=32767),
    number("tcp_keepalive_probes", &sysctl::KEEPALIVE_PROBES, 1..=127),
    number("tcp_keepalive_time", &sysctl::KEEPALIVE_TIME, 1..=32767),
    number("tcp_max_tw_buckets", &sysctl::MAX_TIME_WAIT, 0..=i32::MAX as u32),
    number("tcp_retries2", &sysctl::DATA_RETRIES, 0..=255),
    fixed("tcp_rmem", "4096\t131072\t131072"),
    number("tcp_sack", &sysctl::SACK, 0..=1),
    number("tcp_syn_retries", &sysctl::SYN_RETRIES, 1..=127),
    number("tcp_synack_retries", &sysctl::SYNACK_RETRIES, 0..=255),
    number("tcp_timestamps", &sysctl::TIMESTAMPS, 0..=2),
    number("tcp_window_scaling", &sysctl::WINDOW_SCALING, 0..=1),
    fixed("tcp_wmem", "4096\t16384\t2626560"),
];

static CORE: &[Entry] = &[
    number("rmem_default", &sysctl::RMEM_DEFAULT, MIN_RCVBUF..=i32::MAX as u32),
    number("rmem_max", &sysctl::RMEM_MAX, MIN_RCVBUF..=i32::MAX as u32),
    number("somaxconn", &sysctl::SOMAXCONN, 0..=i32::MAX as u32),
    number("wmem_default", &sysctl::WMEM_DEFAULT, MIN_SNDBUF..=i32::MAX as u32),
    number("wmem_max", &sysctl::WMEM_MAX, MIN_SNDBUF..=i32::MAX as u32),
];

/// The entries.
pub(super) static ENTRIES: &[Entry] = &[
    dir("core", CORE),
    dir("ipv4", IPV4),
    dir("ipv6", &[number("bindv6only", &sysctl::BIND_V6_ONLY, 0..=1)]),
    dir("unix", &[fixed("max_dgram_qlen", "10")]),
];
