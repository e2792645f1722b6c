//! Tables and leaf entries of user page tables: their bits, and the frames that they own.
//!
//! A leaf entry is one of (P = present bit, 0 elsewhere):
//!
//! ```text
//! P=1            frame, hardware flags, COW in bit 9, SOFT in bit 10, WATCHED in bit 58, protection key in bits 59-62
//! P=0, bit 1=1   frame that no access may reach (PROT_NONE); the same flags, WRITE in bit 11
//! P=0, bit 1=0   0: nothing; else a special value, shifted left by 2
//! ```
//!
//! A large entry of a level-2 table looks as one of the first two, with LARGE (bit 7).

use core::sync::atomic::{AtomicU64, Ordering};

use super::pte::{self, ENTRIES};
use crate::addr::PAGE_SHIFT;
use crate::arch::mem;
use crate::paging::PteFlags;

/// P=0: holds a frame nevertheless.
pub(super) const HIDDEN: u64 = 1 << 1;
/// Where WRITE is kept in a hidden entry.
pub(super) const HIDDEN_WRITE: u64 = 1 << 11;
/// Copy on write.
pub(super) const COW: u64 = pte::SOFT_COW;
const SOFT: u64 = 1 << 10;
/// One of the bits that the CPU ignores.
const WATCHED: u64 = 1 << 58;
const PKEY_SHIFT: u32 = 59;
const PKEY_FLAG_SHIFT: u32 = 16;
/// A special value is shifted by this, so that bits 0 and 1 stay clear.
pub(super) const SPECIAL_SHIFT: u32 = 2;

/// One table of any level. Entries are shared with the hardware.
pub(super) struct Table(pub(super) [AtomicU64; ENTRIES]);

/// The table at `paddr`.
///
/// # Safety
///
/// 1. `paddr` is a table of a live [`PageTable`](super::PageTable) that the caller holds locked (or alone), for as long as it uses
///    the result.
pub(super) unsafe fn table_at<'a>(paddr: u64) -> &'a Table {
    // SAFETY: tables are managed frames, which the direct map covers; 1 keeps it allocated. All accesses are atomic.
    unsafe { &*mem::frame_ptr(paddr >> PAGE_SHIFT).cast::<Table>() }
}

/// The leaf for a frame (its number) with `flags`.
pub(super) fn encode(frame: u64, flags: PteFlags) -> u64 {
    let mut entry = frame << PAGE_SHIFT;
    let pairs = [
        (PteFlags::DIRTY, pte::DIRTY),
        (PteFlags::ACCESSED, pte::ACCESSED),
        (PteFlags::COW, COW),
        (PteFlags::SOFT, SOFT),
        (PteFlags::WATCHED, WATCHED),
    ];
    for (flag, bit) in pairs {
        if flags.contains(flag) {
            entry |= bit;
        }
    }
    if !flags.contains(PteFlags::EXEC) {
        entry |= pte::NO_EXEC;
    }
    entry |= u64::from((flags & PteFlags::PKEY).bits() >> PKEY_FLAG_SHIFT) << PKEY_SHIFT;
    let write = flags.contains(PteFlags::WRITE);
    if flags.contains(PteFlags::NONE) {
        entry | HIDDEN | if write { HIDDEN_WRITE } else { 0 }
    } else {
        entry | pte::PRESENT | pte::USER | if write { pte::WRITABLE } else { 0 }
    }
}

/// The flags of a leaf with a frame.
pub(super) fn flags_of(entry: u64) -> PteFlags {
    let mut flags = PteFlags::empty();
    flags.set(PteFlags::DIRTY, entry & pte::DIRTY != 0);
    flags.set(PteFlags::ACCESSED, entry & pte::ACCESSED != 0);
    flags.set(PteFlags::COW, entry & COW != 0);
    flags.set(PteFlags::SOFT, entry & SOFT != 0);
    flags.set(PteFlags::WATCHED, entry & WATCHED != 0);
    flags.set(PteFlags::EXEC, entry & pte::NO_EXEC == 0);
    let key = (entry >> PKEY_SHIFT) as u32 & 0xf;
    flags |= PteFlags::from_bits_retain(key << PKEY_FLAG_SHIFT);
    let present = entry & pte::PRESENT != 0;
    flags.set(PteFlags::NONE, !present);
    flags.set(PteFlags::WRITE, entry & if present { pte::WRITABLE } else { HIDDEN_WRITE } != 0);
    flags
}

/// Is this level-2 entry large: does it map a huge frame? It may be hidden, as a leaf.
#[inline]
pub(super) fn is_large(entry: u64) -> bool {
    // Tables do not have the bit, and the CPU reads it in present entries only.
    entry & pte::LARGE != 0
}

/// The number of the first frame in a large entry.
pub(super) fn large_pfn(entry: u64) -> u32 {
    pfn(entry) as u32
}

/// Does the leaf own a frame?
#[inline]
pub(super) fn has_frame(entry: u64) -> bool {
    entry & (pte::PRESENT | HIDDEN) != 0
}

/// The number of the frame in an entry.
pub(super) fn pfn(entry: u64) -> u64 {
    (entry & pte::ADDR) >> PAGE_SHIFT
}

/// U2's count of the table at `paddr`.
pub(super) fn nr_entries(paddr: u64) -> u64 {
    mem::meta(paddr >> PAGE_SHIFT).index.load(Ordering::Relaxed)
}

/// Changes U2's count of the table at `paddr`; the new value. Under the lock.
pub(super) fn count(paddr: u64, change: i64) -> u64 {
    let index = &mem::meta(paddr >> PAGE_SHIFT).index;
    let now = index.load(Ordering::Relaxed).wrapping_add_signed(change);
    index.store(now, Ordering::Relaxed);
    now
}
