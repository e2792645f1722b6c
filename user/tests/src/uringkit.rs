//! Words for tests of io_uring: requests, completions, and a ring that is mapped.

use std::cell::RefCell;

use crate::prelude::*;
use crate::sys::{peek64, poke32};

pub const SETUP: c_long = 425;
pub const ENTER: c_long = 426;
pub const REGISTER: c_long = 427;

pub const GETEVENTS: u32 = 1;
pub const EXT_ARG: u32 = 8;

pub const SETUP_CQSIZE: u32 = 1 << 3;
pub const SETUP_CLAMP: u32 = 1 << 4;
pub const SETUP_R_DISABLED: u32 = 1 << 6;
pub const SETUP_SQE128: u32 = 1 << 10;
pub const SETUP_CQE32: u32 = 1 << 11;
pub const SETUP_SINGLE_ISSUER: u32 = 1 << 12;
pub const SETUP_DEFER_TASKRUN: u32 = 1 << 13;
pub const SETUP_NO_SQARRAY: u32 = 1 << 16;

pub const FIXED_FILE: u8 = 1;
pub const DRAIN: u8 = 2;
pub const LINK: u8 = 4;
pub const HARDLINK: u8 = 8;
pub const SELECT: u8 = 32;
pub const SKIP_SUCCESS: u8 = 64;

pub const MORE: u32 = 2;

pub const NOP: u8 = 0;
pub const READV: u8 = 1;
pub const WRITEV: u8 = 2;
pub const FSYNC: u8 = 3;
pub const READ_FIXED: u8 = 4;
pub const WRITE_FIXED: u8 = 5;
pub const POLL_ADD: u8 = 6;
pub const POLL_REMOVE: u8 = 7;
pub const TIMEOUT: u8 = 11;
pub const TIMEOUT_REMOVE: u8 = 12;
pub const ACCEPT: u8 = 13;
pub const CANCEL: u8 = 14;
pub const LINK_TIMEOUT: u8 = 15;
pub const CONNECT: u8 = 16;
pub const OPENAT: u8 = 18;
pub const CLOSE: u8 = 19;
pub const STATX: u8 = 21;
pub const READ: u8 = 22;
pub const WRITE: u8 = 23;
pub const SEND: u8 = 26;
pub const RECV: u8 = 27;
pub const PROVIDE: u8 = 31;
pub const RENAMEAT: u8 = 35;
pub const UNLINKAT: u8 = 36;
pub const MKDIRAT: u8 = 37;
pub const MSG_RING: u8 = 40;
pub const SOCKET: u8 = 45;

pub const CANCELED: i32 = -(ECANCELED_NR);
const ECANCELED_NR: i32 = 125;
pub const ETIME_NR: i32 = 62;
pub const ENOBUFS_NR: i32 = 105;
pub const EBADFD_NR: i32 = 77;

/// `struct io_uring_params`, as words.
pub type Params = [u32; 30];

/// A completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cqe {
    pub data: u64,
    pub res: i32,
    pub flags: u32,
}

pub fn cqe(data: u64, res: i32) -> Cqe {
    Cqe { data, res, flags: 0 }
}

/// A request.
#[derive(Clone, Copy, Default)]
pub struct Sqe {
    pub op: u8,
    pub flags: u8,
    pub prio: u16,
    pub fd: i32,
    pub off: u64,
    pub addr: u64,
    pub len: u32,
    pub op_flags: u32,
    pub data: u64,
    pub buf: u16,
    pub personality: u16,
    pub index: u32,
    pub addr3: u64,
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

    pub fn tag(self, data: u64) -> Self {
        Self { data, ..self }
    }

    pub fn with(self, flags: u8) -> Self {
        Self { flags, ..self }
    }
}

pub fn rw(op: u8, fd: i32, addr: usize, len: usize, off: u64) -> Sqe {
    Sqe { op, fd, addr: addr as u64, len: len as u32, off, ..Sqe::default() }
}

pub fn nop(data: u64) -> Sqe {
    Sqe { op: NOP, data, ..Sqe::default() }
}

