//! fanotify(7).

use crate::prelude::*;

tests!(
    "fanotify":
    formats_of_events, events_with_descriptors, what_is_ignored, marks_of_mounts_and_file_systems,
    renames_tell_what_is_watched, questions, pipes_are_not_asked_about, questions_of_the_closed_are_allowed, a_killed_asker_asks_no_more,
    mounts_come_and_go, errors, rights, queues_overflow, pidfds, evictable_marks, deletion_ends_a_mark,
);

const ON_CHILD: u64 = 0x0800_0000;
const ONDIR: u64 = 0x4000_0000;
const NAMES: [(u64, &str); 19] = [
    (0x1, "access"),
    (0x2, "modify"),
    (0x4, "attrib"),
    (0x8, "close_write"),
    (0x10, "close_nowrite"),
    (0x20, "open"),
    (0x40, "from"),
    (0x80, "to"),
    (0x100, "create"),
    (0x200, "delete"),
    (0x400, "delete_self"),
    (0x800, "move_self"),
    (0x1000, "open_exec"),
    (0x4000, "overflow"),
    (0x10000, "open?"),
    (0x20000, "access?"),
    (0x40000, "exec?"),
    (0x1000_0000, "rename"),
    (ONDIR, "dir"),
];
const REPORT_FID: u32 = 0x200;
const REPORT_DIR_FID: u32 = 0x400;
const REPORT_NAME: u32 = 0x800;
const REPORT_TARGET: u32 = 0x1000;
const REPORT_MNT: u32 = 0x4000;
const DFID_NAME: u32 = REPORT_DIR_FID | REPORT_NAME;
const NONBLOCK: u32 = 2;
const CONTENT: u32 = 4;
const ADD: u32 = 1;
const REMOVE: u32 = 2;
const FLUSH: u32 = 0x80;
const MOUNT: u32 = 0x10;
const FILESYSTEM: u32 = 0x100;
const MNTNS: u32 = 0x110;
const IGNORED_MASK: u32 = 0x20;
const SURVIVES: u32 = 0x40;
const EVICTABLE: u32 = 0x200;
const IGNORE: u32 = 0x400;

fn try_init(flags: u32) -> Result<i32, Errno> {
    sys!(SYS_fanotify_init, flags, O_RDONLY).map(|fd| fd as i32)
}

fn init(flags: u32) -> i32 {
    try_init(flags | NONBLOCK).unwrap()
}

fn mark(fd: i32, flags: u32, mask: u64, p: &std::ffi::CString) -> Result<(), Errno> {
    sys!(SYS_fanotify_mark, fd, flags, mask, AT_FDCWD, p).map(drop)
}

fn word(buf: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(buf[at..at + 4].try_into().unwrap())
}

struct Event {
    mask: u64,
    fd: i32,
    pid: i32,
    infos: Vec<(u8, Vec<u8>)>,
}

fn decode(buf: &[u8]) -> Vec<Event> {
    let mut all = vec![];
    let mut at = 0;
    while at < buf.len() {
        let len = word(buf, at) as usize;
        assert_eq!((buf[at + 4], buf[at + 6]), (3, 24), "version and length of the metadata");
        let mask = u64::from_ne_bytes(buf[at + 8..at + 16].try_into().unwrap());
        let (fd, pid) = (word(buf, at + 16) as i32, word(buf, at + 20) as i32);
        let (mut infos, mut info) = (vec![], at + 24);
        while info < at + len {
            let end = info + u16::from_ne_bytes([buf[info + 2], buf[info + 3]]) as usize;
            infos.push((buf[info], buf[info + 4..end].to_vec()));
            info = end;
        }
        all.push(Event { mask, fd, pid, infos });
        at += len;
    }
    all
}

fn events(fd: i32) -> Vec<Event> {
    let mut all = vec![];
    while let Ok(buf) = read_vec(fd, 4096) {
        all.extend(decode(&buf));
    }
    all
}

fn words(mask: u64) -> String {
    let known: Vec<&str> = NAMES.iter().filter(|n| mask & n.0 != 0).map(|n| n.1).collect();
    known.join("+")
}

