//! Folders and names: mkdir, rmdir, link, symlink, rename, getdents64, chdir.

use std::ffi::CString;

use crate::prelude::*;

tests!(
    "fsdir":
    mkdir_and_rmdir, umask_applies, unlink_rules, link_counts, symlinks, symlink_loops_and_depth,
    dots_and_slashes, rename_replaces, rename_errors, rename_folder_onto_empty_folder,
    rename_noreplace_and_exchange, getdents64_lists_all_once, getdents64_while_names_change, removed_folder,
    chdir_and_getcwd, chroot_hides_the_rest, nlink_counts_sub_folders, deep_tree,
    at_calls_are_relative_to_the_descriptor, many_removed_folders_end_at_once,
);

/// A folder in a folder in a folder ... at `name`, all removed while the innermost is open.
fn remove_deep(name: &str) {
    const DEPTH: usize = 10_000;
    let open_at = |dir: i32, name| sys!(SYS_openat, dir, name, O_RDONLY | O_DIRECTORY, 0).unwrap() as i32;
    sys!(SYS_chdir, &mkdir(name)).unwrap();
    for _ in 0..DEPTH {
        sys!(SYS_mkdir, c"d", 0o755).unwrap();
        sys!(SYS_chdir, c"d").unwrap();
    }
    let innermost = open_at(AT_FDCWD, c".");
    let mut above = open_at(AT_FDCWD, c"..");
    sys!(SYS_chdir, c"/").unwrap();
    for _ in 0..DEPTH {
        sys!(SYS_unlinkat, above, c"d", AT_REMOVEDIR).unwrap();
        let next = open_at(above, c"..");
        close(above);
        above = next;
    }
    close(above);
    close(innermost);
}

fn many_removed_folders_end_at_once() {
    allow_seconds(120);
    remove_deep("deep");
    // What was let go of ends a moment later.
    nap(200);
}

fn mkdir_and_rmdir() {
    let d = mkdir("d");
    let st = stat_path(&d).unwrap();
    assert_eq!(st.st_mode, S_IFDIR | 0o755);
    assert_eq!(sys!(SYS_mkdir, &d, 0o755), Err(EEXIST));
    assert_eq!(sys!(SYS_mkdir, &path("none/x"), 0o755), Err(ENOENT));
    assert_eq!(sys!(SYS_mkdir, &path("slash/"), 0o755), Ok(0));
    let f = file("d/f", b"");
    assert_eq!(sys!(SYS_mkdir, &path("d/f/x"), 0o755), Err(ENOTDIR));
    assert_eq!(sys!(SYS_rmdir, &d), Err(ENOTEMPTY));
    assert_eq!(sys!(SYS_rmdir, &f), Err(ENOTDIR));
    assert_eq!(sys!(SYS_rmdir, &path("none")), Err(ENOENT));
    assert_eq!(sys!(SYS_rmdir, &path("d/.")), Err(EINVAL));
    assert_eq!(sys!(SYS_rmdir, &path("d/..")), Err(ENOTEMPTY));
    sys!(SYS_unlink, &f).unwrap();
    assert_eq!(sys!(SYS_rmdir, &d), Ok(0));
    assert_eq!(sys!(SYS_mkdir, c"/", 0o755), Err(EEXIST));
    assert_eq!(sys!(SYS_rmdir, c"/"), Err(EBUSY));
}

fn umask_applies() {
    sys!(SYS_umask, 0o027).unwrap();
    let d = path("d");
    sys!(SYS_mkdir, &d, 0o777).unwrap();
    assert_eq!(stat_path(&d).unwrap().st_mode & 0o7777, 0o750);
    let f = path("f");
    sys!(SYS_open, &f, O_CREAT | O_WRONLY, 0o666).unwrap();
    assert_eq!(stat_path(&f).unwrap().st_mode & 0o7777, 0o640);
}

