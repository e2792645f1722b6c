//! Control groups, version 2 (cgroups(7), Documentation/admin-guide/cgroup-v2.rst).

use crate::kit::read;
use crate::mountkit::own_namespace;
use crate::prelude::*;

tests!(
    "cgroup":
    the_machine_owns_the_file_system, groups_are_directories, shape_has_limits, members_come_and_go,
    born_into_a_group, threads_have_groups_of_their_own, frozen_tasks_stop, all_are_killed,
    an_init_is_killed_from_above, too_many_tasks, cpu_time_is_counted, namespaces_have_roots, rights_of_who_opened,
    handles_and_pidfds_tell_the_id,
);

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The hierarchy, mounted for the test alone. All tests mount it alike, for the options are those of the whole.
fn mounted() -> String {
    own_namespace();
    let at = mkdir("cgroup");
    sys!(SYS_mount, c"none", &at, c"cgroup2", 0, c"nsdelegate").unwrap();
    at.into_string().unwrap()
}

/// A group of the test's own; it is killed and removed in the end.
struct Group(String);

impl Group {
    fn new() -> Group {
        let group = Group(format!("{}/test{}", mounted(), getpid()));
        make(&group.0).unwrap();
        group
    }

    fn below(&self, name: &str) -> String {
        let path = format!("{}/{name}", self.0);
        make(&path).unwrap();
        path
    }

    /// Where it is for /proc/PID/cgroup.
    fn shown(&self, below: &str) -> String {
        format!("0::/{}{below}\n", self.0.rsplit('/').next().unwrap())
    }
}

fn remove_all(path: &str) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_all(&entry.path().to_string_lossy());
        }
    }
    for _ in 0..1000 {
        match remove(path) {
            Err(EBUSY) => nap(5),
            _ => return,
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let root = self.0.rsplit_once('/').unwrap().0;
        ignore(put(&format!("{root}/cgroup.procs"), "0"));
        ignore(put(&format!("{}/cgroup.kill", self.0), "1"));
        remove_all(&self.0);
    }
}

fn make(path: &str) -> Result<usize, Errno> {
    sys!(SYS_mkdir, &cstr(path), 0o755)
}

fn remove(path: &str) -> Result<usize, Errno> {
    sys!(SYS_rmdir, &cstr(path))
}

fn put(path: &str, text: &str) -> Result<usize, Errno> {
    let fd = open(&cstr(path), O_WRONLY)?;
    let result = write(fd, text.as_bytes());
    close(fd);
    result
}

/// A file's text, or why there is none.
fn get(path: &str) -> Result<String, Errno> {
    let fd = open(&cstr(path), O_RDONLY)?;
    let result = read_vec(fd, 65536);
    close(fd);
    result.map(|bytes| String::from_utf8(bytes).unwrap())
}

/// Waits until the file says `text`.
#[track_caller]
fn wait_for(path: &str, text: &str) {
    for _ in 0..1000 {
        if get(path).as_deref() == Ok(text) {
            return;
        }
        nap(5);
    }
    panic!("{path} says {:?} and not {text:?}", get(path));
}

/// clone3(2) into the group at `path`.
fn clone_into(path: &str, f: impl FnOnce()) -> Result<Child, Errno> {
    clone_as(path, 0, f)
}

/// The same with more flags.
fn clone_as(path: &str, flags: u64, f: impl FnOnce()) -> Result<Child, Errno> {
    let fd = open(&cstr(path), O_PATH | O_CLOEXEC)?;
    let result = clone_fd(fd, flags, f);
    close(fd);
    result
}

fn clone_into_fd(fd: i32, f: impl FnOnce()) -> Result<Child, Errno> {
    clone_fd(fd, 0, f)
}

fn clone_fd(fd: i32, flags: u64, f: impl FnOnce()) -> Result<Child, Errno> {
    let mut args: clone_args = zero();
    args.flags = CLONE_INTO_CGROUP | flags;
    args.exit_signal = SIGCHLD as u64;
    args.cgroup = fd as u64;
    match sys!(SYS_clone3, &args, size_of::<clone_args>())? {
        0 => {
            f();
            exit(0)
        }
        pid => Ok(Child(pid as i32)),
    }
}

