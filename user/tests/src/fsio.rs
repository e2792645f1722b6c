//! sendfile, copy_file_range, fallocate, fsync, memfd with seals, and locks.

use crate::prelude::*;

tests!(
    "fsio":
    clones_are_not_supported, sendfile_between_files_and_pipes, sendfile_large_through_a_pipe, copy_file_range_copies, fallocate_modes,
    sync_calls, memfd_is_a_file, memfd_seals, record_locks_between_processes,
    record_lock_waits_and_deadlock_is_seen, record_lock_errors, open_file_description_locks, flock_rules,
    leases_and_owner,
);

fn sendfile_between_files_and_pipes() {
    let from = file("from", b"0123456789");
    let src = open(&from, O_RDONLY).unwrap();
    let dst = new_file("dst");
    assert_eq!(sys!(SYS_sendfile, dst, src, 0, 4), Ok(4));
    assert_eq!(seek(src, 0, SEEK_CUR), Ok(4));
    let mut off = 8i64;
    assert_eq!(sys!(SYS_sendfile, dst, src, &mut off, 100), Ok(2));
    assert_eq!((off, seek(src, 0, SEEK_CUR)), (10, Ok(4)));
    assert_eq!(pread(dst, 20, 0).unwrap(), b"012389");
    let (r, w) = pipe();
    assert_eq!(sys!(SYS_sendfile, w, src, 0, 3), Ok(3));
    assert_eq!(read_vec(r, 9).unwrap(), b"456");
    assert_eq!(sys!(SYS_sendfile, src, dst, 0, 1), Err(EBADF));
    assert_eq!(sys!(SYS_sendfile, dst, 999, 0, 1), Err(EBADF));
    off = -1;
    assert_eq!(sys!(SYS_sendfile, dst, src, &mut off, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_sendfile, dst, src, BAD, 1), Err(EFAULT));
}

fn sendfile_large_through_a_pipe() {
    let fd = new_file("f");
    let data: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    write(fd, &data).unwrap();
    let (r, w) = pipe();
    let c = child(|| {
        let mut off = 0i64;
        while off < 300_000 {
            sys!(SYS_sendfile, w, fd, &mut off, 300_000).unwrap();
        }
    });
    close(w);
    let mut got = vec![];
    while let Some(part) = read_vec(r, 70_000).ok().filter(|p| !p.is_empty()) {
        got.extend(part);
    }
    assert!(got == data);
    c.ok();
}

fn clones_are_not_supported() {
    const FICLONE: u32 = 0x4004_9409;
    let src = open(&file("s", b"abc"), O_RDONLY).unwrap();
    let dst = new_file("d");
    assert_eq!(sys!(SYS_ioctl, dst, FICLONE, src), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_ioctl, src, FICLONE, dst), Err(EBADF));
    assert_eq!(sys!(SYS_ioctl, dst, FICLONE, 999), Err(EBADF));
    assert_eq!(sys!(SYS_ioctl, dst, FICLONE, open(&cstr("/proc/self/status"), O_RDONLY).unwrap()), Err(EXDEV));
    assert_eq!(sys!(SYS_ioctl, dst, FICLONE, open(&cstr(dir()), O_RDONLY).unwrap()), Err(EISDIR));
}

fn copy_file_range_copies() {
    let src = open(&file("s", b"abcdefghij"), O_RDONLY).unwrap();
    let dst = new_file("d");
    let (mut from, mut to) = (2i64, 5i64);
    assert_eq!(sys!(SYS_copy_file_range, src, &mut from, dst, &mut to, 3, 0), Ok(3));
    assert_eq!((from, to), (5, 8));
    assert_eq!(pread(dst, 20, 0).unwrap(), b"\0\0\0\0\0cde");
    assert_eq!(sys!(SYS_copy_file_range, src, 0, dst, 0, 100, 0), Ok(10));
    assert_eq!(sys!(SYS_copy_file_range, src, 0, dst, 0, 100, 0), Ok(0));
    assert_eq!(sys!(SYS_copy_file_range, src, 0, dst, 0, 1, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_copy_file_range, dst, 0, src, 0, 1, 0), Err(EBADF));
    assert_eq!(sys!(SYS_copy_file_range, src, 0, pipe().1, 0, 1, 0), Err(EINVAL));
    let both = open(&path("d"), O_RDWR).unwrap();
    (from, to) = (0, 2);
    assert_eq!(sys!(SYS_copy_file_range, both, &mut from, both, &mut to, 5, 0), Err(EINVAL), "overlap");
    let d = open(&cstr(dir()), O_RDONLY).unwrap();
    assert_eq!(sys!(SYS_copy_file_range, d, 0, dst, 0, 1, 0), Err(EISDIR));
}

