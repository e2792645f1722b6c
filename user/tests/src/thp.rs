//! Transparent huge pages: what a program can see of them, and that it sees nothing else.

use crate::prelude::*;

tests!(
    "thp":
    a_write_gets_a_huge_page, parts_can_go, rights_of_parts, forks_share_and_part, huge_pages_move,
    small_pages_are_joined, who_does_not_want_them, random_edits_keep_contents, reads_share_zeroes,
    runs_of_pages_come_at_once, areas_share_no_huge_page, small_pages_are_joined_in_the_background,
    shared_memory_gets_huge_pages, parts_of_shared_huge_pages_go, shared_small_pages_are_joined,
    mounts_choose_huge_pages, writes_bring_huge_pages, shared_small_pages_are_joined_in_the_background,
);

const RW: i32 = PROT_READ | PROT_WRITE;
const HUGE: usize = 2 << 20;
const ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

fn setting() -> String {
    let text = slurp(ENABLED);
    text[text.find('[').unwrap() + 1..text.find(']').unwrap()].into()
}

fn set(name: &str) {
    let fd = open(&cstr(ENABLED), O_WRONLY).unwrap();
    assert_eq!(write(fd, name.as_bytes()), Ok(name.len()));
    close(fd);
}

/// Runs `test` with huge pages for memory that asks for them.
fn with_huge(test: impl FnOnce()) {
    let before = setting();
    set("madvise");
    assert_eq!(setting(), "madvise");
    test();
    set(&before);
}

/// `n` huge pages' worth of memory that wants them, aligned, with nothing else near; touched all over.
fn huge(n: usize) -> usize {
    let a = sys!(SYS_mmap, 0, (n + 2) * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0).unwrap();
    let at = (a + HUGE).next_multiple_of(HUGE);
    sys!(SYS_mprotect, at, n * HUGE, RW).unwrap();
    sys!(SYS_madvise, at, n * HUGE, MADV_HUGEPAGE).unwrap();
    (0..n * HUGE / PAGE).for_each(|i| poke(at + i * PAGE, i as u8 ^ 0x5a));
    at
}

#[track_caller]
fn check(at: usize, pages: std::ops::Range<usize>) {
    pages.for_each(|i| assert_eq!(peek(at + i * PAGE), i as u8 ^ 0x5a, "page {i}"));
}

