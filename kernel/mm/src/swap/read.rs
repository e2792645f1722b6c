//! Reading from swap: the page that somebody wants, and those that may be wanted next.
//!
//! What a process wrote together often went out together and is wanted together, and a device reads some pages in little
//! more time than one. So who reads a page reads up to 2^`vm.page-cluster` at once: those whose entries stand around its own
//! in the page table, or those in the slots around its own (shared memory; all, when `vma_ra_enabled` in
//! /sys/kernel/mm/swap is false). The others wait in the cache of this file for who faults on them: that is a minor fault.
//!
//! ```text
//!   page table   . s s S s . s s      S wanted; s in swap; a window of 8, aligned
//!   device       one request for the five
//!   cache                s s   s s    S goes to the reader
//! ```
//!
//! The window is halved by a read that finds that nothing of the last one was wanted, and doubled when half of it was; beside
//! the last read it is as large as it can be. The cache has two generations, so that what nobody wanted goes after a while; all
//! of it goes when memory is short.
//!
//! # Invariants
//!
//! - R1: a cached page is what its slot has. A slot's contents never change while it is used; it is pinned while it is read,
//!   and a page that is still in `HELD` is not read, but copied. With the last use of a slot its cached page goes.
//!
//! LINUX: a page stays cached, and its slot used, when it was read; here who reads has the page alone, and the slot has one user
//! less.
//!
//! Source: Documentation/admin-guide/sysctl/vm.rst, page-cluster; Documentation/ABI/testing/sysfs-kernel-mm-swap (Linux 7.2).
//!
//! Lock: `mm.swap.cache`, below an area's slots and `HELD`.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use abi::{Errno, Result};
use arrayvec::ArrayVec;
use hal::frame::Frame;
use hal::paging::Entry;
use hal::sync::SpinLock;
use hal::{PAGE_SHIFT, PAGE_SIZE, PageRange};

use super::{Area, HELD, PSWPIN, area_id, area_of, dup, is_swap, put, slot_of, value_of, with_mark};
use crate::counters::Counter;
use crate::mapping::page_flags;
use crate::oom;
use crate::space::Mm;

/// `vm.page-cluster`: binary logarithm of the pages read at once.
pub static PAGE_CLUSTER: AtomicU32 = AtomicU32::new(3);
/// Largest value of it that has an effect (Linux: `SWAP_RA_ORDER_CEILING`).
const MAX_CLUSTER: u32 = 5;
/// Pages read at once, at most.
const MAX: usize = 1 << MAX_CLUSTER;
/// `vma_ra_enabled`: whether neighbours in the page table are read, and not those on the device.
pub static BY_ADDRESS: AtomicBool = AtomicBool::new(true);

/// Pages that were read ahead (`swap_ra`).
pub static AHEAD: Counter = Counter::new();
/// Of them wanted later (`swap_ra_hit`).
pub static HITS: Counter = Counter::new();

/// Pages of one generation of the cache.
const GENERATION: usize = 256;

/// Pages by entry (without marks), sorted.
#[derive(Default)]
struct Pages(Vec<(u64, Frame)>);

impl Pages {
    const NONE: Pages = Pages(Vec::new());

    fn find(&self, value: u64) -> core::result::Result<usize, usize> {
        self.0.binary_search_by_key(&value, |(known, _)| *known)
    }

    fn take(&mut self, value: u64) -> Option<Frame> {
        self.find(value).ok().map(|at| self.0.remove(at).1)
    }

    /// Gives back what there was, or `frame` itself without room.
    fn put(&mut self, value: u64, frame: Frame) -> Option<Frame> {
        match self.find(value) {
            Ok(at) => self.0.get_mut(at).map(|(_, old)| core::mem::replace(old, frame)),
            Err(_) if self.0.len() == self.0.capacity() => Some(frame),
            Err(at) => {
                self.0.insert(at, (value, frame));
                None
            }
        }
    }
}

