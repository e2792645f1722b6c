//! Mount namespaces made from nothing or from one tree, the empty directory at the bottom of each, and what is told of
//! namespaces that the caller is not in.

use crate::mountkit::{OPEN_TREE, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT, STATMOUNT, LISTMOUNT, CLONE, RECURSIVE, F_EMPTY_PATH, BENEATH, own_namespace, number, string};
use crate::prelude::*;

tests!(
    "mountns":
    an_empty_namespace, empty_ones_need_rights, a_root_upon_nothing, the_first_root_is_exchanged, beneath_the_root,
    locks_pass_to_what_comes_beneath, a_namespace_of_one_tree, a_namespace_of_a_new_file_system,
    statmount_by_descriptor, statmount_of_other_namespaces, namespaces_in_a_row, the_own_root_becomes_readonly,
);


const EMPTY_MNTNS: i32 = 0x0010_0000;
const CLONE_EMPTY_MNTNS: u64 = 1 << 37;
const NAMESPACE: i32 = 2;
const BY_FD: i32 = 1;
const ROOT: u64 = u64::MAX;

const NS_GET_MNTNS_ID: u32 = 0x8008_b705;
const NS_MNT_GET_INFO: u32 = 0x8010_b70a;
const NS_MNT_GET_NEXT: u32 = 0x8010_b70b;
const NS_MNT_GET_PREV: u32 = 0x8010_b70c;

type Res = Result<usize, Errno>;

/// The context of a tmpfs that is ready to be mounted.
fn ready() -> usize {
    let fs = sys!(FSOPEN, c"tmpfs", 1).unwrap();
    sys!(FSCONFIG, fs, 6, 0, 0, 0).unwrap();
    fs
}

/// A detached tmpfs.
fn detached() -> usize {
    let fs = ready();
    let tree = sys!(FSMOUNT, fs, 1, 0).unwrap();
    close(fs as i32);
    tree
}

fn attach(tree: usize, at: &std::ffi::CStr, flags: i32) -> Res {
    sys!(MOVE_MOUNT, tree, c"", AT_FDCWD, at, F_EMPTY_PATH | flags)
}

/// The unique id of the mount at `p`, or of descriptor `fd` when that is empty.
fn mount_id(fd: i32, p: &std::ffi::CStr) -> u64 {
    const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
    let mut sx: statx = zero();
    sys!(SYS_statx, fd, p, AT_EMPTY_PATH, STATX_MNT_ID_UNIQUE, &mut sx).unwrap();
    sx.stx_mnt_id
}

fn root_id() -> u64 {
    mount_id(AT_FDCWD, c"/")
}

/// A request about the mount `id` in the namespace number `ns` (0: the caller's).
fn request(id: u64, param: u64, ns: u64) -> [u64; 4] {
    [32, id, param, ns]
}

fn stat_mount(id: u64, mask: u64, ns: u64) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0u8; 4096];
    sys!(STATMOUNT, &request(id, mask, ns), &mut buf[..], 4096, 0).map(|_| buf)
}

fn stat_fd(fd: i32, mask: u64) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0u8; 4096];
    let first = 32 | (fd as u32 as u64) << 32;
    sys!(STATMOUNT, &[first, 0, mask, 0], &mut buf[..], 4096, BY_FD).map(|_| buf)
}

fn list(ns: u64) -> Result<Vec<u64>, Errno> {
    let mut ids = [0u64; 64];
    sys!(LISTMOUNT, &request(ROOT, 0, ns), &mut ids, 64, 0).map(|n| ids[..n].to_vec())
}

fn fs_type(id: u64, ns: u64) -> String {
    string(&stat_mount(id, 0x20, ns).unwrap(), 36)
}

fn ns_id(fd: i32) -> u64 {
    let mut id = 0u64;
    sys!(SYS_ioctl, fd, NS_GET_MNTNS_ID, &mut id).unwrap();
    id
}

fn own_ns() -> i32 {
    open(&cstr("/proc/self/ns/mnt"), O_RDONLY | O_CLOEXEC).unwrap()
}

