//! Files on FAT: names, modes, times, what such a volume refuses.
//!
//! Skipped where the tests' folder is on another file system: `xtask test disk/` runs them on a volume that was mounted as
//! vfat without options.

use crate::prelude::*;

tests!(
    "fat":
    names_are_one_in_either_case, long_and_short_names, names_that_cannot_be, renames_that_change_case_only,
    renames_exchange, renames_keep_what_is_there, modes_are_all_or_none, owners_stay, times_have_steps, no_links_or_devices,
    files_have_no_holes, the_volume_is_told, directories_count_their_own, removed_files_stay_open, a_file_is_of_32_bits,
    attributes_are_set, attributes_are_the_owners, a_change_of_attributes_is_told, entries_have_two_names, space_is_reserved, files_by_handle,
);

const NAME_LEN: u64 = 1530;

/// Skips the test unless the folder is on FAT.
fn on_fat() {
    let mut buf = [0u64; 15];
    sys!(SYS_statfs, &cstr(dir()), &mut buf[..]).unwrap();
    if buf[0] != 0x4d44 {
        skip("not on FAT");
    }
}

fn names(of: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(of)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn contents(name: &str) -> Result<Vec<u8>, Errno> {
    let fd = open(&path(name), O_RDONLY)?;
    let all = read_vec(fd, 1 << 20);
    close(fd);
    all
}

fn rename(old: &str, new: &str, flags: u32) -> Result<usize, Errno> {
    sys!(SYS_renameat2, AT_FDCWD, &path(old), AT_FDCWD, &path(new), flags)
}

fn names_are_one_in_either_case() {
    on_fat();
    assert_eq!(contents("Case"), Err(ENOENT));
    file("case", b"1");
    assert_eq!(contents("CASE"), Ok(b"1".to_vec()));
    let ino = stat_path(&path("cAsE")).unwrap().st_ino;
    assert_eq!(stat_path(&path("case")).unwrap().st_ino, ino);
    assert_eq!(sys!(SYS_openat, AT_FDCWD, &path("CaSe"), O_CREAT | O_EXCL | O_RDWR, 0o600), Err(EEXIST));
    assert_eq!(sys!(SYS_mkdirat, AT_FDCWD, &path("CASE"), 0o700), Err(EEXIST));
    sys!(SYS_unlink, &path("CASE")).unwrap();
    for name in ["case", "Case", "CASE"] {
        assert_eq!(contents(name), Err(ENOENT), "{name}");
    }
    // Letters that are not of ASCII are not, unless the short name has them.
    file("жы", b"small");
    file("ЖЫ", b"large");
    assert_eq!((contents("жы"), contents("ЖЫ")), (Ok(b"small".to_vec()), Ok(b"large".to_vec())));
    file("ä", b"small");
    assert_eq!(contents("Ä"), Ok(b"small".to_vec()));
}

fn long_and_short_names() {
    on_fat();
    let made = [
        "README.TXT",
        "readme.two",
        "a name with spaces.html",
        "日本語",
        ".profile",
        "a+b",
        "two.dots.in",
        "Grüße.txt",
    ];
    mkdir("names");
    for name in made {
        file(&format!("names/{name}"), name.as_bytes());
    }
    let mut expected = made.map(str::to_owned);
    expected.sort();
    assert_eq!(names(&format!("{}/names", dir())), expected);
    for name in made {
        assert_eq!(contents(&format!("names/{name}")), Ok(name.as_bytes().to_vec()));
    }
    // Dots at the end are not kept; a short name leads to its file, too.
    file("names/dots...", b"dots");
    assert_eq!(contents("names/dots"), Ok(b"dots".to_vec()));
    assert_eq!(contents("names/dots."), Ok(b"dots".to_vec()));
    assert_eq!(contents("names/ANAMEW~1.HTM"), Ok(b"a name with spaces.html".to_vec()));
}

fn names_that_cannot_be() {
    on_fat();
    let make = |name: &str| sys!(SYS_openat, AT_FDCWD, &path(name), O_CREAT | O_RDWR, 0o600);
    for name in ["a:b", "a*", "what?", "a<b", "a>b", "a|b", "a\"b", "a\\b", "a ", "tab\t"] {
        assert_eq!(make(name), Err(EINVAL), "{name:?}");
        assert_eq!(sys!(SYS_mkdirat, AT_FDCWD, &path(name), 0o700), Err(EINVAL), "{name:?}");
        assert_eq!(contents(name), Err(ENOENT), "{name:?}");
    }
    assert_eq!(make("..."), Err(ENOENT));
    let bad = std::ffi::CString::new([dir().as_bytes(), b"/\xff"].concat()).unwrap();
    assert_eq!(sys!(SYS_openat, AT_FDCWD, &bad, O_CREAT | O_RDWR, 0o600), Err(EINVAL));
    assert!(make(&"x".repeat(255)).is_ok());
    assert_eq!(make(&"x".repeat(256)), Err(ENAMETOOLONG));
}

fn renames_that_change_case_only() {
    on_fat();
    mkdir("case");
    file("case/name.txt", b"x");
    rename("case/name.txt", "case/Name.TXT", 0).unwrap();
    assert_eq!(names(&format!("{}/case", dir())), ["name.txt"], "both were the same file");
    assert_eq!(contents("case/NAME.txt"), Ok(b"x".to_vec()));
}

fn renames_exchange() {
    on_fat();
    mkdir("folder");
    mkdir("folder/inner");
    file("folder/inner/f", b"inner");
    file("old", b"old");
    file("new", &[1; 5000]);
    rename("old", "new", RENAME_EXCHANGE).unwrap();
    assert_eq!((contents("old"), contents("new")), (Ok(vec![1; 5000]), Ok(b"old".to_vec())));
    rename("new", "folder/inner", RENAME_EXCHANGE).unwrap();
    assert_eq!((contents("folder/inner"), contents("new/f")), (Ok(b"old".to_vec()), Ok(b"inner".to_vec())));
    assert_eq!(contents("new/../old"), Ok(vec![1; 5000]));
    let links = |name: &str| stat_path(&path(name)).unwrap().st_nlink;
    assert_eq!((links("folder"), links("new")), (2, 2));
    assert_eq!(rename("old", "none", RENAME_EXCHANGE), Err(ENOENT));
    assert_eq!(rename("folder", "folder/inner", RENAME_EXCHANGE), Err(EINVAL));
    assert_eq!(rename("old", "none", RENAME_WHITEOUT), Err(EINVAL));
}

fn renames_keep_what_is_there() {
    on_fat();
    file("one", b"1");
    file("two", b"2");
    assert_eq!(rename("one", "two", RENAME_NOREPLACE), Err(EEXIST));
    assert_eq!(rename("one", "TWO", RENAME_NOREPLACE), Err(EEXIST));
    rename("one", "three", RENAME_NOREPLACE).unwrap();
    rename("three", "two", 0).unwrap();
    assert_eq!(
        (contents("one"), contents("two"), contents("three")),
        (Err(ENOENT), Ok(b"1".to_vec()), Err(ENOENT))
    );
    mkdir("full");
    file("full/x", b"");
    mkdir("moved");
    assert_eq!(rename("moved", "full", 0), Err(ENOTEMPTY));
    assert_eq!(rename("two", "full", 0), Err(EISDIR));
    assert_eq!(rename("full", "two", 0), Err(ENOTDIR));
    rename("moved", "full/moved", 0).unwrap();
    let parent = stat_path(&path("full/moved/..")).unwrap().st_ino;
    assert_eq!(parent, stat_path(&path("full")).unwrap().st_ino);
    assert_eq!(sys!(SYS_rmdir, &path("full")), Err(ENOTEMPTY));
}

fn modes_are_all_or_none() {
    on_fat();
    let (p, d) = (file("f", b"x"), mkdir("d"));
    let mode = |p| stat_path(p).unwrap().st_mode & 0o7777;
    assert_eq!((mode(&p), mode(&d)), (0o755, 0o755));
    for (asked, kept) in
        [(0o555, 0o555), (0o755, 0o755), (0o644, 0o755), (0o777, 0o755), (0o000, 0o755), (0o500, 0o755)]
    {
        sys!(SYS_chmod, &p, asked).unwrap();
        assert_eq!(mode(&p), kept, "{asked:o}");
    }
    assert_eq!(sys!(SYS_chmod, &p, 0o4755), Err(EPERM));
    assert_eq!(sys!(SYS_chmod, &p, 0o1755), Err(EPERM));
    sys!(SYS_chmod, &d, 0o555).unwrap();
    assert_eq!(mode(&d), 0o755, "folders are always writable");
}

fn owners_stay() {
    on_fat();
    let p = file("f", b"x");
    assert_eq!(sys!(SYS_chown, &p, 1000, -1), Err(EPERM));
    assert_eq!(sys!(SYS_chown, &p, -1, 1000), Err(EPERM));
    assert_eq!(sys!(SYS_chown, &p, 0, 0), Ok(0));
    let st = stat_path(&p).unwrap();
    assert_eq!((st.st_uid, st.st_gid, st.st_nlink), (0, 0, 1));
}

fn times_have_steps() {
    on_fat();
    let p = file("f", b"x");
    let set = |seconds: i64| {
        let times = [timespec { tv_sec: seconds, tv_nsec: 123_456_789 }; 2];
        sys!(SYS_utimensat, AT_FDCWD, &p, &times[..], 0).unwrap();
        let st = stat_path(&p).unwrap();
        [(st.st_atime, st.st_atime_nsec), (st.st_mtime, st.st_mtime_nsec)]
    };
    // Two seconds for changes, a day for accesses.
    assert_eq!(set(1_234_567_891), [(1_234_483_200, 0), (1_234_567_890, 0)]);
    assert_eq!(set(1_000)[1], (315_532_800, 0), "not before 1980");
    assert_eq!(set(5_000_000_000)[1], (4_354_819_198, 0), "not after 2107");
}

fn no_links_or_devices() {
    on_fat();
    let p = file("f", b"x");
    assert_eq!(sys!(SYS_link, &p, &path("l")), Err(EPERM));
    assert_eq!(sys!(SYS_symlink, c"f", &path("s")), Err(EPERM));
    assert_eq!(sys!(SYS_mknod, &path("p"), S_IFIFO | 0o600, 0), Err(EPERM));
    assert_eq!(sys!(SYS_mknod, &path("r"), S_IFREG | 0o600, 0), Ok(0));
    let value = [1u8; 4];
    assert_eq!(sys!(SYS_setxattr, &p, c"user.x", &value[..], 4, 0), Err(EOPNOTSUPP));
}

fn files_have_no_holes() {
    on_fat();
    let fd = new_file("f");
    pwrite(fd, b"end", 100_000).unwrap();
    let st = fstat(fd);
    assert_eq!(st.st_size, 100_003);
    assert!(st.st_blocks * 512 >= 100_003);
    assert_eq!(pread(fd, 100_000, 0), Ok(vec![0; 100_000]));
    sys!(SYS_ftruncate, fd, 10).unwrap();
    sys!(SYS_ftruncate, fd, 5000).unwrap();
    assert_eq!(pread(fd, 6000, 0), Ok(vec![0; 5000]));
    let m = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd).unwrap();
    poke(m + 100, 7);
    sys!(SYS_fsync, fd).unwrap();
    assert_eq!(pread(fd, 1, 100), Ok(vec![7]));
}

