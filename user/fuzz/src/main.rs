//! Tries to bring the kernel down from user space: random but typed system calls with hostile pointers, sizes and flags,
//! from several processes with several threads each.
//!
//! ```text
//! user-fuzz [--seed N] [--seconds N] [--workers N] [--child N] [--skip NUMBER OF A CALL]
//!
//!   main ── worker ── child: 3 threads share descriptors and an arena, make CALLS calls each, end anyhow
//!        ── worker ── child    (the next one has the next seed; a child that hangs is killed)
//!        ...
//! ```
//!
//! Half of the children are root in a scratch folder that they cannot leave (chroot(2)), the other half an ordinary user
//! who sees the whole system. What a child does depends on the seed and its number alone, up to races among its threads:
//! `--child N` runs one again and tells each call (thread, number, arguments) before it is made.
//!
//! It fails when a killed process does not end, or when the kernel's log has a report. A dead guest reports itself.

mod calls;
mod rings;
mod values;

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::Relaxed};

use libc::*;
use user_sys::{atomic, call, exit, fork, sys, zero};
use values::{CHILD, Values};

/// Calls of one thread.
const CALLS: usize = 200;
/// Threads of a child, the first included.
const THREADS: usize = 3;
/// Milliseconds until a child is killed, and until a killed one must be gone.
const PATIENCE_MS: usize = 1500;
const DEATH_MS: usize = 20_000;
/// Where the arena goes if there is room.
const ARENA_HINT: usize = 0x1000_0000_0000;
/// Words that the kernel's log must not have.
const REPORTS: [&str; 6] =
    ["panicked", "kernel oops", "lockdep:", "atomic context", "kernel BUG", "invariant"];

/// Whether each call is told before it is made.
static IS_TRACED: AtomicBool = AtomicBool::new(false);

/// The number of a call that is not made, -1 for none: to look beyond a known fault.
static SKIPPED: AtomicI64 = AtomicI64::new(-1);

struct Options {
    seed: u64,
    seconds: u64,
    workers: u64,
    child: Option<u64>,
    skip: i64,
}

fn options() -> Options {
    let mut found = Options {
        seed: now_ns() ^ u64::from(std::process::id()) << 48,
        seconds: 60,
        workers: 4,
        child: None,
        skip: -1,
    };
    let args: Vec<String> = std::env::args().skip(1).collect();
    for pair in args.chunks(2) {
        let value = pair.get(1).and_then(|v| v.parse().ok());
        match (pair[0].as_str(), value) {
            ("--seed", Some(n)) => found.seed = n,
            ("--seconds", Some(n)) => found.seconds = n,
            ("--workers", Some(n)) => found.workers = n,
            ("--skip", Some(n)) => found.skip = n as i64,
            ("--child", Some(n)) => found.child = Some(n),
            _ => {
                eprintln!("usage: user-fuzz [--seed N] [--seconds N] [--workers N] [--child N] [--skip N]");
                exit(2);
            }
        }
    }
    found
}

fn now_ns() -> u64 {
    let mut ts: timespec = zero();
    let _ = sys!(SYS_clock_gettime, CLOCK_MONOTONIC, &mut ts);
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

fn nap_ms(ms: i64) {
    let _ = sys!(SYS_nanosleep, &timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 }, 0);
}

