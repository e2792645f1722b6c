//! modify_ldt(2): segments of a process's own, and what becomes of a selector that leads to one.

use std::sync::Barrier;
use std::thread;

use crate::prelude::*;

tests!(
    "segment":
    slots_are_set_read_and_cleared, errors, gs_reaches_a_segment, threads_share_segments,
    fork_copies_segments, segments_of_two_processes_do_not_mix, a_selector_that_leads_nowhere_is_a_fault,
    a_segment_that_goes_away, arch_prctl_takes_the_selector, tracer_sees_and_sets_selectors,
);

/// Selector of the first and second slot, as user code loads them.
const FIRST: u16 = 7;
const SECOND: u16 = 15;
/// 32-bit, limit in pages: up to 4 GiB.
const DATA: u32 = 1 | 1 << 4;
/// Read-only and not present: with base and limit 0 the slot is cleared.
const EMPTY: u32 = 1 << 3 | 1 << 5;
const GS: usize = 26 * 8;
const GS_BASE: usize = 22 * 8;

/// The call's result is an int, with the upper half clear.
fn modify_ldt(func: usize, ptr: *mut u32, len: usize) -> i32 {
    sys!(SYS_modify_ldt, func, ptr as usize, len).unwrap() as i32
}

fn set_slot(slot: u32, base: u32, bits: u32) -> i32 {
    modify_ldt(0x11, [slot, base, 0xf_ffff, bits].as_mut_ptr(), 16)
}

/// `len` bytes of the table.
fn table(len: usize) -> Vec<u64> {
    let mut words = vec![!0u64; 64];
    let got = modify_ldt(0, words.as_mut_ptr().cast(), len);
    words.truncate(usize::try_from(got).unwrap().div_ceil(8));
    words
}

/// A page below 4 GiB whose first word is `value`.
fn low_page(value: u64) -> u32 {
    let at = sys!(SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0).unwrap();
    for (idx, byte) in value.to_le_bytes().into_iter().enumerate() {
        poke(at + idx, byte);
    }
    at as u32
}

fn slots_are_set_read_and_cleared() {
    assert_eq!(table(64), []);
    assert_eq!(set_slot(1, 0x1234_5678, DATA), 0);
    assert_eq!(table(64), [0, 0x12cf_f334_5678_ffff, 0, 0, 0, 0, 0, 0]);
    assert_eq!(table(12)[1] & 0xffff_ffff, 0x5678_ffff);
    assert_eq!(set_slot(0, 0x1000, DATA | 1 << 3), 0);
    assert_eq!(table(16), [0x00cf_f100_1000_ffff, 0x12cf_f334_5678_ffff]);
    assert_eq!(modify_ldt(0x11, [1, 0, 0, EMPTY].as_mut_ptr(), 16), 0);
    assert_eq!(table(16), [0x00cf_f100_1000_ffff, 0]);
    // The first interface clears with base and limit alone.
    assert_eq!(modify_ldt(1, [0, 0, 0, DATA].as_mut_ptr(), 16), 0);
    assert_eq!(table(16), [0, 0]);
    let mut zeros = [!0u64; 17];
    assert_eq!(modify_ldt(2, zeros.as_mut_ptr().cast(), 4096), 128);
    assert_eq!((zeros[15], zeros[16]), (0, !0));
}

fn errors() {
    let mut slot = [0, 0x1000, 1, DATA];
    assert_eq!(modify_ldt(7, slot.as_mut_ptr(), 16), -ENOSYS_NR);
    assert_eq!(modify_ldt(0x11, slot.as_mut_ptr(), 15), -EINVAL_NR);
    assert_eq!(modify_ldt(0x11, BAD as *mut u32, 16), -EFAULT_NR);
    assert_eq!(set_slot(8192, 0, DATA), -EINVAL_NR);
    assert_eq!(set_slot(u32::MAX, 0, DATA), -EINVAL_NR);
    assert_eq!(set_slot(0, 0, DATA | 3 << 1), -EINVAL_NR);
    assert_eq!(modify_ldt(1, [0, 0x1000, 1, 3 << 1 | 1 << 5].as_mut_ptr(), 16), -EINVAL_NR);
    assert_eq!(set_slot(8191, 0x1000, DATA), 0);
    assert_eq!(modify_ldt(0, BAD as *mut u32, 16), -EFAULT_NR);
}

const ENOSYS_NR: i32 = ENOSYS as i32;
const EINVAL_NR: i32 = EINVAL as i32;
const EFAULT_NR: i32 = EFAULT as i32;

fn gs_reaches_a_segment() {
    assert_eq!(set_slot(0, low_page(0x1122_3344_5566_7788), DATA), 0);
    assert_eq!(set_slot(1, low_page(99), DATA), 0);
    sys::set_gs(FIRST);
    assert_eq!(sys::peek_gs(0), 0x1122_3344_5566_7788);
    // Others run meanwhile.
    for _ in 0..5 {
        nap(1);
        assert_eq!((sys::gs(), sys::peek_gs(0)), (FIRST, 0x1122_3344_5566_7788));
    }
    sys::set_gs(SECOND);
    assert_eq!(sys::peek_gs(0), 99);
}

