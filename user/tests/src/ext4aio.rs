//! libaio past the page cache on ext4: requests that go on while the process does something else.
//!
//! Skipped where the tests' folder is on another file system: `xtask test disk/` runs them on a disk.

use std::sync::atomic::AtomicBool;

use crate::prelude::*;

tests!(
    "ext4":
    many_requests_agree_with_an_array, blocks_stay_while_requests_read_them, the_cache_sees_what_requests_wrote,
    a_fork_leaves_what_is_read_to_the_parent, requests_fill_mappings_of_files, requests_come_from_a_mapping_of_the_file,
    ends_of_files_and_bad_memory, requests_outlive_their_descriptor_and_memory, requests_outlive_their_process,
    waiting_reads_and_writes_meet_forks, contexts_end_with_requests_under_way, requests_signal_eventfds, requests_of_many_pieces,
);

const READ: u64 = 0;
const WRITE: u64 = 1;

/// Skips the test unless the folder is on ext4 with blocks of a page; the file `name` with `bytes`, by way of the cache and past it.
fn both(name: &str, bytes: &[u8]) -> (i32, i32) {
    let mut buf = [0u64; 15];
    sys!(SYS_statfs, &cstr(dir()), &mut buf[..]).unwrap();
    if buf[0] != 0xef53 || buf[1] != PAGE as u64 {
        skip("not on ext4");
    }
    let cached = new_file(name);
    assert_eq!(pwrite(cached, bytes, 0), Ok(bytes.len()));
    sys!(SYS_fsync, cached).unwrap();
    sys!(SYS_fadvise64, cached, 0, 0, POSIX_FADV_DONTNEED).unwrap();
    (cached, open(&path(name), O_RDWR | O_DIRECT).unwrap())
}

fn context() -> u64 {
    let mut id = 0u64;
    sys!(SYS_io_setup, 64, &mut id).unwrap();
    id
}

type Iocb = [u64; 8];

fn iocb(tag: usize, op: u64, fd: i32, buf: usize, len: usize, pos: usize) -> Iocb {
    [tag as u64, 0, op | (fd as u64) << 32, buf as u64, len as u64, pos as u64, 0, 0]
}

fn submit(id: u64, requests: &[Iocb]) {
    let list: Vec<usize> = requests.iter().map(|iocb| iocb.as_ptr() as usize).collect();
    assert_eq!(sys!(SYS_io_submit, id, list.len(), &list[..]), Ok(list.len()));
}

/// The tags and results of the next `nr` events.
#[track_caller]
fn events(id: u64, nr: usize) -> Vec<(usize, i64)> {
    let mut events = vec![[0u64; 4]; nr];
    let mut done = 0;
    while done < nr {
        done += sys!(SYS_io_getevents, id, 1, nr - done, &mut events[done..], 0).unwrap();
    }
    events.iter().map(|event| (event[0] as usize, event[2] as i64)).collect()
}

#[track_caller]
fn result(id: u64, request: Iocb) -> i64 {
    submit(id, &[request]);
    events(id, 1)[0].1
}

fn fill(buf: usize, len: usize, byte: u8) {
    (0..len).for_each(|n| poke(buf + n, byte));
}

fn many_requests_agree_with_an_array() {
    const LEN: usize = 1 << 20;
    const SECTOR: usize = 512;
    const SLOTS: usize = 16;
    let mut model = vec![0u8; LEN];
    let (cached, fd) = both("f", &model);
    let (id, mut random) = (context(), Random(99));
    let memory = anon(SLOTS << 16);
    for round in 0..60usize {
        // Ranges that do not overlap: each request has a part of the file to itself.
        let mut requests = Vec::new();
        let mut places = Vec::new();
        for slot in 0..SLOTS {
            let (base, share) = (slot * LEN / SLOTS, LEN / SLOTS / SECTOR);
            let start = random.below(share - 1);
            let len = (1 + random.below(share - start)) * SECTOR;
            let buf = memory + (slot << 16) + random.below((1 << 16) / SECTOR - len / SECTOR + 1) * SECTOR;
            let is_write = random.below(2) == 0;
            let pos = base + start * SECTOR;
            fill(buf, len, (round * SLOTS + slot) as u8);
            if is_write {
                model[pos..pos + len].fill((round * SLOTS + slot) as u8);
            }
            requests.push(iocb(slot, if is_write { WRITE } else { READ }, fd, buf, len, pos));
            places.push((buf, len, pos));
        }
        submit(id, &requests);
        for (slot, res) in events(id, SLOTS) {
            let (buf, len, pos) = places[slot];
            assert_eq!(res, len as i64);
            assert!(*bytes_at(buf, len) == model[pos..pos + len], "round {round}, {pos}+{len}");
        }
        if round % 8 == 0 {
            assert!(pread(cached, LEN, 0).unwrap() == model, "round {round}, by way of the cache");
        }
    }
}