fn the_volume_is_told() {
    on_fat();
    let mut buf = [0u64; 15];
    sys!(SYS_statfs, &cstr(dir()), &mut buf[..]).unwrap();
    let [kind, size, blocks, free, available] = [buf[0], buf[1], buf[2], buf[3], buf[4]];
    assert_eq!((kind, free, buf[8]), (0x4d44, available, NAME_LEN));
    assert!(size.is_power_of_two() && blocks >= free);
    let mounts = slurp("/proc/self/mounts");
    let line = mounts.lines().find(|line| line.contains(" vfat ")).unwrap();
    let options = "fmask=0022,dmask=0022,codepage=437,iocharset=ascii,shortname=mixed,utf8,errors=remount-ro";
    assert!(line.contains(options), "{line}");
}

fn directories_count_their_own() {
    on_fat();
    let d = mkdir("d");
    let links = || stat_path(&d).unwrap().st_nlink;
    assert_eq!(links(), 2);
    mkdir("d/one");
    let two = mkdir("d/two");
    file("d/f", b"");
    assert_eq!(links(), 4);
    sys!(SYS_rmdir, &two).unwrap();
    assert_eq!(links(), 3);
    assert_eq!(sys!(SYS_unlink, &path("d/one")), Err(EISDIR));
    assert_eq!(sys!(SYS_rmdir, &path("d/f")), Err(ENOTDIR));
    for nr in 0..100 {
        file(&format!("d/a file with a long name and number {nr}"), b"");
    }
    assert_eq!(names(&format!("{}/d", dir())).len(), 102);
    assert!(stat_path(&d).unwrap().st_size >= 100 * 4 * 32);
}