/// Counters that all processes share: calls, children, killed children, bad ends.
fn counters() -> [&'static AtomicU32; 4] {
    let page = sys!(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    let Ok(page) = page else { exit(3) };
    [0, 4, 8, 12].map(|offset| atomic(page + offset))
}

fn main() {
    let options = options();
    println!("seed {}", options.seed);
    SKIPPED.store(options.skip, Relaxed);
    let counters = counters();
    if let Some(number) = options.child {
        let _ = sys!(SYS_dup2, 1, TRACE);
        IS_TRACED.store(true, Relaxed);
        run_child(options.seed, number, counters);
        return;
    }
    let end = now_ns() + options.seconds * 1_000_000_000;
    let mut workers = Vec::new();
    for worker in 0..options.workers {
        match fork() {
            Ok(0) => {
                let _ = sys!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
                let mut number = worker;
                while now_ns() < end {
                    run_child(options.seed, number, counters);
                    number += options.workers;
                }
                exit(0);
            }
            Ok(pid) => workers.push(pid),
            Err(e) => println!("fork: {e}"),
        }
    }
    for pid in workers {
        let mut status = 0i32;
        let _ = sys!(SYS_wait4, pid, &mut status, 0, 0);
        if status != 0 {
            println!("a worker ended with status {status:#x}");
            counters[3].fetch_add(1, Relaxed);
        }
    }
    let reports = kernel_reports();
    reports.iter().for_each(|line| println!("kernel log: {line}"));
    let [calls, children, killed, bad] = counters.map(|counter| counter.load(Relaxed));
    println!("seed {}: {calls} calls, {children} processes, {killed} of them killed", options.seed);
    exit(i32::from(bad > 0 || !reports.is_empty()));
}

/// Runs child `number` to its end, and whatever it leaves behind.
fn run_child(seed: u64, number: u64, counters: [&'static AtomicU32; 4]) {
    let scratch = format!("/tmp/fuzz-{number}");
    let _ = std::fs::create_dir(&scratch);
    match fork() {
        Ok(0) => child(seed ^ number.wrapping_mul(0x0100_0000_01b3), number, &scratch, counters[0]),
        Ok(pid) => {
            counters[1].fetch_add(1, Relaxed);
            if !await_end(pid, PATIENCE_MS) {
                counters[2].fetch_add(1, Relaxed);
                let _ = sys!(SYS_kill, pid, SIGKILL);
                if !await_end(pid, DEATH_MS) {
                    println!("child {number} (process {pid}) does not die");
                    counters[3].fetch_add(1, Relaxed);
                }
            }
            clean_up(number, counters[3]);
        }
        Err(_) => nap_ms(50),
    }
    let _ = std::fs::remove_dir_all(&scratch);
}

/// Waits until `pid` has ended; false: not within `patience_ms`.
///
/// Takes whatever else has ended as well: a thread that said PTRACE_TRACEME is this process's to wait for, and its
/// process does not count as ended before.
fn await_end(pid: i32, patience_ms: usize) -> bool {
    let step = 5;
    for _ in 0..patience_ms / step {
        loop {
            let mut status = 0i32;
            match sys!(SYS_wait4, -1, &mut status, WNOHANG | __WALL, 0) {
                Ok(0) => break,
                Ok(other) if other != pid as usize || WIFSTOPPED(status) => {}
                _ => return true,
            }
        }
        nap_ms(step as i64);
    }
    false
}

/// Ends the descendants that the child has left to this worker.
fn clean_up(number: u64, bad: &AtomicU32) {
    for round in 0..DEATH_MS / 10 {
        // Also those that clone3(2) made without a signal for their end.
        while sys!(SYS_wait4, -1, 0, WNOHANG | __WALL, 0).is_ok_and(|pid| pid > 0) {}
        let own = std::process::id();
        let list = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let left: Vec<i32> = list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        if left.is_empty() {
            return;
        }
        for pid in left {
            let _ = sys!(SYS_kill, pid, SIGKILL);
        }
        if round > 0 {
            nap_ms(10);
        }
    }
    println!("descendants of child {number} do not die");
    bad.fetch_add(1, Relaxed);
}

extern "C" fn nothing(_: c_int) {}

/// Makes limits, a scratch folder and an arena, then calls.
fn child(seed: u64, number: u64, scratch: &str, calls: &'static AtomicU32) -> ! {
    let is_root = number.is_multiple_of(2);
    let _ = sys!(SYS_setpgid, 0, 0);
    for (what, limit) in [
        (RLIMIT_AS, 256 << 20),
        (RLIMIT_FSIZE, 1 << 20),
        (RLIMIT_NOFILE, 64),
        (RLIMIT_CPU, 2),
        (RLIMIT_CORE, 0),
        (RLIMIT_NPROC, 40),
        (RLIMIT_RTPRIO, 0),
    ] {
        let _ = sys!(SYS_prlimit64, 0, what, &[limit as u64, limit as u64], 0);
    }
    let null = CString::new("/dev/null").unwrap_or_default();
    if let Ok(fd) = sys!(SYS_open, &null, O_RDWR, 0) {
        for to in 0..3 {
            let _ = sys!(SYS_dup2, fd, to);
        }
    }
    let folder = CString::new(scratch).unwrap_or_default();
    let _ = sys!(SYS_chmod, &folder, 0o777);
    let _ = sys!(SYS_chdir, &folder);
    if is_root {
        let _ = sys!(SYS_chroot, &folder);
    } else {
        let _ = sys!(SYS_setgroups, 0, 0);
        let _ = sys!(SYS_setresgid, 1000, 1000, 1000);
        let _ = sys!(SYS_setresuid, 1000, 1000, 1000);
    }
    interrupt_often();
    // Unmapped pages on both sides, and nothing else near that stray writes could reach.
    let len = Values::ARENA_LEN;
    let map =
        [ARENA_HINT, len + 8192, PROT_NONE as usize, (MAP_PRIVATE | MAP_ANONYMOUS) as usize, usize::MAX, 0];
    let Ok(arena) = call(SYS_mmap, map) else { exit(3) };
    let arena = arena + 4096;
    let _ = sys!(SYS_mprotect, arena, len, PROT_READ | PROT_WRITE);
    rings::make(seed, arena);
    let threads: Vec<_> = (1..THREADS as u64)
        .map(|thread| std::thread::Builder::new().spawn(move || work(seed + thread, arena, !is_root, calls)))
        .collect();
    work(seed, arena, !is_root, calls);
    for thread in threads.into_iter().flatten() {
        let _ = thread.join();
    }
    exit(0)
}

/// A timer whose signal does nothing but interrupt what blocks.
fn interrupt_often() {
    // SAFETY: the handler does nothing, and `action` is a plain structure.
    unsafe {
        let mut action: sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        sigaction(SIGALRM, &action, std::ptr::null_mut());
    }
    let every = timeval { tv_sec: 0, tv_usec: 5_000 };
    let _ = sys!(SYS_setitimer, ITIMER_REAL, &itimerval { it_interval: every, it_value: every }, 0);
}

/// The calls of one thread.
fn work(seed: u64, arena: usize, may_leave: bool, calls: &AtomicU32) {
    let mut values = Values::new(seed, arena, may_leave);
    let total: usize = calls::CALLS.iter().map(|row| usize::from(row.2)).sum();
    for _ in 0..CALLS {
        // Structures for the next call: some words of some page, written by the kernel so that no mapping is missed.
        let words: [u64; 8] = std::array::from_fn(|_| values.word());
        let to = values.address();
        let _ = sys!(
            SYS_process_vm_writev,
            std::process::id(),
            &[words.as_ptr() as usize, 64],
            1,
            &[to, 64],
            1,
            0
        );
        let mut at = values.rng.below(total);
        let row = calls::CALLS.iter().find(|row| {
            let is_it = at < usize::from(row.2);
            at = at.wrapping_sub(usize::from(row.2));
            is_it
        });
        let Some(&(nr, types, _)) = row else { continue };
        let mut args = [0; 6];
        for (arg, letter) in args.iter_mut().zip(types.bytes()) {
            *arg = values.argument(letter);
        }
        if nr == SKIPPED.load(Relaxed) {
            continue;
        }
        if nr == SYS_io_uring_enter {
            rings::fill(&mut values, arena);
        }
        calls.fetch_add(1, Relaxed);
        trace(nr, args);
        match call(nr, args) {
            Ok(0) if nr == SYS_fork => {
                // A few calls more, then gone: the parent has a child to wait for and to signal.
                CHILD.store(0, Relaxed);
                nap_ms(values.rng.below(20) as i64);
                exit(values.rng.below(3) as i32);
            }
            Ok(pid) if nr == SYS_fork => CHILD.store(pid, Relaxed),
            _ => {}
        }
    }
}

/// Descriptor of the output with `--child`, out of the way of the others.
const TRACE: i32 = 63;

/// Tells of a call before it is made, if somebody listens.
fn trace(nr: c_long, args: [usize; 6]) {
    if IS_TRACED.load(Relaxed) {
        let tid = sys!(SYS_gettid).unwrap_or(0);
        let text = format!("{tid}: {nr} {args:x?}\n");
        let _ = sys!(SYS_write, TRACE, text.as_bytes(), text.len());
    }
}

/// Lines of the kernel's log that tell of a fault of its own.
fn kernel_reports() -> Vec<String> {
    let mut found = Vec::new();
    let path = CString::new("/dev/kmsg").unwrap_or_default();
    let Ok(fd) = sys!(SYS_open, &path, O_RDONLY | O_NONBLOCK, 0) else { return found };
    let mut line = [0u8; 8192];
    loop {
        match sys!(SYS_read, fd, &mut line, 8192) {
            Ok(len) => {
                let text = String::from_utf8_lossy(&line[..len]);
                // User programs write to the log too; facility 0 is the kernel's.
                let is_kernel =
                    text.split(',').next().and_then(|p| p.parse::<u32>().ok()).is_some_and(|p| p < 8);
                if is_kernel && REPORTS.iter().any(|word| text.contains(word)) {
                    found.push(text.trim_end().to_owned());
                }
            }
            Err(nix::errno::Errno::EPIPE | nix::errno::Errno::EINTR) => {}
            Err(_) => return found,
        }
    }
}
