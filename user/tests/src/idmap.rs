//! Idmapped mounts (mount_setattr(2), `MOUNT_ATTR_IDMAP`): owners seen through a mount.

use crate::mountkit::{CLONE, F_EMPTY_PATH, MOVE_MOUNT, OPEN_TREE, STATMOUNT, own_namespace};
use crate::prelude::*;

tests!(
    "idmap":
    what_can_be_a_map, which_mounts_can_have_one, a_map_is_set_once, owners_are_shown_by_the_map,
    what_is_made_gets_the_owner_back, who_is_not_in_the_map_makes_nothing, chown_through_the_map,
    files_of_nobody_stay_as_they_are, permissions_count_by_the_map, lists_go_through_the_map,
    capabilities_go_through_the_map, set_group_id_and_sticky_folders, owners_that_are_hidden_are_no_owners, statmount_tells_the_map,
    open_tree_attr_replaces_a_map, open_files_keep_a_mount_as_it_is, layers_of_an_overlay_can_have_maps,
);

const MOUNT_SETATTR: i64 = 442;
const OPEN_TREE_ATTR: i64 = 467;
const IDMAP: u64 = 0x10_0000;
const ACCESS: &std::ffi::CStr = c"system.posix_acl_access";
const CAPS: &std::ffi::CStr = c"security.capability";

type Res = Result<usize, Errno>;

/// The descriptor of a user namespace with `map` for users and groups; without maps if that is empty.
pub fn userns(map: &str) -> i32 {
    let (ready, tell) = pipe();
    let child = child(|| {
        sys!(SYS_unshare, CLONE_NEWUSER).unwrap();
        write(tell, b"x").unwrap();
        sys!(SYS_pause, 0).unwrap();
    });
    assert_eq!(read_vec(ready, 1), Ok(b"x".to_vec()));
    for kind in ["uid_map", "gid_map"] {
        if !map.is_empty() {
            write_file(&format!("/proc/{}/{kind}", child.0), map).unwrap();
        }
    }
    let ns = open(&cstr(format!("/proc/{}/ns/user", child.0)), O_RDONLY).unwrap();
    child.kill(SIGKILL);
    child.wait();
    close(ready);
    close(tell);
    ns
}

fn set_attr(tree: usize, set: u64, clear: u64, ns: u64) -> Res {
    let attr = [set, clear, 0, ns];
    sys!(MOUNT_SETATTR, tree, c"", AT_EMPTY_PATH, &attr, 32)
}

/// A detached copy of what `at` shows.
fn detached(at: &std::ffi::CString) -> usize {
    sys!(OPEN_TREE, AT_FDCWD, at, CLONE).unwrap()
}

/// A folder "m" on a tmpfs, which the folder "v" shows by `map`.
fn setup(map: &str) {
    own_namespace();
    sys!(SYS_chmod, &cstr(dir()), 0o755).unwrap();
    let m = mkdir("m");
    sys!(SYS_mount, c"tmpfs", &m, c"tmpfs", 0, c"mode=0755").unwrap();
    view(map);
}

/// The folder "v" shows "m" by `map`.
fn view(map: &str) {
    let tree = detached(&path("m"));
    assert_eq!(set_attr(tree, IDMAP, 0, userns(map) as u64), Ok(0));
    let v = mkdir("v");
    assert_eq!(sys!(MOVE_MOUNT, tree, c"", AT_FDCWD, &v, F_EMPTY_PATH), Ok(0));
    close(tree as i32);
}

fn owner(name: &str) -> (u32, u32) {
    let stat = lstat_path(&path(name)).unwrap();
    (stat.st_uid, stat.st_gid)
}

fn chown(name: &str, uid: u32, gid: u32) -> Res {
    sys!(SYS_lchown, &path(name), uid, gid)
}

fn make(name: &str) -> Res {
    open(&path(name), O_CREAT | O_EXCL | O_RDWR).map(close).map(|()| 0)
}

