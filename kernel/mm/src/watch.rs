//! Faults that user space makes good: what userfaultfd(2) needs of an address space.
//!
//! A VMA may have a [`Watch`]: a [`Watcher`], which lives on a higher floor, and the kinds of faults that it wants to hear
//! of. Such a fault lets go of the address space, tells the watcher, sleeps until the watcher says so, and begins anew.
//!
//! ```text
//! kind      the entry is                                   made good by (module `supply`)
//! MISSING   empty, and the page is in no page cache        copy, zeroes
//! MINOR     empty, and the page is in the page cache       resume
//! WP        WATCHED and the access a write, or a marker    write_protect
//! ```
//!
//! A page whose writes are watched has [`PteFlags::WATCHED`] and no write permission; where there is no page,
//! [`WP_MARKER`] stands for one. A private page in swap has the mark in its entry, of a page of a file that reclaim takes
//! out of the page table the marker remains.
//!
//! Events (fork, mremap, munmap, madvise) are noted while `space` is held for writing ([`Watcher::expect`], from which on
//! the watcher's own requests fail) and told after it was unlocked ([`Watcher::tell`], which sleeps until somebody has
//! read it).
//!
//! Sources: userfaultfd(2), ioctl_userfaultfd(2), Documentation/admin-guide/mm/userfaultfd.rst.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use abi::{Errno, Result};
use bitflags::bitflags;
use hal::paging::{Entry, PteFlags};
use hal::{PAGE_SIZE, PageRange};

use crate::fault::{FaultError, Need};
use crate::hugetlb;
use crate::map::refused;
use crate::space::{Mm, Space};
use crate::vma::{Backing, VmFlags, Vma, VmaAttr};
use crate::{swap, sysctl};

/// Entry of a page that is not there and whose writes are watched.
pub(crate) const WP_MARKER: u64 = 5;
/// Entry of a page whose contents are lost (`UFFDIO_POISON`, [`crate::failure`]).
pub(crate) const POISON_MARKER: u64 = 9;

bitflags! {
    /// The faults that a watcher wants to hear of.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct WatchModes: u8 {
        /// Of pages that are nowhere.
        const MISSING = 1;
        /// Writes to pages that it protected.
        const WP = 2;
        /// Of pages that only the page cache has.
        const MINOR = 4;
        /// Writes are not told: they lift the protection (`UFFD_FEATURE_WP_ASYNC`).
        const ASYNC = 8;
        /// Pages that are not there can be protected, too (`UFFD_FEATURE_WP_UNPOPULATED`).
        const UNPOPULATED = 16;
    }
}

bitflags! {
    /// The events that a watcher wants to hear of.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct WatchEvents: u8 {
        /// A fork: the child's memory gets a watcher of its own.
        const FORK = 1;
        /// Memory was moved, and stays watched at its new place.
        const REMAP = 2;
        /// Pages are about to be dropped.
        const REMOVE = 4;
        /// Memory was unmapped.
        const UNMAP = 8;
    }
}

/// A fault to tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchedFault {
    /// The address of the access.
    pub addr: u64,
    /// Bytes of the page it lies in.
    pub page_size: u64,
    /// Whether it was a write.
    pub write: bool,
    /// One of `MISSING`, `WP`, `MINOR`.
    pub kind: WatchModes,
    /// Whether user code made it, or the kernel on its behalf.
    pub user_mode: bool,
}

/// Something that happened to watched memory.
pub enum WatchEvent {
    /// A child has a copy, watched by this.
    Fork(Arc<dyn Watcher>),
    /// `len` bytes moved.
    #[expect(missing_docs, reason = "addresses and bytes")]
    Remap { from: u64, to: u64, len: u64 },
    /// Pages are about to be dropped.
    Remove(Range<u64>),
    /// Memory was unmapped.
    Unmap(Range<u64>),
}

/// Who makes faults good.
pub trait Watcher: Send + Sync {
    /// Tells of a fault and sleeps until it was made good. `still` says, once the fault can be seen by whoever makes it
    /// good, whether there is still need to wait; it may sleep.
    ///
    /// `Interrupted`: a signal came; `Bus`: the watcher does not want it.
    fn fault(
        &self,
        fault: &WatchedFault,
        still: &mut dyn FnMut() -> bool,
    ) -> core::result::Result<(), FaultError>;

    /// The events that it wants.
    fn events(&self) -> WatchEvents;

    /// An event will be told; called with `space` held for writing.
    fn expect(&self);

    /// Tells of an event that was expected. Sleeps until it was read, or nobody can read it.
    fn tell(&self, event: WatchEvent);

    /// A watcher like this one for a child of fork. `ENOMEM`.
    fn for_child(&self) -> Result<Arc<dyn Watcher>>;

    /// The address space that it watches has been made (after [`for_child`](Self::for_child)).
    fn attach(&self, mm: &Arc<Mm>);

    /// This watcher as its own type.
    fn into_any(self: Arc<Self>) -> Arc<dyn core::any::Any + Send + Sync>;
}

