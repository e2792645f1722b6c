//! Namespaces: making, entering and asking about them (namespaces(7) and the pages of its kinds).

use crate::kit::decode;
use crate::prelude::*;

tests!(
    "ns":
    uts_copies_and_enters, nsfs_tells_its_kind, pid_init_and_numbers, pid_init_takes_all_with_it,
    pid_init_is_safe_from_its_own, pid_proc_shows_the_namespace, pid_set_tid, pid_signals_from_above,
    user_map_rules, user_capabilities_stay_inside, time_offsets, ipc_and_mnt_numbers, unshare_refusals,
    setns_refusals, limits_hold, pid_max_of_each, pid_init_by_setns, net_has_its_own_abstract_names, cgroup_and_net_numbers,
    memory_files_by_namespace, last_number_of_the_namespace, unshare_beside_readers_of_proc,
);

const NS_GET_USERNS: i32 = 0xb701;
const NS_GET_PARENT: i32 = 0xb702;
const NS_GET_NSTYPE: i32 = 0xb703;
const NS_GET_OWNER_UID: i32 = 0xb704;

fn host() -> String {
    let mut u: utsname = zero();
    sys!(SYS_uname, &mut u).unwrap();
    u.nodename.iter().take_while(|c| **c != 0).map(|c| *c as u8 as char).collect()
}

fn ns_file(pid: i32, kind: &str) -> i32 {
    open(&cstr(format!("/proc/{pid}/ns/{kind}")), O_RDONLY | O_CLOEXEC).unwrap()
}

fn ns_number(kind: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_string_lossy().into_owned()
}

/// A child in new namespaces, which runs `f`.
fn child_in(flags: i32, f: impl FnOnce()) -> Child {
    let mut args: clone_args = zero();
    args.flags = flags as u64;
    args.exit_signal = SIGCHLD as u64;
    match sys!(SYS_clone3, &args, size_of::<clone_args>()).unwrap() {
        0 => {
            f();
            exit(0)
        }
        pid => Child(pid as i32),
    }
}

fn uts_copies_and_enters() {
    sys!(SYS_unshare, CLONE_NEWUTS).unwrap();
    sys!(SYS_sethostname, c"one", 3).unwrap();
    let (read_end, write_end) = pipe();
    let (wait_end, go_end) = pipe();
    let c = child_in(CLONE_NEWUTS, || {
        assert_eq!(host(), "one", "a copy");
        sys!(SYS_sethostname, c"two", 3).unwrap();
        write(write_end, b"x").unwrap();
        close(go_end);
        read_vec(wait_end, 1).unwrap();
    });
    read_vec(read_end, 1).unwrap();
    assert_eq!(host(), "one");
    let (theirs, mine) = (ns_file(c.0, "uts"), ns_file(getpid(), "uts"));
    assert_ne!(fstat(theirs).st_ino, fstat(mine).st_ino);
    assert_eq!(format!("uts:[{}]", fstat(mine).st_ino), ns_number("uts"));
    sys!(SYS_setns, theirs, CLONE_NEWUTS).unwrap();
    assert_eq!(host(), "two");
    sys!(SYS_setns, mine, 0).unwrap();
    assert_eq!(host(), "one");
    // The same by a pidfd.
    let pidfd = sys!(SYS_pidfd_open, c.0, 0).unwrap() as i32;
    sys!(SYS_setns, pidfd, CLONE_NEWUTS).unwrap();
    assert_eq!(host(), "two");
    close(go_end);
    c.ok();
}

