//! The socket itself, and the calls that are the same for all types.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};

use abi::poll::PollEvents;
use abi::socket::{AF_UNIX, Ucred};
use abi::{Errno, Result};
use hal::sync::SpinLock;
use hal::uio::Dest;
use net_core::options::SO_PASSPIDFD;
use net_core::{
    Control, End, Halves, MsgFlags, Options, Outgoing, Patience, Process, Received, SockType, Socket,
};
use ns::NetNs;
use sched::{Mutex, PollTable, WaitQueue};
use vfs::WalkContext;

use crate::address::{self, Address, Binding};
use crate::packet::{Packet, Sender};
use crate::{all, rights};

/// Most connections that may wait for accept(2) (/proc/sys/net/core/somaxconn).
const SOMAXCONN: u32 = 4096;
/// Messages that may wait in a datagram socket that is not connected to their sender
/// (/proc/sys/net/unix/max_dgram_qlen).
const MAX_DGRAM_QLEN: usize = 10;

/// Where a socket is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// New, or a datagram socket without a peer.
    Unconnected,
    /// Accepts connections.
    Listening,
    /// Has a peer, or had one that has ended.
    Connected,
    /// Its file has ended.
    Dead,
}

/// What the lock guards.
pub(crate) struct Inner {
    pub(crate) state: State,
    pub(crate) local: Option<Address>,
    binding: Option<Binding>,
    pub(crate) peer: Option<Arc<UnixSocket>>,
    pub(crate) queue: VecDeque<Packet>,
    pub(crate) embryos: VecDeque<Arc<UnixSocket>>,
    pub(crate) backlog: usize,
    pub(crate) shut: Halves,
    pub(crate) error: Option<Errno>,
    /// Who connected or listened on the other side.
    pub(crate) peer_cred: Option<Ucred>,
    pub(crate) peer_process: Option<Process>,
    /// Who called listen(2).
    pub(crate) own_cred: Ucred,
    pub(crate) own_process: Option<Process>,
}

/// A socket of the family `AF_UNIX`.
pub struct UnixSocket {
    pub(crate) me: Weak<UnixSocket>,
    pub(crate) kind: SockType,
    /// Where its abstract name counts.
    pub(crate) net: Arc<NetNs>,
    pub(crate) inner: SpinLock<Inner>,
    pub(crate) out: Arc<Sender>,
    /// Receivers, acceptors, and whoever waits for a change of state.
    pub(crate) wait: WaitQueue,
    /// Those who wait for room in this socket's queue or backlog.
    pub(crate) room: WaitQueue,
    pub(crate) io: Mutex<()>,
    /// Where the next look without taking begins, in bytes; negative: always at the first (`SO_PEEK_OFF`). Changed by
    /// receivers under `io`.
    pub(crate) peek_off: AtomicI32,
    /// Whether each receive tells how many bytes are left (`SO_INQ`).
    pub(crate) tells_left: AtomicBool,
    bind_lock: Mutex<()>,
    pub(crate) ino: AtomicU64,
}

/// Options of level `SOL_SOCKET` that other families do not have.
const SO_PEEK_OFF: i32 = 42;
const SO_INQ: i32 = 84;

/// Events that a change of state may bring.
pub(crate) const ANY: u32 = u32::MAX;
/// Data came.
pub(crate) const READABLE: u32 = PollEvents::IN.union(PollEvents::RDNORM).bits();

