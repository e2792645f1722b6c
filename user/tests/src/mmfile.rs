//! Mappings of files, private and shared, and how they agree with read and write.

use crate::prelude::*;

tests!(
    "mmfile":
    private_writes_stay_private, shared_writes_reach_the_file, offset_selects_the_page, access_modes,
    mapping_outlives_descriptor_and_name, tail_of_the_last_page_is_zero, truncate_takes_pages_away,
    system_call_beyond_the_end_is_efault, read_into_its_own_mapping, children_share_shared_and_copy_private,
    private_dontneed_shows_the_file_again, madvise_remove_punches_the_file, dev_zero_private_and_shared,
    times_after_a_shared_write, many_small_mappings_of_one_file,
);

const RW: i32 = PROT_READ | PROT_WRITE;

fn filled(name: &str, pages: usize) -> i32 {
    let fd = new_file(name);
    for i in 0..pages {
        write(fd, &[i as u8 + 1; PAGE]).unwrap();
    }
    fd
}

fn private_writes_stay_private() {
    let fd = filled("f", 2);
    let a = map(2 * PAGE, RW, MAP_PRIVATE, fd).unwrap();
    assert_eq!((peek(a), peek(a + PAGE)), (1, 2));
    poke(a, 99);
    assert_eq!(pread(fd, 1, 0).unwrap(), [1]);
    pwrite(fd, &[50], 1).unwrap();
    assert_eq!(peek(a), 99);
}

fn shared_writes_reach_the_file() {
    let fd = filled("f", 2);
    let a = map(2 * PAGE, RW, MAP_SHARED, fd).unwrap();
    poke(a + 10, 99);
    assert_eq!(pread(fd, 2, 10).unwrap(), [99, 1]);
    pwrite(fd, &[77], 11).unwrap();
    assert_eq!(peek(a + 11), 77);
    let b = map(PAGE, PROT_READ, MAP_SHARED, fd).unwrap();
    assert_eq!(peek(b + 11), 77);
    assert_eq!(sys!(SYS_msync, a, 2 * PAGE, MS_SYNC), Ok(0));
}

fn offset_selects_the_page() {
    let fd = filled("f", 4);
    let a = sys!(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, fd, 2 * PAGE).unwrap();
    assert_eq!(peek(a), 3);
}

fn access_modes() {
    let p = file("f", &[1; 100]);
    let ro = open(&p, O_RDONLY).unwrap();
    let wo = open(&p, O_WRONLY).unwrap();
    assert_eq!(map(PAGE, RW, MAP_SHARED, ro), Err(EACCES));
    assert!(map(PAGE, RW, MAP_PRIVATE, ro).is_ok());
    assert_eq!(map(PAGE, PROT_READ, MAP_PRIVATE, wo), Err(EACCES));
    assert_eq!(map(PAGE, PROT_WRITE, MAP_SHARED, wo), Err(EACCES));
    let a = map(PAGE, PROT_READ, MAP_SHARED, ro).unwrap();
    assert_eq!(sys!(SYS_mprotect, a, PAGE, RW), Err(EACCES));
    let path_only = open(&p, O_PATH).unwrap();
    assert_eq!(map(PAGE, PROT_READ, MAP_PRIVATE, path_only), Err(EBADF));
    let d = open(&cstr(dir()), O_RDONLY).unwrap();
    assert_eq!(map(PAGE, PROT_READ, MAP_PRIVATE, d), Err(ENODEV));
}

fn mapping_outlives_descriptor_and_name() {
    let p = file("f", b"still here");
    let fd = open(&p, O_RDWR).unwrap();
    let a = map(PAGE, RW, MAP_SHARED, fd).unwrap();
    close(fd);
    sys!(SYS_unlink, &p).unwrap();
    assert_eq!(bytes_at(a, 10), b"still here");
    poke(a, b'S');
    assert!(slurp("/proc/self/maps").contains("/f (deleted)"));
}

fn tail_of_the_last_page_is_zero() {
    let p = file("f", b"abc");
    let fd = open(&p, O_RDWR).unwrap();
    let a = map(PAGE, RW, MAP_SHARED, fd).unwrap();
    assert!(bytes_at(a + 3, PAGE - 3).iter().all(|b| *b == 0));
    poke(a + 3, 9);
    assert_eq!(fstat(fd).st_size, 3);
    assert_eq!(read_vec(fd, 10).unwrap(), b"abc");
}

