//! stat, statx, times, modes, owners, statfs, extended attributes.

use crate::prelude::*;

tests!(
    "fsmeta":
    stat_of_a_file, statx_fields, times_move_with_what_happens, utimensat_sets_times, utimes_needs_ownership,
    relatime_updates_after_a_write, chmod_rules, chown_rules, set_gid_folder_passes_its_group,
    write_drops_set_user_id, statfs_of_known_types, xattr_set_get_list_remove, xattr_names_and_sizes,
    xattr_on_descriptor_and_symlink, xattr_at_calls, flags_of_a_file, old_getdents,
    changes_take_capabilities,
);

fn stat_of_a_file() {
    let p = file("f", &[1; 5000]);
    let st = stat_path(&p).unwrap();
    assert_eq!((st.st_mode, st.st_size, st.st_nlink), (S_IFREG | 0o644, 5000, 1));
    assert_eq!((st.st_uid, st.st_gid, st.st_rdev), (0, 0, 0));
    assert_eq!(st.st_blksize, 4096);
    assert!(st.st_ino != 0 && st.st_blocks >= 10);
    assert_eq!(sys!(SYS_stat, &p, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_fstat, 999, 0), Err(EBADF));
}

fn statx_fields() {
    let p = file("f", &[1; 100]);
    let mut sx: statx = zero();
    let call = |p, flags: i32, mask: u32, out: &mut statx| sys!(SYS_statx, AT_FDCWD, p, flags, mask, out);
    call(&p, 0, STATX_BASIC_STATS | STATX_BTIME, &mut sx).unwrap();
    assert_eq!(sx.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
    assert_eq!((sx.stx_size, u32::from(sx.stx_mode), sx.stx_nlink), (100, S_IFREG | 0o644, 1));
    assert_eq!(sx.stx_ino, stat_path(&p).unwrap().st_ino);
    assert!(sx.stx_mask & STATX_BTIME == 0 || sx.stx_btime.tv_sec > 0);
    assert_eq!(call(&p, 0x6000, STATX_SIZE, &mut sx), Err(EINVAL), "both sync flags");
    assert_eq!(call(&p, 0x8, STATX_SIZE, &mut sx), Err(EINVAL));
    assert_eq!(call(&p, 0, 0x8000_0000, &mut sx), Err(EINVAL));
    assert_eq!(call(&path("none"), 0, STATX_SIZE, &mut sx), Err(ENOENT));
    assert_eq!(sys!(SYS_statx, AT_FDCWD, &p, 0, STATX_SIZE, BAD), Err(EFAULT));
    let fd = open(&p, O_RDONLY).unwrap();
    assert_eq!(sys!(SYS_statx, fd, c"", AT_EMPTY_PATH, STATX_SIZE, &mut sx), Ok(0));
}

type Time = (i64, i64);

fn times(p: &std::ffi::CString) -> [Time; 3] {
    let st = stat_path(p).unwrap();
    [(st.st_atime, st.st_atime_nsec), (st.st_mtime, st.st_mtime_nsec), (st.st_ctime, st.st_ctime_nsec)]
}

fn times_move_with_what_happens() {
    let p = file("f", b"x");
    let fd = open(&p, O_RDWR).unwrap();
    let start = times(&p);
    nap(20);
    write(fd, b"y").unwrap();
    let written = times(&p);
    assert!(written[1] > start[1] && written[2] > start[2]);
    nap(20);
    sys!(SYS_chmod, &p, 0o600).unwrap();
    let changed = times(&p);
    assert!(changed[1] == written[1] && changed[2] > written[2]);
    let d = cstr(dir());
    let before = times(&d);
    nap(20);
    file("another", b"");
    let after = times(&d);
    assert!(after[1] > before[1] && after[2] > before[2]);
    nap(20);
    sys!(SYS_link, &p, &path("l")).unwrap();
    assert!(times(&p)[2] > changed[2]);
}

fn utimensat_sets_times() {
    let p = file("f", b"");
    let t = |s, n| timespec { tv_sec: s, tv_nsec: n };
    let set = |ts: &[timespec; 2]| sys!(SYS_utimensat, AT_FDCWD, &p, ts.as_ptr() as usize, 0);
    set(&[t(1_000, 5), t(2_000, 7)]).unwrap();
    assert_eq!(times(&p)[..2], [(1_000, 5), (2_000, 7)]);
    set(&[t(0, UTIME_OMIT), t(3_000, 0)]).unwrap();
    assert_eq!(times(&p)[..2], [(1_000, 5), (3_000, 0)]);
    set(&[t(0, UTIME_NOW), t(0, UTIME_OMIT)]).unwrap();
    assert!(times(&p)[0].0 > 100_000 || times(&p)[0].0 != 1_000);
    assert_eq!(set(&[t(0, 1_000_000_000), t(0, 0)]), Err(EINVAL));
    assert_eq!(sys!(SYS_utimensat, AT_FDCWD, &p, 0, 0x8), Err(EINVAL));
    assert_eq!(sys!(SYS_utimensat, AT_FDCWD, &path("none"), 0, 0), Err(ENOENT));
    let fd = open(&p, O_RDONLY).unwrap();
    assert_eq!(sys!(SYS_utimensat, fd, 0, 0, 0), Ok(0), "futimens");
    assert_eq!(sys!(SYS_utime, &p, &[5i64, 6]), Ok(0));
    assert_eq!(times(&p)[1], (6, 0));
}

fn utimes_needs_ownership() {
    let p = file("f", b"");
    sys!(SYS_chmod, &p, 0o666).unwrap();
    sys!(SYS_chmod, &cstr(dir()), 0o755).unwrap();
    aside(|| {
        drop_root();
        assert_eq!(sys!(SYS_utimensat, AT_FDCWD, &p, 0, 0), Ok(0), "now: writing is enough");
        assert_eq!(sys!(SYS_utimensat, AT_FDCWD, &p, &[1i64, 0, 1, 0], 0), Err(EPERM));
        sys!(SYS_chmod, &p, 0o644).unwrap_err();
    });
    sys!(SYS_chmod, &p, 0o644).unwrap();
    aside(|| {
        drop_root();
        assert_eq!(sys!(SYS_utimensat, AT_FDCWD, &p, 0, 0), Err(EACCES));
    });
}

fn relatime_updates_after_a_write() {
    let p = file("f", b"x");
    let fd = open(&p, O_RDWR).unwrap();
    sys!(SYS_utimensat, AT_FDCWD, &p, &[1i64, 0, 2, 0], 0).unwrap();
    read_vec(fd, 1).unwrap();
    let noatime = slurp("/proc/self/mounts").lines().any(|l| l.contains("noatime"));
    assert!(noatime || times(&p)[0].0 > 2);
}

fn chmod_rules() {
    let p = file("f", b"");
    sys!(SYS_chmod, &p, 0o7777).unwrap();
    assert_eq!(stat_path(&p).unwrap().st_mode, S_IFREG | 0o7777);
    let fd = open(&p, O_RDONLY).unwrap();
    sys!(SYS_fchmod, fd, 0o200).unwrap();
    assert_eq!(fstat(fd).st_mode & 0o7777, 0o200);
    assert_eq!(sys!(SYS_chmod, &path("none"), 0), Err(ENOENT));
    assert_eq!(sys!(SYS_fchmodat, AT_FDCWD, &p, 0o644), Ok(0));
    let l = path("l");
    sys!(SYS_symlink, c"f", &l).unwrap();
    sys!(SYS_chmod, &l, 0o600).unwrap();
    assert_eq!(stat_path(&p).unwrap().st_mode & 0o7777, 0o600, "follows links");
    assert_eq!(sys!(SYS_fchmodat2, AT_FDCWD, &l, 0o600, AT_SYMLINK_NOFOLLOW), Err(EOPNOTSUPP));
    aside(|| {
        sys!(SYS_chmod, &cstr(dir()), 0o755).unwrap();
        drop_root();
        assert_eq!(sys!(SYS_chmod, &p, 0o777), Err(EPERM));
    });
}

fn chown_rules() {
    let p = file("f", b"");
    sys!(SYS_chmod, &p, 0o6755).unwrap();
    sys!(SYS_chown, &p, 5, 6).unwrap();
    let st = stat_path(&p).unwrap();
    assert_eq!((st.st_uid, st.st_gid, st.st_mode & 0o7777), (5, 6, 0o755), "the special bits are dropped");
    sys!(SYS_chown, &p, -1, 9).unwrap();
    assert_eq!((stat_path(&p).unwrap().st_uid, stat_path(&p).unwrap().st_gid), (5, 9));
    let l = path("l");
    sys!(SYS_symlink, c"f", &l).unwrap();
    sys!(SYS_lchown, &l, 70, 71).unwrap();
    assert_eq!((lstat_path(&l).unwrap().st_uid, stat_path(&l).unwrap().st_uid), (70, 5));
    sys!(SYS_chown, &p, 1000, 1000).unwrap();
    sys!(SYS_chmod, &cstr(dir()), 0o755).unwrap();
    aside(|| {
        drop_root();
        assert_eq!(sys!(SYS_chown, &p, 0, -1), Err(EPERM));
        assert_eq!(sys!(SYS_chown, &p, -1, 5), Err(EPERM));
        assert_eq!(sys!(SYS_chown, &p, 1000, 1000), Ok(0));
    });
}

fn set_gid_folder_passes_its_group() {
    let d = mkdir("d");
    sys!(SYS_chown, &d, 0, 33).unwrap();
    sys!(SYS_chmod, &d, 0o2755).unwrap();
    let f = file("d/f", b"");
    let sub = mkdir("d/sub");
    assert_eq!(stat_path(&f).unwrap().st_gid, 33);
    let st = stat_path(&sub).unwrap();
    assert_eq!((st.st_gid, st.st_mode & 0o7777), (33, 0o2755));
}

fn write_drops_set_user_id() {
    let p = file("f", b"x");
    sys!(SYS_chmod, &p, 0o6777).unwrap();
    sys!(SYS_chmod, &cstr(dir()), 0o755).unwrap();
    aside(|| {
        drop_root();
        let fd = open(&p, O_WRONLY).unwrap();
        write(fd, b"y").unwrap();
    });
    assert_eq!(stat_path(&p).unwrap().st_mode & 0o7777, 0o777);
}

fn statfs_of_known_types() {
    let kind = |p: &str| {
        let mut s: statfs = zero();
        sys!(SYS_statfs, &cstr(p), &mut s).map(|_| s)
    };
    assert_eq!(kind("/proc").unwrap().f_type, 0x9fa0);
    assert_eq!(kind("/sys").unwrap().f_type, 0x6265_6572);
    assert_eq!(kind("/dev/pts").unwrap().f_type, 0x1cd1);
    let s = kind("/tmp").unwrap();
    assert_eq!((s.f_bsize, s.f_namelen), (4096, 255));
    assert_eq!(kind("/none").err(), Some(ENOENT));
    let mut s: statfs = zero();
    assert_eq!(sys!(SYS_fstatfs, pipe().0, &mut s), Ok(0));
    assert_eq!(s.f_type, 0x5049_5045);
    let memory = sys!(SYS_memfd_create, &cstr("m"), 0).unwrap();
    assert_eq!(sys!(SYS_fstatfs, memory, &mut s), Ok(0));
    assert_eq!(s.f_type, 0x0102_1994, "a memory file is on tmpfs");
}

fn set_xattr(p: &std::ffi::CString, name: &str, value: &[u8], flags: i32) -> Result<usize, Errno> {
    sys!(SYS_setxattr, p, &cstr(name), value, value.len(), flags)
}

fn get_xattr(p: &std::ffi::CString, name: &str) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0u8; 100];
    let n = sys!(SYS_getxattr, p, &cstr(name), &mut buf[..], 100)?;
    buf.truncate(n);
    Ok(buf)
}

