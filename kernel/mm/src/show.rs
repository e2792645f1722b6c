//! What /proc/PID/{maps,smaps,pagemap} and mincore(2) ask.

use alloc::vec::Vec;
use core::ops::{ControlFlow, Range};
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use hal::paging::{Entry, PteFlags};
use hal::{PAGE_SHIFT, PAGE_SIZE, PageRange};

use crate::layout::Layout;
use crate::map::user_range;
use crate::mapping::page_flags;
use crate::space::Mm;
use crate::vma::{Backing, FileId, VmFlags, Vma};

/// A VMA as /proc/PID/maps shows it.
#[derive(Clone, Debug)]
pub struct VmaInfo {
    /// Addresses.
    pub range: Range<u64>,
    /// Rights and state.
    pub flags: VmFlags,
    /// Offset in the file in bytes.
    pub offset: u64,
    /// The file, zero for none.
    pub id: FileId,
    /// Path or name in brackets; empty for none.
    pub name: Vec<u8>,
    /// Protection key.
    pub pkey: u8,
}

/// The pages of a VMA by kind, for smaps; in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in proc_pid_smaps(5)")]
pub struct PageStats {
    pub rss: u64,
    /// Proportional share, in bytes.
    pub pss_bytes: u64,
    pub shared_clean: u64,
    pub shared_dirty: u64,
    pub private_clean: u64,
    pub private_dirty: u64,
    pub referenced: u64,
    pub anonymous: u64,
}

impl VmaInfo {
    fn new(vma: &Vma, layout: &Layout) -> Self {
        let object = vma.attr.backing.object();
        let name = match (object, &vma.attr.backing) {
            (Some(object), _) => object.name(),
            (None, Backing::Anonymous) => special_name(vma, layout).to_vec(),
            (None, Backing::File(_)) => Vec::new(),
        };
        Self {
            range: vma.start..vma.end,
            flags: vma.attr.flags,
            offset: if object.is_some() { vma.attr.offset } else { 0 },
            id: object.map(|o| o.id()).unwrap_or_default(),
            name,
            pkey: vma.attr.pkey,
        }
    }
}

/// `[heap]` and `[stack]`.
fn special_name(vma: &Vma, layout: &Layout) -> &'static [u8] {
    if vma.start < layout.brk && vma.end > layout.start_brk {
        b"[heap]"
    } else if vma.contains(layout.start_stack) {
        b"[stack]"
    } else {
        b""
    }
}

impl Mm {
    /// Calls `visit` for each VMA that ends above `from`, in order, until it breaks.
    ///
    /// Holds `space` for reading: `visit` must not touch user memory of any process.
    pub fn for_each_vma(&self, from: u64, mut visit: impl FnMut(&VmaInfo) -> ControlFlow<()>) {
        let space = self.space.read();
        for vma in space.set.overlapping(from..u64::MAX) {
            if visit(&VmaInfo::new(vma, &space.layout)).is_break() {
                return;
            }
        }
    }

    /// Calls `visit` with range, flags and object of each VMA; cheaper than [`for_each_vma`](Self::for_each_vma).
    pub fn for_each_raw(&self, from: u64, mut visit: impl FnMut(&Vma) -> ControlFlow<()>) {
        let space = self.space.read();
        for vma in space.set.overlapping(from..u64::MAX) {
            if visit(vma).is_break() {
                return;
            }
        }
    }

    /// Counts the pages shown in `range`, which lies in one VMA.
    pub fn collect_page_stats(&self, range: Range<u64>) -> PageStats {
        let mut stats = PageStats::default();
        let Some(range) = PageRange::new(range.start, range.end) else { return stats };
        let mut cursor = self.page_table().cursor(range);
        let mut at = range.start();
        while let Some((addr, entry)) = cursor.next_mapped(at) {
            at = addr + PAGE_SIZE as u64;
            let Entry::Present { frame, flags } = entry else { continue };
            let kind = frame.meta().flags.load(Ordering::Relaxed);
            let anon = kind & page_flags::ANON != 0;
            if kind & (page_flags::ANON | page_flags::FILE | page_flags::SHMEM) == 0 {
                continue;
            }
            // Without `frame` itself, and for file pages without the cache's own reference.
            let holders = frame.ref_count().saturating_sub(if anon { 1 } else { 2 }).max(1);
            stats.rss += 1;
            stats.pss_bytes += PAGE_SIZE as u64 / u64::from(holders);
            stats.anonymous += u64::from(anon);
            stats.referenced += u64::from(flags.contains(PteFlags::ACCESSED));
            let dirty = anon || flags.contains(PteFlags::DIRTY);
            *match (holders > 1, dirty) {
                (true, true) => &mut stats.shared_dirty,
                (true, false) => &mut stats.shared_clean,
                (false, true) => &mut stats.private_dirty,
                (false, false) => &mut stats.private_clean,
            } += 1;
        }
        stats
    }

    /// mincore(2): tells `out` for each page of the range in order whether it is in memory.
    ///
    /// `EINVAL`: not aligned. `ENOMEM`: outside of user space or a hole. `out` must not touch user memory:
    /// it is called with `space` held; use short ranges and a buffer.
    pub fn mincore(&self, addr: u64, len: u64, mut out: impl FnMut(bool)) -> Result<()> {
        if !addr.is_multiple_of(PAGE_SIZE as u64) {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(());
        }
        let range = user_range(addr, len).ok_or(Errno::ENOMEM)?;
        let space = self.space.read();
        if !space.set.covers(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        for vma in space.set.overlapping(range.clone()) {
            let part = vma.clip(&range);
            let Some(pages) = PageRange::new(part.start, part.end) else { continue };
            let mut cursor = self.page_table().cursor(pages);
            for at in pages.pages() {
                let present = matches!(cursor.query(at), Entry::Present { .. });
                let idx = vma.attr.offset_at(vma.start, at) >> PAGE_SHIFT;
                out(present || vma.attr.backing.mapping().is_some_and(|m| m.get(idx).is_some()));
            }
        }
        Ok(())
    }

    /// The physical page number behind `addr` and its entry's flags, for /proc/PID/pagemap.
    pub fn query_page(&self, addr: u64) -> Option<(u64, PteFlags)> {
        let page = PageRange::page_of(hal::UserAddr(addr))?;
        match self.page_table().cursor(page).query(page.start()) {
            Entry::Present { frame, flags } => Some((frame.pfn(), flags)),
            _ => None,
        }
    }
}
