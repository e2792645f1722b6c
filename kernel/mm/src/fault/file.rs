//! Faults on files, shared memory and objects that give their frames themselves.

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::Errno;
use hal::frame::{Frame, HUGE_FRAMES};
use hal::paging::{Entry, PteFlags};
use hal::{PAGE_SHIFT, PageRange};

use super::wait::fill_error;
use super::{
    Attempt, FaultError, Need, Step, Wait, copy_of, done_or_no_memory, pte_flags, touched, wait_for_watcher,
};
use crate::mapping::whole::NR_WHOLE;
use crate::mapping::{Mapping, page_flags};
use crate::space::{Mm, RssDelta};
use crate::thp::shared::wanted_orders;
use crate::thp::sizes::fill_shmem;
use crate::thp::{HUGE, khugepaged};
use crate::vma::{Mappable, VmFlags, Vma};
use crate::watch::{WP_MARKER, WatchModes};

/// Pages mapped around a read fault on a file when they are cached.
const FAULT_AROUND: u64 = 16 << PAGE_SHIFT;

impl Mm {
    pub(super) fn fault_file(
        &self,
        vma: &Vma,
        page: PageRange,
        need: Need,
        mapping: &Arc<Mapping>,
    ) -> Result<Step, FaultError> {
        let idx = vma.attr.offset_at(vma.start, page.start()) >> PAGE_SHIFT;
        let copies = need.write && vma.attr.is_private();
        // Pages that come together with this one.
        let mut run = None;
        loop {
            let may_be_whole =
                !copies && NR_WHOLE.get() > 0 && mapping.is_shmem() && vma.attr.watch.is_none();
            if may_be_whole && self.map_whole(vma, page.start(), mapping, need.write) {
                return Ok(Step::Done);
            }
            let attempt = if copies {
                self.try_private_copy(vma, page, idx, need, mapping)?
            } else {
                self.try_cached(vma, page, idx, need, mapping, run.clone())?
            };
            match attempt {
                Attempt::Done | Attempt::HugeZero => return Ok(Step::Done),
                Attempt::NoMemory => return Ok(Step::Wait(Wait::Memory)),
                Attempt::Swapped(page) => return Ok(Step::Wait(Wait::Swapped(page))),
                Attempt::Watched(kind) => return Ok(wait_for_watcher(vma, page.start(), need, kind)),
                Attempt::WantsNotify(frame) => {
                    return Ok(Step::Wait(Wait::Notify(mapping.clone(), idx, frame)));
                }
                Attempt::NotCached if !mapping.has_page(idx) => return Err(FaultError::Bus),
                Attempt::NotCached if mapping.is_swapped(idx) => {
                    return Ok(Step::Wait(Wait::Shared(mapping.clone(), idx)));
                }
                Attempt::NotCached if mapping.is_shmem() => {
                    run = self.fill_shared(vma, idx, mapping);
                    if run.is_some() {
                        continue;
                    }
                    let Some(frame) = Frame::alloc_user_zeroed() else {
                        return Ok(Step::Wait(Wait::Memory));
                    };
                    match mapping.insert_within(idx, frame) {
                        Err(Errno::ENOMEM) => return Ok(Step::Wait(Wait::Memory)),
                        Err(e) if e != Errno::EAGAIN => return Err(fill_error(e)),
                        _ => {}
                    }
                }
                Attempt::NotCached => {
                    return Ok(Step::Wait(Wait::Page(mapping.clone(), idx, need.write && !copies)));
                }
            }
        }
    }

    /// Fills a run of pages around page `idx` of shared memory, if it is to have such.
    #[inline]
    fn fill_shared(&self, vma: &Vma, idx: u64, mapping: &Mapping) -> Option<Range<u64>> {
        let orders = wanted_orders(vma, mapping);
        if orders == 0 {
            return None;
        }
        let run = fill_shmem(mapping, idx, orders);
        if orders & HUGE != 0 && run.as_ref().is_none_or(|run| run.end - run.start < HUGE_FRAMES as u64) {
            khugepaged::note_candidate();
        }
        run
    }

    /// What a watcher is to hear of before a file's page is looked for.
    #[inline]
    pub(super) fn find_watched(
        &self,
        vma: &Vma,
        page: PageRange,
        need: Need,
        mapping: &Mapping,
    ) -> Option<WatchModes> {
        if vma.attr.watch.is_none() { None } else { self.find_watched_page(vma, page, need, mapping) }
    }