/// An event as words: what happened, and each handle as its type and name.
fn text(event: &Event) -> String {
    let mut text = words(event.mask);
    for (kind, bytes) in &event.infos {
        text += &format!(" {kind}");
        if matches!(kind, 2 | 10 | 12) {
            let name = &bytes[16 + word(bytes, 8) as usize..];
            let end = name.iter().position(|b| *b == 0).unwrap();
            text += &format!(":{}", std::str::from_utf8(&name[..end]).unwrap());
        }
    }
    text
}

fn texts(fd: i32) -> Vec<String> {
    events(fd).iter().map(text).collect()
}

/// A file system of the test's own at "m", in a mount namespace of its own.
fn own_mount() -> std::ffi::CString {
    crate::mountkit::own_namespace();
    let m = mkdir("m");
    sys!(SYS_mount, c"none", &m, c"tmpfs", 0, 0).unwrap();
    m
}

/// What all formats tell of the same things.
fn formats_of_events() {
    let m = own_mount();
    let all = 0xfff | ON_CHILD | ONDIR;
    let told = |flags: u32| {
        let fd = init(flags);
        mark(fd, ADD, all, &m).unwrap();
        let f = open(&path("m/f"), O_CREAT | O_RDWR).unwrap();
        write(f, b"x").unwrap();
        close(f);
        sys!(SYS_mkdir, &path("m/d"), 0o700).unwrap();
        sys!(SYS_chmod, &path("m/d"), 0o711).unwrap();
        sys!(SYS_rename, &path("m/f"), &path("m/g")).unwrap();
        sys!(SYS_unlink, &path("m/g")).unwrap();
        sys!(SYS_rmdir, &path("m/d")).unwrap();
        close(open(&m, O_RDONLY).unwrap());
        let told = texts(fd);
        close(fd);
        told
    };
    assert_eq!(
        told(REPORT_FID),
        [
            "from+to+create+delete 1",
            "modify+close_write+open 1",
            "close_nowrite+open+create+delete+dir 1",
            "attrib+dir 1"
        ]
    );
    assert_eq!(
        told(REPORT_DIR_FID),
        [
            "modify+close_write+open+from+to+create+delete 3",
            "close_nowrite+open+create+delete+dir 3",
            "attrib+dir 3"
        ]
    );
    let (dir, attributes, file, itself) =
        ("create+delete+dir 2:d", "attrib+dir 2:.", "to+delete 2:g", "close_nowrite+open+dir 2:.");
    assert_eq!(
        told(DFID_NAME),
        ["modify+close_write+open+from+create 2:f", dir, attributes, file, itself]
    );
    assert_eq!(
        told(DFID_NAME | REPORT_FID),
        ["from+create 2:f", "modify+close_write+open 2:f 1", dir, attributes, file, itself]
    );
    assert_eq!(
        told(DFID_NAME | REPORT_FID | REPORT_TARGET),
        [
            "modify+close_write+open+from+create 2:f 1",
            "create+delete+dir 2:d 1",
            attributes,
            "to+delete 2:g 1",
            itself
        ]
    );
}

fn events_with_descriptors() {
    let f = file("f", b"abc");
    let fd = init(0);
    mark(fd, ADD, 0x3b, &f).unwrap();
    let mine = open(&f, O_RDWR).unwrap();
    write(mine, b"x").unwrap();
    close(mine);
    let told = events(fd);
    assert_eq!(told.len(), 1, "equal but for the event");
    assert_eq!((words(told[0].mask).as_str(), told[0].pid), ("modify+close_write+open", getpid()));
    // The descriptor leads to the file, and what is done with it is not told.
    let given = told[0].fd;
    assert_eq!(pread(given, 3, 0).unwrap(), b"xbc");
    assert_eq!(sys!(SYS_write, given, b"y", 1), Err(Errno::EBADF));
    close(given);
    assert!(events(fd).is_empty());
    // Too little room takes nothing.
    close(open(&f, O_RDONLY).unwrap());
    assert_eq!(read_vec(fd, 23).err(), Some(Errno::EINVAL));
    let mut waiting = 0i32;
    sys!(SYS_ioctl, fd, FIONREAD, &mut waiting).unwrap();
    assert_eq!(waiting, 24);
    assert_eq!(poll1(fd, POLLIN, 0), POLLIN);
    events(fd).iter().for_each(|event| close(event.fd));
}

