//! userfaultfd(2) and ioctl_userfaultfd(2).

use std::thread;

use crate::prelude::*;

tests!(
    "uffd":
    the_api_is_agreed_on_once, what_can_be_watched, missing_pages_are_copied_in, the_kernel_waits_too,
    requests_have_errors, writes_are_told, writes_lift_protection_silently,
    scans_protect_what_they_find, cached_pages_are_resumed,
    pages_move_without_a_copy, lost_pages_are_bus_errors, nobody_waits_for_a_closed_descriptor,
    memory_that_goes_is_told, forks_are_told, moves_are_told, reads_and_polls,
);

const RW: i32 = PROT_READ | PROT_WRITE;
const SYS_USERFAULTFD: c_long = 323;
const API: u64 = 0xc018_aa3f;
const REGISTER: u64 = 0xc020_aa00;
const UNREGISTER: u64 = 0x8010_aa01;
const WAKE: u64 = 0x8010_aa02;
const COPY: u64 = 0xc028_aa03;
const ZEROPAGE: u64 = 0xc020_aa04;
const MOVE: u64 = 0xc028_aa05;
const WRITEPROTECT: u64 = 0xc018_aa06;
const CONTINUE: u64 = 0xc020_aa07;
const POISON: u64 = 0xc020_aa08;
const MISSING: u64 = 1;
pub const WP: u64 = 2;
const MINOR: u64 = 4;
const EVENT_FORK: u64 = 1 << 1;
const EVENT_REMAP: u64 = 1 << 2;
const EVENT_REMOVE: u64 = 1 << 3;
const EVENT_UNMAP: u64 = 1 << 6;
const SIGBUS_FEATURE: u64 = 1 << 7;
const THREAD_ID: u64 = 1 << 8;
const EXACT_ADDRESS: u64 = 1 << 11;
const WP_UNPOPULATED: u64 = 1 << 13;
const WP_ASYNC: u64 = 1 << 15;

/// Makes a request with `words` as its argument and gives back what became of them.
fn request<const N: usize>(fd: i32, cmd: u64, mut words: [u64; N]) -> Result<[u64; N], Errno> {
    sys!(SYS_ioctl, fd, cmd, &mut words).map(|_| words)
}

fn agree(fd: i32, features: u64) -> Result<[u64; 3], Errno> {
    request(fd, API, [0xaa, features, 0])
}

/// A descriptor with `features`.
#[track_caller]
pub fn uffd(features: u64) -> i32 {
    let fd = sys!(SYS_USERFAULTFD, O_CLOEXEC | O_NONBLOCK).unwrap() as i32;
    agree(fd, features).unwrap();
    fd
}

pub fn register(fd: i32, at: usize, len: usize, mode: u64) -> Result<u64, Errno> {
    request(fd, REGISTER, [at as u64, len as u64, mode, 0]).map(|words| words[3])
}

fn copy(fd: i32, to: usize, from: usize, len: usize, mode: u64) -> Result<u64, Errno> {
    request(fd, COPY, [to as u64, from as u64, len as u64, mode, 0]).map(|words| words[4])
}

pub fn protect(fd: i32, at: usize, len: usize, mode: u64) -> Result<[u64; 3], Errno> {
    request(fd, WRITEPROTECT, [at as u64, len as u64, mode])
}

/// The next message: event, and the words that follow.
#[track_caller]
fn message(fd: i32) -> (u8, [u64; 3]) {
    assert_eq!(poll1(fd, POLLIN, 5000), POLLIN);
    let bytes = read_vec(fd, 32).unwrap();
    assert_eq!(bytes.len(), 32);
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    (bytes[0], [word(8), word(16), word(24)])
}

/// The next message, which must be a fault: its flags and address.
#[track_caller]
fn fault(fd: i32) -> (u64, usize) {
    let (event, words) = message(fd);
    assert_eq!(event, 0x12);
    (words[0], words[1] as usize)
}

/// A page full of `byte`.
fn page_of(byte: u8) -> usize {
    let a = anon(PAGE);
    (0..PAGE).for_each(|i| poke(a + i, byte));
    a
}

