//! Mappings and page faults.

use libc::*;

use crate::file::fill;
use crate::process::{fork_once, wait};
use crate::sys::{Res, exit, fork, look, now, touch};
use crate::{Op, Unit, repeat, sys};

const fn op(name: &'static str, rounds: u64, run: crate::Run) -> Op {
    Op { group: "memory", name, unit: Unit::Ns, rounds, run }
}

const MIB: usize = 1 << 20;
const RW: i32 = PROT_READ | PROT_WRITE;

pub const OPS: &[Op] = &[
    op("mmap-munmap-4k", 2_000, |n| repeat(n, || unmap(map(4096, MAP_PRIVATE)?, 4096))),
    op("mmap-munmap-64m", 2_000, |n| repeat(n, || unmap(map(64 * MIB, MAP_PRIVATE)?, 64 * MIB))),
    op("mmap-touch-munmap-64k", 200, |n| {
        repeat(n, || {
            let a = map(16 * 4096, MAP_PRIVATE)?;
            touch(a, 16 * 4096);
            unmap(a, 16 * 4096)
        })
    }),
    op("fault-anonymous-4k", 2_000, |n| fault(n, MAP_PRIVATE, MADV_NOHUGEPAGE, 4096)),
    op("fault-anonymous-huge", 8, |n| fault(n, MAP_PRIVATE, MADV_HUGEPAGE, 2 * MIB)),
    op("fault-shared-4k", 2_000, |n| fault(n, MAP_SHARED, MADV_NOHUGEPAGE, 4096)),
    op("fault-file", 512, fault_file),
    op("fault-cow", 512, fault_cow),
    op("mprotect", 2_000, |n| {
        let a = map(4 * 4096, MAP_PRIVATE)?;
        touch(a, 4 * 4096);
        let mut prot = PROT_READ;
        repeat(n, || {
            prot ^= PROT_WRITE;
            sys!(SYS_mprotect, a, 4 * 4096, prot)
        })
    }),
    op("mremap-move-256m", 4, mremap_move),
    op("madvise-dontneed-64k", 200, |n| {
        let a = map(16 * 4096, MAP_PRIVATE)?;
        repeat(n, || {
            touch(a, 16 * 4096);
            sys!(SYS_madvise, a, 16 * 4096, MADV_DONTNEED)
        })
    }),
    op("brk", 2_000, |n| {
        let start = sys!(SYS_brk, 0)?;
        repeat(n, || {
            sys!(SYS_brk, start + 4096)?;
            sys!(SYS_brk, start)
        })
    }),
    op("fork-256m", 4, |n| {
        let a = map(256 * MIB, MAP_PRIVATE)?;
        touch(a, 256 * MIB);
        let r = forks(n);
        unmap(a, 256 * MIB)?;
        r
    }),
    op("fork-1000-mappings", 10, |n| {
        let a = map(2000 * 4096, MAP_PRIVATE)?;
        for i in 0..1000 {
            sys!(SYS_mprotect, a + 2 * i * 4096, 4096, PROT_READ)?;
        }
        let r = forks(n);
        unmap(a, 2000 * 4096)?;
        r
    }),
];

fn map(len: usize, kind: i32) -> Res {
    sys!(SYS_mmap, 0, len, RW, kind | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
}

fn unmap(addr: usize, len: usize) -> Res {
    sys!(SYS_munmap, addr, len)
}

/// First writes to `n` pages of `step` bytes.
fn fault(n: u64, kind: i32, advice: i32, step: usize) -> Res<u64> {
    let len = n as usize * step;
    let a = map(len + step, kind)?;
    let from = a.next_multiple_of(step);
    let _ = sys!(SYS_madvise, from, len, advice);
    let start = now();
    for i in 0..n as usize {
        touch(from + i * step, 1);
    }
    let took = now() - start;
    unmap(a, len + step)?;
    Ok(took)
}

/// First reads of pages that are in the page cache.
fn fault_file(n: u64) -> Res<u64> {
    let len = n as usize * 4096;
    let fd = sys!(SYS_open, &fill("faults", len)?, O_RDONLY)?;
    let a = sys!(SYS_mmap, 0, len, PROT_READ, MAP_SHARED, fd, 0)?;
    let start = now();
    look(a, len);
    let took = now() - start;
    unmap(a, len)?;
    sys!(SYS_close, fd)?;
    Ok(took)
}

/// First writes in a child to pages that it shares with its parent.
fn fault_cow(n: u64) -> Res<u64> {
    let len = n as usize * 4096;
    let a = map(len, MAP_PRIVATE)?;
    let _ = sys!(SYS_madvise, a, len, MADV_NOHUGEPAGE);
    touch(a, len);
    let result = sys!(SYS_mmap, 0, 4096, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0)?;
    let word = crate::sys::atomic(result);
    match fork()? {
        0 => {
            let start = now();
            touch(a, len);
            word.store((now() - start) as u32, std::sync::atomic::Ordering::SeqCst);
            exit(0)
        }
        pid => wait(pid)?,
    };
    unmap(a, len)?;
    let took = word.load(std::sync::atomic::Ordering::SeqCst);
    unmap(result, 4096)?;
    Ok(u64::from(took))
}

fn mremap_move(n: u64) -> Res<u64> {
    let len = 256 * MIB;
    let room = map(2 * len, MAP_PRIVATE)?;
    unmap(room, 2 * len)?;
    let at =
        |addr| sys!(SYS_mmap, addr, len, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    let (mut here, mut there) = (at(room)?, room + len);
    touch(here, len);
    let r = repeat(n, || {
        sys!(SYS_mremap, here, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, there)?;
        std::mem::swap(&mut here, &mut there);
        Ok(0)
    });
    unmap(here, len)?;
    r
}

fn forks(n: u64) -> Res<u64> {
    fork_once()?;
    (0..n).map(|_| fork_once()).sum()
}
