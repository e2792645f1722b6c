//! Files on ext4: `O_DIRECT`, the flags of preadv2(2), parts taken out and put in, flags of chattr(1).
//!
//! Skipped where the tests' folder is on another file system: `xtask test disk/` runs them on a disk.

use crate::prelude::*;

tests!(
    "ext4":
    direct_io_is_aligned, direct_io_agrees_with_the_cache, direct_io_meets_mappings, direct_io_lengthens_a_file,
    direct_io_from_a_mapping_of_the_file, direct_alignment_is_told, direct_requests_run_aside, reads_that_must_not_wait,
    pages_are_left_out, random_direct_and_cached_accesses_agree, ranges_are_taken_out, ranges_are_put_in,
    random_shifts_agree_with_an_array, direct_writes_side_by_side, what_is_read_ahead_is_not_older,
    flags_of_files, journaled_data_is_read_back,
);

const RWF_NOWAIT: u32 = 8;
const RWF_ATOMIC: u32 = 0x40;
const RWF_DONTCACHE: u32 = 0x80;
const COLLAPSE: i32 = 8;
const INSERT: i32 = 0x20;

/// Skips the test unless the folder is on ext4 with blocks of a page and a disk with sectors of 512 bytes.
fn on_ext4() {
    let mut buf = [0u64; 15];
    sys!(SYS_statfs, &cstr(dir()), &mut buf[..]).unwrap();
    if buf[0] != 0xef53 || buf[1] != PAGE as u64 {
        skip("not on ext4");
    }
}

/// The file `name`, by way of the cache and past it.
fn both(name: &str) -> (i32, i32) {
    on_ext4();
    let cached = new_file(name);
    (cached, open(&path(name), O_RDWR | O_DIRECT).unwrap())
}

fn read_to(fd: i32, buf: usize, len: usize, pos: usize) -> Result<usize, Errno> {
    sys!(SYS_pread64, fd, buf, len, pos)
}

fn write_from(fd: i32, buf: usize, len: usize, pos: usize) -> Result<usize, Errno> {
    sys!(SYS_pwrite64, fd, buf, len, pos)
}

fn fill(buf: usize, len: usize, byte: u8) {
    (0..len).for_each(|n| poke(buf + n, byte));
}

fn direct_io_is_aligned() {
    let (_, fd) = both("f");
    let buf = anon(4 * PAGE);
    assert_eq!(write_from(fd, buf, PAGE, 0), Ok(PAGE));
    assert_eq!(write_from(fd, buf, 512, PAGE), Ok(512));
    for (addr, len, pos) in [(buf, 100, 0), (buf, 512, 100), (buf + 1, 512, 0), (buf + 256, 512, 0)] {
        assert_eq!(write_from(fd, addr, len, pos), Err(EINVAL), "{len} at {pos}");
        assert_eq!(read_to(fd, addr, len, pos), Err(EINVAL), "{len} at {pos}");
    }
    assert_eq!(read_to(fd, buf, 2 * PAGE, 0), Ok(PAGE + 512));
    assert_eq!(read_to(fd, buf, 100, 2 * PAGE), Ok(0), "behind the end nothing counts");
    for (parts, result) in [([buf, 256, buf + PAGE, 256], Err(EINVAL)), ([buf, 512, buf + PAGE, 512], Ok(1024))] {
        assert_eq!(sys!(SYS_pwritev, fd, &parts[..], 2, 0, 0), result);
        assert_eq!(sys!(SYS_preadv, fd, &parts[..], 2, 0, 0), result);
    }
    assert_eq!(read_to(fd, PAGE, 512, 0), Err(EFAULT));
    assert_eq!(write_from(fd, PAGE, 512, 0), Err(EFAULT));
    sys!(SYS_ftruncate, fd, 700).unwrap();
    assert_eq!(read_to(fd, buf, PAGE, 0), Ok(700));
    assert_eq!(read_to(fd, buf, 512, 512), Ok(188));
}

