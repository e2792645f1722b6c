//! Processes, threads, signals and waiting for descriptors.

use std::ffi::CString;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use libc::*;

use crate::sys::{Res, atomic, exit, fault_address, fork, now, on_signal, spawn, touch, vfork_exec, zero};
use crate::{Op, Unit, repeat, sys};

const fn op(name: &'static str, rounds: u64, run: crate::Run) -> Op {
    Op { group: "process", name, unit: Unit::Ns, rounds, run }
}

/// The argument with which this program, executed by itself, ends at once.
pub const EXEC_MARK: &str = "__exit";

pub const OPS: &[Op] = &[
    op("fork-exit-wait", 100, |n| {
        repeat(n, || match fork()? {
            0 => exit(0),
            pid => wait(pid),
        })
    }),
    op("fork-exec-static", 50, |n| {
        exec_by_fork(n, c"/proc/self/exe", &[c"x".as_ptr() as usize, MARK as usize, 0])
    }),
    op("fork-exec-true", 50, |n| {
        let program = installed(&[c"/usr/bin/true", c"/bin/true"])?;
        exec_by_fork(n, program, &[program.as_ptr() as usize, 0])
    }),
    op("fork-exec-sh", 50, |n| {
        let sh = installed(&[c"/bin/sh", c"/usr/bin/sh"])?;
        exec_by_fork(n, sh, &[sh.as_ptr() as usize, c"-c".as_ptr() as usize, c":".as_ptr() as usize, 0])
    }),
    op("vfork-exec", 50, |n| {
        let argv = [c"x".as_ptr() as usize, MARK as usize, 0];
        repeat(n, || wait(vfork_exec(c"/proc/self/exe", &argv)?))
    }),
    op("posix_spawn", 50, |n| {
        let argv = [c"x".as_ptr() as usize, MARK as usize, 0];
        repeat(n, || wait(spawn(c"/proc/self/exe", &argv)?))
    }),
    op("thread-create-join", 200, |n| {
        repeat(n, || {
            let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(|| {});
            thread.map_err(|_| nix::errno::Errno::EAGAIN)?.join().map_err(|_| nix::errno::Errno::EIO)?;
            Ok(0)
        })
    }),
    op("context-switch-2", 1_000, |n| ring(n, 2)),
    op("context-switch-8", 1_000, |n| ring(n, 8)),
    op("context-switch-32", 1_000, |n| ring(n, 32)),
    op("futex-ping-pong", 1_000, futex_ping_pong),
    op("eventfd-ping-pong", 1_000, eventfd_ping_pong),
    op("signal-install", 5_000, |n| repeat(n, || on_signal(SIGUSR1, nothing).map(|_| 0))),
    op("signal-deliver", 2_000, |n| {
        on_signal(SIGUSR1, nothing)?;
        let (pid, tid) = (sys!(SYS_getpid)?, sys!(SYS_gettid)?);
        repeat(n, || sys!(SYS_tgkill, pid, tid, SIGUSR1))
    }),
    op("protection-fault", 1_000, protection_fault),
    op("select-10", 2_000, |n| select_of(n, 10)),
    op("select-100", 500, |n| select_of(n, 100)),
    op("select-1000", 100, |n| select_of(n, 1000)),
    op("poll-10", 2_000, |n| poll_of(n, 10)),
    op("poll-100", 500, |n| poll_of(n, 100)),
    op("poll-1000", 100, |n| poll_of(n, 1000)),
    op("epoll-10", 2_000, |n| epoll_of(n, 10)),
    op("epoll-100", 2_000, |n| epoll_of(n, 100)),
    op("epoll-1000", 2_000, |n| epoll_of(n, 1000)),
];

const MARK: *const c_char = c"__exit".as_ptr();

pub fn wait(pid: i32) -> Res {
    let mut status = 0;
    sys!(SYS_wait4, pid, &mut status, 0, 0)?;
    if status >> 8 == 127 { Err(nix::errno::Errno::ENOEXEC) } else { Ok(0) }
}

