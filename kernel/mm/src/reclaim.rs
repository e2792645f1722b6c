//! Reclaim: memory is made free before it runs out.
//!
//! ```text
//!   free frames
//!   high ─────────  the thread stops here
//!   low  ─────────  an allocation for user space fails once, and wakes the thread
//!   min  ─────────  allocations for user space wait for the thread; the kernel's own go on
//!   0
//! ```
//!
//! hal's allocator knows one number, the reserve: `low` while the thread sleeps, `min` while it works. So nothing is
//! checked on the way of an allocation that succeeds; one that fails comes here ([`crate::oom::relieve`]).
//!
//! All work is done by one thread, which holds no lock that another thread could want: it only tries the locks of
//! address spaces. Who needs memory waits until the thread has freed some, or has given up.
//!
//! # Which pages go
//!
//! Two bits in a page's flags say how often it was used: `USED` once, `ACTIVE` again.
//!
//! ```text
//!   read, or accessed flag found by a walk: -> USED -> ACTIVE
//!   scan of the page cache:  ACTIVE -> USED (stays)     other clean pages that nothing else refers to go
//!   walk of page tables:     accessed flag set: noted, cleared      ACTIVE: cleared
//!                            else a file's entry goes, and the page may follow; a private page goes to swap,
//!                            or to nowhere when it is free to go (`MADV_FREE`) and was not written since
//!   scan of shared memory:   ACTIVE: cleared      others that no page table shows go to swap
//! ```
//!
//! `vm.swappiness` says how often private memory has the first turn, in 200 rounds, while there is room in swap; with 0 it goes
//! to swap only when there is nothing else. `vm.vfs_cache_pressure` says how soon caches of names follow that ([`oom`]'s hooks).
//!
//! There is no list of pages and no reverse map: mappings and address spaces are walked by a hand each, as a clock.
//! A page costs nothing when it is allocated, mapped or freed. LINUX: with the multi-generational LRU it walks page
//! tables, too, since that finds the accessed flags of neighbours cheaply.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use abi::{Errno, Result};
use sched::{Interruptible, WaitQueue};

use crate::counters::{self, Counter};
use crate::mapping::{swapped, writeback};
use crate::{oom, swap, walk};

/// `vm.min_free_kbytes`; 0 until the size of memory is known.
pub static MIN_FREE_KBYTES: AtomicU64 = AtomicU64::new(0);

/// `vm.swappiness`: of [`TURNS`] rounds those in which private memory goes first.
pub static SWAPPINESS: AtomicU32 = AtomicU32::new(60);
/// `vm.vfs_cache_pressure`, in percent of the usual.
pub static CACHE_PRESSURE: AtomicU32 = AtomicU32::new(100);
/// What [`SWAPPINESS`] is a part of, and its largest value.
pub const TURNS: u32 = 200;
/// Whether the thread's walks may write private pages to swap.
static MAY_SWAP: AtomicBool = AtomicBool::new(true);

/// Pages that the scans looked at (`pgscan_kswapd`).
pub static SCANNED: Counter = Counter::new();
/// Pages that went (`pgsteal_kswapd`).
pub static STOLEN: Counter = Counter::new();
/// Allocations that had to wait (`allocstall_normal`).
pub static STALLS: Counter = Counter::new();
/// Times the thread was woken (`pageoutrun`).
pub static RUNS: Counter = Counter::new();

static WAKE: WaitQueue = WaitQueue::new();
static PROGRESS: WaitQueue = WaitQueue::new();
static IS_STARTED: AtomicBool = AtomicBool::new(false);
static IS_WANTED: AtomicBool = AtomicBool::new(false);
/// Pages freed since boot.
static FREED: AtomicUsize = AtomicUsize::new(0);
/// Times the thread gave up.
static DEFEATS: AtomicUsize = AtomicUsize::new(0);