fn what_is_ignored() {
    let d = mkdir("d");
    let f = file("d/f", b"");
    let fd = init(REPORT_FID);
    mark(fd, ADD, 0x22 | ON_CHILD, &d).unwrap();
    mark(fd, ADD | IGNORED_MASK, 0x20, &f).unwrap();
    close(open(&f, O_RDWR).unwrap());
    assert!(texts(fd).is_empty());
    // A change ends it.
    let mine = open(&f, O_RDWR).unwrap();
    write(mine, b"x").unwrap();
    close(mine);
    close(open(&f, O_RDWR).unwrap());
    assert_eq!(texts(fd), ["modify+open 1"]);
    mark(fd, ADD | IGNORED_MASK | SURVIVES, 0x20, &f).unwrap();
    let mine = open(&f, O_RDWR).unwrap();
    write(mine, b"x").unwrap();
    close(mine);
    close(open(&f, O_RDWR).unwrap());
    assert_eq!(texts(fd), ["modify 1"]);
    mark(fd, ADD | IGNORE | SURVIVES, 0x20, &f).unwrap();
    assert_eq!(mark(fd, ADD | IGNORED_MASK, 0x20, &f), Err(Errno::EEXIST));
    mark(fd, REMOVE | IGNORED_MASK, 0x20, &f).unwrap();
    assert_eq!(mark(fd, REMOVE, 0x20, &f), Err(Errno::ENOENT));
    assert_eq!(mark(fd, ADD | IGNORE, 0x20, &d), Err(Errno::EISDIR));
    mark(fd, ADD | IGNORE | SURVIVES, 0x20 | ON_CHILD, &d).unwrap();
    close(open(&f, O_RDWR).unwrap());
    assert!(texts(fd).is_empty());
    mark(fd, FLUSH, 0, &d).unwrap();
    write_file(&format!("{}/d/f", dir()), "x").unwrap();
    assert!(texts(fd).is_empty());
}

fn marks_of_mounts_and_file_systems() {
    let m = own_mount();
    let f = file("m/f", b"");
    let other = mkdir("other");
    sys!(SYS_mount, &m, &other, 0, MS_BIND, 0).unwrap();
    let (by_mount, by_fs) = (init(0), init(REPORT_FID));
    mark(by_mount, ADD | MOUNT, 0x20, &m).unwrap();
    mark(by_fs, ADD | FILESYSTEM, 0x120, &m).unwrap();
    let counts = || {
        let told = events(by_mount);
        told.iter().for_each(|event| close(event.fd));
        (told.len(), events(by_fs).len())
    };
    close(open(&f, O_RDONLY).unwrap());
    assert_eq!(counts(), (1, 1));
    close(open(&path("other/f"), O_RDONLY).unwrap());
    assert_eq!(counts(), (0, 1));
    file("other/g", b"");
    assert_eq!(counts(), (0, 2), "created in the directory, opened itself");
    let shown = slurp(&format!("/proc/self/fdinfo/{by_mount}"));
    assert!(shown.contains("fanotify flags:2 event-flags:8000\nfanotify mnt_id:"), "{shown}");
    assert!(shown.contains(" mflags:0 mask:20 ignored_mask:0\n"), "{shown}");
    mark(by_fs, FLUSH | FILESYSTEM, 0, &m).unwrap();
    close(open(&f, O_RDONLY).unwrap());
    assert_eq!(counts(), (1, 0));
    // The mark goes with its mount.
    sys!(SYS_umount2, &other, 0).unwrap();
}