fn nsfs_tells_its_kind() {
    let me = getpid();
    for (name, flag) in [
        ("uts", CLONE_NEWUTS),
        ("ipc", CLONE_NEWIPC),
        ("pid", CLONE_NEWPID),
        ("user", CLONE_NEWUSER),
        ("mnt", CLONE_NEWNS),
        ("time", 0x80),
    ] {
        let fd = ns_file(me, name);
        assert_eq!(sys!(SYS_ioctl, fd, NS_GET_NSTYPE, 0), Ok(flag as usize), "{name}");
        if name != "user" {
            let owner = sys!(SYS_ioctl, fd, NS_GET_USERNS, 0).unwrap() as i32;
            assert_eq!(sys!(SYS_ioctl, owner, NS_GET_NSTYPE, 0), Ok(CLONE_NEWUSER as usize));
            assert_eq!(fstat(owner).st_ino, fstat(ns_file(me, "user")).st_ino);
        }
    }
    let user = ns_file(me, "user");
    let mut uid = 99u32;
    sys!(SYS_ioctl, user, NS_GET_OWNER_UID, &mut uid).unwrap();
    assert_eq!(uid, 0);
    let uts = ns_file(me, "uts");
    assert_eq!(sys!(SYS_ioctl, uts, NS_GET_PARENT, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_ioctl, uts, NS_GET_OWNER_UID, &mut uid), Err(EINVAL));
    assert_eq!(sys!(SYS_ioctl, uts, 0xb7ff, 0), Err(ENOTTY));
    // Out of the namespaces that the harness runs in nothing is visible.
    aside(move || {
        sys!(SYS_unshare, CLONE_NEWUSER).unwrap();
        assert_eq!(sys!(SYS_ioctl, ns_file(getpid(), "user"), NS_GET_PARENT, 0), Err(EPERM));
    });
}

fn pid_init_and_numbers() {
    let (read_end, write_end) = pipe();
    let c = child_in(CLONE_NEWPID, || {
        assert_eq!((getpid(), sys!(SYS_gettid), sys!(SYS_getppid)), (1, Ok(1), Ok(0)));
        // An orphan comes to the init of the namespace.
        let middle = child(|| {
            assert_eq!((getpid(), sys!(SYS_getppid)), (2, Ok(1)));
            let _orphan = child(|| {
                while sys!(SYS_getppid) == Ok(2) {
                    nap(10);
                }
                assert_eq!((getpid(), sys!(SYS_getppid)), (3, Ok(1)));
            });
        });
        middle.ok();
        let mut status = 0;
        assert_eq!(sys!(SYS_wait4, -1, &mut status, 0, 0), Ok(3));
        assert_eq!(decode(status), Status::Exit(0));
        assert_eq!(sys!(SYS_kill, 500, 0), Err(ESRCH));
        write(write_end, b"x").unwrap();
    });
    assert!(c.0 > 1);
    read_vec(read_end, 1).unwrap();
    c.ok();
}

fn pid_init_takes_all_with_it() {
    let (read_end, write_end) = pipe();
    let c = child_in(CLONE_NEWPID, || {
        for _ in 0..3 {
            child(|| {
                ignore(sys!(SYS_setsid));
                child(|| nap(20_000));
                nap(20_000);
            });
        }
        nap(20);
        exit(7);
    });
    close(write_end);
    assert_eq!(c.wait(), Status::Exit(7));
    // All copies of the writing end are closed: nobody is left.
    assert_eq!(read_vec(read_end, 1), Ok(vec![]));
}

fn pid_init_is_safe_from_its_own() {
    let c = child_in(CLONE_NEWPID, || {
        sys!(SYS_kill, 1, SIGKILL).unwrap();
        sys!(SYS_kill, 1, SIGTERM).unwrap();
        child(|| {
            sys!(SYS_kill, 1, SIGKILL).unwrap();
            sys!(SYS_kill, 1, SIGSTOP).unwrap();
        })
        .ok();
        nap(20);
        exit(3);
    });
    assert_eq!(c.wait(), Status::Exit(3));
}

fn pid_signals_from_above() {
    let c = child_in(CLONE_NEWPID, || nap(20_000));
    nap(20);
    c.kill(SIGTERM);
    nap(50);
    assert_eq!(c.wait_for(WNOHANG), None, "the default action of SIGTERM does not touch an init");
    c.kill(SIGKILL);
    assert_eq!(c.wait(), Status::Signal(SIGKILL));
}