/// While requests read a file its blocks go, and come again as another file's.
fn blocks_stay_while_requests_read_them() {
    const LEN: usize = 256 << 10;
    static IS_OVER: AtomicBool = AtomicBool::new(false);
    allow_seconds(60);
    let (cached, fd) = both("f", &[1; LEN]);
    let cutter = std::thread::spawn(move || {
        for round in 0..60 {
            match round % 3 {
                0 => sys!(SYS_ftruncate, cached, 0).unwrap(),
                1 => sys!(SYS_fallocate, cached, 3, 0, LEN).unwrap(),
                _ => sys!(SYS_fallocate, cached, 8, PAGE, LEN / 2).unwrap(),
            };
            let other = new_file("other");
            pwrite(other, &[2; LEN], 0).unwrap();
            sys!(SYS_fsync, other).unwrap();
            close(other);
            sys!(SYS_unlink, &path("other")).unwrap();
            pwrite(cached, &[1; LEN], 0).unwrap();
            sys!(SYS_fsync, cached).unwrap();
        }
        IS_OVER.store(true, SeqCst);
    });
    let (id, buf) = (context(), anon(LEN));
    let part = LEN / 16;
    while !IS_OVER.load(SeqCst) {
        fill(buf, LEN, 0);
        submit(id, &(0..16).map(|n| iocb(n, READ, fd, buf + n * part, part, n * part)).collect::<Vec<_>>());
        for (n, res) in events(id, 16) {
            assert!((0..=part as i64).contains(&res), "{res}");
            assert!(bytes_at(buf + n * part, res as usize).iter().all(|byte| *byte < 2), "another file's bytes");
        }
    }
    cutter.join().unwrap();
}

/// Whoever reads by way of the cache while a request writes leaves nothing old there.
fn the_cache_sees_what_requests_wrote() {
    const LEN: usize = 64 * PAGE;
    static IS_OVER: AtomicBool = AtomicBool::new(false);
    let (cached, fd) = both("f", &[0; LEN]);
    let map = map(LEN, PROT_READ, MAP_SHARED, cached).unwrap();
    let reader = std::thread::spawn(move || {
        while !IS_OVER.load(SeqCst) {
            ignore(pread(cached, LEN, 0));
            (0..LEN).step_by(PAGE).for_each(|at| ignore(peek(map + at)));
        }
    });
    let (id, buf) = (context(), anon(LEN));
    for round in 1..=50u8 {
        fill(buf, LEN, round);
        submit(id, &(0..16).map(|n| iocb(n, WRITE, fd, buf + n * LEN / 16, LEN / 16, n * LEN / 16)).collect::<Vec<_>>());
        assert!(events(id, 16).iter().all(|(_, res)| *res == LEN as i64 / 16));
        assert!(pread(cached, LEN, 0).unwrap() == vec![round; LEN], "round {round}");
        assert!((0..LEN).step_by(512).all(|at| peek(map + at) == round), "round {round}, mapped");
    }
    IS_OVER.store(true, SeqCst);
    reader.join().unwrap();
}