impl UnixSocket {
    pub(crate) fn new(kind: SockType, net: Arc<NetNs>) -> Arc<Self> {
        let socket = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            kind,
            net,
            inner: SpinLock::new(
                "unix.socket",
                Inner {
                    state: State::Unconnected,
                    local: None,
                    binding: None,
                    peer: None,
                    queue: VecDeque::new(),
                    embryos: VecDeque::new(),
                    backlog: MAX_DGRAM_QLEN,
                    shut: Halves::NONE,
                    error: None,
                    peer_cred: None,
                    peer_process: None,
                    own_cred: Ucred::default(),
                    own_process: None,
                },
            ),
            out: Sender::new(),
            wait: WaitQueue::new(),
            room: WaitQueue::new(),
            io: Mutex::new("unix.io", ()),
            peek_off: AtomicI32::new(-1),
            tells_left: AtomicBool::new(false),
            bind_lock: Mutex::new("unix.bind", ()),
            ino: AtomicU64::new(0),
        });
        all::enter(&socket);
        socket
    }

    /// Connects a new socket to `peer` (socketpair(2)).
    pub(crate) fn join(&self, peer: &Arc<UnixSocket>) {
        let mut inner = self.inner.lock();
        inner.peer = Some(peer.clone());
        inner.peer_cred = Some(net_core::identity());
        inner.peer_process = net_core::process();
        inner.state = State::Connected;
    }

    pub(crate) fn peer(&self) -> Option<Arc<UnixSocket>> {
        self.inner.lock().peer.clone()
    }

    pub(crate) fn is_peer_of(&self, other: &Inner) -> bool {
        other.peer.as_ref().is_some_and(|peer| core::ptr::eq(&**peer, self))
    }

    fn is_connection(&self) -> bool {
        self.kind != SockType::Datagram
    }

    /// Gives the socket a name unless it has one.
    pub(crate) fn autobind(&self) -> Result<()> {
        let _bind = self.bind_lock.lock();
        if self.inner.lock().local.is_some() {
            return Ok(());
        }
        self.set_name(address::autobind(self)?);
        Ok(())
    }

    fn set_name(&self, (binding, name): (Binding, Address)) {
        let mut inner = self.inner.lock();
        inner.local = Some(name);
        inner.binding = Some(binding);
    }

    /// Wakes whoever waits for anything of this socket.
    pub(crate) fn wake_everyone(&self) {
        self.wait.wake_events(ANY);
        self.out.wait.wake_events(ANY);
        self.room.wake_events(ANY);
    }

    /// Ends the socket; `was_accepted` is false for a connection that nobody accepted.
    fn end(&self, was_accepted: bool) {
        let (was, peer, binding, queue, embryos) = {
            let mut inner = self.inner.lock();
            let was = core::mem::replace(&mut inner.state, State::Dead);
            inner.shut = Halves::BOTH;
            let queue = core::mem::take(&mut inner.queue);
            let embryos = core::mem::take(&mut inner.embryos);
            (was, inner.peer.take(), inner.binding.take(), queue, embryos)
        };
        if was == State::Dead {
            return;
        }
        drop(binding);
        if let Some(peer) = &peer {
            if self.is_connection() {
                let mut theirs = peer.inner.lock();
                theirs.shut = Halves::BOTH;
                if !queue.is_empty() || !was_accepted {
                    theirs.error = Some(Errno::ECONNRESET);
                }
                drop(theirs);
            }
            peer.wake_everyone();
        }
        for embryo in &embryos {
            embryo.end(false);
        }
        rights::discard(queue.into_iter().collect());
        self.wake_everyone();
        drop(peer);
        drop(embryos);
    }

    /// Events of a connection's or datagram socket's state.
    fn ready_events(&self) -> (PollEvents, Option<Arc<UnixSocket>>) {
        let readable = PollEvents::IN | PollEvents::RDNORM;
        let writable = PollEvents::OUT | PollEvents::WRNORM | PollEvents::WRBAND;
        let inner = self.inner.lock();
        let mut events = PollEvents::empty();
        events.set(PollEvents::ERR, inner.error.is_some());
        events.set(PollEvents::HUP, inner.shut == Halves::BOTH);
        events.set(readable | PollEvents::RDHUP, inner.shut.receive);
        if !inner.queue.is_empty() || !inner.embryos.is_empty() {
            events |= readable;
        }
        if self.is_connection() && inner.state == State::Unconnected {
            events |= PollEvents::HUP;
        }
        if inner.state != State::Listening && self.out.is_writable() {
            events |= writable;
        }
        let peer = if self.kind == SockType::Datagram { inner.peer.clone() } else { None };
        (events, peer)
    }
}

impl Inner {
    /// The first packet that a receiver looks at, and the bytes of it that are passed over; `None`: there is none yet.
    /// `peek_off` is that of the socket for a look without taking, else negative.
    pub(crate) fn first_for(&self, kind: SockType, peek_off: i32) -> Option<(usize, usize)> {
        let Ok(mut skip) = usize::try_from(peek_off) else {
            return (!self.queue.is_empty()).then_some((0, 0));
        };
        for (idx, packet) in self.queue.iter().enumerate() {
            let is_over = match kind {
                SockType::Stream => skip >= packet.left(),
                // An empty message is looked at once.
                _ => skip >= packet.left() && (skip > 0 || packet.was_seen),
            };
            if !is_over {
                return Some((idx, skip));
            }
            skip -= packet.left();
        }
        None
    }

