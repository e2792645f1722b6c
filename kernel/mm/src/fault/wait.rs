//! What a fault waits for, with no lock held.

use alloc::sync::Arc;

use abi::Errno;
use hal::PAGE_SIZE;
use hal::frame::Frame;

use super::{FaultError, FaultKind};
use crate::mapping::Mapping;
use crate::oom;
use crate::space::Mm;
use crate::swap::{Near, Origin, Pinned};
use crate::watch::{WatchedFault, Watcher};
use crate::{counters, hugetlb};

/// How one attempt to handle a fault ended.
pub(crate) enum Step {
    Done,
    /// Let go of `space`, call [`Wait::finish`], and begin anew.
    Wait(Wait),
}

/// What a fault needs that may take long, so it is had while no lock of the address space is held: otherwise a thread
/// that waits for memory would keep write-back from taking pages out of its page table.
pub(crate) enum Wait {
    /// A free frame.
    Memory,
    /// A page of a file system's file, which is to be dirty if so.
    Page(Arc<Mapping>, u64, bool),
    /// A page of shared memory that is in swap.
    Shared(Arc<Mapping>, u64),
    /// The page is to become dirty.
    Notify(Arc<Mapping>, u64, Frame),
    /// A page in swap.
    Swapped(Pinned),
    /// Huge page of a private mapping that was promised it, and that others have.
    Steal(Arc<Mapping>, u64),
    /// The watcher of the VMA makes it good.
    Watched(Arc<dyn Watcher>, WatchedFault),
}

/// What was waited for.
pub(crate) struct Got {
    pub kind: FaultKind,
    /// Keeps the page from being reclaimed until the next attempt maps it.
    _page: Option<Frame>,
}

impl Default for Got {
    #[inline]
    fn default() -> Self {
        Self { kind: FaultKind::Minor, _page: None }
    }
}

impl Wait {
    /// Has what is needed for the fault of `mm` at `addr`. Sleeps; the caller holds no lock.
    #[cold]
    pub fn finish(self, mm: &Mm, addr: u64, got: &mut Got) -> Result<(), FaultError> {
        match self {
            Self::Memory => oom::relieve()?,
            Self::Page(mapping, idx, dirty) => {
                let frame = mapping.get_or_fill(idx).map_err(fill_error)?;
                got.kind = FaultKind::Major;
                counters::PGMAJFAULT.add(1);
                if dirty {
                    mapping.mark_dirty_for_store(idx, &frame).map_err(fill_error)?;
                }
                got._page = Some(frame);
            }
            Self::Shared(mapping, idx) => {
                got.kind = FaultKind::Major;
                counters::PGMAJFAULT.add(1);
                got._page = mapping.get_or_read(idx).map_err(fill_error)?;
            }
            Self::Swapped(page) => {
                let (frame, origin) = page.read(Near::Address(mm, addr)).map_err(fill_error)?;
                if origin == Origin::Device {
                    got.kind = FaultKind::Major;
                    counters::PGMAJFAULT.add(1);
                }
                mm.swap_in(addr & !(PAGE_SIZE as u64 - 1), page, frame)?;
            }
            Self::Steal(mapping, idx) => hugetlb::steal(mm, &mapping, idx)?,
            Self::Watched(watcher, fault) => watcher.fault(&fault, &mut || mm.must_wait(&fault))?,
            Self::Notify(mapping, idx, frame) => {
                mapping.throttle();
                mapping.mark_dirty_for_store(idx, &frame).map_err(fill_error)?;
                got._page = Some(frame);
            }
        }
        Ok(())
    }
}

/// What a fault makes of an error of the page cache.
pub(super) fn fill_error(e: Errno) -> FaultError {
    if e == Errno::ENOMEM { FaultError::Oom } else { FaultError::Bus }
}
