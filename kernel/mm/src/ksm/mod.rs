//! Same-page merging: pages with equal contents become one page that all their owners read and nobody writes.
//!
//! Memory takes part that asked for it (`MADV_MERGEABLE`, or all of a process with `PR_SET_MEMORY_MERGE`). A thread in the
//! background looks at its private pages one after the other:
//!
//! ```text
//!   the page ──> changed since the last look? it waits for the next one
//!     full of zeroes, and `use_zero_pages`  ──> the page of zeroes for merged memory takes its place
//!     equal to a stable page                ──> the stable page takes its place
//!     equal to one seen in this round       ──> that one becomes stable, and takes its place
//!     else                                  ──> it is remembered for this round
//! ```
//!
//! A stable page has the flags `ANON` and `KSM`, and the tree ([`tree`]) holds a reference. So it never looks as if one page
//! table alone had it: a write always copies it, reclaim and swap leave it alone, and what moves or forks page-table
//! entries needs to know nothing of all this. It goes when only the tree has it.
//!
//! A page is taken when its page table is its only holder, which is asked with writes to it forbidden: whoever uses it for a
//! transfer holds a reference. LINUX: pages that forks share are merged, too; it can tell their owners from transfers.
//!
//! In mappings of files, where a page without `ANON` is the file's, zeroes are merged as other contents are. LINUX: the page
//! of zeroes takes their place there, too.
//!
//! LINUX: `pages_sharing` follows a write once the thread comes by again; here it is true at once, and counts what forks
//! share. Stable pages can go to swap there. There is one node of memory, so `merge_across_nodes` decides nothing.
//!
//! # Locks
//!
//! [`scan`]'s state (sleeps) > `Mm::space` > page-table cursor. Reclaim only tries the state's.
//!
//! Source: Documentation/admin-guide/mm/ksm.rst and madvise(2), prctl(2), proc_pid_ksm_stat(5).

mod known;
mod merge;
mod scan;
pub mod settings;
mod tree;

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use abi::{Errno, Result};
use hal::USER_END;
use hal::frame::Frame;
use hal::sync::Once;

use crate::mapping::page_flags;
use crate::space::{Mm, Prefs};
use crate::vma::{VmFlags, Vma};

pub use scan::{
    Chains, Run, Stats, chains, full_scans, max_page_sharing, merge_across_nodes, pages_scanned,
    pages_skipped, run, set_max_page_sharing, set_merge_across_nodes, set_run, start, stats, wake,
};

/// Address spaces that take part.
static TAKING_PART: AtomicUsize = AtomicUsize::new(0);

/// Whether an address space takes part; counted for as long as it lives.
#[derive(Debug, Default)]
pub(crate) struct Membership(AtomicBool);

impl Membership {
    fn is_member(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes part from now on; the thread is woken by the first time.
    pub(crate) fn join(&self) {
        if !self.0.swap(true, Ordering::Relaxed) {
            TAKING_PART.fetch_add(1, Ordering::Relaxed);
            scan::wake();
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if *self.0.get_mut() {
            TAKING_PART.fetch_sub(1, Ordering::Relaxed);
            // Stable pages may have lost their last reader.
            scan::request_prune();
        }
    }
}

/// The page of zeroes that merged memory shows; apart from the one of untouched memory, so that its references count it.
fn zero_frame() -> Option<&'static Frame> {
    static ZERO: Once<Option<Frame>> = Once::new();
    let make = || {
        let frame = Frame::alloc_zeroed()?;
        frame.meta().flags.store(page_flags::ZERO | page_flags::KSM, Ordering::Relaxed);
        Some(frame)
    };
    ZERO.call_once(make).as_ref()
}

/// Pages of zeroes that merging has put in place (`ksm_zero_pages`).
pub fn zero_pages() -> u64 {
    zero_frame().map_or(0, |zero| u64::from(zero.ref_count().saturating_sub(1)))
}

/// Whether memory with `flags` can take part.
pub(crate) fn can_merge(flags: VmFlags) -> bool {
    let never = VmFlags::SHARED
        | VmFlags::MAYSHARE
        | VmFlags::PFNMAP
        | VmFlags::IO
        | VmFlags::DONTEXPAND
        | VmFlags::HUGETLB
        | VmFlags::DROPPABLE;
    !flags.intersects(never)
}

/// What /proc/PID/ksm_stat tells; in pages but for the profit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MmStats {
    /// Pages that the thread remembers.
    pub rmap_items: u64,
    /// Pages of zeroes put in place by merging.
    pub zero_pages: u64,
    /// Pages that the thread merged.
    pub merging_pages: u64,
    /// Bytes saved, less those of what the thread remembers.
    pub profit: i64,
    /// Whether all memory takes part.
    pub merges_all: bool,
    /// Whether some does.
    pub merges_some: bool,
}

impl Mm {
    pub(crate) fn takes_part(&self) -> bool {
        self.ksm.is_member()
    }

    /// The new flags of `vma` for `MADV_MERGEABLE`; memory that cannot take part stays as it is.
    pub(crate) fn mergeable_flags(vma: &Vma) -> VmFlags {
        let flags = vma.attr.flags;
        if can_merge(flags) { flags | VmFlags::MERGEABLE } else { flags }
    }

    /// Whether all memory takes part (`PR_GET_MEMORY_MERGE`).
    pub fn merges_all(&self) -> bool {
        self.prefs().contains(Prefs::MERGE_ANY)
    }

    /// Has all memory take part from now on, what is mapped later included (`PR_SET_MEMORY_MERGE`). May sleep.
    ///
    /// `ENOMEM`: no memory to note that; some memory may take part then.
    pub fn merge_all(&self) -> Result<()> {
        let mut space = self.space.write();
        self.set_prefs(self.prefs() | Prefs::MERGE_ANY);
        space.def_flags |= VmFlags::MERGEABLE;
        self.ksm.join();
        self.change_flags(&mut space, 0..USER_END, |vma| Ok(Self::mergeable_flags(vma)))
            .map(drop)
            .map_err(|_| Errno::ENOMEM)
    }

    /// Has no memory take part from now on; merged pages become private again. May sleep.
    ///
    /// `ENOMEM`: no memory for all of them. `EINTR`: the thread is to die.
    pub fn merge_none(&self) -> Result<()> {
        if !self.merges_all() {
            return Ok(());
        }
        let mut space = self.space.write();
        self.set_prefs(self.prefs() - Prefs::MERGE_ANY);
        space.def_flags -= VmFlags::MERGEABLE;
        let result =
            self.change_flags(&mut space, 0..USER_END, |vma| Ok(vma.attr.flags - VmFlags::MERGEABLE));
        drop(space);
        result.map_err(|_| Errno::ENOMEM)?;
        self.unmerge(0..USER_END).map(drop)
    }

    /// Collects what /proc/PID/ksm_stat tells. May sleep. Cost: a walk over the memory that takes part.
    pub fn ksm_stats(&self) -> MmStats {
        let known = scan::known_of(self.id());
        let merges_some = self.space.read().set.iter().any(|vma| vma.attr.flags.contains(VmFlags::MERGEABLE));
        let zero_pages = if self.takes_part() { self.count_merged_zeroes() } else { 0 };
        let saved = (known.merged + zero_pages).saturating_mul(hal::PAGE_SIZE as u64);
        let profit = i64::try_from(saved).unwrap_or(i64::MAX).saturating_sub(scan::cost_of(known.items));
        MmStats {
            rmap_items: known.items,
            zero_pages,
            merging_pages: known.merged,
            profit,
            merges_all: self.merges_all(),
            merges_some,
        }
    }
}

#[cfg(test)]
mod tests;
