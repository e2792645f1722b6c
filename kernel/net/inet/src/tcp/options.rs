//! Options of the level `IPPROTO_TCP` (tcp(7)).

use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::time::now_ns;
use tcp::congestion::Algorithm;
use tcp::{Config, Info, Tcb};

use super::conn::Inner;
use super::socket::TcpSocket;
use crate::buffer::Chunk;
use crate::level;

const TCP_NODELAY: i32 = 1;
const TCP_MAXSEG: i32 = 2;
const TCP_CORK: i32 = 3;
const TCP_KEEPIDLE: i32 = 4;
const TCP_KEEPINTVL: i32 = 5;
const TCP_KEEPCNT: i32 = 6;
const TCP_SYNCNT: i32 = 7;
const TCP_LINGER2: i32 = 8;
const TCP_INFO: i32 = 11;
const TCP_QUICKACK: i32 = 12;
const TCP_CONGESTION: i32 = 13;
const TCP_USER_TIMEOUT: i32 = 18;

const SECOND_NS: u64 = 1_000_000_000;
const MS_NS: u64 = 1_000_000;
/// Longest times of keepalive in seconds, and most probes.
const MAX_KEEPALIVE: i32 = 32767;
const MAX_PROBES: i32 = 127;
/// Size of a congestion control's name.
const NAME_LEN: usize = 16;

/// `value` as a number in the range. `EINVAL`.
fn within(value: i32, min: i32, max: i32) -> Result<u64> {
    if (min..=max).contains(&value) { Ok(value as u64) } else { Err(Errno::EINVAL) }
}

fn algorithm(name: &[u8]) -> Result<Algorithm> {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len()).min(NAME_LEN - 1);
    match &name[..end] {
        b"reno" => Ok(Algorithm::Reno),
        b"cubic" => Ok(Algorithm::Cubic),
        _ => Err(Errno::ENOENT),
    }
}