fn removed_files_stay_open() {
    on_fat();
    let fd = new_file("f");
    pwrite(fd, &[3; 9000], 0).unwrap();
    sys!(SYS_unlink, &path("f")).unwrap();
    file("f", b"another");
    assert_eq!(pread(fd, 9000, 0), Ok(vec![3; 9000]));
    pwrite(fd, &[4; 9000], 9000).unwrap();
    sys!(SYS_fsync, fd).unwrap();
    assert_eq!(pread(fd, 9000, 9000), Ok(vec![4; 9000]));
    assert_eq!(contents("f"), Ok(b"another".to_vec()));
    close(fd);
}

fn a_file_is_of_32_bits() {
    on_fat();
    let fd = new_file("f");
    assert_eq!(sys!(SYS_ftruncate, fd, 1i64 << 32), Err(EFBIG));
    assert_eq!(pwrite(fd, b"x", (1 << 32) - 1), Err(EFBIG));
    assert_eq!(fstat(fd).st_size, 0);
}

const GET_ATTRIBUTES: u32 = 0x8004_7210;
const SET_ATTRIBUTES: u32 = 0x4004_7211;
const GET_VOLUME_ID: u32 = 0x8004_7213;
const READDIR_BOTH: u32 = 0x8230_7201;
const READDIR_SHORT: u32 = 0x8230_7202;