fn renames_tell_what_is_watched() {
    let (a, b) = (mkdir("a"), mkdir("b"));
    file("a/f", b"");
    let group = |watched: &[&std::ffi::CString]| {
        let fd = init(DFID_NAME);
        watched.iter().for_each(|p| mark(fd, ADD, 0x1000_0000 | ONDIR, p).unwrap());
        fd
    };
    let (old, new, both) = (group(&[&a]), group(&[&b]), group(&[&a, &b]));
    sys!(SYS_rename, &path("a/f"), &path("b/g")).unwrap();
    assert_eq!(texts(old), ["rename 10:f"]);
    assert_eq!(texts(new), ["rename 12:g"]);
    assert_eq!(texts(both), ["rename 10:f 12:g"]);
}

/// Answers questions with `answers`; gives what was asked.
fn answer(fd: i32, answers: &[u32]) -> Vec<String> {
    answers
        .iter()
        .map(|answer| {
            assert_eq!(poll1(fd, POLLIN, 20_000), POLLIN);
            let asked = decode(&read_vec(fd, 24).unwrap()).remove(0);
            let mut response = asked.fd.to_ne_bytes().to_vec();
            response.extend_from_slice(&answer.to_ne_bytes());
            assert_eq!(write(fd, &response), Ok(8));
            close(asked.fd);
            words(asked.mask)
        })
        .collect()
}

fn questions() {
    let f = file("f", b"abc");
    let fd = init(CONTENT);
    mark(fd, ADD, 0x3_0000, &f).unwrap();
    let asker = child(|| {
        assert_eq!(open(&f, O_RDONLY), Err(Errno::EPERM));
        let mine = open(&f, O_RDONLY).unwrap();
        assert_eq!(read_vec(mine, 1).err(), Some(Errno::EPERM));
        assert_eq!(read_vec(mine, 1).unwrap(), b"a");
    });
    let asked = answer(fd, &[2, 1, 2, 1]);
    assert_eq!(asked, ["open?", "open?", "access?", "access?"]);
    assert_eq!(asker.wait(), Status::Exit(0));
    assert_eq!(write(fd, &[0; 8]), Err(Errno::EINVAL), "neither yes nor no");
    assert_eq!(write(fd, &[9, 0, 0, 0, 1, 0, 0, 0]), Err(Errno::ENOENT));
    assert_eq!(write(fd, &[0; 7]), Err(Errno::EINVAL));
    assert_eq!(mark(init(0), ADD, 0x1_0000, &f), Err(Errno::EINVAL));
}

/// The listener opens what it is told of: it must not have to wait for the other end of a pipe.
fn pipes_are_not_asked_about() {
    let m = own_mount();
    let p = path("m/p");
    sys!(SYS_mknod, &p, S_IFIFO | 0o600, 0).unwrap();
    let fd = init(CONTENT);
    mark(fd, ADD | MOUNT, 0x1_0020, &m).unwrap();
    close(open(&p, O_RDWR).unwrap());
    assert!(events(fd).is_empty());
    let by_fid = init(REPORT_FID);
    mark(by_fid, ADD | FILESYSTEM, 0x20, &m).unwrap();
    close(open(&p, O_RDWR).unwrap());
    assert_eq!(texts(by_fid), ["open 1"]);
}

fn questions_of_the_closed_are_allowed() {
    let f = file("f", b"abc");
    let fd = init(CONTENT);
    mark(fd, ADD, 0x1_0000, &f).unwrap();
    let asker = child(|| {
        close(fd);
        close(open(&f, O_RDONLY).unwrap());
    });
    assert_eq!(poll1(fd, POLLIN, 20_000), POLLIN);
    close(fd);
    assert_eq!(asker.wait(), Status::Exit(0));
}

fn a_killed_asker_asks_no_more() {
    let f = file("f", b"abc");
    let fd = init(CONTENT);
    mark(fd, ADD, 0x1_0000, &f).unwrap();
    let asker = child(|| ignore(open(&f, O_RDONLY)));
    assert_eq!(poll1(fd, POLLIN, 20_000), POLLIN);
    sys!(SYS_kill, asker.0, SIGKILL).unwrap();
    assert_eq!(asker.wait(), Status::Signal(SIGKILL));
}

