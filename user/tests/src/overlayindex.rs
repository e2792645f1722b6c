//! Overlays with `index=on`: the names of a lower file stay names of one file when it is copied up.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::overlay::{at, layers, mount, mount_with, names, remount, text, usual};
use crate::prelude::*;

tests!(
    "overlayindex":
    names_stay_together, names_are_counted, the_last_name_takes_the_index_along, an_index_outlives_a_mount,
    layers_are_bound_to_each_other, renames_keep_names_together, without_an_upper_directory_nothing_is_indexed,
    without_an_index_names_part, the_option_is_shown, new_names_of_lower_files, one_index_serves_one_overlay,
    names_in_forgotten_folders,
);

/// The lower file "l2/x" has three names: "x", "y" and "d/z".
fn linked() {
    layers();
    file("l2/x", b"linked");
    fs::hard_link(at("l2/x"), at("l2/y")).unwrap();
    fs::hard_link(at("l2/x"), at("l2/d/z")).unwrap();
}

fn nlink(name: &str) -> u64 {
    fs::metadata(at(name)).unwrap().nlink()
}

fn ino(name: &str) -> u64 {
    fs::metadata(at(name)).unwrap().ino()
}

fn append(name: &str) {
    let fd = open(&path(name), O_WRONLY | O_APPEND).unwrap();
    assert_eq!(write(fd, b"!"), Ok(1));
    close(fd);
}

fn index() -> Vec<String> {
    names("w/index").into_iter().filter(|name| !name.starts_with('#')).collect()
}

fn names_stay_together() {
    linked();
    mount(",index=on");
    assert_eq!((ino("m/x"), ino("m/x")), (ino("m/y"), ino("m/d/z")));
    let before = ino("m/x");
    append("m/y");
    for name in ["m/x", "m/y", "m/d/z"] {
        assert_eq!((text(name), ino(name), nlink(name)), ("linked!".into(), before, 3));
    }
    assert_eq!(text("l2/x"), "linked");
    append("m/d/z");
    assert_eq!(text("m/x"), "linked!!");
    assert_eq!(index().len(), 1);
    let names_of_it = fs::metadata(at("w/index")).map(|_| index().pop().unwrap()).unwrap();
    assert!(names_of_it.starts_with("00fb") && names_of_it.len().is_multiple_of(2), "{names_of_it}");
    let mut value = [0u8; 64];
    assert_eq!(sys!(SYS_getxattr, &path("m/x"), c"trusted.overlay.origin", &mut value, 64), Err(ENODATA));
    let len = sys!(SYS_getxattr, &path("u/y"), c"trusted.overlay.origin", &mut value, 64).unwrap();
    let digits: String = value[..len].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digits, names_of_it);
}

fn names_are_counted() {
    linked();
    mount(",index=on");
    let fd = open(&path("m/d/z"), O_RDONLY).unwrap();
    assert_eq!(nlink("m/x"), 3);
    sys!(SYS_unlink, &path("m/x")).unwrap();
    assert_eq!((nlink("m/y"), fstat(fd).st_nlink), (2, 2));
    fs::hard_link(at("m/y"), at("m/new")).unwrap();
    assert_eq!((nlink("m/new"), nlink("m/d/z")), (3, 3));
    sys!(SYS_unlink, &path("m/d/z")).unwrap();
    sys!(SYS_unlink, &path("m/y")).unwrap();
    assert_eq!((nlink("m/new"), fstat(fd).st_nlink), (1, 1));
    assert_eq!(names("m"), ["a", "b", "d", "new", "only"]);
    assert_eq!(text("m/new"), "linked");
}

fn the_last_name_takes_the_index_along() {
    linked();
    mount(",index=on");
    append("m/x");
    let fd = open(&path("m/x"), O_RDWR).unwrap();
    assert_eq!(index().len(), 1);
    for name in ["m/x", "m/d/z", "m/y"] {
        sys!(SYS_unlink, &path(name)).unwrap();
    }
    assert!(index().is_empty());
    assert_eq!(fstat(fd).st_nlink, 0);
    assert_eq!((pread(fd, 9, 0), pwrite(fd, b"L", 0)), (Ok(b"linked!".to_vec()), Ok(1)));
    assert_eq!(pread(fd, 9, 0), Ok(b"Linked!".to_vec()));
}

fn an_index_outlives_a_mount() {
    linked();
    mount(",index=on");
    append("m/x");
    sys!(SYS_unlink, &path("m/y")).unwrap();
    remount(",index=on");
    assert_eq!((text("m/d/z"), nlink("m/d/z")), ("linked!".into(), 2));
    append("m/d/z");
    assert_eq!((text("m/x"), nlink("m/x"), ino("m/x")), ("linked!!".into(), 2, ino("m/d/z")));
    remount(",index=on");
    assert_eq!((text("m/x"), nlink("m/x"), ino("m/x")), ("linked!!".into(), 2, ino("m/d/z")));
    sys!(SYS_unlink, &path("m/x")).unwrap();
    remount(",index=on");
    assert_eq!((text("m/d/z"), nlink("m/d/z")), ("linked!!".into(), 1));
    sys!(SYS_unlink, &path("m/d/z")).unwrap();
    assert!(index().is_empty());
    remount(",index=on");
    assert_eq!(names("m/d"), ["x", "y"]);
}

