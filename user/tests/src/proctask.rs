//! /proc: registers of tasks, kernel threads, mappings of /dev/zero, instances for other pid namespaces; CPUs in /sys.

use crate::prelude::*;

tests!(
    "proctask":
    registers_of_ones_own_call, registers_of_a_sleeper, what_runs_tells_nothing, kernel_threads_are_listed,
    kernel_threads_are_left_alone, a_mapping_of_zeroes_shows_its_file, an_instance_for_a_pid_namespace,
    cpus_and_their_caches,
);

fn registers_of_ones_own_call() {
    let fd = open(&cstr("/proc/self/syscall"), O_RDONLY).unwrap();
    let mut buf = [0u8; 200];
    let at = buf.as_ptr() as usize;
    let len = sys!(SYS_read, fd, &mut buf, buf.len()).unwrap();
    let text = String::from_utf8_lossy(&buf[..len]).into_owned();
    assert!(text.starts_with(&format!("{SYS_read} {fd:#x} {at:#x} {:#x} ", buf.len())), "{text}");
    assert_eq!(text.split_whitespace().count(), 9, "the number, six arguments, stack, instruction");
}

fn registers_of_a_sleeper() {
    let c = child(|| loop {
        ignore(sys!(SYS_pause));
    });
    wait_state(c.0, "S");
    let start = format!("{SYS_pause} 0x");
    // It may have been asleep for another reason.
    while !slurp(&format!("/proc/{}/syscall", c.0)).starts_with(&start) {
        nap(1);
    }
    c.kill(SIGKILL);
}

fn what_runs_tells_nothing() {
    let a = shared(PAGE);
    let spinner = child(|| loop {
        atomic(a).fetch_add(1, SeqCst);
    });
    while atomic(a).load(SeqCst) == 0 {
        nap(1);
    }
    assert_eq!(slurp(&format!("/proc/{}/syscall", spinner.0)), "running\n");
    spinner.kill(SIGKILL);
}

fn kernel_threads_are_listed() {
    assert_eq!((proc_status(2, "Name"), proc_status(2, "Kthread")), ("kthreadd".into(), "1".into()));
    assert_eq!((proc_status(2, "PPid"), proc_status(2, "Threads")), ("0".into(), "1".into()));
    assert_eq!(proc_status(2, "SigIgn"), "ffffffffffffffff");
    assert_eq!(proc_status(getpid(), "Kthread"), "0");
    let stat = slurp("/proc/2/stat");
    assert!(stat.starts_with("2 (kthreadd) "), "{stat}");
    let flags: u64 = stat.split(' ').nth(8).unwrap().parse().unwrap();
    assert_eq!(flags & 0x20_0000, 0x20_0000, "PF_KTHREAD");
    // The others are its children.
    let is_child = |name: String| {
        let path = format!("/proc/{name}/stat");
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
        let stat = if is_number { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() };
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.split(' ').nth(1) == Some("2"))
    };
    let names = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.filter(|name| is_child(name.to_string_lossy().into_owned())).count() > 1);
}

fn kernel_threads_are_left_alone() {
    for file in ["cmdline", "maps"] {
        assert_eq!(slurp(&format!("/proc/2/{file}")), "", "{file}");
    }
    assert_eq!(std::fs::read_link("/proc/2/exe").unwrap_err().raw_os_error(), Some(2));
    assert_eq!(std::fs::read_dir("/proc/2/fd").unwrap().count(), 0);
    for sig in [SIGKILL, SIGSTOP, SIGTERM, SIGCONT] {
        assert_eq!(sys!(SYS_kill, 2, sig), Ok(0), "it hears nothing");
    }
    assert_ne!(proc_status(2, "State").chars().next(), Some('T'));
    const PTRACE_ATTACH: i32 = 16;
    assert_eq!(sys!(SYS_ptrace, PTRACE_ATTACH, 2, 0, 0), Err(EPERM));
    assert_eq!(proc_status(2, "Name"), "kthreadd");
    aside(|| {
        drop_root();
        assert_eq!(sys!(SYS_kill, 2, 0), Err(EPERM));
    });
}