fn xattr_set_get_list_remove() {
    let p = file("f", b"");
    if set_xattr(&p, "user.a", b"one", 0) == Err(EOPNOTSUPP) {
        skip("this file system has no user attributes");
    }
    assert_eq!(get_xattr(&p, "user.a").unwrap(), b"one");
    assert_eq!(set_xattr(&p, "user.a", b"x", XATTR_CREATE), Err(EEXIST));
    assert_eq!(set_xattr(&p, "user.b", b"x", XATTR_REPLACE), Err(ENODATA));
    set_xattr(&p, "user.bb", b"", 0).unwrap();
    let mut list = [0u8; 100];
    let n = sys!(SYS_listxattr, &p, &mut list, 100).unwrap();
    let mut names: Vec<_> = list[..n].split(|b| *b == 0).filter(|s| s.starts_with(b"user")).collect();
    names.sort();
    assert_eq!(names, [&b"user.a"[..], b"user.bb"]);
    assert_eq!(sys!(SYS_getxattr, &p, c"user.a", 0, 0), Ok(3), "size 0 asks for the length");
    assert_eq!(sys!(SYS_getxattr, &p, c"user.a", &mut list, 2), Err(ERANGE));
    assert_eq!(sys!(SYS_listxattr, &p, &mut list, 2), Err(ERANGE));
    sys!(SYS_removexattr, &p, c"user.a").unwrap();
    assert_eq!(get_xattr(&p, "user.a"), Err(ENODATA));
    assert_eq!(sys!(SYS_removexattr, &p, c"user.a"), Err(ENODATA));
}

