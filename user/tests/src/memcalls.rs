//! Memory calls beside mmap(2): seals, policies, advice to others, barriers.

use crate::prelude::*;

tests!(
    "memcalls":
    mseal_rules, sealed_memory_keeps_its_contents, several_areas_move_at_once, policies, policies_of_mappings,
    pages_are_on_the_only_node, advice_to_another, membarrier_registers, cachestat_counts,
    remap_file_pages_shows_another_part, mrelease_wants_a_dying_process, guards_in_a_file_and_over_fork,
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
    assert_eq!(advise(0, MADV_COLD, 0).is_err(), true);
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