/// A field of smaps for the mapping that begins at `addr`, in kB.
fn smaps_kb(addr: usize, field: &str) -> usize {
    let text = slurp("/proc/self/smaps");
    let from = text.find(&format!("{addr:x}-")).expect("the mapping");
    let line = text[from..].lines().find(|line| line.starts_with(field)).expect("the field");
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

fn a_write_gets_a_huge_page() {
    assert_eq!(write(open(&cstr(ENABLED), O_WRONLY).unwrap(), b"sometimes"), Err(EINVAL));
    with_huge(|| {
        let at = huge(2);
        if smaps_kb(at, "AnonHugePages") == 0 {
            skip("no huge page to be had");
        }
        check(at, 0..1024);
        assert_eq!((peek(at + 1), peek(at + 2 * HUGE - 1)), (0, 0));
        assert_eq!(smaps_kb(at, "Rss"), 4096);
        assert_eq!(smaps_kb(at, "Private_Dirty"), 4096);
        assert_eq!(smaps_kb(at, "THPeligible"), 1);
        // A small part of a huge page touched brings all of it.
        let b = huge(1);
        sys!(SYS_madvise, b, HUGE, MADV_DONTNEED).unwrap();
        assert_eq!(smaps_kb(b, "Rss"), 0);
        poke(b + 5 * PAGE, 1);
        assert_eq!(smaps_kb(b, "Rss"), 2048);
        assert_eq!((peek(b), peek(b + 5 * PAGE)), (0, 1));
    });
}

fn parts_can_go() {
    with_huge(|| {
        let at = huge(2);
        sys!(SYS_munmap, at + 10 * PAGE, 3 * PAGE).unwrap();
        check(at, 0..10);
        check(at, 13..1024);
        assert_eq!(fate(|| ignore(peek(at + 11 * PAGE))), Status::Signal(SIGSEGV));
        sys!(SYS_madvise, at + 600 * PAGE, 100 * PAGE, MADV_DONTNEED).unwrap();
        check(at, 13..600);
        check(at, 700..1024);
        assert!((600..700).all(|i| peek(at + i * PAGE) == 0));
        sys!(SYS_munmap, at, 2 * HUGE).unwrap();
    });
}

fn rights_of_parts() {
    with_huge(|| {
        let at = huge(3);
        sys!(SYS_mprotect, at, HUGE, PROT_READ).unwrap();
        assert_eq!(fate(|| poke(at, 1)), Status::Signal(SIGSEGV));
        sys!(SYS_mprotect, at, HUGE, PROT_NONE).unwrap();
        assert_eq!(fate(|| ignore(peek(at))), Status::Signal(SIGSEGV));
        sys!(SYS_mprotect, at, HUGE, RW).unwrap();
        check(at, 0..1536);
        sys!(SYS_mprotect, at + 700 * PAGE, PAGE, PROT_READ).unwrap();
        assert_eq!(fate(|| poke(at + 700 * PAGE, 1)), Status::Signal(SIGSEGV));
        poke(at + 701 * PAGE, 701_usize as u8 ^ 0x5a);
        check(at, 0..1536);
        let (r, w) = pipe();
        sys!(SYS_write, w, at + 1030 * PAGE, 1).unwrap();
        assert_eq!(read_vec(r, 1).unwrap(), [1030_usize as u8 ^ 0x5a]);
    });
}

fn forks_share_and_part() {
    with_huge(|| {
        let at = huge(2);
        aside(|| {
            check(at, 0..1024);
            poke(at + 3 * PAGE, 0);
            sys!(SYS_munmap, at + 512 * PAGE, 5 * PAGE).unwrap();
            assert_eq!(peek(at + 3 * PAGE), 0);
            check(at, 4..512);
            check(at, 517..1024);
        });
        check(at, 0..1024);
        let (r, w) = pipe();
        let late = child(|| {
            read_vec(r, 1).unwrap();
            check(at, 0..1024);
        });
        poke(at, 77);
        poke(at + 900 * PAGE, 78);
        write(w, b"x").unwrap();
        late.ok();
        assert_eq!((peek(at), peek(at + 900 * PAGE)), (77, 78));
        check(at, 1..900);
        // Grandchildren, and a parent that lets go first.
        aside(|| {
            let grandchild = child(|| check(at, 1..900));
            sys!(SYS_munmap, at, 2 * HUGE).unwrap();
            grandchild.ok();
        });
    });
}

fn huge_pages_move() {
    with_huge(|| {
        let (at, to, odd) = (huge(1), huge(2), huge(2));
        let fixed = MREMAP_MAYMOVE | MREMAP_FIXED;
        sys!(SYS_mremap, at, HUGE, HUGE, fixed, to + HUGE).unwrap();
        check(to + HUGE, 0..512);
        sys!(SYS_mremap, to + HUGE, HUGE, HUGE, fixed, odd + 3 * PAGE).unwrap();
        check(odd + 3 * PAGE, 0..512);
        check(odd, 0..3);
        check(to, 0..512);
    });
}

fn small_pages_are_joined() {
    const COLLAPSE: i32 = 25;
    with_huge(|| {
        let at = huge(2);
        // Nobody joins pages unasked.
        set("never");
        sys!(SYS_madvise, at, 2 * HUGE, MADV_NOHUGEPAGE).unwrap();
        sys!(SYS_madvise, at, 2 * HUGE, MADV_DONTNEED).unwrap();
        (0..300).for_each(|i| poke(at + i * PAGE, i as u8 ^ 0x5a));
        assert_eq!(sys!(SYS_madvise, at, HUGE, COLLAPSE), Err(EINVAL), "it wants none");
        sys!(SYS_madvise, at, 2 * HUGE, MADV_HUGEPAGE).unwrap();
        assert_eq!(smaps_kb(at, "AnonHugePages"), 0);
        let (r, w) = pipe();
        let late = child(|| {
            read_vec(r, 1).unwrap();
            check(at, 0..300);
        });
        assert_eq!(sys!(SYS_madvise, at, HUGE, COLLAPSE), Ok(0));
        assert_eq!((smaps_kb(at, "AnonHugePages"), smaps_kb(at, "Rss")), (2048, 2048));
        check(at, 0..300);
        assert!((300..512).all(|i| peek(at + i * PAGE) == 0));
        poke(at, 1);
        write(w, b"x").unwrap();
        late.ok();
        assert_eq!(sys!(SYS_madvise, at, HUGE, COLLAPSE), Ok(0), "it is one already");
        let file = map(HUGE, PROT_READ, MAP_PRIVATE, new_file("f")).unwrap();
        assert_eq!(sys!(SYS_madvise, file, HUGE, COLLAPSE), Err(EINVAL));
        // Much memory with little in it takes no time.
        let len = 64 << 30;
        let vast = map(len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1).unwrap();
        sys!(SYS_madvise, vast, len, MADV_NOHUGEPAGE).unwrap();
        poke(vast + len / 2, 1);
        sys!(SYS_madvise, vast, len, MADV_HUGEPAGE).unwrap();
        assert_eq!(sys!(SYS_madvise, vast, len, COLLAPSE), Err(EINVAL), "nothing is in most of it");
        assert_eq!(smaps_kb(vast, "AnonHugePages"), 2048);
    });
}

fn who_does_not_want_them() {
    with_huge(|| {
        let at = huge(1);
        sys!(SYS_madvise, at, HUGE, MADV_NOHUGEPAGE).unwrap();
        sys!(SYS_madvise, at, HUGE, MADV_DONTNEED).unwrap();
        poke(at, 1);
        assert_eq!(smaps_kb(at, "Rss"), 4);
        sys!(SYS_madvise, at, HUGE, MADV_DONTNEED).unwrap();
        sys!(SYS_madvise, at, HUGE, MADV_HUGEPAGE).unwrap();
        aside(|| {
            sys!(SYS_prctl, PR_SET_THP_DISABLE, 1, 0, 0, 0).unwrap();
            poke(at, 1);
            assert_eq!(smaps_kb(at, "Rss"), 4);
        });
        set("never");
        poke(at, 1);
        assert_eq!(smaps_kb(at, "Rss"), 4);
    });
}

fn random_edits_keep_contents() {
    allow_seconds(120);
    with_huge(|| {
        const PAGES: usize = 3 * 512;
        let at = huge(3);
        let mut model: Vec<u8> = (0..PAGES).map(|i| i as u8 ^ 0x5a).collect();
        let mut seed = 42_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % below
        };
        for round in 0..300 {
            let first = random(PAGES);
            let len = 1 + random(if round % 3 == 0 { PAGES } else { 40 }).min(PAGES - first - 1).min(PAGES);
            let (addr, bytes) = (at + first * PAGE, len * PAGE);
            match random(7) {
                0 => {
                    sys!(SYS_madvise, addr, bytes, MADV_DONTNEED).unwrap();
                    model[first..first + len].fill(0);
                }
                1 => {
                    sys!(SYS_mprotect, addr, bytes, PROT_READ).unwrap();
                    sys!(SYS_mprotect, addr, bytes, RW).unwrap();
                }
                2 => {
                    sys!(SYS_mmap, addr, bytes, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0).unwrap();
                    sys!(SYS_madvise, addr, bytes, MADV_HUGEPAGE).unwrap();
                    model[first..first + len].fill(0);
                }
                3 => aside(|| {
                    (first..first + len).for_each(|i| poke(at + i * PAGE, 0xee));
                    (0..first).for_each(|i| assert_eq!(peek(at + i * PAGE), model[i]));
                }),
                _ => (first..first + len).for_each(|i| {
                    poke(at + i * PAGE, round as u8 | 1);
                    model[i] = round as u8 | 1;
                }),
            }
            if round % 10 == 9 {
                (0..PAGES).for_each(|i| assert_eq!(peek(at + i * PAGE), model[i], "page {i}, round {round}"));
            }
        }
    });
}

