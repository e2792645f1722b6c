//! Memory calls beside mmap(2): seals, policies, advice to others, barriers, and what /proc tells of pages.

use crate::prelude::*;

tests!(
    "memcalls":
    mseal_rules, sealed_memory_keeps_its_contents, several_areas_move_at_once, policies, policies_of_mappings,
    pages_are_on_the_only_node, advice_to_another, membarrier_registers, cachestat_counts,
    remap_file_pages_shows_another_part, mrelease_wants_a_dying_process, guards_in_a_file_and_over_fork,
    sealed_files_map_read_only, no_huge_pages_no_keys,
    no_exec_gain, names_of_anonymous_memory, secret_memory,
    pagemap_tells_states, soft_dirty_bits, maps_answer_queries, numa_maps_shows_policies,
);

const RW: i32 = PROT_READ | PROT_WRITE;
const MPOL_BIND: i32 = 2;
const MPOL_INTERLEAVE: i32 = 3;
const MPOL_LOCAL: i32 = 4;
const GUARD_INSTALL: i32 = 102;
const GUARD_REMOVE: i32 = 103;
const SYS_MSEAL: c_long = 462;
const SYS_CACHESTAT: c_long = 451;
const SYS_PROCESS_MRELEASE: c_long = 448;

fn mseal(addr: usize, len: usize) -> Result<usize, Errno> {
    sys!(SYS_MSEAL, addr, len, 0)
}

fn mseal_rules() {
    let a = anon(8 * PAGE);
    assert_eq!(sys!(SYS_MSEAL, a, PAGE, 1), Err(EINVAL));
    assert_eq!(mseal(a + 1, PAGE), Err(EINVAL));
    assert_eq!(mseal(a, 0), Ok(0));
    assert_eq!(mseal(a, usize::MAX), Err(EINVAL));
    sys!(SYS_munmap, a + 4 * PAGE, PAGE).unwrap();
    assert_eq!(mseal(a, 8 * PAGE), Err(ENOMEM), "a hole");
    sys!(SYS_mprotect, a, PAGE, PROT_READ).unwrap();
    assert_eq!(mseal(a + PAGE, 2 * PAGE), Ok(0));
    for at in [a + PAGE, a + 2 * PAGE] {
        assert_eq!(sys!(SYS_munmap, at, PAGE), Err(EPERM));
        assert_eq!(sys!(SYS_mprotect, at, PAGE, PROT_READ), Err(EPERM));
        assert_eq!(sys!(SYS_mremap, at, PAGE, 2 * PAGE, MREMAP_MAYMOVE, 0), Err(EPERM));
        assert_eq!(sys!(SYS_mmap, at, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), Err(EPERM));
    }
    assert_eq!(sys!(SYS_munmap, a, 8 * PAGE), Err(EPERM));
    assert_eq!(mseal(a + PAGE, PAGE), Ok(0), "again");
    sys!(SYS_munmap, a, PAGE).unwrap();
    sys!(SYS_munmap, a + 3 * PAGE, PAGE).unwrap();
}

fn sealed_memory_keeps_its_contents() {
    let a = anon(2 * PAGE);
    poke(a, 5);
    sys!(SYS_mprotect, a, PAGE, PROT_READ).unwrap();
    mseal(a, 2 * PAGE).unwrap();
    assert_eq!(sys!(SYS_madvise, a, PAGE, MADV_DONTNEED), Err(EPERM));
    assert_eq!(sys!(SYS_madvise, a, PAGE, MADV_DONTFORK), Err(EPERM));
    assert_eq!(sys!(SYS_madvise, a, PAGE, MADV_RANDOM), Ok(0));
    assert_eq!(sys!(SYS_madvise, a + PAGE, PAGE, MADV_DONTNEED), Ok(0), "it could be written");
    assert_eq!(peek(a), 5);
}

