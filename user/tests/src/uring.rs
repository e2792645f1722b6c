//! io_uring: io_uring_setup(2), io_uring_enter(2), io_uring_register(2).

use std::cell::RefCell;

use crate::prelude::*;
use crate::sys::{peek64, poke32};

tests!(
    "uring":
    errors_of_setup, sizes_of_setup, nothing_is_done, files_are_read_and_written, vectors_and_own_positions,
    refused_requests, a_pipe_is_waited_for, a_pipe_is_filled_by_a_child, polls_end_when_files_are_ready,
    polls_that_go_on, polls_can_be_removed, timeouts_end, timeouts_count_completions, timeouts_can_be_removed,
    waits_have_limits, a_signal_ends_a_wait, chains_are_done_in_order, a_failure_ends_a_chain,
    hard_chains_go_on, a_limit_ends_a_wait, a_limit_without_need, draining_waits_for_all_before, drained_requests_stay_their_tasks,
    what_waits_behind_a_drain_goes_on, a_chain_waits_for_its_drain, a_ring_that_polls_itself,
    completions_without_a_place_wait, requests_can_be_cancelled, buffers_stay_what_they_were,
    fixed_buffers_have_bounds, buffers_count_as_locked,
    a_child_has_its_own_copy, fixed_files,
    eventfds_are_signalled, buffers_are_selected, rings_of_buffers, sockets, accepts_go_on,
    a_full_listener_is_waited_for, what_waits_in_a_call_goes_on,
    no_descriptor_is_left,
    files_are_opened_and_closed, names_are_changed, messages_between_rings, rings_can_be_registered,
    a_ring_can_be_polled, restrictions, credentials_are_kept, credentials_are_not_lent,
    the_end_cancels, success_can_be_silent,
    nonsense_in_the_ring, rings_hold_rings, deferred_work_is_told_of,
    rings_are_not_sent, who_waits_for_its_turn_can_be_killed, deferred_work, a_probe_tells_what_there_is, large_entries,
);

const SETUP: c_long = 425;
const ENTER: c_long = 426;
const REGISTER: c_long = 427;

const GETEVENTS: u32 = 1;
const EXT_ARG: u32 = 8;

const SETUP_CQSIZE: u32 = 1 << 3;
const SETUP_CLAMP: u32 = 1 << 4;
const SETUP_R_DISABLED: u32 = 1 << 6;
const SETUP_SQE128: u32 = 1 << 10;
const SETUP_CQE32: u32 = 1 << 11;
const SETUP_SINGLE_ISSUER: u32 = 1 << 12;
const SETUP_DEFER_TASKRUN: u32 = 1 << 13;
const SETUP_NO_SQARRAY: u32 = 1 << 16;

const FIXED_FILE: u8 = 1;
const DRAIN: u8 = 2;
const LINK: u8 = 4;
const HARDLINK: u8 = 8;
const SELECT: u8 = 32;
const SKIP_SUCCESS: u8 = 64;

const MORE: u32 = 2;

const NOP: u8 = 0;
const READV: u8 = 1;
const WRITEV: u8 = 2;
const FSYNC: u8 = 3;
const READ_FIXED: u8 = 4;
const WRITE_FIXED: u8 = 5;
const POLL_ADD: u8 = 6;
const POLL_REMOVE: u8 = 7;
const TIMEOUT: u8 = 11;
const TIMEOUT_REMOVE: u8 = 12;
const ACCEPT: u8 = 13;
const CANCEL: u8 = 14;
const LINK_TIMEOUT: u8 = 15;
const CONNECT: u8 = 16;
const OPENAT: u8 = 18;
const CLOSE: u8 = 19;
const STATX: u8 = 21;
const READ: u8 = 22;
const WRITE: u8 = 23;
const SEND: u8 = 26;
const RECV: u8 = 27;
const PROVIDE: u8 = 31;
const RENAMEAT: u8 = 35;
const UNLINKAT: u8 = 36;
const MKDIRAT: u8 = 37;
const MSG_RING: u8 = 40;
const SOCKET: u8 = 45;

const CANCELED: i32 = -(ECANCELED_NR);
const ECANCELED_NR: i32 = 125;
const ETIME_NR: i32 = 62;
const ENOBUFS_NR: i32 = 105;
const EBADFD_NR: i32 = 77;

/// `struct io_uring_params`, as words.
type Params = [u32; 30];

/// A completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cqe {
    data: u64,
    res: i32,
    flags: u32,
}

fn cqe(data: u64, res: i32) -> Cqe {
    Cqe { data, res, flags: 0 }
}

/// A request.
#[derive(Clone, Copy, Default)]
struct Sqe {
    op: u8,
    flags: u8,
    prio: u16,
    fd: i32,
    off: u64,
    addr: u64,
    len: u32,
    op_flags: u32,
    data: u64,
    buf: u16,
    personality: u16,
    index: u32,
    addr3: u64,
}

impl Sqe {
    fn words(&self) -> [u64; 8] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let head = u32::from(self.op) | u32::from(self.flags) << 8 | u32::from(self.prio) << 16;
        let bufs = u32::from(self.buf) | u32::from(self.personality) << 16;
        [
            pair(head, self.fd as u32),
            self.off,
            self.addr,
            pair(self.len, self.op_flags),
            self.data,
            pair(bufs, self.index),
            self.addr3,
            0,
        ]
    }

    fn tag(self, data: u64) -> Self {
        Self { data, ..self }
    }

    fn with(self, flags: u8) -> Self {
        Self { flags, ..self }
    }
}

fn rw(op: u8, fd: i32, addr: usize, len: usize, off: u64) -> Sqe {
    Sqe { op, fd, addr: addr as u64, len: len as u32, off, ..Sqe::default() }
}

fn nop(data: u64) -> Sqe {
    Sqe { op: NOP, data, ..Sqe::default() }
}

fn poll_add(fd: i32, events: i16) -> Sqe {
    Sqe { op: POLL_ADD, fd, op_flags: events as u32, ..Sqe::default() }
}

/// A ring that is mapped.
struct Ring {
    fd: i32,
    params: Params,
    rings: usize,
    sqes: usize,
    sqe_size: usize,
    cqe_size: usize,
    /// Completions that were taken from the ring before a test wanted them.
    early: RefCell<Vec<Cqe>>,
}

fn setup(entries: u32, params: &mut Params) -> Result<i32, Errno> {
    sys!(SETUP, entries, params).map(|fd| fd as i32)
}

fn map_ring(fd: i32, len: usize, offset: u64) -> usize {
    sys!(SYS_mmap, 0, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset).unwrap()
}

#[track_caller]
fn ring_with(entries: u32, flags: u32, cq_entries: u32) -> Ring {
    let mut params = Params::default();
    (params[1], params[2]) = (cq_entries, flags);
    let fd = match setup(entries, &mut params) {
        Ok(fd) => fd,
        Err(EPERM | ENOSYS) => skip("io_uring is not allowed here"),
        Err(errno) => panic!("io_uring_setup: {errno}"),
    };
    let (sqe_size, cqe_size) = (
        if flags & SETUP_SQE128 != 0 { 128 } else { 64 },
        if flags & SETUP_CQE32 != 0 { 32 } else { 16 },
    );
    let sq_end = params[16] as usize + 4 * params[0] as usize;
    let cq_end = params[25] as usize + cqe_size * params[1] as usize;
    let rings = map_ring(fd, sq_end.max(cq_end), 0);
    let sqes = map_ring(fd, sqe_size * params[0] as usize, 0x1000_0000);
    let ring = Ring { fd, params, rings, sqes, sqe_size, cqe_size, early: RefCell::default() };
    if flags & SETUP_NO_SQARRAY == 0 {
        for n in 0..params[0] {
            poke32(rings + params[16] as usize + 4 * n as usize, n);
        }
    }
    ring
}

#[track_caller]
fn ring(entries: u32) -> Ring {
    ring_with(entries, 0, 0)
}