fn sleeper() {
    loop {
        nap(60_000);
    }
}

fn the_machine_owns_the_file_system() {
    own_namespace();
    let at = mkdir("cgroup");
    aside(|| {
        sys!(SYS_unshare, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWCGROUP).unwrap();
        sys!(SYS_mount, c"none", &at, c"cgroup2", 0, 0).unwrap();
        for flags in [MS_REMOUNT, MS_REMOUNT | MS_RDONLY] {
            assert_eq!(sys!(SYS_mount, 0, &at, 0, flags, 0), Err(EPERM));
        }
    });
}

fn groups_are_directories() {
    let group = Group::new();
    let file = |name: &str| format!("{}/{name}", group.0);
    let mode = |name: &str| stat_path(&cstr(file(name))).unwrap().st_mode & 0o7777;
    assert_eq!((mode("cgroup.procs"), mode("cgroup.events"), mode("cgroup.kill")), (0o644, 0o444, 0o200));
    assert_eq!(get(&file("cgroup.type")), Ok("domain\n".into()));
    assert_eq!(get(&file("cgroup.events")), Ok("populated 0\nfrozen 0\n".into()));
    assert_eq!((get(&file("cgroup.procs")), get(&file("cgroup.freeze"))), (Ok("".into()), Ok("0\n".into())));
    assert_eq!(get(&file("cgroup.kill")), Err(EINVAL));
    assert_eq!(get(&file("cgroup.stat.local")), Ok("frozen_usec 0\n".into()));
    assert!(get(&file("cgroup.stat")).unwrap().starts_with("nr_descendants 0\n"));
    assert_eq!(open(&cstr(file("new")), O_CREAT | O_WRONLY), Err(EACCES));
    assert_eq!(sys!(SYS_mknod, &cstr(file("pipe")), S_IFIFO | 0o600, 0), Err(EPERM));
    assert_eq!(sys!(SYS_symlink, c"x", &cstr(file("link"))), Err(EPERM));
    assert_eq!(sys!(SYS_unlink, &cstr(file("cgroup.procs"))), Err(EPERM));
    assert_eq!(sys!(SYS_rename, &cstr(&*group.0), &cstr(format!("{}x", group.0))), Err(EPERM));
    assert_eq!((make(&file("cgroup.procs")), make(&file("a\nb"))), (Err(EEXIST), Err(EINVAL)));
    let child = group.below("child");
    assert_eq!((remove(&group.0), make(&child)), (Err(EBUSY), Err(EEXIST)));
    let names: Vec<_> = std::fs::read_dir(&group.0).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(["cgroup.procs", "cpu.stat", "child"].iter().all(|name| names.iter().any(|n| n == name)));
    let held = open(&cstr(format!("{child}/cgroup.procs")), O_RDWR).unwrap();
    remove(&child).unwrap();
    assert_eq!((read_vec(held, 10), write(held, b"0")), (Err(ENODEV), Err(ENODEV)));
    assert_eq!(remove(&child), Err(ENOENT));
    assert_eq!(put(&file("cgroup.events"), "1"), Err(EINVAL));
    assert_eq!(put(&file("cgroup.type"), "domain"), Err(EINVAL));
    for (text, error) in [("x", EINVAL), ("2", ERANGE), ("-1", ERANGE)] {
        assert_eq!(put(&file("cgroup.freeze"), text), Err(error), "{text}");
    }
    for (text, error) in [("-1", EINVAL), ("x", EINVAL), ("4194303", ESRCH)] {
        assert_eq!(put(&file("cgroup.procs"), text), Err(error), "{text}");
    }
    for text in ["pids", "+nothing", "+"] {
        assert_eq!(put(&file("cgroup.subtree_control"), text), Err(EINVAL), "{text}");
    }
    let root = group.0.rsplit_once('/').unwrap().0;
    for name in ["cgroup.type", "cgroup.events", "cgroup.freeze", "cgroup.kill"] {
        assert_eq!(get(&format!("{root}/{name}")), Err(ENOENT), "{name}");
    }
}

