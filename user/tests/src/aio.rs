//! Asynchronous I/O: io_setup(2), io_submit(2), io_getevents(2), io_cancel(2), io_destroy(2).

use crate::prelude::*;

tests!(
    "aio":
    files_are_read_and_written, vectors_are_read_and_written, errors_of_setup, errors_of_submit,
    refused_requests_end_the_list, bad_memory_is_a_result, files_are_synced, the_ring_can_be_read,
    places_run_out, waits_have_limits, a_signal_ends_a_wait, a_mask_holds_for_a_wait, eventfds_are_signalled,
    polls_wait_for_files, polls_can_be_cancelled, priorities_are_checked, contexts_are_counted,
    a_child_has_no_contexts, a_moved_ring_has_a_new_id, the_end_of_a_context, threads_end_waits_of_others,
);

const SYS_IO_PGETEVENTS: c_long = 333;

type Iocb = [u64; 8];
type Event = [u64; 4];

const PREAD: u64 = 0;
const PWRITE: u64 = 1;
const FSYNC: u64 = 2;
const FDSYNC: u64 = 3;
const POLL: u64 = 5;
const PREADV: u64 = 7;
const PWRITEV: u64 = 8;

const RESFD: u64 = 1;
const IOPRIO: u64 = 2;

/// A request with `tag` as the caller's word.
fn iocb(tag: u64, op: u64, fd: i32, buf: usize, len: usize, offset: i64) -> Iocb {
    [tag, 0, op | (fd as u32 as u64) << 32, buf as u64, len as u64, offset as u64, 0, 0]
}

fn setup(nr: u32) -> Result<u64, Errno> {
    let mut id = 0u64;
    sys!(SYS_io_setup, nr, &mut id).map(|_| id)
}

#[track_caller]
fn context(nr: u32) -> u64 {
    setup(nr).unwrap()
}

fn submit(id: u64, requests: &[&Iocb]) -> Result<usize, Errno> {
    let list: Vec<usize> = requests.iter().map(|iocb| iocb.as_ptr() as usize).collect();
    sys!(SYS_io_submit, id, list.len(), &list[..])
}

fn submit_one(id: u64, request: &Iocb) -> Result<usize, Errno> {
    submit(id, &[request])
}

/// At least `min` events, at most `max`.
#[track_caller]
fn events(id: u64, min: usize, max: usize) -> Vec<Event> {
    let mut events = vec![[0u64; 4]; max];
    let n = sys!(SYS_io_getevents, id, min, max, &mut events[..], 0).unwrap();
    events.truncate(n);
    events
}

/// The events that are there.
#[track_caller]
fn events_now(id: u64) -> Vec<Event> {
    let mut events = vec![[0u64; 4]; 16];
    let zero: timespec = zero();
    let n = sys!(SYS_io_getevents, id, 0, 16, &mut events[..], &zero).unwrap();
    events.truncate(n);
    events
}

/// Submits a request that is done at once and gives its result.
#[track_caller]
fn result(id: u64, request: &Iocb) -> i64 {
    assert_eq!(submit_one(id, request), Ok(1));
    let [[data, obj, res, res2]] = events(id, 1, 1)[..] else { panic!("one event") };
    assert_eq!((data, obj, res2), (request[0], request.as_ptr() as u64, 0));
    res as i64
}

fn destroy(id: u64) -> Result<usize, Errno> {
    sys!(SYS_io_destroy, id)
}

fn addr(bytes: &[u8]) -> usize {
    bytes.as_ptr() as usize
}

fn files_are_read_and_written() {
    let (id, fd) = (context(8), new_file("f"));
    let (out, back) = (b"asynchronous".to_vec(), [0u8; 16]);
    assert_eq!(result(id, &iocb(7, PWRITE, fd, addr(&out), 12, 4096)), 12);
    assert_eq!(result(id, &iocb(8, PREAD, fd, addr(&back), 16, 4096)), 12);
    assert_eq!(std::hint::black_box(&back)[..12], out[..]);
    assert_eq!(result(id, &iocb(9, PREAD, fd, addr(&back), 16, 1 << 20)), 0);
    assert_eq!(fstat(fd).st_size, 4108);
    assert_eq!(seek(fd, 0, SEEK_CUR), Ok(0));
    // Streams have no positions; one that would wait says so.
    let (r, w) = pipe_with(O_NONBLOCK);
    assert_eq!(result(id, &iocb(1, PREAD, r, addr(&back), 4, 0)), -(EAGAIN as i64));
    assert_eq!(result(id, &iocb(2, PWRITE, w, addr(&out), 12, 77)), 12);
    assert_eq!(result(id, &iocb(3, PREAD, r, addr(&back), 4, 1234)), 4);
}

