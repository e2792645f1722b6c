//! io_uring: io_uring_setup(2), io_uring_enter(2), io_uring_register(2) and the rings that user space shares.
//!
//! Source: the man pages of liburing 2.9 and linux/io_uring.h of Linux 7.2 as far as these name its numbers.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct io_uring_sqe`: a request.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "named as in io_uring_enter(2); the first name of each union")]
pub struct Sqe {
    pub opcode: u8,
    pub flags: u8,
    pub ioprio: u16,
    pub fd: i32,
    pub off: u64,
    pub addr: u64,
    pub len: u32,
    pub op_flags: u32,
    pub user_data: u64,
    pub buf_index: u16,
    pub personality: u16,
    pub file_index: u32,
    pub addr3: u64,
    pub pad2: u64,
}

const _: () = assert!(size_of::<Sqe>() == 64);

/// `struct io_uring_cqe`: what became of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Cqe {
    /// `user_data` of the request.
    pub user_data: u64,
    /// What the call would have returned.
    pub res: i32,
    /// [`CqeFlags`], with the id of a selected buffer in the upper half.
    pub flags: u32,
}

/// `struct io_sqring_offsets`: where things lie in the mapping at [`OFF_SQ_RING`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "named as in io_uring_setup(2)")]
pub struct SqOffsets {
    pub head: u32,
    pub tail: u32,
    pub ring_mask: u32,
    pub ring_entries: u32,
    pub flags: u32,
    pub dropped: u32,
    pub array: u32,
    pub resv1: u32,
    pub user_addr: u64,
}

/// `struct io_cqring_offsets`: where things lie in the mapping at [`OFF_CQ_RING`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "named as in io_uring_setup(2)")]
pub struct CqOffsets {
    pub head: u32,
    pub tail: u32,
    pub ring_mask: u32,
    pub ring_entries: u32,
    pub overflow: u32,
    pub cqes: u32,
    pub flags: u32,
    pub resv1: u32,
    pub user_addr: u64,
}

/// `struct io_uring_params` of io_uring_setup(2).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "named as in io_uring_setup(2)")]
pub struct Params {
    pub sq_entries: u32,
    pub cq_entries: u32,
    pub flags: u32,
    pub sq_thread_cpu: u32,
    pub sq_thread_idle: u32,
    pub features: u32,
    pub wq_fd: u32,
    pub resv: [u32; 3],
    pub sq_off: SqOffsets,
    pub cq_off: CqOffsets,
}

const _: () = assert!(size_of::<Params>() == 120);

/// Offset of mmap(2) for the submission ring.
pub const OFF_SQ_RING: u64 = 0;
/// Offset of mmap(2) for the completion ring.
pub const OFF_CQ_RING: u64 = 0x800_0000;
/// Offset of mmap(2) for the requests.
pub const OFF_SQES: u64 = 0x1000_0000;
/// The bits of an offset that tell what is mapped.
pub const OFF_MMAP_MASK: u64 = 0xf800_0000;

/// Most requests of a submission ring.
pub const MAX_ENTRIES: u32 = 32768;
/// Most places of a completion ring.
pub const MAX_CQ_ENTRIES: u32 = 2 * MAX_ENTRIES;

