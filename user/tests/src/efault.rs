//! Bad pointers and garbage in every system call: an errno, never a crash of the kernel.

use crate::prelude::*;

tests!(
    "efault":
    paths, results, data, structures, wait_status_is_written_after_reaping, string_across_the_end_of_a_mapping,
    structure_across_the_end_of_a_mapping, read_only_memory_is_not_written, garbage_in_every_call,
);

/// Pointers that cannot be right: null page, kernel, non-canonical, the very end.
const POINTERS: [usize; 6] = [8, 1 << 47, 0xffff_8000_0000_0000, 0xffff_ffff_8000_0000, BAD, usize::MAX - 7];

/// Checks that `f` gives EFAULT with each bad pointer.
#[track_caller]
fn all_fault(f: impl Fn(usize) -> Result<usize, Errno>) {
    for p in POINTERS {
        assert_eq!(f(p), Err(EFAULT), "pointer {p:#x}");
    }
}

fn paths() {
    let calls = [
        SYS_open,
        SYS_stat,
        SYS_lstat,
        SYS_access,
        SYS_chdir,
        SYS_mkdir,
        SYS_rmdir,
        SYS_creat,
        SYS_unlink,
        SYS_chmod,
        SYS_chown,
        SYS_truncate,
        SYS_mknod,
        SYS_statfs,
        SYS_chroot,
        SYS_execve,
        SYS_lchown,
    ];
    for nr in calls {
        all_fault(|p| sys!(nr, p, 0, 0));
    }
    for nr in [SYS_rename, SYS_link, SYS_symlink] {
        all_fault(|p| sys!(nr, p, c"x"));
        all_fault(|p| sys!(nr, c"/proc/version", p));
    }
    all_fault(|p| sys!(SYS_openat, AT_FDCWD, p, 0));
    all_fault(|p| sys!(SYS_newfstatat, AT_FDCWD, p, 0, 0));
    all_fault(|p| sys!(SYS_readlink, p, &mut [0u8; 9], 9));
    all_fault(|p| sys!(SYS_utimensat, AT_FDCWD, p, 0, 0));
    all_fault(|p| sys!(SYS_getxattr, p, c"user.x", 0, 0));
    all_fault(|p| sys!(SYS_inotify_add_watch, sys!(SYS_inotify_init1, 0).unwrap(), p, 1));
}

fn results() {
    let fd = open(&file("f", &[0; 64]), O_RDWR).unwrap();
    all_fault(|p| sys!(SYS_fstat, fd, p));
    all_fault(|p| sys!(SYS_stat, c"/", p));
    all_fault(|p| sys!(SYS_fstatfs, fd, p));
    all_fault(|p| sys!(SYS_statx, fd, c"", AT_EMPTY_PATH, STATX_SIZE, p));
    all_fault(|p| sys!(SYS_uname, p));
    all_fault(|p| sys!(SYS_sysinfo, p));
    all_fault(|p| sys!(SYS_getrlimit, 0, p));
    all_fault(|p| sys!(SYS_getrusage, 0, p));
    all_fault(|p| sys!(SYS_times, p));
    all_fault(|p| sys!(SYS_gettimeofday, p, 0));
    all_fault(|p| sys!(SYS_clock_gettime, CLOCK_MONOTONIC, p));
    all_fault(|p| sys!(SYS_pipe2, p, 0));
    all_fault(|p| sys!(SYS_getcwd, p, 4096));
    all_fault(|p| sys!(SYS_readlink, c"/proc/self/exe", p, 10));
    all_fault(|p| sys!(SYS_getresuid, p, p, p));
    all_fault(|p| sys!(SYS_sched_getaffinity, 0, 1024, p));
    all_fault(|p| sys!(SYS_getrandom, p, 16, 0));
    all_fault(|p| sys!(SYS_rt_sigpending, p, 8));
    all_fault(|p| sys!(SYS_sigaltstack, 0, p));
    all_fault(|p| sys!(SYS_getitimer, ITIMER_REAL, p));
}

