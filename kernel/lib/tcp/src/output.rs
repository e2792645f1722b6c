//! What a connection sends.

use crate::segment::{Chain, Flags, Payload, SegOptions, Segment};
use crate::seq::Seq;
use crate::tcb::{FinState, State, Tcb, WINDOW_SHIFT};

/// How long an acknowledgement may wait for data to travel with, as on Linux.
const DELAYED_ACK_NS: u64 = 40_000_000;

impl<P: Payload> Tcb<P> {
    /// Hands all segments that may go now to `emit`, and sets the deadlines.
    pub fn output(&mut self, now_ns: u64, emit: &mut impl FnMut(Segment<P>)) {
        match self.state {
            State::Closed => return,
            State::SynSent | State::SynReceived => self.send_syn(now_ns, emit),
            State::TimeWait => {}
            _ => {
                self.send_again(now_ns, emit);
                self.send_new(now_ns, emit);
                self.send_fin(now_ns, emit);
            }
        }
        if self.ack_now && self.state != State::SynSent && self.snd.nxt != self.snd.iss {
            let segment = self.segment(self.snd.nxt, Flags::ACK, Chain::new(), now_ns);
            self.emit(segment, emit);
        }
        if self.ack_pending && self.deadlines.ack.is_none() {
            self.deadlines.ack = Some(now_ns + DELAYED_ACK_NS);
        } else if !self.ack_pending {
            self.deadlines.ack = None;
        }
    }

    /// The clock of the timestamp option: milliseconds, never 0.
    pub(crate) fn timestamp(&self, now_ns: u64) -> u32 {
        ((now_ns / 1_000_000) as u32).wrapping_add(self.snd.iss.0 | 1).max(1)
    }

    /// The window to tell; moves its edge.
    fn window(&mut self) -> u16 {
        let gain = self.window_gain();
        // A small opening is not told, so that the other side does not send in drops.
        let step = self.rcv.seen_mss.min(self.config.receive_buffer as u32 / 2);
        let edge = if gain >= step || self.rcv.edge == self.rcv.nxt && gain >= step.min(2048) {
            self.rcv.nxt + self.free_window()
        } else {
            self.rcv.edge.max(self.rcv.nxt)
        };
        let open = edge.since(self.rcv.nxt);
        let shift = self.rcv.shift;
        let scaled = (open + ((1 << shift) - 1)) >> shift;
        let scaled = scaled.min(0xffff);
        self.rcv.edge = self.rcv.edge.max(self.rcv.nxt + (scaled << shift));
        scaled as u16
    }

    /// A segment with all that goes along.
    fn segment(&mut self, seq: Seq, flags: Flags, data: Chain<P>, now_ns: u64) -> Segment<P> {
        let window = self.window();
        let mut options = SegOptions::default();
        if self.use_timestamps {
            options.timestamps = Some((self.timestamp(now_ns), self.rcv.ts_recent));
        }
        if self.use_sack && self.receiving.has_early() {
            options.sack = self.receiving.blocks(if self.use_timestamps { 3 } else { 4 });
        }
        let mut segment = Segment {
            seq,
            ack: self.rcv.nxt,
            flags: flags.with(Flags::ACK),
            window,
            urgent: 0,
            options,
            data,
        };
        if let Some(urgent) = self.snd.urgent {
            let offset = urgent.since(seq);
            if urgent.after(seq) && offset <= 0xffff {
                segment.flags = segment.flags.with(Flags::URG);
                segment.urgent = offset as u16;
            }
            if !urgent.after(self.snd.una) {
                self.snd.urgent = None;
            }
        }
        segment
    }

    /// Sends a segment that carries an acknowledgement.
    fn emit(&mut self, segment: Segment<P>, emit: &mut impl FnMut(Segment<P>)) {
        self.rcv.acked = segment.ack;
        self.ack_now = false;
        self.ack_pending = false;
        self.counters.segments_out = self.counters.segments_out.wrapping_add(1);
        emit(segment);
    }

