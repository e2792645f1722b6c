//! Files on tmpfs (/tmp), and the same operations on ext4 (group `ext4`, on the disk /dev/vda).

use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use libc::*;

use crate::process::cstr;
use crate::sys::{Res, look, now};
use crate::{Op, Unit, repeat, sys};

const fn op(name: &'static str, rounds: u64, run: crate::Run) -> Op {
    Op { group: "file", name, unit: Unit::Ns, rounds, run }
}

const MIB: usize = 1 << 20;

pub const OPS: &[Op] = &[
    op("create-close", 500, |n| {
        each_name(n, |p| close(sys!(SYS_open, p, O_CREAT | O_EXCL | O_WRONLY, 0o644)?))
    }),
    op("unlink", 500, |n| {
        each_name(n, |p| close(sys!(SYS_open, p, O_CREAT | O_EXCL | O_WRONLY, 0o644)?))?;
        timed_names(n, |p| sys!(SYS_unlink, p))
    }),
    op("rename", 1_000, |n| {
        let (mut a, mut b) = (fill("name-a", 1)?, path("name-b"));
        repeat(n, || {
            std::mem::swap(&mut a, &mut b);
            sys!(SYS_rename, &b, &a)
        })
    }),
    op("mkdir-rmdir", 1_000, |n| {
        let p = path("folder");
        repeat(n, || {
            sys!(SYS_mkdir, &p, 0o755)?;
            sys!(SYS_rmdir, &p)
        })
    }),
    op("link-unlink", 1_000, |n| {
        let (a, b) = (fill("linked", 1)?, path("link"));
        repeat(n, || {
            sys!(SYS_link, &a, &b)?;
            sys!(SYS_unlink, &b)
        })
    }),
    op("write-4k-new", 512, |n| {
        let fd = sys!(SYS_open, &path("new"), O_CREAT | O_TRUNC | O_RDWR, 0o644)?;
        let block = [1u8; 4096];
        let start = now();
        for _ in 0..n {
            sys!(SYS_write, fd, &block, 4096)?;
        }
        let took = now() - start;
        close(fd)?;
        Ok(took)
    }),
    op("write-4k-sequential", 1_000, |n| transfer(n, SYS_pwrite64, |i, _| i % 256)),
    op("write-4k-random", 1_000, |n| transfer(n, SYS_pwrite64, |_, r| r % 256)),
    op("read-4k-sequential", 1_000, |n| transfer(n, SYS_pread64, |i, _| i % 256)),
    op("read-4k-random", 1_000, |n| transfer(n, SYS_pread64, |_, r| r % 256)),
    op("mmap-read-1m", 20, |n| {
        let fd = sys!(SYS_open, &fill("mapped", MIB)?, O_RDONLY)?;
        let r = repeat(n, || {
            let a = sys!(SYS_mmap, 0, MIB, PROT_READ, MAP_SHARED, fd, 0)?;
            look(a, MIB);
            sys!(SYS_munmap, a, MIB)
        });
        close(fd)?;
        r
    }),
    op("write-fsync-4k", 500, |n| {
        let fd = sys!(SYS_open, &fill("synced", 4096)?, O_RDWR)?;
        let r = repeat(n, || {
            sys!(SYS_pwrite64, fd, &[2u8; 4096], 4096, 0)?;
            sys!(SYS_fsync, fd)
        });
        close(fd)?;
        r
    }),
    op("walk-10000", 1, walk),
];

/// The group whose files are on the disk.
pub const EXT4: &str = "ext4";
const DISK: &CStr = c"/dev/vda";
const DISK_MOUNTED: &CStr = c"/mnt";

/// Whether files are made on the disk.
static ON_DISK: AtomicBool = AtomicBool::new(false);

