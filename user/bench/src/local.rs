//! Communication between processes of one machine: round trips and bandwidth.

use libc::*;

use crate::file::{fill, path};
use crate::process::{pipe, wait};
use crate::sys::{Res, exit, fork, now, zero};
use crate::{Op, Unit, repeat, sys};

const fn op(name: &'static str, rounds: u64, run: crate::Run) -> Op {
    Op { group: "local", name, unit: Unit::Ns, rounds, run }
}

const fn flow(name: &'static str, bytes: u64, rounds: u64, run: crate::Run) -> Op {
    Op { group: "local", name, unit: Unit::NsPerKib(bytes), rounds, run }
}

pub const OPS: &[Op] = &[
    op("pipe-round-trip", 1_000, |n| round_trip(n, two_pipes)),
    op("fifo-round-trip", 1_000, |n| round_trip(n, two_fifos)),
    op("unix-stream-round-trip", 1_000, |n| round_trip(n, || pair(SOCK_STREAM))),
    op("unix-dgram-round-trip", 1_000, |n| round_trip(n, || pair(SOCK_DGRAM))),
    op("unix-seqpacket-round-trip", 1_000, |n| round_trip(n, || pair(SOCK_SEQPACKET))),
    op("socketpair-create", 1_000, |n| repeat(n, || pair(SOCK_STREAM).and_then(close_all))),
    op("pipe-create", 1_000, |n| {
        repeat(n, || {
            let p = pipe()?;
            sys!(SYS_close, p[0])?;
            sys!(SYS_close, p[1])
        })
    }),
    op("unix-connect-accept", 500, connect_accept),
    flow("pipe-128", 128, 2_000, |n| stream(n, 128, two_pipes)),
    flow("pipe-4k", 4096, 1_000, |n| stream(n, 4096, two_pipes)),
    flow("pipe-64k", 65536, 200, |n| stream(n, 65536, two_pipes)),
    flow("unix-stream-128", 128, 2_000, |n| stream(n, 128, || pair(SOCK_STREAM))),
    flow("unix-stream-4k", 4096, 1_000, |n| stream(n, 4096, || pair(SOCK_STREAM))),
    flow("unix-stream-64k", 65536, 200, |n| stream(n, 65536, || pair(SOCK_STREAM))),
    flow("sendfile-64k", 65536, 100, |n| {
        from_file(n, |to, file, _| sys!(SYS_sendfile, to, file, &mut 0i64, 65536))
    }),
    flow("splice-64k", 65536, 100, |n| {
        from_file(n, |to, file, _| sys!(SYS_splice, file, &mut 0i64, to, 0, 65536, 0))
    }),
    flow("copy_file_range-1m", 1 << 20, 20, |n| {
        let from = sys!(SYS_open, &fill("from", 1 << 20)?, O_RDONLY)?;
        let to = sys!(SYS_open, &fill("to", 1 << 20)?, O_RDWR)?;
        let r = repeat(n, || sys!(SYS_copy_file_range, from, &mut 0i64, to, &mut 0i64, 1 << 20, 0));
        sys!(SYS_close, from)?;
        sys!(SYS_close, to)?;
        r
    }),
];

/// Descriptors of two ends: (read, write) of the one and of the other.
pub type Ends = [i32; 4];

fn two_pipes() -> Res<Ends> {
    let (there, back) = (pipe()?, pipe()?);
    Ok([back[0], there[1], there[0], back[1]])
}

fn two_fifos() -> Res<Ends> {
    let (a, b) = (path("fifo-a"), path("fifo-b"));
    let mut fds = [0; 2];
    for (fd, p) in fds.iter_mut().zip([&a, &b]) {
        let _ = sys!(SYS_mknod, p, S_IFIFO | 0o600, 0);
        *fd = sys!(SYS_open, p, O_RDWR)? as i32;
    }
    let dup = |fd: i32| sys!(SYS_dup, fd).map(|fd| fd as i32);
    Ok([fds[0], fds[1], dup(fds[1])?, dup(fds[0])?])
}

