//! inotify(7).

use crate::prelude::*;

tests!(
    "inotify":
    life_of_a_file, rename_has_a_cookie, watching_the_file_itself, folders_are_marked, masks_filter_and_change,
    remove_watch, oneshot_watch, errors, equal_events_are_merged, blocking_read_and_poll,
    instances_of_a_user_are_limited, names_that_are_gone_can_be_left_out,
);

const NAMES: [(u32, &str); 14] = [
    (IN_ACCESS, "access"),
    (IN_MODIFY, "modify"),
    (IN_ATTRIB, "attrib"),
    (IN_CLOSE_WRITE, "close_write"),
    (IN_CLOSE_NOWRITE, "close_nowrite"),
    (IN_OPEN, "open"),
    (IN_MOVED_FROM, "from"),
    (IN_MOVED_TO, "to"),
    (IN_CREATE, "create"),
    (IN_DELETE, "delete"),
    (IN_DELETE_SELF, "delete_self"),
    (IN_MOVE_SELF, "move_self"),
    (IN_IGNORED, "ignored"),
    (IN_Q_OVERFLOW, "overflow"),
];

fn init() -> i32 {
    sys!(SYS_inotify_init1, IN_NONBLOCK | IN_CLOEXEC).unwrap() as i32
}

fn watch(fd: i32, p: &std::ffi::CString, mask: u32) -> Result<i32, Errno> {
    sys!(SYS_inotify_add_watch, fd, p, mask).map(|wd| wd as i32)
}

/// (watch, event, cookie, name)
fn raw_events(fd: i32) -> Vec<(i32, u32, u32, String)> {
    let mut all = vec![];
    while let Ok(buf) = read_vec(fd, 4096) {
        let mut at = 0;
        while at < buf.len() {
            let word = |i: usize| u32::from_ne_bytes(buf[at + 4 * i..at + 4 * i + 4].try_into().unwrap());
            let len = word(3) as usize;
            let name: Vec<u8> = buf[at + 16..at + 16 + len].iter().copied().take_while(|b| *b != 0).collect();
            all.push((word(0) as i32, word(1), word(2), String::from_utf8(name).unwrap()));
            at += 16 + len;
        }
    }
    all
}

/// The events as words: "create f", "open f", ...
fn events(fd: i32) -> Vec<String> {
    let word = |mask: u32| NAMES.iter().find(|n| mask & n.0 != 0).map_or("?", |n| n.1);
    raw_events(fd)
        .into_iter()
        .map(|(_, m, _, name)| format!("{} {name}", word(m)).trim().to_string())
        .collect()
}

fn life_of_a_file() {
    let d = mkdir("d");
    let fd = init();
    watch(fd, &d, IN_ALL_EVENTS).unwrap();
    let f = open(&path("d/f"), O_CREAT | O_RDWR).unwrap();
    write(f, b"x").unwrap();
    pread(f, 1, 0).unwrap();
    sys!(SYS_fchmod, f, 0o600).unwrap();
    close(f);
    sys!(SYS_unlink, &path("d/f")).unwrap();
    let want = ["create f", "open f", "modify f", "access f", "attrib f", "close_write f", "delete f"];
    assert_eq!(events(fd), want);
}

fn rename_has_a_cookie() {
    let d = mkdir("d");
    file("d/a", b"");
    let fd = init();
    watch(fd, &d, IN_MOVE).unwrap();
    sys!(SYS_rename, &path("d/a"), &path("d/b")).unwrap();
    let e = raw_events(fd);
    assert_eq!((e.len(), e[0].1, e[1].1), (2, IN_MOVED_FROM, IN_MOVED_TO));
    assert_eq!((e[0].3.as_str(), e[1].3.as_str()), ("a", "b"));
    assert!(e[0].2 != 0 && e[0].2 == e[1].2);
}

fn watching_the_file_itself() {
    let p = file("f", b"");
    let fd = init();
    watch(fd, &p, IN_DELETE_SELF | IN_MOVE_SELF | IN_ATTRIB).unwrap();
    sys!(SYS_rename, &p, &path("g")).unwrap();
    sys!(SYS_unlink, &path("g")).unwrap();
    assert_eq!(events(fd), ["move_self", "attrib", "delete_self", "ignored"]);
}

fn folders_are_marked() {
    let d = mkdir("d");
    let fd = init();
    watch(fd, &d, IN_CREATE | IN_DELETE).unwrap();
    mkdir("d/sub");
    let e = raw_events(fd);
    assert_eq!((e[0].1, e[0].3.as_str()), (IN_CREATE | IN_ISDIR, "sub"));
}