fn a_fork_leaves_what_is_read_to_the_parent() {
    let (_, fd) = both("f", &[7; 16 * PAGE]);
    let huge = (anon(4 << 20) + (2 << 20)) & !((2 << 20) - 1);
    sys!(SYS_madvise, huge, 2 << 20, MADV_HUGEPAGE).unwrap();
    let id = context();
    for (round, buf) in [anon(16 * PAGE), huge].repeat(10).into_iter().enumerate() {
        fill(buf, 16 * PAGE, 1);
        let request = |n: usize| iocb(n, READ, fd, buf + n * PAGE + 512, 512, n * PAGE);
        submit(id, &(0..16).map(request).collect::<Vec<_>>());
        let other = child(|| nap(5));
        // Each page would be copied for this, and the bytes go to the old one.
        (0..16).for_each(|n| poke(buf + n * PAGE, 2));
        assert!(events(id, 16).iter().all(|(_, res)| *res == 512));
        for page in 0..16 {
            let at = buf + page * PAGE;
            assert_eq!([0, 511, 512, 1023, 1024].map(|n| peek(at + n)), [2, 1, 7, 7, 1], "round {round}");
        }
        other.ok();
    }
}

/// The same threads wait for what they read and write, from memory in pieces, while others fork.
fn waiting_reads_and_writes_meet_forks() {
    const LEN: usize = 16 * PAGE;
    let (cached, fd) = both("f", &[7; 4 * LEN]);
    let threads: Vec<_> = (0..4)
        .map(|nr| {
            std::thread::spawn(move || {
                let buf = anon(LEN + PAGE) + 512;
                let parts = [buf, PAGE, buf + 3 * PAGE, LEN - 3 * PAGE, buf + PAGE, 2 * PAGE];
                for round in 1..=30u8 {
                    fill(buf, LEN, round);
                    assert_eq!(sys!(SYS_pwritev, fd, &parts[..], 3, nr * LEN, 0), Ok(LEN));
                    fill(buf, LEN, 0);
                    assert_eq!(sys!(SYS_preadv, fd, &parts[..], 3, nr * LEN, 0), Ok(LEN));
                    assert!(bytes_at(buf, LEN).iter().all(|byte| *byte == round), "round {round}");
                }
            })
        })
        .collect();
    for _ in 0..20 {
        child(|| ()).ok();
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(pread(cached, 4 * LEN, 0).unwrap().iter().all(|byte| *byte == 30));
}

fn requests_fill_mappings_of_files() {
    let (_, fd) = both("f", &[7; 4 * PAGE]);
    let (to, past) = both("to", &[1; 4 * PAGE]);
    let map = map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, to).unwrap();
    let id = context();
    assert_eq!(result(id, iocb(0, READ, fd, map + 512, 2 * PAGE, 0)), 2 * PAGE as i64);
    sys!(SYS_msync, map, 4 * PAGE, MS_SYNC).unwrap();
    sys!(SYS_munmap, map, 4 * PAGE).unwrap();
    sys!(SYS_fadvise64, to, 0, 0, POSIX_FADV_DONTNEED).unwrap();
    let buf = anon(4 * PAGE);
    assert_eq!(result(id, iocb(0, READ, past, buf, 4 * PAGE, 0)), 4 * PAGE as i64);
    let mut expected = vec![1; 4 * PAGE];
    expected[512..512 + 2 * PAGE].fill(7);
    assert!(bytes_at(buf, 4 * PAGE) == expected);
    assert!(pread(to, 4 * PAGE, 0).unwrap() == expected);
}

fn requests_come_from_a_mapping_of_the_file() {
    let (cached, fd) = both("f", &[3; 4 * PAGE]);
    let map = map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, cached).unwrap();
    let id = context();
    fill(map, PAGE, 4);
    assert_eq!(result(id, iocb(0, WRITE, fd, map, 2 * PAGE, 2 * PAGE)), 2 * PAGE as i64);
    assert_eq!([0, 1, 2, 3].map(|n| peek(map + n * PAGE)), [4, 3, 4, 3]);
    assert_eq!(result(id, iocb(0, READ, fd, map, PAGE, PAGE)), PAGE as i64);
    assert_eq!([0, 1, 2, 3].map(|n| peek(map + n * PAGE)), [3, 3, 4, 3]);
    assert_eq!(result(id, iocb(0, READ, fd, map, PAGE, 0)), PAGE as i64);
    assert_eq!(result(id, iocb(0, WRITE, fd, map, PAGE, 0)), PAGE as i64);
}

