//! Messages of netlink(7): headers, bodies and attributes, read from untrusted bytes and written.
//!
//! ```text
//!   ┌ header, 16 ┬ body: a fixed structure, then attributes ┐ padding ┌ header ...
//!   length ──────────────────────────────────────────────────▲
//!                 ┌ length, type ┬ data ┐ padding to 4 ┌ length, type ┬ nested attributes ...
//! ```
//!
//! Numbers are in the machine's byte order. A reader never looks beyond what it was given, and stops at the first thing
//! that does not fit into what surrounds it. Nothing here knows sockets or the kernel.
//!
//! Sources: netlink(7), rtnetlink(7), linux/netlink.h.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod read;
mod write;

pub use read::{Attribute, Attributes, Message, Messages, attributes, messages};
pub use write::{Builder, MAX_ATTRIBUTE};

/// Bytes of a message's header.
pub const HEADER_LEN: usize = 16;
/// Bytes of an attribute's header.
pub const ATTRIBUTE_LEN: usize = 4;
/// What messages and attributes are padded to.
pub const ALIGN: usize = 4;

/// A mark in an attribute's type: there are attributes inside (`NLA_F_NESTED`).
pub const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that are its number (`NLA_TYPE_MASK`).
pub const TYPE_MASK: u16 = 0x3fff;

/// Nothing to do (`NLMSG_NOOP`).
pub const NOOP: u16 = 1;
/// An error, or with error 0 an acknowledgement (`NLMSG_ERROR`).
pub const ERROR: u16 = 2;
/// The end of a sequence of messages (`NLMSG_DONE`).
pub const DONE: u16 = 3;
/// The first type that belongs to a protocol (`NLMSG_MIN_TYPE`).
pub const FIRST_TYPE: u16 = 0x10;

/// It asks for something (`NLM_F_REQUEST`).
pub const REQUEST: u16 = 0x1;
/// One of several (`NLM_F_MULTI`).
pub const MULTI: u16 = 0x2;
/// It wants to be acknowledged (`NLM_F_ACK`).
pub const ACK: u16 = 0x4;
/// In requests to get: all of them (`NLM_F_ROOT | NLM_F_MATCH`).
pub const DUMP: u16 = 0x300;
/// In requests to make: not if it is there (`NLM_F_EXCL`).
pub const EXCL: u16 = 0x200;
/// In requests to make: take the place of what is there (`NLM_F_REPLACE`).
pub const REPLACE: u16 = 0x100;
/// In requests to make: if it is not there (`NLM_F_CREATE`).
pub const CREATE: u16 = 0x400;
/// In acknowledgements: the request's body is left out (`NLM_F_CAPPED`).
pub const CAPPED: u16 = 0x100;

/// The header of a message (`struct nlmsghdr`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Bytes, with this header and without padding.
    pub len: u32,
    /// Type.
    pub kind: u16,
    /// Flags.
    pub flags: u16,
    /// What the sender numbers it with.
    pub seq: u32,
    /// Port of the sender, as it says.
    pub port: u32,
}

impl Header {
    /// As user space has it.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&self.len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.seq.to_ne_bytes());
        bytes[12..].copy_from_slice(&self.port.to_ne_bytes());
        bytes
    }

    /// The header at the start of `bytes`; `None`: too few.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk()?;
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Some(Self { len: word(0), kind: half(4), flags: half(6), seq: word(8), port: word(12) })
    }
}

#[cfg(test)]
mod tests;
