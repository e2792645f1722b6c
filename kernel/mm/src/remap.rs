//! mremap(2).
//!
//! ```text
//! shrink   AAAAAA -> AAA...          grow in place   AAA... -> AAAAAA
//! move     AAA.B  -> ....BAAA        with DONTUNMAP: the old VMA stays, without its pages
//! ```

use core::ops::Range;

use abi::mman::MremapFlags;
use abi::{Errno, Result};
use hal::{PAGE_SHIFT, PAGE_SIZE, PageRange, USER_END};
use vma_set::{CountRule, Removed, count_fits};

use crate::commit;
use crate::map::{page_align, refused};
use crate::oom;
use crate::space::{Mm, Space};
use crate::sysctl;
use crate::vma::{VmFlags, VmaAttr};

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
    removed: [Option<Removed<VmaAttr>>; 3],
    populate: Option<Range<u64>>,
}

impl After {
    fn keep(&mut self, removed: Removed<VmaAttr>) {
        if let Some(place) = self.removed.iter_mut().find(|r| r.is_none()) {
            *place = Some(removed);
        }
    }
}

impl RemapRequest {
    /// Rounds lengths and checks what needs no lock.
    fn check(&mut self) -> Result<()> {
        let all = MremapFlags::MAYMOVE | MremapFlags::FIXED | MremapFlags::DONTUNMAP;
        let implies_addr = self.flags.intersects(MremapFlags::FIXED | MremapFlags::DONTUNMAP);
        let page = PAGE_SIZE as u64;
        if !all.contains(self.flags) || !self.addr.is_multiple_of(page) {
            return Err(Errno::EINVAL);
        }
        let (old, new) = (page_align(self.old_len), page_align(self.new_len));
        if new == 0 || new > USER_END || (old == 0 && self.old_len != 0) {
            return Err(Errno::EINVAL);
        }
        (self.old_len, self.new_len) = (old, new);
        if !implies_addr {
            return Ok(());
        }
        if !self.new_addr.is_multiple_of(page)
            || self.new_addr > USER_END - new
            || !self.flags.contains(MremapFlags::MAYMOVE)
            || (self.flags.contains(MremapFlags::DONTUNMAP) && old != new)
        {
            return Err(Errno::EINVAL);
        }
        let old_end = self.addr.saturating_add(old);
        let overlap = self.addr < self.new_addr + new && self.new_addr < old_end;
        if overlap { Err(Errno::EINVAL) } else { Ok(()) }
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
        drop(space);
        drop(after.removed);
        if let (Ok(_), Some(range)) = (&result, after.populate) {
            self.populate(range);
        }
        result
    }

    fn remap_locked(&self, space: &mut Space, mut r: RemapRequest, after: &mut After) -> Result<u64> {
        let keeps = r.flags.contains(MremapFlags::DONTUNMAP);
        let rule = if keeps { CountRule::MremapEntryKeep } else { CountRule::MremapEntry };
        if !count_fits(rule, space.set.len(), sysctl::max_map_count()) {
            return Err(Errno::ENOMEM);
        }
        let vma = space.set.at(r.addr).ok_or(Errno::EFAULT)?;
        let (vma_end, flags) = (vma.end, vma.attr.flags);
        let offset = vma.attr.offset_at(vma.start, r.addr);
        if flags.contains(VmFlags::SEALED) {
            return Err(Errno::EPERM);
        }
        if r.old_len == 0 && !flags.contains(VmFlags::MAYSHARE) {
            return Err(Errno::EINVAL);
        }
        if keeps && flags.intersects(VmFlags::DONTEXPAND | VmFlags::PFNMAP) {
            return Err(Errno::EINVAL);
        }
        let moves = r.flags.intersects(MremapFlags::FIXED | MremapFlags::DONTUNMAP);
        if r.new_len < r.old_len {
            let tail = r.addr + r.new_len..r.addr + r.old_len;
            after.keep(self.unmap_locked(space, tail)?);
            r.old_len = r.new_len;
        }
        if r.new_len == r.old_len && !moves {
            return Ok(r.addr);
        }
        if r.old_len > vma_end - r.addr {
            return Err(Errno::EFAULT);
        }
        if r.new_len > r.old_len {
            self.check_growth(space, &r, flags, offset)?;
            if !moves {
                if let Some(addr) = self.grow_in_place(space, &r, vma_end, after)? {
                    return Ok(addr);
                }
                if !r.flags.contains(MremapFlags::MAYMOVE) {
                    return Err(Errno::ENOMEM);
                }
            }
        }
        self.move_mapping(space, r, after)
    }