fn unlink_rules() {
    let d = mkdir("d");
    assert_eq!(sys!(SYS_unlink, &d), Err(EISDIR));
    assert_eq!(sys!(SYS_unlink, &path("none")), Err(ENOENT));
    file("f", b"");
    assert_eq!(sys!(SYS_unlink, &path("f/")), Err(ENOTDIR));
    assert_eq!(sys!(SYS_unlinkat, AT_FDCWD, &d, AT_REMOVEDIR), Ok(0));
    assert_eq!(sys!(SYS_unlinkat, AT_FDCWD, &path("f"), 0x40), Err(EINVAL));
    assert_eq!(sys!(SYS_unlinkat, AT_FDCWD, &path("f"), AT_REMOVEDIR), Err(ENOTDIR));
}

fn link_counts() {
    let a = file("a", b"same");
    let b = path("b");
    sys!(SYS_link, &a, &b).unwrap();
    let (sa, sb) = (stat_path(&a).unwrap(), stat_path(&b).unwrap());
    assert_eq!((sa.st_ino, sa.st_nlink), (sb.st_ino, 2));
    assert_eq!(sys!(SYS_link, &a, &b), Err(EEXIST));
    assert_eq!(sys!(SYS_link, &path("none"), &path("x")), Err(ENOENT));
    assert_eq!(sys!(SYS_link, &mkdir("d"), &path("x")), Err(EPERM));
    sys!(SYS_unlink, &a).unwrap();
    assert_eq!(stat_path(&b).unwrap().st_nlink, 1);
    let l = path("l");
    sys!(SYS_symlink, c"b", &l).unwrap();
    sys!(SYS_link, &l, &path("l2")).unwrap();
    assert_eq!(lstat_path(&l).unwrap().st_nlink, 2, "link(2) does not follow");
    sys!(SYS_linkat, AT_FDCWD, &l, AT_FDCWD, &path("l3"), AT_SYMLINK_FOLLOW).unwrap();
    assert_eq!(stat_path(&b).unwrap().st_nlink, 2);
}

fn symlinks() {
    let l = path("l");
    sys!(SYS_symlink, c"target", &l).unwrap();
    let mut buf = [b'-'; 20];
    assert_eq!(sys!(SYS_readlink, &l, &mut buf, 20), Ok(6));
    assert_eq!(&buf[..8], b"target--");
    assert_eq!(sys!(SYS_readlink, &l, &mut buf, 3), Ok(3));
    assert_eq!(sys!(SYS_readlink, &l, &mut buf, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_readlink, &cstr(dir()), &mut buf, 20), Err(EINVAL));
    assert_eq!(sys!(SYS_readlink, &path("none"), &mut buf, 20), Err(ENOENT));
    assert_eq!(sys!(SYS_symlink, c"", &path("e")), Err(ENOENT));
    assert_eq!(sys!(SYS_symlink, c"x", &l), Err(EEXIST));
    let st = lstat_path(&l).unwrap();
    assert_eq!((st.st_mode, st.st_size), (S_IFLNK | 0o777, 6));
    assert_eq!(stat_path(&l).err(), Some(ENOENT), "dangling");
    assert_eq!(open(&l, O_NOFOLLOW | O_RDONLY), Err(ELOOP));
    assert_eq!(open(&l, O_CREAT | O_EXCL | O_RDWR), Err(EEXIST));
    close(open(&l, O_CREAT | O_RDWR).unwrap());
    assert!(stat_path(&path("target")).is_ok(), "created through the link");
    let fd = open(&l, O_PATH | O_NOFOLLOW).unwrap();
    assert_eq!(sys!(SYS_readlinkat, fd, c"", &mut buf, 20), Ok(6));
}

fn symlink_loops_and_depth() {
    let (a, b) = (path("a"), path("b"));
    sys!(SYS_symlink, c"b", &a).unwrap();
    sys!(SYS_symlink, c"a", &b).unwrap();
    assert_eq!(open(&a, O_RDONLY), Err(ELOOP));
    assert_eq!(stat_path(&path("a/x")).err(), Some(ELOOP));
    file("l0", b"");
    for i in 1..=41 {
        sys!(SYS_symlink, &cstr(format!("l{}", i - 1)), &path(&format!("l{i}"))).unwrap();
    }
    assert!(stat_path(&path("l40")).is_ok());
    assert_eq!(stat_path(&path("l41")).err(), Some(ELOOP));
}

