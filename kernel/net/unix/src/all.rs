//! All sockets there are, for who lists them: sock_diag(7) and /proc/net/unix.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use abi::Result;
use hal::sync::SpinLock;
use net_core::{Halves, SockType, Socket};
use ns::NetNs;
use vfs::put;
use vfs::text::Text;

use crate::packet::Packet;
use crate::socket::{State, UnixSocket};

/// Buckets, so that those who make sockets at a time seldom meet.
const BUCKETS: usize = 256;

static ALL: [SpinLock<Vec<Weak<UnixSocket>>>; BUCKETS] =
    [const { SpinLock::new("unix.all", Vec::new()) }; BUCKETS];

fn bucket(socket: *const UnixSocket) -> &'static SpinLock<Vec<Weak<UnixSocket>>> {
    &ALL[(socket.addr() >> 7).wrapping_mul(0x9e37_79b9) >> 8 & (BUCKETS - 1)]
}

/// A new socket.
pub(crate) fn enter(socket: &UnixSocket) {
    bucket(socket).lock().push(socket.me.clone());
}

/// A socket goes.
pub(crate) fn leave(socket: &UnixSocket) {
    let gone = {
        let mut bucket = bucket(socket).lock();
        let at = bucket.iter().position(|other| core::ptr::eq(other.as_ptr(), socket));
        at.map(|at| bucket.swap_remove(at))
    };
    drop(gone);
}

/// What a socket is, at the moment.
#[derive(Clone, Debug)]
pub struct Description {
    /// Type.
    pub kind: SockType,
    /// Where it is in its life.
    pub state: State,
    /// Number of its inode; 0: nobody has accepted it yet.
    pub ino: u64,
    /// That of its peer.
    pub peer: Option<u64>,
    /// Its name, without the family; a path ends with NUL.
    pub name: Vec<u8>,
    /// The halves that are closed.
    pub shut: Halves,
    /// Those that wait for accept(2).
    pub waiting: Vec<u64>,
    /// Bytes that can be received; of a listener, connections that wait.
    pub receivable: usize,
    /// Bytes under way; of a listener, connections that may wait.
    pub sent: usize,
    /// A number that no other socket has or had.
    pub cookie: u64,
}

/// The sockets of `net`. One bucket after the other is looked at as the iterator goes on, so that it never holds all.
pub fn sockets(net: &NetNs) -> impl Iterator<Item = Arc<UnixSocket>> + Send + use<> {
    let id = net.id().id();
    ALL.iter().flat_map(move |bucket| {
        let some: Vec<Arc<UnixSocket>> = bucket.lock().iter().filter_map(Weak::upgrade).collect();
        some.into_iter().filter(move |socket| socket.net.id().id() == id)
    })
}

impl UnixSocket {
    /// Number of its inode; 0: nobody has accepted it yet.
    pub fn ino(&self) -> u64 {
        self.ino.load(Relaxed)
    }

    /// What it is, at the moment.
    pub fn describe(&self) -> Description {
        let (mut description, peer, embryos) = {
            let inner = self.inner.lock();
            let is_listening = inner.state == State::Listening;
            let description = Description {
                kind: self.kind,
                state: inner.state,
                ino: self.ino.load(Relaxed),
                peer: None,
                name: inner.local.as_ref().and_then(|name| name.get(2..)).unwrap_or_default().to_vec(),
                shut: inner.shut,
                waiting: Vec::new(),
                receivable: if is_listening {
                    inner.embryos.len()
                } else {
                    inner.queue.iter().map(Packet::left).sum()
                },
                sent: if is_listening { inner.backlog } else { self.out.used() },
                cookie: 0,
            };
            (description, inner.peer.clone(), inner.embryos.iter().cloned().collect::<Vec<_>>())
        };
        description.peer = peer.map(|peer| peer.ino.load(Relaxed));
        description.waiting = embryos.iter().map(|embryo| embryo.ino.load(Relaxed)).collect();
        description.cookie = self.options().cookie();
        description
    }
}

/// The rows of /proc/net/unix for the reader's network namespace.
pub fn rows(out: &mut Text) -> Result<()> {
    /// It listens (`__SO_ACCEPTCON`).
    const ACCEPTS: u32 = 1 << 16;
    for socket in sockets(&NetNs::current()) {
        let one = socket.describe();
        let flags = if one.state == State::Listening { ACCEPTS } else { 0 };
        // SS_UNCONNECTED and SS_CONNECTED.
        let state = if one.state == State::Connected { 3 } else { 1 };
        put!(
            out,
            "0000000000000000: 00000002 00000000 {flags:08X} {:04X} {state:02X} {:5}",
            one.kind as u32,
            one.ino
        );
        if !one.name.is_empty() {
            put!(out, " ");
            // The NULs of abstract names are shown as '@', the one behind a path not at all.
            let shown = if one.name[0] == 0 {
                &one.name[..]
            } else {
                one.name.strip_suffix(b"\0").unwrap_or(&one.name)
            };
            let text: Vec<u8> = shown.iter().map(|&byte| if byte == 0 { b'@' } else { byte }).collect();
            out.push(&text);
        }
        put!(out, "\n");
    }
    Ok(())
}
