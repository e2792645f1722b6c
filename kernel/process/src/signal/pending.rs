//! A queue of pending signals: one for each thread, one shared by each process.
//!
//! # Invariants
//!
//! - P1: `set` holds exactly the numbers of the entries of `queue`, plus those that were raised without room for an
//!   entry (`SIGKILL`, and kernel signals under memory shortage).
//! - P2: a standard signal (1 to 31) is in the queue at most once, but for those of POSIX timers: once for each timer.
//!
//! Sources: signal(7) "Queueing and delivery semantics for standard signals".

use alloc::collections::VecDeque;

use abi::signal::{SI_USER, SIGBUS, SIGFPE, SIGILL, SIGRTMIN, SIGSEGV, SIGSYS, SIGTRAP, SigInfo, SigSet};
use limits::Charge;

use crate::timer::Expiry;

/// Signals that report what the thread itself just did; they are delivered before all others.
const SYNCHRONOUS: SigSet = SigSet::of(SIGSEGV)
    .union(SigSet::of(SIGBUS))
    .union(SigSet::of(SIGILL))
    .union(SigSet::of(SIGTRAP))
    .union(SigSet::of(SIGFPE))
    .union(SigSet::of(SIGSYS));

/// An entry of the queue.
#[derive(Debug)]
struct Queued {
    info: SigInfo,
    /// The expiry of a POSIX timer that it tells of.
    expiry: Option<Expiry>,
    /// `None` for entries that the limit does not count (timers, forced signals).
    _charge: Option<Charge>,
}

/// A signal that was taken from a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) info: SigInfo,
    /// The expiry of a POSIX timer that it tells of.
    pub(crate) expiry: Option<Expiry>,
}

/// A queue of pending signals.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    set: SigSet,
    queue: VecDeque<Queued>,
}

impl Pending {
    /// Nothing pending; allocates nothing.
    pub(crate) const fn new() -> Self {
        Self { set: SigSet::EMPTY, queue: VecDeque::new() }
    }

    /// The pending numbers.
    pub(crate) fn set(&self) -> SigSet {
        self.set
    }

    /// Whether another instance of `sig` would be dropped: standard signals do not queue.
    pub(crate) fn is_duplicate(&self, sig: u32) -> bool {
        sig < SIGRTMIN && self.set.has(sig)
    }

    /// Adds `info`; false when there was no memory for it.
    #[must_use]
    #[inline]
    pub(crate) fn push(&mut self, info: SigInfo, charge: Option<Charge>) -> bool {
        self.push_entry(Queued { info, expiry: None, _charge: charge })
    }

    /// Adds `entry`; false when there was no memory for it.
    #[inline]
    fn push_entry(&mut self, entry: Queued) -> bool {
        if self.queue.try_reserve(1).is_err() {
            return false;
        }
        let sig = entry.info.signo as u32;
        self.queue.push_back(entry);
        self.raise(sig);
        true
    }

    /// Adds `expiry` of a timer, whose signal is `info`, in the place of one that waits already. Without memory for it the
    /// signal comes without details, and the timer goes on when it is set again.
    pub(crate) fn push_timer(&mut self, info: SigInfo, expiry: Expiry) {
        let is_same = |entry: &&mut Queued| entry.expiry.is_some_and(|other| other.id == expiry.id);
        let sig = info.signo as u32;
        if let Some(waiting) = self.queue.iter_mut().find(is_same) {
            (waiting.info, waiting.expiry) = (info, Some(expiry));
        } else if !self.push_entry(Queued { info, expiry: Some(expiry), _charge: None }) {
            self.raise(sig);
        }
    }

    /// Marks `sig` as pending without details.
    pub(crate) fn raise(&mut self, sig: u32) {
        self.set = self.set.union(SigSet::of(sig));
    }

    /// The next signal that `blocked` lets through: synchronous ones first, then by number.
    pub(crate) fn next(&self, blocked: SigSet) -> Option<u32> {
        let open = self.set.minus(blocked);
        open.intersection(SYNCHRONOUS).first().or_else(|| open.first())
    }

