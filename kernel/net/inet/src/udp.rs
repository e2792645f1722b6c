//! UDP sockets (udp(7)).
//!
//! A datagram goes from the sender's call straight into the receiver's queue, as long as its buffer has room; what does
//! not fit is lost, as UDP allows. Nobody at the port is told to a connected sender by `ECONNREFUSED`.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abi::poll::PollEvents;
use abi::socket::{AF_INET, AF_INET6, Ucred};
use abi::{Errno, Result};
use hal::sync::SpinLock;
use hal::uio::Dest;
use net_core::options::{SO_REUSEADDR, SO_REUSEPORT, SO_TIMESTAMP};
use net_core::{
    Control, End, Halves, MsgFlags, Options, Outgoing, Patience, Place, Received, SockType, Socket,
};
use ns::NetNs;
use sched::{PollTable, WaitQueue};
use security::Cred;
use tcp::Payload;
use vfs::WalkContext;

use crate::buffer::Chunk;
use crate::ip::{self, Endpoint, Ip, Use};
use crate::level::{IpOptions, LEVEL_IP, LEVEL_IPV6};
use crate::ports::{Binding, Sharing};
use crate::stack::{LO_INDEX, Stack};
use crate::tap;
use crate::wire::Head;

/// `IPPROTO_UDP`.
pub(crate) const IPPROTO_UDP: i32 = 17;
/// Most bytes in a datagram.
const MAX_DATAGRAM: usize = 65507;
/// Bytes before its data.
const HEADERS: usize = 28;
/// What a datagram costs beyond its data; about what a Linux `sk_buff` does.
const OVERHEAD: usize = 768;
/// Buckets of the table of receivers.
const BUCKETS: usize = 128;

/// A datagram in a queue.
struct Datagram {
    data: Chunk,
    from: Endpoint,
    to: Ip,
    ttl: u8,
    tos: u8,
    time_ns: i64,
}

/// An error for `MSG_ERRQUEUE`.
struct Report {
    errno: Errno,
    /// Type and code of the ICMP message.
    icmp: (u8, u8),
    /// Where the datagram should have gone.
    to: Endpoint,
    data: Chunk,
}

struct Inner {
    local: Endpoint,
    remote: Option<Endpoint>,
    binding: Option<Arc<Binding>>,
    /// The user has bound the address, not only the port.
    has_address: bool,
    queue: VecDeque<Datagram>,
    charged: usize,
    error: Option<Errno>,
    reports: VecDeque<Report>,
    shut: Halves,
}

/// The socket as others find it.
pub(crate) struct UdpConn {
    pub(crate) family: u16,
    pub(crate) uid: u32,
    pub(crate) ino: AtomicU64,
    stack: Arc<Stack>,
    inner: SpinLock<Inner>,
    wait: WaitQueue,
    options: Options,
    ip: IpOptions,
    pub(crate) drops: AtomicU64,
}

/// A UDP socket.
pub(crate) struct UdpSocket {
    net: Arc<NetNs>,
    conn: Arc<UdpConn>,
}

/// Ports with who has them.
type Bucket = SpinLock<Vec<(u16, Weak<UdpConn>)>>;

/// The sockets of a namespace by port.
pub(crate) struct Receivers {
    buckets: Vec<Bucket>,
}

