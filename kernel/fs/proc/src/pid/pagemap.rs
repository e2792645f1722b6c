//! /proc/PID/pagemap with its ioctl, and /proc/PID/clear_refs (proc_pid_pagemap(5), proc_pid_clear_refs(5)).
//!
//! Sources: Documentation/admin-guide/mm/pagemap.rst, soft-dirty.rst (Linux 7.2).

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::{ControlFlow, Range};

use abi::{Errno, Result};
use hal::frame::HUGE_SIZE;
use hal::uio::Dest;
use hal::{PAGE_SIZE, USER_END, UserAddr, user};
use mm::{ClearRefs, Mm, PageState, PageView};
use vfs::{File, FileOps, Whence};

use super::Subject;
use super::mem::{chunk, observed_mm, partial};
use crate::node::parse;

/// Opens /proc/PID/pagemap.
pub(super) fn open(subject: &Subject) -> Result<Arc<dyn FileOps>> {
    Ok(Arc::new(PageMap(observed_mm(subject)?)))
}

struct PageMap(Weak<Mm>);

/// Bytes of an entry.
const ENTRY: u64 = 8;
/// Bits of an entry that stand for a state; the low ones are the page frame number.
const BITS: &[(PageState, u64)] = &[
    (PageState::SOFT_DIRTY, 1 << 55),
    (PageState::EXCLUSIVE, 1 << 56),
    (PageState::WATCHED, 1 << 57),
    (PageState::GUARD, 1 << 58),
    (PageState::FILE, 1 << 61),
    (PageState::SWAPPED, 1 << 62),
    (PageState::PRESENT, 1 << 63),
];
const PFN_MASK: u64 = (1 << 55) - 1;

fn entry(view: PageView, shows_frames: bool) -> u64 {
    let bits = BITS.iter().filter(|(state, _)| view.state.contains(*state)).map(|(_, bit)| bit).sum::<u64>();
    bits | if shows_frames { view.pfn & PFN_MASK } else { 0 }
}

impl FileOps for PageMap {
    fn read(&self, file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        if !pos.is_multiple_of(ENTRY) || !(dst.remaining() as u64).is_multiple_of(ENTRY) {
            return Err(Errno::EINVAL);
        }
        let Some(mm) = self.0.upgrade() else { return Ok(0) };
        let shows_frames = file.cred().capable(security::Cap::SYS_ADMIN);
        let mut buf = chunk()?;
        let page = PAGE_SIZE as u64;
        let mut done = 0;
        while dst.remaining() > 0 {
            let Some(addr) = ((pos + done as u64) / ENTRY).checked_mul(page).filter(|&a| a < USER_END) else {
                break;
            };
            let room = dst.remaining().min(buf.len()) as u64 / ENTRY;
            let count = room.min((USER_END - addr) / page);
            buf.fill(0);
            mm.for_each_page(addr..addr + count * page, |pages, view| {
                let first = ((pages.start - addr) / page * ENTRY) as usize;
                let end = ((pages.end - addr) / page * ENTRY) as usize;
                let slots = buf.get_mut(first..end).unwrap_or_default().chunks_exact_mut(ENTRY as usize);
                for (slot, nr) in slots.zip(0..) {
                    let pfn = if view.pfn == 0 { 0 } else { view.pfn + nr };
                    slot.copy_from_slice(&entry(PageView { pfn, ..view }, shows_frames).to_le_bytes());
                }
                ControlFlow::Continue(())
            });
            match dst.put_bytes(buf.get(..(count * ENTRY) as usize).unwrap_or_default()) {
                Ok(put) => done += put,
                Err(fault) => return partial(done, fault.into()),
            }
        }
        Ok(done)
    }

