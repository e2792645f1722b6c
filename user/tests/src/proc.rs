//! /proc and /sys: the files that programs read.

use std::sync::atomic::AtomicBool;

use crate::prelude::*;

tests!(
    "proc":
    self_links, stat_line, status_fields, states_of_a_child, cmdline_environ_and_comm, maps_show_mappings,
    mem_reads_and_writes, writes_of_others_change_copies_only, fd_folder, reopening_through_proc, system_files,
    sysctl_files, proc_is_protected, limits_file, reads_in_small_pieces, sys_folders, oom_score_adj, maps_are_read_by_lines, mounts_hide_what_they_are_told,
    names_of_the_kernel,
);

fn self_links() {
    let link = |p: &str| std::fs::read_link(p).unwrap().to_string_lossy().into_owned();
    assert_eq!(link("/proc/self"), getpid().to_string());
    assert_eq!(link("/proc/thread-self"), format!("{}/task/{}", getpid(), gettid()));
    sys!(SYS_chdir, &cstr(dir())).unwrap();
    assert_eq!(link("/proc/self/cwd"), dir());
    assert_eq!(link("/proc/self/root"), "/");
    assert!(link("/proc/self/exe").starts_with('/'));
    let fd = open(&file("f", b""), O_RDONLY).unwrap();
    assert_eq!(link(&format!("/proc/self/fd/{fd}")), format!("{}/f", dir()));
    sys!(SYS_unlink, &path("f")).unwrap();
    assert_eq!(link(&format!("/proc/self/fd/{fd}")), format!("{}/f (deleted)", dir()));
}

fn stat_line() {
    sys!(SYS_prctl, PR_SET_NAME, c"a) (b c").unwrap();
    let text = slurp("/proc/self/stat");
    let (head, tail) = text.rsplit_once(") ").unwrap();
    assert_eq!(head, format!("{} (a) (b c", getpid()));
    let f: Vec<&str> = tail.trim().split(' ').collect();
    assert_eq!(f.len(), 50);
    assert_eq!(f[0], "R");
    assert_eq!(f[1], sys!(SYS_getppid).unwrap().to_string());
    assert_eq!(f[2], sys!(SYS_getpgid, 0).unwrap().to_string());
    assert_eq!(f[17], "1", "threads");
}

fn status_fields() {
    assert_eq!(proc_status(getpid(), "Pid"), getpid().to_string());
    assert_eq!(proc_status(getpid(), "Uid"), "0\t0\t0\t0");
    assert_eq!(proc_status(getpid(), "State"), "R (running)");
    assert_eq!(proc_status(getpid(), "Threads"), "1");
    assert_eq!(proc_status(getpid(), "Umask"), "0022");
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    set_action(SIGUSR2, SIG_IGN).unwrap();
    assert_eq!(proc_status(getpid(), "SigBlk"), "0000000000000200");
    assert_eq!(u64::from_str_radix(&proc_status(getpid(), "SigIgn"), 16).unwrap() & 0x800, 0x800);
    for key in ["VmPeak", "VmSize", "VmRSS", "VmData", "VmStk", "PPid", "Tgid", "FDSize", "CapEff", "Seccomp"]
    {
        assert!(!proc_status(getpid(), key).is_empty(), "{key}");
    }
}

fn states_of_a_child() {
    let c = child(|| nap(20_000));
    wait_state(c.0, "S");
    c.kill(SIGSTOP);
    wait_state(c.0, "T");
    c.kill(SIGKILL);
    wait_state(c.0, "Z");
    assert_eq!(slurp(&format!("/proc/{}/cmdline", c.0)), "");
    assert!(std::fs::read_link(format!("/proc/{}/exe", c.0)).is_err());
    c.wait();
    assert_eq!(stat_path(&cstr(format!("/proc/{}", c.0))).err(), Some(ENOENT));
}

