//! Parts show what the set has, and no fault is in one that an edit has emptied.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use vma_set::VmaSet;

use super::{NR, Parts, SIZE, index};
use crate::layout::Layout;
use crate::pkey::Keys;
use crate::space::{Limits, Space};
use crate::vma::{Backing, VmFlags, Vma, VmaAttr};
use crate::watch::Events;

const PAGE: u64 = hal::PAGE_SIZE as u64;

fn space() -> Space {
    Space {
        set: VmaSet::new(),
        layout: Layout::default(),
        limits: Limits::default(),
        def_flags: VmFlags::empty(),
        hiwater_vm: 0,
        keys: Keys::default(),
        events: Events::default(),
    }
}

fn vma(start: u64, end: u64, offset: u64) -> Vma {
    Vma { start, end, attr: VmaAttr::new(VmFlags::READ, offset, Backing::Anonymous, false) }
}

/// Takes the lock of a part as a thread of the host must: no scheduler wakes it.
fn empty(parts: &Parts, range: core::ops::Range<u64>) {
    parts.empty(&range, |sem| {
        loop {
            if let Some(guard) = sem.try_write() {
                return guard;
            }
            thread::yield_now();
        }
    });
}

#[test]
fn a_part_is_cut_to_its_two_mebibytes() {
    let (parts, space) = (Parts::new().unwrap(), space());
    let start = 3 * SIZE + 5 * PAGE;
    parts.fill(&vma(start, 9 * SIZE, 0), 4 * SIZE + PAGE, &space);
    let seen = parts.with(4 * SIZE, |vma| (vma.start, vma.end, vma.attr.offset));
    assert_eq!(seen, Some((4 * SIZE, 5 * SIZE, SIZE - 5 * PAGE)));
    assert_eq!(parts.with(5 * SIZE, |_| ()), None, "the next was not asked for");
    parts.fill(&vma(start, 9 * SIZE, 0), start, &space);
    assert_eq!(parts.with(start, |vma| vma.start..vma.end), Some(start..4 * SIZE));
    assert_eq!(parts.with(start - PAGE, |_| ()), None, "nothing is mapped there");
}

#[test]
fn an_edit_empties_what_it_touches_and_nothing_else() {
    let (parts, space) = (Parts::new().unwrap(), space());
    let all = vma(0, 64 * SIZE, 0);
    let fill = || (0..NR as u64).for_each(|at| parts.fill(&all, at * SIZE, &space));
    let shown = || (0..64).filter(|at| parts.with(at * SIZE, |_| ()).is_some()).count();
    fill();
    assert_eq!(shown(), NR);
    empty(&parts, 3 * SIZE + PAGE..3 * SIZE + 2 * PAGE);
    assert_eq!((shown(), parts.with(3 * SIZE, |_| ())), (NR - 1, None));
    fill();
    empty(&parts, 4 * SIZE - PAGE..6 * SIZE + PAGE);
    assert_eq!(shown(), NR - 4);
    fill();
    empty(&parts, 40 * SIZE..50 * SIZE);
    assert_eq!(shown(), NR, "others have those places now");
    empty(&parts, 0..0);
    assert_eq!(shown(), NR);
    empty(&parts, 0..hal::USER_END);
    assert_eq!(shown(), 0);
}

#[test]
fn neighbours_do_not_take_each_others_place() {
    for first in [0, 7, 31, 32, 1000] {
        let mut seen = [false; NR];
        for at in first..first + NR as u64 {
            if at / NR as u64 == first / NR as u64 {
                assert!(!core::mem::replace(&mut seen[index(at * SIZE)], true));
            }
        }
    }
}

/// Two threads look while one edits: whoever is in a part sees the VMA as it is from beginning to end.
#[test]
fn no_fault_is_in_a_part_while_it_is_edited() {
    const AREAS: u64 = 4;
    let rounds = if cfg!(miri) { 60 } else { 40_000 };
    let (parts, space, over) = (Parts::new().unwrap(), space(), AtomicBool::new(false));
    // The offset of each area; an edit is going on while it is odd.
    let now: [AtomicU64; AREAS as usize] = [const { AtomicU64::new(0) }; AREAS as usize];
    let seen = AtomicU64::new(0);
    thread::scope(|scope| {
        for first in 0..2 {
            let (parts, now, over, seen) = (&parts, &now, &over, &seen);
            scope.spawn(move || {
                let mut at = first;
                while !over.load(Ordering::Relaxed) {
                    at = (at + 1) % AREAS;
                    let found = parts.with(at * SIZE + PAGE, |vma| {
                        let offset = vma.attr.offset;
                        assert_eq!(offset, now[at as usize].load(Ordering::Relaxed));
                        core::hint::spin_loop();
                        assert_eq!(offset, now[at as usize].load(Ordering::Relaxed));
                    });
                    seen.fetch_add(u64::from(found.is_some()), Ordering::Relaxed);
                    thread::yield_now();
                }
            });
        }
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..rounds {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let first = random % AREAS;
            let end = first + 1 + (random >> 8) % (AREAS - first);
            empty(&parts, first * SIZE + PAGE..end * SIZE);
            for area in first..end {
                now[area as usize].fetch_add(1, Ordering::Relaxed);
            }
            for area in first..end {
                now[area as usize].fetch_add(1, Ordering::Relaxed);
                let offset = now[area as usize].load(Ordering::Relaxed);
                parts.fill(&vma(area * SIZE, (area + 1) * SIZE, offset), area * SIZE, &space);
            }
        }
        while seen.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
    });
}
