//! Mounts by descriptor: fsopen, fsconfig, fsmount, move_mount, open_tree, mount_setattr, statmount, listmount.

use crate::mountkit::{OPEN_TREE, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT, STATMOUNT, LISTMOUNT, CLONE, RECURSIVE, F_EMPTY_PATH, BENEATH, own_namespace, number, string};
use crate::prelude::*;

tests!(
    "mountfd":
    a_new_file_system_step_by_step, commands_have_phases, a_tree_ends_with_its_descriptor,
    a_copied_tree_takes_its_mounts_along, move_mount_refuses, attributes_of_one_and_of_all,
    attributes_are_checked, beneath_the_top, what_statmount_tells, listmount_in_order,
    a_context_tells_what_is_wrong, detached_trees_stay_as_they_are,
);

const FSPICK: i64 = 433;
const MOUNT_SETATTR: i64 = 442;

const SET_FLAG: i32 = 0;
const SET_STRING: i32 = 1;
const CREATE: i32 = 6;
const RECONFIGURE: i32 = 7;
const RDONLY: u64 = 1;

type Res = Result<usize, Errno>;

fn config(fd: usize, cmd: i32, key: &std::ffi::CStr, value: &std::ffi::CStr) -> Res {
    sys!(FSCONFIG, fd, cmd, key, value, 0)
}

fn command(fd: usize, cmd: i32) -> Res {
    sys!(FSCONFIG, fd, cmd, 0, 0, 0)
}

/// A detached tmpfs.
fn detached() -> usize {
    let fs = sys!(FSOPEN, c"tmpfs", 1).unwrap();
    command(fs, CREATE).unwrap();
    let tree = sys!(FSMOUNT, fs, 1, 0).unwrap();
    close(fs as i32);
    tree
}

fn attach(tree: usize, at: &std::ffi::CStr) -> Res {
    sys!(MOVE_MOUNT, tree, c"", AT_FDCWD, at, F_EMPTY_PATH)
}

fn a_new_file_system_step_by_step() {
    own_namespace();
    let at = mkdir("m");
    assert_eq!(sys!(FSOPEN, c"nonsense", 0), Err(ENODEV));
    assert_eq!(sys!(FSOPEN, c"tmpfs", 2), Err(EINVAL));
    let fs = sys!(FSOPEN, c"tmpfs", 1).unwrap();
    assert_eq!(config(fs, SET_STRING, c"source", c"mine"), Ok(0));
    assert_eq!(config(fs, SET_STRING, c"source", c"again"), Err(EINVAL));
    assert_eq!(config(fs, SET_STRING, c"size", c"1m"), Ok(0));
    assert_eq!(sys!(FSMOUNT, fs, 0, 0), Err(EINVAL), "there is no superblock yet");
    assert_eq!(command(fs, CREATE), Ok(0));
    let tree = sys!(FSMOUNT, fs, 1, 0x0e).unwrap();
    assert_eq!(sys!(SYS_openat, tree, c"f", O_CREAT | O_WRONLY, 0o644).map(drop), Ok(()), "usable while detached");
    assert_eq!(attach(tree, &at), Ok(0));
    assert!(stat_path(&path("m/f")).is_ok());
    let line = slurp("/proc/self/mounts").lines().find(|l| l.contains("/m tmpfs")).unwrap().to_owned();
    assert!(line.starts_with("mine ") && line.contains("nosuid,nodev,noexec") && line.contains("size=1024k"), "{line}");
    close(tree as i32);
    assert!(stat_path(&path("m/f")).is_ok(), "an attached tree stays");
    assert_eq!(sys!(SYS_umount2, &at, MNT_DETACH), Ok(0));
}