/// Who makes the faults of a VMA good, and which ones.
#[derive(Clone)]
pub(crate) struct Watch {
    pub by: Arc<dyn Watcher>,
    pub modes: WatchModes,
}

impl PartialEq for Watch {
    fn eq(&self, other: &Self) -> bool {
        self.modes == other.modes && is_same(&self.by, &other.by)
    }
}

impl core::fmt::Debug for Watch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Watch({:?})", self.modes)
    }
}

/// Whether both are one watcher.
pub(crate) fn is_same(a: &Arc<dyn Watcher>, b: &Arc<dyn Watcher>) -> bool {
    core::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}

/// Events to tell after `space` was unlocked.
#[derive(Default)]
pub(crate) struct Events(Vec<(Arc<dyn Watcher>, WatchEvent)>);

impl Events {
    /// Notes `event` for `watch` if it is one of `kind` that it wants. Without memory for it, it is lost.
    pub fn note(&mut self, watch: &Watch, kind: WatchEvents, event: impl FnOnce() -> WatchEvent) {
        if watch.by.events().contains(kind) && self.0.try_reserve(1).is_ok() {
            watch.by.expect();
            self.0.push((watch.by.clone(), event()));
        }
    }

    /// Takes over the events of `more`. Without memory for them, they are told as they go.
    pub fn append(&mut self, more: Self) {
        if self.0.try_reserve(more.0.len()).is_ok() {
            self.0.extend(more.0);
        }
    }

    /// Tells all. Sleeps; the caller holds no lock of the address space.
    #[inline]
    pub fn tell(self) {
        for (watcher, event) in self.0 {
            watcher.tell(event);
        }
    }
}

impl core::fmt::Debug for Events {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Events({})", self.0.len())
    }
}

impl VmaAttr {
    /// The modes of the watch, none without one.
    pub(crate) fn watched(&self) -> WatchModes {
        self.watch.as_ref().map_or(WatchModes::empty(), |watch| watch.modes)
    }

    /// Whether writes to protected pages are told.
    pub(crate) fn tells_writes(&self) -> bool {
        self.watched() & (WatchModes::WP | WatchModes::ASYNC) == WatchModes::WP
    }
}

/// Whether faults of `vma` can be watched so.
fn can_watch(vma: &Vma, modes: WatchModes) -> bool {
    if vma.attr.flags.contains(VmFlags::DROPPABLE) {
        return false;
    }
    let shmem = vma.attr.backing.mapping().is_some_and(|m| m.is_shmem() || m.is_huge());
    if modes.contains(WatchModes::MINOR) && !shmem {
        return false;
    }
    let only_async = modes - WatchModes::UNPOPULATED == WatchModes::WP | WatchModes::ASYNC;
    only_async || shmem || matches!(vma.attr.backing, Backing::Anonymous)
}

impl Mm {
    /// Lets `by` hear of faults of `modes` in `range` (`UFFDIO_REGISTER`). May sleep.
    ///
    /// `EINVAL`: no mapping there, or one that cannot be watched so. `EPERM`: a file that may not be written. `EBUSY`:
    /// another watcher. `ENOMEM`: the count limit.
    pub fn watch(&self, range: Range<u64>, by: &Arc<dyn Watcher>, modes: WatchModes) -> Result<()> {
        let mut space = self.space.write();
        let mut found = false;
        for vma in space.set.overlapping(range.clone()) {
            found = true;
            if !can_watch(vma, modes) {
                return Err(Errno::EINVAL);
            }
            if vma.attr.flags.contains(VmFlags::HUGETLB) {
                hugetlb::check_whole(&vma.clip(&range))?;
            }
            if !vma.attr.flags.contains(VmFlags::MAYWRITE) {
                return Err(Errno::EPERM);
            }
            if vma.attr.watch.as_ref().is_some_and(|watch| !is_same(&watch.by, by)) {
                return Err(Errno::EBUSY);
            }
        }
        if !found {
            return Err(Errno::EINVAL);
        }
        let watch = Watch { by: by.clone(), modes };
        space.set_watch(range, |vma| match &vma.attr.watch {
            Some(old) if old.modes.contains(modes) => None,
            _ => Some(Some(watch.clone())),
        })
    }

    /// Ends what [`watch`](Self::watch) began, for watcher `by`. May sleep.
    ///
    /// `EINVAL`: no mapping there, one that cannot be watched, or one that somebody else watches. `ENOMEM`: the count
    /// limit.
    pub fn unwatch(&self, range: Range<u64>, by: &Arc<dyn Watcher>) -> Result<()> {
        let mut space = self.space.write();
        let mut found = false;
        for vma in space.set.overlapping(range.clone()) {
            found = true;
            let foreign = vma.attr.watch.as_ref().is_some_and(|watch| !is_same(&watch.by, by));
            if foreign || !can_watch(vma, vma.attr.watched()) {
                return Err(Errno::EINVAL);
            }
        }
        if !found {
            return Err(Errno::EINVAL);
        }
        self.drop_watch(&mut space, range, by)
    }