bitflags! {
    /// `IORING_SETUP_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SetupFlags: u32 {
        const IOPOLL = 1 << 0;
        const SQPOLL = 1 << 1;
        const SQ_AFF = 1 << 2;
        const CQSIZE = 1 << 3;
        const CLAMP = 1 << 4;
        const ATTACH_WQ = 1 << 5;
        const R_DISABLED = 1 << 6;
        const SUBMIT_ALL = 1 << 7;
        const COOP_TASKRUN = 1 << 8;
        const TASKRUN_FLAG = 1 << 9;
        const SQE128 = 1 << 10;
        const CQE32 = 1 << 11;
        const SINGLE_ISSUER = 1 << 12;
        const DEFER_TASKRUN = 1 << 13;
        const NO_MMAP = 1 << 14;
        const REGISTERED_FD_ONLY = 1 << 15;
        const NO_SQARRAY = 1 << 16;
    }

    /// `IORING_FEAT_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u32 {
        const SINGLE_MMAP = 1 << 0;
        const NODROP = 1 << 1;
        const SUBMIT_STABLE = 1 << 2;
        const RW_CUR_POS = 1 << 3;
        const CUR_PERSONALITY = 1 << 4;
        const FAST_POLL = 1 << 5;
        const POLL_32BITS = 1 << 6;
        const SQPOLL_NONFIXED = 1 << 7;
        const EXT_ARG = 1 << 8;
        const NATIVE_WORKERS = 1 << 9;
        const RSRC_TAGS = 1 << 10;
        const CQE_SKIP = 1 << 11;
        const LINKED_FILE = 1 << 12;
        const REG_REG_RING = 1 << 13;
    }

    /// `IORING_ENTER_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EnterFlags: u32 {
        const GETEVENTS = 1 << 0;
        const SQ_WAKEUP = 1 << 1;
        const SQ_WAIT = 1 << 2;
        const EXT_ARG = 1 << 3;
        const REGISTERED_RING = 1 << 4;
        const ABS_TIMER = 1 << 5;
    }

    /// `IOSQE_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SqeFlags: u8 {
        const FIXED_FILE = 1 << 0;
        const IO_DRAIN = 1 << 1;
        const IO_LINK = 1 << 2;
        const IO_HARDLINK = 1 << 3;
        const ASYNC = 1 << 4;
        const BUFFER_SELECT = 1 << 5;
        const CQE_SKIP_SUCCESS = 1 << 6;
    }

    /// `IORING_CQE_F_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct CqeFlags: u32 {
        /// The upper half is the id of the buffer that was used.
        const BUFFER = 1 << 0;
        /// The same request will tell more.
        const MORE = 1 << 1;
        /// The socket has more to read.
        const SOCK_NONEMPTY = 1 << 2;
    }

    /// `IORING_SQ_*`: what the kernel tells in the submission ring's flags.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SqFlags: u32 {
        const NEED_WAKEUP = 1 << 0;
        const CQ_OVERFLOW = 1 << 1;
        const TASKRUN = 1 << 2;
    }

    /// `IORING_TIMEOUT_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TimeoutFlags: u32 {
        const ABS = 1 << 0;
        const UPDATE = 1 << 1;
        const BOOTTIME = 1 << 2;
        const REALTIME = 1 << 3;
        const LINK_UPDATE = 1 << 4;
        const ETIME_SUCCESS = 1 << 5;
        const MULTISHOT = 1 << 6;
    }

    /// `IORING_ASYNC_CANCEL_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CancelFlags: u32 {
        const ALL = 1 << 0;
        const FD = 1 << 1;
        const ANY = 1 << 2;
        const FD_FIXED = 1 << 3;
        const USERDATA = 1 << 4;
        const OP = 1 << 5;
    }

    /// `IORING_POLL_*`, in `len` of the poll requests.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PollFlags: u32 {
        const ADD_MULTI = 1 << 0;
        const UPDATE_EVENTS = 1 << 1;
        const UPDATE_USER_DATA = 1 << 2;
        const ADD_LEVEL = 1 << 3;
    }
}

/// `IORING_RECVSEND_POLL_FIRST`: waits before the first attempt.
pub const RECVSEND_POLL_FIRST: u16 = 1 << 0;
/// `IORING_RECV_MULTISHOT`.
pub const RECV_MULTISHOT: u16 = 1 << 1;
/// `IORING_ACCEPT_MULTISHOT`.
pub const ACCEPT_MULTISHOT: u16 = 1 << 0;
/// `IORING_FSYNC_DATASYNC`.
pub const FSYNC_DATASYNC: u32 = 1;
/// `IORING_FILE_INDEX_ALLOC`: any free place of the table of fixed files.
pub const FILE_INDEX_ALLOC: u32 = u32::MAX;
/// `IORING_CQ_EVENTFD_DISABLED`, in the completion ring's flags, which user space writes.
pub const CQ_EVENTFD_DISABLED: u32 = 1;
/// `IO_URING_OP_SUPPORTED`.
pub const OP_SUPPORTED: u16 = 1;
/// `SPLICE_F_FD_IN_FIXED`.
pub const SPLICE_FD_IN_FIXED: u32 = 1 << 31;
/// `IORING_MSG_RING_CQE_SKIP` and `IORING_MSG_RING_FLAGS_PASS`.
pub const MSG_RING_FLAGS: u32 = 3;

/// `IORING_OP_*`.
#[expect(missing_docs, reason = "named as in io_uring_enter(2)")]
pub mod op {
    pub const NOP: u8 = 0;
    pub const READV: u8 = 1;
    pub const WRITEV: u8 = 2;
    pub const FSYNC: u8 = 3;
    pub const READ_FIXED: u8 = 4;
    pub const WRITE_FIXED: u8 = 5;
    pub const POLL_ADD: u8 = 6;
    pub const POLL_REMOVE: u8 = 7;
    pub const SYNC_FILE_RANGE: u8 = 8;
    pub const SENDMSG: u8 = 9;
    pub const RECVMSG: u8 = 10;
    pub const TIMEOUT: u8 = 11;
    pub const TIMEOUT_REMOVE: u8 = 12;
    pub const ACCEPT: u8 = 13;
    pub const ASYNC_CANCEL: u8 = 14;
    pub const LINK_TIMEOUT: u8 = 15;
    pub const CONNECT: u8 = 16;
    pub const FALLOCATE: u8 = 17;
    pub const OPENAT: u8 = 18;
    pub const CLOSE: u8 = 19;
    pub const FILES_UPDATE: u8 = 20;
    pub const STATX: u8 = 21;
    pub const READ: u8 = 22;
    pub const WRITE: u8 = 23;
    pub const FADVISE: u8 = 24;
    pub const MADVISE: u8 = 25;
    pub const SEND: u8 = 26;
    pub const RECV: u8 = 27;
    pub const OPENAT2: u8 = 28;
    pub const EPOLL_CTL: u8 = 29;
    pub const SPLICE: u8 = 30;
    pub const PROVIDE_BUFFERS: u8 = 31;
    pub const REMOVE_BUFFERS: u8 = 32;
    pub const TEE: u8 = 33;
    pub const SHUTDOWN: u8 = 34;
    pub const RENAMEAT: u8 = 35;
    pub const UNLINKAT: u8 = 36;
    pub const MKDIRAT: u8 = 37;
    pub const SYMLINKAT: u8 = 38;
    pub const LINKAT: u8 = 39;
    pub const MSG_RING: u8 = 40;
    pub const FSETXATTR: u8 = 41;
    pub const SETXATTR: u8 = 42;
    pub const FGETXATTR: u8 = 43;
    pub const GETXATTR: u8 = 44;
    pub const SOCKET: u8 = 45;
    pub const FTRUNCATE: u8 = 55;
    pub const BIND: u8 = 56;
    pub const LISTEN: u8 = 57;
    pub const PIPE: u8 = 62;
    /// One past the last one that a probe tells about.
    pub const LAST: u8 = 63;
}