pub fn poll_add(fd: i32, events: i16) -> Sqe {
    Sqe { op: POLL_ADD, fd, op_flags: events as u32, ..Sqe::default() }
}

/// A ring that is mapped.
pub struct Ring {
    pub fd: i32,
    pub params: Params,
    pub rings: usize,
    pub sqes: usize,
    sqe_size: usize,
    cqe_size: usize,
    /// Completions that were taken from the ring before a test wanted them.
    early: RefCell<Vec<Cqe>>,
}

pub fn setup(entries: u32, params: &mut Params) -> Result<i32, Errno> {
    sys!(SETUP, entries, params).map(|fd| fd as i32)
}

pub fn map_ring(fd: i32, len: usize, offset: u64) -> usize {
    sys!(SYS_mmap, 0, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset).unwrap()
}

#[track_caller]
pub fn ring_with(entries: u32, flags: u32, cq_entries: u32) -> Ring {
    let mut params = Params::default();
    (params[1], params[2]) = (cq_entries, flags);
    let fd = match setup(entries, &mut params) {
        Ok(fd) => fd,
        Err(EPERM | ENOSYS) => skip("io_uring is not allowed here"),
        Err(errno) => panic!("io_uring_setup: {errno}"),
    };
    let (sqe_size, cqe_size) =
        (if flags & SETUP_SQE128 != 0 { 128 } else { 64 }, if flags & SETUP_CQE32 != 0 { 32 } else { 16 });
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
pub fn ring(entries: u32) -> Ring {
    ring_with(entries, 0, 0)
}

impl Ring {
    /// The word of the submission ring whose offset is in word `n` of the parameters.
    pub fn word(&self, n: usize) -> &'static std::sync::atomic::AtomicU32 {
        atomic(self.rings + self.params[n] as usize)
    }

    /// Puts requests into the ring.
    pub fn push(&self, requests: &[Sqe]) {
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

    pub fn enter(&self, submit: usize, min: usize, flags: u32) -> Result<usize, Errno> {
        sys!(ENTER, self.fd, submit, min, flags, 0, 0)
    }

    /// Submits requests, which are all taken.
    #[track_caller]
    pub fn submit(&self, requests: &[Sqe]) {
        self.push(requests);
        assert_eq!(self.enter(requests.len(), 0, 0), Ok(requests.len()));
    }

    /// Takes the completions that are there.
    pub fn take(&self) -> Vec<Cqe> {
        let (head, tail) = (self.word(20), self.word(21));
        let mut found = self.early.take();
        while head.load(SeqCst) != tail.load(SeqCst) {
            let at = head.load(SeqCst);
            let place =
                self.rings + self.params[25] as usize + self.cqe_size * (at & (self.params[1] - 1)) as usize;
            let rest = peek64(place + 8);
            found.push(Cqe { data: peek64(place), res: rest as i32, flags: (rest >> 32) as u32 });
            head.store(at.wrapping_add(1), SeqCst);
        }
        found
    }

    /// Waits for `nr` completions and takes them.
    #[track_caller]
    pub fn wait(&self, nr: usize) -> Vec<Cqe> {
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
    pub fn run(&self, requests: &[Sqe]) -> Vec<Cqe> {
        self.submit(requests);
        self.wait(requests.len())
    }

    /// The result of one request.
    #[track_caller]
    pub fn result(&self, request: Sqe) -> i32 {
        self.run(&[request])[0].res
    }

    pub fn register(&self, op: u32, arg: impl user_sys::Arg, nr: usize) -> Result<usize, Errno> {
        sys!(REGISTER, self.fd, op, arg, nr)
    }

    pub fn has_completions(&self) -> bool {
        self.word(20).load(SeqCst) != self.word(21).load(SeqCst) || !self.early.borrow().is_empty()
    }
}

pub fn addr(bytes: &[u8]) -> usize {
    bytes.as_ptr() as usize
}

pub fn err(errno: Errno) -> i32 {
    -(errno as i32)
}
