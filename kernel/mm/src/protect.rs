//! Changes of VMA attributes over a range: mprotect(2), mlock(2) and relatives.

use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::mman::{MlockallFlags, Prot};
use abi::{Errno, Result};
use hal::paging::{Entry, PteFlags};
use hal::{PAGE_SHIFT, PAGE_SIZE, PageRange};
use vma_set::Refused;

use crate::commit;
use crate::fault::pte_flags;
use crate::map::{page_align, refused, user_range};
use crate::mapping::page_flags;
use crate::space::{Mm, Space};
use crate::sysctl;
use crate::thp;
use crate::vma::{Backing, History, VmFlags, Vma, VmaAttr};

impl Mm {
    /// mprotect(2) and, with `pkey`, pkey_mprotect(2). May sleep.
    ///
    /// `EINVAL`: not aligned, no such key, or `PROT_GROWSDOWN` where nothing grows. `ENOMEM`: a hole (what lies below it
    /// has changed), the count limit, or the commit limit. `EACCES`: the file does not allow it. `EPERM`: sealed.
    pub fn protect(&self, addr: u64, len: u64, prot: Prot, pkey: Option<i32>) -> Result<()> {
        let grows = prot & (Prot::GROWSDOWN | Prot::GROWSUP);
        let unknown = prot.bits() & !(Prot::READ | Prot::WRITE | Prot::EXEC | Prot::SEM | grows).bits() != 0;
        if grows == Prot::GROWSDOWN | Prot::GROWSUP || !addr.is_multiple_of(PAGE_SIZE as u64) || unknown {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(());
        }
        let range = user_range(addr, len).ok_or(Errno::ENOMEM)?;
        let mut space = self.space.edit();
        if pkey.is_some_and(|key| !space.keys.has(key)) {
            return Err(Errno::EINVAL);
        }
        let start = space.growing_start(range.start, grows)?;
        let pkey = match pkey {
            Some(key) => u8::try_from(key).ok(),
            None => space.keys.for_prot(prot),
        };
        let access = VmFlags::from_prot(prot);
        self.modify_range(&mut space, start..range.end, refused, |vma, space| {
            let old = vma.attr.flags;
            if old.contains(VmFlags::SEALED) {
                return Err(Errno::EPERM);
            }
            let new = (old - VmFlags::ACCESS) | access;
            // The MAY bits are the access bits four places up.
            let may = VmFlags::from_bits_truncate(old.bits() >> 4) & VmFlags::ACCESS;
            if !may.contains(access) || self.denies_exec(old, new) {
                return Err(Errno::EACCES);
            }
            if new.is_data() && !old.is_data() {
                space.check_limits(new, vma.len(), vma.len())?;
            }
            // What nobody wrote to costs nothing once nobody can; other memory stays charged.
            let untouched =
                matches!(vma.attr.backing, Backing::Anonymous) && vma.attr.history() == History::Fresh;
            let new = if untouched { new - VmFlags::ACCOUNT } else { new };
            Ok(Some((charged(new), pkey.unwrap_or_else(|| space.keys.kept(&vma.attr)))))
        })
    }