/// `IORING_REGISTER_*` and `IORING_UNREGISTER_*`.
#[expect(missing_docs, reason = "named as in io_uring_register(2)")]
pub mod register {
    pub const BUFFERS: u32 = 0;
    pub const UNREGISTER_BUFFERS: u32 = 1;
    pub const FILES: u32 = 2;
    pub const UNREGISTER_FILES: u32 = 3;
    pub const EVENTFD: u32 = 4;
    pub const UNREGISTER_EVENTFD: u32 = 5;
    pub const FILES_UPDATE: u32 = 6;
    pub const EVENTFD_ASYNC: u32 = 7;
    pub const PROBE: u32 = 8;
    pub const PERSONALITY: u32 = 9;
    pub const UNREGISTER_PERSONALITY: u32 = 10;
    pub const RESTRICTIONS: u32 = 11;
    pub const ENABLE_RINGS: u32 = 12;
    pub const FILES2: u32 = 13;
    pub const FILES_UPDATE2: u32 = 14;
    pub const BUFFERS2: u32 = 15;
    pub const BUFFERS_UPDATE: u32 = 16;
    pub const RING_FDS: u32 = 20;
    pub const UNREGISTER_RING_FDS: u32 = 21;
    pub const PBUF_RING: u32 = 22;
    pub const UNREGISTER_PBUF_RING: u32 = 23;
    pub const SYNC_CANCEL: u32 = 24;
    pub const FILE_ALLOC_RANGE: u32 = 25;
    /// In the opcode: the descriptor is the index of a registered ring.
    pub const USE_REGISTERED_RING: u32 = 1 << 31;
}

/// `struct io_uring_getevents_arg` of io_uring_enter(2).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GeteventsArg {
    /// Address of the signal mask, or null.
    pub sigmask: u64,
    /// Bytes of it.
    pub sigmask_sz: u32,
    /// Microseconds to wait for more events at least.
    pub min_wait_usec: u32,
    /// Address of the timeout, or null.
    pub ts: u64,
}

/// `struct io_uring_rsrc_register`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "named as in io_uring_register(2)")]
pub struct RsrcRegister {
    pub nr: u32,
    pub flags: u32,
    pub resv2: u64,
    pub data: u64,
    pub tags: u64,
}

/// `struct io_uring_rsrc_update2`; the first 16 bytes are `struct io_uring_rsrc_update`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "named as in io_uring_register(2)")]
pub struct RsrcUpdate2 {
    pub offset: u32,
    pub resv: u32,
    pub data: u64,
    pub tags: u64,
    pub nr: u32,
    pub resv2: u32,
}

/// `struct io_uring_probe_op`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "named as in io_uring_register(2)")]
pub struct ProbeOp {
    pub op: u8,
    pub resv: u8,
    pub flags: u16,
    pub resv2: u32,
}

/// `struct io_uring_buf_reg` of a ring of provided buffers.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "named as in io_uring_register(2)")]
pub struct BufReg {
    pub ring_addr: u64,
    pub ring_entries: u32,
    pub bgid: u16,
    pub flags: u16,
    pub resv: [u64; 3],
}

/// `struct io_uring_buf`: a provided buffer in its ring.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "named as in io_uring_register(2)")]
pub struct ProvidedBuf {
    pub addr: u64,
    pub len: u32,
    pub bid: u16,
    /// In the first one of a ring: the tail.
    pub resv: u16,
}

/// `struct io_uring_sync_cancel_reg`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "named as in io_uring_register(2)")]
pub struct SyncCancel {
    pub addr: u64,
    pub fd: i32,
    pub flags: u32,
    pub timeout: [i64; 2],
    pub opcode: u8,
    pub pad: [u8; 7],
    pub pad2: [u64; 3],
}

/// `struct io_uring_restriction`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "named as in io_uring_register(2)")]
pub struct Restriction {
    pub opcode: u16,
    /// The opcode of what is allowed, or its flags.
    pub arg: u8,
    pub resv: u8,
    pub resv2: [u32; 3],
}