fn vectors_are_read_and_written() {
    let (id, fd) = (context(8), new_file("f"));
    let (one, two, back) = (b"first".to_vec(), b"second".to_vec(), [0u8; 11]);
    let parts = [addr(&one), 5, addr(&two), 6];
    assert_eq!(result(id, &iocb(0, PWRITEV, fd, parts.as_ptr() as usize, 2, 0)), 11);
    let parts = [addr(&back), 1, addr(&back) + 1, 10];
    assert_eq!(result(id, &iocb(0, PREADV, fd, parts.as_ptr() as usize, 2, 0)), 11);
    assert_eq!(std::hint::black_box(&back), b"firstsecond");
    assert_eq!(submit_one(id, &iocb(0, PREADV, fd, parts.as_ptr() as usize, 1025, 0)), Err(EINVAL));
    assert_eq!(submit_one(id, &iocb(0, PREADV, fd, BAD, 1, 0)), Err(EFAULT));
}

fn errors_of_setup() {
    assert_eq!(sys!(SYS_io_setup, 1, BAD), Err(EFAULT));
    assert_eq!(setup(0), Err(EINVAL));
    let mut used = 5u64;
    assert_eq!(sys!(SYS_io_setup, 1, &mut used), Err(EINVAL));
    assert_eq!(setup(0x0400_0001), Err(EINVAL));
    assert_eq!(setup(u32::MAX), Err(EINVAL));
    let max: u32 = slurp("/proc/sys/fs/aio-max-nr").trim().parse().unwrap();
    assert_eq!(setup(max + 1), Err(EAGAIN));
    // Read-only memory for the id: nothing is left.
    let page = map(PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1).unwrap();
    assert_eq!(sys!(SYS_io_setup, 1, page), Err(EFAULT));
    assert_eq!(destroy(page as u64), Err(EINVAL));
    assert_eq!(destroy(0), Err(EINVAL));
}