/// What `f` gives as user `uid` of group `gid` and no other, without capabilities unless `uid` is 0.
fn as_user(uid: u32, gid: u32, f: impl FnOnce() -> Res) -> Res {
    let child = child_code(|| {
        sys!(SYS_setgroups, 0, 0).unwrap();
        sys!(SYS_setresgid, gid, gid, gid).unwrap();
        sys!(SYS_setresuid, uid, uid, uid).unwrap();
        f().map_or_else(|errno| errno as i32, |_| 0)
    });
    match child.wait() {
        Status::Exit(0) => Ok(0),
        Status::Exit(errno) => Err(Errno::from_raw(errno)),
        other => panic!("{other:?}"),
    }
}

fn what_can_be_a_map() {
    own_namespace();
    let m = mkdir("m");
    sys!(SYS_mount, c"tmpfs", &m, c"tmpfs", 0, 0).unwrap();
    let tree = detached(&m);
    assert_eq!(set_attr(tree, IDMAP, 0, u64::MAX), Err(EINVAL));
    assert_eq!(set_attr(tree, IDMAP, 0, i32::MAX as u64 + 1), Err(EINVAL));
    assert_eq!(set_attr(tree, IDMAP, 0, 999), Err(EBADF));
    assert_eq!(set_attr(tree, IDMAP, 0, open(&m, O_RDONLY).unwrap() as u64), Err(EINVAL));
    let other = open(&cstr("/proc/self/ns/uts"), O_RDONLY).unwrap();
    assert_eq!(set_attr(tree, IDMAP, 0, other as u64), Err(EINVAL));
    let first = open(&cstr("/proc/self/ns/user"), O_RDONLY).unwrap();
    assert_eq!(set_attr(tree, IDMAP, 0, first as u64), Err(EPERM));
    assert_eq!(set_attr(tree, IDMAP, 0, userns("") as u64), Err(EINVAL), "it has no map");
    assert_eq!(set_attr(tree, 0, IDMAP, 0), Err(EINVAL), "a map is not taken away");
    assert_eq!(set_attr(tree, IDMAP, 0, userns("0 1000 1") as u64), Ok(0));
}

fn which_mounts_can_have_one() {
    own_namespace();
    let m = mkdir("m");
    sys!(SYS_mount, c"tmpfs", &m, c"tmpfs", 0, 0).unwrap();
    let ns = userns("0 1000 10") as u64;
    let attr = [IDMAP, 0, 0, ns];
    assert_eq!(sys!(MOUNT_SETATTR, AT_FDCWD, &m, 0, &attr, 32), Err(EINVAL), "it is attached");
    for (name, expected) in [
        (c"tmpfs", Ok(0)),
        (c"ramfs", Err(EINVAL)),
        (c"proc", Err(EINVAL)),
        (c"sysfs", Err(EINVAL)),
        (c"devpts", Err(EINVAL)),
        (c"cgroup2", Err(EINVAL)),
        (c"mqueue", Err(EINVAL)),
        (c"devtmpfs", Err(EINVAL)),
    ] {
        let at = mkdir(name.to_str().unwrap());
        if sys!(SYS_mount, c"none", &at, name, 0, 0).is_err() {
            continue;
        }
        assert_eq!(set_attr(detached(&at), IDMAP, 0, ns), expected, "{name:?}");
    }
}

fn a_map_is_set_once() {
    own_namespace();
    let m = mkdir("m");
    sys!(SYS_mount, c"tmpfs", &m, c"tmpfs", 0, 0).unwrap();
    let tree = detached(&m);
    let ns = userns("0 1000 10") as u64;
    assert_eq!(set_attr(tree, IDMAP, 0, ns), Ok(0));
    assert_eq!(set_attr(tree, IDMAP, 0, ns), Err(EPERM));
    let copy = sys!(OPEN_TREE, tree, c"", CLONE | AT_EMPTY_PATH).unwrap();
    assert_eq!(set_attr(copy, IDMAP, 0, ns), Err(EPERM), "a copy has the map");
    assert_eq!(set_attr(copy, 1, 0, 0), Ok(0), "other attributes change");
}