    /// Applies `change` to the flags and key of each VMA part in `range`, with the page table following.
    ///
    /// `ENOMEM` at the first hole; what lies below it has changed (as on Linux).
    fn modify_range(
        &self,
        space: &mut Space,
        range: Range<u64>,
        on_refusal: fn(Refused) -> Errno,
        mut change: impl FnMut(&Vma, &Space) -> Result<Option<(VmFlags, u8)>>,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let Some(vma) = space.set.at(at) else { return Err(Errno::ENOMEM) };
            let part = vma.clip(&(at..range.end));
            at = part.end;
            let whole = Vma { start: part.start, end: part.end, attr: vma.attr.clone() };
            let mut attr = whole.attr.clone();
            let from = part.start - vma.start;
            vma_set::Attr::advance(&mut attr, from);
            let Some((flags, pkey)) = change(&whole, space)? else { continue };
            if flags == attr.flags && pkey == attr.pkey {
                continue;
            }
            let charged = flags.contains(VmFlags::ACCOUNT) && !attr.flags.contains(VmFlags::ACCOUNT);
            let pages = (part.end - part.start) >> PAGE_SHIFT;
            if charged {
                commit::charge(pages, space.set.bytes() >> PAGE_SHIFT)?;
            }
            let was_charged = attr.flags.contains(VmFlags::ACCOUNT) && !flags.contains(VmFlags::ACCOUNT);
            let rights_changed = (flags ^ attr.flags).intersects(VmFlags::ACCESS) || pkey != attr.pkey;
            attr.flags = flags;
            attr.pkey = pkey;
            let shown = attr.clone();
            self.space.stop_faults(space, &part);
            space.set.modify(part.clone(), attr, sysctl::max_map_count()).map_err(|e| {
                if charged {
                    commit::uncharge(pages);
                }
                on_refusal(e)
            })?;
            if was_charged {
                commit::uncharge(pages);
            }
            if rights_changed {
                self.protect_pages(part, &shown);
            }
        }
        Ok(())
    }

    /// Gives the entries of `range` the rights of `attr`.
    fn protect_pages(&self, range: Range<u64>, attr: &VmaAttr) {
        if attr.flags.contains(VmFlags::HUGETLB) {
            return self.protect_huge_pages(range, attr);
        }
        let Some(range) = PageRange::new(range.start, range.end) else { return };
        let may_write = attr.flags.contains(VmFlags::WRITE);
        let notify = attr.backing.mapping().is_some_and(|m| m.wants_write_notify());
        let private = attr.is_private();
        let mut cursor = self.page_table().cursor(range);
        let mut at = range.start();
        while let Some((addr, entry)) = cursor.next_mapped(at) {
            at = addr + PAGE_SIZE as u64;
            let Entry::Present { frame, flags } = entry else { continue };
            let is_shmem = frame.meta().flags.load(Ordering::Relaxed) & page_flags::SHMEM != 0;
            if frame.is_in_huge() && (private != is_shmem) {
                let clean = flags & (PteFlags::SOFT | PteFlags::WATCHED);
                drop(frame);
                let rights =
                    |alone| pte_flags(attr, may_write && clean.is_empty() && (alone || !private)) | clean;
                if let Some(end) = thp::protect_whole(&mut cursor, addr, range.end(), rights) {
                    at = end;
                    continue;
                }
                let Entry::Present { frame, .. } = cursor.query(addr) else { continue };
                let alone = frame.ref_count() == 2;
                cursor.protect(addr, rights(alone));
                continue;
            }
            let clean = flags & (PteFlags::SOFT | PteFlags::WATCHED);
            let writable = may_write && clean.is_empty() && {
                let kind = frame.meta().flags.load(Ordering::Relaxed);
                if private {
                    kind & page_flags::ANON != 0 && frame.ref_count() == 2
                } else {
                    !notify || kind & page_flags::DIRTY != 0
                }
            };
            drop(frame);
            cursor.protect(addr, pte_flags(attr, writable) | clean);
        }
    }

    /// mlock(2), mlock2(2) with `on_fault`. May sleep.
    ///
    /// `EPERM`: the limit is 0. `ENOMEM`: over the limit, a hole, or a page could not be had.
    pub fn lock(&self, addr: u64, len: u64, on_fault: OnFault) -> Result<()> {
        let range = unaligned_range(addr, len)?;
        let mut space = self.space.edit();
        if space.limits.memlock == 0 {
            return Err(Errno::EPERM);
        }
        let already: u64 = space
            .set
            .overlapping(range.clone())
            .filter(|v| v.attr.flags.contains(VmFlags::LOCKED))
            .map(|v| v.clip(&range))
            .map(|r| r.end - r.start)
            .sum();
        let wanted = (range.end - range.start).saturating_sub(already);
        if space.locked_bytes().saturating_add(wanted) > space.limits.memlock {
            return Err(Errno::ENOMEM);
        }
        let lock = on_fault.flags();
        self.modify_range(&mut space, range.clone(), refused, |vma, _| Ok(Some(with_lock(vma, lock))))?;
        drop(space);
        if on_fault == OnFault::No {
            self.populate_with(range, None).map_err(|_| Errno::ENOMEM)
        } else {
            Ok(())
        }
    }

    /// munlock(2). May sleep. `ENOMEM`: a hole.
    pub fn unlock(&self, addr: u64, len: u64) -> Result<()> {
        let range = unaligned_range(addr, len)?;
        let mut space = self.space.edit();
        self.modify_range(&mut space, range, refused, |vma, _| Ok(Some(with_lock(vma, VmFlags::empty()))))
    }

    /// mlockall(2). May sleep. `EINVAL`: bad flags. `EPERM`: the limit is 0. `ENOMEM`: over the limit.
    pub fn lock_all(&self, flags: MlockallFlags) -> Result<()> {
        let known = MlockallFlags::CURRENT | MlockallFlags::FUTURE | MlockallFlags::ONFAULT;
        if flags.is_empty() || flags == MlockallFlags::ONFAULT || !known.contains(flags) {
            return Err(Errno::EINVAL);
        }
        let mut space = self.space.edit();
        if space.limits.memlock == 0 {
            return Err(Errno::EPERM);
        }
        let current = flags.contains(MlockallFlags::CURRENT);
        if current && space.set.bytes() > space.limits.memlock {
            return Err(Errno::ENOMEM);
        }
        let on_fault = if flags.contains(MlockallFlags::ONFAULT) { OnFault::Yes } else { OnFault::No };
        let lock = on_fault.flags();
        space.def_flags -= VmFlags::LOCK_MASK;
        if flags.contains(MlockallFlags::FUTURE) {
            space.def_flags |= lock;
        }
        if current {
            self.set_lock_everywhere(&mut space, lock)?;
            drop(space);
            if on_fault == OnFault::No {
                self.populate(0..hal::USER_END);
            }
        }
        Ok(())
    }

    /// munlockall(2). May sleep.
    pub fn unlock_all(&self) -> Result<()> {
        let mut space = self.space.edit();
        space.def_flags -= VmFlags::LOCK_MASK;
        self.set_lock_everywhere(&mut space, VmFlags::empty())
    }

    fn set_lock_everywhere(&self, space: &mut Space, lock: VmFlags) -> Result<()> {
        let mut at = 0;
        while let Some((start, end)) = space.set.find(at).map(|v| (v.start, v.end)) {
            self.modify_range(space, start..end, refused, |vma, _| Ok(Some(with_lock(vma, lock))))?;
            at = end;
        }
        Ok(())
    }

    /// Sets and clears flags of all VMAs in `range` for madvise(2); holes are skipped and make it `ENOMEM` last.
    ///
    /// `EAGAIN`: a split was refused. `EINVAL`: a cut through a huge page; others: what `change` says.
    pub(crate) fn advise_flags(
        &self,
        range: Range<u64>,
        change: impl Fn(&Vma) -> Result<VmFlags>,
    ) -> Result<()> {
        let mut space = self.space.edit();
        let is_whole = self.change_flags(&mut space, range.clone(), change)?;
        // No large entry reaches over the border of two areas.
        self.split_huge(range.start);
        self.split_huge(range.end);
        if is_whole { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Gives each VMA part in `range` the flags that `change` says; whether there was no hole.
    ///
    /// `EAGAIN`: no room for a split. `EINVAL`: a cut through a huge page. And the errors of `change`.
    pub(crate) fn change_flags(
        &self,
        space: &mut Space,
        range: Range<u64>,
        change: impl Fn(&Vma) -> Result<VmFlags>,
    ) -> Result<bool> {
        let mut at = range.start;
        let mut hole = false;
        // `at` may be inside of the last VMA: one that did not change was not split.
        while at < range.end
            && let Some(vma) = space.set.find(at).filter(|v| v.start < range.end)
        {
            let part = vma.clip(&(at..range.end));
            hole |= part.start > at;
            at = part.end;
            self.modify_range(
                space,
                part,
                |why| if why == Refused::Cut { Errno::EINVAL } else { Errno::EAGAIN },
                |vma, _| change(vma).map(|flags| Some((flags, vma.attr.pkey))),
            )?;
        }
        Ok(!hole && at >= range.end)
    }
}

/// The flags of a mapping with new rights: huge pages are accounted by their pool.
fn charged(flags: VmFlags) -> VmFlags {
    let charged = flags.charged_if_writable();
    if flags.contains(VmFlags::HUGETLB) { charged - VmFlags::ACCOUNT } else { charged }
}

/// Whether pages are locked only once they are touched (`MLOCK_ONFAULT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFault {
    /// All at once.
    No,
    /// As they are touched.
    Yes,
}

