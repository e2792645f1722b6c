//! A connection with its place in the machine: lock, timer, tables, and the way of its segments.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::Errno;
use abi::poll::PollEvents;
use hal::sync::{SpinLock, SpinLockGuard};
use hal::time::now_ns;
use net_core::{Halves, Options};
use sched::{Interruptible, Mutex, Timer, WaitQueue};
use tcp::segment::chain_len;
use tcp::{Failure, Flags, State, Tcb};

use crate::buffer::Chunk;
use crate::ip::Endpoint;
use crate::level::IpOptions;
use crate::ports::Binding;
use crate::stack::Stack;
use crate::wire::Head;
use crate::{sysctl, tap};

pub(crate) type Segment = tcp::Segment<Chunk>;

/// Bytes before the data of a segment on `lo`, for its counters.
const HEADERS: usize = 52;
/// So many segments wait at most for whoever takes them out: beyond them answers are lost, and what the connection itself
/// wants to send is asked for once they are gone.
const MAX_WAITING: usize = 64;
/// How long segments are taken out without a pause, and after how many of them the clock is looked at.
const FLUSH_NS: u64 = 2_000_000;
const FLUSH_STEP: u32 = 8;
/// How long somebody waits for the end of that.
const AWAIT_NS: u64 = 1_000_000_000;

/// Connections that nobody has accepted yet.
#[derive(Default)]
pub(crate) struct Backlog {
    /// Ready for accept(2).
    pub(crate) ready: VecDeque<Arc<Conn>>,
    /// Still shaking hands.
    pub(crate) half_open: usize,
    pub(crate) limit: usize,
}

/// What the lock guards.
pub(crate) struct Inner {
    pub(crate) local: Endpoint,
    pub(crate) remote: Endpoint,
    pub(crate) tcb: Option<Box<Tcb<Chunk>>>,
    /// Settings for the next connection, and those of this one.
    pub(crate) config: tcp::Config,
    pub(crate) backlog: Option<Backlog>,
    pub(crate) binding: Option<Arc<Binding>>,
    /// The user has bound the address, or only the port.
    pub(crate) has_address: bool,
    pub(crate) error: Option<Errno>,
    pub(crate) shut: Halves,
    /// connect(2) has begun and nobody was told how it ended.
    pub(crate) is_connecting: bool,
    /// `TCP_CORK`; `MSG_MORE` corks only until the next send.
    pub(crate) is_corked: bool,
    /// It stood once.
    pub(crate) was_connected: bool,
    /// The user has closed it.
    pub(crate) is_closed: bool,
    /// It is counted as one in TIME-WAIT.
    is_counted: bool,
    /// It is in the table of connections.
    pub(crate) is_entered: bool,
    /// Segments that wait to go, in order.
    out: VecDeque<Segment>,
    /// Somebody is taking them out.
    is_flushing: bool,
    /// The connection wanted to send while too many waited.
    is_behind: bool,
    timer: Option<Timer>,
    /// When the timer fires; it may be early.
    armed_ns: u64,
    /// Who listens, until the connection is in its backlog.
    pub(crate) parent: Weak<Conn>,
}

/// A TCP socket as the network sees it: unconnected, listening, or a connection.
pub(crate) struct Conn {
    pub(crate) me: Weak<Conn>,
    pub(crate) stack: Arc<Stack>,
    pub(crate) family: u16,
    pub(crate) uid: u32,
    pub(crate) ino: AtomicU64,
    pub(crate) inner: SpinLock<Inner>,
    pub(crate) wait: WaitQueue,
    pub(crate) options: Options,
    pub(crate) ip: IpOptions,
    /// The user has set the sizes of buffers.
    pub(crate) sized: AtomicU32,
    /// Receivers, so that data stays in order while it is copied.
    pub(crate) io: Mutex<()>,
    /// Senders, likewise.
    pub(crate) output: Mutex<()>,
}

/// Data or an end has come.
pub(crate) const READABLE: u32 =
    PollEvents::IN.union(PollEvents::RDNORM).union(PollEvents::RDHUP).union(PollEvents::PRI).bits();
/// There is room to write.
pub(crate) const WRITABLE: u32 = PollEvents::OUT.union(PollEvents::WRNORM).union(PollEvents::WRBAND).bits();

/// What to do once the lock is open.
#[derive(Default)]
struct After {
    wakes: u32,
    /// The handshake is over: tell the listener.
    is_ready: bool,
    /// The connection has ended: out of the tables.
    is_over: bool,
    /// Dropped without a lock.
    gone: Option<Arc<Binding>>,
}