fn mounts_come_and_go() {
    let m = own_mount();
    let (a, b) = (mkdir("m/a"), mkdir("m/b"));
    let fd = init(REPORT_MNT);
    let own = cstr("/proc/self/ns/mnt");
    mark(fd, ADD | MNTNS, 0x300_0000, &own).unwrap();
    let told = || -> Vec<(u64, u8, usize)> {
        events(fd).iter().map(|event| (event.mask, event.infos[0].0, event.infos[0].1.len())).collect()
    };
    sys!(SYS_mount, &m, &a, 0, MS_BIND, 0).unwrap();
    assert_eq!(told(), [(0x100_0000, 7, 12)]);
    sys!(SYS_mount, &a, &b, 0, MS_MOVE, 0).unwrap();
    assert_eq!(told(), [(0x300_0000, 7, 12)]);
    sys!(SYS_umount2, &b, 0).unwrap();
    assert_eq!(told(), [(0x200_0000, 7, 12)]);
    // Coming and going is not moving.
    sys!(SYS_mount, &m, &a, 0, MS_BIND, 0).unwrap();
    sys!(SYS_umount2, &a, 0).unwrap();
    assert_eq!(told(), [(0x100_0000, 7, 12), (0x200_0000, 7, 12)]);
    mark(fd, FLUSH | MNTNS, 0, &own).unwrap();
    sys!(SYS_mount, &m, &a, 0, MS_BIND, 0).unwrap();
    sys!(SYS_umount2, &a, 0).unwrap();
    assert!(told().is_empty());
    assert_eq!(mark(fd, ADD | MNTNS, 0x20, &own), Err(Errno::EINVAL));
    assert_eq!(mark(fd, ADD, 0x20, &m), Err(Errno::EINVAL));
    assert_eq!(mark(fd, ADD | MNTNS, 0x100_0000, &m), Err(Errno::EINVAL));
    assert_eq!(mark(init(0), ADD | MNTNS, 0x100_0000, &own), Err(Errno::EINVAL));
}

fn errors() {
    let f = file("f", b"");
    for flags in [0x8000, 0xc, REPORT_NAME, REPORT_TARGET, CONTENT | REPORT_FID, REPORT_MNT | REPORT_FID] {
        assert_eq!(try_init(flags), Err(Errno::EINVAL), "{flags:x}");
    }
    for mode in [3, O_CREAT, O_EXCL] {
        assert_eq!(sys!(SYS_fanotify_init, 0, mode), Err(Errno::EINVAL), "{mode:x}");
    }
    let (fd, by_fid) = (init(0), init(REPORT_FID));
    for (flags, mask) in [
        (0, 0x20),
        (ADD, 0),
        (ADD | REMOVE, 0x20),
        (ADD | 0x800, 0x20),
        (ADD, 1 << 32),
        (ADD, 0x100),
        (ADD, 0x1000_0000),
        (FLUSH | 4, 0),
        (ADD | EVICTABLE | MOUNT, 0x20),
        (ADD | IGNORE | IGNORED_MASK, 0x20),
    ] {
        assert_eq!(mark(fd, flags, mask, &f), Err(Errno::EINVAL), "{flags:x} {mask:x}");
    }
    assert_eq!(mark(by_fid, ADD | MOUNT, 0x100, &f), Err(Errno::EINVAL));
    assert_eq!(mark(by_fid, ADD, 0x1000_0000, &f), Err(Errno::EINVAL));
    assert_eq!(mark(fd, ADD, 0x20, &path("none")), Err(Errno::ENOENT));
    assert_eq!(mark(fd, ADD | 8, 0x20, &f), Err(Errno::ENOTDIR));
    assert_eq!(mark(-1, ADD, 0x20, &f), Err(Errno::EBADF));
    assert_eq!(mark(open(&f, O_RDONLY).unwrap(), ADD, 0x20, &f), Err(Errno::EINVAL));
    assert_eq!(sys!(SYS_fanotify_mark, fd, ADD, 0x20u64, -1, 0), Err(Errno::EBADF));
    let opened = open(&f, O_RDONLY).unwrap();
    sys!(SYS_fanotify_mark, fd, ADD, 0x20u64, opened, 0).unwrap();
    assert_eq!(read_vec(fd, 100).err(), Some(Errno::EAGAIN));
    let strict = init(DFID_NAME | REPORT_FID | REPORT_TARGET);
    assert_eq!(mark(strict, ADD, 0x100, &f), Err(Errno::ENOTDIR));
}

