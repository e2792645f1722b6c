//! open(2), close, dup, read, write, lseek, truncate, and the rules of paths.

use crate::prelude::*;

tests!(
    "fs":
    open_errors, name_of_255_bytes_works, lowest_descriptor_is_taken, close_and_reuse, dup_family,
    descriptor_limit, close_range, read_and_write_move_the_offset, access_mode_is_checked, lseek_rules,
    holes_read_as_zero, append, append_from_many_processes, truncate_both_ways, file_size_limit, vectors,
    efault_after_a_part, getfl_and_setfl, devices, mknod_devices_and_missing_driver, openat2_resolution,
    o_tmpfile, unlinked_file_lives_while_open, permissions_for_users, sticky_folder,
);

fn open_errors() {
    let f = file("f", b"");
    let d = mkdir("d");
    assert_eq!(open(&path("none"), O_RDONLY), Err(ENOENT));
    assert_eq!(open(&cstr(""), O_RDONLY), Err(ENOENT));
    assert_eq!(open(&path("none/x"), O_CREAT | O_RDWR), Err(ENOENT));
    assert_eq!(open(&path("f/x"), O_RDONLY), Err(ENOTDIR));
    assert_eq!(open(&path("f/"), O_RDONLY), Err(ENOTDIR));
    assert_eq!(open(&path("new/"), O_CREAT | O_RDWR), Err(EISDIR));
    assert_eq!(open(&d, O_WRONLY), Err(EISDIR));
    assert_eq!(open(&d, O_RDWR), Err(EISDIR));
    assert_eq!(open(&d, O_CREAT | O_RDONLY), Err(EISDIR));
    assert_eq!(open(&f, O_DIRECTORY), Err(ENOTDIR));
    assert_eq!(open(&f, O_CREAT | O_EXCL | O_RDWR), Err(EEXIST));
    assert_eq!(open(&d, O_CREAT | O_EXCL), Err(EEXIST));
    assert_eq!(open(&path(&"n".repeat(256)), O_CREAT), Err(ENAMETOOLONG));
    assert_eq!(open(&cstr("/".repeat(4096)), O_RDONLY), Err(ENAMETOOLONG));
    assert_eq!(sys!(SYS_open, 0, O_RDONLY), Err(EFAULT));
    assert_eq!(sys!(SYS_openat, 999, c"x", O_RDONLY), Err(EBADF));
    assert_eq!(sys!(SYS_openat, open(&f, O_RDONLY).unwrap(), c"x", O_RDONLY), Err(ENOTDIR));
}

fn name_of_255_bytes_works() {
    let p = path(&"n".repeat(255));
    close(open(&p, O_CREAT | O_WRONLY).unwrap());
    assert_eq!(stat_path(&p).unwrap().st_size, 0);
    let long = cstr(format!("{}f", "/".repeat(4000)));
    assert_eq!(open(&long, O_RDONLY), Err(ENOENT), "4,001 bytes are a legal path");
}

fn lowest_descriptor_is_taken() {
    let a = new_file("a");
    let b = new_file("b");
    close(a);
    assert_eq!(new_file("c"), a);
    assert_eq!(sys!(SYS_dup, b), Ok(b as usize + 1));
}

fn close_and_reuse() {
    assert_eq!(sys!(SYS_close, 999), Err(EBADF));
    assert_eq!(sys!(SYS_close, -1), Err(EBADF));
    let a = new_file("a");
    close(a);
    assert_eq!(sys!(SYS_close, a), Err(EBADF));
    assert_eq!(read_vec(a, 1), Err(EBADF));
}