fn direct_io_agrees_with_the_cache() {
    let (cached, direct) = both("f");
    let buf = anon(4 * PAGE);
    pwrite(cached, &[1; 3 * PAGE], 0).unwrap();
    assert_eq!(read_to(direct, buf, 3 * PAGE, 0), Ok(3 * PAGE));
    assert_eq!(bytes_at(buf, 3 * PAGE), [1; 3 * PAGE]);
    fill(buf, 512, 2);
    assert_eq!(write_from(direct, buf, 512, PAGE + 512), Ok(512));
    let mut expected = vec![1; 3 * PAGE];
    expected[PAGE + 512..PAGE + 1024].fill(2);
    assert_eq!(pread(cached, 3 * PAGE, 0).unwrap(), expected);
    // A hole reads as zeroes either way, and a sector in it leaves the rest of its block so.
    sys!(SYS_ftruncate, cached, 100 * PAGE).unwrap();
    assert_eq!(read_to(direct, buf, PAGE, 50 * PAGE), Ok(PAGE));
    assert_eq!(bytes_at(buf, PAGE), [0; PAGE]);
    fill(buf, 512, 3);
    assert_eq!(write_from(direct, buf, 512, 60 * PAGE + 1024), Ok(512));
    let mut block = vec![0; PAGE];
    block[1024..1536].fill(3);
    assert_eq!(pread(cached, PAGE, 60 * PAGE as i64).unwrap(), block);
}

fn direct_io_meets_mappings() {
    let (cached, direct) = both("f");
    pwrite(cached, &[1; 2 * PAGE], 0).unwrap();
    let m = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, cached).unwrap();
    let buf = anon(2 * PAGE);
    fill(m, 2 * PAGE, 5);
    assert_eq!(read_to(direct, buf, 2 * PAGE, 0), Ok(2 * PAGE));
    assert_eq!(bytes_at(buf, 2 * PAGE), [5; 2 * PAGE]);
    poke(m + 3 * 512, 6);
    fill(buf, 512, 7);
    assert_eq!(write_from(direct, buf, 512, 512), Ok(512));
    assert_eq!([0, 512, 1023, 1024, 3 * 512].map(|at| peek(m + at)), [5, 7, 7, 5, 6]);
}

fn direct_io_lengthens_a_file() {
    let (cached, direct) = both("f");
    pwrite(cached, b"head", 0).unwrap();
    let buf = anon(PAGE);
    fill(buf, PAGE, 9);
    assert_eq!(write_from(direct, buf, 512, 512), Ok(512));
    assert_eq!(write_from(direct, buf, PAGE, 5 * PAGE), Ok(PAGE));
    assert_eq!(fstat(cached).st_size, 6 * PAGE as i64);
    let all = pread(cached, 6 * PAGE, 0).unwrap();
    assert_eq!(&all[..4], b"head");
    assert!(all[4..512].iter().chain(&all[1024..5 * PAGE]).all(|byte| *byte == 0));
    assert!(all[512..1024].iter().chain(&all[5 * PAGE..]).all(|byte| *byte == 9));
    let append = open(&path("f"), O_WRONLY | O_DIRECT | O_APPEND).unwrap();
    assert_eq!(sys!(SYS_write, append, buf, PAGE), Ok(PAGE));
    assert_eq!(fstat(cached).st_size, 7 * PAGE as i64);
    assert!(fstat(cached).st_blocks <= 5 * 8, "a hole has no blocks");
}

fn direct_io_from_a_mapping_of_the_file() {
    let (cached, direct) = both("f");
    pwrite(cached, &[1; PAGE], 0).unwrap();
    pwrite(cached, &[2; PAGE], PAGE as i64).unwrap();
    let m = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, direct).unwrap();
    assert_eq!(write_from(direct, m + PAGE, PAGE, 0), Ok(PAGE));
    assert_eq!((peek(m), peek(m + PAGE)), (2, 2));
    poke(m + PAGE, 3);
    assert_eq!(read_to(direct, m, PAGE, PAGE), Ok(PAGE));
    assert_eq!((peek(m), peek(m + 1)), (3, 2));
}

fn direct_alignment_is_told() {
    let (cached, _) = both("f");
    let mut raw = [0u8; 256];
    let at = |raw: &[u8; 256], at: usize| u32::from_ne_bytes(raw[at..at + 4].try_into().unwrap());
    sys!(SYS_statx, cached, &cstr(""), AT_EMPTY_PATH, 0x2000, &mut raw[..]).unwrap();
    assert_eq!((at(&raw, 0) & 0x2000, at(&raw, 0x98), at(&raw, 0x9c)), (0x2000, 512, 512));
    sys!(SYS_statx, cached, &cstr(""), AT_EMPTY_PATH, 0x7ff, &mut raw[..]).unwrap();
    assert_eq!(at(&raw, 0) & 0x2000, 0, "it is told to who asks");
}

