//! Overlays: directories laid over each other. Skipped where the kernel has no such file system.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use crate::prelude::*;

tests!(
    "overlay":
    layers_are_merged, writing_copies_up, removing_leaves_whiteouts, directories_made_again_are_empty,
    renames_leave_whiteouts, renamed_directories_are_redirected, links_and_unnamed_files, open_files_see_the_copy,
    programs_and_mappings, removed_files_can_still_change, what_cannot_be_mounted, without_an_upper_directory,
    attributes_of_the_overlay_are_hidden, attributes_alone_are_copied, data_follows_attributes, data_is_found_under_other_names,
    copies_of_attributes_want_redirects, a_deep_tree_comes_and_goes, random_changes_as_on_a_plain_directory,
    capabilities_of_a_namespace_stay_its_own,
);

type Res = Result<usize, Errno>;

/// The scratch directory and what is in it, as a path.
pub fn at(name: &str) -> String {
    path(name).into_string().unwrap()
}

/// Two lower directories with a few files, an upper and a work directory, and where to mount.
pub fn layers() {
    sys!(SYS_unshare, CLONE_NEWNS).unwrap();
    sys!(SYS_mount, 0, c"/", 0, MS_REC | MS_PRIVATE, 0).unwrap();
    for name in ["l1", "l2", "u", "w", "m", "l1/d", "l2/d", "l2/only"] {
        mkdir(name);
    }
    file("l1/a", b"a of l1");
    file("l2/a", b"a of l2");
    file("l2/b", b"b of l2");
    file("l1/d/x", b"x of l1");
    file("l2/d/x", b"x of l2");
    file("l2/d/y", b"y of l2");
    file("l2/only/z", b"z");
}

pub fn mount_with(options: &str) -> Res {
    let options = CString::new(options).unwrap();
    sys!(SYS_mount, c"overlay", &path("m"), c"overlay", 0, &options)
}

pub fn usual(more: &str) -> String {
    format!("lowerdir={}:{},upperdir={},workdir={}{more}", at("l1"), at("l2"), at("u"), at("w"))
}

/// Mounts the layers, or skips the test.
pub fn mount(more: &str) {
    match mount_with(&usual(more)) {
        Err(ENODEV) => skip("no overlay"),
        result => assert_eq!(result, Ok(0)),
    }
}

/// Mounts them anew.
pub fn remount(more: &str) {
    assert_eq!(sys!(SYS_umount2, &path("m"), 0), Ok(0));
    mount(more);
}

pub fn text(name: &str) -> String {
    fs::read_to_string(at(name)).unwrap()
}

