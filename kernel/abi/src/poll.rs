//! Readiness: poll(2) events and structures, epoll(7), select(2) sets.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags! {
    /// `POLL*` and `EPOLL*` event bits: the same numbers serve both calls.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct PollEvents: u32 {
        const IN = 0x001;
        const PRI = 0x002;
        const OUT = 0x004;
        const ERR = 0x008;
        const HUP = 0x010;
        const NVAL = 0x020;
        const RDNORM = 0x040;
        const RDBAND = 0x080;
        const WRNORM = 0x100;
        const WRBAND = 0x200;
        const MSG = 0x400;
        const RDHUP = 0x2000;
        const EXCLUSIVE = 1 << 28;
        const WAKEUP = 1 << 29;
        const ONESHOT = 1 << 30;
        const ET = 1 << 31;
    }
}

/// `struct pollfd` of poll(2).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PollFd {
    /// The file descriptor; a negative one is skipped.
    pub fd: i32,
    /// Events asked for.
    pub events: u16,
    /// Events seen.
    pub revents: u16,
}

/// `struct epoll_event` of epoll_wait(2): packed on x86-64, 12 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct EpollEvent {
    /// Event bits, [`PollEvents`].
    pub events: u32,
    /// The user's value.
    pub data: u64,
}

const _: () = assert!(size_of::<EpollEvent>() == 12);