impl Ring {
    /// The word of the submission ring whose offset is in word `n` of the parameters.
    fn word(&self, n: usize) -> &'static std::sync::atomic::AtomicU32 {
        atomic(self.rings + self.params[n] as usize)
    }

    /// Puts requests into the ring.
    fn push(&self, requests: &[Sqe]) {
        let tail = self.word(11);
        for request in requests {
            let at = tail.load(SeqCst);
            let place = self.sqes + self.sqe_size * (at & (self.params[0] - 1)) as usize;
            for (n, word) in request.words().into_iter().enumerate() {
                poke32(place + 8 * n, word as u32);
                poke32(place + 8 * n + 4, (word >> 32) as u32);
            }
            tail.store(at.wrapping_add(1), SeqCst);
        }
    }

    fn enter(&self, submit: usize, min: usize, flags: u32) -> Result<usize, Errno> {
        sys!(ENTER, self.fd, submit, min, flags, 0, 0)
    }

    /// Submits requests, which are all taken.
    #[track_caller]
    fn submit(&self, requests: &[Sqe]) {
        self.push(requests);
        assert_eq!(self.enter(requests.len(), 0, 0), Ok(requests.len()));
    }

    /// Takes the completions that are there.
    fn take(&self) -> Vec<Cqe> {
        let (head, tail) = (self.word(20), self.word(21));
        let mut found = self.early.take();
        while head.load(SeqCst) != tail.load(SeqCst) {
            let at = head.load(SeqCst);
            let place = self.rings
                + self.params[25] as usize
                + self.cqe_size * (at & (self.params[1] - 1)) as usize;
            let rest = peek64(place + 8);
            found.push(Cqe { data: peek64(place), res: rest as i32, flags: (rest >> 32) as u32 });
            head.store(at.wrapping_add(1), SeqCst);
        }
        found
    }

    /// Waits for `nr` completions and takes them.
    #[track_caller]
    fn wait(&self, nr: usize) -> Vec<Cqe> {
        let mut found = self.take();
        while found.len() < nr {
            self.enter(0, 1, GETEVENTS).unwrap();
            found.extend(self.take());
        }
        self.early.replace(found.split_off(nr));
        found
    }

    /// Submits requests, and takes as many completions.
    #[track_caller]
    fn run(&self, requests: &[Sqe]) -> Vec<Cqe> {
        self.submit(requests);
        self.wait(requests.len())
    }

    /// The result of one request.
    #[track_caller]
    fn result(&self, request: Sqe) -> i32 {
        self.run(&[request])[0].res
    }

    fn register(&self, op: u32, arg: impl user_sys::Arg, nr: usize) -> Result<usize, Errno> {
        sys!(REGISTER, self.fd, op, arg, nr)
    }

    fn has_completions(&self) -> bool {
        self.word(20).load(SeqCst) != self.word(21).load(SeqCst) || !self.early.borrow().is_empty()
    }
}

fn addr(bytes: &[u8]) -> usize {
    bytes.as_ptr() as usize
}

fn err(errno: Errno) -> i32 {
    -(errno as i32)
}

fn errors_of_setup() {
    drop(ring(1));
    let try_with = |entries: u32, change: &dyn Fn(&mut Params)| {
        let mut params = Params::default();
        change(&mut params);
        setup(entries, &mut params).map(close)
    };
    assert_eq!(sys!(SETUP, 1, BAD), Err(EFAULT));
    assert_eq!(try_with(0, &|_| {}), Err(EINVAL));
    assert_eq!(try_with(32769, &|_| {}), Err(EINVAL));
    assert_eq!(try_with(32769, &|p| p[2] = SETUP_CLAMP), Ok(()));
    assert_eq!(try_with(1, &|p| p[2] = 1 << 31), Err(EINVAL));
    assert_eq!(try_with(1, &|p| p[7] = 1), Err(EINVAL));
    assert_eq!(try_with(1, &|p| p[2] = SETUP_CQSIZE), Err(EINVAL));
    assert_eq!(try_with(8, &|p| (p[1], p[2]) = (4, SETUP_CQSIZE)), Err(EINVAL));
    assert_eq!(try_with(1, &|p| p[2] = SETUP_DEFER_TASKRUN), Err(EINVAL));
    let page = map(PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1).unwrap();
    assert_eq!(sys!(SETUP, 1, page), Err(EFAULT));
    let (r, _w) = pipe();
    assert_eq!(sys!(ENTER, r, 0, 0, 0, 0, 0), Err(EOPNOTSUPP));
    assert_eq!(sys!(ENTER, -1, 0, 0, 0, 0, 0), Err(EBADF));
    assert_eq!(sys!(ENTER, r, 0, 0, 1 << 30, 0, 0), Err(EINVAL));
    assert_eq!(sys!(REGISTER, r, 0, 0, 0), Err(EOPNOTSUPP));
    let ring = ring(1);
    assert_eq!(sys!(REGISTER, ring.fd, 200, 0, 0), Err(EINVAL));
    assert_eq!(map(PAGE, PROT_READ, MAP_SHARED, -1), Err(EBADF));
    assert_eq!(sys!(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, ring.fd, 0x1800_0000u64), Err(EINVAL));
    // What lies beyond the end is mapped, and is not there.
    let long = sys!(SYS_mmap, 0, 64 * PAGE, PROT_READ, MAP_SHARED, ring.fd, 0).unwrap();
    assert_eq!(fate(|| ignore(peek(long + 32 * PAGE))), Status::Signal(SIGBUS));
    assert_eq!(read_vec(ring.fd, 8), Err(EINVAL));
}

fn sizes_of_setup() {
    let ring = ring_with(5, SETUP_CQSIZE, 100);
    assert_eq!((ring.params[0], ring.params[1]), (8, 128));
    assert_eq!(ring.word(12).load(SeqCst), 7);
    assert_eq!(ring.word(13).load(SeqCst), 8);
    assert_eq!(ring.word(22).load(SeqCst), 127);
    assert_eq!(ring.word(23).load(SeqCst), 128);
    // One mapping for both, no completion is lost, waits have a structure of arguments.
    assert_eq!(ring.params[5] & 0x103, 0x103);
    // The other offset shows the same.
    let again = map_ring(ring.fd, PAGE, 0x800_0000);
    assert_eq!(atomic(again + ring.params[23] as usize).load(SeqCst), 128);
    // The memory outlives the descriptor.
    close(ring.fd);
    assert_eq!(ring.word(13).load(SeqCst), 8);
}

fn nothing_is_done() {
    let ring = ring(4);
    assert_eq!(ring.enter(4, 0, 0), Ok(0));
    assert_eq!(ring.run(&[nop(7), nop(8)]), [cqe(7, 0), cqe(8, 0)]);
    for n in 0..100 {
        assert_eq!(ring.run(&[nop(n)]), [cqe(n, 0)]);
    }
    // No more are taken than asked for.
    ring.push(&[nop(1), nop(2), nop(3)]);
    assert_eq!(ring.enter(2, 0, 0), Ok(2));
    assert_eq!(ring.enter(9, 0, 0), Ok(1));
    assert_eq!(ring.take().len(), 3);
    // The result may be given, whatever it is.
    for res in [7, -1, -4096, i32::MIN, i32::MAX] {
        assert_eq!(ring.result(Sqe { len: res as u32, op_flags: 1, ..nop(1) }), res);
    }
}

fn files_are_read_and_written() {
    let (ring, fd) = (ring(4), new_file("f"));
    let (out, back) = (b"rings of requests".to_vec(), [0u8; 32]);
    assert_eq!(ring.result(rw(WRITE, fd, addr(&out), 17, 4096)), 17);
    assert_eq!(ring.result(rw(READ, fd, addr(&back), 32, 4096)), 17);
    assert_eq!(std::hint::black_box(&back)[..17], out[..]);
    assert_eq!(ring.result(rw(READ, fd, addr(&back), 32, 1 << 20)), 0);
    assert_eq!(seek(fd, 0, SEEK_CUR), Ok(0));
    assert_eq!(ring.result(Sqe { op: FSYNC, fd, ..Sqe::default() }), 0);
    let hole = anon(PAGE);
    sys!(SYS_munmap, hole, PAGE).unwrap();
    assert_eq!(ring.result(rw(READ, fd, hole, 8, 4096)), err(EFAULT));
    let folder = open(&cstr(dir()), O_RDONLY).unwrap();
    assert_eq!(ring.result(rw(READ, folder, addr(&back), 8, 0)), err(EISDIR));
    let read_only = open(&path("f"), O_RDONLY).unwrap();
    assert_eq!(ring.result(rw(WRITE, read_only, addr(&out), 8, 0)), err(EBADF));
}

fn vectors_and_own_positions() {
    let (ring, fd) = (ring(4), new_file("f"));
    let (one, two, back) = (b"first".to_vec(), b"second".to_vec(), [0u8; 11]);
    let parts = [addr(&one), 5, addr(&two), 6];
    assert_eq!(ring.result(rw(WRITEV, fd, parts.as_ptr() as usize, 2, u64::MAX)), 11);
    assert_eq!(seek(fd, 0, SEEK_CUR), Ok(11));
    let parts = [addr(&back), 1, addr(&back) + 1, 10];
    assert_eq!(ring.result(rw(READV, fd, parts.as_ptr() as usize, 2, 0)), 11);
    assert_eq!(std::hint::black_box(&back), b"firstsecond");
    assert_eq!(ring.result(rw(READV, fd, BAD, 1, 0)), err(EFAULT));
    assert_eq!(ring.result(rw(READV, fd, parts.as_ptr() as usize, 1025, 0)), err(EINVAL));
}

