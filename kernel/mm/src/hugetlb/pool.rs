//! The pool of huge pages: how many there are, which of them are free, and to whom they are promised.
//!
//! ```text
//!            nr
//!   ┌────────┴─────────────────────────┐
//!   [ in use ............ ][ free ..... ]        surplus of nr came beyond what was asked for, and go when not needed
//!                          [ resv ][    ]        resv of the free ones are promised; the rest is anybody's
//! ```
//!
//! The pool keeps its pages from the frame allocator: they are no free memory for anybody else, reclaim does not see them,
//! and a page whose last reference goes comes back here by itself ([`hal::frame::set_keeper`]), from any context.
//!
//! # Invariants
//!
//! - P1: `resv` is at most the number of free pages, but for pages that are on their way back ([`Pool::promise_returning`]).
//! - P2: `free` has room for all `nr` pages, so that coming back needs no memory.
//!
//! # Locks
//!
//! `mm.hugetlb.resize` (sleeps, around changes of the size) > `mm.hugetlb.pool` (interrupts off, nothing below it).

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result};
use hal::frame::{HUGE_FRAMES, HugeFrame};
use hal::sync::IrqLock;
use sched::Interruptible;

use super::{contig, subpool};
use crate::mapping::page_flags;
use crate::sync::Mutex;

/// Whose page is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// One that was promised.
    Reserved,
    /// One that nobody was promised.
    Free,
}

/// How a page came into the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Persistent,
    Surplus,
}

/// Numbers of the pool, in huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// All, surplus included.
    pub nr: u64,
    /// Not in use.
    pub free: u64,
    /// Promised, and not in use yet.
    pub resv: u64,
    /// Beyond what was asked for.
    pub surplus: u64,
    /// How many may be surplus.
    pub overcommit: u64,
}

/// The pool's rules, for pages of any type.
struct Pool<P> {
    free: Vec<P>,
    nr: u64,
    resv: u64,
    surplus: u64,
    overcommit: u64,
}

impl<P> Pool<P> {
    const fn new() -> Self {
        Self { free: Vec::new(), nr: 0, resv: 0, surplus: 0, overcommit: 0 }
    }

    fn stats(&self) -> PoolStats {
        let Self { nr, resv, surplus, overcommit, .. } = *self;
        PoolStats { nr, free: self.free.len() as u64, resv, surplus, overcommit }
    }

    fn persistent(&self) -> u64 {
        self.nr - self.surplus
    }

    /// Free pages that nobody was promised.
    fn unpromised(&self) -> u64 {
        (self.free.len() as u64).saturating_sub(self.resv)
    }

    /// Adds a free page. Gives it back when there is no memory, or no more surplus allowed.
    fn add(&mut self, page: P, kind: Kind) -> core::result::Result<(), P> {
        let room = usize::try_from(self.nr + 1).unwrap_or(usize::MAX) - self.free.len();
        let is_refused = kind == Kind::Surplus && self.surplus >= self.overcommit;
        if is_refused || self.free.try_reserve(room).is_err() {
            return Err(page);
        }
        self.free.push(page);
        self.nr += 1;
        self.surplus += u64::from(kind == Kind::Surplus);
        Ok(())
    }

    /// Takes a page out for use.
    fn take(&mut self, claim: Claim) -> Option<P> {
        if claim == Claim::Free && self.unpromised() == 0 {
            return None;
        }
        let page = self.free.pop()?;
        if claim == Claim::Reserved {
            self.resv = self.resv.saturating_sub(1);
        }
        Some(page)
    }

    /// Takes a page back from use; a surplus one that nobody waits for is given back to the caller, to be freed.
    fn put(&mut self, page: P) -> Option<P> {
        if self.surplus > 0 && self.free.len() as u64 >= self.resv {
            self.surplus -= 1;
            self.nr -= 1;
            return Some(page);
        }
        // P2: cannot need memory.
        self.free.push(page);
        None
    }

    /// Promises `n` free pages, if there are so many.
    fn promise(&mut self, n: u64) -> bool {
        let fits = self.unpromised() >= n;
        self.resv += if fits { n } else { 0 };
        fits
    }

    /// How many pages are missing for a promise of `n`, if the rules allow to get so many.
    fn missing(&self, n: u64) -> Option<u64> {
        let missing = n.saturating_sub(self.unpromised());
        (self.surplus.saturating_add(missing) <= self.overcommit).then_some(missing)
    }

    /// Promises a page that is about to come back.
    fn promise_returning(&mut self) {
        self.resv += 1;
    }

    /// Takes back a promise of `n` pages.
    fn release(&mut self, n: u64) {
        self.resv = self.resv.saturating_sub(n);
    }

    /// A page in use leaves for good; surplus ones are counted out first.
    fn forget(&mut self) {
        self.nr = self.nr.saturating_sub(1);
        self.surplus = self.surplus.saturating_sub(1);
    }

