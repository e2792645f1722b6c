//! mremap(2).
//!
//! ```text
//! shrink   AAAAAA -> AAA...          grow in place   AAA... -> AAAAAA
//! move     AAA.B  -> ....BAAA        with DONTUNMAP: the old VMA stays, without its pages
//! batch    AA.BCC -> ......AA.BCC    MREMAP_FIXED with one length: every VMA of the range, gaps kept
//! ```
//!
//! The order of checks is Linux's, since it decides the errno: parameters, the count limit, and for each VMA
//! seal, kind, borders, limits; then the target is unmapped, the source is shrunk, and the move begins. A
//! failure half-way leaves what was done until then, as it does on Linux.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::mman::MremapFlags;
use abi::{Errno, Result};
use hal::{PAGE_SHIFT, PAGE_SIZE, PageRange, USER_END};
use vma_set::{CountRule, Removed, count_fits};

use crate::commit;
use crate::hugetlb;
use crate::map::{page_align, refused};
use crate::oom;
use crate::space::{Mm, Space};
use crate::sysctl;
use crate::vma::{Backing, History, VmFlags, VmaAttr};
use crate::watch::{WatchEvent, WatchEvents};

/// What mremap(2) is asked for; lengths are rounded to pages by [`Mm::remap`].
#[derive(Clone, Copy, Debug)]
pub struct RemapRequest {
    /// Start of the old range.
    pub addr: u64,
    /// Its length; 0 makes a second mapping of shared memory.
    pub old_len: u64,
    /// Wanted length.
    pub new_len: u64,
    /// `MREMAP_*`.
    pub flags: MremapFlags,
    /// Wanted address with `MREMAP_FIXED`, a hint with `MREMAP_DONTUNMAP`.
    pub new_addr: u64,
}

/// What is dropped once the address space is unlocked, and what is to be locked in memory then.
#[derive(Default)]
struct After {
    removed: Vec<Removed<VmaAttr>>,
    populate: Option<Range<u64>>,
}

impl After {
    /// Makes room for the removals of one move, so that [`keep`](Self::keep) has it.
    fn reserve(&mut self) -> Result<()> {
        self.removed.try_reserve(4).map_err(|_| Errno::ENOMEM)
    }

    fn keep(&mut self, removed: Removed<VmaAttr>) {
        if !removed.is_empty() {
            self.removed.push(removed);
        }
    }
}