fn several_areas_move_at_once() {
    let a = anon(16 * PAGE);
    let to = anon(16 * PAGE);
    for i in 0..4 {
        poke(a + i * PAGE, i as u8 + 1);
        poke(to + i * PAGE, 9);
    }
    sys!(SYS_mprotect, a + PAGE, PAGE, PROT_READ).unwrap();
    sys!(SYS_munmap, a + 2 * PAGE, PAGE).unwrap();
    let fixed = MREMAP_MAYMOVE | MREMAP_FIXED;
    assert_eq!(sys!(SYS_mremap, a, 4 * PAGE, 4 * PAGE, fixed, to), Ok(to));
    assert_eq!((peek(to), peek(to + PAGE), peek(to + 2 * PAGE), peek(to + 3 * PAGE)), (1, 2, 9, 4));
    assert_eq!(fate(|| poke(to + PAGE, 1)), Status::Signal(SIGSEGV));
    assert_eq!(fate(|| ignore(peek(a))), Status::Signal(SIGSEGV));
    // A range that begins with a hole, and one that grows over several areas.
    assert_eq!(sys!(SYS_mremap, a, 4 * PAGE, 4 * PAGE, fixed, to + 8 * PAGE), Err(EFAULT));
    assert_eq!(sys!(SYS_mremap, to, 4 * PAGE, 5 * PAGE, fixed, a), Err(EFAULT));
}

fn policies() {
    aside(|| {
        let (mut mode, mut mask) = (7i32, [7u64; 16]);
        sys!(SYS_get_mempolicy, &mut mode, &mut mask, 1024, 0, 0).unwrap();
        assert_eq!((mode, mask[0]), (0, 0));
        let (zero, one, none) = (1u64, 2u64, 0u64);
        assert_eq!(sys!(SYS_set_mempolicy, 0, &zero, 64), Err(EINVAL));
        assert_eq!(sys!(SYS_set_mempolicy, MPOL_BIND, &none, 64), Err(EINVAL));
        assert_eq!(sys!(SYS_set_mempolicy, MPOL_BIND, &one, 64), Err(EINVAL), "there is one node");
        assert_eq!(sys!(SYS_set_mempolicy, 99, &zero, 64), Err(EINVAL));
        assert_eq!(sys!(SYS_set_mempolicy, MPOL_BIND, BAD, 64), Err(EFAULT));
        sys!(SYS_set_mempolicy, MPOL_BIND, &zero, 64).unwrap();
        sys!(SYS_get_mempolicy, &mut mode, &mut mask, 1024, 0, 0).unwrap();
        assert_eq!((mode, mask[0], mask[15]), (MPOL_BIND, 1, 0));
        aside(|| {
            let mut mode = 7i32;
            sys!(SYS_get_mempolicy, &mut mode, 0, 0, 0, 0).unwrap();
            assert_eq!(mode, MPOL_BIND, "a child has its parent's");
        });
        sys!(SYS_set_mempolicy, MPOL_INTERLEAVE, &zero, 64).unwrap();
        sys!(SYS_get_mempolicy, &mut mode, 0, 0, 0, 1).unwrap();
        assert_eq!(mode, 0, "the next node");
        sys!(SYS_get_mempolicy, 0, &mut mask, 1024, 0, 4).unwrap();
        assert_eq!(mask[0], 1, "the nodes allowed");
        assert_eq!(sys!(SYS_get_mempolicy, 0, 0, 0, 0, 8), Err(EINVAL));
        assert_eq!(sys!(SYS_get_mempolicy, 0, 0, 0, 5, 0), Err(EINVAL));
    });
}

fn policies_of_mappings() {
    let a = anon(4 * PAGE);
    let (zero, mut mode) = (1u64, 7i32);
    assert_eq!(sys!(SYS_mbind, a + 1, PAGE, MPOL_BIND, &zero, 64, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_mbind, a, PAGE, MPOL_BIND, &zero, 64, 64), Err(EINVAL));
    assert_eq!(sys!(SYS_mbind, a, 0, MPOL_BIND, &zero, 64, 0), Ok(0));
    sys!(SYS_mbind, a + PAGE, PAGE, MPOL_BIND, &zero, 64, 0).unwrap();
    for (page, expect) in [(0, 0), (1, MPOL_BIND), (2, 0)] {
        sys!(SYS_get_mempolicy, &mut mode, 0, 0, a + page * PAGE, 2).unwrap();
        assert_eq!(mode, expect);
    }
    sys!(SYS_get_mempolicy, &mut mode, 0, 0, a + PAGE, 3).unwrap();
    assert_eq!(mode, 0, "the node of the page");
    sys!(SYS_munmap, a + 3 * PAGE, PAGE).unwrap();
    assert_eq!(sys!(SYS_mbind, a, 4 * PAGE, MPOL_LOCAL, 0, 0, 0), Err(EFAULT), "a hole");
    assert_eq!(sys!(SYS_get_mempolicy, &mut mode, 0, 0, a + 3 * PAGE, 2), Err(EFAULT));
}