fn dup_family() {
    let a = new_file("a");
    assert_eq!(sys!(SYS_dup2, a, 100), Ok(100));
    write(100, b"abc").unwrap();
    assert_eq!(seek(a, 0, SEEK_CUR), Ok(3), "one open file, one offset");
    assert_eq!(sys!(SYS_dup2, a, a), Ok(a as usize));
    assert_eq!(sys!(SYS_dup2, 999, 999), Err(EBADF));
    assert_eq!(sys!(SYS_dup2, a, -1), Err(EBADF));
    assert_eq!(sys!(SYS_dup3, a, a, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_dup3, a, 101, O_APPEND), Err(EINVAL));
    assert_eq!(sys!(SYS_dup3, a, 101, O_CLOEXEC), Ok(101));
    assert_eq!(sys!(SYS_fcntl, 101, F_GETFD), Ok(1));
    assert_eq!(sys!(SYS_fcntl, a, F_DUPFD, 100), Ok(102));
    assert_eq!(sys!(SYS_fcntl, a, F_DUPFD_CLOEXEC, 0).map(|fd| fd > a as usize), Ok(true));
    assert_eq!(sys!(SYS_fcntl, a, F_DUPFD, -1), Err(EINVAL));
    assert_eq!(sys!(SYS_fcntl, a, 9999), Err(EINVAL));
}

fn descriptor_limit() {
    aside(|| {
        let r = rlimit { rlim_cur: 20, rlim_max: 20 };
        sys!(SYS_setrlimit, RLIMIT_NOFILE, &r).unwrap();
        let a = new_file("a");
        assert_eq!(sys!(SYS_dup2, a, 20), Err(EBADF));
        assert_eq!(sys!(SYS_fcntl, a, F_DUPFD, 20), Err(EINVAL));
        let mut last = Ok(0);
        while last.is_ok() {
            last = sys!(SYS_dup, a);
        }
        assert_eq!(last, Err(EMFILE));
        assert_eq!(open(&path("a"), O_RDONLY), Err(EMFILE));
        let mut fds = [0i32; 2];
        assert_eq!(sys!(SYS_pipe2, &mut fds, 0), Err(EMFILE));
    });
}

fn close_range() {
    let a = new_file("a");
    for fd in 50..60 {
        sys!(SYS_dup2, a, fd).unwrap();
    }
    assert_eq!(sys!(SYS_close_range, 52, 54, 0), Ok(0));
    let is_open = |fd: i32| sys!(SYS_fcntl, fd, F_GETFD).ok();
    assert_eq!([51, 52, 54, 55].map(is_open), [Some(0), None, None, Some(0)]);
    assert_eq!(sys!(SYS_close_range, 55, u32::MAX, CLOSE_RANGE_CLOEXEC as i32), Ok(0));
    assert_eq!(is_open(55), Some(1));
    assert_eq!(sys!(SYS_close_range, 10, 9, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_close_range, 10, 19, 64), Err(EINVAL));
}

fn read_and_write_move_the_offset() {
    let fd = new_file("f");
    assert_eq!(write(fd, b"hello world"), Ok(11));
    assert_eq!(seek(fd, 6, SEEK_SET), Ok(6));
    assert_eq!(read_vec(fd, 100).unwrap(), b"world");
    assert_eq!(read_vec(fd, 100).unwrap(), b"");
    assert_eq!(pwrite(fd, b"W", 6), Ok(1));
    assert_eq!(pread(fd, 5, 6).unwrap(), b"World");
    assert_eq!(seek(fd, 0, SEEK_CUR), Ok(11));
    assert_eq!(pread(fd, 1, -1), Err(EINVAL));
    assert_eq!(pwrite(fd, b"x", -1), Err(EINVAL));
}

fn access_mode_is_checked() {
    let p = file("f", b"data");
    let r = open(&p, O_RDONLY).unwrap();
    let w = open(&p, O_WRONLY).unwrap();
    assert_eq!(write(r, b"x"), Err(EBADF));
    assert_eq!(read_vec(w, 1), Err(EBADF));
    assert_eq!(sys!(SYS_ftruncate, r, 0), Err(EINVAL));
    let d = open(&cstr(dir()), O_RDONLY).unwrap();
    assert_eq!(read_vec(d, 1), Err(EISDIR));
    assert_eq!(write(d, b"x"), Err(EBADF));
    let o = open(&p, O_PATH).unwrap();
    assert_eq!(read_vec(o, 1), Err(EBADF));
    assert_eq!(sys!(SYS_fchmod, o, 0o600), Err(EBADF));
    assert_eq!(fstat(o).st_size, 4);
}