impl Receivers {
    pub(crate) fn new() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| SpinLock::new("inet.receivers", Vec::new())).collect() }
    }

    fn bucket(&self, port: u16) -> &Bucket {
        &self.buckets[usize::from(port) % BUCKETS]
    }

    fn enter(&self, port: u16, conn: &Arc<UdpConn>) {
        self.bucket(port).lock().push((port, Arc::downgrade(conn)));
    }

    fn remove(&self, port: u16, conn: &UdpConn) {
        self.bucket(port).lock().retain(|(_, other)| !core::ptr::eq(other.as_ptr(), conn));
    }

    /// The socket that suits best.
    fn find(&self, to: Endpoint, from: Endpoint) -> Option<Arc<UdpConn>> {
        let mut best: (u32, Option<Arc<UdpConn>>) = (0, None);
        let mut ties = 0u64;
        let bucket = self.bucket(to.port).lock();
        for conn in bucket.iter().filter(|(port, _)| *port == to.port).filter_map(|(_, conn)| conn.upgrade())
        {
            let score = conn.score(to, from);
            // Those that share a port by SO_REUSEPORT share the senders.
            ties = if score == best.0 { ties + 1 } else { 1 };
            let wins = score > best.0 || score > 0 && score == best.0 && u64::from(from.port) % ties == 0;
            if wins {
                best = (score, Some(conn));
            }
        }
        drop(bucket);
        best.1
    }

    /// How many parts [`Receivers::part`] knows.
    pub(crate) const PARTS: usize = BUCKETS;

    /// One part of all sockets of the moment.
    pub(crate) fn part(&self, at: usize) -> Vec<Arc<UdpConn>> {
        let bucket = self.buckets.get(at);
        bucket.map_or_else(Vec::new, |bucket| {
            bucket.lock().iter().filter_map(|(_, conn)| conn.upgrade()).collect()
        })
    }

    /// Calls `each` for all sockets of the moment.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&Arc<UdpConn>)) {
        (0..Self::PARTS).for_each(|at| self.part(at).iter().for_each(&mut each));
    }
}

impl UdpConn {
    /// How well a datagram suits; 0: not at all.
    fn score(&self, to: Endpoint, from: Endpoint) -> u32 {
        let inner = self.inner.lock();
        let by_address = match inner.local.ip {
            ip if ip == to.ip => 4,
            Ip::ANY_V4 if to.ip.is_v4() => 2,
            Ip::ANY if !to.ip.is_v4() => 2,
            Ip::ANY if self.family == AF_INET6 && !self.ip.v6_only() => 1,
            _ => return 0,
        };
        match inner.remote {
            Some(remote) if remote == from => by_address + 8,
            Some(_) => 0,
            None => by_address,
        }
    }

    /// Queues a datagram; what has no room is lost.
    fn deliver(&self, datagram: Datagram) {
        let mut inner = self.inner.lock();
        let cost = datagram.data.len() + OVERHEAD;
        if inner.shut.receive || inner.charged + cost > self.options.rcvbuf().max(OVERHEAD * 2) {
            drop(inner);
            drop(datagram);
            self.drops.fetch_add(1, Relaxed);
            return;
        }
        inner.charged += cost;
        inner.queue.push_back(datagram);
        drop(inner);
        self.wait.wake_events((PollEvents::IN | PollEvents::RDNORM).bits());
    }

    /// Whether it takes nothing of version 4.
    pub(crate) fn is_v6_only(&self) -> bool {
        self.ip.v6_only()
    }

    /// Its number among all sockets (`SO_COOKIE`).
    pub(crate) fn cookie(&self) -> u64 {
        self.options.cookie()
    }

    /// Local and remote end, bytes waiting, and whether it is connected, for /proc/net/udp.
    pub(crate) fn show(&self) -> (Endpoint, Option<Endpoint>, usize) {
        let inner = self.inner.lock();
        (inner.local, inner.remote, inner.charged)
    }
}

impl UdpSocket {
    pub(crate) fn create(net: Arc<NetNs>, family: u16, cred: &Cred) -> Arc<dyn Socket> {
        let conn = Arc::new(UdpConn {
            family,
            uid: cred.fsuid,
            ino: AtomicU64::new(0),
            stack: Stack::of(&net),
            inner: SpinLock::new(
                "inet.udp",
                Inner {
                    local: Endpoint { ip: crate::any_of(family), port: 0 },
                    remote: None,
                    binding: None,
                    has_address: false,
                    queue: VecDeque::new(),
                    charged: 0,
                    error: None,
                    reports: VecDeque::new(),
                    shut: Halves::NONE,
                },
            ),
            wait: WaitQueue::new(),
            options: Options::new(),
            ip: IpOptions::new(),
            drops: AtomicU64::new(0),
        });
        Arc::new(Self { net, conn })
    }

