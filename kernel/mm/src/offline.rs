//! Taking pages of memory out of use that are about to fail (`MADV_SOFT_OFFLINE`,
//! `/sys/devices/system/memory/soft_offline_page`): what is in them moves elsewhere, and nobody gets them again.
//!
//! ```text
//! free                        taken out of the allocator
//! private, page cache         moved (`migrate`), then kept by the reference that is never given back
//! a huge page of the pool     a free page of the pool takes its place; of the old one that leaves the pool, one small page is
//!                             withdrawn, the rest becomes free memory
//! anything else               stays: EBUSY
//! ```
//! A page that somebody refers to until later is withdrawn all the same: the reference that stays keeps it from ever being free.
//!
//! Sources: madvise(2), Documentation/admin-guide/sysctl/vm.rst (`enable_soft_offline`), the behaviour of Linux 7.2 (`user/tests`,
//! area `offline`).

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result};
use hal::frame::{Frame, HUGE_FRAMES, HugeFrame};
use hal::paging::Entry;
use hal::{PAGE_SHIFT, PAGE_SIZE, PageRange, USER_END, UserAddr};
use sched::Interruptible;

use crate::counters::Counter;
use crate::fault::Need;
use crate::mapping::{Mapping, page_flags, writeback};
use crate::space::Mm;
use crate::vma::VmFlags;
use crate::{hugetlb, migrate, oom, registry};

/// `vm.enable_soft_offline`: 0 refuses.
pub static ENABLED: AtomicU32 = AtomicU32::new(1);
/// Pages that were withdrawn (`HardwareCorrupted`).
pub static WITHDRAWN: Counter = Counter::new();

/// Keeps `frame` from being free ever again.
pub(crate) fn withdraw(frame: Frame) {
    frame.meta().flags.fetch_or(page_flags::OFFLINE, Ordering::Relaxed);
    WITHDRAWN.add(1);
    core::mem::forget(frame);
}

pub(crate) fn is_withdrawn(frame: &Frame) -> bool {
    frame.meta().flags.load(Ordering::Relaxed) & page_flags::OFFLINE != 0
}

/// Where a page was found.
pub(crate) enum Found {
    /// In private memory.
    Private(Frame),
    /// In a file's cache, at this place.
    Cached(Arc<Mapping>, u64, Frame),
    /// In a huge page of the pool.
    Pooled(HugeFrame, Option<(Arc<Mapping>, u64)>),
}

impl Mm {
    /// `MADV_SOFT_OFFLINE`: takes the pages of `range` out of use, reading in what is missing. Sleeps.
    ///
    /// `EPERM`: not for everybody. `EOPNOTSUPP`: it is turned off. `EFAULT`: nothing can be read there. `EBUSY`: a page cannot
    /// be moved. `EINTR`: the thread is to die. `ENOMEM`.
    pub(crate) fn soft_offline(&self, range: Range<u64>) -> Result<()> {
        if !oom::is_administrator() {
            return Err(Errno::EPERM);
        }
        let mut at = range.start;
        while at < range.end {
            if sched::current().is_interrupted(Interruptible::Killable) {
                return Err(Errno::EINTR);
            }
            self.fault_in(at, Need::READ).map_err(|_| Errno::EFAULT)?;
            let (found, end) = self.page_in(at)?;
            if ENABLED.load(Ordering::Relaxed) == 0 {
                return Err(Errno::EOPNOTSUPP);
            }
            self.take_offline(found, at)?;
            at = end;
        }
        Ok(())
    }

    /// The page at `addr`, and where it ends. `EFAULT`: it is gone again. `EBUSY`: it is none that can move.
    pub(crate) fn page_in(&self, addr: u64) -> Result<(Found, u64)> {
        let space = self.space.read();
        let vma = space.set.at(addr).ok_or(Errno::EFAULT)?;
        let page = PageRange::page_of(UserAddr(addr)).ok_or(Errno::EFAULT)?;
        let end = hugetlb::end_of_page(vma, addr);
        let offset = vma.attr.offset_at(vma.start, page.start());
        let mapping = vma.attr.backing.mapping();
        if vma.attr.flags.contains(VmFlags::HUGETLB) {
            let first = end - hugetlb::SIZE;
            let range = PageRange::new(first, end).ok_or(Errno::EFAULT)?;
            let (huge, _) = self.page_table().cursor(range).huge_frame(first).ok_or(Errno::EFAULT)?;
            let place = mapping.map(|mapping| (mapping.clone(), offset >> hugetlb::SHIFT));
            let is_private = huge.meta().flags.load(Ordering::Relaxed) & page_flags::ANON != 0;
            return Ok((Found::Pooled(huge, place.filter(|_| !is_private)), end));
        }
        let Entry::Present { frame, .. } = self.page_table().cursor(page).query(page.start()) else {
            return Err(Errno::EFAULT);
        };
        let kind = frame.meta().flags.load(Ordering::Relaxed);
        let found = match mapping {
            _ if kind & page_flags::ANON != 0 => Found::Private(frame),
            Some(mapping) if kind & (page_flags::FILE | page_flags::SHMEM) != 0 => {
                Found::Cached(mapping.clone(), offset >> PAGE_SHIFT, frame)
            }
            _ => return Err(Errno::EBUSY),
        };
        Ok((found, end))
    }