/// Mounts the disk when it is not, and makes files there from now on.
pub fn use_disk() -> Res {
    ON_DISK.store(true, Relaxed);
    match sys!(SYS_mount, DISK, DISK_MOUNTED, c"ext4", 0, 0) {
        Err(nix::errno::Errno::EBUSY) => Ok(0),
        other => other,
    }
}

/// Makes files in memory from now on.
pub fn use_memory() {
    ON_DISK.store(false, Relaxed);
}

/// The folder of the measuring process `pid`.
pub fn folder(pid: i32) -> String {
    let root = if ON_DISK.load(Relaxed) { "/mnt" } else { "/tmp" };
    format!("{root}/user-bench.{pid}")
}

/// A path in this process's folder, which is made when missing.
pub fn path(name: &str) -> CString {
    let folder = folder(sys!(SYS_getpid).unwrap_or(0) as i32);
    let _ = sys!(SYS_mkdir, &cstr(folder.clone()), 0o755);
    cstr(format!("{folder}/{name}"))
}

/// Makes the file `name` of `len` bytes.
pub fn fill(name: &str, len: usize) -> Res<CString> {
    let p = path(name);
    let fd = sys!(SYS_open, &p, O_CREAT | O_TRUNC | O_RDWR, 0o644)?;
    let data = vec![1u8; len];
    let mut done = 0;
    while done < len {
        done += sys!(SYS_write, fd, &data[done..], len - done)?;
    }
    close(fd)?;
    Ok(p)
}

fn close(fd: usize) -> Res {
    sys!(SYS_close, fd)
}

/// The time that `f` takes over `n` names.
fn timed_names(n: u64, mut f: impl FnMut(&CString) -> Res) -> Res<u64> {
    let names: Vec<_> = (0..n).map(|i| path(&format!("n{i}"))).collect();
    let start = now();
    for p in &names {
        f(p)?;
    }
    Ok(now() - start)
}

/// As [`timed_names`] for calls that make the names; they are removed first.
fn each_name(n: u64, f: impl FnMut(&CString) -> Res) -> Res<u64> {
    timed_names(n, |p| sys!(SYS_unlink, p).or(Ok(0)))?;
    timed_names(n, f)
}

/// Reads or writes blocks of a file of 1 MiB; `block` gives the block of round `i`.
fn transfer(n: u64, call: c_long, block: impl Fn(u64, u64) -> u64) -> Res<u64> {
    let fd = sys!(SYS_open, &fill("blocks", MIB)?, O_RDWR)?;
    let mut buf = [3u8; 4096];
    let (mut i, mut random) = (0, 1u64);
    let r = repeat(n, || {
        i += 1;
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        sys!(call, fd, &mut buf, 4096, block(i, random >> 33) * 4096)
    });
    close(fd)?;
    r
}

/// Lists 100 folders of 100 files and looks at every file.
fn walk(n: u64) -> Res<u64> {
    if sys!(SYS_mkdir, &path("tree"), 0o755).is_ok() {
        for d in 0..100 {
            sys!(SYS_mkdir, &path(&format!("tree/{d}")), 0o755)?;
            for f in 0..100 {
                fill(&format!("tree/{d}/{f}"), 0)?;
            }
        }
    }
    let mut st: stat = crate::sys::zero();
    let mut buf = vec![0u8; 32 << 10];
    repeat(n, || {
        let mut files = 0;
        for d in 0..100 {
            let dir = sys!(SYS_open, &path(&format!("tree/{d}")), O_RDONLY | O_DIRECTORY)?;
            loop {
                let len = sys!(SYS_getdents64, dir, &mut buf[..], 32 << 10)?;
                let mut at = 0;
                while at < len {
                    sys!(SYS_newfstatat, dir, &buf[at + 19..], &mut st, AT_SYMLINK_NOFOLLOW)?;
                    files += 1;
                    at += usize::from(u16::from_ne_bytes([buf[at + 16], buf[at + 17]]));
                }
                if len == 0 {
                    break;
                }
            }
            close(dir)?;
        }
        Ok(files)
    })
}