    /// Takes a port unless there is one. `EINVAL`: `at` names one and there is one already.
    fn take_port(&self, at: Option<Endpoint>) -> Result<()> {
        let conn = &self.conn;
        if conn.inner.lock().binding.is_some() {
            return if at.is_some() { Err(Errno::EINVAL) } else { Ok(()) };
        }
        let sharing = Sharing {
            address: conn.options.has(SO_REUSEADDR),
            port: conn.options.has(SO_REUSEPORT),
            uid: conn.uid,
            automatic: false,
        };
        let wanted = at.unwrap_or(Endpoint { ip: crate::any_of(conn.family), port: 0 });
        let binding = match conn.stack.udp_ports.bind(wanted, conn.ip.v6_only(), sharing, |_| true) {
            Err(_) if at.is_none() => return Err(Errno::EAGAIN),
            result => result?,
        };
        let port = binding.at.port;
        let mut inner = conn.inner.lock();
        if inner.binding.is_some() {
            // Somebody else was faster.
            drop(inner);
            drop(binding);
            return Ok(());
        }
        inner.local = binding.at;
        inner.has_address = !wanted.ip.is_any();
        inner.binding = Some(binding);
        drop(inner);
        conn.stack.receivers.enter(port, conn);
        Ok(())
    }

    /// Where a datagram goes, and from where.
    fn ends(&self, name: Option<&[u8]>, source: Option<Ip>) -> Result<(Endpoint, Endpoint)> {
        let conn = &self.conn;
        let given = match name {
            Some(name) => {
                let to = ip::parse(name, conn.family, Use::Reach)?;
                if to.port == 0 {
                    return Err(Errno::EINVAL);
                }
                Some(to)
            }
            None => None,
        };
        self.take_port(None)?;
        let (local, remote) = {
            let inner = conn.inner.lock();
            (inner.local, inner.remote)
        };
        let to = given.or(remote).ok_or(Errno::EDESTADDRREQ)?;
        if to.ip.is_v4() && conn.family == AF_INET6 && conn.ip.v6_only() {
            return Err(Errno::ENETUNREACH);
        }
        if !local.ip.is_any() && local.ip.is_v4() != to.ip.is_v4() {
            return Err(if to.ip.is_v4() { Errno::ENETUNREACH } else { Errno::EINVAL });
        }
        let own = if local.ip.is_any() { source.unwrap_or(local.ip) } else { local.ip };
        let (from, ip) = conn.stack.route(own, to.ip)?;
        Ok((Endpoint { ip: from, port: local.port }, Endpoint { ip, port: to.port }))
    }

    /// Nobody has the port: what ICMP would tell.
    fn refused(&self, to: Endpoint, data: Chunk) {
        let conn = &self.conn;
        let keeps = conn.ip.receives_errors();
        let mut inner = conn.inner.lock();
        if inner.remote.is_none() && !keeps {
            return;
        }
        inner.error = Some(Errno::ECONNREFUSED);
        if keeps && inner.reports.len() < 64 {
            let icmp = if to.ip.is_v4() { (3, 3) } else { (1, 4) };
            inner.reports.push_back(Report { errno: Errno::ECONNREFUSED, icmp, to, data });
        }
        drop(inner);
        conn.wait.wake_events(PollEvents::ERR.bits());
    }

    fn send_datagram(&self, message: Outgoing<'_, '_>) -> Result<usize> {
        let Outgoing { data, name, flags, control, .. } = message;
        let len = data.remaining();
        if len > MAX_DATAGRAM {
            return Err(Errno::EMSGSIZE);
        }
        if flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let conn = &self.conn;
        let mut aside = Aside::parse(&control)?;
        let (from, to) = self.ends(name.filter(|name| !name.is_empty()), aside.source.take())?;
        {
            let mut inner = conn.inner.lock();
            if inner.shut.send {
                return Err(Errno::EPIPE);
            }
            if let Some(error) = inner.error.take() {
                return Err(error);
            }
        }
        let chunk = Chunk::take(data, len)?;
        if chunk.len() < len {
            return Err(Errno::EFAULT);
        }
        conn.stack.lo.count(HEADERS + len);
        let (ttl, tos) = conn.ip.ttl_and_tos(to.ip.is_v4());
        let (ttl, tos) = (aside.ttl.unwrap_or(ttl), aside.tos.unwrap_or(tos));
        let (head, stack) = (|| Head { from, to, ttl, tos }, &conn.stack);
        if stack.taps.any() {
            tap::datagram(stack, &head(), &chunk);
        }
        if let Err(chunk) = arrive(stack, from, to, ttl, tos, chunk) {
            if stack.taps.any() {
                tap::refusal(stack, &head(), &chunk);
            }
            self.refused(to, chunk);
        }
        Ok(len)
    }

