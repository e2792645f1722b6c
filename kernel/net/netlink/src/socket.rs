//! The socket itself.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst,
};

use abi::poll::PollEvents;
use abi::socket::{AF_NETLINK, Ucred};
use abi::{Errno, Result};
use hal::sync::SpinLock;
use hal::uio::Dest;
use net_core::{
    Control, End, MsgFlags, Options, Outgoing, Patience, Place, Received, SockType, Socket, options as common,
};
use ns::NetNs;
use sched::{Mutex, PollTable, WaitQueue};
use security::{Cap, Cred};
use vfs::WalkContext;

use crate::address::{self, Address};
use crate::dump::Dump;
use crate::options::{self, Switches};
use crate::queue::{self, Packet, Queue};
use crate::{USERSOCK, kernel, table};

/// Part of the send buffer that a message may not use (Linux reserves it for its headers).
const RESERVED: usize = 32;
/// Groups that every protocol has room for.
const LEAST_GROUPS: u32 = 32;
/// A message came.
const READABLE: u32 = PollEvents::IN.union(PollEvents::RDNORM).bits();

/// What the lock guards.
#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) queue: Queue,
    error: Option<Errno>,
    pub(crate) port: u32,
    pub(crate) is_bound: bool,
    /// Where messages go that say nothing about it: a port, and a group.
    peer: (u32, u32),
    /// connect(2) has set the peer: messages of others are refused.
    is_connected: bool,
    /// Bit n - 1 for group n.
    pub(crate) groups: u64,
    /// How many groups it knows; 0 until it asks for one.
    pub(crate) known_groups: u32,
    pub(crate) switches: Switches,
    pub(crate) is_dead: bool,
}

/// What put into a queue and could not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Put {
    Done,
    Full,
    /// The socket has ended.
    Dead,
}

/// A socket of the family `AF_NETLINK`.
pub struct NetlinkSocket {
    me: Weak<NetlinkSocket>,
    kind: SockType,
    protocol: u8,
    net: Arc<NetNs>,
    opener: Arc<Cred>,
    options: Options,
    pub(crate) ino: AtomicU64,
    inner: SpinLock<Inner>,
    /// Who wants to receive.
    wait: WaitQueue,
    /// Who wants to send to it.
    room: WaitQueue,
    dump: Mutex<Option<Dump>>,
    is_dumping: AtomicBool,
    /// The longest buffer of a receive.
    longest: AtomicUsize,
    pub(crate) drops: AtomicU32,
}

