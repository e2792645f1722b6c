//! What /sys/kernel/mm/ksm says, and the advisor that sets how many pages are looked at.
//!
//! `run`, `max_page_sharing` and `merge_across_nodes` are checked against the state of merging, so they are with it
//! (`scan`).

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use abi::{Errno, Result};

/// `pages_to_scan`: how many pages are looked at between two sleeps.
pub static PAGES_TO_SCAN: AtomicU64 = AtomicU64::new(PAGES_DEFAULT);
/// `sleep_millisecs`.
pub static SLEEP_MILLISECS: AtomicU64 = AtomicU64::new(20);
/// `use_zero_pages`: pages of zeroes are merged with one that costs nothing.
pub static USE_ZERO_PAGES: AtomicBool = AtomicBool::new(false);
/// `smart_scan`: pages that were looked at in vain are left out for some rounds.
pub static SMART_SCAN: AtomicBool = AtomicBool::new(true);
/// `stable_node_chains_prune_millisecs`: how old the list of stable pages may be before those without readers go.
pub static PRUNE_MILLISECS: AtomicU64 = AtomicU64::new(2000);
/// `advisor_max_cpu`, in percent.
pub static ADVISOR_MAX_CPU: AtomicU64 = AtomicU64::new(70);
/// `advisor_min_pages_to_scan`.
pub static ADVISOR_MIN_PAGES: AtomicU64 = AtomicU64::new(500);
/// `advisor_max_pages_to_scan`.
pub static ADVISOR_MAX_PAGES: AtomicU64 = AtomicU64::new(30_000);
/// `advisor_target_scan_time`, in seconds.
pub static ADVISOR_TARGET_SECS: AtomicU64 = AtomicU64::new(200);

static IS_ADVISED: AtomicBool = AtomicBool::new(false);

const PAGES_DEFAULT: u64 = 100;

/// Whether the advisor sets `pages_to_scan` (`advisor_mode` is `scan-time`).
pub fn is_advised() -> bool {
    IS_ADVISED.load(Relaxed)
}

/// Turns the advisor on or off; `pages_to_scan` begins anew.
pub fn set_advised(on: bool) {
    if IS_ADVISED.swap(on, Relaxed) != on {
        let first = if on { ADVISOR_MIN_PAGES.load(Relaxed) } else { PAGES_DEFAULT };
        PAGES_TO_SCAN.store(first, Relaxed);
    }
}

/// Sets `pages_to_scan`. `EINVAL`: the advisor does.
pub fn set_pages_to_scan(nr: u64) -> Result<()> {
    if is_advised() {
        return Err(Errno::EINVAL);
    }
    PAGES_TO_SCAN.store(nr, Relaxed);
    Ok(())
}

/// What a round over all memory took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    /// From its begin to its end.
    pub took_ms: u64,
    /// Of that, at work.
    pub busy_ms: u64,
    /// Pages looked at.
    pub pages: u64,
}

/// Adapts `pages_to_scan` to how long a round took.
pub(super) fn advise(round: Round) {
    if is_advised() {
        let now = PAGES_TO_SCAN.load(Relaxed);
        PAGES_TO_SCAN.store(advised(now, round), Relaxed);
    }
}

/// The number of pages with which the next round takes the time wanted: a third of the way there, so that one odd round
/// changes little; no more than keeps the thread below its share of a CPU.
fn advised(now: u64, round: Round) -> u64 {
    let target_ms = ADVISOR_TARGET_SECS.load(Relaxed).saturating_mul(1000).max(1);
    let wanted = u128::from(now) * u128::from(round.took_ms.max(1)) / u128::from(target_ms);
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    let smooth = now - now / 3 + wanted / 3;
    let percent = ADVISOR_MAX_CPU.load(Relaxed).clamp(1, 99);
    let sleep_ms = SLEEP_MILLISECS.load(Relaxed).max(1);
    // With `n` pages a batch is at work for n * busy / pages, which is to be `percent` of that and the sleep.
    let affordable = (sleep_ms.saturating_mul(percent) / (100 - percent)).saturating_mul(round.pages.max(1))
        / round.busy_ms.max(1);
    let (least, most) = (ADVISOR_MIN_PAGES.load(Relaxed), ADVISOR_MAX_PAGES.load(Relaxed));
    smooth.min(affordable).min(most).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advisor_goes_towards_the_time_wanted() {
        let round = |took_ms, busy_ms| Round { took_ms, busy_ms, pages: 100_000 };
        // Twice as long as wanted: more, but not twice as many at once.
        let more = advised(3000, round(400_000, 1000));
        assert!((3001..6000).contains(&more), "{more}");
        assert_eq!(advised(3000, round(400_000_000, 100)), 30_000, "the largest number");
        assert_eq!(advised(600, round(1, 1)), 500, "the smallest");
        // 70% of a CPU at 1 ms a page and 20 ms of sleep are 46 pages.
        assert_eq!(advised(3000, round(400_000, 100_000)), 500);
        assert_eq!(advised(9000, round(400_000, 2000)), 2300);
    }
}