struct Cache {
    young: Pages,
    old: Pages,
}

static CACHE: SpinLock<Cache> =
    SpinLock::new("mm.swap.cache", Cache { young: Pages::NONE, old: Pages::NONE });
/// Pages in it; written under the lock.
static NR_CACHED: AtomicUsize = AtomicUsize::new(0);

impl Cache {
    fn note_size(&self) {
        NR_CACHED.store(self.young.0.len() + self.old.0.len(), Relaxed);
    }

    fn take(&mut self, value: u64) -> Option<Frame> {
        let found = self.young.take(value).or_else(|| self.old.take(value));
        self.note_size();
        found
    }
}

/// Pages that wait for who wants them (`SwapCached`).
pub fn nr_cached() -> usize {
    NR_CACHED.load(Relaxed)
}

/// The cached page of an entry, which leaves the cache.
#[inline]
pub(super) fn take_cached(value: u64) -> Option<Frame> {
    if nr_cached() == 0 { None } else { CACHE.lock().take(with_mark(value, false)) }
}

fn is_cached(value: u64) -> bool {
    let cache = CACHE.lock();
    let value = with_mark(value, false);
    cache.young.find(value).is_ok() || cache.old.find(value).is_ok()
}

/// Adds what was read; the slots are pinned (R1).
fn add_cached(pages: impl Iterator<Item = (u64, Frame)>) {
    let mut empty = Vec::new();
    if empty.try_reserve_exact(GENERATION).is_err() {
        return;
    }
    let (mut gone, mut left) = (Pages::NONE, ArrayVec::<Frame, MAX>::new());
    let mut cache = CACHE.lock();
    if cache.young.0.capacity().saturating_sub(cache.young.0.len()) < MAX {
        let young = core::mem::replace(&mut cache.young, Pages(empty));
        gone = core::mem::replace(&mut cache.old, young);
    }
    for (value, frame) in pages {
        left.extend(cache.young.put(with_mark(value, false), frame));
    }
    cache.note_size();
    drop(cache);
    drop((gone, left));
}

/// Drops all that nobody has wanted yet, when memory is short; how many pages.
pub(crate) fn shrink() -> usize {
    if nr_cached() == 0 {
        return 0;
    }
    let mut cache = CACHE.lock();
    let gone = (core::mem::take(&mut cache.young), core::mem::take(&mut cache.old));
    cache.note_size();
    drop(cache);
    gone.0.0.len() + gone.1.0.len()
}

/// How large the next window is.
struct Window {
    /// Binary logarithm of its pages.
    order: AtomicU32,
    /// Pages of the last one that nobody wanted at first, and how many of them were wanted since.
    brought: AtomicU32,
    wanted: AtomicU32,
    /// The page that was read last.
    last: AtomicU64,
}

static WINDOW: Window = Window {
    order: AtomicU32::new(MAX_CLUSTER),
    brought: AtomicU32::new(0),
    wanted: AtomicU32::new(0),
    last: AtomicU64::new(u64::MAX),
};

impl Window {
    /// The order for a read of page `at` with `most` as the largest. Racing readers may count each other's pages: it is a guess.
    fn next(&self, at: u64, most: u32) -> u32 {
        let (brought, wanted) = (self.brought.swap(0, Relaxed), self.wanted.swap(0, Relaxed));
        let is_next = self.last.swap(at, Relaxed).abs_diff(at) <= 1;
        let now = self.order.load(Relaxed);
        let order = match () {
            () if is_next => most,
            () if brought > 0 && wanted == 0 => now.saturating_sub(1),
            () if brought > 0 && wanted * 2 >= brought => now + 1,
            () => now,
        };
        // One that brings nothing learns nothing.
        let order = order.clamp(most.min(1), most);
        self.order.store(order, Relaxed);
        order
    }
}

