//! Tunables of /proc/sys/net.
//!
//! LINUX: they count for all network namespaces, and not for each.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

pub use net_core::options::{MIN_RCVBUF, MIN_SNDBUF, RMEM_DEFAULT, RMEM_MAX, WMEM_DEFAULT, WMEM_MAX};

macro_rules! tunables {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        $($(#[$doc])* pub static $name: AtomicU32 = AtomicU32::new($value);)*
    };
}

tunables! {
    /// net.core.somaxconn: most connections that may wait for accept(2).
    SOMAXCONN = 4096;
    /// The first port of net.ipv4.ip_local_port_range.
    PORT_FIRST = 32768;
    /// Its last one.
    PORT_LAST = 60999;
    /// net.ipv4.ip_unprivileged_port_start.
    UNPRIVILEGED_PORT = 1024;
    /// net.ipv4.ip_default_ttl.
    TTL = 64;
    /// net.ipv4.tcp_fin_timeout, in seconds.
    FIN_TIMEOUT = 60;
    /// net.ipv4.tcp_keepalive_time, in seconds.
    KEEPALIVE_TIME = 7200;
    /// net.ipv4.tcp_keepalive_intvl, in seconds.
    KEEPALIVE_INTERVAL = 75;
    /// net.ipv4.tcp_keepalive_probes.
    KEEPALIVE_PROBES = 9;
    /// net.ipv4.tcp_syn_retries.
    SYN_RETRIES = 6;
    /// net.ipv4.tcp_synack_retries.
    SYNACK_RETRIES = 5;
    /// net.ipv4.tcp_retries2.
    DATA_RETRIES = 15;
    /// net.ipv4.tcp_max_tw_buckets: connections in TIME-WAIT.
    MAX_TIME_WAIT = 16384;
    /// net.ipv4.tcp_window_scaling.
    WINDOW_SCALING = 1;
    /// net.ipv4.tcp_sack.
    SACK = 1;
    /// net.ipv4.tcp_timestamps.
    TIMESTAMPS = 1;
    /// net.ipv6.bindv6only.
    BIND_V6_ONLY = 0;
}

/// A switch of net.ipv4.conf for all interfaces, for `lo`, and for interfaces to come.
pub type Switch = [AtomicU32; 3];

macro_rules! switches {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $($(#[$doc])* pub static $name: Switch = [const { AtomicU32::new(0) }; 3];)*
    };
}

switches! {
    /// accept_local: packets come in that are from an address of this machine.
    ACCEPT_LOCAL;
    /// route_localnet: packets come in that are from or to 127.0.0.0/8.
    ROUTE_LOCALNET;
}

/// The ports that are given out when nobody asks for one: first and last.
pub fn port_range() -> (u16, u16) {
    let (first, last) = (PORT_FIRST.load(Relaxed) as u16, PORT_LAST.load(Relaxed) as u16);
    (first.min(last), first.max(last))
}
