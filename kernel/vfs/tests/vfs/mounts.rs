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
    let text = String::from_utf8(show(&env.fs, Format::Mounts).unwrap()).unwrap();
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
    let text = String::from_utf8(show(&env.fs, Format::MountInfo).unwrap()).unwrap();
    let line = text.lines().nth(1).unwrap();
    assert!(line.contains(" /with\\040space/sub /b rw shared:"), "{text}");
    assert!(line.ends_with(" - rootfs rootfs rw,inode64"), "{text}");
}

const UNBINDABLE: u64 = 1 << 17;
const PRIVATE: u64 = 1 << 18;
const SLAVE: u64 = 1 << 19;
const SHARED: u64 = 1 << 20;

/// The optional fields of the mounts at `at` in mountinfo, the top one last.
fn optional_fields(env: &Env, at: &str) -> Vec<String> {
    let text = String::from_utf8(show(&env.fs, Format::MountInfo).unwrap()).unwrap();
    let lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let fields =
        |line: Vec<&str>| line[6..].iter().take_while(|f| **f != "-").copied().collect::<Vec<_>>().join(" ");
    lines.filter(|line| line[4] == at).map(fields).collect()
}

/// /s is a shared tmpfs with directories d and e; /peer, /slave, /both and /below are bound to it: a peer, a slave, a
/// slave that is shared too, and a slave of that.
fn env_with_groups() -> Env {
    let env = Env::new();
    for dir in ["/s", "/peer", "/slave", "/both", "/below"] {
        env.mkdir(dir).unwrap();
    }
    env.mount("x", "/s", "tmpfs", 0).unwrap();
    env.mount("", "/s", "", SHARED).unwrap();
    env.mkdir("/s/d").unwrap();
    env.mkdir("/s/e").unwrap();
    for dir in ["/peer", "/slave", "/both"] {
        env.mount("/s", dir, "", BIND).unwrap();
    }
    env.mount("", "/slave", "", SLAVE).unwrap();
    env.mount("", "/both", "", SLAVE).unwrap();
    env.mount("", "/both", "", SHARED).unwrap();
    env.mount("/both", "/below", "", BIND).unwrap();
    env.mount("", "/below", "", SLAVE).unwrap();
    env
}

fn nr_at(env: &Env, at: &str) -> usize {
    optional_fields(env, at).len()
}

#[test]
fn a_mount_appears_on_peers_and_slaves_but_not_above() {
    let env = env_with_groups();
    env.mount("n", "/peer/d", "tmpfs", 0).unwrap();
    env.create("/peer/d/f").unwrap();
    for at in ["/s/d", "/slave/d", "/both/d", "/below/d"] {
        assert_eq!(env.list(at), ["f"], "{at}");
    }
    let shared = &optional_fields(&env, "/s/d")[0];
    assert_eq!(&optional_fields(&env, "/peer/d")[0], shared);
    assert_eq!(optional_fields(&env, "/slave/d")[0], shared.replace("shared", "master"));
    let both = &optional_fields(&env, "/both/d")[0];
    assert!(both.contains("shared:") && both.ends_with(&shared.replace("shared", "master")), "{both}");
    assert!(both.contains(&optional_fields(&env, "/below/d")[0].replace("master", "shared")));

    env.mount("m", "/both/e", "tmpfs", 0).unwrap();
    assert_eq!([nr_at(&env, "/s/e"), nr_at(&env, "/below/e"), nr_at(&env, "/slave/e")], [0, 1, 0]);
    env.umount("/s/d", 0).unwrap();
    for at in ["/s/d", "/peer/d", "/slave/d", "/both/d", "/below/d"] {
        assert_eq!(nr_at(&env, at), 0, "{at}");
    }
    assert_eq!(nr_at(&env, "/both/e"), 1);
}

#[test]
fn what_propagates_goes_under_what_is_there() {
    let env = env_with_groups();
    env.mount("own", "/slave/d", "tmpfs", 0).unwrap();
    env.create("/slave/d/own").unwrap();
    env.mount("n", "/s/d", "tmpfs", 0).unwrap();
    assert_eq!(env.list("/slave/d"), ["own"]);
    assert_eq!(nr_at(&env, "/slave/d"), 2);
    env.umount("/s/d", DETACH).unwrap();
    assert_eq!(env.list("/slave/d"), ["own"]);
    assert_eq!(nr_at(&env, "/slave/d"), 1);
}

#[test]
fn what_is_mounted_upon_or_in_use_elsewhere_stays() {
    let env = env_with_groups();
    env.mount("n", "/s/d", "tmpfs", 0).unwrap();
    env.mkdir("/s/d/in").unwrap();
    env.mount("m", "/slave/d/in", "tmpfs", 0).unwrap();
    let held = env.walk("/peer/d").unwrap();
    assert_eq!(env.umount("/s/d", 0), Err(Errno::EBUSY));
    drop(held);
    env.umount("/s/d", 0).unwrap();
    assert_eq!([nr_at(&env, "/peer/d"), nr_at(&env, "/slave/d")], [0, 1]);
}

#[test]
fn moves_and_binds_mind_propagation() {
    let env = env_with_groups();
    env.mkdir("/u").unwrap();
    env.mkdir("/to").unwrap();
    env.mount("u", "/u", "tmpfs", 0).unwrap();
    env.mount("", "/u", "", UNBINDABLE).unwrap();
    assert_eq!(optional_fields(&env, "/u"), ["unbindable"]);
    assert_eq!(env.mount("/u", "/to", "", BIND), Err(Errno::EINVAL));
    assert_eq!(env.mount("/u", "/s/d", "", MOVE), Err(Errno::EINVAL), "unbindable into shared");
    env.mount("", "/u", "", PRIVATE).unwrap();
    env.mount("/u", "/s/d", "", MOVE).unwrap();
    assert_eq!(nr_at(&env, "/peer/d"), 1);
    assert_eq!(env.mount("/s/d", "/to", "", MOVE), Err(Errno::EINVAL), "out of a shared parent");
    env.mount("", "/s", "", PRIVATE).unwrap();
    env.mount("/s/d", "/to", "", MOVE).unwrap();
    assert_eq!(nr_at(&env, "/peer/d"), 1, "the copy stays");
}

#[test]
fn slaves_of_a_group_that_ends_follow_its_master() {
    let env = env_with_groups();
    let master = optional_fields(&env, "/s")[0].replace("shared", "master");
    env.umount("/both", 0).unwrap();
    assert_eq!(optional_fields(&env, "/below"), [master]);
    env.umount("/s", 0).unwrap();
    env.umount("/peer", 0).unwrap();
    assert_eq!(optional_fields(&env, "/below"), [""]);
}

#[test]
fn a_tree_bound_into_itself_does_not_grow_without_end() {
    let env = env_with_groups();
    env.mount("/s", "/s/d", "", BIND | REC).unwrap();
    let nr = nr_at(&env, "/s/d") + nr_at(&env, "/peer/d") + nr_at(&env, "/slave/d");
    assert_eq!(nr, 3);
    assert_eq!(nr_at(&env, "/s/d/d"), 0);
}