fn shape_has_limits() {
    let group = Group::new();
    let file = |name: &str| format!("{}/{name}", group.0);
    for name in ["cgroup.max.depth", "cgroup.max.descendants"] {
        assert_eq!(get(&file(name)), Ok("max\n".into()));
        assert_eq!(put(&file(name), "-1"), Err(ERANGE));
        assert_eq!(put(&file(name), "many"), Err(EINVAL));
        put(&file(name), "1").unwrap();
        assert_eq!(get(&file(name)), Ok("1\n".into()));
    }
    let child = group.below("a");
    assert_eq!((make(&file("b")), make(&format!("{child}/c"))), (Err(EAGAIN), Err(EAGAIN)));
    put(&file("cgroup.max.descendants"), "max").unwrap();
    make(&file("b")).unwrap();
    assert_eq!(make(&format!("{child}/c")), Err(EAGAIN));
    assert!(get(&file("cgroup.stat")).unwrap().starts_with("nr_descendants 2\n"));
}

fn members_come_and_go() {
    let group = Group::new();
    let (one, two) = (group.below("one"), group.below("two"));
    let own = || slurp("/proc/self/cgroup");
    put(&format!("{one}/cgroup.procs"), "0").unwrap();
    assert_eq!(own(), group.shown("/one"));
    assert_eq!(get(&format!("{one}/cgroup.procs")), Ok(format!("{}\n", getpid())));
    assert_eq!(get(&format!("{}/cgroup.procs", group.0)), Ok("".into()));
    for path in [&group.0, &one] {
        assert_eq!(get(&format!("{path}/cgroup.events")), Ok("populated 1\nfrozen 0\n".into()));
    }
    assert_eq!(remove(&one), Err(EBUSY));
    let (read_end, write_end) = pipe();
    let c = child(|| {
        close(write_end);
        ignore(read(read_end, &mut [0]));
    });
    assert_eq!(slurp(&format!("/proc/{}/cgroup", c.0)), group.shown("/one"));
    put(&format!("{two}/cgroup.procs"), &format!("{}\n", getpid())).unwrap();
    assert_eq!(get(&format!("{one}/cgroup.procs")), Ok(format!("{}\n", c.0)));
    assert_eq!(own(), group.shown("/two"));
    close(write_end);
    wait_state(c.0, "Z");
    wait_for(&format!("{one}/cgroup.events"), "populated 0\nfrozen 0\n");
    assert_eq!(get(&format!("{one}/cgroup.procs")), Ok("".into()));
    assert_eq!(slurp(&format!("/proc/{}/cgroup", c.0)), group.shown("/one"));
    remove(&one).unwrap();
    let gone = group.shown("/one").replace('\n', " (deleted)\n");
    assert_eq!(slurp(&format!("/proc/{}/cgroup", c.0)), gone);
    c.ok();
}

fn born_into_a_group() {
    let group = Group::new();
    let shown = group.shown("");
    let check = || assert_eq!(slurp("/proc/self/cgroup"), shown);
    clone_into(&group.0, check).unwrap().ok();
    let procs = open(&cstr(format!("{}/cgroup.procs", group.0)), O_RDONLY).unwrap();
    assert_eq!(clone_into_fd(procs, || ()).err(), Some(EBADF));
    assert_eq!(clone_into(&dir(), || ()).err(), Some(EBADF));
    assert_eq!(clone_into_fd(-1, || ()).err(), Some(EINVAL));
    assert_eq!(clone_into_fd(1000, || ()).err(), Some(EBADF));
    let gone = group.below("gone");
    let fd = open(&cstr(&*gone), O_PATH).unwrap();
    remove(&gone).unwrap();
    let error = clone_into_fd(fd, || ()).err();
    assert!([Some(ENODEV), Some(ENOENT)].contains(&error), "{error:?}");
    aside(|| {
        drop_root();
        assert_eq!(clone_into(&group.0, || ()).err(), Some(EACCES));
    });
    wait_for(&format!("{}/cgroup.events", group.0), "populated 0\nfrozen 0\n");
}