fn an_empty_namespace() {
    aside(|| {
        sys!(SYS_unshare, EMPTY_MNTNS).unwrap();
        assert_eq!(list(0), Ok(vec![root_id()]));
        assert_eq!(mount_id(AT_FDCWD, c"."), root_id());
        assert_eq!(fs_type(root_id(), 0), "nullfs");
        let basic = stat_mount(root_id(), 0x13, 0).unwrap();
        assert_eq!(number(&basic, 48), root_id(), "it is its own parent");
        assert_eq!(number(&basic, 24), 0x4e55_4c4c, "magic");
        assert_eq!(string(&basic, 108), "/");
        let root = stat_path(&cstr("/")).unwrap();
        assert_eq!((root.st_mode, root.st_uid, root.st_nlink), (0o040_555, 0, 2));
        let fd = open(&cstr("/"), O_RDONLY | O_DIRECTORY).unwrap();
        let mut entries = [0u8; 256];
        assert_eq!(sys!(SYS_getdents64, fd, &mut entries, 256), Ok(48), "nothing but . and ..");
        assert_eq!(sys!(SYS_openat, AT_FDCWD, c"/f", O_CREAT | O_RDWR, 0o644), Err(ENOENT));
        assert_eq!(sys!(SYS_mkdir, c"/d", 0o755), Err(ENOENT));
        assert_eq!(sys!(SYS_chmod, c"/", 0o777), Err(EPERM));
        assert_eq!(sys!(SYS_umount2, c"/", MNT_DETACH), Err(EINVAL), "the bottom stays");
        assert_eq!(sys!(SYS_pivot_root, c"/", c"/"), Err(EBUSY));
    });
}

fn empty_ones_need_rights() {
    assert_eq!(sys!(SYS_unshare, CLONE_EMPTY_MNTNS), Err(EINVAL), "that is clone3's number");
    let clone = |flags: u64| {
        let mut args: clone_args = zero();
        args.flags = flags;
        args.exit_signal = SIGCHLD as u64;
        match sys!(SYS_clone3, &args, size_of::<clone_args>())? {
            0 => exit(i32::from(list(0) != Ok(vec![root_id()]))),
            pid => {
                Child(pid as i32).ok();
                Ok(())
            }
        }
    };
    assert_eq!(clone(CLONE_EMPTY_MNTNS), Ok(()));
    assert_eq!(clone(CLONE_EMPTY_MNTNS | CLONE_NEWNS as u64 | CLONE_NEWUTS as u64), Ok(()));
    assert_eq!(clone(CLONE_EMPTY_MNTNS | CLONE_FS as u64), Err(EINVAL));
    aside(|| {
        drop_root();
        assert_eq!(clone(CLONE_EMPTY_MNTNS), Err(EPERM));
        assert_eq!(sys!(SYS_unshare, EMPTY_MNTNS), Err(EPERM));
    });
}

fn a_root_upon_nothing() {
    aside(|| {
        let outside = own_ns();
        sys!(SYS_unshare, EMPTY_MNTNS).unwrap();
        let tree = detached();
        attach(tree, c"/", 0).unwrap();
        assert_eq!(list(0).unwrap().len(), 2);
        assert_eq!(fs_type(root_id(), 0), "nullfs", "the root itself is not covered");
        sys!(SYS_fchdir, tree).unwrap();
        sys!(SYS_chroot, c".").unwrap();
        assert_eq!(fs_type(root_id(), 0), "tmpfs");
        sys!(SYS_mkdir, c"/d", 0o755).unwrap();
        assert_eq!(list(0), Ok(vec![root_id()]), "what is below the root is not reachable");
        sys!(SYS_setns, outside, CLONE_NEWNS).unwrap();
        assert!(list(0).unwrap().len() > 1);
    });
}