fn layers_are_bound_to_each_other() {
    linked();
    mount(",index=on");
    sys!(SYS_umount2, &path("m"), 0).unwrap();
    let other = format!("lowerdir={},upperdir={},workdir={},index=on", at("l2"), at("u"), at("w"));
    assert_eq!(mount_with(&other), Err(Errno::ESTALE), "another lower directory");
    for name in ["u2", "w2"] {
        mkdir(name);
    }
    let other = format!("lowerdir={}:{},upperdir={},workdir={},index=on", at("l1"), at("l2"), at("u2"), at("w"));
    assert_eq!(mount_with(&other), Err(Errno::ESTALE), "another upper directory");
    assert_eq!(mount_with(&usual(",index=on")), Ok(0));
}

fn renames_keep_names_together() {
    linked();
    mount(",index=on");
    sys!(SYS_rename, &path("m/y"), &path("m/moved")).unwrap();
    append("m/moved");
    assert_eq!((text("m/x"), text("m/d/z"), nlink("m/x")), ("linked!".into(), "linked!".into(), 3));
    sys!(SYS_rename, &path("m/a"), &path("m/x")).unwrap();
    assert_eq!((text("m/x"), nlink("m/moved")), ("a of l1".into(), 2));
    sys!(SYS_rename, &path("m/moved"), &path("m/d/z")).unwrap();
    assert_eq!((text("m/moved"), nlink("m/d/z")), ("linked!".into(), 2), "two names of one file");
    remount(",index=on");
    assert_eq!((text("m/moved"), nlink("m/d/z"), ino("m/moved")), ("linked!".into(), 2, ino("m/d/z")));
}

fn without_an_upper_directory_nothing_is_indexed() {
    linked();
    let options = format!("lowerdir={}:{},index=on", at("l1"), at("l2"));
    match mount_with(&options) {
        Err(ENODEV) => skip("no overlay"),
        result => assert_eq!(result, Ok(0)),
    }
    assert!(!slurp("/proc/self/mounts").lines().any(|l| l.contains(&at("m")) && l.contains("index=on")));
    assert_eq!((text("m/x"), nlink("m/x")), ("linked".into(), 3));
}

fn without_an_index_names_part() {
    linked();
    mount(",index=off");
    append("m/x");
    assert_eq!((text("m/x"), text("m/y")), ("linked!".into(), "linked".into()));
    assert!(fs::metadata(at("w/index")).is_err());
}

fn the_option_is_shown() {
    layers();
    mount(",index=on");
    let shows = |word: &str| {
        let mounts = slurp("/proc/self/mounts");
        mounts.lines().find(|l| l.contains(&at("m"))).unwrap().split([',', ' ']).any(|option| option == word)
    };
    assert!(shows("index=on"));
    remount(",xino=on");
    assert!(!shows("index=on") && !shows("xino=on"), "all layers are on one file system");
    sys!(SYS_umount2, &path("m"), 0).unwrap();
    sys!(SYS_mount, c"tmpfs", &path("l1"), c"tmpfs", 0, 0).unwrap();
    assert_eq!(mount_with(&usual(",xino=on")), Ok(0));
    assert!(shows("xino=on"));
}

fn new_names_of_lower_files() {
    linked();
    mount(",index=on");
    fs::hard_link(at("m/d/z"), at("m/new")).unwrap();
    assert_eq!((nlink("m/x"), nlink("m/new"), ino("m/new")), (4, 4, ino("m/y")));
    append("m/y");
    assert_eq!((text("m/new"), text("m/x")), ("linked!".into(), "linked!".into()));
    // A file with one name has no need of the index.
    fs::hard_link(at("m/a"), at("m/a2")).unwrap();
    append("m/a2");
    assert_eq!((text("m/a"), nlink("m/a")), ("a of l1!".into(), 2));
    assert_eq!(index().len(), 1);
}

fn one_index_serves_one_overlay() {
    linked();
    mount(",index=on");
    mkdir("m2");
    let second = |options: &str| {
        let options = cstr(options);
        sys!(SYS_mount, c"overlay", &path("m2"), c"overlay", 0, &options)
    };
    assert_eq!(second(&usual(",index=on")), Err(EBUSY));
    for (upper, work) in [("u", "w2"), ("u2", "w")] {
        for name in ["u2", "w2"] {
            let _ = sys!(SYS_mkdir, &path(name), 0o755);
        }
        let dirs = format!("lowerdir={}:{},upperdir={},workdir={}", at("l1"), at("l2"), at(upper), at(work));
        assert_eq!(second(&format!("{dirs},index=on")), Err(EBUSY), "{upper} {work}");
    }
    sys!(SYS_umount2, &path("m"), 0).unwrap();
    assert_eq!(second(&usual(",index=on")), Ok(0));
    sys!(SYS_umount2, &path("m2"), 0).unwrap();
}

fn names_in_forgotten_folders() {
    linked();
    mount(",index=on");
    let fd = open(&path("m/x"), O_RDONLY).unwrap();
    assert_eq!(ino("m/d/z"), fstat(fd).st_ino);
    // The folder that it was found in last is in no cache any more.
    write_file("/proc/sys/vm/drop_caches", "2").unwrap();
    sys!(SYS_fchmod, fd, 0o640).unwrap();
    assert_eq!(fstat(fd).st_mode & 0o777, 0o640);
    for name in ["m/x", "m/y", "m/d/z"] {
        let found = fs::metadata(at(name)).unwrap();
        assert_eq!((found.mode() & 0o777, found.nlink(), found.ino()), (0o640, 3, fstat(fd).st_ino));
    }
    append("m/d/z");
    assert_eq!((text("m/x"), nlink("m/y")), ("linked!".into(), 3));
    close(fd);
}