impl NetlinkSocket {
    pub(crate) fn new(kind: SockType, protocol: u8, net: Arc<NetNs>, opener: Arc<Cred>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            kind,
            protocol,
            net,
            opener,
            options: Options::new(),
            ino: AtomicU64::new(0),
            inner: SpinLock::new("netlink.socket", Inner::default()),
            wait: WaitQueue::new(),
            room: WaitQueue::new(),
            dump: Mutex::new("netlink.dump", None),
            is_dumping: AtomicBool::new(false),
            longest: AtomicUsize::new(0),
            drops: AtomicU32::new(0),
        })
    }

    pub(crate) fn weak(&self) -> Weak<Self> {
        self.me.clone()
    }

    pub(crate) fn protocol(&self) -> u8 {
        self.protocol
    }

    pub(crate) fn net(&self) -> &Arc<NetNs> {
        &self.net
    }

    pub(crate) fn opener(&self) -> &Arc<Cred> {
        &self.opener
    }

    pub(crate) fn inner(&self) -> &SpinLock<Inner> {
        &self.inner
    }

    pub(crate) fn port(&self) -> u32 {
        self.inner.lock().port
    }

    pub(crate) fn is_in(&self, group: u32) -> bool {
        let groups = self.inner.lock().groups;
        group.checked_sub(1).and_then(|bit| groups.checked_shr(bit)).is_some_and(|bits| bits & 1 != 0)
    }

    pub(crate) fn is_dumping(&self) -> bool {
        self.is_dumping.load(SeqCst)
    }

    /// How many groups the protocol has.
    pub(crate) fn groups_of_protocol(&self) -> u32 {
        kernel::protocol(self.protocol)
            .map_or(LEAST_GROUPS, |protocol| protocol.groups().clamp(LEAST_GROUPS, u64::BITS))
    }

    /// The groups that it is in: bit n - 1 for group n.
    pub(crate) fn groups(&self) -> u64 {
        self.inner.lock().groups
    }

    fn is_admin(&self, cred: &Cred) -> bool {
        cred.ns_capable(self.net.id().owner(), Cap::NET_ADMIN)
    }

    /// Whether `cred` may listen to groups.
    pub(crate) fn may_listen(&self, cred: &Cred) -> bool {
        let anyone = kernel::protocol(self.protocol).is_some_and(|protocol| protocol.anyone_listens());
        anyone || self.is_admin(cred)
    }

    /// Whether `cred` may send to others than the kernel.
    fn may_send(&self, cred: &Cred) -> bool {
        self.protocol == USERSOCK || self.is_admin(cred)
    }

    /// Changes the groups that it is in.
    pub(crate) fn set_groups(&self, change: impl FnOnce(u64) -> u64) {
        let known = self.groups_of_protocol();
        table::change_listening(self, |inner| {
            inner.known_groups = known;
            inner.groups = change(inner.groups) & u64::MAX.checked_shr(u64::BITS - known).unwrap_or(0);
            inner.groups != 0 && !inner.is_dead
        });
    }

    /// Takes a port unless it has one. `EADDRINUSE`.
    fn autobind(&self) -> Result<()> {
        if self.inner.lock().is_bound {
            return Ok(());
        }
        let pid = net_core::shown(net_core::identity()).pid as u32;
        table::bind(self, None, pid).map(|_| ())
    }

    /// A failure that the next call tells.
    pub(crate) fn fail(&self, errno: Errno) {
        self.inner.lock().error = Some(errno);
        self.wait.wake_events(PollEvents::ERR.bits() | READABLE);
    }

    /// Charges `packet`, and appends it if there was room; it is never dropped here.
    fn put_locked(&self, inner: &mut Inner, packet: &Packet) -> Put {
        if inner.is_dead {
            return Put::Dead;
        }
        if !inner.queue.charge(queue::cost(packet.data.len()), self.options.rcvbuf()) {
            return Put::Full;
        }
        inner.queue.push_charged(packet.clone());
        Put::Done
    }

    fn put(&self, packet: &Packet) -> Put {
        let put = self.put_locked(&mut self.inner.lock(), packet);
        if put == Put::Done {
            self.wait.wake_events(READABLE);
        }
        put
    }

    /// Receives a message of the kernel or of a group. One for which there is no room is lost: `ENOBUFS` tells so, once.
    pub(crate) fn put_of_kernel(&self, packet: &Packet) {
        // Under one hold of the lock, so that no reader empties the queue between the failure and its mark.
        let (put, tells) = {
            let mut inner = self.inner.lock();
            let put = self.put_locked(&mut inner, packet);
            let tells =
                put == Put::Full && !inner.switches.contains(Switches::NO_ENOBUFS) && inner.queue.overrun();
            if tells {
                inner.error = Some(Errno::ENOBUFS);
            }
            (put, tells)
        };
        match put {
            Put::Done => self.wait.wake_events(READABLE),
            Put::Full => _ = self.drops.fetch_add(1, Relaxed),
            Put::Dead => {}
        }
        if tells {
            self.wait.wake_events(PollEvents::ERR.bits());
        }
    }

    /// Charges `len` bytes of a message that comes later; waits for room. `ERESTARTSYS`.
    pub(crate) fn reserve(&self, len: usize) -> Result<()> {
        let patience = Patience::new(MsgFlags::empty(), None);
        patience.wait(&self.room, || {
            let mut inner = self.inner.lock();
            (inner.is_dead || inner.queue.charge(queue::cost(len), self.options.rcvbuf())).then_some(())
        })
    }

    /// Gives back what [`NetlinkSocket::reserve`] charged, and with a message puts that there instead.
    pub(crate) fn use_reserve(&self, len: usize, packet: Option<Packet>) {
        let mut inner = self.inner.lock();
        let lost = match packet {
            Some(packet) if !inner.is_dead => {
                inner.queue.push_charged(packet);
                None
            }
            other => {
                inner.queue.uncharge(queue::cost(len));
                other
            }
        };
        drop(inner);
        drop(lost);
        self.wait.wake_events(READABLE);
        self.room.wake_all();
    }

    /// Sends `packet` to the socket of `port`. `ECONNREFUSED`: there is none, or it wants messages of another one only.
    /// `EAGAIN`, `ERESTARTSYS`, `EINTR`: it has no room.
    fn send_to(&self, port: u32, packet: &Packet, patience: Patience) -> Result<()> {
        loop {
            let other = table::find(self.protocol, &self.net, port).ok_or(Errno::ECONNREFUSED)?;
            let refuses = {
                let theirs = other.inner.lock();
                theirs.is_connected && theirs.peer.0 != packet.from
            };
            if refuses {
                return Err(Errno::ECONNREFUSED);
            }
            match other.put(packet) {
                Put::Done => return Ok(()),
                Put::Dead => return Err(Errno::ECONNREFUSED),
                Put::Full => {}
            }
            // What `put` asks: with less, this loop would never sleep.
            patience.wait(&other.room, || {
                let theirs = other.inner.lock();
                let more = queue::cost(packet.data.len());
                (theirs.is_dead || theirs.queue.admits(more, other.options.rcvbuf())).then_some(())
            })?;
        }
    }

    /// Sends `packet` to all others that listen to its group, but for those at port `except`, which is 0 for those that have
    /// none yet.
    fn send_to_group(&self, packet: &Packet, except: u32) {
        for other in table::listeners(self.protocol, packet.group) {
            let is_meant = !core::ptr::eq(&*other, self)
                && other.net.id().id() == self.net.id().id()
                && other.port() != except;
            if is_meant {
                other.put_of_kernel(packet);
            }
        }
    }

    /// Starts to answer with `messages`, whose end tells `error`. `EBUSY`: another such answer is not over.
    pub(crate) fn start_dump(
        &self,
        seq: u32,
        messages: Box<dyn Iterator<Item = Vec<u8>> + Send>,
        error: Option<Errno>,
    ) -> Result<()> {
        if self.is_dumping.swap(true, SeqCst) {
            return Err(Errno::EBUSY);
        }
        *self.dump.lock() = Some(Dump::new(seq, self.port(), messages, error));
        self.continue_dump();
        Ok(())
    }

    /// Puts the next part of a dump into the queue, if there is one and the queue is not half full.
    fn continue_dump(&self) {
        if !self.is_dumping() {
            return;
        }
        let mut dump = self.dump.lock();
        if self.inner.lock().queue.charged() > self.options.rcvbuf() / 2 {
            return;
        }
        let Some(running) = dump.as_mut() else { return };
        let (batch, is_last) = running.next(self.longest.load(Relaxed));
        let over = if is_last { dump.take() } else { None };
        if is_last {
            self.is_dumping.store(false, SeqCst);
        }
        // Less than half of the queue is in use; also a message that was lost meanwhile is no reason to lose this one.
        self.inner.lock().queue.force(Packet::of_kernel(batch, 0));
        drop(dump);
        drop(over);
        self.wait.wake_events(READABLE);
    }

    /// The first error or message.
    fn take(&self, peeks: bool) -> Option<Result<Packet>> {
        let mut inner = self.inner.lock();
        let found = match inner.error.take() {
            Some(error) => Some(Err(error)),
            None if peeks => inner.queue.peek().map(Ok),
            None => inner.queue.pop().map(Ok),
        };
        let took = !peeks && matches!(found, Some(Ok(_)));
        let wakes = inner.queue.recover_if_empty() || took && inner.queue.has_room(self.options.rcvbuf());
        drop(inner);
        if wakes {
            self.room.wake_all();
        }
        found
    }

    /// Whether wrong requests are to be refused.
    pub(crate) fn is_strict(&self) -> bool {
        self.inner.lock().switches.contains(Switches::STRICT)
    }

    /// Whether acknowledgements leave the request's body out.
    pub(crate) fn caps_acknowledgements(&self) -> bool {
        self.inner.lock().switches.contains(Switches::CAP_ACK)
    }

    /// Switches something of [`Switches`].
    pub(crate) fn switch(&self, which: Switches, is_on: bool) {
        {
            let mut inner = self.inner.lock();
            inner.switches.set(which, is_on);
            if which == Switches::NO_ENOBUFS && is_on {
                inner.queue.recover();
            }
        }
        if which == Switches::NO_ENOBUFS && is_on {
            self.room.wake_all();
        }
    }
}