fn pages_are_on_the_only_node() {
    let a = anon(2 * PAGE);
    poke(a, 1);
    let pages = [a, a + PAGE];
    let mut status = [7i32; 2];
    sys!(SYS_move_pages, 0, 2, &pages, 0, &mut status, 0).unwrap();
    assert_eq!(status, [0, -ENOENT_NR]);
    assert_eq!(sys!(SYS_move_pages, 0, 2, &pages, 0, &mut status, 64), Err(EINVAL));
    let node = [0i32, 0];
    assert_eq!(sys!(SYS_move_pages, 0, 1, &pages, &node, &mut status, 2), Ok(0));
    let zero = 1u64;
    assert_eq!(sys!(SYS_migrate_pages, 0, 64, &zero, &zero), Ok(0));
}

const ENOENT_NR: i32 = 2;

fn advice_to_another() {
    let a = anon(2 * PAGE);
    poke(a, 1);
    let vec = [a, 2 * PAGE];
    let kid = child(|| nap(10_000));
    let pidfd = sys!(SYS_pidfd_open, kid.0, 0).unwrap() as i32;
    let own = sys!(SYS_pidfd_open, getpid(), 0).unwrap() as i32;
    let advise = |fd, advice, flags| sys!(SYS_process_madvise, fd, &vec, 1, advice, flags);
    assert_eq!(advise(pidfd, MADV_COLD, 0), Ok(2 * PAGE));
    assert_eq!(advise(pidfd, MADV_COLD, 1), Err(EINVAL));
    assert_eq!(advise(pidfd, MADV_DONTNEED, 0), Err(EINVAL), "only for oneself");
    assert_eq!(advise(pidfd, 999, 0), Err(EINVAL));
    assert!(advise(0, MADV_COLD, 0).is_err());
    assert_eq!(advise(own, MADV_DONTNEED, 0), Ok(2 * PAGE));
    assert_eq!(peek(a), 0);
    kid.kill(SIGKILL);
    kid.wait();
}

fn membarrier_registers() {
    aside(|| {
        let all = sys!(SYS_membarrier, 0, 0, 0).unwrap();
        assert_eq!(all & 0b1_1111, 0b1_1111);
        assert_eq!(sys!(SYS_membarrier, 0, 1, 0), Err(EINVAL));
        assert_eq!(sys!(SYS_membarrier, 3, 0, 0), Err(EINVAL));
        assert_eq!(sys!(SYS_membarrier, 8, 0, 0), Err(EPERM), "not registered");
        assert_eq!(sys!(SYS_membarrier, 512, 0, 0), Ok(0));
        assert_eq!(sys!(SYS_membarrier, 16, 0, 0), Ok(0));
        assert_eq!(sys!(SYS_membarrier, 8, 0, 0), Ok(0));
        assert_eq!(sys!(SYS_membarrier, 4, 0, 0), Ok(0));
        assert_eq!(sys!(SYS_membarrier, 2, 0, 0), Ok(0));
        assert_eq!(sys!(SYS_membarrier, 512, 0, 0), Ok(20));
    });
}

fn cachestat_counts() {
    let fd = new_file("f");
    pwrite(fd, &[1; 3 * PAGE], 0).unwrap();
    let mut out = [9u64; 5];
    let cachestat = |fd: i32, range: &[u64; 2], out: &mut [u64; 5], flags: i32| {
        sys!(SYS_CACHESTAT, fd, range, out, flags)
    };
    assert_eq!(cachestat(fd, &[0, 4 * PAGE as u64], &mut out, 0), Ok(0));
    assert_eq!(out[0], 3);
    assert_eq!(cachestat(fd, &[PAGE as u64, 0], &mut out, 0), Ok(0));
    assert_eq!(out[0], 2, "length 0 is to the end");
    assert_eq!(cachestat(fd, &[0, 10], &mut out, 1), Err(EINVAL));
    assert_eq!(cachestat(-1, &[0, 10], &mut out, 0), Err(EBADF));
    assert_eq!(sys!(SYS_CACHESTAT, fd, BAD, &mut out, 0), Err(EFAULT));
}

