//! mmap(2), munmap(2), mprotect(2), brk(2), madvise(2) on anonymous memory.

use crate::prelude::*;

tests!(
    "mm":
    fresh_memory_is_zero, mmap_errors, length_is_rounded_up, fixed_replaces_what_is_there, fixed_noreplace,
    hint_is_used_when_free, low_addresses_are_refused, low_addresses_with_the_right, munmap_rules, munmap_in_the_middle_splits,
    mprotect_changes_and_splits, mprotect_errors, write_only_is_readable, exec_permission,
    brk_grows_and_shrinks, brk_stops_at_a_mapping_and_the_limit, stack_grows_down, growsdown_mapping,
    dontneed_drops_contents, madvise_errors, populate_and_populate_write, mincore_rules, mlock_fills_and_counts,
    mlock_limit_without_privilege, msync_rules, address_space_limit, map_count_limit, neighbours_merge,
    shared_anonymous_between_relatives, large_sparse_mapping, process_vm_readv_and_writev,
);

const RW: i32 = PROT_READ | PROT_WRITE;
const ANON: i32 = MAP_PRIVATE | MAP_ANONYMOUS;

fn mmap_at(addr: usize, len: usize, prot: i32, flags: i32) -> Result<usize, Errno> {
    sys!(SYS_mmap, addr, len, prot, flags, -1, 0)
}

fn is_mapped(addr: usize) -> bool {
    sys!(SYS_msync, addr, PAGE, MS_ASYNC) == Ok(0)
}

fn fresh_memory_is_zero() {
    let a = anon(20 * PAGE);
    assert_eq!(a % PAGE, 0);
    assert!(bytes_at(a, 20 * PAGE).iter().all(|b| *b == 0));
    poke(a + 5 * PAGE, 7);
    assert_eq!(peek(a + 5 * PAGE), 7);
}

fn mmap_errors() {
    assert_eq!(mmap_at(0, 0, RW, ANON), Err(EINVAL));
    assert_eq!(mmap_at(0, PAGE, RW, MAP_ANONYMOUS), Err(EINVAL));
    assert_eq!(mmap_at(0, PAGE, RW, MAP_ANONYMOUS | MAP_SHARED_VALIDATE | MAP_PRIVATE | 0x80), Err(EINVAL));
    assert_eq!(mmap_at(0, usize::MAX, RW, ANON), Err(ENOMEM));
    assert_eq!(mmap_at(0, 1 << 47, RW, ANON), Err(ENOMEM));
    assert_eq!(mmap_at(123, PAGE, RW, ANON | MAP_FIXED), Err(EINVAL));
    // Beyond user space, also where five levels of page tables make it larger.
    assert_eq!(mmap_at(1 << 56, PAGE, RW, ANON | MAP_FIXED), Err(ENOMEM));
    assert_eq!(map(PAGE, RW, MAP_PRIVATE, -1), Err(EBADF));
    assert_eq!(map(PAGE, RW, MAP_PRIVATE, 999), Err(EBADF));
    assert_eq!(sys!(SYS_mmap, 0, PAGE, RW, ANON, -1, 5), Err(EINVAL));
    let fd = new_file("f");
    assert_eq!(sys!(SYS_mmap, 0, PAGE, RW, MAP_PRIVATE, fd, 100), Err(EINVAL));
    assert_eq!(map(0, RW, MAP_PRIVATE, fd), Err(EINVAL));
    assert_eq!(map(PAGE, RW, 0, fd), Err(EINVAL));
}

fn length_is_rounded_up() {
    let a = anon(PAGE + 1);
    poke(a + 2 * PAGE - 1, 1);
    sys!(SYS_munmap, a, 1).unwrap();
    assert!(!is_mapped(a) && is_mapped(a + PAGE));
}

fn fixed_replaces_what_is_there() {
    let a = anon(3 * PAGE);
    poke(a, 1);
    poke(a + PAGE, 2);
    poke(a + 2 * PAGE, 3);
    assert_eq!(mmap_at(a + PAGE, PAGE, RW, ANON | MAP_FIXED), Ok(a + PAGE));
    assert_eq!((peek(a), peek(a + PAGE), peek(a + 2 * PAGE)), (1, 0, 3));
}