const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";

/// Runs `test` with `value` in a file of the settings, or skips where there is none.
fn with_setting(name: &str, value: &str, test: impl FnOnce()) {
    let path = format!("{SETTINGS}/{name}");
    let Ok(fd) = open(&cstr(&*path), O_RDWR) else { skip("no such setting") };
    let text = slurp(&path);
    let before = text.split_once('[').map_or(text.trim(), |(_, rest)| rest.split(']').next().unwrap());
    assert_eq!(write(fd, value.as_bytes()), Ok(value.len()));
    test();
    assert_eq!(write(fd, before.as_bytes()), Ok(before.len()));
    close(fd);
}

fn reads_share_zeroes() {
    assert_eq!(slurp(&format!("{SETTINGS}/use_zero_page")), "1\n");
    with_huge(|| {
        let at = huge(2);
        sys!(SYS_madvise, at, 2 * HUGE, MADV_DONTNEED).unwrap();
        (0..2 * HUGE).step_by(PAGE * 100).for_each(|i| assert_eq!(peek(at + i), 0));
        assert_eq!((smaps_kb(at, "Rss"), smaps_kb(at, "AnonHugePages")), (0, 0));
        poke(at + 7 * PAGE, 1);
        let rss = smaps_kb(at, "Rss");
        assert!(rss == 2048 || rss == 4, "{rss} kB");
        assert_eq!((peek(at + 6 * PAGE), peek(at + 7 * PAGE), peek(at + HUGE)), (0, 1, 0));
        // A part of what is left of the zeroes.
        sys!(SYS_munmap, at + HUGE, PAGE).unwrap();
        aside(|| {
            poke(at + HUGE + PAGE, 2);
            poke(at + 8 * PAGE, 3);
        });
        assert_eq!((peek(at + HUGE + PAGE), peek(at + 8 * PAGE)), (0, 0));
        poke(at + HUGE + 2 * PAGE, 4);
        assert_eq!((peek(at + HUGE + PAGE), peek(at + HUGE + 2 * PAGE)), (0, 4));
    });
}