/// Rounds without a page freed after which the thread gives up: enough for each bit of a page's age.
const FRUITLESS: usize = 8;
/// Rounds that wait for write-back before they count as fruitless.
const PATIENCE: usize = 200;
/// How long a round waits for write-back.
const WRITE_NS: u64 = 10_000_000;
/// How long an allocation waits for the thread.
const STALL_NS: u64 = 10_000_000_000;
/// Pages that one round frees at most, before those who wait go on.
const BATCH: usize = 512;

/// Numbers of free pages; see the head of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Below: the kernel's own.
    pub min: usize,
    /// Below: the thread works.
    pub low: usize,
    /// The thread's aim.
    pub high: usize,
}

/// Linux's default of `vm.min_free_kbytes` on a machine with `total` pages: 4 times the square root of the KiB.
fn default_min_kbytes(total: usize) -> u64 {
    (total as u64 * 4 * 16).isqrt().clamp(128, 262_144)
}

/// The marks in force.
pub fn marks() -> Marks {
    let total = hal::frame::stats().total;
    let min = usize::try_from(MIN_FREE_KBYTES.load(Relaxed) / 4).unwrap_or(0).min(total / 4);
    Marks { min, low: min + min / 4, high: min + min / 2 }
}

/// Starts the thread.
pub fn start() -> Result<()> {
    let total = hal::frame::stats().total;
    MIN_FREE_KBYTES.store(default_min_kbytes(total), Relaxed);
    sched::spawn("kswapd0", thread).map_err(|_| Errno::ENOMEM)?;
    IS_STARTED.store(true, Relaxed);
    hal::frame::set_reserve(marks().low);
    Ok(())
}

/// Whether the thread runs; before that, memory is what there is.
pub(crate) fn is_started() -> bool {
    IS_STARTED.load(Relaxed)
}

/// Whether the current thread may use the reserve: it is the kernel's, and others may wait for it.
pub(crate) fn may_use_reserve() -> bool {
    is_started() && sched::current().machine().with_page_table(|table| table.is_none())
}

fn free() -> usize {
    hal::frame::stats().free
}

/// Has the thread make memory free if little is.
pub(crate) fn request() {
    IS_WANTED.store(true, Relaxed);
    WAKE.wake_all();
}

/// Has the thread make memory free, and waits until there is some. `false`: it gave up. May sleep.
pub(crate) fn wait_for_memory() -> bool {
    let before = (FREED.load(Relaxed), DEFEATS.load(Relaxed));
    hal::frame::set_reserve(marks().min);
    IS_WANTED.store(true, Relaxed);
    WAKE.wake_all();
    if hal::frame::nr_above_reserve() > 0 {
        return true;
    }
    STALLS.add(1);
    let until = hal::time::now_ns().saturating_add(STALL_NS);
    let news = || {
        let now = (FREED.load(Relaxed), DEFEATS.load(Relaxed));
        (now != before || hal::frame::nr_above_reserve() > 0).then_some(now.0 != before.0)
    };
    let freed = PROGRESS.wait_deadline(news, Some(until), Interruptible::Killable).unwrap_or(false);
    freed || hal::frame::nr_above_reserve() > 0
}

/// A part of a long round is done: who waits goes on if there is memory by now.
pub(crate) fn tell_progress() {
    PROGRESS.wake_all();
}

fn thread() {
    loop {
        WAKE.wait(|| IS_WANTED.swap(false, Relaxed).then_some(()));
        RUNS.add(1);
        balance();
        // Whoever comes below `low` next wakes the thread again; without success only who comes below `min`.
        let marks = marks();
        hal::frame::set_reserve(if free() > marks.low { marks.low } else { marks.min });
        PROGRESS.wake_all();
    }
}

/// Frees memory up to the high mark, or until nothing can be freed.
fn balance() {
    let (mut fruitless, mut waited) = (0, 0);
    while free() < marks().high {
        let freed = round(fruitless);
        if freed > 0 {
            STOLEN.add(freed as i64);
            FREED.fetch_add(freed, Relaxed);
            PROGRESS.wake_all();
            (fruitless, waited) = (0, 0);
        } else if counters::DIRTY.get() > 0 && waited < PATIENCE {
            waited += 1;
            writeback::write_all();
            // Killable or not: this thread is never killed.
            let until = hal::time::now_ns().saturating_add(WRITE_NS);
            let _ = sched::sleep_until(until, Interruptible::No);
        } else {
            fruitless += 1;
        }
        if fruitless == FRUITLESS {
            DEFEATS.fetch_add(1, Relaxed);
            return;
        }
    }
}

