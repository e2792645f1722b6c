//! io_uring: io_uring_setup(2), io_uring_enter(2), io_uring_register(2) and the rings that user space shares.
//!
//! Source: the man pages of liburing 2.9 for the structures, linux/io_uring.h, through `linux-raw-sys`, for the numbers.

use bitflags::bitflags;
use linux_raw_sys::io_uring as raw;
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
pub const OFF_SQ_RING: u64 = raw::IORING_OFF_SQ_RING as u64;
/// Offset of mmap(2) for the completion ring.
pub const OFF_CQ_RING: u64 = raw::IORING_OFF_CQ_RING as u64;
/// Offset of mmap(2) for the requests.
pub const OFF_SQES: u64 = raw::IORING_OFF_SQES as u64;
/// The bits of an offset that tell what is mapped.
pub const OFF_MMAP_MASK: u64 = raw::IORING_OFF_MMAP_MASK as u64;

/// Most requests of a submission ring.
pub const MAX_ENTRIES: u32 = 32768;
/// Most places of a completion ring.
pub const MAX_CQ_ENTRIES: u32 = 2 * MAX_ENTRIES;

bitflags! {
    /// `IORING_SETUP_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SetupFlags: u32 {
        const IOPOLL = raw::IORING_SETUP_IOPOLL;
        const SQPOLL = raw::IORING_SETUP_SQPOLL;
        const SQ_AFF = raw::IORING_SETUP_SQ_AFF;
        const CQSIZE = raw::IORING_SETUP_CQSIZE;
        const CLAMP = raw::IORING_SETUP_CLAMP;
        const ATTACH_WQ = raw::IORING_SETUP_ATTACH_WQ;
        const R_DISABLED = raw::IORING_SETUP_R_DISABLED;
        const SUBMIT_ALL = raw::IORING_SETUP_SUBMIT_ALL;
        const COOP_TASKRUN = raw::IORING_SETUP_COOP_TASKRUN;
        const TASKRUN_FLAG = raw::IORING_SETUP_TASKRUN_FLAG;
        const SQE128 = raw::IORING_SETUP_SQE128;
        const CQE32 = raw::IORING_SETUP_CQE32;
        const SINGLE_ISSUER = raw::IORING_SETUP_SINGLE_ISSUER;
        const DEFER_TASKRUN = raw::IORING_SETUP_DEFER_TASKRUN;
        const NO_MMAP = raw::IORING_SETUP_NO_MMAP;
        const REGISTERED_FD_ONLY = raw::IORING_SETUP_REGISTERED_FD_ONLY;
        const NO_SQARRAY = raw::IORING_SETUP_NO_SQARRAY;
    }

    /// `IORING_FEAT_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u32 {
        const SINGLE_MMAP = raw::IORING_FEAT_SINGLE_MMAP;
        const NODROP = raw::IORING_FEAT_NODROP;
        const SUBMIT_STABLE = raw::IORING_FEAT_SUBMIT_STABLE;
        const RW_CUR_POS = raw::IORING_FEAT_RW_CUR_POS;
        const CUR_PERSONALITY = raw::IORING_FEAT_CUR_PERSONALITY;
        const FAST_POLL = raw::IORING_FEAT_FAST_POLL;
        const POLL_32BITS = raw::IORING_FEAT_POLL_32BITS;
        const SQPOLL_NONFIXED = raw::IORING_FEAT_SQPOLL_NONFIXED;
        const EXT_ARG = raw::IORING_FEAT_EXT_ARG;
        const NATIVE_WORKERS = raw::IORING_FEAT_NATIVE_WORKERS;
        const RSRC_TAGS = raw::IORING_FEAT_RSRC_TAGS;
        const CQE_SKIP = raw::IORING_FEAT_CQE_SKIP;
        const LINKED_FILE = raw::IORING_FEAT_LINKED_FILE;
        const REG_REG_RING = raw::IORING_FEAT_REG_REG_RING;
    }

    /// `IORING_ENTER_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EnterFlags: u32 {
        const GETEVENTS = raw::IORING_ENTER_GETEVENTS;
        const SQ_WAKEUP = raw::IORING_ENTER_SQ_WAKEUP;
        const SQ_WAIT = raw::IORING_ENTER_SQ_WAIT;
        const EXT_ARG = raw::IORING_ENTER_EXT_ARG;
        const REGISTERED_RING = raw::IORING_ENTER_REGISTERED_RING;
        const ABS_TIMER = raw::IORING_ENTER_ABS_TIMER;
    }

    /// `IOSQE_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SqeFlags: u8 {
        const FIXED_FILE = 1 << raw::io_uring_sqe_flags_bit::IOSQE_FIXED_FILE_BIT as u8;
        const IO_DRAIN = 1 << raw::io_uring_sqe_flags_bit::IOSQE_IO_DRAIN_BIT as u8;
        const IO_LINK = 1 << raw::io_uring_sqe_flags_bit::IOSQE_IO_LINK_BIT as u8;
        const IO_HARDLINK = 1 << raw::io_uring_sqe_flags_bit::IOSQE_IO_HARDLINK_BIT as u8;
        const ASYNC = 1 << raw::io_uring_sqe_flags_bit::IOSQE_ASYNC_BIT as u8;
        const BUFFER_SELECT = 1 << raw::io_uring_sqe_flags_bit::IOSQE_BUFFER_SELECT_BIT as u8;
        const CQE_SKIP_SUCCESS = 1 << raw::io_uring_sqe_flags_bit::IOSQE_CQE_SKIP_SUCCESS_BIT as u8;
    }

    /// `IORING_CQE_F_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct CqeFlags: u32 {
        /// The upper half is the id of the buffer that was used.
        const BUFFER = raw::IORING_CQE_F_BUFFER;
        /// The same request will tell more.
        const MORE = raw::IORING_CQE_F_MORE;
        /// The socket has more to read.
        const SOCK_NONEMPTY = raw::IORING_CQE_F_SOCK_NONEMPTY;
    }

    /// `IORING_SQ_*`: what the kernel tells in the submission ring's flags.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SqFlags: u32 {
        const NEED_WAKEUP = raw::IORING_SQ_NEED_WAKEUP;
        const CQ_OVERFLOW = raw::IORING_SQ_CQ_OVERFLOW;
        const TASKRUN = raw::IORING_SQ_TASKRUN;
    }

    /// `IORING_TIMEOUT_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TimeoutFlags: u32 {
        const ABS = raw::IORING_TIMEOUT_ABS;
        const UPDATE = raw::IORING_TIMEOUT_UPDATE;
        const BOOTTIME = raw::IORING_TIMEOUT_BOOTTIME;
        const REALTIME = raw::IORING_TIMEOUT_REALTIME;
        const LINK_UPDATE = raw::IORING_LINK_TIMEOUT_UPDATE;
        const ETIME_SUCCESS = raw::IORING_TIMEOUT_ETIME_SUCCESS;
        const MULTISHOT = raw::IORING_TIMEOUT_MULTISHOT;
    }

    /// `IORING_ASYNC_CANCEL_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CancelFlags: u32 {
        const ALL = raw::IORING_ASYNC_CANCEL_ALL;
        const FD = raw::IORING_ASYNC_CANCEL_FD;
        const ANY = raw::IORING_ASYNC_CANCEL_ANY;
        const FD_FIXED = raw::IORING_ASYNC_CANCEL_FD_FIXED;
        const USERDATA = raw::IORING_ASYNC_CANCEL_USERDATA;
        const OP = raw::IORING_ASYNC_CANCEL_OP;
    }

    /// `IORING_POLL_*`, in `len` of the poll requests.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PollFlags: u32 {
        const ADD_MULTI = raw::IORING_POLL_ADD_MULTI;
        const UPDATE_EVENTS = raw::IORING_POLL_UPDATE_EVENTS;
        const UPDATE_USER_DATA = raw::IORING_POLL_UPDATE_USER_DATA;
        const ADD_LEVEL = raw::IORING_POLL_ADD_LEVEL;
    }
}