fn owners_are_shown_by_the_map() {
    setup("0 1000 10");
    make("m/a").unwrap();
    make("m/b").unwrap();
    chown("m/a", 3, 9).unwrap();
    chown("m/b", 10, 4).unwrap();
    assert_eq!(owner("v/a"), (1003, 1009));
    assert_eq!(owner("v/b"), (65534, 1004));
    assert_eq!(owner("m/b"), (10, 4));
    let mut buf = [0u8; 256];
    sys!(SYS_statx, AT_FDCWD, &path("v/a"), 0, 0x7ff, &mut buf).unwrap();
    assert_eq!(buf[20..28], [0xeb, 3, 0, 0, 0xf1, 3, 0, 0]);
    let fd = open(&path("v/a"), O_RDONLY).unwrap();
    assert_eq!(fstat(fd).st_uid, 1003);
    let shown = slurp("/proc/self/mountinfo");
    let line = shown.lines().find(|line| line.contains("/v rw")).unwrap();
    assert!(line.split(' ').nth(5).unwrap().ends_with(",idmapped"), "{line}");
    assert!(!shown.lines().find(|line| line.contains("/m rw")).unwrap().contains("idmapped"));
}

fn what_is_made_gets_the_owner_back() {
    setup("0 1000 10");
    sys!(SYS_chmod, &path("m"), 0o777).unwrap();
    assert_eq!(as_user(1005, 1006, || make("v/f")), Ok(0));
    assert_eq!(as_user(1005, 1006, || sys!(SYS_mkdir, &path("v/d"), 0o755)), Ok(0));
    assert_eq!(as_user(1005, 1006, || sys!(SYS_symlink, c"f", &path("v/l"))), Ok(0));
    assert_eq!(as_user(1005, 1006, || sys!(SYS_link, &path("v/f"), &path("v/h"))), Ok(0));
    assert_eq!(as_user(1005, 1006, || sys!(SYS_rename, &path("v/h"), &path("v/d/h"))), Ok(0));
    for name in ["f", "d", "l", "d/h"] {
        assert_eq!(owner(&format!("m/{name}")), (5, 6));
        assert_eq!(owner(&format!("v/{name}")), (1005, 1006));
    }
    assert_eq!(as_user(1005, 1006, || sys!(SYS_unlink, &path("v/d/h"))), Ok(0));
    let unnamed = || open(&path("v"), O_TMPFILE | O_RDWR).map(|fd| (fstat(fd).st_uid == 1005) as usize);
    assert_eq!(as_user(1005, 1006, || unnamed().map(|right| assert_eq!(right, 1)).map(|()| 0)), Ok(0));
}

fn who_is_not_in_the_map_makes_nothing() {
    setup("0 1000 10");
    sys!(SYS_chmod, &path("m"), 0o777).unwrap();
    make("m/there").unwrap();
    for (uid, gid) in [(0, 0), (1010, 1000), (1000, 5)] {
        assert_eq!(as_user(uid, gid, || make("v/f")), Err(EOVERFLOW));
        assert_eq!(as_user(uid, gid, || make("v/there")), Err(EEXIST));
        assert_eq!(as_user(uid, gid, || sys!(SYS_mkdir, &path("v/d"), 0o755)), Err(EOVERFLOW));
        assert_eq!(as_user(uid, gid, || sys!(SYS_mknod, &path("v/p"), S_IFIFO | 0o644, 0)), Err(EOVERFLOW));
        assert_eq!(as_user(uid, gid, || open(&path("v"), O_TMPFILE | O_RDWR).map(|_| 0)), Err(EOVERFLOW));
    }
    assert_eq!(make("m/g"), Ok(0));
}

