//! Tests on the hosted machine: real faults, real copies, frames counted.

mod ahead;
mod failing;
mod moving;
mod paths;
mod probe;
mod races;
mod reclaim;
mod swap;
mod whole;

use std::sync::{Mutex, MutexGuard};

pub(super) use crate::selftest::{PAGE, TestFile, fixed, rw};

/// Frames are counted machine-wide, so one test at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Holds the machine for one test and checks at its end that every frame came back that was not withdrawn.
pub(super) struct Alone {
    free: i64,
    committed: u64,
    cached: u64,
    _one: MutexGuard<'static, ()>,
}

pub(super) fn alone() -> Alone {
    let one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    // The pages of zeroes stay for ever: make them first.
    crate::fault::zero_frame();
    crate::thp::zero_page();
    Alone {
        free: free_or_withdrawn(),
        committed: crate::counters::COMMITTED.get(),
        cached: crate::counters::CACHED.get(),
        _one: one,
    }
}

fn free_or_withdrawn() -> i64 {
    hal::frame::stats().free as i64 + crate::offline::WITHDRAWN.get() as i64
}

impl Drop for Alone {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(free_or_withdrawn(), self.free, "frames were lost");
            assert_eq!(crate::counters::COMMITTED.get(), self.committed, "commit charge was lost");
            assert_eq!(crate::counters::CACHED.get(), self.cached, "page-cache count");
        }
    }
}

#[test]
fn random_operations_agree_with_a_byte_per_page() {
    for seed in 1..30 {
        let _alone = alone();
        crate::selftest::random_operations(seed * 0x9e37_79b9_7f4a, 1500);
    }
}
