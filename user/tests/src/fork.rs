//! fork(2), vfork(2), exit(2): what a child has and what it does not.

use crate::prelude::*;
use crate::sys::{vfork_with, xmm_across_syscall};

tests!(
    "fork":
    exit_status, pids_are_new_and_parent_is_known, memory_is_copied_both_ways, shared_memory_is_shared,
    copies_survive_generations, file_offset_is_shared, descriptor_table_is_copied,
    signal_state_is_inherited_but_not_pending, alarms_are_not_inherited, cwd_umask_and_root_are_copied,
    madvise_dontfork_and_wipeonfork, vfork_parent_waits_and_shares_memory, vfork_parent_wakes_on_exec,
    orphans_go_to_the_subreaper, many_children_at_once, deep_chain_of_children, nproc_limit_gives_eagain,
    registers_survive_system_calls, float_state_is_private, exit_group_ends_all_threads,
);

fn exit_status() {
    for code in [0, 1, 42, 255] {
        assert_eq!(child_code(|| code).wait(), Status::Exit(code));
    }
    assert_eq!(child_code(|| 256 + 7).wait(), Status::Exit(7));
}

fn pids_are_new_and_parent_is_known() {
    let parent = getpid();
    let c = child(|| {
        assert_ne!(getpid(), parent);
        assert_eq!(sys!(SYS_getppid), Ok(parent as usize));
        assert_eq!(gettid(), getpid());
    });
    assert_ne!(c.0, parent);
    c.ok();
}

fn memory_is_copied_both_ways() {
    let page = anon(PAGE);
    poke(page, 1);
    let (r, w) = pipe();
    let c = child(|| {
        poke(page, 2);
        write(w, b"x").unwrap();
        nap(20);
        assert_eq!(peek(page), 2);
    });
    read_vec(r, 1).unwrap();
    assert_eq!(peek(page), 1);
    poke(page, 3);
    c.ok();
    assert_eq!(peek(page), 3);
}

fn shared_memory_is_shared() {
    let page = shared(PAGE);
    child(|| poke(page, 77)).ok();
    assert_eq!(peek(page), 77);
}

fn copies_survive_generations() {
    let pages = anon(64 * PAGE);
    for i in 0..64 {
        poke(pages + i * PAGE, i as u8);
    }
    aside(|| {
        for i in 0..32 {
            poke(pages + i * PAGE, 200);
        }
        aside(|| {
            for i in 0..64 {
                assert_eq!(peek(pages + i * PAGE), if i < 32 { 200 } else { i as u8 });
                poke(pages + i * PAGE, 100);
            }
        });
        assert_eq!(peek(pages), 200);
        assert_eq!(peek(pages + 40 * PAGE), 40);
    });
    for i in 0..64 {
        assert_eq!(peek(pages + i * PAGE), i as u8);
    }
}

fn file_offset_is_shared() {
    let fd = new_file("f");
    write(fd, b"abcdef").unwrap();
    seek(fd, 0, SEEK_SET).unwrap();
    child(|| assert_eq!(read_vec(fd, 2).unwrap(), b"ab")).ok();
    assert_eq!(read_vec(fd, 2).unwrap(), b"cd");
}

fn descriptor_table_is_copied() {
    let (r, w) = pipe();
    child(|| {
        close(r);
        close(w);
    })
    .ok();
    assert_eq!(write(w, b"x"), Ok(1));
    assert_eq!(read_vec(r, 1).unwrap(), b"x");
}

fn signal_state_is_inherited_but_not_pending() {
    on_signal(SIGUSR1, 0, count);
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    sys!(SYS_kill, getpid(), SIGUSR1).unwrap();
    assert_eq!(pending(), mask_of(&[SIGUSR1]));
    aside(|| {
        assert_eq!(pending(), 0);
        assert_eq!(sigmask(SIG_BLOCK, &[]) & mask_of(&[SIGUSR1]), mask_of(&[SIGUSR1]));
        assert_eq!(crate::sys::current_action(SIGUSR1), count as *const () as usize);
        sigmask(SIG_SETMASK, &[]);
        assert_eq!(seen(), 0);
    });
    sigmask(SIG_SETMASK, &[]);
    assert_eq!(seen(), 1);
}

fn alarms_are_not_inherited() {
    sys!(SYS_alarm, 100).unwrap();
    child(|| assert_eq!(sys!(SYS_alarm, 0), Ok(0))).ok();
    assert!(matches!(sys!(SYS_alarm, 20), Ok(99..=100)));
}

fn cwd_umask_and_root_are_copied() {
    let d = mkdir("d");
    sys!(SYS_chdir, &d).unwrap();
    sys!(SYS_umask, 0o027).unwrap();
    aside(|| {
        let mut buf = [0u8; 200];
        let n = sys!(SYS_getcwd, &mut buf, 200).unwrap();
        assert_eq!(&buf[..n], d.as_bytes_with_nul());
        assert_eq!(sys!(SYS_umask, 0o077), Ok(0o027));
        sys!(SYS_chdir, c"/").unwrap();
    });
    assert_eq!(sys!(SYS_umask, 0o022), Ok(0o027));
    let mut buf = [0u8; 200];
    assert_eq!(sys!(SYS_getcwd, &mut buf, 200), Ok(d.as_bytes_with_nul().len()));
}

