//! Commit accounting: how much memory has been promised (vm/overcommit-accounting).

use abi::{Errno, Result};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::counters::COMMITTED;
use crate::{hugetlb, swap, sysctl};

/// Pages of the machine. Read once: a sum over all zones is too dear for each mmap.
fn total_pages() -> u64 {
    static TOTAL: AtomicU64 = AtomicU64::new(0);
    match TOTAL.load(Ordering::Relaxed) {
        0 => {
            let total = hal::frame::stats().total as u64;
            TOTAL.store(total, Ordering::Relaxed);
            total
        }
        total => total,
    }
}

/// The commit limit in pages (`CommitLimit`), which binds in mode 2 only.
pub fn limit() -> u64 {
    let kbytes = sysctl::OVERCOMMIT_KBYTES.load(Ordering::Relaxed);
    if kbytes != 0 {
        return (kbytes >> 2).saturating_add(swap::TOTAL.get());
    }
    let ratio = sysctl::OVERCOMMIT_RATIO.load(Ordering::Relaxed);
    (total_pages().saturating_sub(hugetlb::small_pages()).saturating_mul(ratio) / 100)
        .saturating_add(swap::TOTAL.get())
}

/// Promises `pages`. `ENOMEM`: refused by the mode in force.
pub(crate) fn charge(pages: u64) -> Result<()> {
    let fits = match sysctl::OVERCOMMIT_MEMORY.load(Ordering::Relaxed) {
        1 => true,
        // Only what could never be had at all is refused.
        0 => pages <= total_pages().saturating_add(swap::TOTAL.get()),
        _ => COMMITTED.get().saturating_add(pages) <= limit(),
    };
    if !fits {
        return Err(Errno::ENOMEM);
    }
    COMMITTED.add(pages as i64);
    Ok(())
}

/// Counts `pages` whose old promise is about to be taken back: the sum stays, so nothing is checked.
pub(crate) fn transfer(pages: u64) {
    COMMITTED.add(pages as i64);
}

/// Takes back a promise.
pub(crate) fn uncharge(pages: u64) {
    COMMITTED.add(-(pages as i64));
}