fn pid_proc_shows_the_namespace() {
    let place = mkdir("proc");
    let outside = child(|| nap(20_000));
    let c = child_in(CLONE_NEWPID | CLONE_NEWNS, || {
        sys!(SYS_mount, c"none", c"/", 0, MS_REC | MS_PRIVATE, 0).unwrap();
        sys!(SYS_mount, c"proc", &place, c"proc", 0, 0).unwrap();
        let root = place.to_str().unwrap();
        let inner = child(|| nap(20_000));
        assert_eq!(inner.0, 2);
        let mut numbers: Vec<i32> = std::fs::read_dir(root)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_string_lossy().parse().ok())
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2]);
        assert_eq!(std::fs::read_link(format!("{root}/self")).unwrap().to_str(), Some("1"));
        let status = slurp(&format!("{root}/2/status"));
        assert!(status.contains("\nPid:\t2\nPPid:\t1\n") && status.contains("\nNSpid:\t2\n"), "{status}");
        assert!(slurp(&format!("{root}/2/stat")).starts_with("2 ("));
        // The outer /proc shows the number of every level.
        let outer = slurp("/proc/self/status");
        let line = outer.lines().find(|line| line.starts_with("NSpid:")).unwrap();
        assert_eq!(line.split('\t').count(), 3, "{line}");
        assert!(line.ends_with("\t1"));
        inner.kill(SIGKILL);
        inner.wait();
    });
    c.ok();
    outside.kill(SIGKILL);
    outside.wait();
}

fn pid_set_tid() {
    let c = child_in(CLONE_NEWPID, || {
        let mut args: clone_args = zero();
        let mut wanted = [77i32, 0];
        args.exit_signal = SIGCHLD as u64;
        args.set_tid = std::ptr::from_mut(&mut wanted) as u64;
        args.set_tid_size = 1;
        match sys!(SYS_clone3, &args, size_of::<clone_args>()).unwrap() {
            0 => exit(getpid()),
            pid => {
                assert_eq!(pid, 77);
                assert_eq!(Child(77).wait(), Status::Exit(77));
            }
        }
        args.set_tid_size = 3;
        assert!(sys!(SYS_clone3, &args, size_of::<clone_args>()).is_err());
    });
    c.ok();
    // unshare(2) changes the children's namespace, and its first child is the init.
    aside(|| {
        let before = getpid();
        sys!(SYS_unshare, CLONE_NEWPID).unwrap();
        assert_eq!(getpid(), before);
        assert_ne!(sys!(SYS_fork), Ok(usize::MAX));
    });
}

fn user_map_rules() {
    aside(|| {
        drop_root();
        let (uid, gid) = (sys!(SYS_getuid).unwrap(), sys!(SYS_getgid).unwrap());
        sys!(SYS_unshare, CLONE_NEWUSER).unwrap();
        assert_eq!(sys!(SYS_getuid), Ok(65534), "no map yet");
        // Who has changed its ids owns nothing in its /proc until it says so.
        sys!(SYS_prctl, PR_SET_DUMPABLE, 1).unwrap();
        assert_eq!(write_file("/proc/self/uid_map", "0 1 1\n"), Err(EPERM));
        assert_eq!(write_file("/proc/self/uid_map", "0 0\n"), Err(EINVAL));
        let line = format!("0 {uid} 1\n");
        assert_eq!(write_file("/proc/self/uid_map", &line), Ok(line.len()));
        assert_eq!(write_file("/proc/self/uid_map", &line), Err(EPERM));
        assert_eq!(sys!(SYS_getuid), Ok(0));
        let line = format!("0 {gid} 1\n");
        assert_eq!(write_file("/proc/self/gid_map", &line), Err(EPERM), "setgroups is allowed");
        assert_eq!(slurp("/proc/self/setgroups"), "allow\n");
        write_file("/proc/self/setgroups", "deny").unwrap();
        assert_eq!(write_file("/proc/self/gid_map", &line), Ok(line.len()));
        assert_eq!(sys!(SYS_getgid), Ok(0));
        assert_eq!(sys!(SYS_setgroups, 0, 0), Err(EPERM));
        assert_eq!(stat_path(&cstr("/")).unwrap().st_uid, 65534, "root of the machine has no number here");
        let shown: Vec<u32> =
            slurp("/proc/self/uid_map").split_whitespace().map(|word| word.parse().unwrap()).collect();
        assert_eq!(shown, [0, uid as u32, 1]);
        assert_eq!(sys!(SYS_setuid, 5), Err(EINVAL), "an id without a number");
    });
}