fn madvise_dontfork_and_wipeonfork() {
    let a = anon(2 * PAGE);
    poke(a, 5);
    poke(a + PAGE, 6);
    sys!(SYS_madvise, a, PAGE, MADV_WIPEONFORK).unwrap();
    child(|| {
        assert_eq!(peek(a), 0);
        assert_eq!(peek(a + PAGE), 6);
    })
    .ok();
    // Nothing to change in a part of a mapping: no reason to split it, nor to look at the part for ever.
    assert_eq!(sys!(SYS_madvise, a, PAGE, MADV_DOFORK), Ok(0));
    sys!(SYS_madvise, a + PAGE, PAGE, MADV_DONTFORK).unwrap();
    assert_eq!(fate(|| ignore(peek(a + PAGE))), Status::Signal(SIGSEGV));
    assert_eq!((peek(a), peek(a + PAGE)), (5, 6));
}

fn vfork_parent_waits_and_shares_memory() {
    use std::sync::atomic::AtomicI32;
    static WORD: AtomicI32 = AtomicI32::new(0);
    let (took, pid) = timed(|| {
        vfork_with(|| {
            nap(60);
            WORD.store(9, SeqCst);
            4
        })
        .unwrap()
    });
    assert!(took >= 50, "the parent went on after {took} ms");
    assert_eq!(WORD.load(SeqCst), 9);
    assert_eq!(Child(pid).wait(), Status::Exit(4));
}

fn vfork_parent_wakes_on_exec() {
    let pid = vfork_with(|| {
        let argv = [
            c"/proc/self/exe".as_ptr() as usize,
            c"__helper".as_ptr() as usize,
            c"exit".as_ptr() as usize,
            c"6".as_ptr() as usize,
            0,
        ];
        let _ = sys!(SYS_execve, c"/proc/self/exe", &argv, &[0usize]);
        1
    })
    .unwrap();
    assert_eq!(Child(pid).wait(), Status::Exit(6));
}

fn orphans_go_to_the_subreaper() {
    sys!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1).unwrap();
    let me = getpid();
    let (r, w) = pipe();
    child(|| {
        child(|| {
            while sys!(SYS_getppid) != Ok(me as usize) {
                nap(5);
            }
            write(w, b"adopted").unwrap();
            exit(33);
        });
    })
    .ok();
    assert_eq!(read_vec(r, 10).unwrap(), b"adopted");
    assert_eq!(Child(-1).wait(), Status::Exit(33));
}

fn many_children_at_once() {
    let all: Vec<_> = (0..60).map(|i| child_code(move || i)).collect();
    for (i, c) in all.into_iter().enumerate() {
        assert_eq!(c.wait(), Status::Exit(i as i32));
    }
    assert_eq!(sys!(SYS_wait4, -1, 0, 0, 0), Err(ECHILD));
}

fn deep_chain_of_children() {
    fn deeper(n: i32) -> i32 {
        if n == 0 {
            return 5;
        }
        match child_code(move || deeper(n - 1)).wait() {
            Status::Exit(code) => code,
            _ => 99,
        }
    }
    assert_eq!(deeper(25), 5);
}

fn nproc_limit_gives_eagain() {
    aside(|| {
        let r = rlimit { rlim_cur: 0, rlim_max: 0 };
        sys!(SYS_setrlimit, RLIMIT_NPROC, &r).unwrap();
        drop_root();
        assert_eq!(sys!(SYS_fork), Err(EAGAIN));
    });
}

fn registers_survive_system_calls() {
    for v in [1u64, 0x1234_5678_9abc_def0, u64::MAX] {
        assert_eq!(xmm_across_syscall(v, SYS_getppid), v);
        assert_eq!(xmm_across_syscall(v, SYS_sched_yield), v);
    }
}

fn float_state_is_private() {
    let kids: Vec<_> = (0..4)
        .map(|k| {
            child(move || {
                let start = f64::from(k) + 0.5;
                let mut x = std::hint::black_box(start);
                for i in 0..20_000 {
                    x = std::hint::black_box(x * 1.5 / 1.5);
                    if i % 500 == 0 {
                        sys!(SYS_sched_yield).unwrap();
                    }
                }
                assert!((x - start).abs() < 1e-6);
            })
        })
        .collect();
    kids.into_iter().for_each(Child::ok);
}

fn exit_group_ends_all_threads() {
    let c = child(|| {
        for _ in 0..3 {
            std::thread::spawn(|| nap(60_000));
        }
        settle();
        exit(12);
    });
    let (took, status) = timed(|| c.wait());
    assert_eq!(status, Status::Exit(12));
    assert!(took < 10_000);
}