impl Conn {
    pub(crate) fn new(stack: Arc<Stack>, family: u16, uid: u32, config: tcp::Config) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            stack,
            family,
            uid,
            ino: AtomicU64::new(0),
            inner: SpinLock::new("inet.tcp", Inner::new(config)),
            wait: WaitQueue::new(),
            options: Options::with_buffers(16384, 131_072),
            ip: IpOptions::new(),
            sized: AtomicU32::new(0),
            io: Mutex::new("inet.tcp_io", ()),
            output: Mutex::new("inet.tcp_output", ()),
        })
    }

    /// Does `work` with the connection, then sends what it wants to send and wakes whom it concerns.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.lock();
        let result = work(&mut inner);
        inner.send(now_ns());
        self.finish(inner);
        result
    }

    /// As [`Conn::with`] for who sends by himself, or has nothing to send.
    fn finish(&self, mut inner: SpinLockGuard<'_, Inner>) {
        let after = self.settle(&mut inner);
        let flushes = !inner.out.is_empty() && !inner.is_flushing;
        if flushes {
            inner.is_flushing = true;
        } else if !inner.is_flushing {
            self.arm(&mut inner);
        }
        // The flusher must not be preempted, or nobody sends meanwhile.
        let pinned = flushes.then(hal::preempt::disable);
        drop(inner);
        self.follow(after);
        if flushes {
            self.flush();
        }
        drop(pinned);
    }

    /// Does what is to be done without the lock.
    fn follow(&self, after: After) {
        if after.wakes != 0 {
            self.wait.wake_events(after.wakes);
        }
        if after.is_ready {
            self.join_backlog();
        }
        if after.is_over {
            self.leave();
        }
        drop(after.gone);
    }

    /// Looks at what has changed.
    fn settle(&self, inner: &mut Inner) -> After {
        let mut after = After::default();
        let Some(tcb) = &mut inner.tcb else { return after };
        let events = tcb.take_events();
        let state = tcb.state();
        if events.readable {
            after.wakes |= READABLE;
        }
        if events.writable {
            after.wakes |= WRITABLE;
        }
        if events.state {
            after.wakes = u32::MAX;
            if let Some(failure) = tcb.take_failure() {
                inner.error = Some(match failure {
                    Failure::Refused => Errno::ECONNREFUSED,
                    Failure::Reset => Errno::ECONNRESET,
                    Failure::Broken => Errno::EPIPE,
                    Failure::TimedOut => Errno::ETIMEDOUT,
                });
            }
            let stands = !matches!(state, State::SynSent | State::SynReceived | State::Closed);
            if stands && !inner.was_connected {
                inner.was_connected = true;
                after.is_ready = inner.parent.strong_count() > 0;
            }
            if state == State::TimeWait && !inner.is_counted {
                if self.stack.connections.may_wait() {
                    inner.is_counted = true;
                } else if let Some(tcb) = &mut inner.tcb {
                    let _ = tcb.abort();
                }
            }
        }
        let is_over = inner.tcb.as_ref().is_some_and(|tcb| tcb.state() == State::Closed);
        if is_over {
            if core::mem::take(&mut inner.is_counted) {
                self.stack.connections.time_wait.fetch_sub(1, Relaxed);
            }
            inner.shut = Halves::BOTH;
            after.is_over = core::mem::take(&mut inner.is_entered);
            if inner.is_closed {
                after.gone = inner.binding.take();
            }
        }
        after
    }

    /// Sets the timer, unless it fires early enough: then it is set anew when it does.
    fn arm(&self, inner: &mut Inner) {
        let Some(deadline) = inner.tcb.as_ref().and_then(|tcb| tcb.deadline_ns()) else { return };
        if deadline >= inner.armed_ns {
            return;
        }
        inner.armed_ns = deadline;
        let timer = inner.timer.get_or_insert_with(|| {
            let me = self.me.clone();
            // In the interrupt: the work is for a thread.
            Timer::new(Arc::new(move || {
                let me = me.clone();
                sched::workqueue::queue(Box::new(move || {
                    if let Some(conn) = me.upgrade() {
                        conn.on_timer();
                    }
                }));
            }))
        });
        timer.start(deadline);
    }

    fn on_timer(&self) {
        let mut inner = self.inner.lock();
        inner.armed_ns = u64::MAX;
        let now = now_ns();
        let Inner { tcb, out, .. } = &mut *inner;
        if let Some(tcb) = tcb
            && tcb.deadline_ns().is_some_and(|at| at <= now)
        {
            tcb.on_timer(now, &mut |segment| append(out, segment));
        }
        self.finish(inner);
    }

    /// Hands the waiting segments over, one after the other. One thread at a time does it, and none is preempted.
    ///
    /// Others may give it more all the while, as fast as it hands over what there is: after a while a worker goes on.
    fn flush(&self) {
        let mut end_ns = None;
        for nr in 1u32.. {
            let (segment, local, remote) = {
                let mut inner = self.inner.lock();
                let Some(segment) = inner.out.pop_front() else {
                    if core::mem::take(&mut inner.is_behind) {
                        inner.send(now_ns());
                        let after = self.settle(&mut inner);
                        drop(inner);
                        self.follow(after);
                        continue;
                    }
                    inner.is_flushing = false;
                    // Only now: what was answered at once needs no timer.
                    self.arm(&mut inner);
                    return;
                };
                (segment, inner.local, inner.remote)
            };
            self.deliver(local, remote, segment);
            if nr.is_multiple_of(FLUSH_STEP) {
                let now = now_ns();
                if now >= *end_ns.get_or_insert(now.saturating_add(FLUSH_NS)) {
                    break;
                }
            }
        }
        self.flush_later();
    }

    /// Has a worker take out the rest; until then nobody else does.
    #[cold]
    fn flush_later(&self) {
        let Some(me) = self.me.upgrade() else { return };
        sched::workqueue::queue(Box::new(move || {
            let pinned = hal::preempt::disable();
            me.flush();
            drop(pinned);
        }));
    }

    /// Waits until nobody hands segments over, for [`AWAIT_NS`] at most: others may give it more all the while. Sleeps.
    pub(super) fn await_flushed(&self) {
        let deadline_ns = now_ns().saturating_add(AWAIT_NS);
        while self.inner.lock().is_flushing && now_ns() < deadline_ns {
            let _ = sched::sleep_until(now_ns() + 50_000, Interruptible::No);
        }
    }

    /// Brings a segment to whom it is for.
    #[inline]
    fn deliver(&self, local: Endpoint, remote: Endpoint, segment: Segment) {
        let stack = &self.stack;
        if !stack.lo.is_up() {
            return;
        }
        stack.lo.count(HEADERS + chain_len(&segment.data));
        if stack.taps.any() {
            // Here nothing refers to the segment, so that it need not be moved.
            return self.deliver_seen(local, remote, segment);
        }
        arrive(stack, local, remote, segment);
    }

    /// As [`Conn::deliver`], behind its counters, where there are taps.
    #[cold]
    #[inline(never)]
    fn deliver_seen(&self, local: Endpoint, remote: Endpoint, segment: Segment) {
        let (ttl, tos) = self.ip.ttl_and_tos(remote.ip.is_v4());
        tap::segment(&self.stack, &Head { from: local, to: remote, ttl, tos }, &segment);
        arrive(&self.stack, local, remote, segment);
    }

    /// Takes in a segment that is for this connection.
    fn receive(&self, segment: Segment) {
        let mut inner = self.inner.lock();
        let now = now_ns();
        match &mut inner.tcb {
            Some(tcb) => {
                let answer = tcb.on_segment(segment, now);
                inner.answer(answer);
                inner.send(now);
            }
            None => inner.answer(segment.refusal()),
        }
        self.finish(inner);
    }

    /// Whether a SYN finds room here; counts it as half open.
    fn admits(&self) -> Option<(tcp::Config, Option<Arc<Binding>>)> {
        let mut inner = self.inner.lock();
        let (config, binding) = (inner.config.clone(), inner.binding.clone());
        let backlog = inner.backlog.as_mut()?;
        if backlog.ready.len() > backlog.limit || backlog.half_open > backlog.limit.max(8) {
            return None;
        }
        backlog.half_open += 1;
        Some((config, binding))
    }

    /// A SYN for this listener. Apart, so that other segments do not need the stack for a new connection.
    #[inline(never)]
    fn on_syn(self: &Arc<Self>, local: Endpoint, remote: Endpoint, syn: &Segment, iss: u32) {
        let Some((config, binding)) = self.admits() else { return };
        let child = Conn::new(self.stack.clone(), self.family, self.uid, config.clone());
        child.options.inherit_all(&self.options);
        child.sized.store(self.sized.load(Relaxed), Relaxed);
        child.ip.inherit(&self.ip);
        {
            let mut inner = child.inner.lock();
            (inner.local, inner.remote) = (local, remote);
            inner.parent = Arc::downgrade(self);
            inner.binding = binding;
            inner.has_address = true;
            inner.tcb = Some(Box::new(Tcb::accept(config, iss, syn, now_ns())));
            inner.is_entered = true;
        }
        if self.stack.connections.enter(local, remote, &child) {
            child.with(|_| ());
        } else {
            self.uncount();
        }
    }

    fn uncount(&self) {
        if let Some(backlog) = &mut self.inner.lock().backlog {
            backlog.half_open = backlog.half_open.saturating_sub(1);
        }
    }

    /// The handshake is over: accept(2) may have it.
    fn join_backlog(&self) {
        let (parent, me) = {
            let mut inner = self.inner.lock();
            (core::mem::take(&mut inner.parent).upgrade(), self.me.upgrade())
        };
        let (Some(parent), Some(me)) = (parent, me) else { return };
        self.grow_buffers();
        let mut theirs = parent.inner.lock();
        let is_listening = match &mut theirs.backlog {
            Some(backlog) => {
                backlog.half_open = backlog.half_open.saturating_sub(1);
                backlog.ready.push_back(me.clone());
                true
            }
            None => false,
        };
        drop(theirs);
        if is_listening {
            parent.wait.wake(READABLE, 1);
        } else {
            me.reset();
        }
    }

    /// The buffer sizes of a connection whose user has set none: Linux lets them grow with the congestion window.
    pub(crate) fn grow_buffers(&self) {
        if self.sized.load(Relaxed) & 1 == 0 {
            self.options.grow_sndbuf(2_626_560);
        }
    }

    /// Out of the tables.
    fn leave(&self) {
        let (local, remote, parent) = {
            let mut inner = self.inner.lock();
            (inner.local, inner.remote, core::mem::take(&mut inner.parent).upgrade())
        };
        self.stack.connections.remove(local, remote, self);
        if let Some(parent) = parent {
            parent.uncount();
        }
    }

    /// Ends with a reset, as nobody will ever read.
    pub(crate) fn reset(&self) {
        self.with(|inner| {
            inner.is_closed = true;
            let answer = inner.tcb.as_mut().and_then(|tcb| tcb.abort());
            inner.queue(answer);
        });
    }

    /// Ends a listener: its connections that nobody accepted are reset.
    pub(crate) fn stop_listening(&self) {
        let (backlog, local) = {
            let mut inner = self.inner.lock();
            let backlog = inner.backlog.take();
            // Connections share the binding of their listener, which goes on listening when one of them ends.
            if let Some(binding) = inner.binding.as_ref().filter(|_| backlog.is_some()) {
                binding.stop_listening();
            }
            (backlog, inner.local)
        };
        let Some(backlog) = backlog else { return };
        self.stack.connections.unlisten(local, self);
        for child in backlog.ready {
            child.reset();
        }
        self.wait.wake_events(u32::MAX);
    }
}