fn the_api_is_agreed_on_once() {
    assert_eq!(sys!(SYS_USERFAULTFD, 2), Err(EINVAL));
    let fd = sys!(SYS_USERFAULTFD, O_NONBLOCK).unwrap() as i32;
    assert_eq!(register(fd, anon(PAGE), PAGE, MISSING), Err(EINVAL), "before the API");
    assert_eq!(sys!(SYS_read, fd, &mut [0u8; 32], 32), Err(EINVAL));
    assert_eq!(request(fd, API, [0xab, 0, 0]), Err(EINVAL));
    assert_eq!(agree(fd, 1 << 60), Err(EINVAL));
    let [version, features, ioctls] = agree(fd, 0).unwrap();
    assert_eq!((version, ioctls), (0xaa, 1 << 63 | 3));
    assert_eq!(features & 0x1f_fdef, 0x1_fdef, "all but huge pages");
    assert_eq!(agree(fd, 0), Err(EINVAL), "again");
    aside(|| {
        drop_root();
        assert_eq!(sys!(SYS_USERFAULTFD, 0), Err(EPERM));
        let fd = sys!(SYS_USERFAULTFD, 1).unwrap() as i32;
        assert_eq!(agree(fd, EVENT_FORK), Err(EPERM));
        let a = anon(PAGE);
        agree(fd, 0).unwrap();
        register(fd, a, PAGE, MISSING).unwrap();
        let (r, w) = pipe();
        write(w, b"x").unwrap();
        assert_eq!(sys!(SYS_read, r, a, 1), Err(EFAULT), "only faults of user code");
    });
    assert!(slurp(&format!("/proc/self/fdinfo/{fd}")).contains("API:\taa:"));
}

fn what_can_be_watched() {
    let fd = uffd(0);
    let a = anon(4 * PAGE);
    assert_eq!(register(fd, a, PAGE, 0), Err(EINVAL));
    assert_eq!(register(fd, a, PAGE, 8), Err(EINVAL));
    assert_eq!(register(fd, a + 1, PAGE, MISSING), Err(EINVAL));
    assert_eq!(register(fd, a, PAGE + 1, MISSING), Err(EINVAL));
    assert_eq!(register(fd, a, 0, MISSING), Err(EINVAL));
    assert_eq!(register(fd, a, PAGE, MINOR), Err(EINVAL), "private memory has no page cache");
    let (file, plain) = (shared(PAGE), new_file("f"));
    write(plain, &[1; 4096]).unwrap();
    let of_file = map(PAGE, RW, MAP_SHARED, plain).unwrap();
    if slurp("/proc/self/mounts").lines().any(|m| m.starts_with("tmpfs /tmp ")) {
        assert!(register(fd, of_file, PAGE, MISSING).is_ok());
    }
    assert!(register(fd, file, PAGE, MINOR).is_ok());
    let ioctls = register(fd, a, PAGE, MISSING).unwrap();
    assert_eq!(ioctls & 0x1ff, 0x13c, "no writeprotect, no continue");
    let ioctls = register(fd, a + PAGE, PAGE, MISSING | WP).unwrap();
    assert_eq!(ioctls & 0x1ff, 0x17c);
    let other = uffd(0);
    assert_eq!(register(other, a, PAGE, MISSING), Err(EBUSY));
    let smaps = slurp("/proc/self/smaps");
    let of = |at: usize| smaps[smaps.find(&format!("{at:x}-")).unwrap()..].split("VmFlags:").nth(1).unwrap();
    assert!(of(a).lines().next().unwrap().contains(" um "));
    assert!(of(a + PAGE).lines().next().unwrap().contains(" uw "));
    request(fd, UNREGISTER, [a as u64, 4 * PAGE as u64]).unwrap();
    assert!(register(other, a, PAGE, MISSING).is_ok());
    assert_eq!(request(fd, WAKE, [a as u64, 0]), Err(EINVAL));
}

