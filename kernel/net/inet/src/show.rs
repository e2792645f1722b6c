//! Tables of sockets and interfaces for /proc/net.

use alloc::sync::Arc;
use core::net::IpAddr;
use core::sync::atomic::Ordering::Relaxed;

use abi::Result;
use abi::socket::{AF_INET, AF_INET6};
use hal::time::now_ns;
use ns::NetNs;
use vfs::put;
use vfs::text::Text;

use crate::ip::Endpoint;
use crate::stack::Stack;
use crate::tcp::conn::Conn;
use crate::tcp::state_number;

fn stack() -> Arc<Stack> {
    Stack::of(&NetNs::current())
}

/// An end as the tables show it: the address in words of the machine's byte order.
fn end(out: &mut Text, family: u16, end: Endpoint) {
    if family == AF_INET {
        put!(out, "{:08X}", (end.ip.0 as u32).swap_bytes());
    } else {
        for word in end.ip.0.to_be_bytes().chunks_exact(4) {
            put!(out, "{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    put!(out, ":{:04X}", end.port);
}

fn head(out: &mut Text, number: usize, family: u16, local: Endpoint, remote: Endpoint) {
    put!(out, "{number:4}: ");
    end(out, family, local);
    put!(out, " ");
    end(out, family, remote);
}

fn tcp_row(out: &mut Text, number: usize, conn: &Conn) {
    let inner = conn.inner.lock();
    head(out, number, conn.family, inner.local, inner.remote);
    let (sending, receiving) = match (&inner.backlog, &inner.tcb) {
        (Some(backlog), _) => (0, backlog.ready.len()),
        (None, Some(tcb)) => (tcb.unacknowledged(), tcb.readable()),
        _ => (0, 0),
    };
    let info = inner.tcb.as_ref().map(|tcb| tcb.info());
    let (retries, resend) = info.map_or((0, None), |info| (info.retries, info.resend_ns));
    let ticks = resend.map_or(0, |at| at.saturating_sub(now_ns()) / 10_000_000);
    let (state, uid, ino) = (state_number(&inner), conn.uid, conn.ino.load(Relaxed));
    put!(
        out,
        " {state:02X} {sending:08X}:{receiving:08X} {:02X}:{ticks:08X} {retries:08X} {uid:5} {:8} {ino} 1 0000000000000000",
        u8::from(resend.is_some()),
        0
    );
    if let Some(tcb) = &inner.tcb {
        let mss = u64::from(tcb.info().mss.max(1));
        put!(out, " {} 4 0 {} -1", tcb.rto_ns() / 10_000_000, tcb.congestion().window() / mss);
    } else {
        put!(out, " 100 0 0 10 0");
    }
    drop(inner);
    put!(out, "\n");
}

fn tcp_table(out: &mut Text, family: u16) -> Result<()> {
    let width = if family == AF_INET { 8 } else { 32 };
    put!(
        out,
        "  sl  {:w$} {:w$} st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n",
        "local_address",
        if family == AF_INET { "rem_address  " } else { "remote_address" },
        w = width + 5
    );
    let mut number = 0;
    stack().connections.for_each(|conn| {
        if conn.family == family {
            tcp_row(out, number, conn);
            number += 1;
        }
    });
    Ok(())
}

/// /proc/net/tcp.
pub fn tcp(out: &mut Text) -> Result<()> {
    tcp_table(out, AF_INET)
}

/// /proc/net/tcp6.
pub fn tcp6(out: &mut Text) -> Result<()> {
    tcp_table(out, AF_INET6)
}

fn udp_table(out: &mut Text, family: u16) -> Result<()> {
    let width = if family == AF_INET { 8 } else { 32 };
    put!(
        out,
        "   sl  {:w$} {:w$} st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n",
        "local_address",
        if family == AF_INET { "rem_address  " } else { "remote_address" },
        w = width + 5
    );
    stack().receivers.for_each(|conn| {
        if conn.family != family {
            return;
        }
        let (local, remote, waiting) = conn.show();
        put!(out, " ");
        head(out, usize::from(local.port), family, local, remote.unwrap_or(Endpoint::NONE));
        let (uid, ino, drops) = (conn.uid, conn.ino.load(Relaxed), conn.drops.load(Relaxed));
        // The states are those of TCP: connected ones are established, the others closed.
        let state = if remote.is_some() { 1 } else { 7 };
        put!(
            out,
            " {state:02X} 00000000:{waiting:08X} 00:00000000 00000000 {uid:5} {:8} {ino} 2 0000000000000000 {drops}\n",
            0
        );
    });
    Ok(())
}

/// /proc/net/udp.
pub fn udp(out: &mut Text) -> Result<()> {
    udp_table(out, AF_INET)
}

/// /proc/net/udp6.
pub fn udp6(out: &mut Text) -> Result<()> {
    udp_table(out, AF_INET6)
}

/// /proc/net/dev, below its headlines.
pub fn dev(out: &mut Text) -> Result<()> {
    let stack = stack();
    let (bytes, packets) = (stack.lo.bytes.load(Relaxed), stack.lo.packets.load(Relaxed));
    put!(
        out,
        "    lo: {bytes:7} {packets:7}    0    0    0     0          0         0 {bytes:8} {packets:7}    0    0    0     0       0          0\n"
    );
    Ok(())
}

/// /proc/net/if_inet6.
pub fn if_inet6(out: &mut Text) -> Result<()> {
    /// Scopes as this table has them: of the machine, of a network, of the world.
    const fn scope(scope: u8) -> u8 {
        match scope {
            254 => 0x10,
            253 => 0x20,
            _ => 0,
        }
    }
    for address in stack().addresses.all() {
        if let IpAddr::V6(ip) = address.ip {
            put!(
                out,
                "{:032x} 01 {:02x} {:02x} 80       lo\n",
                ip.to_bits(),
                address.prefix,
                scope(address.scope)
            );
        }
    }
    Ok(())
}

/// /proc/net/sockstat.
pub fn sockstat(out: &mut Text) -> Result<()> {
    let stack = stack();
    let (mut inuse, mut orphans, mut udp) = (0, 0, 0);
    let waiting = stack.connections.time_wait.load(Relaxed);
    stack.connections.for_each(|conn| {
        if conn.family == AF_INET {
            inuse += 1;
            orphans += u32::from(conn.inner.lock().is_closed);
        }
    });
    stack.receivers.for_each(|conn| udp += u32::from(conn.family == AF_INET));
    let pages = crate::buffer::in_use() / 4096;
    put!(out, "sockets: used {}\n", inuse + udp);
    put!(
        out,
        "TCP: inuse {} orphan {} tw {waiting} alloc {inuse} mem {pages}\n",
        inuse.saturating_sub(waiting),
        orphans.saturating_sub(waiting)
    );
    put!(out, "UDP: inuse {udp} mem 0\nUDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 0\n");
    Ok(())
}