fn user_capabilities_stay_inside() {
    let secret = file("secret", b"x");
    sys!(SYS_chmod, &secret, 0o600).unwrap();
    let outside = child(|| nap(20_000));
    aside(|| {
        drop_root();
        assert_eq!(sys!(SYS_unshare, CLONE_NEWUTS), Err(EPERM));
        sys!(SYS_unshare, CLONE_NEWUSER | CLONE_NEWUTS).unwrap();
        sys!(SYS_sethostname, c"inside", 6).unwrap();
        assert_eq!(open(&secret, O_RDONLY), Err(EACCES));
        assert_eq!(sys!(SYS_kill, outside.0, SIGKILL), Err(EPERM));
        assert_eq!(sys!(SYS_mknodat, AT_FDCWD, &path("dev"), S_IFCHR | 0o600, 0x103), Err(EACCES));
        assert_eq!(sys!(SYS_unshare, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC), Ok(0));
        assert_eq!(sys!(SYS_reboot, 0, 0, 0, 0), Err(EPERM));
    });
    outside.kill(SIGKILL);
    outside.wait();
}

fn time_offsets() {
    let monotonic = || {
        let mut now: timespec = zero();
        sys!(SYS_clock_gettime, CLOCK_MONOTONIC, &mut now).unwrap();
        now.tv_sec
    };
    sys!(SYS_unshare, 0x80).unwrap();
    assert_eq!(write_file("/proc/self/timens_offsets", "monotonic 1000 0\nboottime 2000 0\n"), Ok(33));
    assert_eq!(write_file("/proc/self/timens_offsets", "monotonic -100000000 0\n"), Err(ERANGE));
    assert_eq!(write_file("/proc/self/timens_offsets", "realtime 1 0\n"), Err(EINVAL));
    let before = monotonic();
    aside(|| {
        assert!((1000..1100).contains(&(monotonic() - before)));
        let fast = std::time::Instant::now();
        let mut now: timespec = zero();
        sys!(SYS_clock_gettime, CLOCK_BOOTTIME, &mut now).unwrap();
        let up: f64 = slurp("/proc/uptime").split(' ').next().unwrap().parse().unwrap();
        assert!((up - now.tv_sec as f64).abs() < 5.0, "{up} {}", now.tv_sec);
        assert_eq!(write_file("/proc/self/timens_offsets", "monotonic 1 0\n"), Err(EACCES));
        // An absolute sleep is until a time of the namespace; the C library's clock agrees with the kernel's.
        let mut due: timespec = zero();
        sys!(SYS_clock_gettime, CLOCK_MONOTONIC, &mut due).unwrap();
        due.tv_nsec += 20_000_000;
        if due.tv_nsec >= 1_000_000_000 {
            due.tv_sec += 1;
            due.tv_nsec -= 1_000_000_000;
        }
        sys!(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &due, 0).unwrap();
        assert!((15..5000).contains(&fast.elapsed().as_millis()));
    });
    let elapsed = monotonic() - before;
    assert!((0..100).contains(&elapsed), "the parent stays where it was");
}

fn ipc_and_mnt_numbers() {
    let before = ["ipc", "mnt", "uts", "user"].map(ns_number);
    sys!(SYS_unshare, CLONE_NEWIPC | CLONE_NEWNS).unwrap();
    let after = ["ipc", "mnt", "uts", "user"].map(ns_number);
    assert!(before[0] != after[0] && before[1] != after[1]);
    assert!(before[2] == after[2] && before[3] == after[3]);
}

fn unshare_beside_readers_of_proc() {
    let me = getpid();
    let reader = child(|| {
        while sys!(SYS_getppid) == Ok(me as usize) {
            ignore((slurp(&format!("/proc/{me}/status")), slurp(&format!("/proc/{me}/stat"))));
        }
    });
    settle();
    for _ in 0..2000 {
        assert_eq!(sys!(SYS_unshare, CLONE_SIGHAND), Ok(0), "who looks shares nothing");
    }
    reader.kill(SIGKILL);
    reader.wait();
}