fn the_first_root_is_exchanged() {
    own_namespace();
    let at = mkdir("new");
    sys!(SYS_mount, c"n", &at, c"tmpfs", 0, 0).unwrap();
    ignore(mkdir("new/old"));
    aside(|| {
        sys!(SYS_unshare, CLONE_NEWNS).unwrap();
        sys!(SYS_pivot_root, &at, &path("new/old")).unwrap();
        sys!(SYS_chdir, c"/").unwrap();
        assert!(stat_path(&cstr("/old/proc")).is_ok());
        sys!(SYS_umount2, c"/old", MNT_DETACH).unwrap();
        assert_eq!(list(0).unwrap().len(), 1);
        assert_eq!(sys!(SYS_rmdir, c"/old"), Ok(0));
    });
}

fn beneath_the_root() {
    own_namespace();
    aside(|| {
        let old = root_id();
        let tree = sys!(OPEN_TREE, AT_FDCWD, c"/", CLONE).unwrap();
        let new = mount_id(tree as i32, c"");
        sys!(SYS_fchdir, tree).unwrap();
        attach(tree, c"/", BENEATH).unwrap();
        assert_eq!(root_id(), old);
        sys!(SYS_chroot, c".").unwrap();
        assert_eq!(root_id(), new);
        assert_eq!(number(&stat_mount(old, 2, 0).unwrap(), 48), new, "the old one is upon it");
        sys!(SYS_umount2, c".", MNT_DETACH).unwrap();
        assert_eq!(list(0), Ok(vec![new]));
    });
}

fn locks_pass_to_what_comes_beneath() {
    own_namespace();
    sys!(SYS_chmod, &path("."), 0o755).unwrap();
    let at = mkdir("m");
    for name in [c"a", c"b"] {
        sys!(SYS_mount, name, &at, c"tmpfs", 0, 0).unwrap();
    }
    aside(|| {
        sys!(SYS_unshare, CLONE_NEWUSER | CLONE_NEWNS).unwrap();
        let unmount = |p: &std::ffi::CStr| sys!(SYS_umount2, p, MNT_DETACH);
        assert_eq!((unmount(&at), unmount(c"/")), (Err(EINVAL), Err(EINVAL)));
        let tree = detached();
        let new = mount_id(tree as i32, c"");
        attach(tree, &at, BENEATH).unwrap();
        assert_eq!(unmount(&at), Ok(0), "it is free now");
        assert_eq!(mount_id(AT_FDCWD, &at), new);
        assert_eq!(unmount(&at), Err(EINVAL), "and the new one bound");
    });
}

fn a_namespace_of_one_tree() {
    own_namespace();
    let at = mkdir("m");
    sys!(SYS_mount, c"outer", &at, c"tmpfs", 0, 0).unwrap();
    ignore(mkdir("m/in"));
    sys!(SYS_mount, c"inner", &path("m/in"), c"tmpfs", 0, 0).unwrap();
    let tree = |p: &std::ffi::CStr, flags: i32| sys!(OPEN_TREE, AT_FDCWD, p, flags | O_CLOEXEC);
    assert_eq!(tree(&at, RECURSIVE), Err(EINVAL));
    assert_eq!(tree(&at, CLONE | NAMESPACE), Err(EINVAL));
    let one = tree(&at, NAMESPACE).unwrap() as i32;
    let all = tree(&at, NAMESPACE | RECURSIVE).unwrap() as i32;
    assert_ne!(ns_id(one), ns_id(own_ns()));
    assert_eq!((list(ns_id(one)).unwrap().len(), list(ns_id(all)).unwrap().len()), (1, 2));
    let top = list(ns_id(all)).unwrap()[0];
    let found = stat_mount(top, 0x52, ns_id(all)).unwrap();
    assert_ne!(number(&found, 48), top, "the bottom is below it");
    assert_eq!(number(&found, 112), ns_id(all));
    assert_eq!(string(&found, 108), "/");
    aside(|| {
        sys!(SYS_setns, all, CLONE_NEWNS).unwrap();
        assert_eq!(root_id(), top);
        assert_eq!(fs_type(mount_id(AT_FDCWD, c"/in"), 0), "tmpfs");
        assert_eq!(sys!(SYS_umount2, c"/in", MNT_DETACH), Ok(0));
        assert_eq!(sys!(SYS_umount2, c"/", MNT_DETACH), Ok(0));
    });
    sys!(SYS_chmod, &path("."), 0o755).unwrap();
    aside(|| {
        drop_root();
        assert_eq!(tree(&at, NAMESPACE), Err(EPERM));
        // The capabilities in a user namespace of one's own are enough; what is hidden stays hidden.
        sys!(SYS_unshare, CLONE_NEWUSER).unwrap();
        let own = tree(c"/", NAMESPACE | RECURSIVE).unwrap();
        sys!(SYS_setns, own, CLONE_NEWNS).unwrap();
        assert_eq!(sys!(SYS_umount2, &at, MNT_DETACH), Err(EINVAL));
        assert_eq!(sys!(SYS_umount2, c"/", MNT_DETACH), Err(EINVAL));
    });
    sys!(SYS_mount, 0, &at, 0, MS_UNBINDABLE, 0).unwrap();
    assert_eq!(tree(&at, NAMESPACE), Err(EINVAL));
}