fn threads_have_groups_of_their_own() {
    let group = Group::new();
    let (a, b) = (group.below("a"), group.below("b"));
    let kind = |path: &str| get(&format!("{path}/cgroup.type")).unwrap();
    make(&format!("{a}/c")).unwrap();
    put(&format!("{a}/cgroup.type"), "threaded").unwrap();
    assert_eq!((kind(&group.0), kind(&a)), ("domain threaded\n".into(), "threaded\n".into()));
    assert_eq!((kind(&b), kind(&format!("{a}/c"))), ("domain invalid\n".into(), "domain invalid\n".into()));
    assert_eq!(put(&format!("{b}/cgroup.procs"), "0"), Err(EOPNOTSUPP));
    assert_eq!(clone_into(&b, || ()).err(), Some(EOPNOTSUPP));
    assert_eq!(get(&format!("{a}/cgroup.procs")), Err(EOPNOTSUPP));
    assert_eq!(put(&format!("{a}/cgroup.kill"), "1"), Err(EOPNOTSUPP));
    assert_eq!(put(&format!("{a}/cgroup.threads"), "0"), Err(EOPNOTSUPP), "out of the domain");
    put(&format!("{b}/cgroup.type"), "threaded").unwrap();
    put(&format!("{a}/cgroup.procs"), "0").unwrap();
    assert_eq!(get(&format!("{}/cgroup.procs", group.0)), Ok(format!("{}\n", getpid())));
    let (one, two) = (b.clone(), group.shown("/b"));
    std::thread::spawn(move || {
        put(&format!("{one}/cgroup.threads"), "0").unwrap();
        assert_eq!(slurp("/proc/thread-self/cgroup"), two);
        assert_eq!(get(&format!("{one}/cgroup.threads")), Ok(format!("{}\n", gettid())));
    })
    .join()
    .unwrap();
    assert_eq!(slurp("/proc/self/cgroup"), group.shown("/a"));
    assert_eq!(put(&format!("{b}/cgroup.type"), "threaded"), Ok(8), "it is already");
}

/// A file that is watched for its changes.
fn watch(path: &str) -> i32 {
    let fd = sys!(SYS_inotify_init1, IN_NONBLOCK).unwrap() as i32;
    sys!(SYS_inotify_add_watch, fd, &cstr(path), IN_MODIFY).unwrap();
    fd
}

fn frozen_tasks_stop() {
    let group = Group::new();
    let (events, freeze) = (format!("{}/cgroup.events", group.0), format!("{}/cgroup.freeze", group.0));
    put(&freeze, "1").unwrap();
    assert_eq!(get(&events), Ok("populated 0\nfrozen 1\n".into()), "there is nobody to wait for");
    let child = group.below("child");
    assert_eq!(get(&format!("{child}/cgroup.events")), Ok("populated 0\nfrozen 1\n".into()));
    let (read_end, write_end) = pipe();
    let c = clone_into(&child, || {
        write(write_end, b"ran").unwrap();
        sleeper();
    })
    .unwrap();
    wait_for(&events, "populated 1\nfrozen 1\n");
    assert_eq!(poll1(read_end, POLLIN, 50), 0, "it does not run");
    let (fd, watched) = (open(&cstr(&*events), O_RDONLY).unwrap(), watch(&events));
    ignore(read_vec(fd, 100));
    let always = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM;
    assert_eq!(poll1(fd, always | POLLPRI, 0), POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM);
    put(&freeze, "0").unwrap();
    assert_eq!(poll1(fd, POLLPRI, 5000), POLLPRI | POLLERR);
    assert_eq!(poll1(watched, POLLIN, 5000), POLLIN);
    assert_eq!(poll1(read_end, POLLIN, 5000), POLLIN, "now it runs");
    assert_eq!(pread(fd, 100, 0), Ok(b"populated 1\nfrozen 0\n".to_vec()));
    c.kill(SIGSTOP);
    wait_state(c.0, "T");
    put(&format!("{child}/cgroup.freeze"), "1").unwrap();
    wait_for(&format!("{child}/cgroup.events"), "populated 1\nfrozen 1\n");
    assert_eq!(get(&events), Ok("populated 1\nfrozen 0\n".into()), "only the child is");
    c.kill(SIGCONT);
    wait_state(c.0, "S");
    c.kill(SIGKILL);
    assert_eq!(c.wait(), Status::Signal(SIGKILL));
    let text = get(&format!("{}/cgroup.stat.local", group.0)).unwrap();
    assert!(text.trim().strip_prefix("frozen_usec ").unwrap().parse::<u64>().unwrap() >= 50_000, "{text}");
}