fn cmdline_environ_and_comm() {
    let text = slurp("/proc/self/cmdline");
    assert!(text.ends_with('\0') && text.len() > 1);
    assert_eq!(slurp("/proc/self/environ").is_empty(), std::env::vars().count() == 0);
    sys!(SYS_prctl, PR_SET_NAME, c"0123456789abcdefXYZ").unwrap();
    assert_eq!(slurp("/proc/self/comm"), "0123456789abcde\n");
    let fd = open(&cstr("/proc/self/comm"), O_WRONLY).unwrap();
    write(fd, b"renamed").unwrap();
    let mut name = [0u8; 16];
    sys!(SYS_prctl, PR_GET_NAME, &mut name).unwrap();
    assert_eq!(&name[..8], b"renamed\0");
}

fn maps_show_mappings() {
    let a = anon(3 * PAGE);
    sys!(SYS_mprotect, a + PAGE, PAGE, PROT_READ).unwrap();
    let fd = open(&file("mapped", &[0; 8192]), O_RDWR).unwrap();
    let m = sys!(SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, PAGE).unwrap();
    let maps = slurp("/proc/self/maps");
    let line =
        |start: usize| maps.lines().find(|l| l.starts_with(&format!("{start:08x}-"))).unwrap_or_default();
    assert!(line(a + PAGE).contains("r--p 00000000 00:00 0"), "{maps}");
    assert!(line(m).contains("rw-s 00001000") && line(m).ends_with("/mapped"), "{maps}");
    for name in ["[stack]", "[vdso]", "[heap]"] {
        assert!(maps.contains(name), "{name}");
    }
    assert!(slurp("/proc/self/smaps").contains("Rss:"));
    assert_eq!(slurp("/proc/self/statm").split(' ').count(), 7);
}

fn mem_reads_and_writes() {
    let a = anon(PAGE);
    poke(a, 42);
    let fd = open(&cstr("/proc/self/mem"), O_RDWR).unwrap();
    assert_eq!(pread(fd, 1, a as i64).unwrap(), [42]);
    assert_eq!(pwrite(fd, &[43], a as i64), Ok(1));
    assert_eq!(peek(a), 43);
    assert_eq!(pread(fd, 1, 8), Err(EIO));
}

/// Runs `write` some thousand times, while a thread gives the pages of `areas` back and reads them anew.
fn while_pages_go(areas: &[usize], write: impl Fn(usize)) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(SeqCst) {
                for &at in areas {
                    sys!(SYS_madvise, at, PAGE, MADV_DONTNEED).unwrap();
                    peek(at);
                }
            }
        });
        (0..3000).for_each(|i| write(areas[i % areas.len()]));
        is_over.store(true, SeqCst);
    });
}

/// What others may write to private memory never reaches the file, or the page that untouched memory shows, whatever
/// happens meanwhile to the copy that was made for it.
fn writes_of_others_change_copies_only() {
    let content = vec![b'a'; PAGE];
    let p = file("program", &content);
    let fd = open(&p, O_RDONLY).unwrap();
    let private = |prot, flags, fd| map(PAGE, prot, MAP_PRIVATE | flags, fd).unwrap();
    let check = || {
        assert!(pread(fd, PAGE, 0).unwrap() == content, "the file has changed");
        let fresh = anon(PAGE);
        assert!((0..PAGE).all(|i| peek(fresh + i) == 0), "the page of zeroes has changed");
    };
    // By force, as a debugger.
    let mem = open(&cstr("/proc/self/mem"), O_RDWR).unwrap();
    let read_only = [private(PROT_READ, 0, fd), private(PROT_READ, MAP_ANONYMOUS, -1)];
    // LINUX: kernels made for it, as Debian's, let only a debugger do this (proc_mem.force_override).
    let is_told = |written: Result<usize, Errno>| matches!(written, Ok(1) | Err(EIO));
    while_pages_go(&read_only, |at| assert!(is_told(pwrite(mem, b"m", at as i64))));
    check();
    // With the rights of the mapping.
    let rw = PROT_READ | PROT_WRITE;
    while_pages_go(&[private(rw, 0, fd), private(rw, MAP_ANONYMOUS, -1)], |at| {
        let from = iovec { iov_base: content.as_ptr() as *mut c_void, iov_len: 1 };
        let to = iovec { iov_base: at as *mut c_void, iov_len: 1 };
        assert_eq!(sys!(SYS_process_vm_writev, getpid(), &from, 1, &to, 1, 0), Ok(1));
    });
    check();
    // The last write stays, as nobody gives pages back now.
    for at in read_only {
        let before = peek(at);
        let written = pwrite(mem, b"n", at as i64);
        assert!(is_told(written), "{written:?}");
        assert_eq!(peek(at), if written.is_ok() { b'n' } else { before });
    }
    check();
    let shared = map(PAGE, PROT_READ, MAP_SHARED, fd).unwrap();
    assert_eq!(pwrite(mem, b"s", shared as i64), Err(EIO), "there are no copies in shared memory");
    assert_eq!(peek(shared), b'a');
}