fn commands_have_phases() {
    own_namespace();
    let fs = sys!(FSOPEN, c"tmpfs", 0).unwrap();
    assert_eq!(sys!(FSCONFIG, fs, 99, 0, 0, 0), Err(EOPNOTSUPP));
    assert_eq!(sys!(FSCONFIG, fs, CREATE, c"key", 0, 0), Err(EINVAL));
    assert_eq!(sys!(FSCONFIG, fs, SET_FLAG, c"ro", c"value", 0), Err(EINVAL));
    assert_eq!(sys!(FSCONFIG, -1, CREATE, 0, 0, 0), Err(EINVAL));
    assert_eq!(sys!(FSCONFIG, 0, CREATE, 0, 0, 0), Err(EINVAL), "no context");
    assert_eq!(command(fs, RECONFIGURE), Err(EBUSY));
    let mut byte = [0u8; 100];
    assert_eq!(sys!(SYS_read, fs, &mut byte, 100), Err(ENODATA));
    assert_eq!(sys!(FSCONFIG, fs, SET_FLAG, c"ro", 0, 0), Ok(0));
    assert_eq!(command(fs, CREATE), Ok(0));
    assert_eq!(command(fs, CREATE), Err(EBUSY));
    assert_eq!(config(fs, SET_STRING, c"size", c"1m"), Err(EBUSY));
    let tree = sys!(FSMOUNT, fs, 0, 0).unwrap();
    assert_eq!(sys!(FSMOUNT, fs, 0, 0), Err(EBUSY));
    assert_eq!(sys!(SYS_openat, tree, c"f", O_CREAT | O_WRONLY, 0o644), Err(EROFS));
    let picked = sys!(FSPICK, tree, c"", 8).unwrap();
    assert_eq!(sys!(FSCONFIG, picked, SET_FLAG, c"rw", 0, 0), Ok(0));
    assert_eq!(command(picked, RECONFIGURE), Ok(0));
    assert!(sys!(SYS_openat, tree, c"f", O_CREAT | O_WRONLY, 0o644).is_ok());
    aside(|| {
        drop_root();
        assert_eq!(sys!(FSOPEN, c"tmpfs", 0), Err(EPERM));
        assert_eq!(sys!(OPEN_TREE, AT_FDCWD, c"/", CLONE), Err(EPERM));
        assert!(sys!(OPEN_TREE, AT_FDCWD, c"/", 0).is_ok(), "without a copy it is O_PATH");
    });
}

fn a_tree_ends_with_its_descriptor() {
    own_namespace();
    let tree = detached();
    let inner = detached();
    sys!(SYS_mkdirat, tree, c"d", 0o755).unwrap();
    let file = sys!(SYS_openat, tree, c"f", O_CREAT | O_RDWR, 0o644).unwrap() as i32;
    write(file, b"kept").unwrap();
    close(inner as i32);
    close(tree as i32);
    assert_eq!(pread(file, 4, 0).unwrap(), b"kept", "open files outlive it");
    assert_eq!(sys!(SYS_openat, tree, c"f", O_RDONLY), Err(EBADF));
}

fn a_copied_tree_takes_its_mounts_along() {
    own_namespace();
    let (a, b) = (mkdir("a"), mkdir("b"));
    attach(detached(), &a).unwrap();
    let inner = mkdir("a/in");
    attach(detached(), &inner).unwrap();
    file("a/in/f", b"x");
    assert_eq!(sys!(OPEN_TREE, AT_FDCWD, &a, RECURSIVE), Err(EINVAL));
    assert_eq!(sys!(OPEN_TREE, AT_FDCWD, &path("none"), CLONE), Err(ENOENT));
    let one = sys!(OPEN_TREE, AT_FDCWD, &a, CLONE).unwrap();
    assert_eq!(sys!(SYS_openat, one, c"in/f", O_RDONLY), Err(ENOENT));
    let all = sys!(OPEN_TREE, AT_FDCWD, &a, CLONE | RECURSIVE | O_CLOEXEC).unwrap();
    assert!(sys!(SYS_openat, all, c"in/f", O_RDONLY).is_ok());
    assert_eq!(sys!(SYS_fcntl, all, F_GETFD), Ok(1));
    assert_eq!(attach(all, &b), Ok(0));
    assert!(stat_path(&path("b/in/f")).is_ok());
    assert_eq!(attach(all, &a), Ok(0), "an attached mount moves by its descriptor too");
    assert_eq!(stat_path(&path("b/in")).map(drop), Err(ENOENT));
}

