//! The same work by as many processes at once as there are CPUs, one on each.
//!
//! The value is the time of one repetition by the slowest of them: on a kernel that scales it is the same with
//! every number of CPUs.

use std::sync::atomic::Ordering::SeqCst;

use libc::*;

use crate::file::fill;
use crate::local::connect_accept;
use crate::process::{pipe, wait};
use crate::sys::{Res, atomic, exit, fork, now, touch};
use crate::{Op, Unit, sys};

const fn op(name: &'static str, rounds: u64, run: crate::Run) -> Op {
    Op { group: "scale", name, unit: Unit::Ns, rounds, run }
}

const RW: i32 = PROT_READ | PROT_WRITE;

pub const OPS: &[Op] = &[
    op("fault-64k", 200, |n| {
        workers(|| {
            each(n, || {
                let a = sys!(SYS_mmap, 0, 65536, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)?;
                touch(a, 65536);
                sys!(SYS_munmap, a, 65536)
            })
        })
    }),
    op("mmap-munmap", 1_000, |n| {
        workers(|| {
            each(n, || {
                let a = sys!(SYS_mmap, 0, 4096, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)?;
                sys!(SYS_munmap, a, 4096)
            })
        })
    }),
    op("open-same-file", 1_000, |n| {
        let p = fill("same", 1)?;
        workers(|| each(n, || sys!(SYS_close, sys!(SYS_open, &p, O_RDONLY)?)))
    }),
    op("open-own-file", 1_000, |n| {
        workers(|| {
            let p = fill("own", 1)?;
            each(n, || sys!(SYS_close, sys!(SYS_open, &p, O_RDONLY)?))
        })
    }),
    op("pipe", 1_000, |n| {
        workers(|| {
            let p = pipe()?;
            each(n, || {
                sys!(SYS_write, p[1], &[1u8], 1)?;
                sys!(SYS_read, p[0], &mut [0u8], 1)
            })
        })
    }),
    op("futex-wake", 2_000, |n| {
        workers(|| {
            let word = 0u32;
            each(n, || sys!(SYS_futex, &word, FUTEX_WAKE, 1))
        })
    }),
    op("fork-exit-wait", 50, |n| {
        workers(|| {
            each(n, || match fork()? {
                0 => exit(0),
                pid => wait(pid),
            })
        })
    }),
    op("unix-connect-accept", 200, |n| workers(|| connect_accept(n))),
];

/// The time of `n` repetitions.
fn each(n: u64, mut f: impl FnMut() -> Res) -> Res<u64> {
    f()?;
    let start = now();
    for _ in 0..n {
        f()?;
    }
    Ok(now() - start)
}

/// The CPUs that this process may run on.
fn cpus() -> Res<Vec<usize>> {
    let mut mask = [0u64; 16];
    sys!(SYS_sched_getaffinity, 0, size_of_val(&mask), &mut mask)?;
    Ok((0..1024).filter(|cpu| mask[cpu / 64] >> (cpu % 64) & 1 == 1).collect())
}

/// Runs `work` on each CPU at once, after all have arrived; the longest time that one of them says.
fn workers(work: impl Fn() -> Res<u64>) -> Res<u64> {
    let cpus = cpus()?;
    let page = sys!(SYS_mmap, 0, 4096, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0)?;
    let (arrived, longest, error) = (atomic(page), atomic(page + 4), atomic(page + 8));
    let mut pids = vec![];
    for &cpu in &cpus {
        match fork()? {
            0 => {
                let mut mask = [0u64; 16];
                mask[cpu / 64] |= 1 << (cpu % 64);
                let _ = sys!(SYS_sched_setaffinity, 0, size_of_val(&mask), &mask);
                arrived.fetch_add(1, SeqCst);
                while (arrived.load(SeqCst) as usize) < cpus.len() {
                    let _ = sys!(SYS_sched_yield);
                }
                match work() {
                    Ok(took) => _ = longest.fetch_max(took as u32, SeqCst),
                    Err(e) => error.store(e as u32, SeqCst),
                }
                let _ = std::fs::remove_dir_all(crate::file::folder(std::process::id() as i32));
                exit(0);
            }
            pid => pids.push(pid),
        }
    }
    for pid in pids {
        wait(pid)?;
    }
    let (took, error) = (longest.load(SeqCst), error.load(SeqCst));
    sys!(SYS_munmap, page, 4096)?;
    if error != 0 { Err(nix::errno::Errno::from_raw(error as i32)) } else { Ok(u64::from(took)) }
}