fn truncate_takes_pages_away() {
    let fd = filled("f", 3);
    let a = map(3 * PAGE, RW, MAP_SHARED, fd).unwrap();
    let private = map(3 * PAGE, RW, MAP_PRIVATE, fd).unwrap();
    poke(private + 2 * PAGE, 9);
    peek(a + 2 * PAGE);
    sys!(SYS_ftruncate, fd, PAGE + 10).unwrap();
    assert_eq!(fate(|| ignore(peek(a + 2 * PAGE))), Status::Signal(SIGBUS));
    assert_eq!(fate(|| ignore(peek(private + 2 * PAGE))), Status::Signal(SIGBUS));
    assert_eq!((peek(a + PAGE), peek(a + PAGE + 10)), (2, 0));
    sys!(SYS_ftruncate, fd, 3 * PAGE).unwrap();
    assert_eq!(peek(a + 2 * PAGE), 0, "grown again: zero");
}

fn system_call_beyond_the_end_is_efault() {
    let fd = new_file("f");
    let a = map(PAGE, RW, MAP_SHARED, fd).unwrap();
    let (r, w) = pipe();
    assert_eq!(sys!(SYS_write, w, a, 10), Err(EFAULT));
    write(w, b"x").unwrap();
    assert_eq!(sys!(SYS_read, r, a, 1), Err(EFAULT));
}

fn read_into_its_own_mapping() {
    let fd = filled("f", 2);
    let a = map(2 * PAGE, RW, MAP_SHARED, fd).unwrap();
    assert_eq!(sys!(SYS_pread64, fd, a, PAGE, PAGE), Ok(PAGE));
    assert_eq!((peek(a), pread(fd, 1, 0).unwrap()[0]), (2, 2));
    assert_eq!(sys!(SYS_pwrite64, fd, a + PAGE, PAGE, 0), Ok(PAGE));
}

fn children_share_shared_and_copy_private() {
    let fd = filled("f", 1);
    let s = map(PAGE, RW, MAP_SHARED, fd).unwrap();
    let p = map(PAGE, RW, MAP_PRIVATE, fd).unwrap();
    child(|| {
        poke(s + 1, 70);
        poke(p + 2, 71);
    })
    .ok();
    assert_eq!((peek(s + 1), peek(p + 2), peek(p + 1)), (70, 1, 70));
}

fn private_dontneed_shows_the_file_again() {
    let fd = filled("f", 1);
    let a = map(PAGE, RW, MAP_PRIVATE, fd).unwrap();
    poke(a, 44);
    sys!(SYS_madvise, a, PAGE, MADV_DONTNEED).unwrap();
    assert_eq!(peek(a), 1);
}

fn madvise_remove_punches_the_file() {
    let fd = filled("f", 3);
    let a = map(3 * PAGE, RW, MAP_SHARED, fd).unwrap();
    sys!(SYS_madvise, a + PAGE, PAGE, MADV_REMOVE).unwrap();
    assert_eq!([peek(a), peek(a + PAGE), peek(a + 2 * PAGE)], [1, 0, 3]);
    assert_eq!(pread(fd, 1, PAGE as i64).unwrap(), [0]);
}

fn dev_zero_private_and_shared() {
    let fd = open(&cstr("/dev/zero"), O_RDWR).unwrap();
    let p = map(2 * PAGE, RW, MAP_PRIVATE, fd).unwrap();
    let s = map(2 * PAGE, RW, MAP_SHARED, fd).unwrap();
    child(|| {
        poke(p, 1);
        poke(s, 2);
    })
    .ok();
    assert_eq!((peek(p), peek(s)), (0, 2));
}

fn times_after_a_shared_write() {
    let fd = filled("f", 1);
    let before = fstat(fd);
    let a = map(PAGE, RW, MAP_SHARED, fd).unwrap();
    nap(30);
    poke(a, 5);
    sys!(SYS_msync, a, PAGE, MS_SYNC).unwrap();
    let after = fstat(fd);
    assert!(
        (after.st_mtime, after.st_mtime_nsec) >= (before.st_mtime, before.st_mtime_nsec),
        "the time of change never goes back"
    );
}

fn many_small_mappings_of_one_file() {
    let fd = filled("f", 64);
    let maps: Vec<_> =
        (0..64).map(|i| sys!(SYS_mmap, 0, PAGE, RW, MAP_SHARED, fd, i * PAGE).unwrap()).collect();
    for (i, a) in maps.iter().enumerate() {
        assert_eq!(peek(*a) as usize, i + 1);
        poke(*a, 200);
    }
    assert!((0..64).all(|i| pread(fd, 1, i * PAGE as i64).unwrap() == [200]));
}