fn all_are_killed() {
    let group = Group::new();
    let (kill, deep) = (format!("{}/cgroup.kill", group.0), group.below("a"));
    for (text, error) in [("0", ERANGE), ("2", ERANGE), ("x", EINVAL)] {
        assert_eq!(put(&kill, text), Err(error), "{text}");
    }
    let children: Vec<Child> =
        [&group.0, &deep, &deep].into_iter().map(|path| clone_into(path, sleeper).unwrap()).collect();
    put(&format!("{deep}/cgroup.freeze"), "1").unwrap();
    put(&kill, "1").unwrap();
    for c in children {
        assert_eq!(c.wait(), Status::Signal(SIGKILL));
    }
    wait_for(&format!("{}/cgroup.events", group.0), "populated 0\nfrozen 0\n");
    clone_into(&group.0, || ()).unwrap().ok();
}

/// The init of a pid namespace survives the kill of its group by one of its own, and not by one above it.
fn an_init_is_killed_from_above() {
    let group = Group::new();
    let kill = format!("{}/cgroup.kill", group.0);
    let (read_end, write_end) = pipe();
    let init = clone_as(&group.0, CLONE_NEWPID as u64, || {
        let own = child(sleeper);
        put(&kill, "1").unwrap();
        assert_eq!(own.wait(), Status::Signal(SIGKILL));
        write(write_end, b"x").unwrap();
        sleeper();
    })
    .unwrap();
    assert_eq!(poll1(read_end, POLLIN, 10_000), POLLIN, "it lives");
    put(&kill, "1").unwrap();
    assert_eq!(init.wait(), Status::Signal(SIGKILL));
}

