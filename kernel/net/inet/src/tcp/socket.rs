//! The socket in front of a connection or a listener.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::Ordering::Relaxed;

use abi::poll::PollEvents;
use abi::socket::{AF_INET6, Ucred};
use abi::{Errno, Result};
use hal::time::now_ns;
use hal::uio::Dest;
use hal::{UserAddr, user};
use net_core::options::{
    SO_KEEPALIVE, SO_RCVBUF, SO_RCVBUFFORCE, SO_REUSEADDR, SO_REUSEPORT, SO_SNDBUF, SO_SNDBUFFORCE,
};
use net_core::{End, Halves, MsgFlags, Options, Outgoing, Patience, Place, Received, SockType, Socket};
use ns::NetNs;
use sched::PollTable;
use security::Cred;
use tcp::{State, Tcb};
use vfs::WalkContext;

use super::conn::{Backlog, Conn, Inner, initial_seq};
use crate::ip::{self, Endpoint, Ip, Use};
use crate::ports::Sharing;
use crate::stack::Stack;
use crate::sysctl;

/// `IPPROTO_TCP`.
pub(crate) const IPPROTO_TCP: i32 = 6;
/// Is the stream at the urgent mark?
const SIOCATMARK: u32 = 0x8905;
/// Bytes not sent yet.
const SIOCOUTQNSD: u32 = 0x894b;
/// Most bytes in a segment on `lo`, which cuts nothing: what one call writes goes in one piece.
const BURST: u32 = 65536;
/// Bytes of headers in a segment.
const HEADERS: u32 = 40;

/// A TCP socket.
pub(crate) struct TcpSocket {
    pub(crate) net: Arc<NetNs>,
    pub(crate) conn: Arc<Conn>,
}

/// The settings of new connections.
fn config(mtu: u32) -> tcp::Config {
    const SECOND_NS: u64 = 1_000_000_000;
    let seconds = |value: &core::sync::atomic::AtomicU32| u64::from(value.load(Relaxed)) * SECOND_NS;
    let mss = mtu.saturating_sub(HEADERS).clamp(536, 65495) as u16;
    tcp::Config {
        burst: BURST,
        window_scaling: sysctl::WINDOW_SCALING.load(Relaxed) != 0,
        sack: sysctl::SACK.load(Relaxed) != 0,
        timestamps: sysctl::TIMESTAMPS.load(Relaxed) != 0,
        keepalive_idle_ns: seconds(&sysctl::KEEPALIVE_TIME),
        keepalive_interval_ns: seconds(&sysctl::KEEPALIVE_INTERVAL),
        keepalive_probes: sysctl::KEEPALIVE_PROBES.load(Relaxed),
        syn_retries: sysctl::SYN_RETRIES.load(Relaxed),
        synack_retries: sysctl::SYNACK_RETRIES.load(Relaxed),
        data_retries: sysctl::DATA_RETRIES.load(Relaxed),
        fin_timeout_ns: seconds(&sysctl::FIN_TIMEOUT),
        ..tcp::Config::new(mss)
    }
}

impl TcpSocket {
    pub(crate) fn create(net: Arc<NetNs>, family: u16, cred: &Cred) -> Arc<dyn Socket> {
        let stack = Stack::of(&net);
        let config = config(stack.lo.mtu());
        Arc::new(Self { net, conn: Conn::new(stack, family, cred.fsuid, config) })
    }

    fn sharing(&self, automatic: bool) -> Sharing {
        Sharing {
            address: self.conn.options.has(SO_REUSEADDR),
            port: self.conn.options.has(SO_REUSEPORT),
            uid: self.conn.uid,
            automatic,
        }
    }

    /// Takes a port, 0 for any, unless there is one.
    fn take_port(&self, at: Endpoint) -> Result<()> {
        let binding =
            self.conn.stack.tcp_ports.bind(at, self.conn.ip.v6_only(), self.sharing(false), |_| true)?;
        let mut inner = self.conn.inner.lock();
        inner.local = binding.at;
        inner.has_address = !at.ip.is_any();
        inner.binding = Some(binding);
        Ok(())
    }

