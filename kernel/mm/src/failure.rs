//! Memory that has failed (`MADV_HWPOISON`, `/sys/devices/system/memory/hard_offline_page`): what was in a page is lost, and
//! nobody gets its frame again.
//!
//! ```text
//! free                    taken out of the allocator
//! private memory          a marker takes the place of each entry: whoever looks there gets SIGBUS (BUS_MCEERR_AR)
//! a file's on a disk      it leaves the page cache, and the next access reads it again. If it was dirty, those who showed it
//!                         have the marker, and fsync(2) tells of EIO
//! anything else           stays: EBUSY
//! ```
//!
//! The machine tells nothing of failures by itself: both ways are for trying what programs do then. A page that
//! somebody refers to until later is withdrawn all the same.
//!
//! LINUX: pages of shared memory, merged ones and huge pages of the pool fail, too; processes can ask to be told before they
//! look (`PR_MCE_KILL_EARLY`).
//!
//! Sources: madvise(2), sigaction(2), Documentation/mm/hwpoison.rst, the behaviour of Linux 7.2 (`user/tests`, area `offline`).

use alloc::sync::Arc;

use abi::{Errno, Result};
use hal::frame::Frame;
use hal::{PAGE_SHIFT, PAGE_SIZE};
use sched::Interruptible;

use crate::counters::Counter;
use crate::fault::Need;
use crate::map::page_align;
use crate::mapping::{Mapping, page_flags};
use crate::offline::{Found, find, is_withdrawn, withdraw};
use crate::space::{Mm, RssDelta};
use crate::watch::POISON_MARKER;
use crate::{migrate, oom, registry};

/// Failures that were met (`memory_failure/total`).
pub static TOTAL: Counter = Counter::new();
/// Those after which nobody can reach the page (`memory_failure/recovered`).
pub static RECOVERED: Counter = Counter::new();
/// Those of pages that stay (`memory_failure/ignored`).
pub static IGNORED: Counter = Counter::new();
/// Those of pages that somebody still refers to (`memory_failure/failed`).
pub static FAILED: Counter = Counter::new();

/// Attempts to find a page that nobody has just got again.
const ATTEMPTS: usize = 16;

/// What the owner of a page has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// Its contents.
    All,
    /// Nothing: they are elsewhere, too.
    Nothing,
}

impl Mm {
    /// `MADV_HWPOISON`: has the pages from `addr` on fail. Gives the first address whose contents are lost, of which the caller is
    /// to hear by a signal. Sleeps.
    ///
    /// `EINVAL`: not aligned, or no range. `EPERM`: not for everybody. `EFAULT`: nothing can be read there. `EBUSY`: a page stays,
    /// or somebody refers to it. `EINTR`: the thread is to die.
    pub fn fail_pages(&self, addr: u64, len: u64) -> Result<Option<u64>> {
        if !addr.is_multiple_of(PAGE_SIZE as u64) {
            return Err(Errno::EINVAL);
        }
        let bytes = page_align(len);
        let end = addr.checked_add(bytes).filter(|_| len == 0 || bytes > 0).ok_or(Errno::EINVAL)?;
        if bytes > 0 && !oom::is_administrator() {
            return Err(Errno::EPERM);
        }
        let (mut at, mut first_lost) = (addr, None);
        while at < end {
            if sched::current().is_interrupted(Interruptible::Killable) {
                return Err(Errno::EINTR);
            }
            self.fault_in(at, Need::READ).map_err(|_| Errno::EFAULT)?;
            let found = self.page_in(at).map(|(found, _)| found);
            if matches!(found, Err(Errno::EFAULT)) {
                // It is gone again.
                continue;
            }
            TOTAL.add(1);
            if fail(found)? == Lost::All {
                first_lost = first_lost.or(Some(at));
            }
            at += PAGE_SIZE as u64;
        }
        Ok(first_lost)
    }

    /// Puts the marker where `frame` is shown.
    fn mark_lost(&self, frame: &Frame) {
        let mut delta = RssDelta::default();
        let kind = migrate::kind_of(frame);
        self.for_each_entry_of(frame, |cursor, addr, _, _| {
            cursor.unmap(addr);
            // Cannot fail: the entry's table is there.
            let _ = cursor.set_special(addr, POISON_MARKER);
            delta.count(kind, -1);
        });
        self.rss.apply(delta);
    }
}

/// Has what was found fail, and counts that. `EBUSY`: it stays, or somebody refers to it.
fn fail(found: Result<Found>) -> Result<Lost> {
    let result = match found {
        Ok(Found::Private(frame)) if migrate::is_private(&frame) => fail_private(frame),
        Ok(Found::Cached(mapping, idx, frame)) if mapping.error().is_some() => {
            fail_cached(&mapping, idx, frame)
        }
        _ => {
            IGNORED.add(1);
            return Err(Errno::EBUSY);
        }
    };
    (if result.is_ok() { &RECOVERED } else { &FAILED }).add(1);
    result
}

