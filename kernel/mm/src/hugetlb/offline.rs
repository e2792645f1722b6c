//! Huge pages that leave the pool because a part of them is about to fail ([`crate::offline`]).
//!
//! What is in one moves to a free page of the pool. `HugePages::steady` is held for writing meanwhile, so that no fault finds the
//! page half moved; a page that somebody else refers to, or that a fork shares, stays.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use hal::PageRange;
use hal::frame::{HUGE_FRAMES, HugeFrame};
use hal::paging::PteFlags;

use super::fault::Fault;
use super::pool::{self, Claim};
use super::{SHIFT, SIZE};
use crate::fault::Need;
use crate::mapping::{Mapping, page_flags};
use crate::registry;
use crate::space::{Mm, RssDelta};
use crate::thp::huge_range;

/// Attempts to find a page of a file that no fault has just mapped again.
const ATTEMPTS: usize = 8;

/// A free page of the pool that nobody was promised. Sleeps when the pool may grow for it. `EBUSY`: there is none.
pub(crate) fn take_unpromised() -> Result<HugeFrame> {
    pool::take(Claim::Free).map_err(|_| Errno::EBUSY)
}

/// Takes `huge`, to which nobody else refers but for its parts, out of the pool.
pub(crate) fn dissolve(huge: HugeFrame) {
    pool::forget();
    drop(huge.leave_pool());
}

/// Whether one holder and the caller refer to `huge` as a whole, and nobody to a part of it.
pub(super) fn is_held_once(huge: &HugeFrame) -> bool {
    // A part counts the whole, the other holder of the whole, and the reference it is looked at by.
    huge.whole_count() == 2 && (0..HUGE_FRAMES).all(|idx| huge.frame(idx).ref_count() == 3)
}

/// Makes `new` what `old` is. Nobody may write to `old` meanwhile.
fn become_twin(new: &HugeFrame, old: &HugeFrame) {
    new.copy_from(old);
    new.meta().flags.store(old.meta().flags.load(Ordering::Relaxed), Ordering::Relaxed);
    // Its share of the pool goes along.
    new.meta().owner.store(old.meta().owner.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// Puts a copy, `new`, in the place of `old`, huge page `idx` of `mapping`. Sleeps; the caller holds no lock.
///
/// `EBUSY`: somebody else refers to it.
pub(crate) fn move_cached(mapping: &Arc<Mapping>, idx: u64, old: &HugeFrame, new: &HugeFrame) -> Result<()> {
    let pages = mapping.huge().ok_or(Errno::EBUSY)?;
    for _ in 0..ATTEMPTS {
        registry::for_each(|mm| mm.unmap_huge(mapping, idx, old));
        let _steady = pages.steady.write();
        if is_held_once(old) {
            become_twin(new, old);
            if pages.replace(idx, old, new) {
                old.meta().owner.store(0, Ordering::Relaxed);
                return Ok(());
            }
        }
    }
    new.meta().owner.store(0, Ordering::Relaxed);
    Err(Errno::EBUSY)
}

impl Mm {
    /// Takes the entries of `huge`, page `idx` of `mapping`, out.
    fn unmap_huge(&self, mapping: &Arc<Mapping>, idx: u64, huge: &HugeFrame) {
        let space = self.space.read();
        let mut delta = RssDelta::default();
        for vma in space.set.iter() {
            let shows = vma.attr.backing.mapping().is_some_and(|own| Arc::ptr_eq(own, mapping));
            let first = vma.attr.offset >> SHIFT;
            if !shows || vma.attr.watch.is_some() || idx < first {
                continue;
            }
            let at = vma.start.saturating_add((idx - first).saturating_mul(SIZE));
            let Some(page) = huge_range(vma, at).filter(|page| page.start() == at) else { continue };
            let mut cursor = self.page_table().cursor(page);
            if cursor.huge_frame(at).is_some_and(|(found, _)| found == *huge) {
                cursor.unmap_range(page, &mut |_, entry| delta.count_gone(entry));
            }
        }
        self.rss.apply(delta);
    }

    /// Puts a copy, `new`, in the place of `old`, a private huge page at `addr`. Sleeps.
    ///
    /// `EBUSY`: somebody else refers to it, or it is not there any more.
    pub(crate) fn move_huge(&self, old: &HugeFrame, addr: u64, new: &HugeFrame) -> Result<()> {
        let space = self.space.read();
        let fault =
            space.set.at(addr).and_then(|vma| Fault::new(vma, addr, Need::READ)).ok_or(Errno::EBUSY)?;
        // Faults wait from here on.
        let _steady = fault.pages.steady.write();
        let page: PageRange = fault.page;
        let flags = {
            let mut cursor = self.page_table().cursor(page);
            let flags = cursor.huge_frame(addr).filter(|(found, _)| found == old).map(|(_, flags)| flags);
            let flags = flags.ok_or(Errno::EBUSY)?;
            cursor.protect_huge(addr, flags - PteFlags::WRITE);
            flags
        };
        // The cursor has flushed: who wrote before is done.
        let is_ours = is_held_once(old);
        if is_ours {
            become_twin(new, old);
        }
        let mut cursor = self.page_table().cursor(page);
        let dirty = cursor.query_huge(addr).unwrap_or(PteFlags::empty()) & PteFlags::DIRTY;
        let moved = is_ours && cursor.replace_huge(addr, new.clone(), flags | dirty).is_ok();
        if !moved {
            cursor.protect_huge(addr, flags);
            new.meta().flags.store(page_flags::HUGETLB, Ordering::Relaxed);
            new.meta().owner.store(0, Ordering::Relaxed);
            return Err(Errno::EBUSY);
        }
        old.meta().owner.store(0, Ordering::Relaxed);
        Ok(())
    }
}
