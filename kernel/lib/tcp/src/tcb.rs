//! The state of one connection and what its user does with it.

use crate::congestion::{Algorithm, Congestion};
use crate::receive::ReceiveQueue;
use crate::rtt::Rtt;
use crate::segment::{Flags, Payload, Segment};
use crate::send::{Scoreboard, SendQueue};
use crate::seq::Seq;

/// The states of RFC 9293, 3.3.2, without LISTEN, which is no connection yet. The numbers are Linux's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Both have sent SYN, both have acknowledged it.
    Established = 1,
    /// SYN was sent.
    SynSent = 2,
    /// SYN came and was answered.
    SynReceived = 3,
    /// We have closed.
    FinWait1 = 4,
    /// Our FIN was acknowledged.
    FinWait2 = 5,
    /// Waits until old segments are gone.
    TimeWait = 6,
    /// No connection.
    Closed = 7,
    /// The other side has closed.
    CloseWait = 8,
    /// It had closed before, and now we have.
    LastAck = 9,
    /// Both closed at once.
    Closing = 11,
}

/// How a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens there.
    Refused,
    /// The other side has reset it.
    Reset,
    /// The other side had closed before, and has now reset it.
    Broken,
    /// No answer.
    TimedOut,
}

/// What happened since the last time that somebody asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// There is more to read, or an end.
    pub readable: bool,
    /// There is more room, or it will never come.
    pub writable: bool,
    /// The state has changed.
    pub state: bool,
}

/// What does not change in a connection's life, or is set by its user.
#[derive(Clone, Debug)]
pub struct Config {
    /// Largest segment that we take.
    pub mss: u16,
    /// Most bytes of new data in one segment where the way there has no packets; 0: as many as fit a packet.
    pub burst: u32,
    /// Bytes that may wait to be read.
    pub receive_buffer: usize,
    /// Bytes that may be written ahead, with what they cost.
    pub send_buffer: usize,
    /// Which congestion control.
    pub algorithm: Algorithm,
    /// Offer window scaling, selective acknowledgements, timestamps.
    pub window_scaling: bool,
    /// See `window_scaling`.
    pub sack: bool,
    /// See `window_scaling`.
    pub timestamps: bool,
    /// `TCP_NODELAY`.
    pub no_delay: bool,
    /// `TCP_CORK`.
    pub cork: bool,
    /// `SO_KEEPALIVE`, with its times in nanoseconds and the number of probes.
    pub keepalive: bool,
    /// Idle time before the first probe.
    pub keepalive_idle_ns: u64,
    /// Time between probes.
    pub keepalive_interval_ns: u64,
    /// Probes without answer.
    pub keepalive_probes: u32,
    /// `TCP_USER_TIMEOUT` in nanoseconds; 0: none.
    pub user_timeout_ns: u64,
    /// How often SYN is sent again.
    pub syn_retries: u32,
    /// How often SYN with ACK is sent again.
    pub synack_retries: u32,
    /// How often data is sent again.
    pub data_retries: u32,
    /// How long FIN-WAIT-2 lasts once the user is gone.
    pub fin_timeout_ns: u64,
    /// How long TIME-WAIT lasts.
    pub time_wait_ns: u64,
}

impl Config {
    /// Linux's defaults for segments of `mss` bytes.
    pub fn new(mss: u16) -> Self {
        const SECOND_NS: u64 = 1_000_000_000;
        Self {
            mss,
            burst: 0,
            receive_buffer: 131_072,
            send_buffer: 2_626_560,
            algorithm: Algorithm::Cubic,
            window_scaling: true,
            sack: true,
            timestamps: true,
            no_delay: false,
            cork: false,
            keepalive: false,
            keepalive_idle_ns: 7200 * SECOND_NS,
            keepalive_interval_ns: 75 * SECOND_NS,
            keepalive_probes: 9,
            user_timeout_ns: 0,
            syn_retries: 6,
            synack_retries: 5,
            data_retries: 15,
            fin_timeout_ns: 60 * SECOND_NS,
            time_wait_ns: 60 * SECOND_NS,
        }
    }
}

/// Shift of our windows, as on Linux with its default buffer limits.
pub(crate) const WINDOW_SHIFT: u8 = 7;
/// Immediate acknowledgements at the beginning.
pub(crate) const QUICK_ACKS: u8 = 16;
/// Segment size if the other side does not tell.
pub(crate) const DEFAULT_MSS: u16 = 536;
/// Bytes that the timestamp option takes of each segment.
pub(crate) const TIMESTAMP_LEN: u32 = 12;