fn ends_of_files_and_bad_memory() {
    let (cached, fd) = both("f", &[3; 2 * PAGE]);
    let (id, buf) = (context(), anon(4 * PAGE));
    assert_eq!(result(id, iocb(0, READ, fd, buf, 4 * PAGE, 0)), 2 * PAGE as i64);
    assert_eq!(result(id, iocb(0, READ, fd, buf, PAGE, 2 * PAGE)), 0);
    assert_eq!(result(id, iocb(0, READ, fd, buf, PAGE, 1 << 40)), 0);
    sys!(SYS_ftruncate, cached, 700).unwrap();
    assert_eq!(result(id, iocb(0, READ, fd, buf, PAGE, 0)), 700);
    assert_eq!(result(id, iocb(0, READ, fd, buf, PAGE, 512)), 188);
    for (addr, len, pos) in [(buf + 1, 512, 0), (buf + 256, 512, 0), (buf, 100, 0), (buf, 512, 100)] {
        assert_eq!(result(id, iocb(0, READ, fd, addr, len, pos)), -(EINVAL as i64));
        assert_eq!(result(id, iocb(0, WRITE, fd, addr, len, pos)), -(EINVAL as i64));
    }
    // A write makes the file longer, and fills holes.
    assert_eq!(result(id, iocb(0, WRITE, fd, buf, PAGE, 8 * PAGE)), PAGE as i64);
    assert_eq!(fstat(cached).st_size, 9 * PAGE as i64);
    assert_eq!(result(id, iocb(0, READ, fd, buf, PAGE, 4 * PAGE)), PAGE as i64);
    assert_eq!(bytes_at(buf, PAGE), [0; PAGE]);
    assert_eq!(result(id, iocb(0, WRITE, fd, buf, PAGE, 4 * PAGE)), PAGE as i64);
    let constant = map(PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1).unwrap();
    let hole = anon(3 * PAGE);
    sys!(SYS_munmap, hole + PAGE, PAGE).unwrap();
    for (op, addr) in [(READ, hole + PAGE), (WRITE, hole + PAGE), (READ, constant)] {
        assert_eq!(result(id, iocb(0, op, fd, addr, PAGE, 0)), -(EFAULT as i64));
    }
    assert_eq!(result(id, iocb(0, WRITE, fd, constant, PAGE, 0)), PAGE as i64);
}

fn requests_outlive_their_descriptor_and_memory() {
    let (cached, fd) = both("f", &[3; 64 * PAGE]);
    let id = context();
    for round in 0..20u8 {
        let buf = anon(64 * PAGE);
        fill(buf, 64 * PAGE, round);
        let own = open(&path("f"), O_RDWR | O_DIRECT).unwrap();
        let request = |n: usize| iocb(n, (n % 2) as u64, own, buf + n * 4 * PAGE, 4 * PAGE, n * 4 * PAGE);
        submit(id, &(0..16).map(request).collect::<Vec<_>>());
        close(own);
        sys!(SYS_munmap, buf, 64 * PAGE).unwrap();
        assert!(events(id, 16).iter().all(|(_, res)| *res == 4 * PAGE as i64));
        let all = pread(cached, 64 * PAGE, 0).unwrap();
        assert!((0..16).all(|n| all[n * 4 * PAGE..][..4 * PAGE].iter().all(|b| *b == if n % 2 == 1 { round } else { 3 })));
    }
    close(fd);
}

fn requests_outlive_their_process() {
    const LEN: usize = 64 * PAGE;
    let (cached, fd) = both("f", &[3; LEN]);
    for round in 0..20 {
        child(|| {
            let (id, buf) = (context(), anon(LEN));
            fill(buf, LEN, 9);
            let request = |n: usize| iocb(n, (n % 2) as u64, fd, buf + n * 4 * PAGE, 4 * PAGE, n * 4 * PAGE);
            submit(id, &(0..16).map(request).collect::<Vec<_>>());
            if round % 2 == 0 {
                ignore(sys!(SYS_kill, getpid(), SIGKILL));
            }
            exit(0);
        })
        .wait();
    }
    nap(50);
    let all = pread(cached, LEN, 0).unwrap();
    assert!((0..16).all(|n| all[n * 4 * PAGE..][..4 * PAGE].iter().all(|b| *b == if n % 2 == 1 { 9 } else { 3 })));
    sys!(SYS_ftruncate, cached, 0).unwrap();
}

