//! Commit accounting: how much memory has been promised (vm/overcommit-accounting).

use abi::{Errno, Result};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::counters::COMMITTED;
use crate::{hugetlb, oom, swap, sysctl};

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

/// What [`charge`] must leave alone for a process of `own` pages: memory in which an administrator can still log in,
/// and some in which the owner of the largest process can.
///
/// Sources: Documentation/admin-guide/sysctl/vm.rst (`admin_reserve_kbytes`, `user_reserve_kbytes`).
fn reserve(own: u64, is_admin: bool) -> u64 {
    let admin =
        if is_admin { 0 } else { sysctl::reserve_kbytes(&sysctl::ADMIN_RESERVE_KBYTES, 8 << 10) >> 2 };
    let user = sysctl::reserve_kbytes(&sysctl::USER_RESERVE_KBYTES, 128 << 10) >> 2;
    admin + user.min(own / 32)
}

/// Promises `pages` to a process that has `own` already. `ENOMEM`: refused by the mode in force.
pub(crate) fn charge(pages: u64, own: u64) -> Result<()> {
    let fits = match sysctl::OVERCOMMIT_MEMORY.load(Ordering::Relaxed) {
        1 => true,
        // Only what could never be had at all is refused.
        0 => pages <= total_pages().saturating_add(swap::TOTAL.get()),
        _ => {
            let allowed = limit().saturating_sub(reserve(own, oom::is_administrator()));
            COMMITTED.get().saturating_add(pages) <= allowed
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserves_shrink_with_the_process_and_not_for_administrators() {
        sysctl::ADMIN_RESERVE_KBYTES.store(4000, Ordering::Relaxed);
        sysctl::USER_RESERVE_KBYTES.store(8000, Ordering::Relaxed);
        assert_eq!(reserve(0, true), 0);
        assert_eq!(reserve(0, false), 1000);
        assert_eq!(reserve(320, true), 10);
        assert_eq!(reserve(1 << 30, true), 2000);
        assert_eq!(reserve(1 << 30, false), 3000);
    }
}