/// Numbers about what was sent (RFC 9293, 3.3.1).
pub(crate) struct SendState {
    pub(crate) iss: Seq,
    /// First number without acknowledgement.
    pub(crate) una: Seq,
    /// Next number to send.
    pub(crate) nxt: Seq,
    pub(crate) window: u32,
    pub(crate) max_window: u32,
    /// Segment that the window is from.
    pub(crate) wl1: Seq,
    pub(crate) wl2: Seq,
    pub(crate) shift: u8,
    /// Largest segment, options taken off.
    pub(crate) mss: u32,
    /// End of the last segment that was not full.
    pub(crate) small_end: Seq,
    /// Byte behind urgent data.
    pub(crate) urgent: Option<Seq>,
    /// What is to be sent again: from, to.
    pub(crate) again: (Seq, Seq),
    /// Recovery ends when this is acknowledged.
    pub(crate) recover: Option<Seq>,
    pub(crate) duplicates: u32,
    pub(crate) fin: FinState,
}

/// What became of our FIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FinState {
    None,
    /// It follows the last byte.
    Wanted,
    Sent,
}

/// Numbers about what came.
pub(crate) struct ReceiveState {
    pub(crate) irs: Seq,
    pub(crate) nxt: Seq,
    /// Right edge of the window that we have told.
    pub(crate) edge: Seq,
    pub(crate) shift: u8,
    /// Last acknowledgement sent.
    pub(crate) acked: Seq,
    pub(crate) ts_recent: u32,
    /// Number of a FIN that came early.
    pub(crate) fin: Option<Seq>,
    /// Largest segment seen: for delayed acknowledgements.
    pub(crate) seen_mss: u32,
    /// Out-of-band byte: its number, and the byte once it is there and not read.
    pub(crate) urgent: Option<(Seq, Option<u8>)>,
}

/// Deadlines on the monotonic clock.
#[derive(Default)]
pub(crate) struct Deadlines {
    /// Retransmission, or the probing of a closed window.
    pub(crate) resend: Option<u64>,
    pub(crate) ack: Option<u64>,
    pub(crate) keepalive: Option<u64>,
    /// End of TIME-WAIT or of an abandoned FIN-WAIT-2.
    pub(crate) end: Option<u64>,
}

/// Counters for `TCP_INFO`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Segments that came.
    pub segments_in: u32,
    /// Segments that went out.
    pub segments_out: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// Bytes of data acknowledged.
    pub bytes_acked: u64,
    /// Bytes of data received.
    pub bytes_received: u64,
}

/// A connection.
pub struct Tcb<P> {
    /// Settings; change them at will.
    pub config: Config,
    /// Counters.
    pub counters: Counters,
    pub(crate) state: State,
    pub(crate) snd: SendState,
    pub(crate) rcv: ReceiveState,
    pub(crate) sending: SendQueue<P>,
    pub(crate) receiving: ReceiveQueue<P>,
    pub(crate) board: Scoreboard,
    pub(crate) congestion: Congestion,
    pub(crate) rtt: Rtt,
    pub(crate) deadlines: Deadlines,
    pub(crate) events: Events,
    pub(crate) failure: Option<Failure>,
    pub(crate) use_sack: bool,
    pub(crate) use_timestamps: bool,
    /// An acknowledgement must go now.
    pub(crate) ack_now: bool,
    /// Data since the last acknowledgement.
    pub(crate) ack_pending: bool,
    pub(crate) quick_acks: u8,
    /// Data goes both ways, so that acknowledgements travel with it.
    pub(crate) ping_pong: bool,
    /// The user will read no more: data is answered with a reset.
    pub(crate) is_orphan: bool,
    pub(crate) retries: u32,
    pub(crate) probes: u32,
    pub(crate) last_heard_ns: u64,
    /// When a segment without data that was not acceptable was answered last.
    pub(crate) answered_invalid_ns: Option<u64>,
    pub(crate) last_data_ns: u64,
    /// When the oldest unanswered segment went out first.
    pub(crate) unanswered_ns: Option<u64>,
    /// Timed segment without timestamps: end and time.
    pub(crate) timed: Option<(Seq, u64)>,
    /// A segment that Nagle's rule holds back goes anyway.
    pub(crate) push_now: bool,
}