fn rights() {
    let f = file("f", b"");
    let d = mkdir("d");
    sys!(SYS_chmod, &d, 0o755).unwrap();
    aside(|| {
        drop_root();
        for flags in [0, CONTENT, REPORT_FID | 0x10, REPORT_FID | 0x100, REPORT_FID | 0x80] {
            assert_eq!(try_init(flags), Err(Errno::EPERM), "{flags:x}");
        }
        let fd = init(REPORT_FID);
        assert_eq!(mark(fd, ADD | MOUNT, 0x20, &d), Err(Errno::EPERM));
        assert_eq!(mark(fd, ADD | FILESYSTEM, 0x20, &d), Err(Errno::EPERM));
        ignore(mark(fd, ADD, 0x20, &f));
        mark(fd, ADD, 0x20 | ONDIR, &d).unwrap();
        close(open(&d, O_RDONLY).unwrap());
        let told = events(fd);
        assert_eq!((told.len(), told[0].pid), (1, getpid()));
        let other = child(|| close(open(&d, O_RDONLY).unwrap()));
        assert_eq!(other.wait(), Status::Exit(0));
        assert_eq!(events(fd)[0].pid, 0, "of others the process is not told");
    });
}

fn queues_overflow() {
    let d = mkdir("d");
    // It counts for groups that are made while it is so.
    let limit = "/proc/sys/fs/fanotify/max_queued_events";
    let (before, max) = (slurp(limit), 100);
    write_file(limit, "100").unwrap();
    let fd = init(DFID_NAME);
    write_file(limit, before.trim()).unwrap();
    mark(fd, ADD, 0x100, &d).unwrap();
    for nr in 0..max + 10 {
        let p = path(&format!("d/{nr}"));
        sys!(SYS_mknod, &p, S_IFREG | 0o600, 0).unwrap();
        sys!(SYS_unlink, &p).unwrap();
    }
    let told = events(fd);
    assert_eq!(told.len(), max + 1);
    let last = told.last().unwrap();
    assert_eq!((words(last.mask).as_str(), last.fd), ("overflow", -1));
}

fn pidfds() {
    let f = file("f", b"");
    let fd = init(0x80);
    mark(fd, ADD, 0x20, &f).unwrap();
    close(open(&f, O_RDONLY).unwrap());
    let gone = child(|| close(open(&f, O_RDONLY).unwrap()));
    assert_eq!(gone.wait(), Status::Exit(0));
    let told = events(fd);
    assert_eq!(told.len(), 2);
    let pidfd = |event: &Event| word(&event.infos[0].1, 0) as i32;
    assert_eq!((told[0].infos[0].0, told[0].infos[0].1.len()), (4, 4));
    sys!(SYS_pidfd_send_signal, pidfd(&told[0]), 0, 0, 0).unwrap();
    assert_eq!(sys!(SYS_pidfd_send_signal, pidfd(&told[1]), 0, 0, 0), Err(Errno::ESRCH));
}

fn evictable_marks() {
    let f = file("f", b"");
    let fd = init(0);
    mark(fd, ADD | EVICTABLE, 0x20, &f).unwrap();
    mark(fd, ADD, 0x10, &f).unwrap();
    assert_eq!(mark(fd, ADD | EVICTABLE, 0x20, &f), Err(Errno::EEXIST));
}

fn deletion_ends_a_mark() {
    let f = file("f", b"");
    let fd = init(REPORT_FID);
    mark(fd, ADD, 0x24, &f).unwrap();
    assert_eq!(slurp(&format!("/proc/self/fdinfo/{fd}")).matches("fanotify ino:").count(), 1);
    sys!(SYS_unlink, &f).unwrap();
    assert_eq!(texts(fd), ["attrib 1"]);
    assert_eq!(slurp(&format!("/proc/self/fdinfo/{fd}")).matches("fanotify ino:").count(), 0);
}