/// Where to look for what may be wanted next.
#[derive(Clone, Copy)]
pub(crate) enum Near<'a> {
    /// Nowhere.
    Nothing,
    /// In the slots around.
    Slots,
    /// In the page table of this address space around this address, or in the slots around.
    Address(&'a Mm, u64),
}

/// Where a page came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was in memory still, or already.
    Memory,
    Device,
}

/// A reference to a swapped page beside those of page tables, so that it stays while it is read.
pub(crate) struct Pinned(u64);

impl Pinned {
    /// Pins the page that an entry names; what holds the entry is locked.
    pub fn new(value: u64) -> Self {
        dup(value);
        Self(value)
    }

    /// Pins the page in a slot of `area`, if it is used, and its device has it.
    fn in_slot(area: &Area, slot: u64) -> Option<Self> {
        let value = value_of(area.id, slot);
        let at = usize::try_from(slot).ok()?;
        let mut slots = area.slots.lock();
        let is_used = slots.counts.get(at).is_some_and(|count| *count > 0 && *count < u16::MAX - 1);
        // Under the lock: a slot that was taken just now is held already.
        if !is_used || slot == 0 || HELD.lock().iter().any(|(known, _)| *known == value) {
            return None;
        }
        slots.dup(at);
        Some(Self(value))
    }

    /// The entry.
    pub fn value(&self) -> u64 {
        self.0
    }

    /// Has the page, and reads others ahead that are `near`. May sleep; the caller holds no lock of the address space.
    ///
    /// `ENOMEM`: no memory. `EIO` and others: the device's.
    pub fn read(&self, near: Near<'_>) -> Result<(Frame, Origin)> {
        let slot = with_mark(self.0, false);
        let held = HELD.lock().iter().find(|(known, _)| *known == slot).map(|(_, frame)| frame.clone());
        let (frame, origin) = match (held, take_cached(slot)) {
            (Some(page), _) => {
                let frame = oom::alloc()?;
                frame.copy_from(&page);
                (frame, Origin::Memory)
            }
            (None, Some(frame)) => {
                HITS.add(1);
                WINDOW.wanted.fetch_add(1, Relaxed);
                (frame, Origin::Memory)
            }
            (None, None) => (self.read_device(near)?, Origin::Device),
        };
        frame.meta().flags.store(page_flags::ANON, Relaxed);
        Ok((frame, origin))
    }

    /// Apart, so that a page in memory does not need the stack for this.
    #[inline(never)]
    fn read_device(&self, near: Near<'_>) -> Result<Frame> {
        let frame = oom::alloc()?;
        let area = area_of(self.0).ok_or(Errno::EIO)?;
        let own = (slot_of(self.0) as u64, frame.clone());
        let mut others = ArrayVec::new();
        self.others(&area, near, &mut others);
        let mut pages = ArrayVec::<(u64, Frame), MAX>::new();
        pages.push(own.clone());
        for page in &others {
            // For what may not be wanted nothing is thrown out.
            let Some(frame) = Frame::alloc_user().filter(|_| !pages.is_full()) else { break };
            pages.push((slot_of(page.0) as u64, frame));
        }
        let nr = pages.len();
        pages.sort_unstable_by_key(|(slot, _)| *slot);
        if nr > 1 && area.device.read_many(&pages).is_ok() {
            PSWPIN.add(nr as i64);
            AHEAD.add(nr as i64 - 1);
            WINDOW.brought.store(nr as u32 - 1, Relaxed);
            let ahead = pages.drain(..).filter(|(slot, _)| *slot != own.0);
            add_cached(ahead.map(|(slot, frame)| (value_of(area.id, slot), frame)));
        } else {
            area.device.read(own.0, &frame)?;
            PSWPIN.add(1);
        }
        // Whose last use has ended meanwhile leaves the cache with its pin.
        drop(others);
        Ok(frame)
    }

