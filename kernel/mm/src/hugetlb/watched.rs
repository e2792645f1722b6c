//! Huge pages whose faults user space makes good (userfaultfd(2)): as [`crate::supply`] has it for small ones.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use abi::{Errno, Result};
use hal::frame::{Frame, HUGE_FRAMES, HugeFrame};
use hal::paging::{Cursor, Entry, PteFlags};
use hal::{PAGE_SIZE, PageRange};

use super::fault::Fault;
use super::{SIZE, is_pooled};
use crate::fault::{Need, Step};
use crate::oom;
use crate::space::Mm;
use crate::supply::{Protect, Supply, copy_from_caller, watched_vma};
use crate::vma::{VmFlags, Vma};
use crate::watch::{POISON_MARKER, WP_MARKER, WatchModes, Watcher};

/// Whether a range is made of whole huge pages. `EINVAL`: it is not.
pub(crate) fn check_whole(range: &Range<u64>) -> Result<()> {
    let is_whole = range.start.is_multiple_of(SIZE) && range.end.is_multiple_of(SIZE);
    if is_whole { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Gives the huge page at `addr` that `entry` is a part of other flags; where it ends. `None`: it is no such page.
pub(crate) fn protect_entry(
    cursor: &mut Cursor<'_>,
    addr: u64,
    entry: &Entry,
    flags: PteFlags,
) -> Option<u64> {
    if !is_pooled(entry) {
        return None;
    }
    cursor.protect_huge(addr, flags);
    Some((addr & !(SIZE - 1)) + SIZE)
}

/// Copies of the small pages of a huge one of the calling process. Sleeps. `EFAULT`, `ENOMEM`.
fn copy_huge_from_caller(from: u64) -> Result<Vec<Frame>> {
    let mut parts = Vec::new();
    parts.try_reserve_exact(HUGE_FRAMES).map_err(|_| Errno::ENOMEM)?;
    for at in (from..from.saturating_add(SIZE)).step_by(PAGE_SIZE) {
        parts.push(copy_from_caller(at)?);
    }
    Ok(parts)
}

fn fill(page: &HugeFrame, parts: &[Frame]) {
    parts.iter().enumerate().for_each(|(idx, part)| page.frame(idx).copy_from(part));
}

/// LINUX: a request that finds no page tells that there is no memory.
fn no_pages(e: Errno) -> Errno {
    if e == Errno::ENOSPC { Errno::ENOMEM } else { e }
}

impl Mm {
    /// Fills the first huge page of `rest`, which lies `done` bytes behind the start. As `supply_page`.
    pub(crate) fn supply_huge(
        &self,
        rest: &Range<u64>,
        what: Supply,
        done: u64,
        protect: Protect,
        by: &Arc<dyn Watcher>,
    ) -> Result<()> {
        check_huge_supply(watched_vma(&self.space.read(), rest, by)?, what, protect)?;
        let parts = match what {
            Supply::Copy(from) => copy_huge_from_caller(from + done)?,
            _ => Vec::new(),
        };
        let mut what = what;
        loop {
            let space = self.space.read();
            let vma = watched_vma(&space, rest, by)?;
            // It may be another one by now.
            check_huge_supply(vma, what, protect)?;
            let step = self.supply_huge_once(vma, rest.start, what, &parts, protect)?;
            drop(space);
            match step {
                Step::Done => return Ok(()),
                // A page that the file got already is only to be mapped.
                Step::Wait(_) if !parts.is_empty() && self.is_in_file(rest.start) => what = Supply::Resume,
                Step::Wait(_) => {}
            }
            oom::relieve()?;
        }
    }

    /// Whether a shared mapping's file has the page at `addr`.
    fn is_in_file(&self, addr: u64) -> bool {
        let space = self.space.read();
        let fault = space.set.at(addr).and_then(|vma| Fault::new(vma, addr, Need::READ));
        fault.is_some_and(|fault| fault.is_shared() && fault.pages.get(fault.idx).is_some())
    }

    fn supply_huge_once(
        &self,
        vma: &Vma,
        addr: u64,
        what: Supply,
        parts: &[Frame],
        protect: Protect,
    ) -> Result<Step> {
        let fault = Fault::new(vma, addr, Need::READ).ok_or(Errno::EINVAL)?;
        let _steady = fault.pages.steady.read();
        let _alone = fault.pages.lock_page(fault.idx);
        {
            let mut cursor = self.page_table().cursor(fault.page);
            if cursor.huge_frame(addr).is_some()
                || !matches!(cursor.query(addr), Entry::None | Entry::Special(WP_MARKER))
            {
                return Err(Errno::EEXIST);
            }
            if what == Supply::Poison {
                cursor.set_special(addr, POISON_MARKER).map_err(|_| Errno::ENOMEM)?;
                return Ok(Step::Done);
            }
        }
        if fault.is_behind_end() {
            return Err(Errno::EFAULT);
        }
        let cached = fault.pages.get(fault.idx);
        let (page, is_ours) = match (what, cached) {
            (Supply::Resume, Some(page)) => (page, fault.is_shared()),
            (Supply::Resume, None) => return Err(Errno::EFAULT),
            (_, Some(_)) if fault.is_shared() => return Err(Errno::EEXIST),
            (_, None) if fault.is_shared() => {
                (fault.pages.get_or_make(fault.idx, |page| fill(page, parts)).map_err(no_pages)?, true)
            }
            _ => {
                let page = fault.obtain_private().map_err(no_pages)?;
                fill(&page, parts);
                (page, true)
            }
        };
        let mark = if protect == Protect::Yes { PteFlags::WATCHED } else { PteFlags::empty() };
        self.map_new(&fault, page, is_ours, mark | PteFlags::DIRTY).map_err(Errno::from)
    }

    /// Protects the huge pages of `part`; its end, or where memory ran out.
    pub(crate) fn protect_huge_part(&self, part: Range<u64>) -> core::result::Result<u64, u64> {
        for at in part.clone().step_by(SIZE as usize) {
            let Some(page) = PageRange::new(at, at + SIZE) else { break };
            let mut cursor = self.page_table().cursor(page);
            if let Some(flags) = cursor.query_huge(at) {
                cursor.protect_huge(at, (flags - PteFlags::WRITE) | PteFlags::WATCHED);
            } else if matches!(cursor.query(at), Entry::None) && cursor.set_special(at, WP_MARKER).is_err() {
                return Err(at);
            }
        }
        Ok(part.end)
    }
}

/// Whether `vma` can have such pages.
fn check_huge_supply(vma: &Vma, what: Supply, protect: Protect) -> Result<()> {
    let is_refused = !vma.attr.flags.contains(VmFlags::HUGETLB)
        || what == Supply::Zeroes
        || (protect == Protect::Yes && !vma.attr.watched().contains(WatchModes::WP));
    if is_refused { Err(Errno::EINVAL) } else { Ok(()) }
}
