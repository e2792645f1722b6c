//! What a segment does to a connection (RFC 9293, 3.10.7; RFC 5961 for what may be forged).

use crate::segment::{Flags, Payload, Segment, chain_len, cut};
use crate::seq::Seq;
use crate::tcb::{Failure, FinState, QUICK_ACKS, State, Tcb};

/// Acknowledgements that tell of a loss (RFC 5681).
const DUPLICATES: u32 = 3;

/// Between two answers to segments that are not acceptable (Linux: net.ipv4.tcp_invalid_ratelimit).
const INVALID_INTERVAL_NS: u64 = 500_000_000;

/// What to do with the rest of a segment.
enum Next {
    Go,
    Drop,
}

impl<P: Payload> Tcb<P> {
    /// Takes a segment in. A segment given back must be sent; call [`Tcb::output`] in any case.
    pub fn on_segment(&mut self, segment: Segment<P>, now_ns: u64) -> Option<Segment<P>> {
        self.counters.segments_in = self.counters.segments_in.wrapping_add(1);
        match self.state {
            State::Closed => segment.refusal(),
            State::SynSent => self.in_syn_sent(segment, now_ns),
            _ => self.in_connection(segment, now_ns),
        }
    }

    fn in_syn_sent(&mut self, segment: Segment<P>, now_ns: u64) -> Option<Segment<P>> {
        let flags = segment.flags;
        let acks = flags.has(Flags::ACK);
        if acks && (!segment.ack.after(self.snd.iss) || segment.ack.after(self.snd.nxt)) {
            return segment.refusal();
        }
        if flags.has(Flags::RST) {
            if acks {
                self.fail(Failure::Refused);
            }
            return None;
        }
        if !flags.has(Flags::SYN) {
            return None;
        }
        self.heard(now_ns);
        self.take_syn(&segment);
        if acks {
            self.acknowledged(&segment, now_ns);
            self.establish(now_ns);
            self.ack_now = true;
        } else {
            // Both have opened at once: answer with SYN and ACK.
            self.enter(State::SynReceived);
            self.snd.nxt = self.snd.iss;
            self.snd.again = (self.snd.iss, self.snd.iss);
            self.deadlines.resend = None;
        }
        None
    }

    fn establish(&mut self, now_ns: u64) {
        self.retries = 0;
        self.rtt.end_backoff();
        self.enter(if self.snd.fin == FinState::None { State::Established } else { State::FinWait1 });
        self.events.writable = true;
        if self.config.keepalive {
            self.deadlines.keepalive = Some(now_ns + self.config.keepalive_idle_ns);
        }
    }

    fn heard(&mut self, now_ns: u64) {
        self.last_heard_ns = now_ns;
        self.probes = 0;
        if self.deadlines.keepalive.is_some() {
            self.deadlines.keepalive = Some(now_ns + self.config.keepalive_idle_ns);
        }
    }

    fn in_connection(&mut self, segment: Segment<P>, now_ns: u64) -> Option<Segment<P>> {
        if let Next::Drop = self.check_number(&segment, now_ns) {
            return None;
        }
        if segment.flags.has(Flags::RST) {
            self.on_reset(&segment, now_ns);
            return None;
        }
        if segment.flags.has(Flags::SYN) {
            // A simultaneous open repeats SYN with the acknowledgement; anything else is old or forged.
            let repeats = self.state == State::SynReceived && segment.seq == self.rcv.irs;
            if !(repeats && segment.flags.has(Flags::ACK)) {
                if repeats {
                    self.snd.nxt = self.snd.iss;
                } else {
                    self.answer_invalid(&segment, now_ns);
                }
                return None;
            }
        }
        if !segment.flags.has(Flags::ACK) {
            return None;
        }
        if self.state == State::SynReceived {
            if !segment.ack.after(self.snd.una) || segment.ack.after(self.snd.nxt) {
                return segment.refusal();
            }
            self.establish(now_ns);
            self.snd.window = u32::from(segment.window) << self.snd.shift;
            self.snd.max_window = self.snd.max_window.max(self.snd.window);
            (self.snd.wl1, self.snd.wl2) = (segment.seq, segment.ack);
        }
        self.heard(now_ns);
        if segment.ack.after(self.snd.nxt) {
            self.answer_invalid(&segment, now_ns);
            return None;
        }
        self.note_timestamp(&segment);
        self.on_acknowledgement(&segment, now_ns);
        if self.state == State::Closed {
            return None;
        }
        self.on_data(segment, now_ns)
    }

    /// Keeps the timestamp of an acceptable segment to echo it and to tell old ones by (RFC 7323, 5.3, R3).
    fn note_timestamp(&mut self, segment: &Segment<P>) {
        if self.use_timestamps
            && let Some((value, _)) = segment.options.timestamps
            && !segment.seq.after(self.rcv.acked)
        {
            self.rcv.ts_recent = value;
        }
    }