fn fixed_noreplace() {
    let a = anon(2 * PAGE);
    assert_eq!(mmap_at(a, PAGE, RW, ANON | MAP_FIXED_NOREPLACE), Err(EEXIST));
    sys!(SYS_munmap, a, PAGE).unwrap();
    assert_eq!(mmap_at(a, 2 * PAGE, RW, ANON | MAP_FIXED_NOREPLACE), Err(EEXIST));
    assert_eq!(mmap_at(a, PAGE, RW, ANON | MAP_FIXED_NOREPLACE), Ok(a));
}

fn hint_is_used_when_free() {
    let a = anon(16 * PAGE);
    sys!(SYS_munmap, a, 16 * PAGE).unwrap();
    assert_eq!(mmap_at(a + 4 * PAGE, PAGE, RW, ANON), Ok(a + 4 * PAGE));
    assert_ne!(mmap_at(a + 4 * PAGE, PAGE, RW, ANON), Ok(a + 4 * PAGE));
    assert_eq!(mmap_at(a + 8 * PAGE + 100, PAGE, RW, ANON), Ok(a + 8 * PAGE));
}

fn low_addresses_are_refused() {
    aside(|| {
        drop_root();
        assert_eq!(mmap_at(0, PAGE, RW, ANON | MAP_FIXED), Err(EPERM));
    });
}

fn low_addresses_with_the_right() {
    match mmap_at(0, PAGE, RW, ANON | MAP_FIXED) {
        Err(EPERM) => skip("no CAP_SYS_RAWIO"),
        at => assert_eq!(at, Ok(0)),
    }
    // The kernel reads there as anywhere, and as soon as nothing is mapped, does not.
    let (r, w) = pipe();
    assert_eq!(sys!(SYS_write, w, 0, 4), Ok(4));
    assert_eq!(read_vec(r, 4), Ok(vec![0; 4]));
    let moved = sys!(SYS_mremap, 0, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, anon(PAGE));
    assert!(moved.is_ok());
    assert_eq!(sys!(SYS_mremap, moved.unwrap(), PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, 0), Ok(0));
    assert_eq!(sys!(SYS_munmap, 0, PAGE), Ok(0));
    assert_eq!(sys!(SYS_write, w, 0, 4), Err(EFAULT));
    assert_ne!(mmap_at(0, PAGE, RW, ANON), Ok(0), "not unless it is asked for");
}

fn munmap_rules() {
    let a = anon(4 * PAGE);
    assert_eq!(sys!(SYS_munmap, a + 1, PAGE), Err(EINVAL));
    assert_eq!(sys!(SYS_munmap, a, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_munmap, 1usize << 56, PAGE), Err(EINVAL));
    assert_eq!(sys!(SYS_munmap, a, usize::MAX & !0xfff), Err(EINVAL));
    sys!(SYS_munmap, a + PAGE, PAGE).unwrap();
    assert_eq!(sys!(SYS_munmap, a + PAGE, PAGE), Ok(0), "a hole is success");
    sys!(SYS_munmap, a, 4 * PAGE).unwrap();
    assert_eq!(fate(|| ignore(peek(a))), Status::Signal(SIGSEGV));
}

fn munmap_in_the_middle_splits() {
    let a = anon(5 * PAGE);
    for i in 0..5 {
        poke(a + i * PAGE, i as u8 + 1);
    }
    sys!(SYS_munmap, a + 2 * PAGE, PAGE).unwrap();
    assert_eq!((peek(a + PAGE), peek(a + 3 * PAGE)), (2, 4));
    assert_eq!(fate(|| poke(a + 2 * PAGE, 1)), Status::Signal(SIGSEGV));
}

fn mprotect_changes_and_splits() {
    let a = anon(3 * PAGE);
    poke(a + PAGE, 5);
    sys!(SYS_mprotect, a + PAGE, PAGE, PROT_READ).unwrap();
    assert_eq!(peek(a + PAGE), 5);
    assert_eq!(fate(|| poke(a + PAGE, 1)), Status::Signal(SIGSEGV));
    poke(a, 1);
    poke(a + 2 * PAGE, 1);
    sys!(SYS_mprotect, a, 3 * PAGE, PROT_NONE).unwrap();
    assert_eq!(fate(|| ignore(peek(a))), Status::Signal(SIGSEGV));
    sys!(SYS_mprotect, a, 3 * PAGE, RW).unwrap();
    assert_eq!((peek(a), peek(a + PAGE)), (1, 5));
}