    /// Whether no more datagrams or connections fit.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.len().max(self.embryos.len()) > self.backlog
    }
}

/// `SO_PEEK_OFF` and its moves.
impl UnixSocket {
    /// Where a receive with `flags` looks first.
    pub(crate) fn peek_off(&self, flags: MsgFlags) -> i32 {
        if flags.contains(MsgFlags::PEEK) { self.peek_off.load(Relaxed) } else { -1 }
    }

    /// `len` bytes were looked at, or taken out of the queue. The caller holds `io`.
    pub(crate) fn move_peek_off(&self, flags: MsgFlags, len: usize) {
        let at = self.peek_off.load(Relaxed);
        if at >= 0 {
            let len = i32::try_from(len).unwrap_or(i32::MAX);
            let is_look = flags.contains(MsgFlags::PEEK);
            let to = if is_look { at.saturating_add(len) } else { at.saturating_sub(len).max(0) };
            self.peek_off.store(to, Relaxed);
        }
    }

    /// Tells how many bytes are left, if that was asked for.
    pub(crate) fn tell_left(&self, got: &mut Received) {
        const SOL_SOCKET: i32 = 1;
        if self.tells_left.load(Relaxed) {
            let left: usize = self.inner.lock().queue.iter().map(Packet::left).sum();
            let data = i32::try_from(left).unwrap_or(i32::MAX).to_ne_bytes().to_vec();
            got.control.push(Control { level: SOL_SOCKET, kind: SO_INQ, data });
        }
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        all::leave(self);
    }
}

impl Socket for UnixSocket {
    fn net_cookie(&self) -> u64 {
        self.net.id().id()
    }

    fn family(&self) -> u16 {
        AF_UNIX
    }

    fn kind(&self) -> SockType {
        self.kind
    }