pub fn names(name: &str) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(at(name)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn is_whiteout(name: &str) -> bool {
    fs::symlink_metadata(at(name)).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

fn layers_are_merged() {
    layers();
    sys!(SYS_mknod, &path("l1/b"), S_IFCHR, 0).unwrap();
    file("u/c", b"c of u");
    mount("");
    assert_eq!(names("m"), ["a", "c", "d", "only"], "b is hidden");
    assert_eq!(names("m/d"), ["x", "y"]);
    assert_eq!((text("m/a"), text("m/d/x"), text("m/d/y")), ("a of l1".into(), "x of l1".into(), "y of l2".into()));
    assert_eq!(stat_path(&path("m/b")).map(|_| ()), Err(ENOENT));
    let info = slurp("/proc/self/mountinfo");
    let line = info.lines().find(|line| line.split(' ').nth(4) == Some(&at("m"))).unwrap();
    assert!(line.contains(" - overlay overlay "), "{line}");
    assert!(line.contains(&format!("lowerdir={}:{}", at("l1"), at("l2"))), "{line}");
}

fn writing_copies_up() {
    layers();
    fs::set_permissions(at("l2/d/y"), fs::Permissions::from_mode(0o640)).unwrap();
    sys!(SYS_chown, &path("l2/d/y"), 12, 34).unwrap();
    sys!(SYS_setxattr, &path("l2/d/y"), c"user.k", b"v", 1, 0).ok();
    mount("");
    let before = stat_path(&path("m/d/y")).unwrap();
    let fd = open(&path("m/d/y"), O_RDWR | O_APPEND).unwrap();
    assert_eq!(write(fd, b"!"), Ok(1));
    assert_eq!(fstat(fd).st_size, 8);
    assert_eq!(sys!(SYS_fsync, fd), Ok(0));
    close(fd);
    assert_eq!((text("m/d/y"), text("u/d/y"), text("l2/d/y")), ("y of l2!".into(), "y of l2!".into(), "y of l2".into()));
    let after = stat_path(&path("m/d/y")).unwrap();
    assert_eq!((after.st_ino, after.st_mode, after.st_uid, after.st_gid), (before.st_ino, before.st_mode, 12, 34));
    // Only what changed is copied.
    assert_eq!(names("u/d"), ["y"]);
    assert_eq!(names("m/d"), ["x", "y"]);
    // Attributes alone do it too.
    sys!(SYS_chmod, &path("m/a"), 0o600).unwrap();
    assert_eq!((text("u/a"), stat_path(&path("u/a")).unwrap().st_mode), ("a of l1".into(), S_IFREG | 0o600));
    assert_eq!(stat_path(&path("l1/a")).unwrap().st_mode & 0o777, 0o644);
    sys!(SYS_truncate, &path("m/b"), 3).unwrap();
    assert_eq!((text("m/b"), text("u/b"), text("l2/b")), ("b o".into(), "b o".into(), "b of l2".into()));
    let fd = open(&path("m/only/z"), O_WRONLY | O_TRUNC).unwrap();
    assert_eq!(fstat(fd).st_size, 0);
    close(fd);
    assert_eq!((text("u/only/z"), text("l2/only/z")), ("".into(), "z".into()));
    assert!(names("w/work").is_empty(), "nothing is left behind");
}

fn removing_leaves_whiteouts() {
    layers();
    mount("");
    assert_eq!(sys!(SYS_unlink, &path("m/a")), Ok(0));
    assert!(is_whiteout("u/a"));
    assert_eq!(stat_path(&path("m/a")).map(|_| ()), Err(ENOENT));
    assert_eq!(sys!(SYS_rmdir, &path("m/d")), Err(ENOTEMPTY));
    assert_eq!(sys!(SYS_unlink, &path("m/d/x")), Ok(0));
    assert_eq!(sys!(SYS_unlink, &path("m/d/y")), Ok(0));
    assert!(names("m/d").is_empty());
    assert_eq!(sys!(SYS_rmdir, &path("m/d")), Ok(0));
    assert!(is_whiteout("u/d"));
    file("m/new", b"n");
    assert_eq!(sys!(SYS_unlink, &path("m/new")), Ok(0));
    assert_eq!(names("u"), ["a", "d"], "nothing hides what was never below");
    file("m/a", b"again");
    assert!(!is_whiteout("u/a"));
    assert_eq!(names("m"), ["a", "b", "only"]);
    remount("");
    assert_eq!(names("m"), ["a", "b", "only"]);
    assert_eq!(text("m/a"), "again");
    assert!(names("w/work").is_empty(), "nothing is left behind");
}

fn directories_made_again_are_empty() {
    layers();
    mount("");
    sys!(SYS_unlink, &path("m/only/z")).unwrap();
    sys!(SYS_rmdir, &path("m/only")).unwrap();
    mkdir("m/only");
    assert!(names("m/only").is_empty());
    file("m/only/n", b"");
    assert_eq!(names("m/only"), ["n"]);
    let mut value = [0u8; 4];
    assert_eq!(sys!(SYS_getxattr, &path("u/only"), c"trusted.overlay.opaque", &mut value, 4), Ok(1));
    assert_eq!(value[0], b'y');
    remount("");
    assert_eq!(names("m/only"), ["n"]);
}

fn renames_leave_whiteouts() {
    layers();
    mount("");
    assert_eq!(sys!(SYS_rename, &path("m/a"), &path("m/n")), Ok(0));
    assert!(is_whiteout("u/a"));
    assert_eq!((text("m/n"), text("u/n")), ("a of l1".into(), "a of l1".into()));
    // Back over the whiteout.
    assert_eq!(sys!(SYS_rename, &path("m/n"), &path("m/a")), Ok(0));
    assert_eq!(names("u"), ["a"]);
    assert_eq!(sys!(SYS_rename, &path("m/d"), &path("m/e")), Err(EXDEV), "it has a lower directory");
    mkdir("m/p");
    file("m/p/f", b"f");
    assert_eq!(sys!(SYS_rename, &path("m/p"), &path("m/q")), Ok(0));
    assert_eq!(sys!(SYS_rename, &path("m/q"), &path("m/d")), Err(ENOTEMPTY));
    for name in ["m/d/x", "m/d/y"] {
        sys!(SYS_unlink, &path(name)).unwrap();
    }
    assert_eq!(sys!(SYS_rename, &path("m/q"), &path("m/d")), Ok(0));
    assert_eq!(names("m/d"), ["f"], "what was below stays hidden");
    assert_eq!(sys!(SYS_renameat2, AT_FDCWD, &path("m/a"), AT_FDCWD, &path("m/b"), 2), Ok(0));
    assert_eq!((text("m/a"), text("m/b")), ("b of l2".into(), "a of l1".into()));
    assert_eq!(sys!(SYS_renameat2, AT_FDCWD, &path("m/a"), AT_FDCWD, &path("m/c"), 4), Err(EINVAL));
    remount("");
    assert_eq!(names("m"), ["a", "b", "d", "only"]);
    assert_eq!(names("m/d"), ["f"]);
    assert!(names("w/work").is_empty(), "nothing is left behind");
}

fn renamed_directories_are_redirected() {
    layers();
    mkdir("l2/d/sub");
    file("l2/d/sub/deep", b"deep");
    mount(",redirect_dir=on");
    assert_eq!(sys!(SYS_rename, &path("m/d"), &path("m/e")), Ok(0));
    assert_eq!(names("m/e"), ["sub", "x", "y"]);
    assert_eq!(sys!(SYS_rename, &path("m/e/sub"), &path("m/only/sub")), Ok(0));
    assert_eq!(text("m/only/sub/deep"), "deep");
    file("m/only/sub/more", b"");
    assert_eq!(sys!(SYS_rename, &path("m/e"), &path("m/only/e")), Ok(0));
    for _ in 0..2 {
        assert_eq!(names("m"), ["a", "b", "only"]);
        assert_eq!(names("m/only"), ["e", "sub", "z"]);
        assert_eq!(names("m/only/e"), ["x", "y"]);
        assert_eq!(names("m/only/sub"), ["deep", "more"]);
        // Redirects are followed without the option too.
        remount("");
    }
    assert!(names("w/work").is_empty(), "nothing is left behind");
}

fn links_and_unnamed_files() {
    layers();
    mount("");
    assert_eq!(sys!(SYS_link, &path("m/a"), &path("m/k")), Ok(0));
    let (a, k) = (stat_path(&path("m/a")).unwrap(), stat_path(&path("m/k")).unwrap());
    assert_eq!((a.st_ino, a.st_nlink), (k.st_ino, 2));
    let fd = open(&path("m/k"), O_WRONLY).unwrap();
    write(fd, b"A").unwrap();
    close(fd);
    assert_eq!(text("m/a"), "A of l1");
    sys!(SYS_unlink, &path("m/a")).unwrap();
    assert!(is_whiteout("u/a"));
    assert_eq!(stat_path(&path("m/k")).unwrap().st_nlink, 1);
    assert_eq!(sys!(SYS_link, &path("m/k"), &path("m/a")), Ok(0), "over the whiteout");
    assert_eq!(stat_path(&path("m/k")).unwrap().st_nlink, 2);
    sys!(SYS_symlink, c"only/z", &path("m/s")).unwrap();
    assert_eq!(text("m/s"), "z");
    let fd = sys!(SYS_open, &path("m/d"), O_TMPFILE | O_RDWR, 0o600).unwrap() as i32;
    write(fd, b"t").unwrap();
    let magic = cstr(format!("/proc/self/fd/{fd}"));
    assert_eq!(sys!(SYS_linkat, AT_FDCWD, &magic, AT_FDCWD, &path("m/d/t"), AT_SYMLINK_FOLLOW), Ok(0));
    close(fd);
    assert_eq!(text("m/d/t"), "t");
}

fn open_files_see_the_copy() {
    layers();
    mount("");
    let old = open(&path("m/a"), O_RDONLY).unwrap();
    assert_eq!(read_vec(old, 1), Ok(b"a".to_vec()));
    let new = open(&path("m/a"), O_WRONLY).unwrap();
    pwrite(new, b"XY", 0).unwrap();
    assert_eq!(pread(old, 9, 0), Ok(b"XYof l1".to_vec()));
    assert_eq!(read_vec(old, 9), Ok(b"Yof l1".to_vec()), "the position stays");
    assert_eq!(fstat(old).st_ino, fstat(new).st_ino);
}

fn programs_and_mappings() {
    layers();
    fs::copy("/proc/self/exe", at("l1/prog")).unwrap();
    mount("");
    let fd = open(&path("m/a"), O_RDWR).unwrap();
    let map = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd).unwrap();
    assert_eq!(bytes_at(map, 7), b"a of l1");
    poke(map, b'!');
    assert_eq!(sys!(SYS_msync, map, PAGE, MS_SYNC), Ok(0));
    assert_eq!((text("m/a"), text("u/a"), text("l1/a")), ("! of l1".into(), "! of l1".into(), "a of l1".into()));
    let maps = slurp("/proc/self/maps");
    assert!(maps.contains(&at("m/a")), "{maps}");
    // A program that runs cannot be written.
    let status = std::process::Command::new(at("m/prog")).arg("--list").stdout(std::process::Stdio::null()).status();
    assert!(status.is_ok());
    let mut running = std::process::Command::new(at("m/prog"))
        .args([MARK, "hold", "0"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(open(&path("m/prog"), O_WRONLY | O_TRUNC), Err(ETXTBSY));
    let len = |name| fs::metadata(at(name)).map(|it| it.len()).ok();
    assert_eq!((len("m/prog"), len("u/prog")), (len("l1/prog"), None), "not cut by an open that failed");
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());
    assert_eq!(open(&path("m/prog"), O_WRONLY).map(close), Ok(()));
}

fn removed_files_can_still_change() {
    layers();
    mount("");
    let fd = open(&path("m/a"), O_RDONLY).unwrap();
    let dir = open(&path("m/only"), O_RDONLY | O_DIRECTORY).unwrap();
    sys!(SYS_unlink, &path("m/a")).unwrap();
    sys!(SYS_unlink, &path("m/only/z")).unwrap();
    sys!(SYS_rmdir, &path("m/only")).unwrap();
    // Linux 7.2 says EEXIST, and leaves its copy behind, where the lower directory is on its first tmpfs.
    let changed = sys!(SYS_fchmod, fd, 0o611);
    if changed != Err(EEXIST) {
        assert_eq!((changed, fstat(fd).st_mode & 0o777), (Ok(0), 0o611));
        assert!(names("w/work").is_empty(), "nothing is left behind");
    }
    assert_eq!(pread(fd, 9, 0), Ok(b"a of l1".to_vec()));
    assert_eq!(sys!(SYS_openat, dir, c"n", O_CREAT | O_WRONLY, 0o600), Err(ENOENT));
    assert_eq!(names("m"), ["b", "d"]);
}

fn what_cannot_be_mounted() {
    layers();
    mount("");
    sys!(SYS_umount2, &path("m"), 0).unwrap();
    let (l, u, w) = (at("l1"), at("u"), at("w"));
    for options in [
        String::new(),
        format!("upperdir={u},workdir={w}"),
        format!("lowerdir={l},upperdir={u}"),
        format!("lowerdir={l},upperdir={u},workdir={u}/sub"),
        format!("lowerdir={l},upperdir={u},workdir={u}"),
        format!("lowerdir={l},nonsense"),
    ] {
        mkdir("u/sub2");
        let result = mount_with(&options);
        assert!(matches!(result, Err(EINVAL | ENOENT)), "{options}: {result:?}");
        sys!(SYS_rmdir, &path("u/sub2")).unwrap();
    }
    assert_eq!(mount_with(&format!("lowerdir={}", at("none"))), Err(ENOENT));
    sys!(SYS_mount, c"t", &path("w"), c"tmpfs", 0, 0).unwrap();
    assert_eq!(mount_with(&usual("")), Err(EINVAL), "work on another file system");
}

fn without_an_upper_directory() {
    layers();
    let options = format!("lowerdir={}:{}", at("l1"), at("l2"));
    match mount_with(&options) {
        Err(ENODEV) => skip("no overlay"),
        result => assert_eq!(result, Ok(0)),
    }
    assert_eq!(names("m"), ["a", "b", "d", "only"]);
    assert_eq!(open(&path("m/a"), O_WRONLY), Err(EROFS));
    assert_eq!(sys!(SYS_unlink, &path("m/a")), Err(EROFS));
    assert_eq!(sys!(SYS_mkdir, &path("m/new"), 0o755), Err(EROFS));
    assert_eq!(sys!(SYS_mount, 0, &path("m"), 0, MS_REMOUNT, 0), Err(EROFS));
}

fn attributes_of_the_overlay_are_hidden() {
    layers();
    mount("");
    sys!(SYS_unlink, &path("m/only/z")).unwrap();
    sys!(SYS_rmdir, &path("m/only")).unwrap();
    mkdir("m/only");
    let mut list = [0u8; 200];
    let len = sys!(SYS_listxattr, &path("m/only"), &mut list, 200).unwrap();
    assert!(!String::from_utf8_lossy(&list[..len]).contains("trusted.overlay."));
    let only = path("m/only");
    assert_eq!(sys!(SYS_getxattr, &only, c"trusted.overlay.opaque", &mut list, 200), Err(ENODATA));
    assert_eq!(sys!(SYS_setxattr, &only, c"user.mine", b"1", 1, 0), Ok(0));
    assert_eq!(sys!(SYS_getxattr, &only, c"user.mine", &mut list, 200), Ok(1));
    assert_eq!(sys!(SYS_removexattr, &only, c"user.mine"), Ok(0));
    assert_eq!(sys!(SYS_removexattr, &only, c"user.mine"), Err(ENODATA));
}

fn a_deep_tree_comes_and_goes() {
    const DEPTH: usize = 1000;
    layers();
    sys!(SYS_chdir, &path("l1/d")).unwrap();
    for _ in 0..DEPTH {
        sys!(SYS_mkdir, c"d", 0o755).unwrap();
        sys!(SYS_chdir, c"d").unwrap();
    }
    mount("");
    sys!(SYS_chdir, &path("m/d")).unwrap();
    for _ in 0..DEPTH {
        sys!(SYS_chdir, c"d").unwrap();
    }
    // All of it is copied up for the last one.
    sys!(SYS_mkdir, c"new", 0o755).unwrap();
    sys!(SYS_chdir, c"/").unwrap();
    assert_eq!(sys!(SYS_umount2, &path("m"), 0), Ok(0));
    nap(200);
}

/// The names that random changes are about: some are below, some are not.
const NAMES: [&str; 10] = ["a", "b", "d", "d/x", "d/y", "only", "only/z", "p", "d/p", "only/p"];

/// Makes one change in the tree at `top`.
fn change(top: &str, what: u32, a: &str, b: &str, round: usize) -> Res {
    let (from, to) = (path(&format!("{top}/{a}")), path(&format!("{top}/{b}")));
    match what {
        0 => sys!(SYS_unlink, &from),
        1 => sys!(SYS_mkdir, &from, 0o755),
        2 => sys!(SYS_rmdir, &from),
        3 | 4 => sys!(SYS_rename, &from, &to),
        5 => sys!(SYS_link, &from, &to),
        6 => sys!(SYS_renameat2, AT_FDCWD, &from, AT_FDCWD, &to, 2),
        7 => sys!(SYS_symlink, c"elsewhere", &from),
        8 => sys!(SYS_truncate, &from, round % 7),
        _ => {
            let flags = O_CREAT | O_WRONLY | O_NOFOLLOW | if what == 9 { O_APPEND } else { O_EXCL };
            let fd = sys!(SYS_open, &from, flags, 0o644)? as i32;
            let result = write(fd, format!("{round} ").as_bytes());
            close(fd);
            result
        }
    }
}

/// What the tree at `name` shows.
fn tree(name: &str, shown: &str, out: &mut Vec<String>) {
    for child in names(name) {
        let (full, shown) = (format!("{name}/{child}"), format!("{shown}/{child}"));
        let meta = fs::symlink_metadata(at(&full)).unwrap();
        if meta.is_dir() {
            out.push(format!("{shown}/ {:o}", meta.mode()));
            tree(&full, &shown, out);
        } else if meta.is_file() {
            out.push(format!("{shown} {} {:o} {}", meta.nlink(), meta.mode(), text(&full)));
        } else {
            out.push(format!("{shown} -> {:?}", fs::read_link(at(&full))));
        }
    }
}

fn snapshot(name: &str) -> Vec<String> {
    let mut out = Vec::new();
    tree(name, "", &mut out);
    out
}

fn copy_tree(from: &str, to: &str) {
    mkdir(to);
    for child in names(from) {
        let (from, to) = (format!("{from}/{child}"), format!("{to}/{child}"));
        if fs::metadata(at(&from)).unwrap().is_dir() {
            copy_tree(&from, &to);
        } else {
            fs::copy(at(&from), at(&to)).unwrap();
        }
    }
}

fn random_changes_as_on_a_plain_directory() {
    allow_seconds(120);
    layers();
    mount(",redirect_dir=on");
    copy_tree("m", "plain");
    assert_eq!(snapshot("m"), snapshot("plain"));
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 33) as usize % below
    };
    for round in 0..3000 {
        let (what, a, b) = (random(11) as u32, NAMES[random(NAMES.len())], NAMES[random(NAMES.len())]);
        let there = change("m", what, a, b, round);
        let here = change("plain", what, a, b, round);
        assert_eq!(there, here, "round {round}: {what} {a} {b}");
        if round % 50 == 0 {
            assert_eq!(snapshot("m"), snapshot("plain"), "round {round}");
        }
        if round % 500 == 499 {
            remount(",redirect_dir=on");
            assert_eq!(snapshot("m"), snapshot("plain"), "round {round}, mounted anew");
        }
    }
    assert!(names("w/work").is_empty(), "nothing is left behind");
}

