//! Asynchronous I/O: io_submit(2), io_getevents(2) and the ring that user space may read itself.
//!
//! Source: io_submit(2), linux/aio_abi.h as far as `linux-raw-sys` has it.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct iocb` of io_submit(2): a request.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "named as in io_submit(2)")]
pub struct Iocb {
    pub aio_data: u64,
    pub aio_key: u32,
    pub aio_rw_flags: u32,
    pub aio_lio_opcode: u16,
    pub aio_reqprio: u16,
    pub aio_fildes: u32,
    pub aio_buf: u64,
    pub aio_nbytes: u64,
    pub aio_offset: i64,
    pub aio_reserved2: u64,
    pub aio_flags: u32,
    pub aio_resfd: u32,
}

const _: () = assert!(size_of::<Iocb>() == 64);

/// `struct io_event` of io_getevents(2): what became of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoEvent {
    /// `aio_data` of the request.
    pub data: u64,
    /// The address of its `iocb`.
    pub obj: u64,
    /// What the call would have returned.
    pub res: i64,
    /// Always 0.
    pub res2: i64,
}

/// `struct aio_ring`: what lies at the address that io_setup(2) gives, with the events behind it.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RingHeader {
    /// Number of the context in its process.
    pub id: u32,
    /// Places for events.
    pub nr: u32,
    /// The next event to take; whoever takes it moves this.
    pub head: u32,
    /// The place of the next event; the kernel moves this.
    pub tail: u32,
    /// [`RING_MAGIC`].
    pub magic: u32,
    /// 1: nothing that an older reader has to know.
    pub compat_features: u32,
    /// 0: nothing that a reader must know.
    pub incompat_features: u32,
    /// Bytes of this header.
    pub header_length: u32,
}

/// How user space recognises the ring.
pub const RING_MAGIC: u32 = 0xa10a_10a1;

/// What the kernel writes to `aio_key`, and wants to find there when a request is cancelled.
pub const KIOCB_KEY: u32 = 0;

/// Values of `aio_lio_opcode`.
#[expect(missing_docs, reason = "named as in io_submit(2)")]
pub mod opcode {
    pub const PREAD: u16 = 0;
    pub const PWRITE: u16 = 1;
    pub const FSYNC: u16 = 2;
    pub const FDSYNC: u16 = 3;
    pub const POLL: u16 = 5;
    pub const PREADV: u16 = 7;
    pub const PWRITEV: u16 = 8;
}

bitflags! {
    /// Bits of `aio_flags`; others are ignored.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct IocbFlags: u32 {
        /// `aio_resfd` is an eventfd to signal.
        const RESFD = 1;
        /// `aio_reqprio` is an I/O priority.
        const IOPRIO = 2;
    }
}

/// `struct __aio_sigset`, the last argument of io_pgetevents(2).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AioSigset {
    /// Address of the mask, or null.
    pub sigmask: u64,
    /// Bytes of it.
    pub sigsetsize: u64,
}