fn move_mount_refuses() {
    own_namespace();
    let (a, f) = (mkdir("a"), file("f", b""));
    let tree = detached();
    let call = |from_fd: usize, from: &std::ffi::CStr, to: &std::ffi::CStr, flags: i32| {
        sys!(MOVE_MOUNT, from_fd, from, AT_FDCWD, to, flags)
    };
    assert_eq!(call(tree, c"", &a, 0), Err(ENOENT), "an empty name needs its flag");
    assert_eq!(call(tree, c"", &a, 0x8000), Err(EINVAL));
    assert_eq!(call(tree, c"", &f, F_EMPTY_PATH), Err(EINVAL), "a directory upon a file");
    assert_eq!(call(tree, c"", &path("none"), F_EMPTY_PATH), Err(ENOENT));
    sys!(SYS_mkdirat, tree, c"d", 0o755).unwrap();
    assert_eq!(call(tree, c"d", &a, 0), Err(EINVAL), "no root of a mount");
    assert_eq!(attach(tree, &a), Ok(0));
    let below = mkdir("a/below");
    assert_eq!(attach(tree, &below), Err(ELOOP));
}

fn setattr(fd: i32, p: &std::ffi::CStr, flags: i32, attr: [u64; 4]) -> Res {
    sys!(MOUNT_SETATTR, fd, p, flags, &attr, 32)
}

fn attributes_of_one_and_of_all() {
    own_namespace();
    let a = mkdir("a");
    attach(detached(), &a).unwrap();
    let inner = mkdir("a/in");
    attach(detached(), &inner).unwrap();
    assert_eq!(setattr(AT_FDCWD, &a, 0, [RDONLY, 0, 0, 0]), Ok(0));
    let make = |p: &str| sys!(SYS_open, &path(p), O_CREAT | O_WRONLY, 0o644);
    assert_eq!(make("a/f"), Err(EROFS));
    let open_file = make("a/in/f").unwrap();
    assert_eq!(setattr(AT_FDCWD, &a, RECURSIVE, [RDONLY, 0, 0, 0]), Err(EBUSY));
    close(open_file as i32);
    assert_eq!(setattr(AT_FDCWD, &a, RECURSIVE, [RDONLY, 0, 0, 0]), Ok(0));
    assert_eq!(make("a/in/g"), Err(EROFS));
    assert_eq!(setattr(AT_FDCWD, &a, RECURSIVE, [0, RDONLY, 0, 0]), Ok(0));
    assert!(make("a/f").is_ok() && make("a/in/g").is_ok());
    assert_eq!(setattr(AT_FDCWD, &a, 0, [0x10, 0x70, 0, 0]), Ok(0));
    let line = slurp("/proc/self/mounts").lines().find(|l| l.contains("/a tmpfs")).unwrap().to_owned();
    assert!(line.contains("noatime") && !line.contains("relatime"), "{line}");
}

fn attributes_are_checked() {
    own_namespace();
    let a = mkdir("a");
    let tree = detached();
    assert_eq!(setattr(AT_FDCWD, &a, 0, [RDONLY, 0, 0, 0]), Err(EINVAL), "no root of a mount");
    for attr in [[1 << 40, 0, 0, 0], [0x10, 0, 0, 0], [0, 0x10, 0, 0], [0x30, 0x70, 0, 0], [0, 0, 3, 0]] {
        assert_eq!(setattr(tree as i32, c"", AT_EMPTY_PATH, attr), Err(EINVAL), "{attr:?}");
    }
    let call = |size: usize, flags: i32| sys!(MOUNT_SETATTR, tree, c"", flags, &[0u64; 4], size);
    assert_eq!(call(31, AT_EMPTY_PATH), Err(EINVAL));
    assert_eq!(call(5000, AT_EMPTY_PATH), Err(E2BIG));
    assert_eq!(call(32, AT_EMPTY_PATH | 1), Err(EINVAL));
    assert_eq!(sys!(MOUNT_SETATTR, AT_FDCWD, c"/none", 0, &[0u64; 4], 32), Ok(0), "nothing to change, nothing looked up");
    assert_eq!(setattr(tree as i32, c"", AT_EMPTY_PATH, [RDONLY, 0, 0, 0]), Ok(0));
    assert_eq!(sys!(SYS_openat, tree, c"f", O_CREAT | O_WRONLY, 0o644), Err(EROFS));
}

