//! Fault injection: allocations of pages that fail for a thread that asked for it, or for all.
//!
//! ```text
//! /proc/PID/fail-nth   n: the nth allocation from now on fails, once; reads as what is left, 0 once it failed
//! fail_page_alloc=     interval,probability,space,times at boot: each interval-th allocation of user threads may fail,
//!                      with that many percent, as often as that (-1: always); the first `space` bytes do not
//! ```
//!
//! Source: Documentation/fault-injection/fault-injection.rst.

use core::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use hal::PAGE_SIZE;
use hal::frame::inject;

use crate::Task;
use crate::try_current;

/// `fail_page_alloc=`.
struct Attr {
    interval: AtomicU64,
    probability: AtomicU64,
    space: AtomicI64,
    times: AtomicI64,
    /// Allocations so far.
    count: AtomicU64,
}

static ATTR: Attr = Attr {
    interval: AtomicU64::new(1),
    probability: AtomicU64::new(0),
    space: AtomicI64::new(0),
    times: AtomicI64::new(0),
    count: AtomicU64::new(0),
};

impl Attr {
    /// Whether this allocation fails.
    fn hits(&self) -> bool {
        let probability = self.probability.load(Relaxed);
        if probability == 0 {
            return false;
        }
        if self.space.load(Relaxed) > 0 {
            self.space.fetch_sub(PAGE_SIZE as i64, Relaxed);
            return false;
        }
        let nr = self.count.fetch_add(1, Relaxed) + 1;
        let is_due = nr.is_multiple_of(self.interval.load(Relaxed).max(1));
        if !is_due || (probability < 100 && random::next_u64() % 100 >= probability) {
            return false;
        }
        self.times
            .fetch_update(Relaxed, Relaxed, |times| (times != 0).then(|| times.saturating_sub(1).max(-1)))
            .is_ok()
    }
}

/// Takes the boot parameter `fail_page_alloc=`. `false`: not four numbers; nothing changes.
pub fn set_from_boot(text: &str) -> bool {
    let mut words = text.split(',').map(str::parse::<i64>);
    let mut next = || words.next().and_then(Result::ok);
    let (Some(interval), Some(probability), Some(space), Some(times)) = (next(), next(), next(), next())
    else {
        return false;
    };
    ATTR.interval.store(u64::try_from(interval).unwrap_or(1), Relaxed);
    ATTR.probability.store(u64::try_from(probability).unwrap_or(0), Relaxed);
    ATTR.space.store(space, Relaxed);
    ATTR.times.store(times, Relaxed);
    turn_on();
    true
}

fn turn_on() {
    inject::register(fails);
    inject::turn_on();
}

/// Whether the allocation that the caller is about to do fails. The kernel's own threads are spared.
fn fails() -> bool {
    try_current().is_some_and(|me| me.hits_nth() || ATTR.hits())
}

impl Task {
    /// Allocations up to the one that fails; 0: none, or it did.
    pub fn fail_nth(&self) -> u32 {
        self.fail_nth.load(Relaxed)
    }

    /// Has the `nth` allocation of pages from now on fail, once; 0: none.
    pub fn set_fail_nth(&self, nth: u32) {
        self.fail_nth.store(nth, Relaxed);
        if nth != 0 {
            turn_on();
        }
    }

    fn hits_nth(&self) -> bool {
        let left = self.fail_nth.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        left == Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_counts_and_ends() {
        let attr = Attr {
            interval: AtomicU64::new(3),
            probability: AtomicU64::new(100),
            space: AtomicI64::new(2 * PAGE_SIZE as i64),
            times: AtomicI64::new(2),
            count: AtomicU64::new(0),
        };
        let hits: std::vec::Vec<bool> = (0..12).map(|_| attr.hits()).collect();
        let at: std::vec::Vec<usize> = (0..12).filter(|&nr| hits[nr]).collect();
        assert_eq!(at, [4, 7]);
    }
}