fn xattr_names_and_sizes() {
    let p = file("f", b"");
    if set_xattr(&p, "trusted.t", b"1", 0) == Err(EOPNOTSUPP) {
        skip("this file system has no trusted attributes");
    }
    assert_eq!(set_xattr(&p, "nonsense", b"", 0), Err(EOPNOTSUPP));
    assert_eq!(set_xattr(&p, "", b"", 0), Err(ERANGE));
    assert_eq!(set_xattr(&p, &format!("user.{}", "x".repeat(251)), b"", 0), Err(ERANGE));
    assert_eq!(set_xattr(&p, "trusted.big", &vec![0; 65537], 0), Err(E2BIG));
    assert_eq!(set_xattr(&p, "trusted.t", b"", 9), Err(EINVAL));
    assert_eq!(set_xattr(&path("none"), "trusted.t", b"", 0), Err(ENOENT));
    sys!(SYS_chmod, &p, 0o666).unwrap();
    sys!(SYS_chmod, &cstr(dir()), 0o755).unwrap();
    aside(|| {
        drop_root();
        assert_eq!(set_xattr(&p, "trusted.t", b"2", 0), Err(EPERM));
        assert_eq!(get_xattr(&p, "trusted.t"), Err(ENODATA));
    });
}

fn xattr_on_descriptor_and_symlink() {
    let p = file("f", b"");
    let fd = open(&p, O_RDWR).unwrap();
    if sys!(SYS_fsetxattr, fd, c"user.x", b"v", 1, 0) == Err(EOPNOTSUPP) {
        skip("this file system has no user attributes");
    }
    let mut buf = [0u8; 9];
    assert_eq!(sys!(SYS_fgetxattr, fd, c"user.x", &mut buf, 9), Ok(1));
    let l = path("l");
    sys!(SYS_symlink, c"f", &l).unwrap();
    assert_eq!(sys!(SYS_lsetxattr, &l, c"user.x", b"v", 1, 0), Err(EPERM), "no user attributes on links");
    assert_eq!(sys!(SYS_lgetxattr, &l, c"user.x", &mut buf, 9), Err(ENODATA));
    assert_eq!(sys!(SYS_getxattr, &l, c"user.x", &mut buf, 9), Ok(1));
}

