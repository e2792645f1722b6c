//! Small questions to the kernel, limits, credentials, prctl, scheduling.

use crate::prelude::*;

tests!(
    "sys":
    uname, hostname, sysinfo_numbers, getrandom_rules, unknown_system_calls, getcpu_and_affinity,
    nice_and_priority, scheduling_policy, rlimits, cpu_limit_sends_sigxcpu, user_ids, groups, capabilities,
    prctl_basics, parent_death_signal, tsc_can_be_forbidden, personality_and_misc, times_and_rusage,
    arch_prctl_bases, process_accounting,
);

fn uname() {
    let mut u: utsname = zero();
    sys!(SYS_uname, &mut u).unwrap();
    let text =
        |f: &[c_char]| -> String { f.iter().take_while(|c| **c != 0).map(|c| *c as u8 as char).collect() };
    assert_eq!((text(&u.sysname), text(&u.machine)), ("Linux".into(), "x86_64".into()));
    assert!(text(&u.release).split('.').next().unwrap().parse::<u32>().unwrap() >= 5);
    assert_eq!(sys!(SYS_uname, 0), Err(EFAULT));
}

fn hostname() {
    assert!(sys!(SYS_unshare, CLONE_NEWUTS).or(Err(EPERM)).is_ok(), "root may have its own names");
    assert_eq!(sys!(SYS_sethostname, c"test-host", 9), Ok(0));
    assert_eq!(slurp("/proc/sys/kernel/hostname"), "test-host\n");
    assert_eq!(sys!(SYS_sethostname, c"x", 65), Err(EINVAL));
    aside(|| {
        drop_root();
        assert_eq!(sys!(SYS_sethostname, c"x", 1), Err(EPERM));
    });
}

fn sysinfo_numbers() {
    let mut s: sysinfo = zero();
    sys!(SYS_sysinfo, &mut s).unwrap();
    assert!(s.totalram > s.freeram && s.freeram > 0 && s.procs > 0 && s.uptime >= 0);
    assert_eq!(sys!(SYS_sysinfo, 0), Err(EFAULT));
}

fn getrandom_rules() {
    let (mut a, mut b) = ([0u8; 64], [0u8; 64]);
    assert_eq!(sys!(SYS_getrandom, &mut a, 64, 0), Ok(64));
    assert_eq!(sys!(SYS_getrandom, &mut b, 64, GRND_NONBLOCK), Ok(64));
    assert_ne!(a, b);
    assert_eq!(sys!(SYS_getrandom, &mut a, 64, 99), Err(EINVAL));
    assert_eq!(sys!(SYS_getrandom, BAD, 64, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_getrandom, &mut a, 0, 0), Ok(0));
}

fn unknown_system_calls() {
    for nr in [390, 400, 999, 100_000, -1] {
        assert_eq!(sys!(nr), Err(ENOSYS), "{nr}");
    }
    assert_eq!(fate(|| ignore(sys!(SYS_gettid))), Status::Exit(0));
}

fn getcpu_and_affinity() {
    let (mut cpu, mut node) = (99u32, 99u32);
    sys!(SYS_getcpu, &mut cpu, &mut node, 0).unwrap();
    assert!(cpu < 4096 && node < 64);
    let mut set = [0u64; 128];
    let n = sys!(SYS_sched_getaffinity, 0, 1024, &mut set).unwrap();
    assert!(n.is_multiple_of(8) && set[0] != 0);
    let first = set.iter().flat_map(|w| (0..64).map(move |b| w >> b & 1)).position(|b| b == 1).unwrap();
    let mut one = [0u64; 128];
    one[first / 64] = 1 << (first % 64);
    assert_eq!(sys!(SYS_sched_setaffinity, 0, 1024, &one), Ok(0));
    sys!(SYS_getcpu, &mut cpu, 0, 0).unwrap();
    assert_eq!(cpu as usize, first);
    assert_eq!(sys!(SYS_sched_setaffinity, 0, 1024, &[0u64; 128]), Err(EINVAL));
    assert_eq!(sys!(SYS_sched_getaffinity, 0, 7, &mut set), Err(EINVAL));
    assert_eq!(sys!(SYS_sched_getaffinity, 0, 1u64 << 61, &mut set), Err(EINVAL), "32 bits of the size count");
    for nobody in [0x3fff_fff0, -1] {
        assert_eq!(sys!(SYS_sched_getaffinity, nobody, 1024, &mut set), Err(ESRCH));
        assert_eq!(sys!(SYS_sched_setaffinity, nobody, 1024, &one), Err(ESRCH));
        let policy = if nobody < 0 { EINVAL } else { ESRCH };
        assert_eq!(sys!(SYS_sched_getscheduler, nobody), Err(policy));
    }
}