fn fallocate_modes() {
    let fd = new_file("f");
    write(fd, &[1; 3 * PAGE]).unwrap();
    let fallocate = |mode: i32, off: i64, len: i64| sys!(SYS_fallocate, fd, mode, off, len);
    let keep = FALLOC_FL_KEEP_SIZE;
    assert_eq!(fallocate(keep, 0, 100_000), Ok(0));
    assert_eq!(fstat(fd).st_size, 3 * PAGE as i64);
    assert_eq!(fallocate(0, 0, 4 * PAGE as i64), Ok(0));
    assert_eq!(fstat(fd).st_size, 4 * PAGE as i64);
    assert_eq!(fallocate(FALLOC_FL_PUNCH_HOLE | keep, PAGE as i64, PAGE as i64), Ok(0));
    let data = pread(fd, 3 * PAGE, 0).unwrap();
    assert_eq!([data[PAGE - 1], data[PAGE], data[2 * PAGE - 1], data[2 * PAGE]], [1, 0, 0, 1]);
    assert_eq!(fallocate(FALLOC_FL_PUNCH_HOLE, 0, 1), Err(EOPNOTSUPP));
    assert_eq!(fallocate(0, -1, 1), Err(EINVAL));
    assert_eq!(fallocate(0, 0, 0), Err(EINVAL));
    assert_eq!(fallocate(0, i64::MAX, 10), Err(EFBIG));
    assert_eq!(sys!(SYS_fallocate, pipe().1, 0, 0, 1), Err(ESPIPE));
    let ro = open(&path("f"), O_RDONLY).unwrap();
    assert_eq!(sys!(SYS_fallocate, ro, 0, 0, 1), Err(EBADF));
}

fn sync_calls() {
    let fd = new_file("f");
    write(fd, b"x").unwrap();
    assert_eq!(sys!(SYS_fsync, fd), Ok(0));
    assert_eq!(sys!(SYS_fdatasync, fd), Ok(0));
    assert_eq!(sys!(SYS_fsync, 999), Err(EBADF));
    assert_eq!(sys!(SYS_fsync, open(&cstr(dir()), O_RDONLY).unwrap()), Ok(0));
    assert_eq!(sys!(SYS_sync_file_range, fd, 0, 1, 2), Ok(0));
    assert_eq!(sys!(SYS_sync_file_range, fd, -1, 1, 2), Err(EINVAL));
    assert_eq!(sys!(SYS_fadvise64, fd, 0, 0, POSIX_FADV_DONTNEED), Ok(0));
    assert_eq!(sys!(SYS_fadvise64, fd, 0, 0, 77), Err(EINVAL));
    assert_eq!(sys!(SYS_fadvise64, pipe().0, 0, 0, 0), Err(ESPIPE));
    assert_eq!(sys!(SYS_readahead, fd, 0, 100), Ok(0));
}

fn memfd_is_a_file() {
    let fd = sys!(SYS_memfd_create, c"name", MFD_CLOEXEC).unwrap() as i32;
    write(fd, b"abc").unwrap();
    assert_eq!((fstat(fd).st_size, fstat(fd).st_nlink, fstat(fd).st_mode & 0o777), (3, 0, 0o777));
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    assert_eq!(link.to_str().unwrap(), "/memfd:name (deleted)");
    assert_eq!(sys!(SYS_memfd_create, &cstr("n".repeat(250)), 0), Err(EINVAL));
    assert!(sys!(SYS_memfd_create, &cstr("n".repeat(249)), 0).is_ok());
    assert_eq!(sys!(SYS_memfd_create, c"x", 0x40), Err(EINVAL));
    assert_eq!(sys!(SYS_memfd_create, BAD, 0), Err(EFAULT));
}