fn direct_requests_run_aside() {
    let (cached, direct) = both("f");
    let (buf, back) = (anon(16 * PAGE), anon(16 * PAGE));
    (0..16).for_each(|n| fill(buf + n * PAGE, PAGE, n as u8 + 1));
    let mut id = 0u64;
    sys!(SYS_io_setup, 32, &mut id).unwrap();
    let iocb = |op: u64, buf: usize, n: usize| -> [u64; 8] {
        [n as u64, 0, op | (direct as u64) << 32, (buf + n * PAGE) as u64, PAGE as u64, (n * PAGE) as u64, 0, 0]
    };
    for (op, memory) in [(1, buf), (0, back)] {
        let requests: Vec<[u64; 8]> = (0..16).map(|n| iocb(op, memory, n)).collect();
        let list: Vec<usize> = requests.iter().map(|iocb| iocb.as_ptr() as usize).collect();
        assert_eq!(sys!(SYS_io_submit, id, 16, &list[..]), Ok(16));
        let mut events = [[0u64; 4]; 16];
        assert_eq!(sys!(SYS_io_getevents, id, 16, 16, &mut events[..], 0), Ok(16));
        let mut seen: Vec<u64> = events.iter().map(|event| event[0]).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..16).collect::<Vec<u64>>());
        assert!(events.iter().all(|event| event[2] == PAGE as u64), "{events:?}");
    }
    assert_eq!(bytes_at(back, 16 * PAGE), bytes_at(buf, 16 * PAGE));
    assert_eq!(pread(cached, 16 * PAGE, 0).unwrap(), bytes_at(buf, 16 * PAGE));
    // What cannot be is told by the event.
    for (addr, result) in [(buf + 1, -(EINVAL as i64)), (PAGE, -(EFAULT as i64))] {
        let request = [7, 0, (direct as u64) << 32, addr as u64, 512, 0, 0, 0u64];
        assert_eq!(sys!(SYS_io_submit, id, 1, &[request.as_ptr() as usize]), Ok(1));
        let mut event = [[0u64; 4]; 1];
        assert_eq!(sys!(SYS_io_getevents, id, 1, 1, &mut event[..], 0), Ok(1));
        assert_eq!(event[0][2] as i64, result);
    }
}

fn vector(call: c_long, fd: i32, buf: usize, len: usize, pos: usize, flags: u32) -> Result<usize, Errno> {
    sys!(call, fd, &[buf, len], 1, pos, 0, flags)
}

fn reads_that_must_not_wait() {
    let (cached, direct) = both("f");
    let buf = anon(2 * PAGE);
    pwrite(cached, &[1; 2 * PAGE], 0).unwrap();
    sys!(SYS_fsync, cached).unwrap();
    assert_eq!(vector(SYS_preadv2, cached, buf, 2 * PAGE, 0, RWF_NOWAIT), Ok(2 * PAGE));
    assert_eq!(vector(SYS_preadv2, cached, buf, PAGE, 1 << 24, RWF_NOWAIT), Ok(0));
    sys!(SYS_fadvise64, cached, 0, 0, POSIX_FADV_DONTNEED).unwrap();
    // Linux may keep a page that it has not put on its lists yet.
    let result = vector(SYS_preadv2, cached, buf, PAGE, 0, RWF_NOWAIT);
    assert!(matches!(result, Err(EAGAIN) | Ok(PAGE)), "{result:?}");
    assert_eq!(vector(SYS_preadv2, direct, buf, PAGE, 0, RWF_NOWAIT), Ok(PAGE));
    assert_eq!(vector(SYS_pwritev2, direct, buf, PAGE, 4 * PAGE, RWF_NOWAIT), Err(EAGAIN), "needs blocks");
    assert_eq!(vector(SYS_pwritev2, cached, buf, PAGE, 0, RWF_NOWAIT), Err(EOPNOTSUPP));
    for call in [SYS_preadv2, SYS_pwritev2] {
        assert_eq!(vector(call, cached, buf, PAGE, 0, RWF_ATOMIC), Err(EOPNOTSUPP));
        assert_eq!(vector(call, cached, buf, PAGE, 0, 0x200), Err(EOPNOTSUPP));
    }
    assert_eq!(sys!(SYS_preadv2, cached, &[buf, PAGE], 0, 0, 0, RWF_ATOMIC), Ok(0), "nothing to read");
}