fn nice_and_priority() {
    aside(|| {
        assert_eq!(sys!(SYS_getpriority, PRIO_PROCESS, 0), Ok(20));
        sys!(SYS_setpriority, PRIO_PROCESS, 0, 5).unwrap();
        assert_eq!(sys!(SYS_getpriority, PRIO_PROCESS, 0), Ok(15));
        sys!(SYS_setpriority, PRIO_PROCESS, 0, 100).unwrap();
        assert_eq!(sys!(SYS_getpriority, PRIO_PROCESS, 0), Ok(1), "clamped to 19");
        assert_eq!(sys!(SYS_getpriority, 9, 0), Err(EINVAL));
        assert_eq!(sys!(SYS_getpriority, PRIO_PROCESS, 0x3fff_fff0), Err(ESRCH));
        drop_root();
        assert_eq!(sys!(SYS_setpriority, PRIO_PROCESS, 0, 1), Err(EACCES));
        assert_eq!(sys!(SYS_setpriority, PRIO_PROCESS, 1, 1), Err(EPERM));
    });
}

fn scheduling_policy() {
    assert_eq!(sys!(SYS_sched_getscheduler, 0), Ok(0));
    assert_eq!(sys!(SYS_sched_get_priority_max, SCHED_FIFO), Ok(99));
    assert_eq!(sys!(SYS_sched_get_priority_min, SCHED_RR), Ok(1));
    assert_eq!(sys!(SYS_sched_get_priority_max, 99), Err(EINVAL));
    let mut p = 7i32;
    assert_eq!((sys!(SYS_sched_getparam, 0, &mut p), p), (Ok(0), 0));
    assert_eq!(sys!(SYS_sched_setscheduler, 0, SCHED_OTHER, &5i32), Err(EINVAL));
    assert_eq!(sys!(SYS_sched_setscheduler, 0, SCHED_FIFO, &0i32), Err(EINVAL));
    assert_eq!(sys!(SYS_sched_setscheduler, 0, 99, &0i32), Err(EINVAL));
    assert_eq!(sys!(SYS_sched_setscheduler, 0, SCHED_BATCH, &0i32), Ok(0));
    assert_eq!(sys!(SYS_sched_getscheduler, 0), Ok(SCHED_BATCH as usize));
    assert_eq!(sys!(SYS_sched_yield), Ok(0));
}

