//! Threads: what they share, how they end, signals among them.

use std::sync::atomic::AtomicI32;
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread::spawn;

use crate::prelude::*;

tests!(
    "thread":
    create_and_join, one_pid_many_tids, mutex_and_condvar, barrier, descriptors_are_shared,
    signal_to_one_thread, process_signal_goes_to_a_thread_that_lets_it, masks_are_per_thread,
    fatal_signal_ends_all, leader_exit_leaves_the_others, last_thread_gives_the_code,
    stop_stops_all_threads, memory_changes_are_seen_at_once, fork_from_a_thread_has_one_thread, thread_names,
    many_threads,
);

fn create_and_join() {
    let all: Vec<_> = (0..20).map(|i| spawn(move || i * 2)).collect();
    assert_eq!(all.into_iter().map(|t| t.join().unwrap()).sum::<i32>(), 380);
}

fn one_pid_many_tids() {
    let (pid, tid) = (getpid(), gettid());
    let (p, t) = spawn(|| (getpid(), gettid())).join().unwrap();
    assert_eq!(p, pid);
    assert_ne!(t, tid);
}

fn mutex_and_condvar() {
    let shared = Arc::new((Mutex::new(0), Condvar::new()));
    let all: Vec<_> = (0..4)
        .map(|_| {
            let s = shared.clone();
            spawn(move || {
                for _ in 0..500 {
                    *s.0.lock().unwrap() += 1;
                }
                s.1.notify_all();
            })
        })
        .collect();
    let mut n = shared.0.lock().unwrap();
    while *n < 2000 {
        n = shared.1.wait(n).unwrap();
    }
    drop(n);
    all.into_iter().for_each(|t| t.join().unwrap());
}

fn barrier() {
    let b = Arc::new(Barrier::new(8));
    let all: Vec<_> = (0..8)
        .map(|_| {
            let b = b.clone();
            spawn(move || (0..20).filter(|_| b.wait().is_leader()).count())
        })
        .collect();
    assert_eq!(all.into_iter().map(|t| t.join().unwrap()).sum::<usize>(), 20);
}

fn descriptors_are_shared() {
    let (r, w) = spawn(pipe).join().unwrap();
    write(w, b"x").unwrap();
    assert_eq!(read_vec(r, 1).unwrap(), b"x");
}

fn signal_to_one_thread() {
    static WHO: AtomicI32 = AtomicI32::new(0);
    extern "C" fn note(_: i32, _: &SigInfo, _: usize) {
        WHO.store(gettid(), SeqCst);
    }
    on_signal(SIGUSR1, 0, note);
    let t = spawn(|| {
        sys!(SYS_tgkill, getpid(), gettid(), SIGUSR1).unwrap();
        gettid()
    });
    let tid = t.join().unwrap();
    assert_eq!(WHO.load(SeqCst), tid);
}

fn process_signal_goes_to_a_thread_that_lets_it() {
    static WHO: AtomicI32 = AtomicI32::new(0);
    extern "C" fn note(_: i32, _: &SigInfo, _: usize) {
        WHO.store(gettid(), SeqCst);
    }
    on_signal(SIGUSR1, 0, note);
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    let t = spawn(|| {
        sigmask(SIG_UNBLOCK, &[SIGUSR1]);
        while WHO.load(SeqCst) == 0 {
            nap(2);
        }
        gettid()
    });
    settle();
    sys!(SYS_kill, getpid(), SIGUSR1).unwrap();
    let tid = t.join().unwrap();
    assert_eq!(WHO.load(SeqCst), tid);
}

fn masks_are_per_thread() {
    sigmask(SIG_SETMASK, &[SIGUSR1]);
    spawn(|| {
        assert_eq!(sigmask(SIG_SETMASK, &[SIGUSR2]), mask_of(&[SIGUSR1]), "inherited");
    })
    .join()
    .unwrap();
    assert_eq!(sigmask(SIG_BLOCK, &[]), mask_of(&[SIGUSR1]));
}

fn fatal_signal_ends_all() {
    let status = fate(|| {
        for _ in 0..4 {
            spawn(|| nap(20_000));
        }
        spawn(|| {
            settle();
            peek(8);
        });
        nap(20_000);
    });
    assert_eq!(status, Status::Signal(SIGSEGV));
}

fn leader_exit_leaves_the_others() {
    let (r, w) = pipe();
    let c = child(|| {
        spawn(move || {
            settle();
            write(w, b"alive").unwrap();
            exit(9);
        });
        let _ = sys!(SYS_exit, 1);
    });
    assert_eq!(read_vec(r, 9).unwrap(), b"alive");
    assert_eq!(c.wait(), Status::Exit(9));
}

fn last_thread_gives_the_code() {
    let c = child(|| {
        spawn(|| {
            settle();
            let _ = sys!(SYS_exit, 3);
        });
        let _ = sys!(SYS_exit, 4);
    });
    assert_eq!(c.wait(), Status::Exit(3));
}

fn stop_stops_all_threads() {
    let page = shared(PAGE);
    let c = child(|| {
        for i in 0..3 {
            spawn(move || {
                loop {
                    atomic(page + 4 * i).fetch_add(1, SeqCst);
                    nap(1);
                }
            });
        }
        nap(20_000);
    });
    settle();
    c.kill(SIGSTOP);
    c.wait_for(WUNTRACED);
    settle();
    let before: Vec<u32> = (0..3).map(|i| atomic(page + 4 * i).load(SeqCst)).collect();
    nap(50);
    let after: Vec<u32> = (0..3).map(|i| atomic(page + 4 * i).load(SeqCst)).collect();
    assert_eq!(before, after);
    c.kill(SIGKILL);
    assert_eq!(c.wait(), Status::Signal(SIGKILL));
}

fn memory_changes_are_seen_at_once() {
    // munmap while another thread uses its own page: it must not be disturbed.
    let mine = anon(PAGE);
    let t = spawn(move || {
        for i in 0..20_000u32 {
            poke(mine, i as u8);
            assert_eq!(peek(mine), i as u8);
        }
    });
    for _ in 0..200 {
        let a = anon(4 * PAGE);
        poke(a, 1);
        sys!(SYS_mprotect, a, PAGE, PROT_READ).unwrap();
        sys!(SYS_munmap, a, 4 * PAGE).unwrap();
    }
    t.join().unwrap();
}

fn fork_from_a_thread_has_one_thread() {
    let c = spawn(|| child(|| assert_eq!(proc_status(getpid(), "Threads"), "1"))).join().unwrap();
    c.ok();
}

fn thread_names() {
    sys!(SYS_prctl, PR_SET_NAME, c"main-one").unwrap();
    let (tid, _hold) = {
        let (send, recv) = std::sync::mpsc::channel();
        let t = spawn(move || {
            sys!(SYS_prctl, PR_SET_NAME, c"other-one").unwrap();
            send.send(gettid()).unwrap();
            nap(20_000);
        });
        (recv.recv().unwrap(), t)
    };
    assert_eq!(slurp(&format!("/proc/self/task/{tid}/comm")), "other-one\n");
    assert_eq!(slurp("/proc/self/comm"), "main-one\n");
}

fn many_threads() {
    let all: Vec<_> = (0..150)
        .map(|i| std::thread::Builder::new().stack_size(64 << 10).spawn(move || i).unwrap())
        .collect();
    assert_eq!(proc_status(getpid(), "Tgid"), getpid().to_string());
    assert_eq!(all.into_iter().map(|t| t.join().unwrap()).sum::<i32>(), 11_175);
}
