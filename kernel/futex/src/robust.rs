//! Robust lists: locks that a dying thread held are marked, so that others do not wait for ever.
//!
//! ```text
//! head -> { next, futex_offset, list_op_pending }   next -> next -> ... -> head
//! word of an entry = entry address + futex_offset:  owner's tid | FUTEX_WAITERS | FUTEX_OWNER_DIED
//! ```
//!
//! Everything here is user memory that may lie: the walk is bounded, and each access may fail and end it.
//! Sources: get_robust_list(2), Documentation/locking/robust-futex-ABI.rst.

use hal::{UserAddr, user};
use mm::Mm;

use crate::key::Scope;
use crate::wait::{MATCH_ANY, wake};

/// Most entries that are looked at (Linux: `ROBUST_LIST_LIMIT`).
const LIMIT: usize = 2048;
/// Somebody waits in the kernel.
const WAITERS: u32 = 0x8000_0000;
/// The owner died without unlocking.
const OWNER_DIED: u32 = 0x4000_0000;
/// The part of the word that is a thread id.
const TID_MASK: u32 = 0x3fff_ffff;

/// An entry's address, whose lowest bit marks a priority-inheritance lock.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Link(u64);

impl Link {
    fn addr(self) -> u64 {
        self.0 & !1
    }

    fn is_pi(self) -> bool {
        self.0 & 1 != 0
    }
}

/// Whether the thread was about to take or give the lock when it died.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    Listed,
    Pending,
}

/// Where a robust lock that is being given back is noted, so that the thread's death in between is not missed.
#[derive(Clone, Copy, Debug)]
pub struct PendingSlot {
    /// The address of `list_op_pending`.
    pub addr: UserAddr,
    /// It has 32 bits (`FUTEX_ROBUST_LIST32`).
    pub is_narrow: bool,
}

impl PendingSlot {
    /// Notes that nothing is pending any more. `EFAULT`.
    pub fn clear(self) -> abi::Result<()> {
        if self.is_narrow { user::write(self.addr, &0u32) } else { user::write(self.addr, &0u64) }
            .map_err(|_| abi::Errno::EFAULT)
    }
}

/// Frees the lock at `word` and clears `slot`, so that no death in between leaves one without the other done
/// (`FUTEX_ROBUST_UNLOCK`): nothing ends a thread here. The caller then wakes who waits. `EFAULT`.
pub fn robust_unlock(word: UserAddr, slot: PendingSlot) -> abi::Result<()> {
    loop {
        let old = user::load_u32(word).map_err(|_| abi::Errno::EFAULT)?;
        if user::cmpxchg_u32(word, old, 0).map_err(|_| abi::Errno::EFAULT)? == old {
            return slot.clear();
        }
    }
}

/// Marks the locks of the list at `head` that thread `tid` holds, and wakes a waiter of each.
///
/// Called by the dying thread itself while `mm` is still its address space. May sleep.
pub fn exit_robust_list(mm: &Mm, head: UserAddr, tid: u32) {
    let Ok([first, offset, pending]) = user::read::<[u64; 3]>(head) else { return };
    let (mut link, pending) = (Link(first), Link(pending));
    for _ in 0..LIMIT {
        if link.addr() == head.as_u64() {
            break;
        }
        // Before the word is given up: its new owner may free the entry.
        let next = user::read::<u64>(UserAddr(link.addr()));
        let word = UserAddr(link.addr().wrapping_add(offset));
        if link.addr() != pending.addr() && give_up(mm, word, tid, link, Entry::Listed).is_err() {
            return;
        }
        match next {
            Ok(next) => link = Link(next),
            Err(_) => return,
        }
    }
    if pending.addr() != 0 {
        let word = UserAddr(pending.addr().wrapping_add(offset));
        let _ = give_up(mm, word, tid, pending, Entry::Pending);
    }
}

/// Marks one word. `Err`: it cannot be accessed.
fn give_up(mm: &Mm, word: UserAddr, tid: u32, link: Link, entry: Entry) -> Result<(), hal::Fault> {
    let mut value = user::load_u32(word)?;
    loop {
        // Died between clearing the word and waking: the wake-up is still owed.
        if entry == Entry::Pending && !link.is_pi() && value & TID_MASK == 0 {
            let _ = wake(mm, word, Scope::Shared, 1, MATCH_ANY);
            return Ok(());
        }
        if value & TID_MASK != tid & TID_MASK {
            return Ok(());
        }
        let seen = user::cmpxchg_u32(word, value, (value & WAITERS) | OWNER_DIED)?;
        if seen == value {
            break;
        }
        value = seen;
    }
    if !link.is_pi() && value & WAITERS != 0 {
        // Waiters on private robust locks use private keys; robust locks of glibc are waited on as shared.
        let _ = wake(mm, word, Scope::Shared, 1, MATCH_ANY);
    }
    Ok(())
}
