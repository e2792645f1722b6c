//! Finding sockets: by port, and by the groups that they listen to.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::sync::SpinLock;
use ns::NetNs;

use crate::socket::{Inner, NetlinkSocket};

/// Protocol, number of the network namespace, port.
type PortKey = (u8, u64, u32);

static PORTS: SpinLock<BTreeMap<PortKey, Weak<NetlinkSocket>>> =
    SpinLock::new("netlink.ports", BTreeMap::new());

/// Sockets that are in a group, by protocol and the address of the socket.
static LISTENERS: SpinLock<BTreeMap<(u8, usize), Weak<NetlinkSocket>>> =
    SpinLock::new("netlink.listeners", BTreeMap::new());

/// How many entries are looked at while a lock is held.
const AT_ONCE: usize = 64;
/// Ports that the kernel chooses are negative, and below this one.
const FIRST_NEGATIVE: i32 = -4096;

fn address(socket: &NetlinkSocket) -> usize {
    core::ptr::from_ref(socket) as usize
}

/// The socket of `port`.
pub(crate) fn find(protocol: u8, net: &NetNs, port: u32) -> Option<Arc<NetlinkSocket>> {
    PORTS.lock().get(&(protocol, net.id().id(), port))?.upgrade()
}

/// Gives `socket` the port `port`, or with `None` one that is free, first of all `wish`; gives the port that it has then.
///
/// A socket that has one keeps it. `EADDRINUSE`: another socket has it. `EBUSY`: this one has another. `ERANGE`: the
/// kernel's port.
pub(crate) fn bind(socket: &NetlinkSocket, port: Option<u32>, wish: u32) -> Result<u32> {
    let key = |port| (socket.protocol(), socket.net().id().id(), port);
    let mut ports = PORTS.lock();
    let mut inner = socket.inner().lock();
    if inner.is_bound {
        return if port.is_none_or(|port| port == inner.port) { Ok(inner.port) } else { Err(Errno::EBUSY) };
    }
    let chosen = match port {
        Some(0) => return Err(Errno::ERANGE),
        Some(port) if ports.contains_key(&key(port)) => return Err(Errno::EADDRINUSE),
        Some(port) => port,
        None => {
            let is_free = |port: u32| port != 0 && !ports.contains_key(&key(port));
            if is_free(wish) { wish } else { free_negative(is_free)? }
        }
    };
    if inner.is_dead {
        return Err(Errno::EBADF);
    }
    inner.port = chosen;
    inner.is_bound = true;
    ports.insert(key(chosen), socket.weak());
    Ok(chosen)
}

/// A free negative port, looked for downwards from a random one. `EADDRINUSE`: there is none near it.
fn free_negative(is_free: impl Fn(u32) -> bool) -> Result<u32> {
    const TRIES: u32 = 1 << 16;
    let span = (FIRST_NEGATIVE as i64 - i32::MIN as i64) as u64;
    let start = FIRST_NEGATIVE as i64 - 1 - (random::next_u64() % span) as i64;
    let lowest = i64::from(i32::MIN);
    let candidates = (0..i64::from(TRIES)).map(|step| {
        let at = start - step;
        // Below the lowest one it goes on at the top.
        (if at < lowest { at + span as i64 } else { at }) as i32 as u32
    });
    candidates.into_iter().find(|&port| is_free(port)).ok_or(Errno::EADDRINUSE)
}

/// The port of `socket` is free again.
pub(crate) fn unbind(socket: &NetlinkSocket, port: u32) {
    let gone = PORTS.lock().remove(&(socket.protocol(), socket.net().id().id(), port));
    drop(gone);
}

/// Makes `change` to the groups of `socket`, and tells whether it is in any now: as `change` says.
///
/// Under one hold of the table, so that the entry is what the last change made it.
pub(crate) fn change_listening(socket: &NetlinkSocket, change: impl FnOnce(&mut Inner) -> bool) {
    let key = (socket.protocol(), address(socket));
    let mut listeners = LISTENERS.lock();
    let is_listening = change(&mut socket.inner().lock());
    let gone = if is_listening { listeners.insert(key, socket.weak()) } else { listeners.remove(&key) };
    drop(listeners);
    drop(gone);
}

/// The sockets of `protocol` in `group`, of the moment.
pub(crate) fn listeners(protocol: u8, group: u32) -> Vec<Arc<NetlinkSocket>> {
    let mut found = Vec::new();
    let mut from = 0;
    loop {
        let mut last = None;
        // Those that are not in the group are dropped after the lock.
        let mut some = Vec::with_capacity(AT_ONCE);
        {
            let listeners = LISTENERS.lock();
            for (&(_, key), socket) in
                listeners.range((protocol, from)..=(protocol, usize::MAX)).take(AT_ONCE)
            {
                last = Some(key);
                some.extend(socket.upgrade());
            }
        }
        found.extend(some.into_iter().filter(|socket| socket.is_in(group)));
        match last.and_then(|last| last.checked_add(1)) {
            Some(next) => from = next,
            None => return found,
        }
    }
}

/// The sockets of `net` that have a port, of the moment: by protocol, then by port.
pub(crate) fn all(net: &NetNs) -> Vec<Arc<NetlinkSocket>> {
    let net = net.id().id();
    let mut found = Vec::new();
    let mut from: PortKey = (0, 0, 0);
    loop {
        let mut seen = 0;
        let mut last = from;
        let mut some = Vec::with_capacity(AT_ONCE);
        {
            let ports = PORTS.lock();
            for (key, socket) in ports.range(from..).take(AT_ONCE) {
                (last, seen) = (*key, seen + 1);
                if key.1 == net {
                    some.extend(socket.upgrade());
                }
            }
        }
        found.append(&mut some);
        if seen < AT_ONCE {
            return found;
        }
        from = match last {
            (protocol, net, u32::MAX) => (protocol, net.saturating_add(1), 0),
            (protocol, net, port) => (protocol, net, port + 1),
        };
    }
}