fn refused_requests() {
    let (ring, fd) = (ring(8), new_file("f"));
    let buf = [0u8; 8];
    let read = rw(READ, fd, addr(&buf), 8, 0);
    assert_eq!(ring.result(Sqe { op: 200, ..read }), err(EINVAL));
    assert_eq!(ring.result(Sqe { flags: 0x80, ..read }), err(EINVAL));
    assert_eq!(ring.result(Sqe { fd: -1, ..read }), err(EBADF));
    assert_eq!(ring.result(Sqe { fd: 0, flags: FIXED_FILE, ..read }), err(EBADF));
    assert_eq!(ring.result(Sqe { personality: 9, ..read }), err(EINVAL));
    assert_eq!(ring.result(Sqe { op_flags: 1 << 30, ..read }), err(EOPNOTSUPP));
    assert_eq!(ring.result(Sqe { op: READ_FIXED, buf: 3, ..read }), err(EFAULT));
    assert_eq!(ring.result(Sqe { op: WRITE, flags: SELECT, ..read }), err(EOPNOTSUPP));
    assert_eq!(ring.result(Sqe { flags: SELECT, buf: 9, ..read }), -ENOBUFS_NR);
    // What is refused ends the batch.
    ring.push(&[nop(1), Sqe { op: 200, ..nop(2) }, nop(3)]);
    assert_eq!(ring.enter(3, 0, 0), Ok(2));
    assert_eq!(ring.enter(1, 0, 0), Ok(1));
    assert_eq!(ring.take(), [cqe(1, 0), cqe(2, err(EINVAL)), cqe(3, 0)]);
}

fn a_pipe_is_waited_for() {
    let ring = ring(4);
    let (r, w) = pipe();
    let back = [0u8; 8];
    ring.submit(&[rw(READ, r, addr(&back), 8, 0).tag(5)]);
    assert!(!ring.has_completions());
    write(w, b"late").unwrap();
    assert_eq!(ring.wait(1), [cqe(5, 4)]);
    assert_eq!(std::hint::black_box(&back)[..4], *b"late");
    // Descriptors that do not wait for their own sake do here.
    let (r, w) = pipe_with(O_NONBLOCK);
    ring.submit(&[rw(READ, r, addr(&back), 8, 0).tag(6)]);
    assert!(!ring.has_completions());
    close(w);
    assert_eq!(ring.wait(1), [cqe(6, 0)]);
}

fn a_pipe_is_filled_by_a_child() {
    let ring = ring(4);
    let (r, w) = pipe();
    let back = [0u8; 8];
    let child = child(|| {
        settle();
        write(w, b"child").unwrap();
    });
    ring.push(&[rw(READ, r, addr(&back), 8, 0).tag(1)]);
    assert_eq!(ring.enter(1, 1, GETEVENTS), Ok(1));
    assert_eq!(ring.take(), [cqe(1, 5)]);
    assert_eq!(child.wait(), Status::Exit(0));
}

fn polls_end_when_files_are_ready() {
    let ring = ring(4);
    let (r, w) = pipe();
    assert_eq!(ring.result(poll_add(w, POLLOUT)), i32::from(POLLOUT));
    ring.submit(&[poll_add(r, POLLIN).tag(3)]);
    assert!(!ring.has_completions());
    write(w, b"x").unwrap();
    assert_eq!(ring.wait(1), [cqe(3, i32::from(POLLIN))]);
    // A poll with an address, an offset or flags that there are not is refused.
    assert_eq!(ring.result(Sqe { off: 1, ..poll_add(r, POLLIN) }), err(EINVAL));
    assert_eq!(ring.result(Sqe { len: 1 << 20, ..poll_add(r, POLLIN) }), err(EINVAL));
    let (r, w) = pipe();
    ring.submit(&[poll_add(r, POLLIN).tag(4)]);
    close(w);
    assert_eq!(ring.wait(1), [cqe(4, i32::from(POLLHUP))]);
}

fn polls_that_go_on() {
    let ring = ring(4);
    let (r, w) = pipe();
    ring.submit(&[Sqe { len: 1, ..poll_add(r, POLLIN).tag(9) }]);
    for _ in 0..3 {
        write(w, b"x").unwrap();
        let found = ring.wait(1);
        assert_eq!(found, [Cqe { flags: MORE, ..cqe(9, i32::from(POLLIN)) }]);
        read_vec(r, 1).unwrap();
    }
    let mut found = ring.run(&[Sqe { op: POLL_REMOVE, addr: 9, ..nop(1) }]);
    found.extend(ring.wait(1));
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, 0), cqe(9, CANCELED)]);
}

fn polls_can_be_removed() {
    let ring = ring(4);
    let (r, _w) = pipe();
    assert_eq!(ring.result(Sqe { op: POLL_REMOVE, addr: 9, ..nop(1) }), err(ENOENT));
    ring.submit(&[poll_add(r, POLLIN).tag(9)]);
    let mut found = ring.run(&[Sqe { op: POLL_REMOVE, addr: 9, ..nop(1) }]);
    found.extend(ring.wait(1));
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, 0), cqe(9, CANCELED)]);
}

fn timeout(ms: i64) -> (Box<timespec>, Sqe) {
    let time = Box::new(self::ms(ms));
    let sqe = Sqe { op: TIMEOUT, addr: &raw const *time as u64, len: 1, ..Sqe::default() };
    (time, sqe)
}

fn timeouts_end() {
    let ring = ring(4);
    let (_time, sqe) = timeout(20);
    let (took, found) = timed(|| ring.run(&[sqe.tag(4)]));
    assert_eq!(found, [cqe(4, -ETIME_NR)]);
    assert!(took >= 19, "{took}");
    assert_eq!(ring.result(Sqe { len: 2, ..sqe }), err(EINVAL));
    assert_eq!(ring.result(Sqe { addr: BAD as u64, ..sqe }), err(EFAULT));
    assert_eq!(ring.result(Sqe { op_flags: 1 << 20, ..sqe }), err(EINVAL));
    let (_bad, negative) = timeout(-1000);
    assert_eq!(ring.result(negative), err(EINVAL));
}

fn timeouts_count_completions() {
    let ring = ring(8);
    let (_time, sqe) = timeout(1_000_000);
    ring.submit(&[Sqe { off: 2, ..sqe.tag(4) }]);
    ring.submit(&[nop(1)]);
    assert_eq!(ring.take(), [cqe(1, 0)]);
    ring.submit(&[nop(2)]);
    assert_eq!(ring.wait(2), [cqe(2, 0), cqe(4, 0)]);
}

fn timeouts_can_be_removed() {
    let ring = ring(4);
    let (_time, sqe) = timeout(1_000_000);
    assert_eq!(ring.result(Sqe { op: TIMEOUT_REMOVE, addr: 4, ..nop(1) }), err(ENOENT));
    ring.submit(&[sqe.tag(4)]);
    let mut found = ring.run(&[Sqe { op: TIMEOUT_REMOVE, addr: 4, ..nop(1) }]);
    found.extend(ring.wait(1));
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, 0), cqe(4, CANCELED)]);
    // Another time makes it end soon.
    let soon = ms(10);
    ring.submit(&[sqe.tag(5)]);
    let update = Sqe { op: TIMEOUT_REMOVE, addr: 5, off: &raw const soon as u64, op_flags: 2, ..nop(6) };
    ring.submit(&[update]);
    assert_eq!(ring.wait(2), [cqe(6, 0), cqe(5, -ETIME_NR)]);
}

fn wait_ext(ring: &Ring, min: usize, time: usize, mask: usize) -> Result<usize, Errno> {
    let arg = [mask as u64, 8, time as u64];
    sys!(ENTER, ring.fd, 0, min, GETEVENTS | EXT_ARG, &arg, 24)
}

fn waits_have_limits() {
    let ring = ring(4);
    let time = ms(20);
    let at = &raw const time as usize;
    let (took, result) = timed(|| wait_ext(&ring, 1, at, 0));
    assert_eq!(result, Err(Errno::ETIME));
    assert!(took >= 19, "{took}");
    assert_eq!(sys!(ENTER, ring.fd, 0, 1, GETEVENTS | EXT_ARG, &[0u64; 3], 16), Err(EINVAL));
    assert_eq!(wait_ext(&ring, 1, BAD, 0), Err(EFAULT));
    assert_eq!(ring.enter(0, 0, GETEVENTS), Ok(0));
    // What came counts, though it is fewer than wanted.
    ring.submit(&[nop(1)]);
    assert_eq!(wait_ext(&ring, 2, at, 0), Ok(0));
    assert_eq!(ring.take(), [cqe(1, 0)]);
}