/// The value of an attribute of a file in a layer.
fn mark(name: &str, mark: &str) -> Option<Vec<u8>> {
    let mut value = [0u8; 256];
    let name = path(name);
    let mark = CString::new(format!("trusted.overlay.{mark}")).unwrap();
    match sys!(SYS_lgetxattr, &name, &mark, &mut value[..], 256) {
        Ok(len) => Some(value[..len].to_vec()),
        Err(ENODATA) => None,
        Err(errno) => panic!("{errno:?}"),
    }
}

fn attributes_alone_are_copied() {
    layers();
    file("l2/big", &[7; 100_000]);
    mount(",metacopy=on");
    sys!(SYS_chmod, &path("m/big"), 0o600).unwrap();
    assert_eq!(mark("u/big", "metacopy"), Some(vec![]));
    let (copy, shown) = (fs::metadata(at("u/big")).unwrap(), fs::metadata(at("m/big")).unwrap());
    assert_eq!((copy.len(), copy.blocks()), (100_000, 0));
    assert_eq!((shown.len(), shown.mode() & 0o777), (100_000, 0o600));
    assert!(shown.blocks() * 512 >= 100_000, "those of the data");
    assert_eq!(fs::read(at("m/big")).unwrap(), [7; 100_000]);
    sys!(SYS_chown, &path("m/big"), 5, 6).unwrap();
    assert_eq!(mark("u/big", "metacopy"), Some(vec![]));
    remount(",metacopy=on");
    assert_eq!(fs::read(at("m/big")).unwrap(), [7; 100_000]);
    assert_eq!(fs::metadata(at("m/big")).unwrap().uid(), 5);
    // Without the option the data is not looked for.
    remount("");
    assert_eq!(stat_path(&path("m/big")).map(drop), Err(EPERM));
}