    fn find_watched_page(
        &self,
        vma: &Vma,
        page: PageRange,
        need: Need,
        mapping: &Mapping,
    ) -> Option<WatchModes> {
        let modes = vma.attr.watched();
        match self.page_table().cursor(page).query(page.start()) {
            Entry::None => {}
            Entry::Special(WP_MARKER) if need.write && vma.attr.tells_writes() => {
                return Some(WatchModes::WP);
            }
            Entry::Special(WP_MARKER) => {}
            _ => return None,
        }
        let idx = vma.attr.offset_at(vma.start, page.start()) >> PAGE_SHIFT;
        // LINUX: a page in swap counts as one that the cache has.
        let kind = match mapping.holds(idx) {
            true => WatchModes::MINOR,
            false if mapping.has_page(idx) => WatchModes::MISSING,
            false => WatchModes::empty(),
        };
        Some(kind & modes).filter(|kind| !kind.is_empty())
    }

    /// Maps the cached page `idx`, with it the pages of `run`, and on reads what else is cached in the window around it.
    fn try_cached(
        &self,
        vma: &Vma,
        page: PageRange,
        idx: u64,
        need: Need,
        mapping: &Mapping,
        run: Option<Range<u64>>,
    ) -> Result<Attempt, FaultError> {
        let window = match run {
            Some(run) => window_of(vma, page, idx, &run),
            None => self.window(vma, page, need),
        };
        let Some(range) = PageRange::new(window.start, window.end) else {
            return Err(FaultError::SegvMaperr);
        };
        let mut cursor = self.page_table().cursor(range);
        let mut mark = PteFlags::empty();
        match cursor.query(page.start()) {
            Entry::None => {}
            Entry::Special(WP_MARKER) if need.write => {}
            Entry::Special(WP_MARKER) => mark = PteFlags::WATCHED,
            present => return self.fault_present(&mut cursor, vma, page.start(), present, need),
        }
        let shared_writable = vma.attr.flags.contains(VmFlags::WRITE) && !vma.attr.is_private();
        let notify = shared_writable && mapping.wants_write_notify();
        let first = idx - ((page.start() - window.start) >> PAGE_SHIFT);
        let end = first + ((window.end - window.start) >> PAGE_SHIFT);
        let (mut mapped, mut delta, mut no_memory) = (false, RssDelta::default(), false);
        let mut unannounced = None;
        mapping.visit_run(first, end, |i, frame| {
            let addr = window.start + ((i - first) << PAGE_SHIFT);
            if no_memory || (i != idx && !matches!(cursor.query(addr), Entry::None)) {
                return;
            }
            let kind = frame.meta().flags.load(Ordering::Relaxed);
            if kind & page_flags::UNTOUCHED != 0 {
                if i != idx {
                    return;
                }
                Mapping::note_touched(frame);
            }
            let dirty = kind & page_flags::DIRTY != 0;
            if i == idx && need.write && notify && !dirty {
                unannounced = Some(frame.clone());
                return;
            }
            let writable = shared_writable && (!notify || dirty);
            let mut flags = pte_flags(&vma.attr, writable);
            if i == idx {
                flags = touched(&vma.attr, writable && mark.is_empty(), need.write) | mark;
            }
            match cursor.map(addr, frame.clone(), flags) {
                Ok(()) => {
                    mapped |= i == idx;
                    delta.count(kind, 1);
                }
                Err(_) => no_memory = true,
            }
        });
        drop(cursor);
        self.rss.apply(delta);
        Ok(match (mapped, unannounced) {
            (true, _) => Attempt::Done,
            (false, Some(frame)) => Attempt::WantsNotify(frame),
            (false, None) if no_memory => Attempt::NoMemory,
            (false, None) => Attempt::NotCached,
        })
    }

    /// The addresses to map together with `page`: aligned, inside the VMA.
    fn window(&self, vma: &Vma, page: PageRange, need: Need) -> Range<u64> {
        if need.write || vma.attr.flags.intersects(VmFlags::RAND_READ) || vma.attr.watch.is_some() {
            return page.start()..page.end();
        }
        let start = page.start() & !(FAULT_AROUND - 1);
        start.max(vma.start)..(start + FAULT_AROUND).min(vma.end)
    }