    /// Whether it came before, as the acknowledgement was lost: the answer to it tells how long this one took. With the time of
    /// the first one, both ends would wait longer each time.
    ///
    /// Linux does so for the last one only; RFC 7323 for none. One from farther back is no repetition but forged, or very old.
    fn is_repeat(&self, segment: &Segment<P>) -> bool {
        let age = self.rcv.acked.since(segment.seq);
        !segment.seq.after(self.rcv.acked)
            && age as usize <= self.config.receive_buffer.max(1 << 16)
            && segment.flags.has(Flags::ACK)
            && !segment.ack.after(self.snd.nxt)
    }

    /// Is it in the window, and not an old one (RFC 7323, 5)?
    fn check_number(&mut self, segment: &Segment<P>, now_ns: u64) -> Next {
        if self.use_timestamps
            && let Some((value, _)) = segment.options.timestamps
        {
            let age = value.wrapping_sub(self.rcv.ts_recent) as i32;
            if age < 0 && !segment.flags.has(Flags::RST) {
                self.answer_invalid(segment, now_ns);
                return Next::Drop;
            }
        }
        let (len, window) = (segment.seq_len(), self.rcv.edge.since(self.rcv.nxt.min(self.rcv.edge)));
        let limit = self.rcv.nxt + window.max(1);
        let last = segment.seq + len.saturating_sub(1);
        let fits = |seq: Seq| !seq.before(self.rcv.nxt) && seq.before(limit);
        let is_acceptable = match (len, window) {
            (0, 0) => segment.seq == self.rcv.nxt,
            (0, _) => fits(segment.seq),
            // With a closed window its acknowledgement still counts: the data is cut off later.
            (_, 0) => !segment.seq.after(self.rcv.nxt) && !last.before(self.rcv.nxt),
            _ => fits(segment.seq) || fits(last) || (segment.seq.before(self.rcv.nxt) && last.after(limit)),
        };
        if is_acceptable {
            return Next::Go;
        }
        if !segment.flags.has(Flags::RST) {
            self.answer_invalid(segment, now_ns);
            if self.is_repeat(segment) {
                self.note_timestamp(segment);
            }
            // Our answer to a simultaneous SYN was lost, or theirs came twice.
            if self.state == State::SynReceived
                && segment.flags.has(Flags::SYN)
                && segment.seq == self.rcv.irs
            {
                if segment.flags.has(Flags::ACK)
                    && segment.ack.after(self.snd.una)
                    && !segment.ack.after(self.snd.nxt)
                {
                    self.acknowledged(segment, now_ns);
                    self.establish(now_ns);
                } else if !segment.flags.has(Flags::ACK) {
                    self.snd.nxt = self.snd.iss;
                }
            }
            if self.state == State::TimeWait {
                self.deadlines.end = Some(now_ns + self.config.time_wait_ns);
            }
        }
        Next::Drop
    }

    /// Answers a segment that is not acceptable with where the connection is (RFC 9293, 3.10.7.4; RFC 5961), but seldom when
    /// it has no data: two ends that forged segments have set apart would answer each other for ever.
    #[cold]
    fn answer_invalid(&mut self, segment: &Segment<P>, now_ns: u64) {
        if segment.seq_len() == 0 || segment.flags.has(Flags::SYN) {
            if self.answered_invalid_ns.is_some_and(|at| now_ns < at.saturating_add(INVALID_INTERVAL_NS)) {
                return;
            }
            self.answered_invalid_ns = Some(now_ns);
        }
        self.ack_now = true;
    }

    fn on_reset(&mut self, segment: &Segment<P>, now_ns: u64) {
        if segment.seq != self.rcv.nxt {
            self.answer_invalid(segment, now_ns); // RFC 5961: whoever means it sends the exact number then
            return;
        }
        match self.state {
            State::SynReceived => self.fail(Failure::Refused),
            State::CloseWait => self.fail(Failure::Broken),
            State::TimeWait => self.end(),
            State::Closing | State::LastAck => {
                if self.sending.len() == 0 {
                    self.end(); // only the end itself was not acknowledged
                } else {
                    self.fail(Failure::Reset);
                }
            }
            _ => self.fail(Failure::Reset),
        }
    }