fn runs_of_pages_come_at_once() {
    const RUN: usize = 16 * PAGE;
    with_setting("hugepages-64kB/enabled", "madvise", || {
        // Too small for a huge page.
        let a = sys!(SYS_mmap, 0, 8 * RUN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0).unwrap();
        let at = (a + RUN).next_multiple_of(RUN);
        sys!(SYS_mprotect, at, 4 * RUN, RW).unwrap();
        sys!(SYS_madvise, at, 4 * RUN, MADV_HUGEPAGE).unwrap();
        poke(at + 5 * PAGE, 1);
        if smaps_kb(at, "Rss") == 4 {
            skip("no run to be had");
        }
        assert_eq!((smaps_kb(at, "Rss"), smaps_kb(at, "AnonHugePages")), (64, 0));
        assert_eq!((peek(at), peek(at + 5 * PAGE), peek(at + 15 * PAGE)), (0, 1, 0));
        // Where something is already, one page comes.
        sys!(SYS_madvise, at, RUN, MADV_DONTNEED).unwrap();
        ignore(peek(at + 3 * PAGE));
        poke(at + 4 * PAGE, 1);
        assert_eq!(smaps_kb(at, "Rss"), 4);
    });
    assert_eq!(write(open(&cstr(format!("{SETTINGS}/hugepages-64kB/enabled")), O_WRONLY).unwrap(), b"on"), Err(EINVAL));
}

fn areas_share_no_huge_page() {
    with_huge(|| {
        let at = huge(1);
        if smaps_kb(at, "AnonHugePages") == 0 {
            skip("no huge page to be had");
        }
        sys!(SYS_madvise, at, PAGE, MADV_NOHUGEPAGE).unwrap();
        assert_eq!((smaps_kb(at, "AnonHugePages"), smaps_kb(at + PAGE, "AnonHugePages")), (0, 0));
        check(at, 0..512);
    });
}

