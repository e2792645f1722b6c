//! mmap(2), munmap(2), brk(2), growing stacks.

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::mman::{MapFlags, Prot};
use abi::{Errno, Result};
use hal::paging::{Entry, PteFlags};
use hal::{PAGE_SHIFT, PAGE_SIZE, PageRange, USER_END, UserAddr};
use vma_set::{Align, CountRule, Refused, Removed, count_fits};

use crate::commit;
use crate::fault::{FaultError, bytes};
use crate::hugetlb;
use crate::ksm;
use crate::layout::MAP_32BIT_RANGE;
use crate::mapping::truncate::Private;
use crate::mapping::{Mapping, ShmemObject, page_flags};
use crate::oom;
use crate::space::{Mm, RssDelta, Space};
use crate::sysctl;
use crate::thp;
use crate::vma::{Backing, STACK_GUARD_GAP, Shown, ShownFile, VmFlags, VmaAttr};
use crate::watch::{Events, WP_MARKER, WatchEvent, WatchEvents, WatchModes};

/// Longest range that is cleared under one hold of the page-table lock.
const CLEAR_STEP: u64 = 1 << 30;

/// What mmap(2) is asked for.
#[derive(Debug)]
pub struct MapRequest {
    /// Wanted address: exact with `MAP_FIXED`, otherwise a hint; 0 for none.
    pub addr: u64,
    /// Length in bytes; rounded up to pages.
    pub len: u64,
    /// Rights.
    pub prot: Prot,
    /// `MAP_*`. `MAP_ANONYMOUS` is not looked at: `backing` tells.
    pub flags: MapFlags,
    /// `Anonymous` also for shared anonymous memory, whose object is made here.
    pub backing: Backing,
    /// Offset in the object, a multiple of the page size.
    pub offset: u64,
    /// What the object can ever grant: `MAYREAD`, `MAYWRITE`, `MAYEXEC`; all for anonymous memory.
    pub may: VmFlags,
    /// Flags besides, such as `DONTEXPAND`, `PFNMAP`, `DONTDUMP`.
    pub extra: VmFlags,
    /// The file that private anonymous memory is shown as, with `offset` (a mapping of /dev/zero).
    pub shown_as: Option<ShownFile>,
}

impl MapRequest {
    /// A private anonymous mapping anywhere.
    #[inline]
    pub fn anonymous(len: u64, prot: Prot) -> Self {
        Self {
            addr: 0,
            len,
            prot,
            flags: MapFlags::PRIVATE | MapFlags::ANONYMOUS,
            backing: Backing::Anonymous,
            offset: 0,
            may: VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::MAYEXEC,
            extra: VmFlags::empty(),
            shown_as: None,
        }
    }
}

/// Rounds up to whole pages; 0 when that overflows.
pub(crate) fn page_align(len: u64) -> u64 {
    len.checked_add(PAGE_SIZE as u64 - 1).map_or(0, |n| n & !(PAGE_SIZE as u64 - 1))
}

/// The errno of a refused edit in mmap, munmap, mprotect and others.
#[inline]
pub(crate) fn refused(refused: Refused) -> Errno {
    match refused {
        Refused::Count | Refused::Memory => Errno::ENOMEM,
        Refused::Cut => Errno::EINVAL,
    }
}

impl Mm {
    /// mmap(2): maps `len` bytes and returns their address. May sleep.
    ///
    /// `EINVAL`, `ENOMEM`, `EOVERFLOW`, `EEXIST`, `EACCES`, `EPERM`, `EAGAIN`, `EOPNOTSUPP`: as mmap(2) has them.
    pub fn map(&self, request: MapRequest) -> Result<u64> {
        let populate = request.flags.contains(MapFlags::LOCKED)
            || request.flags & (MapFlags::POPULATE | MapFlags::NONBLOCK) == MapFlags::POPULATE;
        let mut space = self.space.edit();
        let mapped = self.map_locked(&mut space, request);
        let events = space.take_events();
        drop(space);
        events.tell();
        let (range, removed, locked) = mapped?;
        drop(removed);
        self.tell_mapped(&range);
        if populate || locked {
            self.populate(range.clone());
        }
        Ok(range.start)
    }