fn attributes(fd: i32) -> u32 {
    let mut attributes = u32::MAX;
    sys!(SYS_ioctl, fd, GET_ATTRIBUTES, &mut attributes).unwrap();
    attributes
}

fn set_attributes(fd: i32, attributes: u32) -> Result<usize, Errno> {
    sys!(SYS_ioctl, fd, SET_ATTRIBUTES, &attributes)
}

fn attributes_are_set() {
    on_fat();
    let p = file("f", b"x");
    let fd = open(&p, O_RDONLY).unwrap();
    assert_eq!(attributes(fd), 0x20, "to be archived");
    // Read-only, hidden, of the system; the kind of a file and what is above a byte stay out.
    set_attributes(fd, 0xffff_ff1f).unwrap();
    assert_eq!((attributes(fd), fstat(fd).st_mode & 0o222), (0x07, 0));
    sys!(SYS_chmod, &p, 0o755).unwrap();
    assert_eq!(attributes(fd), 0x06);
    set_attributes(fd, 0x20).unwrap();
    assert_ne!(fstat(fd).st_mode & 0o222, 0);
    close(fd);
    let fd = open(&mkdir("d"), O_RDONLY).unwrap();
    assert_eq!(attributes(fd), 0x10);
    set_attributes(fd, 0x02).unwrap();
    assert_eq!(attributes(fd), 0x12);
    let mut id = [0u32; 2];
    sys!(SYS_ioctl, fd, GET_VOLUME_ID, &mut id).unwrap();
    assert!(id[0] != 0 && id[1] == 0);
    assert_eq!(sys!(SYS_ioctl, fd, GET_VOLUME_ID, BAD), Err(EFAULT));
    assert_eq!(sys!(SYS_ioctl, fd, SET_ATTRIBUTES, BAD), Err(EFAULT));
    close(fd);
}

fn attributes_are_the_owners() {
    on_fat();
    let fd = open(&file("f", b"x"), O_RDONLY).unwrap();
    // Who asks counts, not who has opened it.
    let refused = child(move || {
        drop_root();
        assert_eq!(set_attributes(fd, 0x02), Err(EPERM));
        assert_eq!(attributes(fd), 0x20);
    });
    refused.ok();
    set_attributes(fd, 0x02).unwrap();
    assert_eq!(attributes(fd), 0x02);
    close(fd);
}

fn a_change_of_attributes_is_told() {
    on_fat();
    let p = file("f", b"x");
    let fd = open(&p, O_RDONLY).unwrap();
    let watch = sys!(SYS_inotify_init1, IN_NONBLOCK).unwrap() as i32;
    sys!(SYS_inotify_add_watch, watch, &p, IN_ATTRIB).unwrap();
    let mut event = [0u32; 4];
    assert_eq!(sys!(SYS_read, watch, &mut event[..], 16), Err(EAGAIN));
    set_attributes(fd, 0x02).unwrap();
    assert_eq!(sys!(SYS_read, watch, &mut event[..], 16), Ok(16));
    assert_eq!(event[1], IN_ATTRIB);
    close(fd);
}