/// Takes the bytes of a message. `ENOBUFS`: there is no memory. `EFAULT`.
fn take_data(message: &mut Outgoing<'_, '_>, len: usize) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    data.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
    data.resize(len, 0);
    if message.data.take_bytes(&mut data)? < len {
        return Err(Errno::EFAULT);
    }
    Ok(data)
}

impl Socket for NetlinkSocket {
    fn net_cookie(&self) -> u64 {
        self.net.id().id()
    }

    fn family(&self) -> u16 {
        AF_NETLINK
    }

    fn net(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self.net.clone())
    }

    fn kind(&self) -> SockType {
        self.kind
    }

    fn protocol_name(&self) -> &'static str {
        "NETLINK"
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn protocol(&self) -> i32 {
        i32::from(self.protocol)
    }

    /// `EPERM`: groups for who may not listen. `EINVAL`: it has another port.
    fn bind(&self, walk: &WalkContext<'_>, address: &[u8]) -> Result<()> {
        let address = Address::parse(address)?;
        if address.groups != 0 && !self.may_listen(walk.cred) {
            return Err(Errno::EPERM);
        }
        let bound = {
            let inner = self.inner.lock();
            inner.is_bound.then_some(inner.port)
        };
        match bound {
            Some(port) if port != address.port => return Err(Errno::EINVAL),
            Some(_) => {}
            None if address.port != 0 => drop(table::bind(self, Some(address.port), 0)?),
            None => self.autobind()?,
        }
        if address.groups != 0 || self.groups() as u32 != 0 {
            self.set_groups(|old| old & !u64::from(u32::MAX) | u64::from(address.groups));
        }
        Ok(())
    }

    /// `EPERM`: somebody other than the kernel, for who may not send.
    fn connect(&self, walk: &WalkContext<'_>, address: &[u8], _flags: MsgFlags) -> Result<()> {
        if address::is_unspecified(address)? {
            let mut inner = self.inner.lock();
            inner.is_connected = false;
            inner.peer = (0, 0);
            return Ok(());
        }
        let address = Address::parse(address)?;
        if (address.groups != 0 || address.port != 0) && !self.may_send(walk.cred) {
            return Err(Errno::EPERM);
        }
        self.autobind()?;
        let mut inner = self.inner.lock();
        inner.is_connected = true;
        inner.peer = (address.port, address.group());
        Ok(())
    }

    /// `ENODATA`: no bytes. `EPERM`: to somebody other than the kernel, for who may not send. `EMSGSIZE`: more than the
    /// send buffer. `ECONNREFUSED`: nobody has the port.
    fn send(&self, walk: Option<&WalkContext<'_>>, mut message: Outgoing<'_, '_>) -> Result<usize> {
        if message.flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let len = message.data.remaining();
        if len == 0 {
            return Err(Errno::ENODATA);
        }
        let (port, group) = match message.name {
            Some(name) => {
                let address = Address::parse(name)?;
                let to = (address.port, address.group());
                if to != (0, 0) && !walk.is_some_and(|walk| self.may_send(walk.cred)) {
                    return Err(Errno::EPERM);
                }
                to
            }
            None => self.inner.lock().peer,
        };
        self.autobind()?;
        if len > self.options.sndbuf().saturating_sub(RESERVED) {
            return Err(Errno::EMSGSIZE);
        }
        let data = take_data(&mut message, len)?;
        if port == 0 && group == 0 && kernel::protocol(self.protocol).is_some() {
            return kernel::handle(self, &data, message.name.is_some()).map(|()| len);
        }
        let cred = message.creds.unwrap_or_else(net_core::identity);
        let mut packet = Packet { data: Arc::new(data), from: self.port(), group, cred };
        if group != 0 {
            self.send_to_group(&packet, port);
        }
        if port == 0 && kernel::protocol(self.protocol).is_some() {
            return kernel::handle(self, &packet.data, message.name.is_some()).map(|()| len);
        }
        packet.group = group;
        let patience = Patience::new(message.flags, self.options.send_timeout());
        self.send_to(port, &packet, patience).map(|()| len)
    }

    fn receive(&self, dst: &mut Dest<'_>, flags: MsgFlags) -> Result<Received> {
        if flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let peeks = flags.contains(MsgFlags::PEEK);
        let patience = Patience::new(flags, self.options.receive_timeout());
        let packet = patience.wait(&self.wait, || self.take(peeks))??;
        let whole = packet.data.len();
        let len = whole.min(dst.remaining());
        self.longest.fetch_max(dst.remaining(), Relaxed);
        let copied = if len > 0 { dst.put_bytes(&packet.data[..len]).unwrap_or(0) } else { 0 };
        self.continue_dump();
        if copied < len {
            return Err(Errno::EFAULT);
        }
        let tells_group = self.inner.lock().switches.contains(Switches::PKTINFO);
        let info = || Control {
            level: options::SOL_NETLINK,
            kind: options::PKTINFO,
            data: packet.group.to_ne_bytes().to_vec(),
        };
        Ok(Received {
            len: if flags.contains(MsgFlags::TRUNC) { whole } else { len },
            flags: if len < whole { MsgFlags::TRUNC } else { MsgFlags::empty() },
            name: Address::of(packet.from, packet.group).to_bytes(),
            creds: self.options.passcred().then_some(packet.cred),
            control: tells_group.then(info).into_iter().collect(),
            ..Received::default()
        })
    }

    fn address(&self, end: End) -> Result<Vec<u8>> {
        let inner = self.inner.lock();
        let address = match end {
            End::Local => Address { port: inner.port, groups: inner.groups as u32 },
            End::Peer => Address::of(inner.peer.0, inner.peer.1),
        };
        Ok(address.to_bytes())
    }

    fn poll(&self, table: &mut PollTable) -> PollEvents {
        table.register(&self.wait);
        let inner = self.inner.lock();
        let mut events = PollEvents::OUT | PollEvents::WRNORM | PollEvents::WRBAND;
        events.set(PollEvents::ERR, inner.error.is_some());
        events.set(PollEvents::IN | PollEvents::RDNORM, !inner.queue.is_empty());
        events
    }

    fn readable_bytes(&self) -> Result<usize> {
        Err(Errno::ENOTTY)
    }

    fn unsent_bytes(&self) -> Result<usize> {
        Err(Errno::ENOTTY)
    }

    fn take_error(&self) -> Option<Errno> {
        let (error, wakes) = {
            let mut inner = self.inner.lock();
            (inner.error.take(), inner.queue.recover_if_empty())
        };
        if wakes {
            self.room.wake_all();
        }
        error
    }

    fn is_listening(&self) -> bool {
        false
    }

    fn peer_cred(&self) -> Ucred {
        // What Linux shows without a peer.
        Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX }
    }

    fn set_option(&self, level: i32, name: i32, value: &[u8], cred: &Cred) -> Result<()> {
        options::set(self, level, name, value, cred)
    }

    fn get_option(&self, level: i32, name: i32, place: &Place<'_>) -> Result<Vec<u8>> {
        options::get(self, level, name, place.room)
    }

    fn tells_whole_length(&self, level: i32, name: i32) -> bool {
        level == options::SOL_NETLINK && name == options::LIST_MEMBERSHIPS
    }

    fn option_changed(&self, name: i32) {
        if name == common::SO_RCVBUF || name == common::SO_RCVBUFFORCE {
            self.room.wake_all();
        }
    }

    fn opened(&self, ino: u64) {
        self.ino.store(ino, Relaxed);
    }

    fn release(&self) {
        let (port, queue) = {
            let mut inner = self.inner.lock();
            inner.is_dead = true;
            (inner.is_bound.then_some(inner.port), inner.queue.take_all())
        };
        if let Some(port) = port {
            table::unbind(self, port);
        }
        table::change_listening(self, |inner| {
            inner.groups = 0;
            false
        });
        drop(queue);
        let dump = self.dump.lock().take();
        drop(dump);
        self.wait.wake_events(u32::MAX);
        self.room.wake_all();
    }
}