fn beneath_the_top() {
    own_namespace();
    let a = mkdir("a");
    let (top, under) = (detached(), detached());
    sys!(SYS_mkdirat, top, c"top", 0o755).unwrap();
    sys!(SYS_mkdirat, under, c"under", 0o755).unwrap();
    let beneath = || sys!(MOVE_MOUNT, under, c"", AT_FDCWD, &a, F_EMPTY_PATH | BENEATH);
    assert_eq!(beneath(), Err(EINVAL), "nothing is mounted there");
    attach(top, &a).unwrap();
    assert_eq!(beneath(), Ok(0));
    assert!(stat_path(&path("a/top")).is_ok());
    assert_eq!(sys!(SYS_umount2, &a, MNT_DETACH), Ok(0));
    assert!(stat_path(&path("a/under")).is_ok());
}

/// The unique id of the mount at `p`.
fn mount_id(p: &std::ffi::CStr) -> u64 {
    const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
    let mut sx: statx = zero();
    sys!(SYS_statx, AT_FDCWD, p, 0, STATX_MNT_ID_UNIQUE, &mut sx).unwrap();
    sx.stx_mnt_id
}

fn stat_mount(id: u64, mask: u64) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0u8; 4096];
    sys!(STATMOUNT, &[24u64, id, mask], &mut buf[..], 4096, 0).map(|_| buf)
}

fn what_statmount_tells() {
    own_namespace();
    let a = mkdir("a");
    attach(detached(), &a).unwrap();
    let id = mount_id(&a);
    let found = stat_mount(id, 0x3b).unwrap();
    assert_eq!(number(&found, 8), 0x3b, "what was asked for is there");
    assert_eq!(number(&found, 24), 0x0102_1994, "magic");
    assert_eq!((number(&found, 40), number(&found, 48)), (id, mount_id(&cstr(dir()))));
    assert_eq!(number(&found, 64), 0, "attributes: relatime");
    assert_eq!(number(&found, 72), MS_PRIVATE);
    assert_eq!(string(&found, 36), "tmpfs");
    assert_eq!(string(&found, 104), "/");
    assert_eq!(string(&found, 108), a.to_str().unwrap());
    assert_eq!(stat_mount(id + (1 << 40), 1).map(drop), Err(ENOENT));
    assert_eq!(stat_mount(5, 1).map(drop), Err(EINVAL));
    let mut small = [0u8; 512];
    assert_eq!(sys!(STATMOUNT, &[24u64, id, 0x20], &mut small, 512, 0), Err(EOVERFLOW), "no room for strings");
    assert_eq!(sys!(STATMOUNT, &[24u64, id, 3], &mut small, 512, 0), Ok(0));
    assert_eq!(sys!(STATMOUNT, &[16u64, id, 3], &mut small, 512, 0), Err(EINVAL));
}

fn listmount_in_order() {
    own_namespace();
    let a = mkdir("a");
    attach(detached(), &a).unwrap();
    let inner = mkdir("a/in");
    attach(detached(), &inner).unwrap();
    let (outer_id, inner_id) = (mount_id(&a), mount_id(&inner));
    let list = |id: u64, after: u64, max: usize, flags: i32| {
        let mut ids = [0u64; 64];
        sys!(LISTMOUNT, &[24u64, id, after], &mut ids, max, flags).map(|n| ids[..n].to_vec())
    };
    assert_eq!(list(outer_id, 0, 64, 0), Ok(vec![inner_id]));
    let all = list(u64::MAX, 0, 64, 0).unwrap();
    assert!(all.is_sorted() && all.contains(&outer_id) && all.contains(&inner_id));
    let mut back = list(u64::MAX, 0, 64, 1).unwrap();
    back.reverse();
    assert_eq!(back, all);
    assert_eq!(list(u64::MAX, all[0], 1, 0), Ok(vec![all[1]]));
    assert_eq!(list(outer_id, 0, 0, 0), Ok(vec![]));
    assert_eq!(list(outer_id, 0, 64, 2), Err(EINVAL));
    assert_eq!(list(outer_id + (1 << 40), 0, 64, 0), Err(ENOENT));
}