/// `struct xattr_args`: address of the value; size, and flags above it.
fn xattr_args(value: usize, size: u64, flags: u64) -> [u64; 2] {
    [value as u64, size | flags << 32]
}

fn xattr_at_calls() {
    const SETXATTRAT: i64 = 463;
    const GETXATTRAT: i64 = 464;
    const LISTXATTRAT: i64 = 465;
    const REMOVEXATTRAT: i64 = 466;
    let p = file("f", b"");
    let fd = open(&p, O_RDONLY).unwrap();
    let value = b"hello";
    let args = xattr_args(value.as_ptr() as usize, 5, 0);
    let set = |dirfd: i32, name: &std::ffi::CStr, at: i32, args: &[u64; 2], size: usize| {
        sys!(SETXATTRAT, dirfd, name, at, c"trusted.x", args, size)
    };
    if set(AT_FDCWD, &p, 0, &args, 16) == Err(EOPNOTSUPP) {
        skip("this file system has no trusted attributes");
    }
    assert_eq!(set(fd, c"", AT_EMPTY_PATH, &args, 16), Ok(0));
    assert_eq!(set(fd, c"", 0, &args, 16), Err(ENOENT));
    assert_eq!(set(AT_FDCWD, &p, 0, &args, 15), Err(EINVAL));
    assert_eq!(set(AT_FDCWD, &p, 0, &args, 5000), Err(E2BIG));
    assert_eq!(set(AT_FDCWD, &p, AT_REMOVEDIR, &args, 16), Err(EINVAL));
    let both = xattr_args(value.as_ptr() as usize, 5, 3);
    assert_eq!(set(AT_FDCWD, &p, 0, &both, 16), Err(EEXIST));
    let mut out = [0u8; 8];
    let into = xattr_args(out.as_mut_ptr() as usize, 8, 0);
    assert_eq!(sys!(GETXATTRAT, AT_FDCWD, &p, 0, c"trusted.x", &into, 16), Ok(5));
    assert_eq!(&out[..5], value);
    assert_eq!(sys!(GETXATTRAT, AT_FDCWD, &p, 0, c"trusted.x", &xattr_args(into[0] as usize, 8, 1), 16), Err(EINVAL));
    let mut names = [0u8; 64];
    assert_eq!(sys!(LISTXATTRAT, AT_FDCWD, &p, 0, &mut names, 64), Ok(10));
    assert_eq!(sys!(REMOVEXATTRAT, fd, 0, AT_EMPTY_PATH, c"trusted.x"), Ok(0), "no name at all");
    assert_eq!(sys!(REMOVEXATTRAT, AT_FDCWD, &p, 0, c"trusted.x"), Err(ENODATA));
}

