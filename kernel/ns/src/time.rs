//! Time namespaces (time_namespaces(7)): offsets of the monotonic and boot-time clocks.
//!
//! ```text
//! clock inside = clock of the machine + offset
//! deadline on the machine's clock = deadline inside - offset
//! ```
//!
//! Offsets can be set until the first task enters; then they are fixed.
//!
//! Locks: one leaf lock for setting; reads are atomic.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

use abi::time::{NSEC_PER_SEC, clock};
use abi::{Errno, Result};
use hal::sync::{LazyLock, SpinLock};
use security::{NsId, NsKind, UserNs};

/// Largest time that a clock may show (Linux: `KTIME_SEC_MAX` halved), in seconds.
const MAX_SECONDS: i64 = i64::MAX / NSEC_PER_SEC as i64 / 2;

/// A time namespace.
pub struct TimeNs {
    id: NsId,
    monotonic_ns: AtomicI64,
    boottime_ns: AtomicI64,
    is_frozen: AtomicBool,
    change: SpinLock<()>,
}

static INITIAL: LazyLock<Arc<TimeNs>> =
    LazyLock::new(|| Arc::new(TimeNs::with(NsId::initial(NsKind::Time), true)));

/// A clock that has an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// CLOCK_MONOTONIC and its relatives.
    Monotonic,
    /// CLOCK_BOOTTIME.
    Boottime,
}

impl Clock {
    /// The one that clock `id` moves with, if it has offsets.
    pub fn of(id: i32) -> Option<Self> {
        match id {
            clock::MONOTONIC | clock::MONOTONIC_RAW | clock::MONOTONIC_COARSE => Some(Self::Monotonic),
            clock::BOOTTIME | clock::BOOTTIME_ALARM => Some(Self::Boottime),
            _ => None,
        }
    }
}

impl TimeNs {
    fn with(id: NsId, is_frozen: bool) -> Self {
        Self {
            id,
            monotonic_ns: AtomicI64::new(0),
            boottime_ns: AtomicI64::new(0),
            is_frozen: AtomicBool::new(is_frozen),
            change: SpinLock::new("ns.time", ()),
        }
    }

    /// The first one, whose offsets are 0.
    pub fn initial() -> &'static Arc<Self> {
        &INITIAL
    }

    /// A new one with the offsets of `self`. `ENOSPC`: too many.
    pub fn copy(&self, owner: &UserNs) -> Result<Arc<Self>> {
        let new = Self::with(NsId::new(NsKind::Time, owner)?, false);
        new.monotonic_ns.store(self.monotonic_ns.load(Relaxed), Relaxed);
        new.boottime_ns.store(self.boottime_ns.load(Relaxed), Relaxed);
        Ok(Arc::new(new))
    }

    /// Number and owner.
    pub fn id(&self) -> &NsId {
        &self.id
    }

    /// Whether it is the first.
    pub fn is_initial(&self) -> bool {
        self.id.ino() == INITIAL.id.ino()
    }

    /// The first task has entered: offsets stay as they are.
    pub fn freeze(&self) {
        let _locked = self.change.lock();
        self.is_frozen.store(true, Relaxed);
    }

    /// What clock `which` shows more than the machine's.
    pub fn offset_ns(&self, which: Clock) -> i64 {
        match which {
            Clock::Monotonic => self.monotonic_ns.load(Relaxed),
            Clock::Boottime => self.boottime_ns.load(Relaxed),
        }
    }

    /// Sets offsets, all or none. `EACCES`: a task is in it. `ERANGE`: a clock would be negative or too far.
    pub fn set_offsets(&self, changes: &[(Clock, i64, i64)]) -> Result<()> {
        let now_s = (hal::time::now_ns() / NSEC_PER_SEC) as i64;
        let mut wanted = [None; 2];
        for &(which, seconds, nanos) in changes {
            if !(-MAX_SECONDS..=MAX_SECONDS).contains(&seconds) || !(0..NSEC_PER_SEC as i64).contains(&nanos)
            {
                return Err(if (0..NSEC_PER_SEC as i64).contains(&nanos) {
                    Errno::ERANGE
                } else {
                    Errno::EINVAL
                });
            }
            if !(0..=MAX_SECONDS).contains(&(now_s + seconds)) {
                return Err(Errno::ERANGE);
            }
            wanted[which as usize] = Some(seconds * NSEC_PER_SEC as i64 + nanos);
        }
        let _locked = self.change.lock();
        if self.is_frozen.load(Relaxed) {
            return Err(Errno::EACCES);
        }
        if let Some(ns) = wanted[0] {
            self.monotonic_ns.store(ns, Relaxed);
        }
        if let Some(ns) = wanted[1] {
            self.boottime_ns.store(ns, Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_fixed_once_a_task_is_in() {
        let ns = TimeNs::initial().copy(&UserNs::INITIAL).unwrap();
        ns.set_offsets(&[(Clock::Monotonic, 10, 5), (Clock::Boottime, 20, 0)]).unwrap();
        assert_eq!(ns.offset_ns(Clock::Monotonic), 10_000_000_005);
        assert_eq!(ns.set_offsets(&[(Clock::Monotonic, -(1 << 40), 0)]), Err(Errno::ERANGE));
        assert_eq!(ns.set_offsets(&[(Clock::Monotonic, 0, -1)]), Err(Errno::EINVAL));
        ns.freeze();
        assert_eq!(ns.set_offsets(&[(Clock::Monotonic, 1, 0)]), Err(Errno::EACCES));
        assert_eq!(TimeNs::initial().set_offsets(&[]), Err(Errno::EACCES));
    }
}
