//! mseal(2), names of mappings, remap_file_pages(2), process_mrelease(2): rare calls over ranges of VMAs.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::mman::{MapFlags, Prot};
use abi::{Errno, Result};
use hal::PAGE_SIZE;

use crate::map::{MapRequest, page_align, refused};
use crate::space::Mm;
use crate::sysctl;
use crate::vma::{VmFlags, VmaAttr};

impl Mm {
    /// mseal(2): from now on the mappings of the range cannot be unmapped, moved or changed. May sleep.
    ///
    /// `EINVAL`: not aligned, or the range overflows. `ENOMEM`: a hole (then nothing changed), or the count limit.
    pub fn seal(&self, addr: u64, len: u64) -> Result<()> {
        let bytes = page_align(len);
        if !addr.is_multiple_of(PAGE_SIZE as u64) || (len != 0 && bytes == 0) {
            return Err(Errno::EINVAL);
        }
        let end = addr.checked_add(bytes).ok_or(Errno::EINVAL)?;
        if end == addr {
            return Ok(());
        }
        let mut space = self.space.write();
        if !space.set.covers(addr..end) {
            return Err(Errno::ENOMEM);
        }
        let mut at = addr;
        while let Some(vma) = space.set.at(at).filter(|_| at < end) {
            let part = vma.clip(&(at..end));
            at = part.end;
            if vma.attr.flags.contains(VmFlags::SEALED) {
                continue;
            }
            let mut attr: VmaAttr = vma.attr.clone();
            vma_set::Attr::advance(&mut attr, part.start - vma.start);
            attr.flags |= VmFlags::SEALED;
            space.set.modify(part, attr, sysctl::max_map_count()).map_err(refused)?;
        }
        Ok(())
    }

    /// `PR_SET_VMA_ANON_NAME`: names the anonymous memory of the range, or takes its name away. May sleep.
    ///
    /// `EINVAL`: not aligned, or the range overflows. `EBADF`: a file. `ENOMEM`: a hole (the rest was named).
    /// `EAGAIN`: the count limit.
    pub fn set_name(&self, addr: u64, len: u64, name: Option<Vec<u8>>) -> Result<()> {
        let bytes = page_align(len);
        if !addr.is_multiple_of(PAGE_SIZE as u64) || (len != 0 && bytes == 0) {
            return Err(Errno::EINVAL);
        }
        let end = addr.checked_add(bytes).ok_or(Errno::EINVAL)?;
        let name = name.map(Arc::new);
        let mut space = self.space.write();
        let (mut at, mut hole) = (addr, false);
        while let Some(vma) = space.set.find(at).filter(|v| v.start < end && at < end) {
            let part = vma.clip(&(at..end));
            hole |= part.start > at;
            at = part.end;
            let mut attr: VmaAttr = vma.attr.clone();
            let is_own = match attr.backing.object() {
                None => true,
                Some(object) => object.id().major == 0 && object.id().minor == 1,
            };
            if !is_own {
                return Err(Errno::EBADF);
            }
            if attr.name == name {
                continue;
            }
            vma_set::Attr::advance(&mut attr, part.start - vma.start);
            attr.name.clone_from(&name);
            space.set.modify(part, attr, sysctl::max_map_count()).map_err(|_| Errno::EAGAIN)?;
        }
        if hole || at < end { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// remap_file_pages(2): shows another part of the file at the place of a shared mapping. May sleep.
    ///
    /// `EINVAL`: no shared mapping of one file covers the range, or the range is empty.
    pub fn remap_file_pages(&self, addr: u64, size: u64, page_offset: u64, flags: MapFlags) -> Result<()> {
        let mask = !(PAGE_SIZE as u64 - 1);
        let (start, size) = (addr & mask, size & mask);
        let end = start.checked_add(size).filter(|end| *end > start).ok_or(Errno::EINVAL)?;
        let offset = page_offset.checked_mul(PAGE_SIZE as u64).ok_or(Errno::EINVAL)?;
        offset.checked_add(size).ok_or(Errno::EINVAL)?;
        let request = {
            let space = self.space.read();
            let first = space.set.at(start).ok_or(Errno::EINVAL)?;
            let vm = first.attr.flags;
            if !vm.contains(VmFlags::SHARED) || !space.set.covers(start..end) {
                return Err(Errno::EINVAL);
            }
            let same = |v: &crate::vma::Vma| {
                v.attr.flags == vm
                    && match (v.attr.backing.object(), first.attr.backing.object()) {
                        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                        _ => false,
                    }
            };
            if !space.set.overlapping(start..end).all(same) {
                return Err(Errno::EINVAL);
            }
            let mut map = MapFlags::SHARED | MapFlags::FIXED | MapFlags::POPULATE;
            map |= flags & MapFlags::NONBLOCK;
            map.set(MapFlags::LOCKED, vm.contains(VmFlags::LOCKED));
            MapRequest {
                addr: start,
                len: size,
                prot: Prot::from_bits_truncate(vm.bits() & 7),
                flags: map,
                backing: first.attr.backing.clone(),
                offset,
                may: vm & (VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::MAYEXEC),
                extra: VmFlags::empty(),
                shown_as: None,
            }
        };
        self.map(request).map(drop)
    }

    /// Gives the private pages of a dying process back before it gets to it (process_mrelease(2)). May sleep.
    pub fn reap(&self) {
        let space = self.space.read();
        for vma in space.set.iter() {
            let flags = vma.attr.flags;
            let kept = VmFlags::MAYSHARE | VmFlags::LOCKED | VmFlags::PFNMAP | VmFlags::IO | VmFlags::HUGETLB;
            if !flags.intersects(kept) {
                self.clear_pages(vma.start..vma.end);
            }
        }
    }
}