    fn protocol_name(&self) -> &'static str {
        if self.kind == SockType::Stream { "UNIX-STREAM" } else { "UNIX" }
    }

    fn options(&self) -> &Options {
        &self.out.options
    }

    fn bind(&self, walk: &WalkContext<'_>, address: &[u8]) -> Result<()> {
        if address::is_autobind(address) {
            return self.autobind();
        }
        let name = address::parse(address)?;
        let _bind = self.bind_lock.lock();
        if self.inner.lock().local.is_some() {
            return Err(Errno::EINVAL);
        }
        self.set_name(address::bind(self, walk, name)?);
        Ok(())
    }

    fn connect(&self, walk: &WalkContext<'_>, address: &[u8], flags: MsgFlags) -> Result<()> {
        match self.kind {
            SockType::Datagram => self.connect_datagram(walk, address),
            _ => self.connect_stream(walk, address, flags),
        }
    }

    fn listen(&self, backlog: i32) -> Result<()> {
        if !self.is_connection() {
            return Err(Errno::EOPNOTSUPP);
        }
        let process = net_core::process();
        let old_process;
        {
            let mut inner = self.inner.lock();
            if inner.local.is_none() || !matches!(inner.state, State::Unconnected | State::Listening) {
                return Err(Errno::EINVAL);
            }
            inner.state = State::Listening;
            // Negative numbers mean the most.
            inner.backlog = (backlog as u32).min(SOMAXCONN) as usize;
            inner.own_cred = net_core::identity();
            old_process = core::mem::replace(&mut inner.own_process, process);
        }
        drop(old_process);
        self.room.wake_all();
        Ok(())
    }

    fn accept(&self, flags: MsgFlags) -> Result<Arc<dyn Socket>> {
        if !self.is_connection() {
            return Err(Errno::EOPNOTSUPP);
        }
        let patience = Patience::new(flags, self.options().receive_timeout());
        let embryo = patience.wait(&self.wait, || {
            let mut inner = self.inner.lock();
            if inner.state != State::Listening || inner.shut.receive {
                return Some(Err(Errno::EINVAL));
            }
            inner.embryos.pop_front().map(Ok)
        })??;
        self.room.wake_all();
        Ok(embryo)
    }

    fn send(&self, walk: Option<&WalkContext<'_>>, message: Outgoing<'_, '_>) -> Result<usize> {
        if message.flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        match self.kind {
            SockType::Stream => self.send_stream(message),
            SockType::Datagram => self.send_datagram(walk, message),
            SockType::SeqPacket | SockType::Raw => {
                if self.inner.lock().state != State::Connected {
                    return Err(Errno::ENOTCONN);
                }
                self.send_datagram(None, Outgoing { name: None, ..message })
            }
        }
    }

    fn receive(&self, dst: &mut Dest<'_>, flags: MsgFlags) -> Result<Received> {
        match self.kind {
            SockType::Stream => self.receive_stream(dst, flags),
            _ => self.receive_datagram(dst, flags),
        }
    }

    fn shutdown(&self, halves: Halves) -> Result<()> {
        let peer = {
            let mut inner = self.inner.lock();
            inner.shut.close(halves);
            inner.peer.clone()
        };
        if let Some(peer) = peer.filter(|_| self.is_connection()) {
            peer.inner.lock().shut.close(Halves { receive: halves.send, send: halves.receive });
            peer.wake_everyone();
        }
        self.wake_everyone();
        Ok(())
    }

    fn address(&self, end: End) -> Result<Vec<u8>> {
        let name = match end {
            End::Local => self.inner.lock().local.clone(),
            End::Peer => {
                let peer = self.peer().ok_or(Errno::ENOTCONN)?;
                peer.inner.lock().local.clone()
            }
        };
        Ok(name.map_or_else(address::unnamed, |name| name.to_vec()))
    }

    fn poll(&self, table: &mut PollTable) -> PollEvents {
        table.register(&self.wait);
        table.register(&self.out.wait);
        let (mut events, peer) = self.ready_events();
        if let Some(peer) = peer {
            // A datagram socket can send only while its peer has room.
            table.register(&peer.room);
            let theirs = peer.inner.lock();
            if !self.is_peer_of(&theirs) && theirs.is_full() {
                events -= PollEvents::OUT | PollEvents::WRNORM | PollEvents::WRBAND;
            }
        }
        events
    }

    fn readable_bytes(&self) -> Result<usize> {
        let inner = self.inner.lock();
        match (inner.state, self.kind) {
            (State::Listening, _) => Err(Errno::EINVAL),
            (_, SockType::Datagram) => Ok(inner.queue.front().map_or(0, Packet::left)),
            _ => Ok(inner.queue.iter().map(Packet::left).sum()),
        }
    }

    fn unsent_bytes(&self) -> Result<usize> {
        if self.is_listening() { Err(Errno::EINVAL) } else { Ok(self.out.used()) }
    }

    fn set_own_option(&self, name: i32, value: i32) -> Result<()> {
        match name {
            SO_PEEK_OFF => self.peek_off.store(value, Relaxed),
            SO_PASSPIDFD => self.options().set_passpidfd(value != 0),
            SO_INQ if self.kind != SockType::Stream => return Err(Errno::ENOPROTOOPT),
            SO_INQ if !(0..=1).contains(&value) => return Err(Errno::EINVAL),
            SO_INQ => self.tells_left.store(value != 0, Relaxed),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn own_option(&self, name: i32) -> Result<i32> {
        match name {
            SO_PEEK_OFF => Ok(self.peek_off.load(Relaxed)),
            SO_PASSPIDFD => Ok(self.options().passpidfd().into()),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn net(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self.net.clone())
    }

    fn take_error(&self) -> Option<Errno> {
        self.inner.lock().error.take()
    }

    fn is_listening(&self) -> bool {
        self.inner.lock().state == State::Listening
    }

    fn peer_cred(&self) -> Ucred {
        // What Linux shows without a peer.
        self.inner.lock().peer_cred.unwrap_or(Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX })
    }

    fn peer_process(&self) -> Option<Process> {
        self.inner.lock().peer_process.clone()
    }

    fn opened(&self, ino: u64) {
        self.ino.store(ino, Relaxed);
    }

    fn release(&self) {
        self.end(true);
        rights::file_ended();
    }
}