fn lseek_rules() {
    let fd = new_file("f");
    write(fd, b"0123456789").unwrap();
    assert_eq!(seek(fd, -3, SEEK_END), Ok(7));
    assert_eq!(seek(fd, 1, SEEK_CUR), Ok(8));
    assert_eq!(seek(fd, -1, SEEK_SET), Err(EINVAL));
    assert_eq!(seek(fd, -100, SEEK_CUR), Err(EINVAL));
    assert_eq!(seek(fd, 0, 9), Err(EINVAL));
    assert_eq!(seek(fd, 100, SEEK_SET), Ok(100));
    assert_eq!(read_vec(fd, 5).unwrap(), b"");
    assert_eq!(seek(999, 0, SEEK_SET), Err(EBADF));
}

fn holes_read_as_zero() {
    let fd = new_file("f");
    pwrite(fd, b"end", 100_000).unwrap();
    assert_eq!(fstat(fd).st_size, 100_003);
    assert!(pread(fd, 100_000, 0).unwrap().iter().all(|b| *b == 0));
    assert!(fstat(fd).st_blocks < 100);
    assert_eq!(seek(fd, 0, SEEK_DATA), Ok(100_000 & !0xfff));
    assert_eq!(seek(fd, 0, SEEK_HOLE), Ok(0));
    assert_eq!(seek(fd, 100_000, SEEK_HOLE), Ok(100_003));
    assert_eq!(seek(fd, 100_003, SEEK_DATA), Err(ENXIO));
}

fn append() {
    let p = file("f", b"abc");
    let fd = open(&p, O_RDWR | O_APPEND).unwrap();
    seek(fd, 0, SEEK_SET).unwrap();
    write(fd, b"d").unwrap();
    assert_eq!(seek(fd, 0, SEEK_CUR), Ok(4));
    pwrite(fd, b"e", 0).unwrap();
    assert_eq!(pread(fd, 10, 0).unwrap(), b"abcde", "pwrite appends too: Linux's old habit");
}

fn append_from_many_processes() {
    let p = file("f", b"");
    let kids: Vec<_> = (0..4u8)
        .map(|k| {
            let p = p.clone();
            child(move || {
                let fd = open(&p, O_WRONLY | O_APPEND).unwrap();
                for _ in 0..100 {
                    write(fd, &[b'a' + k; 10]).unwrap();
                }
            })
        })
        .collect();
    kids.into_iter().for_each(Child::ok);
    let data = std::fs::read(p.to_str().unwrap()).unwrap();
    assert_eq!(data.len(), 4000);
    assert!(data.chunks(10).all(|c| c.iter().all(|b| *b == c[0])));
}

fn truncate_both_ways() {
    let p = file("f", b"0123456789");
    sys!(SYS_truncate, &p, 4).unwrap();
    assert_eq!(std::fs::read(p.to_str().unwrap()).unwrap(), b"0123");
    let fd = open(&p, O_RDWR).unwrap();
    sys!(SYS_ftruncate, fd, 8).unwrap();
    assert_eq!(read_vec(fd, 100).unwrap(), b"0123\0\0\0\0");
    assert_eq!(sys!(SYS_truncate, &p, -1), Err(EINVAL));
    assert_eq!(sys!(SYS_ftruncate, fd, -1), Err(EINVAL));
    assert_eq!(sys!(SYS_truncate, &cstr(dir()), 0), Err(EISDIR));
    assert_eq!(sys!(SYS_truncate, &path("none"), 0), Err(ENOENT));
    open(&p, O_TRUNC | O_WRONLY).unwrap();
    assert_eq!(fstat(fd).st_size, 0);
}