fn data() {
    let fd = open(&file("f", &[1; 64]), O_RDWR).unwrap();
    all_fault(|p| sys!(SYS_pread64, fd, p, 8, 0));
    all_fault(|p| sys!(SYS_pwrite64, fd, p, 8, 0));
    all_fault(|p| sys!(SYS_readv, fd, p, 1));
    all_fault(|p| sys!(SYS_writev, fd, &[p, 8], 1));
    assert_eq!(fstat(fd).st_size, 64);
    let (a, b) = socketpair(SOCK_STREAM);
    write(a, b"x").unwrap();
    all_fault(|p| sys!(SYS_sendto, a, p, 8, 0, 0, 0));
    all_fault(|p| sys!(SYS_sendmsg, a, p, 0));
    all_fault(|p| sys!(SYS_recvmsg, b, p, 0));
    all_fault(|p| sys!(SYS_getsockopt, a, SOL_SOCKET, SO_TYPE, p, p));
    let d = open(&cstr(dir()), O_RDONLY).unwrap();
    all_fault(|p| {
        seek(d, 0, SEEK_SET).unwrap();
        sys!(SYS_getdents64, d, p, 1000)
    });
}

fn structures() {
    all_fault(|p| sys!(SYS_nanosleep, p, 0));
    all_fault(|p| sys!(SYS_poll, p, 1, 0));
    all_fault(|p| sys!(SYS_select, 1, p, 0, 0, 0));
    all_fault(|p| sys!(SYS_rt_sigaction, SIGUSR1, p, 0, 8));
    all_fault(|p| sys!(SYS_rt_sigaction, SIGUSR1, 0, p, 8));
    all_fault(|p| sys!(SYS_rt_sigprocmask, 0, p, 0, 8));
    all_fault(|p| sys!(SYS_rt_sigtimedwait, p, 0, 0, 8));
    all_fault(|p| sys!(SYS_setrlimit, RLIMIT_NOFILE, p));
    all_fault(|p| sys!(SYS_setitimer, ITIMER_REAL, p, 0));
    all_fault(|p| sys!(SYS_futex, p, 1, 1, 0, 0, 0));
    all_fault(|p| sys!(SYS_clone3, p, 88));
    all_fault(|p| sys!(SYS_memfd_create, p, 0));
    all_fault(|p| sys!(SYS_setgroups, 2, p));
    all_fault(|p| sys!(SYS_capget, p, 0));
    all_fault(|p| sys!(SYS_prctl, PR_SET_NAME, p));
    let ep = sys!(SYS_epoll_create1, 0).unwrap();
    let (r, _w) = pipe();
    all_fault(|p| sys!(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, r, p));
    let t = sys!(SYS_timerfd_create, CLOCK_MONOTONIC, 0).unwrap();
    all_fault(|p| sys!(SYS_timerfd_settime, t, 0, p, 0));
    all_fault(|p| sys!(SYS_timerfd_gettime, t, p));
}

fn wait_status_is_written_after_reaping() {
    for p in POINTERS {
        let c = child(|| {});
        assert_eq!(sys!(SYS_wait4, c.0, p, 0, 0), Err(EFAULT));
        assert_eq!(sys!(SYS_wait4, c.0, 0, 0, 0), Err(ECHILD), "the child is gone all the same");
    }
}