/// How many of the first `nr` pages are cached.
fn cached_pages(fd: i32, nr: usize) -> usize {
    let m = map(nr * PAGE, PROT_READ, MAP_SHARED, fd).unwrap();
    let mut seen = vec![0u8; nr];
    sys!(SYS_mincore, m, nr * PAGE, &mut seen[..]).unwrap();
    sys!(SYS_munmap, m, nr * PAGE).unwrap();
    seen.iter().filter(|byte| **byte & 1 != 0).count()
}

fn pages_are_left_out() {
    let (cached, _) = both("f");
    let buf = anon(8 * PAGE);
    assert_eq!(vector(SYS_pwritev2, cached, buf, 8 * PAGE, 0, RWF_DONTCACHE), Ok(8 * PAGE));
    sys!(SYS_fsync, cached).unwrap();
    sys!(SYS_fadvise64, cached, 0, 0, POSIX_FADV_DONTNEED).unwrap();
    let before = cached_pages(cached, 4);
    assert_eq!(vector(SYS_preadv2, cached, buf, 4 * PAGE, 0, RWF_DONTCACHE), Ok(4 * PAGE));
    assert_eq!(bytes_at(buf, 4 * PAGE), [0; 4 * PAGE]);
    assert!(cached_pages(cached, 4) <= before, "none more than before");
    pread(cached, 8 * PAGE, 0).unwrap();
    assert_eq!(vector(SYS_preadv2, cached, buf, PAGE, 0, RWF_DONTCACHE), Ok(PAGE));
    assert_eq!(cached_pages(cached, 1), 1, "what was there stays");
}

fn random_direct_and_cached_accesses_agree() {
    let (cached, direct) = both("f");
    let buf = anon(8 * PAGE);
    let (mut model, mut random) = (Vec::<u8>::new(), Random(99));
    for step in 0..300 {
        let (pos, len) = (512 * random.below(160), 512 * (1 + random.below(24)));
        let byte = step as u8;
        match random.below(5) {
            0 => {
                let got = read_to(direct, buf, len, pos).unwrap();
                let end = model.len().min(pos + len);
                assert_eq!(bytes_at(buf, got), &model[pos.min(end)..end], "step {step}");
            }
            1 => {
                let got = pread(cached, len, pos as i64).unwrap();
                let end = model.len().min(pos + len);
                assert_eq!(got, model[pos.min(end)..end], "step {step}");
            }
            2 => {
                let size = model.len().min(pos + random.below(600));
                sys!(SYS_ftruncate, cached, size).unwrap();
                model.truncate(size);
            }
            way => {
                if way == 3 {
                    fill(buf, len, byte);
                    assert_eq!(write_from(direct, buf, len, pos), Ok(len));
                } else {
                    pwrite(cached, &vec![byte; len], pos as i64).unwrap();
                }
                model.resize(model.len().max(pos + len), 0);
                model[pos..pos + len].fill(byte);
            }
        }
    }
    assert_eq!(pread(cached, model.len() + 1, 0).unwrap(), model);
}

fn fallocate(fd: i32, mode: i32, pos: usize, len: usize) -> Result<usize, Errno> {
    sys!(SYS_fallocate, fd, mode, pos, len)
}

/// A file of `nr` pages, each full of a letter of its own.
fn letters(name: &str, nr: usize) -> i32 {
    on_ext4();
    let fd = new_file(name);
    (0..nr).for_each(|n| ignore(pwrite(fd, &[b'a' + n as u8; PAGE], (n * PAGE) as i64).unwrap()));
    fd
}

fn ranges_are_taken_out() {
    let fd = letters("f", 6);
    let m = map(6 * PAGE, PROT_READ, MAP_SHARED, fd).unwrap();
    assert_eq!(peek(m + 2 * PAGE), b'c');
    assert_eq!(fallocate(fd, COLLAPSE, PAGE, 2 * PAGE), Ok(0));
    assert_eq!(fstat(fd).st_size, 4 * PAGE as i64);
    assert_eq!([0, 1, 2, 3].map(|n| peek(m + n * PAGE)), *b"adef");
    for (mode, pos, len, error) in [
        (COLLAPSE, 100, PAGE, EINVAL),
        (COLLAPSE, PAGE, 100, EINVAL),
        (COLLAPSE | 1, 0, PAGE, EOPNOTSUPP),
        (COLLAPSE, 0, 4 * PAGE, EINVAL),
        (COLLAPSE, 3 * PAGE, PAGE, EINVAL),
        (COLLAPSE, 9 * PAGE, PAGE, EINVAL),
    ] {
        assert_eq!(fallocate(fd, mode, pos, len), Err(error), "{mode} {pos} {len}");
    }
    assert_eq!(fallocate(open(&path("f"), O_RDONLY).unwrap(), COLLAPSE, 0, PAGE), Err(EBADF));
}

