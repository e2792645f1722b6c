//! Access-control lists by their extended attributes (acl(5), xattr(7)).

use crate::prelude::*;

tests!(
    "acl":
    list_and_mode_follow_each_other, lists_decide_who_may, the_mask_limits_all_but_the_owner,
    default_lists_are_inherited, a_default_list_replaces_the_umask, lists_that_are_refused, removal_and_absence,
);

const ACCESS: &std::ffi::CStr = c"system.posix_acl_access";
const DEFAULT: &std::ffi::CStr = c"system.posix_acl_default";
const NONE: u32 = u32::MAX;

// Tags of entries.
const OWNER: u16 = 1;
const USER: u16 = 2;
const GROUP: u16 = 4;
const GROUP_ID: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;

type Entry = (u16, u16, u32);

fn value(entries: &[Entry]) -> Vec<u8> {
    let mut value = Vec::from(2u32.to_le_bytes());
    for (tag, perm, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn set(p: &std::ffi::CString, name: &std::ffi::CStr, entries: &[Entry]) -> Result<usize, Errno> {
    let value = value(entries);
    sys!(SYS_setxattr, p, name, &value[..], value.len(), 0)
}

fn get(p: &std::ffi::CString, name: &std::ffi::CStr) -> Result<Vec<Entry>, Errno> {
    let mut buf = [0u8; 400];
    let n = sys!(SYS_getxattr, p, name, &mut buf[..], 400)?;
    assert_eq!(buf[..4], 2u32.to_le_bytes());
    let entry = |raw: &[u8]| {
        let half = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
        (half(0), half(2), u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]))
    };
    Ok(buf[4..n].chunks(8).map(entry).collect())
}

fn mode(p: &std::ffi::CString) -> u32 {
    stat_path(p).unwrap().st_mode & 0o7777
}

/// rw-, user 1000 rw-, group r--, group 2000 rw-, the mask, others ---.
fn sample(mask: u16) -> Vec<Entry> {
    vec![
        (OWNER, 6, NONE),
        (USER, 6, 1000),
        (GROUP, 4, NONE),
        (GROUP_ID, 6, 2000),
        (MASK, mask, NONE),
        (OTHER, 0, NONE),
    ]
}

/// As user `uid` of group `gid` and no other: may the file be opened with `flags`?
fn may(p: &std::ffi::CString, uid: u32, gid: u32, flags: i32) -> bool {
    let child = child_code(|| {
        let groups: [u32; 0] = [];
        sys!(SYS_setgroups, 0, &groups[..]).unwrap();
        sys!(SYS_setresgid, gid, gid, gid).unwrap();
        sys!(SYS_setresuid, uid, uid, uid).unwrap();
        match open(p, flags) {
            Ok(_) => 0,
            Err(EACCES) => 1,
            Err(errno) => panic!("{errno}"),
        }
    });
    child.wait() == Status::Exit(0)
}

/// The test's folders must let everybody through.
fn shared_file(name: &str) -> std::ffi::CString {
    sys!(SYS_chmod, &cstr(dir()), 0o755).unwrap();
    file(name, b"x")
}

fn list_and_mode_follow_each_other() {
    let p = shared_file("f");
    set(&p, ACCESS, &sample(6)).unwrap();
    assert_eq!(mode(&p), 0o660);
    assert_eq!(get(&p, ACCESS), Ok(sample(6)));
    sys!(SYS_chmod, &p, 0o4745).unwrap();
    let mut expected = sample(4);
    (expected[0].1, expected[5].1) = (7, 5);
    assert_eq!((mode(&p), get(&p, ACCESS)), (0o4745, Ok(expected)));
    // What a mode can say is kept as one.
    set(&p, ACCESS, &[(OWNER, 6, NONE), (GROUP, 4, NONE), (OTHER, 4, NONE)]).unwrap();
    assert_eq!((mode(&p) & 0o777, get(&p, ACCESS)), (0o644, Err(ENODATA)));
    let mut names = [0u8; 200];
    let n = sys!(SYS_listxattr, &p, &mut names[..], 200).unwrap();
    assert!(!String::from_utf8_lossy(&names[..n]).contains("posix_acl"));
    set(&p, ACCESS, &sample(6)).unwrap();
    let n = sys!(SYS_listxattr, &p, &mut names[..], 200).unwrap();
    assert!(String::from_utf8_lossy(&names[..n]).contains("system.posix_acl_access\0"));
}