fn rlimits() {
    let mut r: rlimit = zero();
    sys!(SYS_getrlimit, RLIMIT_NOFILE, &mut r).unwrap();
    assert!(r.rlim_cur <= r.rlim_max && r.rlim_cur > 10);
    assert_eq!(sys!(SYS_getrlimit, 99, &mut r), Err(EINVAL));
    assert_eq!(sys!(SYS_getrlimit, RLIMIT_NOFILE, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_setrlimit, RLIMIT_NOFILE, &rlimit { rlim_cur: 9, rlim_max: 8 }), Err(EINVAL));
    aside(|| {
        let low = rlimit { rlim_cur: 30, rlim_max: 40 };
        sys!(SYS_prlimit64, 0, RLIMIT_NOFILE, &low, &mut r.clone()).unwrap();
        drop_root();
        let up = rlimit { rlim_cur: 30, rlim_max: 41 };
        assert_eq!(sys!(SYS_setrlimit, RLIMIT_NOFILE, &up), Err(EPERM));
        assert_eq!(sys!(SYS_setrlimit, RLIMIT_NOFILE, &rlimit { rlim_cur: 40, rlim_max: 40 }), Ok(0));
        assert_eq!(sys!(SYS_prlimit64, 1, RLIMIT_NOFILE, 0, &mut r.clone()), Err(EPERM));
    });
    let c = child(|| nap(20_000));
    let set = rlimit { rlim_cur: 11, rlim_max: 12 };
    sys!(SYS_prlimit64, c.0, RLIMIT_CORE, 0, &mut r).unwrap();
    assert_eq!(sys!(SYS_prlimit64, c.0, RLIMIT_NOFILE, &set, 0), Ok(0));
    sys!(SYS_prlimit64, c.0, RLIMIT_NOFILE, 0, &mut r).unwrap();
    assert_eq!((r.rlim_cur, r.rlim_max), (11, 12));
    c.kill(SIGKILL);
    c.wait();
}

fn cpu_limit_sends_sigxcpu() {
    let c = child(|| {
        let r = rlimit { rlim_cur: 1, rlim_max: 10 };
        sys!(SYS_setrlimit, RLIMIT_CPU, &r).unwrap();
        loop {
            std::hint::black_box((0..1000).sum::<u64>());
        }
    });
    assert_eq!(c.wait(), Status::Signal(SIGXCPU));
}

fn user_ids() {
    aside(|| {
        sys!(SYS_setresuid, 10, 20, 30).unwrap();
        let mut ids = [0u32; 3];
        sys!(SYS_getresuid, &mut ids[0], &mut ids[1], &mut ids[2]).unwrap();
        assert_eq!(ids, [10, 20, 30]);
        assert_eq!((sys!(SYS_getuid), sys!(SYS_geteuid)), (Ok(10), Ok(20)));
        assert_eq!(sys!(SYS_setresuid, 40, -1, -1), Err(EPERM));
        assert_eq!(sys!(SYS_setresuid, -1, 30, -1), Ok(0));
        assert_eq!(sys!(SYS_setuid, 10), Ok(0));
        assert_eq!(sys!(SYS_geteuid), Ok(10));
        assert_eq!(sys!(SYS_setuid, 0), Err(EPERM));
        assert_eq!(sys!(SYS_setreuid, 30, 10), Err(EPERM), "the saved one cannot become the real one");
        assert_eq!(sys!(SYS_setreuid, -1, 30), Ok(0));
        assert_eq!(sys!(SYS_setfsuid, 99), Ok(30), "the old one, even when refused");
    });
    aside(|| {
        sys!(SYS_setuid, 55).unwrap();
        assert_eq!(proc_status(getpid(), "Uid"), "55\t55\t55\t55");
        assert_eq!(u64::from_str_radix(&proc_status(getpid(), "CapEff"), 16).unwrap(), 0);
    });
}

fn groups() {
    aside(|| {
        sys!(SYS_setgroups, 3, &[30u32, 10, 20]).unwrap();
        let mut got = [0u32; 8];
        assert_eq!(sys!(SYS_getgroups, 8, &mut got), Ok(3));
        assert_eq!(got[..3], [10, 20, 30], "kept in order");
        assert_eq!(sys!(SYS_getgroups, 0, 0), Ok(3));
        assert_eq!(sys!(SYS_getgroups, 2, &mut got), Err(EINVAL));
        assert_eq!(sys!(SYS_setgroups, 65537, &got), Err(EINVAL));
        sys!(SYS_setresgid, 7, 8, 9).unwrap();
        assert_eq!((sys!(SYS_getgid), sys!(SYS_getegid)), (Ok(7), Ok(8)));
        sys!(SYS_setuid, 1000).unwrap();
        assert_eq!(sys!(SYS_setgroups, 0, 0), Err(EPERM));
        assert_eq!(sys!(SYS_setgid, 0), Err(EPERM));
        assert_eq!(sys!(SYS_setgid, 9), Ok(0));
    });
}

