//! Compaction in the background (`vm.compaction_proactiveness`): a thread that makes blocks before the next one needs them.
//!
//! What it goes by is how much of free memory is of no use for blocks, in percent. It begins above a high mark and ends below a
//! low one:
//!
//! ```text
//!   proactiveness    0      20      50     100
//!   low mark       never    80      50       5      but not below 5
//!   high mark      never    90      60      15      10 above the low one
//! ```
//!
//! It sleeps until somebody wanted a huge page and there was none, or the setting changes: a machine where nobody wants huge
//! pages has no timer for this. Where blocks could not be made, it rests for a while ([`REST_NS`]).
//!
//! LINUX: it looks every half a second, whether anybody wants huge pages or not.
//!
//! Source: Documentation/admin-guide/sysctl/vm.rst, "compaction_proactiveness".

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::{Errno, Result};
use hal::frame::HUGE_ORDER;
use sched::{Interruptible, WaitQueue};

use super::{FRUITLESS, ONE, pass};
use crate::counters::Counter;

/// Times that the thread began to make blocks (`compact_daemon_wake`).
pub static WAKES: Counter = Counter::new();

static PROACTIVENESS: AtomicU32 = AtomicU32::new(20);
static WAKE: WaitQueue = WaitQueue::new();
/// Counts changes of the setting, each of which ends a rest.
static CHANGES: AtomicU64 = AtomicU64::new(0);
/// Whether a huge page was wanted, and there was none.
static IS_SHORT: AtomicBool = AtomicBool::new(false);

/// The least time between two looks.
const PAUSE_NS: u64 = 500_000_000;
/// Passes after which it pauses, though there is more to do: what it makes may be split at once.
const MOST_PASSES: usize = 64;
/// How long the thread leaves memory alone of which it could make no blocks.
const REST_NS: u64 = 64 * PAUSE_NS;

/// `vm.compaction_proactiveness`.
pub fn proactiveness() -> u32 {
    PROACTIVENESS.load(Relaxed)
}

/// Sets it, and has the thread look. `EINVAL`: above 100.
pub fn set_proactiveness(percent: u32) -> Result<()> {
    if percent > 100 {
        return Err(Errno::EINVAL);
    }
    PROACTIVENESS.store(percent, Relaxed);
    CHANGES.fetch_add(1, Relaxed);
    WAKE.wake_all();
    Ok(())
}

/// Tells that a huge page was wanted, and there was none. Does not sleep.
#[cold]
pub(crate) fn note_shortage() {
    if !IS_SHORT.swap(true, Relaxed) {
        WAKE.wake_all();
    }
}

/// Starts the thread. `ENOMEM`.
pub fn start() -> Result<()> {
    sched::spawn("kcompactd0", thread).map(drop).map_err(|_| Errno::ENOMEM)
}

fn thread() {
    let mut seen = 0;
    loop {
        WAKE.wait(|| (IS_SHORT.swap(false, Relaxed) || CHANGES.load(Relaxed) != seen).then_some(()));
        // Read before the work: a change during that, or during the rest, is one for the next look.
        seen = CHANGES.load(Relaxed);
        let rest_ns = if work() { PAUSE_NS } else { REST_NS };
        let until = hal::time::now_ns().saturating_add(rest_ns);
        // Ends when the time is over, too.
        let has_changed = || (CHANGES.load(Relaxed) != seen).then_some(());
        let _ = WAKE.wait_deadline(has_changed, Some(until), Interruptible::No);
    }
}

/// Where to end and where to begin; `None`: never.
fn marks(proactiveness: u32) -> Option<(u64, u64)> {
    let low = u64::from(100_u32.saturating_sub(proactiveness)).max(5);
    (proactiveness > 0).then_some((low, (low + 10).min(100)))
}

/// How much of free memory is of no use for blocks, in percent.
fn unusable(runs: &[usize]) -> u64 {
    let frames = |from: usize| -> u64 {
        runs.iter().enumerate().skip(from).map(|(order, nr)| (*nr as u64) << order).sum()
    };
    let (all, usable) = (frames(0), frames(HUGE_ORDER as usize));
    ((all - usable) * 100).checked_div(all).unwrap_or(0)
}

/// Makes blocks where there are too few. `false`: no more could be made.
fn work() -> bool {
    let score = || {
        hal::frame::gather();
        unusable(&hal::frame::free_runs())
    };
    let Some((low, _)) = marks(proactiveness()).filter(|(_, high)| score() > *high) else { return true };
    WAKES.add(1);
    let one_pass = || {
        let done = {
            let mut skips = ONE.lock();
            skips.age();
            pass(&mut skips)
        };
        sched::yield_now();
        done.map_or(0, |done| done.made)
    };
    make_blocks(|| score() > low, one_pass)
}

/// Calls `pass`, which gives how many blocks it made, as long as there are too few, or it is time for a pause. `false`: no
/// more could be made.
fn make_blocks(mut is_short: impl FnMut() -> bool, mut pass: impl FnMut() -> usize) -> bool {
    let mut fruitless = 0;
    for _ in 0..MOST_PASSES {
        if !is_short() {
            break;
        }
        fruitless = if pass() > 0 { 0 } else { fruitless + 1 };
        if fruitless == FRUITLESS {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_follow_the_setting() {
        assert_eq!(
            [0, 20, 50, 90, 100].map(marks),
            [None, Some((80, 90)), Some((50, 60)), Some((10, 20)), Some((5, 15))]
        );
        assert_eq!(marks(1), Some((99, 100)));
        assert_eq!(set_proactiveness(101), Err(Errno::EINVAL));
        assert_eq!(proactiveness(), 20);
    }

    #[test]
    fn passes_end() {
        let count = |made: fn(usize) -> usize, wanted: usize| {
            let (mut passes, mut left) = (0, wanted);
            let left = core::cell::Cell::from_mut(&mut left);
            let pass = || {
                passes += 1;
                left.set(left.get().saturating_sub(made(passes)));
                made(passes)
            };
            (make_blocks(|| left.get() > 0, pass), passes)
        };
        assert_eq!(count(|_| 2, 10), (true, 5));
        assert_eq!(count(|_| 0, 10), (false, FRUITLESS));
        assert_eq!(count(|n| usize::from(n < 8), 10), (false, 7 + FRUITLESS));
        assert_eq!(count(|_| 1, usize::MAX), (true, MOST_PASSES), "somebody splits each");
    }

    #[test]
    fn what_is_in_smaller_runs_is_of_no_use() {
        let mut runs = [0; 11];
        assert_eq!(unusable(&runs), 0, "nothing is free");
        runs[0] = 512;
        assert_eq!(unusable(&runs), 100);
        runs[9] = 1;
        assert_eq!(unusable(&runs), 50);
        runs[10] = 3;
        assert_eq!(unusable(&runs), 12);
        runs[0] = 0;
        assert_eq!(unusable(&runs), 0);
    }
}