    /// Pins what is to be read besides, in `found`, which is empty before.
    fn others(&self, area: &Area, near: Near<'_>, found: &mut ArrayVec<Pinned, MAX>) {
        let most = PAGE_CLUSTER.load(Relaxed).min(MAX_CLUSTER);
        if most == 0 || area.is_closed.load(Relaxed) {
            return;
        }
        match near {
            Near::Nothing => {}
            Near::Address(mm, addr) if BY_ADDRESS.load(Relaxed) => {
                let order = WINDOW.next(addr >> PAGE_SHIFT, most);
                mm.swapped_around(addr, order, area, found);
            }
            Near::Slots | Near::Address(..) => {
                let own = slot_of(self.0) as u64;
                let order = WINDOW.next(own, most);
                let first = own >> order << order;
                let slots = (first..first + (1 << order)).filter(|slot| *slot != own);
                let pins = slots.filter(|slot| !is_cached(value_of(area.id, *slot)));
                found.extend(pins.filter_map(|slot| Pinned::in_slot(area, slot)));
            }
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        put(self.0);
    }
}

impl Mm {
    /// Pins in `found` the pages of `area` whose entries are in the `2^order` pages around `addr`, but for that one. Takes
    /// `space` for reading.
    fn swapped_around(&self, addr: u64, order: u32, area: &Area, found: &mut ArrayVec<Pinned, MAX>) {
        let space = self.space.read();
        let Some(vma) = space.set.at(addr) else { return };
        let len = (PAGE_SIZE as u64) << order;
        let start = addr & !(len - 1);
        let part = vma.clip(&(start..start.saturating_add(len)));
        let Some(range) = PageRange::new(part.start, part.end) else { return };
        let own = addr & !(PAGE_SIZE as u64 - 1);
        let mut cursor = self.page_table().cursor(range);
        for at in range.pages().filter(|at| *at != own) {
            let Entry::Special(value) = cursor.query(at) else { continue };
            let is_there = is_swap(value) && area_id(value) == area.id;
            if !is_there || found.is_full() || is_cached(value) {
                continue;
            }
            let slot = with_mark(value, false);
            // Its device may not have it yet.
            if !HELD.lock().iter().any(|(known, _)| *known == slot) {
                found.push(Pinned::new(slot));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_follows_what_is_wanted() {
        let new = |order| Window {
            order: AtomicU32::new(order),
            brought: AtomicU32::new(0),
            wanted: AtomicU32::new(0),
            last: AtomicU64::new(u64::MAX),
        };
        let window = new(5);
        assert_eq!(window.next(1000, 3), 3, "no larger than page-cluster says");
        for expected in [2, 1, 1] {
            window.brought.store(7, Relaxed);
            assert_eq!(window.next(window.last.load(Relaxed) * 3, 3), expected, "nothing was wanted");
        }
        window.brought.store(4, Relaxed);
        window.wanted.store(2, Relaxed);
        assert_eq!(window.next(5, 3), 2);
        window.brought.store(4, Relaxed);
        window.wanted.store(1, Relaxed);
        assert_eq!(window.next(50, 3), 2);
        assert_eq!(window.next(51, 3), 3, "the next page");
        assert_eq!(new(2).next(9, 3), 2, "the last brought nothing");
        assert_eq!(new(0).next(9, 0), 0);
        assert_eq!(new(0).next(9, 1), 1);
    }

    #[test]
    fn pages_are_found_by_entry() {
        let mut pages = Pages(Vec::with_capacity(4));
        let frame = || Frame::alloc().unwrap();
        for value in [8, 2, 6, 4] {
            assert!(pages.put(value, frame()).is_none());
        }
        assert!(pages.put(5, frame()).is_some(), "no room");
        assert!(pages.put(6, frame()).is_some(), "in the place of the other");
        assert!(pages.take(6).is_some() && pages.take(6).is_none() && pages.take(7).is_none());
        assert_eq!(pages.0.iter().map(|(value, _)| *value).collect::<Vec<_>>(), [2, 4, 8]);
    }
}
