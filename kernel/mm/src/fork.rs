//! fork(2): a second address space with the same contents.
//!
//! Only what a fault could not make again is copied: private anonymous pages, and of private file mappings
//! the pages that were written. File pages are found in the page cache when the child touches them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use abi::{Errno, Result};
use arrayvec::ArrayVec;
use hal::frame::Frame;
use hal::paging::{Entry, ForkMode, PteFlags};
use hal::{PAGE_SHIFT, PAGE_SIZE, PageRange, UserAddr};

use crate::commit;
use crate::hugetlb;
use crate::mapping::page_flags;
use crate::space::{Mm, Space};
use crate::vma::{Backing, VmFlags, Vma, VmaAttr};
use crate::watch::{WP_MARKER, Watch, WatchEvent, WatchEvents, WatchModes, Watcher, is_same};
use crate::{oom, swap};
use vma_set::VmaSet;

/// Entries of private file mappings copied at once.
const BATCH: usize = 32;

/// What fork does with the pages of a VMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pages {
    /// The child finds them again by faulting.
    Refault,
    /// All are private: share them until one side writes.
    CopyAll,
    /// Only the anonymous ones.
    CopyAnonymous,
}

impl Pages {
    fn of(vma: &Vma) -> Self {
        let flags = vma.attr.flags;
        if flags.intersects(VmFlags::MAYSHARE | VmFlags::WIPEONFORK) {
            return Self::Refault;
        }
        match vma.attr.backing {
            Backing::Anonymous => Self::CopyAll,
            // As a whole, or an entry would be split.
            Backing::File(_) if flags.contains(VmFlags::HUGETLB) => Self::CopyAll,
            Backing::File(_) if flags.contains(VmFlags::COWED) => Self::CopyAnonymous,
            Backing::File(_) => Self::Refault,
        }
    }
}

/// Watchers that follow a fork, and theirs for the child.
type Followers = Vec<(Arc<dyn Watcher>, Arc<dyn Watcher>)>;

/// The VMAs of a child and what they were charged, given back if they find no address space.
pub(crate) struct Copies {
    set: VmaSet<VmaAttr>,
    charged: u64,
    /// Watchers that want to follow, and theirs for the child.
    watchers: Followers,
}

impl Copies {
    /// No VMA at all.
    pub const NONE: Copies = Copies { set: VmaSet::new(), charged: 0, watchers: Vec::new() };

    /// The set; whoever takes it answers for the charge.
    pub fn into_set(mut self) -> VmaSet<VmaAttr> {
        self.charged = 0;
        core::mem::take(&mut self.set)
    }

    /// Copies the VMAs that a child gets. `ENOMEM`: no memory, or the commit limit.
    #[inline(never)]
    fn copy_from(&mut self, parent: &VmaSet<VmaAttr>) -> Result<()> {
        for vma in parent.iter() {
            let flags = vma.attr.flags;
            if flags.contains(VmFlags::DONTCOPY) {
                continue;
            }
            if flags.contains(VmFlags::ACCOUNT) {
                let pages = vma.len() >> PAGE_SHIFT;
                commit::charge(pages, parent.bytes() >> hal::PAGE_SHIFT)?;
                self.charged += pages;
            }
            let mut copy = Vma { start: vma.start, end: vma.end, attr: vma.attr.inherit() };
            copy.attr.flags -= VmFlags::LOCK_MASK;
            if let Some(watch) = copy.attr.watch.take() {
                copy.attr.watch = self.follow(watch)?;
            }
            self.set.push(copy).map_err(|_| Errno::ENOMEM)?;
        }
        Ok(())
    }
}

impl Copies {
    /// The watch of the child's copy, if its watcher follows forks.
    fn follow(&mut self, watch: Watch) -> Result<Option<Watch>> {
        if !watch.by.events().contains(WatchEvents::FORK) {
            return Ok(None);
        }
        let known = self.watchers.iter().find(|(old, _)| is_same(old, &watch.by)).map(|(_, new)| new.clone());
        let by = match known {
            Some(by) => by,
            None => {
                self.watchers.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                let by = watch.by.for_child()?;
                watch.by.expect();
                self.watchers.push((watch.by.clone(), by.clone()));
                by
            }
        };
        Ok(Some(Watch { by, modes: watch.modes }))
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        commit::uncharge(self.charged);
    }
}