    /// Takes the oldest instance of `sig`, which is pending.
    pub(crate) fn take(&mut self, sig: u32) -> Taken {
        let is_sig = |entry: &Queued| entry.info.signo == sig as i32;
        let Some(idx) = self.queue.iter().position(is_sig) else {
            self.set = self.set.minus(SigSet::of(sig));
            // Raised without details; Linux reports such a signal as sent by nobody.
            return Taken { info: SigInfo::new(sig, SI_USER), expiry: None };
        };
        let taken = self.queue.remove(idx);
        if !self.queue.iter().skip(idx).any(is_sig) {
            self.set = self.set.minus(SigSet::of(sig));
        }
        Taken {
            info: taken.as_ref().map_or_else(|| SigInfo::new(sig, SI_USER), |entry| entry.info),
            expiry: taken.and_then(|entry| entry.expiry),
        }
    }

    /// The entry at place `at` of the queue.
    pub(crate) fn entry(&self, at: usize) -> Option<SigInfo> {
        self.queue.get(at).map(|entry| entry.info)
    }

    /// Drops all instances of the signals in `which`.
    pub(crate) fn flush(&mut self, which: SigSet) {
        if self.set.intersection(which).is_empty() {
            return;
        }
        self.queue.retain(|entry| !which.has(entry.info.signo as u32));
        self.set = self.set.minus(which);
    }

    /// Drops the expiries of the timer `id`.
    pub(crate) fn flush_timer(&mut self, sig: u32, id: u32) {
        let before = self.queue.len();
        self.queue.retain(|entry| entry.expiry.is_none_or(|expiry| expiry.id != id));
        if self.queue.len() != before && !self.queue.iter().any(|entry| entry.info.signo == sig as i32) {
            self.set = self.set.minus(SigSet::of(sig));
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;
    use alloc::vec::Vec;

    use super::*;
    use abi::signal::{SI_QUEUE, SIGHUP, SIGKILL, SIGTERM, SIGUSR1};
    use limits::{UserCounts, UserResource};

    fn charge(user: &Arc<UserCounts>) -> Option<Charge> {
        Charge::new(user, UserResource::Sigpending, 1)
    }

    fn info(sig: u32, value: u64) -> SigInfo {
        let mut info = SigInfo::new(sig, SI_QUEUE);
        info.fields[1] = value;
        info
    }

    #[test]
    fn faults_come_first_then_low_numbers() {
        let mut pending = Pending::new();
        for sig in [40, SIGTERM, SIGHUP, SIGSEGV] {
            assert!(pending.push(info(sig, 0), None));
        }
        let mut order = Vec::new();
        while let Some(sig) = pending.next(SigSet::of(SIGHUP)) {
            order.push(sig);
            pending.take(sig);
        }
        assert_eq!(order, [SIGSEGV, SIGTERM, 40]);
        assert_eq!(pending.set(), SigSet::of(SIGHUP));
    }

    #[test]
    fn realtime_signals_queue_in_order() {
        let mut pending = Pending::new();
        for value in 1..=3 {
            assert!(!pending.is_duplicate(35));
            assert!(pending.push(info(35, value), None));
        }
        for value in 1..=3 {
            assert_eq!(pending.next(SigSet::EMPTY), Some(35));
            assert_eq!(pending.take(35).info.fields[1], value);
        }
        assert_eq!(pending.next(SigSet::EMPTY), None);
        assert!(pending.push(info(SIGUSR1, 0), None));
        assert!(pending.is_duplicate(SIGUSR1));
    }

    #[test]
    fn a_signal_without_entry_is_still_delivered() {
        let mut pending = Pending::new();
        pending.raise(SIGKILL);
        assert_eq!(pending.next(SigSet::EMPTY), Some(SIGKILL));
        assert_eq!(pending.take(SIGKILL).info.signo, SIGKILL as i32);
        assert!(pending.set().is_empty());
    }

    #[test]
    fn flushing_drops_entries_and_charges() {
        let user = Arc::new(UserCounts::new(1));
        let mut pending = Pending::new();
        assert!(pending.push(info(SIGTERM, 0), charge(&user)));
        assert!(charge(&user).is_none());
        pending.flush(SigSet::of(SIGTERM));
        assert!(pending.set().is_empty() && charge(&user).is_some());
    }
}
