//! Page faults.
//!
//! ```text
//! what is mapped there   read                          write
//! nothing, anonymous     the page of zeroes            a new page of zeroes, or a large one (`thp`)
//! nothing, file          up to 16 cached pages around  shared: the page; private: a copy of it
//! page, not writable     (nothing to do)               private: reuse it when no one else has it, else copy
//! ```
//!
//! A private page is reused when its only reference is the page table's (and ours): the cursor is locked,
//! so nobody can take another one from this table, and no other holder exists.
//!
//! Faults of a process of several threads take the lock of a part of the address space only (`parts`).
//!
//! `anon` has the faults on private memory, `file` those on files and objects, `wait` what a fault waits for.

mod anon;
mod file;
mod wait;

use core::sync::atomic::Ordering;

use abi::Errno;
use hal::frame::Frame;
use hal::paging::PteFlags;
use hal::sync::Once;
use hal::trap::Access;
use hal::{PAGE_SIZE, PageRange, UserAddr};

use crate::counters;
use crate::mapping::page_flags;
use crate::oom::Oom;
use crate::parts::{Parts, may_write_alone};
use crate::space::Mm;
use crate::swap::Pinned;
use crate::vma::{Backing, VmFlags, Vma, VmaAttr};
use crate::watch::{WatchModes, fault_of};

pub(crate) use wait::{Got, Step, Wait};

/// Entry of a page that no access may touch (`MADV_GUARD_INSTALL`).
pub(crate) const GUARD_MARKER: u64 = 1;

/// Why an access cannot be made good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// Nothing is mapped there: `SIGSEGV` with `SEGV_MAPERR`.
    SegvMaperr,
    /// The mapping does not allow the access: `SIGSEGV` with `SEGV_ACCERR`.
    SegvAccerr,
    /// The contents are lost: `SIGBUS` with `BUS_MCEERR_AR`.
    Poison,
    /// A signal came while the caller waited for user space to make it good. User code tries again after the signal.
    Interrupted,
    /// The caller's rights over this protection key refuse it: `SIGSEGV` with `SEGV_PKUERR`.
    Key(u8),
    /// The file has no page there, or it cannot be read: `SIGBUS` with `BUS_ADRERR`.
    Bus,
    /// No memory, and the caller is to die.
    Oom,
}

impl From<Oom> for FaultError {
    fn from(_: Oom) -> Self {
        Self::Oom
    }
}

impl From<FaultError> for Errno {
    fn from(e: FaultError) -> Self {
        match e {
            FaultError::Oom => Errno::ENOMEM,
            _ => Errno::EFAULT,
        }
    }
}

/// How a fault was made good, for `ru_minflt` and `ru_majflt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Without waiting for a device.
    Minor,
    /// A page was read.
    Major,
}

/// What an access needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    pub write: bool,
    pub exec: bool,
    /// A debugger's access: the right to make it possible (`MAYWRITE`, `MAYREAD`) is enough.
    pub force: bool,
    /// Made by user code.
    pub user_mode: bool,
    /// For everybody: who watches the memory is not waited for. What only they could make good is `Bus`.
    pub unwatched: bool,
}

impl Need {
    pub const READ: Need =
        Need { write: false, exec: false, force: false, user_mode: false, unwatched: false };
    pub const WRITE: Need = Need { write: true, ..Need::READ };

    /// Whether the VMA grants it.
    pub fn is_allowed(self, flags: VmFlags) -> bool {
        if self.write {
            // Nobody is given a page of the pool of huge ones for it.
            let never = VmFlags::MAYSHARE | VmFlags::HUGETLB;
            let forced = self.force && flags.contains(VmFlags::MAYWRITE) && !flags.intersects(never);
            flags.contains(VmFlags::WRITE) || forced
        } else if self.exec {
            flags.contains(VmFlags::EXEC)
        } else {
            // Without protection keys x86 cannot write or execute without reading.
            flags.intersects(VmFlags::ACCESS) || (self.force && flags.contains(VmFlags::MAYREAD))
        }
    }
}

/// The outcome of one attempt under the page-table lock.
enum Attempt {
    Done,
    /// A frame or page-table page was missing: make memory free and try again.
    NoMemory,
    /// The page is not cached: fetch it and try again.
    NotCached,
    /// The page must be announced as dirty first.
    WantsNotify(Frame),
    /// The page is in swap.
    Swapped(Pinned),
    /// User space makes it good.
    Watched(WatchModes),
    /// A write to the huge page of zeroes, in whose place a huge page is wanted.
    HugeZero,
}

/// The page of zeroes that reads of untouched memory see.
pub(crate) fn zero_frame() -> Option<Frame> {
    static ZERO: Once<Option<Frame>> = Once::new();
    ZERO.call_once(|| {
        let frame = Frame::alloc_zeroed()?;
        frame.meta().flags.store(page_flags::ZERO, Ordering::Relaxed);
        Some(frame)
    })
    .clone()
}

/// The flags of an entry of a VMA with `attr`.
#[inline]
pub(crate) fn pte_flags(attr: &VmaAttr, writable: bool) -> PteFlags {
    let mut flags = PteFlags::from_bits_retain(u32::from(attr.pkey) << 16);
    flags.set(PteFlags::WRITE, writable);
    flags.set(PteFlags::EXEC, attr.flags.contains(VmFlags::EXEC));
    flags.set(PteFlags::NONE, !attr.flags.intersects(VmFlags::ACCESS));
    flags
}

