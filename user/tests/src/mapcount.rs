//! The limit on mappings (`vm.max_map_count`): what each call answers for a headroom from -1 to 8.
//!
//! A row of the table is one operation. For each headroom H a child builds the scene, counts its mappings C,
//! sets the limit to C + H and makes the call. `.` is success, `M` is `ENOMEM`, `A` is `EAGAIN`, `P` is `EPERM`;
//! a number behind it says how the count changed: `.+1`, `M`. The table was recorded on Linux 7.2.

use crate::prelude::*;

tests!(
    "mapcount":
    mapping_and_the_heap, unmapping, splits, mremap_in_place, mremap_moves, mremap_keeps_the_source,
    first_split_is_kept, threads_against_the_limit,
);

const RW: i32 = PROT_READ | PROT_WRITE;
const ANON: i32 = MAP_PRIVATE | MAP_ANONYMOUS;
const MAPS: &std::ffi::CStr = c"/proc/self/maps";
const LIMIT: &str = "/proc/sys/vm/max_map_count";
/// Where the scene lies: far from everything else, holes around.
const AREA: usize = 0x1000_0000_0000;
/// A second mapping of 16 pages.
const OTHER: usize = AREA + 64 * PAGE;
/// Nothing is there.
const FREE: usize = AREA + 128 * PAGE;
const LEN: usize = 16 * PAGE;

/// Mappings of the caller, without taking memory.
fn count_maps(buf: &mut [u8]) -> usize {
    let fd = sys!(SYS_open, MAPS, O_RDONLY, 0).unwrap() as i32;
    let (mut lines, mut gate) = (0, 0);
    let mut tail = [0u8; 10];
    loop {
        let n = crate::kit::read(fd, buf).unwrap();
        if n == 0 {
            break;
        }
        for &byte in &buf[..n] {
            if byte == b'\n' {
                lines += 1;
                // The page of the old vsyscalls is shown but is no mapping.
                gate += usize::from(&tail == b"[vsyscall]");
            }
            tail.rotate_left(1);
            tail[9] = byte;
        }
    }
    close(fd);
    lines - gate
}