fn memfd_seals() {
    let plain = sys!(SYS_memfd_create, c"p", 0).unwrap();
    assert_eq!(sys!(SYS_fcntl, plain, F_GET_SEALS), Ok(F_SEAL_SEAL as usize));
    assert_eq!(sys!(SYS_fcntl, plain, F_ADD_SEALS, F_SEAL_GROW), Err(EPERM));
    let fd = sys!(SYS_memfd_create, c"s", MFD_ALLOW_SEALING).unwrap() as i32;
    let seal = |s: i32| sys!(SYS_fcntl, fd, F_ADD_SEALS, s);
    sys!(SYS_ftruncate, fd, PAGE).unwrap();
    seal(F_SEAL_SHRINK | F_SEAL_GROW).unwrap();
    assert_eq!(sys!(SYS_ftruncate, fd, 10), Err(EPERM));
    assert_eq!(sys!(SYS_ftruncate, fd, 2 * PAGE), Err(EPERM));
    assert_eq!(pwrite(fd, b"x", PAGE as i64), Err(EPERM));
    let a = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd).unwrap();
    assert_eq!(seal(F_SEAL_WRITE), Err(EBUSY));
    sys!(SYS_munmap, a, PAGE).unwrap();
    seal(F_SEAL_WRITE).unwrap();
    assert_eq!(pwrite(fd, b"x", 0), Err(EPERM));
    assert_eq!(map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd), Err(EPERM));
    assert!(map(PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd).is_ok());
    seal(F_SEAL_SEAL).unwrap();
    assert_eq!(seal(F_SEAL_GROW), Err(EPERM));
    assert_eq!(sys!(SYS_fcntl, new_file("f"), F_GET_SEALS), fstat_seals());
}

/// What a file of the test's folder says: tmpfs knows seals, other file systems do not.
fn fstat_seals() -> Result<usize, Errno> {
    let mut s: statfs = zero();
    sys!(SYS_statfs, &cstr(dir()), &mut s).unwrap();
    if s.f_type == 0x0102_1994 { Ok(F_SEAL_SEAL as usize) } else { Err(EINVAL) }
}

fn range(kind: i32, start: i64, len: i64) -> flock {
    let mut f: flock = zero();
    f.l_type = kind as i16;
    f.l_start = start;
    f.l_len = len;
    f
}

fn record_locks_between_processes() {
    let fd = new_file("f");
    let set = |kind, start, len| sys!(SYS_fcntl, fd, F_SETLK, &range(kind, start, len));
    set(F_WRLCK, 0, 10).unwrap();
    set(F_RDLCK, 20, 10).unwrap();
    let me = getpid();
    aside(|| {
        assert_eq!(set(F_RDLCK, 5, 1), Err(EAGAIN));
        assert_eq!(set(F_RDLCK, 25, 1), Ok(0));
        assert_eq!(set(F_WRLCK, 29, 5), Err(EAGAIN));
        assert_eq!(set(F_WRLCK, 10, 10), Ok(0));
        let mut f = range(F_WRLCK, 0, 0);
        sys!(SYS_fcntl, fd, F_GETLK, &mut f).unwrap();
        assert_eq!((i32::from(f.l_type), f.l_start, f.l_len, f.l_pid), (F_WRLCK, 0, 10, me));
    });
    set(F_UNLCK, 3, 4).unwrap();
    aside(|| {
        assert_eq!(
            [set(F_WRLCK, 3, 4), set(F_WRLCK, 2, 1), set(F_WRLCK, 7, 1)],
            [Ok(0), Err(EAGAIN), Err(EAGAIN)]
        );
    });
    let other = open(&path("f"), O_RDWR).unwrap();
    close(other);
    aside(|| assert_eq!(set(F_WRLCK, 0, 0), Ok(0), "closing any descriptor of the file drops them"));
}