fn missing_pages_are_copied_in() {
    let fd = uffd(THREAD_ID | EXACT_ADDRESS);
    let (a, source) = (anon(4 * PAGE), page_of(7));
    register(fd, a, 4 * PAGE, MISSING).unwrap();
    let reader = thread::spawn(move || (gettid(), peek(a + 5)));
    let (event, [flags, addr, tid]) = message(fd);
    assert_eq!((event, flags, addr as usize), (0x12, 0, a + 5));
    nap(20);
    assert!(!reader.is_finished());
    assert_eq!(copy(fd, a, source, PAGE, 0), Ok(PAGE as u64));
    assert_eq!(reader.join().unwrap(), (tid as i32, 7));
    assert_eq!(copy(fd, a, source, PAGE, 0), Err(EEXIST));
    // A write, answered with zeroes; the answer does not wake.
    let writer = thread::spawn(move || poke(a + PAGE, 9));
    assert_eq!(fault(fd), (1, a + PAGE));
    request(fd, ZEROPAGE, [(a + PAGE) as u64, PAGE as u64, 1, 0]).unwrap();
    nap(20);
    assert!(!writer.is_finished());
    request(fd, WAKE, [(a + PAGE) as u64, PAGE as u64]).unwrap();
    writer.join().unwrap();
    assert_eq!((peek(a + PAGE), peek(a + PAGE + 1)), (9, 0));
    // Pages that were there come and go as ever; what is dropped is missing again.
    assert_eq!(copy(fd, a + 2 * PAGE, source, PAGE, 0), Ok(PAGE as u64));
    sys!(SYS_madvise, a + 2 * PAGE, PAGE, MADV_DONTNEED).unwrap();
    let reader = thread::spawn(move || peek(a + 2 * PAGE));
    assert_eq!(fault(fd), (0, a + 2 * PAGE));
    copy(fd, a + 2 * PAGE, source, PAGE, 0).unwrap();
    assert_eq!(reader.join().unwrap(), 7);
    // Shared memory, too.
    let s = shared(2 * PAGE);
    register(fd, s, 2 * PAGE, MISSING).unwrap();
    let reader = thread::spawn(move || peek(s));
    assert_eq!(fault(fd), (0, s));
    copy(fd, s, source, PAGE, 0).unwrap();
    assert_eq!(reader.join().unwrap(), 7);
    assert_eq!(copy(fd, s, source, PAGE, 0), Err(EEXIST));
}

fn the_kernel_waits_too() {
    let fd = uffd(0);
    let (a, source) = (anon(PAGE), page_of(7));
    register(fd, a, PAGE, MISSING).unwrap();
    let (r, w) = pipe();
    let writer = thread::spawn(move || sys!(SYS_write, w, a, 1));
    assert_eq!(fault(fd), (0, a));
    copy(fd, a, source, PAGE, 0).unwrap();
    assert_eq!(writer.join().unwrap(), Ok(1));
    assert_eq!(read_vec(r, 1).unwrap(), [7]);
}

fn requests_have_errors() {
    let fd = uffd(0);
    let (a, source) = (anon(4 * PAGE), page_of(7));
    assert_eq!(copy(fd, a, source, PAGE, 0), Err(ENOENT), "not registered");
    register(fd, a, 2 * PAGE, MISSING).unwrap();
    assert_eq!(copy(fd, a, source, PAGE, 4), Err(EINVAL));
    assert_eq!(copy(fd, a, source, PAGE, 2), Err(EINVAL), "writes are not watched");
    assert_eq!(copy(fd, a, source, 0, 0), Err(EINVAL));
    assert_eq!(copy(fd, a, 0, PAGE, 0), Err(EFAULT));
    assert_eq!(copy(fd, a + PAGE, source, 2 * PAGE, 0), Err(ENOENT), "past the end");
    assert_eq!(protect(fd, a, PAGE, 1), Err(ENOENT));
    assert_eq!(protect(fd, a, PAGE, 3), Err(EINVAL));
    assert_eq!(request(fd, CONTINUE, [a as u64, PAGE as u64, 0, 0]), Err(EINVAL));
    assert_eq!(request(fd, 0xaa77, [0]), Err(EINVAL));
    // As far as it came.
    poke(source, 1);
    let two = anon(2 * PAGE);
    assert_eq!(copy(fd, a + PAGE, source, PAGE, 0), Ok(PAGE as u64));
    let mut words = [a as u64, two as u64, 2 * PAGE as u64, 0, 0];
    assert_eq!(sys!(SYS_ioctl, fd, COPY, &mut words), Err(EAGAIN));
    assert_eq!(words[4], PAGE as u64);
}