fn a_signal_ends_a_wait() {
    let ring = ring(4);
    on_signal(SIGALRM, 0, count);
    let often = timeval { tv_sec: 0, tv_usec: 20_000 };
    let timer = itimerval { it_interval: often, it_value: often };
    sys!(SYS_setitimer, ITIMER_REAL, &timer, 0).unwrap();
    assert_eq!(ring.enter(0, 1, GETEVENTS), Err(EINTR));
    assert!(seen() > 0);
    sys!(SYS_setitimer, ITIMER_REAL, &zero::<itimerval>(), 0).unwrap();
    // A mask holds for the wait.
    on_signal(SIGUSR1, 0, count);
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    sys!(SYS_kill, getpid(), SIGUSR1).unwrap();
    let open = 0u64;
    assert_eq!(wait_ext(&ring, 1, 0, &raw const open as usize), Err(EINTR));
    assert_eq!(sigmask(SIG_BLOCK, &[]), mask_of(&[SIGUSR1]));
}

fn chains_are_done_in_order() {
    let ring = ring(8);
    let (r, w) = pipe();
    let (out, back) = (b"link".to_vec(), [0u8; 8]);
    // The read waits for the write of another chain, and its follower for it.
    ring.submit(&[rw(READ, r, addr(&back), 4, 0).tag(1).with(LINK), nop(2)]);
    assert!(!ring.has_completions());
    ring.submit(&[rw(WRITE, w, addr(&out), 4, 0).tag(3)]);
    assert_eq!(ring.wait(3), [cqe(3, 4), cqe(1, 4), cqe(2, 0)]);
}

fn a_failure_ends_a_chain() {
    let (ring, fd) = (ring(8), new_file("f"));
    let buf = [0u8; 8];
    let bad = rw(READ, -1, addr(&buf), 8, 0).tag(1).with(LINK);
    let mut found = ring.run(&[bad, nop(2).with(LINK), nop(3), nop(4)]);
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, err(EBADF)), cqe(2, CANCELED), cqe(3, CANCELED), cqe(4, 0)]);
    // Less than was asked for is a failure here.
    let short = rw(READ, fd, addr(&buf), 8, 0).tag(5).with(LINK);
    assert_eq!(ring.run(&[short, nop(6)]), [cqe(5, 0), cqe(6, CANCELED)]);
}

fn hard_chains_go_on() {
    let ring = ring(8);
    let bad = rw(READ, -1, 0, 8, 0).tag(1).with(HARDLINK);
    assert_eq!(ring.run(&[bad, nop(2)]), [cqe(1, err(EBADF)), cqe(2, 0)]);
}

fn a_limit_ends_a_wait() {
    let ring = ring(8);
    let (r, _w) = pipe();
    let buf = [0u8; 8];
    let (_time, limit) = timeout(20);
    let limit = Sqe { op: LINK_TIMEOUT, ..limit.tag(2) };
    let mut found = ring.run(&[rw(READ, r, addr(&buf), 8, 0).tag(1).with(LINK), limit]);
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, CANCELED), cqe(2, -ETIME_NR)]);
}

fn a_limit_without_need() {
    let ring = ring(8);
    let (_time, limit) = timeout(1_000_000);
    let limit = Sqe { op: LINK_TIMEOUT, ..limit.tag(2) };
    assert_eq!(ring.run(&[nop(1).with(LINK), limit]), [cqe(1, 0), cqe(2, CANCELED)]);
    assert_eq!(ring.result(limit), err(EINVAL));
    let (r, w) = pipe();
    let buf = [0u8; 8];
    ring.submit(&[rw(READ, r, addr(&buf), 8, 0).tag(1).with(LINK), limit]);
    write(w, b"in time").unwrap();
    let mut found = ring.wait(2);
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, 7), cqe(2, CANCELED)]);
}

fn draining_waits_for_all_before() {
    let ring = ring(8);
    let (r, w) = pipe();
    let buf = [0u8; 8];
    ring.submit(&[rw(READ, r, addr(&buf), 8, 0).tag(1), nop(2).with(DRAIN), nop(3)]);
    assert!(!ring.has_completions());
    write(w, b"x").unwrap();
    assert_eq!(ring.wait(3), [cqe(1, 1), cqe(2, 0), cqe(3, 0)]);
}

fn a_chain_waits_for_its_drain() {
    let (ring, back) = (ring(8), [0u8; 8]);
    let (r, w) = pipe();
    ring.submit(&[rw(READ, r, addr(&back), 8, 0).tag(1), nop(2).with(LINK), nop(3).with(DRAIN)]);
    assert!(!ring.has_completions());
    write(w, b"x").unwrap();
    assert_eq!(ring.wait(3), [cqe(1, 1), cqe(2, 0), cqe(3, 0)]);
}

fn a_ring_that_polls_itself() {
    let ring = ring(8);
    ring.submit(&[Sqe { len: 1, ..poll_add(ring.fd, POLLIN).tag(1) }]);
    ring.submit(&[nop(2)]);
    let mut found = ring.wait(2);
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, i32::from(POLLIN)), cqe(2, 0)]);
    ring.submit(&[nop(3)]);
    assert_eq!(ring.wait(1), [cqe(3, 0)]);
    assert!(!ring.has_completions());
}

fn what_waits_behind_a_drain_goes_on() {
    let (ring, back) = (ring(8), [0u8; 8]);
    let ((r, w), (r2, w2)) = (pipe(), pipe());
    // The last one brings what the one before waits for.
    ring.submit(&[
        rw(READ, r, addr(&back), 8, 0).tag(1),
        nop(2).with(DRAIN),
        rw(READ, r2, addr(&back), 8, 0).tag(3),
        rw(WRITE, w2, addr(b"ab"), 2, 0).tag(4),
    ]);
    assert!(!ring.has_completions());
    write(w, b"x").unwrap();
    let mut found = ring.wait(4);
    assert_eq!(found[..2], [cqe(1, 1), cqe(2, 0)]);
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found[2..], [cqe(3, 2), cqe(4, 2)]);
}

fn drained_requests_stay_their_tasks() {
    let (ring, buf) = (ring(8), [0u8; 8]);
    let (r, w) = pipe();
    let (told, tell) = pipe();
    // A descriptor that the two have for different files.
    let fd = new_file("parents");
    ring.submit(&[rw(READ, r, addr(&buf), 8, 0).tag(1)]);
    let child = child_code(|| {
        close(fd);
        assert_eq!(new_file("childs"), fd);
        ring.submit(&[rw(WRITE, fd, addr(b"child"), 5, 0).tag(2).with(DRAIN)]);
        write(tell, b"x").unwrap();
        // It comes for the completion, which the parent's end of the first lets be.
        while ring.word(21).load(SeqCst) < 2 {
            ring.enter(0, 2, GETEVENTS).unwrap();
        }
        i32::from(pread(fd, 8, 0) == Ok(b"child".to_vec()))
    });
    read_vec(told, 1).unwrap();
    write(w, b"x").unwrap();
    while ring.word(21).load(SeqCst) < 1 {
        ring.enter(0, 1, GETEVENTS).unwrap();
    }
    assert_eq!(child.wait(), Status::Exit(1));
    assert_eq!(pread(fd, 8, 0), Ok(vec![]));
    assert_eq!(ring.take(), [cqe(1, 1), cqe(2, 5)]);
}

fn completions_without_a_place_wait() {
    let ring = ring_with(4, SETUP_CQSIZE, 4);
    for n in 0..3 {
        ring.submit(&[nop(4 * n), nop(4 * n + 1), nop(4 * n + 2), nop(4 * n + 3)]);
    }
    // The submission ring's flags tell.
    assert_eq!(ring.word(14).load(SeqCst) & 2, 2);
    let tags: Vec<u64> = ring.wait(12).iter().map(|cqe| cqe.data).collect();
    assert_eq!(tags, (0..12).collect::<Vec<_>>());
    assert_eq!(ring.word(14).load(SeqCst) & 2, 0);
}

fn requests_can_be_cancelled() {
    let ring = ring(8);
    let (r, _w) = pipe();
    let buf = [0u8; 8];
    let cancel = |addr: u64, op_flags: u32| Sqe { op: CANCEL, addr, op_flags, ..nop(100) };
    assert_eq!(ring.result(cancel(1, 0)), err(ENOENT));
    let read = |tag| rw(READ, r, addr(&buf), 8, 0).tag(tag);
    ring.submit(&[read(1)]);
    let mut found = ring.run(&[cancel(1, 0)]);
    found.extend(ring.wait(1));
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, CANCELED), cqe(100, 0)]);
    // All of a file; then any.
    ring.submit(&[read(1), read(2)]);
    ring.submit(&[Sqe { fd: r, ..cancel(0, 3) }]);
    let mut found = ring.wait(3);
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, CANCELED), cqe(2, CANCELED), cqe(100, 2)]);
    ring.submit(&[read(1), read(2)]);
    ring.submit(&[cancel(0, 4)]);
    assert_eq!(ring.wait(3).iter().filter(|cqe| cqe.res == CANCELED).count(), 2);
    // By a call.
    let arg = [7u64, u64::from(u32::MAX), u64::MAX, u64::MAX, 0, 0, 0, 0];
    assert_eq!(ring.register(24, &arg, 1), Err(ENOENT));
    ring.submit(&[read(7)]);
    assert_eq!(ring.register(24, &arg, 1), Ok(0));
    assert_eq!(ring.wait(1), [cqe(7, CANCELED)]);
}