fn pair(kind: i32) -> Res<Ends> {
    let mut fds = [0i32; 2];
    sys!(SYS_socketpair, AF_UNIX, kind, 0, &mut fds)?;
    Ok([fds[0], fds[0], fds[1], fds[1]])
}

pub fn close_all(ends: Ends) -> Res {
    let mut fds = ends.to_vec();
    fds.sort_unstable();
    fds.dedup();
    for fd in fds {
        sys!(SYS_close, fd)?;
    }
    Ok(0)
}

/// A byte to another process and back.
pub fn round_trip(n: u64, ends: impl Fn() -> Res<Ends>) -> Res<u64> {
    let ends = ends()?;
    let [my_in, my_out, its_in, its_out] = ends;
    let pid = fork()?;
    let mut byte = [0u8];
    if pid == 0 {
        while sys!(SYS_read, its_in, &mut byte, 1) == Ok(1)
            && sys!(SYS_write, its_out, &byte.clone(), 1) == Ok(1)
        {}
        exit(0);
    }
    let r = repeat(n, || {
        sys!(SYS_write, my_out, &byte.clone(), 1)?;
        sys!(SYS_read, my_in, &mut byte, 1)
    });
    sys!(SYS_kill, pid, SIGKILL)?;
    wait(pid)?;
    close_all(ends)?;
    r
}

/// `n` writes of `size` bytes to a process that reads them all and then answers.
pub fn stream(n: u64, size: usize, ends: impl Fn() -> Res<Ends>) -> Res<u64> {
    let ends = ends()?;
    let [my_in, my_out, its_in, its_out] = ends;
    let pid = fork()?;
    let mut buf = vec![7u8; size];
    if pid == 0 {
        let mut left = n as usize * size;
        while left > 0 {
            match sys!(SYS_read, its_in, &mut buf[..], size) {
                Ok(got) if got > 0 => left -= got.min(left),
                _ => exit(1),
            }
        }
        let _ = sys!(SYS_write, its_out, &[1u8], 1);
        exit(0);
    }
    let start = now();
    for _ in 0..n {
        let mut done = 0;
        while done < size {
            done += sys!(SYS_write, my_out, &buf[done..], size - done)?;
        }
    }
    sys!(SYS_read, my_in, &mut [0u8; 1], 1)?;
    let took = now() - start;
    wait(pid)?;
    close_all(ends)?;
    Ok(took)
}

/// Moves 64 KiB of a cached file into a pipe and reads them out.
fn from_file(n: u64, send: impl Fn(i32, usize, u64) -> Res) -> Res<u64> {
    let file = sys!(SYS_open, &fill("source", 65536)?, O_RDONLY)?;
    let p = pipe()?;
    let mut buf = vec![0u8; 65536];
    let r = repeat(n, || {
        let mut left = send(p[1], file, 0)?;
        while left > 0 {
            left -= sys!(SYS_read, p[0], &mut buf[..], left)?;
        }
        Ok(0)
    });
    for fd in [file as i32, p[0], p[1]] {
        sys!(SYS_close, fd)?;
    }
    r
}

pub fn connect_accept(n: u64) -> Res<u64> {
    let mut name: sockaddr_un = zero();
    name.sun_family = AF_UNIX as u16;
    let p = path("socket");
    let _ = sys!(SYS_unlink, &p);
    for (to, from) in name.sun_path.iter_mut().zip(p.as_bytes_with_nul()) {
        *to = *from as c_char;
    }
    let listener = sys!(SYS_socket, AF_UNIX, SOCK_STREAM, 0)?;
    sys!(SYS_bind, listener, &name, size_of::<sockaddr_un>())?;
    sys!(SYS_listen, listener, 8)?;
    let r = repeat(n, || {
        let client = sys!(SYS_socket, AF_UNIX, SOCK_STREAM, 0)?;
        sys!(SYS_connect, client, &name, size_of::<sockaddr_un>())?;
        let server = sys!(SYS_accept4, listener, 0, 0, 0)?;
        sys!(SYS_close, client)?;
        sys!(SYS_close, server)
    });
    sys!(SYS_close, listener)?;
    r
}