fn dots_and_slashes() {
    mkdir("d");
    mkdir("d/e");
    let f = file("d/f", b"");
    let ino = stat_path(&f).unwrap().st_ino;
    for p in ["d/./f", "d//f", "d/e/../f", "./d/f", "d/e/../../d/f"] {
        assert_eq!(stat_path(&path(p)).unwrap().st_ino, ino, "{p}");
    }
    assert_eq!(stat_path(&path("d/none/../f")).err(), Some(ENOENT));
    assert_eq!(stat_path(&path("d/f/..")).err(), Some(ENOTDIR));
    assert_eq!(stat_path(&path("d/f/.")).err(), Some(ENOTDIR));
    assert!(stat_path(&cstr("/../../..")).is_ok());
}

fn rename_replaces() {
    let a = file("a", b"A");
    let b = file("b", b"B");
    let old = open(&b, O_RDONLY).unwrap();
    sys!(SYS_rename, &a, &b).unwrap();
    assert_eq!(stat_path(&a).err(), Some(ENOENT));
    assert_eq!(std::fs::read(b.to_str().unwrap()).unwrap(), b"A");
    assert_eq!(read_vec(old, 2).unwrap(), b"B");
    assert_eq!(sys!(SYS_rename, &b, &b), Ok(0));
    let c = path("c");
    sys!(SYS_link, &b, &c).unwrap();
    assert_eq!(sys!(SYS_rename, &b, &c), Ok(0), "two names of one file: nothing happens");
    assert!(stat_path(&b).is_ok());
}

fn rename_errors() {
    let f = file("f", b"");
    let d = mkdir("d");
    mkdir("d/sub");
    let full = mkdir("full");
    file("full/x", b"");
    assert_eq!(sys!(SYS_rename, &path("none"), &f), Err(ENOENT));
    assert_eq!(sys!(SYS_rename, &f, &path("none/x")), Err(ENOENT));
    assert_eq!(sys!(SYS_rename, &f, &d), Err(EISDIR));
    assert_eq!(sys!(SYS_rename, &d, &f), Err(ENOTDIR));
    assert_eq!(sys!(SYS_rename, &d, &full), Err(ENOTEMPTY));
    assert_eq!(sys!(SYS_rename, &d, &path("d/sub/x")), Err(EINVAL));
    assert_eq!(sys!(SYS_rename, &path("d/sub"), &d), Err(ENOTEMPTY));
    assert_eq!(sys!(SYS_rename, &path("d/."), &path("x")), Err(EBUSY));
    assert_eq!(sys!(SYS_rename, &path("d/.."), &path("x")), Err(EBUSY));
    assert_eq!(sys!(SYS_rename, &f, &path("x/")), Err(ENOTDIR));
    assert_eq!(sys!(SYS_rename, &f, c"/proc/x"), Err(EXDEV));
    assert_eq!(sys!(SYS_rename, &d, &path("moved/")), Ok(0));
}

fn rename_folder_onto_empty_folder() {
    mkdir("a");
    file("a/x", b"");
    mkdir("b");
    assert_eq!(sys!(SYS_rename, &path("a"), &path("b")), Ok(0));
    assert!(stat_path(&path("b/x")).is_ok());
}

fn rename_noreplace_and_exchange() {
    let (a, b) = (file("a", b"A"), file("b", b"B"));
    let r2 = |x: &CString, y: &CString, flags: u32| sys!(SYS_renameat2, AT_FDCWD, x, AT_FDCWD, y, flags);
    assert_eq!(r2(&a, &b, RENAME_NOREPLACE), Err(EEXIST));
    assert_eq!(r2(&a, &path("c"), RENAME_NOREPLACE), Ok(0));
    assert_eq!(r2(&path("c"), &b, RENAME_EXCHANGE), Ok(0));
    assert_eq!(std::fs::read(b.to_str().unwrap()).unwrap(), b"A");
    assert_eq!(r2(&b, &path("none"), RENAME_EXCHANGE), Err(ENOENT));
    assert_eq!(r2(&b, &path("c"), RENAME_EXCHANGE | RENAME_NOREPLACE), Err(EINVAL));
    assert_eq!(r2(&b, &path("c"), 64), Err(EINVAL));
    let d = mkdir("d");
    assert_eq!(r2(&b, &d, RENAME_EXCHANGE), Ok(0));
    assert_eq!(stat_path(&b).unwrap().st_mode & S_IFMT, S_IFDIR);
}

