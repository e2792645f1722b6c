//! How a watcher makes faults good: the page-table half of userfaultfd(2)'s requests. See `watch`.
//!
//! Each function does its pages one by one and tells how far it came; the range is page-aligned and not empty. An error
//! counts only when nothing was done.
//!
//! Sources: ioctl_userfaultfd(2).

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use hal::frame::Frame;
use hal::paging::{Cursor, Entry, PteFlags};
use hal::{PAGE_SHIFT, PAGE_SIZE, PageRange, UserAddr};

use crate::fault::{pte_flags, touched, zero_frame};
use crate::hugetlb;
use crate::mapping::{Mapping, page_flags};
use crate::space::{Mm, RssDelta, Space};
use crate::vma::{Backing, VmFlags, Vma};
use crate::watch::{POISON_MARKER, WP_MARKER, WatchModes, Watcher, is_same};
use crate::{oom, swap};

const PAGE: u64 = PAGE_SIZE as u64;

/// Whether new pages are protected against writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protect {
    /// No.
    No,
    /// Yes (`UFFDIO_COPY_MODE_WP`).
    Yes,
}

/// What a page is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    /// A copy of the caller's memory at this address.
    Copy(u64),
    /// Zeroes.
    Zeroes,
    /// What the page cache has.
    Resume,
    /// Nothing: accesses are bus errors.
    Poison,
}

/// The page of shared memory that is to be shown at `page`, when it is in swap.
fn swapped_behind(vma: &Vma, page: PageRange) -> Option<(Arc<Mapping>, u64)> {
    let idx = vma.attr.offset_at(vma.start, page.start()) >> PAGE_SHIFT;
    vma.attr.backing.mapping().filter(|mapping| mapping.is_swapped(idx)).map(|mapping| (mapping.clone(), idx))
}

/// Whether an entry is free for a page: empty, or the marker of a watched write.
fn is_free(entry: &Entry) -> bool {
    matches!(entry, Entry::None | Entry::Special(WP_MARKER))
}

/// The VMA that holds all of `range` and that `by` watches. `ENOENT`: there is none.
pub(crate) fn watched_vma<'a>(
    space: &'a Space,
    range: &Range<u64>,
    by: &Arc<dyn Watcher>,
) -> Result<&'a Vma> {
    let vma = space.set.at(range.start).filter(|vma| range.end <= vma.end).ok_or(Errno::ENOENT)?;
    let own = vma.attr.watch.as_ref().is_some_and(|watch| is_same(&watch.by, by));
    if own { Ok(vma) } else { Err(Errno::ENOENT) }
}

/// `done` bytes, or the error when there are none.
fn done_or(done: u64, result: Result<()>) -> Result<u64> {
    match result {
        Err(e) if done == 0 => Err(e),
        _ => Ok(done),
    }
}

impl Mm {
    /// Fills the empty pages of `range`, which `by` watches; how many bytes were filled. May sleep, and reads the
    /// caller's memory.
    ///
    /// `ENOENT`: not watched by `by`. `EINVAL`: the mapping cannot have such pages, or writes to it are not watched.
    /// `EEXIST`: a page is there. `EFAULT`: the source cannot be read, or the file has no page there. `ENOMEM`, `ENOSPC`.
    pub fn supply(
        &self,
        range: Range<u64>,
        what: Supply,
        protect: Protect,
        by: &Arc<dyn Watcher>,
    ) -> Result<u64> {
        let is_huge = watched_vma(&self.space.read(), &range, by)?.attr.flags.contains(VmFlags::HUGETLB);
        if is_huge {
            hugetlb::check_whole(&range)?;
        }
        let mut done = 0;
        while range.start + done < range.end {
            let rest = range.start + done..range.end;
            let result = if is_huge {
                self.supply_huge(&rest, what, done, protect, by)
            } else {
                self.supply_page(&rest, what, done, protect, by)
            };
            if result.is_err() {
                return done_or(done, result);
            }
            done += if is_huge { hugetlb::SIZE } else { PAGE };
        }
        Ok(done)
    }