    fn start_timer(&mut self, now_ns: u64) {
        if self.deadlines.resend.is_none() {
            self.deadlines.resend = Some(now_ns + self.rtt.rto_ns());
        }
        if self.unanswered_ns.is_none() {
            self.unanswered_ns = Some(now_ns);
        }
    }

    fn send_syn(&mut self, now_ns: u64, emit: &mut impl FnMut(Segment<P>)) {
        if self.snd.nxt != self.snd.iss {
            return;
        }
        let answers = self.state == State::SynReceived;
        let flags = if answers { Flags::SYN.with(Flags::ACK) } else { Flags::SYN };
        let mut options = SegOptions {
            mss: Some(self.config.mss),
            sack_permitted: if answers { self.use_sack } else { self.config.sack },
            ..SegOptions::default()
        };
        let scales = if answers { self.rcv.shift > 0 } else { self.config.window_scaling };
        options.window_scale = scales.then_some(WINDOW_SHIFT);
        if if answers { self.use_timestamps } else { self.config.timestamps } {
            options.timestamps = Some((self.timestamp(now_ns), self.rcv.ts_recent));
        }
        let open = (self.free_window()).min(0xffff);
        self.rcv.edge = self.rcv.edge.max(self.rcv.nxt + open);
        let segment = Segment {
            seq: self.snd.iss,
            ack: if answers { self.rcv.nxt } else { Seq(0) },
            flags,
            window: open as u16,
            urgent: 0,
            options,
            data: Chain::new(),
        };
        self.snd.nxt = self.snd.iss + 1;
        if !self.use_timestamps && self.retries == 0 {
            self.timed = Some((self.snd.nxt, now_ns));
        }
        self.start_timer(now_ns);
        self.emit(segment, emit);
    }

    /// Bytes taken to be under way.
    fn in_pipe(&self) -> u64 {
        let (from, to) = self.snd.again;
        let flight = self.snd.nxt.since(self.snd.una);
        let lost = self.board.missing(from.max(self.snd.una), to);
        let arrived = if self.use_sack { self.board.bytes() } else { self.snd.duplicates * self.snd.mss };
        u64::from(flight.saturating_sub(lost).saturating_sub(arrived))
    }

    /// Retransmissions, as far as the congestion window allows; the first one goes always.
    fn send_again(&mut self, now_ns: u64, emit: &mut impl FnMut(Segment<P>)) {
        while self.snd.again.0.before(self.snd.again.1) {
            let (from, limit) = (self.snd.again.0.max(self.snd.una), self.snd.again.1);
            let Some((start, end)) = self.board.hole(from, limit) else {
                self.snd.again.0 = limit;
                return;
            };
            let pipe = self.in_pipe();
            if start != self.snd.una && pipe + u64::from(self.snd.mss) > self.congestion.window() {
                return;
            }
            let sent = self.resend(start, end, now_ns, emit);
            self.snd.again.0 = start + sent;
            if sent == 0 {
                return;
            }
        }
    }

    /// Sends one segment again from `start` on, at most to `end`. Gives the numbers that it took.
    fn resend(&mut self, start: Seq, end: Seq, now_ns: u64, emit: &mut impl FnMut(Segment<P>)) -> u32 {
        let offset = start.since(self.data_start()) as usize;
        let len = (end.since(start) as usize).min(self.snd.mss as usize);
        let len = len.min(self.sending.len().saturating_sub(offset));
        let data = if len > 0 { self.sending.range(offset, len) } else { Chain::new() };
        let ends = self.snd.fin == FinState::Sent && start + len as u32 == self.queue_end();
        let fits = start + len as u32 != end || len == 0;
        let flags = if ends && fits { Flags::FIN } else { Flags::PSH };
        let taken = len as u32 + u32::from(flags == Flags::FIN);
        if taken > 0 {
            let segment = self.segment(start, flags, data, now_ns);
            self.emit(segment, emit);
            self.counters.retransmits = self.counters.retransmits.wrapping_add(1);
            self.timed = None;
            self.start_timer(now_ns);
        }
        taken
    }

