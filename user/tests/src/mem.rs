//! Memory comes back: nothing that processes do, however they end, keeps it.

use crate::prelude::*;

tests!(
    "mem":
    leak_after_10000_crashes, large_mappings_come_back, deleted_files_come_back, threads_come_back,
    pipes_and_sockets_come_back, running_out_of_descriptors_and_processes_recovers,
);

/// A line of /proc/meminfo, in KiB.
fn kib(key: &str) -> i64 {
    let text = slurp("/proc/meminfo");
    let line = text.lines().find(|l| l.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Free memory, without and with what a kernel's caches would give back.
fn free_kib() -> (i64, i64) {
    (kib("MemFree:"), kib("MemAvailable:"))
}

/// Runs `f` and checks that at most `slack` KiB stay away. One round warms the caches first.
///
/// A large machine has other work than this test, which moves its free memory: more slack there.
fn comes_back(slack: i64, f: impl Fn()) {
    let total = kib("MemTotal:");
    let slack = if total > 2 << 20 { slack.max(total / 16) } else { slack };
    f();
    nap(200);
    let before = free_kib();
    f();
    let mut lost = 0;
    for _ in 0..20 {
        nap(100);
        let now = free_kib();
        lost = (before.0 - now.0).min(before.1 - now.1);
        if lost <= slack {
            return;
        }
    }
    panic!("{lost} KiB did not come back");
}

fn crash(i: usize) {
    match i % 8 {
        0 => ignore(peek(8)),
        1 => crate::sys::undefined_instruction(),
        2 => crate::sys::divide_by_zero(),
        3 => {
            let a = anon(64 * PAGE);
            (0..64).for_each(|p| poke(a + p * PAGE, 1));
            sys!(SYS_kill, getpid(), SIGKILL).unwrap();
        }
        4 => {
            let (a, _b) = socketpair(SOCK_STREAM);
            let _ = pipe();
            write(a, &[1; 1000]).unwrap();
            poke(0x1000, 1);
        }
        5 => ignore(sys!(SYS_execve, c"/proc/version", &[0usize], &[0usize])),
        6 => {
            let fd = sys!(SYS_memfd_create, c"m", 0).unwrap() as i32;
            write(fd, &[7; 20_000]).unwrap();
            let _ = sys!(SYS_epoll_create1, 0);
            sys!(SYS_kill, getpid(), SIGSEGV).unwrap();
        }
        _ => exit(1),
    }
}

fn leak_after_10000_crashes() {
    allow_seconds(150);
    comes_back(8192, || {
        for i in 0..5000 {
            assert_ne!(fate(|| crash(i)), Status::Continued);
        }
    });
}

fn large_mappings_come_back() {
    comes_back(4096, || {
        aside(|| {
            let len = 32 << 20;
            let a = anon(len);
            (0..len / PAGE).for_each(|p| poke(a + p * PAGE, 1));
            aside(|| (0..len / PAGE / 2).for_each(|p| poke(a + p * PAGE, 2)));
        });
    });
}

fn deleted_files_come_back() {
    // Made once: the C library keeps freed blocks of this size.
    let content = vec![1; 8 << 20];
    comes_back(4096, || {
        let p = file("big", &content);
        sys!(SYS_unlink, &p).unwrap();
    });
}

fn threads_come_back() {
    comes_back(4096, || {
        for _ in 0..10 {
            aside(|| {
                for _ in 0..20 {
                    std::thread::spawn(|| nap(20_000));
                }
                nap(5);
            });
        }
    });
}

fn pipes_and_sockets_come_back() {
    comes_back(4096, || {
        aside(|| {
            for _ in 0..60 {
                let (_r, w) = pipe();
                write(w, &[1; 60_000]).unwrap();
                let (a, _b) = socketpair(SOCK_STREAM | SOCK_NONBLOCK);
                while write(a, &[1; 10_000]).is_ok() {}
            }
        });
    });
}

fn running_out_of_descriptors_and_processes_recovers() {
    aside(|| {
        let r = rlimit { rlim_cur: 1024, rlim_max: 1024 };
        sys!(SYS_setrlimit, RLIMIT_NOFILE, &r).unwrap();
        while sys!(SYS_dup, 1).is_ok() {}
        assert_eq!(sys!(SYS_close_range, 3, u32::MAX, 0), Ok(0));
        assert!(sys!(SYS_dup, 1).is_ok());
    });
}