fn file_size_limit() {
    aside(|| {
        let r = rlimit { rlim_cur: 1000, rlim_max: 1000 };
        sys!(SYS_setrlimit, RLIMIT_FSIZE, &r).unwrap();
        let fd = new_file("f");
        on_signal(SIGXFSZ, 0, count);
        assert_eq!(write(fd, &[0; 1500]), Ok(1000));
        assert_eq!((write(fd, b"x"), seen()), (Err(EFBIG), 1));
        assert_eq!((sys!(SYS_ftruncate, fd, 1001), seen()), (Err(EFBIG), 2));
        assert_eq!(fstat(fd).st_size, 1000);
    });
}

fn vectors() {
    let fd = new_file("f");
    let (a, b, mut c) = (*b"one", *b"three", [0u8; 8]);
    let iov = [a.as_ptr() as usize, 3, b.as_ptr() as usize, 5];
    assert_eq!(sys!(SYS_writev, fd, &iov, 2), Ok(8));
    let into = [c.as_mut_ptr() as usize, 2, c.as_mut_ptr() as usize + 2, 6];
    assert_eq!(sys!(SYS_preadv, fd, &into, 2, 0, 0), Ok(8));
    assert_eq!(&c, b"onethree");
    assert_eq!(sys!(SYS_pwritev, fd, &iov, 1, 5, 0), Ok(3));
    assert_eq!(pread(fd, 8, 0).unwrap(), b"onethone");
    assert_eq!(sys!(SYS_writev, fd, &iov, -1), Err(EINVAL));
    assert_eq!(sys!(SYS_writev, fd, &iov, 1025), Err(EINVAL));
    assert_eq!(sys!(SYS_writev, fd, &iov, 0), Ok(0));
    assert_eq!(sys!(SYS_writev, fd, 8, 1), Err(EFAULT));
    assert_eq!(sys!(SYS_writev, fd, &[a.as_ptr() as usize, usize::MAX], 1), Err(EINVAL));
    assert_eq!(sys!(SYS_preadv2, fd, &into, 2, 0, 0, 0x8000), Err(EOPNOTSUPP));
}

fn efault_after_a_part() {
    let fd = new_file("f");
    let page = anon(2 * PAGE);
    sys!(SYS_munmap, page + PAGE, PAGE).unwrap();
    assert_eq!(sys!(SYS_write, fd, page + PAGE, 10), Err(EFAULT));
    assert_eq!(fstat(fd).st_size, 0);
    write(fd, &[7; 100]).unwrap();
    assert_eq!(sys!(SYS_pread64, fd, page + PAGE, 10, 0), Err(EFAULT));
    let n = sys!(SYS_pread64, fd, page + PAGE - 10, 100, 0);
    assert_eq!(n, Ok(10), "what fitted was read");
}

fn getfl_and_setfl() {
    let p = file("f", b"");
    let fd = open(&p, O_RDWR | O_APPEND | O_NONBLOCK | O_TRUNC).unwrap();
    let large = 0o100000;
    assert_eq!(sys!(SYS_fcntl, fd, F_GETFL), Ok((O_RDWR | O_APPEND | O_NONBLOCK | large) as usize));
    sys!(SYS_fcntl, fd, F_SETFL, O_WRONLY | O_CREAT).unwrap();
    assert_eq!(sys!(SYS_fcntl, fd, F_GETFL), Ok((O_RDWR | large) as usize), "mode and creation flags stay");
    assert_eq!(sys!(SYS_fcntl, fd, F_SETFL, O_PATH), Ok(0));
}

