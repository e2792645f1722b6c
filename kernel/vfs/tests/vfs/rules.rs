//! The rules of path walks: links, slashes, permissions, bounds.

use abi::fs::{OpenFlags, OpenHow};
use abi::{Errno, Result};
use vfs::{At, FdFlags, WalkFlags};

use crate::env::Env;

fn ino(env: &Env, name: &str) -> u64 {
    env.stat(name).unwrap().st_ino
}

#[test]
fn dots_and_slashes_mean_nothing_more() {
    let env = Env::new();
    env.mkdir("/a").unwrap();
    env.mkdir("/a/b").unwrap();
    let want = ino(&env, "/a/b");
    for name in ["//a//b", "/a/./b", "/a/b/", "/a/b/.", "/../a/b", "/a/b/../b", "a/b///", "/a/../a/b/./"] {
        assert_eq!(ino(&env, name), want, "{name}");
    }
    assert_eq!(ino(&env, "/.."), ino(&env, "/"));
}

#[test]
fn errors_come_in_the_order_of_linux() {
    let env = Env::new();
    env.mkdir("/d").unwrap();
    env.create("/f").unwrap();
    let long = "n".repeat(256);
    let too_long = "/d".repeat(2100);
    let cases = [
        ("", Errno::ENOENT),
        ("/f/", Errno::ENOTDIR),
        ("/f/x", Errno::ENOTDIR),
        ("/f/..", Errno::ENOTDIR),
        ("/x/y", Errno::ENOENT),
        ("/x/", Errno::ENOENT),
        (&long, Errno::ENAMETOOLONG),
        (&too_long, Errno::ENAMETOOLONG),
    ];
    for _ in 0..2 {
        // The second time the answers come from the cache.
        for (name, errno) in cases {
            assert_eq!(env.stat(name).unwrap_err(), errno, "{name}");
        }
    }
}

#[test]
fn links_are_followed_where_they_should_be() {
    let env = Env::new();
    env.mkdir("/d").unwrap();
    env.create("/d/f").unwrap();
    env.symlink("d", "/rel").unwrap();
    env.symlink("/d/f", "/abs").unwrap();
    env.symlink("rel/../rel/f", "/chain").unwrap();
    env.symlink("nowhere", "/dangling").unwrap();
    for _ in 0..2 {
        let want = ino(&env, "/d/f");
        for name in ["/abs", "/rel/f", "/chain", "rel/../abs"] {
            assert_eq!(ino(&env, name), want, "{name}");
        }
        assert_eq!(env.lstat("/rel").unwrap().st_mode & 0o170000, 0o120000);
        assert_eq!(env.lstat("/rel/").unwrap().st_ino, ino(&env, "/d"));
        assert_eq!(env.stat("/dangling").unwrap_err(), Errno::ENOENT);
        assert_eq!(env.stat("/abs/").unwrap_err(), Errno::ENOTDIR);
    }
    assert_eq!(vfs::namespace::readlinkat(&env.ctx(), At::Cwd, b"/chain").unwrap(), b"rel/../rel/f");
    assert_eq!(vfs::namespace::readlinkat(&env.ctx(), At::Cwd, b"/d"), Err(Errno::EINVAL));
}

#[test]
fn forty_links_are_followed_and_not_one_more() {
    let env = Env::new();
    env.create("/l0").unwrap();
    for i in 1..=41 {
        env.symlink(&format!("l{}", i - 1), &format!("/l{i}")).unwrap();
    }
    env.symlink("loop", "/loop").unwrap();
    for _ in 0..2 {
        assert!(env.stat("/l40").is_ok());
        assert_eq!(env.stat("/l41").unwrap_err(), Errno::ELOOP);
        assert_eq!(env.stat("/loop").unwrap_err(), Errno::ELOOP);
    }
}

#[test]
fn open_creates_through_dangling_links() {
    let env = Env::new();
    env.mkdir("/d").unwrap();
    env.symlink("d/made", "/link").unwrap();
    let flags = OpenFlags::CREAT | OpenFlags::RDWR;
    assert_eq!(env.open("/link", flags | OpenFlags::EXCL, 0o600).unwrap_err(), Errno::EEXIST);
    assert_eq!(env.open("/link", flags | OpenFlags::NOFOLLOW, 0o600).unwrap_err(), Errno::ELOOP);
    env.open("/link", flags, 0o600).unwrap();
    assert_eq!(env.stat("/d/made").unwrap().st_mode, 0o100600);
    assert_eq!(env.open("/d/", flags, 0o600).unwrap_err(), Errno::EISDIR);
    assert_eq!(env.open("/new/", flags, 0o600).unwrap_err(), Errno::EISDIR);
    assert_eq!(env.open("/d", OpenFlags::RDWR, 0).unwrap_err(), Errno::EISDIR);
    assert_eq!(env.open("/link", OpenFlags::DIRECTORY, 0).unwrap_err(), Errno::ENOTDIR);
    assert_eq!(env.open("/link", OpenFlags::NOFOLLOW, 0).unwrap_err(), Errno::ELOOP);
}