    /// Begins to connect to `remote`.
    fn start(&self, remote: Endpoint) -> Result<()> {
        let conn = &self.conn;
        let _setup = conn.output.lock();
        let (own, has_port) = {
            let inner = conn.inner.lock();
            match inner.state() {
                _ if inner.backlog.is_some() => return Err(Errno::EISCONN),
                State::Closed => {}
                State::SynSent | State::SynReceived => return Err(Errno::EALREADY),
                _ => return Err(Errno::EISCONN),
            }
            (inner.local, inner.binding.is_some())
        };
        if remote.ip.is_v4() && conn.family != abi::socket::AF_INET && conn.ip.v6_only()
            || remote.ip.is_multicast()
            || remote.ip.is_broadcast()
        {
            return Err(Errno::ENETUNREACH);
        }
        let (from, to) = conn.stack.route(own.ip, remote.ip)?;
        if from.is_v4() != to.is_v4() {
            return Err(Errno::EINVAL);
        }
        let remote = Endpoint { ip: to, ..remote };
        let mut local = Endpoint { ip: from, port: own.port };
        let mut found = None;
        if !has_port {
            // The other end may be in TIME-WAIT when this one is gone: both must be free.
            let table = &conn.stack.connections;
            let free = |port| {
                let from = Endpoint { port, ..local };
                table.find(from, remote).is_none() && table.find(remote, from).is_none()
            };
            let any = Endpoint { ip: from, port: 0 };
            let binding = conn.stack.tcp_ports.bind(any, false, self.sharing(true), free)?;
            local.port = binding.at.port;
            found = Some(binding);
        }
        {
            let mut inner = conn.inner.lock();
            (inner.local, inner.remote) = (local, remote);
            inner.binding = found.or(inner.binding.take());
            (inner.error, inner.shut) = (None, Halves::NONE);
            (inner.was_connected, inner.is_connecting) = (false, true);
            inner.tcb = Some(Box::new(Tcb::connect(inner.config.clone(), initial_seq(), now_ns())));
            inner.is_entered = true;
        }
        if !conn.stack.connections.enter(local, remote, conn) {
            let mut inner = conn.inner.lock();
            (inner.tcb, inner.is_entered, inner.is_connecting) = (None, false, false);
            return Err(Errno::EADDRNOTAVAIL);
        }
        conn.with(|_| ());
        Ok(())
    }

    /// What the caller who does not wait is told: `EINPROGRESS`, even when the handshake over the loopback device has ended
    /// by now, well or badly. Programs rely on it that connect(2) never succeeds at once; poll(2), `SO_ERROR` and the next
    /// connect(2) tell how it ended.
    fn in_progress(&self) -> Errno {
        let was_connected = self.conn.inner.lock().was_connected;
        if was_connected {
            self.conn.grow_buffers();
        }
        Errno::EINPROGRESS
    }

    /// Waits for the end of the handshake.
    fn await_connection(&self, flags: MsgFlags) -> Result<()> {
        let conn = &self.conn;
        let patience = Patience::new(flags, conn.options.send_timeout());
        let is_over = || {
            let state = conn.inner.lock().state();
            (!matches!(state, State::SynSent | State::SynReceived)).then_some(())
        };
        patience.wait(&conn.wait, is_over).map_err(|errno| match errno {
            Errno::EAGAIN => Errno::EINPROGRESS,
            errno => errno,
        })?;
        let mut inner = conn.inner.lock();
        inner.is_connecting = false;
        let result = match inner.error.take() {
            Some(error) => Err(error),
            None if inner.was_connected => Ok(()),
            None => Err(Errno::ECONNABORTED),
        };
        drop(inner);
        if result.is_ok() {
            conn.grow_buffers();
        }
        result
    }