/// Registers one buffer.
fn register_buffer(ring: &Ring, at: usize, len: usize) -> Result<usize, Errno> {
    ring.register(0, &[at, len], 1)
}

fn fixed(op: u8, fd: i32, at: usize, len: usize, off: u64) -> Sqe {
    rw(op, fd, at, len, off)
}

fn buffers_stay_what_they_were() {
    let (ring, fd) = (ring(4), new_file("f"));
    let at = anon(2 * PAGE);
    register_buffer(&ring, at + 100, PAGE).unwrap();
    assert_eq!(register_buffer(&ring, at, 1), Err(EBUSY));
    poke(at + 150, 7);
    assert_eq!(ring.result(fixed(WRITE_FIXED, fd, at + 150, 4000, 0)), 4000);
    assert_eq!(pread(fd, 1, 0), Ok(vec![7]));
    // A read goes into the pages that were registered, whatever is mapped there now.
    pwrite(fd, b"fixed", 0).unwrap();
    assert_eq!(ring.result(fixed(READ_FIXED, fd, at + PAGE, 5, 0)), 5);
    assert_eq!(bytes_at(at + PAGE, 5), b"fixed");
    sys!(SYS_mprotect, at, 2 * PAGE, PROT_READ).unwrap();
    sys!(SYS_mprotect, at, 2 * PAGE, PROT_READ | PROT_WRITE).unwrap();
    poke(at + 150, 8);
    assert_eq!(ring.result(fixed(WRITE_FIXED, fd, at + 150, 1, 0)), 1);
    assert_eq!(pread(fd, 1, 0), Ok(vec![8]));
    sys!(SYS_munmap, at, 2 * PAGE).unwrap();
    assert_eq!(ring.result(fixed(WRITE_FIXED, fd, at + 150, 1, 1)), 1);
    assert_eq!(pread(fd, 1, 1), Ok(vec![8]));
    assert_eq!(ring.register(1, 0, 0), Ok(0));
    assert_eq!(ring.register(1, 0, 0), Err(ENXIO));
    assert_eq!(ring.result(fixed(WRITE_FIXED, fd, at + 150, 1, 1)), err(EFAULT));
}

fn fixed_buffers_have_bounds() {
    let (ring, fd) = (ring(4), new_file("f"));
    let at = anon(PAGE);
    assert_eq!(ring.register(0, 0, 1), Err(EFAULT));
    assert_eq!(ring.register(0, BAD, 1), Err(EFAULT));
    assert_eq!(register_buffer(&ring, BAD, PAGE), Err(EFAULT));
    assert_eq!(register_buffer(&ring, at, 0), Err(EFAULT));
    let page = map(PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1).unwrap();
    assert_eq!(register_buffer(&ring, page, PAGE), Err(EFAULT));
    register_buffer(&ring, at, PAGE).unwrap();
    assert_eq!(ring.result(fixed(WRITE_FIXED, fd, at, PAGE, 0)), PAGE as i32);
    assert_eq!(ring.result(fixed(WRITE_FIXED, fd, at, PAGE + 1, 0)), err(EFAULT));
    assert_eq!(ring.result(fixed(WRITE_FIXED, fd, at - 1, 1, 0)), err(EFAULT));
    assert_eq!(ring.result(Sqe { buf: 1, ..fixed(WRITE_FIXED, fd, at, 1, 0) }), err(EFAULT));
}

fn buffers_count_as_locked() {
    drop(ring(1));
    let code = child_code(|| {
        let limit = rlimit { rlim_cur: 4 * PAGE as u64, rlim_max: 4 * PAGE as u64 };
        sys!(SYS_setrlimit, RLIMIT_MEMLOCK, &limit).unwrap();
        sys!(SYS_setuid, 31_337).unwrap();
        let ring = ring(1);
        let at = anon(5 * PAGE);
        assert_eq!(register_buffer(&ring, at, 5 * PAGE), Err(ENOMEM));
        assert_eq!(register_buffer(&ring, at, 2 * PAGE), Ok(0));
        0
    });
    assert_eq!(code.wait(), Status::Exit(0));
}

fn a_child_has_its_own_copy() {
    let (ring, fd) = (ring(4), new_file("f"));
    let at = anon(PAGE);
    poke(at, 1);
    register_buffer(&ring, at, PAGE).unwrap();
    let (r, w) = pipe();
    let child = child_code(|| {
        read_vec(r, 1).unwrap();
        i32::from(peek(at))
    });
    // What the parent writes is what the ring sees, and nothing that the child does.
    poke(at, 2);
    assert_eq!(ring.result(fixed(WRITE_FIXED, fd, at, 1, 0)), 1);
    assert_eq!(pread(fd, 1, 0), Ok(vec![2]));
    write(w, b"x").unwrap();
    assert_eq!(child.wait(), Status::Exit(1));
}

fn fixed_files() {
    let (ring, fd) = (ring(4), new_file("f"));
    let out = b"fixed".to_vec();
    assert_eq!(ring.register(3, 0, 0), Err(ENXIO));
    assert_eq!(ring.register(2, &[fd, ring.fd], 2), Err(EBADF));
    assert_eq!(ring.register(2, &[fd, -1], 2), Ok(0));
    assert_eq!(ring.register(2, &[fd, -1], 2), Err(EBUSY));
    let on = |place: i32| rw(WRITE, place, addr(&out), 5, 0).with(FIXED_FILE);
    assert_eq!(ring.result(on(0)), 5);
    assert_eq!(ring.result(on(1)), err(EBADF));
    assert_eq!(ring.result(on(2)), err(EBADF));
    // Another file for the second place.
    let other = new_file("g");
    let (fds, update) = ([other], |fds: &[i32; 1]| [1u64, fds.as_ptr() as u64]);
    assert_eq!(ring.register(6, &update(&fds), 1), Ok(1));
    close(other);
    assert_eq!(ring.result(on(1)), 5);
    // A file is opened into a place, and closed there.
    let name = path("h");
    let into = Sqe {
        op: OPENAT,
        fd: AT_FDCWD,
        addr: name.as_ptr() as u64,
        len: 0o600,
        op_flags: (O_CREAT | O_RDWR) as u32,
        index: 2,
        ..Sqe::default()
    };
    assert_eq!(ring.result(into), 0);
    assert_eq!(ring.result(on(1)), 5);
    assert_eq!(stat_path(&name).unwrap().st_size, 5);
    assert_eq!(ring.result(Sqe { op: CLOSE, index: 2, ..Sqe::default() }), 0);
    assert_eq!(ring.result(on(1)), err(EBADF));
    // Where there is room, but no file that is only a name.
    let put = |fds: &[i32; 1]| Sqe { op: 20, addr: fds.as_ptr() as u64, len: 1, off: u64::from(u32::MAX), ..nop(1) };
    let fds = [open(&name, O_PATH).unwrap()];
    assert_eq!(ring.result(put(&fds)), err(EBADF));
    let fds = [open(&name, O_RDWR).unwrap()];
    assert_eq!(ring.result(put(&fds)), 1);
    assert_eq!(std::hint::black_box(&fds), &[1]);
    assert_eq!(ring.result(on(1)), 5);
    assert_eq!(ring.register(3, 0, 0), Ok(0));
    assert_eq!(ring.result(on(0)), err(EBADF));
}

fn eventfds_are_signalled() {
    let ring = ring(4);
    let notify = sys!(SYS_eventfd2, 0, EFD_NONBLOCK).unwrap() as i32;
    let (r, w) = pipe();
    assert_eq!(ring.register(4, &[r], 1), Err(EINVAL));
    assert_eq!(ring.register(4, &[notify], 1), Ok(0));
    assert_eq!(ring.register(4, &[notify], 1), Err(EBUSY));
    ring.submit(&[nop(1)]);
    assert_eq!(read_vec(notify, 8).map(|count| count.len()), Ok(8));
    ring.submit(&[poll_add(r, POLLIN).tag(2)]);
    assert_eq!(read_vec(notify, 8), Err(EAGAIN));
    write(w, b"x").unwrap();
    assert_eq!(poll1(notify, POLLIN, 5000), POLLIN);
    assert_eq!(ring.register(5, 0, 0), Ok(0));
    assert_eq!(ring.register(5, 0, 0), Err(ENXIO));
    assert_eq!(ring.wait(2).len(), 2);
}

