//! `FUTEX_REQUEUE`, `FUTEX_CMP_REQUEUE` and `FUTEX_WAKE_OP`: operations on two words at once.

use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::{UserAddr, user};
use mm::Mm;

use crate::bucket::{self, Entry};
use crate::key::{Key, Scope};
use crate::wait::MATCH_ANY;

/// Two words of a requeue or wake-op, and how many waiters of each are meant.
#[derive(Clone, Copy, Debug)]
pub struct Two {
    /// The word whose waiters are woken first.
    pub from: UserAddr,
    /// The other word.
    pub to: UserAddr,
    /// Whether the word at `from` is shared.
    pub scope: Scope,
    /// Whether the word at `to` is.
    pub to_scope: Scope,
    /// Most waiters to wake on `from`.
    pub nr_wake: usize,
    /// Most waiters to move to `to`, or to wake there.
    pub nr_other: usize,
}

/// Wakes waiters of `from` and moves others to wait on `to`; returns how many of both.
pub fn requeue(mm: &Mm, two: Two) -> Result<usize> {
    requeue_if(mm, two, None)
}

/// As [`requeue`], if the word at `from` is `value`. `EAGAIN`: it is not.
pub fn cmp_requeue(mm: &Mm, two: Two, value: u32) -> Result<usize> {
    requeue_if(mm, two, Some(value))
}

fn requeue_if(mm: &Mm, two: Two, value: Option<u32>) -> Result<usize> {
    let from = Key::new(mm, two.from, two.scope)?;
    let to = Key::new(mm, two.to, two.to_scope)?;
    loop {
        let done = bucket::with_tables(mm, |tables| {
            let (a, b) = (tables.bucket(from.slot()), tables.bucket(to.slot()));
            let mut locks = bucket::lock_pair(a, b);
            if !tables.is_current() {
                return None;
            }
            if let Some(value) = value {
                match user::load_u32_nofault(two.from) {
                    Ok(now) if now == value => {}
                    Ok(_) => return Some(Err(Errno::EAGAIN)),
                    Err(_) => return Some(Ok(None)),
                }
            }
            let woken = a.wake_matching(&mut locks.first, &from, MATCH_ANY, two.nr_wake);
            let moved = match &mut locks.second {
                None => rename(&mut locks.first, &from, &to, two.nr_other),
                Some(second) => {
                    let moved = move_entries(&mut locks.first, second, &from, &to, two.nr_other);
                    a.hand_over(moved, b);
                    moved
                }
            };
            Some(Ok(Some(woken + moved)))
        });
        match done? {
            Some(number) => return Ok(number),
            None => user::load_u32(two.from).map(drop).map_err(|_| Errno::EFAULT)?,
        }
    }
}

/// Gives at most `max` waiters of `from` the key `to` within one bucket.
fn rename(list: &mut [Entry], from: &Key, to: &Key, max: usize) -> usize {
    let mut moved = 0;
    for entry in list.iter_mut().filter(|e| e.key == *from).take(max) {
        entry.key = to.clone();
        entry.waiter.set_slot(to.slot());
        moved += 1;
    }
    moved
}

/// Moves at most `max` waiters of `from` to the end of `second`, the list of the bucket of `to`, as waiters of `to`.
///
/// Fewer when there is no memory for them.
fn move_entries(first: &mut Vec<Entry>, second: &mut Vec<Entry>, from: &Key, to: &Key, max: usize) -> usize {
    let mut moved = 0;
    let mut at = 0;
    while moved < max
        && let Some(entry) = first.get(at)
    {
        if entry.key != *from {
            at += 1;
            continue;
        }
        if second.try_reserve(1).is_err() {
            break;
        }
        let mut entry = first.remove(at);
        entry.key = to.clone();
        entry.waiter.set_slot(to.slot());
        second.push(entry);
        moved += 1;
    }
    moved
}

/// The operation and comparison of `FUTEX_WAKE_OP`, decoded.
#[derive(Clone, Copy, Debug)]
struct WakeOp {
    op: u32,
    arg: u32,
    cmp: u32,
    cmp_arg: i32,
}

impl WakeOp {
    /// Decodes `val3`. `ENOSYS`: an unknown operation or comparison.
    fn decode(encoded: u32) -> Result<Self> {
        /// The argument is a bit number.
        const SHIFT: u32 = 8;
        let twelve_bits = |n: u32| ((n << 20) as i32) >> 20;
        let op = encoded >> 28;
        let cmp = (encoded >> 24) & 0xf;
        let mut arg = twelve_bits(encoded >> 12) as u32;
        if op & SHIFT != 0 {
            arg = 1 << (arg & 31);
        }
        let op = op & !SHIFT;
        if op > 4 || cmp > 5 {
            return Err(Errno::ENOSYS);
        }
        Ok(Self { op, arg, cmp, cmp_arg: twelve_bits(encoded) })
    }

    fn apply(self, old: u32) -> u32 {
        match self.op {
            0 => self.arg,
            1 => old.wrapping_add(self.arg),
            2 => old | self.arg,
            3 => old & !self.arg,
            _ => old ^ self.arg,
        }
    }

    fn holds(self, old: u32) -> bool {
        let old = old as i32;
        match self.cmp {
            0 => old == self.cmp_arg,
            1 => old != self.cmp_arg,
            2 => old < self.cmp_arg,
            3 => old <= self.cmp_arg,
            4 => old > self.cmp_arg,
            _ => old >= self.cmp_arg,
        }
    }

    /// Changes the word at `addr` and gives its old value. `Err`: the page is not there.
    fn run(self, addr: UserAddr) -> Result<u32, hal::Fault> {
        loop {
            let old = user::load_u32_nofault(addr)?;
            if user::cmpxchg_u32_nofault(addr, old, self.apply(old))? == old {
                return Ok(old);
            }
        }
    }
}

/// Changes the word at `to`, wakes waiters of `from`, and of `to` if its old value compares; returns how many.
pub fn wake_op(mm: &Mm, two: Two, encoded: u32) -> Result<usize> {
    let op = WakeOp::decode(encoded)?;
    let from = Key::new(mm, two.from, two.scope)?;
    let to = Key::new(mm, two.to, two.to_scope)?;
    loop {
        let woken = bucket::with_tables(mm, |tables| {
            let (a, b) = (tables.bucket(from.slot()), tables.bucket(to.slot()));
            let mut locks = bucket::lock_pair(a, b);
            if !tables.is_current() {
                return None;
            }
            let Ok(old) = op.run(two.to) else { return Some(None) };
            let mut woken = a.wake_matching(&mut locks.first, &from, MATCH_ANY, two.nr_wake);
            if op.holds(old) {
                let list = match &mut locks.second {
                    Some(second) => second,
                    None => &mut locks.first,
                };
                woken += b.wake_matching(list, &to, MATCH_ANY, two.nr_other);
            }
            Some(Some(woken))
        });
        if let Some(woken) = woken {
            return Ok(woken);
        }
        // Makes the page writable: an exchange that changes nothing.
        let now = user::load_u32(two.to).map_err(|_| Errno::EFAULT)?;
        user::cmpxchg_u32(two.to, now, now).map_err(|_| Errno::EFAULT)?;
    }
}