fn flags_of_a_file() {
    const GETFLAGS: u64 = 0x8008_6601;
    const SETFLAGS: u64 = 0x4008_6602;
    const FILE_GETATTR: i64 = 468;
    let p = file("f", b"1");
    let fd = open(&p, O_RDWR).unwrap();
    let mut flags = 0u32;
    if sys!(SYS_ioctl, fd, GETFLAGS, &mut flags) == Err(ENOTTY) {
        skip("this file system has no flags");
    }
    assert_eq!(flags, 0);
    assert_eq!(sys!(SYS_ioctl, fd, SETFLAGS, &0x20u32), Ok(0), "append only");
    assert_eq!(open(&p, O_WRONLY), Err(EPERM));
    assert_eq!(sys!(SYS_unlink, &p), Err(EPERM));
    assert!(open(&p, O_WRONLY | O_APPEND).is_ok());
    let mut attr = [0u64; 3];
    assert_eq!(sys!(FILE_GETATTR, AT_FDCWD, &p, &mut attr, 24, 0), Ok(0));
    assert_eq!(attr[0], 0x10);
    assert_eq!(sys!(FILE_GETATTR, AT_FDCWD, &p, &mut attr, 23, 0), Err(EINVAL));
    assert_eq!(sys!(FILE_GETATTR, AT_FDCWD, c"/proc/version", &mut attr, 24, 0), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_ioctl, fd, SETFLAGS, &0x10u32), Ok(0), "immutable");
    assert_eq!(sys!(SYS_chmod, &p, 0o600), Err(EPERM));
    assert_eq!(sys!(SYS_ioctl, fd, SETFLAGS, &0u32), Ok(0));
    sys!(SYS_unlink, &p).unwrap();
    let q = file("q", b"");
    sys!(SYS_chmod, &cstr(dir()), 0o777).unwrap();
    sys!(SYS_chown, &q, 1000, 1000).unwrap();
    aside(|| {
        drop_root();
        let fd = open(&q, O_RDONLY).unwrap();
        assert_eq!(sys!(SYS_ioctl, fd, SETFLAGS, &0x40u32), Ok(0), "the owner may");
        assert_eq!(sys!(SYS_ioctl, fd, SETFLAGS, &0x10u32), Err(EPERM), "needs CAP_LINUX_IMMUTABLE");
    });
}