fn ranges_are_put_in() {
    let fd = letters("f", 3);
    sys!(SYS_fsync, fd).unwrap();
    assert_eq!(fallocate(fd, INSERT, PAGE, 2 * PAGE), Ok(0));
    assert_eq!(fstat(fd).st_size, 5 * PAGE as i64);
    let all = pread(fd, 5 * PAGE, 0).unwrap();
    assert_eq!([0, 1, 2, 3, 4].map(|n| all[n * PAGE]), *b"a\0\0bc");
    assert_eq!(fstat(fd).st_blocks, 3 * 8);
    for (mode, pos, len, error) in [
        (INSERT, 100, PAGE, EINVAL),
        (INSERT | 1, 0, PAGE, EOPNOTSUPP),
        (INSERT, 5 * PAGE, PAGE, EINVAL),
        (INSERT, 0, 1 << 44, EFBIG),
        (INSERT, 0, 0, EINVAL),
        (0x40, 0, PAGE, EOPNOTSUPP),
        (0x80, 0, PAGE, EOPNOTSUPP),
    ] {
        assert_eq!(fallocate(fd, mode, pos, len), Err(error), "{mode} {pos} {len}");
    }
}

fn random_shifts_agree_with_an_array() {
    let fd = letters("f", 20);
    let mut model: Vec<u8> = pread(fd, 20 * PAGE, 0).unwrap();
    let mut random = Random(5);
    for step in 0..120 {
        let nr = model.len() / PAGE;
        let (at, count) = (random.below(nr), 1 + random.below(3));
        let (pos, len) = (at * PAGE, count * PAGE);
        match random.below(3) {
            0 if pos + len < model.len() => {
                assert_eq!(fallocate(fd, COLLAPSE, pos, len), Ok(0), "step {step}");
                model.drain(pos..pos + len);
            }
            1 if nr < 60 => {
                assert_eq!(fallocate(fd, INSERT, pos, len), Ok(0), "step {step}");
                model.splice(pos..pos, vec![0; len]);
            }
            _ => {
                pwrite(fd, &[step as u8; 700], pos as i64 + 300).unwrap();
                model[pos + 300..pos + 1000].fill(step as u8);
            }
        }
        if step % 20 == 0 {
            assert_eq!(pread(fd, model.len() + 1, 0).unwrap(), model, "step {step}");
        }
    }
    sys!(SYS_fsync, fd).unwrap();
    sys!(SYS_fadvise64, fd, 0, 0, POSIX_FADV_DONTNEED).unwrap();
    assert_eq!(pread(fd, model.len() + 1, 0).unwrap(), model);
}

const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;

fn flags(fd: i32) -> u32 {
    let mut flags = 0u32;
    sys!(SYS_ioctl, fd, GETFLAGS, &mut flags).unwrap();
    flags
}

fn set_flags(fd: i32, new: u32) -> Result<usize, Errno> {
    sys!(SYS_ioctl, fd, SETFLAGS, &new)
}

