//! A disk without space or inodes left: who is told, what still works, and that all comes back.
//!
//! Skipped unless the tests' folder is on a small ext4: `xtask test disk/` runs them on one, and e2fsck looks at it afterwards.

use std::ffi::CString;

use crate::prelude::*;

tests!(
    "full":
    nothing_grows, a_hole_stays_one, writes_end_where_space_does, a_store_into_a_hole_is_sigbus,
    what_was_written_is_there, space_comes_back, direct_writes_are_refused, reserved_blocks_are_for_root,
    inodes_run_out,
);

/// Blocks free, blocks free for everybody, inodes free.
fn left() -> (u64, u64, u64) {
    let mut buf = [0u64; 15];
    sys!(SYS_statfs, &cstr(dir()), &mut buf[..]).unwrap();
    if buf[0] != 0xef53 || buf[1] != PAGE as u64 || buf[2] > 20_000 {
        skip("not on a small ext4");
    }
    (buf[3], buf[4], buf[6])
}

fn allocate(fd: i32, pos: usize, len: usize) -> Result<usize, Errno> {
    sys!(SYS_fallocate, fd, 0, pos, len)
}

/// Takes all blocks that the caller may have, in pieces of at most `step` pages; gives the pages that the file has then.
fn take_all(fd: i32, mut step: usize) -> usize {
    let mut at = 0;
    while step > 0 {
        match allocate(fd, at * PAGE, step * PAGE) {
            Ok(_) => at += step,
            Err(ENOSPC) => step /= 2,
            Err(errno) => panic!("fallocate: {errno}"),
        }
        // What a failed call got before it failed stays, too.
        at = at.max(fstat(fd).st_size as usize / PAGE);
    }
    at
}

/// Takes all blocks; the file that has them.
fn fill() -> CString {
    let fd = new_file("filler");
    take_all(fd, (left().0 as usize).next_power_of_two());
    close(fd);
    sys!(SYS_sync).unwrap();
    path("filler")
}

fn nothing_grows() {
    left();
    let dir = mkdir("d");
    let (old, fd) = (file("old", b"old"), new_file("fd"));
    sys!(SYS_sync).unwrap();
    fill();
    assert_eq!(pwrite(fd, b"x", 0), Err(ENOSPC));
    assert_eq!(allocate(fd, 0, PAGE), Err(ENOSPC));
    assert_eq!(sys!(SYS_mkdir, &path("e"), 0o755), Err(ENOSPC));
    assert_eq!(sys!(SYS_symlink, &cstr("l".repeat(200)), &path("l")), Err(ENOSPC));
    // What needs no block works.
    assert_eq!(sys!(SYS_symlink, &cstr("l"), &path("l")), Ok(0));
    assert_eq!(sys!(SYS_rename, &old, &path("new")), Ok(0));
    assert_eq!(sys!(SYS_link, &path("new"), &path("d/link")), Ok(0));
    assert_eq!(sys!(SYS_fsync, fd), Ok(0));
    assert_eq!(sys!(SYS_unlink, &path("d/link")), Ok(0));
    assert_eq!(sys!(SYS_rmdir, &dir), Ok(0));
    assert_eq!(slurp(path("new").to_str().unwrap()), "old");
    assert_eq!(fstat(fd).st_size, 0);
}

fn a_hole_stays_one() {
    left();
    let fd = new_file("f");
    pwrite(fd, &[7; 2 * PAGE], 0).unwrap();
    sys!(SYS_ftruncate, fd, 64 * PAGE).unwrap();
    sys!(SYS_sync).unwrap();
    fill();
    assert_eq!(pwrite(fd, &[8; PAGE], 10 * PAGE as i64), Err(ENOSPC));
    // Blocks that are there can be written again.
    assert_eq!(pwrite(fd, &[9; PAGE], PAGE as i64), Ok(PAGE));
    assert_eq!(sys!(SYS_fsync, fd), Ok(0));
    assert_eq!(pread(fd, PAGE, PAGE as i64), Ok(vec![9; PAGE]));
    assert_eq!(pread(fd, PAGE, 10 * PAGE as i64), Ok(vec![0; PAGE]));
    assert_eq!(fstat(fd).st_size, 64 * PAGE as i64);
}