fn a_mapping_of_zeroes_shows_its_file() {
    let fd = open(&cstr("/dev/zero"), O_RDONLY).unwrap();
    let len = 2 * PAGE;
    let at = sys!(SYS_mmap, 0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, PAGE).unwrap();
    close(fd);
    let line = |at: usize| {
        let start = format!("{at:x}-");
        slurp("/proc/self/maps").lines().find(|line| line.starts_with(&start)).unwrap().to_string()
    };
    assert!(line(at).ends_with(" /dev/zero") && line(at).contains(" 00001000 "), "{}", line(at));
    let link = format!("/proc/self/map_files/{at:x}-{:x}", at + len);
    assert_eq!(std::fs::read_link(link).unwrap().to_string_lossy(), "/dev/zero");
    // The pages are the process's own for all that.
    atomic(at + PAGE).store(7, SeqCst);
    child(|| assert_eq!(atomic(at + PAGE).load(SeqCst), 7)).ok();
    sys!(SYS_munmap, at, PAGE).unwrap();
    assert!(line(at + PAGE).contains(" 00002000 "), "{}", line(at + PAGE));
    sys!(SYS_munmap, at + PAGE, PAGE).unwrap();
}

fn an_instance_for_a_pid_namespace() {
    crate::mountkit::own_namespace();
    let dir = mkdir("proc");
    let mount = |options: &str, flags: u64| sys!(SYS_mount, c"proc", &dir, c"proc", flags, &cstr(options));
    if mount("pidns=/proc/self/ns/pid", 0) == Err(EINVAL) {
        skip("no such option");
    }
    let text = dir.to_str().unwrap().to_string();
    assert_eq!(std::fs::read_link(format!("{text}/self")).unwrap().to_string_lossy(), getpid().to_string());
    assert_eq!(mount("pidns=/proc/self/ns/pid", MS_REMOUNT), Err(EBUSY));
    assert_eq!(mount("pidns=/proc/self/ns/mnt", 0), Err(EINVAL));
    assert_eq!(mount("pidns=/proc/self/status", 0), Err(EINVAL));
    assert_eq!(mount("pidns=/no/such", 0), Err(ENOENT));
    // The caller is not to be found in one below.
    sys!(SYS_unshare, CLONE_NEWPID).unwrap();
    let (wait, go) = pipe();
    let init = child(|| {
        close(go);
        ignore(sys!(SYS_read, wait, &mut [0u8], 1));
    });
    mount(&format!("pidns=/proc/{}/ns/pid", init.0), 0).unwrap();
    assert!(std::fs::read_link(format!("{text}/self")).is_err());
    assert_eq!(slurp(&format!("{text}/1/status")).lines().find(|line| line.starts_with("Pid:")), Some("Pid:\t1"));
    close(go);
    init.ok();
}

fn cpus_and_their_caches() {
    let cpu = "/sys/devices/system/cpu/cpu0";
    let number = |path: &str| slurp(&format!("{cpu}/{path}")).trim().parse::<u64>().unwrap();
    assert_eq!((number("topology/core_id"), number("topology/physical_package_id")), (0, 0));
    assert!(slurp(&format!("{cpu}/topology/core_cpus_list")).starts_with('0'));
    if std::fs::read_dir(format!("{cpu}/cache")).is_err() {
        skip("the CPU tells nothing of caches");
    }
    let mut level = 0;
    for index in 0.. {
        let cache = format!("cache/index{index}");
        if std::fs::read_dir(format!("{cpu}/{cache}")).is_err() {
            assert!(index > 0);
            break;
        }
        assert!(number(&format!("{cache}/level")) >= level, "nearest first");
        level = number(&format!("{cache}/level"));
        let part = |name: &str| number(&format!("{cache}/{name}"));
        let kib: u64 = slurp(&format!("{cpu}/{cache}/size")).trim().trim_end_matches('K').parse().unwrap();
        let bytes = part("coherency_line_size") * part("ways_of_associativity") * part("number_of_sets");
        assert_eq!(bytes * part("physical_line_partition"), kib * 1024);
        assert!(slurp(&format!("{cpu}/{cache}/shared_cpu_list")).starts_with('0'));
        let kind = slurp(&format!("{cpu}/{cache}/type"));
        assert!(["Data\n", "Instruction\n", "Unified\n"].contains(&kind.as_str()), "{kind}");
    }
}
