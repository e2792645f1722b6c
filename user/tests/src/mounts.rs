//! What mount namespaces share and what they keep from each other (mount_namespaces(7)).

use crate::mountkit::{MOVE_MOUNT};
use crate::prelude::*;

tests!(
    "mounts":
    namespaces_share_what_is_mounted, slaves_only_receive, a_group_is_joined_on_request,
    a_user_namespace_reveals_nothing,
    names_go_with_what_others_mounted_there, mounts_of_others_stay_as_they_are,
);

const SET_GROUP: i32 = 0x100;

type Res = Result<usize, Errno>;

/// A mount namespace of the test's own, with a shared tmpfs that holds the directories `a` and `b`.
fn shared_tmpfs() -> std::ffi::CString {
    sys!(SYS_unshare, CLONE_NEWNS).unwrap();
    sys!(SYS_mount, 0, c"/", 0, MS_REC | MS_PRIVATE, 0).unwrap();
    let top = mkdir("s");
    sys!(SYS_mount, c"s", &top, c"tmpfs", 0, 0).unwrap();
    assert_eq!(change(&top, MS_SHARED), Ok(0));
    mkdir("s/a");
    mkdir("s/b");
    top
}

fn change(at: &std::ffi::CStr, kind: u64) -> Res {
    sys!(SYS_mount, 0, at, 0, kind, 0)
}

fn tmpfs(at: &std::ffi::CStr) -> Res {
    sys!(SYS_mount, c"n", at, c"tmpfs", 0, 0)
}

fn unmount(at: &std::ffi::CStr) -> Res {
    sys!(SYS_umount2, at, 0)
}

/// Unmounts what nobody uses any more; who used it may take a moment to let go.
fn unmount_idle(at: &std::ffi::CStr) {
    for _ in 0..100 {
        match unmount(at) {
            Err(EBUSY) => nap(20),
            result => return assert_eq!(result, Ok(0)),
        }
    }
    panic!("still busy");
}

/// How many mounts /proc/self/mountinfo shows at `name`.
fn nr_at(name: &str) -> usize {
    let at = path(name).into_string().unwrap();
    slurp("/proc/self/mountinfo").lines().filter(|line| line.split(' ').nth(4) == Some(&at)).count()
}

/// The optional fields of the mount at `name`.
fn fields(name: &str) -> String {
    let at = path(name).into_string().unwrap();
    let info = slurp("/proc/self/mountinfo");
    let line = info.lines().find(|line| line.split(' ').nth(4) == Some(&at)).unwrap();
    line.split(' ').skip(6).take_while(|field| *field != "-").collect::<Vec<_>>().join(" ")
}

fn namespaces_share_what_is_mounted() {
    shared_tmpfs();
    let (a, b) = (path("s/a"), path("s/b"));
    let (here, there) = (pipe(), pipe());
    let other = child(|| {
        sys!(SYS_unshare, CLONE_NEWNS).unwrap();
        tmpfs(&b).unwrap();
        write(there.1, b"x").unwrap();
        read_vec(here.0, 1).unwrap();
        assert_eq!(nr_at("s/a"), 1, "mounted by the other");
        assert_eq!(nr_at("s/b"), 0, "unmounted by the other");
        change(&path("s"), MS_PRIVATE).unwrap();
        unmount_idle(&a);
    });
    read_vec(there.0, 1).unwrap();
    assert_eq!(nr_at("s/b"), 1);
    unmount_idle(&b);
    assert_eq!(tmpfs(&a), Ok(0));
    write(here.1, b"x").unwrap();
    other.ok();
    assert_eq!(nr_at("s/a"), 1, "no longer shared when it went there");
}

fn slaves_only_receive() {
    let top = shared_tmpfs();
    let slave = mkdir("slave");
    sys!(SYS_mount, &top, &slave, 0, MS_BIND, 0).unwrap();
    assert_eq!(fields("slave"), fields("s"));
    assert_eq!(change(&slave, MS_SLAVE), Ok(0));
    assert_eq!(fields("slave"), fields("s").replace("shared", "master"));
    tmpfs(&path("s/a")).unwrap();
    assert_eq!(nr_at("slave/a"), 1);
    tmpfs(&path("slave/b")).unwrap();
    assert_eq!(nr_at("s/b"), 0);
    assert_eq!(change(&slave, MS_SHARED), Ok(0));
    assert!(fields("slave").starts_with("shared:") && fields("slave").contains(" master:"));
    let held = open(&path("slave/a"), O_RDONLY).unwrap();
    assert_eq!(unmount(&path("s/a")), Err(EBUSY), "its copy is in use");
    close(held);
    unmount_idle(&path("s/a"));
    assert_eq!(nr_at("slave/a"), 0);
    assert_eq!(change(&slave, MS_UNBINDABLE), Ok(0));
    assert_eq!(fields("slave"), "unbindable");
    assert_eq!(sys!(SYS_mount, &slave, &mkdir("x"), 0, MS_BIND, 0), Err(EINVAL));
}