fn string_across_the_end_of_a_mapping() {
    let a = anon(2 * PAGE);
    sys!(SYS_munmap, a + PAGE, PAGE).unwrap();
    for (i, b) in b"/proc".iter().enumerate() {
        poke(a + PAGE - 5 + i, *b);
    }
    assert_eq!(sys!(SYS_chdir, a + PAGE - 5), Err(EFAULT), "no end before the hole");
    for (i, b) in b"/proc\0".iter().enumerate() {
        poke(a + PAGE - 6 + i, *b);
    }
    assert_eq!(sys!(SYS_chdir, a + PAGE - 6), Ok(0));
    for len in 6..150 {
        let put = |end: usize| {
            let name = [&vec![b'/'; len - 4], &b"proc"[..]].concat();
            name.iter().enumerate().for_each(|(i, b)| poke(end - len + i, *b));
            end - len
        };
        let whole = put(a + PAGE - 1);
        poke(a + PAGE - 1, 0);
        assert_eq!(sys!(SYS_chdir, whole), Ok(0), "{len} bytes and the end before the hole");
        assert_eq!(sys!(SYS_chdir, put(a + PAGE)), Err(EFAULT), "{len} bytes without an end");
    }
}

fn structure_across_the_end_of_a_mapping() {
    let a = anon(2 * PAGE);
    sys!(SYS_munmap, a + PAGE, PAGE).unwrap();
    assert_eq!(sys!(SYS_uname, a + PAGE - 100), Err(EFAULT));
    assert_eq!(sys!(SYS_clock_gettime, CLOCK_MONOTONIC, a + PAGE - 8), Err(EFAULT));
    assert_eq!(sys!(SYS_clock_gettime, CLOCK_MONOTONIC, a + PAGE - 16), Ok(0));
}

fn read_only_memory_is_not_written() {
    let a = anon(PAGE);
    sys!(SYS_mprotect, a, PAGE, PROT_READ).unwrap();
    assert_eq!(sys!(SYS_clock_gettime, CLOCK_MONOTONIC, a), Err(EFAULT));
    assert_eq!(sys!(SYS_getcwd, a, PAGE), Err(EFAULT));
    assert_eq!(sys!(SYS_getrandom, a, 10, 0), Err(EFAULT));
    let (r, w) = pipe();
    write(w, b"abc").unwrap();
    assert_eq!(sys!(SYS_read, r, a, 3), Err(EFAULT));
    assert_eq!(peek(a), 0);
}

/// Calls that end, stop or block the caller, or change the machine under the other tests.
const LEAVE_OUT: [i64; 44] = [
    SYS_exit,
    SYS_exit_group,
    SYS_fork,
    SYS_vfork,
    SYS_clone,
    SYS_clone3,
    SYS_pause,
    SYS_rt_sigreturn,
    SYS_kill,
    SYS_tkill,
    SYS_tgkill,
    SYS_rt_sigsuspend,
    SYS_reboot,
    SYS_sync,
    SYS_vhangup,
    SYS_wait4,
    SYS_waitid,
    SYS_read,
    SYS_rt_sigtimedwait,
    SYS_munmap,
    SYS_mmap,
    SYS_mremap,
    SYS_mprotect,
    SYS_brk,
    SYS_shmat,
    SYS_arch_prctl,
    SYS_setsid,
    SYS_swapon,
    SYS_swapoff,
    SYS_umount2,
    SYS_mount,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_init_module,
    SYS_syslog,
    SYS_unshare,
    SYS_ptrace,
    SYS_kexec_load,
    SYS_pkey_mprotect,
    SYS_pivot_root,
    335,
    336, // uretprobe and uprobe: SIGILL is their contract
];

fn garbage_in_every_call() {
    allow_seconds(60);
    for nr in (0..470).filter(|nr| !LEAVE_OUT.contains(nr)) {
        for pattern in [usize::MAX, BAD, 8, 0x7fff_ffff_f000] {
            let c = child(|| {
                sys!(SYS_alarm, 2).unwrap();
                set_action(SIGXFSZ, SIG_IGN).unwrap();
                drop_root();
                for fd in 0..20 {
                    let _ = sys!(SYS_close, fd);
                }
                let _ = sys!(nr, pattern, pattern, pattern, pattern, pattern, pattern);
            });
            let end = c.wait();
            let fine = matches!(end, Status::Exit(0) | Status::Signal(SIGALRM | SIGSYS | SIGSEGV | SIGKILL));
            assert!(fine, "system call {nr} with {pattern:#x}: {end:?}");
        }
    }
}