fn chown_through_the_map() {
    setup("0 1000 10");
    make("m/f").unwrap();
    assert_eq!(chown("v/f", 1002, 1003), Ok(0));
    assert_eq!(owner("m/f"), (2, 3));
    assert_eq!(chown("v/f", 5, u32::MAX), Err(EOVERFLOW));
    assert_eq!(chown("v/f", u32::MAX, 1010), Err(EOVERFLOW));
    assert_eq!(chown("v/f", u32::MAX, u32::MAX), Ok(0));
    assert_eq!(as_user(1002, 1004, || chown("v/f", u32::MAX, 1004)), Ok(0), "an owner's own group");
    assert_eq!(as_user(1002, 1004, || chown("v/f", 1003, u32::MAX)), Err(EPERM));
    assert_eq!(as_user(2, 4, || chown("v/f", u32::MAX, 1004)), Err(EPERM), "whom the file system keeps is nobody");
    assert_eq!(owner("m/f"), (2, 4));
    sys!(SYS_chmod, &path("v/f"), 0o6755).unwrap();
    assert_eq!(chown("v/f", 1001, 1001), Ok(0));
    assert_eq!(stat_path(&path("m/f")).unwrap().st_mode & 0o7777, 0o755);
}

fn files_of_nobody_stay_as_they_are() {
    setup("0 1000 10");
    make("m/f").unwrap();
    chown("m/f", 500, 500).unwrap();
    sys!(SYS_chmod, &path("m/f"), 0o666).unwrap();
    sys!(SYS_chmod, &path("m"), 0o777).unwrap();
    assert_eq!(owner("v/f"), (65534, 65534));
    let user = |f: &dyn Fn() -> Res| as_user(1000, 1000, f);
    assert_eq!(user(&|| open(&path("v/f"), O_RDONLY).map(|_| 0)), Ok(0));
    assert_eq!(user(&|| open(&path("v/f"), O_WRONLY).map(|_| 0)), Err(EACCES));
    assert_eq!(open(&path("v/f"), O_WRONLY), Err(EACCES), "whatever the capabilities");
    assert_eq!(sys!(SYS_chmod, &path("v/f"), 0o600), Err(EOVERFLOW));
    let times = [1i64, 0, 1, 0];
    assert_eq!(sys!(SYS_utimensat, AT_FDCWD, &path("v/f"), &times, 0), Err(EOVERFLOW));
    assert_eq!(sys!(SYS_utimensat, AT_FDCWD, &path("v/f"), 0, 0), Err(EACCES));
    assert_eq!(sys!(SYS_setxattr, &path("v/f"), c"user.a", b"x", 1, 0), Err(EPERM));
    assert_eq!(sys!(SYS_unlink, &path("v/f")), Err(EOVERFLOW));
    assert_eq!(sys!(SYS_rename, &path("v/f"), &path("v/g")), Err(EOVERFLOW));
    assert_eq!(user(&|| sys!(SYS_link, &path("v/f"), &path("v/g"))), Err(EOVERFLOW));
    assert_eq!(sys!(SYS_truncate, &path("v/f"), 0), Err(EACCES));
    assert_eq!(chown("v/f", 1001, u32::MAX), Err(EOVERFLOW), "the group stays nobody's");
    assert_eq!(chown("v/f", 1001, 1001), Ok(0), "both become somebody's");
    assert_eq!(owner("m/f"), (1, 1));
}

