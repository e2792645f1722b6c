//! `FUTEX_WAIT`, `FUTEX_WAKE` and their bitset variants.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::{UserAddr, user};
use mm::Mm;
use sched::Interruptible;

use crate::bucket::{self, Entry, Waiter};
use crate::key::{Key, Scope, Slot};

/// The bitset of plain waits and wakes (`FUTEX_BITSET_MATCH_ANY`).
pub const MATCH_ANY: u32 = u32::MAX;

/// Why a wait ended without a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitError {
    /// A signal is pending. The caller decides how the call restarts.
    Interrupted,
    /// `EAGAIN`: the word had another value. `ETIMEDOUT`, `EFAULT`, `EINVAL`, `ENOMEM`.
    Errno(Errno),
}

impl From<Errno> for WaitError {
    fn from(e: Errno) -> Self {
        Self::Errno(e)
    }
}

impl From<sched::WaitError> for WaitError {
    fn from(e: sched::WaitError) -> Self {
        match e {
            sched::WaitError::Interrupted => Self::Interrupted,
            sched::WaitError::TimedOut => Self::Errno(Errno::ETIMEDOUT),
        }
    }
}

/// Sleeps until a wake-up that meets `bitset`, if the word at `addr` of the current address space `mm` is `value`.
///
/// `deadline_ns` is a time of the monotonic clock.
pub fn wait(
    mm: &Mm,
    addr: UserAddr,
    scope: Scope,
    value: u32,
    bitset: u32,
    deadline_ns: Option<u64>,
) -> Result<(), WaitError> {
    if bitset == 0 {
        return Err(Errno::EINVAL.into());
    }
    let key = Key::new(mm, addr, scope)?;
    let waiter = Waiter::new(key.slot(), None);
    let mut entry = Some(Entry { key, bitset, waiter: waiter.clone() });
    while let Some(waiting) = entry.take() {
        entry = enqueue(mm, addr, value, waiting)?;
        if entry.is_some() {
            // The page is not there: fetch it, then try again.
            user::load_u32(addr).map_err(|_| Errno::EFAULT)?;
        }
    }
    match waiter.queue.wait_deadline(|| waiter.is_woken().then_some(()), deadline_ns, Interruptible::Yes) {
        Ok(()) => Ok(()),
        // A waker that took the waiter out counts it as woken, so it must be.
        Err(_) if !bucket::unqueue(mm, &waiter) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// One of several words that a thread waits on.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    /// Where it is.
    pub addr: UserAddr,
    /// Whether it is shared.
    pub scope: Scope,
    /// The value it must have.
    pub value: u32,
}

/// Sleeps until a wake-up on any of `words`, if all have their value; gives the index of the word.
///
/// As [`wait`] otherwise.
pub fn wait_multiple(mm: &Mm, words: &[Word], deadline_ns: Option<u64>) -> Result<usize, WaitError> {
    let group = Waiter::new(Slot::NONE, None);
    let mut listed: Vec<Arc<Waiter>> = Vec::new();
    listed.try_reserve_exact(words.len()).map_err(|_| Errno::ENOMEM)?;
    loop {
        let missing = match list_all(mm, words, &group, &mut listed) {
            Ok(None) => break,
            Ok(Some(addr)) => Ok(addr),
            Err(e) => Err(e),
        };
        // A wake-up that came already is the answer, whatever is wrong with the other words.
        if let Some(first) = unlist(mm, &mut listed) {
            return Ok(first);
        }
        user::load_u32(missing?).map_err(|_| Errno::EFAULT)?;
    }
    let woken = || group.is_woken().then_some(());
    let result = group.queue.wait_deadline(woken, deadline_ns, Interruptible::Yes);
    match (unlist(mm, &mut listed), result) {
        (Some(first), _) => Ok(first),
        (None, Err(e)) => Err(e.into()),
        (None, Ok(())) => Err(Errno::EAGAIN.into()),
    }
}

/// Lists a waiter for each word; gives the address of one that is not in memory.
fn list_all(
    mm: &Mm,
    words: &[Word],
    group: &Arc<Waiter>,
    listed: &mut Vec<Arc<Waiter>>,
) -> Result<Option<UserAddr>> {
    for word in words {
        let key = Key::new(mm, word.addr, word.scope)?;
        let waiter = Waiter::new(key.slot(), Some(group.clone()));
        let entry = Entry { key, bitset: MATCH_ANY, waiter: waiter.clone() };
        if enqueue(mm, word.addr, word.value, entry)?.is_some() {
            return Ok(Some(word.addr));
        }
        listed.push(waiter);
    }
    Ok(None)
}

/// Takes all waiters out of their buckets; the index of the first that a waker had taken.
fn unlist(mm: &Mm, listed: &mut Vec<Arc<Waiter>>) -> Option<usize> {
    let mut first = None;
    for (i, waiter) in listed.drain(..).enumerate() {
        if !bucket::unqueue(mm, &waiter) {
            first.get_or_insert(i);
        }
    }
    first
}

/// Lists `entry` if the word still is `value`; gives it back when the word could not be read.
fn enqueue(mm: &Mm, addr: UserAddr, value: u32, entry: Entry) -> Result<Option<Entry>> {
    let slot = entry.waiter.slot();
    let mut entry = Some(entry);
    let outcome = bucket::with_tables(mm, |tables| {
        let bucket = tables.bucket(slot);
        bucket.enter();
        let mut list = bucket.lock();
        let refused = if tables.is_current() {
            match user::load_u32_nofault(addr) {
                Err(_) => Some(Ok(())),
                Ok(now) if now != value => Some(Err(Errno::EAGAIN)),
                Ok(_) if list.try_reserve(1).is_err() => Some(Err(Errno::ENOMEM)),
                Ok(_) => {
                    list.extend(entry.take());
                    return Some(Ok(()));
                }
            }
        } else {
            None
        };
        drop(list);
        bucket.leave(1);
        refused
    });
    outcome.map(|()| entry)
}

/// Wakes at most `max` waiters of the word at `addr` whose bitset meets `bitset`; returns how many.
///
/// Takes no lock when nobody waits on any word with the same hash. `EINVAL`, `EFAULT`: a bad address or bitset.
pub fn wake(mm: &Mm, addr: UserAddr, scope: Scope, max: usize, bitset: u32) -> Result<usize> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = Key::new(mm, addr, scope)?;
    Ok(bucket::with_tables(mm, |tables| {
        let bucket = tables.bucket(key.slot());
        if bucket.is_empty() {
            return tables.is_current().then_some(0);
        }
        let mut list = bucket.lock();
        tables.is_current().then(|| bucket.wake_matching(&mut list, &key, bitset, max))
    }))
}
