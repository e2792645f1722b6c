//! Swap on the scratch disk /dev/vda, and advice that makes pages go. Skipped where there is no such disk.

use crate::prelude::*;
use crate::uffd::{WP, protect, register, uffd};

tests!(
    "swap":
    swapon_rules, pages_go_to_swap_and_come_back, forks_share_swapped_pages, swapoff_brings_pages_back,
    freed_pages_that_are_written_stay, cold_pages_stay, shared_memory_goes_to_swap, files_in_memory_go_to_swap,
    segments_go_to_swap, swapoff_brings_shared_pages_back, watched_pages_keep_their_marks, secret_memory_stays,
    read_ahead_keeps_contents,
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
    fill(anon(PAGES * PAGE))
}

fn fill(a: usize) -> usize {
    (0..PAGES).for_each(|i| poke(a + i * PAGE, i as u8 ^ 0x5a));
    a
}

/// A line of the entry of /proc/self/smaps for the mapping that begins at `a`, in KiB.
fn smaps_kb(a: usize, key: &str) -> usize {
    let smaps = slurp("/proc/self/smaps");
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&format!("{a:x}-")));
    let line = lines.find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Pages out shared memory, which nobody else has mapped.
fn page_out_shared(a: usize) {
    page_out(a);
    let kb = smaps_kb(a, "Swap:");
    assert!(kb >= PAGES * 2, "most pages went: {kb} kB");
    assert_eq!(smaps_kb(a, "SwapPss:"), 0, "no entry of a page table names them");
}