fn mprotect_errors() {
    let a = anon(3 * PAGE);
    assert_eq!(sys!(SYS_mprotect, a + 1, PAGE, PROT_READ), Err(EINVAL));
    assert_eq!(sys!(SYS_mprotect, a, PAGE, 0x100), Err(EINVAL));
    assert_eq!(sys!(SYS_mprotect, a, 0, PROT_READ), Ok(0));
    sys!(SYS_munmap, a + PAGE, PAGE).unwrap();
    assert_eq!(sys!(SYS_mprotect, a, 3 * PAGE, PROT_READ), Err(ENOMEM));
    assert_eq!(fate(|| poke(a, 1)), Status::Signal(SIGSEGV), "up to the hole it was done");
    assert_eq!(sys!(SYS_mprotect, a + PAGE, PAGE, PROT_READ), Err(ENOMEM));
}

fn write_only_is_readable() {
    let a = mmap_at(0, PAGE, PROT_WRITE, ANON).unwrap();
    poke(a, 9);
    assert_eq!(peek(a), 9);
}

fn exec_permission() {
    let a = anon(PAGE);
    // lea rax, [rdi+rsi]; ret
    for (i, b) in [0x48, 0x8d, 0x04, 0x37, 0xc3].into_iter().enumerate() {
        poke(a + i, b);
    }
    sys!(SYS_mprotect, a, PAGE, PROT_READ | PROT_EXEC).unwrap();
    assert_eq!(crate::sys::call_function(a, 40, 2), 42);
}

fn brk_grows_and_shrinks() {
    aside(|| {
        let start = sys!(SYS_brk, 0).unwrap();
        assert_eq!(sys!(SYS_brk, start + 10 * PAGE), Ok(start + 10 * PAGE));
        poke(start + 10 * PAGE - 1, 1);
        assert_eq!(peek(start + 5 * PAGE), 0);
        assert_eq!(sys!(SYS_brk, start + 2 * PAGE), Ok(start + 2 * PAGE));
        assert_eq!(fate(|| ignore(peek(start + 5 * PAGE))), Status::Signal(SIGSEGV));
        assert_eq!(sys!(SYS_brk, start + 10 * PAGE), Ok(start + 10 * PAGE));
        assert_eq!(peek(start + 10 * PAGE - 1), 0, "what comes back is zero");
        assert_eq!(sys!(SYS_brk, 1usize << 46), Ok(start + 10 * PAGE), "refused: the old break");
        assert_eq!(sys!(SYS_brk, 1), Ok(start + 10 * PAGE));
    });
}

fn brk_stops_at_a_mapping_and_the_limit() {
    aside(|| {
        let start = sys!(SYS_brk, 0).unwrap();
        let wall = (start + 8 * PAGE) & !0xfff;
        mmap_at(wall, PAGE, RW, ANON | MAP_FIXED_NOREPLACE).unwrap();
        assert_eq!(sys!(SYS_brk, wall + PAGE), Ok(start));
        let r = rlimit { rlim_cur: 0, rlim_max: RLIM_INFINITY };
        sys!(SYS_setrlimit, RLIMIT_DATA, &r).unwrap();
        assert_eq!(sys!(SYS_brk, start + 2 * PAGE), Ok(start));
    });
}

fn stack_grows_down() {
    fn deep(n: usize) -> usize {
        let pad = std::hint::black_box([1u8; 4096]);
        if n == 0 { 0 } else { deep(n - 1) + pad[n] as usize }
    }
    assert_eq!(fate(|| assert_eq!(deep(1000), 1000)), Status::Exit(0));
}

fn growsdown_mapping() {
    let a = mmap_at(0, 2048 * PAGE, RW, ANON).unwrap();
    sys!(SYS_munmap, a, 2048 * PAGE).unwrap();
    let top = a + 2040 * PAGE;
    // Nothing lies within the guard gap below, for the area was just free.
    mmap_at(top, PAGE, RW, ANON | MAP_FIXED | MAP_GROWSDOWN).unwrap();
    poke(top, 1);
    poke(top - 1, 2);
    assert_eq!(peek(top - 1), 2);
    assert!(is_mapped(top - PAGE) && !is_mapped(top - 2 * PAGE));
}

fn dontneed_drops_contents() {
    let a = anon(3 * PAGE);
    for i in 0..3 {
        poke(a + i * PAGE, 7);
    }
    sys!(SYS_madvise, a + PAGE, PAGE, MADV_DONTNEED).unwrap();
    assert_eq!([peek(a), peek(a + PAGE), peek(a + 2 * PAGE)], [7, 0, 7]);
}

