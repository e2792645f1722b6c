//! All address spaces of the machine, for the rare walks over every one of them.
//!
//! A page cache does not keep a list of its VMAs: that would cost every mmap, munmap, fork and exit. It
//! counts them, and a truncation that meets a mapped file walks the address spaces here instead.
//!
//! Locks: `MMS` is a leaf; nothing is taken below it.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Range;

use abi::{Errno, Result};
use hal::sync::SpinLock;

use crate::mapping::Mapping;
use crate::mapping::truncate::Private;
use crate::space::Mm;

struct Slots {
    /// The id of each address space, and itself.
    slots: Vec<Option<(u64, Weak<Mm>)>>,
    free: Vec<usize>,
}

static MMS: SpinLock<Slots> = SpinLock::new("mm.registry", Slots { slots: Vec::new(), free: Vec::new() });

/// Takes a slot for a new address space.
pub(crate) fn reserve() -> Result<usize> {
    let mut mms = MMS.lock();
    if let Some(slot) = mms.free.pop() {
        return Ok(slot);
    }
    let slot = mms.slots.len();
    mms.slots.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    // So that giving the slot back never needs memory.
    let room = mms.slots.capacity();
    let have = mms.free.len();
    mms.free.try_reserve(room - have).map_err(|_| Errno::ENOMEM)?;
    mms.slots.push(None);
    Ok(slot)
}

/// Shows the address space to walks.
pub(crate) fn publish(slot: usize, mm: &Arc<Mm>) {
    if let Some(place) = MMS.lock().slots.get_mut(slot) {
        *place = Some((mm.id(), Arc::downgrade(mm)));
    }
}

/// Gives a slot back.
pub(crate) fn release(slot: usize) {
    let mut mms = MMS.lock();
    let old = mms.slots.get_mut(slot).and_then(Option::take);
    mms.free.push(slot);
    drop(mms);
    drop(old);
}

/// Calls `visit` for each address space that lives.
pub fn for_each(mut visit: impl FnMut(&Arc<Mm>)) {
    for_each_owned(|mm| visit(&mm));
}

/// As [`for_each`]; `visit` decides where what may be the last reference is dropped.
pub(crate) fn for_each_owned(mut visit: impl FnMut(Arc<Mm>)) {
    let mut slot = 0;
    loop {
        let mm = match MMS.lock().slots.get(slot) {
            None => return,
            Some(place) => place.as_ref().and_then(|(_, mm)| mm.upgrade()),
        };
        if let Some(mm) = mm {
            visit(mm);
        }
        slot += 1;
    }
}

/// Calls `visit` for each address space that lives, parents before their children.
///
/// A fork copies what its parent has: where `visit` takes that away, or adds to it, under `space`, no child is missed
/// however many are made meanwhile. Such a child has a greater number than its parent, so it comes later, and it is shown
/// before its parent can be visited. Cost: the square of the number of address spaces.
pub fn for_each_by_age(mut visit: impl FnMut(&Arc<Mm>)) {
    let mut last = None;
    loop {
        let (id, mm) = {
            let mms = MMS.lock();
            let later = mms.slots.iter().flatten().filter(|(id, _)| last.is_none_or(|last| *id > last));
            let Some((id, mm)) = later.min_by_key(|(id, _)| *id) else { return };
            (*id, mm.upgrade())
        };
        last = Some(id);
        if let Some(mm) = mm {
            visit(&mm);
        }
    }
}

/// Drops what may be the last reference to an address space, for a caller that holds a lock: elsewhere then, as files may
/// close with it, which takes time and locks.
pub(crate) fn let_go(mm: Arc<Mm>) {
    if Arc::strong_count(&mm) == 1 {
        sched::workqueue::queue(Box::new(move || drop(mm)));
    }
}

/// The first address space in or after `slot`, and its slot.
pub(crate) fn at_or_after(mut slot: usize) -> Option<(usize, Arc<Mm>)> {
    loop {
        let mm = MMS.lock().slots.get(slot)?.as_ref().and_then(|(_, mm)| mm.upgrade());
        if let Some(mm) = mm {
            return Some((slot, mm));
        }
        slot += 1;
    }
}

/// Sums over all address spaces, in pages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub anon: u64,
    pub anon_huge: u64,
    pub shmem_huge: u64,
    pub mapped: u64,
    pub locked: u64,
}

pub(crate) fn sum() -> Sums {
    let mut sums = Sums::default();
    for_each(|mm| {
        let c = mm.counters();
        sums.anon += c.rss_anon;
        let shared = mm.shared_huge_pages();
        sums.shmem_huge += shared;
        sums.anon_huge += mm.huge_pages(shared);
        sums.mapped += c.rss_file + c.rss_shmem;
        sums.locked += c.locked;
    });
    // All that it counts are shown by somebody, but for the one that `thp` keeps.
    sums.anon_huge = sums.anon_huge.saturating_sub(crate::thp::zero_pages_mapped());
    sums
}

/// Clears the page-table entries of pages `range` of `mapping` in all address spaces. May sleep.
pub(crate) fn unmap_everywhere(mapping: &Mapping, range: Range<u64>, private: Private) {
    for_each(|mm| mm.unmap_mapping(mapping, range.clone(), private));
}

/// Whether somebody wants to know of missing pages among `range` of `mapping`. May sleep.
pub(crate) fn tells_missing(mapping: &Mapping, range: &Range<u64>) -> bool {
    let mut tells = false;
    for_each(|mm| tells = tells || mm.tells_missing(mapping, range));
    tells
}