    /// Fills the first page of `rest`, which lies `done` bytes behind the start.
    fn supply_page(
        &self,
        rest: &Range<u64>,
        what: Supply,
        done: u64,
        protect: Protect,
        by: &Arc<dyn Watcher>,
    ) -> Result<()> {
        check_supply(watched_vma(&self.space.read(), rest, by)?, what, protect)?;
        let frame = match what {
            Supply::Copy(from) => Some(copy_from_caller(from + done)?),
            Supply::Zeroes => Some(oom::alloc_zeroed()?),
            Supply::Resume | Supply::Poison => None,
        };
        loop {
            let space = self.space.read();
            let vma = watched_vma(&space, rest, by)?;
            // It may be another one by now.
            check_supply(vma, what, protect)?;
            let page = PageRange::page_of(UserAddr(rest.start)).ok_or(Errno::EINVAL)?;
            let entry = self.page_table().cursor(page).query(page.start());
            if !is_free(&entry) {
                return Err(Errno::EEXIST);
            }
            if what == Supply::Resume
                && let Some((mapping, idx)) = swapped_behind(vma, page)
            {
                drop(space);
                mapping.get_or_read(idx)?;
                continue;
            }
            let result = match (what, &frame, vma.attr.backing.mapping()) {
                (Supply::Poison, ..) => self.poison(page),
                (Supply::Resume, _, Some(mapping)) => self.resume(vma, page, mapping, protect),
                (_, Some(frame), Some(mapping)) if !vma.attr.is_private() => {
                    self.supply_shared(vma, page, mapping, frame, protect)
                }
                (Supply::Zeroes, ..) => self.supply_zeroes(vma, page, protect),
                (_, Some(frame), _) => self.supply_private(vma, page, frame, protect),
                _ => Err(Errno::EINVAL),
            };
            drop(space);
            match result {
                Err(Errno::ENOMEM) => oom::relieve()?,
                result => return result,
            }
        }
    }

    fn supply_private(&self, vma: &Vma, page: PageRange, frame: &Frame, protect: Protect) -> Result<()> {
        let mut cursor = self.page_table().cursor(page);
        if !is_free(&cursor.query(page.start())) {
            return Err(Errno::EEXIST);
        }
        frame.meta().flags.store(page_flags::ANON, Ordering::Relaxed);
        let may_write = vma.attr.flags.contains(VmFlags::WRITE);
        enter(&mut cursor, vma, page, frame.clone(), may_write, protect)?;
        drop(cursor);
        vma.attr.note_written();
        self.rss.anon.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn supply_zeroes(&self, vma: &Vma, page: PageRange, protect: Protect) -> Result<()> {
        let zero = zero_frame().ok_or(Errno::ENOMEM)?;
        let mut cursor = self.page_table().cursor(page);
        if !is_free(&cursor.query(page.start())) {
            return Err(Errno::EEXIST);
        }
        enter(&mut cursor, vma, page, zero, false, protect)
    }

    /// Puts a new page into the page cache and maps it.
    fn supply_shared(
        &self,
        vma: &Vma,
        page: PageRange,
        mapping: &Mapping,
        frame: &Frame,
        protect: Protect,
    ) -> Result<()> {
        let idx = vma.attr.offset_at(vma.start, page.start()) >> PAGE_SHIFT;
        if !mapping.has_page(idx) {
            return Err(Errno::EFAULT);
        }
        if mapping.holds(idx) {
            return Err(Errno::EEXIST);
        }
        match mapping.insert_within(idx, frame.clone()) {
            Ok(now) if now.pfn() == frame.pfn() => {}
            Err(Errno::EAGAIN) if !mapping.has_page(idx) => return Err(Errno::EFAULT),
            Ok(_) | Err(Errno::EAGAIN) => return Err(Errno::EEXIST),
            Err(error) => return Err(error),
        }
        self.map_cached(vma, page, frame.clone(), protect)
    }

    /// Maps the page that the page cache has. `EFAULT`: it has none.
    fn resume(&self, vma: &Vma, page: PageRange, mapping: &Mapping, protect: Protect) -> Result<()> {
        let idx = vma.attr.offset_at(vma.start, page.start()) >> PAGE_SHIFT;
        let frame = mapping.get(idx).filter(|_| mapping.has_page(idx)).ok_or(Errno::EFAULT)?;
        self.map_cached(vma, page, frame, protect)
    }

    fn map_cached(&self, vma: &Vma, page: PageRange, frame: Frame, protect: Protect) -> Result<()> {
        let kind = frame.meta().flags.load(Ordering::Relaxed);
        let may_write = vma.attr.flags.contains(VmFlags::WRITE) && !vma.attr.is_private();
        let mut cursor = self.page_table().cursor(page);
        if !is_free(&cursor.query(page.start())) {
            return Err(Errno::EEXIST);
        }
        enter(&mut cursor, vma, page, frame, may_write, protect)?;
        drop(cursor);
        let mut delta = RssDelta::default();
        delta.count(kind, 1);
        self.rss.apply(delta);
        Ok(())
    }

    fn poison(&self, page: PageRange) -> Result<()> {
        let mut cursor = self.page_table().cursor(page);
        if !is_free(&cursor.query(page.start())) {
            return Err(Errno::EEXIST);
        }
        cursor.set_special(page.start(), POISON_MARKER).map_err(|_| Errno::ENOMEM)
    }

    /// Protects the pages of `range` against writes, or ends that (`UFFDIO_WRITEPROTECT`). May sleep.
    ///
    /// `ENOENT`: a hole, or writes are not watched there; what lies below is done. `ENOMEM`.
    pub fn write_protect(&self, range: Range<u64>, protect: Protect, by: &Arc<dyn Watcher>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let space = self.space.read();
            let vma = space.set.at(at).ok_or(Errno::ENOENT)?;
            let own = vma.attr.watch.as_ref().is_some_and(|watch| is_same(&watch.by, by));
            if !own || !vma.attr.watched().contains(WatchModes::WP) {
                return Err(Errno::ENOENT);
            }
            let part = vma.clip(&(at..range.end));
            if vma.attr.flags.contains(VmFlags::HUGETLB) {
                hugetlb::check_whole(&part)?;
            }
            match protect {
                Protect::No => {
                    self.forget_protection(part.clone());
                    at = part.end;
                }
                Protect::Yes => match self.protect_part(vma, part) {
                    Ok(end) => at = end,
                    Err(from) => {
                        at = from;
                        drop(space);
                        oom::relieve()?;
                    }
                },
            }
        }
        Ok(())
    }