fn permissions_count_by_the_map() {
    setup("0 1000 10");
    make("m/f").unwrap();
    chown("m/f", 3, 4).unwrap();
    sys!(SYS_chmod, &path("m/f"), 0o640).unwrap();
    let opens = |uid, gid, flags| as_user(uid, gid, || open(&path("v/f"), flags).map(|_| 0));
    assert_eq!(opens(1003, 50, O_RDWR), Ok(0));
    assert_eq!(opens(50, 1004, O_RDONLY), Ok(0));
    assert_eq!(opens(50, 1004, O_RDWR), Err(EACCES));
    assert_eq!(opens(3, 4, O_RDONLY), Err(EACCES));
    assert_eq!(opens(0, 0, O_RDWR), Ok(0), "capabilities count over owners that are shown");
    let access = |uid, gid| as_user(uid, gid, || sys!(SYS_access, &path("v/f"), 4));
    assert_eq!((access(1003, 0), access(3, 0)), (Ok(0), Err(EACCES)));
    sys!(SYS_mkdir, &path("m/d"), 0o700).unwrap();
    make("m/d/f").unwrap();
    chown("m/d", 3, 4).unwrap();
    let looks = |uid| as_user(uid, 50, || stat_path(&path("v/d/f")).map(|_| 0));
    assert_eq!((looks(1003), looks(3)), (Ok(0), Err(EACCES)));
    assert_eq!(as_user(1003, 50, || sys!(SYS_chmod, &path("v/f"), 0o600)), Ok(0));
    assert_eq!(as_user(3, 50, || sys!(SYS_chmod, &path("v/f"), 0o640)), Err(EPERM));
}