fn unshare_refusals() {
    assert_eq!(sys!(SYS_unshare, 0x8000_0000u64), Err(EINVAL));
    assert_eq!(sys!(SYS_unshare, CLONE_PARENT), Err(EINVAL));
    assert_eq!(sys!(SYS_unshare, CLONE_THREAD | CLONE_SIGHAND | CLONE_VM), Ok(0), "alone, it changes nothing");
    assert_eq!(sys!(SYS_unshare, 0), Ok(0));
    std::thread::spawn(|| {
        assert_eq!(sys!(SYS_unshare, CLONE_THREAD), Err(EINVAL));
        assert_eq!(sys!(SYS_unshare, CLONE_NEWUSER), Err(EINVAL));
        assert_eq!(sys!(SYS_unshare, CLONE_NEWUTS), Ok(0), "threads may have names of their own");
    })
    .join()
    .unwrap();
    aside(|| {
        drop_root();
        for flag in [CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNS, 0x80] {
            assert_eq!(sys!(SYS_unshare, flag), Err(EPERM), "{flag:#x}");
        }
    });
}

fn setns_refusals() {
    let uts = ns_file(getpid(), "uts");
    assert_eq!(sys!(SYS_setns, uts, CLONE_NEWIPC), Err(EINVAL));
    assert_eq!(sys!(SYS_setns, -1, 0), Err(EBADF));
    assert_eq!(sys!(SYS_setns, pipe().0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_setns, ns_file(getpid(), "user"), 0), Err(EINVAL), "the one that it is in");
    let pidfd = sys!(SYS_pidfd_open, getpid(), 0).unwrap() as i32;
    assert_eq!(sys!(SYS_setns, pidfd, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_setns, pidfd, 1), Err(EINVAL));
    aside(move || {
        drop_root();
        assert_eq!(sys!(SYS_setns, uts, CLONE_NEWUTS), Err(EPERM));
    });
}

fn limits_hold() {
    let name = "/proc/sys/user/max_uts_namespaces";
    let old = slurp(name);
    write_file(name, "0\n").unwrap();
    assert_eq!(sys!(SYS_unshare, CLONE_NEWUTS), Err(ENOSPC));
    write_file(name, &old).unwrap();
    sys!(SYS_unshare, CLONE_NEWUTS).unwrap();
    // Pid namespaces nest 32 deep, and no deeper.
    let mut depth = 0;
    while sys!(SYS_unshare, CLONE_NEWPID).is_ok() && depth < 40 {
        depth += 1;
    }
    assert!((1..=32).contains(&depth), "{depth}");
}

fn pid_max_of_each() {
    let outer = slurp("/proc/sys/kernel/pid_max");
    let c = child_in(CLONE_NEWPID | CLONE_NEWNS, || {
        sys!(SYS_mount, c"none", c"/proc", c"proc", 0, 0).unwrap();
        let path = "/proc/sys/kernel/pid_max";
        assert_eq!(write_file(path, "300"), Err(EINVAL));
        write_file(path, "310").unwrap();
        assert_eq!(slurp(path), "310\n");
        for _ in 0..320 {
            let c = child(|| {});
            assert!(c.0 < 310);
            c.ok();
        }
    });
    c.ok();
    assert_eq!(slurp("/proc/sys/kernel/pid_max"), outer);
}

fn pid_init_by_setns() {
    aside(|| {
        let outside = getpid();
        let (wait_end, go_end) = pipe();
        let c = child(|| {
            read_vec(wait_end, 1).unwrap();
            let fd = open(&cstr(format!("/proc/{outside}/ns/pid_for_children")), O_RDONLY).unwrap();
            sys!(SYS_setns, fd, CLONE_NEWPID).unwrap();
            child(|| assert_eq!(getpid(), 1)).ok();
        });
        sys!(SYS_unshare, CLONE_NEWPID).unwrap();
        write(go_end, b"x").unwrap();
        c.ok();
    });
}

fn abstract_address() -> [u8; 6] {
    *b"\x01\0\0one"
}

