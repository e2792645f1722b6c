//! The arithmetic of clocks, without hardware: counters to nanoseconds, counters that wrap, KVM's clock, and when two
//! clocks disagree too much. Tested on the hosted machine.

use core::sync::atomic::{AtomicU64, Ordering};

const NS_PER_S: u64 = 1_000_000_000;

/// Ticks of a counter as nanoseconds: `ns = ticks * mult >> shift`, with a product of 128 bits that never overflows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    pub(crate) mult: u32,
    pub(crate) shift: u32,
}

impl Scale {
    /// Ticks that are nanoseconds.
    pub(crate) const NANOSECONDS: Scale = Scale { mult: 1, shift: 0 };

    /// Of a counter with `numerator / denominator` nanoseconds a tick: the most precise multiplier of 32 bits.
    const fn of_ratio(numerator: u64, denominator: u64) -> Scale {
        let mut shift = 32;
        while shift > 0 && ((numerator as u128) << shift) / denominator as u128 > u32::MAX as u128 {
            shift -= 1;
        }
        Scale { mult: (((numerator as u128) << shift) / denominator as u128) as u32, shift }
    }

    /// Of a counter with `hz` ticks a second; less than a million counts as that.
    pub(crate) const fn of_hz(hz: u64) -> Scale {
        Self::of_ratio(NS_PER_S, if hz < 1_000_000 { 1_000_000 } else { hz })
    }

    /// Of a counter with a tick of `femtoseconds`, which are not 0.
    pub(crate) const fn of_period(femtoseconds: u64) -> Scale {
        Self::of_ratio(femtoseconds, 1_000_000)
    }

    /// This scale for a clock that gains `extra` nanoseconds a second, with 32 fractional bits; at most a tenth either way.
    pub(crate) fn adjusted(self, extra: i64) -> Scale {
        const SECOND: i128 = (NS_PER_S as i128) << 32;
        const LIMIT: i128 = SECOND / 8;
        let product = self.mult as i128 * (SECOND + (extra as i128).clamp(-LIMIT, LIMIT));
        let rounded = |product: i128| (product + SECOND / 2) / SECOND;
        let mult = rounded(product);
        if mult > u32::MAX as i128 && self.shift > 0 {
            return Scale { mult: rounded(product / 2) as u32, shift: self.shift - 1 };
        }
        Scale { mult: mult.clamp(1, u32::MAX as i128) as u32, shift: self.shift }
    }

    /// How many nanoseconds by this scale pass while `ns` pass by `other`, which is this one adjusted.
    pub(crate) fn unadjusted(self, other: Scale, ns: u64) -> u64 {
        let other_mult = (other.mult.max(1) as u128) << self.shift.saturating_sub(other.shift).min(32);
        (ns as u128 * self.mult as u128 / other_mult).min(u64::MAX as u128) as u64
    }

    /// The nanoseconds of `ticks`.
    #[inline]
    pub(crate) const fn ns(self, ticks: u64) -> u64 {
        ((ticks as u128 * self.mult as u128) >> self.shift) as u64
    }

    /// The least number of ticks that takes at least `ns`, at most `u64::MAX`.
    pub(crate) const fn ticks(self, ns: u64) -> u64 {
        let mult = if self.mult == 0 { 1 } else { self.mult as u128 };
        let ticks = ((ns as u128) << self.shift).div_ceil(mult);
        if ticks > u64::MAX as u128 { u64::MAX } else { ticks as u64 }
    }
}

/// A counter that wraps, made one of 64 bits that does not and never goes back, whichever CPU reads it.
///
/// Somebody must read it at least once in each half of its range.
#[derive(Debug)]
pub(crate) struct Extended(AtomicU64);

impl Extended {
    /// One that has not been read yet.
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Begins at the reading `raw`, before anybody else uses it.
    pub(crate) fn start(&self, raw: u64) {
        self.0.store(raw, Ordering::Relaxed);
    }

