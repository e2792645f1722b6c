//! Hash tables of processes: where threads wait on private words, so that they meet no other process's waiters.
//!
//! A process gets a table with its second thread, which grows with its threads and the machine's CPUs until
//! `PR_FUTEX_HASH` (prctl(2)) asks for a size, or for the table of all ([`BUCKETS`]) for good.
//!
//! # Changing the table
//!
//! ```text
//! change                                    who lists or wakes
//! is_changing = true                        read the table (E); changing? -> sleep until it is done
//! publish the new table (F); fence          lock the bucket
//! for each old bucket:                      read the table again (G): another one? -> begin anew
//!   lock; take its waiters out; unlock      ...
//!   list them in the new one
//! is_changing = false
//! ```
//!
//! Who locked a bucket before the change did still sees the old table at G, and what it lists is brought over. Who locks it
//! later sees F. Between their buckets waiters are in no list, but nobody looks for them then: all who read the new table
//! at E sleep.
//!
//! Sources: `PR_FUTEX_HASH` in linux/prctl.h; sizes and errors as observed on Linux 7.2.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering, fence};

use abi::{Errno, Result};
use hal::rcu::ReadGuard;
use hal::sync::ArcCell;
use mm::Mm;
use sched::Mutex;

use crate::bucket::{BUCKETS, Bucket, Entry, NR_BUCKETS};
use crate::key::{Key, Slot};

/// Fewest buckets of a table that was made for threads.
const MIN_SLOTS: usize = 16;
/// Buckets for each thread that can run.
const SLOTS_PER_THREAD: usize = 4;
/// Most buckets of a table.
///
/// LINUX: as many as there is memory for.
const MAX_SLOTS: usize = 1 << 16;

/// The table of one process.
pub(crate) struct Table {
    /// A power of two of them.
    buckets: Vec<Bucket>,
}

impl Table {
    /// A table of `slots` buckets, a power of two. `ENOMEM`.
    fn new(slots: usize) -> Result<Arc<Self>> {
        let mut buckets = Vec::new();
        buckets.try_reserve_exact(slots).map_err(|_| Errno::ENOMEM)?;
        buckets.resize_with(slots, Bucket::new);
        Ok(Arc::new(Self { buckets }))
    }

    /// The bucket of `slot`.
    pub fn bucket(&self, slot: Slot) -> &Bucket {
        let mask = self.buckets.len().wrapping_sub(1);
        // There is always one: the mask is below the length.
        self.buckets.get(slot.hash() & mask).unwrap_or(&BUCKETS[0])
    }
}

/// Who chose the size.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// The number of threads.
    Threads,
    /// The process.
    Asked,
    /// The process, which wants no table of its own, for good.
    Shared,
}

/// What an address space has of its own; made when the first table is.
struct Private {
    /// Empty: private words are in the table for all.
    table: ArcCell<Table>,
    is_changing: AtomicBool,
    /// Held while the table changes.
    choice: Mutex<Choice>,
}

impl Private {
    fn new() -> Self {
        Self {
            table: ArcCell::empty(),
            is_changing: AtomicBool::new(false),
            choice: Mutex::new("futex.choice", Choice::Threads),
        }
    }

    /// Makes `new` the table of `mm`, and brings its waiters there; `choice` is locked.
    fn change(&self, mm: &Mm, new: Option<Arc<Table>>) {
        self.is_changing.store(true, Ordering::SeqCst);
        let old = self.table.swap(new.clone());
        fence(Ordering::SeqCst);
        let new = new.as_deref();
        match old.as_deref() {
            Some(old) => old.buckets.iter().for_each(|bucket| rehash(bucket, new, |_| true)),
            None => {
                let is_own = |key: &Key| matches!(key, Key::Private { mm: id, .. } if *id == mm.id());
                BUCKETS.iter().for_each(|bucket| rehash(bucket, new, is_own));
            }
        }
        self.is_changing.store(false, Ordering::SeqCst);
    }
}

/// Takes the waiters of `from` whose keys are `wanted` to `table`.
fn rehash(from: &Bucket, table: Option<&Table>, wanted: impl Fn(&Key) -> bool) {
    if from.looks_empty() {
        return;
    }
    let mut taken = Vec::new();
    {
        let mut list = from.lock();
        let mut at = 0;
        while let Some(entry) = list.get(at) {
            if wanted(&entry.key) {
                let entry = list.remove(at);
                from.leave(1);
                keep_or_wake(&mut taken, entry);
            } else {
                at += 1;
            }
        }
    }
    for entry in taken {
        let slot = entry.waiter.slot();
        let to = table.map_or(&BUCKETS[slot.hash() % NR_BUCKETS], |table| table.bucket(slot));
        to.enter();
        if !keep_or_wake(&mut to.lock(), entry) {
            to.leave(1);
        }
    }
}