fn installed(names: &[&'static std::ffi::CStr]) -> Res<&'static std::ffi::CStr> {
    let found = names.iter().find(|p| sys!(SYS_access, **p, X_OK).is_ok());
    found.copied().ok_or(nix::errno::Errno::ENOENT)
}

fn exec_by_fork(n: u64, program: &std::ffi::CStr, argv: &[usize]) -> Res<u64> {
    repeat(n, || match fork()? {
        0 => {
            let _ = sys!(SYS_execve, program, argv, 0);
            exit(127)
        }
        pid => wait(pid),
    })
}

pub fn pipe() -> Res<[i32; 2]> {
    let mut fds = [0i32; 2];
    sys!(SYS_pipe2, &mut fds, 0).map(|_| fds)
}

/// A byte goes round `size` processes; the time is that of one switch.
fn ring(n: u64, size: usize) -> Res<u64> {
    let pipes: Vec<_> = (0..size).map(|_| pipe()).collect::<Res<_>>()?;
    let mut pids = vec![];
    for i in 1..size {
        let (from, to) = (pipes[i - 1][0], pipes[i][1]);
        match fork()? {
            0 => loop {
                let mut byte = [0u8];
                if sys!(SYS_read, from, &mut byte, 1) != Ok(1) || sys!(SYS_write, to, &byte, 1) != Ok(1) {
                    exit(0);
                }
            },
            pid => pids.push(pid),
        }
    }
    let mut byte = [0u8];
    let r = repeat((n / size as u64).max(1), || {
        sys!(SYS_write, pipes[0][1], &byte.clone(), 1)?;
        sys!(SYS_read, pipes[size - 1][0], &mut byte, 1)
    });
    for pid in pids {
        sys!(SYS_kill, pid, SIGKILL)?;
        wait(pid)?;
    }
    for fd in pipes.iter().flatten() {
        sys!(SYS_close, *fd)?;
    }
    r
}

/// Takes turns with a partner that runs `partner`; both directions count as one repetition.
fn with_partner(partner: impl Fn() -> Res, n: u64, mine: impl FnMut() -> Res) -> Res<u64> {
    let pid = fork()?;
    if pid == 0 {
        while partner().is_ok() {}
        exit(0);
    }
    let r = repeat(n, mine);
    sys!(SYS_kill, pid, SIGKILL)?;
    wait(pid)?;
    r
}

fn futex_ping_pong(n: u64) -> Res<u64> {
    let page = sys!(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)?;
    let word = atomic(page);
    let turn = move |mine: u32| {
        while word.load(SeqCst) != mine {
            match sys!(SYS_futex, page, FUTEX_WAIT, 1 - mine, 0) {
                Ok(_) | Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
                other => return other,
            }
        }
        word.store(1 - mine, SeqCst);
        sys!(SYS_futex, page, FUTEX_WAKE, 1)
    };
    with_partner(move || turn(1), n, || turn(0))
}

fn eventfd_ping_pong(n: u64) -> Res<u64> {
    let (a, b) = (sys!(SYS_eventfd2, 0, 0)?, sys!(SYS_eventfd2, 0, 0)?);
    let pass = |from: usize, to: usize| {
        let mut v = 0u64;
        sys!(SYS_read, from, &mut v, 8)?;
        sys!(SYS_write, to, &1u64, 8)
    };
    with_partner(
        || pass(a, b),
        n,
        || {
            sys!(SYS_write, a, &1u64, 8)?;
            let mut v = 0u64;
            sys!(SYS_read, b, &mut v, 8)
        },
    )
}

extern "C" fn nothing(_: c_int, _: usize, _: usize) {}

static GUARDED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn open_page(_: c_int, info: usize, _: usize) {
    let page = fault_address(info) & !0xfff;
    GUARDED.fetch_add(1, SeqCst);
    let _ = sys!(SYS_mprotect, page, 4096, PROT_READ | PROT_WRITE);
}

/// A write to a protected page: fault, handler, and the two mprotect calls that it takes.
fn protection_fault(n: u64) -> Res<u64> {
    let page = sys!(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)?;
    on_signal(SIGSEGV, open_page)?;
    repeat(n, || {
        touch(page, 1);
        sys!(SYS_mprotect, page, 4096, PROT_READ)
    })
}

/// Reading ends of `count` pipes, the last of which has a byte.
fn descriptors(count: usize) -> Res<Vec<i32>> {
    let limit = [4096u64, 4096];
    let _ = sys!(SYS_setrlimit, RLIMIT_NOFILE as i32, &limit);
    let (quiet, ready) = (pipe()?, pipe()?);
    sys!(SYS_write, ready[1], &[1u8], 1)?;
    let mut fds = vec![];
    for i in 0..count {
        let from = if i + 1 == count { ready[0] } else { quiet[0] };
        fds.push(sys!(SYS_dup, from)? as i32);
    }
    Ok(fds)
}

fn discard(fds: &[i32]) -> Res {
    for fd in fds {
        sys!(SYS_close, *fd)?;
    }
    Ok(0)
}

fn select_of(n: u64, count: usize) -> Res<u64> {
    let fds = descriptors(count)?;
    let top = *fds.iter().max().unwrap_or(&0) as usize + 1;
    // More than an fd_set of the C library holds; the kernel takes any size.
    let mut all = [0u64; 32];
    for fd in &fds {
        all[*fd as usize / 64] |= 1 << (fd % 64);
    }
    let r = repeat(n, || sys!(SYS_select, top, &mut all.clone(), 0, 0, &mut [0u64; 2]));
    discard(&fds)?;
    r
}

fn poll_of(n: u64, count: usize) -> Res<u64> {
    let fds = descriptors(count)?;
    let mut set: Vec<pollfd> = fds.iter().map(|fd| pollfd { fd: *fd, events: POLLIN, revents: 0 }).collect();
    let r = repeat(n, || sys!(SYS_poll, &mut set[..], count, 0));
    discard(&fds)?;
    r
}

fn epoll_of(n: u64, count: usize) -> Res<u64> {
    let fds = descriptors(count)?;
    let ep = sys!(SYS_epoll_create1, 0)?;
    for fd in &fds {
        let ev = epoll_event { events: EPOLLIN as u32, u64: *fd as u64 };
        sys!(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, *fd, &ev)?;
    }
    let mut out: [epoll_event; 16] = zero();
    let r = repeat(n, || sys!(SYS_epoll_wait, ep, &mut out, 16, 0));
    sys!(SYS_close, ep)?;
    discard(&fds)?;
    r
}

/// Forks once with whatever memory the caller has prepared: the parent's part and the exit.
pub fn fork_once() -> Res<u64> {
    let start = now();
    match fork()? {
        0 => exit(0),
        pid => wait(pid)?,
    };
    Ok(now() - start)
}

/// The C string of a text without zero bytes.
pub fn cstr(s: String) -> CString {
    CString::new(s).unwrap_or_default()
}