fn small_pages_are_joined_in_the_background() {
    allow_seconds(150);
    with_huge(|| {
        with_setting("khugepaged/scan_sleep_millisecs", "10", || {
            let at = huge(1);
            sys!(SYS_madvise, at, HUGE, MADV_NOHUGEPAGE).unwrap();
            check(at, 0..512);
            sys!(SYS_madvise, at, HUGE, MADV_HUGEPAGE).unwrap();
            let collapsed = || slurp(&format!("{SETTINGS}/khugepaged/pages_collapsed")).trim().parse::<u64>().unwrap();
            let before = collapsed();
            // A page of its own, so that there is something to join.
            sys!(SYS_madvise, at, PAGE, MADV_DONTNEED).unwrap();
            poke(at, 0x5a);
            for _ in 0..1000 {
                // The page is counted once it is there.
                if smaps_kb(at, "AnonHugePages") == 2048 && collapsed() > before {
                    check(at, 0..512);
                    return;
                }
                nap(100);
            }
            panic!("the pages stayed small, or were not counted");
        });
    });
}

/// A shared mapping of `n` huge pages' worth of `fd`, or of anonymous memory, aligned, with nothing else near.
fn huge_shared(n: usize, fd: i32) -> usize {
    let a = sys!(SYS_mmap, 0, (n + 2) * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0).unwrap();
    let at = (a + HUGE).next_multiple_of(HUGE);
    let kind = MAP_SHARED | MAP_FIXED | if fd < 0 { MAP_ANONYMOUS } else { 0 };
    sys!(SYS_mmap, at, n * HUGE, RW, kind, fd, 0).unwrap();
    at
}

fn fill(at: usize, pages: std::ops::Range<usize>) {
    pages.for_each(|i| poke(at + i * PAGE, i as u8 ^ 0x5a));
}

/// A new memory file of `n` huge pages' worth.
fn memory_file(n: usize) -> i32 {
    let fd = sys!(SYS_memfd_create, c"huge", 0).unwrap() as i32;
    assert_eq!(sys!(SYS_ftruncate, fd, n * HUGE), Ok(0));
    fd
}

const PARTS: usize = HUGE / PAGE;

fn shared_memory_gets_huge_pages() {
    // The background thread is to leave alone what is not there yet.
    with_setting("khugepaged/max_ptes_none", "0", || with_setting("shmem_enabled", "advise", shared_memory_at_once));
}

fn shared_memory_at_once() {
    for fd in [-1, memory_file(2)] {
        let at = huge_shared(2, fd);
        poke(at, 1);
        assert_eq!(smaps_kb(at, "ShmemPmdMapped"), 0, "it did not ask");
        sys!(SYS_madvise, at, 2 * HUGE, MADV_HUGEPAGE).unwrap();
        fill(at, PARTS..PARTS + 1);
        if smaps_kb(at, "Rss") == 8 {
            skip("no huge page to be had");
        }
        assert_eq!((smaps_kb(at, "ShmemPmdMapped"), smaps_kb(at, "AnonHugePages")), (2048, 0));
        assert_eq!(smaps_kb(at, "Rss"), 2052);
        fill(at, 0..2 * PARTS);
        // A child shares it, and so does a private mapping, until it writes.
        child(|| {
            check(at, 0..2 * PARTS);
            poke(at + PARTS * PAGE + 1, 9);
        })
        .ok();
        assert_eq!(peek(at + PARTS * PAGE + 1), 9);
        if fd >= 0 {
            let private = map(2 * HUGE, RW, MAP_PRIVATE, fd).unwrap();
            check(private, 0..2 * PARTS);
            poke(private + PARTS * PAGE, 1);
            assert_eq!(sys!(SYS_munmap, private, 2 * HUGE), Ok(0));
        }
        sys!(SYS_mprotect, at + HUGE, HUGE, PROT_READ).unwrap();
        check(at, 0..2 * PARTS);
        sys!(SYS_mprotect, at + HUGE, HUGE, RW).unwrap();
        fill(at, 0..2 * PARTS);
        check(at, 0..2 * PARTS);
        sys!(SYS_munmap, at, 2 * HUGE).unwrap();
    }
}

