//! Pages on request: populate, and access from outside (ptrace(2), /proc/PID/mem, process_vm_readv(2), exec).

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use hal::frame::Frame;
use hal::paging::{Cursor, Entry, PteFlags};
use hal::{PAGE_SIZE, PageRange, UserAddr};
use sched::Interruptible;

use crate::fault::{FaultError, Got, Need, Step};
use crate::hugetlb;
use crate::map::refused;
use crate::mapping::{Mapping, page_flags};
use crate::pin::is_pinned;
use crate::space::Mm;
use crate::sysctl;
use crate::vma::{VmFlags, Vma};

/// Whether an access obeys the rights of the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// As the process itself.
    Obey,
    /// As the process itself, without waiting for who watches its memory (userfaultfd(2)): the access ends there.
    Unwatched,
    /// As a debugger: read what could be made readable, write private copies of what cannot be written.
    Force,
}

/// Whether an access is made to memory that the kernel must not touch for anyone (memfd_secret(2)).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secrets {
    Shown,
    Hidden,
}

/// Rounds that an access is tried by a thread that is to die. That of a core dump is, and needs a few.
pub(crate) const PATIENCE: u32 = 32;

impl Mm {
    /// Whether a part of `range` is memory that the kernel must not touch for anyone. Takes `space` for reading.
    pub fn has_secret(&self, range: core::ops::Range<u64>) -> bool {
        let is_secret = |v: &Vma| v.attr.backing.object().is_some_and(|o| o.is_secret());
        self.space.read().set.overlapping(range).any(is_secret)
    }

