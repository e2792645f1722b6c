//! Round-trip time and the retransmission timeout (RFC 6298).

/// Least timeout, as on Linux, in nanoseconds.
const MIN_RTO_NS: u64 = 200_000_000;
/// Longest timeout.
const MAX_RTO_NS: u64 = 120_000_000_000;
/// Timeout before anything was measured.
const INITIAL_RTO_NS: u64 = 1_000_000_000;

/// The estimate of one connection, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Rtt {
    srtt_ns: u64,
    var_ns: u64,
    min_ns: u64,
    backoff: u32,
}

impl Rtt {
    pub(crate) fn new() -> Self {
        Self { srtt_ns: 0, var_ns: 0, min_ns: u64::MAX, backoff: 0 }
    }

    /// Takes a measurement in, which also ends the backing off.
    pub(crate) fn sample(&mut self, rtt_ns: u64) {
        let rtt_ns = rtt_ns.max(1);
        self.backoff = 0;
        self.min_ns = self.min_ns.min(rtt_ns);
        if self.srtt_ns == 0 {
            (self.srtt_ns, self.var_ns) = (rtt_ns, rtt_ns / 2);
            return;
        }
        let off = self.srtt_ns.abs_diff(rtt_ns);
        self.var_ns = self.var_ns - self.var_ns / 4 + off / 4;
        self.srtt_ns = self.srtt_ns - self.srtt_ns / 8 + rtt_ns / 8;
    }

    /// Timeout of the moment.
    pub(crate) fn rto_ns(&self) -> u64 {
        let base =
            if self.srtt_ns == 0 { INITIAL_RTO_NS } else { self.srtt_ns + (4 * self.var_ns).max(MIN_RTO_NS) };
        (base << self.backoff.min(10)).min(MAX_RTO_NS)
    }

    /// Doubles the timeout until the next measurement.
    pub(crate) fn back_off(&mut self) {
        self.backoff = (self.backoff + 1).min(10);
    }

    /// Progress without a measurement: the timeout comes down in steps, since only doubled segments were answered
    /// (Karn's rule) and it may have been too short.
    pub(crate) fn ease_off(&mut self) {
        self.backoff /= 2;
    }

    pub(crate) fn end_backoff(&mut self) {
        self.backoff = 0;
    }

    /// How often it was doubled.
    pub(crate) fn backoff(&self) -> u32 {
        self.backoff
    }

    /// Smoothed time; 0 before the first measurement.
    pub fn srtt_ns(&self) -> u64 {
        self.srtt_ns
    }

    /// Mean deviation.
    pub fn var_ns(&self) -> u64 {
        self.var_ns
    }

    /// Shortest time seen.
    pub fn min_ns(&self) -> u64 {
        self.min_ns
    }
}