fn buffers_are_selected() {
    let ring = ring(8);
    let (r, w) = pipe();
    let at = anon(PAGE);
    let provide = Sqe { op: PROVIDE, fd: 2, addr: at as u64, len: 16, off: 10, buf: 4, ..nop(1) };
    assert_eq!(ring.result(provide), 0);
    let read = Sqe { flags: SELECT, buf: 4, ..rw(READ, r, 0, 16, 0) };
    write(w, b"one").unwrap();
    assert_eq!(ring.run(&[read.tag(2)]), [Cqe { flags: 1 | 10 << 16, ..cqe(2, 3) }]);
    assert_eq!(bytes_at(at, 3), b"one");
    // One that waits takes its buffer when there is something.
    ring.submit(&[read.tag(3)]);
    write(w, b"two").unwrap();
    assert_eq!(ring.wait(1), [Cqe { flags: 1 | 11 << 16, ..cqe(3, 3) }]);
    assert_eq!(bytes_at(at + 16, 3), b"two");
    write(w, b"more").unwrap();
    assert_eq!(ring.result(read), -ENOBUFS_NR);
    assert_eq!(ring.result(Sqe { fd: 0, ..provide }), err(E2BIG));
    assert_eq!(ring.result(Sqe { op: 32, fd: 5, buf: 4, ..nop(1) }), 0);
    assert_eq!(ring.result(Sqe { op: 32, fd: 5, buf: 44, ..nop(1) }), err(ENOENT));
}

fn rings_of_buffers() {
    let ring = ring(8);
    let (a, b) = socketpair(SOCK_STREAM);
    let (entries, at) = (anon(PAGE), anon(PAGE));
    let reg = [entries as u64, 4 | 7 << 32, 0, 0, 0];
    assert_eq!(ring.register(22, &[entries as u64 + 8, 4, 0, 0, 0], 1), Err(EINVAL));
    assert_eq!(ring.register(22, &[entries as u64, 3, 0, 0, 0], 1), Err(EINVAL));
    assert_eq!(ring.register(22, &reg, 1), Ok(0));
    assert_eq!(ring.register(22, &reg, 1), Err(EEXIST));
    let put = |n: usize, id: u32| {
        for (word, value) in [at + 64 * n, (at + 64 * n) >> 32, 64].into_iter().enumerate() {
            poke32(entries + 16 * n + 4 * word, value as u32);
        }
        let tail = atomic(entries + 12).load(SeqCst) >> 16;
        if n == 0 {
            poke32(entries + 12, id | tail << 16);
        } else {
            poke32(entries + 16 * n + 12, id);
        }
    };
    put(0, 20);
    put(1, 21);
    let first = atomic(entries + 12).load(SeqCst) & 0xffff;
    poke32(entries + 12, first | 2 << 16);
    let receive = Sqe { flags: SELECT, buf: 7, prio: 2, ..rw(RECV, a, 0, 0, 0) };
    ring.submit(&[receive.tag(5)]);
    write(b, b"hello").unwrap();
    assert_eq!(ring.wait(1), [Cqe { flags: MORE | 1 | 20 << 16, ..cqe(5, 5) }]);
    assert_eq!(bytes_at(at, 5), b"hello");
    write(b, b"again").unwrap();
    assert_eq!(ring.wait(1), [Cqe { flags: MORE | 1 | 21 << 16, ..cqe(5, 5) }]);
    write(b, b"too much").unwrap();
    assert_eq!(ring.wait(1), [cqe(5, -ENOBUFS_NR)]);
    assert_eq!(ring.register(23, &[0u64, 7 << 32, 0, 0, 0], 1), Ok(0));
    assert_eq!(ring.register(23, &[0u64, 7 << 32, 0, 0, 0], 1), Err(ENOENT));
}

fn sockets() {
    let ring = ring(8);
    let (a, b) = socketpair(SOCK_STREAM);
    let (out, back) = (b"message".to_vec(), [0u8; 16]);
    assert_eq!(ring.result(rw(RECV, a, addr(&back), 16, 1)), err(EINVAL));
    ring.submit(&[rw(RECV, a, addr(&back), 16, 0).tag(1)]);
    assert!(!ring.has_completions());
    assert_eq!(ring.run(&[rw(SEND, b, addr(&out), 7, 0).tag(2)]), [cqe(2, 7)]);
    assert_eq!(ring.wait(1), [cqe(1, 7)]);
    assert_eq!(std::hint::black_box(&back)[..7], *b"message");
    // Without waiting it says so.
    let now = Sqe { op_flags: MSG_DONTWAIT as u32, ..rw(RECV, a, addr(&back), 16, 0) };
    assert_eq!(ring.result(now), err(EAGAIN));
    close(b);
    assert_eq!(ring.result(rw(RECV, a, addr(&back), 16, 0)), 0);
    // No signal comes with a broken connection.
    assert_eq!(ring.result(rw(SEND, a, addr(&out), 7, 0)), err(EPIPE));
    let (r, _w) = pipe();
    assert_eq!(ring.result(rw(SEND, r, addr(&out), 7, 0)), err(ENOTSOCK));
    let fd = ring.result(Sqe { op: SOCKET, fd: AF_UNIX, off: SOCK_STREAM as u64, ..nop(1) });
    assert!(fd >= 0);
    assert_eq!(ring.result(Sqe { op: CLOSE, fd, ..nop(1) }), 0);
    assert_eq!(ring.result(Sqe { op: CLOSE, fd, ..nop(1) }), err(EBADF));
}

fn accepts_go_on() {
    let ring = ring(8);
    let listener = sys!(SYS_socket, AF_UNIX, SOCK_STREAM, 0).unwrap() as i32;
    let name = path("s");
    let mut address = [0u8; 110];
    address[0] = AF_UNIX as u8;
    address[2..2 + name.as_bytes().len()].copy_from_slice(name.as_bytes());
    sys!(SYS_bind, listener, &address, 110).unwrap();
    sys!(SYS_listen, listener, 5).unwrap();
    ring.submit(&[Sqe { op: ACCEPT, fd: listener, prio: 1, ..nop(9) }]);
    for _ in 0..2 {
        let fd = sys!(SYS_socket, AF_UNIX, SOCK_STREAM, 0).unwrap() as i32;
        let connect = Sqe { op: CONNECT, fd, addr: address.as_ptr() as u64, off: 110, ..nop(1) };
        ring.submit(&[connect]);
        let mut found = ring.wait(2);
        found.sort_by_key(|cqe| cqe.data);
        assert_eq!(found[0], cqe(1, 0));
        assert_eq!((found[1].data, found[1].flags), (9, MORE));
        write(found[1].res, b"ok").unwrap();
        assert_eq!(read_vec(fd, 2), Ok(b"ok".to_vec()));
    }
    let mut found = ring.run(&[Sqe { op: CANCEL, addr: 9, ..nop(2) }]);
    found.extend(ring.wait(1));
    assert!(found.contains(&cqe(9, CANCELED)));
}

fn a_full_listener_is_waited_for() {
    let ring = ring(4);
    let socket = |flags: i32| sys!(SYS_socket, AF_UNIX, SOCK_STREAM | flags, 0).unwrap() as i32;
    let name = path("s");
    let mut address = [0u8; 110];
    address[0] = AF_UNIX as u8;
    address[2..2 + name.as_bytes().len()].copy_from_slice(name.as_bytes());
    let listener = socket(0);
    sys!(SYS_bind, listener, &address, 110).unwrap();
    sys!(SYS_listen, listener, 1).unwrap();
    while sys!(SYS_connect, socket(SOCK_NONBLOCK), &address, 110) != Err(EAGAIN) {}
    let fd = socket(0);
    ring.submit(&[Sqe { op: CONNECT, fd, addr: address.as_ptr() as u64, off: 110, ..nop(1) }]);
    assert!(!ring.has_completions());
    sys!(SYS_accept, listener, 0, 0).unwrap();
    assert_eq!(ring.wait(1), [cqe(1, 0)]);
}

fn what_waits_in_a_call_goes_on() {
    let ring = ring(4);
    let (r, w) = pipe();
    let name = path("fifo");
    sys!(SYS_mknodat, AT_FDCWD, name.as_ptr() as usize, S_IFIFO | 0o600, 0).unwrap();
    let child = child(|| {
        settle();
        write(w, b"x").unwrap();
        settle();
        sys!(SYS_openat, AT_FDCWD, name.as_ptr() as usize, O_WRONLY, 0).unwrap();
    });
    let open = Sqe { op: OPENAT, fd: AT_FDCWD, addr: name.as_ptr() as u64, ..Sqe::default() };
    let mut found = ring.run(&[poll_add(r, POLLIN).tag(1), open.tag(2)]);
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found[0], cqe(1, i32::from(POLLIN)));
    assert!(found[1].res >= 0, "{found:?}");
    assert_eq!(child.wait(), Status::Exit(0));
}