fn remap_file_pages_shows_another_part() {
    let fd = new_file("f");
    for i in 0..4u8 {
        pwrite(fd, &[i + 1; PAGE], i64::from(i) * PAGE as i64).unwrap();
    }
    let a = map(4 * PAGE, RW, MAP_SHARED, fd).unwrap();
    sys!(SYS_remap_file_pages, a, PAGE, 0, 3, 0).unwrap();
    assert_eq!((peek(a), peek(a + PAGE)), (4, 2));
    assert_eq!(sys!(SYS_remap_file_pages, a, PAGE, PROT_READ, 3, 0), Err(EINVAL));
    let b = anon(PAGE);
    assert_eq!(sys!(SYS_remap_file_pages, b, PAGE, 0, 0, 0), Err(EINVAL), "private");
}

fn mrelease_wants_a_dying_process() {
    let kid = child(|| nap(10_000));
    let fd = sys!(SYS_pidfd_open, kid.0, 0).unwrap() as i32;
    assert_eq!(sys!(SYS_PROCESS_MRELEASE, fd, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_PROCESS_MRELEASE, fd, 0), Err(EINVAL), "it lives");
    assert_eq!(sys!(SYS_PROCESS_MRELEASE, -1, 0), Err(EBADF));
    kid.kill(SIGKILL);
    kid.wait();
    assert_eq!(sys!(SYS_PROCESS_MRELEASE, fd, 0), Err(ESRCH));
}

fn guards_in_a_file_and_over_fork() {
    let fd = new_file("f");
    pwrite(fd, &[1; 4 * PAGE], 0).unwrap();
    let file = map(4 * PAGE, RW, MAP_SHARED, fd).unwrap();
    let own = anon(4 * PAGE);
    for a in [file, own] {
        sys!(SYS_madvise, a + PAGE, PAGE, GUARD_INSTALL).unwrap();
        peek(a);
        assert_eq!(fate(|| ignore(peek(a + PAGE))), Status::Signal(SIGSEGV), "also in the child");
        let mut byte = [0u8];
        assert_eq!(pwrite(fd, bytes_at(a + PAGE, 1), 0), Err(EFAULT));
        ignore(&mut byte);
        sys!(SYS_madvise, a, 4 * PAGE, MADV_DONTNEED).unwrap();
        assert_eq!(fate(|| ignore(peek(a + PAGE))), Status::Signal(SIGSEGV), "advice does not remove it");
        sys!(SYS_madvise, a, 4 * PAGE, GUARD_REMOVE).unwrap();
        peek(a + PAGE);
    }
}

fn sealed_files_map_read_only() {
    for seal in [F_SEAL_WRITE, 0x10] {
        let fd = sys!(SYS_memfd_create, &cstr("sealed"), MFD_ALLOW_SEALING).unwrap() as i32;
        sys!(SYS_ftruncate, fd, PAGE).unwrap();
        let before = (seal == 0x10).then(|| map(PAGE, RW, MAP_SHARED, fd).unwrap());
        sys!(SYS_fcntl, fd, F_ADD_SEALS, seal).unwrap();
        assert_eq!(map(PAGE, RW, MAP_SHARED, fd), Err(EPERM));
        let a = map(PAGE, PROT_READ, MAP_SHARED, fd).unwrap();
        assert_eq!(sys!(SYS_mprotect, a, PAGE, RW), Err(EACCES));
        if let Some(before) = before {
            poke(before, 7);
            assert_eq!(peek(a), 7);
        }
        let own = map(PAGE, RW, MAP_PRIVATE, fd).unwrap();
        poke(own, 1);
    }
}

fn no_huge_pages_no_keys() {
    let huge = |flags: i32| map(2 << 20, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | flags, -1);
    assert_eq!(huge(13 << 26), Err(EINVAL), "no such size");
    let fd = new_file("f");
    assert_eq!(map(PAGE, PROT_READ, MAP_SHARED | MAP_HUGETLB, fd), Err(EINVAL));
    let a = anon(PAGE);
    assert_eq!(sys!(SYS_pkey_mprotect, a, PAGE, PROT_READ, -1), Ok(0));
    assert_eq!(sys!(SYS_pkey_mprotect, a, PAGE, PROT_READ, 99), Err(EINVAL));
    assert_eq!(sys!(SYS_pkey_alloc, 1, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_pkey_free, 99), Err(EINVAL));
    let droppable = |flags: i32| sys!(SYS_mmap, 0, PAGE, RW, 8 | MAP_ANONYMOUS | flags, -1, 0);
    assert_eq!(droppable(MAP_LOCKED), Err(EINVAL));
    assert_eq!(droppable(MAP_GROWSDOWN), Err(EINVAL));
    poke(droppable(0).unwrap(), 1);
}