    /// Protects the pages of `part`; its end, or where memory ran out.
    fn protect_part(&self, vma: &Vma, part: Range<u64>) -> core::result::Result<u64, u64> {
        if vma.attr.flags.contains(VmFlags::HUGETLB) {
            return self.protect_huge_part(part);
        }
        let Some(range) = PageRange::new(part.start, part.end) else { return Ok(part.end) };
        let anonymous = matches!(vma.attr.backing, Backing::Anonymous);
        let marks = !anonymous || vma.attr.watched().contains(WatchModes::UNPOPULATED);
        let mut cursor = self.page_table().cursor(range);
        let mut at = range.start();
        while at < range.end() {
            let addr = if marks {
                at
            } else {
                match cursor.next_mapped(at) {
                    Some((addr, _)) => addr,
                    None => break,
                }
            };
            at = addr + PAGE;
            match cursor.query(addr) {
                Entry::None if marks && cursor.set_special(addr, WP_MARKER).is_err() => return Err(addr),
                Entry::Present { flags, .. } => {
                    cursor.protect(addr, (flags - PteFlags::WRITE) | PteFlags::WATCHED);
                }
                Entry::Special(value) if swap::is_swap(value) => {
                    // Cannot fail: the entry's table is there.
                    let _ = cursor.set_special(addr, swap::with_mark(value, true));
                }
                _ => {}
            }
        }
        Ok(part.end)
    }

    /// Moves the private pages of `from` to the empty places of `to`, which `by` watches, without a copy
    /// (`UFFDIO_MOVE`); how many bytes moved. May sleep.
    ///
    /// `EINVAL`: no single private anonymous mapping, or the two do not fit. `ENOENT`: a source is empty, unless
    /// `holes`. `EEXIST`: a page is there. `EBUSY`: somebody shares a source.
    pub fn move_watched(
        &self,
        from: Range<u64>,
        to: u64,
        holes: Holes,
        by: &Arc<dyn Watcher>,
    ) -> Result<u64> {
        let len = from.end - from.start;
        let space = self.space.write();
        let target = space.set.at(to).filter(|vma| to.saturating_add(len) <= vma.end).ok_or(Errno::EINVAL)?;
        let source = space.set.at(from.start).filter(|vma| from.end <= vma.end).ok_or(Errno::EINVAL)?;
        check_move(source, target, by)?;
        let mut done = 0;
        while done < len {
            let result = self.move_one(from.start + done, to + done, target, holes);
            if result.is_err() {
                return done_or(done, result);
            }
            done += PAGE;
        }
        Ok(done)
    }