fn no_descriptor_is_left() {
    let (ring, name) = (ring(4), file("kept", b"data"));
    let open = Sqe { op: OPENAT, fd: AT_FDCWD, addr: name.as_ptr() as u64, ..Sqe::default() };
    let cut = Sqe { op_flags: (O_WRONLY | O_TRUNC) as u32, ..open };
    let code = child_code(|| {
        let limit = rlimit { rlim_cur: 0, rlim_max: 0 };
        sys!(SYS_setrlimit, RLIMIT_NOFILE, &limit).unwrap();
        assert_eq!(ring.result(cut), err(EMFILE));
        0
    });
    assert_eq!(code.wait(), Status::Exit(0));
    // Nothing has happened to the file.
    let fd = ring.result(open);
    assert_eq!(pread(fd, 8, 0), Ok(b"data".to_vec()));
    let close_on_exec = ring.result(Sqe { op_flags: O_CLOEXEC as u32, ..open });
    for (fd, flags) in [(fd, 0), (close_on_exec, FD_CLOEXEC as usize)] {
        assert_eq!(sys!(SYS_fcntl, fd, F_GETFD), Ok(flags));
    }
}

fn files_are_opened_and_closed() {
    let ring = ring(8);
    let name = path("new");
    let open = Sqe {
        op: OPENAT,
        fd: AT_FDCWD,
        addr: name.as_ptr() as u64,
        len: 0o640,
        op_flags: (O_CREAT | O_RDWR | O_CLOEXEC) as u32,
        ..Sqe::default()
    };
    let fd = ring.result(open);
    assert!(fd >= 0, "{fd}");
    assert_eq!(sys!(SYS_fcntl, fd, F_GETFD), Ok(FD_CLOEXEC as usize));
    write(fd, b"12345").unwrap();
    let mut stat: statx = zero();
    let ask = Sqe {
        op: STATX,
        fd: AT_FDCWD,
        addr: name.as_ptr() as u64,
        len: STATX_SIZE,
        off: &raw mut stat as u64,
        ..Sqe::default()
    };
    assert_eq!(ring.result(ask), 0);
    assert_eq!(std::hint::black_box(&stat).stx_size, 5);
    assert_eq!(ring.result(Sqe { op: CLOSE, fd, ..nop(1) }), 0);
    let missing = path("missing");
    let bad = Sqe { addr: missing.as_ptr() as u64, op_flags: 0, ..open };
    assert_eq!(ring.result(bad), err(ENOENT));
    assert_eq!(ring.result(Sqe { addr: BAD as u64, ..open }), err(EFAULT));
    assert_eq!(ring.result(Sqe { op: CLOSE, fd: ring.fd, ..nop(1) }), err(EBADF));
}

fn names_are_changed() {
    let ring = ring(8);
    let (a, b) = (path("a"), path("b"));
    let at = |name: &std::ffi::CString| name.as_ptr() as u64;
    let one = |op, name| Sqe { op, fd: AT_FDCWD, addr: at(name), ..Sqe::default() };
    assert_eq!(ring.result(Sqe { len: 0o700, ..one(MKDIRAT, &a) }), 0);
    let rename = Sqe { len: AT_FDCWD as u32, off: at(&b), ..one(RENAMEAT, &a) };
    assert_eq!(ring.result(rename), 0);
    assert!(stat_path(&b).is_ok());
    assert_eq!(ring.result(one(UNLINKAT, &b)), err(EISDIR));
    assert_eq!(ring.result(Sqe { op_flags: AT_REMOVEDIR as u32, ..one(UNLINKAT, &b) }), 0);
    assert_eq!(ring.result(Sqe { op_flags: AT_REMOVEDIR as u32, ..one(UNLINKAT, &b) }), err(ENOENT));
}

fn messages_between_rings() {
    let (from, to) = (ring(4), ring(4));
    let send = Sqe { op: MSG_RING, fd: to.fd, len: 44, off: 77, ..nop(1) };
    assert_eq!(from.run(&[send]), [cqe(1, 0)]);
    assert_eq!(to.wait(1), [cqe(77, 44)]);
    let (r, _w) = pipe();
    assert_eq!(from.result(Sqe { fd: r, ..send }), -EBADFD_NR);
    assert_eq!(from.result(Sqe { fd: -1, ..send }), err(EBADF));
}

fn rings_can_be_registered() {
    let ring = ring(4);
    let mut place = [u64::from(u32::MAX), ring.fd as u64];
    assert_eq!(ring.register(20, &mut place, 1), Ok(1));
    let at = std::hint::black_box(&place)[0] as u32;
    ring.push(&[nop(1)]);
    assert_eq!(sys!(ENTER, at, 1, 1, GETEVENTS | 1 << 4, 0, 0), Ok(1));
    assert_eq!(ring.take(), [cqe(1, 0)]);
    assert_eq!(sys!(ENTER, 99, 1, 1, GETEVENTS | 1 << 4, 0, 0), Err(EINVAL));
    assert_eq!(ring.register(21, &[u64::from(at), 0], 1), Ok(1));
    assert_eq!(sys!(ENTER, at, 0, 0, 1 << 4, 0, 0), Err(EBADF));
}

fn a_ring_can_be_polled() {
    let ring = ring(4);
    let (r, w) = pipe();
    assert_eq!(poll1(ring.fd, POLLIN | POLLOUT, 0), POLLOUT);
    ring.submit(&[poll_add(r, POLLIN).tag(1)]);
    assert_eq!(poll1(ring.fd, POLLIN, 0), 0);
    let child = child(|| {
        settle();
        write(w, b"x").unwrap();
    });
    while poll1(ring.fd, POLLIN, 5000) != POLLIN {}
    assert_eq!(ring.take(), [cqe(1, i32::from(POLLIN))]);
    assert_eq!(child.wait(), Status::Exit(0));
    let info = slurp(&format!("/proc/self/fdinfo/{}", ring.fd));
    assert!(info.contains("SqMask:\t0x3\n") && info.contains("CqMask:\t0x7\n"), "{info}");
}

fn restrictions() {
    let ring = ring_with(4, SETUP_R_DISABLED, 0);
    ring.push(&[nop(1)]);
    assert_eq!(ring.enter(1, 0, 0), Err(Errno::EBADFD));
    // Only to do nothing, and to register nothing but an eventfd.
    let allowed = [1u32 | u32::from(NOP) << 16, 0, 0, 0, 4 << 16, 0, 0, 0];
    assert_eq!(ring.register(11, &allowed, 2), Ok(0));
    assert_eq!(ring.register(11, &allowed, 2), Err(EBUSY));
    assert_eq!(ring.register(12, 0, 0), Ok(0));
    assert_eq!(ring.enter(1, 0, 0), Ok(1));
    assert_eq!(ring.take(), [cqe(1, 0)]);
    assert_eq!(ring.result(poll_add(0, POLLIN)), err(EACCES));
    assert_eq!(ring.register(3, 0, 0), Err(EACCES));
    let notify = sys!(SYS_eventfd2, 0, 0).unwrap() as i32;
    assert_eq!(ring.register(4, &[notify], 1), Ok(0));
}

fn credentials_are_kept() {
    let ring = ring(4);
    let name = file("mine", b"data");
    sys!(SYS_chmod, name.as_ptr() as usize, 0o600).unwrap();
    let id = ring.register(9, 0, 0).unwrap() as u16;
    assert!(id > 0);
    let code = child_code(|| {
        sys!(SYS_chmod, cstr(dir()).as_ptr() as usize, 0o755).unwrap();
        sys!(SYS_setresuid, 31_337, 31_337, 31_337).unwrap();
        let open = Sqe { op: OPENAT, fd: AT_FDCWD, addr: name.as_ptr() as u64, ..Sqe::default() };
        assert_eq!(ring.result(open), err(EACCES));
        assert!(ring.result(Sqe { personality: id, ..open }) >= 0);
        0
    });
    assert_eq!(code.wait(), Status::Exit(0));
    assert_eq!(ring.register(10, 0, usize::from(id)), Ok(0));
    assert_eq!(ring.register(10, 0, usize::from(id)), Err(EINVAL));
}

