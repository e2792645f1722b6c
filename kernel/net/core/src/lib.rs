//! What all sockets share: the trait that families implement, the open file in front of a socket, and the options
//! of level `SOL_SOCKET`.
//!
//! A family makes an `Arc<dyn Socket>`; [`open`] puts an open file description in front of it. read(2), write(2),
//! poll(2) and ioctl(2) reach the socket through [`SocketFile`], the socket calls through [`socket_of`].
//!
//! Locks: none but small ones around options. Sources: socket(7), socket(2), recv(2), send(2).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod file;
pub mod filter;
pub mod options;
mod patience;
mod xattr;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use abi::poll::PollEvents;
use abi::socket::Ucred;
use abi::{Errno, Result};
use bitflags::bitflags;
use hal::UserAddr;
use hal::sync::Once;
use hal::uio::{Dest, Src};
use mm::Backing;
use sched::PollTable;
use security::Cred;
use vfs::{File, WalkContext};

pub use file::{SocketFile, open, socket_of};
pub use options::Options;
pub use patience::Patience;

bitflags! {
    /// `MSG_*` flags (send(2), recv(2)).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MsgFlags: u32 {
        /// Out-of-band data.
        const OOB = 0x1;
        /// Leave the data in the queue.
        const PEEK = 0x2;
        /// There was no room for all control data.
        const CTRUNC = 0x8;
        /// Give the real length; or: the rest was cut off.
        const TRUNC = 0x20;
        /// Do not wait.
        const DONTWAIT = 0x40;
        /// End of a record.
        const EOR = 0x80;
        /// Wait for all that was asked for.
        const WAITALL = 0x100;
        /// Take errors instead of data.
        const ERRQUEUE = 0x2000;
        /// No `SIGPIPE`.
        const NOSIGNAL = 0x4000;
        /// More data follows.
        const MORE = 0x8000;
        /// recvmmsg(2): wait for the first message only.
        const WAITFORONE = 0x1_0000;
        /// Received descriptors are close-on-exec.
        const CMSG_CLOEXEC = 0x4000_0000;
    }
}

/// `SOCK_*` types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SockType {
    /// A byte stream.
    Stream = 1,
    /// Messages without connection.
    Datagram = 2,
    /// Packets of a protocol, with what is before them.
    Raw = 3,
    /// Messages on a connection.
    SeqPacket = 5,
}

/// Which halves shutdown(2) closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halves {
    /// No more receiving.
    pub receive: bool,
    /// No more sending.
    pub send: bool,
}

impl Halves {
    /// None of them.
    pub const NONE: Self = Self { receive: false, send: false };
    /// Both.
    pub const BOTH: Self = Self { receive: true, send: true };

    /// The `how` of shutdown(2). `EINVAL`.
    #[inline]
    pub fn from_raw(how: i32) -> Result<Self> {
        match how {
            0 => Ok(Self { receive: true, send: false }),
            1 => Ok(Self { receive: false, send: true }),
            2 => Ok(Self::BOTH),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Closes those of `other` too.
    #[inline]
    pub fn close(&mut self, other: Self) {
        self.receive |= other.receive;
        self.send |= other.send;
    }
}

/// Which address of a socket is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its own.
    Local,
    /// The other side's.
    Peer,
}

/// Control data of a level that the family knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Protocol level.
    pub level: i32,
    /// Type in that level.
    pub kind: i32,
    /// The data.
    pub data: Vec<u8>,
}

/// A message to send.
pub struct Outgoing<'a, 'd> {
    /// The data.
    pub data: &'a mut Src<'d>,
    /// The socket address of the receiver, if given.
    pub name: Option<&'a [u8]>,
    /// Open files to pass.
    pub rights: Vec<Arc<File>>,
    /// The credentials to show, checked; `None`: the sender's.
    pub creds: Option<Ucred>,
    /// Control data of other levels than `SOL_SOCKET`.
    pub control: Vec<Control>,
    /// Flags of send(2); `DONTWAIT` also stands for a non-blocking file.
    pub flags: MsgFlags,
}

/// What came with received data.
#[derive(Default)]
pub struct Received {
    /// Bytes copied, or with `MSG_TRUNC` the length of the message.
    pub len: usize,
    /// `TRUNC` and the like.
    pub flags: MsgFlags,
    /// The sender's address; empty for one without a name.
    pub name: Vec<u8>,
    /// Open files passed.
    pub rights: Vec<Arc<File>>,
    /// The sender's credentials, if the socket asked for them.
    pub creds: Option<Ucred>,
    /// The sender, if the socket asked for it and it is known.
    pub process: Option<Process>,
    /// Other control data.
    pub control: Vec<Control>,
}