fn threads_share_segments() {
    let (start, done) = (Barrier::new(4), Barrier::new(4));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                start.wait();
                sys::set_gs(SECOND);
                for _ in 0..50 {
                    thread::yield_now();
                    assert_eq!((sys::gs(), sys::peek_gs(0)), (SECOND, 5));
                }
                done.wait();
            });
        }
        assert_eq!(set_slot(1, low_page(5), DATA), 0);
        start.wait();
        // The table is made anew each time while they use it.
        for slot in 2..40 {
            assert_eq!(set_slot(slot, 0x1000, DATA), 0);
        }
        done.wait();
    });
}

fn fork_copies_segments() {
    assert_eq!(set_slot(0, low_page(7), DATA), 0);
    sys::set_gs(FIRST);
    aside(|| {
        assert_eq!((sys::gs(), sys::peek_gs(0)), (FIRST, 7));
        assert_eq!(set_slot(0, low_page(8), DATA), 0);
        sys::set_gs(FIRST);
        assert_eq!(sys::peek_gs(0), 8);
    });
    sys::set_gs(0);
    sys::set_gs(FIRST);
    assert_eq!(sys::peek_gs(0), 7, "the child's table is its own");
}

fn segments_of_two_processes_do_not_mix() {
    let children: Vec<Child> = (1..=3u64)
        .map(|nr| {
            child(|| {
                let slot = nr as u32;
                assert_eq!(set_slot(slot, low_page(nr), DATA), 0);
                let selector = (slot << 3 | 7) as u16;
                for _ in 0..100 {
                    sys::set_gs(selector);
                    sys!(SYS_sched_yield).unwrap();
                    assert_eq!((sys::gs(), sys::peek_gs(0)), (selector, nr));
                    sys::set_gs(0);
                    sys!(SYS_sched_yield).unwrap();
                    assert_eq!(sys::gs(), 0);
                }
            })
        })
        .collect();
    children.into_iter().for_each(|c| c.ok());
}

fn a_selector_that_leads_nowhere_is_a_fault() {
    for selector in [FIRST, SECOND, 0x10, 0x53, 0x57, 0xffff] {
        assert_eq!(fate(|| sys::set_gs(selector)), Status::Signal(SIGSEGV), "{selector:#x}");
    }
    let absent = || {
        assert_eq!(set_slot(0, 0x1000, DATA | 1 << 5), 0);
        sys::set_gs(FIRST);
    };
    assert_eq!(fate(absent), Status::Signal(SIGBUS), "not present");
}

fn a_segment_that_goes_away() {
    assert_eq!(set_slot(0, low_page(7), DATA), 0);
    sys::set_gs(FIRST);
    assert_eq!(modify_ldt(0x11, [0, 0, 0, EMPTY].as_mut_ptr(), 16), 0);
    for _ in 0..5 {
        nap(1);
    }
    assert_eq!(fate(|| sys::set_gs(FIRST)), Status::Signal(SIGSEGV));
}

fn arch_prctl_takes_the_selector() {
    const ARCH_SET_GS: u32 = 0x1001;
    let value = low_page(3);
    assert_eq!(set_slot(0, low_page(7), DATA), 0);
    sys::set_gs(FIRST);
    sys!(SYS_arch_prctl, ARCH_SET_GS, value).unwrap();
    assert_eq!((sys::gs(), sys::peek_gs(0)), (0, 3));
}

fn tracer_sees_and_sets_selectors() {
    let c = child(|| {
        assert_eq!(set_slot(0, low_page(7), DATA), 0);
        assert_eq!(set_slot(1, low_page(9), DATA), 0);
        sys::set_gs(FIRST);
        sys!(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0).unwrap();
        sys!(SYS_kill, getpid(), SIGSTOP).unwrap();
        assert_eq!((sys::gs(), sys::peek_gs(0)), (FIRST, 7));
        sys!(SYS_kill, getpid(), SIGSTOP).unwrap();
        assert_eq!(sys::gs(), SECOND);
        // The base is the tracer's choice.
        assert_eq!(sys::peek_gs(0), 7);
    });
    let (mut selector, mut base) = (0u64, 0u64);
    assert_eq!(c.wait_for(WUNTRACED), Some(Status::Stopped(SIGSTOP)));
    sys!(SYS_ptrace, PTRACE_PEEKUSER, c.0, GS, &mut selector).unwrap();
    sys!(SYS_ptrace, PTRACE_PEEKUSER, c.0, GS_BASE, &mut base).unwrap();
    assert_eq!(selector, FIRST.into());
    assert_ne!(base, 0);
    sys!(SYS_ptrace, PTRACE_CONT, c.0, 0, 0).unwrap();
    assert_eq!(c.wait_for(WUNTRACED), Some(Status::Stopped(SIGSTOP)));
    assert_eq!(sys!(SYS_ptrace, PTRACE_POKEUSER, c.0, GS, 0x10), Err(EIO));
    sys!(SYS_ptrace, PTRACE_POKEUSER, c.0, GS, SECOND).unwrap();
    sys!(SYS_ptrace, PTRACE_POKEUSER, c.0, GS_BASE, base).unwrap();
    sys!(SYS_ptrace, PTRACE_CONT, c.0, 0, 0).unwrap();
    assert_eq!(c.wait(), Status::Exit(0));
}
