//! /proc/kpageflags and /proc/kpagecount: a number of 64 bits for each page of the machine.
//!
//! What a page is used for is looked at, not held: it may be another thing a moment later.
//!
//! Source: Documentation/admin-guide/mm/pagemap.rst (Linux 7.2).

use alloc::sync::Arc;

use abi::{Errno, Result};
use hal::frame::{FrameUse, FrameView};
use hal::uio::Dest;
use mm::mapping::page_flags;
use security::Cap;
use vfs::{File, FileOps};

/// Bytes of an entry.
const ENTRY: u64 = 8;

/// Bits of an entry of kpageflags.
mod kpf {
    pub(super) const REFERENCED: u64 = 1 << 2;
    pub(super) const UPTODATE: u64 = 1 << 3;
    pub(super) const DIRTY: u64 = 1 << 4;
    pub(super) const LRU: u64 = 1 << 5;
    pub(super) const ACTIVE: u64 = 1 << 6;
    pub(super) const BUDDY: u64 = 1 << 10;
    pub(super) const MMAP: u64 = 1 << 11;
    pub(super) const ANON: u64 = 1 << 12;
    pub(super) const SWAPBACKED: u64 = 1 << 14;
    pub(super) const COMPOUND_HEAD: u64 = 1 << 15;
    pub(super) const COMPOUND_TAIL: u64 = 1 << 16;
    pub(super) const HUGE: u64 = 1 << 17;
    pub(super) const HWPOISON: u64 = 1 << 19;
    pub(super) const NOPAGE: u64 = 1 << 20;
    pub(super) const KSM: u64 = 1 << 21;
    pub(super) const THP: u64 = 1 << 22;
    pub(super) const ZERO_PAGE: u64 = 1 << 24;
}

/// How many page-table entries show the page, a huge one counted for each of its parts.
fn count(view: &FrameView) -> u64 {
    // The page cache, or merging, has one reference, page tables have the others.
    let kinds = page_flags::ANON | page_flags::FILE | page_flags::SHMEM | page_flags::KSM;
    let own = match view.flags & kinds {
        _ if view.flags & page_flags::OFFLINE != 0 => return 0,
        0 | page_flags::KSM => return 0,
        page_flags::ANON => 0,
        // A part of a huge page has one for the whole, too.
        page_flags::SHMEM if matches!(view.used_for, FrameUse::HugeHead | FrameUse::HugeTail) => 2,
        _ => 1,
    };
    u64::from(view.refs.saturating_sub(own))
}

fn flags(view: &FrameView) -> u64 {
    match view.used_for {
        FrameUse::Free => return kpf::BUDDY,
        FrameUse::Kernel => return 0,
        _ => {}
    }
    if view.flags & page_flags::OFFLINE != 0 {
        // Withdrawn: nobody has it.
        return kpf::HWPOISON;
    }
    let huge = if view.flags & page_flags::HUGETLB != 0 { kpf::HUGE } else { kpf::THP };
    let mut bits = match view.used_for {
        FrameUse::HugeHead => huge | kpf::COMPOUND_HEAD,
        FrameUse::HugeTail => huge | kpf::COMPOUND_TAIL,
        _ => 0,
    };
    for (flag, bit) in [
        (page_flags::ANON, kpf::ANON | kpf::SWAPBACKED | kpf::LRU | kpf::UPTODATE),
        (page_flags::SHMEM, kpf::SWAPBACKED | kpf::LRU | kpf::UPTODATE),
        (page_flags::FILE, kpf::LRU | kpf::UPTODATE),
        (page_flags::DIRTY, kpf::DIRTY),
        (page_flags::USED, kpf::REFERENCED),
        (page_flags::ACTIVE, kpf::REFERENCED | kpf::ACTIVE),
        (page_flags::ZERO, kpf::ZERO_PAGE),
    ] {
        if view.flags & flag != 0 {
            bits |= bit;
        }
    }
    // The page of zeroes of merged memory is one of zeroes, and no more.
    if view.flags & (page_flags::KSM | page_flags::ZERO) == page_flags::KSM {
        bits |= kpf::KSM;
    }
    // What may go without a trace does not go to swap.
    if view.flags & page_flags::LAZY != 0 {
        bits &= !kpf::SWAPBACKED;
    }
    if count(view) > 0 {
        bits |= kpf::MMAP;
    }
    bits
}

/// What a file tells of a page; `None` for a number that is no page.
type Tell = fn(Option<&FrameView>) -> u64;

struct Pages(Tell);

/// Opens /proc/kpagecount.
pub(super) fn open_count() -> Result<Arc<dyn FileOps>> {
    open(|view| view.map_or(0, count))
}

/// Opens /proc/kpageflags.
pub(super) fn open_flags() -> Result<Arc<dyn FileOps>> {
    open(|view| view.map_or(kpf::NOPAGE, flags))
}

/// `EPERM`: the caller is no administrator.
fn open(tell: Tell) -> Result<Arc<dyn FileOps>> {
    let me = process::try_current().ok_or(Errno::EPERM)?;
    if !me.with_cred(|cred| cred.capable(Cap::SYS_ADMIN)) {
        return Err(Errno::EPERM);
    }
    Ok(Arc::new(Pages(tell)))
}

impl FileOps for Pages {
    /// `EINVAL`: not whole entries.
    fn read(&self, _file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        if !pos.is_multiple_of(ENTRY) || !(dst.remaining() as u64).is_multiple_of(ENTRY) {
            return Err(Errno::EINVAL);
        }
        let end = hal::frame::end_pfn();
        let mut done = 0;
        for pfn in pos / ENTRY..end {
            if dst.remaining() == 0 {
                break;
            }
            let entry = (self.0)(hal::frame::look(pfn).as_ref()).to_le_bytes();
            match dst.put_bytes(&entry) {
                Ok(n) if n == entry.len() => done += n,
                _ if done == 0 => return Err(Errno::EFAULT),
                _ => break,
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_page_is_used_for_decides_its_bits() {
        let view = |used_for, refs, flags| FrameView { used_for, refs, flags };
        assert_eq!(flags(&view(FrameUse::Free, 0, 0)), kpf::BUDDY);
        let anon = flags(&view(FrameUse::Page, 1, page_flags::ANON));
        assert_eq!(anon, kpf::ANON | kpf::SWAPBACKED | kpf::LRU | kpf::UPTODATE | kpf::MMAP);
        let cached = view(FrameUse::Page, 1, page_flags::FILE);
        assert_eq!((count(&cached), flags(&cached)), (0, kpf::LRU | kpf::UPTODATE));
        let part = flags(&view(FrameUse::HugeTail, 2, page_flags::ANON));
        assert_eq!(
            part & (kpf::THP | kpf::COMPOUND_TAIL | kpf::COMPOUND_HEAD),
            kpf::THP | kpf::COMPOUND_TAIL
        );
        let pooled = flags(&view(FrameUse::HugeHead, 1, page_flags::HUGETLB));
        assert_eq!(pooled, kpf::HUGE | kpf::COMPOUND_HEAD);
    }
}
