//! Congestion control: how much may be under way. NewReno (RFC 5681, 6582) and CUBIC (RFC 9438).

/// First window in segments (RFC 6928).
const INITIAL_WINDOW: u64 = 10;
/// Milliseconds of the clock below.
const MS_NS: u64 = 1_000_000;

/// Which algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Additive increase.
    Reno,
    /// A cubic function of the time since the last loss.
    Cubic,
}

/// The window of one connection, in bytes.
#[derive(Clone, Debug)]
pub struct Congestion {
    algorithm: Algorithm,
    mss: u64,
    cwnd: u64,
    ssthresh: u64,
    /// Bytes acknowledged that have not yet grown the window.
    credit: u64,
    /// Window before the last loss, in bytes.
    w_max: u64,
    /// When growth began, and how long the curve takes to reach `w_max`.
    epoch_ns: Option<u64>,
    k_ms: u64,
    /// What Reno would have reached since the epoch.
    w_reno: u64,
}

/// The whole part of the cube root.
fn cube_root(n: u64) -> u64 {
    let (mut low, mut high) = (0u64, 2_642_245u64);
    while low < high {
        let mid = (low + high).div_ceil(2);
        if mid * mid * mid <= n {
            low = mid;
        } else {
            high = mid - 1;
        }
    }
    low
}

impl Congestion {
    pub(crate) fn new(algorithm: Algorithm, mss: u32) -> Self {
        let mss = u64::from(mss.max(1));
        Self {
            algorithm,
            mss,
            cwnd: INITIAL_WINDOW * mss,
            ssthresh: u64::MAX,
            credit: 0,
            w_max: 0,
            epoch_ns: None,
            k_ms: 0,
            w_reno: 0,
        }
    }

    /// Bytes that may be under way.
    #[inline]
    pub fn window(&self) -> u64 {
        self.cwnd
    }

    /// Where slow start ends, in bytes.
    pub fn threshold(&self) -> u64 {
        self.ssthresh
    }

    /// Which algorithm is at work.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(crate) fn set_algorithm(&mut self, algorithm: Algorithm) {
        self.algorithm = algorithm;
        self.epoch_ns = None;
    }

    /// The segment size is known now; the first window is counted in it.
    pub(crate) fn set_mss(&mut self, mss: u32) {
        self.mss = u64::from(mss.max(1));
        self.cwnd = INITIAL_WINDOW * self.mss;
    }

    /// `bytes` were acknowledged while the window limited the sender.
    pub(crate) fn on_ack(&mut self, bytes: u64, now_ns: u64, srtt_ns: u64) {
        if self.cwnd < self.ssthresh {
            self.cwnd += bytes.min(2 * self.mss);
            return;
        }
        match self.algorithm {
            Algorithm::Reno => self.grow_towards(bytes, self.cwnd),
            Algorithm::Cubic => self.cubic(bytes, now_ns, srtt_ns),
        }
    }

    /// One segment more for each `per` bytes acknowledged.
    fn grow_towards(&mut self, bytes: u64, per: u64) {
        self.credit += bytes;
        if self.credit >= per.max(self.mss) {
            self.credit = 0;
            self.cwnd += self.mss;
        }
    }

    fn cubic(&mut self, bytes: u64, now_ns: u64, srtt_ns: u64) {
        let epoch = match self.epoch_ns {
            Some(epoch) => epoch,
            None => {
                self.epoch_ns = Some(now_ns);
                self.w_max = self.w_max.max(self.cwnd);
                self.w_reno = self.cwnd;
                // K = cbrt((w_max - cwnd) / C) seconds with C = 0.4 and windows in segments.
                let gap = (self.w_max - self.cwnd) / self.mss;
                self.k_ms = cube_root(gap.saturating_mul(2_500_000_000));
                now_ns
            }
        };
        let t_ms = (now_ns.saturating_sub(epoch) + srtt_ns) / MS_NS;
        let d = t_ms.abs_diff(self.k_ms).min(1_000_000);
        // 0.4 * d^3 with d in seconds, in bytes.
        let delta = (d * d * d / 2_500_000_000).saturating_mul(self.mss);
        let target = if t_ms < self.k_ms {
            self.w_max.saturating_sub(delta)
        } else {
            self.w_max.saturating_add(delta)
        };
        // Reno's rate with the same decrease: 3 (1 - b) / (1 + b) = 9/17 segments a round trip.
        self.w_reno += self.mss * bytes * 9 / 17 / self.cwnd.max(1);
        let target = target.max(self.w_reno).min(self.cwnd * 3 / 2);
        if target > self.cwnd {
            // The way to the target takes one round trip.
            self.grow_towards(bytes, self.cwnd * self.mss / (target - self.cwnd));
        }
    }

    /// Segments were lost; `in_flight` bytes were under way.
    pub(crate) fn on_loss(&mut self, in_flight: u64) {
        let base = self.cwnd.min(in_flight.max(2 * self.mss));
        let kept = match self.algorithm {
            Algorithm::Reno => base / 2,
            Algorithm::Cubic => base * 7 / 10,
        };
        // Fast convergence: leave room to newcomers.
        self.w_max = if self.cwnd < self.w_max { self.cwnd * 17 / 20 } else { self.cwnd };
        self.ssthresh = kept.max(2 * self.mss);
        self.cwnd = self.ssthresh;
        self.epoch_ns = None;
        self.credit = 0;
    }

    /// The timer ran out: begin again with one segment.
    pub(crate) fn on_timeout(&mut self, in_flight: u64) {
        self.on_loss(in_flight);
        self.cwnd = self.mss;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cube_roots() {
        for n in [0u64, 1, 7, 8, 26, 27, 1_000_000, u64::MAX] {
            let r = cube_root(n);
            assert!(r * r * r <= n && (r + 1).checked_pow(3).is_none_or(|c| c > n), "{n}");
        }
    }

    #[test]
    fn windows_shrink_on_loss_and_grow_back() {
        for algorithm in [Algorithm::Reno, Algorithm::Cubic] {
            let mut cc = Congestion::new(algorithm, 1000);
            let (mut now, rtt) = (0, 50 * MS_NS);
            for _ in 0..5 {
                let window = cc.window();
                for _ in 0..window / 1000 {
                    cc.on_ack(1000, now, rtt);
                }
                assert_eq!(cc.window(), 2 * window, "slow start doubles");
                now += rtt;
            }
            let before = cc.window();
            cc.on_loss(before);
            assert!(cc.window() < before && cc.window() >= before / 2);
            for _ in 0..2000 {
                cc.on_ack(1000, now, rtt);
                now += rtt / 100;
            }
            assert!(cc.window() > cc.threshold(), "{algorithm:?}");
            cc.on_timeout(before);
            assert_eq!(cc.window(), 1000);
        }
    }
}