fn writes_are_told() {
    for a in [anon(4 * PAGE), shared(4 * PAGE)] {
        let fd = uffd(0);
        poke(a, 1);
        poke(a + PAGE, 2);
        register(fd, a, 4 * PAGE, WP).unwrap();
        protect(fd, a, 2 * PAGE, 1).unwrap();
        assert_eq!(peek(a), 1, "reads go on");
        let writer = thread::spawn(move || poke(a, 5));
        assert_eq!(fault(fd), (3, a));
        nap(10);
        assert_eq!(peek(a), 1);
        protect(fd, a, PAGE, 0).unwrap();
        writer.join().unwrap();
        assert_eq!(peek(a), 5);
        assert_eq!(pagemap_bit(a + PAGE, 57), 1);
        assert_eq!(pagemap_bit(a, 57), 0);
        // The end of the watch ends the protection.
        request(fd, UNREGISTER, [a as u64, 4 * PAGE as u64]).unwrap();
        poke(a + PAGE, 6);
        close(fd);
    }
}

/// A bit of the pagemap entry of `addr`.
fn pagemap_bit(addr: usize, bit: u32) -> u64 {
    let fd = open(&cstr("/proc/self/pagemap"), O_RDONLY).unwrap();
    let bytes = pread(fd, 8, (addr / PAGE * 8) as i64).unwrap();
    close(fd);
    u64::from_le_bytes(bytes.try_into().unwrap()) >> bit & 1
}

fn writes_lift_protection_silently() {
    let fd = uffd(WP_ASYNC);
    let a = anon(2 * PAGE);
    poke(a, 1);
    register(fd, a, 2 * PAGE, WP).unwrap();
    protect(fd, a, 2 * PAGE, 1).unwrap();
    assert_eq!((pagemap_bit(a, 57), pagemap_bit(a + PAGE, 57)), (1, 1));
    poke(a, 2);
    poke(a + PAGE, 2);
    assert_eq!((pagemap_bit(a, 57), pagemap_bit(a + PAGE, 57)), (0, 0));
    let told = uffd(WP_UNPOPULATED);
    let b = anon(PAGE);
    register(told, b, PAGE, WP).unwrap();
    protect(told, b, PAGE, 1).unwrap();
    assert_eq!(pagemap_bit(b, 57), 1, "also where no page is");
    assert_eq!(peek(b), 0);
    let writer = thread::spawn(move || poke(b, 5));
    assert_eq!(fault(told), (3, b));
    protect(told, b, PAGE, 0).unwrap();
    writer.join().unwrap();
}

/// `PAGEMAP_SCAN` for written pages among `len` bytes from `at`, with flags; ranges found.
fn scan(at: usize, len: usize, flags: u64) -> Result<Vec<[u64; 3]>, Errno> {
    const WRITTEN: u64 = 2;
    let fd = open(&cstr("/proc/self/pagemap"), O_RDONLY).unwrap();
    let mut found = [0_u64; 3 * 8];
    let out = found.as_mut_ptr() as u64;
    let (start, end) = (at as u64, (at + len) as u64);
    let mut arg = [96, flags, start, end, 0, out, 8, 0, 0, WRITTEN, 0, WRITTEN];
    let result = sys!(SYS_ioctl, fd, 0xc060_6610_u64, &mut arg);
    close(fd);
    let found = std::hint::black_box(found);
    result.map(|n| found.chunks_exact(3).take(n).map(|r| [r[0], r[1], r[2]]).collect())
}