fn errors_of_submit() {
    let (id, fd) = (context(8), new_file("f"));
    let buf = [0u8; 8];
    let good = iocb(0, PREAD, fd, addr(&buf), 8, 0);
    let with = |change: &dyn Fn(&mut Iocb)| {
        let mut request = good;
        change(&mut request);
        submit_one(id, &request)
    };
    assert_eq!(submit_one(id + 1, &good), Err(EINVAL));
    assert_eq!(submit(id, &[]), Ok(0));
    assert_eq!(submit(id + 1, &[]), Err(EINVAL));
    assert_eq!(sys!(SYS_io_submit, id, -1i64, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_io_submit, id, 1, BAD), Err(EFAULT));
    assert_eq!(sys!(SYS_io_submit, id, 1, &[BAD]), Err(EFAULT));
    assert_eq!(with(&|r| r[6] = 1), Err(EINVAL));
    assert_eq!(with(&|r| r[4] = 1 << 63), Err(EINVAL));
    assert_eq!(with(&|r| r[2] |= 0xffff_ffff << 32), Err(EBADF));
    assert_eq!(with(&|r| r[2] += 4), Err(EINVAL));
    assert_eq!(with(&|r| r[2] += 6), Err(EINVAL));
    assert_eq!(with(&|r| r[2] += 9), Err(EINVAL));
    assert_eq!(with(&|r| r[5] = u64::MAX), Err(EINVAL));
    assert_eq!(with(&|r| r[3] = BAD as u64), Err(EFAULT));
    assert_eq!(with(&|r| r[1] = 1 << 63), Err(EOPNOTSUPP));
    // A missing file comes before a bad operation, and an eventfd that is none in between.
    assert_eq!(with(&|r| r[2] = 99 | 0xffff_ffff << 32), Err(EBADF));
    assert_eq!(with(&|r| (r[2], r[7]) = (r[2] + 99, RESFD | (fd as u64) << 32)), Err(EINVAL));
    assert_eq!(with(&|r| r[7] = RESFD | 0xffff_ffff << 32), Err(EBADF));
    let read_only = open(&path("f"), O_RDONLY).unwrap();
    assert_eq!(submit_one(id, &iocb(0, PWRITE, read_only, addr(&buf), 8, 0)), Err(EBADF));
    let write_only = open(&path("f"), O_WRONLY).unwrap();
    assert_eq!(submit_one(id, &iocb(0, PREAD, write_only, addr(&buf), 8, 0)), Err(EBADF));
    let folder = open(&cstr(dir()), O_RDONLY).unwrap();
    assert_eq!(submit_one(id, &iocb(0, PREAD, folder, addr(&buf), 8, 0)), Err(EINVAL));
    let (r, _w) = pipe();
    assert_eq!(submit_one(id, &iocb(0, FSYNC, r, 0, 0, 0)), Err(EINVAL));
    assert_eq!(submit_one(id, &iocb(0, FSYNC, fd, 1, 0, 0)), Err(EINVAL));
    assert_eq!(submit_one(id, &iocb(0, FDSYNC, fd, 0, 1, 0)), Err(EINVAL));
    assert_eq!(submit_one(id, &iocb(0, FDSYNC, fd, 0, 0, 1)), Err(EINVAL));
    assert_eq!(submit_one(id, &iocb(0, POLL, r, 0x1_0000, 0, 0)), Err(EINVAL));
    assert_eq!(submit_one(id, &iocb(0, POLL, r, 1, 1, 0)), Err(EINVAL));
    assert_eq!(events_now(id), [] as [Event; 0]);
}

fn refused_requests_end_the_list() {
    let (id, fd) = (context(8), new_file("f"));
    write(fd, b"12345678").unwrap();
    let buf = [0u8; 8];
    let good = |tag| iocb(tag, PREAD, fd, addr(&buf), 8, 0);
    let (one, two, bad) = (good(1), good(2), iocb(3, 99, fd, addr(&buf), 8, 0));
    assert_eq!(submit(id, &[&one, &two, &bad, &one]), Ok(2));
    assert_eq!(submit(id, &[&bad, &one]), Err(EINVAL));
    let tags: Vec<u64> = events(id, 2, 8).iter().map(|event| event[0]).collect();
    assert_eq!(tags, [1, 2]);
}

fn bad_memory_is_a_result() {
    let (id, fd) = (context(8), new_file("f"));
    write(fd, b"12345678").unwrap();
    let hole = anon(PAGE);
    sys!(SYS_munmap, hole, PAGE).unwrap();
    assert_eq!(result(id, &iocb(1, PREAD, fd, hole, 8, 0)), -(EFAULT as i64));
    assert_eq!(result(id, &iocb(2, PWRITE, fd, hole, 8, 0)), -(EFAULT as i64));
}

fn files_are_synced() {
    let (id, fd) = (context(8), new_file("f"));
    write(fd, b"data").unwrap();
    assert_eq!(result(id, &iocb(1, FSYNC, fd, 0, 0, 0)), 0);
    assert_eq!(result(id, &iocb(2, FDSYNC, fd, 0, 0, 0)), 0);
}

/// Word `index` of the ring.
fn ring(id: u64, index: usize) -> u32 {
    atomic(id as usize + 4 * index).load(SeqCst)
}