    /// Gives a private mapping its own copy of page `idx`.
    fn try_private_copy(
        &self,
        vma: &Vma,
        page: PageRange,
        idx: u64,
        need: Need,
        mapping: &Mapping,
    ) -> Result<Attempt, FaultError> {
        let addr = page.start();
        {
            let mut cursor = self.page_table().cursor(page);
            match cursor.query(addr) {
                Entry::None | Entry::Special(WP_MARKER) => {}
                present => return self.fault_present(&mut cursor, vma, addr, present, need),
            }
        }
        let Some(source) = mapping.get(idx) else { return Ok(Attempt::NotCached) };
        Mapping::note_touched(&source);
        let Some(copy) = copy_of(&source) else { return Ok(Attempt::NoMemory) };
        copy.meta().flags.store(page_flags::ANON, Ordering::Relaxed);
        let mut cursor = self.page_table().cursor(page);
        // The page may have left the file since (M2), or another thread been faster: look again.
        let same = mapping.get(idx).is_some_and(|now| now.pfn() == source.pfn());
        if !same || !matches!(cursor.query(addr), Entry::None | Entry::Special(WP_MARKER)) {
            return Ok(Attempt::NotCached);
        }
        let writable = vma.attr.flags.contains(VmFlags::WRITE);
        if cursor.map(addr, copy, touched(&vma.attr, writable, true)).is_err() {
            return Ok(Attempt::NoMemory);
        }
        drop(cursor);
        vma.attr.note_written();
        self.rss.anon.fetch_add(1, Ordering::Relaxed);
        Ok(Attempt::Done)
    }

    /// A fault on an object that gives its frames itself.
    pub(super) fn fault_object(&self, vma: &Vma, page: PageRange, need: Need) -> Result<Step, FaultError> {
        let object: &dyn Mappable = match vma.attr.backing.object() {
            Some(object) => &**object,
            None => return Err(FaultError::Bus),
        };
        let offset = vma.attr.offset_at(vma.start, page.start());
        let frame = object.fault(offset, need.write)?;
        let mut cursor = self.page_table().cursor(page);
        let attempt = match cursor.query(page.start()) {
            Entry::None if need.write && vma.attr.is_private() => {
                drop(cursor);
                self.map_object_copy(vma, page, &frame)
            }
            Entry::None => {
                let writable = vma.attr.flags.contains(VmFlags::WRITE) && !vma.attr.is_private();
                let flags = touched(&vma.attr, writable, need.write);
                done_or_no_memory(cursor.map(page.start(), frame, flags))
            }
            present => self.fault_present(&mut cursor, vma, page.start(), present, need)?,
        };
        match attempt {
            Attempt::Done => Ok(Step::Done),
            Attempt::Swapped(page) => Ok(Step::Wait(Wait::Swapped(page))),
            _ => Ok(Step::Wait(Wait::Memory)),
        }
    }

    fn map_object_copy(&self, vma: &Vma, page: PageRange, source: &Frame) -> Attempt {
        let Some(copy) = copy_of(source) else { return Attempt::NoMemory };
        copy.meta().flags.store(page_flags::ANON, Ordering::Relaxed);
        let mut cursor = self.page_table().cursor(page);
        if !matches!(cursor.query(page.start()), Entry::None) {
            return Attempt::Done;
        }
        let writable = vma.attr.flags.contains(VmFlags::WRITE);
        if cursor.map(page.start(), copy, touched(&vma.attr, writable, true)).is_err() {
            return Attempt::NoMemory;
        }
        self.rss.anon.fetch_add(1, Ordering::Relaxed);
        Attempt::Done
    }
}

/// The addresses in `vma` of the pages `run` of its file, of which `idx` is shown at `page`.
fn window_of(vma: &Vma, page: PageRange, idx: u64, run: &Range<u64>) -> Range<u64> {
    let before = (idx - run.start.min(idx)) << PAGE_SHIFT;
    let after = (run.end.max(idx + 1) - idx) << PAGE_SHIFT;
    let start = page.start().saturating_sub(before).max(vma.start);
    start..page.start().saturating_add(after).min(vma.end)
}