    fn map_locked(
        &self,
        space: &mut Space,
        mut request: MapRequest,
    ) -> Result<(Range<u64>, Removed<VmaAttr>, bool)> {
        if request.len == 0 {
            return Err(Errno::EINVAL);
        }
        let is_huge = hugetlb::is_huge(&request.backing);
        let len = if is_huge { hugetlb::align_up(request.len).unwrap_or(0) } else { page_align(request.len) };
        if len == 0 {
            return Err(Errno::ENOMEM);
        }
        if is_huge && !request.offset.is_multiple_of(hugetlb::SIZE) {
            return Err(Errno::EINVAL);
        }
        if request.offset.checked_add(len).is_none() {
            return Err(Errno::EOVERFLOW);
        }
        if !count_fits(CountRule::Map, space.set.len(), sysctl::max_map_count()) {
            return Err(Errno::ENOMEM);
        }
        if request.flags.contains(MapFlags::FIXED_NOREPLACE) {
            request.flags |= MapFlags::FIXED;
        }
        let start = space.place(&request, len)?;
        let range = start..start + len;
        if request.flags.contains(MapFlags::FIXED_NOREPLACE) && !space.set.is_free(range.clone()) {
            return Err(Errno::EEXIST);
        }
        let mut flags = space.new_flags(&request, len)?;
        if self.denies_exec(flags, flags) {
            return Err(Errno::EACCES);
        }
        let fixed = request.flags.contains(MapFlags::FIXED) && !space.set.is_free(range.clone());
        space.check_limits(flags, len, if fixed { space.overlap(&range) } else { 0 })?;
        let mut shown_as = None;
        let backing = match request.backing {
            Backing::Anonymous if flags.contains(VmFlags::MAYSHARE) => {
                request.offset = 0;
                let free = flags.contains(VmFlags::NORESERVE);
                let object = if free { ShmemObject::new(len) } else { ShmemObject::new_charged(len)? };
                Backing::file(Arc::new(object))
            }
            Backing::Anonymous => {
                let shift = start.wrapping_sub(request.offset);
                shown_as = request.shown_as.take().map(|file| Shown { file, shift });
                request.offset = start;
                Backing::Anonymous
            }
            backing => backing,
        };
        let mut writable = flags.contains(VmFlags::SHARED | VmFlags::MAYWRITE);
        if writable && backing.mapping().is_some_and(|m| m.allow_writable().is_err()) {
            // Sealed against writing: what is only read may be mapped, and stays read-only for good.
            if flags.contains(VmFlags::WRITE) {
                return Err(Errno::EPERM);
            }
            flags -= VmFlags::MAYWRITE;
            writable = false;
        }
        let mut attr = VmaAttr::new(flags, request.offset, backing, writable);
        attr.pkey = space.keys.for_prot(request.prot).unwrap_or(0);
        attr.shown_as = shown_as.map(Arc::new);
        if is_huge {
            attr.promise_huge(len)?;
        }
        let charged = if flags.contains(VmFlags::ACCOUNT) { len >> PAGE_SHIFT } else { 0 };
        if charged > 0 {
            commit::charge(charged, space.set.bytes() >> PAGE_SHIFT)?;
        }
        let unmapped = if fixed { self.unmap_locked(space, range.clone()) } else { Ok(Removed::new()) };
        let removed = unmapped.inspect_err(|_| commit::uncharge(charged))?;
        space.set.insert(range.clone(), attr).map_err(|e| {
            commit::uncharge(charged);
            refused(e)
        })?;
        space.note_size();
        self.total_vm.store(space.set.bytes(), Ordering::Relaxed);
        Ok((range, removed, flags.contains(VmFlags::LOCKED)))
    }

