//! Scheduling policies and the weights of nice values.

use core::sync::atomic::{AtomicU64, Ordering};

/// How a thread competes for a CPU (sched(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Policy {
    /// SCHED_OTHER: a fair share by nice value.
    #[default]
    Normal = 0,
    /// SCHED_FIFO: above all fair threads, until it blocks or yields.
    Fifo = 1,
    /// SCHED_RR: as FIFO, but threads of one priority take turns.
    RoundRobin = 2,
    /// SCHED_BATCH: fair, but never preempts at wake-up.
    Batch = 3,
    /// SCHED_IDLE: fair with the smallest weight.
    Idle = 5,
}

impl Policy {
    /// The policy with the number `n` of sched_setscheduler(2).
    #[inline]
    pub const fn from_number(n: u32) -> Option<Policy> {
        Some(match n {
            0 => Policy::Normal,
            1 => Policy::Fifo,
            2 => Policy::RoundRobin,
            3 => Policy::Batch,
            5 => Policy::Idle,
            _ => return None,
        })
    }

    /// FIFO or RR?
    #[inline]
    pub const fn is_realtime(self) -> bool {
        matches!(self, Policy::Fifo | Policy::RoundRobin)
    }
}

/// What decides when and how long a thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The policy.
    pub policy: Policy,
    /// -20 (much) to 19 (little), for fair policies.
    pub nice: i8,
    /// 1 to 99 (highest) for FIFO and RR, else 0.
    pub priority: u8,
    /// A new thread of this one starts with ordinary attributes instead of these (`SCHED_RESET_ON_FORK`).
    pub reset_on_fork: bool,
    /// How long a fair thread runs before others of the same standing do.
    pub slice_ns: u32,
}

impl Attributes {
    /// SCHED_OTHER at nice 0.
    pub const NORMAL: Attributes = Attributes {
        policy: Policy::Normal,
        nice: 0,
        priority: 0,
        reset_on_fork: false,
        slice_ns: DEFAULT_SLICE_NS,
    };

    /// What a new thread of one with these attributes gets.
    pub const fn inherited(self) -> Attributes {
        if !self.reset_on_fork {
            return self;
        }
        let policy = if self.policy.is_realtime() { Policy::Normal } else { self.policy };
        let nice = if self.policy.is_realtime() || self.nice < 0 { 0 } else { self.nice };
        Attributes { policy, nice, priority: 0, reset_on_fork: false, slice_ns: self.slice_ns }
    }

    /// The weight in the fair class.
    pub const fn weight(self) -> u32 {
        match self.policy {
            Policy::Idle => IDLE_WEIGHT,
            _ => nice_weight(self.nice),
        }
    }
}

/// A round-robin thread's turn unless somebody sets another (Linux: `RR_TIMESLICE`).
const DEFAULT_TURN_NS: u64 = 100_000_000;
static TURN_NS: AtomicU64 = AtomicU64::new(DEFAULT_TURN_NS);

/// A round-robin thread's turn in nanoseconds (`kernel.sched_rr_timeslice_ms`).
#[inline]
pub fn turn_ns() -> u64 {
    TURN_NS.load(Ordering::Relaxed)
}

/// Sets a round-robin thread's turn in milliseconds; not above 0: the default.
pub fn set_turn_ms(ms: i32) {
    let ns = u64::try_from(ms).unwrap_or(0).saturating_mul(1_000_000);
    TURN_NS.store(if ns == 0 { DEFAULT_TURN_NS } else { ns }, Ordering::Relaxed);
}

/// A fair thread's slice unless it asked for another (Linux: `sysctl_sched_base_slice`).
pub const DEFAULT_SLICE_NS: u32 = 3_000_000;
/// The shortest and longest slices that a thread may ask for (sched_setattr(2)).
pub const SLICE_RANGE_NS: core::ops::RangeInclusive<u32> = 100_000..=100_000_000;

/// The weight of nice 0.
pub const NICE_0_WEIGHT: u32 = 1024;
/// The weight of SCHED_IDLE: a fifth of nice 19's.
const IDLE_WEIGHT: u32 = 3;

const WEIGHTS: [u32; 40] = weights();

/// One step of nice is a factor of 1.25, so that it moves about 10% of a CPU between two threads.
const fn weights() -> [u32; 40] {
    let mut table = [0; 40];
    let mut i = 0;
    while i < 40 {
        let nice = i as i32 - 20;
        // Fixed point with 16 fractional bits.
        let mut w: u64 = (NICE_0_WEIGHT as u64) << 16;
        let mut n = 0;
        while n < nice.abs() {
            w = if nice < 0 { w * 5 / 4 } else { w * 4 / 5 };
            n += 1;
        }
        table[i] = ((w + (1 << 15)) >> 16) as u32;
        i += 1;
    }
    table
}

/// The weight of a nice value; values beyond -20 and 19 count as these.
pub const fn nice_weight(nice: i8) -> u32 {
    let idx = nice as i32 + 20;
    let idx = if idx < 0 {
        0
    } else if idx > 39 {
        39
    } else {
        idx
    };
    WEIGHTS[idx as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_of_a_resetting_thread_are_ordinary() {
        let fifo =
            Attributes { policy: Policy::Fifo, priority: 5, reset_on_fork: true, ..Attributes::NORMAL };
        assert_eq!(fifo.inherited(), Attributes::NORMAL);
        let eager = Attributes { nice: -3, ..fifo };
        assert_eq!(Attributes { policy: Policy::Batch, priority: 0, ..eager }.inherited().nice, 0);
        let kept = Attributes { reset_on_fork: false, ..fifo };
        assert_eq!(kept.inherited(), kept);
    }

    #[test]
    fn a_step_of_nice_is_a_quarter() {
        assert_eq!(nice_weight(0), 1024);
        for nice in -20..19 {
            let ratio = f64::from(nice_weight(nice)) / f64::from(nice_weight(nice + 1));
            assert!((1.15..1.36).contains(&ratio), "nice {nice}: {ratio}");
        }
    }
}
