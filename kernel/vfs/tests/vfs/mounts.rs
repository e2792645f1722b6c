//! The mount tree.

use abi::Errno;
use vfs::mountinfo::{Format, show};

use crate::env::Env;

const RDONLY: u64 = 1;
const REMOUNT: u64 = 32;
const BIND: u64 = 4096;
const MOVE: u64 = 8192;
const REC: u64 = 16384;
const DETACH: u32 = 2;

#[test]
fn a_mount_covers_and_umount_uncovers() {
    let env = Env::new();
    env.mkdir("/m").unwrap();
    env.create("/m/below").unwrap();
    env.mount("x", "/m", "tmpfs", 0).unwrap();
    assert!(env.list("/m").is_empty());
    env.mkdir("/m/in").unwrap();
    env.chdir("/m/in").unwrap();
    assert_eq!(env.cwd(), "/m/in");
    assert_eq!(env.stat("../..").unwrap().st_ino, env.stat("/").unwrap().st_ino);
    env.chdir("/").unwrap();
    assert_eq!(env.rmdir("/m"), Err(Errno::EBUSY));
    assert_eq!(env.umount("/m/in", 0), Err(Errno::EINVAL));
    // Whether it is busy depends on grace periods, which CPUs of other tests hold up: guests test that.
    env.umount("/m", DETACH).unwrap();
    assert_eq!(env.list("/m"), ["below"]);
    assert_eq!(env.mount("x", "/m/below", "tmpfs", 0), Err(Errno::ENOTDIR));
    assert_eq!(env.mount("x", "/m", "nonsense", 0), Err(Errno::ENODEV));
    assert_eq!(env.as_user(1).mount("x", "/m", "tmpfs", 0), Err(Errno::EPERM));
}

#[test]
fn binds_show_the_same_tree_and_lazy_unmount_takes_all() {
    let env = Env::new();
    for dir in ["/a", "/a/sub", "/b", "/c"] {
        env.mkdir(dir).unwrap();
    }
    env.mount("x", "/a/sub", "tmpfs", 0).unwrap();
    env.create("/a/sub/f").unwrap();
    env.mount("/a", "/b", "", BIND).unwrap();
    assert!(env.list("/b/sub").is_empty());
    env.mount("/a", "/c", "", BIND | REC).unwrap();
    assert_eq!(env.list("/c/sub"), ["f"]);
    env.create("/b/new").unwrap();
    assert!(env.stat("/a/new").is_ok() && env.stat("/c/new").is_ok());
    assert_eq!(env.link("/a/new", "/b/link"), Err(Errno::EXDEV));
    env.umount("/c", DETACH).unwrap();
    assert!(env.list("/c").is_empty());
    assert_eq!(env.list("/a/sub"), ["f"]);
}

#[test]
fn read_only_means_read_only() {
    use abi::fs::OpenFlags;
    let env = Env::new();
    env.mkdir("/m").unwrap();
    env.mount("x", "/m", "tmpfs", 0).unwrap();
    let file = env.create("/m/f").unwrap();
    assert_eq!(env.mount("", "/m", "", REMOUNT | RDONLY), Err(Errno::EBUSY));
    drop(file);
    env.mount("", "/m", "", REMOUNT | BIND | RDONLY).unwrap();
    assert_eq!(env.create("/m/g").unwrap_err(), Errno::EROFS);
    assert_eq!(env.create("/m/f").unwrap_err(), Errno::EEXIST);
    assert_eq!(env.unlink("/m/f"), Err(Errno::EROFS));
    assert_eq!(env.open("/m/f", OpenFlags::WRONLY, 0).unwrap_err(), Errno::EROFS);
    assert!(env.open("/m/f", OpenFlags::empty(), 0).is_ok());
    env.mount("", "/m", "", REMOUNT | BIND).unwrap();
    env.create("/m/g").unwrap();
}

#[test]
fn switch_root_moves_the_new_root_over_the_old() {
    let env = Env::new();
    env.mkdir("/new").unwrap();
    env.mount("x", "/new", "tmpfs", 0).unwrap();
    env.mkdir("/new/dev").unwrap();
    env.mkdir("/dev").unwrap();
    env.mount("d", "/dev", "tmpfs", 0).unwrap();
    env.create("/dev/null").unwrap();
    env.mount("/dev", "/new/dev", "", MOVE).unwrap();
    env.chdir("/new").unwrap();
    env.mount("/new", "/", "", MOVE).unwrap();
    let here = env.fs.cwd();
    vfs::namespace::chroot(&env.ctx(), here).unwrap();
    env.chdir("/").unwrap();
    assert_eq!(env.list("/"), ["dev"]);
    assert_eq!(env.list("/dev"), ["null"]);
    assert_eq!(env.cwd(), "/");
    assert_eq!(env.stat("/..").unwrap().st_ino, env.stat("/").unwrap().st_ino);
    let text = String::from_utf8(show(&env.fs, Format::Mounts)).unwrap();
    assert!(text.starts_with("x / tmpfs rw,relatime"), "{text}");
    assert!(text.contains("\nd /dev tmpfs rw,relatime"), "{text}");
    assert_eq!(text.lines().count(), 2);
}

#[test]
fn pivot_root_swaps_roots() {
    let env = Env::new();
    // As in an initramfs that has mounted a real root over rootfs.
    env.mkdir("/r").unwrap();
    env.mount("r", "/r", "tmpfs", 0).unwrap();
    let root = env.walk("/r").unwrap();
    vfs::namespace::chroot(&env.ctx(), root).unwrap();
    env.chdir("/").unwrap();
    env.mkdir("/new").unwrap();
    env.mount("n", "/new", "tmpfs", 0).unwrap();
    env.mkdir("/new/old").unwrap();
    let ctx = env.ctx();
    assert_eq!(vfs::mount_ops::pivot_root(&ctx, b"/new", b"/"), Err(Errno::EBUSY));
    vfs::mount_ops::pivot_root(&ctx, b"/new", b"/new/old").unwrap();
    assert_eq!(env.list("/"), ["old"]);
    assert_eq!(env.list("/old"), ["new"]);
    env.umount("/old", DETACH).unwrap();
    assert!(env.list("/old").is_empty());
}

#[test]
fn mountinfo_tells_ids_roots_and_escapes() {
    let env = Env::new();
    env.mkdir("/with space").unwrap();
    env.mkdir("/with space/sub").unwrap();
    env.mkdir("/b").unwrap();
    env.mount("/with space/sub", "/b", "", BIND).unwrap();
    env.mount("", "/b", "", 1 << 20).unwrap();
    let text = String::from_utf8(show(&env.fs, Format::MountInfo)).unwrap();
    let line = text.lines().nth(1).unwrap();
    assert!(line.contains(" /with\\040space/sub /b rw shared:"), "{text}");
    assert!(line.ends_with(" - rootfs rootfs rw,inode64"), "{text}");
}
