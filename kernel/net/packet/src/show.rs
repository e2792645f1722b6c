//! /proc/net/packet.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use abi::{Errno, Result};
use hal::sync::SpinLock;
use net_core::Socket;
use net_inet::interface;
use ns::NetNs;
use vfs::put;
use vfs::text::Text;

use crate::socket::PacketSocket;

/// All sockets there are.
static ALL: SpinLock<Vec<Weak<PacketSocket>>> = SpinLock::new("packet.all", Vec::new());

/// A new socket. `ENOBUFS`: no memory.
pub(crate) fn enter(socket: &PacketSocket) -> Result<()> {
    let mut all = ALL.lock();
    all.try_reserve(1).map_err(|_| Errno::ENOBUFS)?;
    all.push(socket.weak());
    Ok(())
}

/// A socket goes.
pub(crate) fn leave(socket: &PacketSocket) {
    let gone = {
        let mut all = ALL.lock();
        let at = all.iter().position(|other| core::ptr::eq(other.as_ptr(), socket));
        at.map(|at| all.swap_remove(at))
    };
    drop(gone);
}

/// The rows for the reader's network namespace. `ENOMEM`.
pub fn rows(out: &mut Text) -> Result<()> {
    let net = NetNs::current();
    let mut all: Vec<Arc<PacketSocket>> = Vec::new();
    {
        let sockets = ALL.lock();
        all.try_reserve_exact(sockets.len()).map_err(|_| Errno::ENOMEM)?;
        all.extend(sockets.iter().filter_map(Weak::upgrade));
    }
    let is_up = interface::link(&net).is_up;
    for socket in all.iter().filter(|socket| socket.net.id().id() == net.id().id()) {
        let (protocol, interface, charged) = {
            let inner = socket.inner.lock();
            (inner.protocol, inner.interface, inner.charged)
        };
        let runs = protocol != 0 && (interface == 0 || is_up);
        put!(
            out,
            "0000000000000000 2      {:<4} {protocol:04x}   {interface:<5} {} {charged:<6} {:<6} {:<6}\n",
            socket.kind() as u32,
            u8::from(runs),
            socket.uid,
            socket.ino.load(Relaxed)
        );
    }
    Ok(())
}