fn lists_decide_who_may() {
    let p = shared_file("f");
    set(&p, ACCESS, &sample(6)).unwrap();
    assert!(may(&p, 1000, 5, O_RDWR), "a user by id");
    assert!(may(&p, 7, 2000, O_RDWR), "a group by id");
    assert!(may(&p, 7, 0, O_RDONLY) && !may(&p, 7, 0, O_WRONLY), "the file's group");
    assert!(!may(&p, 7, 5, O_RDONLY), "others");
    sys!(SYS_chown, &p, 1000, 2000).unwrap();
    set(&p, ACCESS, &[(OWNER, 0, NONE), (USER, 7, 1000), (GROUP, 0, NONE), (MASK, 7, NONE), (OTHER, 7, NONE)])
        .unwrap();
    assert!(!may(&p, 1000, 5, O_RDONLY), "the owner's entry alone counts for the owner");
    assert!(!may(&p, 7, 2000, O_RDONLY), "a member is not one of the others");
    assert!(may(&p, 7, 5, O_RDONLY));
    let d = mkdir("d");
    let inner = cstr(format!("{}/d/f", dir()));
    close(open(&inner, O_CREAT | O_RDWR).unwrap());
    sys!(SYS_chmod, &inner, 0o666).unwrap();
    sys!(SYS_chmod, &d, 0o700).unwrap();
    assert!(!may(&inner, 1000, 5, O_RDONLY));
    set(&d, ACCESS, &[(OWNER, 7, NONE), (USER, 1, 1000), (GROUP, 0, NONE), (MASK, 1, NONE), (OTHER, 0, NONE)])
        .unwrap();
    assert!(may(&inner, 1000, 5, O_RDONLY), "search by the folder's list");
    assert!(!may(&inner, 1001, 5, O_RDONLY));
}

fn the_mask_limits_all_but_the_owner() {
    let p = shared_file("f");
    set(&p, ACCESS, &sample(4)).unwrap();
    assert!(may(&p, 1000, 5, O_RDONLY) && !may(&p, 1000, 5, O_WRONLY));
    assert!(may(&p, 7, 2000, O_RDONLY) && !may(&p, 7, 2000, O_RDWR));
    set(&p, ACCESS, &sample(0)).unwrap();
    assert!(!may(&p, 1000, 5, O_RDONLY) && !may(&p, 7, 0, O_RDONLY));
    sys!(SYS_chown, &p, 9, 9).unwrap();
    assert!(may(&p, 9, 5, O_RDWR));
}

fn default_lists_are_inherited() {
    let d = mkdir("d");
    set(&d, DEFAULT, &sample(6)).unwrap();
    assert_eq!(mode(&d), 0o755, "the folder's own mode stays");
    let p = cstr(format!("{}/d/f", dir()));
    close(sys!(SYS_open, &p, O_CREAT | O_RDWR, 0o640).unwrap() as i32);
    let mut expected = sample(4);
    assert_eq!((mode(&p), get(&p, ACCESS)), (0o640, Ok(expected.clone())));
    assert_eq!(get(&p, DEFAULT), Err(ENODATA));
    let sub = cstr(format!("{}/d/sub", dir()));
    sys!(SYS_mkdir, &sub, 0o777).unwrap();
    expected = sample(6);
    assert_eq!((mode(&sub), get(&sub, ACCESS)), (0o660, Ok(expected.clone())));
    assert_eq!(get(&sub, DEFAULT), Ok(expected));
    let link = cstr(format!("{}/d/link", dir()));
    sys!(SYS_symlink, c"x", &link).unwrap();
    let mut buf = [0u8; 100];
    assert_eq!(sys!(SYS_lgetxattr, &link, ACCESS, &mut buf[..], 100), Err(EOPNOTSUPP));
    let fifo = cstr(format!("{}/d/fifo", dir()));
    sys!(SYS_mknod, &fifo, S_IFIFO | 0o606, 0).unwrap();
    assert_eq!((mode(&fifo), get(&fifo, ACCESS)), (0o600, Ok(sample(0))));
}