fn too_many_tasks() {
    let group = Group::new();
    let root = group.0.rsplit_once('/').unwrap().0.to_owned();
    let controllers = get(&format!("{root}/cgroup.controllers")).unwrap();
    assert!(controllers.split_whitespace().any(|name| name == "pids"));
    put(&format!("{root}/cgroup.subtree_control"), "+pids").unwrap();
    let file = |name: &str| format!("{}/{name}", group.0);
    assert_eq!((get(&file("pids.max")), get(&file("pids.current"))), (Ok("max\n".into()), Ok("0\n".into())));
    for text in ["-1", "x", "99999999999"] {
        assert_eq!(put(&file("pids.max"), text), Err(EINVAL), "{text}");
    }
    put(&file("pids.max"), "2").unwrap();
    put(&file("cgroup.procs"), "0").unwrap();
    let watched = watch(&file("pids.events"));
    let c = child(sleeper);
    assert_eq!((get(&file("pids.current")), get(&file("pids.peak"))), (Ok("2\n".into()), Ok("2\n".into())));
    let refused = |flags: u64| {
        let mut args: clone_args = zero();
        args.flags = flags;
        sys!(SYS_clone3, &args, size_of::<clone_args>())
    };
    assert_eq!(refused(0), Err(EAGAIN));
    assert_eq!(poll1(watched, POLLIN, 5000), POLLIN);
    assert_eq!(get(&file("pids.events")), Ok("max 1\n".into()));
    c.kill(SIGKILL);
    wait_state(c.0, "Z");
    assert_eq!(get(&file("pids.current")), Ok("2\n".into()), "a zombie counts");
    assert_eq!(refused(0), Err(EAGAIN));
    assert_eq!(c.wait(), Status::Signal(SIGKILL));
    wait_for(&file("pids.current"), "1\n");
    assert_eq!(get(&file("pids.events")), Ok("max 2\n".into()));
    assert_eq!(get(&file("pids.events.local")), Ok("max 2\n".into()));
    put(&format!("{root}/cgroup.procs"), "0").unwrap();
    assert_eq!(get(&file("pids.current")), Ok("0\n".into()));
    assert_eq!(put(&file("cgroup.subtree_control"), "+pids"), Ok(5));
    let below = group.below("below");
    put(&format!("{below}/pids.max"), "1").unwrap();
    controllers_come_with_new_files(&file("cgroup.subtree_control"), &below);
    assert_eq!(put(&format!("{root}/cgroup.subtree_control"), "-pids"), Err(EBUSY));
    put(&file("cgroup.subtree_control"), "-pids").unwrap();
    assert_eq!(get(&format!("{below}/pids.max")), Err(ENOENT));
    put(&format!("{root}/cgroup.subtree_control"), "-pids").unwrap();
    assert_eq!(get(&file("pids.max")), Err(ENOENT));
}

/// A controller that was off and is on again brings new files: who owned the old ones, or has them open, has no say.
fn controllers_come_with_new_files(control: &str, below: &str) {
    let max = cstr(format!("{below}/pids.max"));
    sys!(SYS_chown, &max, 1000, 1000).unwrap();
    sys!(SYS_chmod, &max, 0o666).unwrap();
    let held = open(&max, O_RDWR).unwrap();
    put(control, "-pids").unwrap();
    put(control, "+pids").unwrap();
    let stat = stat_path(&max).unwrap();
    assert_eq!((stat.st_uid, stat.st_gid, stat.st_mode & 0o7777), (0, 0, 0o644));
    assert_eq!((read_vec(held, 10), write(held, b"5")), (Err(ENODEV), Err(ENODEV)));
    assert_eq!(get(max.to_str().unwrap()), Ok("max\n".into()));
    close(held);
}

fn cpu_time_is_counted() {
    let group = Group::new();
    let usage = || {
        let text = get(&format!("{}/cpu.stat", group.0)).unwrap();
        let field = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.trim().parse::<u64>().ok()).unwrap();
        let (usage, user, system) = (field("usage_usec "), field("user_usec "), field("system_usec "));
        assert!(usage.abs_diff(user + system) <= 2, "{text}");
        usage
    };
    assert_eq!(usage(), 0);
    clone_into(&group.0, || {
        let mut now: timespec = zero();
        while now.tv_sec == 0 && now.tv_nsec < 30_000_000 {
            sys!(SYS_clock_gettime, CLOCK_PROCESS_CPUTIME_ID, &mut now).unwrap();
        }
    })
    .unwrap()
    .ok();
    let used = usage();
    assert!(used >= 29_000, "{used}");
}