    fn receive_datagram(&self, dst: &mut Dest<'_>, flags: MsgFlags) -> Result<Received> {
        let conn = &self.conn;
        if flags.contains(MsgFlags::ERRQUEUE) {
            return self.receive_report(dst);
        }
        let patience = Patience::new(flags, conn.options.receive_timeout());
        let datagram = patience.wait(&conn.wait, || {
            let mut inner = conn.inner.lock();
            if let Some(error) = inner.error.take() {
                return Some(Err(error));
            }
            if flags.contains(MsgFlags::PEEK) {
                if let Some(first) = inner.queue.front() {
                    return Some(Ok(Some(first.copy())));
                }
            } else if let Some(first) = inner.queue.pop_front() {
                inner.charged -= first.data.len() + OVERHEAD;
                return Some(Ok(Some(first)));
            }
            inner.shut.receive.then_some(Ok(None))
        })??;
        let Some(datagram) = datagram else { return Ok(Received::default()) };
        let len = datagram.data.len();
        let done = if len == 0 { 0 } else { datagram.data.put(dst)? };
        let is_cut = done < len;
        if is_cut && dst.remaining() > 0 {
            return Err(Errno::EFAULT);
        }
        Ok(Received {
            len: if flags.contains(MsgFlags::TRUNC) { len } else { done },
            flags: if is_cut { MsgFlags::TRUNC } else { MsgFlags::empty() },
            name: datagram.from.to_bytes(conn.family),
            control: self.control_of(&datagram),
            ..Received::default()
        })
    }

    /// What the user wants to know about a datagram.
    fn control_of(&self, datagram: &Datagram) -> Vec<Control> {
        let conn = &self.conn;
        let mut all = Vec::new();
        if conn.options.has(SO_TIMESTAMP) && datagram.time_ns != 0 {
            let (seconds, rest) = (datagram.time_ns / 1_000_000_000, datagram.time_ns % 1_000_000_000);
            let data = [seconds.to_ne_bytes(), (rest / 1000).to_ne_bytes()].concat();
            all.push(Control { level: 1, kind: SO_TIMESTAMP, data });
        }
        let is_v4 = conn.family == AF_INET;
        let [wants_info, wants_ttl, wants_tos] = conn.ip.wanted(is_v4);
        let index = LO_INDEX.to_ne_bytes();
        let int = |value: u8| i32::from(value).to_ne_bytes().to_vec();
        if wants_info {
            let (level, kind, data) = if is_v4 {
                let address = (datagram.to.0 as u32).to_be_bytes();
                (LEVEL_IP, IP_PKTINFO, [index, address, address].concat())
            } else {
                (LEVEL_IPV6, IPV6_PKTINFO, [&datagram.to.0.to_be_bytes()[..], &index].concat())
            };
            all.push(Control { level, kind, data });
        }
        if wants_ttl {
            let (level, kind) = if is_v4 { (LEVEL_IP, IP_TTL) } else { (LEVEL_IPV6, IPV6_HOPLIMIT) };
            all.push(Control { level, kind, data: int(datagram.ttl) });
        }
        if wants_tos {
            let tos = if is_v4 { [datagram.tos].to_vec() } else { int(datagram.tos) };
            let (level, kind) = if is_v4 { (LEVEL_IP, IP_TOS) } else { (LEVEL_IPV6, IPV6_TCLASS) };
            all.push(Control { level, kind, data: tos });
        }
        all
    }

    /// An error with the datagram that it is about. `EAGAIN`: none.
    fn receive_report(&self, dst: &mut Dest<'_>) -> Result<Received> {
        let conn = &self.conn;
        let report = conn.inner.lock().reports.pop_front().ok_or(Errno::EAGAIN)?;
        let done = report.data.put(dst)?;
        let errno = -(report.errno.to_return() as i32);
        let is_v4 = report.to.ip.is_v4();
        // struct sock_extended_err: errno, origin, type, code, padding, info, data; then who told it.
        let mut data = Vec::new();
        data.extend_from_slice(&errno.to_ne_bytes());
        data.extend_from_slice(&[if is_v4 { 2 } else { 3 }, report.icmp.0, report.icmp.1, 0]);
        data.extend_from_slice(&[0; 8]);
        let family = if is_v4 { AF_INET } else { AF_INET6 };
        data.extend(Endpoint { ip: report.to.ip, port: 0 }.to_bytes(family));
        let (level, kind) = if is_v4 { (LEVEL_IP, IP_RECVERR) } else { (LEVEL_IPV6, IPV6_RECVERR) };
        Ok(Received {
            len: done,
            flags: MsgFlags::ERRQUEUE
                | if done < report.data.len() { MsgFlags::TRUNC } else { MsgFlags::empty() },
            name: report.to.to_bytes(conn.family),
            control: Vec::from([Control { level, kind, data }]),
            ..Received::default()
        })
    }
}

