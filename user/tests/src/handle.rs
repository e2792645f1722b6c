//! Files by handle (name_to_handle_at(2), open_by_handle_at(2)), and listns(2), whose numbers make handles.

use std::ffi::{CStr, CString};

use crate::prelude::*;

tests!(
    "handle":
    a_file_of_tmpfs, only_to_tell_apart, a_process, a_namespace, refusals, listns_counts_what_is_in_use, listns_errors,
);

const SYS_LISTNS: c_long = 470;
const MNT_ID_UNIQUE: i32 = 1;
const FID: i32 = 0x200;
const PIDFS_ROOT: i32 = -10002;
const NSFS_ROOT: i32 = -10003;
const NS_GET_ID: i32 = 0x8008_b70du32 as i32;

/// `struct file_handle` with room for the longest handle: number of bytes, type, the bytes as words.
type Handle = [u32; 34];

fn with_room(len: u32) -> Handle {
    let mut handle = [0; 34];
    handle[0] = len;
    handle
}

fn name(dirfd: i32, name: &CStr, flags: i32) -> Result<(Handle, i32), Errno> {
    let (mut handle, mut mount) = (with_room(128), 0i32);
    sys!(SYS_name_to_handle_at, dirfd, name, &mut handle, &mut mount, flags)?;
    Ok((handle, mount))
}

fn open_handle(beside: i32, handle: &Handle, flags: i32) -> Result<i32, Errno> {
    sys!(SYS_open_by_handle_at, beside, handle, flags).map(|fd| fd as i32)
}

