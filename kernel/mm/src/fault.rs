//! Page faults.
//!
//! ```text
//! what is mapped there   read                          write
//! nothing, anonymous     the page of zeroes            a new page of zeroes
//! nothing, file          up to 16 cached pages around  shared: the page; private: a copy of it
//! page, not writable     (nothing to do)               private: reuse it when no one else has it, else copy
//! ```
//!
//! A private page is reused when its only reference is the page table's (and ours): the cursor is locked,
//! so nobody can take another one from this table, and no other holder exists.

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::Errno;
use hal::frame::Frame;
use hal::paging::{Cursor, Entry, PteFlags};
use hal::sync::Once;
use hal::trap::Access;
use hal::{PAGE_SHIFT, PAGE_SIZE, PageRange, UserAddr};

use crate::counters;
use crate::mapping::{Mapping, page_flags};
use crate::oom::{self, Oom};
use crate::space::Mm;
use crate::swap::{self, Pinned};
use crate::thp;
use crate::vma::{Backing, Mappable, VmFlags, Vma, VmaAttr};
use crate::watch::{POISON_MARKER, WP_MARKER, WatchModes, WatchedFault, Watcher, fault_of};

/// Pages mapped around a read fault on a file when they are cached.
const FAULT_AROUND: u64 = 16 << PAGE_SHIFT;

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
}

impl Need {
    pub const READ: Need = Need { write: false, exec: false, force: false, user_mode: false };
    pub const WRITE: Need = Need { write: true, ..Need::READ };