    /// munmap(2): removes all mappings of the range. May sleep.
    ///
    /// `EINVAL`: `addr` not page-aligned, `len` 0, or outside of user space. `ENOMEM`: the count limit.
    pub fn unmap(&self, addr: u64, len: u64) -> Result<()> {
        let range = user_range(addr, len).ok_or(Errno::EINVAL)?;
        let mut space = self.space.edit();
        let removed = self.unmap_locked(&mut space, range);
        let events = space.take_events();
        drop(space);
        events.tell();
        removed.map(drop)
    }

    /// Removes all mappings of `range`; the caller drops what is returned after it unlocked `space`.
    pub(crate) fn unmap_locked(&self, space: &mut Space, range: Range<u64>) -> Result<Removed<VmaAttr>> {
        let plan = space.set.plan_remove(range.clone(), sysctl::max_map_count()).map_err(refused)?;
        let (mut start, mut end, mut charged, mut sealed) = (range.end, range.start, 0, false);
        let mut events = Events::default();
        for vma in space.set.overlapping(range.clone()) {
            let part = vma.clip(&range);
            if let Some(watch) = &vma.attr.watch {
                events.note(watch, WatchEvents::UNMAP, || WatchEvent::Unmap(part.clone()));
            }
            start = start.min(part.start);
            end = part.end;
            sealed |= vma.attr.flags.contains(VmFlags::SEALED);
            if vma.attr.flags.contains(VmFlags::ACCOUNT) {
                charged += (part.end - part.start) >> PAGE_SHIFT;
            }
        }
        space.events.append(events);
        if sealed {
            // LINUX: the cut at the start has been made when the sealed VMA is met, and stays.
            if space.set.at(range.start).is_some_and(|v| !v.attr.flags.contains(VmFlags::SEALED)) {
                // No fault sees a cut between two that are alike.
                let _ = space.set.split(range.start, usize::MAX);
            }
            return Err(Errno::EPERM);
        }
        if start < end {
            self.space.stop_faults(space, &(start..end));
            self.clear_pages(start..end);
            commit::uncharge(charged);
            for vma in space.set.overlapping(range.clone()) {
                hugetlb::unpromise(vma, &range);
            }
        }
        Ok(space.set.commit_remove(plan))
    }

    /// Clears the page table over `range` and gives the frames back.
    pub(crate) fn clear_pages(&self, range: Range<u64>) {
        self.rss.note_peak();
        let mut delta = RssDelta::default();
        let mut at = range.start;
        while at < range.end {
            let end = at.saturating_add(CLEAR_STEP).min(range.end);
            if let Some(step) = PageRange::new(at, end) {
                self.page_table().cursor(step).unmap_range(step, &mut |_, entry| delta.count_gone(entry));
            }
            at = end;
        }
        self.rss.apply(delta);
    }

    /// Clears the entries of pages `range` of `mapping` wherever this address space shows them.
    pub(crate) fn unmap_mapping(&self, mapping: &Mapping, range: Range<u64>, private: Private) {
        let space = self.space.read();
        for vma in space.set.iter() {
            let Some(own) = vma.attr.backing.mapping() else { continue };
            if !core::ptr::eq(&raw const **own, &raw const *mapping) {
                continue;
            }
            let first = vma.attr.offset >> PAGE_SHIFT;
            let end = first + (vma.len() >> PAGE_SHIFT);
            let (from, to) = (range.start.max(first), range.end.min(end));
            if from < to {
                let at = vma.start + bytes(from - first)..vma.start + bytes(to - first);
                match private {
                    // LINUX: a hole in a file of huge pages takes private copies along.
                    _ if own.is_huge() => self.zap_huge(vma, at),
                    Private::Unmap => self.zap_pages(vma, at),
                    Private::Keep => self.clear_file_pages(at),
                }
            }
        }
    }