    /// What the reading `raw` of a counter with range `mask` means: `raw` was read by this CPU just now.
    pub(crate) fn extend(&self, raw: u64, mask: u64) -> u64 {
        let mut last = self.0.load(Ordering::Relaxed);
        loop {
            let step = raw.wrapping_sub(last) & mask;
            if step > mask / 2 {
                // Another CPU has read a later value in the meantime.
                return last;
            }
            let next = last.wrapping_add(step);
            match self.0.compare_exchange_weak(last, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return next,
                Err(newer) => last = newer,
            }
        }
    }
}

/// What KVM's clock tells a CPU (Linux, Documentation/virt/kvm/x86/msr.rst, `MSR_KVM_SYSTEM_TIME_NEW`): the time at a value
/// of the time-stamp counter, and the counter's rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PvTime {
    /// The counter when it was `system_ns`.
    pub(crate) tsc: u64,
    /// Nanoseconds since the machine was started.
    pub(crate) system_ns: u64,
    /// Nanoseconds a tick, once shifted, as a fraction of 2^32.
    pub(crate) mult: u32,
    /// By how much ticks are shifted first: to the left, or to the right when negative.
    pub(crate) shift: i8,
}

impl PvTime {
    /// The time when the counter is `tsc`.
    pub(crate) fn ns(self, tsc: u64) -> u64 {
        let ticks = u128::from(tsc.saturating_sub(self.tsc));
        let by = u32::from(self.shift.unsigned_abs()).min(63);
        let shifted = if self.shift < 0 { ticks >> by } else { ticks << by };
        // The host gives shifts by a few bits; a wrong one only makes a wrong time.
        self.system_ns.wrapping_add((shifted.wrapping_mul(u128::from(self.mult)) >> 32) as u64)
    }

    /// Ticks of the counter a second, unless the host has not said.
    pub(crate) fn tsc_hz(self) -> Option<u64> {
        let hz = (u128::from(NS_PER_S) << 32) / u128::from((self.mult != 0).then_some(self.mult)?);
        let by = u32::from(self.shift.unsigned_abs()).min(32);
        let hz = if self.shift < 0 { hz << by } else { hz >> by };
        u64::try_from(hz).ok()
    }
}