/// `IORING_RECVSEND_POLL_FIRST`: waits before the first attempt.
pub const RECVSEND_POLL_FIRST: u16 = raw::IORING_RECVSEND_POLL_FIRST as u16;
/// `IORING_RECV_MULTISHOT`.
pub const RECV_MULTISHOT: u16 = raw::IORING_RECV_MULTISHOT as u16;
/// `IORING_ACCEPT_MULTISHOT`.
pub const ACCEPT_MULTISHOT: u16 = raw::IORING_ACCEPT_MULTISHOT as u16;
/// `IORING_FSYNC_DATASYNC`.
pub const FSYNC_DATASYNC: u32 = raw::IORING_FSYNC_DATASYNC;
/// `IORING_FILE_INDEX_ALLOC`: any free place of the table of fixed files.
pub const FILE_INDEX_ALLOC: u32 = raw::IORING_FILE_INDEX_ALLOC as u32;
/// `IORING_CQ_EVENTFD_DISABLED`, in the completion ring's flags, which user space writes.
pub const CQ_EVENTFD_DISABLED: u32 = raw::IORING_CQ_EVENTFD_DISABLED;
/// `IO_URING_OP_SUPPORTED`.
pub const OP_SUPPORTED: u16 = raw::IO_URING_OP_SUPPORTED as u16;
/// `SPLICE_F_FD_IN_FIXED`.
pub const SPLICE_FD_IN_FIXED: u32 = raw::SPLICE_F_FD_IN_FIXED;
/// `IORING_MSG_RING_CQE_SKIP` and `IORING_MSG_RING_FLAGS_PASS`.
pub const MSG_RING_FLAGS: u32 = raw::IORING_MSG_RING_CQE_SKIP | raw::IORING_MSG_RING_FLAGS_PASS;