fn writes_end_where_space_does() {
    left();
    let fd = new_file("f");
    let filler = open(&fill(), O_RDWR).unwrap();
    sys!(SYS_ftruncate, filler, fstat(filler).st_size as usize - 256 * PAGE).unwrap();
    sys!(SYS_sync).unwrap();
    // Linux keeps more or less at once in one piece of its cache, and refuses it as a whole.
    let mut done = 0;
    let errno = loop {
        match pwrite(fd, &[5; 4 * PAGE], done as i64) {
            Ok(len) => done += len,
            Err(errno) => break errno,
        }
    };
    assert_eq!(errno, ENOSPC);
    assert!((128..=600).contains(&(done / PAGE)), "{done}");
    assert_eq!(fstat(fd).st_size, done as i64);
    assert_eq!(pwrite(fd, &[5; PAGE], done as i64 + 4 * PAGE as i64), Err(ENOSPC));
    assert_eq!(sys!(SYS_fsync, fd), Ok(0));
    assert_eq!(pread(fd, 1024 * PAGE, 0), Ok(vec![5; done]));
}

fn a_store_into_a_hole_is_sigbus() {
    left();
    let fd = new_file("f");
    pwrite(fd, &[7; PAGE], 0).unwrap();
    sys!(SYS_ftruncate, fd, 4 * PAGE).unwrap();
    sys!(SYS_fsync, fd).unwrap();
    let at = map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd).unwrap();
    fill();
    assert_eq!(peek(at + 2 * PAGE), 0, "a hole can be read");
    assert_eq!(fate(|| poke(at + 2 * PAGE, 1)), Status::Signal(SIGBUS));
    poke(at, 8);
    assert_eq!(sys!(SYS_msync, at, 4 * PAGE, MS_SYNC), Ok(0));
    assert_eq!(pread(fd, 1, 0), Ok(vec![8]));
    // The kernel meets it, too.
    let (read_end, write_end) = pipe();
    write(write_end, b"abc").unwrap();
    assert_eq!(sys!(SYS_read, read_end, at + 2 * PAGE, 3), Err(EFAULT));
}

fn what_was_written_is_there() {
    left();
    let mut written = Vec::new();
    let filler = open(&fill(), O_RDWR).unwrap();
    sys!(SYS_ftruncate, filler, fstat(filler).st_size as usize - 400 * PAGE).unwrap();
    for n in 0..10_000u32 {
        let fd = match open(&path(&format!("n{n}")), O_RDWR | O_CREAT) {
            Ok(fd) => fd,
            Err(ENOSPC) => break,
            Err(errno) => panic!("open: {errno}"),
        };
        let len = 1 + (n as usize * 977) % (5 * PAGE);
        let done = write(fd, &vec![n as u8; len]);
        close(fd);
        match done {
            Ok(done) => written.push((n, done)),
            Err(ENOSPC) => {
                written.push((n, 0));
                break;
            }
            Err(errno) => panic!("write: {errno}"),
        }
    }
    assert!(written.len() > 50, "{}", written.len());
    sys!(SYS_sync).unwrap();
    write_file("/proc/sys/vm/drop_caches", "3").unwrap();
    for (n, len) in written {
        let fd = open(&path(&format!("n{n}")), O_RDONLY).unwrap();
        assert_eq!(read_vec(fd, 8 * PAGE), Ok(vec![n as u8; len]), "{n}");
        close(fd);
    }
}

