//! Single system calls.

use libc::*;

use crate::file::{fill, path};
use crate::sys::{Res, vdso_clock, zero};
use crate::{Op, Unit, repeat, sys};

const fn op(name: &'static str, rounds: u64, run: crate::Run) -> Op {
    Op { group: "syscall", name, unit: Unit::Ns, rounds, run }
}

pub const OPS: &[Op] = &[
    op("getppid", 20_000, |n| repeat(n, || sys!(SYS_getppid))),
    op("read-zero-1", 10_000, |n| {
        let fd = sys!(SYS_open, c"/dev/zero", O_RDONLY)?;
        let mut byte = [0u8];
        repeat(n, || sys!(SYS_read, fd, &mut byte, 1))
    }),
    op("write-null-1", 10_000, |n| {
        let fd = sys!(SYS_open, c"/dev/null", O_WRONLY)?;
        repeat(n, || sys!(SYS_write, fd, &[0u8], 1))
    }),
    op("fstat", 10_000, |n| {
        let mut st: stat = zero();
        let fd = sys!(SYS_open, c"/dev/zero", O_RDONLY)?;
        repeat(n, || sys!(SYS_fstat, fd, &mut st))
    }),
    op("stat", 5_000, |n| {
        let mut st: stat = zero();
        repeat(n, || sys!(SYS_stat, c"/dev/null", &mut st))
    }),
    op("stat-deep", 5_000, stat_deep),
    op("open-close", 5_000, |n| {
        repeat(n, || {
            let fd = sys!(SYS_open, c"/dev/null", O_RDONLY)?;
            sys!(SYS_close, fd)
        })
    }),
    op("access-missing", 5_000, |n| {
        repeat(n, || match sys!(SYS_access, c"/tmp/no-such-file", F_OK) {
            Err(nix::errno::Errno::ENOENT) => Ok(0),
            other => other,
        })
    }),
    op("fcntl-getfl", 10_000, |n| repeat(n, || sys!(SYS_fcntl, 0, F_GETFL))),
    op("dup-close", 5_000, |n| {
        let file = sys!(SYS_open, c"/dev/null", O_RDONLY)?;
        repeat(n, || {
            let fd = sys!(SYS_dup, file)?;
            sys!(SYS_close, fd)
        })
    }),
    op("getdents64-1000", 20, getdents),
    op("clock_gettime-vdso", 50_000, |n| repeat(n, vdso_clock)),
    op("clock_gettime", 10_000, |n| {
        let mut ts: timespec = zero();
        repeat(n, || sys!(SYS_clock_gettime, CLOCK_MONOTONIC, &mut ts))
    }),
    op("sched_yield", 10_000, |n| repeat(n, || sys!(SYS_sched_yield))),
    op("futex-wake-nobody", 10_000, |n| {
        let word = 0u32;
        repeat(n, || sys!(SYS_futex, &word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1))
    }),
    op("lseek", 10_000, |n| {
        let fd = sys!(SYS_open, &fill("seek", 4096)?, O_RDONLY)?;
        repeat(n, || sys!(SYS_lseek, fd, 0, SEEK_SET))
    }),
    op("getcwd", 5_000, |n| {
        let mut buf = [0u8; 256];
        repeat(n, || sys!(SYS_getcwd, &mut buf, 256))
    }),
    op("sigprocmask", 10_000, |n| repeat(n, || sys!(SYS_rt_sigprocmask, SIG_BLOCK, &0u64, 0, 8))),
];

fn stat_deep(n: u64) -> Res<u64> {
    let mut name = String::from("deep");
    for _ in 0..8 {
        sys!(SYS_mkdir, &path(&name), 0o755)?;
        name.push_str("/sub");
    }
    let p = fill(&name, 1)?;
    let mut st: stat = zero();
    let r = repeat(n, || sys!(SYS_stat, &p, &mut st));
    sys!(SYS_unlink, &p)?;
    for _ in 0..8 {
        name.truncate(name.len() - 4);
        sys!(SYS_rmdir, &path(&name))?;
    }
    r
}

fn getdents(n: u64) -> Res<u64> {
    let p = path("many");
    if sys!(SYS_mkdir, &p, 0o755).is_ok() {
        for i in 0..1000 {
            fill(&format!("many/file-{i}"), 0)?;
        }
    }
    let fd = sys!(SYS_open, &p, O_RDONLY | O_DIRECTORY)?;
    let mut buf = vec![0u8; 32 << 10];
    repeat(n, || {
        sys!(SYS_lseek, fd, 0, SEEK_SET)?;
        while sys!(SYS_getdents64, fd, &mut buf[..], 32 << 10)? > 0 {}
        Ok(0)
    })
}