fn credentials_are_not_lent() {
    const USER: i32 = 31_337;
    let ring = ring(4);
    let name = path("fifo");
    sys!(SYS_mknodat, AT_FDCWD, name.as_ptr() as usize, S_IFIFO, 0).unwrap();
    sys!(SYS_chmod, name.as_ptr() as usize, 0o666).unwrap();
    sys!(SYS_chmod, cstr(dir()).as_ptr() as usize, 0o755).unwrap();
    let code = child_code(|| {
        sys!(SYS_setresuid, USER, USER, 0).unwrap();
        let id = ring.register(9, 0, 0).unwrap() as u16;
        sys!(SYS_setresuid, 0, 0, 0).unwrap();
        let me = sys!(SYS_getpid).unwrap();
        // Whose rights a request has may not signal the process, neither while the request goes on.
        let user = child_code(|| {
            sys!(SYS_setresuid, USER, USER, USER).unwrap();
            for _ in 0..20 {
                assert_eq!(sys!(SYS_kill, me, 0), Err(EPERM));
                nap(5);
            }
            sys!(SYS_openat, AT_FDCWD, name.as_ptr() as usize, O_WRONLY, 0).unwrap();
            0
        });
        let open = Sqe { op: OPENAT, fd: AT_FDCWD, addr: name.as_ptr() as u64, ..Sqe::default() };
        assert!(ring.result(Sqe { personality: id, ..open }) >= 0);
        assert_eq!(user.wait(), Status::Exit(0));
        0
    });
    assert_eq!(code.wait(), Status::Exit(0));
}

fn the_end_cancels() {
    let (r, w) = pipe();
    let buf = [0u8; 8];
    // With the process, with a program that it executes, and with the descriptor.
    aside(|| {
        let ring = ring(4);
        ring.submit(&[rw(READ, r, addr(&buf), 8, 0), poll_add(r, POLLIN)]);
    });
    let one = ring(4);
    one.submit(&[rw(READ, r, addr(&buf), 8, 0), poll_add(r, POLLIN)]);
    close(one.fd);
    // Nobody reads any more.
    close(r);
    set_action(SIGPIPE, SIG_IGN).unwrap();
    let mut result = write(w, b"x");
    // On Linux the file ends a little after the ring.
    for _ in 0..500 {
        if result == Err(EPIPE) {
            break;
        }
        nap(10);
        result = write(w, b"x");
    }
    assert_eq!(result, Err(EPIPE));
}

fn success_can_be_silent() {
    let ring = ring(8);
    let bad = rw(READ, -1, 0, 8, 0).tag(3).with(SKIP_SUCCESS);
    ring.submit(&[nop(1).with(SKIP_SUCCESS), nop(2), bad]);
    assert_eq!(ring.wait(2), [cqe(2, 0), cqe(3, err(EBADF))]);
}

fn nonsense_in_the_ring() {
    let ring = ring(4);
    // A tail far ahead gives no more than there are places; numbers of places that there are not are counted.
    ring.push(&[nop(1)]);
    let array = ring.rings + ring.params[16] as usize;
    let tail = ring.word(11).load(SeqCst);
    poke32(array, 99);
    assert_eq!(ring.enter(1, 0, 0), Ok(0));
    assert_eq!(ring.word(15).load(SeqCst), 1);
    poke32(array, 0);
    ring.word(11).store(tail.wrapping_add(1000), SeqCst);
    assert!(ring.enter(1000, 0, 0).unwrap() <= 4);
    // A head that is nonsense only hides the completions.
    ring.word(20).store(0x8000_0000, SeqCst);
    ring.word(11).store(ring.word(10).load(SeqCst), SeqCst);
    ring.push(&[nop(2)]);
    assert_eq!(ring.enter(1, 0, 0), Ok(1));
    ring.word(20).store(ring.word(21).load(SeqCst), SeqCst);
    assert_eq!(ring.enter(0, 0, GETEVENTS), Ok(0));
}

/// A row of `nr` rings, each of which waits for the next one.
fn row_of_rings(nr: usize) -> Vec<i32> {
    let rings: Vec<Ring> = (0..nr).map(|_| ring(1)).collect();
    for pair in rings.windows(2) {
        pair[0].submit(&[poll_add(pair[1].fd, POLLIN)]);
    }
    for ring in &rings {
        sys!(SYS_munmap, ring.rings, 1).unwrap();
        sys!(SYS_munmap, ring.sqes, 1).unwrap();
    }
    rings.iter().map(|ring| ring.fd).collect()
}

fn rings_hold_rings() {
    const NR: usize = 200;
    drop(ring(1));
    // All go with the first, which is closed last, or with the process.
    let code = child_code(|| {
        let rings = row_of_rings(NR);
        for fd in rings.into_iter().rev() {
            close(fd);
        }
        0
    });
    assert_eq!(code.wait(), Status::Exit(0));
    let code = child_code(|| {
        row_of_rings(NR);
        0
    });
    assert_eq!(code.wait(), Status::Exit(0));
}

fn rings_are_not_sent() {
    let ring = ring(1);
    let (a, b) = socketpair(SOCK_DGRAM);
    let send = |fd: i32| {
        let control = [20, SOL_SOCKET as usize | (SCM_RIGHTS as usize) << 32, fd as usize];
        let iov = [c"x".as_ptr() as usize, 1];
        let msg = [0, 0, iov.as_ptr() as usize, 1, control.as_ptr() as usize, 24, 0];
        sys!(SYS_sendmsg, a, &msg, 0)
    };
    assert_eq!(send(b), Ok(1));
    assert_eq!(send(ring.fd), Err(EINVAL));
    assert_eq!(send(-1), Err(EBADF));
}

fn who_waits_for_its_turn_can_be_killed() {
    let ring = ring(4);
    let name = path("fifo");
    sys!(SYS_mknodat, AT_FDCWD, name.as_ptr() as usize, S_IFIFO | 0o600, 0).unwrap();
    let open = Sqe { op: OPENAT, fd: AT_FDCWD, addr: name.as_ptr() as u64, ..Sqe::default() };
    // Nobody opens the other side: the first may keep the ring, and the second waits for it or for its own.
    ring.push(&[open, open]);
    let one = child(|| _ = ring.enter(1, 1, GETEVENTS));
    settle();
    let two = child(|| _ = ring.enter(1, 1, GETEVENTS));
    settle();
    for child in [two, one] {
        sys!(SYS_kill, child.0, SIGKILL).unwrap();
        // A Linux that could open it without waiting had let it go on.
        assert!(matches!(child.wait(), Status::Signal(SIGKILL) | Status::Exit(0)));
    }
}

fn deferred_work_is_told_of() {
    for by_eventfd in [false, true] {
        let ring = ring_with(4, SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN, 0);
        let eventfd = sys!(SYS_eventfd2, 0, EFD_NONBLOCK).unwrap() as i32;
        let fd = if by_eventfd {
            ring.register(4, &[eventfd], 1).unwrap();
            eventfd
        } else {
            ring.fd
        };
        let ((r, w), back) = (pipe(), [0u8; 8]);
        ring.submit(&[rw(READ, r, addr(&back), 8, 0).tag(1)]);
        assert_eq!(poll1(fd, POLLIN, 0), 0);
        let child = child(|| {
            settle();
            write(w, b"x").unwrap();
        });
        while poll1(fd, POLLIN, 5000) != POLLIN {}
        assert_eq!(ring.wait(1), [cqe(1, 1)]);
        assert_eq!(child.wait(), Status::Exit(0));
    }
}

fn deferred_work() {
    let ring = ring_with(4, SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN, 0);
    let (r, w) = pipe();
    let back = [0u8; 8];
    ring.submit(&[rw(READ, r, addr(&back), 8, 0).tag(1)]);
    write(w, b"x").unwrap();
    assert!(!ring.has_completions());
    assert_eq!(ring.wait(1), [cqe(1, 1)]);
    // Only the maker may submit.
    assert_eq!(child_code(|| i32::from(ring.enter(1, 0, 0) == Err(EEXIST))).wait(), Status::Exit(1));
    // Nor would another's wait bring anything.
    let wait = || ring.enter(0, 1, GETEVENTS) == Err(EEXIST);
    assert_eq!(child_code(|| i32::from(wait())).wait(), Status::Exit(1));
}

fn a_probe_tells_what_there_is() {
    let ring = ring(1);
    let mut probe = [0u64; 2 + 256];
    assert_eq!(ring.register(8, &mut probe, 256), Ok(0));
    let probe = std::hint::black_box(probe);
    let supported = |op: u8| probe[2 + usize::from(op)] >> 16 & 1 == 1;
    for op in [NOP, READV, READ_FIXED, POLL_ADD, TIMEOUT, ACCEPT, CANCEL, OPENAT, READ, SEND, MSG_RING, SOCKET] {
        assert!(supported(op), "{op}");
    }
    assert!(probe[0] & 0xff >= u64::from(SOCKET));
    let mut dirty = [1u64; 3];
    assert_eq!(ring.register(8, &mut dirty, 1), Err(EINVAL));
}

fn large_entries() {
    let ring = ring_with(4, SETUP_SQE128 | SETUP_CQE32 | SETUP_NO_SQARRAY, 0);
    for n in 0..20 {
        assert_eq!(ring.run(&[nop(2 * n), nop(2 * n + 1)]), [cqe(2 * n, 0), cqe(2 * n + 1, 0)]);
    }
}