fn madvise_errors() {
    let a = anon(3 * PAGE);
    assert_eq!(sys!(SYS_madvise, a + 1, PAGE, MADV_DONTNEED), Err(EINVAL));
    assert_eq!(sys!(SYS_madvise, a, PAGE, 9999), Err(EINVAL));
    assert_eq!(sys!(SYS_madvise, a, 0, MADV_DONTNEED), Ok(0));
    sys!(SYS_munmap, a + PAGE, PAGE).unwrap();
    poke(a + 2 * PAGE, 5);
    assert_eq!(sys!(SYS_madvise, a, 3 * PAGE, MADV_DONTNEED), Err(ENOMEM));
    assert_eq!(peek(a + 2 * PAGE), 0, "the rest was done");
    for advice in
        [MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_FREE, MADV_DONTDUMP, MADV_DODUMP]
    {
        assert_eq!(sys!(SYS_madvise, a, PAGE, advice), Ok(0), "advice {advice}");
    }
}

fn populate_and_populate_write() {
    let a = mmap_at(0, 8 * PAGE, RW, ANON | MAP_POPULATE).unwrap();
    assert_eq!(resident(a, 8), 8);
    let b = anon(8 * PAGE);
    assert_eq!(resident(b, 8), 0);
    sys!(SYS_madvise, b, 4 * PAGE, MADV_POPULATE_WRITE).unwrap();
    assert_eq!(resident(b, 8), 4);
    let none = mmap_at(0, PAGE, PROT_NONE, ANON).unwrap();
    assert_eq!(sys!(SYS_madvise, none, PAGE, MADV_POPULATE_READ), Err(EINVAL));
}

fn resident(addr: usize, pages: usize) -> usize {
    let mut vec = vec![0u8; pages];
    sys!(SYS_mincore, addr, pages * PAGE, &mut vec[..]).unwrap();
    vec.iter().filter(|b| **b & 1 == 1).count()
}

fn mincore_rules() {
    let a = anon(4 * PAGE);
    poke(a + PAGE, 1);
    poke(a + 3 * PAGE, 1);
    let mut vec = [9u8; 4];
    sys!(SYS_mincore, a, 4 * PAGE, &mut vec).unwrap();
    assert_eq!(vec, [0, 1, 0, 1]);
    assert_eq!(sys!(SYS_mincore, a + 1, PAGE, &mut vec), Err(EINVAL));
    assert_eq!(sys!(SYS_mincore, a, 4 * PAGE, BAD), Err(EFAULT));
    sys!(SYS_munmap, a + 2 * PAGE, PAGE).unwrap();
    assert_eq!(sys!(SYS_mincore, a, 4 * PAGE, &mut vec), Err(ENOMEM));
    assert_eq!(sys!(SYS_mincore, a, 0, &mut vec), Ok(0));
}

fn mlock_fills_and_counts() {
    let a = anon(4 * PAGE);
    sys!(SYS_mlock, a + 10, 2 * PAGE).unwrap();
    assert_eq!(resident(a, 4), 3);
    assert_eq!(proc_status(getpid(), "VmLck"), "12 kB");
    sys!(SYS_munlock, a, 4 * PAGE).unwrap();
    assert_eq!(proc_status(getpid(), "VmLck"), "0 kB");
    sys!(SYS_munmap, a + PAGE, PAGE).unwrap();
    assert_eq!(sys!(SYS_mlock, a, 4 * PAGE), Err(ENOMEM));
    assert_eq!(sys!(SYS_mlock2, a, PAGE, 8), Err(EINVAL));
    assert_eq!(sys!(SYS_mlockall, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_mlockall, 64), Err(EINVAL));
    assert_eq!(sys!(SYS_munlockall), Ok(0));
}

fn mlock_limit_without_privilege() {
    aside(|| {
        let r = rlimit { rlim_cur: 2 * PAGE as u64, rlim_max: 2 * PAGE as u64 };
        sys!(SYS_setrlimit, RLIMIT_MEMLOCK, &r).unwrap();
        let a = anon(4 * PAGE);
        drop_root();
        assert_eq!(sys!(SYS_mlock, a, 2 * PAGE), Ok(0));
        assert_eq!(sys!(SYS_mlock, a, 4 * PAGE), Err(ENOMEM));
    });
}