    fn check_growth(&self, space: &Space, r: &RemapRequest, flags: VmFlags, offset: u64) -> Result<()> {
        if offset.checked_add(r.new_len).is_none() {
            return Err(Errno::EINVAL);
        }
        if flags.intersects(VmFlags::DONTEXPAND | VmFlags::PFNMAP) {
            return Err(Errno::EFAULT);
        }
        let more = r.new_len - r.old_len;
        if flags.contains(VmFlags::LOCKED) && space.locked_bytes().saturating_add(more) > space.limits.memlock
        {
            return Err(Errno::EAGAIN);
        }
        space.check_limits(flags, more, 0)
    }

    /// Grows the mapping where it is, if it ends at its VMA's end and what follows is free.
    fn grow_in_place(
        &self,
        space: &mut Space,
        r: &RemapRequest,
        vma_end: u64,
        after: &mut After,
    ) -> Result<Option<u64>> {
        let grown = r.addr + r.old_len..r.addr.saturating_add(r.new_len);
        let free = grown.end <= USER_END && space.set.fits(grown.clone());
        if grown.start != vma_end || !free || r.old_len == 0 {
            return Ok(None);
        }
        let vma = space.set.at(r.addr).ok_or(Errno::EFAULT)?;
        let mut attr = vma.attr.clone();
        vma_set::Attr::advance(&mut attr, grown.start - vma.start);
        let (flags, pages) = (attr.flags, (grown.end - grown.start) >> PAGE_SHIFT);
        let charged = if flags.contains(VmFlags::ACCOUNT) { pages } else { 0 };
        if charged > 0 {
            commit::charge(charged)?;
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

    /// Moves (or with length 0 duplicates) the mapping.
    fn move_mapping(&self, space: &mut Space, r: RemapRequest, after: &mut After) -> Result<u64> {
        let keeps = r.flags.contains(MremapFlags::DONTUNMAP);
        let target = if r.flags.contains(MremapFlags::FIXED) {
            let target = r.new_addr..r.new_addr + r.new_len;
            after.keep(self.unmap_locked(space, target.clone())?);
            target
        } else {
            let hint = r.new_addr..r.new_addr + r.new_len;
            let at = if keeps && r.new_addr != 0 && space.set.fits(hint) {
                r.new_addr
            } else {
                space.search(r.new_len, None).ok_or(Errno::ENOMEM)?
            };
            at..at + r.new_len
        };
        let vma = space.set.at(r.addr).ok_or(Errno::EFAULT)?;
        let mut attr = vma.attr.clone();
        vma_set::Attr::advance(&mut attr, r.addr - vma.start);
        let flags = attr.flags;
        let rule = if keeps && flags.contains(VmFlags::LOCKED) {
            CountRule::MremapMoveKeep
        } else {
            CountRule::MremapMove
        };
        if !count_fits(rule, space.set.len(), sysctl::max_map_count()) {
            return Err(Errno::ENOMEM);
        }
        let charged = if flags.contains(VmFlags::ACCOUNT) { r.new_len >> PAGE_SHIFT } else { 0 };
        if charged > 0 {
            commit::charge(charged)?;
        }
        space.set.insert(target.clone(), attr).map_err(|e| {
            commit::uncharge(charged);
            refused(e)
        })?;
        let source = r.addr..r.addr + r.old_len;
        if let Err(e) = self.move_pages(source.clone(), target.start) {
            // Put back what was moved.
            let _ = self.move_pages(target.start..target.start + r.old_len, source.start);
            after.keep(self.unmap_locked(space, target)?);
            return Err(e);
        }
        if keeps {
            self.unlock_source(space, source)?;
        } else if !source.is_empty() {
            after.keep(self.unmap_locked(space, source)?);
        }
        space.note_size();
        if flags.contains(VmFlags::LOCKED) {
            after.populate = Some(target.start + r.old_len..target.end);
        }
        Ok(target.start)
    }

    /// The VMA that `MREMAP_DONTUNMAP` leaves behind is not locked.
    fn unlock_source(&self, space: &mut Space, source: Range<u64>) -> Result<()> {
        let Some(vma) = space.set.at(source.start) else { return Ok(()) };
        if vma.attr.flags.intersects(VmFlags::LOCK_MASK) {
            let mut attr = vma.attr.clone();
            vma_set::Attr::advance(&mut attr, source.start - vma.start);
            attr.flags -= VmFlags::LOCK_MASK;
            space.set.modify(source, attr, usize::MAX).map_err(refused)?;
        }
        Ok(())
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