/// `IORING_OP_*`.
#[expect(missing_docs, reason = "named as in io_uring_enter(2)")]
pub mod op {
    use linux_raw_sys::io_uring::io_uring_op as Op;

    pub const NOP: u8 = Op::IORING_OP_NOP as u8;
    pub const READV: u8 = Op::IORING_OP_READV as u8;
    pub const WRITEV: u8 = Op::IORING_OP_WRITEV as u8;
    pub const FSYNC: u8 = Op::IORING_OP_FSYNC as u8;
    pub const READ_FIXED: u8 = Op::IORING_OP_READ_FIXED as u8;
    pub const WRITE_FIXED: u8 = Op::IORING_OP_WRITE_FIXED as u8;
    pub const POLL_ADD: u8 = Op::IORING_OP_POLL_ADD as u8;
    pub const POLL_REMOVE: u8 = Op::IORING_OP_POLL_REMOVE as u8;
    pub const SYNC_FILE_RANGE: u8 = Op::IORING_OP_SYNC_FILE_RANGE as u8;
    pub const SENDMSG: u8 = Op::IORING_OP_SENDMSG as u8;
    pub const RECVMSG: u8 = Op::IORING_OP_RECVMSG as u8;
    pub const TIMEOUT: u8 = Op::IORING_OP_TIMEOUT as u8;
    pub const TIMEOUT_REMOVE: u8 = Op::IORING_OP_TIMEOUT_REMOVE as u8;
    pub const ACCEPT: u8 = Op::IORING_OP_ACCEPT as u8;
    pub const ASYNC_CANCEL: u8 = Op::IORING_OP_ASYNC_CANCEL as u8;
    pub const LINK_TIMEOUT: u8 = Op::IORING_OP_LINK_TIMEOUT as u8;
    pub const CONNECT: u8 = Op::IORING_OP_CONNECT as u8;
    pub const FALLOCATE: u8 = Op::IORING_OP_FALLOCATE as u8;
    pub const OPENAT: u8 = Op::IORING_OP_OPENAT as u8;
    pub const CLOSE: u8 = Op::IORING_OP_CLOSE as u8;
    pub const FILES_UPDATE: u8 = Op::IORING_OP_FILES_UPDATE as u8;
    pub const STATX: u8 = Op::IORING_OP_STATX as u8;
    pub const READ: u8 = Op::IORING_OP_READ as u8;
    pub const WRITE: u8 = Op::IORING_OP_WRITE as u8;
    pub const FADVISE: u8 = Op::IORING_OP_FADVISE as u8;
    pub const MADVISE: u8 = Op::IORING_OP_MADVISE as u8;
    pub const SEND: u8 = Op::IORING_OP_SEND as u8;
    pub const RECV: u8 = Op::IORING_OP_RECV as u8;
    pub const OPENAT2: u8 = Op::IORING_OP_OPENAT2 as u8;
    pub const EPOLL_CTL: u8 = Op::IORING_OP_EPOLL_CTL as u8;
    pub const SPLICE: u8 = Op::IORING_OP_SPLICE as u8;
    pub const PROVIDE_BUFFERS: u8 = Op::IORING_OP_PROVIDE_BUFFERS as u8;
    pub const REMOVE_BUFFERS: u8 = Op::IORING_OP_REMOVE_BUFFERS as u8;
    pub const TEE: u8 = Op::IORING_OP_TEE as u8;
    pub const SHUTDOWN: u8 = Op::IORING_OP_SHUTDOWN as u8;
    pub const RENAMEAT: u8 = Op::IORING_OP_RENAMEAT as u8;
    pub const UNLINKAT: u8 = Op::IORING_OP_UNLINKAT as u8;
    pub const MKDIRAT: u8 = Op::IORING_OP_MKDIRAT as u8;
    pub const SYMLINKAT: u8 = Op::IORING_OP_SYMLINKAT as u8;
    pub const LINKAT: u8 = Op::IORING_OP_LINKAT as u8;
    pub const MSG_RING: u8 = Op::IORING_OP_MSG_RING as u8;
    pub const FSETXATTR: u8 = Op::IORING_OP_FSETXATTR as u8;
    pub const SETXATTR: u8 = Op::IORING_OP_SETXATTR as u8;
    pub const FGETXATTR: u8 = Op::IORING_OP_FGETXATTR as u8;
    pub const GETXATTR: u8 = Op::IORING_OP_GETXATTR as u8;
    pub const SOCKET: u8 = Op::IORING_OP_SOCKET as u8;
    pub const FTRUNCATE: u8 = Op::IORING_OP_FTRUNCATE as u8;
    pub const BIND: u8 = Op::IORING_OP_BIND as u8;
    pub const LISTEN: u8 = Op::IORING_OP_LISTEN as u8;
    pub const PIPE: u8 = Op::IORING_OP_PIPE as u8;
    /// One past the last one that a probe tells about.
    pub const LAST: u8 = Op::IORING_OP_LAST as u8;
}