fn is_same(a: i32, b: i32) -> bool {
    let (a, b) = (fstat(a), fstat(b));
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

fn mount_tmpfs() -> CString {
    sys!(SYS_unshare, CLONE_NEWNS).unwrap();
    let at = mkdir("tmpfs");
    sys!(SYS_mount, c"none", &at, c"tmpfs", 0, 0).unwrap();
    at
}

fn a_file_of_tmpfs() {
    aside(|| {
        let at = mount_tmpfs();
        let under = |name: &str| cstr(format!("{}/{name}", at.to_str().unwrap()));
        sys!(SYS_mkdir, &under("d"), 0o755).unwrap();
        let file = open(&under("d/f"), O_RDWR | O_CREAT).unwrap();
        write(file, b"text").unwrap();
        let top = open(&at, O_RDONLY).unwrap();
        let (handle, mount) = name(AT_FDCWD, &under("d/f"), 0).unwrap();
        assert_eq!(handle[..2], [12, 1]);
        assert_eq!(name(file, c"", AT_EMPTY_PATH).unwrap().0[2..5], handle[2..5]);
        let info = slurp("/proc/self/mountinfo");
        assert!(info.lines().any(|line| line.starts_with(&format!("{mount} "))));
        let found = open_handle(top, &handle, O_RDONLY).unwrap();
        assert!(is_same(found, file));
        assert_eq!(read_vec(found, 9), Ok(b"text".to_vec()));
        let (dir, _) = name(AT_FDCWD, &under("d"), 0).unwrap();
        let found_dir = open_handle(top, &dir, O_RDONLY | O_DIRECTORY).unwrap();
        assert!(is_same(found_dir, open(&under("d"), O_PATH).unwrap()));
        assert_eq!(open_handle(top, &handle, O_RDONLY | O_DIRECTORY), Err(ENOTDIR));
        sys!(SYS_unlink, &under("d/f")).unwrap();
        close(file);
        close(found);
        assert_eq!(open_handle(top, &handle, O_RDONLY), Err(Errno::ESTALE));
        drop_root();
        assert_eq!(open_handle(top, &dir, O_RDONLY), Err(EPERM));
    });
}

fn only_to_tell_apart() {
    assert_eq!(name(AT_FDCWD, c"/proc/version", 0).err(), Some(EOPNOTSUPP));
    let (one, _) = name(AT_FDCWD, c"/proc/version", FID).unwrap();
    let (two, _) = name(AT_FDCWD, c"/proc/uptime", FID).unwrap();
    assert_eq!(one[..2], [12, 0x81]);
    assert_ne!(one[2..], two[2..]);
    assert_eq!(open_handle(open(&cstr("/proc"), O_RDONLY).unwrap(), &one, O_RDONLY), Err(Errno::ESTALE));
}

fn a_process() {
    let pidfd = |pid: i32| sys!(SYS_pidfd_open, pid, 0).unwrap() as i32;
    let c = child(|| nap(20_000));
    let fd = pidfd(c.0);
    let (handle, _) = name(fd, c"", AT_EMPTY_PATH).unwrap();
    assert_eq!(handle[0], 8);
    for beside in [PIDFS_ROOT, pidfd(getpid())] {
        assert!(is_same(open_handle(beside, &handle, O_CLOEXEC).unwrap(), fd));
    }
    let again = open_handle(PIDFS_ROOT, &handle, 0).unwrap();
    for flags in [O_PATH, O_DIRECTORY, O_APPEND, O_NOFOLLOW] {
        assert!(open_handle(PIDFS_ROOT, &handle, flags).is_err(), "{flags:#o}");
    }
    sys!(SYS_pidfd_send_signal, again, SIGKILL, 0, 0).unwrap();
    assert_eq!(c.wait(), Status::Signal(SIGKILL));
    assert_eq!(open_handle(PIDFS_ROOT, &handle, 0), Err(Errno::ESTALE));
}

fn ns_file(kind: &str) -> i32 {
    open(&cstr(format!("/proc/self/ns/{kind}")), O_RDONLY).unwrap()
}

fn ns_id(fd: i32) -> u64 {
    let mut id = 0u64;
    sys!(SYS_ioctl, fd, NS_GET_ID, &mut id).unwrap();
    id
}

fn a_namespace() {
    for kind in ["net", "uts", "ipc", "pid", "mnt", "user", "cgroup", "time"] {
        let fd = ns_file(kind);
        let (handle, _) = name(fd, c"", AT_EMPTY_PATH).unwrap();
        assert_eq!(handle[..2], [16, 0xf1], "{kind}");
        assert!(is_same(open_handle(NSFS_ROOT, &handle, O_RDONLY).unwrap(), fd), "{kind}");
        let mut bare = handle;
        bare[4..6].fill(0);
        assert!(is_same(open_handle(NSFS_ROOT, &bare, O_RDONLY).unwrap(), fd), "{kind}: the number is enough");
        bare[5] = 1;
        assert_eq!(open_handle(NSFS_ROOT, &bare, O_RDONLY), Err(Errno::ESTALE));
    }
    let (handle, _) = name(ns_file("uts"), c"", AT_EMPTY_PATH).unwrap();
    assert_eq!(open_handle(NSFS_ROOT, &handle, O_RDWR), Err(EPERM));
    assert_eq!(open_handle(NSFS_ROOT, &handle, O_DIRECTORY), Err(ENOTDIR));
    aside(|| {
        drop_root();
        assert!(open_handle(NSFS_ROOT, &handle, O_RDONLY).is_ok(), "the caller is in it");
        sys!(SYS_unshare, CLONE_NEWUSER | CLONE_NEWUTS).unwrap();
        assert_eq!(open_handle(NSFS_ROOT, &handle, O_RDONLY), Err(Errno::ESTALE));
    });
}

fn changed(handle: &Handle, at: usize, value: u32) -> Handle {
    let mut handle = *handle;
    handle[at] = value;
    handle
}

fn refusals() {
    let (handle, _) = name(AT_FDCWD, c"/tmp", 0).unwrap();
    let mut small = with_room(4);
    let mut mount = 0u64;
    let ask = |h: &mut Handle, mount: &mut u64, flags: i32| {
        sys!(SYS_name_to_handle_at, AT_FDCWD, c"/tmp", h, mount, flags)
    };
    assert_eq!(ask(&mut small, &mut mount, 0), Err(EOVERFLOW));
    assert_eq!(small[0], handle[0], "the size it needs");
    assert_eq!(ask(&mut with_room(129), &mut mount, 0), Err(EINVAL));
    assert_eq!(ask(&mut with_room(128), &mut mount, 0x8000), Err(EINVAL));
    assert_eq!(ask(&mut with_room(128), &mut mount, FID | 2), Err(EINVAL));
    assert_eq!(ask(&mut with_room(128), &mut mount, MNT_ID_UNIQUE), Ok(0));
    assert!(mount > 1 << 31);
    assert_eq!(sys!(SYS_name_to_handle_at, AT_FDCWD, c"/tmp", BAD, &mut mount, 0), Err(EFAULT));
    assert_eq!(name(AT_FDCWD, c"/nowhere", 0).err(), Some(ENOENT));
    let top = open(&cstr("/tmp"), O_RDONLY).unwrap();
    assert_eq!(open_handle(top, &changed(&handle, 0, 0), O_RDONLY), Err(EINVAL));
    assert_eq!(open_handle(top, &changed(&handle, 0, 129), O_RDONLY), Err(EINVAL));
    assert_eq!(open_handle(999, &handle, O_RDONLY), Err(EBADF));
}

/// `struct ns_id_req`.
fn listns(after: u64, kinds: i32, owner: u64) -> Result<Vec<u64>, Errno> {
    let request = [32, after, kinds as u64, owner];
    let mut ids = [0u64; 200];
    let nr = sys!(SYS_LISTNS, &request, &mut ids, 200, 0)?;
    Ok(ids[..nr].to_vec())
}

fn listns_counts_what_is_in_use() {
    let all = listns(0, 0, 0).unwrap();
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "ascending");
    let own = ns_id(ns_file("net"));
    assert!(all.contains(&own) && listns(0, CLONE_NEWNET, 0).unwrap().contains(&own));
    assert_eq!(listns(all[1], 0, 0).unwrap(), all[2..], "the next page");
    let (read_end, write_end) = pipe();
    let c = child(|| {
        sys!(SYS_unshare, CLONE_NEWNET | CLONE_NEWUTS).unwrap();
        for kind in ["net", "uts"] {
            write(write_end, &ns_id(ns_file(kind)).to_ne_bytes()).unwrap();
        }
        nap(20_000);
    });
    let id = || u64::from_ne_bytes(read_vec(read_end, 8).unwrap().try_into().unwrap());
    let (net, uts) = (id(), id());
    let kept = open(&cstr(format!("/proc/{}/ns/uts", c.0)), O_RDONLY).unwrap();
    let now = listns(0, CLONE_NEWNET | CLONE_NEWUTS, 0).unwrap();
    assert!(now.contains(&net) && now.contains(&uts));
    c.kill(SIGKILL);
    c.wait();
    let later = listns(0, 0, 0).unwrap();
    assert!(!later.contains(&net) && later.contains(&uts), "a descriptor keeps one");
    close(kept);
    assert!(!listns(0, 0, 0).unwrap().contains(&uts));
    aside(|| {
        drop_root();
        let shown = listns(0, CLONE_NEWUTS, 0).unwrap();
        assert_eq!(shown, [ns_id(ns_file("uts"))], "only the own one");
    });
}

fn listns_errors() {
    assert_eq!(listns(0, 1, 0), Err(EOPNOTSUPP));
    assert_eq!(listns(0, 0, 1 << 60), Err(EINVAL));
    assert_eq!(listns(u64::MAX - 1, 0, 0), Err(ENOENT));
    let request = [32u64, 0, 0, 0];
    let mut ids = [0u64; 4];
    assert_eq!(sys!(SYS_LISTNS, &request, &mut ids, 4, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_LISTNS, &request, &mut ids, 1_000_001, 0), Err(EOVERFLOW));
    assert_eq!(sys!(SYS_LISTNS, &[31u64, 0, 0, 0], &mut ids, 4, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_LISTNS, &[5000u64, 0, 0, 0], &mut ids, 4, 0), Err(E2BIG));
    assert_eq!(sys!(SYS_LISTNS, &[32u64 | 1 << 32, 0, 0, 0], &mut ids, 4, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_LISTNS, &request, BAD, 4, 0), Err(EFAULT));
}