impl<P: Payload> Tcb<P> {
    fn new(config: Config, state: State, iss: Seq, now_ns: u64) -> Self {
        let mss = u32::from(config.mss);
        let algorithm = config.algorithm;
        Self {
            config,
            counters: Counters::default(),
            state,
            snd: SendState {
                iss,
                una: iss,
                nxt: iss,
                window: 0,
                max_window: 0,
                wl1: Seq(0),
                wl2: Seq(0),
                shift: 0,
                mss,
                small_end: iss,
                urgent: None,
                again: (iss, iss),
                recover: None,
                duplicates: 0,
                fin: FinState::None,
            },
            rcv: ReceiveState {
                irs: Seq(0),
                nxt: Seq(0),
                edge: Seq(0),
                shift: 0,
                acked: Seq(0),
                ts_recent: 0,
                fin: None,
                seen_mss: u32::from(DEFAULT_MSS),
                urgent: None,
            },
            sending: SendQueue::new(),
            receiving: ReceiveQueue::new(),
            board: Scoreboard::default(),
            congestion: Congestion::new(algorithm, mss),
            rtt: Rtt::new(),
            deadlines: Deadlines::default(),
            events: Events::default(),
            failure: None,
            use_sack: false,
            use_timestamps: false,
            ack_now: false,
            ack_pending: false,
            quick_acks: QUICK_ACKS,
            ping_pong: false,
            is_orphan: false,
            retries: 0,
            probes: 0,
            last_heard_ns: now_ns,
            answered_invalid_ns: None,
            last_data_ns: now_ns,
            unanswered_ns: None,
            timed: None,
            push_now: false,
        }
    }

    /// Begins a connection with the initial sequence number `iss`. Call [`Tcb::output`] next.
    pub fn connect(config: Config, iss: u32, now_ns: u64) -> Self {
        Self::new(config, State::SynSent, Seq(iss), now_ns)
    }

    /// Answers `syn`, which has SYN and neither RST nor ACK. Call [`Tcb::output`] next.
    pub fn accept(config: Config, iss: u32, syn: &Segment<P>, now_ns: u64) -> Self {
        let mut tcb = Self::new(config, State::SynReceived, Seq(iss), now_ns);
        tcb.take_syn(syn);
        tcb.counters.segments_in = 1;
        tcb
    }

    /// What `syn` says about the other side.
    pub(crate) fn take_syn(&mut self, syn: &Segment<P>) {
        self.rcv.irs = syn.seq;
        self.rcv.nxt = syn.seq + 1;
        self.rcv.acked = self.rcv.nxt;
        self.rcv.edge = self.rcv.nxt;
        let options = &syn.options;
        if self.config.window_scaling
            && let Some(shift) = options.window_scale
        {
            self.snd.shift = shift.min(14);
            self.rcv.shift = WINDOW_SHIFT;
        }
        self.use_sack = self.config.sack && options.sack_permitted;
        if self.config.timestamps
            && let Some((value, _)) = options.timestamps
        {
            self.use_timestamps = true;
            self.rcv.ts_recent = value;
        }
        let theirs = options.mss.unwrap_or(DEFAULT_MSS).max(64);
        let mss = u32::from(theirs.min(self.config.mss));
        self.snd.mss = if self.use_timestamps { mss - TIMESTAMP_LEN } else { mss };
        self.congestion.set_mss(self.snd.mss);
        // The window of a SYN is never shifted.
        self.snd.window = u32::from(syn.window);
        self.snd.max_window = self.snd.window;
        (self.snd.wl1, self.snd.wl2) = (syn.seq, syn.ack);
    }

    /// Where the connection is.
    #[inline]
    pub fn state(&self) -> State {
        self.state
    }

    pub(crate) fn enter(&mut self, state: State) {
        if self.state != state {
            self.state = state;
            self.events.state = true;
        }
    }