    /// Ends the association (connect(2) with `AF_UNSPEC`).
    fn disconnect(&self) -> Result<()> {
        let conn = &self.conn;
        conn.stop_listening();
        conn.with(|inner| {
            let answer = inner.tcb.as_mut().and_then(|tcb| tcb.abort());
            inner.queue(answer);
        });
        // Whoever hands its segments over takes the ends from it.
        conn.await_flushed();
        let mut inner = conn.inner.lock();
        inner.is_connecting = false;
        inner.error = None;
        inner.shut = Halves::NONE;
        inner.was_connected = false;
        let tcb = inner.tcb.take();
        inner.remote = Endpoint::NONE;
        if !inner.has_address {
            inner.local.ip = Ip::ANY;
        }
        drop(inner);
        drop(tcb);
        Ok(())
    }

    /// Waits until what was written is acknowledged, for at most `seconds`.
    fn linger(&self, seconds: u32) {
        let patience = Patience::new(MsgFlags::empty(), Some(u64::from(seconds) * 1_000_000_000));
        let is_done = || {
            let state = self.conn.inner.lock().state();
            matches!(state, State::FinWait2 | State::TimeWait | State::Closed).then_some(())
        };
        // A signal or the end of the time ends the waiting only.
        let _ = patience.wait(&self.conn.wait, is_done);
    }

    fn events(&self) -> PollEvents {
        let (readable, writable) =
            (PollEvents::IN | PollEvents::RDNORM, PollEvents::OUT | PollEvents::WRNORM);
        let inner = self.conn.inner.lock();
        let mut events = PollEvents::empty();
        if let Some(backlog) = &inner.backlog {
            events.set(readable, !backlog.ready.is_empty());
            return events;
        }
        let state = inner.state();
        events.set(PollEvents::ERR, inner.error.is_some());
        let (over, send_over) = match &inner.tcb {
            Some(tcb) => (
                inner.shut.receive || tcb.is_receive_over(),
                inner.shut.send || !tcb.can_send() && !matches!(state, State::SynSent | State::SynReceived),
            ),
            None => (inner.shut.receive, inner.shut.send),
        };
        events.set(PollEvents::HUP, state == State::Closed || over && send_over);
        events.set(readable | PollEvents::RDHUP, over && inner.tcb.is_some());
        if matches!(state, State::SynSent | State::SynReceived) {
            return events;
        }
        let Some(tcb) = &inner.tcb else { return events | writable };
        events.set(PollEvents::PRI, matches!(tcb.urgent_byte(), Some(Some(_))));
        let least = self.conn.options.rcvlowat();
        if tcb.readable() >= least.max(1) {
            events |= readable;
        }
        if send_over || tcb.is_writable() {
            events |= writable;
        }
        events
    }
}

impl Socket for TcpSocket {
    fn family(&self) -> u16 {
        self.conn.family
    }

    fn kind(&self) -> SockType {
        SockType::Stream
    }

    fn protocol(&self) -> i32 {
        IPPROTO_TCP
    }

