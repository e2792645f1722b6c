//! Huge pages of the pool: hugetlbfs, `MAP_HUGETLB`, `SHM_HUGETLB`, `MFD_HUGETLB`. The pool is the machine's, so each test
//! locks a file, sets the size that it needs, and makes the pool empty again. Skipped where memory is too short for it.

use crate::prelude::*;

tests!(
    "hugetlb":
    the_pool_has_a_size, mappings_are_promised_their_pages, nobody_elses_pages_end_in_sigbus,
    edits_begin_and_end_at_huge_pages, private_pages_are_copied, the_owner_takes_the_page_from_its_child,
    shared_pages_are_one, advice, promises_come_back, places_and_moves, surplus_pages_come_and_go,
    files_have_huge_pages, mounts_have_shares, files_in_memory, sealed_files, shared_memory_segments,
    who_may_have_segments, what_proc_tells, rights_of_pages, calls_read_and_write_them, random_edits_keep_contents,
);

pub const RW: i32 = PROT_READ | PROT_WRITE;
pub const HUGE: usize = 2 << 20;
pub const PRIVATE: i32 = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
const SHARED: i32 = MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB;
const SYSFS: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
const OVERCOMMIT: &str = "/proc/sys/vm/nr_overcommit_hugepages";
const NR: &str = "/proc/sys/vm/nr_hugepages";

fn set(path: &str, value: &str) {
    let fd = open(&cstr(path), O_WRONLY).unwrap();
    assert_eq!(write(fd, value.as_bytes()), Ok(value.len()));
    close(fd);
}

fn number(path: &str) -> usize {
    slurp(path).trim().parse().unwrap()
}

/// A number of the pool.
fn pool(name: &str) -> usize {
    number(&format!("{SYSFS}/{name}_hugepages"))
}

/// The pool, ours alone, for as long as this lives.
pub struct Pool(i32);

impl Pool {
    pub fn of(nr: usize) -> Pool {
        allow_seconds(240);
        if sys!(SYS_access, &cstr(SYSFS), 0) == Err(ENOENT) {
            skip("no huge pages of 2 MiB");
        }
        let lock = sys!(SYS_open, &cstr("/tmp/hugetlb.lock"), O_CREAT | O_RDWR | O_CLOEXEC, 0o666).unwrap();
        sys!(SYS_flock, lock, LOCK_EX).unwrap();
        set(NR, &nr.to_string());
        let pool = Pool(lock as i32);
        if number(NR) < nr {
            drop(pool);
            skip("no memory for so many huge pages");
        }
        pool
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        set(OVERCOMMIT, "0");
        set(NR, "0");
        close(self.0);
    }
}

/// Waits until so many pages are free and promised: a file or mount may end a moment after the call.
#[track_caller]
fn wait_for_pool(free: usize, resv: usize) {
    let until = now_ms() + 60_000;
    while (pool("free"), pool("resv")) != (free, resv) {
        assert!(now_ms() < until, "{} free, {} promised", pool("free"), pool("resv"));
        nap(10);
    }
}

fn huge(nr: usize, flags: i32) -> Result<usize, Errno> {
    map(nr * HUGE, RW, flags, -1)
}

fn unmap(at: usize, len: usize) -> Result<usize, Errno> {
    sys!(SYS_munmap, at, len)
}