fn scans_protect_what_they_find() {
    const PROTECT: u64 = 1;
    const CHECK: u64 = 2;
    let fd = uffd(WP_ASYNC);
    let a = anon(4 * PAGE);
    (0..4).for_each(|i| poke(a + i * PAGE, 1));
    assert_eq!(scan(a, 4 * PAGE, PROTECT | CHECK), Err(EPERM), "not watched");
    register(fd, a, 4 * PAGE, WP).unwrap();
    let all = [a as u64, (a + 4 * PAGE) as u64, 2];
    assert_eq!(scan(a, 4 * PAGE, PROTECT | CHECK), Ok(vec![all]));
    assert_eq!(scan(a, 4 * PAGE, PROTECT | CHECK), Ok(vec![]), "nothing was written since");
    poke(a + PAGE, 2);
    let one = [(a + PAGE) as u64, (a + 2 * PAGE) as u64, 2];
    assert_eq!(scan(a, 4 * PAGE, 0), Ok(vec![one]));
    assert_eq!(scan(a, 4 * PAGE, PROTECT), Ok(vec![one]));
    assert_eq!(scan(a, 4 * PAGE, PROTECT), Ok(vec![]));
    assert_eq!((peek(a), peek(a + PAGE)), (1, 2));
}

fn cached_pages_are_resumed() {
    let fd = uffd(0);
    let file = sys!(SYS_memfd_create, &cstr("m"), 0).unwrap() as i32;
    sys!(SYS_ftruncate, file, 2 * PAGE).unwrap();
    let ours = map(2 * PAGE, RW, MAP_SHARED, file).unwrap();
    let theirs = map(2 * PAGE, RW, MAP_SHARED, file).unwrap();
    register(fd, theirs, 2 * PAGE, MINOR).unwrap();
    poke(ours, 3);
    let reader = thread::spawn(move || peek(theirs));
    assert_eq!(fault(fd), (4, theirs));
    poke(ours, 4);
    let resume = |at: usize| request(fd, CONTINUE, [at as u64, PAGE as u64, 0, 0]).map(|words| words[3]);
    assert_eq!(resume(theirs), Ok(PAGE as u64));
    assert_eq!(reader.join().unwrap(), 4);
    assert_eq!(resume(theirs), Err(EEXIST));
    assert_eq!(resume(theirs + PAGE), Err(EFAULT), "there is no such page");
}

fn pages_move_without_a_copy() {
    let fd = uffd(0);
    let (a, source) = (anon(2 * PAGE), anon(2 * PAGE));
    poke(source, 8);
    register(fd, a, 2 * PAGE, MISSING).unwrap();
    let go = |to: usize, from: usize, mode: u64| {
        request(fd, MOVE, [to as u64, from as u64, PAGE as u64, mode, 0]).map(|words| words[4])
    };
    assert_eq!(go(a, source, 0), Ok(PAGE as u64));
    assert_eq!((peek(a), peek(source)), (8, 0));
    assert_eq!(go(a, source + PAGE, 0), Err(EEXIST));
    assert_eq!(go(a + PAGE, source + PAGE, 0), Err(ENOENT));
    assert_eq!(go(a + PAGE, source + PAGE, 2), Ok(PAGE as u64));
    assert_eq!(go(source, a, 0), Err(EINVAL), "the target is not watched");
}

fn lost_pages_are_bus_errors() {
    let fd = uffd(0);
    let a = anon(PAGE);
    register(fd, a, PAGE, MISSING).unwrap();
    request(fd, POISON, [a as u64, PAGE as u64, 0, 0]).unwrap();
    assert_eq!(fate(|| ignore(peek(a))), Status::Signal(SIGBUS));
    let fd = uffd(SIGBUS_FEATURE);
    let b = anon(PAGE);
    register(fd, b, PAGE, MISSING).unwrap();
    on_signal(SIGBUS, 0, count);
    let (r, w) = pipe();
    write(w, b"x").unwrap();
    assert_eq!(sys!(SYS_read, r, b, 1), Err(EFAULT));
    copy(fd, b, page_of(3), PAGE, 0).unwrap();
    assert_eq!(peek(b), 3);
}

fn nobody_waits_for_a_closed_descriptor() {
    let fd = uffd(0);
    let a = anon(PAGE);
    register(fd, a, PAGE, MISSING).unwrap();
    let reader = thread::spawn(move || peek(a));
    assert_eq!(fault(fd), (0, a));
    close(fd);
    assert_eq!(reader.join().unwrap(), 0);
    // A thread that waits can be killed.
    let stuck = child(|| {
        let (fd, b) = (uffd(0), anon(PAGE));
        register(fd, b, PAGE, MISSING).unwrap();
        ignore(peek(b));
    });
    nap(50);
    stuck.kill(SIGKILL);
    assert_eq!(stuck.wait(), Status::Signal(SIGKILL));
}