fn net_has_its_own_abstract_names() {
    let socket = || sys!(SYS_socket, AF_UNIX, SOCK_STREAM, 0).unwrap() as i32;
    let address = abstract_address();
    let bind = |fd: i32| sys!(SYS_bind, fd, &address, address.len());
    let listener = socket();
    bind(listener).unwrap();
    sys!(SYS_listen, listener, 1).unwrap();
    assert_eq!(bind(socket()), Err(EADDRINUSE));
    let before = socket();
    let cookie = |fd: i32, option: i32| {
        let (mut value, mut len) = (0u64, 8u32);
        sys!(SYS_getsockopt, fd, SOL_SOCKET, option, &mut value, &mut len).unwrap();
        value
    };
    assert_ne!(cookie(before, SO_COOKIE), cookie(listener, SO_COOKIE));
    assert_eq!(cookie(before, 71), cookie(listener, 71), "of one network");
    let (mut short, mut len) = (0u64, 4u32);
    assert_eq!(sys!(SYS_getsockopt, before, SOL_SOCKET, 71, &mut short, &mut len), Err(EINVAL));
    aside(|| {
        sys!(SYS_unshare, CLONE_NEWNET).unwrap();
        let connect = |fd: i32| sys!(SYS_connect, fd, &address, address.len());
        assert_eq!(connect(socket()), Err(ECONNREFUSED));
        let inside = socket();
        assert_eq!(bind(inside), Ok(0));
        assert_ne!(cookie(inside, 71), cookie(before, 71));
        assert_eq!(connect(before), Ok(0), "a socket stays where it was made");
    });
}

fn cgroup_and_net_numbers() {
    for (flag, kind) in [(CLONE_NEWNET, "net"), (CLONE_NEWCGROUP, "cgroup")] {
        let before = ns_number(kind);
        let old = ns_file(getpid(), kind);
        aside(|| {
            sys!(SYS_unshare, flag).unwrap();
            assert_ne!(ns_number(kind), before);
            let file = ns_file(getpid(), kind);
            assert_eq!(sys!(SYS_ioctl, file, NS_GET_NSTYPE, 0), Ok(flag as usize));
            assert_eq!(sys!(SYS_setns, old, CLONE_NEWUTS), Err(EINVAL));
            sys!(SYS_setns, old, flag).unwrap();
            assert_eq!(ns_number(kind), before);
            drop_root();
            assert_eq!(sys!(SYS_unshare, flag), Err(EPERM));
        });
    }
}

fn memory_files_by_namespace() {
    const TUNABLE: &str = "/proc/sys/vm/memfd_noexec";
    const MFD_EXEC: u32 = 16;
    let seals = |fd: usize| sys!(SYS_fcntl, fd, F_GET_SEALS).unwrap() as i32;
    assert_eq!(slurp(TUNABLE), "0\n");
    child_in(CLONE_NEWPID, || {
        write_file(TUNABLE, "1").unwrap();
        let fd = sys!(SYS_memfd_create, c"m", 0).unwrap();
        assert_eq!(seals(fd) & 0x20, 0x20, "F_SEAL_EXEC");
        assert_eq!(fstat(fd as i32).st_mode & 0o777, 0o666);
        assert!(sys!(SYS_memfd_create, c"m", MFD_EXEC).is_ok());
        write_file(TUNABLE, "2").unwrap();
        assert_eq!(sys!(SYS_memfd_create, c"m", MFD_EXEC), Err(EACCES));
        assert!(sys!(SYS_memfd_create, c"m", 0).is_ok());
        assert_eq!(write_file(TUNABLE, "3"), Err(EINVAL));
        child_in(CLONE_NEWPID, || {
            assert_eq!(slurp(TUNABLE), "2\n");
            assert_eq!(write_file(TUNABLE, "1"), Err(EINVAL));
            assert_eq!(sys!(SYS_memfd_create, c"m", MFD_EXEC), Err(EACCES));
        })
        .ok();
    })
    .ok();
    assert_eq!(slurp(TUNABLE), "0\n");
    child_in(CLONE_NEWPID, || {
        drop_root();
        assert!(matches!(write_file(TUNABLE, "1"), Err(Errno::EACCES | Errno::EPERM)));
    })
    .ok();
}

fn last_number_of_the_namespace() {
    let last = || slurp("/proc/loadavg").trim().rsplit(' ').next().unwrap().to_owned();
    child_in(CLONE_NEWPID, || {
        assert_eq!(last(), "1");
        child(|| ()).ok();
        assert_eq!(last(), "2");
    })
    .ok();
}