    fn send_new(&mut self, now_ns: u64, emit: &mut impl FnMut(Segment<P>)) {
        let mut pipe = None;
        loop {
            let end = self.queue_end();
            if self.snd.fin == FinState::Sent || !self.snd.nxt.before(end) {
                break;
            }
            let unsent = end.since(self.snd.nxt);
            let edge = self.snd.una + self.snd.window;
            let open = if edge.after(self.snd.nxt) { edge.since(self.snd.nxt) } else { 0 };
            let under_way = *pipe.get_or_insert_with(|| self.in_pipe());
            let allowed = self.congestion.window().saturating_sub(under_way).min(u64::from(open)) as u32;
            let len = unsent.min(allowed).min(self.snd.mss.max(self.config.burst));
            if len == 0 || !self.may_send(len, unsent) {
                if self.snd.nxt == self.snd.una {
                    // A closed window: ask now and then whether it opened.
                    self.start_timer(now_ns);
                }
                break;
            }
            self.send_data(len, len == unsent, now_ns, emit);
            pipe = Some(under_way + u64::from(len));
        }
        if !self.snd.nxt.before(self.queue_end()) {
            self.push_now = false;
        }
    }

    /// May a segment of `len` bytes go (RFC 9293, 3.7.4, and Minshall's form of Nagle's rule)?
    fn may_send(&self, len: u32, unsent: u32) -> bool {
        if len >= self.snd.mss || len >= (self.snd.max_window / 2).max(1) {
            return true;
        }
        if len < unsent {
            return self.snd.nxt == self.snd.una && len >= self.snd.max_window / 4;
        }
        if self.push_now || self.snd.fin == FinState::Wanted {
            return true;
        }
        if self.config.cork {
            return false;
        }
        self.config.no_delay || !self.snd.small_end.after(self.snd.una)
    }

    fn send_data(&mut self, len: u32, is_last: bool, now_ns: u64, emit: &mut impl FnMut(Segment<P>)) {
        let start = self.snd.nxt;
        let data = self.sending.range(start.since(self.data_start()) as usize, len as usize);
        let mut flags = if is_last { Flags::PSH } else { Flags::default() };
        self.snd.nxt = start + len;
        if is_last && self.snd.fin == FinState::Wanted {
            self.snd.fin = FinState::Sent;
            self.snd.nxt += 1;
            flags = flags.with(Flags::FIN);
        }
        if len < self.snd.mss {
            self.snd.small_end = start + len;
        }
        if self.ack_pending || self.ack_now {
            self.ping_pong = true; // data answers data
        }
        if !self.use_timestamps && self.timed.is_none() {
            self.timed = Some((start + len, now_ns));
        }
        self.last_data_ns = now_ns;
        let segment = self.segment(start, flags, data, now_ns);
        self.start_timer(now_ns);
        self.emit(segment, emit);
    }

    fn send_fin(&mut self, now_ns: u64, emit: &mut impl FnMut(Segment<P>)) {
        if self.snd.fin != FinState::Wanted || self.snd.nxt != self.queue_end() {
            return;
        }
        self.snd.fin = FinState::Sent;
        let start = self.snd.nxt;
        self.snd.nxt = start + 1;
        let segment = self.segment(start, Flags::FIN, Chain::new(), now_ns);
        self.start_timer(now_ns);
        self.emit(segment, emit);
    }

    /// Asks the other side for an answer: an old number, which it must acknowledge.
    pub(crate) fn send_probe(&mut self, now_ns: u64, emit: &mut impl FnMut(Segment<P>)) {
        let segment = self.segment(self.snd.una - 1, Flags::ACK, Chain::new(), now_ns);
        self.emit(segment, emit);
    }
}