impl Mm {
    /// Makes a copy of the address space for a new process. May sleep.
    ///
    /// `ENOMEM`: no memory, or the commit limit; the half-made copy is taken apart again.
    pub fn fork(&self) -> Result<Arc<Self>> {
        // For writing: no page may be made writable while its neighbours become copy-on-write.
        let parent = self.space.write();
        let mut copies = Copies::NONE;
        copies.copy_from(&parent.set)?;
        let mut watchers = core::mem::take(&mut copies.watchers);
        let result = Self::unpublished(parent.layout, parent.limits, copies);
        let child = match result.and_then(|child| self.fill(&parent, &child).map(|()| child)) {
            Ok(child) => child,
            Err(e) => {
                drop(parent);
                tell_forks(&mut watchers, None);
                return Err(e);
            }
        };
        drop(parent);
        tell_forks(&mut watchers, Some(&child));
        child.page_table().copy_segments(self.page_table());
        child.set_auxv(self.auxv());
        child.inherit_prefs(self);
        child.membarrier().store(self.membarrier().load(Ordering::SeqCst), Ordering::SeqCst);
        Ok(child)
    }

    /// Shows `child` to walks over all address spaces, which wait for it until it has its pages. On error the child's
    /// page table is freed with the child.
    ///
    /// Takes the child's `space` for writing below the parent's. Shown later, the child would be missed by a walk that
    /// has seen the parent before the fork took what the walk then changes there.
    fn fill(&self, parent: &Space, child: &Arc<Self>) -> Result<()> {
        let mut own = child.space.write();
        child.publish();
        own.keys = parent.keys;
        child.has_guards.store(self.has_guards.load(Ordering::Relaxed), Ordering::Relaxed);
        child.has_probes.store(self.has_probes(), Ordering::Relaxed);
        self.copy_pages(parent, child, &own)?;
        // Before the parent's pages can be looked at: who then finds none that are merged finds the child's, too.
        if self.takes_part() {
            child.ksm.join();
        }
        Ok(())
    }

    /// Copies page-table entries to the child, whose space is `own`.
    #[inline(never)]
    fn copy_pages(&self, parent: &Space, child: &Self, own: &Space) -> Result<()> {
        // Touching VMAs of one kind are copied together.
        let mut run: Option<Range<u64>> = None;
        let mut left_out = 0;
        for vma in parent.set.iter() {
            let gone = vma.attr.flags.contains(VmFlags::DONTCOPY);
            let mut pages = if gone { Pages::Refault } else { Pages::of(vma) };
            let guarded = !gone && self.has_guards.load(Ordering::Relaxed);
            if pages == Pages::Refault && guarded && !vma.attr.flags.contains(VmFlags::WIPEONFORK) {
                pages = Pages::CopyAnonymous;
            }
            if vma.attr.watch.is_some() && pages == Pages::Refault && !gone {
                self.copy_markers(vma, child)?;
            }
            if pages != Pages::CopyAll {
                if matches!(vma.attr.backing, Backing::Anonymous) {
                    left_out += self.count_anonymous(vma.start..vma.end);
                }
                if pages == Pages::CopyAnonymous && !vma.attr.flags.contains(VmFlags::HUGETLB) {
                    self.copy_anonymous(vma, child)?;
                }
                continue;
            }
            if vma.attr.flags.contains(VmFlags::HUGETLB) {
                let nr = self.count_huge(vma.start..vma.end);
                child.rss.hugetlb.fetch_add(nr, Ordering::Relaxed);
            }
            match &mut run {
                Some(run) if run.end == vma.start => run.end = vma.end,
                _ => {
                    if let Some(done) = run.replace(vma.start..vma.end) {
                        self.copy_all(done, child)?;
                    }
                }
            }
        }
        if let Some(done) = run {
            self.copy_all(done, child)?;
        }
        for vma in parent.set.iter().filter(|vma| vma.attr.watched().contains(WatchModes::WP)) {
            if own.set.at(vma.start).is_none_or(|copy| copy.attr.watch.is_none()) {
                child.forget_protection(vma.start..vma.end);
            }
        }
        self.copy_pinned(parent, child, own)?;
        // Every anonymous page of the parent lies in a copied VMA or was counted above; those of private
        // file mappings were added to the child one by one, and are part of the parent's sum.
        let all = self.rss.anon.load(Ordering::Relaxed);
        child.rss.anon.store(all - left_out - self.left_in_files(parent), Ordering::Relaxed);
        Ok(())
    }

    /// Anonymous pages of private file mappings that the child does not get (`MADV_DONTFORK`).
    fn left_in_files(&self, parent: &Space) -> i64 {
        parent
            .set
            .iter()
            .filter(|v| v.attr.flags.contains(VmFlags::DONTCOPY | VmFlags::COWED))
            .filter(|v| !v.attr.flags.contains(VmFlags::HUGETLB))
            .filter(|v| matches!(v.attr.backing, Backing::File(_)))
            .map(|v| self.count_anonymous(v.start..v.end))
            .sum()
    }