    /// Whether a watcher here wants to know of missing pages among `range` of `mapping`.
    pub(crate) fn tells_missing(&self, mapping: &Mapping, range: &Range<u64>) -> bool {
        let space = self.space.read();
        space.set.iter().any(|vma| {
            let first = vma.attr.offset >> PAGE_SHIFT;
            let end = first + (vma.len() >> PAGE_SHIFT);
            vma.attr.watched().contains(WatchModes::MISSING)
                && vma.attr.backing.mapping().is_some_and(|own| core::ptr::eq(&raw const **own, mapping))
                && first < range.end
                && range.start < end
        })
    }

    /// As `clear_pages`, but private copies and marks of watched writes stay.
    fn clear_file_pages(&self, range: Range<u64>) {
        let Some(range) = PageRange::new(range.start, range.end) else { return };
        let mut delta = RssDelta::default();
        let mut cursor = self.page_table().cursor(range);
        let mut at = range.start();
        while let Some((addr, entry)) = cursor.next_mapped(at) {
            if let Entry::Present { frame, flags } = entry {
                let kind = frame.meta().flags.load(Ordering::Relaxed);
                if kind & page_flags::ANON == 0 {
                    if flags.contains(PteFlags::WATCHED) {
                        // Cannot fail: the entry's table is there.
                        let _ = cursor.set_special(addr, WP_MARKER);
                    } else {
                        cursor.unmap(addr);
                    }
                    delta.count(kind, -1);
                }
            }
            at = addr + PAGE_SIZE as u64;
        }
        drop(cursor);
        self.rss.apply(delta);
    }

    /// brk(2): moves the end of the heap to `brk` if that is possible, and returns where it is then. May sleep.
    pub fn brk(&self, brk: u64) -> u64 {
        let mut space = self.space.edit();
        let old = space.layout.brk;
        let (old_end, new_end) = (page_align(old), page_align(brk));
        if brk < space.layout.start_brk || new_end == 0 || new_end > USER_END {
            return old;
        }
        let data =
            (brk - space.layout.start_brk).saturating_add(space.layout.end_data - space.layout.start_data);
        if data > space.limits.data {
            return old;
        }
        let mut removed = Removed::new();
        let mut locked = false;
        if new_end < old_end {
            match self.unmap_locked(&mut space, new_end..old_end) {
                Ok(gone) => removed = gone,
                Err(_) => return old,
            }
        } else if new_end > old_end {
            match space.grow_heap(old_end..new_end) {
                Ok(l) => locked = l,
                Err(_) => return old,
            }
        }
        space.layout.brk = brk;
        let events = space.take_events();
        drop(space);
        events.tell();
        drop(removed);
        if locked {
            self.populate(old_end..new_end);
        }
        brk
    }

    /// Grows the stack above `addr` down to it. `SegvMaperr`: there is none, or it may not.
    #[cold]
    pub(crate) fn grow_stack(&self, addr: u64) -> Result<(), FaultError> {
        let mut space = self.space.edit();
        let start = addr & !(PAGE_SIZE as u64 - 1);
        let limits = space.limits;
        let Some(vma) = space.set.find(addr) else { return Err(FaultError::SegvMaperr) };
        if vma.start <= addr {
            return Ok(());
        }
        let (old_start, end, mut attr) = (vma.start, vma.end, vma.attr.clone());
        attr.offset = attr.offset.wrapping_sub(old_start - start);
        if !attr.flags.contains(VmFlags::GROWSDOWN) || start < sysctl::MMAP_MIN_ADDR.load(Ordering::Relaxed) {
            return Err(FaultError::SegvMaperr);
        }
        // The guard gap: accessible mappings below that are no stacks themselves keep their distance.
        let too_near = space.set.before(addr).is_some_and(|below| {
            below.attr.flags.intersects(VmFlags::ACCESS)
                && !below.attr.flags.contains(VmFlags::GROWSDOWN)
                && start.saturating_sub(below.end) < STACK_GUARD_GAP
        });
        let grow = old_start - start;
        if too_near
            || end - start > limits.stack
            || space.set.bytes().saturating_add(grow) > limits.address_space
        {
            return Err(FaultError::SegvMaperr);
        }
        if attr.flags.contains(VmFlags::LOCKED) && space.locked_bytes().saturating_add(grow) > limits.memlock
        {
            return Err(FaultError::SegvMaperr);
        }
        let account = attr.flags.contains(VmFlags::ACCOUNT);
        if account {
            let own = space.set.bytes() >> PAGE_SHIFT;
            commit::charge(grow >> PAGE_SHIFT, own).map_err(|_| FaultError::SegvMaperr)?;
        }
        space.set.insert(start..old_start, attr).map_err(|_| {
            if account {
                commit::uncharge(grow >> PAGE_SHIFT);
            }
            FaultError::SegvMaperr
        })?;
        space.note_size();
        Ok(())
    }