fn a_namespace_of_a_new_file_system() {
    let fs = ready();
    assert_eq!(sys!(FSMOUNT, fs, 4, 0), Err(EINVAL));
    let ns = sys!(FSMOUNT, fs, NAMESPACE | 1, 1 | 8).unwrap() as i32;
    assert_eq!(sys!(FSMOUNT, fs, NAMESPACE, 0), Err(EBUSY));
    let ids = list(ns_id(ns)).unwrap();
    assert_eq!(fs_type(ids[0], ns_id(ns)), "tmpfs");
    assert_eq!(number(&stat_mount(ids[0], 2, ns_id(ns)).unwrap(), 64), 1 | 8, "read-only, noexec");
    let other = ready();
    aside(|| {
        sys!(SYS_setns, ns, CLONE_NEWNS).unwrap();
        assert_eq!(sys!(SYS_mkdir, c"/d", 0o755), Err(EROFS));
        drop_root();
        assert_eq!(sys!(FSMOUNT, other, NAMESPACE, 0), Err(EPERM));
    });
}

fn statmount_by_descriptor() {
    own_namespace();
    let at = mkdir("m");
    sys!(SYS_mount, c"x", &at, c"tmpfs", 0, 0).unwrap();
    let id = mount_id(AT_FDCWD, &at);
    let fd = open(&at, O_PATH).unwrap();
    let found = stat_fd(fd, 0x52).unwrap();
    assert_eq!((number(&found, 8), number(&found, 40)), (0x52, id));
    assert_eq!(number(&found, 112), ns_id(own_ns()));
    assert_eq!(string(&found, 108), at.to_str().unwrap());
    assert_eq!(stat_fd(-1, 2).map(drop), Err(EBADF));
    let mut buf = [0u8; 512];
    let first = 32 | (fd as u64) << 32;
    assert_eq!(sys!(STATMOUNT, &[first, id, 2, 0], &mut buf, 512, BY_FD), Err(EINVAL), "both a mount and a descriptor");
    assert_eq!(sys!(STATMOUNT, &[first, 0, 2, 0], &mut buf, 512, 2), Err(EINVAL));
    assert_eq!(stat_fd(pipe().0, 2).map(drop), Err(EINVAL), "on no mount that anybody sees");
    sys!(SYS_chmod, &path("."), 0o755).unwrap();
    aside(|| {
        sys!(SYS_chroot, &path(".")).unwrap();
        drop_root();
        assert_eq!(string(&stat_fd(fd, 0x10).unwrap(), 108), "/m", "as the caller's root sees it");
    });
    let elsewhere = mkdir("elsewhere");
    aside(|| {
        sys!(SYS_chroot, &elsewhere).unwrap();
        drop_root();
        assert_eq!(stat_mount(id, 2, 0).map(drop), Err(EPERM));
        assert_eq!(number(&stat_fd(fd, 0x12).unwrap(), 8), 2, "there is no way to it");
    });
    sys!(SYS_umount2, &at, MNT_DETACH).unwrap();
    let found = stat_fd(fd, 0x52).unwrap();
    assert_eq!((number(&found, 8), number(&found, 40)), (2, id), "neither place nor namespace");
}

