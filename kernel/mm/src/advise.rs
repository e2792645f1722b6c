//! madvise(2) and msync(2).

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::mman::{Advice, MsyncFlags};
use abi::raw::general as raw;
use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::paging::{Entry, PteFlags};
use hal::{PageRange, UserAddr};

use crate::fault::GUARD_MARKER;
use crate::map::page_align;
use crate::mapping::{Mapping, page_flags};
use crate::space::{Mm, RssDelta};
use crate::thp::khugepaged;
use crate::vma::{Backing, VmFlags, Vma};
use crate::walk::{Aim, Lock};
use crate::watch::WP_MARKER;
use crate::{oom, swap};

/// Advice that changes VMA flags: what to set, what to clear.
fn flag_advice(advice: Advice) -> Option<(VmFlags, VmFlags)> {
    let none = VmFlags::empty();
    let (seq, rand) = (VmFlags::SEQ_READ, VmFlags::RAND_READ);
    Some(match advice {
        raw::MADV_NORMAL => (none, seq | rand),
        raw::MADV_SEQUENTIAL => (seq, rand),
        raw::MADV_RANDOM => (rand, seq),
        raw::MADV_DONTFORK => (VmFlags::DONTCOPY, none),
        raw::MADV_DOFORK => (none, VmFlags::DONTCOPY),
        raw::MADV_WIPEONFORK => (VmFlags::WIPEONFORK, none),
        raw::MADV_KEEPONFORK => (none, VmFlags::WIPEONFORK),
        raw::MADV_DONTDUMP => (VmFlags::DONTDUMP, none),
        raw::MADV_DODUMP => (none, VmFlags::DONTDUMP),
        raw::MADV_HUGEPAGE => (VmFlags::HUGEPAGE, VmFlags::NOHUGEPAGE),
        raw::MADV_NOHUGEPAGE => (VmFlags::NOHUGEPAGE, VmFlags::HUGEPAGE),
        raw::MADV_UNMERGEABLE => (none, VmFlags::MERGEABLE),
        _ => return None,
    })
}