fn memory_that_goes_is_told() {
    let fd = uffd(EVENT_REMOVE | EVENT_UNMAP);
    let (a, source) = (anon(4 * PAGE), page_of(7));
    register(fd, a, 4 * PAGE, MISSING).unwrap();
    copy(fd, a, source, PAGE, 0).unwrap();
    let dropper = thread::spawn(move || sys!(SYS_madvise, a, PAGE, MADV_DONTNEED));
    assert_eq!(poll1(fd, POLLIN, 5000), POLLIN);
    assert_eq!(copy(fd, a + PAGE, source, PAGE, 0), Err(EAGAIN), "until the event is read");
    let (event, [start, end, _]) = message(fd);
    assert_eq!((event, start as usize, end as usize), (0x15, a, a + PAGE));
    assert_eq!(dropper.join().unwrap(), Ok(0));
    let unmapper = thread::spawn(move || sys!(SYS_munmap, a + 2 * PAGE, 2 * PAGE));
    let (event, [start, end, _]) = message(fd);
    assert_eq!((event, start as usize, end as usize), (0x16, a + 2 * PAGE, a + 4 * PAGE));
    assert_eq!(unmapper.join().unwrap(), Ok(0));
}

fn forks_are_told() {
    let fd = uffd(EVENT_FORK);
    let (a, source) = (anon(PAGE), page_of(7));
    register(fd, a, PAGE, MISSING).unwrap();
    // Not the library's fork, which holds the heap's locks meanwhile.
    let parent = thread::spawn(move || match sys!(SYS_fork).unwrap() {
        0 => exit(i32::from(peek(a))),
        pid => Child(pid as i32).wait(),
    });
    let (event, [child_fd, ..]) = message(fd);
    assert_eq!(event, 0x13);
    let child_fd = child_fd as u32 as i32;
    assert_eq!(fault(child_fd), (0, a));
    copy(child_fd, a, source, PAGE, 0).unwrap();
    assert_eq!(parent.join().unwrap(), Status::Exit(7));
    // Without the event a child's memory is its own.
    close(child_fd);
    close(fd);
    let plain = uffd(0);
    let b = anon(PAGE);
    register(plain, b, PAGE, MISSING).unwrap();
    aside(|| assert_eq!(peek(b), 0));
}

fn moves_are_told() {
    let fd = uffd(EVENT_REMAP);
    let (a, to, source) = (anon(2 * PAGE), anon(2 * PAGE), page_of(7));
    register(fd, a, 2 * PAGE, MISSING).unwrap();
    copy(fd, a, source, PAGE, 0).unwrap();
    let mover = thread::spawn(move || {
        sys!(SYS_mremap, a, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to)
    });
    let (event, words) = message(fd);
    assert_eq!((event, words), (0x14, [a as u64, to as u64, 2 * PAGE as u64]));
    assert_eq!(mover.join().unwrap(), Ok(to));
    assert_eq!(peek(to), 7);
    let reader = thread::spawn(move || peek(to + PAGE));
    assert_eq!(fault(fd), (0, to + PAGE));
    copy(fd, to + PAGE, source, PAGE, 0).unwrap();
    assert_eq!(reader.join().unwrap(), 7);
}

fn reads_and_polls() {
    let fd = uffd(0);
    assert_eq!(poll1(fd, POLLIN, 0), 0);
    assert_eq!(read_vec(fd, 32), Err(EAGAIN));
    assert_eq!(read_vec(fd, 31), Err(EINVAL));
    let blocking = sys!(SYS_USERFAULTFD, 0).unwrap() as i32;
    agree(blocking, 0).unwrap();
    assert_eq!(poll1(blocking, POLLIN, 0), POLLERR);
    if let Ok(dev) = open(&cstr("/dev/userfaultfd"), O_RDWR) {
        let new = sys!(SYS_ioctl, dev, 0xaa00, O_CLOEXEC).unwrap() as i32;
        agree(new, 0).unwrap();
        assert_eq!(sys!(SYS_ioctl, dev, 0xaa01, 0), Err(EINVAL));
    }
}