fn a_context_tells_what_is_wrong() {
    own_namespace();
    let fs = sys!(FSOPEN, c"tmpfs", 1).unwrap();
    let log = || {
        let mut text = [0u8; 100];
        sys!(SYS_read, fs, &mut text, 100).map(|n| String::from_utf8(text[..n].to_vec()).unwrap())
    };
    let flag = |key: &std::ffi::CStr| sys!(FSCONFIG, fs, SET_FLAG, key, 0, 0);
    assert_eq!(config(fs, SET_STRING, c"frob", c"1"), Err(EINVAL));
    let mut byte = [0u8; 1];
    assert_eq!(sys!(SYS_read, fs, &mut byte, 1), Err(EMSGSIZE), "and it stays");
    assert_eq!(log().as_deref(), Ok("e tmpfs: Unknown parameter 'frob'\n"));
    assert_eq!(log(), Err(ENODATA));
    for (key, value) in [(c"size", c"1q"), (c"mode", c"9"), (c"nr_inodes", c"x")] {
        assert_eq!(config(fs, SET_STRING, key, value), Err(EINVAL));
        let key = key.to_str().unwrap();
        assert_eq!(log(), Ok(format!("e tmpfs: Bad value for '{key}'\n")));
    }
    assert_eq!(flag(c"size"), Err(EINVAL));
    assert_eq!(log().as_deref(), Ok("e tmpfs: Bad value for 'size'\n"));
    assert_eq!(config(fs, SET_STRING, c"inode64", c"1"), Err(EINVAL));
    assert_eq!(log().as_deref(), Ok("e tmpfs: Unexpected value for 'inode64'\n"));
    config(fs, SET_STRING, c"source", c"one").unwrap();
    assert_eq!(config(fs, SET_STRING, c"source", c"two"), Err(EINVAL));
    assert_eq!(log().as_deref(), Ok("e Multiple sources\n"));
    assert_eq!(flag(c"source"), Err(EINVAL));
    assert_eq!(log().as_deref(), Ok("e Non-string source\n"));
    for (key, value) in [(c"size", c"0x100000"), (c"mode", c"0700"), (c"uid", c"010"), (c"nr_inodes", c"1k")] {
        assert_eq!(config(fs, SET_STRING, key, value), Ok(0));
    }
    for n in 0..10 {
        assert_eq!(flag(&cstr(format!("no{n}"))), Err(EINVAL));
    }
    assert_eq!(command(fs, CREATE), Ok(0), "what was refused does not count");
    for n in 2..10 {
        assert_eq!(log(), Ok(format!("e tmpfs: Unknown parameter 'no{n}'\n")), "the last eight are kept");
    }
    assert_eq!(log(), Err(ENODATA));
    let tree = sys!(FSMOUNT, fs, 1, 0).unwrap();
    let root = fstat(tree as i32);
    assert_eq!((root.st_mode & 0o7777, root.st_uid), (0o700, 8));
}

fn detached_trees_stay_as_they_are() {
    own_namespace();
    let top = mkdir("s");
    sys!(SYS_mount, c"s", &top, c"tmpfs", 0, 0).unwrap();
    sys!(SYS_mount, 0, &top, 0, MS_SHARED, 0).unwrap();
    ignore((mkdir("s/a"), mkdir("s/b")));
    let tree = sys!(OPEN_TREE, AT_FDCWD, &top, CLONE).unwrap();
    let dev = |fd: i32, p: &std::ffi::CStr| {
        let mut sx: statx = zero();
        sys!(SYS_statx, fd, p, 0, 0, &mut sx).unwrap();
        sx.stx_dev_minor
    };
    let before = dev(AT_FDCWD, &top);
    attach(detached(), &path("s/a")).unwrap();
    assert_ne!(dev(AT_FDCWD, &path("s/a")), before);
    assert_eq!(dev(tree as i32, c"a"), before, "nothing comes to a detached tree");
    let inner = detached();
    sys!(MOVE_MOUNT, inner, c"", tree, c"b", F_EMPTY_PATH).unwrap();
    assert_ne!(dev(tree as i32, c"b"), before);
    assert_ne!(dev(AT_FDCWD, &path("s/b")), before, "but what is mounted in it spreads");
}