/// rw-, user `id` rw-, group r--, the mask rw-, others ---.
fn list(id: u32) -> Vec<u8> {
    let mut value = Vec::from(2u32.to_le_bytes());
    for (tag, perm, id) in [(1u16, 6u16, u32::MAX), (2, 6, id), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)] {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn xattr(name: &str, key: &std::ffi::CStr) -> Result<Vec<u8>, Errno> {
    let mut buf = [0u8; 200];
    let len = sys!(SYS_getxattr, &path(name), key, &mut buf[..], 200)?;
    Ok(buf[..len].to_vec())
}

fn lists_go_through_the_map() {
    setup("0 1000 10");
    make("m/f").unwrap();
    let set = |name: &str, value: &[u8]| sys!(SYS_setxattr, &path(name), ACCESS, value, value.len(), 0);
    assert_eq!(set("v/f", &list(1005)), Ok(0));
    assert_eq!(xattr("m/f", ACCESS), Ok(list(5)));
    assert_eq!(xattr("v/f", ACCESS), Ok(list(1005)));
    assert_eq!(set("v/f", &list(5)), Err(EINVAL));
    let opens = |uid| as_user(uid, 50, || open(&path("v/f"), O_RDWR).map(|_| 0));
    assert_eq!((opens(1005), opens(5)), (Ok(0), Err(EACCES)));
    assert_eq!(set("m/f", &list(500)), Ok(0));
    assert_eq!(xattr("v/f", ACCESS), Ok(list(u32::MAX)), "nobody");
}

/// Capability 13 in effect, of revision 2, or of revision 3 for user `root`.
fn caps(root: Option<u32>) -> Vec<u8> {
    let magic = if root.is_some() { 0x0300_0001u32 } else { 0x0200_0001 };
    let words = [magic, 1 << 13, 0, 0, 0].into_iter().chain(root);
    words.flat_map(u32::to_le_bytes).collect()
}

fn capabilities_go_through_the_map() {
    setup("0 1000 10");
    make("m/f").unwrap();
    let set = |name: &str, value: &[u8]| sys!(SYS_setxattr, &path(name), CAPS, value, value.len(), 0);
    assert_eq!(set("m/f", &caps(None)), Ok(0));
    assert_eq!(xattr("m/f", CAPS), Ok(caps(None)));
    assert_eq!(xattr("v/f", CAPS), Ok(caps(Some(1000))), "root of the file system is user 1000");
    assert_eq!(set("v/f", &caps(None)), Err(EINVAL), "user 0 is not in the map");
    assert_eq!(set("v/f", &caps(Some(1003))), Ok(0));
    assert_eq!(xattr("m/f", CAPS), Ok(caps(Some(3))));
    assert_eq!(xattr("v/f", CAPS), Ok(caps(Some(1003))));
    assert_eq!(set("m/f", &caps(Some(500))), Ok(0));
    assert_eq!(xattr("v/f", CAPS), Err(EOVERFLOW));
    assert_eq!(set("m/f", &caps(None)[..12]), Err(EINVAL));
    assert_eq!(as_user(1000, 1000, || set("v/f", &caps(None))), Err(EPERM));
}

fn set_group_id_and_sticky_folders() {
    setup("0 1000 10");
    sys!(SYS_mkdir, &path("m/d"), 0).unwrap();
    chown("m/d", 0, 4).unwrap();
    sys!(SYS_chmod, &path("m/d"), 0o2777).unwrap();
    assert_eq!(as_user(1003, 1003, || sys!(SYS_mkdir, &path("v/d/e"), 0o755)), Ok(0));
    assert_eq!((owner("m/d/e"), owner("v/d/e")), ((3, 4), (1003, 1004)));
    assert_eq!(stat_path(&path("m/d/e")).unwrap().st_mode & S_ISGID, S_ISGID);
    sys!(SYS_mkdir, &path("m/t"), 0).unwrap();
    sys!(SYS_chmod, &path("m/t"), 0o1777).unwrap();
    assert_eq!(as_user(1003, 1003, || make("v/t/f")), Ok(0));
    assert_eq!(as_user(1004, 1004, || sys!(SYS_unlink, &path("v/t/f"))), Err(EPERM));
    assert_eq!(as_user(3, 3, || sys!(SYS_unlink, &path("v/t/f"))), Err(EPERM));
    assert_eq!(as_user(1003, 1003, || sys!(SYS_unlink, &path("v/t/f"))), Ok(0));
}

fn owners_that_are_hidden_are_no_owners() {
    setup("0 1000 10");
    sys!(SYS_mkdir, &path("m/t"), 0).unwrap();
    sys!(SYS_chmod, &path("m/t"), 0o1777).unwrap();
    sys!(SYS_symlink, c"/dev/null", &path("m/t/l")).unwrap();
    let follow = || as_user(1003, 1003, || open(&path("v/t/l"), O_RDONLY).map(|fd| close(fd)).map(|_| 0));
    assert_eq!(follow(), Ok(0), "the folder's owner made it");
    sys!(SYS_lchown, &path("m/t"), 500, 500).unwrap();
    sys!(SYS_lchown, &path("m/t/l"), 500, 500).unwrap();
    if slurp("/proc/sys/fs/protected_symlinks").trim() == "0" {
        skip("links are followed in any folder");
    }
    assert_eq!(follow(), Err(EACCES), "neither has an owner there");
}

fn statmount_tells_the_map() {
    const UIDMAP: u64 = 0x2000;
    const GIDMAP: u64 = 0x4000;
    const BASIC: u64 = 2;
    setup("0 1000 10\n20 2000 5");
    let tell = |name: &str| {
        let mut buf = [0u64; 512];
        sys!(SYS_statx, AT_FDCWD, &path(name), 0, 0x4000, &mut buf).unwrap();
        let request = [24u64, buf[18], UIDMAP | GIDMAP | BASIC];
        let mut answer = vec![0u8; 2048];
        sys!(STATMOUNT, &request, &mut answer[..], 2048, 0).map(|_| answer)
    };
    let half = |buf: &[u8], at: usize| u32::from_ne_bytes(buf[at..at + 4].try_into().unwrap()) as usize;
    let plain = tell("m").unwrap();
    assert_eq!(crate::mountkit::number(&plain, 8) & (UIDMAP | GIDMAP), 0);
    let mapped = tell("v").unwrap();
    assert_eq!(crate::mountkit::number(&mapped, 8), UIDMAP | GIDMAP | BASIC);
    assert_eq!(crate::mountkit::number(&mapped, 64) & IDMAP, IDMAP, "among the attributes");
    for at in [152, 160] {
        assert_eq!(half(&mapped, at), 2);
        let text = 512 + half(&mapped, at + 4);
        let expected = b"0 1000 10\x0020 2000 5\0\0";
        assert_eq!(&mapped[text..text + expected.len()], expected);
    }
}

fn open_tree_attr_replaces_a_map() {
    setup("0 1000 10");
    make("m/f").unwrap();
    let open_attr = |name: &str, flags: i32, set: u64, clear: u64, ns: u64| {
        let attr = [set, clear, 0, ns];
        sys!(OPEN_TREE_ATTR, AT_FDCWD, &path(name), flags, &attr, 32)
    };
    let uid = |tree: usize| {
        let mut buf = [0u8; 144];
        sys!(SYS_newfstatat, tree, c"f", &mut buf, 0).unwrap();
        u32::from_ne_bytes(buf[28..32].try_into().unwrap())
    };
    let ns = userns("0 2000 10") as u64;
    assert_eq!(uid(open_attr("v", CLONE, IDMAP, 0, ns).unwrap()), 2000);
    assert_eq!(uid(open_attr("v", CLONE, 0, IDMAP, 0).unwrap()), 0);
    assert_eq!(uid(open_attr("v", CLONE, IDMAP, IDMAP, ns).unwrap()), 2000);
    assert_eq!(uid(open_attr("v", CLONE, 1, 0, 0).unwrap()), 1000, "a copy keeps the map");
    assert_eq!(owner("v/f"), (1000, 1000));
}

fn open_files_keep_a_mount_as_it_is() {
    own_namespace();
    let m = mkdir("m");
    sys!(SYS_mount, c"tmpfs", &m, c"tmpfs", 0, 0).unwrap();
    make("m/f").unwrap();
    let tree = detached(&m);
    let writer = sys!(SYS_openat, tree, c"f", O_WRONLY).unwrap();
    let ns = userns("0 1000 10") as u64;
    assert_eq!(set_attr(tree, IDMAP, 0, ns), Err(EBUSY));
    close(writer as i32);
    let reader = sys!(SYS_openat, tree, c"f", O_RDONLY).unwrap();
    assert_eq!(set_attr(tree, IDMAP, 0, ns), Ok(0));
    assert_eq!(fstat(reader as i32).st_uid, 1000);
}

fn layers_of_an_overlay_can_have_maps() {
    setup("0 1000 10");
    make("m/f").unwrap();
    chown("m/f", 2, 3).unwrap();
    let value = list(5);
    sys!(SYS_setxattr, &path("m/f"), ACCESS, &value[..], value.len(), 0).unwrap();
    let o = mkdir("o");
    sys!(SYS_mount, c"tmpfs", &o, c"tmpfs", 0, 0).unwrap();
    for name in ["o/u", "o/w", "o/shown"] {
        mkdir(name);
    }
    let options = cstr(format!("lowerdir={0}/v,upperdir={0}/o/u,workdir={0}/o/w", dir()));
    match sys!(SYS_mount, c"overlay", &path("o/shown"), c"overlay", 0, &options) {
        Err(ENODEV) => skip("no overlay"),
        other => assert_eq!(other, Ok(0)),
    }
    assert_eq!(owner("o/shown/f"), (1002, 1003));
    assert_eq!(xattr("o/shown/f", ACCESS), Ok(list(1005)));
    assert_eq!(as_user(1005, 50, || open(&path("o/shown/f"), O_RDONLY).map(|_| 0)), Ok(0));
    sys!(SYS_chmod, &path("o/shown/f"), 0o660).unwrap();
    assert_eq!((owner("o/u/f"), owner("m/f")), ((1002, 1003), (2, 3)));
    assert_eq!(xattr("o/u/f", ACCESS), Ok(list(1005)));
    assert_eq!(chown("o/shown/f", 5, 6), Ok(0));
    assert_eq!(owner("o/u/f"), (5, 6));
    assert_eq!(set_attr(detached(&path("o/shown")), IDMAP, 0, userns("0 1000 10") as u64), Err(EINVAL));
}