#[test]
fn making_over_something_is_refused() {
    let env = Env::new();
    env.mkdir("/d").unwrap();
    env.symlink("nowhere", "/l").unwrap();
    for name in ["/d", "/d/", "/l", "/", "/d/.", "/d/.."] {
        assert_eq!(env.mkdir(name), Err(Errno::EEXIST), "{name}");
    }
    assert_eq!(env.symlink("x", "/new/"), Err(Errno::ENOENT));
    env.mkdir("/new/").unwrap();
    assert_eq!(env.rmdir("/new/."), Err(Errno::EINVAL));
    assert_eq!(env.rmdir("/new/.."), Err(Errno::ENOTEMPTY));
    assert_eq!(env.rmdir("/"), Err(Errno::EBUSY));
    assert_eq!(env.unlink("/new"), Err(Errno::EISDIR));
    assert_eq!(env.unlink("/"), Err(Errno::EISDIR));
    assert_eq!(env.rmdir("/l"), Err(Errno::ENOTDIR));
    env.rmdir("/new/").unwrap();
}

#[test]
fn directories_want_search_permission() {
    let env = Env::new();
    env.mkdir("/d").unwrap();
    env.mkdir("/d/e").unwrap();
    env.create("/d/e/f").unwrap();
    let user = env.as_user(1000);
    assert!(user.stat("/d/e/f").is_ok());
    assert_eq!(user.create("/d/x").unwrap_err(), Errno::EACCES);
    assert_eq!(user.open("/d/e/f", OpenFlags::RDWR, 0).unwrap_err(), Errno::EACCES);
    env.chmod("/d/e", 0o700).unwrap();
    assert_eq!(user.stat("/d/e/f").unwrap_err(), Errno::EACCES);
    assert_eq!(user.stat("/d/e/none").unwrap_err(), Errno::EACCES);
    assert!(user.stat("/d/e").is_ok());
    assert_eq!(user.chmod("/d", 0o777), Err(Errno::EPERM));
    assert_eq!(user.unlink("/d/x"), Err(Errno::ENOENT));
}

#[test]
fn sticky_and_setgid_directories() {
    let env = Env::new();
    env.mkdir("/tmp").unwrap();
    env.chmod("/tmp", 0o1777).unwrap();
    let (alice, bob) = (env.as_user(1), env.as_user(2));
    alice.create("/tmp/a").unwrap();
    alice.symlink("/tmp/a", "/tmp/l").unwrap();
    assert_eq!(bob.unlink("/tmp/a"), Err(Errno::EPERM));
    assert_eq!(bob.rename("/tmp/a", "/tmp/b"), Err(Errno::EPERM));
    assert_eq!(bob.stat("/tmp/l").unwrap_err(), Errno::EACCES, "protected_symlinks");
    assert_eq!(bob.link("/tmp/a", "/tmp/c"), Err(Errno::EPERM), "protected_hardlinks");
    assert!(alice.stat("/tmp/l").is_ok());
    env.chmod("/tmp/a", 0o666).unwrap();
    let flags = OpenFlags::CREAT | OpenFlags::RDWR;
    assert_eq!(bob.open("/tmp/a", flags, 0o600).unwrap_err(), Errno::EACCES, "protected_regular");
    env.mkdir("/g").unwrap();
    vfs::attr::chown(&env.walk("/g").unwrap(), 0, 77, &env.cred).unwrap();
    env.chmod("/g", 0o2777).unwrap();
    alice.mkdir("/g/sub").unwrap();
    let sub = env.stat("/g/sub").unwrap();
    assert_eq!((sub.st_gid, sub.st_mode & 0o7777), (77, 0o2755));
}

#[test]
fn chown_and_write_clear_the_set_id_bits() {
    let env = Env::new();
    env.create("/f").unwrap();
    env.chmod("/f", 0o6777).unwrap();
    let user = env.as_user(5);
    let file = user.open("/f", OpenFlags::WRONLY, 0).unwrap();
    crate::env::write(&file, b"x").unwrap();
    assert_eq!(env.stat("/f").unwrap().st_mode & 0o7777, 0o777);
    env.chmod("/f", 0o6755).unwrap();
    vfs::attr::chown(&env.walk("/f").unwrap(), 5, 5, &env.cred).unwrap();
    assert_eq!(env.stat("/f").unwrap().st_mode & 0o7777, 0o755);
}