    fn on_acknowledgement(&mut self, segment: &Segment<P>, now_ns: u64) {
        let mut learned = false;
        if self.use_sack && !segment.options.sack.is_empty() {
            for &(start, end) in &segment.options.sack {
                let is_sane = start.before(end) && !start.before(self.snd.una) && !end.after(self.snd.nxt);
                learned |= is_sane && self.board.add(start, end);
            }
        }
        let window = u32::from(segment.window) << self.snd.shift;
        if segment.ack.after(self.snd.una) {
            self.acknowledged(segment, now_ns);
        } else if segment.ack == self.snd.una {
            let is_duplicate = segment.seq_len() == 0
                && self.snd.nxt != self.snd.una
                && (learned || (window == self.snd.window && !self.use_sack));
            if is_duplicate {
                self.on_duplicate();
            }
        }
        let is_newer = self.snd.wl1.before(segment.seq)
            || (self.snd.wl1 == segment.seq && !segment.ack.before(self.snd.wl2));
        if is_newer && !segment.ack.before(self.snd.una) {
            if window > self.snd.window && self.snd.una == self.snd.nxt {
                // What was probing is sending now.
                self.deadlines.resend = None;
                self.rtt.end_backoff();
                self.retries = 0;
            }
            self.snd.window = window;
            self.snd.max_window = self.snd.max_window.max(window);
            (self.snd.wl1, self.snd.wl2) = (segment.seq, segment.ack);
        }
    }

    /// `segment` acknowledges something new.
    fn acknowledged(&mut self, segment: &Segment<P>, now_ns: u64) {
        let (old, ack) = (self.snd.una, segment.ack);
        self.measure(segment, now_ns);
        let in_flight = self.snd.nxt.since(old);
        let first = self.data_start();
        let data = if ack.after(first) { (ack.since(first) as usize).min(self.sending.len()) } else { 0 };
        let was_writable = self.is_writable();
        self.sending.acknowledge(data);
        self.counters.bytes_acked += data as u64;
        self.snd.una = ack;
        self.board.advance(ack);
        self.snd.again.0 = self.snd.again.0.max(ack);
        self.snd.again.1 = self.snd.again.1.max(ack);
        self.snd.duplicates = 0;
        self.retries = 0;
        self.rtt.ease_off();
        self.snd.small_end = self.snd.small_end.max(ack);
        self.unanswered_ns = (ack != self.snd.nxt).then_some(now_ns);
        match self.snd.recover {
            Some(recover) if ack.before(recover) => self.partial(),
            Some(_) => {
                self.snd.recover = None;
                self.snd.again = (ack, ack);
            }
            None if u64::from(in_flight) * 2 >= self.congestion.window() => {
                self.congestion.on_ack(data as u64, now_ns, self.rtt.srtt_ns());
            }
            None => {}
        }
        self.deadlines.resend = (ack != self.snd.nxt).then(|| now_ns + self.rtt.rto_ns());
        self.events.writable |= !was_writable && self.is_writable();
        self.fin_acknowledged(now_ns);
    }

    /// A retransmission arrived, but more is missing.
    fn partial(&mut self) {
        if !self.use_sack && self.snd.again.0 == self.snd.again.1 {
            let limit = self.snd.nxt;
            self.snd.again = (self.snd.una, (self.snd.una + self.snd.mss).min(limit));
        }
    }

    fn measure(&mut self, segment: &Segment<P>, now_ns: u64) {
        if self.use_timestamps
            && let Some((_, echo)) = segment.options.timestamps
            && echo != 0
        {
            let ms = self.timestamp(now_ns).wrapping_sub(echo);
            if ms < 1 << 20 {
                self.rtt.sample(u64::from(ms) * 1_000_000);
            }
        } else if let Some((end, at)) = self.timed
            && !segment.ack.before(end)
        {
            self.rtt.sample(now_ns.saturating_sub(at));
        }
        if self.timed.is_some_and(|(end, _)| !segment.ack.before(end)) {
            self.timed = None;
        }
    }

    /// The state after our FIN was acknowledged, if it was.
    fn fin_acknowledged(&mut self, now_ns: u64) {
        if self.snd.fin != FinState::Sent || self.snd.una != self.snd.nxt {
            return;
        }
        match self.state {
            State::FinWait1 => {
                self.enter(State::FinWait2);
                if self.is_orphan {
                    self.deadlines.end = Some(now_ns + self.config.fin_timeout_ns);
                }
            }
            State::Closing => self.wait_out(now_ns),
            State::LastAck => self.end(),
            _ => {}
        }
    }

    /// Enters TIME-WAIT.
    fn wait_out(&mut self, now_ns: u64) {
        self.enter(State::TimeWait);
        self.deadlines.resend = None;
        self.deadlines.keepalive = None;
        self.deadlines.end = Some(now_ns + self.config.time_wait_ns);
    }

