//! Walks over the page tables of all processes for reclaim: which pages were used, and which entries can go.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use hal::paging::Entry;
use hal::{PAGE_SIZE, PageRange};

use crate::mapping::page_flags;
use crate::space::{Mm, RssDelta};
use crate::vma::{VmFlags, Vma};
use crate::{mapping, reclaim, registry};

/// Entries looked at under one hold of a page table's lock.
const STEP: usize = 128;

/// Ages the pages of all address spaces. An address space that is being changed is left out.
pub(crate) fn age_all() {
    registry::for_each_owned(|mm| {
        mm.age();
        if Arc::strong_count(&mm) == 1 {
            // Its files may close with it, which can take locks that whoever waits for memory holds.
            sched::workqueue::queue(Box::new(move || drop(mm)));
        }
    });
}

impl Mm {
    /// Notes which pages of files were used since the last time, and unmaps the others: they fault in again, or go.
    fn age(&self) {
        let Some(space) = self.space.try_read() else { return };
        for vma in space.set.iter() {
            let fixed = VmFlags::LOCKED | VmFlags::PFNMAP | VmFlags::IO;
            if !vma.attr.flags.intersects(fixed) && vma.attr.backing.mapping().is_some_and(|m| !m.is_shmem())
            {
                self.age_vma(vma);
            }
        }
    }

    fn age_vma(&self, vma: &Vma) {
        let Some(range) = PageRange::new(vma.start, vma.end) else { return };
        let mut at = range.start();
        while at < range.end() {
            let mut delta = RssDelta::default();
            let mut cursor = self.page_table().cursor(range);
            for nr in 0..=STEP {
                let Some((addr, entry)) = cursor.next_mapped(at).filter(|_| nr < STEP) else {
                    at = if nr < STEP { range.end() } else { at };
                    break;
                };
                at = addr + PAGE_SIZE as u64;
                let Entry::Present { frame, .. } = entry else { continue };
                let kind = frame.meta().flags.load(Ordering::Relaxed);
                if kind & page_flags::FILE == 0 {
                    continue;
                }
                reclaim::SCANNED.add(1);
                if cursor.take_accessed(addr) {
                    mapping::note_use(&frame);
                } else {
                    cursor.unmap(addr);
                    delta.count(kind, -1);
                }
            }
            drop(cursor);
            self.rss.note_peak();
            self.rss.apply(delta);
        }
    }
}
