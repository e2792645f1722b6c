//! Pages that are taken out of use (`MADV_SOFT_OFFLINE`), that fail (`MADV_HWPOISON`), and that move together
//! (`vm.compact_memory`).

use crate::hugetlb::{HUGE, PRIVATE, Pool, RW};
use crate::prelude::*;

tests!(
    "offline":
    private_pages_move_and_stay_withdrawn, forks_share_the_page_that_moved, pages_of_files_move,
    who_may_and_what_cannot, a_huge_page_leaves_the_pool, it_can_be_turned_off, a_page_is_withdrawn_by_its_address,
    compaction_keeps_contents, compaction_in_the_background_is_bounded,
    forks_lose_a_page_together, who_may_have_pages_fail, a_page_fails_by_its_address,
);

const SOFT_OFFLINE: i32 = 101;
const ENABLE: &str = "/proc/sys/vm/enable_soft_offline";
const BY_ADDRESS: &str = "/sys/devices/system/memory/soft_offline_page";

fn soft_offline(at: usize, len: usize) -> Result<usize, Errno> {
    sys!(SYS_madvise, at, len, SOFT_OFFLINE)
}

/// Tests that need it turned on, or change that, one after the other.
struct Alone(i32);

fn alone() -> Alone {
    if sys!(SYS_access, &cstr(ENABLE), 0) == Err(ENOENT) {
        skip("pages cannot be taken out of use");
    }
    allow_seconds(120);
    let lock = sys!(SYS_open, &cstr("/tmp/offline.lock"), O_CREAT | O_RDWR | O_CLOEXEC, 0o666).unwrap();
    sys!(SYS_flock, lock, LOCK_EX).unwrap();
    Alone(lock as i32)
}

impl Drop for Alone {
    fn drop(&mut self) {
        put(ENABLE, "1");
        close(self.0);
    }
}

fn put(path: &str, value: &str) {
    assert_eq!(try_put(path, value), Ok(value.len()));
}

fn try_put(path: &str, value: &str) -> Result<usize, Errno> {
    let fd = open(&cstr(path), O_WRONLY)?;
    let result = write(fd, value.as_bytes());
    close(fd);
    result
}

/// The physical page at `addr`, 0 if it cannot be seen.
fn frame_of(addr: usize) -> u64 {
    let fd = open(&cstr("/proc/self/pagemap"), O_RDONLY).unwrap();
    let bytes = pread(fd, 8, (addr / PAGE * 8) as i64).unwrap();
    close(fd);
    u64::from_le_bytes(bytes.try_into().unwrap()) & ((1 << 55) - 1)
}

/// Whether `/proc/kpageflags` tells that frame `pfn` is not used any more.
fn is_withdrawn(pfn: u64) -> bool {
    let fd = open(&cstr("/proc/kpageflags"), O_RDONLY).unwrap();
    let bytes = pread(fd, 8, pfn as i64 * 8).unwrap();
    close(fd);
    u64::from_le_bytes(bytes.try_into().unwrap()) >> 19 & 1 != 0
}