fn msync_rules() {
    let a = anon(2 * PAGE);
    assert_eq!(sys!(SYS_msync, a + 1, PAGE, MS_SYNC), Err(EINVAL));
    assert_eq!(sys!(SYS_msync, a, PAGE, MS_SYNC | MS_ASYNC), Err(EINVAL));
    assert_eq!(sys!(SYS_msync, a, PAGE, 99), Err(EINVAL));
    assert_eq!(sys!(SYS_msync, a, PAGE, MS_SYNC), Ok(0));
    sys!(SYS_munmap, a, PAGE).unwrap();
    assert_eq!(sys!(SYS_msync, a, 2 * PAGE, MS_SYNC), Err(ENOMEM));
}

fn address_space_limit() {
    aside(|| {
        let r = rlimit { rlim_cur: 512 << 20, rlim_max: 512 << 20 };
        sys!(SYS_setrlimit, RLIMIT_AS, &r).unwrap();
        assert_eq!(mmap_at(0, 1 << 30, PROT_NONE, ANON), Err(ENOMEM));
        assert!(mmap_at(0, 1 << 20, RW, ANON).is_ok());
    });
}

fn map_count_limit() {
    // Alternating protections keep the areas apart; each is one of vm.max_map_count.
    aside(|| {
        let max: usize = slurp("/proc/sys/vm/max_map_count").trim().parse().unwrap();
        if max > 200_000 {
            skip("vm.max_map_count is too large to reach");
        }
        allow_seconds(100);
        let pages = max + 2000;
        let a = mmap_at(0, pages * PAGE, PROT_NONE, ANON | MAP_NORESERVE).unwrap();
        let failed = (0..pages / 2).find_map(|i| sys!(SYS_mprotect, a + 2 * i * PAGE, PAGE, PROT_READ).err());
        assert_eq!(failed, Some(ENOMEM));
        let gap = a + (pages - 100) * PAGE;
        assert_eq!(sys!(SYS_munmap, gap, PAGE), Err(ENOMEM), "a hole would make two areas of one");
        sys!(SYS_munmap, a, pages * PAGE).unwrap();
        anon(PAGE);
    });
}

fn neighbours_merge() {
    let a = anon(4 * PAGE);
    sys!(SYS_mprotect, a + PAGE, PAGE, PROT_READ).unwrap();
    sys!(SYS_mprotect, a + PAGE, PAGE, RW).unwrap();
    let maps = slurp("/proc/self/maps");
    let whole = maps.lines().any(|l| {
        let (start, end) = l.split(' ').next().unwrap().split_once('-').unwrap();
        let n = |s: &str| usize::from_str_radix(s, 16).unwrap();
        n(start) <= a && n(end) >= a + 4 * PAGE
    });
    assert!(whole, "{maps}");
}

fn shared_anonymous_between_relatives() {
    let a = shared(PAGE);
    let kids: Vec<_> = (0..4)
        .map(|_| {
            child(|| {
                for _ in 0..1000 {
                    atomic(a).fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    kids.into_iter().for_each(Child::ok);
    assert_eq!(atomic(a).load(SeqCst), 4000);
}

fn large_sparse_mapping() {
    let gib = 1 << 30;
    let a = mmap_at(0, 8 * gib, RW, ANON | MAP_NORESERVE).unwrap();
    for i in 0..8 {
        poke(a + i * gib + 12_345, i as u8);
    }
    for i in 0..8 {
        assert_eq!(peek(a + i * gib + 12_345), i as u8);
    }
    sys!(SYS_munmap, a, 8 * gib).unwrap();
}

fn process_vm_readv_and_writev() {
    let a = shared(PAGE);
    poke(a, 65);
    let private = anon(PAGE);
    let c = child(|| {
        poke(private, 66);
        atomic(a + 64).store(1, SeqCst);
        while atomic(a + 64).load(SeqCst) == 1 {
            nap(2);
        }
        assert_eq!(peek(private), 67);
    });
    while atomic(a + 64).load(SeqCst) == 0 {
        nap(2);
    }
    let mut byte = [0u8];
    let local = [byte.as_mut_ptr() as usize, 1];
    assert_eq!(sys!(SYS_process_vm_readv, c.0, &local, 1, &[private, 1], 1, 0), Ok(1));
    assert_eq!(peek(local[0]), 66);
    poke(local[0], 67);
    assert_eq!(sys!(SYS_process_vm_writev, c.0, &local, 1, &[private, 1], 1, 0), Ok(1));
    assert_eq!(sys!(SYS_process_vm_readv, c.0, &local, 1, &[8usize, 1], 1, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_process_vm_readv, 0x3fff_fff0, &local, 1, &[private, 1], 1, 0), Err(ESRCH));
    atomic(a + 64).store(2, SeqCst);
    c.ok();
}