fn no_exec_gain() {
    const SET_MDWE: i32 = 65;
    const GET_MDWE: i32 = 66;
    const RX: i32 = PROT_READ | PROT_EXEC;
    let prctl = |option: i32, bits: i32| sys!(SYS_prctl, option, bits, 0, 0, 0);
    aside(|| {
        assert_eq!(prctl(SET_MDWE, 2), Err(EINVAL), "no inheritance of nothing");
        assert_eq!(prctl(SET_MDWE, 4), Err(EINVAL));
        assert_eq!(prctl(GET_MDWE, 0), Ok(0));
        let (rw, rx) = (anon(PAGE), map(PAGE, RX, MAP_PRIVATE | MAP_ANONYMOUS, -1).unwrap());
        prctl(SET_MDWE, 1).unwrap();
        assert_eq!((prctl(GET_MDWE, 0), prctl(SET_MDWE, 0)), (Ok(1), Err(EPERM)));
        assert_eq!(map(PAGE, RW | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1), Err(EACCES));
        assert_eq!(sys!(SYS_mprotect, rw, PAGE, RX), Err(EACCES));
        assert_eq!(sys!(SYS_mprotect, rx, PAGE, RX), Ok(0));
        aside(|| assert_eq!(prctl(GET_MDWE, 0), Ok(1), "a child inherits it"));
    });
}

fn names_of_anonymous_memory() {
    const SET_VMA: i32 = 0x5356_4d41;
    let a = anon(4 * PAGE);
    let name = |at: usize, len: usize, name: &str| sys!(SYS_prctl, SET_VMA, 0, at, len, &cstr(name));
    if name(a, PAGE, "mine") == Err(EINVAL) {
        skip("anonymous memory has no names here");
    }
    let line = |at: usize| {
        let maps = slurp("/proc/self/maps");
        maps.lines().find(|l| l.starts_with(&format!("{at:08x}-"))).map(str::to_string)
    };
    assert!(line(a).unwrap().ends_with(" [anon:mine]"));
    assert!(line(a + PAGE).is_some(), "the name cut the mapping");
    assert_eq!(name(a, PAGE, "a[b"), Err(EINVAL));
    assert_eq!(name(a + 1, PAGE, "x"), Err(EINVAL));
    sys!(SYS_prctl, SET_VMA, 0, a, PAGE, 0).unwrap();
    assert_eq!(line(a + PAGE), None, "merged again");
    let file = map(PAGE, PROT_READ, MAP_PRIVATE, new_file("f")).unwrap();
    assert_eq!(name(file, PAGE, "x"), Err(EBADF));
}

fn secret_memory() {
    const SYS_MEMFD_SECRET: c_long = 447;
    assert_eq!(sys!(SYS_MEMFD_SECRET, 1), Err(EINVAL));
    let fd = match sys!(SYS_MEMFD_SECRET, O_CLOEXEC) {
        Err(ENOSYS) => skip("memfd_secret is switched off"),
        other => other.unwrap() as i32,
    };
    sys!(SYS_ftruncate, fd, PAGE).unwrap();
    assert_eq!(write(fd, b"x"), Err(EINVAL));
    assert_eq!(read_vec(fd, 1), Err(EINVAL));
    assert_eq!(map(PAGE, RW, MAP_PRIVATE, fd), Err(EINVAL));
    let a = map(PAGE, RW, MAP_SHARED, fd).unwrap();
    poke(a, 7);
    assert_eq!(peek(a), 7);
    let mut byte = [0u8];
    let local = [byte.as_mut_ptr() as usize, 1];
    assert_eq!(sys!(SYS_process_vm_readv, getpid(), &local, 1, &[a, 1usize], 1, 0), Err(EFAULT));
    assert_eq!(map(PAGE, RW | PROT_EXEC, MAP_SHARED, fd), Err(EPERM), "no code in it");
    assert_eq!(sys!(SYS_mprotect, a, PAGE, PROT_EXEC), Err(EACCES));
}

/// The entries of `n` pages in /proc/self/pagemap.
fn pagemap(addr: usize, n: usize) -> Vec<u64> {
    let fd = open(&cstr("/proc/self/pagemap"), O_RDONLY).unwrap();
    let bytes = pread(fd, n * 8, (addr / PAGE * 8) as i64).unwrap();
    close(fd);
    bytes.chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect()
}