fn capabilities() {
    let header = |version: u64| [version, 0u64];
    let mut data = [0u32; 6];
    let v3 = 0x2008_0522;
    sys!(SYS_capget, &header(v3), &mut data).unwrap();
    assert_ne!(data[0], 0);
    let mut bad = header(1);
    assert_eq!(sys!(SYS_capget, &mut bad, &mut data), Err(EINVAL));
    assert_eq!(bad[0] as u32, v3 as u32, "it answers with the version it likes");
    aside(|| {
        let none = [0u32; 6];
        sys!(SYS_capset, &header(v3), &none).unwrap();
        assert_eq!(sys!(SYS_chroot, c"/"), Err(EPERM));
        assert_eq!(sys!(SYS_capset, &header(v3), &data), Err(EPERM));
    });
}

fn prctl_basics() {
    assert_eq!(sys!(SYS_prctl, 9999, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_prctl, PR_GET_DUMPABLE), Ok(1));
    assert_eq!(sys!(SYS_prctl, PR_SET_DUMPABLE, 2), Err(EINVAL));
    sys!(SYS_prctl, PR_SET_DUMPABLE, 0).unwrap();
    assert_eq!(sys!(SYS_prctl, PR_GET_DUMPABLE), Ok(0));
    assert_eq!(sys!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), Ok(0));
    assert_eq!(sys!(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), Ok(1));
    assert_eq!(sys!(SYS_prctl, PR_SET_NAME, BAD), Err(EFAULT));
    assert_eq!(sys!(SYS_prctl, PR_SET_TIMERSLACK, 1234), Ok(0));
    assert_eq!(sys!(SYS_prctl, PR_GET_TIMERSLACK), Ok(1234));
    assert_eq!(sys!(SYS_prctl, PR_CAPBSET_READ, 0), Ok(1));
    assert_eq!(sys!(SYS_prctl, PR_CAPBSET_READ, 99), Err(EINVAL));
    assert_eq!(sys!(SYS_prctl, PR_SET_PDEATHSIG, 99), Err(EINVAL));
}

fn parent_death_signal() {
    let (r, w) = pipe();
    child(|| {
        child(|| {
            sys!(SYS_prctl, PR_SET_PDEATHSIG, SIGUSR1).unwrap();
            on_signal(SIGUSR1, 0, count);
            write(w, b"r").unwrap();
            while seen() == 0 {
                nap(5);
            }
            write(w, b"told").unwrap();
        });
        read_vec(r, 1).unwrap();
    })
    .ok();
    assert_eq!(read_vec(r, 9).unwrap(), b"told");
}

fn tsc_can_be_forbidden() {
    assert_ne!(crate::sys::rdtsc(), 0);
    let status = fate(|| {
        sys!(SYS_prctl, PR_SET_TSC, PR_TSC_SIGSEGV).unwrap();
        std::hint::black_box(crate::sys::rdtsc());
    });
    assert_eq!(status, Status::Signal(SIGSEGV));
}

fn personality_and_misc() {
    assert_eq!(sys!(SYS_personality, 0xffff_ffffu32), Ok(0));
    assert_eq!(sys!(SYS_umask, 0o777_7077), Ok(0o022));
    assert_eq!(sys!(SYS_umask, 0o022), Ok(0o077));
    assert!(sys!(SYS_membarrier, 0, 0, 0).is_ok());
    assert_eq!(sys!(SYS_membarrier, 0x8000, 0, 0), Err(EINVAL));
    aside(|| {
        drop_root();
        assert_eq!(sys!(SYS_reboot, 0xfee1_deadu32, 672_274_793, 0, 0), Err(EPERM));
    });
    assert_eq!(sys!(SYS_reboot, 1, 2, 3, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_getpgrp), sys!(SYS_getpgid, 0));
}