fn fail_private(frame: Frame) -> Result<Lost> {
    for _ in 0..ATTEMPTS {
        // Parents first: what a fork has copied meanwhile is met in the child.
        registry::for_each_by_age(|mm| mm.mark_lost(&frame));
        if frame.ref_count() == 1 {
            break;
        }
        sched::yield_now();
    }
    let is_free = frame.ref_count() == 1;
    withdraw(frame);
    if is_free { Ok(Lost::All) } else { Err(Errno::EBUSY) }
}

fn fail_cached(mapping: &Arc<Mapping>, idx: u64, frame: Frame) -> Result<Lost> {
    for _ in 0..ATTEMPTS {
        let is_dirty = migrate::kind_of(&frame) & page_flags::DIRTY != 0;
        registry::for_each(|mm| if is_dirty { mm.mark_lost(&frame) } else { mm.unmap_entries(&frame) });
        match mapping.forget_failed(idx, &frame) {
            Some(was_dirty) => {
                withdraw(frame);
                return Ok(if was_dirty { Lost::All } else { Lost::Nothing });
            }
            // A fault or write-back was faster.
            None => sched::yield_now(),
        }
    }
    Err(Errno::EBUSY)
}

/// Has the page at the physical address `addr` fail (`hard_offline_page`). Nobody is told before looking there. Sleeps; the caller
/// holds no lock.
///
/// `EPERM`: not for everybody. `EHWPOISON`: it has failed before. `EBUSY`: it stays, somebody refers to it, or no memory is
/// there.
pub fn fail_page(addr: u64) -> Result<()> {
    if !oom::is_administrator() {
        return Err(Errno::EPERM);
    }
    let pfn = addr >> PAGE_SHIFT;
    let seen = hal::frame::look(pfn).ok_or(Errno::EBUSY)?;
    if seen.flags & page_flags::OFFLINE != 0 {
        return Err(Errno::EHWPOISON);
    }
    TOTAL.add(1);
    // What a CPU has at hand is free, too.
    hal::frame::gather();
    if let Some(frame) = hal::frame::take_one_free(pfn) {
        withdraw(frame);
        RECOVERED.add(1);
        return Ok(());
    }
    let is_whole = |found: &Found| match found {
        Found::Private(frame) | Found::Cached(_, _, frame) => !is_withdrawn(frame),
        Found::Pooled(..) => true,
    };
    fail(find(pfn).filter(is_whole).ok_or(Errno::EBUSY)).map(drop)
}

#[cfg(test)]
mod tests {
    use abi::mman::MapFlags;

    use super::*;
    use crate::Rights;
    use crate::tests::{PAGE, alone, fixed, rw};
    use crate::vma::Backing;

    fn read(mm: &Mm, page: u64) -> Option<u8> {
        let mut byte = [0];
        (mm.read_remote(page * PAGE, &mut byte, Rights::Obey) == 1).then_some(byte[0])
    }

    #[test]
    fn all_who_share_private_memory_lose_it() {
        let _alone = alone();
        let mm = Mm::new().unwrap();
        mm.map(fixed(16, 4, rw(), MapFlags::PRIVATE, Backing::Anonymous, 0)).unwrap();
        (16..20).for_each(|page| assert_eq!(mm.write_remote(page * PAGE, &[page as u8], Rights::Obey), 1));
        let child = mm.fork().unwrap();
        let (recovered, ignored) = (RECOVERED.get(), IGNORED.get());
        let found = mm.page_in(17 * PAGE).map(|(found, _)| found);
        assert_eq!(fail(found), Ok(Lost::All));
        for mm in [&mm, &child, &mm.fork().unwrap()] {
            assert_eq!([16, 17, 18].map(|page| read(mm, page)), [Some(16), None, Some(18)]);
            mm.check_invariants();
        }
        assert!(matches!(mm.page_in(17 * PAGE), Err(Errno::EFAULT)));
        mm.unmap(17 * PAGE, PAGE).unwrap();
        mm.map(fixed(17, 1, rw(), MapFlags::PRIVATE, Backing::Anonymous, 0)).unwrap();
        assert_eq!(read(&mm, 17), Some(0));
        let zeroes = mm.page_in(17 * PAGE).map(|(found, _)| found);
        assert_eq!(fail(zeroes), Err(Errno::EBUSY));
        assert_eq!((RECOVERED.get(), IGNORED.get()), (recovered + 1, ignored + 1));
    }
}