fn pagemap_tells_states() {
    let (a, s) = (anon(4 * PAGE), shared(2 * PAGE));
    poke(a, 1);
    poke(s, 1);
    sys!(SYS_madvise, a + 2 * PAGE, PAGE, GUARD_INSTALL).unwrap();
    let state = |e: u64| (e >> 63, e >> 61 & 1, e >> 58 & 1, e >> 56 & 1);
    let own = pagemap(a, 3);
    assert_eq!(state(own[0]), (1, 0, 0, 1), "present, anonymous, exclusive");
    assert_ne!(own[0] & ((1 << 55) - 1), 0, "root sees the frame");
    assert_eq!(state(own[1]), (0, 0, 0, 0));
    assert_eq!(state(own[2]), (0, 0, 1, 0), "guard");
    assert_eq!(state(pagemap(s, 1)[0]), (1, 1, 0, 1), "shared memory is a file's");
}

fn soft_dirty_bits() {
    let a = anon(3 * PAGE);
    (0..3).for_each(|i| poke(a + i * PAGE, 1));
    let dirty = || pagemap(a, 3).iter().map(|e| e >> 55 & 1).collect::<Vec<_>>();
    if dirty() == [0, 0, 0] {
        skip("soft-dirty bits are not built in");
    }
    let fd = open(&cstr("/proc/self/clear_refs"), O_WRONLY).unwrap();
    write(fd, b"4").unwrap();
    assert_eq!(dirty(), [0, 0, 0]);
    poke(a + PAGE, 2);
    peek(a);
    assert_eq!(dirty(), [0, 1, 0]);
    sys!(SYS_mprotect, a, 3 * PAGE, PROT_READ).unwrap();
    sys!(SYS_mprotect, a, 3 * PAGE, RW).unwrap();
    poke(a + 2 * PAGE, 2);
    assert_eq!(dirty(), [0, 1, 1]);
    assert_eq!(write(fd, b"9"), Err(EINVAL));
}

fn maps_answer_queries() {
    const QUERY: u32 = 0xc068_6611;
    let a = anon(16 * PAGE);
    sys!(SYS_mprotect, a + PAGE, PAGE, PROT_READ).unwrap();
    sys!(SYS_munmap, a + 4 * PAGE, PAGE).unwrap();
    let fd = open(&cstr("/proc/self/maps"), O_RDONLY).unwrap();
    let ask = |addr: usize, flags: u64| {
        let mut query = [0u64; 13];
        query[0] = 104;
        query[1] = flags;
        query[2] = addr as u64;
        sys!(SYS_ioctl, fd, QUERY, &mut query).map(|_| query)
    };
    let exact = ask(a + PAGE + 5, 0).unwrap();
    assert_eq!(exact[3..9], [(a + PAGE) as u64, (a + 2 * PAGE) as u64, 1, 4096, 0, 0]);
    assert_eq!(ask(a + 4 * PAGE, 0), Err(ENOENT));
    assert_eq!(ask(a + 4 * PAGE, 16).unwrap()[3], (a + 5 * PAGE) as u64, "or the next");
    assert_eq!(ask(a + PAGE, 2), Err(ENOENT), "not writable");
    assert_eq!(ask(a, 64), Err(EINVAL));
    let mut name = [0u8; 256];
    let mut query = [104u64, 32 | 4 | 16, 0, 0, 0, 0, 0, 0, 0, 0, 256, name.as_mut_ptr() as u64, 0];
    sys!(SYS_ioctl, fd, QUERY, &mut query).unwrap();
    assert!(name.starts_with(b"/"), "the first executable file mapping has a path");
    assert_eq!(name[query[10] as u32 as usize - 1], 0);
    let mut short = [0u64; 13];
    short[0] = 16;
    assert_eq!(sys!(SYS_ioctl, fd, QUERY, &mut short), Err(EINVAL));
}

fn numa_maps_shows_policies() {
    let a = anon(2 * PAGE);
    poke(a, 1);
    let zero = 1u64;
    sys!(SYS_mbind, a, 2 * PAGE, MPOL_BIND, &zero, 64, 0).unwrap();
    let text = slurp("/proc/self/numa_maps");
    let line = text.lines().find(|l| l.starts_with(&format!("{a:08x} "))).unwrap();
    assert!(line.contains(" bind:0 anon=1 dirty=1 ") && line.contains(" N0=1 "), "{line}");
}