fn fd_folder() {
    let a = new_file("a");
    let names = |p: &str| -> Vec<String> {
        std::fs::read_dir(p).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert!(names("/proc/self/fd").contains(&a.to_string()));
    assert!(names("/proc/self/task").contains(&gettid().to_string()));
    assert!(names("/proc").contains(&getpid().to_string()));
    write(a, b"12345").unwrap();
    let info = slurp(&format!("/proc/self/fdinfo/{a}"));
    assert!(info.starts_with("pos:\t5\nflags:\t0100002\n"), "{info}");
}

fn reopening_through_proc() {
    let p = file("f", b"data");
    let fd = open(&p, O_RDONLY).unwrap();
    let again = open(&cstr(format!("/proc/self/fd/{fd}")), O_RDWR).unwrap();
    assert_eq!(read_vec(again, 9).unwrap(), b"data");
    assert_eq!(seek(fd, 0, SEEK_CUR), Ok(0), "a new open file");
    assert_eq!(open(&cstr("/proc/self/fd/999"), O_RDONLY), Err(ENOENT));
}

fn system_files() {
    let mem = slurp("/proc/meminfo");
    for key in
        ["MemTotal:", "MemFree:", "MemAvailable:", "Buffers:", "Cached:", "SwapTotal:", "Shmem:", "Slab:"]
    {
        assert!(mem.lines().any(|l| l.starts_with(key) && l.ends_with(" kB")), "{key}");
    }
    let stat = slurp("/proc/stat");
    for key in ["cpu ", "cpu0 ", "intr ", "ctxt ", "btime ", "processes ", "procs_running ", "procs_blocked "]
    {
        assert!(stat.lines().any(|l| l.starts_with(key)), "{key}");
    }
    assert!(slurp("/proc/version").starts_with("Linux version "));
    assert_eq!(slurp("/proc/uptime").split(' ').count(), 2);
    assert_eq!(slurp("/proc/loadavg").trim().split(' ').count(), 5);
    assert!(slurp("/proc/cpuinfo").contains("processor\t: 0\n"));
    assert!(slurp("/proc/filesystems").contains("nodev\tproc\n"));
    assert!(slurp("/proc/mounts").lines().any(|l| l.contains(" /proc proc ")));
    assert!(slurp("/proc/self/mountinfo").lines().any(|l| l.contains(" /proc ") && l.contains(" - proc ")));
    assert!(slurp("/proc/devices").contains("1 mem"));
    assert!(!slurp("/proc/cmdline").contains('\0'));
    assert!(slurp("/proc/vmstat").contains("nr_free_pages "));
}

fn sysctl_files() {
    assert_eq!(slurp("/proc/sys/kernel/ostype"), "Linux\n");
    let mut u: utsname = zero();
    sys!(SYS_uname, &mut u).unwrap();
    let release: String = u.release.iter().take_while(|c| **c != 0).map(|c| *c as u8 as char).collect();
    assert_eq!(slurp("/proc/sys/kernel/osrelease").trim(), release);
    let number = |p: &str| slurp(p).trim().parse::<u64>().unwrap();
    assert!(number("/proc/sys/kernel/pid_max") >= 301);
    assert!(number("/proc/sys/fs/file-max") > 0);
    assert!(number("/proc/sys/vm/overcommit_memory") <= 2);
    assert_eq!(slurp("/proc/sys/kernel/random/uuid").len(), 37);
    assert_ne!(slurp("/proc/sys/kernel/random/uuid"), slurp("/proc/sys/kernel/random/uuid"));
    assert_eq!(slurp("/proc/sys/kernel/random/boot_id"), slurp("/proc/sys/kernel/random/boot_id"));
}

fn proc_is_protected() {
    assert_eq!(open(&cstr("/proc/new"), O_CREAT | O_RDWR), Err(ENOENT));
    assert_eq!(sys!(SYS_mkdir, c"/proc/new", 0o755), Err(ENOENT));
    assert!(matches!(sys!(SYS_unlink, c"/proc/version"), Err(Errno::EPERM | Errno::EACCES)));
    assert_eq!(open(&cstr("/proc/999999999"), O_RDONLY), Err(ENOENT));
    let other = child(|| nap(20_000));
    aside(|| {
        drop_root();
        assert_eq!(open(&cstr(format!("/proc/{}/mem", other.0)), O_RDONLY), Err(EACCES));
        assert_eq!(open(&cstr(format!("/proc/{}/fd", other.0)), O_RDONLY), Err(EACCES));
        assert!(slurp(&format!("/proc/{}/stat", other.0)).contains("(user-tests)"));
    });
    other.kill(SIGKILL);
    other.wait();
}

fn limits_file() {
    let r = rlimit { rlim_cur: 100, rlim_max: 200 };
    sys!(SYS_setrlimit, RLIMIT_NOFILE, &r).unwrap();
    let text = slurp("/proc/self/limits");
    let line = text.lines().find(|l| l.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().skip(3).collect::<Vec<_>>(), ["100", "200", "files"]);
}

fn reads_in_small_pieces() {
    let fd = open(&cstr("/proc/meminfo"), O_RDONLY).unwrap();
    let mut text = vec![];
    while let Some(b) = read_vec(fd, 7).ok().filter(|b| !b.is_empty()) {
        text.extend(b);
    }
    assert!(text.starts_with(b"MemTotal:") && text.ends_with(b"\n"));
    assert_eq!(pread(fd, 8, 0).unwrap(), b"MemTotal");
    seek(fd, 3, SEEK_SET).unwrap();
    assert_eq!(read_vec(fd, 5).unwrap(), b"Total");
}

fn sys_folders() {
    assert!(stat_path(&cstr("/sys/devices/system/cpu")).is_ok());
    assert!(slurp("/sys/devices/system/cpu/online").starts_with('0'));
    assert!(stat_path(&cstr("/sys/kernel")).is_ok());
    assert!(matches!(
        open(&cstr("/sys/new"), O_CREAT | O_RDWR),
        Err(Errno::EPERM | Errno::EACCES | Errno::ENOENT)
    ));
}

fn oom_score_adj() {
    let p = cstr("/proc/self/oom_score_adj");
    let fd = open(&p, O_RDWR).unwrap();
    write(fd, b"500").unwrap();
    assert_eq!(slurp("/proc/self/oom_score_adj"), "500\n");
    assert_eq!(write(fd, b"1001"), Err(EINVAL));
    assert_eq!(write(fd, b"words"), Err(EINVAL));
}

fn maps_are_read_by_lines() {
    let a = anon(200 * PAGE);
    (0..100).for_each(|i| _ = sys!(SYS_mprotect, a + 2 * i * PAGE, PAGE, PROT_READ).unwrap());
    for name in ["maps", "smaps"] {
        let fd = open(&cstr(format!("/proc/self/{name}")), O_RDONLY).unwrap();
        let (one, two) = (read_vec(fd, PAGE).unwrap(), read_vec(fd, PAGE).unwrap());
        assert!(one.len() > PAGE / 2 && one.ends_with(b"\n") && two.ends_with(b"\n"), "{name}");
        // Who asks for less gets as much as he asks for.
        let fd = open(&cstr(format!("/proc/self/{name}")), O_RDONLY).unwrap();
        assert_eq!(read_vec(fd, 10).unwrap(), one[..10]);
        assert_eq!(read_vec(fd, 10).unwrap(), one[10..20]);
    }
}

/// Mounts proc with `options` in the test's folder.
fn mount_proc(options: &str) -> Result<String, Errno> {
    let at = format!("{}/proc", dir());
    let _ = sys!(SYS_mkdir, &cstr(at.clone()), 0o755);
    sys!(SYS_mount, c"proc", &cstr(at.clone()), c"proc", 0, &cstr(options)).map(|_| at)
}

fn mounts_hide_what_they_are_told() {
    sys!(SYS_unshare, CLONE_NEWNS).unwrap();
    sys!(SYS_mount, 0, c"/", 0, MS_REC | MS_PRIVATE, 0).unwrap();
    for bad in ["hidepid=3", "subset=all", "gid=x", "nonsense"] {
        assert_eq!(mount_proc(bad).err(), Some(EINVAL), "{bad}");
    }
    let names = |at: &str| -> Vec<String> {
        std::fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    let at = mount_proc("subset=pid").unwrap();
    assert_eq!(open(&cstr(format!("{at}/cpuinfo")), O_RDONLY), Err(ENOENT));
    let shown = names(&at);
    assert!(shown.contains(&getpid().to_string()) && shown.contains(&"self".to_owned()));
    assert!(shown.iter().all(|n| n == "self" || n == "thread-self" || n.bytes().all(|b| b.is_ascii_digit())));
    assert!(open(&cstr("/proc/cpuinfo"), O_RDONLY).is_ok(), "an instance of its own");
    sys!(SYS_umount2, &cstr(at), 0).unwrap();

    let at = mount_proc("hidepid=invisible").unwrap();
    assert!(slurp("/proc/mounts").lines().any(|l| l.contains(&at) && l.contains("hidepid=invisible")));
    aside(|| {
        drop_root();
        assert_eq!(stat_path(&cstr(format!("{at}/1"))).err(), Some(ENOENT));
        assert!(!names(&at).contains(&"1".to_owned()));
        assert!(names(&at).contains(&getpid().to_string()));
    });
    sys!(SYS_mount, 0, &cstr(at.clone()), 0, MS_REMOUNT, c"hidepid=1").unwrap();
    aside(|| {
        drop_root();
        assert!(stat_path(&cstr(format!("{at}/1"))).is_ok());
        assert_eq!(stat_path(&cstr(format!("{at}/1/stat"))).err(), Some(Errno::EPERM));
    });
    assert!(stat_path(&cstr(format!("{at}/1/stat"))).is_ok());
    sys!(SYS_umount2, &cstr(at), 0).unwrap();
}

fn names_of_the_kernel() {
    let first = || {
        let text = slurp("/proc/kallsyms");
        let fields: Vec<_> = text.lines().next().unwrap().split_whitespace().map(str::to_owned).collect();
        assert!(fields.len() >= 3 && fields[0].len() == 16 && fields[1].len() == 1, "{fields:?}");
        text.lines().any(|line| !line.starts_with("0000000000000000 "))
    };
    assert!(first(), "root sees addresses");
    aside(|| {
        drop_root();
        assert!(!first(), "others do not");
    });
}