fn a_default_list_replaces_the_umask() {
    let d = mkdir("d");
    sys!(SYS_umask, 0o077).unwrap();
    let make = |name: &str| {
        let p = cstr(format!("{}/d/{name}", dir()));
        close(sys!(SYS_open, &p, O_CREAT | O_RDWR, 0o666).unwrap() as i32);
        mode(&p)
    };
    assert_eq!(make("a"), 0o600);
    set(&d, DEFAULT, &[(OWNER, 7, NONE), (GROUP, 5, NONE), (OTHER, 4, NONE)]).unwrap();
    assert_eq!(make("b"), 0o644);
    assert_eq!(get(&cstr(format!("{}/d/b", dir())), ACCESS), Err(ENODATA));
    sys!(SYS_removexattr, &d, DEFAULT).unwrap();
    assert_eq!(make("c"), 0o600);
}

fn lists_that_are_refused() {
    let (p, d) = (shared_file("f"), mkdir("d"));
    for bad in [
        &[(OWNER, 7, NONE), (GROUP, 5, NONE)][..],
        &[(GROUP, 5, NONE), (OWNER, 7, NONE), (OTHER, 5, NONE)],
        &[(OWNER, 7, NONE), (USER, 5, 9), (GROUP, 5, NONE), (OTHER, 5, NONE)],
        &[(OWNER, 8, NONE), (GROUP, 5, NONE), (OTHER, 5, NONE)],
        &[(OWNER, 7, NONE), (GROUP, 5, NONE), (3, 5, NONE), (OTHER, 5, NONE)],
        &[(OWNER, 7, NONE), (GROUP, 5, NONE), (MASK, 7, NONE), (MASK, 7, NONE), (OTHER, 5, NONE)],
    ] {
        assert_eq!(set(&p, ACCESS, bad), Err(EINVAL), "{bad:?}");
    }
    assert_eq!(sys!(SYS_setxattr, &p, ACCESS, &[1u8, 0, 0, 0][..], 4, 0), Err(EOPNOTSUPP), "version 1");
    assert_eq!(sys!(SYS_setxattr, &p, ACCESS, &[2u8, 0][..], 2, 0), Err(EINVAL));
    let plain = [(OWNER, 7, NONE), (GROUP, 5, NONE), (OTHER, 5, NONE)];
    assert_eq!(set(&p, DEFAULT, &plain), Err(EACCES), "a default list for a file");
    assert_eq!(set(&d, DEFAULT, &plain), Ok(0));
    assert_eq!(set(&cstr("/proc/self/status"), ACCESS, &plain), Err(EOPNOTSUPP));
    child(|| {
        drop_root();
        assert_eq!(set(&p, ACCESS, &plain), Err(EPERM));
        assert_eq!(sys!(SYS_removexattr, &p, ACCESS), Err(EPERM));
        assert_eq!(get(&p, ACCESS), Err(ENODATA));
    })
    .ok();
}

fn removal_and_absence() {
    let (p, d) = (shared_file("f"), mkdir("d"));
    assert_eq!(get(&p, ACCESS), Err(ENODATA));
    assert_eq!(sys!(SYS_removexattr, &p, ACCESS), Ok(0));
    assert_eq!(sys!(SYS_removexattr, &p, DEFAULT), Ok(0));
    set(&p, ACCESS, &sample(6)).unwrap();
    // Flags mean nothing to lists.
    let list = value(&sample(4));
    assert_eq!(sys!(SYS_setxattr, &p, ACCESS, &list[..], list.len(), XATTR_CREATE), Ok(0));
    assert_eq!(sys!(SYS_removexattr, &p, ACCESS), Ok(0));
    assert_eq!((mode(&p), get(&p, ACCESS)), (0o640, Err(ENODATA)));
    // An empty list is none.
    set(&d, DEFAULT, &sample(6)).unwrap();
    assert_eq!(set(&d, DEFAULT, &[]), Ok(0));
    assert_eq!(get(&d, DEFAULT), Err(ENODATA));
    assert_eq!(get(&cstr("/proc/self/status"), ACCESS), Err(EOPNOTSUPP));
}