fn data_follows_attributes() {
    layers();
    file("l2/big", &[7; 100_000]);
    file("l2/cut", &[8; 5000]);
    file("l2/short", &[9; 5000]);
    mount(",metacopy=on");
    for name in ["m/big", "m/cut", "m/short"] {
        sys!(SYS_chmod, &path(name), 0o600).unwrap();
    }
    let before = open(&path("m/big"), O_RDONLY).unwrap();
    let fd = open(&path("m/big"), O_RDWR).unwrap();
    assert_eq!(mark("u/big", "metacopy"), None);
    pwrite(fd, b"new", 50_000).unwrap();
    assert_eq!(pread(before, 3, 50_000), Ok(b"new".to_vec()));
    let mut expected = vec![7; 100_000];
    expected[50_000..50_003].copy_from_slice(b"new");
    assert_eq!(fs::read(at("m/big")).unwrap(), expected);
    close(open(&path("m/cut"), O_WRONLY | O_TRUNC).unwrap());
    assert_eq!((mark("u/cut", "metacopy"), fs::read(at("m/cut")).unwrap()), (None, vec![]));
    sys!(SYS_truncate, &path("m/short"), 1000).unwrap();
    assert_eq!((mark("u/short", "metacopy"), fs::read(at("m/short")).unwrap()), (None, vec![9; 1000]));
    close(before);
    close(fd);
    remount("");
    assert_eq!(fs::read(at("m/big")).unwrap(), expected);
    assert_eq!((fs::read(at("m/cut")).unwrap(), fs::read(at("m/short")).unwrap()), (vec![], vec![9; 1000]));
    assert_eq!(fs::read(at("l2/big")).unwrap(), [7; 100_000]);
}