fn devices() {
    let null = open(&cstr("/dev/null"), O_RDWR).unwrap();
    assert_eq!((write(null, b"gone"), read_vec(null, 5).unwrap()), (Ok(4), vec![]));
    assert_eq!(sys!(SYS_write, null, 8, 10), Ok(10), "nothing is read from the writer");
    assert_eq!(sys!(SYS_write, null, BAD, 10), Err(EFAULT), "but it must be user space");
    let zero_dev = open(&cstr("/dev/zero"), O_RDWR).unwrap();
    assert_eq!((read_vec(zero_dev, 5).unwrap(), write(zero_dev, b"abc")), (vec![0; 5], Ok(3)));
    assert_eq!(sys!(SYS_read, zero_dev, BAD, 10), Err(EFAULT));
    let full = open(&cstr("/dev/full"), O_RDWR).unwrap();
    assert_eq!((read_vec(full, 3).unwrap(), write(full, b"x")), (vec![0; 3], Err(ENOSPC)));
    let st = fstat(null);
    assert_eq!((st.st_mode & S_IFMT, st.st_rdev), (S_IFCHR, 0x103));
    assert_eq!(seek(null, 100, SEEK_SET), Ok(0));
    let (a, b) = (read_urandom(), read_urandom());
    assert_ne!(a, b);
}

fn read_urandom() -> Vec<u8> {
    read_vec(open(&cstr("/dev/urandom"), O_RDONLY).unwrap(), 64).unwrap()
}

fn mknod_devices_and_missing_driver() {
    let p = path("null");
    sys!(SYS_mknod, &p, S_IFCHR | 0o666, 0x103).unwrap();
    match open(&p, O_WRONLY) {
        Ok(fd) => assert_eq!(write(fd, b"x"), Ok(1)),
        Err(e) => assert_eq!(e, EACCES, "a file system mounted nodev"),
    }
    let p = path("nothing");
    sys!(SYS_mknod, &p, S_IFCHR | 0o666, 0xc801).unwrap();
    assert!(matches!(open(&p, O_RDWR), Err(Errno::ENXIO | Errno::EACCES)));
    assert_eq!(sys!(SYS_mknod, &path("d"), S_IFDIR | 0o755, 0), Err(EPERM));
    assert_eq!(sys!(SYS_mknod, &path("e"), 0o170000, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_mknod, &p, S_IFREG, 0), Err(EEXIST));
}

fn openat2_resolution() {
    let how = |flags: i32, mode: u64, resolve: u64| [flags as u64, mode, resolve];
    let d = mkdir("d");
    file("d/f", b"x");
    sys!(SYS_symlink, c"/etc", &path("d/abs")).unwrap();
    let fd = open(&d, O_PATH).unwrap();
    let open2 = |p: &str, h: [u64; 3]| sys!(SYS_openat2, fd, &cstr(p), &h, 24);
    let (beneath, no_links, in_root, no_xdev) = (8, 4, 0x10, 1);
    assert!(open2("f", how(O_RDONLY, 0, beneath)).is_ok());
    assert_eq!(open2("../d/f", how(O_RDONLY, 0, beneath)), Err(EXDEV));
    assert_eq!(open2("/etc", how(O_RDONLY, 0, beneath)), Err(EXDEV));
    assert_eq!(open2("abs", how(O_RDONLY, 0, beneath)), Err(EXDEV));
    assert_eq!(open2("abs", how(O_RDONLY, 0, no_links)), Err(ELOOP));
    assert!(open2("/f", how(O_RDONLY, 0, in_root)).is_ok());
    assert_eq!(open2("abs", how(O_RDONLY, 0, in_root)), Err(ENOENT));
    assert_eq!(open2("/proc/self/status", how(O_RDONLY, 0, no_xdev)), Err(EXDEV));
    assert_eq!(open2("f", how(O_RDONLY, 0o644, 0)), Err(EINVAL), "a mode without O_CREAT");
    assert_eq!(open2("f", how(O_RDONLY, 0, 0x1000)), Err(EINVAL));
    assert_eq!(sys!(SYS_openat2, fd, c"f", &[0u64; 2], 16), Err(EINVAL));
    assert_eq!(sys!(SYS_openat2, fd, c"f", &[0u64, 0, 0, 1], 32), Err(E2BIG));
}

