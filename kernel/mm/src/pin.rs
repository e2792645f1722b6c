//! Pages pinned for long: what a device, or the kernel in its place, reads and writes while the process goes on.
//!
//! ```text
//! pin        the page is made writable, so it is nobody else's; the count in its flags says that it is pinned
//! fork       the child gets a copy at once; the parent keeps the pinned page
//! write      to a pinned page whose entry became read-only: reused, never copied
//! ```
//! A pinned private page therefore is in one address space only, and what the process writes is what the pin sees. The
//! reference that a pin holds keeps reclaim and huge pages' collapse away, as any other does.
//!
//! LINUX: `pin_user_pages` with `FOLL_WRITE | FOLL_LONGTERM`.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use hal::frame::{Frame, HUGE_FRAMES};
use hal::paging::{Entry, PteFlags};
use hal::{PAGE_SIZE, PageRange, UserAddr};

use crate::fault::{Got, Need, Step, copy_of, touched};
use crate::hugetlb;
use crate::mapping::page_flags;
use crate::oom;
use crate::space::{Mm, Space};
use crate::vma::{Backing, VmFlags, Vma};

/// One pin, in a frame's flags: the upper half counts them.
const ONE: u32 = 1 << 16;

/// Whether somebody has pinned `frame`.
pub(crate) fn is_pinned(frame: &Frame) -> bool {
    frame.meta().flags.load(Ordering::Acquire) >= ONE
}

/// A page that is pinned as long as this lives.
#[derive(Debug)]
pub struct PinnedPage(Frame);

impl PinnedPage {
    /// Pins `frame`. `ENOMEM`: it has too many pins.
    fn new(frame: Frame) -> Result<Self> {
        count_pin(&frame)?;
        Ok(Self(frame))
    }

    /// The page.
    pub fn frame(&self) -> &Frame {
        &self.0
    }
}

impl Drop for PinnedPage {
    fn drop(&mut self) {
        uncount_pin(&self.0);
    }
}

/// Counts one more pin of `frame`. `ENOMEM`: it has too many.
pub(crate) fn count_pin(frame: &Frame) -> Result<()> {
    let more = |flags: u32| flags.checked_add(ONE);
    let counted = frame.meta().flags.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more);
    counted.map(drop).map_err(|_| Errno::ENOMEM)
}

/// Takes back what [`count_pin`] counted.
pub(crate) fn uncount_pin(frame: &Frame) {
    frame.meta().flags.fetch_sub(ONE, Ordering::AcqRel);
}

/// Whether pages of `vma` may be given to a device. `EFAULT`: they are no memory, or nobody's to touch (memfd_secret(2)).
pub(crate) fn check_memory(vma: &Vma) -> Result<()> {
    let is_special = vma.attr.flags.intersects(VmFlags::PFNMAP | VmFlags::IO)
        || vma.attr.backing.object().is_some_and(|object| object.is_secret());
    if is_special { Err(Errno::EFAULT) } else { Ok(()) }
}

/// Whether the pages of `vma` may be pinned for writing. `EFAULT`: they may not be written, are no memory, or a file
/// system would have to be told of each write.
fn check(vma: &Vma) -> Result<()> {
    check_memory(vma)?;
    let attr = &vma.attr;
    let is_told = !attr.is_private() && attr.backing.mapping().is_some_and(|m| m.wants_write_notify());
    if is_told || !attr.flags.contains(VmFlags::WRITE) { Err(Errno::EFAULT) } else { Ok(()) }
}

impl Mm {
    /// Pins the pages that hold the bytes `range`, which become writable. May sleep.
    ///
    /// `EFAULT`: some cannot be pinned. `ENOMEM`: no memory, or a page has too many pins.
    pub fn pin_for_long(&self, range: Range<u64>) -> Result<Vec<PinnedPage>> {
        let page = PAGE_SIZE as u64;
        let mut at = range.start & !(page - 1);
        let nr = range.end.checked_sub(at).ok_or(Errno::EFAULT)?.div_ceil(page);
        let mut pages = Vec::new();
        pages.try_reserve_exact(nr as usize).map_err(|_| Errno::ENOMEM)?;
        while at < range.end {
            pages.push(self.pin_one(at)?);
            at += page;
        }
        Ok(pages)
    }

