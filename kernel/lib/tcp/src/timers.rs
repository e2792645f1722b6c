//! What time does to a connection.

use crate::segment::{Payload, Segment};
use crate::seq::Seq;
use crate::tcb::{Failure, FinState, State, Tcb};

/// How often an abandoned connection sends again (Linux: `tcp_orphan_retries`).
const ORPHAN_RETRIES: u32 = 8;

impl<P: Payload> Tcb<P> {
    /// Does what is due at `now_ns`, and hands out what is to be sent.
    pub fn on_timer(&mut self, now_ns: u64, emit: &mut impl FnMut(Segment<P>)) {
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now_ns);
        if due(self.deadlines.end) {
            self.end();
            return;
        }
        if due(self.deadlines.ack) {
            self.deadlines.ack = None;
            self.ack_now |= self.ack_pending;
            // Waiting for data was in vain.
            self.ping_pong = false;
        }
        if due(self.deadlines.resend) {
            self.deadlines.resend = None;
            self.on_resend(now_ns, emit);
        }
        if due(self.deadlines.keepalive) {
            self.on_keepalive(now_ns, emit);
        }
        self.output(now_ns, emit);
    }

    fn retries_allowed(&self) -> u32 {
        match self.state {
            State::SynSent => self.config.syn_retries,
            State::SynReceived => self.config.synack_retries,
            _ if self.is_orphan => ORPHAN_RETRIES.min(self.config.data_retries),
            _ => self.config.data_retries,
        }
    }

    fn is_out_of_time(&self, now_ns: u64) -> bool {
        let limit = self.config.user_timeout_ns;
        if limit > 0 && !self.is_orphan {
            return self.unanswered_ns.is_some_and(|at| now_ns.saturating_sub(at) >= limit);
        }
        self.retries >= self.retries_allowed()
    }

    fn on_resend(&mut self, now_ns: u64, emit: &mut impl FnMut(Segment<P>)) {
        let nothing_out = self.snd.una == self.snd.nxt;
        if nothing_out && !self.snd.nxt.before(self.queue_end()) {
            return;
        }
        // A closed window that is still acknowledged is probed for ever, but for a user who is gone.
        let is_probe = nothing_out && !matches!(self.state, State::SynSent | State::SynReceived);
        let answers = is_probe && self.last_heard_ns >= self.last_probe_ns() && !self.is_orphan;
        if !answers && self.is_out_of_time(now_ns) {
            self.fail(Failure::TimedOut);
            return;
        }
        self.retries += 1;
        self.rtt.back_off();
        if is_probe {
            self.send_probe(now_ns, emit);
        } else {
            self.resend_all(now_ns);
        }
        self.deadlines.resend = Some(now_ns + self.rtt.rto_ns());
    }

    /// When the last probe went out, about.
    fn last_probe_ns(&self) -> u64 {
        self.unanswered_ns.unwrap_or(0)
    }

    /// All that is under way is taken for lost.
    fn resend_all(&mut self, now_ns: u64) {
        self.timed = None;
        if matches!(self.state, State::SynSent | State::SynReceived) {
            self.snd.nxt = self.snd.iss;
            return;
        }
        let flight = u64::from(self.snd.nxt.since(self.snd.una));
        if self.retries == 1 {
            self.congestion.on_timeout(flight);
        }
        // The other side may have thrown away what it had out of order.
        self.board.clear();
        self.snd.duplicates = 0;
        self.snd.again = (self.snd.una, self.snd.nxt);
        self.snd.recover = Some(self.snd.nxt);
        let _ = now_ns;
    }

    fn on_keepalive(&mut self, now_ns: u64, emit: &mut impl FnMut(Segment<P>)) {
        self.deadlines.keepalive = None;
        if !self.config.keepalive || matches!(self.state, State::TimeWait | State::Closed) {
            return;
        }
        let idle = now_ns.saturating_sub(self.last_heard_ns);
        if self.snd.una != self.snd.nxt {
            self.deadlines.keepalive = Some(now_ns + self.config.keepalive_idle_ns);
            return;
        }
        if idle < self.config.keepalive_idle_ns {
            self.deadlines.keepalive = Some(self.last_heard_ns + self.config.keepalive_idle_ns);
            return;
        }
        let limit = self.config.user_timeout_ns;
        let is_over = if limit > 0 {
            idle >= limit && self.probes > 0
        } else {
            self.probes >= self.config.keepalive_probes
        };
        if is_over {
            self.fail(Failure::TimedOut);
            return;
        }
        self.probes += 1;
        self.send_probe(now_ns, emit);
        self.deadlines.keepalive = Some(now_ns + self.config.keepalive_interval_ns);
    }

    /// Switches keepalive, also while connected.
    pub fn set_keepalive(&mut self, is_on: bool, now_ns: u64) {
        self.config.keepalive = is_on;
        self.restart_keepalive(now_ns);
    }

    /// The times of keepalive have changed.
    pub fn restart_keepalive(&mut self, now_ns: u64) {
        let stands =
            !matches!(self.state, State::SynSent | State::SynReceived | State::TimeWait | State::Closed);
        self.probes = 0;
        self.deadlines.keepalive = (self.config.keepalive && stands)
            .then(|| (self.last_heard_ns + self.config.keepalive_idle_ns).max(now_ns));
    }

    /// Asserts what must hold between calls; for tests.
    pub fn check_invariants(&self) {
        assert!(!self.snd.una.after(self.snd.nxt), "I1");
        let fin = u32::from(self.snd.fin == FinState::Sent && self.snd.una != self.snd.nxt);
        if !matches!(self.state, State::Closed | State::SynSent | State::SynReceived) {
            assert!(!self.snd.nxt.after(self.queue_end() + fin.max(1)), "I2");
        }
        let (from, to): (Seq, Seq) = self.snd.again;
        assert!(!to.after(self.snd.nxt) && !from.after(to.max(from)), "I3");
        assert!(self.board.highest().is_none_or(|end| !end.after(self.snd.nxt)), "I4");
        if self.board.is_empty() {
            assert_eq!(self.board.bytes(), 0, "I4");
        }
    }
}
