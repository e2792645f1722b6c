//! Sockets: message headers and address families (socket(2), sendmsg(2), unix(7)).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct iovec` (iovec(3type)).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Iovec {
    /// Start address, as user space alleges it.
    pub iov_base: u64,
    /// Length in bytes.
    pub iov_len: u64,
}

/// Most elements in one vector (limits.h `IOV_MAX`).
pub const IOV_MAX: usize = 1024;

/// `struct msghdr` (sendmsg(2)).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Msghdr {
    pub msg_name: u64,
    pub msg_namelen: u32,
    pub pad0: u32,
    pub msg_iov: u64,
    pub msg_iovlen: u64,
    pub msg_control: u64,
    pub msg_controllen: u64,
    pub msg_flags: u32,
    pub pad1: u32,
}

/// `struct mmsghdr` (sendmmsg(2)).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Mmsghdr {
    pub msg_hdr: Msghdr,
    pub msg_len: u32,
    pub pad0: u32,
}

/// `struct cmsghdr` (cmsg(3)); the data follows, each message padded to 8 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Cmsghdr {
    pub cmsg_len: u64,
    pub cmsg_level: i32,
    pub cmsg_type: i32,
}

/// `struct ucred` (unix(7), `SCM_CREDENTIALS` and `SO_PEERCRED`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ucred {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

/// Unix-domain sockets (unix(7)).
pub const AF_UNIX: u16 = 1;
/// Internet sockets (ip(7)).
pub const AF_INET: u16 = 2;
/// Sockets of IP version 6 (ipv6(7)).
pub const AF_INET6: u16 = 10;
/// Sockets of the kernel's services and of user space among itself (netlink(7)).
pub const AF_NETLINK: u16 = 16;
/// Packets of interfaces as they are (packet(7)).
pub const AF_PACKET: u16 = 17;
/// Length of `sun_path` (unix(7)).
pub const UNIX_PATH_MAX: usize = 108;