fn the_ring_can_be_read() {
    let (id, fd) = (context(8), new_file("f"));
    let buf = [0u8; 8];
    let (nr, head, tail) = (ring(id, 1), ring(id, 2), ring(id, 3));
    assert!(nr >= 8, "{nr}");
    assert_eq!((head, tail), (0, 0));
    assert_eq!([ring(id, 4), ring(id, 5), ring(id, 6), ring(id, 7)], [0xa10a_10a1, 1, 0, 32]);
    let request = iocb(0x1234_5678, PREAD, fd, addr(&buf), 8, 0);
    submit(id, &[&request, &request]).unwrap();
    assert_eq!((ring(id, 2), ring(id, 3)), (0, 2));
    assert_eq!(ring(id, 8), 0x1234_5678);
    assert_eq!(ring(id, 10), request.as_ptr() as u32);
    // Taken without a call.
    atomic(id as usize + 8).store(1, SeqCst);
    assert_eq!(events(id, 0, 8).len(), 1);
    assert_eq!((ring(id, 2), ring(id, 3)), (2, 2));
    let maps = slurp("/proc/self/maps");
    let line = maps.lines().find(|line| line.starts_with(&format!("{id:x}-"))).unwrap();
    assert!(line.contains(" rw-s ") && line.ends_with("/[aio] (deleted)"), "{line}");
}

fn places_run_out() {
    let (id, fd) = (context(1), new_file("f"));
    let buf = [0u8; 8];
    let request = iocb(0, PREAD, fd, addr(&buf), 8, 0);
    let fill = || (0..4096).take_while(|_| submit_one(id, &request).is_ok()).count();
    let places = fill();
    assert!((1..ring(id, 1) as usize).contains(&places), "{places}");
    assert_eq!(submit_one(id, &request), Err(EAGAIN));
    assert_eq!(events(id, places, places).len(), places);
    assert!(fill() > 0);
    // Taken by the process itself.
    atomic(id as usize + 8).store(ring(id, 3), SeqCst);
    assert!(fill() > 0);
}

fn waits_have_limits() {
    let (id, fd) = (context(8), new_file("f"));
    let mut place = [[0u64; 4]; 4];
    let wait = |min: i64, nr: i64, place: usize, timeout: usize| {
        sys!(SYS_io_getevents, id, min, nr, place, timeout)
    };
    let (none, short) = (zero::<timespec>(), ms(20));
    let (none, short) = (&raw const none as usize, &raw const short as usize);
    let at = place.as_mut_ptr() as usize;
    assert_eq!(wait(2, 1, at, none), Err(EINVAL));
    assert_eq!(wait(-1, 1, at, none), Err(EINVAL));
    assert_eq!(wait(0, -1, at, none), Err(EINVAL));
    assert_eq!(sys!(SYS_io_getevents, id + 1, 0, 1, at, none), Err(EINVAL));
    assert_eq!(wait(1, 1, at, BAD), Err(EFAULT));
    assert_eq!(wait(1, 1, at, none), Ok(0));
    assert_eq!(wait(0, 1, at, 0), Ok(0));
    assert_eq!(wait(0, 0, at, 0), Ok(0));
    let (took, result) = timed(|| wait(1, 1, at, short));
    assert_eq!(result, Ok(0));
    assert!(took >= 19, "{took}");
    let buf = [0u8; 8];
    submit_one(id, &iocb(5, PREAD, fd, addr(&buf), 8, 0)).unwrap();
    assert_eq!(wait(1, 4, BAD, 0), Err(EFAULT));
    // Fewer than wanted come when the time is over.
    assert_eq!(wait(2, 4, at, short), Ok(1));
    assert_eq!(std::hint::black_box(&place)[0][0], 5);
}

/// Lets SIGALRM come again and again.
fn alarm_often() {
    on_signal(SIGALRM, 0, count);
    let often = timeval { tv_sec: 0, tv_usec: 20_000 };
    let timer = itimerval { it_interval: often, it_value: often };
    sys!(SYS_setitimer, ITIMER_REAL, &timer, 0).unwrap();
}

fn a_signal_ends_a_wait() {
    let id = context(8);
    let mut place = [[0u64; 4]; 4];
    alarm_often();
    assert_eq!(sys!(SYS_io_getevents, id, 1, 4, &mut place, 0), Err(EINTR));
    assert_eq!(sys!(SYS_IO_PGETEVENTS, id, 1, 4, &mut place, 0, 0), Err(EINTR));
    assert!(seen() > 0);
}