const IP_TOS: i32 = 1;
const IP_TTL: i32 = 2;
const IP_PKTINFO: i32 = 8;
const IP_RECVERR: i32 = 11;
const IPV6_RECVERR: i32 = 25;
const IPV6_PKTINFO: i32 = 50;
const IPV6_HOPLIMIT: i32 = 52;
const IPV6_TCLASS: i32 = 67;

/// What the sender says beside the data.
#[derive(Default)]
struct Aside {
    source: Option<Ip>,
    ttl: Option<u8>,
    tos: Option<u8>,
}

impl Aside {
    /// `EINVAL`: unknown or malformed.
    fn parse(control: &[Control]) -> Result<Self> {
        let mut aside = Self::default();
        for Control { level, kind, data } in control {
            let byte = || {
                let value = crate::level::int(data)?;
                u8::try_from(value).map_err(|_| Errno::EINVAL)
            };
            match (*level, *kind) {
                (LEVEL_IP, IP_TTL) => aside.ttl = Some(byte()?),
                (LEVEL_IP, IP_TOS) => aside.tos = Some(byte()?),
                (LEVEL_IPV6, IPV6_HOPLIMIT) => aside.ttl = Some(byte()?),
                (LEVEL_IPV6, IPV6_TCLASS) => aside.tos = Some(byte()?),
                (LEVEL_IP, IP_PKTINFO) if data.len() == 12 => {
                    let bits = u32::from_be_bytes([data[4], data[5], data[6], data[7]]);
                    aside.source = (bits != 0).then_some(Ip::v4(bits));
                }
                (LEVEL_IPV6, IPV6_PKTINFO) if data.len() == 20 => {
                    let raw = data.first_chunk().copied().unwrap_or([0; 16]);
                    aside.source = Some(Ip(u128::from_be_bytes(raw))).filter(|ip| !ip.is_any());
                }
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(aside)
    }
}

/// A datagram has come for `to`. Given back: nobody has the port.
pub(crate) fn arrive(
    stack: &Stack,
    from: Endpoint,
    to: Endpoint,
    ttl: u8,
    tos: u8,
    data: Chunk,
) -> core::result::Result<(), Chunk> {
    let Some(receiver) = stack.receivers.find(to, from) else { return Err(data) };
    let time_ns = if receiver.options.has(SO_TIMESTAMP) { wall_ns() } else { 0 };
    receiver.deliver(Datagram { data, from, to: to.ip, ttl, tos, time_ns });
    Ok(())
}

/// Nanoseconds of the wall clock.
pub(crate) fn wall_ns() -> i64 {
    hal::time::wall_base_ns().saturating_add(hal::time::now_ns() as i64)
}

impl Datagram {
    fn copy(&self) -> Self {
        Self { data: self.data.clone(), ..*self }
    }
}

impl Socket for UdpSocket {
    fn family(&self) -> u16 {
        self.conn.family
    }

    fn kind(&self) -> SockType {
        SockType::Datagram
    }

    fn protocol(&self) -> i32 {
        IPPROTO_UDP
    }

    fn protocol_name(&self) -> &'static str {
        if self.conn.family == AF_INET6 { "UDPv6" } else { "UDP" }
    }

    fn options(&self) -> &Options {
        &self.conn.options
    }

    fn bind(&self, walk: &WalkContext<'_>, address: &[u8]) -> Result<()> {
        let at = ip::parse(address, self.conn.family, Use::Bind)?;
        crate::check_bind(&self.net, &self.conn.stack, &self.conn.ip, at, walk.cred)?;
        self.take_port(Some(at))
    }

    fn connect(&self, _walk: &WalkContext<'_>, address: &[u8], _flags: MsgFlags) -> Result<()> {
        let conn = &self.conn;
        if address.len() < 2 {
            return Err(Errno::EINVAL);
        }
        if ip::is_unspecified(address) {
            let mut inner = conn.inner.lock();
            inner.remote = None;
            if !inner.has_address {
                inner.local.ip = crate::any_of(conn.family);
            }
            return Ok(());
        }
        let to = ip::parse(address, conn.family, Use::Reach)?;
        if to.ip.is_v4() && conn.family == AF_INET6 && conn.ip.v6_only() {
            return Err(Errno::ENETUNREACH);
        }
        let local = conn.inner.lock().local.ip;
        let (from, ip) = conn.stack.route(local, to.ip)?;
        if from.is_v4() != ip.is_v4() {
            return Err(Errno::EINVAL);
        }
        self.take_port(None)?;
        let mut inner = conn.inner.lock();
        inner.local.ip = from;
        inner.remote = Some(Endpoint { ip, port: to.port });
        Ok(())
    }

    fn send(&self, _walk: Option<&WalkContext<'_>>, message: Outgoing<'_, '_>) -> Result<usize> {
        self.send_datagram(message)
    }

    fn receive(&self, dst: &mut Dest<'_>, flags: MsgFlags) -> Result<Received> {
        self.receive_datagram(dst, flags)
    }

    fn shutdown(&self, halves: Halves) -> Result<()> {
        let mut inner = self.conn.inner.lock();
        inner.shut.close(halves);
        let is_connected = inner.remote.is_some();
        drop(inner);
        self.conn.wait.wake_events(u32::MAX);
        if is_connected { Ok(()) } else { Err(Errno::ENOTCONN) }
    }

    fn address(&self, end: End) -> Result<Vec<u8>> {
        let inner = self.conn.inner.lock();
        let shown = match end {
            End::Local => inner.local,
            End::Peer => inner.remote.ok_or(Errno::ENOTCONN)?,
        };
        Ok(shown.to_bytes(self.conn.family))
    }

    fn poll(&self, table: &mut PollTable) -> PollEvents {
        table.register(&self.conn.wait);
        let inner = self.conn.inner.lock();
        let mut events = PollEvents::OUT | PollEvents::WRNORM | PollEvents::WRBAND;
        let has_data = !inner.queue.is_empty() || inner.shut.receive;
        events.set(PollEvents::IN | PollEvents::RDNORM, has_data);
        events.set(PollEvents::RDHUP, inner.shut.receive);
        events.set(PollEvents::HUP, inner.shut == Halves::BOTH);
        events.set(PollEvents::ERR, inner.error.is_some() || !inner.reports.is_empty());
        events
    }

    fn readable_bytes(&self) -> Result<usize> {
        Ok(self.conn.inner.lock().queue.front().map_or(0, |first| first.data.len()))
    }

    fn unsent_bytes(&self) -> Result<usize> {
        Ok(0)
    }

    fn take_error(&self) -> Option<Errno> {
        self.conn.inner.lock().error.take()
    }

    fn is_listening(&self) -> bool {
        false
    }

    fn peer_cred(&self) -> Ucred {
        Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX }
    }

    fn net_cookie(&self) -> u64 {
        self.net.id().id()
    }

    fn set_option(&self, level: i32, name: i32, value: &[u8], _cred: &Cred) -> Result<()> {
        self.conn.ip.set(self.conn.family, level, name, value)
    }

    fn get_option(&self, level: i32, name: i32, _place: &Place<'_>) -> Result<Vec<u8>> {
        let is_connected = self.conn.inner.lock().remote.is_some();
        self.conn.ip.get(self.conn.family, level, name, is_connected)
    }

    fn net(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self.net.clone())
    }

    fn opened(&self, ino: u64) {
        self.conn.ino.store(ino, Relaxed);
    }

    fn release(&self) {
        let (port, binding, queue, reports) = {
            let mut inner = self.conn.inner.lock();
            inner.shut = Halves::BOTH;
            let (queue, reports) = (core::mem::take(&mut inner.queue), core::mem::take(&mut inner.reports));
            (inner.local.port, inner.binding.take(), queue, reports)
        };
        if binding.is_some() {
            self.conn.stack.receivers.remove(port, &self.conn);
        }
        drop((binding, queue, reports));
    }
}