fn space_comes_back() {
    left();
    let fd = new_file("f");
    let filler = fill();
    assert_eq!(pwrite(fd, &[1; PAGE], 0), Err(ENOSPC));
    sys!(SYS_unlink, &filler).unwrap();
    // At once: blocks of a file that is gone may be in a transaction that is not on disk yet.
    assert_eq!(pwrite(fd, &vec![2; 256 * PAGE], 0), Ok(256 * PAGE));
    assert_eq!(sys!(SYS_fsync, fd), Ok(0));
    assert_eq!(sys!(SYS_mkdir, &path("d"), 0o755), Ok(0));
    // So does what is cut off.
    let whole = open(&fill(), O_RDWR).unwrap();
    sys!(SYS_ftruncate, whole, PAGE).unwrap();
    assert_eq!(pwrite(fd, &[1; PAGE], 1000 * PAGE as i64), Ok(PAGE));
    assert_eq!(sys!(SYS_fsync, fd), Ok(0));
}

fn direct_writes_are_refused() {
    left();
    let fd = open(&path("f"), O_RDWR | O_CREAT | O_DIRECT).unwrap();
    let buf = anon(4 * PAGE);
    assert_eq!(sys!(SYS_pwrite64, fd, buf, PAGE, 0), Ok(PAGE));
    sys!(SYS_ftruncate, fd, 16 * PAGE).unwrap();
    sys!(SYS_sync).unwrap();
    fill();
    // Some blocks that are kept for trees may still be had.
    let end = (2..1000).find_map(|n| sys!(SYS_pwrite64, fd, buf, PAGE, n * 2 * PAGE).err());
    assert_eq!(end, Some(ENOSPC));
    assert_eq!(sys!(SYS_pwrite64, fd, buf, PAGE, 0), Ok(PAGE));
    assert_eq!(sys!(SYS_fsync, fd), Ok(0));
}

fn reserved_blocks_are_for_root() {
    let (free, available, _) = left();
    let reserved = (free - available) as usize;
    assert!(reserved > 100, "{reserved}");
    sys!(SYS_chmod, &cstr(dir()), 0o777).unwrap();
    let root = new_file("root");
    child(|| {
        drop_root();
        let fd = new_file("f");
        let at = take_all(fd, 1 << 14);
        assert_eq!(pwrite(fd, &[1; 4 * PAGE], (at + 10) as i64 * PAGE as i64), Err(ENOSPC));
    })
    .ok();
    let (free, available, _) = left();
    assert!(available <= 2 && free as usize >= reserved - 2, "{free} {available} {reserved}");
    assert_eq!(pwrite(root, &[1; 16 * PAGE], 0), Ok(16 * PAGE));
    assert_eq!(sys!(SYS_fsync, root), Ok(0));
}

fn inodes_run_out() {
    left();
    let dir = mkdir("d");
    let made = (0..10_000).take_while(|n| match open(&path(&format!("d/{n}")), O_RDWR | O_CREAT) {
        Ok(fd) => {
            close(fd);
            true
        }
        Err(errno) => {
            assert_eq!(errno, ENOSPC);
            false
        }
    });
    assert!(made.count() > 1000);
    assert_eq!(left().2, 0);
    assert_eq!(open(&path("d/x"), O_RDWR | O_CREAT), Err(ENOSPC));
    assert_eq!(sys!(SYS_mkdir, &path("d/x"), 0o755), Err(ENOSPC));
    assert_eq!(sys!(SYS_symlink, &cstr("l"), &path("d/x")), Err(ENOSPC));
    assert_eq!(sys!(SYS_mknod, &path("d/x"), S_IFIFO | 0o600, 0), Err(ENOSPC));
    assert_eq!(open(&dir, O_RDWR | O_TMPFILE), Err(ENOSPC));
    assert_eq!(sys!(SYS_link, &path("d/0"), &path("d/x")), Ok(0), "a name needs no inode");
    let fd = open(&path("d/0"), O_RDWR).unwrap();
    assert_eq!(pwrite(fd, &[1; PAGE], 0), Ok(PAGE));
    assert_eq!(sys!(SYS_unlink, &path("d/1")), Ok(0));
    assert_eq!(open(&path("d/y"), O_RDWR | O_CREAT).map(close), Ok(()));
    assert_eq!(open(&path("d/z"), O_RDWR | O_CREAT), Err(ENOSPC));
}