/// `IORING_REGISTER_*` and `IORING_UNREGISTER_*`.
#[expect(missing_docs, reason = "named as in io_uring_register(2)")]
pub mod register {
    use linux_raw_sys::io_uring::io_uring_register_op as Op;

    pub const BUFFERS: u32 = Op::IORING_REGISTER_BUFFERS as u32;
    pub const UNREGISTER_BUFFERS: u32 = Op::IORING_UNREGISTER_BUFFERS as u32;
    pub const FILES: u32 = Op::IORING_REGISTER_FILES as u32;
    pub const UNREGISTER_FILES: u32 = Op::IORING_UNREGISTER_FILES as u32;
    pub const EVENTFD: u32 = Op::IORING_REGISTER_EVENTFD as u32;
    pub const UNREGISTER_EVENTFD: u32 = Op::IORING_UNREGISTER_EVENTFD as u32;
    pub const FILES_UPDATE: u32 = Op::IORING_REGISTER_FILES_UPDATE as u32;
    pub const EVENTFD_ASYNC: u32 = Op::IORING_REGISTER_EVENTFD_ASYNC as u32;
    pub const PROBE: u32 = Op::IORING_REGISTER_PROBE as u32;
    pub const PERSONALITY: u32 = Op::IORING_REGISTER_PERSONALITY as u32;
    pub const UNREGISTER_PERSONALITY: u32 = Op::IORING_UNREGISTER_PERSONALITY as u32;
    pub const RESTRICTIONS: u32 = Op::IORING_REGISTER_RESTRICTIONS as u32;
    pub const ENABLE_RINGS: u32 = Op::IORING_REGISTER_ENABLE_RINGS as u32;
    pub const FILES2: u32 = Op::IORING_REGISTER_FILES2 as u32;
    pub const FILES_UPDATE2: u32 = Op::IORING_REGISTER_FILES_UPDATE2 as u32;
    pub const BUFFERS2: u32 = Op::IORING_REGISTER_BUFFERS2 as u32;
    pub const BUFFERS_UPDATE: u32 = Op::IORING_REGISTER_BUFFERS_UPDATE as u32;
    pub const RING_FDS: u32 = Op::IORING_REGISTER_RING_FDS as u32;
    pub const UNREGISTER_RING_FDS: u32 = Op::IORING_UNREGISTER_RING_FDS as u32;
    pub const PBUF_RING: u32 = Op::IORING_REGISTER_PBUF_RING as u32;
    pub const UNREGISTER_PBUF_RING: u32 = Op::IORING_UNREGISTER_PBUF_RING as u32;
    pub const SYNC_CANCEL: u32 = Op::IORING_REGISTER_SYNC_CANCEL as u32;
    pub const FILE_ALLOC_RANGE: u32 = Op::IORING_REGISTER_FILE_ALLOC_RANGE as u32;
    /// In the opcode: the descriptor is the index of a registered ring.
    pub const USE_REGISTERED_RING: u32 = Op::IORING_REGISTER_USE_REGISTERED_RING as u32;
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