fn parts_of_shared_huge_pages_go() {
    with_setting("shmem_enabled", "advise", || {
        let fd = memory_file(2);
        let at = huge_shared(2, fd);
        sys!(SYS_madvise, at, 2 * HUGE, MADV_HUGEPAGE).unwrap();
        fill(at, 0..2 * PARTS);
        let blocks = || fstat(fd).st_blocks as usize * 512;
        assert_eq!(blocks(), 2 * HUGE);
        // A hole, by the mapping and by the file.
        sys!(SYS_madvise, at + 3 * PAGE, 2 * PAGE, MADV_REMOVE).unwrap();
        assert_eq!(smaps_kb(at, "ShmemPmdMapped") % 2048, 0);
        let hole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        assert_eq!(sys!(SYS_fallocate, fd, hole, 100 * PAGE, PAGE), Ok(0));
        // A kernel may keep a page that it could not split off, as zeroes.
        assert!(blocks() <= 2 * HUGE);
        assert_eq!((peek(at + 3 * PAGE), peek(at + 4 * PAGE), peek(at + 100 * PAGE)), (0, 0, 0));
        check(at, 0..3);
        check(at, 5..100);
        check(at, 101..2 * PARTS);
        // The rights of a part, a part unmapped, the file cut.
        sys!(SYS_mprotect, at + HUGE + 7 * PAGE, PAGE, PROT_READ).unwrap();
        sys!(SYS_munmap, at + HUGE + 9 * PAGE, PAGE).unwrap();
        check(at, PARTS..PARTS + 9);
        assert_eq!(pread(fd, 1, (HUGE + 9 * PAGE) as i64).unwrap(), [(PARTS + 9) as u8 ^ 0x5a]);
        assert_eq!(sys!(SYS_ftruncate, fd, HUGE + 20 * PAGE), Ok(0));
        assert!(blocks() <= HUGE + 20 * PAGE);
        check(at, PARTS + 10..PARTS + 20);
        assert_eq!(fate(|| ignore(peek(at + HUGE + 20 * PAGE))), Status::Signal(SIGBUS));
        sys!(SYS_munmap, at, 2 * HUGE).unwrap();
        close(fd);
    });
}

fn shared_small_pages_are_joined() {
    for fd in [-1, memory_file(2)] {
        let at = huge_shared(2, fd);
        assert_eq!(sys!(SYS_madvise, at, HUGE, MADV_COLLAPSE), Err(EINVAL), "nothing is there");
        fill(at, 0..100);
        fill(at, 200..2 * PARTS);
        assert_eq!(smaps_kb(at, "ShmemPmdMapped"), 0);
        match sys!(SYS_madvise, at, 2 * HUGE, MADV_COLLAPSE) {
            Err(ENOMEM) => skip("no huge page to be had"),
            result => assert_eq!(result, Ok(0)),
        }
        assert_eq!((smaps_kb(at, "ShmemPmdMapped"), smaps_kb(at, "Rss")), (4096, 4096));
        check(at, 0..100);
        check(at, 200..2 * PARTS);
        assert_eq!(peek(at + 150 * PAGE), 0);
        assert_eq!(sys!(SYS_madvise, at, 2 * HUGE, MADV_COLLAPSE), Ok(0), "again");
        child(|| {
            check(at, 200..2 * PARTS);
            poke(at + 150 * PAGE, 7);
        })
        .ok();
        assert_eq!(peek(at + 150 * PAGE), 7);
        sys!(SYS_munmap, at, 2 * HUGE).unwrap();
    }
}