/// Names and types in a folder, as getdents64 gives them with a buffer of `size` bytes.
fn entries(fd: i32, size: usize) -> Vec<(String, u8)> {
    let mut all = vec![];
    loop {
        let mut buf = vec![0u8; size];
        let n = sys!(SYS_getdents64, fd, &mut buf[..], size).unwrap();
        if n == 0 {
            return all;
        }
        let mut at = 0;
        while at < n {
            let len = u16::from_ne_bytes([buf[at + 16], buf[at + 17]]) as usize;
            let name: Vec<u8> = buf[at + 19..at + len].iter().copied().take_while(|b| *b != 0).collect();
            assert_eq!(len % 8, 0);
            all.push((String::from_utf8(name).unwrap(), buf[at + 18]));
            at += len;
        }
    }
}

fn getdents64_lists_all_once() {
    mkdir("d");
    for i in 0..300 {
        file(&format!("d/file-{i}"), b"");
    }
    mkdir("d/sub");
    sys!(SYS_symlink, c"x", &path("d/link")).unwrap();
    let fd = open(&path("d"), O_RDONLY | O_DIRECTORY).unwrap();
    for size in [100, 1000, 65536] {
        seek(fd, 0, SEEK_SET).unwrap();
        let mut all = entries(fd, size);
        all.sort();
        assert_eq!(all.len(), 304);
        assert_eq!((all[0].0.as_str(), all[1].0.as_str(), all[0].1), (".", "..", DT_DIR));
        assert!(all.contains(&("sub".into(), DT_DIR)) && all.contains(&("link".into(), DT_LNK)));
        assert!(all.contains(&("file-77".into(), DT_REG)));
        all.dedup();
        assert_eq!(all.len(), 304);
    }
    let mut small = [0u8; 20];
    seek(fd, 0, SEEK_SET).unwrap();
    assert_eq!(sys!(SYS_getdents64, fd, &mut small, 20), Err(EINVAL));
    assert_eq!(sys!(SYS_getdents64, fd, BAD, 1000), Err(EFAULT));
    assert_eq!(
        sys!(SYS_getdents64, open(&path("d/file-1"), O_RDONLY).unwrap(), &mut small, 20),
        Err(ENOTDIR)
    );
}

fn getdents64_while_names_change() {
    mkdir("d");
    for i in 0..100 {
        file(&format!("d/stay-{i}"), b"");
        file(&format!("d/go-{i}"), b"");
    }
    let fd = open(&path("d"), O_RDONLY).unwrap();
    let mut buf = [0u8; 512];
    sys!(SYS_getdents64, fd, &mut buf, 512).unwrap();
    for i in 0..100 {
        sys!(SYS_unlink, &path(&format!("d/go-{i}"))).unwrap();
    }
    entries(fd, 512);
    seek(fd, 0, SEEK_SET).unwrap();
    assert_eq!(entries(fd, 4096).iter().filter(|e| e.0.starts_with("stay")).count(), 100);
}

fn removed_folder() {
    let d = mkdir("d");
    let fd = open(&d, O_RDONLY).unwrap();
    sys!(SYS_chdir, &d).unwrap();
    sys!(SYS_rmdir, &d).unwrap();
    let mut buf = [0u8; 300];
    assert_eq!(sys!(SYS_getcwd, &mut buf, 300), Err(ENOENT));
    assert_eq!(sys!(SYS_open, c"x", O_CREAT | O_RDWR, 0o600), Err(ENOENT));
    assert_eq!(sys!(SYS_getdents64, fd, &mut buf, 300), Err(ENOENT));
    assert!(sys!(SYS_chdir, c"..").is_ok());
}