    fn ioctl(&self, _file: &Arc<File>, cmd: u32, arg: usize) -> Result<usize> {
        if cmd != PAGEMAP_SCAN {
            return Err(Errno::ENOTTY);
        }
        let mm = self.0.upgrade().ok_or(Errno::ESRCH)?;
        scan(&mm, UserAddr(arg as u64))
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        vfs::rw::seek_unsized(file, offset, whence)
    }
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: u32 = 0xc060_6610;

/// `struct pm_scan_arg`, word by word.
const SIZE: usize = 0;
const FLAGS: usize = 1;
const START: usize = 2;
const END: usize = 3;
const WALK_END: usize = 4;
const VEC: usize = 5;
const VEC_LEN: usize = 6;
const MAX_PAGES: usize = 7;
const INVERTED: usize = 8;
const MASK: usize = 9;
const ANY_MASK: usize = 10;
const RETURN_MASK: usize = 11;

/// `PM_SCAN_WP_MATCHING`: pages that match are protected against writes. `PM_SCAN_CHECK_WPASYNC`: all memory must be
/// under userfaultfd's asynchronous write protection, which the former needs.
const WP_MATCHING: u64 = 1;
const CHECK_WPASYNC: u64 = 2;
/// `PAGE_IS_*`.
const WPALLOWED: u64 = 1;
const WRITTEN: u64 = 2;
const SWAPPED: u64 = 16;
const HUGE: u64 = 64;
const CATEGORIES: &[(PageState, u64)] = &[
    (PageState::CAN_WATCH, WPALLOWED),
    (PageState::FILE, 4),
    (PageState::PRESENT, 8),
    (PageState::SWAPPED, SWAPPED),
    (PageState::ZERO, 32),
    (PageState::HUGE, HUGE),
    (PageState::SOFT_DIRTY, 128),
    (PageState::GUARD, 256),
];
const ALL: u64 = 511;

/// Ranges that are collected before they are copied out.
const REGIONS: usize = 256;

fn categories(view: PageView) -> u64 {
    // What is not protected against writes counts as written.
    let written = if view.state.contains(PageState::WATCHED) { 0 } else { WRITTEN };
    CATEGORIES.iter().filter(|(state, _)| view.state.contains(*state)).map(|(_, bit)| bit).sum::<u64>()
        | written
}

fn is_wanted(arg: &[u64; 12], categories: u64) -> bool {
    let found = categories ^ arg[INVERTED];
    found & arg[MASK] == arg[MASK] && (arg[ANY_MASK] == 0 || found & arg[ANY_MASK] != 0)
}

/// Reads and checks the argument. `EFAULT`, `EINVAL`.
fn scan_arg(addr: UserAddr) -> Result<[u64; 12]> {
    let mut arg: [u64; 12] = user::read(addr)?;
    let masks = arg[INVERTED] | arg[MASK] | arg[ANY_MASK] | arg[RETURN_MASK];
    if arg[SIZE] != size_of_val(&arg) as u64
        || arg[FLAGS] & !(WP_MATCHING | CHECK_WPASYNC) != 0
        || masks & !ALL != 0
        || !arg[START].is_multiple_of(PAGE_SIZE as u64)
    {
        return Err(Errno::EINVAL);
    }
    if arg[END] > USER_END || arg[START] > arg[END] {
        return Err(Errno::EFAULT);
    }
    if arg[VEC] == 0 && arg[VEC_LEN] != 0 {
        return Err(Errno::EINVAL);
    }
    let bytes = arg[VEC_LEN].saturating_mul(24);
    if arg[VEC] != 0 && arg[VEC].checked_add(bytes).is_none_or(|end| end > USER_END) {
        return Err(Errno::EFAULT);
    }
    arg[END] = arg[END].next_multiple_of(PAGE_SIZE as u64);
    if arg[MAX_PAGES] == 0 {
        arg[MAX_PAGES] = u64::MAX;
    }
    Ok(arg)
}

/// Ranges found, with what limits them.
struct Found {
    regions: Vec<[u64; 3]>,
    room: usize,
    pages_left: u64,
    /// Where the scan stopped early.
    stopped: Option<u64>,
    /// Where it did not stop, although it tells so.
    left_out: Option<u64>,
}

impl Found {
    fn push(&mut self, start: u64, mut end: u64, categories: u64) -> ControlFlow<()> {
        let page = PAGE_SIZE as u64;
        if (end - start) / page > self.pages_left {
            end = start + self.pages_left * page;
            self.stopped = Some(end);
        }
        if end > start {
            let full = self.regions.len() >= self.room;
            match self.regions.last_mut() {
                Some(last) if last[1] == start && last[2] == categories => last[1] = end,
                _ if full => {
                    self.stopped = Some(start);
                    return ControlFlow::Break(());
                }
                _ => self.regions.push([start, end, categories]),
            }
            self.pages_left -= (end - start) / page;
        }
        if self.stopped.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// As [`Self::push`] for a huge page that is to be protected, and can be only as a whole: whether it is.
    ///
    /// LINUX: a part of one, or one that the limit of pages cuts, is not told, and the scan goes on behind it; what the
    /// caller learns is that it ended before it.
    fn push_whole(&mut self, pages: &Range<u64>, categories: u64) -> (ControlFlow<()>, bool) {
        let nr = (pages.end - pages.start) / PAGE_SIZE as u64;
        let is_whole = pages.end - pages.start == HUGE_SIZE as u64;
        if self.pages_left > 0 && (!is_whole || nr > self.pages_left) {
            self.left_out = Some(pages.start);
            return (ControlFlow::Continue(()), false);
        }
        let flow = self.push(pages.start, pages.end, categories);
        (flow, self.stopped.is_none_or(|end| end > pages.start))
    }
}

/// `PAGEMAP_SCAN`: how many ranges were found. `EPERM`: no memory is under asynchronous write protection.
fn scan(mm: &Mm, addr: UserAddr) -> Result<usize> {
    let mut arg = scan_arg(addr)?;
    arg[WALK_END] = 0;
    let mut regions = Vec::new();
    regions.try_reserve_exact(REGIONS).map_err(|_| Errno::ENOMEM)?;
    let mut found = Found { regions, room: 0, pages_left: arg[MAX_PAGES], stopped: None, left_out: None };
    let (mut at, mut written) = (arg[START], 0_u64);
    let mut outcome = Ok(());
    while at < arg[END] {
        if process::current().fatal_signal_pending() {
            outcome = Err(Errno::EINTR);
            break;
        }
        found.room = usize::try_from(arg[VEC_LEN] - written).unwrap_or(REGIONS).min(REGIONS);
        (found.stopped, found.left_out) = (None, None);
        let mut refused = false;
        let scanned = mm.scan_pages(at..arg[END], |pages, view| {
            let (protects, checks) = (arg[FLAGS] & WP_MATCHING != 0, arg[FLAGS] & CHECK_WPASYNC != 0);
            let can_watch = view.state.contains(PageState::CAN_WATCH);
            if checks && !can_watch {
                refused = true;
                return (ControlFlow::Break(()), None);
            }
            let found_here = categories(view);
            if protects && !can_watch || !is_wanted(&arg, found_here) {
                return (ControlFlow::Continue(()), None);
            }
            let start = pages.start;
            let is_whole_only = protects && view.state.contains(PageState::POOLED);
            if arg[VEC] == 0 {
                // LINUX: the limit of pages does not count for a scan that only protects.
                let is_part = is_whole_only && pages.end - start != HUGE_SIZE as u64;
                found.left_out = if is_part { Some(start) } else { found.left_out };
                return (ControlFlow::Continue(()), (protects && !is_part).then_some(pages));
            }
            if is_whole_only {
                let (flow, is_told) = found.push_whole(&pages, found_here & arg[RETURN_MASK]);
                return (flow, is_told.then_some(pages));
            }
            let flow = found.push(start, pages.end, found_here & arg[RETURN_MASK]);
            let end = found.stopped.unwrap_or(pages.end);
            (flow, (protects && end > start).then_some(start..end))
        });
        if refused {
            outcome = Err(Errno::EPERM);
            break;
        }
        scanned?;
        for region in found.regions.drain(..) {
            user::write(UserAddr(arg[VEC].wrapping_add(written * 24)), &region)?;
            written += 1;
        }
        arg[WALK_END] = found.left_out.unwrap_or(0);
        let Some(stopped) = found.stopped else { break };
        arg[WALK_END] = stopped;
        at = stopped;
        if written >= arg[VEC_LEN] || found.pages_left == 0 {
            break;
        }
        arg[WALK_END] = 0;
    }
    if arg[WALK_END] == 0 {
        arg[WALK_END] = arg[END];
    }
    user::write(UserAddr(addr.0 + 8 * WALK_END as u64), &arg[WALK_END])?;
    outcome.map(|()| written as usize)
}

/// /proc/PID/clear_refs. `EINVAL`: not a number from 1 to 5.
pub(super) fn clear_refs(subject: &Subject, bytes: &[u8]) -> Result<()> {
    let what = match parse(bytes)? {
        1 => ClearRefs::All,
        2 => ClearRefs::Anonymous,
        3 => ClearRefs::File,
        4 => ClearRefs::SoftDirty,
        5 => ClearRefs::Peak,
        _ => return Err(Errno::EINVAL),
    };
    if let Some(mm) = subject.task.mm() {
        mm.clear_refs(what);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_the_bits_of_linux() {
        let view = PageView { state: PageState::PRESENT | PageState::FILE, pfn: 0x1234 };
        assert_eq!(entry(view, true), 1 << 63 | 1 << 61 | 0x1234);
        assert_eq!(entry(view, false), 1 << 63 | 1 << 61);
        assert_eq!(categories(view), WRITTEN | 4 | 8);
    }

    #[test]
    fn found_ranges_merge_and_stop_at_the_limits() {
        let mut found = Found { regions: Vec::new(), room: 1, pages_left: 3, stopped: None, left_out: None };
        assert!(found.push(0, 0x1000, 8).is_continue());
        assert!(found.push(0x1000, 0x2000, 8).is_continue());
        assert!(found.push(0x3000, 0x4000, 8).is_break(), "no room for a second range");
        assert_eq!((found.stopped, found.regions.len()), (Some(0x3000), 1));
        found.stopped = None;
        assert!(found.push(0x2000, 0x9000, 8).is_break(), "three pages are enough");
        assert_eq!((found.stopped, found.regions[0]), (Some(0x3000), [0, 0x3000, 8]));
    }

    #[test]
    fn a_huge_page_is_found_and_protected_as_a_whole() {
        const SIZE: u64 = HUGE_SIZE as u64;
        let mut found =
            Found { regions: Vec::new(), room: 9, pages_left: 600, stopped: None, left_out: None };
        let (flow, told) = found.push_whole(&(0x1000..SIZE), 2);
        assert!(flow.is_continue() && !told, "a part of one");
        assert_eq!((found.left_out, found.regions.len()), (Some(0x1000), 0));
        let (flow, told) = found.push_whole(&(SIZE..2 * SIZE), 2);
        assert!(flow.is_continue() && told);
        let (flow, told) = found.push_whole(&(2 * SIZE..3 * SIZE), 2);
        assert!(flow.is_continue() && !told, "88 pages are left");
        assert_eq!((found.left_out, found.stopped), (Some(2 * SIZE), None));
        assert_eq!(found.regions, [[SIZE, 2 * SIZE, 2]]);
        found.pages_left = 0;
        let (flow, told) = found.push_whole(&(3 * SIZE..4 * SIZE), 2);
        assert!(flow.is_break() && !told);
        assert_eq!(found.stopped, Some(3 * SIZE));
    }
}