fn old_getdents() {
    file("name", b"");
    let fd = open(&cstr(dir()), O_RDONLY | O_DIRECTORY).unwrap();
    let mut buf = [0u8; 1024];
    let len = sys!(SYS_getdents, fd, &mut buf, 1024).unwrap();
    let mut names = Vec::new();
    let mut at = 0;
    while at < len {
        let size = usize::from(u16::from_ne_bytes([buf[at + 16], buf[at + 17]]));
        let name: Vec<u8> = buf[at + 18..].iter().copied().take_while(|b| *b != 0).collect();
        names.push((String::from_utf8(name).unwrap(), buf[at + size - 1]));
        at += size;
    }
    names.sort();
    assert_eq!(names, [(".".into(), DT_DIR), ("..".into(), DT_DIR), ("name".into(), DT_REG)]);
    assert_eq!(sys!(SYS_getdents, fd, &mut buf, 1024), Ok(0));
}

/// Who may write to a file must not run what he wrote with the file's capabilities.
fn changes_take_capabilities() {
    const CAPS: &std::ffi::CStr = c"security.capability";
    let raw: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    let name = file("capable", b"12345");
    let give = || {
        assert_eq!(sys!(SYS_setxattr, &name, CAPS, &raw, 20, 0), Ok(0));
        assert_eq!(sys!(SYS_getxattr, &name, CAPS, 0, 0), Ok(20));
    };
    let fd = open(&name, O_RDWR).unwrap();
    let changes: [&dyn Fn(); 5] = [
        &|| assert_eq!(write(fd, b"x"), Ok(1)),
        &|| assert_eq!(sys!(SYS_ftruncate, fd, 3), Ok(0)),
        &|| assert_eq!(sys!(SYS_fallocate, fd, 0, 0, 9), Ok(0)),
        &|| assert_eq!(sys!(SYS_chown, &name, 1, 1), Ok(0)),
        &|| assert_eq!(write(fd, b"y"), Ok(1)),
    ];
    for change in changes {
        give();
        change();
        assert_eq!(sys!(SYS_getxattr, &name, CAPS, 0, 0), Err(ENODATA));
    }
    give();
    assert_eq!(sys!(SYS_chmod, &name, 0o700), Ok(0));
    assert_eq!(sys!(SYS_getxattr, &name, CAPS, 0, 0), Ok(20));
    assert_eq!(write(fd, b""), Ok(0));
    assert_eq!(sys!(SYS_getxattr, &name, CAPS, 0, 0), Ok(20));
    close(fd);
}