fn a_mask_holds_for_a_wait() {
    let id = context(8);
    let mut place = [[0u64; 4]; 4];
    on_signal(SIGUSR1, 0, count);
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    sys!(SYS_kill, getpid(), SIGUSR1).unwrap();
    let none: timespec = zero();
    let open = 0u64;
    let set = [&raw const open as u64, 8];
    assert_eq!(sys!(SYS_IO_PGETEVENTS, id, 0, 4, &mut place, &none, &[0u64, 0]), Ok(0));
    assert_eq!(seen(), 0);
    assert_eq!(sys!(SYS_IO_PGETEVENTS, id, 1, 4, &mut place, 0, &[set[0], 4]), Err(EINVAL));
    assert_eq!(sys!(SYS_IO_PGETEVENTS, id, 1, 4, &mut place, 0, BAD), Err(EFAULT));
    assert_eq!(sys!(SYS_IO_PGETEVENTS, id, 1, 4, &mut place, 0, &set), Err(EINTR));
    assert_eq!(seen(), 1);
    assert_eq!(sigmask(SIG_BLOCK, &[]), mask_of(&[SIGUSR1]));
}

fn eventfds_are_signalled() {
    let (id, fd) = (context(8), new_file("f"));
    let notify = sys!(SYS_eventfd2, 0, EFD_NONBLOCK).unwrap() as i32;
    let buf = [0u8; 8];
    let mut request = iocb(0, PREAD, fd, addr(&buf), 8, 0);
    request[7] = RESFD | (notify as u64) << 32;
    let (r, w) = pipe();
    let mut later = iocb(1, POLL, r, POLLIN as usize, 0, 0);
    later[7] = request[7];
    submit(id, &[&request, &later, &request]).unwrap();
    assert_eq!(read_vec(notify, 8), Ok(2u64.to_ne_bytes().to_vec()));
    write(w, b"x").unwrap();
    assert_eq!(poll1(notify, POLLIN, 5000), POLLIN);
    assert_eq!(read_vec(notify, 8), Ok(1u64.to_ne_bytes().to_vec()));
    assert_eq!(events_now(id).len(), 3);
    // It may wait for the very eventfd that it signals.
    let mut itself = iocb(2, POLL, notify, POLLIN as usize, 0, 0);
    itself[7] = request[7];
    submit_one(id, &itself).unwrap();
    write(notify, &5u64.to_ne_bytes()).unwrap();
    assert_eq!(events(id, 1, 1)[0][..3], [2, itself.as_ptr() as u64, POLLIN as u64]);
}

fn polls_wait_for_files() {
    let (id, fd) = (context(8), new_file("f"));
    assert_eq!(result(id, &iocb(1, POLL, fd, POLLIN as usize, 0, 0)), i64::from(POLLIN));
    assert_eq!(submit_one(id, &iocb(1, POLL, fd, POLLPRI as usize, 0, 0)), Err(EINVAL));
    let (r, w) = pipe();
    let (first, second) =
        (iocb(2, POLL, r, (POLLIN | POLLRDNORM) as usize, 0, 0), iocb(3, POLL, r, POLLPRI as usize, 0, 0));
    assert_eq!(submit(id, &[&first, &second]), Ok(2));
    assert_eq!(events_now(id), [] as [Event; 0]);
    let waiter = std::thread::spawn(move || events(id, 1, 1));
    settle();
    write(w, b"x").unwrap();
    assert_eq!(waiter.join().unwrap()[0][..3], [2, first.as_ptr() as u64, (POLLIN | POLLRDNORM) as u64]);
    assert_eq!(result(id, &iocb(4, POLL, r, POLLIN as usize, 0, 0)), i64::from(POLLIN));
    close(w);
    assert_eq!(events(id, 1, 1)[0][..3], [3, second.as_ptr() as u64, POLLHUP as u64]);
}

fn polls_can_be_cancelled() {
    let id = context(8);
    let (r, _w) = pipe();
    let mut event = [0u64; 4];
    let mut request = iocb(2, POLL, r, POLLIN as usize, 0, 0);
    let mut cancel = |id: u64, at: usize| sys!(SYS_io_cancel, id, at, &mut event);
    assert_eq!(cancel(id, BAD), Err(EFAULT));
    assert_eq!(cancel(id, request.as_ptr() as usize), Err(EINVAL));
    submit_one(id, &request).unwrap();
    assert_eq!(cancel(id + 1, request.as_ptr() as usize), Err(EINVAL));
    assert_eq!(cancel(id, request.as_ptr() as usize), Err(EINPROGRESS));
    let obj = request.as_ptr() as u64;
    assert_eq!(events(id, 1, 1), [[2, obj, 0, 0]]);
    assert_eq!(cancel(id, request.as_ptr() as usize), Err(EINVAL));
    submit_one(id, &request).unwrap();
    request[1] = 1; // not the kernel's key
    assert_eq!(cancel(id, request.as_ptr() as usize), Err(EINVAL));
    destroy(id).unwrap();
}