    /// Ends with `failure`; what was not read stays readable.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.end();
    }

    /// Ends for good.
    pub(crate) fn end(&mut self) {
        self.enter(State::Closed);
        self.sending.clear();
        self.board.clear();
        self.deadlines = Deadlines::default();
        self.events = Events { readable: true, writable: true, state: true };
    }

    /// Takes how it failed.
    pub fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    /// How it failed, if nobody took that yet.
    pub fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// Takes what happened since the last call.
    pub fn take_events(&mut self) -> Events {
        core::mem::take(&mut self.events)
    }

    /// Whether data may be written: the connection stands, and its sending half is open.
    pub fn can_send(&self) -> bool {
        matches!(self.state, State::Established | State::CloseWait) && self.snd.fin == FinState::None
    }

    /// Whether no more data will come.
    pub fn is_receive_over(&self) -> bool {
        use State::{CloseWait, Closed, Closing, LastAck, TimeWait};
        matches!(self.state, CloseWait | Closed | Closing | LastAck | TimeWait)
    }

    /// Whether another piece may be written: the last one may pass the limit.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.sending.charged() < self.config.send_buffer
    }

    /// Whether there is enough room to tell a writer: a third, as on Linux.
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.sending.charged() * 3 < self.config.send_buffer * 2
    }

    /// Adds data to be sent; check [`Tcb::can_send`] before and call [`Tcb::output`] after.
    pub fn send(&mut self, piece: P) {
        if !piece.is_empty() {
            self.sending.push(piece);
        }
    }

    /// Adds data whose last byte is out of band.
    pub fn send_urgent(&mut self, piece: P) {
        self.send(piece);
        self.snd.urgent = Some(self.queue_end());
        self.push_now = true;
    }

    /// Sends what Nagle's rule or a cork holds back with the next output.
    pub fn push(&mut self) {
        self.push_now = true;
    }

    /// Bytes written that were not acknowledged (`SIOCOUTQ`).
    pub fn unacknowledged(&self) -> usize {
        self.sending.len() + usize::from(self.snd.fin == FinState::Sent && self.snd.una != self.snd.nxt)
    }

    /// Bytes written that were not sent (`SIOCOUTQNSD`).
    pub fn unsent(&self) -> usize {
        self.queue_end().since(self.snd.nxt.min(self.queue_end())) as usize
    }

    /// Bytes to read.
    #[inline]
    pub fn readable(&self) -> usize {
        self.receiving.len()
    }

    /// The piece that begins `skip` bytes behind the next to read.
    pub fn peek(&self, skip: usize) -> Option<P> {
        self.receiving.peek(skip)
    }

    /// `n` bytes were read. Call [`Tcb::output`] next: the window may have opened.
    pub fn consume(&mut self, n: usize) {
        self.receiving.consume(n);
        if !self.is_receive_over() && n > 0 {
            let is_empty = self.receiving.len() == 0;
            self.ack_now |= self.ack_pending && is_empty && !self.ping_pong;
            self.ack_now |=
                self.window_gain() >= (2 * self.rcv.seen_mss).min(self.config.receive_buffer as u32 / 2);
        }
    }

    /// By how much the window could grow now.
    pub(crate) fn window_gain(&self) -> u32 {
        let edge = self.rcv.nxt + self.free_window();
        if edge.after(self.rcv.edge) { edge.since(self.rcv.edge) } else { 0 }
    }

    /// Bytes that the receive buffer has room for.
    pub(crate) fn free_window(&self) -> u32 {
        let free = self.config.receive_buffer.saturating_sub(self.receiving.charged());
        let most = if self.rcv.shift == 0 { 0xffff } else { (0xffffusize << self.rcv.shift).min(1 << 29) };
        free.min(most) as u32
    }

    /// Offset of the urgent mark from the next byte to read; `None` without one ahead.
    pub fn urgent_offset(&self) -> Option<usize> {
        let (seq, _) = self.rcv.urgent?;
        let first = self.rcv.nxt - self.receiving.len() as u32 - u32::from(self.has_fin());
        (!seq.before(first)).then(|| seq.since(first) as usize)
    }

    /// The out-of-band byte; `None` in the outer option without an urgent mark, in the inner one before it came or after
    /// it was taken.
    pub fn urgent_byte(&self) -> Option<Option<u8>> {
        self.rcv.urgent.map(|(_, byte)| byte)
    }

    /// Whether the out-of-band byte is announced and has not come.
    pub fn urgent_is_awaited(&self) -> bool {
        self.rcv.urgent.is_some_and(|(seq, byte)| byte.is_none() && !seq.before(self.rcv.nxt))
    }

    /// Whether [`Tcb::output`] has something to say after reading.
    #[inline]
    pub fn wants_output(&self) -> bool {
        self.ack_now
    }

    /// Forgets the out-of-band byte once read.
    pub fn take_urgent(&mut self) {
        if let Some((_, byte)) = &mut self.rcv.urgent {
            *byte = None;
        }
    }

    pub(crate) fn has_fin(&self) -> bool {
        self.rcv.fin.is_some_and(|fin| fin.before(self.rcv.nxt))
    }

    /// Closes the sending half. Call [`Tcb::output`] next.
    pub fn shutdown(&mut self) {
        if self.snd.fin != FinState::None {
            return;
        }
        match self.state {
            State::Established | State::SynReceived => self.enter(State::FinWait1),
            State::CloseWait => self.enter(State::LastAck),
            _ => return,
        }
        self.snd.fin = FinState::Wanted;
        self.events.writable = true;
    }

    /// The user is gone. Unread data makes this a reset, as RFC 2525, 2.17 wants. Call [`Tcb::output`] next; the
    /// segment given here goes first.
    pub fn close(&mut self, now_ns: u64) -> Option<Segment<P>> {
        self.is_orphan = true;
        if self.receiving.len() > 0 {
            return self.abort();
        }
        match self.state {
            State::SynSent => self.end(),
            State::FinWait2 => self.deadlines.end = Some(now_ns + self.config.fin_timeout_ns),
            _ => self.shutdown(),
        }
        None
    }

    /// Ends at once; gives the reset that tells the other side.
    pub fn abort(&mut self) -> Option<Segment<P>> {
        self.is_orphan = true;
        let tells = !matches!(self.state, State::Closed | State::SynSent | State::TimeWait);
        let reset = tells.then(|| Segment::bare(self.snd.nxt, self.rcv.nxt, Flags::RST.with(Flags::ACK)));
        self.receiving.clear();
        self.end();
        reset
    }

    /// Number behind the last byte written.
    pub(crate) fn queue_end(&self) -> Seq {
        self.data_start() + self.sending.len() as u32
    }

    /// Number of the first byte in the queue.
    pub(crate) fn data_start(&self) -> Seq {
        self.snd.una.max(self.snd.iss + 1)
    }

    /// The next moment at which [`Tcb::on_timer`] wants to be called.
    pub fn deadline_ns(&self) -> Option<u64> {
        let all = [self.deadlines.resend, self.deadlines.ack, self.deadlines.keepalive, self.deadlines.end];
        all.into_iter().flatten().min()
    }

    /// Whether a new connection with the same addresses may take the place of this one in TIME-WAIT (RFC 6191).
    pub fn may_be_replaced_by(&self, syn: &Segment<P>) -> bool {
        self.state == State::TimeWait
            && syn.flags.has(Flags::SYN)
            && !syn.flags.has(Flags::RST)
            && !syn.flags.has(Flags::ACK)
            && (syn.seq.after(self.rcv.nxt)
                || syn.options.timestamps.is_some_and(|(value, _)| {
                    self.use_timestamps && (value.wrapping_sub(self.rcv.ts_recent) as i32) > 0
                }))
    }

    /// The number after the last one used: a connection that takes this one's place begins beyond.
    pub fn next_seq(&self) -> u32 {
        self.snd.nxt.0
    }

    /// Congestion window and threshold.
    pub fn congestion(&self) -> &Congestion {
        &self.congestion
    }

    /// Changes the congestion control.
    pub fn set_algorithm(&mut self, algorithm: Algorithm) {
        self.config.algorithm = algorithm;
        self.congestion.set_algorithm(algorithm);
    }

    /// Round-trip times.
    pub fn rtt(&self) -> &Rtt {
        &self.rtt
    }

    /// Timeout of retransmission in nanoseconds.
    pub fn rto_ns(&self) -> u64 {
        self.rtt.rto_ns()
    }

    /// Numbers for `TCP_INFO` and /proc/net/tcp.
    pub fn info(&self) -> Info {
        Info {
            mss: self.snd.mss,
            seen_mss: self.rcv.seen_mss,
            send_shift: self.snd.shift,
            receive_shift: self.rcv.shift,
            timestamps: self.use_timestamps,
            sack: self.use_sack,
            retries: self.retries,
            backoff: self.rtt.backoff(),
            probes: self.probes,
            in_flight: self.snd.nxt.since(self.snd.una),
            sacked: self.board.bytes(),
            is_recovering: self.snd.recover.is_some(),
            send_window: self.snd.window,
            receive_window: self.rcv.edge.since(self.rcv.nxt.min(self.rcv.edge)),
            ping_pong: self.ping_pong,
            resend_ns: self.deadlines.resend,
            last_data_ns: self.last_data_ns,
            last_heard_ns: self.last_heard_ns,
        }
    }

    /// `TCP_QUICKACK`.
    pub fn set_quick_ack(&mut self, is_on: bool) {
        self.ping_pong = !is_on;
        if is_on {
            self.quick_acks = QUICK_ACKS;
            self.ack_now |= self.ack_pending;
        }
    }
}

/// See [`Tcb::info`]. Sizes are bytes, times nanoseconds on the monotonic clock.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Info {
    pub mss: u32,
    pub seen_mss: u32,
    pub send_shift: u8,
    pub receive_shift: u8,
    pub timestamps: bool,
    pub sack: bool,
    pub retries: u32,
    pub backoff: u32,
    pub probes: u32,
    pub in_flight: u32,
    pub sacked: u32,
    pub is_recovering: bool,
    pub send_window: u32,
    pub receive_window: u32,
    pub ping_pong: bool,
    pub resend_ns: Option<u64>,
    pub last_data_ns: u64,
    pub last_heard_ns: u64,
}