/// Sets one number of `config`. `EINVAL`: out of range. `ENOPROTOOPT`: no such option.
fn set_number(config: &mut Config, name: i32, value: i32) -> Result<()> {
    match name {
        TCP_NODELAY => config.no_delay = value != 0,
        TCP_MAXSEG => config.mss = within(value, 88, 32767)?.min(u64::from(config.mss)) as u16,
        TCP_CORK => config.cork = value != 0,
        TCP_KEEPIDLE => config.keepalive_idle_ns = within(value, 1, MAX_KEEPALIVE)? * SECOND_NS,
        TCP_KEEPINTVL => config.keepalive_interval_ns = within(value, 1, MAX_KEEPALIVE)? * SECOND_NS,
        TCP_KEEPCNT => config.keepalive_probes = within(value, 1, MAX_PROBES)? as u32,
        TCP_SYNCNT => config.syn_retries = within(value, 1, 127)? as u32,
        TCP_LINGER2 => config.fin_timeout_ns = within(value.max(0), 0, i32::MAX)?.min(120) * SECOND_NS,
        TCP_USER_TIMEOUT => config.user_timeout_ns = within(value, 0, i32::MAX)? * MS_NS,
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

/// What a change of option `name` does to a standing connection.
fn apply(tcb: &mut Tcb<Chunk>, name: i32, value: i32) {
    match name {
        // Setting it sends what waits, also when it was set.
        TCP_NODELAY if value != 0 => tcb.push(),
        TCP_CORK if value == 0 => tcb.push(),
        TCP_KEEPIDLE | TCP_KEEPINTVL => tcb.restart_keepalive(now_ns()),
        _ => {}
    }
}

impl TcpSocket {
    pub(super) fn set_tcp_option(&self, name: i32, value: &[u8]) -> Result<()> {
        if name == TCP_CONGESTION {
            if value.is_empty() {
                return Err(Errno::EINVAL);
            }
            let algorithm = algorithm(value)?;
            self.conn.with(|inner| {
                inner.config.algorithm = algorithm;
                if let Some(tcb) = &mut inner.tcb {
                    tcb.set_algorithm(algorithm);
                }
            });
            return Ok(());
        }
        if value.len() < size_of::<i32>() {
            return Err(Errno::EINVAL);
        }
        let value = level::int(value)?;
        self.conn.with(|inner| {
            if name == TCP_QUICKACK {
                if let Some(tcb) = &mut inner.tcb {
                    tcb.set_quick_ack(value != 0);
                }
                return Ok(());
            }
            set_number(&mut inner.config, name, value)?;
            inner.is_corked = inner.config.cork;
            if let Some(tcb) = &mut inner.tcb {
                set_number(&mut tcb.config, name, value)?;
                apply(tcb, name, value);
            }
            Ok(())
        })
    }

    pub(super) fn tcp_option(&self, name: i32, room: usize) -> Result<Vec<u8>> {
        let inner = self.conn.inner.lock();
        let config = inner.tcb.as_ref().map_or(&inner.config, |tcb| &tcb.config);
        let number = match name {
            TCP_NODELAY => i32::from(config.no_delay),
            TCP_MAXSEG => match &inner.tcb {
                Some(tcb) => tcb.info().mss as i32,
                None => 536,
            },
            TCP_CORK => i32::from(inner.is_corked),
            TCP_KEEPIDLE => (config.keepalive_idle_ns / SECOND_NS) as i32,
            TCP_KEEPINTVL => (config.keepalive_interval_ns / SECOND_NS) as i32,
            TCP_KEEPCNT => config.keepalive_probes as i32,
            TCP_SYNCNT => config.syn_retries as i32,
            TCP_LINGER2 => (config.fin_timeout_ns / SECOND_NS) as i32,
            TCP_USER_TIMEOUT => (config.user_timeout_ns / MS_NS) as i32,
            TCP_QUICKACK => i32::from(inner.tcb.as_ref().is_none_or(|tcb| !tcb.info().ping_pong)),
            TCP_CONGESTION => {
                let mut name = name_of(config.algorithm).as_bytes().to_vec();
                name.resize(NAME_LEN.min(room), 0);
                return Ok(name);
            }
            TCP_INFO => return Ok(info(&inner)),
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(number.to_ne_bytes().to_vec())
    }
}

fn name_of(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Reno => "reno",
        Algorithm::Cubic => "cubic",
    }
}

/// The number of a socket's state, as /proc/net/tcp and `TCP_INFO` show it.
pub(crate) fn state_number(inner: &Inner) -> u8 {
    const LISTEN: u8 = 10;
    if inner.backlog.is_some() { LISTEN } else { inner.state() as u8 }
}

/// Size of `struct tcp_info` up to `tcpi_rehash`.
const INFO_LEN: usize = 240;

/// `struct tcp_info`: what is not counted here is 0.
pub(crate) fn info(inner: &Inner) -> Vec<u8> {
    let mut bytes = alloc::vec![0u8; INFO_LEN];
    bytes[0] = state_number(inner);
    if let Some(backlog) = &inner.backlog {
        put32(&mut bytes, 24, backlog.ready.len() as u32);
        put32(&mut bytes, 28, backlog.limit as u32);
        return bytes;
    }
    let Some(tcb) = &inner.tcb else { return bytes };
    let info = tcb.info();
    head(&mut bytes, &info);
    let now = now_ns();
    let ms_since = |at: u64| (now.saturating_sub(at) / MS_NS) as u32;
    let us = |ns: u64| (ns / 1000) as u32;
    let (mss, congestion, rtt) = (info.mss.max(1), tcb.congestion(), tcb.rtt());
    let segments = |bytes: u64| u32::try_from(bytes / u64::from(mss)).unwrap_or(i32::MAX as u32);
    let words = [
        us(tcb.rto_ns()),
        40_000,
        mss,
        info.seen_mss,
        info.in_flight.div_ceil(mss),
        info.sacked.div_ceil(mss),
        0,
        0,
        0,
        ms_since(info.last_data_ns),
        0,
        ms_since(info.last_data_ns),
        ms_since(info.last_heard_ns),
        65536,
        info.receive_window,
        us(rtt.srtt_ns()),
        us(rtt.var_ns()),
        segments(congestion.threshold()),
        segments(congestion.window()),
        u32::from(tcb.config.mss),
        3,
        0,
        tcb.config.receive_buffer as u32,
        tcb.counters.retransmits,
    ];
    for (at, word) in words.into_iter().enumerate() {
        put32(&mut bytes, 8 + 4 * at, word);
    }
    put64(&mut bytes, 120, tcb.counters.bytes_acked);
    put64(&mut bytes, 128, tcb.counters.bytes_received);
    put32(&mut bytes, 136, tcb.counters.segments_out);
    put32(&mut bytes, 140, tcb.counters.segments_in);
    put32(&mut bytes, 144, tcb.unsent() as u32);
    put32(&mut bytes, 148, us(rtt.min_ns().min(u64::from(u32::MAX) * 1000)));
    put32(&mut bytes, 228, info.send_window);
    put32(&mut bytes, 232, info.receive_window);
    bytes
}

/// The bytes before the words.
fn head(bytes: &mut [u8], info: &Info) {
    const TIMESTAMPS: u8 = 1;
    const SACK: u8 = 2;
    const SCALING: u8 = 4;
    let scales = info.receive_shift > 0;
    bytes[1] = if info.is_recovering { 3 } else { 0 };
    bytes[2] = info.retries as u8;
    bytes[3] = info.probes as u8;
    bytes[4] = info.backoff as u8;
    bytes[5] = if info.timestamps { TIMESTAMPS } else { 0 }
        | if info.sack { SACK } else { 0 }
        | if scales { SCALING } else { 0 };
    bytes[6] = info.send_shift | info.receive_shift << 4;
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
}