impl Inner {
    fn new(config: tcp::Config) -> Self {
        Self {
            local: Endpoint::NONE,
            remote: Endpoint::NONE,
            tcb: None,
            config,
            backlog: None,
            binding: None,
            has_address: false,
            error: None,
            shut: Halves::NONE,
            is_connecting: false,
            is_corked: false,
            was_connected: false,
            is_closed: false,
            is_counted: false,
            is_entered: false,
            out: VecDeque::new(),
            is_flushing: false,
            is_behind: false,
            timer: None,
            armed_ns: u64::MAX,
            parent: Weak::new(),
        }
    }

    /// State of the connection; closed without one.
    pub(crate) fn state(&self) -> State {
        self.tcb.as_ref().map_or(State::Closed, |tcb| tcb.state())
    }

    /// Whether whoever takes segments out has enough to do.
    fn is_full(&self) -> bool {
        self.is_flushing && self.out.len() >= MAX_WAITING
    }

    /// Queues what the connection wants to send.
    fn send(&mut self, now: u64) {
        if self.is_full() {
            self.is_behind = true;
            return;
        }
        let Self { tcb, out, .. } = self;
        if let Some(tcb) = tcb {
            tcb.output(now, &mut |segment| append(out, segment));
        }
    }

    /// Queues an answer to a segment that came; it may get lost.
    fn answer(&mut self, answer: Option<Segment>) {
        if let Some(answer) = answer
            && !self.is_full()
        {
            append(&mut self.out, answer);
        }
    }