impl RemapRequest {
    /// Rounds lengths and checks what needs no lock.
    fn check(&mut self) -> Result<()> {
        let all = MremapFlags::MAYMOVE | MremapFlags::FIXED | MremapFlags::DONTUNMAP;
        let page = PAGE_SIZE as u64;
        if !all.contains(self.flags) || !self.addr.is_multiple_of(page) {
            return Err(Errno::EINVAL);
        }
        // LINUX: an old length that overflows when it is rounded counts as 0, as it does there.
        let (old, new) = (page_align(self.old_len), page_align(self.new_len));
        if new == 0 || new > USER_END {
            return Err(Errno::EINVAL);
        }
        (self.old_len, self.new_len) = (old, new);
        if !self.has_target() {
            return Ok(());
        }
        if self.new_addr > USER_END - new
            || !self.new_addr.is_multiple_of(page)
            || !self.flags.contains(MremapFlags::MAYMOVE)
            || (self.flags.contains(MremapFlags::DONTUNMAP) && old != new)
        {
            return Err(Errno::EINVAL);
        }
        let old_end = self.addr.wrapping_add(old);
        let overlap = old_end > self.new_addr && self.new_addr + new > self.addr;
        if overlap { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Whether the call names where the mapping goes, so that it certainly moves.
    fn has_target(&self) -> bool {
        self.flags.intersects(MremapFlags::FIXED | MremapFlags::DONTUNMAP)
    }

    fn keeps_source(&self) -> bool {
        self.flags.contains(MremapFlags::DONTUNMAP)
    }

    fn source(&self) -> Range<u64> {
        self.addr..self.addr.saturating_add(self.old_len)
    }
}

impl Mm {
    /// mremap(2): changes the size or place of a mapping and returns its address. May sleep.
    ///
    /// `EINVAL`, `EFAULT`, `EAGAIN`, `ENOMEM`, `EPERM`: as mremap(2) has them.
    pub fn remap(&self, mut request: RemapRequest) -> Result<u64> {
        request.check()?;
        let mut after = After::default();
        let mut space = self.space.write();
        let result = self.remap_locked(&mut space, request, &mut after);
        let events = space.take_events();
        drop(space);
        events.tell();
        drop(after.removed);
        if let Ok(addr) = result {
            self.tell_mapped(&(addr..addr.saturating_add(request.new_len)));
        }
        if let (Ok(_), Some(range)) = (&result, after.populate) {
            self.populate(range);
        }
        result
    }

    fn remap_locked(&self, space: &mut Space, mut r: RemapRequest, after: &mut After) -> Result<u64> {
        let rule = if r.keeps_source() { CountRule::MremapEntryKeep } else { CountRule::MremapEntry };
        if !count_fits(rule, space.set.len(), sysctl::max_map_count()) {
            return Err(Errno::ENOMEM);
        }
        if r.flags.contains(MremapFlags::FIXED) && r.old_len == r.new_len {
            return self.remap_all(space, r, after);
        }
        align_huge(space, &mut r)?;
        check_vma(space, &r)?;
        after.reserve()?;
        if r.has_target() {
            return self.remap_to(space, r, after);
        }
        if r.new_len == r.old_len {
            return Ok(r.addr);
        }
        if r.new_len < r.old_len {
            let tail = r.addr + r.new_len..r.source().end;
            after.keep(self.unmap_locked(space, tail)?);
            return Ok(r.addr);
        }
        if let Some(addr) = self.grow_in_place(space, &r, after)? {
            return Ok(addr);
        }
        if !r.flags.contains(MremapFlags::MAYMOVE) {
            return Err(Errno::ENOMEM);
        }
        let target = space.search(r.new_len, None).ok_or(Errno::ENOMEM)?;
        self.move_mapping(space, r, target, after)
    }

    /// Moves every VMA of the range to the fixed target; gaps between them stay as wide as they are.
    fn remap_all(&self, space: &mut Space, all: RemapRequest, after: &mut After) -> Result<u64> {
        let source = all.source();
        let mut result = Err(Errno::EFAULT);
        let (mut at, mut target, mut last_end) = (source.start, all.new_addr, None);
        while let Some(vma) = space.set.find(at).filter(|v| at < source.end && v.start < source.end) {
            if last_end.is_none() && vma.start > source.start {
                return Err(Errno::EFAULT);
            }
            target += last_end.map_or(0, |end| vma.start - end);
            // LINUX: only whole, unwatched areas move together with others.
            let is_watched = vma.attr.watch.is_some();
            if is_watched && (last_end.is_some() || vma.end < source.end) {
                return Err(Errno::EFAULT);
            }
            last_end = Some(vma.end);
            let part = vma.clip(&source);
            let len = part.end - part.start;
            let mut r =
                RemapRequest { addr: part.start, old_len: len, new_len: len, new_addr: target, ..all };
            align_huge(space, &mut r)?;
            let len = r.new_len;
            at = part.start + len;
            check_vma(space, &r)?;
            after.reserve()?;
            let moved = self.remap_to(space, r, after)?;
            result = result.or(Ok(moved));
            target = moved + len;
        }
        result
    }

    /// Moves to the address that the call names.
    fn remap_to(&self, space: &mut Space, mut r: RemapRequest, after: &mut After) -> Result<u64> {
        if r.flags.contains(MremapFlags::FIXED) {
            after.keep(self.unmap_locked(space, r.new_addr..r.new_addr + r.new_len)?);
        }
        if r.new_len < r.old_len {
            let tail = r.addr + r.new_len..r.source().end;
            after.keep(self.unmap_locked(space, tail)?);
            r.old_len = r.new_len;
        }
        let vma = space.set.at(r.addr).ok_or(Errno::EFAULT)?;
        if r.keeps_source() {
            space.check_limits(vma.attr.flags, r.old_len, 0)?;
        }
        let target = space.target(&r)?;
        self.move_mapping(space, r, target, after)
    }

    /// Grows the mapping where it is, if it ends at its VMA's end and what follows is free.
    fn grow_in_place(&self, space: &mut Space, r: &RemapRequest, after: &mut After) -> Result<Option<u64>> {
        let vma = space.set.at(r.addr).ok_or(Errno::EFAULT)?;
        let grown = r.source().end..r.addr.saturating_add(r.new_len);
        if grown.start != vma.end || grown.end > USER_END || !space.set.is_free(grown.clone()) {
            return Ok(None);
        }
        let mut attr = vma.attr.clone();
        vma_set::Attr::advance(&mut attr, vma.len());
        let (flags, pages) = (attr.flags, (grown.end - grown.start) >> PAGE_SHIFT);
        let charged = if flags.contains(VmFlags::ACCOUNT) { pages } else { 0 };
        if charged > 0 {
            commit::charge(charged, space.set.bytes() >> PAGE_SHIFT)?;
        }
        space.set.insert(grown.clone(), attr).map_err(|e| {
            commit::uncharge(charged);
            refused(e)
        })?;
        space.note_size();
        if flags.contains(VmFlags::LOCKED) {
            after.populate = Some(grown);
        }
        Ok(Some(r.addr))
    }

    /// Moves (or with length 0 duplicates) the mapping to `target`, where nothing is.
    fn move_mapping(
        &self,
        space: &mut Space,
        r: RemapRequest,
        target: u64,
        after: &mut After,
    ) -> Result<u64> {
        let source = r.source();
        let vma = space.set.at(r.addr).ok_or(Errno::EFAULT)?;
        let flags = vma.attr.flags;
        let unlocks = r.keeps_source() && flags.contains(VmFlags::LOCKED);
        let rule = if unlocks { CountRule::MremapMoveKeep } else { CountRule::MremapMove };
        let limit = sysctl::max_map_count();
        if !count_fits(rule, space.set.len(), limit) {
            return Err(Errno::ENOMEM);
        }
        let mut attr = vma.attr.clone();
        vma_set::Attr::advance(&mut attr, r.addr - vma.start);
        let was_watched = attr.watch.is_some();
        // Anonymous memory that nobody wrote to gets the place's own offset, so that it can merge there.
        let untouched = matches!(attr.backing, Backing::Anonymous) && attr.history() == History::Fresh;
        if untouched && attr.shown_as.is_none() {
            attr.offset = target;
        }
        if unlocks {
            space.set.split(source.start, sysctl::max_map_count()).map_err(refused)?;
            space.set.split(source.end, sysctl::max_map_count()).map_err(refused)?;
        }
        let accounted = flags.contains(VmFlags::ACCOUNT);
        let new_pages = if r.keeps_source() { r.new_len } else { r.new_len - r.old_len } >> PAGE_SHIFT;
        if accounted {
            commit::charge(new_pages, space.set.bytes() >> PAGE_SHIFT)?;
        }
        let to = target..target + r.new_len;
        let apart = if untouched && r.keeps_source() { r.addr } else { u64::MAX };
        attr.watch = attr.watch.filter(|watch| watch.by.events().contains(WatchEvents::REMAP));
        let moved_watch = attr.watch.clone();
        let inserted = space.set.insert_apart(to.clone(), attr, apart).map_err(refused);
        let moved = inserted.and_then(|()| {
            self.move_pages(source.clone(), target).inspect_err(|_| {
                // Put back what was moved, and take the copy away.
                let _ = self.move_pages(target..target + r.old_len, source.start);
                let _ = space.set.remove(to.clone(), usize::MAX).map(|gone| after.keep(gone));
            })
        });
        if let Err(e) = moved {
            if accounted {
                commit::uncharge(new_pages);
            }
            return Err(e);
        }
        if unlocks {
            unlock_source(space, source)?;
        } else if !r.keeps_source() && !source.is_empty() {
            // Its charge went to the copy: the removal must not give it back.
            if accounted {
                commit::transfer(r.old_len >> PAGE_SHIFT);
            }
            if let Some(reserve) = space.set.at(source.start).and_then(|vma| vma.attr.reserve.as_ref()) {
                reserve.moved();
            }
            if let Ok(gone) = self.unmap_locked(space, source) {
                after.keep(gone);
            }
        }
        if let Some(watch) = moved_watch {
            let (from, len) = (r.addr, r.new_len);
            space.events.note(&watch, WatchEvents::REMAP, || WatchEvent::Remap { from, to: target, len });
        } else if was_watched {
            self.forget_protection(to.clone());
        }
        space.note_size();
        if flags.contains(VmFlags::LOCKED) && r.new_len > r.old_len {
            after.populate = Some(target + r.old_len..to.end);
        }
        Ok(target)
    }

    /// Moves the page-table entries of `from` to addresses that begin at `to`; nothing is mapped there.
    fn move_pages(&self, from: Range<u64>, to: u64) -> Result<()> {
        let len = from.end - from.start;
        let (Some(from), Some(to)) =
            (PageRange::new(from.start, from.end), PageRange::new(to, to.saturating_add(len)))
        else {
            return Ok(());
        };
        // What was moved stays moved: the next try finds the rest.
        while self.page_table().move_range(from, to).is_err() {
            oom::relieve()?;
        }
        Ok(())
    }
}

/// Widens a request about huge pages to whole ones. `EINVAL`: it does not begin at one, or asks for more of them.
fn align_huge(space: &Space, r: &mut RemapRequest) -> Result<()> {
    let is_huge = space.set.at(r.addr).is_some_and(|vma| vma.attr.flags.contains(VmFlags::HUGETLB));
    if !is_huge {
        return Ok(());
    }
    r.old_len = hugetlb::align_up(r.old_len).ok_or(Errno::EINVAL)?;
    r.new_len = hugetlb::align_up(r.new_len).ok_or(Errno::EINVAL)?;
    let is_aligned = |addr: u64| addr.is_multiple_of(hugetlb::SIZE);
    let fits = is_aligned(r.addr) && (!r.has_target() || is_aligned(r.new_addr)) && r.new_len <= r.old_len;
    if fits { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Whether the VMA at `r.addr` can be remapped so, and the limits allow it.
fn check_vma(space: &Space, r: &RemapRequest) -> Result<()> {
    let vma = space.set.at(r.addr).ok_or(Errno::EFAULT)?;
    let flags = vma.attr.flags;
    if flags.contains(VmFlags::SEALED) {
        return Err(Errno::EPERM);
    }
    if !r.has_target() && r.new_len <= r.old_len {
        return Ok(());
    }
    if r.old_len == 0 && !flags.intersects(VmFlags::SHARED | VmFlags::MAYSHARE) {
        return Err(Errno::EINVAL);
    }
    let fixed_size = flags.intersects(VmFlags::DONTEXPAND | VmFlags::PFNMAP);
    if r.keeps_source() && fixed_size {
        return Err(Errno::EINVAL);
    }
    // What a shrink unmaps may cross borders, what moves may not.
    if r.old_len.min(r.new_len) > vma.end - r.addr {
        return Err(Errno::EFAULT);
    }
    if r.new_len <= r.old_len {
        return Ok(());
    }
    if fixed_size {
        return Err(Errno::EFAULT);
    }
    let more = r.new_len - r.old_len;
    if flags.contains(VmFlags::LOCKED) && space.locked_bytes().saturating_add(more) > space.limits.memlock {
        return Err(Errno::EAGAIN);
    }
    space.check_limits(flags, more, 0)
}

/// The VMA that `MREMAP_DONTUNMAP` leaves behind is not locked; it merges with nothing.
fn unlock_source(space: &mut Space, source: Range<u64>) -> Result<()> {
    let Some(vma) = space.set.at(source.start) else { return Ok(()) };
    let mut attr = vma.attr.clone();
    vma_set::Attr::advance(&mut attr, source.start - vma.start);
    attr.flags -= VmFlags::LOCK_MASK;
    space.set.modify_apart(source, attr, usize::MAX).map_err(refused)
}

impl Space {
    /// The address that `MREMAP_FIXED` names, or the best near `MREMAP_DONTUNMAP`'s hint.
    fn target(&mut self, r: &RemapRequest) -> Result<u64> {
        let min = sysctl::MMAP_MIN_ADDR.load(Ordering::Relaxed);
        if r.flags.contains(MremapFlags::FIXED) {
            return if oom::may_map_at(r.new_addr) { Ok(r.new_addr) } else { Err(Errno::EPERM) };
        }
        let hint = r.new_addr;
        if hint >= min && hint != 0 && self.set.fits(hint..hint + r.new_len) {
            return Ok(hint);
        }
        self.search(r.new_len, None).ok_or(Errno::ENOMEM)
    }
}