    /// Ends all watches of `by`, which goes away. May sleep.
    pub fn unwatch_all(&self, by: &dyn Watcher) {
        let mut space = self.space.write();
        let mut at = 0;
        while let Some(vma) = space.set.find(at) {
            at = vma.end;
            let own = |watch: &&Watch| core::ptr::addr_eq(Arc::as_ptr(&watch.by), core::ptr::from_ref(by));
            let (range, watch) = (vma.start..vma.end, vma.attr.watch.as_ref().filter(own).cloned());
            if let Some(watch) = watch {
                // Whole VMAs need no split, hence cannot be refused.
                let _ = self.drop_watch(&mut space, range, &watch.by);
            }
        }
    }

    fn drop_watch(&self, space: &mut Space, range: Range<u64>, by: &Arc<dyn Watcher>) -> Result<()> {
        let protected: Vec<Range<u64>> = space
            .set
            .overlapping(range.clone())
            .filter(|vma| vma.attr.watched().contains(WatchModes::WP))
            .map(|vma| vma.clip(&range))
            .collect();
        space.set_watch(range, |vma| {
            vma.attr.watch.as_ref().is_some_and(|watch| is_same(&watch.by, by)).then_some(None)
        })?;
        protected.into_iter().for_each(|part| self.forget_protection(part));
        Ok(())
    }

    /// Takes the marks of watched writes away.
    pub(crate) fn forget_protection(&self, range: Range<u64>) {
        let Some(range) = PageRange::new(range.start, range.end) else { return };
        let mut cursor = self.page_table().cursor(range);
        let mut at = range.start();
        while let Some((addr, entry)) = cursor.next_mapped(at) {
            at = addr + PAGE_SIZE as u64;
            match &entry {
                Entry::Special(WP_MARKER) => {
                    cursor.unmap(addr);
                }
                Entry::Special(value) if swap::is_watched(*value) => {
                    // Cannot fail: the entry's table is there.
                    let _ = cursor.set_special(addr, swap::with_mark(*value, false));
                }
                Entry::Present { flags, .. } if flags.contains(PteFlags::WATCHED) => {
                    // Still without write permission: a fault finds out whether it may have it.
                    let flags = *flags - PteFlags::WATCHED;
                    match hugetlb::protect_entry(&mut cursor, addr, &entry, flags) {
                        Some(end) => at = end,
                        None => {
                            cursor.protect(addr, flags);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether a thread that has told of `fault` must still wait. Takes `space` for reading; may sleep.
    pub(crate) fn must_wait(&self, fault: &WatchedFault) -> bool {
        let space = self.space.read();
        let Some(vma) = space.set.at(fault.addr) else { return false };
        if vma.attr.watch.is_none() {
            return false;
        }
        let start = fault.addr & !(fault.page_size - 1);
        let Some(page) = PageRange::page_of(hal::UserAddr(start)) else { return false };
        match self.page_table().cursor(page).query(page.start()) {
            Entry::None => true,
            Entry::Special(WP_MARKER) => true,
            Entry::Special(_) | Entry::Huge(_) => false,
            Entry::Present { flags, .. } => fault.write && flags.contains(PteFlags::WATCHED),
        }
    }

    /// Tells the watchers of `range` that its pages are about to be dropped. Sleeps.
    pub(crate) fn tell_removal(&self, range: Range<u64>) {
        let mut events = Events::default();
        for vma in self.space.read().set.overlapping(range.clone()) {
            if let Some(watch) = &vma.attr.watch {
                events.note(watch, WatchEvents::REMOVE, || WatchEvent::Remove(vma.clip(&range)));
            }
        }
        events.tell();
    }
}

impl Space {
    /// Changes the watch of each VMA part of `range` to what `change` says, if it says something. `ENOMEM`: the count
    /// limit; what lies below has changed.
    fn set_watch(&mut self, range: Range<u64>, change: impl Fn(&Vma) -> Option<Option<Watch>>) -> Result<()> {
        let mut at = range.start;
        while let Some(vma) = self.set.find(at).filter(|vma| vma.start < range.end && at < range.end) {
            let part = vma.clip(&(at..range.end));
            at = part.end;
            let Some(watch) = change(vma) else { continue };
            let mut attr = vma.attr.clone();
            vma_set::Attr::advance(&mut attr, part.start - vma.start);
            attr.watch = watch;
            self.set.modify(part, attr, sysctl::max_map_count()).map_err(refused)?;
        }
        Ok(())
    }
}

/// The fault that `need` at `addr` is to a watcher.
pub(crate) fn fault_of(vma: &Vma, addr: u64, need: Need, kind: WatchModes) -> WatchedFault {
    let is_huge = vma.attr.flags.contains(VmFlags::HUGETLB);
    let page_size = if is_huge { hugetlb::SIZE } else { PAGE_SIZE as u64 };
    WatchedFault { addr, page_size, write: need.write, kind, user_mode: need.user_mode }
}