fn data_is_found_under_other_names() {
    layers();
    mount(",metacopy=on");
    let rename = |old: &str, new: &str| sys!(SYS_rename, &path(old), &path(new)).unwrap();
    rename("m/b", "m/beside");
    assert_eq!((mark("u/beside", "metacopy"), mark("u/beside", "redirect")), (Some(vec![]), Some(b"b".to_vec())));
    rename("m/d/y", "m/only/y");
    assert_eq!(mark("u/only/y", "redirect"), Some(b"/d/y".to_vec()));
    sys!(SYS_link, &path("m/d/x"), &path("m/linked")).unwrap();
    assert_eq!(mark("u/linked", "redirect"), Some(b"/d/x".to_vec()));
    for _ in 0..2 {
        assert_eq!((text("m/beside"), text("m/only/y")), ("b of l2".to_owned(), "y of l2".to_owned()));
        assert_eq!((text("m/linked"), text("m/d/x")), ("x of l1".to_owned(), "x of l1".to_owned()));
        remount(",metacopy=on");
    }
    fs::write(at("m/linked"), b"changed").unwrap();
    assert_eq!(text("m/d/x"), "changed");
}

fn copies_of_attributes_want_redirects() {
    layers();
    mount("");
    assert_eq!(sys!(SYS_umount2, &path("m"), 0), Ok(0));
    for more in [",metacopy=on,redirect_dir=follow", ",metacopy=on,redirect_dir=nofollow", ",metacopy=on,userxattr"] {
        assert_eq!(mount_with(&usual(more)), Err(EINVAL), "{more}");
    }
    mount(",metacopy=on");
    let mounts = slurp("/proc/self/mounts");
    let line = mounts.lines().find(|line| line.contains(&at("m"))).unwrap();
    assert!(line.contains("redirect_dir=on") && line.contains("metacopy=on"), "{line}");
}