/// Where the value of an option goes.
pub struct Place<'a> {
    /// Bytes that there is room for.
    pub room: usize,
    /// Reads the `int` that the caller has put there, for options whose value depends on it. `EINVAL`: less room. `EFAULT`.
    pub asked: &'a dyn Fn() -> Result<i32>,
}

/// A socket of some family. Unless said otherwise, operations may sleep.
pub trait Socket: Any + Send + Sync {
    /// Address family.
    fn family(&self) -> u16;

    /// Type.
    fn kind(&self) -> SockType;

    /// The name of its protocol, as the attribute `system.sockprotoname` and /proc/net/protocols tell it.
    fn protocol_name(&self) -> &'static str;

    /// The options of level `SOL_SOCKET`.
    fn options(&self) -> &Options;

    /// bind(2).
    fn bind(&self, walk: &WalkContext<'_>, address: &[u8]) -> Result<()>;

    /// connect(2).
    fn connect(&self, walk: &WalkContext<'_>, address: &[u8], flags: MsgFlags) -> Result<()>;

    /// listen(2). `EOPNOTSUPP`: not this kind.
    fn listen(&self, backlog: i32) -> Result<()> {
        let _ = backlog;
        Err(Errno::EOPNOTSUPP)
    }

    /// accept(2). `EOPNOTSUPP`: not this kind.
    fn accept(&self, flags: MsgFlags) -> Result<Arc<dyn Socket>> {
        let _ = flags;
        Err(Errno::EOPNOTSUPP)
    }

    /// send(2) and its siblings. `walk` interprets a receiver's name.
    fn send(&self, walk: Option<&WalkContext<'_>>, message: Outgoing<'_, '_>) -> Result<usize>;

    /// recv(2) and its siblings.
    fn receive(&self, dst: &mut Dest<'_>, flags: MsgFlags) -> Result<Received>;

    /// shutdown(2). `EOPNOTSUPP`: not this kind.
    fn shutdown(&self, halves: Halves) -> Result<()> {
        let _ = halves;
        Err(Errno::EOPNOTSUPP)
    }

    /// getsockname(2), getpeername(2): a socket address.
    fn address(&self, end: End) -> Result<Vec<u8>>;

    /// What is ready.
    fn poll(&self, table: &mut PollTable) -> PollEvents;

    /// Bytes that can be received (`FIONREAD`).
    fn readable_bytes(&self) -> Result<usize>;

    /// Bytes sent and not yet received (`SIOCOUTQ`).
    fn unsent_bytes(&self) -> Result<usize>;

    /// Takes the pending error (`SO_ERROR`).
    fn take_error(&self) -> Option<Errno>;

    /// Whether it listens (`SO_ACCEPTCONN`).
    fn is_listening(&self) -> bool;

    /// The other side's credentials (`SO_PEERCRED`).
    fn peer_cred(&self) -> Ucred;

    /// The other side's process, as [`process`] told it (`SO_PEERPIDFD`); `None`: there is none, or nobody knows.
    fn peer_process(&self) -> Option<Process> {
        None
    }

    /// The number of its network namespace (`SO_NETNS_COOKIE`).
    fn net_cookie(&self) -> u64;

    /// Its protocol (`SO_PROTOCOL`).
    fn protocol(&self) -> i32 {
        0
    }

    /// setsockopt(2) of another level than `SOL_SOCKET`. `EOPNOTSUPP`: the family knows no others.
    fn set_option(&self, level: i32, name: i32, value: &[u8], cred: &Cred) -> Result<()> {
        let _ = (level, name, value, cred);
        Err(Errno::EOPNOTSUPP)
    }

    /// getsockopt(2) of another level than `SOL_SOCKET`, into the caller's `place`. `EOPNOTSUPP`.
    fn get_option(&self, level: i32, name: i32, place: &Place<'_>) -> Result<Vec<u8>> {
        let _ = (level, name, place);
        Err(Errno::EOPNOTSUPP)
    }

    /// Where its filter is (`SO_ATTACH_FILTER`); `None`: it takes none.
    fn filter(&self) -> Option<&filter::Slot> {
        None
    }

    /// What mmap(2) of `len` bytes from `offset` on shows. `ENODEV`: there is nothing.
    fn mmap(&self, offset: u64, len: u64) -> Result<Backing> {
        let _ = (offset, len);
        Err(Errno::ENODEV)
    }

    /// setsockopt(2) of level `SOL_SOCKET`, for what only some families have. `ENOPROTOOPT`, `EOPNOTSUPP`: this one has not.
    fn set_own_option(&self, name: i32, value: i32) -> Result<()> {
        let _ = value;
        self.own_option(name).map(drop)
    }

    /// getsockopt(2) of the same.
    fn own_option(&self, name: i32) -> Result<i32> {
        Err(if name == options::SO_PASSPIDFD { Errno::EOPNOTSUPP } else { Errno::ENOPROTOOPT })
    }

    /// Its network namespace, an `ns::NetNs` (`SIOCGSKNS`, requests about interfaces); `None`: it does not tell.
    fn net(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }

    /// Whether getsockopt(2) tells the length of all of this option's value, also when there was room for less.
    fn tells_whole_length(&self, level: i32, name: i32) -> bool {
        let _ = (level, name);
        false
    }

    /// Option `name` of level `SOL_SOCKET` was set.
    fn option_changed(&self, name: i32) {
        let _ = name;
    }

    /// ioctl(2) of this socket alone. `ENOTTY`: it has no such request; then those about interfaces are looked through.
    fn ioctl(&self, cmd: u32, arg: UserAddr) -> Result<usize> {
        let _ = (cmd, arg);
        Err(Errno::ENOTTY)
    }

    /// An open file is in front of it now, with inode number `ino`.
    fn opened(&self, ino: u64) {
        let _ = ino;
    }

    /// The last open file is gone.
    fn release(&self);
}

/// Who sends: process id, effective user and group.
pub type Identify = fn() -> Ucred;

static IDENTIFY: Once<Identify> = Once::new();

/// Registers who knows the current process. Later calls have no effect.
pub fn register_identity(identify: Identify) {
    IDENTIFY.call_once(|| identify);
}

/// Who answers ioctl(2) about interfaces: of which network and family, what, with which argument, for whom.
///
/// `ENOTTY`: there is no such request.
pub type Interfaces = fn(Arc<dyn Any + Send + Sync>, u16, u32, UserAddr, &Cred) -> Result<usize>;

static INTERFACES: Once<Interfaces> = Once::new();

/// Registers who does. Later calls have no effect.
pub fn register_interfaces(interfaces: Interfaces) {
    INTERFACES.call_once(|| interfaces);
}

/// ioctl(2) about interfaces, which sockets of all families take. `ENOTTY`: no such request, or a socket without a network.
fn interface_request(socket: &dyn Socket, cmd: u32, arg: UserAddr, cred: &Cred) -> Result<usize> {
    let net = socket.net().ok_or(Errno::ENOTTY)?;
    INTERFACES.get().ok_or(Errno::ENOTTY)?(net, socket.family(), cmd, arg, cred)
}

/// A process, alive or not: what the one who registered takes it for.
pub type Process = Arc<dyn Any + Send + Sync>;

/// Who knows the current process; `None` in a kernel thread.
pub type IdentifyProcess = fn() -> Option<Process>;

static IDENTIFY_PROCESS: Once<IdentifyProcess> = Once::new();

/// Registers who knows it. Later calls have no effect.
pub fn register_process(identify: IdentifyProcess) {
    IDENTIFY_PROCESS.call_once(|| identify);
}

/// The current process.
pub fn process() -> Option<Process> {
    IDENTIFY_PROCESS.get().and_then(|identify| identify())
}

/// Who knows the credentials of the running task.
pub type CurrentCred = fn() -> Option<Arc<Cred>>;

static CURRENT_CRED: Once<CurrentCred> = Once::new();

/// Registers who knows them. Later calls have no effect.
pub fn register_cred(current: CurrentCred) {
    CURRENT_CRED.call_once(|| current);
}

/// The credentials of the running task; `None` in a kernel thread.
pub fn current_cred() -> Option<Arc<Cred>> {
    CURRENT_CRED.get().and_then(|current| current())
}

/// Translates credentials to what the current process sees of them.
pub type Show = fn(Ucred) -> Ucred;

static SHOW: Once<Show> = Once::new();

/// Registers who translates. Later calls have no effect.
pub fn register_show(show: Show) {
    SHOW.call_once(|| show);
}

/// `cred` as the current process sees it.
pub fn shown(cred: Ucred) -> Ucred {
    SHOW.get().map_or(cred, |show| show(cred))
}

/// The credentials of the current process, in numbers of the first namespaces.
pub fn identity() -> Ucred {
    IDENTIFY.get().map_or_else(Ucred::default, |identify| identify())
}