/// Direct writes of several threads to bytes that have blocks, and their reads: each block has what its writer stored last.
fn direct_writes_side_by_side() {
    const BLOCKS: usize = 64;
    const WRITERS: usize = 4;
    let (cached, fd) = both("f");
    write(cached, &[0; BLOCKS * PAGE]).unwrap();
    sys!(SYS_fsync, cached).unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|nr| {
            std::thread::spawn(move || {
                let buf = anon(2 * PAGE);
                for round in 1..=40usize {
                    let block = (round * 7 + nr) % (BLOCKS / WRITERS) * WRITERS + nr;
                    fill(buf, PAGE, round as u8);
                    assert_eq!(write_from(fd, buf, PAGE, block * PAGE), Ok(PAGE));
                    assert_eq!(read_to(fd, buf + PAGE, PAGE, block * PAGE), Ok(PAGE));
                    assert_eq!(bytes_at(buf + PAGE, PAGE), vec![round as u8; PAGE]);
                    let seen = pread(cached, PAGE, (block * PAGE) as i64).unwrap();
                    assert_eq!(seen, vec![round as u8; PAGE], "by way of the cache");
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert_eq!(fstat(fd).st_size as usize, BLOCKS * PAGE);
}

/// While a file is read in order, what is ahead changes: past the cache, and by way of it with the pages dropped.
fn what_is_read_ahead_is_not_older() {
    const LEN: usize = 2 << 20;
    let (cached, fd) = both("f");
    let other = open(&path("f"), O_RDWR).unwrap();
    let buf = anon(64 << 10);
    for round in 0..4u8 {
        assert_eq!(pwrite(other, &vec![round; LEN], 0), Ok(LEN));
        sys!(SYS_fsync, cached).unwrap();
        sys!(SYS_fadvise64, other, 0, 0, POSIX_FADV_DONTNEED).unwrap();
        seek(cached, 0, SEEK_SET).unwrap();
        for chunk in 0..LEN / (64 << 10) {
            let at = chunk * (64 << 10);
            let seen = read_vec(cached, 64 << 10).unwrap();
            let expected = if chunk > 3 { round + 100 } else { round };
            assert_eq!(seen.len(), 64 << 10);
            assert!(seen.iter().all(|&byte| byte == expected), "{at}, round {round}: {}", seen[0]);
            if chunk == 3 {
                // The rest of the file, of which some is on its way.
                for pos in (at + (64 << 10)..LEN).step_by(64 << 10) {
                    fill(buf, 64 << 10, round + 100);
                    let to = if round % 2 == 0 { fd } else { other };
                    assert_eq!(write_from(to, buf, 64 << 10, pos), Ok(64 << 10));
                }
                sys!(SYS_fdatasync, other).unwrap();
                sys!(SYS_fadvise64, other, (at + (64 << 10)) as i64, 0, POSIX_FADV_DONTNEED).unwrap();
            }
        }
    }
}

fn flags_of_files() {
    let (fd, _) = both("f");
    let old = flags(fd);
    for bit in [0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x40, 0x80, 0x4000, 0x8000] {
        assert_eq!(set_flags(fd, old | bit), Ok(0), "{bit:#x}");
        assert_eq!(flags(fd), old | bit, "{bit:#x}");
        assert_eq!(set_flags(fd, old), Ok(0), "{bit:#x}");
    }
    for bit in [0x100, 0x400, 0x1000, 0x10_0000] {
        assert_eq!((set_flags(fd, old | bit), flags(fd)), (Ok(0), old), "{bit:#x} is ignored");
    }
    for bit in [0x2000, 0x1_0000, 0x2_0000, 0x20_0000, 0x80_0000] {
        assert_eq!((set_flags(fd, old | bit), flags(fd)), (Err(EOPNOTSUPP), old), "{bit:#x}");
    }
    let d = open(&mkdir("d"), O_RDONLY).unwrap();
    assert_eq!(set_flags(d, flags(d) | 0x1_0000), Ok(0));
    aside(|| {
        drop_root();
        assert_eq!(set_flags(fd, old | 0x40), Err(EPERM));
    });
}

fn journaled_data_is_read_back() {
    let (fd, direct) = both("f");
    pwrite(fd, &[1; 3 * PAGE], 0).unwrap();
    assert_eq!(set_flags(fd, flags(fd) | 0x4000), Ok(0));
    pwrite(fd, &[2; PAGE], PAGE as i64).unwrap();
    sys!(SYS_fsync, fd).unwrap();
    sys!(SYS_fadvise64, fd, 0, 0, POSIX_FADV_DONTNEED).unwrap();
    let all = pread(fd, 3 * PAGE, 0).unwrap();
    assert_eq!([0, 1, 2].map(|n| all[n * PAGE]), [1, 2, 1]);
    assert_eq!(set_flags(fd, flags(fd) & !0x4000), Ok(0));
    let buf = anon(3 * PAGE);
    assert_eq!(read_to(direct, buf, 3 * PAGE, 0), Ok(3 * PAGE));
    assert_eq!([0, PAGE, 2 * PAGE].map(|at| peek(buf + at)), [1, 2, 1]);
}