/// Flags of an entry that is set because of an access.
pub(crate) fn touched(attr: &VmaAttr, writable: bool, write: bool) -> PteFlags {
    let mut flags = pte_flags(attr, writable) | PteFlags::ACCESSED;
    flags.set(PteFlags::DIRTY, write);
    flags
}

fn page_at(addr: u64) -> Option<PageRange> {
    PageRange::page_of(UserAddr(addr))
}

impl Mm {
    /// Makes an access to `addr` possible. May sleep.
    ///
    /// Called for user mode and for user copies of the kernel alike; takes `space` for reading, and for
    /// writing when a stack grows.
    pub fn handle_fault(&self, addr: UserAddr, access: Access) -> Result<FaultKind, FaultError> {
        counters::PGFAULT.add(1);
        if access.by_key {
            return Err(self.refused_by_key(addr.as_u64()));
        }
        let Access { write, exec, user_mode, .. } = access;
        self.fault_in(addr.as_u64(), Need { write, exec, user_mode, ..Need::READ })
    }

    /// The error of an access that the rights over the page's key refuse. A page that is not there yet comes first: the
    /// access is tried again, and refused then.
    #[cold]
    fn refused_by_key(&self, addr: u64) -> FaultError {
        self.space.read().set.at(addr).map_or(FaultError::SegvMaperr, |vma| FaultError::Key(vma.attr.pkey))
    }

    /// As [`handle_fault`](Self::handle_fault) for any need.
    pub(crate) fn fault_in(&self, addr: u64, need: Need) -> Result<FaultKind, FaultError> {
        if let Some(parts) = self.space.parts()
            && self.fault_in_part(parts, addr, need)
        {
            return Ok(FaultKind::Minor);
        }
        let mut got = Got::default();
        loop {
            let wait = {
                let space = self.space.read();
                match space.set.find(addr) {
                    Some(vma) if vma.start <= addr => match self.fault_vma(vma, addr, need)? {
                        Step::Done => {
                            if let Some(parts) = self.space.parts() {
                                parts.fill(vma, addr, &space);
                            }
                            return Ok(got.kind);
                        }
                        Step::Wait(wait) => Some(wait),
                    },
                    Some(vma) if vma.attr.flags.contains(VmFlags::GROWSDOWN) => None,
                    _ => return Err(FaultError::SegvMaperr),
                }
            };
            match wait {
                Some(Wait::Watched(..)) if need.unwatched => return Err(FaultError::Bus),
                Some(wait) => wait.finish(self, addr, &mut got)?,
                None => self.grow_stack(addr)?,
            }
        }
    }

    /// Makes an access possible in the part around `addr`, without `space`. `false`: there is none, or more is to be done
    /// than that; what an error would be, the slow way finds, too.
    fn fault_in_part(&self, parts: &Parts, addr: u64, need: Need) -> bool {
        let done = parts.with(addr, |vma| {
            (!need.write || may_write_alone(vma)) && matches!(self.fault_vma(vma, addr, need), Ok(Step::Done))
        });
        done == Some(true)
    }

    /// One attempt to make an access inside of `vma` possible; the caller holds `space`, or `vma` is a part that it holds.
    #[inline]
    pub(crate) fn fault_vma(&self, vma: &Vma, addr: u64, need: Need) -> Result<Step, FaultError> {
        if !need.is_allowed(vma.attr.flags) {
            return Err(FaultError::SegvAccerr);
        }
        let page = page_at(addr).ok_or(FaultError::SegvMaperr)?;
        match &vma.attr.backing {
            Backing::Anonymous => match self.fault_anonymous(vma, page, need)? {
                Attempt::Done => Ok(Step::Done),
                Attempt::Swapped(page) => Ok(Step::Wait(Wait::Swapped(page))),
                Attempt::Watched(kind) => Ok(wait_for_watcher(vma, addr, need, kind)),
                Attempt::HugeZero => self.write_huge_zero(vma, page, need),
                _ => Ok(Step::Wait(Wait::Memory)),
            },
            Backing::File(_) if vma.attr.flags.contains(VmFlags::HUGETLB) => {
                self.fault_hugetlb(vma, addr, need)
            }
            Backing::File(_) => match vma.attr.backing.mapping() {
                Some(mapping) => match self.find_watched(vma, page, need, mapping) {
                    Some(kind) => Ok(wait_for_watcher(vma, addr, need, kind)),
                    None => self.fault_file(vma, page, need, mapping),
                },
                None => self.fault_object(vma, page, need),
            },
        }
    }
}

/// The step of a fault that the watcher of `vma` makes good.
#[cold]
pub(crate) fn wait_for_watcher(vma: &Vma, addr: u64, need: Need, kind: WatchModes) -> Step {
    match &vma.attr.watch {
        Some(watch) => Step::Wait(Wait::Watched(watch.by.clone(), fault_of(vma, addr, need, kind))),
        // Only VMAs with a watch have such faults.
        None => Step::Done,
    }
}

pub(crate) fn copy_of(frame: &Frame) -> Option<Frame> {
    let copy = Frame::alloc_user()?;
    copy.copy_from(frame);
    Some(copy)
}

fn done_or_no_memory(result: Result<(), hal::NoMemory>) -> Attempt {
    match result {
        Ok(()) => Attempt::Done,
        Err(_) => Attempt::NoMemory,
    }
}

/// Byte length of `nr` pages.
pub(crate) const fn bytes(nr: u64) -> u64 {
    nr * PAGE_SIZE as u64
}