    /// A free page that is surplus and that nobody needs, to be freed.
    fn shed(&mut self) -> Option<P> {
        if self.surplus == 0 || self.unpromised() == 0 {
            return None;
        }
        let page = self.free.pop()?;
        self.surplus -= 1;
        self.nr -= 1;
        Some(page)
    }

    /// Turns surplus pages into asked-for ones, as far as `count` goes; whether more pages are needed for it.
    fn adopt_surplus(&mut self, count: u64) -> bool {
        let more = count.saturating_sub(self.persistent()).min(self.surplus);
        self.surplus -= more;
        self.persistent() < count
    }

    /// A free page above `count` that nobody was promised, to be freed.
    fn shrink(&mut self, count: u64) -> Option<P> {
        if self.persistent() <= count || self.unpromised() == 0 {
            return None;
        }
        let page = self.free.pop()?;
        self.nr -= 1;
        Some(page)
    }

    /// Makes what is above `count` and in use surplus: it goes when it comes back.
    fn make_surplus(&mut self, count: u64) {
        self.surplus += self.persistent().saturating_sub(count);
    }
}

static POOL: IrqLock<Pool<HugeFrame>> = IrqLock::new("mm.hugetlb.pool", Pool::new());
static RESIZE: Mutex<()> = Mutex::new("mm.hugetlb.resize", ());

/// `vm.hugetlb_shm_group`: the group that may have shared memory of huge pages without `CAP_IPC_LOCK`.
pub static SHM_GROUP: AtomicU32 = AtomicU32::new(0);

/// Numbers of the pool.
pub fn stats() -> PoolStats {
    POOL.lock().stats()
}

/// Small pages in the pool.
pub(crate) fn small_pages() -> u64 {
    stats().nr * HUGE_FRAMES as u64
}

/// Frees a page that left the pool.
fn free(page: HugeFrame) {
    drop(page.leave_pool());
}

/// A huge page came back: [`hal::frame::set_keeper`]. Any context.
fn keep(page: HugeFrame) {
    let meta = page.meta();
    meta.flags.store(page_flags::HUGETLB, Ordering::Relaxed);
    let owner = meta.owner.swap(0, Ordering::Relaxed);
    let stays_promised = owner != 0 && subpool::page_gone(owner);
    let gone = {
        let mut pool = POOL.lock();
        if stays_promised {
            pool.promise_returning();
        }
        pool.put(page)
    };
    if let Some(page) = gone {
        free(page);
    }
}

/// A page from the frame allocator, if there is one without making room: callers hold locks that reclaim may want.
fn fresh() -> Option<HugeFrame> {
    hal::frame::set_keeper(keep);
    contig::alloc(make)
}

fn make() -> Option<HugeFrame> {
    HugeFrame::alloc_pooled(page_flags::HUGETLB)
}

/// Takes a page for use, with arbitrary contents. Sleeps when the pool must grow for it.
///
/// `ENOSPC`: none is left.
pub(crate) fn take(claim: Claim) -> Result<HugeFrame> {
    if let Some(page) = POOL.lock().take(claim) {
        return Ok(page);
    }
    if claim == Claim::Free && POOL.lock().missing(1).is_some() {
        let page = fresh().ok_or(Errno::ENOSPC)?;
        let added = POOL.lock().add(page, Kind::Surplus);
        match added {
            Ok(()) => return POOL.lock().take(claim).ok_or(Errno::ENOSPC),
            Err(page) => free(page),
        }
    }
    Err(Errno::ENOSPC)
}

/// Promises `n` pages. Sleeps when the pool must grow for it. `ENOMEM`: there are not so many.
pub(crate) fn reserve(n: u64) -> Result<()> {
    let mut added = 0;
    loop {
        let missing = {
            let mut pool = POOL.lock();
            if pool.promise(n) {
                return Ok(());
            }
            pool.missing(n)
        };
        for _ in 0..missing.unwrap_or(0) {
            let Some(page) = fresh() else { break };
            let refused = POOL.lock().add(page, Kind::Surplus);
            if let Err(page) = refused {
                free(page);
                break;
            }
            added += 1;
        }
        let is_enough = { POOL.lock().unpromised() >= n };
        if missing.is_none() || !is_enough {
            shed(added);
            return Err(Errno::ENOMEM);
        }
    }
}

/// Frees up to `n` surplus pages that nobody needs.
fn shed(n: u64) {
    for _ in 0..n {
        let Some(page) = POOL.lock().shed() else { return };
        free(page);
    }
}

/// Takes back a promise of `n` pages.
pub(crate) fn release(n: u64) {
    if n > 0 {
        POOL.lock().release(n);
        shed(n);
    }
}

/// Promises a page that the caller is about to drop.
pub(crate) fn promise_returning() {
    POOL.lock().promise_returning();
}

/// Counts a page in use out, which the caller has and does not give back.
pub(super) fn forget() {
    POOL.lock().forget();
}