fn corrupted_kb() -> usize {
    let info = slurp("/proc/meminfo");
    let line = info.lines().find(|line| line.starts_with("HardwareCorrupted:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

fn private_pages_move_and_stay_withdrawn() {
    let _alone = alone();
    let a = anon(3 * PAGE);
    (0..3).for_each(|i| poke(a + i * PAGE, 7 + i as u8));
    let (frame, kb) = (frame_of(a + PAGE), corrupted_kb());
    assert_eq!(soft_offline(a + PAGE, PAGE), Ok(0));
    assert_eq!(corrupted_kb(), kb + 4);
    assert_eq!((peek(a), peek(a + PAGE), peek(a + 2 * PAGE)), (7, 8, 9));
    if frame != 0 {
        assert_ne!(frame_of(a + PAGE), frame);
        assert!(is_withdrawn(frame) && !is_withdrawn(frame_of(a)));
    }
    poke(a + PAGE, 20);
    assert_eq!(peek(a + PAGE), 20);
    assert_eq!(soft_offline(a, 3 * PAGE), Ok(0));
    assert_eq!((peek(a), peek(a + PAGE), peek(a + 2 * PAGE)), (7, 20, 9));
}

fn forks_share_the_page_that_moved() {
    let _alone = alone();
    let a = anon(PAGE);
    poke(a, 3);
    aside(|| {
        assert_eq!(soft_offline(a, PAGE), Ok(0));
        assert_eq!(peek(a), 3);
        poke(a, 4);
        assert_eq!(peek(a), 4);
    });
    assert_eq!(peek(a), 3);
}

fn pages_of_files_move() {
    let _alone = alone();
    let file = sys!(SYS_memfd_create, &cstr("m"), 0).unwrap() as i32;
    sys!(SYS_ftruncate, file, 2 * PAGE).unwrap();
    let a = map(2 * PAGE, RW, MAP_SHARED, file).unwrap();
    poke(a + PAGE, 5);
    let frame = frame_of(a + PAGE);
    assert_eq!(soft_offline(a + PAGE, PAGE), Ok(0));
    assert_eq!(peek(a + PAGE), 5);
    if frame != 0 {
        assert_ne!(frame_of(a + PAGE), frame);
    }
    poke(a + PAGE, 6);
    assert_eq!(pread(file, 1, PAGE as i64), Ok(vec![6]));
    close(file);
}

fn who_may_and_what_cannot() {
    let _alone = alone();
    let a = anon(PAGE);
    poke(a, 1);
    assert_eq!(soft_offline(a + 1, PAGE), Err(EINVAL));
    assert_eq!(soft_offline(a, 0), Ok(0));
    sys!(SYS_munmap, a, PAGE).unwrap();
    assert_eq!(soft_offline(a, PAGE), Err(EFAULT));
    let none = map(PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1).unwrap();
    assert_eq!(soft_offline(none, PAGE), Err(EFAULT));
    let b = anon(PAGE);
    poke(b, 1);
    aside(|| {
        sys!(SYS_setresuid, 1000, 1000, 1000).unwrap();
        assert_eq!(soft_offline(b, PAGE), Err(EPERM));
    });
}

fn a_huge_page_leaves_the_pool() {
    let _alone = alone();
    let _pool = Pool::of(5);
    let nr = || slurp("/proc/sys/vm/nr_hugepages").trim().parse::<usize>().unwrap();
    let file = sys!(SYS_memfd_create, &cstr("h"), 4).unwrap() as i32;
    sys!(SYS_ftruncate, file, HUGE).unwrap();
    for (flags, fd) in [(PRIVATE, -1), (MAP_SHARED, file)] {
        let a = map(HUGE, RW, flags, fd).unwrap();
        poke(a, 1);
        poke(a + 300 * PAGE, 2);
        let before = nr();
        assert_eq!(soft_offline(a + 300 * PAGE, PAGE), Ok(0));
        assert_eq!(nr(), before - 1);
        assert_eq!((peek(a), peek(a + 300 * PAGE), peek(a + PAGE)), (1, 2, 0));
        poke(a + 300 * PAGE, 3);
        assert_eq!(peek(a + 300 * PAGE), 3);
        sys!(SYS_munmap, a, HUGE).unwrap();
    }
    close(file);
}

fn it_can_be_turned_off() {
    let _alone = alone();
    let a = anon(PAGE);
    poke(a, 1);
    put(ENABLE, "0");
    assert_eq!(soft_offline(a, PAGE), Err(EOPNOTSUPP));
    assert_eq!(try_put(ENABLE, "2"), Err(EINVAL));
    put(ENABLE, "1");
    assert_eq!(soft_offline(a, PAGE), Ok(0));
    assert_eq!(peek(a), 1);
}

fn a_page_is_withdrawn_by_its_address() {
    let _alone = alone();
    if sys!(SYS_access, &cstr(BY_ADDRESS), 0) == Err(ENOENT) {
        skip("no file for it");
    }
    let a = anon(PAGE);
    poke(a, 9);
    let frame = frame_of(a);
    if frame == 0 {
        skip("no sight of physical pages");
    }
    put(BY_ADDRESS, &format!("{:#x}\n", frame << 12));
    assert!(is_withdrawn(frame));
    assert_ne!(frame_of(a), frame);
    assert_eq!(peek(a), 9);
    assert_eq!(try_put(BY_ADDRESS, "page"), Err(EINVAL));
    assert_eq!(try_put(BY_ADDRESS, &format!("{:#x}", 1_u64 << 50)), Err(ENXIO));
}

fn compaction_in_the_background_is_bounded() {
    const PERCENT: &str = "/proc/sys/vm/compaction_proactiveness";
    let before = slurp(PERCENT);
    assert_eq!(before, "20\n");
    assert_eq!((try_put(PERCENT, "101"), try_put(PERCENT, "-1"), try_put(PERCENT, "x")), (Err(EINVAL), Err(EINVAL), Err(EINVAL)));
    for percent in ["0", "30", "1"] {
        put(PERCENT, percent);
        assert_eq!(slurp(PERCENT).trim(), percent);
    }
    put(PERCENT, before.trim());
}

fn compaction_keeps_contents() {
    const COMPACT: &str = "/proc/sys/vm/compact_memory";
    const PAGES: usize = 2048;
    allow_seconds(120);
    let a = anon(PAGES * PAGE);
    sys!(SYS_madvise, a, PAGES * PAGE, MADV_NOHUGEPAGE).unwrap();
    (0..PAGES).for_each(|i| poke(a + i * PAGE, (i % 251) as u8));
    let kept = (0..PAGES).filter(|i| i % 16 == 3);
    for i in (0..PAGES).filter(|i| i % 16 != 3) {
        sys!(SYS_madvise, a + i * PAGE, PAGE, MADV_DONTNEED).unwrap();
    }
    put(COMPACT, "1");
    assert!(kept.clone().all(|i| peek(a + i * PAGE) == (i % 251) as u8));
    kept.clone().for_each(|i| poke(a + i * PAGE, 1));
    assert!(kept.clone().all(|i| peek(a + i * PAGE) == 1));
    assert_eq!(try_put(COMPACT, "2"), Err(EINVAL));
    assert_eq!(slurp("/proc/sys/vm/compact_unevictable_allowed").trim(), "1");
    assert_eq!(slurp("/proc/sys/vm/extfrag_threshold").trim(), "500");
}

const HWPOISON: i32 = 100;
const FAILURES: &str = "/sys/devices/system/node/node0/memory_failure";
const FAIL_ADDRESS: &str = "/sys/devices/system/memory/hard_offline_page";

fn failures(what: &str) -> u64 {
    slurp(&format!("{FAILURES}/{what}")).trim().parse().unwrap()
}

/// Private memory of `nr` small pages, all of them written.
fn small_pages(nr: usize) -> usize {
    let a = anon(nr * PAGE);
    sys!(SYS_madvise, a, nr * PAGE, MADV_NOHUGEPAGE).unwrap();
    (0..nr).for_each(|i| poke(a + i * PAGE, i as u8 + 1));
    a
}

/// That the page at `lost`, the second of three, is not to be reached, until it is thrown away.
fn check_lost(a: usize) {
    let lost = a + PAGE;
    assert_eq!(fate(|| ignore(peek(lost + 7))), Status::Signal(SIGBUS));
    assert_eq!(fate(|| poke(lost, 1)), Status::Signal(SIGBUS));
    assert_eq!((peek(a), peek(a + 2 * PAGE)), (1, 3));
    let (r, w) = pipe();
    assert_eq!(sys!(SYS_write, w, lost, 5), Err(EFAULT));
    write(w, b"bytes").unwrap();
    assert_eq!(sys!(SYS_read, r, lost, 5), Err(EFAULT));
    assert_eq!(sys!(SYS_madvise, lost, PAGE, HWPOISON), Err(EFAULT), "again");
    assert_eq!(sys!(SYS_madvise, lost, PAGE, MADV_DONTNEED), Ok(0));
    assert_eq!(peek(lost), 0);
    poke(lost, 9);
    assert_eq!(peek(lost), 9);
}

fn forks_lose_a_page_together() {
    let _alone = alone();
    let a = small_pages(3);
    let frame = frame_of(a + PAGE);
    let before = (failures("total"), failures("recovered"), corrupted_kb());
    // Who has it fail is told as if it had looked.
    assert_eq!(fate(|| ignore(sys!(SYS_madvise, a + PAGE, PAGE, HWPOISON))), Status::Signal(SIGBUS));
    assert_eq!((failures("total"), failures("recovered")), (before.0 + 1, before.1 + 1));
    assert!(corrupted_kb() >= before.2 + 4);
    assert!(is_withdrawn(frame));
    // A child that comes later has lost it, too.
    child(|| assert_eq!(fate(|| ignore(peek(a + PAGE))), Status::Signal(SIGBUS))).ok();
    check_lost(a);
}

fn who_may_have_pages_fail() {
    let _alone = alone();
    let ignored = failures("ignored");
    let a = anon(2 * PAGE);
    assert_eq!(sys!(SYS_madvise, a + 1, PAGE, HWPOISON), Err(EINVAL));
    assert_eq!(sys!(SYS_madvise, a, 0, HWPOISON), Ok(0));
    assert_eq!(sys!(SYS_madvise, a, PAGE, HWPOISON), Err(EBUSY), "the page of zeroes");
    assert_eq!(failures("ignored"), ignored + 1);
    assert_eq!((peek(a), sys!(SYS_munmap, a, PAGE)), (0, Ok(0)));
    assert_eq!(sys!(SYS_madvise, a, PAGE, HWPOISON), Err(EFAULT));
    aside(|| {
        drop_root();
        assert_eq!(sys!(SYS_madvise, a + PAGE, PAGE, HWPOISON), Err(EPERM));
    });
}

fn a_page_fails_by_its_address() {
    let _alone = alone();
    let a = small_pages(3);
    let frame = frame_of(a + PAGE);
    let addr = format!("{:#x}", frame * PAGE as u64);
    put(FAIL_ADDRESS, &addr);
    assert!(is_withdrawn(frame));
    assert_eq!(try_put(FAIL_ADDRESS, &addr), Err(Errno::EHWPOISON));
    assert_eq!(try_put(FAIL_ADDRESS, "page"), Err(EINVAL));
    assert_eq!(try_put(FAIL_ADDRESS, &format!("{:#x}", 1_u64 << 50)), Err(EBUSY));
    check_lost(a);
}