    /// Moves what was found at `addr`, and withdraws where it was.
    fn take_offline(&self, found: Found, addr: u64) -> Result<()> {
        match found {
            Found::Private(frame) => {
                migrate::move_private(&frame)?;
                withdraw(frame);
            }
            Found::Cached(mapping, idx, frame) => {
                migrate::move_cached(&mapping, idx, &frame)?;
                withdraw(frame);
            }
            Found::Pooled(huge, place) => {
                let new = hugetlb::take_unpromised()?;
                match place {
                    Some((mapping, idx)) => hugetlb::move_cached(&mapping, idx, &huge, &new)?,
                    None => self.move_huge(&huge, addr & !(hugetlb::SIZE - 1), &new)?,
                }
                let part = huge.frame((addr >> PAGE_SHIFT) as usize % HUGE_FRAMES);
                hugetlb::dissolve(huge);
                withdraw(part);
            }
        }
        Ok(())
    }
}

/// Where frame `pfn`, which is in use, is shown or cached.
pub(crate) fn find(pfn: u64) -> Option<Found> {
    let mut found = None;
    writeback::for_each(|mapping| {
        if found.is_none()
            && let Some((idx, frame)) = mapping.find_frame(pfn)
        {
            found = Some(Found::Cached(mapping.clone(), idx, frame));
        }
    });
    registry::for_each(|mm| {
        if found.is_none() {
            found = mm.find_frame(pfn);
        }
    });
    found
}

impl Mm {
    /// The first address from `from` on whose entry shows frame `pfn`.
    fn address_of(&self, pfn: u64, from: u64) -> Option<u64> {
        let space = self.space.read();
        for vma in space.set.overlapping(from..USER_END) {
            let part = vma.clip(&(from..USER_END));
            let Some(range) = PageRange::new(part.start, part.end) else { continue };
            if vma.attr.flags.contains(VmFlags::HUGETLB) {
                continue;
            }
            let mut cursor = self.page_table().cursor(range);
            let mut at = range.start();
            while let Some((addr, entry)) = cursor.next_mapped(at) {
                if matches!(entry, Entry::Present { frame, .. } if frame.pfn() == pfn) {
                    return Some(addr);
                }
                at = addr + PAGE_SIZE as u64;
            }
        }
        None
    }

    /// The small page `pfn`, if this address space shows it as private memory, or as a file's.
    fn find_frame(&self, pfn: u64) -> Option<Found> {
        let mut at = 0;
        while let Some(addr) = self.address_of(pfn, at) {
            at = addr + PAGE_SIZE as u64;
            match self.page_in(addr) {
                Ok((Found::Private(frame), _)) if frame.pfn() == pfn => return Some(Found::Private(frame)),
                Ok((Found::Cached(mapping, idx, frame), _)) if frame.pfn() == pfn => {
                    return Some(Found::Cached(mapping, idx, frame));
                }
                _ => {}
            }
        }
        None
    }
}

impl Mapping {
    /// The page that is in frame `pfn`, and its place.
    fn find_frame(&self, pfn: u64) -> Option<(u64, Frame)> {
        const STEP: usize = 512;
        let (mut next, mut found) = (Some(0), None);
        while let (Some(first), None) = (next, &found) {
            next = self.visit_pages(first..u64::MAX, STEP, |idx, frame| {
                if frame.pfn() == pfn {
                    found = Some((idx, frame.clone()));
                }
                found.is_none()
            });
        }
        found
    }
}

/// Takes the page at the physical address `addr` out of use (`soft_offline_page`). Sleeps; the caller holds no lock.
///
/// `EPERM`: not for everybody. `ENXIO`: no memory is there. `EOPNOTSUPP`: it is turned off. `EBUSY`: the page cannot be moved. `ENOMEM`.
pub fn soft_offline_page(addr: u64) -> Result<()> {
    if !oom::is_administrator() {
        return Err(Errno::EPERM);
    }
    let pfn = addr >> PAGE_SHIFT;
    let seen = hal::frame::look(pfn).ok_or(Errno::ENXIO)?;
    if ENABLED.load(Ordering::Relaxed) == 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if seen.flags & page_flags::OFFLINE != 0 {
        return Ok(());
    }
    // What a CPU has at hand is free, too.
    hal::frame::gather();
    if let Some(frame) = hal::frame::take_one_free(pfn) {
        withdraw(frame);
        return Ok(());
    }
    match find(pfn).ok_or(Errno::EBUSY)? {
        Found::Private(frame) if !is_withdrawn(&frame) => {
            migrate::move_private(&frame)?;
            withdraw(frame);
        }
        Found::Cached(mapping, idx, frame) if !is_withdrawn(&frame) => {
            migrate::move_cached(&mapping, idx, &frame)?;
            withdraw(frame);
        }
        _ => return Err(Errno::EBUSY),
    }
    Ok(())
}