    fn on_duplicate(&mut self) {
        self.snd.duplicates += 1;
        let lost = self.snd.duplicates >= DUPLICATES || self.board.bytes() > (DUPLICATES - 1) * self.snd.mss;
        if self.snd.recover.is_none() && lost {
            self.snd.recover = Some(self.snd.nxt);
            self.congestion.on_loss(u64::from(self.snd.nxt.since(self.snd.una)));
            let first = (self.snd.una + self.snd.mss).min(self.snd.nxt);
            self.snd.again = (self.snd.una, first);
            self.timed = None;
        }
        if self.snd.recover.is_some()
            && self.use_sack
            && let Some(start) = self.board.last_start()
        {
            // All holes before the last block are taken for lost.
            self.snd.again.1 = self.snd.again.1.max(start);
        }
    }

    fn on_data(&mut self, segment: Segment<P>, now_ns: u64) -> Option<Segment<P>> {
        let has_fin = segment.flags.has(Flags::FIN);
        let len = chain_len(&segment.data);
        if len == 0 && !has_fin {
            return None;
        }
        if !matches!(self.state, State::Established | State::FinWait1 | State::FinWait2) {
            self.ack_now = true;
            return None;
        }
        if self.is_orphan && len > 0 && (segment.seq + len as u32).after(self.rcv.nxt) {
            return self.abort();
        }
        let had_early = self.receiving.has_early();
        let old = self.rcv.nxt;
        let fin = segment.seq + len as u32;
        if segment.flags.has(Flags::URG) {
            self.note_urgent(&segment);
        }
        let (seq, is_whole) = (segment.seq, self.take_data(segment));
        if has_fin && is_whole && fin.before(self.rcv.edge + 1) {
            self.rcv.fin = Some(fin);
        }
        if self.rcv.fin == Some(self.rcv.nxt) && self.state_before_fin() {
            self.rcv.nxt += 1;
            self.on_fin(now_ns);
        }
        if self.rcv.nxt != old {
            self.last_data_ns = now_ns;
            self.events.readable = true;
        }
        self.rcv.seen_mss = self.rcv.seen_mss.max((len as u32).min(u32::from(self.config.mss)));
        let in_order = seq == old && !had_early && self.rcv.fin.is_none();
        self.plan_ack(in_order);
        None
    }

    fn state_before_fin(&self) -> bool {
        matches!(self.state, State::Established | State::FinWait1 | State::FinWait2)
    }

    /// Cuts data to the window and queues it; gives whether nothing was cut off at its end.
    fn take_data(&mut self, segment: Segment<P>) -> bool {
        let len = chain_len(&segment.data);
        if len == 0 {
            return true;
        }
        if self.receiving.charged() > 2 * self.config.receive_buffer {
            self.receiving.compact();
            if self.receiving.charged() > 4 * self.config.receive_buffer {
                return false; // it comes again once there is room
            }
        }
        let room =
            if self.rcv.edge.after(segment.seq) { self.rcv.edge.since(segment.seq) as usize } else { 0 };
        let kept = len.min(room);
        let data = if kept < len { cut(segment.data, 0, kept) } else { segment.data };
        let old = self.rcv.nxt;
        if kept > 0 {
            self.rcv.nxt = self.receiving.insert(segment.seq, data, old);
        }
        self.counters.bytes_received += u64::from(self.rcv.nxt.since(old));
        kept == len
    }

    fn note_urgent(&mut self, segment: &Segment<P>) {
        let at = segment.seq + u32::from(segment.urgent).saturating_sub(1);
        if at.before(self.rcv.nxt) || self.rcv.urgent.is_some_and(|(old, _)| !at.after(old)) {
            return;
        }
        let mut offset = at.since(segment.seq) as usize;
        let mut byte = None;
        for piece in &segment.data {
            if offset < piece.len() {
                byte = Some(piece.byte(offset));
                break;
            }
            offset -= piece.len();
        }
        self.rcv.urgent = Some((at, byte));
    }

    fn on_fin(&mut self, now_ns: u64) {
        self.ack_now = true;
        self.events.readable = true;
        match self.state {
            State::Established => self.enter(State::CloseWait),
            // Our FIN was not acknowledged, or this segment would have led to FIN-WAIT-2.
            State::FinWait1 => self.enter(State::Closing),
            State::FinWait2 => self.wait_out(now_ns),
            _ => {}
        }
    }

    fn plan_ack(&mut self, in_order: bool) {
        if !in_order || self.receiving.has_early() {
            self.ack_now = true;
            self.quick_acks = QUICK_ACKS;
            return;
        }
        let unacked = self.rcv.nxt.since(self.rcv.acked);
        if unacked > self.rcv.seen_mss && self.window_gain() >= self.rcv.seen_mss {
            self.ack_now = true;
        } else if self.quick_acks > 0 && !self.ping_pong {
            self.quick_acks -= 1;
            self.ack_now = true;
        } else {
            self.ack_pending = true;
        }
    }
}