/// Sets how many pages there are, as far as memory and use allow. Sleeps.
pub fn set_nr(count: u64) {
    let _resize = RESIZE.lock();
    while POOL.lock().adopt_surplus(count) {
        if sched::current().is_interrupted(Interruptible::Yes) {
            return;
        }
        let Some(page) = fresh().or_else(|| contig::make_room(make)) else { return };
        let refused = POOL.lock().add(page, Kind::Persistent);
        if let Err(page) = refused {
            return free(page);
        }
    }
    loop {
        let page = POOL.lock().shrink(count);
        match page {
            Some(page) => free(page),
            None => break,
        }
    }
    POOL.lock().make_surplus(count);
}

/// Sets how many pages may be surplus.
pub fn set_overcommit(count: u64) {
    let _resize = RESIZE.lock();
    POOL.lock().overcommit = count;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(nr: u32, overcommit: u64) -> Pool<u32> {
        let mut pool = Pool::new();
        pool.overcommit = overcommit;
        for page in 0..nr {
            pool.add(page, Kind::Persistent).unwrap();
        }
        pool
    }

    #[test]
    fn what_is_promised_is_nobody_elses() {
        let mut pool = pool(3, 0);
        assert!(pool.promise(2));
        assert!(!pool.promise(2));
        assert!(pool.take(Claim::Free).is_some());
        assert_eq!(pool.take(Claim::Free), None);
        assert!(pool.take(Claim::Reserved).is_some());
        assert_eq!((pool.stats().free, pool.stats().resv), (1, 1));
        pool.release(1);
        assert!(pool.take(Claim::Free).is_some());
    }

    #[test]
    fn a_smaller_pool_loses_what_comes_back() {
        let mut pool = pool(3, 0);
        let page = pool.take(Claim::Free).unwrap();
        assert!(pool.promise(1));
        assert!(pool.shrink(0).is_some());
        assert_eq!(pool.shrink(0), None, "one is in use, one promised");
        pool.make_surplus(0);
        assert_eq!((pool.stats().nr, pool.stats().surplus), (2, 2));
        assert_eq!(pool.put(page), Some(page));
        pool.release(1);
        assert!(pool.shed().is_some());
        assert_eq!(pool.stats(), PoolStats::default());
    }

    #[test]
    fn surplus_is_limited_and_can_be_adopted() {
        let mut pool = pool(1, 2);
        assert_eq!((pool.missing(3), pool.missing(4)), (Some(2), None));
        pool.add(7, Kind::Surplus).unwrap();
        pool.add(8, Kind::Surplus).unwrap();
        assert_eq!(pool.add(9, Kind::Surplus), Err(9));
        assert!(pool.promise(3));
        assert!(!pool.adopt_surplus(2));
        assert_eq!((pool.persistent(), pool.surplus), (2, 1));
        assert!(pool.adopt_surplus(4));
    }

    #[test]
    fn a_page_that_leaves_for_good_is_counted_out() {
        let mut pool = pool(2, 1);
        pool.add(7, Kind::Surplus).unwrap();
        let _gone = pool.take(Claim::Free).unwrap();
        pool.forget();
        assert_eq!((pool.stats().nr, pool.stats().surplus, pool.stats().free), (2, 0, 2));
        let _gone = pool.take(Claim::Free).unwrap();
        pool.forget();
        assert_eq!((pool.stats().nr, pool.stats().free), (1, 1));
    }

    #[test]
    fn a_page_promised_on_its_way_back_stays() {
        let mut pool = pool(1, 0);
        let page = pool.take(Claim::Free).unwrap();
        pool.make_surplus(0);
        pool.promise_returning();
        assert_eq!(pool.put(page), None, "surplus, but promised");
        assert_eq!(pool.take(Claim::Free), None);
        assert_eq!(pool.take(Claim::Reserved), Some(page));
    }

    /// Random use against the sums that must hold.
    #[test]
    fn nothing_is_lost_in_any_order() {
        let mut pool = pool(8, 3);
        let (mut used, mut next, mut seed) = (Vec::new(), 100, 7u64);
        for _ in 0..100_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            match (seed >> 33) % 9 {
                0 => used.extend(pool.take(Claim::Free)),
                1 if pool.resv > 0 => used.extend(pool.take(Claim::Reserved)),
                2 => {
                    if let Some(page) = used.pop() {
                        pool.put(page);
                    }
                }
                3 => {
                    pool.promise((seed >> 40) % 3);
                }
                4 => pool.release(pool.resv.min(1)),
                5 => {
                    pool.shed();
                }
                6 => {
                    let kind = if seed >> 60 & 1 == 0 { Kind::Surplus } else { Kind::Persistent };
                    next += u32::from(pool.nr < 12 && pool.add(next, kind).is_ok());
                }
                7 => {
                    let count = (seed >> 40) % 12;
                    pool.adopt_surplus(count);
                    while pool.shrink(count).is_some() {}
                    pool.make_surplus(count);
                }
                _ => {}
            }
            let stats = pool.stats();
            assert_eq!(stats.nr, stats.free + used.len() as u64);
            assert!(stats.surplus <= stats.nr && stats.resv <= stats.free, "{stats:?}");
        }
    }
}