/// Who mounts an overlay in a user namespace of his own must not make files with capabilities for the one above.
fn capabilities_of_a_namespace_stay_its_own() {
    layers();
    file("u/f", b"f");
    let mut above = dir();
    while !above.is_empty() {
        let _ = sys!(SYS_chmod, &cstr(above.clone()), 0o755);
        above.truncate(above.rfind('/').unwrap_or(0));
    }
    for name in ["u", "u/f", "w", "m"] {
        assert_eq!(sys!(SYS_chown, &path(name), 1000, 1000), Ok(0));
    }
    let capabilities: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    let ns = crate::idmap::userns("0 1000 1");
    let user = child(|| {
        sys!(SYS_setns, ns, CLONE_NEWUSER).unwrap();
        sys!(SYS_setresgid, 0, 0, 0).unwrap();
        sys!(SYS_setresuid, 0, 0, 0).unwrap();
        sys!(SYS_unshare, CLONE_NEWNS).unwrap();
        match mount_with(&usual(",userxattr")) {
            Err(ENODEV) => exit(77),
            result => assert_eq!(result, Ok(0)),
        }
        assert_eq!(sys!(SYS_setxattr, &path("m/f"), c"security.capability", &capabilities, 20, 0), Ok(0));
        assert_eq!(sys!(SYS_setxattr, &path("m/f"), c"security.other", &capabilities, 4, 0), Err(EPERM));
        let mut seen = [0u32; 6];
        let len = sys!(SYS_getxattr, &path("m/f"), c"security.capability", &mut seen, 24);
        assert_eq!((len, &seen[..5]), (Ok(20), &capabilities[..]));
        exit(0)
    });
    match user.wait() {
        Status::Exit(77) => skip("no overlay"),
        status => assert_eq!(status, Status::Exit(0)),
    }
    let mut kept = [0u32; 6];
    assert_eq!(sys!(SYS_getxattr, &path("u/f"), c"security.capability", &mut kept, 24), Ok(24));
    assert_eq!(kept, [0x0300_0001, 1 << 13, 0, 0, 0, 1000]);
}