    /// Faults in all pages of `range` that are mapped, as `MAP_POPULATE` does; errors end it silently.
    pub(crate) fn populate(&self, range: Range<u64>) {
        let _ = self.populate_with(range, None);
    }

    /// An address where `len` bytes are free, for things the kernel maps itself (vDSO). 0 bits of hint.
    pub fn find_free(&self, len: u64) -> Result<u64> {
        let mut space = self.space.edit();
        space.search(len, None).ok_or(Errno::ENOMEM)
    }
}

/// `len` bytes from `addr`, rounded up to pages; `None` unless aligned, not empty and in user space.
pub(crate) fn user_range(addr: u64, len: u64) -> Option<Range<u64>> {
    let range = PageRange::from_user(UserAddr(addr), usize::try_from(len).ok()?)?;
    Some(range.start()..range.end())
}

impl Space {
    /// The events to tell once the caller has unlocked.
    #[inline]
    pub fn take_events(&mut self) -> Events {
        core::mem::take(&mut self.events)
    }

    /// Remembers the largest size.
    pub fn note_size(&mut self) {
        self.hiwater_vm = self.hiwater_vm.max(self.set.bytes());
    }

    /// Chooses the address of a new mapping.
    fn place(&mut self, request: &MapRequest, len: u64) -> Result<u64> {
        if len > USER_END {
            return Err(Errno::ENOMEM);
        }
        let min = sysctl::MMAP_MIN_ADDR.load(Ordering::Relaxed);
        let is_huge = hugetlb::is_huge(&request.backing);
        let align = if is_huge { Align { size: hugetlb::SIZE, offset: 0 } } else { Align::PAGE };
        if request.flags.contains(MapFlags::FIXED) {
            if request.addr > USER_END - len {
                return Err(Errno::ENOMEM);
            }
            let page = if is_huge { hugetlb::SIZE } else { PAGE_SIZE as u64 };
            if !request.addr.is_multiple_of(page) {
                return Err(Errno::EINVAL);
            }
            return if oom::may_map_at(request.addr) { Ok(request.addr) } else { Err(Errno::EPERM) };
        }
        if request.flags.contains(MapFlags::MAP_32BIT) {
            return self.set.find_bottom_up(MAP_32BIT_RANGE, len, align).ok_or(Errno::ENOMEM);
        }
        // LINUX: a hint is rounded down to a page, then up to the lowest address allowed.
        let mut hint = request.addr & !(PAGE_SIZE as u64 - 1);
        if hint != 0 {
            hint = hint.max(min);
        }
        if is_huge {
            hint = hugetlb::align_up(hint).unwrap_or(0);
        }
        let fits = hint != 0 && hint <= USER_END - len && self.set.fits(hint..hint + len);
        if fits {
            return Ok(hint);
        }
        // LINUX: large anonymous memory begins where a huge page can.
        let anonymous = matches!(request.backing, Backing::Anonymous) && request.addr == 0;
        let is_shared =
            matches!(request.flags & MapFlags::TYPE, MapFlags::SHARED | MapFlags::SHARED_VALIDATE);
        let wanted = if is_shared { thp::wanted_shmem_alignment(len) } else { thp::wanted_alignment(len) };
        let aligned = wanted.filter(|_| anonymous).and_then(|align| self.search(len, Some(align)));
        aligned.or_else(|| self.search(len, Some(align))).ok_or(Errno::ENOMEM)
    }