#[test]
fn chroot_cannot_be_left_by_dots() {
    let env = Env::new();
    env.mkdir("/jail").unwrap();
    env.mkdir("/jail/in").unwrap();
    env.create("/secret").unwrap();
    let jail = env.walk("/jail").unwrap();
    vfs::namespace::chroot(&env.ctx(), jail).unwrap();
    env.chdir("/in").unwrap();
    for _ in 0..2 {
        assert_eq!(env.stat("../../../secret").unwrap_err(), Errno::ENOENT);
        assert_eq!(env.stat("/../secret").unwrap_err(), Errno::ENOENT);
    }
    assert_eq!(env.cwd(), "/in");
}

fn openat2(env: &Env, name: &str, resolve: u64) -> Result<()> {
    let how = vfs::open::How::from_openat2(&OpenHow { flags: 0, mode: 0, resolve })?;
    let dir = env.open("/root", OpenFlags::DIRECTORY, 0)?;
    let fd = env.files.insert(dir, 0, 64, FdFlags::empty())?;
    vfs::open::open(&env.ctx(), At::Fd(fd), name.as_bytes(), &how).map(drop)
}

#[test]
fn resolve_flags_bound_the_walk() {
    const NO_XDEV: u64 = 1;
    const NO_SYMLINKS: u64 = 4;
    const BENEATH: u64 = 8;
    const IN_ROOT: u64 = 16;
    const CACHED: u64 = 32;
    let env = Env::new();
    env.mkdir("/root").unwrap();
    env.mkdir("/root/d").unwrap();
    env.mkdir("/root/m").unwrap();
    env.mount("x", "/root/m", "tmpfs", 0).unwrap();
    env.create("/root/d/f").unwrap();
    env.create("/outside").unwrap();
    env.symlink("/d/f", "/root/abs").unwrap();
    env.symlink("d/f", "/root/rel").unwrap();
    env.symlink("../outside", "/root/out").unwrap();
    assert_eq!(openat2(&env, "d/../d/f", BENEATH), Ok(()));
    assert_eq!(openat2(&env, "rel", BENEATH), Ok(()));
    assert_eq!(openat2(&env, "../outside", BENEATH), Err(Errno::EXDEV));
    assert_eq!(openat2(&env, "/root", BENEATH), Err(Errno::EXDEV));
    assert_eq!(openat2(&env, "abs", BENEATH), Err(Errno::EXDEV));
    assert_eq!(openat2(&env, "out", BENEATH), Err(Errno::EXDEV));
    assert_eq!(openat2(&env, "abs", IN_ROOT), Ok(()));
    assert_eq!(openat2(&env, "/../../d/f", IN_ROOT), Ok(()));
    assert_eq!(openat2(&env, "out", IN_ROOT), Err(Errno::ENOENT));
    assert_eq!(openat2(&env, "rel", NO_SYMLINKS), Err(Errno::ELOOP));
    assert_eq!(openat2(&env, "m", NO_XDEV), Err(Errno::EXDEV));
    assert_eq!(openat2(&env, "d/f", NO_XDEV), Ok(()));
    assert_eq!(openat2(&env, "d/f", CACHED), Ok(()));
    assert_eq!(openat2(&env, "d/never-seen", CACHED), Err(Errno::EAGAIN));
    assert_eq!(openat2(&env, "d", BENEATH | IN_ROOT), Err(Errno::EINVAL));
    assert_eq!(openat2(&env, "d", 1 << 20), Err(Errno::EINVAL));
}

#[test]
fn descriptors_start_walks() {
    let env = Env::new();
    env.mkdir("/d").unwrap();
    let file = env.create("/d/f").unwrap();
    let dir = env.open("/d", OpenFlags::PATH, 0).unwrap();
    let dir = env.files.insert(dir, 3, 64, FdFlags::empty()).unwrap();
    let file = env.files.insert(file, 3, 64, FdFlags::empty()).unwrap();
    let walk = |at, name: &str, flags| vfs::walk(&env.ctx(), at, name.as_bytes(), flags);
    assert!(walk(At::Fd(dir), "f", WalkFlags::FOLLOW).is_ok());
    assert_eq!(walk(At::Fd(file), "f", WalkFlags::FOLLOW).unwrap_err(), Errno::ENOTDIR);
    assert!(walk(At::Fd(file), "", WalkFlags::EMPTY_PATH).is_ok());
    assert_eq!(walk(At::Fd(file), "", WalkFlags::FOLLOW).unwrap_err(), Errno::ENOENT);
    assert_eq!(walk(At::Fd(99), "f", WalkFlags::FOLLOW).unwrap_err(), Errno::EBADF);
    assert!(walk(At::Fd(99), "/d", WalkFlags::FOLLOW).is_ok(), "an absolute name needs no descriptor");
    assert_eq!(env.files.get(dir).unwrap_err(), Errno::EBADF, "O_PATH");
}