/// Whether a clock that counted `ns` cannot be right beside one that counted `reference_ns`, when each reading took at most
/// `uncertain_ns`. A rate measured at boot is good to some parts in a thousand, and no clock worth keeping is off by more
/// than one part in 64.
pub(crate) fn is_skewed(ns: u64, reference_ns: u64, uncertain_ns: u64) -> bool {
    let allowed = (reference_ns / 64).saturating_add(uncertain_ns.saturating_mul(2));
    ns.abs_diff(reference_ns) > allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_precise_and_never_early() {
        for hz in [1_000_000u64, 3_579_545, 14_318_180, 100_000_000, 2_599_999_000, 5_000_000_000] {
            let scale = Scale::of_hz(hz);
            for seconds in [1u64, 60, 86_400, 86_400 * 365] {
                let ns = scale.ns(hz * seconds);
                assert!(ns.abs_diff(seconds * NS_PER_S) <= 1 + seconds * 4, "{hz} Hz for {seconds} s: {ns}");
                assert!(scale.ns(scale.ticks(ns)) >= ns);
            }
        }
        assert_eq!(Scale::of_period(10_000_000), Scale::of_hz(100_000_000));
        assert_eq!(Scale::of_hz(0), Scale::of_hz(1_000_000));
        assert_eq!(Scale::NANOSECONDS.ns(7), 7);
        assert_eq!(Scale::of_hz(1_000_000).ticks(u64::MAX), u64::MAX / 1000 + 1);
    }

    #[test]
    fn an_adjusted_scale_gains_what_was_asked() {
        for hz in [1_000_000u64, 999_999_999, 1_000_000_000, 2_599_999_000, 4_294_967_295] {
            let scale = Scale::of_hz(hz);
            for ppm in [-100_000i64, -500, -1, 0, 1, 500, 100_000] {
                let adjusted = scale.adjusted((ppm * 1000) << 32);
                let (plain, changed) = (scale.ns(hz * 1000), adjusted.ns(hz * 1000));
                let gained = changed as i64 - plain as i64;
                assert!(
                    gained.abs_diff(ppm * 1_000_000) <= 1000,
                    "{hz} Hz, {ppm} ppm: {gained} ns in 1000 s"
                );
                assert!(scale.unadjusted(adjusted, changed).abs_diff(plain) <= 2);
            }
            assert_eq!(scale.adjusted(0), scale);
            assert!(scale.adjusted(i64::MAX).mult > scale.adjusted(i64::MIN).mult / 2);
        }
    }

    #[test]
    fn a_counter_that_wraps_goes_on() {
        let (counter, mask) = (Extended::new(), 0xff_ffff);
        let mut expected = 0xff_0000u64;
        counter.start(expected);
        for _ in 0..1000 {
            expected += 0x7f_0123;
            assert_eq!(counter.extend(expected & mask, mask), expected);
        }
        assert_eq!(
            counter.extend(expected.wrapping_sub(5) & mask, mask),
            expected,
            "a reading that came late"
        );
    }

    #[test]
    fn cpus_that_read_a_counter_see_it_go_forward_only() {
        let counter = Extended::new();
        let source = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut last = 0;
                    for _ in 0..20_000 {
                        let raw = source.fetch_add(12_345, Ordering::SeqCst) & 0xffff_ffff;
                        let now = counter.extend(raw, 0xffff_ffff);
                        assert!(now >= last, "{now} after {last}");
                        last = now;
                    }
                });
            }
        });
        assert!(counter.extend(source.load(Ordering::SeqCst) & 0xffff_ffff, 0xffff_ffff) >= 79_999 * 12_345);
    }

    #[test]
    fn the_clock_of_kvm() {
        // 2.5 GHz: 0.4 ns a tick.
        let mult = (0.4 * f64::from(u32::MAX)) as u32;
        let time = PvTime { tsc: 1000, system_ns: 5_000, mult, shift: 0 };
        assert!(time.ns(1000 + 2_500_000_000).abs_diff(1_000_005_000) < 10);
        assert_eq!(time.ns(10), 5_000, "a counter behind the host's");
        assert!(time.tsc_hz().unwrap().abs_diff(2_500_000_000) < 10);
        let halved = PvTime { mult: mult / 2, shift: 1, ..time };
        assert!(halved.ns(1000 + 2_500_000_000).abs_diff(1_000_005_000) < 10);
        assert!(halved.tsc_hz().unwrap().abs_diff(2_500_000_000) < 10);
        let slow = PvTime { mult: 0x8000_0000, shift: -1, ..time };
        assert_eq!(slow.ns(1000 + 4_000_000), 5_000 + 1_000_000);
        assert_eq!(slow.tsc_hz(), Some(4_000_000_000));
        assert_eq!(PvTime::default().tsc_hz(), None);
        for shift in [i8::MIN, -64, 64, i8::MAX] {
            let wild = PvTime { mult: u32::MAX, shift, ..time };
            let _ = (wild.ns(u64::MAX), wild.tsc_hz());
        }
    }

    #[test]
    fn clocks_that_disagree() {
        let second = NS_PER_S;
        assert!(!is_skewed(second, second, 0));
        assert!(!is_skewed(second + second / 100, second, 0));
        assert!(is_skewed(second + second / 32, second, 0));
        assert!(!is_skewed(second + second / 32, second, second / 64));
        assert!(is_skewed(0, second, 1000), "a counter that stands still");
        assert!(!is_skewed(u64::MAX, u64::MAX, u64::MAX));
    }
}