/// Whether `advice` may change the flags of `vma`.
fn check_flag_advice(advice: Advice, vma: &Vma) -> Result<()> {
    let flags = vma.attr.flags;
    let private_anonymous =
        matches!(vma.attr.backing, Backing::Anonymous) && !flags.contains(VmFlags::MAYSHARE);
    let fits = match advice {
        raw::MADV_WIPEONFORK => private_anonymous,
        raw::MADV_KEEPONFORK => !flags.contains(VmFlags::DROPPABLE),
        raw::MADV_DOFORK => !flags.contains(VmFlags::IO),
        raw::MADV_DODUMP if flags.contains(VmFlags::HUGETLB) => true,
        raw::MADV_DODUMP => !flags.intersects(VmFlags::PFNMAP | VmFlags::DONTEXPAND | VmFlags::DROPPABLE),
        _ => true,
    };
    if fits { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Whether madvise(2) knows `advice`. `EINVAL`: no.
pub fn check(advice: Advice) -> Result<()> {
    if is_known(advice) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Whether `advice` may be given to another process: it changes no contents.
pub fn is_harmless(advice: Advice) -> bool {
    matches!(advice, raw::MADV_COLD | raw::MADV_PAGEOUT | raw::MADV_WILLNEED | raw::MADV_COLLAPSE)
}

/// Refuses to throw away the contents of a sealed mapping that could not be written either. `EPERM`.
fn check_seal(advice: Advice, vma: &Vma) -> Result<()> {
    let discards = matches!(
        advice,
        raw::MADV_FREE
            | raw::MADV_DONTNEED
            | raw::MADV_DONTNEED_LOCKED
            | raw::MADV_REMOVE
            | raw::MADV_DONTFORK
            | raw::MADV_WIPEONFORK
            | raw::MADV_GUARD_INSTALL
    );
    let flags = vma.attr.flags;
    let may_write = flags.contains(VmFlags::WRITE) && crate::pkey::allows_writes(vma.attr.pkey);
    let sealed = flags.contains(VmFlags::SEALED) && !may_write;
    let refused = discards && sealed && matches!(vma.attr.backing, Backing::Anonymous);
    if refused { Err(Errno::EPERM) } else { Ok(()) }
}

impl Mm {
    /// madvise(2). May sleep.
    ///
    /// `EINVAL`: unknown advice, not aligned, or advice that the mapping cannot take. `ENOMEM`: a hole (the
    /// rest was advised). `EAGAIN`: no room for a split. `EACCES`, `EFAULT`, `EPERM`: as in madvise(2).
    pub fn advise(&self, addr: u64, len: u64, advice: Advice) -> Result<()> {
        if !is_known(advice) || !addr.is_multiple_of(PAGE_SIZE as u64) {
            return Err(Errno::EINVAL);
        }
        let bytes = page_align(len);
        let end = addr.checked_add(bytes).ok_or(Errno::EINVAL)?;
        if len != 0 && bytes == 0 {
            return Err(Errno::EINVAL);
        }
        if bytes == 0 {
            return Ok(());
        }
        let range = addr..end;
        if advice == raw::MADV_MERGEABLE {
            self.ksm.join();
            return self.advise_flags(range, |vma| Ok(Self::mergeable_flags(vma)));
        }
        if let Some((set, clear)) = flag_advice(advice) {
            let result = self.advise_flags(range.clone(), |vma| {
                check_seal(advice, vma)?;
                check_flag_advice(advice, vma)?;
                Ok((vma.attr.flags - clear) | set)
            });
            if advice == raw::MADV_HUGEPAGE {
                khugepaged::note_candidate();
            }
            if advice == raw::MADV_UNMERGEABLE {
                return self.unmerge(range).and(result);
            }
            return result;
        }
        if advice == raw::MADV_SOFT_OFFLINE {
            return self.soft_offline(range);
        }
        if matches!(
            advice,
            raw::MADV_REMOVE | raw::MADV_DONTNEED | raw::MADV_DONTNEED_LOCKED | raw::MADV_FREE
        ) {
            self.tell_removal(range.clone());
        }
        match advice {
            raw::MADV_REMOVE => self.remove_pages(range),
            raw::MADV_COLLAPSE => self.collapse(range),
            raw::MADV_POPULATE_READ => self.populate_with(range, Some(false)),
            raw::MADV_POPULATE_WRITE => self.populate_with(range, Some(true)),
            raw::MADV_COLD | raw::MADV_PAGEOUT => {
                let result = self.advise_pages(range.clone(), advice);
                if result != Err(Errno::EINVAL) {
                    let aim = if advice == raw::MADV_COLD { Aim::Cold } else { Aim::Out };
                    self.age_range(range, aim, Lock::Wait);
                }
                result
            }
            raw::MADV_GUARD_INSTALL => {
                self.note_guards(&range);
                self.advise_pages(range, advice)
            }
            _ => self.advise_pages(range, advice),
        }
    }

    /// `MADV_FREE`: pages of `range` go when memory is short, unless they are written before.
    fn free_lazily(&self, range: Range<u64>) {
        let Some(range) = PageRange::new(range.start, range.end) else { return };
        let mut delta = RssDelta::default();
        let mut cursor = self.page_table().cursor(range);
        let mut at = range.start();
        while let Some((addr, entry)) = cursor.next_mapped(at) {
            at = addr + PAGE_SIZE as u64;
            match &entry {
                // Two references: the entry's and the one in `frame`.
                Entry::Present { frame, .. } if frame.ref_count() == 2 => {
                    let flags = &frame.meta().flags;
                    if flags.load(Ordering::Relaxed) & page_flags::ANON != 0 {
                        cursor.take_dirty(addr);
                        flags.fetch_or(page_flags::LAZY, Ordering::Relaxed);
                    }
                }
                Entry::Special(value) if swap::is_swap(*value) => {
                    delta.count_gone(&entry);
                    cursor.unmap(addr);
                }
                _ => {}
            }
        }
        drop(cursor);
        self.rss.apply(delta);
    }

    /// Notes that the areas of `range` may hold guard pages; those that cannot are left as they are.
    fn note_guards(&self, range: &Range<u64>) {
        let lacks = |vma: &Vma| !vma.attr.flags.contains(VmFlags::MAYBE_GUARD);
        if !self.space.read().set.overlapping(range.clone()).any(lacks) {
            return;
        }
        let mut space = self.space.write();
        space.set.for_each_mut(|at, attr| {
            let never = VmFlags::PFNMAP | VmFlags::IO | VmFlags::DONTEXPAND | VmFlags::LOCKED;
            if at.start < range.end && range.start < at.end && !attr.flags.intersects(never) {
                attr.flags |= VmFlags::MAYBE_GUARD;
            }
        });
    }

    /// Advice about pages, which changes no VMA.
    fn advise_pages(&self, range: Range<u64>, advice: Advice) -> Result<()> {
        let space = self.space.read();
        let mut at = range.start;
        let mut hole = false;
        for vma in space.set.overlapping(range.clone()) {
            let part = vma.clip(&range);
            hole |= part.start > at;
            at = part.end;
            let flags = vma.attr.flags;
            let fixed = flags.intersects(VmFlags::PFNMAP | VmFlags::IO);
            let locked = flags.contains(VmFlags::LOCKED);
            check_seal(advice, vma)?;
            match advice {
                raw::MADV_DONTNEED if fixed || locked => return Err(Errno::EINVAL),
                raw::MADV_DONTNEED_LOCKED if fixed => return Err(Errno::EINVAL),
                raw::MADV_DONTNEED | raw::MADV_DONTNEED_LOCKED if flags.contains(VmFlags::HUGETLB) => {
                    self.zap_huge(vma, Self::whole_pages(&part)?);
                }
                raw::MADV_DONTNEED | raw::MADV_DONTNEED_LOCKED => self.zap_pages(vma, part),
                raw::MADV_FREE if !matches!(vma.attr.backing, Backing::Anonymous) || locked => {
                    return Err(Errno::EINVAL);
                }
                raw::MADV_FREE => self.free_lazily(part),
                raw::MADV_GUARD_INSTALL | raw::MADV_GUARD_REMOVE
                    if fixed || flags.contains(VmFlags::DONTEXPAND) =>
                {
                    return Err(Errno::EINVAL);
                }
                raw::MADV_GUARD_INSTALL if locked => return Err(Errno::EINVAL),
                raw::MADV_GUARD_INSTALL => self.install_guards(part)?,
                raw::MADV_GUARD_REMOVE => self.remove_guards(part),
                raw::MADV_COLD | raw::MADV_PAGEOUT if fixed || locked || flags.contains(VmFlags::HUGETLB) => {
                    return Err(Errno::EINVAL);
                }
                // WILLNEED is a hint about what is in memory anyway.
                _ => {}
            }
        }
        if hole || at < range.end { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Drops the pages of `range` but keeps guard markers.
    pub(crate) fn zap_pages(&self, vma: &Vma, range: Range<u64>) {
        // What is written to a file's pages is watched also when they come back.
        let keeps_marks = vma.attr.watch.is_some() && matches!(vma.attr.backing, Backing::File(_));
        if !self.has_guards.load(Ordering::Relaxed) && !keeps_marks {
            return self.clear_pages(range);
        }
        let Some(range) = PageRange::new(range.start, range.end) else { return };
        let mut delta = RssDelta::default();
        let mut cursor = self.page_table().cursor(range);
        let mut at = range.start();
        while let Some((addr, entry)) = cursor.next_mapped(at) {
            at = addr + PAGE_SIZE as u64;
            match &entry {
                Entry::Special(GUARD_MARKER) => {}
                Entry::Special(WP_MARKER) if keeps_marks => {}
                Entry::Present { flags, .. } if keeps_marks && flags.contains(PteFlags::WATCHED) => {
                    delta.count_gone(&entry);
                    // Cannot fail: the entry's table is there.
                    let _ = cursor.set_special(addr, WP_MARKER);
                }
                _ => {
                    delta.count_gone(&entry);
                    cursor.unmap(addr);
                }
            }
        }
        drop(cursor);
        self.rss.apply(delta);
    }

    fn install_guards(&self, range: Range<u64>) -> Result<()> {
        self.has_guards.store(true, Ordering::Relaxed);
        self.clear_pages(range.clone());
        let mut at = range.start;
        while at < range.end {
            let Some(page) = PageRange::page_of(UserAddr(at)) else { break };
            let mut cursor = self.page_table().cursor(page);
            // A fault may have put a page here since it was cleared.
            let mut delta = RssDelta::default();
            let old = cursor.unmap(at);
            old.iter().for_each(|entry| delta.count_gone(entry));
            self.rss.apply(delta);
            let done = cursor.set_special(at, GUARD_MARKER).is_ok();
            drop(cursor);
            if done { at += PAGE_SIZE as u64 } else { oom::relieve()? }
        }
        Ok(())
    }

    fn remove_guards(&self, range: Range<u64>) {
        let Some(range) = PageRange::new(range.start, range.end) else { return };
        let mut cursor = self.page_table().cursor(range);
        let mut at = range.start();
        while let Some((addr, entry)) = cursor.next_mapped(at) {
            at = addr + PAGE_SIZE as u64;
            if matches!(entry, Entry::Special(GUARD_MARKER)) {
                cursor.unmap(addr);
            }
        }
    }

    /// `MADV_REMOVE`: punches holes into the shared files behind `range`.
    fn remove_pages(&self, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let (mapping, part, offset) = {
                let space = self.space.read();
                let vma = space.set.at(at).ok_or(Errno::ENOMEM)?;
                let flags = vma.attr.flags;
                let mapping = vma.attr.backing.mapping().ok_or(Errno::EINVAL)?;
                if flags.contains(VmFlags::LOCKED) {
                    return Err(Errno::EINVAL);
                }
                if !flags.contains(VmFlags::SHARED | VmFlags::WRITE) {
                    return Err(Errno::EACCES);
                }
                if !mapping.is_shmem() && !mapping.is_huge() {
                    return Err(Errno::EOPNOTSUPP);
                }
                let part = vma.clip(&(at..range.end));
                let offset = vma.attr.offset_at(vma.start, part.start);
                (mapping.clone(), part, offset)
            };
            // `punch` walks address spaces, this one too: not under its lock.
            mapping.punch(offset..offset + (part.end - part.start));
            at = part.end;
        }
        Ok(())
    }

    /// msync(2). May sleep.
    ///
    /// `EINVAL`: not aligned or bad flags. `ENOMEM`: a hole. `EBUSY`: `MS_INVALIDATE` on locked pages.
    pub fn sync(&self, addr: u64, len: u64, flags: MsyncFlags) -> Result<()> {
        let known = MsyncFlags::ASYNC | MsyncFlags::INVALIDATE | MsyncFlags::SYNC;
        let both = MsyncFlags::ASYNC | MsyncFlags::SYNC;
        if !known.contains(flags) || !addr.is_multiple_of(PAGE_SIZE as u64) || flags.contains(both) {
            return Err(Errno::EINVAL);
        }
        let bytes = page_align(len);
        let end = addr.checked_add(bytes).ok_or(Errno::ENOMEM)?;
        if len != 0 && bytes == 0 {
            return Err(Errno::ENOMEM);
        }
        let mut at = addr;
        let mut hole = false;
        while at < end {
            let (part, file) = {
                let space = self.space.read();
                let Some(vma) = space.set.find(at).filter(|v| v.start < end) else { break };
                if flags.contains(MsyncFlags::INVALIDATE) && vma.attr.flags.contains(VmFlags::LOCKED) {
                    return Err(Errno::EBUSY);
                }
                let part = vma.clip(&(at..end));
                let wanted = flags.contains(MsyncFlags::SYNC) && vma.attr.flags.contains(VmFlags::SHARED);
                let offset = vma.attr.offset_at(vma.start, part.start);
                let file: Option<(Arc<Mapping>, u64)> =
                    vma.attr.backing.mapping().filter(|_| wanted).map(|m| (m.clone(), offset));
                (part, file)
            };
            hole |= part.start > at;
            at = part.end;
            if let Some((mapping, offset)) = file {
                mapping.write_back(offset..offset + (part.end - part.start))?;
            }
        }
        if hole || at < end { Err(Errno::ENOMEM) } else { Ok(()) }
    }
}

/// Whether the number names an advice that this kernel takes.
fn is_known(advice: Advice) -> bool {
    flag_advice(advice).is_some()
        || matches!(
            advice,
            raw::MADV_MERGEABLE
                | raw::MADV_WILLNEED
                | raw::MADV_DONTNEED
                | raw::MADV_DONTNEED_LOCKED
                | raw::MADV_FREE
                | raw::MADV_REMOVE
                | raw::MADV_COLLAPSE
                | raw::MADV_COLD
                | raw::MADV_PAGEOUT
                | raw::MADV_POPULATE_READ
                | raw::MADV_POPULATE_WRITE
                | raw::MADV_GUARD_INSTALL
                | raw::MADV_GUARD_REMOVE
                | raw::MADV_SOFT_OFFLINE
        )
}