fn priorities_are_checked() {
    let (id, fd) = (context(8), new_file("f"));
    let buf = [0u8; 8];
    let with = |priority: u64| {
        let mut request = iocb(0, PREAD, fd, addr(&buf), 8, 0);
        request[2] |= priority << 16;
        request[7] = IOPRIO;
        submit_one(id, &request)
    };
    assert_eq!(with(0x2000), Ok(1));
    assert_eq!(with(0x8000), Err(EINVAL));
    assert_eq!(with(0x0001), Err(EINVAL));
    drop_root();
    assert_eq!(with(0x2000), Err(EPERM));
    assert_eq!(with(0x4007), Ok(1));
}

fn contexts_are_counted() {
    let now = || slurp("/proc/sys/fs/aio-nr").trim().parse::<u64>().unwrap();
    let ids: Vec<u64> = (0..10).map(|_| context(100)).collect();
    assert!(now() >= 1000);
    let ids_of_all: std::collections::BTreeSet<u64> = ids.iter().copied().collect();
    assert_eq!(ids_of_all.len(), 10);
    for id in ids {
        destroy(id).unwrap();
        assert_eq!(destroy(id), Err(EINVAL));
    }
}

fn a_child_has_no_contexts() {
    let id = context(8);
    let none: timespec = zero();
    let mut place = [[0u64; 4]; 4];
    aside(|| {
        assert_eq!(sys!(SYS_io_getevents, id, 0, 4, &mut place, &none), Err(EINVAL));
        assert_eq!(submit(id, &[]), Err(EINVAL));
        assert_eq!(destroy(id), Err(EINVAL));
        let own = context(8);
        assert_eq!(submit(own, &[]), Ok(0));
    });
    assert_eq!(submit(id, &[]), Ok(0));
}

fn a_moved_ring_has_a_new_id() {
    let (id, fd) = (context(1), new_file("f"));
    let place = anon(2 * PAGE);
    let len = 32 * (ring(id, 1) as usize + 1);
    assert_eq!(len, PAGE);
    assert_eq!(sys!(SYS_mremap, id, PAGE, 2 * PAGE, MREMAP_MAYMOVE), Err(EFAULT));
    let new = sys!(SYS_mremap, id, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place).unwrap() as u64;
    let buf = [0u8; 8];
    assert_eq!(result(new, &iocb(1, PREAD, fd, addr(&buf), 8, 0)), 0);
    assert_eq!(submit(id, &[]), Err(EINVAL));
    destroy(new).unwrap();
}

fn the_end_of_a_context() {
    let id = context(8);
    let (r, _w) = pipe();
    let request = iocb(2, POLL, r, POLLIN as usize, 0, 0);
    submit_one(id, &request).unwrap();
    destroy(id).unwrap();
    let mut residency = [0u8; 1];
    assert_eq!(sys!(SYS_mincore, id, PAGE, &mut residency), Err(ENOMEM));
    assert_eq!(submit(id, &[]), Err(EINVAL));
    // A process ends with requests in flight.
    aside(|| {
        let id = context(8);
        submit_one(id, &request).unwrap();
    });
    // And with a ring that it unmapped itself.
    let id = context(8);
    sys!(SYS_munmap, id, PAGE).unwrap();
}

fn threads_end_waits_of_others() {
    let id = context(8);
    let waiter = std::thread::spawn(move || {
        let mut place = [[0u64; 4]; 4];
        sys!(SYS_io_getevents, id, 1, 4, &mut place, 0)
    });
    settle();
    destroy(id).unwrap();
    assert_eq!(waiter.join().unwrap(), Err(EINVAL));
}