fn masks_filter_and_change() {
    let d = mkdir("d");
    let fd = init();
    let wd = watch(fd, &d, IN_DELETE).unwrap();
    file("d/f", b"x");
    assert_eq!(events(fd), [""; 0]);
    assert_eq!(watch(fd, &d, IN_CREATE | IN_MASK_ADD), Ok(wd));
    file("d/g", b"");
    sys!(SYS_unlink, &path("d/g")).unwrap();
    assert_eq!(events(fd), ["create g", "delete g"]);
    assert_eq!(watch(fd, &d, IN_CREATE | IN_MASK_CREATE), Err(EEXIST));
    assert_eq!(watch(fd, &d, IN_OPEN), Ok(wd));
    file("d/h", b"");
    assert_eq!(events(fd), ["open h"]);
}

fn remove_watch() {
    let d = mkdir("d");
    let fd = init();
    let wd = watch(fd, &d, IN_CREATE).unwrap();
    sys!(SYS_inotify_rm_watch, fd, wd).unwrap();
    file("d/f", b"");
    assert_eq!(events(fd), ["ignored"]);
    assert_eq!(sys!(SYS_inotify_rm_watch, fd, wd), Err(EINVAL));
    assert_eq!(sys!(SYS_inotify_rm_watch, 1, wd), Err(EINVAL));
    assert_ne!(watch(fd, &d, IN_CREATE), Ok(wd), "numbers are not used again");
}

fn oneshot_watch() {
    let d = mkdir("d");
    let fd = init();
    watch(fd, &d, IN_CREATE | IN_ONESHOT).unwrap();
    file("d/a", b"");
    file("d/b", b"");
    assert_eq!(events(fd), ["create a", "ignored"]);
}

fn errors() {
    let fd = init();
    assert_eq!(sys!(SYS_inotify_init1, 1), Err(EINVAL));
    assert_eq!(watch(fd, &path("none"), IN_OPEN), Err(ENOENT));
    assert_eq!(watch(fd, &file("f", b""), IN_OPEN | IN_ONLYDIR), Err(ENOTDIR));
    assert_eq!(watch(fd, &cstr(dir()), 0), Err(EINVAL));
    assert_eq!(watch(1, &cstr(dir()), IN_OPEN), Err(EINVAL));
    assert_eq!(watch(999, &cstr(dir()), IN_OPEN), Err(EBADF));
    assert_eq!(read_vec(fd, 100), Err(EAGAIN));
    assert_eq!(write(fd, b"x"), Err(EBADF));
    watch(fd, &cstr(dir()), IN_CREATE).unwrap();
    file("name", b"");
    assert_eq!(read_vec(fd, 16), Err(EINVAL), "no room for the event");
}

fn equal_events_are_merged() {
    let p = file("f", b"");
    let fd = init();
    watch(fd, &p, IN_MODIFY).unwrap();
    let f = open(&p, O_WRONLY).unwrap();
    for _ in 0..5 {
        write(f, b"x").unwrap();
    }
    assert_eq!(events(fd), ["modify"]);
}

fn blocking_read_and_poll() {
    let d = mkdir("d");
    let fd = sys!(SYS_inotify_init1, 0).unwrap() as i32;
    watch(fd, &d, IN_CREATE).unwrap();
    assert_eq!(poll1(fd, POLLIN, 0), 0);
    let c = child(|| {
        settle();
        file("d/late", b"");
    });
    assert!(!read_vec(fd, 4096).unwrap().is_empty());
    c.ok();
    file("d/more", b"");
    assert_eq!(poll1(fd, POLLIN, 1000), POLLIN);
    let mut n = 0i32;
    sys!(SYS_ioctl, fd, FIONREAD, &mut n).unwrap();
    assert_eq!(n, 32);
}

fn names_that_are_gone_can_be_left_out() {
    let d = mkdir("d");
    for (mask, expected) in [(0, vec!["modify x", "close_write x"]), (IN_EXCL_UNLINK, vec![])] {
        let fd = init();
        watch(fd, &d, IN_MODIFY | IN_CLOSE_WRITE | mask).unwrap();
        let file = new_file("d/x");
        sys!(SYS_unlink, &path("d/x")).unwrap();
        write(file, b"y").unwrap();
        close(file);
        assert_eq!(events(fd), expected, "{mask:#x}");
        close(fd);
    }
}

fn instances_of_a_user_are_limited() {
    let limit: usize = slurp("/proc/sys/fs/inotify/max_user_instances").trim().parse().unwrap();
    let c = child(|| {
        // A user of this test alone.
        sys!(SYS_setresuid, 54_321, 54_321, 54_321).unwrap();
        for _ in 0..2 {
            let mut made = Vec::new();
            let error = loop {
                match sys!(SYS_inotify_init1, 0) {
                    Ok(fd) => made.push(fd as i32),
                    Err(error) => break error,
                }
            };
            assert_eq!((made.len(), error), (limit, EMFILE));
            made.into_iter().for_each(close);
            // Linux counts them down a little later.
            nap(200);
        }
    });
    c.ok();
}