/// Pages of files that stay whatever happens: below that, programs would spend their time reading their code again.
fn file_floor() -> u64 {
    (hal::frame::stats().total / 64) as u64
}

/// Whether the thread's walks may write private pages to swap now.
pub(crate) fn may_swap() -> bool {
    MAY_SWAP.load(Relaxed)
}

/// Whether private memory has this turn: of [`TURNS`] turns in a row `swappiness` are its own, evenly spread. `credit` is kept
/// from turn to turn.
fn is_private_first(credit: &AtomicU32, swappiness: u32) -> bool {
    let sum = credit.load(Relaxed) + swappiness.min(TURNS);
    credit.store(sum % TURNS, Relaxed);
    sum >= TURNS
}

/// The number of fruitless rounds after which the caches of names are asked, with `vm.vfs_cache_pressure` at `percent`: half of
/// what there is by default.
fn round_of_caches(percent: u32) -> usize {
    (FRUITLESS / 2 * 100 / (percent as usize).max(1)).min(FRUITLESS - 1)
}

/// One attempt; how many pages became free. `fruitless`: how many before freed none.
fn round(fruitless: usize) -> usize {
    static CREDIT: AtomicU32 = AtomicU32::new(0);
    // No progress: faults may bring as much again at once.
    swap::shrink_cache();
    let before = free();
    let mut freed = 0;
    let files = || counters::CACHED.get().saturating_sub(counters::SHMEM.get());
    let may_shrink = files() > file_floor();
    let swappiness = SWAPPINESS.load(Relaxed);
    MAY_SWAP.store(swappiness > 0 || !may_shrink, Relaxed);
    if swap::has_room() && is_private_first(&CREDIT, swappiness) {
        freed = walk::age_all();
    }
    if freed == 0 && may_shrink {
        freed = writeback::shrink(BATCH);
    }
    if freed == 0 {
        freed = walk::age_all();
        if may_shrink {
            freed += writeback::shrink(BATCH);
        }
        if may_swap() {
            freed += swapped::shrink(BATCH);
        }
    }
    if freed == 0 && !MAY_SWAP.swap(true, Relaxed) {
        // Nothing else can go; to wait for write-back first would hold up everybody.
        freed = walk::age_all() + swapped::shrink(BATCH);
    }
    MAY_SWAP.store(true, Relaxed);
    if freed == 0 && fruitless == round_of_caches(CACHE_PRESSURE.load(Relaxed)) {
        oom::reclaim(BATCH);
        freed = free().saturating_sub(before);
    }
    freed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_memory_has_its_share_of_turns() {
        for swappiness in [0, 1, 60, 100, 199, 200] {
            let credit = AtomicU32::new(0);
            let turns = (0..10 * TURNS).filter(|_| is_private_first(&credit, swappiness)).count();
            assert_eq!(turns, 10 * swappiness as usize);
        }
    }

    #[test]
    fn pressure_brings_the_caches_sooner() {
        assert_eq!([0, 50, 100, 200, 400, 1000, u32::MAX].map(round_of_caches), [7, 7, 4, 2, 1, 0, 0]);
    }

    #[test]
    fn the_lowest_mark_is_the_one_of_linux() {
        // 64 MiB, 1 GiB and 64 GiB, as /proc/sys/vm/min_free_kbytes shows.
        assert_eq!(default_min_kbytes(16384), 1024);
        assert_eq!(default_min_kbytes(262_144), 4096);
        assert_eq!(default_min_kbytes(16 << 20), 32768);
        assert_eq!(default_min_kbytes(1), 128);
    }
}
