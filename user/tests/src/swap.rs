//! Swap on the scratch disk /dev/vda, and advice that makes pages go. Skipped where there is no such disk.

use crate::prelude::*;

tests!(
    "swap":
    swapon_rules, pages_go_to_swap_and_come_back, forks_share_swapped_pages, swapoff_brings_pages_back,
    freed_pages_that_are_written_stay, cold_pages_stay,
);

const DISK: &str = "/dev/vda";
const PAGES: usize = 256;

/// Writes what mkswap(8) writes on the scratch disk, or skips the test.
fn make_swap() {
    let fd = match open(&cstr(DISK), O_RDWR) {
        Ok(fd) => fd,
        Err(ENOENT | ENXIO) => skip("no virtio disk"),
        Err(e) => panic!("{DISK}: {e:?}"),
    };
    let mut header = vec![0u8; PAGE];
    header[1024..1028].copy_from_slice(&1u32.to_le_bytes());
    let last = seek(fd, 0, SEEK_END).unwrap() / PAGE - 1;
    header[1028..1032].copy_from_slice(&(last as u32).to_le_bytes());
    header[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
    assert_eq!(pwrite(fd, &header, 0), Ok(PAGE));
    close(fd);
}

fn swapon(flags: u32) -> Result<usize, Errno> {
    sys!(SYS_swapon, &cstr(DISK), flags)
}

fn swapoff() -> Result<usize, Errno> {
    sys!(SYS_swapoff, &cstr(DISK))
}

/// Runs `test` with the disk as swap.
fn with_swap(test: impl FnOnce()) {
    make_swap();
    assert_eq!(swapon(0), Ok(0));
    test();
    assert_eq!(swapoff(), Ok(0));
}

/// Memory whose pages all differ.
fn filled() -> usize {
    let a = anon(PAGES * PAGE);
    (0..PAGES).for_each(|i| poke(a + i * PAGE, i as u8 ^ 0x5a));
    a
}

fn check(a: usize) {
    (0..PAGES).for_each(|i| assert_eq!(peek(a + i * PAGE), i as u8 ^ 0x5a, "page {i}"));
}

fn swapped_kb() -> usize {
    let text = proc_status(getpid(), "VmSwap");
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn page_out(a: usize) {
    assert_eq!(sys!(SYS_madvise, a, PAGES * PAGE, MADV_PAGEOUT), Ok(0));
}

fn swapon_rules() {
    make_swap();
    assert_eq!(swapon(0x10_0000), Err(EINVAL), "unknown flag");
    assert_eq!(sys!(SYS_swapon, &cstr("/nowhere"), 0), Err(ENOENT));
    assert_eq!(swapoff(), Err(EINVAL), "not in use");
    child(|| {
        drop_root();
        assert_eq!(swapon(0), Err(EPERM));
        assert_eq!(swapoff(), Err(EPERM));
    })
    .ok();
    assert_eq!(swapon(0x8000 | 7), Ok(0));
    assert_eq!(swapon(0), Err(EBUSY));
    let swaps = slurp("/proc/swaps");
    let line: Vec<&str> = swaps.lines().find(|l| l.starts_with(DISK)).unwrap().split_whitespace().collect();
    assert_eq!(line, [DISK, "partition", "16380", "0", "7"]);
    assert!(slurp("/proc/meminfo").lines().any(|l| l.starts_with("SwapTotal:") && l.ends_with(" 16380 kB")));
    assert_eq!(swapoff(), Ok(0));
    assert!(!slurp("/proc/swaps").contains(DISK));
    let fd = open(&cstr(DISK), O_RDWR).unwrap();
    assert_eq!(pwrite(fd, &[0; PAGE], 0), Ok(PAGE));
    close(fd);
    assert_eq!(swapon(0), Err(EINVAL), "no header");
}

fn pages_go_to_swap_and_come_back() {
    with_swap(|| {
        let a = filled();
        page_out(a);
        assert!(swapped_kb() >= PAGES * 2, "most pages went: {} kB", swapped_kb());
        let pagemap = open(&cstr("/proc/self/pagemap"), O_RDONLY).unwrap();
        let entries = pread(pagemap, PAGES * 8, (a / PAGE * 8) as i64).unwrap();
        let is_swapped = |e: &[u8]| u64::from_le_bytes(e.try_into().unwrap()) >> 62 & 1 == 1;
        assert!(entries.chunks(8).filter(|e| is_swapped(e)).count() >= PAGES / 2);
        check(a);
        assert_eq!(sys!(SYS_munmap, a, PAGES * PAGE), Ok(0));
        let b = filled();
        page_out(b);
        poke(b + PAGE, 1);
        assert_eq!(peek(b + PAGE), 1);
        assert_eq!(sys!(SYS_madvise, b, PAGE, MADV_DONTNEED), Ok(0));
        assert_eq!(peek(b), 0);
        let c = sys!(SYS_mremap, b, PAGES * PAGE, 2 * PAGES * PAGE, MREMAP_MAYMOVE).unwrap();
        assert_eq!(peek(c + 9 * PAGE), 9 ^ 0x5a);
        assert_eq!(sys!(SYS_munmap, c, 2 * PAGES * PAGE), Ok(0));
    });
}

fn forks_share_swapped_pages() {
    with_swap(|| {
        let a = filled();
        page_out(a);
        let first = child(|| {
            check(a);
            (0..PAGES).for_each(|i| poke(a + i * PAGE, 1));
        });
        let second = child(|| {
            poke(a, 9);
            assert_eq!(sys!(SYS_munmap, a + PAGE, PAGE), Ok(0));
        });
        first.ok();
        second.ok();
        check(a);
        page_out(a);
        check(a);
        assert_eq!(sys!(SYS_munmap, a, PAGES * PAGE), Ok(0));
    });
}

fn swapoff_brings_pages_back() {
    make_swap();
    assert_eq!(swapon(0), Ok(0));
    let a = filled();
    page_out(a);
    assert!(swapped_kb() > 0);
    assert_eq!(swapoff(), Ok(0));
    assert_eq!(swapped_kb(), 0);
    check(a);
}

fn freed_pages_that_are_written_stay() {
    let a = filled();
    assert_eq!(sys!(SYS_madvise, a, PAGES * PAGE, MADV_FREE), Ok(0));
    (0..PAGES).for_each(|i| poke(a + i * PAGE, i as u8 ^ 0x5a));
    page_out(a);
    check(a);
    assert_eq!(sys!(SYS_madvise, a, PAGES * PAGE, MADV_FREE), Ok(0));
    page_out(a);
    (0..PAGES).for_each(|i| assert!([0, i as u8 ^ 0x5a].contains(&peek(a + i * PAGE))));
}

fn cold_pages_stay() {
    let a = filled();
    assert_eq!(sys!(SYS_madvise, a, PAGES * PAGE, MADV_COLD), Ok(0));
    check(a);
}