fn a_group_is_joined_on_request() {
    let top = shared_tmpfs();
    let other = mkdir("other");
    sys!(SYS_mount, &top, &other, 0, MS_BIND, 0).unwrap();
    change(&other, MS_PRIVATE).unwrap();
    let set = |from: &std::ffi::CStr, to: &std::ffi::CStr| {
        sys!(MOVE_MOUNT, AT_FDCWD, from, AT_FDCWD, to, SET_GROUP)
    };
    assert_eq!(set(&other, &top), Err(EINVAL), "has none to give");
    assert_eq!(set(&top, &path("s/a")), Err(EINVAL), "no mount");
    assert_eq!(set(&top, &other), Ok(0));
    assert_eq!(fields("other"), fields("s"));
    tmpfs(&path("other/a")).unwrap();
    assert_eq!(nr_at("s/a"), 1);
    assert_eq!(set(&top, &other), Err(EINVAL), "has one already");
}

fn a_user_namespace_reveals_nothing() {
    let top = shared_tmpfs();
    ignore(file("s/a/secret", b"x"));
    sys!(SYS_mount, c"n", &path("s/a"), c"tmpfs", MS_RDONLY | MS_NOSUID, 0).unwrap();
    sys!(SYS_chmod, &path("."), 0o755).unwrap();
    aside(|| {
        sys!(SYS_unshare, CLONE_NEWUSER | CLONE_NEWNS).unwrap();
        assert!(fields("s").starts_with("master:"), "{}", fields("s"));
        let a = path("s/a");
        assert_eq!(unmount(&a), Err(EINVAL));
        assert_eq!(sys!(SYS_mount, &top, &mkdir("s/b/x"), 0, MS_BIND, 0), Err(EINVAL));
        assert_eq!(sys!(SYS_mount, 0, &a, 0, MS_BIND | MS_REMOUNT | MS_NOSUID, 0), Err(EPERM));
        assert_eq!(sys!(SYS_mount, 0, &a, 0, MS_BIND | MS_REMOUNT | MS_RDONLY, 0), Err(EPERM));
        assert_eq!(
            sys!(SYS_mount, 0, &a, 0, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, 0),
            Ok(0)
        );
        assert_eq!(sys!(SYS_mount, c"n", &path("s/b"), c"tmpfs", 0, c"noswap"), Err(EINVAL));
        assert_eq!(tmpfs(&path("s/b")), Ok(0));
    });
    assert_eq!(nr_at("s/b"), 0);
}

fn names_go_with_what_others_mounted_there() {
    let (dir, from, to) = (mkdir("d"), mkdir("from"), mkdir("to"));
    let plain = file("f", b"x");
    let (ready, tell) = pipe();
    let (wait, go) = pipe();
    let other = child(|| {
        sys!(SYS_unshare, CLONE_NEWNS).unwrap();
        sys!(SYS_mount, 0, c"/", 0, MS_REC | MS_PRIVATE, 0).unwrap();
        for at in [&dir, &from, &to] {
            tmpfs(at).unwrap();
        }
        sys!(SYS_mount, &plain, &plain, 0, MS_BIND, 0).unwrap();
        assert_eq!(sys!(SYS_rmdir, &dir), Err(EBUSY));
        assert_eq!(sys!(SYS_unlink, &plain), Err(EBUSY));
        assert_eq!(sys!(SYS_rename, &from, &path("x")), Err(EBUSY));
        write(tell, b"x").unwrap();
        read_vec(wait, 1).unwrap();
        for name in ["d", "f", "from"] {
            assert_eq!(nr_at(name), 0, "{name}");
        }
        assert_eq!(nr_at("to"), 1, "what moved took its mount along");
        assert_eq!(stat_path(&dir).map(drop), Err(ENOENT));
    });
    read_vec(ready, 1).unwrap();
    assert_eq!(sys!(SYS_rename, &from, &to), Ok(0), "the mount upon the replaced one goes");
    assert_eq!(sys!(SYS_rmdir, &dir), Ok(0));
    assert_eq!(sys!(SYS_unlink, &plain), Ok(0));
    write(go, b"x").unwrap();
    other.ok();
}

/// A descriptor leads root of a new user namespace to the mounts of its parent, but it may not change them.
fn mounts_of_others_stay_as_they_are() {
    let top = shared_tmpfs();
    assert_eq!(sys!(SYS_mount, 0, &top, 0, MS_REMOUNT | MS_BIND | MS_NOSUID, 0), Ok(0));
    let fd = open(&top, O_PATH).unwrap();
    aside(|| {
        drop_root();
        sys!(SYS_unshare, CLONE_NEWUSER | CLONE_NEWNS).unwrap();
        let theirs = cstr(format!("/proc/self/fd/{fd}"));
        assert_eq!(sys!(SYS_mount, 0, &theirs, 0, MS_REMOUNT | MS_BIND, 0), Err(EINVAL));
        assert_eq!(sys!(SYS_mount, 0, &theirs, 0, MS_REMOUNT | MS_RDONLY, c""), Err(EINVAL));
        assert_eq!(sys!(SYS_mount, 0, &theirs, 0, MS_PRIVATE, 0), Err(EPERM));
        // The own copy of the mount shows the same file system, which is for the parent to set up.
        assert_eq!(sys!(SYS_mount, 0, &top, 0, MS_REMOUNT | MS_NOSUID | MS_RDONLY, c""), Err(EPERM));
    });
    assert!(fields("s").contains("shared:"));
    close(fd);
    unmount_idle(&top);
}