    /// Faults in the pages of `range`: for writing where the VMA is private and writable, or as `write` says.
    ///
    /// `ENOMEM` at a hole or without memory, `EFAULT` beyond the end of a file.
    pub(crate) fn populate_with(&self, range: Range<u64>, write: Option<bool>) -> Result<()> {
        let (mut at, mut got) = (range.start, Got::default());
        while at < range.end {
            let space = self.space.read();
            let Some(vma) = space.set.find(at).filter(|v| v.start < range.end) else { break };
            if write.is_some() && vma.start > at {
                return Err(Errno::ENOMEM);
            }
            at = at.max(vma.start);
            let end = vma.end.min(range.end);
            let flags = vma.attr.flags;
            let special = flags.intersects(VmFlags::PFNMAP | VmFlags::IO);
            let denied = !flags.intersects(VmFlags::ACCESS)
                || (write == Some(true) && !flags.contains(VmFlags::WRITE))
                || (write == Some(false) && !flags.contains(VmFlags::READ));
            // madvise(2) tells what it cannot populate; the others leave it out.
            if write.is_some() && (special || denied) {
                return Err(Errno::EINVAL);
            }
            if special || denied || (write.is_none() && flags.contains(VmFlags::LOCKONFAULT)) {
                at = end;
                continue;
            }
            let write = write.unwrap_or(flags.is_private_writable());
            let need = Need { write, ..Need::READ };
            // One hold of the lock for some pages: long enough to be cheap, short enough for writers.
            let stop = end.min(at.saturating_add(64 * PAGE_SIZE as u64));
            let mut wait = None;
            while at < stop && wait.is_none() {
                match self.fault_vma(vma, at, need)? {
                    Step::Done => at = hugetlb::end_of_page(vma, at),
                    Step::Wait(what) => wait = Some(what),
                }
            }
            drop(space);
            if let Some(wait) = wait {
                wait.finish(self, at, &mut got)?;
            }
        }
        if write.is_some() && at < range.end { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Gives `visit` the frame behind `addr`, faulted in for `need`, while the page table is locked. May sleep; `visit` must
    /// not.
    ///
    /// That the mapping allows the access, and that the page is one that it may write to, is found under the same hold of
    /// the locks: another thread may give the page back, map it anew or have it shared at any time before and after.
    ///
    /// `Interrupted`: the caller is to die, and others take the page away all the time.
    pub(crate) fn access<R>(
        &self,
        addr: u64,
        need: Need,
        secrets: Secrets,
        visit: impl FnOnce(&Frame) -> R,
    ) -> Result<R, FaultError> {
        let page = PageRange::page_of(UserAddr(addr)).ok_or(FaultError::SegvMaperr)?;
        let mut rounds = 0u32;
        loop {
            {
                let space = self.space.read();
                if let Some(vma) = space.set.at(addr) {
                    if secrets == Secrets::Hidden && vma.attr.backing.object().is_some_and(|o| o.is_secret())
                    {
                        return Err(FaultError::SegvAccerr);
                    }
                    let is_ready = !need.write || !need.force || is_marked(vma.attr.flags);
                    if is_ready && need.is_allowed(vma.attr.flags) {
                        let mut cursor = self.page_table().cursor(page);
                        if let Some(frame) = usable(&mut cursor, vma, page.start(), need) {
                            return Ok(visit(&frame));
                        }
                    }
                }
            }
            if rounds >= PATIENCE && sched::current().is_interrupted(Interruptible::Killable) {
                return Err(FaultError::Interrupted);
            }
            rounds = rounds.saturating_add(1);
            if need.write && need.force {
                self.expect_copies(addr).map_err(|_| FaultError::Oom)?;
            }
            self.fault_in(addr, need)?;
        }
    }

    /// A reference to the frame behind `addr`, for a transfer or a question about the frame. May sleep.
    ///
    /// With `write` it is one that the process may change at that moment; others may replace it in the page table at once.
    ///
    /// `EFAULT`: the access is not allowed. `ENOMEM`: no memory.
    pub fn pin_page(&self, addr: UserAddr, write: bool) -> Result<Frame> {
        Ok(self.access(addr.as_u64(), Need { write, ..Need::READ }, Secrets::Shown, Frame::clone)?)
    }

    /// The page cache and offset in it behind `addr`, when the mapping there is shared; `None` for private memory.
    ///
    /// `EFAULT`: nothing is mapped there. Takes `space` for reading; may sleep.
    pub fn shared_location(&self, addr: u64) -> Result<Option<(Arc<Mapping>, u64)>> {
        let space = self.space.read();
        let vma = space.set.at(addr).ok_or(Errno::EFAULT)?;
        if vma.attr.is_private() {
            return Ok(None);
        }
        Ok(vma.attr.backing.mapping().map(|m| (m.clone(), vma.attr.offset_at(vma.start, addr))))
    }

    /// Reads memory at `addr`; returns how many bytes could be. May sleep.
    pub fn read_remote(&self, addr: u64, buf: &mut [u8], rights: Rights) -> usize {
        let need =
            Need { force: rights == Rights::Force, unwatched: rights == Rights::Unwatched, ..Need::READ };
        let mut done = 0;
        while done < buf.len() {
            let Some((at, offset, len)) = piece(addr, done, buf.len()) else { break };
            let Some(part) = buf.get_mut(done..done + len) else { break };
            if self.access(at, need, Secrets::Hidden, |frame| frame.read(offset, part)).is_err() {
                break;
            }
            done += len;
        }
        done
    }

    /// Writes memory at `addr`; returns how many bytes could be. May sleep.
    pub fn write_remote(&self, addr: u64, buf: &[u8], rights: Rights) -> usize {
        let need =
            Need { force: rights == Rights::Force, unwatched: rights == Rights::Unwatched, ..Need::WRITE };
        let mut done = 0;
        while done < buf.len() {
            let Some((at, offset, len)) = piece(addr, done, buf.len()) else { break };
            let Some(part) = buf.get(done..done + len) else { break };
            if self.access(at, need, Secrets::Hidden, |frame| frame.write(offset, part)).is_err() {
                break;
            }
            done += len;
        }
        done
    }

    /// Marks the VMA at `addr` as one that may hold private copies, before a debugger makes one in it.
    pub(crate) fn expect_copies(&self, addr: u64) -> Result<()> {
        if self.space.read().set.at(addr).is_none_or(|v| is_marked(v.attr.flags)) {
            return Ok(());
        }
        let mut space = self.space.write();
        if let Some(vma) = space.set.at(addr).filter(|v| !is_marked(v.attr.flags)) {
            let (range, mut attr) = (vma.start..vma.end, vma.attr.clone());
            attr.flags |= VmFlags::COWED;
            space.set.modify(range, attr, sysctl::max_map_count()).map_err(refused)?;
        }
        Ok(())
    }
}

/// Whether a fork knows that the memory may hold private copies, or there never are any.
fn is_marked(flags: VmFlags) -> bool {
    flags.intersects(VmFlags::COWED | VmFlags::MAYSHARE)
}

/// The frame that `vma` shows at `addr`, if an access for `need`, which the mapping allows, can use it as it is. For a write
/// that is one that only the writer changes, or a page of a shared mapping that may be written; its entry becomes dirty.
pub(crate) fn usable(cursor: &mut Cursor<'_>, vma: &Vma, addr: u64, need: Need) -> Option<Frame> {
    let Entry::Present { frame, flags } = cursor.query(addr) else { return None };
    if !need.write {
        return Some(frame);
    }
    let is_large = frame.is_in_huge() && cursor.query_huge(addr).is_some();
    let frame = if flags.contains(PteFlags::WRITE) {
        frame
    } else {
        // What cannot be written is written to for a debugger: to a copy that no one else has.
        if !vma.attr.is_private() || (flags.contains(PteFlags::WATCHED) && vma.attr.tells_writes()) {
            return None;
        }
        own_page(cursor, addr, frame, is_large)?
    };
    let dirty = PteFlags::ACCESSED | PteFlags::DIRTY;
    // As the hardware does, so that nobody takes the page for one that is still clean.
    let is_set = match (flags.contains(dirty), is_large) {
        (true, _) => true,
        (false, true) => cursor.protect_huge(addr, flags | dirty),
        (false, false) => cursor.protect(addr, flags | dirty),
    };
    is_set.then_some(frame)
}

/// Gives `frame`, which the entry at `addr` shows, back if it is a private page that nobody else has.
fn own_page(cursor: &mut Cursor<'_>, addr: u64, frame: Frame, is_large: bool) -> Option<Frame> {
    let is_own = |kind: u32| kind & (page_flags::ANON | page_flags::KSM) == page_flags::ANON;
    if !is_large {
        // Two references: the entry's and the one in `frame`. What is pinned is in one address space only (`pin`).
        let is_alone = frame.ref_count() == 2 || is_pinned(&frame);
        return Some(frame).filter(|f| is_alone && is_own(f.meta().flags.load(Ordering::Relaxed)));
    }
    // Our own reference would hide that nobody else has one.
    drop(frame);
    let kind = cursor.huge_frame(addr)?.0.frame(0).meta().flags.load(Ordering::Relaxed);
    if !is_own(kind) || !cursor.is_huge_exclusive(addr) {
        return None;
    }
    match cursor.query(addr) {
        Entry::Present { frame, .. } => Some(frame),
        _ => None,
    }
}

/// The next piece of an access within one page: address, offset in the page, length.
fn piece(addr: u64, done: usize, len: usize) -> Option<(u64, usize, usize)> {
    let at = addr.checked_add(done as u64)?;
    let offset = UserAddr(at).page_offset();
    Some((at, offset, (PAGE_SIZE - offset).min(len - done)))
}