    fn move_one(&self, from: u64, to: u64, target: &Vma, holes: Holes) -> Result<()> {
        let (Some(source), Some(dest)) =
            (PageRange::page_of(UserAddr(from)), PageRange::page_of(UserAddr(to)))
        else {
            return Err(Errno::EINVAL);
        };
        if !is_free(&self.page_table().cursor(dest).query(to)) {
            return Err(Errno::EEXIST);
        }
        // `space` is held for writing: nothing comes or goes meanwhile but by reclaim, which only takes pages out.
        let frame = match self.page_table().cursor(source).query(from) {
            Entry::None if holes == Holes::Allowed => return Ok(()),
            Entry::None => return Err(Errno::ENOENT),
            Entry::Present { frame, .. } => frame,
            // A page in swap is read first; the caller tries again.
            Entry::Special(_) | Entry::Huge(_) => return Err(Errno::EBUSY),
        };
        let kind = frame.meta().flags.load(Ordering::Relaxed);
        if kind & page_flags::ZERO == 0 && (kind & page_flags::ANON == 0 || frame.ref_count() != 2) {
            return Err(Errno::EBUSY);
        }
        let writable = kind & page_flags::ANON != 0 && target.attr.flags.contains(VmFlags::WRITE);
        let flags = pte_flags(&target.attr, writable) | PteFlags::ACCESSED | PteFlags::DIRTY;
        let mut cursor = self.page_table().cursor(source);
        let Some(gone) = cursor.unmap(from) else { return Err(Errno::ENOENT) };
        drop(cursor);
        if !matches!(&gone, Entry::Present { frame: now, .. } if now.pfn() == frame.pfn()) {
            // Reclaim was faster: what it left goes back.
            if let Entry::Special(value) = gone {
                oom::insist(|| self.page_table().cursor(source).set_special(from, value));
            }
            return Err(Errno::EBUSY);
        }
        oom::insist(|| self.page_table().cursor(dest).map(to, frame.clone(), flags));
        target.attr.note_written();
        Ok(())
    }
}

/// Whether empty sources are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holes {
    /// They are an error.
    Refused,
    /// Yes (`UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES`).
    Allowed,
}

/// Whether pages may move from one VMA to the other, which `by` watches.
fn check_move(source: &Vma, target: &Vma, by: &Arc<dyn Watcher>) -> Result<()> {
    let (old, new) = (source.attr.flags, target.attr.flags);
    let own = target.attr.watch.as_ref().is_some_and(|watch| is_same(&watch.by, by));
    let movable = |vma: &Vma| {
        matches!(vma.attr.backing, Backing::Anonymous)
            && vma.attr.is_private()
            && !vma.attr.flags.intersects(VmFlags::PFNMAP | VmFlags::IO)
    };
    let alike = (old ^ new) & (VmFlags::ACCESS | VmFlags::LOCKED) == VmFlags::empty();
    let fits = movable(source) && movable(target) && alike && old.contains(VmFlags::WRITE);
    if own && fits && source.attr.pkey == target.attr.pkey { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Whether `vma` can have such pages.
fn check_supply(vma: &Vma, what: Supply, protect: Protect) -> Result<()> {
    if protect == Protect::Yes && !vma.attr.watched().contains(WatchModes::WP) {
        return Err(Errno::EINVAL);
    }
    if vma.attr.flags.contains(VmFlags::HUGETLB) {
        return Err(Errno::EINVAL);
    }
    let shmem = vma.attr.backing.mapping().is_some_and(|m| m.is_shmem());
    let anonymous = matches!(vma.attr.backing, Backing::Anonymous);
    if shmem || (anonymous && what != Supply::Resume) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Maps `frame` at `page`, protected against writes if so.
fn enter(
    cursor: &mut Cursor<'_>,
    vma: &Vma,
    page: PageRange,
    frame: Frame,
    may_write: bool,
    protect: Protect,
) -> Result<()> {
    let mut flags = touched(&vma.attr, may_write && protect == Protect::No, false);
    flags.set(PteFlags::WATCHED, protect == Protect::Yes);
    flags |= PteFlags::DIRTY;
    cursor.map(page.start(), frame, flags).map_err(|_| Errno::ENOMEM)
}

/// A frame with the page at `from` of the calling process. Sleeps. `EFAULT`, `ENOMEM`.
pub(crate) fn copy_from_caller(from: u64) -> Result<Frame> {
    let frame = oom::alloc_zeroed()?;
    if frame.copy_from_user(0, UserAddr(from), PAGE_SIZE) != PAGE_SIZE {
        return Err(Errno::EFAULT);
    }
    Ok(frame)
}