    /// What was held back for more data may go, unless the user wants it held.
    pub(crate) fn uncork(&mut self) {
        if let Some(tcb) = &mut self.tcb
            && !self.is_corked
            && tcb.config.cork
        {
            tcb.config.cork = false;
            tcb.push();
        }
    }

    /// Queues a segment that goes before what the connection itself sends.
    pub(crate) fn queue(&mut self, segment: Option<Segment>) {
        if let Some(segment) = segment {
            append(&mut self.out, segment);
        }
    }
}

/// Appends to what waits to go; without memory the segment is lost, as on a wire.
fn append(out: &mut VecDeque<Segment>, segment: Segment) {
    if out.try_reserve(1).is_ok() {
        out.push_back(segment);
    }
}

/// Where new connections begin: numbers move on with time, and differ between ends (RFC 6528).
pub(crate) fn initial_seq() -> u32 {
    (random::next_u64() as u32 >> 4).wrapping_add((now_ns() >> 6) as u32)
}

/// A segment from `from` has come for `to`. Inlined into the path of each segment, as it was part of it before others used it.
#[inline(always)]
pub(crate) fn arrive(stack: &Arc<Stack>, from: Endpoint, to: Endpoint, segment: Segment) {
    let mut iss = None;
    if let Some(conn) = stack.connections.find(to, from) {
        if segment.flags.has(Flags::SYN) {
            iss = conn.give_way(&segment);
        }
        if iss.is_none() {
            conn.receive(segment);
            return;
        }
    }
    let is_syn =
        segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK) && !segment.flags.has(Flags::RST);
    let listener = stack.connections.find_listener(to, from);
    if let Some(listener) = listener
        && !segment.flags.has(Flags::RST)
        && !segment.flags.has(Flags::ACK)
    {
        if is_syn {
            listener.on_syn(to, from, &segment, iss.unwrap_or_else(initial_seq));
        }
        return;
    }
    if let Some(refusal) = segment.refusal()
        && let Some(conn) = stack.connections.find(from, to)
    {
        stack.lo.count(HEADERS);
        if stack.taps.any() {
            let ttl = sysctl::TTL.load(Relaxed) as u8;
            tap::segment(stack, &Head { from: to, to: from, ttl, tos: 0 }, &refusal);
        }
        conn.receive(refusal);
    }
}