fn o_tmpfile() {
    let d = cstr(dir());
    let fd = open(&d, O_TMPFILE | O_RDWR).unwrap();
    assert_eq!(fstat(fd).st_nlink, 0);
    write(fd, b"hidden").unwrap();
    let p = path("linked");
    let by_proc = cstr(format!("/proc/self/fd/{fd}"));
    sys!(SYS_linkat, AT_FDCWD, &by_proc, AT_FDCWD, &p, AT_SYMLINK_FOLLOW).unwrap();
    assert_eq!(std::fs::read(p.to_str().unwrap()).unwrap(), b"hidden");
    assert_eq!(fstat(fd).st_nlink, 1);
    assert_eq!(open(&d, O_TMPFILE | O_RDONLY), Err(EINVAL));
    assert_eq!(open(&p, O_TMPFILE | O_RDWR), Err(ENOTDIR));
    let excl = open(&d, O_TMPFILE | O_RDWR | O_EXCL).unwrap();
    assert_eq!(sys!(SYS_linkat, excl, c"", AT_FDCWD, &path("no"), AT_EMPTY_PATH), Err(ENOENT));
}

fn unlinked_file_lives_while_open() {
    let p = file("f", b"abc");
    let fd = open(&p, O_RDWR).unwrap();
    sys!(SYS_unlink, &p).unwrap();
    assert_eq!((read_vec(fd, 9).unwrap(), fstat(fd).st_nlink), (b"abc".to_vec(), 0));
    write(fd, b"def").unwrap();
    assert_eq!(fstat(fd).st_size, 6);
    let again = open(&cstr(format!("/proc/self/fd/{fd}")), O_RDONLY).unwrap();
    assert_eq!(read_vec(again, 9).unwrap(), b"abcdef");
}

fn permissions_for_users() {
    let p = file("secret", b"x");
    sys!(SYS_chmod, &p, 0o600).unwrap();
    let d = mkdir("closed");
    sys!(SYS_chmod, &d, 0o700).unwrap();
    file("closed/f", b"");
    let group = file("group", b"");
    sys!(SYS_chown, &group, 0, 1000).unwrap();
    sys!(SYS_chmod, &group, 0o640).unwrap();
    sys!(SYS_chmod, &cstr(dir()), 0o755).unwrap();
    aside(|| {
        drop_root();
        assert_eq!(open(&p, O_RDONLY), Err(EACCES));
        assert_eq!(open(&path("closed/f"), O_RDONLY), Err(EACCES));
        assert_eq!(open(&path("closed/none"), O_RDONLY), Err(EACCES));
        assert!(open(&group, O_RDONLY).is_ok());
        assert_eq!(open(&group, O_RDWR), Err(EACCES));
        assert_eq!(open(&path("new"), O_CREAT | O_RDWR), Err(EACCES));
        assert_eq!(sys!(SYS_unlink, &p), Err(EACCES));
        assert_eq!(sys!(SYS_access, &p, R_OK), Err(EACCES));
        assert_eq!(sys!(SYS_access, &p, F_OK), Ok(0));
        assert_eq!(sys!(SYS_access, &p, 8), Err(EINVAL));
    });
}

fn sticky_folder() {
    let d = mkdir("sticky");
    sys!(SYS_chmod, &d, 0o1777).unwrap();
    let p = file("sticky/roots", b"");
    sys!(SYS_chmod, &p, 0o666).unwrap();
    aside(|| {
        drop_root();
        assert_eq!(sys!(SYS_unlink, &p), Err(EPERM));
        assert_eq!(sys!(SYS_rename, &p, &path("sticky/x")), Err(EPERM));
        let mine = file("sticky/mine", b"");
        assert_eq!(sys!(SYS_unlink, &mine), Ok(0));
    });
}
