//! The kernel's end of a protocol: requests that come in, what is answered, what is announced.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::socket::Ucred;
use abi::{Errno, Result};
use hal::sync::Once;
use netlink_message::{self as message, Builder, Header, Message};
use ns::NetNs;
use sched::Interruptible;
use security::{Cap, Cred, UserNs};

use crate::NR_PROTOCOLS;
use crate::queue::Packet;
use crate::socket::NetlinkSocket;
use crate::table;

/// A service of the kernel.
pub trait Protocol: Send + Sync {
    /// How many groups there are to listen to.
    fn groups(&self) -> u32;

    /// Whether one needs no `CAP_NET_ADMIN` to listen to a group.
    fn anyone_listens(&self) -> bool;

    /// Handles one message of a datagram; may sleep.
    ///
    /// The error goes back to the sender in a message of its own, and does not fail the call.
    fn request(&self, request: &Request<'_>) -> Result<Answer>;
}

/// What becomes of a request that was not refused.
pub enum Answer {
    /// It is done; what there is to reply was replied.
    Done,
    /// These messages follow, one after the other, and then the end of the sequence.
    Dump(Box<dyn Iterator<Item = Vec<u8>> + Send>),
    /// Nothing follows: the end of the sequence tells why.
    NoDump(Errno),
}

/// A message to the kernel.
pub struct Request<'a> {
    /// It.
    pub message: Message<'a>,
    pub(crate) socket: &'a NetlinkSocket,
    /// Credentials of the sender.
    pub(crate) cred: &'a Cred,
    /// The sender said that it is for the kernel, and did not only write to its socket.
    pub(crate) has_destination: bool,
}

static PROTOCOLS: [Once<&'static dyn Protocol>; NR_PROTOCOLS] = [const { Once::new() }; NR_PROTOCOLS];

/// Makes `protocol` known under its number. Once for each.
pub fn register(number: u8, protocol: &'static dyn Protocol) {
    if let Some(place) = PROTOCOLS.get(usize::from(number)) {
        place.call_once(|| protocol);
    }
}

/// The kernel's end of protocol `number`.
pub(crate) fn protocol(number: u8) -> Option<&'static dyn Protocol> {
    PROTOCOLS.get(usize::from(number))?.get().copied()
}

/// The numbers of protocols with an end in the kernel.
pub(crate) fn numbers() -> impl Iterator<Item = u8> {
    (0..NR_PROTOCOLS as u8).filter(|&number| protocol(number).is_some())
}

impl Request<'_> {
    /// The network namespace that it is about: its socket's.
    pub fn net(&self) -> &Arc<NetNs> {
        self.socket.net()
    }

    /// The sender's port.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Whether it asks for all there is: one of the two flags that [`message::DUMP`] has is enough.
    pub fn is_dump(&self) -> bool {
        self.message.header.flags & message::DUMP != 0
    }

    /// To be asked before the answer to such a request is made. `EBUSY`: another such answer is not over.
    pub fn check_dump(&self) -> Result<()> {
        if self.socket.is_dumping() { Err(Errno::EBUSY) } else { Ok(()) }
    }

    /// The sender, for what it sends on to others.
    pub fn sender(&self) -> Ucred {
        net_core::identity()
    }

    /// Whose view of users the answers have: that of the socket's opener.
    pub fn viewer(&self) -> &UserNs {
        &self.socket.opener().user_ns
    }

    /// Whether the socket wants wrong requests to be refused and filters to count (`NETLINK_GET_STRICT_CHK`).
    pub fn is_strict(&self) -> bool {
        self.socket.is_strict()
    }

    /// Whether the sender may do what `cap` in `owner` allows.
    ///
    /// Also who has opened the socket must have been allowed to, so that a program that writes somebody else's bytes to
    /// its socket is no help; unless it said that they are for the kernel.
    pub fn capable(&self, owner: &UserNs, cap: Cap) -> bool {
        let by_opener = self.has_destination || self.socket.opener().ns_capable(owner, cap);
        by_opener && self.cred.ns_capable(owner, cap)
    }

    /// Header of a reply.
    pub fn header(&self, kind: u16, flags: u16) -> Header {
        Header { len: 0, kind, flags, seq: self.message.header.seq, port: self.port() }
    }

    /// A reply, to be filled.
    pub fn builder(&self, kind: u16, flags: u16) -> Builder {
        Builder::new(self.header(kind, flags))
    }

    /// Sends a reply. A sender that has no room for it is told so by its next receive (`ENOBUFS`).
    pub fn reply(&self, bytes: Vec<u8>) {
        self.socket.put_of_kernel(&Packet::of_kernel(bytes, 0));
    }
}