fn pagemap_bits(a: usize, bit: u32) -> usize {
    let pagemap = open(&cstr("/proc/self/pagemap"), O_RDONLY).unwrap();
    let entries = pread(pagemap, PAGES * 8, (a / PAGE * 8) as i64).unwrap();
    close(pagemap);
    entries.chunks(8).filter(|e| u64::from_le_bytes((*e).try_into().unwrap()) >> bit & 1 == 1).count()
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

fn shared_memory_goes_to_swap() {
    with_swap(|| {
        let a = fill(shared(PAGES * PAGE));
        page_out_shared(a);
        assert_eq!(pagemap_bits(a, 62), 0, "the entries are gone, not changed");
        check(a);
        assert!(smaps_kb(a, "Swap:") < PAGES * 4, "they are back");
        page_out_shared(a);
        // What a child writes, its parent sees: it is the same memory.
        child(|| {
            check(a);
            poke(a + 7 * PAGE, 1);
        })
        .ok();
        assert_eq!((peek(a + 7 * PAGE), peek(a + 8 * PAGE)), (1, 8 ^ 0x5a));
        assert_eq!(sys!(SYS_munmap, a, PAGES * PAGE), Ok(0));
    });
}

fn files_in_memory_go_to_swap() {
    with_swap(|| {
        let fd = sys!(SYS_memfd_create, c"swapped", 0).unwrap() as i32;
        assert_eq!(sys!(SYS_ftruncate, fd, (PAGES + 8) * PAGE), Ok(0));
        let a = fill(map(PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd).unwrap());
        page_out_shared(a);
        assert_eq!(fstat(fd).st_blocks, (PAGES * PAGE / 512) as i64, "they count in full");
        assert_eq!(seek(fd, 0, SEEK_HOLE), Ok(PAGES * PAGE));
        assert_eq!(seek(fd, 9 * PAGE as i64, SEEK_DATA), Ok(9 * PAGE));
        for i in [0, 50, PAGES - 1] {
            assert_eq!(pread(fd, 2, (i * PAGE) as i64).unwrap(), [i as u8 ^ 0x5a, 0], "page {i}");
        }
        // A write to a part of a page keeps the rest of it.
        assert_eq!(pwrite(fd, b"xyz", (60 * PAGE + 1) as i64), Ok(3));
        assert_eq!(pread(fd, 5, (60 * PAGE) as i64).unwrap(), [60 ^ 0x5a, b'x', b'y', b'z', 0]);
        page_out(a);
        let hole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        assert_eq!(sys!(SYS_fallocate, fd, hole, 10 * PAGE, 10 * PAGE + 1), Ok(0));
        assert_eq!(sys!(SYS_ftruncate, fd, 200 * PAGE + 1), Ok(0));
        assert_eq!(fstat(fd).st_blocks, (191 * PAGE / 512) as i64);
        assert_eq!((peek(a + 9 * PAGE), peek(a + 10 * PAGE), peek(a + 20 * PAGE)), (9 ^ 0x5a, 0, 0));
        assert_eq!((peek(a + 21 * PAGE), peek(a + 200 * PAGE)), (21 ^ 0x5a, 200 ^ 0x5a));
        assert_eq!(sys!(SYS_ftruncate, fd, PAGES * PAGE), Ok(0));
        assert_eq!((peek(a + 201 * PAGE), peek(a + 255 * PAGE)), (0, 0));
        // A private mapping sees what is in swap, and copies it.
        page_out(a);
        let b = map(PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd).unwrap();
        poke(b + 30 * PAGE + 1, 1);
        assert_eq!((peek(b + 30 * PAGE), peek(a + 30 * PAGE + 1), peek(b + 31 * PAGE)), (30 ^ 0x5a, 0, 31 ^ 0x5a));
        assert_eq!(sys!(SYS_munmap, b, PAGES * PAGE), Ok(0));
        assert_eq!(sys!(SYS_munmap, a, PAGES * PAGE), Ok(0));
        close(fd);
    });
}

fn segments_go_to_swap() {
    with_swap(|| {
        let id = sys!(SYS_shmget, IPC_PRIVATE, PAGES * PAGE, 0o600).unwrap();
        let a = fill(sys!(SYS_shmat, id, 0, 0).unwrap());
        page_out_shared(a);
        let list = slurp("/proc/sysvipc/shm");
        let line = list.lines().find(|l| l.split_whitespace().nth(1) == Some(&id.to_string())).unwrap();
        let bytes: usize = line.split_whitespace().last().unwrap().parse().unwrap();
        assert!(bytes >= PAGES * PAGE / 2, "swap: {bytes}");
        assert_eq!(sys!(SYS_shmctl, id, SHM_LOCK, 0), Ok(0));
        check(a);
        page_out(a);
        assert_eq!(smaps_kb(a, "Swap:"), 0, "locked");
        assert_eq!(sys!(SYS_shmctl, id, SHM_UNLOCK, 0), Ok(0));
        check(a);
        assert_eq!(sys!(SYS_shmdt, a), Ok(0));
        assert_eq!(sys!(SYS_shmctl, id, IPC_RMID, 0), Ok(0));
    });
}

fn secret_memory_stays() {
    let fd = match sys!(SYS_memfd_secret, 0) {
        Ok(fd) => fd as i32,
        Err(ENOSYS) => skip("memfd_secret is switched off"),
        Err(e) => panic!("memfd_secret: {e:?}"),
    };
    assert_eq!(sys!(SYS_ftruncate, fd, PAGES * PAGE), Ok(0));
    let a = fill(map(PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd).unwrap());
    with_swap(|| {
        // Linux refuses it, as the memory is locked.
        ignore(sys!(SYS_madvise, a, PAGES * PAGE, MADV_PAGEOUT));
        assert_eq!(smaps_kb(a, "Swap:"), 0);
        check(a);
    });
    assert_eq!(sys!(SYS_munmap, a, PAGES * PAGE), Ok(0));
    close(fd);
}

fn swapoff_brings_shared_pages_back() {
    make_swap();
    assert_eq!(swapon(0), Ok(0));
    let a = fill(shared(PAGES * PAGE));
    page_out_shared(a);
    assert_eq!(swapoff(), Ok(0));
    assert_eq!(smaps_kb(a, "Swap:"), 0);
    check(a);
    assert_eq!(sys!(SYS_munmap, a, PAGES * PAGE), Ok(0));
}

/// Bits of /proc/PID/pagemap.
const PM_WATCHED: u32 = 57;
const PM_SWAPPED: u32 = 62;
const PM_PRESENT: u32 = 63;

fn watched_pages_keep_their_marks() {
    with_swap(|| {
        for a in [filled(), fill(shared(PAGES * PAGE))] {
            let fd = uffd(0);
            register(fd, a, PAGES * PAGE, WP).unwrap();
            protect(fd, a, PAGES * PAGE, 1).unwrap();
            page_out(a);
            assert_eq!(pagemap_bits(a, PM_WATCHED), PAGES);
            assert!(pagemap_bits(a, PM_SWAPPED) >= PAGES / 2, "a marker looks like a page in swap");
            check(a);
            assert_eq!(pagemap_bits(a, PM_WATCHED), PAGES, "back, and still watched");
            assert_eq!(pagemap_bits(a, PM_PRESENT), PAGES);
            page_out(a);
            // The protection of pages in swap goes, and comes.
            protect(fd, a, PAGES * PAGE, 0).unwrap();
            assert_eq!(pagemap_bits(a, PM_WATCHED), 0);
            protect(fd, a, PAGES * PAGE, 1).unwrap();
            assert_eq!(pagemap_bits(a, PM_WATCHED), PAGES);
            close(fd);
            assert_eq!(pagemap_bits(a, PM_WATCHED), 0, "nobody watches any more");
            check(a);
            fill(a);
            assert_eq!(sys!(SYS_munmap, a, PAGES * PAGE), Ok(0));
        }
    });
}

fn read_ahead_keeps_contents() {
    const CLUSTER: &str = "/proc/sys/vm/page-cluster";
    const BY_ADDRESS: &str = "/sys/kernel/mm/swap/vma_ra_enabled";
    let set = |path: &str, text: &str| {
        let fd = open(&cstr(path), O_WRONLY).unwrap();
        let done = write(fd, text.as_bytes());
        close(fd);
        done.map(drop)
    };
    let normal = [CLUSTER, BY_ADDRESS].map(|path| (path, slurp(path)));
    with_swap(|| {
        let kid = child(|| {
            for (cluster, by_address) in [("0", "1"), ("3", "1"), ("5", "off"), ("31", "true")] {
                set(CLUSTER, cluster).unwrap();
                set(BY_ADDRESS, by_address).unwrap();
                let (a, b) = (filled(), fill(shared(PAGES * PAGE)));
                page_out(a);
                page_out(b);
                // Here and there, then from last to first.
                (0..PAGES).step_by(19).for_each(|i| assert_eq!(peek(a + i * PAGE), i as u8 ^ 0x5a, "page {i}"));
                (0..PAGES).rev().for_each(|i| assert_eq!(peek(b + i * PAGE), i as u8 ^ 0x5a, "page {i}"));
                (0..PAGES).step_by(3).for_each(|i| poke(a + i * PAGE, 7));
                page_out(a);
                let wanted = |i: usize| if i.is_multiple_of(3) { 7 } else { i as u8 ^ 0x5a };
                (0..PAGES).for_each(|i| assert_eq!(peek(a + i * PAGE), wanted(i), "page {i}"));
                sys!(SYS_munmap, a, PAGES * PAGE).unwrap();
                sys!(SYS_munmap, b, PAGES * PAGE).unwrap();
            }
            assert_eq!(set(CLUSTER, "32"), Err(EINVAL));
            assert_eq!(set(BY_ADDRESS, "perhaps"), Err(EINVAL));
            assert_eq!(slurp(BY_ADDRESS), "true\n");
        });
        let ended = kid.wait();
        normal.iter().for_each(|(path, text)| set(path, text).unwrap());
        assert_eq!(ended, Status::Exit(0));
    });
}