fn contexts_end_with_requests_under_way() {
    const LEN: usize = 64 * PAGE;
    let (cached, fd) = both("f", &[3; LEN]);
    let buf = anon(LEN);
    for round in 1..=20u8 {
        let id = context();
        fill(buf, LEN, round);
        let request = |n: usize| iocb(n, WRITE, fd, buf + n * 4 * PAGE, 4 * PAGE, n * 4 * PAGE);
        submit(id, &(0..16).map(request).collect::<Vec<_>>());
        sys!(SYS_io_destroy, id).unwrap();
        // It waits for them.
        fill(buf, LEN, 0xee);
        assert!(pread(cached, LEN, 0).unwrap() == vec![round; LEN]);
    }
}

fn requests_signal_eventfds() {
    let (_, fd) = both("f", &[3; 16 * PAGE]);
    let (id, buf) = (context(), anon(16 * PAGE));
    let counter = sys!(SYS_eventfd2, 0, 0).unwrap() as i32;
    let request = |n: usize| {
        let mut request = iocb(n, READ, fd, buf + n * PAGE, PAGE, n * PAGE);
        request[7] = 1 | (counter as u64) << 32;
        request
    };
    submit(id, &(0..16).map(request).collect::<Vec<_>>());
    let mut seen = 0;
    while seen < 16 {
        seen += u64::from_ne_bytes(read_vec(counter, 8).unwrap().try_into().unwrap());
    }
    assert!(events(id, 16).iter().all(|(_, res)| *res == PAGE as i64));
    assert_eq!(bytes_at(buf, 16 * PAGE), [3; 16 * PAGE]);
}

/// Extents that do not follow each other on the disk, holes between them, and memory in pieces.
fn requests_of_many_pieces() {
    const PAGES: usize = 64;
    let (cached, fd) = both("f", b"");
    let (other, _) = both("other", b"");
    let mut expected = vec![0u8; PAGES * PAGE];
    for n in (0..PAGES).filter(|n| n % 4 != 3) {
        let bytes = [n as u8 + 1; PAGE];
        expected[n * PAGE..][..PAGE].copy_from_slice(&bytes);
        pwrite(cached, &bytes, (n * PAGE) as i64).unwrap();
        sys!(SYS_fsync, cached).unwrap();
        pwrite(other, &bytes, (n * PAGE) as i64).unwrap();
        sys!(SYS_fsync, other).unwrap();
    }
    sys!(SYS_ftruncate, cached, PAGES * PAGE).unwrap();
    let (id, buf) = (context(), anon(2 * PAGES * PAGE));
    fill(buf, PAGES * PAGE, 0xee);
    assert_eq!(result(id, iocb(0, READ, fd, buf + 512, PAGES * PAGE, 0)), (PAGES * PAGE) as i64);
    assert!(bytes_at(buf + 512, PAGES * PAGE) == expected);
    // Backwards in memory, three sectors at a time.
    let parts: Vec<[usize; 2]> = (0..100).map(|n| [buf + (99 - n) * 3 * 512, 3 * 512]).collect();
    let mut request = iocb(0, 7, fd, parts.as_ptr() as usize, parts.len(), 1024);
    assert_eq!(result(id, request), 100 * 3 * 512);
    for (n, [addr, len]) in parts.iter().enumerate() {
        assert!(*bytes_at(*addr, *len) == expected[1024 + n * 1536..][..1536], "part {n}");
    }
    (request[2], request[5]) = (8 | (fd as u64) << 32, 512);
    assert_eq!(result(id, request), 100 * 3 * 512);
    let all = pread(cached, PAGES * PAGE, 0).unwrap();
    assert!(all[512..512 + 153_600] == expected[1024..1024 + 153_600]);
}