fn record_lock_waits_and_deadlock_is_seen() {
    let fd = new_file("f");
    let wait = |start| sys!(SYS_fcntl, fd, F_SETLKW, &range(F_WRLCK, start, 1));
    wait(0).unwrap();
    let (r, w) = pipe();
    let c = child(|| {
        wait(1).unwrap();
        write(w, b"x").unwrap();
        wait(0).unwrap();
    });
    read_vec(r, 1).unwrap();
    wait_state(c.0, "S");
    settle();
    assert_eq!(wait(1), Err(EDEADLK));
    sys!(SYS_fcntl, fd, F_SETLK, &range(F_UNLCK, 0, 0)).unwrap();
    c.ok();
}

fn record_lock_errors() {
    let p = file("f", b"");
    let ro = open(&p, O_RDONLY).unwrap();
    assert_eq!(sys!(SYS_fcntl, ro, F_SETLK, &range(F_WRLCK, 0, 1)), Err(EBADF));
    assert_eq!(sys!(SYS_fcntl, ro, F_SETLK, &range(9, 0, 1)), Err(EINVAL));
    assert_eq!(sys!(SYS_fcntl, ro, F_SETLK, &range(F_RDLCK, -1, 1)), Err(EINVAL));
    assert_eq!(sys!(SYS_fcntl, ro, F_SETLK, &range(F_RDLCK, 10, -20)), Err(EINVAL));
    assert_eq!(sys!(SYS_fcntl, ro, F_SETLK, &range(F_RDLCK, 10, -10)), Ok(0));
    assert_eq!(sys!(SYS_fcntl, ro, F_SETLK, 0), Err(EFAULT));
}

fn open_file_description_locks() {
    let p = file("f", b"");
    let (a, b) = (open(&p, O_RDWR).unwrap(), open(&p, O_RDWR).unwrap());
    let set = |fd, kind| sys!(SYS_fcntl, fd, F_OFD_SETLK, &range(kind, 0, 0));
    set(a, F_WRLCK).unwrap();
    assert_eq!(set(b, F_RDLCK), Err(EAGAIN), "two opens of one process conflict");
    let own = |fd| {
        let mut asked = range(F_UNLCK, 0, 10);
        sys!(SYS_fcntl, fd, F_OFD_GETLK, &mut asked).map(|_| i32::from(asked.l_type))
    };
    assert_eq!((own(a), own(b)), (Ok(F_WRLCK), Ok(F_UNLCK)), "asks for its own locks");
    let a2 = sys!(SYS_dup, a).unwrap() as i32;
    close(a);
    assert_eq!(set(b, F_RDLCK), Err(EAGAIN));
    close(a2);
    assert_eq!(set(b, F_RDLCK), Ok(0));
}

fn flock_rules() {
    let p = file("f", b"");
    let (a, b) = (open(&p, O_RDONLY).unwrap(), open(&p, O_RDONLY).unwrap());
    let flock = |fd: i32, op: i32| sys!(SYS_flock, fd, op);
    flock(a, LOCK_SH).unwrap();
    flock(b, LOCK_SH).unwrap();
    assert_eq!(flock(a, LOCK_EX | LOCK_NB), Err(EAGAIN));
    flock(b, LOCK_UN).unwrap();
    assert_eq!(flock(a, LOCK_EX | LOCK_NB), Ok(0));
    assert_eq!(flock(b, LOCK_SH | LOCK_NB), Err(EAGAIN));
    let c = child(|| {
        close(a);
        flock(b, LOCK_EX).unwrap();
    });
    wait_state(c.0, "S");
    close(a);
    c.ok();
    assert_eq!(flock(b, 0), Err(EINVAL));
    assert_eq!(flock(999, LOCK_SH), Err(EBADF));
}

/// Constants that libc lacks.
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;

fn leases_and_owner() {
    let fd = new_file("f");
    assert_eq!(sys!(SYS_fcntl, fd, F_GETLEASE), Ok(F_UNLCK as usize));
    sys!(SYS_fcntl, fd, F_SETOWN, getpid()).unwrap();
    assert_eq!(sys!(SYS_fcntl, fd, F_GETOWN), Ok(getpid() as usize));
    sys!(SYS_fcntl, fd, F_SETSIG, SIGUSR1).unwrap();
    assert_eq!(sys!(SYS_fcntl, fd, F_GETSIG), Ok(SIGUSR1 as usize));
    assert_eq!(sys!(SYS_fcntl, fd, F_SETSIG, 99), Err(EINVAL));
}
