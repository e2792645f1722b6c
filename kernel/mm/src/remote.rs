//! Pages on request: populate, and access from outside (ptrace(2), /proc/PID/mem, process_vm_readv(2), exec).

use alloc::sync::Arc;
use core::ops::Range;

use abi::{Errno, Result};
use hal::frame::Frame;
use hal::paging::Entry;
use hal::{PAGE_SIZE, PageRange, UserAddr};

use crate::fault::{FaultError, Got, Need, Step};
use crate::hugetlb;
use crate::map::refused;
use crate::mapping::Mapping;
use crate::space::Mm;
use crate::sysctl;
use crate::vma::{VmFlags, Vma};

/// Whether an access obeys the rights of the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// As the process itself.
    Obey,
    /// As a debugger: read what could be made readable, write private copies of what cannot be written.
    Force,
}

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

    /// The frame behind `addr`, faulted in for `need`. May sleep.
    fn frame_at(&self, addr: u64, need: Need) -> Result<Frame, FaultError> {
        let page = PageRange::page_of(UserAddr(addr)).ok_or(FaultError::SegvMaperr)?;
        loop {
            self.fault_in(addr, need)?;
            // Taken back already by another thread? Then fault once more.
            if let Entry::Present { frame, .. } = self.page_table().cursor(page).query(page.start()) {
                return Ok(frame);
            }
        }
    }

    /// As [`frame_at`](Self::frame_at) on behalf of somebody else, to whom secret memory is not shown.
    pub(crate) fn shown_frame_at(&self, addr: u64, need: Need) -> Result<Frame, FaultError> {
        let is_secret = |v: &Vma| v.attr.backing.object().is_some_and(|o| o.is_secret());
        if self.space.read().set.at(addr).is_some_and(is_secret) {
            return Err(FaultError::SegvAccerr);
        }
        self.frame_at(addr, need)
    }

    /// A reference to the frame behind `addr`, for futex keys and the like. May sleep.
    ///
    /// `EFAULT`: the access is not allowed. `ENOMEM`: no memory.
    pub fn pin_page(&self, addr: UserAddr, write: bool) -> Result<Frame> {
        Ok(self.frame_at(addr.as_u64(), Need { write, ..Need::READ })?)
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
        let need = Need { force: rights == Rights::Force, ..Need::READ };
        let mut done = 0;
        while done < buf.len() {
            let Some((at, offset, len)) = piece(addr, done, buf.len()) else { break };
            let Ok(frame) = self.shown_frame_at(at, need) else { break };
            let Some(part) = buf.get_mut(done..done + len) else { break };
            frame.read(offset, part);
            done += len;
        }
        done
    }

    /// Writes memory at `addr`; returns how many bytes could be. May sleep.
    pub fn write_remote(&self, addr: u64, buf: &[u8], rights: Rights) -> usize {
        let need = Need { force: rights == Rights::Force, ..Need::WRITE };
        let mut done = 0;
        while done < buf.len() {
            let Some((at, offset, len)) = piece(addr, done, buf.len()) else { break };
            if need.force && self.expect_copies(at).is_err() {
                break;
            }
            let Ok(frame) = self.shown_frame_at(at, need) else { break };
            let Some(part) = buf.get(done..done + len) else { break };
            frame.write(offset, part);
            done += len;
        }
        done
    }

    /// Marks the VMA at `addr` as one that may hold private copies, before a debugger makes one in it.
    pub(crate) fn expect_copies(&self, addr: u64) -> Result<()> {
        let marked = |flags: VmFlags| flags.intersects(VmFlags::COWED | VmFlags::MAYSHARE);
        if self.space.read().set.at(addr).is_none_or(|v| marked(v.attr.flags)) {
            return Ok(());
        }
        let mut space = self.space.write();
        if let Some(vma) = space.set.at(addr).filter(|v| !marked(v.attr.flags)) {
            let (range, mut attr) = (vma.start..vma.end, vma.attr.clone());
            attr.flags |= VmFlags::COWED;
            space.set.modify(range, attr, sysctl::max_map_count()).map_err(refused)?;
        }
        Ok(())
    }
}

/// The next piece of an access within one page: address, offset in the page, length.
fn piece(addr: u64, done: usize, len: usize) -> Option<(u64, usize, usize)> {
    let at = addr.checked_add(done as u64)?;
    let offset = UserAddr(at).page_offset();
    Some((at, offset, (PAGE_SIZE - offset).min(len - done)))
}