    /// Whether the VMA grants it.
    fn is_allowed(self, flags: VmFlags) -> bool {
        if self.write {
            let forced =
                self.force && flags.contains(VmFlags::MAYWRITE) && !flags.contains(VmFlags::MAYSHARE);
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
}

/// How one attempt to handle a fault ended.
pub(crate) enum Step {
    Done,
    /// Let go of `space`, call [`Wait::finish`], and begin anew.
    Wait(Wait),
}

/// What a fault needs that may take long, so it is had while no lock of the address space is held: otherwise a thread
/// that waits for memory would keep write-back from taking pages out of its page table.
pub(crate) enum Wait {
    /// A free frame.
    Memory,
    /// A page of a file system's file, which is to be dirty if so.
    Page(Arc<Mapping>, u64, bool),
    /// The page is to become dirty.
    Notify(Arc<Mapping>, u64, Frame),
    /// A page in swap.
    Swapped(Pinned),
    /// The watcher of the VMA makes it good.
    Watched(Arc<dyn Watcher>, WatchedFault),
}

/// What was waited for.
pub(crate) struct Got {
    pub kind: FaultKind,
    /// Keeps the page from being reclaimed until the next attempt maps it.
    _page: Option<Frame>,
}

impl Default for Got {
    #[inline]
    fn default() -> Self {
        Self { kind: FaultKind::Minor, _page: None }
    }
}

impl Wait {
    /// Has what is needed for the fault of `mm` at `addr`. Sleeps; the caller holds no lock.
    #[cold]
    pub fn finish(self, mm: &Mm, addr: u64, got: &mut Got) -> Result<(), FaultError> {
        match self {
            Self::Memory => oom::relieve()?,
            Self::Page(mapping, idx, dirty) => {
                let frame = mapping.get_or_fill(idx).map_err(fill_error)?;
                got.kind = FaultKind::Major;
                counters::PGMAJFAULT.add(1);
                if dirty {
                    mapping.mark_dirty(idx, &frame).map_err(fill_error)?;
                }
                got._page = Some(frame);
            }
            Self::Swapped(page) => {
                got.kind = FaultKind::Major;
                counters::PGMAJFAULT.add(1);
                let frame = page.read().map_err(fill_error)?;
                mm.swap_in(addr & !(PAGE_SIZE as u64 - 1), page, frame)?;
            }
            Self::Watched(watcher, fault) => watcher.fault(&fault, &mut || mm.must_wait(&fault))?,
            Self::Notify(mapping, idx, frame) => {
                mapping.throttle();
                mapping.mark_dirty(idx, &frame).map_err(fill_error)?;
                got._page = Some(frame);
            }
        }
        Ok(())
    }
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
        self.fault_in(addr.as_u64(), Need { write, exec, user_mode, force: false })
    }

    /// The error of an access that the rights over the page's key refuse. A page that is not there yet comes first: the
    /// access is tried again, and refused then.
    #[cold]
    fn refused_by_key(&self, addr: u64) -> FaultError {
        self.space.read().set.at(addr).map_or(FaultError::SegvMaperr, |vma| FaultError::Key(vma.attr.pkey))
    }

    /// As [`handle_fault`](Self::handle_fault) for any need.
    pub(crate) fn fault_in(&self, addr: u64, need: Need) -> Result<FaultKind, FaultError> {
        let mut got = Got::default();
        loop {
            let wait = {
                let space = self.space.read();
                match space.set.find(addr) {
                    Some(vma) if vma.start <= addr => match self.fault_vma(vma, addr, need)? {
                        Step::Done => return Ok(got.kind),
                        Step::Wait(wait) => Some(wait),
                    },
                    Some(vma) if vma.attr.flags.contains(VmFlags::GROWSDOWN) => None,
                    _ => return Err(FaultError::SegvMaperr),
                }
            };
            match wait {
                Some(wait) => wait.finish(self, addr, &mut got)?,
                None => self.grow_stack(addr)?,
            }
        }
    }

    /// One attempt to make an access inside of `vma` possible; the caller holds `space`.
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
                _ => Ok(Step::Wait(Wait::Memory)),
            },
            Backing::File(_) => match vma.attr.backing.mapping() {
                Some(mapping) => match self.find_watched(vma, page, need, mapping) {
                    Some(kind) => Ok(wait_for_watcher(vma, addr, need, kind)),
                    None => self.fault_file(vma, page, need, mapping),
                },
                None => self.fault_object(vma, page, need),
            },
        }
    }

    #[inline]
    fn fault_anonymous(&self, vma: &Vma, page: PageRange, need: Need) -> Result<Attempt, FaultError> {
        let mut cursor = self.page_table().cursor(page);
        let addr = page.start();
        let mut mark = PteFlags::empty();
        match cursor.query(addr) {
            Entry::None => {}
            Entry::Special(WP_MARKER) if !need.write => mark = PteFlags::WATCHED,
            Entry::Special(WP_MARKER) if vma.attr.tells_writes() => {
                return Ok(Attempt::Watched(WatchModes::WP));
            }
            Entry::Special(WP_MARKER) => {}
            present => return self.fault_present(&mut cursor, vma, addr, present, need),
        }
        if vma.attr.watch.is_some() && vma.attr.watched().contains(WatchModes::MISSING) {
            return Ok(Attempt::Watched(WatchModes::MISSING));
        }
        if !need.write {
            if vma.attr.flags.contains(VmFlags::SOFTCLEAN) {
                mark |= PteFlags::SOFT;
            }
            let Some(zero) = zero_frame() else { return Ok(Attempt::NoMemory) };
            return Ok(done_or_no_memory(cursor.map(addr, zero, touched(&vma.attr, false, false) | mark)));
        }
        if thp::huge_range(vma, addr).is_some() && self.wants_huge(vma) && cursor.is_huge_free(addr) {
            drop(cursor);
            if self.fault_huge(vma, addr) {
                return Ok(Attempt::Done);
            }
            cursor = self.page_table().cursor(page);
            match cursor.query(addr) {
                Entry::None | Entry::Special(WP_MARKER) => {}
                present => return self.fault_present(&mut cursor, vma, addr, present, need),
            }
        }
        let Some(frame) = Frame::alloc_user_zeroed() else { return Ok(Attempt::NoMemory) };
        frame.meta().flags.store(page_flags::ANON, Ordering::Relaxed);
        let writable = vma.attr.flags.contains(VmFlags::WRITE);
        if cursor.map(addr, frame, touched(&vma.attr, writable, true)).is_err() {
            return Ok(Attempt::NoMemory);
        }
        drop(cursor);
        vma.attr.note_written();
        self.rss.anon.fetch_add(1, Ordering::Relaxed);
        Ok(Attempt::Done)
    }

    /// Something is mapped already: another thread was faster, or a write meets a read-only entry.
    fn fault_present(
        &self,
        cursor: &mut Cursor<'_>,
        vma: &Vma,
        addr: u64,
        entry: Entry,
        need: Need,
    ) -> Result<Attempt, FaultError> {
        let (frame, flags) = match entry {
            Entry::Present { frame, flags } => (frame, flags),
            Entry::Special(value) if swap::is_swap(value) => {
                return Ok(Attempt::Swapped(Pinned::new(value)));
            }
            Entry::Special(POISON_MARKER) => return Err(FaultError::Poison),
            // LINUX: a guard page is told as if nothing were mapped.
            Entry::Special(_) => return Err(FaultError::SegvMaperr),
            Entry::None | Entry::Huge(_) => return Ok(Attempt::NotCached),
        };
        if frame.is_in_huge() && !flags.contains(PteFlags::WATCHED) && cursor.query_huge(addr).is_some() {
            // Our own reference would hide that nobody else has one.
            drop(frame);
            if thp::settle_huge(cursor, vma, addr, need.write) {
                return Ok(Attempt::Done);
            }
            // The copy below splits the entry.
            return self.copy_small(cursor, vma, addr);
        }
        if !need.write || flags.contains(PteFlags::WRITE) {
            // A stale translation at worst; the access is tried again with this entry.
            let again = touched(&vma.attr, flags.contains(PteFlags::WRITE), need.write);
            cursor.protect(addr, again | flags & (PteFlags::SOFT | PteFlags::WATCHED));
            return Ok(Attempt::Done);
        }
        if flags.contains(PteFlags::WATCHED) && vma.attr.tells_writes() {
            return Ok(Attempt::Watched(WatchModes::WP));
        }
        let kind = frame.meta().flags.load(Ordering::Relaxed);
        let writable = vma.attr.flags.contains(VmFlags::WRITE);
        if !vma.attr.is_private() {
            let notify = vma.attr.backing.mapping().is_some_and(|m| m.wants_write_notify());
            if notify && kind & page_flags::DIRTY == 0 {
                return Ok(Attempt::WantsNotify(frame));
            }
            cursor.protect(addr, touched(&vma.attr, true, true));
            return Ok(Attempt::Done);
        }
        // Two references: the entry's and the one in `frame`.
        if kind & page_flags::ANON != 0 && frame.ref_count() == 2 {
            cursor.protect(addr, touched(&vma.attr, writable, true));
            return Ok(Attempt::Done);
        }
        let copy = if kind & page_flags::ZERO != 0 { Frame::alloc_user_zeroed() } else { copy_of(&frame) };
        let Some(copy) = copy else { return Ok(Attempt::NoMemory) };
        copy.meta().flags.store(page_flags::ANON, Ordering::Relaxed);
        if cursor.map(addr, copy, touched(&vma.attr, writable, true)).is_err() {
            return Ok(Attempt::NoMemory);
        }
        vma.attr.note_written();
        let mut delta = crate::space::RssDelta { anon: 1, ..Default::default() };
        delta.count(kind, -1);
        self.rss.apply(delta);
        Ok(Attempt::Done)
    }

    /// Gives a write to a part of a shared huge page a copy of that part.
    fn copy_small(&self, cursor: &mut Cursor<'_>, vma: &Vma, addr: u64) -> Result<Attempt, FaultError> {
        let Entry::Present { frame, .. } = cursor.query(addr) else { return Ok(Attempt::NotCached) };
        let Some(copy) = copy_of(&frame) else { return Ok(Attempt::NoMemory) };
        copy.meta().flags.store(page_flags::ANON, Ordering::Relaxed);
        let writable = vma.attr.flags.contains(VmFlags::WRITE);
        Ok(done_or_no_memory(cursor.map(addr, copy, touched(&vma.attr, writable, true))))
    }

    fn fault_file(
        &self,
        vma: &Vma,
        page: PageRange,
        need: Need,
        mapping: &Arc<Mapping>,
    ) -> Result<Step, FaultError> {
        let idx = vma.attr.offset_at(vma.start, page.start()) >> PAGE_SHIFT;
        let copies = need.write && vma.attr.is_private();
        loop {
            let attempt = if copies {
                self.try_private_copy(vma, page, idx, need, mapping)?
            } else {
                self.try_cached(vma, page, idx, need, mapping)?
            };
            match attempt {
                Attempt::Done => return Ok(Step::Done),
                Attempt::NoMemory => return Ok(Step::Wait(Wait::Memory)),
                Attempt::Swapped(page) => return Ok(Step::Wait(Wait::Swapped(page))),
                Attempt::Watched(kind) => return Ok(wait_for_watcher(vma, page.start(), need, kind)),
                Attempt::WantsNotify(frame) => {
                    return Ok(Step::Wait(Wait::Notify(mapping.clone(), idx, frame)));
                }
                Attempt::NotCached if !mapping.has_page(idx) => return Err(FaultError::Bus),
                Attempt::NotCached if mapping.is_shmem() => {
                    let Some(frame) = Frame::alloc_user_zeroed() else {
                        return Ok(Step::Wait(Wait::Memory));
                    };
                    match mapping.insert(idx, frame) {
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

    /// What a watcher is to hear of before a file's page is looked for.
    #[inline]
    fn find_watched(&self, vma: &Vma, page: PageRange, need: Need, mapping: &Mapping) -> Option<WatchModes> {
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
        let kind = match mapping.get(idx) {
            Some(_) => WatchModes::MINOR,
            None if mapping.has_page(idx) => WatchModes::MISSING,
            None => WatchModes::empty(),
        };
        Some(kind & modes).filter(|kind| !kind.is_empty())
    }

    /// Maps the cached page `idx`, and on reads what else is cached in the window around it.
    fn try_cached(
        &self,
        vma: &Vma,
        page: PageRange,
        idx: u64,
        need: Need,
        mapping: &Mapping,
    ) -> Result<Attempt, FaultError> {
        let window = self.window(vma, page, need);
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
        let (mut mapped, mut delta, mut no_memory) = (false, crate::space::RssDelta::default(), false);
        let mut unannounced = None;
        mapping.visit_run(first, end, |i, frame| {
            let addr = window.start + ((i - first) << PAGE_SHIFT);
            if no_memory || (i != idx && !matches!(cursor.query(addr), Entry::None)) {
                return;
            }
            let kind = frame.meta().flags.load(Ordering::Relaxed);
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
    fn fault_object(&self, vma: &Vma, page: PageRange, need: Need) -> Result<Step, FaultError> {
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

/// The step of a fault that the watcher of `vma` makes good.
#[cold]
fn wait_for_watcher(vma: &Vma, addr: u64, need: Need, kind: WatchModes) -> Step {
    match &vma.attr.watch {
        Some(watch) => Step::Wait(Wait::Watched(watch.by.clone(), fault_of(addr, need, kind))),
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

/// What a fault makes of an error of the page cache.
fn fill_error(e: Errno) -> FaultError {
    if e == Errno::ENOMEM { FaultError::Oom } else { FaultError::Bus }
}

/// Byte length of `nr` pages.
pub(crate) const fn bytes(nr: u64) -> u64 {
    nr * PAGE_SIZE as u64
}