fn times_and_rusage() {
    let mut t: tms = zero();
    assert!(sys!(SYS_times, &mut t).is_ok());
    let mut r: rusage = zero();
    sys!(SYS_getrusage, RUSAGE_SELF, &mut r).unwrap();
    assert!(r.ru_maxrss > 0 && r.ru_minflt > 0);
    assert_eq!(sys!(SYS_getrusage, 99, &mut r), Err(EINVAL));
    let before = r.ru_minflt;
    let a = anon(50 * PAGE);
    (0..50).for_each(|i| poke(a + i * PAGE, 1));
    sys!(SYS_getrusage, RUSAGE_SELF, &mut r).unwrap();
    assert!(r.ru_minflt >= before + 50 || r.ru_minflt > before);
    let v = r.ru_nvcsw;
    nap(5);
    sys!(SYS_getrusage, RUSAGE_SELF, &mut r).unwrap();
    assert!(r.ru_nvcsw > v);
}

fn arch_prctl_bases() {
    let mut fs = 0u64;
    sys!(SYS_arch_prctl, 0x1003, &mut fs).unwrap();
    assert_ne!(fs, 0);
    aside(|| {
        sys!(SYS_arch_prctl, 0x1001, 0x1234_5000).unwrap();
        let mut gs = 0u64;
        sys!(SYS_arch_prctl, 0x1004, &mut gs).unwrap();
        assert_eq!(gs, 0x1234_5000);
    });
    assert_eq!(sys!(SYS_arch_prctl, 0x1001, 1usize << 63), Err(EPERM));
    assert_eq!(sys!(SYS_arch_prctl, 0x1003, 8), Err(EFAULT));
    assert_eq!(sys!(SYS_arch_prctl, 0x9999, 0), Err(EINVAL));
}

fn process_accounting() {
    let at = file("accounts", b"");
    assert_eq!(sys!(SYS_acct, c"/nowhere"), Err(ENOENT));
    assert_eq!(sys!(SYS_acct, c"/tmp"), Err(EISDIR));
    assert_eq!(sys!(SYS_acct, c"/dev/null"), Err(EACCES));
    assert_eq!(sys!(SYS_acct, c"/proc/self/comm"), Err(EINVAL));
    sys!(SYS_acct, &at).unwrap();
    let c = child_code(|| {
        sys!(SYS_prctl, PR_SET_NAME, c"counted").unwrap();
        5
    });
    let pid = c.0 as u32;
    assert_eq!(c.wait(), Status::Exit(5));
    let killed = child(|| nap(20_000));
    killed.kill(SIGTERM);
    killed.wait();
    sys!(SYS_acct, 0).unwrap();
    child(|| {}).ok();
    let bytes = std::fs::read(at.to_str().unwrap()).unwrap();
    // Others may end meanwhile.
    let records: Vec<&[u8]> = bytes.chunks_exact(64).collect();
    assert_eq!(bytes.len() % 64, 0);
    let word = |record: &[u8], at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().unwrap());
    let own = records.iter().find(|record| word(record, 16) == pid).unwrap();
    assert_eq!((own[0] & !2, own[1], word(own, 4)), (1, 3, 5 << 8));
    assert_eq!((word(own, 8), word(own, 12), word(own, 20)), (0, 0, getpid() as u32));
    assert!(own[48..].starts_with(b"counted\0"));
    assert!(records.iter().any(|record| record[0] & 16 != 0 && word(record, 4) == SIGTERM as u32));
    aside(|| {
        drop_root();
        assert_eq!(sys!(SYS_acct, 0), Err(EPERM));
    });
}
