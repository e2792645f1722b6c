//! Memory of a process that a device reads or fills while the process goes on.
//!
//! ```text
//! a device reads it    references to the pages: what the process stores meanwhile is taken along or not
//! a device fills it    pins ([`crate::pin`]): a fork meanwhile copies the page for the child, the process keeps its own
//! ```
//! A page of a file that is filled would have to be dirty after the last byte came, which only who copies to it can see to:
//! such memory is not lent.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use hal::frame::Frame;
use hal::sync::Once;
use hal::uio::{FramePart, UserBuf};
use hal::{PAGE_SIZE, PageRange, UserAddr};
use sched::Interruptible;

use crate::fault::{FaultError, Need};
use crate::mapping::page_flags;
use crate::pin::{check_memory, count_pin, uncount_pin};
use crate::remote::{PATIENCE, usable};
use crate::space::Mm;

/// Most pages that are looked up under one hold of the locks.
const RUN: u64 = 64;

/// What becomes of memory that is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lend {
    /// It is read.
    ToRead,
    /// It is filled.
    ToFill,
}

/// Parts of pages that stay what they are, and where they are, as long as this lives. May be dropped in any context.
#[derive(Debug)]
pub struct LentMemory {
    parts: Vec<FramePart>,
    lend: Lend,
}

static CURRENT: Once<fn() -> Option<Arc<Mm>>> = Once::new();

/// Registers what gives the address space of the calling thread; only the first call counts.
pub fn register_current(current: fn() -> Option<Arc<Mm>>) {
    CURRENT.call_once(|| current);
}

/// Lends memory of the calling thread, as [`Mm::lend`]. `EFAULT`: it has no address space.
pub fn lend(bufs: &[UserBuf], lend: Lend) -> Result<Option<LentMemory>> {
    CURRENT.get().and_then(|current| current()).ok_or(Errno::EFAULT)?.lend(bufs, lend)
}

/// Why a page is not lent.
enum Refused {
    /// It belongs to a file.
    OfFile,
    /// It has too many pins.
    TooMany,
}

impl LentMemory {
    /// As lent, what stays in its place by other means.
    pub fn of_parts(parts: Vec<FramePart>) -> Self {
        Self { parts, lend: Lend::ToRead }
    }

    /// The parts, in the order of the buffers.
    pub fn parts(&self) -> &[FramePart] {
        &self.parts
    }

    /// Takes `len` bytes of `frame` from `offset` on, a page of `mm`, whose `space` is held and page table locked: no fork comes
    /// between the look at the page and the pin.
    fn add(&mut self, mm: &Mm, frame: Frame, offset: usize, len: usize) -> core::result::Result<(), Refused> {
        if self.lend == Lend::ToFill {
            if frame.meta().flags.load(Ordering::Relaxed) & page_flags::FILE != 0 {
                return Err(Refused::OfFile);
            }
            mm.has_pinned.store(true, Ordering::SeqCst);
            count_pin(&frame).map_err(|_| Refused::TooMany)?;
        }
        // There is room: `Mm::lend` has seen to it.
        self.parts.push(FramePart { frame, offset, len });
        Ok(())
    }
}

impl Drop for LentMemory {
    fn drop(&mut self) {
        if self.lend == Lend::ToFill {
            self.parts.iter().for_each(|part| uncount_pin(&part.frame));
        }
    }
}

impl Mm {
    /// Lends the memory `bufs`. `None`: some of it is to be filled and belongs to a file. May sleep.
    ///
    /// `EFAULT`: some of it is not there for this. `ENOMEM`: no memory, or a page has too many pins.
    pub fn lend(&self, bufs: &[UserBuf], lend: Lend) -> Result<Option<LentMemory>> {
        let mut memory = LentMemory { parts: Vec::new(), lend };
        let nr_pages = |buf: &UserBuf| (buf.addr.page_offset() + buf.len).div_ceil(PAGE_SIZE);
        let nr = bufs.iter().map(nr_pages).sum();
        memory.parts.try_reserve_exact(nr).map_err(|_| Errno::ENOMEM)?;
        for buf in bufs {
            let end = buf.addr.as_u64().checked_add(buf.len as u64).ok_or(Errno::EFAULT)?;
            let mut at = buf.addr.as_u64();
            while at < end {
                match self.lend_some(&mut memory, at, end)? {
                    Ok(next) => at = next,
                    Err(Refused::OfFile) => return Ok(None),
                    Err(Refused::TooMany) => return Err(Errno::ENOMEM),
                }
            }
        }
        Ok(Some(memory))
    }

    /// Lends pages from `at` on, at least one; where to go on.
    fn lend_some(
        &self,
        memory: &mut LentMemory,
        at: u64,
        end: u64,
    ) -> Result<core::result::Result<u64, Refused>> {
        let need = if memory.lend == Lend::ToFill { Need::WRITE } else { Need::READ };
        let mut rounds = 0_u32;
        loop {
            let next = self.lend_present(memory, at, end, need)?;
            if !matches!(next, Ok(next) if next == at) {
                return Ok(next);
            }
            if rounds >= PATIENCE && sched::current().is_interrupted(Interruptible::Killable) {
                return Err(FaultError::Interrupted.into());
            }
            rounds = rounds.saturating_add(1);
            self.fault_in(at, need)?;
        }
    }

    /// Lends pages from `at` on as far as they are there, of one mapping.
    fn lend_present(
        &self,
        memory: &mut LentMemory,
        mut at: u64,
        end: u64,
        need: Need,
    ) -> Result<core::result::Result<u64, Refused>> {
        // Held over the look and the pins, so that no fork comes between them.
        let space = self.space.read();
        let Some(vma) = space.set.at(at).filter(|vma| need.is_allowed(vma.attr.flags)) else {
            return Ok(Ok(at));
        };
        check_memory(vma)?;
        let first = UserAddr(at).page().as_u64();
        let stop = end.min(vma.end).min(first.saturating_add(RUN * PAGE_SIZE as u64));
        let Some(range) = PageRange::new(first, stop.next_multiple_of(PAGE_SIZE as u64)) else {
            return Ok(Ok(at));
        };
        let mut cursor = self.page_table().cursor(range);
        while at < stop {
            let (page, offset) = (at & !(PAGE_SIZE as u64 - 1), (at % PAGE_SIZE as u64) as usize);
            let Some(frame) = usable(&mut cursor, vma, page, need) else { break };
            let len = len_in_page(at, stop);
            if let Err(refused) = memory.add(self, frame, offset, len) {
                return Ok(Err(refused));
            }
            at += len as u64;
        }
        Ok(Ok(at))
    }
}

/// How many of the bytes `at..end` lie in the page of the first.
fn len_in_page(at: u64, end: u64) -> usize {
    (end - at).min(PAGE_SIZE as u64 - at % PAGE_SIZE as u64) as usize
}