impl Conn {
    /// Ends a connection in TIME-WAIT that `syn` may replace; gives where the new one begins.
    fn give_way(&self, syn: &Segment) -> Option<u32> {
        let mut inner = self.inner.lock();
        let tcb = inner.tcb.as_mut()?;
        if !tcb.may_be_replaced_by(syn) {
            return None;
        }
        let iss = tcb.next_seq().wrapping_add(65537);
        let _ = tcb.abort();
        self.finish(inner);
        Some(iss)
    }
}

#[cfg(test)]
mod tests {
    use tcp::seq::Seq;

    use super::*;
    use crate::ip::Ip;

    #[test]
    fn answers_wait_in_bounded_number() {
        let stack = Stack::for_test(&[("127.0.0.1", 8)]);
        let config = tcp::Config::new(65483);
        let conn = Conn::new(stack, 2, 0, config.clone());
        let mut syn = Segment::bare(Seq(1), Seq(0), Flags::SYN);
        syn.window = 1000;
        {
            let mut inner = conn.inner.lock();
            let end = |port| Endpoint { ip: Ip::LOOPBACK_V4, port };
            (inner.local, inner.remote) = (end(80), end(4000));
            inner.tcb = Some(Box::new(Tcb::accept(config, 7, &syn, now_ns())));
            inner.send(now_ns());
            inner.is_flushing = true;
        }
        let forged = |seq: u32| {
            let mut segment = Segment::bare(Seq(seq), Seq(8), Flags::ACK);
            segment.data.push(Chunk::take(&mut hal::uio::Src::kernel(b"x"), 1).unwrap());
            segment
        };
        (0..1000).for_each(|nr| conn.receive(forged(0x4000_0000 + nr)));
        assert_eq!(conn.inner.lock().out.len(), MAX_WAITING);
        conn.flush();
        let inner = conn.inner.lock();
        assert!(inner.out.is_empty() && !inner.is_flushing && !inner.is_behind);
    }
}