fn chdir_and_getcwd() {
    let d = mkdir("d");
    let f = file("f", b"");
    let mut buf = [0u8; 300];
    assert_eq!(sys!(SYS_chdir, &f), Err(ENOTDIR));
    assert_eq!(sys!(SYS_chdir, &path("none")), Err(ENOENT));
    let fd = open(&d, O_PATH).unwrap();
    sys!(SYS_fchdir, fd).unwrap();
    let n = sys!(SYS_getcwd, &mut buf, 300).unwrap();
    assert_eq!(&buf[..n], d.as_bytes_with_nul());
    assert_eq!(sys!(SYS_getcwd, &mut buf, n - 1), Err(ERANGE));
    assert_eq!(sys!(SYS_getcwd, &mut buf, n), Ok(n));
    assert_eq!(sys!(SYS_fchdir, open(&f, O_RDONLY).unwrap()), Err(ENOTDIR));
    assert_eq!(sys!(SYS_fchdir, 999), Err(EBADF));
    sys!(SYS_rename, &d, &path("renamed")).unwrap();
    let n = sys!(SYS_getcwd, &mut buf, 300).unwrap();
    assert!(buf[..n].ends_with(b"renamed\0"));
}

fn chroot_hides_the_rest() {
    let d = mkdir("root");
    file("root/inside", b"in");
    aside(|| {
        sys!(SYS_chroot, &d).unwrap();
        sys!(SYS_chdir, c"/").unwrap();
        assert!(stat_path(&cstr("/inside")).is_ok());
        assert!(stat_path(&cstr("/../../inside")).is_ok());
        assert_eq!(stat_path(&cstr("/proc")).err(), Some(ENOENT));
        drop_root();
        assert_eq!(sys!(SYS_chroot, c"/"), Err(EPERM));
    });
}

fn nlink_counts_sub_folders() {
    let d = mkdir("d");
    let start = stat_path(&d).unwrap().st_nlink;
    mkdir("d/a");
    mkdir("d/b");
    assert_eq!(stat_path(&d).unwrap().st_nlink, start + 2);
    sys!(SYS_rename, &path("d/a"), &path("a")).unwrap();
    sys!(SYS_rmdir, &path("d/b")).unwrap();
    assert_eq!(stat_path(&d).unwrap().st_nlink, start);
}

fn deep_tree() {
    sys!(SYS_chdir, &cstr(dir())).unwrap();
    for _ in 0..200 {
        sys!(SYS_mkdir, c"folder-with-a-name", 0o755).unwrap();
        sys!(SYS_chdir, c"folder-with-a-name").unwrap();
    }
    let mut buf = vec![0u8; 4096];
    assert!(sys!(SYS_getcwd, &mut buf[..], 4096).unwrap() > 200 * 19);
    for _ in 0..200 {
        sys!(SYS_chdir, c"..").unwrap();
        sys!(SYS_rmdir, c"folder-with-a-name").unwrap();
    }
}

fn at_calls_are_relative_to_the_descriptor() {
    let d = open(&mkdir("d"), O_PATH).unwrap();
    sys!(SYS_mkdirat, d, c"sub", 0o755).unwrap();
    let fd = sys!(SYS_openat, d, c"sub/f", O_CREAT | O_RDWR, 0o644).unwrap();
    sys!(SYS_symlinkat, c"sub/f", d, c"l").unwrap();
    let mut st: stat = zero();
    sys!(SYS_newfstatat, d, c"l", &mut st, 0).unwrap();
    assert_eq!(st.st_ino, fstat(fd as i32).st_ino);
    sys!(SYS_newfstatat, d, c"l", &mut st, AT_SYMLINK_NOFOLLOW).unwrap();
    assert_eq!(st.st_mode & S_IFMT, S_IFLNK);
    sys!(SYS_newfstatat, fd, c"", &mut st, AT_EMPTY_PATH).unwrap();
    assert_eq!(sys!(SYS_newfstatat, fd, c"", &mut st, 0), Err(ENOENT));
    assert_eq!(sys!(SYS_newfstatat, fd, c"", &mut st, 0x8), Err(EINVAL));
    assert_eq!(sys!(SYS_faccessat2, d, c"sub", W_OK, AT_EACCESS), Ok(0));
    assert_eq!(sys!(SYS_renameat, d, c"sub/f", d, c"g"), Ok(0));
    assert_eq!(sys!(SYS_unlinkat, d, c"g", 0), Ok(0));
}
