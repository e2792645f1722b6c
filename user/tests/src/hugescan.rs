//! What pagemap and its ioctl `PAGEMAP_SCAN` tell of huge pages of the pool. Skipped where memory is too short for them.

use crate::hugetlb::{HUGE, PRIVATE, Pool, RW};
use crate::prelude::*;
use crate::uffd::{WP, protect, register, uffd};

tests!(
    "hugescan":
    a_scan_tells_the_whole_page, a_scan_protects_whole_pages_only, frames_of_a_huge_page_follow_each_other,
);

const WP_ASYNC: u64 = 1 << 15;
const WRITTEN: u64 = 2;
const PRESENT: u64 = 8;
const IS_HUGE: u64 = 64;
const PROTECT: u64 = 1;
/// Bytes of a small page, and of a huge one.
const SMALL: u64 = PAGE as u64;
const WHOLE: u64 = HUGE as u64;

/// `PAGEMAP_SCAN` of `start..end`, which lie behind `base`: at most `max` pages that have all of `wanted`. What was found,
/// and where the walk ended, as distances from `base`.
fn scan(base: usize, range: [u64; 2], flags: u64, max: u64, wanted: u64) -> (Vec<[u64; 3]>, u64) {
    let fd = open(&cstr("/proc/self/pagemap"), O_RDONLY).unwrap();
    let mut found = [0_u64; 3 * 16];
    let (out, base) = (found.as_mut_ptr() as u64, base as u64);
    let told = WRITTEN | PRESENT | IS_HUGE;
    // The walk's end is the kernel's to set.
    let mut arg = [96, flags, base + range[0], base + range[1], 77, out, 16, max, 0, wanted, 0, told];
    let nr = sys!(SYS_ioctl, fd, 0xc060_6610_u64, &mut arg).unwrap();
    close(fd);
    let (found, arg) = std::hint::black_box((found, arg));
    let regions = found.chunks_exact(3).take(nr).map(|r| [r[0] - base, r[1] - base, r[2]]);
    (regions.collect(), arg[4] - base)
}

fn a_scan_tells_the_whole_page() {
    let _pool = Pool::of(3);
    let a = map(3 * HUGE, RW, PRIVATE, -1).unwrap();
    poke(a, 1);
    poke(a + 2 * HUGE + 5 * PAGE, 1);
    let state = WRITTEN | PRESENT | IS_HUGE;
    let (first, third) = ([0, WHOLE, state], [2 * WHOLE, 3 * WHOLE, state]);
    assert_eq!(scan(a, [0, 3 * WHOLE], 0, 0, PRESENT), (vec![first, third], 3 * WHOLE));
    let part = [SMALL, 3 * SMALL];
    assert_eq!(scan(a, part, 0, 0, PRESENT), (vec![[SMALL, 3 * SMALL, state]], 3 * SMALL));
    let cut = [0, 4 * SMALL, state];
    assert_eq!(scan(a, [0, WHOLE], 0, 4, PRESENT), (vec![cut], 4 * SMALL));
    assert_eq!(scan(a, [2 * WHOLE, 2 * WHOLE], 0, 0, PRESENT), (vec![], 2 * WHOLE));
    sys!(SYS_munmap, a, 3 * HUGE).unwrap();
}

fn a_scan_protects_whole_pages_only() {
    let _pool = Pool::of(2);
    let fd = uffd(WP_ASYNC);
    let a = map(2 * HUGE, RW, PRIVATE, -1).unwrap();
    register(fd, a, 2 * HUGE, WP).unwrap();
    // Also where no page is yet.
    protect(fd, a, 2 * HUGE, 1).unwrap();
    assert_eq!(scan(a, [0, 2 * WHOLE], 0, 0, WRITTEN), (vec![], 2 * WHOLE));
    poke(a + 7 * PAGE, 1);
    poke(a + HUGE, 1);
    let state = WRITTEN | PRESENT | IS_HUGE;
    let both = [0, 2 * WHOLE, state];
    assert_eq!(scan(a, [0, 2 * WHOLE], 0, 0, WRITTEN), (vec![both], 2 * WHOLE));
    // A part cannot be protected: it is not told, and the walk ends before it.
    assert_eq!(scan(a, [SMALL, 5 * SMALL], PROTECT, 0, WRITTEN), (vec![], SMALL));
    let first = [0, WHOLE, state];
    assert_eq!(scan(a, [0, 2 * WHOLE], PROTECT, 600, WRITTEN), (vec![first], WHOLE));
    let second = [WHOLE, 2 * WHOLE, state];
    assert_eq!(scan(a, [0, 2 * WHOLE], PROTECT, 0, WRITTEN), (vec![second], 2 * WHOLE));
    assert_eq!(scan(a, [0, 2 * WHOLE], 0, 0, WRITTEN), (vec![], 2 * WHOLE));
    poke(a + 9 * PAGE, 2);
    assert_eq!(scan(a, [0, 2 * WHOLE], 0, 0, WRITTEN), (vec![first], 2 * WHOLE));
    assert_eq!((peek(a + 7 * PAGE), peek(a + 9 * PAGE)), (1, 2));
    close(fd);
    sys!(SYS_munmap, a, 2 * HUGE).unwrap();
}

fn frames_of_a_huge_page_follow_each_other() {
    let _pool = Pool::of(1);
    let a = map(HUGE, RW, PRIVATE, -1).unwrap();
    poke(a, 1);
    let fd = open(&cstr("/proc/self/pagemap"), O_RDONLY).unwrap();
    let bytes = pread(fd, 8 * (HUGE / PAGE), (a / PAGE * 8) as i64).unwrap();
    close(fd);
    let frames: Vec<u64> =
        bytes.chunks_exact(8).map(|e| u64::from_le_bytes(e.try_into().unwrap()) & ((1 << 55) - 1)).collect();
    let first = frames[0];
    if first == 0 {
        skip("no sight of physical pages");
    }
    assert!(first.is_multiple_of((HUGE / PAGE) as u64));
    assert!(frames.iter().zip(first..).all(|(frame, wanted)| *frame == wanted));
    sys!(SYS_munmap, a, HUGE).unwrap();
}