/// Adds `entry` to `list`. `false`: there is no memory, and it was woken instead, as may happen to every waiter
/// (futex(2), "spurious wake-up").
fn keep_or_wake(list: &mut Vec<Entry>, entry: Entry) -> bool {
    let is_kept = list.try_reserve(1).is_ok();
    if is_kept {
        list.push(entry);
    } else {
        entry.wake();
    }
    is_kept
}

/// The table of `mm`, if it has one.
pub(crate) fn table<'a>(mm: &'a Mm, guard: &'a ReadGuard) -> Option<&'a Table> {
    mm.known_companion::<Private>()?.table.get(guard)
}

/// Whether the table of `mm`, read before, is being changed.
pub(crate) fn is_changing(mm: &Mm) -> bool {
    mm.known_companion::<Private>().is_some_and(|own| own.is_changing.load(Ordering::SeqCst))
}

/// Sleeps until no change of the table of `mm` is under way.
pub(crate) fn wait_for_change(mm: &Mm) {
    if let Some(own) = mm.known_companion::<Private>() {
        drop(own.choice.lock());
    }
}

/// The number of buckets in the table of `mm`; 0: it has none.
pub fn own_slots(mm: &Mm) -> usize {
    let guard = hal::rcu::read_lock();
    table(mm, &guard).map_or(0, |table| table.buckets.len())
}

/// Gives `mm` a table of `slots` buckets, or none of its own, for good, when 0.
///
/// `EINVAL`: neither 0 nor a power of two above 1. `EBUSY`: it has none for good. `ENOMEM`.
pub fn set_own_slots(mm: &Mm, slots: usize) -> Result<()> {
    if slots == 1 || (slots != 0 && !slots.is_power_of_two()) {
        return Err(Errno::EINVAL);
    }
    let own = mm.companion(Private::new).ok_or(Errno::ENOMEM)?;
    let mut choice = own.choice.lock();
    if *choice == Choice::Shared {
        return Err(Errno::EBUSY);
    }
    if slots > MAX_SLOTS {
        return Err(Errno::ENOMEM);
    }
    let table = if slots == 0 { None } else { Some(Table::new(slots)?) };
    own.change(mm, table);
    *choice = if slots == 0 { Choice::Shared } else { Choice::Asked };
    Ok(())
}

/// Prepares `mm` for one more thread beside the `nr_threads` of the process: its table has at least so many buckets, unless
/// it was asked for another number. `ENOMEM`.
pub fn grow_for_thread(mm: &Mm, nr_threads: usize) -> Result<()> {
    let wanted = wanted_slots(nr_threads, hal::cpu::nr_cpus());
    if own_slots(mm) >= wanted {
        return Ok(());
    }
    let own = mm.companion(Private::new).ok_or(Errno::ENOMEM)?;
    let choice = own.choice.lock();
    if *choice == Choice::Threads && own_slots(mm) < wanted {
        own.change(mm, Some(Table::new(wanted)?));
    }
    Ok(())
}

/// The number of buckets for `nr_threads` threads on `nr_cpus` CPUs.
fn wanted_slots(nr_threads: usize, nr_cpus: usize) -> usize {
    let running = nr_threads.min(nr_cpus).min(NR_BUCKETS);
    (running * SLOTS_PER_THREAD).next_power_of_two().clamp(MIN_SLOTS, NR_BUCKETS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_grow_with_threads_and_cpus() {
        assert_eq!(wanted_slots(0, 4), 16);
        assert_eq!(wanted_slots(100, 4), 16);
        assert_eq!(wanted_slots(5, 64), 32);
        assert_eq!(wanted_slots(usize::MAX, 64), 256);
        assert_eq!(wanted_slots(usize::MAX, usize::MAX), 256);
    }

    #[test]
    fn each_slot_has_its_bucket() {
        let table = Table::new(4).unwrap();
        let place = |n: usize| core::ptr::from_ref(table.bucket(Slot(n << 1 | 1)));
        assert_eq!(place(1), place(5));
        assert_ne!(place(1), place(2));
        assert!(table.buckets.as_ptr_range().contains(&place(usize::MAX >> 1)));
    }
}
