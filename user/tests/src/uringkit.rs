//! Words for tests of io_uring: requests, completions, and a ring that is mapped.

use std::cell::RefCell;

use linux_raw_sys::io_uring::{IORING_OFF_SQES, io_uring_op as Op, io_uring_sqe_flags_bit as Bit};

use crate::prelude::*;
use crate::sys::{peek64, poke32};

pub const SETUP: c_long = SYS_io_uring_setup;
pub const ENTER: c_long = SYS_io_uring_enter;
pub const REGISTER: c_long = SYS_io_uring_register;

pub use linux_raw_sys::io_uring::{
    IORING_CQE_F_MORE as MORE, IORING_ENTER_EXT_ARG as EXT_ARG, IORING_ENTER_GETEVENTS as GETEVENTS,
    IORING_SETUP_CLAMP as SETUP_CLAMP, IORING_SETUP_CQE32 as SETUP_CQE32,
    IORING_SETUP_CQSIZE as SETUP_CQSIZE, IORING_SETUP_DEFER_TASKRUN as SETUP_DEFER_TASKRUN,
    IORING_SETUP_NO_SQARRAY as SETUP_NO_SQARRAY, IORING_SETUP_R_DISABLED as SETUP_R_DISABLED,
    IORING_SETUP_SINGLE_ISSUER as SETUP_SINGLE_ISSUER, IORING_SETUP_SQE128 as SETUP_SQE128,
};

pub const FIXED_FILE: u8 = 1 << Bit::IOSQE_FIXED_FILE_BIT as u8;
pub const DRAIN: u8 = 1 << Bit::IOSQE_IO_DRAIN_BIT as u8;
pub const LINK: u8 = 1 << Bit::IOSQE_IO_LINK_BIT as u8;
pub const HARDLINK: u8 = 1 << Bit::IOSQE_IO_HARDLINK_BIT as u8;
pub const SELECT: u8 = 1 << Bit::IOSQE_BUFFER_SELECT_BIT as u8;
pub const SKIP_SUCCESS: u8 = 1 << Bit::IOSQE_CQE_SKIP_SUCCESS_BIT as u8;

pub const NOP: u8 = Op::IORING_OP_NOP as u8;
pub const READV: u8 = Op::IORING_OP_READV as u8;
pub const WRITEV: u8 = Op::IORING_OP_WRITEV as u8;
pub const FSYNC: u8 = Op::IORING_OP_FSYNC as u8;
pub const READ_FIXED: u8 = Op::IORING_OP_READ_FIXED as u8;
pub const WRITE_FIXED: u8 = Op::IORING_OP_WRITE_FIXED as u8;
pub const POLL_ADD: u8 = Op::IORING_OP_POLL_ADD as u8;
pub const POLL_REMOVE: u8 = Op::IORING_OP_POLL_REMOVE as u8;
pub const TIMEOUT: u8 = Op::IORING_OP_TIMEOUT as u8;
pub const TIMEOUT_REMOVE: u8 = Op::IORING_OP_TIMEOUT_REMOVE as u8;
pub const ACCEPT: u8 = Op::IORING_OP_ACCEPT as u8;
pub const CANCEL: u8 = Op::IORING_OP_ASYNC_CANCEL as u8;
pub const LINK_TIMEOUT: u8 = Op::IORING_OP_LINK_TIMEOUT as u8;
pub const CONNECT: u8 = Op::IORING_OP_CONNECT as u8;
pub const OPENAT: u8 = Op::IORING_OP_OPENAT as u8;
pub const CLOSE: u8 = Op::IORING_OP_CLOSE as u8;
pub const STATX: u8 = Op::IORING_OP_STATX as u8;
pub const READ: u8 = Op::IORING_OP_READ as u8;
pub const WRITE: u8 = Op::IORING_OP_WRITE as u8;
pub const SEND: u8 = Op::IORING_OP_SEND as u8;
pub const RECV: u8 = Op::IORING_OP_RECV as u8;
pub const PROVIDE: u8 = Op::IORING_OP_PROVIDE_BUFFERS as u8;
pub const RENAMEAT: u8 = Op::IORING_OP_RENAMEAT as u8;
pub const UNLINKAT: u8 = Op::IORING_OP_UNLINKAT as u8;
pub const MKDIRAT: u8 = Op::IORING_OP_MKDIRAT as u8;
pub const MSG_RING: u8 = Op::IORING_OP_MSG_RING as u8;
pub const SOCKET: u8 = Op::IORING_OP_SOCKET as u8;

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
    let sqes = map_ring(fd, sqe_size * params[0] as usize, u64::from(IORING_OFF_SQES));
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