fn mounts_choose_huge_pages() {
    let place = mkdir("huge");
    let options = c"huge=always,size=16m";
    sys!(SYS_mount, c"none", &place, c"tmpfs", 0, options).unwrap();
    let mounts = slurp("/proc/self/mounts");
    assert!(mounts.lines().any(|line| line.contains("/huge tmpfs ") && line.contains(",huge=always")), "{mounts}");
    let name = path("huge/file");
    let fd = open(&name, O_CREAT | O_RDWR).unwrap();
    assert_eq!(sys!(SYS_ftruncate, fd, HUGE), Ok(0));
    let at = huge_shared(1, fd);
    poke(at, 1);
    let got = smaps_kb(at, "ShmemPmdMapped");
    sys!(SYS_munmap, at, HUGE).unwrap();
    close(fd);
    sys!(SYS_umount2, &place, 0).unwrap();
    if got == 0 {
        skip("no huge page to be had");
    }
    assert_eq!(got, 2048);
}

/// How much of the first huge page's worth of `fd` one entry shows a new mapping of it, in kB.
fn shown_whole(fd: i32) -> usize {
    let at = huge_shared(1, fd);
    ignore(peek(at));
    let got = smaps_kb(at, "ShmemPmdMapped");
    sys!(SYS_munmap, at, HUGE).unwrap();
    got
}

fn writes_bring_huge_pages() {
    let place = mkdir("hugewrites");
    sys!(SYS_mount, c"none", &place, c"tmpfs", 0, c"huge=within_size,size=32m").unwrap();
    let file = |name: &str| open(&path(&format!("hugewrites/{name}")), O_CREAT | O_RDWR).unwrap();
    let blocks = |fd: i32| fstat(fd).st_blocks as usize * 512;
    let content: Vec<u8> = (0..2 * HUGE + 5).map(|i| (i / 7) as u8).collect();
    // What is written at once, as far as whole huge pages of it go.
    let whole = file("whole");
    assert_eq!(write(whole, &content), Ok(content.len()));
    let got = shown_whole(whole);
    let small = file("small");
    for part in content[..HUGE].chunks(HUGE / 2) {
        assert_eq!(write(small, part), Ok(part.len()));
    }
    let in_halves = blocks(small);
    assert!(pread(whole, content.len() + 1, 0).unwrap() == content);
    assert!(pread(small, HUGE, 0).unwrap() == content[..HUGE]);
    // A byte in the hole of a file that reaches as far.
    let hole = file("hole");
    assert_eq!(sys!(SYS_ftruncate, hole, 2 * HUGE), Ok(0));
    assert_eq!(sys!(SYS_pwrite64, hole, b"x", 1, HUGE + 3 * PAGE), Ok(1));
    let in_hole = (blocks(hole), pread(hole, 2, (HUGE + 3 * PAGE) as i64 - 1).unwrap());
    // What the file's end cuts off goes.
    assert_eq!(sys!(SYS_ftruncate, whole, HUGE + PAGE), Ok(0));
    let cut = blocks(whole);
    assert_eq!(sys!(SYS_ftruncate, whole, 2 * HUGE), Ok(0));
    assert!(pread(whole, 2 * PAGE, HUGE as i64).unwrap()[PAGE..].iter().all(|byte| *byte == 0));
    [whole, small, hole].into_iter().for_each(close);
    sys!(SYS_umount2, &place, 0).unwrap();
    if got == 0 {
        skip("no huge page to be had");
    }
    assert_eq!(got, 2048);
    assert_eq!(in_halves, HUGE, "written in halves");
    assert_eq!(in_hole, (HUGE, vec![0, b'x']));
    assert!(cut <= HUGE + PAGE, "{cut}");
}

fn shared_small_pages_are_joined_in_the_background() {
    allow_seconds(150);
    with_setting("shmem_enabled", "advise", || {
        with_setting("khugepaged/scan_sleep_millisecs", "10", || {
            let fd = memory_file(1);
            let at = huge_shared(1, fd);
            fill(at, 0..PARTS);
            assert_eq!(smaps_kb(at, "ShmemPmdMapped"), 0);
            sys!(SYS_madvise, at, HUGE, MADV_HUGEPAGE).unwrap();
            for _ in 0..1000 {
                check(at, 0..PARTS);
                if smaps_kb(at, "ShmemPmdMapped") == 2048 {
                    return;
                }
                nap(100);
            }
            panic!("the pages stayed small");
        });
    });
}