/// What a request for entries gives: result, short name, long name.
fn entry(fd: i32, request: u32) -> (usize, String, String) {
    let mut raw = [0xffu8; 560];
    let found = sys!(SYS_ioctl, fd, request, &mut raw[..]).unwrap();
    let name = |at: usize| {
        let len = usize::from(u16::from_ne_bytes([raw[at + 16], raw[at + 17]]));
        let name = &raw[at + 18..at + 18 + len];
        assert!(found == 0 || raw[at + 18 + len] == 0);
        String::from_utf8(name.to_vec()).unwrap()
    };
    if found == 0 {
        return (0, name(0), String::new());
    }
    (found, name(0), name(280))
}

fn entries_have_two_names() {
    on_fat();
    let d = mkdir("d");
    file("d/A long name.text", b"");
    file("d/SHORT.TXT", b"");
    let fd = open(&d, O_RDONLY).unwrap();
    let text = |short: &str, long: &str| (1, short.to_owned(), long.to_owned());
    for expected in [text(".", ""), text("..", ""), text("ALONGN~1.TEX", "A long name.text")] {
        assert_eq!(entry(fd, READDIR_BOTH), expected);
    }
    let (found, short, _) = entry(fd, READDIR_BOTH);
    assert_eq!((found, short.to_uppercase().as_str()), (1, "SHORT.TXT"));
    assert_eq!(entry(fd, READDIR_BOTH), (0, String::new(), String::new()));
    assert_eq!(seek(fd, 0, SEEK_SET), Ok(0));
    for expected in [text(".", ""), text("..", ""), text("ALONGN~1.TEX", "")] {
        assert_eq!(entry(fd, READDIR_SHORT), expected);
    }
    close(fd);
    let fd = open(&path("d/SHORT.TXT"), O_RDONLY).unwrap();
    assert_eq!(sys!(SYS_ioctl, fd, READDIR_BOTH, &mut [0u8; 560]), Err(ENOTTY));
    close(fd);
}

fn space_is_reserved() {
    on_fat();
    let fd = new_file("f");
    let blocks = || fstat(fd).st_blocks;
    sys!(SYS_fallocate, fd, FALLOC_FL_KEEP_SIZE, 0, 100_000).unwrap();
    assert_eq!(fstat(fd).st_size, 0);
    assert!(blocks() * 512 >= 100_000, "{} blocks", blocks());
    assert_eq!(write(fd, b"text"), Ok(4));
    sys!(SYS_fallocate, fd, 0, 0, 3).unwrap();
    assert_eq!(fstat(fd).st_size, 4);
    sys!(SYS_fallocate, fd, 0, 10, 9990).unwrap();
    assert_eq!(fstat(fd).st_size, 10_000);
    let mut expected = b"text".to_vec();
    expected.resize(10_000, 0);
    assert!(pread(fd, 20_000, 0).unwrap() == expected);
    for mode in [FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE, FALLOC_FL_COLLAPSE_RANGE] {
        assert_eq!(sys!(SYS_fallocate, fd, mode, 0, 4096), Err(EOPNOTSUPP), "{mode}");
    }
    close(fd);
    // What was behind the end is free again.
    assert!(stat_path(&path("f")).unwrap().st_size == 10_000);
}

fn files_by_handle() {
    on_fat();
    let d = mkdir("d");
    let p = file("d/f", b"text");
    let held = open(&p, O_RDONLY).unwrap();
    let beside = open(&d, O_RDONLY).unwrap();
    let handle_of = |p: &std::ffi::CStr| {
        let (mut handle, mut mount) = ([0u32; 34], 0i32);
        handle[0] = 128;
        sys!(SYS_name_to_handle_at, AT_FDCWD, p, &mut handle, &mut mount, 0).map(|_| handle)
    };
    let handle = handle_of(&p).unwrap();
    let open_it =
        |handle: &[u32; 34]| sys!(SYS_open_by_handle_at, beside, handle, O_RDONLY).map(|fd| fd as i32);
    let found = open_it(&handle).unwrap();
    assert_eq!((read_vec(found, 9), fstat(found).st_ino), (Ok(b"text".to_vec()), fstat(held).st_ino));
    close(found);
    let dir = open_it(&handle_of(&d).unwrap()).unwrap();
    assert_eq!(fstat(dir).st_ino, fstat(beside).st_ino);
    close(dir);
    let mut other = handle;
    other[2] = 0x7fff_fff0;
    assert_eq!(open_it(&other), Err(Errno::ESTALE));
    other = handle;
    other[3] ^= 1;
    assert_eq!(open_it(&other), Err(Errno::ESTALE), "the same number in another mount");
    close(held);
    close(beside);
}