fn the_pool_has_a_size() {
    let _pool = Pool::of(3);
    assert_eq!((pool("nr"), pool("free"), pool("resv"), pool("surplus")), (3, 3, 0, 0));
    let info = slurp("/proc/meminfo");
    let field = |name: &str| {
        let line = info.lines().find(|l| l.starts_with(name)).expect("the field");
        line.split_ascii_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    assert_eq!((field("HugePages_Total:"), field("HugePages_Free:"), field("Hugepagesize:")), (3, 3, 2048));
    assert_eq!((field("HugePages_Rsvd:"), field("HugePages_Surp:")), (0, 0));
    assert_eq!(field("Hugetlb:"), 6144);
    assert_eq!(number("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"), 3);
    set(&format!("{SYSFS}/nr_hugepages"), "1\n");
    assert_eq!((number(NR), pool("free")), (1, 1));
    set("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "2");
    assert_eq!(number("/proc/sys/vm/nr_hugepages_mempolicy"), 2);
    let fd = open(&cstr(NR), O_WRONLY).unwrap();
    assert_eq!(write(fd, b"many"), Err(EINVAL));
}

fn mappings_are_promised_their_pages() {
    let _pool = Pool::of(4);
    for flags in [PRIVATE, SHARED] {
        let a = huge(3, flags).unwrap();
        assert!(a.is_multiple_of(HUGE));
        assert_eq!((pool("free"), pool("resv")), (4, 3));
        assert_eq!(huge(2, flags), Err(ENOMEM), "one is left");
        let b = huge(1, flags).unwrap();
        assert_eq!(huge(1, flags), Err(ENOMEM));
        poke(a + HUGE + 17, 1);
        assert_eq!((peek(a + HUGE + 17), peek(a + 2 * HUGE - 1)), (1, 0));
        assert_eq!((pool("free"), pool("resv")), (3, 3));
        assert_eq!(peek(b), 0, "a read makes a page, too");
        assert_eq!((pool("free"), pool("resv")), (2, 2));
        unmap(a, 3 * HUGE).unwrap();
        assert_eq!((pool("free"), pool("resv")), (3, 0));
        unmap(b, HUGE).unwrap();
        assert_eq!((pool("free"), pool("resv")), (4, 0));
    }
    let a = map(HUGE + 1, RW, PRIVATE | MAP_POPULATE, -1).unwrap();
    assert_eq!((pool("free"), pool("resv")), (2, 0));
    assert_eq!(unmap(a, HUGE + 1), Err(EINVAL), "only mmap rounds");
    unmap(a, 2 * HUGE).unwrap();
    assert_eq!(pool("free"), 4);
    assert_eq!(map(0, RW, PRIVATE, -1), Err(EINVAL));
    assert_eq!(map(HUGE, RW, PRIVATE | 13 << 26, -1), Err(EINVAL), "no such size");
    let b = map(HUGE, RW, PRIVATE | 21 << 26, -1).unwrap();
    unmap(b, HUGE).unwrap();
    set(NR, "0");
    assert_eq!(huge(1, PRIVATE), Err(ENOMEM));
    let fd = new_file("f");
    assert_eq!(map(PAGE, PROT_READ, MAP_SHARED | MAP_HUGETLB, fd), Err(EINVAL), "not such a file");
}

fn nobody_elses_pages_end_in_sigbus() {
    let _pool = Pool::of(2);
    let a = huge(1, PRIVATE).unwrap();
    let b = huge(2, PRIVATE | MAP_NORESERVE).unwrap();
    assert_eq!((pool("free"), pool("resv")), (2, 1));
    poke(b, 1);
    assert_eq!(fate(|| poke(b + HUGE, 1)), Status::Signal(SIGBUS), "the last one is promised");
    let (read_end, write_end) = pipe();
    write(write_end, b"x").unwrap();
    assert_eq!(sys!(SYS_read, read_end, b + HUGE, 1), Err(EFAULT));
    poke(a, 1);
    assert_eq!(pool("free"), 0);
    unmap(a, HUGE).unwrap();
    poke(b + HUGE, 1);
    assert_eq!(pool("free"), 0);
    unmap(b, 2 * HUGE).unwrap();
    assert_eq!((pool("free"), pool("resv")), (2, 0));
}

fn edits_begin_and_end_at_huge_pages() {
    let _pool = Pool::of(4);
    let a = huge(4, PRIVATE).unwrap();
    poke(a, 1);
    assert_eq!(unmap(a, PAGE), Err(EINVAL));
    assert_eq!(unmap(a + PAGE, 4 * HUGE - PAGE), Err(EINVAL));
    assert_eq!(sys!(SYS_mprotect, a, PAGE, PROT_READ), Err(EINVAL));
    assert_eq!(sys!(SYS_mprotect, a + PAGE, 4 * HUGE - PAGE, PROT_READ), Err(EINVAL));
    assert_eq!(sys!(SYS_madvise, a, PAGE, MADV_DONTFORK), Err(EINVAL));
    let fixed = |at: usize| sys!(SYS_mmap, at, HUGE, RW, PRIVATE | MAP_FIXED, -1, 0);
    assert_eq!(fixed(a + PAGE), Err(EINVAL));
    let small = |at: usize| sys!(SYS_mmap, at, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    assert_eq!(small(a), Err(EINVAL), "part of a huge page would go");
    assert_eq!(peek(a), 1);
    unmap(a + HUGE, HUGE).unwrap();
    assert_eq!((pool("free"), pool("resv")), (3, 2), "its promise is taken back");
    sys!(SYS_mprotect, a + 2 * HUGE, HUGE, PROT_NONE).unwrap();
    assert_eq!(fate(|| ignore(peek(a + 2 * HUGE))), Status::Signal(SIGSEGV));
    unmap(a, 4 * HUGE).unwrap();
    assert_eq!((pool("free"), pool("resv")), (4, 0));
    // Each is a mapping of its own, whatever lies beside it.
    let b = huge(2, PRIVATE).unwrap();
    sys!(SYS_mlock, b, 2 * HUGE).unwrap();
    assert_eq!(pool("free"), 2, "all in memory");
    assert!(!vm_flags(b).contains(&"lo".into()), "and there anyway");
    unmap(b, 2 * HUGE).unwrap();
}

fn private_pages_are_copied() {
    let _pool = Pool::of(4);
    let a = huge(2, PRIVATE).unwrap();
    (0..512).for_each(|i| poke(a + i * PAGE, i as u8));
    let kid = child(|| {
        assert_eq!(peek(a + 5 * PAGE), 5);
        assert_eq!(peek(a + HUGE), 0, "no promise, but a page is free");
        poke(a + 5 * PAGE, 77);
        assert_eq!((peek(a + 5 * PAGE), peek(a + 6 * PAGE)), (77, 6));
    });
    kid.ok();
    (0..512).for_each(|i| assert_eq!(peek(a + i * PAGE), i as u8));
    assert_eq!((pool("free"), pool("resv")), (3, 1));
    poke(a, 9);
    assert_eq!(pool("free"), 3, "nobody shares it any more");
    unmap(a, 2 * HUGE).unwrap();
    assert_eq!((pool("free"), pool("resv")), (4, 0));
}

fn the_owner_takes_the_page_from_its_child() {
    let _pool = Pool::of(1);
    let a = huge(1, PRIVATE).unwrap();
    poke(a, 5);
    let (read_end, write_end) = pipe();
    let kid = child(|| {
        assert_eq!(peek(a), 5);
        let mut byte = [0];
        assert_eq!(sys!(SYS_read, read_end, byte.as_mut_ptr() as usize, 1), Ok(1));
        ignore(peek(a));
    });
    nap(50);
    poke(a, 6);
    assert_eq!(peek(a), 6);
    write(write_end, b"x").unwrap();
    assert_eq!(kid.wait(), Status::Signal(SIGBUS), "its page is gone");
    // The other way round nothing is taken.
    assert_eq!(fate(|| poke(a, 7)), Status::Signal(SIGBUS));
    assert_eq!(peek(a), 6);
    unmap(a, HUGE).unwrap();
    assert_eq!(pool("free"), 1);
}

fn shared_pages_are_one() {
    let _pool = Pool::of(2);
    let a = huge(2, SHARED).unwrap();
    poke(a, 1);
    child(|| {
        assert_eq!(peek(a), 1);
        poke(a, 2);
        poke(a + HUGE, 3);
        sys!(SYS_munmap, a, 2 * HUGE).unwrap();
    })
    .ok();
    assert_eq!((peek(a), peek(a + HUGE)), (2, 3));
    assert_eq!((pool("free"), pool("resv")), (0, 0));
    sys!(SYS_madvise, a, 2 * HUGE, MADV_DONTNEED).unwrap();
    assert_eq!((peek(a), peek(a + HUGE)), (2, 3), "the object keeps them");
    sys!(SYS_madvise, a, HUGE, MADV_REMOVE).unwrap();
    assert_eq!(pool("free"), 1);
    assert_eq!((peek(a), peek(a + HUGE)), (0, 3));
    unmap(a, 2 * HUGE).unwrap();
    assert_eq!(pool("free"), 2);
}

fn advice() {
    let _pool = Pool::of(3);
    let a = huge(3, PRIVATE).unwrap();
    (0..3).for_each(|i| poke(a + i * HUGE, 1 + i as u8));
    for advice in [MADV_FREE, MADV_COLD, MADV_PAGEOUT, MADV_WIPEONFORK, MADV_REMOVE, 102] {
        let errno = if advice == MADV_REMOVE { EACCES } else { EINVAL };
        assert_eq!(sys!(SYS_madvise, a, HUGE, advice), Err(errno), "{advice}");
    }
    for advice in [MADV_WILLNEED, MADV_RANDOM, MADV_NORMAL, MADV_DONTDUMP, MADV_DODUMP, 22, 23] {
        assert_eq!(sys!(SYS_madvise, a, 3 * HUGE, advice), Ok(0), "{advice}");
    }
    assert_eq!(sys!(SYS_madvise, a + PAGE, HUGE, MADV_DONTNEED), Err(EINVAL));
    assert_eq!(sys!(SYS_madvise, a, HUGE - PAGE, MADV_DONTNEED), Ok(0), "less than a page: nothing");
    assert_eq!(peek(a), 1);
    assert_eq!(sys!(SYS_madvise, a, 2 * HUGE - PAGE, MADV_DONTNEED), Ok(0));
    assert_eq!((peek(a), peek(a + HUGE), peek(a + 2 * HUGE)), (0, 2, 3));
    sys!(SYS_madvise, a, HUGE, MADV_DONTFORK).unwrap();
    child(|| {
        assert_eq!(peek(a + 2 * HUGE), 3);
        assert_eq!(fate(|| ignore(peek(a))), Status::Signal(SIGSEGV));
    })
    .ok();
    unmap(a, 3 * HUGE).unwrap();
}

fn promises_come_back() {
    let _pool = Pool::of(2);
    let a = huge(2, PRIVATE).unwrap();
    (0..10).for_each(|i| {
        poke(a, i);
        poke(a + HUGE, i);
        assert_eq!((pool("free"), pool("resv")), (0, 0));
        sys!(SYS_madvise, a, 2 * HUGE, MADV_DONTNEED).unwrap();
        assert_eq!((pool("free"), pool("resv")), (2, 2), "still ours");
        assert_eq!(huge(1, PRIVATE), Err(ENOMEM));
    });
    unmap(a, HUGE).unwrap();
    assert_eq!((pool("free"), pool("resv")), (2, 1));
    // A child that ends takes nothing with it.
    poke(a + HUGE, 1);
    child(|| assert_eq!(peek(a + HUGE), 1)).ok();
    assert_eq!((pool("free"), pool("resv")), (1, 0));
    unmap(a + HUGE, HUGE).unwrap();
    // One that is killed gives all back.
    let kid = child(|| {
        let b = huge(2, PRIVATE).unwrap();
        poke(b, 1);
        sys!(SYS_kill, getpid(), SIGKILL).unwrap();
    });
    kid.wait();
    assert_eq!((pool("free"), pool("resv")), (2, 0));
}

fn places_and_moves() {
    let _pool = Pool::of(4);
    let a = huge(2, PRIVATE).unwrap();
    poke(a, 1);
    poke(a + HUGE, 2);
    let remap = |at: usize, old: usize, new: usize, flags: i32, to: usize| {
        sys!(SYS_mremap, at, old, new, flags, to)
    };
    assert_eq!(remap(a, 2 * HUGE, 3 * HUGE, MREMAP_MAYMOVE, 0), Err(EINVAL), "they do not grow");
    assert_eq!(remap(a + PAGE, HUGE, HUGE, MREMAP_MAYMOVE, 0), Err(EINVAL));
    assert_eq!(remap(a, 2 * HUGE, 2 * HUGE, MREMAP_MAYMOVE | 4, 0), Err(EINVAL), "DONTUNMAP");
    let hole = anon(8 * HUGE).next_multiple_of(HUGE);
    let both = MREMAP_MAYMOVE | MREMAP_FIXED;
    assert_eq!(remap(a, 2 * HUGE, 2 * HUGE, both, hole + PAGE), Err(EINVAL));
    assert_eq!(remap(a, 2 * HUGE, 2 * HUGE, both, hole), Ok(hole));
    assert_eq!((peek(hole), peek(hole + HUGE)), (1, 2));
    assert_eq!((pool("free"), pool("resv")), (2, 0));
    // A promise moves along.
    let b = huge(2, PRIVATE).unwrap();
    assert_eq!(remap(b, 2 * HUGE, 2 * HUGE, both, hole + 2 * HUGE), Ok(hole + 2 * HUGE));
    assert_eq!((pool("free"), pool("resv")), (2, 2));
    poke(hole + 2 * HUGE, 1);
    assert_eq!((pool("free"), pool("resv")), (1, 1));
    assert_eq!(remap(hole + 2 * HUGE, 2 * HUGE, PAGE, 0, 0), Ok(hole + 2 * HUGE), "shrinks to a whole page");
    assert_eq!((pool("free"), pool("resv")), (1, 0));
    unmap(hole, 4 * HUGE).unwrap();
    assert_eq!((pool("free"), pool("resv")), (4, 0));
    // A hint that is not aligned is rounded.
    let c = sys!(SYS_mmap, hole + PAGE, HUGE, RW, PRIVATE, -1, 0).unwrap();
    assert_eq!(c, hole + HUGE);
    unmap(c, HUGE).unwrap();
}

fn surplus_pages_come_and_go() {
    let _pool = Pool::of(1);
    set(OVERCOMMIT, "2");
    let a = match huge(3, PRIVATE) {
        Ok(a) => a,
        Err(_) => skip("no memory for more"),
    };
    assert_eq!((pool("nr"), pool("surplus"), pool("resv"), number(NR)), (3, 2, 3, 1));
    assert_eq!(huge(1, PRIVATE), Err(ENOMEM));
    (0..3).for_each(|i| poke(a + i * HUGE, 1));
    unmap(a, HUGE).unwrap();
    assert_eq!((pool("nr"), pool("surplus")), (2, 1));
    // Pages in use stay when the pool shrinks, as surplus.
    set(NR, "0");
    assert_eq!((pool("nr"), pool("surplus"), number(NR)), (2, 2, 0));
    unmap(a + HUGE, 2 * HUGE).unwrap();
    assert_eq!((pool("nr"), pool("surplus"), pool("free")), (0, 0, 0));
    let b = huge(1, SHARED | MAP_NORESERVE).unwrap();
    poke(b, 1);
    assert_eq!((pool("nr"), pool("surplus")), (1, 1));
    unmap(b, HUGE).unwrap();
    assert_eq!(pool("nr"), 0);
}

/// A mount of hugetlbfs with `options`, in a mount namespace of our own.
fn mount_huge(options: &str) -> String {
    sys!(SYS_unshare, CLONE_NEWNS).unwrap();
    let dir = mkdir("huge");
    let none = cstr("none");
    sys!(SYS_mount, &none, &cstr("/"), 0, MS_REC | MS_PRIVATE, 0).unwrap();
    sys!(SYS_mount, &none, &dir, &cstr("hugetlbfs"), 0, &cstr(options)).unwrap();
    dir.to_str().unwrap().into()
}

fn create(dir: &str, name: &str) -> i32 {
    sys!(SYS_open, &cstr(format!("{dir}/{name}")), O_CREAT | O_RDWR, 0o600).unwrap() as i32
}

const PUNCH: i32 = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

fn files_have_huge_pages() {
    let _pool = Pool::of(4);
    let dir = mount_huge("uid=7,gid=8,mode=0711");
    let top = stat_path(&cstr(dir.clone())).unwrap();
    assert_eq!((top.st_uid, top.st_gid, top.st_mode & 0o7777), (7, 8, 0o711));
    let fd = create(&dir, "f");
    assert_eq!(fstat(fd).st_blksize as usize, HUGE);
    assert_eq!(write(fd, b"x"), Err(EINVAL), "there is no write");
    assert_eq!(sys!(SYS_ftruncate, fd, PAGE), Err(EINVAL));
    assert_eq!(sys!(SYS_ftruncate, fd, HUGE), Ok(0));
    let a = map(2 * HUGE, RW, MAP_SHARED, fd).unwrap();
    assert_eq!(fstat(fd).st_size as usize, 2 * HUGE, "a mapping makes it reach");
    assert_eq!(pool("resv"), 2);
    poke(a + HUGE + 3, 9);
    assert_eq!(pread(fd, 2, (HUGE + 3) as i64), Ok(vec![9, 0]));
    assert_eq!(pread(fd, 1, 5), Ok(vec![0]), "a hole");
    assert_eq!(fstat(fd).st_blocks as usize, HUGE / 512);
    assert_eq!(sys!(SYS_mmap, 0, HUGE, RW, MAP_SHARED, fd, PAGE), Err(EINVAL));
    let own = map(2 * HUGE, RW, MAP_PRIVATE, fd).unwrap();
    assert_eq!(peek(own + HUGE + 3), 9);
    poke(own + HUGE + 3, 1);
    assert_eq!((peek(a + HUGE + 3), peek(own + HUGE + 3)), (9, 1));
    unmap(own, 2 * HUGE).unwrap();
    assert_eq!((pool("free"), pool("resv")), (3, 1));
    sys!(SYS_fallocate, fd, 0, 0, 3 * HUGE).unwrap();
    assert_eq!((pool("free"), pool("resv"), fstat(fd).st_size as usize), (1, 0, 3 * HUGE));
    assert_eq!(sys!(SYS_fallocate, fd, 0, 0, 9 * HUGE), Err(ENOSPC));
    sys!(SYS_ftruncate, fd, 3 * HUGE).unwrap();
    assert_eq!(sys!(SYS_fallocate, fd, FALLOC_FL_ZERO_RANGE, 0, HUGE), Err(EOPNOTSUPP));
    // A hole: whole pages go, of others the part becomes zero.
    poke(a + 1, 4);
    sys!(SYS_fallocate, fd, PUNCH, PAGE, 2 * HUGE - PAGE).unwrap();
    assert_eq!((peek(a + 1), peek(a + PAGE)), (4, 0));
    assert_eq!(pread(fd, 1, (HUGE + 3) as i64), Ok(vec![0]));
    sys!(SYS_ftruncate, fd, HUGE).unwrap();
    assert_eq!(fate(|| ignore(peek(a + HUGE))), Status::Signal(SIGBUS), "behind the end");
    assert_eq!(peek(a + 1), 4);
    sys!(SYS_fsync, fd).unwrap();
    sys!(SYS_msync, a, 2 * HUGE, MS_SYNC).unwrap();
    assert_eq!(sys!(SYS_fsetxattr, fd, &cstr("user.a"), &cstr("b"), 1, 0), Err(EOPNOTSUPP));
    unmap(a, 2 * HUGE).unwrap();
    close(fd);
    sys!(SYS_unlink, &cstr(format!("{dir}/f"))).unwrap();
    wait_for_pool(4, 0);
}

fn mounts_have_shares() {
    let _pool = Pool::of(4);
    let dir = mount_huge("size=4M,min_size=2M,nr_inodes=3,pagesize=2M");
    assert_eq!((pool("free"), pool("resv")), (4, 1), "the minimum is promised");
    let mounts = slurp("/proc/mounts");
    let line = mounts.lines().find(|l| l.contains(&dir)).unwrap();
    assert!(line.contains("hugetlbfs rw,relatime"), "{line}");
    assert!(line.contains("pagesize=2M") && line.contains("size=4194304"), "{line}");
    assert!(line.contains("min_size=2097152") && line.contains("nr_inodes=3"), "{line}");
    let statfs = || {
        let mut stat: statfs = zero();
        sys!(SYS_statfs, &cstr(dir.clone()), &raw mut stat as usize).unwrap();
        (stat.f_type, stat.f_bsize as usize, stat.f_blocks, stat.f_bfree, stat.f_files)
    };
    assert_eq!(statfs(), (0x9584_58f6, HUGE, 2, 2, 3));
    let fd = create(&dir, "f");
    let a = map(HUGE, RW, MAP_SHARED, fd).unwrap();
    assert_eq!(pool("resv"), 1, "covered by the minimum");
    assert_eq!(statfs().3, 1);
    let b = sys!(SYS_mmap, 0, HUGE, RW, MAP_SHARED, fd, HUGE).unwrap();
    assert_eq!(pool("resv"), 2);
    assert_eq!(sys!(SYS_mmap, 0, HUGE, RW, MAP_SHARED, fd, 2 * HUGE), Err(ENOMEM), "the limit");
    assert_eq!(map(HUGE, RW, MAP_PRIVATE, fd), Err(ENOMEM));
    poke(a, 1);
    poke(b, 1);
    assert_eq!((pool("free"), pool("resv"), statfs().3), (2, 0, 0));
    assert_eq!(sys!(SYS_fallocate, fd, 0, 0, 3 * HUGE), Err(ENOSPC));
    unmap(b, HUGE).unwrap();
    unmap(a, HUGE).unwrap();
    close(create(&dir, "g"));
    assert_eq!(sys!(SYS_open, &cstr(format!("{dir}/h")), O_CREAT | O_RDWR, 0o600), Err(ENOSPC));
    sys!(SYS_ftruncate, fd, 0).unwrap();
    assert_eq!((pool("free"), pool("resv"), statfs().3), (4, 1, 2));
    close(fd);
    sys!(SYS_umount2, &cstr(dir.clone()), 0).unwrap();
    wait_for_pool(4, 0);
    let mount = |options: &str| {
        sys!(SYS_mount, &cstr("none"), &cstr(dir.clone()), &cstr("hugetlbfs"), 0, &cstr(options))
    };
    assert_eq!(mount("pagesize=3M"), Err(EINVAL));
    assert_eq!(mount("frob=1"), Err(EINVAL));
    assert_eq!(mount("size=x"), Err(EINVAL));
    assert_eq!(mount("size=2M,min_size=4M"), Err(EINVAL));
    assert_eq!(mount("min_size=50M"), Err(ENOMEM));
    mount("size=50%").unwrap();
    assert_eq!(statfs().2, 2);
    sys!(SYS_umount2, &cstr(dir.clone()), 0).unwrap();
}

fn memfd(flags: u32) -> Result<usize, Errno> {
    sys!(SYS_memfd_create, &cstr("huge"), flags)
}

fn files_in_memory() {
    let _pool = Pool::of(2);
    let fd = memfd(MFD_HUGETLB).unwrap() as i32;
    assert_eq!(memfd(MFD_HUGETLB | 13 << 26), Err(ENODEV));
    assert_eq!(memfd(21 << 26), Err(EINVAL), "a size of what?");
    close(memfd(MFD_HUGETLB | 21 << 26).unwrap() as i32);
    assert_eq!(sys!(SYS_ftruncate, fd, HUGE + PAGE), Err(EINVAL));
    sys!(SYS_ftruncate, fd, 2 * HUGE).unwrap();
    assert_eq!(pool("resv"), 0);
    let a = map(2 * HUGE, RW, MAP_SHARED, fd).unwrap();
    poke(a, 3);
    assert_eq!(pread(fd, 1, 0), Ok(vec![3]));
    let maps = slurp("/proc/self/maps");
    let line = maps.lines().find(|l| l.starts_with(&format!("{a:x}-"))).unwrap();
    assert!(line.ends_with("/memfd:huge (deleted)"), "{line}");
    close(fd);
    assert_eq!((peek(a), pool("free"), pool("resv")), (3, 1, 1));
    unmap(a, 2 * HUGE).unwrap();
    assert_eq!((pool("free"), pool("resv")), (2, 0));
}

fn sealed_files() {
    let _pool = Pool::of(2);
    let fd = memfd(MFD_HUGETLB).unwrap() as i32;
    assert_eq!(sys!(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_GROW), Err(EPERM));
    close(fd);
    let fd = memfd(MFD_HUGETLB | MFD_ALLOW_SEALING).unwrap() as i32;
    sys!(SYS_ftruncate, fd, HUGE).unwrap();
    sys!(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_GROW).unwrap();
    assert_eq!(sys!(SYS_ftruncate, fd, 2 * HUGE), Err(EPERM));
    assert_eq!(sys!(SYS_fallocate, fd, 0, 0, 2 * HUGE), Err(EPERM));
    sys!(SYS_fallocate, fd, 0, 0, HUGE).unwrap();
    let a = map(HUGE, RW, MAP_SHARED, fd).unwrap();
    assert_eq!(sys!(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_WRITE), Err(EBUSY));
    unmap(a, HUGE).unwrap();
    sys!(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK).unwrap();
    assert_eq!(sys!(SYS_ftruncate, fd, 0), Err(EPERM));
    assert_eq!(sys!(SYS_fallocate, fd, PUNCH, 0, HUGE), Err(EPERM));
    assert_eq!(map(HUGE, RW, MAP_SHARED, fd), Err(EPERM));
    let b = map(HUGE, RW, MAP_PRIVATE, fd).unwrap();
    poke(b, 1);
    unmap(b, HUGE).unwrap();
    close(fd);
    assert_eq!((pool("free"), pool("resv")), (2, 0));
}

const SHM_HUGETLB: i32 = 0o4000;

fn shared_memory_segments() {
    let _pool = Pool::of(2);
    let get = |size: usize, flags: i32| sys!(SYS_shmget, IPC_PRIVATE, size, SHM_HUGETLB | 0o600 | flags);
    assert_eq!(get(9 * HUGE, IPC_CREAT), Err(ENOMEM));
    assert_eq!(get(HUGE, IPC_CREAT | 13 << 26), Err(EINVAL));
    let id = get(HUGE + 5, IPC_CREAT).unwrap();
    assert_eq!((pool("free"), pool("resv")), (2, 2), "promised at once");
    let a = sys!(SYS_shmat, id, 0, 0).unwrap();
    assert!(a.is_multiple_of(HUGE));
    poke(a + HUGE + 9, 1);
    child(|| assert_eq!(peek(a + HUGE + 9), 1)).ok();
    assert_eq!((pool("free"), pool("resv")), (1, 1));
    assert_eq!(sys!(SYS_shmat, id, a + 8 * HUGE + PAGE, 0), Err(EINVAL));
    sys!(SYS_shmctl, id, IPC_RMID, 0).unwrap();
    sys!(SYS_shmdt, a).unwrap();
    assert_eq!((pool("free"), pool("resv")), (2, 0));
}

fn who_may_have_segments() {
    let _pool = Pool::of(1);
    const GROUP: &str = "/proc/sys/vm/hugetlb_shm_group";
    let get = || sys!(SYS_shmget, IPC_PRIVATE, HUGE, IPC_CREAT | SHM_HUGETLB | 0o600);
    let before = slurp(GROUP);
    set(GROUP, "4321");
    child(|| {
        let none = rlimit { rlim_cur: 0, rlim_max: 0 };
        sys!(SYS_setrlimit, RLIMIT_MEMLOCK, &raw const none as usize).unwrap();
        drop_root();
        assert_eq!(get(), Err(EPERM));
        let a = huge(1, PRIVATE).unwrap();
        poke(a, 1);
    })
    .ok();
    child(|| {
        sys!(SYS_setresgid, 4321, 4321, 4321).unwrap();
        drop_root_keeping_groups();
        let id = get().unwrap();
        sys!(SYS_shmctl, id, IPC_RMID, 0).unwrap();
    })
    .ok();
    set(GROUP, before.trim());
}

fn drop_root_keeping_groups() {
    sys!(SYS_setresuid, 1000, 1000, 1000).unwrap();
}

/// The lines of smaps about the mapping at `at`.
fn smaps(at: usize) -> Vec<String> {
    let text = slurp("/proc/self/smaps");
    let from = text.find(&format!("{at:x}-")).expect("the mapping");
    let mut lines = text[from..].lines().map(String::from);
    let mut out = vec![lines.next().unwrap()];
    out.extend(lines.take_while(|line| line.starts_with(|c: char| c.is_ascii_uppercase())));
    out
}

fn smaps_kb(at: usize, field: &str) -> usize {
    let lines = smaps(at);
    let line = lines.iter().find(|line| line.starts_with(field)).expect("the field");
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

fn vm_flags(at: usize) -> Vec<String> {
    let lines = smaps(at);
    let line = lines.iter().find(|line| line.starts_with("VmFlags:")).unwrap();
    line.split_ascii_whitespace().skip(1).map(String::from).collect()
}

fn what_proc_tells() {
    let _pool = Pool::of(3);
    let a = huge(3, PRIVATE).unwrap();
    let rss = || proc_status(getpid(), "VmRSS");
    rss();
    poke(a, 1);
    poke(a + HUGE, 1);
    assert_eq!((smaps_kb(a, "Rss:"), smaps_kb(a, "Private_Hugetlb:"), smaps_kb(a, "Shared_Hugetlb:")), (0, 4096, 0));
    assert_eq!((smaps_kb(a, "KernelPageSize:"), smaps_kb(a, "MMUPageSize:")), (2048, 2048));
    assert!(smaps(a)[0].ends_with("/anon_hugepage (deleted)"));
    let flags = vm_flags(a);
    for flag in ["ht", "de"] {
        assert!(flags.contains(&flag.into()), "{flag}");
    }
    assert!(!flags.contains(&"ac".into()) && !flags.contains(&"nr".into()));
    assert_eq!(proc_status(getpid(), "HugetlbPages"), "4096 kB");
    child(|| {
        assert_eq!((smaps_kb(a, "Private_Hugetlb:"), smaps_kb(a, "Shared_Hugetlb:")), (0, 4096));
        assert_eq!(proc_status(getpid(), "HugetlbPages"), "4096 kB");
    })
    .ok();
    let numa = slurp("/proc/self/numa_maps");
    if !numa.is_empty() {
        let line = numa.lines().find(|l| l.starts_with(&format!("{a:x} "))).unwrap();
        assert!(line.contains(" huge ") && line.contains("anon=2") && line.contains("N0=2"), "{line}");
        assert!(line.ends_with("kernelpagesize_kB=2048"), "{line}");
    }
    let pagemap = open(&cstr("/proc/self/pagemap"), O_RDONLY).unwrap();
    let entry = |at: usize| {
        let bytes = pread(pagemap, 8, (at / PAGE * 8) as i64).unwrap();
        u64::from_le_bytes(bytes.try_into().unwrap())
    };
    let (present, file, exclusive) = (1 << 63, 1 << 61, 1 << 56);
    let all = present | file | exclusive;
    for at in [a, a + 77 * PAGE, a + 2 * HUGE - PAGE] {
        assert_eq!(entry(at) & all, present | exclusive);
    }
    assert_eq!(entry(a + 77 * PAGE) - entry(a), 77, "adjacent");
    assert_eq!(entry(a + 2 * HUGE) & all, 0);
    let mut states = vec![0u8; 3 * HUGE / PAGE];
    sys!(SYS_mincore, a, 3 * HUGE, states.as_mut_ptr() as usize).unwrap();
    assert_eq!(states.iter().filter(|s| **s & 1 != 0).count(), 1024);
    unmap(a, 3 * HUGE).unwrap();
    assert_eq!(proc_status(getpid(), "HugetlbPages"), "0 kB");
}

fn rights_of_pages() {
    let _pool = Pool::of(2);
    let a = map(HUGE, PROT_READ, PRIVATE, -1).unwrap();
    assert_eq!(peek(a), 0);
    assert_eq!(fate(|| poke(a, 1)), Status::Signal(SIGSEGV));
    sys!(SYS_mprotect, a, HUGE, RW).unwrap();
    poke(a, 1);
    assert_eq!(pool("free"), 1);
    sys!(SYS_mprotect, a, HUGE, PROT_NONE).unwrap();
    assert_eq!(fate(|| ignore(peek(a))), Status::Signal(SIGSEGV));
    sys!(SYS_mprotect, a, HUGE, PROT_READ).unwrap();
    assert_eq!(peek(a), 1);
    unmap(a, HUGE).unwrap();
    assert_eq!(pool("free"), 2);
}

fn calls_read_and_write_them() {
    let _pool = Pool::of(2);
    let a = huge(1, PRIVATE).unwrap();
    let fd = new_file("data");
    pwrite(fd, &[7; 3 * PAGE], 0).unwrap();
    assert_eq!(sys!(SYS_pread64, fd, a + 100, 3 * PAGE, 0), Ok(3 * PAGE), "a call makes the page");
    assert_eq!((peek(a + 99), peek(a + 100), peek(a + 100 + 3 * PAGE)), (0, 7, 0));
    poke(a + 5000, 9);
    assert_eq!(sys!(SYS_pwrite64, fd, a + 100, 3 * PAGE, 0), Ok(3 * PAGE));
    assert_eq!(pread(fd, 1, 4900), Ok(vec![9]));
    // A page in a pipe outlives its mapping, and goes back to the pool when it was read.
    let (read_end, write_end) = pipe();
    let part = iovec { iov_base: (a + 100) as *mut c_void, iov_len: 10 };
    assert_eq!(sys!(SYS_vmsplice, write_end, &raw const part as usize, 1, 0), Ok(10));
    unmap(a, HUGE).unwrap();
    assert_eq!(read_vec(read_end, 20), Ok(vec![7; 10]));
    assert_eq!((pool("free"), pool("nr")), (2, 2));
}

/// Random maps, unmaps, writes, forks and advice against a byte for each page.
fn random_edits_keep_contents() {
    const N: usize = 6;
    let _pool = Pool::of(2 * N);
    let a = huge(N, PRIVATE).unwrap();
    let mut model = [0u8; N];
    let mut seed = 12345u32;
    for step in 0..300 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (i, what) = ((seed >> 8) as usize % N, (seed >> 20) % 7);
        let at = a + i * HUGE;
        match what {
            0 | 1 => {
                model[i] = step as u8;
                poke(at + (seed as usize >> 4) % 512 * PAGE / PAGE * PAGE % HUGE, peek(at));
                poke(at, model[i]);
            }
            2 => {
                sys!(SYS_madvise, at, HUGE, MADV_DONTNEED).unwrap();
                model[i] = 0;
            }
            3 => {
                let kid = child(|| {
                    assert_eq!(peek(at), model[i]);
                    poke(at, 200);
                });
                kid.ok();
            }
            4 => {
                sys!(SYS_mprotect, at, HUGE, PROT_READ).unwrap();
                sys!(SYS_mprotect, at, HUGE, RW).unwrap();
            }
            5 => {
                unmap(at, HUGE).unwrap();
                assert_eq!(sys!(SYS_mmap, at, HUGE, RW, PRIVATE | MAP_FIXED, -1, 0), Ok(at));
                model[i] = 0;
            }
            _ => (0..N).for_each(|i| assert_eq!(peek(a + i * HUGE), model[i], "step {step}, page {i}")),
        }
    }
    unmap(a, N * HUGE).unwrap();
    assert_eq!((pool("free"), pool("resv")), (2 * N, 0));
}