    /// A free range of `len` bytes: below `mmap_base` if there is one, else anywhere above.
    pub fn search(&mut self, len: u64, align: Option<Align>) -> Option<u64> {
        let align = align.unwrap_or(Align::PAGE);
        let min = sysctl::MMAP_MIN_ADDR.load(Ordering::Relaxed).max(PAGE_SIZE as u64);
        let base = self.layout.mmap_base;
        self.set
            .find_top_down(min..base.max(min), len, align)
            .or_else(|| self.set.find_bottom_up(USER_END / 3..USER_END, len, align))
    }

    /// The flags of a new mapping, with the checks of rights (mmap(2), in Linux's order).
    fn new_flags(&self, request: &MapRequest, len: u64) -> Result<VmFlags> {
        let mut vm = VmFlags::from_prot(request.prot)
            | VmFlags::from_map_flags(request.flags)
            | request.extra
            | self.def_flags
            | VmFlags::MAYREAD
            | VmFlags::MAYWRITE
            | VmFlags::MAYEXEC;
        if request.flags.contains(MapFlags::LOCKED) && self.limits.memlock == 0 {
            return Err(Errno::EPERM);
        }
        // Secret memory is no locked memory, but limited like it.
        let secret = request.backing.object().is_some_and(|object| object.is_secret());
        let limited = secret || vm.contains(VmFlags::LOCKED);
        if limited && self.locked_bytes().saturating_add(len) > self.limits.memlock {
            return Err(Errno::EAGAIN);
        }
        if vm.intersects(VmFlags::PFNMAP | VmFlags::IO | VmFlags::DONTEXPAND) {
            // As mlock(2) leaves them.
            vm -= VmFlags::LOCK_MASK;
        }
        let kind = request.flags & MapFlags::TYPE;
        let is_file = matches!(request.backing, Backing::File(_));
        let grows = request.flags.contains(MapFlags::GROWSDOWN);
        if kind == MapFlags::SHARED || kind == MapFlags::SHARED_VALIDATE {
            if !is_file && (grows || kind == MapFlags::SHARED_VALIDATE) {
                return Err(Errno::EINVAL);
            }
            if kind == MapFlags::SHARED_VALIDATE && request.flags.contains(MapFlags::SYNC) {
                return Err(Errno::EOPNOTSUPP);
            }
            if request.prot.contains(Prot::WRITE) && !request.may.contains(VmFlags::MAYWRITE) {
                return Err(Errno::EACCES);
            }
            vm |= VmFlags::SHARED | VmFlags::MAYSHARE;
            if !request.may.contains(VmFlags::MAYWRITE) {
                vm -= VmFlags::MAYWRITE | VmFlags::SHARED;
            }
        } else if kind == MapFlags::DROPPABLE && !is_file {
            if grows || request.flags.intersects(MapFlags::LOCKED | MapFlags::HUGETLB) {
                return Err(Errno::EINVAL);
            }
            // LINUX: what may vanish is not locked, also not after mlockall(2).
            vm -= VmFlags::LOCK_MASK;
            vm |= VmFlags::DROPPABLE | VmFlags::NORESERVE | VmFlags::WIPEONFORK | VmFlags::DONTDUMP;
        } else if kind != MapFlags::PRIVATE {
            return Err(Errno::EINVAL);
        }
        if is_file {
            if !request.may.contains(VmFlags::MAYREAD) {
                return Err(Errno::EACCES);
            }
            if !request.may.contains(VmFlags::MAYEXEC) {
                if vm.contains(VmFlags::EXEC) {
                    return Err(Errno::EPERM);
                }
                vm -= VmFlags::MAYEXEC;
            }
            if grows {
                return Err(Errno::EINVAL);
            }
        }
        if vm.intersects(VmFlags::PFNMAP | VmFlags::IO | VmFlags::DONTEXPAND) {
            // LINUX: what is no memory of the kind is not locked, also not after mlockall(2).
            vm -= VmFlags::LOCK_MASK;
        }
        vm = vm.charged_if_writable();
        if hugetlb::is_huge(&request.backing) {
            // LINUX: they are accounted by the pool, are in memory anyway, and may always go without a promise.
            vm -= VmFlags::ACCOUNT | VmFlags::LOCK_MASK;
            vm |= VmFlags::HUGETLB | VmFlags::DONTEXPAND;
            vm.set(VmFlags::NORESERVE, request.flags.contains(MapFlags::NORESERVE));
        }
        if !ksm::can_merge(vm) {
            vm -= VmFlags::MERGEABLE;
        }
        Ok(vm)
    }