/// Writes the limit; `text` has room for the digits.
fn set_limit(fd: i32, limit: usize, text: &mut [u8; 24]) {
    let mut at = text.len();
    let mut n = limit;
    loop {
        at -= 1;
        text[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    pwrite(fd, &text[at..], 0).unwrap();
}

/// One operation at all headrooms.
fn row(name: &str, scene: fn(), call: fn() -> Result<usize, Errno>) -> String {
    let fd = open(&cstr(LIMIT), O_RDWR).unwrap();
    let normal: usize = slurp(LIMIT).trim().parse().unwrap();
    let result = shared(PAGE);
    let mut line = format!("{name:24}");
    for headroom in -1..=8isize {
        let kid = child(|| {
            let (mut buf, mut text) = (vec![0u8; 4096], [0u8; 24]);
            scene();
            let before = count_maps(&mut buf);
            set_limit(fd, before.wrapping_add_signed(headroom), &mut text);
            let answer = call();
            set_limit(fd, normal, &mut text);
            let change = count_maps(&mut buf).wrapping_sub(before) as isize as i8;
            let code = match answer {
                Ok(_) => b'.',
                Err(ENOMEM) => b'M',
                Err(EAGAIN) => b'A',
                Err(EPERM) => b'P',
                Err(_) => b'?',
            };
            poke(result, code);
            poke(result + 1, change as u8);
        });
        let ended = kid.wait();
        set_limit(fd, normal, &mut [0; 24]);
        assert_eq!(ended, Status::Exit(0), "{name} at {headroom}");
        let change = peek(result + 1) as i8;
        let cell = match change {
            0 => String::new(),
            n => format!("{n:+}"),
        };
        line += &format!("{:4}", format!("{}{cell}", char::from(peek(result))));
    }
    close(fd);
    line.trim_end().to_string()
}

type Row = (&'static str, fn(), fn() -> Result<usize, Errno>, &'static str);

/// Makes the table, prints it, and compares it with what Linux answered.
fn check(rows: &[Row]) {
    let mut wrong = false;
    println!("# headroom                -1  0   1   2   3   4   5   6   7   8");
    for (name, scene, call, expect) in rows {
        let line = row(name, *scene, *call);
        let cells: Vec<_> = line[24.min(line.len())..].split_whitespace().collect();
        println!("# {line}");
        if cells != expect.split_whitespace().collect::<Vec<_>>() {
            println!("#   Linux 7.2 answers: {expect}");
            wrong = true;
        }
    }
    assert!(!wrong, "the table differs");
}

fn at(addr: usize, len: usize, prot: i32, flags: i32) -> Result<usize, Errno> {
    sys!(SYS_mmap, addr, len, prot, ANON | MAP_FIXED | flags, -1, 0)
}

/// 16 pages at `AREA`, untouched.
fn one() {
    at(AREA, LEN, RW, 0).unwrap();
}

/// 16 pages at `AREA`, touched.
fn touched() {
    one();
    bytes_set(AREA);
}

fn bytes_set(addr: usize) {
    for i in 0..16 {
        poke(addr + i * PAGE, 1);
    }
}

/// 16 pages at `AREA` and 16 at `OTHER`.
fn two() {
    touched();
    at(OTHER, LEN, PROT_READ, 0).unwrap();
}

/// A neighbour of other rights behind `AREA`, so that it cannot grow there.
fn fenced() {
    touched();
    at(AREA + LEN, PAGE, PROT_NONE, 0).unwrap();
}

/// `AREA` locked.
fn locked() {
    one();
    sys!(SYS_mlock, AREA, LEN).unwrap();
}

fn shared_one() {
    sys!(SYS_mmap, AREA, LEN, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0).unwrap();
}

/// Three mappings with a hole: 4 pages, 4 of other rights, a hole of 4, 4 pages.
fn chain() {
    touched();
    sys!(SYS_mprotect, AREA + 4 * PAGE, 4 * PAGE, PROT_READ).unwrap();
    sys!(SYS_munmap, AREA + 8 * PAGE, 4 * PAGE).unwrap();
}

fn move_to(old: usize, old_len: usize, new: usize, new_len: usize, flags: i32) -> Result<usize, Errno> {
    sys!(SYS_mremap, old, old_len, new_len, MREMAP_MAYMOVE | flags, new)
}

const FIX: i32 = MREMAP_FIXED;
const KEEP: i32 = MREMAP_DONTUNMAP;

fn mapping_and_the_heap() {
    check(&[
        ("mmap apart", one, || at(FREE, PAGE, RW, 0), "M .+1 .+1 .+1 .+1 .+1 .+1 .+1 .+1 .+1"),
        ("mmap that merges", one, || at(AREA + LEN, PAGE, RW, 0), "M . . . . . . . . ."),
        (
            "mmap over the middle",
            one,
            || at(AREA + PAGE, PAGE, PROT_READ, 0),
            "M M .+2 .+2 .+2 .+2 .+2 .+2 .+2 .+2",
        ),
        (
            "mmap over the tail",
            one,
            || at(AREA + LEN - PAGE, PAGE, PROT_READ, 0),
            "M .+1 .+1 .+1 .+1 .+1 .+1 .+1 .+1 .+1",
        ),
        ("mmap over the whole", one, || at(AREA, LEN, PROT_READ, 0), "M . . . . . . . . ."),
        ("brk grows", one, grow_heap, "M .+1 .+1 .+1 .+1 .+1 .+1 .+1 .+1 .+1"),
    ]);
}

fn grow_heap() -> Result<usize, Errno> {
    let now = sys!(SYS_brk, 0).unwrap();
    match sys!(SYS_brk, now + 4 * PAGE).unwrap() {
        end if end == now => Err(ENOMEM),
        end => Ok(end),
    }
}

fn unmapping() {
    check(&[
        ("munmap whole", one, || sys!(SYS_munmap, AREA, LEN), ".-1 .-1 .-1 .-1 .-1 .-1 .-1 .-1 .-1 .-1"),
        ("munmap head", one, || sys!(SYS_munmap, AREA, PAGE), ". . . . . . . . . ."),
        ("munmap tail", one, || sys!(SYS_munmap, AREA + PAGE, LEN), ". . . . . . . . . ."),
        ("munmap middle", one, || sys!(SYS_munmap, AREA + PAGE, PAGE), "M M .+1 .+1 .+1 .+1 .+1 .+1 .+1 .+1"),
        (
            "munmap tail and head",
            fenced,
            || sys!(SYS_munmap, AREA + PAGE, LEN),
            ".-1 .-1 .-1 .-1 .-1 .-1 .-1 .-1 .-1 .-1",
        ),
    ]);
}

fn splits() {
    check(&[
        ("mprotect whole", one, || sys!(SYS_mprotect, AREA, LEN, PROT_READ), ". . . . . . . . . ."),
        (
            "mprotect head",
            one,
            || sys!(SYS_mprotect, AREA, PAGE, PROT_READ),
            "M M .+1 .+1 .+1 .+1 .+1 .+1 .+1 .+1",
        ),
        (
            "mprotect middle",
            one,
            || sys!(SYS_mprotect, AREA + PAGE, PAGE, PROT_READ),
            "M M M+1 .+2 .+2 .+2 .+2 .+2 .+2 .+2",
        ),
        ("mlock head", one, || sys!(SYS_mlock, AREA, PAGE), "M M .+1 .+1 .+1 .+1 .+1 .+1 .+1 .+1"),
        ("mlock middle", one, || sys!(SYS_mlock, AREA + PAGE, PAGE), "M M M+1 .+2 .+2 .+2 .+2 .+2 .+2 .+2"),
        (
            "munlock middle",
            locked,
            || sys!(SYS_munlock, AREA + PAGE, PAGE),
            "M M M+1 .+2 .+2 .+2 .+2 .+2 .+2 .+2",
        ),
        ("madvise whole", one, || sys!(SYS_madvise, AREA, LEN, MADV_DONTFORK), ". . . . . . . . . ."),
        (
            "madvise head",
            one,
            || sys!(SYS_madvise, AREA, PAGE, MADV_DONTFORK),
            "A A .+1 .+1 .+1 .+1 .+1 .+1 .+1 .+1",
        ),
        (
            "madvise middle",
            one,
            || sys!(SYS_madvise, AREA + PAGE, PAGE, MADV_DONTFORK),
            "A A A+1 .+2 .+2 .+2 .+2 .+2 .+2 .+2",
        ),
    ]);
}

fn mremap_in_place() {
    check(&[
        ("shrink", one, || sys!(SYS_mremap, AREA, LEN, PAGE, 0, 0), "M M M M M . . . . ."),
        (
            "shrink the middle",
            one,
            || sys!(SYS_mremap, AREA + PAGE, 4 * PAGE, PAGE, 0, 0),
            "M M M M M .+1 .+1 .+1 .+1 .+1",
        ),
        ("grow in place", one, || sys!(SYS_mremap, AREA, LEN, LEN + PAGE, 0, 0), "M M M M M . . . . ."),
        ("grow nowhere", fenced, || sys!(SYS_mremap, AREA, LEN, LEN + PAGE, 0, 0), "M M M M M M M M M M"),
        ("no change", one, || sys!(SYS_mremap, AREA, LEN, LEN, 0, 0), "M M M M M . . . . ."),
    ]);
}

fn mremap_moves() {
    check(&[
        ("grow by a move", fenced, || move_to(AREA, LEN, 0, 2 * LEN, 0), "M M M M M . . . . ."),
        (
            "grow the middle",
            touched,
            || move_to(AREA + PAGE, PAGE, 0, 2 * PAGE, 0),
            "M M M M M .+2 .+2 .+2 .+2 .+2",
        ),
        ("whole", touched, || move_to(AREA, LEN, FREE, LEN, FIX), "M M M M M . . . . ."),
        ("middle", touched, || move_to(AREA + PAGE, PAGE, FREE, PAGE, FIX), "M M M M M .+2 .+2 .+2 .+2 .+2"),
        (
            "middle, untouched",
            one,
            || move_to(AREA + PAGE, PAGE, FREE, PAGE, FIX),
            "M M M M M .+2 .+2 .+2 .+2 .+2",
        ),
        (
            "middle over another",
            two,
            || move_to(AREA + PAGE, PAGE, OTHER + PAGE, PAGE, FIX),
            "M M M M M .+3 .+3 .+3 .+3 .+3",
        ),
        ("whole over another", two, || move_to(AREA, LEN, OTHER, LEN, FIX), "M M M M M .-1 .-1 .-1 .-1 .-1"),
        (
            "over itself",
            touched,
            || move_to(AREA + PAGE, PAGE, AREA + 8 * PAGE, PAGE, FIX),
            "M M M M M .+3 .+3 .+3 .+3 .+3",
        ),
        (
            "over itself, untouched",
            one,
            || move_to(AREA + PAGE, PAGE, AREA + 8 * PAGE, PAGE, FIX),
            "M M M M M .+1 .+1 .+1 .+1 .+1",
        ),
        (
            "shrink and move",
            two,
            || move_to(AREA + PAGE, 4 * PAGE, OTHER + PAGE, PAGE, FIX),
            "M M M M M .+3 .+3 .+3 .+3 .+3",
        ),
        (
            "grow and move",
            two,
            || move_to(AREA + PAGE, PAGE, OTHER + PAGE, 2 * PAGE, FIX),
            "M M M M M .+3 .+3 .+3 .+3 .+3",
        ),
        ("next to itself", one, || move_to(AREA, PAGE, AREA + LEN, PAGE, FIX), "M M M M M . . . . ."),
        (
            "several",
            chain,
            || move_to(AREA + PAGE, 13 * PAGE, FREE, 13 * PAGE, FIX),
            "M M M M M .+2 .+2 .+2 .+2 .+2",
        ),
        (
            "shared, twice",
            shared_one,
            || move_to(AREA + PAGE, 0, 0, PAGE, 0),
            "M M M M M .+1 .+1 .+1 .+1 .+1",
        ),
    ]);
}

fn mremap_keeps_the_source() {
    check(&[
        ("whole", touched, || move_to(AREA, LEN, FREE, LEN, FIX | KEEP), "M M M M M M .+1 .+1 .+1 .+1"),
        (
            "middle",
            touched,
            || move_to(AREA + PAGE, PAGE, FREE, PAGE, FIX | KEEP),
            "M M M M M M .+1 .+1 .+1 .+1",
        ),
        (
            "next to itself",
            one,
            || move_to(AREA, PAGE, AREA + LEN, PAGE, FIX | KEEP),
            "M M M M M M .+1 .+1 .+1 .+1",
        ),
        (
            "middle over another",
            two,
            || move_to(AREA + PAGE, PAGE, OTHER + PAGE, PAGE, FIX | KEEP),
            "M M M M M M .+2 .+2 .+2 .+2",
        ),
        ("locked whole", locked, || move_to(AREA, LEN, FREE, LEN, FIX | KEEP), "M M M M M M .+1 .+1 .+1 .+1"),
        (
            "locked middle",
            locked,
            || move_to(AREA + PAGE, PAGE, FREE, PAGE, FIX | KEEP),
            "M M M M M M .+3 .+3 .+3 .+3",
        ),
        ("anywhere", touched, || move_to(AREA + PAGE, PAGE, 0, PAGE, KEEP), "M M M M M M .+1 .+1 .+1 .+1"),
    ]);
}

fn first_split_is_kept() {
    // Two mappings that could be one stay two until the next change of either.
    guarded(|fd, normal| {
        let (mut buf, mut text) = (vec![0u8; 4096], [0u8; 24]);
        one();
        let before = count_maps(&mut buf);
        set_limit(fd, before + 1, &mut text);
        let refused = sys!(SYS_mprotect, AREA + PAGE, PAGE, PROT_READ);
        set_limit(fd, normal, &mut text);
        assert_eq!(refused, Err(ENOMEM));
        assert_eq!(count_maps(&mut buf), before + 1);
        let kid = child(|| assert_eq!(count_maps(&mut vec![0u8; 4096]), before + 1, "fork does not merge"));
        kid.ok();
        sys!(SYS_mprotect, AREA, PAGE, PROT_READ).unwrap();
        sys!(SYS_mprotect, AREA, PAGE, RW).unwrap();
        assert_eq!(count_maps(&mut buf), before);
    });
}

/// Runs `f` in a child and sets the limit to what it was, however the child ends. A child that takes longer than a
/// test may is killed from here, since whoever kills the test leaves nobody to set the limit.
#[track_caller]
fn guarded(f: impl FnOnce(i32, usize)) {
    let fd = open(&cstr(LIMIT), O_RDWR).unwrap();
    let normal: usize = slurp(LIMIT).trim().parse().unwrap();
    let pid = match sys::fork().unwrap() {
        0 => {
            f(fd, normal);
            sys::exit(0)
        }
        pid => pid,
    };
    let (start, mut status) = (now_ms(), 0);
    let mut late = false;
    while sys!(SYS_wait4, pid, &mut status, WNOHANG, 0) == Ok(0) {
        if !late && now_ms() - start > 15_000 {
            late = true;
            sys!(SYS_kill, pid, SIGKILL).unwrap();
        }
        nap(2);
    }
    set_limit(fd, normal, &mut [0; 24]);
    close(fd);
    assert!(!late, "took too long");
    assert_eq!(status, 0);
}

/// What each thread does, with a number of its own: `ROUNDS` edits of its area.
fn edit_at_random(mut n: usize) {
    const ROUNDS: usize = 1500;
    let base = AREA + n * 1024 * PAGE;
    for _ in 0..ROUNDS {
        n = n.wrapping_mul(1_103_515_245).wrapping_add(12_345) & 0x7fff_ffff;
        let (a, len) = (base + (n >> 8) % 48 * PAGE, (1 + (n >> 16) % 8) * PAGE);
        let _ = match n % 5 {
            0 | 1 => at(a, len, RW, MAP_NORESERVE),
            2 => sys!(SYS_munmap, a, len),
            3 => sys!(SYS_mprotect, a, len, PROT_READ),
            _ => move_to(a, PAGE, base + (64 + n % 32) * PAGE, PAGE, FIX),
        };
    }
}

fn threads_against_the_limit() {
    guarded(|fd, normal| {
        let flags = shared(PAGE);
        let (go, started, ended) = (atomic(flags), atomic(flags + 64), atomic(flags + 128));
        let threads: Vec<_> = (0..3)
            .map(|i| {
                std::thread::spawn(move || {
                    started.fetch_add(1, SeqCst);
                    while go.load(SeqCst) == 0 {
                        nap(1);
                    }
                    edit_at_random(i);
                    ended.fetch_add(1, SeqCst);
                    while go.load(SeqCst) == 1 {
                        nap(1);
                    }
                })
            })
            .collect();
        let (mut buf, mut text) = (vec![0u8; 4096], [0u8; 24]);
        // A thread takes memory when it begins and ends: not while the limit is low.
        while started.load(SeqCst) < 3 {
            nap(1);
        }
        go.store(1, SeqCst);
        let mut round = 0;
        while ended.load(SeqCst) < 3 {
            if round % 16 == 0 {
                set_limit(fd, normal, &mut text);
            } else {
                let now = count_maps(&mut buf);
                set_limit(fd, now.saturating_sub(8) + round % 24, &mut text);
            }
            round += 1;
        }
        set_limit(fd, normal, &mut text);
        go.store(2, SeqCst);
        threads.into_iter().for_each(|t| t.join().unwrap());
        // Nothing is lost: once all is unmapped, the limit is met exactly where the list of mappings says.
        sys!(SYS_munmap, AREA, 4096 * PAGE).unwrap();
        let now = count_maps(&mut buf);
        set_limit(fd, now, &mut text);
        let over = [at(FREE, PAGE, RW, 0), at(FREE + 8 * PAGE, PAGE, RW, 0)];
        set_limit(fd, normal, &mut text);
        assert_eq!(over, [Ok(FREE), Err(ENOMEM)]);
    });
}