fn namespaces_have_roots() {
    let group = Group::new();
    let (inside, beside) = (group.below("inside"), group.below("beside"));
    let outside = open(&c"/proc/self/ns/cgroup".to_owned(), O_RDONLY).unwrap();
    let c = clone_into(&inside, || {
        sys!(SYS_unshare, CLONE_NEWCGROUP).unwrap();
        assert_eq!(slurp("/proc/self/cgroup"), "0::/\n");
        assert!(slurp(&format!("/proc/{}/cgroup", sys!(SYS_getppid).unwrap())).starts_with("0::/../.."));
        assert_eq!(put(&format!("{inside}/cgroup.freeze"), "0"), Err(EPERM), "its root is managed from outside");
        assert_eq!(put(&format!("{inside}/cgroup.procs"), "0"), Ok(1));
        assert_eq!(put(&format!("{beside}/cgroup.procs"), "0"), Err(ENOENT));
        let at = mkdir("own");
        sys!(SYS_mount, c"none", &at, c"cgroup2", 0, 0).unwrap();
        let own = at.into_string().unwrap();
        assert_eq!(get(&format!("{own}/cgroup.procs")), Ok(format!("{}\n", getpid())));
        let line = |end: &str| {
            let text = slurp("/proc/self/mountinfo");
            text.lines().find(|l| l.split(' ').nth(4).unwrap().ends_with(end)).unwrap().to_owned()
        };
        assert_eq!(line("/own").split(' ').nth(3), Some("/"));
        assert_eq!(line("/cgroup").split(' ').nth(3), Some("/../.."));
        make(&format!("{own}/new")).unwrap();
        assert_eq!(stat_path(&cstr(format!("{inside}/new"))).map(|s| s.st_mode & 0o777), Ok(0o755));
        put(&format!("{own}/new/cgroup.procs"), "0").unwrap();
        assert_eq!(slurp("/proc/self/cgroup"), "0::/new\n");
        sys!(SYS_setns, outside, CLONE_NEWCGROUP).unwrap();
        assert!(slurp("/proc/self/cgroup").ends_with("/inside/new\n"));
    });
    c.unwrap().ok();
}

fn rights_of_who_opened() {
    let group = Group::new();
    let (a, b) = (group.below("a"), group.below("b"));
    let procs = |path: &str| format!("{path}/cgroup.procs");
    for path in [&a, &b] {
        sys!(SYS_chown, &cstr(procs(path)), 1000, 1000).unwrap();
    }
    let c = clone_into(&a, || {
        sys!(SYS_setresuid, -1, 1000, -1).unwrap();
        let fd = open(&cstr(procs(&b)), O_RDWR).unwrap();
        assert_eq!(write(fd, b"0"), Err(EACCES), "the group above both is root's");
        sys!(SYS_setresuid, -1, 0, -1).unwrap();
        assert_eq!(write(fd, b"0"), Err(EACCES), "it was opened without rights");
        sys!(SYS_chown, &cstr(procs(&group.0)), 1000, 1000).unwrap();
        assert_eq!(write(fd, b"0"), Ok(1));
    });
    c.unwrap().ok();
    aside(|| {
        drop_root();
        assert_eq!(make(&format!("{a}/new")), Err(EACCES));
        assert_eq!(put(&format!("{a}/cgroup.freeze"), "1"), Err(EACCES));
    });
}

fn handles_and_pidfds_tell_the_id() {
    const PIDFD_GET_INFO: u32 = 0xc040_ff0b;
    let group = Group::new();
    let ino = stat_path(&cstr(&*group.0)).unwrap().st_ino;
    let (mut handle, mut mount) = ([0_u32; 4], 0);
    handle[0] = 8;
    sys!(SYS_name_to_handle_at, AT_FDCWD, &cstr(&*group.0), &mut handle, &mut mount, 0).unwrap();
    assert_eq!((handle[0], handle[1]), (8, 0xfe));
    assert_eq!(u64::from(handle[2]) | u64::from(handle[3]) << 32, ino);
    let at = open(&cstr(&*group.0), O_RDONLY).unwrap();
    let found = sys!(SYS_open_by_handle_at, at, &handle, O_RDONLY).unwrap();
    assert_eq!(fstat(found as i32).st_ino, ino);
    let c = clone_into(&group.0, sleeper).unwrap();
    let pidfd = sys!(SYS_pidfd_open, c.0, 0).unwrap();
    let mut info = [0_u64; 8];
    info[0] = 4;
    sys!(SYS_ioctl, pidfd, PIDFD_GET_INFO, &mut info).unwrap();
    assert_eq!((info[0] & 4, info[1]), (4, ino));
    c.kill(SIGKILL);
    assert_eq!(c.wait(), Status::Signal(SIGKILL));
}