    fn protocol_name(&self) -> &'static str {
        if self.conn.family == AF_INET6 { "TCPv6" } else { "TCP" }
    }

    fn options(&self) -> &Options {
        &self.conn.options
    }

    fn bind(&self, walk: &WalkContext<'_>, address: &[u8]) -> Result<()> {
        let at = ip::parse(address, self.conn.family, Use::Bind)?;
        crate::check_bind(&self.net, &self.conn.stack, &self.conn.ip, at, walk.cred)?;
        let _setup = self.conn.output.lock();
        if self.conn.inner.lock().binding.is_some() {
            return Err(Errno::EINVAL);
        }
        self.take_port(at)
    }

    fn connect(&self, _walk: &WalkContext<'_>, address: &[u8], flags: MsgFlags) -> Result<()> {
        if address.len() < 2 {
            return Err(Errno::EINVAL);
        }
        if ip::is_unspecified(address) {
            return self.disconnect();
        }
        if self.conn.inner.lock().is_connecting {
            let patience = flags.contains(MsgFlags::DONTWAIT);
            let state = self.conn.inner.lock().state();
            if patience && matches!(state, State::SynSent | State::SynReceived) {
                return Err(Errno::EALREADY);
            }
            return self.await_connection(flags);
        }
        self.start(ip::parse(address, self.conn.family, Use::Reach)?)?;
        if flags.contains(MsgFlags::DONTWAIT) {
            return Err(self.in_progress());
        }
        self.await_connection(flags)
    }

    fn listen(&self, backlog: i32) -> Result<()> {
        let conn = &self.conn;
        let _setup = conn.output.lock();
        let limit = (backlog as u32).min(sysctl::SOMAXCONN.load(Relaxed)) as usize;
        let has_port = {
            let mut inner = conn.inner.lock();
            if let Some(backlog) = &mut inner.backlog {
                backlog.limit = limit;
                return Ok(());
            }
            if inner.state() != State::Closed {
                return Err(Errno::EINVAL);
            }
            inner.binding.is_some()
        };
        if !has_port {
            self.take_port(Endpoint { ip: crate::any_of(conn.family), port: 0 })?;
        }
        let mut inner = conn.inner.lock();
        let Some(binding) = inner.binding.clone() else { return Err(Errno::EINVAL) };
        binding.listen()?;
        inner.local = binding.at;
        inner.backlog = Some(Backlog { limit, ..Backlog::default() });
        inner.tcb = None;
        inner.shut = Halves::NONE;
        drop(inner);
        conn.stack.connections.listen(binding.at, conn.ip.v6_only(), conn);
        Ok(())
    }

    fn accept(&self, flags: MsgFlags) -> Result<Arc<dyn Socket>> {
        let patience = Patience::new(flags, self.conn.options.receive_timeout());
        let conn = patience.wait(&self.conn.wait, || match &mut self.conn.inner.lock().backlog {
            None => Some(Err(Errno::EINVAL)),
            Some(backlog) => backlog.ready.pop_front().map(Ok),
        })??;
        Ok(Arc::new(Self { net: self.net.clone(), conn }))
    }

    fn send(&self, _walk: Option<&WalkContext<'_>>, message: Outgoing<'_, '_>) -> Result<usize> {
        self.send_stream(message)
    }

    fn receive(&self, dst: &mut Dest<'_>, flags: MsgFlags) -> Result<Received> {
        self.receive_stream(dst, flags)
    }

    fn shutdown(&self, halves: Halves) -> Result<()> {
        if self.is_listening() {
            if halves.receive {
                self.conn.stop_listening();
            }
            return Ok(());
        }
        self.conn.with(|inner| {
            if inner.state() == State::Closed {
                return Err(Errno::ENOTCONN);
            }
            inner.shut.close(halves);
            let is_opening = inner.state() == State::SynSent;
            let Inner { tcb: Some(tcb), .. } = inner else { return Err(Errno::ENOTCONN) };
            if is_opening {
                let _ = tcb.abort();
            } else if halves.send {
                tcb.shutdown();
            }
            Ok(())
        })?;
        self.conn.wait.wake_events(u32::MAX);
        Ok(())
    }

    fn address(&self, end: End) -> Result<Vec<u8>> {
        let inner = self.conn.inner.lock();
        let shown = match end {
            End::Local => inner.local,
            End::Peer if matches!(inner.state(), State::Closed | State::SynSent) => {
                return Err(Errno::ENOTCONN);
            }
            End::Peer => inner.remote,
        };
        Ok(shown.to_bytes(self.conn.family))
    }

    fn poll(&self, table: &mut PollTable) -> PollEvents {
        table.register(&self.conn.wait);
        self.events()
    }

    fn readable_bytes(&self) -> Result<usize> {
        let inner = self.conn.inner.lock();
        if inner.backlog.is_some() {
            return Err(Errno::EINVAL);
        }
        Ok(inner.tcb.as_ref().map_or(0, |tcb| tcb.readable()))
    }

    fn unsent_bytes(&self) -> Result<usize> {
        let inner = self.conn.inner.lock();
        if inner.backlog.is_some() {
            return Err(Errno::EINVAL);
        }
        Ok(inner.tcb.as_ref().map_or(0, |tcb| tcb.unacknowledged()))
    }

    fn take_error(&self) -> Option<Errno> {
        self.conn.inner.lock().error.take()
    }

    fn is_listening(&self) -> bool {
        self.conn.inner.lock().backlog.is_some()
    }

    fn peer_cred(&self) -> Ucred {
        Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX }
    }

    fn net_cookie(&self) -> u64 {
        self.net.id().id()
    }

    fn set_option(&self, level: i32, name: i32, value: &[u8], _cred: &Cred) -> Result<()> {
        if level == IPPROTO_TCP {
            return self.set_tcp_option(name, value);
        }
        self.conn.ip.set(self.conn.family, level, name, value)
    }

    fn get_option(&self, level: i32, name: i32, place: &Place<'_>) -> Result<Vec<u8>> {
        if level == IPPROTO_TCP {
            return self.tcp_option(name, place.room);
        }
        let is_connected = self.conn.inner.lock().state() != State::Closed;
        self.conn.ip.get(self.conn.family, level, name, is_connected)
    }

    fn option_changed(&self, name: i32) {
        let options = &self.conn.options;
        match name {
            SO_SNDBUF | SO_SNDBUFFORCE => self.conn.sized.fetch_or(1, Relaxed),
            SO_RCVBUF | SO_RCVBUFFORCE => self.conn.sized.fetch_or(2, Relaxed),
            SO_KEEPALIVE => 0,
            _ => return,
        };
        let (is_on, now) = (options.has(SO_KEEPALIVE), now_ns());
        self.conn.with(|inner| {
            let sized = self.conn.sized.load(Relaxed);
            let apply = |config: &mut tcp::Config| {
                config.keepalive = is_on;
                if sized & 1 != 0 {
                    config.send_buffer = options.sndbuf();
                }
                if sized & 2 != 0 {
                    config.receive_buffer = options.rcvbuf();
                }
            };
            apply(&mut inner.config);
            if let Some(tcb) = &mut inner.tcb {
                apply(&mut tcb.config);
                if name == SO_KEEPALIVE {
                    tcb.set_keepalive(is_on, now);
                }
            }
        });
    }

    fn ioctl(&self, cmd: u32, arg: UserAddr) -> Result<usize> {
        let value = {
            let inner = self.conn.inner.lock();
            match cmd {
                SIOCATMARK => inner.tcb.as_ref().is_some_and(|tcb| tcb.urgent_offset() == Some(0)).into(),
                SIOCOUTQNSD if inner.backlog.is_some() => return Err(Errno::EINVAL),
                SIOCOUTQNSD => inner.tcb.as_ref().map_or(0, |tcb| tcb.unsent() as i32),
                _ => return Err(Errno::ENOTTY),
            }
        };
        user::write(arg, &value)?;
        Ok(0)
    }

    fn net(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self.net.clone())
    }

    fn opened(&self, ino: u64) {
        self.conn.ino.store(ino, Relaxed);
    }

    fn release(&self) {
        let conn = &self.conn;
        conn.stop_listening();
        let linger = conn.options.linger();
        conn.with(|inner| {
            inner.is_closed = true;
            let answer = inner.tcb.as_mut().and_then(|tcb| match linger {
                Some(0) => tcb.abort(),
                _ => tcb.close(now_ns()),
            });
            inner.queue(answer);
        });
        if let Some(seconds) = linger.filter(|&seconds| seconds > 0) {
            self.linger(seconds);
        }
        // A connection that lives on keeps its port; it is in the tables until it ends.
        let binding = {
            let mut inner = conn.inner.lock();
            if inner.state() == State::Closed { inner.binding.take() } else { None }
        };
        drop(binding);
    }
}