    #[inline(never)]
    fn copy_all(&self, range: Range<u64>, child: &Self) -> Result<()> {
        let Some(range) = PageRange::new(range.start, range.end) else { return Ok(()) };
        let result = self.page_table().fork_range(child.page_table(), range, ForkMode::Cow);
        if self.has_swapped.load(Ordering::Relaxed) {
            child.adopt_swapped(range);
        }
        result.map_err(|_| Errno::ENOMEM)
    }

    /// Copies the anonymous pages, swapped ones too, and the guard markers of a file mapping.
    #[inline(never)]
    fn copy_anonymous(&self, vma: &Vma, child: &Self) -> Result<()> {
        let Some(range) = PageRange::new(vma.start, vma.end) else { return Ok(()) };
        let mut at = range.start();
        loop {
            let mut batch = ArrayVec::<(u64, Frame, PteFlags), BATCH>::new();
            let mut specials = ArrayVec::<(u64, u64), BATCH>::new();
            let mut cursor = self.page_table().cursor(range);
            while let Some((addr, entry)) = cursor.next_mapped(at).filter(|_| !batch.is_full()) {
                at = addr + PAGE_SIZE as u64;
                let (frame, flags) = match entry {
                    Entry::Present { frame, flags } => (frame, flags),
                    Entry::Special(value) => {
                        specials.push((addr, value));
                        if specials.is_full() {
                            break;
                        }
                        continue;
                    }
                    _ => continue,
                };
                if frame.meta().flags.load(Ordering::Relaxed) & page_flags::ANON == 0 {
                    continue;
                }
                let flags = (flags - PteFlags::WRITE) | PteFlags::COW;
                cursor.protect(addr, flags);
                batch.push((addr, frame, flags));
            }
            drop(cursor);
            let full = batch.is_full() || specials.is_full();
            for (addr, value) in specials {
                while child.page_table().cursor(range).set_special(addr, value).is_err() {
                    oom::relieve()?;
                }
                if swap::is_swap(value) {
                    child.adopt_swapped(PageRange::page_of(UserAddr(addr)).ok_or(Errno::ENOMEM)?);
                }
            }
            for (addr, frame, flags) in batch {
                while child.page_table().cursor(range).map(addr, frame.clone(), flags).is_err() {
                    oom::relieve()?;
                }
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// Leaves markers in the child where writes to a shared page are watched: the child finds the page itself.
    #[inline(never)]
    fn copy_markers(&self, vma: &Vma, child: &Self) -> Result<()> {
        let Some(range) = PageRange::new(vma.start, vma.end) else { return Ok(()) };
        let mut at = range.start();
        loop {
            let mut cursor = self.page_table().cursor(range);
            let found = loop {
                let Some((addr, entry)) = cursor.next_mapped(at) else { break None };
                at = hugetlb::end_of_page(vma, addr);
                let watched = match entry {
                    Entry::Present { flags, .. } => flags.contains(PteFlags::WATCHED),
                    Entry::Special(value) => value == WP_MARKER,
                    Entry::None | Entry::Huge(_) => false,
                };
                if watched {
                    break Some(addr);
                }
            };
            drop(cursor);
            let Some(addr) = found else { return Ok(()) };
            while child.page_table().cursor(range).set_special(addr, WP_MARKER).is_err() {
                oom::relieve()?;
            }
        }
    }

    /// Anonymous pages in `range`.
    fn count_anonymous(&self, range: Range<u64>) -> i64 {
        let mut n = 0;
        if let Some(range) = PageRange::new(range.start, range.end) {
            let mut cursor = self.page_table().cursor(range);
            let mut at = range.start();
            while let Some((addr, entry)) = cursor.next_mapped(at) {
                at = addr + PAGE_SIZE as u64;
                if let Entry::Present { frame, .. } = entry
                    && frame.meta().flags.load(Ordering::Relaxed) & page_flags::ANON != 0
                {
                    n += 1;
                }
            }
        }
        n
    }
}

/// Tells watchers of a fork, or, without a child, of one that failed: their requests work again. Sleeps.
fn tell_forks(watchers: &mut Followers, child: Option<&Arc<Mm>>) {
    for (old, new) in watchers.drain(..) {
        if let Some(child) = child {
            new.attach(child);
        }
        old.tell(WatchEvent::Fork(new));
    }
}