/// Handles the messages of a datagram that `socket` has sent to the kernel.
///
/// `ECONNREFUSED`: the kernel has no end of this protocol.
pub(crate) fn handle(socket: &NetlinkSocket, datagram: &[u8], has_destination: bool) -> Result<()> {
    let protocol = protocol(socket.protocol()).ok_or(Errno::ECONNREFUSED)?;
    let cred = net_core::current_cred().unwrap_or_else(|| socket.opener().clone());
    for message in message::messages(datagram) {
        // There may be thousands, and nobody waits for the answers any more.
        if sched::current().is_interrupted(Interruptible::Killable) {
            break;
        }
        let header = message.header;
        let is_request = header.flags & message::REQUEST != 0 && header.kind >= message::FIRST_TYPE;
        let answer = if is_request {
            protocol.request(&Request { message, socket, cred: &cred, has_destination })
        } else {
            Ok(Answer::Done)
        };
        let error = match answer {
            Ok(Answer::Done) => None,
            Ok(answer) => match start_dump(socket, header.seq, answer) {
                // Its end is acknowledgement enough.
                Ok(()) => continue,
                Err(errno) => Some(errno),
            },
            Err(errno) => Some(errno),
        };
        if error.is_some() || header.flags & message::ACK != 0 {
            acknowledge(socket, &message, error);
        }
    }
    Ok(())
}

/// Begins the sequence of messages that is the answer. `EBUSY`: another such answer is not over.
fn start_dump(socket: &NetlinkSocket, seq: u32, answer: Answer) -> Result<()> {
    match answer {
        Answer::Done => Ok(()),
        Answer::Dump(messages) => socket.start_dump(seq, messages, None),
        Answer::NoDump(errno) => socket.start_dump(seq, Box::new(core::iter::empty()), Some(errno)),
    }
}

/// Tells the sender what became of `request` (`struct nlmsgerr`): with an error, its body comes back too.
fn acknowledge(socket: &NetlinkSocket, request: &Message<'_>, error: Option<Errno>) {
    let is_whole = error.is_some() && !socket.caps_acknowledgements();
    let flags = if is_whole { 0 } else { message::CAPPED };
    let header = Header { len: 0, kind: message::ERROR, flags, seq: request.header.seq, port: socket.port() };
    let code = error.map_or(0, |errno| errno.to_return() as i32);
    let mut reply = Builder::new(header);
    reply.put(&code.to_ne_bytes()).put(&request.header.to_bytes());
    if is_whole {
        if !reply.try_reserve(request.body.len()) {
            socket.fail(Errno::ENOBUFS);
            return;
        }
        reply.put(request.body);
    }
    socket.put_of_kernel(&Packet::of_kernel(reply.finish(), 0));
}

/// Sends `data` to those who have a port and listen to `group`, in the network namespaces that `wanted` takes.
///
/// `cred` is its sender; the default stands for the kernel.
pub fn announce(protocol: u8, group: u32, data: Vec<u8>, cred: Ucred, wanted: impl Fn(&NetNs) -> bool) {
    let packet = Packet { cred, ..Packet::of_kernel(data, group) };
    for socket in table::listeners(protocol, group) {
        if socket.port() != 0 && wanted(socket.net()) {
            socket.put_of_kernel(&packet);
        }
    }
}

/// Whether anybody listens to `group`.
pub fn has_listeners(protocol: u8, group: u32) -> bool {
    !table::listeners(protocol, group).is_empty()
}