impl OnFault {
    fn flags(self) -> VmFlags {
        match self {
            Self::No => VmFlags::LOCKED,
            Self::Yes => VmFlags::LOCK_MASK,
        }
    }
}

/// The flags of a VMA whose lock state becomes `lock`; kernel-made mappings stay as they are.
fn with_lock(vma: &Vma, lock: VmFlags) -> (VmFlags, u8) {
    let flags = vma.attr.flags;
    let special = VmFlags::PFNMAP | VmFlags::IO | VmFlags::DONTEXPAND | VmFlags::DROPPABLE;
    let new = if flags.intersects(special) { flags } else { (flags - VmFlags::LOCK_MASK) | lock };
    (new, vma.attr.pkey)
}

/// The pages that hold `len` bytes from `addr`, which need not be aligned (mlock rounds down).
fn unaligned_range(addr: u64, len: u64) -> Result<Range<u64>> {
    let start = addr & !(PAGE_SIZE as u64 - 1);
    let len = page_align(len.saturating_add(addr - start));
    if len == 0 {
        return Ok(start..start);
    }
    user_range(start, len).ok_or(Errno::ENOMEM)
}

impl Space {
    /// The start of a range to protect: with `PROT_GROWSDOWN` that of its growing VMA.
    fn growing_start(&self, start: u64, grows: Prot) -> Result<u64> {
        if grows.is_empty() {
            return Ok(start);
        }
        let vma = self.set.find(start).ok_or(Errno::ENOMEM)?;
        if grows.contains(Prot::GROWSDOWN) && vma.attr.flags.contains(VmFlags::GROWSDOWN) {
            Ok(vma.start)
        } else {
            Err(Errno::EINVAL)
        }
    }
}