    /// Checks `RLIMIT_AS` and `RLIMIT_DATA` for `len` new bytes, `replaced` of which take the place of others.
    pub fn check_limits(&self, flags: VmFlags, len: u64, replaced: u64) -> Result<()> {
        let after = self.set.bytes().saturating_sub(replaced).saturating_add(len);
        if after > self.limits.address_space {
            return Err(Errno::ENOMEM);
        }
        if flags.is_data() && self.limits.data != u64::MAX {
            let data: u64 = self.set.iter().filter(|v| v.attr.flags.is_data()).map(|v| v.len()).sum();
            if data.saturating_add(len) > self.limits.data {
                return Err(Errno::ENOMEM);
            }
        }
        Ok(())
    }

    /// Bytes of mappings inside of `range`.
    fn overlap(&self, range: &Range<u64>) -> u64 {
        self.set.overlapping(range.clone()).map(|v| v.clip(range)).map(|r| r.end - r.start).sum()
    }

    /// Bytes of locked mappings.
    pub fn locked_bytes(&self) -> u64 {
        self.set.iter().filter(|v| v.attr.flags.contains(VmFlags::LOCKED)).map(|v| v.len()).sum()
    }

    /// Extends the heap over `range`; tells whether its pages are to be locked.
    fn grow_heap(&mut self, range: Range<u64>) -> Result<bool> {
        let len = range.end - range.start;
        // One page more: the guard of whatever lies above.
        if !self.set.fits(range.start..range.end.saturating_add(PAGE_SIZE as u64)) {
            return Err(Errno::ENOMEM);
        }
        let flags = (VmFlags::READ
            | VmFlags::WRITE
            | VmFlags::MAYREAD
            | VmFlags::MAYWRITE
            | VmFlags::MAYEXEC
            | self.def_flags)
            .charged_if_writable();
        if flags.contains(VmFlags::LOCKED) && self.locked_bytes().saturating_add(len) > self.limits.memlock {
            return Err(Errno::EAGAIN);
        }
        self.check_limits(flags, len, 0)?;
        if !count_fits(CountRule::Map, self.set.len(), sysctl::max_map_count()) {
            return Err(Errno::ENOMEM);
        }
        commit::charge(len >> PAGE_SHIFT, self.set.bytes() >> PAGE_SHIFT)?;
        let attr = VmaAttr::new(flags, range.start, Backing::Anonymous, false);
        self.set.insert(range, attr).map_err(|e| {
            commit::uncharge(len >> PAGE_SHIFT);
            refused(e)
        })?;
        self.note_size();
        Ok(flags.contains(VmFlags::LOCKED))
    }
}