fn statmount_of_other_namespaces() {
    let outside = own_ns();
    let (outer, outer_ids) = (root_id(), list(0).unwrap());
    own_namespace();
    let ns = ns_id(outside);
    assert_eq!(list(ns), Ok(outer_ids));
    assert_eq!(number(&stat_mount(outer, 0x40, ns).unwrap(), 112), ns);
    assert_eq!(stat_mount(outer, 2, 0).map(drop), Err(ENOENT));
    assert_eq!(stat_mount(root_id(), 2, ns).map(drop), Err(ENOENT));
    assert_eq!(list(1 << 50), Err(ENOENT));
    let mut ids = [0u64; 64];
    let first = 32 | (outside as u64) << 32;
    assert_eq!(sys!(LISTMOUNT, &[first, ROOT, 0, ns], &mut ids, 64, 0), Err(EINVAL), "named twice");
    assert!(sys!(LISTMOUNT, &[first, ROOT, 0, 0], &mut ids, 64, 0).is_ok_and(|n| n > 0 && ids[..n].contains(&outer)));
    let not_one = 32 | (new_file("f") as u64) << 32;
    assert_eq!(sys!(LISTMOUNT, &[not_one, ROOT, 0, 0], &mut ids, 64, 0), Err(EINVAL));
    aside(|| {
        drop_root();
        assert_eq!(stat_mount(outer, 2, ns).map(drop), Err(EPERM));
        assert_eq!(list(ns), Err(ENOENT));
    });
}

fn namespaces_in_a_row() {
    let mut made = Vec::new();
    for _ in 0..3 {
        sys!(SYS_unshare, CLONE_NEWNS).unwrap();
        made.push(own_ns());
    }
    let step = |fd: i32, which: u32, info: &mut [u64; 2]| sys!(SYS_ioctl, fd, which, info).map(|fd| fd as i32);
    let mut info = [0u64; 2];
    assert_eq!(sys!(SYS_ioctl, made[0], NS_MNT_GET_INFO, &mut info), Ok(0));
    assert_eq!(info[1], ns_id(made[0]));
    assert!(info[0] >> 32 > 1 && info[0] as u32 == 16, "{info:x?}");
    // Others may make namespaces meanwhile: those of this test come in order among them.
    let follow = |from: i32, to: i32, which: u32| {
        let (mut at, mut info) = (from, [0u64; 2]);
        while ns_id(at) != ns_id(to) {
            let next = step(at, which, &mut info).unwrap();
            assert_eq!(info[1], ns_id(next));
            assert_eq!(which == NS_MNT_GET_NEXT, ns_id(next) > ns_id(at));
            at = next;
        }
    };
    follow(made[0], made[2], NS_MNT_GET_NEXT);
    follow(made[2], made[0], NS_MNT_GET_PREV);
    assert_eq!(sys!(SYS_ioctl, made[0], NS_MNT_GET_NEXT, 0), Err(EFAULT));
    let uts = open(&cstr("/proc/self/ns/uts"), O_RDONLY).unwrap();
    assert_eq!(step(uts, NS_MNT_GET_NEXT, &mut info), Err(EINVAL));
    aside(|| {
        drop_root();
        assert_eq!(step(made[0], NS_MNT_GET_NEXT, &mut info), Err(EPERM));
    });
}

fn the_own_root_becomes_readonly() {
    own_namespace();
    let at = mkdir("m");
    sys!(SYS_mount, c"x", &at, c"tmpfs", 0, 0).unwrap();
    aside(|| {
        sys!(SYS_chroot, &at).unwrap();
        sys!(SYS_chdir, c"/").unwrap();
        let held = open(&cstr("/f"), O_CREAT | O_WRONLY).unwrap();
        assert_eq!(sys!(SYS_umount2, c"/", 0), Err(EBUSY), "open for writing");
        close(held);
        assert_eq!(sys!(SYS_umount2, c"/", 0), Ok(0));
        assert_eq!(sys!(SYS_mkdir, c"/d", 0o755), Err(EROFS));
        assert_eq!(sys!(SYS_umount2, c"/", 0), Ok(0), "it is already");
    });
}