    fn pin_one(&self, addr: u64) -> Result<PinnedPage> {
        let page = PageRange::page_of(UserAddr(addr)).ok_or(Errno::EFAULT)?;
        let mut got = Got::default();
        loop {
            // Held over the fault and the pin, so that no fork comes between them.
            let space = self.space.read();
            let vma = space.set.at(addr).ok_or(Errno::EFAULT)?;
            check(vma)?;
            let wait = match self.fault_vma(vma, addr, Need::WRITE)? {
                Step::Done => None,
                Step::Wait(wait) => Some(wait),
            };
            if let Some(wait) = wait {
                drop(space);
                wait.finish(self, addr, &mut got)?;
                continue;
            }
            // Taken back already by another thread? Then once more.
            if let Entry::Present { frame, flags } = self.page_table().cursor(page).query(page.start())
                && flags.contains(PteFlags::WRITE)
            {
                // `space` is held: no fork comes between this and the pin.
                self.has_pinned.store(true, Ordering::SeqCst);
                return PinnedPage::new(frame);
            }
        }
    }

    /// Gives `child`, a copy of this address space that nobody uses yet, pages of its own where it shares pinned ones.
    ///
    /// The caller holds `space` of both for writing: `parent` and `own`. So nothing is pinned meanwhile, and when nothing is, the
    /// next fork need not look. `ENOMEM`. May sleep.
    pub(crate) fn copy_pinned(&self, parent: &Space, child: &Self, own: &Space) -> Result<()> {
        if !self.has_pinned.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut is_any = false;
        for vma in parent.set.iter().filter(|vma| vma.attr.is_private()) {
            if vma.attr.flags.intersects(VmFlags::DONTCOPY | VmFlags::WIPEONFORK) {
                // The child has nothing of it, and a later one may.
                is_any = true;
                continue;
            }
            let is_file = matches!(vma.attr.backing, Backing::File(_));
            if vma.attr.flags.contains(VmFlags::HUGETLB) {
                is_any |= hugetlb::copy_pinned(child, own, vma.start..vma.end)?;
            } else if !is_file || vma.attr.flags.contains(VmFlags::COWED) {
                is_any |= child.copy_pinned_of(vma)?;
            }
        }
        if !is_any {
            self.has_pinned.store(false, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Whether there were any.
    fn copy_pinned_of(&self, vma: &Vma) -> Result<bool> {
        let Some(range) = PageRange::new(vma.start, vma.end) else { return Ok(false) };
        let writable = vma.attr.flags.contains(VmFlags::WRITE);
        let (mut at, mut is_any) = (range.start(), false);
        loop {
            let mut cursor = self.page_table().cursor(range);
            let found = loop {
                let Some((addr, entry)) = cursor.next_mapped(at) else { break None };
                at = addr + PAGE_SIZE as u64;
                if let Entry::Present { frame, .. } = entry
                    && is_pinned(&frame)
                    && frame.meta().flags.load(Ordering::Relaxed) & page_flags::ANON != 0
                {
                    break Some((addr, frame));
                }
            };
            let Some((addr, frame)) = found else { return Ok(is_any) };
            is_any = true;
            let done = match copy_of(&frame) {
                Some(copy) => {
                    copy.meta().flags.store(page_flags::ANON, Ordering::Relaxed);
                    cursor.map(addr, copy, touched(&vma.attr, writable, true)).is_ok()
                }
                None => false,
            };
            drop(cursor);
            if !done {
                oom::relieve()?;
                at = addr;
            }
        }
    }
}

/// Whether somebody has pinned a part of the huge page whose parts `part` gives.
pub(crate) fn is_any_pinned(part: impl Fn(usize) -> Frame) -> bool {
    (0..HUGE_FRAMES).any(|idx| is_pinned(&part(idx)))
}
